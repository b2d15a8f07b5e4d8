"""One hub after another on one home, each killed with SIGKILL or stopped for a while, and the load meanwhile."""

import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from tests.crash.history import Frame
from tests.crash.load import CHANNELS, DIRECT, UNIX, WS, Line

from synapse.core.events import Recorded
from synapse.journal.reader import JournalReader
from synapse.journal.upcast import decode

ROOT = Path(__file__).resolve().parents[2]
READY_S_MAX = 30.0
LOAD = dict.fromkeys(
    (
        *("writer-1", "writer-2", "writer-3", "reader-1", "reader-2", "worker-1", "worker-2", "historian-1"),
        *("keeper-1", "keeper-2", "builder-1"),
    ),
    DIRECT,
)
"""The processes of the load, and which way each takes."""
PROXIED = {
    "writer-1": DIRECT,
    "writer-2": WS,
    "writer-3": UNIX,
    "writer-4": WS,
    "reader-1": UNIX,
    "reader-2": WS,
    "reader-3": WS,
    "worker-1": WS,
    "worker-2": UNIX,
    "worker-3": DIRECT,
    "historian-1": WS,
    "historian-2": UNIX,
    "keeper-1": UNIX,
    "keeper-2": WS,
    "builder-1": UNIX,
    "builder-2": WS,
}


Request: TypeAlias = tuple[str, Frame, str]
"""Type, body and key."""


def post(number: int) -> Request:
    """What is asked the instant before a kill, unless a run has something else at stake."""
    mark = f"witness.{number}"
    return "message.send", {"channel": CHANNELS[0], "body": {"mark": mark}}, mark


class Failed(AssertionError):
    """A process did what it should not; with its last words."""


class Hubs:
    """One process of the hub after another, on one home; at the end of the block none is left.

    at_stake: what is asked the instant before a kill.
    """

    def __init__(
        self, home: Path, log: Path, options: Sequence[str] = (), at_stake: Callable[[int], Request] = post
    ) -> None:
        self._log, self._at_stake = log, at_stake
        self._command = [sys.executable, "-m", "synapse", "hub", "--port", "0", "--home", str(home), *options]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Hubs":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._reap()

    def begin(self) -> None:
        """Start one, and do not wait for it."""
        assert self._process is None
        with self._log.open("ab") as errors:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT)

    def start(self) -> None:
        """Start one and wait until it is ready. Raises `Failed` when it ends, or says nothing for long."""
        self.begin()
        assert self._process is not None
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], READY_S_MAX)[0]:
            raise Failed(f"the hub was not ready in {READY_S_MAX} s: {self.last_words()}")
        if not self._process.stdout.readline().startswith(b"synapse hub ready"):
            raise Failed(f"the hub ended with {self._process.wait()}: {self.last_words()}")

    def kill(self, *, is_stopping: bool = False) -> None:
        """SIGKILL, also in the middle of its start. Raises `Failed` when it had ended by itself before; one that is
        stopping may have."""
        assert self._process is not None
        code = self._process.poll()
        self._process.kill()
        self._reap()
        if code not in (None, -signal.SIGKILL, 0 if is_stopping else None):
            raise Failed(f"the hub ended by itself with {code}: {self.last_words()}")

    def signal(self, number: int) -> None:
        """Send it a signal that does not end it: SIGSTOP, SIGCONT."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(timeout=10)
        return self._reap()

    def _reap(self) -> int:
        process, self._process = self._process, None
        assert process is not None
        with process:
            return process.wait()

    def last_words(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-2_000:]

    def kill_often(self, kills: int, chance: random.Random, witness: Line | None = None) -> "Kills":
        """Kill that many, and leave one that runs. The first lives a while, so that there is something to replay.

        witness: a line of this process; with it some are killed the instant they have answered.
        """
        done = Kills()
        while done.total < kills:
            moment = chance.random() if done.total else 1.0
            begun = time.monotonic()
            if moment < 0.2:
                self.begin()
                time.sleep(chance.uniform(0.05, 0.6))
                self.kill()
                done.at_start += 1
                continue
            self.start()
            done.ready_ms.append(round((time.monotonic() - begun) * 1_000))
            if moment < 0.3:
                time.sleep(chance.uniform(0.0, 0.02))
                done.when_ready += 1
            elif moment < 0.38:
                time.sleep(chance.uniform(0.1, 0.7))
                self._end_in_a_hurry(chance.uniform(0.0, 0.15))
                done.while_stopping += 1
                continue
            elif moment < 0.6 and witness is not None:
                time.sleep(chance.uniform(0.05, 0.7))
                self.kill_at_the_answer(witness, *self._at_stake(done.total))
                done.at_an_answer += 1
            else:
                time.sleep(chance.uniform(0.1, 2.0) if moment < 0.94 else chance.uniform(3.0, 4.0))
                done.under_load += 1
                if chance.random() < 0.35:
                    self.stop_for(chance.uniform(0.1, 3.0))
                    done.stops += 1
                    time.sleep(chance.choice((0.0, 0.01, 0.5)))
            self.kill()
        self.start()
        return done

    def stop_for(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long."""
        self.signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.signal(signal.SIGCONT)

    def _end_in_a_hurry(self, patience_s: float) -> None:
        """SIGTERM, and SIGKILL before it has said goodbye to everybody."""
        assert self._process is not None
        self._process.terminate()
        time.sleep(patience_s)
        self.kill(is_stopping=True)

    def kill_at_the_answer(self, witness: Line, type_: str, body: Frame, key: str) -> None:
        """The moment at which an answer that came too early is a lie: a microsecond after it was heard."""
        assert self._process is not None
        witness.open()
        witness.on_bytes = self._process.kill
        answer = witness.ask(type_, body, key)
        witness.on_bytes = None
        witness.leave()
        assert answer is not None

    def kill_at_the_word(self, witness: Line, channel: str, patience_s: float) -> bool:
        """A microsecond after somebody was heard to say something in a channel. False when nobody did for so long."""
        assert self._process is not None
        witness.open()
        subscribed = witness.ask("feed.subscribe", {"channels": [channel]})
        assert subscribed is not None
        assert subscribed["type"] == "reply", subscribed
        is_live = False
        while not is_live:
            said = witness.notices(0.1)
            if said is None:
                raise Failed(f"the hub ended by itself: {self.last_words()}")
            is_live = any(frame["type"] == "feed.live" for frame in said)
        process, is_heard = self._process, threading.Event()

        def kill() -> None:
            process.kill()
            is_heard.set()

        witness.on_bytes = kill
        upto = time.monotonic() + patience_s
        while time.monotonic() < upto and witness.notices(0.1) is not None:
            pass
        witness.on_bytes = None
        witness.leave()
        return is_heard.is_set()


def journal_of(home: Path) -> list[Recorded]:
    """Every row that is left, read without a hub and checked against the chain."""
    reader = JournalReader(home)
    try:
        head, _ = reader.tip()
        rows = reader.scan(reader.identity.base, head, -1)
        return [Recorded(row.seq, row.at_ms, row.actor, decode(row)) for row in rows]
    finally:
        reader.close()


@dataclass(slots=True)
class Kills:
    """How often the hub was killed, by the moment. stops: how often it was stopped for up to 3 s, and woken."""

    at_start: int = 0
    when_ready: int = 0
    while_stopping: int = 0
    at_an_answer: int = 0
    under_load: int = 0
    stops: int = 0
    ready_ms: list[int] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.at_start + self.when_ready + self.while_stopping + self.at_an_answer + self.under_load


@contextlib.contextmanager
def beside(work: Callable[[], None], is_over: threading.Event) -> Iterator[None]:
    """Meanwhile a thread works, until it finds that this is over."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextlib.contextmanager
def load_of(home: Path, run: Path, ways: Mapping[str, str], seed: int) -> Iterator["Load"]:
    """Start the processes of the load, each with its way to the hub; whatever is left of them at the end is killed."""
    load = Load(home, run, ways, seed)
    try:
        yield load
    finally:
        load.kill()


class Load:
    """The processes of the load. stops: how often one of them was stopped for a while."""

    def __init__(self, home: Path, run: Path, ways: Mapping[str, str], seed: int) -> None:
        self.stops = 0
        self._run = run
        self._chance = random.Random(f"{seed}:stops")
        self._processes = {
            name: spawn(run, name, "tests.crash.load", str(home), str(run), name, str(seed), way)
            for name, way in ways.items()
        }

    @contextlib.contextmanager
    def disturbed(self) -> Iterator[None]:
        """Meanwhile one process after another is stopped for up to 2.5 s."""
        is_over = threading.Event()

        def stop_and_wake() -> None:
            while not is_over.wait(self._chance.uniform(0.1, 1.5)):
                process = self._processes[self._chance.choice(sorted(self._processes))]
                process.send_signal(signal.SIGSTOP)
                self.stops += 1
                is_over.wait(self._chance.uniform(0.02, 2.5))
                process.send_signal(signal.SIGCONT)

        with beside(stop_and_wake, is_over):
            yield

    def raise_flag(self, flag: str, *roles: str) -> None:
        """Tell everybody, and wait for those of these roles to end. Raises `Failed` when one does not end well."""
        (self._run / flag).touch()
        for name, process in self._processes.items():
            if name.partition("-")[0] in roles:
                join(self._run, name, process, why=flag)

    def require_alive(self) -> None:
        """Raises `Failed` when a process has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise Failed(f"{name} ended with {process.returncode}: {words_of(self._run, name)}")

    def kill(self) -> None:
        end(self._processes.values())


@contextlib.contextmanager
def proxy_of(home: Path, run: Path, seed: int) -> Iterator["Proxy"]:
    """The proxy between the load and the hubs; it listens when the block begins."""
    proxy = Proxy(home, run, seed)
    try:
        proxy.await_file("proxy.json")
        yield proxy
    finally:
        proxy.kill()


class Proxy:
    """A process of `tests.crash.proxy`."""

    def __init__(self, home: Path, run: Path, seed: int) -> None:
        self._run = run
        self._process = spawn(run, "proxy", "tests.crash.proxy", str(home), str(run), str(seed))

    def calm(self) -> dict[str, int]:
        """From now on it only carries; how many connections had met which fate."""
        (self._run / "calm").touch()
        counts: dict[str, int] = json.loads(self.await_file("calmed.json"))
        return counts

    def await_file(self, name: str) -> bytes:
        path, deadline = self._run / name, time.monotonic() + READY_S_MAX
        while not path.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"the proxy did not write {name}: {words_of(self._run, 'proxy')}")
            time.sleep(0.02)
        return path.read_bytes()

    def kill(self) -> None:
        end([self._process])


def spawn(run: Path, name: str, module: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A process of the load; what it complains of is in the run's directory."""
    with (run / f"{name}.err").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stderr=errors,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )


def join(run: Path, name: str, process: subprocess.Popen[bytes], why: str) -> None:
    """Wait for its end. Raises `Failed` when it does not end well."""
    try:
        code = process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        raise Failed(f"{name} did not end after {why}: {words_of(run, name)}") from None
    if code != 0:
        raise Failed(f"{name} ended with {code}: {words_of(run, name)}")


def words_of(run: Path, name: str) -> str:
    """The last words of a process."""
    return (run / f"{name}.err").read_text(encoding="utf-8", errors="replace")[-2_000:]


def end(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Leave none of them behind, stopped ones neither."""
    for process in processes:
        process.kill()
        process.wait()
