"""Refusals: who stands in the way, until when, and what to do next, within bounds."""

import pytest
from tests.core.lease_world import TREE, TTL_MS, LeaseWorld, named

from synapse.core.refusals import HOLDERS_MAX, PATHS_MAX, in_words
from synapse.errors import Rejected
from synapse.protocol.commands import CheckPaths, CreateRoom, HandOffLease, ReleaseLease
from synapse.protocol.replies import PathsCovered


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (0, "0 s"),
        (1, "1 s"),
        (42_000, "42 s"),
        (119_000, "119 s"),
        (120_000, "2 min 0 s"),
        (845_000, "14 min 5 s"),
        (12_000_000, "3 h 20 min"),
    ],
)
def test_spans_of_time_are_told_to_people(ms: int, words: str) -> None:
    assert in_words(ms) == words


def test_a_refusal_says_who_until_when_and_how_to_wait() -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1", "src/**", "docs", "a", "b")
    world.lease_ms += 18_000
    refused = world.refused("bob", "T2", "src/x")
    assert refused.detail == (
        f"T2 cannot be leased: ada holds T1 (src/**, docs, a and 1 more) with epoch {epoch} for another 42 s unless "
        "it is renewed; wait in line with --wait, or ask ada to release or hand it off"
    )
    assert refused.retry_after_ms == TTL_MS - 18_000 == named(refused)[0]["expires_in_ms"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"whole_worktree": True}, "T1 (the whole worktree)"),
        ({"paths": ("a", "b"), "mode": "shared"}, "T1 (a, b) with epoch {epoch}, shared,"),
        ({"paths": ("a",), "pools": {"gpu": 1}}, "T1 (a)"),
    ],
)
def test_what_is_held_is_told_in_words(fields: dict[str, object], words: str) -> None:
    world = LeaseWorld()
    world.pool("gpu", 1)
    given = dict(fields)
    paths = given.pop("paths", ())
    assert isinstance(paths, tuple)
    epoch = world.take("ada", "T1", *paths, **given)
    assert words.format(epoch=epoch) in world.refused("bob", "T2", "a").detail


def test_a_pool_that_is_held_is_told_in_words() -> None:
    world = LeaseWorld()
    world.pool("gpu", 2)
    world.take("ada", "T1", pools={"gpu": 2})
    refused = world.refused("bob", "T2", pools={"gpu": 1})
    assert "ada holds T1 (2 of pool gpu)" in refused.detail
    assert named(refused)[0]["pools"] == {"gpu": 2}


def test_a_refusal_names_the_oldest_few_and_counts_all() -> None:
    world = LeaseWorld()
    epochs = [world.take("ada", f"T{at}", f"d/{at}") for at in range(HOLDERS_MAX + 3)]
    refused = world.refused("bob", "X", "d")
    assert [holder["epoch"] for holder in named(refused)] == epochs[:HOLDERS_MAX]
    assert refused.facts["holders_count"] == HOLDERS_MAX + 3
    assert f"and {HOLDERS_MAX + 2} more" in refused.detail


def test_a_holder_with_many_paths_is_cut_and_counted() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", *[f"p{at}" for at in range(PATHS_MAX + 1)])
    [holder] = named(world.refused("bob", "T2", "p0"))
    assert (len(holder["paths"]), holder["paths_count"]) == (PATHS_MAX, PATHS_MAX + 1)  # type: ignore[arg-type]  # facts are plain data  # a list
    world.release("ada", "T1")
    world.take("ada", "T1", *[f"p{at}" for at in range(PATHS_MAX)])
    [holder] = named(world.refused("bob", "T2", "p0"))
    assert "paths_count" not in holder


def test_a_claim_that_only_the_queue_is_against_names_who_is_first() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a")
    places = [world.wait("bob", "T2", "a", "b"), world.wait("cy", "T3", "a", "b")]
    refused = world.refused("hal", "T4", "b")
    assert [waiter["place"] for waiter in named(refused, "waiters")] == places
    assert "2 earlier claims wait for it or for a part of it, first bob for T2 (bob, cy)" in refused.detail


def test_a_stale_epoch_says_who_holds_it_now_or_that_nobody_does() -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1")
    world.release("ada", "T1")
    refused = world.refusal(ReleaseLease(task="T1", epoch=epoch), "ada")
    assert (refused.facts["holders"], "nobody holds it now" in refused.detail) == ([], True)
    now = world.take("bob", "T1")
    refused = world.refusal(ReleaseLease(task="T1", epoch=epoch), "ada")
    assert f"bob holds it now with epoch {now}" in refused.detail


@pytest.mark.parametrize(("room", "there"), [("main", ""), ("lab", " --room lab")])
def test_a_next_step_names_the_room_where_it_is_not_the_one_that_is_meant_anyway(room: str, there: str) -> None:
    world = LeaseWorld()
    world.do(CreateRoom(room="lab"), "operator")
    epoch = world.take("ada", "T1", room=room)
    for given, code in ((None, "not_holder"), (epoch, "stale_epoch")):
        refused = world.refusal(ReleaseLease(task="T1", room=room, epoch=given), "bob")
        assert refused.code == code
        assert f"synapse claim T1 --wait{there}, or ask ada to " in refused.detail
    refused = world.refusal(ReleaseLease(task="T2", room=room), "ada")
    assert (refused.code, f"(synapse claim T2{there})" in refused.detail) == ("not_found", True)
    world.take("ada", "T3", "doc", room=room, mode="shared")
    with pytest.raises(Rejected, match=f"; synapse claim T3{there} makes that exclusive"):
        world.look(PathsCovered, CheckPaths(worktree=TREE, paths=("doc",), mode="exclusive"), "ada")


@pytest.mark.parametrize(
    ("what", "cure"),
    [("wait", "claim both at once"), ("upgrade", "claim exclusively"), ("hand-off", "withdraw its wait first")],
)
def test_each_deadlock_names_its_way_out(what: str, cure: str) -> None:
    world = LeaseWorld()
    if what == "upgrade":
        world.take("ada", "T1", "a", mode="shared")
        world.take("bob", "T2", "a", mode="shared")
        assert cure in world.refused("ada", "T1", "a").detail
        return
    world.take("ada", "T1", "a")
    world.take("bob", "T2", "b")
    if what == "wait":
        world.wait("ada", "T3", "b")
        assert cure in world.refused("bob", "T4", "a", wait_ms=None).detail
        return
    world.wait("bob", "T3", "a")
    world.wait("cy", "T4", "b")
    assert cure in world.refusal(HandOffLease(task="T1", to="cy"), "ada").detail
