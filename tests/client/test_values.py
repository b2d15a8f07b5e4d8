"""Shared values through the client: compare and set among many, and a feed that goes on over restarts."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from synapse.client.client import value_of
from synapse.errors import Rejected
from synapse.testing import MemoryHub

if TYPE_CHECKING:
    from tests.client.conftest import People


async def test_many_that_count_with_compare_and_set_lose_no_update(people: "type[People]") -> None:
    async with MemoryHub() as hub, people(hub).client("ada") as ada, people(hub).client("bob") as bob:
        await ada.put("n", 0)

        async def count(times: int, client: object) -> None:
            done = 0
            while done < times:
                seen = await ada.get("n")
                number = value_of(seen)
                assert isinstance(number, int)
                try:
                    await (ada if client == "ada" else bob).put("n", number + 1, if_version=seen.version)
                except Rejected as refusal:
                    assert refusal.code == "version_conflict"
                    continue
                done += 1

        await asyncio.gather(*(count(20, name) for name in ("ada", "bob", "ada", "bob")))
        assert value_of(await ada.get("n")) == 80


async def test_a_feed_tells_each_change_of_its_prefix_once_also_over_a_restart(people: "type[People]") -> None:
    async with MemoryHub() as hub, people(hub).client("ada") as ada:
        async with ada.value_changes("a/") as feed:
            await ada.put("b", 0)
            await ada.put("a/1", 1)
            first = await anext(feed)
            assert (first.key, value_of(first)) == ("a/1", 1)
            await hub.restart()
            await ada.put("a/2", 2, ttl=1)
            await ada.delete("a/1")
            await ada.transfer("a/2", "ada")
            await ada.clear("z")
            assert [(change.change, change.key) for change in (await anext(feed), await anext(feed))] == [
                ("put", "a/2"),
                ("deleted", "a/1"),
            ]
            await hub.advance(2_000)
            expired = await anext(feed)
            assert (expired.change, expired.key, expired.by) == ("expired", "a/2", "hub")
            with pytest.raises(ValueError, match="no value is told"):
                value_of(expired)
        assert await ada.keys() == ("b",)
        assert [value.owner for value in await ada.values()] == ["ada"]
