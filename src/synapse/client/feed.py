"""What every subscription of the client has: its place with the hub, its end, and who waits for it."""

import asyncio
import math
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import msgspec

from synapse.client.calls import RequestTimeout
from synapse.errors import Disconnected, PeerError, Rejected, SynapseError
from synapse.protocol.codec import HubFrame
from synapse.protocol.codes import CLOSE_NORMAL
from synapse.protocol.commands import Subscribe, Unsubscribe
from synapse.protocol.replies import Subscribed, Unsubscribed

if TYPE_CHECKING:
    from synapse.client.lifeline import Lifeline

QUEUE_MESSAGES_MAX: Final = 1_000
QUEUE_BYTES_MAX: Final = 4 * 1024 * 1024


class Feed(ABC):
    """What every subscription of the client has: its place with the hub, its end, and who waits for it."""

    def __init__(self, lifeline: "Lifeline") -> None:
        self.task: asyncio.Task[None] | None = None
        self.subscription: int | None = None
        self._lifeline = lifeline
        self._confirmed: asyncio.Event = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._stirred = asyncio.Event()
        self._something = asyncio.Event()
        self._is_open = False
        self._is_left = False
        self._is_deaf = False
        self._end: SynapseError | None = None

    async def __aenter__(self) -> Self:
        """Subscribe. Raises `Rejected`, `RequestTimeout`, `Disconnected`."""
        assert not self._is_open, "a feed is entered once"
        self._is_open = True
        await self._lifeline.follow(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._lifeline.unfollow(self)

    @abstractmethod
    def command(self) -> Subscribe:
        """What to ask the hub for, from here on."""

    @abstractmethod
    def on_subscribed(self, reply: Subscribed) -> None:
        """The hub has confirmed; what it says next is for this feed."""

    async def confirmed(self) -> None:
        """Wait for the first confirmation. Raises what the hub refused it with."""
        await self._confirmed.wait()
        if self._end is not None:
            raise self._end
        if self._is_left:
            raise Disconnected(CLOSE_NORMAL, "the client was closed")

    def fail(self, end: SynapseError | None) -> None:
        """No more will come: for an error, or (None) because that was wished."""
        if self._end is None and not self._is_left:
            self._end = end
            self.leave()

    def leave(self) -> None:
        """Ask `follow` to end the subscription; iterations end behind what is queued."""
        self._is_left = True
        for event in (self._confirmed, self._has_room, self._stirred, self._something):
            event.set()

    async def follow(self, lifeline: "Lifeline") -> None:
        """Keep this subscription on one connection. Runs in the connection's task group and ends with it."""
        self.subscription = None
        if not self._is_left:
            self._stirred.clear()
        try:
            while True:
                await self._has_room.wait()
                if self._is_left:
                    return
                await lifeline.ask(self.command(), Subscribed, timeout=math.inf, heard=self._stand)
                await self._stirred.wait()
                await self._part(lifeline)
                if self._is_left:
                    return
                self._stirred.clear()
        except (Rejected, PeerError, RequestTimeout) as error:
            self.fail(error)

    async def _part(self, lifeline: "Lifeline") -> None:
        subscription, self.subscription = self.subscription, None
        if subscription is None:
            return
        try:
            await lifeline.ask(Unsubscribe(subscription=subscription), Unsubscribed, timeout=math.inf)
        except Rejected as refusal:
            if refusal.code != "not_found":  # a broken feed has ended by itself
                raise

    def _stand(self, frame: HubFrame) -> None:
        """Told of the confirmation before any message behind it is looked at."""
        try:
            reply = msgspec.json.decode(frame.body, type=Subscribed)
        except msgspec.MsgspecError:
            return  # whoever asked finds the same and says so
        self.subscription = reply.subscription
        self._is_deaf = False
        self.on_subscribed(reply)
        self._confirmed.set()

    @property
    def is_listening(self) -> bool:
        """True while what comes belongs to this feed."""
        return self.subscription is not None and not self._is_deaf and not self._is_left

    def _require_more(self) -> None:
        """Raises the feed's end when there will be nothing any more."""
        assert self._is_open, "enter the feed first: `async with client.subscribe(...) as feed`"
        if self._end is not None:
            raise self._end
        if self._is_left:
            raise StopAsyncIteration

    async def _more(self) -> None:
        """Wait until there may be something. Raises as `_require_more`."""
        self._require_more()
        self._something.clear()
        await self._something.wait()
