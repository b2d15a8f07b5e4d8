"""The client's half of what happened."""

from collections.abc import AsyncGenerator, Iterable
from typing import Final

import msgspec

from synapse.client.asking import Asking
from synapse.client.bodies import milliseconds
from synapse.protocol.event_commands import ReadEvents
from synapse.protocol.event_replies import EventsPage

WAIT_S: Final = 20.0
"""How long one request waits for more; one whose caller was cancelled goes away by itself then."""


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened. kind: `lease.granted` and so on; `details` has what belongs to it, `room` among it."""

    cursor: str
    at_ms: int
    by: str
    kind: str
    details: dict[str, object]


def happening_of(line: msgspec.Raw) -> Happening:
    """A line of `EventsPage.events`, decoded."""
    details: dict[str, object] = msgspec.json.decode(line)
    header = {name: details.pop(name) for name in ("cursor", "at_ms", "by", "kind")}
    return msgspec.convert({**header, "details": details}, Happening)


class Happenings(Asking):
    """What happened, and what goes on happening: a part of `Client`."""

    async def read_events(
        self,
        since: str | None = None,
        *,
        kinds: Iterable[str] = (),
        room: str | None = None,
        limit: int = 200,
        wait: float = 0.0,
    ) -> EventsPage:
        """One page of what happened, oldest first, as far as I may see it; `happening_of` decodes a line.

        kinds: only these; `lease` stands for all that begin so, `memory` for what is worth keeping. limit: lines, at
        most the hub's `page_items_max`. wait: seconds to wait at the head for more; then the page is empty. Raises
        `Rejected`: `cursor_too_old`, `log_diverged`.
        """
        wait_ms = milliseconds(wait, "a wait")
        command = ReadEvents(since=since, kinds=tuple(kinds), room=room, limit=limit, wait_ms=wait_ms)
        timeout = self._lifeline.timeout + wait if wait else None
        return await self.request(command, EventsPage, timeout=timeout)

    async def happenings(
        self,
        since: str | None = None,
        *,
        kinds: Iterable[str] = (),
        room: str | None = None,
        follow: bool = False,
    ) -> AsyncGenerator[Happening, None]:
        """What happened after a cursor, oldest first, as far as I may see it; without one, all that is kept. It ends at
        the head; with `follow` it goes on, each once, over reconnects too.

        kinds, and what it raises: see `read_events`.
        """
        asked, wait = tuple(kinds), 0.0
        while True:
            page = await self.read_events(since, kinds=asked, room=room, limit=self._page, wait=wait)
            for line in page.events:
                yield happening_of(line)
            since = page.cursor if page.next is None else page.next
            if page.next is None and not follow:
                return
            wait = min(WAIT_S, self.welcome.limits.wait_ms_max / 1000) if page.next is None else 0.0
