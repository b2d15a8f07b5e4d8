"""What follows from events in the same transaction, and what time alone brings about, beside leases and inboxes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from synapse.core import asking, files, held_questions, values
from synapse.core.events import AgentForgotten, Recorded
from synapse.core.held_events import HeldDropped
from synapse.core.lanes import decide_timed_out
from synapse.core.loops import is_release
from synapse.core.mail import numbered
from synapse.core.plan import follow, openings
from synapse.core.plan_events import TaskMoved
from synapse.core.question_events import QUESTION_CLOSINGS, QuestionAnswered, QuestionClosing
from synapse.core.resuming import due_resumptions, resumptions

if TYPE_CHECKING:
    from synapse.hub.turn import Turns


_TOUCHING: Final = QUESTION_CLOSINGS | {TaskMoved, AgentForgotten, HeldDropped}
"""Events from which something follows for questions."""


def follow_up(turns: "Turns", recorded: Sequence[Recorded]) -> None:
    """Fold in what these events, folded in already, bring about elsewhere."""
    state = turns.state
    if state.sessions.of_task:  # what broke off is offered, and taken up by who is granted the task
        turns.fold(numbered(state, resumptions(state, recorded)), "hub")
    recorded = _withdraw(turns, recorded)
    if state.plan.count:
        steps = turns.fold(follow(state, recorded), "hub")
        turns.fold(openings(state, (*recorded, *steps)), "hub")


def _withdraw(turns: "Turns", recorded: Sequence[Recorded]) -> Sequence[Recorded]:
    """Take back the questions that nobody needs any more, and tell who waits for those that are closed."""
    is_touched = any(type(entry.event) in _TOUCHING for entry in recorded)
    if not is_touched and not (turns.state.questions.open and any(is_release(entry.event) for entry in recorded)):
        return recorded
    every = list(recorded)
    for entry in recorded:
        every += _decide_held(turns, entry)
    for entry in recorded:
        for question, reason in asking.needless(turns.state, entry):
            every += turns.fold(asking.decide_needless(turns.state, question, reason), "hub")
    for entry in every:
        if isinstance(entry.event, QuestionClosing):
            turns.waiting.on_closed(entry.event)
    return every


def _decide_held(turns: "Turns", entry: Recorded) -> Sequence[Recorded]:
    """Carry out what a person answered about a held chain; or withdraw the question, when nothing is held any more."""
    state, event = turns.state, entry.event
    done: list[Recorded] = []
    if isinstance(event, QuestionAnswered):
        while turns.has_room and (events := held_questions.decide_answered(state, event, entry.actor)):
            done += turns.fold(events, entry.actor)
    elif (question := held_questions.needless(state, entry)) is not None:
        done += turns.fold(asking.decide_needless(state, question, "decided"), "hub")
    return done


def end_what_is_due(turns: "Turns") -> None:
    """The time of some values, files and lanes has passed; the date of some sessions has come."""
    state, at_ms = turns.state, turns.now_at_ms
    turns.record(values.decide_expired(state, at_ms, values.EXPIRED_MAX), "hub")
    turns.record(files.decide_expired(state, at_ms, files.EXPIRED_MAX), "hub")
    turns.record(numbered(state, decide_timed_out(state, turns.rules, at_ms)), "hub")
    turns.record(numbered(state, due_resumptions(state, at_ms)), "hub")


def end_questions(turns: "Turns") -> bool:
    """The deadline of some questions has passed: it counts before whatever this turn is asked. False when more are due
    than one turn ends."""
    if turns.is_read_only:
        return True
    state, at_ms = turns.state, turns.now_at_ms
    for question in asking.due(state, at_ms, asking.EXPIRED_MAX):
        if not turns.has_room:
            break
        turns.record(asking.decide_deadline(state, question), "hub")
    return not asking.due(state, at_ms, 1)
