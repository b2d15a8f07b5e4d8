"""Token buckets: what they promise to wait is enough and no more than needed."""

from hypothesis import given
from hypothesis import strategies as st

from synapse.hub.buckets import REMEMBER_MS, Bucket, Buckets


@given(st.integers(1, 5_000), st.integers(1, 50), st.lists(st.integers(0, 300), min_size=1, max_size=100))
def test_after_the_wait_it_names_there_is_a_token_and_never_more_than_the_rate_allows(
    rate: int, burst: int, gaps_ms: list[int]
) -> None:
    bucket, now_ms = Bucket(rate, burst, 0), 0
    for taken, gap_ms in enumerate(gaps_ms, 1):
        now_ms += gap_ms
        wait_ms = bucket.take(now_ms)
        if wait_ms:
            now_ms += wait_ms
            assert bucket.take(now_ms) == 0
        assert taken <= burst + now_ms * rate / 1_000 + 1e-6


@given(st.integers(1, 5_000), st.integers(1, 50), st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20))))
def test_a_bucket_has_as_many_tokens_as_can_be_taken_one_by_one(
    rate: int, burst: int, asks: list[tuple[int, int]]
) -> None:
    at_once, one_by_one, now_ms = Bucket(rate, burst, 0), Bucket(rate, burst, 0), 0
    for gap_ms, count in asks:
        now_ms += gap_ms
        refused = [wait_ms for wait_ms in (one_by_one.take(now_ms) for _ in range(count)) if wait_ms]
        assert at_once.has(count, now_ms) is not bool(refused)
        if refused:
            assert [wait_ms for wait_ms in (at_once.take(now_ms) for _ in range(count)) if wait_ms] == refused
        else:
            at_once.spend(count)


@given(st.integers(1, 5_000), st.integers(1, 50), st.lists(st.integers(0, 20), max_size=300))
def test_what_comes_in_many_short_times_is_what_comes_in_all_and_not_a_token_for_each(
    rate: int, burst: int, times_ms: list[int]
) -> None:
    bucket = Bucket(rate, burst, 0)
    came = [bucket.tokens_in(passed_ms) for passed_ms in times_ms]
    assert max(came, default=0) <= burst
    assert sum(came) <= sum(times_ms) * rate / 1_000 + 1e-6
    if rate * 20 <= burst * 1_000 - 1_000:
        assert sum(came) > sum(times_ms) * rate / 1_000 - 1 - 1e-6


def test_a_bucket_that_was_only_heard_as_fast_as_it_fills_is_not_rested() -> None:
    for burst in (1, 6, 12, 400):
        bucket = Bucket(2, burst, 0)
        while not bucket.take(0):
            pass
        for second in range(1, 20):  # its first turn comes when two tokens came: one is owed for the refusal
            now_ms = 500 + second * 500
            assert not bucket.is_rested(now_ms)
            assert bucket.take(now_ms) == 0
    assert bucket.is_rested(1_000_000)


@given(st.integers(1, 2_000), st.integers(1, 8), st.lists(st.integers(0, 500), max_size=30), st.integers(0, 100_000))
def test_at_any_burst_who_goes_on_is_not_rested_and_who_pauses_is(
    rate: int, burst: int, late_ms: list[int], pause_ms: int
) -> None:
    """As the pacer uses it: a frame takes its token and waits for a turn, at which it is asked who has rested."""
    bucket, now_ms = Bucket(rate, burst, 0), 0
    while not bucket.take(now_ms):
        pass
    now_ms += 1_000 // rate + 1
    for late in late_ms:
        now_ms += late if burst < 3 else 0  # a larger bucket fills while its owner waits for a turn that comes late
        assert not bucket.is_rested(now_ms)
        bucket.note_pause(now_ms)
        now_ms += bucket.take(now_ms) or 1_000 // rate
    assert not bucket.is_rested(now_ms)
    now_ms += (burst + 3) * 1_000 // rate + 1 + pause_ms
    bucket.note_pause(now_ms)
    assert bucket.take(now_ms) == 0
    assert bucket.is_rested(now_ms + 1_000 // rate + 1)
    while not bucket.take(now_ms):
        pass
    assert not bucket.is_rested(now_ms + 1_000 // rate), "what it rested before it asked too much again is forgotten"


def test_a_clock_that_stands_still_refills_nothing() -> None:
    bucket = Bucket(1_000, 2, 0)
    assert [bucket.take(0) for _ in range(4)] == [0, 0, 2, 2]


def test_a_name_keeps_its_bucket_until_it_is_full_and_gone() -> None:
    buckets = Buckets("agent", 1, 2)
    first = buckets.of("ada", 0)
    first.take(0)
    buckets.sweep(500, ())
    assert buckets.of("ada", 500) is first
    buckets.sweep(2_000, {"ada"})
    assert buckets.of("ada", 2_000) is first
    buckets.sweep(2_000, ())
    assert buckets.of("ada", 2_000) is not first


def test_the_refusal_names_who_the_rate_and_the_setting() -> None:
    refusal = Buckets("host", 10, 20).refusal("127.0.0.1", 100, 0)
    assert (refusal.code, refusal.retry_after_ms) == ("rate_limited", 100)
    assert refusal.facts == {"who": "127.0.0.1", "per_s": 10, "burst": 20}
    assert "rate_host_burst" in refusal.detail


def test_who_was_refused_is_remembered_for_a_minute() -> None:
    buckets = Buckets("agent", 1, 2)
    buckets.refusal("ada", 100, 1_000)
    buckets.refusal("bob", 100, 30_000)
    assert buckets.refused_since(1_000) == ["ada", "bob"]
    assert buckets.refused_since(1_001) == ["bob"]
    buckets.sweep(1_000 + REMEMBER_MS, ())
    assert buckets.refused_since(0) == ["bob"]
