"""The N-th call fails, for every N: syncs, writes, opens, renames in a whole life of a hub, and in operators' verbs.

A life: a hub starts on a home whose hub was killed, is asked for messages, some of them in one piece, a lease and an
ack, and is stopped. It has a first commit, a group commit, marks and checkpoints; a snapshot is a process of its own,
and tried as the operators' verbs are. In each case one call of it fails (or, for a disk that is full or gone, that one
and all after it), that of the stop included. Then either the hub went on and exits with 0, or it ended with a
documented line and exit code; and the next start has what was acknowledged, each once and in its place, nothing that
was refused, and of what was never answered all or nothing.

`make test` takes a sample with a fixed seed. `make prove` tries every N of each kind with a hub; with a verb every N of
the kinds in `EVERY`, and a sample of the others; `FAULTS_FULL=1` every N there too. `FAULTS_SEED` picks another sample.
"""

import errno
import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NamedTuple

import pytest
from tests.faults.conftest import Outcome
from tests.faults.lives import IS_FULL, RESERVE_BYTES, SEED, Told, compare, ending_of, talk, truth
from tests.faults.stage import FOR_EVER, Forked, Stage
from tests.faults.world import AT_MS, Past, lay_out
from tests.figures import tell

from synapse.errors import JournalError
from synapse.journal.recovery import recover

pytestmark = pytest.mark.xdist_group("faults-calls")

GRACE_S: Final = 3.0
"""How long a hub may take to end after it has let its clients down."""
WORKERS: Final = min(8, (os.cpu_count() or 1) + 1)
"""How many lives run at a time."""
WHOLE_LIVES: Final = 4
"""Lives in which no call fails, to know how many there are."""
OF_PYTHON: Final = re.compile(
    r"Exception ignored when trying to \w+ to the signal wakeup fd:\nTraceback.*?\nOSError: [^\n]*\n", re.DOTALL
)
"""What the interpreter says when a signal cannot be written to the loop's own pipe, which is no file of the hub's."""
TRIES_MAX: Final = 30
"""How often an N is tried that not every life has."""


class Kind(NamedTuple):
    """A way in which one kind of call fails. lasts: that call and all later ones."""

    call: str
    error: int
    lasts: bool = False

    def __str__(self) -> str:
        return f"{self.call} {errno.errorcode[self.error]}{' from there on' if self.lasts else ''}"


KINDS: Final = (
    Kind("fdatasync", errno.EIO),
    Kind("fdatasync", errno.EIO, True),
    Kind("fsync", errno.EIO),
    Kind("fsync", errno.ENOSPC, True),
    Kind("pwrite", errno.EIO),
    Kind("pwrite", errno.EIO, True),
    Kind("pwrite", errno.ENOSPC),
    Kind("pwrite", errno.ENOSPC, True),
    Kind("pwrite", errno.EDQUOT),
    Kind("pwrite", errno.EDQUOT, True),
    Kind("write", errno.EIO),
    Kind("write", errno.ENOSPC),
    Kind("write", errno.ENOSPC, True),
    Kind("ftruncate", errno.EIO),
    Kind("open", errno.EIO),
    Kind("open", errno.ENOSPC),
    Kind("open", errno.EMFILE),
    Kind("rename", errno.EIO),
    Kind("rename", errno.ENOSPC),
    Kind("unlink", errno.EIO),
    Kind("pread", errno.EIO),
)
EVERY: Final = frozenset(
    {
        Kind("fdatasync", errno.EIO),
        Kind("fsync", errno.EIO),
        Kind("pwrite", errno.EIO),
        Kind("write", errno.EIO),
    }
)
"""Kinds of which `make prove` tries every N with a verb; with a hub it does so of all kinds."""


class Life(NamedTuple):
    """One case: how it ended, what was wrong, and how many of the watched calls it made that could fail."""

    outcome: Outcome
    wrong: str
    calls: int


def live(stage: Stage, past: Past, home: Path, kind: Kind, first: int) -> Life:
    """A life in which call number `first` fails, judged."""
    lay_out(home, past.copies[past.head])
    told, calls = Told(), FOR_EVER
    last = FOR_EVER if kind.lasts else first
    with stage.start(
        "hub", "--home", str(home), "--port", "0", call=kind.call, first=first, last=last, error=kind.error
    ) as hub:
        try:
            is_ready = hub.is_ready(home)
            if is_ready:
                with suppress(OSError, EOFError, AssertionError):  # the hub ended
                    talk(home, told)
                    told.is_done = True
                if told.is_done or not hub.has_ended(GRACE_S):
                    calls = stop(hub, kind)
            outcome = hub.end()
        except (TimeoutError, subprocess.TimeoutExpired) as hang:
            hub.signal(signal.SIGKILL)
            return Life(hub.end(), f"it hung: {hang}; {hub.said[-300:]}", min(calls, hub.calls))
    if kind.call == "write" and kind.lasts and outcome.code:
        wrong = (
            "" if outcome.code == 74 else f"not documented: {outcome.code}"
        )  # its last words were not written either
    else:
        wrong = ending_of(outcome, OF_PYTHON.sub("", hub.said), home, is_cut=is_ready and not told.is_done)
    wrong = wrong or truth(home, past, told)
    return Life(outcome, wrong, min(calls, hub.calls))


def stop(hub: Forked, kind: Kind) -> int:
    """Ask a hub to end; how many calls there were until no more can fail. A signal, too, reaches Python by a write."""
    calls = FOR_EVER
    if kind.call == "write" and kind.lasts:
        calls = hub.switch.calls
        hub.switch.heal()
    hub.signal(signal.SIGTERM)
    if kind.call == "write" and not hub.has_ended(GRACE_S):
        hub.signal(signal.SIGTERM)
    return calls


# the operator's verbs


class Verb(NamedTuple):
    """A verb on a HOME that no hub has. cut_bytes: what its WAL lost, so that it is needed."""

    words: tuple[str, ...]
    cut_bytes: int = 0


VERBS: Final = (
    Verb(("snapshot", "HOME")),
    Verb(("journal", "backup", "HOME/copy.db", "--home", "HOME")),
    Verb(("journal", "restore", "HOME/older.db", "--home", "HOME")),
    Verb(("journal", "adopt", "--home", "HOME"), cut_bytes=9000),
)
VERB_KINDS: Final = tuple(kind for kind in KINDS if kind.call != "write" or not kind.lasts)
"""What lasts would hit its last words too."""


def carry_out(stage: Stage, past: Past, home: Path, verb: Verb, kind: Kind, first: int) -> Life:
    """A verb in which call number `first` fails, judged: it is done, or says 74 and is done when asked again."""
    shutil.rmtree(home, ignore_errors=True)
    copy = {name: data for name, data in past.copies[past.head].items() if not name.startswith("snapshots/")}
    copy["journal.db-wal"] = copy["journal.db-wal"][: len(copy["journal.db-wal"]) - verb.cut_bytes]
    lay_out(home, copy)
    (home / "older.db").write_bytes(past.copies[sorted(past.copies)[2]]["journal.db"])
    words = [word.replace("HOME", str(home)) for word in verb.words]
    last = FOR_EVER if kind.lasts else first
    with stage.start(*words, call=kind.call, first=first, last=last, error=kind.error) as process:
        outcome = process.end()
    calls = process.calls
    if kind.call == "write" and not outcome.code:
        calls -= 1  # the last is no write of a file, but what it says on stdout
    is_clear = not outcome.code or str(home) in outcome.line
    if "Traceback" in process.said or outcome.code not in (0, 74, 78) or not is_clear:
        return Life(outcome, f"{outcome.code}, {outcome.line or process.said}", calls)
    with stage.start(*words) as again:
        second = again.end()
    if second.code and "nothing to adopt" not in second.line and not (outcome.code == 0 and "exists" in second.line):
        return Life(outcome, f"after {outcome.line!r}, tried again, it says {second.line!r}", calls)
    with stage.start("journal", "verify", "--home", str(home)) as verifying:
        proved = verifying.end()
    if "start the hub" in outcome.line:  # its mark may wait for that
        try:
            recover(home, AT_MS, reserve_bytes=RESERVE_BYTES).journal.close()
        except JournalError as error:
            return Life(outcome, f"after {outcome.line!r}, a start says {error}", calls)
    left = [path.name for path in home.iterdir() if path.suffix == ".new" and kind.call != "unlink"]
    return Life(outcome, proved.line if proved.code else f"left behind: {left}" if left else "", calls)


# sweeps


@dataclass
class Tried:
    """How one kind of failure was tried. calls: how many N there are; lives: by their N, those in which it failed."""

    kind: Kind
    calls: int
    lives: dict[int, Life] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def add(self, first: int, life: Life) -> None:
        """Count a life. One that ended before its N came has a say in how many N there are."""
        if life.calls >= first:
            self.lives[first] = life
        elif life.outcome.code:
            self.wrong.append(f"{self.kind}, but none of {first} calls failed: {life.outcome}")
        else:
            self.calls = max(self.calls, life.calls)
        if life.wrong:
            self.wrong.append(f"call {first} of {self.calls}, {self.kind}: {life.wrong}")
            print(self.wrong[-1], flush=True)

    @property
    def missing(self) -> list[int]:
        """The N that failed in no life."""
        return [first for first in range(1, self.calls + 1) if first not in self.lives]


Attempt = Callable[[Kind, int, Path], Life]
"""A life in a home in which call number N fails; FOR_EVER: none."""


def try_calls(attempt: Attempt, homes: SimpleQueue[Path], kind: Kind, count: int | None) -> Tried:
    """Let `count` N fail, None: every one, each in a life of its own; as many lives at a time as there are homes.

    Lives differ by a write or so: an N that a life did not come to is tried again.
    """

    def one(first: int) -> Life:
        home = homes.get()
        try:
            return attempt(kind, first, home)
        finally:
            homes.put(home)

    with ThreadPoolExecutor(WORKERS) as pool:
        tried = Tried(kind, 0)
        for life in pool.map(one, [FOR_EVER] * WHOLE_LIVES):
            tried.add(FOR_EVER, life)
        left = tried.missing
        if count is not None and count < len(left):
            left = sorted(random.Random(SEED).sample(left, count))
        for _ in range(TRIES_MAX):
            for first, life in zip(left, pool.map(one, left), strict=True):
                tried.add(first, life)
            left = tried.missing if count is None else []
    return tried


def check_calls(what: str, attempt: Attempt, directory: Path, counts: Mapping[Kind, int | None]) -> None:
    """Try so many N of each kind of failure, None: every one, and tell the figures."""
    homes = SimpleQueue[Path]()
    for number in range(WORKERS):
        homes.put(directory / f"home{number}")
    part, all_tried = "storage faults", [try_calls(attempt, homes, *item) for item in counts.items()]
    lives = [life for tried in all_tried for life in tried.lives.values()]
    ended = sum(life.outcome.code != 0 for life in lives)
    wrong = [line for tried in all_tried for line in tried.wrong]
    missing = {str(tried.kind): tried.missing for tried in all_tried if counts[tried.kind] is None and tried.missing}
    for tried in all_tried:
        if counts[tried.kind] is None and tried.calls:
            row, is_kept = f"failed calls of {what}: every N, {tried.kind}", not tried.missing
            tell(part, row, len(tried.lives), bound=f"= {tried.calls}", is_kept=is_kept)
    tell(part, f"failed calls of {what}: cases", len(lives), seed=SEED)
    tell(part, f"failed calls of {what}: it ended", ended, bound="> 0", is_kept=ended > 0, seed=SEED)
    row = f"failed calls of {what}: lost, wrong or undocumented"
    tell(part, row, len(wrong), bound="= 0", is_kept=not wrong, seed=SEED)
    assert wrong == []
    assert missing == {}
    assert ended > 0


def check_lives(stage: Stage, past: Past, directory: Path, counts: Mapping[Kind, int | None]) -> None:
    check_calls("hubs", lambda kind, first, home: live(stage, past, home, kind, first), directory, counts)


def check_verb(stage: Stage, past: Past, directory: Path, verb: Verb, counts: Mapping[Kind, int | None]) -> None:
    name = " ".join(word for word in verb.words if word.isalpha() and word.islower())
    check_calls(name, lambda kind, first, home: carry_out(stage, past, home, verb, kind, first), directory, counts)


def test_a_call_of_a_hub_fails(stage: Stage, past: Past, directory: Path) -> None:
    check_lives(stage, past, directory, dict.fromkeys(KINDS[1:14:3], 3))


def test_a_call_of_a_verb_fails(stage: Stage, past: Past, directory: Path) -> None:
    for verb in VERBS:
        check_verb(stage, past, directory, verb, dict.fromkeys(VERB_KINDS[2:5:2], 1))


@pytest.mark.prove
def test_many_calls_of_a_hub_fail(stage: Stage, past: Past, directory: Path) -> None:
    check_lives(stage, past, directory, dict.fromkeys(KINDS))


@pytest.mark.prove
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: "-".join(verb.words[:2]))
def test_many_calls_of_a_verb_fail(stage: Stage, past: Past, directory: Path, verb: Verb) -> None:
    check_verb(stage, past, directory, verb, {kind: None if IS_FULL or kind in EVERY else 3 for kind in VERB_KINDS})


# is the judge any good?


def test_the_judge_names_what_is_lost_doubled_or_should_not_be_there() -> None:
    told = Told(acked={"a": 1, "b": 2}, unknown={"u"}, refused={"r"}, epochs=[9])
    assert compare({"a": 1, "b": 2}, 2, {9}, told) == ""
    assert compare({"a": 1, "b": 2, "u": 3}, 3, {9}, told) == ""
    assert "lost" in compare({"a": 1}, 1, {9}, told)
    assert "lost" in compare({"a": 1, "b": 3}, 2, {9}, told)
    assert "twice" in compare({"a": 1, "b": 2}, 3, {9}, told)
    assert "lease" in compare({"a": 1, "b": 2}, 2, set(), told)
    assert "refused" in compare({"a": 1, "b": 2, "r": 3}, 3, {9}, told)
    assert "another reason" in compare({"a": 1, "b": 2}, 2, {9}, replace(told, codes={"bad_request"}))
    assert "nobody" in compare({"a": 1, "b": 2, "x": 3}, 3, {9}, told)
    assert "traceback" in ending_of(Outcome(1, "x"), "Traceback (most recent call last)", Path("/h"), is_cut=True)
    assert "not documented" in ending_of(Outcome(74, "synapse hub: oh"), "", Path("/h"), is_cut=True)
    assert "did not answer" in ending_of(Outcome(0, ""), "", Path("/h"), is_cut=True)
