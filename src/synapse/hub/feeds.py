"""Subscriptions: each is catching up (pages from disk) or live (told at the end of every turn), never both.

    catching up --a page reaches the durable head--> live --the peer's outbox is full--> catching up

A live subscription holds no queue: when its peer does not drain, it goes back to reading from disk, from the position
it had reached. So a slow peer costs its outbox and nothing else, and no message is skipped or repeated at either seam:
what the reader has not read yet is either on disk, or among the recent events kept here, or told in a later turn.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import itemgetter
from typing import Final, TypeAlias

from synapse.core.events import MessagePosted, Recorded
from synapse.core.messages import shown_posted
from synapse.core.retention import floor_of, too_old
from synapse.core.state import State
from synapse.core.telling import announce
from synapse.core.topics import LEASES_OF, Topics, floors_of, is_topic, keys_on_disk, keys_told, lease_keys
from synapse.errors import JournalError
from synapse.hub.connection import Connection
from synapse.hub.threads import Done
from synapse.journal.interface import Pages, is_whole
from synapse.journal.upcast import decode
from synapse.protocol.codec import encode_notice
from synapse.protocol.cursor import cursor_of
from synapse.protocol.notices import Broken, CaughtUp, Notice

PAGE_ROWS: Final = 200
RECENT_EVENTS_MAX: Final = 1_024
RECENT_BYTES_MAX: Final = 4 * 1024 * 1024
_SEQ: Final = itemgetter(0)
"""Of an event with its place."""

_Page: TypeAlias = tuple[list[bytes], int]
"""Notices of a page from disk, and up to which seq it goes."""


@dataclass(slots=True, eq=False)
class Subscription:
    """One feed of one connection. position: everything up to this seq was sent, while it is catching up. floors: by
    key, the seq behind which its agent reads what is private. missed, missed_activity: how many signals, or notices of
    activity, it was not told since the last one. has_leases: it follows those of every room that its agent may see.
    takes: what it is told of is lent to it."""

    id: int
    connection: Connection
    keys: tuple[str, ...]
    agent: int | None
    position: int
    has_presence: bool
    is_live: bool = False
    is_reading: bool = False
    is_ended: bool = False
    has_stale_presence: bool = False
    floors: dict[str, int] = field(default_factory=dict)
    takes: bool = False
    missed: int = 0
    missed_activity: int = 0
    has_leases: bool = False


def event_at(events: Sequence[Recorded], seq: int) -> Recorded | None:
    """The event at `seq` of some in order."""
    at = bisect_left(events, seq, key=_SEQ)
    return events[at] if at < len(events) and events[at].seq == seq else None


class Recent:
    """The last durable message events, so that a reader can close the gap to the head without another page."""

    def __init__(self, head: int) -> None:
        self.floor = head
        """Every message event after this seq is here."""
        self._turns: deque[tuple[Sequence[Recorded], int]] = deque()
        self._events = 0
        self._bytes = 0

    def add(self, turn: Sequence[Recorded], size: int) -> None:
        """Keep the message events of a durable turn, `size` bytes in all; the oldest turns go when it is too much."""
        if not turn:
            return
        self._turns.append((turn, size))
        self._events += len(turn)
        self._bytes += size
        while self._events > RECENT_EVENTS_MAX or self._bytes > RECENT_BYTES_MAX:
            dropped, its_size = self._turns.popleft()
            self._events -= len(dropped)
            self._bytes -= its_size
            self.floor = dropped[-1].seq

    def after(self, seq: int) -> Iterator[Recorded]:
        """Events after `seq`, which must not lie below the floor."""
        assert seq >= self.floor
        return (recorded for turn, _ in self._turns if turn[-1].seq > seq for recorded in turn if recorded.seq > seq)

    def find(self, seq: int) -> Recorded | None:
        """The event at `seq`, if it is still here."""
        for turn, _ in reversed(self._turns):
            if turn[0].seq <= seq:
                return event_at(turn, seq)
        return None


class Joined:
    """The frames of one key, one behind the other: where each begins, and its seq."""

    __slots__ = ("_begins", "_seqs", "data")

    def __init__(self, frames: Sequence[tuple[int, bytes]], frame: Callable[[bytes], bytes]) -> None:
        framed = [frame(payload) for _, payload in frames]
        self.data = b"".join(framed)
        self._seqs = [seq for seq, _ in frames]
        self._begins = [0, *accumulate(map(len, framed))]

    def with_replies(self, replies: Sequence[tuple[int, bytes]], frame: Callable[[bytes], bytes]) -> bytes:
        """The frames with replies, which are in order, each before the first frame of its seq."""
        parts: list[bytes] = []
        done = 0
        for seq, payload in replies:
            begin = self._begins[bisect_left(self._seqs, seq)]
            if begin > done:
                parts.append(self.data[done:begin])
                done = begin
            parts.append(frame(payload))
        parts.append(self.data[done:])
        return b"".join(parts)


class Told:
    """One turn's notices by index key, and which connections follow which of those keys."""

    def __init__(self) -> None:
        self.frames: dict[str, list[tuple[int, bytes]]] = {}
        self.receivers: dict[Connection, list[str]] = {}
        self._joined: dict[tuple[str, str], Joined] = {}

    def of_key(self, key: str, replies: Sequence[tuple[int, bytes]], connection: Connection) -> bytes:
        """All frames of one key, framed and joined once for every peer with the same framing, with the replies of this
        one at their places: a reply goes before the notices of its own seq."""
        name = (key, connection.kind)
        joined = self._joined.get(name)
        if joined is None:
            joined = self._joined[name] = Joined(self.frames[key], connection.wire.frame)
        return joined.with_replies(replies, connection.wire.frame) if replies else joined.data

    def merged(self, keys: Sequence[str], replies: Sequence[tuple[int, bytes]], connection: Connection) -> bytes:
        """The replies of a turn and the frames of several keys in order of their seq, each notice once."""
        frame = connection.wire.frame
        notices = dict.fromkeys([told for key in keys for told in self.frames[key]])
        ordered = [(seq, 0, payload) for seq, payload in replies] + [(seq, 1, payload) for seq, payload in notices]
        ordered.sort(key=lambda item: item[:2])
        return b"".join([frame(payload) for _, _, payload in ordered])


class Feeds:
    """All subscriptions, and what they are told."""

    def __init__(
        self,
        state: State,
        pages: Pages,
        read: Callable[[Connection, Callable[[], _Page], Done[_Page]], None],
        *,
        head: int,
        outbox_bytes_max: int,
        broken: Callable[[JournalError], None],
        soon: Callable[[Callable[[], object]], object],
        ended: Callable[[Subscription], None],
    ) -> None:
        self.durable = head
        """The seq of the last durable event."""
        self.recent = Recent(head)
        self.count = 0
        self.presence: dict[Subscription, None] = {}
        self._state = state
        self._pages = pages
        self._read = read
        self._outbox_bytes_max = outbox_bytes_max
        self._broken = broken
        self._soon = soon
        self._ended = ended
        self._live: dict[str, dict[Subscription, None]] = {}
        self._topics = Topics()
        self._lease_keys: dict[str, None] = {}
        self._next_id = 1

    def open(
        self, connection: Connection, keys: tuple[str, ...], agent: int | None, position: int, *, has_presence: bool
    ) -> Subscription:
        """A new subscription from `position` on; call `start` once its reply is on the way."""
        subscription = Subscription(self._next_id, connection, keys, agent, position, has_presence)
        subscription.floors = floors_of(self._state, keys, agent)
        self._next_id += 1
        self.count += 1
        connection.subscriptions[subscription.id] = subscription
        if agent is not None and f"in/{agent}" in keys:
            self._state.soft.presence.wake(agent, connection.id)
        return subscription

    def end(self, subscription: Subscription) -> None:
        """Forget a subscription."""
        if subscription.is_ended:
            return
        subscription.is_ended = True
        self.count -= 1
        self.presence.pop(subscription, None)
        self._ended(subscription)
        subscription.connection.subscriptions.pop(subscription.id, None)
        if subscription.agent is not None and f"in/{subscription.agent}" in subscription.keys:
            self._state.soft.presence.unwake(subscription.agent, subscription.connection.id)
        self._leave_live(subscription)

    def end_gone(self, connections: Iterable[Connection]) -> None:
        """A channel or room was deleted and that is durable: who followed a channel of it is told, and follows again
        what is left."""
        channels, rooms = self._state.rooms.channels, self._state.rooms.by_id
        for connection in connections:
            for subscription in list(connection.subscriptions.values()):
                if all(
                    int(key.split("/")[1]) in (channels if key.startswith("ch/") else rooms)
                    for key in subscription.keys
                    if key.startswith(("ch/", "kv/", "pl/", "qu/", "to/"))
                ):
                    continue
                self.end(subscription)
                self.say_gone([subscription])

    def end_hidden(self, connections: Iterable[Connection], room: int, channel: int | None) -> list[Subscription]:
        """An agent may not see a private place any more: what these connections of it follow of it ends at once, before
        anything else of this turn is told."""
        hidden = (
            {f"ch/{channel}"} if channel is not None else {f"kv/{room}", f"pl/{room}", f"qu/{room}", f"leases/{room}"}
        )
        if channel is None:
            hidden |= {f"ch/{other.id}" for other in self._state.rooms.in_room[room].values()}
        ended = [
            subscription
            for connection in connections
            for subscription in connection.subscriptions.values()
            if any(key in hidden or (channel is None and key.startswith(f"to/{room}/")) for key in subscription.keys)
        ]
        for subscription in ended:
            self.end(subscription)
        return ended

    def widen(self, connections: Iterable[Connection]) -> list[Subscription]:
        """These connections may see a room since the event that was just folded in: where leases are followed, those
        of the room are followed too. What is changed here is behind now, so that nothing is told twice or left out;
        `start` it when the turn is durable."""
        behind: list[Subscription] = []
        for connection in connections:
            for subscription in connection.subscriptions.values():
                may_see = lease_keys(self._state, connection.by) if subscription.has_leases else []
                more = [key for key in may_see if key not in subscription.keys]
                if not more:
                    continue
                if subscription.is_live:
                    self._leave_live(subscription)
                    subscription.position = self.durable
                subscription.keys = (*subscription.keys, *more)
                subscription.floors |= floors_of(self._state, more, subscription.agent)
                behind.append(subscription)
        return behind

    def say_gone(self, ended: Iterable[Subscription]) -> None:
        """What they follow is gone, or hidden, and that is durable: their peers follow again what is left."""
        for subscription in ended:
            why = Broken(
                subscription=subscription.id,
                code="not_found",
                detail="a channel or room of this subscription is not there any more; subscribe to the others again",
            )
            if not subscription.connection.is_closed:
                self._say(subscription, [encode_notice(self.durable, why)])

    def start(self, subscription: Subscription) -> None:
        """Go on from the subscription's position: live at once when nothing was missed, else from disk."""
        if subscription.is_ended or subscription.is_live or subscription.is_reading:
            return
        if subscription.position >= self.recent.floor:
            self._close_gap(subscription)
        else:
            self._read_on(subscription)

    def _close_gap(self, subscription: Subscription) -> None:
        """Tell what is durable and recent, then be live; or stay behind when the outbox is full."""
        connection = subscription.connection
        keys = keys_told(self._state, subscription.keys)
        payloads: list[bytes] = []
        size = 0
        for recorded in self.recent.after(subscription.position):
            found = self._payloads(recorded, keys, subscription.floors)
            if not found:
                continue
            size += sum(map(len, found))
            if connection.wire.buffered() + size > self._outbox_bytes_max // 2 and payloads:
                self._say(subscription, payloads)
                if not connection.is_stuck:
                    self._soon(lambda: self.start(subscription))
                return
            payloads += found
            subscription.position = recorded.seq
        subscription.position = max(subscription.position, self.durable)
        cursor = cursor_of(self._state.journal_id, subscription.position)
        payloads.append(encode_notice(subscription.position, CaughtUp(subscription=subscription.id, cursor=cursor)))
        self._say(subscription, payloads)
        subscription.is_live = True
        for key in subscription.keys:
            followers = self._live.setdefault(key, {})
            if not followers and is_topic(key):
                self._topics.add(key)
            elif not followers and key.startswith(LEASES_OF):
                self._lease_keys[key] = None
            followers[subscription] = None

    def _read_on(self, subscription: Subscription) -> None:
        """Ask the reader for the next page, unless the peer has half an outbox to read first."""
        connection = subscription.connection
        if connection.is_stuck:
            return  # `resume` comes back to it
        subscription.is_reading = True
        after, upto = subscription.position, self.durable
        keys, wanted = keys_on_disk(self._state, subscription.keys), keys_told(self._state, subscription.keys)
        floors, bytes_max = subscription.floors, self._outbox_bytes_max // 4

        def read() -> _Page:
            payloads: list[bytes] = []
            position, size = after, 0
            rows = self._pages.page(keys, after, upto, PAGE_ROWS, bytes_max)
            for row in rows:
                found = self._payloads(Recorded(row.seq, row.at_ms, row.actor, decode(row)), wanted, floors)
                payloads += found
                size += sum(map(len, found))
                position = row.seq
                if size > bytes_max:
                    return payloads, position
            return payloads, upto if is_whole(rows, PAGE_ROWS, bytes_max) else position

        def done(result: _Page | None, error: JournalError | None) -> None:
            subscription.is_reading = False
            if error is not None:
                ended = Broken(subscription=subscription.id, code="journal_broken", detail=str(error))
                if not subscription.is_ended:
                    self._say(subscription, [encode_notice(self.durable, ended)])
                self._broken(error)
                return
            assert result is not None
            if subscription.is_ended or connection.is_closed or self._end_too_old(subscription, after):
                return
            payloads, subscription.position = result
            self._say(subscription, payloads)
            self.start(subscription)

        self._read(connection, read, done)

    def _end_too_old(self, subscription: Subscription, after: int) -> bool:
        """Retention has overtaken a subscription that is behind: it ends, and its peer is told where to go on."""
        keys = keys_on_disk(self._state, subscription.keys)
        floor = max((floor_of(self._state.retention.floors, key) for key in keys), default=0)
        if after >= floor:
            return False
        refusal = too_old(self._state.journal_id, floor, "what you follow")
        ended = Broken(
            subscription=subscription.id,
            code=refusal.code,
            detail=refusal.detail,
            first_kept=cursor_of(self._state.journal_id, floor),
        )
        self.end(subscription)
        self._say(subscription, [encode_notice(self.durable, ended)])
        return True

    def _payloads(self, recorded: Recorded, keys: frozenset[str], floors: Mapping[str, int]) -> list[bytes]:
        """What a follower of these keys is told of an event, each notice once."""
        told = announce(self._state.journal_id, recorded, keys, self._apart(keys))
        notices = {id(notice): notice for key, notice in told if recorded.seq > floors.get(key, 0)}
        return [encode_notice(recorded.seq, notice) for notice in notices.values()]

    def _apart(self, keys: Iterable[str]) -> dict[int, bool]:
        """As `announce` wants it, for these followers."""
        private = self._state.rooms.private
        apart = dict.fromkeys(private, True)
        for key in keys:
            if key.startswith(LEASES_OF):
                room = int(key.removeprefix(LEASES_OF))
                apart[room] = room in private
        return apart

    def _say(self, subscription: Subscription, payloads: Sequence[bytes]) -> None:
        wire = subscription.connection.wire
        if payloads:
            wire.write(b"".join([wire.frame(payload) for payload in payloads]))

    def resume(self, connection: Connection) -> None:
        """The peer has drained: its subscriptions that fell behind go on."""
        for subscription in list(connection.subscriptions.values()):
            self.start(subscription)

    def _leave_live(self, subscription: Subscription) -> None:
        if not subscription.is_live:
            return
        subscription.is_live = False
        for key in subscription.keys:
            followers = self._live.get(key)
            if followers is not None:
                followers.pop(subscription, None)
                if not followers:
                    del self._live[key]
                    if is_topic(key):
                        self._topics.remove(key)
                    self._lease_keys.pop(key, None)

    def fall_behind(self, connection: Connection, position: int) -> None:
        """The outbox is full: live subscriptions of this peer read from disk again, from `position` on."""
        for subscription in connection.subscriptions.values():
            if subscription.is_live:
                self._leave_live(subscription)
                subscription.position = position

    def tell(self, turn: Sequence[Recorded], size: int, head: int) -> Told:
        """A turn is durable up to `head`: keep its messages, `size` bytes, and say who must hear what."""
        self.durable = head
        self.recent.add(turn, size)
        told = Told()
        live, has_topics = self._live, bool(self._topics.lengths)
        apart = self._apart(self._lease_keys)
        for recorded in turn if live else ():
            last: tuple[Notice, bytes] | None = None
            notices = announce(self._state.journal_id, recorded, live, apart)
            if has_topics and type(recorded.event) is MessagePosted:
                notices += self._of_topics(recorded, recorded.event, notices)
            for key, notice in notices:
                if last is None or last[0] is not notice:
                    last = (notice, encode_notice(recorded.seq, notice))
                frames = told.frames.get(key)
                if frames is None:
                    frames = told.frames[key] = []
                    for subscription in live[key]:
                        told.receivers.setdefault(subscription.connection, []).append(key)
                frames.append((recorded.seq, last[1]))
        return told

    def hand_out(
        self,
        connection: Connection,
        told: Told,
        keys: Sequence[str],
        replies: Sequence[tuple[int, bytes]],
        before: int,
    ) -> None:
        """One write with a turn's notices and replies; only the replies when the peer does not keep up. before: the
        head that was durable before the turn."""
        wire = connection.wire
        if len(keys) == 1:
            data = told.of_key(keys[0], replies, connection)
        else:
            data = told.merged(list(dict.fromkeys(keys)), replies, connection)
        # A quarter is left for replies, and for what a growing bytearray takes beyond its length.
        if connection.is_stuck or wire.buffered() + len(data) > self._outbox_bytes_max * 3 // 4:
            self.fall_behind(connection, before)
            if replies:
                wire.write(b"".join([wire.frame(payload) for _, payload in replies]))
            if not connection.is_stuck:
                self._soon(lambda: self.resume(connection))
            return
        wire.write(data)

    def _of_topics(
        self, recorded: Recorded, event: MessagePosted, notices: Sequence[tuple[str, Notice]]
    ) -> list[tuple[str, Notice]]:
        """As `announce`, for followers of topics. notices: what it said already, the message perhaps among it."""
        channel = self._state.rooms.channels.get(event.channel)
        keys = self._topics.of(channel, self._live)
        if not keys:
            return []
        message = notices[0][1] if notices else shown_posted(self._state.journal_id, recorded, event)
        return [(key, message) for key in keys]
