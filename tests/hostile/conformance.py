"""The Autobahn cases, by kosoku, against the hub's own transport and against the library's server.

The hub speaks its protocol inside the frames, and the cases want an echo: so the real listeners and the real `WebPeer`
stand before peers that send back what they hear. What the transport itself answers (closes, pongs, refused frames)
is untouched. Both servers run in this process, without compression: the hub never agrees to it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import kosoku
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import Frame, Opcode

from synapse.hub.connection import Connection
from synapse.hub.listeners import Listeners
from synapse.hub.peers import Peers
from synapse.hub.settings import Settings
from synapse.hub.wire import WebPeer
from synapse.protocol.limits import Limits
from synapse.testing import MemoryHub

COMPRESSION: Final = ("12.*", "13.*")
"""Cases of permessage-deflate, which neither server agrees to."""
ROOMY: Final = Limits(
    frame_bytes_max=17 << 20,
    fragments_max=1 << 17,
    outbox_bytes_max=64 << 20,
    rate_host_per_s=10**9,
    rate_host_burst=10**9,
)
"""The largest case sends 16 MiB in one message; another one 65 536 fragments, each of which counts against a rate."""
AT_ONCE: Final = 4


class Verdict(NamedTuple):
    """How a case ended, in the words of the suite; why: when it did not pass."""

    passed: bool
    behavior: str
    behavior_close: str
    why: str


class EchoPeer(WebPeer):
    """The hub's transport; it also keeps the pieces of a binary message, which the hub throws away."""

    def _begin(self) -> None:
        self.pieces: list[bytes] = []
        super()._begin()

    def _take_fragment(self, connection: Connection, event: Frame) -> None:
        if event.opcode is not Opcode.CONT:
            self.pieces = []
        if self._decoder is None:
            self.pieces.append(bytes(event.data))
        super()._take_fragment(connection, event)


class EchoPeers(Peers):
    """Peers that send back what they hear, at once."""

    def hear(self, connection: Connection, frame: bytes, now_ms: int) -> None:
        connection.wire.write(connection.wire.frame(frame))

    def hear_all(self, connection: Connection, frames: Sequence[bytes], now_ms: int) -> int:
        for frame in frames:
            self.hear(connection, frame, now_ms)
        return len(frames)

    def hear_binary(self, connection: Connection) -> None:
        assert isinstance(connection.wire, EchoPeer)
        connection.wire.write(Frame(Opcode.BINARY, b"".join(connection.wire.pieces)).serialize(mask=False))


class EchoListeners(Listeners):
    """The doors, with echoes behind them."""

    def newcomer(self) -> EchoPeer:
        return EchoPeer(self)


@asynccontextmanager
async def our_server(home: Path) -> AsyncIterator[str]:
    """The hub's transport with an echo behind it; its address."""
    async with MemoryHub(limits=ROOMY) as hub:
        turns = hub.turns
        turns.peers = EchoPeers(turns, ROOMY, hub.clock, turns._let_go)
        settings = Settings(home=home, port=0, unix_socket=False, limits=ROOMY)
        listeners = EchoListeners(turns, settings, asyncio.get_running_loop())
        listeners.bind()
        listeners.listen()
        try:
            yield listeners.uris[0]
        finally:
            listeners.cut()
            await asyncio.sleep(0)


@asynccontextmanager
async def library_server() -> AsyncIterator[str]:
    """The library's own echo, with its defaults but for the bound of a message; its address."""

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    quiet = logging.Logger("yardstick", logging.CRITICAL + 1)
    async with serve(echo, "127.0.0.1", 0, compression=None, max_size=None, logger=quiet) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def verdicts(uri: str, cases: Sequence[str] | None = None, without: Sequence[str] = ()) -> dict[str, Verdict]:
    """Run cases (all of them) against a server; how each ended."""
    try:
        results = await kosoku.run_fuzzingclient(uri, cases, [*COMPRESSION, *without], AT_ONCE)
    except kosoku.FailureError as failure:
        results = failure.results
    return {
        result.case_id: Verdict(
            result.passed, result.behavior.value, result.behavior_close.value, f"{result.result} {result.result_close}"
        )
        for result in results
    }
