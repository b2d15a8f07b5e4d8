"""What happens to lanes; `events` has them in its union. Each is mail to the other side."""

from typing import Final, TypeAlias, get_args

import msgspec

from synapse.core.idem import Idem
from synapse.core.mail import Mail


class LaneOffered(Mail, frozen=True, kw_only=True, omit_defaults=True):
    """Work is offered to another agent; the lane's id is the seq of this event. sender_id, receiver_id: agent ids."""

    session: int
    room: int
    room_name: str
    sender: str
    sender_id: int
    receiver: str
    receiver_id: int
    expires_at_ms: int
    context: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    task: str | None = None
    note: str | None = None
    idem: Idem | None = None


class LaneAccepted(Mail, frozen=True, kw_only=True, omit_defaults=True):
    """The receiver took it over. epoch: of the lease that came with it, by an event of the same transaction."""

    lane: int
    session: int
    room: int
    room_name: str
    sender: str
    receiver: str
    expires_at_ms: int
    task: str | None = None
    epoch: int | None = None
    idem: Idem | None = None


class LaneEnded(Mail, frozen=True, kw_only=True, omit_defaults=True):
    """An offer was declined or timed out, or a lane was closed. epoch: of the lease it had handed over. dropped: lanes
    that ended long ago and leave the state with this, because there are so many."""

    lane: int
    session: int
    room: int
    room_name: str
    sender: str
    receiver: str
    expires_at_ms: int
    state: str
    task: str | None = None
    epoch: int | None = None
    reason: str | None = None
    dropped: tuple[int, ...] = ()
    idem: Idem | None = None


class LaneMessaged(Mail, frozen=True, kw_only=True, omit_defaults=True):
    """One side wrote to the other. n: the first message of a lane is 1."""

    lane: int
    room: int
    room_name: str
    sender: str
    n: int
    body: msgspec.Raw
    idem: Idem | None = None


LaneEvent: TypeAlias = LaneOffered | LaneAccepted | LaneEnded | LaneMessaged

LANE_EVENTS: Final = frozenset(get_args(LaneEvent))


def lane_keys(seq: int, event: LaneEvent) -> tuple[str, ...]:
    """The index keys of an event of a lane, its own first."""
    arrivals = tuple(f"in/{delivery.agent}" for delivery in event.deliveries)
    if isinstance(event, LaneOffered):
        return (f"la/{seq}", f"se/{event.session}", *arrivals)
    return (f"la/{event.lane}", *arrivals)
