"""Who goes on where a run broke off.

    offered   when the lease on a session's task ends without its holder's doing; or, when the session gave a date
              (`resumable_at_ms`), from that date on, once its agent does not hold the task any more
    resumed   by the next claim of the task, whose answer brings the last checkpoint

Rule 1: a task has one offer at most, the latest. Rule 2: what was resumed is offered again only with a newer
checkpoint, or when the one who resumed it lost the lease in turn. Rule 3: nothing is offered for a task that has ended,
nor of a session that ended as done.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from synapse.core.by import By
from synapse.core.events import (
    Event,
    LeaseExpired,
    LeaseGranted,
    LeaseHandedOff,
    LeaseQueued,
    LeaseReleased,
    LeaseRevoked,
    Recorded,
)
from synapse.core.leases import NO_LEASES, TaskKey
from synapse.core.lifecycle import ENDS as TASK_ENDS
from synapse.core.mail import Letter, deliveries_to
from synapse.core.plan_events import TaskMoved, TaskRemoved
from synapse.core.refusals import in_room
from synapse.core.rooms import insiders, room_of
from synapse.core.session_events import SessionCheckpointed, SessionOffered, SessionResumed, SessionUpdated
from synapse.core.sessions import DONE, Session, session_id
from synapse.protocol.commands import ClaimLease
from synapse.protocol.replies import Lease
from synapse.protocol.session_replies import Resume

if TYPE_CHECKING:
    from synapse.core.state import State

EXPIRED: Final = "expired"
REVOKED: Final = "revoked"
DATE: Final = "resumable_at"
DUE_MAX: Final = 200
"""Dates that are looked at in one tick."""
LINES_BYTES_MAX: Final = 4 * 1024
"""Of each list the newest lines up to so many bytes go with an answer."""

_encode: Final = msgspec.json.Encoder().encode


# What follows from events.


def resumptions(state: "State", recorded: Sequence[Recorded]) -> list[Event]:
    """What these events, which are folded in already, offer, and what they take up."""
    offers: dict[TaskKey, tuple[Session, str]] = {}
    granted: dict[TaskKey, tuple[str, int]] = {}
    touched: dict[int, None] = {}
    for entry in recorded:
        event = entry.event
        match event:
            case LeaseExpired() | LeaseRevoked():
                key = (event.room, event.task)
                left = _left_by(state, key, event.owner, event.epoch)
                if left is not None and _may_be_offered(state, left, entry.at_ms):
                    offers[key] = (left, EXPIRED if isinstance(event, LeaseExpired) else REVOKED)
            case LeaseGranted():
                key = (event.ask.room, event.ask.task)
                granted[key] = (event.ask.owner, entry.seq)
                touched.update(state.sessions.of_task.get(key, {}))
            case LeaseReleased() | TaskMoved() | TaskRemoved():  # a date may have come while the task had ended
                touched.update(state.sessions.of_task.get((event.room, event.task), {}))
            case LeaseHandedOff():
                touched.update(state.sessions.of_task.get((event.ask.room, event.ask.task), {}))
            case SessionUpdated() | SessionCheckpointed():
                touched[event.session] = None
            case _:
                pass
    for session in [state.sessions.by_id[at] for at in touched if at in state.sessions.by_id]:
        if session.key is not None and session.key not in offers and _is_due(state, session, recorded[-1].at_ms):
            offers[session.key] = (session, DATE)
    made: list[Event] = [
        _offered(state, session, reason, is_told=key not in granted) for key, (session, reason) in offers.items()
    ]
    for key, (owner, epoch) in granted.items():
        taken = offers[key][0] if key in offers else _waiting_at(state, key)
        if taken is not None:
            made.append(_resumed(state, taken, owner, epoch))
    return made


def due_resumptions(state: "State", at_ms: int) -> list[Event]:
    """What is offered because its date has come."""
    found = {session.key: session for session in state.sessions.due(at_ms, DUE_MAX) if _is_due(state, session, at_ms)}
    return [_offered(state, session, DATE, is_told=True) for session in found.values()]


def taken_up(state: "State", command: ClaimLease, by: By, events: list[Event]) -> list[Event]:
    """The events of a claim, and that it takes up what is offered for the task, where it begins no lease: one that it
    renews, or that was offered to the claimant. A grant takes it up by itself, also one from the queue."""
    if any(isinstance(event, LeaseGranted | LeaseQueued) for event in events):
        return events
    key = (room_of(state, command.room, by).id, command.task)
    session = _waiting_at(state, key)
    if session is None:
        return events
    owner = by.actor if command.claimant is None else command.claimant
    if any(isinstance(event, LeaseHandedOff) for event in events):
        return [*events, _resumed(state, session, owner, state.seq + 1)]
    for lease in reversed(state.leases.of_task[key].values()):
        is_meant = lease.ask.reentrant if command.place is None else lease.place == command.place
        if lease.ask.owner == owner and is_meant:
            return [*events, _resumed(state, session, owner, lease.epoch)]
    return events


def _left_by(state: "State", key: TaskKey, owner: str, epoch: int) -> Session | None:
    """What the holder of a lease that broke off has left: its own newest checkpoint, else what it had resumed."""
    sessions = state.sessions
    own = [
        session
        for at in sessions.of_task.get(key, ())
        if (session := sessions.by_id[at]).owner == owner and _is_fresh(session)
    ]
    if own:
        return max(own, key=lambda session: 0 if session.last is None else session.last.seq)
    resumed = sessions.by_id.get(sessions.resumed.get(epoch, 0))
    return resumed if resumed is not None and resumed.key == key and resumed.state != DONE else None


def _is_fresh(session: Session) -> bool:
    """True when there is something to go on from that nobody has gone on from."""
    return session.last is not None and session.state != DONE and session.points > session.resumed_n


def _may_be_offered(state: "State", session: Session, at_ms: int) -> bool:
    """False before its date, and when its task has ended."""
    key, date_ms = session.key, session.resumable_at_ms
    assert key is not None, "only what has a task is offered"
    is_early = date_ms is not None and date_ms > at_ms
    return not is_early and not has_ended(state, key)


def _is_due(state: "State", session: Session, at_ms: int) -> bool:
    """True when its date has come, and its agent does not hold the task."""
    key = session.key
    if key is None or session.resumable_at_ms is None or session.is_served or session.is_offered:
        return False
    return _is_fresh(session) and _may_be_offered(state, session, at_ms) and not _is_at_work(state, session, key)


def _is_at_work(state: "State", session: Session, key: TaskKey) -> bool:
    """True while its agent holds the task: then nothing broke off."""
    return any(lease.ask.agent == session.agent for lease in state.leases.of_task.get(key, NO_LEASES).values())


def has_ended(state: "State", key: TaskKey) -> bool:
    """True when the plan says that nothing of the task is left to do, or will be done."""
    task = state.plan.find(key)
    return task is not None and task.status in TASK_ENDS


def is_resumable(state: "State", session: Session) -> bool:
    """True when its last checkpoint waits for whoever claims its task."""
    return session.is_offered and session.key is not None and not has_ended(state, session.key)


def _waiting_at(state: "State", key: TaskKey) -> Session | None:
    session = state.sessions.by_id.get(state.sessions.offers.get(key, 0))
    return session if session is not None and is_resumable(state, session) else None


def _offered(state: "State", session: Session, reason: str, *, is_told: bool) -> SessionOffered:
    assert session.task is not None and session.key is not None, "only what has a task is offered"
    return SessionOffered(
        deliveries=deliveries_to(state, _concerned(state, session, session.key)) if is_told else (),
        session=session.id,
        room=session.room,
        room_name=state.rooms.by_id[session.room].name,
        task=session.task,
        owner=session.owner,
        reason=reason,
    )


def _concerned(state: "State", session: Session, key: TaskKey) -> tuple[int, ...]:
    """Who is told: the suggested owner of the task, and others who hold it; nobody that may not see the room."""
    room, task = state.rooms.by_id[session.room], state.plan.find(key)
    owner = None if task is None or task.suggested_owner is None else state.agents.by_name.get(task.suggested_owner)
    holders = [lease.ask.agent for lease in state.leases.of_task.get(key, NO_LEASES).values()]
    found = [*([] if owner is None else [owner.id]), *(agent for agent in holders if agent != session.agent)]
    return insiders(room, found)


def _resumed(state: "State", session: Session, by: str, epoch: int) -> SessionResumed:
    assert session.task is not None, "only what has a task is resumed"
    return SessionResumed(
        session=session.id,
        room=session.room,
        room_name=state.rooms.by_id[session.room].name,
        task=session.task,
        owner=session.owner,
        by=by,
        epoch=epoch,
    )


# How it is told.


def offer_letter(event: SessionOffered) -> Letter:
    """What the suggested owner of the task is told."""
    session = session_id(event.session)
    body: dict[str, object] = {
        "type": "session.offered",
        "session": session,
        "room": event.room_name,
        "task": event.task,
        "agent": event.owner,
        "reason": event.reason,
        "next": f"synapse claim {event.task}{in_room(event.room_name)}",
    }
    return Letter(f"{event.task} of {event.owner} can be resumed", body, thread=session)


def with_resume(state: "State", info: Lease, at_ms: int) -> Lease:
    """The answer to a claim at `at_ms`, with what it resumes; or with when something that broke off may be resumed,
    when that is not yet."""
    sessions = state.sessions
    session = sessions.by_id.get(sessions.resumed.get(info.epoch, 0))
    room = state.rooms.by_name.get(info.room)
    if session is not None:
        return msgspec.structs.replace(info, resume=_shown(session))
    if room is None:
        return info
    key = (room.id, info.task)
    later = [
        one
        for at in sessions.of_task.get(key, ())
        if (one := sessions.by_id[at]).owner != info.owner
        and _is_fresh(one)
        and not one.is_served
        and one.resumable_at_ms is not None
        and one.resumable_at_ms > at_ms
        and not _is_at_work(state, one, key)
    ]
    if not later:
        return info
    first = min(later, key=lambda one: (one.resumable_at_ms or 0, one.id))
    return msgspec.structs.replace(
        info,
        resume=Resume(
            session=session_id(first.id), agent=first.owner, ready=False, resumable_at_ms=first.resumable_at_ms
        ),
    )


def _shown(session: Session) -> Resume:
    last = session.last
    assert last is not None, "what was resumed has a checkpoint"
    lists = [_newest(lines) for lines in (session.decisions, session.files, session.todos)]
    return Resume(
        session=session_id(session.id),
        agent=session.owner,
        ready=True,
        resumable_at_ms=session.resumable_at_ms,
        at_ms=last.at_ms,
        data=last.data,
        artefacts=last.artefacts,
        summary=session.summary,
        decisions=lists[0],
        files=lists[1],
        todos=lists[2],
        omitted=sum(session.sizes) - sum(map(len, lists)),
    )


def _newest(lines: Sequence[str]) -> tuple[str, ...]:
    """The newest of these lines that fit, oldest first."""
    found: list[str] = []
    size = 0
    for line in reversed(lines):
        size += len(_encode(line))
        if size > LINES_BYTES_MAX:
            break
        found.append(line)
    return tuple(reversed(found))
