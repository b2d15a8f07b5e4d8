"""What is answered about the plan; `replies` has them in its union."""

from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from synapse.protocol import plan_commands
from synapse.protocol.terms import Artefact


class TaskHolder(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a lease on a task. idle_ms: since the holder last wrote progress, or was granted it."""

    owner: str
    epoch: int
    expires_at_ms: int | None
    idle_ms: int
    stalled: bool


class TaskInfo(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A task of the plan.

    ready: open, and all it depends on is done. waits_for: what it depends on that is not done, with the status, or
    `undeclared`; at most 32 of them, `unmet` counts all. questions: of it, to people, that are open. dependents: how
    many depend on it. version: of its declaration. progress: lines that `task.note` wrote. description,
    declared_at_ms: not in lists. changed: false when the request found it so.
    """  # not kw_only: a plan of 10 000 tasks is made by place

    task: str
    room: str
    title: str
    status: str
    ready: bool
    priority: str
    depends_on: tuple[str, ...]
    suggested_owner: str | None
    version: int
    declared_by: str
    moved_at_ms: int
    progress_at_ms: int | None
    labels: tuple[str, ...] = ()
    waits_for: dict[str, str] = {}
    unmet: int = 0
    dependents: int = 0
    progress: int = 0
    holders: tuple[TaskHolder, ...] = ()
    description: str | UnsetType = UNSET
    declared_at_ms: int | UnsetType = UNSET
    changed: bool | UnsetType = UNSET
    cursor: str | UnsetType = UNSET
    questions: tuple[str, ...] = ()


class TasksDeclared(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a list of declarations. tasks: id and version of each that changed."""

    room: str
    declared: int
    unchanged: int
    tasks: dict[str, int]
    cursor: str


class TaskGone(msgspec.Struct, frozen=True, kw_only=True):
    """The task is not in the plan any more."""

    task: str
    room: str
    removed: bool
    cursor: str


class PlanPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a plan. ready: those of this page that are. total: tasks in the plan."""

    seq: int
    room: str
    tasks: tuple[TaskInfo, ...]
    ready: tuple[str, ...]
    total: int
    next: str | None
    cursor: str


class ProgressLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of a ledger. The hub writes one when the end of a lease puts a task back to open."""

    seq: int
    task: str
    room: str
    kind: str
    text: str
    by: str
    at_ms: int
    artefacts: tuple[Artefact, ...] = ()
    epoch: int | None = None
    cursor: str | UnsetType = UNSET


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One page of a ledger, oldest first. next, previous, first_kept: as in history."""

    lines: tuple[ProgressLine, ...]
    next: str | None
    previous: str | None
    first_kept: str | UnsetType = UNSET
    cursor: str


PlanReply: TypeAlias = TaskInfo | TasksDeclared | ProgressLine | TaskGone | PlanPage | Progress

PLAN_REPLY_TO: Final[dict[type[msgspec.Struct], type[PlanReply]]] = {
    plan_commands.DeclareTask: TaskInfo,
    plan_commands.DeclareTasks: TasksDeclared,
    plan_commands.UpdateTask: TaskInfo,
    plan_commands.NoteProgress: ProgressLine,
    plan_commands.RemoveTask: TaskGone,
    plan_commands.ShowTask: TaskInfo,
    plan_commands.ListTasks: PlanPage,
    plan_commands.ReadProgress: Progress,
}
