"""What others are told of an event: followers of its index keys, and the inboxes that it reaches."""

from collections.abc import Container, Mapping

from synapse.core import (
    lanes,
    loops,
    members,
    messages,
    resuming,
    values,
)
from synapse.core.delivery_events import RECEIPTS
from synapse.core.events import (
    LEASES,
    Event,
    LeaseGranted,
    LeaseHandedOff,
    LeaseOffered,
    LeaseReleased,
    MessageHeld,
    MessagePosted,
    MessageSent,
    Recorded,
    keys_of,
)
from synapse.core.held_events import HeldDropped, HeldReleased
from synapse.core.lane_events import LaneEvent
from synapse.core.lease_events import (
    room_of_lease,
    shown_arrival,
    shown_change,
    shown_usual,
)
from synapse.core.mail import Letter, Mail, shown_letter
from synapse.core.plan import shown_plan_change
from synapse.core.plan_events import PlanEvent
from synapse.core.question_answers import question_letter, shown_question_change
from synapse.core.question_events import QuestionClosing, QuestionEvent
from synapse.core.receipts import shown_receipts
from synapse.core.room_events import MemberEvent
from synapse.core.session_events import SessionOffered
from synapse.core.value_events import ValueEvent
from synapse.protocol.notices import Message, Notice


def announce(
    journal_id: str, recorded: Recorded, keys: Container[str], apart: Mapping[int, bool]
) -> list[tuple[str, Notice]]:
    """What followers of these index keys are told of an event: the key, and a notice. apart: ids of rooms whose leases
    are followed under a key of their own; True where that is the only one, because the room is private."""
    event = recorded.event
    told: list[tuple[str, Notice]] = []
    if type(event) is LeaseGranted or type(event) is LeaseReleased:
        room = event.room if type(event) is LeaseReleased else event.ask.room
        if room in apart:
            told += _lease_notices(keys, apart, room, shown_usual(journal_id, recorded, event))
        elif LEASES in keys:
            told.append((LEASES, shown_usual(journal_id, recorded, event)))
    elif type(event) is MessagePosted:
        message: Message | None = None
        for key in keys_of(recorded.seq, event) if event.mentions else (f"ch/{event.channel}",):
            if key in keys:
                message = messages.shown_posted(journal_id, recorded, event) if message is None else message
                told.append((key, message))
    elif isinstance(event, MessageSent):
        for delivery in event.to:
            key = f"in/{delivery.agent}"
            if key in keys:
                told.append((key, messages.shown_sent(journal_id, recorded, event, delivery)))
    elif type(event) in RECEIPTS:
        told += shown_receipts(journal_id, recorded, event, keys)  # type: ignore[arg-type]  # RECEIPTS holds members of it
    elif isinstance(event, ValueEvent):
        key = f"kv/{event.room}"
        if key in keys:
            told.append((key, values.shown_value_change(journal_id, recorded, event)))
    elif isinstance(event, PlanEvent):
        key = f"pl/{event.room}"
        if key in keys:
            told.append((key, shown_plan_change(journal_id, recorded, event)))
    else:
        place = room_of_lease(event)
        change = None if place is None else shown_change(journal_id, recorded)
        if place is not None and change is not None:
            told += _lease_notices(keys, apart, place, change)
        if isinstance(event, QuestionEvent) and f"qu/{event.room}" in keys:
            told.append((f"qu/{event.room}", shown_question_change(journal_id, recorded, event)))
        for agent in arrivals(event):
            key = f"in/{agent}"
            arrival = _shown_mail(journal_id, recorded, agent) if key in keys else None
            if arrival is not None:
                told.append((key, arrival))
    return told


def _lease_notices(
    keys: Container[str], apart: Mapping[int, bool], room: int, change: Notice
) -> list[tuple[str, Notice]]:
    """What followers of leases are told of one in this room; apart: as of `announce`."""
    found: list[tuple[str, Notice]] = [] if apart.get(room) or LEASES not in keys else [(LEASES, change)]
    own = f"{LEASES}/{room}"
    return [*found, (own, change)] if room in apart and own in keys else found


def _letter(recorded: Recorded, event: Mail) -> Letter:
    """What an event that is mail says, by the area it is of."""
    if isinstance(event, MemberEvent):
        return members.member_letter(event)
    if isinstance(event, QuestionClosing):
        return question_letter(event, recorded.actor)
    if isinstance(event, LaneEvent):
        return lanes.lane_letter(recorded, event)
    if isinstance(event, SessionOffered):
        return resuming.offer_letter(event)
    if isinstance(event, MessageHeld | HeldDropped | HeldReleased):
        return loops.held_letter(event, recorded.seq, recorded.actor)
    raise AssertionError(f"{type(event).__name__} is mail of no area")


def _shown_mail(journal_id: str, recorded: Recorded, agent: int) -> Message | None:
    """What is in an agent's inbox of an event that is no message; None for any other event."""
    event = recorded.event
    if isinstance(event, Mail):
        for delivery in event.deliveries:
            if delivery.agent == agent:
                return shown_letter(journal_id, recorded, delivery, _letter(recorded, event))
        return None
    return shown_arrival(journal_id, recorded, agent)


def shown_to(journal_id: str, recorded: Recorded, agent: int | None) -> Message | None:
    """An event as `agent` may see it as a message; None when it is none, or not for it."""
    message = messages.shown_to(journal_id, recorded, agent)
    if message is None and agent is not None:
        return _shown_mail(journal_id, recorded, agent)
    return message


def arrivals(event: Event) -> list[int]:
    """The agents into whose inbox an event put something."""
    match event:
        case MessagePosted():
            return [delivery.agent for delivery in event.mentions]
        case MessageSent():
            return [delivery.agent for delivery in event.to]
        case LeaseHandedOff():
            return [] if event.delivery is None else [event.delivery.agent]
        case LeaseOffered():
            return [event.to.agent]
        case Mail():
            return [delivery.agent for delivery in event.deliveries]
        case _:
            return []
