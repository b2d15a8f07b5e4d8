"""What agents do with the delivery of messages: dates, priorities, roles, receipts and dead letters."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
from tests.simulation.couriers import Courier
from tests.simulation.terms import Violation

from synapse.client.client import Client
from synapse.errors import Rejected
from synapse.protocol.commands import SendMessage
from synapse.protocol.notices import Message, ReceiptChanged
from synapse.protocol.replies import Sent

if TYPE_CHECKING:
    from tests.simulation.agents import Process
    from tests.simulation.world import World

MUTTERED: Final = ("main:build", "main:review", "crew:general")
ROLES: Final = ("reviewer", "builder")
PRIORITIES: Final = ("low", "normal", "normal", "high", "urgent")
DATES_MS: Final = (300, 1_500, 6_000, 25_000, 90_000)
SENT_MAX: Final = 20
"""So many of its messages an agent remembers."""


class Reader(Protocol):
    """Who remembers how far it was: cursor, and the seq in it."""

    cursor: str | None
    heard: int


async def going_on(follow: Callable[[], Awaitable[None]], reader: Reader) -> None:
    """Follow; when the cursor is too old, go on from where what is kept begins."""
    while True:
        try:
            return await follow()
        except Rejected as refusal:
            first = refusal.facts.get("first_kept")
            if refusal.code != "cursor_too_old" or not isinstance(first, str):
                raise
            reader.cursor, reader.heard = first, int(first.partition(":")[2])


def is_past_its_date(refusal: Rejected) -> bool:
    """True when a message was of no use any more before the hub heard of it, perhaps by a clock that was set since."""
    return refusal.code == "bad_request" and refusal.facts.get("path") == "$.body.expires_at_ms"


class Correspondent(Courier):
    """The part of an agent that has to do with what becomes of messages. sent: ids of some that it sent."""

    number: int
    sent: list[str]
    _text: Callable[[], str]

    def mail_repertoire(self) -> dict[Callable[["Process"], Awaitable[None]], float]:
        """What it does, and how often."""
        return {
            self.write_by_mail: 9,
            self.write_to_a_role: 7,
            self.join_or_leave_a_role: 4,
            self.read_receipts: 5,
            self.look_at_dead_letters: 4,
            self.look_at_dead_sent: 2.5,
            self.mutter: 20,
        } | self.parcel_repertoire()

    async def _mail(self, client: Client, **where: object) -> None:
        body = msgspec.Raw(msgspec.json.encode(self._text()))
        command = SendMessage(body=body, priority=self._chance.choice(PRIORITIES), **where)  # type: ignore[arg-type]  # by name
        sent = await self.keyed(client, command, Sent)
        self.sent = [*self.sent[1 - SENT_MAX :], sent.id]

    async def write_by_mail(self, process: "Process") -> None:
        """A message of some priority, half the time of no use after a while."""
        others = {self.world.somebody(self._chance) for _ in range(self._chance.randint(1, 3))}
        date = None
        if self._chance.random() < 0.6:
            date = self.world.clock.wall_ms() + self._chance.choice(DATES_MS)
        await self._mail(process.client, to=tuple(sorted(others)), expires_at_ms=date)

    async def mutter(self, process: "Process") -> None:
        """Say something without a key: whether it was heard, nobody can find out later, and nothing keeps it."""
        body = msgspec.Raw(msgspec.json.encode(self._text()))
        command = SendMessage(body=body, channel=self._chance.choice(MUTTERED))
        await process.client._lifeline.ask(command, Sent)

    async def write_to_a_role(self, process: "Process") -> None:
        """Something for whoever of a role takes it first."""
        target = f"role:{self._chance.choice(ROLES)}"
        await self._mail(process.client, target=target, create=self._chance.random() < 0.5)

    async def join_or_leave_a_role(self, process: "Process") -> None:
        """Take what is sent to a role, or no more of it."""
        role = self._chance.choice(ROLES)
        members = self.world.ledger.mail.members.get(f"role:{role}", ())
        if self.name in members or len(members) > 8:
            await process.client.leave_role(role)
        else:
            await process.client.join_role(role)

    async def on_lent(self, client: Client, message: Message) -> None:
        """Fetch the file that it speaks of; sometimes who was just lent a message of a role has enough of it."""
        await self.may_fetch(client, message)
        channel = message.channel
        if channel.startswith("@role:") and not self.world.is_calm and self._chance.random() < 0.06:
            await client.leave_role(channel.partition(":")[2])

    async def read_receipts(self, process: "Process") -> None:
        """How far one of the last messages got."""
        if self.sent:
            await process.client.receipts(self._chance.choice(self.sent))

    async def look_at_dead_letters(self, process: "Process") -> None:
        """List what died here; give one another chance, or be done with some."""
        client, chance = process.client, self._chance.random()
        dead = await client.dead_letters()
        if not dead:
            return
        letter = self._chance.choice(dead).id
        if chance < 0.5:
            await client.resend(letter)
        elif chance < 0.75:
            await client.drop_dead(letter)
        elif chance < 0.85:
            await client.drop_all_dead()
        elif chance < 0.95:
            await client.ack(letter)

    async def look_at_dead_sent(self, process: "Process") -> None:
        """List what died elsewhere; send one anew, or look at it no more."""
        client, chance = process.client, self._chance.random()
        dead = await client.dead_letters(sent=True)
        if not dead:
            return
        letter = self._chance.choice(dead).id
        if chance < 0.5:
            sent = await client.resend(letter, sent=True)
            self.sent = [*self.sent[1 - SENT_MAX :], sent.id]
        elif chance < 0.85:
            await client.drop_dead(letter, sent=True)
        else:
            await client.drop_all_dead(sent=True)


@dataclass(slots=True)
class ReceiptFollower:
    """Who follows the receipts for what it sent, over every run of its program."""

    world: "World"
    name: str
    cursor: str | None = None
    heard: int = 0
    at: dict[str, int] = field(default_factory=dict)

    async def follow(self, client: Client) -> None:
        """Each receipt that is in the journal comes once, in its order. Raises `Violation`."""
        async with client.receipt_changes(since=self.cursor) as feed:
            if self.cursor is None:
                assert feed.cursor is not None
                self.cursor, self.heard = feed.cursor, int(feed.cursor.partition(":")[2])
            else:
                self.world.sometimes("a feed of receipts was resumed from a cursor")
            async for change in feed:
                self._hear(change)

    @property
    def due(self) -> int | None:
        """The seq of what it must be told next, if that is in the journal."""
        return self.world.ledger.next_of([f"receipts {self.name}"], self.heard, self.at)

    def _hear(self, change: ReceiptChanged) -> None:
        seq, due = int(change.cursor.partition(":")[2]), self.due
        if seq != due:
            raise Violation("wrong feed", f"{self.name} is told {change}; {due} comes next", self.name)
        self.heard, self.cursor = seq, change.cursor
