"""Claims: granted if nothing stands in the way, refused with who does, queued in order, and never twice."""

import msgspec
import pytest
from tests.core.lease_world import TREE, TTL_MS, LeaseWorld, claim, granted_to, named

from synapse.core.events import (
    LeaseExpired,
    LeaseGranted,
    LeaseHandedOff,
    LeaseQueued,
    LeaseReleased,
    LeaseRenewed,
    LeaseRevoked,
    LeaseUnqueued,
)
from synapse.core.holding import decide_expiry
from synapse.core.kernel import payload_hash, stamp
from synapse.core.state import decode_state, digest, encode_state
from synapse.protocol.commands import CreateRoom, JoinRoom, ReleaseLease, RenewLease
from synapse.protocol.limits import Limits
from synapse.protocol.replies import Lease


def test_what_nobody_holds_is_granted_and_the_epoch_is_the_seq_of_the_grant() -> None:
    world = LeaseWorld()
    recorded, reply = world.do(claim("T1", "src/**", note="n", branch="b", tied=True), "ada")
    event = recorded[0].event
    assert isinstance(event, LeaseGranted)
    assert (event.ask.paths, event.ask.owner, event.ttl_ms, event.place, event.replaces) == (
        ("src/**",),
        "ada",
        TTL_MS,
        None,
        None,
    )
    assert isinstance(reply, Lease)
    assert (reply.epoch, reply.outcome, reply.live) == (recorded[0].seq, "granted", True)
    assert (reply.remaining_ms, reply.expires_at_ms) == (TTL_MS, world.at_ms + TTL_MS)


def test_epochs_rise_over_release_expiry_restart_and_snapshot() -> None:
    world = LeaseWorld()
    epochs = [world.take("ada", "T1", "a")]
    world.release("ada", "T1")
    epochs.append(world.take("bob", "T1", "a"))
    world.record(decide_expiry(world.state, world.lease(epochs[-1]), "ttl"), "hub")
    world.restart()
    epochs.append(world.take("cy", "T1", "a"))
    world.state = decode_state(encode_state(world.state))
    world.release("cy", "T1")
    epochs.append(world.take("cy", "T1", "a"))
    assert epochs == sorted(set(epochs))


@pytest.mark.parametrize(
    ("mine", "theirs", "is_free"),
    [
        ({}, {"task": "T1", "worktree": None, "paths": ()}, False),
        ({}, {"worktree": TREE, "paths": ("src/a.py",)}, False),
        ({}, {"worktree": TREE, "paths": ("**/*.py",)}, False),
        ({}, {"worktree": TREE, "paths": (), "whole_worktree": True}, False),
        ({}, {"worktree": TREE, "paths": ("docs/**", "src/core/x")}, False),
        ({}, {"worktree": TREE, "paths": ("docs/**",)}, True),
        ({}, {"worktree": "other:/repo", "paths": ("src/**",)}, True),
        ({}, {"task": "T1", "room": "lab", "worktree": None, "paths": ()}, True),
        ({"mode": "shared"}, {"worktree": TREE, "paths": ("src/a.py",), "mode": "shared"}, True),
        ({"mode": "shared"}, {"worktree": TREE, "paths": ("src/a.py",)}, False),
        ({}, {"worktree": TREE, "paths": ("src/a.py",), "mode": "shared"}, False),
        ({"mode": "shared"}, {"task": "T1", "worktree": None, "paths": (), "mode": "shared"}, True),
        ({}, {"worktree": TREE, "paths": ("SRC/a.py",)}, True),
        ({}, {"worktree": TREE, "paths": ("SRC/a.py",), "folds_case": True}, False),
    ],
)
def test_two_claims_contend_by_task_and_by_overlapping_scope(
    mine: dict[str, object], theirs: dict[str, object], is_free: bool
) -> None:
    world = LeaseWorld()
    world.boot({"lab": ["general"]})
    epoch = world.take("ada", "T1", "src/**", **mine)
    fields = {"task": "T2", **theirs}
    command = claim(str(fields.pop("task")), *fields.pop("paths"), **fields)  # type: ignore[misc]  # the paths above are a tuple
    if is_free:
        assert granted_to(world.events(command, "bob"))
        return
    refused = world.refusal(command, "bob")
    assert refused.code == "lease_held"
    assert refused.facts["holders_count"] == 1
    [holder] = named(refused)
    assert holder == {
        "task": "T1",
        "room": "main",
        "owner": "ada",
        "epoch": epoch,
        "mode": mine.get("mode", "exclusive"),
        "worktree": TREE,
        "paths": ["src/**"],
        "whole_worktree": False,
        "pools": {},
        "expires_in_ms": TTL_MS,
    }
    assert refused.retry_after_ms == TTL_MS
    assert f"ada holds {'it' if command.task == 'T1' else 'T1'}" in refused.detail


def test_several_paths_and_pools_are_all_or_nothing() -> None:
    world = LeaseWorld()
    world.pool("gpu", 2)
    world.take("ada", "T1", "docs/**")
    refused = world.refused("bob", "T2", "src/**", "docs/a", pools={"gpu": 2})
    assert refused.code == "lease_held"
    world.take("cy", "T3", "src/**", pools={"gpu": 2})
    world.release("ada", "T1")
    refused = world.refused("bob", "T2", "docs/a", pools={"gpu": 1})
    assert [holder["owner"] for holder in named(refused)] == ["cy"]
    assert world.held == [("cy", "T3")]


def test_a_holder_that_stands_in_the_way_twice_is_named_once() -> None:
    world = LeaseWorld()
    world.pool("gpu", 1)
    world.take("ada", "T1", "src/**", pools={"gpu": 1})
    refused = world.refused("bob", "T1", "src/a", pools={"gpu": 1})
    assert refused.facts["holders_count"] == 1
    world.wait("bob", "T1", "src/a", pools={"gpu": 1})
    world.release("ada", "T1")
    world.take("ada", "T9", "x")
    refused = world.refused("cy", "T1", "src/a", pools={"gpu": 1})
    assert refused.facts["holders_count"] == 1


# My own lease.


def test_the_same_claim_again_renews_with_the_same_epoch_and_no_event() -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1", "src/**", "docs")
    recorded, reply = world.do(claim("T1", "src/**", "docs"), "ada")
    assert recorded == []
    assert isinstance(reply, Lease)
    assert (reply.epoch, reply.outcome) == (epoch, "renewed")
    assert world.events(claim("T1", "./src//**", "docs/"), "ada") == [], "the normal form is the same"


def test_a_claim_that_renews_sets_ttl_note_and_branch_anew() -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1", "a", note="one")
    [event] = world.events(claim("T1", "a", ttl_ms=90_000, branch="b"), "ada")
    assert isinstance(event, LeaseRenewed)
    assert (event.epoch, event.ttl_ms, event.note, event.branch) == (epoch, 90_000, "one", "b")
    assert world.lease(epoch).ttl_ms == 90_000


def test_a_bare_claim_of_the_holder_keeps_scope_and_pools() -> None:
    world = LeaseWorld()
    world.pool("gpu", 2)
    epoch = world.take("ada", "T1", "src/**", pools={"gpu": 1})
    assert world.events(claim("T1"), "ada") == []
    [event] = world.events(claim("T1", mode="shared"), "ada")
    assert isinstance(event, LeaseGranted)
    assert (event.ask.paths, event.ask.pools, event.replaces) == (("src/**",), (("gpu", 1),), epoch)


@pytest.mark.parametrize(
    "fields",
    [{"paths": ("docs",)}, {"mode": "shared"}, {"paths": (), "whole_worktree": True}, {"folds_case": True}],
)
def test_another_scope_or_mode_is_a_new_grant_that_fences_the_old(fields: dict[str, object]) -> None:
    world = LeaseWorld()
    old = world.take("ada", "T1", "src/**")
    given: dict[str, object] = {"paths": ("src/**",), **fields}
    paths = given.pop("paths")
    assert isinstance(paths, tuple)
    new = world.take("ada", "T1", *paths, **given)
    assert new > old
    assert list(world.state.leases.live) == [new]
    stale = world.refusal(RenewLease(task="T1", epoch=old), "ada")
    assert (stale.code, stale.facts["epoch"]) == ("stale_epoch", old)
    assert [holder["epoch"] for holder in named(stale)] == [new]


def test_what_wants_no_more_than_it_has_passes_the_queue() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "src/**", "docs/**")
    place = world.wait("bob", "T2", "docs/x")
    recorded = world.do(claim("T1", "src/**"), "ada")[0]
    assert granted_to([item.event for item in recorded]) == [("ada", "T1"), ("bob", "T2")]
    assert place not in world.state.leases.places


@pytest.mark.parametrize(
    ("has", "wants", "passes"),
    [
        ("src", "src/a", True),
        ("src/**", "src/a/*.py", True),
        ("**", "x", True),
        ("src/**", "src", False),
        ("src/*", "src/x/y", False),
        ("s*", "s/a", False),
    ],
)
def test_a_part_of_what_it_has_is_no_more_than_it_has(has: str, wants: str, passes: bool) -> None:
    world = LeaseWorld()
    world.take("ada", "T1", has)
    world.wait("bob", "T2", "**")
    if passes:
        assert granted_to([item.event for item in world.do(claim("T1", wants), "ada")[0]])[0] == ("ada", "T1")
    else:
        assert world.refused("ada", "T1", wants).code == "lease_queued"


def test_what_wants_more_than_it_has_stands_in_line() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "src/**")
    world.wait("bob", "T2", "src/x", "docs")
    refused = world.refused("ada", "T1", "src/**", "docs")
    assert (refused.code, refused.facts["waiters_count"]) == ("lease_queued", 1)
    assert world.refused("ada", "T1", "src/**", folds_case=True).code == "lease_queued"
    assert world.held == [("ada", "T1")]


def test_one_agent_may_hold_overlapping_tasks_when_both_are_reentrant() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "src/**")
    world.take("ada", "T2", "src/a")
    assert world.held == [("ada", "T1"), ("ada", "T2")]


def test_what_is_not_reentrant_excludes_other_processes_of_the_same_agent() -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "lock/x", reentrant=False)
    for reentrant in (True, False):
        refused = world.refused("ada", "lock/x", reentrant=reentrant)
        assert refused.code == "lease_held"
        assert "another process of ada" in refused.detail
    place = world.wait("ada", "lock/x", reentrant=False)
    assert granted_to(world.release("ada", "lock/x", epoch)) == [("ada", "lock/x")]
    assert place not in world.state.leases.places


def test_upgrade_with_other_readers_is_a_deadlock_and_alone_it_is_granted() -> None:
    world = LeaseWorld()
    old = world.take("ada", "T1", "src", mode="shared")
    reader = world.take("bob", "T2", "src/a", mode="shared")
    for wait_ms in (0, None):
        refused = world.refused("ada", "T1", "src", wait_ms=wait_ms)
        assert (refused.code, refused.facts["cycle"], refused.facts["holders"]) == (
            "deadlock",
            ["ada", "bob", "ada"],
            [reader],
        )
    world.release("bob", "T2")
    assert world.take("ada", "T1", "src") > old


# Waiting.


def test_who_waits_is_granted_by_the_release_in_order_of_arrival() -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1", "src/**")
    first = world.wait("bob", "T2", "src/a")
    second = world.wait("cy", "T3", "src/a", "docs")
    assert [type(event) for event in world.release("ada", "T1", epoch)] == [LeaseReleased, LeaseGranted]
    assert (world.held, world.waiting) == ([("bob", "T2")], [("cy", "T3")])
    [lease] = world.state.leases.live.values()
    assert (lease.place, second in world.state.leases.places) == (first, True)
    world.release("bob", "T2")
    assert world.held == [("cy", "T3")]


def test_higher_priority_goes_first_and_equals_in_order() -> None:
    world = LeaseWorld()
    world.take("ada", "T1")
    for name, priority in [("bob", "low"), ("cy", "normal"), ("hal", "urgent"), ("dan", "urgent")]:
        world.wait(name, "T1", priority=priority)
    order = []
    for _ in range(4):
        holder = world.held[0][0]
        world.release(holder, "T1")
        order.append(world.held[0][0])
    assert order == ["hal", "dan", "cy", "bob"]


def test_nobody_barges_past_a_waiter_without_waiting_either() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a")
    place = world.wait("bob", "T2", "a", "b")
    refused = world.refused("cy", "T3", "b")
    assert refused.code == "lease_queued"
    assert refused.facts == {
        "waiters": [{"task": "T2", "room": "main", "owner": "bob", "place": place}],
        "waiters_count": 1,
    }
    assert granted_to(world.events(claim("T4", "c"), "cy")) == [("cy", "T4")], "what nobody waits for is free"


def test_a_higher_priority_passes_and_a_lower_one_does_not() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a")
    world.wait("bob", "T2", "a", "b")
    assert world.refused("cy", "T3", "b", priority="low").code == "lease_queued"
    world.take("cy", "T3", "b", priority="high")


def test_readers_that_come_after_a_waiting_writer_wait_behind_it() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a", mode="shared")
    world.wait("bob", "T2", "a")
    assert world.refused("cy", "T3", "a", mode="shared").code == "lease_queued"
    world.wait("cy", "T3", "a", mode="shared")
    world.wait("hal", "T4", "a", mode="shared")
    world.release("ada", "T1")
    assert world.held == [("bob", "T2")]
    assert granted_to(world.release("bob", "T2")) == [("cy", "T3"), ("hal", "T4")]


def test_a_place_that_ends_lets_those_behind_it_go_on() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a", mode="shared")
    world.wait("bob", "T2", "a")
    world.wait("cy", "T3", "a", mode="shared")
    events = world.withdraw("bob", "T2")
    assert [type(event) for event in events] == [LeaseUnqueued, LeaseGranted]
    assert world.held == [("ada", "T1"), ("cy", "T3")]


def test_a_place_at_which_nobody_waits_keeps_its_turn_and_is_not_granted() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a")
    place = world.wait("bob", "T2", "a")
    world.wait("cy", "T3", "a")
    world.leave(place)
    assert [type(event) for event in world.release("ada", "T1")] == [LeaseReleased]
    assert world.refused("hal", "T4", "a").code == "lease_queued"
    assert world.held == []


def test_a_place_survives_replay_and_a_snapshot_with_its_order() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a")
    places = [world.wait("bob", "T2", "a", wait_ms=5_000, note="n"), world.wait("cy", "T3", "a", priority="high")]
    before = digest(world.state)
    world.restart()
    assert digest(world.state) == digest(decode_state(encode_state(world.state))) == before
    for place in places:
        world.state.soft.leasing.attach(place, 1)
    assert granted_to(world.release("ada", "T1")) == [("cy", "T3")]
    world.release("cy", "T3")
    [lease] = world.state.leases.live.values()
    assert (lease.ask.owner, lease.note, lease.place) == ("bob", "n", places[0])


def test_two_waits_of_one_agent_for_one_task_end_in_one_lease() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a")
    places = [world.wait("bob", "T1", "a"), world.wait("bob", "T1", "b")]
    recorded = world.do(ReleaseLease(task="T1"), "ada")[0]
    grants = [(item.seq, item.event) for item in recorded if isinstance(item.event, LeaseGranted)]
    assert [event.place for _, event in grants] == places
    assert grants[1][1].replaces == grants[0][0]
    assert list(world.state.leases.live) == [grants[1][0]]


def test_a_grant_that_takes_the_place_of_an_own_lease_frees_what_it_gives_up() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a")
    old = world.take("bob", "T2", "b")
    world.wait("bob", "T2", "a")
    world.wait("cy", "T3", "b")
    recorded = world.do(ReleaseLease(task="T1"), "ada")[0]
    assert granted_to([item.event for item in recorded]) == [("bob", "T2"), ("cy", "T3")]
    assert old not in world.state.leases.live


# Pools.


def test_pool_units_are_counted_whoever_holds_them() -> None:
    world = LeaseWorld()
    world.pool("gpu", 3)
    world.take("ada", "T1", pools={"gpu": 2})
    assert world.refused("ada", "T2", pools={"gpu": 2}).code == "lease_held"
    world.take("ada", "T2", pools={"gpu": 1})
    refused = world.refused("bob", "T3", pools={"gpu": 1}, mode="shared")
    assert (refused.code, refused.facts["holders_count"]) == ("lease_held", 2)


def test_units_that_somebody_ahead_waits_for_are_reserved() -> None:
    world = LeaseWorld()
    world.pool("gpu", 3)
    world.take("ada", "T1", pools={"gpu": 2})
    world.wait("bob", "T2", pools={"gpu": 3}, wait_ms=1_000)
    refused = world.refused("cy", "T3", pools={"gpu": 1})
    assert (refused.code, refused.facts["waiters_count"]) == ("lease_queued", 1)
    world.take("cy", "T3", pools={"gpu": 1}, priority="high")


def test_what_a_release_frees_in_a_pool_is_granted_once() -> None:
    world = LeaseWorld()
    world.pool("one", 1)
    world.take("ada", "T1", pools={"one": 1})
    world.wait("bob", "T2", pools={"one": 1})
    world.wait("cy", "T3", pools={"one": 1})
    assert granted_to(world.release("ada", "T1")) == [("bob", "T2")]
    assert sum(world.state.leases.pools["one"].held.values()) == 1


def test_a_release_serves_as_many_as_the_units_reach() -> None:
    world = LeaseWorld()
    world.pool("gpu", 4)
    world.take("ada", "T1", pools={"gpu": 4})
    for name, units in [("bob", 2), ("cy", 1), ("hal", 2), ("dan", 1)]:
        world.wait(name, f"of {name}".replace(" ", "-"), pools={"gpu": units}, wait_ms=1_000)
    assert [name for name, _ in granted_to(world.release("ada", "T1"))] == ["bob", "cy"]


def test_a_pool_with_more_capacity_serves_who_waits_and_less_takes_nothing_away() -> None:
    world = LeaseWorld()
    world.pool("gpu", 1)
    world.take("ada", "T1", pools={"gpu": 1})
    world.wait("bob", "T2", pools={"gpu": 1})
    world.wait("cy", "T3", pools={"gpu": 1})
    assert granted_to(world.pool("gpu", 2)) == [("bob", "T2")]
    assert granted_to(world.pool("gpu", 1)) == []
    assert len(world.held) == 2
    assert granted_to(world.release("ada", "T1")) == []
    assert granted_to(world.release("bob", "T2")) == [("cy", "T3")]


def test_a_place_that_asks_for_more_than_its_pool_has_by_now_ends_and_keeps_nobody_waiting() -> None:
    world = LeaseWorld()
    world.pool("gpu", 3)
    world.take("ada", "T1", pools={"gpu": 2})
    bob = world.wait("bob", "T2", "a", pools={"gpu": 3}, wait_ms=1_000)
    cy = world.wait("cy", "T3", pools={"gpu": 2}, wait_ms=1_000)
    world.wait("dan", "T4", "a", wait_ms=1_000)
    events = world.pool("gpu", 2)
    (ended,) = [event for event in events if isinstance(event, LeaseUnqueued)]
    assert (ended.place, ended.reason) == (bob, "too_few_units")
    assert granted_to(events) == [("dan", "T4")]
    assert list(world.state.leases.places) == [cy]
    assert granted_to(world.release("ada", "T1")) == [("cy", "T3")]


def test_a_bare_claim_over_the_capacity_of_today_is_refused_and_a_renewal_is_not() -> None:
    world = LeaseWorld()
    world.pool("gpu", 3)
    world.take("ada", "T1", pools={"gpu": 3})
    world.pool("gpu", 2)
    assert world.events(claim("T1"), "ada") == []
    refused = world.refused("ada", "T1", mode="shared")
    assert (refused.code, refused.facts["capacity"]) == ("bad_request", 2)


def test_waiting_for_a_pool_of_more_than_one_unit_needs_a_deadline() -> None:
    world = LeaseWorld()
    world.pool("gpu", 2)
    world.take("ada", "T1", pools={"gpu": 2})
    refused = world.refused("bob", "T2", pools={"gpu": 1}, wait_ms=None)
    assert (refused.code, refused.facts) == ("bad_request", {"path": "$.body.wait_ms", "pool": "gpu"})


# Preemption.


def test_an_operator_preempts_for_an_agent_and_the_victims_are_fenced() -> None:
    world = LeaseWorld()
    epochs = [world.take("ada", "T1", "a"), world.take("bob", "T2", "b")]
    world.wait("cy", "T3", "a")
    command = claim("T9", "a", "b", preempt=True, claimant="dan")
    recorded, reply = world.do(command, "operator")
    events = [item.event for item in recorded]
    assert [type(event) for event in events] == [LeaseRevoked, LeaseRevoked, LeaseGranted]
    assert {(e.epoch, e.reason) for e in events if isinstance(e, LeaseRevoked)} == {(e, "preempted") for e in epochs}
    assert isinstance(reply, Lease)
    assert (reply.owner, reply.epoch, reply.outcome) == ("dan", recorded[-1].seq, "granted")
    assert world.refusal(ReleaseLease(task="T1", epoch=epochs[0]), "ada").code == "stale_epoch"
    assert world.waiting == [("cy", "T3")], "others in line keep waiting"


def test_a_person_preempts_and_an_agent_does_not() -> None:
    world = LeaseWorld()
    world.take("ada", "T1")
    assert world.refused("bob", "T1", preempt=True).code == "not_permitted"
    assert world.refused("bob", "T1", claimant="cy").code == "not_permitted"
    assert world.refusal(claim("T1", claimant="bob"), "operator").code == "bad_request"
    assert world.refusal(claim("T1", preempt=True), "operator").code == "bad_request"
    world.take("hal", "T1", preempt=True)
    assert world.held == [("hal", "T1")]


def test_a_person_whose_token_is_for_some_rooms_preempts_nothing_of_another() -> None:
    world = LeaseWorld()
    world.do(CreateRoom(room="lab"), "ada")
    world.do(JoinRoom(room="lab"), "hal")
    taken = world.take("ada", "T1", "a", room="lab")
    by = world.by("hal")
    by.rooms = frozenset({"main"})
    refused = world.refusal(claim("T2", "a", preempt=True), by)
    assert (refused.code, refused.facts) == ("not_permitted", {"rooms": ["main"]})
    assert "lab" not in refused.detail
    assert taken in world.state.leases.live
    world.take("hal", "T2", "a", preempt=True)
    assert taken not in world.state.leases.live


def test_preemption_takes_the_latest_holders_of_a_pool_until_there_is_room() -> None:
    world = LeaseWorld()
    world.pool("gpu", 4)
    for name in ("ada", "bob", "cy"):
        world.take(name, f"of-{name}", pools={"gpu": 1})
    world.take("hal", "T9", pools={"gpu": 3}, preempt=True)
    assert world.held == [("ada", "of-ada"), ("hal", "T9")]


def test_what_a_preemption_frees_is_granted_once() -> None:
    world = LeaseWorld()
    own = world.take("hal", "T1", "x")
    world.take("ada", "T2", "a", "b")
    world.wait("bob", "T3", "x")
    world.wait("cy", "T4", "b", "x/z")
    recorded = world.do(claim("T1", "a", preempt=True), "hal")[0]
    assert granted_to([item.event for item in recorded]) == [("hal", "T1"), ("bob", "T3")]
    assert own not in world.state.leases.live
    assert world.waiting == [("cy", "T4")]


def test_a_person_who_waits_and_then_preempts_has_one_lease_and_waits_no_more() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a")
    place = world.wait("hal", "T1", "a")
    recorded, reply = world.do(claim("T1", "a", preempt=True), "hal")
    assert [type(item.event) for item in recorded] == [LeaseRevoked, LeaseGranted, LeaseUnqueued]
    assert isinstance(reply, Lease)
    assert (reply.live, reply.epoch) == (True, recorded[1].seq)
    assert (world.held, place in world.state.leases.places) == ([("hal", "T1")], False)


@pytest.mark.parametrize(("path", "mode"), [("b", "exclusive"), ("a", "shared")])
def test_a_wait_of_who_preempts_for_another_scope_or_mode_ends_without_that_lease(path: str, mode: str) -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a", "b")
    place = world.wait("hal", "T1", path, mode=mode)
    bare = world.wait("hal", "T1")
    recorded = world.do(claim("T1", "a", preempt=True), "hal")[0]
    ended = [item.event for item in recorded if isinstance(item.event, LeaseUnqueued)]
    assert [(event.place, event.reason) for event in ended] == [(place, "replaced"), (bare, "preempted")]
    assert (world.held, world.waiting) == ([("hal", "T1")], [])


# Bad input.


@pytest.mark.parametrize(
    ("fields", "code", "path"),
    [
        ({"ttl_ms": 4_999}, "bad_request", "$.body.ttl_ms"),
        ({"ttl_ms": 24 * 3600 * 1000 + 1}, "bad_request", "$.body.ttl_ms"),
        ({"ttl_ms": -1}, "bad_request", "$.body.ttl_ms"),
        ({"ttl_ms": 0}, "bad_request", "$.body.ttl_ms"),
        ({"ttl_ms": 2**53 - 1}, "bad_request", "$.body.ttl_ms"),
        ({"wait_ms": -1}, "bad_request", "$.body.wait_ms"),
        ({"wait_ms": 24 * 3600 * 1000 + 1}, "bad_request", "$.body.wait_ms"),
        ({"mode": "both"}, "bad_request", "$.body.mode"),
        ({"priority": "highest"}, "bad_request", "$.body.priority"),
        ({"pools": {"gpu": 0}}, "bad_request", "$.body.pools"),
        ({"pools": {"gpu": -1}}, "bad_request", "$.body.pools"),
        ({"pools": {"gpu": 3}}, "bad_request", "$.body.pools"),
        ({"pools": {"cpu": 1}}, "not_found", None),
        ({"paths": ("a",)}, "bad_request", None),
        ({"worktree": TREE}, "bad_scope", None),
        ({"worktree": TREE, "paths": ("a",), "whole_worktree": True}, "bad_request", None),
        ({"worktree": TREE, "paths": ("../a",)}, "bad_scope", None),
        ({"worktree": TREE, "paths": ("/a",)}, "bad_scope", None),
        ({"worktree": TREE, "paths": ("a\\b",)}, "bad_scope", None),
        ({"worktree": TREE, "paths": ("~/a",)}, "bad_scope", None),
        ({"worktree": TREE, "paths": ("",)}, "bad_scope", None),
        ({"worktree": TREE, "paths": ("*" + "/*" * 16,)}, "bad_scope", None),
        ({"worktree": TREE, "paths": ("a" * 513,)}, "bad_scope", None),
        ({"worktree": TREE, "paths": ("ok", "a\\b")}, "bad_scope", None),
        ({"worktree": TREE, "paths": tuple(f"p{at}" for at in range(65))}, "too_large", None),
        ({"worktree": "w" * 513, "paths": ("a",)}, "bad_request", None),
        ({"note": "n" * 513}, "bad_request", None),
        ({"branch": "n" * 513}, "bad_request", None),
        ({"pools": {f"p{at}": 1 for at in range(9)}}, "too_large", None),
        ({"room": "nowhere"}, "not_found", None),
        ({"room": "No"}, "bad_name", None),
        ({"task": ""}, "bad_name", None),
        ({"task": "t" * 129}, "bad_name", None),
        ({"task": "a b"}, "bad_name", None),
    ],
)
def test_what_is_out_of_bounds_is_refused(fields: dict[str, object], code: str, path: str | None) -> None:
    world = LeaseWorld()
    world.pool("gpu", 2)
    given: dict[str, object] = {"task": "T1", "ttl_ms": TTL_MS, **fields}
    refused = world.refusal(type(claim("T1"))(**given), "ada")  # type: ignore[arg-type]  # the fields above
    assert refused.code == code
    if path is not None:
        assert refused.facts["path"] == path


@pytest.mark.parametrize("ttl_ms", [5_000, 24 * 3600 * 1000])
def test_floor_and_ceiling_of_the_ttl_are_allowed(ttl_ms: int) -> None:
    world = LeaseWorld()
    assert world.lease(world.take("ada", "T1", ttl_ms=ttl_ms)).ttl_ms == ttl_ms


def test_the_same_path_twice_counts_once() -> None:
    world = LeaseWorld()
    assert world.lease(world.take("ada", "T1", "src", "./src/", "src//")).ask.paths == ("src",)


def test_leases_and_waits_have_limits_that_a_renewal_does_not_meet() -> None:
    world = LeaseWorld(Limits(leases_per_agent_max=2, leases_max=3, waits_per_agent_max=1, waiters_max=2))
    world.take("ada", "T1")
    world.take("ada", "T2")
    refused = world.refused("ada", "T3")
    assert (refused.code, refused.facts) == ("limit", {"limit": "leases_per_agent_max", "value": 2, "owner": "ada"})
    assert "2 leases of 2 are held by ada" in refused.detail
    assert world.events(claim("T2"), "ada") == []
    world.take("bob", "T3")
    refused = world.refused("cy", "T4")
    assert (refused.code, refused.facts) == ("limit", {"limit": "leases_max", "value": 3})
    assert isinstance(world.hand_off("ada", "T1", "bob")[0].event, LeaseHandedOff)
    world.release("ada", "T2")
    world.wait("cy", "T1")
    refused = world.refused("cy", "T3", wait_ms=None)
    assert (refused.code, refused.facts) == ("limit", {"limit": "waits_per_agent_max", "value": 1})
    world.wait("hal", "T1")
    refused = world.refused("dan", "T1", wait_ms=None)
    assert (refused.code, refused.facts) == ("limit", {"limit": "waiters_max", "value": 2})


# Idempotency.


def test_a_repeated_claim_gets_the_first_answer_and_is_told_whether_it_lives() -> None:
    world = LeaseWorld()
    command = claim("T1", "a")
    first = world.reply(Lease, command, "ada", "k")
    again = world.reply(Lease, command, "ada", "k")
    assert (again.epoch, again.outcome, again.live, again.status) == (first.epoch, "granted", True, "held")
    world.release("ada", "T1")
    world.take("bob", "T1", "a")
    gone = world.reply(Lease, command, "ada", "k")
    assert (gone.epoch, gone.outcome, gone.live, gone.status) == (first.epoch, "granted", False, "ended")
    assert (gone.remaining_ms, gone.expires_at_ms, gone.paths) == (None, None, ("a",))
    assert world.held == [("bob", "T1")], "a repeat grants nothing"


def test_a_key_belongs_to_its_agent_and_to_its_payload() -> None:
    world = LeaseWorld()
    world.do(claim("T1"), "ada", "k")
    world.do(claim("T2"), "bob", "k")
    assert world.held == [("ada", "T1"), ("bob", "T2")]
    assert world.refusal(claim("T3"), "ada", "k").code == "idem_conflict"


def test_a_refusal_is_not_remembered() -> None:
    world = LeaseWorld()
    world.take("ada", "T1")
    assert world.refusal(claim("T1"), "bob", "k").code == "lease_held"
    world.release("ada", "T1")
    assert world.reply(Lease, claim("T1"), "bob", "k").outcome == "granted"


def queue_with_key(world: LeaseWorld) -> int:
    """Bob waits for T1 under the key k."""
    command = claim("T1", wait_ms=None)
    events = world.decide(command, world.by("bob"))
    digest_of = payload_hash(command, msgspec.json.encode(command), world.by("bob"))
    return world.record(stamp(events, "k", digest_of), "bob")[0].seq


def test_the_key_of_a_waiting_claim_takes_effect_with_the_grant() -> None:
    world = LeaseWorld()
    world.take("ada", "T1")
    place = queue_with_key(world)
    assert ("bob", "k") not in world.state.idempotency.by_key
    recorded = world.do(ReleaseLease(task="T1"), "ada")[0]
    known = world.state.idempotency.by_key["bob", "k"]
    assert (known.seq, known.count, known.hash) == (recorded[1].seq, 1, known.hash)
    assert place not in world.state.leases.places
    assert digest(world.replayed()) == digest(world.state)


def test_another_request_cannot_use_the_key_of_a_claim_that_waits() -> None:
    world = LeaseWorld()
    world.take("ada", "T1")
    world.take("bob", "T2")
    place = queue_with_key(world)
    refused = world.refusal(ReleaseLease(task="T2"), "bob", "k")
    assert (refused.code, refused.facts["seq"]) == ("idem_conflict", place)
    world.state = decode_state(encode_state(world.state))
    assert world.refusal(ReleaseLease(task="T2"), "bob", "k").code == "idem_conflict"
    world.withdraw("bob", "T1")
    world.do(ReleaseLease(task="T2"), "bob", "k")
    assert world.held == [("ada", "T1")]


def test_a_journal_in_which_a_key_was_used_twice_still_folds() -> None:
    world = LeaseWorld()
    world.take("ada", "T1")
    world.take("bob", "T2")
    queue_with_key(world)
    world.state.idempotency.waiting.clear()
    world.do(ReleaseLease(task="T2"), "bob", "k")
    world.release("ada", "T1")
    assert world.held == [("bob", "T1")]
    assert digest(world.replayed()) == digest(world.state)


def test_a_claim_with_a_place_of_yesterday_is_an_ordinary_claim() -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1", place=17)
    reply = world.reply(Lease, claim("T1", place=17), "ada")
    assert (reply.epoch, reply.outcome) == (epoch, "renewed")


def test_a_claim_with_the_place_it_was_granted_from_gets_that_lease() -> None:
    world = LeaseWorld()
    world.take("ada", "lock/x")
    place = world.wait("bob", "lock/x", reentrant=False)
    world.release("ada", "lock/x")
    reply = world.reply(Lease, claim("lock/x", reentrant=False, wait_ms=None, place=place), "bob")
    assert (reply.outcome, reply.epoch) == ("granted", next(iter(world.state.leases.live)))


def test_expiry_and_grant_are_one_decision() -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1", "a")
    world.wait("bob", "T2", "a")
    events = decide_expiry(world.state, world.lease(epoch), "ttl")
    assert [type(event) for event in events] == [LeaseExpired, LeaseGranted]


def test_waiting_carries_all_that_the_grant_needs() -> None:
    world = LeaseWorld()
    world.take("ada", "T1")
    command = claim("T1", "a", wait_ms=7_000, priority="high", tied=True, note="n", branch="b", ttl_ms=70_000)
    [event] = world.decide(command, world.by("bob"))
    assert isinstance(event, LeaseQueued)
    world.record([event], "bob")
    [_, granted] = world.release("ada", "T1")
    assert isinstance(granted, LeaseGranted)
    assert (granted.ask, granted.ttl_ms, granted.tied, granted.note, granted.branch) == (
        event.ask,
        70_000,
        True,
        "n",
        "b",
    )
