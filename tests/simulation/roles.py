"""Who is not one of the crowd: an operator who takes leases away, and watchers of all that is told."""

import asyncio
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from tests.simulation.agents import TASKS, TREES, Agent, Process
from tests.simulation.correspondents import going_on
from tests.simulation.housekeeping import some_ages
from tests.simulation.people import TOKEN, Answerer, let_in
from tests.simulation.planners import OWN, SHARED, PlanFollower
from tests.simulation.sharing import Follower
from tests.simulation.terms import Violation
from tests.simulation.workers import WORKED_ON

from synapse.client.client import Card, Client, Terms
from synapse.protocol.notices import LeaseChanged

if TYPE_CHECKING:
    from tests.simulation.world import World


class Operator(Agent):
    """Changes pools, takes leases away for somebody, and compares the list of leases with the journal."""

    def __init__(self, world: "World", number: int) -> None:
        super().__init__(world, number)
        self.name = "operator"
        self._chance = Random(f"{world.seed}/operator")

    async def _run(self, process: Process) -> None:
        operator = Process(self.world, self, Random(self._chance.getrandbits(64)), operator=True)
        async with operator.client as client, asyncio.TaskGroup() as group:
            await let_in(self.world, client)
            answering = group.create_task(Answerer(self, self._chance).answer_all(client))
            while not self.world.is_calm:
                await self.pause(30.0)
                await self.attempt(self._intervene(client))
            while self.world.terms.live or self.world.terms.places:
                await asyncio.sleep(1.0)
            await self._compare(client)
            await answering

    async def _intervene(self, client: Client) -> None:
        chance = self._chance.random()
        if chance < 0.25:
            await client.set_pool("gpu", self._chance.randint(2, 4))
        elif chance < 0.5:
            terms = Terms(preempt=True, claimant=self.world.somebody(self._chance), folds_case=False)
            if chance < 0.37:
                await client.claim(self._chance.choice(TASKS), ttl=10.0, paths=("a",), worktree=TREES[0], terms=terms)
            else:
                await client.claim(self._chance.choice(self._worked_on()), ttl=10.0, terms=terms)
        elif chance < 0.65:
            task, room = self._chance.choice((*SHARED, *OWN)), self._chance.choice(("main", "main", "crew"))
            await client.update_task(task, self._chance.choice(("open", "done")), room=room, note=self.mark())
        elif chance < 0.75:
            await self._compare(client)
        else:
            await self._compact(client)

    def _worked_on(self) -> Sequence[str]:
        """Tasks under a lease whose holder kept a checkpoint, if there are any."""
        live = {(it.ask.room_name, it.ask.task, it.ask.owner) for it in self.world.terms.live.values()}
        runs = [run for run in self.world.ledger.records.newest(100) if run.is_fresh and run.room == "main"]
        return [run.task for run in runs if run.task and ("main", run.task, run.owner) in live] or WORKED_ON[:3]

    async def _compact(self, client: Client) -> None:
        """What is old goes: of everything, of some of it, or of one channel more."""
        try:
            async with asyncio.timeout(60.0):
                await client.compact_journal(some_ages(self._chance))
        except TimeoutError:
            self.world.sometimes("nobody waited for the end of a compaction")

    async def _compare(self, client: Client) -> None:
        """A list of one page is a state that the journal had. Raises `Violation`."""
        listed = await client.leases()
        epochs, terms = {lease.epoch for lease in listed}, self.world.terms
        newest = max(epochs, default=0)
        for lease in listed:
            term = terms.all.get(lease.epoch)
            if term is None or term.ask.owner != lease.owner:
                raise Violation("altered", f"{lease} is listed; the journal has {term}", lease.owner)
        for term in terms.live.values():
            is_private = self.world.ledger.privacy.of(term.ask.room_name) is not None
            if term.epoch < newest and term.epoch not in epochs and not is_private:
                raise Violation("lost", f"{term.epoch} of {term.ask.owner} is live and not listed", term.ask.owner)


class Watcher(Agent):
    """Follows all leases, values and plans of two rooms, and who is here, over every reconnect."""

    def __init__(self, world: "World", number: int) -> None:
        super().__init__(world, number)
        self.name = f"watcher{number:02d}"
        self.secret = f"{self.name}-secret".ljust(40, ".")
        self.here: dict[str, str] = {}
        self._chance = Random(f"{world.seed}/{self.name}")
        prefixes = ("", "a/") if number % 2 else ("b/", "")
        rooms = zip(("main", "crew"), prefixes, strict=True)
        self.followers: list[Follower | PlanFollower] = [Follower(world, self.name, *place) for place in rooms]
        self.followers += [PlanFollower(world, self.name, room) for room in ("main", "crew")]

    async def _run(self, process: Process) -> None:
        async with process.client as client, asyncio.TaskGroup() as group:
            tasks = [going_on(lambda: self._watch(client), self.memory), self._look_around(client)]
            tasks += [going_on(partial(follower.follow, client), follower) for follower in self.followers]
            helpers = [group.create_task(task) for task in tasks]
            ends_s = self._chance.uniform(60.0, 600.0) + self.world.loop.now_s
            while self.world.loop.now_s < ends_s and not self.world.is_calm:
                await asyncio.sleep(1.0)
            if self.world.is_calm:
                await self._come_to_rest()
            for helper in helpers:
                helper.cancel()

    async def _watch(self, client: Client) -> None:
        async with client.lease_changes(self.memory.cursor) as feed:
            if self.memory.cursor is None:
                assert feed.cursor is not None
                self.memory.heard = int(feed.cursor.partition(":")[2])
                self.memory.cursor = feed.cursor
            async for change in feed:
                self._hear_change(change)

    def _hear_change(self, change: LeaseChanged) -> None:
        """The next change is the next in the journal. Raises `Violation`."""
        seq = int(change.cursor.partition(":")[2])
        due = self.world.ledger.next_of(["leases"], self.memory.heard, self.memory.at)
        if seq != due:
            raise Violation("wrong feed", f"{self.name} is told {change}; {due} comes next", self.name, change.task)
        self.memory.heard, self.memory.cursor = seq, change.cursor

    async def _look_around(self, client: Client) -> None:
        async with client.presence() as feed:
            async for update in feed:
                if update.is_snapshot:
                    self.here.clear()
                self.here.update({entry.name: entry.presence for entry in update.agents})

    async def _come_to_rest(self) -> None:
        world = self.world
        while (
            world.ledger.next_of(["leases"], self.memory.heard, self.memory.at) is not None
            or any(follower.due is not None for follower in self.followers)
            or world.ledger.shelf.has_ended_values()
            or world.terms.live
            or world.terms.places
            or {name for name, presence in self.here.items() if presence == "online"} != world.online()
        ):
            await asyncio.sleep(1.0)
        self.is_settled = True
        while not world.is_over:
            await asyncio.sleep(1.0)


class Person(Agent):
    """A person with a token of their own, who answers what agents ask; its connections are cut as all others."""

    def __init__(self, world: "World", number: int) -> None:
        super().__init__(world, number)
        self.name = f"person{number:02d}"
        self.card = Card(client="simulated", kind="human")
        self.secret = f"{self.name}-secret".ljust(40, ".")
        self._chance = Random(f"{world.seed}/{self.name}")

    async def _run(self, process: Process) -> None:
        while not self.world.are_people_let_in:
            await asyncio.sleep(1.0)
        person = Process(self.world, self, Random(self._chance.getrandbits(64)), token=TOKEN)
        async with person.client as client, asyncio.TaskGroup() as group:
            await self.attempt(self._come_in(client))
            reading = group.create_task(self._work_inbox(person))
            await Answerer(self, self._chance).answer_all(client)
            reading.cancel()

    async def _come_in(self, client: Client) -> None:
        """Whoever is a member of a room is called when something in it does not go on."""
        await client.join("main")
