"""The doors: addresses, who may still come in, what is said to who may not, and how all are shown out."""

import asyncio
import os
import socket
from pathlib import Path

import pytest
from tests.hub.conftest import (
    SECRET,
    doors,
    error_of,
    knock,
    line,
    message,
    quiet,
    reply_of,
    slow_writer,
    steps,
    upgrade,
    voice,
    web,
)
from websockets.frames import Opcode

from synapse.hub.listeners import AddressInUse, Listeners
from synapse.hub.peers import OUTBOXES_MS
from synapse.hub.settings import Settings
from synapse.protocol.codec import decode_hub_frame, encode_request
from synapse.protocol.commands import Hello, Ping
from synapse.protocol.limits import Limits
from synapse.protocol.replies import Pong, Welcome
from synapse.testing import TOKEN, MemoryHub

GET_HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def test_health_says_green_or_red_over_the_port(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        reader, _ = await knock(listeners, GET_HEALTH)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b'"health":"green"' in answer
        hub.turns.is_read_only = True
        reader, _ = await knock(listeners, GET_HEALTH)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"read_only: the disk is full; 24 MiB must be free" in answer
        assert not listeners.peers


async def test_health_says_what_waits_for_peers_and_how_far_the_journal_is_proved(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        ada = await voice(hub)
        assert listeners.health()[1]["outbox_bytes"] == 0
        await ada.say(Ping())
        await quiet(hub)
        hub.clock.advance(OUTBOXES_MS)
        facts = listeners.health()[1]
        assert facts["outbox_bytes"] == ada.peer.buffered() > 0, "Ada has not read her answer"
        assert (facts["head"], facts["verified_through"]) == (hub.state.seq, hub.turns.verified_through)


async def test_garbage_pipelined_behind_a_get_gets_one_answer(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        for data in (GET_HEALTH + b"\0\xff" * 50, GET_HEALTH + GET_HEALTH):
            reader, _ = await knock(listeners, data)
            assert (await reader.read()).count(b"HTTP/1.1") == 1
        for data in (b"\x16\x03\x01\x02\0\x01\r\n\r\n", b"HELO x\r\n\r\n"):
            reader, _ = await knock(listeners, data)
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")


async def test_one_connection_too_many_is_told_to_come_back(tmp_path: Path) -> None:
    for limits, name in (
        (Limits(connections_max=2), "connections_max"),
        (Limits(connections_per_host_max=2), "connections_per_host_max"),
    ):
        async with MemoryHub(limits=limits) as hub, doors(hub, tmp_path / name) as listeners:
            first, _second = await web(listeners), await web(listeners, "bob")
            refused = await upgrade(listeners)
            assert refused.head.startswith("HTTP/1.1 503 ")
            assert "Retry-After: 1" in refused.head
            assert name.encode() in await refused.reader.read()
            reader, _ = await knock(listeners, GET_HEALTH)
            assert (await reader.read()).startswith(b"HTTP/1.1 200 "), "health is still told"
            first.writer.close()
            await asyncio.sleep(0.02)
            assert (await web(listeners, "carol")).head.startswith("HTTP/1.1 101 ")


async def test_one_line_connection_too_many_gets_a_typed_line(tmp_path: Path) -> None:
    async with MemoryHub(limits=Limits(connections_max=1)) as hub, doors(hub, tmp_path) as listeners:
        await line(listeners)
        await asyncio.sleep(0.01)
        reader, _ = await line(listeners)
        error = error_of(decode_hub_frame(await reader.readline()))
        assert (error.code, error.retry_after_ms) == ("limit", 1_000)
        assert await reader.read() == b""


async def test_sockets_without_a_hello_are_bounded_also_before_their_request_head(tmp_path: Path) -> None:
    limits = Limits(connections_unauthenticated_max=3)
    async with MemoryHub(limits=limits) as hub, doors(hub, tmp_path) as listeners:
        ada = await web(listeners)
        silent = [await knock(listeners, b"GET") for _ in range(2)]
        greeting = await upgrade(listeners)
        reader, _ = await knock(listeners, GET_HEALTH)
        refused = await reader.read()
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in refused
        assert reply_of(await ada.ask(Ping()), Pong)
        silent[0][1].close()
        welcome = await greeting.ask(Hello(name="bob", secret=SECRET, token=TOKEN))
        assert reply_of(welcome, Welcome).name == "bob"
        await asyncio.sleep(0.02)
        assert (await web(listeners, "carol")).head.startswith("HTTP/1.1 101 ")


async def test_strangers_without_a_hello_do_not_keep_the_hubs_own_user_out(tmp_path: Path) -> None:
    limits = Limits(connections_unauthenticated_max=2)
    async with MemoryHub(limits=limits) as hub, doors(hub, tmp_path) as listeners:
        silent = [await upgrade(listeners) for _ in range(2)]
        assert (await upgrade(listeners)).head.startswith("HTTP/1.1 503 ")
        reader, writer = await line(listeners)
        writer.write(encode_request(1, Hello(name="ada", secret=SECRET)) + b"\n")
        assert reply_of(decode_hub_frame(await reader.readline()), Welcome).name == "ada"
        assert not any(peer.reader.at_eof() for peer in silent)


async def test_the_socket_is_its_owners_and_replaces_a_stale_one(tmp_path: Path) -> None:
    home = tmp_path / "h"
    home.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(home / "hub.sock"))
    async with MemoryHub() as hub, doors(hub, home) as listeners:
        assert os.stat(home / "hub.sock").st_mode & 0o777 == 0o600
        reader, writer = await line(listeners)
        writer.write(encode_request(1, Hello(operator=True)) + b"\n")
        assert (await reader.readline()).startswith(b'{"type":"reply"')
    assert not (home / "hub.sock").exists()


async def test_a_home_with_a_long_path_has_its_socket_elsewhere_and_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    async with MemoryHub() as hub, doors(hub, tmp_path / ("x" * 120)) as listeners:
        path = Path(listeners.uris[1].removeprefix("unix:"))
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert path.stat().st_mode & 0o777 == 0o600
        await line(listeners)


async def test_an_address_in_use_is_refused_in_one_line(tmp_path: Path) -> None:
    async with MemoryHub() as hub:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as theirs:
            port = theirs.getsockname()[1]
            refused = Listeners(hub.turns, Settings(home=tmp_path, port=port), loop)
            with pytest.raises(AddressInUse, match=f"127.0.0.1:{port} is in use") as caught:
                refused.bind()
        assert caught.value.exit_code == 71
        nowhere = Listeners(hub.turns, Settings(home=tmp_path, host="192.0.2.1", port=0), loop)
        with pytest.raises(AddressInUse, match=r"cannot listen on 192\.0\.2\.1"):
            nowhere.bind()


async def test_draining_hears_nothing_new_so_that_all_it_has_heard_is_answered(tmp_path: Path) -> None:
    """A peer that goes on asking would keep a commit in flight, whose answer nobody waits for when time is up."""
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        reader, writer = await line(listeners)
        writer.write(encode_request("h", Hello(name="bob", secret=SECRET)) + b"\n")
        await reader.readline()
        ada = await web(listeners)
        worker = slow_writer(hub)
        writer.write(encode_request("last", message("last")) + b"\n")
        while not worker.jobs:
            await asyncio.sleep(0.01)
        draining = asyncio.ensure_future(listeners.drain())
        await steps()
        writer.write(encode_request("late", message("late")) + b"\n")
        ada.send(Opcode.TEXT, encode_request(2, message("late")))
        await asyncio.sleep(0.02)
        worker.finish()
        assert decode_hub_frame(await reader.readline()).id == "last"
        assert b"1012" in await reader.readline()
        assert await ada.close_code() == 1012
        ada.writer.close()
        await asyncio.wait_for(draining, 1)
        assert not worker.jobs
        assert not listeners.peers


async def test_who_has_not_finished_its_handshake_when_the_hub_drains_is_told_to_come_back(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        port = int(listeners.uris[0].rpartition(":")[2])
        asked = [await knock(listeners, data) for data in (b"", b"GET / HTTP/1.1\r\nHost: ")]
        while len(listeners.peers) < 2:
            await asyncio.sleep(0.001)
        await asyncio.wait_for(listeners.drain(), 1)
        for reader, _ in asked:
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 1" in answer
            assert b"shutting down" in answer
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_draining_answers_what_was_asked_says_goodbye_and_lets_nobody_in(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        ada = await web(listeners)
        reader, writer = await line(listeners)
        writer.write(encode_request("h", Hello(name="bob", secret=SECRET)) + b"\n")
        await reader.readline()
        worker = slow_writer(hub)
        writer.write(encode_request("last", message("last")) + b"\n")
        while not worker.jobs:
            await asyncio.sleep(0.01)
        draining = asyncio.ensure_future(listeners.drain())
        await steps()
        assert listeners.refusal("anybody") is not None
        worker.finish()
        assert decode_hub_frame(await reader.readline()).id == "last"
        assert b"1012" in await reader.readline()
        assert await reader.read() == b""
        assert await ada.close_code() == 1012
        ada.writer.close()
        await asyncio.wait_for(draining, 1)
        assert not listeners.peers
