"""Many restarts, and restarts on a long journal: nothing grows that should not, and everything goes on where it was.

`LONG_EVENTS` is the length of the long journal, 1 000 000 by default.
"""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.faults.conftest import HubProcess, line_to, operator_at
from tests.figures import tell
from tests.lifecycle.conftest import journal_of

from synapse.core.events import (
    AgentCreated,
    Ask,
    Card,
    ChannelCreated,
    Event,
    HubStarted,
    JournalStarted,
    LeaseGranted,
    LeaseReleased,
    MessagePosted,
    Recorded,
    RoomCreated,
    Row,
    to_row,
)
from synapse.home import read_hub_file
from synapse.journal.store import Journal
from synapse.protocol.commands import ClaimLease, ExplainTask, ReadHistory, ReleaseLease, ShowStatus
from synapse.protocol.replies import Explanation, History, Lease, Released, Status

RESTARTS = 20
EVENTS = int(os.environ.get("LONG_EVENTS", "1000000"))
AGENTS = 4
TASKS = 5_000
ROWS_PER_COMMIT = 5_000
AT_MS = 1_760_000_000_000
BODY = msgspec.Raw(msgspec.json.encode("the parser is done; I take the scheduler next. ".ljust(120, ".")))
MEMORY_MIB_MAX = 256
PART = "time and life cycle"
OF_READERS = ("journal.db-wal", "journal.db-shm")
"""SQLite leaves them when a hub stops while the child of a killed one still reads."""


def listing(home: Path) -> set[str]:
    return {str(path.relative_to(home)) for path in home.rglob("*")}


def processes_of(home: Path) -> list[str]:
    """Who runs with this home in its command line: a hub, or a child of one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if str(home).encode() in words:
                found.append(path.parent.name)
    return found


@pytest.mark.prove
def test_twenty_quick_restarts_leave_nothing_behind_and_epochs_rise(tmp_path: Path) -> None:
    home, epochs, files, sizes = tmp_path / "home", [], [], []
    for turn in range(RESTARTS):
        with HubProcess(home, "--snapshot-events", "100").until_ready() as hub:
            told = read_hub_file(home)
            assert told is not None
            assert told.pid == hub.process.pid
            assert f"ws://127.0.0.1:{hub.port}" in told.uris
            with line_to(home, "ada") as ada:
                epochs.append(ada.ask(ClaimLease(task="T1", reentrant=False), Lease).epoch)
                for number in range(60):
                    ada.post(f"{turn} {number}")
                ada.ask(ReleaseLease(task="T1", epoch=epochs[-1]), Released)
            time.sleep(0.4)  # a tick, which takes a snapshot when one is due
            if turn % 2:
                hub.kill()
            else:
                assert hub.stop().code == 0
                assert not (home / "hub.json").exists()
                assert not (home / "hub.sock").exists()
                files.append(listing(home))
                sizes.append(sum(path.stat().st_size for path in home.rglob("*") if path.is_file()))
    wait_long("no process of a hub is left", lambda: not processes_of(home))
    assert epochs == sorted(set(epochs))
    shapes = [{name.partition("/")[0] for name in found} - {"snapshots", *OF_READERS} for found in files]
    assert all(shape == shapes[0] for shape in shapes), "the same files, restart for restart"
    snapshots = [name for name in files[-1] if name.startswith("snapshots/")]
    assert len(snapshots) == 2, "the last two are kept"
    grown = (sizes[-1] - sizes[2]) / (len(sizes) - 3) / 2
    tell(PART, "bytes that a restart with 64 events adds", grown, unit="B", bound="< 32768", is_kept=grown < 32_768)
    assert grown < 32_768
    assert len(journal_of(home)) < RESTARTS * 70


def fill(home: Path, count: int) -> int:
    """A journal of so many events: messages, and claims of many tasks, each given back; the number of messages."""
    journal = Journal.open(home, at_ms=AT_MS)
    base = journal.head
    rows: list[Row] = []
    n = 0

    def write(actor: str, event: Event) -> int:
        seq = base + number + 1
        rows.append(to_row(Recorded(seq, AT_MS + number, actor, event)))
        return seq

    room, channel, first_agent = base + 3, base + 4, base + 5
    begun: list[Event] = [
        JournalStarted(hub_id=journal.hub_id, journal_id=journal.journal_id),
        HubStarted(version="1"),
        RoomCreated(name="main", bootstrap=True),
        ChannelCreated(room=room, name="general", bootstrap=True),
        *(AgentCreated(name=f"old-{agent}", card=Card(), secret_hash="0" * 64) for agent in range(AGENTS)),
    ]
    epoch = 0
    for number in range(count):
        agent = number % AGENTS
        owner, task = f"old-{agent}", f"T{number // 4 % TASKS}"
        if number < len(begun):
            write("hub", begun[number])
        elif number % 4 == 2 and number + 1 < count:
            ask = Ask(room=room, room_name="main", task=task, agent=first_agent + agent, owner=owner)
            epoch = write(owner, LeaseGranted(ask=ask, ttl_ms=60_000))
        elif number % 4 == 3 and epoch:
            holder = f"old-{(number - 1) % AGENTS}"
            write(holder, LeaseReleased(room=room, room_name="main", task=task, owner=holder, epoch=epoch))
        else:
            n += 1
            write(owner, MessagePosted(channel=channel, address="main:general", n=n, body=BODY))
        if len(rows) == ROWS_PER_COMMIT or number == count - 1:
            journal.append(rows)
            journal.maintain()
            rows = []
    journal.close()
    return n


def memory_mib(pid: int) -> float:
    """The most that a process ever had in memory."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def check_that_it_works(home: Path, messages: int, turn: int) -> int:
    """History from both ends, the story of a task, a claim of it and a message; the claim's epoch."""
    with line_to(home, "ada") as ada:
        last = ada.ask(ReadHistory(channel="main:general", limit=5), History)
        assert [message.n for message in last.messages] == [messages - 4 + n for n in range(5)]
        journal_id, _, head = last.cursor.partition(":")
        start = f"{journal_id}:{int(head) - EVENTS - 1_000}"  # a little before the first of them
        first = ada.ask(ReadHistory(channel="main:general", since=start, limit=5), History)
        assert [message.n for message in first.messages] == [1, 2, 3, 4, 5]
        story = ada.ask(ExplainTask(task="T42"), Explanation)
        assert {entry.change for entry in story.events} >= {"granted", "released"}
        lease = ada.ask(ClaimLease(task="T42"), Lease)
        assert ada.ask(ReleaseLease(task="T42", epoch=lease.epoch), Released).released
        assert ada.post(f"after start {turn}").n == messages + 1
        return lease.epoch


def replayed(hub: HubProcess) -> int:
    """How many events its start had to fold, by its log."""
    lines = [msgspec.json.decode(line) for line in hub.said.splitlines() if line.startswith(b"{")]
    [events] = [line["replayed"] for line in lines if line["action"] == "hub.ready"]
    return int(events)


def wait_long(what: str, is_true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 120
    while not is_true():
        assert time.monotonic() < deadline_s, f"waited in vain until {what}"
        time.sleep(0.05)


@pytest.mark.prove
@pytest.mark.timeout(600)
def test_a_hub_starts_on_a_million_events_without_and_with_a_snapshot(tmp_path: Path) -> None:
    home, epochs, memory, folded = tmp_path / "home", [], [], []
    messages = fill(home, EVENTS)
    for turn, way in enumerate(("without a snapshot", "with one")):
        begun_s = time.monotonic()
        with HubProcess(home) as hub:
            assert hub.process.stdout is not None
            assert hub.process.stdout.readline().startswith(b"synapse hub ready ")
            tell(PART, f"restart to ready, {EVENTS:,} events, {way}", time.monotonic() - begun_s, unit="s")
            epochs.append(check_that_it_works(home, messages + turn, turn))
            with operator_at(home) as operator:
                head = operator.ask(ShowStatus(), Status).head
                wait_long(
                    "every row is verified",
                    lambda: operator.ask(ShowStatus(), Status).verified_through > head - 100,  # noqa: B023  # used here
                )
            wait_long("a snapshot is there", lambda: any(home.glob("snapshots/*.snapshot")))
            memory.append(memory_mib(hub.process.pid))
            assert hub.stop().code == 0
            folded.append(replayed(hub))
    most = max(memory)
    tell(PART, "most memory of these hubs", most, unit="MiB", bound="< 256", is_kept=most < MEMORY_MIB_MAX)
    assert folded[0] == EVENTS
    assert folded[1] < 1_000, "with a snapshot the length of the journal does not matter"
    assert most < MEMORY_MIB_MAX
    assert epochs[1] > epochs[0]
