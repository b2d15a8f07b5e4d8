"""Snapshots: the folded state at one seq, so that a start folds only the tail. A convenience, never the truth.

File `snapshots/SEQ.snapshot`: one line of JSON (`Header`), then the state's dump. A snapshot is used only when every
hash in it fits and its journal id, seq and chain hash are those of the journal; else it is passed over with a reason
and an older one, or all events, are folded instead.

`python -m synapse.journal.snapshot HOME` is the short-lived child that writes one: it opens the journal read-only,
folds up to the head, writes, and prints one JSON line. The hub never folds twice in its own process.
"""

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from synapse.core.events import Recorded
from synapse.errors import DiskFull, JournalError, JournalRefused, StoreFailed
from synapse.journal.base import base_state, read_base
from synapse.journal.connection import damaged
from synapse.journal.evidence import Identity
from synapse.journal.files import NO_SPACE, Files, sync_directory, write_durably
from synapse.journal.interface import Pages
from synapse.journal.reader import JournalReader
from synapse.journal.replay import Replayed, replay

if TYPE_CHECKING:
    from synapse.core.state import State

FORMAT = 1
KEPT = 2
"""How many snapshots stay: the newest and, should it be damaged, the one before."""

_HEADER_BYTES_MAX = 4096

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Folding(Generic[S]):
    """How events become state and state becomes bytes. decode raises ValueError for a dump it cannot read, and so does
    lift, which reads those of older releases too."""

    new: Callable[[], S]
    apply: Callable[[S, Recorded], None]
    encode: Callable[[S], bytes]
    decode: Callable[[bytes], S]
    digest: Callable[[S], str]
    lift: Callable[[bytes], S]


def core_folding() -> "Folding[State]":
    """The hub's own folding. Imported on use, because the store needs none of it."""
    from synapse.core import kernel, state

    return Folding(
        state.new_state, kernel.apply, state.encode_state, state.decode_state, state.digest, state.lift_state
    )


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line. Hashes in hex. check: SHA-256 of this line's JSON with an empty `check`."""

    format: int
    hub_id: str
    journal_id: str
    seq: int
    chain_hash: str
    state_digest: str
    payload_bytes: int
    payload_sha256: str
    check: str = ""


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """Where a fold may begin. When no snapshot was usable `snapshot_seq` is None, and seq that of the last compaction
    or else the base of the journal; notes say why."""

    state: S
    seq: int
    hash: bytes
    snapshot_seq: int | None
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Written:
    """A snapshot on disk."""

    path: Path
    seq: int
    size_bytes: int
    state_digest: str


class _Unusable(Exception):
    """A snapshot that must not be believed; the text says why."""


def write_snapshot(
    home: Path, state: S, folding: Folding[S], *, identity: Identity, seq: int, chain_hash: bytes
) -> Written:
    """Write the state at `seq`, durably and under its name only when it was read back and has the same digest.

    Afterwards only the two newest snapshots are kept. Raises `DiskFull`, `StoreFailed`; AssertionError when the state
    does not survive its own encoding.
    """
    directory = Files(home).snapshots
    path = directory / f"{seq}.snapshot"
    partial = directory / f"{seq}.snapshot.new"
    header, data = snapshot_bytes(state, folding, identity=identity, seq=seq, chain_hash=chain_hash)
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        try:
            write_durably(partial, data)
            _, reread = read_snapshot(partial)
            assert folding.digest(folding.decode(reread)) == header.state_digest, "a state changed by being saved"
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)
        sync_directory(directory)
        _prune(directory, seq)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFull(f"{directory}: the disk is full; no snapshot was written") from error
        raise StoreFailed(f"{directory}: {error.strerror}; no snapshot was written") from error
    return Written(path, seq, len(data), header.state_digest)


def snapshot_bytes(
    state: S, folding: Folding[S], *, identity: Identity, seq: int, chain_hash: bytes
) -> tuple[Header, bytes]:
    """The header and the whole content of a snapshot of `state`, which is the state at `seq`."""
    payload = folding.encode(state)
    header = _sealed(
        Header(
            format=FORMAT,
            hub_id=identity.hub_id,
            journal_id=identity.journal_id,
            seq=seq,
            chain_hash=chain_hash.hex(),
            state_digest=folding.digest(state),
            payload_bytes=len(payload),
            payload_sha256=sha256(payload).hexdigest(),
        )
    )
    return header, msgspec.json.encode(header) + b"\n" + payload


def load_newest(home: Path, folding: Folding[S], *, identity: Identity, head: int, pages: Pages) -> Loaded[S]:
    """The newest usable state, or the base of the last compaction, or the state before the first event.

    Raises `JournalRefused` when a whole snapshot of this very journal lies beyond `head`: then events that were durable
    are missing; and when no snapshot is usable and the base is not whole.
    """
    notes: list[str] = []
    compaction = pages.compaction()
    if compaction is not None and compaction.upto > head:
        compaction = None  # the fold ends before it
    for path in _newest_first(Files(home).snapshots):
        try:
            header, payload = read_snapshot(path)
            if header.journal_id != identity.journal_id or header.hub_id != identity.hub_id:
                raise _Unusable(f"it belongs to journal {header.journal_id}")
            if header.seq > head:
                raise JournalRefused(
                    f"{Files(home).database}: ends at {head}, but {path.name} was made from events up to {header.seq} "
                    f"(WAL cut or deleted, or an older copy); put the right files back, or `synapse journal adopt "
                    f"--home {Files(home).quoted_home}` accepts the file as it is without the missing events"
                )
            if compaction is not None and header.seq < compaction.upto:
                raise _Unusable("events behind it were dropped")
            chain_hash = pages.hash_at(header.seq)
            if chain_hash is None or chain_hash.hex() != header.chain_hash:
                raise _Unusable("its chain hash is not the journal's")
            return Loaded(folding.decode(payload), header.seq, chain_hash, header.seq, notes)
        except (_Unusable, OSError, ValueError) as error:
            notes.append(f"snapshot {path.name} was not used: {error}")
    if compaction is not None:
        files = Files(home)
        start = pages.hash_at(compaction.upto)
        state = base_state(files, compaction, folding, read_base(files, compaction), start)
        assert start is not None
        return Loaded(state, compaction.upto, start, None, notes)
    start = pages.hash_at(identity.base)
    assert start is not None
    return Loaded(folding.new(), identity.base, start, None, notes)


def read_snapshot(path: Path) -> tuple[Header, bytes]:
    """Header and payload of a snapshot whose hashes all fit. Raises ValueError when one does not, OSError."""
    return parse_snapshot(path.read_bytes())


def parse_snapshot(data: bytes) -> tuple[Header, bytes]:
    """As `read_snapshot`, of its bytes. Raises ValueError."""
    end = data.find(b"\n", 0, _HEADER_BYTES_MAX) + 1
    line, payload = data[:end], data[end:]
    try:
        header = msgspec.json.decode(line, type=Header)
    except ValueError as error:
        raise ValueError("its header cannot be read") from error
    if header.format != FORMAT:
        raise ValueError(f"it has format {header.format}, this release reads {FORMAT}")
    if _sealed(header) != header or msgspec.json.encode(header) + b"\n" != line:
        raise ValueError("its header is damaged")
    if len(payload) != header.payload_bytes or sha256(payload).hexdigest() != header.payload_sha256:
        raise ValueError("its content is damaged")
    return header, payload


def take_snapshot(home: Path, folding: Folding[S]) -> Written | None:
    """Fold the journal of `home` up to its head and write that. None when the newest snapshot is there already.

    Runs beside a hub. Raises `JournalRefused`, `StoreFailed`, `DiskFull`.
    """
    reader = JournalReader(home)
    try:
        seq, chain_hash = reader.tip()
        loaded, folded = fold_up(home, reader, folding, identity=reader.identity, head=seq)
        if loaded.snapshot_seq == seq:
            return None
        assert folded.hash == chain_hash
        return write_snapshot(home, loaded.state, folding, identity=reader.identity, seq=seq, chain_hash=chain_hash)
    finally:
        reader.close()


def fold_up(
    home: Path, pages: Pages, folding: Folding[S], *, identity: Identity, head: int
) -> tuple[Loaded[S], Replayed]:
    """Load the newest usable snapshot and fold the tail onto its state, up to `head`.

    Raises `JournalRefused`, `StoreFailed`.
    """
    loaded = load_newest(home, folding, identity=identity, head=head, pages=pages)
    state, apply = loaded.state, folding.apply
    done = replay(
        pages,
        lambda recorded: apply(state, recorded),
        after=loaded.seq,
        upto=head,
        prev_hash=loaded.hash,
        refusal=lambda found, seq: damaged(Files(home), found, seq=seq),
    )
    return loaded, done


def _sealed(header: Header) -> Header:
    bare = msgspec.structs.replace(header, check="")
    return msgspec.structs.replace(bare, check=sha256(msgspec.json.encode(bare)).hexdigest())


def _newest_first(directory: Path) -> list[Path]:
    named = [path for path in directory.glob("*.snapshot") if path.stem.isdecimal()]
    return sorted(named, key=lambda path: int(path.stem), reverse=True)


def _prune(directory: Path, seq: int) -> None:
    """Older ones, and what a killed child had half written."""
    for path in _newest_first(directory)[KEPT:]:
        path.unlink(missing_ok=True)
    for path in directory.glob("*.snapshot.new"):
        begun = path.name.partition(".")[0]
        if begun.isdecimal() and int(begun) < seq:
            path.unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    """Entry of the child. Prints one JSON line, or one line on stderr, and answers the exit code."""
    try:
        written = take_snapshot(Path(arguments[0]).absolute(), core_folding())
    except JournalError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    facts: dict[str, bool | int | str] = {"written": written is not None}
    if written is not None:
        facts |= {"seq": written.seq, "bytes": written.size_bytes, "state_digest": written.state_digest}
    sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what is half written is cleared away
    sys.exit(main(sys.argv[1:]))
