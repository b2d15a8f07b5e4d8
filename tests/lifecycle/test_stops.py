"""Processes that stand still: a stopped or starved hub expires nobody for it; a stopped holder comes back to a no."""

import contextlib
import socket
import subprocess
import time
from pathlib import Path

import msgspec
import pytest
from tests.faults.conftest import HubProcess, Line, line_to, wait_until
from tests.figures import tell
from tests.lifecycle.conftest import health_of, journal_of, keeping, live, process, stopped

from synapse.core.events import LeaseCheckpointed, LeaseExpired, LeaseGranted, LeaseHandedOff, LeaseReleased
from synapse.errors import EXIT_LOCKED, EXIT_REFUSED
from synapse.protocol.commands import (
    CheckLease,
    ClaimLease,
    Command,
    HandOffLease,
    ReleaseLease,
    RenewLease,
    SaveCheckpoint,
)
from synapse.protocol.replies import Lease

TTL_MS = 5_000
"""The shortest that a hub allows by default."""
SHORT_TTL_MS = 3_000
WATCHDOG_S = 10
"""It is fed twice as often."""
PART = "time and life cycle"

HOLDS = """
import asyncio, sys
from synapse import Client
from synapse.errors import LeaseLost, Rejected
from synapse.protocol.commands import (RenewLease)
from synapse.protocol.replies import Lease

async def main():
    async with Client(name="lib") as client:
        try:
            async with client.lease(sys.argv[1], ttl=float(sys.argv[2])) as lease:
                print(lease.epoch, flush=True)
                await asyncio.to_thread(sys.stdin.readline)
        except LeaseLost as lost:
            print("lost", lost.reason, flush=True)
            try:
                await client.request(RenewLease(task=sys.argv[1], epoch=lease.epoch), Lease)
            except Rejected as refusal:
                print(refusal.code, flush=True)
        else:
            print("kept", flush=True)

asyncio.run(main())
"""
"""A process that holds a lease of the library until it may read a line."""

WRITES_LATE = """
until [ -e go ]; do sleep 0.05; done
"$PYTHON" -m synapse checkpoint "$SYNAPSE_TASK" '"late"'
echo $? > code.new
mv code.new code
sleep 60
"""
"""A command under `synapse lock` that goes on while the lock itself is stopped."""


def codes_of(line: Line, task: str, epoch: int) -> dict[str, str]:
    """What everything says that names an epoch."""
    commands: list[Command] = [
        RenewLease(task=task, epoch=epoch),
        SaveCheckpoint(task=task, epoch=epoch, data=msgspec.Raw(b'"late"')),
        HandOffLease(task=task, to="bob", epoch=epoch),
        ReleaseLease(task=task, epoch=epoch),
        CheckLease(task=task, epoch=epoch),
    ]
    return {type(command).__name__: line.refused(command).code for command in commands}


def line_of(begun: subprocess.Popen[str]) -> str:
    """The next line that a process says."""
    assert begun.stdout is not None
    return begun.stdout.readline().strip()


@pytest.mark.slow
@pytest.mark.figures
def test_a_hub_that_is_stopped_for_twice_a_ttl_expires_no_live_holder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    lock = ("-m", "synapse", "lock", "box", "--name", "cli", "--", "cat")
    with (
        HubProcess(home).until_ready() as hub,
        line_to(home, "eve") as eve,
        keeping(home, "ada", "T1", TTL_MS) as ada,
        keeping(home, "bob", "T2", TTL_MS, tied=True) as bob,
        process("-c", HOLDS, "T3", "900", home=home, stdin=subprocess.PIPE) as library,
        process(*lock, home=home, stdin=subprocess.PIPE) as locked,
    ):
        epoch = int(line_of(library))
        wait_until("the lock is held", lambda: "lock/box" in live(eve))
        before = {task: lease.epoch for task, lease in live(eve).items()}
        assert before == {**before, "T1": ada.epoch, "T2": bob.epoch, "T3": epoch}
        eve.ask(ClaimLease(task="quiet", ttl_ms=TTL_MS), Lease)  # asked for just before, and not renewed
        with stopped(hub.process.pid):
            time.sleep(2 * TTL_MS / 1000)
        woken_s = time.monotonic()
        assert {task: lease.epoch for task, lease in live(eve).items() if task != "quiet"} == before
        left_ms = live(eve)["quiet"].remaining_ms
        assert left_ms is not None
        assert left_ms > TTL_MS - 2_500, "the stop cost nobody more than one step of the lease clock"
        wait_until("the quiet one has had its TTL", lambda: "quiet" not in live(eve))
        assert time.monotonic() - woken_s < TTL_MS / 1000 + 1.5
        lag_ms = health_of(hub)["lease_clock_lag_ms"]
        assert isinstance(lag_ms, int)
        assert 2 * TTL_MS - 2_000 < lag_ms < 2 * TTL_MS + 2_000, "health says how long the hub stood still"
        for holder in (library, locked):
            assert holder.stdin is not None
            holder.stdin.close()
        assert line_of(library) == "kept"
        assert locked.wait(10) == 0
        assert ada.end() + bob.end() == []
        assert hub.stop().code == 0
    expired = [entry.event.epoch for entry in journal_of(home) if isinstance(entry.event, LeaseExpired)]
    quiet = [entry.seq for entry in journal_of(home) if _is_grant_of(entry.event, "quiet")]
    wronged = len(set(expired) - set(quiet))
    tell(PART, "live holders that a hub stopped for 2 TTL expired", wronged, bound="= 0", is_kept=not wronged)
    assert expired == quiet


def _is_grant_of(event: object, task: str) -> bool:
    return isinstance(event, LeaseGranted) and event.ask.task == task


@pytest.mark.slow
@pytest.mark.figures
def test_holders_that_were_stopped_for_longer_than_their_ttl_come_back_to_a_no(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text("[limits]\nttl_ms_min = 500\n", encoding="utf-8")
    ttl = str(SHORT_TTL_MS / 1000)
    lock = ("-m", "synapse", "lock", "box", "--name", "cli", "--ttl", ttl, "--", "sh", "-c", WRITES_LATE)
    with (
        HubProcess(home).until_ready() as hub,
        line_to(home, "raw") as raw,
        line_to(home, "next") as successor,
        process("-c", HOLDS, "T2", ttl, home=home, stdin=subprocess.PIPE) as library,
        process(*lock, home=home, cwd=tmp_path) as locked,
    ):
        line_of(library)
        wait_until("the lock is held", lambda: "lock/box" in live(raw))
        raw.ask(ClaimLease(task="T1", ttl_ms=SHORT_TTL_MS), Lease)
        old = {task: lease.epoch for task, lease in live(raw).items()}
        assert old.keys() == {"T1", "T2", "lock/box"}
        with stopped(library.pid), stopped(locked.pid):
            new = {task: successor.ask(ClaimLease(task=task, wait_ms=10_000), Lease).epoch for task in sorted(old)}
            (tmp_path / "go").touch()
            wait_until("the command has written late", lambda: (tmp_path / "code").exists())
        assert all(new[task] > epoch for task, epoch in old.items())
        assert (tmp_path / "code").read_text().strip() == str(EXIT_REFUSED), "what the command writes late is refused"
        assert line_of(library).startswith("lost ")
        assert line_of(library) == "stale_epoch"
        assert locked.wait(15) == EXIT_LOCKED
        assert locked.stderr is not None
        assert "was lost while the command ran" in locked.stderr.read()
        assert set(codes_of(raw, "T1", old["T1"]).values()) == {"stale_epoch"}
        now = live(raw)
        assert {task: lease.epoch for task, lease in now.items()} == new
        assert all(lease.checkpoint is None for lease in now.values())
        hub.kill()
    late = LeaseCheckpointed | LeaseHandedOff | LeaseReleased
    written = sum(isinstance(entry.event, late) for entry in journal_of(home))
    tell(PART, "late writes of stopped holders that were carried out", written, bound="= 0", is_kept=not written)
    assert not written


class Watchdog:
    """What a service manager hears, on a socket of its own. hungry_s: the longest it was not fed."""

    def __init__(self, path: Path) -> None:
        self.environ = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(WATCHDOG_S * 1_000_000)}
        self.hungry_s = 0.0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self._fed_s = time.monotonic()

    def look(self) -> None:
        """Hear what came since the last look."""
        now_s = time.monotonic()
        self.hungry_s = max(self.hungry_s, now_s - self._fed_s)
        with contextlib.suppress(BlockingIOError):
            while True:
                if b"WATCHDOG=1" in self._socket.recv(4096):
                    self._fed_s = now_s

    def close(self) -> None:
        self._socket.close()


@pytest.mark.prove
def test_a_hub_that_gets_a_twentieth_of_its_time_expires_no_live_holder_and_is_not_bitten(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with (
        contextlib.closing(Watchdog(tmp_path / "notify")) as watchdog,
        HubProcess(home, environ=watchdog.environ).until_ready() as hub,
        keeping(home, "ada", "T1", TTL_MS) as ada,
        keeping(home, "bob", "T2", TTL_MS, tied=True) as bob,
    ):
        for off_s, on_s in ((1.9, 0.1), (0.95, 0.02)):  # longer than a step of the lease clock, and shorter
            end_s = time.monotonic() + 3 * TTL_MS / 1000
            while time.monotonic() < end_s:
                with stopped(hub.process.pid):
                    time.sleep(off_s)
                time.sleep(on_s)
                watchdog.look()
        lag_ms = health_of(hub)["lease_clock_lag_ms"]
        assert isinstance(lag_ms, int)
        refusals = ada.end() + bob.end()
        answers = len(ada.answers) + len(bob.answers)
        assert hub.stop().code == 0
    hungry_s, is_fed = watchdog.hungry_s, watchdog.hungry_s < WATCHDOG_S
    tell(PART, "renewals refused by a starved hub", len(refusals), bound="= 0", is_kept=not refusals)
    tell(PART, "lag that a hub starved for 30 s reports", lag_ms / 1000, unit="s")
    tell(PART, "its watchdog, longest unfed", hungry_s, unit="s", bound=f"< {WATCHDOG_S}", is_kept=is_fed)
    assert refusals == []
    assert answers > 10
    assert not [entry for entry in journal_of(home) if isinstance(entry.event, LeaseExpired)]
    assert lag_ms > 4_000
    assert is_fed
