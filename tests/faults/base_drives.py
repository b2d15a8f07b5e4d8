"""Rows of the fault table about the base of a compacted journal: lost, or another."""

import subprocess
import sys
import time
from pathlib import Path

from tests.faults.conftest import HubProcess, Outcome, bytes_of, flip, line_to, run_synapse, start_fails, stopped_home
from tests.faults.table import fault

from synapse.journal.compaction import compact

DAY_MS = 24 * 3600 * 1000


def compacted_home(home: Path) -> Path:
    """A stopped home whose messages were dropped, as if two days later; its base."""
    stopped_home(home)
    report = compact(home, {"messages": DAY_MS}, int(time.time() * 1000) + 2 * DAY_MS, dry_run=False)
    assert report.rows >= 8, "the messages went"
    [base] = (home / "bases").iterdir()
    return base


def refused(home: Path) -> tuple[Path, Outcome]:
    """A start that must fail and change no byte."""
    before = bytes_of(home)
    outcome = start_fails(home)
    assert bytes_of(home) == before, "a refused start changed a byte"
    return home, outcome


@fault("base-deleted")
def _base_deleted(directory: Path) -> tuple[Path, Outcome]:
    compacted_home(directory / "home").unlink()
    return refused(directory / "home")


@fault("base-bit-flipped")
def _base_flipped(directory: Path) -> tuple[Path, Outcome]:
    base = compacted_home(directory / "home")
    flip(base, base.stat().st_size // 2)
    return refused(directory / "home")


@fault("base-deleted-behind-a-snapshot")
def _base_behind_a_snapshot(directory: Path) -> tuple[Path, Outcome]:
    home = directory / "home"
    base = compacted_home(home)
    child = [sys.executable, "-m", "synapse.journal.snapshot", str(home)]
    subprocess.run(child, check=True, capture_output=True, timeout=30)
    base.unlink()
    with HubProcess(home).until_ready() as hub:
        with line_to(home) as ada:
            assert ada.post("the snapshot made up for it").n == 9
        assert hub.stop().code == 0
    before = bytes_of(home)
    outcome = run_synapse("journal", "verify", home=home)
    assert bytes_of(home) == before
    return home, outcome


@fault("backup-without-base")
def _backup_without_base(directory: Path) -> tuple[Path, Outcome]:
    home = directory / "home"
    compacted_home(home).unlink()
    outcome = run_synapse("journal", "backup", str(home / "backup.db"), home=home)
    assert not list(home.glob("backup.db*")), "no backup is left that could not be restored"
    return home, outcome
