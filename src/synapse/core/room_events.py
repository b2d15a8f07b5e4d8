"""What happens to rooms and channels; `events` has them in its union."""

from typing import Final, TypeAlias, get_args

import msgspec

from synapse.core.idem import Idem
from synapse.core.mail import Mail


class RoomCreated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A room exists. bootstrap: it came from the configuration and cannot be deleted. private: for its members only."""

    name: str
    type: str = "room"
    bootstrap: bool = False
    private: bool = False
    idem: Idem | None = None


class RoomDeleted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A room without members is gone, with its channels."""

    room: int
    idem: Idem | None = None


class RoomJoined(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent became a member of a room. after: of a private one, it reads what was said after this seq."""

    room: int
    agent: int
    after: int = 0
    idem: Idem | None = None


class RoomLeft(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent left a room and all its channels."""

    room: int
    agent: int
    idem: Idem | None = None


class ChannelCreated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A channel exists in a room. private: for its own members only. ephemeral: nothing that is sent to it is
    journalled. schema: of its bodies then."""

    room: int
    name: str
    type: str = "channel"
    bootstrap: bool = False
    private: bool = False
    ephemeral: bool = False
    schema: str | None = None
    idem: Idem | None = None


class ChannelDeleted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A channel without members is gone."""

    channel: int
    idem: Idem | None = None


class ChannelJoined(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent became a member of a channel, and of its room. after: of a private one, it reads what was said after
    this seq."""

    channel: int
    agent: int
    after: int = 0
    idem: Idem | None = None


class ChannelLeft(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent left a channel; it stays in the room."""

    channel: int
    agent: int
    idem: Idem | None = None


class MemberInvited(Mail, frozen=True, kw_only=True, omit_defaults=True):
    """An agent may join a private room, or a private channel of it. place: its name then. history: it will read what
    was said before, too."""

    room: int
    channel: int | None = None
    place: str
    agent: int
    history: bool = False
    idem: Idem | None = None


class MemberRemoved(Mail, frozen=True, kw_only=True, omit_defaults=True):
    """An agent was put out of a room and its channels, or of a channel, or its invitation was taken back."""

    room: int
    channel: int | None = None
    place: str
    agent: int
    idem: Idem | None = None


MemberEvent: TypeAlias = MemberInvited | MemberRemoved

MEMBER_EVENTS: Final = frozenset(get_args(MemberEvent))

RoomEvent: TypeAlias = (
    RoomCreated | RoomDeleted | RoomJoined | RoomLeft | ChannelCreated | ChannelDeleted | ChannelJoined | ChannelLeft
)
