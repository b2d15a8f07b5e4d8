"""The plan: tasks of a room, what they depend on, their statuses, and when one is ready.

A task is ready when it is open and all it depends on is done. What is not declared yet is not done; what failed or was
cancelled is not done either, and is named. `lifecycle` has the statuses. What follows from an event elsewhere — a lease
that began or ended, a dependency that was done — is made here, as events of their own in the same transaction.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, assert_never

from synapse.core.events import (
    Event,
    LeaseExpired,
    LeaseGranted,
    LeaseHandedOff,
    LeaseReleased,
    LeaseRevoked,
    Recorded,
)
from synapse.core.leases import NO_LEASES, Lease, TaskKey
from synapse.core.lifecycle import DONE, IN_PROGRESS, LAPSES, OPEN
from synapse.core.plan_events import PlanEvent, TaskDeclared, TaskMoved, TaskNoted, TaskRemoved, TasksReady
from synapse.core.rooms import Room
from synapse.errors import Rejected
from synapse.protocol.cursor import cursor_of
from synapse.protocol.names import require_task, shown
from synapse.protocol.notices import PlanChanged

if TYPE_CHECKING:
    from synapse.core.state import State


UNDECLARED: Final = "undeclared"
READY_PER_EVENT: Final = 500
"""Ids that one `TasksReady` names, so that its notice fits into a frame."""
TASK_BYTES: Final = 256
"""What a task counts for beside its texts."""


@dataclass(slots=True)
class Task:
    """One task of a plan. version: seq of its declaration. unmet: of what it depends on, how many are not done.
    is_announced: its readiness was said. progress: lines that were noted."""

    id: str
    title: str
    description: str
    priority: str
    labels: tuple[str, ...]
    suggested_owner: str | None
    depends_on: tuple[str, ...]
    version: int
    declared_by: str
    declared_at_ms: int
    moved_at_ms: int
    status: str = OPEN
    unmet: int = 0
    is_announced: bool = False
    progress: int = 0
    progress_at_ms: int | None = None

    @property
    def is_ready(self) -> bool:
        """Open, and all it depends on is done."""
        return self.status == OPEN and not self.unmet

    @property
    def size(self) -> int:
        """Bytes it counts for."""
        return size_of(self.id, self.title, self.description, *self.labels, *self.depends_on)


def size_of(*texts: str) -> int:
    """What a task with these texts counts for, in bytes."""
    return TASK_BYTES + sum(map(len, texts))


@dataclass(slots=True)
class RoomPlan:
    """The plan of one room. dependents: who depends on an id, declared or not."""

    tasks: dict[str, Task] = field(default_factory=dict)
    dependents: dict[str, dict[str, None]] = field(default_factory=dict)

    def is_done(self, task: str) -> bool:
        """True when nobody needs to wait for it."""
        found = self.tasks.get(task)
        return found is not None and found.status == DONE

    def missing(self, task: Task) -> Iterator[tuple[str, str]]:
        """What the task waits for: ids, and their statuses or `undeclared`."""
        for other in task.depends_on:
            found = self.tasks.get(other)
            status = UNDECLARED if found is None else found.status
            if status != DONE:
                yield other, status

    def count_dependents(self, task: str) -> int:
        """How many tasks depend on it."""
        return len(self.dependents.get(task, ()))


@dataclass(slots=True)
class Plan:
    """All plans, by room id."""

    by_room: dict[int, RoomPlan] = field(default_factory=dict)
    bytes: int = 0
    count: int = 0

    def find(self, key: TaskKey) -> Task | None:
        """The task of a room and an id, if it is declared."""
        plan = self.by_room.get(key[0])
        return None if plan is None else plan.tasks.get(key[1])

    def put(self, room: int, task: Task) -> None:
        """Put a task in place of the one of its id."""
        plan = self.by_room.setdefault(room, RoomPlan())
        old = plan.tasks.get(task.id)
        if old is not None:
            self._take_out(plan, old)
        plan.tasks[task.id] = task
        self.bytes += task.size
        self.count += 1
        for other in task.depends_on:
            plan.dependents.setdefault(other, {})[task.id] = None

    def drop(self, room: int, task: str) -> None:
        """Take a task out. Nothing unfinished depends on it."""
        plan = self.by_room[room]
        self._take_out(plan, plan.tasks[task])
        del plan.tasks[task]
        if not plan.tasks:
            del self.by_room[room]

    def drop_room(self, room: int) -> None:
        """A room is no more."""
        plan = self.by_room.pop(room, None)
        if plan is not None:
            self.count -= len(plan.tasks)
            self.bytes -= sum(task.size for task in plan.tasks.values())

    def _take_out(self, plan: RoomPlan, task: Task) -> None:
        self.bytes -= task.size
        self.count -= 1
        for other in task.depends_on:
            there = plan.dependents[other]
            del there[task.id]
            if not there:
                del plan.dependents[other]


def require_declared(state: "State", room: Room, task: str) -> Task:
    """The task. Raises `Rejected`: `bad_name`, `not_found`."""
    found = state.plan.find((room.id, require_task(task)))
    if found is None:
        raise Rejected(
            "not_found",
            f"room {room.name} has no task {shown(task)} in its plan: declare it (synapse task declare {task})",
            {"task": task, "room": room.name},
        )
    return found


class Walk(NamedTuple):
    """What comes of following dependencies. cycle: the path round one that they close, or None when they close none.
    order: the tasks that were declared, each after all it depends on. Declared in this order, the plan has no cycle at
    any position in between either: a task whose turn has come leads to none whose turn is still to come."""

    cycle: list[str] | None
    order: list[str]


def walk(plan: RoomPlan, new: Mapping[str, tuple[str, ...]]) -> Walk:
    """Follow the new dependencies of these tasks, by id.

    What is in the plan has no cycle, so one that is there now goes through a task of `new`.
    """

    def following(task: str) -> tuple[str, ...]:
        found = new.get(task)
        if found is None:
            known = plan.tasks.get(task)
            return () if known is None else known.depends_on
        return found

    done: dict[str, None] = {}
    for start in new:
        if start in done or not (plan.count_dependents(start) or len(new) > 1 or start in new[start]):
            continue
        path: dict[str, None] = {start: None}
        stack = [iter(following(start))]
        while stack:
            for other in stack[-1]:
                if other in path:
                    names = list(path)
                    return Walk([*names[names.index(other) :], other], [])
                if other not in done:
                    path[other] = None
                    stack.append(iter(following(other)))
                    break
            else:
                stack.pop()
                done[path.popitem()[0]] = None
    return Walk(None, [task for task in done if task in new] if len(new) > 1 else list(new))


# What `apply` does.


def apply_plan(state: "State", recorded: Recorded, event: PlanEvent) -> None:
    """The plan's part of `kernel.apply`."""
    plans = state.plan
    match event:
        case TaskDeclared():
            _declare(plans, recorded, event)
        case TaskMoved():
            plan = plans.by_room[event.room]
            task = plan.tasks[event.task]
            was_done, task.status = task.status == DONE, event.status
            task.moved_at_ms, task.is_announced = recorded.at_ms, False
            if was_done != (event.status == DONE):
                _tell_dependents(plan, event.task, is_done=not was_done)
        case TasksReady():
            plan = plans.by_room[event.room]
            for name in event.tasks:
                plan.tasks[name].is_announced = True
        case TaskNoted():
            noted = plans.find((event.room, event.task))
            if noted is not None:
                noted.progress += 1
                noted.progress_at_ms = recorded.at_ms
        case TaskRemoved():
            plan = plans.by_room[event.room]
            was_done = plan.tasks[event.task].status == DONE
            plans.drop(event.room, event.task)
            if was_done:
                _tell_dependents(plan, event.task, is_done=False)
        case _:
            assert_never(event)


def _declare(plans: Plan, recorded: Recorded, event: TaskDeclared) -> None:
    old = plans.find((event.room, event.task))
    task = Task(
        id=event.task,
        title=event.title,
        description=event.description,
        priority=event.priority,
        labels=event.labels,
        suggested_owner=event.suggested_owner,
        depends_on=event.depends_on,
        version=recorded.seq,
        declared_by=recorded.actor if old is None else old.declared_by,
        declared_at_ms=recorded.at_ms if old is None else old.declared_at_ms,
        moved_at_ms=recorded.at_ms if old is None else old.moved_at_ms,
    )
    plans.put(event.room, task)
    plan = plans.by_room[event.room]
    task.unmet = sum(not plan.is_done(other) for other in task.depends_on)
    if old is not None:
        task.status, task.progress, task.progress_at_ms = old.status, old.progress, old.progress_at_ms
        task.is_announced = old.is_announced and not task.unmet


def _tell_dependents(plan: RoomPlan, task: str, *, is_done: bool) -> None:
    """A task is done, or is not any more: count again what those that depend on it wait for."""
    for name in plan.dependents.get(task, ()):
        dependent = plan.tasks[name]
        dependent.unmet += -1 if is_done else 1
        if dependent.unmet:
            dependent.is_announced = False


# What follows from events.


def follow(state: "State", recorded: Sequence[Recorded]) -> list[Event]:
    """The steps that tasks take because of these events, which are folded in already.

    An open task that is leased is in progress; one in progress whose last lease ended is open again.
    """
    ended: dict[TaskKey, Recorded] = {}
    touched: dict[TaskKey, None] = {}
    for entry in recorded:
        event = entry.event
        match event:
            case LeaseGranted() | LeaseHandedOff():
                touched[event.ask.room, event.ask.task] = None
            case LeaseReleased() | LeaseExpired() | LeaseRevoked():
                touched[event.room, event.task] = None
                ended[event.room, event.task] = entry
            case TaskDeclared() | TaskMoved():
                touched[event.room, event.task] = None
            case _:
                pass
    steps: list[Event] = []
    for key in touched:
        task = state.plan.find(key)
        if task is None:
            continue
        room, holders = state.rooms.by_id[key[0]], state.leases.of_task.get(key, NO_LEASES)
        if holders and task.status == OPEN:
            steps.append(_taken(room, task, list(holders.values())[-1]))
        elif not holders and key in ended and task.status in LAPSES:
            steps.append(_lapsed(room, task, ended[key]))
    return steps


def _taken(room: Room, task: Task, lease: Lease) -> TaskMoved:
    return TaskMoved(
        room=room.id,
        room_name=room.name,
        task=task.id,
        title=task.title,
        previous=task.status,
        status=IN_PROGRESS,
        reason="claimed",
        owner=lease.ask.owner,
        epoch=lease.epoch,
    )


def _lapsed(room: Room, task: Task, entry: Recorded) -> TaskMoved:
    event = entry.event
    assert isinstance(event, LeaseReleased | LeaseExpired | LeaseRevoked)
    reason = {LeaseReleased: "released", LeaseExpired: "expired", LeaseRevoked: "revoked"}[type(event)]
    return TaskMoved(
        room=room.id,
        room_name=room.name,
        task=task.id,
        title=task.title,
        previous=task.status,
        status=LAPSES[task.status],
        reason=reason,
        owner=event.owner,
        epoch=event.epoch,
    )


def openings(state: "State", recorded: Iterable[Recorded]) -> list[Event]:
    """What these events, folded in already, made ready and nobody was told of yet."""
    ready: dict[int, dict[str, None]] = {}
    for entry in recorded:
        event = entry.event
        if not isinstance(event, TaskDeclared | TaskMoved):
            continue
        plan = state.plan.by_room[event.room]
        names = [event.task]
        if isinstance(event, TaskMoved) and event.status == DONE:
            names += sorted(plan.dependents.get(event.task, ()))
        for name in names:
            task = plan.tasks.get(name)
            if task is not None and task.is_ready and not task.is_announced:
                ready.setdefault(event.room, {})[name] = None
    return [
        TasksReady(room=room, room_name=state.rooms.by_id[room].name, tasks=tuple(names[at : at + READY_PER_EVENT]))
        for room, found in ready.items()
        for names in (list(found),)
        for at in range(0, len(names), READY_PER_EVENT)
    ]


# How it is told.


def shown_plan_change(journal_id: str, recorded: Recorded, event: PlanEvent) -> PlanChanged:
    """A change as followers of a room's plan see it."""
    by, at_ms, cursor = recorded.actor, recorded.at_ms, cursor_of(journal_id, recorded.seq)
    room = event.room_name
    match event:
        case TaskDeclared():
            return PlanChanged(
                change="declared",
                room=room,
                tasks=(event.task,),
                title=event.title,
                version=recorded.seq,
                depends_on=event.depends_on,
                by=by,
                at_ms=at_ms,
                cursor=cursor,
            )
        case TaskMoved():
            return PlanChanged(
                change="moved",
                room=room,
                tasks=(event.task,),
                title=event.title,
                status=event.status,
                previous=event.previous,
                reason=event.reason,
                owner=event.owner,
                epoch=event.epoch,
                text=event.note,
                by=by,
                at_ms=at_ms,
                cursor=cursor,
            )
        case TasksReady():
            return PlanChanged(change="ready", room=room, tasks=event.tasks, by=by, at_ms=at_ms, cursor=cursor)
        case TaskNoted():
            return PlanChanged(
                change="noted",
                room=room,
                tasks=(event.task,),
                kind=event.kind,
                text=event.text,
                epoch=event.epoch,
                by=by,
                at_ms=at_ms,
                cursor=cursor,
            )
        case TaskRemoved():
            return PlanChanged(change="removed", room=room, tasks=(event.task,), by=by, at_ms=at_ms, cursor=cursor)
        case _:
            assert_never(event)


QUESTION: Final = "question"
QUESTION_CLOSED: Final = "question_closed"
"""Why a task waits for input, and goes on; the note says which question."""
_LAPSE_WORDS: Final = {"released": "was released", "expired": "expired", "revoked": "was taken away"}


def in_a_sentence(recorded: Recorded, event: PlanEvent) -> str:
    """An event of a task for people; `why` prints these."""
    actor = recorded.actor
    match event:
        case TaskDeclared():
            after = f", after {', '.join(event.depends_on[:5])}" if event.depends_on else ""
            more = f" and {len(event.depends_on) - 5} more" if len(event.depends_on) > 5 else ""
            word = "declared" if event.replaces is None else "described anew"
            return f"{word} by {actor}: {event.title}{after}{more}"
        case TaskMoved():
            if event.reason == "asked":
                note = "" if event.note is None else f": {event.note}"
                return f"{actor} moved it from {event.previous} to {event.status}{note}"
            return f"{event.previous} -> {event.status}: {lapse_text(event)}"
        case TasksReady():
            return "ready: it is open, and all it depends on is done"
        case TaskNoted():
            return f"{event.kind} by {actor}: {event.text}"
        case TaskRemoved():
            return f"taken out of the plan by {actor}"
        case _:
            assert_never(event)


def lapse_text(event: TaskMoved) -> str:
    """Why the hub moved a task, as its ledger has it."""
    if event.reason in (QUESTION, QUESTION_CLOSED):
        return event.note or ""
    if event.reason == "claimed":
        return f"{event.owner} claimed it (epoch {event.epoch})"
    return f"put back to {event.status}: the lease of {event.owner} {_LAPSE_WORDS[event.reason]} (epoch {event.epoch})"
