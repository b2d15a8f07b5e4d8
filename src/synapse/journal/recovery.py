"""The start of a hub on a home: lock, examine, fold snapshot and tail, and only then open for writing.

    found in the home                                     answer
    nothing of a journal                                  a new journal without events
    database and mark that agree                          opened
    database, waiting `journal.mark.new` that fits it     an interrupted restore or adoption is finished, then opened
    no database, but a mark, WAL, reserve or snapshot     refused 78: is missing
    database of 0 bytes, no database, another's database  refused 78
    newer schema, newer event                             refused 78: newer
    mark missing, short or damaged                        refused 78
    mark (or a whole snapshot) ahead of the head          refused 78: WAL cut or deleted, or an older copy
    mark of another journal, or another hash at its seq   refused 78
    a row or page that does not prove itself              refused 78: journal_broken
    home or file not writable                             refused 78
    another hub, or another process locking the database  75
    no room, reserve there                                opened read-only, the reserve given up
    no room, no reserve                                   74: how many bytes are missing

A refused start changes no byte of the database, its WAL, the mark or a snapshot. (SQLite makes an empty `-wal` and a
`-shm` where there is none, and fills the latter: it is an index that holds nothing of its own.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic

from synapse.errors import JournalRefused
from synapse.journal.connection import damaged
from synapse.journal.evidence import Evidence
from synapse.journal.files import Files
from synapse.journal.proof import check_index
from synapse.journal.reader import JournalReader
from synapse.journal.replay import Replayed
from synapse.journal.reserve import RESERVE_BYTES
from synapse.journal.snapshot import Folding, Loaded, S, core_folding, fold_up
from synapse.journal.store import Journal

if TYPE_CHECKING:
    from synapse.core.state import State


@dataclass(frozen=True, slots=True)
class Recovered(Generic[S]):
    """A journal open for writing and the state at its head.

    snapshot_seq: where the fold began, None at the base; the rows up to there still wait for `verify_older`. notes:
    lines for the log, such as a snapshot that was not used.
    """

    journal: Journal
    state: S
    replayed_events: int
    snapshot_seq: int | None
    notes: list[str]


def recover(home: Path, at_ms: int, *, reserve_bytes: int = RESERVE_BYTES) -> "Recovered[State]":
    """Open the journal of `home` and fold it into the hub's state, or make a new journal in a home without a trace.

    Raises `JournalLocked` (75), `JournalRefused` (78), `DiskFull` and `StoreFailed` (74), as the table above says.
    """
    return recover_with(home, at_ms, core_folding(), reserve_bytes=reserve_bytes)


def recover_with(home: Path, at_ms: int, folding: Folding[S], *, reserve_bytes: int = RESERVE_BYTES) -> Recovered[S]:
    """As `recover`, with any folding."""
    home = home.absolute()
    found: list[tuple[Loaded[S], Replayed]] = []

    def prove(evidence: Evidence) -> None:
        reader = JournalReader(home)
        try:
            loaded, folded = fold_up(home, reader, folding, identity=evidence.identity, head=evidence.head)
            if folded.hash != evidence.head_hash:
                raise damaged(Files(home), f"its head {evidence.head} changed while it was read")
            found.append((loaded, folded))
        finally:
            reader.close()

    journal = Journal.open(home, at_ms=at_ms, prove=prove, reserve_bytes=reserve_bytes)
    [(loaded, folded)] = found
    return Recovered(journal, loaded.state, folded.events, loaded.snapshot_seq, loaded.notes)


def verify_older(reader: JournalReader, upto: int, stop: Callable[[], bool]) -> int | None:
    """Verify every row up to `upto` and the index of all of them; answer how many, or None when stopped early.

    For a thread of its own with a reader of its own, once the hub is ready; `upto` is the head then. stop is asked
    about every thousand rows.

    Raises `JournalRefused` (`journal_broken`, with the seq where it is known) and `StoreFailed`.
    """
    report = check_index(reader, upto, stop)
    if report is None:
        return None
    if not report.index_is_whole:
        raise JournalRefused(
            f"{reader.path}: journal_broken: the index does not fit the events; `synapse journal adopt --home "
            f"{reader.path.parent}` rebuilds it"
        )
    return report.events
