"""What may be asked about shared values; `commands` has them in its union."""

from typing import Final, TypeAlias

import msgspec

from synapse.protocol.terms import Int


class PutValue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Put a value of a room (null: the home's): any JSON. ttl_ms: it is gone then; null, it has no end. if_version:
    only when that is its version; 0, only when there is none. owner: who owns a new one, for an operator; else who
    asks."""

    key: str
    value: msgspec.Raw
    room: str | None = None
    ttl_ms: Int | None = None
    if_version: Int | None = None
    owner: str | None = None


class GetValue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Read one value."""

    key: str
    room: str | None = None


class DeleteValue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Remove a value; with `if_version` only that version of it."""

    key: str
    room: str | None = None
    if_version: Int | None = None


class ListValues(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page of a room's values by key, those whose key begins with `prefix`. values: false leaves the values out."""

    room: str | None = None
    prefix: str = ""
    values: bool = True
    limit: Int = 200
    after: str | None = None


class ClearValues(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Remove all values of a room whose key begins with `prefix`; all of them, when that is empty."""

    room: str | None = None
    prefix: str = ""


class TransferValue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give a value of mine to another agent; an operator gives any. Its earlier owners stay on record."""

    key: str
    to: str
    room: str | None = None
    if_version: Int | None = None


ValueCommand: TypeAlias = PutValue | GetValue | DeleteValue | ListValues | ClearValues | TransferValue

VALUE_COMMANDS: Final[dict[str, type[ValueCommand]]] = {
    "value.put": PutValue,
    "value.get": GetValue,
    "value.delete": DeleteValue,
    "value.list": ListValues,
    "value.clear": ClearValues,
    "value.transfer": TransferValue,
}
"""Command class by wire type."""
