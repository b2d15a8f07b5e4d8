"""Refusals: who stands in the way, until when, and what to do next, within bounds."""

import pytest
from tests.core.lease_world import TREE, TTL_MS, LeaseWorld, named

from synapse.core.answers import Query, look
from synapse.core.events import Ask
from synapse.core.kernel import Mutation
from synapse.core.refusals import CYCLE_MAX, HOLDERS_MAX, PATHS_MAX, deadlocked, in_words
from synapse.errors import Rejected
from synapse.protocol.card_commands import SetCard
from synapse.protocol.codec import encode_error
from synapse.protocol.commands import AckInbox, CheckPaths, ClaimLease, CreateRoom, HandOffLease, ReleaseLease
from synapse.protocol.file_commands import ShowFile
from synapse.protocol.lane_commands import AcceptLane, ListLanes
from synapse.protocol.limits import Limits
from synapse.protocol.question_commands import AskQuestion, ShowQuestion
from synapse.protocol.replies import PathsCovered
from synapse.protocol.session_commands import ShowSession

FRAME_BYTES_MAX = 256 * 1024
LONG = "\U0001f600" * 380
"""As many bytes as a path may have when folded, nearly."""
WORST_TREE = "\x00" * Limits().worktree_chars_max
"""Each character is six in JSON."""


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


@pytest.mark.parametrize(
    ("command", "path"),
    [
        (AckInbox(ids=("x",)), "$.body.ids"),
        (ShowQuestion(id="m1"), "$.body.id"),
        (ShowSession(session="x"), "$.body.session"),
        (ListLanes(session="x"), "$.body.session"),
        (AcceptLane(lane="x"), "$.body.lane"),
        (CreateRoom(room="r", type=""), "$.body.type"),
        (ClaimLease(task="T", paths=("a",)), "$.body.worktree"),
        (ShowFile(file="x"), "$.body.file"),
        (AskQuestion(title="t", options=("a", "a")), "$.body.options"),
        (SetCard(), "$.body"),
    ],
)
def test_what_does_not_fit_is_named_by_its_path_in_words_and_facts(command: Query | Mutation, path: str) -> None:
    world = LeaseWorld()
    with pytest.raises(Rejected) as caught:
        if isinstance(command, Query):
            look(world.state, world.rules, command, world.by("ada"))
        else:
            world.do(command, "ada")
    assert (caught.value.code, caught.value.facts["path"]) == ("bad_request", path)
    assert caught.value.detail.endswith(f" - at `{path}`")


# None of them is larger than a frame.


def size_of(refused: Rejected) -> int:
    """Bytes of the frame that tells it."""
    return len(encode_error(1, 1, refused))


def crowded(**fields: object) -> LeaseWorld:
    """As many holders as are named, of the longest names and paths, and of `src`."""
    world = LeaseWorld()
    mode = str(fields.get("mode", "shared"))
    for at in range(HOLDERS_MAX):
        paths = [f"{at}{number:02}{LONG}" for number in range(Limits().paths_max - 1)]
        world.take("ada", f"{at}{'T' * 127}", *paths, f"src/{at}" if mode == "exclusive" else "src", **fields)
    return world


def test_the_largest_refusal_of_a_guard_fits_into_a_frame_and_names_holders_before_their_paths() -> None:
    world = crowded(mode="shared", worktree=WORST_TREE)
    paths = tuple(f"src/{at}{LONG[:370]}" for at in range(64))
    for asker, mode in (("bob", "shared"), ("ada", "exclusive")):
        with pytest.raises(Rejected) as caught:
            world.look(PathsCovered, CheckPaths(worktree=WORST_TREE, paths=paths, mode=mode), asker)
        refused = caught.value
        assert (refused.code, refused.facts["paths_count"]) == ("not_covered", 64)
        assert size_of(refused) <= FRAME_BYTES_MAX
        told = [(path["path"], path["holders" if asker == "bob" else "mine"]) for path in named(refused, "paths")]
        assert 1 <= len(told) < 64
        assert [path for path, _ in told] == list(paths[: len(told)])
        for _, holders in told:
            assert isinstance(holders, list)
            assert len(holders) == (HOLDERS_MAX if asker == "bob" else 1), "who holds it is named in full"
            assert {(len(holder["paths"]), holder["paths_count"]) for holder in holders} == {(0, 64)}


def test_a_guard_is_told_the_paths_of_holders_where_they_fit() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "src", "doc")
    with pytest.raises(Rejected) as caught:
        world.look(PathsCovered, CheckPaths(worktree=TREE, paths=tuple(f"src/{at}" for at in range(64))), "bob")
    told = named(caught.value, "paths")
    assert len(told) == 64
    for path in told:
        assert isinstance(path["holders"], list)
        assert path["holders"][0]["paths"] == ["src", "doc"]


def test_the_largest_refusals_of_claims_fit_into_a_frame() -> None:
    world = crowded(mode="exclusive", worktree=WORST_TREE)
    refused = world.refused("bob", "B", "src", worktree=WORST_TREE)
    assert (refused.code, refused.facts["holders_count"], len(named(refused))) == ("lease_held", HOLDERS_MAX, 8)
    assert size_of(refused) <= FRAME_BYTES_MAX
    with pytest.raises(Rejected) as caught:
        world.look(PathsCovered, CheckPaths(worktree=WORST_TREE, paths=("src/0",)), "cy")
    assert size_of(caught.value) <= FRAME_BYTES_MAX
    for at in range(HOLDERS_MAX):
        paths = [f"s{at}{number:02}{LONG}" for number in range(Limits().paths_max)]
        world.take("ada", "S", *paths, worktree=WORST_TREE, mode="shared", reentrant=False)
    refused = world.refusal(ReleaseLease(task="S", epoch=1), "ada")
    assert (refused.code, len(named(refused))) == ("stale_epoch", HOLDERS_MAX)
    assert size_of(refused) <= FRAME_BYTES_MAX


def test_holders_that_do_not_fit_at_all_are_counted() -> None:
    tree = "\x00" * 4096
    world = LeaseWorld(Limits(worktree_chars_max=4096))
    for at in range(HOLDERS_MAX):
        world.take("ada", f"T{at}", f"src/{at}", worktree=tree)
    refused = world.refused("bob", "B", "src", worktree=tree)
    assert refused.facts["holders_count"] == HOLDERS_MAX
    assert 1 <= len(named(refused)) < HOLDERS_MAX
    assert size_of(refused) <= FRAME_BYTES_MAX


def test_a_circle_of_many_is_cut_and_counted() -> None:
    ask = Ask(room=1, room_name="main", task="T", agent=1, owner="ada", worktree=None, paths=())
    circle = ["ada", *[f"{at:0128}" for at in range(Limits().waiters_max)], "ada"]
    world = LeaseWorld()
    refused = deadlocked(world.state, ask, circle, "wait", [], world.by("ada"))
    assert size_of(refused) <= FRAME_BYTES_MAX
    assert (refused.facts["cycle"], refused.facts["cycle_count"]) == (circle[:CYCLE_MAX], len(circle))
    assert f"{circle[CYCLE_MAX - 1]} waits for {len(circle) - CYCLE_MAX - 1} more waits for ada;" in refused.detail
    short = deadlocked(world.state, ask, [*circle[: CYCLE_MAX - 1], "ada"], "wait", [], world.by("ada"))
    assert "cycle_count" not in short.facts
    assert "more" not in short.detail
