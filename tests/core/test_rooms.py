"""Rooms and channels: created once, joined durably, deleted when empty."""

import pytest
from tests.core.conftest import World, text

from synapse.core.events import (
    ChannelCreated,
    ChannelDeleted,
    ChannelJoined,
    ChannelLeft,
    RoomCreated,
    RoomDeleted,
    RoomJoined,
    RoomLeft,
)
from synapse.core.kernel import Mutation
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
    ListAgents,
    ListChannels,
    ListRooms,
    ShowChannel,
    ShowRoom,
)
from synapse.protocol.limits import Limits
from synapse.protocol.replies import ChannelInfo, Channels, Place, RoomInfo, Rooms, Sent


def members_of(world: World, address: str) -> tuple[str, ...]:
    participants = world.look(ChannelInfo, ShowChannel(channel=address)).participants
    assert isinstance(participants, tuple)
    return participants


def test_a_new_room_has_a_general_channel() -> None:
    world = World()
    world.join("ada")
    head = world.state.seq
    assert world.events(CreateRoom(room="lab", type="science"), "ada") == [
        RoomCreated(name="lab", type="science"),
        ChannelCreated(room=head + 1, name="general"),
    ]
    assert world.look(RoomInfo, ShowRoom(room="lab")).channels == ("general",)
    assert world.refusal(CreateRoom(room="lab"), "ada").code == "already_exists"


def test_a_new_channel_needs_its_room() -> None:
    world = World()
    world.join("ada")
    room = world.state.rooms.by_name["main"].id
    assert world.events(CreateChannel(channel="main:x"), "ada") == [ChannelCreated(room=room, name="x")]
    assert world.refusal(CreateChannel(channel="main:x"), "ada").code == "already_exists"
    assert world.refusal(CreateChannel(channel="lab:x"), "ada").code == "not_found"


def test_joining_what_is_absent_creates_it_in_the_same_step() -> None:
    world = World()
    world.join("ada")
    ada, head = world.agent("ada"), world.state.seq
    assert world.events(JoinChannel(channel="lab:x"), "ada") == [
        RoomCreated(name="lab"),
        ChannelCreated(room=head + 1, name="general"),
        ChannelCreated(room=head + 1, name="x"),
        ChannelJoined(channel=head + 3, agent=ada),
    ]
    head = world.state.seq
    assert world.events(JoinChannel(channel="lab:y"), "ada") == [
        ChannelCreated(room=world.state.rooms.by_name["lab"].id, name="y"),
        ChannelJoined(channel=head + 1, agent=ada),
    ]
    head = world.state.seq
    assert [type(event) for event in world.events(JoinRoom(room="den"), "ada")] == [
        RoomCreated,
        ChannelCreated,
        RoomJoined,
    ]
    assert world.reply(Place, JoinRoom(room="nook"), "ada").created


def test_joining_is_durable_and_doing_it_twice_changes_nothing() -> None:
    world = World()
    world.join("ada")
    first = world.reply(Place, JoinChannel(channel="main:general"), "ada")
    again = world.reply(Place, JoinChannel(channel="main:general"), "ada")
    assert (first.changed, again.changed, again.created) == (True, False, False)
    world.restart()
    assert members_of(world, "main:general") == ("ada",)


def test_leaving_a_room_leaves_its_channels_and_leaving_a_channel_stays_in_the_room() -> None:
    world = World()
    world.join("ada")
    ada = world.agent("ada")
    world.do(JoinChannel(channel="main:general"), "ada")
    channel = world.state.rooms.by_address["main:general"]
    assert world.events(LeaveChannel(channel="main:general"), "ada") == [ChannelLeft(channel=channel.id, agent=ada)]
    assert world.state.rooms.by_name["main"].members == {ada}
    world.do(JoinChannel(channel="main:general"), "ada")
    assert world.events(LeaveRoom(room="main"), "ada") == [RoomLeft(room=channel.room, agent=ada)]
    assert channel.members == set()
    assert (
        world.events(LeaveRoom(room="main"), "ada") == world.events(LeaveChannel(channel="main:general"), "ada") == []
    )


def test_only_an_operator_deletes_and_only_what_is_empty_and_not_of_the_configuration() -> None:
    world = World()
    world.join("ada")
    world.do(JoinChannel(channel="lab:x"), "ada")
    for command in (DeleteRoom(room="lab"), DeleteChannel(channel="lab:x")):
        assert world.refusal(command, "ada").code == "not_permitted"
        refused = world.refusal(command, "operator")
        assert (refused.code, refused.facts["members"]) == ("not_empty", ["ada"])
    for command in (DeleteRoom(room="main"), DeleteChannel(channel="main:general")):
        assert world.refusal(command, "operator").code == "protected"
    world.do(LeaveChannel(channel="lab:x"), "ada")
    channel, room = world.state.rooms.by_address["lab:x"].id, world.state.rooms.by_name["lab"].id
    assert world.events(DeleteChannel(channel="lab:x"), "operator") == [ChannelDeleted(channel=channel)]
    world.do(LeaveRoom(room="lab"), "ada")
    assert world.events(DeleteRoom(room="lab"), "operator") == [RoomDeleted(room=room)]
    assert "lab:general" not in world.state.rooms.by_address


def test_a_room_that_got_a_channel_from_the_configuration_is_not_deleted() -> None:
    world = World()
    world.do(CreateRoom(room="lab"), "operator")
    world.boot({"lab": ["design"]})
    assert world.refusal(DeleteRoom(room="lab"), "operator").code == "protected"


def test_a_recreated_room_and_channel_get_fresh_ids_and_numbers() -> None:
    world = World()
    world.do(CreateRoom(room="lab"), "operator")
    old = (world.state.rooms.by_name["lab"].id, world.state.rooms.by_address["lab:general"].id)
    world.do(DeleteRoom(room="lab"), "operator")
    world.do(CreateRoom(room="lab"), "operator")
    new = (world.state.rooms.by_name["lab"].id, world.state.rooms.by_address["lab:general"].id)
    assert min(new) > max(old)
    assert world.state.rooms.by_address["lab:general"].last_n == 0


def test_the_configuration_is_made_once() -> None:
    world = World()
    wanted = {"science": ["general", "explore"], "main": ["general", "ops"]}
    world.boot(wanted)
    rows = len(world.rows)
    world.boot(wanted)
    assert len(world.rows) == rows
    assert {"science:general", "science:explore", "main:ops"} <= world.state.rooms.by_address.keys()


@pytest.mark.parametrize("command", [JoinRoom(room="lab"), JoinChannel(channel="lab:x"), JoinChannel(channel="main:x")])
def test_without_auto_create_joining_what_is_absent_is_not_found(command: Mutation) -> None:
    world = World(auto_create=False)
    world.join("ada")
    assert world.refusal(command, "ada").code == "not_found"


@pytest.mark.parametrize(
    "command",
    [CreateRoom(room="lab"), CreateChannel(channel="main:x"), JoinRoom(room="lab"), JoinChannel(channel="main:x")],
)
def test_where_creating_needs_an_operator_an_agent_creates_nothing(command: Mutation) -> None:
    world = World(create_needs_operator=True)
    world.join("ada")
    assert world.refusal(command, "ada").code == "not_permitted"


@pytest.mark.parametrize(
    "command",
    [JoinRoom(room="main"), JoinChannel(channel="main:general"), LeaveRoom(room="main")],
)
def test_an_operator_connection_is_no_member_of_anything(command: Mutation) -> None:
    assert World().refusal(command, "operator").code == "anonymous"


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (CreateRoom(room="b"), "rooms_max"),
        (JoinRoom(room="b"), "rooms_max"),
        (CreateChannel(channel="main:b"), "channels_per_room_max"),
        (JoinChannel(channel="main:b"), "channels_per_room_max"),
    ],
)
def test_one_room_or_channel_too_many_is_a_limit(command: Mutation, name: str) -> None:
    world = World(Limits(rooms_max=1, channels_per_room_max=1))
    world.join("ada")
    refused = world.refusal(command, "ada")
    assert (refused.code, refused.facts) == ("limit", {"limit": name, "value": 1})


@pytest.mark.parametrize(
    "command", [JoinRoom(room="main"), JoinChannel(channel="main:general"), JoinChannel(channel="main:new")]
)
def test_one_member_too_many_is_a_limit_by_every_way_in(command: Mutation) -> None:
    world = World(Limits(members_max=1))
    world.join("ada", "bob")
    world.do(JoinChannel(channel="main:general"), "ada")
    refused = world.refusal(command, "bob")
    assert (refused.code, refused.facts) == ("limit", {"limit": "members_max", "value": 1})


@pytest.mark.bad_input("BI-19")
@pytest.mark.parametrize(
    "command",
    [
        CreateRoom(room="Lab"),
        CreateRoom(room="a/b"),
        JoinRoom(room="../x"),
        CreateChannel(channel="main"),
        CreateChannel(channel="main:X"),
        JoinChannel(channel="main:a:b"),
        JoinChannel(channel=":x"),
    ],
)
def test_a_name_outside_the_grammar_is_refused(command: Mutation) -> None:
    world = World()
    world.join("ada")
    assert world.refusal(command, "ada").code == "bad_name"


@pytest.mark.parametrize("name", ["role", "pool"])
def test_no_new_room_takes_the_name_of_another_kind_of_address_and_an_old_one_stays(name: str) -> None:
    world = World()
    world.join("ada")
    for command in (CreateRoom(room=name), JoinRoom(room=name), JoinChannel(channel=f"{name}:x")):
        refused = world.refusal(command, "ada")
        assert (refused.code, refused.facts["reserved"]) == ("bad_name", ["role", "pool"])
    world.record([RoomCreated(name=name, type="room"), ChannelCreated(room=world.state.seq + 1, name="general")], "ada")
    world.restart()
    world.do(JoinChannel(channel=f"{name}:more"), "ada")
    sent = world.reply(Sent, text("hi", channel=f"{name}:general"), "ada")
    assert (sent.room, sent.channel, sent.n) == (name, "general", 1)
    assert world.refusal(CreateRoom(room=name), "ada").code == "already_exists"


def test_a_type_has_1_to_64_characters() -> None:
    world = World()
    for kind in ("", "t" * 65):
        assert world.refusal(CreateRoom(room="lab", type=kind), "operator").code == "bad_request"
        assert world.refusal(CreateChannel(channel="main:x", type=kind), "operator").code == "bad_request"


def test_rooms_and_channels_are_listed_in_pages() -> None:
    world = World()
    world.boot({"a": ["general"], "b": ["general", "x"]})
    first = world.look(Rooms, ListRooms(limit=2))
    rest = world.look(Rooms, ListRooms(limit=2, after=first.next))
    assert [r.room for r in first.rooms] + [r.room for r in rest.rooms] == ["a", "b", "main"]
    assert rest.next is None
    channels = world.look(Channels, ListChannels(room="b", limit=1))
    assert ([c.channel for c in channels.channels], channels.next) == (["general"], "b:general")
    every = world.look(Channels, ListChannels()).channels
    assert [f"{c.room}:{c.channel}" for c in every] == ["a:general", "b:general", "b:x", "main:general"]


@pytest.mark.parametrize("limit", [0, -1, 501])
def test_a_page_outside_the_bounds_is_refused(limit: int) -> None:
    for query in (ListRooms(limit=limit), ListChannels(limit=limit), ListAgents(limit=limit)):
        with pytest.raises(Rejected, match="bad_request"):
            World().look(Rooms, query)
