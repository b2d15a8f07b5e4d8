"""What happened, through the library: pages, and one stream that goes on over kills of the hub."""

import asyncio
import signal
from pathlib import Path

import msgspec
import pytest
from tests.client.test_blocking import ScriptHub, hub  # noqa: F401  # pytest finds the fixture here

from synapse.client.client import Client, Happening, happening_of
from synapse.errors import Rejected


def test_a_line_is_a_happening() -> None:
    line = msgspec.Raw(b'{"cursor":"j:1","at_ms":2,"by":"ada","kind":"value.put","room":"main","value":[1,null]}')
    assert happening_of(line) == Happening(
        cursor="j:1", at_ms=2, by="ada", kind="value.put", details={"room": "main", "value": [1, None]}
    )


def test_a_script_reads_what_happened(hub: ScriptHub) -> None:  # noqa: F811  # it is the fixture by name
    with hub.connect("ada") as ada, hub.connect("eve") as eve:
        for n in range(450):
            ada.send(n, channel="main:general")
        ada.send("CANARY", to="ada")
        ada.put("k", {"a": 1})
        told = list(eve.happenings(kinds=["message", "value"]))
        assert [one.details.get("body") for one in told[:-1]] == list(range(450)), "over several pages"
        assert (told[-1].kind, told[-1].details["value"], told[-1].by) == ("value.put", {"a": 1}, "ada")
        assert list(eve.happenings(told[448].cursor, kinds=["message", "value"])) == told[449:]
        page = eve.read_events(told[-1].cursor, kinds=["value"], wait=0.05)
        assert (page.events, page.next) == ((), None)
        assert list(eve.happenings(kinds=["memory"])) == []
        with pytest.raises(Rejected, match="gossip"):
            eve.read_events(kinds=["gossip"])


async def test_a_follower_misses_and_repeats_nothing_over_a_kill_of_the_hub(hub: ScriptHub) -> None:  # noqa: F811  # it is the fixture by name
    told: list[object] = []

    async def follow(client: Client) -> None:
        async for one in client.happenings(kinds=["message.posted"], follow=True):
            told.append(one.details["body"])
            if one.details["body"] == 39:
                return

    home: Path = hub.home
    async with Client(name="eve", home=home) as eve, Client(name="ada", home=home) as ada:
        following = asyncio.create_task(follow(eve))
        for n in range(40):
            if n in (13, 27):
                await asyncio.to_thread(hub.end, signal.SIGKILL)
                await asyncio.to_thread(hub.start)
            await ada.send(n, channel="main:general")
        async with asyncio.timeout(20):
            await following
    assert told == list(range(40))
