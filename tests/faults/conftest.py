"""A real hub as a process, a line to it, and homes to break. Only processes started here are ever signalled."""

import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeVar

import msgspec
import pytest
from tests.conftest import require_tool

import synapse
from synapse.protocol.codec import ErrorBody, HubFrame, decode_hub_frame, encode_request
from synapse.protocol.commands import Command, Hello, SendMessage
from synapse.protocol.replies import Sent, Welcome

if TYPE_CHECKING:
    from tests.faults.stage import Stage
    from tests.faults.world import Past

SRC: Final = Path(synapse.__file__).resolve().parents[1]
"""Where this process has the package from: a copy, when a fault is planted."""
PATIENCE_S: Final = 15.0
SECRET: Final = "a secret of thirty-two characters, or more"
ENVIRON: Final = {name: text for name, text in os.environ.items() if not name.startswith("SYNAPSE_")}
T = TypeVar("T")


class Outcome(NamedTuple):
    """How a process ended: its exit code and the line that says why."""

    code: int
    line: str


class HubProcess:
    """`synapse hub` on a home. prefix: a command that runs it, such as fiu-run. environ: further variables.
    descriptors: what it inherits."""

    def __init__(
        self,
        home: Path,
        *flags: str,
        prefix: tuple[str, ...] = (),
        environ: dict[str, str] | None = None,
        descriptors: tuple[int, ...] = (),
    ) -> None:
        self.home = home
        command = [*prefix, sys.executable, "-m", "synapse", "hub", "--home", str(home), "--port", "0", *flags]
        # Into a file: a pipe that nobody empties would stop the hub.
        self._log = TemporaryFile()  # noqa: SIM115  # closed when the process is
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**ENVIRON, "PYTHONPATH": str(SRC), **(environ or {})},
            pass_fds=descriptors,
        )
        self.ready = ""
        self.said = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=PATIENCE_S)
        self._log.close()

    def until_ready(self) -> Self:
        """Wait for the ready line; AssertionError with what it said when it ends instead."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(PATIENCE_S), "the hub said nothing"
        self.ready = self.process.stdout.readline().decode()
        if not self.ready:
            raise AssertionError(f"the hub ended: {self.outcome()}")
        assert self.ready.startswith("synapse hub ready "), self.ready
        return self

    @property
    def port(self) -> int:
        """The TCP port of a ready hub."""
        found = re.search(r"ws://127\.0\.0\.1:(\d+)", self.ready)
        assert found is not None
        return int(found[1])

    def outcome(self) -> Outcome:
        """Wait for the end: exit code and last words, which are no line of the log."""
        self.process.communicate(timeout=PATIENCE_S)
        self._log.seek(0)
        self.said = self._log.read()
        words = [line for line in self.said.decode().splitlines() if not line.startswith("{")]
        return Outcome(self.process.returncode, words[-1] if words else "")

    def stop(self) -> Outcome:
        """SIGTERM: it drains."""
        self.process.send_signal(signal.SIGTERM)
        return self.outcome()

    def kill(self) -> None:
        """SIGKILL: it does nothing any more."""
        self.process.kill()
        self.outcome()

    def has_logged(self, action: str) -> bool:
        """True when a running hub has logged a line with this action."""
        return f'"{action}"'.encode() in os.pread(self._log.fileno(), 1 << 20, 0)

    def log_text(self, action: str) -> str:
        """The text of the last log line with this action, after the end."""
        found = ""
        for line in self.said.splitlines():
            if line.startswith(b"{"):
                entry = msgspec.json.decode(line, type=LogLine)
                found = entry.text if entry.action == action else found
        return found


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """What every line of the hub's log has."""

    action: str
    text: str


class Line:
    """A connection to the Unix socket of a home, one request at a time."""

    def __init__(self, home: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_S)
        try:
            self._socket.connect(str(home / "hub.sock"))
        except OSError:
            self._socket.close()
            raise
        self._file = self._socket.makefile("rb")
        self._next_id = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._file.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Raw bytes."""
        self._socket.sendall(data)

    def receive(self) -> HubFrame:
        """The next frame. Raises EOFError when the hub has closed."""
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        return decode_hub_frame(line)

    def exchange(self, command: Command, idem_key: str | None = None) -> HubFrame:
        """Send a request and answer its reply or error; notices in between are passed over."""
        return next(self.exchange_all([(command, idem_key)]))

    def exchange_all(self, requests: Sequence[tuple[Command, str | None]]) -> Iterator[HubFrame]:
        """Send requests in one piece, which the hub commits at once, and answer the reply or error of each as it comes.

        requests: each with its idem_key.
        """
        ids = range(self._next_id + 1, self._next_id + 1 + len(requests))
        self._next_id = ids[-1]
        frames = [encode_request(id, *request) + b"\n" for id, request in zip(ids, requests, strict=True)]
        self.send(b"".join(frames))
        for id in ids:
            frame = self.receive()
            while frame.id != id:
                frame = self.receive()
            yield frame

    def ask(self, command: Command, kind: type[T], idem_key: str | None = None) -> T:
        """The reply of a request that is not refused."""
        frame = self.exchange(command, idem_key)
        assert frame.type == "reply", frame
        return msgspec.json.decode(frame.body, type=kind)

    def refused(self, command: Command) -> ErrorBody:
        """The error of a request that is refused."""
        frame = self.exchange(command)
        assert isinstance(frame.error, ErrorBody), frame
        return frame.error

    def hello(self, name: str = "ada", *, operator: bool = False) -> Self:
        """Be somebody."""
        said = Hello(operator=True) if operator else Hello(name=name, secret=f"{name}: {SECRET}", lasting=True)
        try:
            self.ask(said, Welcome)
        except (OSError, EOFError, AssertionError):
            self.close()
            raise
        return self

    def post(self, text: str, idem_key: str | None = None) -> Sent:
        """A message to main:general."""
        return self.ask(message(text), Sent, idem_key)


def message(text: str) -> SendMessage:
    """A text for main:general."""
    return SendMessage(body=msgspec.Raw(msgspec.json.encode(text)), target="main:general")


def line_to(home: Path, name: str = "ada") -> Line:
    """A connection of an agent."""
    return Line(home).hello(name)


def operator_at(home: Path) -> Line:
    """A connection of the operator."""
    return Line(home).hello(operator=True)


def run_synapse(*words: str, home: Path) -> Outcome:
    """Run a verb of the command line: exit code, and its one line on stdout or else stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "synapse", *words, "--home", str(home)],
        env={**ENVIRON, "PYTHONPATH": str(SRC), "SYNAPSE_NAME": "carol"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return Outcome(done.returncode, lines[-1] if lines else "")


def start_fails(home: Path, *flags: str) -> Outcome:
    """Start a hub that must not become ready."""
    with HubProcess(home, *flags) as hub:
        found = hub.outcome()
    assert "Traceback" not in hub.said.decode(), hub.said.decode()
    return found


def killed_home(home: Path, count: int = 8, *, big: int = 0) -> Path:
    """A home whose hub was killed: its last events are in the WAL. big: characters added to each message."""
    with HubProcess(home).until_ready() as hub, line_to(home) as ada:
        for number in range(count):
            ada.post(f"message {number}" + "x" * big)
        hub.kill()
    return home


def stopped_home(home: Path, count: int = 8, *, big: int = 0) -> Path:
    """A home whose hub was stopped: everything is in the database, and the WAL is empty."""
    with HubProcess(home).until_ready() as hub:
        with line_to(home) as ada:
            for number in range(count):
                ada.post(f"message {number}" + "x" * big)
        assert hub.stop().code == 0
    return home


def bytes_of(home: Path) -> dict[str, bytes]:
    """The bytes of the journal's files. An empty WAL is the same as none; the `-shm` holds nothing of its own."""
    paths = [home / name for name in ("journal.db", "journal.db-wal", "journal.mark", "journal.reserve", "token")]
    paths += [*sorted((home / "snapshots").glob("*")), *sorted((home / "bases").glob("*"))]
    return {path.name: path.read_bytes() for path in paths if path.exists() and path.stat().st_size}


def flip(path: Path, offset: int, mask: int = 0x10) -> None:
    """Flip a bit."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def flip_in(path: Path, needle: bytes) -> None:
    """Flip a bit in each place where the bytes `needle` stand in a file."""
    data, at, places = path.read_bytes(), -1, 0
    while (at := data.find(needle, at + 1)) >= 0:
        flip(path, at)
        places += 1
    assert places, f"{needle!r} is not in {path}"


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[Path]:
    """A tmpfs. Where mounting is not permitted the test is skipped, and fails under CI."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        reason = "mounting a small tmpfs needs root (run the tests as root, or in a container that may mount)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def fill(directory: Path, leave_bytes: int = 0) -> Path:
    """Fill a file system up to `leave_bytes`; answers the file that takes the space."""
    filler = directory / "filler"
    with filler.open("ab", buffering=0) as file:
        for chunk in (1 << 20, 1 << 12):
            try:
                while free(directory) >= leave_bytes + chunk:
                    file.write(bytes(chunk))
            except OSError:
                continue
    return filler


def free(directory: Path) -> int:
    """Free bytes of a file system."""
    info = os.statvfs(directory)
    return info.f_bavail * info.f_frsize


def wait_until(what: str, is_true: Callable[[], bool], *, patience_s: float = PATIENCE_S) -> None:
    """Poll a condition of another process for a few seconds."""
    deadline = time.monotonic() + patience_s
    while not is_true():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)


# What the sweeps of a module share. The modules they take it from import this one.


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A directory in memory, for the homes of a module."""
    from tests.faults.lives import fast_directory

    with fast_directory() as path:
        yield path


@pytest.fixture(scope="module")
def past(directory: Path) -> "Past":
    """A home with a known past."""
    from tests.faults.world import make_past

    return make_past(directory / "past")


@pytest.fixture(scope="module")
def stage() -> Iterator["Stage"]:
    """Where one call of a hub can be made to fail."""
    from tests.faults.stage import Stage

    with Stage(require_tool("fiu-run", "fiu-utils")) as found:
        yield found
