"""Peers over their rate: heard a few frames at a time, as fast as their bucket fills and no faster.

Refusing costs the hub about as much as answering. So whoever was refused once is not read any more but in its turn:
every 2 ms each bucket lets its connections be heard for as many tokens as came in that time. A flood, over one
connection or a hundred, then costs what a lawful agent may cost, in slices of less than a millisecond.
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


class Pacer:
    """Who is over a rate, by the bucket that said so. go_on: reads from a connection again."""

    def __init__(self, clock: Clock, go_on: Callable[[Connection], None]) -> None:
        self._clock = clock
        self._go_on = go_on
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
        self._owed[bucket] = self._owed.get(bucket, 0) + cost - connection.slice
        connection.slice = 0
        return True

    def _round(self) -> None:
        now_ms = self._clock.monotonic_ms()
        passed_ms, self._round_ms = now_ms - self._round_ms, now_ms
        for bucket, queue in list(self._queues.items()):
            left = bucket.tokens_in(passed_ms) - self._owed.pop(bucket, 0)
            if left <= 0:
                self._owed[bucket] = -left
                continue
            while queue and left > 0:
                connection = queue.popleft()
                if connection.is_closed:
                    continue
                if bucket.is_rested(now_ms):
                    connection.pace = None
                connection.slice = min(left, SLICE_MAX)
                left -= connection.slice
                if not self._ready:
                    asyncio.get_running_loop().call_soon(self._next)
                self._ready.append(connection)
            if not queue:
                del self._queues[bucket]
        if self._queues:
            asyncio.get_running_loop().call_later(ROUND_S, self._round)

    def _next(self) -> None:
        """One slice, and then whatever else is there has its turn of the loop."""
        self._go_on(self._ready.popleft())
        if self._ready:
            asyncio.get_running_loop().call_soon(self._next)
