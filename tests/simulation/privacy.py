"""Who may be told what of private places, and whether anybody is told more: each secret carries a word of its own.

Such a word is `zq`, a letter for what it is (a room, a channel, a task, a key, a value, the body of a message), a
number and an `x`. Every frame that leaves the hub is looked through for them, on whatever connection, in any field.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from tests.simulation.agenda import Past
from tests.simulation.terms import LATE_MS_MAX, Violation
from tests.simulation.virtual_time import Clock

from synapse.core.events import LeaseGranted, MessagePosted, Recorded
from synapse.core.plan_events import TaskDeclared
from synapse.core.room_events import (
    ChannelCreated,
    ChannelJoined,
    ChannelLeft,
    MemberEvent,
    MemberInvited,
    MemberRemoved,
    RoomCreated,
    RoomEvent,
    RoomJoined,
    RoomLeft,
)
from synapse.core.value_events import ValuePut

Json: TypeAlias = dict[str, Any]
SIGN: Final = b"zq"
NAMES: Final = "rc"
"""The letters of names of places: who was asked in once knows them for ever, and an operator sees that they are
there."""
REPEATED: Final = "tk"
"""The letters of tasks and keys: who wrote them in a request may be told of them again."""
NOTHING_TOLD: Final = ("not_found", "read_only")
"""How a request about a place that is not there may be refused."""
OPERATOR: Final = "operator"

_canaries: Final = re.compile(rb"zq([a-z])\d+x").finditer


@dataclass(slots=True)
class Place:
    """A private room, or a private channel as `room:channel`. members: over time, by agent the seq behind which it
    reads. invited: by agent, whether it will read what was said before. known: who was ever asked in.
    removed_ms: when members were gone, on a clock of the hub's working time."""

    name: str
    founder: str
    members: Past = field(default_factory=Past)
    invited: dict[str, bool] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    removed_ms: dict[str, int] = field(default_factory=dict)

    def at(self, seq: int) -> dict[str, int]:
        """Its members after the event at `seq`."""
        found: dict[str, int] = self.members.upto(seq) or {}
        return found

    @property
    def now(self) -> dict[str, int]:
        """Its members at the head of the journal."""
        found: dict[str, int] = self.members.then[-1] if self.members.then else {}
        return found


@dataclass(slots=True)
class Secret:
    """What a canary stands for. author: who said it first. seq: of the message that it is in, once it is there."""

    letter: str
    place: str
    author: str
    seq: int | None = None


class Privacy:
    """All private places and secrets. has_arrived: whether a message came into an inbox; names: of agents by id."""

    def __init__(
        self,
        clock: Clock,
        names: dict[int, str],
        has_arrived: Callable[[str, int], bool],
        sometimes: Callable[[str], None],
    ) -> None:
        self.places: dict[str, Place] = {}
        self.secrets: dict[bytes, Secret] = {}
        self.ephemeral: set[str] = set()
        self.looked = 0
        self.rooms: dict[int, str] = {}
        self.channels: dict[int, str] = {}
        self._asked: set[tuple[str, str, str, str]] = set()
        self._said: dict[str, set[bytes]] = defaultdict(set)
        self._clock = clock
        self._names = names
        self._has_arrived = has_arrived
        self._sometimes = sometimes

    def of(self, address: str) -> Place | None:
        """The private place that a room or channel is, or is in."""
        return self.places.get(address) or self.places.get(address.partition(":")[0])

    def sees(self, agent: str, room: str, seq: int) -> bool:
        """Whether a room is there for an agent after the event at `seq`."""
        place = self.places.get(room)
        return place is None or agent in place.at(seq)

    def mine(self, agent: str) -> list[str]:
        """Where an agent is a member."""
        return [name for name, place in self.places.items() if agent in place.now]

    # What goes in.

    def ask(self, kind: str, agent: str, body: Json, payload: bytes) -> None:
        """The hub is about to hear this."""
        if kind in ("member.invite", "member.kick"):
            self._asked.add((kind, agent, body["place"], body["agent"]))
        if SIGN not in payload:
            return
        where = body.get("channel") or body.get("room") or body.get("place") or ""
        for found in _canaries(payload):
            word = found[0]
            self._said[agent].add(word)
            if word not in self.secrets:
                self.secrets[word] = Secret(found[1].decode(), where, agent)

    # The fold.

    def enter(self, entry: Recorded) -> None:
        """Fold an event in, of whatever kind. Raises `Violation`."""
        event, actor = entry.event, entry.actor
        match event:
            case _ if isinstance(event, RoomEvent):
                self._change_place(entry, event)
            case _ if isinstance(event, MemberEvent):
                self._change_members(entry, event)
            case MessagePosted():
                place = self._require_member(entry, event.address, actor)
                if place is not None:
                    for delivery in event.mentions:
                        self._require_member(entry, event.address, delivery.name)
                for found in _canaries(bytes(event.body)):
                    self.secrets[found[0]].seq = entry.seq
            case LeaseGranted() if event.place is None:
                self._require_member(entry, event.ask.room_name, event.ask.owner)
            case ValuePut() | TaskDeclared():
                self._require_member(entry, event.room_name, actor)
            case _:
                pass

    def _require_member(self, entry: Recorded, address: str, agent: str) -> Place | None:
        place = self.of(address)
        if place is not None and agent not in place.now:
            text = f"{entry.seq} is {type(entry.event).__name__} for {agent} in {place.name}, which has {place.now}"
            raise Violation("not a member", text, agent)
        return place

    def _change_place(self, entry: Recorded, event: RoomEvent) -> None:
        seq = entry.seq
        match event:
            case RoomCreated():
                self.rooms[seq] = event.name
                if event.private:
                    self.places[event.name] = Place(event.name, entry.actor)
            case ChannelCreated():
                address = self.channels[seq] = f"{self.rooms[event.room]}:{event.name}"
                if event.ephemeral:
                    self.ephemeral.add(address)
                if event.private:
                    self.places[address] = Place(address, entry.actor)
            case RoomJoined():
                self._join(entry, self.rooms[event.room], event.agent, event.after)
            case ChannelJoined():
                self._join(entry, self.channels[event.channel], event.agent, event.after)
            case RoomLeft():
                self._leave(entry, self.rooms[event.room], event.agent)
            case ChannelLeft():
                self._leave(entry, self.channels[event.channel], event.agent)
            case _:
                pass

    def _join(self, entry: Recorded, where: str, agent: int, after: int) -> None:
        place, name, seq = self.places.get(where), self._names[agent], entry.seq
        if place is None:
            return
        is_first = place.founder == name and not place.members.at
        if not is_first:
            due = None if name not in place.invited else 0 if place.invited[name] else seq - 1
            if after != due or name != entry.actor:
                raise Violation("not asked in", f"{name} joins {where} at {seq}, reads behind {after}, not {due}", name)
            self._sometimes("a member read what was said before it came" if not after else "a member came in")
        place.invited.pop(name, None)
        place.known.add(name)
        place.members.become(seq, place.now | {name: after})

    def _leave(self, entry: Recorded, where: str, agent: int) -> None:
        name, inside = self._names[agent], f"{where}:"
        for place in [it for it in self.places.values() if it.name == where or it.name.startswith(inside)]:
            place.invited.pop(name, None)
            if name in place.now:
                place.members.become(entry.seq, {who: after for who, after in place.now.items() if who != name})
                place.removed_ms[name] = self._working_ms

    @property
    def _working_ms(self) -> int:
        return self._clock.now_ms - self._clock.excused_ms

    def _change_members(self, entry: Recorded, event: MemberEvent) -> None:
        place, name, actor = self.places[event.place], self._names[event.agent], entry.actor
        kind = "member.invite" if isinstance(event, MemberInvited) else "member.kick"
        if (kind, actor, event.place, name) not in self._asked:
            raise Violation("unasked", f"{actor} never asked for what {entry.seq} is: {event}", actor)
        if isinstance(event, MemberRemoved):
            is_alone = place.founder not in place.now
            may = actor in (OPERATOR, name, place.founder) or (is_alone and actor in place.now)
            is_there = name in place.now or name in place.invited
            if not may or not is_there:
                raise Violation("not a member", f"{actor} puts {name} out of {place.name} at {entry.seq}", actor, name)
            self._sometimes("a member was put out" if name in place.now else "an invitation was taken back")
            self._leave(entry, event.place, event.agent)
            return
        if actor != OPERATOR and actor not in place.now:
            raise Violation("not a member", f"{actor} asks {name} into {place.name} at {entry.seq}", actor, name)
        place.invited[name] = event.history
        place.known.add(name)

    # What comes out.

    def floor(self, agent: str, address: str, seq: int) -> int:
        """Behind which seq an agent reads a channel, as of this position."""
        place = self.of(address)
        return 0 if place is None else place.at(seq).get(agent, seq)

    def read_lately(self, agent: str, address: str, what: int) -> bool:
        """Whether an agent reads what came to a channel at `what`, or did a moment ago."""
        place = self.of(address)
        if place is None or place.now.get(agent, what) < what:
            return True
        if self._working_ms - place.removed_ms.get(agent, 0) > LATE_MS_MAX:
            return False
        return next((then[agent] for then in reversed(place.members.then) if agent in then), what) < what

    def look(self, agent: str, seq: int, payload: bytes, *, is_reply: bool) -> None:
        """A frame goes to an agent. Raises `Violation`."""
        self.looked += 1
        for found in _canaries(payload):
            secret = self.secrets.get(found[0])
            if secret is None:
                raise Violation("altered", f"{agent} is told {found[0]!r}, which nobody ever said", agent)
            if not self._may_know(agent, found[0], secret, seq, is_reply=is_reply):
                place = self.of(secret.place)
                text = f"{agent} is told {found[0]!r} of {secret.place} at {seq}; it has {place}: {payload[:300]!r}"
                raise Violation("leak", text, agent, secret.author)

    def _may_know(self, agent: str, word: bytes, secret: Secret, seq: int, *, is_reply: bool) -> bool:
        place = self.of(secret.place)
        if agent == secret.author or place is None:
            return True
        if secret.letter in NAMES:
            return agent == OPERATOR or agent in place.known or word in self._said[agent]
        if secret.letter in REPEATED and word in self._said[agent]:
            return True
        if secret.seq is not None and self._has_arrived(agent, secret.seq):
            return True  # it was in its inbox while it was a member
        after = place.at(seq).get(agent) if is_reply else self._reads_behind(place, agent, seq)
        if after is None or (secret.seq is not None and secret.seq <= after):
            return False
        self._sometimes("a secret was told to a member")
        return True

    def _reads_behind(self, place: Place, agent: str, seq: int) -> int | None:
        """Where a member begins to read; of one that went a moment ago, what it was at `seq`."""
        is_there = agent in place.now
        if is_there or self._working_ms - place.removed_ms.get(agent, self._working_ms) > LATE_MS_MAX:
            return place.now.get(agent)
        return place.at(seq).get(agent)

    def is_refused_rightly(self, agent: str, room: str, seq: int, code: str) -> bool:
        """True when this is what is not there for an agent. Raises `Violation` for a refusal that tells more."""
        place = self.places.get(room)
        if place is None or agent in place.at(seq):
            return False
        if code not in NOTHING_TOLD:
            raise Violation("leak", f"{agent} is refused {code} in {room} at {seq}, which has {place}", agent)
        self._sometimes("a private place was not there for somebody else")
        return True

    # Now and then.

    def check(self, there: Iterable[tuple[str, set[str], set[str]]]) -> None:
        """What the hub has: private places with their members and who is asked in. Raises `Violation`."""
        found = {name: (members, invited) for name, members, invited in there}
        due = {name: (set(it.now), set(it.invited)) for name, it in self.places.items()}
        if found != due:
            raise Violation("altered", f"private places are {found}, there are {due}")
