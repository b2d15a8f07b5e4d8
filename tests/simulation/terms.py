"""Leases as the journal tells them, folded by other rules than the hub's: plain lists, every overlap by trying files.

Whether two scopes exclude each other is found as in the crash tests: by listing the files of a small universe that each
matches. When a lease may end, and when it must, is judged by the simulation's clock and by what was heard and told at
the hub's door, never by the hub's own deadlines.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.crash.claims_checker import exclude
from tests.simulation.virtual_time import Clock

from synapse.core.events import (
    Ask,
    Event,
    LeaseCheckpointed,
    LeaseExpired,
    LeaseGranted,
    LeaseHandedOff,
    LeaseOffered,
    LeaseParked,
    LeaseQueued,
    LeaseReleased,
    LeaseRenewed,
    LeaseResumed,
    LeaseRevoked,
    LeaseUnqueued,
    PoolSet,
)

LATE_MS_MAX: Final = 3_000
"""A tick, the inbox, a commit, and a thousand others that end first."""
RANKS: Final = {"low": 0, "normal": 1, "high": 2, "urgent": 3}


class Violation(AssertionError):
    """A broken promise. rule: its name. about: agents and tasks whose last steps tell the story."""

    def __init__(self, rule: str, text: str, *about: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule
        self.about = about


@dataclass(slots=True)
class Bounds:
    """The hub's limits that a judge of time needs, in milliseconds."""

    grace_ms: int
    parked_ms: int


@dataclass(slots=True)
class Term:
    """The life of one grant. Its TTL runs at the earliest from `counted_ms` and at the latest from `latest_ms`.

    frozen_ms, excused_ms: the clock's, at these times.

    spent_ms: of the TTL, when it was parked. questions: the open ones that park it beside the holder's hand. link: the
    connection that it is tied to. lost_ms: when the hub learned that this connection is gone.
    """

    epoch: int
    ask: Ask
    ttl_ms: int
    tied: bool
    counted_ms: int
    frozen_ms: int
    latest_ms: int
    excused_ms: int
    end: int | None = None
    ended_by: Event | None = None
    parked_ms: int | None = None
    spent_ms: int = 0
    link: int | None = None
    lost_ms: int | None = None
    kept: list[tuple[int, object]] = field(default_factory=list)
    questions: list[int] = field(default_factory=list)
    is_parked_by_hand: bool = False

    def is_live_at(self, seq: int) -> bool:
        """True when it is live after the event at `seq`."""
        return self.epoch <= seq and (self.end is None or seq < self.end)


@dataclass(slots=True)
class Waiting:
    """A place in the queue. link: on which somebody waits at it. free_since_ms: nothing is in its way."""

    seq: int
    event: LeaseQueued
    link: int | None = None
    free_since_ms: int | None = None

    @property
    def rank(self) -> int:
        """Higher goes first."""
        return RANKS[self.event.priority]


class Terms:
    """All leases and places there ever were.

    ranks: the priority with which each agent always claims. beliefs: by epoch, holders that may be asked whether they
    are sure of their lease.
    """

    def __init__(self, clock: Clock, bounds: Bounds, ranks: Mapping[str, int]) -> None:
        self.live: dict[int, Term] = {}
        self.all: dict[int, Term] = {}
        self.places: dict[int, Waiting] = {}
        self.queued: dict[int, LeaseQueued] = {}
        self.capacity: dict[str, int] = {}
        self.beliefs: dict[int, Callable[[], bool]] = {}
        self.latest_expiry_ms = 0
        self.clock = clock
        self._bounds = bounds
        self._ranks = ranks

    # The fold.

    def enter(self, seq: int, actor: str, event: Event, decided_ms: int) -> None:
        """Fold an event in that the hub decided at `decided_ms`. Raises `Violation`."""
        match event:
            case LeaseGranted():
                self._grant(seq, actor, event, decided_ms)
            case LeaseHandedOff():
                self._hand_over(seq, event, decided_ms)
            case LeaseExpired():
                self._expire(seq, event, decided_ms)
            case LeaseReleased() | LeaseRevoked():
                self._end(seq, event.epoch, event.owner, event)
            case LeaseRenewed() | LeaseParked() | LeaseResumed() | LeaseCheckpointed() | LeaseOffered():
                self._change(seq, event, decided_ms)
            case LeaseQueued():
                self.places[seq] = Waiting(seq, event)
                self.queued[seq] = event
            case LeaseUnqueued():
                if self.places.pop(event.place, None) is None:
                    raise Violation("not live", f"place {event.place} ends at {seq} and is not there", event.owner)
            case PoolSet():
                self.capacity[event.name] = event.capacity
            case _:
                pass

    def restart(self, decided_ms: int) -> None:
        """A new process of the hub arms every deadline in full, and nobody waits on a connection."""
        for term in self.live.values():
            self._count(term, decided_ms)
            term.link = term.lost_ms = None
            term.spent_ms = 0
            if term.parked_ms is not None:
                term.parked_ms = decided_ms
            self._touch(term)
        for place in self.places.values():
            place.link = None

    def _count(self, term: Term, from_ms: int) -> None:
        term.counted_ms, term.frozen_ms = from_ms, self.clock.frozen_ms_most

    def _touch(self, term: Term) -> None:
        term.latest_ms, term.excused_ms = self.clock.now_ms, self.clock.excused_ms

    def _grant(self, seq: int, actor: str, event: LeaseGranted, decided_ms: int) -> None:
        ask = event.ask
        if event.place is not None and self.places.pop(event.place, None) is None:
            raise Violation("not live", f"{seq} is granted from place {event.place}, which is not there", ask.owner)
        questions: list[int] = []
        if event.replaces is not None:
            questions = self._end(seq, event.replaces, ask.owner, event).questions
        elif actor != "operator":
            self._stand_in_line(seq, event)
        self._begin(seq, ask, event.ttl_ms, decided_ms, tied=event.tied)
        if questions:
            term = self.live[seq]
            term.questions, term.parked_ms = questions, decided_ms

    def _stand_in_line(self, seq: int, event: LeaseGranted) -> None:
        rank, at = self._ranks[event.ask.owner], seq if event.place is None else event.place
        for place in self.places.values():
            is_ahead = place.rank > rank or (place.rank == rank and place.seq < at)
            if is_ahead and exclude(event.ask, place.event.ask):
                ahead = place.event.ask
                raise Violation(
                    "out of line",
                    f"{event.ask.task} goes to {event.ask.owner} at {seq} past place {place.seq} of {ahead.owner}",
                    event.ask.owner,
                    ahead.owner,
                )

    def _begin(self, seq: int, ask: Ask, ttl_ms: int, decided_ms: int, *, tied: bool) -> None:
        for term in self.live.values():
            if exclude(term.ask, ask):
                raise Violation(
                    "overlap",
                    f"{seq} of {ask.task} is granted to {ask.owner} while {term.epoch} of {term.ask.task} is live "
                    f"for {term.ask.owner}",
                    ask.owner,
                    term.ask.owner,
                    ask.task,
                )
        clock = self.clock
        term = Term(seq, ask, ttl_ms, tied, decided_ms, clock.frozen_ms_most, clock.now_ms, clock.excused_ms)
        self.all[seq] = self.live[seq] = term
        if ask.pools:
            self._require_units(seq, ask)
        self._require_one_belief(term)

    def _require_units(self, seq: int, ask: Ask) -> None:
        held = Counter[str]()
        for term in self.live.values():
            held.update(dict(term.ask.pools))
        for pool, units in ask.pools:
            if held[pool] > max(self.capacity[pool], units):
                raise Violation("too many units", f"{held[pool]} units of {pool} are held at {seq}", ask.owner, pool)

    def _require_one_belief(self, term: Term) -> None:
        for epoch, is_sure in self.beliefs.items():
            other = self.all[epoch]
            is_taken = isinstance(other.ended_by, LeaseRevoked | LeaseGranted)
            if not is_taken and exclude(other.ask, term.ask) and is_sure():
                raise Violation(
                    "two beliefs",
                    f"{term.ask.owner} has {term.epoch} of {term.ask.task} while {other.ask.owner} is still sure of "
                    f"{epoch} of {other.ask.task}",
                    term.ask.owner,
                    other.ask.owner,
                )

    def _end(self, seq: int, epoch: int, owner: str, event: Event) -> Term:
        term = self.live.pop(epoch, None)
        if term is None or term.ask.owner != owner:
            raise Violation("not live", f"{type(event).__name__} at {seq} ends {epoch}, not live for {owner}", owner)
        term.end, term.ended_by = seq, event
        return term

    def _hand_over(self, seq: int, event: LeaseHandedOff, decided_ms: int) -> None:
        old = self._end(seq, event.previous, event.sender, event)
        if _scope(old.ask) != _scope(event.ask):
            raise Violation("hand-off", f"{seq} hands {event.previous} over with another scope", event.sender)
        self._begin(seq, event.ask, event.ttl_ms or old.ttl_ms, decided_ms, tied=event.tied)
        term = self.live[seq]
        term.questions, term.is_parked_by_hand = old.questions, old.is_parked_by_hand
        if old.parked_ms is not None:
            term.parked_ms, term.spent_ms = decided_ms, old.spent_ms

    def _change(
        self,
        seq: int,
        event: LeaseRenewed | LeaseParked | LeaseResumed | LeaseCheckpointed | LeaseOffered,
        decided_ms: int,
    ) -> None:
        term = self.live.get(event.epoch)
        if term is None or term.ask.owner != event.ask.owner:
            raise Violation("not live", f"{type(event).__name__} at {seq} is of {event.epoch}", event.ask.owner)
        match event:
            case LeaseRenewed():
                term.ttl_ms, term.spent_ms = event.ttl_ms, 0
                self._count(term, decided_ms)
                self._touch(term)
            case LeaseParked():
                self._park(term, event.question, decided_ms)
            case LeaseResumed():
                term.parked_ms, term.is_parked_by_hand = None, False
                self._count(term, decided_ms - term.spent_ms)
                self._touch(term)
            case LeaseCheckpointed():
                term.kept.append((seq, json.loads(bytes(event.data))))
            case LeaseOffered():
                pass

    def _park(self, term: Term, question: int | None, decided_ms: int) -> None:
        if question is None:
            term.is_parked_by_hand = True
        else:
            term.questions.append(question)
        if term.parked_ms is None:
            term.spent_ms, term.parked_ms = decided_ms - term.counted_ms, decided_ms
            term.link = term.lost_ms = None

    # Time.

    def confirm(self, term: Term, heard_ms: int, link: int) -> None:
        """The hub told its holder that it is held, for a request that it heard at `heard_ms` on a connection."""
        if heard_ms >= term.counted_ms:
            self._count(term, heard_ms)
            term.spent_ms = 0
        if term.tied and term.parked_ms is None:
            term.link, term.lost_ms = link, None
        self._touch(term)

    def may_touch(self, owner: str, task: str, link: int) -> None:
        """The hub heard a request that may give a lease its full TTL again, or tie it to another connection, whether
        or not the answer arrives."""
        for term in self.live.values():
            if term.ask.owner == owner and term.ask.task == task:
                self._touch(term)
                if term.link != link:
                    term.link = term.lost_ms = None

    def lose(self, link: int) -> None:
        """The hub learned that a connection is gone."""
        for term in self.live.values():
            if term.link == link:
                term.lost_ms = self.clock.now_ms
        for place in self.places.values():
            if place.link == link:
                place.link = None

    def _expire(self, seq: int, event: LeaseExpired, decided_ms: int) -> None:
        term = self._end(seq, event.epoch, event.owner, event)
        due_ms = term.counted_ms + term.ttl_ms + max(0, self.clock.frozen_by_ms(decided_ms) - term.frozen_ms)
        if event.reason == "parked":
            assert term.parked_ms is not None, "only what is parked reaches the ceiling"
            due_ms = term.parked_ms + self._bounds.parked_ms
        elif event.reason == "connection":
            if not term.tied or (term.link is not None and term.lost_ms is None):
                raise Violation("expired early", f"{term.epoch}: the connection of {event.owner} stands", event.owner)
            lost_ms = term.counted_ms if term.lost_ms is None else term.lost_ms
            due_ms = min(due_ms, lost_ms + self._bounds.grace_ms)
        elif term.parked_ms is not None:
            raise Violation("expired early", f"{term.epoch} of {event.owner} is parked, and ended", event.owner)
        if decided_ms < due_ms:
            raise Violation(
                "expired early",
                f"{term.epoch} of {event.owner} on {event.task} ended {due_ms - decided_ms} ms before its time "
                f"({event.reason})",
                event.owner,
                event.task,
            )
        self._require_not_late(term, decided_ms)

    def _lateness_ms(self, term: Term, now_ms: int) -> int:
        excused_ms = self.clock.excused_ms - term.excused_ms
        span_ms = self._bounds.parked_ms if term.parked_ms is not None else term.ttl_ms
        return now_ms - max(term.latest_ms, term.parked_ms or 0) - span_ms - excused_ms

    def _require_not_late(self, term: Term, now_ms: int) -> None:
        late_ms = self._lateness_ms(term, now_ms)
        if isinstance(term.ended_by, LeaseExpired):
            self.latest_expiry_ms = max(self.latest_expiry_ms, late_ms)
        if late_ms > LATE_MS_MAX:
            raise Violation(
                "expired late",
                f"{term.epoch} of {term.ask.owner} on {term.ask.task} is {late_ms} ms over its time",
                term.ask.owner,
                term.ask.task,
            )

    def check_times(self) -> None:
        """No silent holder is kept, and nobody waits for nothing. Raises `Violation`."""
        now_ms = self.clock.now_ms
        active_ms = now_ms - self.clock.excused_ms
        for term in self.live.values():
            self._require_not_late(term, now_ms)
        for place in self.places.values():
            if place.link is None or any(self._in_the_way(place)):
                place.free_since_ms = None
            elif place.free_since_ms is None:
                place.free_since_ms = active_ms
            elif active_ms - place.free_since_ms > LATE_MS_MAX:
                ask = place.event.ask
                raise Violation(
                    "waits for nothing", f"{ask.owner} at place {place.seq} for {ask.task}", ask.owner, ask.task
                )

    def _in_the_way(self, place: Waiting) -> Iterator[str]:
        """Whose lease or place keeps this one waiting."""
        ask = place.event.ask
        yield from (term.ask.owner for term in self.live.values() if exclude(ask, term.ask))
        for other in self.places.values():
            is_ahead = other.rank > place.rank or (other.rank == place.rank and other.seq < place.seq)
            is_same_pool = {pool for pool, _ in ask.pools} & {pool for pool, _ in other.event.ask.pools}
            if is_ahead and (exclude(ask, other.event.ask) or is_same_pool):
                yield other.event.ask.owner
        for pool, units in ask.pools:
            held = sum(dict(term.ask.pools).get(pool, 0) for term in self.live.values())
            if held + units > self.capacity[pool]:
                yield pool

    def check_circles(self) -> None:
        """No circle of agents that all wait for each other, as far as they ask as agents. Raises `Violation`."""
        edges: dict[str, set[str]] = {}
        for place in self.places.values():
            ask = place.event.ask
            if not ask.reentrant:
                continue
            held = [term.ask for term in self.live.values()]
            ahead = [
                other.event.ask
                for other in self.places.values()
                if other.rank > place.rank or (other.rank == place.rank and other.seq < place.seq)
            ]
            others = {it.owner for it in (*held, *ahead) if it.reentrant and it.owner != ask.owner and exclude(ask, it)}
            edges.setdefault(ask.owner, set()).update(others)
        while ends := [owner for owner, others in edges.items() if not others & edges.keys()]:
            for owner in ends:
                del edges[owner]
        if edges:
            raise Violation("deadlock", f"wait for each other: {', '.join(sorted(edges))}", *sorted(edges))

    # Questions.

    def holds(self, agent: str, epoch: int, seq: int) -> bool:
        """True when this agent's grant is live after the event at `seq`."""
        term = self.all.get(epoch)
        return term is not None and term.ask.owner == agent and term.is_live_at(seq)


def _scope(ask: Ask) -> tuple[object, ...]:
    return ask.room, ask.task, ask.worktree, ask.paths, ask.whole, ask.folds, ask.pools, ask.mode
