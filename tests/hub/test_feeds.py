"""Subscriptions: catching up, live, and nothing skipped or repeated at either seam."""

import asyncio

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hub.conftest import (
    SECRET,
    Voice,
    bugs_on_loop,
    direct,
    message,
    operator,
    quiet,
    slow_reader,
    slow_writer,
    steps,
    text_of,
    voice,
)

from synapse.core.events import JournalWritable, Recorded
from synapse.errors import JournalRefused
from synapse.hub import feeds
from synapse.hub.feeds import Joined, Recent
from synapse.protocol.codec import decode_hub_frame
from synapse.protocol.commands import (
    CreateChannel,
    CreateRoom,
    DeleteChannel,
    DeleteRoom,
    Hello,
    JoinChannel,
    ReadHistory,
    SendMessage,
    Subscribe,
    Unsubscribe,
)
from synapse.protocol.limits import Limits
from synapse.protocol.member_commands import InviteMember
from synapse.protocol.notices import Broken, CaughtUp, Message
from synapse.protocol.replies import History, Place, Sent, Subscribed, Unsubscribed
from synapse.testing import MemoryHub


async def start_of(hub: MemoryHub) -> str:
    """The cursor before everything."""
    return f"{hub.state.journal_id}:{hub.journal.base}"


async def test_a_subscription_from_a_cursor_gets_what_was_missed_then_the_mark_then_live() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        for number in range(3):
            sent = await ada.post(f"{number}")
            if number == 0:
                seen = sent.cursor
        subscribed = await bob.follow(since=seen)
        assert subscribed.from_cursor == seen
        assert subscribed.positions[0].n == 3
        await ada.post("live")
        notices = await bob.notices()
        kinds = [type(notice) for notice in notices]
        assert kinds == [Message, Message, CaughtUp, Message]
        assert [text_of(told) for told in await bob.messages()] == ["1", "2", "live"]


async def test_long_messages_that_were_missed_come_whole_and_in_order() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        for number in range(12):
            await ada.post(f"{number:02}" + "x" * 150_000)
        await bob.follow(since=f"{hub.state.journal_id}:{hub.journal.base}")
        await ada.post("12")
        assert [text_of(told)[:2] for told in await bob.messages()] == [f"{number:02}" for number in range(13)]


async def test_behind_long_messages_that_it_may_not_read_a_subscription_goes_on() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await ada.exchange(CreateChannel(channel="main:den", private=True))
        for number in range(4):
            await ada.ask(message(f"{number}" + "x" * 150_000, "main:den"), Sent)
        await ada.exchange(InviteMember(place="main:den", agent="bob"))
        await bob.exchange(JoinChannel(channel="main:den"))
        await ada.ask(message("for both", "main:den"), Sent)
        await hub.restart()  # so that nothing is in memory
        bob = await voice(hub, "bob")
        await bob.follow("main:den", since=f"{hub.state.journal_id}:{hub.journal.base}")
        assert [text_of(told) for told in await bob.messages()] == ["for both"]


async def test_without_a_cursor_nothing_old_comes() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await ada.post("old")
        await ada.follow()
        await ada.post("new")
        assert [text_of(told) for told in await ada.messages()] == ["new"]


async def test_what_is_posted_in_the_turn_of_the_subscription_comes_once() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await ada.say(message("before, in the same turn"))
        await bob.say(Subscribe(channels=("main:general",)))
        await ada.say(message("after, in the same turn"))
        assert [text_of(told) for told in await bob.messages()] == ["after, in the same turn"]


async def test_what_is_committed_while_a_page_is_read_comes_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "PAGE_ROWS", 3)
    async with MemoryHub() as hub:
        ada = await voice(hub)
        for number in range(7):
            await ada.post(f"{number}")
        await hub.restart()  # nothing is in memory any more: everything comes from the disk
        ada, bob = await voice(hub), await voice(hub, "bob")
        reader = slow_reader(hub)
        await bob.say(Subscribe(channels=("main:general",), since=await start_of(hub)))
        await quiet(hub)
        number = 7
        while reader.jobs:
            await ada.post(f"{number}")
            number += 1
            reader.finish()
            await quiet(hub)
        await ada.post(f"{number}")
        assert [text_of(told) for told in await bob.messages()] == [str(n) for n in range(number + 1)]
        assert number > 9


async def test_a_subscription_that_ended_while_a_page_was_read_says_nothing_more() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await ada.post("old")
        await hub.restart()
        ada = await voice(hub)
        reader = slow_reader(hub)
        subscribed = await ada.follow(since=await start_of(hub))
        await ada.ask(Unsubscribe(subscription=subscribed.subscription), Unsubscribed)
        reader.finish()
        await ada.post("new")
        assert await ada.notices() == []
        assert (await ada.refused(Unsubscribe(subscription=subscribed.subscription))).code == "not_found"
        assert hub.turns.feeds.count == 0


async def test_several_channels_come_in_one_order_and_the_inbox_only_to_its_agent() -> None:
    async with MemoryHub(rooms={"lab": ["one", "two"]}) as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await bob.ask(Subscribe(channels=("lab:one", "lab:two"), inbox=True), Subscribed)
        await ada.follow("lab:one")
        for number in range(6):
            target = ("lab:one", "lab:two")[number % 2]
            body = msgspec.Raw(msgspec.json.encode(f"{number}"))
            await ada.say(SendMessage(body=body, target=target))
        await ada.say(direct("secret", "bob"))
        assert [text_of(told) for told in await bob.messages()] == ["0", "1", "2", "3", "4", "5", "secret"]
        told = (await bob.messages())[-1]
        assert (told.room, told.channel, told.to, told.kind) == (None, "@bob", ("bob",), "direct")
        assert [text_of(told) for told in await ada.messages()] == ["0", "2", "4"]
        await bob.ask(direct("back", "ada"), Sent)
        assert b"back" not in b"".join(frame.body for frame in bob.heard)


async def test_a_subscription_is_refused_for_what_it_cannot_be() -> None:
    limits = Limits(subscriptions_max=2, subscribed_channels_max=2)
    async with MemoryHub(limits=limits, rooms={"lab": ["one", "two", "three"]}) as hub:
        ada = await voice(hub)
        assert (await ada.refused(Subscribe())).code == "bad_request"
        assert (await ada.refused(Subscribe(channels=("main:nowhere",)))).code == "not_found"
        ahead = f"{hub.state.journal_id}:{hub.state.seq + 1}"
        assert (await ada.refused(Subscribe(channels=("main:general",), since=ahead))).code == "log_diverged"
        foreign = f"{'f' * 16}:{hub.state.seq}"
        assert (await ada.refused(Subscribe(channels=("main:general",), since=foreign))).code == "log_diverged"
        many = await ada.refused(Subscribe(channels=("lab:one", "lab:two", "lab:three")))
        assert many.facts == {"limit": "subscribed_channels_max", "value": 2}
        await ada.follow("lab:one")
        assert (await ada.refused(Subscribe(channels=("lab:one",)))).code == "already_subscribed"
        await ada.follow("lab:two")
        assert (await ada.refused(Subscribe(presence=True))).facts == {"limit": "subscriptions_max", "value": 2}
        assert hub.turns.feeds.count == 2


async def test_a_row_that_is_broken_ends_the_subscription_by_name_and_then_the_hub() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await ada.post("old")
        await hub.restart()
        ada = await voice(hub)
        reader = slow_reader(hub)
        subscribed = await ada.follow(since=await start_of(hub))

        def broken(*_: object) -> list[object]:
            raise JournalRefused("journal_broken: event 7", seq=7)

        hub.journal.page = broken  # type: ignore[method-assign, assignment]  # a disk that lies
        reader.finish()
        frames = [decode_hub_frame(data) for data in ada.peer.received_now()]
        assert [frame.type for frame in frames] == ["feed.broken"]
        told = msgspec.json.decode(frames[0].body, type=Broken)
        assert (told.subscription, told.code) == (subscribed.subscription, "journal_broken")
        assert isinstance(hub.failure, JournalRefused)


# topics


async def open_channel(by: Voice, *addresses: str) -> None:
    for address in addresses:
        await by.ask(CreateChannel(channel=address), Place)


def heard_by(told: list[Message]) -> list[str]:
    return [f"{one.channel} {text_of(one)}" for one in told]


async def test_a_topic_has_the_channels_that_begin_so_and_those_that_come_to_be_from_their_first_message() -> None:
    async with MemoryHub() as hub:
        ada, bob, eve = await voice(hub), await voice(hub, "bob"), await voice(hub, "eve")
        await open_channel(ada, "main:deploy-a", "main:build")
        await eve.follow("main:deploy-a")
        subscribed = await bob.follow("main:deploy-*")
        assert [(at.room, at.channel, at.n) for at in subscribed.positions] == [("main", "deploy-*", 1)]
        await ada.say(message("1", "main:deploy-a"))
        await ada.say(message("not", "main:build"))
        await ada.say(CreateChannel(channel="main:deploy-b"))
        await ada.say(message("2", "main:deploy-b"))
        await ada.ask(message("3", "main:deploy-a"), Sent)
        assert heard_by(await bob.messages()) == ["deploy-a 1", "deploy-b 2", "deploy-a 3"]
        assert heard_by(await eve.messages()) == ["deploy-a 1", "deploy-a 3"], "who follows one of them is told too"


@pytest.mark.parametrize("is_in_memory", [True, False])
async def test_a_topic_from_a_cursor_gets_what_was_missed_and_then_is_live(is_in_memory: bool) -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        seen = (await ada.ask(message("seen", "main:general"), Sent)).cursor
        await open_channel(ada, "main:deploy-a", "main:build")
        for number, place in enumerate(("deploy-a", "build", "deploy-a")):
            await ada.ask(message(f"{number}", f"main:{place}"), Sent)
        if not is_in_memory:
            await hub.restart()
            ada, bob = await voice(hub), await voice(hub, "bob")
        await bob.follow("main:deploy-*", since=seen)
        await ada.ask(message("live", "main:deploy-a"), Sent)
        assert heard_by(await bob.messages()) == ["deploy-a 0", "deploy-a 2", "deploy-a live"]


async def test_what_reaches_a_topic_in_two_ways_comes_once() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        command = Subscribe(channels=("main:general", "main:*", "main:gen*"), inbox=True)
        await bob.ask(command, Subscribed)
        await ada.post("@bob here")
        assert [text_of(told) for told in await bob.messages()] == ["@bob here"]
        again = await bob.refused(Subscribe(channels=("main:general",)))
        assert again.code == "already_subscribed"


async def test_no_channel_is_in_two_subscriptions_of_a_connection_be_it_there_or_not() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await open_channel(ada, "main:deploy-a")
        await ada.follow("main:deploy-*")
        for other in ("main:deploy-a", "main:*", "main:deploy-x*", "main:deploy-*"):
            assert (await ada.refused(Subscribe(channels=(other,)))).code == "already_subscribed", other
        await ada.follow("main:build*", "main:general")


async def test_a_deleted_channel_leaves_a_topic_and_a_deleted_room_ends_it() -> None:
    async with MemoryHub() as hub:
        ada, bob, boss = await voice(hub), await voice(hub, "bob"), await operator(hub)
        await boss.ask(CreateRoom(room="side"), Place)
        await open_channel(ada, "side:a", "side:b")
        await bob.follow("side:*")
        await boss.ask(DeleteChannel(channel="side:a"), Place)
        await ada.ask(message("still", "side:b"), Sent)
        assert heard_by(await bob.messages()) == ["b still"]
        await boss.ask(DeleteRoom(room="side"), Place)
        [broken] = [notice for notice in await bob.notices() if isinstance(notice, Broken)]
        assert broken.code == "not_found"
        await boss.ask(CreateRoom(room="side"), Place)
        await ada.ask(message("another room", "side:general"), Sent)
        assert heard_by(await bob.messages()) == ["b still"]
        await bob.follow("side:*")


async def test_the_history_of_a_topic_is_in_one_order_with_the_same_cursors_and_bounds() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await open_channel(ada, "main:deploy-a", "main:deploy-b")
        for number in range(60):
            where = ("main:deploy-a", "main:general", "main:deploy-b")[number % 3]
            await ada.ask(message(str(number), where), Sent)
        expected = [str(number) for number in range(60) if number % 3 != 1]
        newest = await ada.ask(ReadHistory(channel="main:deploy-*", limit=15), History)
        assert [text_of(told) for told in newest.messages] == expected[-15:]
        before = await ada.ask(ReadHistory(channel="main:deploy-*", limit=15, before=newest.previous), History)
        assert [text_of(told) for told in before.messages] == expected[-30:-15]
        found: list[str] = []
        position: str | None = await start_of(hub)
        while position is not None:
            page = await ada.ask(ReadHistory(room="main", channel="deploy-*", limit=7, since=position), History)
            assert len(page.messages) <= 7
            found += [text_of(told) for told in page.messages]
            position = page.next
        assert found == expected
        assert (await ada.ask(ReadHistory(channel="main:nothing*"), History)).messages == ()


@pytest.mark.bad_input("BI-48")
@pytest.mark.parametrize(
    ("topic", "code"),
    [
        ("*", "bad_name"),
        ("*:general", "bad_name"),
        ("main*", "bad_name"),
        ("ma*:*", "bad_name"),
        ("main:*a", "bad_name"),
        ("main:a**", "bad_name"),
        ("main:A*", "bad_name"),
        ("main:a:*", "bad_name"),
        ("main:" + "a" * 65 + "*", "bad_name"),
        ("MAIN:*", "bad_name"),
        ("nowhere:*", "not_found"),
    ],
)
async def test_what_is_no_topic_is_refused_and_the_connection_lives(topic: str, code: str) -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        assert (await ada.refused(Subscribe(channels=(topic,)))).code == code
        assert (await ada.refused(ReadHistory(channel=topic if ":" in topic else f":{topic}"))).code == code
        await ada.post("alive")


@pytest.mark.bad_input("BI-48")
async def test_a_message_goes_to_no_topic_and_topics_have_a_limit() -> None:
    async with MemoryHub(limits=Limits(subscribed_topics_max=2)) as hub:
        ada = await voice(hub)
        assert (await ada.refused(message("to all", "main:*"))).code == "bad_name"
        await ada.follow("main:a*", "main:b*")
        refused = await ada.refused(Subscribe(channels=("main:c*",)))
        assert (refused.code, refused.facts["limit"]) == ("limit", "subscribed_topics_max")


def test_recent_events_are_forgotten_from_the_oldest_and_the_floor_says_so() -> None:
    recent = Recent(10)
    for seq in range(11, 11 + feeds.RECENT_EVENTS_MAX + 5):
        recent.add([Recorded(seq, 0, "ada", JournalWritable(read_only_ms=0))], 1)
    assert recent.floor == 15
    assert recent.find(15) is None
    assert (found := recent.find(16)) is not None
    assert found.seq == 16
    assert next(iter(recent.after(15))).seq == 16
    with pytest.raises(AssertionError):
        recent.after(14)
    recent.add([Recorded(9_999, 0, "ada", JournalWritable(read_only_ms=0))], feeds.RECENT_BYTES_MAX)
    assert recent.floor == 9_998 or recent.find(9_999) is not None


# the seam under load


class Reader:
    """A reader that keeps its cursor, loses its connection and comes back, and believes nothing twice."""

    def __init__(self, hub: MemoryHub, name: str, follows: str = "main:general") -> None:
        self.hub = hub
        self.name = name
        self.follows = follows
        self.seen: list[int] = []
        self.heard: list[tuple[int, str, int]] = []
        self.cursor = f"{hub.state.journal_id}:{hub.journal.base}"
        self.voice: Voice | None = None

    async def connect(self) -> None:
        """Come back with the last cursor."""
        self.voice = Voice(self.hub)
        await self.voice.say(Hello(name=self.name, secret=SECRET, lasting=True))  # the commit may be long in coming
        await self.voice.say(Subscribe(channels=(self.follows,), since=self.cursor))

    async def read(self, count: int) -> None:
        """Read up to `count` frames, as slowly as that."""
        if self.voice is None:
            return
        for _ in range(count):
            if not self.voice.peer.buffered():
                return
            frame = decode_hub_frame(await self.voice.peer.receive())
            assert frame.type != "error", frame
            if frame.type == "message":
                told = msgspec.json.decode(frame.body, type=Message)
                self.seen.append(told.n)
                self.heard.append((frame.seq, str(told.channel), told.n))
                self.cursor = told.cursor
            elif frame.type == "feed.live":
                self.cursor = msgspec.json.decode(frame.body, type=CaughtUp).cursor


def covers(follows: str, name: str) -> bool:
    """What the property takes a topic for."""
    channel = follows.partition(":")[2]
    return name.startswith(channel[:-1]) if channel.endswith("*") else name == channel


DOINGS = st.lists(
    st.one_of(
        st.tuples(st.just("post"), st.integers(1, 40)),
        st.tuples(st.just("open"), st.integers(0, 1)),
        st.tuples(st.just("read"), st.integers(0, 30)),
        st.tuples(st.just("reconnect"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("steps"), st.integers(0, 6)),
        st.tuples(st.just("disk"), st.integers(1, 3)),
        st.tuples(st.just("commit"), st.integers(1, 3)),
    ),
    min_size=5,
    max_size=60,
)


@settings(max_examples=60)
@given(DOINGS, st.integers(1, 5), st.integers(2, 9), st.sampled_from(["main:general", "main:*", "main:s*"]))
def test_however_posts_reads_cuts_and_restarts_interleave_every_reader_sees_every_number_once(
    doings: list[tuple[str, int]], page_rows: int, recent_max: int, follows: str
) -> None:
    """Of a channel, and of all channels whose names begin so, also of those that are made meanwhile."""

    async def run() -> None:
        channels = ["main:general"]
        async with MemoryHub(limits=Limits(outbox_bytes_max=64 * 1024, rate_agent_burst=100_000)) as hub:
            bugs = bugs_on_loop()
            ada = await voice(hub)
            readers = [Reader(hub, "fast", follows), Reader(hub, "slow", follows)]
            for reader in readers:
                await reader.connect()
            disk, writer = slow_reader(hub), slow_writer(hub)
            for doing, count in doings:
                match doing:
                    case "post":
                        for number in range(count):
                            await ada.say(message(f"{number} " + "x" * 900, channels[number % len(channels)]))
                    case "open":
                        channels.append(f"main:{'st'[count % 2]}{len(channels)}")
                        await ada.say(CreateChannel(channel=channels[-1]))
                        await ada.say(message("the first", channels[-1]))
                    case "read":
                        await readers[0].read(1_000)
                        await readers[1].read(count)
                    case "reconnect":
                        assert readers[1].voice is not None
                        await readers[1].voice.peer.aclose()
                        await readers[1].connect()
                    case "restart":
                        while writer.jobs:
                            writer.finish()
                        await hub.restart()
                        ada = await voice(hub)
                        for reader in readers:
                            await reader.connect()
                        disk, writer = slow_reader(hub), slow_writer(hub)
                    case "steps":
                        await steps(count)
                    case "disk":
                        for _ in range(min(count, len(disk.jobs))):
                            disk.finish()
                    case _:
                        for _ in range(min(count, len(writer.jobs))):
                            writer.finish()
            for _ in range(10_000):
                await steps(2)
                moved = bool(disk.jobs or writer.jobs)
                while disk.jobs:
                    disk.finish()
                while writer.jobs:
                    writer.finish()
                ada.peer.received_now()
                for reader in readers:
                    assert reader.voice is not None
                    moved = moved or bool(reader.voice.peer.buffered())
                    await reader.read(50)
                if not moved:
                    break
            told = [channel for channel in hub.state.rooms.channels.values() if covers(follows, channel.name)]
            for reader in readers:
                assert [seq for seq, _, _ in reader.heard] == sorted({seq for seq, _, _ in reader.heard})
                for channel in told:
                    seen = [n for _, name, n in reader.heard if name == channel.name]
                    assert seen == list(range(1, channel.last_n + 1)), channel.name
                assert len(reader.heard) == sum(channel.last_n for channel in told)
            assert bugs == []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feeds, "PAGE_ROWS", page_rows)
        patch.setattr(feeds, "RECENT_EVENTS_MAX", recent_max)
        asyncio.run(run())


@given(
    st.lists(st.tuples(st.integers(1, 9), st.binary(min_size=1, max_size=3)), max_size=8, unique=True).map(sorted),
    st.lists(st.tuples(st.integers(0, 10), st.binary(min_size=1, max_size=3)), max_size=4),
)
def test_frames_joined_once_take_replies_at_the_places_that_merging_gives_them(
    frames: list[tuple[int, bytes]], replies: list[tuple[int, bytes]]
) -> None:
    replies = sorted(replies, key=lambda item: item[0])
    merged = sorted(
        [(seq, 0, data) for seq, data in replies] + [(seq, 1, data) for seq, data in frames], key=lambda item: item[:2]
    )
    joined = Joined(frames, lambda payload: payload + b"\n")
    assert joined.with_replies(replies, lambda payload: payload + b"\n") == b"".join(
        [data + b"\n" for *_, data in merged]
    )
    assert joined.data == b"".join([data + b"\n" for _, data in frames])
