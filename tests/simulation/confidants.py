"""What agents do in private rooms and channels, and what others try that are not in them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import msgspec
from tests.simulation.part import Part

from synapse.client.client import Client
from synapse.protocol.commands import SendMessage
from synapse.protocol.plan_commands import DeclareTask, NoteProgress, UpdateTask
from synapse.protocol.plan_replies import ProgressLine, TaskInfo
from synapse.protocol.replies import Sent
from synapse.protocol.value_commands import PutValue
from synapse.protocol.value_replies import ValueInfo

if TYPE_CHECKING:
    from tests.simulation.agents import Process

PLACES_MAX: Final = 12
"""So many have members at once."""
FOLLOWED_S: Final = 40.0


class Confidant(Part):
    """The part of an agent that has secrets."""

    def secret_repertoire(self) -> dict[Callable[["Process"], Awaitable[None]], float]:
        """What it does, and how often."""
        return {
            self.found_a_place: 1,
            self.ask_somebody_in: 5,
            self.come_in: 8,
            self.whisper: 12,
            self.hold_in_secret: 4,
            self.keep_in_secret: 3,
            self.plan_in_secret: 3,
            self.follow_in_secret: 3,
            self.read_in_secret: 5,
            self.put_somebody_out: 2.5,
            self.go_out: 0.8,
            self.pry: 3,
            self.look_around: 1.5,
        }

    async def found_a_place(self, process: "Process") -> None:
        """Make a private room, or a private channel of the crew's room, and ask some in."""
        if sum(1 for place in self.world.ledger.privacy.places.values() if place.now) >= PLACES_MAX:
            return
        if self._chance.random() < 0.7:
            name = self._word("r")
            await process.client.create_room(name, private=True)
        else:
            name = f"crew:{self._word('c')}"
            await process.client.create_channel(name, private=True)
        for _ in range(3):
            await process.client.invite(name, self.world.somebody(self._chance, besides=self.name))

    async def ask_somebody_in(self, process: "Process") -> None:
        """Any member may."""
        if place := self._my_place():
            other = self.world.somebody(self._chance, besides=self.name)
            await process.client.invite(place, other, history=self._chance.random() < 0.4)

    async def come_in(self, process: "Process") -> None:
        """Join where I am asked in."""
        asked = [it.name for it in self.world.ledger.privacy.places.values() if self.name in it.invited]
        if asked:
            await process.client.join(self._chance.choice(asked))

    async def whisper(self, process: "Process") -> None:
        """Say something in secret, sometimes with the name of who may not read it."""
        if place := self._my_place():
            mention = f" @{self.world.somebody(self._chance, besides=self.name)}" if self._chance.random() < 0.4 else ""
            text = f"{self.mark()} {self._word('b')}{mention}"
            body = msgspec.Raw(msgspec.json.encode(text))
            channel = place if ":" in place else f"{place}:general"
            await self.keyed(process.client, SendMessage(body=body, channel=channel), Sent)

    async def hold_in_secret(self, process: "Process") -> None:
        """A lease in a private room, of paths that others want too."""
        if place := self._my_place(rooms_only=True):
            task, terms = self._word("t"), self._terms()
            paths = self._chance.choice(((), ("a",), ("e/f", "f/e")))
            tree = "box:/repo" if paths else None
            wait = self._chance.choice((0.0, 8.0))
            lease = await process.client.claim(
                task, room=place, ttl=10.0, paths=paths, worktree=tree, wait=wait, terms=terms
            )
            await self.pause(6.0)
            if self._chance.random() < 0.2:
                await process.client.leave(place)  # not with a lease in there
            if self._chance.random() < 0.7:
                await process.client.release(task, epoch=lease.epoch, room=place)

    async def keep_in_secret(self, process: "Process") -> None:
        """A value in a private room."""
        if place := self._my_place(rooms_only=True):
            value = msgspec.Raw(msgspec.json.encode({"mark": self.mark(), "told": self._word("v")}))
            await self.keyed(process.client, PutValue(key=f"a/{self._word('k')}", value=value, room=place), ValueInfo)
            await process.client.values("a/", room=place)

    async def plan_in_secret(self, process: "Process") -> None:
        """A task in the plan of a private room: declared, claimed, noted and done, or not."""
        if place := self._my_place(rooms_only=True):
            client, task = process.client, self._word("t")
            await self.keyed(client, DeclareTask(task=task, room=place, description=self.mark()), TaskInfo)
            lease = await client.claim(task, room=place, ttl=8.0, terms=self._terms())
            note = NoteProgress(task=task, room=place, text=self.mark(), epoch=lease.epoch)
            await self.keyed(client, note, ProgressLine)
            await self.pause(2.0)
            if self._chance.random() < 0.7:
                done = UpdateTask(task=task, room=place, status="done", epoch=lease.epoch, note=self.mark())
                await self.keyed(client, done, TaskInfo)

    async def follow_in_secret(self, process: "Process") -> None:
        """Follow for a while what goes on in there, on a connection of its own."""
        if place := self._my_place():
            async with self.twin().client as client:
                follow = self._chance.choice((self._messages, self._leases, self._values))
                if ":" in place:
                    follow = self._messages
                try:
                    async with asyncio.timeout(1.0 if self.world.is_calm else FOLLOWED_S):
                        await follow(client, place)
                except TimeoutError:
                    self.world.sometimes("a private place was followed")

    async def _messages(self, client: Client, place: str) -> None:
        async with client.subscribe(place if ":" in place else f"{place}:general") as feed:
            async for _ in feed:
                pass

    async def _leases(self, client: Client, place: str) -> None:
        async with client.lease_changes() as feed:
            async for _ in feed:
                pass

    async def _values(self, client: Client, place: str) -> None:
        async with client.value_changes("", room=place) as feed:
            async for _ in feed:
                pass

    async def read_in_secret(self, process: "Process") -> None:
        """What a member may read."""
        if place := self._my_place():
            client, channel = process.client, place if ":" in place else f"{place}:general"
            await client.history(channel, limit=self._chance.choice((3, 20)))
            if ":" not in place:
                await client.values(room=place)
                await client.leases()

    async def put_somebody_out(self, process: "Process") -> None:
        """A member, or who is asked in."""
        if place := self._my_place():
            found = self.world.ledger.privacy.places[place]
            others = sorted(found.now.keys() - {self.name})
            if not others or self._chance.random() < 0.3:
                others = sorted(found.invited)
            if others:
                await process.client.kick(place, self._chance.choice(others))

    async def go_out(self, process: "Process") -> None:
        """Leave a private place."""
        if place := self._my_place():
            await process.client.leave(place)

    async def pry(self, process: "Process") -> None:
        """Try what only members may, in a place that I am in or not."""
        places = list(self.world.ledger.privacy.places)
        if not places:
            return
        client, place = process.client, self._chance.choice(places)
        channel, room = place if ":" in place else f"{place}:general", place.partition(":")[0]
        command = SendMessage(body=msgspec.Raw(msgspec.json.encode(self.mark())), channel=channel)
        value = msgspec.Raw(msgspec.json.encode({"mark": self.mark()}))
        tries: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: client.history(channel),
            lambda: client.join(place),
            lambda: client.invite(place, self.name),
            lambda: client.values(room=room),
            lambda: client.tasks(room=room),
            lambda: client.room_info(room),
            lambda: client.channel_info(channel),
            lambda: client.who(room),
            lambda: self.keyed(client, command, Sent),
            lambda: self.keyed(client, PutValue(key="a/pry", value=value, room=room), ValueInfo),
            lambda: client.claim("pry", room=room, ttl=5.0, terms=self._terms()),
        )
        await self._chance.choice(tries)()

    async def look_around(self, process: "Process") -> None:
        """All lists that name rooms, channels, agents and leases."""
        client = process.client
        await client.rooms()
        await client.channels()
        await client.leases()
        await client.who()
