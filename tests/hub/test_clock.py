"""The lease clock stands still while the hub stalls, so that nobody's deadline passes because of the hub."""

from hypothesis import given
from hypothesis import strategies as st

from synapse.hub.clock import INBOX_FULL_MS_MAX, JUMP_MS_MIN, LeaseClock, SystemClock, WallWatch
from synapse.testing import ManualClock


def advanced(clock: LeaseClock, manual: ManualClock, ms: int, *, behind: bool = False, full: bool = False) -> int:
    manual.advance(ms)
    return clock.advance(is_behind=behind, is_inbox_full=full)


def test_it_moves_with_the_monotonic_clock_and_not_with_the_wall() -> None:
    manual = ManualClock()
    clock = LeaseClock(manual)
    manual.jump(-86_400_000)
    assert advanced(clock, manual, 250) == 250
    manual.jump(86_400_000)
    assert advanced(clock, manual, 250) == 500
    assert clock.lag_ms == 0


def test_a_stall_counts_as_a_second_at_most() -> None:
    manual = ManualClock()
    clock = LeaseClock(manual)
    assert advanced(clock, manual, 60_000) == 1_000
    assert clock.lag_ms == 59_000


def test_it_stands_still_while_the_hub_is_behind_as_long_as_that_lasts() -> None:
    manual = ManualClock()
    clock = LeaseClock(manual)
    for _ in range(1_000):
        assert advanced(clock, manual, 900, behind=True) == 0
    assert advanced(clock, manual, 900) == 900


def test_a_full_inbox_holds_it_for_a_minute_on_end_and_not_for_ever() -> None:
    manual = ManualClock()
    clock = LeaseClock(manual)
    held_ms = 0
    while advanced(clock, manual, 500, full=True) == 0:
        held_ms += 500
    assert held_ms == INBOX_FULL_MS_MAX
    before = clock.now_ms
    assert advanced(clock, manual, 500, full=True) == before + 500
    advanced(clock, manual, 500)
    before = clock.now_ms
    assert advanced(clock, manual, 500, full=True) == before, "it was empty in between"


@given(st.lists(st.tuples(st.integers(0, 5_000), st.booleans(), st.booleans())))
def test_now_and_lag_add_up_to_the_time_that_passed(steps: list[tuple[int, bool, bool]]) -> None:
    manual = ManualClock()
    clock = LeaseClock(manual)
    for ms, behind, full in steps:
        before = clock.now_ms
        assert 0 <= advanced(clock, manual, ms, behind=behind, full=full) - before <= min(ms, 1_000)
    assert clock.now_ms + clock.lag_ms == manual.monotonic_ms()


def test_the_machines_clock_says_unix_time_and_never_goes_back() -> None:
    clock = SystemClock()
    assert clock.wall_ms() > 1_700_000_000_000
    assert clock.monotonic_ms() <= clock.monotonic_ms()


def test_a_jump_of_the_wall_clock_is_noticed_once_and_passing_time_is_none() -> None:
    manual = ManualClock()
    watch = WallWatch(manual)
    manual.advance(3_600_000)
    assert watch.look() == 0
    manual.jump(-3_600_000)
    assert [watch.look(), watch.look()] == [-3_600_000, 0]
    manual.jump(JUMP_MS_MIN)
    assert (watch.look(), watch.jumps, watch.last_ms) == (JUMP_MS_MIN, 2, JUMP_MS_MIN)


def test_small_corrections_of_the_wall_clock_are_none_however_many() -> None:
    manual = ManualClock()
    watch = WallWatch(manual)
    for _ in range(10):
        manual.jump(JUMP_MS_MIN - 1)
        assert watch.look() == 0
    assert watch.jumps == 0
