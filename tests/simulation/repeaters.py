"""What agents do with keys: ask again when an outcome is unknown, and ask the same twice at once."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.simulation.part import Part
from tests.simulation.terms import Violation

from synapse.client.calls import OutcomeUnknown
from synapse.client.client import Client
from synapse.errors import Rejected
from synapse.protocol import replies
from synapse.protocol.commands import Command
from synapse.protocol.replies import Reply

if TYPE_CHECKING:
    from tests.simulation.agents import Memory, Process

CHANNELS: Final = ("main:general", "main:build", "main:review", "crew:general")


@dataclass(slots=True)
class Repeat:
    """A request whose outcome is unknown, and how to ask again under its key."""

    key: str
    again: Callable[[Client, str], Awaitable[object]]


class Repeater(Part):
    """The part of an agent that asks under keys of its own."""

    memory: "Memory"
    _text: Callable[[], str]

    async def keyed(self, client: Client, command: Command, kind: type[Reply]) -> Any:
        """Ask under a key of our own, which is remembered when the outcome stays unknown."""
        key = f"{self._chance.getrandbits(64):016x}"

        def again(other: Client, same: str) -> Awaitable[object]:
            return other.request(command, kind, idem_key=same)

        try:
            return await again(client, key)
        except OutcomeUnknown:
            self.memory.unknown.append(Repeat(key, again))
            raise

    async def ask_again(self, process: "Process") -> None:
        """Find out what became of a request, by asking it again under its key."""
        if self.memory.unknown:
            await self._ask_again(process.client)

    async def _ask_again(self, client: Client) -> None:
        repeat = self.memory.unknown[0]
        try:
            await repeat.again(client, repeat.key)
        except Rejected as refusal:
            if refusal.code != "read_only":
                self.memory.unknown.remove(repeat)  # it was not done, and will not be
            if (self.name, repeat.key) in self.world.ledger.keys:
                raise Violation("refused but applied", f"key {repeat.key} of {self.name}", self.name) from refusal
            raise
        self.memory.unknown.remove(repeat)
        self.world.sometimes("an unknown outcome became known by its key")

    async def ask_twice(self, process: "Process") -> None:
        """The same key over two connections of the same agent at once: one effect, one answer."""
        twin = self.twin()
        key, text, channel = f"{self._chance.getrandbits(64):016x}", self._text(), self._chance.choice(CHANNELS)
        async with twin.client as other:
            both = await asyncio.gather(
                process.client.send(text, channel=channel, idem_key=key),
                other.send(text, channel=channel, idem_key=key),
                return_exceptions=True,
            )
        answers = {reply.id for reply in both if isinstance(reply, replies.Sent)}
        if len(answers) > 1:
            raise Violation("answered differently", f"{self.name} got {answers} for one key", self.name)
        self.world.sometimes("two connections used one key at once")
        for problem in both:
            if isinstance(problem, BaseException):
                raise problem
