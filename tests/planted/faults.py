"""One-line faults in leases: a file of src/synapse, the text that must be in it exactly once, and what replaces it."""

from dataclasses import dataclass

LEASES = "core/leases.py"
CLAIMS = "core/claims.py"
HOLDING = "core/holding.py"
EVENTS = "core/lease_events.py"
LEASING = "core/leasing.py"
SHELL = "hub/leasing.py"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is planted. name: as it is printed."""

    name: str
    file: str
    old: str
    new: str


FAULTS = [
    Fault(
        "what lies below a path is not in it",
        "core/scopes.py",
        'return ours == theirs or ours.startswith(theirs + "/") or theirs.startswith(ours + "/")',
        "return ours == theirs",
    ),
    Fault(
        "only the first path is compared",
        LEASES,
        "for epoch in index.overlapping(ask.worktree, patterns_of(ask), whole=ask.whole):",
        "for epoch in index.overlapping(ask.worktree, patterns_of(ask)[:1], whole=ask.whole):",
    ),
    Fault(
        "two readers exclude each other",
        LEASES,
        "    if a.mode == SHARED and b.mode == SHARED:\n        return False\n    return a.agent",
        "    if a.mode == SHARED and a.agent == b.agent:\n        return False\n    return a.agent",
    ),
    Fault(
        "a reader does not see writers",
        LEASES,
        "indexes = (self._exclusive,) if ask.mode == SHARED else (self._exclusive, self._shared)",
        "indexes = () if ask.mode == SHARED else (self._exclusive, self._shared)",
    ),
    Fault(
        "what is not reentrant is ignored",
        LEASES,
        "return a.agent != b.agent or not (a.reentrant and b.reentrant)",
        "return a.agent != b.agent",
    ),
    Fault(
        "units that somebody ahead waits for are not reserved",
        LEASES,
        "if ahead and self._free(pool, view) - sum(pool.waiting[at] for at in ahead) < units:",
        "if ahead and self._free(pool, view) < units:",
    ),
    Fault(
        "what a decision grants of a pool it grants twice",
        LEASES,
        "return view.capacity.get(pool.name, pool.capacity) - held - new",
        "return view.capacity.get(pool.name, pool.capacity) - held",
    ),
    Fault("the queue runs backwards", LEASES, "mine == rank and self.seq < seq", "mine == rank and self.seq > seq"),
    Fault("a lower priority goes first", LEASES, "return mine > rank or (mine", "return mine < rank or (mine"),
    Fault(
        "epochs are counted from the live leases",
        EVENTS,
        "            epoch=recorded.seq,\n            ask=event.ask,\n            ttl_ms=event.ttl_ms,",
        "            epoch=max(leases.live, default=0) + 1,\n            ask=event.ask,\n"
        "            ttl_ms=event.ttl_ms,",
    ),
    Fault(
        "a renewal loses its new TTL",
        EVENTS,
        "lease.ttl_ms, lease.note, lease.branch = event.ttl_ms, event.note, event.branch",
        "lease.note, lease.branch = event.note, event.branch",
    ),
    Fault(
        "an offer stays in the inbox when the lease ends",
        EVENTS,
        "            if lease.offer is not None:\n                _withdraw_offer(state, lease)",
        "            if lease.offer is None:\n                _withdraw_offer(state, lease)",
    ),
    Fault(
        "a release drops the checkpoint",
        EVENTS,
        "            lease = leases.end(event.epoch)\n",
        "            lease = leases.end(event.epoch); leases.keep((event.room, event.task), None)\n",
    ),
    Fault(
        "the key of a claim that waited is not remembered",
        EVENTS,
        "if place.key is not None and (place.ask.owner, place.key) not in state.idempotency.by_key:",
        "if place.key is None:",
    ),
    Fault(
        "a key counts whoever sent it",
        "core/idempotency.py",
        "known = idempotency.by_key.get((actor, key))",
        "known = next((it for it in idempotency.by_key.values() if it.key == key), None)",
    ),
    Fault(
        "a claim barges past who waits", CLAIMS, "        if ahead is None:\n", "        if ahead is None or True:\n"
    ),
    Fault(
        "a place at which nobody waits is granted",
        CLAIMS,
        "if place.seq in view.gone_places or place.seq not in attached:",
        "if place.seq in view.gone_places:",
    ),
    Fault(
        "who is in line is not looked at when something is freed",
        CLAIMS,
        "or next(leases.places_against(ask, place.rank, place.seq, view), None) is not None",
        "or False",
    ),
    Fault(
        "circles are not looked for",
        CLAIMS,
        '    if cycle is not None:\n        raise deadlocked(ask, cycle, "wait" if is_wait else "grant", [])',
        '    if cycle == []:\n        raise deadlocked(ask, cycle, "wait" if is_wait else "grant", [])',
    ),
    Fault(
        "a wait forgets the lease that it would widen",
        CLAIMS,
        "rank, NOTHING_YET, is_wait=True)",
        "rank, view, is_wait=True)",
    ),
    Fault(
        "two readers may both wait to write", CLAIMS, "        if readers:\n", "        if readers and own is None:\n"
    ),
    Fault(
        "a hand-off is not checked",
        CLAIMS,
        "    if against:\n        raise held(",
        "    if False:\n        raise held(",
    ),
    Fault(
        "a hand-off leaves the receiver waiting for what it has",
        CLAIMS,
        "    view.gone_places.update(place.seq for place in found)\n    return found",
        "    return []",
    ),
    Fault(
        "a claim without scope gives up what the agent has",
        CLAIMS,
        "            ask = msgspec.structs.replace(own.ask, mode=ask.mode)",
        "            pass",
    ),
    Fault(
        "an expiry wakes nobody",
        HOLDING,
        "return [expired, *grants_after(state, View(gone_leases={lease.epoch}), [ask], 1)]",
        "return [expired]",
    ),
    Fault(
        "an epoch is not compared",
        HOLDING,
        "        lease = found.get(epoch)\n        if lease is not None and lease.ask.agent == agent:",
        "        lease = next(iter(found.values()), None)\n        if lease is not None and lease.ask.agent == agent:",
    ),
    Fault(
        "another agent's epoch will do",
        HOLDING,
        "if lease is not None and lease.ask.agent == agent:",
        "if lease is not None:",
    ),
    Fault(
        "a deadline is a tick early",
        LEASING,
        "        self.deadlines[key] = deadline_ms\n        if reason",
        "        self.deadlines[key] = deadline_ms - 1\n        if reason",
    ),
    Fault(
        "the grace goes past the deadline",
        LEASING,
        "if grace_ms < self.deadlines[epoch] and",
        "if grace_ms > self.deadlines[epoch] and",
    ),
    Fault(
        "a restart shortens the TTL",
        LEASING,
        "            soft.arm(lease.epoch, lease_ms + lease.ttl_ms)\n    for place",
        "            soft.arm(lease.epoch, lease_ms + limits.ttl_ms_min)\n    for place",
    ),
    Fault(
        "a restart starts the clock of a parked lease",
        LEASING,
        "        if lease.parked:\n            soft.arm(",
        "        if lease.parked and lease.tied:\n            soft.arm(",
    ),
    Fault(
        "a renewal does not tie the lease to its connection",
        LEASING,
        "        if lease.tied:\n            self.tie(lease.epoch, connection)",
        "        if lease.tied and lease.parked:\n            self.tie(lease.epoch, connection)",
    ),
    Fault(
        "who comes back for a place is not looked at",
        SHELL,
        "granted = decide_attach(self._state, place)",
        "granted: list[Event] = []",
    ),
    Fault(
        "a wait has no deadline",
        SHELL,
        "soft.until[entry.seq] = lease_ms + event.wait_ms",
        "soft.until.pop(entry.seq, None)",
    ),
    Fault(
        "a lost connection is not noticed",
        SHELL,
        "self._soft.disconnect(connection.id, self._limits, self._turns.lease_clock.now_ms)",
        "self._soft.waits.pop(connection.id, None)",
    ),
    Fault(
        "a parked lease keeps no rest of its TTL",
        SHELL,
        "left = soft.left.pop(event.epoch, self._state.leases.live[event.epoch].ttl_ms)",
        "left = self._state.leases.live[event.epoch].ttl_ms",
    ),
    Fault(
        "a read-only hub lets leases expire",
        "hub/turn.py",
        "self.lease_clock.advance(is_behind=self.is_read_only, is_inbox_full=is_inbox_full)",
        "self.lease_clock.advance(is_behind=False, is_inbox_full=is_inbox_full)",
    ),
]
