"""A hub played by the test, frame by frame, and time that passes only when nothing else is left to do."""

import asyncio
import math
import os
import random
import selectors
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import msgspec
import pytest

from synapse.client.client import Client, Wiring
from synapse.errors import Disconnected, HubUnreachable, Rejected
from synapse.protocol.codec import encode_error, encode_notice, encode_reply
from synapse.protocol.codes import CLOSE_GOING_AWAY
from synapse.protocol.limits import Limits
from synapse.protocol.notices import Message, Notice
from synapse.protocol.replies import HubIdentity, Pong, Reply, Subscribed, Welcome
from synapse.testing import MemoryHub

JOURNAL: Final = "j1"
SECRET: Final = "a secret of more than 32 characters"


class _JumpingSelector(selectors.DefaultSelector):
    """Does not wait: it says how long it would have waited."""

    jumped_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everything waits for something that will never come"
        self.jumped_s += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer when nothing is ready."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.jumped_s


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Function
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A module that sets HAS_VIRTUAL_TIME gets a `VirtualLoop` for each of its tests."""
    if getattr(item.module, "HAS_VIRTUAL_TIME", False):
        return {"virtual": VirtualLoop}
    return {"real": asyncio.new_event_loop}


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request as the played hub hears it."""

    type: str
    id: str | int
    body: dict[str, object]
    idem_key: str | None = None


class Peer:
    """The hub's end of one connection; the other end is a `Transport`."""

    def __init__(self) -> None:
        self.is_closed = False
        self.frames: list[bytes] = []
        self._asked: deque[bytes] = deque()
        self._said: deque[bytes] = deque()
        self._stir = asyncio.Event()
        self._end: Disconnected | None = None

    # The client's side.

    async def send(self, frame: bytes, /) -> None:
        if self._end is not None:
            raise self._end
        self.frames.append(frame)
        self._asked.append(frame)
        self._stir.set()

    async def receive(self) -> bytes:
        while not self._said:
            if self._end is not None:
                raise self._end
            self._stir.clear()
            await self._stir.wait()
        return self._said.popleft()

    async def aclose(self) -> None:
        self.is_closed = True
        self.cut()

    # The test's side.

    async def asked(self) -> Asked:
        """The next request."""
        async with asyncio.timeout(60):
            while not self._asked:
                await asyncio.sleep(0.001)
        return msgspec.json.decode(self._asked.popleft(), type=Asked)

    def asked_now(self) -> list[Asked]:
        """Requests that are there already."""
        found = [msgspec.json.decode(frame, type=Asked) for frame in self._asked]
        self._asked.clear()
        return found

    def say(self, frame: bytes) -> None:
        """Any frame."""
        self._said.append(frame)
        self._stir.set()

    def reply(self, asked: Asked, body: Reply) -> None:
        """Grant a request."""
        self.say(encode_reply(asked.id, 1, body))

    def refuse(self, asked: Asked, code: str, *, retry_after_ms: int | None = None) -> None:
        """Refuse a request."""
        self.say(encode_error(asked.id, 1, Rejected(code, "no", retry_after_ms=retry_after_ms)))

    def tell(self, notice: Notice) -> None:
        """A notice; a message under its own seq."""
        seq = int(notice.cursor.rpartition(":")[2]) if isinstance(notice, Message) else 1
        self.say(encode_notice(seq, notice))

    def cut(self, code: int = CLOSE_GOING_AWAY) -> None:
        """End the connection."""
        if self._end is None:
            self._end = Disconnected(code, "cut")
        self._stir.set()

    async def pong(self) -> None:
        """Answer the next request, which must be a ping."""
        asked = await self.asked()
        assert asked.type == "ping"
        self.reply(asked, Pong(cursor=f"{JOURNAL}:1"))

    async def confirm(self, subscription: int = 1, *, head: int = 0) -> Asked:
        """Grant the next request, which must be a subscription; begin at seq `head` when it named no cursor."""
        asked = await self.asked()
        assert asked.type == "feed.subscribe"
        since = asked.body.get("since")
        cursor = since if isinstance(since, str) else f"{JOURNAL}:{head}"
        body = Subscribed(subscription=subscription, positions=(), from_cursor=cursor, cursor=cursor)
        self.reply(asked, body)
        return asked


class PushPeer(Peer):
    """The same as a `PushTransport`. room: how many more frames this hub reads."""

    def __init__(self) -> None:
        super().__init__()
        self.room = math.inf
        self._on_room: Callable[[], None] | None = None

    def post(self, frame: bytes, /) -> bool:
        if self._end is not None:
            raise self._end
        if self.room <= 0:
            return False
        self.room -= 1
        self.frames.append(frame)
        self._asked.append(frame)
        return True

    async def pump(self, take: Callable[[bytes], None], on_room: Callable[[], None], /) -> None:
        self._on_room = on_room
        if self.room > 0:
            on_room()
        try:
            while True:
                for _ in range(100):  # what one read of a socket may hold
                    take(await self.receive())
                await asyncio.sleep(0)
        finally:
            self._on_room = None

    def drain(self, room: float = math.inf) -> None:
        """Read again."""
        self.room = room
        if self._on_room is not None:
            self._on_room()


class Net:
    """Where the client dials. kind: of its connections. is_down: nobody answers."""

    kind: type[Peer] = Peer

    def __init__(self) -> None:
        self.is_down = False
        self.dialled_at_s: list[float] = []
        self.hub_id = "h1"
        self.limits = Limits()
        self._coming: deque[Peer] = deque()

    async def dial(self) -> Peer:
        self.dialled_at_s.append(asyncio.get_running_loop().time())
        if self.is_down:
            raise HubUnreachable("nobody is there")
        peer = self.kind()
        self._coming.append(peer)
        return peer

    async def peer(self) -> Peer:
        """The next connection, before its hello."""
        async with asyncio.timeout(60):
            while not self._coming:
                await asyncio.sleep(0.001)
        return self._coming.popleft()

    async def welcome(self) -> Peer:
        """The next connection, with its hello accepted."""
        peer = await self.peer()
        hello = await peer.asked()
        if hello.type == "hub.identify":  # after a reconnect: no other hub is told anything
            peer.reply(hello, HubIdentity(hub_id=self.hub_id, version="0", protocol=(1, 1)))
            hello = await peer.asked()
        assert hello.type == "hello"
        peer.reply(hello, self.greeting())
        return peer

    def greeting(self) -> Welcome:
        return Welcome(
            protocol=1,
            version="0",
            hub_id=self.hub_id,
            journal_id=JOURNAL,
            cursor=f"{JOURNAL}:0",
            connection=1,
            name="ada",
            bound=False,
            home="main:general",
            limits=self.limits,
        )

    def client(self, chance: random.Random | None = None, *, timeout: float = 10.0) -> Client:
        wiring = Wiring(dial=self.dial, chance=random.Random(1) if chance is None else chance)
        return Client(name="ada", secret=SECRET, wiring=wiring, timeout=timeout)

    async def connected(self, chance: random.Random | None = None, *, timeout: float = 10.0) -> tuple[Client, Peer]:
        """A client that was welcomed, and the hub's end of its connection."""
        client = self.client(chance, timeout=timeout)
        connecting = asyncio.ensure_future(client.connect())
        peer = await self.welcome()
        await connecting
        return client, peer

    async def pushed(self, *, timeout: float = 10.0) -> tuple[Client, PushPeer]:
        """A client that was welcomed over a transport that pushes, and sends without a wait."""
        self.kind = PushPeer
        client, peer = await self.connected(timeout=timeout)
        assert isinstance(peer, PushPeer)
        while not client.is_connected:
            await asyncio.sleep(0)
        return client, peer

    @staticmethod
    def message(n: int, *, seq: int | None = None, channel: str = "general", body: object = "hello") -> Message:
        """Message number `n` of main:general, or of another channel; its seq is its number unless given."""
        at = n if seq is None else seq
        return Message(
            id=f"m{at}",
            room="main",
            channel=channel,
            n=n,
            cursor=f"{JOURNAL}:{at}",
            sender="bob",
            to=None,
            kind="event",
            subject=None,
            body=msgspec.Raw(msgspec.json.encode(body)),
            thread=None,
            reply_to=None,
            priority="normal",
            expires_at_ms=None,
            sent_at_ms=0,
        )


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in [name for name in os.environ if name.startswith(("SYNAPSE_", "SYN_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("SYNAPSE_HOME", str(tmp_path / "home"))


@pytest.fixture(params=[Peer, PushPeer], ids=["asked", "pushed"])
def net(request: pytest.FixtureRequest) -> Net:
    """A hub played by the test, over a transport of either shape."""
    played = Net()
    played.kind = request.param
    return played


class People:
    """Clients of one memory hub."""

    def __init__(self, hub: MemoryHub) -> None:
        self.hub = hub
        self._chance = random.Random(7)

    def client(self, name: str, *, timeout: float = 10.0) -> Client:
        """A client that is not connected yet."""
        wiring = Wiring(dial=self.hub.dial, chance=self._chance)
        return Client(name=name, secret=f"{name} {SECRET}", wiring=wiring, timeout=timeout)


@pytest.fixture
def people() -> type[People]:
    """Clients of a memory hub that the test made."""
    return People


class HubProcess:
    """`python -m synapse hub` on a home of its own; the same port every time."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def websocket(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def start(self) -> None:
        arguments = ("-m", "synapse", "hub", "--port", str(self.port), "--home", str(self.home))
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        ready = (await self._process.stdout.readline()).decode()
        assert ready.startswith("synapse hub ready ws://127.0.0.1:"), ready
        self.port = int(ready.split()[3].rpartition(":")[2])

    def tell(self, number: signal.Signals) -> None:
        """Stop it, or let it go on."""
        assert self._process is not None
        self._process.send_signal(number)

    async def end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        assert process is not None
        process.send_signal(number)
        await process.communicate()
        assert process.returncode is not None
        return process.returncode

    async def kill_and_restart(self) -> None:
        await self.end(signal.SIGKILL)
        await self.start()

    async def stop(self) -> None:
        if self._process is not None:
            await self.end(signal.SIGKILL)


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[HubProcess]:
    process = HubProcess(tmp_path / "home")
    await process.start()
    yield process
    await process.stop()
