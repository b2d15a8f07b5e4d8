"""An hour of fifty agents over a hub, a disk and a network that fail all the time: no promise breaks.

`SIM_SEED` chooses another hour. Under `make prove`, `SIMULATED_HOURS` (2) says how many hours, in one world;
24 take about twenty minutes. One seed by hand: `python -m tests.simulation --seed N --hours H --shrink`.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest
from tests.figures import tell
from tests.simulation.__main__ import shrunk
from tests.simulation.story import STEPS_TOLD
from tests.simulation.terms import Violation
from tests.simulation.world import Outcome, run

from synapse.core.leasing import Leasing

ROOT: Final = Path(__file__).resolve().parents[2]
SPEED_MIN: Final = 60
HOURS: Final = float(os.environ.get("SIMULATED_HOURS", "2"))
SOMETIMES: Final = (
    "a card was changed",
    "a cause was over: stalled",
    "a cause was over: unblocked",
    "a change of an old version of a session was refused",
    "a checkpoint was kept in a lane",
    "a checkpoint was offered: expired",
    "a checkpoint was offered: resumable_at",
    "a checkpoint was offered: revoked",
    "a claim was told the last checkpoint",
    "a commit failed and was kept",
    "a commit failed and was lost",
    "a commit survived the hub, and nobody had been told",
    "a commit took so long that the lease clock stood still",
    "a commit was lost with the hub",
    "a connection swallowed everything",
    "a connection was half open",
    "a cursor was too old, and where to go on was told",
    "a dead letter got another chance",
    "a dead letter was disowned by its sender",
    "a dead letter was dropped",
    "a dead letter was sent anew",
    "a digest counted what is not all kept any more",
    "a digest did not name who holds something in secret",
    "a digest left out what is less urgent",
    "a digest told a lease of mine",
    "a digest told a task for me",
    "a digest told of an offered lease",
    "a digest told what a claim waits for",
    "a digest told what a task waits for",
    "a digest told what came since the last one",
    "a digest was laid out under a budget",
    "a digest went on from a cursor",
    "a feed of a plan was resumed from a cursor",
    "a feed of a private plan was resumed from a cursor",
    "a feed of receipts was resumed from a cursor",
    "a feed of values was resumed from a cursor",
    "a feed was resumed from a cursor",
    "a file ended: expired",
    "a file ended: received",
    "a file ended: withdrawn",
    "a file that is not what was announced was refused",
    "a file was complete",
    "a file was received whole",
    "a holder stalled again after some progress",
    "a lane was accepted",
    "a lane was closed",
    "a lane was declined",
    "a lane was offered",
    "a lane was timed out",
    "a lease came with a lane",
    "a lease expired: connection",
    "a lease expired: parked",
    "a lease expired: ttl",
    "a lease reached its ceiling while its question was open",
    "a lease was handed off",
    "a lease was offered to somebody offline",
    "a lease was parked for a question",
    "a member came in",
    "a member heard of a lease in a private room",
    "a member heard of a private plan",
    "a member read what was said before it came",
    "a member was put out",
    "a message died of being lent too often",
    "a message died of its date",
    "a message of a role was acked",
    "a message of a role was lent again",
    "a message was lent again",
    "a message was lent ahead",
    "a page ended where retention had dropped the rest, and said so",
    "a parked lease got another epoch",
    "a parked lease went on with the answer",
    "a peer did not keep up",
    "a peer that had fallen behind caught up",
    "a private place was followed",
    "a private place was not there for somebody else",
    "a question ended with its task",
    "a question got its default",
    "a question was answered",
    "a question was closed the same way again",
    "a question was dismissed",
    "a question was expired",
    "a question was withdrawn",
    "a repeat was answered from the journal",
    "a second answer was refused with the first",
    "a secret was told to a member",
    "a signal was told",
    "a signal was too much for one turn",
    "a reason was given for the status that a task had",
    "a step ended its lease",
    "a step that a lane does not have was refused",
    "a supervisor called people about a stall",
    "a supervisor died",
    "a supervisor found: orphaned",
    "a supervisor found: stalled",
    "a supervisor found: unblocked",
    "a supervisor looked at a room",
    "a supervisor put a task back",
    "a supervisor remembered over a restart of the hub",
    "a supervisor told a person",
    "a task was described anew",
    "a task was done",
    "a task was freed by what it waited for",
    "a task was open again: expired",
    "a task was open again: released",
    "a task was removed",
    "a task was reopened",
    "a task went on when its question was closed",
    "a transfer went on where it was cut off",
    "a value expired",
    "a value got another owner",
    "a value was gone before the event that says so",
    "a value was put over one whose time had passed",
    "a wait ended: deadline",
    "a wait ended: gone",
    "a wait ended: withdrawn",
    "a waiter was granted after a restart of the hub",
    "a waiter was granted what had expired",
    "an agent was not let answer",
    "an end reached who held the task then",
    "an invitation was taken back",
    "an offer ended: expired",
    "an offer ended: withdrawn",
    "an offered lease was accepted",
    "an old epoch was shown while somebody else held the task",
    "an operator took a lease away",
    "an outcome was unknown",
    "an unknown outcome became known by its key",
    "dead letters were listed",
    "frames on their way were lost",
    "lines of a session were replaced",
    "nobody changed the session of another",
    "nobody else moved a lane",
    "people were called",
    "refused of files: limit",
    "refused of files: not_permitted",
    "refused of files: too_large",
    "refused: already_answered",
    "refused: cycle",
    "refused: deadlock",
    "refused: illegal_transition",
    "refused: lease_held",
    "refused: lease_queued",
    "refused: not_empty",
    "refused: not_holder",
    "refused: not_permitted",
    "refused: read_only",
    "refused: stale_epoch",
    "refused: version_conflict",
    "rows lost their bodies",
    "several messages were lent ahead",
    "several messages were lent by one event",
    "somebody went on where another broke off",
    "something was offered anew",
    "something was said in a lane",
    "the digests of a file took several pages",
    "the disk was full and had room again",
    "the hub compacted by itself",
    "the hub died while it compacted",
    "the hub started on a full disk",
    "the hub was killed",
    "the hub was stopped and went on",
    "the journal was compacted",
    "the journal was compacted: lane",
    "the journal was compacted: plan",
    "the journal was compacted: questions",
    "the journal was compacted: session",
    "the wall clock was set",
    "there was nobody to call",
    "two connections used one key at once",
    "what broke off waited for its date",
    "what is lent was taken",
    "what was fetched was cut off",
    "what was missed of signals was counted",
    "who followed a private room was in it no more",
    "who had a message of a role left the role",
)
"""What an hour must have reached, or it shows nothing."""


def simulated(hours: float, seed: int) -> tuple[Outcome, float]:
    """A run, and how many seconds of one core it took: the machine may be busy with something else."""
    began_s = time.process_time()
    outcome = run(seed, hours)
    return outcome, outcome.simulated_s / (time.process_time() - began_s)


def check_run(outcome: Outcome, speed: float, what: str) -> None:
    """Tell what a run came to, and then insist."""
    missed = [point for point in SOMETIMES if not outcome.counts[point]]
    seed, part = outcome.seed, f"simulation, {what}"
    broken = int(outcome.violation is not None)
    tell(part, "broken promises", broken, bound="= 0", is_kept=not broken, seed=seed)
    tell(part, "simulated", outcome.simulated_s / 3600, unit="h", seed=seed)
    tell(part, "speed", speed, unit="x", bound=f">= {SPEED_MIN}", is_kept=speed >= SPEED_MIN, seed=seed)
    reached = len(SOMETIMES) - len(missed)
    tell(part, "turning points reached", reached, bound=f"= {len(SOMETIMES)}", is_kept=not missed, seed=seed)
    tell(part, "steps checked", outcome.steps, seed=seed)
    tell(part, "digests compared", outcome.checks, seed=seed)
    tell(part, "lives of the hub", outcome.figures["hub lives"], seed=seed)
    assert outcome.violation is None, outcome.story
    assert not missed, f"seed {seed} never reached: {missed}"


@pytest.mark.timeout(300)
def test_an_hour_of_fifty_agents_breaks_no_promise() -> None:
    outcome, speed = simulated(1.0, int(os.environ.get("SIM_SEED", "8")))
    check_run(outcome, speed, "one hour")


@pytest.mark.prove
@pytest.mark.timeout(600 + 240 * HOURS)  # four times as long as it should take
def test_many_hours_break_no_promise() -> None:
    outcome, speed = simulated(HOURS, int(os.environ.get("SIM_SEED", "8")))
    check_run(outcome, speed, "many hours")
    assert speed >= SPEED_MIN


def trace_in_a_process(hash_seed: str) -> str:
    """The trace of a short run in a process of its own."""
    command = [sys.executable, "-m", "tests.simulation", "--seed", "3", "--hours", "0.05"]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"trace (\w{32})$", done.stdout.strip())
    assert found is not None, done.stdout
    return found[1]


def test_a_seed_is_the_same_run_in_every_process() -> None:
    assert trace_in_a_process("1") == trace_in_a_process("77")
    assert run(4, 0.01).trace != run(5, 0.01).trace


def hasty(leasing: Leasing, lease_ms: int, most: int) -> list[int]:
    """Everything is due a tick too early."""
    return _due(leasing, lease_ms + 250, most)


_due = Leasing.due


def test_a_broken_promise_is_told_as_a_story_with_the_command_that_shows_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Leasing, "due", hasty)
    outcome = run(7, 0.2, 20)
    assert isinstance(outcome.violation, Violation)
    assert outcome.violation.rule == "expired early"
    owner, task = outcome.violation.about
    lines = outcome.story.splitlines()
    assert len(lines) <= STEPS_TOLD + 2
    assert any(f"{owner} asks" in line and f"task={task}" in line for line in lines)
    assert lines[-1] == "again:  python -m tests.simulation --seed 7 --hours 0.2 --agents 20"
    again = run(7, 0.2, 20)
    assert (again.story, again.trace) == (outcome.story, outcome.trace)
    fewer = shrunk(outcome, 6.0)
    assert fewer.agents < 20
    assert fewer.violation is not None
