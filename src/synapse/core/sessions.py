"""Work sessions: the durable record of one agent's run, and the last of its checkpoints.

A session is open until it ends as done or error. Its version is the seq of the last change of its fields, so that who
replaces something can say which version it saw; checkpoints are appended and leave the version as it is. Of a session
that is offered, the last checkpoint waits for whoever claims its task: `resuming` has the rules.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, assert_never

import msgspec
from msgspec import UNSET

from synapse.core.by import By
from synapse.core.events import Recorded
from synapse.core.leases import TaskKey
from synapse.core.rooms import may_see
from synapse.core.session_events import (
    SessionCheckpointed,
    SessionEnded,
    SessionEvent,
    SessionOffered,
    SessionResumed,
    SessionStarted,
    SessionUpdated,
)
from synapse.errors import Rejected, bad_request
from synapse.protocol.names import clipped, shown
from synapse.protocol.terms import ADMIN, Artefact

if TYPE_CHECKING:
    from synapse.core.state import State

WORKING: Final = "working"
WAITING: Final = "waiting_for_input"
DONE: Final = "done"
ERROR: Final = "error"
OPEN_STATES: Final = (WORKING, WAITING)
ENDS: Final = (DONE, ERROR)
SESSION_STATES: Final = (*OPEN_STATES, *ENDS)
ONLINE: Final = "online"
OFFLINE: Final = "offline"

ALIVE_MS: Final = 90_000
"""For so long a beat keeps a session online."""
SESSION_BYTES: Final = 512
"""What a session counts for beside its texts."""
LISTS: Final = ("decisions", "files", "todos")
_encode: Final = msgspec.json.Encoder().encode
_VOID_MIN: Final = 1_024
"""The heap may hold so many void entries before it is made anew."""


@dataclass(slots=True)
class Point:
    """The last checkpoint of a session. seq: of its event. n: the first one is 1."""

    seq: int
    n: int
    data: msgspec.Raw
    artefacts: tuple[Artefact, ...]
    at_ms: int
    task: str | None
    lane: int | None
    epoch: int | None

    @property
    def size(self) -> int:
        """Bytes it counts for."""
        return size_of_point(self.data, self.artefacts)


def size_of_point(data: msgspec.Raw, artefacts: tuple[Artefact, ...]) -> int:
    """Bytes that a checkpoint counts for."""
    return len(bytes(data)) + sum(len(item.path) + 128 for item in artefacts)


def size_of_texts(metadata: msgspec.Raw, *texts: str | None) -> int:
    """Bytes that a session with these texts counts for: as JSON, so that its answer fits into a frame."""
    return SESSION_BYTES + len(_encode(texts)) + len(bytes(metadata))


@dataclass(slots=True)
class Session:
    """One run. id: seq of its start. agent, owner: id and name of whose it is. ended: seq of its end, 0 while it is
    open. is_offered: its last checkpoint waits for a claim. is_served: it was offered since its date came.
    resumed, resumed_n: the epoch of the lease under which it was last resumed, and how many checkpoints it had."""

    id: int
    room: int
    agent: int
    owner: str
    version: int
    display_name: str
    state: str
    repo: str | None
    task: str | None
    summary: str
    metadata: msgspec.Raw
    started_at_ms: int
    updated_at_ms: int
    decisions: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    todos: tuple[str, ...] = ()
    points: int = 0
    last: Point | None = None
    resumable_at_ms: int | None = None
    is_served: bool = False
    is_offered: bool = False
    resumed: int | None = None
    resumed_n: int = 0
    resumed_by: str | None = None
    resumed_at_ms: int | None = None
    ended: int = 0
    ended_at_ms: int | None = None
    ended_by: str | None = None
    reason: str | None = None

    @property
    def is_open(self) -> bool:
        """True until it has ended."""
        return not self.ended

    @property
    def key(self) -> TaskKey | None:
        """Room and task, if it has one."""
        return None if self.task is None else (self.room, self.task)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many decisions, files and todos."""
        return len(self.decisions), len(self.files), len(self.todos)

    @property
    def own_size(self) -> int:
        """Bytes that its fields count for."""
        texts = (self.display_name, self.repo, self.task, self.summary, self.reason)
        return size_of_texts(self.metadata, *texts, *self.decisions, *self.files, *self.todos)

    @property
    def size(self) -> int:
        """Bytes it counts for, with its last checkpoint."""
        return self.own_size + (0 if self.last is None else self.last.size)


@dataclass(slots=True)
class Sessions:
    """All sessions that the state keeps, and the indexes over them.

    of_agent: those of an agent, in the order of their starts. of_task: those with a task. offers: by task the one that
    is offered; there is one at most. resumed: by the epoch under which it was. ended: those that have, the longest ago
    first.
    """

    by_id: dict[int, Session] = field(default_factory=dict)
    of_agent: dict[int, dict[int, None]] = field(default_factory=dict)
    of_task: dict[TaskKey, dict[int, None]] = field(default_factory=dict)
    offers: dict[TaskKey, int] = field(default_factory=dict)
    resumed: dict[int, int] = field(default_factory=dict)
    ended: dict[int, None] = field(default_factory=dict)
    bytes: int = 0
    _dates: list[tuple[int, int]] = field(default_factory=list)

    def put(self, session: Session) -> None:
        """File a session. They come in the order of their starts."""
        self.by_id[session.id] = session
        self.bytes += session.size
        self.of_agent.setdefault(session.agent, {})[session.id] = None
        self._file_task(session)
        if session.ended:
            self.ended[session.id] = None
        if session.resumed is not None:
            self.resumed[session.resumed] = session.id
        self.expect(session)

    def drop(self, session_id: int) -> None:
        """A session leaves the state."""
        session = self.by_id.pop(session_id)
        self.bytes -= session.size
        mine = self.of_agent[session.agent]
        del mine[session_id]
        if not mine:
            del self.of_agent[session.agent]
        self._unfile_task(session)
        self.ended.pop(session_id, None)
        if session.resumed is not None and self.resumed.get(session.resumed) == session_id:
            del self.resumed[session.resumed]

    def drop_room(self, room: int) -> None:
        """A room is no more."""
        for gone in [session.id for session in self.by_id.values() if session.room == room]:
            self.drop(gone)

    def sort_ends(self) -> None:
        """Bring those that have ended into the order of their ends, after all were filed by their starts."""
        self.ended = dict.fromkeys(sorted(self.ended, key=lambda at: self.by_id[at].ended))

    def retask(self, session: Session, task: str | None) -> None:
        """Another task, or none; what was offered for the one before is not any more."""
        if session.task != task:
            self._unfile_task(session)
            session.is_offered = False
            session.task = task
            self._file_task(session)

    def offer(self, session: Session) -> None:
        """The last checkpoint of a session waits for a claim, in place of another's of the same task."""
        key = session.key
        assert key is not None, "only what has a task is offered"
        before = self.offers.get(key)
        if before is not None:
            self.by_id[before].is_offered = False
        session.is_offered = True
        self.offers[key] = session.id

    def withdraw(self, session: Session) -> None:
        """It does not wait any more, if it did."""
        if session.is_offered:
            assert session.key is not None, "only what has a task is offered"
            session.is_offered = False
            del self.offers[session.key]

    def resume(self, session: Session, epoch: int, by: str, at_ms: int) -> None:
        """Somebody goes on from its last checkpoint."""
        self.withdraw(session)
        if session.resumed is not None:
            self.resumed.pop(session.resumed, None)
        session.resumed, session.resumed_by, session.resumed_at_ms = epoch, by, at_ms
        session.resumed_n = session.points
        self.resumed[epoch] = session.id

    def expect(self, session: Session) -> None:
        """Note the date from which a session may be resumed; dates that do not hold any more do not pile up."""
        if session.resumable_at_ms is None or session.is_served:
            return
        if len(self._dates) > _VOID_MIN + 2 * len(self.by_id):
            self._dates = [entry for entry in self._dates if self._at(*entry) is not None]
            heapify(self._dates)
        heappush(self._dates, (session.resumable_at_ms, session.id))

    def due(self, at_ms: int, most: int) -> Iterator[Session]:
        """Sessions whose date has come, earliest first, at most so many; each is told once."""
        while self._dates and self._dates[0][0] <= at_ms and most > 0:
            session = self._at(*heappop(self._dates))
            if session is not None:
                most -= 1
                yield session

    def _at(self, date_ms: int, session_id: int) -> Session | None:
        """A session, if this is its date and it was not offered since."""
        session = self.by_id.get(session_id)
        is_so = session is not None and session.resumable_at_ms == date_ms and not session.is_served
        return session if is_so else None

    def _file_task(self, session: Session) -> None:
        if session.key is not None:
            self.of_task.setdefault(session.key, {})[session.id] = None
            if session.is_offered:
                self.offers[session.key] = session.id

    def _unfile_task(self, session: Session) -> None:
        key = session.key
        if key is None:
            return
        there = self.of_task[key]
        del there[session.id]
        if not there:
            del self.of_task[key]
        if session.is_offered:
            del self.offers[key]

    def latest(self, agent: int) -> Session | None:
        """The session that an agent started last."""
        mine = self.of_agent.get(agent)
        return self.by_id[next(reversed(mine))] if mine else None

    def open_of(self, agent: int) -> list[Session]:
        """The open sessions of an agent, in the order of their starts."""
        return [session for at in self.of_agent.get(agent, ()) if (session := self.by_id[at]).is_open]


# Which one is meant.


def session_id(seq: int) -> str:
    """The id of the session that began at `seq`, as it is told."""
    return f"s{seq}"


def number_of(text: str, letter: str, what: str) -> int:
    """The seq in an id such as `s12`, given in the field that is called `what`. Raises `Rejected(bad_request)`."""
    digits = text[1:]
    if text[:1] != letter or not digits.isascii() or not digits.isdigit() or len(digits) > 16:
        raise bad_request(
            f"{shown(text)} is no id of a {what}: {letter} and digits", f"$.body.{what}", {"id": clipped(text)}
        )
    return int(digits)


def find_session(state: "State", text: str, by: By) -> Session:
    """The session of that id, if who asks may see its room. Raises `Rejected`: `bad_request`, `not_found`."""
    session = state.sessions.by_id.get(number_of(text, "s", "session"))
    if session is None or not may_see(state.rooms.by_id[session.room], by):
        raise Rejected(
            "not_found",
            f"no session {text}, or it ended long ago: synapse session list shows what there is",
            {"session": text},
        )
    return session


def own_session(state: "State", text: str | None, by: By) -> Session:
    """The open session that who asks may change: the one named, else its latest open one.

    Raises `Rejected`: `not_found`, `not_permitted`, `illegal_transition` when it has ended.
    """
    if text is None:
        agent = by.require_agent()
        mine = [session for session in state.sessions.open_of(agent) if may_see(state.rooms.by_id[session.room], by)]
        if not mine:
            raise Rejected(
                "not_found",
                f"{by.actor} has no open session: begin one with synapse session start",
                {"agent": by.actor, "next": "synapse session start"},
            )
        return mine[-1]
    session = find_session(state, text, by)
    if not by.has_role(ADMIN) and session.agent != by.require_agent():
        raise Rejected(
            "not_permitted",
            f"{text} is a session of {session.owner}, who may change it, and so may an operator",
            {"session": text, "agent": session.owner},
        )
    if not session.is_open:
        raise Rejected(
            "illegal_transition",
            f"{text} has ended as {session.state} at {session.ended_at_ms} ms, by {session.ended_by}: begin another "
            "with synapse session start",
            {"session": text, "state": session.state, "at_ms": session.ended_at_ms, "by": session.ended_by},
        )
    return session


# What is seen of it.


def shown_state(state: "State", session: Session) -> str:
    """The state of a session as others see it: it waits for input while a question of it is open."""
    if session.is_open and session_id(session.id) in state.questions.of_session:
        return WAITING
    return session.state


def presence_of(state: "State", session: Session, lease_ms: int) -> str:
    """online: its agent has an open lasting connection or waits in a long poll, or the session beat just now."""
    if not session.is_open:
        return OFFLINE
    here = state.soft.presence.here.get(session.agent)
    if here is not None and here.is_online:
        return ONLINE
    beat_ms = state.soft.beats.get(session.id)
    return ONLINE if beat_ms is not None and lease_ms - beat_ms < ALIVE_MS else OFFLINE


# What `apply` does.


def point_from(recorded: Recorded, event: SessionCheckpointed) -> Point:
    """A checkpoint, from its event."""
    return Point(
        seq=recorded.seq,
        n=event.n,
        data=event.data,
        artefacts=event.artefacts,
        at_ms=recorded.at_ms,
        task=event.task,
        lane=event.lane,
        epoch=event.epoch,
    )


def apply_session(state: "State", recorded: Recorded, event: SessionEvent) -> None:
    """The sessions' part of `kernel.apply`."""
    sessions = state.sessions
    match event:
        case SessionStarted():
            _start(sessions, recorded, event)
        case SessionUpdated():
            session = sessions.by_id[event.session]
            sessions.bytes -= session.size
            _update(sessions, recorded, session, event)
            sessions.bytes += session.size
        case SessionCheckpointed():
            session = sessions.by_id[event.session]
            sessions.bytes -= session.size
            session.points = event.n
            session.last = point_from(recorded, event)
            sessions.bytes += session.size
            if event.lane in state.lanes.by_id:
                state.lanes.by_id[event.lane].checkpoints += 1
        case SessionEnded():
            _end(sessions, recorded, event)
            state.soft.beats.pop(event.session, None)
        case SessionOffered():
            session = sessions.by_id[event.session]
            sessions.offer(session)
            date_ms = session.resumable_at_ms
            session.is_served = session.is_served or (date_ms is not None and date_ms <= recorded.at_ms)
        case SessionResumed():
            sessions.resume(sessions.by_id[event.session], event.epoch, event.by, recorded.at_ms)
        case _:
            assert_never(event)


def _start(sessions: Sessions, recorded: Recorded, event: SessionStarted) -> None:
    sessions.put(
        Session(
            id=recorded.seq,
            room=event.room,
            agent=event.agent,
            owner=event.owner,
            version=recorded.seq,
            display_name=event.display_name,
            state=WORKING,
            repo=event.repo,
            task=event.task,
            summary=event.summary,
            metadata=event.metadata,
            started_at_ms=recorded.at_ms,
            updated_at_ms=recorded.at_ms,
        )
    )


def _update(sessions: Sessions, recorded: Recorded, session: Session, event: SessionUpdated) -> None:
    session.version, session.updated_at_ms = recorded.seq, recorded.at_ms
    session.state = event.state
    sessions.retask(session, event.task)
    if event.display_name is not UNSET:
        session.display_name = event.display_name
    if event.repo is not UNSET:
        session.repo = event.repo
    if event.summary is not UNSET:
        session.summary = event.summary
    if event.metadata is not UNSET:
        session.metadata = event.metadata
    for name in LISTS:
        lines = getattr(event, name)
        setattr(session, name, lines if name in event.replaced else (*getattr(session, name), *lines))
    if event.resumable_at_ms is not UNSET:
        session.resumable_at_ms, session.is_served = event.resumable_at_ms or None, False
        sessions.expect(session)


def _end(sessions: Sessions, recorded: Recorded, event: SessionEnded) -> None:
    session = sessions.by_id[event.session]
    sessions.bytes -= session.size
    session.state, session.reason = event.state, event.reason
    session.version, session.updated_at_ms = recorded.seq, recorded.at_ms
    session.ended, session.ended_at_ms, session.ended_by = recorded.seq, recorded.at_ms, recorded.actor
    sessions.bytes += session.size
    sessions.ended[session.id] = None
    if event.state == DONE:
        sessions.withdraw(session)
    for gone in event.dropped:
        sessions.drop(gone)
