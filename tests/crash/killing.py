"""One hub after another on one home, each killed with SIGKILL, and the load that goes on meanwhile."""

import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.history import Frame
from tests.crash.load import CHANNELS, Line

from synapse.core.events import Recorded
from synapse.journal.reader import JournalReader
from synapse.journal.upcast import decode

ROOT = Path(__file__).resolve().parents[2]
READY_S_MAX = 30.0
LOAD = (
    "writer-1",
    "writer-2",
    "writer-3",
    "reader-1",
    "reader-2",
    "worker-1",
    "worker-2",
    "historian-1",
)


class Failed(AssertionError):
    """A process did what it should not; with its last words."""


class Hubs:
    """One process of the hub after another, on one home; at the end of the block none is left."""

    def __init__(self, home: Path, log: Path, options: Sequence[str] = ()) -> None:
        self._log = log
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
                self._kill_at_an_answer(witness, done.total)
                done.at_an_answer += 1
            else:
                time.sleep(chance.uniform(0.1, 2.0) if moment < 0.94 else chance.uniform(3.0, 4.0))
                done.under_load += 1
            self.kill()
        self.start()
        return done

    def _end_in_a_hurry(self, patience_s: float) -> None:
        """SIGTERM, and SIGKILL before it has said goodbye to everybody."""
        assert self._process is not None
        self._process.terminate()
        time.sleep(patience_s)
        self.kill(is_stopping=True)

    def _kill_at_an_answer(self, witness: Line, number: int) -> None:
        mark = f"witness.{number}"
        self.kill_at_the_answer(witness, "message.send", {"channel": CHANNELS[0], "body": {"mark": mark}}, mark)

    def kill_at_the_answer(self, witness: Line, type_: str, body: Frame, key: str) -> None:
        """The moment at which an answer that came too early is a lie: a microsecond after it was heard."""
        assert self._process is not None
        witness.open()
        witness.on_bytes = self._process.kill
        answer = witness.ask(type_, body, key)
        witness.on_bytes = None
        witness.leave()
        assert answer is not None


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
    """How often the hub was killed, by the moment."""

    at_start: int = 0
    when_ready: int = 0
    while_stopping: int = 0
    at_an_answer: int = 0
    under_load: int = 0
    ready_ms: list[int] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.at_start + self.when_ready + self.while_stopping + self.at_an_answer + self.under_load


@contextlib.contextmanager
def load_of(home: Path, run: Path, names: Sequence[str], seed: int) -> Iterator["Load"]:
    """Start the processes of the load; whatever is left of them at the end is killed."""
    load = Load(home, run, names, seed)
    try:
        yield load
    finally:
        load.kill()


class Load:
    """The processes of the load."""

    def __init__(self, home: Path, run: Path, names: Sequence[str], seed: int) -> None:
        self._run = run
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in names:
            with (run / f"{name}.err").open("wb") as errors:
                self._processes[name] = subprocess.Popen(
                    [sys.executable, "-m", "tests.crash.load", str(home), str(run), name, str(seed)],
                    stderr=errors,
                    cwd=ROOT,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                )

    def raise_flag(self, flag: str, *roles: str) -> None:
        """Tell everybody, and wait for those of these roles to end. Raises `Failed` when one does not end well."""
        (self._run / flag).touch()
        for name, process in self._processes.items():
            if name.partition("-")[0] in roles:
                try:
                    code = process.wait(timeout=60)
                except subprocess.TimeoutExpired:
                    raise Failed(f"{name} did not end after {flag}: {self._words(name)}") from None
                if code != 0:
                    raise Failed(f"{name} ended with {code}: {self._words(name)}")

    def require_alive(self) -> None:
        """Raises `Failed` when a process has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise Failed(f"{name} ended with {process.returncode}: {self._words(name)}")

    def _words(self, name: str) -> str:
        return (self._run / f"{name}.err").read_text(encoding="utf-8", errors="replace")[-2_000:]

    def kill(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
