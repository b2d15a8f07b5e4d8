"""What happens to questions to people; `events` has them in its union. What closes one is mail to who waits for it."""

from typing import Final, TypeAlias, get_args

import msgspec

from synapse.core.idem import Idem
from synapse.core.mail import Mail


class QuestionAsked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent asks the people of a room something; the question is the seq of this event. agent: of `asker`. moved:
    its task waits for input because of this question, or of another one that is open."""

    room: int
    room_name: str
    title: str
    asker: str
    agent: int
    question: str = ""
    context: msgspec.Raw = msgspec.Raw(b"null")
    options: tuple[str, ...] = ()
    free: bool = False
    default: str | None = None
    on_deadline: str = "expire"
    deadline_at_ms: int | None = None
    priority: str = "normal"
    tags: tuple[str, ...] = ()
    session: str | None = None
    task: str | None = None
    moved: bool = False
    idem: Idem | None = None


class Closing(Mail, frozen=True, kw_only=True, omit_defaults=True):
    """What all ends of a question have in common: they say again what it was, so that each can be read alone."""

    question: int
    room: int
    room_name: str
    title: str
    asker: str
    task: str | None = None
    session: str | None = None


class QuestionAnswered(Closing, frozen=True, kw_only=True, omit_defaults=True):
    """A person answered; or the deadline passed, and the default is the answer. outcome: answered, default. via:
    operator or token; null when the hub answered."""

    answer: str
    outcome: str = "answered"
    via: str | None = None
    idem: Idem | None = None


class QuestionDismissed(Closing, frozen=True, kw_only=True, omit_defaults=True):
    """A person said that there is no answer."""

    reason: str | None = None
    via: str | None = None
    idem: Idem | None = None


class QuestionExpired(Closing, frozen=True, kw_only=True, omit_defaults=True):
    """The deadline passed without an answer, and there is no default."""

    idem: Idem | None = None


class QuestionWithdrawn(Closing, frozen=True, kw_only=True, omit_defaults=True):
    """It needs no answer any more. reason: asked, task_done, task_failed, task_cancelled, forgotten (its asker)."""

    reason: str = "asked"
    via: str | None = None
    idem: Idem | None = None


QuestionClosing: TypeAlias = QuestionAnswered | QuestionDismissed | QuestionExpired | QuestionWithdrawn
QuestionEvent: TypeAlias = QuestionAsked | QuestionClosing

QUESTION_EVENTS: Final = frozenset(get_args(QuestionEvent))
QUESTION_CLOSINGS: Final = frozenset(get_args(QuestionClosing))
