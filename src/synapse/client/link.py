"""One blocking connection to the hub, for one-shot calls and simple loops: a line protocol on the Unix socket, text
frames on a WebSocket. The same JSON on both.

Rule 1: requests may be posted behind the hello in one write; the hub carries them out only if it accepts the hello.
Rule 2: a secret is told only to the hub it belongs to; where its id is not known from hub.json, the hub is asked first.
On the fast path: standard library only; `websockets` is imported for ws:// and wss:// alone.
"""

from time import monotonic

from synapse import __version__
from synapse.client.home import UNIX, Surroundings, Whereabouts, find_hub, refused_with, unreachable
from synapse.client.secrets import Secrets
from synapse.errors import Disconnected, HubUnreachable, PeerError, Rejected
from synapse.lean import connect_unix, dumps, loads
from synapse.protocol.codes import PROTOCOL_VERSION
from synapse.protocol.trace import traceparent_of

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    import socket
    from contextlib import ExitStack
    from typing import Protocol, TypeAlias

    from websockets.sync.client import ClientConnection

    Json: TypeAlias = dict[str, object]

    class Wire(Protocol):
        """Whole frames out and in."""

        def write(self, frames: list[str]) -> None: ...
        def read(self, timeout_s: float | None) -> str: ...
        def close(self) -> None: ...


FRAME_BYTES_MAX = 1 << 20
"""Four times what a hub sends: beyond it the other side is no hub."""
REQUEST_BYTES_MAX = 256 * 1024
"""No hub takes a longer request; it would end the connection."""
_UNTRACED = ("hub.identify", "hello")
LOST = 1006
"""The close code of a connection that ended without one (RFC 6455)."""


class NoAnswer(HubUnreachable):
    """The hub took the connection and did not answer in time; whether it did what was asked is not known."""


class Refusal(Rejected):
    """A refusal of the hello or of a request, as the hub sent it."""


class Notice:
    """Something the hub said unasked. kind: its wire type."""

    __slots__ = ("body", "kind", "seq")

    def __init__(self, kind: str, seq: int, body: "Json") -> None:
        self.kind = kind
        self.seq = seq
        self.body = body


class Lines:
    """Newline-delimited JSON on a Unix socket."""

    __slots__ = ("_buffer", "_stream")

    def __init__(self, stream: "socket.socket") -> None:
        self._stream = stream
        self._buffer = b""

    def write(self, frames: list[str]) -> None:
        """Send whole frames. A connection that the hub has closed is found by the next read, after its last words."""
        try:
            self._stream.sendall("".join(f"{frame}\n" for frame in frames).encode("utf-8", "surrogatepass"))
        except (BrokenPipeError, ConnectionResetError):
            return

    def read(self, timeout_s: float | None) -> str:
        """The next frame. Raises TimeoutError, `Disconnected`, `PeerError`."""
        deadline_s = None if timeout_s is None else monotonic() + timeout_s
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > FRAME_BYTES_MAX:
                raise PeerError(f"a line longer than {FRAME_BYTES_MAX} bytes: the other side is no hub")
            self._stream.settimeout(None if deadline_s is None else max(deadline_s - monotonic(), 0.001))
            try:
                data = self._stream.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                raise Disconnected(LOST, "the hub closed the connection")
            self._buffer += data
        line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        return line.decode("utf-8", "replace")

    def close(self) -> None:
        """Let the connection go."""
        self._stream.close()


class Frames:
    """Text frames on a WebSocket."""

    __slots__ = ("_connection", "_opened")

    def __init__(self, connection: "ClientConnection", opened: "ExitStack") -> None:
        """opened: ends the connection when it is closed; the library wants to be used as a context."""
        self._connection = connection
        self._opened = opened

    def write(self, frames: list[str]) -> None:
        """Send whole frames. A connection that the hub has closed is found by the next read, after its last words."""
        from websockets.exceptions import ConnectionClosed

        try:
            for frame in frames:
                self._connection.send(frame)
        except (ConnectionClosed, UnicodeEncodeError) as error:
            if isinstance(error, UnicodeEncodeError):
                raise PeerError("a text that is not UTF-8 cannot be sent") from error

    def read(self, timeout_s: float | None) -> str:
        """The next frame. Raises TimeoutError, `Disconnected`, `PeerError`."""
        from websockets.exceptions import ConnectionClosed

        try:
            frame = self._connection.recv(timeout_s)
        except ConnectionClosed as error:
            close = error.rcvd
            code, reason = (LOST, "the connection was lost") if close is None else (close.code, close.reason)
            raise Disconnected(code, reason) from error
        if not isinstance(frame, str):
            raise PeerError("the other side sent a binary frame: it is no hub")
        return frame

    def close(self) -> None:
        """Let the connection go."""
        self._opened.close()


class Link:
    """One conversation with the hub. welcome: what the hub told in answer to the hello, once it was read."""

    __slots__ = (
        "_answers",
        "_asked",
        "_hello_id",
        "_out",
        "_secrets",
        "_traceparent",
        "_wanted_as_text",
        "_wire",
        "around",
        "notices",
        "timeout_s",
        "welcome",
        "where",
    )

    def __init__(self, wire: "Wire", around: Surroundings, where: Whereabouts, timeout_s: float) -> None:
        self._wire = wire
        self.around = around
        self.where = where
        self.timeout_s = timeout_s
        self.welcome: Json | None = None
        self.notices: list[Notice] = []
        self._out: list[str] = []
        self._answers: dict[str, Json] = {}
        self._asked = 0
        self._hello_id = ""
        self._secrets: Secrets | None = None
        self._wanted_as_text: str | None = None
        self._traceparent = traceparent_of(around.environ.get("TRACEPARENT", ""))

    def __enter__(self) -> "Link":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the connection go; what was lent to it returns to its inbox."""
        self._wire.close()

    def hub_id(self) -> str:
        """Which hub this is: from hub.json, else it is asked. Must come before the hello."""
        if self.where.hub_id is None:
            found = self.ask("hub.identify", {}).get("hub_id")
            if not isinstance(found, str):
                raise PeerError("the other side did not say which hub it is")
            self.where.hub_id = found
        return self.where.hub_id

    def greet(
        self,
        name: str | None,
        *,
        kind: str | None = None,
        lasting: bool = False,
        home: str | None = None,
    ) -> None:
        """Post the hello, as the agent `name`, or as operator without one; it goes out with what is asked next.

        kind: told only when the name is new here. home: address of messages that name none.
        Raises `SecretRefused`, `Rejected(bad_name)`, `HomeRefused` for a token file that is needed and is none.
        """
        hello: Json = {"protocol": [PROTOCOL_VERSION, PROTOCOL_VERSION]}
        token = self.around.token(self.where.uri)
        if token is not None:
            hello["token"] = token
        if name is None:
            hello["operator"] = True
        else:
            secrets, hub_id = Secrets(self.around.home, self.around.environ), self.hub_id()
            hello["name"] = name
            hello["secret"], is_new = secrets.of(hub_id, name)
            if "/" in name:
                hello["ancestors"] = secrets.of_ancestors(hub_id, name)
            self._secrets = secrets
            if is_new:  # told once: two programs of one agent would else describe it anew in turns
                hello["client"] = f"synapse-cli/{__version__}"
                if kind is not None:
                    hello["kind"] = kind
        if lasting:
            hello["lasting"] = True
        if home is not None:
            hello["home"] = home
        self._hello_id = self.post("hello", hello)

    def post(self, kind: str, body: "Json", *, idem_key: str | None = None) -> str:
        """Put a request in line; its id. It goes out with the next read."""
        self._asked += 1
        request_id = str(self._asked)
        request: Json = {"type": kind, "id": request_id, "body": body}
        if idem_key is not None:
            request["idem_key"] = idem_key
        if self._traceparent is not None and kind not in _UNTRACED:
            request["traceparent"] = self._traceparent
        line = dumps(request)
        _require_fits(line)
        self._out.append(line)
        return request_id

    def ask(self, kind: str, body: "Json", *, idem_key: str | None = None, wait_s: float = 0.0) -> "Json":
        """Ask, and wait for the answer. wait_s: how long the hub itself was told to wait.

        Raises `Rejected` as the hub refused it, or the hello; `NoAnswer` after the time-out; `Disconnected`.
        """
        return self.answer(self.post(kind, body, idem_key=idem_key), wait_s=wait_s)

    def answer(self, request_id: str, *, wait_s: float = 0.0) -> "Json":
        """The answer to what was posted, with `replayed` when an earlier request under its key had the effect.

        Raises as `ask`.
        """
        deadline_s = monotonic() + self.timeout_s + wait_s
        while request_id not in self._answers:
            try:
                self._read(deadline_s - monotonic())
            except TimeoutError:
                raise NoAnswer(
                    f"the hub at {self.where.uri} did not answer within {self.timeout_s + wait_s:g} s; what was asked "
                    "may have been done or not (--timeout gives it longer)"
                ) from None
        frame = self._answers.pop(request_id)
        if frame["type"] == "error":
            raise _refusal(frame)
        body = frame.get("body")
        if not isinstance(body, dict):
            raise PeerError("the other side sent a reply without a body: it is no hub")
        if frame.get("replayed"):
            body["replayed"] = True
        return body

    def ask_text(self, kind: str, body: "Json") -> str:
        """As `ask`; the body of the answer as text, as the hub wrote it, for who only passes it on."""
        request_id = self.post(kind, body)
        self._wanted_as_text = f'{{"type":"reply","id":"{request_id}",'
        try:
            answer = self.answer(request_id)
        finally:
            self._wanted_as_text = None
        text = answer.get("")
        return text if isinstance(text, str) else dumps(answer)

    def await_welcome(self) -> "Json":
        """The welcome. Raises as `ask`."""
        if self.welcome is None:
            self.answer(self._hello_id)
        assert self.welcome is not None
        return self.welcome

    def notice(self, timeout_s: float | None) -> Notice:
        """The next notice. Raises TimeoutError, `Disconnected`."""
        deadline_s = None if timeout_s is None else monotonic() + timeout_s
        while not self.notices:
            self._read(None if deadline_s is None else deadline_s - monotonic())
        return self.notices.pop(0)

    def _read(self, timeout_s: float | None) -> None:
        """Send what is in line and take in one frame. Raises as `Wire.read`, and `Rejected` for the hello."""
        if self._out:
            self._wire.write(self._out)
            self._out = []
        if timeout_s is not None and timeout_s <= 0:
            raise TimeoutError
        text = self._wire.read(timeout_s)
        if self._wanted_as_text is not None and text.startswith(self._wanted_as_text):
            body_at = text.find('"body":{') + 7  # before it stand an id of ours and a number
            self._answers[str(self._asked)] = {"type": "reply", "body": {"": text[body_at:-1]}}
            return
        try:
            frame = loads(text)
        except ValueError as error:
            raise PeerError(f"the other side sent what is no JSON ({error}): it is no hub") from error
        if not isinstance(frame, dict):
            raise PeerError("the other side sent JSON that is no frame: it is no hub")
        kind, request_id, body = frame.get("type"), frame.get("id"), frame.get("body")
        if kind in ("reply", "error"):
            self._take_answer(frame, str(request_id))
        elif kind == "closing" and isinstance(body, dict):
            code = body.get("code")
            raise Disconnected(code if isinstance(code, int) else LOST, str(body.get("reason")))
        elif isinstance(kind, str) and isinstance(body, dict):
            seq = frame.get("seq")
            self.notices.append(Notice(kind, seq if isinstance(seq, int) else 0, body))

    def _take_answer(self, frame: "Json", request_id: str) -> None:
        if request_id == self._hello_id:
            if frame["type"] == "error":
                refusal = _refusal(frame)
                if self._secrets is not None:
                    self._secrets.refused(refusal.code)
                raise refusal
            welcome = frame.get("body")
            self.welcome = welcome if isinstance(welcome, dict) else {}
            if self.where.hub_id is not None and self.welcome.get("hub_id") != self.where.hub_id:
                raise PeerError(f"the hub at {self.where.uri} is not the one that hub.json names; start it again")
        elif frame["type"] == "error" and frame.get("id") is None:
            raise _refusal(frame)  # a frame whose id could not be read: it was one of ours
        self._answers[request_id] = frame


def _require_fits(line: str) -> None:
    """Raises `Rejected(too_large)` for a request that no hub takes."""
    size = len(line) if len(line) <= REQUEST_BYTES_MAX // 4 else len(line.encode())
    if size > REQUEST_BYTES_MAX:
        raise Refusal(
            "too_large",
            f"the request has {size} bytes; at most {REQUEST_BYTES_MAX}: give less at once, or a reference to a file",
            {"bytes": size, "frame_bytes_max": REQUEST_BYTES_MAX},
        )


def _refusal(frame: "Json") -> Rejected:
    error = frame.get("error")
    if not isinstance(error, dict):
        return Refusal("malformed", "the hub refused and did not say why")
    facts, retry_after_ms = error.get("facts"), error.get("retry_after_ms")
    return Refusal(
        str(error.get("code")),
        str(error.get("detail")),
        facts if isinstance(facts, dict) else {},
        retry_after_ms=retry_after_ms if isinstance(retry_after_ms, int) else None,
    )


def open_link(around: Surroundings, timeout_s: float) -> Link:
    """Connect to the hub of these surroundings. timeout_s bounds the connecting, and each request later.

    Raises `HubUnreachable`, which says where it was looked for and how to start one; `ValueError` for no URI.
    """
    where = find_hub(around)
    if where.uri.startswith(UNIX):
        try:
            wire: Wire = Lines(connect_unix(where.uri.removeprefix(UNIX), timeout_s))
        except OSError as error:
            raise unreachable(around, where, error.strerror or str(error)) from error
    else:
        wire = _connect_websocket(around, where, timeout_s)
    return Link(wire, around, where, timeout_s)


def _connect_websocket(around: Surroundings, where: Whereabouts, timeout_s: float) -> Frames:
    from contextlib import ExitStack

    from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
    from websockets.sync.client import connect

    from synapse.client.tls import client_context, distrust

    opened = ExitStack()
    try:
        connection = opened.enter_context(
            connect(
                where.uri,
                open_timeout=timeout_s,
                close_timeout=1,
                compression=None,
                max_size=FRAME_BYTES_MAX,
                proxy=None,
                ssl=client_context(around) if where.uri.startswith("wss:") else None,
                user_agent_header=f"synapse-cli/{__version__}",
            )
        )
    except InvalidURI as error:
        raise ValueError(str(error)) from error
    except InvalidStatus as error:
        raise unreachable(around, where, refused_with(error.response.status_code, error.response.body)) from error
    except ConnectionClosed as error:
        raise unreachable(around, where, "the connection was lost in the handshake") from error
    except (InvalidHandshake, EOFError) as error:
        raise unreachable(around, where, f"no WebSocket: {error}") from error
    except (OSError, TimeoutError) as error:
        raise unreachable(around, where, distrust(error)) from error
    return Frames(connection, opened)
