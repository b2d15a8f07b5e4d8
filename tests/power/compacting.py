"""Cuts during a compaction. They leave the journal with all bodies, or without some that were to go, and nothing else.

Whatever a cut left: no row is gone, no body that was to stay is, none at all before the event that says so, the state
is that of the whole journal, and the same compaction can be asked for again.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tests.power.cuts import Cut, Report, run_judged
from tests.power.judge import LATER_MS, Broken, Uncut, prove, rows_of, started
from tests.power.recording import Recording

from synapse.core.events import Row
from synapse.errors import JournalError
from synapse.journal.compaction import compact

DAY_MS: Final = 86_400_000
KEPT: Final = {"messages": DAY_MS, "leases": DAY_MS}
LATER_BY_DAYS: Final = 2
COMPACTS: Final = f"""
import sys, time
from pathlib import Path
from synapse.journal.compaction import compact
at_ms = int(time.time() * 1000) + {LATER_BY_DAYS * DAY_MS}
assert compact(Path(sys.argv[1]), {KEPT}, at_ms, dry_run=False).rows
"""
"""Compacts a home, as an operator does two days later."""


@dataclass(frozen=True, slots=True)
class Compacting:
    """old: the hubs before; new: the same with the compaction."""

    old: Recording
    new: Recording

    @property
    def whole(self) -> list[Row]:
        """Every row with its body, and the event of the compaction."""
        return [*self.old.rows, *self.new.rows[len(self.old.rows) :]]

    @property
    def dropped(self) -> frozenset[int]:
        """The rows whose bodies were to go."""
        return frozenset(row.seq for row in self.new.rows if not row.body)


def run_cuts_of(compacting: Compacting, cuts: Iterable[Cut], seed: int, folder: Path) -> tuple[Report, Counter[str]]:
    """As `cuts.run_cuts`; also how often a cut left what."""
    uncut, dropped = Uncut(replace(compacting.new, rows=compacting.whole)), compacting.dropped
    left = Counter[str]()

    def judged(home: Path, _: Cut) -> int:
        left[judge_compaction(home, uncut, dropped)] += 1
        return len(uncut.operations)

    return run_judged(compacting.new, cuts, seed, folder, judged), left


def judge_compaction(home: Path, uncut: Uncut, dropped: frozenset[int]) -> str:
    """What the cut left: `all bodies`, `the event`, `some bodies`, or `what was to stay`. Raises `Broken`."""
    at_ms = uncut.rows[-1].at_ms + LATER_MS
    with started(home, at_ms) as found:
        rows = rows_of(home)
        what = _what_is_left(rows, uncut, dropped)
        if found.journal.journal_id != uncut.identity.journal_id:
            raise Broken("not ours", "another journal")
        if found.journal.head < uncut.told_at_end:
            raise Broken("lost", f"{uncut.told_at_end} was told, head {found.journal.head}")
        prove(home, found, len(rows), uncut)
    try:
        compact(home, KEPT, at_ms, dry_run=False)
    except JournalError as error:
        raise Broken("unusable", f"it cannot be compacted again: {error}") from error
    with started(home, at_ms):
        gone = {row.seq for row in rows_of(home) if not row.body}
    if not gone >= dropped:
        raise Broken("unusable", f"{len(dropped - gone)} bodies stay for ever")
    return what


def _what_is_left(rows: list[Row], uncut: Uncut, dropped: frozenset[int]) -> str:
    """Of the bodies. Raises `Broken` when a row is another, or its body went that was to stay."""
    gone = {row.seq for row in rows if not row.body}
    whole = {row.seq: row for row in uncut.rows}
    has_event = len(rows) == len(whole)
    if [row.seq for row in rows] != [row.seq for row in uncut.rows[: len(rows)]]:
        raise Broken("not ours", "other rows")
    if not gone <= dropped:
        raise Broken("lost", f"the bodies of {sorted(gone - dropped)[:5]}, which were to stay")
    if gone and not has_event:
        raise Broken("lost", f"{len(gone)} bodies before the event that says so")
    if any(row.body and row != whole[row.seq] for row in rows):
        raise Broken("not ours", "another row")
    if gone == dropped:
        return "what was to stay"
    return "some bodies" if gone else "the event" if has_event else "all bodies"
