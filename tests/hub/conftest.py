"""Agents that talk to the hub in memory, frame by frame; a disk that fills up; a writer that waits; doors on a loop."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from tests.conftest import Certificates
from websockets.frames import Frame, Opcode

from synapse.core.events import Row
from synapse.errors import Disconnected, DiskFull, JournalError
from synapse.hub.listeners import Listeners
from synapse.hub.settings import Settings
from synapse.hub.threads import Done
from synapse.journal.memory import MemoryJournal
from synapse.protocol.codec import ErrorBody, HubFrame, decode_hub_frame, decode_notice, encode_request
from synapse.protocol.commands import Command, Hello, SendMessage, Subscribe
from synapse.protocol.limits import Limits
from synapse.protocol.notices import Message, Notice
from synapse.protocol.replies import Sent, Subscribed, Welcome
from synapse.testing import TOKEN, MemoryHub, MemoryPeer

T = TypeVar("T")
Result = TypeVar("Result")

SECRET: Final = "a secret of thirty-two characters, or more"


class Voice:
    """One connection to the hub in memory. heard: frames that answered nothing asked here, in order."""

    def __init__(self, hub: MemoryHub, *, owner: bool = True) -> None:
        self.hub = hub
        self.peer: MemoryPeer = hub.connect(owner=owner)
        self.heard: list[HubFrame] = []
        self.next_id = 0

    async def say(self, command: Command, idem_key: str | None = None) -> int:
        """Send a request and do not wait; its id."""
        self.next_id += 1
        await self.peer.send(encode_request(self.next_id, command, idem_key))
        return self.next_id

    async def listen(self) -> list[HubFrame]:
        """Everything that came, once the hub is quiet."""
        while True:
            await quiet(self.hub)
            frames = [decode_hub_frame(data) for data in self.peer.received_now() if data.strip()]
            if not frames:
                return self.heard
            self.heard += frames

    async def exchange(self, command: Command, idem_key: str | None = None) -> HubFrame:
        """The answer of a request."""
        request_id = await self.say(command, idem_key)
        return await self.answer(request_id)

    async def answer(self, request_id: int) -> HubFrame:
        """The answer of a request that was sent."""
        for frame in await self.listen():
            if frame.id == request_id and frame.type in ("reply", "error"):
                self.heard.remove(frame)
                return frame
        raise AssertionError(f"request {request_id} is not answered")

    async def ask(self, command: Command, kind: type[T], idem_key: str | None = None) -> T:
        """The reply of a request that is not refused."""
        return reply_of(await self.exchange(command, idem_key), kind)

    async def refused(self, command: Command, idem_key: str | None = None) -> ErrorBody:
        """The error of a request that is refused."""
        return error_of(await self.exchange(command, idem_key))

    async def hello(self, name: str = "ada", *, secret: str | None = None, lasting: bool = True) -> Welcome:
        """Be an agent."""
        said = Hello(name=name, secret=f"{name}: {SECRET}" if secret is None else secret, lasting=lasting)
        return await self.ask(said, Welcome)

    async def post(self, text: str, idem_key: str | None = None) -> Sent:
        """A message to main:general."""
        return await self.ask(message(text), Sent, idem_key)

    async def follow(self, *channels: str, since: str | None = None) -> Subscribed:
        """Subscribe to channels (main:general)."""
        return await self.ask(Subscribe(channels=channels or ("main:general",), since=since), Subscribed)

    async def notices(self) -> list[Notice]:
        """All notices so far."""
        return [notice for frame in await self.listen() if (notice := decode_notice(frame)) is not None]

    async def messages(self) -> list[Message]:
        """All messages so far."""
        return [notice for notice in await self.notices() if isinstance(notice, Message)]

    async def is_open(self) -> bool:
        """False when the hub has closed the connection."""
        return await self.end() is None

    async def end(self) -> Disconnected | None:
        """How the hub closed the connection; None when it did not."""
        await self.listen()
        waiting = asyncio.ensure_future(self.peer.receive())
        await asyncio.sleep(0)
        if not waiting.done():
            waiting.cancel()
            return None
        error = waiting.exception()
        assert isinstance(error, Disconnected)
        return error


async def voice(hub: MemoryHub, name: str = "ada", *, lasting: bool = True) -> Voice:
    """An agent's connection."""
    found = Voice(hub)
    await found.hello(name, lasting=lasting)
    return found


async def operator(hub: MemoryHub) -> Voice:
    """An operator's connection."""
    found = Voice(hub)
    await found.ask(Hello(operator=True), Welcome)
    return found


def bugs_on_loop() -> list[dict[str, object]]:
    """From now on, what was raised in callbacks of this loop: the real hub would have crashed."""
    found: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    return found


async def quiet(hub: MemoryHub) -> None:
    """Wait until nothing moves any more, also behind the reader."""
    for _ in range(4):
        await hub.settle()
        for _ in range(4):
            await asyncio.sleep(0)


def message(text: str, target: str = "main:general") -> SendMessage:
    """A text for main:general, or another target."""
    return SendMessage(body=msgspec.Raw(msgspec.json.encode(text)), target=target)


def direct(text: str, *to: str, create: bool = False) -> SendMessage:
    """A text for inboxes."""
    return SendMessage(body=msgspec.Raw(msgspec.json.encode(text)), to=to, create=create)


def text_of(told: Message) -> str:
    """The text of a message."""
    return msgspec.json.decode(told.body, type=str)


def reply_of(frame: HubFrame, kind: type[T]) -> T:
    """The body of a reply."""
    assert frame.type == "reply", frame
    return msgspec.json.decode(frame.body, type=kind)


def error_of(frame: HubFrame) -> ErrorBody:
    """The error of a refusal."""
    assert isinstance(frame.error, ErrorBody), frame
    return frame.error


class SmallDisk(MemoryJournal):
    """A journal in memory whose disk can be full. has_reserve: one append gets through after it was given up."""

    is_full = False
    has_reserve = True
    _grace = 0
    appends = 0

    def append(self, rows: Sequence[Row]) -> None:
        """As `MemoryJournal.append`; raises `DiskFull`."""
        if self.is_full:
            if not self._grace:
                raise DiskFull("the disk is full")
            self._grace -= 1
        self.appends += 1
        super().append(rows)

    def give_up_reserve(self) -> bool:
        """Room for one append."""
        had, self.has_reserve = self.has_reserve, False
        self._grace = int(had)
        self.is_read_only = True
        return had

    def try_restore_reserve(self) -> bool:
        """Works when the disk is not full."""
        self.has_reserve = not self.is_full
        self.is_read_only = self.is_full
        return self.has_reserve


def hub_on_small_disk() -> tuple[MemoryHub, SmallDisk]:
    """A hub on such a disk."""
    hub = MemoryHub()
    hub.journal = disk = SmallDisk(at_ms=hub.clock.wall_ms())
    return hub, disk


class SlowWorker:
    """A worker whose jobs are done when the test says so."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.jobs: deque[Callable[[], None]] = deque()

    def submit(self, job: Callable[[], Result], done: Done[Result]) -> None:
        """Keep the job."""

        def run() -> None:
            result: Result | None = None
            error: JournalError | None = None
            try:
                result = job()
            except JournalError as caught:
                error = caught
            done(result, error)

        self.jobs.append(run)

    def stop(self) -> None:
        """Nothing to end."""

    def finish(self) -> None:
        """Do the oldest job."""
        self.jobs.popleft()()


def slow_writer(hub: MemoryHub) -> SlowWorker:
    """From now on commits wait for the test."""
    worker = SlowWorker(asyncio.get_running_loop())
    hub.turns._writer = worker
    return worker


def slow_reader(hub: MemoryHub) -> SlowWorker:
    """From now on reads from disk wait for the test."""
    worker = SlowWorker(asyncio.get_running_loop())
    hub.turns.disk._reader = worker
    return worker


async def steps(count: int = 10) -> None:
    """Let the loop run, without waiting for the hub."""
    for _ in range(count):
        await asyncio.sleep(0)


_clients: Final[list[asyncio.StreamWriter]] = []
"""What clients opened and `doors` closes."""


class Web:
    """A raw WebSocket client: what it sends is up to the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str) -> None:
        self.reader = reader
        self.writer = writer
        self.head = head

    def send(self, opcode: Opcode, data: bytes, *, fin: bool = True, rsv1: bool = False, mask: bool = True) -> None:
        """One frame."""
        frame = Frame(opcode, data, fin=fin).serialize(mask=mask)
        self.writer.write(bytes([frame[0] | rsv1 << 6]) + frame[1:])

    async def frame(self) -> tuple[Opcode, bytes]:
        """The next frame of the hub, which is never masked."""
        async with asyncio.timeout(5):
            first, second = await self.reader.readexactly(2)
            assert first & 0xF0 == 0x80, "the hub sends whole frames without extensions"
            size = second
            if second == 126:
                size = int.from_bytes(await self.reader.readexactly(2), "big")
            elif second == 127:
                size = int.from_bytes(await self.reader.readexactly(8), "big")
            return Opcode(first & 0x0F), await self.reader.readexactly(size)

    async def ask(self, command: Command) -> HubFrame:
        """A request and the next text frame."""
        self.send(Opcode.TEXT, encode_request(1, command))
        opcode, data = await self.frame()
        assert opcode is Opcode.TEXT
        return decode_hub_frame(data)

    async def close_code(self) -> int:
        """The code of the close frame that comes next, and then nothing."""
        while True:
            opcode, data = await self.frame()
            if opcode is Opcode.CLOSE:
                assert await self.reader.read() == b""
                return int.from_bytes(data[:2], "big")


async def knock(listeners: Listeners, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Bytes to the TCP port."""
    assert listeners._tcp is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", listeners._tcp.getsockname()[1])
    writer.write(data)
    _clients.append(writer)
    return reader, writer


HANDSHAKE: Final = (
    "GET / HTTP/1.1",
    "Host: localhost",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)


async def upgrade(listeners: Listeners, *headers: str, behind: bytes = b"") -> Web:
    """A WebSocket handshake; `head` is what the hub answered."""
    data = "\r\n".join([*HANDSHAKE, *headers, "", ""]).encode("latin-1") + behind
    reader, writer = await knock(listeners, data)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    return Web(reader, writer, head)


async def web(listeners: Listeners, name: str = "ada") -> Web:
    """A WebSocket connection of an agent, with the token in its head."""
    found = await upgrade(listeners, f"Authorization: Bearer {TOKEN}")
    assert found.head.startswith("HTTP/1.1 101 "), found.head
    welcome = await found.ask(Hello(name=name, secret=f"{name}: {SECRET}", lasting=True))
    reply_of(welcome, Welcome)
    return found


async def line(listeners: Listeners) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the Unix socket."""
    [path] = [uri.removeprefix("unix:") for uri in listeners.uris if uri.startswith("unix:")]
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 20)
    _clients.append(writer)
    return reader, writer


@asynccontextmanager
async def doors(
    hub: MemoryHub, home: Path, *, limits: Limits | None = None, tls: Certificates | None = None
) -> AsyncIterator[Listeners]:
    """Real sockets before a hub in memory. limits: those of the sockets; the hub's own by default."""
    settings = Settings(
        home=home,
        port=0,
        limits=hub.rules.limits if limits is None else limits,
        tls_cert=None if tls is None else tls.cert,
        tls_key=None if tls is None else tls.key,
    )
    home.mkdir(mode=0o700, exist_ok=True)
    listeners = Listeners(hub.turns, settings, asyncio.get_running_loop())
    listeners._next_id = 1_000  # the hub in memory counts its own from 1
    listeners.bind()
    listeners.listen()
    try:
        yield listeners
    finally:
        await asyncio.sleep(0.005)  # who was let in at the last moment is shown out too
        listeners.cut()
        while _clients:
            writer = _clients.pop()
            writer.transport.abort()
            with contextlib.suppress(ConnectionError, BrokenPipeError):
                await writer.wait_closed()
        await steps()
