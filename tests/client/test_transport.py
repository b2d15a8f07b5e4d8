"""The real transports against small servers that misbehave, and fed byte by byte."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve

from synapse.client.home import Surroundings
from synapse.client.transport import FRAME_BYTES_MAX, READ_BYTES, WRITE_BYTES, HubDialer, LineTransport, PushTransport
from synapse.errors import Disconnected, HubUnreachable, PeerError

Serve: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def dialer(uri: str, token: str | None = None, **flags: str) -> HubDialer:
    return HubDialer(Surroundings({"uri": uri, **flags}, {}), token)


@contextlib.asynccontextmanager
async def line_server(path: Path, answer: Serve) -> AsyncIterator[str]:
    serving: set[asyncio.Task[None]] = set()

    async def and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await answer(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.get_running_loop().create_task(and_close(reader, writer)))

    server = await asyncio.start_unix_server(begin, path, limit=FRAME_BYTES_MAX)
    async with server:
        yield f"unix:{path}"
    if serving:
        await asyncio.wait(serving)


async def test_lines_go_out_and_come_in_whole(tmp_path: Path) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)

    async with line_server(tmp_path / "s", echo) as uri:
        transport = await dialer(uri)()
        assert isinstance(transport, LineTransport)
        for frame in (b"{}", b"x" * 300_000, "é".encode()):
            await transport.send(frame)
            assert await transport.receive() == frame
        await transport.aclose()
        with pytest.raises(Disconnected):
            await transport.receive()


async def test_a_line_that_was_cut_off_is_no_frame(tmp_path: Path) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"whole":1}\n{"cut":')

    async with line_server(tmp_path / "s", cut) as uri:
        transport = await dialer(uri)()
        assert await transport.receive() == b'{"whole":1}'
        with pytest.raises(Disconnected, match="1006 the hub closed the connection"):
            await transport.receive()
        await transport.aclose()


async def test_a_line_without_end_is_no_hub(tmp_path: Path) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * (FRAME_BYTES_MAX + 100_000))
        await reader.read()

    async with line_server(tmp_path / "s", endless) as uri:
        transport = await dialer(uri)()
        with pytest.raises(PeerError, match="the other side is no hub"):
            await transport.receive()
        await transport.aclose()


async def test_a_peer_that_never_reads_does_not_hold_up_the_close(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()

    async with line_server(tmp_path / "s", deaf) as uri:
        transport = await dialer(uri)()
        sending = asyncio.ensure_future(transport.send(b"x" * 20_000_000))
        await asyncio.wait({sending}, timeout=0.05)
        assert not sending.done()
        async with asyncio.timeout(10):
            await transport.aclose()
        with pytest.raises(Disconnected):
            await sending
        gone.set()


async def test_what_is_no_hub_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(HubUnreachable, match=r"no hub answers at unix:.*No such file"):
        await dialer(f"unix:{tmp_path / 'none'}", home=str(tmp_path))()

    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nkeep out\n")
        writer.close()

    server = await asyncio.start_server(http, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(HubUnreachable, match="HTTP status 403: keep out"):
            await dialer(f"ws://127.0.0.1:{port}")()


async def test_the_token_goes_where_it_is_needed_and_nowhere_else(tmp_path: Path) -> None:
    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    (tmp_path / "token").write_text("of the home\n")
    async with line_server(tmp_path / "s", nothing) as uri:
        for token, flags, told in (
            (None, {}, None),
            ("given", {}, "given"),
            (None, {"token_file": str(tmp_path / "token")}, "of the home"),
        ):
            dial = dialer(uri, token, home=str(tmp_path), **flags)
            transport = await dial()
            assert dial.token() == told
            await transport.aclose()

    async def silent(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with serve(silent, "127.0.0.1", 0) as sockets:
        port = next(iter(sockets.sockets)).getsockname()[1]
        dial = dialer(f"ws://127.0.0.1:{port}", home=str(tmp_path))
        transport = await dial()
        assert dial.token() == "of the home"
        await transport.aclose()


# pushed frames


class Socket(asyncio.Transport):
    """What asyncio gives a protocol, without a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.reads = True
        self.was_cut = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.was_cut

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def abort(self) -> None:
        self.was_cut = True

    def close(self) -> None:
        self.written.append(b"closed")


def plugged() -> tuple[LineTransport, Socket]:
    lines, socket = LineTransport(), Socket()
    lines.connection_made(socket)
    return lines, socket


def feed(lines: LineTransport, data: bytes) -> None:
    """Bytes come, as many at once as there is room for."""
    for start in range(0, len(data), READ_BYTES):
        piece = data[start : start + READ_BYTES]
        lines.get_buffer(-1)[: len(piece)] = piece
        lines.buffer_updated(len(piece))


async def pumping(lines: LineTransport, take: Callable[[bytes], None]) -> "asyncio.Task[None]":
    task = asyncio.ensure_future(lines.pump(take, lambda: None))
    await asyncio.sleep(0)
    return task


def test_the_real_transports_push() -> None:
    async def look() -> bool:
        return isinstance(plugged()[0], PushTransport)

    assert asyncio.run(look())


LINES = st.lists(st.binary(max_size=200).map(lambda line: line.replace(b"\n", b"")), max_size=20)


@given(LINES, st.lists(st.integers(0, 5_000), max_size=20), st.integers(0, 20))
def test_lines_are_the_same_wherever_the_stream_is_cut(lines: list[bytes], cuts: list[int], pumped_from: int) -> None:
    data = b"".join(line + b"\n" for line in lines)
    at = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in pairwise(at)]

    async def run() -> list[bytes]:
        transport, _ = plugged()
        heard: list[bytes] = []
        for piece in pieces[:pumped_from]:
            feed(transport, piece)
        pump = await pumping(transport, heard.append)
        for piece in pieces[pumped_from:]:
            feed(transport, piece)
        transport.connection_lost(None)
        with pytest.raises(Disconnected):
            await pump
        return heard

    assert asyncio.run(run()) == lines


async def test_frames_that_nobody_takes_are_kept_up_to_a_bound() -> None:
    transport, socket = plugged()
    line = b"x" * 10_000
    count = 0
    while socket.reads:
        feed(transport, line + b"\n")
        count += 1
    assert count == FRAME_BYTES_MAX // len(line) + 1
    for _ in range(count // 2):
        assert await transport.receive() == line
    assert not socket.reads
    heard: list[bytes] = []
    pump = await pumping(transport, heard.append)
    assert socket.reads
    assert heard == [line] * (count - count // 2)
    pump.cancel()
    await asyncio.wait({pump})
    feed(transport, b"later\n")
    assert await transport.receive() == b"later"


async def test_a_frame_that_is_refused_ends_the_connection_and_the_ones_behind_it_are_not_looked_at() -> None:
    transport, socket = plugged()
    heard: list[bytes] = []

    def take(frame: bytes) -> None:
        heard.append(frame)
        if frame == b"bad":
            raise PeerError("no frame")

    pump = await pumping(transport, take)
    feed(transport, b"good\nbad\nunseen\n")
    with pytest.raises(PeerError, match="no frame"):
        await pump
    assert heard == [b"good", b"bad"]
    assert socket.was_cut
    with pytest.raises(PeerError):
        transport.post(b"{}")


async def test_what_is_posted_in_one_step_is_one_write_and_little_is_kept_for_it() -> None:
    transport, socket = plugged()
    assert transport.post(b"one")
    assert transport.post(b"two")
    assert not socket.written
    await asyncio.sleep(0)
    assert socket.written == [b"one\ntwo\n"]
    assert transport.post(b"x" * WRITE_BYTES)
    assert len(socket.written) == 2


async def test_what_was_posted_is_written_before_the_socket_closes() -> None:
    transport, socket = plugged()
    transport.post(b"last")
    asyncio.get_running_loop().call_soon(transport.connection_lost, None)
    await transport.aclose()
    assert socket.written == [b"last\n", b"closed"]


async def test_a_peer_that_does_not_read_gets_no_more_until_it_does() -> None:
    transport, socket = plugged()
    told: list[bool] = []
    pump = asyncio.ensure_future(transport.pump(lambda _: None, lambda: told.append(transport.post(b"first"))))
    await asyncio.sleep(0)
    assert told == [True]
    transport.pause_writing()
    assert not transport.post(b"no room")
    sending = asyncio.ensure_future(transport.send(b"waits"))
    await asyncio.sleep(0)
    assert socket.written == [b"first\n"]
    transport.resume_writing()
    assert told == [True, True]
    await sending
    assert b"".join(socket.written) == b"first\nfirst\nwaits\n"
    transport.pause_writing()
    sending = asyncio.ensure_future(transport.send(b"never"))
    await asyncio.sleep(0)
    transport.connection_lost(BrokenPipeError(32, "Broken pipe"))
    for waiting in (sending, pump):
        with pytest.raises(Disconnected, match=r"the connection was lost \(Broken pipe\)"):
            await waiting
    assert b"".join(socket.written) == b"first\nfirst\nwaits\n"


async def test_a_fault_in_whoever_takes_frames_comes_out_of_the_pump(tmp_path: Path) -> None:
    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"{}\n")

    def take(_: bytes) -> None:
        raise ZeroDivisionError

    logged: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context.get("exception")))
    async with line_server(tmp_path / "s", say) as uri:
        transport = await dialer(uri)()
        assert isinstance(transport, LineTransport)
        with pytest.raises(ZeroDivisionError):
            await transport.pump(take, lambda: None)
        await transport.aclose()
    assert [type(error) for error in logged] == [ZeroDivisionError]
