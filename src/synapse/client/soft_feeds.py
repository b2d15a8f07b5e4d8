"""Feeds of what is told and not kept: signals, what agents do; and who is typing."""

from collections import deque
from typing import TYPE_CHECKING, Generic, Self, TypeVar

import msgspec

from synapse.client.feed import QUEUE_BYTES_MAX, QUEUE_MESSAGES_MAX, Feed
from synapse.protocol.commands import Subscribe
from synapse.protocol.notices import Message
from synapse.protocol.replies import Subscribed
from synapse.protocol.signal_notices import Activity, Signal, Typing

if TYPE_CHECKING:
    from synapse.client.lifeline import Lifeline

_Soft = TypeVar("_Soft", Signal, Activity)


def follows(name: str, address: str) -> bool:
    """True when `name`, an address or a topic such as `main:deploy-*`, is or has this address or topic in it."""
    return name == address or (name.endswith("*") and address.startswith(name[:-1]))


class Typists:
    """Who is typing where, until when by the loop's clock."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str, str], tuple[float, Typing]] = {}

    def note(self, notice: Typing, now_s: float) -> None:
        """It was said once more; what is over is forgotten."""
        self._until = {key: found for key, found in self._until.items() if found[0] > now_s}
        self._until[notice.room, notice.channel, notice.sender] = (now_s + notice.for_ms / 1000, notice)

    def end(self, message: Message) -> None:
        """Its sender has written it."""
        if self._until and message.room is not None:
            self._until.pop((message.room, message.channel, message.sender), None)

    def now(self, now_s: float) -> tuple[Typing, ...]:
        """What is not over."""
        return tuple(notice for until_s, notice in self._until.values() if until_s > now_s)


class SoftFeed(Feed, Generic[_Soft]):
    """Notices that are told and not kept. Of those nobody took in time the oldest go; the next one's `dropped` counts
    them with those that the hub left out. After a reconnect it goes on with what comes then."""

    def __init__(self, lifeline: "Lifeline") -> None:
        super().__init__(lifeline)
        self._queue: deque[tuple[_Soft, int]] = deque()
        self._bytes = 0
        self._gone = 0

    def on_subscribed(self, reply: Subscribed) -> None:
        """There is no position to keep."""

    def hear(self, notice: _Soft, size: int) -> None:
        """One notice. size: its bytes on the wire."""
        if not self.is_listening:
            return
        self._queue.append((notice, size))
        self._bytes += size
        while len(self._queue) > QUEUE_MESSAGES_MAX or self._bytes > QUEUE_BYTES_MAX:
            first, its_size = self._queue.popleft()
            self._bytes -= its_size
            self._gone += 1 + first.dropped
        self._something.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Soft:
        """The next notice. Raises `Rejected` as the hub ended the feed, `Disconnected`."""
        while not self._queue:
            await self._more()
        notice, size = self._queue.popleft()
        self._bytes -= size
        if self._gone:
            notice, self._gone = msgspec.structs.replace(notice, dropped=notice.dropped + self._gone), 0
        return notice


class SignalFeed(SoftFeed[Signal]):
    """Signals of some ephemeral channels or topics."""

    def __init__(self, lifeline: "Lifeline", channels: tuple[str, ...]) -> None:
        super().__init__(lifeline)
        self.channels = tuple(dict.fromkeys(channels))

    def command(self) -> Subscribe:
        """Subscribe to what comes."""
        return Subscribe(channels=self.channels)

    def has(self, address: str) -> bool:
        """True for the address of a channel that this feed follows."""
        return any(follows(name, address) for name in self.channels)


class ActivityFeed(SoftFeed[Activity]):
    """What agents do, of which nothing is kept."""

    def command(self) -> Subscribe:
        """Activity and nothing else."""
        return Subscribe(activity=True)
