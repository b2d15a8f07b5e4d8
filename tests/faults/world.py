"""A home with a known past, laid out again and again with something broken, started in this process, and judged.

A real hub wrote the files. What was acknowledged is known event by event, and the state after each: so what a start on
broken files makes of them is right, refused, or wrong. Nothing here runs a hub: `recover` is what its start does, then
the check in the background, and the pages that readers get.
"""

import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.faults.conftest import HubProcess, Line, Outcome, line_to, message
from tests.faults.table import rows_that_fit

from synapse.core import kernel
from synapse.core.events import Recorded, Row
from synapse.core.state import encode_state, new_state
from synapse.errors import JournalError, JournalRefused
from synapse.journal.files import Files
from synapse.journal.mark import Mark, encode_mark
from synapse.journal.proof import touched_by
from synapse.journal.reader import JournalReader
from synapse.journal.recovery import recover, verify_older
from synapse.journal.snapshot import core_folding, take_snapshot
from synapse.journal.upcast import decode
from synapse.protocol.commands import AckInbox, ClaimLease, ReleaseLease, SendMessage, TakeInbox
from synapse.protocol.replies import Lease, Released, Sent, Taken

RESERVE_BYTES: Final = 4096
AT_MS: Final = 1_800_000_000_000
NAMES: Final = ("journal.db", "journal.db-wal", "journal.db-shm", "journal.mark")
CLEAN, REFUSED, LATER, OLDER, WRONG = "started whole", "refused", "refused once ready", "an older copy", "WRONG"
SURPRISES: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    sqlite3.Error,
)
"""What a start must never end with: the hub would say a traceback and exit with 1."""

Copy = Mapping[str, bytes]
"""The files of a home by their names below it."""


def copy_of(home: Path) -> dict[str, bytes]:
    """The files that make a journal, with its snapshots."""
    paths = [home / name for name in NAMES] + sorted((home / "snapshots").glob("*.snapshot"))
    return {str(path.relative_to(home)): path.read_bytes() for path in paths if path.exists()}


def lay_out(home: Path, copy: Copy) -> None:
    """Make a home of exactly these files, all of them new: SQLite knows open files by their inodes."""
    (home / "snapshots").mkdir(parents=True, exist_ok=True)
    for path in (*home.iterdir(), *(home / "snapshots").iterdir()):
        if not path.is_dir():
            path.unlink()
    for name, data in copy.items():
        (home / name).write_bytes(data)


@dataclass(frozen=True)
class Past:
    """What was acknowledged: every event, the state after each, and the home's files as they were at some heads."""

    hub_id: str
    journal_id: str
    base: int
    rows: list[Row]
    hashes: dict[int, bytes]
    states: dict[int, bytes]
    copies: dict[int, dict[str, bytes]]

    @property
    def head(self) -> int:
        """The last acknowledged event."""
        return self.base + len(self.rows)

    def mark(self, seq: int) -> bytes:
        """The mark as it was when `seq` had just been acknowledged."""
        return encode_mark(Mark(self.hub_id, self.journal_id, seq, self.hashes[seq]))

    def keys(self, upto: int) -> dict[str, list[int]]:
        """Which events each index key names."""
        found: dict[str, list[int]] = {}
        for row in self.rows[: upto - self.base]:
            for key in sorted(touched_by(row)):
                found.setdefault(key, []).append(row.seq)
        return found


@dataclass
class Verdict:
    """What became of a home. kind: one of the five words above."""

    kind: str
    line: str = ""
    head: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass
class Tally:
    """Verdicts over a sweep, with the cases that are wrong. files: how often which file was damaged."""

    kinds: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, case: str, verdict: Verdict, expected: Iterable[str]) -> None:
        """Count a case; one whose verdict is not among the expected ones is wrong."""
        self.kinds[verdict.kind] += 1
        if verdict.kind not in expected:
            self.wrong.append(f"{case}: {verdict.kind}, head {verdict.head}: {verdict.line}")

    @property
    def cases(self) -> int:
        """How many were judged."""
        return self.kinds.total()

    def __str__(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())


def judge(home: Path, past: Past) -> Verdict:
    """Start on a home that holds files of this past, and compare everything it answers with what was."""
    before = copy_of(home)
    try:
        found = recover(home, AT_MS, reserve_bytes=RESERVE_BYTES)
    except JournalError as error:
        return _judge_refusal(home, before, error)
    except SURPRISES as error:
        return Verdict(WRONG, f"it ended with {type(error).__name__}: {error}")
    journal, state = found.journal, found.state
    head = journal.head
    try:
        rows = past.rows[: head - past.base]
        if (journal.hub_id, journal.journal_id, journal.base) != (past.hub_id, past.journal_id, past.base):
            return Verdict(WRONG, "it is another journal", head)
        if head > past.head or encode_state(state) != past.states[head]:
            return Verdict(WRONG, "its state is not the one after its head", head)
        told = _read_all(home, past, head)
        if told is None or told == rows:
            return Verdict(LATER if told is None else CLEAN if head == past.head else OLDER, "", head, found.notes)
        return Verdict(WRONG, f"it has {len(told)} other events", head)
    except AssertionError as lie:
        return Verdict(WRONG, str(lie), head)
    except SURPRISES as error:
        return Verdict(WRONG, f"a reader ended with {type(error).__name__}: {error}", head)
    finally:
        journal.close()


def _judge_refusal(home: Path, before: Copy, error: JournalError) -> Verdict:
    """A refusal has one documented line, its exit code, and changed no byte."""
    line = f"synapse hub: {error}"
    if "\n" in line:
        return Verdict(WRONG, f"more than one line: {line}")
    if not rows_that_fit(Outcome(error.exit_code, line), home):
        return Verdict(WRONG, f"not documented: {error.exit_code} {line}")
    after = copy_of(home)
    for name in NAMES[:2] + NAMES[3:]:
        if before.get(name, b"") != after.get(name, b""):
            return Verdict(WRONG, f"a refused start changed {name}: {line}")
    return Verdict(REFUSED, line)


def _read_all(home: Path, past: Past, head: int) -> list[Row] | None:
    """What readers of a started journal get; None when it is refused to them. AssertionError: they get a wrong answer.

    By each index key first, as the hub's readers do before the check in the background is through.
    """
    reader = JournalReader(home)
    reader.trusts_index = False
    try:
        for key, seqs in past.keys(head).items():
            with suppress(JournalRefused):
                got = [row.seq for row in reader.page([key], past.base, head, len(seqs) + 9)]
                assert got == seqs, f"a page of {key} has {len(got)} events of {len(seqs)}"
            with suppress(JournalRefused):
                got = [row.seq for row in reader.page_back([key], head + 1, len(seqs) + 9)]
                assert got == seqs, f"a page back of {key} has {len(got)} events of {len(seqs)}"
        verify_older(reader, head, lambda: False)
        rows = reader.scan(past.base, head, -1)
    except JournalRefused:
        return None
    finally:
        reader.close()
    return [row._replace(also=()) for row in rows]


# making one


def make_past(home: Path) -> Past:
    """Five lives of a hub: killed, snapshot, killed, stopped, snapshot, killed. The files after each are kept."""
    copies: dict[int, dict[str, bytes]] = {}

    def keep() -> None:
        reader = JournalReader(home)
        copies[reader.tip()[0]] = copy_of(home)
        reader.close()

    for life in range(5):
        with HubProcess(home).until_ready() as hub:
            with line_to(home, "bob") as bob, line_to(home) as ada:
                _live(ada, bob, life)
            if life == 2:
                hub.stop()
            else:
                hub.kill()
        (home / "journal.reserve").unlink()
        keep()
        if life in (0, 2):
            assert take_snapshot(home, core_folding()) is not None
            keep()
    return _told(home, copies)


def _live(ada: Line, bob: Line, life: int) -> None:
    """Some of everything, one request at a time: one commit each."""
    for number in range(8):
        ada.ask(message(f"life {life}, message {number} " + "x" * (number * 150)), Sent)
        ada.ask(SendMessage(body=message(f"life {life}, for bob").body, to=("bob",)), Sent, f"key-{life}-{number}")
    epoch = ada.ask(ClaimLease(task=f"task-{life}", paths=(f"src/{life}/**",), worktree="/w"), Lease).epoch
    taken = bob.ask(TakeInbox(), Taken).message
    assert taken is not None
    bob.ask(AckInbox(ids=(taken.id,)), object)
    if life % 2:
        ada.ask(ReleaseLease(task=f"task-{life}", epoch=epoch), Released)


def _told(home: Path, copies: dict[int, dict[str, bytes]]) -> Past:
    """Read everything, before anything is broken."""
    reader = JournalReader(home)
    head = reader.tip()[0]
    identity = reader.identity
    rows = [row._replace(also=()) for row in reader.scan(identity.base, head, -1)]
    state = new_state()
    hashes, states = {}, {}
    for row in rows:
        kernel.apply(state, Recorded(row.seq, row.at_ms, row.actor, decode(row)))
        states[row.seq] = encode_state(state)
        hashes[row.seq] = reader.hash_at(row.seq) or b""
    reader.close()
    assert Files(home).wal.stat().st_size > os.sysconf("SC_PAGE_SIZE"), "the last life ended with a kill"
    return Past(identity.hub_id, identity.journal_id, identity.base, rows, hashes, states, copies)
