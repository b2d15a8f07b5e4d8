"""What is answered about questions to people; `replies` has them in its union."""

from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from synapse.protocol import question_commands


class QuestionInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A question. status: open, answered, dismissed, expired, withdrawn. Fields that say nothing are left out.

    outcome, of a closed one: answered, default (the deadline passed, and the default is the answer), dismissed,
    expired, withdrawn. by: who closed it; via: a person over an `operator` connection, or with a `token`. parks: the
    epoch of the lease that stands still for it. letter: the message that told the asker. context: not in lists.
    """

    id: str
    room: str
    title: str
    status: str
    priority: str
    asker: str
    asked_at_ms: int
    question: str = ""
    context: msgspec.Raw | UnsetType = UNSET
    options: tuple[str, ...] = ()
    free: bool = False
    default: str | None = None
    on_deadline: str = "expire"
    deadline_at_ms: int | None = None
    tags: tuple[str, ...] = ()
    session: str | None = None
    task: str | None = None
    parks: int | None = None
    outcome: str | None = None
    answer: str | None = None
    reason: str | None = None
    by: str | None = None
    via: str | None = None
    closed_at_ms: int | None = None
    letter: str | None = None
    cursor: str | UnsetType = UNSET


class QuestionClosed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a question was closed. told: into whose inboxes. already: it was closed so before; this changed nothing."""

    id: str
    room: str
    title: str
    status: str
    outcome: str
    asker: str
    by: str
    closed_at_ms: int
    told: tuple[str, ...] = ()
    task: str | None = None
    answer: str | None = None
    reason: str | None = None
    via: str | None = None
    already: bool = False
    cursor: str


class QuestionsPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of questions. open: how many wait for an answer, of all rooms or the one that was asked for."""

    seq: int
    questions: tuple[QuestionInfo, ...]
    open: int
    next: str | None
    cursor: str


QuestionReply: TypeAlias = QuestionInfo | QuestionClosed | QuestionsPage

QUESTION_REPLY_TO: Final[dict[type[msgspec.Struct], type[QuestionReply]]] = {
    question_commands.AskQuestion: QuestionInfo,
    question_commands.AnswerQuestion: QuestionClosed,
    question_commands.DismissQuestion: QuestionClosed,
    question_commands.WithdrawQuestion: QuestionClosed,
    question_commands.WaitQuestion: QuestionInfo,
    question_commands.ShowQuestion: QuestionInfo,
    question_commands.ListQuestions: QuestionsPage,
}
