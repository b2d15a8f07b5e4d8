"""What the hub asks of a journal: the log that is appended to and the pages that are read.

`Journal` and `JournalReader` keep it on disk, `MemoryJournal` is both in memory.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from synapse.core.events import Row
from synapse.core.retention_events import JournalCompacted
from synapse.journal.dropping import Dropped, Rule

ROW_BYTES: Final = 256
"""What a row costs who reads it, beside its body."""


class Log(Protocol):
    """The writing side. Synchronous; one thread at a time."""

    @property
    def hub_id(self) -> str:
        """16 hex characters; stays when the journal is adopted or restored."""

    @property
    def journal_id(self) -> str:
        """16 hex characters; another one after each adoption or restore."""

    @property
    def base(self) -> int:
        """The seq before the first event."""

    @property
    def head(self) -> int:
        """The seq of the last durable event; `base` when there is none."""

    @property
    def head_hash(self) -> bytes:
        """The chain hash at `head`."""

    @property
    def is_new(self) -> bool:
        """True when the journal had no event when it was opened."""

    @property
    def is_read_only(self) -> bool:
        """True when it was opened on a full disk or gave up its reserve: write nothing more before
        `try_restore_reserve` answers True."""

    @property
    def engine(self) -> str:
        """What keeps the rows, with its version."""

    def append(self, rows: Sequence[Row]) -> None:
        """Make the rows durable in one transaction, all or none."""

    def maintain(self) -> None:
        """Do what is due between turns."""

    def drop(self, rule: Rule, after: int) -> Dropped:
        """Drop the bodies of some rows behind `after`, in one small transaction."""

    def end_drop(self, compaction: JournalCompacted) -> None:
        """Everything that this compaction drops is gone: what was kept for the one before goes too."""

    def give_up_reserve(self) -> bool:
        """Free the reserve's bytes, for the turn at hand. False when there were none left to free."""

    def try_restore_reserve(self) -> bool:
        """Write the reserve again. False when there is still no room."""

    def size_bytes(self) -> int:
        """How much the journal takes."""

    def close(self) -> None:
        """Let everything go."""


class Pages(Protocol):
    """The reading side; one thread at a time. Every row it returns was checked against the chain; one
    without a body was dropped, and a compaction allows that.

    read_bytes: of all rows that were read so far, wanted or not: their bodies, and `ROW_BYTES` for each.
    """

    read_bytes: int

    def tip(self) -> tuple[int, bytes]:
        """Seq and chain hash of the last durable event; base and genesis when there is none."""

    def hash_at(self, seq: int) -> bytes | None:
        """The chain hash at `seq`, or None when no event has that seq and it is not the base."""

    def compaction(self) -> JournalCompacted | None:
        """The last compaction, or None before the first."""

    def row(self, seq: int) -> Row | None:
        """The row at `seq`, or None."""

    def rows(self, first: int, last: int) -> list[Row]:
        """All rows from `first` to `last`, both included."""

    def scan(self, after: int, upto: int, limit: int) -> list[Row]:
        """The first `limit` rows with after < seq ≤ upto."""

    def page(self, keys: Sequence[str], after: int, upto: int, limit: int, bytes_max: int | None = None) -> list[Row]:
        """The first `limit` rows with after < seq ≤ upto that touch one of `keys`; ascending, each once. None behind
        the one with which their bodies come to more than `bytes_max`: see `is_whole`."""

    def page_back(self, keys: Sequence[str], before: int, limit: int, bytes_max: int | None = None) -> list[Row]:
        """The last `limit` rows with seq < before that touch one of `keys`; ascending, each once. None before the one
        with which their bodies come to more than `bytes_max`: see `is_whole`."""

    def close(self) -> None:
        """Let everything go."""


def is_whole(rows: Sequence[Row], limit: int, bytes_max: int) -> bool:
    """True for a page with these bounds that neither of them ended: there is nothing behind it."""
    return len(rows) < limit and sum(len(row.body) for row in rows) <= bytes_max
