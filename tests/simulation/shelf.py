"""Shared values as the journal tells them: for each key all it ever was, so every answer is held against its position.

Each answer names the seq that it reflects. What is told of a key must be what the journal made of it up to there, and
no answer reflects less than what was told before its question (the witness sees to that): together that is an order in
which everything happens at one moment, room by room. Only time is seen from outside: whether a value had ended is
judged by what the wall clock may have said between question and answer.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

import msgspec
from tests.simulation.lookout import mark_of_put
from tests.simulation.terms import LATE_MS_MAX, Violation
from tests.simulation.virtual_time import Clock

from synapse.core.events import Recorded
from synapse.core.value_events import ValueDeleted, ValueExpired, ValuePut, ValuesCleared, ValueTransferred

Json: TypeAlias = dict[str, Any]
ValueEvent: TypeAlias = ValuePut | ValueDeleted | ValueExpired | ValueTransferred | ValuesCleared
Place: TypeAlias = tuple[str, str]
"""A room and a key."""
HOME: Final = "main"
"""The room of a request that names none."""
PREFIXES: Final = ("", "a/", "b/")
"""What followers follow."""
CHANGES: Final = {
    ValuePut: "put",
    ValueDeleted: "deleted",
    ValueExpired: "expired",
    ValueTransferred: "transferred",
    ValuesCleared: "cleared",
}


@dataclass(frozen=True, slots=True)
class Version:
    """What a key was from one event on. value: decoded; each put of the load has its own `mark`."""

    number: int
    value: Json
    owner: str
    by: str
    put_at_ms: int
    created_at_ms: int
    expires_at_ms: int | None
    owners: tuple[str, ...] = ()

    def may_be_there(self, low_ms: int) -> bool:
        """True when its time may not have come at the earliest of the times in question."""
        return self.expires_at_ms is None or low_ms < self.expires_at_ms

    def may_be_gone(self, high_ms: int) -> bool:
        """True when its time may have come at the latest of the times in question."""
        return self.expires_at_ms is not None and self.expires_at_ms <= high_ms


@dataclass(slots=True)
class Past:
    """All that became of one key. at: the seqs of its events; then: what it was from there on, None for nothing.
    gone_since_ms: since when, on a clock of the hub's working time, its value was seen to have ended and be there."""

    at: list[int] = field(default_factory=list)
    then: list[Version | None] = field(default_factory=list)
    gone_since_ms: int | None = None


class Shelf:
    """All values there ever were. asked: what agents had asked for, before the hub did anything."""

    def __init__(self, clock: Clock, sometimes: Callable[[str], None]) -> None:
        self.events: dict[int, Recorded] = {}
        self._pasts: dict[Place, Past] = defaultdict(Past)
        self._puts: dict[str, tuple[str, Json]] = {}
        self._marks: dict[str, int] = {}
        self._asked: set[tuple[object, ...]] = set()
        self._removed: dict[tuple[str, str, int], str] = {}
        self._cleared: set[tuple[str, str, str, int]] = set()
        self._clock = clock
        self._sometimes = sometimes

    # What was asked for.

    def ask(self, kind: str, agent: str, body: Json) -> None:
        """The hub is about to hear this."""
        room, key = body.get("room") or HOME, body.get("key", "")
        match kind:
            case "value.put":
                self._puts[mark_of_put(room, key, body["value"], body.get("if_version"))] = agent, body
            case "value.delete":
                self._asked.add((kind, agent, room, key, body.get("if_version")))
            case "value.transfer":
                self._asked.add((kind, agent, room, key, body["to"], body.get("if_version")))
            case "value.clear":
                self._asked.add((kind, agent, room, body.get("prefix", "")))
            case _:
                pass

    def _require_asked(self, seq: int, version: int, *asked: object) -> None:
        if asked not in self._asked and not {(*asked, None), (*asked, version)} & self._asked:
            raise Violation("unasked", f"nobody asked for what {seq} is: {asked}", str(asked[1]))

    # The fold.

    def enter(self, entry: Recorded, event: ValueEvent) -> Iterator[str]:
        """Fold an event in; the streams that it is told in. Raises `Violation`."""
        self.events[entry.seq] = entry
        room = event.room_name
        match event:
            case ValuePut():
                self._put(entry, event)
            case ValueDeleted():
                old = self._require_version(entry, room, event.key, event.version)
                self._require_asked(entry.seq, old.number, "value.delete", entry.actor, room, event.key)
                self._removed[room, event.key, old.number] = entry.actor
                self._become(entry.seq, (room, event.key), None)
            case ValueExpired():
                self._expire(entry, event)
            case ValueTransferred():
                self._transfer(entry, event)
            case ValuesCleared():
                self._clear(entry, event)
        for prefix in PREFIXES:
            if isinstance(event, ValuesCleared):
                is_about = event.prefix.startswith(prefix) or prefix.startswith(event.prefix)
            else:
                is_about = event.key.startswith(prefix)
            if is_about:
                yield stream_of(room, prefix)

    def _become(self, seq: int, place: Place, version: Version | None) -> None:
        past = self._pasts[place]
        past.at.append(seq)
        past.then.append(version)
        past.gone_since_ms = None

    def _last(self, place: Place) -> Version | None:
        """What the journal made of a key, whether or not its time has passed."""
        past = self._pasts.get(place)
        return past.then[-1] if past is not None and past.then else None

    def _now(self, place: Place, at_ms: int) -> Version | None:
        """What a key is for a turn that begins at this time of the wall."""
        last = self._last(place)
        return None if last is None or last.may_be_gone(at_ms) else last

    def _require_version(self, entry: Recorded, room: str, key: str, version: int) -> Version:
        """The version that an event says it changes is the one that is there. Raises `Violation`."""
        old = self._now((room, key), entry.at_ms)
        if old is None or old.number != version:
            raise Violation(
                "lost update", f"{entry.seq} changes {version} of {room} {key}; there is {old}", entry.actor
            )
        return old

    def _put(self, entry: Recorded, event: ValuePut) -> None:
        seq, at_ms, actor, _ = entry
        place, value = (event.room_name, event.key), msgspec.json.decode(event.value)
        old = self._now(place, at_ms)
        have = 0 if old is None else old.number
        mark = mark_of_put(*place, value, event.replaces)
        asker, body = self._puts.get(mark, ("", {}))
        if asker != actor or (body.get("room") or HOME, body["key"], body["value"]) != (*place, value):
            raise Violation("unasked", f"{actor} never asked for what {seq} puts at {place}: {value}", actor)
        if mark in self._marks:
            raise Violation("applied twice", f"{mark} at {self._marks[mark]} and {seq}", actor)
        if (event.replaces or 0) != have or body.get("if_version") not in (None, have):
            raise Violation(
                "lost update",
                f"{seq} replaces {event.replaces} of {place}, {body.get('if_version')} was asked for; there is {old}",
                actor,
            )
        owner = actor if old is None else old.owner
        ttl_ms = body.get("ttl_ms")
        expires_at_ms = None if ttl_ms is None else at_ms + ttl_ms
        if (event.owner, event.expires_at_ms) != (owner, expires_at_ms):
            raise Violation("altered", f"{seq} puts {event}; owner {owner} and end {expires_at_ms} are due", actor)
        last = self._last(place)
        if "count" in value and value["count"] != (0 if last is None else last.value["count"]) + 1:
            raise Violation("lost update", f"{seq} counts {value['count']} at {place}; before it stands {last}", actor)
        if old is None and last is not None:
            self._sometimes("a value was put over one whose time had passed")
        created_at_ms = at_ms if old is None else old.created_at_ms
        owners = () if old is None else old.owners
        self._marks[mark] = seq
        self._become(seq, place, Version(seq, value, owner, actor, at_ms, created_at_ms, expires_at_ms, owners))

    def _expire(self, entry: Recorded, event: ValueExpired) -> None:
        last = self._last((event.room_name, event.key))
        if entry.actor != "hub" or last is None or last.number != event.version:
            raise Violation("lost update", f"{entry.seq} ends {event}; there is {last}", entry.actor)
        if not last.may_be_gone(entry.at_ms):
            raise Violation("expired early", f"{event.key} ended at {entry.at_ms}: {last}", last.owner)
        self._sometimes("a value expired")
        self._become(entry.seq, (event.room_name, event.key), None)

    def _transfer(self, entry: Recorded, event: ValueTransferred) -> None:
        room, key = event.room_name, event.key
        old = self._require_version(entry, room, key, event.version)
        self._require_asked(entry.seq, old.number, "value.transfer", entry.actor, room, key, event.owner)
        if not entry.actor == event.previous == old.owner:
            raise Violation(
                "altered", f"{entry.actor} gives away what {old.owner} owns: {event}", entry.actor, old.owner
            )
        self._sometimes("a value got another owner")
        owners = (*old.owners, old.owner)[-16:]
        self._become(entry.seq, (room, key), replace(old, number=entry.seq, owner=event.owner, owners=owners))

    def _clear(self, entry: Recorded, event: ValuesCleared) -> None:
        room, prefix = event.room_name, event.prefix
        self._require_asked(entry.seq, 0, "value.clear", entry.actor, room, prefix)
        places = [place for place in self._pasts if place[0] == room and place[1].startswith(prefix)]
        count = sum(self._now(place, entry.at_ms) is not None for place in places)
        if count != event.count:
            raise Violation("altered", f"{entry.seq} clears {event.count} of {room} {prefix}*, of {count}", entry.actor)
        self._cleared.add((entry.actor, room, prefix, count))
        for place in places:
            if self._last(place) is not None:
                self._become(entry.seq, place, None)

    # What is told.

    def _at(self, place: Place, seq: int) -> Version | None:
        """What the journal up to `seq` made of a key, whether or not its time has passed."""
        past = self._pasts.get(place)
        index = 0 if past is None else bisect_right(past.at, seq)
        return past.then[index - 1] if past is not None and index else None

    def require_true(self, agent: str, kind: str, body: Json, seq: int, reply: Json, heard_ms: int) -> object:
        """A reply about values says what is so; what a repeat under its key must say again. Raises `Violation`."""
        room, key = body.get("room") or HOME, body.get("key", "")
        low_ms, high_ms = self._clock.wall_range_ms(heard_ms)
        there = self._at((room, key), seq)
        match kind:
            case "value.put":
                self._require_put(agent, body, (room, key), reply)
                return reply["version"]
            case "value.get":
                if there is None or not there.may_be_there(low_ms) or not _is_told(there, key, reply, is_full=True):
                    raise Violation("wrong value", f"{agent} reads {reply} at {seq}; there is {there}", agent)
            case "value.list":
                self._require_page(agent, body, room, seq, reply, low_ms, high_ms)
            case "value.delete":
                if self._removed.get((room, key, reply["version"])) != agent:
                    raise Violation("lost", f"{agent} removed {reply}; the journal has {there}", agent)
                return reply["version"]
            case "value.clear":
                prefix, count = body.get("prefix", ""), reply["cleared"]
                left = [] if count else list(self._there_for_sure(room, prefix, seq, high_ms))
                if left or (count and (agent, room, prefix, count) not in self._cleared):
                    raise Violation(
                        "lost", f"{agent} cleared {count} of {room} {prefix}* at {seq}; left: {left}", agent
                    )
            case "value.transfer":
                self._require_transferred(agent, body, (room, key), seq, reply)
        return None

    def _require_put(self, agent: str, body: Json, place: Place, reply: Json) -> None:
        there = self._at(place, reply["version"])
        mark = mark_of_put(*place, body["value"], body.get("if_version"))
        if there is None or there.number != reply["version"] or self._marks.get(mark) != there.number:
            raise Violation("lost", f"{agent} put {reply}; the journal has {there} there", agent)
        if there.by != agent or not _is_told(there, place[1], reply, is_full=False):
            raise Violation("altered", f"{agent} is told that it put {reply}; there is {there}", agent)

    def _require_transferred(self, agent: str, body: Json, place: Place, seq: int, reply: Json) -> None:
        told, entry = (reply["owner"], reply["previous"]), self.events.get(reply["version"])
        event = None if entry is None else entry.event
        if isinstance(event, ValueTransferred) and entry is not None and entry.actor == agent:
            due = event.owner, event.previous
        else:  # it was the receiver's already
            there = self._at(place, seq)
            due = ("", "") if there is None or there.number != reply["version"] else (there.owner, there.owner)
        if told != due or told[0] != body["to"]:
            raise Violation("lost", f"{agent} gave {place} away, and is told {reply}; the journal has {due}", agent)

    def _there_for_sure(self, room: str, prefix: str, seq: int, high_ms: int) -> Iterator[str]:
        for place in self._pasts:
            if place[0] == room and place[1].startswith(prefix):
                there = self._at(place, seq)
                if there is not None and not there.may_be_gone(high_ms):
                    yield place[1]

    def _require_page(
        self, agent: str, body: Json, room: str, seq: int, reply: Json, low_ms: int, high_ms: int
    ) -> None:
        after, prefix = body.get("after") or "", body.get("prefix", "")
        keys = [value["key"] for value in reply["values"]]
        upto = keys[-1] if reply["next"] is not None else "~"
        due = {key for key in self._there_for_sure(room, prefix, seq, high_ms) if after < key <= upto}
        is_ordered = keys == sorted(set(keys)) and all(key > after and key.startswith(prefix) for key in keys)
        if not is_ordered or not due <= set(keys) or len(keys) > body.get("limit", 200) or reply["seq"] != seq:
            raise Violation("wrong page", f"{agent} lists {keys} of {room} {prefix}* at {seq}; {due} are due", agent)
        for told in reply["values"]:
            there = self._at((room, told["key"]), seq)
            if there is None or not there.may_be_there(low_ms) or not _is_told(there, told["key"], told, is_full=False):
                raise Violation("wrong value", f"{agent} lists {told} at {seq}; there is {there}", agent)

    def require_refused_rightly(self, agent: str, body: Json, seq: int, error: Json, heard_ms: int) -> None:
        """What a request about a value was refused for is so. Raises `Violation`."""
        low_ms, high_ms = self._clock.wall_range_ms(heard_ms)
        there = self._at((body.get("room") or HOME, body.get("key", "")), seq)
        is_there = there is not None and there.may_be_there(low_ms)
        is_gone = there is None or there.may_be_gone(high_ms)
        match error["code"]:
            case "not_found":
                is_so = is_gone
                if there is not None:
                    self._sometimes("a value was gone before the event that says so")
            case "version_conflict":
                facts, asked = error["facts"], body.get("if_version")
                version, expected = facts["version"], facts["expected"]
                is_version = is_gone if version == 0 else is_there and there is not None and there.number == version
                is_so = is_version and expected == asked != version
            case "not_permitted":
                is_so = is_there and there is not None and there.owner != agent
            case _:
                return
        if not is_so:
            raise Violation("fenced wrongly", f"{body} of {agent} at {seq}: {error}; there is {there}", agent)

    def require_told_rightly(self, agent: str, seq: int, told: Json) -> None:
        """A change as followers hear of it is the one in the journal. Raises `Violation`."""
        entry = self.events.get(seq)
        if entry is None:
            raise Violation("not durable", f"{agent} hears of {told} at {seq}, which is not in the journal", agent)
        event = entry.event
        assert isinstance(event, ValueEvent)
        is_put, is_there = isinstance(event, ValuePut), isinstance(event, ValuePut | ValueTransferred)
        due: Json = {
            "change": CHANGES[type(event)],
            "room": event.room_name,
            "key": event.prefix if isinstance(event, ValuesCleared) else event.key,
            "value": msgspec.json.decode(event.value) if isinstance(event, ValuePut) else None,
            "version": seq if is_there else None,
            "owner": event.owner if isinstance(event, ValuePut | ValueTransferred) else None,
            "expires_at_ms": event.expires_at_ms if isinstance(event, ValuePut) else None,
            "by": entry.actor,
            "at_ms": entry.at_ms,
            "cursor": told["cursor"],
        }
        assert is_there or not is_put
        if told != due:
            raise Violation("altered", f"{agent} hears {told}; the journal has {due}", agent)

    def check_times(self) -> None:
        """What has ended is taken away soon. Raises `Violation`."""
        active_ms, wall_ms = self._clock.now_ms - self._clock.excused_ms, self._clock.wall_ms()
        for place, past in self._pasts.items():
            last = self._last(place)
            if last is None or not last.may_be_gone(wall_ms):
                past.gone_since_ms = None
            elif past.gone_since_ms is None:
                past.gone_since_ms = active_ms
            elif active_ms - past.gone_since_ms > LATE_MS_MAX:
                raise Violation("expired late", f"{place} is still there at {wall_ms}: {last}", last.owner)

    def has_ended_values(self) -> bool:
        """True while there is something whose time has passed."""
        wall_ms = self._clock.wall_ms()
        lasts = map(self._last, self._pasts)
        return any(last is not None and last.may_be_gone(wall_ms) for last in lasts)


def _is_told(version: Version, key: str, told: Json, *, is_full: bool) -> bool:
    """True when this is what the version is. is_full: as `value.get` tells it, with all its past."""
    same = (version.number, version.owner, version.put_at_ms, version.by, version.expires_at_ms, key)
    names = ("version", "owner", "updated_at_ms", "updated_by", "expires_at_ms", "key")
    is_same = all(told[name] == value for name, value in zip(names, same, strict=True))
    if "value" in told or is_full:
        is_same = is_same and told["value"] == version.value
    if is_full:
        earlier = tuple(owner["owner"] for owner in told["owners"])
        is_same = is_same and (told["created_at_ms"], earlier) == (version.created_at_ms, version.owners)
    return is_same


def stream_of(room: str, prefix: str) -> str:
    """The name of the ledger's stream of the changes that a follower of this prefix is told."""
    return f"values {room} {prefix}"
