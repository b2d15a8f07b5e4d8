"""What is answered about shared values; `replies` has them in its union."""

from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from synapse.protocol import value_commands


class EarlierOwner(msgspec.Struct, frozen=True, kw_only=True):
    """Who owned a value, and until when."""

    owner: str
    until_at_ms: int


class ValueInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value. version: seq of its last change. owners: earlier ones, oldest first; `value.get` tells them."""

    key: str
    room: str
    value: msgspec.Raw | UnsetType = UNSET
    version: int
    owner: str
    created_at_ms: int | UnsetType = UNSET
    updated_at_ms: int
    updated_by: str
    expires_at_ms: int | None
    owners: tuple[EarlierOwner, ...] | UnsetType = UNSET
    cursor: str | UnsetType = UNSET


class ValueRemoved(msgspec.Struct, frozen=True, kw_only=True):
    """The value is gone. version: the one it had."""

    key: str
    room: str
    deleted: bool
    version: int
    cursor: str


class ValuesPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of values by key."""

    seq: int
    values: tuple[ValueInfo, ...]
    next: str | None
    cursor: str


class ValuesRemoved(msgspec.Struct, frozen=True, kw_only=True):
    """How many values are gone."""

    room: str
    prefix: str
    cleared: int
    cursor: str


class ValueOwned(msgspec.Struct, frozen=True, kw_only=True):
    """Whose value it is now, and whose it was."""

    key: str
    room: str
    owner: str
    previous: str
    version: int
    cursor: str


ValueReply: TypeAlias = ValueInfo | ValueRemoved | ValuesPage | ValuesRemoved | ValueOwned

VALUE_REPLY_TO: Final[dict[type[msgspec.Struct], type[ValueReply]]] = {
    value_commands.PutValue: ValueInfo,
    value_commands.GetValue: ValueInfo,
    value_commands.DeleteValue: ValueRemoved,
    value_commands.ListValues: ValuesPage,
    value_commands.ClearValues: ValuesRemoved,
    value_commands.TransferValue: ValueOwned,
}
