"""Connections to the database, and what an error of SQLite means for the process.

One connection writes and checkpoints; all others are read-only and cannot even checkpoint when they close last. Memory
mapping stays off: a file cut short under a mapping kills the process with SIGBUS instead of answering with an error.
"""

import os
import sqlite3
import sys
from pathlib import Path
from urllib.parse import quote

from synapse.errors import DiskFull, JournalError, JournalLocked, JournalRefused, StoreFailed
from synapse.journal.files import ROOM_BYTES_MIN, Files, has_room, way_back

CHECKPOINT_PAGES = 2000
"""The WAL's size (8 MiB) at which `Journal.maintain` checkpoints."""

_WAL_PAGES_MAX = 3900
# Up to 4062 frames the WAL's index is one block of 32 KiB and never has to grow in the middle of a commit.

_BUSY_WAIT_S = 2.0
_CACHE_KIB = 16 * 1024
_WAL_KEPT_BYTES = 16 << 20
_FOUND_MAX = 200

_WITHOUT_CAUSE = frozenset({sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_CANTOPEN})
"""Errors whose cause SQLite does not tell. It may be room: a quota that is used up, the WAL's index that cannot grow, a
file that cannot be made."""
READ_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What reading a database raises. The second comes from the sqlite3 module, when SQLite's message quotes bytes of a
damaged schema."""

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
"""The last one means that our statements do not fit the schema: then it is the schema that is wrong."""
_NOT_WRITABLE = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH})

_NEEDS_THE_HOME = _NOT_WRITABLE | {sqlite3.SQLITE_CANTOPEN}
"""What is said where a file beside the database cannot be made."""


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that reads `path`, usable from any one thread at a time. Raises sqlite3.Error."""
    connection = _connect(path, "ro")
    connection.execute("PRAGMA query_only=ON")
    return connection


def open_writer(path: Path) -> sqlite3.Connection:
    """The one connection that writes `path`, an existing database. Raises sqlite3.Error."""
    connection = _connect(path, "rw")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    if sys.platform == "darwin":
        # fsync on macOS leaves the data in the drive's cache.
        connection.execute("PRAGMA fullfsync=ON")
        connection.execute("PRAGMA checkpoint_fullfsync=ON")
    # `maintain` checkpoints sooner and reports errors; this is the bound should nobody call it.
    connection.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES_MAX}")
    connection.execute(f"PRAGMA journal_size_limit={_WAL_KEPT_BYTES}")
    connection.execute("PRAGMA secure_delete=OFF")
    return connection


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    connection = sqlite3.connect(
        uri, uri=True, timeout=_BUSY_WAIT_S, isolation_level=None, check_same_thread=False, cached_statements=64
    )
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")
    connection.execute("PRAGMA temp_store=MEMORY")
    connection.execute("PRAGMA mmap_size=0")
    connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    return connection


def is_full(error: sqlite3.Error, home: Path) -> bool:
    """True when there was no room and the transaction did not happen.

    SQLite says so of a full disk. A quota that is used up it calls a failed write; then the room in `home` is asked
    for. A frame that could not be written is not committed, whatever the cause.
    """
    code = _code(error)
    return code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR_WRITE and lacks_room(home))


def is_busy(error: sqlite3.Error) -> bool:
    """True when another process has the database locked, and had it so for as long as is waited."""
    return _code(error) & 0xFF in _BUSY


def lacks_room(home: Path) -> bool:
    """True when not even the room that a start needs can be written in `home`."""
    try:
        return not has_room(home, ROOM_BYTES_MIN)
    except OSError:
        return False


def failure(error: sqlite3.Error | UnicodeDecodeError, files: Files) -> JournalError:
    """What an error while opening or reading the database of `files` means: the exception to raise from it."""
    if isinstance(error, UnicodeDecodeError):
        return damaged(files, "malformed database schema")
    code, path, home = _code(error), files.database, files.home
    if code == sqlite3.SQLITE_FULL or (code in _WITHOUT_CAUSE and lacks_room(home)):
        return DiskFull(f"{home}: the disk is full; the journal cannot be opened")
    if is_busy(error):
        return JournalLocked(f"{path}: locked by another process; close what has it open and start again")
    if code & 0xFF in _DAMAGED or (isinstance(error, sqlite3.DatabaseError) and not code):
        return damaged(files, str(error))
    if code & 0xFF in _NEEDS_THE_HOME and not files.is_backup and not os.access(home, os.W_OK):
        # Even to read a journal SQLite has to make the index of its WAL.
        return JournalRefused(
            f"{home}: not writable ({error}); make it writable for this user, or choose another --home"
        )
    if code & 0xFF in _NOT_WRITABLE and not os.access(path, os.W_OK):
        return JournalRefused(f"{path}: not writable ({error}); make it writable, or choose another --home")
    return StoreFailed(f"{path}: {error}; nothing was changed by this, start again")


def damaged(files: Files, found: str, *, seq: int | None = None) -> JournalRefused:
    """The refusal of a database whose content is broken. found: what was seen; seq: where, when that is known.

    SQLite quotes what it could not read, which may be anything: one line of it is kept, and nothing a terminal obeys.
    """
    found = "".join(letter if letter.isprintable() else "?" for letter in " ".join(found.split()))[:_FOUND_MAX]
    cure = way_back(files)
    if not files.is_backup:
        cure += f", `synapse journal adopt --home {files.quoted_home} --drop` keeps what is whole"
    return JournalRefused(f"{files.database}: journal_broken: {found}; {cure}", seq=seq)


def _code(error: sqlite3.Error) -> int:
    code = getattr(error, "sqlite_errorcode", 0)
    return code if isinstance(code, int) else 0
