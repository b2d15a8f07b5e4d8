"""Framings over real sockets: what peers send that they should not, and what they do with their half of a socket."""

import ast
import asyncio
import importlib
import socket
from pathlib import Path

import msgspec
import pytest
from tests.hub.conftest import (
    HANDSHAKE,
    SECRET,
    Web,
    direct,
    doors,
    error_of,
    knock,
    line,
    message,
    reply_of,
    slow_writer,
    steps,
    text_of,
    upgrade,
    voice,
    web,
)
from websockets.frames import Frame, Opcode

from synapse.hub import wire
from synapse.hub.listeners import Listeners
from synapse.protocol.codec import decode_hub_frame, encode_request
from synapse.protocol.commands import (
    Hello,
    ListAgents,
    Ping,
    ReadHistory,
    SendMessage,
    ShowStatus,
    Subscribe,
    TakeInbox,
)
from synapse.protocol.limits import Limits
from synapse.protocol.notices import Closing, Message
from synapse.protocol.replies import History, Pong, Sent, Status, Subscribed, Welcome
from synapse.testing import TOKEN, MemoryHub

HELLO = encode_request("h", Hello(name="ada", secret=f"ada: {SECRET}"))
SHORT = Limits(hello_ms=100)


def test_every_name_of_websockets_that_the_hub_uses_is_there() -> None:
    tree = ast.parse(Path(wire.__file__).read_text("utf-8"))
    used = [
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("websockets")
        for alias in node.names
    ]
    assert used == [
        ("websockets.frames", "Frame"),
        ("websockets.frames", "Opcode"),
        ("websockets.http11", "Request"),
        ("websockets.protocol", "State"),
        ("websockets.server", "ServerProtocol"),
    ]
    for module, name in used:
        assert hasattr(importlib.import_module(module), name)


# the handshake


async def test_a_handshake_by_the_book_opens_and_compression_is_never_agreed(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        peer = await upgrade(listeners, "Sec-WebSocket-Extensions: permessage-deflate", "Origin: null")
        assert peer.head.startswith("HTTP/1.1 403 ")
        peer = await upgrade(listeners, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
        assert peer.head.startswith("HTTP/1.1 101 ")
        assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in peer.head
        assert "extensions" not in peer.head.lower()
        refused = error_of(await peer.ask(Hello(name="ada", secret=SECRET)))
        assert refused.code == "unauthorized"
        assert await peer.close_code() == 4500


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Origin: http://evil.example", 403),
        ("Origin: http://[", 403),
        ("Host: localhost", 400),
        ("Authorization: Bearer wrong", 401),
        ("Authorization: Bearer wrong\r\nAuthorization: Bearer wrong", 400),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", 400),
        ("X: " + "y" * 9_000, 431),
    ],
)
async def test_a_handshake_that_is_not_is_refused_and_the_hub_lives(tmp_path: Path, header: str, status: int) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        peer = await upgrade(listeners, header)
        assert peer.head.startswith(f"HTTP/1.1 {status} "), peer.head
        await peer.reader.read()
        assert (await web(listeners)).head.startswith("HTTP/1.1 101 ")


async def test_an_unknown_host_is_misdirected_on_a_websocket_and_on_a_get(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        evil = [text.replace("localhost", "evil.example") for text in HANDSHAKE]
        for lines in (evil, evil[:2]):
            reader, _ = await knock(listeners, "\r\n".join([*lines, "", ""]).encode())
            assert (await reader.read()).startswith(b"HTTP/1.1 421 ")


async def test_a_handshake_that_is_a_post_or_has_no_key_is_refused(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        for lines in ([HANDSHAKE[0].replace("GET", "POST"), *HANDSHAKE[1:]], HANDSHAKE[:4]):
            reader, _ = await knock(listeners, "\r\n".join([*lines, "", ""]).encode())
            assert (await reader.read()).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 405 "))


async def test_a_dripping_handshake_is_cut(tmp_path: Path) -> None:
    async with MemoryHub(limits=SHORT) as hub, doors(hub, tmp_path) as listeners:
        reader, writer = await knock(listeners, b"GET / HTTP/1.1\r\n")

        async def drip() -> None:
            while True:
                writer.write(b"X")
                await asyncio.sleep(0.02)

        dripping = asyncio.ensure_future(drip())
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 2)
        dripping.cancel()
        assert not listeners.peers


async def test_a_head_that_comes_byte_by_byte_and_frames_right_behind_it_are_heard(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        hello = Hello(name="ada", secret=SECRET, token=TOKEN)
        behind = Frame(Opcode.TEXT, encode_request(1, hello)).serialize(mask=True)
        reader, writer = await knock(listeners, b"")
        for byte in "\r\n".join([*HANDSHAKE, "", ""]).encode() + behind:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert (await reader.readexactly(2))[0] == 0x81
        peer = await upgrade(listeners, behind=behind + behind)
        assert reply_of(decode_hub_frame((await peer.frame())[1]), Welcome).name == "ada"
        assert error_of(decode_hub_frame((await peer.frame())[1])).code == "already_greeted"


async def test_no_hello_in_time_is_closed_with_its_code(tmp_path: Path) -> None:
    async with MemoryHub(limits=SHORT) as hub, doors(hub, tmp_path) as listeners:
        peer = await upgrade(listeners)
        reader, _ = await line(listeners)
        await steps()
        await hub.advance(200)
        assert await peer.close_code() == 4001
        frame = decode_hub_frame(await reader.readline())
        assert msgspec.json.decode(frame.body, type=Closing).code == 4001
        assert await reader.read() == b""


# frames


async def test_frames_that_break_the_framing_close_with_1002(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        for broken in ("unmasked", "compressed", "reserved opcode", "continuation", "interleaved", "long ping"):
            peer = await web(listeners)
            match broken:
                case "unmasked":
                    peer.send(Opcode.TEXT, b"{}", mask=False)
                case "compressed":
                    peer.send(Opcode.TEXT, b"{}", rsv1=True)
                case "reserved opcode":
                    peer.writer.write(b"\x83\x80\0\0\0\0")
                case "continuation":
                    peer.send(Opcode.CONT, b"{}")
                case "interleaved":
                    peer.send(Opcode.TEXT, b"{", fin=False)
                    peer.send(Opcode.TEXT, b"}")
                case _:
                    peer.writer.write(b"\x89\xfe\0\x7e\0\0\0\0" + b"x" * 126)
            assert await peer.close_code() == 1002, broken
        assert hub.state.messages == 0


async def test_a_frame_over_the_bound_closes_with_1009_before_it_is_there(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        bound = hub.rules.limits.frame_bytes_max
        peer = await web(listeners)
        peer.writer.write(b"\x81\xff" + (bound + 1).to_bytes(8, "big") + b"\0\0\0\0")
        assert await peer.close_code() == 1009
        peer = await web(listeners)
        peer.writer.write(b"\x81\xff" + (2**63 + 5).to_bytes(8, "big") + b"\0\0\0\0")
        assert await peer.close_code() in (1002, 1009)
        peer = await web(listeners)
        body = b'"' + b"x" * (bound - 1_000) + b'"'
        peer.send(Opcode.TEXT, encode_request(1, SendMessage(body=msgspec.Raw(body), target="main:general")))
        assert error_of(decode_hub_frame((await peer.frame())[1])).code == "too_large"


async def test_fragments_are_joined_counted_and_bounded(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        peer = await web(listeners)
        data = encode_request(1, message("in pieces: äöü 🎈"))
        peer.send(Opcode.TEXT, data[:1], fin=False)
        for at in range(1, 60):
            peer.send(Opcode.CONT, data[at : at + 1], fin=False)
        peer.send(Opcode.PING, b"between")
        peer.send(Opcode.CONT, data[60:])
        assert await peer.frame() == (Opcode.PONG, b"between")
        assert reply_of(decode_hub_frame((await peer.frame())[1]), Sent).n == 1
        assert reply_of(await peer.ask(Ping()), Pong)
        peer.send(Opcode.TEXT, b"", fin=False)
        for _ in range(64):
            peer.send(Opcode.CONT, b"", fin=False)
        assert await peer.close_code() == 1009
        peer = await web(listeners)
        peer.send(Opcode.TEXT, b" " * 200_000, fin=False)
        peer.send(Opcode.CONT, b" " * 100_000, fin=False)
        assert await peer.close_code() == 1009


async def test_text_that_is_not_utf_8_closes_with_1007_also_when_it_is_split(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        peer = await web(listeners)
        peer.send(Opcode.TEXT, b'{"type":"\xff"}')
        assert await peer.close_code() == 1007
        peer = await web(listeners)
        peer.send(Opcode.TEXT, b'"\xc3', fin=False)
        peer.send(Opcode.CONT, b'"', fin=False)  # seen before the message is whole
        assert await peer.close_code() == 1007
        peer = await web(listeners)
        peer.send(Opcode.TEXT, b'"\xf0\x9f', fin=False)
        peer.send(Opcode.CONT, b"")
        assert await peer.close_code() == 1007


async def test_a_binary_frame_is_malformed_and_the_connection_lives(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        peer = await web(listeners)
        peer.send(Opcode.BINARY, encode_request(1, message("no")))
        assert error_of(decode_hub_frame((await peer.frame())[1])).code == "malformed"
        assert reply_of(await peer.ask(Ping()), Pong)
        stranger = await upgrade(listeners)
        stranger.send(Opcode.BINARY, HELLO)
        assert error_of(decode_hub_frame((await stranger.frame())[1])).code == "malformed"
        assert await stranger.close_code() == 4503


async def test_a_flood_of_control_frames_is_closed_with_its_code(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        peer = await web(listeners)
        for _ in range(wire.CONTROL_BURST):
            peer.send(Opcode.PONG, b"")
        assert reply_of(await peer.ask(Ping()), Pong)
        for _ in range(wire.CONTROL_BURST):
            peer.send(Opcode.PING, b"x")
        assert await peer.close_code() == 4002


async def test_a_close_is_echoed_and_the_socket_ends(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        peer = await web(listeners)
        peer.send(Opcode.CLOSE, (1000).to_bytes(2, "big") + b"bye")
        assert await peer.close_code() == 1000
        await steps()
        assert not hub.turns.peers.connections
        assert not listeners.peers


async def test_a_close_of_the_hub_says_why_and_waits_for_nobody_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "CLOSE_WITHIN_S", 0.1)
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        peer = await web(listeners)
        [inside] = listeners.peers
        inside.close(4003, "ä" * 200)
        opcode, data = await peer.frame()
        assert (opcode, data[:2], len(data) <= 125) == (Opcode.CLOSE, (4003).to_bytes(2, "big"), True)
        data[2:].decode()
        assert await asyncio.wait_for(peer.reader.read(), 1) == b""
        await asyncio.sleep(0.2)  # the peer never answers
        assert not listeners.peers


async def test_a_quiet_peer_is_pinged_and_one_that_stays_silent_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "PING_AFTER_S", 0.05)
    monkeypatch.setattr(wire, "PONG_WITHIN_S", 0.05)
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        peer = await web(listeners)
        for _ in range(3):
            opcode, data = await asyncio.wait_for(peer.frame(), 1)
            assert opcode is Opcode.PING
            peer.send(Opcode.PONG, data)
        assert (await asyncio.wait_for(peer.frame(), 1))[0] is Opcode.PING
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            while True:
                await asyncio.wait_for(peer.frame(), 1)
        assert not hub.turns.peers.connections


async def test_a_peer_that_vanishes_is_let_go(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        peer = await web(listeners)
        peer.writer.transport.abort()
        for _ in range(100):
            await asyncio.sleep(0.01)
            if not hub.turns.peers.connections:
                break
        assert not hub.turns.peers.connections
        assert not listeners.peers


def pause(peer: Web, *, is_paused: bool) -> None:
    """Stop or go on taking what the hub sends."""
    transport = peer.writer.transport
    assert isinstance(transport, asyncio.Transport)
    (transport.pause_reading if is_paused else transport.resume_reading)()


async def test_a_peer_that_stops_reading_holds_its_outbox_and_no_more(tmp_path: Path) -> None:
    limits = Limits(outbox_bytes_max=256 * 1024)
    async with MemoryHub(limits=limits) as hub, doors(hub, tmp_path) as listeners:
        ada, stuck = await voice(hub), await web(listeners, "stuck")
        pause(stuck, is_paused=True)
        reply_of_subscribe = Subscribe(channels=("main:general",))
        stuck.send(Opcode.TEXT, encode_request(1, reply_of_subscribe))
        await asyncio.sleep(0.05)
        [inside] = listeners.peers
        most = 0
        for number in range(200):
            await ada.post(f"{number} " + "x" * 50_000)
            await asyncio.sleep(0)
            most = max(most, inside.buffered())
        assert inside.connection is not None
        assert inside.connection.is_stuck
        assert 0 < most <= limits.outbox_bytes_max
        pause(stuck, is_paused=False)
        told: list[str] = []
        while len(told) < 200:
            frame = decode_hub_frame((await asyncio.wait_for(stuck.frame(), 5))[1])
            if frame.type == "message":
                told.append(text_of(msgspec.json.decode(frame.body, type=Message)))
            else:
                assert frame.type == "feed.live" or reply_of(frame, Subscribed)
        assert [text.split(" ")[0] for text in told] == [str(n) for n in range(200)]


# lines


async def greeted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HELLO + b"\n")
    assert reply_of(decode_hub_frame(await reader.readline()), Welcome).name == "ada"


async def test_lines_may_be_split_anywhere_and_come_several_at_once(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        reader, writer = await line(listeners)
        await greeted(reader, writer)
        data = b"".join(encode_request(number, message("ä")) + b"\n" for number in range(3)) + b"\n\n"
        for at in range(0, len(data), 7):
            writer.write(data[at : at + 7])
            await asyncio.sleep(0)
        writer.write(data)
        frames = [decode_hub_frame(await reader.readline()) for _ in range(6)]
        assert [frame.id for frame in frames] == [0, 1, 2, 0, 1, 2]
        assert [reply_of(frame, Sent).n for frame in frames] == [1, 2, 3, 4, 5, 6]


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    """What still comes; a reset is an end too, since the hub had not read everything."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def test_a_line_over_the_bound_closes_with_1009_also_without_its_end(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        for over, end in ((20_000, b""), (20_000, b"\n"), (1, b"\n")):
            reader, writer = await line(listeners)
            await greeted(reader, writer)
            writer.write(b"x" * (hub.rules.limits.frame_bytes_max + over) + end)
            frame = decode_hub_frame(await reader.readline())
            assert msgspec.json.decode(frame.body, type=Closing).code == 1009
            assert await rest_of(reader) == b""
        reader, writer = await line(listeners)
        await greeted(reader, writer)
        body = msgspec.Raw(b'"' + b"x" * (hub.rules.limits.message_bytes_max - 2) + b'"')
        writer.write(encode_request(1, SendMessage(body=body, target="main:general")) + b"\n")
        assert reply_of(decode_hub_frame(await reader.readline()), Sent).n == 1


async def test_a_peer_that_closed_its_half_still_gets_its_answers(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        reader, writer = await line(listeners)
        for frame in (HELLO, encode_request(1, message("x" * 100_000)), encode_request(2, ReadHistory(limit=1))):
            writer.write(frame + b"\n")
        writer.write_eof()
        frames = [decode_hub_frame(await asyncio.wait_for(reader.readline(), 1)) for _ in range(3)]
        assert [frame.id for frame in frames] == ["h", 1, 2]
        assert text_of(reply_of(frames[2], History).messages[0]) == "x" * 100_000


@pytest.mark.parametrize("behind", [[], [encode_request(2, ReadHistory(limit=1)), encode_request(3, message("later"))]])
async def test_who_closes_its_half_while_its_answers_wait_for_the_disk_gets_every_one(
    tmp_path: Path, behind: list[bytes]
) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        worker = slow_writer(hub)
        reader, writer = await line(listeners)
        writer.write(b"".join(frame + b"\n" for frame in (HELLO, encode_request(1, message("on its way")))))
        while not worker.jobs:
            await asyncio.sleep(0.001)
        [connection] = hub.turns.peers.connections.values()
        writer.write(b"".join(frame + b"\n" for frame in behind))
        writer.write_eof()
        await asyncio.sleep(0.02)
        worker.finish()
        while worker.jobs or hub.turns.waiting_for_turn or connection.in_flight:
            await asyncio.sleep(0.001)
            if worker.jobs:
                worker.finish()
        frames = [decode_hub_frame(text) for text in (await asyncio.wait_for(reader.read(), 1)).splitlines()]
        assert {frame.id for frame in frames} == ({"h", 1, 2, 3} if behind else {"h", 1})
        assert {frame.type for frame in frames} == {"reply"}
        await steps()
        assert connection.is_closed


async def test_who_closes_its_half_behind_more_than_may_be_in_flight_gets_every_answer(tmp_path: Path) -> None:
    async with MemoryHub(limits=Limits(in_flight_max=8)) as hub, doors(hub, tmp_path) as listeners:
        reader, writer = await line(listeners)
        asked = b"".join(encode_request(number, message("x" * 1_000)) + b"\n" for number in range(100))
        writer.write(HELLO + b"\n" + asked)
        writer.write_eof()
        frames = [decode_hub_frame(text) for text in (await asyncio.wait_for(reader.read(), 5)).splitlines()]
        assert [frame.id for frame in frames] == ["h", *range(100)]
        assert hub.turns.state.rooms.by_address["main:general"].last_n == 100


async def test_a_long_poll_ends_with_the_half_that_was_closed_and_what_never_ends_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "CLOSE_WITHIN_S", 0.05)
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        reader, writer = await line(listeners)
        await greeted(reader, writer)
        writer.write(encode_request(1, TakeInbox(wait_ms=60_000)) + b"\n" + encode_request(2, Ping()) + b"\n")
        writer.write_eof()
        assert decode_hub_frame((await asyncio.wait_for(reader.read(), 1)).rstrip()).id == 2
        reader, writer = await line(listeners)
        worker = slow_writer(hub)
        writer.write(HELLO + b"\n" + encode_request(1, message("on a disk that hangs")) + b"\n")
        while not worker.jobs:
            await asyncio.sleep(0.001)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 1) == b""
        worker.finish()


async def half_closed(listeners: Listeners) -> socket.socket:
    """A peer that asks for far more than its socket holds, and has said all it will say. It reads by itself."""
    [path] = [uri.removeprefix("unix:") for uri in listeners.uris if uri.startswith("unix:")]
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    peer.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(peer, path)
    asked = [HELLO, encode_request(0, message("x" * 100_000))]
    asked += [encode_request(number, ReadHistory(limit=1)) for number in range(1, 20)]
    await loop.sock_sendall(peer, b"".join(frame + b"\n" for frame in asked))
    peer.shutdown(socket.SHUT_WR)
    return peer


@pytest.mark.parametrize("outbox_bytes_max", [64 * 1024, 4 * 1024 * 1024])
async def test_who_closed_its_half_and_reads_slowly_gets_every_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outbox_bytes_max: int
) -> None:
    monkeypatch.setattr(wire, "CLOSE_WITHIN_S", 0.05)
    limits = Limits(outbox_bytes_max=outbox_bytes_max, drain_ms=1_000)
    async with MemoryHub(limits=limits) as hub, doors(hub, tmp_path) as listeners:
        got, loop = b"", asyncio.get_running_loop()
        with await half_closed(listeners) as peer:
            while data := await loop.sock_recv(peer, 16 * 1024):
                got += data
                await asyncio.sleep(0.005)  # the socket holds more than is read in 0.05 s
        assert [decode_hub_frame(text).id for text in got.splitlines()] == ["h", *range(20)]


async def test_who_closed_its_half_and_reads_nothing_is_cut_as_any_slow_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "CLOSE_WITHIN_S", 0.05)
    limits = Limits(outbox_bytes_max=4 * 1024 * 1024, drain_ms=200)
    async with MemoryHub(limits=limits) as hub, doors(hub, tmp_path) as listeners:
        with await half_closed(listeners):
            begun = asyncio.get_running_loop().time()
            async with asyncio.timeout(5):
                while listeners.peers or not hub.turns.peers.total:
                    await asyncio.sleep(0.005)
            assert asyncio.get_running_loop().time() - begun >= 0.2
            assert not hub.turns.peers.connections


async def test_a_peer_that_closed_its_half_and_asked_nothing_is_let_go(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        reader, writer = await line(listeners)
        await greeted(reader, writer)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 1) == b""
        await steps()
        assert not hub.turns.peers.connections


async def test_a_newline_in_a_websocket_body_is_one_line_on_the_unix_socket(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        await voice(hub, "bob")
        reader, writer = await line(listeners)
        await greeted(reader, writer)
        writer.write(b'{"type":"feed.subscribe","id":1,"body":{"inbox":true}}\n')
        assert (await reader.readline()).startswith(b'{"type":"reply"')
        assert (await reader.readline()).startswith(b'{"type":"feed.live"')
        peer = await web(listeners, "bob")
        forged = b'{"type":"message.send","id":1,"body":{"to":["ada"],"body":{\n"a"\r\n:\n"b"\n}\n}}'
        peer.send(Opcode.TEXT, forged)
        told = await asyncio.wait_for(reader.readline(), 1)
        assert told.endswith(b"}\n")
        frame = decode_hub_frame(told)
        assert frame.type == "message"
        assert b'{"a":"b"}' in bytes(frame.body)


async def test_a_first_line_that_is_no_hello_is_answered_and_closed(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        for data, code in ((b"no json\n", "malformed"), (encode_request(1, Ping()) + b"\n", "hello_required")):
            reader, writer = await line(listeners)
            writer.write(data)
            assert error_of(decode_hub_frame(await reader.readline())).code == code
            closing = msgspec.json.decode(decode_hub_frame(await reader.readline()).body, type=Closing)
            assert closing.code == 4503
            assert await reader.read() == b""


async def test_the_owner_of_the_socket_needs_no_token_and_may_operate(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        reader, writer = await line(listeners)
        writer.write(encode_request(1, Hello(operator=True)) + b"\n")
        assert reply_of(decode_hub_frame(await reader.readline()), Welcome).name is None
        peer = await upgrade(listeners, f"Authorization: Bearer {TOKEN}")
        assert error_of(await peer.ask(Hello(operator=True))).code == "not_permitted"


async def test_a_request_on_one_framing_reaches_the_other(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        ada, bob = await web(listeners), await voice(hub, "bob")
        assert reply_of(await ada.ask(direct("hi", "bob")), Sent).to == ("bob",)
        status = await bob.ask(ShowStatus(), Status)
        assert status.counts.connections == 2
        assert len((await ada.ask(ListAgents())).body) > 100
