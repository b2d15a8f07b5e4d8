"""Text frames on a WebSocket: websockets' sans-I/O protocol under a `Stream`, without the tasks of its asyncio layer.

What that layer would do is done here: the handshake's end, fragments, pings, and the closing handshake. No redirect is
followed: a hub sends none, and the token is for this one.
"""

import asyncio
import logging
from contextlib import ExitStack
from typing import Final

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import WebSocketURI, parse_uri

from synapse import __version__
from synapse.client.home import Surroundings
from synapse.client.tls import client_context
from synapse.client.transport import FRAME_BYTES_MAX, LOST, Stream
from synapse.errors import Disconnected, PeerError
from synapse.protocol.codes import CLOSE_NORMAL

PING_S: Final = 20.0
"""So often the hub is pinged, and when nothing at all came since the last ping, the connection is given up."""

_logger = logging.getLogger("synapse.client.websocket")
_logger.setLevel(logging.INFO)
"""Given to websockets, which at DEBUG would write frames, and with them the token, into the log."""


class WebSocketTransport(Stream):
    """Text frames on a WebSocket."""

    def __init__(self, uri: WebSocketURI) -> None:
        super().__init__()
        self._protocol = ClientProtocol(uri, max_size=FRAME_BYTES_MAX, logger=_logger)
        self._fragments: list[bytes] = []
        self._is_answered = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._is_alive = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the socket is there."""
        super().connection_made(transport)
        request = self._protocol.connect()
        request.headers["User-Agent"] = f"synapse-python/{__version__}"
        self._protocol.send_request(request)
        self._flush()

    async def opened(self) -> None:
        """Wait for the end of the handshake. Raises `InvalidHandshake`."""
        await self._is_answered.wait()
        if self._protocol.handshake_exc is not None:
            raise self._protocol.handshake_exc
        self._timer = asyncio.get_running_loop().call_later(PING_S, self._keep_alive)

    def _framed(self, frame: bytes) -> bytes:
        self._protocol.send_text(frame)
        return b"".join(self._protocol.data_to_send())

    def _split(self, nbytes: int) -> None:
        protocol, self._is_alive = self._protocol, True
        protocol.receive_data(bytes(self._view[:nbytes]))
        if protocol.writes:
            self._flush()
        for event in protocol.events_received():
            if isinstance(event, Frame):
                self._hear(event)
            else:
                self._is_answered.set()
        if protocol.parser_exc is not None:
            self._finish(Disconnected(LOST, f"the connection was lost ({protocol.parser_exc})"))

    def _hear(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.BINARY:
            raise PeerError("the other side sent a binary frame: it is no hub")
        if opcode is Opcode.CLOSE:
            self._finish(self._end_of_input())
        elif opcode is Opcode.TEXT or opcode is Opcode.CONT:
            whole = bytes(frame.data)
            if self._fragments or not frame.fin:
                self._fragments.append(whole)
                whole = b"".join(self._fragments)
            if frame.fin:
                self._fragments.clear()
                self._take(whole)

    def _flush(self) -> None:
        """What the protocol has to say by itself; its end of the stream is that of the socket, which closes anyway."""
        assert self._transport is not None, "asyncio connects it before it is used"
        self._transport.write(b"".join(self._protocol.data_to_send()))

    def _keep_alive(self) -> None:
        if not self._is_alive:
            self._finish(Disconnected(LOST, f"the connection was lost (no answer to a ping within {PING_S:g} s)"))
            self.cut()
            return
        self._is_alive = False
        self._protocol.send_ping(b"synapse")
        self._flush()
        self._timer = asyncio.get_running_loop().call_later(PING_S, self._keep_alive)

    def _end_of_input(self) -> Disconnected:
        close = self._protocol.close_rcvd
        if close is None:
            return Disconnected(LOST, "the connection was lost")
        return Disconnected(close.code, close.reason)

    def _finish(self, end: Exception) -> None:
        super()._finish(end)
        if self._timer is not None:
            self._timer.cancel()
        if not self._is_answered.is_set():
            self._protocol.receive_eof()
            self._is_answered.set()

    def _begin_close(self) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(CLOSE_NORMAL)
            self._flush()  # the hub answers and closes the socket
        else:
            super()._begin_close()


async def open_websocket(uri: str, around: Surroundings) -> WebSocketTransport:
    """Connect and shake hands. Raises `InvalidURI`, OSError, `InvalidHandshake`, `HomeRefused` for no CA."""
    where = parse_uri(uri)
    ssl, name = (client_context(around), where.host) if where.secure else (None, None)
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: WebSocketTransport(where), where.host, where.port, ssl=ssl, server_hostname=name
    )
    with ExitStack() as stack:
        stack.callback(connection.cut)
        await connection.opened()
        stack.pop_all()
    return connection
