"""Compaction: who plans it beside the simulated hub, and what may go from the journal as plain lists tell it.

At each plan the model finds out by itself which rows may lose their bodies: those whose time is over in every kind
that they are of, or in their channel where it has an age of its own (`kinds.py`), unless they are in an inbox, stand
behind a key, or are needed otherwise. From that follow the floors: how far readers find nothing any more. What the hub
says of them must be the same, and no other row may lose its body.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from random import Random
from typing import Any, Final, TypeAlias

from tests.simulation.agenda import HOME, Past
from tests.simulation.kinds import KINDS, LEASES, MESSAGES, kinds_of, streams_of
from tests.simulation.terms import Violation
from tests.simulation.virtual_time import VirtualLoop

from synapse.core.events import LeaseQueued, Recorded
from synapse.core.retention import KEEP_MS_MIN
from synapse.core.retention_events import JournalCompacted
from synapse.core.state import State, encode_state
from synapse.errors import Rejected
from synapse.journal.compaction import Plan, survey
from synapse.journal.interface import Pages
from synapse.protocol.replies import JournalBackedUp, JournalVerified

Json: TypeAlias = dict[str, Any]
AGE_MS: Final = 4 * 60 * 1000
"""How old something is when it goes, by the simulation's own clock. The keeper is told another time than it is: the hub
keeps all for a day, and the wall clock goes to and fro."""
READ_BY: Final = {"re": "receipts", "kv": "values", "qu": "questions", "pl": "plan"}
ALONE: Final = {"se": "session s", "la": "lane l"}
"""What is read by a number of its own."""
READS: Final = {
    "history.read": "before",
    "feed.subscribe": "since",
    "progress.read": "before",
    "session.checkpoints": "after",
    "lane.show": "after",
}


class Archive:
    """Which rows there are, by what they are read, and which may be gone. names, rooms, channels: by id."""

    def __init__(
        self,
        names: Mapping[int, str],
        rooms: Mapping[int, str],
        channels: Mapping[int, str],
        sometimes: Callable[[str], None],
    ) -> None:
        self._seqs: list[int] = []
        self._latest_ms: list[int] = []
        self._of_kinds: dict[frozenset[str], list[int]] = defaultdict(list)
        self._of_stream: dict[str, list[int]] = defaultdict(list)
        self._keyed: set[int] = set()
        self._may_go: set[int] = set()
        self._gone: set[int] = set()
        self._cuts: dict[str, int] = defaultdict(int)
        self._floors: dict[str, int] = defaultdict(int)
        self._planned: dict[int, tuple[set[int], int, dict[str, int], dict[str, int]]] = {}
        self._past: dict[str, Past] = defaultdict(Past)
        self._ids = {"in": names, "re": names, "kv": rooms, "qu": rooms, "pl": rooms, "ch": channels}
        self._sometimes = sometimes
        self.is_there: Callable[[str], bool] = lambda _stream: True

    # The fold.

    def enter(self, entry: Recorded, receipts: Iterable[str]) -> None:
        """Fold an event in. receipts: whose receipts it makes."""
        event = entry.event
        kinds = kinds_of(event)
        streams = [*streams_of(entry.seq, event), *(f"receipts {name}" for name in receipts)]
        if event.idem is not None and not isinstance(event, LeaseQueued):  # that key takes effect with the grant
            self._keyed.update(range(entry.seq, entry.seq + event.idem.count))
        self._seqs.append(entry.seq)
        self._latest_ms.append(max(entry.at_ms, self._latest_ms[-1]) if self._latest_ms else entry.at_ms)
        if kinds:
            self._of_kinds[kinds].append(entry.seq)
            for stream in streams:
                self._of_stream[stream].append(entry.seq)

    def keep(self, seq: int) -> None:
        """A key took effect here."""
        self._keyed.add(seq)

    def plan(self, upto: int, until_ms: int, keep: Mapping[str, int], needed: set[int]) -> None:
        """A compaction is planned: what is not younger than `until_ms` goes, of these kinds and channels; of those with
        0, nothing more. needed: what stays nevertheless."""
        old = min(bisect_right(self._latest_ms, until_ms), bisect_right(self._seqs, upto))
        cuts = self._cuts_from(self._seqs[old - 1] if old else 0, keep)
        gone: set[int] = set()
        for kinds, seqs in self._of_kinds.items():
            gone.update(seqs[: bisect_right(seqs, min(_cut_of(cuts, kind) for kind in kinds))])
        gone = gone - needed - self._keyed
        floors = {stream: floor for stream, floor in self._floors.items() if self.is_there(stream)}
        floors |= self._lost_behind(floors, gone, max(cuts.values(), default=0))
        self._planned[upto] = gone, len(gone - self._gone), cuts, floors

    def _lost_behind(self, floors: Mapping[str, int], gone: set[int], last: int) -> dict[str, int]:
        """The last of each stream that is gone, where that is behind its floor. last: no row behind it is gone."""
        found: dict[str, int] = {}
        for stream, seqs in self._of_stream.items():
            floor = floors.get(stream, 0)
            behind = reversed(seqs[bisect_right(seqs, floor) : bisect_right(seqs, last)])
            lost = next((seq for seq in behind if seq in gone), 0)
            if lost and self.is_there(stream):
                found[stream] = lost
        return found

    def _cuts_from(self, cut: int, keep: Mapping[str, int]) -> dict[str, int]:
        """Up to where each kind, and each channel that has an age of its own, may go once this is carried out. A
        channel that had one and is ahead of all others goes on with them."""
        ahead = {name for name, its in self._cuts.items() if ":" in name and its > self._cuts[MESSAGES]}
        ages = {**dict.fromkeys(ahead, keep.get(MESSAGES)), **keep}
        cuts = {name: _cut_of(self._cuts, name) for name in (*KINDS, *ages)}
        cuts |= {name: max(cut, cuts[name]) for name, age in ages.items() if age}
        return {name: its for name, its in cuts.items() if ":" not in name or name in keep or its > cuts[MESSAGES]}

    def compact(self, entry: Recorded, event: JournalCompacted) -> None:
        """The hub says what goes. Raises `Violation`."""
        if event.upto not in self._planned or entry.actor not in ("operator", "hub"):
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
        self._cuts, self._floors = defaultdict(int, cuts), defaultdict(int, floors)
        for stream, seq in floors.items():
            self._past[stream].become(entry.seq, seq)
        self._sometimes("the journal was compacted" if entry.actor == "operator" else "the hub compacted by itself")
        for what in ("questions", "plan", "session", "lane"):
            if any(stream.startswith(f"{what} ") for stream in floors):
                self._sometimes(f"the journal was compacted: {what}")

    def _stream_of(self, key: str) -> str:
        prefix, _, number = key.partition("/")
        if prefix in ALONE:
            return ALONE[prefix] + number
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


def _cut_of(cuts: Mapping[str, int], kind: str) -> int:
    """Up to where a kind may go; a channel without an age of its own goes with all messages."""
    own = cuts.get(kind)
    return (cuts.get(MESSAGES, 0) if ":" in kind else 0) if own is None else own


def _asked(agent: str, kind: str, body: Json) -> list[str]:
    """What a request reads."""
    if kind == "history.read":
        return [f"@{agent}"] if body.get("inbox") else [body["channel"]]
    if kind == "progress.read":
        return [f"plan {body.get('room') or HOME}"]
    if kind in ("session.checkpoints", "lane.show"):
        return [f"session {body['session']}" if "session" in body else f"lane {body['lane']}"]
    found = [*body.get("channels", ()), *(f"values {room}" for room in body.get("values", ()))]
    found += [f"plan {room}" for room in body.get("plans", ())]
    found += [f"@{agent}"] if body.get("inbox") else []
    found += [LEASES] if body.get("leases") else []
    return found + ([f"receipts {agent}"] if body.get("receipts") else [])


class Archivist:
    """Plans compactions in a process of its own, as it were (`synapse.hub.threads.Keeper`). It outlives no hub; the
    bases that it wrote do.

    look: gives the state at the end of the journal. tell: tells the model of a plan (seq, until, what is kept how
    long). on_plan: called when a base is written. aged_ms: what the wall showed at most when what is old came.
    """

    is_verifying = False

    def __init__(
        self,
        loop: VirtualLoop,
        chance: Random,
        pages: Pages,
        look: Callable[[], State],
        tell: Callable[[int, int, Mapping[str, int]], None],
        bases: dict[str, tuple[int, bytes]],
        base: int,
        on_plan: Callable[[], None],
        aged_ms: Callable[[], int],
    ) -> None:
        self.is_dead = False
        self._on_plan = on_plan
        self._aged_ms = aged_ms
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
        self._loop.call_later(self._chance.uniform(0.01, 0.5), self._plan, dict(keep), done, dry_run)

    def _plan(self, keep: Mapping[str, int], done: Callable[[Plan | Rejected], None], dry_run: bool) -> None:
        if self.is_dead:
            return
        state = self._look()
        until_ms = self._aged_ms()
        planning = survey(self._pages, state, keep, until_ms + KEEP_MS_MIN, base=self._base)
        base = encode_state(state)
        base_hash = sha256(base).hexdigest()
        if not dry_run:
            self._bases[base_hash] = state.seq, base
            self._on_plan()
        self._tell(state.seq, until_ms, keep)
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
