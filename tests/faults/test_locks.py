"""Another process holds a lock: of the database, in each of SQLite's ways, or of the home. At each point of a life the
outcome is that it does not matter, or 75 and one line; and when the lock is gone, everything acknowledged is there.
"""

import fcntl
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
from tests.faults.lives import Told, talk, truth
from tests.faults.stage import Stage
from tests.faults.table import rows_that_fit
from tests.faults.world import Past, lay_out
from tests.figures import tell

pytestmark = pytest.mark.xdist_group("faults-locks")


@contextmanager
def _connected(home: Path, *statements: str) -> Iterator[None]:
    with closing(sqlite3.connect(home / "journal.db", isolation_level=None)) as other:
        for statement in statements:
            other.execute(statement).fetchall()
        yield
        with suppress(sqlite3.Error):
            other.execute("ROLLBACK")


@contextmanager
def _home_lock(home: Path) -> Iterator[None]:
    descriptor = os.open(home / "hub.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.pwrite(descriptor, b"4711\n", 0)
        yield
    finally:
        os.close(descriptor)


LOCKS: Final[dict[str, Callable[[Path], AbstractContextManager[None]]]] = {
    "reads": lambda home: _connected(home, "BEGIN", "SELECT count(*) FROM events"),
    "writes": lambda home: _connected(home, "BEGIN IMMEDIATE"),
    "has it alone": lambda home: _connected(
        home, "PRAGMA locking_mode=EXCLUSIVE", "BEGIN EXCLUSIVE", "SELECT count(*) FROM events"
    ),
    "has the home": _home_lock,
}
CASES: Final = [
    ("start", "reads", 0),
    ("start", "writes", 75),
    ("start", "has it alone", 75),
    ("start", "has the home", 75),
    ("turn", "reads", 0),
    ("turn", "writes", 75),
    ("backup", "reads", 0),
    ("backup", "writes", 0),
    ("backup", "has it alone", 75),
    ("snapshot", "reads", 0),
    ("snapshot", "writes", 0),
    ("snapshot", "has it alone", 75),
    ("adopt", "has it alone", 75),
    ("adopt", "has the home", 75),
    ("restore", "has the home", 75),
]


@pytest.mark.figures
@pytest.mark.parametrize(("point", "lock", "code"), CASES)
def test_a_lock_of_another_process_is_told_or_does_not_matter(
    stage: Stage, past: Past, directory: Path, point: str, lock: str, code: int
) -> None:
    home, told = directory / "home", Told()
    lay_out(home, past.copies[past.head])
    (home / "copy.db").unlink(missing_ok=True)
    (home / "older.db").write_bytes(past.copies[sorted(past.copies)[2]]["journal.db"])
    words = {
        "backup": ("journal", "backup", str(home / "copy.db"), "--home", str(home)),
        "snapshot": ("snapshot", str(home)),
        "adopt": ("journal", "adopt", "--home", str(home)),
        "restore": ("journal", "restore", str(home / "older.db"), "--home", str(home)),
    }.get(point, ("hub", "--home", str(home), "--port", "0"))
    with ExitStack() as locked:
        if point != "turn":
            locked.enter_context(LOCKS[lock](home))
        with stage.start(*words) as process:
            if words[0] == "hub" and process.is_ready(home):
                if point == "turn":
                    locked.enter_context(LOCKS[lock](home))
                with suppress(OSError, EOFError):
                    talk(home, told)
                    told.is_done = True
                if told.is_done:
                    process.signal(signal.SIGTERM)
            outcome = process.end()
    row, is_kept = f"lock at {point}, another {lock}: exit code", outcome.code == code
    tell("storage faults", row, outcome.code, bound=f"= {code}", is_kept=is_kept)
    assert "Traceback" not in process.said
    assert outcome.code == code, outcome
    if words[0] == "hub":
        assert code == 0 or rows_that_fit(outcome, home), outcome.line
        assert told.is_done == (code == 0)
    elif code:
        assert "locked by another process" in outcome.line or "already in use" in outcome.line, outcome.line
        assert not list(home.glob("*.new"))
    assert truth(home, past, told) == ""
