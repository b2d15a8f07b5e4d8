"""What must be true of questions to people in a recorded history and the journal that is left at the end.

Each question is closed once, by a person with a token, by its asker or by its deadline, and that very event is the
letter to who asked. So each outcome reaches the asker's inbox once; when all is drained it was taken there and acked.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.crash.checker import Finding, reflects
from tests.crash.effects_checker import number_of
from tests.crash.history import Frame, History, Op

from synapse.core.events import (
    LeaseExpired,
    LeaseGranted,
    LeaseParked,
    LeaseReleased,
    LeaseResumed,
    MessagesAcked,
    Recorded,
)
from synapse.core.question_events import (
    QuestionAnswered,
    QuestionAsked,
    QuestionClosing,
    QuestionDismissed,
    QuestionExpired,
    QuestionWithdrawn,
)

REMEMBERED = 100
"""The newest questions, which the hub knows whatever became of them."""
CLOSINGS = (QuestionAnswered, QuestionDismissed, QuestionExpired, QuestionWithdrawn)
RULES = {
    "two outcomes": "a question was closed that was closed already, or that nobody had asked",
    "too early": "the hub closed a question before its deadline, or without one",
    "too late": "a person or the asker closed a question after its deadline",
    "impostor": "closed by somebody who may not: no person with a token, and not its asker",
    "no letter": "a closing did not go to who asked, once",
    "other letter": "a letter was taken that says something else than the closing",
    "wrong question": "told with another outcome than the journal has by the position of the answer",
    "parked": "a lease stands still for no question, or runs on while one is open",
    "vanished": "a question is open at the end, or its outcome was never taken and acked",
}


@dataclass(slots=True)
class Asked:
    """A question as the journal has it. closed: the closing, and where."""

    seq: int
    event: QuestionAsked
    closed: Recorded | None = None

    def told(self, seq: int) -> Frame:
        """What is told of it by that position."""
        if self.closed is None or self.closed.seq > seq:
            return {"outcome": None, "answer": None, "by": None, "reason": None}
        told: Frame = {"outcome": "expired", "answer": None, "by": self.closed.actor, "reason": None}
        match self.closed.event:
            case QuestionAnswered(answer=answer, outcome=outcome):
                told |= {"outcome": outcome, "answer": answer}
            case QuestionDismissed(reason=reason):
                told |= {"outcome": "dismissed", "reason": reason}
            case QuestionWithdrawn(reason=reason):
                told |= {"outcome": "withdrawn", "reason": reason}
            case _:
                pass
        return told


@dataclass(slots=True)
class Desk:
    """The fold of the journal. letters: by the seq of a closing, its question. live: the epochs of leases. parked: the
    open questions that a lease stands still for."""

    questions: dict[int, Asked] = field(default_factory=dict)
    letters: dict[int, Asked] = field(default_factory=dict)
    acked: set[int] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)
    live: set[int] = field(default_factory=set)
    parked: dict[int, set[int]] = field(default_factory=dict)

    def find(self, rule: str, text: str) -> None:
        self.findings.append(Finding(rule, text))


def folded(journal: Sequence[Recorded]) -> Desk:
    """What the journal says of questions, event by event."""
    desk = Desk()
    following = {recorded.seq: recorded.event for recorded in journal}
    for recorded in journal:
        event = recorded.event
        match event:
            case QuestionAsked():
                desk.questions[recorded.seq] = Asked(recorded.seq, event)
            case LeaseGranted():
                desk.live.add(recorded.seq)
            case LeaseReleased() | LeaseExpired():
                desk.live.discard(event.epoch)
                desk.parked.pop(event.epoch, None)
            case LeaseParked():
                _park(desk, recorded.seq, event)
            case MessagesAcked():
                desk.acked.update(event.messages)
            case _ if isinstance(event, CLOSINGS):
                _close(desk, recorded, event, following.get(recorded.seq + 1))
            case _:
                pass
    return desk


def _park(desk: Desk, seq: int, event: LeaseParked) -> None:
    asked = desk.questions.get(event.question or 0)
    if event.epoch not in desk.live or asked is None or asked.closed is not None:
        desk.find("parked", f"{event.epoch} is parked at {seq} for {event.question}, and there is {asked}")
    elif event.question is not None:
        desk.parked.setdefault(event.epoch, set()).add(event.question)


def _close(desk: Desk, recorded: Recorded, event: QuestionClosing, next_: object) -> None:
    asked = desk.questions.get(event.question)
    if asked is None or asked.closed is not None:
        desk.find("two outcomes", f"q{event.question} is closed at {recorded.seq}; there is {asked}")
        return
    asked.closed = recorded
    desk.letters[recorded.seq] = asked
    _may_close(desk, asked, recorded, event)
    if [delivery.name for delivery in event.deliveries].count(asked.event.asker) != 1:
        desk.find("no letter", f"the end of q{asked.seq} at {recorded.seq} went to {event.deliveries}")
    for epoch, questions in list(desk.parked.items()):
        questions.discard(asked.seq)
        if not questions:
            del desk.parked[epoch]
            if not (isinstance(next_, LeaseResumed) and next_.epoch == epoch):
                desk.find("parked", f"{epoch} stood still for q{asked.seq}, closed at {recorded.seq}, then {next_}")


def _may_close(desk: Desk, asked: Asked, recorded: Recorded, event: QuestionClosing) -> None:
    deadline = asked.event.deadline_at_ms
    is_default = isinstance(event, QuestionAnswered) and event.outcome == "default"
    is_due = deadline is not None and recorded.at_ms >= deadline
    if is_due and recorded.actor != "hub":
        desk.find("too late", f"{recorded.actor} closed q{asked.seq} at {recorded.seq}: {event}; deadline {deadline}")
    if recorded.actor == "hub":
        if not is_due or not (is_default or isinstance(event, QuestionExpired)):
            desk.find("too early", f"the hub closed q{asked.seq} at {recorded.seq}: {event}; deadline {deadline}")
    elif isinstance(event, QuestionWithdrawn):
        if recorded.actor != asked.event.asker:
            desk.find("impostor", f"{recorded.actor} withdrew q{asked.seq} of {asked.event.asker}")
    elif is_default or getattr(event, "via", None) != "token" or not recorded.actor.startswith("person"):
        desk.find("impostor", f"{recorded.actor} closed q{asked.seq} at {recorded.seq}: {event}")


def check_questions(history: History, journal: Sequence[Recorded]) -> list[Finding]:
    """Everything that is wrong with questions; empty when the hub kept its promises."""
    desk = folded(journal)
    findings = list(desk.findings)
    findings += [finding for op in history.ops for finding in _told_rightly(op, desk)]
    findings += _nothing_vanished(history, desk)
    return findings


def _told_rightly(op: Op, desk: Desk) -> Iterator[Finding]:
    if op.frame is None:
        return
    seq = reflects(op)
    if op.is_refused:
        if op.frame["error"]["code"] == "already_answered":
            yield from _same(op.name, op.frame["error"]["facts"], desk, seq)
        if op.frame["error"]["code"] == "not_found" and op.type.startswith("question."):
            known = [asked for asked in desk.questions if asked <= seq][-REMEMBERED:]
            if number_of(op.body["id"]) in known:
                yield Finding("wrong question", f"{op.name} at {seq} is told that there is none: {op.frame}")
    elif op.type in ("question.show", "question.wait", "question.answer", "question.dismiss", "question.withdraw"):
        yield from _same(op.name, op.reply, desk, seq)
    elif op.type == "question.list":
        yield from _listed(op, desk, seq)
    elif op.type == "inbox.take" and str(op.reply["message"]["body"].get("type")).startswith("question."):
        message = op.reply["message"]
        asked, letter = desk.letters.get(number_of(message["id"])), message["body"]
        told = {} if asked is None else asked.told(seq)
        is_same = asked is not None and letter["question"] == f"q{asked.seq}" and asked.event.asker == op.agent
        if not is_same or any(letter.get(name) != value for name, value in told.items()):
            yield Finding("other letter", f"{op.name} took {message}; there is {asked}")


def _same(who: str, told: Frame, desk: Desk, seq: int) -> Iterator[Finding]:
    asked = desk.questions.get(number_of(told["id"]))
    there = None if asked is None else asked.told(seq)
    if there is None or any(told.get(name) != value for name, value in there.items()):
        yield Finding("wrong question", f"{who} at {seq} is told {told}; there is {asked}")


def _listed(op: Op, desk: Desk, seq: int) -> Iterator[Finding]:
    """A list of open questions is a part of those that are open, and says how many there are."""
    seqs = list(desk.questions)
    known = [desk.questions[found] for found in seqs[: bisect_right(seqs, seq)]]
    is_open = {asked.seq for asked in known if asked.closed is None or asked.closed.seq > seq}
    listed = [number_of(found["id"]) for found in op.reply["questions"]]
    wanted = {found for found in is_open if op.body.get("asker") in (None, desk.questions[found].event.asker)}
    due = min(len(wanted), op.body["limit"])
    if not set(listed) <= wanted or len(listed) != due or op.reply["open"] != len(is_open):
        yield Finding("wrong question", f"{op.name} lists {listed} of {op.reply['open']}; open are {sorted(wanted)}")


def _nothing_vanished(history: History, desk: Desk) -> Iterator[Finding]:
    """Whoever takes its letters has taken and acked each by the end."""
    taken: dict[str, set[int]] = defaultdict(set)
    takers = {op.agent for op in history.ops if op.type == "inbox.take"}
    for op in history.ops:
        if op.type == "inbox.take" and op.is_ok:
            taken[op.agent].add(number_of(op.reply["message"]["id"]))
    for asked in desk.questions.values():
        asker = asked.event.asker
        if asked.closed is None:
            yield Finding("vanished", f"q{asked.seq} of {asker} is open at the end")
        elif asker in takers and asked.closed.seq not in desk.acked:
            yield Finding("vanished", f"the end of q{asked.seq} at {asked.closed.seq} is still in the inbox of {asker}")
        elif asker in takers and asked.closed.seq not in taken[asker]:
            yield Finding("vanished", f"the end of q{asked.seq} was acked, and {asker} never saw it")
