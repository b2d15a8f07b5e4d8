"""Rows of the fault table that one failing call brings about: which call it is differs, so each is tried in turn."""

import atexit
import errno
import signal
from contextlib import suppress
from functools import cache
from pathlib import Path

from tests.conftest import require_tool
from tests.faults.conftest import Outcome, killed_home, line_to
from tests.faults.stage import FOR_EVER, Stage
from tests.faults.table import fault, fits, promises

CALLS_MAX = 120


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
            with suppress(OSError, EOFError, AssertionError), line_to(home) as ada:
                for number in range(3):
                    ada.post(f"message {number}")
            if not hub.has_ended(0.1):
                hub.switch.heal()
                hub.signal(signal.SIGTERM)
        return hub.end()


failing("names-not-synced-at-start", "fsync", errno.EIO)
failing("file-fails-at-start", "pwrite", errno.EIO)
failing("token-fails", "open", errno.EIO, about=16)
failing("config-unreadable", "open", errno.EIO)
failing("not-opened-for-writing", "open", errno.EMFILE, about=10)
failing("descriptors-exhausted-at-start", "open", errno.EMFILE)
failing("socket-fails", "unlink", errno.EIO)
failing("write-fails", "pwrite", errno.EIO, about=17)
failing("mark-fails", "pwrite", errno.EIO, about=24)
failing("full-and-reserve-spent", "pwrite", errno.ENOSPC, lasts=True, about=16)
