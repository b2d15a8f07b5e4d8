"""What must be true of work sessions in a recorded history and the journal that is left at the end.

Who appends a decision shows the version that it read, and numbers the decision by those that it saw. So each number
follows from the one before it, or an update is lost; and a version that is told is that of the last change.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
from tests.crash.checker import Finding, reflects
from tests.crash.effects_checker import number_of
from tests.crash.history import Frame, History, Op

from synapse.core.events import Recorded
from synapse.core.session_events import SessionCheckpointed, SessionEnded, SessionStarted, SessionUpdated

RULES = {
    "lost update": "a decision does not follow from the one before it",
    "wrong number": "the checkpoints of a session are not numbered 1 to N",
    "after its end": "something became of a session that had ended, or had never begun",
    "foreign": "a session was changed by somebody else",
    "version back": "told with another version than that of its last change by the position of the answer",
    "checkpoint lost": "told with another last checkpoint, or a page of others, than the journal has by then",
    "wrong session": "told with another state, or with other decisions, than the journal has by then",
}


@dataclass(slots=True)
class Kept:
    """A session. changes: the seqs that are its versions, its start first. ended: where; 0 while it goes on."""

    owner: str
    changes: list[int]
    decisions: list[tuple[int, str]] = field(default_factory=list)
    points: list[tuple[int, object]] = field(default_factory=list)
    ended: int = 0

    def version(self, seq: int) -> int:
        """Its version by that position; 0 before its start."""
        index = bisect_right(self.changes, seq)
        return self.changes[index - 1] if index else 0

    def decided(self, seq: int) -> list[str]:
        return [text for at, text in self.decisions if at <= seq]

    def saved(self, seq: int) -> list[tuple[int, object]]:
        """Its checkpoints by that position, newest first."""
        return [point for point in reversed(self.points) if point[0] <= seq]


@dataclass(slots=True)
class Sessions:
    """The fold of the journal. dropped: those that left the hub's state because there were so many."""

    by_id: dict[int, Kept] = field(default_factory=dict)
    dropped: set[int] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)

    def find(self, rule: str, text: str) -> None:
        self.findings.append(Finding(rule, text))


def folded(journal: Sequence[Recorded]) -> Sessions:
    """What the journal says of sessions, event by event."""
    found = Sessions()
    for recorded in journal:
        event, seq = recorded.event, recorded.seq
        if isinstance(event, SessionStarted):
            found.by_id[seq] = Kept(event.owner, [seq])
        elif isinstance(event, SessionUpdated | SessionCheckpointed | SessionEnded):
            _change(found, recorded, event)
    return found


def _change(found: Sessions, recorded: Recorded, event: SessionUpdated | SessionCheckpointed | SessionEnded) -> None:
    seq, kept = recorded.seq, found.by_id.get(event.session)
    if kept is None or kept.ended:
        found.find("after its end", f"{recorded}; there is {kept}")
        return
    if recorded.actor != kept.owner:
        found.find("foreign", f"{recorded.actor} changed s{event.session} of {kept.owner} at {seq}")
    if isinstance(event, SessionCheckpointed):
        kept.points.append((seq, msgspec.json.decode(event.data)))
        if event.n != len(kept.points):
            found.find("wrong number", f"checkpoint {event.n} of s{event.session} at {seq}; {len(kept.points)} is due")
        return
    kept.changes.append(seq)
    if isinstance(event, SessionEnded):
        kept.ended = seq
        found.dropped.update(event.dropped)
        return
    for line in event.decisions:
        kept.decisions.append((seq, line))
        if line.partition(" ")[0] != str(len(kept.decisions)):
            found.find("lost update", f"s{event.session} at {seq}: {line} is decision {len(kept.decisions)}")


def check_sessions(history: History, journal: Sequence[Recorded]) -> list[Finding]:
    """Everything that is wrong with sessions; empty when the hub kept its promises."""
    sessions = folded(journal)
    findings = list(sessions.findings)
    findings += [finding for op in history.ops for finding in _told_rightly(op, sessions)]
    return findings


def _told_rightly(op: Op, sessions: Sessions) -> Iterator[Finding]:
    if op.frame is None or not op.type.startswith("session."):
        return
    seq = reflects(op)
    if op.is_refused:
        error = op.frame["error"]
        kept = sessions.by_id.get(number_of(op.body.get("session", 0)))
        if error["code"] == "version_conflict" and (kept is None or kept.version(seq) != error["facts"]["version"]):
            yield Finding("version back", f"{op.name} at {seq}: {error}; there is {kept}")
        named = number_of(op.body.get("session", 0))
        if error["code"] == "not_found" and named <= seq and named in sessions.by_id.keys() - sessions.dropped:
            yield Finding("wrong session", f"{op.name} at {seq} is told that there is none: {error}")
        return
    match op.type:
        case "session.show":
            yield from _is_as_told(op, op.reply, sessions, seq)
        case "session.list":
            for told in op.reply["sessions"]:
                yield from _is_as_told(op, told, sessions, seq)
        case "session.checkpoints":
            yield from _page_is_exact(op, sessions, seq)
        case "session.start" | "session.update" | "session.end":
            kept, at = sessions.by_id.get(number_of(op.reply["session"])), number_of(op.reply["version"])
            if kept is None or at not in kept.changes or len(kept.decided(at)) != op.reply["decisions"]:
                yield Finding("wrong session", f"{op.name} is told {op.reply}; there is {kept}")
        case _:
            pass


def _is_as_told(op: Op, told: Frame, sessions: Sessions, seq: int) -> Iterator[Finding]:
    kept = sessions.by_id.get(number_of(told["session"]))
    if kept is None or told["version"] != kept.version(seq):
        yield Finding("version back", f"{op.name} at {seq} is told version {told['version']}; there is {kept}")
        return
    is_over = 0 < kept.ended <= seq
    decided = kept.decided(seq)
    if (told["ended_at_ms"] is not None) != is_over or told.get("decisions", decided) != decided:
        yield Finding("wrong session", f"{op.name} at {seq} is told {told}; there is {kept}")
    saved = kept.saved(seq)
    last = told.get("last", False)
    point = None if not last else (last["checkpoint"], last["data"])
    if told["counts"]["checkpoints"] != len(saved) or (last is not False and point != (saved[0] if saved else None)):
        yield Finding("checkpoint lost", f"{op.name} at {seq} is told {last} of {told['counts']}; there is {saved[:1]}")


def _page_is_exact(op: Op, sessions: Sessions, seq: int) -> Iterator[Finding]:
    kept = sessions.by_id.get(number_of(op.body["session"]))
    saved = [] if kept is None else kept.saved(seq)[: op.body["limit"]]
    told = [(point["checkpoint"], point["data"]) for point in op.reply["checkpoints"]]
    if told != saved:
        yield Finding("checkpoint lost", f"{op.name} at {seq} is told {told}; there are {saved}")
