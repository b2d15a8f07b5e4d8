"""The wall clock jumps while a hub runs, and between two of them: no lease ends early or is held on, nothing is lost.

Short: a day forward, and back again. `make prove`: an hour and a day, both ways, and more than a year.
"""

import time
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.faults.conftest import HubProcess, Line, line_to, run_synapse
from tests.figures import tell
from tests.lifecycle.conftest import DAY_S, HOUR_S, Wall, journal_of, keeping, live

from synapse.core.events import LeaseExpired, LeaseGranted, MessagePosted
from synapse.protocol.commands import ClaimLease, ReadHistory
from synapse.protocol.replies import History, Lease

TTL_MS = 4_000
LATE_S_MAX = 2.5
"""A tick is a quarter of a second; the rest is for a busy machine."""
PART = "time and life cycle"


def home_with_short_leases(path: Path) -> Path:
    path.mkdir(mode=0o700)
    (path / "config.toml").write_text("[limits]\nttl_ms_min = 500\n", encoding="utf-8")
    return path


def end_of(line: Line, task: str) -> float:
    """When a lease was seen to be over."""
    deadline_s = time.monotonic() + 10
    while task in live(line):
        assert time.monotonic() < deadline_s, f"{task} is held on"
        time.sleep(0.02)
    return time.monotonic()


class Margins(NamedTuple):
    """How long after their time two leases ended, in seconds: at least, by what came before, and at most, by what came
    after. One lease ended through the jump, one through the restart behind it."""

    least: tuple[float, float]
    most: tuple[float, float]


def check_a_jump(tmp_path: Path, jump_s: int) -> Margins:
    """Through one jump with everything going on, and through two restarts: in the jumped time and back in the true."""
    home, wall = home_with_short_leases(tmp_path / "home"), Wall(tmp_path)
    with HubProcess(home, environ=wall.environ).until_ready() as hub, line_to(home) as ada:
        before = ada.post("before", idem_key="key")
        with keeping(home, "bob", "kept", TTL_MS) as keeper:
            asked_s = time.monotonic()
            ada.ask(ClaimLease(task="silent", ttl_ms=TTL_MS), Lease)
            granted_s = time.monotonic()
            wall.jump_to(jump_s)
            ended_s = end_of(ada, "silent")
            if jump_s < DAY_S:  # keys are dated, and by these dates a day has gone by
                assert ada.post("before", idem_key="key") == before, "a key that was used a moment ago is remembered"
            after = ada.post("after")
            assert (before.n, after.n) == (1, 2)
            shown = ada.ask(ReadHistory(channel="main:general"), History).messages
            assert abs(shown[-1].sent_at_ms - shown[0].sent_at_ms - jump_s * 1000) < 60_000, "the clock did jump"
            assert keeper.end() == []
            assert live(ada)["kept"].epoch == keeper.epoch
        hub.kill()
    with HubProcess(home, environ=wall.environ) as hub:
        started_s = time.monotonic()
        hub.until_ready()
        ready_s = time.monotonic()
        with line_to(home) as ada:
            assert live(ada)["kept"].epoch == keeper.epoch
            ended_again_s = end_of(ada, "kept")
            second = ada.ask(ClaimLease(task="kept", ttl_ms=TTL_MS), Lease)
        assert second.epoch > keeper.epoch
        assert hub.stop().code == 0
    wall.jump_to(0)
    with HubProcess(home, environ=wall.environ).until_ready() as hub, line_to(home) as ada:
        third = ada.ask(ClaimLease(task="other", ttl_ms=TTL_MS), Lease)
        assert third.epoch > second.epoch
        assert ada.post("last").n == 3
        assert hub.stop().code == 0
    assert run_synapse("journal", "verify", home=home).code == 0
    events = journal_of(home)
    assert [entry.event.n for entry in events if isinstance(entry.event, MessagePosted)] == [1, 2, 3]
    epochs = [entry.seq for entry in events if isinstance(entry.event, LeaseGranted)]
    assert epochs == sorted(set(epochs))
    assert sum(isinstance(entry.event, LeaseExpired) for entry in events) == 2
    return Margins(
        (ended_s - asked_s - TTL_MS / 1000, ended_again_s - started_s - TTL_MS / 1000),
        (ended_s - granted_s - TTL_MS / 1000, ended_again_s - ready_s - TTL_MS / 1000),
    )


@pytest.mark.slow
def test_a_wall_clock_that_jumps_by_a_day_ends_no_lease_early_and_holds_none_on(tmp_path: Path) -> None:
    margins = check_a_jump(tmp_path, DAY_S)
    assert min(margins.least) >= 0
    assert max(margins.most) <= LATE_S_MAX


@pytest.mark.prove
def test_a_wall_clock_that_jumps_by_an_hour_or_a_day_either_way_changes_no_lease(tmp_path: Path) -> None:
    margins = []
    for jump_s in (HOUR_S, -HOUR_S, DAY_S, -DAY_S, 400 * DAY_S):
        folder = tmp_path / str(jump_s)
        folder.mkdir()
        margins.append(check_a_jump(folder, jump_s))
    earliest, latest = min(min(each.least) for each in margins), max(max(each.most) for each in margins)
    tell(PART, "earliest end of a lease after its TTL", earliest, unit="s", bound=">= 0", is_kept=earliest >= 0)
    tell(
        PART,
        "latest end of a lease after its TTL",
        latest,
        unit="s",
        bound=f"<= {LATE_S_MAX}",
        is_kept=latest <= LATE_S_MAX,
    )
    assert earliest >= 0
    assert latest <= LATE_S_MAX
