"""What agents do with shared values: put, count together, read, give away and remove them; and who follows them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
from tests.simulation.part import Part
from tests.simulation.shelf import stream_of
from tests.simulation.terms import Violation

from synapse.client.client import Client, value_of
from synapse.errors import Rejected
from synapse.protocol.notices import ValueChanged
from synapse.protocol.value_commands import DeleteValue, PutValue, TransferValue
from synapse.protocol.value_replies import ValueInfo, ValueOwned, ValueRemoved

if TYPE_CHECKING:
    from tests.simulation.agents import Process
    from tests.simulation.world import World

ROOMS: Final = (None, "crew")
KEYS: Final = ("a/1", "a/2", "a/3", "b/1", "b/2", "c")
COUNTERS: Final = ("n/1", "n/2")
"""Keys of values that are only ever counted up, by whoever has read the last number."""
SHORT_MS: Final = 300
LONG_MS: Final = 600_000
"""Of what an agent says of itself: it outlives snapshots and restarts of the hub."""
TTLS_MS: Final = (None, None, SHORT_MS, 2_000, 8_000, 60_000)


class Sharer(Part):
    """The part of an agent that has to do with shared values."""

    def _somewhere(self) -> tuple[str, str | None]:
        return self._chance.choice(KEYS), self._chance.choice(ROOMS)

    def _put(self, key: str, room: str | None, version: int | None, **more: object) -> PutValue:
        value = msgspec.Raw(msgspec.json.encode({"mark": self.mark(), **more}))
        ttl_ms = None if key in COUNTERS else LONG_MS if key == self.name else self._chance.choice(TTLS_MS)
        return PutValue(key=key, value=value, room=room, ttl_ms=ttl_ms, if_version=version)

    async def put_value(self, process: "Process") -> None:
        """Put a value, in place of whatever is there or only where nothing is."""
        client, (key, room) = process.client, self._somewhere()
        version = 0 if self._chance.random() < 0.2 else None
        if self._chance.random() < 0.2:
            key, version = self.name, None
        command = self._put(key, room, version, pad="." * self._chance.choice((0, 0, 900)))
        await self.keyed(client, command, ValueInfo)
        if command.ttl_ms == SHORT_MS:  # its time is over a little before the event that says so
            await asyncio.sleep(SHORT_MS / 1000)
            if self._chance.random() < 0.5:
                await self.keyed(client, self._put(key, room, 0), ValueInfo)
            else:
                await client.get(key, room=room)

    async def count(self, process: "Process") -> None:
        """Read a number, and put the next one if nobody was faster."""
        client, key, room = process.client, self._chance.choice(COUNTERS), self._chance.choice(ROOMS)
        count, version = 0, 0
        try:
            found = await client.get(key, room=room)
        except Rejected as refusal:
            if refusal.code != "not_found":
                raise
        else:
            told: Any = value_of(found)
            count, version = told["count"], found.version
        await self.pause(2.0)
        await self.keyed(client, self._put(key, room, version, count=count + 1), ValueInfo)

    async def read_values(self, process: "Process") -> None:
        """One value, or all of them."""
        key, room = self._somewhere()
        if self._chance.random() < 0.7:
            await process.client.get(key, room=room)
        else:
            await process.client.values(self._chance.choice(("", "a/", "b/")), room=room)

    async def give_value(self, process: "Process") -> None:
        """Make another agent the owner of a value of mine, or try that with somebody else's."""
        room, is_honest, is_careful = (
            self._chance.choice(ROOMS),
            self._chance.random() < 0.8,
            self._chance.random() < 0.5,
        )
        found = await process.client.values(room=room)
        found = tuple(value for value in found if (value.owner == self.name) == is_honest)
        if found:
            value, to = self._chance.choice(found), self.world.somebody(self._chance)
            version = value.version if is_careful else None
            command = TransferValue(key=value.key, to=to, room=room, if_version=version)
            await self.keyed(process.client, command, ValueOwned)

    async def remove_values(self, process: "Process") -> None:
        """One value, that one version of it, or all whose keys begin alike."""
        client, (key, room), chance = process.client, self._somewhere(), self._chance.random()
        if chance < 0.2:
            await client.clear(self._chance.choice(("a/", "b/")), room=room)
        elif chance < 0.6:
            await self.keyed(client, DeleteValue(key=key, room=room), ValueRemoved)
        else:
            found = await client.get(key, room=room)
            await self.keyed(client, DeleteValue(key=key, room=room, if_version=found.version), ValueRemoved)


@dataclass(slots=True)
class Follower:
    """Who follows the values of a room, over every run of its program."""

    world: "World"
    name: str
    room: str
    prefix: str
    cursor: str | None = None
    heard: int = 0
    at: dict[str, int] = field(default_factory=dict)

    async def follow(self, client: Client) -> None:
        """Each change that is in the journal comes once, in its order. Raises `Violation`."""
        async with client.value_changes(self.prefix, room=self.room, since=self.cursor) as feed:
            if self.cursor is None:
                assert feed.cursor is not None
                self.cursor, self.heard = feed.cursor, int(feed.cursor.partition(":")[2])
            else:
                self.world.sometimes("a feed of values was resumed from a cursor")
            changes: AsyncIterator[ValueChanged] = feed
            async for change in changes:
                self._hear(change)

    @property
    def due(self) -> int | None:
        """The seq of what it must be told next, if that is in the journal."""
        return self.world.ledger.next_of([stream_of(self.room, self.prefix)], self.heard, self.at)

    def _hear(self, change: ValueChanged) -> None:
        seq, due = int(change.cursor.partition(":")[2]), self.due
        if seq != due:
            raise Violation("wrong feed", f"{self.name} is told {change}; {due} comes next", self.name)
        self.heard, self.cursor = seq, change.cursor
