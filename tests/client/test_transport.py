"""The real transports against small servers that misbehave."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from websockets.asyncio.server import ServerConnection, serve

from synapse.client.home import Surroundings
from synapse.client.transport import FRAME_BYTES_MAX, HubDialer, LineTransport, WebSocketTransport
from synapse.errors import Disconnected, HubUnreachable, PeerError
from synapse.protocol.codes import CLOSE_NAME_TAKEN

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


async def test_text_frames_go_out_and_come_in_and_the_close_code_is_told() -> None:
    async def echo(connection: ServerConnection) -> None:
        await connection.send(await connection.recv())
        await connection.close(CLOSE_NAME_TAKEN, "taken")

    async with serve(echo, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        transport = await dialer(f"ws://127.0.0.1:{port}")()
        assert isinstance(transport, WebSocketTransport)
        await transport.send("é".encode())
        assert await transport.receive() == "é".encode()
        with pytest.raises(Disconnected) as closed:
            await transport.receive()
        assert (closed.value.code, closed.value.reason) == (CLOSE_NAME_TAKEN, "taken")
        with pytest.raises(Disconnected):
            await transport.send(b"{}")
        await transport.aclose()


async def test_what_is_no_hub_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(HubUnreachable, match=r"no hub answers at unix:.*No such file"):
        await dialer(f"unix:{tmp_path / 'none'}", home=str(tmp_path))()

    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(http, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(HubUnreachable, match="HTTP status 403"):
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
