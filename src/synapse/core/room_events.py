"""What happens to rooms and channels; `events` has them in its union."""

from typing import TypeAlias

import msgspec

from synapse.core.idem import Idem


class RoomCreated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A room exists. bootstrap: it came from the configuration and cannot be deleted."""

    name: str
    type: str = "room"
    bootstrap: bool = False
    idem: Idem | None = None


class RoomDeleted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A room without members is gone, with its channels."""

    room: int
    idem: Idem | None = None


class RoomJoined(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent became a member of a room."""

    room: int
    agent: int
    idem: Idem | None = None


class RoomLeft(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent left a room and all its channels."""

    room: int
    agent: int
    idem: Idem | None = None


class ChannelCreated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A channel exists in a room."""

    room: int
    name: str
    type: str = "channel"
    bootstrap: bool = False
    idem: Idem | None = None


class ChannelDeleted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A channel without members is gone."""

    channel: int
    idem: Idem | None = None


class ChannelJoined(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent became a member of a channel, and of its room."""

    channel: int
    agent: int
    idem: Idem | None = None


class ChannelLeft(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent left a channel; it stays in the room."""

    channel: int
    agent: int
    idem: Idem | None = None


RoomEvent: TypeAlias = (
    RoomCreated | RoomDeleted | RoomJoined | RoomLeft | ChannelCreated | ChannelDeleted | ChannelJoined | ChannelLeft
)
