"""Cuts during a restore. They leave the old journal, the new one, or a home that says it must be restored again.

Whatever a cut left: nothing that was answered is deleted, a journal that opens is one of the two in full, and no seq is
given out twice.
"""

import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.power.cuts import Cut, Report, run_judged
from tests.power.judge import LATER_MS, Broken, Uncut, rows_of, started
from tests.power.recording import Recording

from synapse.core.events import Row
from synapse.errors import JournalError
from synapse.journal.admin import restore

_MUST_RESTORE: Final = "journal.db: is missing, but"


@dataclass(frozen=True, slots=True)
class Restoring:
    """old: the hubs before; new: the same with the restore; backup: the file that was brought back."""

    old: Recording
    new: Recording
    backup: Path


def run_cuts_of(restoring: Restoring, cuts: Iterable[Cut], seed: int, folder: Path) -> tuple[Report, Counter[str]]:
    """As `cuts.run_cuts`; also how often a cut left what."""
    old, new, left = Uncut(restoring.old), Uncut(restoring.new), Counter[str]()

    def judged(home: Path, _: Cut) -> int:
        left[judge_restore(home, old, new, restoring.backup)] += 1
        return 0

    return run_judged(restoring.new, cuts, seed, folder, judged), left


def judge_restore(home: Path, old: Uncut, new: Uncut, backup: Path) -> str:
    """What the cut left: `old`, `new`, or `restored again`. Raises `Broken`."""
    kept, at_ms = _kept_aside(home), new.rows[-1].at_ms + LATER_MS
    try:
        with started(home, at_ms) as found:
            rows, head = rows_of(home), found.journal.head
            what = "old" if found.journal.journal_id == old.identity.journal_id else "new"
    except Broken as broken:
        if _MUST_RESTORE not in str(broken):
            raise
        try:
            head, rows, what = restore(home, backup, at_ms).head, [], "restored again"
        except JournalError as error:
            raise Broken("unusable", f"it cannot be restored again: {error}") from error
        with started(home, at_ms):
            pass
    kept = rows if what == "old" else kept
    if not kept or kept != old.rows[: len(kept)] or kept[-1].seq < old.told_at_end:
        raise Broken("lost", f"{what}: {len(kept)} rows are left of the old journal; {old.told_at_end} was told")
    if what == "new" and rows != new.rows:
        raise Broken("not ours", "neither the old rows nor the new ones")
    if head < old.told_at_end:
        raise Broken("unusable", f"{head} was given out before")
    return what


def _kept_aside(home: Path) -> list[Row]:
    """The rows of the journal that was moved aside; its WAL may be on its way still."""
    for directory in home.glob("aside/*"):
        if (directory / "journal.db").exists():
            copy = home.parent / "kept"
            shutil.copytree(directory, copy)
            if (home / "journal.db-wal").exists() and not (home / "journal.db").exists():
                shutil.copy(home / "journal.db-wal", copy)
            rows = rows_of(copy)
            shutil.rmtree(copy)
            return rows
    return []
