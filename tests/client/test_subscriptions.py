"""Feeds: first against a hub played frame by frame, then over the real hub in memory."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, TypeVar

import pytest

from synapse.client.calls import RequestTimeout
from synapse.client.client import Client, body_of
from synapse.client.subscriptions import MessageFeed
from synapse.errors import Disconnected, PeerError, Rejected
from synapse.protocol.codes import CLOSE_NAME_TAKEN, CLOSE_SLOW
from synapse.protocol.notices import Broken, CaughtUp, PresenceChanged, PresenceEntry, PresenceSnapshot
from synapse.protocol.replies import Position, Subscribed, Unsubscribed
from synapse.testing import MemoryHub

if TYPE_CHECKING:
    from tests.client.conftest import Net, Peer, People

HAS_VIRTUAL_TIME = True
MAIN = "main:general"

_Result = TypeVar("_Result")


def begun(work: Coroutine[object, object, _Result]) -> "asyncio.Task[_Result]":
    return asyncio.get_running_loop().create_task(work)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def entered(feed: MessageFeed, peer: "Peer", *, head: int = 0) -> MessageFeed:
    entering = begun(feed.__aenter__())
    await peer.confirm(head=head)
    return await entering


async def left(feed: MessageFeed, peer: "Peer") -> None:
    leaving = begun(feed.__aexit__(None, None, None))
    asked = await peer.asked()
    assert asked.type == "feed.unsubscribe"
    peer.reply(asked, Unsubscribed(subscription=1, cursor="j1:1"))
    await leaving


def entry(name: str, presence: str = "online") -> PresenceEntry:
    return PresenceEntry(
        name=name,
        kind="agent",
        presence=presence,
        status="idle",
        connected_since_at_ms=None,
        last_activity_at_ms=None,
    )


# resume


async def test_after_a_break_a_feed_goes_on_from_the_last_message_it_got(net: "Net") -> None:
    client, peer = await net.connected()
    feed = await entered(client.subscribe(MAIN), peer, head=10)
    assert feed.cursor == "j1:10"
    for n in (11, 12):
        peer.tell(net.message(n))
    assert (await anext(feed)).n == 11
    assert feed.cursor == "j1:11"
    peer.cut()
    peer = await net.welcome()
    asked = await peer.confirm()
    assert {what for what, is_wanted in asked.body.items() if is_wanted} == {"channels", "since"}
    assert (asked.body["channels"], asked.body["since"]) == ([MAIN], "j1:12")
    peer.tell(net.message(13))
    assert [(await anext(feed)).n, (await anext(feed)).n] == [12, 13]
    await left(feed, peer)
    await client.close()


async def test_a_feed_that_heard_nothing_yet_goes_on_from_where_it_began(net: "Net") -> None:
    client, peer = await net.connected()
    feed = await entered(client.subscribe(MAIN), peer, head=10)
    peer.cut()
    peer = await net.welcome()
    assert (await peer.confirm(head=99)).body["since"] == "j1:10"
    peer.tell(net.message(11))
    assert (await anext(feed)).n == 11
    await left(feed, peer)
    await client.close()


async def test_the_position_moves_on_also_where_no_message_was(net: "Net") -> None:
    client, peer = await net.connected()
    feed = await entered(client.subscribe(MAIN, since="j1:5"), peer)
    peer.tell(CaughtUp(subscription=1, cursor="j1:900"))
    await settled()
    peer.cut(CLOSE_SLOW)
    peer = await net.welcome()
    assert (await peer.confirm()).body["since"] == "j1:900"
    await left(feed, peer)
    await client.close()


async def test_a_message_that_comes_twice_is_handed_out_once(net: "Net") -> None:
    client, peer = await net.connected()
    feed = await entered(client.subscribe(MAIN, inbox=True), peer)
    for n in (1, 1, 2, 2, 1, 3):
        peer.tell(net.message(n))
    assert [(await anext(feed)).n for _ in range(3)] == [1, 2, 3]
    await left(feed, peer)
    await client.close()


async def test_a_gap_in_a_channels_numbers_ends_the_feed_behind_what_is_sure(net: "Net") -> None:
    client, peer = await net.connected()
    feed = await entered(client.subscribe(MAIN), peer)
    for n in (1, 2, 4, 5):
        peer.tell(net.message(n))
    await settled()
    assert [(await anext(feed)).n, (await anext(feed)).n] == [1, 2]
    for _ in range(2):
        with pytest.raises(PeerError, match="main:general went from number 2 to 4"):
            await anext(feed)
    await left(feed, peer)
    await client.close()


async def test_a_gap_right_behind_the_subscription_is_seen_too(net: "Net") -> None:
    client, peer = await net.connected()
    entering = begun(client.subscribe(MAIN).__aenter__())
    asked = await peer.asked()
    at = (Position(room="main", channel="general", n=7),)
    peer.reply(asked, Subscribed(subscription=1, positions=at, from_cursor="j1:50", cursor="j1:50"))
    feed = await entering
    peer.tell(net.message(9, seq=51))
    with pytest.raises(PeerError, match="from number 7 to 9"):
        await anext(feed)
    await client.close()


async def test_a_channel_made_anew_counts_from_one_again(net: "Net") -> None:
    client, peer = await net.connected()
    feed = await entered(client.subscribe(MAIN), peer)
    for n, seq in ((1, 1), (2, 2), (1, 8), (2, 9)):
        peer.tell(net.message(n, seq=seq))
    assert [(await anext(feed)).n for _ in range(4)] == [1, 2, 1, 2]
    await left(feed, peer)
    await client.close()


async def test_a_gap_in_a_channel_of_a_topic_is_seen(net: "Net") -> None:
    client, peer = await net.connected()
    feed = await entered(client.subscribe("main:*"), peer)
    for n, seq, channel in ((5, 1, "a"), (1, 2, "b"), (6, 3, "a"), (3, 4, "b")):
        peer.tell(net.message(n, seq=seq, channel=channel))
    assert [(await anext(feed)).n for _ in range(3)] == [5, 1, 6]
    with pytest.raises(PeerError, match="main:b went from number 1 to 3"):
        await anext(feed)
    await client.close()


async def test_what_is_in_a_topic_goes_to_its_feed_and_to_no_other(net: "Net") -> None:
    client, peer = await net.connected()
    topic = await entered(client.subscribe("main:s*"), peer)
    inbox = await entered(client.subscribe(inbox=True), peer)
    peer.tell(net.message(1, channel="science"))
    peer.tell(net.message(40, seq=2))
    assert ((await anext(topic)).channel, (await anext(inbox)).channel) == ("science", "general")
    for other in ("main:science", "main:*", "main:sc*"):
        with pytest.raises(Rejected, match="already_subscribed"):
            await client.subscribe(other).__aenter__()
    await left(topic, peer)
    await entered(client.subscribe("main:science"), peer)
    await client.close()


async def test_each_message_goes_to_the_feed_of_its_channel_and_mentions_to_the_inbox(net: "Net") -> None:
    client, peer = await net.connected()
    general = await entered(client.subscribe(MAIN), peer)
    inbox = await entered(client.subscribe(inbox=True), peer)
    peer.tell(net.message(1))
    peer.tell(net.message(40, seq=2, channel="science"))
    peer.tell(net.message(2, seq=3))
    assert [(await anext(general)).n, (await anext(general)).n] == [1, 2]
    assert (await anext(inbox)).channel == "science"
    await client.close()


# the consumer


async def test_a_slow_consumer_loses_nothing_and_holds_up_nobody(net: "Net") -> None:
    client, peer = await net.connected()
    feed = MessageFeed(client._lifeline, (MAIN,), inbox=False, since=None, messages_max=4)
    await entered(feed, peer)
    for n in range(1, 8):
        peer.tell(net.message(n))
    asked = await peer.asked()  # the fifth did not fit: the feed is deaf and says so
    assert (asked.type, asked.body) == ("feed.unsubscribe", {"subscription": 1})
    for n in (8, 9):
        peer.tell(net.message(n))  # still on their way: dropped
    peer.reply(asked, Unsubscribed(subscription=1, cursor="j1:9"))
    pinging = begun(client.ping())
    await peer.pong()
    await pinging
    assert (await anext(feed)).n == 1
    await settled()
    assert peer.asked_now() == []
    assert (await anext(feed)).n == 2
    asked = await peer.confirm(2)
    assert asked.body["since"] == "j1:4"
    for n in (5, 6):
        peer.tell(net.message(n))
    assert [(await anext(feed)).n for _ in range(4)] == [3, 4, 5, 6]
    await client.close()


async def test_a_slow_consumer_is_bounded_in_bytes_too_but_one_message_always_fits(net: "Net") -> None:
    client, peer = await net.connected()
    feed = MessageFeed(client._lifeline, (MAIN,), inbox=False, since=None, bytes_max=1_000)
    await entered(feed, peer)
    for n in (1, 2):
        peer.tell(net.message(n, body="x" * 5_000))
    asked = await peer.asked()
    peer.reply(asked, Unsubscribed(subscription=1, cursor="j1:2"))
    assert (await anext(feed)).n == 1
    assert (await peer.confirm()).body["since"] == "j1:1"
    await client.close()


async def test_a_break_while_the_consumer_is_slow_waits_for_the_consumer(net: "Net") -> None:
    client, peer = await net.connected()
    feed = MessageFeed(client._lifeline, (MAIN,), inbox=False, since=None, messages_max=2)
    await entered(feed, peer)
    for n in (1, 2, 3):
        peer.tell(net.message(n))
    await peer.asked()
    peer.cut()
    peer = await net.welcome()
    await settled()
    assert peer.asked_now() == []
    assert (await anext(feed)).n == 1
    assert (await peer.confirm()).body["since"] == "j1:2"
    await settled()
    assert peer.asked_now() == []
    peer.tell(net.message(3))
    assert [(await anext(feed)).n, (await anext(feed)).n] == [2, 3]
    await left(feed, peer)
    await client.close()


async def test_a_cancelled_wait_for_the_next_message_loses_none(net: "Net") -> None:
    client, peer = await net.connected()
    feed = await entered(client.subscribe(MAIN), peer)
    for n in range(1, 20):
        waiting = begun(anext(feed))
        await asyncio.sleep(0)
        if n % 2:
            waiting.cancel()
        peer.tell(net.message(n))
        await asyncio.wait({waiting})
    await settled()
    assert feed.cursor is not None
    rest = int(feed.cursor.rpartition(":")[2])
    assert [(await anext(feed)).n for _ in range(19 - rest)] == list(range(rest + 1, 20))
    await left(feed, peer)
    await client.close()


async def test_a_flood_lets_the_consumer_run_in_between(net: "Net") -> None:
    client, peer = await net.connected()
    feed = await entered(client.subscribe(MAIN), peer)
    for n in range(1, 5_001):
        peer.tell(net.message(n))
    assert [(await anext(feed)).n for _ in range(5_000)] == list(range(1, 5_001))
    assert peer.asked_now() == []
    await left(feed, peer)
    await client.close()


# beginnings and ends


async def test_a_subscription_that_is_refused_raises_where_it_is_entered(net: "Net") -> None:
    client, peer = await net.connected()
    feed = client.subscribe("main:nowhere")
    entering = begun(feed.__aenter__())
    peer.refuse(await peer.asked(), "not_found")
    with pytest.raises(Rejected, match="not_found"):
        await entering
    await entered(client.subscribe("main:nowhere"), peer)
    await client.close()


async def test_two_feeds_of_one_client_do_not_share_a_channel(net: "Net") -> None:
    client, peer = await net.connected()
    feed = await entered(client.subscribe(MAIN, "main:a"), peer)
    with pytest.raises(Rejected, match="already_subscribed: another feed of this client follows main:a"):
        await client.subscribe("main:a", "main:b").__aenter__()
    await left(feed, peer)
    await entered(client.subscribe("main:a", "main:b"), peer)
    await client.close()


async def test_a_feed_that_is_not_confirmed_in_time_is_withdrawn(net: "Net") -> None:
    client, peer = await net.connected(timeout=3.0)
    with pytest.raises(RequestTimeout, match="not confirmed within 3 s"):
        await client.subscribe(MAIN).__aenter__()
    await peer.confirm(5)  # the answer comes late: the hub is told that nobody wants it any more
    asked = await peer.asked()
    assert (asked.type, asked.body) == ("feed.unsubscribe", {"subscription": 5})
    await client.close()


async def test_a_feed_that_was_given_up_does_not_stand_in_the_way_of_the_next(net: "Net") -> None:
    client, peer = await net.connected(timeout=3.0)
    with pytest.raises(RequestTimeout, match="not confirmed within 3 s"):
        await client.subscribe(MAIN).__aenter__()
    again = client.subscribe(MAIN)
    entering = begun(again.__aenter__())
    await peer.confirm(5)
    asked = await peer.asked()
    assert asked.type == "feed.unsubscribe", "first what is not wanted any more ends"
    peer.reply(asked, Unsubscribed(subscription=5, cursor="j1:1"))
    await peer.confirm(6)
    assert await entering is again
    await client.close()


async def test_a_feed_can_be_opened_while_there_is_no_connection(net: "Net") -> None:
    client, peer = await net.connected()
    peer.cut()
    await settled()
    entering = begun(client.subscribe(MAIN).__aenter__())
    peer = await net.welcome()
    await peer.confirm(head=3)
    assert (await entering).cursor == "j1:3"
    await client.close()


async def test_a_feed_that_is_left_without_connection_is_not_subscribed_again(net: "Net") -> None:
    client, peer = await net.connected()
    feed = await entered(client.subscribe(MAIN), peer)
    peer.cut()
    await settled()
    await feed.__aexit__(None, None, None)
    with pytest.raises(StopAsyncIteration):
        await anext(feed)
    peer = await net.welcome()
    await settled()
    assert peer.asked_now() == []
    await client.close()


async def test_a_feed_that_the_hub_broke_raises_its_reason(net: "Net") -> None:
    client, peer = await net.connected()
    feed = await entered(client.subscribe(MAIN), peer)
    peer.tell(net.message(1))
    peer.tell(Broken(subscription=1, code="journal_broken", detail="row 2"))
    assert (await anext(feed)).n == 1
    with pytest.raises(Rejected, match="journal_broken: row 2"):
        await anext(feed)
    await client.close()


async def test_a_cursor_that_no_longer_fits_after_a_restore_ends_the_feed(net: "Net") -> None:
    client, peer = await net.connected()
    feed = await entered(client.subscribe(MAIN), peer)
    peer.cut()
    peer = await net.welcome()
    peer.refuse(await peer.asked(), "log_diverged")
    with pytest.raises(Rejected, match="log_diverged"):
        await anext(feed)
    await client.close()


async def test_closing_the_client_ends_iterations_quietly(net: "Net") -> None:
    client, peer = await net.connected()
    feed = await entered(client.subscribe(MAIN), peer)
    peer.tell(net.message(1))
    await settled()

    async def everything() -> list[int]:
        return [message.n async for message in feed]

    reading = begun(everything())
    await settled()
    await client.close()
    assert await reading == [1]


async def test_a_code_that_forbids_coming_back_raises_in_iterations(net: "Net") -> None:
    client, peer = await net.connected()
    feed = await entered(client.subscribe(MAIN), peer)
    waiting = begun(anext(feed))
    peer.cut(CLOSE_NAME_TAKEN)
    with pytest.raises(Disconnected) as ended:
        await waiting
    assert ended.value.code == CLOSE_NAME_TAKEN
    await client.close()


# presence


async def test_presence_is_a_snapshot_in_pages_and_then_diffs_that_merge(net: "Net") -> None:
    client, peer = await net.connected()
    feed = client.presence()
    entering = begun(feed.__aenter__())
    await peer.confirm()
    await entering
    peer.tell(PresenceSnapshot(agents=(entry("ada"), entry("bob")), complete=False))
    peer.tell(PresenceSnapshot(agents=(entry("cid"),), complete=True))
    update = await anext(feed)
    assert update.is_snapshot
    assert [each.name for each in update.agents] == ["ada", "bob", "cid"]
    for each in (entry("bob", "recent"), entry("dan"), entry("bob", "offline")):
        peer.tell(PresenceChanged(agents=(each,)))
    await settled()
    update = await anext(feed)
    assert not update.is_snapshot
    assert [(each.name, each.presence) for each in update.agents] == [("bob", "offline"), ("dan", "online")]
    peer.cut()
    peer = await net.welcome()
    assert (await peer.confirm()).body["presence"] is True
    peer.tell(PresenceSnapshot(agents=(entry("ada"), entry("bob")), complete=True))
    peer.tell(PresenceChanged(agents=(entry("bob", "offline"),)))
    await settled()
    update = await anext(feed)
    assert update.is_snapshot
    assert [each.name for each in update.agents] == ["ada"]
    with pytest.raises(Rejected, match="already_subscribed"):
        await client.presence().__aenter__()
    await client.close()


async def test_a_snapshot_that_was_cut_off_is_not_mixed_into_the_next(net: "Net") -> None:
    client, peer = await net.connected()
    feed = client.presence()
    entering = begun(feed.__aenter__())
    await peer.confirm()
    await entering
    peer.tell(PresenceSnapshot(agents=(entry("ada"), entry("gone")), complete=False))
    await settled()
    peer.cut()
    peer = await net.welcome()
    await peer.confirm()
    peer.tell(PresenceSnapshot(agents=(entry("ada"),), complete=True))
    assert [each.name for each in (await anext(feed)).agents] == ["ada"]
    await client.close()


# over the real hub in memory


async def numbers(feed: MessageFeed, count: int) -> list[int]:
    async with asyncio.timeout(60):
        return [(await anext(feed)).n for _ in range(count)]


async def test_readers_on_a_hub_that_is_killed_again_and_again_see_every_message_once(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            async with bob.subscribe(MAIN) as feed:
                reading = begun(numbers(feed, 200))
                for n in range(200):
                    if n % 20 == 10:
                        await hub.restart()
                    sent = await ada.send(n, channel=MAIN)
                    assert sent.n == n + 1
                assert await reading == list(range(1, 201))
            bodies = [body_of(message) async for message in ada.all_history(MAIN)]
            assert bodies == list(range(200))


async def test_a_topic_goes_on_over_kills_of_the_hub_with_channels_that_came_to_be_meanwhile(
    people: "type[People]",
) -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob, bob.subscribe("main:s*") as feed:
            reading = begun(_addresses(feed, 90))
            expected: list[tuple[str, int]] = []
            for n in range(90):
                if n % 30 == 20:
                    await hub.restart()
                if n % 10 == 0:
                    await ada.create_channel(f"main:s{n}")
                channel = f"s{n // 10 * 10 if n % 3 else 0}"
                sent = await ada.send(n, channel=f"main:{channel}")
                await ada.send("not here", channel=MAIN)
                assert isinstance(sent.n, int)
                expected.append((channel, sent.n))
            assert await reading == expected
            page = await bob.history("main:s*", limit=20)
            assert [(message.channel, message.n) for message in page.messages] == expected[-20:]


async def _addresses(feed: MessageFeed, count: int) -> list[tuple[str, int]]:
    found = [await anext(feed) for _ in range(count)]
    return [(message.channel, message.n) for message in found]


async def test_a_feed_from_a_cursor_catches_up_and_goes_live_without_a_seam(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            start = (await bob.ping()).cursor
            for n in range(500):
                await ada.send(n, channel=MAIN)
            feed = MessageFeed(bob._lifeline, (MAIN,), inbox=False, since=start, messages_max=50)
            async with feed:
                sending = begun(_send_all(ada, 500))
                assert await numbers(feed, 1_000) == list(range(1, 1_001))
                await sending


async def _send_all(client: Client, count: int) -> None:
    for n in range(count):
        await client.send(n, channel=MAIN)


async def test_a_consumer_that_asks_between_messages_is_never_stuck(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            start = (await bob.ping()).cursor
            await _send_all(ada, 300)
            feed = MessageFeed(bob._lifeline, (MAIN,), inbox=False, since=start, messages_max=10)
            seen = []
            async with feed, asyncio.timeout(60):
                async for message in feed:
                    await bob.ping()
                    seen.append(message.n)
                    if len(seen) == 300:
                        break
            assert seen == list(range(1, 301))


async def test_one_message_by_two_ways_comes_once(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            await ada.join(MAIN)
            async with bob.subscribe() as feed:
                await ada.send("@bob look", channel=MAIN)
                await ada.send("to you", to="bob")
                assert [(await anext(feed)).channel, (await anext(feed)).channel] == ["general", "@bob"]


async def test_a_feed_that_retention_has_overtaken_says_so_to_its_reader(net: "Net") -> None:
    client, peer = await net.connected()
    feed = await entered(client.subscribe(MAIN), peer)
    peer.tell(Broken(subscription=1, code="cursor_too_old", detail="dropped", first_kept="j:9"))
    with pytest.raises(Rejected, match="cursor_too_old") as refused:
        await anext(feed)
    assert refused.value.facts == {"first_kept": "j:9"}
    await client.close()


async def test_a_feed_that_comes_back_too_late_is_refused_and_does_not_ask_again(net: "Net") -> None:
    client, peer = await net.connected()
    feed = await entered(client.subscribe(MAIN), peer)
    peer.cut()
    again = await net.welcome()
    asked = await again.asked()
    again.refuse(asked, "cursor_too_old")
    with pytest.raises(Rejected, match="cursor_too_old"):
        await anext(feed)
    await settled()
    assert again.asked_now() == []
    await client.close()


async def test_a_feed_of_a_client_that_is_not_connected_says_so_at_once(net: "Net") -> None:
    begun_s = asyncio.get_running_loop().time()
    with pytest.raises(Disconnected, match="the client is not connected: `async with client`"):
        await net.client().subscribe("main:general").__aenter__()
    assert asyncio.get_running_loop().time() == begun_s
