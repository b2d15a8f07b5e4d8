"""Leases: claims that wait in line, and a lease held for as long as a block of code runs.

    async with client.lease("T1", paths=["src/**"], wait=30) as lease:
        ...  # renewed in the background, cancelled when the lease is lost, given back at the end

Rule 1: the client stops believing before the hub gives the lease to anybody else. It counts from the moment at which it
asked for what was last confirmed, on the loop's clock, nine tenths of the TTL; for a tied lease, of the grace that a
lost connection leaves, when that is shorter, because the hub may see the connection end before the client does. Rule 2:
a lost lease cancels its block once, and `LeaseLost` comes out of it, as `TimeoutError` does of asyncio.timeout: a
cancellation by somebody else passes through. Rule 3: what was granted to nobody does not stay: the answer to a claim
whose caller was cancelled is given back.
"""

import asyncio
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

import msgspec

from synapse.client.bodies import milliseconds, raw_of
from synapse.client.calls import Call, Queued, RequestTimeout
from synapse.client.lifeline import Lifeline
from synapse.client.worktree import branch_of, folds_case, scope_of, worktree_of
from synapse.errors import Disconnected, LeaseLost, Rejected, SynapseError
from synapse.protocol import replies
from synapse.protocol.codec import HubFrame
from synapse.protocol.commands import (
    ClaimLease,
    HandOffLease,
    ReleaseLease,
    RenewLease,
    SaveCheckpoint,
    WithdrawClaim,
)
from synapse.protocol.notices import LeaseLost as LostNotice
from synapse.protocol.session_replies import Resume
from synapse.protocol.terms import Artefact

BELIEF: Final = 0.9
"""The part of what the hub promised that the client counts on."""
RENEWALS: Final = 3
"""A lease is renewed this often in the time that it has."""
RELEASE_S: Final = 2.0
"""How long the end of a block waits for the hub to answer; the release itself goes on, over reconnects."""
UNCONFIRMED: Final = "unconfirmed"
"""Why a lease is lost that the hub did not confirm in time, and may take for held still."""
UNANSWERED: Final = "enter a new lease: what was granted is given back when the answer comes, and else lapses by itself"
"""What a block may do whose claim was not answered."""
GONE: Final = frozenset({"stale_epoch", "not_holder"})
"""Refusals of what carries an epoch that mean: this grant has ended."""

Mode: TypeAlias = Literal["exclusive", "shared"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a claim says beyond its task, its paths and its times.

    whole_worktree: all of it, instead of paths. folds_case: None looks at the file system. priority: of the place in
    line. note, branch: shown to others; without a branch, the one checked out where the paths lie. on_queued: called
    with each `claim.queued` notice: position, holders, place. reentrant, tied: None is what `claim` (a lease of this
    agent on the task is renewed; it outlives connections) and `lease` (another process of the agent is shut out too; it
    lapses with this connection) do by themselves. preempt: revoke what stands in the way, with a token of the role
    human, or as operator for the `claimant`.
    """

    whole_worktree: bool = False
    folds_case: bool | None = None
    priority: Literal["low", "normal", "high", "urgent"] = "normal"
    note: str | None = None
    branch: str | None = None
    on_queued: Queued | None = None
    reentrant: bool | None = None
    tied: bool | None = None
    preempt: bool = False
    claimant: str | None = None


PLAIN: Final = Terms()
"""Of a claim that says no more."""


def wait_milliseconds(wait: float | None) -> int | None:
    """A wait for the wire; None has no end."""
    return None if wait is None else milliseconds(wait, "a wait")


def texts(paths: str | Iterable[str]) -> tuple[str, ...]:
    """One path, or several."""
    return (paths,) if isinstance(paths, str) else tuple(paths)


def claim_command(
    task: str,
    paths: str | Iterable[str],
    worktree: str | None,
    pools: Mapping[str, int] | None,
    room: str | None,
    mode: Mode,
    ttl: float,
    wait: float | None,
    terms: Terms,
    *,
    is_held: bool,
) -> ClaimLease:
    """The request. Paths without a worktree are relative to the working directory. is_held: for `lease`."""
    patterns, branch, folds = texts(paths), terms.branch, False
    if patterns or terms.whole_worktree:
        cwd = os.getcwd()  # noqa: PTH109 - a text is wanted, and claims come often
        is_mine = worktree is None
        if worktree is None:
            worktree, patterns, folds = scope_of(patterns, worktree, cwd, os.environ)
        else:
            folds = _folds_at(cwd)
        if branch is None and is_mine:
            branch = branch_of(worktree_of(cwd)[1])
    return ClaimLease(
        task=task,
        room=room,
        worktree=worktree,
        paths=patterns,
        whole_worktree=terms.whole_worktree,
        folds_case=folds if terms.folds_case is None else terms.folds_case,
        pools=dict(pools or {}),
        mode=mode,
        ttl_ms=milliseconds(ttl, "a TTL"),
        wait_ms=wait_milliseconds(wait),
        priority=terms.priority,
        reentrant=not is_held if terms.reentrant is None else terms.reentrant,
        tied=is_held if terms.tied is None else terms.tied,
        preempt=terms.preempt,
        claimant=terms.claimant,
        note=terms.note,
        branch=branch,
    )


@lru_cache(maxsize=64)
def _folds_at(cwd: str) -> bool:
    """Whether the file system of a worktree that was named ignores case: taken to be that of the working directory."""
    return folds_case(worktree_of(cwd)[1])


async def claim(lifeline: Lifeline, command: ClaimLease, key: str | None, on_queued: Queued | None) -> replies.Lease:
    """Ask for a lease, and wait in line for as long as the claim says. One that was cancelled is given back."""
    call = _call(lifeline, command, lifeline.new_key() if key is None else key, on_queued)
    try:
        return await _answer(lifeline, call, command.wait_ms)
    except RequestTimeout:
        call.leftover = None  # its key may be repeated
        raise
    except asyncio.CancelledError:
        answer = call.arrived  # in the very step in which the caller was cancelled
        if answer is not None:
            assert call.leftover is not None, "every claim is given back when its caller is gone"
            call.leftover(answer)
        else:
            _leave_line(lifeline, call, command)
        raise


def _leave_line(lifeline: Lifeline, call: Call, command: ClaimLease) -> None:
    """The caller of a claim was cancelled: nobody is to wait in its place."""
    if call.is_left and call.place is not None:
        lifeline.leave_behind(_withdraw(lifeline, command, call.place), "synapse withdraw")


def _call(lifeline: Lifeline, command: ClaimLease, key: str, on_queued: Queued | None) -> Call:
    def give_back(frame: HubFrame) -> None:
        with suppress(msgspec.MsgspecError):  # nobody is left to tell
            lease = msgspec.json.decode(frame.body, type=replies.Lease)
            if lease.outcome != "renewed" and lease.live is not False:
                lifeline.leave_behind(_let_go(lifeline, lease), "synapse release")

    call = lifeline.new_call(command, key, leftover=give_back)
    call.on_queued = on_queued
    return call


async def _answer(lifeline: Lifeline, call: Call, wait_ms: int | None) -> replies.Lease:
    """The answer, however long the claim waits in line."""
    limit = math.inf if wait_ms is None else wait_ms / 1000 + lifeline.timeout
    return await lifeline.carry_out(call, replies.Lease, limit)


async def _release(lifeline: Lifeline, lease: replies.Lease) -> None:
    """Give back what nobody works under, while that matters. Raises `Rejected` when the hub says that it has ended."""
    command = ReleaseLease(task=lease.task, room=lease.room, epoch=lease.epoch)
    try:
        await lifeline.ask(command, replies.Released, key=lifeline.new_key(), timeout=lease.ttl_ms / 1000)
    except Rejected as refusal:
        if refusal.code in GONE:
            raise
    except SynapseError:
        return  # it lapses by itself


async def _withdraw(lifeline: Lifeline, command: ClaimLease, place: int) -> None:
    """Give a place up. When it was granted meanwhile, the grant is given back instead."""
    with suppress(SynapseError):
        await lifeline.ask(WithdrawClaim(task=command.task, room=command.room, place=place), replies.Withdrawn)


async def _let_go(lifeline: Lifeline, lease: replies.Lease) -> None:
    with suppress(Rejected):
        await _release(lifeline, lease)


class HeldLease:
    """A lease that is held while its block runs: `async with client.lease("T1", paths=["src/**"]) as lease`.

    lost: set when the lease is lost; the block is then being cancelled. Work that blocks the event loop for longer than
    the lease may go unrenewed loses it: use a thread.
    """

    def __init__(self, lifeline: Lifeline, command: ClaimLease, on_queued: Queued | None) -> None:
        self.lost = asyncio.Event()
        self._info: replies.Lease | None = None
        self._lifeline = lifeline
        self._command = command
        self._on_queued = on_queued
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._keeper: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._asking = asyncio.Lock()
        self._confirmed_s = -math.inf
        self._span_s = 0.0
        self._error: LeaseLost | None = None
        self._is_over = False
        self._is_given = False

    # What the block may ask.

    @property
    def info(self) -> replies.Lease:
        """The answer to the claim: scope, mode, TTL and the rest."""
        assert self._info is not None, "enter the lease first: `async with client.lease(...) as lease`"
        return self._info

    @property
    def task(self) -> str:
        """The task's id."""
        return self._command.task

    @property
    def epoch(self) -> int:
        """The number of this grant: whoever writes under the lease shows it (a fencing token)."""
        return self.info.epoch

    @property
    def checkpoint(self) -> replies.Checkpoint | None:
        """What the last holder of the task left, if anything. `data_of` decodes it."""
        return self.info.checkpoint or None

    @property
    def resume(self) -> Resume | None:
        """What a run that broke off left for whoever claims its task, if anything."""
        return self.info.resume or None

    @property
    def is_live(self) -> bool:
        """True while the lease is certainly held. By the clock, so that it may be asked from a thread."""
        return not self._is_over and self._error is None and self._loop.time() < self._believed_until_s

    def check(self) -> None:
        """Raises `LeaseLost` unless the lease is certainly held. May be called from a thread."""
        if self.is_live:
            return
        if self._error is not None:
            raise LeaseLost(self.task, self.epoch, self._error.reason)
        over = "handed_off" if self._is_given else "released"
        raise LeaseLost(self.task, self.epoch, over if self._is_over else UNCONFIRMED)

    async def save(
        self, data: object = None, artefacts: Iterable[Artefact] = (), *, idem_key: str | None = None
    ) -> replies.Lease:
        """Leave a checkpoint for the next holder, in place of the last one: what JSON can say, and files.

        idem_key: the one that the `OutcomeUnknown` of the same named, to repeat it. Raises `LeaseLost` when the hub
        says that the lease has ended; else as `Client.request`.
        """
        command = SaveCheckpoint(
            task=self.task, room=self.info.room, epoch=self.epoch, data=raw_of(data), artefacts=tuple(artefacts)
        )
        key = self._lifeline.new_key() if idem_key is None else idem_key
        try:
            return await self._lifeline.ask(command, replies.Lease, key=key)
        except Rejected as refusal:
            raise self._ended_by(refusal) from refusal

    async def hand_off(self, to: str, *, idem_key: str | None = None) -> replies.Lease:
        """Pass the lease on. With the outcome `handed_off` it is the other's: the block goes on without it. With
        `offered` (the other is offline) it stays here until it is accepted, and the end of the block voids the offer.

        idem_key: the one that the `OutcomeUnknown` of the same named, to repeat it. Raises `LeaseLost` when the hub
        says that the lease has ended; else as `Client.request`.
        """
        command = HandOffLease(task=self.task, to=to, room=self.info.room, epoch=self.epoch)
        key = self._lifeline.new_key() if idem_key is None else idem_key
        async with self._asking:  # a renewal that follows the hand-off would be told that the epoch is stale
            try:
                reply = await self._lifeline.ask(command, replies.Lease, key=key)
            except Rejected as refusal:
                raise self._ended_by(refusal) from refusal
            if reply.outcome == "handed_off":
                self._is_given = True
                self._stop()
        return reply

    def _ended_by(self, refusal: Rejected) -> SynapseError:
        if refusal.code not in GONE:
            return refusal
        self._lose(refusal.code)
        return self._error or LeaseLost(self.task, self.epoch, "handed_off" if self._is_given else "released")

    # Its life.

    async def __aenter__(self) -> Self:
        """Claim, and wait in line. Raises as `Client.claim`."""
        task = asyncio.current_task()
        assert self._task is None, "a lease is entered once"
        assert task is not None, "async with runs in a task"
        self._task, self._cancelling = task, task.cancelling()
        wait_ms = self._command.wait_ms
        deadline_s = math.inf if wait_ms is None else self._loop.time() + wait_ms / 1000
        command = self._command
        while not await self._acquire(command):
            left_ms = None if wait_ms is None else max(0, math.ceil((deadline_s - self._loop.time()) * 1000))
            command = msgspec.structs.replace(command, wait_ms=left_ms)
        self._keeper = self._loop.create_task(self._keep(), name="synapse lease")
        self._rearm()
        return self

    async def _acquire(self, command: ClaimLease) -> bool:
        """Claim once. False when the grant ended before it could be confirmed."""
        asked_s = self._loop.time()
        call = _call(self._lifeline, command, self._lifeline.new_key(), self._on_queued)
        call.heard, call.instead = self._stand, UNANSWERED
        is_held = is_known = False
        try:
            lease = await _answer(self._lifeline, call, command.wait_ms)
            is_held = await self._is_confirmed(lease, asked_s)
            is_known = True
        except asyncio.CancelledError:
            _leave_line(self._lifeline, call, command)
            raise
        finally:
            if not is_known and self._info is not None:  # cancelled, or the hub fell silent
                self._lifeline.leave_behind(_let_go(self._lifeline, self._info), "synapse release")
            if not is_held:
                self._forget()
        return is_held

    async def _is_confirmed(self, lease: replies.Lease, asked_s: float) -> bool:
        """True when the lease is held for some time yet. Who waited in line asked too long ago, and asks again."""
        spans_ms = [lease.ttl_ms, self._lifeline.limits.tie_grace_ms] if lease.tied else [lease.ttl_ms]
        self._span_s, self._confirmed_s = min(spans_ms) / 1000, asked_s
        if lease.live is False:
            return False
        if self._loop.time() >= self._renew_at_s:
            try:
                await self._confirm(self._lifeline.timeout)
            except Rejected as refusal:
                if refusal.code not in GONE:
                    raise
                return False
        return self._error is None

    def _stand(self, frame: HubFrame) -> None:
        """The grant is here; what the hub says next about its epoch is for this lease."""
        with suppress(msgspec.MsgspecError):  # whoever asked finds the same and says so
            self._info = msgspec.json.decode(frame.body, type=replies.Lease)
            self._lifeline.holders[self.epoch] = self._on_lost

    def _forget(self) -> None:
        """Not this grant."""
        self._error = None
        if self._info is not None:
            self._lifeline.holders.pop(self.epoch, None)
            self._info = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lease back, or raise `LeaseLost`."""
        keeper = self._keeper
        assert keeper is not None, "a lease that was entered has a keeper"
        self._stop()
        try:
            if self._error is not None:
                if self._error.reason == UNCONFIRMED:  # the hub may take it for held as long as its TTL says
                    self._lifeline.leave_behind(_let_go(self._lifeline, self.info), "synapse release")
                await self._raise_lost(self._error, error)
            elif not self._is_given:
                await self._give_back(error)
        finally:
            if not keeper.done():
                await asyncio.wait({keeper})

    async def _raise_lost(self, lost: LeaseLost, error: BaseException | None) -> None:
        """Take back the cancellation of the block; if it was the only one, say why it was cancelled."""
        assert self._task is not None
        is_cancelled_by_others = self._task.uncancel() > self._cancelling
        if not isinstance(error, asyncio.CancelledError) and not is_cancelled_by_others:
            with suppress(asyncio.CancelledError):  # the block ended before it was reached by its cancellation
                await asyncio.sleep(0)
        if error is None:
            raise lost
        if isinstance(error, asyncio.CancelledError):
            if not is_cancelled_by_others:
                raise lost from error
        elif error is not lost:
            error.add_note(str(lost))

    async def _give_back(self, error: BaseException | None) -> None:
        """Release, for a moment's wait at most. A cancellation of the wait does not stop the release."""
        ended: list[Rejected] = []

        async def release() -> None:
            try:
                await _release(self._lifeline, self.info)
            except Rejected as refusal:
                ended.append(refusal)

        errand = self._lifeline.leave_behind(release(), "synapse release")
        if errand is not None:
            await asyncio.wait({errand}, timeout=RELEASE_S)
        if ended and error is None:
            raise LeaseLost(self.task, self.epoch, ended[0].code) from ended[0]

    # Keeping it.

    @property
    def _renew_at_s(self) -> float:
        return self._confirmed_s + self._span_s / RENEWALS

    @property
    def _believed_until_s(self) -> float:
        return self._confirmed_s + self._span_s * BELIEF

    async def _keep(self) -> None:
        """Renew until the block ends or the hub says no."""
        try:
            while True:
                await asyncio.sleep(self._renew_at_s - self._loop.time())
                await self._confirm(math.inf)
                self._rearm()
        except Rejected as refusal:
            self._lose(refusal.code)
        except Disconnected:
            self._lose("disconnected")
        except SynapseError:
            self._lose(UNCONFIRMED)

    async def _confirm(self, limit: float) -> None:
        """Renew once; a tied lease is tied to the connection that carries it. Raises as `Lifeline.ask`."""
        command = RenewLease(task=self.task, room=self.info.room, epoch=self.epoch)
        async with self._asking:
            asked_s = self._loop.time()
            await self._lifeline.ask(command, replies.Lease, timeout=limit)
            self._confirmed_s = asked_s

    def _rearm(self) -> None:
        """Stop believing at the new time."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._believed_until_s, self._lose, UNCONFIRMED)

    def _on_lost(self, notice: LostNotice | None) -> None:
        """The hub says so; or (None) the client has ended."""
        self._lose("disconnected" if notice is None else notice.reason)

    def _lose(self, reason: str) -> None:
        """The lease has ended, or may have: cancel the block."""
        if self._error is not None or self._is_over:
            return
        self._error = LeaseLost(self.task, self.epoch, reason)
        if self._keeper is None:  # not entered yet
            return
        self.lost.set()
        self._stop()
        assert self._task is not None
        self._task.cancel()

    def _stop(self) -> None:
        """No more renewals, and nothing that the hub says about this epoch matters any more."""
        self._is_over = True
        self._lifeline.holders.pop(self.epoch, None)
        if self._timer is not None:
            self._timer.cancel()
        if self._keeper is not None and self._keeper is not asyncio.current_task():
            self._keeper.cancel()
