"""The client's half of the loop guard."""

from synapse.client.asking import Asking
from synapse.protocol import held_commands
from synapse.protocol.held_replies import HeldEnded, HeldInfo, HeldPage


class HeldMessages(Asking):
    """Messages that wait for a person: a part of `Client`."""

    async def held(self) -> tuple[HeldInfo, ...]:
        """The messages that are held, oldest first: mine; for a person all that it may see. All
        pages. An operator reads no body of a private place."""
        pages = self._pages(lambda at: held_commands.ListHeld(limit=self._page, after=at), HeldPage)
        return tuple([held async for page in pages for held in page.held])

    async def release_held(self, message: str, *, chain: bool = False, reset: bool = False) -> HeldEnded:
        """Deliver a held message, by its id, or all of its `chain`, as if it were sent now; for a person. reset: as the
        first of a new chain. Raises `Rejected`: `not_found`, `not_permitted`."""
        return await self.request(held_commands.ReleaseHeld(id=message, chain=chain, reset=reset), HeldEnded)

    async def drop_held(self, message: str, *, chain: bool = False) -> HeldEnded:
        """Drop a held message, or all of its `chain`; for a person. Raises `Rejected`: `not_found`, `not_permitted`."""
        return await self.request(held_commands.DropHeld(id=message, chain=chain), HeldEnded)
