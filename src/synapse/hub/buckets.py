"""Token buckets: how fast one agent and one host may ask."""

from collections.abc import Container

from synapse.errors import Rejected

REMEMBER_MS = 60_000
"""How long it is known who asked too fast."""
REST_TOKENS = 3
"""More than who is only heard as fast as the bucket fills can have saved up: one, and two that came before its first
turn, since one is owed for the refusal."""


class Bucket:
    """`rate` tokens a second, at most `burst` saved up. Times in milliseconds."""

    __slots__ = ("_burst", "_has_paused", "_last_ms", "_part", "_rate", "_tokens")

    def __init__(self, rate: int, burst: int, now_ms: int) -> None:
        self._rate = rate / 1000
        self._burst = float(burst)
        self._tokens = float(burst)
        self._last_ms = now_ms
        self._part = 0.0
        self._has_paused = False

    def take(self, now_ms: int, cost: int = 1, *, is_last: bool = False) -> int:
        """Spend tokens: 0 when there was one, else after how many milliseconds there will be. What is not there of a
        larger cost is owed, so that it is repaid before the next. is_last: leave an eighth of the burst to others."""
        if now_ms > self._last_ms:
            self._tokens = min(self._burst, self._tokens + (now_ms - self._last_ms) * self._rate)
            self._last_ms = now_ms
        least = 1 + self._burst // 8 if is_last else 1
        if self._tokens >= least:
            self._tokens -= cost
            return 0
        self._has_paused = False
        return max(1, int((least - self._tokens) / self._rate) + 1)

    def has(self, count: int, now_ms: int) -> bool:
        """True when `take` would find a token so many times."""
        if now_ms > self._last_ms:
            self._tokens = min(self._burst, self._tokens + (now_ms - self._last_ms) * self._rate)
            self._last_ms = now_ms
        return self._tokens >= count

    def spend(self, count: int) -> None:
        """`take` so many times; the bucket has them."""
        self._tokens -= count

    def tokens_in(self, passed_ms: int) -> int:
        """How many whole tokens come in that time, at most all it holds; a part of one counts for the next time."""
        came = min(self._burst, self._part + passed_ms * self._rate)
        whole = int(came)
        self._part = came - whole
        return whole

    def note_pause(self, now_ms: int) -> None:
        """To be called before its owner, who asked too much, takes a token: a bucket that holds too few to tell by them
        who has rested remembers that more would have come since it was last looked at."""
        if self._tokens + (now_ms - self._last_ms) * self._rate >= REST_TOKENS:
            self._has_paused = True

    def is_rested(self, now_ms: int) -> bool:
        """True when its owner has asked less than it may for a while: a quarter is saved up, and more than who is only
        heard as fast as it fills can have. Asked when its owner may ask again: the time until then was no pause."""
        has_saved = self.has(max(REST_TOKENS, int(self._burst / 4)), now_ms)
        return has_saved or (self._burst < REST_TOKENS and self._has_paused)

    def is_full(self, now_ms: int) -> bool:
        """True when nothing was asked for long enough that the bucket can be forgotten."""
        return self._tokens + (now_ms - self._last_ms) * self._rate >= self._burst


class Buckets:
    """One bucket per name, made when it is first needed and forgotten when it is full again."""

    def __init__(self, what: str, rate: int, burst: int) -> None:
        self._what = what
        self._rate = rate
        self._burst = burst
        self._by_name: dict[str, Bucket] = {}
        self._refused: dict[str, int] = {}

    def of(self, name: str, now_ms: int) -> Bucket:
        """The bucket of an agent or host."""
        bucket = self._by_name.get(name)
        if bucket is None:
            bucket = self._by_name[name] = Bucket(self._rate, self._burst, now_ms)
        return bucket

    def refused_since(self, at_ms: int) -> list[str]:
        """Who was told that it asks too fast, by name. at_ms: monotonic; a minute back is remembered."""
        return sorted(name for name, last_ms in self._refused.items() if last_ms >= at_ms)

    def refusal(self, name: str, wait_ms: int, now_ms: int) -> Rejected:
        """What an empty bucket says."""
        self._refused[name] = now_ms
        return Rejected(
            "rate_limited",
            f"the {self._what} {name} asks faster than {self._rate} a second (burst {self._burst}): "
            f"wait {wait_ms} ms (settings rate_{self._what}_per_s, rate_{self._what}_burst)",
            {"who": name, "per_s": self._rate, "burst": self._burst},
            retry_after_ms=wait_ms,
        )

    def sweep(self, now_ms: int, kept: Container[str | None]) -> None:
        """Forget full buckets, except those of names in `kept`, and who was refused longer than a minute ago."""
        self._refused = {name: last_ms for name, last_ms in self._refused.items() if last_ms > now_ms - REMEMBER_MS}
        for name in [name for name, bucket in self._by_name.items() if name not in kept and bucket.is_full(now_ms)]:
            del self._by_name[name]
