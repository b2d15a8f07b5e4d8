"""The journal as a list of facts: numbers without gaps, inboxes, keys, and who asked for what.

It knows the events and nothing of how the hub comes to them. What comes in is what the disk has; the rest is not
durable.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
from tests.simulation.agenda import Agenda, Json, PlanEvent
from tests.simulation.delivery import Mailroom
from tests.simulation.desk import Desk
from tests.simulation.keeping import Archive
from tests.simulation.lookout import NAME as SUPERVISOR
from tests.simulation.lookout import Lookout
from tests.simulation.market import Market
from tests.simulation.pages import Pages
from tests.simulation.parcels import Parcels
from tests.simulation.passages import LaneEvent, Passages
from tests.simulation.privacy import Privacy
from tests.simulation.records import Records, SessionEvent
from tests.simulation.shelf import Shelf, ValueEvent
from tests.simulation.summaries import Summaries
from tests.simulation.terms import Term, Terms, Violation

from synapse.core.delivery_events import DeliveryEvent
from synapse.core.events import (
    AgentCreated,
    AgentForgotten,
    Delivery,
    Event,
    HubStarted,
    JournalWritable,
    LeaseExpired,
    LeaseGranted,
    LeaseHandedOff,
    LeaseOffered,
    LeaseQueued,
    LeaseReleased,
    LeaseRevoked,
    LeaseUnqueued,
    MessagePosted,
    MessageSent,
    Recorded,
    Row,
    from_row,
)
from synapse.core.file_events import FileEvent
from synapse.core.mail import Mail
from synapse.core.question_events import QuestionEvent
from synapse.core.retention_events import JournalCompacted
from synapse.core.role_events import RoleEvent
from synapse.core.session_events import SessionCheckpointed, SessionOffered

KEEP_MS: Final = 24 * 3600 * 1000
Sometimes = Callable[[str], None]


@dataclass(slots=True)
class Key:
    """The effect of an idempotency key: the seq of its first event, when, and the answer that was given."""

    seq: int
    at_ms: int
    answer: object = None


@dataclass(slots=True)
class Asked:
    """What the hub heard agents ask for, before it did anything."""

    marks: dict[str, str] = field(default_factory=dict)
    claims: set[tuple[object, ...]] = field(default_factory=set)
    under: set[tuple[str, str, int]] = field(default_factory=set)


class Ledger:
    """The fold of the journal. streams: seqs by `room:channel`, `@agent`, `leases`, `values ROOM PREFIX`, `plan ROOM`,
    in order."""

    def __init__(
        self, terms: Terms, shelf: Shelf, sometimes: Sometimes, *, base: int, lends_max: int, lend_ms: int
    ) -> None:
        self.head = base
        self.agenda = Agenda(sometimes)
        self.desk = Desk(terms, self.agenda, sometimes)
        self.records = Records(self.agenda, sometimes)
        self.records.waiting = self.desk.is_waiting
        self.desk.session_on = self.records.working_on
        self.lanes = Passages(self.agenda, self.records, sometimes)
        self.terms = terms
        self.shelf = shelf
        self.asked = Asked()
        self.messages: dict[int, Recorded] = {}
        self.streams: dict[str, list[int]] = defaultdict(list)
        self.numbers: dict[str, int] = defaultdict(int)
        self.names: dict[int, str] = {}
        self.mail = Mailroom(terms.clock, self.names, self._tell, sometimes, lends_max=lends_max, lend_ms=lend_ms)
        self.inboxes = self.mail.inboxes
        self.privacy = Privacy(terms.clock, self.names, self.mail.has_arrived, sometimes)
        self.agenda.sees = self.privacy.sees
        self.archive = Archive(self.names, self.privacy.rooms, self.privacy.channels, sometimes)
        self.market = Market(terms, self.names, self.privacy.ephemeral, sometimes)
        self.archive.is_there = self._is_there
        self.agenda.pages = self.records.pages = self.lanes.pages = Pages(self.archive.floor, sometimes)
        self.mail.floor = self.archive.floor
        self.parcels = Parcels(self.privacy, self.names, self.privacy.channels, sometimes)
        self.summaries = Summaries(self, sometimes)
        self.lookout = Lookout(self, sometimes)
        self._told: list[str] = []
        self.keys: dict[tuple[str, str], Key] = {}
        self.marks: dict[str, int] = {}
        self._offers: dict[int, tuple[str, int]] = {}
        self._sometimes = sometimes
        self._queued_before_start: set[int] = set()
        self._ended_by_time = False

    def fold(self, rows: Sequence[Row], decided_ms: int) -> list[Recorded]:
        """Take in one durable transaction. Raises `Violation`."""
        found: list[Recorded] = []
        self._ended_by_time = False
        for row in rows:
            if row.seq != self.head + 1:
                raise Violation("hole in the journal", f"{row.seq} follows {self.head}")
            self.head = row.seq
            entry = Recorded(row.seq, row.at_ms, row.actor, from_row(row.type, row.body))
            self._told = []
            self._enter(entry, decided_ms)
            self.summaries.enter(entry)
            self.lookout.enter(entry, decided_ms)
            self.archive.enter(entry, self._told)
            found.append(entry)
        self.mail.end_transaction(decided_ms)
        self.agenda.end_transaction(self.head)
        self.desk.end_transaction(self.head)
        self.records.end_transaction(self.head)
        self.parcels.end_transaction(self.head)
        return found

    def _enter(self, entry: Recorded, decided_ms: int) -> None:
        seq, _, actor, event = entry
        if event.idem is not None and not isinstance(event, LeaseQueued):
            self._take_key(actor, event.idem.key, seq, decided_ms)
        self.privacy.enter(entry)
        self.market.enter(entry)
        if isinstance(event, Mail):
            self._arrive(entry, event.deliveries)
            self.messages[seq] = entry
        match event:
            case MessagePosted():
                self._number(event.address, seq, event.n)
                self._arrive(entry, event.mentions)
                self._post(entry, event)
            case MessageSent():
                self._arrive(entry, event.to)
                self._post(entry, event)
            case _ if isinstance(event, DeliveryEvent):
                self.mail.enter(entry, event, decided_ms)
            case _ if isinstance(event, RoleEvent):
                self.mail.enter_role(entry, event)
            case AgentCreated():
                self.names[seq] = event.name
            case AgentForgotten():
                raise Violation("unasked", "nobody forgets agents here")
            case JournalCompacted():
                self.archive.compact(entry, event)
            case HubStarted():
                self.restart(decided_ms)
            case JournalWritable():
                self._sometimes("the disk was full and had room again")
            case _ if isinstance(event, ValueEvent):
                for stream in self.shelf.enter(entry, event):
                    self.streams[stream].append(seq)
            case _ if isinstance(event, PlanEvent):
                for stream in self.agenda.enter(entry, event):
                    self.streams[stream].append(seq)
            case _ if isinstance(event, QuestionEvent):
                self.desk.enter(entry, event, decided_ms)
            case _ if isinstance(event, SessionEvent):
                self.records.enter(entry, event)
                if isinstance(event, SessionCheckpointed):
                    self.lanes.keep(entry, event)
            case _ if isinstance(event, LaneEvent):
                self.lanes.enter(entry, event)
            case _ if isinstance(event, FileEvent):
                self.parcels.enter(entry, event)
            case _:
                self._lease(entry, decided_ms)

    def _number(self, key: str, seq: int, n: int) -> None:
        if n != self.numbers[key] + 1:
            raise Violation("numbers have a gap", f"{key} goes from {self.numbers[key]} to {n} at {seq}")
        self.numbers[key] = n
        self.streams[key].append(seq)

    def _tell(self, stream: str, seq: int) -> None:
        self.streams[stream].append(seq)
        self._told.append(stream.removeprefix("receipts "))

    def _arrive(self, entry: Recorded, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            if self.names.get(delivery.agent) != delivery.name:
                text = f"{entry.seq} arrives at {delivery.name}, agent {delivery.agent}"
                raise Violation("altered", text, delivery.name)
            self._number(f"@{delivery.name}", entry.seq, delivery.n)
            self.mail.arrive(entry.seq, delivery.name, entry)

    def _post(self, entry: Recorded, event: MessagePosted | MessageSent) -> None:
        if entry.actor == SUPERVISOR and bytes(event.body).startswith(b"{"):
            self.lookout.say(entry, event)
            self.messages[entry.seq] = entry
            return
        mark = mark_of(bytes(event.body))
        if self.asked.marks.get(mark) != entry.actor:
            raise Violation("unasked", f"{entry.actor} never sent {mark!r}, at {entry.seq}", entry.actor)
        if mark in self.marks and (entry.actor, self.marks[mark]) not in self.mail.asked.resends:
            raise Violation("applied twice", f"{mark!r} at {self.marks[mark]} and {entry.seq}", entry.actor)
        self.marks[mark] = entry.seq
        self.messages[entry.seq] = entry

    def _take_key(self, actor: str, key: str, seq: int, decided_ms: int) -> None:
        known = self.keys.get((actor, key))
        if known is not None and decided_ms - known.at_ms < KEEP_MS:
            raise Violation("applied twice", f"key {key} of {actor} at {known.seq} and {seq}", actor)
        self.keys[actor, key] = Key(seq, decided_ms)

    def restart(self, at_ms: int) -> None:
        """A new process of the hub: all that is soft begins anew."""
        self._queued_before_start = set(self.terms.places)
        self.terms.restart(at_ms)
        self.records.restart()
        self.mail.restart()
        self.market.restart()
        self.lookout.restart()

    def plan_compaction(self, upto: int, until_ms: int, keep: Mapping[str, int]) -> None:
        """A compaction of all up to the head is planned."""
        assert upto == self.head, "it is planned on all there is"
        needed = {seq for entries in self.inboxes.values() for seq in entries}
        needed |= {run.last for run in self.records.newest(0)} | self.lanes.now.keys() | self.parcels.rows()
        self.archive.plan(upto, until_ms, keep, needed)

    def _is_there(self, stream: str) -> bool:
        """False for a session or lane that the hub has let go."""
        what, _, name = stream.partition(" ")
        if what not in ("session", "lane"):
            return True
        number = int(name[1:])
        return number in self.lanes.now if what == "lane" else self.records.at(number, self.head) is not None

    # Leases.

    def _lease(self, entry: Recorded, decided_ms: int) -> None:
        seq, _, actor, event = entry
        self._ask_for(seq, actor, event)
        match event:
            case LeaseGranted():
                self._grant(seq, event, decided_ms)
            case LeaseHandedOff():
                self._void_offer(event.previous)
                if event.delivery is not None:
                    self._arrive(entry, [event.delivery])
                    self.messages[seq] = entry
                    self._sometimes("a lease was handed off")
                else:
                    self._sometimes("an offered lease was accepted")
            case LeaseOffered():
                self._void_offer(event.epoch)
                self._arrive(entry, [event.to])
                self.messages[seq] = entry
                self._offers[event.epoch] = event.to.name, seq
            case LeaseReleased() | LeaseExpired() | LeaseRevoked():
                self._void_offer(event.epoch)
                self._note_end(event)
            case LeaseQueued() if event.idem is not None:
                known = self.keys.get((actor, event.idem.key))
                if known is not None and decided_ms - known.at_ms < KEEP_MS:
                    raise Violation("applied twice", f"key {event.idem.key} of {actor} waits at {seq}", actor)
            case LeaseUnqueued():
                self._sometimes(f"a wait ended: {event.reason}")
            case _:
                pass
        if type(event).__name__.startswith("Lease"):
            place = self.privacy.of(_room_of(event))
            self.streams["leases" if place is None else f"leases {place.name}"].append(seq)
        self.terms.enter(seq, actor, event, decided_ms)
        self.agenda.lease(seq, event)
        self.desk.lease(seq, event)
        self.records.lease(entry)
        self.lanes.lease(seq, event)

    def _grant(self, seq: int, event: LeaseGranted, decided_ms: int) -> None:
        if event.replaces is not None:
            self._void_offer(event.replaces)
        if event.place is None:
            return
        queued = self.terms.queued.get(event.place)
        if queued is not None and queued.idem is not None:
            self._take_key(event.ask.owner, queued.idem.key, seq, decided_ms)
            self.archive.keep(seq)
        if self._ended_by_time:
            self._sometimes("a waiter was granted what had expired")
        if event.place in self._queued_before_start:
            self._sometimes("a waiter was granted after a restart of the hub")

    def _note_end(self, event: LeaseReleased | LeaseExpired | LeaseRevoked) -> None:
        if isinstance(event, LeaseExpired):
            self._ended_by_time = True
            self._sometimes(f"a lease expired: {event.reason}")
        elif isinstance(event, LeaseRevoked):
            self._sometimes("an operator took a lease away")

    def _void_offer(self, epoch: int) -> None:
        offer = self._offers.pop(epoch, None)
        if offer is not None:
            name, seq = offer
            self.mail.leave(name, seq, self.head)

    def _ask_for(self, seq: int, actor: str, event: Event) -> None:
        """What an agent did, it had asked for. Raises `Violation`."""
        under = self.asked.under
        match event:
            case LeaseGranted() | LeaseQueued():
                ask = event.ask
                scope = ask.owner, ask.task, ask.paths, ask.pools, ask.mode
                is_known = scope in self.asked.claims or (ask.owner, ask.task) in self.asked.claims
            case LeaseReleased():
                is_known = ("lease.release", actor, event.epoch) in under
                is_known = is_known or self.agenda.is_freed_by_a_step(actor, event.epoch)
            case LeaseHandedOff() if event.delivery is not None:
                is_known = ("lease.hand_off", event.sender, event.previous) in under
            case LeaseOffered():
                is_known = ("lease.hand_off", actor, event.epoch) in under
            case _:
                return
        if not is_known:
            raise Violation("unasked", f"{actor} never asked for {type(event).__name__} at {seq}: {event}", actor)

    # Questions.

    def letter(self, entry: Recorded) -> Json | None:
        """What a message of the hub's own says, as far as that is known here."""
        if isinstance(entry.event, QuestionEvent):
            return self.desk.letter(entry, entry.event)  # type: ignore[arg-type]  # what was asked is no mail
        if isinstance(entry.event, SessionOffered):
            return self.records.letter(entry.event)
        return self.lanes.letter(entry, entry.event) if isinstance(entry.event, LaneEvent) else None

    # Areas of requests.

    def ask_area(self, kind: str, agent: str, body: Json) -> None:
        """The hub is about to hear a request about questions, sessions, lanes or files."""
        for area in (self.desk, self.records, self.lanes, self.parcels):
            area.ask(kind, agent, body)

    def require_refused_rightly(
        self, agent: str, kind: str, body: Json, seq: int, error: Json, wall_ms: tuple[int, int]
    ) -> None:
        """What such a request was refused for is so. Raises `Violation`."""
        if kind.startswith("question."):
            self.desk.require_refused_rightly(agent, kind, body, seq, error)
        elif kind.startswith("session."):
            self.records.require_refused_rightly(agent, kind, body, seq, error)
        elif kind.startswith("file."):
            self.parcels.require_refused_rightly(agent, kind, body, seq, error, wall_ms)
        if body.get("lane") is not None:
            self.lanes.require_refused_rightly(agent, kind, body, seq, error, wall_ms)

    def require_true(
        self, agent: str, kind: str, body: Json, seq: int, reply: Json, *, wall_ms: tuple[int, int], now_ms: int
    ) -> object:
        """What is answered to such a request is so; what a repeat under its key must say again. Raises `Violation`."""
        if kind.startswith("question."):
            return self.desk.require_true(agent, kind, body, seq, reply)
        if kind.startswith("session."):
            return self.records.require_true(agent, kind, body, seq, reply, now_ms)
        if kind.startswith("file."):
            self.parcels.require_true(agent, kind, body, seq, reply, wall_ms)
            return None
        return self.lanes.require_true(agent, kind, body, seq, reply, wall_ms)

    def next_of(self, keys: Iterable[str], after: int, at: dict[str, int]) -> int | None:
        """The first seq behind `after` in any of these streams. at: an index into each, moved on."""
        first: int | None = None
        for key in keys:
            stream = self.streams[key]
            index = at[key] = bisect_right(stream, after, at.get(key, 0))
            if index < len(stream) and (first is None or stream[index] < first):
                first = stream[index]
        return first

    def term_of(self, epoch: int) -> Term | None:
        """The grant with this epoch."""
        return self.terms.all.get(epoch)


def _room_of(event: Event) -> str:
    """The room that a lease is of."""
    ask = getattr(event, "ask", None)
    room: str = event.room_name if ask is None else ask.room_name  # type: ignore[union-attr]  # one or the other
    return room


def mark_in(body: object) -> str:
    """The same, of a body as plain JSON; of one that is no text, all of it."""
    return body.split(" ", 1)[0] if isinstance(body, str) else mark_of(msgspec.json.encode(body))


def mark_of(body: bytes) -> str:
    """The first word of a message's text."""
    return body.strip(b'"').split(b" ", 1)[0].decode()
