"""Connections in memory: two ordered pipes each, with drawn delays, and everything that goes wrong between machines.

What is on its way when a connection is cut is lost, and the two ends learn of it at different times, or one of them
for a long time not at all. Frames of one connection keep their order; those of different connections overtake each
other. Every number is drawn from the connection's own source of chance, so one connection does not disturb another.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol

from synapse.errors import Disconnected
from synapse.hub.connection import Connection
from synapse.protocol.codec import encode_notice
from synapse.protocol.codes import CLOSE_GOING_AWAY
from synapse.protocol.notices import Closing

LOST: Final = 1006


@dataclass(slots=True)
class Learns:
    """How long after a cut the two ends learn of it, in seconds."""

    hub_s: float
    client_s: float


class HubSide(Protocol):
    """What a connection needs of the hub that it leads to."""

    is_dead: bool
    stopped_until_s: float

    def hear(self, link: "Link", frame: bytes) -> None:
        """A frame arrived."""

    def tell(self, link: "Link", payloads: Sequence[bytes]) -> None:
        """The hub wrote these frames; nobody has read them yet."""

    def lost(self, link: "Link") -> None:
        """The hub learned that the connection is gone."""

    def stuck(self, link: "Link", *, is_stuck: bool) -> None:
        """The outbox is half full, or down to a quarter again."""

    def durable(self) -> int:
        """The seq of the last durable event."""


class Link:
    """One connection: towards the client a `client.transport.Transport`, towards the hub a `hub.connection.Wire`.

    number: of this connection among all. owner: the agent's name. frames_lost: what was on its way when it was cut.
    """

    kind = "lines"

    def __init__(
        self, number: int, owner: str, hub: HubSide, loop: asyncio.AbstractEventLoop, chance: Random, outbox_bytes: int
    ) -> None:
        self.number = number
        self.owner = owner
        self.connection: Connection | None = None
        self.is_open_at_hub = True
        self.is_cut = False
        self.frames_lost = 0
        self._hub = hub
        self._loop = loop
        self._chance = chance
        self._half = outbox_bytes // 2
        self._up: deque[tuple[float, bytes | None]] = deque()
        self._down: deque[tuple[float, list[bytes], int]] = deque()
        self._up_last_s = self._down_last_s = 0.0
        self._blocked_until_s = 0.0
        self._slow_until_s = 0.0
        self._bytes_per_s = 0.0
        self._buffered = 0
        self._is_held = False
        self._is_stuck = False
        self._arrived: deque[bytes] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._client_end: Disconnected | None = None
        self._last_words: Disconnected | None = None

    def _delay_s(self) -> float:
        """Mostly a fraction of a millisecond; sometimes a scheduler or a network has other things to do."""
        chance = self._chance.random()
        if chance < 0.98:
            return 0.0001 + chance * 0.0015
        return 0.05 + (chance - 0.98) * 30

    # The client's side.

    async def send(self, frame: bytes, /) -> None:
        """Send one frame. Raises `Disconnected` once this end knows that the connection is gone."""
        if self._client_end is not None:
            raise self._client_end
        self._send(frame)

    def _send(self, frame: bytes | None) -> None:
        if self.is_cut:
            self.frames_lost += frame is not None
            return
        when_s = max(self._up_last_s, self._loop.time() + self._delay_s(), self._blocked_until_s)
        self._up_last_s = when_s
        self._up.append((when_s, frame))
        if len(self._up) == 1:
            self._loop.call_at(when_s, self._deliver_up)

    async def receive(self) -> bytes:
        """The next frame. Raises `Disconnected` when no more will come."""
        while not self._arrived:
            if self._client_end is not None:
                raise self._client_end
            self._reader = self._loop.create_future()
            await self._reader
        return self._arrived.popleft()

    async def aclose(self) -> None:
        """Let it go; the hub learns of it when the last frame has arrived."""
        if self._client_end is None:
            self._end_client(Disconnected(CLOSE_GOING_AWAY, "closed by this side"))
            self._send(None)

    def _end_client(self, end: Disconnected) -> None:
        if self._client_end is None:
            self._client_end = end
            self._wake()

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    # The hub's side.

    def frame(self, payload: bytes) -> bytes:
        """The payload as a line."""
        return payload + b"\n"

    def write(self, data: bytes) -> None:
        """Put whole lines on their way."""
        if not self.is_open_at_hub:
            return
        payloads = data.split(b"\n")
        assert not payloads.pop(), "the hub writes whole lines"
        self._hub.tell(self, payloads)
        self._put_down(payloads, len(data))
        if not self._is_stuck and self._buffered > self._half:
            self._is_stuck = True
            self._hub.stuck(self, is_stuck=True)

    def _put_down(self, payloads: list[bytes], size: int) -> None:
        self._buffered += size
        if self.is_cut:
            self.frames_lost += len(payloads)
            return
        now_s = self._loop.time()
        when_s = max(self._down_last_s, now_s + self._delay_s(), self._blocked_until_s)
        if now_s < self._slow_until_s:
            when_s = min(when_s + size / self._bytes_per_s, max(when_s, self._slow_until_s))
        self._down_last_s = when_s
        self._down.append((when_s, payloads, size))
        if len(self._down) == 1:
            self._loop.call_at(when_s, self._deliver_down)

    def buffered(self) -> int:
        """Bytes that the client has not received yet."""
        return self._buffered

    def hold_reading(self, *, hold: bool) -> None:
        """Stop or go on reading from the client."""
        self._is_held = hold
        if not hold and self._up:
            self._loop.call_soon(self._deliver_up)

    def close(self, code: int, reason: str) -> None:
        """The hub says goodbye and goes."""
        if self.is_open_at_hub:
            self.write(self.frame(encode_notice(self._hub.durable(), Closing(code=code, reason=reason))))
            self._last_words = Disconnected(code, reason)
            self._put_down([], 0)
            self._lose_hub()

    def abort(self) -> None:
        """The hub cuts the connection."""
        if self.is_open_at_hub:
            self.cut(Learns(0.0, self._chance.uniform(0.0, 0.2)))
            self._lose_hub()

    def _lose_hub(self) -> None:
        if self._hub.stopped_until_s > self._loop.time():
            self._loop.call_at(self._hub.stopped_until_s, self._lose_hub)
        elif self.is_open_at_hub:
            self.is_open_at_hub = False
            if not self._hub.is_dead:
                self._hub.lost(self)

    # What is between them.

    def _deliver_up(self) -> None:
        hub, now_s = self._hub, self._loop.time()
        while self._up and not self._is_held and not self.is_cut:
            later_s = max(self._up[0][0], self._blocked_until_s, hub.stopped_until_s)
            if later_s > now_s:
                self._loop.call_at(later_s, self._deliver_up)
                return
            _, frame = self._up.popleft()
            if hub.is_dead or not self.is_open_at_hub:
                continue
            if frame is None:
                self._lose_hub()
            else:
                hub.hear(self, frame)

    def _deliver_down(self) -> None:
        now_s = self._loop.time()
        while self._down and not self.is_cut:
            later_s = max(self._down[0][0], self._blocked_until_s)
            if later_s > now_s:
                self._loop.call_at(later_s, self._deliver_down)
                break
            _, payloads, size = self._down.popleft()
            self._buffered -= size
            if self._client_end is None:
                self._arrived.extend(payloads)
                if not payloads and self._last_words is not None:
                    self._end_client(self._last_words)
                self._wake()
        if self._is_stuck and self._buffered <= self._half // 2:
            self._is_stuck = False
            if self.is_open_at_hub and not self._hub.is_dead:
                self._hub.stuck(self, is_stuck=False)

    # What goes wrong.

    def cut(self, learns: Learns) -> None:
        """Nothing gets through any more; what is on its way is lost."""
        if self.is_cut:
            return
        self.is_cut = True
        self.frames_lost += sum(frame is not None for _, frame in self._up)
        self.frames_lost += sum(len(payloads) for _, payloads, _ in self._down)
        self._up.clear()
        self._down.clear()
        self._loop.call_later(learns.hub_s, self._lose_hub)
        self._loop.call_later(learns.client_s, self._end_client, Disconnected(LOST, "the connection was lost"))

    def stop(self, seconds: float) -> None:
        """Nothing moves for a while, and nothing is lost."""
        self._blocked_until_s = self._loop.time() + seconds

    def slow_down(self, seconds: float, bytes_per_s: float) -> None:
        """The way to the client is narrow for a while."""
        self._slow_until_s, self._bytes_per_s = self._loop.time() + seconds, bytes_per_s
