"""The journal behind the loop: one thread that writes it, one that reads it, each one job at a time."""

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Final, Protocol, TypeAlias, TypeVar

from synapse.core.events import Row
from synapse.errors import DiskFull, JournalError, Rejected, StoreFailed
from synapse.journal.compaction import Plan
from synapse.journal.interface import Log, Pages
from synapse.protocol.replies import JournalBackedUp, JournalVerified

_Result = TypeVar("_Result")
Done: TypeAlias = Callable[[_Result | None, JournalError | None], None]
"""Called on the loop with the result, or with the error that came instead."""


ENDING: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Signals that ask the hub to end. They are the main thread's: while it stops heeding them, one that another thread may
have would end the process by its default."""


def start_thread(name: str, work: Callable[[], None]) -> Thread:
    """A thread of the hub, which does not keep its process alive."""

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        work()

    thread = Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


class Worker(Protocol):
    """Something that runs jobs in order and hands each result back to the loop."""

    def submit(self, job: Callable[[], _Result], done: Done[_Result]) -> None:
        """Run `job` elsewhere, then `done` on the loop."""
        ...

    def stop(self) -> None:
        """Finish the jobs at hand."""
        ...


class Keeper(Protocol):
    """The operator's slow work on the journal's files, done in a process of its own."""

    def verify(self, done: Callable[[JournalVerified | Rejected], None]) -> None:
        """Prove the whole journal."""
        ...

    def compact(
        self, keep: Mapping[str, int], at_ms: int, done: Callable[[Plan | Rejected], None], *, dry_run: bool
    ) -> None:
        """Plan a compaction, and write its base."""
        ...

    @property
    def is_verifying(self) -> bool:
        """True while the whole journal is being proved."""
        ...

    def back_up(self, path: str, done: Callable[[JournalBackedUp | Rejected], None]) -> None:
        """Copy the journal."""
        ...


class ThreadWorker:
    """A worker with a thread of its own. crash: called on the loop when a job raises anything but a `JournalError`."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, crash: Callable[[BaseException], None]) -> None:
        self._loop = loop
        self._crash = crash
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = start_thread(name, self._run)

    def submit(self, job: Callable[[], _Result], done: Done[_Result]) -> None:
        """Run `job` on the thread, then `done` on the loop."""

        def run() -> None:
            result: _Result | None = None
            error: JournalError | None = None
            try:
                result = job()
            except JournalError as caught:
                error = caught
            self._loop.call_soon_threadsafe(done, result, error)

        self._jobs.put(run)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as bug:  # noqa: BLE001 - the thread's outermost boundary: our bug, the hub crashes
                self._loop.call_soon_threadsafe(self._crash, bug)
                return

    def stop(self) -> None:
        """Finish the jobs at hand and end the thread."""
        self._jobs.put(None)
        self._thread.join(timeout=10)


class InlineWorker:
    """A worker without a thread, for journals in memory: the job runs at once, its result comes in the next step."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def submit(self, job: Callable[[], _Result], done: Done[_Result]) -> None:
        """Run `job` now, then `done` on the loop."""
        result: _Result | None = None
        error: JournalError | None = None
        try:
            result = job()
        except JournalError as caught:
            error = caught
        self._loop.call_soon(done, result, error)

    def stop(self) -> None:
        """Nothing is ever at hand."""


@dataclass(slots=True, frozen=True)
class Store:
    """The journal as the turn reaches it. keeper: None where there are no files to verify or copy."""

    log: Log
    pages: Pages
    writer: Worker
    reader: Worker
    keeper: Keeper | None


def commit(log: Log, rows: Sequence[Row]) -> bool:
    """Make one turn durable. True when the disk is full and the reserve was given up for this turn.

    Raises `StoreFailed` when the outcome is unknown, and when the turn does not even fit into the reserve.
    """
    try:
        log.append(rows)
    except DiskFull:
        log.give_up_reserve()
        try:
            log.append(rows)
        except DiskFull as error:
            raise StoreFailed(f"{error}, and the reserve is spent; make room and start again") from error
        return True
    return False
