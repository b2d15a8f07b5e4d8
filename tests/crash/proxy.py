"""A network that misbehaves: a process between clients and the hub, `python -m tests.crash.proxy HOME RUN SEED`.

It listens on a TCP port and on a Unix socket and carries bytes to the same kind of socket of the hub that lives in the
home. Every connection has a fate, which the seed decides by its number:

    clear    everything is passed on
    slow     in small pieces, each a little late
    late     from some moment on what the client sends is held for a second or two, and then delivered all the same,
             also when the client has given up meanwhile and said it again over another connection
    cut      both ends are closed at some moment
    reset    both ends are aborted: RST over TCP; over a Unix socket what a killed process leaves
    half     one direction ends, the other goes on for a moment
    hole     from some moment on one direction, or both, swallow what comes; aborted in the end
    deaf     accepted, and nobody is behind it; aborted in the end

`proxy.json` in the run's directory says where it listens. The file `calm` ends all that is not clear, and from then on
everything is; then `calmed.json` says how many connections had which fate.
"""

import asyncio
import contextlib
import json
import random
import socket
import struct
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

FATES = ("clear", "slow", "late", "cut", "reset", "half", "hole", "deaf")
WEIGHTS = (2, 4, 4, 4, 4, 3, 4, 1)
PIECES_MAX = 6
CHUNK_BYTES = 1 << 16
POLL_S = 0.05


class Cutter:
    """All connections of the proxy. counts: how many have met their fate."""

    def __init__(self, home: Path, run: Path, seed: str) -> None:
        self.counts: Counter[str] = Counter()
        self._home, self._run, self._seed = home, run, seed
        self._number = 0
        self._is_calm = False
        self._open: dict[Ways, str] = {}

    async def serve(self) -> None:
        """Until this process is ended."""
        tcp = await asyncio.start_server(lambda *ends: self._accept("ws", *ends), "127.0.0.1", 0)
        unix_path = self._run / "proxy.sock"
        unix = await asyncio.start_unix_server(lambda *ends: self._accept("unix", *ends), unix_path)
        port = tcp.sockets[0].getsockname()[1]
        self._tell("proxy.json", {"tcp": port, "unix": str(unix_path)})
        async with tcp, unix:
            while not (self._run / "calm").exists():
                await asyncio.sleep(POLL_S)
            self._is_calm = True
            for ways, fate in list(self._open.items()):
                if fate != "clear":
                    ways.abort()
            self._tell("calmed.json", dict(self.counts))
            await asyncio.Event().wait()

    def _tell(self, name: str, facts: object) -> None:
        new = self._run / f"{name}.new"
        new.write_text(json.dumps(facts), encoding="utf-8")
        new.rename(self._run / name)

    async def _accept(self, scheme: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._number += 1
        chance = random.Random(f"{self._seed}:{self._number}")
        [fate] = ("clear",) if self._is_calm else chance.choices(FATES, WEIGHTS)
        ways = Ways(writer, chance, fate)
        self._open[ways] = fate
        try:
            if fate == "deaf":
                self.counts[fate] += 1
                await asyncio.sleep(chance.uniform(0.1, 2.5))
            else:
                hub = await self._dial(scheme)
                if hub is not None:
                    await ways.live(reader, *hub, self.counts)
        finally:
            del self._open[ways]
            ways.abort()

    async def _dial(self, scheme: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Where the hub is now; None when there is none."""
        try:
            uris: list[str] = json.loads((self._home / "hub.json").read_bytes())["uris"]
            [address] = [uri.removeprefix(f"{scheme}:") for uri in uris if uri.startswith(f"{scheme}:")]
            if scheme == "unix":
                return await asyncio.open_unix_connection(address)
            host, _, port = address.removeprefix("//").rpartition(":")
            return await asyncio.open_connection(host, int(port))
        except OSError:
            return None


class Ways:
    """The two directions of one connection."""

    def __init__(self, client: asyncio.StreamWriter, chance: random.Random, fate: str) -> None:
        self._writers = [client]
        self._chance, self._fate = chance, fate
        self._swallows: set[asyncio.StreamWriter] = set()
        self._held: set[asyncio.StreamWriter] = set()
        self._is_due = asyncio.Event()

    async def live(
        self,
        client: asyncio.StreamReader,
        hub: asyncio.StreamReader,
        hub_writer: asyncio.StreamWriter,
        counts: Counter[str],
    ) -> None:
        """Carry until both directions have ended, or the fate is met."""
        [client_writer] = self._writers
        self._writers.append(hub_writer)
        both = {
            asyncio.create_task(self._carry(client, hub_writer)),
            asyncio.create_task(self._carry(hub, client_writer)),
        }
        try:
            if self._fate in ("clear", "slow"):
                counts[self._fate] += 1
                await asyncio.wait(both)
                return
            await asyncio.wait(both, timeout=self._chance.uniform(0.0, 0.4) ** 2 * 12)  # soon, at times after 2 s
            if all(way.done() for way in both):
                return  # it ended by itself before
            counts[self._fate] += 1
            await self._meet(both)
        finally:
            for way in both:
                way.cancel()

    async def _meet(self, both: set[asyncio.Task[None]]) -> None:
        chosen = self._chance.choice((self._writers[:1], self._writers[1:], self._writers))
        match self._fate:
            case "cut":
                for writer in self._writers:
                    writer.close()
            case "half":
                with contextlib.suppress(OSError, RuntimeError):
                    chosen[0].write_eof()
                await asyncio.wait(both, timeout=self._chance.uniform(0.1, 2.5))
            case "late":
                self._held = {self._writers[1]}
                await asyncio.wait(both, timeout=self._chance.uniform(0.6, 2.0))
                self._is_due.set()
                await asyncio.wait(both, timeout=self._chance.uniform(0.1, 2.0))
            case "hole":
                self._swallows = set(chosen)
                await asyncio.wait(both, timeout=self._chance.uniform(0.5, 4.0))
            case _:
                self.abort()

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """One direction, until its source ends."""
        with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: its fate has closed the sink
            while data := await source.read(CHUNK_BYTES):
                for piece in self._pieces(data):
                    if self._fate == "slow":
                        await asyncio.sleep(self._chance.uniform(0.0, 0.4) ** 3)
                    if sink in self._held:
                        await self._is_due.wait()
                    if sink not in self._swallows:
                        sink.write(piece)
                        await sink.drain()
            sink.write_eof()

    def _pieces(self, data: bytes) -> list[bytes]:
        if self._fate != "slow":
            return [data]
        at = sorted({0, *(self._chance.randrange(len(data)) for _ in range(self._chance.randrange(PIECES_MAX)))})
        return [data[start:end] for start, end in pairwise([*at, len(data)])]

    def abort(self) -> None:
        """Both ends, at once: over TCP with RST."""
        for writer in self._writers:
            raw: socket.socket = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                if raw.family != socket.AF_UNIX:
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


if __name__ == "__main__":
    asyncio.run(Cutter(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]).serve())
