"""The client's half of lanes: work that one agent hands to another."""

from synapse.client.asking import Asking
from synapse.client.bodies import milliseconds, raw_of
from synapse.protocol import lane_commands
from synapse.protocol.lane_replies import LaneInfo, LaneMoved, LaneSent, LaneShown, LanesPage


class WorkLanes(Asking):
    """Lanes to and from me, and those of others: a part of `Client`. Offers come as messages into the inbox."""

    async def offer_lane(
        self,
        to: str,
        context: object = None,
        *,
        note: str | None = None,
        task: str | None = None,
        within: float = 15 * 60.0,
        session: str | None = None,
        idem_key: str | None = None,
    ) -> LaneMoved:
        """Offer work out of a session of mine (None: my latest open one) to an agent, which may accept `within` so many
        seconds. context: what it needs to know, as JSON can say it. task: else that of the session.

        Raises `Rejected`: `not_found`, `bad_request`, `too_large`, `limit`, `inbox_full`.
        """
        command = lane_commands.OfferLane(
            to=to,
            context=raw_of(context),
            session=session,
            note=note,
            task=task,
            timeout_ms=milliseconds(within, "a time to accept"),
        )
        return await self.request(command, LaneMoved, idem_key=idem_key)

    async def accept_lane(self, lane: str, *, idem_key: str | None = None) -> LaneMoved:
        """Take the work over. `epoch` of the answer is that of the sender's lease on the task, which is mine then.

        Raises `Rejected`: `illegal_transition` (since when, and by whom), `not_permitted`, `not_found`.
        """
        return await self.request(lane_commands.AcceptLane(lane=lane), LaneMoved, idem_key=idem_key)

    async def decline_lane(self, lane: str, reason: str | None = None, *, idem_key: str | None = None) -> LaneMoved:
        """Leave the work with the sender, which is told why. Raises as `accept_lane`."""
        command = lane_commands.DeclineLane(lane=lane, reason=reason)
        return await self.request(command, LaneMoved, idem_key=idem_key)

    async def close_lane(self, lane: str, reason: str | None = None, *, idem_key: str | None = None) -> LaneMoved:
        """The hand-over is over, or the offer is withdrawn. Raises as `accept_lane`."""
        command = lane_commands.CloseLane(lane=lane, reason=reason)
        return await self.request(command, LaneMoved, idem_key=idem_key)

    async def send_to_lane(self, lane: str, body: object, *, idem_key: str | None = None) -> LaneSent:
        """Write to the other side of an open lane: what JSON can say. Raises as `accept_lane`, and `too_large`."""
        command = lane_commands.SendLane(lane=lane, body=raw_of(body))
        return await self.request(command, LaneSent, idem_key=idem_key)

    async def lane(self, lane: str, *, limit: int = 20, after: str | None = None) -> LaneShown:
        """A lane with its context, and one page of what was said and kept in it, newest first: at most `limit`. after:
        the `next` of the page before. Raises `Rejected(not_found)`."""
        return await self.request(lane_commands.ShowLane(lane=lane, limit=limit, after=after), LaneShown)

    async def lanes(
        self,
        *,
        sender: str | None = None,
        receiver: str | None = None,
        state: str | None = None,
        session: str | None = None,
        room: str | None = None,
    ) -> tuple[LaneInfo, ...]:
        """Lanes of all rooms, or of one, the latest first. state: offered, accepted, declined, timed_out or closed. All
        pages."""
        pages = self._pages(
            lambda at: lane_commands.ListLanes(
                sender=sender, receiver=receiver, state=state, session=session, room=room, limit=self._page, after=at
            ),
            LanesPage,
        )
        return tuple([lane async for page in pages for lane in page.lanes])
