"""Leases: which asks are in each other's way, and that the tables agree with each other."""

import pytest
from tests.core.lease_world import TREE, LeaseWorld

from synapse.core.events import Ask
from synapse.core.leases import NOTHING_YET, Leases, View, conflicts, in_line
from synapse.core.leases import Lease as Held


def ask(agent: int = 1, task: str = "T", *paths: str, **fields: object) -> Ask:
    if paths or fields.get("whole"):
        fields.setdefault("worktree", TREE)
    return Ask(room=1, room_name="main", task=task, agent=agent, owner=f"a{agent}", paths=paths, **fields)  # type: ignore[arg-type]  # the fields of the test


@pytest.mark.parametrize(
    ("a", "b", "are_in_the_way"),
    [
        (ask(1, "T"), ask(2, "T"), True),
        (ask(1, "T"), ask(2, "U"), False),
        (ask(1, "T"), ask(1, "T"), False),
        (ask(1, "T", reentrant=False), ask(1, "T"), True),
        (ask(1, "T", mode="shared"), ask(2, "T", mode="shared"), False),
        (ask(1, "T", mode="shared"), ask(2, "T"), True),
        (ask(1, "T", mode="shared", reentrant=False), ask(1, "T", mode="shared", reentrant=False), False),
        (ask(1, "T", "a"), ask(2, "U", "a/b"), True),
        (ask(1, "T", "a"), ask(2, "U", "b"), False),
        (ask(1, "T", "a"), ask(2, "U", "a", worktree="other"), False),
        (ask(1, "T", whole=True), ask(2, "U", "b"), True),
        (ask(1, "T", "A"), ask(2, "U", "a"), False),
        (ask(1, "T", "A", folds=True), ask(2, "U", "a"), True),
        (ask(1, "T", pools=(("p", 1),)), ask(2, "U", pools=(("p", 1),)), False),
    ],
)
def test_two_asks_are_in_each_others_way_or_not(a: Ask, b: Ask, are_in_the_way: bool) -> None:
    assert conflicts(a, b) is conflicts(b, a) is are_in_the_way


@pytest.mark.parametrize("held", [ask(2, "U", "a"), ask(2, "U", "a", mode="shared"), ask(2, "U", whole=True)])
def test_a_first_look_sees_what_may_stand_in_the_way(held: Ask) -> None:
    leases = Leases()
    leases.add(Held(epoch=5, ask=held, ttl_ms=1, granted_at_ms=0))
    for wanted in (ask(1, "T", "a/b"), ask(1, "T", "a/*.py", "b"), ask(1, "T", whole=True), ask(1, "U")):
        assert not leases.is_clear(wanted)
    reader = ask(1, "T", "a/b", mode="shared")
    assert leases.is_clear(reader) is (held.mode == "shared")
    assert leases.is_clear(ask(1, "T"))
    assert leases.is_clear(ask(1, "T", "a", worktree="other"))
    assert not leases.is_clear(ask(1, "T", pools=(("p", 1),))), "pools are counted elsewhere"
    leases.end(5)
    assert leases.is_clear(ask(1, "U", "a/b"))


def test_what_a_decision_has_granted_stands_in_the_way_and_what_it_ended_does_not() -> None:
    leases = Leases()
    leases.add(Held(epoch=5, ask=ask(1, "T", "a"), ttl_ms=1, granted_at_ms=0))
    other = ask(2, "U", "a")
    assert [item.epoch for item in leases.leases_against(other, NOTHING_YET) if isinstance(item, Held)] == [5]
    assert list(leases.leases_against(other, View({5}))) == []
    new, view = ask(3, "V", "a"), View({5})
    view.grant(6, new)
    assert list(leases.leases_against(other, view)) == [new]
    view.take_back(6)
    assert list(leases.leases_against(other, view)) == []


def test_the_queue_is_served_by_priority_then_age() -> None:
    world = LeaseWorld()
    world.take("ada", "T1")
    for name, priority in [("bob", "normal"), ("cy", "urgent"), ("hal", "normal"), ("dan", "low")]:
        world.wait(name, "T1", priority=priority)
    places = in_line(world.state.leases.places.values())
    assert [place.ask.owner for place in places] == ["cy", "bob", "hal", "dan"]
    ahead = list(world.state.leases.places_against(places[2].ask, places[2].rank, places[2].seq, NOTHING_YET))
    assert sorted(place.ask.owner for place in ahead) == ["bob", "cy"]
    behind = list(world.state.leases.places_behind(places[2].ask, places[2].rank, places[2].seq, NOTHING_YET))
    assert [place.ask.owner for place in behind] == ["dan"]


def test_nothing_is_left_when_everything_has_ended() -> None:
    world = LeaseWorld()
    world.pool("gpu", 1)
    world.take("ada", "T1", "src/**", pools={"gpu": 1})
    world.take("bob", "T2", "docs", mode="shared")
    world.wait("cy", "T3", "src/a", "docs", pools={"gpu": 1})
    world.withdraw("cy", "T3")
    world.release("ada", "T1")
    world.release("bob", "T2")
    leases = world.state.leases
    tables = (
        leases.live,
        leases.of_task,
        leases.of_agent,
        leases.places,
        leases.places_of_task,
        leases.places_of_agent,
    )
    assert [dict(table) for table in tables] == [{}] * 6
    assert (leases.pools["gpu"].held, leases.pools["gpu"].waiting) == ({}, {})
    assert [len(index) for index in (leases._exclusive, leases._shared, leases._waiting)] == [0, 0, 0]
    soft = world.state.soft.leasing
    assert (soft.deadlines, soft.reasons, soft.attached, soft.until, soft.left) == ({}, {}, {}, {}, {})
