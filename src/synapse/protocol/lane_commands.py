"""What may be asked about lanes; `commands` has them in its union. A lane hands work over from one agent to another."""

from typing import Final, TypeAlias

import msgspec

from synapse.protocol.terms import Int

LANE_STATES: Final = ("offered", "accepted", "declined", "timed_out", "closed")


def _null() -> msgspec.Raw:
    return msgspec.Raw(b"null")


class OfferLane(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Offer work to another agent, out of a session of mine (null: my latest open one).

    context: what it needs to know, any JSON. task: of the session's room; null: the session's own. timeout_ms: for so
    long it may accept.
    """

    to: str
    context: msgspec.Raw = msgspec.field(default_factory=_null)
    session: str | None = None
    note: str | None = None
    task: str | None = None
    timeout_ms: Int = 15 * 60 * 1000


class AcceptLane(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take the work over; the sender's lease on the lane's task comes with it."""

    lane: str


class DeclineLane(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Leave it with the sender."""

    lane: str
    reason: str | None = None


class CloseLane(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The hand-over is over, or the offer is withdrawn. For either side, or an operator."""

    lane: str
    reason: str | None = None


class SendLane(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message to the other side of a lane, kept with it."""

    lane: str
    body: msgspec.Raw


class ShowLane(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A lane with its context, and one page of its messages and checkpoints, newest first. after: the `next` of the
    page before."""

    lane: str
    limit: Int = 20
    after: str | None = None


class ListLanes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page of lanes, the latest first. sender, receiver, state, session, room: only those."""

    sender: str | None = None
    receiver: str | None = None
    state: str | None = None
    session: str | None = None
    room: str | None = None
    limit: Int = 200
    after: str | None = None


LaneCommand: TypeAlias = OfferLane | AcceptLane | DeclineLane | CloseLane | SendLane | ShowLane | ListLanes

LANE_COMMANDS: Final[dict[str, type[LaneCommand]]] = {
    "lane.offer": OfferLane,
    "lane.accept": AcceptLane,
    "lane.decline": DeclineLane,
    "lane.close": CloseLane,
    "lane.send": SendLane,
    "lane.show": ShowLane,
    "lane.list": ListLanes,
}
"""Command class by wire type."""
