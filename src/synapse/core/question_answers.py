"""What is answered about questions: the reply of a mutation from its events, and questions to the state."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from synapse.core.asking import QuestionMutation
from synapse.core.by import By
from synapse.core.claims import none_of
from synapse.core.events import Recorded
from synapse.core.leases import NO_LEASES, RANK
from synapse.core.mail import Letter
from synapse.core.question_events import (
    QuestionAnswered,
    QuestionAsked,
    QuestionClosing,
    QuestionDismissed,
    QuestionEvent,
    QuestionExpired,
    QuestionWithdrawn,
)
from synapse.core.questions import STILL_OPEN, Question, ending, require_question
from synapse.core.refusals import in_room
from synapse.core.rooms import may_see, require_room
from synapse.core.sessions import number_of
from synapse.protocol.cursor import cursor_of, message_id, question_id
from synapse.protocol.names import require_agent_name, require_segment, require_task
from synapse.protocol.notices import QuestionChanged
from synapse.protocol.question_commands import AskQuestion, ListQuestions, ShowQuestion
from synapse.protocol.question_replies import QuestionClosed, QuestionInfo
from synapse.protocol.replies import Reply

if TYPE_CHECKING:
    from synapse.core.state import State

STATUSES: Final = (STILL_OPEN, "answered", "dismissed", "expired", "withdrawn")
EVERY: Final = "all"
_CLOSINGS: Final = (QuestionAnswered, QuestionDismissed, QuestionExpired, QuestionWithdrawn)
_CHANGES: Final[dict[type[QuestionEvent], str]] = {
    QuestionAsked: "asked",
    QuestionAnswered: "answered",
    QuestionDismissed: "dismissed",
    QuestionExpired: "expired",
    QuestionWithdrawn: "withdrawn",
}


def answer_question(
    state: "State", command: QuestionMutation, by: By, events: Sequence[Recorded], cursor: str
) -> Reply:
    """The questions' part of `answers.answer`."""
    if isinstance(command, AskQuestion):
        return _asked(events, cursor)
    if not events:  # it was closed so before
        return _closed_before(require_question(state, command.id, by), cursor)
    closed = events[0]
    event = closed.event
    assert isinstance(event, _CLOSINGS), "the first event is the end of the question"
    status, outcome, answer, reason, via = ending(event)
    return QuestionClosed(
        id=question_id(event.question),
        room=event.room_name,
        title=event.title,
        status=status,
        outcome=outcome,
        asker=event.asker,
        by=closed.actor,
        closed_at_ms=closed.at_ms,
        told=tuple(delivery.name for delivery in event.deliveries),
        task=event.task,
        answer=answer,
        reason=reason,
        via=via,
        cursor=cursor,
    )


def _asked(events: Sequence[Recorded], cursor: str) -> QuestionInfo:
    """The question as it was asked; a repeat says the same again, whatever became of it."""
    asked = events[0]
    event = asked.event
    assert isinstance(event, QuestionAsked)
    parks = next((getattr(item.event, "epoch", None) for item in events[1:]), None)
    return QuestionInfo(
        id=question_id(asked.seq),
        room=event.room_name,
        title=event.title,
        status=STILL_OPEN,
        priority=event.priority,
        asker=event.asker,
        asked_at_ms=asked.at_ms,
        question=event.question,
        context=event.context,
        options=event.options,
        free=event.free,
        default=event.default,
        on_deadline=event.on_deadline,
        deadline_at_ms=event.deadline_at_ms,
        tags=event.tags,
        session=event.session,
        task=event.task,
        parks=parks,
        cursor=cursor,
    )


def _closed_before(question: Question, cursor: str) -> QuestionClosed:
    assert question.outcome is not None
    assert question.by is not None
    assert question.closed_at_ms is not None
    return QuestionClosed(
        id=question_id(question.id),
        room=question.room_name,
        title=question.title,
        status=question.status,
        outcome=question.outcome,
        asker=question.asker,
        by=question.by,
        closed_at_ms=question.closed_at_ms,
        told=question.told,
        task=question.task,
        answer=question.answer,
        reason=question.reason,
        via=question.via,
        already=True,
        cursor=cursor,
    )


def look_question(state: "State", query: ShowQuestion, by: By, cursor: str) -> QuestionInfo:
    """One question. Raises `Rejected`: `bad_request`, `not_found`."""
    return question_info(state, require_question(state, query.id, by), cursor=cursor)


def question_info(state: "State", question: Question, cursor: str | None = None) -> QuestionInfo:
    """A question as it is told: in a list, or with `cursor` as an answer of its own."""
    return QuestionInfo(
        id=question_id(question.id),
        room=question.room_name,
        title=question.title,
        status=question.status,
        priority=question.priority,
        asker=question.asker,
        asked_at_ms=question.asked_at_ms,
        question=question.question,
        context=UNSET if cursor is None else question.context,
        options=question.options,
        free=question.free,
        default=question.default,
        on_deadline=question.on_deadline,
        deadline_at_ms=question.deadline_at_ms,
        tags=question.tags,
        session=question.session,
        task=question.task,
        parks=_parks(state, question),
        outcome=question.outcome,
        answer=question.answer,
        reason=question.reason,
        by=question.by,
        via=question.via,
        closed_at_ms=question.closed_at_ms,
        letter=None if question.letter is None else message_id(question.letter),
        cursor=UNSET if cursor is None else cursor,
    )


def _parks(state: "State", question: Question) -> int | None:
    """The epoch of the lease that stands still for it."""
    if question.key is None or question.status != STILL_OPEN:
        return None
    held = state.leases.of_task.get(question.key, NO_LEASES).values()
    return next((lease.epoch for lease in held if question.id in lease.questions), None)


def questions_to_list(state: "State", query: ListQuestions, by: By) -> tuple[list[str], int]:
    """The keys that a list goes through, in order, and how many questions are open. Raises `Rejected`."""
    if query.status not in (*STATUSES, EVERY):
        raise none_of("status", query.status, (*STATUSES, EVERY))
    if query.asker is not None:
        require_agent_name(query.asker)
    if query.task is not None:
        require_task(query.task)
    if query.tag is not None:
        require_segment(query.tag, "tag")
    if query.session is not None:
        number_of(query.session, "s", "session")
    rooms = {room.id for room in state.rooms.by_id.values() if may_see(room, by)}
    if query.room is not None:
        rooms = {require_room(state, query.room, by).id}
    questions = state.questions
    found = list(questions.open.values()) if query.status in (STILL_OPEN, EVERY) else []
    found += questions.closed.values() if query.status != STILL_OPEN else ()
    count = sum(len(questions.of_room.get(room, ())) for room in rooms)
    keys = [_list_key(question) for question in found if question.room in rooms and _fits(question, query)]
    return sorted(keys), count


def _list_key(question: Question) -> str:
    """What sorts a question: the urgent ones first, then the oldest. The id of the question stands at its end."""
    return f"{len(RANK) - RANK[question.priority]}q{question.id:016}"


def listed_question(state: "State", key: str) -> QuestionInfo:
    """The question of a key of a list."""
    question = state.questions.find(int(key.partition("q")[2]))
    assert question is not None, "a list is made in one turn"
    return question_info(state, question)


def _fits(question: Question, query: ListQuestions) -> bool:
    return (
        query.status in (question.status, EVERY)
        and query.asker in (None, question.asker)
        and query.task in (None, question.task)
        and query.session in (None, question.session)
        and (query.tag is None or query.tag in question.tags)
    )


# How it is told.


def shown_question_change(journal_id: str, recorded: Recorded, event: QuestionEvent) -> QuestionChanged:
    """A change as followers of a room's questions see it."""
    asked = event if isinstance(event, QuestionAsked) else None
    outcome = answer = reason = via = None
    if not isinstance(event, QuestionAsked):
        _, outcome, answer, reason, via = ending(event)
    return QuestionChanged(
        change=_CHANGES[type(event)],
        id=question_id(recorded.seq if isinstance(event, QuestionAsked) else event.question),
        room=event.room_name,
        title=event.title,
        asker=event.asker,
        priority=None if asked is None else asked.priority,
        task=event.task,
        session=event.session,
        deadline_at_ms=None if asked is None else asked.deadline_at_ms,
        outcome=outcome,
        answer=answer,
        reason=reason,
        via=via,
        by=recorded.actor,
        at_ms=recorded.at_ms,
        cursor=cursor_of(journal_id, recorded.seq),
    )


def question_letter(event: QuestionClosing, by: str) -> Letter:
    """The end of a question as a message in the inbox of who waits for it."""
    status, outcome, answer, reason, _ = ending(event)
    known = question_id(event.question)
    body: dict[str, object] = {
        "type": f"question.{status}",
        "question": known,
        "room": event.room_name,
        "title": event.title,
        "asker": event.asker,
        "outcome": outcome,
        "by": by,
    }
    more = {"answer": answer, "reason": reason, "task": event.task, "session": event.session}
    body |= {name: text for name, text in more.items() if text is not None}
    shown = f"question show {known}" if event.task is None else f"task show {event.task}{in_room(event.room_name)}"
    body["next"] = f"synapse {shown}"
    return Letter(f"{known} {status}: {event.title}", body)
