"""Signals, typing and activity: told to who follows now, kept nowhere, and counted where they are left out."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hub.conftest import Voice, bugs_on_loop, message, operator, quiet, voice

from synapse.hub import signals
from synapse.hub.metrics import render
from synapse.hub.signals import RINGS_BYTES_MAX, Rings
from synapse.protocol.codec import encode_request
from synapse.protocol.commands import (
    ClaimLease,
    CreateChannel,
    CreateRoom,
    DeclareStatus,
    DeleteChannel,
    JoinChannel,
    JoinRoom,
    Ping,
    ReadHistory,
    SendMessage,
    ShowChannel,
    ShowStatus,
    Subscribe,
    Unsubscribe,
)
from synapse.protocol.limits import Limits
from synapse.protocol.member_commands import InviteMember, KickMember
from synapse.protocol.member_replies import Membership
from synapse.protocol.notices import Broken, CaughtUp, Message
from synapse.protocol.replies import ChannelInfo, Lease, Place, Pong, Sent, Status, StatusDeclared, Subscribed
from synapse.protocol.signal_commands import ListRecent, SayTyping
from synapse.protocol.signal_notices import Activity, Signal, Typing
from synapse.protocol.signal_replies import Recent, Typed
from synapse.protocol.value_commands import PutValue
from synapse.protocol.value_replies import ValueInfo
from synapse.testing import MemoryHub

LIVE = "main:live"


def signal(body: object, channel: str = LIVE) -> SendMessage:
    return SendMessage(body=msgspec.Raw(msgspec.json.encode(body)), channel=channel)


async def live_channel(who: Voice, channel: str = LIVE, schema: str | None = None) -> None:
    await who.ask(CreateChannel(channel=channel, ephemeral=True, schema=schema), Place)


async def signals_of(who: Voice) -> list[Signal]:
    return [notice for notice in await who.notices() if isinstance(notice, Signal)]


async def activities_of(who: Voice) -> list[Activity]:
    return [notice for notice in await who.notices() if isinstance(notice, Activity)]


def at_once(who: Voice, commands: list[SendMessage | Ping], first_id: int = 100) -> None:
    """Requests that come in one read, and so are in one turn."""
    connection, peers = who.peer.connection, who.hub.turns.peers
    assert connection is not None
    frames = [encode_request(first_id + at, command) for at, command in enumerate(commands)]
    peers.hear_all(connection, frames, peers.now_ms())


def wedge(who: Voice) -> None:
    """A peer that does not read: half of its outbox waits."""
    who.peer.write(b" " * (who.hub.rules.limits.outbox_bytes_max // 2 + 1) + b"\n")
    assert who.peer.connection is not None
    assert who.peer.connection.is_stuck


# what a signal is


async def test_a_thousand_signals_leave_nothing_in_the_journal() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await live_channel(ada)
        await bob.follow(LIVE)
        seq, rows, messages = hub.state.seq, hub.journal.head, hub.state.messages
        for n in range(1_000):
            sent = await ada.ask(signal(n), Sent)
            assert (sent.id, sent.n, sent.ephemeral, sent.receivers, sent.dropped) == ("", n + 1, True, 1, False)
        assert (hub.state.seq, hub.journal.head, hub.state.messages) == (seq, rows, messages)
        assert hub.state.rooms.by_address[LIVE].last_n == 0
        heard = await signals_of(bob)
        assert [msgspec.json.decode(told.body) for told in heard] == list(range(1_000))
        assert [(told.n, told.dropped) for told in heard] == [(n + 1, 0) for n in range(1_000)]


async def test_a_signal_says_who_sent_it_and_what() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await live_channel(ada)
        await bob.follow(LIVE)
        await ada.ask(msgspec.structs.replace(signal({"a": 1}), subject="s"), Sent)
        (told,) = await signals_of(bob)
        assert (told.room, told.channel, told.sender, told.subject) == ("main", "live", "ada", "s")
        assert told.sent_at_ms == hub.clock.wall_ms()
        assert bytes(told.body) == b'{"a":1}'


async def test_it_comes_after_what_is_durable_of_its_turn() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await live_channel(ada)
        await bob.follow(LIVE, "main:general")
        at_once(ada, [signal("1"), message("a"), signal("2"), message("b")])
        kinds = [type(notice) for notice in await bob.notices() if not isinstance(notice, CaughtUp)]
        assert kinds == [Message, Message, Signal, Signal]


@pytest.mark.bad_input("BI-99")
async def test_an_idempotency_key_is_refused_and_changes_nothing() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await live_channel(ada)
        await bob.follow(LIVE)
        seq = hub.state.seq
        refused = await ada.refused(signal("x"), "key")
        assert (refused.code, refused.facts["path"], refused.facts["ephemeral"]) == ("bad_request", "$.idem_key", True)
        refused = await ada.refused(signal({"eventType": "x", "payload": {}}, "telemetry:events"), "key")
        assert (refused.code, refused.facts["path"]) == ("bad_request", "$.idem_key")
        assert hub.state.seq == seq
        assert await signals_of(bob) == []
        assert (await ada.ask(signal("x"), Sent)).n == 1


@pytest.mark.bad_input("BI-103")
async def test_it_has_no_history_and_a_durable_channel_no_recent_signals() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await live_channel(ada)
        refused = await ada.refused(ReadHistory(channel=LIVE))
        assert (refused.code, refused.facts["ephemeral"]) == ("unsupported", True)
        assert "is ephemeral" in refused.detail
        refused = await ada.refused(ListRecent(channel="main:general"))
        assert (refused.code, refused.facts["ephemeral"]) == ("unsupported", False)
        assert (await ada.refused(ListRecent(channel="main:none"))).code == "not_found"
        for limit in (0, -1, 501):
            assert (await ada.refused(ListRecent(channel=LIVE, limit=limit))).code == "bad_request"


async def test_a_restart_begins_at_one_and_says_since_when() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await live_channel(ada)
        await ada.ask(signal("x"), Sent)
        before = (await ada.ask(ListRecent(channel=LIVE), Recent)).since_at_ms
        hub.clock.advance(5_000)
        await hub.restart()
        ada = await voice(hub)
        info = await ada.ask(ShowChannel(channel=LIVE), ChannelInfo)
        assert info.ephemeral
        assert info.signals is not msgspec.UNSET
        assert (info.messages, info.signals.sent) == (0, 0)
        recent = await ada.ask(ListRecent(channel=LIVE), Recent)
        assert (recent.signals, recent.since_at_ms) == ((), before + 5_000)
        assert (await ada.ask(signal("x"), Sent)).n == 1


async def test_a_cursor_finds_nothing_of_it_and_the_answer_says_so() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await live_channel(ada)
        since = (await ada.post("first")).cursor
        await ada.ask(signal("missed"), Sent)
        await ada.post("second")
        subscribed = await bob.follow(LIVE, "main:general", since=since)
        assert [(at.channel, at.n, at.ephemeral) for at in subscribed.positions] == [
            ("live", 1, True),
            ("general", 2, False),
        ]
        assert [type(notice) for notice in await bob.notices()] == [Message, CaughtUp]


# who gets it


async def test_followers_of_a_topic_get_it_too_and_each_once() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await bob.follow("main:*")
        await live_channel(ada)
        assert (await ada.ask(signal("x"), Sent)).receivers == 1
        assert len(await signals_of(bob)) == 1


async def test_who_has_left_is_forgotten() -> None:
    async with MemoryHub() as hub:
        ada, bob, eve = await voice(hub), await voice(hub, "bob"), await voice(hub, "eve")
        await live_channel(ada)
        first = await bob.follow(LIVE)
        await eve.ask(Subscribe(channels=("main:l*",), activity=True), Subscribed)
        assert (await ada.ask(signal("x"), Sent)).receivers == 2
        await bob.ask(Unsubscribe(subscription=first.subscription), dict)
        await eve.peer.aclose()
        await quiet(hub)
        assert (await ada.ask(signal("x"), Sent)).receivers == 0
        told = hub.turns.signals
        assert (told._followers, told.watchers, told._topics.lengths) == ({}, {}, {})


async def test_a_channel_that_is_deleted_ends_its_followers_and_what_was_counted() -> None:
    async with MemoryHub() as hub:
        ada, bob, boss = await voice(hub), await voice(hub, "bob"), await operator(hub)
        await live_channel(ada)
        await bob.follow(LIVE)
        await ada.ask(signal("x"), Sent)
        channel = hub.state.rooms.by_address[LIVE].id
        await boss.ask(DeleteChannel(channel=LIVE), Place)
        assert isinstance((await bob.notices())[-1], Broken)
        assert channel not in hub.state.soft.signals.by_channel
        assert hub.turns.signals.recent.channels == []
        await live_channel(ada)
        assert (await ada.ask(signal("x"), Sent)).n == 1


async def test_a_channel_that_is_deleted_in_the_turn_of_its_signal() -> None:
    async with MemoryHub() as hub:
        boss, bob = await operator(hub), await voice(hub, "bob")
        ada = await voice(hub)
        await live_channel(ada)
        await bob.follow(LIVE)
        at_once(ada, [signal("last")])
        await boss.say(DeleteChannel(channel=LIVE))
        await quiet(hub)
        assert len(await signals_of(bob)) == 1
        assert (await ada.refused(signal("x"))).code == "not_found"


async def test_one_connection_sends_so_many_in_a_turn() -> None:
    async with MemoryHub(limits=Limits(signals_per_turn_max=3)) as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await live_channel(ada)
        await bob.follow(LIVE)
        for _ in range(2):
            at_once(ada, [signal(n) for n in range(5)])
            answers = [await ada.answer(100 + at) for at in range(5)]
            replies = [msgspec.json.decode(answer.body, type=Sent) for answer in answers]
            assert [reply.dropped for reply in replies] == [False, False, False, True, True]
            assert [reply.n is msgspec.UNSET for reply in replies] == [False, False, False, True, True]
        assert [(told.n, told.dropped) for told in await signals_of(bob)] == [(n, 0) for n in range(1, 7)]
        status = await ada.ask(ShowStatus(), Status)
        assert (status.signals.sent, status.signals.shed, status.signals.dropped) == (6, 4, 0)


async def test_one_connection_is_told_so_many_bytes_in_a_turn_and_at_least_one() -> None:
    async with MemoryHub(limits=Limits(signals_turn_bytes_max=1_024)) as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await live_channel(ada)
        await bob.follow(LIVE)
        at_once(ada, [signal("x" * 300) for _ in range(5)])
        assert [told.n for told in await signals_of(bob)] == [1, 2]
        at_once(ada, [signal("y" * 5_000), signal("z")])
        assert [(told.n, told.dropped) for told in await signals_of(bob)][2:] == [(6, 3)]
        await ada.ask(signal("z"), Sent)
        assert [(told.n, told.dropped) for told in await signals_of(bob)][3:] == [(8, 1)]


async def test_all_connections_together_are_told_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "ALL_BYTES_MAX", 2_048)
    async with MemoryHub() as hub:
        ada, bob, eve = await voice(hub), await voice(hub, "bob"), await voice(hub, "eve")
        await live_channel(ada)
        await bob.follow(LIVE)
        await eve.follow(LIVE)
        at_once(ada, [signal("x" * 300) for _ in range(5)])
        assert [len(await signals_of(who)) for who in (bob, eve)] == [2, 2]


async def test_who_does_not_read_costs_no_more_and_the_others_get_all() -> None:
    limits = Limits(outbox_bytes_max=256 * 1024)
    async with MemoryHub(limits=limits) as hub:
        ada, bob, eve = await voice(hub), await voice(hub, "bob"), await voice(hub, "eve")
        await live_channel(ada)
        await bob.follow(LIVE)
        await eve.follow(LIVE)
        await eve.listen()
        for _ in range(200):
            await ada.ask(signal("x" * 8_000), Sent)
            assert eve.peer.buffered() <= limits.outbox_bytes_max // 4 + limits.signals_turn_bytes_max
            await bob.listen()
        assert len(await signals_of(bob)) == 200
        before = eve.peer.buffered()
        wedge(eve)
        await ada.ask(signal("y"), Sent)
        assert eve.peer.buffered() == before + limits.outbox_bytes_max // 2 + 2
        got = await signals_of(eve)
        assert 0 < len(got) < 40
        await ada.ask(signal("z"), Sent)
        last = (await signals_of(eve))[-1]
        assert (last.n, last.dropped) == (202, 201 - len(got))
        info = await ada.ask(ShowChannel(channel=LIVE), ChannelInfo)
        assert info.signals is not msgspec.UNSET
        assert (info.signals.sent, info.signals.delivered, info.signals.dropped) == (
            202,
            202 + len(got) + 1,
            201 - len(got),
        )


async def test_who_is_catching_up_gets_none() -> None:
    async with MemoryHub(limits=Limits(outbox_bytes_max=64 * 1024)) as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await live_channel(ada)
        await bob.follow(LIVE, "main:general")
        await bob.listen()
        (subscription,) = hub.turns.feeds._live[f"ch/{hub.state.rooms.by_address[LIVE].id}"]
        hub.turns.feeds.fall_behind(subscription.connection, hub.state.seq)
        await ada.ask(signal("x"), Sent)
        assert await signals_of(bob) == []
        hub.turns.feeds.resume(subscription.connection)
        await ada.ask(signal("y"), Sent)
        assert [(told.n, told.dropped) for told in await signals_of(bob)] == [(2, 1)]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 12), st.integers(0, 6_000)),
        st.tuples(st.just("read"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("post"), st.integers(1, 6), st.integers(0, 6_000)),
    ),
    max_size=40,
)


@given(STEPS)
@settings(max_examples=60, deadline=None)
async def test_sent_is_delivered_and_dropped_whoever_reads_when(plan: list[tuple[str, int, int]]) -> None:
    """The model knows nothing of outboxes: it counts what was sent since each subscription stands, and compares with
    what came and what was told to be missing."""
    limits = Limits(outbox_bytes_max=64 * 1024, signals_turn_bytes_max=8 * 1024, signals_per_turn_max=8)
    async with MemoryHub(limits=limits) as hub:
        ada, readers = await voice(hub), [await voice(hub, "bob"), await voice(hub, "eve")]
        await live_channel(ada)
        for reader in readers:
            await reader.follow(LIVE, "main:general")
        sent = posted = 0
        for what, count, size in plan:
            if what == "read":
                await readers[count].listen()
                continue
            make = signal if what == "send" else message
            at_once(ada, [make("x" * size) for _ in range(count)])
            await quiet(hub)
            heard = [frame for frame in await ada.listen() if frame.type == "reply"]
            replies = [msgspec.json.decode(frame.body, type=Sent) for frame in heard]
            ada.heard.clear()
            assert len(replies) == count
            sent += sum(1 for reply in replies if reply.ephemeral and not reply.dropped)
            posted += sum(1 for reply in replies if not reply.ephemeral)
        for reader in readers:
            await reader.listen()
        await ada.ask(signal("end"), Sent)
        delivered = dropped = 0
        for reader in readers:
            told, last = await signals_of(reader), 0
            for one in told:
                assert one.n == last + 1 + one.dropped
                last = one.n
            assert last == sent + 1
            assert len(await reader.messages()) == posted
            delivered += len(told)
            dropped += sum(one.dropped for one in told)
        counted = hub.state.soft.signals
        assert (counted.sent, counted.delivered, counted.dropped) == (sent + 1, delivered, dropped)
        assert delivered + dropped == 2 * (sent + 1)


# the last ones


async def test_the_last_signals_are_there_for_who_asks() -> None:
    async with MemoryHub(limits=Limits(recent_signals_max=3)) as hub:
        ada = await voice(hub)
        await live_channel(ada)
        for n in range(5):
            await ada.ask(signal(n), Sent)
        recent = await ada.ask(ListRecent(channel=LIVE), Recent)
        assert ([told.n for told in recent.signals], recent.next) == ([3, 4, 5], None)
        last = await ada.ask(ListRecent(channel=LIVE, limit=2), Recent)
        assert ([told.n for told in last.signals], last.next) == ([4, 5], None)
        page = await ada.ask(ListRecent(channel=LIVE, limit=2, after=0), Recent)
        assert ([told.n for told in page.signals], page.next) == ([3, 4], 4)
        rest = await ada.ask(ListRecent(channel=LIVE, limit=2, after=page.next), Recent)
        assert ([told.n for told in rest.signals], rest.next) == ([5], None)


async def test_what_is_kept_of_a_channel_has_a_bound_in_bytes() -> None:
    async with MemoryHub(limits=Limits(recent_signals_bytes_max=4_096)) as hub:
        ada = await voice(hub)
        await live_channel(ada)
        for _ in range(9):
            await ada.ask(signal("x" * 1_000), Sent)
        assert [told.n for told in (await ada.ask(ListRecent(channel=LIVE), Recent)).signals] == [7, 8, 9]
        await ada.ask(signal("x" * 5_000), Sent)
        assert (await ada.ask(ListRecent(channel=LIVE), Recent)).signals == ()


def test_what_is_kept_of_all_channels_has_a_bound() -> None:
    rings, size = Rings(100, RINGS_BYTES_MAX), RINGS_BYTES_MAX // 4
    told = Signal(room="main", channel="x", n=1, sender="ada", sent_at_ms=0, body=msgspec.Raw(b"1"))
    for channel in (1, 2, 3, 4):
        rings.add(channel, 7, told, size)
    rings.add(1, 8, told, 1)
    assert rings.channels == [3, 4, 1]
    assert rings.bytes == 3 * size + 1
    rings.forget(3)
    assert rings.bytes == 2 * size + 1


# telemetry


async def test_who_follows_telemetry_first_makes_its_channel() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await bob.follow("telemetry:events")
        assert (await ada.ask(signal({"eventType": "x", "payload": {}}, "telemetry:events"), Sent)).receivers == 1
        assert len(await signals_of(bob)) == 1
        assert not hub.state.rooms.by_address["telemetry:events"].members


async def test_where_nothing_is_made_on_the_side_telemetry_is_not_either() -> None:
    async with MemoryHub(auto_create=False) as hub:
        bob = await voice(hub, "bob")
        assert (await bob.refused(Subscribe(channels=("telemetry:events",)))).code == "not_found"


# typing


async def test_typing_is_told_to_followers_once_in_two_seconds() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await bob.follow("main:general")
        said = await ada.ask(SayTyping(channel="main:general"), Typed)
        assert (said.told, said.receivers) == (True, 1)
        assert not (await ada.ask(SayTyping(channel="main:general"), Typed)).told
        assert (await bob.ask(SayTyping(channel="main:general"), Typed)).told
        hub.clock.advance(2_000)
        assert (await ada.ask(SayTyping(channel="main:general"), Typed)).told
        told = [notice for notice in await bob.notices() if isinstance(notice, Typing)]
        assert [notice.sender for notice in told] == ["ada", "bob", "ada"]
        assert {notice.for_ms for notice in told} == {6_000}
        status = await ada.ask(ShowStatus(), Status)
        assert (status.signals.typing, status.signals.typing_swallowed) == (3, 1)


async def test_typing_is_an_agents_in_a_channel_that_is_there_and_changes_nothing() -> None:
    async with MemoryHub() as hub:
        ada, boss = await voice(hub), await operator(hub)
        seq = hub.state.seq
        assert (await ada.refused(SayTyping(channel="main:none"))).code == "not_found"
        assert (await boss.refused(SayTyping(channel="main:general"))).code == "anonymous"
        await ada.ask(SayTyping(channel="main:general"), Typed)
        assert hub.state.seq == seq


# activity


async def test_what_agents_do_is_told_without_what_they_say() -> None:
    canary = "canary-7f3a"
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await bob.ask(Subscribe(activity=True), Subscribed)
        await ada.ask(message(canary), Sent)
        await ada.ask(msgspec.structs.replace(message(canary), target="bob", subject=canary, thread=canary), Sent)
        await ada.ask(ClaimLease(task="build", note=canary, branch=canary), Lease)
        await ada.ask(PutValue(key="k", value=msgspec.Raw(msgspec.json.encode(canary))), ValueInfo)
        await ada.refused(ClaimLease(task=f"{canary} with blanks"))
        await ada.refused(ClaimLease(task="x", room=canary))
        await ada.refused(CreateRoom(room=f"{canary}!"))
        heard = await bob.listen()
        assert canary.encode() not in b"".join(bytes(frame.body) for frame in heard if frame.type == "activity")
        told = [(one.command, one.outcome, one.room, one.about, one.name) for one in await activities_of(bob)]
        assert told == [
            ("message.send", "ok", "main", "channel", "main:general"),
            ("message.send", "ok", None, "inbox", None),
            ("lease.claim", "ok", "main", "task", "build"),
            ("value.put", "ok", "main", "value", "k"),
            ("lease.claim", "bad_name", "main", "task", None),
        ]


async def test_nothing_is_told_of_what_changes_nothing() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await live_channel(ada)
        await ada.ask(JoinRoom(room="main"), Place)
        await bob.ask(Subscribe(activity=True), Subscribed)
        await ada.ask(JoinRoom(room="main"), Place)
        await ada.ask(Ping(), Pong)
        await ada.ask(DeclareStatus(status="busy"), StatusDeclared)
        await ada.ask(signal("x"), Sent)
        await ada.refused(signal("x"), "key")
        await ada.ask(SayTyping(channel="main:general"), Typed)
        assert await activities_of(bob) == []


async def test_what_belongs_to_a_room_is_told_to_who_may_see_it() -> None:
    async with MemoryHub(rooms={"vault": ["general"]}) as hub:
        ada, bob, eve = await voice(hub), await voice(hub, "bob"), await voice(hub, "eve")
        for who in (bob, eve):
            await who.ask(Subscribe(activity=True), Subscribed)
        assert eve.peer.connection is not None
        eve.peer.connection.by.rooms = frozenset({"main"})
        await ada.ask(JoinRoom(room="main"), Place)
        await ada.ask(ClaimLease(task="t", room="vault"), Lease)
        await ada.ask(ClaimLease(task="u"), Lease)
        await ada.refused(message("x", "vault:none"))
        await ada.ask(message("x", "vault:general"), Sent)
        assert [one.name for one in await activities_of(bob)] == ["main", "t", "u", "vault:general"]
        seen = await activities_of(eve)
        assert [(one.command, one.room, one.name) for one in seen] == [
            ("room.join", "main", "main"),
            ("lease.claim", "main", "u"),
        ]


async def test_a_private_channel_is_there_for_its_members_alone() -> None:
    async with MemoryHub() as hub:
        ada, bob, eve = await voice(hub), await voice(hub, "bob"), await voice(hub, "eve")
        await ada.ask(CreateChannel(channel=LIVE, private=True, ephemeral=True), Place)
        await ada.ask(CreateChannel(channel="main:den", private=True), Place)
        await eve.ask(Subscribe(channels=("main:*",), activity=True), Subscribed)
        await ada.ask(signal("before"), Sent)
        await ada.ask(InviteMember(place=LIVE, agent="bob"), Membership)
        await bob.ask(JoinChannel(channel=LIVE), Place)
        await bob.follow(LIVE)
        await ada.ask(signal("after"), Sent)
        assert [told.n for told in (await bob.ask(ListRecent(channel=LIVE), Recent)).signals] == [2]
        assert [told.n for told in (await ada.ask(ListRecent(channel=LIVE), Recent)).signals] == [1, 2]
        for command in (ListRecent(channel=LIVE), SayTyping(channel=LIVE), signal("x")):
            assert (await eve.refused(command)).code == "not_found"
        await ada.ask(message("x", "main:den"), Sent)
        await ada.ask(SayTyping(channel=LIVE), Typed)
        await ada.ask(KickMember(place=LIVE, agent="bob"), Membership)
        await ada.ask(signal("last"), Sent)
        assert [told.n for told in await signals_of(bob)] == [2]
        assert await signals_of(eve) == []
        assert await activities_of(eve) == []
        assert not [notice for notice in await eve.notices() if isinstance(notice, Typing)]


async def test_activity_that_is_left_out_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "ACTIVITY_PER_TURN_MAX", 2)
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await bob.ask(Subscribe(activity=True), Subscribed)
        at_once(ada, [message(str(n)) for n in range(5)])
        await quiet(hub)
        await ada.post("x")
        told = await activities_of(bob)
        assert [one.dropped for one in told] == [0, 0, 3]
        wedge(bob)
        await ada.post("x")
        await bob.listen()
        await ada.post("x")
        assert (await activities_of(bob))[-1].dropped == 1
        status = await ada.ask(ShowStatus(), Status)
        assert (status.signals.activity, status.signals.activity_dropped) == (4, 4)


async def test_nothing_is_put_together_when_nobody_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        subscribed = await bob.ask(Subscribe(activity=True), Subscribed)
        await bob.ask(Unsubscribe(subscription=subscribed.subscription), dict)
        monkeypatch.setattr(signals, "described", None)
        bugs = bugs_on_loop()
        await ada.post("x")
        await ada.refused(message("x", "main:none"))
        assert bugs == []


async def test_what_was_told_and_left_out_is_in_the_metrics() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await live_channel(ada)
        await bob.follow(LIVE)
        wedge(bob)
        for _ in range(3):
            await ada.ask(signal("x"), Sent)
        page = render(hub.turns).decode()
        assert "synapse_signals_total 3\n" in page
        assert "synapse_signal_deliveries_total 0\n" in page
        assert 'synapse_signals_dropped_total{kind="signal"} 3\n' in page
