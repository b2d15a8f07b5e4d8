"""The N-th call fails, for every N: syncs, writes, opens, renames in a whole life of a hub, and in operators' verbs.

A life: a hub starts on a home whose hub was killed, is asked for messages, a lease and an ack, and is stopped. In each
case one call of it fails (or, for a disk that is full or gone, that one and all after it). Then either the hub went on
and exits with 0, or it ended with a documented line and exit code; and the next start has what was acknowledged, each
once and in its place, nothing that was refused, and of what was never answered all or nothing.

`make test` takes a sample with a fixed seed, `make prove` a larger one, `FAULTS_FULL=1` every N. `FAULTS_SEED` picks
another sample.
"""

import errno
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from tests.faults.conftest import Outcome
from tests.faults.lives import IS_FULL, SEED, Told, compare, ending_of, talk, truth
from tests.faults.stage import FOR_EVER, Stage
from tests.faults.world import Past, lay_out
from tests.figures import tell

pytestmark = pytest.mark.xdist_group("faults-calls")

GRACE_S: Final = 3.0
"""How long a hub may take to end after it has let its clients down."""


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


class Life(NamedTuple):
    """One case: how it ended, what was wrong, and how many of the watched calls it made."""

    outcome: Outcome
    wrong: str
    calls: int


def live(stage: Stage, past: Past, home: Path, kind: Kind, first: int) -> Life:
    """A life in which call number `first` fails, judged."""
    lay_out(home, past.copies[past.head])
    told = Told()
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
                    hub.switch.heal()  # a signal, too, reaches Python by a write
                    hub.signal(signal.SIGTERM)
            outcome = hub.end()
        except (TimeoutError, subprocess.TimeoutExpired) as hang:
            hub.signal(signal.SIGKILL)
            return Life(hub.end(), f"it hung: {hang}; {hub.said[-300:]}", hub.calls)
    if kind.call == "write" and kind.lasts and outcome.code:
        wrong = (
            "" if outcome.code == 74 else f"not documented: {outcome.code}"
        )  # its last words were not written either
    else:
        wrong = ending_of(outcome, hub.said, home, is_cut=is_ready and not told.is_done)
    wrong = wrong or truth(home, past, told)
    return Life(outcome, wrong, hub.calls)


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
VERB_KINDS: Final = tuple(kind for kind in KINDS if kind.call != "write")  # these write to stdout


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
    is_clear = not outcome.code or str(home) in outcome.line
    if "Traceback" in process.said or outcome.code not in (0, 74, 78) or not is_clear:
        return Life(outcome, f"{outcome.code}, {outcome.line or process.said}", calls)
    with stage.start(*words) as again:
        second = again.end()
    if second.code and "nothing to adopt" not in second.line and not (outcome.code == 0 and "exists" in second.line):
        return Life(outcome, f"after {outcome.line!r}, tried again, it says {second.line!r}", calls)
    with stage.start("journal", "verify", "--home", str(home)) as verifying:
        proved = verifying.end()
    left = [path.name for path in home.iterdir() if path.suffix == ".new" and kind.call != "unlink"]
    return Life(outcome, proved.line if proved.code else f"left behind: {left}" if left else "", calls)


# sweeps


def check_calls(what: str, attempt: Callable[[Kind, int], Life], kinds: tuple[Kind, ...], count: int) -> None:
    """Try `count` N of each kind of failure, or all of them, and tell the figures."""
    cases, ended, wrong = 0, 0, []
    for kind in kinds:
        calls = attempt(kind, FOR_EVER).calls
        every = range(1, calls + 1)
        chosen = every if IS_FULL or count >= calls else sorted(random.Random(SEED).sample(every, count))
        for first in chosen:
            life = attempt(kind, first)
            cases += 1
            ended += life.outcome.code != 0
            if life.wrong:
                wrong.append(f"call {first} of {calls}, {kind}: {life.wrong}")
    part, bad = "storage faults", len(wrong)
    tell(part, f"failed calls of {what}: cases", cases, seed=SEED)
    tell(part, f"failed calls of {what}: it ended", ended, bound="> 0", is_kept=ended > 0, seed=SEED)
    tell(part, f"failed calls of {what}: lost, wrong or undocumented", bad, bound="= 0", is_kept=not wrong, seed=SEED)
    assert wrong == []
    assert ended > 0


def check_lives(stage: Stage, past: Past, home: Path, kinds: tuple[Kind, ...], count: int) -> None:
    check_calls("hubs", lambda kind, first: live(stage, past, home, kind, first), kinds, count)


def check_verb(stage: Stage, past: Past, home: Path, verb: Verb, kinds: tuple[Kind, ...], count: int) -> None:
    name = " ".join(word for word in verb.words if word.isalpha() and word.islower())
    check_calls(name, lambda kind, first: carry_out(stage, past, home, verb, kind, first), kinds, count)


def test_a_call_of_a_hub_fails(stage: Stage, past: Past, directory: Path) -> None:
    check_lives(stage, past, directory / "home", KINDS[1:14:3], 3)


def test_a_call_of_a_verb_fails(stage: Stage, past: Past, directory: Path) -> None:
    for verb in VERBS:
        check_verb(stage, past, directory / "home", verb, VERB_KINDS[2:5:2], 1)


@pytest.mark.prove
def test_many_calls_of_a_hub_fail(stage: Stage, past: Past, directory: Path) -> None:
    check_lives(stage, past, directory / "home", KINDS, 10)


@pytest.mark.prove
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: "-".join(verb.words[:2]))
def test_many_calls_of_a_verb_fail(stage: Stage, past: Past, directory: Path, verb: Verb) -> None:
    check_verb(stage, past, directory / "home", verb, VERB_KINDS, 3)


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
