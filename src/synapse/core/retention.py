"""Retention: which bodies may go from the journal, and what its readers are told then.

    cut      up to which seq the rows of a kind, or of one channel, may lose their bodies. A row goes when each of its
             keys allows it: a message that mentions somebody is kept for the inbox for as long as for the channel
    floor    up to which seq a key really lost rows: behind it everything is there, before it nothing is told
    pinned   rows that stay whatever their age, because an answer still needs them: messages that are in an inbox, dead
             ones too, last checkpoints of sessions, offers of lanes, chunks of files that have not ended, and the
             events behind a live idempotency key

What no kind names is never dropped: events of the hub, of agents, rooms, channels and pools. Cuts and floors only rise.
A row that is not pinned will never be: only a new event pins, and only itself.
"""

from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from synapse.core.retention_events import JournalCompacted
from synapse.errors import Rejected, bad_request
from synapse.protocol.cursor import cursor_of

if TYPE_CHECKING:
    from synapse.core.events import Row
    from synapse.core.state import State

MESSAGES: Final = "messages"
LEASES: Final = "leases"
VALUES: Final = "values"
PLAN: Final = "plan"
SESSIONS: Final = "sessions"
QUESTIONS: Final = "questions"
FILES: Final = "files"
KINDS: Final = (MESSAGES, LEASES, VALUES, PLAN, SESSIONS, QUESTIONS, FILES)
"""What a retention can be given for, besides single channels."""

KEEP_MS_MIN: Final = 24 * 3600 * 1000
"""No retention is shorter: so long an idempotency key can be repeated."""
FLOORS_MAX: Final = 4_096
"""With more keys that lost rows, one floor stands for a whole kind: a compaction must stay a small event."""

_KIND_OF_NOUN: Final = {
    "message": MESSAGES,
    "messages": MESSAGES,
    "lease": LEASES,
    "value": VALUES,
    "values": VALUES,
    "task": PLAN,
    "tasks": PLAN,
    "session": SESSIONS,
    "lane": SESSIONS,
    "question": QUESTIONS,
    "file": FILES,
}
_KIND_OF_PREFIX: Final = {
    **dict.fromkeys(("ch", "in", "re", "ag", "ak"), MESSAGES),
    **dict.fromkeys(("ta", LEASES), LEASES),
    "kv": VALUES,
    **dict.fromkeys(("pl", "pt"), PLAN),
    **dict.fromkeys(("se", "la"), SESSIONS),
    "qu": QUESTIONS,
    "fi": FILES,
}


@dataclass(slots=True)
class Retained:
    """What compactions have left. upto, base_hash, at_ms: of the last one; 0 and '' before the first."""

    upto: int = 0
    base_hash: str = ""
    at_ms: int = 0
    cuts: dict[str, int] = field(default_factory=dict)
    floors: dict[str, int] = field(default_factory=dict)


def apply_compacted(state: "State", at_ms: int, event: JournalCompacted) -> None:
    """The floors are another object afterwards: a reader on another thread sees the old ones or the new ones."""
    state.retention = Retained(event.upto, event.base_hash, at_ms, dict(event.cuts), dict(event.floors))


def kind_of(type_name: str) -> str | None:
    """The kind of an event by its journal name; None for what is never dropped."""
    return _KIND_OF_NOUN.get(type_name.partition(".")[0])


def kind_of_floor(name: str) -> str | None:
    """The kind that a floor is of, by its name: an index key, or the kind itself."""
    return name if name in KINDS else _KIND_OF_PREFIX.get(name.partition("/")[0])


def cut_of(cuts: Mapping[str, int], key: str) -> int:
    """Up to which seq the rows of an index key may lose their bodies."""
    own = cuts.get(key)
    if own is not None:
        return own
    kind = _KIND_OF_PREFIX.get(key.partition("/")[0])
    return 0 if kind is None else cuts.get(kind, 0)


def floor_of(floors: Mapping[str, int], key: str) -> int:
    """Up to which seq a reader of an index key finds nothing any more; 0 when nothing was dropped."""
    if not floors:
        return 0
    kind = _KIND_OF_PREFIX.get(key.partition("/")[0], "")
    return max(floors.get(_floor_name(key), 0), floors.get(kind, 0))


def _floor_name(key: str) -> str:
    """All tasks share a floor: their leases one, the tasks of a plan that of their room."""
    if key.startswith("ta/"):
        return LEASES
    return f"pl/{key.split('/')[1]}" if key.startswith("pt/") else key


def may_be_dropped(cuts: Mapping[str, int], seq: int, type_name: str, keys: Iterable[str]) -> bool:
    """True when the row at `seq` may be without its body, as far as these of its keys say."""
    return kind_of(type_name) is not None and all(seq <= cut_of(cuts, key) for key in keys)


def allows_hole(compaction: JournalCompacted, row: "Row") -> bool:
    """True when a compaction may have dropped the body of `row`, as far as its header says."""
    return row.seq <= compaction.upto and may_be_dropped(compaction.cuts, row.seq, row.type, (row.key,))


def pinned(state: "State") -> Iterator[int]:
    """The rows that answers still need."""
    for inbox in state.agents.inboxes.values():
        yield from inbox.entries
    yield from state.lanes.by_id
    for session in state.sessions.by_id.values():
        if session.last is not None:
            yield session.last.seq
    yield from state.files.pinned()
    for remembered in state.idempotency.in_order():
        yield from range(remembered.seq, remembered.seq + remembered.count)


class Planning:
    """One look at all rows, oldest first, of which a compaction comes.

    ages_ms: how long is kept, by cut (a kind, or `ch/ID`); None: everything from now on. What is
    not named keeps the cut it has. The age of a row is that of the youngest row up to it, so that after a jump of the
    wall clock more is kept and never less.
    """

    def __init__(self, state: "State", ages_ms: Mapping[str, int | None], at_ms: int) -> None:
        before = state.retention
        # A channel that has no age of its own any more goes with all others, from where it is.
        ahead = [name for name, cut in before.cuts.items() if "/" in name and cut > before.cuts.get(MESSAGES, 0)]
        ages = {**dict.fromkeys(ahead, ages_ms.get(MESSAGES)), **ages_ms}
        if any(age is not None and age < KEEP_MS_MIN for age in ages.values()):
            raise bad_request(f"what is younger than {KEEP_MS_MIN} ms is always kept", "$.body.keep")
        self._state = state
        self._open = {name: at_ms - age for name, age in ages.items() if age is not None}
        self._named = frozenset(ages_ms)
        self.cuts = {name: cut_of(before.cuts, name) for name in (*KINDS, *ages)}
        self.pins = frozenset(pinned(state))
        self.floors = dict(before.floors)
        self.rows = 0
        self.bytes = 0

    def pass_over(self, seq: int, at_ms: int) -> bool:
        """The next row, with or without body. False when no row from here on can be dropped."""
        for name, until_ms in list(self._open.items()):
            if at_ms > until_ms:
                del self._open[name]
            elif seq > self.cuts[name]:
                self.cuts[name] = seq
        return bool(self._open) or any(seq <= cut for cut in self.cuts.values())

    def look(self, seq: int, type_name: str, keys: Collection[str], size: int) -> None:
        """The body of the row that was passed over last: it is dropped, or stays."""
        if seq in self.pins or not may_be_dropped(self.cuts, seq, type_name, keys):
            return
        self.rows += 1
        self.bytes += size
        for key in keys:
            if not key.startswith(("ag/", "ak/", "fi/")):  # nobody reads a page by it
                name = _floor_name(key)
                self.floors[name] = max(seq, self.floors.get(name, 0))

    def event(self, upto: int, base_hash: str) -> JournalCompacted:
        """The compaction. upto: the seq of the state it was planned with."""
        messages = self.cuts[MESSAGES]
        kept = {name: cut for name, cut in self.cuts.items() if name in KINDS or name in self._named or cut > messages}
        return JournalCompacted(
            upto=upto, base_hash=base_hash, cuts=kept, floors=self._living_floors(), rows=self.rows, bytes=self.bytes
        )

    def _living_floors(self) -> dict[str, int]:
        """The floors of what can still be read."""
        state = self._state
        there: dict[str, Container[int]] = {
            "ch": state.rooms.channels,
            "in": state.agents.inboxes,
            "re": state.agents.by_id,
            "kv": state.rooms.by_id,
            "pl": state.rooms.by_id,
            "se": state.sessions.by_id,
            "qu": state.rooms.by_id,
            "la": state.lanes.by_id,
        }
        floors: dict[str, int] = {}
        for name, floor in self.floors.items():
            prefix, _, number = name.partition("/")
            if not number or int(number) in there[prefix]:
                floors[name] = floor
        if len(floors) <= FLOORS_MAX:
            return floors
        wide: dict[str, int] = {}
        for name, floor in floors.items():
            kind = _KIND_OF_PREFIX.get(name.partition("/")[0], name)
            wide[kind] = max(floor, wide.get(kind, 0))
        return wide


def kept_from(state: "State", floors: Mapping[str, int]) -> list[tuple[str, int]]:
    """What lost rows, as it is called, and up to where: channels as `room:channel`, inboxes as `@name`,
    `receipts of NAME`, `leases`, `values of ROOM`, `plan of ROOM`, `questions of ROOM`; `messages`, `values`, `plan`
    and `questions` for all."""
    named: list[tuple[str, int]] = []
    for key, floor in floors.items():
        prefix, _, number = key.partition("/")
        name: str | None = key
        if prefix == "ch":
            channel = state.rooms.channels.get(int(number))
            name = None if channel is None else state.rooms.address(channel)
        elif prefix == "in":
            agent, role = state.agents.by_id.get(int(number)), state.roles.by_id.get(int(number))
            name = f"@{agent.name}" if agent is not None else f"@role:{role.name}" if role is not None else None
        elif prefix == "re":
            agent = state.agents.by_id.get(int(number))
            name = None if agent is None else f"receipts of {agent.name}"
        elif prefix == "kv":
            room = state.rooms.by_id.get(int(number))
            name = None if room is None else f"values of {room.name}"
        elif prefix in ("pl", "qu"):
            room = state.rooms.by_id.get(int(number))
            what = "plan" if prefix == "pl" else "questions"
            name = None if room is None else f"{what} of {room.name}"
        elif prefix == "se":
            name = f"session s{number}"
        elif prefix == "la":
            name = f"lane l{number}"
        if name is not None:
            named.append((name, floor))
    return sorted(named)


def require_kept(state: "State", keys: Mapping[str, str], since: int) -> None:
    """Raises `Rejected(cursor_too_old)` when what follows `since` is not whole any more for one of the keys.

    keys: index keys with what they are called.
    """
    floor, name = max(((floor_of(state.retention.floors, key), name) for key, name in keys.items()), default=(0, ""))
    if since < floor:
        raise too_old(state.journal_id, floor, name)


def too_old(journal_id: str, floor: int, name: str) -> Rejected:
    """A position lies before what is kept. name: of the channel, or what else is read."""
    first = cursor_of(journal_id, floor)
    return Rejected(
        "cursor_too_old",
        f"of {name} nothing up to {first} is kept: what followed your cursor was dropped by retention; go on from "
        f"{first}, where what is kept begins, or without a cursor, from now",
        {"first_kept": first, "channel": name},
    )


def ages_of(state: "State", keep: Mapping[str, int], *, must_exist: bool) -> dict[str, int | None]:
    """A retention by kind and by `room:channel` as `Planning` wants it; 0: everything is kept.

    must_exist: raise `Rejected(not_found)` for a channel that does not exist; else it is passed over. Raises
    `Rejected(bad_request)` for what is neither kind nor channel, and for less than 24 h.
    """
    ages: dict[str, int | None] = {}
    for name, age_ms in keep.items():
        if age_ms and not KEEP_MS_MIN <= age_ms <= 1 << 53:
            why = f"{name}: {age_ms} ms is less than 24 h, for which everything is kept; 0 keeps all"
            raise bad_request(why, "$.body.keep", {"least_ms": KEEP_MS_MIN})
        if name in KINDS:
            ages[name] = age_ms or None
            continue
        if ":" not in name:
            why = f"{name!r} is neither a channel (room:channel) nor one of {', '.join(KINDS)}"
            raise bad_request(why, "$.body.keep", {"kinds": list(KINDS)})
        channel = state.rooms.by_address.get(name)
        if channel is not None:
            ages[f"ch/{channel.id}"] = age_ms or None
        elif must_exist:
            raise Rejected("not_found", f"there is no channel {name}", {"channel": name})
    return ages
