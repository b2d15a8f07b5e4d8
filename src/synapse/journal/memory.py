"""The journal in memory: the same interface and the same chain, nothing on disk. For tests and `synapse.testing`."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from synapse.core.events import Row, keys_of
from synapse.core.retention_events import COMPACTIONS, JournalCompacted
from synapse.journal.chain import genesis, link, may_follow
from synapse.journal.create import base_at
from synapse.journal.dropping import ROWS_PER_STEP, Dropped, Rule
from synapse.journal.interface import ROW_BYTES
from synapse.journal.upcast import decode


class MemoryJournal:
    """Both sides of a journal, `Log` and `Pages`, in one object. Its ids are given, so runs can be repeated."""

    def __init__(self, *, at_ms: int = 0, hub_id: str = "0" * 16, journal_id: str = "1" * 16) -> None:
        self.hub_id = hub_id
        self.journal_id = journal_id
        self.base = base_at(at_ms)
        self.is_new = True
        self.is_read_only = False
        self.read_bytes = 0
        self._genesis = genesis(hub_id, self.base)
        self._seqs: list[int] = []
        self._rows: list[Row] = []
        self._hashes: list[bytes] = []
        self._touches: dict[str, list[int]] = {}

    @property
    def head(self) -> int:
        """The seq of the last event; the base when there is none."""
        return self._seqs[-1] if self._seqs else self.base

    @property
    def head_hash(self) -> bytes:
        """The chain hash at the head."""
        return self._hashes[-1] if self._hashes else self._genesis

    def append(self, rows: Sequence[Row]) -> None:
        """Append the rows, all or none. They follow each other without a hole (AssertionError otherwise)."""
        last, prev, hashes = self.head, self.head_hash, []
        for row in rows:
            assert may_follow(row.seq, row.type, last), f"event {row.seq} cannot follow {last}"
            prev = link(prev, row)
            hashes.append(prev)
            last = row.seq
        self._hashes += hashes
        for row in rows:
            self._seqs.append(row.seq)
            self._rows.append(row._replace(also=()))
            for key in {row.key, *row.also}:
                self._touches.setdefault(key, []).append(row.seq)

    def drop(self, rule: Rule, after: int) -> Dropped:
        """Drop the bodies of some rows behind `after`."""
        rows = self.scan(after, rule.upto, ROWS_PER_STEP)
        gone = [row for row in rows if row.body and rule.may_drop(row.seq, row.type, row.key) and rule.drops(row)]
        for row in gone:
            for key in keys_of(row.seq, decode(row)):
                self._touches[key].remove(row.seq)

            self._rows[bisect_left(self._seqs, row.seq)] = row._replace(body=b"")
        seq = rows[-1].seq if len(rows) == ROWS_PER_STEP else rule.upto
        return Dropped(seq, len(gone), sum(len(row.body) for row in gone))

    def end_drop(self, compaction: JournalCompacted) -> None:
        """There are no files that could go."""

    def maintain(self) -> None:
        """Nothing is ever due."""

    def give_up_reserve(self) -> bool:
        """There is no reserve to free."""
        self.is_read_only = True
        return False

    def try_restore_reserve(self) -> bool:
        """There is always room."""
        self.is_read_only = False
        return True

    @property
    def engine(self) -> str:
        """No database."""
        return "memory"

    def size_bytes(self) -> int:
        """The bytes of all bodies."""
        return sum(len(row.body) for row in self._rows)

    def close(self) -> None:
        """Nothing is held."""

    def tip(self) -> tuple[int, bytes]:
        """Seq and chain hash of the last event; base and genesis when there is none."""
        return self.head, self.head_hash

    def hash_at(self, seq: int) -> bytes | None:
        """The chain hash at `seq`; the genesis at the base; None when there is no such event."""
        if seq == self.base:
            return self._genesis
        at = bisect_left(self._seqs, seq)
        return self._hashes[at] if self._seqs[at : at + 1] == [seq] else None

    def compaction(self) -> JournalCompacted | None:
        """The last compaction, or None before the first."""
        found = self._touches.get(COMPACTIONS)
        event = decode(self._at(found[-1])) if found else None
        assert event is None or isinstance(event, JournalCompacted)
        return event

    def row(self, seq: int) -> Row | None:
        """The row at `seq`, or None when there is none."""
        found = self.rows(seq, seq)
        return found[0] if found else None

    def rows(self, first: int, last: int) -> list[Row]:
        """All rows from `first` to `last`, both included."""
        return self._read(self._rows[bisect_left(self._seqs, first) : bisect_right(self._seqs, last)])

    def scan(self, after: int, upto: int, limit: int) -> list[Row]:
        """The first `limit` rows with after < seq ≤ upto."""
        first = bisect_right(self._seqs, after)
        return self._read(self._rows[first : min(bisect_right(self._seqs, upto), first + limit)])

    def page(self, keys: Sequence[str], after: int, upto: int, limit: int, bytes_max: int | None = None) -> list[Row]:
        """The first `limit` rows with after < seq ≤ upto that touch one of `keys`; ascending, each once. None behind
        the one with which their bodies come to more than `bytes_max`."""
        found = [self._at(seq) for seq in self._touching(keys) if after < seq <= upto][:limit]
        return self._read(upto_bytes(found, bytes_max))

    def page_back(self, keys: Sequence[str], before: int, limit: int, bytes_max: int | None = None) -> list[Row]:
        """The last `limit` rows with seq < before that touch one of `keys`; ascending, each once. None before the one
        with which their bodies come to more than `bytes_max`."""
        found = [self._at(seq) for seq in self._touching(keys) if seq < before][::-1][:limit]
        return self._read(upto_bytes(found, bytes_max)[::-1])

    def _read(self, rows: list[Row]) -> list[Row]:
        self.read_bytes += sum(ROW_BYTES + len(row.body) for row in rows)
        return rows

    def _touching(self, keys: Sequence[str]) -> list[int]:
        return sorted({seq for key in keys for seq in self._touches.get(key, ())})

    def _at(self, seq: int) -> Row:
        return self._rows[bisect_left(self._seqs, seq)]


def upto_bytes(rows: list[Row], bytes_max: int | None) -> list[Row]:
    """The rows up to the one with which their bodies come to more than `bytes_max`."""
    size = 0
    for count, row in enumerate(rows, 1):
        size += len(row.body)
        if bytes_max is not None and size > bytes_max:
            return rows[:count]
    return rows
