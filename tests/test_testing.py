"""The public test kit: a hub in memory that is the real one, a clock that moves when told, a crash that forgets."""

import asyncio

import pytest
from tests.hub.conftest import SECRET, Voice, bugs_on_loop, direct, message, quiet, voice

from synapse.core.state import digest
from synapse.errors import Disconnected
from synapse.protocol.commands import Hello, Ping, TakeInbox
from synapse.protocol.limits import Limits
from synapse.protocol.replies import Pong, Sent, Taken, Welcome
from synapse.testing import START_AT_MS, TOKEN, ManualClock, MemoryHub


def test_the_clock_stands_still_until_it_is_told_to_move() -> None:
    clock = ManualClock()
    assert (clock.wall_ms(), clock.monotonic_ms()) == (START_AT_MS, 0)
    clock.advance(1_500)
    clock.jump(-86_400_000)
    assert (clock.wall_ms(), clock.monotonic_ms()) == (START_AT_MS + 1_500 - 86_400_000, 1_500)
    with pytest.raises(AssertionError, match="see jump"):
        clock.advance(-1)


async def test_the_example_of_the_docstring_works() -> None:
    async with MemoryHub() as hub:
        peer = hub.connect()
        await peer.send(b'{"type":"hello","id":1,"body":{"name":"ada","secret":"' + SECRET.encode() + b'"}}')
        assert (await peer.receive()).startswith(b'{"type":"reply","id":1,')


async def test_two_runs_are_the_same_to_the_byte() -> None:
    async def run() -> tuple[str, bytes]:
        async with MemoryHub() as hub:
            ada, bob = await voice(hub), await voice(hub, "bob")
            await ada.ask(direct("hi", "bob"), Sent)
            await bob.ask(TakeInbox(), Taken)
            await hub.advance(3_000)
            return digest(hub.state), hub.journal.head_hash

    assert await run() == await run()


async def test_a_stranger_needs_the_published_token() -> None:
    async with MemoryHub() as hub:
        stranger = Voice(hub, owner=False)
        assert (await stranger.ask(Hello(name="ada", secret=SECRET, token=TOKEN), Welcome)).name == "ada"


async def test_a_restart_keeps_what_was_durable_and_forgets_the_rest() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await ada.post("kept")
        await ada.say(message("not yet decided"))
        before = digest(hub.state)
        await hub.restart()
        with pytest.raises(Disconnected):
            await ada.say(Ping())
        assert not await ada.is_open()
        assert hub.state.messages == 1
        assert digest(hub.state) != before, "the start is an event"
        assert hub.replayed_digest() == digest(hub.state)
        ada = await voice(hub)
        assert (await ada.post("next")).n == 2


async def test_a_killed_hub_does_nothing_any_more() -> None:
    async with MemoryHub(limits=Limits(lends_max=1)) as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await ada.ask(direct("once", "bob"), Sent)
        await bob.ask(TakeInbox(), Taken)
        old, bugs = hub.turns, bugs_on_loop()
        await hub.restart()  # the lend of the connection that is cut would be an event of the old hub
        await quiet(hub)
        assert old is not hub.turns
        assert bugs == []
        assert hub.replayed_digest() == digest(hub.state)
        bob = await voice(hub, "bob")
        assert (await bob.refused(TakeInbox())).code == "deadline"


async def test_time_passes_in_steps_so_that_everything_due_happens() -> None:
    async with MemoryHub() as hub:
        bob = await voice(hub, "bob")
        first = await bob.say(TakeInbox(wait_ms=1_000))
        await hub.advance(90_500)
        assert hub.turns.lease_clock.now_ms == 90_500
        assert (await bob.answer(first)).type == "error"


async def test_several_may_wait_until_the_hub_is_idle() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await ada.say(message("x"))
        await asyncio.wait_for(asyncio.gather(*(hub.settle() for _ in range(3))), 1)
        assert hub.state.messages == 1


async def test_rooms_and_rules_come_from_the_arguments() -> None:
    async with MemoryHub(rooms={"science": ["explore"]}, auto_create=False) as hub:
        assert {"main:general", "science:explore"} <= hub.state.rooms.by_address.keys()
        assert hub.rules.auto_create is False
        assert hub.journal.is_new
        await hub.restart()
        assert not hub.journal.is_new


async def test_a_client_plugs_in() -> None:
    async with MemoryHub() as hub:
        peer = await hub.dial()
        assert peer.kind == "lines"
        await peer.aclose()
        await peer.aclose()
        with pytest.raises(Disconnected):
            await peer.receive()
        await quiet(hub)
        assert not hub.turns.peers.connections
        ada = await voice(hub)
        await ada.ask(Ping(), Pong)
