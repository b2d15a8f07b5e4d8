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
from synapse.protocol.commands import Hello, SendMessage, Subscribe, Unsubscribe
from synapse.protocol.limits import Limits
from synapse.protocol.notices import Broken, CaughtUp, Message
from synapse.protocol.replies import Sent, Subscribed, Unsubscribed
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

    def __init__(self, hub: MemoryHub, name: str) -> None:
        self.hub = hub
        self.name = name
        self.seen: list[int] = []
        self.cursor = f"{hub.state.journal_id}:{hub.journal.base}"
        self.voice: Voice | None = None

    async def connect(self) -> None:
        """Come back with the last cursor."""
        self.voice = Voice(self.hub)
        await self.voice.say(Hello(name=self.name, secret=SECRET, lasting=True))  # the commit may be long in coming
        await self.voice.say(Subscribe(channels=("main:general",), since=self.cursor))

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
                self.cursor = told.cursor
            elif frame.type == "feed.live":
                self.cursor = msgspec.json.decode(frame.body, type=CaughtUp).cursor


DOINGS = st.lists(
    st.one_of(
        st.tuples(st.just("post"), st.integers(1, 40)),
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
@given(DOINGS, st.integers(1, 5), st.integers(2, 9))
def test_however_posts_reads_cuts_and_restarts_interleave_every_reader_sees_every_number_once(
    doings: list[tuple[str, int]], page_rows: int, recent_max: int
) -> None:
    async def run() -> None:
        async with MemoryHub(limits=Limits(outbox_bytes_max=64 * 1024, rate_agent_burst=100_000)) as hub:
            bugs = bugs_on_loop()
            ada = await voice(hub)
            readers = [Reader(hub, "fast"), Reader(hub, "slow")]
            for reader in readers:
                await reader.connect()
            disk, writer = slow_reader(hub), slow_writer(hub)
            for doing, count in doings:
                match doing:
                    case "post":
                        for number in range(count):
                            await ada.say(message(f"{number} " + "x" * 900))
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
            last = hub.state.rooms.by_address["main:general"].last_n
            for reader in readers:
                assert reader.seen == list(range(1, last + 1))
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
