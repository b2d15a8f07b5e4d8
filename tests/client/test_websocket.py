"""The WebSocket against the library's own server, and against servers that misbehave."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from synapse.client.home import Surroundings
from synapse.client.transport import FRAME_BYTES_MAX, HubDialer, PushTransport
from synapse.client.websocket import WebSocketTransport, open_websocket
from synapse.errors import Disconnected, PeerError
from synapse.protocol.codes import CLOSE_NAME_TAKEN

AROUND = Surroundings({}, {"HOME": "/nowhere"})
Answer = Callable[[ServerConnection], Awaitable[None]]
Say = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def served(answer: Answer) -> AsyncIterator[str]:
    """A server of the library's own."""
    async with serve(answer, "127.0.0.1", 0, max_size=None) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


@contextlib.asynccontextmanager
async def raw(say: Say, *, shakes_hands: bool = True) -> AsyncIterator[str]:
    """A server that shakes hands as it should, and then does what it wants."""
    serving: set[asyncio.Task[None]] = set()

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if shakes_hands:
            protocol = ServerProtocol()
            protocol.receive_data(head)
            (request,) = protocol.events_received()
            protocol.send_response(protocol.accept(request))  # type: ignore[arg-type]  # the first event is the request
            writer.write(b"".join(protocol.data_to_send()))
        await say(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.get_running_loop().create_task(begin(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    if serving:
        await asyncio.wait(serving)


def of_server(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=False)


async def received(frames: bytes) -> list[bytes]:
    """What a client hears of these bytes; raises how it ended."""
    heard: list[bytes] = []

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frames)
        if frames:
            with contextlib.suppress(OSError):
                await reader.read()  # the client goes first

    async with raw(say) as uri, asyncio.timeout(10):
        transport = await open_websocket(uri, AROUND)
        try:
            await transport.pump(heard.append, lambda: None)
        except Disconnected as lost:
            if lost.code != CLOSE_NAME_TAKEN:
                raise
        finally:
            await transport.aclose()
    return heard


END = of_server(Opcode.CLOSE, CLOSE_NAME_TAKEN.to_bytes(2, "big") + b"taken")


async def test_text_frames_go_out_and_come_in_and_the_close_code_is_told() -> None:
    async def echo(connection: ServerConnection) -> None:
        for _ in range(3):
            await connection.send(await connection.recv())
        await connection.close(CLOSE_NAME_TAKEN, "taken")

    async with served(echo) as uri:
        transport = await HubDialer(Surroundings({"uri": uri}, {}), None)()
        assert isinstance(transport, WebSocketTransport)
        assert isinstance(transport, PushTransport)
        for frame in ("é".encode(), b"x" * 300, b"x" * 300_000):
            await transport.send(frame)
            assert await transport.receive() == frame
        with pytest.raises(Disconnected) as closed:
            await transport.receive()
        assert (closed.value.code, closed.value.reason) == (CLOSE_NAME_TAKEN, "taken")
        with pytest.raises(Disconnected):
            await transport.send(b"{}")
        await transport.aclose()


async def test_pieces_of_a_message_are_put_together_with_pings_in_between() -> None:
    pieces = of_server(Opcode.TEXT, b"one ", fin=False) + of_server(Opcode.PING, b"?")
    pieces += of_server(Opcode.CONT, b"and ", fin=False) + of_server(Opcode.CONT, b"two")
    assert await received(pieces + of_server(Opcode.TEXT, b"three") + END) == [b"one and two", b"three"]


async def test_what_breaks_the_protocol_loses_the_connection() -> None:
    for frames in (
        Frame(Opcode.TEXT, b"masked").serialize(mask=True),
        of_server(Opcode.CONT, b"of nothing"),
        of_server(Opcode.TEXT, b"x" * (FRAME_BYTES_MAX + 1)),
        b"",
    ):
        with pytest.raises(Disconnected, match="1006 the connection was lost"):
            await received(frames)


async def test_a_binary_frame_comes_from_no_hub() -> None:
    with pytest.raises(PeerError, match="binary frame"):
        await received(of_server(Opcode.TEXT, b"{}") + of_server(Opcode.BINARY, b"{}"))


async def test_what_is_asked_is_masked_and_pings_are_answered() -> None:
    pongs: list[object] = []

    async def ping(connection: ServerConnection) -> None:
        pongs.append(await (await connection.ping(b"?")))
        await connection.send("answered")
        assert await connection.recv() == "asked"
        await connection.send("told")
        await connection.wait_closed()

    async with served(ping) as uri, asyncio.timeout(10):  # a later ping of the client's would take the pong along
        transport = await open_websocket(uri, AROUND)
        assert await transport.receive() == b"answered"
        assert transport.post(b"asked")
        assert await transport.receive() == b"told"
        assert len(pongs) == 1
        await transport.aclose()


async def test_the_server_hears_a_goodbye() -> None:
    codes: list[int | None] = []

    async def wait(connection: ServerConnection) -> None:
        await connection.wait_closed()
        codes.append(connection.close_code)

    async with served(wait) as uri:
        transport = await open_websocket(uri, AROUND)
        await transport.aclose()
        await transport.aclose()
    assert codes == [1000]


async def test_a_peer_that_never_reads_does_not_hold_up_the_close() -> None:
    gone = asyncio.Event()

    async def deaf(*_: object) -> None:
        await gone.wait()

    async with raw(deaf) as uri:
        transport = await open_websocket(uri, AROUND)
        sending = asyncio.ensure_future(transport.send(b"x" * 20_000_000))
        await asyncio.wait({sending}, timeout=0.05)
        assert not sending.done()
        async with asyncio.timeout(10):
            await transport.aclose()
        with pytest.raises(Disconnected):
            await sending
        gone.set()


async def test_silence_is_pinged_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synapse.client.websocket.PING_S", 0.05)
    asked: list[bytes] = []

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            asked.append(data)

    async with raw(silent) as uri:
        transport = await open_websocket(uri, AROUND)
        with pytest.raises(Disconnected, match=r"no answer to a ping within 0\.05 s"):
            await transport.receive()
        await transport.aclose()
    assert asked[0][:2] == bytes([0x89, 0x80 | len(b"synapse")])


async def test_a_quiet_hub_that_answers_pings_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synapse.client.websocket.PING_S", 0.05)

    async def quiet(connection: ServerConnection) -> None:
        await asyncio.sleep(0.5)
        await connection.send("still there")
        await connection.wait_closed()

    async with served(quiet) as uri:
        transport = await open_websocket(uri, AROUND)
        assert await transport.receive() == b"still there"
        await transport.aclose()


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", InvalidStatus, "403"),
        (b"HTTP/1.1 302 Found\r\nLocation: ws://elsewhere/\r\nContent-Length: 0\r\n\r\n", InvalidStatus, "302"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", InvalidHandshake, "did not receive a valid HTTP response"),
        (b"", InvalidHandshake, "did not receive a valid HTTP response"),
    ],
)
async def test_a_handshake_that_fails_says_how(answer: bytes, error: type[Exception], says: str) -> None:
    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    async with raw(refuse, shakes_hands=False) as uri:
        with pytest.raises(error, match=says):
            await open_websocket(uri, AROUND)


async def test_a_handshake_that_is_given_up_leaves_no_connection() -> None:
    ended = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        ended.set()

    async with raw(silent, shakes_hands=False) as uri:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await open_websocket(uri, AROUND)
        async with asyncio.timeout(10):
            await ended.wait()


async def test_what_is_told_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def echo(connection: ServerConnection) -> None:
        await connection.send(await connection.recv())
        await connection.wait_closed()

    async with served(echo) as uri:
        transport = await open_websocket(uri, AROUND)
        await transport.send(b"the token")
        assert await transport.receive() == b"the token"
        await transport.aclose()
    of_client = [record.getMessage() for record in caplog.records if record.name.startswith("synapse")]
    assert not [text for text in of_client if "token" in text]
