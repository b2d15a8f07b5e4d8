"""Peers over their rate: heard a few frames at a time, as fast as their bucket fills and no faster.

Refusing costs the hub about as much as answering. So whoever was refused once is not read any more but in its turn:
every 2 ms each bucket lets its connections be heard for as many tokens as came in that time. A flood, over one
connection or a hundred, then costs what a lawful agent may cost, in slices of less than a millisecond.

Twenty floods would cost what twenty lawful agents may, which is more than the hub has. So all who are paced are heard
together no faster than half of what one host may ask (or, where that is more, what one agent may), bucket after bucket.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from synapse.hub.buckets import Bucket
from synapse.hub.clock import Clock
from synapse.hub.connection import Connection

ROUND_S: Final = 0.002
SLICE_MAX: Final = 16
"""Tokens that one connection may use in a round."""
TOGETHER_MS: Final = 4
"""A round that comes late has no more than the tokens of so long for all together."""
REST_MS: Final = 1_000
"""For so long after some had to wait because all together asked too much, nobody passes for rested: its bucket is full
because it was not heard."""


class Pacer:
    """Who is over a rate, by the bucket that said so. per_s: tokens that all may use together in a second. go_on: reads
    from a connection again."""

    def __init__(self, clock: Clock, per_s: int, go_on: Callable[[Connection], None]) -> None:
        self._clock = clock
        self._go_on = go_on
        now_ms = clock.monotonic_ms()
        self._all = Bucket(per_s, max(SLICE_MAX, per_s * TOGETHER_MS // 1000), now_ms)
        self._owed_by_all = 0
        self._crowded_ms = now_ms - REST_MS
        self._queues: dict[Bucket, deque[Connection]] = {}
        self._owed: dict[Bucket, int] = {}
        self._round_ms = 0
        self._ready: deque[Connection] = deque()

    def count(self, connection: Connection, refused_by: Bucket | None, cost: int) -> bool:
        """One frame of a peer that is paced, or is from now on; True when it is not to be heard until its turn."""
        if connection.pace is None:
            assert refused_by is not None
            connection.pace = refused_by
        elif connection.slice > cost:
            connection.slice -= cost
            return False
        elif not connection.slice:
            return True  # it waits for its turn, and this came before it could be held
        bucket = connection.pace
        if not self._queues:
            self._round_ms = self._clock.monotonic_ms()
            asyncio.get_running_loop().call_later(ROUND_S, self._round)
        self._queues.setdefault(bucket, deque()).append(connection)
        beyond = cost - connection.slice
        self._owed[bucket] = self._owed.get(bucket, 0) + beyond
        self._owed_by_all += beyond
        connection.slice = 0
        return True

    def _round(self) -> None:
        now_ms = self._clock.monotonic_ms()
        passed_ms, self._round_ms = now_ms - self._round_ms, now_ms
        together = self._all.tokens_in(passed_ms) - self._owed_by_all
        self._owed_by_all = max(0, -together)
        for bucket in list(self._queues):
            left = bucket.tokens_in(passed_ms) - self._owed.pop(bucket, 0)
            if left <= 0:
                self._owed[bucket] = -left
                continue
            if together <= 0:
                self._crowded_ms = now_ms
                self._owed[bucket] = -1  # it keeps a token: its next may come when there is nothing for all again
                continue
            queue = self._queues.pop(bucket)
            together -= self._hand_out(bucket, queue, min(left, together), now_ms)
            if queue:
                self._queues[bucket] = queue  # behind the others, which may not have had their turn
        if self._queues:
            asyncio.get_running_loop().call_later(ROUND_S, self._round)

    def _hand_out(self, bucket: Bucket, queue: deque[Connection], most: int, now_ms: int) -> int:
        """Slices for the first of a queue, at most so many tokens in all; how many it were."""
        tokens = most
        is_crowded = now_ms - self._crowded_ms < REST_MS
        while queue and tokens > 0:
            connection = queue.popleft()
            if connection.is_closed:
                continue
            if bucket.is_rested(now_ms) and not is_crowded:  # it is told of each turn, a crowded one too
                connection.pace = None
            connection.slice = min(tokens, SLICE_MAX)
            tokens -= connection.slice
            if not self._ready:
                asyncio.get_running_loop().call_soon(self._next)
            self._ready.append(connection)
        return most - tokens

    def _next(self) -> None:
        """One slice, and then whatever else is there has its turn of the loop."""
        self._go_on(self._ready.popleft())
        if self._ready:
            asyncio.get_running_loop().call_soon(self._next)
