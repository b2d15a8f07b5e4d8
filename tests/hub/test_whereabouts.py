"""Presence for many followers: a few at a time, and in the end all know the same."""

import asyncio

import pytest
from tests.hub.conftest import Voice, quiet, voice
from tests.hub.test_requests import presence_of

from synapse.errors import StoreFailed
from synapse.hub import whereabouts
from synapse.protocol.commands import Subscribe
from synapse.protocol.replies import Subscribed
from synapse.testing import MemoryHub


@pytest.fixture(autouse=True)
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whereabouts, "AT_ONCE", 1)


async def follower(hub: MemoryHub, name: str) -> Voice:
    """An agent that follows presence."""
    found = await voice(hub, name)
    await found.ask(Subscribe(presence=True), Subscribed)
    return found


async def test_all_followers_hear_of_a_change_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once: list[int] = []
    tell_some = whereabouts.Whereabouts._tell_some

    def counted(here: whereabouts.Whereabouts) -> None:
        before = len(here._left)
        tell_some(here)
        at_once.append(before - len(here._left))

    monkeypatch.setattr(whereabouts.Whereabouts, "_tell_some", counted)
    async with MemoryHub() as hub:
        followers = [await follower(hub, f"f{n}") for n in range(4)]
        await asyncio.sleep(2 * whereabouts.REST_S)
        for one in followers:
            await presence_of(one)
            one.heard.clear()
        at_once.clear()
        bob = await voice(hub, "bob")
        await asyncio.sleep(2 * whereabouts.REST_S)
        assert at_once == [1, 1, 1, 1]
        assert [await presence_of(one) for one in followers] == [
            [("PresenceChanged", [("bob", "online", "idle")])] for _ in followers
        ]
        await bob.peer.aclose()
        await asyncio.sleep(2 * whereabouts.REST_S)
        for one in followers:
            assert (await presence_of(one))[-1] == ("PresenceChanged", [("bob", "recent", "idle")])


async def test_newcomers_hear_who_is_there_before_what_changes() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        for _ in range(3):
            await ada.say(Subscribe(presence=True))
        await bob.peer.aclose()
        await asyncio.sleep(5 * whereabouts.REST_S)
        await quiet(hub)
        told = await presence_of(ada)
        assert [kind for kind, _ in told].count("PresenceSnapshot") == 3
        assert told[0][0] == "PresenceSnapshot"
        last = dict(entry[:2] for _, entries in told for entry in entries)
        assert last == {"ada": "online", "bob": "recent"}


async def test_nobody_hears_of_what_a_failed_commit_did_not_keep() -> None:
    async with MemoryHub() as hub:
        ada = await follower(hub, "ada")
        await presence_of(ada)
        hub.turns.broken = StoreFailed("the disk is gone")
        hub.state.soft.presence.changed.add(hub.state.agents.by_name["ada"].id)
        hub.turns.whereabouts._come_round()
        await asyncio.sleep(2 * whereabouts.REST_S)
        assert ada.peer.buffered() == 0
        hub.turns.broken = None
        hub.turns.whereabouts._come_round()
        await asyncio.sleep(2 * whereabouts.REST_S)
        assert ada.peer.buffered() > 0
