"""TLS on the port: what is refused at the start, who is talked to, and that a peer that does not read costs no more."""

import asyncio
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from tests.conftest import Certificates, certificates, require_tool
from tests.hub.conftest import HANDSHAKE, SECRET, Web, doors, quiet, reply_of, voice
from websockets.frames import Opcode

from synapse.hub.listeners import Listeners
from synapse.hub.settings import SettingsRefused, load_settings
from synapse.hub.tls import server_context
from synapse.protocol.codec import encode_request
from synapse.protocol.commands import Hello, Ping, ReadHistory, Subscribe
from synapse.protocol.limits import Limits
from synapse.protocol.replies import History, Pong, Subscribed, Welcome
from synapse.testing import TOKEN, MemoryHub


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("tls"))


def port_of(listeners: Listeners) -> int:
    assert listeners._tcp is not None
    port: int = listeners._tcp.getsockname()[1]
    return port


async def web(listeners: Listeners, made: Certificates, *, bytes_max: int | None = None) -> Web:
    """A WebSocket under TLS. bytes_max: what the client's kernel takes when nobody reads."""
    raw = socket.socket()
    raw.setblocking(False)
    if bytes_max is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, bytes_max)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port_of(listeners)))
    context = ssl.create_default_context(cafile=made.ca)
    reader, writer = await asyncio.open_connection(sock=raw, ssl=context, server_hostname="localhost", limit=1 << 14)
    writer.write("\r\n".join([*HANDSHAKE, f"Authorization: Bearer {TOKEN}", "", ""]).encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    assert head.startswith("HTTP/1.1 101 ")
    return Web(reader, writer, head)


async def bye(peer: Web) -> None:
    peer.writer.transport.abort()
    with pytest.raises((ConnectionError, ssl.SSLError, OSError)):
        await peer.writer.wait_closed()
        raise ConnectionError


async def test_the_same_port_speaks_websocket_and_http_under_tls(tmp_path: Path, made: Certificates) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path / "home", tls=made) as listeners:
        assert listeners.uris[0] == f"wss://127.0.0.1:{port_of(listeners)}"
        peer = await web(listeners, made)
        reply_of(await peer.ask(Hello(name="ada", secret=SECRET, lasting=True)), Welcome)
        reply_of(await peer.ask(Ping()), Pong)
        await bye(peer)
        context = ssl.create_default_context(cafile=made.ca)
        reader, writer = await asyncio.open_connection("localhost", port_of(listeners), ssl=context)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()


@pytest.mark.bad_input("BI-93")
async def test_who_speaks_no_tls_or_one_that_is_too_old_is_not_heard(tmp_path: Path, made: Certificates) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path / "home", tls=made) as listeners:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(listeners))
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP" not in await reader.read()
        writer.close()
        old = ssl.create_default_context(cafile=made.ca)
        with pytest.warns(DeprecationWarning):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("localhost", port_of(listeners), ssl=old)
        peer = await web(listeners, made)
        reply_of(await peer.ask(Hello(name="ada", secret=SECRET)), Welcome)
        await bye(peer)


async def test_who_ends_no_handshake_is_cut(tmp_path: Path, made: Certificates) -> None:
    limits = Limits(hello_ms=100)
    async with MemoryHub(limits=limits) as hub, doors(hub, tmp_path / "home", tls=made) as listeners:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(listeners))
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()


async def test_a_peer_that_does_not_read_is_held_and_then_closed(tmp_path: Path, made: Certificates) -> None:
    """Backpressure and abort go through TLS: the hub's memory for a stuck peer has a bound, and others go on."""
    limits = Limits(outbox_bytes_max=64 * 1024, drain_ms=2_000)
    async with MemoryHub(limits=limits) as hub, doors(hub, tmp_path / "home", tls=made) as listeners:
        deaf, ada = await web(listeners, made, bytes_max=4096), await voice(hub)
        reply_of(await deaf.ask(Hello(name="deaf", secret=SECRET, lasting=True)), Welcome)
        reply_of(await deaf.ask(Subscribe(channels=("main:general",))), Subscribed)
        deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]  # nothing else stops a StreamReader
        for _ in range(400):
            await ada.post("x" * 30_000)
        assert hub.turns.peers.stuck == 1
        held = next(iter(hub.turns.peers._stuck)).wire.buffered()
        assert held <= 2 * limits.outbox_bytes_max
        await hub.advance(5_000)
        await quiet(hub)
        assert hub.turns.peers.stuck == 0
        assert [peer.name for peer in hub.state.agents.by_id.values() if peer.name in hub.turns.of_agent] == ["ada"]
        deaf.writer.transport.abort()


async def test_much_goes_both_ways(tmp_path: Path, made: Certificates) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path / "home", tls=made) as listeners:
        peer = await web(listeners, made)
        reply_of(await peer.ask(Hello(name="ada", secret=SECRET)), Welcome)
        text = "é" * 60_000
        for number in range(20):
            body = f'{{"type":"message.send","id":{number},"body":{{"body":"{text}"}}}}'
            peer.send(Opcode.TEXT, body.encode())
        for _ in range(20):
            await peer.frame()
        page = reply_of(await peer.ask(ReadHistory(limit=1)), History)
        assert page.messages[0].n == 20
        peer.send(Opcode.TEXT, encode_request(99, Ping()))
        await peer.frame()
        await bye(peer)


def test_without_a_certificate_there_is_no_tls() -> None:
    assert server_context(None, None) is None


@pytest.mark.bad_input("BI-94")
def test_what_is_no_certificate_with_its_key_is_refused_in_one_line(tmp_path: Path, made: Certificates) -> None:
    other = certificates(tmp_path / "other")
    openssl = require_tool("openssl", "openssl")
    locked, empty = tmp_path / "locked.key", tmp_path / "empty.pem"
    subprocess.run(
        [openssl, "ec", "-in", made.key, "-aes256", "-passout", "pass:secret", "-out", locked],
        check=True,
        capture_output=True,
    )
    empty.touch()
    for cert, key in (
        (made.cert, other.key),
        (made.cert, locked),
        (empty, made.key),
        (made.cert, empty),
        (tmp_path / "absent", made.key),
        (made.cert, tmp_path),
    ):
        with pytest.raises(SettingsRefused) as caught:
            server_context(cert, key)
        assert "\n" not in str(caught.value)
        assert str(key) in str(caught.value) or str(cert) in str(caught.value)
        assert caught.value.exit_code == 78


@pytest.mark.bad_input("BI-95")
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "hub.example", "127.1", "0"])
def test_other_machines_are_let_in_under_tls_or_by_force_only(tmp_path: Path, made: Certificates, host: str) -> None:
    flags = {"home": str(tmp_path), "host": host}
    with pytest.raises(SettingsRefused, match=r"other machines could read along.*--tls-cert.*--insecure-bind"):
        load_settings(flags, {})
    with pytest.raises(SettingsRefused, match="tls_key is missing"):
        load_settings({**flags, "tls_cert": str(made.cert)}, {})
    with pytest.raises(SettingsRefused, match="tls_cert is missing"):
        load_settings({**flags, "tls_key": str(made.key)}, {})
    load_settings({**flags, "tls_cert": str(made.cert), "tls_key": str(made.key)}, {})
    load_settings({**flags, "insecure_bind": "yes"}, {})
