"""Agents with random but plausible lives, on the real client: they talk, claim, wait, hand off, crash and come back.

An agent is a name, a secret, and what it remembers from one run of its program to the next: where it was in its feed,
which epochs it had, which requests it does not know the outcome of. A run is a `Client` or two and the tasks around it.
A run that crashes says no goodbye. Whatever an agent is told is held against the ledger.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Final

import msgspec
from tests.simulation.confidants import Confidant
from tests.simulation.correspondents import Correspondent, ReceiptFollower, going_on, is_past_its_date
from tests.simulation.idlers import Idler
from tests.simulation.network import Learns, Link
from tests.simulation.people import Asker
from tests.simulation.planners import SHARED, Planner
from tests.simulation.repeaters import CHANNELS, Repeat, Repeater
from tests.simulation.sharing import Sharer
from tests.simulation.skimmers import Skimmer
from tests.simulation.terms import Violation
from tests.simulation.traders import Trader
from tests.simulation.workers import Worker

from synapse.client.calls import OutcomeUnknown, RequestTimeout
from synapse.client.client import Card, Client, HeldLease, Terms, Wiring
from synapse.errors import Disconnected, HubUnreachable, LeaseLost, Rejected
from synapse.protocol import replies
from synapse.protocol.commands import SendMessage
from synapse.protocol.notices import Message

if TYPE_CHECKING:
    from tests.simulation.world import World

TREES: Final = ("box:/repo", "box:/other", "den:/repo")
TASKS: Final = tuple(f"T{number}" for number in range(24))
CONTENDED: Final = ("integrate", "release", "deploy")
"""Tasks without a scope that everybody wants for a short time."""
SCOPES: Final[tuple[tuple[str, ...], ...]] = (
    (),
    ("a",),
    ("a/b",),
    ("a/*", "c"),
    ("b/**",),
    ("b/x/y",),
    ("**/x",),
    ("d",),
    ("e/f", "f/e"),
    ("f",),
)
REFUSALS: Final = frozenset(
    {
        "lease_held",
        "lease_queued",
        "deadline",
        "deadlock",
        "withdrawn",
        "stale_epoch",
        "not_holder",
        "not_found",
        "read_only",
        "inbox_full",
        "no_recipient",
        "limit",
        "version_conflict",
        "not_permitted",
        "illegal_transition",
        "cycle",
        "not_empty",
        "already_answered",
        "cursor_too_old",
        "already_exists",
    }
)
"""The lawful noes; any other code is a fault of the agent or of the hub."""
TIMEOUT_S: Final = 10.0


class Crash(Exception):
    """The agent's process dies here."""


@dataclass(slots=True)
class Memory:
    """What outlives a run: sequence of marks, position in the feed and the seqs it has seen, epochs, open questions."""

    marks: int = 0
    cursor: str | None = None
    heard: int = 0
    at: dict[str, int] = field(default_factory=dict)
    epochs: list[tuple[str, int]] = field(default_factory=list)
    unknown: list[Repeat] = field(default_factory=list)


class Process:
    """One run of an agent's program: its connections die with it."""

    def __init__(
        self, world: "World", agent: "Agent", chance: Random, *, operator: bool = False, token: str | None = None
    ) -> None:
        self.is_dead = False
        self._world = world
        self._agent = agent
        self._chance = chance
        self._links: list[Link] = []
        wiring = Wiring(dial=self._dial, chance=chance)
        self.client = Client(
            name=None if operator else agent.name,
            secret=None if operator else agent.secret,
            card=agent.card,
            room="main",
            home="/nowhere/synapse",
            operator=operator,
            token=token,
            timeout=TIMEOUT_S,
            wiring=wiring,
        )

    async def _dial(self) -> Link:
        await asyncio.sleep(self._chance.uniform(0.0002, 0.005))
        link = None if self.is_dead else self._world.connect(self._agent.name)
        if link is None:
            raise HubUnreachable("no hub answers")
        self._links = [old for old in self._links if old.is_open_at_hub and not old.is_cut]  # each keeps its hub alive
        self._links.append(link)
        return link

    def die(self) -> None:
        """Without a goodbye: the hub learns of it at once, or much later."""
        self.is_dead = True
        late = self._chance.random() < 0.3
        for link in self._links:
            link.cut(Learns(self._chance.uniform(5.0, 60.0) if late else self._chance.uniform(0.0, 0.2), 0.0))
        self._links.clear()


class Agent(Sharer, Planner, Asker, Worker, Correspondent, Confidant, Trader, Skimmer, Idler, Repeater):
    """One identity over all its runs. number: also decides what it is like."""

    def __init__(self, world: "World", number: int) -> None:
        self.name = f"agent{number:02d}"
        self.secret = f"{self.name}-secret".ljust(40, ".")
        self.number = number
        self.memory = Memory()
        self.card = Card(client="simulated")
        self.priority = {1: "high", 2: "low"}.get(number % 10, "normal")
        self.world = world
        self.runs = 0
        self.sent: list[str] = []
        self.skimmed: dict[str | None, str] = {}
        self.receipts = ReceiptFollower(world, self.name) if number % 4 == 1 else None
        self.is_settled = False
        self._chance = Random(f"{world.seed}/{self.name}")
        self._is_choosy = number % 7 == 4
        self._takes_ahead = number % 3 == 1
        self._follows = self._chance.sample(CHANNELS, 2) if number % 3 == 0 else []
        self._actions, self._weights = zip(*self._repertoire().items(), strict=True)

    def _repertoire(self) -> dict[Callable[[Process], Awaitable[None]], float]:
        actions: dict[Callable[[Process], Awaitable[None]], float] = {
            self.post: 24,
            self.write: 12,
            self.burst: 2,
            self.write_to_all: 0.4,
            self.read_history: 3,
            self.hold: 30,
            self.claim: 14,
            self.show_old_epoch: 5,
            self.ask_again: 3,
            self.ask_twice: 3,
            self.give_up_waiting: 3,
            self.join_or_leave: 1,
            self.put_value: 8,
            self.count: 5,
            self.read_values: 4,
            self.give_value: 5,
            self.remove_values: 2,
            self.crash: 0.8,
        }
        actions |= self.plan_repertoire() | self.question_repertoire() | self.work_repertoire()
        actions |= self.digest_repertoire() | self.idle_repertoire()
        return actions | self.mail_repertoire() | self.secret_repertoire() | self.trade_repertoire()

    def twin(self) -> Process:
        """A second connection of this agent."""
        return Process(self.world, self, Random(self._chance.getrandbits(64)))

    def say(self, text: str) -> None:
        """For the story."""
        self.world.say(self.name, text)

    async def pause(self, mean_s: float) -> None:
        """Think; be quick about it when there is nothing new to begin."""
        mean_s = min(mean_s, 1.0) if self.world.is_calm else mean_s
        await asyncio.sleep(min(self._chance.expovariate(1 / mean_s), 6 * mean_s))

    # Its runs.

    async def live(self) -> None:
        """Run after run, until the world is calm; then one last run in which everything is brought to an end."""
        await asyncio.sleep(self._chance.uniform(0.0, 20.0))
        while not (self.is_settled or self.world.is_over):  # a task group that fails may swallow a cancellation
            self.runs += 1
            process = Process(self.world, self, Random(f"{self.world.seed}/{self.name}/{self.runs}"))
            try:
                await self._run(process)
            except* (HubUnreachable, Disconnected, RequestTimeout) as lost:
                self.say(f"gives up for now: {lost.exceptions[0]}")
            except* Crash:
                self.say("crashed")
            except* Rejected as refused:
                self._require_full_disk(refused)
            await self.pause(12.0)
            if not self.world.is_calm and self._chance.random() < 0.06:
                self.say("is away for a while")
                await asyncio.sleep(self._chance.uniform(300.0, 420.0))

    def _require_full_disk(self, refused: BaseExceptionGroup[Rejected]) -> None:
        """The only reason not to be let in, or to be told nothing."""
        for refusal in refused.exceptions:
            if not isinstance(refusal, Rejected) or refusal.code != "read_only":
                raise Violation("refused for nothing", f"{self.name}: {refusal}", self.name) from refusal

    async def _run(self, process: Process) -> None:
        async with process.client as client, asyncio.TaskGroup() as group:
            await self.attempt(self.catch_up(client))
            helpers = [group.create_task(self._work_inbox(process), name="inbox")]
            if self._follows:
                helpers.append(group.create_task(going_on(lambda: self._listen(client), self.memory), name="listen"))
            if self.receipts is not None:
                helpers.append(
                    group.create_task(going_on(partial(self.receipts.follow, client), self.receipts), name="receipts")
                )
            await self._work(process)
            if self.world.is_calm:
                await self._settle(client)
            for helper in helpers:
                helper.cancel()

    async def _work(self, process: Process) -> None:
        for _ in range(self._chance.randint(5, 40)):
            await self.pause(self.world.think_s)
            if self.world.is_calm:
                return
            (action,) = self._chance.choices(self._actions, self._weights)
            await self.attempt(action(process))

    async def attempt(self, action: Awaitable[None]) -> None:
        """Carry out what may lawfully be refused, take too long, or be lost."""
        try:
            await action
        except Rejected as refusal:
            if refusal.code not in REFUSALS and not is_past_its_date(refusal):
                raise Violation("refused for nothing", f"{self.name}: {refusal}", self.name) from refusal
        except OutcomeUnknown:
            self.world.sometimes("an outcome was unknown")
        except (RequestTimeout, LeaseLost):
            pass

    async def _settle(self, client: Client) -> None:
        """Everything converges: questions are answered, the feed has all, the inbox empties."""
        while self.memory.unknown:
            await self.attempt(self._ask_again(client))
        ledger = self.world.ledger
        while (
            not ledger.mail.is_at_rest(self.name)
            or (self._follows and ledger.next_of(self._keys(), self.memory.heard, self.memory.at) is not None)
            or (self.receipts is not None and self.receipts.due is not None)
        ):
            await asyncio.sleep(1.0)
        self.is_settled = True
        while not self.world.is_over:
            await asyncio.sleep(1.0)

    # Listening and the inbox.

    def _keys(self) -> list[str]:
        return [*self._follows, f"@{self.name}"]

    async def _listen(self, client: Client) -> None:
        while True:
            async with client.subscribe(*self._follows, inbox=True, since=self.memory.cursor) as feed:
                if self.memory.cursor is None:
                    self.memory.cursor = feed.cursor
                    assert feed.cursor is not None
                    self.memory.heard = int(feed.cursor.partition(":")[2])
                else:
                    self.world.sometimes("a feed was resumed from a cursor")
                for _ in range(self._chance.randint(1, 200)):
                    self._hear(await anext(feed))
            await self.pause(5.0)

    def _hear(self, message: Message) -> None:
        """The next message of the feed is the next in the journal. Raises `Violation`."""
        seq = int(message.id[1:])
        due = self.world.ledger.next_of(self._keys(), self.memory.heard, self.memory.at)
        if seq != due:
            rule = "repeated" if seq <= self.memory.heard else "skipped"
            raise Violation(rule, f"{self.name} is told {seq} in its feed; {due} comes next", self.name)
        self.memory.heard, self.memory.cursor = seq, message.cursor

    async def _work_inbox(self, process: Process) -> None:
        while True:
            is_ahead = self._takes_ahead and self._chance.random() < 0.3
            try:
                await (self._take_ahead(process) if is_ahead else self._take_one(process))
            except (Rejected, RequestTimeout):
                await self.pause(1.0)

    async def _take_one(self, process: Process) -> None:
        wait = self._chance.choice((0.0, 10.0, 30.0, 30.0))
        taken = await process.client.take(wait=wait, directed_only=self._is_choosy and not self.world.is_calm)
        if taken is None:
            await self.pause(1.0)
        else:
            await self._deal_with(process, taken.message)

    async def _take_ahead(self, process: Process) -> None:
        """Be lent several at a time, until there is nothing for a while or it is enough."""
        most, directed = self._chance.choice((1, 3, 8)), self._is_choosy and not self.world.is_calm
        async with process.client.deliveries(most, directed_only=directed) as feed:
            for _ in range(self._chance.randint(1, 40)):
                try:
                    async with asyncio.timeout(20.0):
                        lent = await anext(feed)
                except TimeoutError:
                    return
                await self._deal_with(process, lent.message)

    async def _deal_with(self, process: Process, message: Message) -> None:
        client = process.client
        await self.attempt(self.on_lent(client, message))
        is_slow = not self.world.is_calm and self._chance.random() < 0.02
        await asyncio.sleep(self._chance.uniform(25.0, 45.0) if is_slow else self._chance.uniform(0.0, 0.5))
        is_patient = self.world.is_calm or self._chance.random() < (0.3 if self.number % 10 == 3 else 0.9)
        if is_patient:
            await self.attempt(self._ack(client, message))
        elif self._chance.random() < 0.1:
            process.die()
            raise Crash

    async def _ack(self, client: Client, message: Message) -> None:
        await client.ack(message.id)
        if message.kind != "system":
            return
        note = msgspec.json.decode(bytes(message.body))
        task, room = note.get("task"), note.get("room")
        if note["type"] == "lease.offered" and not self.world.is_calm:
            lease = await client.claim(task, ttl=20.0, room=room, terms=self._terms())
            self.memory.epochs.append((task, lease.epoch))
        elif note["type"] == "lane.offered":
            await self.on_lane(client, note["lane"])
        elif note["type"] == "lease.handed_off":
            self.memory.epochs.append((task, note["epoch"]))
            await client.renew(task, epoch=note["epoch"], room=room)
            await self.pause(3.0)
            await client.release(task, epoch=note["epoch"], room=room)

    # Talking.

    def mark(self) -> str:
        """A word that no message had before."""
        self.memory.marks += 1
        return f"{self.name}-{self.memory.marks}"

    def _text(self) -> str:
        chance = self._chance.random()
        if chance < 0.1:
            return f"{self.mark()} what about it, @{self.world.somebody(self._chance)}?"
        return f"{self.mark()} {'.' * (30 if chance < 0.93 else 6_000)}"

    async def _send(self, client: Client, **where: object) -> None:
        text = self._text()
        command = SendMessage(body=msgspec.Raw(msgspec.json.encode(text)), **where)  # type: ignore[arg-type]  # by name
        await self.keyed(client, command, replies.Sent)

    async def post(self, process: Process) -> None:
        """Say something in a channel."""
        await self._send(process.client, channel=self._chance.choice(CHANNELS))

    async def write(self, process: Process) -> None:
        """Say something to one or a few."""
        others = {self.world.somebody(self._chance) for _ in range(self._chance.randint(1, 3))}
        await self._send(process.client, to=tuple(sorted(others)))

    async def write_to_all(self, process: Process) -> None:
        """Say something to everybody who is in a room."""
        await self._send(process.client, target="all", room="crew")

    async def burst(self, process: Process) -> None:
        """Say several things at once: they stay in order."""
        client, channel = process.client, self._chance.choice(CHANNELS)
        texts = [self._text() for _ in range(self._chance.randint(2, 6))]
        sent = await asyncio.gather(*(client.send(text, channel=channel) for text in texts), return_exceptions=True)
        seqs = [int(reply.id[1:]) for reply in sent if isinstance(reply, replies.Sent)]
        if seqs != sorted(seqs) and not self.world.was_read_only_lately():
            raise Violation("out of send order", f"{self.name} sent {texts}: {seqs}", self.name)
        for problem in sent:
            if isinstance(problem, BaseException):
                raise problem

    async def read_history(self, process: Process) -> None:
        """A page of a channel."""
        channel = self._chance.choice(CHANNELS)
        page = await process.client.history(channel, limit=self._chance.choice((5, 20, 50)))
        if page.previous is not None and self._chance.random() < 0.5:
            await process.client.history(channel, before=page.previous, limit=10)

    async def join_or_leave(self, process: Process) -> None:
        """Be a member of the crew, or not."""
        if self._chance.random() < 0.6:
            await process.client.join("crew")
        else:
            await process.client.leave("crew")

    # Leases.

    def _terms(self, **more: object) -> Terms:
        return Terms(priority=self.priority, folds_case=False, **more)  # type: ignore[arg-type]  # by name

    def _scope(self) -> dict[str, object]:
        """What to claim, as arguments."""
        chance, paths = self._chance.random(), self._chance.choice(SCOPES)
        scope: dict[str, object] = {"mode": "shared"} if chance < 0.25 else {}
        if paths:
            scope |= {"paths": paths, "worktree": self._chance.choice(TREES)}
        if 0.4 < chance < 0.55:
            scope["pools"] = {"gpu": 1 + (chance < 0.45)} if chance < 0.5 else {"port": 1}
        return scope

    async def hold(self, process: Process) -> None:
        """Hold a lease while a block runs."""
        client, chance = process.client, self._chance
        if chance.random() < 0.6:
            lease = client.lease(chance.choice(CONTENDED), ttl=6.0, wait=45.0, terms=self._terms())
        else:
            wait, ttl = chance.choice((0.0, 5.0, 20.0)), chance.choice((6.0, 15.0, 30.0))
            lease = client.lease(chance.choice(TASKS), ttl=ttl, wait=wait, terms=self._terms(), **self._scope())  # type: ignore[arg-type]  # by name
        async with lease:
            self.memory.epochs.append((lease.task, lease.epoch))
            beliefs = self.world.terms.beliefs
            beliefs[lease.epoch] = lambda: lease.is_live
            try:
                await self._work_under(process, lease)
            finally:
                del beliefs[lease.epoch]

    async def _work_under(self, process: Process, lease: HeldLease) -> None:
        chance = self._chance.random()
        await self.pause(5.0)
        if chance < 0.3:
            await lease.save({"left": self.mark()})
        elif chance < 0.4:
            del self.world.terms.beliefs[lease.epoch]
            try:
                await lease.hand_off(self.world.somebody(self._chance, besides=self.name))
            finally:
                self.world.terms.beliefs[lease.epoch] = lambda: False
        elif chance < 0.43:
            self.say(f"dies under epoch {lease.epoch} of {lease.task}")
            process.die()
            raise Crash
        elif chance < 0.47:
            await self.pause(20.0)
        elif chance < 0.6 and lease.task in SHARED:
            self.world.terms.beliefs[lease.epoch] = lambda: False
            status = self._chance.choice(("done", "done", "failed", "blocked"))
            await process.client.update_task(lease.task, status, note=self.mark(), epoch=lease.epoch)

    async def claim(self, process: Process) -> None:
        """Claim as a command line does: it outlives connections, and somebody must think of renewing it."""
        client, chance = process.client, self._chance
        task, wait = chance.choice(TASKS), chance.choice((0.0, 0.0, 10.0, 30.0, None))
        scope, ttl = self._scope(), chance.choice((5.0, 10.0, 20.0))
        if wait is None:
            scope.pop("pools", None)
        tied = chance.random() < 0.2
        lease = await client.claim(task, ttl=ttl, wait=wait, terms=self._terms(tied=tied), **scope)  # type: ignore[arg-type]  # by name
        self.memory.epochs.append((task, lease.epoch))
        for _ in range(chance.randint(0, 4)):
            await self.pause(ttl * 0.4)
            await client.renew(task, epoch=lease.epoch, note=chance.choice((None, "busy", "nearly done")))
        await self._end_claim(process, task, lease.epoch)

    async def _end_claim(self, process: Process, task: str, epoch: int) -> None:
        client, chance = process.client, 1.0 if self.world.is_calm else self._chance.random()
        if chance < 0.15:
            await client.checkpoint(task, {"left": self.mark()}, epoch=epoch)
        elif chance < 0.3:
            to = (
                self.world.absent(self._chance, besides=self.name)
                if chance < 0.24
                else self.world.somebody(self._chance, besides=self.name)
            )
            handed = await client.hand_off(task, to, epoch=epoch)
            if handed.outcome == "offered":
                await client.park(task, epoch=epoch)
        elif chance < 0.37:
            await client.park(task, epoch=epoch)
            if chance > 0.335:
                await self.pause(20.0)
                await client.park(task, parked=False, epoch=epoch)
        elif chance < 0.45:
            self.say(f"forgets epoch {epoch} of {task}")
        elif chance < 0.48:
            process.die()
            raise Crash
        else:
            await client.release(task, epoch=epoch)

    async def show_old_epoch(self, process: Process) -> None:
        """Come back with an epoch of long ago, as if nothing had happened."""
        if not self.memory.epochs:
            return
        client = process.client
        task, epoch = self.memory.epochs.pop(self._chance.randrange(len(self.memory.epochs)))
        term = self.world.terms.all.get(epoch)
        if (
            term is not None
            and term.end is not None
            and any(t.ask.task == task for t in self.world.terms.live.values())
        ):
            self.world.sometimes("an old epoch was shown while somebody else held the task")
        await self._chance.choice(
            (
                lambda: client.renew(task, epoch=epoch),
                lambda: client.release(task, epoch=epoch),
                lambda: client.checkpoint(task, {"left": self.mark()}, epoch=epoch),
                lambda: client.check_lease(task, epoch),
                lambda: client.update_task(task, "done", note=self.mark(), epoch=epoch),
                lambda: client.note_progress(task, self.mark(), epoch=epoch),
                lambda: client.hand_off(task, self.world.somebody(self._chance, besides=self.name), epoch=epoch),
            )
        )()

    async def give_up_waiting(self, process: Process) -> None:
        """Wait in line, and be cancelled or withdraw."""
        client, task = process.client, self._chance.choice(TASKS)
        waiting = asyncio.ensure_future(client.claim(task, ttl=10.0, wait=60.0, terms=self._terms()))
        try:
            await asyncio.wait([waiting], timeout=self._chance.uniform(0.0, 6.0))
            if not waiting.done() and self._chance.random() < 0.5:
                await client.withdraw(task)
        finally:
            waiting.cancel()
            await asyncio.wait([waiting])
        if not waiting.cancelled():
            lease = waiting.result()
            await client.release(task, epoch=lease.epoch)

    async def crash(self, process: Process) -> None:
        """Die in the middle of it."""
        process.die()
        raise Crash
