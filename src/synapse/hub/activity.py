"""What agents do, for who watches: who, what kind of command, what it was about and how it ended; never what it said.

A thing is named by the field of its command that holds its name, and only where that is a name. It belongs to a room
where its command does; who may not see that room is told nothing. Of what goes to inboxes the recipient is not told.
"""

import re
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import msgspec

from synapse.core.by import By
from synapse.core.kernel import MUTATIONS
from synapse.core.messages import address_of
from synapse.core.rooms import Channel, Room, may_see
from synapse.errors import Rejected
from synapse.protocol.commands import TYPE_OF, Command, Hello, SendMessage
from synapse.protocol.signal_notices import Activity

if TYPE_CHECKING:
    from synapse.core.state import State

ABOUT: Final = {
    "task": "task",
    "key": "value",
    "resource": "resource",
    "pool": "pool",
    "channel": "channel",
    "role": "role",
    "name": "agent",
    "room": "room",
    "place": "room",
}
"""Fields that name what a command is about, the first one that it has, and what that is called."""
_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:#@-]{0,255}\Z").match


def _fields(kind: type[Command]) -> tuple[str | None, bool]:
    """The field that names what the command is about, and whether it has a room."""
    names = {field.name for field in msgspec.structs.fields(kind)}
    return next((name for name in ABOUT if name in names), None), "room" in names


_FIELDS: Final = {kind: _fields(kind) for kind in MUTATIONS if kind not in (Hello, SendMessage)}


class Acted(NamedTuple):
    """Something an agent did. room, channel: where it belongs; who may not see either is told nothing."""

    notice: Activity
    room: Room | None
    channel: Channel | None = None

    def is_for(self, by: By) -> bool:
        """True when a follower may hear of it."""
        if self.channel is not None and self.channel.private and by.agent not in self.channel.members:
            return False
        return self.room is None or may_see(self.room, by)


def described(state: "State", command: Command, by: By, outcome: str) -> Acted | None:
    """What is told of a command; None for what nobody is told of."""
    if isinstance(command, SendMessage):
        place = _of_message(state, command, by)
    else:
        place = _of(state, command, by) if type(command) in _FIELDS else None
    if place is None:
        return None
    room, channel, about, name = place
    notice = Activity(
        by=by.actor,
        command=TYPE_OF[type(command)],
        outcome=outcome,
        room=None if room is None else room.name,
        about=about,
        name=name,
        at_ms=by.at_ms,
    )
    return Acted(notice, room, channel)


_Place: TypeAlias = tuple[Room | None, Channel | None, str | None, str | None]
"""Where it belongs, and what it is about."""


def _of(state: "State", command: Command, by: By) -> _Place:
    field, has_room = _FIELDS[type(command)]
    if field is None:
        return None, None, None, None
    text = getattr(command, field)
    name = text if isinstance(text, str) and _name(text) else None
    if field in ("channel", "place") and name is not None:
        return _of_address(state, name, "channel" if ":" in name else "room")
    if not has_room:
        return None, None, ABOUT[field], name
    given = getattr(command, "room", None)
    room = state.rooms.by_name.get(by.home.partition(":")[0] if given is None else given)
    # What is in no room that there is may be anything, and belongs to nobody who could be asked.
    return room, None, ABOUT[field], None if room is None else name


def _of_address(state: "State", address: str, about: str) -> _Place:
    room, channel = state.rooms.by_name.get(address.partition(":")[0]), state.rooms.by_address.get(address)
    is_there = room is not None and (about == "room" or channel is not None)
    return room, channel, about, address if is_there else None


def _of_message(state: "State", command: SendMessage, by: By) -> _Place | None:
    """None for a signal: it changes nothing."""
    try:
        address = address_of(command, by)
    except Rejected:
        return None, None, None, None
    if address is None:
        return None, None, "inbox", None
    channel = state.rooms.by_address.get(address)
    return None if channel is not None and channel.ephemeral else _of_address(state, address, "channel")
