"""The journal on disk: one SQLite file, one writer, one transaction per turn.

Synchronous on purpose: the hub drives it from its one writer thread. It may be opened in one thread and used in
another, but never by two at a time.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from synapse.core.events import LEASES, Row
from synapse.core.retention_events import JournalCompacted
from synapse.errors import DiskFull, JournalError, StoreFailed
from synapse.journal.base import keep_only
from synapse.journal.chain import link, may_follow
from synapse.journal.connection import (
    CHECKPOINT_PAGES,
    READ_ERRORS,
    damaged,
    failure,
    is_busy,
    is_full,
    open_read_only,
    open_writer,
)
from synapse.journal.create import create_journal
from synapse.journal.dropping import Dropped, Rule, drop_some
from synapse.journal.evidence import Evidence, examine
from synapse.journal.files import (
    ROOM_BYTES_MIN,
    Files,
    has_room,
    make_home,
    require_room,
    require_writable,
    sync_directory,
)
from synapse.journal.lock import HomeLock
from synapse.journal.mark import MarkFile
from synapse.journal.reader import JournalReader
from synapse.journal.reserve import RESERVE_BYTES, Reserve
from synapse.journal.tail import Lines, Tail, lines_of, say_indexed
from synapse.journal.tasks import EVENTS_PER_INDEXING, index_tasks, tasks_indexed

INSERT_EVENT = "INSERT INTO events (seq, type, version, at_ms, actor, key, body, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"

# Many rows in one statement: each statement lets go of the interpreter's lock and has to win it back from the loop.
_INSERTS = {rows: INSERT_EVENT + ", (?, ?, ?, ?, ?, ?, ?, ?)" * (rows - 1) for rows in (64, 8, 1)}
_COLUMNS = 8

# What a commit writes to the WAL, estimated: inner pages and the rows themselves; a leaf of the index for each key of
# the lines that go with it.
_PAGES_PER_COMMIT = 3
_ROWS_PER_PAGE = 5


class Journal:
    """An open journal. Holds the lock of its home until `close()`."""

    __slots__ = (
        "_connection",
        "_files",
        "_has_failed",
        "_lock",
        "_mark",
        "_pages_waiting",
        "_reserve",
        "_says_indexed",
        "_tasks_indexed",
        "_tasks_waiting",
        "base",
        "head",
        "head_hash",
        "hub_id",
        "is_new",
        "is_read_only",
        "journal_id",
        "tail",
    )

    def __init__(
        self,
        files: Files,
        lock: HomeLock,
        reserve: Reserve,
        evidence: Evidence,
        tail: Tail | None,
        *,
        is_read_only: bool,
    ) -> None:
        """For `open`. tail: None when every event has its lines. Raises sqlite3.Error and OSError."""
        self._files = files
        self._lock = lock
        self._reserve = reserve
        self._has_failed = False
        self._pages_waiting = 0
        self.hub_id = evidence.identity.hub_id
        self.journal_id = evidence.identity.journal_id
        self.base = evidence.identity.base
        self.head = evidence.head
        self.head_hash = evidence.head_hash
        self.is_new = evidence.head == evidence.identity.base
        self.is_read_only = is_read_only
        self.tail = Tail(self.head) if tail is None else tail
        self._says_indexed = tail is not None
        with ExitStack() as undo:
            self._connection = open_writer(files.database)
            undo.callback(self._connection.close)
            # What a killed process left in the page cache becomes durable before anyone sees it: a checkpoint
            # syncs the WAL first.
            self._checkpoint("PASSIVE")
            sync_directory(files.home)  # SQLite passes over it when the name of the WAL cannot be synced
            self._tasks_indexed = tasks_indexed(self._connection, self.base)
            self._tasks_waiting = self.head - self._tasks_indexed  # at most
            self._mark = MarkFile(files.mark, hub_id=self.hub_id, journal_id=self.journal_id)
            undo.callback(self._mark.close)
            self._mark.write(self.head, self.head_hash)
            undo.pop_all()

    @classmethod
    def open(
        cls,
        home: Path,
        *,
        at_ms: int,
        prove: Callable[[Evidence], None] | None = None,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> "Journal":
        """Lock `home` and open its journal, or make a new one without events when the home has no trace of one.

        at_ms: wall clock; the base of a new journal is `(at_ms // 1000) << 21`. On a full disk the reserve is given
        up and `is_read_only` is True. prove: called while the home is locked and before anything is opened for writing;
        what it raises refuses the start without a changed byte. Without it only both ends of the chain are checked.

        Raises `JournalLocked`, `JournalRefused` (no byte of a journal was changed), `DiskFull` when there is not even
        room to open, with the number of missing bytes, and `StoreFailed`.
        """
        home = home.absolute()
        files = Files(home)
        make_home(home)
        require_writable(files)
        reserve = Reserve(files.reserve, bytes_wanted=reserve_bytes)
        with ExitStack() as undo:
            lock = HomeLock(home)
            undo.callback(lock.close)
            try:
                with _held_index(files):
                    journal = cls._open_locked(files, lock, reserve, at_ms, prove)
            except sqlite3.Error as error:
                raise failure(error, files) from error
            except OSError as error:
                raise StoreFailed(f"{error.filename or home}: {error.strerror}; start again") from error
            undo.pop_all()
            return journal

    @classmethod
    def _open_locked(
        cls,
        files: Files,
        lock: HomeLock,
        reserve: Reserve,
        at_ms: int,
        prove: Callable[[Evidence], None] | None,
    ) -> "Journal":
        is_read_only = False
        try:
            evidence = examine(files)
        except DiskFull:
            # SQLite cannot even read a WAL database without 32 KiB for the WAL's index.
            reserve.give_up()
            require_room(files.home, ROOM_BYTES_MIN)
            is_read_only = True
            evidence = examine(files)
        if evidence is None:
            create_journal(files, reserve, at_ms=at_ms)
            evidence = examine(files)
            assert evidence is not None
        if prove is not None:
            prove(evidence)
        with closing(JournalReader(files.home)) as reader:
            tail = reader.tail_on_disk(evidence.head)
            if (tail is not None and tail.indexed > evidence.head) or reader.tasks_indexed() > evidence.head:
                raise damaged(files, "its index goes further than its events")
        if evidence.must_finish:
            files.new_mark.rename(files.mark)
            sync_directory(files.home)
        if not is_read_only:
            is_read_only = not _has_room_to_work(files, reserve)
        return cls(files, lock, reserve, evidence, tail, is_read_only=is_read_only)

    def append(self, rows: Sequence[Row]) -> None:
        """Make the rows durable in one transaction, all or none, and move the mark.

        The first row stands at `head + 1` and the others follow without a hole (AssertionError otherwise); only
        `journal.adopted` may jump ahead.

        Raises `DiskFull` when there is no room: nothing happened, the very same rows can be appended again. Raises
        `JournalLocked` when another process does not let go of the database: nothing happened either. Raises
        `StoreFailed` for anything else: the outcome is unknown and this object takes no more rows.
        """
        if self._has_failed:  # in `maintain`, with this turn already on its way
            raise StoreFailed(f"{self._files.database}: it failed before; the next start replays the truth")
        if not rows:
            return
        last, prev = self.head, self.head_hash
        events: list[int | str | bytes] = []  # the values of all rows, one behind the other
        of_tasks = 0
        for row in rows:
            seq, kind, version, at_ms, actor, key, body, also = row
            assert seq == last + 1 or may_follow(seq, kind, last), f"event {seq} cannot follow {last}"
            prev = link(prev, row)
            events += (seq, kind, version, at_ms, actor, key, body, prev)
            last = seq
            if also:
                of_tasks += LEASES in also
        connection, tail, lines = self._connection, self.tail, lines_of(rows)
        is_full, keys = tail.is_full(last, lines), 0
        try:
            connection.execute("BEGIN IMMEDIATE")
            done = 0
            for size, statement in _INSERTS.items():
                while len(events) - done >= size * _COLUMNS:
                    connection.execute(statement, events[done : done + size * _COLUMNS])
                    done += size * _COLUMNS
            if is_full:
                keys = tail.write(connection, last, lines)
            elif not self._says_indexed:
                say_indexed(connection, tail.indexed)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._not_committed(error) from error
        if is_full:
            self.tail = Tail(last)
        else:
            tail.add(lines)
        self._says_indexed = True
        self.head, self.head_hash = last, prev
        self._tasks_waiting += of_tasks
        self._pages_waiting += _PAGES_PER_COMMIT + len(rows) // _ROWS_PER_PAGE + keys
        try:
            self._mark.write(last, prev)
        except OSError as error:
            self._has_failed = True
            raise StoreFailed(f"{self._files.mark}: {error.strerror}; the next start replays the truth") from error

    def _not_committed(self, error: sqlite3.Error) -> JournalError:
        if is_full(error, self._files.home):
            try:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                return DiskFull(f"{self._files.home}: the disk is full; nothing was written")
            except sqlite3.Error as second:
                error = second
        self._has_failed = True
        if is_busy(error):
            return failure(error, self._files)
        return StoreFailed(f"{self._files.database}: {error}; the next start replays the truth")

    def maintain(self) -> None:
        """Move the WAL into the database when it has grown to about 8 MiB. Call it between turns: it may take
        milliseconds, and nobody waits for it. Raises `StoreFailed`; a full disk is left to the next `append`.
        """
        try:
            if self._tasks_waiting >= EVENTS_PER_INDEXING:
                self._index_tasks()
            if self._pages_waiting >= CHECKPOINT_PAGES:
                self._pages_waiting = 0
                self._checkpoint("PASSIVE")
        except sqlite3.Error as error:
            self._has_failed = True
            raise StoreFailed(f"{self._files.database}: {error}; the next start replays the truth") from error

    def drop(self, rule: Rule, after: int) -> Dropped:
        """Drop the bodies of some rows behind `after`, in one small transaction. Call it between turns, and `maintain`
        now and then.

        It does not wait for the disk: the next `append`, or checkpoint, makes it durable with what it writes itself,
        and when it is lost the next compaction drops them again. Raises `DiskFull` when there is no room: nothing
        happened. Raises `JournalLocked` and `StoreFailed` as `append`.
        """
        assert rule.upto <= self.tail.indexed, "the lines of a compaction, and so of what it drops, do not wait"
        connection = self._connection
        try:
            connection.execute("PRAGMA synchronous=NORMAL")
            done = drop_some(connection, rule, after, self._tasks_indexed)
        except sqlite3.Error as error:
            raise self._not_committed(error) from error
        finally:
            if not connection.in_transaction:  # else this object takes no more rows
                connection.execute("PRAGMA synchronous=FULL")
        self._pages_waiting += _PAGES_PER_COMMIT + done.rows // _ROWS_PER_PAGE + done.keys if done.rows else 0
        return done

    def end_drop(self, compaction: JournalCompacted) -> None:
        """Everything that this compaction drops is gone: the bases and snapshots of before go too. Raises
        `StoreFailed`."""
        try:
            keep_only(self._files, compaction)
        except OSError as error:
            raise StoreFailed(f"{error.filename}: {error.strerror}; start again") from error

    def _write_tail(self) -> None:
        """Write the lines that wait. Raises sqlite3.Error."""
        connection, tail = self._connection, self.tail
        connection.execute("BEGIN IMMEDIATE")
        self._pages_waiting += _PAGES_PER_COMMIT + tail.write(connection, self.head, Lines([], []))
        connection.execute("COMMIT")
        self.tail, self._says_indexed = Tail(self.head), True

    def _index_tasks(self) -> None:
        """Write the index lines of task events. Raises sqlite3.Error, except for no room."""
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            upto, lines = index_tasks(connection, self._tasks_indexed, self.head)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if not is_full(error, self._files.home):
                raise
            return
        self._pages_waiting += lines // _ROWS_PER_PAGE
        self._tasks_indexed, self._tasks_waiting = upto, self.head - upto

    def give_up_reserve(self) -> bool:
        """Free the reserve's bytes, and be read-only. False when there were none left to free. Raises `StoreFailed`."""
        self.is_read_only = True
        try:
            return self._reserve.give_up()
        except OSError as error:
            raise StoreFailed(f"{self._reserve.path}: {error.strerror}; the next start replays the truth") from error

    def try_restore_reserve(self) -> bool:
        """Write the reserve again and end `is_read_only`. False, and no byte used, when there is still no room for
        it and for work beside it. Raises `StoreFailed`.
        """
        try:
            is_restored = self._reserve.restore()
        except OSError as error:
            raise StoreFailed(f"{self._reserve.path}: {error.strerror}; the next start replays the truth") from error
        if is_restored:
            self.is_read_only = False
        return is_restored

    @property
    def engine(self) -> str:
        """SQLite with its version."""
        return f"SQLite {sqlite3.sqlite_version}"

    def size_bytes(self) -> int:
        """How much the database and its WAL take on disk, without the reserve."""
        return sum(path.stat().st_size for path in (self._files.database, self._files.wal) if path.exists())

    def close(self) -> None:
        """Complete the index and empty the WAL into the database where that is possible, and let the home go. It may be
        called again.

        Nothing is lost when that fails: the WAL stays and the next start reads it.
        """
        try:
            if not self._has_failed:
                if len(self.tail):
                    self._write_tail()
                self._checkpoint("TRUNCATE")
        except sqlite3.Error:
            pass
        finally:
            self._connection.close()  # what it had begun is undone
            self._mark.close()
            self._lock.close()

    def _checkpoint(self, kind: str) -> None:
        """Raises sqlite3.Error, except for no room and for readers in the way: then the WAL stays as it is."""
        try:
            self._connection.execute(f"PRAGMA wal_checkpoint({kind})").fetchall()
        except sqlite3.Error as error:
            if not is_full(error, self._files.home) and error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise


@contextmanager
def _held_index(files: Files) -> Iterator[None]:
    """Keep SQLite's WAL index alive from the first look at the journal until the writer is open, so that both see one
    head. A killed hub may leave a commit in the WAL that the index does not know; a child of it that still has the
    database open keeps that index, and when the child ends the next to open finds the commit. (It was never
    acknowledged: either is right, but not one after the other.)
    """
    with ExitStack() as held:
        if files.database.exists() and files.database.stat().st_size > 0:  # SQLite drops the WAL of an empty file
            with suppress(*READ_ERRORS):  # what is wrong with the file is for `examine` to say
                connection = open_read_only(files.database)
                held.callback(connection.close)
                connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        yield


def _has_room_to_work(files: Files, reserve: Reserve) -> bool:
    """True when a turn can be written. When not, the reserve is given up, because even reading needs some room.

    Raises `DiskFull` when there is no reserve left and too little room to open.
    """
    if reserve.is_whole():
        if has_room(files.home, ROOM_BYTES_MIN):
            return True
        reserve.give_up()
        return False
    if reserve.restore():
        return True
    require_room(files.home, ROOM_BYTES_MIN)
    return False
