"""What may be asked about questions to people; `commands` has them in its union."""

from typing import Final, TypeAlias

import msgspec

from synapse.protocol.terms import Int


def _null() -> msgspec.Raw:
    return msgspec.Raw(b"null")


class AskQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask the people of a room (null: the home's) something; the answer comes into my inbox.

    title: the question in one line. question: all of it. context: any JSON. options: what may be answered; with `free`
    anything else too. default: one of them. on_deadline: `default`, which then is the answer, or `expire`; null:
    default where there is one.
    deadline_at_ms: a date, or deadline_ms from now. task: what waits for the answer; my lease on it, that of `epoch`
    when given, is parked meanwhile. session: which of mine asks; else the latest open one that works on `task`.
    """

    title: str
    question: str = ""
    room: str | None = None
    context: msgspec.Raw = msgspec.field(default_factory=_null)
    options: tuple[str, ...] = ()
    free: bool = False
    default: str | None = None
    on_deadline: str | None = None
    deadline_at_ms: Int | None = None
    deadline_ms: Int | None = None
    priority: str = "normal"
    tags: tuple[str, ...] = ()
    session: str | None = None
    task: str | None = None
    epoch: Int | None = None


class AnswerQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answer a question, as a person: a text, or the number of an option, from 1."""

    id: str
    answer: str | None = None
    option: Int | None = None


class DismissQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Say, as a person, that a question gets no answer."""

    id: str
    reason: str | None = None


class WithdrawQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take a question of mine back; an operator takes any."""

    id: str


class WaitQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Wait until a question is closed, at most `wait_ms`; answered at once when it is."""

    id: str
    wait_ms: Int = 30_000


class ShowQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question with everything about it."""

    id: str


class ListQuestions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page of questions, urgent ones first, then the oldest first. room: only of this one; null: of all that I see.

    status: open, answered, dismissed, expired, withdrawn, or all. asker, task, tag, session: only those.
    """

    room: str | None = None
    status: str = "open"
    asker: str | None = None
    task: str | None = None
    tag: str | None = None
    session: str | None = None
    limit: Int = 100
    after: str | None = None


QuestionCommand: TypeAlias = (
    AskQuestion | AnswerQuestion | DismissQuestion | WithdrawQuestion | WaitQuestion | ShowQuestion | ListQuestions
)

QUESTION_COMMANDS: Final[dict[str, type[QuestionCommand]]] = {
    "question.ask": AskQuestion,
    "question.answer": AnswerQuestion,
    "question.dismiss": DismissQuestion,
    "question.withdraw": WithdrawQuestion,
    "question.wait": WaitQuestion,
    "question.show": ShowQuestion,
    "question.list": ListQuestions,
}
"""Command class by wire type."""
