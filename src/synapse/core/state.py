"""Everything the hub knows, in two halves: what the journal can rebuild, and what dies with the process.

The durable half is the fold of the journal: it has a canonical dump and a digest, and only `kernel.apply` writes it.
The soft half (presence, lends, deadlines of leases) is empty at start, never journalled and outside the digest.
"""

from dataclasses import dataclass, field, replace
from hashlib import sha256

import msgspec

from synapse.core.agents import Agent, Agents
from synapse.core.files import Chunk, File, Files
from synapse.core.idempotency import Idempotency, Remembered
from synapse.core.inboxes import Entry, Inbox, Lending, enlist
from synapse.core.lanes import Lane, Lanes
from synapse.core.lease_events import enqueue
from synapse.core.leases import Kept, Lease, Leases, Offer, Place, Pool
from synapse.core.leasing import Leasing
from synapse.core.loops import Held, Loops, Trace
from synapse.core.plan import Plan, Task
from synapse.core.presence import Presence
from synapse.core.questions import Question, Questions
from synapse.core.resources import expect_end
from synapse.core.retention import Retained
from synapse.core.role_queues import Role, Roles
from synapse.core.rooms import Channel, Room, Rooms
from synapse.core.sessions import Session, Sessions
from synapse.core.signals import Signalling
from synapse.core.tokens import Token, Tokens, TokenUse
from synapse.core.values import Value, Values


@dataclass(slots=True)
class Soft:
    """What a restart forgets on purpose."""

    presence: Presence = field(default_factory=Presence)
    lending: Lending = field(default_factory=Lending)
    leasing: Leasing = field(default_factory=Leasing)
    beats: dict[int, int] = field(default_factory=dict)
    """When each session was last heard of, on the lease clock."""
    signals: Signalling = field(default_factory=Signalling)
    tokens: dict[int, TokenUse] = field(default_factory=dict)


@dataclass(slots=True)
class State:
    """The hub's state. seq: the last event folded in. messages: how many were ever accepted."""

    journal_id: str = ""
    hub_id: str = ""
    seq: int = 0
    events: int = 0
    messages: int = 0
    agents: Agents = field(default_factory=Agents)
    rooms: Rooms = field(default_factory=Rooms)
    roles: Roles = field(default_factory=Roles)
    leases: Leases = field(default_factory=Leases)
    values: Values = field(default_factory=Values)
    plan: Plan = field(default_factory=Plan)
    sessions: Sessions = field(default_factory=Sessions)
    questions: Questions = field(default_factory=Questions)
    lanes: Lanes = field(default_factory=Lanes)
    tokens: Tokens = field(default_factory=Tokens)
    files: Files = field(default_factory=Files)
    loops: Loops = field(default_factory=Loops)
    idempotency: Idempotency = field(default_factory=Idempotency)
    retention: Retained = field(default_factory=Retained)
    soft: Soft = field(default_factory=Soft)


class _Dump(msgspec.Struct, frozen=True, kw_only=True):
    """The durable half as plain data, in a fixed order. It is the payload of a snapshot, and of the base of a compacted
    journal, which later releases must read too: whatever is added here has a default."""

    format: int
    journal_id: str
    hub_id: str
    seq: int
    events: int
    messages: int
    agents: list[Agent]
    inboxes: list[tuple[int, int, list[Entry]]]
    rooms: list[Room]
    channels: list[Channel]
    pools: list[tuple[str, int, Offer | None]]
    leases: list[Lease]
    places: list[Place]
    checkpoints: list[tuple[int, str, Kept]]
    values: list[tuple[int, list[Value]]]
    plans: list[tuple[int, list[Task]]] = []
    roles: list[tuple[Role, int, list[Entry]]] = []
    sessions: list[Session] = []
    questions: list[Question] = []
    closed_questions: list[Question] = []
    lanes: list[Lane] = []
    tokens: list[Token] = []
    files: list[tuple[File, list[tuple[int, Chunk]]]] = []
    traces: list[tuple[int, int, int, int, int]] = []
    causes: list[tuple[int, int, int]] = []
    hours: list[tuple[int, int, int]] = []
    held: list[Held] = []
    remembered: list[Remembered]
    retention: Retained = msgspec.field(default_factory=Retained)


FORMAT = 5
FORMAT_OF_BASES = 4
"""The first release that compacted journals wrote this one."""

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(_Dump).decode


def new_state() -> State:
    """The state before the first event."""
    return State()


def encode_state(state: State) -> bytes:
    """The canonical dump: the same state gives the same bytes, however it came about."""
    agents = sorted(state.agents.by_id.values(), key=lambda agent: agent.id)
    return _encode(
        _Dump(
            format=FORMAT,
            journal_id=state.journal_id,
            hub_id=state.hub_id,
            seq=state.seq,
            events=state.events,
            messages=state.messages,
            agents=agents,
            inboxes=[
                (agent.id, inbox.last_n, sorted(inbox.entries.values(), key=lambda entry: entry.seq))
                for agent in agents
                for inbox in (state.agents.inboxes[agent.id],)
            ],
            rooms=sorted(state.rooms.by_id.values(), key=lambda room: room.id),
            channels=sorted(state.rooms.channels.values(), key=lambda channel: channel.id),
            pools=[
                (pool.name, pool.capacity, pool.offer)
                for pool in sorted(state.leases.pools.values(), key=lambda pool: pool.name)
            ],
            leases=sorted(state.leases.live.values(), key=lambda lease: lease.epoch),
            places=sorted(state.leases.places.values(), key=lambda place: place.seq),
            checkpoints=[(*key, kept) for key, kept in sorted(state.leases.checkpoints.items())],
            values=[
                (room, [value for _, value in sorted(there.items())])
                for room, there in sorted(state.values.by_room.items())
            ],
            plans=[
                (room, [task for _, task in sorted(plan.tasks.items())])
                for room, plan in sorted(state.plan.by_room.items())
            ],
            roles=[
                (role, queue.last_n, sorted(queue.entries.values(), key=lambda entry: entry.seq))
                for _, role in sorted(state.roles.by_id.items())
                for queue in (state.agents.inboxes[role.id],)
            ],
            sessions=sorted(state.sessions.by_id.values(), key=lambda session: session.id),
            questions=sorted(state.questions.open.values(), key=lambda question: question.id),
            closed_questions=list(state.questions.closed.values()),
            lanes=sorted(state.lanes.by_id.values(), key=lambda lane: lane.id),
            tokens=sorted(state.tokens.by_id.values(), key=lambda token: token.id),
            files=[(replace(file, chunks={}), sorted(file.chunks.items())) for file in state.files.by_id.values()],
            traces=[(seq, one.cause, one.origin, one.hops, one.agent) for seq, one in state.loops.traces.items()],
            causes=[(agent, *last) for agent, last in sorted(state.loops.acked.items())],
            hours=[(agent, *sent) for agent, sent in sorted(state.loops.hours.items())],
            held=list(state.loops.held.values()),
            remembered=list(state.idempotency.in_order()),
            retention=state.retention,
        )
    )


def decode_state(dump: bytes) -> State:
    """The state of a canonical dump, with an empty soft half. Raises `msgspec.MsgspecError` when it is none of ours."""
    plain = _decode(dump)
    if plain.format != FORMAT:
        raise msgspec.ValidationError(f"a dump of format {plain.format}; this release reads {FORMAT}")
    return _state_of(plain)


def lift_state(dump: bytes) -> State:
    """As `decode_state`, of any release since journals can be compacted: the events before a base are gone, so its dump
    cannot be passed over. What was added to the dump since then has its default."""
    plain = _decode(dump)
    if not FORMAT_OF_BASES <= plain.format <= FORMAT:
        raise msgspec.ValidationError(
            f"a dump of format {plain.format}; this release reads {FORMAT_OF_BASES} to {FORMAT}"
        )
    return _state_of(plain)


def _state_of(plain: _Dump) -> State:
    state = State(
        journal_id=plain.journal_id,
        hub_id=plain.hub_id,
        seq=plain.seq,
        events=plain.events,
        messages=plain.messages,
    )
    for agent in plain.agents:
        state.agents.add(agent)
    for agent_id, last_n, entries in plain.inboxes:
        state.agents.inboxes[agent_id] = Inbox(last_n=last_n, entries={entry.seq: entry for entry in entries})
    for role, last_n, entries in plain.roles:
        state.roles.add(role)
        state.agents.inboxes[role.id] = Inbox(last_n=last_n, entries={entry.seq: entry for entry in entries})
    for inbox_id, inbox in state.agents.inboxes.items():
        for entry in inbox.entries.values():
            enlist(state, inbox_id, entry)
    for room in plain.rooms:
        state.rooms.add(room)
    for channel in plain.channels:
        state.rooms.add_channel(channel)
    for name, capacity, offer in plain.pools:
        state.leases.pools[name] = Pool(name, capacity, offer)
        if offer is not None:
            offer.data = offer.data.copy()  # not a view of the whole dump
            expect_end(state.leases, name, offer)
    for lease in plain.leases:
        state.leases.add(lease)
    for place in plain.places:
        enqueue(state, place)
    for room_id, task, kept in plain.checkpoints:
        kept.data = kept.data.copy()
        state.leases.keep((room_id, task), kept)
    for room_id, there in plain.values:
        for value in there:
            value.value = value.value.copy()
            state.values.put(room_id, value)
    state.retention = plain.retention
    for room_id, tasks in plain.plans:
        for planned in tasks:
            state.plan.put(room_id, planned)
    for session in plain.sessions:
        session.metadata = session.metadata.copy()
        if session.last is not None:
            session.last.data = session.last.data.copy()
        state.sessions.put(session)
    state.sessions.sort_ends()
    for question in (*plain.questions, *plain.closed_questions):
        question.context = question.context.copy()
    for question in plain.questions:
        state.questions.add(question)
    for question in plain.closed_questions:
        state.questions.keep(question)
    for lane in plain.lanes:
        state.lanes.put(lane)
    state.lanes.sort_ends()
    for token in plain.tokens:
        state.tokens.add(token)
    for seq, *trace in plain.traces:
        state.loops.add(seq, Trace(*trace))
    state.loops.acked = {agent: (seq, at_ms) for agent, seq, at_ms in plain.causes}
    state.loops.hours = {agent: (hour, sent) for agent, hour, sent in plain.hours}
    for held in plain.held:
        held.detach()
        state.loops.hold(held)
    for file, chunks in plain.files:
        file.chunks = dict(chunks)
        state.files.add(file)
    for remembered in plain.remembered:
        state.idempotency.remember(remembered)
    return state


def digest(state: State) -> str:
    """SHA-256 of the canonical dump, hex."""
    return sha256(encode_state(state)).hexdigest()
