"""Cards, what agents lend to each other, and signals, as they must be told: plain lists of what was said and when.

An offer stands from its event until it ends by its owner or by its date; from then on nobody is granted a unit of it.
Signals are in no journal: each connection is told them in order, and what it was not told is counted by the next one.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from tests.simulation.agenda import Past
from tests.simulation.terms import LATE_MS_MAX, Terms, Violation

from synapse.core.card_events import AgentDescribed
from synapse.core.events import LeaseGranted, MessagePosted, Recorded
from synapse.core.resource_events import ResourceEvent, ResourceExpired, ResourceOffered, ResourceWithdrawn

Json: TypeAlias = dict[str, Any]
KINDS: Final = ("resource.", "card.", "signal.")
ANSWERED_MS: Final = 60_000
"""Within this time a request is answered."""
RECENT_MAX: Final = 100
"""So many signals of a channel the hub keeps at most."""


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer that stands, or stood."""

    owner: str
    capacity: int
    kind: str
    expires_at_ms: int | None
    status: str = "offered"


@dataclass(slots=True)
class Followed:
    """What one connection was told of signals: the last number by channel, and how many it was told that it missed."""

    last: dict[str, int] = field(default_factory=dict)
    gaps: int = 0
    missed: int = 0


class Market:
    """All offers, cards and signals. names: of agents by id. ephemeral: channels of which nothing is kept."""

    def __init__(
        self, terms: Terms, names: dict[int, str], ephemeral: set[str], sometimes: Callable[[str], None]
    ) -> None:
        self.ephemeral = ephemeral
        self.signals = 0
        self._offers: dict[str, Past] = defaultdict(Past)
        self._cards: dict[str, Past] = defaultdict(Past)
        self._late_since_ms: dict[tuple[str, int], int] = {}
        self._asked: set[tuple[str, str, str]] = set()
        self._described: set[tuple[str, str]] = set()
        self._said: dict[str, tuple[str, str]] = {}
        self._numbered: dict[str, dict[int, str]] = defaultdict(dict)
        self._followed: dict[int, Followed] = defaultdict(Followed)
        self._terms = terms
        self._names = names
        self._sometimes = sometimes

    # What was asked for.

    def ask(self, kind: str, agent: str, body: Json) -> None:
        """The hub is about to hear this."""
        match kind:
            case "resource.offer" | "resource.withdraw":
                self._asked.add((kind, agent, body["resource"]))
            case "card.set":
                self._described.add((agent, body["description"]))
            case "message.send" if body.get("channel") in self.ephemeral:
                self._said[body["body"]] = agent, body["channel"]
            case _:
                pass

    # The fold.

    def enter(self, entry: Recorded) -> None:
        """Fold an event in, of whatever kind. Raises `Violation`."""
        event = entry.event
        match event:
            case _ if isinstance(event, ResourceEvent):
                self._change(entry, event)
            case AgentDescribed():
                name, said = self._names[event.agent], event.card.description or ""
                if name != entry.actor or (name, said) not in self._described:
                    raise Violation("unasked", f"{name} never said of itself what {entry.seq} is: {event}", name)
                self._cards[name].become(entry.seq, said)
                self._sometimes("a card was changed")
            case LeaseGranted() if event.replaces is None:
                self._require_standing(entry, event)
            case MessagePosted() if event.address in self.ephemeral:
                raise Violation("kept", f"{entry.seq} keeps what was said in {event.address}", entry.actor)
            case _:
                pass

    def _last(self, name: str) -> Offer | None:
        past = self._offers.get(name)
        found: Offer | None = past.then[-1] if past is not None and past.then else None
        return found

    def offered_by(self, agent: str) -> list[str]:
        """What an agent lends."""
        found = ((name, self._last(name)) for name in self._offers)
        return [name for name, it in found if it is not None and (it.owner, it.status) == (agent, "offered")]

    def _change(self, entry: Recorded, event: ResourceEvent) -> None:
        seq, actor, old = entry.seq, entry.actor, self._last(event.name)
        is_standing = old is not None and old.status == "offered"
        match event:
            case ResourceOffered():
                if ("resource.offer", actor, event.name) not in self._asked or event.owner != actor:
                    raise Violation("unasked", f"{actor} never offered what {seq} is: {event}", actor)
                if is_standing and old is not None and old.owner != actor:
                    raise Violation("foreign", f"{actor} offers {event.name} of {old.owner} at {seq}", actor, old.owner)
                offer = Offer(actor, event.capacity, event.kind, event.expires_at_ms)
                self._offers[event.name].become(seq, offer)
                self._terms.capacity[event.name] = event.capacity
                self._sometimes("something was offered anew" if is_standing else "something was offered")
                return
            case ResourceExpired():
                date = None if old is None else old.expires_at_ms
                if not is_standing or date is None or entry.at_ms < date:
                    raise Violation("expired early", f"{event} at {seq}, {entry.at_ms} ms: {old}", event.owner)
                status = "expired"
            case ResourceWithdrawn():
                if not is_standing or ("resource.withdraw", actor, event.name) not in self._asked:
                    raise Violation("unasked", f"{actor} never withdrew what {seq} is: {event}; {old}", actor)
                status = "withdrawn"
        assert old is not None, "it stood"
        self._sometimes(f"an offer ended: {status}")
        self._offers[event.name].become(seq, Offer(old.owner, old.capacity, old.kind, old.expires_at_ms, status))

    def _require_standing(self, entry: Recorded, event: LeaseGranted) -> None:
        for name, _ in event.ask.pools:
            offer = self._last(name)
            if offer is None:
                continue
            is_over = offer.expires_at_ms is not None and offer.expires_at_ms <= entry.at_ms
            if offer.status != "offered" or (is_over and event.place is None):
                raise Violation("not offered", f"{entry.seq} grants {event.ask} at {entry.at_ms} ms: {offer}", name)
            self._sometimes("what is lent was taken")

    # What is told.

    def require_true(self, agent: str, kind: str, body: Json, reply: Json) -> None:
        """An answer is what was so at its position. Raises `Violation`."""
        position = int((reply.get("cursor") or ":0").partition(":")[2])
        match kind:
            case "resource.list" if not (body.get("kind") or body.get("owner") or body.get("after") or reply["next"]):
                self._require_list(agent, position, reply)
            case "card.list":
                for card in reply["cards"]:
                    self._require_card(agent, card, position)
            case "card.show":
                self._require_card(agent, reply, position)
            case "signal.recent":
                self._require_recent(agent, f"{reply['room']}:{reply['channel']}", reply)
            case _:
                pass

    def _require_list(self, agent: str, seq: int, reply: Json) -> None:
        """What stands is listed, and nothing that never stood; what is past its date may be called expired."""
        offers = {name: past.upto(seq) for name, past in self._offers.items()}
        every = {name: (it.owner, it.capacity, it.kind, it.status) for name, it in offers.items() if it}
        told = {it["resource"]: (it["owner"], it["capacity"], it["kind"], it["status"]) for it in reply["resources"]}
        clock = self._terms.clock
        _, latest_ms = clock.wall_range_ms(max(0, clock.now_ms - ANSWERED_MS))
        for name, (*what, status) in told.items():
            date = offers[name].expires_at_ms if offers.get(name) else None
            if status == "expired" and date is not None and date <= latest_ms:
                every[name] = (*every[name][:3], "expired")
            if every.get(name) != (*what, status):
                raise Violation("wrong list", f"{agent} is told {told} at {seq}; there is {every}", agent)
        if {name for name, it in every.items() if it[3] == "offered"} - told.keys():
            raise Violation("wrong list", f"{agent} is told {told} at {seq}; there is {every}", agent)

    def _require_card(self, agent: str, card: Json, seq: int) -> None:
        past = self._cards.get(card["name"])
        due = None if past is None else past.upto(seq)
        if card.get("description") != due:
            raise Violation("altered", f"{agent} is told {card} at {seq}; it said {due!r}", agent, card["name"])

    # Signals.

    def sent(self, agent: str, channel: str, body: object, reply: Json) -> None:
        """A signal was taken in, or there were too many of them. Raises `Violation`."""
        if reply.get("dropped"):
            self._sometimes("a signal was too much for one turn")
            return
        self._number(agent, channel, reply["n"], str(body))
        self.signals += 1

    def _number(self, agent: str, channel: str, n: int, body: str) -> None:
        if self._numbered[channel].setdefault(n, body) != body:
            text = f"{channel} {n} is {body[:40]!r} for {agent}, and was {self._numbered[channel][n][:40]!r}"
            raise Violation("altered", text, agent)

    def told(self, agent: str, link: int, body: Json) -> None:
        """A signal is told to who follows. Raises `Violation`."""
        channel, n, said = f"{body['room']}:{body['channel']}", body["n"], body["body"]
        if self._said.get(said) != (body["from"], channel):
            raise Violation("unasked", f"{agent} is told {body}, which nobody said there", agent)
        self._number(agent, channel, n, said)
        followed = self._followed[link]
        last = followed.last.get(channel)
        if last is not None and n <= last:
            raise Violation("repeated", f"{agent} is told {n} of {channel} after {last}", agent)
        followed.gaps += 0 if last is None else n - last - 1
        followed.missed += body.get("dropped", 0)
        followed.last[channel] = n
        if followed.gaps > followed.missed:
            raise Violation("not counted", f"{agent} missed {followed.gaps} and was told of {followed.missed}", agent)
        if body.get("dropped"):
            self._sometimes("what was missed of signals was counted")
        self._sometimes("a signal was told")

    def _require_recent(self, agent: str, channel: str, reply: Json) -> None:
        numbers = [signal["n"] for signal in reply["signals"]]
        if len(numbers) > RECENT_MAX or numbers != list(
            range(numbers[0], numbers[0] + len(numbers)) if numbers else []
        ):
            raise Violation("wrong page", f"{agent} is told {numbers} of {channel}", agent)
        for signal in reply["signals"]:
            self._number(agent, channel, signal["n"], signal["body"])

    def lose(self, link: int) -> None:
        """A connection is gone."""
        self._followed.pop(link, None)

    def restart(self) -> None:
        """A new process of the hub counts signals from one."""
        self._followed.clear()
        self._numbered.clear()

    # Now and then.

    def check_times(self) -> None:
        """What is past its date is offered no more. Raises `Violation`."""
        clock = self._terms.clock
        active_ms, wall_ms = clock.now_ms - clock.excused_ms, clock.wall_ms()
        late: dict[tuple[str, int], int] = {}
        for name in self._offers:
            offer = self._last(name)
            if offer is None or offer.status != "offered" or not 0 < (offer.expires_at_ms or 0) <= wall_ms:
                continue
            key = name, offer.expires_at_ms or 0
            late[key] = self._late_since_ms.get(key, active_ms)
            if active_ms - late[key] > LATE_MS_MAX:
                raise Violation("expired late", f"{name} is still offered at {wall_ms}: {offer}", offer.owner)
        self._late_since_ms = late
