"""What agents do with the plan: declare, claim, move, note, look and remove; and who follows it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.simulation.agenda import OVER, STEPS, stream_of
from tests.simulation.part import Part
from tests.simulation.terms import Violation

from synapse.client.client import Client
from synapse.protocol.notices import PlanChanged
from synapse.protocol.plan_commands import DeclareTask, DeclareTasks, NoteProgress, RemoveTask, TaskSpec, UpdateTask
from synapse.protocol.plan_replies import ProgressLine, TaskGone, TaskInfo, TasksDeclared

if TYPE_CHECKING:
    from tests.simulation.agents import Process
    from tests.simulation.world import World

ROOMS: Final = (None, None, "crew")
SHARED: Final = ("T0", "T1", "T2", "T3")
"""Tasks of the plan that are also claimed for their own sake; in the crowd only holders move them, by their epoch."""
OWN: Final = tuple(f"P{number}" for number in range(8))
KINDS: Final = ("note", "finding", "decision", "blocked")
REST: Final = (("blocked",), ("waiting_for_input", "in_progress"), ("review",))
"""Steps under a lease after which it is given back, and the task stays where it is."""


class Planner(Part):
    """The part of an agent that has to do with the plan."""

    def plan_repertoire(self) -> dict[Callable[["Process"], Awaitable[None]], float]:
        """What there is to do, and how often."""
        return {
            self.declare: 5,
            self.declare_many: 3,
            self.describe_anew: 2,
            self.work: 16,
            self.move: 5,
            self.note: 3,
            self.read_plan: 4,
            self.remove: 4,
        }

    def _spec(self, task: str) -> dict[str, Any]:
        """A declaration; the description has a word that was in none before. Some close a cycle."""
        chance = self._chance
        more: dict[str, Any] = {"task": task, "description": self.mark()}
        if chance.random() < 0.75:
            wanted = chance.sample((*SHARED, *OWN), chance.choice((0, 1, 1, 2, 3)))
            if chance.random() < 0.55:  # so that most of it can be done
                wanted = [other for other in wanted if other < task]
            more["depends_on"] = tuple(other for other in wanted if other != task)
        if chance.random() < 0.3:
            more |= {"title": f"Do {task}", "priority": chance.choice(("low", "high")), "labels": ("x", "y", "x")}
        if chance.random() < 0.3:
            more["suggested_owner"] = chance.choice(("", self.world.somebody(chance)))
        return more

    async def declare(self, process: "Process") -> None:
        """One task, new or not."""
        task, room = self._chance.choice((*SHARED, *OWN)), self._chance.choice(ROOMS)
        version = 0 if self._chance.random() < 0.3 else None
        await self.keyed(process.client, DeclareTask(room=room, if_version=version, **self._spec(task)), TaskInfo)

    async def declare_many(self, process: "Process") -> None:
        """Several at once: all or none."""
        tasks = self._chance.sample((*SHARED, *OWN), self._chance.randint(2, 6))
        specs = tuple(TaskSpec(**self._spec(task)) for task in tasks)
        await self.keyed(process.client, DeclareTasks(tasks=specs, room=self._chance.choice(ROOMS)), TasksDeclared)

    async def describe_anew(self, process: "Process") -> None:
        """Look at a task, and change it if nobody was faster; or say once more what it is."""
        room = self._chance.choice(ROOMS)
        found = await process.client.tasks(room=room)
        if not found:
            return
        task = self._chance.choice(found)
        needed = [(other, it.task) for it in found for other in found if other.task in it.depends_on]
        if needed and self._chance.random() < 0.3:  # round the other way
            other, name = self._chance.choice(needed)
            back = DeclareTask(
                room=room, if_version=other.version, **(self._spec(other.task) | {"depends_on": (name,)})
            )
            await self.keyed(process.client, back, TaskInfo)
        await self.pause(2.0)
        if self._chance.random() < 0.3:
            same = DeclareTask(task=task.task, room=room, title=task.title, if_version=task.version)
            await self.keyed(process.client, same, TaskInfo)
        else:
            anew = DeclareTask(room=room, if_version=task.version, **self._spec(task.task))
            await self.keyed(process.client, anew, TaskInfo)

    async def work(self, process: "Process") -> None:
        """Claim what is ready, write progress, and bring it to an end; or not."""
        client, chance, room = process.client, self._chance, self._chance.choice(ROOMS)
        ready = await client.tasks(ready=chance.random() < 0.85, room=room)
        if not ready:
            return
        task = chance.choice(ready).task
        wait, ttl = chance.choice((0.0, 0.0, 10.0)), chance.choice((6.0, 15.0))
        lease = await client.claim(task, ttl=ttl, wait=wait, room=room, terms=self._terms())
        await self.pause(3.0)
        if chance.random() < 0.4:
            await self._note(client, task, room, lease.epoch)
        fate = chance.random()
        if fate < 0.72:
            status = "done" if fate < 0.6 else chance.choice(("failed", "cancelled", "open"))
            await self._step(client, task, status, room, lease.epoch)
        elif fate < 0.84:
            for status in chance.choice(REST):
                await self._step(client, task, status, room, lease.epoch)
            await client.release(task, epoch=lease.epoch, room=room)
        elif fate < 0.92:
            await client.release(task, epoch=lease.epoch, room=room)

    async def _note(self, client: Client, task: str, room: str | None, epoch: int | None) -> None:
        command = NoteProgress(task=task, room=room, text=self.mark(), kind=self._chance.choice(KINDS), epoch=epoch)
        await self.loosely(client, command, ProgressLine)

    async def _step(self, client: Client, task: str, status: str, room: str | None, epoch: int | None) -> None:
        command = UpdateTask(task=task, status=status, room=room, epoch=epoch, note=self.mark())
        await self.keyed(client, command, TaskInfo)

    async def move(self, process: "Process") -> None:
        """Move a task without a lease: what has ended is often reopened, and some steps are none."""
        client, chance, room = process.client, self._chance, self._chance.choice(ROOMS)
        found = [task for task in await client.tasks(room=room) if task.task in OWN]
        if not found:
            return
        ended = [task for task in found if task.status not in ("open", "in_progress")]
        task = chance.choice(ended if ended and chance.random() < 0.6 else found)
        likely = ("open",) if task.status in OVER else STEPS[task.status].split()
        await self._step(
            client, task.task, chance.choice(likely if chance.random() < 0.8 else tuple(STEPS)), room, None
        )

    async def note(self, process: "Process") -> None:
        """A line in the ledger of whatever there is."""
        await self._note(process.client, self._chance.choice((*SHARED, *OWN)), self._chance.choice(ROOMS), None)

    async def read_plan(self, process: "Process") -> None:
        """One task, its ledger, or those of the plan that fit."""
        client, room, chance = process.client, self._chance.choice(ROOMS), self._chance.random()
        task = self._chance.choice((*SHARED, *OWN))
        if chance < 0.4:
            await client.task(task, room=room)
        elif chance < 0.6:
            page = await client.progress(task, room=room, limit=self._chance.choice((3, 50)))
            if page.previous is not None:
                await client.progress(task, room=room, before=page.previous, limit=5)
        elif chance < 0.8:
            await client.tasks(room=room)
        else:
            await client.tasks(room=room, status=self._chance.choice(tuple(STEPS)))
            await client.tasks(room=room, owner=self.name)

    async def remove(self, process: "Process") -> None:
        """Take out a task of mine that has ended, or try that with another."""
        client, room, is_honest = process.client, self._chance.choice(ROOMS), self._chance.random() < 0.8
        found = await client.tasks(room=room)
        found = tuple(it for it in found if (it.declared_by == self.name and it.status in OVER) == is_honest)
        if found:
            await self.keyed(client, RemoveTask(task=self._chance.choice(found).task, room=room), TaskGone)


@dataclass(slots=True)
class PlanFollower:
    """Who follows the plan of a room, over every run of its program."""

    world: "World"
    name: str
    room: str
    cursor: str | None = None
    heard: int = 0
    at: dict[str, int] = field(default_factory=dict)

    async def follow(self, client: Client) -> None:
        """Each change that is in the journal comes once, in its order. Raises `Violation`."""
        async with client.plan_changes(room=self.room, since=self.cursor) as feed:
            if self.cursor is None:
                assert feed.cursor is not None
                self.cursor, self.heard = feed.cursor, int(feed.cursor.partition(":")[2])
            else:
                self.world.sometimes("a feed of a plan was resumed from a cursor")
            changes: AsyncIterator[PlanChanged] = feed
            async for change in changes:
                self._hear(change)

    @property
    def due(self) -> int | None:
        """The seq of what it must be told next, if that is in the journal."""
        return self.world.ledger.next_of([stream_of(self.room)], self.heard, self.at)

    def _hear(self, change: PlanChanged) -> None:
        seq, due = int(change.cursor.partition(":")[2]), self.due
        if seq != due:
            raise Violation("wrong feed", f"{self.name} is told {change}; {due} comes next", self.name)
        self.heard, self.cursor = seq, change.cursor
