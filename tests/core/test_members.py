"""Private rooms and channels: nothing of them is there for who is no member, in any answer, refusal or feed."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.conftest import World
from tests.core.lease_world import LeaseWorld

from synapse.core.events import LEASES, LeaseOffered, LeaseRevoked, MessagePosted, RoomJoined
from synapse.core.kernel import Mutation
from synapse.core.room_events import MemberInvited, MemberRemoved
from synapse.core.state import decode_state, encode_state
from synapse.core.telling import announce
from synapse.core.topics import floors_of, keys_told, lease_keys
from synapse.errors import Rejected
from synapse.protocol.commands import (
    CheckPaths,
    ClaimLease,
    CreateChannel,
    CreateRoom,
    DeleteRoom,
    HandOffLease,
    JoinChannel,
    JoinRoom,
    LeaveRoom,
    ListChannels,
    ListLeases,
    ListRooms,
    ParkLease,
    ReleaseLease,
    SendMessage,
    ShowChannel,
    ShowRoom,
)
from synapse.protocol.member_commands import InviteMember, KickMember
from synapse.protocol.member_replies import Membership
from synapse.protocol.plan_commands import DeclareTask, ListTasks
from synapse.protocol.question_commands import AnswerQuestion, AskQuestion
from synapse.protocol.replies import ChannelInfo, Channels, Leases, PathsCovered, RoomInfo, Rooms
from synapse.protocol.value_commands import GetValue, PutValue

RAW = msgspec.Raw


def post(channel: str, text: str = "hello") -> SendMessage:
    return SendMessage(body=RAW(f'"{text}"'.encode()), channel=channel)


def claim(task: str, room: str, *paths: str) -> ClaimLease:
    return ClaimLease(task=task, room=room, worktree="host:/w" if paths else None, paths=paths)


@pytest.fixture
def den() -> World:
    """Ada's private room, with Bob in it; Eve is outside."""
    world = World()
    world.join("ada", "bob", "eve")
    world.do(CreateRoom(room="den", private=True), "ada")
    world.do(InviteMember(place="den", agent="bob"), "ada")
    world.do(JoinRoom(room="den"), "bob")
    return world


def test_who_makes_a_private_room_is_its_first_member(den: World) -> None:
    info = den.look(RoomInfo, ShowRoom(room="den"), "ada")
    assert (info.private, info.participants) == (True, ("ada", "bob"))
    assert den.look(RoomInfo, ShowRoom(room="main"), "eve").private is False


OUTSIDE: list[Mutation] = [
    JoinRoom(room="den"),
    LeaveRoom(room="den"),
    JoinChannel(channel="den:general"),
    JoinChannel(channel="den:new"),
    CreateChannel(channel="den:new"),
    post("den:general"),
    SendMessage(body=RAW(b'"x"'), target="all", room="den"),
    claim("T1", "den"),
    ReleaseLease(task="T1", room="den"),
    PutValue(key="k", value=RAW(b"1"), room="den"),
    DeclareTask(task="T1", title="t", room="den"),
    InviteMember(place="den", agent="eve"),
    KickMember(place="den", agent="bob"),
    InviteMember(place="den:general", agent="eve"),
]


@pytest.mark.bad_input("BI-119")
@pytest.mark.parametrize("command", OUTSIDE, ids=lambda command: type(command).__name__)
def test_a_private_room_is_not_there_for_others(den: World, command: Mutation) -> None:
    inside, outside = den.refusal(command, "eve"), World()
    outside.rules = den.rules
    outside.join("ada", "bob", "eve")
    assert inside.code == "not_found"
    if isinstance(command, JoinRoom | JoinChannel):
        return  # where there is no room one is made, unless the hub's settings say no; then the refusals are the same
    assert outside.refusal(command, "eve").detail == inside.detail


@pytest.mark.parametrize("command", [JoinRoom(room="den"), JoinChannel(channel="den:general")])
def test_without_auto_create_joining_is_refused_in_the_words_of_a_room_that_is_not_there(command: Mutation) -> None:
    told = []
    for is_there in (True, False):
        world = World(auto_create=False)
        world.join("ada", "eve")
        if is_there:
            world.do(CreateRoom(room="den", private=True), "ada")
        told.append(world.refusal(command, "eve").detail)
    assert told[0] == told[1]


def test_lists_leave_out_what_one_may_not_see(den: World) -> None:
    den.do(claim("T1", "den", "src/a.py"), "ada")
    den.do(CreateChannel(channel="main:closed", private=True), "ada")
    for name, sees in (("ada", True), ("eve", False), ("operator", True)):
        rooms = {room.room for room in den.look(Rooms, ListRooms(), name).rooms}
        channels = {f"{one.room}:{one.channel}" for one in den.look(Channels, ListChannels(), name).channels}
        assert ("den" in rooms, "den:general" in channels, "main:closed" in channels) == (sees, sees, sees)
    assert [lease.task for lease in den.look(Leases, ListLeases(), "bob").leases] == ["T1"]
    for name in ("eve", "operator"):
        assert den.look(Leases, ListLeases(), name).leases == ()


def test_a_room_counts_the_channels_that_one_may_see(den: World) -> None:
    den.do(CreateChannel(channel="main:vault", private=True), "ada")
    for who, count in (("ada", 2), ("eve", 1), ("operator", 2)):
        info = den.look(RoomInfo, ShowRoom(room="main"), who)
        assert (info.channels_count, len(info.channels or ())) == (count, count)
        [listed] = [room for room in den.look(Rooms, ListRooms(), who).rooms if room.room == "main"]
        assert listed.channels_count == count


@pytest.mark.parametrize("query", [GetValue(key="k", room="den"), ListTasks(room="den")])
def test_not_even_an_operator_reads_what_is_in_it(den: World, query: GetValue | ListTasks) -> None:
    den.do(PutValue(key="k", value=RAW(b"1"), room="den"), "ada")
    for name in ("eve", "operator"):
        with pytest.raises(Rejected) as refused:
            den.look(RoomInfo, query, name)
        assert refused.value.code == "not_found"
    with pytest.raises(AssertionError):  # answered, by another reply than the one expected here
        den.look(RoomInfo, query, "bob")


def test_a_holder_in_a_private_room_is_shown_as_private(den: World) -> None:
    den.do(claim("secret-task", "den", "src/secret.py"), "ada")
    refused = den.refusal(claim("T2", "main", "src/**"), "eve")
    assert refused.code == "lease_held"
    text = f"{refused.detail} {refused.facts}"
    assert not any(word in text for word in ("ada", "den", "secret"))
    holders = refused.facts["holders"]
    assert isinstance(holders, list)
    assert (holders[0]["owner"], holders[0]["task"], holders[0]["room"]) == ("private", "private", "private")
    assert holders[0]["expires_in_ms"] > 0
    inside = den.refusal(claim("T2", "main", "src/**"), "bob")
    assert "ada holds secret-task" in inside.detail


def test_who_waits_behind_one_is_masked_in_lists_and_refusals(den: World) -> None:
    den.do(claim("T2", "main", "src/**"), "eve")
    den.do(ClaimLease(task="hidden", room="den", worktree="host:/w", paths=("src/x",), wait_ms=None), "ada")
    [lease] = den.look(Leases, ListLeases(), "eve").leases
    assert isinstance(lease.waiters, tuple)
    assert [(waiter.owner, waiter.task) for waiter in lease.waiters] == [("private", "private")]
    den.join("joe")
    refused = den.refusal(claim("T3", "main", "src/x"), "joe")
    assert "hidden" not in f"{refused.detail} {refused.facts}"


@pytest.mark.parametrize("presence", ["online", "offline"])
def test_a_lease_of_a_private_room_is_handed_to_members_only(den: World, presence: str) -> None:
    den.do(claim("T1", "den", "src/a.py"), "ada")
    if presence == "online":
        den.state.soft.presence.connect(den.agent("eve"), 9, den.at_ms, den.lease_ms, lasting=True)
    den.do(InviteMember(place="den", agent="eve"), "ada")  # asked in, and not there yet
    letters = len(den.state.agents.inboxes[den.agent("eve")].entries)
    refused = den.refusal(HandOffLease(task="T1", room="den", to="eve"), "ada")
    assert (refused.code, refused.facts) == ("not_permitted", {"room": "den", "agent": "eve"})
    assert "eve is no member of the private room den: ask it in there first (synapse room invite den eve)" in (
        refused.detail
    )
    assert len(den.state.agents.inboxes[den.agent("eve")].entries) == letters
    den.do(JoinRoom(room="den"), "eve")
    assert den.events(HandOffLease(task="T1", room="den", to="eve"), "ada")


def test_who_is_put_out_takes_up_no_lease_that_was_offered_to_it_before(den: World) -> None:
    den.do(claim("T1", "den", "src/a.py"), "ada")
    [offered] = den.events(HandOffLease(task="T1", room="den", to="bob"), "ada")
    assert isinstance(offered, LeaseOffered)
    den.do(KickMember(place="den", agent="bob"), "ada")
    assert den.refusal(claim("T1", "den"), "bob").code == "not_found"
    assert den.refusal(ClaimLease(task="T1", room="den", preempt=True, claimant="bob"), "operator").code == "not_found"


def test_a_question_of_a_private_room_that_is_closed_is_told_to_members_only(den: World) -> None:
    den.do(AskQuestion(title="hidden?", room="den"), "bob")
    (question,) = den.state.questions.open
    den.do(KickMember(place="den", agent="bob"), "ada")
    letters = len(den.state.agents.inboxes[den.agent("bob")].entries)
    person = den.by("ada")
    person.role = "human"
    den.do(AnswerQuestion(id=f"q{question}", answer="hidden"), person)
    assert len(den.state.agents.inboxes[den.agent("bob")].entries) == letters


def test_a_deadlock_names_nobody_who_is_in_the_way_in_a_private_room() -> None:
    world = LeaseWorld()
    world.do(CreateRoom(room="den", private=True), "ada")
    world.take("ada", "hidden", "a", room="den")
    world.take("bob", "T2", "b")
    world.wait("ada", "T3", "b")
    refused = world.refused("bob", "T4", "a", wait_ms=None)
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["bob", "private", "bob"])
    assert "bob waits for private waits for bob" in refused.detail
    assert "ada" not in f"{refused.detail} {refused.facts}"


def test_a_deadlock_names_nobody_who_waits_in_a_private_room() -> None:
    world = LeaseWorld()
    world.do(CreateRoom(room="den", private=True), "ada")
    world.take("ada", "T1", "a")
    world.take("bob", "T2", "b")
    world.take("cy", "T3", "c")
    world.wait("ada", "hidden", "b", room="den")
    world.wait("bob", "T4", "c")
    refused = world.refused("cy", "T5", "a", wait_ms=None)
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["cy", "private", "bob", "cy"])


def test_an_upgrade_names_nobody_who_reads_in_a_private_room() -> None:
    world = LeaseWorld()
    world.do(CreateRoom(room="den", private=True), "ada")
    world.take("ada", "hidden", "a", room="den", mode="shared")
    world.take("ada", "shown", "z")
    world.take("bob", "T1", "a", mode="shared")
    refused = world.refused("bob", "T1", "a")
    assert (refused.code, refused.facts["cycle"]) == ("deadlock", ["bob", "private", "bob"])


def test_a_path_that_a_member_of_a_private_room_holds_is_told_in_the_words_of_a_claim(den: World) -> None:
    den.do(claim("hidden", "den", "src/a.py"), "ada")
    den.do(ParkLease(task="hidden", room="den", parked=True), "ada")
    check = CheckPaths(worktree="host:/w", paths=("src/a.py",))
    with pytest.raises(Rejected) as refused:
        den.look(PathsCovered, check, "eve")
    assert refused.value.code == "not_covered"
    (epoch,) = den.state.leases.live
    words = f"a member of a private room holds it with epoch {epoch} and it is parked, waiting for a person; wait in"
    assert words in refused.value.detail
    with pytest.raises(Rejected) as refused:
        den.look(PathsCovered, check, "bob")
    assert "ada holds it as hidden with epoch" in refused.value.detail


def test_mentions_of_who_may_not_read_are_plain_text(den: World) -> None:
    [event] = den.events(post("den:general", "@bob and @eve look"), "ada")
    assert isinstance(event, MessagePosted)
    assert [delivery.name for delivery in event.mentions] == ["bob"]
    assert event.skipped == ()


def test_a_member_reads_from_where_it_came_in_or_from_the_beginning(den: World) -> None:
    general = den.state.rooms.by_address["den:general"]
    before = den.state.seq
    den.do(post("den:general"), "ada")
    for name, history in (("eve", False), ("joe", True)):
        den.join(name)
        den.do(InviteMember(place="den", agent=name, history=history), "bob")
        den.do(JoinRoom(room="den"), name)
    key = f"ch/{general.id}"
    assert floors_of(den.state, (key,), den.agent("eve"))[key] > before + 1
    assert floors_of(den.state, (key,), den.agent("joe")) == {}
    assert floors_of(den.state, (key,), den.agent("ada")) == {}


def test_an_invitation_is_a_letter_and_the_same_one_twice_is_one(den: World) -> None:
    [event] = den.events(InviteMember(place="den", agent="eve"), "bob")
    assert isinstance(event, MemberInvited)
    assert [delivery.name for delivery in event.deliveries] == ["eve"]
    assert den.events(InviteMember(place="den", agent="eve"), "ada") == []
    assert den.reply(Membership, InviteMember(place="den", agent="eve"), "ada").state == "invited"
    assert den.reply(Membership, InviteMember(place="den", agent="bob"), "ada").state == "member"
    assert len(den.state.agents.inboxes[den.agent("eve")].entries) == 1


def test_who_is_put_out_loses_its_leases_there_and_the_next_in_line_gets_them(den: World) -> None:
    den.do(claim("T1", "den", "src/a.py"), "bob")
    den.do(claim("T1", "main", "docs/**"), "bob")
    den.do(ClaimLease(task="T2", room="main", worktree="host:/w", paths=("src/**",), wait_ms=None), "eve")
    den.state.soft.leasing.attach(next(iter(den.state.leases.places)), 3)
    events = den.events(KickMember(place="den", agent="bob"), "ada")
    assert isinstance(events[0], MemberRemoved)
    assert [event.reason for event in events if isinstance(event, LeaseRevoked)] == ["removed"]
    held = {(lease.ask.owner, lease.ask.room_name, lease.ask.task) for lease in den.state.leases.live.values()}
    assert held == {("bob", "main", "T1"), ("eve", "main", "T2")}
    assert den.refusal(post("den:general"), "bob").code == "not_found"


@pytest.mark.bad_input("BI-120")
def test_who_may_put_out_and_ask_in(den: World) -> None:
    assert den.refusal(KickMember(place="den", agent="ada"), "bob").code == "not_permitted"
    assert den.refusal(KickMember(place="den", agent="eve"), "ada").code == "not_found"
    assert den.refusal(InviteMember(place="main", agent="eve"), "ada").code == "bad_request"
    assert den.refusal(InviteMember(place="den", agent="evelyn"), "ada").code == "not_found"
    den.do(LeaveRoom(room="den"), "ada")
    assert isinstance(den.events(KickMember(place="den", agent="bob"), "operator")[0], MemberRemoved)
    assert den.events(DeleteRoom(room="den"), "operator") != []


@pytest.mark.bad_input("BI-121")
def test_nobody_leaves_a_private_room_while_it_holds_leases_there(den: World) -> None:
    den.do(claim("T1", "den"), "bob")
    refused = den.refusal(LeaveRoom(room="den"), "bob")
    assert (refused.code, refused.facts["tasks"]) == ("not_empty", ["T1"])
    den.do(ReleaseLease(task="T1", room="den"), "bob")
    assert den.events(LeaveRoom(room="den"), "bob") != []


def test_a_private_channel_is_for_its_own_members(den: World) -> None:
    den.do(CreateChannel(channel="main:closed", private=True), "ada")
    assert den.refusal(post("main:closed"), "bob").code == "not_found"
    assert den.refusal(CreateChannel(channel="main:closed"), "eve").code == "already_exists"
    den.do(InviteMember(place="main:closed", agent="bob", history=True), "ada")
    den.do(JoinChannel(channel="main:closed"), "bob")
    den.do(post("main:closed"), "bob")
    assert den.look(ChannelInfo, ShowChannel(channel="main:closed"), "bob").participants == ("ada", "bob")
    keys = keys_told(den.state, (f"to/{den.state.rooms.by_name['main'].id}/",))
    assert f"ch/{den.state.rooms.by_address['main:closed'].id}" not in keys


def test_leases_of_a_private_room_are_told_to_its_members_alone(den: World) -> None:
    [granted] = den.do(claim("T1", "den"), "ada")[0]
    room = den.state.rooms.by_name["den"].id
    apart = {room: True}
    followed = {name: lease_keys(den.state, den.by(name)) for name in ("bob", "eve", "operator")}
    told = {name: announce("1" * 16, granted, keys, apart) for name, keys in followed.items()}
    assert [key for key, _ in told["bob"]] == [f"{LEASES}/{room}"]
    assert told["eve"] == told["operator"] == []
    assert [key for key, _ in announce("1" * 16, granted, (LEASES, f"{LEASES}/{room}"), {room: False})] == [
        LEASES,
        f"{LEASES}/{room}",
    ]


@given(st.lists(st.tuples(st.sampled_from(["ada", "bob", "eve"]), st.integers(0, 6)), max_size=30))
def test_only_members_ever_see_the_room_and_a_replay_agrees(steps: list[tuple[str, int]]) -> None:
    world = World()
    world.join("ada", "bob", "eve")
    world.do(CreateRoom(room="den", private=True), "ada")
    members, invited = {"ada"}, set[str]()
    for name, what in steps:
        other = "bob" if name != "bob" else "eve"
        commands: list[Mutation] = [
            JoinRoom(room="den"),
            InviteMember(place="den", agent=other),
            KickMember(place="den", agent=other),
            LeaveRoom(room="den"),
            post("den:general"),
            JoinChannel(channel="den:general"),
            KickMember(place="den", agent=name),
        ]
        was_member = name in members
        try:
            world.do(commands[what], name)
        except Rejected as refused:
            if not was_member and not (what in (0, 5) and name in invited):
                assert refused.code == "not_found"
            continue
        if what == 0:
            assert was_member or name in invited
            members.add(name)
            invited.discard(name)
        elif what == 1 and other not in members:
            invited.add(other)
        elif what in (2, 6):
            gone = other if what == 2 else name
            members.discard(gone)
            invited.discard(gone)
        elif what == 3:
            members.discard(name)
        assert was_member or what == 0
        room = world.state.rooms.by_name["den"]
        assert {world.state.agents.by_id[agent].name for agent in room.members} == members
        assert {world.state.agents.by_id[agent].name for agent in room.invited} == invited
    dump = encode_state(world.state)
    assert encode_state(world.replayed()) == dump
    assert encode_state(decode_state(dump)) == dump


def test_joining_is_an_event_with_the_seq_behind_which_one_reads(den: World) -> None:
    den.do(InviteMember(place="den", agent="eve"), "ada")
    at = den.state.seq
    [event] = den.events(JoinRoom(room="den"), "eve")
    assert isinstance(event, RoomJoined)
    assert event.after == at
