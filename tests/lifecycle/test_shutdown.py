"""SIGTERM among peers that do not read, do not finish their sentence, or wait: exit 0 in less than 5 s, and what was
acknowledged is acknowledged and kept."""

import contextlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from tests.crash import websocket
from tests.faults.conftest import HubProcess, line_to, message, wait_until
from tests.figures import tell
from tests.lifecycle.conftest import journal_of

from synapse.core.events import MessagePosted
from synapse.protocol.codec import encode_request
from synapse.protocol.commands import ClaimLease, Hello, Subscribe, TakeInbox
from synapse.protocol.replies import Lease, Sent

STUCK = 50
FLOOD_MESSAGES = 80
PAD_BYTES = 100_000
IN_FLIGHT = 60
EXIT_S_MAX = 5.0
PART = "time and life cycle"


@pytest.fixture(autouse=True)
def a_closed_terminal_is_heeded() -> Iterator[None]:
    """Hubs heed SIGHUP also when the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def open_lines(stack: ExitStack, path: str) -> socket.socket:
    raw = stack.enter_context(socket.socket(socket.AF_UNIX))
    raw.connect(path)
    return raw


def open_web(stack: ExitStack, port: int, token: str) -> socket.socket:
    raw = stack.enter_context(socket.socket())
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    raw.connect(("127.0.0.1", port))
    assert websocket.shake_hands(raw, token) == b""
    return raw


def follow_and_never_read(raw: socket.socket, name: str, *, is_web: bool) -> None:
    hello = encode_request(1, Hello(name=name, secret=name.ljust(40, "s"), lasting=True))
    follow = encode_request(2, Subscribe(channels=("main:general",)))
    for request in (hello, follow):
        raw.sendall(websocket.masked(request) if is_web else request + b"\n")


def received(raw: socket.socket) -> int:
    """How many bytes reach a stuck peer that reads at last, up to the end or the cut."""
    raw.settimeout(5)
    count = 0
    try:
        while data := raw.recv(1 << 16):
            count += len(data)
    except ConnectionResetError:
        pass
    return count


class Asker(threading.Thread):
    """An agent that goes on sending, as many at once as it may. acked: what it was told is sent."""

    def __init__(self, home: Path, name: str) -> None:
        super().__init__()
        self.acked: list[str] = []
        self._line = line_to(home, name)

    def run(self) -> None:
        sent, in_flight = 100, 0
        with self._line, contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                while in_flight < IN_FLIGHT:
                    with contextlib.suppress(BrokenPipeError):  # what the hub has said already is still to be read
                        self._line.send(encode_request(sent, message(f"number {sent}")) + b"\n")
                    sent, in_flight = sent + 1, in_flight + 1
                frame = self._line.receive()
                if frame.id is not None:
                    in_flight -= 1
                    if frame.type == "reply":
                        self.acked.append(msgspec.json.decode(frame.body, type=Sent).id)


@pytest.mark.slow
@pytest.mark.figures
def test_sigterm_among_fifty_stuck_peers_ends_in_time_and_keeps_what_it_said(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with HubProcess(home).until_ready() as hub, ExitStack() as stack:
        token, path = (home / "token").read_text().strip(), str(home / "hub.sock")
        stuck = []
        for number in range(STUCK):
            is_web = number % 2 == 1
            stuck.append(open_web(stack, hub.port, token) if is_web else open_lines(stack, path))
            follow_and_never_read(stuck[-1], f"stuck-{number}", is_web=is_web)
        ada, bob, eve = (stack.enter_context(line_to(home, name)) for name in ("ada", "bob", "eve"))
        open_lines(stack, path).sendall(b'{"type":"hello","id":1,"bo')
        open_web(stack, hub.port, token).sendall(websocket.masked(b"x" * 100_000)[:50_000])
        stack.enter_context(socket.create_connection(("127.0.0.1", hub.port))).sendall(b"GET / HTTP/1.1\r\nHo")
        ada.ask(ClaimLease(task="T1"), Lease)
        eve.send(encode_request(9, ClaimLease(task="T1", wait_ms=60_000)) + b"\n")
        bob.send(encode_request(9, TakeInbox(wait_ms=60_000)) + b"\n")
        posted = [ada.post("x" * PAD_BYTES).id for _ in range(FLOOD_MESSAGES)]

        askers = [Asker(home, f"asker-{number}") for number in range(4)]
        for asker in askers:
            asker.start()
        wait_until("all are at it", lambda: all(len(asker.acked) > 500 for asker in askers))
        hub.process.terminate()
        begun_s = time.monotonic()
        code = hub.process.wait(EXIT_S_MAX + 5)
        took_s = time.monotonic() - begun_s
        for asker in askers:
            asker.join()
        acked = {message_id for asker in askers for message_id in asker.acked}
        kept = {f"m{entry.seq}" for entry in journal_of(home) if isinstance(entry.event, MessagePosted)}
        unsaid, lost = kept - acked - set(posted), {*posted, *acked} - kept
        tell(PART, "SIGTERM with 50 stuck peers", took_s, unit="s", bound="< 5", is_kept=took_s < EXIT_S_MAX)
        tell(PART, "committed before SIGTERM and not acknowledged", len(unsaid), bound="= 0", is_kept=not unsaid)
        assert code == 0
        assert took_s < EXIT_S_MAX
        assert max(received(raw) for raw in stuck) < FLOOD_MESSAGES * PAD_BYTES, "they were stuck"
        assert not unsaid
        assert not lost


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_that_go_on_while_the_hub_ends_are_not_its_end(tmp_path: Path, name: signal.Signals) -> None:
    with HubProcess(tmp_path / "home").until_ready() as hub:
        with line_to(tmp_path / "home") as ada:
            ada.post("one")
        while hub.process.poll() is None:
            hub.process.send_signal(name)
            time.sleep(0.000_2)
        outcome = hub.outcome()
    assert (outcome.code, outcome.line) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="reads which signals a thread blocks from /proc")
def test_signals_that_end_the_hub_are_its_main_threads_alone(tmp_path: Path) -> None:
    ending = 1 << signal.SIGTERM - 1 | 1 << signal.SIGINT - 1 | 1 << signal.SIGHUP - 1
    blocked: dict[int, int] = {}
    with HubProcess(tmp_path / "home").until_ready() as hub:

        def is_verified() -> bool:
            blocked.clear()
            with contextlib.suppress(FileNotFoundError):  # the verifier ends
                for task in Path(f"/proc/{hub.process.pid}/task").iterdir():
                    [mask] = [line for line in (task / "status").read_text().splitlines() if line.startswith("SigBlk:")]
                    blocked[int(task.name)] = int(mask.split()[1], 16) & ending
            return len(blocked) == 3 and blocked.pop(hub.process.pid) == 0  # it blocks them while it starts a thread

        wait_until("there are the main thread, which does not block them, the writer and the reader", is_verified)
    assert list(blocked.values()) == [ending, ending]


def test_a_terminal_that_is_closed_ends_the_hub_in_order_unless_it_runs_under_nohup(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with HubProcess(home).until_ready() as hub:
        with line_to(home) as ada:
            ada.post("one")
        hub.process.send_signal(signal.SIGHUP)
        assert hub.outcome() == (0, "")
        assert b"hub.draining" in hub.said
        left = {path.name for path in home.iterdir()}
        assert left.isdisjoint({"hub.json", "hub.sock", "journal.db-wal", "journal.db-shm"})
    with HubProcess(home, prefix=("sh", "-c", "trap '' HUP; exec \"$@\"", "sh")).until_ready() as hub:
        with line_to(home) as ada:
            hub.process.send_signal(signal.SIGHUP)
            assert [ada.post(text).n for text in ("two", "three", "four")] == [2, 3, 4]
        assert not hub.has_logged("hub.draining")
        assert hub.stop() == (0, "")
