"""Digests, held against the journal: what is asked of an agent, blocks it and is its own, at the seq of the digest.

Each list is worked out anew from the inbox, the plan and the leases as they were at that seq, and each count by going
through what happened behind the cursor. Only who is online and what is lent of a role's queue are bounds here: a hub
does not journal them. What a digest leaves out for its size is told by its totals, and these are exact.
"""

from bisect import bisect_right
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tests.simulation.agenda import HOME, OVER, Item, Place, stream_of
from tests.simulation.shelf import CHANGES as VALUE_CHANGES
from tests.simulation.shelf import stream_of as stream_of_values
from tests.simulation.terms import RANKS, Term, Violation

from synapse.core.events import (
    AgentCreated,
    Ask,
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
    MessagePosted,
    MessageSent,
    Recorded,
    to_row,
)
from synapse.core.plan_events import TaskMoved, TaskNoted, TasksReady
from synapse.core.room_events import RoomJoined

if TYPE_CHECKING:
    from tests.simulation.ledger import Ledger

Json: TypeAlias = dict[str, Any]
Counts: TypeAlias = dict[str, dict[str, int]]
LeaseEvent: TypeAlias = (
    LeaseGranted | LeaseReleased | LeaseExpired | LeaseRevoked | LeaseUnqueued | LeaseRenewed | LeaseParked
    | LeaseResumed | LeaseCheckpointed | LeaseQueued | LeaseHandedOff | LeaseOffered
)  # fmt: skip
BYTES_SAFE: Final = 30_000
"""A list of so many characters may have been cut before its limit."""
NAMES_SHOWN: Final = 32
NEEDS_SHOWN: Final = 8
MASKED: Final = ("private", "private", "private")
ROWS_COUNTED: Final = 2_000
RECENT: Final = 500
"""Leases that ended so many ends ago, or messages so many events ago, are looked at no more."""
NOW: Final = ("questions", "roles", "unacked", "tasks", "held", "agents")
ARRIVALS: Final[dict[type[object], str]] = {MessageSent: "messages", MessagePosted: "mentions"}


@dataclass(slots=True)
class Span:
    """Something of an agent's that was there for a while: a place in line, or an offer. what: whose ask, or epoch."""

    seq: int
    what: Any
    end: int | None = None

    def is_there(self, seq: int) -> bool:
        """True when it is there after the event at `seq`."""
        return self.seq <= seq and (self.end is None or seq < self.end)


class Summaries:
    """What digests must say. It looks at the whole ledger."""

    def __init__(self, ledger: "Ledger", sometimes: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._sometimes = sometimes
        self._places: dict[str, list[Span]] = defaultdict(list)
        self._place_at: dict[int, Span] = {}
        self._offers: dict[str, list[Span]] = defaultdict(list)
        self._offer_of: dict[int, Span] = {}
        self._held: dict[str, list[int]] = defaultdict(list)
        self._ended: deque[int] = deque(maxlen=RECENT)
        self._joined: dict[str, list[Recorded]] = defaultdict(list)
        self._of_room: dict[str, list[Recorded]] = defaultdict(list)
        self._agents: list[int] = []
        self._standing: dict[str, tuple[int, list[int]]] = {}

    # The fold.

    def enter(self, entry: Recorded) -> None:
        """Fold an event in."""
        seq, event = entry.seq, entry.event
        match event:
            case AgentCreated():
                self._agents.append(seq)
            case RoomJoined():
                self._joined[self._ledger.privacy.rooms[event.room]].append(entry)
            case LeaseQueued():
                span = self._place_at[seq] = Span(seq, event.ask)
                self._places[event.ask.owner].append(span)
            case LeaseUnqueued():
                self._end(self._place_at, event.place, seq)
            case LeaseGranted():
                self._end(self._place_at, event.place, seq)
                self._end_lease(event.replaces, seq)
                self._held[event.ask.owner].append(seq)
            case LeaseHandedOff():
                self._end_lease(event.previous, seq)
                self._held[event.ask.owner].append(seq)
            case LeaseOffered():
                self._end(self._offer_of, event.epoch, seq)
                span = self._offer_of[event.epoch] = Span(seq, event.epoch)
                self._offers[event.to.name].append(span)
            case LeaseReleased() | LeaseExpired() | LeaseRevoked():
                self._end_lease(event.epoch, seq)
            case _:
                pass
        if isinstance(event, LeaseEvent):
            ask: Ask | None = getattr(event, "ask", None)
            room = event.room_name if ask is None else ask.room_name  # type: ignore[union-attr]  # one or the other
            self._of_room[room].append(entry)

    def _end(self, spans: dict[int, Span], known: int | None, seq: int) -> None:
        if known is not None and known in spans:
            spans.pop(known).end = seq

    def _end_lease(self, epoch: int | None, seq: int) -> None:
        if epoch is not None:
            self._end(self._offer_of, epoch, seq)
            self._ended.append(epoch)

    @property
    def offered(self) -> Container[int]:
        """Leases that are offered to somebody."""
        return self._offer_of

    def lease_seqs(self, room: str, after: int) -> Iterator[int]:
        """Where something happened to leases of a room, behind a seq."""
        entries = self._of_room[room]
        return (entry.seq for entry in entries[bisect_right(entries, after, key=_seq) :])

    # What there is at a seq.

    def _leases(self, agent: str, seq: int) -> dict[int, Term]:
        found = {epoch: self._ledger.terms.all[epoch] for epoch in self._held[agent]}
        self._held[agent] = [epoch for epoch, it in found.items() if it.end is None or it.end > seq - RECENT]
        return {epoch: term for epoch, term in found.items() if term.is_live_at(seq)}

    def _all_leases(self, seq: int) -> Iterator[Term]:
        terms = self._ledger.terms
        for epoch in {*terms.live, *self._ended}:
            term = terms.all.get(epoch)
            if term is not None and term.is_live_at(seq):
                yield term

    def _inbox(self, agent: str, seq: int) -> dict[int, str]:
        """Unacked messages and how each stands, by what became of every one that arrived."""
        upto, known = self._standing.get(agent, (0, []))
        stream = self._ledger.streams[f"@{agent}"]
        known = [*known, *stream[bisect_right(stream, upto) :]]
        found, left = {}, []
        for message in known:
            fate = self._ledger.mail.fate(agent, message, seq)
            early = self._ledger.mail.fate(agent, message, max(0, seq - RECENT))
            if early is None or early.state in ("stored", "delivered", "dead"):
                left.append(message)
            if fate is not None and fate.state in ("stored", "delivered", "dead"):
                found[message] = fate.state
        self._standing[agent] = stream[-1] if stream else 0, left
        return found

    def _is_to_all(self, message: int) -> bool:
        entry = self._ledger.messages.get(message)
        event = None if entry is None else entry.event
        return isinstance(event, MessageSent) and event.room is not None

    def _stuck(self, place: Place, item: Item, seq: int) -> bool:
        return item.status == "blocked" or bool(self._ledger.agenda.missing(place[0], item, seq))

    def _suggested(self, agent: str, room: str, seq: int, held: set[Place]) -> dict[Place, Item]:
        tasks = self._ledger.agenda.tasks_of(room, seq)
        return {
            (room, task): item
            for task, item in tasks.items()
            if item.suggested == agent and item.status not in OVER and (room, task) not in held
        }

    # A digest.

    def require_true(self, agent: str, body: Json, floor: int, reply: Json) -> None:
        """All of a digest is true at the seq that it names. floor: what had been told to anybody before it was asked.
        Raises `Violation`."""
        room, head = body.get("room") or HOME, reply["seq"]
        at = int(reply["cursor"].partition(":")[2])
        told = reply["agent"], reply["room"], reply["since"]
        if not floor <= head <= self._ledger.head or at != head or told != (agent, room, body.get("since")):
            raise Violation(
                "wrong digest", f"{agent} asks for {body} behind {floor}, is told {told}, {head}, {at}", agent
            )
        after = None if body.get("since") is None else int(body["since"].partition(":")[2])
        self._require_asked(agent, body, head, after, reply)
        held = {(it.ask.room_name, it.ask.task) for it in self._leases(agent, head).values()}
        self._require_blocked(agent, body, head, held, reply)
        self._require_own(agent, body, head, held, reply)
        lines = {(line["of"], line.get("since", False)): line for line in reply["rest"]}
        self._require_counts(agent, room, head, {of: line for (of, is_new), line in lines.items() if not is_new})
        self._require_news(agent, room, head, after, {of: line for (of, is_new), line in lines.items() if is_new})
        is_new = after is None or any(line["total"] or line.get("at_least") for of, line in lines.items() if of[1])
        if reply["new"] != is_new:
            raise Violation("wrong digest", f"{agent} is told new={reply['new']} with {reply['rest']}", agent)
        if after is not None and reply["asked"] and any(ask.get("new") for ask in reply["asked"]):
            self._sometimes("a digest told what came since the last one")

    def _require_whole(self, agent: str, reply: Json, name: str, due: int, limit: int) -> None:
        """So many as there are, or as were asked for, unless they would be too large. Raises `Violation`."""
        told = len(reply[name])
        is_cut = told and len(str(reply[name])) > BYTES_SAFE
        if reply[f"{name}_total"] != due or told > min(due, limit) or (told < min(due, limit) and not is_cut):
            text = f"{agent} is told {told} of {reply[f'{name}_total']} {name}, {due} are due: {reply[name]}"
            raise Violation("wrong digest", text, agent)

    def _require_asked(self, agent: str, body: Json, head: int, after: int | None, reply: Json) -> None:
        inbox = self._inbox(agent, head)
        offers = {span.seq: span.what for span in self._offers[agent] if span.is_there(head)}
        unread = {seq for seq, state in inbox.items() if state != "dead" and not self._is_to_all(seq)} | offers.keys()
        self._require_whole(agent, reply, "asked", len(unread), body.get("limit", 50))
        order = []
        for ask in reply["asked"]:
            seq = int(ask["id"][1:])
            entry = self._ledger.messages.get(seq)
            if seq not in unread or entry is None or (ask["kind"] == "offer") != (seq in offers):
                raise Violation("wrong digest", f"{agent} is told of {ask} at {head}; there are {unread}", agent)
            event: Any = entry.event
            priority = event.priority if isinstance(event, MessagePosted | MessageSent) else ask["priority"]
            by = "hub" if not isinstance(event, MessagePosted | MessageSent | LeaseHandedOff) else ask["by"]
            is_new = after is not None and seq > after
            due = priority, entry.at_ms, is_new
            if (ask["priority"], ask["at_ms"], ask.get("new", False)) != due or (by == "hub" and not ask["by"]):
                raise Violation("wrong digest", f"{agent} is told {ask} at {head}; the journal has {entry}", agent)
            if isinstance(event, MessagePosted | MessageSent) and ask["by"] != entry.actor:
                raise Violation("altered", f"{agent} is told {ask}; the journal has {entry}", agent)
            order.append((-RANKS[priority], entry.at_ms))
        if order != sorted(order) or len({ask["id"] for ask in reply["asked"]}) != len(order):
            raise Violation("wrong digest", f"{agent} is told out of order: {reply['asked']}", agent)
        if order and len(order) < len(unread):
            self._sometimes("a digest left out what is less urgent")
            self._require_first(agent, unread, order[-1], reply)
        if offers:
            self._sometimes("a digest told of an offered lease")

    def _require_first(self, agent: str, unread: set[int], last: tuple[int, int], reply: Json) -> None:
        """What was left out is not more urgent than what was told. Raises `Violation`."""
        told = {int(ask["id"][1:]) for ask in reply["asked"]}
        for seq in unread - told:
            entry = self._ledger.messages[seq]
            event = entry.event
            if isinstance(event, MessagePosted | MessageSent) and (-RANKS[event.priority], entry.at_ms) < last:
                raise Violation("wrong digest", f"{agent} is not told of {entry}, before {reply['asked'][-1]}", agent)

    def _require_blocked(self, agent: str, body: Json, head: int, held: set[Place], reply: Json) -> None:
        agenda, room = self._ledger.agenda, body.get("room") or HOME
        places = {(it.what.room_name, it.what.task) for it in self._places[agent] if it.is_there(head)}
        tasks = self._suggested(agent, room, head, held)
        tasks |= {place: item for place in held if (item := agenda.at(place, head)) is not None}
        stuck = {place: item for place, item in tasks.items() if self._stuck(place, item, head)}
        count = sum(it.is_there(head) for it in self._places[agent]) + len(stuck)
        self._require_whole(agent, reply, "blocked", count, body.get("limit", 50))
        for block in reply["blocked"]:
            place = block["room"], block["task"]
            if block["kind"] == "claim":
                is_so = place in places and all(self._is_in_the_way(need, head) for need in block["needs"])
                self._sometimes("a digest told what a claim waits for")
            else:
                item = stuck.get(place)
                missing = {} if item is None else agenda.missing(place[0], item, head)
                needs = {need["task"]: need["status"] for need in block["needs"]}
                is_so = item is not None and (block["status"], block.get("priority", "normal")) == (
                    item.status,
                    item.priority,
                )
                is_so = is_so and needs.items() <= missing.items() and len(needs) == min(NEEDS_SHOWN, len(missing))
                is_so = is_so and block.get("more", False) == (len(missing) > NEEDS_SHOWN)
                self._sometimes("a digest told what a task waits for")
            if not is_so:
                raise Violation("wrong digest", f"{agent} is told {block} at {head}; waiting are {places}, {stuck}")

    def _is_in_the_way(self, need: Json, head: int) -> bool:
        """True when this lease, or who waits with this claim, was there; of a private room of others it has no name."""
        told, private = (need["task"], need["room"], need["owner"]), self._ledger.privacy.of
        if need["status"] == "held":
            term = self._ledger.terms.all.get(need["epoch"])
            asks = [term.ask] if term is not None and term.is_live_at(head) else []
        else:
            spans = self._places.values() if told == MASKED else [self._places[need["owner"]]]
            asks = [span.what for some in spans for span in some if span.is_there(head)]
        if told == MASKED:
            self._sometimes("a digest did not name who holds something in secret")
            return any(private(ask.room_name) is not None for ask in asks)
        return any((ask.task, ask.room_name, ask.owner) == told for ask in asks)

    def _require_own(self, agent: str, body: Json, head: int, held: set[Place], reply: Json) -> None:
        leases, room = self._leases(agent, head), body.get("room") or HOME
        free = {
            place: item
            for place, item in self._suggested(agent, room, head, held).items()
            if not self._stuck(place, item, head)
        }
        self._require_whole(agent, reply, "mine", len(leases) + len(free), body.get("limit", 50))
        for own in reply["mine"]:
            place = own["room"], own["task"]
            if own["kind"] == "lease":
                term = leases.get(own["epoch"])
                item = self._ledger.agenda.at(place, head)
                is_so = term is not None and place == (term.ask.room_name, term.ask.task)
                is_so = is_so and own.get("status") == (None if item is None else item.status)
                self._sometimes("a digest told a lease of mine")
            else:
                item = free.get(place)
                is_so = item is not None and (own["status"], own.get("priority", "normal")) == (
                    item.status,
                    item.priority,
                )
                is_so = is_so and own.get("ready", False) == self._ledger.agenda.is_ready(place, head)
                self._sometimes("a digest told a task for me")
            if not is_so:
                raise Violation(
                    "wrong digest", f"{agent} is told {own} at {head}; it has {leases.keys()}, {free}", agent
                )

    # Counts.

    def _require_line(self, agent: str, of: str, line: Json | None, due: dict[str, int], *, is_cut: bool) -> None:
        """A line of counts is exact; where not all is kept or looked through, it is no more. Raises `Violation`."""
        due = {name: n for name, n in due.items() if n}
        told: dict[str, int] = {} if line is None else line["counts"]
        total, at_least = (0, False) if line is None else (line["total"], line.get("at_least", False))
        shown = sorted(due.items(), key=lambda item: (-item[1], item[0]))[:NAMES_SHOWN]
        if at_least and is_cut:
            is_so = total <= sum(due.values()) and all(n <= due.get(name, 0) for name, n in told.items())
        else:
            is_so = not at_least and list(told.items()) == shown and total == sum(due.values())
        if not is_so:
            raise Violation("wrong count", f"{agent} is told {line}; of {of} there are {shown}, {is_cut}", agent)

    def _require_counts(self, agent: str, room: str, head: int, lines: dict[str, Json]) -> None:
        ledger, inbox = self._ledger, self._inbox(agent, head)
        tasks = ledger.agenda.tasks_of(room, head)
        ready = {task: ledger.agenda.is_ready((room, task), head) for task in tasks}
        sheets = [it for it in ledger.desk.sheets.values() if it.is_open(head)]
        due: Counts = {
            "tasks": Counter("ready" if ready[task] else item.status for task, item in tasks.items()),
            "held": Counter(it.ask.owner for it in self._all_leases(head) if it.ask.room_name == room),
            "unacked": Counter(
                "dead" if state == "dead" else "to all"
                for message, state in inbox.items()
                if state == "dead" or self._is_to_all(message)
            ),
            "questions": {"mine": sum(it.event.asker == agent for it in sheets)},
        }
        for of, counts in due.items():
            line = lines.get(of)
            if of == "questions" and line is not None:
                self._require_answerable(agent, line, len(sheets))
                line = line | {"counts": {n: it for n, it in line["counts"].items() if n == "mine"}}
                line["total"] = sum(line["counts"].values())
            self._require_line(agent, of, line or None if of != "questions" else line, counts, is_cut=False)
        known, told = bisect_right(self._agents, head), lines["agents"]
        if told["total"] != known or not told["counts"].keys() <= {"online", "not online"}:
            raise Violation("wrong count", f"{agent} is told {told}; {known} agents are known", agent)
        for role, count in lines.get("roles", {"counts": {}})["counts"].items():
            waiting = [it for it in ledger.mail.inboxes[f"role:{role}"].values() if not it.is_dead]
            if agent not in ledger.mail.members_at(f"role:{role}", head) or count > len(waiting) + 3:
                raise Violation("wrong count", f"{agent} is told {count} of {role}; {len(waiting)} wait", agent)
        if not lines.keys() <= set(NOW):
            raise Violation("wrong count", f"{agent} is told {lines}", agent)

    def _require_answerable(self, agent: str, line: Json, most: int) -> None:
        if line["counts"].get("to answer", 0) > most or not line["counts"].keys() <= {"mine", "to answer"}:
            raise Violation("wrong count", f"{agent} is told {line}; {most} are open", agent)

    def _require_news(self, agent: str, room: str, head: int, after: int | None, lines: dict[str, Json]) -> None:
        if after is None:
            if lines:
                raise Violation("wrong count", f"{agent} is told {lines}, since nothing", agent)
            return
        due, cut = self._news(agent, room, after, head), self._cut(agent, room, after)
        for of in due.keys() | lines.keys():
            self._require_line(agent, of, lines.get(of), due.get(of, {}), is_cut=cut[of])
            if lines.get(of, {}).get("at_least"):
                self._sometimes("a digest counted what is not all kept any more")
        self._sometimes("a digest went on from a cursor")

    def _news(self, agent: str, room: str, after: int, head: int) -> Counts:
        ledger, streams = self._ledger, self._ledger.streams
        found: Counts = {of: Counter() for of in ("inbox", "messages", "plan", "leases", "values", "came")}
        for seq in _between(streams[f"@{agent}"], after, head):
            entry = ledger.messages[seq]
            if entry.actor != agent:
                found["inbox"][ARRIVALS.get(type(entry.event), "leases")] += 1
        for address in [key for key in streams if key.startswith(f"{room}:")]:
            behind = max(after, ledger.privacy.floor(agent, address, head))
            others = [seq for seq in _between(streams[address], behind, head) if ledger.messages[seq].actor != agent]
            found["messages"][address.partition(":")[2]] = len(others)
        for seq in _between(streams[stream_of(room)], after, head):
            name = self._plan_change(agent, ledger.agenda.events[seq])
            if name is not None:
                found["plan"][name] += 1
        for seq in _between(streams[stream_of_values(room, "")], after, head):
            entry = ledger.shelf.events[seq]
            if entry.actor != agent:
                found["values"][VALUE_CHANGES[type(entry.event)]] += 1
        for entry in _entries(self._of_room[room], after, head):
            if entry.actor != agent:
                found["leases"][to_row(entry).type.partition(".")[2]] += 1
        came = {entry.actor for entry in _entries(self._joined[room], after, head)}
        came |= {ledger.names[seq] for seq in _between(self._agents, after, head)}
        found["came"] = dict.fromkeys(came - {agent}, 1)
        return found

    def _plan_change(self, agent: str, entry: Recorded) -> str | None:
        event = entry.event
        if entry.actor == agent:
            return None
        if isinstance(event, TaskMoved):
            is_mine = event.owner == agent and event.reason in ("claimed", "released")
            return None if is_mine else event.status
        return "ready" if isinstance(event, TasksReady) else "noted" if isinstance(event, TaskNoted) else _word(entry)

    def _cut(self, agent: str, room: str, after: int) -> dict[str, bool]:
        """Where a count may be of a part only: not all is kept, or there is more than is looked through."""
        floor, streams = self._ledger.archive.floor, self._ledger.streams
        rooms = [key for key in streams if key.startswith(f"{room}:")]
        plan, values = [stream_of(room)], [stream_of_values(room, "")]
        keys = {"messages": rooms, "plan": plan, "values": values, "inbox": [f"@{agent}"]}
        floors = keys | {"leases": ["leases"], "values": [f"values {room}"]}
        rows = {
            of: sum(len(streams[it]) - bisect_right(streams[it], after) for it in some) for of, some in keys.items()
        }
        rows["leases"] = sum(len(some) - bisect_right(some, after, key=_seq) for some in self._of_room.values())
        cut = {of: rows[of] >= ROWS_COUNTED or any(floor(it) > after for it in some) for of, some in floors.items()}
        return cut | {"came": False}


def _seq(entry: Recorded) -> int:
    return entry.seq


def _word(entry: Recorded) -> str:
    return to_row(entry).type.partition(".")[2]


def _between(seqs: list[int], after: int, upto: int) -> list[int]:
    return seqs[bisect_right(seqs, after) : bisect_right(seqs, upto)]


def _entries(entries: list[Recorded], after: int, upto: int) -> list[Recorded]:
    return entries[bisect_right(entries, after, key=_seq) : bisect_right(entries, upto, key=_seq)]
