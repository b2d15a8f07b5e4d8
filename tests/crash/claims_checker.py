"""What must be true of a recorded history of claims and the journal that is left at the end.

Pure functions, in the manner of checker.py: the journal's order is the witness order, and nothing of the hub's rules is
used. Whether two scopes overlap is found by listing the files of a small universe that each of them matches.

When an event happened is known within bounds, by the machine's one clock: after the last request was asked whose answer
reflects an earlier position, and before the first answer or notice was read that reflects it or a later one.
"""

import json
import re
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypeAlias

from tests.crash.checker import Finding
from tests.crash.claims_load import BELIEF, ENDED, GRACE_MS, POOL, TTL_MS, UNITS
from tests.crash.history import Frame, Op

from synapse.core.events import (
    Ask,
    Event,
    HubStarted,
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
    Recorded,
)

MS = 1_000_000
LATE_NS_MAX = 15_000 * MS
UNIVERSE = tuple("/".join(path) for depth in (1, 2, 3, 4) for path in product("abcdefxy", repeat=depth))

RULES = {
    "overlap": "two leases that exclude each other were live at one position of the journal",
    "too many units": "more units of a pool were held than it has",
    "two beliefs": "two holders were sure of leases that exclude each other at the same instant",
    "lost": "acknowledged, and not in the journal",
    "altered": "told with another owner, task or scope than the journal has",
    "epoch again": "an epoch was granted twice, or is not larger than those before it",
    "stale accepted": "a mutation was carried out under an epoch that was not live",
    "fenced wrongly": "an epoch was called stale while it was live",
    "refused but applied": "an error was the answer, and the journal has the effect",
    "expired early": "a lease ended before its last confirmation plus its TTL, or plus the grace of its connection",
    "expired late": "a silent holder kept its lease for long",
    "hand-off": "a lease passed on with another scope, or not from a live one",
    "out of line": "a grant stepped past a place that was ahead of it",
    "not live": "an event ends or changes a lease or place that is not there",
    "applied twice": "one key was granted twice",
    "answered differently": "a repeat got another answer than the first",
    "unasked": "in the journal, and nobody asked for it",
    "not durable": "told before it was durable: the journal does not have it",
    "time reversed": "something that came later in real time reflects an earlier position",
    "wrong feed": "the watcher was not told every change once, in the journal's order",
}

LeaseEvent: TypeAlias = (
    LeaseGranted
    | LeaseRenewed
    | LeaseReleased
    | LeaseExpired
    | LeaseRevoked
    | LeaseHandedOff
    | LeaseOffered
    | LeaseParked
    | LeaseResumed
    | LeaseCheckpointed
    | LeaseQueued
    | LeaseUnqueued
)


# The recorded history.


class Told(NamedTuple):
    """A notice, and when it was read."""

    at_ns: int
    agent: str
    frame: Frame


@dataclass(slots=True)
class ClaimHistory:
    """All requests, notices, and where the watcher left."""

    ops: list[Op] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    upto: int | None = None


def load_claims(paths: Iterable[Path]) -> ClaimHistory:
    """Put the files together. A process that was killed may have left half a line."""
    history = ClaimHistory()
    for path in sorted(paths):
        lines: list[Frame] = []
        texts = path.read_text(encoding="utf-8").split("\n")
        for at, text in enumerate(texts):
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                assert at == len(texts) - 1, f"{path.name}: line {at + 1} is torn"
        add_claims(history, path.stem, lines)
    return history


def add_claims(history: ClaimHistory, client: str, lines: Iterable[Frame]) -> None:
    """Add the records of one process."""
    agents: dict[int, str] = {}
    asked: dict[int, Op] = {}
    for line in lines:
        match line["what"]:
            case "open":
                agents[line["conn"]] = line["agent"]
            case "invoke":
                conn, number = line["conn"], line["op"]
                asked[number] = Op(
                    client, agents[conn], conn, number, line["type"], line["key"], line["body"], line["ns"]
                )
            case "ok" | "fail":
                history.ops.append(replace(asked.pop(line["op"]), returned_ns=line["ns"], frame=line["frame"]))
            case "unknown":
                history.ops.append(asked.pop(line["op"]))
            case "notice":
                history.told.append(Told(line["ns"], agents[line["conn"]], line["frame"]))
            case "end":
                history.upto = line["upto"]
            case "close":
                pass
            case what:
                raise AssertionError(f"{client}: no record is called {what}")
    history.ops.extend(asked.values())


# What the journal says.


@cache
def files_of(pattern: str) -> frozenset[str]:
    """The files of the universe that a pattern matches, at least."""
    parts: list[str] = []
    segments = pattern.split("/")
    for at, segment in enumerate(segments):
        is_last = at == len(segments) - 1
        if segment == "**":
            parts.append(".+" if is_last else "(?:[^/]+/)*")
        else:
            text = re.escape(segment).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
            parts.append(text if is_last else text + "/")
    below = "" if re.search(r"[*?]", pattern) else "(?:/.*)?"
    compiled = re.compile("".join(parts) + below)
    return frozenset(path for path in UNIVERSE if compiled.fullmatch(path))


@cache
def files_of_all(paths: tuple[str, ...]) -> frozenset[str]:
    """The files of several patterns."""
    return frozenset().union(*(files_of(path) for path in paths))


@cache
def _share_a_file(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    return not files_of_all(first).isdisjoint(files_of_all(second))


def overlap(a: Ask, b: Ask) -> bool:
    """True when some file is in both scopes."""
    if a.worktree is None or a.worktree != b.worktree:
        return False
    return a.whole or b.whole or _share_a_file(a.paths, b.paths)


def exclude(a: Ask, b: Ask) -> bool:
    """True when the two must not be held at once; pools aside."""
    if a.mode == "shared" and b.mode == "shared":
        return False
    if a.owner == b.owner and a.reentrant and b.reentrant:
        return False
    return (a.room, a.task) == (b.room, b.task) or overlap(a, b)


@dataclass(slots=True)
class Term:
    """The life of one grant: from its epoch to `end`, the seq of the event that ended it."""

    epoch: int
    ask: Ask
    tied: bool
    end: int | None = None
    ended_by: Event | None = None

    def is_live_at(self, seq: int) -> bool:
        """True when it is live after the event at `seq`."""
        return self.epoch <= seq and (self.end is None or seq < self.end)


class Kept(NamedTuple):
    """A checkpoint in the journal."""

    seq: int
    data: object


class Register:
    """The journal at the end: every term and every place, and what is wrong with them."""

    def __init__(self, journal: Sequence[Recorded]) -> None:
        self.journal = journal
        self.events = {recorded.seq: recorded for recorded in journal}
        self.head = journal[-1].seq
        self.terms: dict[int, Term] = {}
        self.queued: dict[int, LeaseQueued] = {}
        self.starts: list[int] = []
        self.kept: dict[int, list[Kept]] = defaultdict(list)
        self.findings: list[Finding] = []
        self.greatest = (0, 0)
        """The most leases and the most places at once."""
        self._live: dict[int, Term] = {}
        self._places: dict[int, LeaseQueued] = {}
        for recorded in journal:
            self._enter(recorded)
            self.greatest = max(self.greatest[0], len(self._live)), max(self.greatest[1], len(self._places))

    def _say(self, rule: str, text: str) -> None:
        self.findings.append(Finding(rule, text))

    def _enter(self, recorded: Recorded) -> None:
        seq, event = recorded.seq, recorded.event
        match event:
            case HubStarted():
                self.starts.append(seq)
            case LeaseGranted():
                self._grant(seq, event)
            case LeaseHandedOff():
                old = self._live.get(event.previous)
                if old is None or _scope(old.ask) != _scope(event.ask) or old.ask.owner != event.sender:
                    self._say("hand-off", f"{seq} hands {event.previous} to {event.ask.owner} from {old}")
                self._end(seq, event.previous, event, event.sender)
                self._begin(seq, event.ask, tied=event.tied)
            case LeaseReleased() | LeaseExpired() | LeaseRevoked():
                self._end(seq, event.epoch, event, event.owner)
            case LeaseRenewed() | LeaseCheckpointed() | LeaseOffered() | LeaseParked() | LeaseResumed():
                if isinstance(event, LeaseCheckpointed):
                    self.kept[event.epoch].append(Kept(seq, json.loads(bytes(event.data))))
                if event.epoch not in self._live or self._live[event.epoch].ask.owner != event.ask.owner:
                    self._say("not live", f"{type(event).__name__} at {seq} is of epoch {event.epoch}")
            case LeaseQueued():
                self.queued[seq] = self._places[seq] = event
            case LeaseUnqueued():
                if self._places.pop(event.place, None) is None:
                    self._say("not live", f"place {event.place} ends at {seq} and is not there")
            case _:
                pass

    def _grant(self, seq: int, event: LeaseGranted) -> None:
        if event.place is not None and self._places.pop(event.place, None) is None:
            self._say("not live", f"{seq} is granted from place {event.place}, which is not there")
        if event.replaces is not None:
            self._end(seq, event.replaces, event, event.ask.owner)
        else:
            for place, waiting in self._places.items():
                if (event.place is None or place < event.place) and exclude(event.ask, waiting.ask):
                    self._say("out of line", f"{event.ask} is granted at {seq} past place {place}: {waiting.ask}")
        self._begin(seq, event.ask, tied=event.tied)

    def _begin(self, seq: int, ask: Ask, *, tied: bool) -> None:
        if self.terms and seq <= max(self.terms):
            self._say("epoch again", f"{seq} is granted after {max(self.terms)}")
        for term in self._live.values():
            if exclude(term.ask, ask):
                self._say("overlap", f"{seq} for {ask} while {term.epoch} is live for {term.ask}")
        self.terms[seq] = self._live[seq] = Term(seq, ask, tied)
        units = Counter[str]()
        for term in self._live.values():
            units.update(dict(term.ask.pools))
        if units[POOL] > UNITS:
            self._say("too many units", f"{units[POOL]} units of {POOL} are held at {seq}")

    def _end(self, seq: int, epoch: int, event: Event, owner: str) -> None:
        term = self._live.pop(epoch, None)
        if term is None or term.ask.owner != owner:
            self._say("not live", f"{type(event).__name__} at {seq} ends {epoch} of {owner}: {term}")
        else:
            term.end, term.ended_by = seq, event

    def run_of(self, seq: int) -> int:
        """The HubStarted before a position."""
        at = bisect_right(self.starts, seq)
        return self.starts[at - 1] if at else self.journal[0].seq

    def holds(self, agent: str, epoch: int, seq: int) -> bool:
        """True when this agent's grant is live after the event at `seq`."""
        term = self.terms.get(epoch)
        return term is not None and term.ask.owner == agent and term.is_live_at(seq)


def _scope(ask: Ask) -> tuple[object, ...]:
    return ask.room, ask.task, ask.worktree, ask.paths, ask.whole, ask.folds, ask.pools, ask.mode


class Witness:
    """When a position was reached, by what was asked and heard."""

    def __init__(self, history: ClaimHistory) -> None:
        asked = sorted((op.frame["seq"], op.invoked_ns) for op in history.ops if op.frame is not None)
        heard = [(op.frame["seq"], op.returned_ns or 0) for op in history.ops if op.frame is not None]
        heard = sorted([*heard, *((told.frame["seq"], told.at_ns) for told in history.told)])
        self._asked_seqs, self._heard_seqs = [seq for seq, _ in asked], [seq for seq, _ in heard]
        self._asked_ns: list[int] = []
        for _, at_ns in asked:
            self._asked_ns.append(max(at_ns, self._asked_ns[-1] if self._asked_ns else 0))
        self._heard_ns: list[int] = [1 << 62]
        for _, at_ns in reversed(heard):
            self._heard_ns.append(min(at_ns, self._heard_ns[-1]))
        self._heard_ns.reverse()

    def after_ns(self, seq: int) -> int:
        """The event at `seq` happened after this."""
        at = bisect_left(self._asked_seqs, seq)
        return self._asked_ns[at - 1] if at else 0

    def before_ns(self, seq: int) -> int:
        """The event at `seq` was durable before this."""
        return self._heard_ns[bisect_left(self._heard_seqs, seq)]


# The rules.


def check_claims(history: ClaimHistory, journal: Sequence[Recorded]) -> list[Finding]:
    """Everything that is wrong; empty when the hub kept its promises."""
    register, witness = Register(journal), Witness(history)
    rules = (
        answers_are_true(history, register),
        fences_stand(history, register),
        effects_were_asked_for(history, register),
        keys_are_granted_once(history, register),
        expiries_are_in_time(history, register, witness),
        beliefs_exclude_each_other(history, register),
        time_goes_forward(history, register),
        the_feed_is_exact(history, register),
    )
    return [*register.findings, *(finding for rule in rules for finding in rule)]


def is_fresh(op: Op) -> bool:
    """An answer that says what was done just then."""
    return op.is_ok and op.frame is not None and not op.frame.get("replayed", False)


def answers_are_true(history: ClaimHistory, register: Register) -> Iterator[Finding]:
    """Each acknowledged effect is in the journal as it was told."""
    for op in history.ops:
        if not op.is_ok:
            continue
        reply = op.reply
        match op.type:
            case "lease.claim":
                term = register.terms.get(reply["epoch"])
                if term is None:
                    yield Finding("lost", f"{op.name} got epoch {reply['epoch']}; the journal has no such grant")
                elif (term.ask.owner, term.ask.task) != (op.agent, op.body["task"]) or _told_scope(
                    reply
                ) != _told_scope_of(term.ask):
                    yield Finding("altered", f"{op.name} was told {reply}; the journal has {term.ask}")
            case "lease.release":
                term = register.terms.get(reply["epoch"])
                if term is None or not isinstance(term.ended_by, LeaseReleased):
                    yield Finding("lost", f"{op.name} released {reply['epoch']}; the journal has {term}")
            case "lease.checkpoint":
                if not any(item.data == op.body["data"] for item in _checkpoints(register, op.body["epoch"])):
                    yield Finding("lost", f"{op.name}: its checkpoint is not in the journal")
            case "lease.hand_off":
                event = _event_at(register, reply["epoch"])
                if reply["outcome"] == "handed_off" and not (
                    isinstance(event, LeaseHandedOff) and event.previous == op.body["epoch"]
                ):
                    yield Finding("lost", f"{op.name} handed off as {reply['epoch']}; the journal has {event}")
            case _:
                pass


def _told_scope(reply: Frame) -> tuple[object, ...]:
    return reply["worktree"], tuple(reply["paths"]), reply["whole_worktree"], reply["pools"], reply["mode"]


def _told_scope_of(ask: Ask) -> tuple[object, ...]:
    return ask.worktree, ask.paths, ask.whole, dict(ask.pools), ask.mode


def _checkpoints(register: Register, epoch: int) -> list[Kept]:
    return register.kept.get(epoch, [])


def _event_at(register: Register, seq: int) -> Event | None:
    recorded = register.events.get(seq)
    return None if recorded is None else recorded.event


def fences_stand(history: ClaimHistory, register: Register) -> Iterator[Finding]:
    """Under a live epoch everything is carried out, under any other nothing."""
    for op in history.ops:
        if op.frame is None or "epoch" not in op.body or op.type == "lease.check":
            continue
        epoch, seq = op.body["epoch"], op.frame["seq"]
        if op.is_refused:
            code = op.frame["error"]["code"]
            is_of_receiver = op.type == "lease.hand_off" and code == "not_found"
            if code in ENDED and not is_of_receiver and register.holds(op.agent, epoch, seq):
                yield Finding("fenced wrongly", f"{op.name}: {code} at {seq}, and {epoch} was live")
            if op.type == "lease.checkpoint" and any(
                item.data == op.body["data"] for item in _checkpoints(register, epoch)
            ):
                yield Finding("refused but applied", f"{op.name} was refused {code}; its checkpoint is in the journal")
        elif is_fresh(op) and op.type == "lease.renew" and not register.holds(op.agent, epoch, seq):
            yield Finding("stale accepted", f"{op.name}: {epoch} was renewed at {seq}: {register.terms.get(epoch)}")
        elif op.is_ok and op.type == "lease.checkpoint":
            kept = [item.seq for item in _checkpoints(register, epoch) if item.data == op.body["data"]]
            if kept and not register.holds(op.agent, epoch, kept[0]):
                yield Finding("stale accepted", f"{op.name}: a checkpoint at {kept[0]} under {epoch}")


def effects_were_asked_for(history: ClaimHistory, register: Register) -> Iterator[Finding]:
    """What an agent did, it had asked for."""
    claims = {(op.agent, op.body["task"], _scope_asked(op.body)) for op in history.ops if op.type == "lease.claim"}
    bare = {(op.agent, op.body["task"]) for op in history.ops if op.type == "lease.claim"}
    under = {(op.type, op.agent, op.body["epoch"]) for op in history.ops if "epoch" in op.body}
    for seq, _, actor, event in register.journal:
        match event:
            case LeaseGranted() | LeaseQueued():
                ask = event.ask
                key = ask.owner, ask.task, (ask.paths, ask.whole, ask.pools, ask.mode)
                is_known = key in claims or (
                    (ask.owner, ask.task) in bare and event.idem is None and _is_inherited(event)
                )
                if not is_known:
                    yield Finding("unasked", f"{ask.owner} never asked for {ask}, at {seq}")
            case LeaseReleased() if ("lease.release", actor, event.epoch) not in under:
                yield Finding("unasked", f"{actor} never released {event.epoch}, at {seq}")
            case LeaseHandedOff() if ("lease.hand_off", event.sender, event.previous) not in under:
                yield Finding("unasked", f"{event.sender} never handed {event.previous} off, at {seq}")
            case LeaseCheckpointed() if ("lease.checkpoint", actor, event.epoch) not in under:
                yield Finding("unasked", f"{actor} left no checkpoint under {event.epoch}, at {seq}")
            case _:
                pass


def _is_inherited(event: LeaseGranted | LeaseQueued) -> bool:
    """A claim of the task alone changes the mode of what is held, and keeps its scope."""
    return isinstance(event, LeaseGranted) and event.replaces is not None


def _scope_asked(body: Frame) -> tuple[object, ...]:
    pools = tuple(sorted(body.get("pools", {}).items()))
    return tuple(body.get("paths", ())), body.get("whole_worktree", False), pools, body.get("mode", "exclusive")


def keys_are_granted_once(history: ClaimHistory, register: Register) -> Iterator[Finding]:
    """One key, one grant, one answer."""
    grants: dict[tuple[str, str], list[int]] = defaultdict(list)
    for seq, _, _, event in register.journal:
        if isinstance(event, LeaseGranted):
            place = register.queued.get(event.place) if event.place is not None else None
            idem = event.idem if place is None else place.idem
            if idem is not None:
                grants[event.ask.owner, idem.key].append(seq)
    for key, seqs in grants.items():
        if len(seqs) > 1:
            yield Finding("applied twice", f"{key} was granted at {seqs}")
    first: dict[tuple[str, str], Op] = {}
    for op in history.ops:
        if op.key is None or not op.is_ok or op.type not in ("lease.claim", "lease.hand_off"):
            continue
        earlier = first.setdefault((op.agent, op.key), op)
        is_granted = (op.agent, op.key) in grants
        if op.reply["epoch"] != earlier.reply["epoch"] and (is_granted or op.type == "lease.hand_off"):
            yield Finding(
                "answered differently", f"{op.name} {op.reply['epoch']}, {earlier.name} {earlier.reply['epoch']}"
            )


def confirmations(history: ClaimHistory) -> dict[int, list[Op]]:
    """By epoch, the requests that were answered with: it is live, and has its full TTL from here."""
    found: dict[int, list[Op]] = defaultdict(list)
    for op in history.ops:
        if is_fresh(op) and op.type in ("lease.claim", "lease.renew"):
            found[op.reply["epoch"]].append(op)
    return found


def expiries_are_in_time(history: ClaimHistory, register: Register, witness: Witness) -> Iterator[Finding]:
    """No lease ends before its time, by its holder's clock; and not long after."""
    confirmed, alive = confirmations(history), alive_at(history)
    for term in register.terms.values():
        event = term.ended_by
        if not isinstance(event, LeaseExpired) or term.end is None:
            continue
        confirms = [op for op in confirmed.get(term.epoch, ()) if op.frame is not None and op.frame["seq"] < term.end]
        begun = max(witness.after_ns(term.epoch), *(op.invoked_ns for op in confirms), 0)
        span_ms = TTL_MS
        if event.reason == "connection":
            span_ms = min(TTL_MS, GRACE_MS)
            if not term.tied:
                yield Finding("expired early", f"{term.epoch} is not tied, and ended with a connection")
            if confirms and not _may_have_moved(term, history):
                last = max(confirms, key=lambda op: op.frame["seq"] if op.frame is not None else 0)
                if alive[last.client, last.connection] > term.end:
                    yield Finding(
                        "expired early", f"{term.epoch} ended with the connection of {last.name}, which lived"
                    )
        else:
            begun = max(begun, witness.after_ns(register.run_of(term.end)))
        ended_ns = witness.before_ns(term.end)
        if ended_ns < begun + span_ms * MS:
            yield Finding("expired early", f"{term.epoch} ended {(ended_ns - begun) // MS} ms after its last {span_ms}")
        if _lateness_ns(register, witness, term, confirms) > LATE_NS_MAX:
            yield Finding("expired late", f"{term.epoch} of {term.ask.owner} ended at {term.end}")


def alive_at(history: ClaimHistory) -> dict[tuple[str, int], int]:
    """By process and connection, the last position at which the hub answered over it."""
    found: dict[tuple[str, int], int] = defaultdict(int)
    for op in history.ops:
        if op.frame is not None:
            found[op.client, op.connection] = max(found[op.client, op.connection], op.frame["seq"])
    return found


def _may_have_moved(term: Term, history: ClaimHistory) -> bool:
    """True when an unanswered request may have tied the lease to another connection."""
    return any(
        op.frame is None and op.agent == term.ask.owner and op.body.get("task") == term.ask.task for op in history.ops
    )


def _lateness_ns(register: Register, witness: Witness, term: Term, confirms: Sequence[Op]) -> int:
    assert term.end is not None
    known = [witness.before_ns(term.epoch), witness.before_ns(register.run_of(term.end))]
    last_ns = max(*known, *(op.returned_ns or 0 for op in confirms))
    return witness.before_ns(term.end) - last_ns - TTL_MS * MS


def latest_expiry_ms(history: ClaimHistory, journal: Sequence[Recorded]) -> int:
    """How long after its time the last lease to lapse did, as far as anybody could tell."""
    register, witness, confirmed = Register(journal), Witness(history), confirmations(history)
    late = [0]
    for term in register.terms.values():
        if isinstance(term.ended_by, LeaseExpired) and term.ended_by.reason == "ttl" and term.end is not None:
            confirms = [op for op in confirmed.get(term.epoch, ()) if op.frame and op.frame["seq"] < term.end]
            late.append(_lateness_ns(register, witness, term, confirms))
    return max(late) // MS


class Belief(NamedTuple):
    """From start to end a holder could be sure of a lease."""

    start_ns: int
    end_ns: int
    term: Term


def beliefs(history: ClaimHistory, register: Register) -> list[Belief]:
    """From each confirmation, until nine tenths of the TTL after it was asked for, or until the holder gave it away."""
    given: dict[int, int] = {}
    for op in history.ops:
        if op.type in ("lease.release", "lease.hand_off"):
            epoch = op.body["epoch"]
            given[epoch] = min(given.get(epoch, 1 << 62), op.invoked_ns)
    found: list[Belief] = []
    for epoch, ops in confirmations(history).items():
        term = register.terms.get(epoch)
        for op in ops if term is not None else ():
            assert op.returned_ns is not None
            assert term is not None
            span_ms = min(TTL_MS, GRACE_MS) if term.tied else TTL_MS
            end_ns = min(op.invoked_ns + int(span_ms * MS * BELIEF), given.get(epoch, 1 << 62))
            if term.ended_by is not None and isinstance(term.ended_by, LeaseGranted):
                end_ns = min(end_ns, op.returned_ns)  # replaced by the same agent, which knows
            if op.returned_ns < end_ns:
                found.append(Belief(op.returned_ns, end_ns, term))
    return sorted(found, key=lambda belief: belief.start_ns)


def beliefs_exclude_each_other(history: ClaimHistory, register: Register) -> Iterator[Finding]:
    """At no instant two holders are sure of what only one can have."""
    active: list[Belief] = []
    for belief in beliefs(history, register):
        active = [other for other in active if other.end_ns > belief.start_ns]
        for other in active:
            if other.term is not belief.term and exclude(other.term.ask, belief.term.ask):
                text = (
                    f"{other.term.epoch} of {other.term.ask.owner} and {belief.term.epoch} of {belief.term.ask.owner}"
                )
                yield Finding("two beliefs", text)
        active.append(belief)


def time_goes_forward(history: ClaimHistory, register: Register) -> Iterator[Finding]:
    """What was heard before something was asked is in the journal, and reflected in the answer."""
    known = [(op.returned_ns or 0, op.frame["seq"], op.name) for op in history.ops if op.frame is not None]
    known += [(told.at_ns, told.frame["seq"], told.agent) for told in history.told]
    known.sort()
    for _, seq, who in known:
        if seq > register.head:
            yield Finding("not durable", f"{who} was told {seq}; the journal ends at {register.head}")
    newest, at = 0, 0
    for op in sorted(history.ops, key=lambda op: op.invoked_ns):
        while at < len(known) and known[at][0] < op.invoked_ns:
            newest = max(newest, known[at][1])
            at += 1
        if op.frame is not None and op.frame["seq"] < newest:
            yield Finding("time reversed", f"{op.name} reflects {op.frame['seq']}; {newest} was known before")


def the_feed_is_exact(history: ClaimHistory, register: Register) -> Iterator[Finding]:
    """The watcher heard of every event about leases, once, in order."""
    opened = sorted(
        (op for op in history.ops if op.type == "feed.subscribe" and op.is_ok), key=lambda op: op.invoked_ns
    )
    if not opened:
        return
    start = int(opened[0].reply["from_cursor"].partition(":")[2])
    upto = register.head if history.upto is None else history.upto
    due = [entry for entry in register.journal if start < entry.seq <= upto and isinstance(entry.event, LeaseEvent)]
    heard = [told.frame for told in sorted(history.told, key=lambda told: told.at_ns)]
    heard = [frame for frame in heard if frame["type"] == "lease.changed"]
    for frame, entry in zip(heard, due, strict=False):
        owner = entry.event.ask.owner if hasattr(entry.event, "ask") else getattr(entry.event, "owner", None)
        if (frame["seq"], frame["body"]["by"], frame["body"]["owner"]) != (entry.seq, entry.actor, owner):
            yield Finding("wrong feed", f"the watcher was told {frame} instead of {entry}")
            return
    if len(heard) != len(due):
        yield Finding("wrong feed", f"the watcher was told {len(heard)} of {len(due)} changes")
