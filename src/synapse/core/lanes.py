"""Lanes: work that one agent hands to another, out of a session, with its context, messages and checkpoints.

    offered -> accepted | declined | timed_out | closed;  accepted, declined, timed_out -> closed

Only the receiver accepts or declines, time lets an offer pass, either side closes; one of a private room is closed with
the membership of a side. What is said, and the context, are
in the journal under the key of the lane; the state knows who, what and how far. The time of an offer is a date: nobody
accepts what has passed because a tick was late.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

import msgspec

from synapse.core.agents import require_known
from synapse.core.bounds import require_chars
from synapse.core.by import By, Rules
from synapse.core.claims import hand_over
from synapse.core.events import Event, Recorded
from synapse.core.lane_events import LaneAccepted, LaneEnded, LaneEvent, LaneMessaged, LaneOffered
from synapse.core.leases import NO_LEASES, Lease
from synapse.core.mail import Delivery, Letter, deliveries_to
from synapse.core.rooms import Room, insiders, may_see, require_insider
from synapse.core.sessions import number_of, own_session, session_id
from synapse.errors import Rejected
from synapse.protocol.lane_commands import AcceptLane, CloseLane, DeclineLane, OfferLane, SendLane
from synapse.protocol.limits import Limits
from synapse.protocol.names import require_task
from synapse.protocol.terms import ADMIN

if TYPE_CHECKING:
    from synapse.core.state import State

OFFERED: Final = "offered"
ACCEPTED: Final = "accepted"
DECLINED: Final = "declined"
TIMED_OUT: Final = "timed_out"
CLOSED: Final = "closed"
TRANSITIONS: Final[dict[str, tuple[str, ...]]] = {
    OFFERED: (ACCEPTED, DECLINED, TIMED_OUT, CLOSED),
    ACCEPTED: (CLOSED,),
    DECLINED: (CLOSED,),
    TIMED_OUT: (CLOSED,),
    CLOSED: (),
}
"""What may follow each state."""
OPEN: Final = frozenset({OFFERED, ACCEPTED})
TIMED_OUT_MAX: Final = 200
"""Offers that time out in one tick; the others follow in the next, and nobody accepts them."""
FORGOTTEN: Final = "the agent was forgotten"
LEFT: Final = "left"
"""Why the lanes of who left a private room have ended."""
_VOID_MIN: Final = 1_024


@dataclass(slots=True)
class Lane:
    """One lane. id: seq of its offer. sender, receiver: agent ids, with the names they had. ended: seq of the event by
    which it was declined, timed out or closed first; 0 before. epoch: of the lease that acceptance handed over."""

    id: int
    session: int
    room: int
    sender: int
    sender_name: str
    receiver: int
    receiver_name: str
    state: str
    task: str | None
    note: str | None
    offered_at_ms: int
    expires_at_ms: int
    moved_at_ms: int
    moved_by: str
    reason: str | None = None
    epoch: int | None = None
    messages: int = 0
    checkpoints: int = 0
    ended: int = 0

    @property
    def is_open(self) -> bool:
        """True while it is offered or accepted."""
        return self.state in OPEN

    def state_at(self, at_ms: int) -> str:
        """Its state as it is told: an offer whose time has passed has timed out, also before the tick says so."""
        return TIMED_OUT if self.state == OFFERED and self.expires_at_ms <= at_ms else self.state


@dataclass(slots=True)
class Lanes:
    """All lanes that the state keeps. of_agent: the open ones, by either side. ended: the longest ago first."""

    by_id: dict[int, Lane] = field(default_factory=dict)
    of_agent: dict[int, dict[int, None]] = field(default_factory=dict)
    ended: dict[int, None] = field(default_factory=dict)
    _expiring: list[tuple[int, int]] = field(default_factory=list)

    def put(self, lane: Lane) -> None:
        """File a lane. They come in the order of their offers."""
        self.by_id[lane.id] = lane
        if lane.ended:
            self.ended[lane.id] = None
        else:
            for agent in (lane.sender, lane.receiver):
                self.of_agent.setdefault(agent, {})[lane.id] = None
        if lane.state == OFFERED:
            if len(self._expiring) > _VOID_MIN + 2 * len(self.by_id):
                self._expiring = [entry for entry in self._expiring if self._is_offered(entry[1])]
                heapify(self._expiring)
            heappush(self._expiring, (lane.expires_at_ms, lane.id))

    def end(self, lane: Lane, seq: int) -> None:
        """A lane is not open any more."""
        if lane.ended:
            return
        lane.ended = seq
        self.ended[lane.id] = None
        for agent in (lane.sender, lane.receiver):
            mine = self.of_agent[agent]
            del mine[lane.id]
            if not mine:
                del self.of_agent[agent]

    def drop(self, lane_id: int) -> None:
        """A lane leaves the state."""
        lane = self.by_id[lane_id]
        self.end(lane, 0)
        del self.by_id[lane_id]
        del self.ended[lane_id]

    def drop_room(self, room: int) -> None:
        """A room is no more."""
        for gone in [lane.id for lane in self.by_id.values() if lane.room == room]:
            self.drop(gone)

    def sort_ends(self) -> None:
        """Bring those that have ended into the order of their ends, after all were filed by their offers."""
        self.ended = dict.fromkeys(sorted(self.ended, key=lambda at: self.by_id[at].ended))

    def due(self, at_ms: int, most: int) -> Iterator[Lane]:
        """Offers whose time has passed, earliest first, at most so many; each is told once."""
        while self._expiring and self._expiring[0][0] <= at_ms and most > 0:
            _, lane_id = heappop(self._expiring)
            if self._is_offered(lane_id):
                most -= 1
                yield self.by_id[lane_id]

    def _is_offered(self, lane_id: int) -> bool:
        lane = self.by_id.get(lane_id)
        return lane is not None and lane.state == OFFERED

    def open_of(self, agent: int) -> list[Lane]:
        """The open lanes of an agent, as sender or receiver, in the order of their offers."""
        return [self.by_id[at] for at in self.of_agent.get(agent, ())]


def lane_id(seq: int) -> str:
    """The id of the lane that was offered at `seq`, as it is told."""
    return f"l{seq}"


def find_lane(state: "State", text: str, by: By) -> Lane:
    """The lane of that id, if who asks may see its room. Raises `Rejected`: `bad_request`, `not_found`."""
    lane = state.lanes.by_id.get(number_of(text, "l", "lane"))
    if lane is None or not may_see(state.rooms.by_id[lane.room], by):
        raise Rejected(
            "not_found",
            f"no lane {text}, or it ended long ago: synapse lane list shows what there is",
            {"lane": text},
        )
    return lane


def side_of(state: "State", text: str, by: By) -> Lane:
    """The lane, of which who asks is one side, or an operator. Raises `Rejected`: as `find_lane`, `not_permitted`."""
    lane = find_lane(state, text, by)
    if not by.has_role(ADMIN) and by.require_agent() not in (lane.sender, lane.receiver):
        raise Rejected(
            "not_permitted",
            f"{text} is between {lane.sender_name} and {lane.receiver_name}",
            {"lane": text, "sender": lane.sender_name, "receiver": lane.receiver_name},
        )
    return lane


LaneMutation: TypeAlias = OfferLane | AcceptLane | DeclineLane | CloseLane | SendLane


def decide_lane(state: "State", rules: Rules, command: LaneMutation, by: By) -> list[Event]:
    """The lanes' part of `kernel.decide`."""
    match command:
        case OfferLane():
            return decide_offer(state, rules, command, by)
        case AcceptLane():
            return decide_accept(state, rules, command, by)
        case DeclineLane():
            return decide_decline(state, rules, command, by)
        case CloseLane():
            return decide_close(state, rules, command, by)
        case SendLane():
            return decide_message(state, rules, command, by)
        case _:
            assert_never(command)


def decide_offer(state: "State", rules: Rules, command: OfferLane, by: By) -> list[Event]:
    """A new lane. Raises `Rejected`: `not_found`, `not_permitted`, `illegal_transition`, `bad_name`, `bad_request`,
    `too_large`, `limit`."""
    limits, agent = rules.limits, by.require_agent()
    session = own_session(state, command.session, by)
    to = require_known(state, command.to, by)
    if to.id == agent:
        raise Rejected("bad_request", "a lane leads to another agent - at `$.body.to`", {"path": "$.body.to"})
    room = state.rooms.by_id[session.room]
    require_insider(room, to)
    if not limits.lane_timeout_ms_min <= command.timeout_ms <= limits.lane_timeout_ms_max:
        raise Rejected(
            "bad_request",
            f"a timeout of {command.timeout_ms} ms; {limits.lane_timeout_ms_min} to {limits.lane_timeout_ms_max} - at "
            "`$.body.timeout_ms`",
            {"path": "$.body.timeout_ms", "min": limits.lane_timeout_ms_min, "max": limits.lane_timeout_ms_max},
        )
    if command.note is not None:
        require_chars("note", command.note, limits.note_chars_max)
    _require_small(limits, "context", command.context)
    _require_inbox(state, limits, to.id)
    mine = state.lanes.open_of(agent)
    if len(mine) >= limits.lanes_per_agent_max:
        raise _too_many(by.actor, mine, limits)
    theirs = state.lanes.open_of(to.id)
    if len(theirs) >= limits.lanes_per_agent_max:
        raise _too_many(to.name, theirs, limits)
    return [
        LaneOffered(
            deliveries=deliveries_to(state, (to.id,)),
            session=session.id,
            room=room.id,
            room_name=room.name,
            sender=by.actor,
            sender_id=agent,
            receiver=to.name,
            receiver_id=to.id,
            expires_at_ms=by.at_ms + command.timeout_ms,
            context=command.context,
            task=session.task if command.task is None else require_task(command.task),
            note=command.note,
        )
    ]


def _too_many(name: str, lanes: Sequence[Lane], limits: Limits) -> Rejected:
    return Rejected(
        "limit",
        f"{name} has {len(lanes)} open lanes, as many as allowed (lanes_per_agent_max): close one with synapse lane "
        f"close {lane_id(lanes[0].id)}",
        {"limit": "lanes_per_agent_max", "value": limits.lanes_per_agent_max, "agent": name},
    )


def _require_inbox(state: "State", limits: Limits, agent: int) -> None:
    """What is sent is refused where there is no room, as a message is; what follows from a step never is."""
    if len(state.agents.inboxes[agent].entries) >= limits.inbox_unacked_max:
        name = state.agents.by_id[agent].name
        raise Rejected(
            "inbox_full",
            f"the inbox of {name} holds as many unacked messages as it may: it acks some first",
            {"agent": name, "inbox_unacked_max": limits.inbox_unacked_max},
        )


def _require_small(limits: Limits, what: str, data: msgspec.Raw) -> None:
    size = len(bytes(data))
    if size > limits.lane_bytes_max:
        raise Rejected(
            "too_large",
            f"the {what} has {size} bytes; at most {limits.lane_bytes_max}: keep a reference to a file",
            {"bytes": size, "lane_bytes_max": limits.lane_bytes_max},
        )


def _require_step(lane: Lane, to: str, at_ms: int) -> None:
    """Raises `Rejected(illegal_transition)` with the state, since when and by whom."""
    now = lane.state_at(at_ms)
    if to in TRANSITIONS[now]:
        return
    since_ms = lane.expires_at_ms if now != lane.state else lane.moved_at_ms
    who = "hub" if now != lane.state else lane.moved_by
    what = "its time passed at" if now == TIMED_OUT else f"it is {now} since"
    raise Rejected(
        "illegal_transition",
        f"{lane_id(lane.id)} cannot become {to}: {what} {since_ms} ms, by {who}",
        {"lane": lane_id(lane.id), "state": now, "at_ms": since_ms, "by": who, "legal": list(TRANSITIONS[now])},
    )


def _require_receiver(lane: Lane, by: By, what: str) -> None:
    if by.require_agent() != lane.receiver:
        raise Rejected(
            "not_permitted",
            f"{lane_id(lane.id)} is offered to {lane.receiver_name}, who alone can {what} it",
            {"lane": lane_id(lane.id), "receiver": lane.receiver_name},
        )


def decide_accept(state: "State", rules: Rules, command: AcceptLane, by: By) -> list[Event]:
    """The receiver takes over, with the sender's lease on the task if it has one: no moment is between the two.

    Raises `Rejected`: `not_found`, `not_permitted`, `illegal_transition`, and what a hand-off is refused with.
    """
    lane = side_of(state, command.lane, by)
    _require_receiver(lane, by, "accept")
    _require_step(lane, ACCEPTED, by.at_ms)
    lease, handed = _lease_of_sender(state, lane), list[Event]()
    if lease is not None:
        handed = hand_over(state, rules, lease, state.agents.by_id[lane.receiver], None, by)
    accepted = LaneAccepted(
        deliveries=_deliveries(state, lane, (lane.sender,)),
        lane=lane.id,
        session=lane.session,
        room=lane.room,
        room_name=state.rooms.by_id[lane.room].name,
        sender=lane.sender_name,
        receiver=lane.receiver_name,
        expires_at_ms=lane.expires_at_ms,
        task=lane.task,
        epoch=state.seq + 1 if handed else None,
    )
    return [*handed, accepted]


def _lease_of_sender(state: "State", lane: Lane) -> Lease | None:
    if lane.task is None:
        return None
    found = state.leases.of_task.get((lane.room, lane.task), NO_LEASES)
    return next((lease for lease in reversed(found.values()) if lease.ask.agent == lane.sender), None)


def decide_decline(state: "State", rules: Rules, command: DeclineLane, by: By) -> list[Event]:
    """The receiver leaves it. Raises `Rejected`: `not_found`, `not_permitted`, `illegal_transition`."""
    lane = side_of(state, command.lane, by)
    _require_receiver(lane, by, "decline")
    _require_step(lane, DECLINED, by.at_ms)
    _require_reason(rules, command.reason)
    return _ended(state, rules, [lane], DECLINED, command.reason, lambda _: (lane.sender,))


def decide_close(state: "State", rules: Rules, command: CloseLane, by: By) -> list[Event]:
    """The end of a lane. Raises `Rejected`: `not_found`, `not_permitted`, `illegal_transition`."""
    lane = side_of(state, command.lane, by)
    _require_step(lane, CLOSED, by.at_ms)
    _require_reason(rules, command.reason)
    others = tuple(side for side in (lane.sender, lane.receiver) if side != by.agent)
    return _ended(state, rules, [lane], CLOSED, command.reason, lambda _: others)


def _require_reason(rules: Rules, reason: str | None) -> None:
    if reason is not None:
        require_chars("reason", reason, rules.limits.note_chars_max)


def decide_message(state: "State", rules: Rules, command: SendLane, by: By) -> list[Event]:
    """A message to the other side, while the lane is open. Raises `Rejected`: `not_found`, `not_permitted`,
    `illegal_transition`, `too_large`."""
    agent, lane = by.require_agent(), side_of(state, command.lane, by)
    if agent not in (lane.sender, lane.receiver):
        raise Rejected("not_permitted", f"{command.lane} is between others: only they write in it")
    require_open(lane, by.at_ms, "takes no messages")
    _require_small(rules.limits, "message", command.body)
    other = _other_side(lane, agent)
    if other in state.agents.by_id:
        require_insider(state.rooms.by_id[lane.room], state.agents.by_id[other])
    _require_inbox(state, rules.limits, other)
    return [
        LaneMessaged(
            deliveries=deliveries_to(state, (other,)),
            lane=lane.id,
            room=lane.room,
            room_name=state.rooms.by_id[lane.room].name,
            sender=by.actor,
            n=lane.messages + 1,
            body=command.body,
        )
    ]


def require_open(lane: Lane, at_ms: int, what: str) -> None:
    """Raises `Rejected(illegal_transition)` when the lane has ended. what: it does not do any more."""
    now = lane.state_at(at_ms)
    if now not in OPEN:
        raise Rejected(
            "illegal_transition",
            f"{lane_id(lane.id)} {what}: it is {now} since {lane.moved_at_ms} ms, by {lane.moved_by}",
            {"lane": lane_id(lane.id), "state": now, "at_ms": lane.moved_at_ms, "by": lane.moved_by},
        )


# What time and operators do.


def decide_timed_out(state: "State", rules: Rules, at_ms: int) -> list[Event]:
    """Offers whose time has passed. What is told here is not told again: it must be carried out."""
    late = list(state.lanes.due(at_ms, TIMED_OUT_MAX))
    return _ended(state, rules, late, TIMED_OUT, None, lambda lane: (lane.sender,))


def decide_forget_lanes(state: "State", rules: Rules, agent: int) -> list[Event]:
    """The open lanes of a forgotten agent end; the other sides are told."""
    gone = state.lanes.open_of(agent)
    return _ended(state, rules, gone, CLOSED, FORGOTTEN, lambda lane: (_other_side(lane, agent),))


def decide_leave_lanes(state: "State", rules: Rules, room: Room, agent: int, reason: str) -> list[Event]:
    """The open lanes, in a private room, of who is no member of it from now on end; the other sides are told."""
    gone = [lane for lane in state.lanes.open_of(agent) if lane.room == room.id]
    return _ended(state, rules, gone, CLOSED, reason, lambda lane: (_other_side(lane, agent),)) if room.private else []


def _other_side(lane: Lane, agent: int) -> int:
    return lane.receiver if lane.sender == agent else lane.sender


def _ended(
    state: "State",
    rules: Rules,
    ending: Sequence[Lane],
    how: str,
    reason: str | None,
    told: Callable[[Lane], tuple[int, ...]],
) -> list[Event]:
    """The ends of these lanes; the last one names what leaves the state because so many have ended."""
    new = sum(not lane.ended for lane in ending)
    dropped = tuple(_surplus(state, rules.limits, new, {lane.id for lane in ending}))
    return [
        LaneEnded(
            deliveries=_deliveries(state, lane, told(lane)),
            lane=lane.id,
            session=lane.session,
            room=lane.room,
            room_name=state.rooms.by_id[lane.room].name,
            sender=lane.sender_name,
            receiver=lane.receiver_name,
            expires_at_ms=lane.expires_at_ms,
            state=how,
            task=lane.task,
            epoch=lane.epoch,
            reason=reason,
            dropped=dropped if lane is ending[-1] else (),
        )
        for lane in ending
    ]


def _deliveries(state: "State", lane: Lane, agents: tuple[int, ...]) -> tuple[Delivery, ...]:
    """What is told of a lane of a private room goes to its members only."""
    return deliveries_to(state, insiders(state.rooms.by_id[lane.room], agents))


def _surplus(state: "State", limits: Limits, new: int, ending: set[int]) -> Iterable[int]:
    """Which of those that have ended are too many, the longest ago first."""
    over = len(state.lanes.ended) + new - limits.lanes_ended_max
    for at in state.lanes.ended:
        if over <= 0:
            return
        if at not in ending:
            over -= 1
            yield at


# What `apply` does.


def apply_lane(state: "State", recorded: Recorded, event: LaneEvent) -> None:
    """The lanes' part of `kernel.apply`."""
    lanes = state.lanes
    match event:
        case LaneOffered():
            lanes.put(
                Lane(
                    id=recorded.seq,
                    session=event.session,
                    room=event.room,
                    sender=event.sender_id,
                    sender_name=event.sender,
                    receiver=event.receiver_id,
                    receiver_name=event.receiver,
                    state=OFFERED,
                    task=event.task,
                    note=event.note,
                    offered_at_ms=recorded.at_ms,
                    expires_at_ms=event.expires_at_ms,
                    moved_at_ms=recorded.at_ms,
                    moved_by=recorded.actor,
                )
            )
        case LaneAccepted():
            lane = lanes.by_id[event.lane]
            lane.state, lane.epoch = ACCEPTED, event.epoch
            lane.moved_at_ms, lane.moved_by = recorded.at_ms, recorded.actor
        case LaneEnded():
            lane = lanes.by_id[event.lane]
            lane.state, lane.reason = event.state, event.reason
            lane.moved_at_ms, lane.moved_by = recorded.at_ms, recorded.actor
            lanes.end(lane, recorded.seq)
            for gone in event.dropped:
                lanes.drop(gone)
        case LaneMessaged():
            lanes.by_id[event.lane].messages = event.n
        case _:
            assert_never(event)


# What the other side is told.


def lane_letter(recorded: Recorded, event: LaneEvent) -> Letter:
    """What the message in the other side's inbox says."""
    match event:
        case LaneOffered():
            lane = lane_id(recorded.seq)
            about = event.note or event.task or session_id(event.session)
            body: dict[str, object] = {
                "type": "lane.offered",
                "lane": lane,
                "session": session_id(event.session),
                "room": event.room_name,
                "by": event.sender,
                "task": event.task,
                "note": event.note,
                "context": event.context,
                "expires_at_ms": event.expires_at_ms,
                "next": f"synapse lane accept {lane}",
            }
            return Letter(f"{event.sender} offers you {about}", body, thread=lane)
        case LaneAccepted():
            body = {
                "type": "lane.accepted",
                "lane": lane_id(event.lane),
                "session": session_id(event.session),
                "room": event.room_name,
                "by": event.receiver,
                "task": event.task,
                "epoch": event.epoch,
                "next": f"synapse lane show {lane_id(event.lane)}",
            }
            return Letter(f"{event.receiver} accepted {lane_id(event.lane)}", body, thread=lane_id(event.lane))
        case LaneEnded():
            lane = lane_id(event.lane)
            body = {
                "type": f"lane.{event.state}",
                "lane": lane,
                "session": session_id(event.session),
                "room": event.room_name,
                "by": recorded.actor,
                "task": event.task,
                "reason": event.reason,
                "next": f"synapse lane show {lane}",
            }
            verb = {DECLINED: "declined", CLOSED: "closed"}.get(event.state)
            words = f"{lane} timed out" if verb is None else f"{recorded.actor} {verb} {lane}"
            return Letter(words, body, "normal" if event.state == CLOSED else "high", thread=lane)
        case LaneMessaged():
            lane = lane_id(event.lane)
            body = {
                "type": "lane.message",
                "lane": lane,
                "room": event.room_name,
                "by": event.sender,
                "n": event.n,
                "body": event.body,
                "next": f"synapse lane send {lane} TEXT",
            }
            return Letter(f"{event.sender} in {lane}", body, "normal", thread=lane)
        case _:
            assert_never(event)
