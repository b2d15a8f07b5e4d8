"""Agents that ask people and wait, go on or forget it; and people who answer, in time or not, twice or not at all."""

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import sha256
from random import Random
from typing import TYPE_CHECKING, Any, Final

from tests.simulation.part import Part
from tests.simulation.planners import OWN, SHARED
from tests.simulation.terms import Violation

from synapse.client.client import Client
from synapse.errors import Rejected
from synapse.protocol.question_commands import (
    AnswerQuestion,
    AskQuestion,
    DismissQuestion,
    WaitQuestion,
    WithdrawQuestion,
)
from synapse.protocol.question_replies import QuestionClosed, QuestionInfo
from synapse.protocol.token_commands import CreateToken
from synapse.protocol.token_replies import TokenInfo

if TYPE_CHECKING:
    from tests.simulation.agents import Agent, Process
    from tests.simulation.desk import Sheet
    from tests.simulation.world import World

TOKEN: Final = "a-person-of-the-simulation".ljust(43, ".")
OPTIONS: Final = ("yes", "no", "later")
ASKED_ABOUT: Final = (*SHARED, "T5", "T6", *OWN)
SLOW: Final = "slow"
"""The tag of a question that people leave for longer than a lease may be parked."""
SLOW_MS: Final = 500_000


async def let_in(world: "World", client: Client) -> None:
    """The operator makes the token with which people come in."""
    while not world.are_people_let_in:
        try:
            command = CreateToken(hash=sha256(TOKEN.encode()).hexdigest(), role="human")
            await client.request(command, TokenInfo, idem_key="people")
        except Rejected as refusal:
            if refusal.code != "read_only":
                raise
            await asyncio.sleep(1.0)
        else:
            world.are_people_let_in = True


class Asker(Part):
    """The part of an agent that has to do with people."""

    def question_repertoire(self) -> dict[Callable[["Process"], Awaitable[None]], float]:
        """What there is to do, and how often."""
        return {
            self.ask: 6,
            self.ask_about_task: 9,
            self.play_person: 1,
            self.look_at_questions: 2,
        }

    def _question(self, **more: Any) -> AskQuestion:
        """A question with a title that no other has."""
        chance, options = self._chance, self._chance.choice(((), OPTIONS, OPTIONS))
        if chance.random() < 0.6:
            more["deadline_ms"] = chance.choice((2_000, 8_000, 40_000))
        if chance.random() < 0.5:
            more |= {"default": chance.choice(options or ("go on",))}
            more["on_deadline"] = chance.choice((None, None, "expire"))
        more["free"] = chance.random() < 0.3
        more["priority"] = chance.choice(("low", "normal", "normal", "high", "urgent"))
        more["tags"] = (SLOW,) if "deadline_ms" not in more and chance.random() < 0.8 else ()
        return AskQuestion(title=self.mark(), question="and why?", options=options, **more)

    async def ask(self, process: "Process") -> None:
        """Ask, and wait a while for the answer, take it back, or leave it to the inbox."""
        command = self._question(room=self._chance.choice((None, "crew")))
        await self.keyed(process.client, command, QuestionInfo)
        asked = self._asked(command.title)
        if asked is not None:
            await self._wait(process.client, asked)

    def _asked(self, title: str) -> "Sheet | None":
        sheets = self.world.ledger.desk.open.values()
        return next((sheet for sheet in sheets if sheet.event.title == title), None)

    async def _wait(self, client: Client, asked: "Sheet") -> None:
        chance, known = self._chance.random(), f"q{asked.asked.seq}"
        wait_ms = self._chance.choice((1_000, 5_000, 20_000))
        if chance < 0.4:
            await client.request(WaitQuestion(id=known, wait_ms=wait_ms), QuestionInfo, timeout=60.0)
        elif chance < 0.6:
            await self.pause(4.0)
            await self.keyed(client, WithdrawQuestion(id=known), QuestionClosed)

    async def ask_about_task(self, process: "Process") -> None:
        """Claim a task and ask about it, so that the lease stands still; then go on, hand it on, or be gone."""
        client, chance = process.client, self._chance
        task, room = chance.choice(ASKED_ABOUT), chance.choice((None, None, "crew"))
        if chance.random() < 0.12:  # without a lease
            await self.keyed(client, self._question(task=task, room=room), QuestionInfo)
            return
        lease = await client.claim(task, ttl=6.0, room=room, terms=self._terms())
        epoch = chance.choice((None, lease.epoch))
        for _ in range(chance.choice((1, 1, 1, 2))):
            await self.keyed(client, self._question(task=task, room=room, epoch=epoch), QuestionInfo)
        if chance.random() < 0.2:
            await client.park(task, room=room, epoch=lease.epoch)
        await self._after_asking(process, task, room, lease.epoch)

    async def _after_asking(self, process: "Process", task: str, room: str | None, epoch: int) -> None:
        client, chance = process.client, self._chance
        fate = 1.0 if self.world.is_calm else chance.random()
        if fate < 0.1:
            await self.crash(process)
        if fate < 0.26:
            return  # the lease stands still until there is an answer, and then its time runs out
        if fate < 0.36:
            await client.hand_off(task, self.world.somebody(chance, besides=self.name), epoch=epoch, room=room)
            return
        if fate < 0.44:
            await client.park(task, parked=False, room=room, epoch=epoch)
        await self.pause(12.0)
        if 0.44 < fate < 0.64:
            status = chance.choice(("failed", "cancelled", "open"))
            await client.update_task(task, status, room=room, note=self.mark(), epoch=epoch)
        elif fate < 0.72:
            mine = [it for it in self.world.ledger.desk.open.values() if it.asked.actor == self.name]
            for sheet in mine:
                await self.keyed(client, WithdrawQuestion(id=f"q{sheet.asked.seq}"), QuestionClosed)
        await client.renew(task, room=room, epoch=epoch)
        await self.pause(5.0)
        await client.release(task, room=room, epoch=epoch)

    async def play_person(self, process: "Process") -> None:
        """Try to close what only people close, or what somebody else asked. Raises `Violation` when that works."""
        sheets = [it for it in self.world.ledger.desk.open.values() if it.asked.actor != self.name]
        if not sheets:
            return
        sheet = self._chance.choice(sheets)
        known = f"q{sheet.asked.seq}"
        commands = (
            AnswerQuestion(id=known, answer="yes"),
            DismissQuestion(id=known),
            WithdrawQuestion(id=known),
        )
        command = self._chance.choice(commands)
        await self.keyed(process.client, command, QuestionClosed)
        raise Violation("answered by an agent", f"{self.name} closed {sheet} with {command}", self.name)

    async def look_at_questions(self, process: "Process") -> None:
        """A list, or one of them."""
        client, chance = process.client, self._chance.random()
        if chance < 0.5:
            await client.questions(status=self._chance.choice(("open", "open", "answered")), asker=self.name)
            return
        sheets = list(self.world.ledger.desk.open)
        if sheets:
            await client.question(f"q{self._chance.choice(sheets)}")


class Answerer:
    """A person who sees what is asked and answers it, now or much later; some twice, some that are over."""

    def __init__(self, agent: "Agent", chance: Random) -> None:
        self._agent = agent
        self._world = agent.world
        self._chance = chance
        self._over: list[int] = []

    async def answer_all(self, client: Client) -> None:
        """Until everything is over."""
        desk = self._world.ledger.desk
        while not self._world.is_over:
            await self._agent.pause(5.0)
            self._agent.is_settled = self._world.is_calm and not desk.open
            await self._agent.attempt(self._answer(client))

    async def _answer(self, client: Client) -> None:
        chance, is_calm = self._chance, self._world.is_calm
        if is_calm or chance.random() < 0.8:
            found = [question.id for question in await client.questions() if is_calm or self._is_time(question)]
        else:
            found = [f"q{question}" for question in self._over[-20:]]
        if not found:
            return
        known = found[0] if chance.random() < 0.7 else chance.choice(found)
        self._over.append(int(known[1:]))
        await self._agent.keyed(client, self._end_of(known), QuestionClosed)
        if chance.random() < 0.2:
            await self._agent.keyed(client, self._end_of(known), QuestionClosed)

    def _is_time(self, question: QuestionInfo) -> bool:
        asked = self._world.ledger.desk.open.get(int(question.id[1:]))
        return asked is None or SLOW not in question.tags or self._world.loop.now_s * 1000 > asked.seen_ms + SLOW_MS

    def _end_of(self, known: str) -> AnswerQuestion | DismissQuestion | WithdrawQuestion:
        sheet, chance = self._world.ledger.desk.sheets[int(known[1:])], self._chance
        options = sheet.event.options
        if chance.random() < 0.2:
            return DismissQuestion(id=known, reason=chance.choice((None, "not now")))
        if options and chance.random() < 0.5:
            return AnswerQuestion(id=known, option=chance.randint(1, len(options)))
        return AnswerQuestion(id=known, answer=chance.choice(options or ("as you like", "please do")))
