"""What happened, as everybody may be told it: the public kind of each event, what its line says, and for whose eyes.

Rule 1: `LINES` names every event type; one that is never shown says so. Rule 2: a line about a room goes through
`Eyes.sees`, and what is in an inbox is for its owner and its sender. Rule 3: ids become names, secrets and keys of the
index never leave. A line has `cursor`, `at_ms`, `by`, `kind`; what says nothing is left out.
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, Protocol, TypeAlias, cast

import msgspec

from synapse.core.by import By
from synapse.core.card_events import AgentDescribed, Card
from synapse.core.events import (
    TYPES,
    AgentBound,
    AgentCreated,
    AgentForgotten,
    AgentUnbound,
    ChannelCreated,
    ChannelDeleted,
    ChannelJoined,
    ChannelLeft,
    Event,
    HubStarted,
    JournalAdopted,
    JournalStarted,
    JournalWritable,
    LeaseCheckpointed,
    LeaseExpired,
    LeaseGranted,
    LeaseHandedOff,
    LeaseOffered,
    LeaseParked,
    LeaseQueued,
    LeaseReleased,
    LeaseRenewed,
    LeaseResumed,
    LeaseRevoked,
    LeaseUnqueued,
    MessageDied,
    MessageHeld,
    MessagePosted,
    MessageRevived,
    MessagesAcked,
    MessagesDisowned,
    MessagesDropped,
    MessageSent,
    MessagesLent,
    PoolDeleted,
    PoolSet,
    Recorded,
    RoomCreated,
    RoomDeleted,
    RoomJoined,
    RoomLeft,
)
from synapse.core.file_events import FileBegun, FileChunked, FileCompleted, FileEnded, FileReceived
from synapse.core.held_events import HeldDropped, HeldReleased
from synapse.core.lane_events import LaneAccepted, LaneEnded, LaneMessaged, LaneOffered
from synapse.core.lease_events import shown_change
from synapse.core.messages import shown_posted, shown_sent
from synapse.core.plan import shown_plan_change
from synapse.core.plan_events import PlanEvent, TaskDeclared, TaskMoved, TaskNoted, TaskRemoved, TasksReady
from synapse.core.question_answers import shown_question_change
from synapse.core.question_events import (
    QuestionAnswered,
    QuestionAsked,
    QuestionDismissed,
    QuestionExpired,
    QuestionWithdrawn,
)
from synapse.core.resource_events import ResourceExpired, ResourceOffered, ResourceWithdrawn
from synapse.core.retention_events import JournalCompacted
from synapse.core.role_events import RoleCreated, RoleDeleted, RoleJoined, RoleLeft
from synapse.core.room_events import MemberInvited, MemberRemoved
from synapse.core.session_events import (
    SessionCheckpointed,
    SessionEnded,
    SessionOffered,
    SessionResumed,
    SessionStarted,
    SessionUpdated,
)
from synapse.core.token_events import TokenCreated, TokenExpired, TokenRevoked
from synapse.core.value_events import (
    ValueDeleted,
    ValueEvent,
    ValueExpired,
    ValuePut,
    ValuesCleared,
    ValueTransferred,
)
from synapse.core.values import shown_value_change
from synapse.errors import Rejected
from synapse.protocol.cursor import cursor_of
from synapse.protocol.names import shown
from synapse.protocol.notices import Message
from synapse.protocol.terms import AGENT, PROGRESS_KINDS

Fields: TypeAlias = dict[str, object]
Told: TypeAlias = tuple[str, Fields]
"""The kind of a line, and what it says beside cursor, time and who."""

_encode: Final = msgspec.json.Encoder().encode
_HEADER: Final = ("cursor", "at_ms", "by", "kind", "change")


class Place(NamedTuple):
    """A channel by its names."""

    room: int
    channel: str


class Eyes(Protocol):
    """Who asks, and what ids stand for; of what is gone too, as the journal still knows it."""

    by: By
    journal_id: str

    def sees(self, room: int) -> bool:
        """True when who asks may see this room. One that is gone is seen by an operator alone."""

    def reads(self, channel: int, seq: int) -> bool:
        """True unless the channel is private, or in a private room, and what happened at that seq is not for who
        asks."""

    def knows(self, agent: int) -> bool:
        """True unless who asks is kept to some rooms, and the agent is in none of them."""

    def knows_actor(self, name: str) -> bool:
        """As `knows`, of whoever did something, the hub and operators among them."""

    def agent(self, agent: int) -> str:
        """The name of an agent."""

    def room(self, room: int) -> str:
        """The name of a room."""

    def channel(self, channel: int) -> Place:
        """The room and the name of a channel."""


class Line(NamedTuple):
    """How an event is told. kinds: all that it can be. room: the id of the room that it is of, if it is of one.
    show: None when it is not for who asks."""

    kinds: tuple[str, ...]
    room: Callable[[Event, Eyes], int | None]
    show: Callable[[Recorded, Eyes], Told | None]


FROM_THE_START: Final = 1 << 62
"""As a seq: who may read the channel at all is told, whenever it came."""

NEVER: Final = None
"""The line of an event that nobody is told of: what goes on in inboxes, and with files, is the business of those whose
they are, and tokens are an admin's."""


def _nowhere(event: Event, eyes: Eyes) -> int | None:
    return None


def _in_room(event: Event, eyes: Eyes) -> int | None:
    return cast("ValuePut", event).room


def _of_ask(event: Event, eyes: Eyes) -> int | None:
    return cast("LeaseGranted", event).ask.room


def _of_channel(event: Event, eyes: Eyes) -> int | None:
    return eyes.channel(cast("MessagePosted", event).channel).room


def _said(notice: msgspec.Struct) -> Fields:
    """A notice without what every line has, and without what says nothing; lists as they are, `null` of JSON too."""
    found: Fields = {}
    for name, wire in zip(notice.__struct_fields__, notice.__struct_encode_fields__, strict=True):
        value = getattr(notice, name)
        if wire not in _HEADER and value is not None and value is not msgspec.UNSET and value != ():
            found[wire] = value
    return found


def _message(message: Message) -> Fields:
    said = _said(message)
    for twice in ("from", "sent_at_ms"):  # the line says `by` and `at_ms`
        del said[twice]
    return said


def _posted(recorded: Recorded, eyes: Eyes) -> Told | None:
    event = cast("MessagePosted", recorded.event)
    if not eyes.reads(event.channel, recorded.seq):
        return None
    return "message.posted", _message(shown_posted(eyes.journal_id, recorded, event))


def _sent(recorded: Recorded, eyes: Eyes) -> Told | None:
    """As its recipient sees it, or its sender."""
    event = cast("MessageSent", recorded.event)
    agent = eyes.by.agent
    if agent is None or not eyes.by.has_role(AGENT):
        return None
    for delivery in event.to:
        if delivery.agent == agent:
            return "message.sent", _message(shown_sent(eyes.journal_id, recorded, event, delivery))
    if recorded.actor != eyes.by.actor or not event.to:
        return None
    said = _message(shown_sent(eyes.journal_id, recorded, event, event.to[0]))
    del said["channel"], said["n"]  # they are of one recipient's inbox
    return "message.sent", said


def _lease(recorded: Recorded, eyes: Eyes) -> Told:
    change = shown_change(eyes.journal_id, recorded)
    assert change is not None, "the table names it as one about a lease"
    said = _said(change)
    event = recorded.event
    if isinstance(event, LeaseCheckpointed):
        said |= {"data": event.data, **({"artefacts": event.artefacts} if event.artefacts else {})}
    return f"lease.{change.change}", said


def _value(recorded: Recorded, eyes: Eyes) -> Told:
    change = shown_value_change(eyes.journal_id, recorded, cast("ValueEvent", recorded.event))
    said = _said(change)
    if change.change != "put":
        del said["value"]
    return f"value.{change.change}", said


def _task(recorded: Recorded, eyes: Eyes) -> Told:
    change = shown_plan_change(eyes.journal_id, recorded, cast("PlanEvent", recorded.event))
    return f"task.{change.change}", _said(change)


def _noted(recorded: Recorded, eyes: Eyes) -> Told:
    event = cast("TaskNoted", recorded.event)
    said: Fields = {"task": event.task, "room": event.room_name, "text": event.text}
    if event.artefacts:
        said["artefacts"] = event.artefacts
    if event.epoch is not None:
        said["epoch"] = event.epoch
    return f"progress.{event.kind}", said


def _room_created(recorded: Recorded, eyes: Eyes) -> Told:
    event = cast("RoomCreated", recorded.event)
    return "room.created", {"room": event.name, "type": event.type}


def _channel_created(recorded: Recorded, eyes: Eyes) -> Told | None:
    event = cast("ChannelCreated", recorded.event)
    if not eyes.reads(recorded.seq, FROM_THE_START):
        return None
    return "channel.created", {"room": eyes.room(event.room), "channel": event.name, "type": event.type}


def _member(recorded: Recorded, eyes: Eyes) -> Told | None:
    event = cast("MemberInvited | MemberRemoved", recorded.event)
    if event.channel is not None and not eyes.reads(event.channel, FROM_THE_START):
        return None
    kind = "member.invited" if isinstance(event, MemberInvited) else "member.removed"
    return kind, {"place": event.place, "agent": eyes.agent(event.agent)}


def _room_change(kind: str) -> Line:
    def show(recorded: Recorded, eyes: Eyes) -> Told:
        event = cast("RoomDeleted | RoomJoined | RoomLeft", recorded.event)
        who = {} if isinstance(event, RoomDeleted) else {"agent": eyes.agent(event.agent)}
        return kind, {"room": eyes.room(event.room), **who}

    return Line((kind,), _in_room, show)


def _channel_change(kind: str) -> Line:
    def show(recorded: Recorded, eyes: Eyes) -> Told | None:
        event = cast("ChannelDeleted | ChannelJoined | ChannelLeft", recorded.event)
        if not eyes.reads(event.channel, FROM_THE_START):
            return None
        place = eyes.channel(event.channel)
        who = {} if isinstance(event, ChannelDeleted) else {"agent": eyes.agent(event.agent)}
        return kind, {"room": eyes.room(place.room), "channel": place.channel, **who}

    return Line((kind,), _of_channel, show)


def _card(card: Card) -> Fields:
    said = _said(card)
    return {"agent_kind": card.kind, **said}


def _agent_created(recorded: Recorded, eyes: Eyes) -> Told | None:
    event = cast("AgentCreated", recorded.event)
    if not eyes.knows(recorded.seq):
        return None
    return "agent.created", {"agent": event.name, **_card(event.card)}


def _agent_described(recorded: Recorded, eyes: Eyes) -> Told | None:
    event = cast("AgentDescribed", recorded.event)
    if not eyes.knows(event.agent):
        return None
    return "agent.described", {"agent": eyes.agent(event.agent), **_card(event.card)}


def _agent_change(kind: str) -> Line:
    def show(recorded: Recorded, eyes: Eyes) -> Told | None:
        agent = cast("AgentBound", recorded.event).agent
        return (kind, {"agent": eyes.agent(agent)}) if eyes.knows(agent) else None

    return Line((kind,), _nowhere, show)


def _role_change(recorded: Recorded, eyes: Eyes) -> Told | None:
    event = cast("RoleJoined | RoleLeft", recorded.event)
    kind = "role.joined" if isinstance(event, RoleJoined) else "role.left"
    return (kind, {"role": event.name}) if eyes.knows(event.agent) else None


def _picked(event: Event, names: tuple[str, ...]) -> Fields:
    found: Fields = {}
    for name in names:
        value = getattr(event, name.partition("=")[0])
        if value is not None and value != () and not (isinstance(value, msgspec.Raw) and bytes(value) == b"null"):
            found[name.rpartition("=")[2]] = value
    return found


def _question(recorded: Recorded, eyes: Eyes) -> Told:
    change = shown_question_change(eyes.journal_id, recorded, cast("QuestionAsked", recorded.event))
    return f"question.{change.change}", _said(change)


def _fields(kind: str, *names: str) -> Line:
    """The line of an event of no room: these of its fields, those that say something. `a=b`: field a, called b."""
    return Line((kind,), _nowhere, lambda recorded, _: (kind, _picked(recorded.event, names)))


def _room_fields(kind: str, *names: str) -> Line:
    """As `_fields`, of an event with `room` and `room_name`."""
    return Line((kind,), _in_room, lambda recorded, _: (kind, _picked(recorded.event, ("room_name=room", *names))))


def _session(kind: str, *names: str) -> Line:
    """As `_room_fields`, of an event of a work session; what is unset is left out."""

    def show(recorded: Recorded, _: Eyes) -> Told:
        event = recorded.event
        session = recorded.seq if isinstance(event, SessionStarted) else cast("SessionEnded", event).session
        picked = _picked(event, ("room_name=room", "owner=agent", *names))
        said = {name: value for name, value in picked.items() if value is not msgspec.UNSET}
        if "lane" in said:
            said["lane"] = f"l{said['lane']}"
        return kind, {"session": f"s{session}", **said}

    return Line((kind,), _in_room, show)


def _lane(recorded: Recorded, eyes: Eyes) -> Told | None:
    """A step of a lane; what is said in it is for its two sides."""
    event = recorded.event
    lane = recorded.seq if isinstance(event, LaneOffered) else cast("LaneAccepted", event).lane
    names = ("room_name=room", "sender", "receiver", "task", "note", "reason", "epoch")
    picked = _picked(event, tuple(name for name in names if hasattr(event, name.partition("=")[0])))
    kind = {LaneOffered: "lane.offered", LaneAccepted: "lane.accepted"}.get(type(event))
    return kind or f"lane.{cast('LaneEnded', event).state}", {"lane": f"l{lane}", **picked}


LINES: Final[dict[type[Event], Line | None]] = {
    JournalStarted: _fields("journal.started"),
    JournalAdopted: _fields("journal.adopted", "reason", "previous_id", "previous_seq", "dropped"),
    JournalWritable: _fields("journal.writable", "read_only_ms"),
    JournalCompacted: _fields("journal.compacted", "upto", "rows", "bytes"),
    HubStarted: _fields("hub.started", "version"),
    AgentCreated: Line(("agent.created",), _nowhere, _agent_created),
    AgentBound: _agent_change("agent.bound"),
    AgentUnbound: _agent_change("agent.unbound"),
    AgentDescribed: Line(("agent.described",), _nowhere, _agent_described),
    AgentForgotten: _agent_change("agent.forgotten"),
    MessagePosted: Line(("message.posted",), _of_channel, _posted),
    MessageSent: Line(("message.sent",), _nowhere, _sent),
    MessageHeld: NEVER,
    HeldDropped: NEVER,
    HeldReleased: NEVER,
    FileBegun: NEVER,
    FileChunked: NEVER,
    FileCompleted: NEVER,
    FileReceived: NEVER,
    FileEnded: NEVER,
    MessagesLent: NEVER,
    MessagesAcked: NEVER,
    MessageDied: NEVER,
    MessageRevived: NEVER,
    MessagesDropped: NEVER,
    MessagesDisowned: NEVER,
    LeaseGranted: Line(("lease.granted",), _of_ask, _lease),
    LeaseRenewed: Line(("lease.renewed",), _of_ask, _lease),
    LeaseReleased: Line(("lease.released",), _in_room, _lease),
    LeaseExpired: Line(("lease.expired",), _in_room, _lease),
    LeaseRevoked: Line(("lease.revoked",), _in_room, _lease),
    LeaseHandedOff: Line(("lease.handed_off",), _of_ask, _lease),
    LeaseOffered: Line(("lease.offered",), _of_ask, _lease),
    LeaseParked: Line(("lease.parked",), _of_ask, _lease),
    LeaseResumed: Line(("lease.resumed",), _of_ask, _lease),
    LeaseCheckpointed: Line(("lease.checkpointed",), _of_ask, _lease),
    LeaseQueued: Line(("lease.queued",), _of_ask, _lease),
    LeaseUnqueued: Line(("lease.wait_ended",), _in_room, _lease),
    PoolSet: _fields("pool.set", "name", "capacity"),
    PoolDeleted: _fields("pool.deleted", "name"),
    RoleCreated: _fields("role.created", "name=role"),
    RoleJoined: Line(("role.joined",), _nowhere, _role_change),
    RoleLeft: Line(("role.left",), _nowhere, _role_change),
    RoleDeleted: _fields("role.deleted", "name=role"),
    RoomCreated: Line(("room.created",), _nowhere, _room_created),
    RoomDeleted: _room_change("room.deleted"),
    RoomJoined: _room_change("room.joined"),
    RoomLeft: _room_change("room.left"),
    ChannelCreated: Line(("channel.created",), _in_room, _channel_created),
    ChannelDeleted: _channel_change("channel.deleted"),
    ChannelJoined: _channel_change("channel.joined"),
    ChannelLeft: _channel_change("channel.left"),
    MemberInvited: Line(("member.invited",), _in_room, _member),
    MemberRemoved: Line(("member.removed",), _in_room, _member),
    TaskDeclared: Line(("task.declared",), _in_room, _task),
    TaskMoved: Line(("task.moved",), _in_room, _task),
    TasksReady: Line(("task.ready",), _in_room, _task),
    TaskNoted: Line(tuple(f"progress.{kind}" for kind in PROGRESS_KINDS), _in_room, _noted),
    TaskRemoved: Line(("task.removed",), _in_room, _task),
    **{
        kind: Line((f"question.{word}",), _in_room, _question)
        for kind, word in (
            (QuestionAsked, "asked"),
            (QuestionAnswered, "answered"),
            (QuestionDismissed, "dismissed"),
            (QuestionExpired, "expired"),
            (QuestionWithdrawn, "withdrawn"),
        )
    },
    ResourceOffered: _fields(
        "resource.offered", "name", "kind=resource_kind", "capacity", "owner", "description", "data", "expires_at_ms"
    ),
    ResourceWithdrawn: _fields("resource.withdrawn", "name", "owner", "reason"),
    ResourceExpired: _fields("resource.expired", "name", "owner"),
    SessionStarted: _session("session.started", "display_name", "repo", "task", "summary", "metadata"),
    SessionUpdated: _session(
        "session.updated",
        "state",
        "task",
        "display_name",
        "repo",
        "summary",
        "metadata",
        "resumable_at_ms",
        "decisions",
        "files",
        "todos",
        "replaced",
    ),
    SessionCheckpointed: _session("session.checkpointed", "n", "task", "lane", "epoch", "data", "artefacts"),
    SessionEnded: _session("session.ended", "state", "task", "reason"),
    SessionOffered: _session("session.offered", "task", "reason"),
    SessionResumed: _session("session.resumed", "task", "by=resumed_by", "epoch"),
    LaneOffered: Line(("lane.offered",), _in_room, _lane),
    LaneAccepted: Line(("lane.accepted",), _in_room, _lane),
    LaneEnded: Line(("lane.declined", "lane.timed_out", "lane.closed"), _in_room, _lane),
    LaneMessaged: NEVER,
    ValuePut: Line(("value.put",), _in_room, _value),
    ValueDeleted: Line(("value.deleted",), _in_room, _value),
    ValueExpired: Line(("value.expired",), _in_room, _value),
    ValueTransferred: Line(("value.transferred",), _in_room, _value),
    ValuesCleared: Line(("value.cleared",), _in_room, _value),
    TokenCreated: NEVER,
    TokenExpired: NEVER,
    TokenRevoked: NEVER,
}
"""The line of every event type. A new one has a row here, or `NEVER`; the tests and the next line say so."""

KINDS: Final = tuple(sorted({kind for line in LINES.values() if line is not None for kind in line.kinds}))
"""Every kind a line can have."""

MEMORY: Final = "memory"
REMEMBERED: Final = tuple(
    kind
    for kind in (
        "lease.checkpointed",
        "lease.handed_off",
        "progress.checkpoint",
        "progress.decision",
        "progress.finding",
        "progress.handoff",
        "question.answered",
        "session.checkpointed",
    )
    if kind in KINDS
)
"""What `memory` stands for: what somebody who comes later wants to know."""

_OF_TYPE: Final = {name: LINES.get(kind) for name, kind in TYPES.items()}
RECORDED_AS: Final = {kind: name for name, line in _OF_TYPE.items() if line is not None for kind in line.kinds}
"""The journal name of the event behind each kind."""


def kinds_named(asked: Iterable[str]) -> frozenset[str]:
    """The kinds that these words stand for; all of them without any. Raises `Rejected(bad_request)` for another."""
    found: set[str] = set()
    for word in asked:
        kinds = [kind for kind in KINDS if kind == word or kind.startswith(f"{word}.")]
        kinds = list(REMEMBERED) if word == MEMORY else kinds
        if not kinds:
            nouns = dict.fromkeys(kind.partition(".")[0] for kind in KINDS)
            raise Rejected(
                "bad_request",
                f"kind {shown(word)} is none: {', '.join([MEMORY, *nouns])}, or one of theirs, such as {KINDS[0]} - at "
                "`$.body.kinds`",
                {"path": "$.body.kinds", "allowed": [MEMORY, *KINDS]},
            )
        found.update(kinds)
    return frozenset(found) if found else frozenset(KINDS)


def line_of(recorded: Recorded, eyes: Eyes, kinds: frozenset[str], room: int | None) -> msgspec.Raw | None:
    """An event as a line of JSON; None when it is none, is not asked for, or is not for who asks. room: only of it."""
    line = LINES.get(type(recorded.event))
    if line is None:
        return None
    place = recorded.seq if isinstance(recorded.event, RoomCreated) else line.room(recorded.event, eyes)
    if (room is not None and place != room) or (place is not None and not eyes.sees(place)):
        return None
    if place is None and not (eyes.knows_actor(recorded.actor) or isinstance(recorded.event, MessageSent)):
        return None  # what is of no room tells who did it
    told = line.show(recorded, eyes)
    if told is None or told[0] not in kinds:
        return None
    header: Fields = {
        "cursor": cursor_of(eyes.journal_id, recorded.seq),
        "at_ms": recorded.at_ms,
        "by": recorded.actor,
        "kind": told[0],
    }
    assert header.keys().isdisjoint(told[1]), f"{told[0]} says something that every line has"
    return msgspec.Raw(_encode(header | told[1]))
