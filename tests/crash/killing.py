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


class Hub:
    """One process of the hub."""

    def __init__(self, home: Path, log: Path, options: Sequence[str] = ()) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "synapse", "hub", "--port", "0", "--home", str(home), *options],
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
            )
        assert self._process.stdout is not None
        self._stdout = self._process.stdout

    def wait_ready(self) -> None:
        """Raises `Failed` when the hub ends, or says nothing for long."""
        if not select.select([self._stdout], [], [], READY_S_MAX)[0]:
            self.kill()
            raise Failed(f"the hub was not ready in {READY_S_MAX} s: {self.last_words()}")
        line = self._stdout.readline()
        if not line.startswith(b"synapse hub ready"):
            code = self._process.wait()
            self._stdout.close()
            raise Failed(f"the hub ended with {code}: {self.last_words()}")

    def kill(self) -> None:
        """SIGKILL, also in the middle of its start. Raises `Failed` when it had ended by itself before."""
        code = self._process.poll()
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._stdout.close()
        if code is not None:
            raise Failed(f"the hub ended by itself with {code}: {self.last_words()}")

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(timeout=10)
        self._stdout.close()
        return code

    def last_words(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-2_000:]


@dataclass(slots=True)
class Kills:
    """How often the hub was killed, by the moment."""

    at_start: int = 0
    when_ready: int = 0
    under_load: int = 0
    ready_ms: list[int] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.at_start + self.when_ready + self.under_load


def kill_often(home: Path, log: Path, kills: int, chance: random.Random, options: Sequence[str]) -> tuple[Kills, Hub]:
    """Kill that many hubs, and leave one that runs. The first lives a while, so that there is something to replay."""
    done = Kills()
    while done.total < kills:
        begun = time.monotonic()
        hub = Hub(home, log, options)
        moment = chance.random() if done.total else 1.0
        if moment < 0.2:
            time.sleep(chance.uniform(0.05, 0.6))
            hub.kill()
            done.at_start += 1
            continue
        hub.wait_ready()
        done.ready_ms.append(round((time.monotonic() - begun) * 1_000))
        if moment < 0.4:
            time.sleep(chance.uniform(0.0, 0.02))
            hub.kill()
            done.when_ready += 1
        else:
            time.sleep(chance.uniform(0.1, 2.0))
            hub.kill()
            done.under_load += 1
    hub = Hub(home, log, options)
    hub.wait_ready()
    return done, hub


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
