"""What must be true of every change that a team asked for, whatever it is of; the rules of each area come on top.

All changes are asked for under keys and said again until they are answered. So each acknowledged one is in the journal
once, as it was asked for and as it was told; a refused one is not there; and nothing is there that nobody asked for.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import msgspec
from tests.crash.checker import Finding, journal_is_sound, nothing_is_ahead_of_the_disk, time_goes_forward
from tests.crash.history import Frame, History, Op
from tests.crash.ledger import Ledger, seq_of

from synapse.core.card_events import AgentDescribed
from synapse.core.events import ChannelJoined, MessagePosted, MessagesAcked, MessageSent, Recorded
from synapse.core.lane_events import LaneAccepted, LaneEnded, LaneMessaged, LaneOffered
from synapse.core.question_events import QuestionAnswered, QuestionAsked, QuestionDismissed, QuestionWithdrawn
from synapse.core.resource_events import ResourceOffered, ResourceWithdrawn
from synapse.core.role_events import RoleJoined, RoleLeft
from synapse.core.session_events import SessionCheckpointed, SessionEnded, SessionStarted, SessionUpdated

RULES = {
    "lost": "acknowledged, and not in the journal",
    "altered": "in the journal or told with other content than was asked for, or under another id",
    "refused but applied": "an error was the answer, and the journal has the effect under its key",
    "answered differently": "a repeat got another answer than the first",
    "unasked": "in the journal, and nobody asked for it",
}
PASSING = ("draining", "rate_limited")
"""Refusals that come before anything is looked up."""

_Part: TypeAlias = Callable[[Any], object]


def _json(raw: msgspec.Raw) -> object:
    return msgspec.json.decode(raw)


CHANGES: dict[str, tuple[tuple[type, ...], _Part, _Part]] = {
    "question.ask": ((QuestionAsked,), lambda it: (it["title"], it.get("task")), lambda it: (it.title, it.task)),
    "question.answer": (
        (QuestionAnswered,),
        lambda it: (it["id"], it["answer"]),
        lambda it: (f"q{it.question}", it.answer),
    ),
    "question.dismiss": (
        (QuestionDismissed,),
        lambda it: (it["id"], it["reason"]),
        lambda it: (f"q{it.question}", it.reason),
    ),
    "question.withdraw": ((QuestionWithdrawn,), lambda it: it["id"], lambda it: f"q{it.question}"),
    "session.start": ((SessionStarted,), lambda it: it["display_name"], lambda it: it.display_name),
    "session.update": (
        (SessionUpdated,),
        lambda it: (it["session"], *it["append"]["decisions"]),
        lambda it: (f"s{it.session}", *it.decisions),
    ),
    "session.checkpoint": (
        (SessionCheckpointed,),
        lambda it: (it["session"], it["data"]),
        lambda it: (f"s{it.session}", _json(it.data)),
    ),
    "session.end": (
        (SessionEnded,),
        lambda it: (it["session"], it["reason"]),
        lambda it: (f"s{it.session}", it.reason),
    ),
    "lane.offer": (
        (LaneOffered,),
        lambda it: (it["session"], it["to"], it["context"]),
        lambda it: (f"s{it.session}", it.receiver, _json(it.context)),
    ),
    "lane.accept": ((LaneAccepted,), lambda it: it["lane"], lambda it: f"l{it.lane}"),
    "lane.decline": (
        (LaneEnded,),
        lambda it: (it["lane"], it["reason"], "declined"),
        lambda it: (f"l{it.lane}", it.reason, it.state),
    ),
    "lane.close": (
        (LaneEnded,),
        lambda it: (it["lane"], it["reason"], "closed"),
        lambda it: (f"l{it.lane}", it.reason, it.state),
    ),
    "lane.send": (
        (LaneMessaged,),
        lambda it: (it["lane"], it["body"]),
        lambda it: (f"l{it.lane}", _json(it.body)),
    ),
    "message.send": (
        (MessagePosted, MessageSent),
        lambda it: (it.get("channel", it.get("target")), it["body"]),
        lambda it: (it.address if isinstance(it, MessagePosted) else it.to[0].name, _json(it.body)),
    ),
    "role.join": ((RoleJoined,), lambda it: it["role"], lambda it: it.name),
    "role.leave": ((RoleLeft,), lambda it: it["role"], lambda it: it.name),
    "channel.join": ((ChannelJoined,), lambda it: None, lambda it: None),
    "inbox.ack": ((MessagesAcked,), lambda it: it["ids"], lambda it: [f"m{message}" for message in it.messages]),
    "resource.offer": (
        (ResourceOffered,),
        lambda it: (it["resource"], it["capacity"], it["data"]),
        lambda it: (it.name, it.capacity, _json(it.data)),
    ),
    "resource.withdraw": ((ResourceWithdrawn,), lambda it: it["resource"], lambda it: it.name),
    "card.set": (
        (AgentDescribed,),
        lambda it: (it["description"], [skill["id"] for skill in it["skills"]]),
        lambda it: (it.card.description, [skill.id for skill in it.card.skills]),
    ),
}
"""By request: the event that it becomes, what was asked for, and the same of the event."""

TOLD_AS = {
    "question.ask": "id",
    "session.start": "session",
    "session.update": "version",
    "session.end": "version",
    "session.checkpoint": "checkpoint",
    "lane.offer": "lane",
    "lane.send": "id",
    "message.send": "id",
}
"""Which field of a reply names the seq of the event."""


def check_effects(history: History, journal: Sequence[Recorded]) -> list[Finding]:
    """Everything that is wrong with any change, and what `tests.crash.checker` says of every journal and answer."""
    ledger = Ledger(journal)
    return [
        *journal_is_sound(ledger),
        *nothing_is_ahead_of_the_disk(history, ledger),
        *time_goes_forward(history, ledger),
        *_nothing_is_unasked(history, ledger),
        *(finding for op in history.ops for finding in _is_kept(op, ledger)),
        *(finding for op in history.ops for finding in _ack_is_kept(op, ledger)),
        *_repeats_are_the_same(history),
    ]


def _nothing_is_unasked(history: History, ledger: Ledger) -> Iterator[Finding]:
    asked = {(op.agent, op.key) for op in history.ops if op.key is not None}
    covered: set[int] = set()
    for (actor, key), effects in ledger.effects.items():
        if (actor, key) not in asked:
            yield Finding("unasked", f"nobody used the key {key} as {actor}")
        for effect in effects:
            covered.update(range(effect.first, effect.last + 1))
    kinds = tuple(kind for found, *_ in CHANGES.values() for kind in found if kind is not MessagesAcked)
    for recorded in ledger.journal:
        if isinstance(recorded.event, kinds) and recorded.actor != "hub" and recorded.seq not in covered:
            yield Finding("unasked", f"{recorded}")


def _is_kept(op: Op, ledger: Ledger) -> Iterator[Finding]:
    """An acknowledged change is there; one with an effect has the effect that was asked for."""
    if op.key is None or op.type not in CHANGES:
        return
    kinds, asked, there = CHANGES[op.type]
    found = ledger.effects.get((op.agent, op.key), [])
    if op.is_refused:
        assert op.frame is not None
        error, seq = op.frame["error"], op.frame["seq"]
        if error["code"] not in PASSING and found and found[0].first <= seq:
            yield Finding("refused but applied", f"{op.name} at {seq}: {error}; it stands at {found[0].first}")
        return
    parts = [ledger.events.get(seq) for effect in found for seq in range(effect.first, effect.last + 1)]
    events = [part for part in parts if part is not None and isinstance(part.event, kinds)]
    if not events:
        if op.is_ok and op.type != "resource.withdraw" and not _changed_nothing(op.reply):
            yield Finding("lost", f"{op.name} was answered {op.reply}; the journal has nothing of it under {op.key}")
        return
    if asked(op.body) != there(events[0].event):
        yield Finding("altered", f"{op.name} asked for {asked(op.body)}; the journal has {there(events[0].event)}")
    told = TOLD_AS.get(op.type)
    if op.is_ok and told is not None and number_of(op.reply[told]) != events[0].seq:
        yield Finding("altered", f"{op.name} was told {op.reply[told]}; the journal has it at {events[0].seq}")


def _changed_nothing(reply: Frame) -> bool:
    """It says itself that all was so before."""
    return reply.get("changed") is False or bool(reply.get("already"))


def _ack_is_kept(op: Op, ledger: Ledger) -> Iterator[Finding]:
    """What was acked is acked in the journal, by who said so; what was `already` acked was so before."""
    if op.type != "inbox.ack" or not op.is_ok:
        return
    seq = seq_of(op.reply["cursor"])
    ids = [number_of(text) for text in op.reply["acked"]]
    if ids and ledger.acked_upto(seq, op.agent, len(ids)) != ids:
        yield Finding("lost", f"{op.name} acked {op.reply['acked']} at {seq}; the journal has {ledger.events.get(seq)}")
    for text in op.reply["already"]:
        at = [seq for (_, message), seqs in ledger.acked.items() if message == number_of(text) for seq in seqs]
        if not any(acked <= seq for acked in at):
            yield Finding("lost", f"{op.name}: {text} was acked already by {seq}; the journal has it at {at}")


def _repeats_are_the_same(history: History) -> Iterator[Finding]:
    first: dict[tuple[str, str], Op] = {}
    for op in history.ops:
        if op.key is not None and op.is_ok:
            earlier = first.setdefault((op.agent, op.key), op)
            if earlier.reply != op.reply:
                yield Finding("answered differently", f"{op.name}: {op.reply}; {earlier.name}: {earlier.reply}")


def number_of(told: object) -> int:
    """The seq in an id as it is told."""
    return int(str(told).lstrip("lmqs"))
