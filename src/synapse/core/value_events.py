"""What happens to shared values; `events` has them in its union."""

from typing import Final, TypeAlias, get_args

import msgspec

from synapse.core.idem import Idem


class ValuePut(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key of a room has this value; its version is the seq of this event. replaces: the version before."""

    room: int
    room_name: str
    key: str
    value: msgspec.Raw
    owner: str
    owner_id: int | None = None
    expires_at_ms: int | None = None
    replaces: int | None = None
    idem: Idem | None = None


class ValueDeleted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody removed a value."""

    room: int
    room_name: str
    key: str
    version: int
    idem: Idem | None = None


class ValueExpired(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The time of a value passed."""

    room: int
    room_name: str
    key: str
    version: int
    idem: Idem | None = None


class ValueTransferred(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value has another owner; its version is the seq of this event. version: the one before."""

    room: int
    room_name: str
    key: str
    previous: str
    owner: str
    owner_id: int
    version: int
    idem: Idem | None = None


class ValuesCleared(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All values of a room whose key begins with `prefix` are gone, `count` of them."""

    room: int
    room_name: str
    prefix: str
    count: int
    idem: Idem | None = None


ValueEvent: TypeAlias = ValuePut | ValueDeleted | ValueExpired | ValueTransferred | ValuesCleared

VALUE_EVENTS: Final = frozenset(get_args(ValueEvent))
