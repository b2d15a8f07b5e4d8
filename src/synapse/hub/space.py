"""The way out of a full disk: the reserve is written again, and the hub takes writes again."""

from typing import TYPE_CHECKING, Final

from synapse.core.events import JournalWritable
from synapse.errors import JournalError
from synapse.hub.threads import Worker
from synapse.journal.reserve import WRITABLE_AGAIN_BYTES

if TYPE_CHECKING:
    from synapse.hub.turn import Turns


SPACE_NEEDED: Final = f"{WRITABLE_AGAIN_BYTES >> 20} MiB must be free"


class Space:
    """What a read-only hub does about it. since_ms: of the monotonic clock, when it last became read-only."""

    def __init__(self, turns: "Turns", writer: Worker) -> None:
        self._turns = turns
        self._writer = writer
        self._is_trying = False
        self.since_ms = turns.clock.monotonic_ms()

    def ran_out(self) -> None:
        """The disk is full: from here on the hub answers reads."""
        self._turns.is_read_only = True
        self.since_ms = self._turns.clock.monotonic_ms()

    @property
    def passed_ms(self) -> int:
        """For how long the hub has been read-only."""
        return self._turns.clock.monotonic_ms() - self.since_ms

    def try_again(self) -> None:
        """While read-only: write the reserve again; when that works, take writes again."""
        turns = self._turns
        if not turns.is_read_only or self._is_trying or turns.is_committing:
            return
        self._is_trying = True

        def done(has_space: bool | None, error: JournalError | None) -> None:
            self._is_trying = False
            if error is not None:
                turns.on_broken(error)
            elif has_space:
                turns.put(None, self._turn_writable)

        self._writer.submit(turns.log.try_restore_reserve, done)

    def _turn_writable(self) -> None:
        turns = self._turns
        turns.is_read_only = False
        turns.record([JournalWritable(read_only_ms=self.passed_ms)], "hub")
        turns.arrived(turns.waiting.inboxes())
        turns.leasing.on_writable()
