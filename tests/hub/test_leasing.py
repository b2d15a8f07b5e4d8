"""Leases through the turn: who waits is answered in its turn, deadlines stand on the lease clock, losses are told."""

import asyncio

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hub.conftest import (
    Voice,
    bugs_on_loop,
    direct,
    error_of,
    hub_on_small_disk,
    message,
    operator,
    quiet,
    reply_of,
    slow_reader,
    slow_writer,
    steps,
    text_of,
    voice,
)

from synapse.core import leases, scope_index
from synapse.core.scopes import Pattern, overlaps
from synapse.core.state import digest
from synapse.hub import feeds, leasing, turn
from synapse.protocol.commands import (
    AckInbox,
    ClaimLease,
    ExplainTask,
    ForgetAgent,
    HandOffLease,
    ListInbox,
    ListLeases,
    ParkLease,
    Ping,
    ReleaseLease,
    RenewLease,
    SaveCheckpoint,
    SetPool,
    ShowStatus,
    Subscribe,
    TakeInbox,
    WithdrawClaim,
)
from synapse.protocol.limits import Limits
from synapse.protocol.notices import CaughtUp, ClaimQueued, LeaseChanged, LeaseLost, Message
from synapse.protocol.replies import (
    Acked,
    AgentRemoved,
    Explanation,
    Happened,
    Inbox,
    Lease,
    Leases,
    Pong,
    PoolInfo,
    Released,
    Sent,
    Status,
    Subscribed,
    Taken,
    Withdrawn,
)
from synapse.testing import MemoryHub

MINUTE = 60_000
WAIT = ClaimLease(task="T1", wait_ms=10 * MINUTE)


async def hold(who: Voice, task: str = "T1", *, ttl_ms: int = 900_000, tied: bool = False) -> Lease:
    """A lease of a task alone."""
    return await who.ask(ClaimLease(task=task, ttl_ms=ttl_ms, tied=tied), Lease)


async def hold_paths(who: Voice, task: str, *paths: str) -> Lease:
    """A lease of some paths of one worktree."""
    return await who.ask(ClaimLease(task=task, worktree="box:/repo", paths=paths), Lease)


async def wait(who: Voice, command: ClaimLease = WAIT, key: str | None = None) -> tuple[int, ClaimQueued]:
    """A claim that waits: its request, and what it was told."""
    request = await who.say(command, key)
    found = [told for told in await who.notices() if isinstance(told, ClaimQueued) and told.request == request]
    assert len(found) == 1, who.heard
    return request, found[0]


def is_answered(who: Voice, request: int) -> bool:
    """True when a reply or error was heard."""
    return any(frame.id == request and frame.type in ("reply", "error") for frame in who.heard)


async def leave(who: Voice) -> None:
    """A connection is closed, and the hub has seen it."""
    await who.peer.aclose()
    await who.hub.settle()


async def lost(who: Voice) -> list[tuple[int, str]]:
    """Epochs and reasons of the leases that a connection was told to have lost."""
    return [(told.epoch, told.reason) for told in await who.notices() if isinstance(told, LeaseLost)]


async def changes(who: Voice) -> list[str]:
    """What a follower of leases was told, in order."""
    return [told.change for told in await who.notices() if isinstance(told, LeaseChanged)]


def types(hub: MemoryHub, after: int = 0) -> list[str]:
    """The journal's events about leases after a position."""
    return [row.type for row in hub.journal.rows(after + 1, 2**53) if row.type.startswith("lease.")]


# claims


async def test_a_claim_is_granted_renewed_refused_and_released() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        granted = await hold_paths(ada, "T1", "src/**")
        assert (granted.outcome, granted.owner, granted.epoch) == ("granted", "ada", hub.state.seq)
        head = hub.state.seq
        again = await hold_paths(ada, "T1", "src/**")
        assert (again.outcome, again.epoch, hub.state.seq) == ("renewed", granted.epoch, head)
        await hub.advance(5_000)
        held = await bob.refused(ClaimLease(task="T2", worktree="box:/repo", paths=("src/core/state.py",)))
        [holder] = msgspec.convert(held.facts["holders"], list[dict[str, object]])
        assert (held.code, held.retry_after_ms) == ("lease_held", 895_000)
        assert (holder["owner"], holder["task"], holder["epoch"]) == ("ada", "T1", granted.epoch)
        assert (await bob.refused(ReleaseLease(task="T1"))).code == "not_holder"
        assert (await ada.refused(ReleaseLease(task="T1", epoch=granted.epoch - 1))).code == "stale_epoch"
        assert hub.state.seq == head, "a refusal changes nothing"
        assert (await ada.ask(ReleaseLease(task="T1", epoch=granted.epoch), Released)).released
        after = await hold_paths(bob, "T2", "src/core/state.py")
        assert after.epoch > granted.epoch
        assert (await ada.refused(RenewLease(task="T1", epoch=granted.epoch))).code == "stale_epoch"
        assert (await ada.refused(RenewLease(task="T1"))).code == "not_found"


async def test_a_claim_in_the_turn_of_the_release_before_it_is_granted() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await hold(ada)
        commits = hub.turns.totals.commits
        released = await ada.say(ReleaseLease(task="T1"))
        claimed = await bob.say(ClaimLease(task="T1"))
        too_late = await ada.say(ClaimLease(task="T1"))
        assert reply_of(await ada.answer(released), Released).released
        assert reply_of(await bob.answer(claimed), Lease).outcome == "granted"
        assert error_of(await ada.answer(too_late)).code == "lease_held"
        assert hub.turns.totals.commits == commits + 1


async def test_a_repeat_gets_the_first_answer_and_says_whether_the_lease_still_lives() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        first = await ada.ask(ClaimLease(task="T1"), Lease, "key")
        again = await ada.exchange(ClaimLease(task="T1"), "key")
        assert again.replayed
        assert (reply_of(again, Lease).epoch, reply_of(again, Lease).live) == (first.epoch, True)
        assert (await ada.refused(ClaimLease(task="T2"), "key")).code == "idem_conflict"
        await ada.ask(ReleaseLease(task="T1"), Released)
        await hub.restart()
        ada = await voice(hub)
        dead = await ada.ask(ClaimLease(task="T1"), Lease, "key")
        assert (dead.epoch, dead.live, dead.status, dead.remaining_ms) == (first.epoch, False, "ended", None)
        bob = await voice(hub, "bob")
        assert (await bob.ask(ClaimLease(task="T1"), Lease, "key")).epoch > first.epoch, "a key is its agent's own"


# waiting


async def test_who_waits_is_told_its_place_and_answered_in_the_turn_of_the_release_in_order() -> None:
    async with MemoryHub() as hub:
        ada, bob, eve = [await voice(hub, name) for name in ("ada", "bob", "eve")]
        held = await hold(ada)
        first, told = await wait(bob)
        second, behind = await wait(eve)
        assert (told.position, behind.position) == (1, 2)
        assert told.deadline_ms == 10 * MINUTE
        assert [holder["epoch"] for holder in told.holders] == [held.epoch]
        status = (await ada.ask(ShowStatus(), Status)).counts
        assert (status.leases, status.claims_waiting) == (1, 2)
        commits = hub.turns.totals.commits
        await ada.ask(ReleaseLease(task="T1"), Released)
        lease = reply_of(await bob.answer(first), Lease)
        assert (lease.owner, lease.outcome, lease.remaining_ms) == ("bob", "granted", 900_000)
        assert hub.turns.totals.commits == commits + 1
        await eve.listen()
        assert not is_answered(eve, second)
        await bob.ask(ReleaseLease(task="T1", epoch=lease.epoch), Released)
        assert reply_of(await eve.answer(second), Lease).owner == "eve"
        for who in (bob, eve):
            assert who.peer.connection is not None
            assert (who.peer.connection.waiting, who.peer.connection.in_flight) == (0, 0)
        assert hub.turns.leasing.count == 0


async def test_a_claim_that_is_queued_and_granted_in_one_turn_is_told_of_its_place_first() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await hold(ada)
        request = await bob.say(WAIT)
        await ada.say(ReleaseLease(task="T1"))
        frames = [frame.type for frame in await bob.listen()]
        assert frames == ["claim.queued", "reply"]
        assert reply_of(await bob.answer(request), Lease).outcome == "granted"


async def test_nobody_steps_past_who_waits_and_a_higher_priority_goes_first() -> None:
    async with MemoryHub() as hub:
        ada, bob, eve, zoe = [await voice(hub, name) for name in ("ada", "bob", "eve", "zoe")]
        await hold_paths(ada, "A", "a/**")
        await hold_paths(ada, "B", "b/**")
        both = ClaimLease(task="W", worktree="box:/repo", paths=("a/x", "b/x"), wait_ms=MINUTE)
        first, _ = await wait(bob, both)
        urgent, told = await wait(eve, msgspec.structs.replace(both, task="U", priority="urgent"))
        assert told.position == 1
        await ada.ask(ReleaseLease(task="A"), Released)
        refused = await zoe.refused(ClaimLease(task="Z", worktree="box:/repo", paths=("a/x",)))
        assert refused.code == "lease_queued"
        await ada.ask(ReleaseLease(task="B"), Released)
        assert reply_of(await eve.answer(urgent), Lease).owner == "eve"
        await bob.listen()
        assert not is_answered(bob, first)


async def test_a_wait_ends_at_its_deadline_with_the_holder_named() -> None:
    async with MemoryHub() as hub:
        ada, bob, eve = [await voice(hub, name) for name in ("ada", "bob", "eve")]
        held = await hold(ada)
        short, _ = await wait(bob, msgspec.structs.replace(WAIT, wait_ms=3_000))
        behind, _ = await wait(eve)
        await hub.advance(2_000)
        assert not is_answered(bob, short)
        await hub.advance(1_000)
        error = error_of(await bob.answer(short))
        assert error.code == "deadline"
        assert f"ada holds T1 with epoch {held.epoch}, for another 14 min 57 s" in error.detail
        [holder] = msgspec.convert(error.facts["holders"], list[dict[str, object]])
        assert holder["owner"] == "ada"
        await ada.ask(ReleaseLease(task="T1"), Released)
        assert reply_of(await eve.answer(behind), Lease).owner == "eve"
        assert types(hub)[-3:] == ["lease.unqueued", "lease.released", "lease.granted"]


async def test_waits_are_bounded_for_each_connection_and_each_agent() -> None:
    limits = Limits(waiting_max=2, waits_per_agent_max=3, in_flight_max=2)
    async with MemoryHub(limits=limits) as hub:
        ada, bob, also_bob = await voice(hub), await voice(hub, "bob"), await voice(hub, "bob")
        for number in range(5):
            await hold(ada, f"T{number}")
        for number in range(2):
            await wait(bob, ClaimLease(task=f"T{number}", wait_ms=MINUTE))
        full = await bob.refused(ClaimLease(task="T2", wait_ms=MINUTE))
        assert full.facts == {"limit": "waiting_max", "value": 2}
        assert (await bob.refused(TakeInbox(wait_ms=MINUTE))).facts["limit"] == "waiting_max"
        await bob.ask(Ping(), Pong)
        await wait(also_bob, ClaimLease(task="T2", wait_ms=MINUTE))
        full = await also_bob.refused(ClaimLease(task="T3", wait_ms=MINUTE))
        assert full.facts == {"limit": "waits_per_agent_max", "value": 3}
        assert (await also_bob.refused(ClaimLease(task="T3"))).code == "lease_held", "who does not wait is not counted"


async def test_a_withdrawn_wait_is_refused_and_those_behind_it_go_on() -> None:
    async with MemoryHub() as hub:
        ada, bob, eve = [await voice(hub, name) for name in ("ada", "bob", "eve")]
        await hold_paths(ada, "A", "a/**")
        first, _ = await wait(bob, ClaimLease(task="W", worktree="box:/repo", paths=("a/x", "b/x"), wait_ms=None))
        second, told = await wait(eve, ClaimLease(task="V", worktree="box:/repo", paths=("b/x",), wait_ms=None))
        assert (told.position, told.deadline_ms, told.holders) == (2, None, ())
        assert (await bob.ask(WithdrawClaim(task="W"), Withdrawn)).withdrawn == 1
        assert error_of(await bob.answer(first)).code == "withdrawn"
        assert reply_of(await eve.answer(second), Lease).owner == "eve"


# a place outlives its connection


@pytest.mark.parametrize("by", ["place", "key"])
async def test_a_place_whose_connection_closed_is_kept_and_taken_up_again(by: str) -> None:
    async with MemoryHub() as hub:
        ada, bob, eve = [await voice(hub, name) for name in ("ada", "bob", "eve")]
        await hold(ada)
        _, told = await wait(bob, key="key" if by == "key" else None)
        behind, _ = await wait(eve)
        await leave(bob)
        await hub.advance(5_000)
        bob = await voice(hub, "bob")
        again = WAIT if by == "key" else msgspec.structs.replace(WAIT, place=told.place)
        request, taken_up = await wait(bob, again, "key" if by == "key" else None)
        assert (taken_up.place, taken_up.position) == (told.place, 1)
        assert taken_up.deadline_ms == 10 * MINUTE - 5_000, "the wait did not begin anew"
        await hub.advance(hub.rules.limits.reattach_ms + 1_000)
        await ada.ask(ReleaseLease(task="T1"), Released)
        assert reply_of(await bob.answer(request), Lease).owner == "bob"
        await eve.listen()
        assert not is_answered(eve, behind)


async def test_a_place_that_nobody_takes_up_again_is_skipped_and_the_next_is_granted() -> None:
    async with MemoryHub() as hub:
        ada, bob, eve = [await voice(hub, name) for name in ("ada", "bob", "eve")]
        await hold(ada)
        await wait(bob)
        behind, _ = await wait(eve)
        await leave(bob)
        await ada.ask(ReleaseLease(task="T1"), Released)
        await hub.advance(9_000)
        await eve.listen()
        assert not is_answered(eve, behind), "the place still has its turn"
        head = hub.state.seq
        await hub.advance(1_000)
        assert types(hub, head) == ["lease.unqueued", "lease.granted"]
        assert reply_of(await eve.answer(behind), Lease).owner == "eve"


async def test_who_comes_back_when_it_is_its_turn_gets_the_lease_at_once() -> None:
    async with MemoryHub() as hub:
        ada, bob, eve = [await voice(hub, name) for name in ("ada", "bob", "eve")]
        await hold(ada)
        _, told = await wait(bob)
        await wait(eve)
        await leave(bob)
        await ada.ask(ReleaseLease(task="T1"), Released)
        bob = await voice(hub, "bob")
        lease = await bob.ask(msgspec.structs.replace(WAIT, place=told.place), Lease)
        assert (lease.owner, lease.outcome) == ("bob", "granted")
        assert [frame for frame in bob.heard if frame.type == "claim.queued"] == []


@pytest.mark.parametrize("by", ["place", "key"])
async def test_a_grant_whose_answer_was_lost_is_found_by_the_same_claim(by: str) -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await hold(ada)
        key = "key" if by == "key" else None
        _, told = await wait(bob, msgspec.structs.replace(WAIT, ttl_ms=30_000, tied=True), key)
        writer = slow_writer(hub)
        await ada.say(ReleaseLease(task="T1"))
        await steps()
        await bob.peer.aclose()
        writer.finish()
        await quiet(hub)
        await hub.restart() if by == "key" else await hub.settle()
        head = hub.state.seq
        bob = await voice(hub, "bob")
        again = msgspec.structs.replace(WAIT, ttl_ms=30_000, tied=True)
        frame = await bob.exchange(again if key else msgspec.structs.replace(again, place=told.place), key)
        lease = reply_of(frame, Lease)
        assert (lease.owner, lease.live, lease.outcome) == ("bob", True, "granted")
        assert (hub.state.seq, types(hub).count("lease.granted")) == (head, 2)
        if by == "place":
            assert hub.state.soft.leasing.tied == {lease.epoch: bob.peer.connection and bob.peer.connection.id}


async def test_a_place_belongs_to_one_request_at_a_time() -> None:
    async with MemoryHub() as hub:
        ada, bob, also_bob = await voice(hub), await voice(hub, "bob"), await voice(hub, "bob")
        await hold(ada)
        first, told = await wait(bob)
        second, again = await wait(also_bob, msgspec.structs.replace(WAIT, place=told.place))
        assert again.place == told.place
        assert error_of(await bob.answer(first)).code == "withdrawn"
        eve = await voice(hub, "eve")
        _, own = await wait(eve, msgspec.structs.replace(WAIT, place=told.place))
        assert own.place != told.place, "a place is its agent's own"
        await leave(bob)
        await hub.advance(11_000)
        await ada.ask(ReleaseLease(task="T1"), Released)
        assert reply_of(await also_bob.answer(second), Lease).owner == "bob"


async def test_the_key_of_a_place_is_not_for_another_claim() -> None:
    async with MemoryHub() as hub:
        ada, bob, also_bob = await voice(hub), await voice(hub, "bob"), await voice(hub, "bob")
        await hold(ada)
        await wait(bob, key="key")
        other = msgspec.structs.replace(WAIT, task="T2")
        assert (await also_bob.refused(other, "key")).code == "idem_conflict"


async def test_a_place_of_the_past_does_no_harm() -> None:
    async with MemoryHub() as hub:
        bugs = bugs_on_loop()
        ada, bob = await voice(hub), await voice(hub, "bob")
        await hold(ada)
        _, told = await wait(bob, msgspec.structs.replace(WAIT, wait_ms=1_000))
        await hub.advance(1_000)
        await ada.ask(ReleaseLease(task="T1"), Released)
        held = await hold(bob)
        again = await bob.ask(msgspec.structs.replace(WAIT, place=told.place), Lease)
        assert (again.outcome, again.epoch, bugs) == ("renewed", held.epoch, [])


# restarts


async def test_over_a_restart_a_place_and_a_lease_survive_and_the_ttl_begins_anew() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        held = await hold(ada, ttl_ms=30_000)
        _, told = await wait(bob)
        await hub.advance(20_000)
        await hub.restart()
        ada, bob = await voice(hub), await voice(hub, "bob")
        request, taken_up = await wait(bob, msgspec.structs.replace(WAIT, place=told.place))
        assert taken_up.place == told.place
        [shown] = (await ada.ask(ListLeases(), Leases)).leases
        assert (shown.epoch, shown.remaining_ms, shown.waiting) == (held.epoch, 30_000, 1)
        await hub.advance(29_000)
        await bob.listen()
        assert not is_answered(bob, request)
        await hub.advance(1_000)
        assert reply_of(await bob.answer(request), Lease).epoch > held.epoch
        assert await lost(ada) == [(held.epoch, "ttl")]
        assert hub.replayed_digest() == digest(hub.state)


async def test_over_a_restart_a_place_that_is_not_taken_up_again_is_skipped() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await hold(ada)
        await wait(bob)
        await hub.restart()
        await hub.advance(10_000)
        assert types(hub)[-1] == "lease.unqueued"
        assert hub.state.leases.places == {}


# ties


async def test_a_tied_lease_lapses_when_its_connection_has_gone_and_the_grace_is_over() -> None:
    async with MemoryHub() as hub:
        ada, other, bob = await voice(hub), await voice(hub), await voice(hub, "bob")
        held = await hold(ada, tied=True)
        await hub.advance(60_000)
        await leave(ada)
        await hub.advance(14_000)
        assert (await bob.refused(ClaimLease(task="T1"))).retry_after_ms == 1_000
        await hub.advance(1_000)
        assert await lost(other) == [(held.epoch, "connection")]
        assert (await hold(bob)).owner == "bob"


async def test_a_tied_lease_that_is_renewed_from_another_connection_is_tied_to_that_one() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        held = await hold(ada, tied=True)
        await leave(ada)
        await hub.advance(10_000)
        ada = await voice(hub)
        await ada.ask(RenewLease(task="T1", epoch=held.epoch), Lease)
        await hub.advance(60_000)
        assert list(hub.state.leases.live) == [held.epoch]
        await leave(ada)
        await hub.advance(15_000)
        assert hub.state.leases.live == {}


async def test_the_grace_never_outlasts_the_deadline() -> None:
    async with MemoryHub() as hub:
        ada, other = await voice(hub), await voice(hub)
        held = await hold(ada, ttl_ms=6_000, tied=True)
        await hub.advance(3_000)
        await leave(ada)
        await hub.advance(3_000)
        assert await lost(other) == [(held.epoch, "ttl")]


async def test_what_one_connection_gives_up_the_others_of_its_agent_are_told() -> None:
    async with MemoryHub() as hub:
        ada, other, bob = await voice(hub), await voice(hub), await voice(hub, "bob")
        held = await hold(ada)
        await other.ask(ReleaseLease(task="T1"), Released)
        assert (await lost(ada), await lost(other)) == ([(held.epoch, "released")], [])
        again = await hold(ada)
        await other.ask(HandOffLease(task="T1", to="bob"), Lease)
        assert await lost(ada) == [(held.epoch, "released"), (again.epoch, "handed_off")]
        assert await lost(other) == await lost(bob) == []


async def test_after_a_restart_a_tied_lease_has_its_ttl_and_is_tied_again_by_a_renewal() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        held = await hold(ada, ttl_ms=60_000, tied=True)
        await hub.restart()
        await hub.advance(30_000)
        assert list(hub.state.leases.live) == [held.epoch]
        ada = await voice(hub)
        assert (await ada.ask(RenewLease(task="T1"), Lease)).remaining_ms == 60_000
        await leave(ada)
        await hub.advance(15_000)
        assert hub.state.leases.live == {}
        assert types(hub)[-1] == "lease.expired"


async def test_a_lease_granted_from_the_queue_is_tied_to_the_connection_that_waits() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await hold(ada)
        request, _ = await wait(bob, msgspec.structs.replace(WAIT, tied=True))
        await ada.ask(ReleaseLease(task="T1"), Released)
        assert reply_of(await bob.answer(request), Lease).tied
        await leave(bob)
        await hub.advance(15_000)
        assert hub.state.leases.live == {}


# time


async def test_expiry_is_an_event_and_is_told_to_followers_and_to_lasting_connections_of_the_holder() -> None:
    async with MemoryHub() as hub:
        ada, one_shot, bob = await voice(hub), await voice(hub, lasting=False), await voice(hub, "bob")
        await bob.ask(Subscribe(leases=True), Subscribed)
        held = await hold(one_shot, ttl_ms=5_000)
        await hub.advance(5_000)
        assert await lost(ada) == [(held.epoch, "ttl")]
        assert await lost(one_shot) == await lost(bob) == []
        [_, told] = [notice for notice in await bob.notices() if isinstance(notice, LeaseChanged)]
        assert (told.change, told.epoch, told.reason, told.by) == ("expired", held.epoch, "ttl", "hub")
        assert types(hub) == ["lease.granted", "lease.expired"]


async def test_a_renewal_moves_the_deadline_without_an_event_and_another_ttl_is_one() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        held = await hold(ada, ttl_ms=10_000)
        head, commits = hub.state.seq, hub.turns.totals.commits
        for _ in range(5):
            await hub.advance(9_000)
            assert (await ada.ask(RenewLease(task="T1", epoch=held.epoch), Lease)).remaining_ms == 10_000
        assert (hub.state.seq, hub.turns.totals.commits) == (head, commits)
        longer = await ada.ask(RenewLease(task="T1", ttl_ms=20_000, note="more to do"), Lease)
        assert (longer.remaining_ms, longer.epoch, types(hub)[-1]) == (20_000, held.epoch, "lease.renewed")
        await hub.advance(19_000)
        assert list(hub.state.leases.live) == [held.epoch]
        await hub.advance(1_000)
        assert hub.state.leases.live == {}


async def test_a_parked_lease_stands_still_up_to_its_ceiling() -> None:
    async with MemoryHub(limits=Limits(parked_ms_max=60_000)) as hub:
        ada = await voice(hub)
        held = await hold(ada, ttl_ms=10_000)
        await hub.advance(4_000)
        parked = await ada.ask(ParkLease(task="T1", parked=True), Lease)
        assert (parked.status, parked.remaining_ms, parked.expires_at_ms) == ("parked", None, None)
        await hub.advance(50_000)
        resumed = await ada.ask(ParkLease(task="T1", parked=False), Lease)
        assert (resumed.status, resumed.remaining_ms) == ("held", 6_000)
        await ada.ask(ParkLease(task="T1", parked=True), Lease)
        await hub.advance(60_000)
        assert await lost(ada) == [(held.epoch, "parked")]


async def test_a_jump_of_the_wall_clock_expires_nobody_early_or_late() -> None:
    for jump_ms in (86_400_000, -86_400_000):
        async with MemoryHub() as hub:
            ada = await voice(hub)
            await hold(ada, ttl_ms=10_000)
            await hub.advance(5_000)
            hub.clock.jump(jump_ms)
            await hub.advance(4_000)
            assert (await ada.ask(ListLeases(), Leases)).leases[0].remaining_ms == 1_000
            await hub.advance(1_000)
            assert hub.state.leases.live == {}


async def test_a_hub_that_stalled_expires_nobody_for_it() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        held = await hold(ada, ttl_ms=10_000)
        hub.clock.advance(3_600_000)  # suspended for an hour
        hub.turns.tick()
        await quiet(hub)
        assert list(hub.state.leases.live) == [held.epoch]
        writer = slow_writer(hub)
        await ada.say(message("slow"))
        await steps()
        hub.clock.advance(900)
        hub.turns.tick()
        hub.clock.advance(60_000)  # a commit in flight
        hub.turns.tick()
        await steps()
        writer.finish()
        await quiet(hub)
        assert list(hub.state.leases.live) == [held.epoch]
        [shown] = (await ada.ask(ListLeases(), Leases)).leases
        assert shown.remaining_ms == 9_000, "one second of the hour, and nothing of the commit"


async def test_while_the_disk_is_full_leases_are_renewed_and_nothing_expires() -> None:
    hub, disk = hub_on_small_disk()
    async with hub:
        ada, bob, eve = await voice(hub), await voice(hub, "bob"), await voice(hub, "eve")
        held = await hold(ada, ttl_ms=10_000)
        request, told = await wait(bob)
        disk.is_full = True
        await eve.post("the last one")
        await hub.advance(8_000)
        assert (await ada.ask(RenewLease(task="T1", epoch=held.epoch), Lease)).remaining_ms == 10_000
        assert (await ada.refused(RenewLease(task="T1", ttl_ms=20_000))).code == "read_only"
        assert (await ada.refused(ReleaseLease(task="T1"))).code == "read_only"
        assert (await eve.refused(WAIT)).code == "read_only"
        assert (await eve.refused(ClaimLease(task="T1"))).code == "lease_held"
        await leave(bob)
        await hub.advance(60_000)
        bob = await voice(hub, "bob")
        request, again = await wait(bob, msgspec.structs.replace(WAIT, place=told.place))
        assert again.place == told.place
        disk.is_full = False
        await hub.advance(9_000)
        assert list(hub.state.leases.live) == [held.epoch]
        await hub.advance(2_000)
        assert reply_of(await bob.answer(request), Lease).owner == "bob"
        assert await lost(ada) == [(held.epoch, "ttl")]
        assert hub.replayed_digest() == digest(hub.state)


async def test_a_tick_behind_the_commit_that_fills_the_disk_expires_nobody() -> None:
    hub, disk = hub_on_small_disk()
    bugs = bugs_on_loop()
    async with hub:
        ada = await voice(hub)
        held = await hold(ada, ttl_ms=5_000)
        await hub.advance(4_500)
        hub.clock.advance(1_000)
        disk.is_full = True
        await ada.say(message("the last one"))
        await steps(1)
        hub.turns.tick()  # the commit is in flight: nobody knows of the full disk yet
        await steps()
        assert hub.turns.is_read_only
        assert bugs == []
        assert list(hub.state.leases.live) == [held.epoch]
        disk.is_full = False
        await hub.advance(2_000)
        assert list(hub.state.leases.live) == []


async def test_connections_of_one_agent_are_told_of_a_loss_in_the_order_in_which_they_came() -> None:
    async with MemoryHub() as hub:
        voices = [await voice(hub) for _ in range(12)]
        await hold(voices[0], ttl_ms=5_000)
        assert list(hub.turns.of_agent["ada"]) == [one.peer.connection for one in voices]
        written: list[int] = []
        for number, one in enumerate(voices):
            one.peer.write = lambda data, at=number: written.append(at)  # type: ignore[method-assign,misc]  # to see the order
        await hub.advance(6_000)
        assert written == list(range(12))


async def test_who_comes_back_for_its_turn_while_the_disk_is_full_gets_it_afterwards() -> None:
    hub, disk = hub_on_small_disk()
    async with hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await hold(ada)
        _, told = await wait(bob)
        await leave(bob)
        disk.is_full = True
        await ada.ask(ReleaseLease(task="T1"), Released)
        bob = await voice(hub, "bob")
        request, _ = await wait(bob, msgspec.structs.replace(WAIT, place=told.place))
        disk.is_full = False
        await hub.advance(2_000)
        assert reply_of(await bob.answer(request), Lease).owner == "bob"


async def test_many_leases_end_in_bounded_ticks_and_who_waited_gets_them_in_the_same_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leasing, "EXPIRIES_MAX", 100)
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        for number in range(250):
            await ada.say(ClaimLease(task=f"T{number}", ttl_ms=5_000))
        await quiet(hub)
        waiting = [await wait(bob, ClaimLease(task=f"T{number}", wait_ms=MINUTE)) for number in (0, 120, 249)]
        head = hub.state.seq
        await hub.advance(5_000)
        left = []
        for _ in range(3):
            left.append(sum(1 for lease in hub.state.leases.live.values() if lease.ask.owner == "ada"))
            hub.turns.tick()
            await quiet(hub)
        assert left == [150, 50, 0]
        assert [row.type for row in hub.journal.rows(head + 1, head + 2)] == ["lease.expired", "lease.granted"]
        for request, _ in waiting:
            assert reply_of(await bob.answer(request), Lease).owner == "bob"
        assert len(await lost(ada)) == 250
        assert hub.replayed_digest() == digest(hub.state)


async def test_a_tick_stops_where_a_turn_is_full() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        for number in range(20):
            await hold(ada, f"T{number}", ttl_ms=5_000)
        await hub.advance(4_000)
        worker = slow_writer(hub)
        hub.clock.advance(1_000)

        def fill() -> None:
            hub.turns._turn.bytes = turn.TURN_BYTES_MAX - 1

        hub.turns.put(None, fill)
        hub.turns.tick()
        await steps()
        assert len(hub.state.leases.live) == 19
        hub.turns.tick()
        worker.finish()
        await steps()
        worker.finish()
        await quiet(hub)
        assert hub.state.leases.live == {}


# followers


async def test_followers_of_leases_hear_everything_in_order_live_and_from_a_cursor() -> None:
    async with MemoryHub() as hub:
        ada, live = await voice(hub), await voice(hub, "live")
        begun = (await live.ask(Subscribe(leases=True), Subscribed)).cursor
        held = await hold_paths(ada, "T1", "src/**")
        bob = await voice(hub, "bob")
        request, told = await wait(bob)
        await ada.ask(RenewLease(task="T1", note="slow"), Lease)
        await ada.ask(SaveCheckpoint(task="T1", data=msgspec.Raw(b"{}")), Lease)
        await ada.ask(ParkLease(task="T1", parked=True), Lease)
        await ada.ask(ParkLease(task="T1", parked=False), Lease)
        await ada.ask(HandOffLease(task="T1", to="live"), Lease)
        await live.ask(ReleaseLease(task="T1"), Released)
        granted = reply_of(await bob.answer(request), Lease)
        await wait(ada, msgspec.structs.replace(WAIT, wait_ms=1_000))
        await hub.advance(1_000)
        expected = ["granted", "queued", "renewed", "checkpointed", "parked", "resumed", "handed_off", "released"]
        expected += ["granted", "queued", "wait_ended"]
        assert await changes(live) == expected
        notices = [notice for notice in await live.notices() if isinstance(notice, LeaseChanged)]
        assert (notices[0].epoch, notices[0].paths, notices[0].by) == (held.epoch, ("src/**",), "ada")
        assert (notices[6].previous_epoch, notices[6].owner, notices[6].by) == (held.epoch, "live", "ada")
        assert (notices[8].epoch, notices[8].place) == (granted.epoch, told.place)
        assert (notices[-1].reason, notices[-1].by) == ("deadline", "hub")
        for since in [begun, *(notice.cursor for notice in notices[:-1])]:
            late = await voice(hub, "late")
            await late.ask(Subscribe(leases=True, since=since), Subscribed)
            heard = [notice for notice in await late.notices() if isinstance(notice, LeaseChanged)]
            assert heard == [notice for notice in notices if seq_of(notice) > int(since.partition(":")[2])]
            await leave(late)
        await hub.restart()
        late = await voice(hub, "late")
        await late.ask(Subscribe(leases=True, since=begun), Subscribed)
        assert await changes(late) == expected, "from the disk too"


def seq_of(notice: LeaseChanged) -> int:
    """Where it stands in the journal."""
    return int(notice.cursor.partition(":")[2])


async def test_what_is_granted_while_a_follower_catches_up_comes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "PAGE_ROWS", 3)
    async with MemoryHub() as hub:
        start = f"{hub.state.journal_id}:{hub.journal.base}"
        ada = await voice(hub)
        for number in range(7):
            await hold(ada, f"T{number}")
        await hub.restart()
        ada, bob = await voice(hub), await voice(hub, "bob")
        reader = slow_reader(hub)
        await bob.say(Subscribe(leases=True, inbox=True, since=start))
        await quiet(hub)
        number = 7
        while reader.jobs:
            await hold(ada, f"T{number}")
            await ada.ask(direct(f"{number}", "bob"), Sent)
            number += 1
            reader.finish()
            await quiet(hub)
        await hold(ada, f"T{number}")
        told = [notice for notice in await bob.notices() if isinstance(notice, LeaseChanged | Message)]
        tasks = [notice.task for notice in told if isinstance(notice, LeaseChanged)]
        assert tasks == [f"T{at}" for at in range(number + 1)]
        assert [text_of(one) for one in told if isinstance(one, Message)] == [str(at) for at in range(7, number)]
        places = [int(notice.cursor.partition(":")[2]) for notice in told]
        assert places == sorted(set(places))
        assert number > 9


@pytest.mark.parametrize("is_live", [True, False])
async def test_a_hand_off_is_told_to_a_follower_of_leases_and_in_the_receivers_inbox(*, is_live: bool) -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        begun = (await ada.ask(Ping(), Pong)).cursor
        if is_live:
            await bob.ask(Subscribe(leases=True, inbox=True), Subscribed)
        held = await hold(ada)
        handed = await ada.ask(HandOffLease(task="T1", to="bob"), Lease)
        assert (handed.owner, handed.outcome) == ("bob", "handed_off")
        assert handed.epoch > held.epoch
        if not is_live:
            await hub.restart()
            bob = await voice(hub, "bob")
            await bob.ask(Subscribe(leases=True, inbox=True, since=begun), Subscribed)
        told = await bob.notices()
        assert [type(notice) for notice in told if not isinstance(notice, CaughtUp)] == [
            LeaseChanged,
            LeaseChanged,
            Message,
        ]
        [arrival] = await bob.messages()
        assert (arrival.sender, arrival.kind, arrival.subject) == ("hub", "system", "ada handed you T1")
        taken = await bob.ask(TakeInbox(), Taken)
        assert taken.message == arrival
        body = msgspec.json.decode(taken.message.body)
        assert (body["type"], body["epoch"], body["by"]) == ("lease.handed_off", handed.epoch, "ada")
        assert (await ada.refused(RenewLease(task="T1", epoch=held.epoch))).code == "stale_epoch" if is_live else True


# questions


async def test_what_happened_to_a_task_is_told_in_pages() -> None:
    async with MemoryHub(rooms={"lab": ["one"]}) as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        assert (await ada.refused(ExplainTask(task="T1"))).code == "not_found"
        await hold(ada, "T2")
        await ada.ask(ClaimLease(task="T1", room="lab"), Lease)
        for _ in range(3):
            await hold(bob)
            await bob.ask(ReleaseLease(task="T1"), Released)
        await hold(bob, ttl_ms=5_000)
        await hub.advance(5_000)
        whole = await ada.ask(ExplainTask(task="T1"), Explanation)
        assert [event.change for event in whole.events] == ["granted", "released"] * 3 + ["granted", "expired"]
        assert (whole.next, whole.room) == (None, "main")
        assert whole.events[-1].text.startswith("the lease of bob expired (epoch ")
        found: list[Happened] = []
        after: str | None = None
        for _ in range(4):
            page = await ada.ask(ExplainTask(task="T1", limit=3, after=after), Explanation)
            found += page.events
            after = page.next
            if after is None:
                break
        assert tuple(found) == whole.events
        lab = await ada.ask(ExplainTask(task="T1", room="lab"), Explanation)
        assert [event.by for event in lab.events] == ["ada"]
        assert (await ada.refused(ExplainTask(task="T1", limit=0))).code == "bad_request"
        assert (await ada.refused(ExplainTask(task="T1", room="nowhere"))).code == "not_found"


async def test_a_long_story_comes_in_pages_that_fit_into_a_frame() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        paths = tuple(f"{'/'.join(['x' * 60] * 8)}/{number}" for number in range(3))
        for number in range(300):
            await ada.say(ClaimLease(task="T1", worktree="box:/repo", paths=paths, note="\x01" * 500 + str(number)))
            await ada.say(RenewLease(task="T1", note="\x02" * 500 + str(number)))
            await quiet(hub)
        found, after = 0, None
        while True:
            frame = await ada.exchange(ExplainTask(task="T1", limit=500, after=after))
            assert len(frame.body) < hub.rules.limits.frame_bytes_max - 1024
            page = reply_of(frame, Explanation)
            found += len(page.events)
            after = page.next
            if after is None:
                break
        assert found == 600


async def test_leases_are_listed_in_pages_with_who_waits_behind_them() -> None:
    async with MemoryHub() as hub:
        ada, bob, eve = [await voice(hub, name) for name in ("ada", "bob", "eve")]
        held = [await hold_paths(ada, f"T{number}", f"src/{number}/**") for number in range(5)]
        both = ClaimLease(task="W", worktree="box:/repo", paths=("src/1/x", "src/2/x"), wait_ms=None)
        await wait(bob, both)
        await wait(eve, msgspec.structs.replace(both, task="V", priority="high"))
        found: list[Lease] = []
        after: str | None = None
        while True:
            page = await eve.ask(ListLeases(limit=2, after=after), Leases)
            assert page.seq == hub.state.seq
            found += page.leases
            after = page.next
            if after is None:
                break
        assert [lease.epoch for lease in found] == [lease.epoch for lease in held]
        assert [lease.waiting for lease in found] == [0, 2, 2, 0, 0]
        waiters = msgspec.convert(msgspec.to_builtins(found[1].waiters), list[dict[str, object]])
        assert [(waiter["owner"], waiter["position"]) for waiter in waiters] == [("eve", 1), ("bob", 2)]
        assert len((await eve.ask(ListLeases(task="T3"), Leases)).leases) == 1
        assert (await eve.ask(ListLeases(owner="bob"), Leases)).leases == ()
        assert (await eve.ask(ListLeases(worktree="box:/other"), Leases)).leases == ()


# offers


async def offline(hub: MemoryHub, name: str) -> None:
    """An agent that was here, and has been away for long."""
    await leave(await voice(hub, name, lasting=False))
    await hub.advance(300_000)


async def test_an_offer_is_in_the_inbox_can_be_taken_and_is_accepted_by_a_claim() -> None:
    async with MemoryHub() as hub:
        await offline(hub, "bob")
        ada = await voice(hub)
        held = await hold_paths(ada, "T1", "src/**")
        offered = await ada.ask(HandOffLease(task="T1", to="bob"), Lease)
        assert (offered.outcome, offered.owner, offered.offered_to) == ("offered", "ada", "bob")
        assert (await ada.ask(HandOffLease(task="T1", to="bob"), Lease)).outcome == "offered"
        assert types(hub).count("lease.offered") == 1
        bob, also_bob = await voice(hub, "bob"), await voice(hub, "bob")
        taken = await bob.ask(TakeInbox(), Taken)
        body = msgspec.json.decode(taken.message.body)
        assert (body["type"], body["epoch"], body["next"]) == ("lease.offered", held.epoch, "synapse claim T1")
        accepted = await also_bob.ask(ClaimLease(task="T1"), Lease)
        assert (accepted.outcome, accepted.owner, accepted.paths) == ("handed_off", "bob", ("src/**",))
        assert (await bob.ask(ListInbox(), Inbox)).messages == (), "also the lent message is gone"
        assert (await bob.ask(AckInbox(ids=(taken.message.id,)), Acked)).already == (taken.message.id,)
        assert (await ada.refused(RenewLease(task="T1", epoch=held.epoch))).code == "stale_epoch"
        await hub.advance(60_000)
        assert hub.replayed_digest() == digest(hub.state)


async def test_who_waits_for_more_than_is_handed_over_waits_on_and_who_takes_less_by_force_is_told() -> None:
    async with MemoryHub() as hub:
        ada, bob, boss = await voice(hub), await voice(hub, "bob"), await operator(hub)
        await hold_paths(ada, "T1", "a")
        await hold_paths(ada, "T2", "b")
        more = ClaimLease(task="T1", worktree="box:/repo", paths=("a", "b"), wait_ms=None)
        plain, full = await bob.say(ClaimLease(task="T1", wait_ms=None)), await bob.say(more)
        handed = await ada.ask(HandOffLease(task="T1", to="bob"), Lease)
        assert reply_of(await bob.answer(plain), Lease).epoch == handed.epoch
        await ada.ask(ReleaseLease(task="T2"), Released)
        granted = reply_of(await bob.answer(full), Lease)
        assert (granted.paths, granted.epoch > handed.epoch) == (("a", "b"), True)
        await hold_paths(ada, "T2", "c")
        late = await bob.say(msgspec.structs.replace(more, paths=("c",)))
        taken = ClaimLease(task="T1", worktree="box:/repo", paths=("a", "c"), preempt=True, claimant="bob")
        assert (await boss.ask(taken, Lease)).live
        refused = error_of(await bob.answer(late))
        assert (refused.code, "another scope" in refused.detail) == ("withdrawn", True)


async def test_who_waits_for_its_inbox_is_online_and_handed_the_task() -> None:
    async with MemoryHub() as hub:
        await offline(hub, "bob")
        ada = await voice(hub)
        bob = await voice(hub, "bob", lasting=False)
        waiting = await bob.say(TakeInbox(wait_ms=600_000))
        await bob.listen()
        await hub.advance(300_000)
        await hold(ada)
        assert (await ada.ask(HandOffLease(task="T1", to="bob"), Lease)).outcome == "handed_off", "who waits is online"
        assert reply_of(await bob.answer(waiting), Taken).message.subject == "ada handed you T1"


@pytest.mark.parametrize("end", ["release", "expiry", "restart", "other"])
async def test_an_offer_vanishes_with_its_lease_also_when_it_is_lent(end: str) -> None:
    async with MemoryHub() as hub:
        for name in ("bob", "eve"):
            await offline(hub, name)
        ada = await voice(hub)
        await hold(ada, ttl_ms=60_000)
        await ada.ask(HandOffLease(task="T1", to="bob"), Lease)
        bob = await voice(hub, "bob")
        offer = (await bob.ask(TakeInbox(), Taken)).message.id
        match end:
            case "release":
                await ada.ask(ReleaseLease(task="T1"), Released)
            case "expiry":
                await hub.advance(60_000)
            case "restart":
                await hub.restart()
                bob = await voice(hub, "bob")
                await hub.advance(60_000)
            case _:
                assert (await ada.ask(HandOffLease(task="T1", to="eve"), Lease)).offered_to == "eve"
        assert (await bob.refused(TakeInbox())).code == "deadline"
        assert (await bob.ask(ListInbox(), Inbox)).unacked == 0
        assert (await bob.ask(AckInbox(ids=(offer,)), Acked)).already == (offer,)
        await hub.advance(31_000)  # the time of the lend
        assert hub.state.soft.lending.lends == {}
        assert hub.replayed_digest() == digest(hub.state)


# operators


async def test_an_operator_takes_a_lease_away_and_everybody_concerned_hears_of_it() -> None:
    async with MemoryHub() as hub:
        ada, bob, eve, boss = *[await voice(hub, name) for name in ("ada", "bob", "eve")], await operator(hub)
        await eve.ask(Subscribe(leases=True), Subscribed)
        held = await hold_paths(ada, "T1", "src/**")
        asked = ClaimLease(task="T2", worktree="box:/repo", paths=("src/a",), preempt=True)
        assert (await bob.refused(asked)).code == "not_permitted"
        taken = await boss.ask(msgspec.structs.replace(asked, claimant="bob", tied=True), Lease)
        assert (taken.owner, taken.outcome) == ("bob", "granted")
        assert await lost(ada) == [(held.epoch, "preempted")]
        assert await changes(eve) == ["granted", "revoked", "granted"]
        assert (await ada.refused(RenewLease(task="T1", epoch=held.epoch))).code == "stale_epoch"
        await leave(boss)
        await hub.advance(60_000)
        assert list(hub.state.leases.live) == [taken.epoch], "it is not tied to the operator"
        assert (await bob.ask(RenewLease(task="T2", epoch=taken.epoch), Lease)).owner == "bob"
        await leave(bob)
        await hub.advance(15_000)
        assert hub.state.leases.live == {}


async def test_what_a_forgotten_agent_held_and_waited_for_goes_to_the_others() -> None:
    async with MemoryHub() as hub:
        ada, bob, eve, boss = *[await voice(hub, name) for name in ("ada", "bob", "eve")], await operator(hub)
        await hold(ada)
        await hold(eve, "T2")
        await ada.say(ClaimLease(task="T2", wait_ms=None))
        request, _ = await wait(bob)
        behind, told = await wait(bob, ClaimLease(task="T2", wait_ms=None))
        assert told.position == 2
        await boss.ask(ForgetAgent(name="ada"), AgentRemoved)
        assert reply_of(await bob.answer(request), Lease).owner == "bob"
        await eve.ask(ReleaseLease(task="T2"), Released)
        assert reply_of(await bob.answer(behind), Lease).owner == "bob"
        assert not await ada.is_open()
        await hub.advance(60_000)
        assert hub.replayed_digest() == digest(hub.state)


async def test_more_units_of_a_pool_end_waits() -> None:
    async with MemoryHub() as hub:
        ada, bob, boss = await voice(hub), await voice(hub, "bob"), await operator(hub)
        await boss.ask(SetPool(pool="gpu", capacity=1), PoolInfo)
        await ada.ask(ClaimLease(task="A", pools={"gpu": 1}), Lease)
        request, told = await wait(bob, ClaimLease(task="B", pools={"gpu": 1}, wait_ms=MINUTE))
        assert [holder["owner"] for holder in told.holders] == ["ada"]
        grown = await boss.ask(SetPool(pool="gpu", capacity=2), PoolInfo)
        assert reply_of(await bob.answer(request), Lease).pools == {"gpu": 1}
        assert (grown.capacity, grown.held, grown.waiting) == (2, 2, 0)


# all of it


DOINGS = [
    "claim",
    "claim tied",
    "wait",
    "keyed",
    "again",
    "renew",
    "release",
    "hand",
    "park",
    "drop",
    "restart",
    "time",
]


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(DOINGS), st.integers(0, 2), st.integers(0, 1)), max_size=40))
def test_whatever_happens_replay_gives_the_live_state_and_nobody_waits_for_ever(
    doings: list[tuple[str, int, int]],
) -> None:
    names = ("ada", "bob", "eve")

    async def run() -> None:
        async with MemoryHub() as hub:
            bugs = bugs_on_loop()
            voices = [await voice(hub, name) for name in names]
            for number, (doing, at, which) in enumerate(doings):
                who, task, place = voices[at], f"T{which}", next(iter(hub.state.leases.places), None)
                match doing:
                    case "claim" | "claim tied":
                        await who.say(ClaimLease(task=task, ttl_ms=20_000, tied=doing == "claim tied"))
                    case "wait":
                        await who.say(ClaimLease(task=task, ttl_ms=20_000, wait_ms=30_000))
                    case "keyed":
                        await who.say(ClaimLease(task=task, ttl_ms=20_000, wait_ms=None), f"k{number % 2}")
                    case "again":
                        await who.say(ClaimLease(task=task, wait_ms=30_000, place=place))
                    case "renew":
                        await who.say(RenewLease(task=task))
                    case "release":
                        await who.say(ReleaseLease(task=task))
                    case "hand":
                        await who.say(HandOffLease(task=task, to=names[(at + 1) % 3]))
                    case "park":
                        await who.say(ParkLease(task=task, parked=number % 2 == 0))
                    case "drop":
                        await who.peer.aclose()
                        voices[at] = await voice(hub, names[at])
                    case "restart":
                        await hub.restart()
                        voices = [await voice(hub, name) for name in names]
                    case _:
                        await hub.advance(7_000)
            await quiet(hub)
            assert hub.replayed_digest() == digest(hub.state)
            assert hub.turns.leasing.count == len(hub.state.soft.leasing.attached)
            boss = await operator(hub)
            for name in names:
                await boss.ask(ForgetAgent(name=name), AgentRemoved)
            await hub.advance(40_000)
            leases, soft = hub.state.leases, hub.state.soft.leasing
            assert (leases.live, leases.places, hub.turns.leasing.count) == ({}, {}, 0)
            left = (
                soft.deadlines,
                soft.reasons,
                soft.tied,
                soft.ties,
                soft.attached,
                soft.waits,
                soft.until,
                soft.left,
            )
            assert left == ({}, {}, {}, {}, {}, {}, {}, {}), "nothing soft is left behind"
            assert bugs == []

    asyncio.run(run())


@pytest.mark.parametrize("wait_ms", [0, 1_000])
async def test_long_refusals_and_long_places_to_a_peer_that_does_not_read_stay_within_its_outbox(wait_ms: int) -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        for holder in range(8):
            await hold_paths(ada, f"T{holder}", *(f"{holder}/{'x' * 480}/{number}" for number in range(16)))
        for number in range(60):
            await bob.say(ClaimLease(task=f"W{number}", worktree="box:/repo", whole_worktree=True, wait_ms=wait_ms))
            await bob.say(WithdrawClaim(task=f"W{number}"))
        most = 0
        for _ in range(200):
            await steps(3)
            most = max(most, bob.peer.buffered())
        assert 100_000 < most < hub.rules.limits.outbox_bytes_max
        await bob.listen()
        assert len([frame for frame in bob.heard if frame.type in ("reply", "error")]) == 120


async def test_a_parked_lease_is_handed_off_parked_and_with_its_full_ttl() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await hold(ada, ttl_ms=10_000)
        await hub.advance(4_000)
        await ada.ask(ParkLease(task="T1", parked=True), Lease)
        handed = await ada.ask(HandOffLease(task="T1", to="bob"), Lease)
        assert (handed.owner, handed.status, handed.remaining_ms) == ("bob", "parked", None)
        await hub.advance(60_000)
        assert (await bob.ask(ParkLease(task="T1", parked=False), Lease)).remaining_ms == 10_000
        await hub.advance(10_000)
        assert await lost(bob) == [(handed.epoch, "ttl")]


async def test_a_release_that_many_waited_for_does_not_compare_each_with_each(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0

    def counted(a: Pattern, b: Pattern) -> bool:
        nonlocal compared
        compared += 1
        return overlaps(a, b)

    async with MemoryHub() as hub:
        ada = await voice(hub)
        await ada.ask(ClaimLease(task="A", worktree="box:/repo", whole_worktree=True), Lease)
        for number in range(64):
            who = await voice(hub, f"w{number % 4}")
            paths = tuple(f"{number}/{path}" for path in range(30))
            await wait(who, ClaimLease(task=f"T{number}", worktree="box:/repo", paths=paths, wait_ms=None))
        monkeypatch.setattr(leases, "overlaps", counted)
        monkeypatch.setattr(scope_index, "overlaps", counted)
        await ada.ask(ReleaseLease(task="A"), Released)
        assert len(hub.state.leases.live) == 64
        assert compared <= 64 * 30 * 4


async def test_a_release_that_serves_more_than_one_turn_may_hold_goes_on_with_the_tick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("synapse.core.claims.GRANT_BYTES_MAX", 3_000)
    monkeypatch.setattr("synapse.hub.leasing.GRANT_BYTES_MAX", 3_000)
    async with MemoryHub() as hub:
        ada, names = await voice(hub, "ada"), [f"n{i}" for i in range(8)]
        await ada.ask(ClaimLease(task="all", worktree="w", whole_worktree=True), Lease)
        for name in names:
            who = await voice(hub, name)
            await who.say(ClaimLease(task=name, worktree="w", paths=(f"{name}/**",), wait_ms=10 * MINUTE))
        await hub.settle()
        assert len(hub.state.leases.places) == 8
        await ada.ask(ReleaseLease(task="all"), Released)
        served = [8 - len(hub.state.leases.places)]
        while hub.state.leases.places:
            await hub.advance(100)
            served.append(8 - len(hub.state.leases.places))
            assert served[-1] > served[-2], "each tick serves some more"
        assert served[0] < 8
        assert sorted(lease.ask.owner for lease in hub.state.leases.live.values()) == names


async def test_who_waits_for_what_is_handed_to_it_is_answered_with_the_lease() -> None:
    async with MemoryHub() as hub:
        ada, bob, doing = await voice(hub, "ada"), await voice(hub, "bob"), await voice(hub, "bob")
        await hold(ada)
        await bob.say(WAIT)
        await hub.settle()
        handed = await ada.ask(HandOffLease(task="T1", to="bob"), Lease)
        lease = reply_of(next(frame for frame in await bob.listen() if frame.type == "reply"), Lease)
        assert (lease.owner, lease.epoch, lease.outcome) == ("bob", handed.epoch, "granted")
        assert (await doing.ask(RenewLease(task="T1", epoch=lease.epoch), Lease)).epoch == handed.epoch
