"""Answers from the reader thread: one at a time for each connection, and never before their turn is durable.

A request of a few bytes may read megabytes. So each agent and each host has a second pair of buckets, as large as the
first: a token for each 8 KiB that was read for it. What is not there is owed, and the next read waits until it is
repaid; nobody is refused for it. So who pages through a long history at full speed leaves the core to others.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from synapse.errors import JournalError, JournalRefused, Rejected
from synapse.hub.buckets import Bucket, Buckets
from synapse.hub.connection import Connection
from synapse.hub.pacing import ROUND_S
from synapse.hub.peers import TOKEN_BYTES
from synapse.hub.threads import Done, Worker
from synapse.journal.interface import Pages
from synapse.protocol.codec import RequestId
from synapse.protocol.limits import Limits
from synapse.protocol.replies import Reply

if TYPE_CHECKING:
    from synapse.hub.turn import Turns

EXPECTED: Final = 8
"""Tokens that a read costs while it is under way. Then it is known."""

_Result = TypeVar("_Result")


class Disk:
    """What one `Turns` reads."""

    def __init__(self, turns: "Turns", reader: Worker, pages: Pages, limits: Limits) -> None:
        self._turns = turns
        self._reader = reader
        self._pages = pages
        self._agents = Buckets("agent", limits.rate_agent_per_s, limits.rate_agent_burst)
        self._hosts = Buckets("host", limits.rate_host_per_s, limits.rate_host_burst)
        self._waiting: deque[tuple[Connection, Callable[[], None]]] = deque()

    def defer(
        self,
        connection: Connection,
        request_id: RequestId,
        job: Callable[[], Reply],
        require_still: Callable[[], None] = lambda: None,
    ) -> None:
        """Answer from the reader thread once this turn is durable, as of now: that is the `seq` of the reply. The
        request stays in flight until then.

        require_still: called when it has been read; raises `Rejected` when the answer is true no more.
        """
        seq = self._turns.state.seq

        def start() -> None:
            connection.is_reading_disk = True
            self.submit(connection, run, done)

        def run() -> Reply | Rejected:
            try:
                return job()
            except Rejected as refusal:
                return refusal

        def done(result: Reply | Rejected | None, error: JournalError | None) -> None:
            connection.is_reading_disk = False
            try:
                require_still()
            except Rejected as refusal:
                result = refusal
            if error is not None:
                result = _unreadable(error)
            assert result is not None
            self._turns.say_later(connection, request_id, result, None if isinstance(result, Rejected) else seq)
            if error is not None:
                self._turns.on_broken(error)
                return
            self.go_on(connection)

        def enqueue() -> None:
            connection.deferred.append(start)
            self.go_on(connection)

        self._turns.after_release(enqueue)

    def go_on(self, connection: Connection) -> None:
        """Start the next answer of this connection, unless one is under way or the peer does not read."""
        if connection.deferred and not connection.is_reading_disk and not connection.is_stuck:
            connection.deferred.popleft()()

    def read(self, connection: Connection, job: Callable[[], _Result], done: Callable[[_Result], None]) -> None:
        """Read from disk once this turn is durable, then carry `done`, which answers, out inside a later turn."""

        def start() -> None:
            connection.is_reading_disk = True
            self.submit(connection, job, back)

        def back(result: _Result | None, error: JournalError | None) -> None:
            if error is not None:
                self._turns.on_broken(error)
                return
            self._turns.put(None, lambda: finish(result))  # type: ignore[arg-type]  # without an error there is one

        def finish(result: _Result) -> None:
            connection.is_reading_disk = False
            done(result)
            self._turns.after_release(lambda: self.go_on(connection))

        def enqueue() -> None:
            connection.deferred.append(start)
            self.go_on(connection)

        self._turns.after_release(enqueue)

    def submit(self, connection: Connection, job: Callable[[], _Result], done: Done[_Result]) -> None:
        """Run `job` on the reader thread as soon as the peer's agent and host owe nothing, then `done` on the loop.
        What a peer that is gone meanwhile asked for is not read, and `done` not called. While a compaction is not
        durable yet, `done` waits for it."""
        pages = self._pages

        def read() -> tuple[_Result, int]:
            before = pages.read_bytes
            return job(), pages.read_bytes - before

        def back(found: tuple[_Result, int] | None, error: JournalError | None) -> None:
            if self._turns.retention.is_saying:  # it may tell of floors that are not durable yet
                self._turns.after_release(lambda: back(found, error))
                return
            if found is None:
                done(None, error)
                return
            for bucket in self._buckets(connection):
                bucket.spend(found[1] // TOKEN_BYTES - EXPECTED)
            done(found[0], error)

        if self._may_read(connection):
            self._reader.submit(read, back)
            return
        if not self._waiting:
            asyncio.get_running_loop().call_later(ROUND_S, self._round)
        self._waiting.append((connection, lambda: self._reader.submit(read, back)))

    def sweep(self, now_ms: int) -> None:
        """Forget the buckets that are full again."""
        self._agents.sweep(now_ms, ())
        self._hosts.sweep(now_ms, ())

    def _buckets(self, connection: Connection) -> list[Bucket]:
        now_ms = self._turns.clock.monotonic_ms()
        host = self._hosts.of(connection.host, now_ms)
        return [host] if connection.agent is None else [host, self._agents.of(connection.agent, now_ms)]

    def _may_read(self, connection: Connection) -> bool:
        now_ms, buckets = self._turns.clock.monotonic_ms(), self._buckets(connection)
        if not all(bucket.has(1, now_ms) for bucket in buckets):
            return False
        for bucket in buckets:
            bucket.spend(EXPECTED)
        return True

    def _round(self) -> None:
        """Whose debt is repaid reads now, in the order in which they came."""
        waiting, self._waiting = self._waiting, deque()
        for connection, start in waiting:
            if connection.is_closed:
                continue
            if self._may_read(connection):
                start()
            else:
                self._waiting.append((connection, start))
        if self._waiting:
            asyncio.get_running_loop().call_later(ROUND_S, self._round)


def _unreadable(error: JournalError) -> Rejected:
    """What a peer is told when a stored row is not served."""
    seq = error.seq if isinstance(error, JournalRefused) else None
    return Rejected("journal_broken", str(error), {"seq": seq})
