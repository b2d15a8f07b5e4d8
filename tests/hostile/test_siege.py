"""A hub under attack: attackers meet a typed end, the hub lives in its bounds, and its other peers hardly notice.

`make test` plays each attack alone, in small. `make prove` plays all at once and in full, in rounds with and without
them: SIEGE_ROUNDS (5) of SIEGE_S (6) seconds each.
"""

import contextlib
import os
import socket
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
from tests.faults.conftest import HubProcess, line_to, wait_until
from tests.figures import tell
from tests.hostile.attackers import ATTACKS
from tests.hostile.siege import MIB, Phase, Siege, bound_bytes, percentile, siege
from tests.power.lies import broken_source

from synapse.protocol.limits import Limits

pytestmark = pytest.mark.xdist_group("siege")

ROUNDS: Final = int(os.environ.get("SIEGE_ROUNDS", "5"))
SECONDS: Final = float(os.environ.get("SIEGE_S", "6"))
RATIO_MAX: Final = 2.0
LOG_LINES_PER_S_MAX: Final = 10
SMALL: Final = {
    "idle": 30,
    "never reads": 4,
    "never reads values": 4,
    "flood of one": 3,
    "half frame": 8,
    "drips": 8,
    "says no hello": 8,
}
"""How many play an attack alone; else two."""
FULL: Final = {
    "idle": 1_000,
    "never reads": 100,
    "never reads values": 20,
    "flood": 4,
    "flood of one": 8,
    "flood of claims": 2,
    "flood on the Unix socket": 1,
    "flood of history": 2,
    "flood of nothing": 4,
    "flood of bulk": 2,
    "flood of binary": 2,
    "subscriptions": 4,
    "half frame": 40,
    "pings": 4,
    "fragments": 4,
    "too large": 2,
    "compressed": 4,
    "unmasked": 2,
    "not UTF-8": 2,
    "drips": 50,
    "says no hello": 50,
    "health": 8,
    "comes and goes": 8,
}
"""How many play an attack beside all others."""
QUICK: Final = {"hello_ms": 400, "drain_ms": 500, "outbox_bytes_max": 128 * 1024}
QUICK_RATES: Final = {"rate_agent_per_s": 1_000, "rate_agent_burst": 1_000}
SLOW: Final = frozenset({"never reads", "never reads values", "drips", "says no hello"})
"""Attacks that end only after a while."""


def unexpected(met: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What came of attacks that may not come of them."""
    return [
        f"{name}: {outcome}"
        for name, outcomes in met.items()
        for outcome, count in outcomes.items()
        if count and outcome not in {*ATTACKS[name].may, ATTACKS[name].sign}
    ]


def test_every_attack_is_played() -> None:
    assert FULL.keys() == ATTACKS.keys()


def test_an_outcome_that_no_attack_may_have_is_named() -> None:
    assert unexpected({"compressed": {"closed 1002": 3, "cut": 1}}) == []
    assert unexpected({"compressed": {"closed 1011": 1}, "idle": {"closed 4000": 0}}) == ["compressed: closed 1011"]


@pytest.mark.timeout(400)
def test_each_attack_alone_ends_as_it_should_and_costs_no_more_than_its_bound(tmp_path: Path) -> None:
    limits = Limits(**QUICK, **QUICK_RATES)
    with siege(tmp_path / "home", QUICK | QUICK_RATES) as here:
        here.fill(20, 150_000)
        for name in ATTACKS:
            attacks = {name: SMALL.get(name, 2)}
            base = here.memory("VmRSS")
            phase = here.attacked(attacks, 1.2 if name in SLOW else 0.3)
            bound = bound_bytes(base, attacks, limits)
            sign = ATTACKS[name].sign
            print(f"{name}: {phase.met[name]}, {phase.peak_bytes / MIB:.1f} of {bound / MIB:.1f} MiB")
            assert phase.claims_ms
            assert unexpected(phase.met) == []
            assert not sign or phase.met[name].get(sign), phase.met
            assert phase.peak_bytes <= bound, name
            assert phase.log_lines_per_s <= LOG_LINES_PER_S_MAX, name


def test_a_hub_that_bounds_no_outbox_is_seen_by_its_memory(tmp_path: Path) -> None:
    """Else the bound above would bound nothing."""
    held = "        connection.is_stuck = True\n        connection.stuck_since_ms ="
    unheld = "        return\n        connection.is_stuck = True\n        connection.stuck_since_ms ="
    source = broken_source(tmp_path / "source", "hub/peers.py", held, unheld)
    attacks = {"never reads values": 8}
    with siege(tmp_path / "home", QUICK | QUICK_RATES, source) as here:
        here.fill(0, 0)
        base = here.memory("VmRSS")
        phase = here.attacked(attacks, 1.2)
        bound = bound_bytes(base, attacks, Limits(**QUICK, **QUICK_RATES))
        print(f"{phase.peak_bytes / MIB:.1f} of {bound / MIB:.1f} MiB")
        assert phase.peak_bytes > bound


@pytest.mark.figures
def test_out_of_descriptors_the_hub_turns_newcomers_away_says_so_rarely_and_recovers(tmp_path: Path) -> None:
    with HubProcess(tmp_path / "home", prefix=("prlimit", "--nofile=60")) as hub:
        hub.until_ready()
        here = Siege(hub)
        try:
            with contextlib.ExitStack() as crowd:
                for _ in range(200):
                    crowd.enter_context(socket.create_connection(("127.0.0.1", hub.port), 5))
                phase = here.undisturbed(2.5)
            lines = phase.log_lines_per_s
            is_quiet = lines <= LOG_LINES_PER_S_MAX
            tell("hostile peers", "log lines a second without descriptors", lines, bound="<= 10", is_kept=is_quiet)
            assert phase.claims_ms
            assert 0 < lines <= LOG_LINES_PER_S_MAX
            wait_until("newcomers are let in again", lambda: here.connections() == 1)
            with line_to(hub.home, "newcomer") as newcomer:
                assert newcomer.post("here").n == 1
        finally:
            here.end()
        assert hub.stop().code == 0


@pytest.mark.prove
def test_all_attacks_at_once_leave_a_healthy_peer_its_latency_and_the_hub_its_bounds(tmp_path: Path) -> None:
    alone: list[Phase] = []
    among: list[Phase] = []
    with siege(tmp_path / "home") as here:
        here.fill(30, 150_000)
        base = here.undisturbed(1.0).peak_bytes
        for _ in range(ROUNDS):
            alone.append(here.undisturbed(SECONDS))
            among.append(here.attacked(FULL, SECONDS, settle_s=3.0))
    ratios = [p99(during) / p99(before) for before, during in zip(alone, among, strict=True)]
    for before, during, ratio in zip(alone, among, ratios, strict=True):
        print(f"p99 {p99(before):.2f} ms alone, {p99(during):.2f} ms among attackers: {ratio:.2f}")
    ratio, lines = statistics.median(ratios), max(phase.log_lines_per_s for phase in among)
    peak, bound = max(phase.peak_bytes for phase in among), bound_bytes(base, FULL, Limits())
    fewest = min(phase.connections for phase in among)
    part = "hostile peers"
    tell(part, "attacks at once", len(FULL))
    tell(part, "connections while they last, at least", fewest, bound=">= 1 100", is_kept=fewest >= 1_100)
    tell(part, "claim p99 of a healthy agent, alone", statistics.median(map(p99, alone)), unit="ms")
    tell(part, "claim p99 of a healthy agent, among attackers", statistics.median(map(p99, among)), unit="ms")
    tell(part, "p99 among attackers against alone", ratio, bound=f"<= {RATIO_MAX:g}", is_kept=ratio <= RATIO_MAX)
    most = round(bound / MIB)
    tell(part, "memory at most", round(peak / MIB), unit="MiB", bound=f"<= {most}", is_kept=peak <= bound)
    tell(part, "log lines a second", lines, bound="<= 10", is_kept=lines <= LOG_LINES_PER_S_MAX)
    wrong = [word for phase in among for word in unexpected(phase.met)]
    tell(part, "outcomes that have no name", len(wrong), bound="= 0", is_kept=not wrong)
    assert wrong == []
    assert fewest >= 1_100
    assert peak <= bound
    assert lines <= LOG_LINES_PER_S_MAX
    assert ratio <= RATIO_MAX


def p99(phase: Phase) -> float:
    """Of the claims of a phase."""
    return percentile(phase.claims_ms, 0.99)
