"""What is answered about work sessions: the reply of a mutation from its events, and questions to the state."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, assert_never

import msgspec
from msgspec import UNSET

from synapse.core.agents import require_known
from synapse.core.by import By
from synapse.core.claims import none_of
from synapse.core.events import Recorded
from synapse.core.resuming import is_resumable
from synapse.core.rooms import may_see, require_room
from synapse.core.session_changes import SessionMutation
from synapse.core.session_events import SessionCheckpointed, SessionEnded, SessionStarted, SessionUpdated
from synapse.core.sessions import (
    ALIVE_MS,
    OFFLINE,
    SESSION_STATES,
    Point,
    Session,
    find_session,
    own_session,
    point_from,
    presence_of,
    session_id,
    shown_state,
)
from synapse.errors import Rejected
from synapse.protocol.names import require_agent_name
from synapse.protocol.replies import Reply
from synapse.protocol.session_commands import (
    BeatSession,
    EndSession,
    ListSessions,
    SaveSessionPoint,
    ShowSession,
    StartSession,
    UpdateSession,
)
from synapse.protocol.session_replies import SessionAlive, SessionInfo, SessionKept, SessionPoint
from synapse.protocol.terms import INT_MAX

if TYPE_CHECKING:
    from synapse.core.state import State


def answer_session(state: "State", command: SessionMutation, by: By, events: Sequence[Recorded], cursor: str) -> Reply:
    """The sessions' part of `answers.answer`."""
    match command:
        case StartSession() | UpdateSession() | EndSession():
            if not events:
                assert isinstance(command, UpdateSession), "only an update may change nothing"
                return _unchanged(state, own_session(state, command.session, by), cursor)
            return _kept(events[0], cursor)
        case BeatSession():
            session = own_session(state, command.session, by)
            return SessionAlive(session=session_id(session.id), alive_ms=ALIVE_MS, cursor=cursor)
        case SaveSessionPoint():
            event = events[0].event
            assert isinstance(event, SessionCheckpointed)
            return msgspec.structs.replace(point_of(events[0], event, is_whole=False), cursor=cursor)
        case _:
            assert_never(command)


def _kept(recorded: Recorded, cursor: str) -> SessionKept:
    event = recorded.event
    assert isinstance(event, SessionStarted | SessionUpdated | SessionEnded)
    decisions, files, todos = (0, 0, 0) if isinstance(event, SessionStarted) else event.sizes
    return SessionKept(
        session=session_id(recorded.seq if isinstance(event, SessionStarted) else event.session),
        room=event.room_name,
        agent=event.owner,
        version=recorded.seq,
        state="working" if isinstance(event, SessionStarted) else event.state,
        task=event.task,
        decisions=decisions,
        files=files,
        todos=todos,
        changed=True,
        cursor=cursor,
    )


def _unchanged(state: "State", session: Session, cursor: str) -> SessionKept:
    decisions, files, todos = session.sizes
    return SessionKept(
        session=session_id(session.id),
        room=state.rooms.by_id[session.room].name,
        agent=session.owner,
        version=session.version,
        state=session.state,
        task=session.task,
        decisions=decisions,
        files=files,
        todos=todos,
        changed=False,
        cursor=cursor,
    )


def point_of(recorded: Recorded, event: SessionCheckpointed, *, is_whole: bool) -> SessionPoint:
    """A checkpoint as it is told, from its event. is_whole: with its data and artefacts."""
    return _point(point_from(recorded, event), event.session, event.owner, is_whole=is_whole)


def _point(point: Point, session: int, owner: str, *, is_whole: bool) -> SessionPoint:
    return SessionPoint(
        checkpoint=point.seq,
        session=session_id(session),
        n=point.n,
        agent=owner,
        task=point.task,
        lane=None if point.lane is None else f"l{point.lane}",
        epoch=point.epoch,
        bytes=point.size,
        at_ms=point.at_ms,
        data=point.data if is_whole else UNSET,
        artefacts=point.artefacts if is_whole else UNSET,
    )


def look_session(state: "State", query: ShowSession, by: By, cursor: str) -> SessionInfo:
    """One session with everything about it. Raises `Rejected`: `bad_request`, `bad_name`, `not_found`."""
    if query.session is not None:
        if query.agent is not None:
            raise Rejected("bad_request", "give session or agent, not both - at `$.body`", {"path": "$.body"})
        return session_info(state, find_session(state, query.session, by), by, cursor=cursor)
    return session_info(state, latest_session(state, query.agent, by), by, cursor=cursor)


def latest_session(state: "State", named: str | None, by: By) -> Session:
    """The latest session of an agent, open or not: of the one named, else of who asks. Raises `Rejected`:
    `bad_request`, `bad_name`, `not_found`."""
    name = by.actor if named is None else require_agent_name(named)
    if named is None:
        by.require_agent()
    agent = state.agents.by_name.get(name)
    mine = state.sessions.of_agent.get(agent.id, {}) if agent is not None else {}
    for at in reversed(mine):
        session = state.sessions.by_id[at]
        if may_see(state.rooms.by_id[session.room], by):
            return session
    raise Rejected("not_found", f"{name} has no session: synapse session list shows what there is", {"agent": name})


def session_info(state: "State", session: Session, by: By, *, cursor: str | None = None) -> SessionInfo:
    """A session as it is told: in a list, or with `cursor` as an answer of its own, with all its texts."""
    is_whole = cursor is not None
    decisions, files, todos = session.sizes
    lanes = sum(lane.session == session.id for lane in state.lanes.open_of(session.agent))
    last = None if session.last is None else _point(session.last, session.id, session.owner, is_whole=True)
    return SessionInfo(
        session=session_id(session.id),
        room=state.rooms.by_id[session.room].name,
        agent=session.owner,
        display_name=session.display_name,
        version=session.version,
        state=shown_state(state, session),
        declared=session.state,
        presence=presence_of(state, session, by.lease_ms),
        repo=session.repo,
        task=session.task,
        summary=session.summary,
        counts={"decisions": decisions, "files": files, "todos": todos, "checkpoints": session.points, "lanes": lanes},
        started_at_ms=session.started_at_ms,
        updated_at_ms=session.updated_at_ms,
        ended_at_ms=session.ended_at_ms,
        reason=session.reason,
        resumable_at_ms=session.resumable_at_ms,
        resumable=is_resumable(state, session),
        resumed_by=session.resumed_by,
        resumed_at_ms=session.resumed_at_ms,
        decisions=session.decisions if is_whole else UNSET,
        files=session.files if is_whole else UNSET,
        todos=session.todos if is_whole else UNSET,
        metadata=session.metadata if is_whole else UNSET,
        last=last if is_whole else UNSET,
        cursor=UNSET if cursor is None else cursor,
    )


def sessions_to_list(state: "State", query: ListSessions, by: By) -> list[str]:
    """What a list goes through, as texts that sort with the latest session first. Raises `Rejected`."""
    room = None if query.room is None else require_room(state, query.room, by).id
    if query.agent is not None:
        require_agent_name(query.agent)
    if query.state is not None and query.state not in (*SESSION_STATES, OFFLINE):
        raise none_of("state", query.state, (*SESSION_STATES, OFFLINE))
    found = sorted(
        f"{INT_MAX - session.id:016d}"
        for session in state.sessions.by_id.values()
        if may_see(state.rooms.by_id[session.room], by)
        and (room is None or session.room == room)
        and (query.agent is None or session.owner == query.agent)
        and (query.resumable is None or is_resumable(state, session) == query.resumable)
        and (query.state is None or _is_in(state, session, query.state, by))
    )
    if query.agent is not None and not found:
        require_known(state, query.agent, by)
    return found


def _is_in(state: "State", session: Session, wanted: str, by: By) -> bool:
    """True when it is in that state. offline: it is open, and nobody is there."""
    if wanted == OFFLINE:
        return session.is_open and presence_of(state, session, by.lease_ms) == OFFLINE
    return shown_state(state, session) == wanted


def listed_session(state: "State", name: str, by: By) -> SessionInfo:
    """One of `sessions_to_list`."""
    return session_info(state, state.sessions.by_id[INT_MAX - int(name)], by)
