"""Answers from the reader thread: one at a time for each connection, never before their turn is durable."""

import asyncio

from tests.hub.conftest import error_of, message, slow_reader, slow_writer, steps, voice

from synapse.errors import JournalRefused
from synapse.protocol.codec import decode_hub_frame
from synapse.protocol.commands import Ping, ReadHistory, Subscribe
from synapse.protocol.limits import Limits
from synapse.protocol.replies import Pong
from synapse.testing import MemoryHub

HISTORY = ReadHistory(channel="main:general")


async def test_one_connection_has_one_answer_at_the_reader_and_others_have_theirs() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        reader = slow_reader(hub)
        asked = [await ada.say(HISTORY) for _ in range(3)]
        await bob.say(HISTORY)
        await steps()
        assert len(reader.jobs) == 2
        answered = []
        while reader.jobs:
            reader.finish()
            answered += [decode_hub_frame(data).id for data in ada.peer.received_now()]
        assert answered == asked


async def test_nothing_is_read_before_the_turn_is_durable() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        reader, writer = slow_reader(hub), slow_writer(hub)
        await ada.say(message("x"))
        await ada.say(HISTORY)
        await steps()
        assert (len(writer.jobs), len(reader.jobs)) == (1, 0)
        writer.finish()
        assert len(reader.jobs) == 1


async def test_the_next_answer_waits_until_a_stuck_peer_reads() -> None:
    async with MemoryHub(limits=Limits(outbox_bytes_max=64 * 1024)) as hub:
        ada = await voice(hub)
        for number in range(10):
            await ada.post(f"{number}" + "x" * 5_000)
        reader = slow_reader(hub)
        for _ in range(3):
            await ada.say(HISTORY)
        await steps()
        reader.finish()
        assert ada.peer.connection is not None
        assert ada.peer.connection.is_stuck
        assert not reader.jobs
        ada.peer.received_now()
        assert len(reader.jobs) == 1


async def test_an_answer_for_a_connection_that_is_gone_is_dropped() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        reader = slow_reader(hub)
        await ada.say(HISTORY)
        await ada.say(HISTORY)
        await steps()
        await ada.peer.aclose()
        reader.finish()
        assert ada.peer.received_now() == []
        assert not reader.jobs


async def test_a_broken_row_is_told_by_its_seq_and_ends_the_hub() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)

        def broken(*_: object) -> list[object]:
            raise JournalRefused("/h/journal.db: journal_broken: event 7", seq=7)

        hub.journal.page_back = broken  # type: ignore[method-assign, assignment]  # a disk that lies
        told = await ada.refused(HISTORY)
        assert (told.code, told.facts) == ("journal_broken", {"seq": 7})
        assert isinstance(hub.failure, JournalRefused)
        assert hub.turns.requests.complaints() == ["/h/journal.db: journal_broken: event 7"]
        assert not await ada.is_open()


async def test_a_repeat_whose_first_answer_cannot_be_read_ends_the_hub() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await ada.post("once", "key")

        def broken(*_: object) -> list[object]:
            raise JournalRefused("/h/journal.db: journal_broken: event 7", seq=7)

        hub.journal.rows = broken  # type: ignore[method-assign, assignment]  # a disk that lies
        await ada.say(message("once"), "key")
        assert not [frame for frame in await ada.listen() if frame.type == "reply"]
        assert [error_of(frame).code for frame in ada.heard if frame.type == "error"] in ([], ["journal_broken"])
        assert isinstance(hub.failure, JournalRefused)


async def test_who_read_much_waits_until_it_is_repaid_and_is_refused_nothing() -> None:
    limits = Limits(rate_agent_per_s=100, rate_agent_burst=30)
    async with MemoryHub(limits=limits) as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await bob.post("x" * 150_000)
        reader = slow_reader(hub)
        waits = [await ada.say(HISTORY) for _ in range(3)]
        for _ in waits[:2]:
            await steps()
            reader.finish()
        assert [decode_hub_frame(data).id for data in ada.peer.received_now()] == waits[:2]
        await asyncio.sleep(0.01)  # rounds go by, and the clock stands still
        assert not reader.jobs, "two pages of 18 tokens came to more than 30"
        await ada.ask(Ping(), Pong)
        await bob.say(HISTORY)
        await steps()
        assert len(reader.jobs) == 1, "others read"
        hub.clock.advance(100)
        async with asyncio.timeout(5):
            while len(reader.jobs) < 2:
                await asyncio.sleep(0.001)
        reader.finish()
        reader.finish()
        assert [decode_hub_frame(data).id for data in ada.peer.received_now()] == waits[2:]


async def test_a_subscription_that_catches_up_pays_for_its_pages_too() -> None:
    limits = Limits(rate_agent_per_s=100, rate_agent_burst=30)
    async with MemoryHub(limits=limits) as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        for _ in range(40):
            await bob.post("x" * 150_000)
            hub.clock.advance(1_000)
        reader = slow_reader(hub)
        start = f"{hub.state.journal_id}:{hub.journal.base}"
        await ada.say(Subscribe(channels=("main:general",), since=start))
        await steps()
        reader.finish()
        await asyncio.sleep(0.01)
        assert not reader.jobs, "a page of two messages, 36 tokens of 30"
        hub.clock.advance(100)
        async with asyncio.timeout(5):
            while not reader.jobs:
                await asyncio.sleep(0.001)
