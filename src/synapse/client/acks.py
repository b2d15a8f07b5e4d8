"""Acks that are asked for in one step of the loop go to the hub as one: one request, one event, one answer."""

import asyncio

from synapse.client.lifeline import Lifeline
from synapse.errors import Rejected
from synapse.protocol.commands import AckInbox
from synapse.protocol.replies import Acked


class _Batch:
    """Ids that are acked together, and who joined: no answer means that each asks again, for itself."""

    __slots__ = ("ids", "joined")

    def __init__(self, ids: tuple[str, ...]) -> None:
        self.ids = list(ids)
        self.joined: list[tuple[tuple[str, ...], asyncio.Future[Acked | None]]] = []

    def tell(self, acked: Acked | None) -> None:
        """Give everybody who joined its part of the answer."""
        went = frozenset(() if acked is None else acked.acked)
        for ids, answer in self.joined:
            if not answer.done():  # its caller was cancelled
                answer.set_result(None if acked is None else _part(acked, ids, went))


class Acks:
    """All acks by id of one client."""

    def __init__(self, lifeline: Lifeline) -> None:
        self._lifeline = lifeline
        self._gathering: _Batch | None = None

    async def ack(self, ids: tuple[str, ...]) -> Acked:
        """Ack these; the answer is about them alone. Raises as `Lifeline.ask`."""
        batch = self._gathering
        if batch is None:
            return await self._lead(ids)
        if len(batch.ids) + len(ids) > self._lifeline.limits.acks_max:
            return await self._lifeline.ask(AckInbox(ids=ids), Acked)
        answer: asyncio.Future[Acked | None] = asyncio.get_running_loop().create_future()
        batch.ids += ids
        batch.joined.append((ids, answer))
        acked = await answer
        return await self._lifeline.ask(AckInbox(ids=ids), Acked) if acked is None else acked

    async def _lead(self, ids: tuple[str, ...]) -> Acked:
        """Ask for whoever joins before the loop comes round. What goes wrong with all is no answer for the others."""
        batch = self._gathering = _Batch(ids)
        acked: Acked | None = None
        try:
            try:
                await asyncio.sleep(0)
            finally:
                self._gathering = None
            try:
                acked = await self._lifeline.ask(AckInbox(ids=tuple(batch.ids)), Acked)
            except Rejected:
                if not batch.joined:
                    raise
        finally:
            batch.tell(acked)
        if acked is None:
            return await self._lifeline.ask(AckInbox(ids=ids), Acked)
        return _part(acked, ids, frozenset(acked.acked)) if batch.joined else acked


def _part(acked: Acked, ids: tuple[str, ...], went: frozenset[str]) -> Acked:
    """What an answer says of some ids. went: those that left the inbox."""
    mine = tuple(dict.fromkeys(ids))
    return Acked(
        acked=tuple([one for one in mine if one in went]),
        already=tuple([one for one in mine if one not in went]),
        unacked=acked.unacked,
        cursor=acked.cursor,
    )
