"""Public kit for tests: a whole hub in memory, on a clock that only moves when told.

    async with MemoryHub() as hub:
        peer = hub.connect()
        await peer.send(b'{"type":"hello","id":1,"body":{"name":"ada","secret":"…"}}')
        welcome = await peer.receive()

It is the real hub (turns, feeds, kernel, chain) without sockets, threads and disk. `restart` kills it and replays its
journal, as a crash would. `dial` plugs it under `synapse.Client`.
"""

import asyncio
from collections import deque
from types import TracebackType
from typing import Final, Self

from synapse.core import kernel
from synapse.core.by import Rules
from synapse.core.state import State, digest, new_state
from synapse.errors import Disconnected, JournalError, StoreFailed
from synapse.hub.connection import Connection
from synapse.hub.paging import recorded_of
from synapse.hub.server import begin
from synapse.hub.threads import InlineWorker, Store
from synapse.hub.turn import Turns
from synapse.journal.memory import MemoryJournal
from synapse.protocol.codec import encode_notice
from synapse.protocol.codes import CLOSE_GOING_AWAY
from synapse.protocol.limits import Limits
from synapse.protocol.names import GENERAL, MAIN_ROOM
from synapse.protocol.notices import Closing
from synapse.protocol.session import Session

START_AT_MS: Final = 1_800_000_000_000
TOKEN: Final = "memory-hub-token"  # noqa: S105 - the published token of a hub that only exists in tests


class ManualClock:
    """A clock that stands still until `advance`. Wall and monotonic time move together; `jump` moves the wall alone."""

    def __init__(self, at_ms: int = START_AT_MS) -> None:
        self._wall_ms = at_ms
        self._monotonic_ms = 0

    def wall_ms(self) -> int:
        """Unix time in milliseconds."""
        return self._wall_ms

    def monotonic_ms(self) -> int:
        """Milliseconds since the clock was made."""
        return self._monotonic_ms

    def advance(self, ms: int) -> None:
        """Let time pass. ms ≥ 0."""
        assert ms >= 0, "time does not go back; see jump"
        self._wall_ms += ms
        self._monotonic_ms += ms

    def jump(self, ms: int) -> None:
        """Set the wall clock forward or back, as an administrator or NTP would."""
        self._wall_ms += ms


class MemoryPeer:
    """One connection to a `MemoryHub`: whole frames, without newline. Has the shape of a client's transport."""

    kind = "lines"

    def __init__(self, hub: "MemoryHub") -> None:
        self._hub = hub
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._came = asyncio.Event()
        self._end: Disconnected | None = None
        self.connection: Connection | None = None

    async def send(self, frame: bytes) -> None:
        """Send one frame. Raises `Disconnected` when the connection is gone."""
        if self._end is not None or self.connection is None:
            raise self._end or Disconnected(CLOSE_GOING_AWAY, "closed")
        self._hub.turns.peers.hear(self.connection, frame, self._hub.clock.monotonic_ms())

    async def receive(self) -> bytes:
        """The next frame of the hub. Raises `Disconnected` when no more will come."""
        while not self._frames:
            if self._end is not None:
                raise self._end
            self._came.clear()
            await self._came.wait()
        frame = self._frames.popleft()
        self._bytes -= len(frame) + 1
        connection = self.connection
        if (
            connection is not None
            and connection.is_stuck
            and self._bytes <= self._hub.rules.limits.outbox_bytes_max // 4
        ):
            self._hub.turns.peers.on_drained(connection)
        return frame

    def received_now(self) -> list[bytes]:
        """Everything that is there already, without waiting."""
        found = list(self._frames)
        self._frames.clear()
        self._bytes = 0
        if self.connection is not None and self.connection.is_stuck:
            self._hub.turns.peers.on_drained(self.connection)
        return found

    async def aclose(self) -> None:
        """Close the connection from this side."""
        self._finish(Disconnected(CLOSE_GOING_AWAY, "closed by this side"))

    def _finish(self, end: Disconnected) -> None:
        if self._end is None:
            self._end = end
            self._came.set()
            if self.connection is not None:
                self._hub.turns.peers.on_closed(self.connection)

    # The turn's side (`hub.connection.Wire`).

    def frame(self, payload: bytes) -> bytes:
        """The payload as a line."""
        return payload + b"\n"

    def write(self, data: bytes) -> None:
        """Put whole lines into this peer's queue."""
        if self._end is not None:
            return
        self._frames.extend(data.splitlines())
        self._bytes += len(data)
        self._came.set()
        connection = self.connection
        if (
            connection is not None
            and not connection.is_stuck
            and self._bytes > self._hub.rules.limits.outbox_bytes_max // 2
        ):
            self._hub.turns.peers.on_stuck(connection)

    def buffered(self) -> int:
        """Bytes this peer has not received yet."""
        return self._bytes

    def hold_reading(self, *, hold: bool) -> None:
        """Frames in memory come one at a time; there is nothing to hold back."""

    def close(self, code: int, reason: str) -> None:
        """The hub says goodbye."""
        seq = 0 if self.connection is None else self.connection.told(self._hub.turns.feeds.durable)
        self.write(self.frame(encode_notice(seq, Closing(code=code, reason=reason))))
        self._finish(Disconnected(code, reason))

    def abort(self) -> None:
        """The hub cuts the connection."""
        self._finish(Disconnected(CLOSE_GOING_AWAY, "cut"))


class MemoryHub:
    """A hub in memory. clock: shared with whoever wants to move it. limits: smaller ones make bounds easy to reach."""

    def __init__(
        self,
        *,
        clock: ManualClock | None = None,
        limits: Limits | None = None,
        rooms: dict[str, list[str]] | None = None,
        auto_create: bool = True,
    ) -> None:
        self.clock = clock if clock is not None else ManualClock()
        self.rules = Rules(limits if limits is not None else Limits(), auto_create)
        self.journal = MemoryJournal(at_ms=self.clock.wall_ms())
        self.failure: JournalError | None = None
        self._rooms = {MAIN_ROOM: [GENERAL], **(rooms or {})}
        self._peers: list[MemoryPeer] = []
        self._next_connection = 1
        self.turns: Turns

    async def __aenter__(self) -> Self:
        self._start(new_state())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cut("the hub is gone")

    @property
    def state(self) -> State:
        """The hub's state, to look at."""
        return self.turns.state

    def _start(self, state: State) -> None:
        loop = asyncio.get_running_loop()
        worker = InlineWorker(loop)
        self.journal.is_new = self.journal.head == self.journal.base
        self.turns = Turns(
            state=state,
            rules=self.rules,
            store=Store(self.journal, self.journal, worker, worker, None),
            clock=self.clock,
            loop=loop,
            token=TOKEN,
            version="memory",
            fatal=self._fail,
        )
        begin(state, self.journal, self.rules, self._rooms, self.clock.wall_ms())
        self.turns.begin()

    def _fail(self, error: JournalError) -> None:
        self.failure = error
        self._cut(str(error))

    def _cut(self, why: str) -> None:
        peers, self._peers = self._peers, []
        for peer in peers:
            peer._finish(Disconnected(CLOSE_GOING_AWAY, why))

    def connect(self, *, owner: bool = True) -> MemoryPeer:
        """A new connection. owner: as over the Unix socket by the hub's own user; else the hello needs `TOKEN`."""
        peer = MemoryPeer(self)
        connection = Connection(
            self._next_connection,
            peer,
            Session(self.rules.limits),
            kind=peer.kind,
            host="memory",
            host_bucket=self.turns.peers.host_buckets.of("memory", self.clock.monotonic_ms()),
            opened_ms=self.clock.monotonic_ms(),
            is_owner=owner,
        )
        self._next_connection += 1
        peer.connection = connection
        self._peers.append(peer)
        self.turns.peers.open(connection)
        return peer

    async def dial(self) -> MemoryPeer:
        """`connect` for a client that dials."""
        return self.connect()

    async def advance(self, ms: int) -> None:
        """Let time pass in steps of at most a second, with a tick after each, and wait until the hub is idle."""
        while True:
            step = min(ms, 1_000)
            self.clock.advance(step)
            self.turns.tick()
            await self.settle()
            ms -= step
            if ms <= 0:
                return

    async def settle(self) -> None:
        """Wait until everything that was sent is answered."""
        await asyncio.sleep(0)
        await self.turns.settle()

    async def restart(self) -> None:
        """Kill the hub: connections are cut, the soft half is forgotten, the journal is replayed into a new one."""
        self.turns.broken = StoreFailed("the hub was killed")  # what it still had to do is not done any more
        self._cut("the hub was killed")
        state = new_state()
        for row in self.journal.rows(self.journal.base + 1, self.journal.head):
            kernel.apply(state, recorded_of(row))
        self._start(state)
        await asyncio.sleep(0)

    def replayed_digest(self) -> str:
        """The digest of the state that the journal alone gives."""
        state = new_state()
        for row in self.journal.rows(self.journal.base + 1, self.journal.head):
            kernel.apply(state, recorded_of(row))
        return digest(state)
