"""What agents do with cards, with what they lend to each other, and with signals."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from tests.simulation.part import Part

from synapse.client.client import Client
from synapse.protocol.resource_commands import OfferResource
from synapse.protocol.resource_replies import ResourceInfo

if TYPE_CHECKING:
    from tests.simulation.agents import Process

LENT: Final = ("lamp", "press", "lathe")
SIGNALS: Final = ("main:hum-a", "main:hum-b")
FOLLOWED_S: Final = 60.0
TTLS_MS: Final = (None, 4_000, 15_000, 40_000)


class Trader(Part):
    """The part of an agent that has something to lend and something to hum."""

    def trade_repertoire(self) -> dict[Callable[["Process"], Awaitable[None]], float]:
        """What it does, and how often."""
        return {
            self.offer: 5,
            self.withdraw_offer: 7,
            self.take_what_is_lent: 5,
            self.look_at_the_market: 2,
            self.describe_itself: 1,
            self.hum: 6,
            self.listen_to_hums: 2.5,
        }

    async def offer(self, process: "Process") -> None:
        """Lend something, for a while or until further notice."""
        mine, ttl_ms = self.world.ledger.market.offered_by(self.name), self._chance.choice(TTLS_MS)
        name = self._chance.choice(mine or LENT)
        command = OfferResource(resource=name, kind="tool", capacity=self._chance.randint(1, 3), ttl_ms=ttl_ms)
        await self.keyed(process.client, command, ResourceInfo)

    async def withdraw_offer(self, process: "Process") -> None:
        """End an offer, which is mine as a rule."""
        mine = self.world.ledger.market.offered_by(self.name)
        if mine or self._chance.random() < 0.1:
            await process.client.withdraw_resource(self._chance.choice(mine or LENT))

    async def take_what_is_lent(self, process: "Process") -> None:
        """A lease with units of what somebody lends."""
        client, task = process.client, f"job{self._chance.randrange(12)}"
        pools, wait = {self._chance.choice(LENT): 1}, self._chance.choice((0.0, 10.0))
        lease = await client.claim(task, ttl=8.0, wait=wait, pools=pools, terms=self._terms())
        await self.pause(5.0)
        if self._chance.random() < 0.8:
            await client.release(task, epoch=lease.epoch)

    async def look_at_the_market(self, process: "Process") -> None:
        """What is lent, and who can do what."""
        await process.client.resources()
        await process.client.manifest()
        await process.client.card_of(self.world.somebody(self._chance))

    async def describe_itself(self, process: "Process") -> None:
        """Say what it can do."""
        await process.client.set_card(description=f"{self.mark()} turns and mills", tags=["tools"])

    async def hum(self, process: "Process") -> None:
        """Some signals at once: more than one turn takes, sometimes."""
        client, channel = process.client, self._chance.choice(SIGNALS)
        if channel not in self.world.ledger.market.ephemeral:
            await client.create_channel(channel, ephemeral=True)
        many = self._chance.choice((1, 3, 6, 45))
        size = 2_400 if many == 45 else 600
        sent = (client.signal(f"{self.mark()} {'~' * size}", channel) for _ in range(many))
        for problem in await asyncio.gather(*sent, return_exceptions=True):
            if isinstance(problem, BaseException):
                raise problem

    async def listen_to_hums(self, process: "Process") -> None:
        """Follow signals for a while, on a connection of its own; look at the last ones."""
        channel = self._chance.choice((*SIGNALS, "main:hum-*"))
        async with self.twin().client as client:
            try:
                async with asyncio.timeout(1.0 if self.world.is_calm else FOLLOWED_S):
                    await self._follow_hums(client, channel)
            except TimeoutError:
                await process.client.recent_signals(self._chance.choice(SIGNALS))

    async def _follow_hums(self, client: Client, channel: str) -> None:
        async with client.signals(channel) as feed:
            async for _ in feed:
                pass
