"""Answers from the reader thread: one at a time for each connection, and never before their turn is durable."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from synapse.errors import JournalError, JournalRefused, Rejected
from synapse.hub.connection import Connection
from synapse.hub.threads import Worker
from synapse.protocol.codec import RequestId
from synapse.protocol.replies import Reply

if TYPE_CHECKING:
    from synapse.hub.turn import Turns

_Result = TypeVar("_Result")


class Disk:
    """What one `Turns` reads."""

    def __init__(self, turns: "Turns", reader: Worker) -> None:
        self._turns = turns
        self._reader = reader

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
            self._reader.submit(run, done)

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
            self._reader.submit(job, back)

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


def _unreadable(error: JournalError) -> Rejected:
    """What a peer is told when a stored row is not served."""
    seq = error.seq if isinstance(error, JournalRefused) else None
    return Rejected("journal_broken", str(error), {"seq": seq})
