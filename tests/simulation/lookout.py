"""What a supervisor may say, and when it must: worked out from leases, plan and clock, never by its own rules.

    stalled     a lease that shows no progress. One stall is what lies behind one sign of progress: a grant, a step, a
                checkpoint, another note, a line in the ledger. It is told once, and people are told of it once
    orphaned    a task in progress that nobody holds, from one step on
    unblocked   a blocked task that waits for nothing any more, from one step on

A supervisor looks and then acts, and the world goes on meanwhile: what it says must have been so at some time since
its round began. What was so from before a round until its end, a whole round must have seen to. Ages of tasks are by
the wall clock, which is set now and then; how long a holder is silent is by the hub's working time, counted anew by
each life.
"""

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
from tests.simulation.agenda import Item, Place, stream_of
from tests.simulation.terms import Term, Violation

from synapse.core.events import (
    LeaseCheckpointed,
    LeaseGranted,
    LeaseHandedOff,
    LeaseParked,
    LeaseRenewed,
    LeaseResumed,
    MessagePosted,
    MessageSent,
    Recorded,
)
from synapse.core.plan_events import TaskMoved, TaskNoted
from synapse.core.room_events import RoomJoined, RoomLeft
from synapse.core.value_events import ValueDeleted, ValueExpired, ValuePut

if TYPE_CHECKING:
    from tests.simulation.ledger import Ledger

Json: TypeAlias = dict[str, Any]
NAME: Final = "supervisor"
PREFIX: Final = "supervisor/"
STALLED_MS: Final = 20_000
ORPHANED_MS: Final = 60_000
TRIES: Final = 3
SLACK_MS: Final = 5_000
"""What lies between a step of a holder and its commit, at most."""
SURE_MS: Final = 3_000
GONE_MS: Final = 60_000
"""What a round that broke off has sent may still arrive for so long."""
STEPS_MAX: Final = 20
INBOX_MAX: Final = 40


@dataclass(slots=True)
class Round:
    """A supervisor looks at a room. seq, at_ms, excused_ms: when it began. end_ms: when it broke off."""

    room: str
    seq: int
    at_ms: int
    excused_ms: int
    end_ms: int | None = None


@dataclass(slots=True)
class Kept:
    """What a supervisor wrote of a cause. of: the cause as it is found here."""

    record: Json
    version: int
    of: tuple[object, ...]


@dataclass(slots=True)
class Sign:
    """The last signs of life of a lease: seqs and the earliest times; and when the hub last began to count."""

    seqs: list[int] = field(default_factory=list)
    at_ms: list[int] = field(default_factory=list)
    working_ms: int = 0
    changed: int = 0


class Lookout:
    """All causes there ever were, and what was said of them."""

    def __init__(self, ledger: "Ledger", sometimes: Callable[[str], None]) -> None:
        self.people: frozenset[str] = frozenset()
        self.kept: dict[tuple[str, str], Kept] = {}
        self._cut_off: dict[tuple[str, str], tuple[int, Kept]] = {}
        self._ledger = ledger
        self._clock = ledger.terms.clock
        self._sometimes = sometimes
        self._signs: dict[int, Sign] = defaultdict(Sign)
        self._rounds: dict[str, list[Round]] = defaultdict(list)
        self._asked: set[tuple[str, str]] = set()
        self._begun: set[tuple[object, ...]] = set()
        self._said: set[tuple[object, ...]] = set()
        self._put_back: set[tuple[str, str, int]] = set()
        self._members: dict[str, set[str]] = defaultdict(set)
        self._acts: dict[str, list[int]] = defaultdict(list)

    @property
    def _working_ms(self) -> int:
        return self._clock.now_ms - self._clock.excused_ms

    # Rounds.

    def begin(self, room: str) -> Round:
        """A supervisor is about to look."""
        rounds = self._rounds[room]
        rounds[:] = [it for it in rounds if it.end_ms is None or self._clock.now_ms - it.end_ms < GONE_MS]
        begun = Round(room, self._ledger.head, self._clock.now_ms, self._clock.excused_ms)
        rounds.append(begun)
        return begun

    def break_off(self, begun: Round) -> None:
        """It did not come to an end, and some of what it sent may be on its way."""
        begun.end_ms = self._clock.now_ms

    def end(self, begun: Round) -> None:
        """It has done all there was to do. Raises `Violation`."""
        self._rounds[begun.room].remove(begun)
        acts = self._acts[begun.room]
        if (
            len(acts) - bisect_right(acts, begun.seq) >= STEPS_MAX
            or self._clock.excused_ms - begun.excused_ms > SURE_MS
        ):
            return  # the rest waits for the next one
        self._sometimes("a supervisor looked at a room")
        self._require_stalls_told(begun)
        self._require_tasks_seen_to(begun)
        self._require_forgotten(begun)

    def _since(self, room: str, seq: int) -> int:
        """Where what a supervisor acts on may have been seen."""
        rounds = [it for it in self._rounds[room] if it.end_ms is None or self._clock.now_ms - it.end_ms < GONE_MS]
        return min((it.seq for it in rounds), default=seq)

    # What must have been said when a round is over.

    def _require_stalls_told(self, begun: Round) -> None:
        for term in self._ledger.terms.live.values():
            sign = self._signs[term.epoch]
            is_still = sign.changed <= begun.seq and term.parked_ms is None
            if term.ask.room_name != begun.room or term.epoch > begun.seq or not is_still:
                continue
            silent_ms = begun.at_ms - begun.excused_ms - sign.working_ms
            if silent_ms < STALLED_MS + SURE_MS or not self._may_stall(term, begun.seq):
                continue
            if not self._may_stall(term, self._ledger.head) or term.epoch in self._ledger.summaries.offered:
                continue
            if self._is_dropped(begun.room, sign.seqs[-1]):
                continue
            cause = "stalled", term.epoch, sign.seqs[-1]
            if (*cause, "told") not in self._begun:
                self._never(begun, f"{term} has been silent for {silent_ms} ms", term.ask.task, term.ask.owner)
            self._require_escalated(begun, term, cause)

    def _is_dropped(self, room: str, seq: int) -> bool:
        """True for a line that retention took: nobody can tell any more what it was a sign of."""
        entry = self._ledger.agenda.events.get(seq)
        is_line = entry is not None and isinstance(entry.event, TaskNoted)
        return is_line and seq <= self._ledger.archive.floor(stream_of(room), None)

    def _require_escalated(self, begun: Round, term: Term, cause: tuple[object, ...]) -> None:
        kept = next((it for it in self.kept.values() if it.of == cause), None)
        low_ms, _ = self._clock.wall_range_ms(begun.at_ms)
        if kept is None or kept.version > begun.seq or not kept.record["done"] or kept.record["stage"] == "escalated":
            return
        if low_ms - kept.record["since_at_ms"] >= STALLED_MS * TRIES + SURE_MS:
            self._never(begun, f"nobody was called about {kept}", term.ask.task, term.ask.owner)

    def _may_stall(self, term: Term, seq: int) -> bool:
        """True unless it lives and ends with a connection, or its task waits for somebody."""
        item = self._ledger.agenda.at((term.ask.room_name, term.ask.task), seq)
        return not term.tied if item is None else item.status == "in_progress"

    def _require_tasks_seen_to(self, begun: Round) -> None:
        agenda, head, walls = self._ledger.agenda, self._ledger.head, self._clock.wall_range_ms(begun.at_ms)
        for task, item in agenda.tasks_of(begun.room, begun.seq).items():
            now = agenda.at((begun.room, task), head)
            if now is None or (now.status, now.moved_at_ms) != (item.status, item.moved_at_ms):
                continue
            place = begun.room, task
            if self._is_orphan(place, item, begun.seq) and self._is_orphan(place, now, head):
                kept = self._record("orphaned", place, item.moved_at_ms)
                is_old = all(abs(wall_ms - item.moved_at_ms) >= ORPHANED_MS for wall_ms in walls)
                if is_old and (kept is None or (kept["done"] and kept["stage"] == "told")):
                    self._never(begun, f"{place} is in progress by nobody: {item}; {kept}", task)
            if self._is_unblocked(place, item, begun.seq) and self._is_unblocked(place, now, head):
                kept = self._record("unblocked", place, item.moved_at_ms)
                if kept is None or not kept["done"]:
                    self._never(begun, f"{place} is blocked by nothing: {item}; {kept}", task)

    def _never(self, begun: Round, text: str, *about: str) -> None:
        raise Violation("not told", f"{begun} is over, and {text}", *about)

    def _is_orphan(self, place: Place, item: Item, seq: int) -> bool:
        return item.status == "in_progress" and not self._ledger.agenda.holders(place, seq)

    def _is_unblocked(self, place: Place, item: Item, seq: int) -> bool:
        is_blocked = item.status == "blocked" and bool(item.needs)
        return is_blocked and not self._ledger.agenda.missing(place[0], item, seq)

    def _record(self, cause: str, place: Place, mark: int) -> Json | None:
        for (room, _), kept in self.kept.items():
            record = kept.record
            if (record["cause"], room, record["task"], record["mark"]) == (cause, *place, mark):
                return record
        return None

    def _require_forgotten(self, begun: Round) -> None:
        """What ended before the round is remembered no more. Raises `Violation`."""
        for (room, key), kept in self.kept.items():
            if room == begun.room and kept.version <= begun.seq and self._is_over(room, kept.record, begun.seq):
                raise Violation("not forgotten", f"{begun} is over; {key} is {kept}", kept.record["task"])

    def _is_over(self, room: str, record: Json, seq: int) -> bool:
        """True when there is nothing left of a cause that is to be forgotten then."""
        if record["cause"] == "stalled":
            term = self._ledger.terms.all.get(record["mark"])
            return term is None or not term.is_live_at(seq)
        item = self._ledger.agenda.at((room, record["task"]), seq)
        is_same = item is not None and (item.status, item.moved_at_ms) == ("blocked", record["mark"])
        return record["cause"] == "unblocked" and not is_same

    # The fold.

    def enter(self, entry: Recorded, decided_ms: int) -> None:
        """Fold an event in. Raises `Violation`."""
        event = entry.event
        self._see(entry, decided_ms)
        match event:
            case RoomJoined() | RoomLeft():
                room, name = self._ledger.privacy.rooms[event.room], self._ledger.names[event.agent]
                (self._members[room].add if isinstance(event, RoomJoined) else self._members[room].discard)(name)
            case ValuePut() if event.key.startswith(PREFIX):
                self._acts[event.room_name].append(entry.seq)
                self._put(entry, event)
            case ValueDeleted() if event.key.startswith(PREFIX):
                self._acts[event.room_name].append(entry.seq)
                kept = self.kept.pop((event.room_name, event.key))
                if not self._is_over(event.room_name, kept.record, entry.seq):
                    raise Violation("forgotten early", f"{entry.seq} forgets {kept}", kept.record["task"])
                if not kept.record["done"]:  # by another supervisor, perhaps, than the one that is about to say it
                    self._cut_off[event.room_name, event.key] = entry.seq, kept
                self._sometimes(f"a cause was over: {kept.record['cause']}")
            case ValueExpired() if event.key.startswith(PREFIX):
                self.kept.pop((event.room_name, event.key))
            case TaskMoved() if entry.actor == NAME:
                self._move(entry, event)
            case _:
                pass

    def restart(self) -> None:
        """A new process of the hub counts anew for how long holders are silent."""
        for epoch in self._ledger.terms.live:
            self._signs[epoch].working_ms = self._working_ms
        if self.kept:
            self._sometimes("a supervisor remembered over a restart of the hub")

    def _see(self, entry: Recorded, decided_ms: int) -> None:
        """Who does something under a lease shows progress."""
        seq, event = entry.seq, entry.event
        match event:
            case LeaseGranted() | LeaseHandedOff():
                self._show(seq, seq, decided_ms)
            case LeaseCheckpointed() | LeaseRenewed():
                self._show(event.epoch, seq, decided_ms)
            case TaskNoted() | TaskMoved() if event.epoch is not None:
                self._show(event.epoch, seq, decided_ms)
            case LeaseParked() | LeaseResumed():
                self._signs[event.epoch].changed = seq
            case _:
                pass

    def _show(self, epoch: int, seq: int, decided_ms: int) -> None:
        sign = self._signs[epoch]
        sign.seqs.append(seq)
        sign.at_ms.append(decided_ms)
        sign.working_ms, sign.changed = self._working_ms, seq

    # What is remembered.

    def _put(self, entry: Recorded, event: ValuePut) -> None:
        record: Json = msgspec.json.decode(event.value)
        place = event.room_name, event.key
        old = self.kept.get(place) if event.replaces is not None else None
        of: tuple[object, ...]
        if old is not None and record == old.record | {"done": record["done"]}:
            of = old.of
            if record["done"]:
                self._require_said(entry, event.room_name, Kept(record, entry.seq, of))
            else:
                self._sometimes("a supervisor began again")
        elif record["done"] or entry.actor != NAME:
            raise Violation(
                "said unremembered", f"{entry.seq} by {entry.actor} is {record}; before: {old}", record["task"]
            )
        else:
            of = self._begin(entry, event.room_name, record, old)
            if (*of, record["stage"]) in self._begun:
                raise Violation("said twice", f"{entry.seq} begins {record}, {of}", record["task"], str(record["who"]))
            self._begun.add((*of, record["stage"]))
        self.kept[place] = Kept(record, entry.seq, of)

    def _begin(self, entry: Recorded, room: str, record: Json, old: Kept | None) -> tuple[object, ...]:
        """A cause is there that was not told before; which. Raises `Violation`."""
        _, high_ms = self._clock.wall_range_ms(max(0, self._clock.now_ms - SLACK_MS))
        place, mark, since = (room, record["task"]), record["mark"], self._since(room, entry.seq)
        if record["cause"] == "stalled":
            return self._begin_stall(entry, place, record, old, since)
        seqs, agenda = [since, *self._seqs(room, since)], self._ledger.agenda
        items = [(it, seq) for seq in seqs if (it := agenda.at(place, seq)) is not None and it.moved_at_ms == mark]
        if record["cause"] == "unblocked":
            is_so = any(self._is_unblocked(place, item, seq) for item, seq in items)
            owners = {*agenda.holders(place, since).values(), *agenda.holders(place, entry.seq).values()}
            is_so = is_so and record["who"] in {*owners, *(name for it, _ in items for name in (it.suggested, it.by))}
        else:
            tries = 1 if old is None else min(old.record["tries"] + 1, TRIES + 1)
            stage = "told" if tries <= TRIES else "escalated"
            is_so = any(self._is_orphan(place, item, seq) for item, seq in items)
            is_so = is_so and (record["tries"], record["stage"]) == (tries, stage)
            is_so = is_so and (high_ms - mark >= ORPHANED_MS or self._was_ahead(mark, ORPHANED_MS))
        if not is_so:
            raise Violation("not so", f"{entry.seq} begins {record}; there is {items}; {old}", record["task"])
        self._sometimes(f"a supervisor found: {record['cause']}")
        return record["cause"], *place, mark

    def _was_ahead(self, mark: int, by_ms: int) -> bool:
        """True when the wall clock was set back so far since then that it does not say how old something is."""
        return mark - self._clock.wall_range_ms(max(0, self._clock.now_ms - SLACK_MS))[0] >= by_ms

    def _seqs(self, room: str, since: int) -> Iterator[int]:
        plan = self._ledger.streams[stream_of(room)]
        yield from plan[bisect_right(plan, since) :]
        yield from self._ledger.summaries.lease_seqs(room, since)

    def _begin_stall(
        self, entry: Recorded, place: Place, record: Json, old: Kept | None, since: int
    ) -> tuple[object, ...]:
        epoch, term = record["mark"], self._ledger.terms.all.get(record["mark"])
        if term is None or (term.ask.room_name, term.ask.task) != place or term.ask.owner != record["who"]:
            raise Violation("not so", f"{entry.seq} begins {record}; the lease is {term}", place[1])
        if record["stage"] == "escalated":
            _, high_ms = self._clock.wall_range_ms(max(0, self._clock.now_ms - SLACK_MS))
            since_ms, long_ms = record["since_at_ms"], STALLED_MS * TRIES
            is_long = high_ms - since_ms >= long_ms or self._was_ahead(since_ms, long_ms)
            is_told = old is not None and old.record["done"] and old.record["stage"] == "told"
            if old is None or not is_told or old.record["mark"] != epoch or not is_long:
                raise Violation("not so", f"{entry.seq} calls people, {record} after {old}", place[1], record["who"])
            self._sometimes("a supervisor called people about a stall")
            return old.of
        sign = self._signs[epoch]
        ends = [*sign.at_ms[1:], self._clock.now_ms]
        first = max(0, bisect_right(sign.seqs, since) - 1)
        stalls = [
            seq
            for seq, from_ms, to_ms in list(zip(sign.seqs, sign.at_ms, ends, strict=True))[first:]
            if to_ms - from_ms + SLACK_MS >= STALLED_MS
        ]
        is_so = any(self._may_stall(term, seq) for seq in (since, entry.seq, *self._seqs(place[0], since)))
        if not stalls or not is_so:
            text = f"{entry.seq} begins {record}, since {since}; {term} has shown {sign}"
            raise Violation("not so", text, place[1], record["who"])
        if old is not None:
            self._sometimes("a holder stalled again after some progress")
        self._sometimes("a supervisor found: stalled")
        return "stalled", epoch, stalls[-1]

    # What is said and done.

    def ask(self, agent: str, body: Json) -> None:
        """The hub is about to hear this."""
        to = (body["channel"],) if body.get("channel") else tuple(body["to"])
        self._asked.update((agent, f"{name} {_plain(body['body'])}") for name in to)

    def say(self, entry: Recorded, event: MessagePosted | MessageSent) -> None:
        """Something was said that is no text. Raises `Violation`."""
        body: Json = msgspec.json.decode(event.body)
        if isinstance(event, MessagePosted):
            [to] = [event.address]
        else:
            [to] = [delivery.name for delivery in event.to]
        if (entry.actor, f"{to} {_plain(body)}") not in self._asked:
            raise Violation("unasked", f"{entry.actor} never said what {entry.seq} is: {body}", entry.actor)
        cause, _, mark = str(body["cause"]).partition(":")
        found = [
            (room, kept)
            for (room, _), kept in (*self.kept.items(), *self._forgotten_meanwhile(body["room"], entry.seq))
            if (kept.record["cause"], str(kept.record["mark"]), kept.record["task"]) == (cause, mark, body["task"])
        ]
        found = [(room, kept) for room, kept in found if room == body["room"]]
        if not found or found[0][1].record["done"] or found[0][1].record["stage"] != body["stage"]:
            raise Violation("said unremembered", f"{entry.seq} says {body} to {to}; {found}", body["task"])
        self._require_words(entry, found[0][1], body)
        said = *found[0][1].of, body["stage"], to
        if said in self._said:
            raise Violation("said twice", f"{entry.seq} says {body} to {to}", body["task"])
        self._said.add(said)
        if to in self.people:
            self._sometimes("a supervisor told a person")

    def _forgotten_meanwhile(self, room: str, seq: int) -> Iterator[tuple[Place, Kept]]:
        """What was over, and forgotten, since a round began that may still say it."""
        since = self._since(room, seq)
        return ((place, kept) for place, (at, kept) in self._cut_off.items() if place[0] == room and at > since)

    def _require_words(self, entry: Recorded, kept: Kept, body: Json) -> None:
        record = kept.record
        due = {"type": f"task.{record['cause']}", "since": record["since_at_ms"]}
        if record["cause"] == "stalled":
            due |= {"epoch": record["mark"], "owner": self._ledger.terms.all[record["mark"]].ask.owner}
        elif record["cause"] == "orphaned":
            due["tries"] = record["tries"]
        else:
            due["owner"] = record["who"]
        if not due.items() <= body.items():
            raise Violation("altered", f"{entry.seq} says {body}; {due} is due", body["task"])

    def _move(self, entry: Recorded, event: TaskMoved) -> None:
        """A supervisor moves orphans to open, and nothing else. Raises `Violation`."""
        before = self._ledger.agenda.at((event.room_name, event.task), entry.seq - 1)
        mark = 0 if before is None else before.moved_at_ms
        record = self._record("orphaned", (event.room_name, event.task), mark)
        is_begun = record is not None and not record["done"] and record["stage"] == "told"
        if not is_begun or (event.previous, event.status) != ("in_progress", "open"):
            raise Violation("not so", f"{entry.seq} is {event} of {before}; {record}", event.task)
        self._put_back.add((event.room_name, event.task, mark))
        self._sometimes("a supervisor put a task back")

    def _require_said(self, entry: Recorded, room: str, kept: Kept) -> None:
        """When it is remembered as said, it was. Raises `Violation`."""
        record, channel = kept.record, f"{room}:general"
        said = {to for *of, to in self._said if of == [*kept.of, record["stage"]]}
        if record["stage"] == "escalated":
            people = {name for name in self.people & self._members[room] if not self._is_full(name)}
            is_so = bool(said) and (people <= said or channel in said)
            self._sometimes("people were called" if said & self.people else "there was nobody to call")
        elif record["cause"] == "orphaned":
            is_so = channel in said or (room, record["task"], record["mark"]) not in self._put_back
        else:
            who = record["who"] if record["cause"] == "unblocked" else None
            is_so = channel in said and (who is None or who in said or self._is_full(who))
        if not is_so:
            raise Violation("not told", f"{entry.seq} remembers {record}; it was said to {said}", record["task"])

    def _is_full(self, name: str) -> bool:
        return len(self._ledger.inboxes[name]) >= INBOX_MAX - 1


def _plain(body: Json) -> str:
    return json.dumps(body, sort_keys=True)


def mark_of_put(room: str, key: str, value: Json, version: int | None) -> str:
    """The word of a put that no other has: of what a supervisor remembers, all of it and what it replaces."""
    return f"{room} {key} {version or 0} {_plain(value)}" if key.startswith(PREFIX) else value["mark"]
