"""Deadlocks: a wait, a grant, a hand-off or a preemption that would close a circle is refused with the circle."""

from tests.core.lease_world import LeaseWorld, claim

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
    world.take("ada", "T1", "a")
    world.take("cy", "T2", "c")
    world.wait("cy", "W1", "a")
    world.wait("bob", "W2", "c")
    refused = world.refusal(HandOffLease(task="T1", to="bob"), "ada")
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["bob", "cy", "bob"])
    assert world.held == [("ada", "T1"), ("cy", "T2")]


def test_a_preemption_by_one_that_waits_for_those_who_wait_for_it() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a")
    world.take("cy", "T2", "c")
    world.wait("cy", "W1", "a")
    world.wait("hal", "W2", "c")
    refused = world.refusal(claim("T1", "a", preempt=True), "hal")
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["hal", "cy", "hal"])
    assert world.held == [("ada", "T1"), ("cy", "T2")]


def test_waiting_for_another_process_of_the_same_agent_is_no_circle() -> None:
    world = LeaseWorld()
    world.take("ada", "lock/x", reentrant=False)
    world.wait("ada", "lock/x", reentrant=False)
    world.wait("ada", "lock/x", reentrant=False)
    assert world.waiting == [("ada", "lock/x")] * 2


def test_a_process_that_waits_twice_is_passed_and_stood_behind() -> None:
    world = LeaseWorld()
    world.take("ada", "T1")
    world.wait("cy", "T1", priority="high", reentrant=False)
    world.wait("cy", "T1")
    refused = world.refused("bob", "T1", priority="high", wait_ms=None)
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["bob", "cy", "bob"])
    world.wait("bob", "T1", priority="urgent")
