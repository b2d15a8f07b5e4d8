"""What retention can be given for, and what each event is of: written down a second time, event by event.

An event goes when all that it is of may go: something said in a channel that mentions somebody is of the channel and of
all messages; a letter about a lane is of sessions and of messages.
"""

from typing import Final

from synapse.core.delivery_events import DeliveryEvent, MessagesDisowned
from synapse.core.events import Event, LeaseHandedOff, LeaseOffered, MessagePosted, MessageSent
from synapse.core.file_events import FileEvent
from synapse.core.lane_events import LaneAccepted, LaneEnded, LaneMessaged, LaneOffered
from synapse.core.plan_events import TaskDeclared, TaskMoved, TaskNoted, TaskRemoved, TasksReady
from synapse.core.question_events import QuestionEvent
from synapse.core.session_events import (
    SessionCheckpointed,
    SessionEnded,
    SessionOffered,
    SessionResumed,
    SessionStarted,
    SessionUpdated,
)
from synapse.core.value_events import ValueDeleted, ValueExpired, ValuePut, ValuesCleared, ValueTransferred

MESSAGES, LEASES, VALUES, QUESTIONS = "messages", "leases", "values", "questions"
PLAN, SESSIONS, FILES = "plan", "sessions", "files"
KINDS: Final = (MESSAGES, LEASES, VALUES, QUESTIONS, PLAN, SESSIONS, FILES)

_VALUE_EVENTS: Final = (ValuePut, ValueDeleted, ValueExpired, ValueTransferred, ValuesCleared)
_PLAN_EVENTS: Final = (TaskDeclared, TaskMoved, TasksReady, TaskNoted, TaskRemoved)
_RUN_EVENTS: Final = (SessionUpdated, SessionCheckpointed, SessionEnded, SessionOffered, SessionResumed)
_LANE_EVENTS: Final = (LaneAccepted, LaneEnded, LaneMessaged)


def kinds_of(event: Event) -> frozenset[str]:
    """Of which kinds, and of which channel, an event is; of none: it is never dropped."""
    found: frozenset[str] = frozenset()
    match event:
        case MessagePosted():
            found = frozenset({event.address, MESSAGES} if event.mentions else {event.address})
        case MessageSent():
            found = frozenset({MESSAGES})
        case LeaseOffered():
            found = frozenset({LEASES, MESSAGES})
        case LeaseHandedOff():
            found = frozenset({LEASES} if event.delivery is None else {LEASES, MESSAGES})
        case _ if isinstance(event, DeliveryEvent):
            found = frozenset({MESSAGES})
        case _ if isinstance(event, FileEvent):
            found = frozenset({FILES})
        case _ if isinstance(event, _VALUE_EVENTS):
            found = frozenset({VALUES})
        case _ if isinstance(event, _PLAN_EVENTS):
            found = frozenset({PLAN})
        case _ if _mail_of(event) is not None:
            kind = QUESTIONS if isinstance(event, QuestionEvent) else SESSIONS
            found = frozenset({kind, MESSAGES} if _mail_of(event) else {kind})
        case _ if type(event).__name__.startswith("Lease"):
            found = frozenset({LEASES})
        case _:
            pass
    return found


def _mail_of(event: Event) -> list[str] | None:
    """Whose inboxes an event about a question, session or lane came into; None for any other event."""
    if not isinstance(event, (QuestionEvent, SessionStarted, LaneOffered, *_RUN_EVENTS, *_LANE_EVENTS)):
        return None
    return [f"@{it.name}" for it in getattr(event, "deliveries", ())]


def streams_of(seq: int, event: Event) -> list[str]:
    """By what an event at `seq` is read."""
    mail = _mail_of(event) or []
    match event:
        case MessagePosted():
            return [event.address, *(f"@{it.name}" for it in event.mentions)]
        case MessageSent():
            return [f"@{it.name}" for it in event.to]
        case LeaseHandedOff() if event.delivery is not None:
            return [LEASES, f"@{event.delivery.name}"]
        case LeaseOffered():
            return [LEASES, f"@{event.to.name}"]
        case _ if isinstance(event, _VALUE_EVENTS):
            return [f"values {event.room_name}"]
        case _ if isinstance(event, _PLAN_EVENTS):
            return [f"plan {event.room_name}"]
        case _ if isinstance(event, QuestionEvent):
            return [f"questions {event.room_name}", *mail]
        case SessionStarted():
            return [f"session s{seq}"]
        case SessionCheckpointed() if event.lane is not None:
            return [f"session s{event.session}", f"lane l{event.lane}"]
        case _ if isinstance(event, _RUN_EVENTS):
            return [f"session s{event.session}", *mail]
        case LaneOffered():
            return [f"lane l{seq}", f"session s{event.session}", *mail]
        case _ if isinstance(event, _LANE_EVENTS):
            return [f"lane l{event.lane}", *mail]
        case MessagesDisowned():
            return []
        case _ if type(event).__name__.startswith("Lease"):
            return [LEASES]
        case _:
            return []
