"""Signals, typing and activity: told at the end of a turn to who follows right now, and kept nowhere.

Rule 1: they leave after everything durable of their turn. Rule 2: who is catching up, or has a quarter of its outbox
waiting, is told none of it; each subscription counts what it missed, and its next signal says how much that was.
Rule 3: what one turn spends on them is bounded: signals of one connection, bytes for one connection, and for all.
So a peer that does not read costs nothing here, and a flood of signals delays nobody's durable request by much.
"""

from bisect import bisect_right
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import msgspec

from synapse.core.by import By
from synapse.core.events import Event
from synapse.core.messages import address_of
from synapse.core.refusals import require_limit
from synapse.core.rooms import Channel, decide_telemetry, floor_of_channel, require_channel
from synapse.core.signals import TYPING_FOR_MS, Signalling, not_kept
from synapse.core.topics import Topics, is_topic
from synapse.errors import Rejected
from synapse.hub.activity import Acted, Spot, described
from synapse.hub.connection import Connection
from synapse.protocol.codec import Request, RequestId, encode_notice
from synapse.protocol.commands import Command, SendMessage
from synapse.protocol.cursor import cursor_of
from synapse.protocol.replies import Sent
from synapse.protocol.signal_commands import ListRecent, SayTyping, SignalCommand
from synapse.protocol.signal_notices import Signal, SoftNotice, Typing
from synapse.protocol.signal_replies import Recent, Typed

if TYPE_CHECKING:
    from synapse.hub.feeds import Subscription
    from synapse.hub.turn import Turns

OK: Final = "ok"
"""The outcome of what was not refused."""
ALL_BYTES_MAX: Final = 4 * 1024 * 1024
"""What one turn tells all connections together, beyond one signal for each."""
ACTIVITY_PER_TURN_MAX: Final = 256
"""What agents did in one turn; the rest counts as dropped for everybody."""
RINGS_BYTES_MAX: Final = 16 * 1024 * 1024
"""The last signals of all channels together; those of the channel that was quiet for longest go first."""


class Ring:
    """The last signals of one channel."""

    __slots__ = ("bytes", "signals")

    def __init__(self) -> None:
        self.signals: deque[tuple[int, Signal, int]] = deque()
        self.bytes = 0

    def add(self, seq: int, signal: Signal, size: int) -> None:
        """Keep one more."""
        self.signals.append((seq, signal, size))
        self.bytes += size

    def drop_first(self) -> int:
        """Let the oldest go; its size."""
        size = self.signals.popleft()[2]
        self.bytes -= size
        return size


class Rings:
    """The last signals of all channels, by channel id, the one that was quiet for longest first."""

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self.bytes = 0
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._by_channel: OrderedDict[int, Ring] = OrderedDict()

    def add(self, channel: int, seq: int, signal: Signal, size: int) -> None:
        """Keep one more; what is too much goes. seq: of the head when it was sent."""
        ring = self._by_channel.setdefault(channel, Ring())
        self._by_channel.move_to_end(channel)
        ring.add(seq, signal, size)
        self.bytes += size
        while ring.signals and (len(ring.signals) > self._count_max or ring.bytes > self._bytes_max):
            self.bytes -= ring.drop_first()
        while self.bytes > RINGS_BYTES_MAX:
            self.forget(next(iter(self._by_channel)))

    def of(self, channel: int, floor: int) -> list[Signal]:
        """What is kept of a channel, oldest first, and was sent behind `floor`."""
        ring = self._by_channel.get(channel)
        return [] if ring is None else [signal for seq, signal, _ in ring.signals if seq > floor]

    def forget(self, channel: int) -> None:
        """Drop what is kept of a channel."""
        ring = self._by_channel.pop(channel, None)
        self.bytes -= 0 if ring is None else ring.bytes

    @property
    def channels(self) -> list[int]:
        """Of which something is kept."""
        return list(self._by_channel)


class Batch:
    """Notices of one turn for the same followers: encoded once, and framed once for each framing."""

    def __init__(self, notices: "Iterable[tuple[int, SoftNotice, bytes]]" = ()) -> None:
        self._notices = list(notices)
        self._framed: dict[str, tuple[bytes, list[int]]] = {}

    def __len__(self) -> int:
        return len(self._notices)

    def add(self, seq: int, notice: SoftNotice, payload: bytes) -> None:
        """One more, in order. payload: of the notice at `seq`."""
        self._notices.append((seq, notice, payload))

    def first(self, missed: int) -> bytes:
        """The first one, for who missed so many before it."""
        seq, notice, _ = self._notices[0]
        return encode_notice(seq, msgspec.structs.replace(notice, dropped=missed))

    def framed(self, connection: Connection) -> tuple[bytes, list[int]]:
        """All of them as they go onto that connection's wire, and where each ends."""
        found = self._framed.get(connection.kind)
        if found is None:
            frames = [connection.wire.frame(payload) for _, _, payload in self._notices]
            found = self._framed[connection.kind] = b"".join(frames), list(accumulate(map(len, frames)))
        return found


class Signals:
    """What one `Turns` tells and does not keep. Everything here runs inside a turn or at its release."""

    def __init__(self, turns: "Turns") -> None:
        self.has_something = False
        """True when this turn has something to tell."""
        self.watchers: dict[Subscription, None] = {}
        """Who follows what agents do."""
        limits = turns.rules.limits
        self.recent = Rings(limits.recent_signals_max, limits.recent_signals_bytes_max)
        self._turns = turns
        self._limits = limits
        self._followers: dict[str, dict[Subscription, None]] = {}
        self._topics = Topics()
        self._said: dict[int, tuple[Channel, Batch]] = {}
        self._typed: list[tuple[Channel, Typing]] = []
        self._acted: list[Acted] = []
        self._unseen = 0
        self._of_connection: Counter[Connection] = Counter()

    @property
    def _soft(self) -> Signalling:
        return self._turns.state.soft.signals

    # Who follows.

    def follow(self, subscription: "Subscription", *, activity: bool) -> None:
        """From now on what this subscription is not told counts as missed."""
        if activity:
            self.watchers[subscription] = None
        for key in subscription.keys:
            if not key.startswith(("ch/", "to/")):
                continue
            followers = self._followers.setdefault(key, {})
            if not followers and is_topic(key):
                self._topics.add(key)
            followers[subscription] = None

    def forget(self, subscription: "Subscription") -> None:
        """A subscription ended."""
        self.watchers.pop(subscription, None)
        for key in subscription.keys:
            followers = self._followers.get(key)
            if followers is None or subscription not in followers:
                continue
            del followers[subscription]
            if not followers:
                del self._followers[key]
                if is_topic(key):
                    self._topics.remove(key)

    def forget_gone(self) -> None:
        """Channels were deleted, and that is durable."""
        state = self._turns.state
        self._soft.forget_gone(state)
        for channel in self.recent.channels:
            if channel not in state.rooms.channels:
                self.recent.forget(channel)

    def _keys(self, channel: Channel) -> list[str]:
        """Under which keys a channel is followed: its own, and those of its topics."""
        keys = [f"ch/{channel.id}"] if f"ch/{channel.id}" in self._followers else []
        return keys + self._topics.of(channel, self._followers) if self._topics.lengths else keys

    def _count_followers(self, channel: Channel) -> int:
        return sum(len(self._followers[key]) for key in self._keys(channel))

    # What is said in a turn.

    def send(self, connection: Connection, request: Request, command: SendMessage, events: Sequence[Event]) -> None:
        """A message that `decide` found to be a signal. events: what makes its channel, if it is not there yet. Raises
        `Rejected` for one with a key: nobody remembers what was sent under it."""
        turns, state, by = self._turns, self._turns.state, connection.by
        address = address_of(command, by)
        assert address is not None, "what goes to inboxes is no signal"
        if request.idem_key is not None:
            raise not_kept(address, "it takes no idem_key - at `$.idem_key`", "$.idem_key")
        turns.record(events, by.actor)
        channel = state.rooms.by_address[address]
        room, _, name = address.partition(":")
        cursor = cursor_of(state.journal_id, state.seq)
        self._of_connection[connection] += 1
        if self._of_connection[connection] > self._limits.signals_per_turn_max:
            self._soft.shed += 1
            self.has_something = True  # so that the count of this connection begins anew
            shed = Sent(cursor=cursor, room=room, channel=name, ephemeral=True, receivers=0, dropped=True)
            turns.reply(connection, request.id, shed)
            return
        counted = self._soft.of(channel.id)
        counted.sent += 1
        self._soft.sent += 1
        signal = Signal(
            room=room,
            channel=name,
            n=counted.sent,
            sender=by.actor,
            sent_at_ms=by.at_ms,
            subject=command.subject,
            body=command.body,
        )
        payload = encode_notice(state.seq, signal)
        self.recent.add(channel.id, state.seq, signal, len(payload))
        receivers = self._count_followers(channel)
        if receivers:
            _, batch = self._said.setdefault(channel.id, (channel, Batch()))
            batch.add(state.seq, signal, payload)
        self.has_something = True
        sent = Sent(cursor=cursor, room=room, channel=name, n=signal.n, ephemeral=True, receivers=receivers)
        turns.reply(connection, request.id, sent)

    def begin(self, addresses: Iterable[str], by: By) -> None:
        """Somebody is about to follow these: make the default channel for telemetry, if it is asked for. Raises
        `Rejected`."""
        turns = self._turns
        for address in addresses:
            turns.record(decide_telemetry(turns.state, turns.rules, address, by), by.actor)

    def serve(self, connection: Connection, request_id: RequestId, command: SignalCommand) -> None:
        """Answer a question about signals, or tell of typing. Raises `Rejected`."""
        if isinstance(command, SayTyping):
            self._say_typing(connection, request_id, command)
        else:
            self._list_recent(connection, request_id, command)

    def _say_typing(self, connection: Connection, request_id: RequestId, command: SayTyping) -> None:
        """An agent is typing: told once in a while. Raises `Rejected`."""
        turns, state, by = self._turns, self._turns.state, connection.by
        agent = by.require_agent()
        channel = require_channel(state, command.channel, by)
        room, _, name = command.channel.partition(":")
        told = self._soft.may_type(agent, channel.id, turns.clock.monotonic_ms())
        receivers = 0
        if told:
            receivers = self._count_followers(channel)
            typing = Typing(room=room, channel=name, sender=by.actor, at_ms=by.at_ms, for_ms=TYPING_FOR_MS)
            self._typed.append((channel, typing))
            self.has_something = True
        else:
            self._soft.typing_swallowed += 1
        cursor = cursor_of(state.journal_id, state.seq)
        turns.reply(
            connection, request_id, Typed(room=room, channel=name, told=told, receivers=receivers, cursor=cursor)
        )

    def observe(self, connection: Connection, command: Command, outcome: str, spot: Spot | None = None) -> None:
        """Somebody changed something, or was refused to. Nothing of what it said is looked at but where it belongs.
        spot: that, if it was there before."""
        if len(self._acted) >= ACTIVITY_PER_TURN_MAX:
            self._unseen += 1
        else:
            found = described(self._turns.state, command, connection.by, outcome, spot)
            if found is None:
                return
            self._acted.append(found)
        self.has_something = True

    def _list_recent(self, connection: Connection, request_id: RequestId, command: ListRecent) -> None:
        """The last signals of a channel. Raises `Rejected`."""
        turns, state = self._turns, self._turns.state
        channel = require_channel(state, command.channel, connection.by)
        if not channel.ephemeral:
            why = f"{command.channel} is no ephemeral channel: synapse history {command.channel} shows its messages"
            raise Rejected("unsupported", why, {"channel": command.channel, "ephemeral": False})
        require_limit(command.limit, self._limits.page_items_max)
        floor = floor_of_channel(state, channel, connection.by.agent)
        kept = list(self.recent.of(channel.id, floor))
        if command.after is None:
            page = kept = kept[-command.limit :]
        else:
            kept = [signal for signal in kept if signal.n > command.after]
            page = kept[: command.limit]
        room, _, name = command.channel.partition(":")
        recent = Recent(
            room=room,
            channel=name,
            signals=tuple(page),
            since_at_ms=self._soft.since_at_ms,
            next=page[-1].n if len(kept) > len(page) else None,
            cursor=cursor_of(state.journal_id, state.seq),
        )
        turns.reply(connection, request_id, recent)

    # What is told at the end of the turn.

    def tell(self) -> None:
        """The turn is durable and its answers are out: tell what was said in it."""
        said, typed, acted, unseen = self._said, self._typed, self._acted, self._unseen
        self._said, self._typed, self._acted, self._unseen = {}, [], [], 0
        self._of_connection.clear()
        self.has_something = False
        many = sum(self._count_followers(channel) for channel, _ in (*said.values(), *typed))
        many += len(self.watchers) if acted else 0
        share = min(self._limits.signals_turn_bytes_max, ALL_BYTES_MAX // max(1, many))
        out = Outgoing(self._limits.outbox_bytes_max // 4, share)
        for channel, batch in said.values():
            counted = self._soft.by_channel.get(channel.id)
            for subscription in self._who_follows(channel):
                given = out.give(subscription, batch, subscription.missed)
                lost = len(batch) - given
                subscription.missed = lost if given else subscription.missed + lost
                self._soft.delivered += given
                self._soft.dropped += lost
                if counted is not None:
                    counted.delivered += given
                    counted.dropped += lost
        self._tell_typing(out, typed)
        if acted or unseen:
            self._tell_activity(out, acted, unseen)
        out.write()

    def _who_follows(self, channel: Channel) -> "list[Subscription]":
        return [subscription for key in self._keys(channel) for subscription in self._followers[key]]

    def _tell_typing(self, out: "Outgoing", typed: Sequence[tuple[Channel, Typing]]) -> None:
        durable = self._turns.feeds.durable
        for channel, typing in typed:
            batch = Batch([(durable, typing, encode_notice(durable, typing))])
            for subscription in self._who_follows(channel):
                given = out.give(subscription, batch, 0)
                self._soft.typing += given
                self._soft.typing_dropped += 1 - given

    def _tell_activity(self, out: "Outgoing", acted: Sequence[Acted], unseen: int) -> None:
        """Each watcher hears what it may see."""
        state, durable = self._turns.state, self._turns.feeds.durable
        batches: dict[tuple[bool, ...], Batch] = {}
        for subscription in list(self.watchers):
            by = subscription.connection.by
            seen = tuple([one.is_for(state, by) for one in acted])
            batch = batches.get(seen)
            if batch is None:
                batch = batches[seen] = Batch(
                    (durable, one.notice, encode_notice(durable, one.notice))
                    for one, is_seen in zip(acted, seen, strict=True)
                    if is_seen
                )
            given = out.give(subscription, batch, subscription.missed_activity)
            lost = len(batch) - given + unseen
            subscription.missed_activity = lost if given else subscription.missed_activity + lost
            self._soft.activity += given
            self._soft.activity_dropped += lost


class Outgoing:
    """What the connections get at the end of one turn: one write each. outbox_max: who has as much waiting gets
    nothing. share: bytes for one connection, if it is more than one notice."""

    def __init__(self, outbox_max: int, share: int) -> None:
        self._outbox_max = outbox_max
        self._share = share
        self._parts: dict[Connection, list[bytes]] = {}
        self._bytes: Counter[Connection] = Counter()

    def give(self, subscription: "Subscription", batch: Batch, missed: int) -> int:
        """How many of these notices a subscription gets, the first ones; the first says how many it `missed`."""
        connection = subscription.connection
        if (
            not subscription.is_live
            or not len(batch)
            or connection.is_closed
            or connection.is_stuck
            or connection.wire.buffered() >= self._outbox_max
        ):
            return 0
        data, ends = batch.framed(connection)
        had = self._bytes[connection]
        count = bisect_right(ends, self._share - had)
        if not count:
            if had:
                return 0
            count = 1
        parts = self._parts.setdefault(connection, [])
        if missed:
            parts.append(connection.wire.frame(batch.first(missed)))
            parts.append(data[ends[0] : ends[count - 1]])
        else:
            parts.append(data[: ends[count - 1]])
        self._bytes[connection] += ends[count - 1]
        return count

    def write(self) -> None:
        """Let it out."""
        for connection, parts in self._parts.items():
            connection.wire.write(b"".join(parts))
