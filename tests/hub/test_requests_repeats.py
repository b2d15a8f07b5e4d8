"""Repeats under an idempotency key of what is gone by now: they are answered, and the hub goes on."""

import msgspec
import pytest
from msgspec import UNSET
from tests.hub.conftest import operator, voice

from synapse.core.presence import RECENT_MS
from synapse.protocol.commands import (
    ClaimLease,
    Command,
    DeletePool,
    HandOffLease,
    ParkLease,
    ReleaseLease,
    RenewLease,
    SaveCheckpoint,
    SetPool,
)
from synapse.protocol.plan_commands import DeclareTask, RemoveTask, UpdateTask
from synapse.protocol.plan_replies import TaskGone, TaskInfo
from synapse.protocol.replies import Lease, PoolDeleted, PoolInfo, Released
from synapse.protocol.session_commands import SaveSessionPoint, StartSession, UpdateSession
from synapse.testing import MemoryHub


async def offered(hub: MemoryHub) -> None:
    """bob leaves a checkpoint that is offered to who claims T1, which ada holds."""
    ada, bob = await voice(hub), await voice(hub, "bob")
    await bob.exchange(StartSession(task="T1"))
    await bob.exchange(SaveSessionPoint(data=msgspec.Raw(b"1")))
    await bob.exchange(UpdateSession(resumable_at_ms=hub.clock.wall_ms() + 1_000))
    await ada.ask(ClaimLease(task="T1", ttl_ms=60_000), Lease)
    await hub.advance(3_000)


async def test_a_claim_that_took_up_an_offer_and_moved_a_deadline_is_repeated_after_its_end() -> None:
    async with MemoryHub() as hub:
        await offered(hub)
        ada = await voice(hub)
        first = await ada.ask(ClaimLease(task="T1"), Lease, "k")
        assert (first.outcome, first.live, first.resume is not msgspec.UNSET) == ("renewed", True, True)
        await ada.ask(ReleaseLease(task="T1"), Released)
        again = await ada.ask(ClaimLease(task="T1"), Lease, "k")
        assert (again.epoch, again.live, again.status, again.owner) == (first.epoch, False, "ended", "ada")
        anew = await ada.ask(ClaimLease(task="T1"), Lease)
        again = await ada.ask(ClaimLease(task="T1"), Lease, "k")
        assert (again.epoch, again.live) == (first.epoch, False), "and not as the grant that there is now"
        assert anew.epoch > first.epoch


_TTL = ("ttl_ms", "note", "branch")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (ClaimLease(task="T1", ttl_ms=90_000, note="n2", branch="b2"), _TTL),
        (RenewLease(task="T1", ttl_ms=90_000, note="n2"), _TTL),
        (ParkLease(task="T1", parked=True), ()),
        (SaveCheckpoint(task="T1", data=msgspec.Raw(b'{"a":1}')), ("checkpoint",)),
        (HandOffLease(task="T1", to="cy"), ("offered_to",)),
    ],
)
async def test_a_repeat_about_a_lease_that_ended_tells_what_its_events_say(
    command: Command, told: tuple[str, ...]
) -> None:
    async with MemoryHub() as hub:
        ada, cy = await voice(hub), await voice(hub, "cy")
        await cy.peer.aclose()
        await hub.advance(RECENT_MS)
        claim = ClaimLease(task="T1", ttl_ms=60_000, note="n", branch="b", tied=True)
        granted = await ada.ask(claim, Lease, "c")
        await hub.advance(1_000)
        first = await ada.ask(command, Lease, "k")
        await ada.ask(SaveCheckpoint(task="T1", data=msgspec.Raw(b"2")), Lease)
        await ada.ask(ReleaseLease(task="T1"), Released)
        again = await ada.ask(command, Lease, "k")
        assert (again.status, again.live, again.epoch) == ("ended", False, granted.epoch)
        for name in ("granted_at_ms", "tied", "outcome", *told):
            assert getattr(again, name) == getattr(first, name), name
        unknown = {"ttl_ms": 0, "note": None, "branch": None, "checkpoint": None, "offered_to": UNSET}
        assert {name: getattr(again, name) for name in unknown if name not in told} == {
            name: value for name, value in unknown.items() if name not in told
        }
        of_claim = await ada.ask(claim, Lease, "c")
        for name in ("granted_at_ms", "tied", "outcome", *_TTL):
            assert getattr(of_claim, name) == getattr(granted, name), name


async def test_a_repeat_about_a_lease_that_was_handed_over_has_the_time_of_that() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await ada.ask(ClaimLease(task="T1"), Lease)
        await hub.advance(1_000)
        first = await ada.ask(HandOffLease(task="T1", to="bob"), Lease, "k")
        await bob.ask(ReleaseLease(task="T1"), Released)
        again = await ada.ask(HandOffLease(task="T1", to="bob"), Lease, "k")
        assert (again.owner, again.outcome, again.live) == ("bob", "handed_off", False)
        assert again.granted_at_ms == first.granted_at_ms


async def test_a_preemption_for_who_holds_the_task_takes_up_for_the_holder_what_is_offered() -> None:
    async with MemoryHub() as hub:
        await offered(hub)
        person = await operator(hub)
        lease = await person.ask(ClaimLease(task="T1", preempt=True, claimant="ada"), Lease)
        assert (lease.outcome, lease.owner) == ("renewed", "ada")
        assert lease.resume is not msgspec.UNSET
        assert lease.resume.agent == "bob"


async def test_a_pool_that_was_set_is_told_as_it_was_set_when_it_is_gone_or_another() -> None:
    async with MemoryHub() as hub:
        person = await operator(hub)
        await person.ask(SetPool(pool="p", capacity=2), PoolInfo, "k")
        await person.ask(SetPool(pool="p", capacity=5), PoolInfo)
        assert (await person.ask(SetPool(pool="p", capacity=2), PoolInfo, "k")).capacity == 2
        await person.ask(DeletePool(pool="p"), PoolDeleted)
        again = await person.ask(SetPool(pool="p", capacity=2), PoolInfo, "k")
        assert (again.pool, again.capacity, again.held) == ("p", 2, 0)


async def test_a_repeat_about_what_is_out_of_the_plan_is_refused_and_the_hub_lives() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await ada.ask(DeclareTask(task="T"), TaskInfo)
        await ada.ask(UpdateTask(task="T", status="cancelled"), TaskInfo)
        said = UpdateTask(task="T", status="cancelled", note="nobody wants it")
        await ada.ask(said, TaskInfo, "k")
        await ada.ask(RemoveTask(task="T"), TaskGone)
        assert (await ada.refused(said, "k")).code == "not_found"
