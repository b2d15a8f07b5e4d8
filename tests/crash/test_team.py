"""A team asks, answers, keeps sessions, hands over, calls, lends and reads, while the hub and its people are killed.

What was acknowledged is there once, each question has one outcome that reaches who asked it, no version goes back, each
lane has one state, and each message to a role is acked by one member. `TEAM_KILLS` is the number of kills of the hub in
the long version (`make prove`), `CRASH_SEED` takes another seed.
"""

import hashlib
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.crash.checker import Finding, feeds_are_exact
from tests.crash.effects_checker import check_effects
from tests.crash.history import History, Recorder, load
from tests.crash.killing import Hubs, Kills, Request, journal_of, proxy_of
from tests.crash.lanes_checker import check_lanes
from tests.crash.ledger import Ledger
from tests.crash.lives import lives_of
from tests.crash.load import DIRECT, UNIX, WS, Line
from tests.crash.offers_checker import check_offers
from tests.crash.questions_checker import check_questions
from tests.crash.queues_checker import check_queues
from tests.crash.sessions_checker import check_sessions
from tests.crash.team_load import HUMAN_SECRET, ROLE, agent_of
from tests.figures import tell

from synapse.core.events import Recorded

SEED = int(os.environ.get("CRASH_SEED", "1"))
TEAM = dict.fromkeys(
    (
        *("asker-1", "asker-2", "person-1", "person-2", "runner-1", "runner-2", "caller-1", "lender-1", "reader-1"),
        *("runner-1-twin", "member-1", "member-2", "member-3"),
    ),
    DIRECT,
)
"""Who works, and which way each takes."""
PROXIED = {
    **TEAM,
    "asker-1": UNIX,
    "asker-2": WS,
    "person-1": UNIX,
    "runner-1": UNIX,
    "runner-1-twin": WS,
    "runner-2": WS,
    "caller-1": UNIX,
    "caller-2": WS,
    "lender-1": WS,
    "reader-1": WS,
    "member-1": UNIX,
    "member-2": WS,
}
OPTIONS = ("--snapshot-events", "700")
LOAD = "tests.crash.team_load"


@dataclass(slots=True)
class Ended:
    """A run that is over. deaths: kills of those who work. met: how many connections the proxy gave which fate."""

    kills: Kills
    deaths: int
    met: dict[str, int]
    history: History
    journal: list[Recorded]


def set_the_stage(home: Path, run: Path, agents: Mapping[str, str]) -> None:
    """The people's token, and everybody who may be written to, exist before the work begins."""
    record = Recorder(run / "stage.jsonl")
    operator = Line(home, record, "operator")
    operator.hello = {"operator": True}
    operator.open()
    digest = hashlib.sha256(HUMAN_SECRET.encode()).hexdigest()
    made = operator.ask("token.create", {"hash": digest, "role": "human"})
    assert made is not None
    assert made["type"] == "reply", made
    operator.leave()
    for agent in dict.fromkeys(map(agent_of, agents)):
        line = Line(home, record, agent)
        line.open()
        line.leave()
    record.close()


def at_stake(number: int) -> Request:
    """What is asked the instant before a kill: a question, or a message to the role."""
    mark = f"witness.{number}"
    if number % 2:
        return "question.ask", {"title": mark}, mark
    return "message.send", {"target": ROLE, "create": True, "body": {"mark": mark}}, mark


def kill_at_work(home: Path, run: Path, kills: int, ways: Mapping[str, str]) -> Ended:
    """The whole run: what was done, what was recorded, and the journal at the end."""
    run.mkdir()
    with Hubs(home, run / "hub.log", OPTIONS, at_stake) as hubs:
        hubs.start()
        set_the_stage(home, run, ways)
        hubs.kill()
        with proxy_of(home, run, SEED) as proxy, lives_of(home, run, ways, LOAD, SEED) as team:
            record = Recorder(run / "witness.jsonl")
            with team.dying():
                done = hubs.kill_often(kills, random.Random(SEED), Line(home, record, "witness"))
            record.close()
            met = proxy.calm()
            team.raise_flag("stop", "asker", "runner", "caller", "lender")
            team.raise_flag("drain", "person", "member", "reader")
            code = hubs.stop()
            assert code == 0, hubs.last_words()
    return Ended(done, team.deaths, met, load(run.glob("*.jsonl")), journal_of(home))


def findings_of(ended: Ended) -> list[Finding]:
    """What all checkers find."""
    history, journal = ended.history, ended.journal
    found = check_effects(history, journal) + list(feeds_are_exact(history, Ledger(journal)))
    for check in (check_questions, check_sessions, check_lanes, check_queues, check_offers):
        found += check(history, journal)
    return found


def figures(ended: Ended) -> str:
    """What happened, in a few lines."""
    ops, kills = ended.history.ops, ended.kills
    kinds = Counter(op.type for op in ops if op.is_ok)
    events = Counter(type(recorded.event).__name__ for recorded in ended.journal)
    unknown = sum(1 for op in ops if op.frame is None and op.type != "hello")
    codes = Counter(op.frame["error"]["code"] for op in ops if op.is_refused and op.frame is not None)
    broken = sum(count for fate, count in ended.met.items() if fate not in ("clear", "slow"))
    return (
        f"\n{kills.total + 1} kills and {kills.stops} stops of the hub, {kills.at_an_answer} the instant of an answer; "
        f"{ended.deaths} deaths of those who work, {broken} connections broken\n"
        f"{sum(kinds.values())} acknowledged: {', '.join(f'{count} {name}' for name, count in kinds.most_common())}\n"
        f"{unknown} unknown; refused: {dict(codes)}\n"
        f"{len(ended.journal)} events: {', '.join(f'{count} {name}' for name, count in events.most_common())}"
    )


def tell_all(ended: Ended, findings: list[Finding]) -> None:
    """Rows of the table of `make prove`."""
    part = "real processes, questions, sessions, lanes, roles"
    lost = sum(1 for finding in findings if finding.rule in ("lost", "not durable"))
    tell(part, "kills of the hub", ended.kills.total + 1, seed=SEED)
    tell(part, "kills of those who work", ended.deaths, seed=SEED)
    tell(part, "acknowledged", sum(1 for op in ended.history.ops if op.is_ok), seed=SEED)
    tell(part, "acknowledged and lost", lost, bound="= 0", is_kept=not lost, seed=SEED)
    tell(part, "violations", len(findings), bound="= 0", is_kept=not findings, seed=SEED)


def run_and_check(tmp_path: Path, kills: int, ways: Mapping[str, str]) -> Ended:
    ended = kill_at_work(tmp_path / "home", tmp_path / "run", kills, ways)
    findings = findings_of(ended)
    print(figures(ended))
    tell_all(ended, findings)
    shown = [f"{finding.rule}: {finding.text[:500]}" for finding in findings[:20]]
    assert not findings, "\n".join([f"seed {SEED}, {len(findings)} findings", *shown])
    verify = [sys.executable, "-m", "synapse", "journal", "verify", "--home", str(tmp_path / "home")]
    proved = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert proved.returncode == 0, proved.stderr
    return ended


REACHED = (
    "QuestionAnswered",
    "QuestionDismissed",
    "QuestionExpired",
    "QuestionWithdrawn",
    "SessionCheckpointed",
    "SessionEnded",
    "LaneAccepted",
    "LaneMessaged",
    "ResourceWithdrawn",
    "AgentDescribed",
    "RoleLeft",
)
"""What a run must have come to, or it shows nothing."""


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.xdist_group("crash")
def test_no_kill_of_hub_or_team_loses_an_outcome_a_version_a_step_or_a_message(tmp_path: Path) -> None:
    ended = run_and_check(tmp_path, 6, TEAM)
    assert sum(1 for op in ended.history.ops if op.is_ok) > 500, "the load was a load"
    assert ended.deaths > 3
    events = {type(recorded.event).__name__ for recorded in ended.journal}
    assert events >= {"QuestionAnswered", "SessionCheckpointed", "LaneOffered", "MessagesAcked", "ResourceOffered"}


@pytest.mark.prove
@pytest.mark.timeout(3_600)
def test_over_dozens_of_kills_and_cuts_nothing_that_a_team_did_is_lost(tmp_path: Path) -> None:
    kills = int(os.environ.get("TEAM_KILLS", "30"))
    ended = run_and_check(tmp_path, kills, PROXIED)
    events = {type(recorded.event).__name__ for recorded in ended.journal}
    assert events >= set(REACHED), set(REACHED) - events
    assert ended.kills.total >= kills
    assert ended.deaths > kills // 2
