"""What becomes of requests about questions to people, and what time and the plan do to them.

Asked under a lease of the asker a question parks that lease: its TTL stands still until the last question that parks
it is closed, or to the ceiling; parking by hand is another matter, and neither undoes the other. Whatever closes a
question tells its asker, and who else holds the task then, by the same event.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

from synapse.core.bounds import require_chars
from synapse.core.by import By, Rules
from synapse.core.claims import none_of
from synapse.core.events import AgentForgotten, Event, LeaseParked, LeaseResumed, Recorded
from synapse.core.holding import lease_of
from synapse.core.leases import NO_LEASES, Lease
from synapse.core.lifecycle import ENDS, IN_PROGRESS, OPEN, WAITING, is_legal
from synapse.core.loops import require_may_answer
from synapse.core.mail import deliveries_to
from synapse.core.plan import QUESTION, QUESTION_CLOSED
from synapse.core.plan_events import TaskMoved
from synapse.core.question_events import (
    QuestionAnswered,
    QuestionAsked,
    QuestionClosing,
    QuestionDismissed,
    QuestionExpired,
    QuestionWithdrawn,
)
from synapse.core.questions import DEFAULT, QUESTION_BYTES, STILL_OPEN, Question, ending, require_question
from synapse.core.rooms import Room, insiders, room_of
from synapse.core.sessions import own_session, session_id
from synapse.errors import Rejected, bad_request
from synapse.protocol.cursor import question_id
from synapse.protocol.limits import Limits
from synapse.protocol.names import require_segment, require_task, shown
from synapse.protocol.question_commands import AnswerQuestion, AskQuestion, DismissQuestion, WithdrawQuestion
from synapse.protocol.terms import PRIORITIES

if TYPE_CHECKING:
    from synapse.core.state import State

EXPIRE: Final = "expire"
EXPIRED_MAX: Final = 500
"""Questions whose deadline is dealt with in one turn; the others follow in the next."""


QuestionMutation: TypeAlias = AskQuestion | AnswerQuestion | DismissQuestion | WithdrawQuestion


def decide_question(state: "State", rules: Rules, command: QuestionMutation, by: By) -> list[Event]:
    """The questions' part of `kernel.decide`."""
    match command:
        case AskQuestion():
            return decide_ask(state, rules, command, by)
        case AnswerQuestion():
            return decide_answer(state, rules, command, by)
        case DismissQuestion():
            return decide_dismiss(state, rules, command, by)
        case WithdrawQuestion():
            return decide_withdraw(state, command, by)
        case _:
            assert_never(command)


# Asking.


def _session_of(state: "State", room: Room, command: AskQuestion, by: By) -> str | None:
    """The session that asks: the one named, else the latest open one of the asker that works on the question's task."""
    if command.session is not None:
        return session_id(own_session(state, command.session, by).id)
    if command.task is None:
        return None
    mine = state.sessions.open_of(by.require_agent())
    found = [session for session in mine if (session.room, session.task) == (room.id, command.task)]
    return session_id(found[-1].id) if found else None


def decide_ask(state: "State", rules: Rules, command: AskQuestion, by: By) -> list[Event]:
    """A question, the lease that it parks, and the task that waits for it."""
    agent, room = by.require_agent(), room_of(state, command.room, by)
    _require_words(rules.limits, command)
    _require_options(rules.limits, command)
    session = _session_of(state, room, command, by)
    lease = _lease_to_park(state, room, command, by)
    deadline_at_ms = _deadline(rules.limits, command, by)
    _require_space(state, rules.limits, room, agent, command)
    planned = None if command.task is None else state.plan.find((room.id, command.task))
    moves = lease is not None and planned is not None and is_legal(planned.status, WAITING)
    asked = QuestionAsked(
        room=room.id,
        room_name=room.name,
        title=command.title,
        asker=by.actor,
        agent=agent,
        question=command.question,
        context=command.context,
        options=command.options,
        free=command.free,
        default=command.default,
        on_deadline=on_deadline_of(command),
        deadline_at_ms=deadline_at_ms,
        priority=command.priority,
        tags=tuple(dict.fromkeys(command.tags)),
        session=session,
        task=command.task,
        moved=moves or _is_moved(state, room, command.task),
    )
    events: list[Event] = [asked]
    if lease is not None:
        events.append(LeaseParked(ask=lease.ask, epoch=lease.epoch, question=state.seq + 1))
    if moves:
        assert planned is not None
        assert lease is not None
        events.append(
            TaskMoved(
                room=room.id,
                room_name=room.name,
                task=planned.id,
                title=planned.title,
                previous=planned.status,
                status=WAITING,
                reason=QUESTION,
                owner=lease.ask.owner,
                epoch=lease.epoch,
                note=f"{question_id(state.seq + 1)} asks people: {command.title}",
            )
        )
    return events


def on_deadline_of(command: AskQuestion) -> str:
    """What happens at the deadline, when nothing was said of it."""
    if command.on_deadline is not None:
        return command.on_deadline
    return EXPIRE if command.default is None else DEFAULT


def _is_moved(state: "State", room: Room, task: str | None) -> bool:
    """True when the task waits for input because of a question that is open."""
    if task is None:
        return False
    planned = state.plan.find((room.id, task))
    open_ = state.questions.open
    there = state.questions.of_task.get((room.id, task), ())
    return planned is not None and planned.status == WAITING and any(open_[other].moved for other in there)


def _lease_to_park(state: "State", room: Room, command: AskQuestion, by: By) -> Lease | None:
    """The lease of the asker on the task, that of `epoch` when it is given. Raises `Rejected`: `stale_epoch`."""
    if command.task is None:
        if command.epoch is not None:
            raise Rejected("bad_request", "an epoch is of a task: name it - at `$.body.task`", {"path": "$.body.task"})
        return None
    require_task(command.task)
    if command.epoch is not None:
        return lease_of(state, command.task, room.name, command.epoch, by)
    held = state.leases.of_task.get((room.id, command.task), NO_LEASES)
    return next((lease for lease in reversed(held.values()) if lease.ask.agent == by.agent), None)


def _require_words(limits: Limits, command: AskQuestion) -> None:
    """Raises `Rejected`: `bad_request`, `bad_name`, `too_large`."""
    require_chars("title", command.title, limits.title_chars_max)
    if not command.title.strip():
        raise Rejected(
            "bad_request", "a title has at least one character - at `$.body.title`", {"path": "$.body.title"}
        )
    if command.question:
        require_chars("question", command.question, limits.question_chars_max)
    if command.priority not in PRIORITIES:
        raise none_of("priority", command.priority, PRIORITIES)
    if len(command.tags) > limits.labels_max:
        raise _too_many("tags", len(command.tags), "labels_max", limits.labels_max)
    for tag in command.tags:
        require_segment(tag, "tag")
    size = len(bytes(command.context))
    if size > limits.question_context_bytes_max:
        raise Rejected(
            "too_large",
            f"the context has {size} bytes; at most {limits.question_context_bytes_max}: keep a reference to a file",
            {"bytes": size, "question_context_bytes_max": limits.question_context_bytes_max},
        )


def _too_many(what: str, have: int, name: str, most: int) -> Rejected:
    return Rejected("too_large", f"{have} {what}; at most {most} ({name})", {what: have, name: most})


def _require_options(limits: Limits, command: AskQuestion) -> None:
    """Raises `Rejected`: `bad_request`, `too_large`."""
    options = command.options
    if len(options) > limits.question_options_max:
        raise _too_many("options", len(options), "question_options_max", limits.question_options_max)
    for option in options:
        require_chars("options", option, limits.title_chars_max)
        if not option.strip() or options.count(option) > 1:
            why = "is given twice" if option.strip() else "has nothing to read"
            raise bad_request(f"option {shown(option)} {why}", "$.body.options")
    on_deadline = on_deadline_of(command)
    if on_deadline not in (DEFAULT, EXPIRE):
        raise none_of("on_deadline", on_deadline, (DEFAULT, EXPIRE))
    if on_deadline == DEFAULT and command.default is None:
        raise Rejected(
            "bad_request",
            "at the deadline the default is to be the answer, and there is none - at `$.body.default`",
            {"path": "$.body.default"},
        )
    if command.default is not None:
        require_chars("default", command.default, limits.answer_chars_max)
        if options and command.default not in options:
            raise Rejected(
                "bad_request",
                f"the default {shown(command.default)} is none of the options - at `$.body.default`",
                {"path": "$.body.default", "allowed": list(options)},
            )


def _deadline(limits: Limits, command: AskQuestion, by: By) -> int | None:
    """The date until which an answer is waited for. Raises `Rejected(bad_request)`."""
    at_ms, span_ms = command.deadline_at_ms, command.deadline_ms
    if at_ms is None and span_ms is None:
        return None
    name = "deadline_ms" if at_ms is None else "deadline_at_ms"
    if at_ms is not None and span_ms is not None:
        raise bad_request("give deadline_ms or deadline_at_ms, not both", "$.body.deadline_ms")
    left_ms = at_ms - by.at_ms if at_ms is not None else span_ms
    assert left_ms is not None, "one of them is given"
    if not 1 <= left_ms <= limits.question_deadline_ms_max:
        when = "has passed already" if left_ms < 1 else "is too far away"
        raise Rejected(
            "bad_request",
            f"a deadline {left_ms} ms from now {when}: 1 to {limits.question_deadline_ms_max} - at `$.body.{name}`",
            {"path": f"$.body.{name}", "min": 1, "max": limits.question_deadline_ms_max, "now_at_ms": by.at_ms},
        )
    return by.at_ms + left_ms


def _require_space(state: "State", limits: Limits, room: Room, agent: int, command: AskQuestion) -> None:
    """Raises `Rejected(limit)`."""
    questions = state.questions
    task = {} if command.task is None else questions.of_task.get((room.id, command.task), {})
    size = QUESTION_BYTES + len(command.title) + len(command.question) + len(bytes(command.context))
    size += sum(map(len, command.options))
    for have, more, most, name, what in (
        (
            len(questions.of_room.get(room.id, ())),
            1,
            limits.questions_per_room_max,
            "questions_per_room_max",
            f"questions of room {room.name} are open",
        ),
        (
            len(questions.of_agent.get(agent, ())),
            1,
            limits.questions_per_agent_max,
            "questions_per_agent_max",
            "questions of this agent are open",
        ),
        (
            len(task),
            1,
            limits.questions_per_task_max,
            "questions_per_task_max",
            f"questions of {command.task} are open",
        ),
        (questions.bytes, size, limits.questions_bytes_max, "questions_bytes_max", "bytes have all open questions"),
    ):
        if have + more > most:
            raise Rejected(
                "limit",
                f"{have} {what}, of {most} ({name}): wait for answers, or withdraw some (synapse questions)",
                {"limit": name, "value": most},
            )


# Closing.


def decide_answer(state: "State", rules: Rules, command: AnswerQuestion, by: By) -> list[Event]:
    """An answer of a person; nothing when it is the one that was given. Raises `Rejected(already_answered)`."""
    question = require_question(state, command.id, by)
    by.require_human(f"answering {command.id}")
    answer = _answer(rules.limits, question, command)
    if question.status != STILL_OPEN:
        if question.answer == answer:
            return []
        raise _already(question)
    require_may_answer(state, question.id, by)
    return closing(
        state,
        question,
        QuestionAnswered(**_common(state, question), answer=answer, via=_via(by)),  # type: ignore[arg-type]  # fields by name
    )


def decide_dismiss(state: "State", rules: Rules, command: DismissQuestion, by: By) -> list[Event]:
    """A person says that there is no answer; nothing when that was said so. Raises `Rejected(already_answered)`."""
    question = require_question(state, command.id, by)
    by.require_human(f"dismissing {command.id}")
    if command.reason is not None:
        require_chars("reason", command.reason, rules.limits.note_chars_max)
    if question.status != STILL_OPEN:
        if question.status == "dismissed" and question.reason == command.reason:
            return []
        raise _already(question)
    dismissed = QuestionDismissed(**_common(state, question), reason=command.reason, via=_via(by))  # type: ignore[arg-type]  # fields by name
    return closing(state, question, dismissed)


def decide_withdraw(state: "State", command: WithdrawQuestion, by: By) -> list[Event]:
    """Its asker needs no answer any more. Raises `Rejected`: `not_permitted`, `already_answered`."""
    question = require_question(state, command.id, by)
    if not by.operator and question.agent != by.require_agent():
        raise Rejected(
            "not_permitted",
            f"{command.id} was asked by {question.asker}, who can withdraw it, and so can an operator",
            {"id": command.id, "asker": question.asker},
        )
    if question.status != STILL_OPEN:
        if question.status == "withdrawn":
            return []
        raise _already(question)
    via = _via(by) if by.operator else None
    return closing(state, question, QuestionWithdrawn(**_common(state, question), via=via))  # type: ignore[arg-type]  # fields by name


def _via(by: By) -> str:
    return "operator" if by.operator else "token"


def _answer(limits: Limits, question: Question, command: AnswerQuestion) -> str:
    """The text of an answer. Raises `Rejected(bad_request)`."""
    options = question.options
    facts: dict[str, object] = {"id": command.id, "options": list(options)}
    if (command.answer is None) == (command.option is None):
        raise bad_request("give an answer or the number of an option", "$.body.answer", facts)
    if command.option is not None:
        if not 1 <= command.option <= len(options):
            have = f"1 to {len(options)}" if options else "there are none"
            raise bad_request(f"option {command.option} of {have}", "$.body.option", facts)
        return options[command.option - 1]
    assert command.answer is not None
    require_chars("answer", command.answer, limits.answer_chars_max)
    if not command.answer.strip():
        raise bad_request("an answer has at least one character", "$.body.answer", facts)
    if options and not question.free and command.answer not in options:
        listed = ", ".join(f"{number} {shown(option)}" for number, option in enumerate(options, 1))
        raise bad_request(f"{shown(command.answer)} is none of the options: {listed}", "$.body.answer", facts)
    return command.answer


def _already(question: Question) -> Rejected:
    """It is closed, otherwise than was asked."""
    said = f"with {shown(question.answer)} " if question.answer is not None else ""
    who = question.by if question.outcome != DEFAULT else "its default at the deadline"
    return Rejected(
        "already_answered",
        f"{question_id(question.id)} was {question.status} {said}by {who} before; that stays so",
        {
            "id": question_id(question.id),
            "status": question.status,
            "outcome": question.outcome,
            "answer": question.answer,
            "reason": question.reason,
            "by": question.by,
            "via": question.via,
            "closed_at_ms": question.closed_at_ms,
        },
    )


def _common(state: "State", question: Question) -> dict[str, object]:
    """What every end of a question says, its deliveries among it."""
    told = [question.agent]
    if question.key is not None:
        told += [lease.ask.agent for lease in state.leases.of_task.get(question.key, NO_LEASES).values()]
    return {
        "deliveries": deliveries_to(state, insiders(state.rooms.by_id[question.room], told)),
        "question": question.id,
        "room": question.room,
        "room_name": question.room_name,
        "title": question.title,
        "asker": question.asker,
        "task": question.task,
        "session": question.session,
    }


def closing(state: "State", question: Question, end: QuestionClosing) -> list[Event]:
    """The end of a question, and what follows: leases that it alone parks run on, its task goes on."""
    events: list[Event] = [end]
    if question.key is None:
        return events
    held = state.leases.of_task.get(question.key, NO_LEASES)
    for lease in held.values():
        if lease.questions == [question.id] and not lease.parked:
            events.append(LeaseResumed(ask=lease.ask, epoch=lease.epoch))
    planned, open_ = state.plan.find(question.key), state.questions.open
    others = [other for other in state.questions.of_task[question.key] if other != question.id]
    if planned is None or planned.status != WAITING or not question.moved or any(open_[o].moved for o in others):
        return events
    last = next(reversed(held.values()), None)
    events.append(
        TaskMoved(
            room=question.room,
            room_name=question.room_name,
            task=planned.id,
            title=planned.title,
            previous=WAITING,
            status=OPEN if last is None else IN_PROGRESS,
            reason=QUESTION_CLOSED,
            owner=None if last is None else last.ask.owner,
            epoch=None if last is None else last.epoch,
            note=f"{question_id(question.id)} is {ending(end)[0]}: {question.title}",
        )
    )
    return events


# What time and others bring about.


def due(state: "State", at_ms: int, most: int) -> list[Question]:
    """The open questions whose deadline has passed, earliest first, so many at most."""
    found: list[Question] = []
    for deadline_at_ms, question in state.questions.deadlines[:most]:
        if deadline_at_ms > at_ms:
            break
        found.append(state.questions.open[question])
    return found


def decide_deadline(state: "State", question: Question) -> list[Event]:
    """The deadline of a question passed: its default is the answer, or it expires."""
    end: QuestionClosing
    if question.on_deadline == DEFAULT:
        assert question.default is not None, "who lets the default answer has one"
        end = QuestionAnswered(**_common(state, question), answer=question.default, outcome=DEFAULT)  # type: ignore[arg-type]  # fields by name
    else:
        end = QuestionExpired(**_common(state, question))  # type: ignore[arg-type]  # fields by name
    return closing(state, question, end)


def needless(state: "State", recorded: Recorded) -> Iterator[tuple[Question, str]]:
    """The open questions that this event, folded in already, leaves without a purpose, and why."""
    event, questions = recorded.event, state.questions
    there: dict[int, None] = {}
    reason = "forgotten"
    if isinstance(event, TaskMoved) and event.status in ENDS:
        there, reason = questions.of_task.get((event.room, event.task), there), f"task_{event.status}"
    elif isinstance(event, AgentForgotten):
        there = questions.of_agent.get(event.agent, there)
    for question in list(there):
        yield questions.open[question], reason


def decide_needless(state: "State", question: Question, reason: str) -> list[Event]:
    """The hub withdraws a question."""
    return closing(state, question, QuestionWithdrawn(**_common(state, question), reason=reason))  # type: ignore[arg-type]  # fields by name
