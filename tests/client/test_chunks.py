"""Files in chunks, step by step, against a shelf that stands for the hub: any size, cut off anywhere, tampered with."""

import fcntl
import os
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from synapse.client.chunks import Manifest, carry_out, manifest_in, received, sent
from synapse.client.files import FileRefused, partial_of
from synapse.errors import Disconnected, Rejected

CHUNK = 8


class Shelf:
    """One file at a hub of paper. cut_after: the connection is lost at this request, before or after it took effect."""

    def __init__(self) -> None:
        self.about: dict[str, Any] = {}
        self.stored: dict[int, bytes] = {}
        self.asked: list[str] = []
        self.complete = False
        self.ended = False
        self.cut_after: int | None = None
        self.cut_late = False
        self.lie: dict[str, Any] = {}

    def ask(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(kind)
        is_cut = self.cut_after is not None and len(self.asked) > self.cut_after
        if is_cut and not self.cut_late:
            raise Disconnected(1006, "cut")
        answer: dict[str, Any] = getattr(self, kind.replace("file.", "on_"))(body)
        if is_cut:
            raise Disconnected(1006, "cut")
        return answer

    def on_begin(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.about.get("sha256") != body["sha256"]:
            self.about, self.stored, self.complete = body, {}, False
        count = -(-body["bytes"] // CHUNK)
        return {"file": "f1", "chunk_bytes": CHUNK, "chunks": count}

    def on_show(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.ended:
            raise Rejected("not_found", "there is no file f1")
        there = sorted(index for index in self.stored if body["after"] is None or index > body["after"])
        page = there[:3]
        return {
            "chunk_bytes": CHUNK,
            "name": self.about["name"],
            "bytes": self.about["bytes"],
            "sha256": self.about["sha256"],
            "chunks": -(-self.about["bytes"] // CHUNK),
            "complete": self.complete,
            "digests": [{"index": index, "sha256": sha256(self.stored[index]).hexdigest()} for index in page],
            "next": page[-1] if len(there) > 3 else None,
            **self.lie,
        }

    def on_put(self, body: dict[str, Any]) -> dict[str, Any]:
        data = b64decode(body["data"])
        assert sha256(data).hexdigest() == body["sha256"]
        assert not self.complete
        self.stored[body["index"]] = data
        return {}

    def on_complete(self, _: dict[str, Any]) -> dict[str, Any]:
        assert b"".join(self.stored[index] for index in sorted(self.stored)).__len__() == self.about["bytes"]
        self.complete = True
        return {}

    def on_read(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"data": b64encode(self.stored[body["index"]]).decode(), **self.lie}

    def on_receive(self, _: dict[str, Any]) -> dict[str, Any]:
        if self.ended:
            raise Rejected("not_found", "there is no file f1")
        return {"ended": True}

    def on_withdraw(self, _: dict[str, Any]) -> dict[str, Any]:
        self.about, self.stored = {}, {}
        return {"ended": True}


def shelved(path: Path, content: bytes) -> tuple[Shelf, Manifest]:
    path.write_bytes(content)
    shelf = Shelf()
    return shelf, carry_out(sent(path, to=("bob",)), shelf.ask)


def leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(".part")]


borders = st.one_of(st.integers(0, 5 * CHUNK), st.sampled_from([0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK]))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    size=borders, fill=st.binary(min_size=1, max_size=9), cuts=st.lists(st.tuples(st.integers(0, 12), st.booleans()))
)
@example(size=0, fill=b"x", cuts=[])
@example(size=3 * CHUNK, fill=b"\0", cuts=[(4, False), (4, True)])
def test_any_file_arrives_whole_wherever_it_is_cut_off(
    tmp_path: Path, size: int, fill: bytes, cuts: list[tuple[int, bool]]
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    content = (fill * size)[:size]
    source.write_bytes(content)
    target.unlink(missing_ok=True)
    shelf = Shelf()

    def whole(step: Any) -> Any:
        """Once for each cut, and once more without one."""
        for after, late in cuts:
            shelf.cut_after, shelf.cut_late = len(shelf.asked) + after, late
            try:
                return carry_out(step(), shelf.ask)
            except Disconnected:
                assert not target.exists() or target.read_bytes() == content
        shelf.cut_after = None
        return carry_out(step(), shelf.ask)

    manifest = whole(lambda: sent(source, to=("bob",)))
    assert manifest_in(manifest.body()).body() == manifest.body()  # type: ignore[union-attr]  # it is one
    assert whole(lambda: received(manifest, target)) == str(target)
    assert target.read_bytes() == content
    assert leftovers(tmp_path) == []
    cuts_late = sum(late for _, late in cuts)
    for kind in ("file.put", "file.read"):
        assert shelf.asked.count(kind) <= -(-size // CHUNK) + len(cuts), "only what is missing goes over again"
    assert cuts_late <= len(cuts)


def test_only_what_is_missing_is_sent_and_fetched_again(tmp_path: Path) -> None:
    source, content = tmp_path / "source", bytes(range(5 * CHUNK))
    source.write_bytes(content)
    shelf = Shelf()
    shelf.cut_after = 4  # begin, show, two chunks
    with pytest.raises(Disconnected):
        carry_out(sent(source, to=("bob",)), shelf.ask)
    shelf.cut_after, shelf.asked = None, []
    manifest = carry_out(sent(source, to=("bob",)), shelf.ask)
    assert shelf.asked == ["file.begin", "file.show", *["file.put"] * 3, "file.complete"]
    shelf.asked, shelf.cut_after = [], 5  # show twice, three chunks
    with pytest.raises(Disconnected):
        carry_out(received(manifest, tmp_path / "target"), shelf.ask)
    assert (leftovers(tmp_path) != [], (tmp_path / "target").exists()) == (True, False)
    shelf.asked, shelf.cut_after = [], None
    carry_out(received(manifest, tmp_path / "target"), shelf.ask)
    assert shelf.asked == ["file.show", "file.show", "file.read", "file.read", "file.receive"]


def test_what_changes_while_it_is_sent_is_withdrawn(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for change in (b"x" * 16, b"y" * 17, b"y" * 15, b""):
        source.write_bytes(b"y" * 16)
        shelf, steps = Shelf(), sent(source, to=("bob",))
        kind, body = next(steps)
        shelf.ask(kind, body)
        source.write_bytes(change)
        with pytest.raises(FileRefused, match=f"{source}: changed while it was sent"):
            answer = shelf.on_begin(body)
            while True:
                kind, body = steps.send(answer)
                answer = shelf.ask(kind, body)
        assert (shelf.asked[-1], shelf.complete) == ("file.withdraw", False)


def test_a_wrong_chunk_left_by_a_dead_sender_is_replaced(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"a" * CHUNK + b"b" * CHUNK)
    shelf = Shelf()
    shelf.cut_after = 3
    with pytest.raises(Disconnected):
        carry_out(sent(source, to=("bob",)), shelf.ask)
    shelf.cut_after, shelf.stored[0] = None, b"z" * CHUNK
    manifest = carry_out(sent(source, to=("bob",)), shelf.ask)
    carry_out(received(manifest, tmp_path / "target"), shelf.ask)
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


@pytest.mark.bad_input("BI-112")
def test_a_wrong_or_missing_chunk_is_named_and_nothing_is_at_the_target(tmp_path: Path) -> None:
    shelf, manifest = shelved(tmp_path / "source", bytes(range(3 * CHUNK)))
    target = tmp_path / "target"

    def refused(match: str, **lie: Any) -> None:
        shelf.lie = lie
        with pytest.raises(FileRefused, match=match):
            carry_out(received(manifest, target), shelf.ask)
        assert not target.exists()

    for data in (b64encode(b"8" * CHUNK).decode(), b64encode(b"8").decode(), "", "no base64"):
        refused(r"chunk 0 of f1 \(source\) is not what its sender sent", data=data)
    digests = [{"index": index, "sha256": sha256(shelf.stored[index]).hexdigest()} for index in (0, 2)]
    refused(r"chunk 1 of f1 \(source\) is missing", digests=digests)
    for lie in ({"sha256": "0" * 64}, {"bytes": 23}, {"chunks": 4}):
        refused("say different things", **lie)
    refused("did not say `chunk_bytes`", chunk_bytes="8")
    shelf.lie = {}
    shelf.stored[1] = b"z" * CHUNK  # each chunk is what the hub says, and the whole is not
    refused("the whole is not what was announced")
    assert leftovers(tmp_path) == [], "it can never become right"


@pytest.mark.bad_input("BI-112")
def test_nothing_that_is_there_is_overwritten(tmp_path: Path) -> None:
    shelf, manifest = shelved(tmp_path / "source", b"content")
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    with pytest.raises(FileRefused, match=f"{target}: another file, of 4 bytes, is there"):
        carry_out(received(manifest, target), shelf.ask)
    target.unlink()
    target.symlink_to(tmp_path / "source")
    with pytest.raises(FileRefused, match="a symbolic link, is there"):
        carry_out(received(manifest, target), shelf.ask)
    assert (target.is_symlink(), leftovers(tmp_path)) == (True, [])
    target.unlink()
    steps = received(manifest, target)  # it comes while the chunks are fetched
    request = next(steps)
    with pytest.raises(FileRefused, match="another file, of"):
        while True:
            answer = shelf.ask(*request)
            if request[0] == "file.read":
                target.write_bytes(b"mine")
            request = steps.send(answer)
    assert target.read_bytes() == b"mine"


def test_a_run_that_died_in_place_is_told_to_the_hub_and_damaged_remains_are_fetched_again(tmp_path: Path) -> None:
    shelf, manifest = shelved(tmp_path / "source", bytes(range(3 * CHUNK)))
    target = tmp_path / "target"
    target.write_bytes((tmp_path / "source").read_bytes())
    shelf.asked = []
    assert carry_out(received(manifest, target), shelf.ask) == str(target)
    assert shelf.asked == ["file.receive"]
    target.unlink()
    shelf.asked, shelf.cut_after = [], 3
    with pytest.raises(Disconnected):
        carry_out(received(manifest, target), shelf.ask)
    (partial,) = leftovers(tmp_path)
    with open(tmp_path / partial, "r+b") as file:
        file.write(b"\xff")  # the disk lied about the first chunk
        file.seek(0, os.SEEK_END)
        file.write(b"and more than there should be" * 3)
    shelf.asked, shelf.cut_after = [], None
    carry_out(received(manifest, target), shelf.ask)
    assert target.read_bytes() == (tmp_path / "source").read_bytes()
    assert shelf.asked.count("file.read") == 2


def test_two_that_receive_the_same_file_here_do_not_mix(tmp_path: Path) -> None:
    shelf, manifest = shelved(tmp_path / "source", b"content")
    target = tmp_path / "target"
    with open(partial_of(str(target), manifest.file, manifest.sha256), "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(FileRefused, match="another process"):
            carry_out(received(manifest, target), shelf.ask)
    carry_out(received(manifest, target), shelf.ask)
    with pytest.raises(FileRefused, match="No such file"):
        carry_out(received(manifest, tmp_path / "nowhere" / "target"), shelf.ask)


def test_a_file_that_has_ended_leaves_nothing_and_one_that_was_received_needs_no_telling(tmp_path: Path) -> None:
    shelf, manifest = shelved(tmp_path / "source", b"content")
    shelf.ended = True
    with pytest.raises(Rejected, match="there is no file"):
        carry_out(received(manifest, tmp_path / "target"), shelf.ask)
    assert leftovers(tmp_path) == []
    (tmp_path / "target").write_bytes(b"content")
    assert carry_out(received(manifest, tmp_path / "target"), shelf.ask) == str(tmp_path / "target")


def test_what_is_no_manifest_is_none(tmp_path: Path) -> None:
    body = shelved(tmp_path / "source", b"x")[1].body()
    assert manifest_in(body) is not None
    for other in (None, "text", {}, {**body, "type": "file"}, *({**body, name: None} for name in body)):
        assert manifest_in(other) is None
    (tmp_path / "a\nb").write_bytes(b"")
    assert shelved(tmp_path / "a\nb", b"")[1].name == "a_b"
