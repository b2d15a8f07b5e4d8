"""The dump: canonical, complete, and refused when it is none of ours."""

import json

import msgspec
import pytest
from tests.core.conftest import World, text

from synapse.core.events import MessageHeld, MessageSent
from synapse.core.link import Link
from synapse.core.retention_events import JournalCompacted
from synapse.core.state import FORMAT, FORMAT_OF_BASES, decode_state, digest, encode_state, lift_state, new_state
from synapse.protocol.commands import AckInbox, ClaimLease, JoinChannel, SaveCheckpoint, SetPool, TakeInbox
from synapse.protocol.cursor import message_id
from synapse.protocol.file_commands import BeginFile
from synapse.protocol.lane_commands import OfferLane
from synapse.protocol.plan_commands import DeclareTask
from synapse.protocol.question_commands import AnswerQuestion, AskQuestion
from synapse.protocol.role_commands import JoinRole
from synapse.protocol.session_commands import StartSession
from synapse.protocol.terms import Artefact
from synapse.protocol.token_commands import CreateToken
from synapse.protocol.value_commands import PutValue


def busy_world() -> World:
    world = World()
    world.join("ada", "bob", "cy")
    for name in ("cy", "ada", "bob"):
        world.do(JoinChannel(channel="lab:x"), name)
    world.do(text("@bob hi", channel="lab:x"), "ada", key="k")
    world.do(text("psst", to=("ada", "bob")), "cy", key="k")
    world.do(TakeInbox(), "bob")
    world.do(JoinRole(role="review"), "bob")
    world.do(text("look", target="role:review"), "ada")
    world.do(SetPool(pool="gpu", capacity=2), "operator")
    world.do(ClaimLease(task="T1", worktree="w", paths=("src/**",), pools={"gpu": 1}), "ada")
    world.do(SaveCheckpoint(task="T1", data=msgspec.Raw(b'{"step":3}'), artefacts=(Artefact(path="a"),)), "ada")
    world.do(ClaimLease(task="T2", worktree="w", paths=("**/x",), wait_ms=None), "bob", key="w")
    world.do(DeclareTask(task="T1", title="first", depends_on=("T0",)), "ada")
    world.do(StartSession(task="T1"), "ada")
    world.do(OfferLane(to="bob"), "ada")
    world.do(PutValue(key="k", value=msgspec.Raw(b'{"v":1}'), ttl_ms=60_000), "ada")
    world.do(AskQuestion(title="Which?", task="T1", context=msgspec.Raw(b'{"a":1}'), deadline_ms=60_000), "ada")
    asked = world.do(AskQuestion(title="Now?"), "ada")[0]
    world.do(AnswerQuestion(id=f"q{asked[0].seq}", answer="yes"), "operator")
    world.do(CreateToken(hash="ab" * 32, role="human", rooms=("lab",), ttl_ms=60_000, label="guest"), "operator")
    world.do(text("one", to=("bob",)), "ada")
    world.do(text("two", to=("ada",), reply_to=message_id(world.state.seq)), "bob")
    world.do(AckInbox(ids=(message_id(world.state.seq),)), "ada")
    state = world.state
    cause = max(state.loops.traces)
    link = Link(cause, cause, 9, world.agent("ada"))
    sent = MessageSent(to=(), body=msgspec.Raw(b'"three"'))
    world.record([MessageHeld(link=link, why="loop", sent=sent)], "ada")
    world.do(BeginFile(name="x", bytes=3, sha256="0" * 64, to=("cy",)), "ada")
    world.record([JournalCompacted(upto=9, base_hash="ab", cuts={"messages": 7}, floors={"ch/5": 6})], "hub")
    return world


def test_the_same_state_gives_the_same_bytes_however_it_came_about() -> None:
    world = busy_world()
    dump = encode_state(world.state)
    assert encode_state(decode_state(dump)) == encode_state(world.replayed()) == dump
    assert digest(decode_state(dump)) == digest(world.state)


def test_every_durable_part_is_in_the_dump() -> None:
    plain = json.loads(encode_state(busy_world().state))
    empty = json.loads(encode_state(new_state()))
    assert [name for name in plain if plain[name] == empty[name] and name != "format"] == []


def test_a_dump_of_before_has_the_default_of_what_came_since() -> None:
    plain = json.loads(encode_state(new_state()))
    del plain["retention"]
    plain["format"] = FORMAT_OF_BASES
    assert digest(lift_state(json.dumps(plain).encode())) == digest(new_state())
    plain["format"] = FORMAT + 1
    with pytest.raises(msgspec.ValidationError, match="format"):
        lift_state(json.dumps(plain).encode())


def test_another_format_is_refused() -> None:
    plain = json.loads(encode_state(new_state()))
    plain["format"] = FORMAT + 1
    with pytest.raises(msgspec.ValidationError, match="format"):
        decode_state(json.dumps(plain).encode())


@pytest.mark.parametrize("dump", [b"", b"{}", b"[]", b'{"format":1}'])
def test_what_is_no_dump_is_refused(dump: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_state(dump)
