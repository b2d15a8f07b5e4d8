"""A wall clock that jumps under a real hub, holders that renew in the background, and processes that are stopped."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.conftest import require_tool
from tests.faults.conftest import ENVIRON, PATIENCE_S, SRC, HubProcess, Line, line_to

from synapse.core.events import Recorded
from synapse.journal.reader import JournalReader
from synapse.journal.upcast import decode
from synapse.protocol.codec import ErrorBody
from synapse.protocol.commands import ClaimLease, ListLeases, RenewLease
from synapse.protocol.replies import Lease, Leases

DAY_S: Final = 24 * 3600
HOUR_S: Final = 3600


class Wall:
    """The wall clock of processes that run with `environ`, by libfaketime; the monotonic clock stays the machine's."""

    def __init__(self, folder: Path) -> None:
        faketime = require_tool("faketime", "faketime")
        told = subprocess.run([faketime, "-m", "-f", "+0", "env"], stdout=subprocess.PIPE, text=True, check=True).stdout
        [library] = [line.partition("=")[2] for line in told.splitlines() if line.startswith("LD_PRELOAD=")]
        self._file = folder / "offset"
        self.environ = {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        self.jump_to(0)

    def jump_to(self, offset_s: int) -> None:
        """So far from the true time."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset_s:+d}", encoding="ascii")
        new.rename(self._file)


class Keeper:
    """An agent that holds a lease and renews it three times in a TTL, in a thread, over connections of its own.

    answers: when each renewal was answered, and how (None: renewed; else the code of the refusal).
    """

    def __init__(self, home: Path, name: str, task: str, ttl_ms: int, *, tied: bool = False) -> None:
        self._home, self._name, self._task, self._every_s = home, name, task, ttl_ms / 3000
        self._line = line_to(home, name)
        self.epoch = self._line.ask(ClaimLease(task=task, ttl_ms=ttl_ms, tied=tied), Lease).epoch
        self.answers: list[tuple[float, str | None]] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._renew)
        self._thread.start()

    def _renew(self) -> None:
        while not self._is_over.wait(self._every_s):
            frame = self._line.exchange(RenewLease(task=self._task, epoch=self.epoch))
            self.answers.append((time.monotonic(), frame.error.code if isinstance(frame.error, ErrorBody) else None))

    def end(self) -> list[str]:
        """Stop renewing; every code that was not a yes."""
        self._is_over.set()
        self._thread.join(PATIENCE_S)
        self._line.close()
        return [code for _, code in self.answers if code is not None]


@contextmanager
def keeping(home: Path, name: str, task: str, ttl_ms: int, *, tied: bool = False) -> Iterator[Keeper]:
    """A keeper for the block."""
    keeper = Keeper(home, name, task, ttl_ms, tied=tied)
    try:
        yield keeper
    finally:
        keeper.end()


def live(line: Line) -> dict[str, Lease]:
    """The live leases by task."""
    return {lease.task: lease for lease in line.ask(ListLeases(), Leases).leases}


def journal_of(home: Path) -> list[Recorded]:
    """Every event of a journal that no hub has open."""
    reader = JournalReader(home)
    try:
        head, _ = reader.tip()
        return [
            Recorded(row.seq, row.at_ms, row.actor, decode(row)) for row in reader.scan(reader.identity.base, head, -1)
        ]
    finally:
        reader.close()


def health_of(hub: HubProcess) -> dict[str, object]:
    """What GET /health says."""
    with urllib.request.urlopen(f"http://127.0.0.1:{hub.port}/health", timeout=PATIENCE_S) as answer:
        told: dict[str, object] = json.load(answer)
    return told


@contextmanager
def process(
    *words: str, home: Path, stdin: int = subprocess.DEVNULL, cwd: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A Python process, `-m synapse` or `-c`, against a home. Stopped or not, it is gone after the block."""
    begun = subprocess.Popen(
        [sys.executable, *words],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**ENVIRON, "PYTHONPATH": str(SRC), "SYNAPSE_HOME": str(home), "PYTHON": sys.executable},
    )
    try:
        yield begun
    finally:
        begun.kill()
        begun.wait(PATIENCE_S)
        for pipe in (begun.stdin, begun.stdout, begun.stderr):
            if pipe is not None:
                pipe.close()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """SIGSTOP, and SIGCONT after the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
