"""The client's half of shared values."""

from synapse.client.asking import Asking
from synapse.client.bodies import milliseconds, raw_of
from synapse.client.subscriptions import ValueFeed
from synapse.protocol import value_commands
from synapse.protocol.value_replies import ValueInfo, ValueOwned, ValueRemoved, ValuesPage, ValuesRemoved


class SharedValues(Asking):
    """Values that everybody in a room may read: a part of `Client`."""

    async def put(
        self,
        key: str,
        value: object,
        *,
        ttl: float | None = None,
        if_version: int | None = None,
        room: str | None = None,
        owner: str | None = None,
        idem_key: str | None = None,
    ) -> ValueInfo:
        """Put a value that everybody may read: what JSON can say. ttl: seconds until it is gone. if_version: only when
        that is its version, 0 when there is none. owner: for an operator. Raises `Rejected(version_conflict)`."""
        ttl_ms = None if ttl is None else milliseconds(ttl, "a TTL")
        command = value_commands.PutValue(
            key=key, value=raw_of(value), room=room, ttl_ms=ttl_ms, if_version=if_version, owner=owner
        )
        return await self.request(command, ValueInfo, idem_key=idem_key)

    async def get(self, key: str, *, room: str | None = None) -> ValueInfo:
        """Read a value; `value_of` decodes it. Raises `Rejected(not_found)`."""
        return await self.request(value_commands.GetValue(key=key, room=room), ValueInfo)

    async def delete(self, key: str, *, if_version: int | None = None, room: str | None = None) -> ValueRemoved:
        """Remove a value. Raises `Rejected`: `not_found`, `version_conflict`."""
        command = value_commands.DeleteValue(key=key, room=room, if_version=if_version)
        return await self.request(command, ValueRemoved)

    async def values(self, prefix: str = "", *, room: str | None = None) -> tuple[ValueInfo, ...]:
        """All values of a room whose key begins with `prefix`, by key. All pages."""
        pages = self._pages(
            lambda at: value_commands.ListValues(room=room, prefix=prefix, limit=self._page, after=at),
            ValuesPage,
        )
        return tuple([value async for page in pages for value in page.values])

    async def keys(self, prefix: str = "", *, room: str | None = None) -> tuple[str, ...]:
        """The keys alone. All pages."""
        pages = self._pages(
            lambda at: value_commands.ListValues(room=room, prefix=prefix, values=False, limit=self._page, after=at),
            ValuesPage,
        )
        return tuple([value.key async for page in pages for value in page.values])

    async def clear(self, prefix: str = "", *, room: str | None = None) -> ValuesRemoved:
        """Remove all values of a room whose key begins with `prefix`; all of them, without one."""
        return await self.request(value_commands.ClearValues(room=room, prefix=prefix), ValuesRemoved)

    async def transfer(
        self, key: str, to: str, *, if_version: int | None = None, room: str | None = None
    ) -> ValueOwned:
        """Give a value of mine to another agent. Raises `Rejected`: `not_found`, `not_permitted`."""
        command = value_commands.TransferValue(key=key, to=to, room=room, if_version=if_version)
        return await self.request(command, ValueOwned)

    def value_changes(self, prefix: str = "", *, room: str | None = None, since: str | None = None) -> ValueFeed:
        """What becomes of a room's values: `async with client.value_changes() as feed: async for change in feed`.

        since: a cursor; what came after it comes first.
        """
        place = self.welcome.home.partition(":")[0] if room is None else room
        return ValueFeed(self._lifeline, place, prefix=prefix, since=since)
