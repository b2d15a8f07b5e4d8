"""Compaction: who plans it beside the simulated hub, and what may go from the journal as plain lists tell it.

At each plan the model finds out by itself which rows may lose their bodies: those whose time is over in every kind
that they are of, unless they are in an inbox or stand behind a key. From that follow the floors: how far readers find
nothing any more. What the hub says of them must be the same, and no other row may lose its body.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from random import Random
from typing import Any, Final, TypeAlias

from tests.simulation.agenda import Past
from tests.simulation.terms import Violation
from tests.simulation.virtual_time import VirtualLoop

from synapse.core.delivery_events import DeliveryEvent, MessagesDisowned
from synapse.core.events import Event, LeaseHandedOff, LeaseOffered, LeaseQueued, MessagePosted, MessageSent, Recorded
from synapse.core.question_events import QuestionAsked, QuestionEvent
from synapse.core.retention import KEEP_MS_MIN
from synapse.core.retention_events import JournalCompacted
from synapse.core.state import State, encode_state
from synapse.core.value_events import ValueDeleted, ValueExpired, ValuePut, ValuesCleared, ValueTransferred
from synapse.errors import Rejected
from synapse.journal.compaction import Plan, survey
from synapse.journal.interface import Pages
from synapse.protocol.replies import JournalBackedUp, JournalVerified

Json: TypeAlias = dict[str, Any]
MESSAGES, LEASES, VALUES, QUESTIONS = "messages", "leases", "values", "questions"
AGE_MS: Final = 4 * 60 * 1000
"""How old something is when it goes. The keeper is told another time than it is: the hub keeps all for a day."""
READ_BY: Final = {"re": "receipts", "kv": "values", "qu": "questions"}
READS: Final = {"history.read": "before", "feed.subscribe": "since"}


class Archive:
    """Which rows there are, by what they are read, and which may be gone. names, rooms, channels: by id."""

    def __init__(
        self,
        names: Mapping[int, str],
        rooms: Mapping[int, str],
        channels: Mapping[int, str],
        sometimes: Callable[[str], None],
    ) -> None:
        self._rows: list[tuple[int, int, frozenset[str], tuple[str, ...]]] = []
        self._keyed: set[int] = set()
        self._may_go: set[int] = set()
        self._gone: set[int] = set()
        self._cuts: dict[str, int] = defaultdict(int)
        self._floors: dict[str, int] = defaultdict(int)
        self._planned: dict[int, tuple[set[int], int, dict[str, int], dict[str, int]]] = {}
        self._past: dict[str, Past] = defaultdict(Past)
        self._ids = {"in": names, "re": names, "kv": rooms, "qu": rooms, "ch": channels}
        self._sometimes = sometimes

    # The fold.

    def enter(self, entry: Recorded, receipts: Iterable[str]) -> None:
        """Fold an event in. receipts: whose receipts it makes."""
        event = entry.event
        kinds, streams = _kinds_of(event), [*_streams_of(event), *(f"receipts {name}" for name in receipts)]
        if event.idem is not None and not isinstance(event, LeaseQueued):  # that key takes effect with the grant
            self._keyed.update(range(entry.seq, entry.seq + event.idem.count))
        if kinds:
            self._rows.append((entry.seq, entry.at_ms, kinds, tuple(streams)))
        else:
            self._rows.append((entry.seq, entry.at_ms, frozenset(), ()))

    def keep(self, seq: int) -> None:
        """A key took effect here."""
        self._keyed.add(seq)

    def plan(self, upto: int, until_ms: int, kinds: Iterable[str], in_inboxes: set[int]) -> None:
        """A compaction is planned: what is not younger than `until_ms` goes. in_inboxes: what stays nevertheless."""
        cut = 0
        for seq, at_ms, _, _ in self._rows:
            if at_ms > until_ms or seq > upto:
                break
            cut = seq
        cuts = dict(self._cuts) | {kind: max(cut, self._cuts[kind]) for kind in kinds}
        floors = dict(self._floors)
        gone: set[int] = set()
        for seq, _, of, streams in self._rows[: self._index(max(cuts.values(), default=0))]:
            is_old = bool(of) and all(seq <= cuts.get(kind, 0) for kind in of)
            if is_old and seq not in in_inboxes and seq not in self._keyed:
                gone.add(seq)
                for stream in streams:
                    floors[stream] = max(seq, floors.get(stream, 0))
        self._planned[upto] = gone, len(gone - self._gone), cuts, floors

    def _index(self, seq: int) -> int:
        return bisect_right(self._rows, seq, key=lambda row: row[0])

    def compact(self, entry: Recorded, event: JournalCompacted) -> None:
        """The hub says what goes. Raises `Violation`."""
        if event.upto not in self._planned or entry.actor != "operator":
            raise Violation("unasked", f"nobody planned what {entry.seq} is: {event}", entry.actor)
        gone, rows, cuts, floors = self._planned[event.upto]
        told = {self._stream_of(name): seq for name, seq in event.floors.items()}
        if told != floors or event.rows != rows:
            odd = {name: (told.get(name), floors.get(name)) for name in told.keys() | floors.keys()}
            odd = {name: pair for name, pair in odd.items() if pair[0] != pair[1]}
            text = f"{entry.seq} drops {event.rows} rows, {rows} may go; told and due are {odd}"
            raise Violation("wrong floor", text)
        if rows > len(gone - self._may_go):
            self._sometimes("a compaction went on with what another had left")
        self._may_go |= gone
        self._cuts.update(cuts)
        self._floors.update(floors)
        for stream, seq in floors.items():
            self._past[stream].become(entry.seq, seq)
        self._sometimes("the journal was compacted")
        if any(stream.startswith("questions ") for stream in floors):
            self._sometimes("the journal was compacted, and questions too")

    def _stream_of(self, key: str) -> str:
        prefix, _, number = key.partition("/")
        if prefix not in self._ids:
            return key
        name = self._ids[prefix][int(number)]
        if prefix == "in":
            return f"@{name}"
        return f"{READ_BY[prefix]} {name}" if prefix in READ_BY else name

    def drop(self, seqs: Iterable[int]) -> None:
        """These rows have no body any more. Raises `Violation`."""
        gone = set(seqs)
        if not gone <= self._may_go:
            raise Violation("dropped", f"rows lost their bodies that had to stay: {sorted(gone - self._may_go)[:10]}")
        if gone - self._gone:
            self._sometimes("rows lost their bodies")
        self._gone |= gone

    @property
    def dropped(self) -> int:
        """How many rows have no body any more."""
        return len(self._gone)

    # Questions.

    def floor(self, stream: str, seq: int | None = None) -> int:
        """Up to where nothing of a stream can be read, after the event at `seq`; None: now."""
        past = self._past.get(stream)
        if past is None:
            return 0
        found: int | None = past.then[-1] if seq is None else past.upto(seq)
        return found or 0

    def require_refused_rightly(self, agent: str, kind: str, body: Json, error: Json) -> None:
        """A cursor is called too old: it is, and where one may go on is told. Raises `Violation`."""
        cursor = body.get(READS.get(kind, ""))
        floor = max((self.floor(stream) for stream in _asked(agent, kind, body)), default=0)
        kept = int(error["facts"]["first_kept"].partition(":")[2])
        since = None if cursor is None else int(cursor.partition(":")[2])
        if kept != floor or (since is not None and since > floor):
            raise Violation("wrong floor", f"{kind} of {agent} from {since} is refused: {error}; floor {floor}", agent)
        self._sometimes("a cursor was too old, and where to go on was told")

    def require_whole(self, agent: str, kind: str, body: Json, seq: int) -> None:
        """A feed begins: all that follows its cursor is there. Raises `Violation`."""
        since = body.get("since")
        if since is None:
            return
        for stream in _asked(agent, kind, body):
            if int(since.partition(":")[2]) < self.floor(stream, seq):
                raise Violation("wrong floor", f"{agent} follows {stream} from {since}; {self.floor(stream)}", agent)


def _kinds_of(event: Event) -> frozenset[str]:
    match event:
        case MessagePosted() | MessageSent():
            return frozenset({MESSAGES})
        case LeaseOffered():
            return frozenset({LEASES, MESSAGES})
        case LeaseHandedOff():
            return frozenset({LEASES} if event.delivery is None else {LEASES, MESSAGES})
        case _ if isinstance(event, DeliveryEvent):
            return frozenset({MESSAGES})
        case ValuePut() | ValueDeleted() | ValueExpired() | ValueTransferred() | ValuesCleared():
            return frozenset({VALUES})
        case QuestionAsked():
            return frozenset({QUESTIONS})
        case _ if isinstance(event, QuestionEvent):
            return frozenset({QUESTIONS, MESSAGES} if event.deliveries else {QUESTIONS})
        case _ if type(event).__name__.startswith("Lease"):
            return frozenset({LEASES})
        case _:
            return frozenset()


def _streams_of(event: Event) -> list[str]:
    """By what an event is read."""
    match event:
        case MessagePosted():
            return [event.address, *(f"@{it.name}" for it in event.mentions)]
        case MessageSent():
            return [f"@{it.name}" for it in event.to]
        case LeaseHandedOff() if event.delivery is not None:
            return [LEASES, f"@{event.delivery.name}"]
        case LeaseOffered():
            return [LEASES, f"@{event.to.name}"]
        case MessagesDisowned():
            return []
        case ValuePut() | ValueDeleted() | ValueExpired() | ValueTransferred() | ValuesCleared():
            return [f"values {event.room_name}"]
        case _ if isinstance(event, QuestionEvent):
            mail = () if isinstance(event, QuestionAsked) else event.deliveries
            return [f"questions {event.room_name}", *(f"@{it.name}" for it in mail)]
        case _ if type(event).__name__.startswith("Lease"):
            return [LEASES]
        case _:
            return []


def _asked(agent: str, kind: str, body: Json) -> list[str]:
    """What a request reads."""
    if kind == "history.read":
        return [f"@{agent}"] if body.get("inbox") else [body["channel"]]
    found = [*body.get("channels", ()), *(f"values {room}" for room in body.get("values", ()))]
    found += [f"@{agent}"] if body.get("inbox") else []
    found += [LEASES] if body.get("leases") else []
    return found + ([f"receipts {agent}"] if body.get("receipts") else [])


class Archivist:
    """Plans compactions in a process of its own, as it were (`synapse.hub.threads.Keeper`). It outlives no hub; the
    bases that it wrote do.

    look: gives the journal's rows and the state at their end, and tells the model of a plan (seq, until, kinds).
    """

    is_verifying = False

    def __init__(
        self,
        loop: VirtualLoop,
        chance: Random,
        pages: Pages,
        look: Callable[[], State],
        tell: Callable[[int, int, Iterable[str]], None],
        bases: dict[str, tuple[int, bytes]],
        base: int,
    ) -> None:
        self.is_dead = False
        self._loop = loop
        self._chance = chance
        self._pages = pages
        self._look = look
        self._tell = tell
        self._bases = bases
        self._base = base

    def compact(
        self, keep: Mapping[str, int], at_ms: int, done: Callable[[Plan | Rejected], None], *, dry_run: bool
    ) -> None:
        """Plan a compaction, and write its base; the hub hears of it a while later."""
        self._loop.call_later(self._chance.uniform(0.01, 0.5), self._plan, dict(keep), at_ms, done, dry_run)

    def _plan(
        self, keep: Mapping[str, int], at_ms: int, done: Callable[[Plan | Rejected], None], dry_run: bool
    ) -> None:
        if self.is_dead:
            return
        state = self._look()
        planning = survey(self._pages, state, keep, at_ms + KEEP_MS_MIN - AGE_MS, base=self._base)
        base = encode_state(state)
        base_hash = sha256(base).hexdigest()
        if not dry_run:
            self._bases[base_hash] = state.seq, base
        self._tell(state.seq, at_ms - AGE_MS, keep)
        event = planning.event(state.seq, base_hash)
        last = max(event.cuts.values(), default=0)
        pins = tuple(sorted(seq for seq in planning.pins if seq <= last))
        found = Plan(compaction=event, is_due=bool(planning.rows), pins=pins)
        self._loop.call_later(self._chance.uniform(0.01, 2.0), self._hand_over, done, found)

    def _hand_over(self, done: Callable[[Plan | Rejected], None], found: Plan) -> None:
        if not self.is_dead:
            done(found)

    def verify(self, done: Callable[[JournalVerified | Rejected], None]) -> None:
        """Not here."""
        raise Rejected("unsupported", "a simulated journal is not verified")

    def back_up(self, path: str, done: Callable[[JournalBackedUp | Rejected], None]) -> None:
        """Not here."""
        raise Rejected("unsupported", "a simulated journal is not backed up")
