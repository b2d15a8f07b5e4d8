"""A recording: what real hubs did to one home, one after the other, and what they told whom, in one order.

The hubs are `synapse hub` under strace. What was told is what they wrote to their sockets: a reply counts from the
moment at which the hub asked the kernel to send its last byte.
"""

import json
import os
import signal
import subprocess
import sys
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal, TypeAlias

from tests.conftest import require_tool
from tests.faults.conftest import ENVIRON, PATIENCE_S, SRC, HubProcess
from tests.power.disk import Disk
from tests.power.load import Frame, Load, load_on
from tests.power.steps import Image, Namespace, Rename, Step, Write
from tests.power.strace import DATA_BYTES_MAX, TRACED, Call, read_calls

from synapse.core.events import Row
from synapse.journal.evidence import Identity
from synapse.journal.reader import JournalReader

Ends: TypeAlias = Literal["stopped", "killed", "killed at a sync"]
"""How a hub ends: by SIGTERM once all was asked; by SIGKILL some time under load, or as it begins to sync a
commit, which leaves that commit in the page cache and nowhere else."""
SNAPSHOT_EVENTS: Final = 100
KILLED_AT_SYNC: Final = 20
_MEMORY: Final = Path("/dev/shm")
_MEMORY_BYTES_MIN: Final = 256 << 20


@contextmanager
def fast_folder() -> Iterator[Path]:
    """A directory in memory where there is room for one; what is in it is gone after the block."""
    has_room = _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK)
    if has_room:
        info = os.statvfs(_MEMORY)
        has_room = info.f_bavail * info.f_frsize >= _MEMORY_BYTES_MIN
    with TemporaryDirectory(prefix="synapse-power-", dir=_MEMORY if has_room else None) as folder:
        yield Path(folder)


def strace_to(trace: Path) -> tuple[str, ...]:
    """The command before a command."""
    strace = require_tool("strace", "strace")
    return (strace, "-f", "-y", "-xx", "-s", str(DATA_BYTES_MAX), "-e", f"trace={TRACED}", "-o", str(trace))


@dataclass(frozen=True, slots=True)
class Told:
    """A frame the hub sent, the request it answers (None: a notice), and after how many steps it left."""

    after: int
    frame: Frame
    request: Frame | None


@dataclass(slots=True)
class Recording:
    """root: the directory above the home. rows: the journal at the end, as nobody ever cut its power."""

    steps: list[Step]
    directories: frozenset[int]
    told: list[Told]
    identity: Identity
    rows: list[Row]

    def image_of_all(self) -> Image:
        """The files when everything reached the disk."""
        disk = Disk(self.directories)
        for step in self.steps:
            disk.take(step)
        return disk.image(list(disk.waiting.values()))


@dataclass(slots=True)
class Recorder:
    """Runs one hub after the other on `root`/home and writes down what they do. environ: of the hubs; prefix: a
    command that runs them."""

    root: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()
    told: list[Told] = field(default_factory=list)
    _space: Namespace = field(init=False)
    _runs: int = 0
    _lines: int = 0

    def __post_init__(self) -> None:
        self._space = Namespace(str(self.root))

    @property
    def home(self) -> Path:
        """The home of the hubs, which the first of them makes."""
        return self.root / "home"

    def begin_with(self, image: Image, told: int | None) -> int:
        """The files that are there already, all of them durable, and the seq that somebody had heard of by then.
        Answers how many steps it took to put them there."""
        self._space.begin_with(image)
        if told is not None:
            self.told.append(Told(0, {"type": "reply", "seq": told}, None))
        return len(self._space.steps)

    def run(self, load: Load, ends: Ends) -> None:
        """A hub from its start to its end, under load."""
        with self._begun(ends) as (hub, trace):
            pid = json.loads((self.home / "hub.json").read_bytes())["pid"]
            try:
                with load_on(self.home, f"r{self._runs}", load) as workers:
                    if ends == "killed":
                        workers[0].join(0.1 + 0.008 * load.bursts)
                        os.kill(pid, signal.SIGKILL)
                    for worker in workers:
                        worker.join()
                if ends == "stopped":
                    self._await_snapshot()
                    os.kill(pid, signal.SIGTERM)
                outcome = hub.outcome()
            finally:
                if hub.process.poll() is None:  # strace would leave the hub behind
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        assert outcome.code == (0 if ends == "stopped" else -signal.SIGKILL), (outcome, hub.said[-2000:])
        self.take(trace)

    def run_python(self, *words: str) -> None:
        """`python WORDS`, to its end, which must be a good one."""
        trace = self.root.parent / "trace.python"
        command = [*strace_to(trace), "--seccomp-bpf", sys.executable, *words]
        environ = {**ENVIRON, "PYTHONPATH": str(SRC), **self.environ}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stderr
        self.take(trace)

    def left_without_power(self) -> Image:
        """What a disk has that keeps what it must, and nothing else."""
        disk = Disk(frozenset(self._space.directories))
        for step in self._space.steps:
            disk.take(step)
        return disk.image([])

    @contextmanager
    def _begun(self, ends: Ends) -> Iterator[tuple[HubProcess, Path]]:
        """A hub that is ready, and the file its trace goes to."""
        self._runs += 1
        trace = self.root.parent / f"trace.{self._runs}"
        # The filter in the kernel is faster, and without injections.
        how = ["-e", f"inject=fdatasync:signal=SIGKILL:when={KILLED_AT_SYNC}"] if ends == "killed at a sync" else []
        prefix = (*strace_to(trace), *(how or ["--seccomp-bpf"]), *self.prefix)
        flags = ("--snapshot-events", str(SNAPSHOT_EVENTS))
        with HubProcess(self.home, *flags, prefix=prefix, environ=dict(self.environ)).until_ready() as hub:
            yield hub, trace

    def _await_snapshot(self) -> None:
        """Wait for the snapshot that is due, if one is."""
        reader = JournalReader(self.home)
        head = reader.tip()[0]
        base = reader.identity.base
        reader.close()
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            made = [int(path.stem) for path in (self.home / "snapshots").glob("*.snapshot")]
            if head - max(made, default=base) < SNAPSHOT_EVENTS:
                return
            time.sleep(0.05)

    def take(self, trace: Path) -> None:
        """Read the trace of a process that has ended, and check the steps against the files it left."""
        with trace.open("rb") as lines:
            calls = list(read_calls(lines))
        trace.unlink()
        base, self._lines = self._lines, self._lines + max((call.ended for call in calls), default=0) + 1
        cut_off = self._space.follow(calls, base)
        self._space.settle(cut_off, self._lines - 1)
        self.told += told_in(calls, base, self._space.lines)
        self._check_files()

    def _check_files(self) -> None:
        """Raises AssertionError when the steps do not lead to the files that are there: something went unseen."""
        seen = Recording(
            self._space.steps, frozenset(self._space.directories), [], Identity("", "", 0), []
        ).image_of_all()
        there = {
            path.relative_to(self.root).as_posix(): path
            for path in self.root.rglob("*")
            if path.is_file() or path.is_dir()
        }
        assert seen.keys() == there.keys(), seen.keys() ^ there.keys()
        for name, content in seen.items():
            if isinstance(content, int):
                assert there[name].stat().st_size == content, name
            elif content is not None and not name.endswith("-shm"):
                assert there[name].read_bytes() == content, name

    def finish(self) -> Recording:
        """The recording, with the journal as it is now."""
        reader = JournalReader(self.home)
        try:
            rows = list(reader.scan(reader.identity.base, reader.tip()[0], -1))
            return Recording(
                list(self._space.steps), frozenset(self._space.directories), list(self.told), reader.identity, rows
            )
        finally:
            reader.close()


def reached(recording: Recording) -> Counter[str]:
    """How often the recording came to what a proof must have seen."""
    counts = Counter(
        dict.fromkeys(
            ("snapshots made", "snapshots removed", "WALs removed", "WALs begun anew", "checkpoints", "hubs ready"), 0
        )
    )
    names: dict[int, str] = {}
    begun: set[int] = set()
    was_checkpoint = False
    for step in recording.steps:
        match step:
            case Rename(changes):
                for (_, name), number in changes:
                    if number is None:
                        counts["snapshots removed"] += name.endswith(".snapshot")
                        counts["WALs removed"] += name == "journal.db-wal"
                        continue
                    names[number] = name
                    counts["snapshots made"] += name.endswith(".snapshot")
                    counts["hubs ready"] += name == "hub.json"
            case Write(file, 0) if names[file] == "journal.db-wal":
                counts["WALs begun anew"] += file in begun
                begun.add(file)
        is_checkpoint = isinstance(step, Write) and names[step.file] == "journal.db"
        counts["checkpoints"] += is_checkpoint and not was_checkpoint
        was_checkpoint = is_checkpoint
    return counts


def told_in(calls: Iterable[Call], base: int, lines: Sequence[int]) -> Iterator[Told]:
    """The frames of a run, from what went over the sockets of its clients, one line each."""
    heard: dict[str, bytes] = {}
    said: dict[str, bytes] = {}
    requests: dict[str, dict[int, Frame]] = {}
    for call in sorted(calls, key=lambda call: call.begun):
        if call.name not in ("recvfrom", "sendto", "sendmsg") or call.result is None or call.result <= 0:
            continue
        peer = f"{call.descriptor().number} {call.descriptor().path}"
        data = call.data().value[: call.result]
        if call.name == "recvfrom":
            *whole, heard[peer] = (heard.get(peer, b"") + data).split(b"\n")
            for line in whole:
                request = json.loads(line)
                requests.setdefault(peer, {})[request["id"]] = request
            continue
        if peer not in heard:  # not a client: the loop's own pipe to its threads
            continue
        *whole, said[peer] = (said.get(peer, b"") + data).split(b"\n")
        for line in whole:
            frame = json.loads(line)
            yield Told(bisect_right(lines, base + call.begun), frame, requests[peer].get(frame.get("id")))
