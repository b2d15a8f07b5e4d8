"""The disk is full at every point: a turn, a snapshot, a backup, a restore, an adoption and a start meet it with
whatever is left, from nothing to more than they need; then space comes back.

On a small tmpfs, with a hub that is the real program. What must hold for every number of bytes left: the outcome is
"it worked" or the one documented line with its exit code; a hub that is full answers reads and refuses writes with
`read_only`; the number of missing bytes that a start names is enough; nothing half-made stays; and when space is back
the hub takes writes again, with everything that was acknowledged, each once, and nothing that was refused.

`make test` takes a sample with a fixed seed, `make prove` a larger one, `FAULTS_FULL=1` each page.
"""

import os
import random
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.faults.conftest import Outcome, free, line_to, message, small_disk, wait_until
from tests.faults.lives import IS_FULL, SEED, Told, talk, truth
from tests.faults.stage import Stage
from tests.faults.table import rows_that_fit
from tests.faults.world import Past, lay_out
from tests.figures import tell

from synapse.journal.reserve import RESERVE_BYTES
from synapse.protocol.commands import ReadHistory, ShowStatus
from synapse.protocol.replies import History, Status

pytestmark = pytest.mark.xdist_group("faults-space")

PAGE: Final = 4096
DISK_BYTES: Final = 64 << 20
NEEDED_BYTES: Final = 24 << 20
"""With so much left a hub is never read-only: the reserve, and room for work beside it."""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with small_disk(tmp_path_factory.mktemp("space") / "disk", DISK_BYTES) as path:
        yield path


class Space:
    """A home on a small disk, and the file that takes up the rest of it."""

    def __init__(self, disk: Path, past: Past, *, has_reserve: bool = True, has_snapshots: bool = True) -> None:
        self.home = disk / "home"
        self._filler = disk / "filler"
        self._filler.unlink(missing_ok=True)
        shutil.rmtree(self.home, ignore_errors=True)
        copy = past.copies[past.head]
        lay_out(self.home, {name: copy[name] for name in copy if has_snapshots or not name.startswith("snap")})
        if has_reserve:
            (self.home / "journal.reserve").write_bytes(bytes(RESERVE_BYTES))

    def leave(self, left: int) -> None:
        """Fill the disk so that so many bytes are free, or make them free."""
        self._filler.touch()
        size = self._filler.stat().st_size
        room = free(self.home.parent) + size - left
        assert room > 0, "the disk is too small for this"
        with self._filler.open("r+b") as file:
            if room < size:
                file.truncate(room)
            elif room > size:
                os.posix_fallocate(file.fileno(), 0, room)
        assert free(self.home.parent) // PAGE == left // PAGE

    def clear(self) -> None:
        """Space comes back."""
        self._filler.unlink()

    def litter(self) -> list[str]:
        """What is half-made and was left behind."""
        return [path.name for path in (*self.home.iterdir(), *self.home.glob("snapshots/*")) if ".new" in path.name]


def sizes(count: int, seed: int) -> list[int]:
    """How much is left: pages up to 256 KiB, coarser steps up to 3 MiB."""
    every = [*range(0, 64 * PAGE, PAGE), *range(256 << 10, 3 << 20, 64 << 10)]
    return every if IS_FULL else sorted({0, *random.Random(seed).sample(every, count - 1)})


def documented(outcome: Outcome, home: Path) -> str:
    """Nothing, or that a line is not in the table."""
    code = 0 if outcome.line.startswith(str(home)) else 74  # a snapshot's child speaks to the hub, which goes on
    is_known = outcome.code == 74 and rows_that_fit(Outcome(code, outcome.line), home)
    return "" if is_known else f"not documented: {outcome.code} {outcome.line}"


def meets_a_start(stage: Stage, past: Past, disk: Path, left: int, *, has_reserve: bool) -> tuple[str, str]:
    """A hub starts with so much left. Answers what it did, and what is wrong."""
    space, told = Space(disk, past, has_reserve=has_reserve), Told()
    home = space.home
    space.leave(left)
    command = ("hub", "--home", str(home), "--port", "0")
    with stage.start(*command) as hub:
        if not hub.is_ready(home):
            outcome = hub.end()
            missing = re.search(r"full; (\d+) more bytes are needed to start", outcome.line)
            if wrong := documented(outcome, home):
                return "refused", wrong
            space.leave(free(disk) + (int(missing[1]) + PAGE if missing else 2 << 20))
            with stage.start(*command) as again:
                if not again.is_ready(home):
                    return "refused", f"with what it asked for it says: {again.end().line}"
                again.signal(signal.SIGKILL)
            space.clear()
            return "refused", truth(home, past, told)
        return run_full(hub_talks(home, told, space), hub.signal, hub.end, lambda: truth(home, past, told))


def hub_talks(home: Path, told: Told, space: Space) -> str:
    """Talk to a hub that may be read-only, give space back, and talk again. Answers what it was."""
    with line_to(home) as ada:
        is_read_only = ada.ask(ShowStatus(), Status).read_only
        if is_read_only:
            error = ada.refused(message("refused"))
            told.refused.add("refused")
            assert (error.code, error.retry_after_ms) == ("read_only", 1000)
            assert ada.ask(ReadHistory(channel="main:general", limit=5), History).messages
        space.clear()
        wait_until("it is writable", lambda: not ada.ask(ShowStatus(), Status).read_only)
    talk(home, told)
    return "read-only" if is_read_only else "writable"


def run_full(
    did: str, send: Callable[[int], None], end: Callable[[], Outcome], check: Callable[[], str]
) -> tuple[str, str]:
    """Stop the hub, and judge what it left."""
    send(signal.SIGTERM)
    outcome = end()
    return did, f"{outcome.code} {outcome.line}" if outcome.code else check()


def meets_a_turn(stage: Stage, past: Past, disk: Path, left: int) -> tuple[str, str]:
    """A hub runs, and so much is left; clients write until it is read-only, or have written twice as much."""
    space, told = Space(disk, past), Told()
    home = space.home
    with stage.start("hub", "--home", str(home), "--port", "0") as hub:
        assert hub.is_ready(home)
        space.leave(left)
        with line_to(home) as ada:
            written, number = 0, 0
            while not told.refused and written < 2 * left + (1 << 20):
                told.send(ada, f"{number} " + "x" * (left * number % 50_021))
                written += left * number % 50_021 + PAGE
                number += 1
            assert ada.ask(ReadHistory(channel="main:general", limit=5), History).messages
            space.leave(free(disk) + left)  # too little comes back
            told.send(ada, "still refused")
            assert "still refused" in told.refused
        did = hub_talks(home, told, space)
        return run_full(did, hub.signal, hub.end, lambda: truth(home, past, told))


def meets_a_verb(stage: Stage, past: Past, disk: Path, left: int, *words: str) -> tuple[str, str]:
    """A verb runs with so much left: it works, or says so, leaves nothing half-made, and works with space."""
    space = Space(disk, past, has_snapshots=False)
    home = space.home
    if "adopt" in words:
        wal = home / "journal.db-wal"
        os.truncate(wal, wal.stat().st_size - 9000)
    (home / "older.db").write_bytes(past.copies[sorted(past.copies)[2]]["journal.db"])
    space.leave(left)
    command = [word.replace("HOME", str(home)) for word in words]
    with stage.start(*command) as process:
        outcome = process.end()
    if outcome.code == 0:
        return "done", f"left behind: {space.litter()}" if space.litter() else ""
    if wrong := documented(outcome, home):
        return "refused", wrong
    if litter := space.litter():
        return "refused", f"left behind: {litter}"
    space.clear()
    with stage.start(*command) as again:
        second = again.end()
    return "refused", f"with space it says: {second.line}" if second.code else ""


Point = Callable[[Stage, Past, Path, int], tuple[str, str]]
POINTS: Final[dict[str, Point]] = {
    "turn": meets_a_turn,
    "start": lambda *case: meets_a_start(*case, has_reserve=True),
    "start without a reserve": lambda *case: meets_a_start(*case, has_reserve=False),
    "snapshot": lambda *case: meets_a_verb(*case, "snapshot", "HOME"),
    "backup": lambda *case: meets_a_verb(*case, "journal", "backup", "HOME/copy.db", "--home", "HOME"),
    "restore": lambda *case: meets_a_verb(*case, "journal", "restore", "HOME/older.db", "--home", "HOME"),
    "adopt": lambda *case: meets_a_verb(*case, "journal", "adopt", "--home", "HOME"),
}


def check_point(stage: Stage, past: Past, disk: Path, name: str, count: int) -> None:
    """A sweep over what is left, at one point of a life."""
    did: Counter[str] = Counter()
    wrong = []
    cases = sizes(count, SEED + len(name))
    for left in cases:
        what, found = POINTS[name](stage, past, disk, left)
        did[what] += 1
        if found:
            wrong.append(f"{name} with {left} bytes left: {found}")
    print(f"full disk at {name}: {dict(did)}")
    part = "storage faults"
    tell(part, f"full disk at {name}: cases", len(cases), seed=SEED)
    tell(part, f"full disk at {name}: lost, wrong or undocumented", len(wrong), bound="= 0", is_kept=not wrong)
    assert wrong == []
    assert did["refused"] + did["read-only"], "the disk was never full"


@pytest.mark.parametrize("name", POINTS)
def test_a_full_disk_loses_nothing(stage: Stage, past: Past, disk: Path, name: str) -> None:
    check_point(stage, past, disk, name, 3)


@pytest.mark.prove
@pytest.mark.parametrize("name", POINTS)
def test_a_full_disk_loses_nothing_whatever_is_left(stage: Stage, past: Past, disk: Path, name: str) -> None:
    check_point(stage, past, disk, name, 20)
