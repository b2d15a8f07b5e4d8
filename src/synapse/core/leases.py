"""Leases, places in the queue, pools and checkpoints: what is held, what stands in whose way.

A lease is live from its grant until an event ends it; its epoch is the seq of the grant. Whether one ask stands in the
way of another is decided here, once, for grants, waiting, hand-off and refusals:

    contend  both want the same task of the same room, or overlapping scopes of one worktree; not when both are shared,
             and not when both are reentrant asks of the same agent
    pools    units are counted, whoever holds them; units that places further ahead ask for are reserved

Rule: a place is ahead of another when its priority is higher, or the same and it is older.
"""

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypeAlias, TypeVar

import msgspec

from synapse.core.events import Ask
from synapse.core.scope_index import ScopeIndex
from synapse.core.scopes import Pattern, compile_pattern, overlaps
from synapse.protocol.terms import PRIORITIES, Artefact

SHARED: Final = "shared"
EXCLUSIVE: Final = "exclusive"
RANK: Final = {name: rank for rank, name in enumerate(PRIORITIES)}


@dataclass(slots=True)
class Lease:
    """One live grant. place: where it waited. offered_to, offer: an agent id and the message in its inbox. parked: by
    hand. questions: the open ones that park it too. under: the lease under which the process ran that asked."""

    epoch: int
    ask: Ask
    ttl_ms: int
    granted_at_ms: int
    tied: bool = False
    note: str | None = None
    branch: str | None = None
    place: int | None = None
    parked: bool = False
    offered_to: int | None = None
    offer: int | None = None
    questions: list[int] = field(default_factory=list)
    under: int | None = None

    @property
    def is_parked(self) -> bool:
        """True while its TTL stands still."""
        return self.parked or bool(self.questions)


@dataclass(slots=True)
class Place:
    """A claim that waits. seq: of its event. key, hash: its idempotency key, which takes effect with the grant. under:
    as of a lease."""

    seq: int
    ask: Ask
    ttl_ms: int
    priority: str
    wait_ms: int | None
    queued_at_ms: int
    tied: bool = False
    note: str | None = None
    branch: str | None = None
    key: str | None = None
    hash: str = ""
    under: int | None = None

    @property
    def rank(self) -> int:
        """Higher goes first."""
        return RANK[self.priority]

    def is_ahead(self, rank: int, seq: int) -> bool:
        """True when this place goes before one of `rank` that was taken at `seq`."""
        mine = RANK[self.priority]
        return mine > rank or (mine == rank and self.seq < seq)


@dataclass(slots=True)
class Kept:
    """The checkpoint of a task: what its last holder left for the next. by: agent name."""

    data: msgspec.Raw
    artefacts: tuple[Artefact, ...]
    by: str
    epoch: int
    at_ms: int

    @property
    def size(self) -> int:
        """Bytes it counts for."""
        return len(bytes(self.data)) + sum(len(item.path) + 128 for item in self.artefacts)


@dataclass(slots=True)
class Offer:
    """What makes a pool a resource: an agent lends its units. seq: of the event. ended: why it is over, while leases
    still hold units: withdrawn, expired, forgotten."""

    kind: str
    owner: str
    owner_id: int
    description: str | None
    data: msgspec.Raw
    seq: int
    at_ms: int
    expires_at_ms: int | None
    ended: str | None = None

    def is_over(self, at_ms: int) -> bool:
        """True when nobody may take units of it any more."""
        return self.ended is not None or (self.expires_at_ms is not None and self.expires_at_ms <= at_ms)


@dataclass(slots=True)
class Pool:
    """Counted units. offer: whose they are, None for the operator's. held, waiting: units by epoch and by place."""

    name: str
    capacity: int
    offer: Offer | None = None
    held: dict[int, int] = field(default_factory=dict)
    waiting: dict[int, int] = field(default_factory=dict)


TaskKey: TypeAlias = tuple[int, str]
"""Room id and task id."""


@dataclass(slots=True)
class View:
    """What a decision has already made up its mind about, on top of the state, which it must not change.

    new: what it has granted, by the epoch that each grant will have; filed, because one release may grant a thousand.
    """

    gone_leases: set[int] = field(default_factory=set)
    gone_places: set[int] = field(default_factory=set)
    new: dict[int, Ask] = field(default_factory=dict, init=False)
    capacity: dict[str, int] = field(default_factory=dict)
    _of_task: dict[TaskKey, dict[int, Ask]] = field(default_factory=dict, init=False)
    _scopes: ScopeIndex | None = field(default=None, init=False)

    def grant(self, epoch: int, ask: Ask) -> None:
        """The decision grants this."""
        self.new[epoch] = ask
        self._of_task.setdefault((ask.room, ask.task), {})[epoch] = ask
        if ask.worktree is not None:
            if self._scopes is None:
                self._scopes = ScopeIndex()
            self._scopes.add(epoch, ask.worktree, patterns_of(ask), whole=ask.whole)

    def take_back(self, epoch: int) -> None:
        """The decision does not grant this any more, if it did."""
        ask = self.new.pop(epoch, None)
        if ask is None:
            return
        del self._of_task[ask.room, ask.task][epoch]
        if ask.worktree is not None:
            assert self._scopes is not None, "it was filed when it was granted"
            self._scopes.remove(epoch)

    def of_task(self, ask: Ask) -> Iterable[tuple[int, Ask]]:
        """What it has granted for the same task."""
        return self._of_task.get((ask.room, ask.task), _NO_ASKS).items()

    def against(self, ask: Ask) -> Iterator[Ask]:
        """What it has granted that `ask` conflicts with; pools aside."""
        if not self.new:
            return
        same = self._of_task.get((ask.room, ask.task), _NO_ASKS)
        yield from (new for new in same.values() if _contends(ask, new))
        if ask.worktree is not None and self._scopes is not None:
            for epoch in self._scopes.overlapping(ask.worktree, patterns_of(ask), whole=ask.whole):
                if epoch not in same and _contends(ask, self.new[epoch]):
                    yield self.new[epoch]


_NO_ASKS: Final[dict[int, Ask]] = {}

NOTHING_YET: Final = View()
"""For a first look; not to be changed."""


class Leases:
    """All live leases and places, with the indexes that make a claim cheap."""

    __slots__ = (
        "_exclusive",
        "_shared",
        "_waiting",
        "checkpoint_bytes",
        "checkpoints",
        "live",
        "of_agent",
        "of_task",
        "offer_ends",
        "places",
        "places_of_agent",
        "places_of_task",
        "pools",
    )

    def __init__(self) -> None:
        self.live: dict[int, Lease] = {}
        self.of_task: dict[TaskKey, dict[int, Lease]] = {}
        self.of_agent: dict[int, dict[int, Lease]] = {}
        self.places: dict[int, Place] = {}
        self.places_of_task: dict[TaskKey, dict[int, Place]] = {}
        self.places_of_agent: dict[int, dict[int, Place]] = {}
        self.pools: dict[str, Pool] = {}
        self.offer_ends: list[tuple[int, int, str]] = []  # a heap; see `resources.due`
        self.checkpoints: dict[TaskKey, Kept] = {}
        self.checkpoint_bytes = 0
        self._exclusive = ScopeIndex()
        self._shared = ScopeIndex()
        self._waiting = ScopeIndex()

    # What `apply` does.

    def add(self, lease: Lease) -> None:
        """A lease began."""
        ask, epoch = lease.ask, lease.epoch
        self.live[epoch] = lease
        key, of_agent = (ask.room, ask.task), self.of_agent.get(ask.agent)
        of_task = self.of_task.get(key)
        if of_task is None:
            self.of_task[key] = {epoch: lease}
        else:
            of_task[epoch] = lease
        if of_agent is None:
            self.of_agent[ask.agent] = {epoch: lease}
        else:
            of_agent[epoch] = lease
        if ask.worktree is not None:
            index = self._shared if ask.mode == SHARED else self._exclusive
            index.add(epoch, ask.worktree, patterns_of(ask), whole=ask.whole)
        for name, units in ask.pools:
            self.pools[name].held[epoch] = units

    def end(self, epoch: int, successor: Ask | None = None) -> Lease:
        """A lease ended. successor: what is granted in its place, with units of the same pools."""
        lease = self.live.pop(epoch)
        ask = lease.ask
        _drop(self.of_task, (ask.room, ask.task), epoch)
        _drop(self.of_agent, ask.agent, epoch)
        if ask.worktree is not None:
            (self._shared if ask.mode == SHARED else self._exclusive).remove(epoch)
        for name, _ in ask.pools:
            del self.pools[name].held[epoch]
            if successor is None or all(name != other for other, _ in successor.pools):
                self.drop_if_over(self.pools[name])
        return lease

    def enqueue(self, place: Place) -> None:
        """A claim begins to wait."""
        ask, seq = place.ask, place.seq
        self.places[seq] = place
        self.places_of_task.setdefault((ask.room, ask.task), {})[seq] = place
        self.places_of_agent.setdefault(ask.agent, {})[seq] = place
        if ask.worktree is not None:
            self._waiting.add(seq, ask.worktree, patterns_of(ask), whole=ask.whole)
        for name, units in ask.pools:
            self.pools[name].waiting[seq] = units

    def dequeue(self, seq: int) -> Place:
        """A wait is over."""
        place = self.places.pop(seq)
        ask = place.ask
        _drop(self.places_of_task, (ask.room, ask.task), seq)
        _drop(self.places_of_agent, ask.agent, seq)
        if ask.worktree is not None:
            self._waiting.remove(seq)
        for name, _ in ask.pools:
            del self.pools[name].waiting[seq]
            self.drop_if_over(self.pools[name])
        return place

    def drop_if_over(self, pool: Pool) -> None:
        """A pool whose offer has ended goes with the last that holds units of it."""
        if pool.offer is not None and pool.offer.ended is not None and not pool.held and not pool.waiting:
            del self.pools[pool.name]

    def keep(self, key: TaskKey, kept: Kept | None) -> None:
        """Put a checkpoint in place of the last one; None removes it."""
        old = self.checkpoints.pop(key, None)
        if old is not None:
            self.checkpoint_bytes -= old.size
        if kept is not None:
            self.checkpoints[key] = kept
            self.checkpoint_bytes += kept.size

    # What stands in the way.

    def is_clear(self, ask: Ask) -> bool:
        """True when a first look shows that nothing stands in the way of `ask`: nobody has the task, and nothing is
        near its scope. False says nothing yet: ask `leases_against`."""
        if (ask.room, ask.task) in self.of_task or ask.pools:
            return False
        worktree = ask.worktree
        if worktree is None:
            return True
        patterns = patterns_of(ask)
        return self._exclusive.is_clear(worktree, patterns) and (
            ask.mode == SHARED or self._shared.is_clear(worktree, patterns)
        )

    def leases_against(self, ask: Ask, view: View) -> Iterator[Lease | Ask]:
        """Live leases that `ask` conflicts with, and asks that this decision has granted already; pools come last.

        An ask for more units than its pool has stands in its own way.
        """
        gone = view.gone_leases
        seen: set[int] = set()
        for epoch, lease in self.of_task.get((ask.room, ask.task), NO_LEASES).items():
            if epoch not in gone and _contends(ask, lease.ask):
                seen.add(epoch)
                yield lease
        if ask.worktree is not None:
            indexes = (self._exclusive,) if ask.mode == SHARED else (self._exclusive, self._shared)
            for index in indexes:
                if not index:
                    continue
                for epoch in index.overlapping(ask.worktree, patterns_of(ask), whole=ask.whole):
                    if epoch not in gone and epoch not in seen and _contends(ask, self.live[epoch].ask):
                        seen.add(epoch)
                        yield self.live[epoch]
        yield from view.against(ask)
        for name, units in ask.pools:
            pool = self.pools[name]
            if self._free(pool, view) < units:
                yield from (self.live[epoch] for epoch in pool.held if epoch not in gone and epoch not in seen)
                seen.update(pool.held)
                yield from (new for new in view.new.values() if any(name == other for other, _ in new.pools))
                if view.capacity.get(name, pool.capacity) < units:
                    yield ask

    def places_against(self, ask: Ask, rank: int, seq: int, view: View, but: Container[int] = ()) -> Iterator[Place]:
        """Places ahead of one of `rank` taken at `seq` that `ask` conflicts with, without those in `but`; pools come
        last."""
        gone = view.gone_places
        seen: set[int] = set()
        for place in self.places_near(ask, but):
            if place.seq not in gone and place.is_ahead(rank, seq) and _contends(ask, place.ask):
                seen.add(place.seq)
                yield place
        for name, units in ask.pools:
            pool = self.pools[name]
            ahead = [at for at in pool.waiting if at not in gone and self.places[at].is_ahead(rank, seq)]
            if ahead and self._free(pool, view) - sum(pool.waiting[at] for at in ahead) < units:
                yield from (self.places[at] for at in ahead if at not in seen and at not in but)
                seen.update(ahead)

    def places_behind(self, ask: Ask, rank: int, seq: int, view: View) -> Iterator[Place]:
        """Places that are not ahead of one of `rank` taken at `seq` and that want what `ask` does: they will wait for
        it. Of the pools only those of one unit are looked at."""
        for place in self.places_near(ask):
            if place.seq not in view.gone_places and not place.is_ahead(rank, seq) and _contends(ask, place.ask):
                yield place
        for name, _ in ask.pools:
            pool = self.pools[name]
            if pool.capacity == 1:
                for at in pool.waiting:
                    if at not in view.gone_places and not self.places[at].is_ahead(rank, seq):
                        yield self.places[at]

    def places_near(self, ask: Ask, but: Container[int] = ()) -> Iterator[Place]:
        """Places for the same task or overlapping scopes, whatever their modes, each once, without those in `but`.
        Pools are not looked at."""
        of_task = self.places_of_task.get((ask.room, ask.task), NO_PLACES)
        yield from (place for seq, place in of_task.items() if seq not in but)
        if ask.worktree is not None and self._waiting:
            for seq in self._waiting.overlapping(ask.worktree, patterns_of(ask), whole=ask.whole, but=but):
                if seq not in of_task:
                    yield self.places[seq]

    def places_after(self, ask: Ask) -> list[Place]:
        """Places that the end of `ask` may help, in the order in which they are served."""
        found = {place.seq: place for place in self.places_near(ask)} if self.places else {}
        for name, _ in ask.pools:
            pool = self.pools.get(name)
            if pool is not None:
                found.update({seq: self.places[seq] for seq in pool.waiting})
        return in_line(found.values())

    def _free(self, pool: Pool, view: View) -> int:
        held = sum(units for epoch, units in pool.held.items() if epoch not in view.gone_leases)
        new = sum(units for ask in view.new.values() for name, units in ask.pools if name == pool.name)
        return view.capacity.get(pool.name, pool.capacity) - held - new


def in_line(places: Iterable[Place]) -> list[Place]:
    """Places in the order in which they are served."""
    return sorted(places, key=lambda place: (-place.rank, place.seq))


def conflicts(a: Ask, b: Ask) -> bool:
    """True when the two cannot be held at once; pools aside."""
    if not _contends(a, b):
        return False
    if a.task == b.task and a.room == b.room:
        return True
    if a.worktree is None or a.worktree != b.worktree:
        return False
    return a.whole or b.whole or any(overlaps(p, q) for p in patterns_of(a) for q in patterns_of(b))


def _contends(a: Ask, b: Ask) -> bool:
    if a.mode == SHARED and b.mode == SHARED:
        return False
    return a.agent != b.agent or not (a.reentrant and b.reentrant)


def patterns_of(ask: Ask) -> tuple[Pattern, ...]:
    """The paths of an ask, compiled."""
    return _compiled(ask.paths, ask.folds)


@lru_cache(maxsize=16_384)
def _compiled(paths: tuple[str, ...], folds: bool) -> tuple[Pattern, ...]:
    return tuple([compile_pattern(path, folded=folds) for path in paths])


NO_LEASES: Final[dict[int, Lease]] = {}
NO_PLACES: Final[dict[int, Place]] = {}


_Key = TypeVar("_Key")
_Item = TypeVar("_Item")


def _drop(table: dict[_Key, dict[int, _Item]], key: _Key, item: int) -> None:
    """Take one item, which is there, out of a table of tables, and its table with the last one."""
    inner = table[key]
    if len(inner) > 1:
        del inner[item]
    else:
        del table[key]
