"""The hub's two clocks: the wall, which is recorded, and the lease clock, which stands still while the hub stalls."""

import time
from typing import Final, Protocol

STEP_MS_MAX: Final = 1_000
"""The lease clock advances by at most this much a turn, so a suspended hub expires nobody when it wakes up."""
INBOX_FULL_MS_MAX: Final = 60_000
"""How long on end a full inbox may hold the lease clock, so that a flood cannot keep leases for ever."""


class Clock(Protocol):
    """Where time comes from. Tests drive one by hand."""

    def wall_ms(self) -> int:
        """Unix time in milliseconds, UTC. May jump."""
        ...

    def monotonic_ms(self) -> int:
        """Milliseconds that never go back."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall_ms(self) -> int:
        """Unix time in milliseconds, UTC."""
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        """Milliseconds since some start."""
        return time.monotonic_ns() // 1_000_000


JUMP_MS_MIN: Final = 2_000
"""From here on a change of the wall clock is a jump; less is how time servers correct it."""


class WallWatch:
    """Notices when the wall clock is set, or the machine sleeps: it moves and the monotonic clock does not."""

    def __init__(self, clock: Clock) -> None:
        self.jumps = 0
        self.last_ms = 0
        """By how much it was moved last; negative: back."""
        self._clock = clock
        self._ahead_ms = clock.wall_ms() - clock.monotonic_ms()

    def look(self) -> int:
        """By how much the wall clock was moved since the last look; 0 when it was not."""
        ahead_ms = self._clock.wall_ms() - self._clock.monotonic_ms()
        moved_ms, self._ahead_ms = ahead_ms - self._ahead_ms, ahead_ms
        if abs(moved_ms) < JUMP_MS_MIN:
            return 0
        self.jumps += 1
        self.last_ms = moved_ms
        return moved_ms


class LeaseClock:
    """Monotonic time minus every stall of the hub; zero at start, never journalled."""

    def __init__(self, clock: Clock) -> None:
        self.now_ms = 0
        self.lag_ms = 0
        """How far it is behind the monotonic clock, by all stalls together."""
        self._clock = clock
        self._last_ms = clock.monotonic_ms()
        self._held_ms = 0

    def advance(self, *, is_behind: bool, is_inbox_full: bool) -> int:
        """Move on by the time since the last call, or by none of it while the hub is behind. Returns `now_ms`."""
        monotonic_ms = self._clock.monotonic_ms()
        passed_ms = monotonic_ms - self._last_ms
        self._last_ms = monotonic_ms
        self._held_ms = self._held_ms + passed_ms if is_inbox_full else 0
        is_held = is_behind or (is_inbox_full and self._held_ms <= INBOX_FULL_MS_MAX)
        step_ms = 0 if is_held else min(passed_ms, STEP_MS_MAX)
        self.now_ms += step_ms
        self.lag_ms += passed_ms - step_ms
        return self.now_ms
