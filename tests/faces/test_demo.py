"""The demo as `make demo` runs it; and that each of its claims fails when it is not true."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from synapse.faces import demo
from synapse.faces.demo import Seen, claims
from synapse.faces.demo_cast import Cast
from synapse.faces.demo_plan import OPENED
from synapse.faces.demo_question import ANSWER, GREETING, Asked

pytestmark = pytest.mark.timeout(240)


def environment(tmp_path: Path) -> dict[str, str]:
    """All that the demo makes lies below tmp_path, and settings of the person who starts it do not matter."""
    return {**os.environ, "TMPDIR": str(tmp_path), "SYNAPSE_HOME": "/nonexistent", "SYNAPSE_NAME": "UPPER"}


def processes_of(tmp_path: Path) -> list[str]:
    """Processes, other than this one, whose environment names tmp_path as the place of temporary files."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"TMPDIR={tmp_path}".encode() in (entry / "environ").read_bytes() and entry.name != str(os.getpid()):
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # gone meanwhile, or another user's
    return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same story with fewer additions, below tmp_path."""
    monkeypatch.setattr(demo, "COUNTS", 2)
    monkeypatch.setattr(demo, "HUB_KILLS", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.mark.slow
def test_the_demo_tells_its_story_counts_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "synapse.faces.demo"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    assert done.stdout.count("   ok ") == len(claims(Seen()))
    assert done.stdout.count("$ kill -9 ") == 5
    assert re.search(r"^   additions               24 by 4 agents; the number is 24$", done.stdout, re.MULTILINE)
    assert re.search(r"^   at it at once           0$", done.stdout, re.MULTILINE)
    assert re.search(r"^   messages acknowledged   24, heard 24, kept 24$", done.stdout, re.MULTILINE)
    assert re.search(r"^   processes killed        4 times the hub, 1 agent$", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout
    assert not list(tmp_path.glob("synapse-demo-*"))
    assert not processes_of(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_every_process_and_removes_the_home(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "synapse.faces.demo", "--keep"],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("5  "):
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not list(tmp_path.glob("synapse-demo-*"))
    assert not processes_of(tmp_path)


def test_keep_leaves_the_hub_up_and_says_how_to_talk_to_it_and_stop_it(tmp_path: Path) -> None:
    few = "demo.COUNTS, demo.HUB_KILLS = 2, 1"
    done = subprocess.run(
        [sys.executable, "-c", f"from synapse.faces import demo; {few}; raise SystemExit(demo.main(['--keep']))"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    out = done.stdout
    assert done.returncode == 0, out + done.stderr
    stop = re.search(r"^   kill (\d+)\n   rm -r (\S+) ", out, re.MULTILINE)
    home = re.search(r"^   export SYNAPSE_HOME=(\S+)$", out, re.MULTILINE)
    assert stop is not None, out
    assert home is not None, out
    pid = int(stop[1])
    try:
        status = subprocess.run(
            [sys.executable, "-m", "synapse", "status"],
            env={**os.environ, "SYNAPSE_HOME": home[1]},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert status.returncode == 0, status.stderr
        assert f"pid {pid}" in status.stdout
    finally:
        os.kill(pid, signal.SIGTERM)
    assert Path(stop[2]) == Path(home[1]).parent


@pytest.mark.usefixtures("small")
def test_a_message_missing_from_the_history_fails_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = demo.read_history

    def forgetful(cast: Cast) -> list[str]:
        return truth(cast)[:-1]

    monkeypatch.setattr(demo, "read_history", forgetful)
    assert demo.main([]) == 1
    out = capsys.readouterr().out
    assert "FAILED  the channel has exactly the acknowledged messages" in out
    assert out.count("FAILED") == 1
    assert f"are left in {tmp_path}" in out
    assert not processes_of(tmp_path)


@pytest.mark.usefixtures("small")
def test_a_process_that_ends_as_it_should_not_fails_the_demo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "CHANNEL", "Main:general")  # outside the grammar of names
    assert demo.main([]) == 1
    assert "FAILED  synapse channel join Main:general exited 3: " in capsys.readouterr().out


def truthful() -> Seen:
    """What a run looks like in which everything holds."""
    total = len(demo.COUNTERS) * demo.COUNTS
    messages = [f"m{n}" for n in range(total)]
    return Seen(
        epochs=[11, 12, 13, 14, 15, 16, 17],
        refused=("lease_held", 11),
        passed_on_ms=3,
        crashed_ms=1900,
        fenced=["stale_epoch", "stale_epoch"],
        handed=15,
        taken=16,
        left=demo.CHECKPOINT,
        overtaken=False,
        asked=Asked(
            held=((8, "held"), (8, "parked"), (8, "held")),
            answer=ANSWER,
            code=0,
            left=0,
            refused=77,
            second=3,
            received=GREETING,
        ),
        steps=list(OPENED),
        unblocked_ms=80,
        kept=(17, 17),
        counted=[(n, 100 + n) for n in range(1, total + 1)],
        total=total,
        acked=sorted(messages),
        heard=list(messages),
        kept_messages=list(messages),
        agent_kills=1,
        hub_kills=demo.HUB_KILLS,
        ready_ms=[1] * (1 + demo.HUB_KILLS),
        events=1000,
        verdict="whole",
    )


def test_every_claim_holds_for_a_truthful_run() -> None:
    assert [text for text, holds in claims(truthful()) if not holds] == []


def _told(seen: Seen, **other: object) -> Seen:
    return replace(seen, asked=replace(seen.asked, **other))  # type: ignore[arg-type]  # the fields of the caller


LIES: list[tuple[str, Callable[[Seen], Seen], set[str]]] = [
    ("the overlap was granted", lambda s: replace(s, refused=("", 0)), {"overlapping claim"}),
    ("the refusal named another lease", lambda s: replace(s, refused=("lease_held", 9)), {"overlapping claim"}),
    ("nobody got the released lease", lambda s: replace(s, passed_on_ms=-1), {"after the release"}),
    ("nobody got the dead one's lease", lambda s: replace(s, crashed_ms=-1), {"holder was killed"}),
    ("the sleeper still holds it", lambda s: replace(s, fenced=["", "stale_epoch"]), {"fenced"}),
    ("the guard was not asked", lambda s: replace(s, fenced=["stale_epoch"]), {"fenced"}),
    ("the hand-off kept the epoch", lambda s: replace(s, taken=s.handed), {"hand-off"}),
    ("the checkpoint is gone", lambda s: replace(s, left=None), {"hand-off"}),
    ("a third stepped in", lambda s: replace(s, overtaken=True), {"hand-off"}),
    ("a task was ready too early", lambda s: replace(s, steps=sorted(s.steps)), {"of a plan"}),
    ("a task was ready twice", lambda s: replace(s, steps=[*s.steps, "ready release"]), {"of a plan"}),
    ("nothing was freed", lambda s: replace(s, steps=s.steps[:2]), {"of a plan"}),
    ("a restart gave a new epoch", lambda s: replace(s, kept=(17, 18)), {"kept its epoch"}),
    ("a restart lost the lease", lambda s: replace(s, kept=(17, 0)), {"kept its epoch"}),
    ("there was no such lease", lambda s: replace(s, kept=(0, 0)), {"kept its epoch"}),
    ("an addition was overwritten", lambda s: replace(s, total=s.total - 1), {"none is missing"}),
    ("two made the same addition", lambda s: replace(s, counted=[*s.counted, s.counted[-1]]), {"none is missing"}),
    ("a counter gave up", lambda s: replace(s, counted=s.counted[:-1], total=s.total - 1), {"none is missing"}),
    ("two were at it at once", lambda s: replace(s, crowded=1), {"at once"}),
    ("an epoch came again", lambda s: replace(s, counted=[(n, 7) for n, _ in s.counted]), {"each addition"}),
    ("an epoch fell", lambda s: replace(s, epochs=[*s.epochs, 3]), {"every other grant"}),
    ("the store refused a write", lambda s: replace(s, unwritten=1), {"none is missing"}),
    ("the history lost one", lambda s: replace(s, kept_messages=s.kept_messages[:-1]), {"the channel"}),
    ("the history has one twice", lambda s: replace(s, kept_messages=[*s.kept_messages, "m1"]), {"the channel"}),
    ("the listener missed one", lambda s: replace(s, heard=s.heard[1:]), {"the channel"}),
    ("the listener heard another order", lambda s: replace(s, heard=s.heard[::-1]), {"the channel"}),
    ("the lease was not parked", lambda s: _told(s, held=((8, "held"),) * 3), {"stood still"}),
    (
        "the lease got another epoch",
        lambda s: _told(s, held=((8, "held"), (8, "parked"), (9, "held"))),
        {"stood still"},
    ),
    ("another answer came", lambda s: _told(s, answer="no"), {"stood still"}),
    ("the answer came twice", lambda s: _told(s, left=1), {"came once"}),
    ("an agent could answer", lambda s: _told(s, refused=0), {"came once"}),
    ("a second answer counted", lambda s: _told(s, second=0), {"came once"}),
    ("the message was lost", lambda s: _told(s, received=""), {"found its agent"}),
    ("the hub did not come back", lambda s: replace(s, ready_ms=s.ready_ms[1:]), {"came back"}),
    ("the hub was not killed", lambda s: replace(s, hub_kills=0), {"came back"}),
    ("the journal is broken", lambda s: replace(s, verdict="journal_broken"), {"journal proves"}),
    (
        "nothing happened",
        lambda s: Seen(),
        {"overlapping", "after the release", "killed", "fenced", "hand-off", "none is missing", "at once", "grant"},
    ),
]


@pytest.mark.parametrize(("lie", "told", "caught"), LIES, ids=[lie for lie, _, _ in LIES])
def test_a_planted_lie_fails_the_claim_that_it_breaks(lie: str, told: Callable[[Seen], Seen], caught: set[str]) -> None:
    failed = [text for text, holds in claims(told(truthful())) if not holds]
    for words in caught:
        assert any(words in text for text in failed), f"{lie}: {words!r} was not among {failed}"
