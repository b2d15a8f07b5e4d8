"""Leases held while a block runs, and claims that wait: over the real hub in memory, whose clock goes with the loop's.

What only a hub of the test's own can do (silence, late answers, odd notices) is played frame by frame at the end.
"""

import asyncio
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
import pytest

from synapse import Client, LeaseLost, Terms, Wiring, data_of
from synapse.client.calls import OutcomeUnknown
from synapse.client.client import HeldLease
from synapse.client.transport import Transport
from synapse.errors import Disconnected, Rejected
from synapse.protocol.limits import Limits
from synapse.protocol.notices import ClaimQueued, LeaseChanged
from synapse.protocol.replies import Lease, Pong, Released
from synapse.protocol.terms import Artefact
from synapse.testing import MemoryHub, MemoryPeer

if TYPE_CHECKING:
    from tests.client.conftest import Asked, Net, Peer

HAS_VIRTUAL_TIME = True
SECRET = "a secret of more than 32 characters"
STEP_S = 0.25

_T = TypeVar("_T")


class Wire:
    """A client's connection that can be cut without anybody being told."""

    def __init__(self, peer: MemoryPeer, world: "World") -> None:
        self.peer = peer
        self._world = world

    async def send(self, frame: bytes, /) -> None:
        if not self._world.is_silent:
            await self.peer.send(frame)

    async def receive(self) -> bytes:
        try:
            frame = await self.peer.receive()
        except Disconnected:
            await self._world.heard.wait()
            raise
        await self._world.heard.wait()
        return frame

    async def aclose(self) -> None:
        await self.peer.aclose()


class World:
    """A hub in memory and clients of it, in one time."""

    def __init__(self, hub: MemoryHub) -> None:
        self.hub = hub
        self.wires: list[Wire] = []
        self.heard = asyncio.Event()
        self.heard.set()

    @property
    def is_silent(self) -> bool:
        return not self.heard.is_set()

    async def dial(self) -> Transport:
        if self.is_silent:
            await asyncio.Event().wait()
        wire = Wire(self.hub.connect(), self)
        self.wires.append(wire)
        return wire

    def client(self, name: str, *, token: str | None = None, cuttable: bool = False, timeout: float = 10.0) -> Client:
        wiring = Wiring(dial=self.dial if cuttable else self.hub.dial)
        return Client(name=name, secret=f"{name} {SECRET}", token=token, wiring=wiring, timeout=timeout)

    def operator(self) -> Client:
        return Client(operator=True, wiring=Wiring(dial=self.hub.dial))

    async def elapse(self, seconds: float) -> None:
        """Let time pass on both sides, the client's first by a quarter of a second."""
        for _ in range(round(seconds / STEP_S)):
            await asyncio.sleep(STEP_S)
            await self.hub.advance(round(STEP_S * 1000))

    async def until(self, seconds: float, happened: Callable[[], bool]) -> None:
        """Let time pass until something has happened, at most so long."""
        for _ in range(round(seconds / STEP_S)):
            await asyncio.sleep(STEP_S)
            await self.hub.advance(round(STEP_S * 1000))
            if happened():
                return
        raise AssertionError(f"it did not happen within {seconds} s")

    def holders(self, task: str = "T1") -> list[str]:
        return [lease.ask.owner for lease in self.hub.state.leases.live.values() if lease.ask.task == task]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with MemoryHub() as hub:
        yield World(hub)


def now_s() -> float:
    return asyncio.get_running_loop().time()


def begun(work: Awaitable[_T]) -> "asyncio.Future[_T]":
    return asyncio.ensure_future(work)


async def hold(
    held: HeldLease, log: list[str], name: str = "", *, forever: bool = True, entered: asyncio.Event | None = None
) -> int:
    """Hold a lease, until cancelled or for no time at all."""
    async with held as lease:
        log.append(name)
        if entered is not None:
            entered.set()
        if forever:
            await asyncio.Event().wait()
        return lease.epoch


# a lease and its end


async def test_a_lease_is_held_while_the_block_runs_and_given_back_at_its_end(world: World) -> None:
    async with world.client("ada") as ada:
        async with ada.lease("T1", paths=["src/**"]) as lease:
            assert world.holders() == ["ada"]
            assert (lease.task, lease.is_live, lease.checkpoint) == ("T1", True, None)
            assert (lease.info.ttl_ms, lease.info.tied, lease.info.outcome) == (30_000, True, "granted")
            assert (await ada.check_lease("T1", lease.epoch)).epoch == lease.epoch
        assert world.holders() == []
        assert not lease.is_live
        assert not lease.lost.is_set()


async def test_a_lease_is_given_back_when_the_block_raises(world: World) -> None:
    async with world.client("ada") as ada:
        with pytest.raises(ZeroDivisionError):
            async with ada.lease("T1"):
                print(1 / 0)
        assert world.holders() == []


async def test_each_grant_has_a_larger_epoch(world: World) -> None:
    async with world.client("ada") as ada, world.client("bob") as bob:
        epochs = []
        for client in (ada, bob, ada, ada):
            epochs.append(await hold(client.lease("T1"), [], forever=False))
            await world.hub.restart()
            await client.ping()
        assert epochs == sorted(set(epochs))


@pytest.mark.parametrize(("ttl", "tied"), [(30.0, True), (5.0, False), (600.0, True)])
async def test_renewal_keeps_a_lease_far_beyond_its_ttl(world: World, ttl: float, *, tied: bool) -> None:
    async with world.client("ada") as ada, ada.lease("T1", ttl=ttl, terms=Terms(tied=tied)) as lease:
        await world.elapse(ttl * 5)
        assert lease.is_live
        assert world.holders() == ["ada"]
        assert (await ada.check_lease("T1", lease.epoch)).epoch == lease.epoch


async def test_renewals_are_not_journalled(world: World) -> None:
    async with world.client("ada") as ada, ada.lease("T1"):
        before = world.hub.state.seq
        await world.elapse(120)
        assert world.hub.state.seq == before


async def test_a_restart_of_the_hub_leaves_a_lease_and_its_epoch(world: World) -> None:
    async with world.client("ada") as ada, ada.lease("T1") as lease:
        for _ in range(3):
            await world.hub.restart()
            await world.elapse(20)
        assert lease.is_live
        assert (await ada.check_lease("T1", lease.epoch)).remaining_ms == pytest.approx(27_500, abs=2_600)
        (connection,) = world.hub.state.soft.leasing.tied.values()
        assert connection == ada.welcome.connection, "a renewal ties it to the connection of today"


# a lease that is lost


async def test_a_preempted_lease_cancels_its_block(world: World) -> None:
    async with world.operator() as operator:
        token = (await operator.create_token("human")).secret
    async with world.client("ada") as ada, world.client("eve", token=token) as eve:
        log: list[str] = []
        holding = begun(hold(ada.lease("T1"), log))
        await world.elapse(1)
        taken = await eve.claim("T1", terms=Terms(preempt=True))
        with pytest.raises(LeaseLost, match="the lease on T1 with epoch") as lost:
            await holding
        assert (lost.value.task, lost.value.reason) == ("T1", "preempted")
        assert lost.value.epoch < taken.epoch
        assert world.holders() == ["eve"]
        with pytest.raises(Rejected, match="stale_epoch"):
            await ada.release("T1", epoch=lost.value.epoch)


async def test_what_the_block_was_doing_sees_the_cancellation_and_may_clean_up(world: World) -> None:
    async with world.client("ada") as ada, world.operator() as operator, world.client("bob"):
        log: list[str] = []

        async def work() -> None:
            async with ada.lease("T1") as lease:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    assert lease.lost.is_set()
                    assert not lease.is_live
                    await asyncio.sleep(1)
                    log.append("cleaned up")
                    raise

        working = begun(work())
        await world.elapse(1)
        await operator.claim("T1", terms=Terms(preempt=True, claimant="bob"))
        await world.elapse(2)
        with pytest.raises(LeaseLost):
            await working
        assert log == ["cleaned up"]
        assert world.holders() == ["bob"]


async def test_belief_ends_before_the_hubs_deadline_when_the_connection_is_silent(world: World) -> None:
    async with world.client("ada", cuttable=True) as ada:
        log: list[str] = []
        holding = begun(hold(ada.lease("T1", ttl=20, terms=Terms(tied=False)), log))
        await world.elapse(33)  # between two renewals
        world.heard.clear()
        await world.until(21, holding.done)
        assert world.holders() == ["ada"], "the hub still keeps it for her"
        await world.elapse(4)
        assert world.holders() == []
        with pytest.raises(LeaseLost, match="unconfirmed"):
            await holding
        world.heard.set()


async def test_belief_ends_before_the_grace_of_a_connection_that_only_the_hub_saw_end(world: World) -> None:
    async with world.client("ada", cuttable=True) as ada:
        log: list[str] = []
        holding = begun(hold(ada.lease("T1", ttl=600), log))
        await world.elapse(33)
        world.heard.clear()
        await world.wires[-1].peer.aclose()
        await world.until(16, holding.done)
        assert world.holders() == ["ada"], "the hub still keeps it for her"
        await world.elapse(6)
        assert world.holders() == []
        with pytest.raises(LeaseLost, match="unconfirmed"):
            await holding
        world.heard.set()


async def test_what_was_lost_unconfirmed_is_given_back_once_the_hub_is_heard_again(world: World) -> None:
    async with world.client("ada", cuttable=True) as ada:
        holding = begun(hold(ada.lease("T1", ttl=60, terms=Terms(tied=False)), []))
        await world.elapse(19)
        world.heard.clear()
        await world.until(60, holding.done)
        with pytest.raises(LeaseLost, match="unconfirmed"):
            await holding
        assert world.holders() == ["ada"], "the hub still keeps it for her"
        await world.wires[-1].peer.aclose()
        world.heard.set()
        await world.until(3, lambda: world.holders() == [])


async def test_a_short_silence_is_survived(world: World) -> None:
    async with world.client("ada", cuttable=True) as ada, ada.lease("T1") as lease:
        for _ in range(5):
            await world.elapse(4)
            world.heard.clear()
            await world.elapse(4)
            world.wires[-1].peer.abort()
            world.heard.set()
            await world.elapse(4)
            assert lease.is_live
        assert world.holders() == ["ada"]


async def test_a_claim_of_the_same_agent_that_replaces_a_grant_is_a_loss(world: World) -> None:
    async with world.client("ada") as ada, world.client("ada") as other:
        log: list[str] = []
        terms = Terms(reentrant=True)
        holding = begun(hold(ada.lease("T1", paths="a", worktree="w", terms=terms), log))
        await world.elapse(1)
        await other.claim("T1", paths="b", worktree="w")
        with pytest.raises(LeaseLost) as lost:
            await holding
        assert lost.value.reason == "replaced"


async def test_a_release_behind_its_back_is_told_at_once(world: World) -> None:
    async with world.client("ada") as ada, world.client("ada") as other:
        holding = begun(hold(ada.lease("T1"), []))
        await world.elapse(1)
        await other.release("T1")
        with pytest.raises(LeaseLost) as lost:
            await holding
        assert lost.value.reason == "released"


async def test_a_block_that_ended_without_its_lease_is_told(world: World) -> None:
    async with world.client("ada") as ada:
        with pytest.raises(LeaseLost, match="stale_epoch"):
            async with ada.lease("T1"):
                await ada.release("T1")


async def test_closing_the_client_ends_the_belief(world: World) -> None:
    async with world.client("ada") as ada:
        with pytest.raises(LeaseLost, match="disconnected"):
            async with ada.lease("T1"):
                closed_s = now_s()
                await ada.close()
                await asyncio.sleep(3600)
        assert now_s() == closed_s, "at once, not at the next renewal"
        with pytest.raises(Disconnected):
            await hold(ada.lease("T1"), [])


async def test_an_error_of_the_blocks_own_is_kept_and_says_that_the_lease_was_lost(world: World) -> None:
    async with world.client("ada") as ada, world.operator() as operator, world.client("bob"):

        async def work() -> None:
            async with ada.lease("T1"):
                try:
                    await asyncio.sleep(3600)
                finally:
                    raise KeyError("mine")

        working = begun(work())
        await world.elapse(1)
        await operator.claim("T1", terms=Terms(preempt=True, claimant="bob"))
        with pytest.raises(KeyError) as error:
            await working
        assert "the lease on T1 with epoch" in error.value.__notes__[0]


async def test_a_block_that_ends_in_the_moment_of_the_loss_raises_and_is_cancelled_no_more(world: World) -> None:
    async with world.client("ada") as ada:
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(LeaseLost, match="ttl"):
            async with ada.lease("T1") as lease:
                lease._lose("ttl")
        assert task.cancelling() == 0
        await asyncio.sleep(1)
        with pytest.raises(KeyError) as error:
            async with ada.lease("T2") as lease:
                lease._lose("ttl")
                raise KeyError
        assert error.value.__notes__
        await asyncio.sleep(1)


# cancellation by others


async def test_a_cancellation_from_outside_is_not_swallowed_and_gives_the_lease_back(world: World) -> None:
    async with world.client("ada") as ada:
        holding = begun(hold(ada.lease("T1"), []))
        await world.elapse(1)
        holding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holding
        assert world.holders() == []


async def test_a_loss_and_a_cancellation_from_outside_at_once_is_a_cancellation(world: World) -> None:
    async with world.client("ada") as ada:
        held = ada.lease("T1")
        for is_lost_first in (True, False):
            held = ada.lease("T1")
            holding = begun(hold(held, []))
            await asyncio.sleep(1)
            acts: list[Callable[[], object]] = [lambda held=held: held._lose("ttl"), holding.cancel]  # type: ignore[misc]  # a lambda with a default
            for act in acts if is_lost_first else reversed(acts):
                act()
            with pytest.raises(asyncio.CancelledError):
                await holding
            await ada.release("T1")


async def test_a_timeout_around_a_lease_and_one_inside_are_told_apart(world: World) -> None:
    async with world.client("ada") as ada:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2), ada.lease("T1"):
                await asyncio.sleep(3600)
        assert world.holders() == []
        async with ada.lease("T1") as lease:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2):
                    await asyncio.sleep(3600)
            assert lease.is_live
        with pytest.raises(LeaseLost):
            async with asyncio.timeout(10), ada.lease("T1") as lease:
                asyncio.get_running_loop().call_later(1, lease._lose, "ttl")
                async with asyncio.timeout(5):
                    await asyncio.sleep(3600)


async def test_a_loss_ends_the_tasks_of_a_group_in_the_block(world: World) -> None:
    async with world.client("ada") as ada:
        ended: list[str] = []

        async def part(name: str) -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                ended.append(name)

        with pytest.raises(LeaseLost):
            async with ada.lease("T1") as lease, asyncio.TaskGroup() as group:
                group.create_task(part("a"))
                group.create_task(part("b"))
                asyncio.get_running_loop().call_later(1, lease._lose, "ttl")
        assert sorted(ended) == ["a", "b"]


async def test_leases_in_one_another_are_lost_one_by_one(world: World) -> None:
    async with world.client("ada") as ada:
        seen: list[str] = []
        async with ada.lease("outer") as outer:
            try:
                async with ada.lease("inner") as inner:
                    inner._lose("ttl")
                    await asyncio.sleep(3600)
            except LeaseLost as lost:
                seen.append(lost.task)
            assert outer.is_live
        assert seen == ["inner"]
        with pytest.raises(LeaseLost, match="outer"):
            async with ada.lease("outer") as outer, ada.lease("inner2"):
                outer._lose("ttl")
                await asyncio.sleep(3600)
        assert world.holders("inner2") == []


async def test_a_second_cancellation_during_the_release_still_gives_the_lease_back(world: World) -> None:
    async with world.client("ada") as ada:
        holding = begun(hold(ada.lease("T1"), []))
        await world.elapse(1)
        holding.cancel()
        await asyncio.sleep(0)
        holding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holding
        await world.hub.settle()
        assert world.holders() == []


# who else may have it


async def test_two_processes_of_one_agent_exclude_each_other(world: World) -> None:
    async with world.client("ada") as one, world.client("ada") as two:
        async with one.lease("T1"):
            with pytest.raises(Rejected, match="another process of ada") as refused:
                await hold(two.lease("T1"), [])
            assert refused.value.code == "lease_held"
        assert await hold(two.lease("T1"), [], forever=False)


async def test_a_second_process_of_an_agent_stands_in_line_behind_who_waits_for_the_first(world: World) -> None:
    async with world.client("ada") as one, world.client("ada") as two, world.client("bob") as bob:
        log: list[str] = []
        async with one.lease("T1"):
            waiting = [begun(hold(bob.lease("T1", wait=None), log, "bob", forever=False))]
            await asyncio.sleep(0.1)
            waiting.append(begun(hold(two.lease("T1", wait=None), log, "two", forever=False)))
            await asyncio.sleep(0.1)
        await asyncio.gather(*waiting)
        assert log == ["bob", "two"]


async def test_a_claim_is_reentrant_and_renews(world: World) -> None:
    async with world.client("ada") as one, world.client("ada") as two:
        first = await one.claim("T1", paths="src", worktree="w")
        again = await two.claim("T1", paths="src", worktree="w")
        assert (first.outcome, again.outcome, again.epoch) == ("granted", "renewed", first.epoch)
        wider = await two.claim("T1", paths=("src", "docs"), worktree="w")
        assert wider.epoch > first.epoch
        with pytest.raises(Rejected, match="stale_epoch"):
            await one.renew("T1", epoch=first.epoch)
        assert (await one.renew("T1", ttl=60, note="still at it")).note == "still at it"


async def test_overlapping_paths_are_refused_with_holder_and_time(world: World) -> None:
    async with world.client("ada") as ada, world.client("bob") as bob:
        await ada.claim("T1", paths=["src/**"], worktree="w", ttl=60)
        with pytest.raises(Rejected, match="ada holds T1") as refused:
            await bob.claim("T2", paths=["src/a.py"], worktree="w")
        assert refused.value.code == "lease_held"
        assert refused.value.retry_after_ms == 60_000
        assert (await bob.claim("T2", paths=["src/a.py"], worktree="elsewhere")).outcome == "granted"


# waiting in line


async def test_a_release_grants_to_who_waits_in_the_order_of_the_line(world: World) -> None:
    async with world.client("ada") as ada:
        log: list[str] = []
        waiting = []
        everybody = [world.client(name) for name in ("bob", "cid", "dan")]
        async with ada.lease("T1"):
            for client, name in zip(everybody, ("bob", "cid", "dan"), strict=True):
                await client.connect()
                waiting.append(begun(hold(client.lease("T1", wait=None), log, name, forever=False)))
                await asyncio.sleep(0.1)
            assert log == []
        epochs = await asyncio.gather(*waiting)
        assert log == ["bob", "cid", "dan"]
        assert epochs == sorted(epochs)
        for client in everybody:
            await client.close()


async def test_who_waits_is_told_its_position_and_who_stands_in_the_way(world: World) -> None:
    async with world.client("ada") as ada, world.client("bob") as bob, world.client("cid") as cid:
        heard: list[ClaimQueued] = []
        async with ada.lease("T1"):
            terms = Terms(on_queued=heard.append, priority="high")
            first = begun(bob.claim("T1", wait=60, terms=Terms(on_queued=heard.append)))
            await asyncio.sleep(0.1)
            second = begun(cid.claim("T1", wait=None, terms=terms))
            await asyncio.sleep(0.1)
            assert [notice.position for notice in heard] == [1, 1], "the second goes before, by its priority"
            assert [notice.deadline_ms for notice in heard] == [60_000, None]
            assert heard[0].holders[0]["owner"] == "ada"
            (lease,) = await ada.leases()
            assert [waiter.owner for waiter in lease.waiters or ()] == ["cid", "bob"]
        assert (await second).owner == "cid"
        assert not first.done()
        await cid.release("T1")
        assert (await first).owner == "bob"


async def test_a_wait_ends_at_its_deadline(world: World) -> None:
    async with world.client("ada") as ada, world.client("bob") as bob, ada.lease("T1"):
        began_s = now_s()
        waiting = begun(bob.claim("T1", wait=12))
        await world.until(20, waiting.done)
        with pytest.raises(Rejected, match="deadline: T1 was not free") as late:
            await waiting
        assert late.value.code == "deadline"
        assert now_s() - began_s == pytest.approx(12, abs=1.5)
        assert not world.hub.state.leases.places


async def test_a_wait_keeps_its_place_over_a_restart_of_the_hub(world: World) -> None:
    async with world.client("ada") as ada, world.client("bob") as bob, world.client("cid") as cid:
        log: list[str] = []
        heard: list[ClaimQueued] = []
        entered = asyncio.Event()
        await ada.claim("T1")
        first = begun(
            hold(bob.lease("T1", wait=None, terms=Terms(on_queued=heard.append)), log, "bob", entered=entered)
        )
        await asyncio.sleep(0.1)
        second = begun(hold(cid.lease("T1", wait=None), log, "cid"))
        await asyncio.sleep(0.1)
        for _ in range(2):
            await world.hub.restart()
            await world.elapse(9)
        assert len({notice.place for notice in heard}) == 1
        assert len(heard) == 3
        await ada.release("T1")
        await world.elapse(1)
        assert log == ["bob"]
        assert world.holders() == ["bob"]
        first.cancel()
        await world.elapse(1)
        assert log == ["bob", "cid"]
        second.cancel()
        await asyncio.wait({first, second})


async def test_a_grant_whose_answer_was_lost_in_a_crash_is_found_again(world: World) -> None:
    async with world.client("ada") as ada, world.client("bob", cuttable=True) as bob:
        await ada.claim("T1")
        waiting = begun(hold(bob.lease("T1", wait=None), [], forever=False))
        await asyncio.sleep(0.1)
        world.heard.clear()
        await ada.release("T1")
        await world.hub.settle()
        assert world.holders() == ["bob"]
        granted = next(iter(world.hub.state.leases.live))
        world.wires[-1].peer.received_now()
        await world.hub.restart()
        world.heard.set()
        assert await waiting == granted


async def test_a_cancelled_wait_gives_back_what_it_is_granted_later(world: World) -> None:
    async with world.client("ada") as ada, world.client("bob") as bob, world.client("cid") as cid:
        for ask in (lambda: bob.claim("T1", wait=None), lambda: hold(bob.lease("T1", wait=None), [])):
            await ada.claim("T1")
            waiting = begun(ask())
            await asyncio.sleep(0.1)
            waiting.cancel()
            last = begun(cid.claim("T1", wait=None))
            await asyncio.sleep(0.1)
            await ada.release("T1")
            assert (await last).owner == "cid"
            assert world.holders() == ["cid"]
            await cid.release("T1")


async def test_a_cancelled_wait_leaves_the_line_and_the_other_waits_of_its_agent_stay(world: World) -> None:
    async with world.client("ada") as ada, world.client("bob") as one, world.client("bob") as two:
        await ada.claim("T1")
        first, second = begun(one.claim("T1", wait=None)), begun(two.claim("T1", wait=None))
        await asyncio.sleep(0.1)
        assert len(world.hub.state.leases.places) == 2
        first.cancel()
        await asyncio.sleep(0.1)
        assert [place.ask.owner for place in world.hub.state.leases.places.values()] == ["bob"]
        await ada.release("T1")
        assert (await second).owner == "bob"


async def test_a_block_that_is_cancelled_while_it_waits_for_its_lease_leaves_the_line(world: World) -> None:
    async with world.client("ada") as ada, world.client("bob") as bob:
        await ada.claim("T1")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), bob.lease("T1", wait=None):
                raise AssertionError("it is held by ada")
        await asyncio.sleep(0.1)
        assert not world.hub.state.leases.places


async def test_a_grant_that_comes_in_the_very_step_of_a_cancellation_is_given_back(world: World) -> None:
    async with world.client("ada") as ada, world.client("bob") as bob:
        cancelled = 0
        for kind in ("claim", "lease"):
            for steps in range(12):
                await ada.claim("T1")
                claim = bob.claim("T1", wait=None) if kind == "claim" else hold(bob.lease("T1", wait=None), [])
                waiting: asyncio.Future[object] = begun(claim)
                await asyncio.sleep(0.1)
                releasing = begun(ada.release("T1"))
                for _ in range(steps):
                    await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.gather(waiting, releasing, return_exceptions=True)
                cancelled += waiting.cancelled()
                if not waiting.cancelled():  # it came earlier still
                    await bob.release("T1")
                await asyncio.sleep(1)
                assert world.holders() == []
        assert cancelled > 12


async def test_waits_in_a_circle_are_refused(world: World) -> None:
    async with world.client("ada") as ada, world.client("bob") as bob, ada.lease("T1"), bob.lease("T2"):
        waiting = begun(ada.claim("T2", wait=None))
        await asyncio.sleep(0.1)
        with pytest.raises(Rejected, match="deadlock") as refused:
            await bob.claim("T1", wait=None)
        assert refused.value.facts["cycle"] == ["bob", "ada", "bob"]
        assert (await ada.withdraw("T2")).withdrawn == 1
        with pytest.raises(Rejected, match="withdrawn"):
            await waiting


# checkpoints and hand-off


async def test_a_checkpoint_is_inherited_after_a_loss(world: World) -> None:
    async with world.client("ada") as ada, world.client("bob") as bob, world.operator() as operator:

        async def work() -> None:
            async with ada.lease("T1") as lease:
                await lease.save({"done": [1, 2]}, [Artefact(path="out.bin", sha256="0" * 64, bytes=3)])
                await asyncio.sleep(3600)

        working = begun(work())
        await world.elapse(1)
        await operator.claim("T1", terms=Terms(preempt=True, claimant="bob"))
        with pytest.raises(LeaseLost):
            await working
        await bob.release("T1")
        await world.hub.restart()
        async with bob.lease("T1") as lease:
            left = lease.checkpoint
            assert left is not None
            assert (left.by, data_of(left)) == ("ada", {"done": [1, 2]})
            assert left.artefacts[0].path == "out.bin"
            await lease.save()
        async with bob.lease("T1") as lease:
            assert lease.checkpoint is None


async def test_saving_under_a_lost_lease_says_so_and_ends_the_block(world: World) -> None:
    async with world.client("ada") as ada, world.client("ada") as other:
        with pytest.raises(LeaseLost, match="released"):
            async with ada.lease("T1") as lease:
                await other.release("T1")
                await lease.save({"a": 1})
        await asyncio.sleep(1)
        async with ada.lease("T1") as lease:
            with pytest.raises(Rejected, match="too_large"):
                await lease.save("x" * 20_000)
            assert lease.is_live
            await lease.save(msgspec.Raw(b'{\n "pretty": 1}'))


async def test_saving_or_handing_off_what_was_handed_off_or_given_back_is_a_lost_lease(world: World) -> None:
    async with world.client("ada") as ada, world.client("bob"):
        for reason in ("handed_off", "released"):
            async with ada.lease(f"T-{reason}") as lease:
                if reason == "handed_off":
                    await lease.hand_off("bob")
                    with pytest.raises(LeaseLost, match="handed_off"):
                        await lease.save(1)
            with pytest.raises(LeaseLost, match=reason) as lost:
                await lease.save(2)
            assert (lost.value.task, lost.value.epoch, lost.value.reason) == (f"T-{reason}", lease.epoch, reason)
            with pytest.raises(LeaseLost, match=reason):
                await lease.hand_off("bob")


async def test_a_lease_is_handed_to_an_agent_that_is_online(world: World) -> None:
    async with world.client("ada") as ada, world.client("bob") as bob:
        async with ada.lease("T1", paths="src", worktree="w") as lease:
            await lease.save("half")
            handed = await lease.hand_off("bob")
            assert (handed.outcome, handed.owner) == ("handed_off", "bob")
            assert not lease.is_live
            await world.elapse(20)
            assert not lease.lost.is_set()
        assert world.holders() == ["bob"]
        mine = await bob.claim("T1")
        assert (mine.epoch, mine.paths, mine.outcome) == (handed.epoch, ("src",), "renewed")
        assert mine.checkpoint
        assert data_of(mine.checkpoint) == "half"


async def test_a_lease_is_offered_to_an_agent_that_is_offline(world: World) -> None:
    async with world.client("bob"):
        pass
    await world.hub.restart()  # presence is soft: bob is offline now
    async with world.client("ada") as ada:
        working = begun(hold(ada.lease("T1"), []))
        await asyncio.sleep(0.1)
        assert (await ada.hand_off("T1", "bob")).outcome == "offered"
        async with world.client("bob") as bob:
            offer = await bob.take()
            assert offer is not None
            accepted = await bob.claim("T1")
            assert (accepted.outcome, accepted.owner) == ("handed_off", "bob")
            with pytest.raises(LeaseLost) as lost:
                await working
            assert lost.value.reason == "handed_off"
            assert world.holders() == ["bob"]


async def test_an_offer_leaves_the_lease_where_it_is(world: World) -> None:
    async with world.client("bob"):
        pass
    await world.hub.restart()
    async with world.client("ada") as ada:
        async with ada.lease("T1") as lease:
            assert (await lease.hand_off("bob")).outcome == "offered"
            await world.elapse(20)
            assert lease.is_live
        assert world.holders() == []
        async with world.client("bob") as bob:
            assert await bob.take() is None, "the end of the lease voids the offer"
        async with ada.lease("T1") as lease:
            with pytest.raises(Rejected, match="not_found"):
                await lease.hand_off("nobody")
            assert lease.is_live


# everything else that is asked


async def test_scope_is_that_of_the_working_directory(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path.resolve()
    (root / ".git").mkdir()
    (root / ".git" / "HEAD").write_text("ref: refs/heads/topic\n")
    (root / "src").mkdir()
    monkeypatch.chdir(root / "src")
    async with world.client("ada") as ada:
        lease = await ada.claim("T1", paths=["*.py", "../docs"])
        assert (lease.worktree, lease.paths) == (f"{os.uname().nodename}:{root}", ("src/*.py", "docs"))
        assert lease.branch == "topic"
        assert (await ada.check_paths(["a.py", "../docs/x"])).worktree == lease.worktree
        with pytest.raises(Rejected, match="not_covered"):
            await ada.check_paths("b.c")
        whole = await ada.claim("T2", worktree="w", terms=Terms(whole_worktree=True, branch="main"))
        assert (whole.worktree, whole.whole_worktree, whole.branch) == ("w", True, "main")
        for paths in ("../../x", "/etc", "..", "a/../b"):
            with pytest.raises(Rejected, match="bad_scope"):
                await ada.claim("T3", paths=paths)
        monkeypatch.setenv("SYNAPSE_WORKTREE", "box")
        named = await ada.claim("T4", paths="a")
        assert (named.worktree, named.paths, named.branch) == ("box", ("a",), "topic")
        bare = await ada.claim("T5")
        assert (bare.worktree, bare.branch) == (None, None)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0, 0.0, 1e300])
async def test_a_ttl_that_is_none_is_refused_with_the_numbers(world: World, seconds: float) -> None:
    why = "nan s: give a number" if math.isnan(seconds) else "5000 to 86400000"
    async with world.client("ada") as ada:
        with pytest.raises(Rejected, match=why):
            await ada.claim("T1", ttl=seconds)
        with pytest.raises(Rejected, match=why):
            await hold(ada.lease("T1", ttl=seconds), [])
        assert world.holders() == []


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0, 1e300])
async def test_a_wait_that_is_none_is_refused(world: World, seconds: float) -> None:
    async with world.client("ada") as ada:
        with pytest.raises(Rejected, match="bad_request"):
            await ada.claim("T1", wait=seconds)


async def test_lists_are_walked_whole(world: World) -> None:
    async with MemoryHub(limits=Limits(page_items_max=3)) as hub:
        small = World(hub)
        async with small.client("ada") as ada, small.client("bob") as bob:
            for number in range(8):
                await ada.claim(f"T{number}", paths=f"p{number}", worktree="w" if number % 2 else "v")
            await bob.claim("T9")
            assert [lease.task for lease in await ada.leases(owner="ada")] == [f"T{number}" for number in range(8)]
            assert len(await ada.leases()) == 9
            assert len(await bob.leases(worktree="w")) == 4
            assert [lease.owner for lease in await bob.leases(task="T9")] == ["bob"]
            for _ in range(4):
                await bob.release("T9")
                await bob.claim("T9")
            changes = [event.change for event in await ada.why("T9")]
            assert changes == ["granted", *(["released", "granted"] * 4)]
            with pytest.raises(Rejected, match="not_found"):
                await ada.why("T10")


async def test_a_parked_lease_does_not_run_out(world: World) -> None:
    async with world.client("ada") as ada:
        lease = await ada.claim("T1", ttl=10)
        assert (await ada.park("T1", epoch=lease.epoch)).status == "parked"
        await world.elapse(60)
        assert (await ada.park("T1", parked=False)).remaining_ms == 10_000
        await world.elapse(11)
        with pytest.raises(Rejected, match="not_found"):
            await ada.checkpoint("T1", 1)


async def test_pools_are_counted(world: World) -> None:
    async with world.client("ada") as ada, world.client("bob") as bob, world.operator() as operator:
        assert (await operator.set_pool("gpu", 3)).capacity == 3
        with pytest.raises(Rejected, match="not_permitted"):
            await ada.set_pool("gpu", 9)
        async with ada.lease("T1", pools={"gpu": 2}):
            with pytest.raises(Rejected, match="lease_held"):
                await bob.claim("T2", pools={"gpu": 2})
            waiting = begun(bob.claim("T2", pools={"gpu": 2}, wait=60))
            await asyncio.sleep(0.1)
            (pool,) = await ada.pools()
            assert (pool.pool, pool.held, pool.waiting) == ("gpu", 2, 2)
            with pytest.raises(Rejected, match="not_empty"):
                await operator.delete_pool("gpu")
        assert (await waiting).pools == {"gpu": 2}
        await bob.release("T2")
        assert (await operator.delete_pool("gpu")).deleted
        assert await operator.pools() == ()


async def test_shared_leases_go_together(world: World) -> None:
    async with world.client("ada") as ada, world.client("bob") as bob:
        one = ada.lease("T1", paths="a", worktree="w", mode="shared")
        two = bob.lease("T2", paths="a", worktree="w", mode="shared")
        async with one, two:
            assert (await ada.check_paths("a", worktree="w")).paths[0].task == "T1"
            with pytest.raises(Rejected, match="not_covered"):
                await ada.check_paths("a", worktree="w", mode="exclusive")


async def test_a_key_claims_once(world: World) -> None:
    async with world.client("ada") as ada:
        first = await ada.claim("T1", idem_key="k", terms=Terms(reentrant=False))
        assert (await ada.claim("T1", idem_key="k", terms=Terms(reentrant=False))).epoch == first.epoch
        await ada.release("T1")
        assert (await ada.claim("T1", idem_key="k", terms=Terms(reentrant=False))).live is False


# the feed


async def test_the_feed_tells_what_becomes_of_leases_without_a_gap(world: World) -> None:
    async with world.client("ada") as ada, world.client("eve") as eve, eve.lease_changes() as feed:
        assert eve.is_connected
        await ada.claim("T1")
        seen = [await anext(feed)]
        await world.hub.restart()
        await ada.release("T1")
        await ada.claim("T2", paths="a", worktree="w")
        seen += [await anext(feed), await anext(feed)]
        assert [(change.change, change.task, change.owner) for change in seen] == [
            ("granted", "T1", "ada"),
            ("released", "T1", "ada"),
            ("granted", "T2", "ada"),
        ]
        assert seen[2].paths == ("a",)
        assert feed.cursor == seen[2].cursor
        with pytest.raises(Rejected, match="already_subscribed: another feed of this client follows leases"):
            await eve.lease_changes().__aenter__()
        async with ada.lease_changes(since=seen[0].cursor) as later:
            assert [await anext(later), await anext(later)] == seen[1:]


async def test_a_slow_follower_of_the_feed_loses_nothing(world: World) -> None:
    async with world.client("ada") as ada, world.client("eve") as eve, eve.lease_changes() as feed:
        feed._notices_max = 10
        for _ in range(40):
            await ada.release("T1", epoch=(await ada.claim("T1")).epoch)
        await world.elapse(1)
        assert len(feed._queue) == 10
        seen: list[LeaseChanged] = [await anext(feed) for _ in range(80)]
        assert [change.change for change in seen] == ["granted", "released"] * 40
        assert sorted({change.cursor for change in seen}) == [change.cursor for change in seen]


# a hub played by the test


def granted(asked: "Asked", *, epoch: int = 7, live: bool = True, outcome: str = "granted") -> Lease:
    """A grant of what was asked for."""
    body = asked.body
    ttl_ms, tied = body.get("ttl_ms") or 30_000, body.get("tied", True)
    assert isinstance(ttl_ms, int)
    assert isinstance(tied, bool)
    return Lease(
        task=str(body["task"]),
        room="main",
        owner="ada",
        epoch=epoch,
        worktree=None,
        paths=(),
        whole_worktree=False,
        pools={},
        mode="exclusive",
        ttl_ms=ttl_ms,
        expires_at_ms=0,
        remaining_ms=ttl_ms,
        status="held",
        granted_at_ms=0,
        note=None,
        branch=None,
        tied=tied,
        live=live,
        outcome=outcome,
    )


async def answered(peer: "Peer", kind: str, *, epoch: int = 7, live: bool = True) -> "Asked":
    """Grant the next request, which must be of this type."""
    asked = await peer.asked()
    assert asked.type == kind
    if kind == "lease.release":
        peer.reply(asked, Released(task="T1", room="main", epoch=epoch, released=True, cursor="j1:9"))
    else:
        peer.reply(asked, granted(asked, epoch=epoch, live=live))
    return asked


@pytest.mark.parametrize(("ttl", "tied", "every_s"), [(30.0, True, 5.0), (30.0, False, 10.0), (6.0, True, 2.0)])
async def test_renewals_come_at_a_third_of_the_time_there_is(
    net: "Net", ttl: float, every_s: float, *, tied: bool
) -> None:
    client, peer = await net.connected()
    holding = begun(hold(client.lease("T1", ttl=ttl, terms=Terms(tied=tied)), []))
    claim = await answered(peer, "lease.claim")
    assert (claim.body["reentrant"], claim.body["tied"], claim.body["wait_ms"]) == (False, tied, 0)
    began_s = now_s()
    for number in range(1, 4):
        renewal = await answered(peer, "lease.renew")
        assert now_s() - began_s == pytest.approx(number * every_s, abs=0.02)
        assert (renewal.body["epoch"], renewal.body["room"], renewal.idem_key) == (7, "main", None)
    holding.cancel()
    assert (await answered(peer, "lease.release")).body == {"task": "T1", "room": "main", "epoch": 7}
    await asyncio.wait({holding})
    await client.close()


async def test_belief_counts_from_the_asking_not_from_the_answer(net: "Net") -> None:
    client, peer = await net.connected()
    holding = begun(hold(client.lease("T1", ttl=10, terms=Terms(tied=False)), []))
    asked = await peer.asked()
    began_s = now_s()
    await asyncio.sleep(3)
    peer.reply(asked, granted(asked))
    with pytest.raises(LeaseLost, match="unconfirmed"):
        await holding
    assert now_s() - began_s == pytest.approx(9.0, abs=0.02)
    assert [asked.type for asked in peer.asked_now()] == ["lease.renew", "lease.release"], (
        "the hub may keep it for longer than the client believed"
    )
    await client.close()


async def test_belief_counts_from_the_asking_of_a_renewal_too(net: "Net") -> None:
    client, peer = await net.connected()
    holding = begun(hold(client.lease("T1", ttl=10, terms=Terms(tied=False)), []))
    await answered(peer, "lease.claim")
    began_s = now_s()
    renewal = await peer.asked()
    await asyncio.sleep(5)
    peer.reply(renewal, granted(renewal))
    with pytest.raises(LeaseLost, match="unconfirmed"):
        await holding
    assert now_s() - began_s == pytest.approx(10 / 3 + 9, abs=0.02)
    await client.close()


async def test_who_waited_in_line_confirms_the_grant_before_the_block_begins(net: "Net") -> None:
    client, peer = await net.connected()
    log: list[str] = []
    holding = begun(hold(client.lease("T1", wait=None), log))
    asked = await peer.asked()
    await asyncio.sleep(100)
    peer.reply(asked, granted(asked))
    renewal = await peer.asked()
    assert renewal.type == "lease.renew"
    assert log == []
    peer.reply(renewal, granted(renewal))
    await asyncio.sleep(1)
    assert log == [""]
    holding.cancel()
    await answered(peer, "lease.release")
    await asyncio.wait({holding})
    await client.close()


async def test_a_grant_that_ended_before_it_was_heard_of_is_claimed_again(net: "Net") -> None:
    client, peer = await net.connected()
    log: list[str] = []
    holding = begun(hold(client.lease("T1", wait=300), log, forever=False))
    asked = await peer.asked()
    await asyncio.sleep(100)
    peer.reply(asked, granted(asked))
    renewal = await peer.asked()
    peer.refuse(renewal, "stale_epoch")
    again = await peer.asked()
    assert again.type == "lease.claim"
    assert again.idem_key != asked.idem_key
    assert again.body["wait_ms"] == pytest.approx(200_000, abs=50)
    peer.reply(again, granted(again, epoch=8, live=False))
    await answered(peer, "lease.claim", epoch=9)
    await answered(peer, "lease.release", epoch=9)
    assert await holding == 9
    assert log == [""]
    await client.close()


async def test_a_loss_that_is_told_right_behind_the_grant_is_heard(net: "Net") -> None:
    client, peer = await net.connected()
    holding = begun(hold(client.lease("T1", wait=None), [], forever=False))
    asked = await peer.asked()
    peer.reply(asked, granted(asked))
    peer.say(
        b'{"type":"lease.lost","seq":9,"body":{"task":"T1","room":"main","epoch":7,"reason":"preempted","by":"eve"}}'
    )
    await answered(peer, "lease.claim", epoch=8)
    await answered(peer, "lease.release", epoch=8)
    assert await holding == 8
    await client.close()


async def test_fields_and_notices_of_a_newer_hub_are_tolerated(net: "Net") -> None:
    client, peer = await net.connected()
    heard: list[ClaimQueued] = []
    holding = begun(hold(client.lease("T1", wait=None, terms=Terms(on_queued=heard.append)), []))
    asked = await peer.asked()
    place = '"task":"T1","room":"main","place":5,"position":2,"deadline_ms":null'
    for request in (str(asked.id), '"another"'):
        body = f'{{"request":{request},{place},"holders":[{{"x":1}}],"mood":"patient"}}'
        peer.say(f'{{"type":"claim.queued","seq":5,"body":{body}}}'.encode())
    peer.say(b'{"type":"lease.forecast","seq":6,"body":{"sunny":true}}')
    peer.reply(asked, granted(asked))
    await asyncio.sleep(1)
    assert [notice.place for notice in heard] == [5]
    peer.say(b'{"type":"lease.lost","seq":9,"body":{"task":"T1","room":"main","epoch":6,"reason":"ttl","by":"hub"}}')
    await asyncio.sleep(1)
    assert not holding.done(), "that was another grant"
    peer.say(
        b'{"type":"lease.lost","seq":9,"body":{"task":"T1","room":"main","epoch":7,"reason":"moonrise","by":"hub","why":[]}}'
    )
    with pytest.raises(LeaseLost, match="moonrise"):
        await holding
    await client.close()


async def test_a_wait_is_repeated_unchanged_and_without_a_key_by_its_place(net: "Net") -> None:
    client, peer = await net.connected()
    waiting = begun(client.claim("T1", wait=None))
    first = await peer.asked()
    peer.refuse(first, "idem_limit")
    keyless = await peer.asked()
    assert keyless.idem_key is None
    peer.tell(
        ClaimQueued(request=keyless.id, task="T1", room="main", place=5, position=1, deadline_ms=None, holders=())
    )
    await asyncio.sleep(1)
    peer.cut()
    peer = await net.welcome()
    again = await peer.asked()
    assert again.body == {**keyless.body, "place": 5}
    peer.reply(again, granted(again))
    assert (await waiting).epoch == 7
    keyed = begun(client.claim("T2", wait=None))
    first = await peer.asked()
    peer.tell(ClaimQueued(request=first.id, task="T2", room="main", place=6, position=1, deadline_ms=None, holders=()))
    peer.cut()
    peer = await net.welcome()
    again = await peer.asked()
    assert again == first
    peer.reply(again, granted(again, epoch=8))
    assert (await keyed).epoch == 8
    await client.close()


async def test_a_claim_whose_answer_never_came_is_not_given_back_as_its_key_may_be_repeated(net: "Net") -> None:
    client, peer = await net.connected(timeout=3.0)
    with pytest.raises(OutcomeUnknown) as late:
        await client.claim("T1", wait=2)
    asked = await peer.asked()
    assert late.value.idem_key == asked.idem_key
    peer.reply(asked, granted(asked))
    await asyncio.sleep(1)
    assert peer.asked_now() == []
    await client.close()


async def test_a_block_whose_claim_was_never_answered_is_told_to_enter_anew_and_what_it_got_is_given_back(
    net: "Net",
) -> None:
    client, peer = await net.connected(timeout=3.0)
    with pytest.raises(OutcomeUnknown, match="enter a new lease: what was granted is given back") as late:
        async with client.lease("T1", wait=2):
            raise AssertionError("nobody holds it")
    assert late.value.idem_key is None, "a block takes none"
    asked = await peer.asked()
    peer.reply(asked, granted(asked))
    entering = begun(hold(client.lease("T1", wait=2), [], forever=False))
    requests = {request.type: request for request in (await peer.asked(), await peer.asked())}
    released, again = requests["lease.release"], requests["lease.claim"]
    assert released.body["epoch"] == 7
    peer.reply(released, Released(task="T1", room="main", epoch=7, released=True, cursor="j1:2"))
    peer.reply(again, granted(again, epoch=8))
    await answered(peer, "lease.release", epoch=8)
    assert await entering == 8
    await client.close()


async def test_a_checkpoint_of_a_block_is_repeated_with_the_key_that_its_error_names(net: "Net") -> None:
    client, peer = await net.connected(timeout=3.0)
    holding = begun(repeated(client, lambda lease, key: lease.save({"done": 1}, idem_key=key)))
    asked = await peer.asked()
    peer.reply(asked, granted(asked))
    first, again = await peer.asked(), await peer.asked()
    assert (first.type, again.type) == ("lease.checkpoint", "lease.checkpoint")
    assert (again.body, again.idem_key) == (first.body, first.idem_key)
    peer.reply(again, granted(asked))
    await answered(peer, "lease.release", epoch=7)
    assert (await holding).outcome == "granted"
    await client.close()


async def test_a_hand_off_of_a_block_is_repeated_with_the_key_that_its_error_names(net: "Net") -> None:
    client, peer = await net.connected(timeout=3.0)
    holding = begun(repeated(client, lambda lease, key: lease.hand_off("bob", idem_key=key)))
    asked = await peer.asked()
    peer.reply(asked, granted(asked))
    first, again = await peer.asked(), await peer.asked()
    assert (first.type, again.type) == ("lease.hand_off", "lease.hand_off")
    assert (again.body, again.idem_key) == (first.body, first.idem_key)
    peer.reply(again, granted(asked, epoch=8, outcome="handed_off"))
    assert (await holding).outcome == "handed_off"
    await client.close()


async def repeated(client: Client, ask: Callable[[HeldLease, str | None], Awaitable[Lease]]) -> Lease:
    """Ask for something under a lease, and when no answer comes, as the error says once more."""
    async with client.lease("T1") as lease:
        with pytest.raises(OutcomeUnknown, match="repeat it with idem_key") as late:
            await ask(lease, None)
        return await ask(lease, late.value.idem_key)


async def test_a_callback_that_raises_does_not_harm_the_connection(net: "Net") -> None:
    client, peer = await net.connected()
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def stumble(_: ClaimQueued) -> None:
        raise ZeroDivisionError

    waiting = begun(client.claim("T1", wait=None, terms=Terms(on_queued=stumble)))
    asked = await peer.asked()
    peer.tell(ClaimQueued(request=asked.id, task="T1", room="main", place=5, position=1, deadline_ms=None, holders=()))
    peer.reply(asked, granted(asked))
    assert (await waiting).epoch == 7
    assert len(told) == 1
    pinging = begun(client.ping())
    asked = await peer.asked()
    peer.reply(asked, Pong(cursor="j1:1"))
    await pinging
    await client.close()


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_hub_that_is_gone_delays_the_end_of_a_block_for_two_seconds_and_hears_of_it_later(
    net: "Net", *, is_cancelled: bool
) -> None:
    client, peer = await net.connected()
    holding = begun(hold(client.lease("T1"), [], forever=is_cancelled))
    await answered(peer, "lease.claim")
    await asyncio.sleep(0)
    net.is_down = True
    peer.cut()
    began_s = now_s()
    if is_cancelled:
        await asyncio.sleep(1)
        holding.cancel()
        await asyncio.sleep(0.5)
        holding.cancel()
    await asyncio.wait({holding})
    assert now_s() - began_s == pytest.approx(1.5 if is_cancelled else 2.0, abs=0.1)
    next_claim = begun(client.claim("T1"))
    net.is_down = False
    peer = await net.welcome()
    assert (await answered(peer, "lease.release")).body["epoch"] == 7
    await answered(peer, "lease.claim", epoch=8)
    assert (await next_claim).epoch == 8
    await client.close()


async def test_closing_the_client_ends_a_release_that_nobody_hears(net: "Net") -> None:
    client, peer = await net.connected()
    assert client.lease("T1").lost.is_set() is False
    holding = begun(hold(client.lease("T1"), [], forever=False))
    await answered(peer, "lease.claim")
    net.is_down = True
    peer.cut()
    await asyncio.wait({holding})
    assert [task.get_name() for task in asyncio.all_tasks() if "release" in task.get_name()] == ["synapse release"]
    await client.close()
    assert [task.get_name() for task in asyncio.all_tasks() if "synapse" in task.get_name()] == []


async def test_closing_the_client_ends_a_release_that_pauses(net: "Net") -> None:
    client, peer = await net.connected()
    holding = begun(hold(client.lease("T1"), [], forever=False))
    await answered(peer, "lease.claim")
    peer.refuse(await peer.asked(), "read_only", retry_after_ms=20_000)
    await holding
    closing_s = now_s()
    await client.close()
    assert now_s() == closing_s
