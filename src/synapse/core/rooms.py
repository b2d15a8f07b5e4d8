"""Rooms and the channels in them: who is a member, and the gapless number of each channel's last message."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from synapse.core.by import By, Rules
from synapse.core.events import (
    ChannelCreated,
    ChannelDeleted,
    ChannelJoined,
    ChannelLeft,
    Event,
    RoomCreated,
    RoomDeleted,
    RoomJoined,
    RoomLeft,
)
from synapse.errors import Rejected
from synapse.protocol.commands import (
    CreateChannel,
    CreateRoom,
    DeleteChannel,
    DeleteRoom,
    JoinChannel,
    JoinRoom,
    LeaveChannel,
    LeaveRoom,
)
from synapse.protocol.names import GENERAL, require_segment, shown, split_address
from synapse.protocol.terms import ADMIN

if TYPE_CHECKING:
    from synapse.core.state import State


@dataclass(slots=True)
class Room:
    """A room. id: seq of its creation. members: agent ids."""

    id: int
    name: str
    type: str
    bootstrap: bool
    created_at_ms: int
    created_by: str
    members: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Channel:
    """A channel of a room. last_n: number of its last message."""

    id: int
    room: int
    name: str
    type: str
    bootstrap: bool
    created_at_ms: int
    created_by: str
    last_n: int = 0
    members: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Rooms:
    """All rooms and channels. by_address: `room:channel`."""

    by_id: dict[int, Room] = field(default_factory=dict)
    by_name: dict[str, Room] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    by_address: dict[str, Channel] = field(default_factory=dict)
    in_room: dict[int, dict[str, Channel]] = field(default_factory=dict)

    def add(self, room: Room) -> None:
        """Put a room in place."""
        assert room.name not in self.by_name, "a room's name is taken once"
        self.by_id[room.id] = room
        self.by_name[room.name] = room
        self.in_room[room.id] = {}

    def add_channel(self, channel: Channel) -> None:
        """Put a channel into its room."""
        address = self.address(channel)
        assert address not in self.by_address, "an address is taken once"
        self.channels[channel.id] = channel
        self.by_address[address] = channel
        self.in_room[channel.room][channel.name] = channel

    def remove(self, room_id: int) -> None:
        """Take a room and its channels away."""
        for channel in list(self.in_room[room_id].values()):
            self.remove_channel(channel.id)
        room = self.by_id.pop(room_id)
        del self.by_name[room.name]
        del self.in_room[room_id]

    def remove_channel(self, channel_id: int) -> None:
        """Take a channel away."""
        channel = self.channels.pop(channel_id)
        del self.by_address[self.address(channel)]
        del self.in_room[channel.room][channel.name]

    def address(self, channel: Channel) -> str:
        """`room:channel`."""
        return f"{self.by_id[channel.room].name}:{channel.name}"


def may_see(room: Room, by: By) -> bool:
    """True when the room is there for who asks; one that may not see it is told that there is none."""
    return by.rooms is None or room.name in by.rooms


def room_of(state: "State", name: str | None, by: By) -> Room:
    """The room named, else the home's. Raises `Rejected`: `bad_name`, `not_found`."""
    if name is None:
        name = by.home.partition(":")[0]
    return require_room(state, name, by)


def require_room(state: "State", name: str, by: By) -> Room:
    """The room of that name, if who asks may see it. Raises `Rejected`: `bad_name` or `not_found`."""
    room = state.rooms.by_name.get(name)
    if room is None or not may_see(room, by):
        require_segment(name, "room")
        raise Rejected(
            "not_found",
            f"no room {name}: synapse room list shows them, synapse room join {name} may create it",
            {"room": name},
        )
    return room


def require_channel(state: "State", address: str, by: By) -> Channel:
    """The channel at `room:channel`, if who asks may see it. Raises `Rejected`: `bad_name` or `not_found`."""
    channel = state.rooms.by_address.get(address)
    if channel is None or not may_see(state.rooms.by_id[channel.room], by):
        room, name = split_address(address)
        raise Rejected(
            "not_found",
            f"no channel {room}:{name}: synapse channel list shows them, "
            f"synapse channel join {room}:{name} may create it",
            {"room": room, "channel": name},
        )
    return channel


def _require_may_create(rules: Rules, by: By) -> None:
    if rules.create_needs_operator and not by.has_role(ADMIN):
        raise Rejected(
            "not_permitted", "on this hub only an operator creates rooms and channels (setting create_needs_operator)"
        )


def _require_type(text: str) -> None:
    if not 0 < len(text) <= 64:
        raise Rejected("bad_request", f"type {shown(text)} must have 1 to 64 characters - at `$.body.type`")


def _require_space(state: "State", rules: Rules, room: Room | None) -> None:
    """One more room (`room` is None), or one more channel in `room`."""
    limits = rules.limits
    have, most, name = (
        (len(state.rooms.by_id), limits.rooms_max, "rooms_max")
        if room is None
        else (len(state.rooms.in_room[room.id]), limits.channels_per_room_max, "channels_per_room_max")
    )
    if have >= most:
        raise Rejected("limit", f"there are {have} of {most} already ({name})", {"limit": name, "value": most})


def _new_room(
    state: "State", rules: Rules, name: str, room_type: str, channels: list[str], *, bootstrap: bool = False
) -> list[Event]:
    """A room and its channels; the room's id will be the next seq."""
    _require_space(state, rules, None)
    room_id = state.seq + 1
    events: list[Event] = [RoomCreated(name=name, type=room_type, bootstrap=bootstrap)]
    events += [ChannelCreated(room=room_id, name=channel, bootstrap=bootstrap) for channel in channels]
    return events


def decide_create_room(state: "State", rules: Rules, command: CreateRoom, by: By) -> list[Event]:
    """A new room with its general channel."""
    name = require_segment(command.room, "room")
    _require_type(command.type)
    _require_may_create(rules, by)
    if name in state.rooms.by_name:
        raise Rejected(
            "already_exists", f"the room {name} exists: join it with synapse room join {name}", {"room": name}
        )
    return _new_room(state, rules, name, command.type, [GENERAL])


def decide_create_channel(state: "State", rules: Rules, command: CreateChannel, by: By) -> list[Event]:
    """A new channel in a room that exists."""
    room_name, name = split_address(command.channel)
    _require_type(command.type)
    _require_may_create(rules, by)
    room = require_room(state, room_name, by)
    if command.channel in state.rooms.by_address:
        raise Rejected(
            "already_exists",
            f"the channel {command.channel} exists: join it with synapse channel join {command.channel}",
            {"channel": command.channel},
        )
    _require_space(state, rules, room)
    return [ChannelCreated(room=room.id, name=name, type=command.type)]


def decide_delete_room(state: "State", command: DeleteRoom, by: By) -> list[Event]:
    """An empty room goes, with its channels."""
    by.require_operator("deleting a room")
    room = require_room(state, command.room, by)
    bootstrap = room.bootstrap or any(channel.bootstrap for channel in state.rooms.in_room[room.id].values())
    _require_deletable(state, room.name, room.members, bootstrap=bootstrap)
    _require_no_leases(state, room)
    return [RoomDeleted(room=room.id)]


def decide_delete_channel(state: "State", command: DeleteChannel, by: By) -> list[Event]:
    """An empty channel goes."""
    by.require_operator("deleting a channel")
    channel = require_channel(state, command.channel, by)
    _require_deletable(state, command.channel, channel.members, bootstrap=channel.bootstrap)
    return [ChannelDeleted(channel=channel.id)]


def _require_deletable(state: "State", what: str, members: set[int], *, bootstrap: bool) -> None:
    if bootstrap:
        raise Rejected("protected", f"{what} comes from the hub's configuration and is never deleted", {"name": what})
    if members:
        names = sorted(state.agents.by_id[member].name for member in members)
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise Rejected(
            "not_empty",
            f"{what} has {len(names)} members ({', '.join(names[:5])}{more}): they leave first",
            {"name": what, "members": names[:50], "count": len(names)},
        )


def _require_no_leases(state: "State", room: Room) -> None:
    leases = [lease for lease in state.leases.live.values() if lease.ask.room == room.id]
    places = [place for place in state.leases.places.values() if place.ask.room == room.id]
    if leases or places:
        first = (leases or places)[0].ask
        raise Rejected(
            "not_empty",
            f"{room.name} has {len(leases)} leases and {len(places)} claims that wait, such as {first.task} of "
            f"{first.owner}: they end first",
            {"name": room.name, "leases": len(leases), "waiting": len(places)},
        )


def _require_member_space(rules: Rules, members: set[int], what: str) -> None:
    most = rules.limits.members_max
    if len(members) >= most:
        raise Rejected(
            "limit", f"{what} has {most} members, as many as allowed", {"limit": "members_max", "value": most}
        )


def decide_join_room(state: "State", rules: Rules, command: JoinRoom, by: By) -> list[Event]:
    """Membership of a room, creating it where the hub allows."""
    agent = by.require_agent()
    room = state.rooms.by_name.get(require_segment(command.room, "room"))
    if room is None:
        if not rules.auto_create:
            require_room(state, command.room, by)
        _require_may_create(rules, by)
        return [*_new_room(state, rules, command.room, "room", [GENERAL]), RoomJoined(room=state.seq + 1, agent=agent)]
    if agent in room.members:
        return []
    _require_member_space(rules, room.members, room.name)
    return [RoomJoined(room=room.id, agent=agent)]


def decide_join_channel(state: "State", rules: Rules, command: JoinChannel, by: By) -> list[Event]:
    """Membership of a channel and its room, creating what is missing where the hub allows."""
    agent = by.require_agent()
    room_name, name = split_address(command.channel)
    channel = state.rooms.by_address.get(command.channel)
    events: list[Event] = []
    if channel is None:
        if not rules.auto_create:
            require_channel(state, command.channel, by)
        _require_may_create(rules, by)
        room = state.rooms.by_name.get(room_name)
        if room is None:
            channels = [GENERAL] if name == GENERAL else [GENERAL, name]
            events = _new_room(state, rules, room_name, "room", channels)
            return [*events, ChannelJoined(channel=state.seq + len(events), agent=agent)]
        _require_space(state, rules, room)
        _require_member_space(rules, room.members - {agent}, room_name)
        return [ChannelCreated(room=room.id, name=name), ChannelJoined(channel=state.seq + 1, agent=agent)]
    if agent in channel.members:
        return []
    _require_member_space(rules, channel.members, command.channel)
    _require_member_space(rules, state.rooms.by_id[channel.room].members - {agent}, room_name)
    return [ChannelJoined(channel=channel.id, agent=agent)]


def decide_leave_room(state: "State", command: LeaveRoom, by: By) -> list[Event]:
    """Out of a room and all its channels."""
    agent = by.require_agent()
    room = require_room(state, command.room, by)
    return [RoomLeft(room=room.id, agent=agent)] if agent in room.members else []


def decide_leave_channel(state: "State", command: LeaveChannel, by: By) -> list[Event]:
    """Out of a channel."""
    agent = by.require_agent()
    channel = require_channel(state, command.channel, by)
    return [ChannelLeft(channel=channel.id, agent=agent)] if agent in channel.members else []


def decide_bootstrap(state: "State", rules: Rules, wanted: dict[str, list[str]]) -> list[Event]:
    """What the configuration asks for and is not there yet. At most one room's events at a time: call until empty."""
    for room_name, channels in wanted.items():
        require_segment(room_name, "room")
        for channel in channels:
            require_segment(channel, "channel")
        room = state.rooms.by_name.get(room_name)
        if room is None:
            return _new_room(state, rules, room_name, "room", channels or [GENERAL], bootstrap=True)
        missing = [name for name in channels if name not in state.rooms.in_room[room.id]]
        if missing:
            return [ChannelCreated(room=room.id, name=name, bootstrap=True) for name in missing]
    return []
