"""Feeds: messages, changes of leases and values, and presence as async iterators that outlive connections.

Rule 1: the reader never waits for a consumer. A feed with a position that is full goes deaf: it drops what comes, ends
its subscription, and subscribes again from the last notice it kept once the consumer has taken half of them. Nothing is
lost and nothing comes twice, and memory stays bounded. Presence is merged instead: the latest of each agent counts.
Rule 2: after a reconnect a feed with a position goes on from there; a presence feed gets a fresh snapshot.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, Self, TypeAlias, TypeVar, assert_never

import msgspec
from msgspec import UNSET

from synapse.client.deliveries import DeliveryFeed
from synapse.client.feed import QUEUE_BYTES_MAX as QUEUE_BYTES_MAX
from synapse.client.feed import QUEUE_MESSAGES_MAX as QUEUE_MESSAGES_MAX
from synapse.client.feed import Feed as Feed
from synapse.client.soft_feeds import ActivityFeed, SignalFeed, Typists, follows
from synapse.errors import Disconnected, PeerError, Rejected
from synapse.protocol.commands import Subscribe
from synapse.protocol.notices import (
    Broken,
    CaughtUp,
    LeaseChanged,
    Lent,
    Message,
    PlanChanged,
    PresenceChanged,
    PresenceEntry,
    PresenceSnapshot,
    QuestionChanged,
    ReceiptChanged,
    ValueChanged,
)
from synapse.protocol.replies import Subscribed
from synapse.protocol.signal_notices import Activity, Signal, SoftNotice, Typing

if TYPE_CHECKING:
    from synapse.client.lifeline import Lifeline

Told: TypeAlias = (
    Message
    | LeaseChanged
    | ValueChanged
    | PlanChanged
    | ReceiptChanged
    | QuestionChanged
    | SoftNotice
    | PresenceSnapshot
    | PresenceChanged
    | CaughtUp
    | Broken
)
"""Notices that belong to a subscription."""

_Kept = TypeVar("_Kept", Message, LeaseChanged, ValueChanged, PlanChanged, QuestionChanged, ReceiptChanged)


class ResumingFeed(Feed, Generic[_Kept]):
    """Notices that each have a position: each once, in the hub's order, over reconnects too.

    cursor: position of the last notice handed out; give it as `since` to go on from there in another process.
    """

    def __init__(
        self,
        lifeline: "Lifeline",
        *,
        since: str | None,
        notices_max: int = QUEUE_MESSAGES_MAX,
        bytes_max: int = QUEUE_BYTES_MAX,
    ) -> None:
        """notices_max, bytes_max: what is kept for a consumer that is slow."""
        super().__init__(lifeline)
        self.cursor = since
        self._position = since
        self._seq = -1
        self._queue: deque[tuple[_Kept, int]] = deque()
        self._bytes = 0
        self._notices_max = notices_max
        self._bytes_max = bytes_max

    def on_subscribed(self, reply: Subscribed) -> None:
        """Without a position of its own the feed begins where the hub says."""
        if self._position is None:
            self.cursor = self._position = reply.from_cursor

    def on_caught_up(self, notice: CaughtUp) -> None:
        """Everything up to this cursor was sent."""
        if self.is_listening:
            self._position = notice.cursor

    def hear(self, notice: _Kept, seq: int, size: int) -> None:
        """One notice of this feed. seq: its journal position. size: its bytes on the wire."""
        if not self.is_listening or seq <= self._seq:
            return
        if len(self._queue) >= self._notices_max or (self._queue and self._bytes + size > self._bytes_max):
            self._is_deaf = True
            self._has_room.clear()
            self._stirred.set()
            return
        if not self._is_next(notice):
            return
        self._seq = seq
        self._position = notice.cursor
        self._queue.append((notice, size))
        self._bytes += size
        self._something.set()

    def _is_next(self, notice: _Kept) -> bool:
        """False ends the feed: the hub left something out."""
        return True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Kept:
        """The next notice. Raises `Rejected` as the hub ended the feed, `PeerError` on a gap, `Disconnected`."""
        while not self._queue:
            await self._more()
        notice, size = self._queue.popleft()
        self._bytes -= size
        self.cursor = notice.cursor
        if self._is_deaf and len(self._queue) <= self._notices_max // 2 and self._bytes <= self._bytes_max // 2:
            self._has_room.set()
        return notice


class MessageFeed(ResumingFeed[Message]):
    """Messages of some channels or topics, of my inbox, or both."""

    def __init__(
        self,
        lifeline: "Lifeline",
        channels: tuple[str, ...],
        *,
        inbox: bool,
        since: str | None,
        messages_max: int = QUEUE_MESSAGES_MAX,
        bytes_max: int = QUEUE_BYTES_MAX,
    ) -> None:
        """messages_max, bytes_max: what is kept for a consumer that is slow."""
        super().__init__(lifeline, since=since, notices_max=messages_max, bytes_max=bytes_max)
        self.channels = tuple(dict.fromkeys(channels))
        self._topics = tuple(name for name in self.channels if name.endswith("*"))
        self.inbox = inbox
        self._numbers: dict[str, int] = {}
        self._typing = Typists()

    def command(self) -> Subscribe:
        """Subscribe from the last message that was kept."""
        return Subscribe(channels=self.channels, inbox=self.inbox, since=self._position)

    def on_subscribed(self, reply: Subscribed) -> None:
        """Without a position of its own the feed begins where the hub says, and so do the numbers of its channels. Of a
        channel that keeps nothing there would never be a message."""
        ephemeral = [f"{at.room}:{at.channel}" for at in reply.positions if at.ephemeral]
        if ephemeral:
            why = f"{', '.join(ephemeral)}: what is sent there is no message that is kept; follow it with signals()"
            self.fail(Rejected("unsupported", why, {"channels": ephemeral}))
        if self._position is None:
            self._numbers = {f"{at.room}:{at.channel}": at.n for at in reply.positions if at.room is not None}
        super().on_subscribed(reply)

    def has(self, address: str) -> bool:
        """True for the address of a channel that this feed follows."""
        return address in self.channels or any(follows(name, address) for name in self._topics)

    @property
    def typing(self) -> tuple[Typing, ...]:
        """Who is writing something for the channels of this feed right now."""
        return self._typing.now(asyncio.get_running_loop().time())

    def hear_typing(self, notice: Typing) -> None:
        """Somebody is."""
        self._typing.note(notice, asyncio.get_running_loop().time())

    def hear(self, notice: Message, seq: int, size: int) -> None:
        """One message; who sent it is done with writing."""
        self._typing.end(notice)
        super().hear(notice, seq, size)

    def _is_next(self, message: Message) -> bool:
        """Check the gapless number of a channel of ours. It begins again at 1 when the channel was made anew."""
        address = f"{message.room}:{message.channel}"
        if message.room is None or not self.has(address):
            return True  # an inbox also counts mentions, which are shown with their channel's number
        last = self._numbers.get(address)
        if last is not None and message.n not in (last + 1, 1):
            self.fail(
                PeerError(f"{address} went from number {last} to {message.n}: the hub skipped or repeated messages")
            )
            return False
        self._numbers[address] = message.n
        return True


class LeaseFeed(ResumingFeed[LeaseChanged]):
    """What becomes of all leases and of the places in their queues."""

    def command(self) -> Subscribe:
        """Subscribe from the last change that was kept."""
        return Subscribe(leases=True, since=self._position)


class ValueFeed(ResumingFeed[ValueChanged]):
    """What becomes of the values of a room, of those whose key begins with `prefix`."""

    def __init__(self, lifeline: "Lifeline", room: str, *, prefix: str, since: str | None) -> None:
        super().__init__(lifeline, since=since)
        self.room = room
        self._prefix = prefix

    def command(self) -> Subscribe:
        """Subscribe from the last change that was kept."""
        return Subscribe(values=(self.room,), since=self._position)

    def hear(self, notice: ValueChanged, seq: int, size: int) -> None:
        """One change; of a key that begins otherwise, only the position counts."""
        is_mine = notice.key.startswith(self._prefix)
        if is_mine or (notice.change == "cleared" and self._prefix.startswith(notice.key)):
            super().hear(notice, seq, size)
        elif self.is_listening and seq > self._seq:
            self._seq, self._position = seq, notice.cursor


class PlanFeed(ResumingFeed[PlanChanged]):
    """What becomes of the plan of a room."""

    def __init__(self, lifeline: "Lifeline", room: str, *, since: str | None) -> None:
        super().__init__(lifeline, since=since)
        self.room = room

    def command(self) -> Subscribe:
        """Subscribe from the last change that was kept."""
        return Subscribe(plans=(self.room,), since=self._position)


class ReceiptFeed(ResumingFeed[ReceiptChanged]):
    """What becomes of the messages that I sent."""

    def command(self) -> Subscribe:
        """Subscribe from the last change that was kept."""
        return Subscribe(receipts=True, since=self._position)


class QuestionFeed(ResumingFeed[QuestionChanged]):
    """What becomes of the questions of a room."""

    def __init__(self, lifeline: "Lifeline", room: str, *, since: str | None) -> None:
        super().__init__(lifeline, since=since)
        self.room = room

    def command(self) -> Subscribe:
        """Subscribe from the last change that was kept."""
        return Subscribe(questions=(self.room,), since=self._position)


class PresenceUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """Agents by name. is_snapshot: these are all that are online or recent; else only those that changed."""

    agents: tuple[PresenceEntry, ...]
    is_snapshot: bool


class PresenceFeed(Feed):
    """Presence: a snapshot, then diffs; after a reconnect a snapshot again. Diffs nobody took yet are merged."""

    def __init__(self, lifeline: "Lifeline") -> None:
        super().__init__(lifeline)
        self._pages: dict[str, PresenceEntry] | None = None
        self._waiting: dict[str, PresenceEntry] = {}
        self._is_snapshot = False

    def command(self) -> Subscribe:
        """Presence and nothing else."""
        return Subscribe(presence=True)

    def on_subscribed(self, reply: Subscribed) -> None:
        """A snapshot follows; one that was cut off is of no use."""
        self._pages = None

    def hear(self, notice: PresenceSnapshot | PresenceChanged) -> None:
        """A page of a snapshot, or a diff."""
        if not self.is_listening:
            return
        fresh = {entry.name: entry for entry in notice.agents}
        if isinstance(notice, PresenceSnapshot):
            self._pages = {**(self._pages or {}), **fresh}
            if not notice.complete:
                return
            self._waiting, self._pages, self._is_snapshot = self._pages, None, True
        elif self._pages is not None:
            self._pages.update(fresh)
            return
        else:
            self._waiting.update(fresh)
        self._something.set()

    def __aiter__(self) -> "PresenceFeed":
        return self

    async def __anext__(self) -> PresenceUpdate:
        """The next update. Raises `Rejected`, `Disconnected`."""
        while not (self._waiting or self._is_snapshot):
            await self._more()
        waiting, is_snapshot = self._waiting, self._is_snapshot
        self._waiting, self._is_snapshot = {}, False
        agents = (waiting[name] for name in sorted(waiting))
        if is_snapshot:  # who left before the snapshot was taken is not in it
            agents = (entry for entry in agents if entry.presence != "offline")
        return PresenceUpdate(agents=tuple(agents), is_snapshot=is_snapshot)


class Feeds:
    """All feeds of a client, and which notice belongs to which. The hub names no subscription in a message."""

    def __init__(self) -> None:
        self._all: list[Feed] = []
        self._by_channel: dict[str, MessageFeed] = {}
        self._topics: list[str] = []
        self._inbox: MessageFeed | None = None
        self._leases: LeaseFeed | None = None
        self._receipts: ReceiptFeed | None = None
        self._values: dict[str, ValueFeed] = {}
        self._plans: dict[str, PlanFeed] = {}
        self._questions: dict[str, QuestionFeed] = {}
        self._presence: PresenceFeed | None = None
        self._signals: list[SignalFeed] = []
        self._activity: ActivityFeed | None = None
        self._deliveries: DeliveryFeed | None = None

    def __iter__(self) -> Iterator[Feed]:
        return iter(tuple(self._all))

    def add(self, feed: Feed) -> None:
        """Route to this feed from now on. Raises `Rejected(already_subscribed)` when another one has what it wants."""
        taken: list[str] = []
        if isinstance(feed, MessageFeed | SignalFeed):
            followed = [*self._by_channel, *(name for other in self._signals for name in other.channels)]
            taken = [
                address
                for address in feed.channels
                if any(follows(name, address) or follows(address, name) for name in followed)
            ]
        if isinstance(feed, MessageFeed):
            taken += ["my inbox"] if feed.inbox and self._inbox is not None else []
        elif isinstance(feed, LeaseFeed):
            taken = ["leases"] if self._leases is not None else []
        elif isinstance(feed, ReceiptFeed):
            taken = ["my receipts"] if self._receipts is not None else []
        elif isinstance(feed, ValueFeed):
            taken = [f"the values of {feed.room}"] if feed.room in self._values else []
        elif isinstance(feed, PlanFeed):
            taken = [f"the plan of {feed.room}"] if feed.room in self._plans else []
        elif isinstance(feed, QuestionFeed):
            taken = [f"the questions of {feed.room}"] if feed.room in self._questions else []
        elif isinstance(feed, PresenceFeed):
            taken = ["presence"] if self._presence is not None else []
        elif isinstance(feed, ActivityFeed):
            taken = ["activity"] if self._activity is not None else []
        elif isinstance(feed, DeliveryFeed):
            taken = ["deliveries"] if self._deliveries is not None else []
        if taken:
            raise Rejected(
                "already_subscribed",
                f"another feed of this client follows {', '.join(taken)}: share that one, or make a second Client",
                {"taken": taken},
            )
        self._all.append(feed)
        if isinstance(feed, MessageFeed):
            self._by_channel.update(dict.fromkeys(feed.channels, feed))
            self._topics = [name for name in self._by_channel if name.endswith("*")]
            self._inbox = feed if feed.inbox else self._inbox
        elif isinstance(feed, LeaseFeed):
            self._leases = feed
        elif isinstance(feed, ReceiptFeed):
            self._receipts = feed
        elif isinstance(feed, ValueFeed):
            self._values[feed.room] = feed
        elif isinstance(feed, PlanFeed):
            self._plans[feed.room] = feed
        elif isinstance(feed, QuestionFeed):
            self._questions[feed.room] = feed
        elif isinstance(feed, PresenceFeed):
            self._presence = feed
        elif isinstance(feed, SignalFeed):
            self._signals.append(feed)
        elif isinstance(feed, ActivityFeed):
            self._activity = feed
        elif isinstance(feed, DeliveryFeed):
            self._deliveries = feed

    def remove(self, feed: Feed) -> None:
        """Forget a feed. Doing it twice is the same as once."""
        if feed not in self._all:
            return
        self._all.remove(feed)
        if isinstance(feed, MessageFeed):
            for address in feed.channels:
                del self._by_channel[address]
            self._topics = [name for name in self._by_channel if name.endswith("*")]
        if isinstance(feed, ValueFeed):
            del self._values[feed.room]
        if isinstance(feed, PlanFeed):
            del self._plans[feed.room]
        if isinstance(feed, QuestionFeed):
            del self._questions[feed.room]
        self._inbox = None if self._inbox is feed else self._inbox
        self._leases = None if self._leases is feed else self._leases
        self._receipts = None if self._receipts is feed else self._receipts
        self._presence = None if self._presence is feed else self._presence
        self._signals = [other for other in self._signals if other is not feed]
        self._activity = None if self._activity is feed else self._activity
        self._deliveries = None if self._deliveries is feed else self._deliveries

    def deliver(self, notice: Lent) -> None:
        """A message was lent. With nobody to take it, it comes back when its lend is over."""
        if self._deliveries is not None:
            self._deliveries.hear(notice)

    def hear(self, notice: Told, seq: int, size: int) -> None:
        """Give a notice to the feed it is for; one that nobody follows any more is dropped."""
        match notice:
            case Message():
                # What is in no channel of ours is of the inbox: direct messages, and mentions from anywhere.
                address = f"{notice.room}:{notice.channel}"
                feed = self._by_channel.get(address) or self._topic_of(address) or self._inbox
                if feed is not None:
                    feed.hear(notice, seq, size)
            case LeaseChanged():
                if self._leases is not None:
                    self._leases.hear(notice, seq, size)
            case ReceiptChanged():
                if self._receipts is not None:
                    self._receipts.hear(notice, seq, size)
            case ValueChanged():
                values = self._values.get(notice.room)
                if values is not None:
                    values.hear(notice, seq, size)
            case PlanChanged():
                plan = self._plans.get(notice.room)
                if plan is not None:
                    plan.hear(notice, seq, size)
            case QuestionChanged():
                questions = self._questions.get(notice.room)
                if questions is not None:
                    questions.hear(notice, seq, size)
            case PresenceSnapshot() | PresenceChanged():
                if self._presence is not None:
                    self._presence.hear(notice)
            case Signal():
                address = f"{notice.room}:{notice.channel}"
                for signals in self._signals:
                    if signals.has(address):
                        signals.hear(notice, size)
            case Activity():
                if self._activity is not None:
                    self._activity.hear(notice, size)
            case Typing():
                address = f"{notice.room}:{notice.channel}"
                typed = self._by_channel.get(address) or self._topic_of(address)
                if typed is not None:
                    typed.hear_typing(notice)
            case CaughtUp():
                for other in self._all:
                    if other.subscription == notice.subscription and isinstance(other, ResumingFeed):
                        other.on_caught_up(notice)
            case Broken():
                for other in self._all:
                    if other.subscription == notice.subscription:
                        facts = {} if notice.first_kept is UNSET else {"first_kept": notice.first_kept}
                        other.fail(Rejected(notice.code, notice.detail, facts))
            case _:
                assert_never(notice)

    def _topic_of(self, address: str) -> MessageFeed | None:
        return next((self._by_channel[name] for name in self._topics if follows(name, address)), None)

    def finish(self, end: Disconnected | None) -> None:
        """The client has ended: with an error, or (None) because it was closed."""
        for feed in self._all:
            feed.fail(end)
