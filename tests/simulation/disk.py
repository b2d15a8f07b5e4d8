"""A disk that takes its time, fills up, fails, and forgets what was not synced when the power goes.

A commit is at hand from when the hub gives it away until it is durable, and unheard of from then until the hub is told.
A crash in the first stretch loses it or, if the draw says so, keeps it; a crash in the second keeps it although nobody
was told. Transactions are whole or not there: that SQLite makes them so is for the power cut tests to show.
"""

import asyncio
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from heapq import merge
from itertools import islice
from typing import TypeVar

from tests.simulation.virtual_time import START_AT_MS

from synapse.core.events import Row
from synapse.core.retention_events import JournalCompacted
from synapse.errors import DiskFull, JournalError, StoreFailed
from synapse.hub.threads import Done
from synapse.journal.dropping import Dropped, Rule
from synapse.journal.memory import MemoryJournal, upto_bytes

_Result = TypeVar("_Result")


class SimulatedJournal(MemoryJournal):
    """The rows that are on the disk; survives the hub.

    on_durable: told of each transaction that is safe from here on. on_dropped: told which rows have no body any more.
    on_end_drop: told when all are gone that a compaction drops.
    is_full: no room. failure: the next append fails; what it wrote is there nevertheless (`kept`) or is not (`lost`).
    """

    def __init__(self, on_durable: Callable[[Sequence[Row]], None]) -> None:
        super().__init__(at_ms=START_AT_MS)
        self.is_full = False
        self.failure: str | None = None
        self.on_dropped: Callable[[Sequence[int]], None] = lambda seqs: None
        self.on_end_drop: Callable[[JournalCompacted], None] = lambda compaction: None
        self._on_durable = on_durable
        self._has_reserve = True
        self._turns_of_room = 0

    def append(self, rows: Sequence[Row]) -> None:
        """Make rows durable. Raises `DiskFull`, `StoreFailed`."""
        failure, self.failure = self.failure, None
        if failure is None and self.is_full:
            if not self._turns_of_room:
                raise DiskFull("no room is left")
            self._turns_of_room -= 1
        if failure != "lost":
            super().append(rows)
            self._on_durable(rows)
        if failure is not None:
            raise StoreFailed("the disk failed; the next start replays the truth")

    def drop(self, rule: Rule, after: int) -> Dropped:
        """Drop the bodies of some rows, looking until there are some. Raises `DiskFull`."""
        if self.is_full:
            raise DiskFull("no room is left")
        done = super().drop(rule, after)
        while not done.rows and done.seq < rule.upto:
            done = super().drop(rule, done.seq)
        self.on_dropped([row.seq for row in self.rows(after + 1, done.seq) if not row.body])
        return done

    def end_drop(self, compaction: JournalCompacted) -> None:
        """The files of before go."""
        self.on_end_drop(compaction)

    def give_up_reserve(self) -> bool:
        """Room for one turn more, once."""
        had, self._has_reserve = self._has_reserve, False
        self._turns_of_room = 1 if had else 0
        return had

    def try_restore_reserve(self) -> bool:
        """Works when there is room again."""
        if self.is_full:
            return False
        self._has_reserve, self.is_read_only, self._turns_of_room = True, False, 0
        return True

    def open_again(self) -> None:
        """A new process looks at what is there, as `Journal.open` does."""
        self.is_new = self.head == self.base
        self.failure = None
        self.is_read_only = self.is_full
        self._turns_of_room = 0
        self._has_reserve = not self.is_full

    # A simulated day has a million rows, so pages are found without looking at all of them.

    def page(self, keys: Sequence[str], after: int, upto: int, limit: int, bytes_max: int | None = None) -> list[Row]:
        """The first `limit` rows with after < seq ≤ upto that touch one of `keys`; ascending, each once."""
        parts: list[list[int]] = []
        for key in keys:
            seqs = self._touches.get(key, [])
            begin = bisect_right(seqs, after)
            parts.append(seqs[begin : min(begin + limit, bisect_right(seqs, upto))])
        return upto_bytes([self._at(seq) for seq in islice(dict.fromkeys(merge(*parts)), limit)], bytes_max)

    def page_back(self, keys: Sequence[str], before: int, limit: int, bytes_max: int | None = None) -> list[Row]:
        """The last `limit` rows with seq < before that touch one of `keys`; ascending, each once."""
        parts: list[list[int]] = []
        for key in keys:
            seqs = self._touches.get(key, [])
            end = bisect_left(seqs, before)
            parts.append(seqs[max(end - limit, 0) : end])
        found = [self._at(seq) for seq in list(dict.fromkeys(merge(*parts)))[-limit:]]
        return upto_bytes(found[::-1], bytes_max)[::-1]


class DelayedWorker:
    """A thread of the hub (`synapse.hub.threads.Worker`): jobs in order, each done after a drawn time.

    delays: draws how long a job takes until it is carried out, and from then until the hub is told. fraction: draws at
    which part of the next job `doom` is called, if it is set. on_told: called with how long a job took when the hub has
    been told.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        delays: Callable[[], tuple[float, float]],
        fraction: Callable[[], float],
        on_told: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.stopped_until_s = 0.0
        self.doom: Callable[[], None] | None = None
        self._loop = loop
        self._delays = delays
        self._fraction = fraction
        self._on_told = on_told
        self._jobs: deque[tuple[Callable[[], Callable[[], None]], float]] = deque()
        self._is_at_hand = False
        self._is_dead = False

    @property
    def since_s(self) -> float:
        """When the job at hand was given away."""
        return self._jobs[0][1] if self._jobs else self._loop.time()

    def submit(self, job: Callable[[], _Result], done: Done[_Result]) -> None:
        """Carry `job` out later, then `done` on the loop."""

        def carry_out() -> Callable[[], None]:
            result: _Result | None = None
            error: JournalError | None = None
            try:
                result = job()
            except JournalError as caught:
                error = caught
            return lambda: done(result, error)

        self._jobs.append((carry_out, self._loop.time()))
        if len(self._jobs) == 1:
            self._begin()

    def _begin(self) -> None:
        first, second = self._delays()
        self._is_at_hand = True
        self._loop.call_later(first, self._carry_out, second)
        if self.doom is not None:
            self._loop.call_later((first + second) * self._fraction(), self.doom)
            self.doom = None

    def _carry_out(self, rest_s: float) -> None:
        if self._is_dead:
            return
        self._is_at_hand = False
        tell = self._jobs[0][0]()
        if rest_s:
            self._loop.call_later(rest_s, self._tell, tell)
        else:
            self._tell(tell)

    def _tell(self, tell: Callable[[], None]) -> None:
        if self._is_dead:
            return
        now_s = self._loop.time()
        if now_s < self.stopped_until_s:
            self._loop.call_at(self.stopped_until_s, self._tell, tell)
            return
        _, since_s = self._jobs.popleft()
        if self._jobs:
            self._begin()
        tell()
        self._on_told(now_s - since_s)

    def die(self, *, keep: bool) -> str:
        """The process is gone. keep: the job at hand was already on the disk. What became of it."""
        if self._is_dead or not self._jobs:
            self._is_dead = True
            return "idle"
        self._is_dead = True
        if not self._is_at_hand:
            return "unheard"
        if keep:
            self._jobs[0][0]()
            return "kept"
        return "lost"

    def stop(self) -> None:
        """Nothing is left to be joined."""
