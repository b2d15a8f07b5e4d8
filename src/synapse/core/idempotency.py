"""Which (agent, idem_key) had which effect, so that a repeat gets the first answer again.

Only effects are remembered, not refusals. The answer itself is rebuilt from the events, so a key costs a few words.
Keys are kept at least 24 h of recorded time and never dropped earlier to make room.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from synapse.errors import Rejected

KEEP_MS: Final = 24 * 3600 * 1000
KEYS_MAX: Final = 10_000
"""Live keys of one agent."""


@dataclass(slots=True)
class Remembered:
    """One key's effect: `count` events from `seq` on."""

    actor: str
    key: str
    hash: str
    seq: int
    count: int
    at_ms: int


@dataclass(slots=True)
class Idempotency:
    """All live keys, oldest first. waiting: keys of claims that wait; each takes effect with the grant of `seq`."""

    by_key: dict[tuple[str, str], Remembered] = field(default_factory=dict)
    waiting: dict[tuple[str, str], Remembered] = field(default_factory=dict)
    live: dict[str, int] = field(default_factory=dict)

    def remember(self, remembered: Remembered) -> None:
        """Keep a key. It must be new."""
        key = (remembered.actor, remembered.key)
        assert key not in self.by_key, "a live key has one effect"
        self.by_key[key] = remembered
        self.live[remembered.actor] = self.live.get(remembered.actor, 0) + 1

    def forget_before(self, at_ms: int) -> None:
        """Drop keys older than 24 h, seen from `at_ms`."""
        while self.by_key:
            key, oldest = next(iter(self.by_key.items()))
            if oldest.at_ms > at_ms - KEEP_MS:
                return
            del self.by_key[key]
            left = self.live[oldest.actor] - 1
            if left:
                self.live[oldest.actor] = left
            else:
                del self.live[oldest.actor]

    def forget_actor(self, actor: str) -> None:
        """Drop the keys of an agent that is no more: whoever takes its name next is somebody else."""
        if self.live.pop(actor, 0):
            for key in [key for key in self.by_key if key[0] == actor]:
                del self.by_key[key]

    def in_order(self) -> Iterator[Remembered]:
        """All live keys, oldest first."""
        return iter(self.by_key.values())


def find(idempotency: Idempotency, actor: str, key: str, payload_hash: str) -> Remembered | None:
    """The effect of an earlier request with this key.

    Raises `Rejected`: `idem_conflict` when the payload differs, `idem_limit` when a new key is one too many.
    """
    known = idempotency.by_key.get((actor, key))
    if known is None:
        waits = idempotency.waiting.get((actor, key)) if idempotency.waiting else None
        if waits is not None and waits.hash != payload_hash:
            raise conflict(waits.at_ms, waits.seq)
        if idempotency.live.get(actor, 0) >= KEYS_MAX:
            raise Rejected(
                "idem_limit",
                f"{actor} has {KEYS_MAX} live idempotency keys; each is kept 24 h: send without a key, or later",
                {"idem_keys_max": KEYS_MAX, "keep_ms": KEEP_MS},
            )
        return None
    if known.hash != payload_hash:
        raise conflict(known.at_ms, known.seq)
    return known


def conflict(at_ms: int, seq: int) -> Rejected:
    """A key came again with another payload. at_ms, seq: of the first."""
    return Rejected(
        "idem_conflict",
        f"the idempotency key was used at {at_ms} ms with another payload: take a new key",
        {"at_ms": at_ms, "seq": seq},
    )
