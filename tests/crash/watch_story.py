"""An honest history for the checkers of the supervisor and of digests, told by a hub in memory; lies are planted in it.

The supervisor is the real one, a client of that hub; it looks once a second, and somebody talks all the while.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

from tests.crash.digest_checker import USAGE, Told, told_by
from tests.crash.history import Frame, History
from tests.crash.rows import Row
from tests.crash.story import STEP_NS, Teller
from tests.crash.watch_load import ORPHANED_S, STALLED_MS, TALK, TRIES

from synapse.client.client import Card, Client, Wiring
from synapse.client.digest_text import BudgetTooSmall, lay_out
from synapse.faces.supervisor import Terms
from synapse.faces.supervisor_rounds import supervise
from synapse.testing import MemoryHub

TERMS = Terms(stalled_ms=STALLED_MS, orphaned_ms=ORPHANED_S * 1_000, tries=TRIES)
BEAT_MS = 200
LAPSED = "message.lent"
"""A row of which nothing follows: what stands in place of what a lie takes away."""


@dataclass(slots=True)
class Watch:
    """The rows at the end, and the digests that were told."""

    rows: list[Row]
    told: list[Told]

    def places(self, type_: str, fits: Callable[[Row], bool] = lambda row: True) -> list[int]:
        """Where such rows stand."""
        return [place for place, row in enumerate(self.rows) if row.type == type_ and fits(row)]

    def lose(self, place: int) -> None:
        """Nothing follows of the row at that place any more."""
        self.rows[place] = self.rows[place]._replace(type=LAPSED, body={"agent": 0, "messages": []})

    def change(self, place: int, **body: object) -> None:
        """The row at that place says something else."""
        self.rows[place] = self.rows[place]._replace(body={**self.rows[place].body, **body})

    def add(self, type_: str, actor: str, body: Frame) -> None:
        """One more row at the end."""
        last = self.rows[-1]
        self.rows.append(Row(last.seq + 1, last.at_ms + 1, actor, type_, body))


@dataclass(slots=True)
class Telling:
    """The story while it goes on. cursor: of the last digest."""

    tell: Teller
    watcher: Client
    told: list[Told] = field(default_factory=list)
    cursor: str | None = None
    beats: int = 0

    async def second(self, seconds: int = 1) -> None:
        """Time passes, somebody talks meanwhile, and at the end of each second the supervisor looks."""
        for _ in range(seconds):
            for _ in range(1_000 // BEAT_MS):
                self.beats += 1
                await self.say({"channel": TALK, "body": {"mark": self.beats}})
                await self.tell.hub.advance(BEAT_MS)
            await supervise(self.watcher, "main", TERMS, print)

    async def say(self, message: Frame) -> None:
        await self.do("caller-1", "message.send", message)

    async def do(self, agent: str, type_: str, body: Frame) -> Frame:
        """One request under a key."""
        return await self.tell.must(agent, type_, body, f"k.{len(self.tell.ops)}")

    async def digest(self, limit: int = 60) -> Frame:
        """One of returner-1, which goes on from the one before."""
        since = {} if self.cursor is None else {"since": self.cursor}
        told = await self.tell.must("returner-1", "digest.read", {"limit": limit, **since})
        self.cursor = told["cursor"]
        return told

    async def by_command(self, budget: int) -> None:
        """The same as `synapse digest` prints it."""
        since = self.cursor
        answer = json.loads(json.dumps(await self.digest(100)))
        self.tell.ops.pop()
        now_ns = (len(self.tell.ops) + 1) * STEP_NS + STEP_NS // 2
        told = Told("returner-1", since, now_ns, now_ns + 1, None, budget, 0, {})
        try:
            laid = lay_out(answer, budget)
        except BudgetTooSmall as error:
            self.cursor = since
            self.told.append(replace(told, code=USAGE, body={"error": {"code": "usage", "detail": str(error)}}))
            return
        for name, shown in laid.shown.items():
            answer[name] = {"items": answer[name][:shown], "total": laid.totals[name]}
        self.told.append(replace(told, body={**answer, "text": laid.text, "tokens": laid.tokens}))


async def _stalls(it: Telling) -> None:
    lease = await it.do("holder-1", "lease.claim", {"task": "H", "ttl_ms": 600_000})
    named = {"task": "H", "epoch": lease["epoch"]}
    await it.second(4)
    await it.digest()
    await it.second(3)
    await it.do("holder-1", "task.note", {**named, "text": "half of it, in no plan"})
    for number in range(4):  # something new at each look
        await it.do("holder-1", "lease.claim", {"task": f"H{number}", "ttl_ms": 5_000})
        await it.second()
    await it.do("holder-1", "lease.release", named)


async def _works(it: Telling) -> None:
    """In the plan, with progress, and then a review that takes long."""
    await it.do("holder-1", "task.declare", {"task": "P"})
    lease = await it.do("holder-1", "lease.claim", {"task": "P", "ttl_ms": 600_000})
    named = {"task": "P", "epoch": lease["epoch"]}
    await it.do("holder-1", "task.update", {**named, "status": "review"})
    await it.second(2)
    await it.digest()
    await it.do("holder-1", "task.update", {**named, "status": "in_progress"})
    await it.second(3)
    await it.do("holder-1", "lease.checkpoint", {**named, "data": {}})
    await it.do("holder-1", "task.update", {**named, "status": "done"})


async def _orphans(it: Telling) -> None:
    await it.do("starter-1", "task.declare", {"task": "S"})
    for _ in range(TRIES + 1):
        await it.do("starter-1", "task.update", {"task": "S", "status": "in_progress"})
        await it.second(2)
    await it.second()


async def _blocks(it: Telling) -> None:
    tasks = [{"task": "A"}, {"task": "B", "depends_on": ["A"], "suggested_owner": "returner-1"}]
    await it.do("blocker-1", "task.declare_all", {"tasks": tasks})
    await it.do("blocker-1", "task.update", {"task": "B", "status": "blocked"})
    await it.digest()
    await it.second()
    await it.do("blocker-1", "task.update", {"task": "A", "status": "done"})
    await it.second(2)
    await it.do("starter-1", "task.update", {"task": "S", "status": "done"})


async def _addresses(it: Telling) -> None:
    for number, priority in enumerate(("normal", "urgent", "low", "high")):
        await it.say({"target": "returner-1", "body": {"mark": f"d{number}"}, "priority": priority})
    await it.say({"channel": TALK, "body": "this is for @returner-1"})
    await it.do("caller-1", "task.declare", {"task": "C", "suggested_owner": "returner-1"})
    await it.do("caller-1", "task.declare", {"task": "D", "suggested_owner": "returner-1", "depends_on": ["C"]})
    await it.digest()
    await it.digest(2)
    await it.say({"target": "returner-1", "body": {"mark": "more"}})
    await it.by_command(4_000)
    await it.do("returner-1", "lease.claim", {"task": "C", "ttl_ms": 600_000})
    taken = await it.tell.must("returner-1", "inbox.take", {})
    await it.do("returner-1", "inbox.ack", {"ids": [taken["message"]["id"]]})
    await it.by_command(300)
    await it.by_command(10)
    await it.say({"target": "returner-1", "body": {"mark": "last"}})
    await it.second(6)
    await it.digest()
    await it.say({"channel": TALK, "body": "and this for @returner-1"})
    await it.by_command(4_000)


async def _told() -> Watch:
    async with MemoryHub() as hub:
        card = Card(kind="service")
        watcher = Client(name="supervisor", secret="s" * 40, card=card, wiring=Wiring(dial=hub.dial))
        await watcher.connect()
        it = Telling(Teller(hub), watcher)
        for lead in ("lead-1", "lead-2"):
            await it.tell.come(lead, kind="human")
            await it.do(lead, "room.join", {"room": "main"})
        for agent in ("holder-1", "starter-1", "blocker-1", "caller-1", "returner-1"):
            await it.tell.come(agent)
        await it.do("caller-1", "channel.join", {"channel": TALK})
        for part in (_stalls, _works, _orphans, _blocks, _addresses):
            await part(it)
        taken = await it.tell.must("lead-1", "inbox.take", {})
        await it.do("lead-1", "inbox.ack", {"ids": [taken["message"]["id"]]})
        rows = hub.journal.scan(hub.journal.base, hub.journal.head, 1 << 20)
        await watcher.close()
        told = it.told + told_by(History(ops=it.tell.ops))
        return Watch([Row(row.seq, row.at_ms, row.actor, row.type, json.loads(row.body)) for row in rows], told)


@cache
def _once() -> Watch:
    return asyncio.run(_told())


def honest() -> Watch:
    """The story, for one lie."""
    told = _once()
    rows = [row._replace(body=json.loads(json.dumps(row.body))) for row in told.rows]
    return Watch(rows, [replace(it, body=json.loads(json.dumps(it.body))) for it in told.told])
