"""Deadlocks: a wait, a grant, a hand-off or a preemption that would close a circle is refused with the circle."""

import pytest
from tests.core.lease_world import LeaseWorld, claim

from synapse.core.state import digest
from synapse.errors import Rejected
from synapse.protocol.commands import HandOffLease


def test_two_that_wait_for_each_other() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a")
    world.take("bob", "T2", "b")
    world.wait("ada", "T3", "b")
    refused = world.refused("bob", "T4", "a", wait_ms=None)
    assert (refused.code, refused.facts["cycle"], refused.facts["task"]) == ("deadlock", ["bob", "ada", "bob"], "T4")
    assert "bob waits for ada waits for bob" in refused.detail
    assert world.refused("bob", "T4", "a").code == "lease_held", "who does not wait closes no circle"


def test_three_in_a_circle() -> None:
    world = LeaseWorld()
    for name, path in [("ada", "a"), ("bob", "b"), ("cy", "c")]:
        world.take(name, f"of-{name}", path)
    world.wait("ada", "W1", "b")
    world.wait("bob", "W2", "c")
    refused = world.refused("cy", "W3", "a", wait_ms=1_000)
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["cy", "ada", "bob", "cy"])


def test_a_chain_is_no_circle() -> None:
    world = LeaseWorld()
    for name, path in [("ada", "a"), ("bob", "b"), ("cy", "c")]:
        world.take(name, f"of-{name}", path)
    world.wait("ada", "W1", "b")
    world.wait("bob", "W2", "c")
    world.wait("hal", "W3", "a")
    world.wait("ada", "W4", "c")
    assert len(world.waiting) == 4


def test_a_circle_through_a_place_ahead() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a")
    world.take("cy", "T2", "c")
    world.wait("bob", "W1", "a", "b")
    world.wait("ada", "W2", "c")
    refused = world.refused("cy", "W3", "b", wait_ms=None)
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["cy", "bob", "ada", "cy"])


def test_a_circle_through_the_lease_that_a_wider_claim_would_replace() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "x")
    world.take("bob", "T2", "y")
    world.wait("bob", "W", "x")
    refused = world.refused("ada", "T1", "x", "y", wait_ms=None)
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["ada", "bob", "ada"])


def test_an_upgrade_past_a_writer_that_waits_for_me() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "x", mode="shared")
    world.wait("bob", "W", "x")
    assert world.refused("ada", "T1", "x").code == "lease_queued"
    refused = world.refused("ada", "T1", "x", wait_ms=None)
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["ada", "bob", "ada"])


def test_a_grant_that_passes_a_lower_waiter_it_waits_for() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a")
    world.take("bob", "T2", "b")
    world.wait("bob", "W1", "a", "c", priority="low")
    world.wait("hal", "W2", "b")
    refused = world.refused("hal", "T9", "c", priority="high")
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["hal", "bob", "hal"])
    world.take("cy", "T9", "c", priority="high")


def test_a_wait_that_passes_a_lower_waiter() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a")
    world.take("bob", "T2", "b")
    world.wait("bob", "W1", "a", priority="low")
    world.wait("hal", "W2", "b")
    refused = world.refused("hal", "W3", "a", priority="high", wait_ms=None)
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["hal", "bob", "hal"])
    world.wait("hal", "W3", "a", priority="low")


def test_two_readers_do_not_pass_each_other() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "y")
    world.take("bob", "T2", "b")
    world.wait("bob", "W1", "x", "y", mode="shared", priority="low")
    world.wait("hal", "W2", "b")
    world.take("hal", "T3", "x", mode="shared", priority="high")
    assert len(world.held) == 3


def test_a_circle_through_a_pool_of_one_unit() -> None:
    world = LeaseWorld()
    world.pool("one", 1)
    world.take("ada", "T1", pools={"one": 1})
    world.take("bob", "T2", "b")
    world.wait("ada", "W1", "b")
    refused = world.refused("bob", "W2", pools={"one": 1}, wait_ms=None)
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["bob", "ada", "bob"])


def test_a_circle_through_a_lower_place_for_a_pool_of_one_unit() -> None:
    world = LeaseWorld()
    world.pool("one", 1)
    world.take("ada", "T1", pools={"one": 1})
    world.take("bob", "T2", "b")
    world.wait("bob", "W1", pools={"one": 1}, priority="low")
    world.wait("hal", "W2", "b")
    refused = world.refused("hal", "W3", pools={"one": 1}, wait_ms=None)
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["hal", "bob", "hal"])


def test_units_of_larger_pools_close_no_circle() -> None:
    world = LeaseWorld()
    world.pool("two", 2)
    world.take("ada", "T1", pools={"two": 2})
    world.take("bob", "T2", "b")
    world.wait("ada", "W1", "b")
    world.wait("bob", "W2", pools={"two": 1}, wait_ms=1_000)
    assert world.waiting == [("ada", "W1"), ("bob", "W2")]


def test_a_hand_off_to_one_that_waits_for_those_who_wait_for_it() -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1", "a")
    world.take("cy", "T2", "c")
    world.wait("cy", "W1", "a")
    world.wait("bob", "W2", "c")
    refused = world.refusal(HandOffLease(task="T1", to="bob"), "ada")
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["bob", "cy", "bob"])
    assert refused.facts["holders"] == [epoch]
    assert world.held == [("ada", "T1"), ("cy", "T2")]


def test_a_preemption_by_one_that_waits_for_those_who_wait_for_it() -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1", "a")
    world.take("cy", "T2", "c")
    world.wait("cy", "W1", "a")
    world.wait("hal", "W2", "c")
    refused = world.refusal(claim("T1", "a", preempt=True), "hal")
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["hal", "cy", "hal"])
    assert refused.facts["holders"] == [epoch]
    assert world.held == [("ada", "T1"), ("cy", "T2")]


def test_waiting_for_another_process_of_the_same_agent_is_no_circle() -> None:
    world = LeaseWorld()
    world.take("ada", "lock/x", reentrant=False)
    world.wait("ada", "lock/x", reentrant=False)
    world.wait("ada", "lock/x", reentrant=False)
    assert world.waiting == [("ada", "lock/x")] * 2


def test_the_circle_of_a_wait_names_the_grants_that_stand_in_its_way() -> None:
    world = LeaseWorld()
    of_ada = world.take("ada", "A", "a")
    world.take("bob", "B", "b")
    world.wait("ada", "B")
    refused = world.refused("bob", "A", wait_ms=2_000)
    assert (refused.code, refused.facts["holders"]) == ("deadlock", [of_ada])
    assert f"(ada holds it with epoch {of_ada} for another 60 s unless it is renewed)" in refused.detail


def test_processes_that_wait_behind_a_plain_claim_of_their_agent_are_no_circle() -> None:
    world = LeaseWorld()
    world.take("ada", "mine", "src")
    for number in (1, 2, 3):
        waits(world, "ada", f"lock/{number}", 10 + number, "src", reentrant=False, tied=True)
    assert world.waiting == [("ada", "lock/1"), ("ada", "lock/2"), ("ada", "lock/3")]
    world.release("ada", "mine")
    assert world.held == [("ada", "lock/1")]


def test_a_process_that_waits_for_another_agent_that_waits_for_its_own_is_in_a_circle() -> None:
    world = LeaseWorld()
    world.take("ada", "mine", "src")
    waits(world, "ada", "lock/1", 11, "src", reentrant=False, tied=True)
    world.take("bob", "other", "docs")
    waits(world, "bob", "W", 21, "src")
    refused = refused_at(world, "ada", "lock/2", 12, "docs", reentrant=False)
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["ada", "bob", "ada"])


def test_a_process_that_waits_twice_is_passed_and_stood_behind() -> None:
    world = LeaseWorld()
    world.take("ada", "T1")
    world.wait("cy", "T1", priority="high", reentrant=False)
    world.wait("cy", "T1")
    refused = world.refused("bob", "T1", priority="high", wait_ms=None)
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["bob", "cy", "bob"])
    world.wait("bob", "T1", priority="urgent")


def test_a_process_that_is_passed_by_another_one_of_its_agent_waits_for_it() -> None:
    world = LeaseWorld()
    locked(world, "ada", "LA", 11)
    world.take("cy", "T1", "x")
    world.take("bob", "T2", "y")
    waits(world, "bob", "LA", 21)
    waits(world, "ada", "W1", 11, "x", reentrant=False)
    refused = refused_at(world, "ada", "W2", 12, "x", "y", reentrant=False, priority="high")
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["ada", "bob", "ada", "ada"])
    waits(world, "ada", "W2", 12, "x", "y", reentrant=False)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("under", [True, False])
def test_a_process_behind_a_wait_of_its_agent_for_what_it_holds(*, reentrant: bool, under: bool) -> None:
    """`reentrant`: of the wait of the other process. `under`: what the first one waits for is asked in a child."""
    world = LeaseWorld()
    epoch = locked(world, "ada", "L2", 12, "p1")
    world.take("bob", "B", "p2")
    waits(world, "ada", "T", 11, "p1", "p2", reentrant=reentrant)
    fields = {"connection": 13, "under": epoch} if under else {"connection": 12}
    refused = refused_at(world, "ada", "L3", fields.pop("connection"), "p2", reentrant=False, **fields)
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["ada", "ada", "ada"])


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("under", [True, False])
def test_a_wait_past_a_process_for_what_that_holds(*, reentrant: bool, under: bool) -> None:
    world = LeaseWorld()
    epoch = locked(world, "ada", "L2", 12, "p1")
    world.take("bob", "B", "p2")
    if under:
        waits(world, "ada", "L3", 13, "p2", reentrant=False, under=epoch)
    else:
        waits(world, "ada", "L3", 12, "p2", reentrant=False)
    refused = refused_at(world, "ada", "T", 11, "p1", "p2", reentrant=reentrant, priority="high")
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["ada", "ada", "ada"])
    waits(world, "ada", "T", 11, "p1", "p2", reentrant=reentrant, priority="low")
    world.release("bob", "B")
    assert world.held == [("ada", "L2"), ("ada", "L3")]


def test_a_grant_past_another_process_of_its_agent_for_which_it_waits() -> None:
    world = LeaseWorld()
    locked(world, "ada", "L", 13)
    world.take("cy", "X", "x")
    waits(world, "ada", "P", 13, "x", "y", reentrant=False, priority="low")
    world.take("bob", "B")
    waits(world, "bob", "L", 21)
    waits(world, "ada", "B", 12, reentrant=False)
    refused = refused_at(world, "ada", "N", 12, "y", reentrant=False, wait_ms=0)
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["ada", "bob", "ada", "ada"])
    world.withdraw("ada", "B")
    world.take("ada", "N", "y", reentrant=False)


def test_a_process_may_wait_behind_a_wait_of_its_agent_that_comes_to_its_turn() -> None:
    world = LeaseWorld()
    world.take("bob", "B", "p1", "p2")
    waits(world, "ada", "T", 11, "p1", "p2")
    locked(world, "ada", "L2", 12, "p3")
    waits(world, "ada", "L3", 12, "p2", reentrant=False)
    world.release("bob", "B")
    assert world.held == [("ada", "L2"), ("ada", "T")]
    world.release("ada", "T")
    assert world.held == [("ada", "L2"), ("ada", "L3")]


def test_a_wait_for_another_agent_is_no_circle_with_processes_that_wait_for_the_one_that_asks() -> None:
    world = LeaseWorld()
    locked(world, "ada", "L1", 11)
    locked(world, "ada", "L2", 12)
    waits(world, "ada", "L1", 12, reentrant=False)
    waits(world, "ada", "L2", 13, reentrant=False)
    world.take("bob", "B")
    waits(world, "ada", "B", 11)
    assert world.waiting == [("ada", "L1"), ("ada", "L2"), ("ada", "B")]


# A command under a lease: it ends before the lease does.


def locked(world: LeaseWorld, name: str, task: str, connection: int, *paths: str, under: int | None = None) -> int:
    """As `lock` claims: for one process, tied to its connection; the epoch."""
    epoch = world.take(name, task, *paths, reentrant=False, tied=True, under=under)
    world.state.soft.leasing.tie(epoch, connection)
    return epoch


def waits(world: LeaseWorld, name: str, task: str, connection: int, *paths: str, **fields: object) -> int:
    """A claim that waits on that connection; its place."""
    place = world.wait(name, task, *paths, connection=connection, **fields)
    world.state.soft.leasing.attach(place, connection)
    return place


def refused_at(world: LeaseWorld, name: str, task: str, connection: int, *paths: str, **fields: object) -> Rejected:
    command = claim(task, *paths, **{"wait_ms": None, **fields})
    return world.refusal(command, world.by(name, connection=connection))


def test_two_locks_within_locks() -> None:
    world = LeaseWorld()
    of_ada, of_bob = locked(world, "ada", "LA", 11), locked(world, "bob", "LB", 21)
    waits(world, "ada", "LB", 12, reentrant=False, under=of_ada)
    refused = refused_at(world, "bob", "LA", 22, reentrant=False, under=of_bob)
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["bob", "ada", "bob"])
    waits(world, "bob", "LA", 23, reentrant=False)


def test_a_claim_within_a_lock_and_one_for_the_lock() -> None:
    world = LeaseWorld()
    epoch = locked(world, "ada", "LD", 11)
    world.take("bob", "M2")
    waits(world, "ada", "M2", 12, under=epoch)
    refused = refused_at(world, "bob", "LD", 21)
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["bob", "ada", "bob"])


def test_the_circle_is_seen_whoever_closes_it() -> None:
    world = LeaseWorld()
    epoch = locked(world, "ada", "LD", 11)
    world.take("bob", "M2")
    waits(world, "bob", "LD", 21)
    refused = refused_at(world, "ada", "M2", 12, under=epoch)
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["ada", "bob", "ada"])


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_one_runs_under_is_not_waited_for(*, reentrant: bool) -> None:
    world = LeaseWorld()
    epoch = locked(world, "ada", "LA", 11)
    refused = refused_at(world, "ada", "LA", 12, reentrant=reentrant, under=epoch)
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["ada", "ada"])
    assert refused_at(world, "ada", "LA", 12, wait_ms=0, reentrant=False, under=epoch).code == "lease_held"
    waits(world, "ada", "LA", 13, reentrant=False)


def test_what_one_runs_under_as_an_agent_is_not_waited_for() -> None:
    world = LeaseWorld()
    epoch, other = world.take("ada", "T1"), world.take("ada", "T2")
    assert refused_at(world, "ada", "T1", 12, reentrant=False, under=epoch).facts["cycle"] == ["ada", "ada"]
    assert refused_at(world, "ada", "T2", 12, reentrant=False, under=other).facts["cycle"] == ["ada", "ada"]
    waits(world, "ada", "T2", 12, reentrant=False, under=epoch)


def test_what_an_agent_holds_is_not_given_back_before_what_runs_under_it_ends() -> None:
    world = LeaseWorld()
    of_agent, of_process = world.take("ada", "T1"), locked(world, "ada", "L", 11)
    waits(world, "ada", "L", 12, reentrant=False, under=of_agent)
    refused = refused_at(world, "ada", "T1", 13, reentrant=False, under=of_process)
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["ada", "ada", "ada"])
    waits(world, "ada", "T1", 14, reentrant=False)


def test_locks_three_deep() -> None:
    world = LeaseWorld()
    outer = locked(world, "ada", "L1", 11)
    middle = locked(world, "ada", "L2", 12, under=outer)
    inner = locked(world, "ada", "L3", 13, under=middle)
    assert refused_at(world, "ada", "L1", 14, reentrant=False, under=inner).facts["cycle"] == ["ada", "ada"]
    of_bob = locked(world, "bob", "M", 21)
    waits(world, "ada", "M", 14, reentrant=False, under=inner)
    for task in ("L1", "L2", "L3"):
        refused = refused_at(world, "bob", task, 22, reentrant=False, under=of_bob)
        assert refused.facts["cycle"] == ["bob", "ada", "bob"], task


def test_two_processes_of_one_agent_within_each_others_locks() -> None:
    world = LeaseWorld()
    first, second = locked(world, "ada", "LA", 11), locked(world, "ada", "LB", 21)
    waits(world, "ada", "LB", 12, reentrant=False, under=first)
    refused = refused_at(world, "ada", "LA", 22, reentrant=False, under=second)
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["ada", "ada", "ada"])


def test_other_waits_of_the_agent_close_no_circle_over_what_a_process_runs_under() -> None:
    world = LeaseWorld()
    epoch = locked(world, "ada", "LA", 11)
    world.take("bob", "M")
    world.take("cy", "N")
    waits(world, "bob", "LA", 21)
    waits(world, "ada", "M", 13)  # a process of ada that does not run under LA
    waits(world, "ada", "LA", 14, reentrant=False)
    assert world.place(waits(world, "ada", "N", 12, under=epoch)).under == epoch


def test_a_circle_over_places_that_are_passed_by_another_process_of_their_agent() -> None:
    world = LeaseWorld()
    world.pool("y", 1)
    world.pool("z", 1)
    epoch = locked(world, "ada", "LA", 11)
    world.take("cy", "T1", pools={"y": 1})
    world.take("bob", "T2", pools={"z": 1})
    waits(world, "bob", "LA", 21)
    waits(world, "ada", "W1", 12, pools={"y": 1}, reentrant=False, under=epoch, priority="low")
    fields = {"pools": {"y": 1, "z": 1}, "reentrant": False}
    assert refused_at(world, "ada", "W2", 13, **fields).facts["cycle"] == ["ada", "bob", "ada", "ada"]
    waits(world, "ada", "W2", 13, priority="low", **fields)


def test_a_lease_that_is_not_ones_own_is_nothing_to_run_under() -> None:
    world = LeaseWorld()
    of_ada, of_bob = locked(world, "ada", "LA", 11), locked(world, "bob", "LB", 21)
    for under in (of_ada, 1, 0, 1 << 50):
        place = waits(world, "bob", "LA", 22, reentrant=False, under=under)
        assert world.place(place).under is None
        world.withdraw("bob", "LA")
    ended = locked(world, "bob", "LC", 23)
    world.release("bob", "LC", ended)
    assert world.place(waits(world, "bob", "LA", 22, reentrant=False, under=ended)).under is None
    assert world.place(waits(world, "ada", "LB", 12, reentrant=False, under=of_ada)).under == of_ada
    assert of_bob in world.state.leases.live


def test_what_runs_under_a_lease_is_remembered_and_handed_to_the_grant() -> None:
    world = LeaseWorld()
    outer = locked(world, "ada", "LA", 11)
    world.take("bob", "LB")
    place = waits(world, "ada", "LB", 12, reentrant=False, under=outer)
    world.release("bob", "LB")
    (inner,) = [lease for lease in world.state.leases.live.values() if lease.place == place]
    assert inner.under == outer
    assert digest(world.replayed()) == digest(world.state)


def test_a_restart_forgets_connections_and_not_who_runs_under_what() -> None:
    world = LeaseWorld()
    of_ada, of_bob = locked(world, "ada", "LA", 11), locked(world, "bob", "LB", 21)
    place = waits(world, "ada", "LB", 12, reentrant=False, under=of_ada)
    soft = world.state.soft.leasing
    soft.untie(of_ada)
    soft.untie(of_bob)
    soft.detach(place)
    refused = refused_at(world, "bob", "LA", 22, reentrant=False, under=of_bob)
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["bob", "ada", "bob"])
