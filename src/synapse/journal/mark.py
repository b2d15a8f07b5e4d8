"""`journal.mark`: 64 bytes that remember the last acknowledged position, outside the database.

A cut WAL, a deleted WAL and an older copy of the file are each a valid prefix of the chain; only a memory kept
elsewhere can tell. Layout, big-endian: magic `SYM1`, hub id (8 bytes), journal id (8), seq (8), hash (32), CRC-32 of
the 60 bytes before (4).

The mark is made and synced with its journal and from then on overwritten in place, after each COMMIT, without a sync.
It is therefore a lower bound of what was acknowledged. kill -9 cannot tear it: the page cache takes the write whole.
Power loss can leave an older mark (still a lower bound) but not a torn one: 64 bytes at offset 0 lie in one sector,
whose block was allocated and synced before the first overwrite. A mark that is short, empty or fails its CRC was thus
damaged, and so was one that is missing beside a database. All are refused rather than read as "no bound known", which
would turn one flipped bit into permission to lose acknowledged events.
"""

import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from synapse.journal.files import NO_SPACE

MARK_BYTES = 64

_MAGIC = b"SYM1"
_LAYOUT = struct.Struct(">4s8s8sQ32s")
_CRC = struct.Struct(">I")
_READS_MAX = 3


class Mark(NamedTuple):
    """A position in a journal: everything up to `seq` was durable when this was written. Ids are 16 hex characters."""

    hub_id: str
    journal_id: str
    seq: int
    hash: bytes


def encode_mark(mark: Mark) -> bytes:
    """The 64 bytes of a mark."""
    data = _LAYOUT.pack(_MAGIC, bytes.fromhex(mark.hub_id), bytes.fromhex(mark.journal_id), mark.seq, mark.hash)
    return data + _CRC.pack(zlib.crc32(data))


def decode_mark(data: bytes) -> Mark | None:
    """The mark in `data`, or None when it is not exactly one whole mark."""
    if len(data) != MARK_BYTES or zlib.crc32(data[:60]) != _CRC.unpack(data[60:])[0]:
        return None
    magic, hub_id, journal_id, seq, chain_hash = _LAYOUT.unpack(data[:60])
    if magic != _MAGIC:
        return None
    return Mark(hub_id.hex(), journal_id.hex(), seq, chain_hash)


def read_mark(path: Path) -> Mark | None:
    """The mark in the file, or None when the file does not hold exactly one whole mark.

    Read up to three times, because a running hub may write between two halves of a read.
    Raises `FileNotFoundError` when there is none, OSError when it cannot be read.
    """
    for _ in range(_READS_MAX):
        with path.open("rb") as file:
            mark = decode_mark(file.read(MARK_BYTES + 1))
        if mark is not None:
            return mark
    return None


class MarkFile:
    """The mark of an open journal, kept open for one write after each commit."""

    __slots__ = ("_descriptor", "_path", "_prefix")

    def __init__(self, path: Path, *, hub_id: str, journal_id: str) -> None:
        self._path = path
        self._prefix = _MAGIC + bytes.fromhex(hub_id) + bytes.fromhex(journal_id)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def write(self, seq: int, chain_hash: bytes) -> None:
        """Remember that everything up to `seq` is durable. Call it only after the COMMIT. Raises OSError.

        No room (a copy-on-write file system that is full) is not an error: the older mark stays a lower bound.
        """
        data = self._prefix + seq.to_bytes(8) + chain_hash
        try:
            os.pwrite(self._descriptor, data + _CRC.pack(zlib.crc32(data)), 0)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise OSError(error.errno, error.strerror, str(self._path)) from error

    def close(self) -> None:
        """Close the file. It may be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
