"""Bytes to and from a hub: the seam below the client, and its two real forms, lines and text frames.

A test or a simulation gives the client a `dial` of its own; whatever it returns has the shape of `Transport`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from synapse import __version__
from synapse.client.home import UNIX, Surroundings, Whereabouts, find_hub, unreachable
from synapse.errors import Disconnected, PeerError

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

FRAME_BYTES_MAX: Final = 1 << 20
"""Four times what a hub sends: beyond it the other side is no hub."""
LOST: Final = 1006
"""The close code of a connection that ended without one (RFC 6455)."""
CLOSE_S: Final = 1.0
"""How long a goodbye may take before the connection is cut."""


class Transport(Protocol):
    """One connection to a hub, whole frames at a time, without their newline."""

    async def send(self, frame: bytes, /) -> None:
        """Send one frame; waits while the peer does not read. Raises `Disconnected`."""

    async def receive(self) -> bytes:
        """The next frame. Raises `Disconnected` when no more will come, `PeerError` for what is no frame."""

    async def aclose(self) -> None:
        """Let the connection go. Does not wait for a peer that does not answer."""


Dial: TypeAlias = Callable[[], Awaitable[Transport]]
"""Makes a new connection. Raises `HubUnreachable`, or `Disconnected`."""


class LineTransport:
    """Newline-delimited JSON on a Unix socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, frame: bytes, /) -> None:
        """Send one line; see `Transport`."""
        assert b"\n" not in frame, "a frame is one line"
        try:
            self._writer.write(frame + b"\n")
            await self._writer.drain()
        except OSError as error:
            raise Disconnected(LOST, f"the connection was lost ({error.strerror or error})") from error
        if self._writer.is_closing():  # closed from this side while it waited: asyncio calls that drained
            raise Disconnected(LOST, "the connection was closed from this side")

    async def receive(self) -> bytes:
        """The next line; one that was cut off by the end of the connection is dropped."""
        try:
            line = await self._reader.readuntil()
        except asyncio.IncompleteReadError:
            raise Disconnected(LOST, "the hub closed the connection") from None
        except asyncio.LimitOverrunError as error:
            raise PeerError(f"a line longer than {FRAME_BYTES_MAX} bytes: the other side is no hub") from error
        except OSError as error:
            raise Disconnected(LOST, f"the connection was lost ({error.strerror or error})") from error
        return line[:-1]

    async def aclose(self) -> None:
        """Let the connection go; what a stuck peer does not take within a second is dropped."""
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._writer.wait_closed()
        except OSError:  # its own failure, and TimeoutError
            return
        finally:
            self._writer.transport.abort()


class WebSocketTransport:
    """Text frames on a WebSocket."""

    def __init__(self, connection: "ClientConnection") -> None:
        self._connection = connection

    async def send(self, frame: bytes, /) -> None:
        """Send one text frame; see `Transport`."""
        from websockets.exceptions import ConnectionClosed

        try:
            await self._connection.send(frame, text=True)
        except ConnectionClosed as error:
            raise _closed(error) from error

    async def receive(self) -> bytes:
        """The next text frame."""
        from websockets.exceptions import ConnectionClosed

        try:
            return await self._connection.recv(decode=False)
        except ConnectionClosed as error:
            raise _closed(error) from error

    async def aclose(self) -> None:
        """Say goodbye, or cut the connection when that takes longer than `CLOSE_S`."""
        await self._connection.close()


def _closed(error: Exception) -> Disconnected:
    from websockets.exceptions import ConnectionClosed

    assert isinstance(error, ConnectionClosed)
    close = error.rcvd
    if close is None:
        return Disconnected(LOST, "the connection was lost")
    return Disconnected(close.code, close.reason)


class HubDialer:
    """Dials the hub that the surroundings name, as hub.json says at that time: one that came back may have moved."""

    def __init__(self, around: Surroundings, token: str | None) -> None:
        """token: told instead of the one that the surroundings name."""
        self._around = around
        self._token = token
        self._where: Whereabouts | None = None

    def token(self) -> str | None:
        """The token for the hub dialled last: over its Unix socket none is needed, unless a file was named.

        Raises `HomeRefused` for a token file that was named and cannot be read.
        """
        if self._token is not None:
            return self._token
        where, around = self._where, self._around
        if where is None or (where.uri.startswith(UNIX) and around.get("token_file") is None):
            return None
        return around.token()

    async def __call__(self) -> Transport:
        """A new connection. Raises `HubUnreachable`, `ValueError` for a URI that is none."""
        where = self._where = find_hub(self._around)
        if not where.uri.startswith(UNIX):
            return await self._dial_websocket(where)
        try:
            path = where.uri.removeprefix(UNIX)
            return LineTransport(*await asyncio.open_unix_connection(path, limit=FRAME_BYTES_MAX))
        except OSError as error:
            raise unreachable(self._around, where, error.strerror or str(error)) from error

    async def _dial_websocket(self, where: Whereabouts) -> Transport:
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI

        logger = logging.getLogger("synapse.client.websocket")
        logger.setLevel(logging.INFO)  # at DEBUG the library writes frames, and with them the token, into the log
        try:
            connection = await connect(
                where.uri,
                compression=None,
                proxy=None,
                max_size=FRAME_BYTES_MAX,
                open_timeout=None,
                close_timeout=CLOSE_S,
                logger=logger,
                user_agent_header=f"synapse-python/{__version__}",
            )
        except InvalidURI as error:
            raise ValueError(str(error)) from error
        except InvalidStatus as error:
            raise unreachable(self._around, where, f"HTTP status {error.response.status_code}") from error
        except (InvalidHandshake, EOFError) as error:
            raise unreachable(self._around, where, f"no WebSocket: {error}") from error
        except OSError as error:
            raise unreachable(self._around, where, error.strerror or str(error) or "no answer") from error
        return WebSocketTransport(connection)
