"""More rows of the fault table: a full disk, and failing calls. Which call it is differs, so each is tried in turn."""

import atexit
import errno
import signal
from contextlib import suppress
from functools import cache
from pathlib import Path

from tests.conftest import require_tool
from tests.faults.conftest import (
    HubProcess,
    Outcome,
    fill,
    killed_home,
    line_to,
    run_synapse,
    small_disk,
    stopped_home,
    wait_until,
)
from tests.faults.stage import FOR_EVER, Stage
from tests.faults.table import fault, fits, promises

CALLS_MAX = 120
DISK_BYTES = 40 << 20


@fault("snapshot-full")
def _snapshot_full(directory: Path) -> tuple[Path, Outcome]:
    with small_disk(directory / "disk", DISK_BYTES) as disk:
        home = killed_home(disk / "home", 80)  # its WAL has room for what follows
        with HubProcess(home, "--snapshot-events", "100").until_ready() as hub, line_to(home) as ada:
            fill(disk)
            for number in range(30):
                ada.post(f"message {80 + number}")
            wait_until("the child has failed", lambda: hub.has_logged("snapshot.failed"))
            assert not list(home.glob("snapshots/*"))
            assert hub.stop().code == 0
            return home, Outcome(0, hub.log_text("snapshot.failed"))


@fault("verb-full")
def _verb_full(directory: Path) -> tuple[Path, Outcome]:
    with small_disk(directory / "disk", DISK_BYTES) as disk:
        home = stopped_home(disk / "home")
        fill(disk)
        return home, run_synapse("journal", "verify", home=home)


@fault("verb-full-halfway")
def _verb_full_halfway(directory: Path) -> tuple[Path, Outcome]:
    with small_disk(directory / "disk", DISK_BYTES) as disk:
        home = stopped_home(disk / "home")
        fill(disk, 40 << 10)
        outcome = run_synapse("journal", "backup", str(home / "copy.db"), home=home)
        assert not list(home.glob("copy.db*"))
        return home, outcome


@cache
def _stage() -> Stage:
    """One for all rows."""
    stage = Stage(require_tool("fiu-run", "fiu-utils"))
    atexit.register(stage.close)
    return stage


def failing(row: str, call: str, error: int, *, lasts: bool = False, about: int = 1) -> None:
    """Drive a row by letting the N-th call fail, for the first N from `about` on that ends a hub as the row says."""

    def drive(directory: Path) -> tuple[Path, Outcome]:
        stage, home = _stage(), killed_home(directory / "home")
        (home / "config.toml").touch()
        [words] = [promise.words for promise in promises() if promise.fault == row]
        outcome = Outcome(0, "")
        for first in (*range(about, CALLS_MAX), *range(1, about)):
            outcome = _live(stage, home, call, first, error, lasts=lasts)
            if fits(words, outcome.line, home):
                break
        return home, outcome

    fault(row)(drive)


def _live(stage: Stage, home: Path, call: str, first: int, error: int, *, lasts: bool) -> Outcome:
    last = FOR_EVER if lasts else first
    words = ("hub", "--home", str(home), "--port", "0")
    with stage.start(*words, call=call, first=first, last=last, error=error) as hub:
        if hub.is_ready(home):
            is_served = False
            with suppress(OSError, EOFError, AssertionError), line_to(home) as ada:
                for number in range(3):
                    ada.post(f"message {number}")
                is_served = True
            if is_served or not hub.has_ended(3):
                hub.switch.heal()
                hub.signal(signal.SIGTERM)
        return hub.end()


failing("names-not-synced-at-start", "fsync", errno.EIO)
failing("file-fails-at-start", "pwrite", errno.EIO)
failing("lock-without-room", "open", errno.ENOSPC)
failing("token-fails", "open", errno.EIO, about=16)
failing("config-unreadable", "open", errno.EIO)
failing("not-opened-for-writing", "open", errno.EMFILE, about=10)
failing("descriptors-exhausted-at-start", "open", errno.EMFILE)
failing("socket-fails", "unlink", errno.EIO)
failing("write-fails", "pwrite", errno.EIO, about=17)
failing("mark-fails", "pwrite", errno.EIO, about=24)
failing("full-and-reserve-spent", "pwrite", errno.ENOSPC, lasts=True, about=16)
