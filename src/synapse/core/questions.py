"""Questions to people: asked by agents, answered by who has the human role, closed once.

    open -> answered (by a person, or at the deadline by its default), dismissed, expired, withdrawn

Deadlines are dates. `asking` decides; here is what is known of questions, and what their events do to it.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar, assert_never

import msgspec

from synapse.core.by import By
from synapse.core.events import Recorded
from synapse.core.leases import NO_LEASES, TaskKey
from synapse.core.question_events import (
    QuestionAnswered,
    QuestionAsked,
    QuestionClosing,
    QuestionDismissed,
    QuestionEvent,
    QuestionExpired,
    QuestionWithdrawn,
)
from synapse.core.rooms import may_see
from synapse.errors import Rejected
from synapse.protocol.cursor import seq_of_question

if TYPE_CHECKING:
    from synapse.core.state import State

_Key = TypeVar("_Key")

STILL_OPEN: Final = "open"
DEFAULT: Final = "default"
KEPT_MAX: Final = 5_000
KEPT_BYTES_MAX: Final = 16 * 1024 * 1024
"""Closed questions stay in memory as long as they are among the last so many, and so many bytes."""
QUESTION_BYTES: Final = 512
"""What a question counts for beside its texts."""


@dataclass(slots=True)
class Question:
    """One question. id: the seq of its event. moved: as in its event. letter: the seq of the event that closed it."""

    id: int
    room: int
    room_name: str
    title: str
    asker: str
    agent: int
    asked_at_ms: int
    question: str
    context: msgspec.Raw
    options: tuple[str, ...]
    free: bool
    default: str | None
    on_deadline: str
    deadline_at_ms: int | None
    priority: str
    tags: tuple[str, ...]
    session: str | None
    task: str | None
    moved: bool
    status: str = STILL_OPEN
    outcome: str | None = None
    answer: str | None = None
    reason: str | None = None
    by: str | None = None
    via: str | None = None
    closed_at_ms: int | None = None
    letter: int | None = None
    told: tuple[str, ...] = ()

    @property
    def key(self) -> TaskKey | None:
        """Room and id of the task that waits for the answer."""
        return None if self.task is None else (self.room, self.task)

    @property
    def size(self) -> int:
        """Bytes it counts for."""
        texts = sum(map(len, (self.title, self.question, self.answer or "", self.reason or "", *self.options)))
        return QUESTION_BYTES + texts + len(bytes(self.context))


@dataclass(slots=True)
class Questions:
    """All open questions, and the last ones that were closed, oldest first, both by id. of_room, of_agent, of_task,
    of_session: the open ones. bytes, kept_bytes: of the open and of the closed ones. deadlines: of open ones, in order,
    with ids."""

    open: dict[int, Question] = field(default_factory=dict)
    closed: dict[int, Question] = field(default_factory=dict)
    of_room: dict[int, dict[int, None]] = field(default_factory=dict)
    of_agent: dict[int, dict[int, None]] = field(default_factory=dict)
    of_task: dict[TaskKey, dict[int, None]] = field(default_factory=dict)
    of_session: dict[str, dict[int, None]] = field(default_factory=dict)
    bytes: int = 0
    kept_bytes: int = 0
    deadlines: list[tuple[int, int]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many there are, open or kept."""
        return len(self.open) + len(self.closed)

    def find(self, question: int) -> Question | None:
        """The question, open or closed."""
        return self.open.get(question) or self.closed.get(question)

    def add(self, question: Question) -> None:
        """A question is open."""
        self.open[question.id] = question
        self.of_room.setdefault(question.room, {})[question.id] = None
        self.of_agent.setdefault(question.agent, {})[question.id] = None
        if question.key is not None:
            self.of_task.setdefault(question.key, {})[question.id] = None
        if question.session is not None:
            self.of_session.setdefault(question.session, {})[question.id] = None
        self.bytes += question.size
        if question.deadline_at_ms is not None:
            insort(self.deadlines, (question.deadline_at_ms, question.id))

    def close(self, question: Question) -> None:
        """It is open no more. Its size must not have changed yet."""
        del self.open[question.id]
        _drop(self.of_room, question.room, question.id)
        _drop(self.of_agent, question.agent, question.id)
        if question.key is not None:
            _drop(self.of_task, question.key, question.id)
        if question.session is not None:
            _drop(self.of_session, question.session, question.id)
        self.bytes -= question.size
        if question.deadline_at_ms is not None:
            del self.deadlines[bisect_left(self.deadlines, (question.deadline_at_ms, question.id))]

    def keep(self, question: Question) -> None:
        """Remember a closed question, and let the oldest of them go when they are too many."""
        self.closed[question.id] = question
        self.kept_bytes += question.size
        while len(self.closed) > KEPT_MAX or self.kept_bytes > KEPT_BYTES_MAX:
            self._let_go(next(iter(self.closed)))

    def drop_room(self, room: int) -> None:
        """A room is no more; none of its questions is open."""
        assert room not in self.of_room, "a room with open questions is not deleted"
        for question in [question.id for question in self.closed.values() if question.room == room]:
            self._let_go(question)

    def _let_go(self, question: int) -> None:
        self.kept_bytes -= self.closed.pop(question).size


def _drop(table: dict[_Key, dict[int, None]], key: _Key, question: int) -> None:
    inner = table[key]
    del inner[question]
    if not inner:
        del table[key]


def require_question(state: "State", text: str, by: By) -> Question:
    """The question of that id, if who asks may see its room. Raises `Rejected`: `bad_request`, `not_found`."""
    found = state.questions.find(seq_of_question(text))
    room = None if found is None else state.rooms.by_id.get(found.room)
    if found is None or room is None or not may_see(room, by):
        raise Rejected(
            "not_found",
            f"no question {text} (of those that are closed the last {KEPT_MAX} are kept): synapse questions --all "
            "shows what there is",
            {"id": text},
        )
    return found


# What `apply` does.


def apply_question(state: "State", recorded: Recorded, event: QuestionEvent) -> None:
    """The questions' part of `kernel.apply`."""
    if isinstance(event, QuestionAsked):
        state.questions.add(
            Question(
                id=recorded.seq,
                room=event.room,
                room_name=event.room_name,
                title=event.title,
                asker=event.asker,
                agent=event.agent,
                asked_at_ms=recorded.at_ms,
                question=event.question,
                context=event.context,
                options=event.options,
                free=event.free,
                default=event.default,
                on_deadline=event.on_deadline,
                deadline_at_ms=event.deadline_at_ms,
                priority=event.priority,
                tags=event.tags,
                session=event.session,
                task=event.task,
                moved=event.moved,
            )
        )
        return
    question = state.questions.open[event.question]
    state.questions.close(question)
    if question.key is not None:
        for lease in state.leases.of_task.get(question.key, NO_LEASES).values():
            if question.id in lease.questions:
                lease.questions.remove(question.id)
    question.status, question.outcome, question.answer, question.reason, question.via = ending(event)
    question.by, question.closed_at_ms, question.letter = recorded.actor, recorded.at_ms, recorded.seq
    question.told = tuple(delivery.name for delivery in event.deliveries)
    state.questions.keep(question)


def ending(event: QuestionClosing) -> tuple[str, str, str | None, str | None, str | None]:
    """Status, outcome, answer, reason and via of an end."""
    match event:
        case QuestionAnswered():
            return "answered", event.outcome, event.answer, None, event.via
        case QuestionDismissed():
            return "dismissed", "dismissed", None, event.reason, event.via
        case QuestionExpired():
            return "expired", "expired", None, None, None
        case QuestionWithdrawn():
            return "withdrawn", "withdrawn", None, event.reason, event.via
        case _:
            assert_never(event)
