"""Signals, telemetry, typing and activity through the client, over the real hub in memory."""

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from synapse import Client
from synapse.client import soft_feeds
from synapse.client.soft_feeds import Typists
from synapse.errors import Rejected
from synapse.protocol.notices import Message
from synapse.protocol.signal_notices import Signal, Typing
from synapse.testing import MemoryHub

if TYPE_CHECKING:
    from tests.client.conftest import People

LIVE, MAIN = "main:live", "main:general"


async def test_signals_reach_a_feed_and_are_not_kept(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            await ada.create_channel(LIVE, ephemeral=True)
            async with bob.signals(LIVE) as feed:
                sent = await ada.signal({"percent": 50}, LIVE, subject="s")
                assert (sent.id, sent.n, sent.ephemeral, sent.receivers) == ("", 1, True, 1)
                told = await anext(feed)
                assert (told.n, told.sender, told.subject, bytes(told.body)) == (1, "ada", "s", b'{"percent":50}')
                also = await ada.send("by send", channel=LIVE)
                assert (also.n, also.ephemeral) == (2, True)
                assert (await anext(feed)).n == 2
            assert [one.n for one in (await bob.recent_signals(LIVE, after=1)).signals] == [2]
            with pytest.raises(Rejected, match="bad_request: main:live is ephemeral"):
                await ada.send("x", channel=LIVE, idem_key="k")
            with pytest.raises(Rejected, match="unsupported"):
                await ada.history(LIVE)
            with pytest.raises(Rejected, match="unsupported: main:live: what is sent there"):
                async with bob.subscribe(LIVE):
                    pass


async def test_telemetry_has_a_channel_and_a_form(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob, bob.signals() as feed:
            await ada.telemetry("build.finished", {"ok": True}, severity="info", at_ms=7)
            told = msgspec.json.decode((await anext(feed)).body)
            assert told == {"eventType": "build.finished", "payload": {"ok": True}, "severity": "info", "at_ms": 7}
            with pytest.raises(Rejected) as caught:
                await ada.telemetry("build finished")
            assert caught.value.facts["path"] == "$.body.body.eventType"


async def test_what_is_no_telemetry_is_refused_whatever_the_channel_takes(people: "type[People]") -> None:
    async with MemoryHub() as hub, people(hub).client("ada") as ada:
        await ada.create_channel(LIVE, ephemeral=True)
        for channel in (MAIN, LIVE):
            with pytest.raises(Rejected, match="words joined by dots"):
                await ada.telemetry("build finished", channel=channel)
            with pytest.raises(Rejected, match="none of debug, info"):
                await ada.telemetry("build", severity="loud", channel=channel)
            with pytest.raises(Rejected, match="Unix time"):
                await ada.telemetry("build", at_ms=-1, channel=channel)
        assert (await ada.history(MAIN)).messages == ()
        assert (await ada.recent_signals(LIVE)).signals == ()
        assert (await ada.telemetry("build", channel=MAIN)).id is not None


async def test_one_feed_of_a_client_follows_a_channel(people: "type[People]") -> None:
    async with MemoryHub() as hub, people(hub).client("ada") as ada:
        await ada.create_channel(LIVE, ephemeral=True)
        async with ada.signals(LIVE):
            for other in (ada.signals("main:*"), ada.subscribe("main:*"), ada.signals(LIVE)):
                with pytest.raises(Rejected, match="already_subscribed"):
                    await other.__aenter__()
        async with ada.signals("main:l*") as feed:
            await ada.signal(1, LIVE)
            assert (await anext(feed)).n == 1


async def test_a_feed_goes_on_after_a_restart_with_what_comes_then(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            await ada.create_channel(LIVE, ephemeral=True)
            async with bob.signals(LIVE) as feed:
                await ada.signal(1, LIVE)
                assert (await anext(feed)).n == 1
                await hub.restart()
                for _ in range(200):
                    if (await ada.signal(2, LIVE)).receivers:
                        break
                    await asyncio.sleep(0.05)
                told = await anext(feed)
                assert (msgspec.json.decode(told.body), told.dropped) == (2, 0)


async def test_who_is_too_slow_loses_the_oldest_and_is_told_how_many(
    people: "type[People]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soft_feeds, "QUEUE_MESSAGES_MAX", 3)
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            await ada.create_channel(LIVE, ephemeral=True)
            async with bob.signals(LIVE) as feed:
                for n in range(10):
                    await ada.signal(n, LIVE)
                await bob.ping()
                found = [await anext(feed) for _ in range(3)]
                assert [(one.n, one.dropped) for one in found] == [(8, 7), (9, 0), (10, 0)]


async def test_a_feed_of_messages_knows_who_is_typing(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with (
            everybody.client("ada") as ada,
            everybody.client("bob") as bob,
            bob.subscribe(MAIN) as feed,
        ):
            assert (await ada.say_typing("main:general")).told
            await bob.ping()
            assert [one.sender for one in feed.typing] == ["ada"]
            assert not (await ada.say_typing("main:general")).told
            await ada.send("written", channel="main:general")
            await anext(feed)
            assert feed.typing == ()


def test_typing_is_over_after_its_time() -> None:
    typists = Typists()
    for name, now_s in (("ada", 0.0), ("bob", 3.0)):
        typists.note(Typing(room="main", channel="x", sender=name, at_ms=0, for_ms=6_000), now_s)
    assert [one.sender for one in typists.now(5.9)] == ["ada", "bob"]
    assert [one.sender for one in typists.now(6.0)] == ["bob"]
    assert typists.now(9.0) == ()


async def test_what_agents_do_is_told_to_a_feed(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob, bob.activity() as feed:
            await ada.send("not to be seen", channel="main:general")
            told = await anext(feed)
            assert (told.by, told.command, told.outcome, told.name) == ("ada", "message.send", "ok", "main:general")
            with pytest.raises(Rejected, match="already_subscribed"):
                await bob.activity().__aenter__()


def test_the_notices_are_in_the_library() -> None:
    assert {Signal, Typing, Message}
    assert Client.signals.__doc__
