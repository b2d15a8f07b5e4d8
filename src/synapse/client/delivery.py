"""The client's half of delivery: receipts, and dead letters."""

from time import time

import msgspec

from synapse.client.asking import Asking
from synapse.client.bodies import MILLISECONDS_MAX, milliseconds
from synapse.client.subscriptions import ReceiptFeed
from synapse.protocol import delivery_commands as commands
from synapse.protocol.delivery_replies import DeadPage, Dropped, Receipts, Resent
from synapse.protocol.notices import Message


def expires_at_ms(expires: float | None) -> int | None:
    """The date at which something is over that is of use for so many seconds. Raises `Rejected(bad_request)` for
    what is no number of seconds."""
    return None if expires is None else min(int(time() * 1000) + milliseconds(expires, "an expiry"), MILLISECONDS_MAX)


class Delivery(Asking):
    """What becomes of messages that were sent, and of those that nobody acked: a part of `Client`."""

    async def receipts(self, message_id: str) -> Receipts:
        """How far a direct message of mine got, for each recipient; also after it was acked. Raises
        `Rejected(not_found)`."""
        first: Receipts | None = None
        after: str | None = None
        while first is None or after is not None:
            command = commands.GetReceipt(id=message_id, limit=self._page, after=after)
            page = await self.request(command, Receipts)
            after = page.next
            found = page.recipients if first is None else (*first.recipients, *page.recipients)
            first = msgspec.structs.replace(page, recipients=found)
        return first

    def receipt_changes(self, since: str | None = None) -> ReceiptFeed:
        """What becomes of what I sent: `async with client.receipt_changes() as feed: async for change in feed`. since:
        a cursor; what came after it comes first."""
        return ReceiptFeed(self._lifeline, since=since)

    async def dead_letters(self, *, sent: bool = False) -> tuple[Message, ...]:
        """The dead letters in my inbox; with `sent` those that I sent, one for each inbox. All pages."""
        found: list[Message] = []
        after: str | None = None
        while True:
            page = await self.request(commands.ListDead(sent=sent, limit=self._page, after=after), DeadPage)
            found += page.messages
            if page.next is None:
                return tuple(found)
            after = page.next

    async def resend(self, message_id: str, *, sent: bool = False, idem_key: str | None = None) -> Resent:
        """Give a dead letter another chance in my inbox; with `sent` send it anew, under a new id, to everybody in
        whose inbox it is dead. Raises `Rejected`: `not_found`, `inbox_full`."""
        return await self.request(commands.ResendDead(id=message_id, sent=sent), Resent, idem_key=idem_key)

    async def drop_dead(self, *ids: str, sent: bool = False) -> Dropped:
        """Be done with dead letters; with `sent` take them off my list of those. Raises `Rejected(not_found)`."""
        return await self.request(commands.DropDead(ids=ids, sent=sent), Dropped)

    async def drop_all_dead(self, *, sent: bool = False) -> Dropped:
        """As `drop_dead`, with all of them."""
        gone: list[str] = []
        while True:
            dropped = await self.request(commands.DropDead(all=True, sent=sent), Dropped)
            gone += dropped.dropped
            if not dropped.left:
                return msgspec.structs.replace(dropped, dropped=tuple(gone))
