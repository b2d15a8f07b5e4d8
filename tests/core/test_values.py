"""Shared values: what is put is there for everybody until its time, its deletion or a newer version."""

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from synapse.core import kernel
from synapse.core.answers import answer, look
from synapse.core.by import By, Rules
from synapse.core.events import Recorded
from synapse.core.state import State, decode_state, digest, encode_state, new_state
from synapse.core.value_events import ValueExpired
from synapse.core.values import OWNERS_MAX, decide_expired
from synapse.errors import Rejected
from synapse.protocol.commands import CreateRoom, ForgetAgent, Hello
from synapse.protocol.limits import Limits
from synapse.protocol.value_commands import ClearValues, DeleteValue, GetValue, ListValues, PutValue, TransferValue

RULES = Rules(Limits(value_bytes_max=64, values_per_room_max=4, values_bytes_max=200))
NAMES = ("ada", "bob")
KEYS = ("a", "a/b", "b", "c", "d")


class World:
    """A state with two agents and two rooms, and what was journalled."""

    def __init__(self) -> None:
        self.state: State = new_state()
        self.log: list[Recorded] = []
        self.at_ms = 1_000
        for room in ("main", "side"):
            self.do("operator", CreateRoom(room=room))
        for name in NAMES:
            self.do(name, Hello(name=name, secret=name * 32))

    def by(self, name: str) -> By:
        agent = self.state.agents.by_name.get(name)
        known = None if agent is None else agent.id
        return By(name, known, 1, "main:general", self.at_ms, self.at_ms, operator=name == "operator")

    def do(self, name: str, command: Any) -> Any:
        """Decide and apply; the answer, of commands that have one here. Checks that deciding changes nothing."""
        by, before = self.by(name), digest(self.state)
        try:
            events = kernel.decide(self.state, RULES, command, by)
        finally:
            assert digest(self.state) == before, "a decision changes nothing"
        recorded = [self.record(event, name) for event in events]
        if isinstance(command, Hello | CreateRoom | ForgetAgent):
            return None
        return answer(self.state, command, by, recorded, self.state.seq)

    def record(self, event: Any, name: str) -> Recorded:
        recorded = kernel.record(self.state, event, name, self.at_ms)
        self.log.append(recorded)
        return recorded

    def get(self, key: str, room: str = "main") -> object:
        return value_in(look(self.state, RULES, GetValue(key=key, room=room), self.by("ada")))

    def keys(self, prefix: str = "", room: str = "main") -> list[str]:
        page: Any = look(self.state, RULES, ListValues(room=room, prefix=prefix), self.by("ada"))
        return [value.key for value in page.values]


def value_in(reply: Any) -> object:
    return msgspec.json.decode(reply.value)


def put(key: str, value: object = 1, **more: Any) -> PutValue:
    return PutValue(key=key, value=msgspec.Raw(msgspec.json.encode(value)), **more)


@pytest.fixture
def world() -> World:
    return World()


def refused(world: World, name: str, command: Any) -> Rejected:
    with pytest.raises(Rejected) as caught:
        world.do(name, command)
    return caught.value


def test_a_value_has_an_owner_and_a_version_that_rises_and_anybody_may_put(world: World) -> None:
    first = world.do("ada", put("a", {"x": 1}))
    second = world.do("bob", put("a", {"x": 2}))
    assert (first.owner, second.owner, second.updated_by) == ("ada", "ada", "bob")
    assert second.version > first.version
    assert world.get("a") == {"x": 2}


def test_only_the_expected_version_is_replaced_or_deleted(world: World) -> None:
    first = world.do("ada", put("a", if_version=0))
    assert refused(world, "bob", put("a", 2, if_version=0)).facts["version"] == first.version
    second = world.do("bob", put("a", 2, if_version=first.version))
    stale = refused(world, "ada", DeleteValue(key="a", if_version=first.version))
    assert (stale.code, stale.facts["by"]) == ("version_conflict", "bob")
    assert world.do("ada", DeleteValue(key="a", if_version=second.version)).version == second.version
    assert refused(world, "ada", put("a", if_version=second.version)).facts["version"] == 0
    assert world.do("ada", put("a")).version > second.version, "a version never comes again"


def test_after_its_time_it_is_gone_for_every_reader_also_before_the_tick(world: World) -> None:
    world.do("ada", put("a", ttl_ms=500))
    world.do("ada", put("b"))
    world.at_ms += 499
    assert world.keys() == ["a", "b"]
    world.at_ms += 1
    assert world.keys() == ["b"]
    assert refused(world, "ada", DeleteValue(key="a")).code == "not_found"
    world.do("ada", put("a", if_version=0))
    assert list(decide_expired(world.state, world.at_ms, 10)) == [], "what was put anew does not expire"


def test_the_tick_expires_each_once_and_earliest_first(world: World) -> None:
    for key, ttl_ms in (("a", 300), ("b", 100), ("c", 200)):
        world.do("ada", put(key, ttl_ms=ttl_ms))
    world.do("ada", put("b", ttl_ms=1_000))
    world.at_ms += 300
    events = decide_expired(world.state, world.at_ms, 10)
    assert [event.key for event in events if isinstance(event, ValueExpired)] == ["c", "a"]
    for event in events:
        world.record(event, "hub")
    assert next(iter(world.state.values.by_room.values())).keys() == {"b"}
    assert decide_expired(world.state, world.at_ms, 10) == []


def test_a_start_from_a_snapshot_knows_what_ends(world: World) -> None:
    for key, ttl_ms in (("a", 300), ("b", 100), ("c", None)):
        world.do("ada", put(key, ttl_ms=ttl_ms))
    started = decode_state(encode_state(world.state))
    world.at_ms += 300
    events = decide_expired(started, world.at_ms, 10)
    assert [event.key for event in events if isinstance(event, ValueExpired)] == ["b", "a"]


def test_what_is_put_again_and_again_does_not_pile_up(world: World) -> None:
    for key in ("a", "b"):
        world.do("ada", put(key, ttl_ms=1_000))
    for number in range(3_000):
        world.record(kernel.decide(world.state, RULES, put("a", number, ttl_ms=60_000), world.by("ada"))[0], "ada")
    assert len(world.state.values._expiring) < 1_100
    world.at_ms += 60_000
    events = decide_expired(world.state, world.at_ms, 10)
    assert [event.key for event in events if isinstance(event, ValueExpired)] == ["b", "a"]


def test_a_put_without_a_ttl_takes_the_end_away(world: World) -> None:
    world.do("ada", put("a", ttl_ms=100))
    world.do("ada", put("a"))
    world.at_ms += 1_000
    assert decide_expired(world.state, world.at_ms, 10) == []
    assert world.get("a") == 1


def test_only_its_owner_or_an_operator_transfers_it_and_the_history_stays(world: World) -> None:
    world.do("ada", put("a"))
    assert refused(world, "bob", TransferValue(key="a", to="bob")).code == "not_permitted"
    moved = world.do("ada", TransferValue(key="a", to="bob"))
    assert (moved.owner, moved.previous) == ("bob", "ada")
    assert world.do("bob", TransferValue(key="a", to="bob")).version == moved.version, "to oneself changes nothing"
    world.do("operator", TransferValue(key="a", to="ada"))
    info: Any = look(world.state, RULES, GetValue(key="a"), world.by("ada"))
    assert [owner.owner for owner in info.owners] == ["ada", "bob"]
    for turn in range(3 * OWNERS_MAX):
        world.do("operator", TransferValue(key="a", to=NAMES[(turn + 1) % 2]))
    info = look(world.state, RULES, GetValue(key="a"), world.by("ada"))
    assert len(info.owners) == OWNERS_MAX


def test_a_namesake_of_a_forgotten_owner_is_not_the_owner(world: World) -> None:
    world.do("ada", put("a"))
    world.do("operator", ForgetAgent(name="ada"))
    world.do("ada", Hello(name="ada", secret="another" * 8))
    assert refused(world, "ada", TransferValue(key="a", to="bob")).code == "not_permitted"
    assert world.get("a") == 1


def test_clear_takes_a_prefix_of_one_room(world: World) -> None:
    for key in ("a", "a/b", "b"):
        world.do("ada", put(key))
    world.do("ada", put("a", room="side"))
    assert world.do("bob", ClearValues(prefix="a")).cleared == 2
    assert (world.keys(), world.keys(room="side")) == (["b"], ["a"])
    assert world.do("bob", ClearValues(prefix="a")).cleared == 0


def test_clear_does_not_count_what_nobody_could_read_any_more(world: World) -> None:
    world.do("ada", put("a", ttl_ms=1_000))
    world.at_ms += 1_000
    assert world.do("bob", ClearValues()).cleared == 0
    world.do("ada", put("b"))
    assert world.do("bob", ClearValues()).cleared == 1
    assert decide_expired(world.state, world.at_ms, 10) == []


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (put(""), "bad_name"),
        (put(" a"), "bad_name"),
        (put("a" * 257), "bad_name"),
        (put("a", ttl_ms=0), "bad_request"),
        (put("a", ttl_ms=-1), "bad_request"),
        (put("a", ttl_ms=2**53 - 1), "bad_request"),
        (put("a", "x" * 63), "too_large"),
        (put("a", room="nowhere"), "not_found"),
        (put("a", owner="bob"), "not_permitted"),
        (put("a", if_version=7), "version_conflict"),
        (GetValue(key="a"), "not_found"),
        (DeleteValue(key="a"), "not_found"),
        (TransferValue(key="a", to="bob"), "not_found"),
    ],
)
@pytest.mark.bad_input("BI-43", "BI-44")
def test_what_is_out_of_bounds_is_refused_and_changes_nothing(world: World, command: Any, code: str) -> None:
    before = digest(world.state)
    if isinstance(command, GetValue):
        with pytest.raises(Rejected) as caught:
            look(world.state, RULES, command, world.by("ada"))
        assert caught.value.code == code
    else:
        assert refused(world, "ada", command).code == code
    assert digest(world.state) == before


def test_a_room_holds_so_many_values_and_all_rooms_so_many_bytes(world: World) -> None:
    for key in KEYS[:4]:
        world.do("ada", put(key))
    full = refused(world, "ada", put("e"))
    assert full.facts == {"limit": "values_per_room_max", "value": 4}
    world.do("ada", put("a", 2))
    for key in KEYS[:3]:
        world.do("ada", put(key, "x" * 50, room="side"))
    assert refused(world, "ada", put("d", "x" * 50, room="side")).facts["limit"] == "values_bytes_max"


@dataclass
class Modelled:
    """What the model knows of a value."""

    value: int
    owner: str
    version: int
    until_ms: int | None
    owners: list[str] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    """Agents at work, against a dictionary."""

    @initialize()
    def begin(self) -> None:
        self.world = World()
        self.model: dict[tuple[str, str], Modelled] = {}
        self.version = 0

    def live(self, room: str, key: str) -> Modelled | None:
        found = self.model.get((room, key))
        return None if found is None or (found.until_ms or 1 << 62) <= self.world.at_ms else found

    def attempt(self, name: str, command: Any, *, works: bool) -> Any:
        try:
            reply = self.world.do(name, command)
        except Rejected:
            assert not works, f"{name} {command} was refused"
            return None
        assert works, f"{name} {command} was not refused"
        return reply

    @rule(
        name=st.sampled_from(NAMES),
        key=st.sampled_from(KEYS),
        room=st.sampled_from(["main", "side"]),
        value=st.integers(0, 99),
        ttl_ms=st.none() | st.integers(1, 300),
        expect=st.sampled_from(["nothing", "current", "none", "stale"]),
    )
    def put(self, name: str, key: str, room: str, value: int, ttl_ms: int | None, expect: str) -> None:
        old = self.live(room, key)
        have = 0 if old is None else old.version
        wanted = {"nothing": None, "current": have, "none": 0, "stale": have + 1}[expect]
        count = sum(place == room for place, _ in self.model)
        works = wanted in (None, have) and ((room, key) in self.model or count < 4)
        reply = self.attempt(name, put(key, value, room=room, ttl_ms=ttl_ms, if_version=wanted), works=works)
        if reply is None:
            return
        assert reply.version > self.version
        self.version = reply.version
        until_ms = None if ttl_ms is None else self.world.at_ms + ttl_ms
        self.model[room, key] = Modelled(
            value, name if old is None else old.owner, reply.version, until_ms, [] if old is None else old.owners
        )

    @rule(name=st.sampled_from(NAMES), key=st.sampled_from(KEYS), room=st.sampled_from(["main", "side"]))
    def delete(self, name: str, key: str, room: str) -> None:
        there = self.live(room, key) is not None
        if self.attempt(name, DeleteValue(key=key, room=room), works=there) is not None:
            del self.model[room, key]

    @rule(
        name=st.sampled_from(NAMES),
        prefix=st.sampled_from(["", "a", "a/", "z"]),
        room=st.sampled_from(["main", "side"]),
    )
    def clear(self, name: str, prefix: str, room: str) -> None:
        readable = [at for at in self.model if at[0] == room and at[1].startswith(prefix) and self.live(*at)]
        reply = self.attempt(name, ClearValues(prefix=prefix, room=room), works=True)
        assert reply.cleared == len(readable)
        self.model = {at: kept for at, kept in self.model.items() if at[0] != room or not at[1].startswith(prefix)}

    @rule(name=st.sampled_from(NAMES), to=st.sampled_from(NAMES), key=st.sampled_from(KEYS))
    def transfer(self, name: str, to: str, key: str) -> None:
        old = self.live("main", key)
        reply = self.attempt(name, TransferValue(key=key, to=to), works=old is not None and old.owner == name)
        if reply is not None and old is not None and to != name:
            old.owners = [*old.owners, name]
            old.owner, old.version = to, reply.version
            self.version = max(self.version, reply.version)

    @rule(ms=st.integers(1, 200))
    def tick(self, ms: int) -> None:
        self.world.at_ms += ms
        for event in decide_expired(self.world.state, self.world.at_ms, 100):
            self.world.record(event, "hub")
        self.model = {at: kept for at, kept in self.model.items() if self.live(*at) is not None}

    @rule(ms=st.integers(1, 200))
    def time_passes_without_a_tick(self, ms: int) -> None:
        self.world.at_ms += ms

    @rule()
    def restart(self) -> None:
        replayed = new_state()
        for entry in self.world.log:
            kernel.apply(replayed, entry)
        assert digest(replayed) == digest(self.world.state), "replay equals live"
        again = decode_state(encode_state(replayed))
        assert digest(again) == digest(replayed), "a snapshot loses nothing"
        assert again.values.bytes == self.world.state.values.bytes
        again.soft = self.world.state.soft
        self.world.state = again

    @invariant()
    def every_reader_sees_what_the_model_says(self) -> None:
        if not hasattr(self, "world"):
            return
        for room in ("main", "side"):
            expected = sorted(key for place, key in self.model if place == room and self.live(room, key) is not None)
            assert self.world.keys(room=room) == expected
            for key in expected:
                known = self.live(room, key)
                assert known is not None
                info: Any = look(self.world.state, RULES, GetValue(key=key, room=room), self.world.by("ada"))
                assert (value_in(info), info.owner, info.version) == (known.value, known.owner, known.version)
                assert info.expires_at_ms == known.until_ms
                assert [owner.owner for owner in info.owners] == known.owners[-OWNERS_MAX:]


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
