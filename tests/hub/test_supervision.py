"""Readiness, the watchdog and given sockets, as a service manager sees them: datagrams and descriptors."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import require_tool
from tests.faults.conftest import HubProcess, Line, Outcome, killed_home, line_to, wait_until
from tests.hub.conftest import message, slow_writer, steps, voice

from synapse.home import read_hub_file
from synapse.hub.settings import SettingsRefused
from synapse.hub.supervision import Doors, Supervisor, beat, require_private
from synapse.protocol.commands import ShowStatus
from synapse.protocol.replies import Status
from synapse.testing import MemoryHub

PATIENCE_S = 10.0


class Manager:
    """The socket that a service manager listens on. heard: the datagrams so far, each as its variables."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def close(self) -> None:
        self._socket.close()

    def hear(self, wait_s: float = PATIENCE_S) -> dict[str, str]:
        """The next datagram. Raises TimeoutError."""
        self._socket.settimeout(wait_s)
        lines = self._socket.recv(4096).decode().splitlines()
        self.heard.append(dict(line.split("=", 1) for line in lines))
        return self.heard[-1]

    def until(self, name: str) -> dict[str, str]:
        """The next datagram that says this."""
        while name not in (said := self.hear()):
            pass
        return said

    def rest(self) -> list[dict[str, str]]:
        """All datagrams, those that wait unread too."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.hear(0)
        return self.heard


@pytest.fixture
def manager() -> Iterator[Manager]:
    with tempfile.TemporaryDirectory(prefix="syn-") as directory:
        found = Manager(Path(directory) / "notify")
        yield found
        found.close()


# readiness


def test_ready_is_said_after_replay_with_open_doors_and_stopping_before_the_end(
    tmp_path: Path, manager: Manager
) -> None:
    home = killed_home(tmp_path / "home")
    (home / "hub.json").unlink()
    with HubProcess(home, environ={"NOTIFY_SOCKET": str(manager.path)}) as hub:
        said = manager.until("READY")
        with Line(home).hello() as ada:  # at once: whoever was told so may rely on it
            assert ada.ask(ShowStatus(), Status).counts.messages == 8
        file = read_hub_file(home)
        assert file is not None
        assert file.supervisor == "systemd"
        assert all(uri in said["STATUS"] for uri in file.uris)
        assert [list(heard) for heard in manager.heard] == [["STATUS"], ["READY", "STATUS"]]
        assert "replaying" in manager.heard[0]["STATUS"]
        hub.until_ready().process.send_signal(signal.SIGTERM)
        assert "STOPPING" in manager.hear()
        assert hub.outcome().code == 0
    assert not [heard for heard in manager.rest() if "WATCHDOG" in heard], "nobody asked for a watchdog"


def test_a_start_that_is_refused_is_never_ready_and_says_why(tmp_path: Path, manager: Manager) -> None:
    home = tmp_path / "home"
    with HubProcess(home).until_ready():
        with HubProcess(home, environ={"NOTIFY_SOCKET": str(manager.path)}) as second:
            assert second.outcome().code == 75
        assert "READY" not in {name for heard in manager.rest() for name in heard}
        assert "already in use" in manager.heard[-1]["STATUS"]


def test_nobody_who_listens_is_no_failure(tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "100000"}
    with HubProcess(tmp_path / "home", environ=environ).until_ready() as hub, line_to(tmp_path / "home") as ada:
        assert ada.post("here").n == 1
        assert hub.stop().code == 0


def test_a_name_in_the_abstract_space_is_told_too() -> None:
    name = f"synapse-test-{os.getpid()}"
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
        try:
            listening.bind(f"\0{name}")
        except OSError:
            pytest.skip("this system has no abstract socket names")
        environ = {"NOTIFY_SOCKET": f"@{name}", "PATH": "/bin"}
        with contextlib.closing(Supervisor(environ)) as supervisor:
            supervisor.say(STATUS="a", READY=1)
            assert listening.recv(100) == b"STATUS=a\nREADY=1"
        assert environ == {"PATH": "/bin"}, "children do not inherit it"


# the watchdog


async def test_a_beat_comes_back_from_an_idle_hub() -> None:
    async with MemoryHub() as hub:
        async with asyncio.timeout(5):
            await beat(hub.turns, hub.turns._writer)
        assert hub.turns.totals.commits == 0


async def test_a_beat_waits_for_the_commit_in_flight_and_for_the_writer() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        writer = slow_writer(hub)
        await ada.say(message("held"))
        await steps()
        assert len(writer.jobs) == 1, "the commit"
        beating = asyncio.ensure_future(beat(hub.turns, writer))
        await steps()
        assert (len(writer.jobs), beating.done()) == (1, False), "the beat waits for its turn"
        writer.finish()
        await steps()
        assert (len(writer.jobs), beating.done()) == (1, False), "it has reached the writer"
        writer.finish()
        await steps()
        assert beating.done()


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_the_one_of_this_process(environ: dict[str, str], watchdog_s: float | None) -> None:
    with contextlib.closing(Supervisor(environ)) as supervisor:
        assert supervisor.watchdog_s == watchdog_s
    assert environ == {}


def test_the_watchdog_starves_while_a_commit_is_stuck_though_the_loop_turns(tmp_path: Path, manager: Manager) -> None:
    """strace delays each `fdatasync`: the writer hangs in the kernel, and /health is still answered."""
    strace = require_tool("strace", "strace")
    home = tmp_path / "home"
    delayed = (
        strace,
        "-qq",
        "-f",
        "-o",
        "/dev/null",
        "-e",
        "trace=fdatasync",
        "-e",
        "inject=fdatasync:delay_enter=600ms",
    )
    environ = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "200000"}
    with HubProcess(home).until_ready() as hub:
        assert hub.stop().code == 0
    with contextlib.ExitStack() as stack:
        hub = stack.enter_context(HubProcess(home, prefix=delayed, environ=environ).until_ready())
        (pid,) = [int(pid) for pid in re.findall(r"\d+", (home / "hub.lock").read_text())]
        stack.callback(end, pid)  # strace alone would leave it behind
        ada = stack.enter_context(line_to(home))
        manager.rest()
        manager.until("WATCHDOG")  # it is fed while nothing is stuck
        begun = last = time.monotonic()
        ada.send(b'{"id":7,"type":"message.send","body":{"body":"slow","target":"main:general"}}\n')
        with socket.create_connection(("127.0.0.1", hub.port)) as raw:
            raw.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert raw.recv(12) == b"HTTP/1.1 200"
        assert time.monotonic() - begun < 0.5, "the loop turns"
        longest = 0.0
        while time.monotonic() - begun < 1.2:
            with contextlib.suppress(TimeoutError):
                manager.hear(0.05)
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
        assert ada.receive().id == 7
        assert longest > 0.5, f"fed again after {longest} s while its commit was stuck"
        os.kill(pid, signal.SIGTERM)
        assert hub.outcome().code == 0


def end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# given sockets

PASS_ON = 'LISTEN_PID=$$ LISTEN_FDS="$1" exec "${@:2}"'
"""What a service manager does last; the sockets are descriptors from 3 on already."""


class Given:
    """Sockets that stay open while hubs come and go."""

    def __init__(self, *sockets: socket.socket) -> None:
        self.sockets = sockets

    def hub(self, home: Path, *flags: str) -> HubProcess:
        """A hub that gets them."""
        fds = [raw.fileno() for raw in self.sockets]
        moves = "".join(f" {at}<&{fd}" for at, fd in enumerate(fds, 3))
        prefix = ("bash", "-c", f"exec{moves}; {PASS_ON}", "bash", str(len(fds)))
        return HubProcess(home, *flags, prefix=prefix, descriptors=tuple(fds))


@pytest.fixture
def places() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def tcp_at(stack: contextlib.ExitStack, host: str = "127.0.0.1") -> socket.socket:
    raw = stack.enter_context(socket.socket())
    raw.bind((host, 0))
    raw.listen()
    return raw


def unix_at(stack: contextlib.ExitStack) -> socket.socket:
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="syn-"))
    raw = stack.enter_context(socket.socket(socket.AF_UNIX))
    raw.bind(f"{directory}/given.sock")
    raw.listen()
    return raw


def test_given_sockets_take_the_place_of_the_settings_and_outlive_the_hub(
    tmp_path: Path, places: contextlib.ExitStack
) -> None:
    home = tmp_path / "home"
    unix, tcp = unix_at(places), tcp_at(places)
    port, path = tcp.getsockname()[1], unix.getsockname()
    given = Given(unix, tcp)
    with given.hub(home, "--host", "127.0.0.9", "--port", "1").until_ready() as hub:
        assert hub.port == port
        file = read_hub_file(home)
        assert file is not None
        assert file.uris == (f"ws://127.0.0.1:{port}", f"unix:{path}")
        assert not (home / "hub.sock").exists()
        listening = {os.readlink(f"/proc/{hub.process.pid}/fd/{fd}") for fd in (3, 4)}
        assert len(listening) == 2
        assert hub.stop().code == 0
    assert Path(path).exists(), "its name belongs to who made it"
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as waiting:
        waiting.connect(path)  # nobody serves, and yet nobody is refused
        waiting.sendall(b'{"id":1,"type":"hub.identify","body":{}}\n')
        with given.hub(home).until_ready() as hub:
            waiting.settimeout(PATIENCE_S)
            assert b'"id":1' in waiting.recv(4096)
            assert hub.stop().code == 0


def test_one_given_socket_leaves_the_other_to_the_settings(tmp_path: Path, places: contextlib.ExitStack) -> None:
    home = tmp_path / "home"
    tcp = tcp_at(places)
    with Given(tcp).hub(home).until_ready() as hub, line_to(home) as ada:
        assert hub.port == tcp.getsockname()[1]
        assert ada.post("through our own socket").n == 1
    unix = unix_at(places)
    with Given(unix).hub(home, "--unix-socket=no").until_ready() as hub:
        assert f"unix:{unix.getsockname()}" in hub.ready
        assert f"ws://127.0.0.1:{hub.port}" in hub.ready


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        ("open", "listens on 0.0.0.0: other machines could read along"),
        ("tcp tcp", "two tcp sockets"),
        ("unix unix", "two unix sockets"),
        ("tcp unix tcp", "gave 3 sockets"),
        ("deaf", "descriptor 3 from the service manager is no listening stream socket"),
        ("datagram", "descriptor 3 from the service manager is no"),
        ("file", "descriptor 3 from the service manager is no socket"),
    ],
)
def test_sockets_that_a_hub_cannot_serve_are_refused_before_anything_is_changed(
    tmp_path: Path, places: contextlib.ExitStack, kinds: str, words: str
) -> None:
    def made(kind: str) -> socket.socket:
        match kind:
            case "open":
                return tcp_at(places, "0.0.0.0")
            case "unix":
                return unix_at(places)
            case "datagram":
                return places.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            case "deaf" | "file":
                return places.enter_context(socket.socket())
            case _:
                return tcp_at(places)

    given = Given(*(made(kind) for kind in kinds.split()))
    if kinds == "file":
        os.dup2(os.open(os.devnull, os.O_RDONLY), given.sockets[0].fileno())
    outcome = outcome_of(given.hub(tmp_path / "home"))
    assert outcome.code == 78
    assert words in outcome.line
    if kinds != "open":  # an address is known to be private once the journal is at hand
        assert not (tmp_path / "home").exists()


def outcome_of(process: HubProcess) -> Outcome:
    with process as hub:
        found = hub.outcome()
    assert "Traceback" not in hub.said.decode(), hub.said.decode()
    return found


def test_sockets_of_another_process_are_left_alone(places: contextlib.ExitStack) -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}
    with contextlib.closing(Supervisor(environ)) as supervisor:
        assert supervisor.doors == Doors()
    assert environ == {}
    with pytest.raises(SettingsRefused, match="LISTEN_FDS: 'two'"):
        Supervisor({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "two"})
    require_private(tcp_at(places, "0.0.0.0"), is_forced=True)


def test_a_hub_that_stands_still_is_not_fed_and_goes_on_when_it_may(tmp_path: Path, manager: Manager) -> None:
    environ = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "100000"}
    with HubProcess(tmp_path / "home", environ=environ).until_ready() as hub:
        manager.until("WATCHDOG")
        hub.process.send_signal(signal.SIGSTOP)
        wait_until("it stands", lambda: b"T (stopped)" in Path(f"/proc/{hub.process.pid}/status").read_bytes())
        manager.rest()
        with pytest.raises(TimeoutError):
            manager.hear(0.4)
        hub.process.send_signal(signal.SIGCONT)
        manager.until("WATCHDOG")
        assert hub.stop().code == 0
