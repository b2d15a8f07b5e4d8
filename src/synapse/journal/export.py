"""A journal as lines of JSON: to keep, to look through with other tools, and to import again.

    {"synapse_journal":1,"hub_id":…,"journal_id":…,"base":…}
    {"seq":…,"type":…,"version":…,"at_ms":…,"actor":…,"key":…,"hash":…,"body":…}      one for each event
    {"base":"…"}                                       a compacted journal: its base, in pieces, Base64
    {"end":{"events":…,"head":…,"hash":…}}

`hash` is that of the chain, so a line that was changed, lost, added or moved is found, and a file that was cut short
has no end. `body` is the event as it was hashed, byte for byte: a tool that writes JSON in another way breaks it.
Where a body was dropped, `body_hash` stands in its place, and the base makes up for it. Without bodies, `body_hash`
stands in place of all of them and there is no base: such a file proves itself and cannot be imported.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from synapse.core.events import Row
from synapse.core.retention import allows_hole
from synapse.core.retention_events import COMPACTED, JournalCompacted
from synapse.errors import JournalRefused
from synapse.journal.chain import HASH_BYTES, genesis, link, link_over_hole, may_follow
from synapse.journal.evidence import Identity, Line
from synapse.journal.reader import JournalReader
from synapse.journal.upcast import decode

FORMAT: Final = 1
_ROWS_PER_STEP: Final = 1024
_LINE_BYTES_MAX: Final = 1 << 20
_PIECE_BYTES: Final = 1 << 19


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    """The first line."""

    synapse_journal: int
    hub_id: str
    journal_id: str
    base: int


_NO_BODY: Final = msgspec.Raw()


class _Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line between. Hashes in hex."""

    seq: int
    type: str
    version: int
    at_ms: int
    actor: str
    key: str
    hash: str
    body: msgspec.Raw = _NO_BODY
    body_hash: str | None = None


class _Base(msgspec.Struct, frozen=True, kw_only=True):
    """A line behind the events: a piece of the base."""

    base: bytes


class _End(msgspec.Struct, frozen=True, kw_only=True):
    """What the last line holds."""

    events: int
    head: int
    hash: str


class _Last(msgspec.Struct, frozen=True, kw_only=True):
    """The last line."""

    end: _End


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written."""

    journal_id: str
    events: int
    head: int


_encode: Final = msgspec.json.Encoder().encode


def export(reader: JournalReader, out: BinaryIO, *, bodies: bool = True) -> ExportReport:
    """Write all rows of `reader`, each proved first. bodies: False leaves out what the events say.

    Raises `JournalRefused` at the first broken row, `StoreFailed`, OSError.
    """
    who = reader.identity
    head = _Head(synapse_journal=FORMAT, hub_id=who.hub_id, journal_id=who.journal_id, base=who.base)
    out.write(_encode(head) + b"\n")
    events, last, end = 0, who.base, genesis(who.hub_id, who.base)
    upto = reader.tip()[0]
    while rows := reader.checked(last, upto, _ROWS_PER_STEP):
        for _, line in rows:
            out.write(_encode(_line(line, bodies=bodies)) + b"\n")
        events += len(rows)
        last, end = rows[-1][0].seq, rows[-1][1][8]
    compaction = reader.compaction() if bodies else None
    if compaction is not None:
        data = reader.base(compaction)
        for at in range(0, len(data), _PIECE_BYTES):
            out.write(_encode(_Base(base=data[at : at + _PIECE_BYTES])) + b"\n")
    out.write(_encode(_Last(end=_End(events=events, head=last, hash=end.hex()))) + b"\n")
    return ExportReport(who.journal_id, events, last)


def _line(line: Line, *, bodies: bool) -> _Event:
    seq, kind, version, at_ms, actor, key, body, body_hash, chain_hash = line
    kept = body if bodies else None
    if kept is None and body is not None:
        body_hash = sha256(body).digest()
    return _Event(
        seq=seq,
        type=kind,
        version=version,
        at_ms=at_ms,
        actor=actor,
        key=key,
        hash=chain_hash.hex(),
        body=_NO_BODY if kept is None else msgspec.Raw(kept),
        body_hash=None if kept is not None or body_hash is None else body_hash.hex(),
    )


class ExportFile:
    """An export, read again. It is proved whole before its first row is handed out.

    Has of `JournalReader` what putting a journal in place needs. Raises `JournalRefused`, naming the line.
    """

    def __init__(self, path: Path) -> None:
        """Read and prove the file once. Raises `JournalRefused` for what is no whole export, OSError."""
        self._path = path
        with path.open("rb") as file:
            self._whose = self._identity(file.readline(_LINE_BYTES_MAX))
        self._tip = (self.identity.base, genesis(self.identity.hub_id, self.identity.base))
        self._compaction: JournalCompacted | None = None
        self._base = bytearray()
        self._hash_at_upto: bytes | None = None
        holes = 0
        for row, line in self._rows(is_first=True):
            self._tip = (row.seq, line[8])
            holes += not row.body
            if row.type == COMPACTED and row.body:
                event = decode(row)
                assert isinstance(event, JournalCompacted)
                self._compaction = event
        self._left = self._rows()
        if holes or self._compaction is not None:
            self._require_base()

    @property
    def identity(self) -> Identity:
        """Whose journal it is."""
        return self._whose

    def tip(self) -> tuple[int, bytes]:
        """Seq and chain hash of the last event."""
        return self._tip

    def hash_at(self, seq: int) -> bytes | None:
        """The chain hash at the tip, and where the last compaction went; it is not asked for anywhere else."""
        if self._compaction is not None and seq == self._compaction.upto:
            return self._hash_at_upto
        return self._tip[1] if seq == self._tip[0] else None

    def compaction(self) -> JournalCompacted | None:
        """The last compaction, or None before the first."""
        return self._compaction

    def base(self, compaction: JournalCompacted) -> bytes:
        """The base of the last compaction."""
        return bytes(self._base)

    def _require_base(self) -> None:
        """Raises `JournalRefused` for a body that is missing without a compaction that allows it, and for a base that
        is not the one of the last compaction."""
        for row, line in self._rows():
            if not row.body and (self._compaction is None or not allows_hole(self._compaction, row)):
                raise JournalRefused(
                    f"{self._path}: event {row.seq} has no body, so nothing can be rebuilt from it; export with bodies",
                    seq=row.seq,
                )
            if self._compaction is not None and row.seq == self._compaction.upto:
                self._hash_at_upto = line[8]
        if self._compaction is not None and sha256(self._base).hexdigest() != self._compaction.base_hash:
            raise JournalRefused(
                f"{self._path}: the base of the compacted journal is not in it, or damaged; nothing was imported, "
                "export again"
            )

    def checked(self, after: int, upto: int, limit: int) -> list[tuple[Row, Line]]:
        """The next rows, at most `limit`: they are read in order, once."""
        found = []
        for row in self._left:
            found.append(row)
            if len(found) == limit:
                break
        assert not found or found[0][0].seq > after, "an export is read from its beginning"
        return found

    def close(self) -> None:
        """Let the file go."""
        self._left = iter(())

    def _identity(self, text: bytes) -> Identity:
        try:
            head = msgspec.json.decode(text, type=_Head)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise JournalRefused(f"{self._path}: is no export of a journal; its first line says so") from error
        if head.synapse_journal != FORMAT:
            raise JournalRefused(
                f"{self._path}: an export of format {head.synapse_journal}, this release reads {FORMAT}; import it "
                "with the release that wrote it"
            )
        return Identity(head.hub_id, head.journal_id, head.base)

    def _piece(self, text: bytes, number: int) -> bytes:
        try:
            return msgspec.json.decode(text, type=_Base).base
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._broken(number, "not a piece of a base", None) from error

    def _rows(self, *, is_first: bool = False) -> Iterator[tuple[Row, Line]]:
        """Each row that follows from the one before; the first time the base is kept too. Raises `JournalRefused` at
        the first that does not follow."""
        last, prev, events = self.identity.base, genesis(self.identity.hub_id, self.identity.base), 0
        with self._path.open("rb") as file:
            file.readline(_LINE_BYTES_MAX)
            for number, text in enumerate(iter(lambda: file.readline(_LINE_BYTES_MAX), b""), 2):
                if text.startswith(b'{"base":'):
                    if is_first:
                        self._base += self._piece(text, number)
                    continue
                if text.startswith(b'{"end":'):
                    self._require_end(text, number, events, last, prev, file)
                    return
                row, line = self._row(text, number, prev)
                if not may_follow(row.seq, row.type, last):
                    raise self._broken(number, f"event {row.seq} comes after event {last}", row.seq)
                last, prev, events = row.seq, line[8], events + 1
                yield row, line
        raise JournalRefused(
            f"{self._path}: ends after event {last} without its last line, so it was cut short; export again"
        )

    def _row(self, text: bytes, number: int, prev: bytes) -> tuple[Row, Line]:
        try:
            event = msgspec.json.decode(text, type=_Event)
            chain_hash = bytes.fromhex(event.hash)
            body_hash = None if event.body_hash is None else bytes.fromhex(event.body_hash)
        except (msgspec.MsgspecError, ValueError) as error:  # ValueError: no hex, no UTF-8
            raise self._broken(number, "not a line of an export", None) from error
        body = bytes(event.body) or None
        row = Row(event.seq, event.type, event.version, event.at_ms, event.actor, event.key, body or b"")
        if body is None:
            if body_hash is None or len(body_hash) != HASH_BYTES or link_over_hole(prev, row, body_hash) != chain_hash:
                raise self._broken(number, f"the hash of event {row.seq} does not follow", row.seq)
            return row, (*row[:6], None, body_hash, chain_hash)
        if link(prev, row) != chain_hash:
            raise self._broken(number, f"the hash of event {row.seq} does not follow", row.seq)
        line: Line = (*row[:6], body, None, chain_hash)
        return row, line

    def _require_end(self, text: bytes, number: int, events: int, last: int, prev: bytes, file: BinaryIO) -> None:
        try:
            end = msgspec.json.decode(text, type=_Last).end
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._broken(number, "not the end of an export", None) from error
        if (end.events, end.head, end.hash) != (events, last, prev.hex()):
            raise self._broken(number, f"it ends at event {end.head}, the lines at {last}", None)
        if file.readline(1):
            raise self._broken(number + 1, "something stands behind the end", None)

    def _broken(self, number: int, found: str, seq: int | None) -> JournalRefused:
        return JournalRefused(f"{self._path}: line {number}: {found}; nothing was imported, export again", seq=seq)
