"""What lies in a home, and whether a journal may be opened on it. Nothing here changes a byte of a journal.

Nothing is ever silently started afresh: only a home without any trace of a journal may get a new one. Everything else
is opened read-only and must agree with itself and with the mark, or it is refused (78) with one line that names the
file, what was found, and the cure.
"""

import re
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from synapse.core.events import Row
from synapse.errors import JournalRefused, StoreFailed
from synapse.journal.chain import genesis, link, link_over_hole
from synapse.journal.connection import READ_ERRORS, damaged, failure, open_read_only
from synapse.journal.files import Files, way_back
from synapse.journal.mark import Mark, read_mark

SCHEMA_VERSION = 1

SELECT_EVENTS = "SELECT seq, type, version, at_ms, actor, key, body, body_hash, hash FROM events"

_ID = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Identity:
    """What the meta table says: whose journal this is and at which seq it began."""

    hub_id: str
    journal_id: str
    base: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """A journal that may be opened. `head` is `base` and `head_hash` the genesis when it has no rows.

    must_finish: the mark in place belongs to the journal before; `journal.mark.new` is the one to put in its place.
    """

    identity: Identity
    head: int
    head_hash: bytes
    mark: Mark
    must_finish: bool


def examine(files: Files) -> Evidence | None:
    """The journal in the home, checked against its mark; None when the home has no trace of one.

    Raises `JournalRefused` for whatever is neither, `JournalLocked` when another process keeps the database locked,
    `StoreFailed` when it cannot be read, `DiskFull` when SQLite has no room for its WAL index.
    """
    if not files.database.exists():
        require_no_trace(files)
        return None
    # The mark is read before the head, because a running hub moves the head first.
    mark = peek_mark(files)
    identity, head, head_hash, hash_at_mark = _read_head(files, mark)
    here = Mark(identity.hub_id, identity.journal_id, head, head_hash)
    if mark != here and _peek(files.new_mark) == here:
        # A creation, restore or adoption died between putting the database in place and its mark: the waiting mark
        # names exactly this journal at exactly this head, so nothing was appended since.
        return Evidence(identity, head, head_hash, here, must_finish=True)
    _require_agreement(files, here, mark or require_mark(files), hash_at_mark)
    return Evidence(identity, head, head_hash, mark or here, must_finish=False)


def require_files(files: Files) -> None:
    """What `examine` refuses by the files alone; the database is not opened, so nothing is made. Raises as it does."""
    if not files.database.exists():
        require_no_trace(files)
        return
    require_some_bytes(files)
    if peek_mark(files) is None and _peek(files.new_mark) is None:
        require_mark(files)


def _read_head(files: Files, mark: Mark | None) -> tuple[Identity, int, bytes, bytes | None]:
    """Identity, head, its hash, and the hash at the mark (None when there is no such row or no mark).

    The first and the last row are checked against the hashes before them. Raises as `examine`.
    """
    require_some_bytes(files)
    try:
        connection = open_read_only(files.database)
        try:
            identity = read_identity(files, connection)
            head, head_hash = _check_ends(files, connection, identity)
            hash_at_mark = None
            if mark is not None and mark.seq == identity.base:
                hash_at_mark = genesis(identity.hub_id, identity.base)
            elif mark is not None:
                line = connection.execute("SELECT hash FROM events WHERE seq = ?", (mark.seq,)).fetchone()
                hash_at_mark = line[0] if line else None
        finally:
            connection.close()
    except READ_ERRORS as error:
        raise failure(error, files) from error
    return identity, head, head_hash, hash_at_mark


def require_database(files: Files) -> None:
    """Raises `JournalRefused` where there is no database to read: as `examine`, or because no journal is here."""
    if files.database.exists():
        return
    if files.is_backup:
        raise JournalRefused(f"{files.database}: there is no such file; name a backup")
    require_no_trace(files)
    raise JournalRefused(f"{files.database}: there is no such file; name the home of a journal with --home")


def require_some_bytes(files: Files) -> None:
    """Raises `JournalRefused` for a database of 0 bytes, which SQLite would take for a new one."""
    if files.database.stat().st_size == 0:
        raise JournalRefused(f"{files.database}: has 0 bytes, so its journal was emptied; {way_back(files)}")


def read_identity(files: Files, connection: sqlite3.Connection) -> Identity:
    """What the meta table says. Raises `JournalRefused` for a newer or foreign schema, sqlite3.Error."""
    path = files.database
    try:
        found: list[tuple[object, object]] = connection.execute("SELECT name, value FROM meta").fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            other = "take a backup of one" if files.is_backup else "choose another --home"
            raise JournalRefused(f"{path}: is a database but not a Synapse journal; {other}") from error
        raise
    meta = {name: value for name, value in found if isinstance(name, str) and isinstance(value, str)}
    version = meta.get("schema_version", "")
    if version.isdecimal() and int(version) > SCHEMA_VERSION:
        raise JournalRefused(
            f"{path}: has schema version {version}, newer than {SCHEMA_VERSION}, the newest this release knows; "
            "start it with the newer release that wrote it"
        )
    hub_id, journal_id, base = meta.get("hub_id", ""), meta.get("journal_id", ""), meta.get("base", "")
    whole = version == str(SCHEMA_VERSION) and _ID.fullmatch(hub_id) and _ID.fullmatch(journal_id)
    if not whole or not base.isdecimal():
        raise damaged(files, "its meta table is not whole")
    return Identity(hub_id, journal_id, int(base))


def _check_ends(files: Files, connection: sqlite3.Connection, identity: Identity) -> tuple[int, bytes]:
    """Check the first row and the last two, which also tells a changed meta table; answer the head and its hash."""
    start = genesis(identity.hub_id, identity.base)
    first = connection.execute(f"{SELECT_EVENTS} ORDER BY seq LIMIT 1").fetchone()
    if first is None:
        return identity.base, start
    check_line(files, first, start)
    last = connection.execute(f"{SELECT_EVENTS} ORDER BY seq DESC LIMIT 2").fetchall()
    if len(last) == 2:
        check_line(files, last[0], last[1][8])
    return last[0][0], last[0][8]


Line = tuple[int, str, int, int, str, str, bytes | None, bytes | None, bytes]
"""A row of the events table as SQLite gives it, in the order of `SELECT_EVENTS`."""


def check_line(files: Files, line: Line, prev: bytes) -> Row:
    """The row of a line whose hash follows from `prev`; body is empty where retention dropped it.

    Raises `JournalRefused` (`journal_broken`, with its seq) when the hash does not follow.
    """
    seq, kind, version, at_ms, actor, key, body, body_hash, chain_hash = line
    with suppress(TypeError):  # in a damaged row a text may have become a number
        if body is not None:
            row = Row(seq, kind, version, at_ms, actor, key, body)
            if link(prev, row) == chain_hash:
                return row
        elif body_hash is not None:
            row = Row(seq, kind, version, at_ms, actor, key, b"")
            if link_over_hole(prev, row, body_hash) == chain_hash:
                return row
    raise damaged(files, f"the hash of event {seq} does not follow from the event before it", seq=seq)


def peek_mark(files: Files) -> Mark | None:
    """The mark, or None when there is none or it is damaged. Raises `StoreFailed` when it cannot be read."""
    return _peek(files.mark)


def _peek(path: Path) -> Mark | None:
    try:
        return read_mark(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreFailed(f"{path}: {error.strerror}; start again") from error


def require_mark(files: Files) -> Mark:
    """The mark of a home that has a database. Raises `JournalRefused` when it is missing or damaged."""
    adopt = f"if {files.database} is the right file, `synapse journal adopt --home {files.quoted_home}` accepts it"
    try:
        mark = read_mark(files.mark)
    except FileNotFoundError:
        raise JournalRefused(f"{files.mark}: is missing, so the journal may be an old copy; {adopt}") from None
    except OSError as error:
        raise StoreFailed(f"{files.mark}: {error.strerror}; start again") from error
    if mark is None:
        raise JournalRefused(f"{files.mark}: is damaged, so what was acknowledged is not known; {adopt}")
    return mark


def require_no_trace(files: Files) -> None:
    """Raises `JournalRefused` when something in the home shows that a journal lived here."""
    traces = [path.name for path in (files.mark, files.wal, files.reserve) if path.exists()]
    traces += sorted(path.name for path in files.snapshots.glob("*.snapshot"))[:1]
    if traces:
        raise JournalRefused(
            f"{files.database}: is missing, but {', '.join(traces)} shows that a journal lived here; "
            f"{way_back(files)}, or move these files away to start empty"
        )


def _require_agreement(files: Files, here: Mark, mark: Mark, hash_at_mark: bytes | None) -> None:
    """Raises `JournalRefused` when the mark speaks of another journal or of events that are not there."""
    adopt = f"`synapse journal adopt --home {files.quoted_home}` accepts the file as it is"
    if (mark.hub_id, mark.journal_id) != (here.hub_id, here.journal_id):
        raise JournalRefused(
            f"{files.database}: is journal {here.journal_id}, but {files.mark.name} belongs to {mark.journal_id}; "
            f"put the right file back, or {adopt}"
        )
    if mark.seq > here.seq:
        raise JournalRefused(
            f"{files.database}: ends at {here.seq}, but events up to {mark.seq} were acknowledged (WAL cut or "
            f"deleted, or an older copy); put the right files back, or {adopt} without the missing events"
        )
    if hash_at_mark != mark.hash:
        raise JournalRefused(
            f"{files.database}: event {mark.seq} is not the one that was acknowledged; put the right file back, "
            f"or {adopt}",
            seq=mark.seq,
        )
