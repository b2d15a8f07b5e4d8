"""Messages of my inbox as the hub hands them out: lent ahead of their use, so that nobody waits for the next one."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Self

from synapse.client.feed import Feed
from synapse.protocol.commands import Subscribe
from synapse.protocol.notices import Lent
from synapse.protocol.replies import Subscribed

if TYPE_CHECKING:
    from synapse.client.lifeline import Lifeline

LEND_MARGIN: Final = 0.8
"""The part of a lend in which a message that waited here, or was left over, is still handed out."""


class DeliveryFeed(Feed):
    """What is lent to this client, the most urgent first, then the oldest: at most `prefetch` messages that are not
    acked yet.

    Several tasks may wait for the next one. What was here too long is dropped, and so is what a connection brought that
    was lost: its lend is over, and the hub hands it out again.
    """

    def __init__(
        self, lifeline: "Lifeline", prefetch: int, *, directed_only: bool, left: Callable[[Lent, float], None]
    ) -> None:
        """left: is given what nobody took until the feed ended, and the time of the loop until which it is lent."""
        super().__init__(lifeline)
        self._command = Subscribe(take=prefetch, directed_only=directed_only)
        self._queue: deque[tuple[Lent, float]] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._left = left
        self._generation = -1

    def command(self) -> Subscribe:
        """Take."""
        return self._command

    def on_subscribed(self, reply: Subscribed) -> None:
        """On a connection of its own; what another one was lent is lent no more."""
        self._queue.clear()
        self._generation = self._lifeline.generation

    def _drop_lost(self) -> None:
        if self._generation != self._lifeline.generation:
            self._queue.clear()

    def hear(self, notice: Lent) -> None:
        """A message was lent to this client."""
        until_s = asyncio.get_running_loop().time() + notice.lend_ms / 1000 * LEND_MARGIN
        if self._is_left or notice.subscription != self.subscription:
            self._left(notice, until_s)
            return
        self._queue.append((notice, until_s))
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def leave(self) -> None:
        """No more is handed out here; see `Feed`."""
        super().leave()
        self._drop_lost()
        while self._queue:
            self._left(*self._queue.popleft())
        while self._waiting:
            self._wake()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Lent:
        """The next message. Raises `Rejected` as the hub ended the feed, `Disconnected`."""
        loop = asyncio.get_running_loop()
        while True:
            self._drop_lost()
            while self._queue:
                lent, until_s = self._queue.popleft()
                if until_s > loop.time():
                    return lent
            self._require_more()
            waiter = loop.create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if self._queue and waiter.done() and not waiter.cancelled():
                    self._wake()  # it was this one's turn: the next one goes on in its place
                raise
