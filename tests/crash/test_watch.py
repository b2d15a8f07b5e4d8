"""A supervisor watches a room, and agents come back to digests, while the hub and those who work are killed.

Each cause that lasts is told, once, over all kills; tasks are put back, and people are called, as often as the tries
say; a digest is what the journal was at its position, and the chain of them leaves nothing out. `WATCH_KILLS` is the
number of kills of the hub in the long version (`make prove`), `CRASH_SEED` takes another seed.
"""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.crash.checker import Finding
from tests.crash.digest_checker import Told, check_digests, shown_once, told_by, told_in
from tests.crash.history import History, Recorder, lines_of, load
from tests.crash.killing import Hubs, Kills, proxy_of
from tests.crash.lives import lives_of
from tests.crash.load import DIRECT, UNIX, WS, Line
from tests.crash.rows import Row, exported
from tests.crash.team_load import agent_of
from tests.crash.watch_checker import check_watch, is_told
from tests.crash.watch_fold import Watched
from tests.crash.watch_load import CONFIG, OPTIONS, write_secret
from tests.figures import tell

SEED = int(os.environ.get("CRASH_SEED", "1"))
LOAD = "tests.crash.watch_load"
FEW = dict.fromkeys(
    ("holder-1", "holder-2", "starter-1", "blocker-1", "lead-1", "lead-2", "caller-1", "returner-1", "returner-2"),
    DIRECT,
)
"""Who works, and which way each takes."""
MANY = {
    **FEW,
    "holder-2": UNIX,
    "holder-3": WS,
    "starter-1": UNIX,
    "starter-2": WS,
    "blocker-1": WS,
    "lead-2": UNIX,
    "caller-1": UNIX,
    "returner-1": WS,
    "returner-2": UNIX,
}
GENERAL = "main:general"
STOPS_S = 3.0
"""Hubs that live longer are stopped at times."""
SETTLED_S_MAX = 60.0
"""As long as the supervisor may take for what is left when nobody works any more."""


@dataclass(slots=True)
class Ended:
    """A run that is over. deaths: kills of those who work. words: kills the instant the supervisor had said something.
    met: how many connections the proxy gave which fate. told: what `synapse digest` printed."""

    kills: Kills
    words: int
    deaths: int
    met: dict[str, int]
    history: History
    told: list[Told]
    rows: list[Row]


def set_the_stage(home: Path, run: Path, agents: Mapping[str, str]) -> None:
    """Everybody exists, and the people are in the room, before the work begins."""
    record = Recorder(run / "stage.jsonl")
    for agent in dict.fromkeys(map(agent_of, agents)):
        line = Line(home, record, agent)
        if agent.startswith("lead"):
            line.hello["kind"] = "human"
        line.open()
        if agent.startswith("lead"):
            joined = line.ask("room.join", {"room": "main"})
            assert joined is not None
            assert joined["type"] == "reply", joined
        line.leave()
        write_secret(run, agent, line.hello["secret"])
    record.close()


def kill_in_between(
    hubs: Hubs, kills: int, life_s_max: float, chance: random.Random, witness: Line
) -> tuple[Kills, int]:
    """Kill that many, and leave one that runs. Most live long enough for a supervisor to look around."""
    done, words = Kills(), 0
    while done.total < kills:
        begun = time.monotonic()
        hubs.start()
        done.ready_ms.append(round((time.monotonic() - begun) * 1_000))
        moment = chance.random() if done.total else 0.5
        if moment < 0.12:
            time.sleep(chance.uniform(0.0, 0.8))
            done.when_ready += 1
        elif moment < 0.6:
            words += hubs.kill_at_the_word(witness, GENERAL, chance.uniform(3.0, 1.0 + life_s_max))
            done.at_an_answer += 1
        else:
            time.sleep(chance.uniform(1.5, life_s_max))
            done.under_load += 1
            if life_s_max > STOPS_S and chance.random() < 0.35:
                hubs.stop_for(chance.uniform(0.1, 3.0))
                done.stops += 1
                time.sleep(chance.choice((0.0, 0.01, 1.5)))
        hubs.kill()
    hubs.start()
    return done, words


def await_the_supervisor(home: Path) -> None:
    """Until all that stands is told; when that does not come, the checker names what is missing."""
    deadline = time.monotonic() + SETTLED_S_MAX
    while not is_told(exported(home)) and time.monotonic() < deadline:
        time.sleep(0.3)


def kill_at_work(home: Path, run: Path, kills: int, life_s_max: float, ways: Mapping[str, str]) -> Ended:
    """The whole run: what was done, what was recorded, and the journal at the end."""
    run.mkdir()
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text(CONFIG, encoding="utf-8")
    with Hubs(home, run / "hub.log", OPTIONS) as hubs:
        hubs.start()
        set_the_stage(home, run, ways)
        hubs.kill()
        with proxy_of(home, run, SEED) as proxy, lives_of(home, run, ways, LOAD, SEED) as lives:
            record = Recorder(run / "witness.jsonl")
            with lives.dying():
                done, words = kill_in_between(
                    hubs, kills, life_s_max, random.Random(SEED), Line(home, record, "witness")
                )
            record.close()
            met = proxy.calm()
            lives.raise_flag("stop", "holder", "starter", "blocker", "caller")
            await_the_supervisor(home)
            lives.raise_flag("drain", "lead", "returner")
            code = hubs.stop()
            assert code == 0, hubs.last_words()
    told = [told_in(line) for path in sorted(run.glob("*.told")) for line in lines_of(path)]
    return Ended(done, words, lives.deaths, met, load(run.glob("*.jsonl")), told, exported(home))


def findings_of(ended: Ended) -> list[Finding]:
    """What all checkers find."""
    told = ended.told + told_by(ended.history)
    return [*check_watch(ended.rows), *check_digests(told, ended.rows), *_acknowledged_is_there(ended)]


def _acknowledged_is_there(ended: Ended) -> Iterator[Finding]:
    """Every change that was acknowledged under a key, but for those that changed nothing."""
    keys = {(row.actor, row.body["idem"]["key"]) for row in ended.rows if row.body.get("idem")}
    for op in ended.history.ops:
        is_change = op.key is not None and op.is_ok and op.reply.get("changed") is not False
        if is_change and not op.reply.get("already") and (op.agent, op.key) not in keys:
            yield Finding("lost", f"{op.name} under {op.key}: {op.reply}")


def figures(ended: Ended) -> str:
    """What happened, in a few lines."""
    kills, watched = ended.kills, Watched(ended.rows)
    kinds = Counter(f"{said.cause[0]} {said.body['stage']} {'to one' if said.to else ''}" for said in watched.said)
    codes = Counter(told.code for told in ended.told)
    refused = Counter(op.frame["error"]["code"] for op in ended.history.ops if op.is_refused and op.frame is not None)
    broken = sum(count for fate, count in ended.met.items() if fate not in ("clear", "slow"))
    digests = [told for told in [*ended.told, *told_by(ended.history)] if told.code == 0]
    items = {name: sum(len(told.items(name)) for told in digests) for name in ("asked", "blocked", "mine")}
    return (
        f"\n{kills.total + 1} kills and {kills.stops} stops of the hub, {ended.words} at a word of the supervisor; "
        f"{ended.deaths} deaths of those who work, {broken} connections broken\n"
        f"{sum(1 for op in ended.history.ops if op.is_ok)} acknowledged; refused: {dict(refused)}\n"
        f"told: {dict(kinds)}; {len(watched.put_back)} put back\n"
        f"{len(digests)} digests with {items}, {shown_once(digests)} messages; the command ended with {dict(codes)}\n"
        f"{len(ended.rows)} rows"
    )


def tell_all(ended: Ended, findings: list[Finding]) -> None:
    """Rows of the table of `make prove`."""
    part = "real processes, supervisor, digests"
    said, digests = Watched(ended.rows).said, [*ended.told, *told_by(ended.history)]
    lost = sum(1 for finding in findings if finding.rule == "lost")
    tell(part, "kills of the hub", ended.kills.total + 1, seed=SEED)
    tell(part, "kills of those who work", ended.deaths, seed=SEED)
    tell(part, "told by the supervisor", len(said), seed=SEED)
    tell(part, "digests checked", sum(1 for told in digests if told.code == 0), seed=SEED)
    tell(part, "acknowledged and lost", lost, bound="= 0", is_kept=not lost, seed=SEED)
    tell(part, "violations", len(findings), bound="= 0", is_kept=not findings, seed=SEED)


def run_and_check(tmp_path: Path, kills: int, life_s_max: float, ways: Mapping[str, str]) -> Ended:
    ended = kill_at_work(tmp_path / "home", tmp_path / "run", kills, life_s_max, ways)
    findings = findings_of(ended)
    print(figures(ended))
    tell_all(ended, findings)
    shown = [f"{finding.rule}: {finding.text[:700]}" for finding in findings[:20]]
    assert not findings, "\n".join([f"seed {SEED}, {len(findings)} findings", *shown])
    verify = [sys.executable, "-m", "synapse", "journal", "verify", "--home", str(tmp_path / "home")]
    proved = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert proved.returncode == 0, proved.stderr
    return ended


def causes_of(ended: Ended) -> set[tuple[str, str]]:
    """What was told at all."""
    return {(said.cause[0], said.body["stage"]) for said in Watched(ended.rows).said}


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.xdist_group("crash")
def test_over_kills_each_cause_is_told_once_and_a_chain_of_digests_leaves_nothing_out(tmp_path: Path) -> None:
    ended = run_and_check(tmp_path, 2, 2.5, FEW)
    assert len(causes_of(ended)) > 1, "the supervisor had something to tell"
    assert any(told.items("asked") for told in told_by(ended.history)), "the digests had, too"
    assert any(told.code == 0 for told in ended.told), "and the command printed some"


EVERY_CAUSE = {(cause, stage) for cause in ("stalled", "orphaned") for stage in ("told", "escalated")}


@pytest.mark.prove
@pytest.mark.timeout(3_600)
def test_over_dozens_of_kills_no_cause_is_forgotten_or_told_again_and_no_digest_is_wrong(tmp_path: Path) -> None:
    kills = int(os.environ.get("WATCH_KILLS", "20"))
    ended = run_and_check(tmp_path, kills, 6.0, MANY)
    assert causes_of(ended) >= EVERY_CAUSE | {("unblocked", "told")}
    assert ended.kills.total >= kills
    assert ended.words > kills // 5
    assert ended.deaths > kills
