"""What an event brings about beside the state: here, that who may see a room from now on is told of its leases."""

import pytest
from tests.hub.conftest import Voice, message, operator, reply_of, slow_writer, steps, voice

from synapse.protocol.commands import ClaimLease, CreateRoom, JoinRoom, ReleaseLease, Subscribe
from synapse.protocol.member_commands import InviteMember, KickMember
from synapse.protocol.notices import Broken, CaughtUp, LeaseChanged
from synapse.protocol.replies import Lease, Place, Released, Subscribed
from synapse.testing import MemoryHub


async def changes(by: Voice) -> list[tuple[str, str]]:
    """Task and change of each notice about a lease so far."""
    return [(told.task, told.change) for told in await by.notices() if isinstance(told, LeaseChanged)]


async def den(hub: MemoryHub) -> tuple[Voice, Voice]:
    """Ada in her private room; bob, who follows leases."""
    ada, bob = await voice(hub), await voice(hub, "bob")
    await ada.exchange(CreateRoom(room="den", private=True))
    await bob.ask(Subscribe(leases=True), Subscribed)
    return ada, bob


@pytest.mark.parametrize("history", [False, True])
async def test_leases_of_a_private_room_are_told_from_the_joining_on_and_once(history: bool) -> None:
    async with MemoryHub() as hub:
        ada, bob = await den(hub)
        await ada.ask(ClaimLease(task="before", room="den"), Lease)
        await ada.exchange(InviteMember(place="den", agent="bob", history=history))
        plain = hub.turns._writer
        writer = slow_writer(hub)
        await ada.say(message("while this is written, the rest gathers for one turn"))
        await steps()
        await ada.say(ClaimLease(task="same", room="main"))
        await ada.say(ClaimLease(task="early", room="den"))
        joining = await bob.say(JoinRoom(room="den"))
        await ada.say(ClaimLease(task="after", room="den"))
        for _ in range(2):
            await steps()
            writer.finish()
        hub.turns._writer = plain
        assert reply_of(await bob.answer(joining), Place).changed
        await ada.ask(ReleaseLease(task="before", room="den"), Released)
        await ada.ask(ReleaseLease(task="same"), Released)
        told = await changes(bob)
        early = [("early", "granted")] if history else []
        assert told == [("same", "granted"), *early, ("after", "granted"), ("before", "released"), ("same", "released")]
        assert sum(isinstance(notice, CaughtUp) for notice in await bob.notices()) == 2


async def test_who_came_in_later_is_told_no_more_when_it_is_put_out() -> None:
    async with MemoryHub() as hub:
        ada, bob = await den(hub)
        await ada.exchange(InviteMember(place="den", agent="bob"))
        await bob.ask(JoinRoom(room="den"), Place)
        await ada.ask(ClaimLease(task="T1", room="den"), Lease)
        await ada.exchange(KickMember(place="den", agent="bob"))
        await ada.ask(ReleaseLease(task="T1", room="den"), Released)
        assert await changes(bob) == [("T1", "granted")]
        assert [told.code for told in await bob.notices() if isinstance(told, Broken)] == ["not_found"]


async def test_who_does_not_come_in_is_told_nothing() -> None:
    async with MemoryHub() as hub:
        ada, bob = await den(hub)
        boss = await operator(hub)
        await boss.ask(Subscribe(leases=True), Subscribed)
        await ada.exchange(InviteMember(place="den", agent="bob"))
        await bob.ask(JoinRoom(room="open"), Place)
        await ada.ask(ClaimLease(task="T1", room="den"), Lease)
        assert await changes(bob) == await changes(boss) == []
