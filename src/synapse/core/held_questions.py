"""The question to a person about a chain that is held: raised with its first held message, and what becomes of it.

An answer releases or drops all that is held of the chain. What is of a private room has a question of its own, in that
room; what is of a private channel has none, because a question is there for all of a room. Who decides with
`held.release` or `held.drop` makes the question needless.
"""

from typing import TYPE_CHECKING, Final

import msgspec

from synapse.core.asking import decide_ask
from synapse.core.by import By, Rules
from synapse.core.events import Event, MessagePosted, MessageSent, Recorded
from synapse.core.held_events import HeldDropped
from synapse.core.loops import decide_chain, explained, names_of
from synapse.core.question_events import QuestionAnswered
from synapse.core.questions import Question
from synapse.errors import Rejected
from synapse.protocol.cursor import message_id
from synapse.protocol.question_commands import AskQuestion

if TYPE_CHECKING:
    from synapse.core.state import State

RELEASE: Final = "release"
DROP: Final = "drop"
RESET: Final = "release and reset"
TAG: Final = "held"
_TITLE_MAX: Final = 200


def ask_people(
    state: "State", rules: Rules, message: MessageSent | MessagePosted, why: str, held: int, room: str | None, by: By
) -> list[Event]:
    """The question about a message that will be held at the seq `held`; none where as many are open as may be. room:
    of which it is, if that is private; else people are asked in the room of the sender's home."""
    name, to = message_id(held), ", ".join(names_of(message))
    command = AskQuestion(
        title=f"{name} of {by.actor} to {to} is held: {explained(why)}"[:_TITLE_MAX],
        question=f"Release or drop {name}, and all that is held of its chain? synapse held list shows it.",
        context=msgspec.Raw(msgspec.json.encode({"held": name, "why": why})),
        options=(RELEASE, DROP, RESET),
        tags=(TAG,),
        room=room,
    )
    try:
        return decide_ask(state, rules, command, by)
    except Rejected:  # people are told by a message all the same, and the sender in the answer
        return []


def decide_answered(state: "State", event: QuestionAnswered, by: str) -> list[Event]:
    """What follows of an answer, so much of it as one step takes; nothing when nothing is held (any more)."""
    about = state.loops.about(event.question)
    return decide_chain(state, about, by, is_drop=event.answer == DROP, reset=event.answer == RESET)


def needless(state: "State", recorded: Recorded) -> Question | None:
    """The open question about a chain of which, with this event, nothing is held any more."""
    event = recorded.event
    if isinstance(event, HeldDropped):
        question = event.question
    elif isinstance(event, MessageSent | MessagePosted) and event.link is not None:
        question = event.link.question
    else:
        return None
    if question is None or any(True for _ in state.loops.about(question)):
        return None
    return state.questions.open.get(question)
