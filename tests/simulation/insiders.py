"""Members of private rooms that follow the leases of all they may see, and the plan of a room, over kicks and leaves.

What they hear is held against where they were members when: nothing of a room that they were not in or do not read,
and of what went on while they were in there everything, once and in order.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.simulation.agenda import stream_of
from tests.simulation.agents import Agent, Process
from tests.simulation.correspondents import going_on
from tests.simulation.privacy import Place
from tests.simulation.terms import Violation

from synapse.client.client import Client
from synapse.errors import Rejected

if TYPE_CHECKING:
    from tests.simulation.world import World

LEASES: Final = "leases"
STAY_S: Final = 90.0
"""So long somebody follows the plan of one room, and then perhaps that of another."""


def was_in(place: Place, agent: str, since: int, upto: int) -> bool:
    """True for who was a member at `since`, read what came then, and was not out since."""
    first = bisect_right(place.members.at, since) - 1
    last = bisect_right(place.members.at, upto)
    return first >= 0 and all(then.get(agent, since) < since for then in place.members.then[first:last])


def may_hear(place: Place, agent: str, seq: int) -> bool:
    """True for who is, or was at some time since then, a member that reads what came at `seq`."""
    first = max(bisect_right(place.members.at, seq) - 1, 0)
    return any(then.get(agent, seq) < seq for then in place.members.then[first:])


@dataclass(slots=True)
class Heard:
    """How far a member was in what it follows, over every run of its program. streams: of the ledger, each with the
    private room that it is of."""

    world: "World"
    name: str
    streams: Callable[[], Iterator[tuple[str, str]]]
    cursor: str | None = None
    heard: int = 0

    def begin(self, cursor: str | None) -> None:
        """From here on, when it was nowhere yet."""
        if self.cursor is None:
            assert cursor is not None, "a feed says where it begins"
            self.cursor, self.heard = cursor, int(cursor.partition(":")[2])

    def due(self, upto: int | None = None) -> int | None:
        """The first that it must be told before `upto`, or up to the head, as a member from then on until now: who
        was cut off when it came, and put out before it was back, is not told of it any more."""
        head = self.world.ledger.head
        first: int | None = None
        for stream, room in self.streams():
            place, seqs = self.world.ledger.privacy.of(room), self.world.ledger.streams[stream]
            for seq in seqs[bisect_right(seqs, self.heard) :]:
                if seq >= (head + 1 if upto is None else upto) or (first is not None and seq >= first):
                    break
                if place is None or was_in(place, self.name, seq, head):
                    first = seq
                    break
        return first

    def hear(self, cursor: str, room: str) -> None:
        """The next notice. Raises `Violation`."""
        seq = int(cursor.partition(":")[2])
        place = self.world.ledger.privacy.of(room)
        if seq <= self.heard:
            raise Violation("repeated", f"{self.name} is told {seq} of {room} after {self.heard}", self.name)
        if place is not None and not may_hear(place, self.name, seq):
            raise Violation("leak", f"{self.name} is told {seq} of {place}", self.name)
        due = self.due(seq)
        if due is not None:
            raise Violation("skipped", f"{self.name} is told {seq} of {room}; {due} comes before it", self.name)
        self.heard, self.cursor = seq, cursor


class Insider(Agent):
    """One of the crowd that is a member wherever it can, and follows what goes on there."""

    def __init__(self, world: "World", number: int) -> None:
        super().__init__(world, number)
        self._of_leases = Heard(world, self.name, self._lease_streams)
        self._plans: dict[str, Heard] = {}
        self._place: str | None = None

    def _repertoire(self) -> dict[Callable[[Process], Awaitable[None]], float]:
        actions = super()._repertoire()
        return actions | {self.come_in: 40, self.found_a_place: 6, self.plan_in_secret: 20, self.go_out: 6}

    def _lease_streams(self) -> Iterator[tuple[str, str]]:
        yield LEASES, "main"
        for place in self.world.ledger.privacy.places.values():
            if ":" not in place.name and self.name in place.known:
                yield f"{LEASES} {place.name}", place.name

    async def _work_inbox(self, process: Process) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._again(lambda: going_on(lambda: self._hear_leases(process.client), self._of_leases)))
            group.create_task(self._again(lambda: self._follow_a_plan(process.client)))
            await super()._work_inbox(process)

    async def _again(self, follow: Callable[[], Awaitable[None]]) -> None:
        """Follow anew whenever a room is not there any more for who follows it."""
        while True:
            try:
                await follow()
            except Rejected as refusal:
                if refusal.code not in ("not_found", "read_only"):
                    raise
                self.world.sometimes("who followed a private room was in it no more")
            await asyncio.sleep(2.0)

    async def _hear_leases(self, client: Client) -> None:
        async with client.lease_changes(self._of_leases.cursor) as feed:
            self._of_leases.begin(feed.cursor)
            async for change in feed:
                self._of_leases.hear(change.cursor, change.room)
                if self.world.ledger.privacy.of(change.room) is not None:
                    self.world.sometimes("a member heard of a lease in a private room")

    async def _follow_a_plan(self, client: Client) -> None:
        self._place = room = self._my_place(rooms_only=True)
        if room is None:
            return
        heard = self._plans.setdefault(room, Heard(self.world, self.name, lambda: iter([(stream_of(room), room)])))
        try:
            async with asyncio.timeout(None if self.world.is_calm else STAY_S):
                await going_on(lambda: self._hear_plan(client, room, heard), heard)
        except TimeoutError:
            return

    async def _hear_plan(self, client: Client, room: str, heard: Heard) -> None:
        async with client.plan_changes(room=room, since=heard.cursor) as feed:
            if heard.cursor is not None:
                self.world.sometimes("a feed of a private plan was resumed from a cursor")
            heard.begin(feed.cursor)
            async for change in feed:
                heard.hear(change.cursor, room)
                self.world.sometimes("a member heard of a private plan")

    async def _settle(self, client: Client) -> None:
        """At the end nothing is left that a member must still be told."""
        followed = [self._of_leases, *(heard for room, heard in self._plans.items() if room == self._place)]
        while any(heard.cursor is not None and heard.due() is not None for heard in followed):
            await asyncio.sleep(1.0)
        await super()._settle(client)


def born(world: "World", number: int) -> Agent:
    """One of the crowd."""
    return Insider(world, number) if number % 17 == 6 else Agent(world, number)
