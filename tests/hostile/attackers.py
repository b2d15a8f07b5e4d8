"""Peers that mean no good: `python -m tests.hostile.attackers HOME PORT`.

One process plays them all, over plain sockets from 127.0.0.2, so that the hub's bounds of a host meet them and not the
peers beside them. It reads lines: one with how many play which attack begins them, and it answers `ready` once each of
them has got through to the hub; an empty one ends them, and it answers with what each attack met. Whoever is shown out
comes back at once.
"""

import asyncio
import contextlib
import json
import select
import socket
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from tests.crash.websocket import PING, TEXT, masked

FROM: Final = "127.0.0.2"
SECRET: Final = "a secret of thirty-two characters, or more"
IP_BIND_ADDRESS_NO_PORT: Final = 24
"""Of Linux; the socket module names it from Python 3.12 on."""
NOISE: Final = "main:noise"
"""A channel whose history is several megabytes."""
BULK: Final = "bulk"
"""The key of a value of 15 kB."""
CHUNK_BYTES: Final = 64 * 1024
FRAME_BYTES_MAX: Final = 256 * 1024
BINARY, CLOSE, PONG = 0x2, 0x8, 0xA

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Attack: TypeAlias = Callable[["Attacker"], Coroutine[None, None, None]]


@dataclass(slots=True)
class Attacker:
    """One peer of one attack. met: what came of it, by how often. begun: set once the hub has answered."""

    home: Path
    port: int
    name: str
    met: Counter[str]
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    writer: asyncio.StreamWriter | None = None

    async def connect(self) -> Streams:
        """A TCP connection; waits and tries again while there is none to have."""
        while True:
            try:
                reader, self.writer = await asyncio.open_connection(sock=await connected(self.port))
                return reader, self.writer
            except OSError as error:
                self.met[type(error).__name__] += 1
                await asyncio.sleep(0.1)

    async def upgraded(self) -> Streams:
        """A WebSocket before its hello; waits and tries again while the hub is full."""
        head = (
            f"GET / HTTP/1.1\r\nHost: localhost:{self.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
        while True:
            reader, writer = await self.connect()
            try:
                writer.write(head)
                answer = await reader.readuntil(b"\r\n\r\n")
            except (OSError, asyncio.IncompleteReadError):
                self.met["cut in the handshake"] += 1
            else:
                if answer.startswith(b"HTTP/1.1 101 "):
                    return reader, writer
                self.met[f"HTTP {answer[9:12].decode()}"] += 1
            writer.transport.abort()
            await asyncio.sleep(0.2)

    async def welcomed(self) -> Streams:
        """A WebSocket of an agent."""
        while True:
            reader, writer = await self.upgraded()
            writer.write(masked(self.hello((self.home / "token").read_text().strip())))
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                opcode, payload = await frame_from(reader)
                if opcode == TEXT and b'"type":"reply"' in payload:
                    self.begun.set()
                    return reader, writer
                self.met["not welcome"] += 1
            writer.transport.abort()
            await asyncio.sleep(0.2)

    def hello(self, token: str | None = None) -> bytes:
        """Who this is."""
        body = {"name": self.name, "secret": SECRET, "lasting": True, **({} if token is None else {"token": token})}
        return json.dumps({"type": "hello", "id": "hello", "body": body}).encode()

    async def shown_out(self, streams: Streams) -> None:
        """Read up to the end, and note the code with which the hub closed."""
        reader, writer = streams
        try:
            while True:
                opcode, payload = await frame_from(reader)
                if opcode == CLOSE:
                    self.met[f"closed {int.from_bytes(payload[:2], 'big')}"] += 1
                    break
        except (OSError, asyncio.IncompleteReadError):
            self.met["cut"] += 1
        self.begun.set()
        writer.transport.abort()

    async def pour(self, streams: Streams, data: bytes, *, answer: bytes) -> None:
        """Send `data` as fast as it is taken, over and over, until the hub ends it; count answers with `answer`."""
        reader, writer = streams

        async def read() -> None:
            with contextlib.suppress(OSError):
                while found := await reader.read(CHUNK_BYTES):
                    self.met["answers"] += found.count(b'"type":"reply"')
                    self.met["refusals"] += found.count(b'"type":"error"')
                    self.met[answer.decode()] += found.count(b'"code":"%b"' % answer)
                    self.begun.set()

        reading = asyncio.ensure_future(read())
        sent = 0
        with contextlib.suppress(OSError):
            while not reading.done():
                writer.write(data)
                await writer.drain()
                sent += len(data)
        self.met["bytes poured"] += sent
        await reading
        self.met["ended"] += 1
        writer.transport.abort()


async def connected(port: int, receive_bytes: int | None = None) -> socket.socket:
    """A socket from `FROM` to the hub. receive_bytes: how much the system takes in for who does not read."""
    with contextlib.ExitStack() as undo:
        raw = undo.enter_context(socket.socket())
        raw.setblocking(False)
        if receive_bytes is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        # Else the system looks for a port that nobody uses at all, for 100 ms when many are still closing.
        raw.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        raw.bind((FROM, 0))
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
        undo.pop_all()
        return raw


async def frame_from(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The next frame of the hub: opcode and payload."""
    first, size = await reader.readexactly(2)
    if size >= 126:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    return first & 0x0F, await reader.readexactly(size)


def request(kind: str, number: int, **body: object) -> bytes:
    """A frame as a client sends it."""
    return masked(json.dumps({"type": kind, "id": number, "body": body}).encode())


def many(make: Callable[[int], bytes]) -> bytes:
    """About `CHUNK_BYTES` of frames."""
    parts: list[bytes] = []
    size = 0
    while size < CHUNK_BYTES:
        parts.append(make(len(parts)))
        size += len(parts[-1])
    return b"".join(parts)


# Who is let in, and then does nothing, or does not stop.


async def idle(me: Attacker) -> None:
    """Says hello, answers the hub's pings, and nothing else."""
    while True:
        reader, writer = await me.welcomed()
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                opcode, payload = await frame_from(reader)
                if opcode == PING:
                    writer.write(masked(payload, PONG))
        me.met["cut"] += 1


def unread(asked: bytes) -> Attack:
    """Asks through a small window, and reads nothing of it."""

    async def never_reads(me: Attacker) -> None:
        while True:
            with await connected(me.port, 4_096) as raw:
                _, writer = await asyncio.open_connection(sock=raw.dup())
                me.writer = writer
                writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport reads
                head = f"GET / HTTP/1.1\r\nHost: localhost:{me.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
                writer.write((head + key).encode() + masked(me.hello((me.home / "token").read_text().strip())))
                writer.write(asked)
                poll = select.poll()
                poll.register(raw, select.POLLHUP | select.POLLERR)
                me.begun.set()
                while not poll.poll(0):
                    writer.write(masked(b"", PONG))  # who does not read learns only by writing that nobody is there
                    await asyncio.sleep(0.2)
                me.met["cut"] += 1
                writer.transport.abort()

    return never_reads


async def flood(me: Attacker) -> None:
    """Requests of one agent, as fast as the hub takes them."""
    data = many(lambda number: request("ping", number))
    while True:
        await me.pour(await me.welcomed(), data, answer=b"rate_limited")


async def flood_of_one(me: Attacker) -> None:
    """The same agent's requests over each connection of this attack."""
    me.name = me.name.rpartition("-")[0]
    await flood(me)


async def flood_of_claims(me: Attacker) -> None:
    """Claims and releases of one agent, each of which is written to disk."""

    def claim_or_release(number: int) -> bytes:
        task = f"{me.name}/{number // 2 % 50}"
        return request("lease.release" if number % 2 else "lease.claim", number, task=task)

    data = many(claim_or_release)
    while True:
        await me.pour(await me.welcomed(), data, answer=b"rate_limited")


async def flood_on_the_unix_socket(me: Attacker) -> None:
    """As `flood`, from the user whose host the peers beside it share."""
    data = b"".join(b'{"type":"ping","id":%d}\n' % number for number in range(3_000))
    while True:
        streams = await asyncio.open_unix_connection(me.home / "hub.sock")
        me.writer = streams[1]
        streams[1].write(me.hello() + b"\n")
        await me.pour(streams, data, answer=b"rate_limited")


async def flood_of_history(me: Attacker) -> None:
    """Pages of a long history, which the hub reads from disk, and this peer reads too."""
    data = b"".join(request("history.read", number, channel=NOISE, limit=500) for number in range(8))
    while True:
        await me.pour(await me.welcomed(), data, answer=b"rate_limited")


async def flood_of_nothing(me: Attacker) -> None:
    """The smallest frames there are; none is a request."""
    data = many(lambda _: masked(b"{}"))
    while True:
        await me.pour(await me.welcomed(), data, answer=b"malformed")


async def flood_of_bulk(me: Attacker) -> None:
    """Messages as large as they may be, to a channel that is not there."""
    body = json.dumps(["x" * 90] * 2_000)
    data = masked(b'{"type":"message.send","id":1,"body":{"target":"main:nowhere","body":%b}}' % body.encode())
    while True:
        await me.pour(await me.welcomed(), data, answer=b"not_found")


async def flood_of_binary(me: Attacker) -> None:
    """Frames that are not text."""
    data = many(lambda number: masked(b'{"type":"ping","id":%d}' % number, BINARY))
    while True:
        await me.pour(await me.welcomed(), data, answer=b"malformed")


async def subscriptions(me: Attacker) -> None:
    """Thousands of subscriptions."""
    data = many(lambda number: request("feed.subscribe", number, presence=True))
    while True:
        await me.pour(await me.welcomed(), data, answer=b"limit")


async def half_frame(me: Attacker) -> None:
    """All of the largest frame but its last byte."""
    whole = masked(b" " * FRAME_BYTES_MAX)
    while True:
        streams = await me.welcomed()
        streams[1].write(whole[:-1])
        await me.shown_out(streams)


# Who breaks the framing, and comes back.


def breaking(data: bytes) -> Attack:
    """Sends `data` behind its hello, and is shown out."""

    async def attack(me: Attacker) -> None:
        while True:
            streams = await me.welcomed()
            streams[1].write(data)
            await me.shown_out(streams)

    return attack


def _fragments() -> bytes:
    first, piece = masked(b'{"x":"', TEXT), masked(b" ", 0)
    return bytes([first[0] & 0x7F]) + first[1:] + (bytes([piece[0] & 0x7F]) + piece[1:]) * 3_000


def _compressed() -> bytes:
    whole = masked(b"\xaa\x56\x2a\xa9\x2c\x48\x55\xb2\x52\x2a\xc8\xcc\x4b\x57\xaa\x05\x00")
    return bytes([whole[0] | 0x40]) + whole[1:]


# Who is not let in.


async def drips(me: Attacker) -> None:
    """A handshake, a byte at a time, that never ends."""
    while True:
        reader, writer = await me.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        try:
            for _ in range(200):
                writer.write(b"x")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.1):  # `wait_for` may lose a cancellation, before Python 3.12
                        answer = await reader.read(1_000)
                    me.met[f"HTTP {answer[9:12].decode()}" if answer else "cut"] += 1
                    break
        except OSError:
            me.met["cut"] += 1
        me.begun.set()
        writer.transport.abort()


async def says_no_hello(me: Attacker) -> None:
    """A whole handshake, and nothing behind it."""
    while True:
        await me.shown_out(await me.upgraded())


async def health(me: Attacker) -> None:
    """GET /health, one connection after the other."""
    while True:
        reader, writer = await me.connect()
        with contextlib.suppress(OSError):
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = await reader.read()
            me.met[f"HTTP {answer[9:12].decode()}" if answer else "cut"] += 1
            me.begun.set()
        writer.transport.abort()


async def comes_and_goes(me: Attacker) -> None:
    """Connects and hangs up."""
    while True:
        _, writer = await me.connect()
        me.met["connected"] += 1
        me.begun.set()
        writer.transport.abort()
        await asyncio.sleep(0)


UNREAD_PAGES: Final = unread(
    request("feed.subscribe", 1, channels=[NOISE], presence=True)
    + b"".join(request("history.read", number, channel=NOISE, limit=500) for number in range(60))
)
"""A channel, and pages of its long history."""
UNREAD_VALUES: Final = unread(b"".join(request("value.get", number, key=BULK) for number in range(600)))
"""Answers that are neither short nor pages."""
LOST: Final = frozenset({"ConnectionResetError", "ConnectionRefusedError", "TimeoutError", "BrokenPipeError"})
COMMON: Final = LOST | {"HTTP 503", "cut in the handshake", "not welcome", "cut", "ended"}
"""What may happen to anybody among such neighbours: the hub is full, or the connection ended before its answer."""
ASKED: Final = COMMON | {"answers", "refusals", "rate_limited", "bytes poured"}


class Play(NamedTuple):
    """An attack. sign: what must come of it when it lasts a while; may: everything else that may come of it."""

    attack: Attack
    sign: str
    may: frozenset[str] = COMMON


ATTACKS: Final = {
    "idle": Play(idle, ""),
    "never reads": Play(UNREAD_PAGES, "cut"),
    "never reads values": Play(UNREAD_VALUES, "cut"),
    "flood": Play(flood, "rate_limited", ASKED),
    "flood of one": Play(flood_of_one, "rate_limited", ASKED),
    "flood of claims": Play(flood_of_claims, "rate_limited", ASKED),
    "flood on the Unix socket": Play(flood_on_the_unix_socket, "rate_limited", ASKED),
    "flood of history": Play(flood_of_history, "answers", ASKED),
    "flood of nothing": Play(flood_of_nothing, "malformed", ASKED),
    "flood of bulk": Play(flood_of_bulk, "not_found", ASKED),
    "flood of binary": Play(flood_of_binary, "malformed", ASKED),
    "subscriptions": Play(subscriptions, "limit", ASKED),
    "half frame": Play(half_frame, ""),
    "pings": Play(breaking(masked(b"", PING) * 2_000), "closed 4002"),
    "fragments": Play(breaking(_fragments()), "closed 1009"),
    "too large": Play(breaking(b"\x81\xff" + (1 << 40).to_bytes(8, "big") + b"\0\0\0\0"), "closed 1009"),
    "compressed": Play(breaking(_compressed()), "closed 1002"),
    "unmasked": Play(breaking(b"\x81\x02{}"), "closed 1002"),
    "not UTF-8": Play(breaking(masked(b'{"type":"\xff"}')), "closed 1007"),
    "drips": Play(drips, "cut"),
    "says no hello": Play(says_no_hello, "closed 4001"),
    "health": Play(health, "HTTP 200"),
    "comes and goes": Play(comes_and_goes, "connected"),
}
"""By name."""


QUIET: Final = (idle, UNREAD_PAGES, UNREAD_VALUES, half_frame)


async def play(home: Path, port: int, counts: dict[str, int]) -> None:
    """Play until a line comes."""
    met: dict[str, Counter[str]] = {name: Counter() for name in counts}
    peers = [
        (ATTACKS[name].attack, Attacker(home, port, f"{name.replace(' ', '-').lower()}-{number}", met[name]))
        for name, count in counts.items()
        for number in range(count)
    ]
    async with asyncio.TaskGroup() as group:  # a bug in an attack ends them all
        playing = []
        for is_quiet in (True, False):  # the quiet ones first, while they are still let in at once
            next_ones = [(attack, peer) for attack, peer in peers if (attack in QUIET) is is_quiet]
            playing += [group.create_task(attack(peer)) for attack, peer in next_ones]
            for _, peer in next_ones:
                await peer.begun.wait()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print(json.dumps(met), flush=True)
        for task in playing:
            task.cancel()
    for _, peer in peers:
        if peer.writer is not None:
            peer.writer.transport.abort()


async def main(home: Path, port: int) -> None:
    """Play one attack after the other."""
    while asked := await asyncio.to_thread(sys.stdin.readline):
        await play(home, port, json.loads(asked))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
