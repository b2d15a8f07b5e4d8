"""Deadlines, ties and attachments: never early, in order, full again after a restart."""

from hypothesis import given
from hypothesis import strategies as st
from tests.core.lease_world import TTL_MS, LeaseWorld

from synapse.core.leasing import CONNECTION, DEADLINE, GONE, PARKED, Leasing, arm_all
from synapse.protocol.commands import ParkLease, RenewLease
from synapse.protocol.limits import Limits

LIMITS = Limits()
MOST = 1_000


def test_a_deadline_is_due_when_it_is_reached_and_not_before() -> None:
    soft = Leasing()
    soft.arm(7, 100)
    assert soft.due(99, MOST) == []
    assert soft.due(100, MOST) == [7]
    assert soft.due(100, MOST) == [7], "until it is forgotten or armed again"
    soft.forget(7)
    assert soft.due(10**9, MOST) == []


def test_what_was_armed_later_or_earlier_counts_from_the_last_time() -> None:
    soft = Leasing()
    soft.arm(1, 100)
    soft.arm(1, 200, GONE)
    assert (soft.due(199, MOST), soft.reasons) == ([], {1: GONE})
    soft.arm(1, 50)
    assert (soft.due(50, MOST), soft.reasons) == ([1], {})
    soft.arm(1, 300)
    assert soft.due(299, MOST) == []
    assert soft.due(300, MOST) == [1]


def test_the_earliest_come_first_and_the_rest_in_the_next_tick() -> None:
    soft = Leasing()
    for key, at_ms in [(1, 30), (2, 10), (3, 20)]:
        soft.arm(key, at_ms)
    assert soft.due(30, 2) == [2, 3]
    for key in (2, 3):
        soft.forget(key)
    assert soft.due(30, 2) == [1]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20), st.sampled_from(["arm", "forget", "tick", "skip"]))))
def test_due_is_what_a_plain_table_says(steps: list[tuple[int, int, str]]) -> None:
    soft, plain, now_ms = Leasing(), dict[int, int](), 0
    for key, span_ms, what in steps:
        if what == "arm":
            soft.arm(key, now_ms + span_ms)
            plain[key] = now_ms + span_ms
        elif what == "forget":
            soft.forget(key)
            plain.pop(key, None)
        else:
            now_ms += span_ms
            if what == "tick":
                due = soft.due(now_ms, MOST)
                assert sorted(due) == sorted(k for k, at_ms in plain.items() if at_ms <= now_ms)
                assert [plain[k] for k in due] == sorted(plain[k] for k in due)


def test_the_heap_does_not_grow_with_what_is_over() -> None:
    soft = Leasing()
    soft.arm(0, 10**9)
    for key in range(1, 20_000):
        soft.arm(key, 10**6 + key)
        soft.forget(key)
    for at_ms in range(20_000, 0, -1):
        soft.arm(0, at_ms)
    assert len(soft.heap) < 5_000
    assert soft.due(1, MOST) == [0]


# Ties.


def tied_world() -> tuple[LeaseWorld, int]:
    world = LeaseWorld()
    epoch = world.take("ada", "T1", tied=True)
    world.state.soft.leasing.tie(epoch, 5)
    return world, epoch


def test_a_tied_lease_has_a_grace_when_its_connection_is_gone() -> None:
    world, epoch = tied_world()
    soft = world.state.soft.leasing
    soft.disconnect(4, LIMITS, 1_000)
    assert soft.deadlines[epoch] == TTL_MS
    soft.disconnect(5, LIMITS, 1_000)
    assert (soft.deadlines[epoch], soft.reasons[epoch]) == (1_000 + LIMITS.tie_grace_ms, CONNECTION)
    assert (soft.tied, soft.ties) == ({}, {})


def test_the_grace_never_goes_past_the_deadline() -> None:
    world, epoch = tied_world()
    soft = world.state.soft.leasing
    soft.disconnect(5, LIMITS, TTL_MS - 1)
    assert (soft.deadlines[epoch], soft.reasons) == (TTL_MS, {})


def test_a_renewal_takes_the_lease_up_over_its_own_connection() -> None:
    world, epoch = tied_world()
    soft, lease = world.state.soft.leasing, world.lease(epoch)
    soft.disconnect(5, LIMITS, 1_000)
    soft.renew(lease, 6, 2_000)
    assert (soft.deadlines[epoch], soft.reasons, soft.tied) == (2_000 + TTL_MS, {}, {epoch: 6})
    soft.disconnect(5, LIMITS, 3_000)
    assert soft.deadlines[epoch] == 2_000 + TTL_MS


def test_a_lease_that_is_not_tied_does_not_mind() -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1")
    soft = world.state.soft.leasing
    soft.renew(world.lease(epoch), 5, 1_000)
    soft.disconnect(5, LIMITS, 2_000)
    assert soft.deadlines[epoch] == 1_000 + TTL_MS


def test_a_renewal_with_a_new_ttl_counts_it_from_now() -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1")
    world.do(RenewLease(task="T1", ttl_ms=7_000), "ada")
    soft = world.state.soft.leasing
    soft.renew(world.lease(epoch), 5, 1_000)
    assert soft.deadlines[epoch] == 8_000
    assert soft.remaining_ms(world.lease(epoch), 2_000) == 6_000


# Places.


def test_a_place_without_anybody_has_the_time_to_be_taken_up_again() -> None:
    soft = Leasing()
    soft.until[9] = 60_000
    soft.await_turn(9, 5)
    assert (soft.deadlines[9], soft.reasons[9], soft.attached) == (60_000, DEADLINE, {9: 5})
    soft.disconnect(5, LIMITS, 1_000)
    assert (soft.deadlines[9], soft.reasons[9], soft.attached) == (1_000 + LIMITS.reattach_ms, GONE, {})
    soft.await_turn(9, 6)
    assert (soft.deadlines[9], soft.reasons[9], soft.attached) == (60_000, DEADLINE, {9: 6})


def test_a_wait_without_end_has_no_deadline_while_somebody_waits() -> None:
    soft = Leasing()
    soft.await_turn(9, 5)
    assert soft.due(10**9, MOST) == []
    soft.disconnect(5, LIMITS, 1_000)
    assert soft.due(1_000 + LIMITS.reattach_ms, MOST) == [9]
    soft.await_turn(9, 6)
    assert soft.due(10**9, MOST) == []


def test_the_deadline_of_a_wait_is_not_moved_by_going_away() -> None:
    soft = Leasing()
    soft.until[9] = 1_500
    soft.await_turn(9, 5)
    soft.disconnect(5, LIMITS, 1_000)
    assert soft.deadlines[9] == 1_500


# A start.


def test_a_start_arms_everything_in_full() -> None:
    world = LeaseWorld()
    held = world.take("ada", "T1", "a")
    parked = world.take("ada", "T2", "b", ttl_ms=5_000)
    world.do(ParkLease(task="T2", parked=True), "ada")
    waits = world.wait("bob", "T3", "a", wait_ms=4_000)
    endless = world.wait("cy", "T4", "a")
    world.lease_ms = 55_000
    world.restart()
    soft = world.state.soft.leasing
    arm_all(world.state, LIMITS, 100)
    assert soft.deadlines == {
        held: 100 + TTL_MS,
        parked: 100 + LIMITS.parked_ms_max,
        waits: 4_100,
        endless: 100 + LIMITS.reattach_ms,
    }
    assert soft.reasons == {parked: PARKED, waits: GONE, endless: GONE}
    soft.await_turn(waits, 1)
    assert (soft.deadlines[waits], soft.reasons[waits]) == (4_100, DEADLINE)


def test_a_parked_lease_stays_parked_when_it_is_renewed() -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1")
    world.do(ParkLease(task="T1", parked=True), "ada")
    soft = world.state.soft.leasing
    soft.arm(epoch, LIMITS.parked_ms_max, PARKED)
    soft.renew(world.lease(epoch), 1, 1_000)
    assert (soft.deadlines[epoch], soft.left[epoch]) == (LIMITS.parked_ms_max, TTL_MS)
    assert soft.remaining_ms(world.lease(epoch), 1_000) is None
