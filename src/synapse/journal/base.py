"""The base of a compacted journal: the state at the seq up to which bodies may be gone. Here it is the truth.

File `bases/SEQ-HASH.base`, in the form of a snapshot; HASH is the beginning of SHA-256 over the file, which stands in
full in the `journal.compacted` event. So a file belongs to one event, is never changed, and the base of before stays
until the event that names the next one is durable. A backup carries its base in a table, an export in lines.
"""

import sqlite3
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from synapse.core.retention_events import JournalCompacted
from synapse.errors import DiskFull, JournalRefused, StoreFailed
from synapse.journal.files import NO_SPACE, Files, sync_directory, way_back, write_durably

if TYPE_CHECKING:
    from synapse.journal.snapshot import Folding, S

_HASH_CHARS = 16
_PART_BYTES = 8 << 20
_CREATE = "CREATE TABLE base (part INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT"


def base_path(files: Files, seq: int, base_hash: str) -> Path:
    """Where the base of a compaction lies."""
    return files.bases / f"{seq}-{base_hash[:_HASH_CHARS]}.base"


def write_base(files: Files, seq: int, data: bytes) -> str:
    """Write a base durably, and answer its hash, hex. One that is there already is left. Raises `DiskFull`,
    `StoreFailed`."""
    base_hash = sha256(data).hexdigest()
    path = base_path(files, seq, base_hash)
    partial = path.with_name(path.name + ".new")
    try:
        files.bases.mkdir(mode=0o700, exist_ok=True)
        sync_directory(files.home)
        try:
            write_durably(partial, data)
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)
        sync_directory(files.bases)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFull(f"{files.bases}: the disk is full; no base was written, and nothing dropped") from error
        raise StoreFailed(f"{files.bases}: {error.strerror}; no base was written, and nothing dropped") from error
    return base_hash


def read_base(files: Files, compaction: JournalCompacted) -> bytes:
    """The bytes of the base of a compaction. Raises `JournalRefused` when it is missing or not the one."""
    path = base_path(files, compaction.upto, compaction.base_hash)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise lacking(files, f"its base {path.name} is missing") from None
    except OSError as error:
        raise StoreFailed(f"{path}: {error.strerror}; start again") from error
    return require_base(files, compaction, data)


def require_base(files: Files, compaction: JournalCompacted, data: bytes) -> bytes:
    """The same bytes. Raises `JournalRefused` when they are not those that the compaction names."""
    if sha256(data).hexdigest() != compaction.base_hash:
        name = base_path(files, compaction.upto, compaction.base_hash).name
        raise lacking(files, f"its base {name} is not the one that the journal names")
    return data


def base_state(
    files: Files, compaction: JournalCompacted, folding: "Folding[S]", data: bytes, chain_hash: bytes | None
) -> "S":
    """The state in a base that is the right one. chain_hash: of the row up to which it goes.

    Raises `JournalRefused` when this release cannot read it, or when it is of another chain.
    """
    from synapse.journal.snapshot import parse_snapshot

    try:
        header, payload = parse_snapshot(data)
        if header.seq != compaction.upto or chain_hash is None or header.chain_hash != chain_hash.hex():
            raise lacking(files, "its base is of another journal")
        return folding.lift(payload)
    except ValueError as error:
        raise JournalRefused(
            f"{files.database}: its base cannot be read: {error}; start it with the release that wrote it"
        ) from error


def lacking(files: Files, found: str) -> JournalRefused:
    """The refusal of a compacted journal whose base is not there."""
    return JournalRefused(
        f"{files.database}: journal_broken: {found}, and what the journal dropped cannot be folded without it; "
        f"{'' if files.is_backup else 'put the file back, or '}{way_back(files)}"
    )


def keep_only(files: Files, compaction: JournalCompacted) -> None:
    """Remove the bases of other compactions, and snapshots that nothing can be folded onto any more. Raises OSError."""
    kept = base_path(files, compaction.upto, compaction.base_hash)
    for path in files.bases.glob("*.base*"):
        if path != kept:
            path.unlink(missing_ok=True)
    for path in files.snapshots.glob("*.snapshot"):
        if path.stem.isdecimal() and int(path.stem) < compaction.upto:
            path.unlink(missing_ok=True)


def put_into(connection: sqlite3.Connection, data: bytes) -> None:
    """Store a base in a backup. Raises sqlite3.Error."""
    connection.execute("DROP TABLE IF EXISTS base")
    connection.execute(_CREATE)
    parts = [(at, data[at : at + _PART_BYTES]) for at in range(0, len(data), _PART_BYTES)]
    connection.executemany("INSERT INTO base (part, data) VALUES (?, ?)", parts)


def taken_from(connection: sqlite3.Connection) -> bytes | None:
    """The base in a backup; None when the database has none. Raises sqlite3.Error."""
    if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'base'").fetchone() is None:
        return None
    return b"".join(data for (data,) in connection.execute("SELECT data FROM base ORDER BY part"))
