"""`send_file` and `receive_file` against the hub in memory."""

import asyncio
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from synapse.client import chunks
from synapse.client.client import body_of
from synapse.client.files import FileRefused
from synapse.errors import Rejected
from synapse.protocol.limits import Limits
from synapse.testing import MemoryHub

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.client.conftest import People

LIMITS = Limits(chunk_bytes_max=1_000)


async def test_a_chunked_file_is_one_message_and_is_there_once_however_often_it_is_sent(
    people: "type[People]", tmp_path: Path
) -> None:
    (tmp_path / "model.bin").write_bytes(bytes(range(256)) * 30)
    async with MemoryHub(limits=LIMITS) as hub, people(hub).client("ada") as ada, people(hub).client("bob") as bob:
        sent = await ada.send_file(tmp_path / "model.bin", to="bob", chunked=True)
        assert (await ada.send_file(tmp_path / "model.bin", to="bob", chunked=True)).id == sent.id
        (file,) = await bob.files()
        assert (file.name, file.bytes, file.chunks, file.sender) == ("model.bin", 7_680, 8, "ada")
        (message,) = (await bob.inbox()).messages
        with pytest.raises(ValueError, match="save"):
            await bob.receive_file(message)
        await hub.restart()
        assert await bob.receive_file(message, tmp_path / "copy") == tmp_path / "copy"
        assert (tmp_path / "copy").read_bytes() == (tmp_path / "model.bin").read_bytes()
        assert await ada.files() == ()
        with pytest.raises(Rejected, match="there is no file"):
            await bob.receive_file(message, tmp_path / "again")
        second = await ada.send_file(tmp_path / "model.bin", to="bob", chunked=True)
        assert second.id != sent.id, "the first one has ended"


async def test_a_cancellation_while_a_thread_reads_is_a_cancellation(
    people: "type[People]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.bin").write_bytes(bytes(range(256)) * 30)
    reading, go_on = threading.Event(), threading.Event()

    def slow(real: "Callable[..., object]") -> "Callable[..., object]":
        def read(*arguments: object) -> object:
            reading.set()
            assert go_on.wait(30)
            return real(*arguments)

        return read

    async with MemoryHub(limits=LIMITS) as hub, people(hub).client("ada") as ada, people(hub).client("bob") as bob:
        for name in ("refer_to", "partial_of"):
            with monkeypatch.context() as patched:
                patched.setattr(chunks, name, slow(getattr(chunks, name)))
                if name == "refer_to":
                    work: asyncio.Future[object] = asyncio.ensure_future(
                        ada.send_file(tmp_path / "model.bin", to="bob", chunked=True)
                    )
                else:
                    await ada.send_file(tmp_path / "model.bin", to="bob", chunked=True)
                    (message,) = (await bob.inbox()).messages
                    work = asyncio.ensure_future(bob.receive_file(message, tmp_path / "copy"))
                while not reading.is_set():
                    await asyncio.sleep(0.001)
                for _ in range(2):
                    work.cancel()
                    await asyncio.sleep(0.01)
                go_on.set()
                with pytest.raises(asyncio.CancelledError):
                    await work
            reading.clear()
            go_on.clear()
        await bob.receive_file(message, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == (tmp_path / "model.bin").read_bytes()


async def test_nobody_is_not_everybody(people: "type[People]", tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    async with MemoryHub() as hub, people(hub).client("ada") as ada:
        for chunked in (False, True):
            with pytest.raises(Rejected, match="to names nobody") as refused:
                await ada.send_file(tmp_path / "a", to=[], chunked=chunked)
            assert refused.value.code == "no_recipient"
        with pytest.raises(Rejected, match="to names nobody"):
            await ada.send("x", to=[])
        with pytest.raises(Rejected, match="to names nobody"):
            await ada.send("x", to=())
        assert (await ada.history()).messages == ()
        assert await ada.files() == ()
        assert (await ada.send("x")).room == "main"


async def test_two_files_of_one_content_are_two(people: "type[People]", tmp_path: Path) -> None:
    async with MemoryHub() as hub, people(hub).client("ada") as ada, people(hub).client("bob") as bob:
        for name in ("__init__.py", "setup.cfg"):
            (tmp_path / name).write_bytes(b"")
        ids = {
            (await ada.send_file(tmp_path / name, to="bob", chunked=True)).id for name in ("__init__.py", "setup.cfg")
        }
        assert len(ids) == 2
        assert [file.name for file in await bob.files()] == ["__init__.py", "setup.cfg"]


async def test_a_file_goes_to_a_channel_and_is_withdrawn(people: "type[People]", tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    async with MemoryHub(limits=LIMITS) as hub, people(hub).client("ada") as ada, people(hub).client("bob") as bob:
        await ada.send_file(tmp_path / "empty", chunked=True)
        (message,) = (await bob.history()).messages
        assert body_of(message) == {
            "type": "chunked",
            "file": (await bob.files())[0].file,
            "name": "empty",
            "bytes": 0,
            "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "chunks": 0,
        }
        await bob.receive_file(message, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == b""
        assert (await ada.withdraw_file((await ada.files())[0].file)).ended
        assert await bob.files() == ()
        with pytest.raises(ValueError, match="to a role or to a channel"):
            await ada.send_file(tmp_path / "empty", target="all", chunked=True)
        with pytest.raises(FileRefused, match="not a plain file"):
            await ada.send_file(tmp_path, chunked=True)


async def test_a_target_is_names_a_channel_or_the_members_of_a_role(people: "type[People]", tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob, everybody.client("eve") as eve:
            with pytest.raises(Rejected, match="not_found"):
                await ada.send_file(tmp_path / "x", target="role:reviewer", chunked=True)
            for who in (bob, eve):
                await who.join_role("reviewer")
            for target, readers in (("bob", {bob}), ("eve, bob", {bob, eve}), ("role:reviewer", {bob, eve})):
                sent = await ada.send_file(tmp_path / "x", target=target, chunked=True)
                assert list(sent.to or ()) == target.split(", ")
                assert {who for who in (bob, eve) if await who.files()} == readers
                await ada.withdraw_file((await ada.files())[0].file)
            await ada.send_file(tmp_path / "x", target="main:general", chunked=True)
            assert [file.channel for file in await eve.files()] == ["main:general"]
            for who in (bob, eve):
                await who.leave_role("reviewer")
            with pytest.raises(FileRefused, match="role:reviewer has no members"):
                await ada.send_file(tmp_path / "x", target="role:reviewer", chunked=True)


async def test_a_file_ends_at_its_date(people: "type[People]", tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    async with MemoryHub(limits=Limits(file_ttl_ms=5_000)) as hub, people(hub).client("ada") as ada:
        await ada.send_file(tmp_path / "x", to="ada", chunked=True)
        await hub.advance(4_000)
        assert len(await ada.files()) == 1
        await hub.advance(2_000)
        assert await ada.files() == ()
        assert hub.state.files.bytes == 0
