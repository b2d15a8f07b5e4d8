"""The operator's verbs on a journal: verify, backup, restore, import, adopt. Plain functions; nothing prints or exits.

`verify` and `backup` work beside a running hub, through a read-only connection, so never from inside the hub's own
process but in one of their own. `restore`, `bring_in` and `adopt` need the home's lock. They write a new file and put
it in place; what was there is kept under `aside/`, and nothing is deleted. They take a new journal id and a seq above
everything known, so no cursor and no epoch of before can be mistaken for one of after.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from errno import EACCES, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM, EROFS
from pathlib import Path
from typing import Protocol

from synapse.core.events import JournalAdopted, Recorded, Row, to_row
from synapse.core.retention import pinned
from synapse.core.retention_events import COMPACTED, JournalCompacted
from synapse.errors import EXIT_FAILED, DiskFull, JournalError, JournalRefused, StoreFailed
from synapse.journal.base import base_state, put_into, write_base
from synapse.journal.chain import link
from synapse.journal.connection import damaged, failure, is_full
from synapse.journal.create import (
    base_at,
    build_database,
    discard_database,
    discard_new,
    new_id,
    put_in_place,
    write_new_mark,
)
from synapse.journal.evidence import Identity, examine, peek_mark, require_database
from synapse.journal.export import ExportFile
from synapse.journal.files import NO_SPACE, Files, make_home, sync_directory, sync_file, way_back, write_durably
from synapse.journal.lock import HomeLock
from synapse.journal.mark import Mark
from synapse.journal.proof import check_index, touched_by
from synapse.journal.reader import SEQ_MAX, JournalReader
from synapse.journal.snapshot import core_folding
from synapse.journal.tail import write_lines
from synapse.journal.upcast import decode
from synapse.protocol.names import clipped

_NO_FILE_THERE = frozenset({EACCES, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM, EROFS})
"""What the system says of a path at which no file can be made, whatever the disk does."""
_ROWS_PER_STEP = 1024
_COPY_LINE = (
    "INSERT INTO events (seq, type, version, at_ms, actor, key, body, body_hash, hash) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a journal proves. finding: the first thing wrong, in one line with its cure; None when all is well.

    head: the last event that proved itself. events: how many did. broken_seq: the first that did not, when known.
    """

    journal_id: str
    hub_id: str
    first_seq: int
    head: int
    events: int
    size_bytes: int
    mark_seq: int | None
    broken_seq: int | None
    finding: str | None

    @property
    def is_whole(self) -> bool:
        """True when nothing is wrong."""
        return self.finding is None


@dataclass(frozen=True, slots=True)
class BackupReport:
    """A backup: one file that proved itself after it was written."""

    path: Path
    journal_id: str
    head: int
    events: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ReplacedReport:
    """What restore or adopt put in place. head: the seq of its `journal.adopted`. aside: where the files of before are.

    dropped: how many events at the end, acknowledged or seen in the home's file, are not in the new journal; counted of
    a restore or an import where what it brings is an earlier state of what was there.
    """

    journal_id: str
    previous_id: str
    head: int
    events: int
    dropped: int
    aside: Path | None


class FileUnusable(JournalError):
    """A file that was named cannot be written, or is there already. Nothing is wrong with the journal."""

    kind = "io"
    exit_code = EXIT_FAILED


def verify(home: Path) -> VerifyReport:
    """Prove the journal of `home`: mark, both ends, every row, the index, SQLite's structure. Reads all of it.

    Raises `JournalRefused` when there is no journal that could be opened at all, `StoreFailed` when reading fails.
    """
    files = Files(home.absolute())
    finding, broken_seq = None, None
    mark = peek_mark(files)
    reader = JournalReader(files.home)
    try:
        try:
            examine(files)
        except JournalRefused as refused:
            finding, broken_seq = str(refused), refused.seq
        events, last, refused_row = _longest_prefix(reader, lambda rows: None)
        if refused_row is not None:
            finding, broken_seq = str(refused_row), refused_row.seq
        elif finding is None:
            finding = _base_finding(files, reader) or _structure_finding(reader, last)
        return VerifyReport(
            journal_id=reader.identity.journal_id,
            hub_id=reader.identity.hub_id,
            first_seq=reader.identity.base + 1,
            head=last,
            events=events,
            size_bytes=sum(path.stat().st_size for path in (files.database, files.wal) if path.exists()),
            mark_seq=None if mark is None else mark.seq,
            broken_seq=broken_seq,
            finding=finding,
        )
    finally:
        reader.close()


def backup(home: Path, destination: Path) -> BackupReport:
    """Copy the journal of `home` into one new file, synced and proved, also while its hub runs.

    Raises `FileUnusable` when `destination` exists or can be no file, `JournalRefused` when what was copied is broken
    (then no backup is left), `DiskFull`, `StoreFailed`.
    """
    destination = destination.absolute()
    try:
        is_there = destination.exists()
    except OSError as error:  # a name that is too long, for one
        raise FileUnusable(f"{clipped(str(destination))}: {error.strerror}; it was not written") from error
    if is_there:
        raise FileUnusable(f"{destination}: exists already; name a file that does not exist")
    partial = destination.with_name(destination.name + ".new")
    is_ours = False
    reader = JournalReader(home.absolute())
    try:
        os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        is_ours = True
        _copy_with_base(reader, partial)
        report = _prove_file(partial, destination)
        # link(2) refuses to replace a file that appeared meanwhile.
        os.link(partial, destination)
        try:
            sync_directory(destination.parent)
        except OSError:
            destination.unlink()
            raise
    except (OSError, sqlite3.Error) as error:
        raise _write_failure(error, Files(destination.parent, destination.name, is_backup=True)) from error
    except JournalRefused as refused:
        # The copy is as broken as what it was made of: the cure is that of the home.
        found = verify(home)
        if found.finding is None:
            raise
        raise JournalRefused(found.finding, seq=found.broken_seq) from refused
    finally:
        reader.close()
        if is_ours:
            with suppress(OSError):
                discard_database(partial)
    return report


def restore(home: Path, source: Path, at_ms: int) -> ReplacedReport:
    """Put the journal in the file `source` in place of whatever `home` has; the files of before are kept aside.

    The copy ends with `journal.adopted` (reason `restore`) at a seq above the heads of both, the old mark and the base
    of `at_ms`. `home` is made when it does not exist.

    Raises `JournalLocked` when a hub runs, `JournalRefused` when `source` does not prove itself (nothing was changed),
    `DiskFull`, `StoreFailed`.
    """
    files = Files(home.absolute())
    make_home(files.home)
    with HomeLock(files.home), closing(JournalReader.of_file(source.absolute())) as reader:
        if files.database.exists() and source.samefile(files.database):
            raise JournalRefused(f"{source}: is the journal of this home itself; name a backup")
        return _put(files, reader, "restore", at_ms)


def bring_in(home: Path, source: Path, at_ms: int) -> ReplacedReport:
    """As `restore`, from a file that `export` wrote. Raises as `restore`, and `JournalRefused` naming a broken line."""
    files = Files(home.absolute())
    try:
        reader = ExportFile(source.absolute())
    except OSError as error:
        raise JournalRefused(f"{source}: cannot be read ({error.strerror})") from error
    make_home(files.home)
    with closing(reader), HomeLock(files.home):
        return _put(files, reader, "import", at_ms)


def _put(files: Files, source: "Source", reason: str, at_ms: int) -> ReplacedReport:
    known = max(source.tip()[0], _highest_known(files), base_at(at_ms))
    return _replace(files, source, reason=reason, known=known, at_ms=at_ms, drop=False)


def adopt(home: Path, at_ms: int, *, drop: bool = False) -> ReplacedReport:
    """Accept the database of `home` as the truth although its mark, a missing tail or its index speaks against it.

    drop: also accept a broken chain, by keeping the longest prefix that proves itself. The journal ends with
    `journal.adopted` (reason `adopt`) at a seq above its head, the mark and the base of `at_ms`; the files of before
    are kept aside.

    Raises `JournalLocked` when a hub runs; `JournalRefused` when there is nothing to adopt, the database cannot be
    opened, or its chain is broken and `drop` is False (nothing was changed); `DiskFull`, `StoreFailed`.
    """
    files = Files(home.absolute())
    if not files.home.is_dir():
        raise JournalRefused(f"{files.home}: is not a directory; name the home of a journal")
    require_database(files)  # before the lock, which would leave its file
    with HomeLock(files.home):
        reader = JournalReader(files.home)
        try:
            report = verify(files.home)
            if report.is_whole:
                raise JournalRefused(f"{files.database}: is whole and fits its mark; there is nothing to adopt")
            known = max(_highest_known(files), base_at(at_ms))
            return _replace(files, reader, reason="adopt", known=known, at_ms=at_ms, drop=drop)
        finally:
            reader.close()


class Source(Protocol):
    """Rows in order, each proved: a database or an export."""

    @property
    def identity(self) -> Identity:
        """Whose journal it is."""

    def tip(self) -> tuple[int, bytes]:
        """Seq and chain hash of the last row."""

    def hash_at(self, seq: int) -> bytes | None:
        """The chain hash at `seq`."""

    def checked(self, after: int, upto: int, limit: int) -> "_CheckedRows":
        """The next rows."""

    def compaction(self) -> JournalCompacted | None:
        """The last compaction, or None before the first."""

    def base(self, compaction: JournalCompacted) -> bytes:
        """The base of a compaction."""


def _replace(files: Files, reader: Source, *, reason: str, known: int, at_ms: int, drop: bool) -> ReplacedReport:
    """Build a new database from the rows of `reader` and swap it in. Raises as `restore` and `adopt`."""
    old = reader.identity
    identity = Identity(old.hub_id, new_id(), old.base)
    events, last, dropped, end = 0, old.base, 0, b""
    compaction: JournalCompacted | None = None

    def take(connection: sqlite3.Connection, rows: _CheckedRows) -> None:
        nonlocal compaction
        _insert(connection, rows)
        for row, _ in rows:
            if row.type == COMPACTED:
                event = decode(row)
                assert isinstance(event, JournalCompacted)
                compaction = event

    def fill(connection: sqlite3.Connection) -> None:
        nonlocal events, last, dropped, end
        events, last, refused = _longest_prefix(reader, lambda rows: take(connection, rows))
        if refused is not None and not drop:
            raise refused
        if reader.compaction() != compaction:
            raise _cut_before_its_compaction(files, refused)
        if compaction is not None:
            data = reader.base(compaction)
            base_state(files, compaction, core_folding(), data, reader.hash_at(compaction.upto))
            write_base(files, compaction.upto, data)
        dropped = _lost_after(files, reader, last)
        adopted = JournalAdopted(
            hub_id=identity.hub_id,
            journal_id=identity.journal_id,
            previous_id=old.journal_id,
            previous_seq=last,
            reason=reason,
            dropped=dropped,
        )
        row = to_row(Recorded(known + 1, at_ms, _OPERATOR, adopted))
        prev = reader.hash_at(last)
        assert prev is not None
        end = link(prev, row)
        _insert(connection, [(row, (*row[:7], None, end))])

    aside = None
    try:
        build_database(files, identity, fill)
        write_new_mark(files, Mark(identity.hub_id, identity.journal_id, known + 1, end))
        aside = _make_aside(files, f"{known + 1}-{reason}")
        _move_aside(files, aside)
        put_in_place(files)
    except (OSError, sqlite3.Error) as error:
        with suppress(OSError):
            _move_back(files, aside)
        if aside is not None and (aside / files.database.name).exists():
            what = error.strerror if isinstance(error, OSError) else error
            is_done = files.database.exists()
            now = "the new one is in place; start the hub" if is_done else f"what was there is in {aside}; move it back"
            raise StoreFailed(f"{files.database}: {what}; {now}") from error
        raise _write_failure(error, files) from error
    except JournalError:
        discard_new(files)
        raise
    return ReplacedReport(identity.journal_id, old.journal_id, known + 1, events + 1, dropped, aside)


def _cut_before_its_compaction(files: Files, refused: JournalRefused | None) -> JournalRefused:
    return JournalRefused(
        f"{files.database}: what is whole ends before the last compaction, without which the state cannot be rebuilt; "
        f"{way_back(files)}",
        seq=None if refused is None else refused.seq,
    )


_CheckedRows = list[tuple[Row, tuple[int, str, int, int, str, str, bytes | None, bytes | None, bytes]]]


def _longest_prefix(reader: Source, take: Callable[[_CheckedRows], None]) -> tuple[int, int, JournalRefused | None]:
    """Hand all rows that prove themselves to `take`; answer how many, the last seq, and what ended them early."""
    events, last, limit = 0, reader.identity.base, _ROWS_PER_STEP
    while True:
        try:
            rows = reader.checked(last, SEQ_MAX, limit)
        except JournalRefused as refused:
            if limit == 1:
                return events, last, refused
            # Something among these rows is broken: go up to it one by one.
            limit = 1
            continue
        if not rows:
            return events, last, None
        take(rows)
        events += len(rows)
        last = rows[-1][0].seq


def _insert(connection: sqlite3.Connection, rows: _CheckedRows) -> None:
    connection.executemany(_COPY_LINE, [line for _, line in rows])
    write_lines(connection, sorted((key, row.seq) for row, _ in rows for key in touched_by(row)))


def _base_finding(files: Files, reader: JournalReader) -> str | None:
    """What is wrong with the base of a compacted journal, or with what it says must be there."""
    try:
        compaction = reader.compaction()
        if compaction is None:
            return None
        chain_hash = reader.hash_at(compaction.upto)
        state = base_state(files, compaction, core_folding(), reader.base(compaction), chain_hash)
    except JournalRefused as refused:
        return str(refused)
    for seq in pinned(state):
        row = reader.row(seq)
        if row is not None and not row.body:
            return str(damaged(files, f"event {seq} has no body, and an inbox or a key needs it", seq=seq))
    return None


def _structure_finding(reader: JournalReader, upto: int) -> str | None:
    """What is wrong besides the rows: the index, or the file's structure."""
    checked = check_index(reader, upto)
    assert checked is not None
    damage = None if checked.index_is_whole else "the index does not fit the events"
    damage = damage or reader.damage()
    if damage is None:
        return None
    home = Files(reader.path.parent).quoted_home
    return f"{reader.path}: journal_broken: {damage}; `synapse journal adopt --home {home}` rebuilds it"


def _highest_known(files: Files) -> int:
    """The highest seq that any file of the home speaks of, as far as they can be read; 0 without any."""
    mark = peek_mark(files)
    named = [*files.snapshots.glob("*.snapshot"), *files.aside.glob("*")]
    numbers = [path.name.replace(".", "-").split("-")[0] for path in named]
    head = 0
    if files.database.exists():
        try:
            reader = JournalReader(files.home)
            try:
                head = reader.tip()[0]
            finally:
                reader.close()
        except JournalError:
            head = 0
    spoken = [int(number) for number in numbers if number.isdecimal()]
    # A seq from a damaged file may be any number; what is no seq of ours must not use up the range.
    return max(seq for seq in (0, head, mark.seq if mark else 0, *spoken) if seq < 1 << 53)


def _lost_after(files: Files, source: Source, last: int) -> int:
    """How many events that the home had, as far as its files tell, come after `last`, where the new journal ends; 0
    when the home had another journal, or none."""
    found, tip, journal_id = 0, last, source.identity.journal_id
    with suppress(JournalError), closing(JournalReader(files.home)) as home:
        if home.hash_at(last) == source.hash_at(last):
            found, tip, journal_id = home.count_after(last), home.tip()[0], home.identity.journal_id
    mark = peek_mark(files)
    return found if mark is None or mark.journal_id != journal_id else found + max(mark.seq - tip, 0)


def _of_a_journal(files: Files) -> list[Path]:
    """What is moved aside, in this order."""
    return [files.database, files.wal, files.shm, files.snapshots]


def _make_aside(files: Files, name: str) -> Path | None:
    """The directory `aside/NAME` with a copy of the mark, which is replaced in one step later. None with no journal."""
    if not any(path.exists() for path in (*_of_a_journal(files), files.mark)):
        return None
    files.aside.mkdir(mode=0o700, exist_ok=True)
    target = files.aside / name
    while target.exists():  # an attempt that died left it; what it holds is kept too
        target = target.with_name(target.name + "-again")
    target.mkdir(mode=0o700)
    if files.mark.exists():
        write_durably(target / files.mark.name, files.mark.read_bytes())
    for base in files.bases.glob("*.base"):  # the new journal may begin from the same one
        (target / files.bases.name).mkdir(mode=0o700, exist_ok=True)
        write_durably(target / files.bases.name / base.name, base.read_bytes())
        sync_directory(target / files.bases.name)
    for directory in (target, files.aside, files.home):  # before anything depends on these names
        sync_directory(directory)
    return target


def _move_aside(files: Files, target: Path | None) -> None:
    """Rename what the home has of a journal, the database first, so that a death in between leaves a home that is
    refused and not one that looks whole."""
    if target is None:
        return
    for path in _of_a_journal(files):
        if path.exists():
            path.rename(target / path.name)
            sync_directory(target)  # the new name first: at no time is there none
            sync_directory(files.home)


def _move_back(files: Files, target: Path | None) -> None:
    """After a failure: everything as it was, the database last; unless the new one is in place, which the next start
    then gives its mark. Raises OSError."""
    if not files.new_database.exists():
        return
    for path in reversed(_of_a_journal(files)):
        if target is not None and (target / path.name).exists():
            (target / path.name).rename(path)
    discard_new(files)


def _copy_with_base(reader: JournalReader, partial: Path) -> None:
    """Raises sqlite3.Error, OSError, `JournalRefused` when the base is missing or damaged."""
    while True:
        _copy(reader, partial)
        with closing(JournalReader.of_file(partial)) as copied:
            compaction = copied.compaction()
        if compaction is None:
            return
        try:
            data = reader.base(compaction)
        except JournalRefused:
            if reader.compaction() == compaction:
                raise
            continue  # another compaction has ended meanwhile
        with closing(sqlite3.connect(partial, isolation_level=None)) as target:
            put_into(target, data)
        sync_file(partial)
        return


def _copy(reader: JournalReader, partial: Path) -> None:
    """Raises sqlite3.Error, OSError."""
    target = sqlite3.connect(partial, isolation_level=None)
    try:
        reader.copy_to(target)
        # The copy is in WAL mode as the original; a backup should be one file.
        target.execute("PRAGMA journal_mode=DELETE").fetchall()
    finally:
        target.close()
    sync_file(partial)


def _prove_file(path: Path, destination: Path) -> BackupReport:
    """Raises `JournalRefused` when the copy does not prove itself."""
    reader = JournalReader.of_file(path)
    try:
        events, last, refused = _longest_prefix(reader, lambda rows: None)
        if refused is not None:
            raise refused
        return BackupReport(destination, reader.identity.journal_id, last, events, path.stat().st_size)
    finally:
        reader.close()


def _write_failure(error: OSError | sqlite3.Error, files: Files) -> JournalError:
    path = files.database
    if isinstance(error, sqlite3.Error):
        if is_full(error, path.parent):
            return DiskFull(f"{path.parent}: the disk is full; {path.name} was not written")
        return failure(error, files)
    if error.errno in NO_SPACE:
        return DiskFull(f"{path.parent}: the disk is full; {path.name} was not written")
    if isinstance(error, FileExistsError):
        refused = FileUnusable if files.is_backup else JournalRefused
        return refused(f"{error.filename2 or error.filename}: exists already; move it away and try again")
    if files.is_backup and error.errno in _NO_FILE_THERE:
        return FileUnusable(f"{path}: {error.strerror}; it was not written")
    return StoreFailed(f"{path}: {error.strerror}; it was not written")
