"""Sockets: one `asyncio.BufferedProtocol` under three framings.

    TCP port:     request head -> WebSocket (websockets' sans-I/O ServerProtocol) or HTTP (h11)
    Unix socket:  newline-delimited JSON

What the library's own asyncio layer would do is done here, and bounded: handshake and hello timeouts, fragments,
control frames, UTF-8 while it arrives, keepalive, close handshake, pause and resume, aborts.
"""

import asyncio
import contextlib
import logging
import os
import socket
import struct
from codecs import IncrementalDecoder, getincrementaldecoder
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from websockets.frames import Frame, Opcode
from websockets.http11 import Request as HandshakeRequest
from websockets.protocol import State as WebSocketState
from websockets.server import ServerProtocol

from synapse.hub.frames import PLAIN_TEXT, frame_at, plain_texts, text_frame, unmasked
from synapse.hub.http import (
    HEAD_BYTES_MAX,
    NOTHING_HERE,
    WEBSOCKET_PATH,
    Admitted,
    Exchange,
    needs_token,
    plain_response,
    read_head,
)
from synapse.hub.settings import is_loopback
from synapse.protocol.codec import encode_error, encode_notice
from synapse.protocol.codes import CLOSE_BAD_DATA, CLOSE_FLOOD, CLOSE_TOO_BIG
from synapse.protocol.notices import Closing

if TYPE_CHECKING:
    from synapse.hub.connection import Connection
    from synapse.hub.listeners import Listeners

BUFFER_BYTES: Final = 16 * 1024
"""One buffer for all connections: a larger read of tiny frames would hold the loop for too long."""
CONTROL_BURST: Final = 20
CONTROL_PER_S: Final = 10
PING_AFTER_S: Final = 20.0
PONG_WITHIN_S: Final = 20.0
CLOSE_WITHIN_S: Final = 2.0
NO_HTTP: Final = "not an HTTP/1.1 request"

WEBSOCKET: Final = "websocket"
LINES: Final = "lines"

_logger = logging.getLogger("synapse.wire")
_logger.addHandler(logging.NullHandler())
_logger.propagate = False
_logger.setLevel(logging.CRITICAL)
"""Given to websockets, whose own messages would log tokens and bodies."""

_buffer = memoryview(bytearray(BUFFER_BYTES))


class Peer(asyncio.BufferedProtocol):
    """A socket of the hub: what all framings share. Subclasses say what bytes mean."""

    kind = LINES

    def __init__(self, listeners: "Listeners") -> None:
        self._listeners = listeners
        self._loop = listeners.loop
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_closing = False
        self._is_held = False
        self.connection: Connection | None = None

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the socket is there."""
        self._transport = cast("asyncio.Transport", transport)
        half = self._listeners.limits.outbox_bytes_max // 2
        self._transport.set_write_buffer_limits(high=half, low=half // 2)
        self._listeners.peers.add(self)
        self._begin()

    def get_buffer(self, sizehint: int) -> memoryview:
        """asyncio: where to read to. One buffer for all, because it is used up before control returns."""
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio: bytes came."""
        self._receive(bytes(_buffer[:nbytes]))

    def eof_received(self) -> bool:
        """asyncio: the peer sent all it will send."""
        self.abort()
        return False

    def pause_writing(self) -> None:
        """asyncio: the outbox is half full."""
        if self.connection is not None:
            self._listeners.turns.peers.on_stuck(self.connection)

    def resume_writing(self) -> None:
        """asyncio: the outbox is down to a quarter."""
        if self.connection is not None:
            self._listeners.turns.peers.on_drained(self.connection)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the socket is gone."""
        self._stop_timer()
        self._listeners.forget(self)
        if self.connection is not None:
            self._listeners.turns.peers.on_closed(self.connection)
            self.connection = None

    # What subclasses fill in.

    def _begin(self) -> None:
        raise AssertionError("each framing begins its own way")

    def _receive(self, data: bytes) -> None:
        raise AssertionError("each framing reads its own way")

    def _hear_more(self) -> None:
        """What came together with the last frame that could be heard."""

    # The turn's side (`connection.Wire`).

    def frame(self, payload: bytes) -> bytes:
        """The payload as a line; JSON of ours never holds a newline."""
        return payload + b"\n"

    def write(self, data: bytes) -> None:
        """Send framed bytes."""
        transport = self._transport
        if not self._is_closing and transport is not None and not transport.is_closing():
            transport.write(data)

    def buffered(self) -> int:
        """Bytes that the operating system has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def hold_reading(self, *, hold: bool) -> None:
        """Stop or go on reading; what was read and not heard comes first."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._is_held = hold
        if hold:
            transport.pause_reading()
        else:
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Hear what was read; the socket is looked at again only when all of that could be heard."""
        self._hear_more()
        transport = self._transport
        if not self._is_held and transport is not None and not transport.is_closing():
            transport.resume_reading()

    def close(self, code: int, reason: str) -> None:
        """Say why, and close once all is written; cut after 2 s."""
        if self._is_closing or self._transport is None:
            return
        seq = 0 if self.connection is None else self.connection.told(self._listeners.turns.feeds.durable)
        self.write(self.frame(encode_notice(seq, Closing(code=code, reason=reason))))
        self._finish()

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _finish(self) -> None:
        """No more is written; the socket closes when the buffer is empty, at the latest after 2 s."""
        if self._is_closing or self._transport is None:
            return
        self._is_closing = True
        self._transport.close()
        self._start_timer(CLOSE_WITHIN_S, self.abort)

    def _start_timer(self, seconds: float, act: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(seconds, act)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class LinePeer(Peer):
    """Newline-delimited JSON on the Unix socket."""

    kind = LINES

    def _begin(self) -> None:
        self._pending = bytearray()
        self._is_skipping = False
        transport = self._transport
        assert transport is not None
        raw = transport.get_extra_info("socket")
        uid = peer_uid(raw)
        host = host_of_user(uid)
        refusal = self._listeners.refusal(host, is_owner=uid == os.getuid())
        if refusal is not None:
            self.write(self.frame(encode_error(None, 0, refusal)))
            self._finish()
            return
        self.connection = self._listeners.admit(self, host=host, uid=uid)

    def _receive(self, data: bytes) -> None:
        connection = self.connection
        if connection is None or self._is_closing:
            return
        pending, bound = self._pending, self._listeners.limits.frame_bytes_max
        if not pending and data.endswith(b"\n") and not self._is_skipping:
            lines = data[:-1].split(b"\n")
            if len(lines) == 1:
                self._hear(lines[0])
                return
            peers = self._listeners.turns.peers
            if len(lines) <= peers.room(connection) and all(lines):  # one read holds less than a line may have
                heard = peers.hear_all(connection, lines, peers.now_ms())
                if heard < len(lines):
                    pending += b"\n".join(lines[heard:]) + b"\n"
                return
        pending += data
        start = 0
        while not connection.is_held and (end := pending.find(b"\n", start)) >= 0:
            line = bytes(pending[start:end])
            start = end + 1
            if self._is_skipping:
                self._is_skipping = False
            elif len(line) > bound:
                self._too_big(len(line))
            else:
                self._hear(line)
            if self._is_closing:
                return
        del pending[:start]
        if not connection.is_held and len(pending) > bound:
            if not self._is_skipping:
                self._too_big(len(pending))
                self._is_skipping = True
            pending.clear()

    def _hear_more(self) -> None:
        if self.connection is not None and self._pending:
            self._receive(b"")

    def _hear(self, line: bytes) -> None:
        if line and self.connection is not None:
            peers = self._listeners.turns.peers
            peers.hear(self.connection, line, peers.now_ms())

    def _too_big(self, size: int) -> None:
        bound = self._listeners.limits.frame_bytes_max
        self.close(CLOSE_TOO_BIG, f"a line of {size} bytes or more; at most {bound}")

    def eof_received(self) -> bool:
        """asyncio: the peer sent all it will send, and may still read: it is let go when all it asked is answered and
        written. Until then it is held, so that this is called again when answers have gone out and its socket would
        be read."""
        connection, turns = self.connection, self._listeners.turns
        self._watch()
        if connection is not None and connection.in_flight:
            turns.peers.hold(connection)
        elif connection is not None and turns.is_committing:
            turns.after_release(self._let_go)
        else:
            self._let_go()
            return False
        return True

    def _let_go(self) -> None:
        """All is answered; what the peer has not taken yet, it may take as slowly as any other."""
        self._finish()
        self._watch()

    def _watch(self, before: int = -1) -> None:
        """A peer that closed its half is cut when nothing of what it asked could be answered for 2 s, or when it took
        nothing of the answers for `drain_ms`: the system holds many of them, and takes no more until most are read."""
        left = self.buffered()
        if left == before:
            self.abort()
        else:
            seconds = self._listeners.limits.drain_ms / 1000 if left else CLOSE_WITHIN_S
            self._start_timer(seconds, lambda: self._watch(left))


class WebPeer(Peer):
    """WebSocket or HTTP on the TCP port."""

    kind = WEBSOCKET

    def _begin(self) -> None:
        self._head = bytearray()
        self._socket: ServerProtocol | None = None
        self._http: Exchange | None = None
        self._rest = bytearray()
        self._rest_wanted = 0
        self._fragments: list[bytes] = []
        self._fragment_bytes = 0
        self._decoder: IncrementalDecoder | None = None
        self._control_tokens = float(CONTROL_BURST)
        self._control_at = self._loop.time()
        self._is_alive = True
        transport = self._transport
        assert transport is not None
        name = transport.get_extra_info("peername")
        self._host = str(name[0]) if name else "?"
        raw = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._listeners.limits.drain_ms)
        limits = self._listeners.limits
        if self._listeners.unwelcomed > limits.connections_unauthenticated_max:
            reason = f"the hub holds {limits.connections_unauthenticated_max} connections without a hello"
            self._refuse(503, f"{reason} (connections_unauthenticated_max)", ("Retry-After", "1"))
            return
        self._start_timer(limits.hello_ms / 1000, self.abort)

    def frame(self, payload: bytes) -> bytes:
        """The payload as a text frame."""
        return text_frame(payload)

    def _receive(self, data: bytes) -> None:
        if self._is_closing:
            return
        if self._socket is not None:
            self._read_frames(data)
        elif self._http is not None:
            self._answer(data)
        else:
            self._read_head(data)

    def _read_head(self, data: bytes) -> None:
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end > HEAD_BYTES_MAX or (end < 0 and len(self._head) > HEAD_BYTES_MAX):
            self._refuse(431, f"the request head is over {HEAD_BYTES_MAX} bytes")
            return
        if end < 0:
            if not self._head[:1].isalpha():
                self._refuse(400, NO_HTTP)  # nothing more may come: a client that speaks TLS waits for an answer
            elif b"\n\n" in self._head:
                self._refuse(400, f"{NO_HTTP}: its lines must end with CR LF")
            return
        whole = bytes(self._head)
        self._head.clear()
        head = read_head(whole[: end + 2])
        if head is None:
            self._refuse(400, NO_HTTP)
            return
        verdict = self._listeners.gate.admit(head)
        if not isinstance(verdict, Admitted):
            self._refuse(verdict.status, verdict.reason)
            return
        if head.is_upgrade and head.path != WEBSOCKET_PATH:
            self._refuse(404, NOTHING_HERE)
        elif head.is_upgrade:
            self._upgrade(whole, end + 4, verdict)
        elif verdict.token is None and needs_token(head.path) and not is_loopback(self._host):
            self._refuse(401, "from another machine, figures need a token: Authorization: Bearer TOKEN")
        else:
            self._http = Exchange(self._listeners.page)
            self._answer(whole)

    def _refuse(self, status: int, reason: str, *headers: tuple[str, str]) -> None:
        self.write(plain_response(status, reason, headers=headers))
        self._finish()

    def _answer(self, data: bytes) -> None:
        assert self._http is not None
        self.write(self._http.receive(data))
        if self._http.is_done:
            self._finish()

    # WebSocket.

    def _upgrade(self, whole: bytes, head_bytes: int, verdict: Admitted) -> None:
        refusal = self._listeners.refusal(self._host)
        if refusal is not None:
            self._refuse(503, refusal.detail, ("Retry-After", "1"))
            return
        protocol = ServerProtocol(max_size=self._listeners.limits.frame_bytes_max, logger=_logger)
        protocol.receive_data(whole[:head_bytes])
        request = next(iter(protocol.events_received()), None)
        if not isinstance(request, HandshakeRequest):
            self._refuse(400, "not a WebSocket handshake")
            return
        response = protocol.accept(request)
        protocol.send_response(response)
        self._flush(protocol)
        if protocol.state is not WebSocketState.OPEN:
            self._finish()
            return
        self._socket = protocol
        self._stop_timer()
        self.connection = self._listeners.admit(self, host=self._host, uid=None, bearer=verdict.token)
        self._start_timer(PING_AFTER_S, self._keep_alive)
        if len(whole) > head_bytes:
            self._read_frames(whole[head_bytes:])

    def _read_frames(self, data: bytes) -> None:
        """Cut the stream into frames. Whole text frames, nearly all of them, are read here; everything else is the
        library's to judge, and it always gets a frame at a time, so both agree where the next one begins."""
        protocol, connection = self._socket, self.connection
        assert protocol is not None
        assert connection is not None
        self._is_alive = True
        if self._rest:
            self._rest += data
            if len(self._rest) < self._rest_wanted:
                return
            data = bytes(self._rest)
            self._rest.clear()
        peers, bound = self._listeners.turns.peers, self._listeners.limits.frame_bytes_max
        at, size, now_ms = 0, len(data), peers.now_ms()
        while at < size:
            if connection.is_held:  # what came together with the last frame that may be heard now
                self._rest += data[at:]
                self._rest_wanted = 0
                return
            if not self._fragments:
                start = at
                payloads, at = plain_texts(data, start, bound, peers.room(connection))
                if payloads:
                    heard = peers.hear_all(connection, payloads, now_ms)
                    if heard < len(payloads):
                        _, at = plain_texts(data, start, bound, heard)
                    if self._is_closing:
                        return
                    continue
            frame = frame_at(data, at)
            if frame is None:
                self._rest += data[at:]
                self._rest_wanted = 0
                return
            is_masked, _, length, end = frame
            if not is_masked or length > bound:
                protocol.receive_data(data[at:])
                self._take_events(protocol, connection)
                return
            if end > size:
                self._rest += data[at:]
                self._rest_wanted = end - at
                return
            if data[at] == PLAIN_TEXT and not self._fragments:
                self._hear_text(connection, unmasked(data, frame))
            else:
                peers.charge(connection, now_ms)
                protocol.receive_data(data[at:end])
                self._take_events(protocol, connection)
            if self._is_closing:
                return
            at = end

    def _hear_more(self) -> None:
        if self._rest and not self._rest_wanted and self.connection is not None and not self._is_closing:
            self._read_frames(b"")

    def _take_events(self, protocol: ServerProtocol, connection: "Connection") -> None:
        for event in protocol.events_received():
            assert isinstance(event, Frame)
            opcode = event.opcode
            if opcode in (Opcode.PING, Opcode.PONG):
                self._count_control()
            elif opcode is Opcode.CLOSE:
                break
            else:
                self._take_fragment(connection, event)
            if self._is_closing:
                return
        if protocol.writes:
            self._flush(protocol)
        if protocol.state is not WebSocketState.OPEN:
            self._finish()

    def _hear_text(self, connection: "Connection", data: bytes) -> None:
        try:
            data.decode()
        except UnicodeDecodeError:
            self.close(CLOSE_BAD_DATA, "text that is not UTF-8")
        else:
            self._hear(connection, data)

    def _hear(self, connection: "Connection", whole: bytes) -> None:
        peers = self._listeners.turns.peers
        peers.hear(connection, whole, peers.now_ms())

    def _take_fragment(self, connection: "Connection", event: Frame) -> None:
        """A piece of a message, or binary: text is checked while it arrives, and the pieces are counted."""
        limits = self._listeners.limits
        if event.opcode is not Opcode.CONT:
            self._fragments, self._fragment_bytes = [], 0
            self._decoder = getincrementaldecoder("utf-8")() if event.opcode is Opcode.TEXT else None
        self._fragments.append(bytes(event.data))
        self._fragment_bytes += len(event.data)
        if len(self._fragments) > limits.fragments_max:
            self.close(CLOSE_TOO_BIG, f"more than {limits.fragments_max} fragments in one message")
            return
        if self._fragment_bytes > limits.frame_bytes_max:
            self.close(CLOSE_TOO_BIG, f"fragments of more than {limits.frame_bytes_max} bytes in all")
            return
        if self._decoder is not None:
            try:
                self._decoder.decode(bytes(event.data), event.fin)
            except UnicodeDecodeError:
                self.close(CLOSE_BAD_DATA, "text that is not UTF-8")
                return
        if event.fin:
            whole, is_text = b"".join(self._fragments), self._decoder is not None
            self._fragments, self._fragment_bytes, self._decoder = [], 0, None
            if is_text:
                self._hear(connection, whole)
            else:
                self._listeners.turns.peers.hear_binary(connection)

    def _count_control(self) -> None:
        now = self._loop.time()
        self._control_tokens = min(CONTROL_BURST, self._control_tokens + (now - self._control_at) * CONTROL_PER_S)
        self._control_at = now
        self._control_tokens -= 1
        if self._control_tokens < 0:
            self.close(CLOSE_FLOOD, f"more than {CONTROL_PER_S} pings or pongs a second")

    def _keep_alive(self) -> None:
        """Ping a quiet peer; cut one that stays silent. A peer whose outbox is full is judged by its draining."""
        protocol, connection = self._socket, self.connection
        if protocol is None or self._is_closing or protocol.state is not WebSocketState.OPEN:
            return
        if connection is not None and (connection.is_stuck or connection.is_held):
            self._start_timer(PONG_WITHIN_S, self._keep_alive)
        elif self._is_alive:
            self._is_alive = False
            protocol.send_ping(b"synapse")
            self._flush(protocol)
            self._start_timer(PONG_WITHIN_S, self._keep_alive)
        else:
            self.abort()

    def _flush(self, protocol: ServerProtocol) -> None:
        for data in protocol.data_to_send():
            if data:
                self.write(data)

    def close(self, code: int, reason: str) -> None:
        """The close handshake, or 503 before there was any; cut after 2 s."""
        protocol = self._socket
        if self._is_closing or self._transport is None:
            return
        if protocol is None:
            self._refuse(503, reason, ("Retry-After", "1"))
            return
        if protocol.state is WebSocketState.OPEN:
            protocol.send_close(code, reason.encode()[:123].decode(errors="ignore"))
            self._flush(protocol)
        self._is_closing = True
        self._start_timer(CLOSE_WITHIN_S, self.abort)
        if self._transport.can_write_eof():
            with contextlib.suppress(OSError, RuntimeError):
                self._transport.write_eof()


def peer_host(raw: socket.socket) -> str:
    """The address of the host on the other end; `?` for one that is gone already."""
    try:
        return str(raw.getpeername()[0])
    except OSError:
        return "?"


def peer_user(raw: socket.socket) -> str:
    """What stands for the host on the other end of a Unix socket."""
    return host_of_user(peer_uid(raw))


def host_of_user(uid: int) -> str:
    """As `peer_user`, of the user."""
    return f"uid:{uid}"


def peer_uid(raw: socket.socket) -> int:
    """The user on the other end of a Unix socket; -1 where the system does not say."""
    if hasattr(socket, "SO_PEERCRED"):
        _pid, uid, _gid = struct.unpack("3i", raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return int(uid)
    local_peercred, xucred = 1, "2i h 16i"  # macOS: struct xucred of sys/ucred.h, level SOL_LOCAL = 0
    with contextlib.suppress(OSError):
        return int(struct.unpack(xucred, raw.getsockopt(0, local_peercred, struct.calcsize(xucred)))[1])
    return -1
