"""Hubs and verbs by the hundred: a process with everything imported forks them, and breaks one call of one of them.

`Stage` runs this module under fiu-run, so that libfiu stands before libc. A forked process is the real program from its
command line on (`main`), with a counter in shared memory: from call N of one kind on, through call M, libc answers an
error. So every N of a life can be tried, which libfiu alone, with its probabilities, cannot.
"""

import atexit
import contextlib
import ctypes
import errno
import gc
import itertools
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, BinaryIO, Final, NoReturn, Self

import msgspec
from tests.faults.conftest import Outcome

import synapse.faces.cli.hub
import synapse.faces.cli.journal
import synapse.hub.server
from synapse.core import kernel
from synapse.faces.cli.main import main
from synapse.home import read_hub_file
from synapse.hub import turn
from synapse.journal import connection, snapshot, store
from synapse.journal.files import NO_SPACE

IMPORTED: Final = (kernel, synapse.faces.cli.hub, synapse.faces.cli.journal, synapse.hub.server)
"""All that a hub imports, so that no call of a forked process is one that imports."""

ROOT: Final = Path(__file__).resolve().parents[2]
PATIENCE_S: Final = 20.0
_CELLS: Final = struct.Struct("<4q")
"""Calls so far; first and last call that fail; errno."""
_CALLBACK: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
FOR_EVER: Final = 1 << 40

POINTS: Final = {
    "fdatasync": "posix/io/sync/fdatasync",
    "fsync": "posix/io/sync/fsync",
    "pwrite": "posix/io/rw/pwrite",
    "write": "posix/io/rw/write",
    "ftruncate": "posix/io/rw/ftruncate",
    "open": "posix/io/oc/open",
    "rename": "posix/io/dir/rename",
    "unlink": "posix/io/dir/unlink",
    "pread": "posix/io/rw/pread",
}


class Start(msgspec.Struct, frozen=True):
    """A process to fork: its command line, which call to watch, and the file that its switch lies in."""

    words: list[str]
    call: str
    switch: str


@dataclass
class Switch:
    """The counter of one process, read and set from outside while it runs."""

    cells: mmap.mmap

    @property
    def calls(self) -> int:
        """How many calls of the watched kind it has made."""
        found: int = _CELLS.unpack(self.cells[: _CELLS.size])[0]
        return found

    def fail(self, first: int, error: int, *, last: int | None = None) -> None:
        """Let the calls from number `first` (1 is the first of the process) through `last` fail."""
        self.cells[8 : _CELLS.size] = struct.pack("<3q", first, first if last is None else last, error)

    def heal(self) -> None:
        """Let no call fail any more."""
        self.fail(FOR_EVER, 0)


class Forked:
    """A process of the stage, with as much of `subprocess.Popen` as the tests use."""

    def __init__(self, stage: "Stage", pid: int, switch: Switch, stdout: BinaryIO, stderr: IO[bytes]) -> None:
        self._stage = stage
        self.pid = pid
        self.switch = switch
        self.said = ""
        self.calls = 0
        self._code: int | None = None
        self._stdout = stdout
        self._stderr = stderr
        self._ended = os.pidfd_open(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._code is None:
            self.signal(signal.SIGKILL)
            self.end()

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._ended, number)

    def is_ready(self, home: Path) -> bool:
        """Wait until it says that it is ready, or ends. A hub whose stdout fails is known by its hub.json.

        Raises `TimeoutError` for one that hangs.
        """
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            readable = select.select([self._stdout.fileno(), self._ended], [], [], 0.25)[0]
            if readable:
                return bool(self._stdout.readline())
            told = read_hub_file(home)
            if told is not None and told.pid == self.pid:
                return True
        raise TimeoutError("it is neither ready nor ended")

    def has_ended(self, patience_s: float) -> bool:
        """True when it ends within so many seconds."""
        return self._code is not None or bool(select.select([self._ended], [], [], patience_s)[0])

    def end(self) -> Outcome:
        """Wait for its end: its exit code, and its last words that are no line of the log."""
        if self._code is None:
            if not select.select([self._ended], [], [], PATIENCE_S)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), PATIENCE_S)
            self._code = self._stage.code_of(self.pid)
            self.calls = self.switch.calls
            self._stderr.seek(0)
            self.said = (self._stdout.read() + self._stderr.read()).decode(errors="replace")
            self._stdout.close()
            self._stderr.close()
            self.switch.cells.close()
            os.close(self._ended)
        words = [line for line in self.said.splitlines() if not line.startswith("{")]
        return Outcome(self._code, words[-1] if words else "")


class Stage:
    """The process that forks the others. Close it at the end: what still runs then is killed. Threads may share it."""

    def __init__(self, fiu_run: str) -> None:
        ours, theirs = socket.socketpair()
        self._line = ours
        self._turn = threading.Lock()
        ours.settimeout(PATIENCE_S)
        self._switches = TemporaryDirectory(prefix="synapse-stage-")
        self._made = itertools.count(1)
        environment = {name: text for name, text in os.environ.items() if not name.startswith("SYNAPSE_")}
        with theirs:
            self._process = subprocess.Popen(
                [fiu_run, "-x", sys.executable, "-m", "tests.faults.stage", str(theirs.fileno())],
                cwd=ROOT,
                env={**environment, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "SYNAPSE_NAME": "carol"},
                pass_fds=[theirs.fileno()],
            )
        assert self._line.recv(16) == b"ready"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, and what it has forked."""
        self._line.close()
        self._process.wait(PATIENCE_S)
        self._switches.cleanup()

    def start(
        self, *words: str, call: str = "", first: int = FOR_EVER, last: int = 0, error: int = errno.EIO
    ) -> Forked:
        """Fork `synapse WORDS`. call: the kind of call to count, a key of `POINTS`; those from number `first` through
        `last` (0: that one only) fail with `error`."""
        path = Path(self._switches.name) / str(next(self._made))
        path.write_bytes(_CELLS.pack(0, first, last or first, error))
        with path.open("r+b") as file:
            switch = Switch(mmap.mmap(file.fileno(), _CELLS.size))
        read, write = os.pipe()
        stderr = TemporaryFile()  # noqa: SIM115  # closed at its end
        order = msgspec.json.encode(Start(list(words), call, str(path)))
        with self._turn:
            socket.send_fds(self._line, [order], [write, stderr.fileno()])
            pid = int(self._line.recv(64))
        os.close(write)
        return Forked(self, pid, switch, os.fdopen(read, "rb", buffering=0), stderr)

    def code_of(self, pid: int) -> int:
        """The exit code of a process that has ended."""
        with self._turn:
            self._line.sendall(b"%d" % pid)
            return int(self._line.recv(64))


# the process on the other side


def serve(line: socket.socket) -> None:
    """Fork what is asked for, and answer exit codes, until the line is closed."""
    gc.freeze()  # or each fork, at its end, walks over and so copies all that is imported: most of what a verb took
    line.sendall(b"ready")
    alive: set[int] = set()
    while True:
        order, descriptors, _, _ = socket.recv_fds(line, 1 << 16, 2)
        if not order:
            break
        if descriptors:
            pid = os.fork()
            if pid == 0:
                line.close()
                _perform(msgspec.json.decode(order, type=Start), *descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            alive.add(pid)
            line.sendall(b"%d" % pid)
            continue
        pid = int(order)
        alive.discard(pid)
        line.sendall(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    for pid in alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _perform(start: Start, stdout: int, stderr: int) -> NoReturn:
    """Be the program, as `python -m synapse` is, and end as it does."""
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    if start.call:
        _break(start)
    vars(connection)["_BUSY_WAIT_S"] = 0.3
    # So that a short life has checkpoints.
    vars(turn)["COMMITS_PER_MAINTENANCE"], vars(store)["CHECKPOINT_PAGES"] = 2, 8
    if start.words[0] == "snapshot":
        sys.exit(snapshot.main(start.words[1:]))
    sys.exit(main(start.words))


def _break(start: Start) -> None:
    """Count the calls of one kind in the switch, and let those fail that it says."""
    with open(start.switch, "r+b") as file:
        cells = memoryview(mmap.mmap(file.fileno(), _CELLS.size)).cast("q")

    def decide(name: bytes, failnum: int, failinfo: int, flags: int) -> int:
        cells[0] += 1
        if cells[1] <= cells[0] <= cells[2]:
            ctypes.c_void_p.from_address(failinfo).value = cells[3]
            return 1
        return 0

    allocate = os.posix_fallocate

    def allocate_or_fail(descriptor: int, offset: int, length: int) -> None:
        # libfiu does not know this call. Where there is no room for a write there is none for it, and it counts as one.
        if start.call == "pwrite" and cells[3] in NO_SPACE:
            cells[0] += 1
            if cells[1] <= cells[0] <= cells[2]:
                raise OSError(cells[3], os.strerror(cells[3]))
        allocate(descriptor, offset, length)

    os.posix_fallocate = allocate_or_fail
    fiu = ctypes.CDLL(None)
    callback = _CALLBACK(decide)
    name = POINTS[start.call].encode()
    assert fiu.fiu_enable_external(name, 1, ctypes.c_void_p(errno.EIO), 0, callback) == 0
    atexit.register(_end, fiu, name, callback)


def _end(fiu: ctypes.CDLL, name: bytes, callback: object) -> None:
    """Count no more: at its end the interpreter takes the callback away."""
    fiu.fiu_disable(name)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
