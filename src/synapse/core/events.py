"""What happened: the events of the journal, their names, versions and index keys.

Events are storage, not the wire: they tolerate unknown fields, carry a version and are upcast when an older one is
read. An aggregate's id is the seq of the event that created it, so an id is never reused, not even after a delete.

Index keys: `hub`, `ag/ID` (agent), `in/ID` (arrivals in an agent's inbox), `re/ID` (receipts due to an agent),
`ro/ID` (room), `ch/ID` (channel), `ta/ROOM/TASK` (leases of a task of the room with that id), `leases` (all of them),
`compactions`, `rl/ID` (role; its queue's arrivals are `in/ID`), `ak/SEQ` (the ack of a message to a role), `he/SEQ`
(what became of a held message). The first key of an event is its aggregate and part of the hashed header; the others
only serve the index.
"""

import re
from typing import Final, NamedTuple, TypeAlias, assert_never, final, get_args

import msgspec
from msgspec import UNSET, UnsetType

from synapse.core.card_events import AgentDescribed as AgentDescribed
from synapse.core.card_events import Card as Card
from synapse.core.delivery_events import DeliveryEvent, receipt_keys
from synapse.core.delivery_events import MessageDied as MessageDied
from synapse.core.delivery_events import MessageRevived as MessageRevived
from synapse.core.delivery_events import MessagesAcked as MessagesAcked
from synapse.core.delivery_events import MessagesDisowned as MessagesDisowned
from synapse.core.delivery_events import MessagesDropped as MessagesDropped
from synapse.core.delivery_events import MessagesLent as MessagesLent
from synapse.core.file_events import FileBegun, FileChunked, FileCompleted, FileEnded, FileEvent, FileReceived
from synapse.core.held_events import HeldDropped, HeldReleased
from synapse.core.idem import Idem as Idem
from synapse.core.lane_events import LaneAccepted, LaneEnded, LaneEvent, LaneMessaged, LaneOffered, lane_keys
from synapse.core.link import Link
from synapse.core.mail import Delivery as Delivery
from synapse.core.mail import Mail
from synapse.core.plan_events import PlanEvent, TaskDeclared, TaskMoved, TaskNoted, TaskRemoved, TasksReady
from synapse.core.question_events import (
    QuestionAnswered,
    QuestionAsked,
    QuestionDismissed,
    QuestionEvent,
    QuestionExpired,
    QuestionWithdrawn,
)
from synapse.core.resource_events import ResourceEvent, ResourceExpired, ResourceOffered, ResourceWithdrawn
from synapse.core.retention_events import COMPACTIONS, JournalCompacted
from synapse.core.role_events import RoleCreated as RoleCreated
from synapse.core.role_events import RoleDeleted, RoleEvent, RoleJoined, RoleLeft
from synapse.core.room_events import ChannelCreated as ChannelCreated
from synapse.core.room_events import ChannelDeleted as ChannelDeleted
from synapse.core.room_events import ChannelJoined as ChannelJoined
from synapse.core.room_events import ChannelLeft as ChannelLeft
from synapse.core.room_events import MemberEvent, MemberInvited, MemberRemoved
from synapse.core.room_events import RoomCreated as RoomCreated
from synapse.core.room_events import RoomDeleted as RoomDeleted
from synapse.core.room_events import RoomEvent as RoomEvent
from synapse.core.room_events import RoomJoined as RoomJoined
from synapse.core.room_events import RoomLeft as RoomLeft
from synapse.core.session_events import (
    SessionCheckpointed,
    SessionEnded,
    SessionEvent,
    SessionOffered,
    SessionResumed,
    SessionStarted,
    SessionUpdated,
    session_keys,
)
from synapse.core.token_events import TokenCreated, TokenEvent, TokenExpired, TokenRevoked
from synapse.core.value_events import ValueDeleted, ValueEvent, ValueExpired, ValuePut, ValuesCleared, ValueTransferred
from synapse.protocol.terms import Artefact

new_tuple: Final = tuple.__new__
"""Makes a NamedTuple from all its fields at half the cost of calling its class; for the hot path only."""


LEASES: Final = "leases"
"""Index key of every event about a lease."""


class Row(NamedTuple):
    """One line of the journal, ready to be hashed and stored. `also` holds further index keys, not hashed."""

    seq: int
    type: str
    version: int
    at_ms: int
    actor: str
    key: str
    body: bytes
    also: tuple[str, ...] = ()


class JournalStarted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The first event of a new journal."""

    hub_id: str
    journal_id: str
    idem: Idem | None = None


class JournalAdopted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An operator declared this file the truth. The only event that may leave a hole in the seqs before it.

    hub_id: also here, because the first event of the journal may be among what was lost. reason: `adopt`, `restore` or
    `import`. dropped: events of before that are not in it: cut away, lost, or later than what was put in place.
    """

    hub_id: str
    journal_id: str
    previous_id: str
    previous_seq: int
    reason: str
    dropped: int = 0
    idem: Idem | None = None


class JournalWritable(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Space came back after the disk was full."""

    read_only_ms: int
    idem: Idem | None = None


class HubStarted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A hub process took this journal over; soft deadlines are armed again in full."""

    version: str
    idem: Idem | None = None


class AgentCreated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A name was taken. secret_hash: SHA-256 of the agent's secret, hex; None until its first hello."""

    name: str
    card: Card
    secret_hash: str | None = None
    idem: Idem | None = None


class AgentBound(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A name that had no secret got one at a hello."""

    agent: int
    secret_hash: str
    idem: Idem | None = None


class AgentUnbound(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An operator dropped an agent's secret; the next hello binds a new one."""

    agent: int
    idem: Idem | None = None


class AgentForgotten(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An operator removed an agent with its inbox and memberships; the name is free again."""

    agent: int
    idem: Idem | None = None


@final
class MessagePosted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A message in a channel. address: `room:channel` as it was called. mentions: inboxes that got a reference.

    skipped: agents that were named and got none. traceparent: the sender's W3C trace context.
    """

    channel: int
    address: str
    n: int
    body: msgspec.Raw
    kind: str = "event"
    subject: str | None = None
    thread: str | None = None
    reply_to: str | None = None
    priority: str = "normal"
    expires_at_ms: int | None = None
    mentions: tuple[Delivery, ...] = ()
    skipped: tuple[str, ...] = ()
    traceparent: str | UnsetType = UNSET
    link: Link | None = None
    idem: Idem | None = None


@final
class MessageSent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A message into inboxes. room: the id of the room when it was addressed to `all`; skipped: members left out."""

    to: tuple[Delivery, ...]
    body: msgspec.Raw
    room: int | None = None
    skipped: tuple[str, ...] = ()
    subject: str | None = None
    thread: str | None = None
    reply_to: str | None = None
    priority: str = "normal"
    expires_at_ms: int | None = None
    traceparent: str | UnsetType = UNSET
    link: Link | None = None
    idem: Idem | None = None


class MessageHeld(Mail, frozen=True, kw_only=True, omit_defaults=True):
    """A message was not delivered, because its chain runs in a circle or a budget is used up; a person decides, and the
    first of a chain is told to people. why: loop, chain_budget, agent_budget, or chain_held (others of its chain are
    held). question: the one that a person is asked about the chain. sent or posted: what it would have been. private:
    it is of a private place."""

    link: Link
    why: str
    question: int | None = None
    sent: MessageSent | None = None
    posted: MessagePosted | None = None
    private: bool = False
    idem: Idem | None = None


class Ask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a claim asks for and a lease holds. room, agent: ids, with the names they had. paths: in normal form."""

    room: int
    room_name: str
    task: str
    agent: int
    owner: str
    worktree: str | None = None
    paths: tuple[str, ...] = ()
    whole: bool = False
    folds: bool = False
    pools: tuple[tuple[str, int], ...] = ()
    mode: str = "exclusive"
    reentrant: bool = True


@final
class LeaseGranted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A lease began; its epoch is the seq of this event. place: the place in the queue it came from. replaces: the
    agent's own earlier grant on the task, which ends with this. under: the lease under which the asking process ran."""

    ask: Ask
    ttl_ms: int
    tied: bool = False
    note: str | None = None
    branch: str | None = None
    place: int | None = None
    replaces: int | None = None
    under: int | None = None
    idem: Idem | None = None


class LeaseRenewed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """TTL, note or branch of a lease changed. Renewals that only move the deadline are not journalled."""

    ask: Ask
    epoch: int
    ttl_ms: int
    note: str | None = None
    branch: str | None = None
    idem: Idem | None = None


@final
class LeaseReleased(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The holder gave the lease back."""

    room: int
    room_name: str
    task: str
    owner: str
    epoch: int
    idem: Idem | None = None


class LeaseExpired(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The deadline of a lease passed. reason: ttl, connection (a tied one, after its grace), parked (the ceiling)."""

    room: int
    room_name: str
    task: str
    owner: str
    epoch: int
    reason: str
    idem: Idem | None = None


class LeaseRevoked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A lease was taken away. reason: preempted, or forgotten (its agent)."""

    room: int
    room_name: str
    task: str
    owner: str
    epoch: int
    reason: str
    idem: Idem | None = None


class LeaseHandedOff(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A lease went to another agent; its new epoch is the seq of this event. ask: already the receiver's. previous:
    the epoch it had, of agent `sender`. delivery: the message in the receiver's inbox. The others are of the claim that
    accepted an offer; what is null stays as it was."""

    ask: Ask
    previous: int
    sender: str
    delivery: Delivery | None = None
    ttl_ms: int | None = None
    tied: bool = False
    note: str | None = None
    branch: str | None = None
    under: int | None = None
    traceparent: str | UnsetType = UNSET
    idem: Idem | None = None


class LeaseOffered(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A lease was offered to an agent that is offline. delivery: the message in its inbox, gone with the lease."""

    ask: Ask
    epoch: int
    to: Delivery
    traceparent: str | UnsetType = UNSET
    idem: Idem | None = None


class LeaseParked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The TTL of a lease stands still while its task waits for a person. question: for whose answer; None: by hand."""

    ask: Ask
    epoch: int
    question: int | None = None
    idem: Idem | None = None


class LeaseResumed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The TTL of a parked lease runs on: by hand, or because the last question that parked it is closed."""

    ask: Ask
    epoch: int
    idem: Idem | None = None


class LeaseCheckpointed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A holder kept something for the next owner of the task. Without data and artefacts: the last one is dropped."""

    ask: Ask
    epoch: int
    data: msgspec.Raw = msgspec.Raw(b"null")
    artefacts: tuple[Artefact, ...] = ()
    idem: Idem | None = None


class LeaseQueued(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A claim took a place in the queue; the place is the seq of this event. It carries all that the grant will need.
    Its idempotency key takes effect with the grant."""

    ask: Ask
    ttl_ms: int
    priority: str = "normal"
    wait_ms: int | None = None
    tied: bool = False
    note: str | None = None
    branch: str | None = None
    under: int | None = None
    idem: Idem | None = None


class LeaseUnqueued(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A wait ended without a grant. reason: deadline, gone (nobody came back for the place), withdrawn, forgotten."""

    room: int
    room_name: str
    task: str
    owner: str
    place: int
    reason: str
    idem: Idem | None = None


class PoolSet(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A pool has this capacity."""

    name: str
    capacity: int
    idem: Idem | None = None


class PoolDeleted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A pool is gone."""

    name: str
    idem: Idem | None = None


Event: TypeAlias = (
    JournalStarted
    | JournalAdopted
    | JournalWritable
    | JournalCompacted
    | HubStarted
    | AgentCreated
    | AgentBound
    | AgentUnbound
    | AgentDescribed
    | AgentForgotten
    | MessagePosted
    | MessageSent
    | MessageHeld
    | HeldDropped
    | HeldReleased
    | DeliveryEvent
    | LeaseGranted
    | LeaseRenewed
    | LeaseReleased
    | LeaseExpired
    | LeaseRevoked
    | LeaseHandedOff
    | LeaseOffered
    | LeaseParked
    | LeaseResumed
    | LeaseCheckpointed
    | LeaseQueued
    | LeaseUnqueued
    | PoolSet
    | PoolDeleted
    | RoomEvent
    | MemberEvent
    | FileEvent
    | PlanEvent
    | QuestionEvent
    | ResourceEvent
    | RoleEvent
    | SessionEvent
    | LaneEvent
    | TokenEvent
    | ValueEvent
)


class Recorded(NamedTuple):
    """An event with its header: what `apply` folds. actor: agent name, `operator` or `hub`."""

    seq: int
    at_ms: int
    actor: str
    event: Event


def held_keys(event: MessageHeld | HeldDropped | HeldReleased) -> tuple[str, ...]:
    """The index key of what became of a held message."""
    return () if isinstance(event, MessageHeld) or event.sender is None else (f"he/{event.held}",)


def keys_of(seq: int, event: Event) -> tuple[str, ...]:
    """The index keys of an event at `seq`, its own aggregate first, without repeats."""
    match event:
        case LeaseGranted():
            return (f"ta/{event.ask.room}/{event.ask.task}", LEASES)
        case LeaseReleased():
            return (f"ta/{event.room}/{event.task}", LEASES)
        case MessagePosted():
            return (f"ch/{event.channel}", *(f"in/{d.agent}" for d in event.mentions))
        case MessageSent():
            return tuple(f"in/{d.agent}" for d in event.to)
        case MessageHeld() | HeldDropped() | HeldReleased():
            return ("hub", *held_keys(event), *(f"in/{d.agent}" for d in event.deliveries))
        case MessagesAcked():
            found = (f"ak/{message}" for message in event.messages) if event.by_member else ()
            return (f"ag/{event.agent}", *receipt_keys(event), *found)
        case MessagesLent() | MessageDied() | MessageRevived() | MessagesDropped():
            return (f"ag/{event.agent}", *receipt_keys(event))
        case MessagesDisowned():
            return (f"ag/{event.sender}",)
        case AgentCreated():
            return (f"ag/{seq}",)
        case AgentBound() | AgentUnbound() | AgentDescribed() | AgentForgotten():
            return (f"ag/{event.agent}",)
        case RoleCreated():
            return (f"rl/{seq}",)
        case RoleDeleted():
            return (f"rl/{event.role}",)
        case RoleJoined() | RoleLeft():
            return (f"rl/{event.role}", f"ag/{event.agent}")
        case RoomCreated() | RoomDeleted():
            return (f"ro/{seq if isinstance(event, RoomCreated) else event.room}",)
        case MemberInvited() | MemberRemoved():
            first = f"ro/{event.room}" if event.channel is None else f"cl/{event.channel}"
            return (first, *(f"in/{delivery.agent}" for delivery in event.deliveries))
        case RoomJoined() | RoomLeft():
            return (f"ro/{event.room}", f"ag/{event.agent}")
        case ChannelCreated():
            # The channel's own messages are read by `ch/ID`; its life is read by the room's key.
            return (f"ro/{event.room}", f"cl/{seq}")
        case ChannelDeleted():
            return (f"cl/{event.channel}",)
        case ChannelJoined() | ChannelLeft():
            return (f"cl/{event.channel}", f"ag/{event.agent}")
        case LeaseExpired() | LeaseRevoked() | LeaseUnqueued():
            return (f"ta/{event.room}/{event.task}", LEASES)
        case LeaseRenewed() | LeaseParked() | LeaseResumed() | LeaseCheckpointed() | LeaseQueued():
            return (f"ta/{event.ask.room}/{event.ask.task}", LEASES)
        case LeaseHandedOff():
            arrival = () if event.delivery is None else (f"in/{event.delivery.agent}",)
            return (f"ta/{event.ask.room}/{event.ask.task}", LEASES, *arrival)
        case LeaseOffered():
            return (f"ta/{event.ask.room}/{event.ask.task}", LEASES, f"in/{event.to.agent}")
        case PoolSet() | PoolDeleted() | ResourceOffered() | ResourceWithdrawn() | ResourceExpired() | TokenCreated():
            return ("hub",)
        case ValuePut() | ValueDeleted() | ValueExpired() | ValueTransferred() | ValuesCleared():
            return (f"kv/{event.room}",)
        case FileBegun() | FileChunked() | FileCompleted() | FileReceived() | FileEnded():
            return (f"fi/{seq if isinstance(event, FileBegun) else event.file}",)
        case TaskDeclared() | TaskMoved() | TaskNoted() | TaskRemoved():
            return (f"pt/{event.room}/{event.task}", f"pl/{event.room}")
        case TasksReady():
            return (f"pl/{event.room}",)
        case SessionStarted() | SessionUpdated() | SessionEnded() | SessionResumed():
            return session_keys(seq, event)
        case SessionCheckpointed() | SessionOffered():
            return session_keys(seq, event)
        case LaneOffered() | LaneAccepted() | LaneEnded() | LaneMessaged():
            return lane_keys(seq, event)
        case QuestionAsked():
            return (f"qu/{event.room}",)
        case QuestionAnswered() | QuestionDismissed() | QuestionExpired() | QuestionWithdrawn():
            return (f"qu/{event.room}", *(f"in/{d.agent}" for d in event.deliveries))
        case JournalStarted() | JournalAdopted() | JournalWritable() | HubStarted() | TokenRevoked() | TokenExpired():
            return ("hub",)
        case JournalCompacted():
            return ("hub", COMPACTIONS)
        case _:
            assert_never(event)


_NAMED: Final[dict[type[Event], str]] = {MessagesLent: "message.lent"}
"""What is not journalled under the name of its class: a lend was one of one message in its first version."""


def _journal_name(kind: type[Event]) -> str:
    """`MessagePosted` is journalled as `message.posted`."""
    if kind in _NAMED:
        return _NAMED[kind]
    noun, *verb = re.findall("[A-Z][a-z]+", kind.__name__)
    return f"{noun}.{'_'.join(verb)}".lower()


TYPES: dict[str, type[Event]] = {_journal_name(kind): kind for kind in get_args(Event)}
"""Event type by its journal name."""

VERSIONS: dict[str, int] = dict.fromkeys(TYPES, 1) | {"message.lent": 2}
"""The version in which each event type is written today. Older ones are upcast by `journal.upcast`."""

_encode = msgspec.json.Encoder().encode
_DECODERS = {name: msgspec.json.Decoder(kind) for name, kind in TYPES.items()}
_TAGS = {kind: name for name, kind in TYPES.items()}


_OF_A_TASK = (LEASES,)


def to_row(recorded: Recorded) -> Row:
    """Encode an event for the journal."""
    seq, at_ms, actor, event = recorded
    tag = _TAGS[type(event)]
    if type(event) is MessagePosted and not event.mentions:  # nearly all events
        return new_tuple(Row, (seq, tag, VERSIONS[tag], at_ms, actor, f"ch/{event.channel}", _encode(event), ()))
    if type(event) is LeaseGranted:
        ask = event.ask
        key = f"ta/{ask.room}/{ask.task}"
        return new_tuple(Row, (seq, tag, VERSIONS[tag], at_ms, actor, key, _encode(event), _OF_A_TASK))
    if type(event) is LeaseReleased:
        key = f"ta/{event.room}/{event.task}"
        return new_tuple(Row, (seq, tag, VERSIONS[tag], at_ms, actor, key, _encode(event), _OF_A_TASK))
    if type(event) is MessageSent and len(event.to) == 1:
        key = f"in/{event.to[0].agent}"
        return new_tuple(Row, (seq, tag, VERSIONS[tag], at_ms, actor, key, _encode(event), ()))
    if type(event) is MessagesLent or (type(event) is MessagesAcked and not event.by_member):
        key, others = f"ag/{event.agent}", receipt_keys(event)
        return new_tuple(Row, (seq, tag, VERSIONS[tag], at_ms, actor, key, _encode(event), others))
    keys = keys_of(seq, event)
    return new_tuple(Row, (seq, tag, VERSIONS[tag], at_ms, actor, keys[0], _encode(event), keys[1:]))


def from_row(type_name: str, body: bytes) -> Event:
    """Decode the body of a journal row of the current version.

    Raises `KeyError` for a type this release does not know, `msgspec.DecodeError` for a body that does not fit.
    """
    return _DECODERS[type_name].decode(body)
