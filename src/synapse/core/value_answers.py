"""What is answered about values: the reply of a mutation from its events, and questions to the state."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, assert_never

from msgspec import UNSET

from synapse.core.by import By
from synapse.core.events import Recorded
from synapse.core.rooms import room_of
from synapse.core.value_events import ValueDeleted, ValuePut, ValuesCleared, ValueTransferred
from synapse.core.values import Value, ValueMutation, require_value
from synapse.protocol.names import require_key
from synapse.protocol.replies import Reply
from synapse.protocol.value_commands import ClearValues, DeleteValue, GetValue, ListValues, PutValue, TransferValue
from synapse.protocol.value_replies import EarlierOwner, ValueInfo, ValueOwned, ValueRemoved, ValuesRemoved

if TYPE_CHECKING:
    from synapse.core.state import State


def answer_value(state: "State", command: ValueMutation, by: By, events: Sequence[Recorded], cursor: str) -> Reply:
    """The values' part of `answers.answer`."""
    match command:
        case PutValue():
            put = events[0]
            event = put.event
            assert isinstance(event, ValuePut)
            return ValueInfo(
                key=event.key,
                room=event.room_name,
                value=event.value,
                version=put.seq,
                owner=event.owner,
                updated_at_ms=put.at_ms,
                updated_by=put.actor,
                expires_at_ms=event.expires_at_ms,
                cursor=cursor,
            )
        case DeleteValue():
            gone = events[0].event
            assert isinstance(gone, ValueDeleted)
            return ValueRemoved(key=gone.key, room=gone.room_name, deleted=True, version=gone.version, cursor=cursor)
        case ClearValues():
            cleared = events[0].event if events else None
            assert cleared is None or isinstance(cleared, ValuesCleared)
            name = room_of(state, command.room, by).name if cleared is None else cleared.room_name
            count = 0 if cleared is None else cleared.count
            return ValuesRemoved(room=name, prefix=command.prefix, cleared=count, cursor=cursor)
        case TransferValue():
            return _owned(state, command, by, events, cursor)
        case _:
            assert_never(command)


def _owned(state: "State", command: TransferValue, by: By, events: Sequence[Recorded], cursor: str) -> ValueOwned:
    if events:
        event = events[0].event
        assert isinstance(event, ValueTransferred)
        return ValueOwned(
            key=event.key,
            room=event.room_name,
            owner=event.owner,
            previous=event.previous,
            version=events[0].seq,
            cursor=cursor,
        )
    room = room_of(state, command.room, by)
    value = require_value(state, room.id, room.name, command.key, by.at_ms)
    return ValueOwned(
        key=value.key, room=room.name, owner=value.owner, previous=value.owner, version=value.version, cursor=cursor
    )


def look_value(state: "State", query: GetValue, by: By, cursor: str) -> ValueInfo:
    """One value. Raises `Rejected`: `bad_name`, `not_found`."""
    room, key = room_of(state, query.room, by), require_key(query.key)
    value = require_value(state, room.id, room.name, key, by.at_ms)
    return value_info(room.name, value, has_value=True, cursor=cursor)


def value_info(room: str, value: Value, *, has_value: bool, cursor: str | None = None) -> ValueInfo:
    """A value as it is told: in a list, or with `cursor` as an answer of its own, with its earlier owners."""
    owners = tuple(EarlierOwner(owner=item.owner, until_at_ms=item.until_at_ms) for item in value.owners)
    return ValueInfo(
        key=value.key,
        room=room,
        value=value.value if has_value else UNSET,
        version=value.version,
        owner=value.owner,
        created_at_ms=value.created_at_ms,
        updated_at_ms=value.at_ms,
        updated_by=value.by,
        expires_at_ms=value.expires_at_ms,
        owners=UNSET if cursor is None else owners,
        cursor=UNSET if cursor is None else cursor,
    )


def values_to_list(state: "State", query: ListValues, by: By) -> tuple[str, list[str]]:
    """The room, and the keys that a list goes through. Raises `Rejected`."""
    room = room_of(state, query.room, by)
    there = state.values.by_room.get(room.id, {})
    prefix = query.prefix
    return room.name, sorted(key for key in there if key.startswith(prefix) and not there[key].is_gone(by.at_ms))
