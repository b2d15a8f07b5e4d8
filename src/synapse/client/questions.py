"""The client's half of questions to people."""

import math
from collections.abc import Iterable
from typing import Literal

import msgspec

from synapse.client.asking import Asking
from synapse.client.bodies import milliseconds, raw_of
from synapse.client.subscriptions import QuestionFeed
from synapse.client.takes import in_pieces
from synapse.protocol import question_commands
from synapse.protocol.question_replies import QuestionClosed, QuestionInfo, QuestionsPage


class QuestionDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What is seldom said of a question. context: anything that JSON can say. free: another answer than the options may
    be given too. on_deadline: `default` or `expire`; None is default where there is one. tags: words to find it by.
    session: which of mine asks. epoch: only under this grant of the task."""

    context: object = None
    free: bool = False
    on_deadline: Literal["default", "expire"] | None = None
    tags: tuple[str, ...] = ()
    session: str | None = None
    epoch: int | None = None


class Questions(Asking):
    """Questions to people: a part of `Client`."""

    async def ask(
        self,
        title: str,
        question: str = "",
        *,
        options: Iterable[str] = (),
        default: str | None = None,
        deadline: float | None = None,
        task: str | None = None,
        priority: Literal["low", "normal", "high", "urgent"] = "normal",
        details: QuestionDetails | None = None,
        room: str | None = None,
        idem_key: str | None = None,
    ) -> QuestionInfo:
        """Ask people; the answer comes into my inbox, and `await_answer` waits for it.

        options: what may be answered. deadline: seconds; then the `default` is the answer, or the question expires.
        task: what waits for the answer; my lease on it is parked meanwhile. details: what is seldom said.
        Raises `Rejected`: `limit`, `stale_epoch`, `bad_request`; TypeError for a context that is not JSON.
        """
        details = QuestionDetails() if details is None else details
        command = question_commands.AskQuestion(
            title=title,
            question=question,
            room=room,
            context=raw_of(details.context),
            options=tuple(options),
            free=details.free,
            default=default,
            on_deadline=details.on_deadline,
            deadline_ms=None if deadline is None else milliseconds(deadline, "a deadline"),
            priority=priority,
            tags=details.tags,
            session=details.session,
            task=task,
            epoch=details.epoch,
        )
        return await self.request(command, QuestionInfo, idem_key=idem_key)

    async def await_answer(self, question: str, *, wait: float | None = None) -> QuestionInfo:
        """The question once it is closed; its `outcome` says how. wait: seconds, None without end, also while no hub is
        there.

        Raises `Rejected(deadline)` when it is open still, `not_found`; `RequestTimeout` when `wait` ends without a hub.
        """

        async def ask(piece_s: float, limit_s: float) -> QuestionInfo:
            command = question_commands.WaitQuestion(id=question, wait_ms=math.ceil(piece_s * 1000))
            return await self.request(command, QuestionInfo, timeout=limit_s)

        return await in_pieces(self._lifeline, wait, ask)

    async def answer(
        self, question: str, answer: str | None = None, *, option: int | None = None, idem_key: str | None = None
    ) -> QuestionClosed:
        """Answer, as a person: a text, or the number of an option, from 1. The same answer again changes nothing.

        Raises `Rejected`: `already_answered` (with the first answer), `not_permitted`, `not_found`, `bad_request`.
        """
        command = question_commands.AnswerQuestion(id=question, answer=answer, option=option)
        return await self.request(command, QuestionClosed, idem_key=idem_key)

    async def dismiss(self, question: str, *, reason: str | None = None, idem_key: str | None = None) -> QuestionClosed:
        """Say, as a person, that there is no answer. Raises as `answer`."""
        command = question_commands.DismissQuestion(id=question, reason=reason)
        return await self.request(command, QuestionClosed, idem_key=idem_key)

    async def withdraw_question(self, question: str, *, idem_key: str | None = None) -> QuestionClosed:
        """Take a question of mine back. Raises `Rejected`: `already_answered`, `not_permitted`, `not_found`."""
        command = question_commands.WithdrawQuestion(id=question)
        return await self.request(command, QuestionClosed, idem_key=idem_key)

    async def question(self, question: str) -> QuestionInfo:
        """One question with everything about it. Raises `Rejected(not_found)`."""
        return await self.request(question_commands.ShowQuestion(id=question), QuestionInfo)

    async def questions(
        self,
        *,
        status: str = "open",
        asker: str | None = None,
        task: str | None = None,
        tag: str | None = None,
        session: str | None = None,
        room: str | None = None,
    ) -> tuple[QuestionInfo, ...]:
        """Questions, urgent ones first, then the oldest: of one room, or of all that I may see. status: open, all, or
        how it was closed. All pages: each is true at its own moment."""
        pages = self._pages(
            lambda at: question_commands.ListQuestions(
                room=room, status=status, asker=asker, task=task, tag=tag, session=session, limit=self._page, after=at
            ),
            QuestionsPage,
        )
        return tuple([question async for page in pages for question in page.questions])

    def question_changes(self, *, room: str | None = None, since: str | None = None) -> QuestionFeed:
        """What becomes of a room's questions: `async with client.question_changes() as feed: async for change in feed`.

        since: a cursor; what came after it comes first.
        """
        place = self.welcome.home.partition(":")[0] if room is None else room
        return QuestionFeed(self._lifeline, place, since=since)
