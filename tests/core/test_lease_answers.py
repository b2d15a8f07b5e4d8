"""Answers about leases: first and repeated, for guards, in lists."""

import msgspec
import pytest
from msgspec import UNSET
from tests.core.lease_world import TREE, TTL_MS, LeaseWorld, claim, named

from synapse.core.lease_answers import position_of
from synapse.errors import Rejected
from synapse.protocol.commands import (
    CheckLease,
    CheckPaths,
    HandOffLease,
    ListLeases,
    ListPools,
    ParkLease,
    ReleaseLease,
    RenewLease,
    SaveCheckpoint,
)
from synapse.protocol.limits import Limits
from synapse.protocol.replies import Lease, Leases, PathsCovered, Pools


def test_a_lease_is_told_in_full() -> None:
    world = LeaseWorld()
    world.pool("gpu", 3)
    epoch = world.take("ada", "T1", "src/**", pools={"gpu": 2}, note="n", branch="b", tied=True)
    granted_at_ms = world.at_ms
    world.lease_ms += 1_000
    world.at_ms += 1_000
    info = world.reply(Lease, RenewLease(task="T1"), "ada")
    assert (info.task, info.granted_at_ms) == ("T1", granted_at_ms)
    assert (info.epoch, info.owner, info.room, info.worktree, info.paths, info.whole_worktree) == (
        epoch,
        "ada",
        "main",
        TREE,
        ("src/**",),
        False,
    )
    assert (info.pools, info.mode, info.ttl_ms, info.note, info.branch, info.tied) == (
        {"gpu": 2},
        "exclusive",
        TTL_MS,
        "n",
        "b",
        True,
    )
    assert (info.remaining_ms, info.expires_at_ms) == (TTL_MS - 1_000, world.at_ms + TTL_MS - 1_000)
    assert (info.status, info.checkpoint, info.offered_to, info.live) == ("held", None, UNSET, True)


@pytest.mark.parametrize(
    ("command", "outcome"),
    [
        (RenewLease(task="T1", note="new"), "renewed"),
        (SaveCheckpoint(task="T1", data=msgspec.Raw(b"1")), "checkpointed"),
        (ParkLease(task="T1", parked=True), "parked"),
        (HandOffLease(task="T1", to="dan"), "offered"),
        (HandOffLease(task="T1", to="bob"), "handed_off"),
    ],
)
def test_a_repeat_says_the_same_and_whether_the_lease_lives(
    command: RenewLease | SaveCheckpoint | ParkLease | HandOffLease, outcome: str
) -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a")
    first = world.reply(Lease, command, "ada", "k")
    again = world.reply(Lease, command, "ada", "k")
    assert (first.outcome, again) == (outcome, first)
    holder = world.held[0][0]
    world.do(ReleaseLease(task="T1"), holder)
    gone = world.reply(Lease, command, "ada", "k")
    assert (gone.epoch, gone.outcome, gone.live, gone.status) == (first.epoch, outcome, False, "ended")


@pytest.mark.parametrize("worktree", ["", "w" * 513])
@pytest.mark.parametrize("kind", ["covers", "list"])
def test_a_worktree_that_no_lease_can_have_is_refused(kind: str, worktree: str) -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a")
    query = ListLeases(worktree=worktree) if kind == "list" else CheckPaths(worktree=worktree, paths=("a",))
    with pytest.raises(Rejected) as caught:
        world.look(Leases, query, "ada")
    assert (caught.value.code, caught.value.facts) == ("bad_request", {"path": "$.body.worktree"})
    assert caught.value.detail == f"worktree has {len(worktree)} characters; 1 to 512 - at `$.body.worktree`"


def test_what_changes_nothing_says_so_in_the_same_words() -> None:
    world = LeaseWorld()
    world.take("ada", "T1")
    commands: list[tuple[RenewLease | ParkLease, str]] = [
        (RenewLease(task="T1"), "renewed"),
        (ParkLease(task="T1", parked=False), "resumed"),
    ]
    for command, outcome in commands:
        recorded, reply = world.do(command, "ada")
        assert isinstance(reply, Lease)
        assert (recorded, reply.outcome) == ([], outcome)
    world.hand_off("ada", "T1", "dan")
    recorded, reply = world.do(HandOffLease(task="T1", to="dan"), "ada")
    assert isinstance(reply, Lease)
    assert (recorded, reply.outcome, reply.offered_to) == ([], "offered", "dan")


# Guards.


def refusal_of(world: LeaseWorld, query: CheckPaths | CheckLease, by: str) -> Rejected:
    with pytest.raises(Rejected) as caught:
        world.look(Lease, query, by)
    return caught.value


A_MINUTE = "for another 60 s unless it is renewed"


def not_covered(world: LeaseWorld, query: CheckPaths, by: str) -> Rejected:
    refused = refusal_of(world, query, by)
    assert refused.code == "not_covered"
    return refused


def test_a_guard_is_told_whether_an_epoch_lives_whoever_holds_it() -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1")
    assert world.look(Lease, CheckLease(task="T1", epoch=epoch), "bob").owner == "ada"
    assert world.look(Lease, CheckLease(task="T1", epoch=epoch)).epoch == epoch, "an operator may ask too"
    world.hand_off("ada", "T1", "bob")
    assert refusal_of(world, CheckLease(task="T1", epoch=epoch), "ada").code == "stale_epoch"


def test_paths_are_covered_by_my_leases_and_by_nobody_elses() -> None:
    world = LeaseWorld()
    mine = world.take("ada", "T1", "src/**")
    shared = world.take("ada", "T2", "docs", mode="shared")
    covered = world.look(PathsCovered, CheckPaths(worktree=TREE, paths=("src/a.py", "docs/x")), "ada")
    assert [(it.path, it.epoch) for it in covered.paths] == [("src/a.py", mine), ("docs/x", shared)]
    for paths, mode, holders in [
        (("src/a.py",), "shared", [["ada"]]),
        (("top", "src/a.py"), "shared", [[], ["ada"]]),
    ]:
        refused = not_covered(world, CheckPaths(worktree=TREE, paths=paths, mode=mode), "bob")
        found = [[it["owner"] for it in path["holders"]] for path in named(refused, "paths")]  # type: ignore[attr-defined]  # the answer is a lease  # a list
        assert found == holders
    refused = not_covered(world, CheckPaths(worktree=TREE, paths=("docs/x",), mode="exclusive"), "ada")
    assert refused.facts["paths_count"] == 1
    not_covered(world, CheckPaths(worktree="other", paths=("src/a.py",)), "ada")


def test_who_may_read_and_wants_to_write_is_told_of_its_own_lease_and_how_it_becomes_exclusive() -> None:
    world = LeaseWorld()
    mine = world.take("ada", "T1", "docs", mode="shared")
    query = CheckPaths(worktree=TREE, paths=("docs/x",), mode="exclusive")
    refused = not_covered(world, query, "ada")
    assert refused.detail == (
        f"docs/x is not covered by a live exclusive lease of ada: its lease T1 with epoch {mine} covers it, shared, "
        f"{A_MINUTE}; synapse claim T1 makes that exclusive"
    )
    [path] = named(refused, "paths")
    told = path["mine"]
    assert isinstance(told, list)
    assert (path["holders"], [(it["task"], it["epoch"], it["mode"]) for it in told]) == ([], [("T1", mine, "shared")])
    world.take("ada", "T1")
    assert [it.mode for it in world.look(PathsCovered, query, "ada").paths] == ["exclusive"], "the words were true"


def test_beside_other_readers_the_own_shared_lease_goes_before_it_is_claimed_exclusively() -> None:
    world = LeaseWorld()
    mine, other = world.take("ada", "T1", "docs", mode="shared"), world.take("bob", "T2", "docs/x", mode="shared")
    query = CheckPaths(worktree=TREE, paths=("docs/x",), mode="exclusive")
    refused = not_covered(world, query, "ada")
    assert refused.detail == (
        f"docs/x is not covered by a live exclusive lease of ada: its lease T1 with epoch {mine} covers it, shared, "
        f"{A_MINUTE}, and bob holds it as T2 with epoch {other}, shared, {A_MINUTE}; release it (synapse release T1), "
        "then wait in line with synapse claim TASK --paths docs/x --wait"
    )
    assert world.refused("ada", "T1").code == "deadlock", "so there is no shorter way"
    world.release("ada", "T1")
    place = world.wait("ada", "T3", "docs/x")
    world.release("bob", "T2")
    assert place not in world.state.leases.places
    assert world.look(PathsCovered, query, "ada").paths[0].task == "T3"


def test_a_guard_is_not_told_that_a_shared_lock_becomes_exclusive() -> None:
    world = LeaseWorld()
    world.take("ada", "lock/x", "docs", mode="shared", reentrant=False)
    refused = not_covered(world, CheckPaths(worktree=TREE, paths=("docs/x",), mode="exclusive"), "ada")
    assert "release it (synapse release lock/x), then wait in line" in refused.detail


@pytest.mark.parametrize("name", ["a[1].py", "a[.py", "a*", "[", "what?", "[!x]", "a[b-a]"])
def test_a_file_with_the_letters_of_a_pattern_is_an_ordinary_file(name: str) -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "d")
    assert world.look(PathsCovered, CheckPaths(worktree=TREE, paths=(f"d/{name}",)), "ada").paths[0].path == f"d/{name}"
    refused = not_covered(world, CheckPaths(worktree=TREE, paths=(f"d/{name}",)), "bob")
    [path] = named(refused, "paths")
    assert [holder["owner"] for holder in path["holders"]] == ["ada"]  # type: ignore[attr-defined]  # the answer is a lease  # a list


def test_a_check_of_paths_has_bounds() -> None:
    world = LeaseWorld(Limits(page_items_max=2))
    for command in (
        CheckPaths(worktree=TREE, paths=()),
        CheckPaths(worktree=TREE, paths=("a", "b", "c")),
        CheckPaths(worktree=TREE, paths=("a",), mode="both"),
    ):
        assert refusal_of(world, command, "ada").code == "bad_request"
    assert refusal_of(world, CheckPaths(worktree=TREE, paths=("../a",)), "ada").code == "bad_scope"
    assert refusal_of(world, CheckPaths(worktree=TREE, paths=("a",)), "operator").code == "anonymous"


# Lists.


def test_leases_are_listed_in_pages_with_who_waits() -> None:
    world = LeaseWorld()
    epochs = [world.take("ada", f"T{at}", f"d/{at}") for at in range(3)]
    world.wait("bob", "W1", "d/0", priority="low")
    world.wait("cy", "W2", "d")
    first = world.look(Leases, ListLeases(limit=2))
    rest = world.look(Leases, ListLeases(limit=2, after=first.next))
    assert [it.epoch for it in (*first.leases, *rest.leases)] == epochs
    waiters = first.leases[0].waiters
    assert waiters
    assert [(it.owner, it.position, it.priority) for it in waiters] == [("cy", 1, "normal"), ("bob", 2, "low")]
    assert first.leases[1].waiting == 1


@pytest.mark.parametrize(
    ("fields", "tasks"),
    [
        ({"owner": "ada"}, ["T1", "T2"]),
        ({"owner": "nobody"}, []),
        ({"task": "T2"}, ["T2"]),
        ({"worktree": TREE}, ["T1"]),
        ({"room": "lab"}, ["T3"]),
        ({"room": "main", "owner": "ada", "task": "T1"}, ["T1"]),
    ],
)
def test_lists_are_narrowed(fields: dict[str, str], tasks: list[str]) -> None:
    world = LeaseWorld()
    world.boot({"lab": ["general"]})
    world.take("ada", "T1", "a")
    world.take("ada", "T2")
    world.take("bob", "T3", room="lab")
    assert [it.task for it in world.look(Leases, ListLeases(**fields)).leases] == tasks  # type: ignore[arg-type]  # text fields


def test_pools_are_listed_with_what_is_held_and_waited_for() -> None:
    world = LeaseWorld()
    world.pool("gpu", 4)
    world.pool("big", 9)
    world.take("ada", "T1", pools={"gpu": 3})
    world.wait("bob", "T2", pools={"gpu": 2}, wait_ms=1_000)
    found = world.look(Pools, ListPools()).pools
    assert [(it.pool, it.capacity, it.held, it.waiting) for it in found] == [("big", 9, 0, 0), ("gpu", 4, 3, 2)]


def test_a_position_counts_those_ahead_that_want_the_same() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a", "b")
    places = [world.wait("bob", "W1", "a"), world.wait("cy", "W2", "b"), world.wait("hal", "W3", "a", "b")]
    assert [position_of(world.state, world.place(place)) for place in places] == [1, 1, 3]
    urgent = world.wait("dan", "W4", "a", priority="urgent")
    assert [position_of(world.state, world.place(place)) for place in (*places, urgent)] == [2, 1, 4, 1]


def test_the_answer_of_an_operator_who_preempts_is_the_claimants_lease() -> None:
    world = LeaseWorld()
    world.take("ada", "T1")
    command = claim("T1", preempt=True, claimant="bob")
    first = world.reply(Lease, command, "operator", "k")
    assert (first.owner, first.outcome) == ("bob", "granted")
    again = world.reply(Lease, command, "operator", "k")
    assert (again.owner, again.outcome, again.epoch) == ("bob", "granted", first.epoch)
    same = world.reply(Lease, command, "operator")
    assert (same.owner, same.outcome, same.epoch) == ("bob", "renewed", first.epoch)
