"""Shared values: one namespace of keys for each room, with owner, version and lifetime.

Anybody may put; the owner stays who made the value until it is transferred. A version is the seq of the last change, so
it never comes twice, also after a key was deleted and made anew. Lifetimes are dates: a value is gone for every reader
at its time, and the next tick says so with an event.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

import msgspec

from synapse.core.agents import require_known
from synapse.core.by import By, Rules
from synapse.core.events import Event, Recorded
from synapse.core.rooms import room_of
from synapse.core.value_events import ValueDeleted, ValueEvent, ValueExpired, ValuePut, ValuesCleared, ValueTransferred
from synapse.errors import Rejected
from synapse.protocol.cursor import cursor_of
from synapse.protocol.names import require_key
from synapse.protocol.notices import ValueChanged
from synapse.protocol.value_commands import ClearValues, DeleteValue, PutValue, TransferValue

if TYPE_CHECKING:
    from synapse.core.state import State


_NULL: Final = msgspec.Raw(b"null")
EXPIRED_MAX: Final = 1_000
"""Values that expire in one tick; nobody sees the others any more either."""
_VOID_MIN: Final = 1_024
"""So many void entries may wait for their time before they are thrown out."""
OWNERS_MAX: Final = 16
"""Earlier owners that a value remembers."""


@dataclass(slots=True)
class Owner:
    """Who owned a value, until when."""

    owner: str
    until_at_ms: int


@dataclass(slots=True)
class Value:
    """One value. version: seq of its last change. owner_id: agent id, None for an operator's."""

    key: str
    value: msgspec.Raw
    version: int
    owner: str
    owner_id: int | None
    created_at_ms: int
    at_ms: int
    by: str
    expires_at_ms: int | None = None
    owners: list[Owner] = field(default_factory=list)

    def is_gone(self, at_ms: int) -> bool:
        """True when its time has passed."""
        return self.expires_at_ms is not None and self.expires_at_ms <= at_ms


@dataclass(slots=True)
class Values:
    """All values, by room and key; their bytes; and which expires when, where entries of other versions are void."""

    by_room: dict[int, dict[str, Value]] = field(default_factory=dict)
    bytes: int = 0
    _expiring: list[tuple[int, int, int, str]] = field(default_factory=list)
    _expiring_max: int = _VOID_MIN

    def put(self, room: int, value: Value) -> None:
        """Put a value in place of the one of its key."""
        self.drop(room, value.key)
        self.by_room.setdefault(room, {})[value.key] = value
        self.bytes += size_of(value.key, value.value)
        if value.expires_at_ms is not None:
            if len(self._expiring) > self._expiring_max:  # what is put again and again does not pile up
                self._expiring = [entry for entry in self._expiring if self._at(*entry[1:]) is not None]
                heapify(self._expiring)
                self._expiring_max = _VOID_MIN + 2 * len(self._expiring)
            heappush(self._expiring, (value.expires_at_ms, value.version, room, value.key))

    def drop(self, room: int, key: str) -> Value | None:
        """Remove a value, if it is there."""
        values = self.by_room.get(room, {})
        value = values.pop(key, None)
        if value is None:
            return None
        self.bytes -= size_of(key, value.value)
        if not values:
            del self.by_room[room]
        return value

    def drop_room(self, room: int) -> None:
        """A room is no more."""
        for key in list(self.by_room.get(room, ())):
            self.drop(room, key)

    def current(self, room: int, key: str, at_ms: int) -> Value | None:
        """The value of a key, unless its time has passed."""
        value = self.by_room.get(room, {}).get(key)
        return None if value is None or value.is_gone(at_ms) else value

    def due(self, at_ms: int, most: int) -> Iterator[tuple[int, Value]]:
        """Room and value of what has expired and is still there, earliest first; each is told once."""
        while self._expiring and self._expiring[0][0] <= at_ms and most > 0:
            _, version, room, key = heappop(self._expiring)
            value = self._at(version, room, key)
            if value is not None:
                most -= 1
                yield room, value

    def _at(self, version: int, room: int, key: str) -> Value | None:
        """The value of a key, if it still has this version."""
        value = self.by_room.get(room, {}).get(key)
        return value if value is not None and value.version == version else None


def size_of(key: str, value: msgspec.Raw) -> int:
    """What a value counts for, in bytes."""
    return len(key) + len(bytes(value))


def require_value(state: "State", room: int, room_name: str, key: str, at_ms: int) -> Value:
    """The value of a key. Raises `Rejected(not_found)`."""
    value = state.values.current(room, key, at_ms)
    if value is None:
        raise Rejected("not_found", f"room {room_name} has no value {key}", {"key": key, "room": room_name})
    return value


ValueMutation: TypeAlias = PutValue | DeleteValue | ClearValues | TransferValue


def decide_value(state: "State", rules: Rules, command: ValueMutation, by: By) -> list[Event]:
    """The values' part of `kernel.decide`."""
    match command:
        case PutValue():
            return decide_put(state, rules, command, by)
        case DeleteValue():
            return decide_delete(state, command, by)
        case ClearValues():
            return decide_clear(state, command, by)
        case TransferValue():
            return decide_transfer(state, command, by)
        case _:
            assert_never(command)


def decide_put(state: "State", rules: Rules, command: PutValue, by: By) -> list[Event]:
    """A value with a new version. Its owner stays, unless an operator names another."""
    limits, values = rules.limits, state.values
    key = require_key(command.key)
    room = room_of(state, command.room, by)
    owner, owner_id = _owner(state, command.owner, by)
    size = len(bytes(command.value))
    if size > limits.value_bytes_max:
        raise Rejected(
            "too_large",
            f"the value has {size} bytes; at most {limits.value_bytes_max}: keep a reference to a file instead",
            {"bytes": size, "value_bytes_max": limits.value_bytes_max},
        )
    ttl_ms = command.ttl_ms
    if ttl_ms is not None and not 1 <= ttl_ms <= limits.value_ttl_ms_max:
        raise Rejected(
            "bad_request",
            f"a TTL of {ttl_ms} ms; 1 to {limits.value_ttl_ms_max}, or null for no end - at `$.body.ttl_ms`",
            {"path": "$.body.ttl_ms", "min": 1, "max": limits.value_ttl_ms_max},
        )
    old = values.current(room.id, key, by.at_ms)
    _require_version(key, old, command.if_version)
    there = values.by_room.get(room.id, {})
    if key not in there and len(there) >= limits.values_per_room_max:
        raise Rejected(
            "limit",
            f"room {room.name} has {len(there)} values, as many as allowed (values_per_room_max): delete some",
            {"limit": "values_per_room_max", "value": limits.values_per_room_max},
        )
    if values.bytes + len(key) + size > limits.values_bytes_max:
        raise Rejected(
            "limit",
            f"all values have {values.bytes} bytes of {limits.values_bytes_max} (values_bytes_max): delete some",
            {"limit": "values_bytes_max", "value": limits.values_bytes_max},
        )
    if old is not None and command.owner is None:
        owner, owner_id = old.owner, old.owner_id
    return [
        ValuePut(
            room=room.id,
            room_name=room.name,
            key=key,
            value=command.value,
            owner=owner,
            owner_id=owner_id,
            expires_at_ms=None if ttl_ms is None else by.at_ms + ttl_ms,
            replaces=None if old is None else old.version,
        )
    ]


def _owner(state: "State", named: str | None, by: By) -> tuple[str, int | None]:
    """Who owns what is put: the agent that asks, or whom an operator names. Raises `Rejected`."""
    if by.operator:
        if named is None:
            return by.actor, None
        agent = state.agents.by_name.get(named)
        return named, None if agent is None else agent.id
    mine = by.require_agent()
    if named is not None and named != by.actor:
        raise Rejected("not_permitted", "only an operator puts values for another owner - at `$.body.owner`")
    return by.actor, mine


def _require_version(key: str, old: Value | None, wanted: int | None) -> None:
    """Compare and set. wanted: 0 when there must be none. Raises `Rejected(version_conflict)`."""
    have = 0 if old is None else old.version
    if wanted is None or wanted == have:
        return
    if old is None:
        raise Rejected(
            "version_conflict",
            f"{key} has no value (any more), and version {wanted} was expected: read it again",
            {"key": key, "version": 0, "expected": wanted},
        )
    raise Rejected(
        "version_conflict",
        f"{key} has version {have}, put by {old.by}, and {wanted} was expected: read it again",
        {"key": key, "version": have, "expected": wanted, "by": old.by, "owner": old.owner},
    )


def decide_delete(state: "State", command: DeleteValue, by: By) -> list[Event]:
    """A value is no more. Raises `Rejected`: `not_found`, `version_conflict`."""
    by.operator or by.require_agent()
    room, key = room_of(state, command.room, by), require_key(command.key)
    value = require_value(state, room.id, room.name, key, by.at_ms)
    _require_version(key, value, command.if_version)
    return [ValueDeleted(room=room.id, room_name=room.name, key=key, version=value.version)]


def decide_clear(state: "State", command: ClearValues, by: By) -> list[Event]:
    """All values of a room whose key begins so are no more. Those whose time has passed are not counted: the next tick
    tells of them, if this does not remove them too."""
    by.operator or by.require_agent()
    room = room_of(state, command.room, by)
    there = state.values.by_room.get(room.id, {}).values()
    count = sum(value.key.startswith(command.prefix) and not value.is_gone(by.at_ms) for value in there)
    return [ValuesCleared(room=room.id, room_name=room.name, prefix=command.prefix, count=count)] if count else []


def decide_transfer(state: "State", command: TransferValue, by: By) -> list[Event]:
    """Another owner. Raises `Rejected`: `not_found`, `not_permitted`, `version_conflict`."""
    room, key = room_of(state, command.room, by), require_key(command.key)
    value = require_value(state, room.id, room.name, key, by.at_ms)
    _require_version(key, value, command.if_version)
    if not by.operator and value.owner_id != by.require_agent():
        raise Rejected(
            "not_permitted",
            f"{key} belongs to {value.owner}, who can transfer it, and so can an operator",
            {"key": key, "owner": value.owner},
        )
    to = require_known(state, command.to, by)
    if to.id == value.owner_id:
        return []
    return [
        ValueTransferred(
            room=room.id,
            room_name=room.name,
            key=key,
            previous=value.owner,
            owner=to.name,
            owner_id=to.id,
            version=value.version,
        )
    ]


def decide_expired(state: "State", at_ms: int, most: int) -> list[Event]:
    """What has expired, at most so many. What is told here is not told again: it must be carried out."""
    return [
        ValueExpired(room=room, room_name=state.rooms.by_id[room].name, key=value.key, version=value.version)
        for room, value in state.values.due(at_ms, most)
    ]


def apply_value(state: "State", recorded: Recorded, event: ValueEvent) -> None:
    """The values' part of `kernel.apply`."""
    values = state.values
    match event:
        case ValuePut():
            old = values.by_room.get(event.room, {}).get(event.key) if event.replaces is not None else None
            owners = [] if old is None else old.owners
            if old is not None and old.owner != event.owner:
                owners = [*owners, Owner(old.owner, recorded.at_ms)][-OWNERS_MAX:]
            values.put(
                event.room,
                Value(
                    key=event.key,
                    value=event.value,
                    version=recorded.seq,
                    owner=event.owner,
                    owner_id=event.owner_id,
                    created_at_ms=recorded.at_ms if old is None else old.created_at_ms,
                    at_ms=recorded.at_ms,
                    by=recorded.actor,
                    expires_at_ms=event.expires_at_ms,
                    owners=owners,
                ),
            )
        case ValueDeleted() | ValueExpired():
            values.drop(event.room, event.key)
        case ValueTransferred():
            value = values.drop(event.room, event.key)
            assert value is not None, "what is transferred is there"
            value.owners = [*value.owners, Owner(value.owner, recorded.at_ms)][-OWNERS_MAX:]
            value.owner, value.owner_id, value.version = event.owner, event.owner_id, recorded.seq
            values.put(event.room, value)
        case ValuesCleared():
            for key in [key for key in values.by_room.get(event.room, ()) if key.startswith(event.prefix)]:
                values.drop(event.room, key)
        case _:
            assert_never(event)


def shown_value_change(journal_id: str, recorded: Recorded, event: ValueEvent) -> ValueChanged:
    """A change as followers of a room's values see it."""
    change = {
        ValuePut: "put",
        ValueDeleted: "deleted",
        ValueExpired: "expired",
        ValueTransferred: "transferred",
        ValuesCleared: "cleared",
    }[type(event)]
    is_put = isinstance(event, ValuePut)
    return ValueChanged(
        change=change,
        room=event.room_name,
        key=event.prefix if isinstance(event, ValuesCleared) else event.key,
        value=event.value if isinstance(event, ValuePut) else _NULL,
        version=recorded.seq if is_put or isinstance(event, ValueTransferred) else None,
        owner=event.owner if isinstance(event, ValuePut | ValueTransferred) else None,
        expires_at_ms=event.expires_at_ms if isinstance(event, ValuePut) else None,
        by=recorded.actor,
        at_ms=recorded.at_ms,
        cursor=cursor_of(journal_id, recorded.seq),
    )
