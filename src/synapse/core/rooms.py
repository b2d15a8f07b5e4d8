"""Rooms and the channels in them: who is a member, and the gapless number of each channel's last message."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

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
from synapse.core.signals import PLAIN, TELEMETRY, TELEMETRY_ADDRESS, is_telemetry_by_name, require_schema
from synapse.errors import Rejected, bad_request
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
from synapse.protocol.cursor import question_id
from synapse.protocol.names import GENERAL, require_segment, shown, split_address
from synapse.protocol.terms import ADMIN, AGENT

if TYPE_CHECKING:
    from synapse.core.agents import Agent
    from synapse.core.state import State

RESERVED: Final = ("role", "pool")
"""What no new room is called: its channels would have addresses of another kind. One of an older journal stays."""


@dataclass(slots=True)
class Room:
    """A room. id: seq of its creation. members: agent ids. Of a private one, invited: who may join; shown_all: those of
    them who will read what was said before; after: by member's id as text, the seq behind which it reads."""

    id: int
    name: str
    type: str
    bootstrap: bool
    created_at_ms: int
    created_by: str
    members: set[int] = field(default_factory=set)
    private: bool = False
    invited: set[int] = field(default_factory=set)
    shown_all: set[int] = field(default_factory=set)
    after: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Channel:
    """A channel of a room. last_n: number of its last message. private, invited, shown_all, after: as of a
    room. ephemeral: its messages are not kept."""

    id: int
    room: int
    name: str
    type: str
    bootstrap: bool
    created_at_ms: int
    created_by: str
    last_n: int = 0
    members: set[int] = field(default_factory=set)
    private: bool = False
    invited: set[int] = field(default_factory=set)
    shown_all: set[int] = field(default_factory=set)
    after: dict[str, int] = field(default_factory=dict)
    ephemeral: bool = False
    schema: str | None = None


def take_in(where: Room | Channel, agent: int, after: int) -> None:
    """An agent became a member; a part of `apply`."""
    where.members.add(agent)
    where.invited.discard(agent)
    where.shown_all.discard(agent)
    if after:
        where.after[str(agent)] = after


def put_out(where: Room | Channel, agent: int) -> None:
    """An agent is no member any more, and not invited; a part of `apply`."""
    where.members.discard(agent)
    where.invited.discard(agent)
    where.shown_all.discard(agent)
    where.after.pop(str(agent), None)


def invite(where: Room | Channel, agent: int, *, shown_all: bool) -> None:
    """An agent may join; a part of `apply`."""
    where.invited.add(agent)
    if shown_all:
        where.shown_all.add(agent)
    else:
        where.shown_all.discard(agent)


@dataclass(slots=True)
class Rooms:
    """All rooms and channels. by_address: `room:channel`. open: those of them that are not private, nor in a private
    room. private: ids of the rooms that are for their members only."""

    by_id: dict[int, Room] = field(default_factory=dict)
    by_name: dict[str, Room] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    by_address: dict[str, Channel] = field(default_factory=dict)
    open: dict[str, Channel] = field(default_factory=dict)
    in_room: dict[int, dict[str, Channel]] = field(default_factory=dict)
    private: set[int] = field(default_factory=set)

    def add(self, room: Room) -> None:
        """Put a room in place."""
        assert room.name not in self.by_name, "a room's name is taken once"
        self.by_id[room.id] = room
        self.by_name[room.name] = room
        self.in_room[room.id] = {}
        if room.private:
            self.private.add(room.id)

    def add_channel(self, channel: Channel) -> None:
        """Put a channel into its room."""
        address = self.address(channel)
        assert address not in self.by_address, "an address is taken once"
        self.channels[channel.id] = channel
        self.by_address[address] = channel
        if not channel.private and channel.room not in self.private:
            self.open[address] = channel
        self.in_room[channel.room][channel.name] = channel

    def remove(self, room_id: int) -> None:
        """Take a room and its channels away."""
        for channel in list(self.in_room[room_id].values()):
            self.remove_channel(channel.id)
        room = self.by_id.pop(room_id)
        del self.by_name[room.name]
        del self.in_room[room_id]
        self.private.discard(room_id)

    def remove_channel(self, channel_id: int) -> None:
        """Take a channel away."""
        channel = self.channels.pop(channel_id)
        address = self.address(channel)
        del self.by_address[address]
        self.open.pop(address, None)
        del self.in_room[channel.room][channel.name]

    def address(self, channel: Channel) -> str:
        """`room:channel`."""
        return f"{self.by_id[channel.room].name}:{channel.name}"


def may_see(room: Room, by: By) -> bool:
    """True when the room is there for who asks; one that may not see it is told that there is none."""
    return (by.rooms is None or room.name in by.rooms) and (not room.private or by.agent in room.members)


def may_see_channel(state: "State", channel: Channel, by: By) -> bool:
    """As `may_see`."""
    return may_see(state.rooms.by_id[channel.room], by) and (not channel.private or by.agent in channel.members)


def knows_agent(state: "State", agent: int, by: By) -> bool:
    """True unless who asks is kept to some rooms, and the agent is in none of them."""
    if by.rooms is None or agent == by.agent:
        return True
    rooms = (state.rooms.by_name.get(name) for name in by.rooms)
    return any(agent in room.members for room in rooms if room is not None and may_see(room, by))


def acquaintances(state: "State", by: By) -> set[int] | None:
    """The agents that who asks knows, as `knows_agent` has it; None for all."""
    if by.rooms is None:
        return None
    rooms = (state.rooms.by_name.get(name) for name in by.rooms)
    mine = () if by.agent is None else (by.agent,)
    return set(mine).union(*(room.members for room in rooms if room is not None and may_see(room, by)))


def room_known(state: "State", name: str, by: By) -> Room:
    """As `require_room`; an operator also knows that a private one is there, and who is in it."""
    room = state.rooms.by_name.get(name)
    return room if room is not None and _is_overseen(room, by) else require_room(state, name, by)


def channel_known(state: "State", address: str, by: By) -> Channel:
    """As `require_channel`; an operator also knows that a private one is there, and who is in it."""
    channel = state.rooms.by_address.get(address)
    if channel is not None and _is_overseen(state.rooms.by_id[channel.room], by):
        return channel
    return require_channel(state, address, by)


def _is_overseen(room: Room, by: By) -> bool:
    return by.has_role(ADMIN) and (by.rooms is None or room.name in by.rooms)


def knows(state: "State", where: Room | Channel, by: By) -> bool:
    """True when a list shows this room or channel to who asks."""
    room = where if isinstance(where, Room) else state.rooms.by_id[where.room]
    if _is_overseen(room, by):
        return True
    return may_see(room, by) if isinstance(where, Room) else may_see_channel(state, where, by)


def reads(state: "State", channel: Channel, agent: int) -> bool:
    """True unless the channel, or its room, is private and the agent is no member of it."""
    room = state.rooms.by_id[channel.room]
    return (not room.private or agent in room.members) and (not channel.private or agent in channel.members)


def insiders(room: Room, agents: Iterable[int]) -> tuple[int, ...]:
    """Those of these agents to whom something of the room may be told."""
    return tuple(agent for agent in agents if not room.private or agent in room.members)


def require_insider(room: Room, agent: "Agent") -> None:
    """Raises `Rejected(not_permitted)` when what is of the room is not for this agent."""
    if not insiders(room, (agent.id,)):
        raise Rejected(
            "not_permitted",
            f"{agent.name} is no member of the private room {room.name}: ask it in there first "
            f"(synapse room invite {room.name} {agent.name})",
            {"room": room.name, "agent": agent.name},
        )


def floor_of_channel(state: "State", channel: Channel, agent: int | None) -> int:
    """The seq behind which this agent reads a channel."""
    if agent is None:
        return 0
    return max(state.rooms.by_id[channel.room].after.get(str(agent), 0), channel.after.get(str(agent), 0))


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
        raise Rejected("not_found", f"no room {name}: {_elsewhere(by, f'room join {name}')}", {"room": name})
    return room


def require_granted(name: str, by: By) -> str:
    """The name of a room that is, or would be, there for who asks. Raises `Rejected`: `bad_name` or `not_found`."""
    require_segment(name, "room")
    if by.rooms is not None and name not in by.rooms:
        raise Rejected("not_found", f"no room {name}: {_elsewhere(by, f'room join {name}')}", {"room": name})
    return name


def _elsewhere(by: By, joining: str) -> str:
    """What to do instead of naming what is not there, or is hidden: the same words for both."""
    if by.rooms is None:
        return f"synapse {joining.split()[0]} list shows them, synapse {joining} may create it"
    return f"this token is for {', '.join(sorted(by.rooms))} (--room, or SYNAPSE_ROOM)"


def require_channel(state: "State", address: str, by: By) -> Channel:
    """The channel at `room:channel`, if who asks may see it. Raises `Rejected`: `bad_name` or `not_found`."""
    channel = state.rooms.open.get(address)
    if channel is not None and by.rooms is None:  # nearly always
        return channel
    channel = state.rooms.by_address.get(address)
    if channel is None or not may_see_channel(state, channel, by):
        room, name = split_address(address)
        raise Rejected(
            "not_found",
            f"no channel {room}:{name}: {_elsewhere(by, f'channel join {room}:{name}')}",
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
        raise bad_request(f"type {shown(text)} must have 1 to 64 characters", "$.body.type")


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
    state: "State",
    rules: Rules,
    name: str,
    room_type: str,
    channels: list[str],
    *,
    bootstrap: bool = False,
    private: bool = False,
) -> list[Event]:
    """A room and its channels; the room's id will be the next seq."""
    if name in RESERVED:
        raise Rejected(
            "bad_name",
            f"no room is called {name}: {name}:NAME is an address of another kind; take another name",
            {"name": name, "reserved": list(RESERVED)},
        )
    _require_space(state, rules, None)
    room_id = state.seq + 1
    events: list[Event] = [RoomCreated(name=name, type=room_type, bootstrap=bootstrap, private=private)]
    events += [_new_channel(room_id, name, channel, bootstrap=bootstrap) for channel in channels]
    return events


def _new_channel(room_id: int, room: str, channel: str, *, bootstrap: bool = False) -> ChannelCreated:
    """A channel of which nothing more is said than its name: all of the room `telemetry` but general are for that."""
    if is_telemetry_by_name(room, channel):
        return ChannelCreated(room=room_id, name=channel, bootstrap=bootstrap, ephemeral=True, schema=TELEMETRY)
    return ChannelCreated(room=room_id, name=channel, bootstrap=bootstrap)


def decide_create_room(state: "State", rules: Rules, command: CreateRoom, by: By) -> list[Event]:
    """A new room with its general channel."""
    name = require_granted(command.room, by)
    _require_type(command.type)
    _require_may_create(rules, by)
    known = state.rooms.by_name.get(name)
    if known is not None:
        how = f"join it with synapse room join {name}" if may_see(known, by) else "take another name"
        raise Rejected("already_exists", f"the room {name} exists: {how}", {"room": name})
    events = _new_room(state, rules, name, command.type, [GENERAL], private=command.private)
    if command.private and by.agent is not None:  # else it would be there for nobody
        events.append(RoomJoined(room=state.seq + 1, agent=by.agent))
    return events


def decide_create_channel(state: "State", rules: Rules, command: CreateChannel, by: By) -> list[Event]:
    """A new channel in a room that exists."""
    room_name, name = split_address(command.channel)
    _require_type(command.type)
    require_schema(command.schema, ephemeral=command.ephemeral)
    _require_may_create(rules, by)
    room = require_room(state, room_name, by)
    known = state.rooms.by_address.get(command.channel)
    if known is not None:
        how = f"join it with synapse channel join {command.channel}"
        how = how if may_see_channel(state, known, by) else "take another name"
        raise Rejected("already_exists", f"the channel {command.channel} exists: {how}", {"channel": command.channel})
    _require_space(state, rules, room)
    events: list[Event] = [
        ChannelCreated(
            room=room.id,
            name=name,
            type=command.type,
            private=command.private,
            ephemeral=command.ephemeral,
            schema=command.schema,
        )
    ]
    if command.private and by.agent is not None:
        _require_member_space(rules, room.members - {by.agent}, room_name)
        events.append(ChannelJoined(channel=state.seq + 1, agent=by.agent))
    return events


def decide_telemetry(state: "State", rules: Rules, address: str, by: By) -> list[Event]:
    """The default channel for telemetry, made when it is first used, where joining would make it too; else nothing."""
    if address != TELEMETRY_ADDRESS or address in state.rooms.by_address or not rules.auto_create:
        return []
    room_name, _, name = address.partition(":")
    room = state.rooms.by_name.get(room_name)
    if not by.has_role(AGENT) or (by.rooms is not None and room_name not in by.rooms):
        return []
    if room is None:
        _require_may_create(rules, by)
        return _new_room(state, rules, room_name, "room", [GENERAL, name])
    if not may_see(room, by):
        return []
    _require_may_create(rules, by)
    _require_space(state, rules, room)
    return [_new_channel(room.id, room_name, name)]


def decide_delete_room(state: "State", command: DeleteRoom, by: By) -> list[Event]:
    """An empty room goes, with its channels."""
    by.require_operator("deleting a room")
    room = room_known(state, command.room, by)
    bootstrap = room.bootstrap or any(channel.bootstrap for channel in state.rooms.in_room[room.id].values())
    _require_deletable(state, room.name, room.members, bootstrap=bootstrap)
    _require_nothing_open(state, room)
    _require_no_questions(state, room)
    return [RoomDeleted(room=room.id)]


def decide_delete_channel(state: "State", command: DeleteChannel, by: By) -> list[Event]:
    """An empty channel goes."""
    by.require_operator("deleting a channel")
    channel = channel_known(state, command.channel, by)
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


def _require_nothing_open(state: "State", room: Room) -> None:
    running = [session for session in state.sessions.by_id.values() if session.room == room.id and session.is_open]
    if running:
        raise Rejected(
            "not_empty",
            f"{room.name} has {len(running)} open sessions, such as s{running[0].id} of {running[0].owner}: they end "
            f"first (synapse session end --session s{running[0].id})",
            {"name": room.name, "sessions": len(running)},
        )
    lanes = [lane for lane in state.lanes.by_id.values() if lane.room == room.id and lane.is_open]
    if lanes:
        raise Rejected(
            "not_empty",
            f"{room.name} has {len(lanes)} open lanes, such as l{lanes[0].id} of {lanes[0].sender_name}: they end "
            f"first (synapse lane close l{lanes[0].id})",
            {"name": room.name, "lanes": len(lanes)},
        )
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


def _require_no_questions(state: "State", room: Room) -> None:
    open_ = state.questions.of_room.get(room.id)
    if open_:
        first = question_id(next(iter(open_)))
        raise Rejected(
            "not_empty",
            f"{len(open_)} questions of {room.name} are open, {first} first: they are answered or withdrawn first "
            f"(synapse questions --room {room.name})",
            {"name": room.name, "questions": len(open_)},
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
    room = state.rooms.by_name.get(require_granted(command.room, by))
    if room is None:
        if not rules.auto_create:
            require_room(state, command.room, by)
        _require_may_create(rules, by)
        return [*_new_room(state, rules, command.room, "room", [GENERAL]), RoomJoined(room=state.seq + 1, agent=agent)]
    if agent not in room.invited:
        require_room(state, command.room, by)
    if agent in room.members:
        return []
    _require_member_space(rules, room.members, room.name)
    return [RoomJoined(room=room.id, agent=agent, after=_after(state, room, agent))]


def decide_join_channel(state: "State", rules: Rules, command: JoinChannel, by: By) -> list[Event]:
    """Membership of a channel and its room, creating what is missing where the hub allows."""
    agent = by.require_agent()
    room_name, name = split_address(command.channel)
    require_granted(room_name, by)
    channel = state.rooms.by_address.get(command.channel)
    events: list[Event] = []
    if channel is None:
        room = state.rooms.by_name.get(room_name)
        if not rules.auto_create or (room is not None and not may_see(room, by)):
            require_channel(state, command.channel, by)
        _require_may_create(rules, by)
        if room is None:
            channels = [GENERAL] if name == GENERAL else [GENERAL, name]
            events = _new_room(state, rules, room_name, "room", channels)
            return [*events, ChannelJoined(channel=state.seq + len(events), agent=agent)]
        _require_space(state, rules, room)
        _require_member_space(rules, room.members - {agent}, room_name)
        return [_new_channel(room.id, room_name, name), ChannelJoined(channel=state.seq + 1, agent=agent)]
    room = state.rooms.by_id[channel.room]
    if agent not in channel.invited or not may_see(room, by):
        require_channel(state, command.channel, by)
    if agent in channel.members:
        return []
    _require_member_space(rules, channel.members, command.channel)
    _require_member_space(rules, room.members - {agent}, room_name)
    return [ChannelJoined(channel=channel.id, agent=agent, after=_after(state, channel, agent))]


def _after(state: "State", where: Room | Channel, agent: int) -> int:
    """From where on a new member reads: in a private place from now on, unless it was invited to all of it."""
    return state.seq if where.private and agent not in where.shown_all else 0


def decide_leave_room(state: "State", command: LeaveRoom, by: By) -> list[Event]:
    """Out of a room and all its channels."""
    agent = by.require_agent()
    room = require_room(state, command.room, by)
    if room.private:
        _require_nothing_held(state, room, agent)
    return [RoomLeft(room=room.id, agent=agent)] if agent in room.members else []


def _require_nothing_held(state: "State", room: Room, agent: int) -> None:
    """Who has left a private room could not release there any more. Raises `Rejected(not_empty)`."""
    leases = [lease for lease in state.leases.of_agent.get(agent, {}).values() if lease.ask.room == room.id]
    places = [place for place in state.leases.places_of_agent.get(agent, {}).values() if place.ask.room == room.id]
    if leases or places:
        tasks = [*(lease.ask.task for lease in leases), *(place.ask.task for place in places)]
        raise Rejected(
            "not_empty",
            f"you hold {len(leases)} leases in the private room {room.name} and wait for {len(places)}, such as "
            f"{tasks[0]}: release or hand them off first (synapse release {tasks[0]} --room {room.name})",
            {"name": room.name, "leases": len(leases), "waiting": len(places), "tasks": tasks[:8]},
        )


def decide_leave_channel(state: "State", command: LeaveChannel, by: By) -> list[Event]:
    """Out of a channel."""
    agent = by.require_agent()
    channel = require_channel(state, command.channel, by)
    return [ChannelLeft(channel=channel.id, agent=agent)] if agent in channel.members else []


def decide_bootstrap(
    state: "State", rules: Rules, wanted: dict[str, list[str]], ephemeral: dict[str, str] | None = None
) -> list[Event]:
    """What the configuration asks for and is not there yet. At most one room's events at a time: call until empty.
    ephemeral: channels by address, each with its schema or `plain`; their rooms are made too."""
    for address, schema in (ephemeral or {}).items():
        room_name, name = split_address(address)
        found = state.rooms.by_address.get(address)
        if found is not None:
            continue
        room = state.rooms.by_name.get(room_name)
        if room is None:
            return _new_room(state, rules, room_name, "room", [GENERAL], bootstrap=True)
        held_to = None if schema == PLAIN else schema
        return [ChannelCreated(room=room.id, name=name, bootstrap=True, ephemeral=True, schema=held_to)]
    for room_name, channels in wanted.items():
        require_segment(room_name, "room")
        for channel in channels:
            require_segment(channel, "channel")
        room = state.rooms.by_name.get(room_name)
        if room is None:
            return _new_room(state, rules, room_name, "room", channels or [GENERAL], bootstrap=True)
        missing = [name for name in channels if name not in state.rooms.in_room[room.id]]
        if missing:
            return [_new_channel(room.id, room_name, name, bootstrap=True) for name in missing]
    return []
