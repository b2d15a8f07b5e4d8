"""Activity: who is told of what; nothing of what is hidden from it, whatever names it."""

from hashlib import sha256

import msgspec
import pytest
from tests.hub.conftest import Voice, message, operator, voice

from synapse.core.events import MessagePosted, MessageSent
from synapse.core.kernel import MUTATIONS
from synapse.core.link import Link
from synapse.core.loops import Held
from synapse.hub.activity import FINDERS, IN_ROOM, OF_HUB, Spot, described, spot_of
from synapse.protocol.card_commands import SetCard
from synapse.protocol.commands import (
    CreateChannel,
    CreateRoom,
    DeclareStatus,
    DeleteChannel,
    DeleteRoom,
    Hello,
    JoinChannel,
    JoinRoom,
    LeaveChannel,
    LeaveRoom,
    SendMessage,
    Subscribe,
)
from synapse.protocol.file_commands import BeginFile, CompleteFile, PutChunk, ReceiveFile, WithdrawFile
from synapse.protocol.held_commands import ReleaseHeld
from synapse.protocol.lane_commands import AcceptLane, CloseLane, DeclineLane, OfferLane, SendLane
from synapse.protocol.member_commands import InviteMember
from synapse.protocol.question_commands import AnswerQuestion, AskQuestion, WithdrawQuestion
from synapse.protocol.replies import Place, Subscribed
from synapse.protocol.role_commands import JoinRole
from synapse.protocol.session_commands import BeatSession, EndSession, SaveSessionPoint, StartSession, UpdateSession
from synapse.protocol.signal_notices import Activity
from synapse.testing import MemoryHub

NULL = msgspec.Raw(b"null")
DATA = b"canary"
DIGEST = sha256(DATA).hexdigest()


async def told(who: Voice) -> list[tuple[str, str, str, str | None, str | None]]:
    """Who did what, with which outcome, where, and the name."""
    heard = [notice for notice in await who.notices() if isinstance(notice, Activity)]
    return [(one.by, one.command, one.outcome, one.room, one.name) for one in heard]


async def watch(*voices: Voice) -> None:
    for one in voices:
        await one.ask(Subscribe(activity=True), Subscribed)


async def done(who: Voice, command: object, field: str = "cursor") -> str:
    """A field of the reply of a request that is not refused."""
    frame = await who.exchange(command)  # type: ignore[arg-type]  # any command
    assert frame.type == "reply", frame
    return str(msgspec.json.decode(frame.body)[field])


def test_every_command_says_to_whom_it_is_told() -> None:
    assert MUTATIONS - set(FINDERS) == {Hello, DeclareStatus, BeatSession}, "of these nobody is told"
    assert set(FINDERS) <= MUTATIONS


@pytest.mark.parametrize("value", ["", "main", "main:general", "x" * 300, "s1", "q9", "f"], ids=repr)
async def test_whatever_a_command_names_can_be_told(value: str) -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        assert ada.peer.connection is not None
        by, told = ada.peer.connection.by, 0
        known = (*IN_ROOM, *OF_HUB, "role", "channel", "place", "target")
        for kind in MUTATIONS & set(FINDERS):
            names = {field.name: value for field in msgspec.structs.fields(kind) if field.name in known}
            required = {field.name: value for field in msgspec.structs.fields(kind) if field.required}
            command = kind(**{**required, **names})
            found = described(hub.state, command, by, "ok")
            told += 1
            if found is not None:
                assert found.notice.name in (None, value, "main:general")
        assert told


async def live_in_a_room(ada: Voice, cleo: Voice) -> set[str]:
    """All that names a private room by an id, or not at all: done, and refused. The commands."""
    session = await done(ada, StartSession(room="den", task="canary"), "session")
    await done(ada, UpdateSession(task="canary/2"))
    await ada.refused(UpdateSession(session=session, task="canary/3", state="none"))
    await done(ada, SaveSessionPoint(session=session, data=msgspec.Raw(b"{}")))
    await ada.refused(OfferLane(to="ada", task="canary"))
    lane = await done(ada, OfferLane(to="cleo", task="canary"), "lane")
    await done(cleo, AcceptLane(lane=lane))
    await done(ada, SendLane(lane=lane, body=NULL))
    await done(ada, CloseLane(lane=lane))
    lane = await done(ada, OfferLane(to="cleo"), "lane")
    await done(cleo, DeclineLane(lane=lane))
    await done(ada, EndSession())
    await done(ada, SendMessage(body=NULL, target="all", room="den"))
    question = await done(ada, AskQuestion(title="canary?", room="den"), "id")
    await ada.refused(AnswerQuestion(id=question, answer="no"))
    await done(ada, WithdrawQuestion(id=question))
    by_lane = {"lane.offer", "lane.accept", "lane.decline", "lane.send", "lane.close"}
    by_session = {"session.start", "session.update", "session.checkpoint", "session.end"}
    return by_lane | by_session | {"message.send", "question.ask", "question.answer", "question.withdraw"}


async def live_in_a_channel(ada: Voice, cleo: Voice, address: str) -> set[str]:
    """All that can be done with a file there: done, and refused. The commands."""
    file = await done(ada, BeginFile(name="canary", bytes=len(DATA), sha256=DIGEST, channel=address), "file")
    await ada.refused(CompleteFile(file=file))
    await done(ada, PutChunk(file=file, index=0, data=DATA, sha256=DIGEST))
    await done(ada, CompleteFile(file=file))
    await done(cleo, ReceiveFile(file=file))
    await done(ada, WithdrawFile(file=file))
    await done(ada, message("x", address))
    return {"file.begin", "file.put", "file.complete", "file.withdraw", "message.send"}


@pytest.mark.parametrize("is_channel", [False, True], ids=["room", "channel"])
async def test_what_an_id_names_is_told_to_the_members_of_its_private_place(*, is_channel: bool) -> None:
    async with MemoryHub() as hub:
        ada, cleo = await voice(hub), await voice(hub, "cleo")
        bob, guest, boss = await voice(hub, "bob"), await voice(hub, "guest"), await operator(hub)
        assert guest.peer.connection is not None
        guest.peer.connection.by.rooms = frozenset({"main"})
        place = "main:den" if is_channel else "den"
        await done(ada, JoinRoom(room="main"))  # so that the guest knows them
        await done(cleo, JoinRoom(room="main"))
        await done(
            ada, CreateChannel(channel=place, private=True) if is_channel else CreateRoom(room=place, private=True)
        )
        await ada.ask(InviteMember(place=place, agent="cleo"), dict)
        await cleo.ask(JoinChannel(channel=place) if is_channel else JoinRoom(room=place), Place)
        await watch(cleo, bob, guest, boss)
        did = await live_in_a_channel(ada, cleo, place if is_channel else "den:general")
        if not is_channel:
            did |= await live_in_a_room(ada, cleo)
        for stranger in (bob, guest, boss):
            assert await told(stranger) == []
        heard = await told(cleo)
        assert {command for _, command, _, _, _ in heard} == did
        assert {room for _, _, _, room, _ in heard} == {place.partition(":")[0]}
        assert (
            "ada",
            "file.put",
            "ok",
            "main" if is_channel else "den",
            place if is_channel else "den:general",
        ) in heard
        assert is_channel or ("ada", "session.update", "bad_request", "den", "canary/3") in heard


async def test_what_tries_hidden_places_is_told_as_little_as_what_tries_none() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await done(ada, CreateRoom(room="den", private=True))
        await done(ada, CreateChannel(channel="main:den", private=True))
        session = await done(ada, StartSession(room="den"), "session")
        await watch(bob)
        for room in ("den", "none"):
            await bob.refused(message("x", f"{room}:general"))
            await bob.refused(message("x", f"main:{room}"))
            await bob.refused(LeaveRoom(room=room))
            await bob.refused(LeaveChannel(channel=f"main:{room}"))
            await bob.refused(InviteMember(place=room, agent="ada"))
        await bob.refused(JoinRoom(room="den"))
        for one in (session, "s1", "s", "x" * 300):
            await bob.refused(EndSession(session=one))
            await bob.refused(OfferLane(to="ada", session=one, task="secret"))
        assert await told(bob) == []


async def test_the_end_of_a_private_place_is_told_to_nobody_outside() -> None:
    async with MemoryHub() as hub:
        ada, bob, boss = await voice(hub), await voice(hub, "bob"), await operator(hub)
        await done(ada, CreateRoom(room="den", private=True))
        await done(ada, CreateRoom(room="hall"))
        await done(ada, CreateChannel(channel="main:den", private=True))
        await watch(bob)
        await done(ada, LeaveRoom(room="den"))
        await done(ada, LeaveChannel(channel="main:den"))
        for gone in (DeleteRoom(room="den"), DeleteChannel(channel="main:den"), DeleteRoom(room="hall")):
            await done(boss, gone)
        assert await told(bob) == [("operator", "room.delete", "ok", "hall", "hall")]


async def test_a_token_for_rooms_is_told_of_those_and_of_agents_that_it_knows() -> None:
    async with MemoryHub(rooms={"pub": ["general"]}) as hub:
        ada, zoe = await voice(hub), await voice(hub, "zoe")
        guest, boss = await voice(hub, "guest"), await operator(hub)
        assert guest.peer.connection is not None
        guest.peer.connection.by.rooms = frozenset({"pub"})
        for who in (ada, guest):
            await done(who, JoinRoom(room="pub"))
        await watch(guest)
        for who in (ada, zoe):
            await done(who, message("x", "pub:general"))
            await done(who, message("x", "main:general"))
            await done(who, SendMessage(body=NULL, to=("ada",)))
            await done(who, SendMessage(body=NULL, target="all", room="pub"))
            await done(who, JoinRole(role="reviewer"))
            await done(who, SetCard(description="new"))
        await done(boss, CreateChannel(channel="pub:more"))
        await guest.refused(JoinRole(role="reviewer"))
        assert await told(guest) == [
            ("ada", "message.send", "ok", "pub", "pub:general"),
            ("ada", "message.send", "ok", "pub", None),
            ("operator", "channel.create", "ok", "pub", "pub:more"),
        ]
        assert ("zoe", "message.send", "ok", "pub", "pub:general") not in await told(guest)


async def test_a_file_to_agents_is_of_no_room_and_what_goes_to_all_of_one_is() -> None:
    async with MemoryHub() as hub:
        ada, bob, eve = await voice(hub), await voice(hub, "bob"), await voice(hub, "eve")
        await done(bob, JoinRoom(room="main"))
        await watch(eve)
        file = await done(ada, BeginFile(name="a", bytes=len(DATA), sha256=DIGEST, to=("bob",)), "file")
        await done(ada, PutChunk(file=file, index=0, data=DATA, sha256=DIGEST))
        await done(ada, CompleteFile(file=file))
        await done(bob, ReceiveFile(file=file))
        await done(ada, SendMessage(body=NULL, to=("all",)))
        heard = await told(eve)
        assert [command for _, command, _, _, _ in heard] == [
            "file.begin",
            "file.put",
            "file.complete",
            "file.receive",
            "message.send",
        ]
        assert {name for _, _, _, _, name in heard} == {None}
        assert heard[-1][3] == "main", "to all of the home's room"


async def test_a_held_message_belongs_where_it_goes() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await done(ada, CreateRoom(room="den", private=True))
        await done(ada, CreateChannel(channel="den:more"))
        state, link = hub.state, Link(1, 1, 1, 1)
        room, channel = state.rooms.by_name["den"], state.rooms.by_address["den:more"]
        posted = MessagePosted(channel=channel.id, address="den:more", n=1, body=NULL)
        state.loops.held[5] = Held(5, "ada", 0, "loop", link, posted=posted)
        state.loops.held[6] = Held(6, "ada", 0, "loop", link, sent=MessageSent(to=(), body=NULL, room=room.id))
        state.loops.held[7] = Held(7, "ada", 0, "loop", link, sent=MessageSent(to=(), body=NULL))
        assert ada.peer.connection is not None
        found = [spot_of(state, ReleaseHeld(id=f"m{n}"), ada.peer.connection.by) for n in (5, 6, 7, 8)]
        inbox = Spot(about="inbox")
        assert found == [Spot(room, channel, "channel", "den:more"), Spot(room, None, "inbox"), inbox, None]
