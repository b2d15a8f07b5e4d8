"""Acks of one step of the loop are one request, and each caller is told of its own."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from synapse.client.client import Client
from synapse.core.delivery_events import MessagesAcked
from synapse.errors import Rejected
from synapse.protocol.limits import Limits
from synapse.testing import MemoryHub

if TYPE_CHECKING:
    from tests.client.conftest import People

HAS_VIRTUAL_TIME = True


async def sent(ada: Client, count: int) -> list[str]:
    return [(await ada.send(number, to="bob")).id for number in range(count)]


def acks(hub: MemoryHub) -> list[tuple[int, ...]]:
    """The messages of each ack in the journal."""
    events = [entry.event for entry in hub.turns.feeds.recent.after(hub.turns.feeds.recent.floor)]
    return [event.messages for event in events if isinstance(event, MessagesAcked)]


async def test_those_of_one_step_are_one_event_and_each_hears_of_its_own(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            ids = await sent(ada, 4)
            await bob.ack(ids[3])
            answers = await asyncio.gather(*(bob.ack(one) for one in ids), bob.ack(ids[0], ids[1]))
            assert [found.acked for found in answers] == [(ids[0],), (ids[1],), (ids[2],), (), (ids[0], ids[1])]
            assert [found.already for found in answers] == [(), (), (), (ids[3],), ()]
            assert [len(messages) for messages in acks(hub)] == [1, 3]


async def test_a_bad_one_spoils_no_other(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            ids = await sent(ada, 2)
            asked = (bob.ack(ids[0]), bob.ack("m1"), bob.ack(ids[1]))
            first, bad, second = await asyncio.gather(*asked, return_exceptions=True)
            assert isinstance(bad, Rejected)
            assert bad.code == "not_found"
            assert not isinstance(first, BaseException)
            assert not isinstance(second, BaseException)
            assert (first.acked, second.acked) == ((ids[0],), (ids[1],))
            with pytest.raises(Rejected, match="never in this inbox"):
                await bob.ack("m2")


async def test_who_is_cancelled_takes_nobody_along(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            for gone in (0, 1):  # the one that asks for all, and one that joined
                ids = await sent(ada, 3)
                tasks = [asyncio.ensure_future(bob.ack(one)) for one in ids]
                await asyncio.sleep(0)
                tasks.pop(gone).cancel()
                left = [one for at, one in enumerate(ids) if at != gone]
                assert [(await task).acked for task in tasks] == [(one,) for one in left]


async def test_no_more_are_gathered_than_one_ack_may_have(people: "type[People]") -> None:
    async with MemoryHub(limits=Limits(acks_max=2)) as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            ids = await sent(ada, 3)
            answers = await asyncio.gather(*(bob.ack(one) for one in ids))
            assert [found.acked for found in answers] == [(one,) for one in ids]
            assert sorted(map(len, acks(hub))) == [1, 2]
