"""Subscriptions that take: what comes is lent ahead, in order, within bounds, and to one connection at a time."""

from typing import Any

import msgspec
import pytest
from tests.hub.conftest import Voice, direct, error_of, message, operator, slow_reader, steps, text_of, voice

from synapse.core.events import MessagesLent
from synapse.core.state import digest
from synapse.hub.turn import SATING_BYTES
from synapse.journal.upcast import decode
from synapse.protocol.commands import (
    AckInbox,
    ForgetAgent,
    JoinRoom,
    ListInbox,
    SendMessage,
    Subscribe,
    TakeInbox,
    Unsubscribe,
)
from synapse.protocol.delivery_commands import GetReceipt
from synapse.protocol.delivery_replies import Receipts
from synapse.protocol.limits import Limits
from synapse.protocol.notices import Lent, ReceiptChanged
from synapse.protocol.replies import Acked, AgentRemoved, Inbox, Place, Sent, Subscribed, Taken, Unsubscribed
from synapse.protocol.role_commands import JoinRole, LeaveRole
from synapse.protocol.role_replies import RoleChanged
from synapse.testing import MemoryHub, MemoryPeer


async def lent(who: Voice) -> list[Lent]:
    """What it was lent and not asked about yet."""
    notices = await who.notices()
    who.heard.clear()
    return [notice for notice in notices if isinstance(notice, Lent)]


async def texts(who: Voice) -> list[str]:
    return [text_of(one.message) for one in await lent(who)]


async def send(who: Voice, *words: str, to: str = "bob") -> None:
    for text in words:
        await who.ask(direct(text, to), Sent)


async def test_what_comes_is_lent_in_the_turn_in_which_it_came() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        subscribed = await bob.ask(Subscribe(take=2), Subscribed)
        commits = hub.turns.totals.commits
        await send(ada, "one")
        assert hub.turns.totals.commits == commits + 1
        [found] = await lent(bob)
        assert (text_of(found.message), found.lends, found.lend_ms) == ("one", 1, 30_000)
        assert found.subscription == subscribed.subscription
        listed = await bob.ask(ListInbox(), Inbox)
        assert [item.delivery for item in listed.messages] == ["delivered"]


async def test_what_it_has_room_for_is_one_event_and_a_notice_for_each_message() -> None:
    async with MemoryHub() as hub:
        ada, eve, bob = await voice(hub), await voice(hub, "eve"), await voice(hub, "bob")
        for who in (ada, eve):
            await who.ask(Subscribe(receipts=True), Subscribed)
        await send(ada, "one", "two")
        await send(eve, "three")
        head = hub.state.seq
        await bob.ask(Subscribe(take=10), Subscribed)
        assert [row.type for row in hub.journal.rows(head + 1, 2**53)] == ["message.lent"]
        found = await lent(bob)
        assert [(text_of(one.message), one.lends) for one in found] == [("one", 1), ("two", 1), ("three", 1)]
        ids = tuple(one.message.id for one in found)
        for who, theirs in ((ada, ids[:2]), (eve, ids[2:])):
            [told] = [notice for notice in await who.notices() if isinstance(notice, ReceiptChanged)]
            assert (told.state, told.ids, told.recipient) == ("delivered", theirs, "bob")
            for message_id in theirs:
                [info] = (await who.ask(GetReceipt(id=message_id), Receipts)).recipients
                assert (info.state, info.delivered_at_ms) == ("delivered", hub.clock.wall_ms())
        assert hub.replayed_digest() == digest(hub.state)


async def test_no_more_are_lent_than_it_takes_and_an_ack_makes_room_at_once() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await send(ada, "one", "two")
        await bob.ask(Subscribe(take=2), Subscribed)
        await send(ada, "three", "four")
        first, second = await lent(bob)
        assert [text_of(one.message) for one in (first, second)] == ["one", "two"]
        commits = hub.turns.totals.commits
        await bob.ask(AckInbox(ids=(first.message.id, second.message.id)), Acked)
        assert await texts(bob) == ["three", "four"]
        assert hub.turns.totals.commits == commits + 1


async def test_a_lend_that_ends_makes_room_and_the_message_comes_again() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await bob.ask(Subscribe(take=1), Subscribed)
        await send(ada, "one", "two")
        assert await texts(bob) == ["one"]
        await hub.advance(31_000)
        [again] = await lent(bob)
        assert (text_of(again.message), again.lends) == ("one", 2)


async def test_a_message_that_dies_in_its_hands_makes_room() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await bob.ask(Subscribe(take=1), Subscribed)
        soon = SendMessage(body=msgspec.Raw(b'"soon over"'), to=("bob",), expires_at_ms=hub.clock.wall_ms() + 2_000)
        await ada.ask(soon, Sent)
        await send(ada, "next")
        assert await texts(bob) == ["soon over"]
        await hub.advance(3_000)
        assert await texts(bob) == ["next"]


async def test_a_connection_that_closes_gives_back_what_it_was_lent() -> None:
    async with MemoryHub() as hub:
        ada, bob, bob_too = await voice(hub), await voice(hub, "bob"), await voice(hub, "bob")
        await bob.ask(Subscribe(take=4), Subscribed)
        await send(ada, "one", "two")
        assert await texts(bob) == ["one", "two"]
        await bob_too.ask(Subscribe(take=4), Subscribed)
        assert await texts(bob_too) == []
        await bob.peer.aclose()
        found = await lent(bob_too)
        assert [(text_of(one.message), one.lends) for one in found] == [("one", 2), ("two", 2)]
        assert hub.turns.waiting.count == 1


async def test_two_that_take_get_what_comes_by_turns() -> None:
    async with MemoryHub() as hub:
        ada, bobs = await voice(hub), [await voice(hub, "bob") for _ in range(2)]
        for bob in bobs:
            await bob.ask(Subscribe(take=10), Subscribed)
        await send(ada, "one", "two", "three", "four")
        assert [await texts(bob) for bob in bobs] == [["one", "three"], ["two", "four"]]


async def test_of_two_that_take_none_is_lent_all_that_came_in_one_turn() -> None:
    async with MemoryHub() as hub:
        ada, bobs = await voice(hub), [await voice(hub, "bob") for _ in range(2)]
        for bob in bobs:
            await bob.ask(Subscribe(take=3), Subscribed)
        commits = hub.turns.totals.commits
        for number in range(8):
            await ada.say(direct(f"{number}", "bob"))
        assert [await texts(bob) for bob in bobs] == [["0", "2", "4"], ["1", "3", "5"]]
        assert hub.turns.totals.commits == commits + 1


async def test_who_ends_it_gets_no_more_and_keeps_what_it_has() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        subscribed = await bob.ask(Subscribe(take=1), Subscribed)
        assert hub.turns.waiting.count == 1
        await send(ada, "one")
        await bob.ask(Unsubscribe(subscription=subscribed.subscription), Unsubscribed)
        await send(ada, "two")
        [first] = await lent(bob)
        assert bob.peer.connection is not None
        assert (hub.turns.waiting.count, bob.peer.connection.waiting) == (0, 0)
        assert not hub.state.soft.presence.here[hub.state.agents.by_name["bob"].id].is_wakeable
        assert text_of((await bob.ask(TakeInbox(), Taken)).message) == "two"
        assert (await bob.ask(AckInbox(ids=(first.message.id,)), Acked)).acked == (first.message.id,)
        again = await bob.ask(Subscribe(take=1), Subscribed)
        assert again.subscription != subscribed.subscription


async def test_what_is_read_from_disk_comes_before_what_came_later() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await voice(hub, "bob")
        await send(ada, "one", "two", "three")
        await hub.restart()
        ada, bob = await voice(hub), await voice(hub, "bob")
        await bob.say(Subscribe(take=10))
        await ada.say(direct("four", "bob"))
        await ada.say(direct("five", "bob"))
        assert await texts(bob) == ["one", "two", "three", "four", "five"]


@pytest.mark.parametrize("how", ["left", "acked"])
async def test_what_went_elsewhere_while_it_was_read_is_not_lent_here_too(how: str) -> None:
    async with MemoryHub() as hub:
        ada, bob, eve = await voice(hub), await voice(hub, "bob"), await voice(hub, "eve")
        for member in (bob, eve):
            await member.ask(JoinRole(role="build"), RoleChanged)
        sent = await ada.ask(message("for the role", "role:build"), Sent)
        await hub.restart()
        bob, eve, again = await voice(hub, "bob"), await voice(hub, "eve"), await voice(hub, "bob")
        reader = slow_reader(hub)
        await bob.say(Subscribe(take=1))
        await steps()
        assert reader.jobs, "it is lent, and read from disk"
        if how == "left":
            await again.ask(LeaveRole(role="build"), RoleChanged)
        else:
            await again.ask(AckInbox(ids=(sent.id,)), Acked)
        reader.finish()
        assert await texts(bob) == []
        await eve.say(Subscribe(take=1))
        await steps()
        if reader.jobs:
            reader.finish()
        assert await texts(eve) == (["for the role"] if how == "left" else [])


async def most_buffered(hub: MemoryHub, peer: MemoryPeer, count: int) -> int:
    """Read until so many messages were lent; the most bytes that waited for the peer at once."""
    most, found = 0, 0
    while found < count:
        await hub.settle()
        most = max(most, peer.buffered())
        frames = peer.received_now()
        assert frames, "it goes on when it was read"
        found += sum(b'"inbox.lent"' in frame for frame in frames)
    return most


async def test_long_messages_come_turn_by_turn_and_the_outbox_keeps_its_bound() -> None:
    async with MemoryHub(limits=Limits(outbox_bytes_max=256 * 1024)) as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        for number in range(12):
            body = msgspec.Raw(b'"%s"' % (b"%d" % (number % 10) * 100_000))
            await ada.ask(SendMessage(body=body, to=("bob",)), Sent)
        await bob.say(Subscribe(take=12))
        most = await most_buffered(hub, bob.peer, 12)
        assert most <= 256 * 1024


@pytest.mark.parametrize("kind", ["body", "subject"])
async def test_many_that_are_lent_at_once_keep_the_bound_of_the_outbox(kind: str) -> None:
    async with MemoryHub(limits=Limits(outbox_bytes_max=64 * 1024)) as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        subject = "\x01" * 256 if kind == "subject" else None
        body = msgspec.Raw(b'"%s"' % (b"x" * (10 if kind == "subject" else 1_500)))
        for _ in range(60):
            await ada.ask(SendMessage(body=body, to=("bob",), subject=subject), Sent)
        await bob.say(Subscribe(take=60))
        most = await most_buffered(hub, bob.peer, 60)
        rows = [row for row in hub.journal.rows(0, 2**53) if row.type == "message.lent"]
        assert len(rows) < 60, "several are lent at once"
        assert most <= 64 * 1024 * 5 // 8, "with half of it the peer is stuck, and a turn is an eighth"


@pytest.mark.parametrize(
    ("outbox", "bytes_long", "fields"),
    [
        (64 * 1024, 10, {}),
        (64 * 1024, 5_000, {}),
        (64 * 1024, 10, {"subject": "\x01" * 256}),
        (64 * 1024, 10, {"thread": "\x01" * 256}),
        (64 * 1024, 10, {"to": ("bob", *(f"{n:064}/{n:063}" for n in range(63))), "create": True}),
        (64 * 1024, 5_000, {"to": (), "channel": "main:general"}),
        (8 * 1024 * 1024, SATING_BYTES + 1, {}),
    ],
    ids=["short", "long", "subject", "thread", "many recipients", "a mention", "one is enough"],
)
async def test_one_event_lends_no_more_than_a_turn_tells_and_the_message_that_is_over_it(
    outbox: int, bytes_long: int, fields: dict[str, Any]
) -> None:
    async with MemoryHub(limits=Limits(outbox_bytes_max=outbox, thread_chars_max=256)) as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        for one in (ada, bob):
            await one.ask(JoinRoom(room="main"), Place)
        body = msgspec.Raw(b'"@bob %s"' % (b"x" * bytes_long))
        for _ in range(30):
            await ada.ask(SendMessage(**{"body": body, "to": ("bob",), **fields}), Sent)
        await bob.say(Subscribe(take=30))
        sizes: dict[str, int] = {}
        while len(sizes) < 30:
            await hub.settle()
            frames = [frame for frame in bob.peer.received_now() if b'"inbox.lent"' in frame]
            sizes |= {msgspec.json.decode(frame)["body"]["message"]["id"]: len(frame) for frame in frames}
        events = [decode(row) for row in hub.journal.rows(0, 2**53) if row.type == "message.lent"]
        for event in events:
            assert isinstance(event, MessagesLent)
            ahead = [sizes[f"m{seq}"] for seq in event.messages[:-1]]
            assert sum(ahead) <= outbox // 8
            assert max(ahead, default=0) <= SATING_BYTES


async def test_mentions_stay_where_they_are_when_it_takes_directed_ones_only() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await ada.ask(JoinRoom(room="main"), Place)
        await bob.ask(Subscribe(take=2, directed_only=True), Subscribed)
        await ada.ask(SendMessage(body=msgspec.Raw(b'"hello @bob"'), channel="main:general"), Sent)
        await send(ada, "for you")
        assert await texts(bob) == ["for you"]
        assert text_of((await bob.ask(TakeInbox(), Taken)).message) == "hello @bob"


async def test_what_makes_no_sense_is_refused() -> None:
    async with MemoryHub(limits=Limits(acks_max=5)) as hub:
        bob = await voice(hub, "bob")
        for command in (Subscribe(take=1, inbox=True), Subscribe(take=6), Subscribe(take=-1)):
            refused = error_of(await bob.exchange(command))
            assert refused.code == "bad_request", command
        assert error_of(await bob.exchange(Subscribe(directed_only=True))).code == "bad_request"
        await bob.ask(Subscribe(take=5), Subscribed)
        assert error_of(await bob.exchange(Subscribe(take=1))).code == "already_subscribed"


async def test_an_agent_that_is_forgotten_takes_nothing() -> None:
    async with MemoryHub() as hub:
        bob, chief = await voice(hub, "bob"), await operator(hub)
        await bob.ask(Subscribe(take=5), Subscribed)
        await chief.ask(ForgetAgent(name="bob"), AgentRemoved)
        assert not await bob.is_open()
        await chief.listen()
        assert hub.turns.waiting.count == 0


async def test_who_leaves_a_role_with_its_hands_full_gets_what_is_its_own_at_once() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await bob.ask(JoinRole(role="build"), RoleChanged)
        await bob.ask(Subscribe(take=1), Subscribed)
        await ada.ask(message("for the role", "role:build"), Sent)
        await send(ada, "for bob")
        assert await texts(bob) == ["for the role"]
        await bob.ask(LeaveRole(role="build"), RoleChanged)
        assert await texts(bob) == ["for bob"]
