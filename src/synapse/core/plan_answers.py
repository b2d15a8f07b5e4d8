"""What is answered about the plan: the reply of a mutation from its events, and questions to the state."""

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, assert_never

import msgspec
from msgspec import UNSET

from synapse.core.by import By
from synapse.core.claims import none_of
from synapse.core.events import Recorded
from synapse.core.leases import NO_LEASES, Lease
from synapse.core.lifecycle import TASK_STATUSES
from synapse.core.plan import RoomPlan, Task, require_declared
from synapse.core.plan_events import TaskDeclared, TaskMoved, TaskNoted
from synapse.core.planning import PlanMutation, specs_of
from synapse.core.rooms import may_see, room_of
from synapse.protocol.cursor import question_id
from synapse.protocol.names import require_agent_name, require_segment
from synapse.protocol.plan_commands import (
    DeclareTask,
    DeclareTasks,
    ListTasks,
    NoteProgress,
    RemoveTask,
    ShowTask,
    UpdateTask,
)
from synapse.protocol.plan_replies import ProgressLine, TaskGone, TaskHolder, TaskInfo, TasksDeclared
from synapse.protocol.replies import Reply

if TYPE_CHECKING:
    from synapse.core.state import State

WAITS_SHOWN: Final = 32
"""How many of the tasks that one waits for are named; `unmet` counts all."""
HOLDERS_SHOWN: Final = 64
"""How many of the leases on a task are named; `lease.list` has all."""
_NO_PLAN: Final = RoomPlan()


def answer_plan(state: "State", command: PlanMutation, by: By, events: Sequence[Recorded], cursor: str) -> Reply:
    """The plan's part of `answers.answer`."""
    match command:
        case DeclareTask() | UpdateTask():
            return _changed(state, command, by, events, cursor)
        case DeclareTasks():
            found = {item.event.task: item.seq for item in events if isinstance(item.event, TaskDeclared)}
            room = room_of(state, command.room, by).name if not events else _room_name(events[0])
            specs = len(specs_of(command))
            return TasksDeclared(
                room=room, declared=len(found), unchanged=specs - len(found), tasks=found, cursor=cursor
            )
        case NoteProgress():
            noted = events[0]
            event = noted.event
            assert isinstance(event, TaskNoted)
            return progress_line(noted, event, cursor=cursor)
        case RemoveTask():
            return TaskGone(task=command.task, room=_room_name(events[0]), removed=True, cursor=cursor)
        case _:
            assert_never(command)


def _room_name(recorded: Recorded) -> str:
    name = getattr(recorded.event, "room_name", None)
    assert isinstance(name, str), "an event of the plan names its room"
    return name


def _changed(
    state: "State", command: DeclareTask | UpdateTask, by: By, events: Sequence[Recorded], cursor: str
) -> TaskInfo:
    """The task as the request left it; what else is told of it is as it is now, to who may see it still."""
    event = events[0].event if events else None
    if event is None:
        room = room_of(state, command.room, by)
        task = require_declared(state, room, command.task)
        return task_info(state, room.id, room.name, task, by, cursor=cursor, changed=False)
    assert isinstance(event, TaskDeclared | TaskMoved | TaskNoted)
    now, where = state.plan.find((event.room, event.task)), state.rooms.by_id.get(event.room)
    if isinstance(event, TaskNoted):
        now = require_declared(state, room_of(state, event.room_name, by), event.task)
        return task_info(state, event.room, event.room_name, now, by, cursor=cursor, changed=False)
    if now is None or where is None or not may_see(where, by):
        return _gone(events[0], event, cursor)
    info = task_info(state, event.room, event.room_name, now, by, cursor=cursor, changed=True)
    if isinstance(event, TaskMoved):
        if now.status == event.status:
            return info
        return msgspec.structs.replace(
            info, title=event.title, status=event.status, ready=False, moved_at_ms=events[0].at_ms, holders=()
        )
    if now.version != events[0].seq:  # declared anew since
        info = msgspec.structs.replace(
            info,
            title=event.title,
            priority=event.priority,
            depends_on=event.depends_on,
            suggested_owner=event.suggested_owner,
            version=events[0].seq,
            labels=event.labels,
            description=event.description,
        )
    return info


def _gone(recorded: Recorded, event: TaskDeclared | TaskMoved, cursor: str) -> TaskInfo:
    """A repeat's answer about a task that is not in the plan any more, or out of sight: what its event says, which of
    one that moved is title and status."""
    told = event if isinstance(event, TaskDeclared) else None
    return TaskInfo(
        event.task,
        event.room_name,
        event.title,
        "open" if isinstance(event, TaskDeclared) else event.status,
        told is not None and not told.depends_on,
        "normal" if told is None else told.priority,
        () if told is None else told.depends_on,
        None if told is None else told.suggested_owner,
        0 if told is None else recorded.seq,
        "" if told is None else recorded.actor,
        recorded.at_ms,
        None,
        () if told is None else told.labels,
        description=UNSET if told is None else told.description,
        declared_at_ms=recorded.at_ms if told is not None and told.replaces is None else UNSET,
        changed=True,
        cursor=cursor,
    )


def task_info(
    state: "State",
    room: int,
    room_name: str,
    task: Task,
    by: By,
    *,
    cursor: str | None = None,
    changed: bool | None = None,
) -> TaskInfo:
    """A task as it is told: in a list, or with `cursor` as an answer of its own."""
    plan = state.plan.by_room[room]
    held = state.leases.of_task.get((room, task.id), NO_LEASES)
    holders: tuple[TaskHolder, ...] = ()
    if held:
        holders = tuple([_holder(state, lease, by) for lease in islice(held.values(), HOLDERS_SHOWN)])
    return TaskInfo(
        task.id,
        room_name,
        task.title,
        task.status,
        task.is_ready,
        task.priority,
        task.depends_on,
        task.suggested_owner,
        task.version,
        task.declared_by,
        task.moved_at_ms,
        task.progress_at_ms,
        task.labels,
        dict(islice(plan.missing(task), WAITS_SHOWN)) if task.unmet else {},
        task.unmet,
        plan.count_dependents(task.id),
        task.progress,
        holders,
        UNSET if cursor is None else task.description,
        UNSET if cursor is None else task.declared_at_ms,
        UNSET if changed is None else changed,
        UNSET if cursor is None else cursor,
        tuple(map(question_id, state.questions.of_task.get((room, task.id), ()))) if state.questions.open else (),
    )


def _holder(state: "State", lease: Lease, by: By) -> TaskHolder:
    soft, now_ms = state.soft.leasing, by.lease_ms
    left_ms = soft.remaining_ms(lease, now_ms)
    expires_at_ms = None if left_ms is None else by.at_ms + left_ms
    idle_ms, is_stalled = soft.idle_ms(lease, now_ms), soft.is_stalled(lease, now_ms)
    return TaskHolder(
        owner=lease.ask.owner, epoch=lease.epoch, expires_at_ms=expires_at_ms, idle_ms=idle_ms, stalled=is_stalled
    )


def look_task(state: "State", query: ShowTask, by: By, cursor: str) -> TaskInfo:
    """One task. Raises `Rejected`: `bad_name`, `not_found`."""
    room = room_of(state, query.room, by)
    return task_info(state, room.id, room.name, require_declared(state, room, query.task), by, cursor=cursor)


def tasks_to_list(state: "State", query: ListTasks, by: By) -> tuple[int, str, RoomPlan, list[str]]:
    """The room, its plan, and the ids that a list goes through, sorted. Raises `Rejected`."""
    room = room_of(state, query.room, by)
    plan = state.plan.by_room.get(room.id, _NO_PLAN)
    if query.status is not None and query.status not in TASK_STATUSES:
        raise none_of("status", query.status, TASK_STATUSES)
    if query.label is not None:
        require_segment(query.label, "label")
    if query.owner is not None:
        require_agent_name(query.owner)
    if (query.status, query.label, query.owner, query.ready) == (None, None, None, None):
        return room.id, room.name, plan, sorted(plan.tasks)
    found = [task.id for task in plan.tasks.values() if _fits(state, room.id, task, query)]
    return room.id, room.name, plan, sorted(found)


def _fits(state: "State", room: int, task: Task, query: ListTasks) -> bool:
    if query.status is not None and task.status != query.status:
        return False
    if query.label is not None and query.label not in task.labels:
        return False
    if query.ready is not None and task.is_ready != query.ready:
        return False
    if query.owner is None:
        return True
    held = state.leases.of_task.get((room, task.id), NO_LEASES)
    if held:
        return any(lease.ask.owner == query.owner for lease in held.values())
    return task.suggested_owner == query.owner


def progress_line(recorded: Recorded, event: TaskNoted, cursor: str | None = None) -> ProgressLine:
    """A line of a ledger."""
    return ProgressLine(
        seq=recorded.seq,
        task=event.task,
        room=event.room_name,
        kind=event.kind,
        text=event.text,
        by=recorded.actor,
        at_ms=recorded.at_ms,
        artefacts=event.artefacts,
        epoch=event.epoch,
        cursor=UNSET if cursor is None else cursor,
    )
