"""Files in chunks: who may put, complete, read and end one; what each limit says; and a model that keeps the books."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.core.conftest import World

from synapse.core.answers import look
from synapse.core.file_answers import chunk_to_read
from synapse.core.files import decide_expired
from synapse.core.retention import FILES, may_be_dropped, pinned
from synapse.core.state import decode_state, digest, encode_state
from synapse.errors import Rejected
from synapse.protocol.commands import CreateRoom, DeleteRoom, ForgetAgent, JoinRoom
from synapse.protocol.file_commands import (
    BeginFile,
    CompleteFile,
    ListFiles,
    PutChunk,
    ReadChunk,
    ReceiveFile,
    ShowFile,
    WithdrawFile,
)
from synapse.protocol.file_replies import FileBegan, FileInfo, FilesPage
from synapse.protocol.limits import Limits
from synapse.protocol.member_commands import InviteMember

CHUNK = 10
TTL_MS = 1_000
LIMITS = Limits(
    chunk_bytes_max=CHUNK,
    file_bytes_max=45,
    file_ttl_ms=TTL_MS,
    files_max=5,
    files_per_agent_max=3,
    files_bytes_max=100,
    files_bytes_per_agent_max=60,
)
NAMES = ("ada", "bob", "cy")


def a_world() -> World:
    world = World(LIMITS)
    world.join(*NAMES)
    return world


@contextmanager
def refused(code: str) -> Iterator[None]:
    """What is done inside is refused with this code."""
    with pytest.raises(Rejected) as caught:
        yield
    assert caught.value.code == code


def hexed(data: bytes) -> str:
    return sha256(data).hexdigest()


def begin(world: World, content: bytes, *, by: str = "ada", **place: Any) -> FileBegan:
    place = place or {"to": ("bob",)}
    began = world.do(BeginFile(name="x", bytes=len(content), sha256=hexed(content), **place), by)[1]
    assert isinstance(began, FileBegan)
    return began


def put(world: World, file: str, content: bytes, index: int, by: str = "ada") -> None:
    data = content[index * CHUNK : (index + 1) * CHUNK]
    world.do(PutChunk(file=file, index=index, data=data, sha256=hexed(data)), by)


def whole(world: World, content: bytes, **more: Any) -> str:
    began = begin(world, content, **more)
    for index in range(began.chunks):
        put(world, began.file, content, index, more.get("by", "ada"))
    world.do(CompleteFile(file=began.file), more.get("by", "ada"))
    return began.file


def show(world: World, file: str, by: str) -> FileInfo:
    shown = look(world.state, world.rules, ShowFile(file=file), world.by(by))
    assert isinstance(shown, FileInfo)
    return shown


def listed(world: World, by: str) -> list[str]:
    page = look(world.state, world.rules, ListFiles(), world.by(by))
    assert isinstance(page, FilesPage)
    return [file.file for file in page.files]


def test_a_file_is_read_by_those_it_is_for_once_it_is_complete_and_ends_when_all_have_it() -> None:
    world, content = a_world(), b"0123456789abcdefghij!"
    began = begin(world, content, to=("bob", "cy"))
    assert (began.chunks, began.chunk_bytes) == (3, CHUNK)
    put(world, began.file, content, 2)
    put(world, began.file, content, 0)
    with refused("not_found"):
        show(world, began.file, "bob")
    with pytest.raises(Rejected, match=r"chunk 1 of f\d+ is missing") as missing:
        world.do(CompleteFile(file=began.file), "ada")
    assert missing.value.facts == {"file": began.file, "index": 1, "missing": 1}
    put(world, began.file, content, 1)
    world.do(CompleteFile(file=began.file), "ada")
    shown = show(world, began.file, "bob")
    assert shown.digests != msgspec.UNSET
    assert [chunk.sha256 for chunk in shown.digests] == [hexed(content[at : at + 10]) for at in (0, 10, 20)]
    seq = chunk_to_read(world.state, ReadChunk(file=began.file, index=2), world.by("cy"))
    assert b'"IQ=="' in next(row.body for row in world.rows if row.seq == seq), "where the chunk lies are its data"
    assert (listed(world, "bob"), listed(world, "ada")) == ([began.file], [began.file])
    world.do(ReceiveFile(file=began.file), "bob")
    assert show(world, began.file, "ada").received == ("bob",)
    world.do(ReceiveFile(file=began.file), "cy")
    assert (listed(world, "bob"), world.state.files.bytes, list(world.state.files.pinned())) == ([], 0, [])


def test_what_is_begun_again_is_the_same_file_until_it_ends() -> None:
    world, content = a_world(), b"0123456789ab"
    file = begin(world, content).file
    put(world, file, content, 0)
    assert begin(world, content).file == file
    assert begin(world, content, to=("cy",)).file != file, "another place"
    assert begin(world, content, by="bob", to=("bob",)).file != file, "another sender"
    named = world.do(BeginFile(name="y", bytes=12, sha256=hexed(content), to=("bob",)), "ada")[1]
    assert isinstance(named, FileBegan)
    assert named.file != file, "another name"
    before = world.state.seq
    put(world, file, content, 0)
    assert world.state.seq == before, "what is there is not stored twice"
    world.do(WithdrawFile(file=file), "ada")
    assert begin(world, content).file != file


def test_until_it_is_complete_a_chunk_is_replaced_and_then_it_stands() -> None:
    world, content = a_world(), b"0123456789"
    file = begin(world, content).file
    put(world, file, b"9876543210", 0)
    put(world, file, content, 0)
    world.do(CompleteFile(file=file), "ada")
    with refused("already_exists"):
        put(world, file, b"9876543210", 0)
    put(world, file, content, 0)
    assert world.do(CompleteFile(file=file), "ada")[0] == []


def test_who_does_not_read_what_was_said_before_does_not_read_the_files_of_before() -> None:
    world = a_world()
    world.do(CreateRoom(room="den", private=True), "ada")
    before = whole(world, b"before", channel="den:general")
    begun = begin(world, b"between", channel="den:general").file
    world.do(InviteMember(place="den", agent="bob"), "ada")
    world.do(InviteMember(place="den", agent="cy", history=True), "ada")
    world.do(JoinRoom(room="den"), "bob")
    world.do(JoinRoom(room="den"), "cy")
    put(world, begun, b"between", 0)
    world.do(CompleteFile(file=begun), "ada")
    with refused("not_found"):
        show(world, before, "bob")
    with refused("not_found"):
        chunk_to_read(world.state, ReadChunk(file=before, index=0), world.by("bob"))
    assert (listed(world, "bob"), listed(world, "cy"), listed(world, "ada")) == (
        [begun],
        [before, begun],
        [before, begun],
    )
    assert digest(decode_state(encode_state(world.state))) == digest(world.state)


def test_a_file_in_a_channel_is_for_who_can_read_it_and_stays_until_its_date() -> None:
    world = a_world()
    world.do(CreateRoom(room="lab"), "operator")
    file = whole(world, b"x", channel="lab:general")
    world.do(ReceiveFile(file=file), "bob")
    assert show(world, file, "cy").channel == "lab:general"
    by = world.by("cy")
    by.rooms = frozenset({"main"})  # a token for other rooms sees neither room nor file
    with refused("not_found"):
        look(world.state, world.rules, ShowFile(file=file), by)
    world.do(DeleteRoom(room="lab"), "operator")
    with refused("not_found"):
        show(world, file, "cy")
    assert show(world, file, "ada").channel is msgspec.UNSET


def test_an_operator_sees_that_a_file_is_there_and_reads_only_what_all_may() -> None:
    world = a_world()
    world.do(CreateRoom(room="den", private=True), "ada")
    public = whole(world, b"for all", channel="main:general")
    hidden = [whole(world, b"of the den", channel="den:general"), whole(world, b"for bob", to=("bob",))]
    hidden.append(begin(world, b"on its way", by="bob", channel="main:general").file)
    assert listed(world, "operator") == [public, *hidden]
    told = show(world, public, "operator")
    assert told.digests
    assert (told.name, told.sha256) == ("x", hexed(b"for all"))
    chunk_to_read(world.state, ReadChunk(file=public, index=0), world.by("operator"))
    for file in hidden:
        told = show(world, file, "operator")
        assert (told.name, told.sha256, told.digests) == (None, None, ())
        with refused("not_permitted"):
            chunk_to_read(world.state, ReadChunk(file=file, index=0), world.by("operator"))
    page = look(world.state, world.rules, ListFiles(), world.by("operator"))
    assert isinstance(page, FilesPage)
    assert [it.name for it in page.files] == ["x", None, None, None]
    world.do(WithdrawFile(file=hidden[0]), "operator")
    assert listed(world, "operator") == [public, *hidden[1:]]


def test_a_file_ends_at_its_date_which_begins_anew_when_it_is_complete() -> None:
    world = a_world()
    file, late = begin(world, b"x").file, begin(world, b"y").file
    world.at_ms += TTL_MS - 1
    put(world, file, b"x", 0)
    world.do(CompleteFile(file=file), "ada")
    world.at_ms += 1
    with refused("not_found"):
        show(world, late, "ada")
    assert [event.file for event in decide_expired(world.state, world.at_ms, 9)] == [int(late[1:])]  # type: ignore[union-attr]  # they are of files
    world.at_ms += TTL_MS - 2
    show(world, file, "bob")
    world.at_ms += 1
    with refused("not_found"):
        show(world, file, "bob")


def test_begun_again_after_its_date_it_is_another_file_also_before_the_tick() -> None:
    world = a_world()
    old = begin(world, b"x").file
    world.at_ms += TTL_MS
    new = begin(world, b"x").file
    assert old != new
    assert listed(world, "ada") == [new]
    world.record(decide_expired(world.state, world.at_ms, 9), "hub")
    assert (listed(world, "ada"), world.state.files.bytes) == ([new], 1)


def test_space_is_counted_by_agent_and_in_all_and_given_back() -> None:
    world = a_world()
    first = begin(world, b"a" * 45).file
    with pytest.raises(Rejected, match=r"45 of 60 bytes \(files_bytes_per_agent_max\)") as full:
        begin(world, b"b" * 16)
    assert full.value.facts == {"limit": "files_bytes_per_agent_max", "value": 60, "used": 45}
    begin(world, b"b" * 15)
    begin(world, b"")
    with pytest.raises(Rejected, match="files_per_agent_max"):
        begin(world, b"", to=("cy",))
    begin(world, b"c" * 40, by="bob", to=("ada",))
    with pytest.raises(Rejected, match="files_bytes_max"):
        begin(world, b"d", by="cy")
    begin(world, b"", by="cy")
    with pytest.raises(Rejected, match="files_max"):
        begin(world, b"", by="cy", to=("ada",))
    world.do(WithdrawFile(file=first), "operator")
    begin(world, b"e" * 45, by="cy", to=("ada",))


def test_recipients_that_were_never_seen_are_made_when_asked_for() -> None:
    world = a_world()
    with refused("not_found"):
        begin(world, b"x", to=("dora",))
    file = whole(world, b"x", to=("dora", "bob"), create=True)
    assert show(world, file, "dora").to == ("bob", "dora")


def test_who_is_forgotten_is_not_waited_for() -> None:
    world = a_world()
    file = whole(world, b"x", to=("bob", "cy"))
    world.do(ForgetAgent(name="cy"), "operator")
    world.do(ReceiveFile(file=file), "bob")
    assert listed(world, "ada") == []


def test_a_repeat_under_its_key_gives_the_same_answer() -> None:
    world, content = a_world(), b"0123456789"
    for command in (
        BeginFile(name="x", bytes=10, sha256=hexed(content), to=("bob",)),
        PutChunk(file="", index=0, data=content, sha256=hexed(content)),
        CompleteFile(file=""),
    ):
        if not isinstance(command, BeginFile):
            command = msgspec.structs.replace(command, file=f"f{max(world.state.files.by_id)}")
        first = world.do(command, "ada", key=type(command).__name__)[1]
        again, second = world.do(command, "ada", key=type(command).__name__)
        assert (again, second) == ([], first)


def test_chunks_of_files_on_their_way_are_pinned_and_those_of_ended_ones_may_be_dropped() -> None:
    world = a_world()
    file = whole(world, b"0123456789ab")
    chunks = [row for row in world.rows if row.type == "file.chunked"]
    assert {row.seq for row in chunks} <= set(pinned(world.state))
    world.do(WithdrawFile(file=file), "ada")
    assert not {row.seq for row in chunks} & set(pinned(world.state))
    assert all(may_be_dropped({FILES: row.seq}, row.seq, row.type, (row.key,)) for row in chunks)
    assert not any(may_be_dropped({FILES: row.seq - 1}, row.seq, row.type, (row.key,)) for row in chunks)


@pytest.mark.bad_input("BI-109")
@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("bad_request", {"name": ""}),
        ("bad_request", {"name": "a/b"}),
        ("bad_request", {"name": "a\nb"}),
        ("bad_request", {"name": "x" * 256}),
        ("bad_request", {"sha256": "0" * 63}),
        ("bad_request", {"sha256": "G" * 64}),
        ("bad_request", {"bytes": -1}),
        ("bad_request", {"channel": "main:general"}),
        ("too_large", {"bytes": 46}),
        ("not_found", {"to": ("nobody",)}),
        ("not_found", {"to": (), "channel": "main:nothing"}),
        ("bad_name", {"to": ("No Name",)}),
        ("limit", {"to": tuple(f"a{n}" for n in range(65)), "create": True}),
    ],
)
def test_what_no_file_can_be_is_refused(code: str, change: dict[str, Any]) -> None:
    world = a_world()
    asked = BeginFile(name="x", bytes=1, sha256=hexed(b"x"), to=("bob",))
    with refused(code):
        world.do(msgspec.structs.replace(asked, **change), "ada")
    assert world.state.files.by_id == {}


@pytest.mark.bad_input("BI-110", "BI-111")
def test_a_chunk_that_does_not_belong_is_refused_with_its_index() -> None:
    world, content = a_world(), b"0123456789ab"
    file = begin(world, content).file

    def bring(code: str, by: str = "ada", **change: Any) -> Rejected:
        good = PutChunk(file=file, index=1, data=b"ab", sha256=hexed(b"ab"))
        with pytest.raises(Rejected) as caught:
            world.do(msgspec.structs.replace(good, **change), by)
        assert caught.value.code == code
        return caught.value

    assert bring("bad_request", data=b"aB").facts == {"path": "$.body.data", "file": file, "index": 1}
    short = bring("bad_request", data=b"abc", sha256=hexed(b"abc")).facts
    assert short == {"path": "$.body.data", "file": file, "index": 1, "bytes": 2}
    for index in (-1, 2):
        assert bring("bad_request", index=index).facts["chunks"] == 2
    bring("bad_request", file="m1")
    bring("not_found", file="f1")
    bring("not_found", by="bob")
    assert world.state.files.by_id[int(file[1:])].chunks == {}
    put(world, file, content, 0)
    put(world, file, content, 1)
    with refused("not_found"):
        world.do(ReceiveFile(file=file), "bob")
    world.do(CompleteFile(file=file), "ada")
    bring("not_permitted", by="bob")
    bring("not_found", by="cy")
    for index in (-1, 2):
        with refused("bad_request"):
            chunk_to_read(world.state, ReadChunk(file=file, index=index), world.by("bob"))
    with refused("not_permitted"):
        world.do(WithdrawFile(file=file), "bob")
    with refused("bad_request"):
        look(world.state, world.rules, ListFiles(after="x"), world.by("bob"))


class Books(RuleBasedStateMachine):
    """The model: which files there are, which of their chunks, and who has read them."""

    def __init__(self) -> None:
        super().__init__()
        self.world = a_world()
        self.model: dict[str, dict[str, Any]] = {}

    contents = st.integers(0, 45).map(lambda size: bytes(range(size)))
    who = st.sampled_from(NAMES)

    def alive(self) -> dict[str, dict[str, Any]]:
        return {file: kept for file, kept in self.model.items() if kept["until"] > self.world.at_ms}

    @rule(content=contents, by=who, to=st.sets(who, min_size=1))
    def begin(self, content: bytes, by: str, to: set[str]) -> None:
        alive = self.alive()
        same = [file for file, kept in alive.items() if (kept["by"], kept["to"], kept["content"]) == (by, to, content)]
        # A file that has ended counts until the tick has told so, or its content comes again.
        mine = [kept for kept in self.model.values() if kept["by"] == by]
        is_full = (
            len(mine) >= 3
            or sum(len(kept["content"]) for kept in mine) + len(content) > 60
            or len(self.model) >= 5
            or sum(len(kept["content"]) for kept in self.model.values()) + len(content) > 100
        )
        if is_full and not same:
            with refused("limit"):
                begin(self.world, content, by=by, to=tuple(to))
            return
        file = begin(self.world, content, by=by, to=tuple(to)).file
        if same:
            assert [file] == same
            return
        for old in [
            old for old, kept in self.model.items() if (kept["by"], kept["to"], kept["content"]) == (by, to, content)
        ]:
            del self.model[old]
        until = self.world.at_ms + TTL_MS
        self.model[file] = {"by": by, "to": to, "content": content, "there": set(), "done": set(), "until": until}
        self.model[file]["complete"] = False

    @rule(data=st.data())
    def put(self, data: st.DataObject) -> None:
        alive = self.alive()
        if not alive:
            return
        file = data.draw(st.sampled_from(sorted(alive)))
        kept = alive[file]
        count = -(-len(kept["content"]) // CHUNK)
        if count:
            index = data.draw(st.integers(0, count - 1))
            put(self.world, file, kept["content"], index, kept["by"])
            kept["there"].add(index)
        if len(kept["there"]) < count:
            with refused("not_found"):
                self.world.do(CompleteFile(file=file), kept["by"])
        elif not kept["complete"]:
            self.world.do(CompleteFile(file=file), kept["by"])
            kept["complete"], kept["until"] = True, self.world.at_ms + TTL_MS

    @rule(data=st.data(), by=who)
    def receive(self, data: st.DataObject, by: str) -> None:
        alive = {file: kept for file, kept in self.alive().items() if kept["complete"] and by in kept["to"]}
        if alive:
            file = data.draw(st.sampled_from(sorted(alive)))
            self.world.do(ReceiveFile(file=file), by)
            alive[file]["done"].add(by)
            if alive[file]["done"] == alive[file]["to"]:
                del self.model[file]

    @rule(ms=st.integers(1, 700), tick=st.booleans())
    def time(self, ms: int, tick: bool) -> None:
        self.world.at_ms += ms
        if tick:
            self.world.record(decide_expired(self.world.state, self.world.at_ms, 99), "hub")
            self.model = self.alive()

    @invariant()
    def books_are_right(self) -> None:
        files = self.world.state.files
        assert files.bytes == sum(len(kept["content"]) for kept in self.model.values())
        assert {f"f{number}" for number in files.by_id} == set(self.model)
        for by in NAMES:
            mine = [len(kept["content"]) for kept in self.model.values() if kept["by"] == by]
            assert files.by_agent.get(self.world.agent(by), (0, 0)) == (len(mine), sum(mine))
            seen = {
                file
                for file, kept in self.alive().items()
                if kept["by"] == by or (kept["complete"] and by in kept["to"])
            }
            assert set(listed(self.world, by)) == seen
        for file, kept in self.model.items():
            assert set(files.by_id[int(file[1:])].chunks) == kept["there"]

    def teardown(self) -> None:
        state = self.world.state
        assert digest(decode_state(encode_state(state))) == digest(self.world.replayed()) == digest(state)


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
