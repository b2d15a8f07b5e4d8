"""Supervisors beside a hub, on their real code, and agents that give them something to do."""

import asyncio
from collections.abc import Awaitable
from random import Random
from typing import TYPE_CHECKING, Final
from weakref import ref

from tests.simulation.agents import Agent, Crash, Process
from tests.simulation.lookout import NAME, ORPHANED_MS, TRIES

from synapse.client.calls import RequestTimeout
from synapse.client.client import Card, Client
from synapse.errors import Rejected
from synapse.faces.supervisor import Terms
from synapse.faces.supervisor_rounds import Done, supervise

if TYPE_CHECKING:
    from tests.simulation.world import World

EVERY_S: Final = 30.0
CALM_S: Final = 90.0
"""So long after the last fault a supervisor has found all that is left."""


class Watchman(Agent):
    """A supervisor. number 0: the hub starts it and it ends with the hub; 1: somebody starts it beside that, now and
    then, under the same name."""

    def __init__(self, world: "World", number: int) -> None:
        super().__init__(world, 0)
        self.name = NAME
        self.secret = f"{NAME}-secret".ljust(40, ".")
        self.card = Card(client="simulated", kind="service")
        self._is_companion = number == 0
        self._calm_s: float | None = None
        self._chance = Random(f"{world.seed}/watchman{number}")

    async def _run(self, process: Process) -> None:
        hub = self.world.hub
        async with process.client as client:
            assert hub.life is not None, "it let this client in"
            life = ref(hub.life)  # for minutes: a life is as large as its state
            terms = Terms(client.welcome.limits.stalled_ms, ORPHANED_MS, TRIES)
            ends_s = self.world.loop.now_s + self._chance.uniform(60.0, 300.0)
            while (hub.life is not None and hub.life is life()) or not self._is_companion:
                done = await self._look_at_all(process, client, terms)
                if self._is_at_rest(done):
                    self.is_settled = True
                    while not self.world.is_over:
                        await asyncio.sleep(1.0)
                if not self._is_companion and self.world.loop.now_s > ends_s and not self.world.is_calm:
                    await asyncio.sleep(self._chance.uniform(60.0, 300.0))
                    return
                await asyncio.sleep(EVERY_S * self._chance.uniform(0.5, 1.5))

    def _is_at_rest(self, done: list[Done] | None) -> bool:
        """True when everything has been calm for long, and there was nothing to do."""
        if not self.world.is_calm:
            return False
        now_s = self.world.loop.now_s
        self._calm_s = now_s if self._calm_s is None else self._calm_s
        return now_s - self._calm_s > CALM_S and done == []

    async def _look_at_all(self, process: Process, client: Client, terms: Terms) -> list[Done] | None:
        """One round after the other, as `synapse supervisor` goes; None when one was not whole."""
        done: list[Done] | None = []
        try:
            for room in [room.room for room in await client.rooms()]:
                found = await self._may_die(process, self._look_at_room(client, room, terms))
                done = None if done is None or found is None else done + found
        except (Rejected, RequestTimeout):
            return None
        return done

    async def _may_die(self, process: Process, looking: Awaitable[list[Done] | None]) -> list[Done] | None:
        """Sometimes the process dies in the middle."""
        round_ = asyncio.ensure_future(looking)
        if not self.world.is_calm and self._chance.random() < 0.04:
            await asyncio.wait([round_], timeout=self._chance.uniform(0.01, 0.2))
            round_.cancel()
            await asyncio.gather(round_, return_exceptions=True)
            process.die()
            self.world.sometimes("a supervisor died")
            raise Crash
        return await round_

    async def _look_at_room(self, client: Client, room: str, terms: Terms) -> list[Done] | None:
        lookout, said = self.world.ledger.lookout, list[str]()
        begun, done = lookout.begin(room), None
        try:
            done = await supervise(client, room, terms, said.append)
        finally:
            if done is None or said:
                lookout.break_off(begun)
        if said:
            return None
        lookout.end(begun)
        return done
