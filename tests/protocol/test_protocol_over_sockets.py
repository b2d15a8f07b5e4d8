"""Bad input through real doors: a hub process, raw bytes, nothing of our own client in between."""

import contextlib
import json
import os
import resource
import signal
import socket
import ssl
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from tests.faults.conftest import SRC

from synapse.protocol.codes import CLOSE_BAD_DATA, CLOSE_FLOOD, CLOSE_NO_HELLO, CLOSE_PROTOCOL, CLOSE_TOO_BIG

pytestmark = pytest.mark.xdist_group("protocol-over-sockets")

PATIENCE_S = 20.0
SECRET = "a-secret-that-nobody-may-ever-read-0000000"
TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Hub:
    """A hub in a process of its own. settings: environment variables without their prefix."""

    def __init__(self, home: Path, files_max: int | None = None, **settings: int | str) -> None:
        self.home = home
        self.log = home.parent / f"{home.name}.log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SYN")}
        clean |= {"PYTHONPATH": str(SRC)} | {f"SYNAPSE_{name}": str(value) for name, value in settings.items()}

        def restrict() -> None:
            if files_max is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))

        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "synapse", "hub", "--port", "0", "--home", str(home)],
                env=clean,
                stdout=subprocess.PIPE,
                stderr=log,
                preexec_fn=restrict,
            )
        assert self.process.stdout is not None
        ready = self.process.stdout.readline().decode().split()
        assert ready[:3] == ["synapse", "hub", "ready"], self.log.read_text()
        self.port = int(ready[3].rpartition(":")[2])
        self.token = (home / "token").read_text().strip()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def running(home: Path, files_max: int | None = None, **settings: int | str) -> Iterator[Hub]:
    hub = Hub(home, files_max, **settings)
    try:
        yield hub
        assert hub.process.poll() is None, f"the hub is gone: {hub.log.read_text()}"
        assert '"hub.bug"' not in hub.log.read_text()
    finally:
        hub.stop()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with the default limits."""
    with running(tmp_path_factory.mktemp("hub") / "home") as found:
        yield found


@pytest.fixture(scope="module")
def small_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with small limits."""
    limits = {
        "LIMIT_HELLO_MS": 300,
        "LIMIT_CONNECTIONS_PER_HOST_MAX": 2,
        "LIMIT_FRAGMENTS_MAX": 4,
        "LIMIT_SUBSCRIPTIONS_MAX": 2,
        "LIMIT_RATE_AGENT_PER_S": 1,
        "LIMIT_RATE_AGENT_BURST": 5,
    }
    with running(tmp_path_factory.mktemp("small") / "home", **limits) as found:
        yield found


class Raw:
    """A TCP connection to the hub's port, byte by byte."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.socket = socket.create_connection(("127.0.0.1", hub.port), PATIENCE_S)
        self.received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def say(self, data: bytes) -> None:
        self.socket.sendall(data)

    def take(self, count: int) -> bytes:
        """Exactly so many bytes; fewer only at the end of the stream."""
        while len(self.received) < count and (data := self.socket.recv(65536)):
            self.received += data
        taken, self.received = self.received[:count], self.received[count:]
        return taken

    def rest(self) -> bytes:
        """Everything up to the end of the stream."""
        with contextlib.suppress(ConnectionResetError):
            while data := self.socket.recv(65536):
                self.received += data
        return self.received

    def head(self) -> str:
        """An HTTP response head."""
        while b"\r\n\r\n" not in self.received and (data := self.socket.recv(65536)):
            self.received += data
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        return head.decode()

    def ask(self, *headers: str, request: str = "GET /health HTTP/1.1", host: str | None = None) -> str:
        """An HTTP request; the head of the response."""
        own = f"Host: {host or f'127.0.0.1:{self.hub.port}'}"
        self.say("\r\n".join([request, own, *headers, "", ""]).encode())
        return self.head()

    def upgrade(self, *headers: str, host: str | None = None, path: str = "/") -> str:
        """A WebSocket handshake; the head of the response."""
        common = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13")
        return self.ask(*common, *headers, request=f"GET {path} HTTP/1.1", host=host)


def status(head: str) -> int:
    return int(head.split()[1])


class WebSocket(Raw):
    """A WebSocket whose frames may be as wrong as one likes."""

    def __init__(self, hub: Hub, *headers: str) -> None:
        super().__init__(hub)
        assert status(self.upgrade(*headers)) == 101

    def frame(self, opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True) -> None:
        first, size, mask = opcode | (0x80 if fin else 0), len(payload), 0x80 if masked else 0
        if size < 126:
            head = struct.pack("!BB", first, mask | size)
        elif size < 65536:
            head = struct.pack("!BBH", first, mask | 126, size)
        else:
            head = struct.pack("!BBQ", first, mask | 127, size)
        self.say(head + (b"\0\0\0\0" if masked else b"") + payload)  # a mask of zeros masks nothing

    def next(self) -> tuple[int, bytes]:
        """The next frame of the hub: opcode and payload."""
        head = self.take(2)
        if len(head) < 2:
            return CLOSE, b""
        size = head[1] & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", self.take(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self.take(8))
        return head[0] & 0x0F, self.take(size)

    def answer(self) -> Any:
        """The next text frame, as data."""
        while True:
            opcode, payload = self.next()
            assert opcode != CLOSE, payload
            if opcode == TEXT:
                return json.loads(payload)

    def closed_with(self) -> int:
        """The code of the close frame; frames before it are passed over."""
        while True:
            opcode, payload = self.next()
            if opcode == CLOSE:
                return int(struct.unpack("!H", payload[:2])[0]) if payload else 0

    def ask_json(self, name: str, body: dict[str, Any], request_id: int = 1) -> Any:
        self.frame(TEXT, json.dumps({"type": name, "id": request_id, "body": body}).encode())
        return self.answer()

    def hello(self, name: str, **more: object) -> Any:
        return self.ask_json("hello", {"token": self.hub.token, "name": name, "secret": SECRET, **more})


class Lines:
    """The Unix socket, a line at a time."""

    def __init__(self, hub: Hub) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(str(hub.home / "hub.sock"))
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def say(self, line: bytes) -> None:
        self.socket.sendall(line + b"\n")

    def answer(self) -> Any:
        line = self.file.readline()
        assert line.endswith(b"\n"), "the hub ended the connection"
        return json.loads(line)

    def answer_of(self, request_id: int) -> Any:
        """The answer to this request; what comes before it is passed over."""
        while (answer := self.answer()).get("id") != request_id:
            pass
        return answer

    def ask(self, name: str, body: dict[str, Any], request_id: int = 1) -> Any:
        self.say(json.dumps({"type": name, "id": request_id, "body": body}).encode())
        return self.answer()

    def hello(self, name: str, **more: object) -> Any:
        return self.ask("hello", {"name": name, "secret": SECRET, **more})


def code_of(answer: Any) -> str | None:
    return answer["error"]["code"] if answer["type"] == "error" else None


# the request head


@pytest.mark.bad_input("BI-01")
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example", "file://", ""])
def test_a_foreign_origin_is_refused_on_websocket_and_on_get(hub: Hub, origin: str) -> None:
    for ask in (Raw.upgrade, Raw.ask):
        with Raw(hub) as raw:
            assert status(ask(raw, f"Origin: {origin}")) == 403


@pytest.mark.bad_input("BI-01")
def test_the_hubs_own_origin_and_no_origin_are_let_in(hub: Hub) -> None:
    for headers in ((), (f"Origin: http://127.0.0.1:{hub.port}",), (f"Origin: http://localhost:{hub.port}",)):
        with Raw(hub) as raw:
            assert status(raw.upgrade(*headers)) == 101


@pytest.mark.bad_input("BI-02")
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:1", "127.0.0.1.evil.example", "0.0.0.0", "[::2]"])
def test_an_unknown_host_is_refused_on_websocket_and_on_get(hub: Hub, host: str) -> None:
    with Raw(hub) as raw:
        assert status(raw.upgrade(host=host)) == 421
    with Raw(hub) as raw:
        assert status(raw.ask(host=host)) == 421


@pytest.mark.bad_input("BI-03")
@pytest.mark.parametrize(
    "doubled",
    [
        ("Authorization: Bearer a", "Authorization: Bearer b"),
        ("Origin: http://127.0.0.1", "Origin: http://127.0.0.1"),
        ("Host: 127.0.0.1",),
    ],
)
def test_a_header_given_twice_that_decides_something_is_a_bad_request(hub: Hub, doubled: tuple[str, ...]) -> None:
    for ask in (Raw.upgrade, Raw.ask):
        with Raw(hub) as raw:
            assert status(ask(raw, *doubled)) == 400


def client_hello() -> bytes:
    """What a client that speaks TLS says first, and then waits."""
    out = ssl.MemoryBIO()
    wrapped = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="hub.example")
    with pytest.raises(ssl.SSLWantReadError):
        wrapped.do_handshake()
    return out.read()


@pytest.mark.bad_input("BI-29")
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (client_hello(), 400),
        (b"GET /health HTTP/1.1\nHost: 127.0.0.1\n\n", 400),
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (b"GET /health HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n", 200),
        (b"G" * 9000, 431),
        (b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
        (b"POST /health HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n", 405),
    ],
)
def test_what_is_no_request_of_ours_gets_its_status_and_the_hub_goes_on(hub: Hub, data: bytes, expected: int) -> None:
    with Raw(hub) as raw:
        raw.say(data)
        assert status(raw.head()) == expected
    with Raw(hub) as raw:
        assert status(raw.ask()) == 200


@pytest.mark.bad_input("BI-29")
def test_a_head_that_is_too_long_is_refused_for_that_also_when_it_comes_whole(hub: Hub) -> None:
    with Raw(hub) as raw:
        raw.say(b"GET / HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n")
        assert b"8192 bytes" in raw.rest()


@pytest.mark.bad_input("BI-29")
def test_a_websocket_is_taken_at_its_path_only(hub: Hub) -> None:
    for path in ("/ws", "//", "/health", "*", f"http://127.0.0.1:{hub.port}/", "/?token=x", "/"):
        with Raw(hub) as raw:
            assert status(raw.upgrade(path=path)) == (101 if path[:2] in ("/", "/?") else 404)
    with Raw(hub) as raw:
        assert status(raw.upgrade("Origin: https://evil.example", path="/ws")) == 403, "a foreign page learns nothing"


# tokens and time


@pytest.mark.bad_input("BI-05")
def test_a_wrong_token_in_the_handshake_is_refused(hub: Hub) -> None:
    with Raw(hub) as raw:
        assert status(raw.upgrade("Authorization: Bearer wrong")) == 401
    with WebSocket(hub, f"Authorization: Bearer {hub.token}") as socket:
        assert code_of(socket.hello("bearer", token=None)) is None


@pytest.mark.bad_input("BI-05")
@pytest.mark.parametrize("token", [None, "", "wrong", "ünïcode"])
def test_a_wrong_token_in_the_hello_is_refused_and_tells_nothing_of_the_fleet(hub: Hub, token: str | None) -> None:
    with Lines(hub) as lines:
        assert code_of(lines.hello("somebody")) is None
    answers = []
    for name in ("somebody", "nobody-ever"):
        with WebSocket(hub) as socket:
            answers.append(socket.hello(name, token=token)["error"])
            assert socket.closed_with() == 4500
    assert answers[0] == answers[1]
    assert answers[0]["code"] == "unauthorized"


@pytest.mark.bad_input("BI-05")
def test_anothers_secret_is_refused_and_the_connection_closed(hub: Hub) -> None:
    with Lines(hub) as lines:
        lines.hello("victim")
    with WebSocket(hub) as socket:
        assert code_of(socket.hello("victim", secret="x" * 43)) == "name_taken"
        assert socket.closed_with() == 4501


@pytest.mark.bad_input("BI-04")
def test_who_says_no_hello_in_time_is_closed(small_hub: Hub) -> None:
    with WebSocket(small_hub) as socket:
        assert socket.closed_with() == CLOSE_NO_HELLO
    with Lines(small_hub) as lines:
        assert lines.answer()["body"]["code"] == CLOSE_NO_HELLO
        assert lines.file.readline() == b""


@pytest.mark.bad_input("BI-04")
@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"])
def test_a_handshake_that_drips_or_never_comes_is_cut(small_hub: Hub, start: bytes) -> None:
    with Raw(small_hub) as raw:
        raw.say(start)
        assert raw.rest() == b""


@pytest.mark.bad_input("BI-06")
def test_more_connections_than_the_cap_are_told_when_to_come_back(small_hub: Hub) -> None:
    with WebSocket(small_hub) as one, WebSocket(small_hub) as two, Raw(small_hub) as third:
        assert code_of(one.hello("cap-one")) is None
        assert code_of(two.hello("cap-two")) is None
        head = third.upgrade()
        assert status(head) == 503
        assert "\r\nRetry-After: 1" in head
    with Lines(small_hub) as one_line, Lines(small_hub) as two_lines, Lines(small_hub) as third_line:
        one_line.hello("cap-one")
        two_lines.hello("cap-two")
        refused = third_line.answer()
        assert (refused["id"], code_of(refused)) == (None, "limit")
        assert refused["error"]["retry_after_ms"] == 1000
        assert third_line.file.readline() == b""


# frames


@pytest.mark.bad_input("BI-07")
def test_a_frame_over_the_bound_is_closed_with_too_big(hub: Hub) -> None:
    with WebSocket(hub) as socket:
        socket.hello("big")
        with contextlib.suppress(OSError):
            socket.frame(TEXT, b" " * (256 * 1024 + 1))
        assert socket.closed_with() == CLOSE_TOO_BIG
    with Lines(hub) as lines:
        lines.hello("big")
        with contextlib.suppress(OSError):
            lines.say(b" " * (256 * 1024 + 1))
        assert lines.answer()["body"]["code"] == CLOSE_TOO_BIG


@pytest.mark.bad_input("BI-07")
def test_a_frame_that_announces_too_much_is_closed_before_it_comes(hub: Hub) -> None:
    with WebSocket(hub) as socket:
        socket.hello("announcer")
        socket.say(struct.pack("!BBQ", 0x81, 0xFF, 1 << 40) + b"\0\0\0\0")
        assert socket.closed_with() == CLOSE_TOO_BIG


@pytest.mark.bad_input("BI-07")
def test_too_many_fragments_or_too_many_bytes_in_them_are_closed_with_too_big(hub: Hub, small_hub: Hub) -> None:
    with WebSocket(small_hub) as socket:
        socket.frame(TEXT, b"{", fin=False)
        for _ in range(4):
            socket.frame(0, b" ", fin=False)
        assert socket.closed_with() == CLOSE_TOO_BIG
    with WebSocket(hub) as socket:
        with contextlib.suppress(OSError):
            socket.frame(TEXT, b" " * 200_000, fin=False)
            socket.frame(0, b" " * 200_000, fin=False)
        assert socket.closed_with() == CLOSE_TOO_BIG


def test_a_request_in_a_few_fragments_is_heard(hub: Hub) -> None:
    with WebSocket(hub) as socket:
        socket.hello("pieces")
        socket.frame(TEXT, '{"type":"ping","id":"é'.encode()[:-1], fin=False)
        socket.frame(PING, b"between")
        socket.frame(0, "é".encode()[1:] + b'"}')
        assert socket.answer()["id"] == "é"


@pytest.mark.bad_input("BI-08")
@pytest.mark.parametrize("fragmented", [False, True])
def test_text_that_is_not_utf8_is_closed_with_bad_data(hub: Hub, fragmented: bool) -> None:
    with WebSocket(hub) as socket:
        socket.hello("latin")
        if fragmented:
            socket.frame(TEXT, b'{"type":"ping","id":"\xc3', fin=False)
            socket.frame(0, b'\x28"}', fin=False)
        else:
            socket.frame(TEXT, b'{"type":"ping","id":"\xff"}')
        assert socket.closed_with() == CLOSE_BAD_DATA


@pytest.mark.bad_input("BI-08")
def test_unmasked_and_impossible_frames_are_closed_with_a_protocol_error(hub: Hub) -> None:
    with WebSocket(hub) as socket:
        socket.hello("bare")
        socket.frame(TEXT, b'{"type":"ping","id":1}', masked=False)
        assert socket.closed_with() == CLOSE_PROTOCOL
    for opcode in (3, 11):
        with WebSocket(hub) as socket:
            socket.frame(opcode, b"")
            assert socket.closed_with() == CLOSE_PROTOCOL


@pytest.mark.bad_input("BI-21")
def test_a_binary_frame_is_malformed_and_the_connection_lives(hub: Hub) -> None:
    with WebSocket(hub) as socket:
        socket.hello("binary")
        socket.frame(BINARY, b'{"type":"ping","id":1}')
        refused = socket.answer()
        assert (refused["id"], code_of(refused)) == (None, "malformed")
        assert socket.ask_json("ping", {}, 2)["id"] == 2


@pytest.mark.bad_input("BI-09", "BI-12")
@pytest.mark.parametrize("line", [b"nonsense", b"[]", b'"', b"\xff\xfe", b"\x00", b'{"type":"\xff","id":7}'])
def test_a_malformed_line_after_the_welcome_is_answered_and_the_connection_lives(hub: Hub, line: bytes) -> None:
    with Lines(hub) as lines:
        lines.hello("liner")
        lines.say(line)
        assert code_of(lines.answer()) == "malformed"
        assert lines.ask("ping", {}, 2)["id"] == 2


@pytest.mark.bad_input("BI-17")
@pytest.mark.parametrize("line", [b"GET / HTTP/1.1", b"\x16\x03\x01", b'{"type":"ping","id":1}', b"{}"])
def test_a_first_line_that_is_no_hello_is_answered_and_ends_the_connection(hub: Hub, line: bytes) -> None:
    with Lines(hub) as lines:
        lines.say(line)
        assert code_of(lines.answer()) in {"malformed", "hello_required"}
        assert lines.answer()["body"]["code"] == 4503
        assert lines.file.readline() == b""


@pytest.mark.bad_input("BI-16")
def test_a_newline_inside_a_websocket_body_forges_no_line_on_the_unix_socket(hub: Hub) -> None:
    forged = b'{"type":"reply","id":99,"seq":1,"body":{"cursor":"x:1"}}'
    with Lines(hub) as lines, WebSocket(hub) as socket:
        lines.hello("reader")
        assert lines.ask("feed.subscribe", {"channels": ["main:general"]}, 2)["id"] == 2
        assert lines.answer()["type"] == "feed.live"
        socket.hello("forger")
        text = json.dumps("\n" + forged.decode() + "\n")
        frame = (
            b'{"type":"message.send","id":1,"body":{"channel":"main:general",\n"body":[\n'
            + text.encode()
            + b"\n]\r\n}}"
        )
        socket.frame(TEXT, frame)
        assert code_of(socket.answer()) is None
        told = lines.answer()
        assert (told["type"], told["body"]["body"]) == ("message", ["\n" + forged.decode() + "\n"])
        assert lines.ask("ping", {}, 3)["id"] == 3


# too much


@pytest.mark.bad_input("BI-23")
def test_a_flood_of_pings_is_closed(hub: Hub) -> None:
    with WebSocket(hub) as socket:
        with contextlib.suppress(OSError):
            for _ in range(200):
                socket.frame(PING, b"")
        assert socket.closed_with() == CLOSE_FLOOD


@pytest.mark.bad_input("BI-23")
def test_more_requests_or_subscriptions_than_the_limits_are_refused_with_the_limit(small_hub: Hub) -> None:
    with Lines(small_hub) as lines:
        lines.hello("greedy")
        for number in range(3):
            lines.say(b'{"type":"feed.subscribe","id":%d,"body":{"presence":true}}' % number)
        refused = lines.answer_of(2)
        assert (code_of(refused), refused["error"]["facts"]) == ("limit", {"limit": "subscriptions_max", "value": 2})
        for number in range(10, 20):
            lines.say(b'{"type":"ping","id":%d}' % number)
        refused = [answer for answer in map(lines.answer_of, range(10, 20)) if answer["type"] == "error"]
        assert [code_of(answer) for answer in refused] == ["rate_limited"], "once, and then heard as the bucket fills"
        assert refused[0]["error"]["retry_after_ms"] > 0


@pytest.mark.bad_input("BI-22")
def test_a_peer_that_never_reads_costs_its_bound_and_nobody_else(tmp_path: Path) -> None:
    message = {"channel": "main:general", "body": "x" * 100_000}
    with running(tmp_path / "home", LIMIT_OUTBOX_BYTES_MAX=64 * 1024, LIMIT_DRAIN_MS=500) as hub:
        with Lines(hub) as sender, WebSocket(hub) as stuck:
            sender.hello("sender")
            assert code_of(stuck.hello("stuck")) is None
            for number in range(150):  # the hub's own caches fill
                assert code_of(sender.ask("message.send", message, number)) is None
            stuck.ask_json("feed.subscribe", {"channels": ["main:general"]}, 2)
            before = hub.rss_bytes() if sys.platform == "linux" else 0
            for number in range(150):
                assert code_of(sender.ask("message.send", message, number)) is None
            if sys.platform == "linux":
                assert hub.rss_bytes() - before < 4 * 1024 * 1024
            while True:  # until the hub has cut who took nothing for drain_ms
                answer = sender.ask("hub.status", {})
                if code_of(answer) is None and answer["body"]["counts"]["connections"] == 1:
                    break
        with Lines(hub) as lines:
            assert lines.hello("late")["type"] == "reply"


@pytest.mark.bad_input("BI-28")
def test_out_of_file_descriptors_new_connections_wait_and_the_hub_lives(tmp_path: Path) -> None:
    with running(tmp_path / "home", files_max=48) as hub, Lines(hub) as lines:
        lines.hello("inside")
        with contextlib.ExitStack() as crowd:
            for _ in range(80):
                with contextlib.suppress(OSError):
                    crowd.enter_context(Raw(hub))
            assert lines.ask("message.send", {"channel": "main:general", "body": "still here"}, 2)["type"] == "reply"
        with Lines(hub) as later:
            assert later.hello("later")["type"] == "reply"


# what others see


@pytest.mark.bad_input("BI-24")
def test_escapes_in_a_text_are_exact_in_json_and_neutralised_for_people(hub: Hub) -> None:
    words = "\x1b[31mred\x1b[0m \u202eright\u200bleft"
    with Lines(hub) as lines:
        lines.hello("painter")
        lines.ask("channel.join", {"channel": "main:colours"}, 2)
        assert code_of(lines.ask("message.send", {"channel": "main:colours", "body": words}, 3)) is None
    command = [sys.executable, "-m", "synapse", "history", "main:colours", "--home", str(hub.home)]
    environment = {**os.environ, "PYTHONPATH": str(SRC), "SYNAPSE_NAME": "onlooker"}
    plain = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=PATIENCE_S).stdout
    exact = subprocess.run([*command, "--json"], env=environment, capture_output=True, check=True, timeout=PATIENCE_S)
    assert json.loads(exact.stdout.splitlines()[0])["body"] == words
    assert b"red" in plain
    assert not {"\x1b", "\u202e", "\u200b"} & set(plain.decode())


@pytest.mark.bad_input("BI-26")
def test_a_text_filter_is_a_plain_substring_and_no_pattern(hub: Hub) -> None:
    with Lines(hub) as lines:
        lines.hello("searcher")
        lines.ask("channel.join", {"channel": "main:search"}, 2)
        for number, body in enumerate(["aaaa", "(a+)+$", "A.*"]):
            lines.ask("message.send", {"channel": "main:search", "body": body}, number)
        for text, found in (("(a+)+$", ["(a+)+$"]), (".*", ["A.*"]), ("a", ["aaaa", "(a+)+$", "A.*"]), ("\\w", [])):
            reply = lines.ask("history.read", {"channel": "main:search", "text": text}, 9)
            assert [message["body"] for message in reply["body"]["messages"]] == found


@pytest.mark.bad_input("BI-27")
def test_secrets_and_tokens_are_in_no_log_no_error_no_argument_and_no_open_file(tmp_path: Path) -> None:
    wrong = "w" * 43
    said = []
    with running(tmp_path / "home", LOG_LEVEL="debug") as hub:
        with Lines(hub) as lines:
            lines.hello("keeper")
            lines.say(
                json.dumps({"type": "hello", "id": 2, "body": {"name": "keeper", "secret": SECRET}}).encode()[:-1]
            )
            said.append(lines.answer())
        for more in ({"secret": wrong}, {"secrt": SECRET}, {"token": wrong}, {"secret": [SECRET]}):
            with WebSocket(hub) as socket:
                said.append(socket.hello("keeper", **more))
        with Raw(hub) as raw:
            said.append(raw.upgrade(f"Authorization: Bearer {wrong}"))
        token, home = hub.token, hub.home
        if sys.platform == "linux":
            said.append(Path(f"/proc/{hub.process.pid}/cmdline").read_text())
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.rglob("*") if path.is_file()}
        assert set(modes.values()) == {0o600}, modes
        journal = b"".join(path.read_bytes() for path in home.iterdir() if path.is_file() and path.name != "token")
    for secret in (SECRET, wrong, token):
        assert secret not in json.dumps(said)
        assert secret not in hub.log.read_text()
        assert secret.encode() not in journal
