"""What becomes of the requests about the plan: declaring, moving, noting, removing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias, assert_never

from synapse.core.bounds import require_chars
from synapse.core.by import By, Rules
from synapse.core.claims import grants_after, none_of, revocation
from synapse.core.events import Event, LeaseReleased
from synapse.core.holding import lease_of
from synapse.core.leases import NO_LEASES, Lease, View
from synapse.core.lifecycle import DONE, ENDS, FREEING, TASK_STATUSES, TRANSITIONS, is_legal
from synapse.core.plan import RoomPlan, Task, require_declared, size_of, walk
from synapse.core.plan_events import TaskDeclared, TaskMoved, TaskNoted, TaskRemoved
from synapse.core.refusals import stale
from synapse.core.rooms import Room, room_of
from synapse.errors import Rejected, bad_request
from synapse.protocol.limits import Limits
from synapse.protocol.names import require_agent_name, require_segment, require_task
from synapse.protocol.plan_commands import DeclareTask, DeclareTasks, NoteProgress, RemoveTask, TaskSpec, UpdateTask
from synapse.protocol.terms import PRIORITIES, PROGRESS_KINDS

if TYPE_CHECKING:
    from synapse.core.state import State

CYCLE_SHOWN = 32
"""How many tasks of a cycle a refusal names."""


PlanMutation: TypeAlias = DeclareTask | DeclareTasks | UpdateTask | NoteProgress | RemoveTask


def decide_plan(state: "State", rules: Rules, command: PlanMutation, by: By) -> list[Event]:
    """The plan's part of `kernel.decide`."""
    match command:
        case DeclareTask() | DeclareTasks():
            return decide_declare(state, rules, command, by)
        case UpdateTask():
            return decide_update(state, rules, command, by)
        case NoteProgress():
            return decide_note(state, rules, command, by)
        case RemoveTask():
            return decide_remove(state, command, by)
        case _:
            assert_never(command)


# Declaring.


def decide_declare(state: "State", rules: Rules, command: DeclareTask | DeclareTasks, by: By) -> list[Event]:
    """The tasks that are new or other than they were, all or none."""
    by.operator or by.require_agent()
    room = room_of(state, command.room, by)
    specs = specs_of(command)
    if not specs:
        raise bad_request("name at least one task", "$.body.tasks")
    if len(specs) > rules.limits.page_items_max:
        raise Rejected(
            "too_large",
            f"{len(specs)} tasks in one request; at most {rules.limits.page_items_max}: send several",
            {"tasks": len(specs), "page_items_max": rules.limits.page_items_max},
        )
    plan = state.plan.by_room.get(room.id, RoomPlan())
    declared: dict[str, TaskDeclared] = {}
    for spec in specs:
        if spec.task in declared:
            raise bad_request(f"{spec.task} comes twice", "$.body.tasks", {"task": spec.task})
        event = _declaration(plan, rules.limits, room, spec, by)
        if event is not None:
            declared[spec.task] = event
    _require_room(state, rules.limits, room, plan, declared)
    cycle, order = walk(plan, {task: event.depends_on for task, event in declared.items()})
    if cycle is not None:
        raise Rejected(
            "cycle",
            f"{cycle[0]} would depend on itself: {' -> '.join(cycle[:CYCLE_SHOWN])}"
            f"{f' and {len(cycle) - CYCLE_SHOWN} more' if len(cycle) > CYCLE_SHOWN else ''}; leave one of these out",
            {"path": cycle[:CYCLE_SHOWN], "length": len(cycle) - 1},
        )
    return [declared[task] for task in order]


def specs_of(command: DeclareTask | DeclareTasks) -> tuple[TaskSpec, ...]:
    """The tasks that a command declares."""
    if isinstance(command, DeclareTasks):
        return command.tasks
    fields = TaskSpec.__struct_fields__
    return (TaskSpec(**{name: getattr(command, name) for name in fields}),)


def _declaration(plan: RoomPlan, limits: Limits, room: Room, spec: TaskSpec, by: By) -> TaskDeclared | None:
    """The event of one declaration; None when the task is so already. Raises `Rejected`."""
    _require_spec(limits, spec)
    old = plan.tasks.get(spec.task)
    _require_version(room, spec.task, old, spec.if_version)
    if old is None:
        return TaskDeclared(
            room=room.id,
            room_name=room.name,
            task=spec.task,
            title=spec.task if spec.title is None else spec.title,
            description=spec.description or "",
            priority=spec.priority or "normal",
            labels=tuple(dict.fromkeys(spec.labels or ())),
            suggested_owner=spec.suggested_owner or None,
            depends_on=tuple(dict.fromkeys(spec.depends_on or ())),
        )
    event = TaskDeclared(
        room=room.id,
        room_name=room.name,
        task=spec.task,
        title=old.title if spec.title is None else spec.title,
        description=old.description if spec.description is None else spec.description,
        priority=spec.priority or old.priority,
        labels=old.labels if spec.labels is None else tuple(dict.fromkeys(spec.labels)),
        suggested_owner=old.suggested_owner if spec.suggested_owner is None else spec.suggested_owner or None,
        depends_on=old.depends_on if spec.depends_on is None else tuple(dict.fromkeys(spec.depends_on)),
        replaces=old.version,
    )
    names = ("title", "description", "priority", "labels", "suggested_owner", "depends_on")
    if all(getattr(event, name) == getattr(old, name) for name in names):
        return None
    if spec.if_version is None and not by.operator and by.actor not in (old.declared_by, old.suggested_owner):
        raise Rejected(
            "version_conflict",
            f"{spec.task} was declared by {old.declared_by} and has version {old.version}: look at it (synapse task "
            f"show {spec.task}), and give --if-version {old.version} to change it",
            {"task": spec.task, "version": old.version, "declared_by": old.declared_by},
        )
    return event


def _require_version(room: Room, task: str, old: Task | None, wanted: int | None) -> None:
    """Compare and set. wanted: 0 when there must be none. Raises `Rejected(version_conflict)`."""
    have = 0 if old is None else old.version
    if wanted is None or wanted == have:
        return
    what = f"is not in the plan of room {room.name}" if old is None else f"has version {have}"
    raise Rejected(
        "version_conflict",
        f"{task} {what}, and version {wanted} was expected: look at it again (synapse task show {task})",
        {"task": task, "version": have, "expected": wanted},
    )


def _require_spec(limits: Limits, spec: TaskSpec) -> None:
    """Raises `Rejected`: `bad_name`, `bad_request`, `too_large`."""
    task = require_task(spec.task)
    if spec.title is not None:
        require_chars("title", spec.title, limits.title_chars_max)
        if not spec.title.strip():
            raise bad_request("a title has at least one character", "$.body.title")
    if spec.description is not None:
        require_chars("description", spec.description, limits.description_chars_max)
    if spec.priority is not None and spec.priority not in PRIORITIES:
        raise none_of("priority", spec.priority, PRIORITIES)
    if spec.suggested_owner:
        require_agent_name(spec.suggested_owner)
    labels, wanted = spec.labels or (), spec.depends_on or ()
    if len(labels) > limits.labels_max:
        raise _too_many("labels", len(labels), "labels_max", limits.labels_max)
    for label in labels:
        require_segment(label, "label")
    if len(wanted) > limits.dependencies_max:
        raise _too_many("dependencies", len(wanted), "dependencies_max", limits.dependencies_max)
    for other in wanted:
        require_task(other)
        if other == task:
            raise Rejected(
                "cycle",
                f"{task} cannot depend on itself: leave {task} out of what it depends on",
                {"path": [task, task], "length": 1},
            )


def _too_many(what: str, have: int, name: str, most: int) -> Rejected:
    return Rejected("too_large", f"{have} {what}; at most {most} ({name})", {what: have, name: most})


def _require_room(
    state: "State", limits: Limits, room: Room, plan: RoomPlan, declared: dict[str, TaskDeclared]
) -> None:
    """Raises `Rejected(limit)` when the plan would grow beyond its bounds."""
    new = [event for event in declared.values() if event.replaces is None]
    if len(plan.tasks) + len(new) > limits.tasks_per_room_max:
        raise Rejected(
            "limit",
            f"the plan of room {room.name} has {len(plan.tasks)} tasks of {limits.tasks_per_room_max} "
            "(tasks_per_room_max): remove ended ones (synapse task remove)",
            {"limit": "tasks_per_room_max", "value": limits.tasks_per_room_max},
        )
    size = state.plan.bytes
    more: dict[str, int] = {}
    for event in declared.values():
        size += size_of(event.task, event.title, event.description, *event.labels, *event.depends_on)
        before = plan.tasks[event.task].depends_on if event.replaces is not None else ()
        for other in set(event.depends_on).difference(before):
            more[other] = more.get(other, 0) + 1
    if size > limits.plans_bytes_max:
        raise Rejected(
            "limit",
            f"all plans have {state.plan.bytes} bytes of {limits.plans_bytes_max} (plans_bytes_max): remove ended ones "
            "(synapse task remove)",
            {"limit": "plans_bytes_max", "value": limits.plans_bytes_max},
        )
    for other, count in more.items():
        if plan.count_dependents(other) + count > limits.dependents_max:
            raise Rejected(
                "limit",
                f"{plan.count_dependents(other)} tasks depend on {other} already, of {limits.dependents_max} "
                "(dependents_max): put a task between them",
                {"limit": "dependents_max", "value": limits.dependents_max, "task": other},
            )


# Moving.


def decide_update(state: "State", rules: Rules, command: UpdateTask, by: By) -> list[Event]:
    """Another status. Raises `Rejected`: `illegal_transition`, `not_holder`, `stale_epoch`, `not_found`."""
    by.operator or by.require_agent()
    room = room_of(state, command.room, by)
    task = require_declared(state, room, command.task)
    if command.status not in TASK_STATUSES:
        raise none_of("status", command.status, TASK_STATUSES)
    if command.note is not None:
        require_chars("note", command.note, rules.limits.progress_chars_max)
    leases = _leases_moved(state, room, command, by)
    if command.status == task.status:
        return [] if command.note is None else [_noted_again(room, task, command, leases, by)]
    if not is_legal(task.status, command.status):
        legal = TRANSITIONS[task.status]
        why = f"{task.id} has ended as {task.status}" if task.status in ENDS else f"{task.id} is {task.status}"
        raise Rejected(
            "illegal_transition",
            f"{why}, and can become {' or '.join(legal)}, not {command.status}",
            {"task": task.id, "status": task.status, "legal": list(legal)},
        )
    moved = TaskMoved(
        room=room.id,
        room_name=room.name,
        task=task.id,
        title=task.title,
        previous=task.status,
        status=command.status,
        owner=None if not leases else leases[0].ask.owner,
        epoch=None if not leases else leases[0].epoch,
        note=command.note,
    )
    if command.status not in FREEING or not leases:
        return [moved]
    freed: list[Event] = [_freed(lease, command.status, by) for lease in leases]
    view = View({lease.epoch for lease in leases})
    return [moved, *freed, *grants_after(state, view, [lease.ask for lease in leases], 1 + len(freed))]


def _noted_again(room: Room, task: Task, command: UpdateTask, leases: Sequence[Lease], by: By) -> TaskNoted:
    """The reason that is given for a status which the task has already: a line of the ledger, as with a step."""
    mine = [lease.epoch for lease in leases if lease.ask.agent == by.agent]
    return TaskNoted(
        room=room.id,
        room_name=room.name,
        task=task.id,
        kind="blocked" if task.status == "blocked" else "note",
        text=command.note or "",
        epoch=mine[0] if mine else None,
    )


def _leases_moved(state: "State", room: Room, command: UpdateTask, by: By) -> list[Lease]:
    """The leases under which a step is taken: that of the holder who asks, or all of them when an operator does.

    Raises `Rejected` when another holds the task, or `epoch` is not live.
    """
    held = state.leases.of_task.get((room.id, command.task), NO_LEASES)
    if by.operator and command.epoch is None:
        return list(held.values())
    if held or command.epoch is not None:
        if by.operator or not held:
            assert command.epoch is not None
            raise stale(state, room, command.task, command.epoch, list(held.values()), by)
        return [lease_of(state, command.task, room.name, command.epoch, by)]
    return []


def _freed(lease: Lease, status: str, by: By) -> Event:
    if by.operator:
        return revocation(lease, f"task_{status}")
    ask = lease.ask
    return LeaseReleased(room=ask.room, room_name=ask.room_name, task=ask.task, owner=ask.owner, epoch=lease.epoch)


# The ledger.


def decide_note(state: "State", rules: Rules, command: NoteProgress, by: By) -> list[Event]:
    """A line in the ledger. Raises `Rejected`: `not_found`, `stale_epoch`, `bad_request`, `too_large`."""
    by.operator or by.require_agent()
    room, limits = room_of(state, command.room, by), rules.limits
    task = require_task(command.task)
    if command.kind not in PROGRESS_KINDS:
        raise none_of("kind", command.kind, PROGRESS_KINDS)
    if not command.text.strip():
        raise Rejected("bad_request", "progress has at least one character - at `$.body.text`", {"path": "$.body.text"})
    require_chars("text", command.text, limits.progress_chars_max)
    if len(command.artefacts) > limits.artefacts_max:
        raise _too_many("artefacts", len(command.artefacts), "artefacts_max", limits.artefacts_max)
    held = state.leases.of_task.get((room.id, task), NO_LEASES)
    epoch = command.epoch
    if epoch is not None:
        lease = held.get(epoch)
        if lease is None or (lease.ask.agent != by.agent):
            raise stale(state, room, task, epoch, list(held.values()), by)
    elif not held:
        require_declared(state, room, task)
    else:
        epoch = next((lease.epoch for lease in reversed(held.values()) if lease.ask.agent == by.agent), None)
    return [
        TaskNoted(
            room=room.id,
            room_name=room.name,
            task=task,
            kind=command.kind,
            text=command.text,
            artefacts=command.artefacts,
            epoch=epoch,
        )
    ]


# Removing.


def decide_remove(state: "State", command: RemoveTask, by: By) -> list[Event]:
    """A task that has ended goes. Raises `Rejected`: `not_found`, `not_permitted`, `not_empty`, `version_conflict`."""
    by.operator or by.require_agent()
    room = room_of(state, command.room, by)
    task = require_declared(state, room, command.task)
    _require_version(room, task.id, task, command.if_version)
    if not by.operator and by.actor != task.declared_by:
        raise Rejected(
            "not_permitted",
            f"{task.id} was declared by {task.declared_by}, who can remove it, and so can an operator",
            {"task": task.id, "declared_by": task.declared_by},
        )
    held = state.leases.of_task.get((room.id, task.id), NO_LEASES)
    needed = [
        name
        for name in state.plan.by_room[room.id].dependents.get(task.id, ())
        if state.plan.by_room[room.id].tasks[name].status not in ENDS
    ]
    why = _why_kept(task, list(held.values()), needed)
    if why is not None:
        raise Rejected(
            "not_empty",
            f"{task.id} stays in the plan: {why}",
            {"task": task.id, "status": task.status, "dependents": needed[:32], "dependents_count": len(needed)},
        )
    return [TaskRemoved(room=room.id, room_name=room.name, task=task.id)]


def _why_kept(task: Task, held: Sequence[Lease], needed: Sequence[str]) -> str | None:
    if held:
        return f"{held[0].ask.owner} holds it with epoch {held[0].epoch}"
    if task.status not in ENDS:
        return f"it is {task.status}: move it to {DONE}, failed or cancelled first"
    if needed:
        return f"{len(needed)} tasks that have not ended depend on it, {needed[0]} first"
    return None
