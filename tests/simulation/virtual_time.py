"""Time that passes only when nobody has anything to do: an event loop without sockets, and the hub's clock on it.

When nothing is ready the loop jumps to its next timer. So an hour takes as long as its work, and two runs that draw the
same numbers do the same things in the same order.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from itertools import count
from typing import Any, Final, Protocol, TypeVar

_T = TypeVar("_T")
START_AT_MS: Final = 1_800_000_000_000
"""The wall clock when a simulation begins."""


class NothingWillHappen(AssertionError):
    """Everybody waits, and no timer is set."""


class NumberedTask(asyncio.Task[_T]):
    """A task that hashes as its number. A group cancels its tasks in the order of a set, which is otherwise that of
    their addresses: another one in each process."""

    def __init__(self, coro: Coroutine[Any, Any, _T], *, loop: asyncio.AbstractEventLoop, number: int) -> None:
        self._number = number
        super().__init__(coro, loop=loop)

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop on virtual time. It is its own selector, which finds no files ready and lets time pass instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self._selector = self
        numbers = count(1)
        self.set_task_factory(lambda loop, coro: NumberedTask(coro, loop=loop, number=next(numbers)))

    def time(self) -> float:
        """Seconds since the simulation began."""
        return self.now_s

    def select(self, timeout: float | None) -> list[object]:
        """Asked by the loop for ready files, with how long it may wait."""
        if timeout is None:
            raise NothingWillHappen(f"at {self.now_s:.3f} s everybody waits for something that will not come")
        if timeout > 0:
            self.now_s += timeout
        return []

    def run_in_executor(self, executor: Executor | None, func: Callable[..., _T], *args: object) -> asyncio.Future[_T]:
        """There is no other thread: it is done next."""

        async def done() -> _T:
            return func(*args)

        return self.create_task(done())

    def _process_events(self, event_list: list[object]) -> None:
        assert not event_list, "no file is ever ready"

    def _write_to_self(self) -> None:
        """There is no other thread that could wake the loop."""


class Timed(Protocol):
    """What knows how late it is, in seconds since the simulation began."""

    now_s: float


class Clock:
    """The hub's clock (`synapse.hub.clock.Clock`), and what an observer must know about lost time.

    excused_ms: how long, all in all, the hub was at most down, stopped, read-only or stuck in a commit: no lease has to
    end in such a time. frozen_ms: how long its lease clock must at least have stood still for one of these reasons,
    read-only times when they are over. read_only_from_ms: when the one that lasts began.
    """

    def __init__(self, loop: Timed) -> None:
        self.excused_ms = 0
        self._frozen: list[tuple[int, int]] = [(0, 0)]
        self.read_only_from_ms: int | None = None
        self._loop = loop
        self._offset_ms = 0
        self._offsets: list[tuple[int, int]] = [(0, 0)]

    @property
    def frozen_ms(self) -> int:
        """How long, all in all, the lease clock must have stood still until now."""
        return self._frozen[-1][1]

    @frozen_ms.setter
    def frozen_ms(self, total_ms: int) -> None:
        self._frozen.append((self.now_ms, total_ms))

    def frozen_by_ms(self, at_ms: int) -> int:
        """The same, until then: what stands still while a commit is under way is no reason of what it holds."""
        return self._frozen[bisect_right(self._frozen, at_ms, key=lambda entry: entry[0]) - 1][1]

    @property
    def now_ms(self) -> int:
        """Milliseconds since the simulation began."""
        return int(self._loop.now_s * 1000)

    @property
    def frozen_ms_most(self) -> int:
        """How long the lease clock may have stood still until now."""
        began_ms = self.read_only_from_ms
        return self.frozen_ms + (0 if began_ms is None else self.now_ms - began_ms)

    def monotonic_ms(self) -> int:
        """The same, for the hub."""
        return int(self._loop.now_s * 1000)

    def wall_ms(self) -> int:
        """Unix time in milliseconds; jumps."""
        return START_AT_MS + self._offset_ms + int(self._loop.now_s * 1000)

    def set_wall(self, offset_ms: int) -> None:
        """The wall clock is wrong by this much from here on."""
        self._offset_ms = offset_ms
        self._offsets.append((self.now_ms, offset_ms))

    def wall_range_ms(self, since_ms: int) -> tuple[int, int]:
        """The least and the most that the wall clock may have shown between then and now."""
        offsets = [self._offset_ms]
        for from_ms, offset_ms in reversed(self._offsets):
            offsets.append(offset_ms)
            if from_ms <= since_ms:
                break
        return START_AT_MS + min(offsets) + since_ms, START_AT_MS + max(offsets) + self.now_ms
