"""Long polls: taking from the inbox, and waiting for receipts and answers, in pieces that a cancelled caller may leave
behind.

The protocol has no way to call a long poll off. So a take whose caller was cancelled stays with the hub, and the next
take picks it up; what it brought meanwhile is handed to the next taker while its lend lasts. Without that, a message
lent to nobody would be out of sight until its lend runs out.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from synapse.client.bodies import require_seconds
from synapse.client.calls import Call, RequestTimeout
from synapse.client.deliveries import LEND_MARGIN
from synapse.client.lifeline import Lifeline
from synapse.errors import Rejected
from synapse.protocol.codec import HubFrame
from synapse.protocol.commands import TakeInbox, WaitReceipt
from synapse.protocol.notices import Lent
from synapse.protocol.replies import Receipt, Taken

PIECE_S: Final = 20.0
"""A longer wait is asked for in pieces, so that what a cancelled caller leaves behind goes away by itself."""

_T = TypeVar("_T")


async def in_pieces(lifeline: Lifeline, wait: float | None, ask: Callable[[float, float], Awaitable[_T]]) -> _T:
    """Wait up to `wait` seconds, a piece at a time. None and infinity: without end, also while no hub is there.

    ask: gets the seconds of a piece and those in which its answer must be there, and raises `Rejected(deadline)` when
    the piece brought nothing. Raises what it raises: `Rejected(deadline)` at the end, `RequestTimeout` when that comes
    without a hub.
    """
    require_seconds(wait, "a wait")
    loop = asyncio.get_running_loop()
    deadline_s = math.inf if wait is None else loop.time() + wait
    while True:
        remaining_s = max(deadline_s - loop.time(), 0.0)
        piece_s = min(remaining_s, PIECE_S, lifeline.limits.wait_ms_max / 1000)
        try:
            return await ask(piece_s, math.inf if deadline_s == math.inf else piece_s + lifeline.timeout)
        except Rejected as refusal:
            if refusal.code != "deadline" or remaining_s <= piece_s:
                raise
        except RequestTimeout:
            if not (remaining_s and lifeline.is_up):  # else a restart of the hub has begun this piece anew
                raise


@dataclass(slots=True)
class _Leftover:
    taken: Taken
    directed_only: bool
    generation: int
    until_s: float


class Takes:
    """All takes of one client."""

    def __init__(self, lifeline: Lifeline) -> None:
        self._lifeline = lifeline
        self._left: list[Call] = []
        self._leftovers: deque[_Leftover] = deque()

    async def take(self, wait: float | None, *, directed_only: bool) -> Taken | None:
        """The most urgent unacked message, the oldest of these, or None when none came within `wait` seconds (None: no
        end)."""

        async def ask(piece_s: float, limit_s: float) -> Taken:
            leftover = self._pick(directed_only=directed_only)
            if leftover is not None:
                return leftover
            loop = asyncio.get_running_loop()
            end_s = loop.time() + piece_s
            left = self._take_up(directed_only=directed_only) if piece_s else None
            if left is not None:
                elapsed = asyncio.timeout(piece_s)  # it may stay with the hub for longer than this piece, or end before
                try:
                    async with elapsed:
                        return await self._wait(left, limit_s)
                except Rejected as refusal:
                    if refusal.code != "deadline":
                        raise
                except TimeoutError:
                    if not elapsed.expired():
                        raise
            rest_s = max(end_s - loop.time(), 0.0)
            return await self._wait(self._new(rest_s, directed_only=directed_only), limit_s)

        return await _or_none(in_pieces(self._lifeline, wait, ask))

    def keep(self, lent: Lent, until_s: float) -> None:
        """A feed was lent this, and nobody asks it any more: the next take gets it."""
        taken = Taken(message=lent.message, lends=lent.lends, lend_ms=lent.lend_ms, cursor=lent.message.cursor)
        is_directed = lent.message.kind == "direct" and lent.message.to != ("all",)
        self._leftovers.append(_Leftover(taken, is_directed, self._lifeline.generation, until_s))

    async def _wait(self, call: Call, limit: float) -> Taken:
        try:
            return await self._lifeline.carry_out(call, Taken, limit)
        except asyncio.CancelledError:
            answer = call.arrived  # in the very step in which the caller was cancelled
            if answer is not None:
                assert call.leftover is not None, "every take is kept when its caller is gone"
                call.leftover(answer)
            raise
        finally:
            if call.is_left:
                self._left.append(call)

    def _new(self, wait: float, *, directed_only: bool) -> Call:
        def keep(frame: HubFrame) -> None:
            taken = msgspec.json.decode(frame.body, type=Taken)
            until_s = asyncio.get_running_loop().time() + taken.lend_ms / 1000 * LEND_MARGIN
            self._leftovers.append(_Leftover(taken, directed_only, self._lifeline.generation, until_s))

        command = TakeInbox(wait_ms=math.ceil(wait * 1000), directed_only=directed_only)
        return self._lifeline.new_call(command, leftover=keep)

    def _take_up(self, *, directed_only: bool) -> Call | None:
        """A take of the same kind that is still with the hub and waited for by nobody."""
        self._left = [call for call in self._left if call.is_left and call.is_out]
        for index, call in enumerate(self._left):
            command = call.command
            if isinstance(command, TakeInbox) and command.directed_only == directed_only:
                del self._left[index]
                return call
        return None

    def _pick(self, *, directed_only: bool) -> Taken | None:
        """A message that a cancelled take left over, while it is lent to this connection."""
        now_s, generation = asyncio.get_running_loop().time(), self._lifeline.generation
        kept = (item for item in self._leftovers if item.generation == generation and item.until_s > now_s)
        self._leftovers = deque(kept)
        for item in self._leftovers:
            if item.directed_only or not directed_only:
                self._leftovers.remove(item)
                return item.taken
        return None


async def wait_receipt(lifeline: Lifeline, message_id: str, wait: float | None) -> Receipt | None:
    """Wait until a recipient acked; None when none did within `wait` seconds (None: no end)."""

    async def ask(piece_s: float, limit_s: float) -> Receipt:
        command = WaitReceipt(id=message_id, wait_ms=math.ceil(piece_s * 1000))
        return await lifeline.ask(command, Receipt, timeout=limit_s)

    return await _or_none(in_pieces(lifeline, wait, ask))


async def _or_none(waiting: Awaitable[_T]) -> _T | None:
    """None where nothing came in time."""
    try:
        return await waiting
    except Rejected as refusal:
        if refusal.code != "deadline":
            raise
        return None
