"""The client's half of the plan: tasks, their statuses and their ledgers."""

from collections.abc import Iterable

from synapse.client.asking import Asking
from synapse.client.subscriptions import PlanFeed
from synapse.protocol import plan_commands
from synapse.protocol.plan_commands import TaskSpec
from synapse.protocol.plan_replies import PlanPage, Progress, ProgressLine, TaskGone, TaskInfo, TasksDeclared
from synapse.protocol.terms import Artefact


class SharedPlan(Asking):
    """The plan of a room: a part of `Client`."""

    async def declare_task(
        self,
        task: str,
        title: str | None = None,
        *,
        description: str | None = None,
        depends_on: Iterable[str] | None = None,
        priority: str | None = None,
        labels: Iterable[str] | None = None,
        suggested_owner: str | None = None,
        if_version: int | None = None,
        room: str | None = None,
        idem_key: str | None = None,
    ) -> TaskInfo:
        """Put a task into the plan, or describe it anew; what is None stays, or has its default (title: the id;
        priority: normal). if_version: only when its declaration has that version, 0 when there is none.

        Raises `Rejected`: `cycle` (the path is named), `version_conflict`, `limit`, `too_large`, `bad_name`.
        """
        command = plan_commands.DeclareTask(
            task=task,
            room=room,
            title=title,
            description=description,
            priority=priority,
            labels=None if labels is None else tuple(labels),
            suggested_owner=suggested_owner,
            depends_on=None if depends_on is None else tuple(depends_on),
            if_version=if_version,
        )
        return await self.request(command, TaskInfo, idem_key=idem_key)

    async def declare_tasks(
        self, tasks: Iterable[TaskSpec], *, room: str | None = None, idem_key: str | None = None
    ) -> TasksDeclared:
        """Declare many tasks at once, all or none, in any order. Raises as `declare_task`."""
        command = plan_commands.DeclareTasks(tasks=tuple(tasks), room=room)
        return await self.request(command, TasksDeclared, idem_key=idem_key)

    async def update_task(
        self,
        task: str,
        status: str,
        *,
        note: str | None = None,
        epoch: int | None = None,
        room: str | None = None,
        idem_key: str | None = None,
    ) -> TaskInfo:
        """Move a task to another status. note: why, as a line of its ledger. epoch: of my lease on it, which then must
        live. A step to open, done, failed or cancelled ends my lease.

        Raises `Rejected`: `illegal_transition` (the legal ones are named), `not_holder`, `stale_epoch`, `not_found`.
        """
        command = plan_commands.UpdateTask(task=task, status=status, room=room, epoch=epoch, note=note)
        return await self.request(command, TaskInfo, idem_key=idem_key)

    async def note_progress(
        self,
        task: str,
        text: str,
        *,
        kind: str = "note",
        artefacts: Iterable[Artefact] = (),
        epoch: int | None = None,
        room: str | None = None,
        idem_key: str | None = None,
    ) -> ProgressLine:
        """Write a line into the ledger of a task. kind: note, finding, decision, checkpoint, handoff, blocked or
        assessment. Raises `Rejected`: `not_found`, `stale_epoch`, `too_large`."""
        command = plan_commands.NoteProgress(
            task=task, text=text, room=room, kind=kind, artefacts=tuple(artefacts), epoch=epoch
        )
        return await self.request(command, ProgressLine, idem_key=idem_key)

    async def remove_task(self, task: str, *, if_version: int | None = None, room: str | None = None) -> TaskGone:
        """Take a task that has ended out of the plan. Raises `Rejected`: `not_empty`, `not_permitted`, `not_found`."""
        return await self.request(plan_commands.RemoveTask(task=task, room=room, if_version=if_version), TaskGone)

    async def task(self, task: str, *, room: str | None = None) -> TaskInfo:
        """One task with everything about it. Raises `Rejected(not_found)`."""
        return await self.request(plan_commands.ShowTask(task=task, room=room), TaskInfo)

    async def tasks(
        self,
        *,
        status: str | None = None,
        label: str | None = None,
        owner: str | None = None,
        ready: bool | None = None,
        room: str | None = None,
    ) -> tuple[TaskInfo, ...]:
        """The plan of a room, by id; only what fits, when something is given. owner: who holds a task, or else is
        suggested. All pages: each is true at its own moment."""
        pages = self._pages(
            lambda at: plan_commands.ListTasks(
                room=room, status=status, label=label, owner=owner, ready=ready, limit=self._page, after=at
            ),
            PlanPage,
        )
        return tuple([task async for page in pages for task in page.tasks])

    async def progress(
        self,
        task: str | None = None,
        *,
        agent: str | None = None,
        kind: str | None = None,
        since: str | None = None,
        before: str | None = None,
        limit: int = 50,
        room: str | None = None,
    ) -> Progress:
        """One page of a task's ledger, or of all of a room, oldest first: the newest `limit` lines, or with `since` (a
        cursor) the first ones after it, with `before` the last ones before it."""
        command = plan_commands.ReadProgress(
            room=room, task=task, agent=agent, kind=kind, since=since, before=before, limit=limit
        )
        return await self.request(command, Progress)

    def plan_changes(self, *, room: str | None = None, since: str | None = None) -> PlanFeed:
        """What becomes of a room's plan: `async with client.plan_changes() as feed: async for change in feed`.

        since: a cursor; what came after it comes first.
        """
        place = self.welcome.home.partition(":")[0] if room is None else room
        return PlanFeed(self._lifeline, place, since=since)
