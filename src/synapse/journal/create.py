"""Making a journal: a whole database under another name first, put in place by rename, its mark last.

A process that dies in between leaves either a home without a journal, or a journal whose mark still waits as
`journal.mark.new`; the next start finishes that (evidence.py). It never leaves a journal that looks like another one.
"""

import os
import sqlite3
from collections.abc import Callable
from importlib.resources import files as package_files
from pathlib import Path

from synapse.errors import DiskFull
from synapse.journal.chain import genesis
from synapse.journal.evidence import SCHEMA_VERSION, Identity
from synapse.journal.files import (
    ROOM_BYTES_MIN,
    Files,
    free_bytes,
    has_room,
    sync_directory,
    sync_file,
    sync_names_above,
    write_durably,
)
from synapse.journal.mark import Mark, encode_mark
from synapse.journal.reserve import Reserve

_SEQ_BITS_PER_SECOND = 21


def new_id() -> str:
    """16 random hex characters: the id of a hub or of a journal."""
    return os.urandom(8).hex()


def base_at(at_ms: int) -> int:
    """The base of a journal born at `at_ms`: seconds << 21, so no later journal repeats a seq, and below 2^53."""
    return (at_ms // 1000) << _SEQ_BITS_PER_SECOND


def create_journal(files: Files, reserve: Reserve, *, at_ms: int) -> None:
    """Put a journal without events into a home that has none, with its reserve.

    Raises `DiskFull`, which says how many bytes are missing, and leaves nothing behind; OSError; sqlite3.Error.
    """
    needed = ROOM_BYTES_MIN + reserve.bytes_wanted
    if not has_room(files.home, needed):
        missing = max(needed - free_bytes(files.home), 1)
        raise DiskFull(f"{files.home}: the disk is full; {missing} more bytes are needed for a new journal")
    identity = Identity(new_id(), new_id(), base_at(at_ms))
    build_database(files, identity, lambda connection: None)
    start = genesis(identity.hub_id, identity.base)
    write_new_mark(files, Mark(identity.hub_id, identity.journal_id, identity.base, start))
    put_in_place(files)
    reserve.create()


def build_database(files: Files, identity: Identity, fill: Callable[[sqlite3.Connection], None]) -> None:
    """Write and sync a database at `files.new_database`; `fill` puts the rows in. What was there before is replaced.

    Raises sqlite3.Error and OSError, and whatever `fill` raises; nothing in place was touched then.
    """
    path = files.new_database
    discard_new(files)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        # A half-made file is thrown away, so it needs neither a rollback journal nor a sync before the end.
        connection.execute("PRAGMA journal_mode=OFF")
        connection.execute("PRAGMA synchronous=OFF")
        connection.executescript(package_files("synapse.journal").joinpath("schema.sql").read_text("utf-8"))
        meta = {
            "schema_version": str(SCHEMA_VERSION),
            "hub_id": identity.hub_id,
            "journal_id": identity.journal_id,
            "base": str(identity.base),
        }
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO meta (name, value) VALUES (?, ?)", meta.items())
        fill(connection)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()
    sync_file(path)


def write_new_mark(files: Files, mark: Mark) -> None:
    """Write and sync the mark of `files.new_database`: the last thing that takes room. Raises OSError."""
    sync_names_above(files.home)
    write_durably(files.new_mark, encode_mark(mark))
    sync_directory(files.home)


def put_in_place(files: Files) -> None:
    """Give `files.new_database` and its mark their names, in the order that a crash at any point leaves readable.

    The place of the database must be free. Raises OSError.
    """
    files.new_database.rename(files.database)
    sync_directory(files.home)
    files.new_mark.rename(files.mark)
    sync_directory(files.home)


def discard_new(files: Files) -> None:
    """Remove what an earlier attempt left half-made. Raises OSError."""
    discard_database(files.new_database)
    files.new_mark.unlink(missing_ok=True)


def discard_database(path: Path) -> None:
    """Remove a database and what SQLite keeps beside it: the next one would take it for its own. Raises OSError."""
    for suffix in ("-journal", "-wal", "-shm", ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
