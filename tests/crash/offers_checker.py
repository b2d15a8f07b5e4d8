"""What must be true of resources and cards in a recorded history and the journal that is left at the end: what is told
of them is what the journal had made of them by the position of the answer."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import msgspec
from tests.crash.checker import Finding, reflects
from tests.crash.history import Frame, History, Op

from synapse.core.card_events import AgentDescribed
from synapse.core.events import AgentCreated, Recorded
from synapse.core.resource_events import ResourceExpired, ResourceOffered, ResourceWithdrawn

RULES = {
    "wrong offer": "told with another offer than the journal has, or without it, or of one that had ended",
    "wrong card": "told with another card than the journal has",
    "foreign": "an offer was changed by somebody else",
}

Told: TypeAlias = tuple[object, ...]
NOTHING: Told = ()


class Shelf:
    """The fold of the journal: by name, what there is from which seq on. NOTHING: no offer, or nothing said."""

    def __init__(self, journal: Sequence[Recorded]) -> None:
        self.offers: dict[str, list[tuple[int, Told]]] = defaultdict(list)
        self.cards: dict[str, list[tuple[int, Told]]] = defaultdict(list)
        self.findings: list[Finding] = []
        names: dict[int, str] = {}
        for recorded in journal:
            event, seq = recorded.event, recorded.seq
            match event:
                case AgentCreated():
                    names[seq] = event.name
                case AgentDescribed():
                    told = (event.card.description, [skill.id for skill in event.card.skills])
                    self.cards[names[event.agent]].append((seq, told))
                    if recorded.actor != names[event.agent]:
                        self._foreign(recorded, names[event.agent])
                case ResourceOffered():
                    before = at(self.offers[event.name], seq)
                    if recorded.actor != event.owner or (before and before[0] != event.owner):
                        self._foreign(recorded, event.owner)
                    data = msgspec.json.decode(event.data)
                    self.offers[event.name].append((seq, (event.owner, event.capacity, data)))
                case ResourceWithdrawn() | ResourceExpired():
                    before = at(self.offers[event.name], seq)
                    if not before or (isinstance(event, ResourceWithdrawn) and recorded.actor != before[0]):
                        self._foreign(recorded, event.owner)
                    self.offers[event.name].append((seq, NOTHING))
                case _:
                    pass

    def _foreign(self, recorded: Recorded, owner: str) -> None:
        self.findings.append(Finding("foreign", f"{recorded} is of {owner}"))


def at(history: list[tuple[int, Told]], seq: int) -> Told:
    """What there was at a position."""
    index = bisect_right(history, seq, key=lambda item: item[0])
    return history[index - 1][1] if index else NOTHING


def check_offers(history: History, journal: Sequence[Recorded]) -> list[Finding]:
    """Everything that is wrong with resources and cards; empty when the hub kept its promises."""
    shelf = Shelf(journal)
    return [*shelf.findings, *(finding for op in history.ops for finding in _told_rightly(op, shelf))]


def _told_rightly(op: Op, shelf: Shelf) -> Iterator[Finding]:
    if op.frame is None:
        return
    seq = reflects(op)
    is_gone = op.type == "resource.withdraw" and (op.is_ok or op.frame["error"]["code"] == "not_found")
    if is_gone and at(shelf.offers[op.body["resource"]], seq):
        yield Finding("wrong offer", f"{op.name} at {seq} is told that there is none: {op.frame}")
    if not op.is_ok:
        return
    reply = op.reply
    match op.type:
        case "resource.list":
            told = {found["resource"]: _offer(found) for found in reply["resources"] if found["status"] == "offered"}
            there = {name: at(kept, seq) for name, kept in shelf.offers.items()}
            due = {name: offer for name, offer in there.items() if offer and offer[0] == op.body["owner"]}
            if told != due:
                yield Finding("wrong offer", f"{op.name} at {seq} is told {told}; there is {due}")
        case "card.get" | "card.set":
            is_repeat = bool(op.frame.get("replayed"))
            card = at(shelf.cards[reply["name"]], seq) or (None, [])
            told_card = (reply["description"], [skill["id"] for skill in reply["skills"]])
            if told_card != card and not is_repeat:
                yield Finding("wrong card", f"{op.name} at {seq} is told {told_card}; there is {card}")
        case _:
            pass


def _offer(found: Frame) -> Told:
    return (found["owner"], found["capacity"], found["data"])
