"""Reading the journal: a read-only connection whose every row is checked against the chain before it is handed out.

A row that does not match is never served; it raises `JournalRefused` with text `journal_broken` and its seq. Each call
is a short read transaction of its own, so a reader never keeps the WAL from being checkpointed.
"""

import sqlite3
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from heapq import merge
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from synapse.core.events import LEASES, Row, keys_of
from synapse.core.retention import allows_hole
from synapse.core.retention_events import COMPACTIONS, JournalCompacted
from synapse.journal.base import read_base, require_base, taken_from
from synapse.journal.chain import genesis, may_follow
from synapse.journal.connection import READ_ERRORS, damaged, failure, open_read_only
from synapse.journal.evidence import (
    SELECT_EVENTS,
    Identity,
    Line,
    check_line,
    read_identity,
    require_database,
    require_some_bytes,
)
from synapse.journal.files import Files
from synapse.journal.interface import ROW_BYTES
from synapse.journal.tail import Tail, indexed, lines_of
from synapse.journal.tasks import IS_OF_A_TASK, first_of_block, is_task_key, last_of_block, tasks_indexed
from synapse.journal.upcast import decode

_CHUNK_MIN = 16
_TOUCHES_UP = "SELECT seq FROM touches WHERE key = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
_TOUCHES_DOWN = "SELECT seq FROM touches WHERE key = ? AND seq > ? AND seq < ? ORDER BY seq DESC LIMIT ?"
_SEQS_PER_QUERY = 500
_ROWS_PER_LOOK = 1024
_LOOKS_MAX = 16
SEQ_MAX = (1 << 63) - 1
_LAST = "SELECT seq FROM events WHERE seq > ? AND seq <= ? ORDER BY seq DESC LIMIT 1"
_STEP_BACK = "SELECT min(seq), max(seq) FROM (SELECT seq FROM events WHERE seq < ? ORDER BY seq DESC LIMIT ?)"

_SELECT_WITH_PREV = SELECT_EVENTS.replace(
    " FROM", ", (SELECT p.hash FROM events p WHERE p.seq < events.seq ORDER BY p.seq DESC LIMIT 1) FROM"
)


_LAST_COMPACTION = f"SELECT seq FROM touches WHERE key = '{COMPACTIONS}' ORDER BY seq DESC LIMIT 1"  # noqa: S608 - our own text


def _touches(row: Row, keys: Sequence[str]) -> bool:
    """One whose body was dropped touches nothing any more."""
    return bool(row.body) and (row.key in keys or not set(keys).isdisjoint(keys_of(row.seq, decode(row))))


# Task events in a block, or behind the last one that is indexed. ?1 is the key: one task's, or `leases` for all.
_OF_TASK = f"(key = ?1 OR (?1 = '{LEASES}' AND {IS_OF_A_TASK})) AND body IS NOT NULL"
_TASK_EVENTS_UP = f"SELECT seq FROM events WHERE {_OF_TASK} AND seq > ?2 AND seq <= ?3 ORDER BY seq LIMIT ?4"  # noqa: S608 - our own text
_TASK_EVENTS_DOWN = f"SELECT seq FROM events WHERE {_OF_TASK} AND seq > ?2 AND seq < ?3 ORDER BY seq DESC LIMIT ?4"  # noqa: S608 - as above


class JournalReader:
    """The reading side of a journal on disk. Usable from one thread at a time, also while a hub appends.

    trusts_index: rows are proved by their hashes, the index is not, and where it lost a line a page would lack an
    event. A hub leaves it False until the index was proved (`verify_older`): pages then come from the rows themselves,
    as far as 16 384 of them reach.
    tail: what hands out the lines that the index does not have yet, where the process that appends is this one; else
    they are taken from the rows.
    Every method raises `JournalRefused` for a row or page that is broken and `StoreFailed` when reading fails.
    """

    def __init__(self, home: Path) -> None:
        """Open the journal of `home`. Raises as the methods do, and `JournalRefused` when there is no journal."""
        self._begin(Files(home))

    @classmethod
    def of_file(cls, path: Path) -> "JournalReader":
        """Open a single database file, such as a backup."""
        reader = cls.__new__(cls)
        reader._begin(Files(path.parent, path.name, is_backup=True))
        return reader

    def _begin(self, files: Files) -> None:
        self.trusts_index = True
        self.read_bytes = 0
        self.tail: Callable[[], Tail] | None = None
        self._kept = Tail(SEQ_MAX), SEQ_MAX  # from the rows up to there
        self._compaction: JournalCompacted | None = None
        self._files = files
        require_database(files)
        require_some_bytes(files)
        try:
            with ExitStack() as undo:
                self._connection = open_read_only(files.database)
                undo.callback(self._connection.close)
                self.identity: Identity = read_identity(files, self._connection)
                undo.pop_all()
        except READ_ERRORS as error:
            raise failure(error, files) from error
        self._genesis = genesis(self.identity.hub_id, self.identity.base)

    @property
    def files(self) -> Files:
        """Where it reads."""
        return self._files

    @property
    def path(self) -> Path:
        """The database file."""
        return self._files.database

    def tip(self) -> tuple[int, bytes]:
        """Seq and chain hash of the last durable event; base and genesis when there is none."""
        found = self._all("SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1")
        return (found[0][0], found[0][1]) if found else (self.identity.base, self._genesis)

    def hash_at(self, seq: int) -> bytes | None:
        """The chain hash stored at `seq`; the genesis at the base; None when there is no such event."""
        if seq == self.identity.base:
            return self._genesis
        found: list[tuple[bytes]] = self._all("SELECT hash FROM events WHERE seq = ?", seq)
        return found[0][0] if found else None

    def count_after(self, seq: int) -> int:
        """How many events there are after `seq`."""
        found: list[tuple[int]] = self._all("SELECT count(*) FROM events WHERE seq > ?", seq)
        return found[0][0]

    def compaction(self) -> JournalCompacted | None:
        """The last compaction, or None before the first."""
        found = self._all(_LAST_COMPACTION)
        if not found:
            return None
        for row in self._touching((COMPACTIONS,), [found[0][0]]):
            event = decode(row)
            assert isinstance(event, JournalCompacted), "nothing else is under that key"
            return event
        raise damaged(self._files, f"compaction {found[0][0]} has no body", seq=found[0][0])

    def base(self, compaction: JournalCompacted) -> bytes:
        """The base of a compaction, from where this database keeps it. Raises also `JournalRefused` when it is missing
        or not the one."""
        try:
            data = taken_from(self._connection)
        except READ_ERRORS as error:
            raise failure(error, self._files) from error
        if data is None:
            return read_base(self._files, compaction)
        return require_base(self._files, compaction, data)

    def row(self, seq: int) -> Row | None:
        """The row at `seq`, or None when there is none."""
        return next(self._fetch([seq]), None)

    def rows(self, first: int, last: int) -> list[Row]:
        """All rows from `first` to `last`, both included; the caller bounds the distance."""
        return self.scan(first - 1, last, -1)

    def scan(self, after: int, upto: int, limit: int) -> list[Row]:
        """The first `limit` rows (-1: all) with after < seq ≤ upto, checked for holes too."""
        return [row for row, _ in self.checked(after, upto, limit)]

    def checked(self, after: int, upto: int, limit: int) -> list[tuple[Row, Line]]:
        """As `scan`, each row with its line in the database, to copy it as it is."""
        before = self._all("SELECT seq, hash FROM events WHERE seq <= ? ORDER BY seq DESC LIMIT 1", after)
        last, prev = before[0] if before else (self.identity.base, self._genesis)
        lines: list[Line] = self._all(
            f"{SELECT_EVENTS} WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?", after, upto, limit
        )
        files = self._files
        found: list[tuple[Row, Line]] = []
        # A damaged tree may lead behind `after` or before it: what lies between would be left out, or come twice.
        if before and last > after:
            raise damaged(files, f"event {last} stands before {after + 1}", seq=after + 1)
        for line in lines:
            row = self._checked(line, prev)
            if row.seq <= after or not may_follow(row.seq, row.type, last):
                raise damaged(files, f"after event {last} comes {row.seq}", seq=last + 1)
            last, prev = row.seq, line[8]
            found.append((row, line))
        if len(found) < limit or limit < 0:
            self._require_none(last, upto)
        return found

    def page(self, keys: Sequence[str], after: int, upto: int, limit: int, bytes_max: int | None = None) -> list[Row]:
        """The first `limit` rows with after < seq ≤ upto that touch one of `keys`; ascending, each once. None behind
        the one with which their bodies come to more than `bytes_max`, unless all rows are looked through.

        Costs about `limit` index steps and rows, however long the journal is.
        """
        found: list[Row] = []
        for _ in range(0 if self.trusts_index else _LOOKS_MAX):
            rows = self.scan(after, upto, _ROWS_PER_LOOK)
            found += [row for row in rows if _touches(row, keys)]
            after = rows[-1].seq if rows else after
            if len(rows) < _ROWS_PER_LOOK or len(found) >= limit:
                return found[:limit]
        limit -= len(found)
        chunk = max(_CHUNK_MIN, limit // max(len(keys), 1))
        tail = self._tail(upto)
        seqs = merge(*(self._seqs_up(tail, key, after, upto, chunk) for key in set(keys)))
        return found + self._touching(keys, [seq for seq, _ in islice(groupby(seqs), limit)], bytes_max)

    def page_back(self, keys: Sequence[str], before: int, limit: int, bytes_max: int | None = None) -> list[Row]:
        """The last `limit` rows with seq < before that touch one of `keys`; ascending, each once. None before the one
        with which their bodies come to more than `bytes_max`, unless all rows are looked through."""
        found: list[Row] = []
        for _ in range(0 if self.trusts_index else _LOOKS_MAX):
            first, last = self._all(_STEP_BACK, before, _ROWS_PER_LOOK)[0]
            rows = [] if first is None else self.scan(first - 1, last, -1)
            found = [row for row in rows if _touches(row, keys)] + found
            self._require_none(rows[-1].seq if rows else self.identity.base, before - 1)
            if len(rows) < _ROWS_PER_LOOK or len(found) >= limit:
                return found[max(len(found) - limit, 0) :]
            before = first
        limit -= len(found)
        chunk = max(_CHUNK_MIN, limit // max(len(keys), 1))
        tail = self._tail(before - 1)
        seqs = merge(*(self._seqs_down(tail, key, before, chunk) for key in set(keys)), reverse=True)
        return self._touching(keys, [seq for seq, _ in islice(groupby(seqs), limit)], bytes_max)[::-1] + found

    def touches(self, after: tuple[str, int], upto: int, limit: int) -> list[tuple[str, int]]:
        """The next `limit` lines of the index behind `after`, of events up to `upto`; to verify the index with."""
        return self._all(
            "SELECT key, seq FROM touches WHERE (key, seq) > (?, ?) AND seq <= ? ORDER BY key, seq LIMIT ?",
            *after,
            upto,
            limit,
        )

    def damage(self) -> str | None:
        """What SQLite's own check of the file's structure finds first, or None. Reads the whole file."""
        found: list[tuple[str]] = self._all("PRAGMA quick_check(1)")
        return None if found == [("ok",)] else found[0][0]

    def copy_to(self, target: sqlite3.Connection) -> None:
        """Copy the whole database as of now, with what is still in the WAL. Raises sqlite3.Error of the target."""
        self._connection.backup(target)

    def close(self) -> None:
        """Close the connection. It may be called again."""
        self._connection.close()

    def indexed(self) -> int:
        """Up to which seq every event has its lines in the index, but those about leases."""
        try:
            found = indexed(self._connection)
        except READ_ERRORS as error:
            raise failure(error, self._files) from error
        return SEQ_MAX if found is None else found

    def tail_on_disk(self, upto: int) -> Tail | None:
        """The lines that the index does not have, of the events up to `upto`; None when every event has its lines."""
        at = self.indexed()
        if at == SEQ_MAX:
            return None
        tail, last = self._kept
        if tail.indexed != at:
            tail, last = Tail(at), at
        while last < upto and (rows := self.scan(last, upto, _ROWS_PER_LOOK)):
            whole = [row for row in rows if row.body]
            tail.add(lines_of(row._replace(also=keys_of(row.seq, decode(row))[1:]) for row in whole))
            last = rows[-1].seq
            self._kept = tail, last
        return tail

    def _tail(self, upto: int) -> Tail:
        """To be asked for before the index is: a line that moves there meanwhile is in both then."""
        if self.tail is not None:
            return self.tail()
        tail = self.tail_on_disk(upto)
        return Tail(SEQ_MAX) if tail is None else tail

    def tasks_indexed(self) -> int:
        """Up to which seq events about leases have their lines in the index."""
        try:
            return tasks_indexed(self._connection, self.identity.base)
        except READ_ERRORS as error:
            raise failure(error, self._files) from error

    def _require_none(self, after: int, upto: int) -> None:
        """Raises `JournalRefused` when there are events where a walk through all of them found the end."""
        if found := self._all(_LAST, after, upto):
            raise damaged(self._files, f"the events up to {found[0][0]} are not where they should be", seq=after + 1)

    def _seqs_up(self, tail: Tail, key: str, after: int, upto: int, chunk: int) -> Iterator[int]:
        if not is_task_key(key):
            yield from self._walk_up(_TOUCHES_UP, key, after, min(upto, tail.indexed), chunk)
            yield from tail.of(key, after, upto + 1)
            return
        indexed = self.tasks_indexed()
        before = first_of_block(after + 1) - 1  # a line there stands for what is behind `after` too
        for line in self._walk_up(_TOUCHES_UP, key, before, min(upto, indexed), chunk):
            end = min(last_of_block(line), upto, indexed)
            if end > after:
                yield from self._walk_up(_TASK_EVENTS_UP, key, max(after, line - 1), end, chunk)
                after = end
        yield from self._walk_up(_TASK_EVENTS_UP, key, max(after, indexed), upto, chunk)

    def _walk_up(self, query: str, key: str, after: int, upto: int, chunk: int) -> Iterator[int]:
        while found := self._all(query, key, after, upto, chunk):
            for (seq,) in found:
                yield seq
            if len(found) < chunk:
                return
            after = found[-1][0]

    def _seqs_down(self, tail: Tail, key: str, before: int, chunk: int) -> Iterator[int]:
        if not is_task_key(key):
            yield from reversed(tail.of(key, 0, before))
            yield from self._walk_down(_TOUCHES_DOWN, key, 0, min(before, tail.indexed + 1), chunk)
            return
        indexed = self.tasks_indexed()
        yield from self._walk_down(_TASK_EVENTS_DOWN, key, indexed, before, chunk)
        before = min(before, indexed + 1)
        for line in self._walk_down(_TOUCHES_DOWN, key, 0, before, chunk):
            start = first_of_block(line)
            if start < before:
                end = min(before, last_of_block(line) + 1)
                yield from self._walk_down(_TASK_EVENTS_DOWN, key, start - 1, end, chunk)
                before = start

    def _walk_down(self, query: str, key: str, after: int, before: int, chunk: int) -> Iterator[int]:
        while found := self._all(query, key, after, before, chunk):
            for (seq,) in found:
                yield seq
            if len(found) < chunk:
                return
            before = found[-1][0]

    def _touching(self, keys: Sequence[str], seqs: list[int], bytes_max: int | None = None) -> list[Row]:
        """The rows at `seqs`, up to the one with which their bodies come to more than `bytes_max`. Each must exist and
        touch one of `keys`: the index is not hashed, rows are. One that was dropped since the index was asked is left
        out."""
        found: list[Row] = []
        size = 0
        with closing(self._fetch(seqs)) as rows:
            for seq in seqs:
                row = next(rows, None)
                if row is None:
                    raise damaged(self._files, "the index names an event that is not there")
                if row.seq != seq or (row.body and not _touches(row, keys)):
                    raise damaged(self._files, f"the index names event {seq} under a wrong key", seq=seq)
                if row.body:
                    found.append(row)
                size += len(row.body)
                if bytes_max is not None and size > bytes_max:
                    break
        return found

    def _checked(self, line: Line, prev: bytes) -> Row:
        """The row of a line that follows from `prev`. Raises `JournalRefused` also for one whose body is gone without a
        compaction that allows it."""
        row = check_line(self._files, line, prev)
        self.read_bytes += ROW_BYTES + len(row.body)
        if not row.body and not (self._allows(row) or (self._look_again() and self._allows(row))):
            raise damaged(self._files, f"event {row.seq} has no body, and no compaction allows that", seq=row.seq)
        return row

    def _allows(self, row: Row) -> bool:
        known = self._compaction
        return known is not None and allows_hole(known, row)

    def _look_again(self) -> bool:
        before, self._compaction = self._compaction, self.compaction()
        return self._compaction != before

    def _fetch(self, seqs: list[int]) -> Generator[Row, None, None]:
        """The checked rows at `seqs`, which go up or down; those that do not exist are left out. What is not asked for
        is not read: close it."""
        order = "DESC" if seqs and seqs[0] > seqs[-1] else "ASC"
        for start in range(0, len(seqs), _SEQS_PER_QUERY):
            part = seqs[start : start + _SEQS_PER_QUERY]
            marks = ",".join("?" * len(part))
            query = f"{_SELECT_WITH_PREV} WHERE seq IN ({marks}) ORDER BY seq {order}"
            try:
                with closing(self._connection.execute(query, part)) as lines:
                    for *line, prev in lines:
                        yield self._checked(tuple(line), prev or self._genesis)
            except READ_ERRORS as error:
                raise failure(error, self._files) from error

    def _all(self, query: str, *values: str | int) -> list[Any]:
        """All lines of the answer, as SQLite types them: the callers name the shape."""
        try:
            return self._connection.execute(query, values).fetchall()
        except READ_ERRORS as error:
            raise failure(error, self._files) from error
