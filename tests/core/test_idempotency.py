"""Idempotency: one effect and one answer for each (agent, key), for a day, across restarts."""

from hashlib import sha256
from typing import Final

import msgspec
import pytest
from tests.core.conftest import World, text

from synapse.core import idempotency
from synapse.core.events import MessagePosted
from synapse.core.idempotency import KEEP_MS, KEYS_MAX
from synapse.core.kernel import Mutation, payload_hash
from synapse.protocol.commands import AckInbox, ClaimLease, CreateRoom, JoinRoom, LeaveRoom
from synapse.protocol.file_commands import BeginFile
from synapse.protocol.limits import Limits
from synapse.protocol.plan_commands import DeclareTask
from synapse.protocol.replies import Acked, Sent
from synapse.protocol.value_commands import PutValue


def world_of_two() -> World:
    world = World()
    world.join("ada", "bob")
    return world


def test_a_repeat_gets_the_first_answer_and_makes_no_event() -> None:
    world = world_of_two()
    _, first = world.do(text("hi", to=("bob", "new"), create=True), "ada", key="k")
    recorded, again = world.do(text("hi", to=("bob", "new"), create=True), "ada", key="k")
    assert (recorded, again) == ([], first)


def test_a_repeat_after_a_restart_gets_the_first_answer_too() -> None:
    world = world_of_two()
    _, first = world.do(text("hi", channel="main:general"), "ada", key="k")
    world.restart()
    assert world.do(text("hi", channel="main:general"), "ada", key="k") == ([], first)


def test_a_repeat_is_not_computed_from_what_came_later() -> None:
    world = world_of_two()
    for name in ("ada", "bob"):
        world.do(JoinRoom(room="main"), name)
    to_all = world.reply(Sent, text("hi @cy", target="all"), "ada", "all")
    named = world.reply(Sent, text("hi @cy", channel="main:general"), "ada", "named")
    acked = world.reply(Acked, AckInbox(all=True), "bob", "ack")
    world.join("cy")
    world.do(JoinRoom(room="main"), "cy")
    world.do(text("more", to=("bob",)), "ada")
    assert world.do(text("hi @cy", target="all"), "ada", "all")[1] == to_all
    assert world.do(text("hi @cy", channel="main:general"), "ada", "named")[1] == named
    assert world.do(AckInbox(all=True), "bob", "ack") == ([], acked)


def test_the_same_key_with_another_payload_is_refused() -> None:
    world = world_of_two()
    world.do(text("hi", to=("bob",)), "ada", key="k")
    for other in (text("ho", to=("bob",)), text("hi", to=("ada",)), JoinRoom(room="main")):
        assert world.refusal(other, "ada", key="k").code == "idem_conflict"


def test_the_same_key_of_two_agents_is_two_keys() -> None:
    world = world_of_two()
    assert world.do(text("hi", channel="main:general"), "ada", key="k")[0]
    assert world.do(text("hi", channel="main:general"), "bob", key="k")[0]


def test_two_commands_with_the_same_fields_are_two_payloads() -> None:
    world = world_of_two()
    world.do(JoinRoom(room="main"), "ada", key="k")
    assert world.refusal(LeaveRoom(room="main"), "ada", key="k").code == "idem_conflict"


def test_refusals_and_commands_without_effect_are_not_remembered() -> None:
    world = world_of_two()
    assert world.refusal(text("hi", to=("zoe",)), "ada", key="k").code == "not_found"
    assert world.do(AckInbox(all=True), "ada", key="k")[0] == []
    assert world.do(JoinRoom(room="main"), "ada", key="k")[0]


def test_a_key_is_kept_for_a_day_and_dropped_by_the_first_event_after_it() -> None:
    world = world_of_two()
    world.do(text("hi", to=("bob",)), "ada", key="k")
    world.at_ms += KEEP_MS - 1
    world.do(text("tick", to=("ada",)), "bob")
    assert world.do(text("hi", to=("bob",)), "ada", key="k")[0] == []
    world.at_ms += 1
    world.do(text("tick", to=("ada",)), "bob")
    assert world.do(text("hi", to=("bob",)), "ada", key="k")[0] != []


def test_a_clock_that_goes_back_drops_no_key_early() -> None:
    world = world_of_two()
    world.do(text("1", to=("bob",)), "ada", key="k1")
    world.at_ms -= KEEP_MS
    world.do(text("2", to=("bob",)), "ada", key="k2")
    world.at_ms += KEEP_MS - 1
    world.do(text("3", to=("bob",)), "ada")
    assert world.do(text("1", to=("bob",)), "ada", key="k1")[0] == []
    assert world.do(text("2", to=("bob",)), "ada", key="k2")[0] == []


def test_one_key_too_many_is_refused_and_none_is_forgotten_to_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "KEYS_MAX", 2)
    world = world_of_two()
    for key in ("k1", "k2"):
        world.do(text("hi", to=("bob",)), "ada", key=key)
    assert world.refusal(text("hi", to=("bob",)), "ada", key="k3").code == "idem_limit"
    assert world.do(text("hi", to=("bob",)), "ada", key="k1")[0] == []
    assert world.do(text("hi", to=("ada",)), "bob", key="k3")[0]


def test_the_limits_told_in_the_welcome_are_those_that_count() -> None:
    assert (Limits().idem_keys_max, Limits().idem_keep_ms) == (KEYS_MAX, KEEP_MS)


def test_the_lease_under_which_a_claim_is_made_is_no_part_of_its_payload() -> None:
    plain, under = ClaimLease(task="T1", note=',"under":1}'), ClaimLease(task="T1", note=',"under":1}', under=7)
    by = world_of_two().by("ada")
    hashes = {payload_hash(command, msgspec.json.encode(command), by) for command in (plain, under)}
    before = msgspec.json.encode(plain).replace(b',"under":null}', b"}")
    assert hashes == {sha256(b"ClaimLease\0" + before).hexdigest()[:32]}, "as releases hashed it that knew no `under`"


def test_the_date_on_which_a_message_expires_is_no_part_of_its_payload_and_that_there_is_one_is() -> None:
    by = world_of_two().by("ada")
    dated = [text('"expires_at_ms":1', expires_at_ms=date) for date in (None, 5, 6_000_000_000_000)]
    kept, first, second = [payload_hash(command, msgspec.json.encode(command), by) for command in dated]
    assert first == second != kept
    assert payload_hash(text("else", expires_at_ms=5), msgspec.json.encode(text("else", expires_at_ms=5)), by) != first


def at_home(command: Mutation, home: str) -> str:
    """The hash of a command of who has this home."""
    return payload_hash(command, msgspec.json.encode(command), world_of_two().by("ada", home=home))


HERE: Final = [
    text("hi"),
    text("hi", target="all"),
    text("hi", to=("all",)),
    ClaimLease(task="T1"),
    PutValue(key="k", value=msgspec.Raw(b"1")),
    DeclareTask(task="T1"),
    BeginFile(name="f", bytes=0, sha256="0" * 64),
]
"""Commands that do not say where."""
THERE: Final = [
    text("hi", channel="main:general"),
    text("hi", room="ra"),
    text("hi", target="all", room="ra"),
    text("hi", target="bob, sally"),
    text("hi", to=("bob",)),
    ClaimLease(task="T1", room="ra"),
    BeginFile(name="f", bytes=0, sha256="0" * 64, channel="ra:general"),
    BeginFile(name="f", bytes=0, sha256="0" * 64, to=("bob",)),
    CreateRoom(room="ra"),
    AckInbox(all=True),
]
"""Commands that do, or that are for nowhere."""


@pytest.mark.parametrize("command", HERE, ids=lambda command: type(command).__name__)
def test_a_command_for_the_home_is_another_one_in_another_home(command: Mutation) -> None:
    assert len({at_home(command, home) for home in ("main:general", "ra:general", "rb:general")}) == 3
    plain = type(command).__name__.encode() + b"\0" + msgspec.json.encode(command)
    if not isinstance(command, ClaimLease):
        assert at_home(command, "main:general") == sha256(plain).hexdigest()[:32], "as in journals that are there"
    is_for_channel = isinstance(command, BeginFile) or command == text("hi")
    assert (at_home(command, "ra:general") != at_home(command, "ra:more")) == is_for_channel
    assert (at_home(command, "main:general") != at_home(command, "main:more")) == is_for_channel


@pytest.mark.parametrize("command", THERE, ids=lambda command: type(command).__name__)
def test_a_command_that_says_where_is_the_same_in_every_home(command: Mutation) -> None:
    assert len({at_home(command, home) for home in ("main:general", "ra:general", "rb:more")}) == 1


def test_a_key_is_of_one_home() -> None:
    world = world_of_two()
    for room in ("ra", "rb"):
        world.do(JoinRoom(room=room), "ada")
    ra, rb = (world.by("ada", home=f"{room}:general") for room in ("ra", "rb"))
    first = world.do(text("hi"), ra, key="k1")[0]
    assert world.do(text("hi"), ra, key="k1")[0] == []
    assert world.refusal(text("hi"), rb, "k1").code == "idem_conflict"
    assert [entry.event.address for entry in first if isinstance(entry.event, MessagePosted)] == ["ra:general"]
