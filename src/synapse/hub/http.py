"""HTTP beside the WebSocket, on the same port: the request head decides which it is.

We read the head ourselves (at most 8 KiB), because neither library says no to what must be refused before it is
believed: a foreign Origin, an unknown Host, a doubled Authorization. Then websockets or h11 take over.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import h11

HEAD_BYTES_MAX: Final = 8 * 1024
WEBSOCKET_PATH: Final = "/"
NOTHING_HERE: Final = f"nothing here; GET /health or /metrics, or a WebSocket at {WEBSOCKET_PATH}"
_LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")


class Head(NamedTuple):
    """What the head of a request says. path: without its query. origins, hosts, authorizations: one item for each
    header line."""

    is_upgrade: bool
    path: str
    origins: list[str]
    hosts: list[str]
    authorizations: list[str]


class Refused(NamedTuple):
    """An HTTP refusal: status and one line."""

    status: int
    reason: str


class Admitted(NamedTuple):
    """The request may go on. token: the one that it carried."""

    token: str | None = None


class Page(NamedTuple):
    """An answer to GET."""

    status: int
    content_type: str
    body: bytes


def read_head(head: bytes) -> Head | None:
    """Split a complete request head (up to the blank line); None when it is not HTTP."""
    lines = head.split(b"\r\n")
    request_line = lines[0].split(b" ")
    if len(request_line) != 3 or not request_line[2].startswith(b"HTTP/1."):
        return None
    origins: list[str] = []
    hosts: list[str] = []
    authorizations: list[str] = []
    is_upgrade = False
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon:
            continue
        text = value.strip().decode("latin-1")
        match name.lower():
            case b"origin":
                origins.append(text)
            case b"host":
                hosts.append(text)
            case b"authorization":
                authorizations.append(text)
            case b"upgrade":
                is_upgrade = is_upgrade or text.lower() == "websocket"
    path = request_line[1].decode("latin-1").partition("?")[0]
    return Head(is_upgrade, path, origins, hosts, authorizations)


@dataclass(slots=True, frozen=True)
class Gate:
    """Who may talk to the port. port: ours. hosts: further names of this hub. origins: web pages that may connect.
    opens: whether a token is the hub's, or one that it knows."""

    port: int
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    opens: Callable[[str], bool] = lambda _: False

    def admit(self, head: Head) -> Admitted | Refused:
        """Check Host (DNS rebinding), Origin (foreign pages) and Authorization (given twice, or wrong)."""
        if len(head.hosts) != 1:
            return Refused(400, "exactly one Host header")
        if not self._is_our_host(head.hosts[0]):
            return Refused(421, "unknown Host: this hub is not the one you mean (setting allowed_hosts)")
        if len(head.origins) > 1:
            return Refused(400, "more than one Origin header")
        if head.origins and not self._is_our_origin(head.origins[0]):
            return Refused(403, "foreign Origin: this page may not talk to the hub (setting allowed_origins)")
        if len(head.authorizations) > 1:
            return Refused(400, "more than one Authorization header")
        if not head.authorizations:
            return Admitted()
        scheme, _, given = head.authorizations[0].partition(" ")
        if scheme.lower() != "bearer" or not self.opens(given.strip()):
            return Refused(401, "wrong token")
        return Admitted(given.strip())

    def _is_our_host(self, host: str) -> bool:
        name, port = _split_host(host)
        return (name in _LOCAL_HOSTS and port in (None, self.port)) or host.lower() in self.hosts or name in self.hosts

    def _is_our_origin(self, origin: str) -> bool:
        if origin in self.origins:
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        default_port = {"http": 80, "https": 443}.get(parts.scheme)
        if default_port is None or parts.path:
            return False
        name, port = _split_host(parts.netloc)
        if name in _LOCAL_HOSTS:  # a page without a port comes from another server of this machine
            return (port or default_port) == self.port
        if parts.netloc.lower() in self.hosts:
            return True
        return name in self.hosts and (port or default_port) in (default_port, self.port)


def needs_token(path: str) -> bool:
    """True for what other machines are told with a token only: the figures, which say how busy the fleet is."""
    return path.partition("?")[0] == "/metrics"


def _split_host(host: str) -> tuple[str, int | None]:
    name, colon, port = host.lower().rpartition(":")
    if not colon or "]" in port:
        return host.lower(), None
    return (name, int(port)) if port.isascii() and port.isdigit() and len(port) <= 5 else (host.lower(), None)


_PHRASES: Final = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    421: "Misdirected Request",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


def plain_response(status: int, text: str, *, headers: tuple[tuple[str, str], ...] = ()) -> bytes:
    """A whole response with one line of text that ends the connection, for refusals before any library is asked."""
    body = (text + "\n").encode()
    lines = [
        f"HTTP/1.1 {status} {_PHRASES[status]}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Exchange:
    """One HTTP request and its answer, by h11. Sans-I/O: `receive` takes bytes and gives bytes to send, and the
    connection ends after the answer."""

    def __init__(self, page: Callable[[str], Page | None]) -> None:
        """page: what is at a path, without its query; None for nothing."""
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        self._page = page
        self.is_done = False

    def receive(self, data: bytes) -> bytes:
        """Feed bytes of the peer; the answer once the request is complete, else nothing."""
        try:
            self._http.receive_data(data)
            while not self.is_done:
                event = self._http.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return b""
                if isinstance(event, h11.Request):
                    return self._answer(event)
                if isinstance(event, h11.ConnectionClosed):
                    self.is_done = True
        except h11.RemoteProtocolError as error:
            self.is_done = True
            status = error.error_status_hint
            return plain_response(status if status in _PHRASES else 400, "not a request this hub understands")
        return b""

    def _answer(self, request: h11.Request) -> bytes:
        path = request.target.decode("latin-1").partition("?")[0]
        if request.method not in (b"GET", b"HEAD"):
            return self._respond(request, 405, b"only GET and HEAD here\n", [("Allow", "GET, HEAD")])
        page = self._page(path)
        if page is None:
            return self._respond(request, 404, f"{NOTHING_HERE}\n".encode())
        return self._respond(request, page.status, page.body, [("Content-Type", page.content_type)])

    def _respond(
        self, request: h11.Request, status: int, body: bytes, headers: list[tuple[str, str]] | None = None
    ) -> bytes:
        self.is_done = True
        fields = [("Content-Length", str(len(body))), ("Connection", "close"), ("Cache-Control", "no-store")]
        if not any(name == "Content-Type" for name, _ in headers or ()):
            fields.append(("Content-Type", "text/plain; charset=utf-8"))
        parts = [
            self._http.send(
                h11.Response(status_code=status, reason=_PHRASES[status], headers=fields + (headers or []))
            ),
            self._http.send(h11.Data(data=body)) if request.method != b"HEAD" else b"",
            self._http.send(h11.EndOfMessage()),
        ]
        return b"".join(part for part in parts if part)
