"""What becomes of the requests about work sessions: starting, updating, keeping checkpoints, ending."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

import msgspec
from msgspec import UNSET

from synapse.core.bounds import require_chars
from synapse.core.by import By, Rules
from synapse.core.claims import none_of
from synapse.core.events import Event
from synapse.core.holding import lease_of
from synapse.core.lanes import Lane, require_open, side_of
from synapse.core.rooms import room_of
from synapse.core.session_events import SessionCheckpointed, SessionEnded, SessionStarted, SessionUpdated
from synapse.core.sessions import (
    ENDS,
    ERROR,
    LISTS,
    OPEN_STATES,
    Session,
    own_session,
    session_id,
    size_of_point,
    size_of_texts,
)
from synapse.errors import Rejected, bad_request
from synapse.protocol.limits import Limits
from synapse.protocol.names import require_task, shown
from synapse.protocol.session_commands import (
    NOTHING,
    BeatSession,
    EndSession,
    SaveSessionPoint,
    StartSession,
    UpdateSession,
)

if TYPE_CHECKING:
    from synapse.core.state import State

SessionMutation: TypeAlias = StartSession | UpdateSession | BeatSession | SaveSessionPoint | EndSession

FORGOTTEN: Final = "its agent was forgotten"
_EMPTY: Final = msgspec.Raw(b"{}")


def decide_session(state: "State", rules: Rules, command: SessionMutation, by: By) -> list[Event]:
    """The sessions' part of `kernel.decide`."""
    match command:
        case StartSession():
            return decide_start(state, rules, command, by)
        case UpdateSession():
            return decide_update(state, rules, command, by)
        case BeatSession():
            own_session(state, command.session, by)
            return []
        case SaveSessionPoint():
            return decide_point(state, rules, command, by)
        case EndSession():
            return decide_end(state, rules, command, by)
        case _:
            assert_never(command)


def hear_of(state: "State", command: SessionMutation, by: By) -> None:
    """Whoever does something with its session is there. Soft: a restart forgets it."""
    if by.agent is None or isinstance(command, EndSession):
        return
    named = None if isinstance(command, StartSession) else command.session
    state.soft.beats[own_session(state, named, by).id] = by.lease_ms


# Starting.


def decide_start(state: "State", rules: Rules, command: StartSession, by: By) -> list[Event]:
    """A new session. Raises `Rejected`: `not_found`, `bad_request`, `bad_name`, `too_large`, `limit`."""
    agent, limits = by.require_agent(), rules.limits
    room = room_of(state, command.room, by)
    _require_texts(limits, command)
    metadata = _EMPTY if command.metadata == NOTHING else _require_object(command.metadata)
    mine = state.sessions.open_of(agent)
    if len(mine) >= limits.sessions_per_agent_max:
        raise Rejected(
            "limit",
            f"{by.actor} has {len(mine)} open sessions, as many as allowed (sessions_per_agent_max): end one with "
            f"synapse session end --session {session_id(mine[0].id)}",
            {"limit": "sessions_per_agent_max", "value": limits.sessions_per_agent_max},
        )
    display_name = command.display_name or state.agents.by_id[agent].card.display_name or by.actor
    event = SessionStarted(
        room=room.id,
        room_name=room.name,
        agent=agent,
        owner=by.actor,
        display_name=display_name,
        repo=command.repo or None,
        task=command.task or None,
        summary=command.summary,
        metadata=metadata,
    )
    texts = (display_name, event.repo, event.task, event.summary)
    _require_space(state, limits, size_of_texts(metadata, *texts), 0)
    return [event]


def _require_texts(limits: Limits, command: StartSession | UpdateSession) -> None:
    """Raises `Rejected`: `bad_request`, `bad_name`."""
    for name, text, most in (
        ("display_name", command.display_name, limits.title_chars_max),
        ("repo", command.repo, limits.worktree_chars_max),
        ("summary", command.summary, limits.progress_chars_max),
    ):
        if text:
            require_chars(name, text, most)
    if command.display_name == "":
        raise bad_request("a display name has at least one character", "$.body.display_name")
    if command.task:
        require_task(command.task)


def _require_object(data: msgspec.Raw) -> msgspec.Raw:
    if bytes(data)[:1] != b"{":
        raise Rejected(
            "bad_request",
            'metadata is a JSON object, such as {"branch":"main"} - at `$.body.metadata`',
            {"path": "$.body.metadata"},
        )
    return data


def _require_space(state: "State", limits: Limits, size: int, old: int) -> None:
    """One session of `size` bytes without its checkpoint, `old` of which are there. Raises `Rejected`."""
    if size > limits.session_bytes_max:
        raise Rejected(
            "too_large",
            f"the session would have {size} bytes; at most {limits.session_bytes_max}: replace lists by shorter ones",
            {"bytes": size, "session_bytes_max": limits.session_bytes_max},
        )
    _require_total(state, limits, size - old)


def _require_total(state: "State", limits: Limits, more: int) -> None:
    if more > 0 and state.sessions.bytes + more > limits.sessions_bytes_max:
        raise Rejected(
            "limit",
            f"all sessions have {state.sessions.bytes} bytes of {limits.sessions_bytes_max} (sessions_bytes_max): end "
            "some (synapse session end)",
            {"limit": "sessions_bytes_max", "value": limits.sessions_bytes_max},
        )


# Updating.


def decide_update(state: "State", rules: Rules, command: UpdateSession, by: By) -> list[Event]:
    """Other fields, longer lists; nothing when it is so already. Raises `Rejected`: `version_conflict`, `not_found`,
    `not_permitted`, `illegal_transition`, `bad_request`, `too_large`, `limit`."""
    limits = rules.limits
    session = own_session(state, command.session, by)
    if command.if_version is not None and command.if_version != session.version:
        raise Rejected(
            "version_conflict",
            f"{session_id(session.id)} has version {session.version}, and {command.if_version} was expected: look at "
            f"it again (synapse session show {session_id(session.id)})",
            {"session": session_id(session.id), "version": session.version, "expected": command.if_version},
        )
    if command.state is not None and command.state not in OPEN_STATES:
        hint = "; end it with synapse session end" if command.state in ENDS else ""
        raise Rejected(
            "bad_request",
            f"state {shown(command.state)} is none of {', '.join(OPEN_STATES)}{hint} - at `$.body.state`",
            {"path": "$.body.state", "allowed": list(OPEN_STATES)},
        )
    _require_texts(limits, command)
    if command.resumable_at_ms is not None and command.resumable_at_ms < 0:
        raise bad_request("a date is a Unix time in milliseconds; 0 for none", "$.body.resumable_at_ms")
    after, replaced = _after(limits, session, command)
    if after == session:
        return []
    _require_space(state, limits, after.own_size, session.own_size)
    return [_updated(state.rooms.by_id[session.room].name, session, after, command, replaced)]


def _after(limits: Limits, session: Session, command: UpdateSession) -> tuple[Session, tuple[str, ...]]:
    """The session with what the command says, and which of its lists are replaced. Raises `Rejected`."""
    lists: dict[str, tuple[str, ...]] = {}
    replaced: list[str] = []
    for name in LISTS:
        new: tuple[str, ...] = getattr(command.append, name)
        there: tuple[str, ...] = getattr(session, name)
        instead: tuple[str, ...] | None = getattr(command, name)
        if instead is not None and new:
            raise Rejected(
                "bad_request", f"append to {name} or replace them, not both - at `$.body`", {"path": f"$.body.{name}"}
            )
        if instead is not None:
            replaced.append(name)
            new, there = instead, ()
        if name == "files":
            new = tuple(line for line in dict.fromkeys(new) if line not in there)
        _require_lines(limits, name, new, len(there) + len(new))
        lists[name] = (*there, *new)
    date_ms = command.resumable_at_ms
    after = replace(
        session,
        state=command.state or session.state,
        task=session.task if command.task is None else command.task or None,
        display_name=command.display_name or session.display_name,
        repo=session.repo if command.repo is None else command.repo or None,
        summary=session.summary if command.summary is None else command.summary,
        metadata=session.metadata if command.metadata == NOTHING else _require_object(command.metadata),
        resumable_at_ms=session.resumable_at_ms if date_ms is None else date_ms or None,
        decisions=lists["decisions"],
        files=lists["files"],
        todos=lists["todos"],
    )
    return after, tuple(name for name in replaced if getattr(after, name) != getattr(session, name))


def _updated(
    room_name: str, session: Session, after: Session, command: UpdateSession, replaced: tuple[str, ...]
) -> SessionUpdated:
    """The event between the two."""

    def new_lines(name: str) -> tuple[str, ...]:
        lines: tuple[str, ...] = getattr(after, name)
        was: tuple[str, ...] = getattr(session, name)
        return lines if name in replaced else lines[len(was) :] if getattr(command, name) is None else ()

    return SessionUpdated(
        session=session.id,
        room=session.room,
        room_name=room_name,
        owner=session.owner,
        state=after.state,
        sizes=after.sizes,
        task=after.task,
        display_name=UNSET if after.display_name == session.display_name else after.display_name,
        repo=UNSET if after.repo == session.repo else after.repo,
        summary=UNSET if after.summary == session.summary else after.summary,
        metadata=UNSET if after.metadata == session.metadata else after.metadata,
        resumable_at_ms=UNSET if after.resumable_at_ms == session.resumable_at_ms else after.resumable_at_ms or 0,
        decisions=new_lines("decisions"),
        files=new_lines("files"),
        todos=new_lines("todos"),
        replaced=replaced,
    )


def _require_lines(limits: Limits, name: str, lines: Sequence[str], total: int) -> None:
    """Raises `Rejected`: `bad_request`, `limit`."""
    for line in lines:
        if not 0 < len(line) <= limits.session_item_chars_max:
            raise Rejected(
                "bad_request",
                f"a line of {name} has {len(line)} characters; 1 to {limits.session_item_chars_max} - at "
                f"`$.body.{name}`",
                {"path": f"$.body.{name}", "session_item_chars_max": limits.session_item_chars_max},
            )
    if total > limits.session_items_max:
        raise Rejected(
            "limit",
            f"the session would have {total} {name}; at most {limits.session_items_max} (session_items_max): replace "
            "them by fewer",
            {"limit": "session_items_max", "value": limits.session_items_max},
        )


# Checkpoints.


def decide_point(state: "State", rules: Rules, command: SaveSessionPoint, by: By) -> list[Event]:
    """A snapshot. Raises `Rejected`: `not_found`, `not_permitted`, `illegal_transition`, `stale_epoch`, `not_holder`,
    `bad_request`, `too_large`, `limit`."""
    limits = rules.limits
    lane = None if command.lane is None else side_of(state, command.lane, by)
    if lane is not None:
        require_open(lane, by.at_ms, "takes no checkpoints")
    session = own_session(state, _session_of(state, command, lane, by), by)
    if command.epoch is not None:
        if session.task is None:
            raise Rejected(
                "bad_request",
                f"{session_id(session.id)} has no task, so an epoch says nothing - at `$.body.epoch`",
                {"path": "$.body.epoch"},
            )
        lease_of(state, session.task, state.rooms.by_id[session.room].name, command.epoch, by)
    if len(command.artefacts) > limits.artefacts_max:
        raise Rejected(
            "too_large",
            f"{len(command.artefacts)} artefacts; at most {limits.artefacts_max}",
            {"artefacts": len(command.artefacts), "artefacts_max": limits.artefacts_max},
        )
    size = size_of_point(command.data, command.artefacts)
    if size > limits.checkpoint_bytes_max:
        raise Rejected(
            "too_large",
            f"the checkpoint has {size} bytes; at most {limits.checkpoint_bytes_max}: keep a reference to a file",
            {"bytes": size, "checkpoint_bytes_max": limits.checkpoint_bytes_max},
        )
    if command.data == NOTHING and not command.artefacts:
        raise Rejected(
            "bad_request", "a checkpoint holds data or artefacts - at `$.body.data`", {"path": "$.body.data"}
        )
    _require_total(state, limits, size - (0 if session.last is None else session.last.size))
    return [
        SessionCheckpointed(
            session=session.id,
            room=session.room,
            room_name=state.rooms.by_id[session.room].name,
            owner=session.owner,
            n=session.points + 1,
            data=command.data,
            artefacts=command.artefacts,
            task=session.task,
            lane=None if lane is None else lane.id,
            epoch=command.epoch,
        )
    ]


def _session_of(state: "State", command: SaveSessionPoint, lane: Lane | None, by: By) -> str | None:
    """The session that a checkpoint is of: the one named, else the sender's own of the lane, else the latest open."""
    if command.session is not None or lane is None or lane.sender != by.agent:
        return command.session
    session = state.sessions.by_id.get(lane.session)
    return session_id(lane.session) if session is not None and session.is_open else None


# Ending.


def decide_end(state: "State", rules: Rules, command: EndSession, by: By) -> list[Event]:
    """The end of a run. Raises `Rejected`: `not_found`, `not_permitted`, `illegal_transition`, `bad_request`."""
    session = own_session(state, command.session, by)
    if command.state not in ENDS:
        raise none_of("state", command.state, ENDS)
    if command.reason is not None:
        require_chars("reason", command.reason, rules.limits.note_chars_max)
    return _ended(state, rules, [session], command.state, command.reason)


def decide_forget_sessions(state: "State", rules: Rules, agent: int) -> list[Event]:
    """All open sessions of a forgotten agent end."""
    return _ended(state, rules, state.sessions.open_of(agent), ERROR, FORGOTTEN)


def _ended(state: "State", rules: Rules, ending: Sequence[Session], how: str, reason: str | None) -> list[Event]:
    """The ends of these sessions; the last one names what leaves the state because so many have ended."""
    dropped = tuple(_surplus(state, rules.limits, ending))
    return [
        SessionEnded(
            session=session.id,
            room=session.room,
            room_name=state.rooms.by_id[session.room].name,
            owner=session.owner,
            state=how,
            sizes=session.sizes,
            task=session.task,
            reason=reason,
            dropped=dropped if session is ending[-1] else (),
        )
        for session in ending
    ]


def _surplus(state: "State", limits: Limits, ending: Sequence[Session]) -> Iterable[int]:
    """Which of those that have ended are too many, the longest ago first: more than may be kept, or than half of the
    bytes of all sessions."""
    sessions = state.sessions
    count = len(sessions.ended) + len(ending)
    size = sum(sessions.by_id[at].size for at in sessions.ended) + sum(session.size for session in ending)
    for at in sessions.ended:
        if count <= limits.sessions_ended_max and size <= limits.sessions_bytes_max // 2:
            return
        count -= 1
        size -= sessions.by_id[at].size
        yield at
