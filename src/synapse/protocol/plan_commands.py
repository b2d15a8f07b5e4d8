"""What may be asked about the plan; `commands` has them in its union."""

from typing import Final, TypeAlias

import msgspec

from synapse.protocol.terms import Artefact, Int


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one task is declared. What is null stays as it is, or has its default when the task is new.

    title: by default the id. depends_on: ids of this room, declared or not yet. priority: low, normal, high, urgent.
    suggested_owner: an agent's name. if_version: only when that is its version; 0, only when there is none.
    """

    task: str
    title: str | None = None
    description: str | None = None
    priority: str | None = None
    labels: tuple[str, ...] | None = None
    suggested_owner: str | None = None
    depends_on: tuple[str, ...] | None = None
    if_version: Int | None = None


class DeclareTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Put a task into the plan of a room (null: the home's), or describe it anew. Fields as in TaskSpec.

    Who did not declare it gives `if_version`, unless an operator asks. Nothing happens when it is so already.
    """

    task: str
    room: str | None = None
    title: str | None = None
    description: str | None = None
    priority: str | None = None
    labels: tuple[str, ...] | None = None
    suggested_owner: str | None = None
    depends_on: tuple[str, ...] | None = None
    if_version: Int | None = None


class DeclareTasks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Declare many tasks of one room at once, all or none, in any order."""

    tasks: tuple[TaskSpec, ...]
    room: str | None = None


class UpdateTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Move a task to another status. Under a lease only its holder does, or an operator; `epoch` fences.

    note: why. A step to open, done, failed or cancelled ends the holder's lease.
    """

    task: str
    status: str
    room: str | None = None
    epoch: Int | None = None
    note: str | None = None


class NoteProgress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Write into the ledger of a task that is declared or leased. epoch: of my lease on it, which then must live.

    kind: note, finding, decision, checkpoint, handoff, blocked, assessment.
    """

    task: str
    text: str
    room: str | None = None
    kind: str = "note"
    artefacts: tuple[Artefact, ...] = ()
    epoch: Int | None = None


class RemoveTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take a task out of the plan: one that has ended, that nobody holds, and that no unfinished task depends on."""

    task: str
    room: str | None = None
    if_version: Int | None = None


class ShowTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One task with everything about it."""

    task: str
    room: str | None = None


class ListTasks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page of a room's tasks by id. status, label, ready, owner (who holds it, else is suggested): only those."""

    room: str | None = None
    status: str | None = None
    label: str | None = None
    owner: str | None = None
    ready: bool | None = None
    limit: Int = 500
    after: str | None = None


class ReadProgress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page of the ledger of a room, or of one task of it, oldest first.

    Without `since` the newest `limit` lines that fit; with it the first ones after the cursor. agent, kind: only those.
    `next` of the reply, given as `since`, continues; `previous`, given as `before`, goes back.
    """

    room: str | None = None
    task: str | None = None
    agent: str | None = None
    kind: str | None = None
    since: str | None = None
    before: str | None = None
    limit: Int = 50


PlanCommand: TypeAlias = (
    DeclareTask | DeclareTasks | UpdateTask | NoteProgress | RemoveTask | ShowTask | ListTasks | ReadProgress
)

PLAN_COMMANDS: Final[dict[str, type[PlanCommand]]] = {
    "task.declare": DeclareTask,
    "task.declare_all": DeclareTasks,
    "task.update": UpdateTask,
    "task.note": NoteProgress,
    "task.remove": RemoveTask,
    "task.show": ShowTask,
    "task.list": ListTasks,
    "progress.read": ReadProgress,
}
"""Command class by wire type."""
