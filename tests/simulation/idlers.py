"""Agents that give a supervisor something to do: they brood over a lease, leave what they began, and get stuck."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from tests.simulation.part import Part
from tests.simulation.planners import OWN

from synapse.client.client import Client

if TYPE_CHECKING:
    from tests.simulation.agents import Process

ROOMS: Final = (None, None, "crew")
TASKS: Final = ("ponder", "mull", "dream")


class Idler(Part):
    """The part of an agent that does not come to an end."""

    _note: Callable[..., Awaitable[None]]
    _step: Callable[..., Awaitable[None]]

    def idle_repertoire(self) -> dict[Callable[["Process"], Awaitable[None]], float]:
        """What it does, and how often."""
        return {self.brood: 6, self.leave_in_progress: 4, self.get_stuck: 5}

    async def brood(self, process: "Process") -> None:
        """Hold a lease for long, and show little of what comes of it."""
        client, chance, room = process.client, self._chance, self._chance.choice(ROOMS)
        ready = [task.task for task in await client.tasks(ready=True, room=room) if task.task in OWN]
        task = chance.choice(ready or TASKS)
        async with client.lease(task, ttl=15.0, room=room, terms=self._terms()) as lease:
            for _ in range(chance.choice((2, 3, 4))):
                ends_s = self.world.loop.now_s + chance.uniform(25.0, 110.0)
                while self.world.loop.now_s < ends_s and not self.world.is_calm and lease.is_live:
                    await asyncio.sleep(2.0)
                await self._note(client, task, room, lease.epoch)
            if chance.random() < 0.1 and not self.world.is_calm:
                await self.crash(process)

    async def leave_in_progress(self, process: "Process") -> None:
        """Say that a task is in progress, without a lease on it."""
        await self._move(process.client, "in_progress", ("open", "blocked", "review"))

    async def get_stuck(self, process: "Process") -> None:
        """Say that a task is blocked, which is so while it waits for others."""
        await self._move(process.client, "blocked", ("open",))

    async def _move(self, client: Client, status: str, begun: tuple[str, ...]) -> None:
        room = self._chance.choice(ROOMS)
        found = [task for task in await client.tasks(room=room) if task.task in OWN and task.status in begun]
        waiting = [task for task in found if task.depends_on]
        if found:
            task = self._chance.choice(waiting if waiting and status == "blocked" else found)
            await self._step(client, task.task, status, room, None)
