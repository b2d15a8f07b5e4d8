"""One simulated world: a seed, a hub, agents, weather; and the story of what happened when a promise breaks.

    outcome = run(seed=1, hours=0.5, agents=50)

Everything that happens at the hub's door and on its disk goes into a hash: the same seed gives the same hash, on every
machine and in every process.
"""

import asyncio
import gc
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import count
from random import Random
from typing import Final

from tests.simulation.agents import Agent
from tests.simulation.couriers import Cargo
from tests.simulation.disk import SimulatedJournal
from tests.simulation.housekeeping import Reaper, in_a_hurry
from tests.simulation.hub import SimulatedHub
from tests.simulation.insiders import born
from tests.simulation.ledger import Ledger
from tests.simulation.limits import LIMITS
from tests.simulation.network import Learns, Link
from tests.simulation.roles import Operator, Person, Watcher
from tests.simulation.shelf import Shelf
from tests.simulation.story import Step, told
from tests.simulation.terms import RANKS, Bounds, Terms, Violation
from tests.simulation.virtual_time import Clock, VirtualLoop
from tests.simulation.watchmen import Watchman
from tests.simulation.witness import Json, Witness

CALM_S_MAX: Final = 500.0
"""How long everything may take to come to rest when nothing fails any more: parked leases end, and what is lent comes
back."""
STORY_STEPS: Final = 20_000
HOUR_S: Final = 3_600.0
COLLECTED_AFTER: Final = 20_000, 10, 5
"""Thresholds of the garbage collector: new objects, and collections of the generation before."""


@dataclass(slots=True)
class Outcome:
    """What came of a run. violation: None when every promise held. story: its last steps in words."""

    seed: int
    hours: float
    agents: int
    trace: str
    simulated_s: float
    steps: int
    checks: int
    counts: Counter[str]
    figures: dict[str, int] = field(default_factory=dict)
    violation: BaseException | None = None
    story: str = ""


class World:
    """Everything of one run. is_calm: nothing fails any more. is_over: all have come to rest."""

    def __init__(self, seed: int, hours: float, agents: int, *, think_s: float) -> None:
        self.seed = seed
        self.hours = hours
        self.think_s = think_s
        self.is_calm = False
        self.is_over = False
        self.are_people_let_in = False
        self.counts: Counter[str] = Counter()
        self.secret_numbers = count(1)
        self.cargo = Cargo()
        self.loop = VirtualLoop()
        self.clock = Clock(self.loop)
        self.crowd = [born(self, number) for number in range(agents)]
        self.others: list[Agent] = [Operator(self, 0), Person(self, 0), *(Watcher(self, number) for number in range(2))]
        self.others += [Watchman(self, number) for number in range(2)]
        self.hub = SimulatedHub(
            self.loop, self.clock, Random(f"{seed}/hub"), self._observers, self.sometimes, self._trace
        )
        self.hub.on_plan = Reaper(self).on_plan
        self._chance = Random(f"{seed}/weather")
        self._hash = blake2b(digest_size=16)
        self._steps: deque[Step] = deque(maxlen=STORY_STEPS)
        self._links: dict[int, Link] = {}
        self._made_links = 0
        self._broken: asyncio.Future[None] = self.loop.create_future()
        self._unwritable_until_s = 0.0

    def _observers(self, journal: SimulatedJournal) -> tuple[Ledger, Witness]:
        ranks = {agent.name: RANKS[agent.priority] for agent in (*self.crowd, *self.others)}
        bounds = Bounds(LIMITS.tie_grace_ms, LIMITS.parked_ms_max)
        self.terms = Terms(self.clock, bounds, ranks)
        self.ledger = Ledger(
            self.terms,
            Shelf(self.clock, self.sometimes),
            self.sometimes,
            base=journal.base,
            lends_max=LIMITS.lends_max,
            lend_ms=LIMITS.lend_ms,
        )
        self.ledger.lookout.people = frozenset(it.name for it in self.others if it.card.kind == "human")
        self.witness = Witness(self.ledger, self.clock, self.sometimes, self._note)
        return self.ledger, self.witness

    # What others ask of it.

    def sometimes(self, what: str) -> None:
        """Something worth reaching happened."""
        self.counts[what] += 1

    def say(self, who: str, text: str) -> None:
        """A step of the story that is no frame."""
        self._steps.append(Step(self.loop.now_s, who, text))

    def _note(self, link: Link, verb: str, frame: Json) -> None:
        self._steps.append(Step(self.loop.now_s, link.owner, verb, link.number, frame))

    def _trace(self, number: int, *payloads: bytes) -> None:
        if self.is_over:
            return
        self._hash.update(b"%d %d" % (int(self.loop.now_s * 1e6), number))
        for payload in payloads:
            self._hash.update(payload)

    def somebody(self, chance: Random, besides: str = "") -> str:
        """The name of an agent that has been here."""
        seen = set(self.ledger.names.values())
        known = [agent.name for agent in self.crowd if agent.name in seen and agent.name != besides]
        return chance.choice(known) if known else self.crowd[0].name

    def absent(self, chance: Random, besides: str) -> str:
        """The name of an agent that has no connection, if there is one that was here before."""
        life = self.hub.life
        here = set() if life is None else {link.owner for link in life.links.values()}
        gone = [name for name in self.ledger.names.values() if name not in here and name.startswith("agent")]
        gone = [name for name in gone if name != besides]
        return chance.choice(gone) if gone else self.somebody(chance, besides)

    def connect(self, owner: str) -> Link | None:
        """A connection to the hub, or None while there is none."""
        if self.hub.life is None:
            return None
        self._made_links += 1
        link = self.hub.connect(owner, Random(f"{self.seed}/link/{self._made_links}"))
        self._links[link.number] = link
        return link

    def online(self) -> set[str]:
        """Names of agents that have an open connection."""
        life = self.hub.life
        assert life is not None
        return {link.owner for link in life.links.values() if link.owner != "operator"}

    def was_read_only_lately(self) -> bool:
        """True when requests may have overtaken each other because some were refused for a while."""
        return self.loop.now_s < self._unwritable_until_s + 60.0

    # Weather.

    async def _storm(self) -> None:
        """One fault after the other."""
        chance = self._chance
        faults = (
            (self._cut, 30.0),
            (self._half_open, 8.0),
            (self._swallow, 5.0),
            (self._hold_up, 14.0),
            (self._narrow, 10.0),
            (self._kill_hub, 7.0),
            (self._stop_hub, 3.0),
            (self._fill_disk, 3.0),
            (self._fail_disk, 5.0),
            (self._slow_disk, 3.0),
            (self._set_clock, 3.0),
            (self._split, 1.0),
        )
        acts, weights = zip(*faults, strict=True)
        while True:
            await asyncio.sleep(chance.expovariate(1 / 6.0))
            (act,) = chance.choices(acts, weights)
            await act()

    def _some_link(self) -> Link | None:
        """Any, or one of an agent that is sure of a lease: there it hurts most."""
        for link in list(self._links.values()):
            if link.is_cut or not link.is_open_at_hub:
                del self._links[link.number]
                if link.frames_lost:
                    self.sometimes("frames on their way were lost")
        links = list(self._links.values())
        if self._chance.random() < 0.4:
            sure = {self.terms.all[epoch].ask.owner for epoch in self.terms.beliefs}
            links = [link for link in links if link.owner in sure] or links
        return self._chance.choice(links) if links else None

    def _cut_link(self, link: Link, learns: Learns, what: str) -> None:
        link.cut(learns)
        self.say(link.owner, f"connection {link.number}: {what}")

    async def _cut(self) -> None:
        if link := self._some_link():
            learns = Learns(self._chance.uniform(0.0, 0.5), self._chance.uniform(0.0, 0.5))
            self._cut_link(link, learns, "cut")

    async def _half_open(self) -> None:
        if link := self._some_link():
            self._cut_link(link, Learns(self._chance.uniform(20.0, 60.0), 0.1), "the hub takes it for open")
            self.sometimes("a connection was half open")

    async def _swallow(self) -> None:
        if link := self._some_link():
            learns = Learns(self._chance.uniform(5.0, 60.0), self._chance.uniform(5.0, 40.0))
            self._cut_link(link, learns, "everything vanishes, and neither end knows")
            self.sometimes("a connection swallowed everything")

    async def _hold_up(self) -> None:
        if link := self._some_link():
            link.stop(self._chance.choice((0.2, 2.0, 12.0)))
            self.say(link.owner, f"connection {link.number}: nothing moves for a while")

    async def _narrow(self) -> None:
        if link := self._some_link():
            link.slow_down(self._chance.uniform(20.0, 120.0), self._chance.choice((30.0, 100.0, 1_000.0)))
            self.say(link.owner, f"connection {link.number}: it is narrow for a while")

    async def _split(self) -> None:
        """A part of the agents is cut off at once."""
        for link in list(self._links.values()):
            if self._chance.random() < 0.3 and not link.is_cut:
                learns = Learns(self._chance.uniform(0.0, 30.0), self._chance.uniform(0.0, 15.0))
                self._cut_link(link, learns, "on the other side of a split")

    async def _kill_hub(self) -> None:
        killed = asyncio.Event()
        if self._chance.random() < 0.7:
            self.hub.doom(killed.set)
            with suppress(TimeoutError):
                async with asyncio.timeout(5.0):
                    await killed.wait()
        self.say("hub", "is killed")
        self.hub.crash("killed")
        self.sometimes("the hub was killed")
        await self.restart_hub()

    async def restart_hub(self) -> None:
        """After a while, unless somebody else did."""
        await asyncio.sleep(self._chance.choice((0.2, 0.5, 2.0, 15.0)))
        if self.hub.life is None:
            self.hub.start()
            self.say("hub", f"starts at {self.hub.journal.head}")

    def _on_hub_end(self, why: str) -> None:
        self.say("hub", f"ends: {why}")
        self._supervisor = self.loop.create_task(self.restart_hub())

    async def _stop_hub(self) -> None:
        seconds = self._chance.choice((0.5, 3.0, 40.0))
        self.say("hub", f"is stopped for {seconds} s")
        self.hub.stop_for(seconds)
        self.sometimes("the hub was stopped and went on")

    async def _fill_disk(self) -> None:
        self.say("hub", "the disk is full")
        self.hub.journal.is_full = True
        if self._chance.random() < 0.5:
            await asyncio.sleep(self._chance.uniform(0.5, 5.0))
            await self._kill_hub()
        await asyncio.sleep(self._chance.uniform(1.0, 15.0))
        self.hub.journal.is_full = False
        self._unwritable_until_s = self.loop.now_s
        self.say("hub", "the disk has room again")

    async def _fail_disk(self) -> None:
        self.hub.journal.failure = self._chance.choice(("kept", "lost"))
        self.sometimes(f"a commit failed and was {self.hub.journal.failure}")

    async def _slow_disk(self) -> None:
        self.hub.slow_commits_until_s = self.loop.now_s + self._chance.uniform(2.0, 15.0)

    async def _set_clock(self) -> None:
        hours = self._chance.choice((0, -11, 5, 11))  # by less than the day for which keys are kept
        self.clock.set_wall(int(hours * HOUR_S * 1000))
        self.sometimes("the wall clock was set")

    # The run.

    async def _live(self) -> None:
        self.hub.on_end = self._on_hub_end
        self.hub.start()
        lives = [self.loop.create_task(agent.live(), name=agent.name) for agent in (*self.crowd, *self.others)]
        storm = self.loop.create_task(self._storm(), name="weather")
        try:
            await self._watch([*lives, storm], self.hours * HOUR_S, storm)
            await self._end_storm(storm)
            await self._watch(lives, CALM_S_MAX, None)
            await self._check_rest()
        finally:
            self.is_over = True
            for task in (*lives, storm):
                task.cancel()
            await asyncio.wait([*lives, storm])

    async def _end_storm(self, storm: "asyncio.Task[None]") -> None:
        storm.cancel()
        await asyncio.wait([storm])
        self.hub.journal.is_full, self.hub.journal.failure = False, None
        self.hub.slow_commits_until_s = 0.0
        self._unwritable_until_s = self.loop.now_s
        if self.hub.life is None:
            await self.restart_hub()
        self.say("weather", "is calm from here on")
        self.is_calm = True

    async def _watch(self, tasks: list["asyncio.Task[None]"], seconds: float, storm: object) -> None:
        """Until the time is over, or all have come to rest. Raises what broke."""
        ends_s = self.loop.now_s + seconds
        while self.loop.now_s < ends_s:
            done, _ = await asyncio.wait([self._broken, *tasks], timeout=5.0, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                future.result()
            if storm is None and all(agent.is_settled for agent in (*self.crowd, *self.others)):
                return

    async def _check_rest(self) -> None:
        restless = [agent.name for agent in (*self.crowd, *self.others) if not agent.is_settled]
        if restless:
            raise Violation("not at rest", f"{CALM_S_MAX:g} s after the last fault: {', '.join(restless)}", *restless)
        assert self.hub.life is not None, "nothing ends it any more"
        await self.hub.life.turns.settle()
        self.hub.check()
        self.hub.check_replay()
        self.is_over = True

    def _on_bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """An exception that nobody caught: the hub's, the client's or an observer's."""
        error = context.get("exception")
        if not isinstance(error, BaseException):
            error = AssertionError(str(context))
        if not self._broken.done():
            self._broken.set_exception(error)

    def run(self) -> Outcome:
        """Let it happen."""
        self.loop.set_exception_handler(self._on_bug)
        asyncio.set_event_loop(self.loop)
        try:
            life = self.loop.create_task(self._live())
            self.loop.run_until_complete(asyncio.wait([life]))
            broken = life.exception()
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()
            self.cargo.clean()
        violation = None if broken is None else _first(broken)
        journal, witness = self.hub.journal, self.witness
        return Outcome(
            seed=self.seed,
            hours=self.hours,
            agents=len(self.crowd),
            trace=self._hash.hexdigest(),
            simulated_s=self.loop.now_s,
            steps=self.hub.steps,
            checks=self.hub.checks,
            counts=self.counts,
            figures={
                "events": journal.head - journal.base,
                "answers": witness.answers,
                "notices": witness.notices,
                "fenced": witness.fenced,
                "grants": len(self.terms.all),
                "changes of values": len(self.ledger.shelf.events),
                "changes of plans": len(self.ledger.agenda.events),
                "frames looked through for secrets": self.ledger.privacy.looked,
                "hub lives": self.hub.lives,
                "latest expiry ms": self.terms.latest_expiry_ms,
            },
            violation=violation,
            story="" if violation is None else told(violation, self._steps, self._command()),
        )

    def _command(self) -> str:
        return f"python -m tests.simulation --seed {self.seed} --hours {self.hours:g} --agents {len(self.crowd)}"


def _first(error: BaseException) -> BaseException:
    """The first violation in a group; else the first error."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    found = [_first(part) for part in error.exceptions]
    return next((part for part in found if isinstance(part, Violation)), found[0])


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Garbage is looked for less often: a world keeps most of what it makes, and each look costs by what is kept."""
    before = gc.get_threshold()
    gc.set_threshold(*COLLECTED_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def run(seed: int, hours: float, agents: int = 50, *, think_s: float = 6.0) -> Outcome:
    """Simulate so many hours of so many agents. think_s: how long one thinks between two actions, on average."""
    with in_a_hurry(), seldom_collected():
        return World(seed, hours, agents, think_s=think_s).run()
