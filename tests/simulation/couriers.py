"""What agents do with files that go through the hub: send them, are cut off, go on, fetch them, and tell untruths.

The real client reads and writes real files, in a directory of the world.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from tests.simulation.limits import LIMITS
from tests.simulation.part import Part
from tests.simulation.terms import Violation

from synapse.client.bodies import body_of
from synapse.client.chunks import Manifest, manifest_in
from synapse.client.client import Client
from synapse.client.files import FileRefused
from synapse.errors import Rejected
from synapse.protocol.file_commands import BeginFile, CompleteFile, PutChunk
from synapse.protocol.file_replies import ChunkStored, FileBegan, FileCompleted
from synapse.protocol.notices import Message

if TYPE_CHECKING:
    from tests.simulation.agents import Process

CHANNELS: Final = ("main:general", "crew:general")
BYTES: Final = (0, 300, 1_024, 2_500, 4_096, 5_500, 6_001)
KEPT_MAX: Final = 4


@dataclass(slots=True)
class Bag:
    """What an agent remembers from one run to the next: files to send, with where; messages with files to fetch."""

    to_send: list[tuple[Path, dict[str, object]]] = field(default_factory=list)
    to_fetch: list[Message] = field(default_factory=list)
    being_fetched: set[str] = field(default_factory=set)


class Cargo:
    """The files of a world. contents: of those sent honestly, by SHA-256. false: files whose content is not what was
    announced, by their ids."""

    def __init__(self) -> None:
        self._directory = TemporaryDirectory(prefix="synapse-cargo-")
        self.path = Path(self._directory.name)
        self.bags: dict[str, Bag] = defaultdict(Bag)
        self.contents: set[str] = set()
        self.false: set[str] = set()
        self.made = 0

    def clean(self) -> None:
        """Leave nothing behind."""
        self._directory.cleanup()


class Courier(Part):
    """The part of an agent that has to do with files."""

    def parcel_repertoire(self) -> dict[Callable[["Process"], Awaitable[None]], float]:
        """What there is to do, and how often."""
        return {
            self.send_parcel: 3,
            self.go_on_with_parcel: 4,
            self.fetch_again: 4,
            self.look_at_files: 2,
            self.withdraw_parcel: 1,
            self.send_what_it_is_not: 0.6,
            self.meddle_with_a_file: 0.6,
        }

    @property
    def _bag(self) -> Bag:
        return self.world.cargo.bags[self.name]

    # Sending.

    async def send_parcel(self, process: "Process") -> None:
        """A file for one or two, for the members of a role, for a channel or for a private place."""
        chance, cargo, where = self._chance, self.world.cargo, self._where()
        cargo.made += 1
        name = self._word("f") if str(where.get("channel", "")).startswith(("zq", "crew:zq")) else f"n{cargo.made}"
        path = cargo.path / name
        content = chance.randbytes(chance.choice(BYTES))
        path.write_bytes(content)
        cargo.contents.add(sha256(content).hexdigest())
        self._bag.to_send = [*self._bag.to_send[1 - KEPT_MAX :], (path, where)]
        await self._send_parcel(process, path, where)

    def _where(self) -> dict[str, object]:
        chance = self._chance.random()
        place = self._my_place() if chance < 0.2 else None
        if place is not None:
            return {"channel": place if ":" in place else f"{place}:general"}
        if chance < 0.3:
            return {"channel": self._chance.choice(CHANNELS)}
        if chance < 0.4:
            return {"target": "role:reviewer"}
        others = {self.world.somebody(self._chance, besides=self.name) for _ in range(self._chance.choice((1, 1, 2)))}
        return {"to": tuple(sorted(others - {self.name}))}

    async def _send_parcel(self, process: "Process", path: Path, where: dict[str, object]) -> None:
        """Send it; perhaps it is cut off half way. What did not come to its end is sent again later."""
        fate = 1.0 if self.world.is_calm else self._chance.random()
        patience_s = self._chance.uniform(0.01, 0.1) if fate < 0.4 else None
        try:
            async with asyncio.timeout(patience_s):
                await process.client.send_file(path, chunked=True, **where)  # type: ignore[arg-type]  # by name
        except TimeoutError:
            if fate < 0.05:
                await self.crash(process)
            if fate < 0.35:
                await self.pause(3.0)
                await self._send_parcel(process, path, where)
            return
        except FileRefused:
            if "target" not in where:
                raise
        except Rejected as refusal:
            if refusal.code == "too_large" and path.stat().st_size <= LIMITS.file_bytes_max:
                raise Violation("refused for nothing", f"{self.name}: {refusal}", self.name) from refusal
            if refusal.code not in ("too_large", "no_recipient", "not_found"):
                raise
        self._forget(path)

    def _forget(self, path: Path) -> None:
        self._bag.to_send = [one for one in self._bag.to_send if one[0] != path]
        path.unlink(missing_ok=True)

    async def go_on_with_parcel(self, process: "Process") -> None:
        """Send once more what was cut off."""
        if self._bag.to_send:
            await self._send_parcel(process, *self._bag.to_send[0])

    async def send_what_it_is_not(self, process: "Process") -> None:
        """Announce a file, put another one of the same size, and say that it is there."""
        client, content = process.client, self._chance.randbytes(1_500)
        other, to = sha256(content + b".").hexdigest(), (self.world.somebody(self._chance, besides=self.name),)
        begin = BeginFile(name="false", bytes=len(content), sha256=other, to=to)
        began = await client.request(begin, FileBegan)
        self.world.cargo.false.add(began.file)
        for index in range(began.chunks):
            data = content[index * began.chunk_bytes : (index + 1) * began.chunk_bytes]
            put = PutChunk(file=began.file, index=index, data=data, sha256=sha256(data).hexdigest())
            await client.request(put, ChunkStored)
        await client.request(CompleteFile(file=began.file), FileCompleted)
        manifest = Manifest(file=began.file, name="false", bytes=len(content), sha256=other, chunks=began.chunks)
        await client.send(manifest.body(), to=to, idem_key=manifest.idem_key)

    # Fetching.

    async def may_fetch(self, client: Client, message: Message) -> None:
        """Who is told of a file fetches it, now or later."""
        if manifest_in(body_of(message)) is None:
            return
        if self._chance.random() < 0.3 and not self.world.is_calm:
            self._bag.to_fetch = [*self._bag.to_fetch[1 - KEPT_MAX :], message]
        else:
            await self._fetch(client, message)

    async def fetch_again(self, process: "Process") -> None:
        """Something that was put off, or cut off; or what is said in a channel."""
        client, bag = process.client, self._bag
        if bag.to_fetch:
            while bag.to_fetch:
                await self._fetch(client, bag.to_fetch.pop(0))
                await self.pause(1.0)
            return
        place = self._my_place() if self._chance.random() < 0.5 else self._chance.choice(CHANNELS)
        if place is not None:
            page = await client.history(place if ":" in place else f"{place}:general", limit=20)
            found = [message for message in page.messages if manifest_in(body_of(message)) is not None]
            if found:
                await self._fetch(client, self._chance.choice(found))

    async def _fetch(self, client: Client, message: Message) -> None:
        """Receive it; perhaps it is cut off half way."""
        manifest = manifest_in(body_of(message))
        assert manifest is not None, "it was looked at"
        bag, save = self._bag, self.world.cargo.path / f"{self.name}-{manifest.file}"
        if manifest.file in bag.being_fetched:
            return
        patience_s = self._chance.uniform(0.002, 0.05) if self._chance.random() < 0.3 else None
        bag.being_fetched.add(manifest.file)
        try:
            async with asyncio.timeout(patience_s):
                path = await client.receive_file(message, save)
        except TimeoutError:
            self.world.sometimes("what was fetched was cut off")
            bag.to_fetch = [*bag.to_fetch[1 - KEPT_MAX :], message]
            return
        except FileRefused as refusal:
            if manifest.file not in self.world.cargo.false:
                raise Violation("refused for nothing", f"{self.name}: {refusal}", self.name) from refusal
            self.world.sometimes("a file that is not what was announced was refused")
            return
        finally:
            bag.being_fetched.discard(manifest.file)
        self._look_at(manifest, path)

    def _look_at(self, manifest: Manifest, path: Path) -> None:
        """What was received is what was announced, and that is what somebody sent. Raises `Violation`."""
        content = path.read_bytes()
        digest = sha256(content).hexdigest()
        if digest != manifest.sha256 or digest not in self.world.cargo.contents:
            raise Violation("altered", f"{self.name} received {manifest.body()}: {digest}", self.name)
        self.world.sometimes("a file was received whole")
        if self._chance.random() < 0.7:
            path.unlink()

    # Looking, and meddling.

    async def look_at_files(self, process: "Process") -> None:
        """All that are mine or for me."""
        await process.client.files()

    async def withdraw_parcel(self, process: "Process") -> None:
        """One of mine, or all when they stand in the way."""
        mine = [it for it in self.world.ledger.parcels.now.values() if it.sender == self.name]
        for parcel in mine if self._chance.random() < 0.5 else mine[:1]:
            await process.client.withdraw_file(f"f{parcel.id}")

    async def meddle_with_a_file(self, process: "Process") -> None:
        """Withdraw what is another's, or read what is not there for me. Raises `Violation` when that works."""
        others = [it for it in self.world.ledger.parcels.now.values() if it.sender != self.name]
        if others:
            file = f"f{self._chance.choice(others).id}"
            await process.client.withdraw_file(file)
            raise Violation("stale accepted", f"{self.name} withdrew {file}", self.name)
