"""The soft half of leases: deadlines on the lease clock, ties to connections, and who waits on which connection.

A restart forgets all of it; then every lease gets its full TTL, and every place the time to be taken up again.
"""

from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

from synapse.core.leases import Lease

if TYPE_CHECKING:
    from synapse.core.state import State
    from synapse.protocol.limits import Limits

TTL = "ttl"
CONNECTION = "connection"
PARKED = "parked"
DEADLINE = "deadline"
GONE = "gone"
HANDED_OFF = "handed_off"
PREEMPTED = "preempted"
REPLACED = "replaced"

_VOID_MIN: Final = 1_024
"""The heap may hold so many void entries before it is made anew."""


@dataclass(slots=True)
class Leasing:
    """By epoch or place. reasons: why a deadline is not the ordinary one. tied: the connection of a tied lease.
    attached: the connection on which somebody waits at a place. left: what a parked lease had left, in ms. filed: when
    a key comes up in the heap, at its deadline or before; entries for other times are void. moved: when the holder of
    an epoch last showed progress, or was granted it. stalled_ms: after so long without, a lease counts as stalled."""

    deadlines: dict[int, int] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    tied: dict[int, int] = field(default_factory=dict)
    ties: dict[int, set[int]] = field(default_factory=dict)
    attached: dict[int, int] = field(default_factory=dict)
    waits: dict[int, set[int]] = field(default_factory=dict)
    until: dict[int, int] = field(default_factory=dict)
    left: dict[int, int] = field(default_factory=dict)
    heap: list[tuple[int, int]] = field(default_factory=list)
    filed: dict[int, int] = field(default_factory=dict)
    moved: dict[int, int] = field(default_factory=dict)
    stalled_ms: int = 15 * 60 * 1000

    def arm(self, key: int, deadline_ms: int, reason: str | None = None) -> None:
        """Set a deadline; one set before is void."""
        self.deadlines[key] = deadline_ms
        if reason is not None:
            self.reasons[key] = reason
        elif key in self.reasons:
            del self.reasons[key]
        filed_ms = self.filed.get(key)
        if filed_ms is None or deadline_ms < filed_ms:
            self._file(key, deadline_ms)  # a later one is filed when the earlier one comes up

    def _file(self, key: int, at_ms: int) -> None:
        self.filed[key] = at_ms
        if len(self.heap) > _VOID_MIN + 2 * len(self.filed):  # what ends long before its deadline does not pile up
            self.heap = [(at, filed) for filed, at in self.filed.items()]
            heapify(self.heap)
        else:
            heappush(self.heap, (at_ms, key))

    def forget(self, key: int) -> None:
        """A lease or place is no more."""
        self.deadlines.pop(key, None)
        self.filed.pop(key, None)
        self.moved.pop(key, None)
        if key in self.reasons:
            del self.reasons[key]
        if key in self.tied:
            self.untie(key)
        if key in self.attached:
            self.detach(key)
        if key in self.left:
            del self.left[key]
        if key in self.until:
            del self.until[key]

    def due(self, lease_ms: int, most: int) -> list[int]:
        """Keys whose deadline has passed, earliest first, so many at most; each stays due until it is forgotten or
        armed again."""
        found: dict[int, None] = {}
        while self.heap and self.heap[0][0] <= lease_ms and len(found) < most:
            at_ms, key = heappop(self.heap)
            if self.filed.get(key) != at_ms:
                continue
            del self.filed[key]
            deadline_ms = self.deadlines.get(key)
            if deadline_ms is None:
                continue
            if deadline_ms > lease_ms:
                self._file(key, deadline_ms)
            else:
                found[key] = None
        for key in found:
            self._file(key, self.deadlines[key])
        return sorted(found, key=self.deadlines.__getitem__)

    def remaining_ms(self, lease: Lease, lease_ms: int) -> int | None:
        """What is left of a lease; None while it is parked."""
        if lease.is_parked:
            return None
        return max(0, self.deadlines.get(lease.epoch, lease_ms + lease.ttl_ms) - lease_ms)

    def idle_ms(self, lease: Lease, lease_ms: int) -> int:
        """For how long its holder has shown no progress."""
        return max(0, lease_ms - self.moved.get(lease.epoch, lease_ms))

    def is_stalled(self, lease: Lease, lease_ms: int) -> bool:
        """True when it is renewed without progress. One that is parked waits for somebody else."""
        return not lease.is_parked and self.idle_ms(lease, lease_ms) > self.stalled_ms

    def renew(self, lease: Lease, connection: int, lease_ms: int) -> None:
        """A full TTL from now; a tied lease belongs to this connection from here on. A parked one stays parked."""
        if lease.tied:
            self.tie(lease.epoch, connection)
        if lease.is_parked:
            self.left[lease.epoch] = lease.ttl_ms
        else:
            self.arm(lease.epoch, lease_ms + lease.ttl_ms)

    def tie(self, epoch: int, connection: int) -> None:
        """The lease lapses when this connection has gone."""
        self.untie(epoch)
        self.tied[epoch] = connection
        self.ties.setdefault(connection, set()).add(epoch)

    def untie(self, epoch: int) -> None:
        """The lease does not depend on a connection."""
        _unlink(self.tied, self.ties, epoch)

    def attach(self, place: int, connection: int) -> None:
        """Somebody waits for this place on a connection."""
        self.detach(place)
        self.attached[place] = connection
        self.waits.setdefault(connection, set()).add(place)

    def detach(self, place: int) -> None:
        """Nobody waits for this place just now."""
        _unlink(self.attached, self.waits, place)

    def disconnect(self, connection: int, limits: "Limits", lease_ms: int) -> None:
        """A connection has gone: its tied leases have a grace, its places the time to be taken up again."""
        for epoch in sorted(self.ties.get(connection, ())):
            self.untie(epoch)
            grace_ms = lease_ms + limits.tie_grace_ms
            if grace_ms < self.deadlines[epoch] and self.reasons.get(epoch) != PARKED:
                self.arm(epoch, grace_ms, CONNECTION)
        for place in sorted(self.waits.get(connection, ())):
            self.detach(place)
            self.expect(place, limits, lease_ms)

    def expect(self, place: int, limits: "Limits", lease_ms: int) -> None:
        """Nobody is attached: the place ends unless it is taken up again in time."""
        self.arm(place, min(lease_ms + limits.reattach_ms, self.until.get(place, lease_ms + limits.reattach_ms)), GONE)

    def await_turn(self, place: int, connection: int) -> None:
        """Somebody waits, until the deadline of the wait if there is one."""
        self.attach(place, connection)
        until_ms = self.until.get(place)
        if until_ms is None:
            self.deadlines.pop(place, None)
            self.reasons.pop(place, None)
        else:
            self.arm(place, until_ms, DEADLINE)


def _unlink(by_key: dict[int, int], by_connection: dict[int, set[int]], key: int) -> None:
    connection = by_key.pop(key, None)
    if connection is not None:
        keys = by_connection[connection]
        keys.discard(key)
        if not keys:
            del by_connection[connection]


def arm_all(state: "State", limits: "Limits", lease_ms: int) -> None:
    """A hub started: every live lease has its full TTL, every place the time to be taken up again."""
    soft = state.soft.leasing
    for lease in state.leases.live.values():
        soft.moved[lease.epoch] = lease_ms
        if lease.is_parked:
            soft.arm(lease.epoch, lease_ms + limits.parked_ms_max, PARKED)
        else:
            soft.arm(lease.epoch, lease_ms + lease.ttl_ms)
    for place in state.leases.places.values():
        if place.wait_ms is not None:
            soft.until[place.seq] = lease_ms + place.wait_ms
        soft.expect(place.seq, limits, lease_ms)
