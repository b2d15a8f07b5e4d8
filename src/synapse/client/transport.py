"""Bytes to and from a hub: the seam below the client, and what its two real forms, lines and text frames, share.

A test or a simulation gives the client a `dial` of its own; whatever it returns has the shape of `Transport`. The real
ones can do more: they need not be asked for each frame, and take one without a wait. That is a `PushTransport`.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeAlias, cast, runtime_checkable

from synapse.client.home import UNIX, Surroundings, Whereabouts, find_hub, refused_with, unreachable
from synapse.errors import Disconnected, PeerError

FRAME_BYTES_MAX: Final = 1 << 20
"""Four times what a hub sends: beyond it the other side is no hub."""
WRITE_BYTES: Final = 64 * 1024
"""So much may be posted in one step of the loop before it is written."""
READ_BYTES: Final = 32 * 1024
"""What is read at once: consumers run between two reads."""
LOST: Final = 1006
"""The close code of a connection that ended without one (RFC 6455)."""
CLOSE_S: Final = 1.0
"""How long a goodbye may take before the connection is cut."""

Take: TypeAlias = Callable[[bytes], None]
"""Is given each frame as it comes."""
OnRoom: TypeAlias = Callable[[], None]
"""Is told that the peer reads."""


class Transport(Protocol):
    """One connection to a hub, whole frames at a time, without their newline."""

    async def send(self, frame: bytes, /) -> None:
        """Send one frame; waits while the peer does not read. Raises `Disconnected`."""

    async def receive(self) -> bytes:
        """The next frame. Raises `Disconnected` when no more will come, `PeerError` for what is no frame."""

    async def aclose(self) -> None:
        """Let the connection go. Does not wait for a peer that does not answer."""


@runtime_checkable
class PushTransport(Transport, Protocol):
    """A transport that spares the client a task switch for each frame, and a wait for each request."""

    def post(self, frame: bytes, /) -> bool:
        """Send one frame, or do nothing and say False while the peer does not read. Raises `Disconnected`."""

    async def pump(self, take: Take, on_room: OnRoom, /) -> None:
        """Give each frame to `take` as it comes, instead of `receive`. Raises as that does, and what `take` raises.

        on_room: called at the beginning, and each time that the peer reads again, before `post` takes anything else.
        """


Dial: TypeAlias = Callable[[], Awaitable[Transport]]
"""Makes a new connection. Raises `HubUnreachable`, or `Disconnected`."""


class Stream(asyncio.BufferedProtocol, ABC):
    """A socket to a hub. Subclasses say where frames begin and end.

    Rule 1: what comes goes straight to `take`; with nobody to take it, little is kept and then no more is read. Rule 2:
    while the peer does not read, at most one frame beyond the write buffer's bound is held here.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray(READ_BYTES)
        self._view = memoryview(self._buffer)
        self._take: Take = self._keep
        self._on_room: OnRoom | None = None
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._is_full = False
        self._unwritten: list[bytes] = []
        self._unwritten_bytes = 0
        self._end: Exception | None = None
        self._came = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_over = asyncio.Event()
        self._is_gone = asyncio.Event()

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the socket is there."""
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """asyncio: where to read to."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio: bytes came."""
        try:
            self._split(nbytes)
        except PeerError as error:
            self._finish(error)
            self.cut()

    def eof_received(self) -> None:
        """asyncio: the hub will send no more."""
        self._finish(self._end_of_input())

    def pause_writing(self) -> None:
        """asyncio: the peer does not keep up."""
        self._is_full = True
        self._has_room.clear()

    def resume_writing(self) -> None:
        """asyncio: the peer reads again."""
        self._is_full = False
        self._has_room.set()
        if self._on_room is not None:
            self._on_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the socket is gone. exc: the socket's, or one that `take` raised."""
        if exc is None:
            self._finish(self._end_of_input())
        elif isinstance(exc, OSError):
            self._finish(Disconnected(LOST, f"the connection was lost ({exc.strerror or exc})"))
        else:
            self._finish(exc)
        self._is_gone.set()

    # What subclasses fill in.

    @abstractmethod
    def _split(self, nbytes: int) -> None:
        """So many bytes came into the buffer: give each frame that is whole to `_take`. Raises `PeerError`."""

    @abstractmethod
    def _framed(self, frame: bytes) -> bytes:
        """The bytes of one frame."""

    def _end_of_input(self) -> Disconnected:
        return Disconnected(LOST, "the hub closed the connection")

    # The client's side (`PushTransport`).

    def post(self, frame: bytes, /) -> bool:
        """Send one frame unless the peer does not read; see `PushTransport`."""
        if self._end is not None:
            raise self._end
        if self._is_full:
            return False
        assert self._transport is not None, "asyncio connects it before it is used"
        framed = self._framed(frame)
        if not self._unwritten:
            asyncio.get_running_loop().call_soon(self._write_out)
        self._unwritten.append(framed)
        self._unwritten_bytes += len(framed)
        if self._unwritten_bytes > WRITE_BYTES:
            self._write_out()
        return True

    async def send(self, frame: bytes, /) -> None:
        """Send one frame; see `Transport`."""
        while not self.post(frame):
            await self._has_room.wait()
        self._write_out()
        await self._has_room.wait()
        if self._end is not None:
            raise self._end

    async def receive(self) -> bytes:
        """The next frame; one that was cut off by the end of the connection is dropped."""
        while not self._kept:
            if self._end is not None:
                raise self._end
            self._came.clear()
            await self._came.wait()
        frame = self._kept.popleft()
        self._kept_bytes -= len(frame)
        if self._kept_bytes <= FRAME_BYTES_MAX // 2:
            self._hold_reading(hold=False)
        return frame

    async def pump(self, take: Take, on_room: OnRoom, /) -> None:
        """Give each frame to `take` as it comes; see `PushTransport`."""
        while self._kept:
            take(await self.receive())
        self._take, self._on_room = take, on_room
        try:
            if not self._is_full:
                on_room()
            await self._is_over.wait()
        finally:
            self._take, self._on_room = self._keep, None
        assert self._end is not None, "what is over has an end"
        raise self._end

    async def aclose(self) -> None:
        """Let the connection go; what a stuck peer does not take within a second is dropped."""
        self._write_out()
        self._finish(Disconnected(LOST, "the connection was closed from this side"))
        self._begin_close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._is_gone.wait()
        except TimeoutError:
            return
        finally:
            self.cut()

    def cut(self) -> None:
        """Let the connection go at once, whatever was not sent yet."""
        if self._transport is not None:
            self._transport.abort()

    def _begin_close(self) -> None:
        assert self._transport is not None, "asyncio connects it before it is used"
        self._transport.close()

    # Inside.

    def _write_out(self) -> None:
        """Write what was posted in this step of the loop, at once."""
        if not self._unwritten:
            return
        data = self._unwritten[0] if len(self._unwritten) == 1 else b"".join(self._unwritten)
        self._unwritten.clear()
        self._unwritten_bytes = 0
        assert self._transport is not None, "asyncio connects it before it is used"
        self._transport.write(data)

    def _keep(self, frame: bytes) -> None:
        """Nobody takes frames now: they wait to be asked for, but for those of a time after the end."""
        if self._end is not None:
            return
        self._kept.append(frame)
        self._kept_bytes += len(frame)
        self._came.set()
        if self._kept_bytes > FRAME_BYTES_MAX:
            self._hold_reading(hold=True)

    def _hold_reading(self, *, hold: bool) -> None:
        transport = self._transport
        assert transport is not None, "asyncio connects it before it is used"
        if transport.is_closing():
            return
        if hold:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def _finish(self, end: Exception) -> None:
        """No more will come: whoever waits is told."""
        if self._end is None:
            self._end = end
            for event in (self._came, self._has_room, self._is_over):
                event.set()


class LineTransport(Stream):
    """Newline-delimited JSON on a Unix socket."""

    def __init__(self) -> None:
        super().__init__()
        self._partial = bytearray()

    def _framed(self, frame: bytes) -> bytes:
        assert b"\n" not in frame, "a frame is one line"
        return frame + b"\n"

    def _split(self, nbytes: int) -> None:
        buffer, view, start = self._buffer, self._view, 0
        end = buffer.find(b"\n", 0, nbytes)
        while end >= 0:
            line = bytes(view[start:end])
            if self._partial:
                line = bytes(self._partial) + line
                self._partial.clear()
            self._take(line)
            start = end + 1
            end = buffer.find(b"\n", start, nbytes)
        if start < nbytes:
            self._partial += view[start:nbytes]
            if len(self._partial) > FRAME_BYTES_MAX:
                raise PeerError(f"a line longer than {FRAME_BYTES_MAX} bytes: the other side is no hub")


class HubDialer:
    """Dials the hub that the surroundings name, as hub.json says at that time: one that came back may have moved."""

    def __init__(self, around: Surroundings, token: str | None) -> None:
        """token: told instead of the one that the surroundings name."""
        self._around = around
        self._token = token
        self._where: Whereabouts | None = None

    def token(self) -> str | None:
        """The token for the hub dialled last. Raises `HomeRefused` for a file of it that cannot be read."""
        if self._token is not None or self._where is None:
            return self._token
        return self._around.token(self._where.uri)

    async def __call__(self) -> Transport:
        """A new connection. Raises `HubUnreachable`, `ValueError` for a URI that is none."""
        where = self._where = find_hub(self._around)
        if not where.uri.startswith(UNIX):
            return await self._dial_websocket(where)
        try:
            path = where.uri.removeprefix(UNIX)
            _, lines = await asyncio.get_running_loop().create_unix_connection(LineTransport, path)
        except OSError as error:
            raise unreachable(self._around, where, error.strerror or str(error)) from error
        return lines

    async def _dial_websocket(self, where: Whereabouts) -> Transport:
        from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI

        from synapse.client.tls import distrust
        from synapse.client.websocket import open_websocket

        try:
            return await open_websocket(where.uri, self._around)
        except InvalidURI as error:
            raise ValueError(str(error)) from error
        except InvalidStatus as error:
            raise unreachable(
                self._around, where, refused_with(error.response.status_code, error.response.body)
            ) from error
        except InvalidHandshake as error:
            raise unreachable(self._around, where, f"no WebSocket: {error}") from error
        except OSError as error:
            raise unreachable(self._around, where, distrust(error)) from error
