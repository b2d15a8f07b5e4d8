"""Messages that are lent ahead, over the real hub in memory."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, TypeVar

import pytest

from synapse.client.client import Client, body_of
from synapse.errors import Disconnected, Rejected
from synapse.testing import MemoryHub

if TYPE_CHECKING:
    from tests.client.conftest import People

HAS_VIRTUAL_TIME = True

_Result = TypeVar("_Result")


def begun(work: Coroutine[object, object, _Result]) -> "asyncio.Task[_Result]":
    return asyncio.get_running_loop().create_task(work)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def send(ada: Client, *words: str) -> None:
    for text in words:
        await ada.send(text, to="bob")


async def test_they_come_in_order_and_are_acked_by_id(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            await send(ada, "one", "two")
            async with bob.deliveries(2) as feed:
                await send(ada, "three")
                for text in ("one", "two", "three"):
                    lent = await anext(feed)
                    assert (body_of(lent.message), lent.lends) == (text, 1)
                    await bob.ack(lent.message.id)
            assert (await bob.inbox()).unacked == 0


async def test_tasks_that_wait_for_the_next_one_get_one_each(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob, bob.deliveries(4) as feed:
            waiting = [begun(anext(feed)) for _ in range(4)]
            await settled()
            waiting.pop(1).cancel()
            await send(ada, "one", "two", "three")
            assert [body_of((await task).message) for task in waiting] == ["one", "two", "three"]


async def test_one_that_is_cancelled_when_it_is_woken_leaves_its_message_to_the_next(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob, bob.deliveries(4) as feed:
            first, second = begun(anext(feed)), begun(anext(feed))
            await settled()
            before = feed.hear

            def hear_and_cancel(notice: object) -> None:
                before(notice)  # type: ignore[arg-type]  # what the feed is given
                first.cancel()

            feed.hear = hear_and_cancel  # type: ignore[method-assign]  # in the very step in which it comes
            await send(ada, "one")
            assert body_of((await second).message) == "one"


async def test_what_waited_too_long_is_not_handed_out_and_comes_again(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob, bob.deliveries(1) as feed:
            await send(ada, "one")
            await settled()
            await asyncio.sleep(25)  # of 30
            waiting = begun(anext(feed))
            await settled()
            assert not waiting.done()
            await hub.advance(31_000)
            assert (await waiting).lends == 2


async def test_after_a_reconnect_it_goes_on_and_what_was_lent_before_comes_again(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob, bob.deliveries(2) as feed:
            await send(ada, "one", "two", "three")
            await settled()
            assert body_of((await anext(feed)).message) == "one"
            await hub.restart()
            for text, lends in (("one", 2), ("two", 2)):
                lent = await anext(feed)
                assert (body_of(lent.message), lent.lends) == (text, lends)
                await bob.ack(lent.message.id)
            assert body_of((await anext(feed)).message) == "three"


async def test_what_nobody_took_goes_to_the_next_take_when_it_ends(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            async with bob.deliveries(2) as feed:
                await send(ada, "one", "two")
                await settled()
                assert body_of((await anext(feed)).message) == "one"
                waiting = begun(bob.take(wait=None))
                await settled()
                waiting.cancel()
            taken = await bob.take()
            assert taken is not None
            assert (body_of(taken.message), taken.lends) == ("two", 1)
            with pytest.raises(StopAsyncIteration):
                await anext(feed)


async def test_there_is_one_at_a_time_and_its_end_is_told(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("bob") as bob:
            with pytest.raises(Rejected, match="deliveries"):
                async with bob.deliveries(), bob.deliveries():
                    pass
            with pytest.raises(Rejected, match="take 5000"):
                async with bob.deliveries(5000):
                    pass
            feed = await bob.deliveries().__aenter__()
            waiting = begun(anext(feed))
            await settled()
        with pytest.raises((StopAsyncIteration, Disconnected)):
            await waiting
