"""Who is connected: frames counted against rates and bounds, peers that do not read, peers that say nothing."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from synapse.errors import Rejected
from synapse.hub.buckets import REMEMBER_MS, Buckets
from synapse.hub.clock import Clock
from synapse.hub.connection import Connection
from synapse.hub.pacing import Pacer
from synapse.hub.tokens import note_end
from synapse.hub.whereabouts import say_presence
from synapse.protocol.codec import Request
from synapse.protocol.codes import CLOSE_FLOOD, CLOSE_NO_HELLO, CLOSE_SLOW
from synapse.protocol.commands import Hello
from synapse.protocol.limits import Limits
from synapse.protocol.session import Heard, Phase, Refusal

if TYPE_CHECKING:
    from synapse.hub.turn import Turns

INBOX_MAX: Final = 16_384
"""Requests that wait for a turn, of all peers together; then nobody is read from."""
TOKEN_BYTES: Final = 8 * 1024
"""A request costs one token for each of these that it begins: reading a long one takes a hundred times as long."""
OUTBOXES_MS: Final = 1_000
SWEEP_MS: Final = 5_000
"""How often it is looked which buckets can be forgotten: with a thousand peers the look takes a millisecond."""
BULK_FRAME_BYTES: Final = 16 * 1024
BULK_BYTES_MAX: Final = 1024 * 1024
"""Requests of more than `BULK_FRAME_BYTES` that one connection has in flight; then it is not read from until all are
answered."""


_OPEN: Final = Phase.OPEN
_CLOSED: Final = Phase.CLOSED
# Looking a member up in its enumeration costs 0.1 µs before Python 3.12.


class Peers:
    """All connections of one `Turns`."""

    def __init__(self, turns: "Turns", limits: Limits, clock: Clock, let_go: Callable[[Connection], None]) -> None:
        self.connections: dict[int, Connection] = {}
        self.total = 0
        """How many connected since the start of this process."""
        self.unwelcomed: dict[Connection, None] = {}
        self.agent_buckets = Buckets("agent", limits.rate_agent_per_s, limits.rate_agent_burst)
        self.host_buckets = Buckets("host", limits.rate_host_per_s, limits.rate_host_burst)
        self._turns = turns
        self._limits = limits
        self._clock = clock
        self._let_go = let_go
        together_per_s = max(limits.rate_agent_per_s, limits.rate_host_per_s // 2)
        self._pacer = Pacer(clock, together_per_s, self.unhold)
        self._stuck: dict[Connection, None] = {}
        self._outboxes = (-OUTBOXES_MS, 0)
        self._swept_ms = clock.monotonic_ms()
        self._is_ending = False

    @property
    def outbox_bytes(self) -> int:
        """Bytes that wait for peers in all outboxes together, as they were up to a second ago: the question
        may come from anybody, and often."""
        now_ms = self._clock.monotonic_ms()
        if now_ms - self._outboxes[0] >= OUTBOXES_MS:
            total = sum(connection.wire.buffered() for connection in self.connections.values())
            self._outboxes = (now_ms, total)
        return self._outboxes[1]

    @property
    def stuck(self) -> int:
        """How many do not read what the hub has for them."""
        return len(self._stuck)

    def limited(self) -> tuple[str, ...]:
        """Agents, then hosts, that were refused within the last minute because they ask too fast."""
        since_ms = self._clock.monotonic_ms() - REMEMBER_MS
        return (*self.agent_buckets.refused_since(since_ms), *self.host_buckets.refused_since(since_ms))

    def now_ms(self) -> int:
        """The monotonic clock, to be read once for all frames that came together."""
        return self._clock.monotonic_ms()

    def room(self, connection: Connection) -> int:
        """How many frames of a peer may be heard now; what came with them waits until it is read from again."""
        if connection.is_held:
            return 0
        room = self._limits.in_flight_max - connection.in_flight
        return max(1, room if connection.pace is None else min(room, connection.slice))

    def hear(self, connection: Connection, frame: bytes, now_ms: int) -> None:
        """One frame of a peer. Bad ones are answered through the turn like everything else."""
        session = connection.session
        if session.phase is not _CLOSED:
            if len(frame) > BULK_FRAME_BYTES:
                connection.bulk_bytes = len(frame) + (connection.bulk_bytes if connection.in_flight else 0)
            self._admit(connection, session.hear(frame), now_ms, 1 + len(frame) // TOKEN_BYTES)

    def hear_all(self, connection: Connection, frames: Sequence[bytes], now_ms: int) -> int:
        """Frames of a peer that came together: as `hear` for each, counted at once where nothing is refused for it. How
        many were heard: after a refusal the rest waits until the peer is read from again."""
        session, host_bucket, agent_bucket = connection.session, connection.host_bucket, connection.agent_bucket
        count = len(frames)
        if (
            session.phase is not _OPEN
            or connection.pace is not None
            or max(map(len, frames)) >= TOKEN_BYTES
            or not host_bucket.has(count, now_ms)
            or (agent_bucket is not None and not agent_bucket.has(count, now_ms))
        ):
            for heard, frame in enumerate(frames, 1):
                self.hear(connection, frame, now_ms)
                if connection.is_held:
                    return heard
            return count
        host_bucket.spend(count)
        if agent_bucket is not None:
            agent_bucket.spend(count)
        connection.in_flight += count
        hear = session.hear
        waiting = self._turns.put_all(connection, [hear(frame) for frame in frames])
        self._hold_if_full(connection, waiting)
        return count

    def hear_binary(self, connection: Connection) -> None:
        """A frame that is not text."""
        if connection.session.phase is not _CLOSED:
            self._admit(connection, connection.session.hear_binary(), self.now_ms())

    def charge(self, connection: Connection, now_ms: int) -> None:
        """A frame that costs about what a request does, and is none: a control frame, or a piece of a message."""
        refused_by, pace = None, connection.pace
        if pace is not None:
            pace.note_pause(now_ms)
        if connection.host_bucket.take(now_ms, is_last=pace is not None):
            refused_by = connection.host_bucket
        if (refused_by is not None or pace is not None) and self._pacer.count(connection, refused_by, 1):
            self.hold(connection)

    def _admit(self, connection: Connection, heard: Heard, now_ms: int, cost: int = 1) -> None:
        """Count a frame against the rates and bounds of its peer, and queue it."""
        refused_by, pace = None, connection.pace
        if pace is not None:
            pace.note_pause(now_ms)
        agent_bucket, host_bucket = connection.agent_bucket, connection.host_bucket
        # The agent's first: what is refused for it must not be missing to the others of its host. For the same reason
        # who is paced comes behind them.
        if agent_bucket is not None and (wait_ms := agent_bucket.take(now_ms, cost)):
            refused_by = agent_bucket
            heard = _limited(connection, heard, self.agent_buckets.refusal(connection.by.actor, wait_ms, now_ms))
        elif wait_ms := host_bucket.take(now_ms, cost, is_last=pace is not None):
            refused_by = host_bucket
            heard = _limited(connection, heard, self.host_buckets.refusal(connection.host, wait_ms, now_ms))
        connection.in_flight += 1
        waiting = self._turns.put(connection, heard)
        if (refused_by is not None or pace is not None) and self._pacer.count(connection, refused_by, cost):
            self.hold(connection)
        self._hold_if_full(connection, waiting)

    def _hold_if_full(self, connection: Connection, waiting: int) -> None:
        if (
            connection.in_flight >= self._limits.in_flight_max
            or waiting >= INBOX_MAX
            or connection.bulk_bytes > BULK_BYTES_MAX
        ):
            self.hold(connection)

    def hold(self, connection: Connection) -> None:
        """Read no more from a peer until its requests in flight are answered, or its turn comes."""
        if not connection.is_held:
            connection.is_held = True
            connection.wire.hold_reading(hold=True)

    def unhold(self, connection: Connection) -> None:
        """Read from a held peer again, unless something still stands against it."""
        if (
            connection.is_held
            and not self._is_ending
            and not connection.is_stuck
            and not connection.postponed
            and (connection.pace is None or connection.slice)
            and connection.in_flight
            <= (0 if connection.bulk_bytes > BULK_BYTES_MAX else self._limits.in_flight_max // 2)
        ):
            if not connection.in_flight:
                connection.bulk_bytes = 0
            connection.is_held = False
            connection.wire.hold_reading(hold=False)

    def hold_all(self) -> None:
        """The hub is shutting down: nobody is read from any more, so that there is an end to what must be answered."""
        self._is_ending = True
        for connection in self.connections.values():
            self.hold(connection)

    def on_stuck(self, connection: Connection) -> None:
        """The peer's outbox is half full: no more reading from it, its subscriptions fall back to the disk."""
        connection.is_stuck = True
        connection.stuck_since_ms = self._clock.monotonic_ms()
        connection.stuck_bytes = connection.wire.buffered()
        self._stuck[connection] = None
        self.hold(connection)

    def on_drained(self, connection: Connection) -> None:
        """The peer reads again."""
        connection.is_stuck = False
        self._stuck.pop(connection, None)
        if connection.is_closed:
            return
        self.go_on(connection)
        self.unhold(connection)
        for subscription in list(connection.subscriptions.values()):
            if subscription.has_stale_presence:
                say_presence(self._turns, subscription)
        self._turns.feeds.resume(connection)
        self._turns.disk.go_on(connection)

    def go_on(self, connection: Connection) -> None:
        """Carry out what was postponed, before everything that came after it."""
        if connection.postponed and not connection.is_stuck:
            self._turns.put_first(connection, connection.postponed)
            connection.postponed.clear()
        if connection.waiting and connection.by.agent is not None:
            agent = connection.by.agent
            self._turns.put(None, lambda: self._turns.waiting.has_room(agent))

    def open(self, connection: Connection) -> None:
        """A peer connected."""
        self.total += 1
        self.connections[connection.id] = connection
        self.unwelcomed[connection] = None

    def on_closed(self, connection: Connection) -> None:
        """The peer is gone: its lends return, its presence ends. Carried out inside a turn."""
        if connection.is_closed:
            return
        connection.is_closed = True
        connection.session.close()
        connection.deferred.clear()
        connection.postponed.clear()
        self._stuck.pop(connection, None)
        self.unwelcomed.pop(connection, None)
        self.connections.pop(connection.id, None)
        for subscription in list(connection.subscriptions.values()):
            self._turns.feeds.end(subscription)
        note_end(self._turns, connection)
        self._turns.put(None, lambda: self._let_go(connection))

    def check(self) -> None:
        """Close who said no hello in time, and who has not drained for too long."""
        now_ms = self._clock.monotonic_ms()
        limits = self._limits
        for connection in list(self.unwelcomed):
            if now_ms - connection.opened_ms < limits.hello_ms:
                break
            self.unwelcomed.pop(connection)
            connection.session.close()
            connection.wire.close(CLOSE_NO_HELLO, f"no hello within {limits.hello_ms} ms")
        for connection in list(self._stuck):
            buffered = connection.wire.buffered()
            if buffered < connection.stuck_bytes:
                connection.stuck_since_ms = now_ms
            connection.stuck_bytes = buffered  # it also grows, by answers that were on their way
            if now_ms - connection.stuck_since_ms >= limits.drain_ms:
                connection.wire.close(CLOSE_SLOW, "slow: resume from your cursor")
                connection.wire.abort()

    def sweep(self, now_ms: int) -> None:
        """Forget the buckets of who is not here and has not asked for a while, every few seconds."""
        if now_ms - self._swept_ms < SWEEP_MS:
            return
        self._swept_ms = now_ms
        here = list(self.connections.values())
        self.agent_buckets.sweep(now_ms, {connection.agent for connection in here})
        self.host_buckets.sweep(now_ms, {connection.host for connection in here})


def _limited(connection: Connection, heard: Heard, error: Rejected) -> Refusal:
    """What an empty bucket makes of a frame. A hello that is not heard ends the connection: its session waits for the
    outcome, and would take whatever comes next for a part of a greeting."""
    if isinstance(heard, Request):
        if not isinstance(heard.command, Hello):
            return Refusal(heard.id, error, traceparent=heard.traceparent)
        connection.session.close()
        return Refusal(heard.id, error, CLOSE_FLOOD)
    return heard if heard.close is not None else heard._replace(error=error)
