"""What is answered about lanes: the reply of a mutation from its events, and questions to the state."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from synapse.core.agents import require_known
from synapse.core.by import By
from synapse.core.claims import none_of
from synapse.core.events import Recorded
from synapse.core.lane_events import LaneAccepted, LaneEnded, LaneMessaged, LaneOffered
from synapse.core.lanes import ACCEPTED, OFFERED, Lane, find_lane, lane_id
from synapse.core.refusals import in_room
from synapse.core.rooms import may_see, require_room
from synapse.core.sessions import find_session, number_of, session_id
from synapse.protocol.cursor import message_id
from synapse.protocol.lane_commands import LANE_STATES, ListLanes
from synapse.protocol.lane_replies import LaneInfo, LaneMoved, LaneSent
from synapse.protocol.names import require_agent_name
from synapse.protocol.replies import Reply
from synapse.protocol.terms import INT_MAX

if TYPE_CHECKING:
    from synapse.core.state import State


def answer_lane(events: Sequence[Recorded], cursor: str) -> Reply:
    """The lanes' part of `answers.answer`. The step of the lane comes last: what it hands over comes before it."""
    recorded = next(item for item in events if isinstance(item.event, _OF_LANES))
    event = recorded.event
    if isinstance(event, LaneMessaged):
        to = tuple(delivery.name for delivery in event.deliveries)
        return LaneSent(lane=lane_id(event.lane), id=message_id(recorded.seq), n=event.n, to=to, cursor=cursor)
    assert isinstance(event, LaneOffered | LaneAccepted | LaneEnded)
    return LaneMoved(
        lane=lane_id(recorded.seq if isinstance(event, LaneOffered) else event.lane),
        session=session_id(event.session),
        room=event.room_name,
        sender=event.sender,
        receiver=event.receiver,
        state=event.state if isinstance(event, LaneEnded) else _STATES[type(event)],
        task=event.task,
        expires_at_ms=event.expires_at_ms,
        epoch=None if isinstance(event, LaneOffered) else event.epoch,
        next=_next(recorded),
        cursor=cursor,
    )


_OF_LANES = (LaneOffered, LaneAccepted, LaneEnded, LaneMessaged)
_STATES = {LaneOffered: OFFERED, LaneAccepted: ACCEPTED}


def _next(recorded: Recorded) -> str | None:
    """The line that goes on from here."""
    event = recorded.event
    if isinstance(event, LaneOffered):
        return "synapse wait"
    if isinstance(event, LaneAccepted):
        needs_claim = event.task is not None and event.epoch is None
        claim = f"synapse claim {event.task}{in_room(event.room_name)}"
        return claim if needs_claim else f"synapse lane show {lane_id(event.lane)}"
    return None


def lane_info(state: "State", lane: Lane, by: By) -> LaneInfo:
    """A lane as lists tell it."""
    now = lane.state_at(by.at_ms)
    is_late = now != lane.state
    return LaneInfo(
        lane=lane_id(lane.id),
        session=session_id(lane.session),
        room=state.rooms.by_id[lane.room].name,
        sender=lane.sender_name,
        receiver=lane.receiver_name,
        state=now,
        task=lane.task,
        note=lane.note,
        offered_at_ms=lane.offered_at_ms,
        expires_at_ms=lane.expires_at_ms,
        moved_at_ms=lane.expires_at_ms if is_late else lane.moved_at_ms,
        moved_by="hub" if is_late else lane.moved_by,
        reason=lane.reason,
        epoch=lane.epoch,
        messages=lane.messages,
        checkpoints=lane.checkpoints,
    )


def lanes_to_list(state: "State", query: ListLanes, by: By) -> list[str]:
    """What a list goes through, as texts that sort with the latest lane first. Raises `Rejected`."""
    room = None if query.room is None else require_room(state, query.room, by).id
    session = None if query.session is None else number_of(query.session, "s", "session")
    for name in (query.sender, query.receiver):
        if name is not None:
            require_agent_name(name)
    if query.state is not None and query.state not in LANE_STATES:
        raise none_of("state", query.state, LANE_STATES)
    found = sorted(
        f"{INT_MAX - lane.id:016d}"
        for lane in state.lanes.by_id.values()
        if may_see(state.rooms.by_id[lane.room], by)
        and (room is None or lane.room == room)
        and (session is None or lane.session == session)
        and query.sender in (None, lane.sender_name)
        and query.receiver in (None, lane.receiver_name)
        and query.state in (None, lane.state_at(by.at_ms))
    )
    if not found:
        _require_there(state, query, by)
    return found


def _require_there(state: "State", query: ListLanes, by: By) -> None:
    """Of what is not there a list would say that it has no lanes. Raises `Rejected(not_found)`."""
    if query.session is not None:
        find_session(state, query.session, by)
    for name in (query.sender, query.receiver):
        if name is not None:
            require_known(state, name, by)


def listed_lane(state: "State", name: str, by: By) -> LaneInfo:
    """One of `lanes_to_list`."""
    return lane_info(state, state.lanes.by_id[INT_MAX - int(name)], by)


def shown_lane(state: "State", text: str, by: By) -> tuple[int, LaneInfo]:
    """The id of a lane, and how it is. Raises `Rejected`: `bad_request`, `not_found`."""
    lane = find_lane(state, text, by)
    return lane.id, lane_info(state, lane, by)
