"""The one place where commands meet state.

    decide(state, …) -> [event] | raises Rejected     changes nothing
    apply(state, recorded)                            the only writer of the durable half
    answer(state, command, events)                    the reply, from the events: the first time and on every repeat
    announce(state, recorded)                         what others are told

Rule 1: replay only applies; it never decides. Rule 2: `decide` reads time from `By`, never from a clock.

What is asked all day comes first, by `type(…) is`: a case of `match` that does not fit costs 0.07 µs for these classes.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final, TypeAlias, assert_never, get_args

import msgspec

from synapse.core import (
    agents,
    asking,
    cards,
    claims,
    dead_letters,
    files,
    holding,
    inboxes,
    lanes,
    loops,
    members,
    messages,
    planning,
    questions,
    resources,
    resuming,
    role_queues,
    rooms,
    session_changes,
    sessions,
    tokens,
    values,
)
from synapse.core.agents import Agent
from synapse.core.asking import QuestionMutation
from synapse.core.bounds import require_wait
from synapse.core.by import By, Rules
from synapse.core.dead_letters import DeliveryMutation
from synapse.core.events import (
    AgentBound,
    AgentCreated,
    AgentDescribed,
    AgentForgotten,
    AgentUnbound,
    ChannelCreated,
    ChannelDeleted,
    ChannelJoined,
    ChannelLeft,
    Event,
    HubStarted,
    Idem,
    JournalAdopted,
    JournalStarted,
    JournalWritable,
    LeaseGranted,
    LeaseHandedOff,
    LeaseOffered,
    LeaseQueued,
    LeaseReleased,
    MessageDied,
    MessageHeld,
    MessagePosted,
    MessageRevived,
    MessagesAcked,
    MessagesDisowned,
    MessagesDropped,
    MessageSent,
    MessagesLent,
    Recorded,
    RoomCreated,
    RoomDeleted,
    RoomEvent,
    RoomJoined,
    RoomLeft,
    new_tuple,
)
from synapse.core.file_events import FileEvent
from synapse.core.files import FileMutation
from synapse.core.held_events import HeldDropped, HeldReleased
from synapse.core.idempotency import Remembered
from synapse.core.inboxes import ALL, DIRECT, MENTION
from synapse.core.lane_events import LaneEvent
from synapse.core.lanes import LaneMutation
from synapse.core.lease_events import (
    RareLeaseEvent,
    apply_end,
    apply_grant,
    apply_lease,
)
from synapse.core.loops import HeldMutation
from synapse.core.mail import Mail, numbered
from synapse.core.members import MemberMutation
from synapse.core.plan import apply_plan
from synapse.core.plan_events import PlanEvent
from synapse.core.planning import PlanMutation
from synapse.core.question_events import QuestionEvent
from synapse.core.resource_events import ResourceEvent
from synapse.core.resources import ResourceMutation
from synapse.core.retention import apply_compacted
from synapse.core.retention_events import JournalCompacted
from synapse.core.role_events import RoleEvent
from synapse.core.role_queues import RoleMutation
from synapse.core.room_events import MemberEvent
from synapse.core.rooms import Channel, Room
from synapse.core.session_changes import SessionMutation
from synapse.core.session_events import SessionEvent
from synapse.core.state import State
from synapse.core.token_events import TokenEvent
from synapse.core.tokens import TokenMutation
from synapse.core.value_events import ValueEvent
from synapse.core.values import ValueMutation
from synapse.errors import Rejected
from synapse.protocol.card_commands import SetCard
from synapse.protocol.commands import (
    AckInbox,
    ClaimLease,
    CreateChannel,
    CreateRoom,
    DeclareStatus,
    DeleteChannel,
    DeletePool,
    DeleteRoom,
    ForgetAgent,
    HandOffLease,
    Hello,
    JoinChannel,
    JoinRoom,
    LeaveChannel,
    LeaveRoom,
    ParkLease,
    RebindAgent,
    ReleaseLease,
    RenewLease,
    SaveCheckpoint,
    SendMessage,
    SetPool,
    TakeInbox,
    WithdrawClaim,
)
from synapse.protocol.file_commands import BeginFile
from synapse.protocol.names import GENERAL, MAIN_ROOM, shown
from synapse.protocol.session_commands import BeatSession
from synapse.protocol.terms import STATUSES

_Rest: TypeAlias = (
    DeliveryMutation
    | LaneMutation
    | FileMutation
    | HeldMutation
    | PlanMutation
    | QuestionMutation
    | ResourceMutation
    | RoleMutation
    | SessionMutation
    | TokenMutation
    | ValueMutation
    | MemberMutation
)
_RestEvent: TypeAlias = (
    PlanEvent
    | QuestionEvent
    | ResourceEvent
    | RoleEvent
    | SessionEvent
    | TokenEvent
    | ValueEvent
    | RareLeaseEvent
    | MemberEvent
    | LaneEvent
    | MessageHeld
    | HeldDropped
    | HeldReleased
    | FileEvent
)

Mutation: TypeAlias = (
    Hello
    | SendMessage
    | TakeInbox
    | AckInbox
    | DeclareStatus
    | RebindAgent
    | ForgetAgent
    | CreateRoom
    | DeleteRoom
    | JoinRoom
    | LeaveRoom
    | CreateChannel
    | DeleteChannel
    | JoinChannel
    | LeaveChannel
    | ClaimLease
    | RenewLease
    | ReleaseLease
    | WithdrawClaim
    | SaveCheckpoint
    | HandOffLease
    | ParkLease
    | SetPool
    | DeletePool
    | SetCard
    | _Rest
)
"""Commands that may become events."""

MUTATIONS = frozenset(get_args(Mutation))
REPEATABLE = MUTATIONS - {Hello, TakeInbox, DeclareStatus, BeatSession}
"""Mutations that may carry an idem_key; the others are tied to their connection or to this process."""


def decide(state: State, rules: Rules, command: Mutation, by: By) -> list[Event]:
    """The events this command becomes; none when it is so already. Raises `Rejected` and changes nothing."""
    if type(command) is SendMessage:
        return messages.decide_send(state, rules, command, by)
    if type(command) is ClaimLease:
        claimed = claims.decide_claim(state, rules, command, by)
        return resuming.taken_up(state, command, by, claimed) if state.sessions.offers else claimed
    if type(command) is ReleaseLease:
        return holding.decide_release(state, command, by)
    if type(command) is AckInbox:
        return inboxes.decide_ack(state, rules, command, by)
    if type(command) is TakeInbox:
        require_wait(command.wait_ms, rules.limits.wait_ms_max)
        return inboxes.decide_take(state, rules, command, by)
    match command:
        case RenewLease():
            return holding.decide_renew(state, rules, command, by)
        case Hello():
            return agents.decide_hello(state, rules, command)
        case DeclareStatus():
            by.require_agent()
            if command.status not in STATUSES:
                raise Rejected(
                    "bad_request",
                    f"status {shown(command.status)} is none of {', '.join(STATUSES)} - at `$.body.status`",
                    {"path": "$.body.status", "allowed": list(STATUSES)},
                )
            return []
        case RebindAgent():
            by.require_operator("rebinding an agent")
            return agents.decide_rebind(state, command.name, by)
        case ForgetAgent():
            by.require_operator("forgetting an agent")
            agent = agents.require_known(state, command.name, by)
            return numbered(state, _forgotten(state, rules, agent.id))
        case CreateRoom():
            return rooms.decide_create_room(state, rules, command, by)
        case DeleteRoom():
            return rooms.decide_delete_room(state, command, by)
        case JoinRoom():
            return rooms.decide_join_room(state, rules, command, by)
        case LeaveRoom():
            return _left(state, rules, command, by)
        case CreateChannel():
            return rooms.decide_create_channel(state, rules, command, by)
        case DeleteChannel():
            return rooms.decide_delete_channel(state, command, by)
        case JoinChannel():
            return rooms.decide_join_channel(state, rules, command, by)
        case LeaveChannel():
            return rooms.decide_leave_channel(state, command, by)
        case WithdrawClaim():
            return holding.decide_withdraw(state, command, by)
        case SaveCheckpoint():
            return holding.decide_checkpoint(state, rules, command, by)
        case HandOffLease():
            return holding.decide_hand_off(state, rules, command, by)
        case ParkLease():
            return holding.decide_park(state, command, by)
        case SetPool():
            return holding.decide_set_pool(state, rules, command, by)
        case DeletePool():
            return holding.decide_delete_pool(state, command, by)
        case SetCard():
            return cards.decide_set(state, rules, command, by)
        case _:
            return _decide_rest(state, rules, command, by)


def _forgotten(state: State, rules: Rules, agent: int) -> list[Event]:
    """All that goes with an agent, and the agent."""
    return [
        *holding.decide_forget(state, agent),
        *session_changes.decide_forget_sessions(state, rules, agent),
        *lanes.decide_forget_lanes(state, rules, agent),
        AgentForgotten(agent=agent),
    ]


def _left(state: State, rules: Rules, command: LeaveRoom, by: By) -> list[Event]:
    """The end of a membership, and what ends with it."""
    left = rooms.decide_leave_room(state, command, by)
    if not left:
        return left
    room = state.rooms.by_name[command.room]
    return numbered(state, [*left, *lanes.decide_leave_lanes(state, rules, room, by.require_agent(), lanes.LEFT)])


def _decide_rest(state: State, rules: Rules, command: _Rest, by: By) -> list[Event]:
    """The areas that are asked less often."""
    if isinstance(command, PlanMutation):
        return planning.decide_plan(state, rules, command, by)
    if isinstance(command, ValueMutation):
        return values.decide_value(state, rules, command, by)
    if isinstance(command, MemberMutation):
        return members.decide_members(state, rules, command, by)
    if isinstance(command, LaneMutation):
        return lanes.decide_lane(state, rules, command, by)
    if isinstance(command, SessionMutation):
        return session_changes.decide_session(state, rules, command, by)
    if isinstance(command, QuestionMutation):
        return asking.decide_question(state, rules, command, by)
    if isinstance(command, ResourceMutation):
        return resources.decide_resource(state, rules, command, by)
    if isinstance(command, RoleMutation):
        return role_queues.decide_role(state, rules, command, by)
    if isinstance(command, DeliveryMutation):
        return dead_letters.decide_delivery(state, rules, command, by)
    if isinstance(command, TokenMutation):
        return tokens.decide_token(state, rules, command, by)
    if isinstance(command, HeldMutation):
        return loops.decide_held(state, command, by)
    if isinstance(command, FileMutation):
        return files.decide_file(state, rules, command, by)
    assert_never(command)


_HOME: Final = f"{MAIN_ROOM}:{GENERAL}"
"""The home of who names none."""
_HOMED: Final = frozenset(
    kind for kind in MUTATIONS for field in msgspec.structs.fields(kind) if field.name == "room" and not field.required
) - {SendMessage}
"""Commands that are for the room of the home where they name none."""


def payload_hash(command: Mutation, raw: bytes, by: By) -> str:
    """What tells two payloads under one idempotency key apart: the first 16 bytes of SHA-256 over type and body, and
    the home, where that decides and is not the default. The lease under which a claim is made, and the date on which a
    message expires, are no part of what is asked for: a script that runs again has others."""
    if type(command) is ClaimLease:
        raw = raw[: raw.rindex(b',"under":')] + b"}"  # its last field
    elif type(command) is SendMessage and command.expires_at_ms is not None:
        raw = raw[: raw.rindex(b',"expires_at_ms":')]  # its last field; that there is a date is a part
    if by.home != _HOME:
        raw += _from_home(command, by.home)
    return sha256(type(command).__name__.encode() + b"\0" + raw).hexdigest()[:32]


def _from_home(command: Mutation, home: str) -> bytes:
    """What a command takes from the home of who asks; nothing where it says itself where it belongs."""
    room, _, _ = home.partition(":")
    if isinstance(command, SendMessage):
        taken = messages.taken_from_home(command, home)
    elif isinstance(command, BeginFile):
        taken = "" if command.to or command.channel is not None else home
    else:
        taken = room if type(command) in _HOMED and getattr(command, "room", None) is None else ""
    return b"\0" + taken.encode() if taken and taken not in (MAIN_ROOM, _HOME) else b""


def stamp(events: Sequence[Event], key: str, payload: str) -> list[Event]:
    """The events of one command, the first of them carrying its idempotency key and the hash of its payload."""
    idem = Idem(key=key, hash=payload, count=len(events))
    return [msgspec.structs.replace(events[0], idem=idem), *events[1:]]


_TRACED: Final = (MessagePosted, MessageSent, LeaseHandedOff, LeaseOffered)


def traced(events: Sequence[Event], traceparent: str) -> list[Event]:
    """The events of one command; those that become a message keep the trace context of its sender."""
    return [
        msgspec.structs.replace(event, traceparent=traceparent) if isinstance(event, _TRACED) else event
        for event in events
    ]


def record(state: State, event: Event, actor: str, at_ms: int) -> Recorded:
    """Number an event, fold it in, and return it ready for the journal."""
    recorded: Recorded = new_tuple(Recorded, (state.seq + 1, at_ms, actor, event))
    apply(state, recorded)
    return recorded


def apply(state: State, recorded: Recorded) -> None:
    """Fold one event into the state. Total: an event of the journal is never refused."""
    seq, at_ms, actor, event = recorded
    assert seq > state.seq, f"event {seq} after {state.seq}"
    state.seq = seq
    state.events += 1
    if state.idempotency.by_key:
        state.idempotency.forget_before(at_ms)
    if event.idem is not None and not isinstance(event, LeaseQueued):  # that key takes effect with the grant
        idem = event.idem
        state.idempotency.remember(Remembered(actor, idem.key, idem.hash, seq, idem.count, at_ms))
    if type(event) is LeaseGranted:
        apply_grant(state, seq, at_ms, event)
        return
    if type(event) is LeaseReleased:
        apply_end(state, event.epoch)
        return
    if type(event) is MessagePosted:
        channel = state.rooms.channels[event.channel]
        assert event.n == channel.last_n + 1, "a channel's numbers have no gap"
        channel.last_n = event.n
        state.messages += 1
        if event.link is not None:
            loops.apply_link(state, recorded, event.link)
        if event.mentions:
            inboxes.arrive(
                state, seq, event.mentions, MENTION, priority=event.priority, expires_at_ms=event.expires_at_ms
            )
        return
    if type(event) is MessageSent:
        _apply_sent(state, recorded, event)
        return
    if type(event) is MessagesLent:
        inboxes.apply_delivery(state, at_ms, event)
        return
    if type(event) is MessagesAcked:
        inboxes.apply_delivery(state, at_ms, event)
        loops.note_acked(state, recorded, event)
        return
    match event:
        case MessageDied() | MessageRevived() | MessagesDropped() | MessagesDisowned():
            inboxes.apply_delivery(state, at_ms, event)
        case AgentCreated():
            state.agents.add(Agent(seq, event.name, event.card, event.secret_hash, at_ms, actor))
        case AgentBound():
            state.agents.by_id[event.agent].secret_hash = event.secret_hash
        case AgentUnbound():
            state.agents.by_id[event.agent].secret_hash = None
        case AgentDescribed():
            state.agents.by_id[event.agent].card = event.card
        case AgentForgotten():
            _forget(state, event.agent)
        case JournalStarted():
            state.hub_id = event.hub_id
            state.journal_id = event.journal_id
        case JournalAdopted():
            state.hub_id = event.hub_id
            state.journal_id = event.journal_id
        case JournalWritable() | HubStarted():
            pass
        case JournalCompacted():
            apply_compacted(state, at_ms, event)
        case RoomCreated() | RoomDeleted() | RoomJoined() | RoomLeft() | ChannelCreated() | ChannelDeleted():
            _apply_room(state, seq, at_ms, actor, event)
        case ChannelJoined() | ChannelLeft():
            _apply_room(state, seq, at_ms, actor, event)
        case _:
            _apply_rest(state, recorded, event)


def _apply_sent(state: State, recorded: Recorded, event: MessageSent) -> None:
    state.messages += 1
    sender = state.agents.by_name.get(
        recorded.actor if event.link is None else loops.sender_of(event.link, recorded.actor)
    )
    if event.link is not None:
        loops.apply_link(state, recorded, event.link)
    inboxes.arrive(
        state,
        recorded.seq,
        event.to,
        DIRECT if event.room is None else ALL,
        priority=event.priority,
        expires_at_ms=event.expires_at_ms,
        sender=None if sender is None else sender.id,
    )


def _apply_rest(state: State, recorded: Recorded, event: _RestEvent) -> None:
    """The areas of `_decide_rest`, and what seldom happens to leases."""
    if isinstance(event, Mail):
        inboxes.arrive(state, recorded.seq, event.deliveries, DIRECT)
    if isinstance(event, PlanEvent):
        apply_plan(state, recorded, event)
    elif isinstance(event, ValueEvent):
        values.apply_value(state, recorded, event)
    elif isinstance(event, MemberEvent):
        members.apply_members(state, event)
    elif isinstance(event, LaneEvent):
        lanes.apply_lane(state, recorded, event)
    elif isinstance(event, SessionEvent):
        sessions.apply_session(state, recorded, event)
    elif isinstance(event, QuestionEvent):
        questions.apply_question(state, recorded, event)
    elif isinstance(event, ResourceEvent):
        resources.apply_resource(state, recorded, event)
    elif isinstance(event, RoleEvent):
        role_queues.apply_role(state, recorded, event)
    elif isinstance(event, TokenEvent):
        tokens.apply_token(state, recorded, event)
    elif isinstance(event, MessageHeld | HeldDropped | HeldReleased):
        loops.apply_held(state, event=event, recorded=recorded)
    elif isinstance(event, FileEvent):
        files.apply_file(state, recorded, event)
    else:
        apply_lease(state, recorded, event)


def _apply_room(state: State, seq: int, at_ms: int, actor: str, event: RoomEvent) -> None:
    """The rooms' part of `apply`."""
    match event:
        case RoomCreated():
            room = Room(seq, event.name, event.type, event.bootstrap, at_ms, actor, private=event.private)
            state.rooms.add(room)
        case RoomDeleted():
            state.rooms.remove(event.room)
            for key in [key for key in state.leases.checkpoints if key[0] == event.room]:
                state.leases.keep(key, None)
            state.values.drop_room(event.room)
            state.plan.drop_room(event.room)
            state.sessions.drop_room(event.room)
            state.questions.drop_room(event.room)
            state.lanes.drop_room(event.room)
        case RoomJoined():
            rooms.take_in(state.rooms.by_id[event.room], event.agent, event.after)
        case RoomLeft():
            rooms.put_out(state.rooms.by_id[event.room], event.agent)
            for channel in state.rooms.in_room[event.room].values():
                rooms.put_out(channel, event.agent)
        case ChannelCreated():
            made = Channel(seq, event.room, event.name, event.type, event.bootstrap, at_ms, actor)
            made.private, made.ephemeral, made.schema = event.private, event.ephemeral, event.schema
            state.rooms.add_channel(made)
        case ChannelDeleted():
            state.rooms.remove_channel(event.channel)
        case ChannelJoined():
            channel = state.rooms.channels[event.channel]
            rooms.take_in(channel, event.agent, event.after)
            rooms.take_in(state.rooms.by_id[channel.room], event.agent, 0)
        case ChannelLeft():
            rooms.put_out(state.rooms.channels[event.channel], event.agent)
        case _:
            assert_never(event)


def _forget(state: State, agent: int) -> None:
    for lease in state.leases.live.values():
        if lease.offered_to == agent:
            lease.offer = lease.offered_to = None
    inboxes.leave_all(state, agent)
    for room in state.rooms.by_id.values():
        rooms.put_out(room, agent)
    for channel in state.rooms.channels.values():
        rooms.put_out(channel, agent)
    state.roles.forget(agent)
    state.loops.forget_agent(agent)
    state.idempotency.forget_actor(state.agents.by_id[agent].name)
    state.agents.remove(agent)
    state.soft.presence.forget(agent)
