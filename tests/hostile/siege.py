"""A hub under attack: the hub and its attackers as processes, one healthy client in between, and what it all costs."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from tests.faults.conftest import SRC, HubProcess, Line, line_to, wait_until
from tests.hostile.attackers import BULK, NOISE

from synapse.hub.peers import BULK_BYTES_MAX
from synapse.protocol.commands import ClaimLease, CreateChannel, ReleaseLease, SendMessage, ShowStatus
from synapse.protocol.limits import Limits
from synapse.protocol.replies import Lease, Released, Sent, Status
from synapse.protocol.value_commands import PutValue
from synapse.protocol.value_replies import ValueInfo

ROOT: Final = Path(__file__).resolve().parents[2]
THINK_S: Final = 0.002
MIB: Final = 1 << 20
CONNECTION_BYTES: Final = 32 * 1024
"""What a connection costs that asks nothing: transport, protocol, session, and its agent."""
REQUEST_BYTES: Final = 2 * 1024
"""What a short request costs while it is in flight, or its refusal."""
CACHES_BYTES: Final = 16 * MIB
"""Recent events, SQLite's pages, and what the interpreter keeps of what it freed."""


class Phase(NamedTuple):
    """What a phase showed. claims_ms: how long each claim of the healthy client took. met: by attack, what came of it.
    peak_bytes: the hub's most memory. connections: the hub's, when it began. log_lines_per_s: what it wrote to stderr.
    """

    claims_ms: list[float]
    met: dict[str, dict[str, int]]
    peak_bytes: int
    connections: int
    log_lines_per_s: float


class Siege:
    """A hub on a core of its own, where there are two; beside it a healthy agent on its Unix socket, and attackers."""

    def __init__(self, hub: HubProcess) -> None:
        self.hub = hub
        self.pid = hub.process.pid
        self.line: Line = line_to(hub.home, "healthy")
        self._cores = sorted(os.sched_getaffinity(0))
        for at, thread in enumerate(sorted(map(int, os.listdir(f"/proc/{self.pid}/task")))):
            if len(self._cores) > 1:
                with contextlib.suppress(ProcessLookupError):  # the thread that verifies the journal, which is done
                    os.sched_setaffinity(thread, self._cores[:1])
            if at < 2:  # the loop and the writer; the reader of pages could keep the disk itself waiting
                go_first(thread, priority=1 + at)
        self._flushers = flushers_of(self._cores[0])
        for thread in self._flushers:
            go_first(thread, priority=3)
        self._attackers = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.attackers", str(hub.home), str(hub.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        stand_back(self._attackers.pid)
        if len(self._cores) > 1:
            os.sched_setaffinity(self._attackers.pid, self._cores[1:])

    def fill(self, count: int, size: int) -> None:
        """Give the noisy channel a history, and the hub a value of some size."""
        self.line.ask(PutValue(key=BULK, value=msgspec.Raw(b'"%b"' % (b"x" * 15_000))), ValueInfo)
        self.line.exchange(CreateChannel(channel=NOISE))
        for _ in range(count):
            self.line.ask(SendMessage(body=msgspec.Raw(b'"%b"' % (b"x" * size)), target=NOISE), Sent)

    def undisturbed(self, seconds: float) -> Phase:
        """The healthy client alone."""
        return self._measure(seconds)

    def attacked(self, attacks: Mapping[str, int], seconds: float, settle_s: float = 0.0) -> Phase:
        """The healthy client among attackers, some time after all have begun. Back when the hub is rid of them."""
        self._say(json.dumps(attacks))
        assert self._hear() == "ready\n", "the attackers did not begin"
        time.sleep(settle_s)
        phase = self._measure(seconds)
        self._say("")
        phase = phase._replace(met=json.loads(self._hear()))
        wait_until("the hub is rid of its attackers", lambda: self.connections() == 1)
        return phase

    def _say(self, line: str) -> None:
        assert self._attackers.stdin is not None
        self._attackers.stdin.write(f"{line}\n")
        self._attackers.stdin.flush()

    def _hear(self) -> str:
        assert self._attackers.stdout is not None
        return self._attackers.stdout.readline()

    def _measure(self, seconds: float) -> Phase:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # VmHWM begins anew
        lines, connections = self.log_lines(), self.connections()
        claims, began = [], time.monotonic()
        with self._in_front():
            while (now := time.monotonic()) < began + seconds:
                self.line.ask(ClaimLease(task="work/mine", ttl_ms=60_000), Lease)
                claims.append((time.monotonic() - now) * 1_000)
                self.line.ask(ReleaseLease(task="work/mine"), Released)
                time.sleep(THINK_S)  # without it, it would itself be over its rate
        took = time.monotonic() - began
        return Phase(claims, {}, self.memory("VmHWM"), connections, (self.log_lines() - lines) / took)

    @contextmanager
    def _in_front(self) -> Iterator[None]:
        """The healthy client runs on the attackers' core, before them."""
        if len(self._cores) > 1:
            os.sched_setaffinity(0, self._cores[1:])
        go_first(0)
        try:
            yield
        finally:
            as_ever(0)
            os.sched_setaffinity(0, self._cores)

    def end(self) -> None:
        """Nobody is left, neither attackers nor the healthy one."""
        self._attackers.kill()
        self._attackers.communicate()
        self.line.close()
        for thread in self._flushers:
            as_ever(thread)

    def memory(self, field: str) -> int:
        """VmRSS (now) or VmHWM (at most) of the hub, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text("utf-8")
        [line] = [line for line in status.splitlines() if line.startswith(f"{field}:")]
        return int(line.split()[1]) * 1024

    def log_lines(self) -> int:
        """How many lines the hub has logged."""
        log = self.hub._log.fileno()
        return os.pread(log, os.fstat(log).st_size, 0).count(b"\n")

    def status(self) -> Status:
        """What the hub says of itself."""
        return self.line.ask(ShowStatus(), Status)

    def connections(self) -> int:
        """How many the hub holds, ours among them."""
        return self.status().counts.connections


def stand_back(process: int) -> None:
    """Run only when nobody else wants to. The attackers are elsewhere: they take no time from the client that shares
    their core, nor from the threads of the kernel that write the hub's journal. A nice attacker does, for milliseconds
    of a flush, though what it does to the hub is the same."""
    os.sched_setscheduler(process, os.SCHED_IDLE, os.sched_param(0))


def go_first(thread: int, *, priority: int = 1) -> None:
    """Run before whatever else runs on this machine, where that is permitted: its work is not what is measured.

    Of two threads on one core the writer has the higher priority, as the ordinary scheduler gives the core to who has
    slept. With the same one it would get it only when the loop sleeps, or has run for 100 ms. Before both is what the
    kernel does for the writer: else a flush would wait until the loop sleeps.
    """
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(thread, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(priority))


def as_ever(thread: int) -> None:
    """Undo `go_first`."""
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def flushers_of(core: int) -> list[int]:
    """The kernel's threads of high priority that work for a core: they hand the flush of a file to the disk."""
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if re.match(rf"kworker/{core}:\d+H", comm.read_text()):
                found.append(int(comm.parent.name))
    return found


def bound_bytes(base_bytes: int, attacks: Mapping[str, int], limits: Limits) -> int:
    """The most memory the hub may take under these attacks, when it took `base_bytes` before them: caches, and for each
    connection its objects; its outbox, if it asks; requests in flight; the frame that is not complete.
    """
    grown = 9 / 8  # what a bytearray takes beyond its length
    outbox, frame = limits.outbox_bytes_max * grown, limits.frame_bytes_max * grown
    asks = outbox + limits.in_flight_max * REQUEST_BYTES
    bulk = 2 * (BULK_BYTES_MAX + limits.message_bytes_max)  # as they came, and decoded
    each = {
        "never reads": asks,
        "never reads values": asks,
        "subscriptions": asks,
        "half frame": frame,
        "fragments": frame,
    }
    each |= {name: asks for name in attacks if name.startswith("flood")} | {"flood of bulk": asks + frame + bulk}
    held = sum(count * (CONNECTION_BYTES + each.get(name, 0)) for name, count in attacks.items())
    return base_bytes + CACHES_BYTES + int(held)


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of all do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


@contextmanager
def siege(home: Path, limits: Mapping[str, int] | None = None, source: Path = SRC) -> Iterator[Siege]:
    """A hub with these limits, and a healthy agent; at the end it lives, has logged no bug, and drains. source: what
    it runs."""
    environ = {f"SYNAPSE_LIMIT_{name.upper()}": str(value) for name, value in (limits or {}).items()}
    environ["PYTHONPATH"] = str(source)
    with HubProcess(home, environ=environ) as hub:
        hub.until_ready()
        here = Siege(hub)
        try:
            yield here
        finally:
            here.end()
        assert hub.stop().code == 0
        assert "hub.bug" not in hub.said.decode()
