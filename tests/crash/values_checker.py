"""What must be true of shared values in a recorded history and the journal that is left at the end.

Each reply names the seq that it reflects, so what was read is held against what the journal had made of the key by
then. Those who count show the version that they have read: so each number follows from the one before it, or an update
is lost.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
from tests.crash.checker import Finding
from tests.crash.history import Frame, History, Op

from synapse.core.events import Recorded
from synapse.core.value_events import ValueDeleted, ValuePut

RULES = {
    "lost": "acknowledged, and not in the journal",
    "altered": "told with another value, version or sender than the journal has",
    "refused but applied": "an error was the answer, and the journal has the effect, of this request or under its key",
    "applied twice": "one request, two effects",
    "unasked": "in the journal, and nobody asked for it",
    "lost update": "a value was replaced or removed that was not the one that was read",
    "wrong value": "a value was read that was not there at the position that the answer reflects",
    "conflict of nothing": "refused for another version than the journal has at that position",
}


LAWFUL = ("not_found", "version_conflict")
"""What a value is refused for that is not as expected; other refusals come before anything is looked up."""


class Kept(NamedTuple):
    """What a key is from `seq` on. value: None when it is gone."""

    seq: int
    value: Frame | None


class Shelf:
    """The values of the journal, by key and position; the loads' values have no end."""

    def __init__(self, journal: Sequence[Recorded]) -> None:
        self.kept: dict[str, list[Kept]] = defaultdict(list)
        self.puts: dict[str, list[Recorded]] = defaultdict(list)
        self.removals: dict[int, Recorded] = {}
        self.findings: list[Finding] = []
        self.effects: dict[tuple[str, str], int] = {}
        for recorded in journal:
            event = recorded.event
            if event.idem is not None:
                self.effects[recorded.actor, event.idem.key] = recorded.seq
            if isinstance(event, ValuePut):
                self._put(recorded, event)
            elif isinstance(event, ValueDeleted):
                self._require(recorded, event.key, event.version)
                self.removals[recorded.seq] = recorded
                self.kept[event.key].append(Kept(recorded.seq, None))

    def _put(self, recorded: Recorded, event: ValuePut) -> None:
        before, value = self.at(event.key, recorded.seq), msgspec.json.decode(event.value, type=Frame)
        self._require(recorded, event.key, event.replaces or 0)
        last = 0 if before.value is None else before.value["count"]
        if value["count"] != last + 1:
            text = f"{recorded.actor} counts {event.key} from {last} to {value['count']} at {recorded.seq}"
            self.findings.append(Finding("lost update", text))
        self.puts[value["mark"]].append(recorded)
        self.kept[event.key].append(Kept(recorded.seq, value))

    def _require(self, recorded: Recorded, key: str, version: int) -> None:
        before = self.at(key, recorded.seq)
        if version != (0 if before.value is None else before.seq):
            text = f"{recorded.actor} changes {version} of {key} at {recorded.seq}; there is {before}"
            self.findings.append(Finding("lost update", text))

    def at(self, key: str, seq: int) -> Kept:
        """What the journal had made of a key up to a position."""
        kept = self.kept[key]
        index = bisect_right(kept, seq, key=lambda item: item.seq)
        return kept[index - 1] if index else Kept(0, None)


def check_values(history: History, journal: Sequence[Recorded]) -> list[Finding]:
    """Everything that is wrong with values; empty when the hub kept its promises."""
    shelf = Shelf(journal)
    asked: dict[str, list[Op]] = defaultdict(list)
    for op in history.ops:
        if op.type == "value.put":
            asked[op.body["value"]["mark"]].append(op)
    findings = list(shelf.findings)
    findings += [finding for op in history.ops for finding in _told_rightly(op, shelf)]
    findings += _asked_for(asked, shelf)
    return findings


def _asked_for(asked: dict[str, list[Op]], shelf: Shelf) -> Iterator[Finding]:
    for mark, puts in shelf.puts.items():
        seqs = [recorded.seq for recorded in puts]
        ops = [op for op in asked.get(mark, ()) if op.agent == puts[0].actor]
        if not ops:
            yield Finding("unasked", f"{puts[0].actor} never put {mark}, which stands at {seqs}")
        elif all(op.is_refused for op in ops):
            yield Finding("refused but applied", f"{ops[0].name}: {mark} stands at {seqs}")
        if len(puts) > 1:
            yield Finding("applied twice", f"{mark} stands at {seqs}")


def _told_rightly(op: Op, shelf: Shelf) -> Iterator[Finding]:
    if op.frame is None or not op.type.startswith("value."):
        return
    key, seq = op.body["key"], op.frame["seq"]
    there = shelf.at(key, seq)
    if op.is_refused:
        error = op.frame["error"]
        if op.key is not None and error["code"] in LAWFUL and shelf.effects.get((op.agent, op.key), seq + 1) <= seq:
            yield Finding("refused but applied", f"{op.name} at {seq}: {error}; its key {op.key} had its effect")
        version = {"not_found": 0, "version_conflict": error["facts"].get("version")}.get(error["code"], -1)
        if version not in (-1, 0 if there.value is None else there.seq):
            yield Finding("conflict of nothing", f"{op.name} at {seq}: {error}; there is {there}")
        return
    reply = op.reply
    match op.type:
        case "value.get":
            if (reply["version"], reply["value"]) != there:
                yield Finding("wrong value", f"{op.name} reads {reply} at {seq}; there is {there}")
        case "value.put":
            puts = [recorded.seq for recorded in shelf.puts.get(op.body["value"]["mark"], ())]
            if reply["version"] not in puts:
                yield Finding("lost", f"{op.name} was answered {reply}; it stands at {puts}")
            elif (reply["key"], reply["value"], reply["updated_by"]) != (key, op.body["value"], op.agent):
                yield Finding("altered", f"{op.name} put {op.body}, and was answered {reply}")
        case "value.delete":
            gone = [recorded for recorded in shelf.removals.values() if _removes(recorded, op)]
            if not gone:
                yield Finding("lost", f"{op.name} removed {reply}; the journal has no such removal")


def _removes(recorded: Recorded, op: Op) -> bool:
    event = recorded.event
    assert isinstance(event, ValueDeleted)
    return (recorded.actor, event.key, event.version) == (op.agent, op.body["key"], op.reply["version"])
