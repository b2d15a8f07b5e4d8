"""Files by reference: what is received is what was sent, or it is refused with what differs."""

import errno
import os
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synapse.client import files
from synapse.client.client import Client, body_of
from synapse.client.files import FileReference, FileRefused, file_in, receive, refer_to

if TYPE_CHECKING:
    from tests.client.conftest import People

from synapse.testing import MemoryHub


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=5_000), other=st.binary(max_size=5_000))
def test_only_the_very_same_content_is_received(tmp_path: Path, content: bytes, other: bytes) -> None:
    path, copy = tmp_path / "file", tmp_path / "copy"
    copy.unlink(missing_ok=True)
    path.write_bytes(content)
    reference = refer_to(path)
    assert (reference.bytes, receive(reference)) == (len(content), str(path))
    path.write_bytes(other)
    if other == content:
        assert receive(reference, copy) == str(copy)
        assert copy.read_bytes() == content
    else:
        with pytest.raises(FileRefused, match=r"bytes it was sent with|SHA-256 differs"):
            receive(reference, copy)
        assert not copy.exists(), "no copy is left of what was not sent"


def test_a_reference_survives_its_message_and_what_is_no_reference_is_none(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    reference = refer_to(path)
    back = file_in(reference.body())
    assert back is not None
    assert back.body() == reference.body()
    for body in (
        None,
        "text",
        {},
        {"type": "file"},
        {**reference.body(), "bytes": "1"},
        {**reference.body(), "type": "x"},
    ):
        assert file_in(body) is None


def test_what_is_no_plain_file_is_refused_and_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "pipe", tmp_path, tmp_path / "nothing", Path("/dev/zero")):
        with pytest.raises(FileRefused):
            refer_to(name)
        with pytest.raises(FileRefused):
            receive(FileReference(path=str(name), bytes=0, sha256="", host="box"))


def test_a_link_is_sent_as_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    assert refer_to(tmp_path / "link").path == str(tmp_path / "file")


def test_a_file_that_grows_while_it_is_read_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    monkeypatch.setattr(files, "_CHUNK_BYTES", 10)
    opened = files.opened

    def grow(name: str, reference: FileReference | None = None) -> object:
        file = opened(name, reference)
        file.read(10)
        with path.open("ab") as more:
            more.write(b"y")
        return file

    monkeypatch.setattr(files, "opened", grow)
    with pytest.raises(FileRefused, match="changed while it was read"):
        refer_to(path)


def test_a_copy_never_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "mine").write_bytes(b"mine")
    with pytest.raises(FileRefused, match=r"another file, of 4 bytes, is there, and nothing is overwritten"):
        receive(refer_to(tmp_path / "file"), tmp_path / "mine")
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_a_copy_that_is_there_already_is_the_copy(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"same")
    reference = refer_to(tmp_path / "file")
    assert receive(reference, tmp_path / "copy") == str(tmp_path / "copy")
    assert receive(reference, tmp_path / "copy") == str(tmp_path / "copy")
    (tmp_path / "file").unlink()
    assert receive(reference, tmp_path / "copy") == str(tmp_path / "copy"), "whatever became of the first one"
    (tmp_path / "copy").write_bytes(b"samE")
    with pytest.raises(FileRefused, match="another file, of 4 bytes"):
        receive(reference, tmp_path / "copy")
    (tmp_path / "link").symlink_to("copy")
    with pytest.raises(FileRefused, match="a symbolic link"):
        receive(reference, tmp_path / "link")


def test_a_copy_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "file", tmp_path / "to" / "copy"
    target.parent.mkdir()
    source.write_bytes(b"what was sent")
    reference = refer_to(source)
    plain, seen = files.put_in_place, list[list[str]]()

    def watch(content: BinaryIO, partial: str, at: str) -> None:
        seen.append(os.listdir(target.parent))
        plain(content, partial, at)

    monkeypatch.setattr(files, "put_in_place", watch)
    partial = Path(files.partial_of(str(target), "copy", reference.sha256))
    partial.write_bytes(b"what a run left that died, and is longer")
    assert receive(reference, target) == str(target)
    assert seen == [[partial.name]], "nothing is at the target before all of it was checked"
    assert (target.read_bytes(), os.listdir(target.parent)) == (b"what was sent", ["copy"])
    target.unlink()
    source.write_bytes(b"something elsE")
    with pytest.raises(FileRefused, match="than the 13 bytes"):
        receive(reference, target)
    assert os.listdir(target.parent) == []


@pytest.mark.parametrize("there", [False, True])
def test_a_file_system_without_links_is_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    def refuse(source: str, target: str) -> None:
        if there:
            Path(target).write_bytes(b"came first")
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(FileRefused, match="is there, and nothing is overwritten") if there else nullcontext():
        receive(refer_to(tmp_path / "file"), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (b"came first" if there else b"x")
    assert sorted(os.listdir(tmp_path)) == ["copy", "file"]


async def test_a_client_sends_and_receives_a_file(tmp_path: Path, people: "type[People]") -> None:
    path = tmp_path / "report.txt"
    path.write_text("all of it")
    async with MemoryHub() as hub, people(hub).client("ada") as ada, people(hub).client("bob") as bob:
        await ada.send_file(path, to="bob", subject="the report")
        taken = await bob.take(wait=5)
        assert taken is not None
        assert await bob.receive_file(taken.message) == path
        assert (await bob.receive_file(taken.message, tmp_path / "copy")).read_text() == "all of it"
        assert isinstance(body_of(taken.message), dict)
        path.write_text("something else")
        with pytest.raises(FileRefused):
            await bob.receive_file(taken.message)
        await ada.send("no file", to="bob")
        plain = await bob.take(wait=5)
        assert plain is not None
        with pytest.raises(FileRefused, match="refers to no file"):
            await bob.receive_file(plain.message)
    assert isinstance(ada, Client)
    assert threading.active_count() < 50
