"""What agents do with digests: ask for one, go on from it and lay it out under a budget, also while they wait."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from tests.simulation.part import Part
from tests.simulation.planners import OWN
from tests.simulation.terms import Violation

from synapse.client.client import Client
from synapse.client.digest import digest_text
from synapse.client.digest_text import BudgetTooSmall
from synapse.protocol.digest_replies import Digest
from synapse.protocol.plan_commands import DeclareTask
from synapse.protocol.plan_replies import TaskInfo

if TYPE_CHECKING:
    from tests.simulation.agents import Process

WAITED_FOR: Final = ("integrate", "release", "deploy", "T1", "T2")
BUDGETS: Final = (30, 60, 120, 400, 2_000)
HEADS: Final = {
    "Asked of you: ": "asked",
    "Blocks you: ": "blocked",
    "Yours: ": "mine",
    "The rest, in counts: ": "rest",
}


class Skimmer(Part):
    """The part of an agent that asks what matters. skimmed: by room, where it goes on."""

    skimmed: dict[str | None, str]
    _my_place: Callable[..., str | None]
    _spec: Callable[[str], dict[str, Any]]

    def digest_repertoire(self) -> dict[Callable[["Process"], Awaitable[None]], float]:
        """What it does, and how often."""
        return {self.skim: 2, self.skim_in_line: 3.5, self.skim_my_work: 1.5}

    async def skim(self, process: "Process") -> None:
        """What matters to me, of a room, since the last time or at all."""
        room = self._chance.choice((None, None, "crew", self._my_place(rooms_only=True)))
        await self._skim(process.client, room)

    async def skim_my_work(self, process: "Process") -> None:
        """The same with a task that is for me, and that nothing is in the way of."""
        room = self._chance.choice((None, "crew"))
        mine = self._spec(self._chance.choice(OWN)) | {"suggested_owner": self.name, "depends_on": ()}
        await self.keyed(process.client, DeclareTask(room=room, **mine), TaskInfo)
        await self._skim(process.client, room)

    async def catch_up(self, client: Client) -> None:
        """Back again: what happened meanwhile, before anything is taken from the inbox."""
        if not self.world.is_calm and self._chance.random() < 0.25:
            await self._skim(client, None)

    async def skim_in_line(self, process: "Process") -> None:
        """The same while a claim of mine waits for somebody else."""
        client, task = process.client, self._chance.choice(WAITED_FOR)
        paths = self._chance.choice((("a",), ("a",), ("e/f", "f/e"), ()))
        tree = "box:/repo" if paths else None
        waiting = asyncio.ensure_future(
            client.claim(task, ttl=6.0, wait=20.0, paths=paths, worktree=tree, terms=self._terms())
        )
        try:
            await asyncio.wait([waiting], timeout=self._chance.uniform(0.1, 2.0))
            await self._skim(client, None)
            lease = await waiting
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await client.release(task, epoch=lease.epoch)

    async def _skim(self, client: Client, room: str | None) -> None:
        since = self.skimmed.get(room) if self._chance.random() < 0.8 else None
        digest = await client.digest(since=since, room=room, limit=self._chance.choice((1, 1, 5, 100)))
        self.skimmed[room] = digest.cursor
        require_laid_out(self.name, digest, self._chance.choice(BUDGETS))
        self.world.sometimes("a digest was laid out under a budget")


def require_laid_out(agent: str, digest: Digest, budget: int) -> None:
    """The text keeps to its budget, has the right cursor, and says how much it leaves out. Raises `Violation`."""
    try:
        text = digest_text(digest, budget).text
    except BudgetTooSmall as error:
        if error.least <= budget or len(digest_text(digest, error.least).text) > 4 * error.least:
            raise Violation("over budget", f"{agent}: {error}, of {budget}", agent) from error
        return
    require_text(agent, text, budget, digest)


def require_text(agent: str, text: str, budget: int, digest: Digest) -> None:
    """As `require_laid_out`, of a text."""
    if len(text) > 4 * budget or not text.endswith(f"\nNext: synapse digest --since {digest.cursor}"):
        raise Violation(
            "over budget", f"{agent} is laid out {len(text)} characters under {budget} tokens: {text}", agent
        )
    told: dict[str, int] = {}
    section = ""
    for line in text.splitlines():
        head = next((it for it in HEADS if line.startswith(it)), None)
        if head is not None:
            section = HEADS[head]
            told[section] = -int(line.removeprefix(head))
        elif line.startswith("- and ") and line[6:].partition(" ")[0].partition(":")[0].isdecimal() and section:
            told[section] += int(line[6:].partition(" ")[0].partition(":")[0])
        elif line.startswith("- ") and section:
            told[section] += 1
    totals = {"asked": digest.asked_total, "blocked": digest.blocked_total, "mine": digest.mine_total}
    due = {name for name, total in (totals | {"rest": len(digest.rest)}).items() if total} if digest.new else set()
    if told.keys() != due or any(told.values()):
        raise Violation("not counted", f"{agent} is laid out {told} of {totals}: {text}", agent)
