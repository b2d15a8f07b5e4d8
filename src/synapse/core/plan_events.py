"""What happens to the plan; `events` has them in its union."""

from typing import Final, TypeAlias, get_args

import msgspec

from synapse.core.idem import Idem
from synapse.protocol.terms import Artefact


class TaskDeclared(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task is in the plan, or is described anew. Its version is the seq of this event. replaces: the one before."""

    room: int
    room_name: str
    task: str
    title: str
    description: str = ""
    priority: str = "normal"
    labels: tuple[str, ...] = ()
    suggested_owner: str | None = None
    depends_on: tuple[str, ...] = ()
    replaces: int | None = None
    idem: Idem | None = None


class TaskMoved(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task has another status.

    reason: asked; or, when the hub did it, claimed, released, expired, revoked, or question (a person is asked) and
    question_closed. owner, epoch: of the lease it has to do
    with. note: why, in the words of who asked.
    """

    room: int
    room_name: str
    task: str
    title: str
    previous: str
    status: str
    reason: str = "asked"
    owner: str | None = None
    epoch: int | None = None
    note: str | None = None
    idem: Idem | None = None


class TasksReady(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """These tasks are open, and all they depend on is done: said once for each opening."""

    room: int
    room_name: str
    tasks: tuple[str, ...]
    idem: Idem | None = None


class TaskNoted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line in the ledger of a task. epoch: of the lease it was written under."""

    room: int
    room_name: str
    task: str
    kind: str
    text: str
    artefacts: tuple[Artefact, ...] = ()
    epoch: int | None = None
    idem: Idem | None = None


class TaskRemoved(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task is not in the plan any more; its ledger stays."""

    room: int
    room_name: str
    task: str
    idem: Idem | None = None


PlanEvent: TypeAlias = TaskDeclared | TaskMoved | TasksReady | TaskNoted | TaskRemoved

PLAN_EVENTS: Final = frozenset(get_args(PlanEvent))
