"""Agents contend for overlapping scopes while the hub is killed and holders are stopped, woken and killed.

Half of them are behind a proxy that cuts, holds back and swallows. At no position of the journal are two leases live
that exclude each other, no holder is sure of what another is sure of, and whoever comes back from the dead is fenced.
`CLAIMS_S` is the length of the long version (`make prove`) in seconds, `CRASH_SEED` takes another seed.
"""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path

import pytest
from tests.crash.claims_checker import (
    ClaimHistory,
    Register,
    beliefs,
    check_claims,
    is_fresh,
    latest_expiry_ms,
    load_claims,
)
from tests.crash.claims_load import CONFIG, ENDED, HOLDERS, TTL_MS, Diary
from tests.crash.killing import Failed, Hubs, Proxy, end, join, journal_of, proxy_of, spawn
from tests.crash.load import Line
from tests.figures import tell

from synapse.core.events import LeaseExpired, LeaseGranted, LeaseHandedOff, LeaseQueued, LeaseUnqueued, Recorded

SEED = int(os.environ.get("CRASH_SEED", "1"))
WATCHER = "watcher-1"


@dataclass(slots=True)
class Done:
    """What was done to them. met: how many connections the proxy gave which fate."""

    hub_kills: int = 0
    at_an_answer: int = 0
    hub_stops: int = 0
    holder_stops: int = 0
    holder_kills: int = 0
    met: dict[str, int] = field(default_factory=dict)
    ready_ms: list[int] = field(default_factory=list)


class Unrest:
    """Kills and stops, at moments of chance, until the time is over; then everybody runs."""

    def __init__(self, hubs: Hubs, home: Path, run: Path, proxy: Proxy) -> None:
        self.done = Done()
        self.chance = random.Random(SEED)
        self._hubs, self._home, self._run, self._proxy = hubs, home, run, proxy
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        self._lives: Counter[str] = Counter()
        self._stopped: set[str] = set()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._record = Diary(run / "witness.jsonl")
        self._witness = Line(home, self._record, "witness")
        self._watcher = self._spawn(WATCHER)
        for number in range(1, HOLDERS + 1):
            self._begin(f"holder-{number}")

    def _spawn(self, name: str) -> subprocess.Popen[bytes]:
        return spawn(self._run, name, "tests.crash.claims_load", str(self._home), str(self._run), name, str(SEED))

    def _begin(self, agent: str) -> None:
        self._lives[agent] += 1
        life = self._lives[agent]
        self._holders[agent] = self._spawn(agent if life == 1 else f"{agent}.{life}")

    def _in(self, seconds: float, act: Callable[[], None]) -> None:
        self._count += 1
        heappush(self._later, (time.monotonic() + seconds, self._count, act))

    def last(self, seconds: float) -> None:
        """Disturb everybody for so long, and then bring it to its end."""
        end_s = time.monotonic() + seconds
        self._in(1.5, self._kill_hub)
        self._in(0.7, self._stop_holder)
        self._in(1.5, self._kill_holder)
        self._in(seconds / 2, self._stop_hub)
        while self._later and (self._later[0][0] < end_s or self._stopped):
            at, _, act = heappop(self._later)
            time.sleep(max(0.0, at - time.monotonic()))
            if at < end_s or act.__name__ == "wake":
                act()
        for name, process in self._holders.items():
            if process.poll() is not None:
                raise Failed(f"{name} ended with {process.returncode}: {self._words(name)}")
        self.done.met = self._proxy.calm()
        (self._run / "stop").touch()
        for name, process in self._holders.items():
            join(self._run, name, process, why="stop")
        (self._run / "drain").touch()
        join(self._run, WATCHER, self._watcher, why="drain")

    def _words(self, name: str) -> str:
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in self._run.glob(f"{name}*.err")]
        return "\n".join(texts)[-2_000:]

    def _kill_hub(self) -> None:
        if self.chance.random() < 0.5:
            task = f"W{self.done.hub_kills}"
            self._hubs.kill_at_the_answer(self._witness, "lease.claim", {"task": task, "ttl_ms": TTL_MS}, task)
            self.done.at_an_answer += 1
        self._hubs.kill()
        self.done.hub_kills += 1
        away_s = self.chance.choice((0.0, 0.0, 0.0, 0.1, 0.4, 1.5 * TTL_MS / 1000))
        time.sleep(away_s)
        if self.chance.random() < 0.2:
            self._hubs.begin()
            time.sleep(self.chance.uniform(0.1, 0.4))
            self._hubs.kill()
            self.done.hub_kills += 1
        begun = time.monotonic()
        self._hubs.start()
        self.done.ready_ms.append(round((time.monotonic() - begun) * 1000))
        self._in(self.chance.choice((0.05, 0.4, 0.9, 1.8, 4.0)), self._kill_hub)

    def _stop_holder(self) -> None:
        agent = self.chance.choice(sorted(self._holders.keys() - self._stopped))
        process = self._holders[agent]
        process.send_signal(signal.SIGSTOP)
        self._stopped.add(agent)
        self.done.holder_stops += 1

        def wake() -> None:
            process.send_signal(signal.SIGCONT)
            self._stopped.discard(agent)

        self._in(self.chance.uniform(0.4, 2.2) * TTL_MS / 1000, wake)
        self._in(self.chance.uniform(0.1, 0.6), self._stop_holder)

    def _kill_holder(self) -> None:
        agent = self.chance.choice(sorted(self._holders.keys() - self._stopped))
        self._holders[agent].kill()
        self._holders[agent].wait()
        self.done.holder_kills += 1
        self._begin(agent)
        self._in(self.chance.uniform(0.4, 2.0), self._kill_holder)

    def _stop_hub(self) -> None:
        self._hubs.signal(signal.SIGSTOP)
        time.sleep(2 * TTL_MS / 1000)
        self._hubs.signal(signal.SIGCONT)
        self.done.hub_stops += 1
        self._in(self.chance.uniform(5, 15), self._stop_hub)

    def end(self) -> None:
        """Leave nobody behind."""
        self._record.close()
        end([self._watcher, *self._holders.values()])


def contend(home: Path, run: Path, seconds: float) -> tuple[Done, ClaimHistory, list[Recorded]]:
    """The whole run: what was done, what was recorded, and the journal at the end."""
    home.mkdir(mode=0o700)
    run.mkdir()
    (home / "config.toml").write_text(CONFIG, encoding="utf-8")
    with ExitStack() as stack:
        hubs = stack.enter_context(Hubs(home, run / "hub.log", ("--snapshot-events", "1500")))
        hubs.start()
        unrest = Unrest(hubs, home, run, stack.enter_context(proxy_of(home, run, SEED)))
        try:
            unrest.last(seconds)
        finally:
            unrest.end()
        code = hubs.stop()
        assert code == 0, hubs.last_words()
    return unrest.done, load_claims(run.glob("*.jsonl")), journal_of(home)


def figures(done: Done, history: ClaimHistory, journal: list[Recorded]) -> str:
    """What happened, in a few lines."""
    register, ops = Register(journal), history.ops
    events = Counter(type(entry.event).__name__ for entry in journal)
    codes = Counter(op.frame["error"]["code"] for op in ops if op.is_refused and op.frame is not None)
    under = [op.frame["error"]["code"] for op in ops if op.is_refused and op.frame is not None and "epoch" in op.body]
    fenced = sum(1 for code in under if code in ENDED)
    waited = sum(1 for entry in journal if isinstance(entry.event, LeaseGranted) and entry.event.place is not None)
    reasons = Counter(entry.event.reason for entry in journal if isinstance(entry.event, LeaseExpired | LeaseUnqueued))
    changed = sum(1 for op in ops if is_fresh(op) and "epoch" in op.body)
    again = sum(1 for op in ops if op.is_ok and not is_fresh(op))
    ready = sorted(done.ready_ms)
    return (
        f"\n{done.hub_kills} kills of the hub, {done.at_an_answer} of them the instant of an answer "
        f"(ready after {ready[len(ready) // 2]} ms, at most {ready[-1]} ms), "
        f"{done.hub_stops} stops of it, {done.holder_stops} stops and {done.holder_kills} kills of {HOLDERS} holders; "
        f"connections by their fate: {', '.join(f'{count} {fate}' for fate, count in sorted(done.met.items()))}\n"
        f"{events['LeaseGranted']} grants, {waited} of them from {events['LeaseQueued']} places in line; "
        f"{events['LeaseHandedOff']} hand-offs, {events['LeaseReleased']} releases, "
        f"{events['LeaseExpired']} expiries ({dict(reasons.most_common())}); "
        f"at most {register.greatest[0]} leases and {register.greatest[1]} places at once\n"
        f"{sum(codes.values())} refusals: {', '.join(f'{count} {code}' for code, count in codes.most_common())}\n"
        f"{changed} mutations under a live epoch, {fenced} under a dead one, all refused; {again} repeats answered, "
        f"{sum(1 for op in ops if op.frame is None)} unknown; {len(beliefs(history, register))} spans of belief; "
        f"the latest expiry {latest_expiry_ms(history, journal)} ms after its time; {len(journal)} events"
    )


def contend_and_check(tmp_path: Path, seconds: float) -> tuple[Done, ClaimHistory, list[Recorded]]:
    done, history, journal = contend(tmp_path / "home", tmp_path / "run", seconds)
    findings = check_claims(history, journal)
    print(figures(done, history, journal))
    part, kinds = "real processes, claims", Counter(type(entry.event) for entry in journal)
    lost = sum(1 for finding in findings if finding.rule in ("lost", "not durable"))
    tell(part, "kills of the hub", done.hub_kills, seed=SEED)
    tell(part, "stops and kills of holders, stops of the hub", done.holder_stops + done.holder_kills + done.hub_stops)
    broken = sum(count for fate, count in done.met.items() if fate not in ("clear", "slow"))
    tell(part, "connections broken by the proxy", broken, seed=SEED)
    tell(part, "grants, hand-offs and expiries", kinds[LeaseGranted] + kinds[LeaseHandedOff] + kinds[LeaseExpired])
    tell(part, "acknowledged and lost", lost, bound="= 0", is_kept=not lost, seed=SEED)
    tell(part, "violations", len(findings), bound="= 0", is_kept=not findings, seed=SEED)
    shown = [f"{finding.rule}: {finding.text}" for finding in findings[:20]]
    assert not findings, "\n".join([f"seed {SEED}, {len(findings)} findings", *shown])
    return done, history, journal


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.xdist_group("crash")
def test_no_two_hold_what_one_can_have_and_who_comes_back_from_the_dead_is_fenced(tmp_path: Path) -> None:
    done, history, journal = contend_and_check(tmp_path, 14.0)
    assert min(done.hub_kills, done.holder_kills, done.holder_stops) >= 3
    kinds = Counter(type(entry.event) for entry in journal)
    assert kinds[LeaseGranted] > 30 < kinds[LeaseQueued], "the load was a load"
    assert min(kinds[LeaseHandedOff], kinds[LeaseExpired]) > 0
    codes = {op.frame["error"]["code"] for op in history.ops if op.is_refused and op.frame is not None}
    assert codes >= {"lease_held", "stale_epoch", "deadline"}, "the interesting refusals were met"


@pytest.mark.prove
@pytest.mark.timeout(7_200)
def test_minutes_of_kills_and_stops_never_let_two_hold_what_one_can_have(tmp_path: Path) -> None:
    seconds = float(os.environ.get("CLAIMS_S", "45"))
    done, _, _ = contend_and_check(tmp_path, seconds)
    assert done.hub_kills >= seconds / 4
