"""The real hub is killed again and again under load; nothing acknowledged is lost, nothing is seen that is not durable.

In the long version (`make prove`) and in one of the short ones most processes are behind a proxy that delays, cuts,
half-closes and swallows, over WebSocket and Unix sockets. Hub and processes are also stopped and woken.

`CRASH_SEED` takes another seed, `CRASH_KILLS` another number of kills for the long version. A finding names the seed;
moments differ from run to run all the same, because a dozen processes share the machine.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.crash.checker import Finding, check
from tests.crash.history import History, Recorder, load
from tests.crash.killing import LOAD, PROXIED, Hubs, Kills, journal_of, load_of, post, proxy_of
from tests.crash.load import CHANNELS, READERS, WORKER, Line
from tests.crash.plan_checker import check_plan
from tests.crash.proxy import FATES
from tests.crash.values_checker import check_values
from tests.figures import tell
from tests.power.lies import hasty

from synapse.core.events import Recorded

SEED = int(os.environ.get("CRASH_SEED", "1"))
SNAPSHOT_EVENTS = 1_500
KILLS_OF_A_CONTROL = 60
OPTIONS = ("--snapshot-events", str(SNAPSHOT_EVENTS))


def set_the_stage(home: Path, run: Path) -> None:
    """The channels, and everybody who may be written to, exist before the load begins."""
    record = Recorder(run / "stage.jsonl")
    for agent in (WORKER, *READERS):
        line = Line(home, record, agent)
        line.open()
        for channel in CHANNELS:
            line.ask("channel.join", {"channel": channel})
        line.leave()
    record.close()


@dataclass(slots=True)
class Ended:
    """A run that is over. met: how many connections the proxy gave which fate."""

    done: Kills
    client_stops: int
    met: dict[str, int]
    history: History
    journal: list[Recorded]


def kill_under_load(home: Path, run: Path, kills: int, ways: Mapping[str, str]) -> Ended:
    """The whole run: what was done, what was recorded, and the journal at the end."""
    run.mkdir()
    with Hubs(home, run / "hub.log", OPTIONS) as hubs:
        hubs.start()
        set_the_stage(home, run)
        hubs.kill()
        with proxy_of(home, run, SEED) as proxy, load_of(home, run, ways, SEED) as processes:
            record = Recorder(run / "witness.jsonl")
            with processes.disturbed():
                done = hubs.kill_often(kills, random.Random(SEED), Line(home, record, "witness"))
            record.close()
            met = proxy.calm()
            processes.require_alive()
            processes.raise_flag("stop", "writer", "keeper", "builder")
            processes.raise_flag("drain", "reader", "worker", "historian")
            code = hubs.stop()
            assert code == 0, hubs.last_words()
    return Ended(done, processes.stops, met, load(run.glob("*.jsonl")), journal_of(home))


def replayed_most(log: Path) -> int:
    """How many events the longest start had to fold behind its snapshot."""
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if '"hub.ready"' in line]
    return max(int(json.loads(line)["replayed"]) for line in lines)


def figures(ended: Ended) -> str:
    """What happened, in a few lines."""
    done, ops, segments = ended.done, ended.history.ops, ended.history.segments
    kinds = Counter(op.type for op in ops if op.is_ok)
    heard = [Counter(notice.frame["type"] for notice in segment.heard) for segment in segments]
    fell_behind = sum(max(0, types["feed.live"] - 1) for types in heard)
    resumed = sum(1 for segment in segments if "since" in segment.op.body)
    repeats = sum(1 for op in ops if op.is_ok and op.frame is not None and op.frame.get("replayed"))
    again = sum(1 for op in ops if op.type == "inbox.take" and op.is_ok and op.reply["lends"] > 1)
    ready = sorted(done.ready_ms)
    readers = {segment.op.client for segment in segments}
    fates = ", ".join(f"{count} {fate}" for fate, count in sorted(ended.met.items()))
    return (
        f"\n{done.total + 1} kills: 1 after the stage was set, {done.at_start} while starting, {done.when_ready} when "
        f"ready, {done.while_stopping} while stopping, {done.at_an_answer} the instant of an answer, "
        f"{done.under_load} under load; ready after {ready[len(ready) // 2]} ms, at most {ready[-1]} ms\n"
        f"{done.stops} stops of the hub, {ended.client_stops} of its clients; connections by their fate: {fates}\n"
        f"{sum(kinds.values())} acknowledged: {', '.join(f'{count} {name}' for name, count in kinds.most_common())}\n"
        f"{unknown(ended.history)} unknown, {sum(1 for op in ops if op.is_refused)} refused, "
        f"{repeats} repeats answered, {again} messages lent again\n"
        f"{sum(types['message'] for types in heard)} messages read by {len(readers)} readers over "
        f"{len(segments)} subscriptions, {resumed} of them resumed, {fell_behind} times fallen behind and caught up\n"
        f"{len(ended.journal)} events in the journal"
    )


def unknown(history: History) -> int:
    """Requests whose outcome nobody was told; a hello that was cut off is none."""
    return sum(1 for op in history.ops if op.frame is None and op.type != "hello")


def tell_all(ended: Ended, findings: list[Finding]) -> None:
    """Rows of the table of `make prove`."""
    part = "real processes, messages"
    lost = sum(1 for finding in findings if finding.rule in ("lost", "not durable"))
    tell(part, "kills of the hub", ended.done.total + 1, seed=SEED)
    tell(part, "stops of the hub and its clients", ended.done.stops + ended.client_stops, seed=SEED)
    broken = sum(count for fate, count in ended.met.items() if fate not in ("clear", "slow"))
    tell(part, "connections broken by the proxy", broken, seed=SEED)
    tell(part, "acknowledged", sum(1 for op in ended.history.ops if op.is_ok), seed=SEED)
    tell(part, "unknown outcomes", unknown(ended.history), seed=SEED)
    tell(part, "acknowledged and lost", lost, bound="= 0", is_kept=not lost, seed=SEED)
    tell(part, "violations", len(findings), bound="= 0", is_kept=not findings, seed=SEED)


def run_and_check(tmp_path: Path, kills: int, ways: Mapping[str, str]) -> Ended:
    ended = kill_under_load(tmp_path / "home", tmp_path / "run", kills, ways)
    findings = check(ended.history, ended.journal) + check_values(ended.history, ended.journal)
    findings += check_plan(ended.history, ended.journal)
    print(figures(ended))
    tell_all(ended, findings)
    most = replayed_most(tmp_path / "run" / "hub.log")
    print(f"at most {most} events replayed at a start, a snapshot every {SNAPSHOT_EVENTS}\n{len(findings)} findings")
    shown = [f"{finding.rule}: {finding.text}" for finding in findings[:20]]
    assert not findings, "\n".join([f"seed {SEED}, {len(findings)} findings", *shown])
    verify = [sys.executable, "-m", "synapse", "journal", "verify", "--home", str(tmp_path / "home")]
    proved = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert proved.returncode == 0, proved.stderr
    assert most < 10 * SNAPSHOT_EVENTS, "hubs that live shortly take their snapshots too, unless killed at it"
    return ended


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.xdist_group("crash")
def test_no_kill_under_load_loses_repeats_or_reorders_anything(tmp_path: Path) -> None:
    ended = run_and_check(tmp_path, 30, LOAD)
    assert ended.done.total + 1 >= 30
    assert sum(1 for op in ended.history.ops if op.is_ok) > 1_000, "the load was a load"
    assert any(op.frame is None for op in ended.history.ops), "some answers were cut off"


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.xdist_group("crash")
def test_nothing_is_lost_repeated_or_reordered_behind_a_network_that_cuts_and_swallows(tmp_path: Path) -> None:
    ended = run_and_check(tmp_path, 6, PROXIED)
    assert sum(1 for op in ended.history.ops if op.is_ok) > 500, "the load was a load"
    assert len(ended.met) > 3, "connections had many fates"
    assert unknown(ended.history) > 10
    assert ended.client_stops > 1


@pytest.mark.prove
@pytest.mark.timeout(3_600)
def test_hundreds_of_kills_stops_and_cuts_under_load_lose_repeat_and_reorder_nothing(tmp_path: Path) -> None:
    kills = int(os.environ.get("CRASH_KILLS", "90"))
    ended = run_and_check(tmp_path, kills, PROXIED)
    assert ended.done.total >= kills
    assert ended.met.keys() >= set(FATES), "every fate was met"
    assert min(ended.done.stops, ended.client_stops) > kills // 20


@pytest.mark.prove
@pytest.mark.timeout(600)
def test_a_hub_that_answers_before_its_commit_is_found_out_by_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else no kill would prove anything."""
    home, run = tmp_path / "home", tmp_path / "run"
    run.mkdir()
    with Hubs(home, run / "hub.log", OPTIONS) as hubs:
        hubs.start()
        set_the_stage(home, run)
        assert hubs.stop() == 0
        monkeypatch.setenv("PYTHONPATH", os.fspath(hasty(tmp_path / "source")))
        findings, kills = list[Finding](), 0
        while not findings and kills < KILLS_OF_A_CONTROL:
            record = Recorder(run / f"witness-{kills}.jsonl")
            hubs.start()
            hubs.kill_at_the_answer(Line(home, record, "witness"), *post(kills))
            hubs.kill()
            record.close()
            kills += 1
            findings = check(load(run.glob("*.jsonl")), journal_of(home))
    rules = {finding.rule for finding in findings}
    is_found = "lost" in rules
    tell("real processes, control", "kills that found an answer before its commit", kills, is_kept=is_found, seed=SEED)
    assert is_found, rules


def make_a_home_by_force(home: Path, log: Path, chance: random.Random) -> int:
    """Kill hubs that are making their journal, until one has; how many it took. Each lives a little longer, so that a
    busy machine gets there too."""
    tries = 0
    with Hubs(home, log) as hubs:
        while not (home / "hub.json").exists():
            hubs.begin()
            time.sleep(chance.uniform(0.02, 0.5 + tries / 8))
            hubs.kill()
            tries += 1
        hubs.start()
        assert hubs.stop() == 0
    journal = journal_of(home)
    assert [recorded.seq for recorded in journal] == list(range(journal[0].seq, journal[-1].seq + 1))
    return tries


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.xdist_group("crash")
def test_a_hub_killed_while_it_makes_its_journal_starts_again(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    killed = sum(make_a_home_by_force(tmp_path / str(n), tmp_path / f"{n}.log", chance) for n in range(8))
    print(f"\n{killed} kills while 8 journals were made")
    assert killed >= 8


@pytest.mark.prove
@pytest.mark.timeout(3_600)
def test_dozens_of_kills_while_journals_are_made_break_none(tmp_path: Path) -> None:
    chance, killed, homes = random.Random(SEED), 0, 0
    while killed < int(os.environ.get("CRASH_KILLS", "90")) // 2:
        killed += make_a_home_by_force(tmp_path / str(homes), tmp_path / f"{homes}.log", chance)
        homes += 1
    tell("real processes, journals in the making", "kills of the hub", killed, seed=SEED)
    tell("real processes, journals in the making", "whole in the end", homes, seed=SEED)
    assert homes
