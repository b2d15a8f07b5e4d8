"""Acks that are asked for in one step of the loop go to the hub as one: one request, one event, one answer."""

import asyncio

import msgspec

from synapse.client.lifeline import Lifeline
from synapse.errors import Rejected
from synapse.protocol.commands import AckInbox
from synapse.protocol.replies import Acked


class _Batch:
    """Ids that are acked together. done: who joined waits for it; no answer means that each asks again."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.done: asyncio.Future[Acked | None] | None = None


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
        if batch.done is None:
            batch.done = asyncio.get_running_loop().create_future()
        batch.ids += ids
        acked = await asyncio.shield(batch.done)
        return await self._lifeline.ask(AckInbox(ids=ids), Acked) if acked is None else _part(acked, ids)

    async def _lead(self, ids: tuple[str, ...]) -> Acked:
        """Ask for whoever joins before the loop comes round. A refusal, or any other end, is this one's own."""
        batch = self._gathering = _Batch()
        batch.ids += ids
        acked: Acked | None = None
        try:
            try:
                await asyncio.sleep(0)
            finally:
                self._gathering = None
            try:
                acked = await self._lifeline.ask(AckInbox(ids=tuple(batch.ids)), Acked)
            except Rejected:
                if batch.done is None:
                    raise
        finally:
            if batch.done is not None:
                batch.done.set_result(acked)
        if acked is None:
            return await self._lifeline.ask(AckInbox(ids=ids), Acked)
        return acked if batch.done is None else _part(acked, ids)


def _part(acked: Acked, ids: tuple[str, ...]) -> Acked:
    """What an answer says of some ids."""
    mine = frozenset(ids)
    return msgspec.structs.replace(
        acked,
        acked=tuple([one for one in acked.acked if one in mine]),
        already=tuple([one for one in acked.already if one in mine]),
    )
