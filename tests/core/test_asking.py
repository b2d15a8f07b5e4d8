"""Questions to people: closed once, told once to each whom they concern; a lease waits with its task."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.core.conftest import World
from tests.core.lease_world import LeaseWorld

from synapse.core import asking
from synapse.core.by import By
from synapse.core.events import Event, LeaseParked, LeaseResumed, Recorded
from synapse.core.holding import decide_expiry
from synapse.core.kernel import Mutation
from synapse.core.leasing import arm_all
from synapse.core.plan import follow, openings
from synapse.core.plan_events import TaskMoved
from synapse.core.question_answers import question_letter
from synapse.core.question_events import QuestionAnswered, QuestionClosing, QuestionExpired, QuestionWithdrawn
from synapse.core.questions import ending
from synapse.errors import Rejected
from synapse.protocol.commands import (
    AckInbox,
    CreateRoom,
    DeleteRoom,
    ForgetAgent,
    HandOffLease,
    ParkLease,
    ReleaseLease,
)
from synapse.protocol.limits import Limits
from synapse.protocol.plan_commands import DeclareTask, UpdateTask
from synapse.protocol.question_commands import AnswerQuestion, AskQuestion, DismissQuestion, WithdrawQuestion
from synapse.protocol.question_replies import QuestionClosed, QuestionInfo
from synapse.protocol.replies import Lease, Reply
from synapse.protocol.session_commands import StartSession
from synapse.protocol.session_replies import SessionKept
from synapse.protocol.terms import AGENT, HUMAN


class AskWorld(LeaseWorld):
    """As the hub does it: what follows for questions and the plan is in the same transaction, and deadlines that have
    passed count before what a turn is asked."""

    def do(self, command: Mutation, by: By | str, key: str | None = None) -> tuple[list[Recorded], Reply | None]:
        self.tick()
        return super().do(command, by, key)

    def record(self, events: Sequence[Event], actor: str) -> list[Recorded]:
        recorded = super().record(events, actor)
        for entry in list(recorded):
            for question, reason in asking.needless(self.state, entry):
                recorded += super().record(asking.decide_needless(self.state, question, reason), "hub")
        recorded += super().record(follow(self.state, recorded), "hub")
        return recorded + super().record(openings(self.state, recorded), "hub")

    def tick(self) -> list[Recorded]:
        """Deadlines that have passed are dealt with."""
        found: list[Recorded] = []
        for question in asking.due(self.state, self.at_ms, asking.EXPIRED_MAX):
            found += self.record(asking.decide_deadline(self.state, question), "hub")
        return found

    def ask(self, name: str, title: str = "Which?", **fields: object) -> str:
        """A question; its id."""
        return self.reply(QuestionInfo, AskQuestion(title=title, **fields), name).id  # type: ignore[arg-type]  # the fields of the caller

    def person(self, name: str = "hal") -> By:
        """Somebody with a token of the role human."""
        return By(name, self.agent(name), 1, "main:general", self.at_ms, self.lease_ms, role=HUMAN)

    def close(self, question: str, answer: str = "yes") -> QuestionClosed:
        """An operator answers."""
        return self.reply(QuestionClosed, AnswerQuestion(id=question, answer=answer), "operator")

    def letters(self, name: str) -> list[int]:
        """What is unacked in an inbox."""
        return list(self.state.agents.inboxes[self.agent(name)].entries)

    def status(self, task: str) -> str:
        found = self.state.plan.find((self.state.rooms.by_name["main"].id, task))
        assert found is not None
        return found.status


@pytest.fixture
def world() -> AskWorld:
    return AskWorld()


def kinds(recorded: Sequence[Recorded]) -> list[type[Event]]:
    return [type(item.event) for item in recorded]


# Who answers, and once.


def test_only_a_person_answers_and_it_is_kept_who_and_how(world: AskWorld) -> None:
    question = world.ask("ada")
    by = world.by("hal")
    by.role = AGENT
    refused = world.refusal(AnswerQuestion(id=question, answer="yes"), by)
    assert (refused.code, refused.facts) == ("not_permitted", {"role": "agent", "needed": "human"}), "not by its kind"
    assert world.refusal(DismissQuestion(id=question), "bob").code == "not_permitted"
    closed = world.reply(QuestionClosed, AnswerQuestion(id=question, answer="yes"), world.person())
    assert (closed.by, closed.via, closed.answer, closed.told) == ("hal", "token", "yes", ("ada",))
    assert world.close(world.ask("ada")).via == "operator"


def test_the_first_answer_stays_and_a_second_one_is_told_it(world: AskWorld) -> None:
    question = world.ask("ada")
    first = world.close(question)
    again = world.close(question)
    assert again.already
    assert (again.answer, again.by, again.closed_at_ms) == (first.answer, first.by, first.closed_at_ms)
    assert world.events(AnswerQuestion(id=question, answer="yes"), world.person()) == [], "also of another person"
    for command in (AnswerQuestion(id=question, answer="no"), DismissQuestion(id=question)):
        refused = world.refusal(command, world.person())
        assert refused.code == "already_answered"
        assert (refused.facts["answer"], refused.facts["by"]) == ("yes", "operator")
        assert refused.facts["closed_at_ms"] == first.closed_at_ms
    assert world.refusal(WithdrawQuestion(id=question), "ada").facts["answer"] == "yes"
    assert len(world.letters("ada")) == 1


def test_a_dismissal_and_a_withdrawal_are_the_same_twice(world: AskWorld) -> None:
    dismissed, withdrawn = world.ask("ada"), world.ask("ada")
    for _ in range(2):
        world.do(DismissQuestion(id=dismissed, reason="no time"), "operator")
        world.do(WithdrawQuestion(id=withdrawn), "ada")
    assert world.refusal(DismissQuestion(id=dismissed, reason="other"), "operator").facts["reason"] == "no time"
    assert len(world.letters("ada")) == 2
    assert world.refusal(WithdrawQuestion(id=world.ask("ada")), "bob").code == "not_permitted"


def test_a_repeat_under_a_key_says_the_same_and_changes_nothing(world: AskWorld) -> None:
    command = AskQuestion(title="Which?", task="T1", context=msgspec.Raw(b'{"a":1}'))
    world.take("ada", "T1")
    first = world.reply(QuestionInfo, command, "ada", key="k")
    close = AnswerQuestion(id=first.id, answer="yes")
    closed = world.reply(QuestionClosed, close, "operator", key="a")
    before = world.state.seq
    assert world.reply(QuestionInfo, command, "ada", key="k") == msgspec.structs.replace(first)
    assert world.reply(QuestionClosed, close, "operator", key="a") == closed
    assert world.state.seq == before


# What may be asked and answered.


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"title": " "}, "bad_request"),
        ({"title": "x" * 257}, "bad_request"),
        ({"question": "x" * 8_193}, "bad_request"),
        ({"context": msgspec.Raw(b'"' + b"x" * 16_384 + b'"')}, "too_large"),
        ({"options": ("a",) * 2}, "bad_request"),
        ({"options": (" ",)}, "bad_request"),
        ({"options": tuple(map(str, range(33)))}, "too_large"),
        ({"options": ("a", "b"), "default": "c"}, "bad_request"),
        ({"options": ("a", "b"), "default": "c", "free": True}, "bad_request"),
        ({"on_deadline": "default"}, "bad_request"),
        ({"on_deadline": "explode"}, "bad_request"),
        ({"deadline_ms": 0}, "bad_request"),
        ({"deadline_ms": -5}, "bad_request"),
        ({"deadline_at_ms": 1}, "bad_request"),
        ({"deadline_ms": 5, "deadline_at_ms": 1 << 50}, "bad_request"),
        ({"deadline_ms": 366 * 86_400_000}, "bad_request"),
        ({"priority": "extreme"}, "bad_request"),
        ({"tags": ("A b",)}, "bad_name"),
        ({"tags": tuple("abcdefghijklmnopqr")}, "too_large"),
        ({"task": "../x"}, "bad_name"),
        ({"epoch": 5}, "bad_request"),
        ({"task": "T1", "epoch": 5}, "stale_epoch"),
        ({"session": "s5"}, "not_found"),
        ({"session": "five"}, "bad_request"),
        ({"room": "nowhere"}, "not_found"),
    ],
)
@pytest.mark.bad_input("BI-79")
def test_what_cannot_be_asked_is_refused(world: AskWorld, fields: dict[str, object], code: str) -> None:
    assert world.refusal(AskQuestion(**{"title": "Which?", **fields}), "ada").code == code  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.bad_input("BI-80")
def test_an_answer_is_one_of_the_options_unless_it_is_free(world: AskWorld) -> None:
    question = world.ask("ada", options=("red", "blue"))
    for answer, option in (("green", None), (" ", None), (None, 0), (None, 3), (None, None), ("red", 1)):
        command = AnswerQuestion(id=question, answer=answer, option=option)
        assert world.refusal(command, "operator").code == "bad_request"
    assert world.reply(QuestionClosed, AnswerQuestion(id=question, option=2), "operator").answer == "blue"
    assert world.close(world.ask("ada", options=("red",), free=True), "green").answer == "green"
    assert world.refusal(AnswerQuestion(id=world.ask("ada"), answer="x" * 8_193), "operator").code == "bad_request"


@pytest.mark.bad_input("BI-81")
def test_what_is_no_question_is_not_found(world: AskWorld) -> None:
    for text, code in (("m5", "bad_request"), ("q", "bad_request"), ("q5", "not_found"), ("q" * 5, "bad_request")):
        assert world.refusal(AnswerQuestion(id=text, answer="yes"), "operator").code == code


@pytest.mark.bad_input("BI-82")
def test_open_questions_are_bounded_and_the_limit_is_named() -> None:
    limits = Limits(questions_per_room_max=4, questions_per_agent_max=3, questions_per_task_max=2)
    world = AskWorld(limits)
    world.ask("ada", task="T1")
    world.ask("ada", task="T1")
    assert world.refusal(AskQuestion(title="x", task="T1"), "ada").facts["limit"] == "questions_per_task_max"
    last = world.ask("ada")
    assert world.refusal(AskQuestion(title="x"), "ada").facts["limit"] == "questions_per_agent_max"
    world.ask("bob")
    assert world.refusal(AskQuestion(title="x"), "cy").facts["limit"] == "questions_per_room_max"
    world.close(last)
    world.ask("cy")
    small = AskWorld(Limits(questions_bytes_max=2_000))
    small.ask("ada", question="x" * 1_000)
    assert small.refusal(AskQuestion(title="x"), "ada").facts["limit"] == "questions_bytes_max"


def test_a_session_that_asks_waits_for_input_while_a_question_of_it_is_open(world: AskWorld) -> None:
    started = world.reply(SessionKept, StartSession(), "ada")
    other = world.reply(SessionKept, StartSession(), "bob")
    questions = [world.ask("ada", session=started.session) for _ in range(2)]
    assert world.refusal(AskQuestion(title="x", session=other.session), "ada").code == "not_permitted"
    for question in questions:
        assert _state_of(world, started.session) == "waiting_for_input"
        world.close(question)
    assert _state_of(world, started.session) == "working"


def test_a_question_about_a_task_is_of_the_session_that_works_on_it(world: AskWorld) -> None:
    first = world.reply(SessionKept, StartSession(task="build"), "ada")
    mine = world.reply(SessionKept, StartSession(task="build"), "ada")
    others = world.reply(SessionKept, StartSession(task="build"), "bob")
    elsewhere = world.reply(SessionKept, StartSession(task="test"), "ada")
    question = world.ask("ada", task="build")
    states = [_state_of(world, one.session) for one in (first, mine, others, elsewhere)]
    assert states == ["working", "waiting_for_input", "working", "working"], "the latest one of the asker"
    world.close(question)
    assert _state_of(world, mine.session) == "working"
    world.ask("ada")
    world.ask("ada", task="deploy")
    assert [_state_of(world, one.session) for one in (mine, elsewhere)] == ["working", "working"]


def _state_of(world: World, session: str) -> str:
    from synapse.core.sessions import shown_state

    return shown_state(world.state, world.state.sessions.by_id[int(session[1:])])


# The lease that waits.


def test_a_question_parks_the_lease_of_its_asker_until_the_last_one_is_closed(world: AskWorld) -> None:
    world.do(DeclareTask(task="T1"), "ada")
    epoch = world.take("ada", "T1")
    recorded, first = world.do(AskQuestion(title="a", task="T1", epoch=epoch), "ada")
    assert isinstance(first, QuestionInfo)
    assert LeaseParked in kinds(recorded)
    assert (first.parks, world.status("T1")) == (epoch, "waiting_for_input")
    second = world.ask("ada", task="T1")
    assert world.lease(epoch).is_parked
    first_closed = world.do(AnswerQuestion(id=first.id, answer="yes"), "operator")[0]
    assert LeaseResumed not in kinds(first_closed), "its time would run on"
    assert world.lease(epoch).is_parked
    assert world.status("T1") == "waiting_for_input"
    closed = world.do(AnswerQuestion(id=second, answer="yes"), "operator")[0]
    assert LeaseResumed in kinds(closed)
    assert (world.lease(epoch).is_parked, world.status("T1")) == (False, "in_progress")


def test_a_question_of_who_does_not_hold_the_task_parks_nothing(world: AskWorld) -> None:
    world.do(DeclareTask(task="T1"), "ada")
    epoch = world.take("ada", "T1")
    question = world.ask("bob", task="T1")
    assert not world.lease(epoch).is_parked
    assert world.status("T1") == "in_progress"
    assert world.close(question).told == ("bob", "ada"), "who holds the task is told too"
    assert world.refusal(AskQuestion(title="x", task="T1", epoch=epoch), "bob").code == "stale_epoch"


def test_parking_by_hand_and_by_question_do_not_undo_each_other(world: AskWorld) -> None:
    epoch = world.take("ada", "T1")
    question = world.ask("ada", task="T1")
    refused = world.refusal(ParkLease(task="T1", parked=False), "ada")
    assert (refused.code, refused.facts["questions"]) == ("not_empty", [question])
    assert kinds(world.do(ParkLease(task="T1", parked=True), "ada")[0]) == [LeaseParked]
    assert LeaseResumed not in kinds(world.do(AnswerQuestion(id=question, answer="yes"), "operator")[0])
    assert world.lease(epoch).is_parked
    assert world.reply(Lease, ParkLease(task="T1", parked=False), "ada").status == "held"


def test_a_hand_off_takes_the_parking_along_and_the_answer_goes_to_both(world: AskWorld) -> None:
    world.take("ada", "T1")
    question = world.ask("ada", task="T1")
    world.do(HandOffLease(task="T1", to="bob"), "ada")
    held = next(iter(world.state.leases.live.values()))
    assert (held.ask.owner, held.is_parked) == ("bob", True)
    before = len(world.letters("bob"))
    assert world.close(question).told == ("ada", "bob")
    assert (len(world.letters("ada")), len(world.letters("bob"))) == (1, before + 1)
    assert not held.is_parked


def test_another_grant_of_the_same_work_stays_parked(world: AskWorld) -> None:
    world.take("ada", "T1", "a/**")
    question = world.ask("ada", task="T1")
    epoch = world.take("ada", "T1", "b/**")
    assert world.lease(epoch).questions == [int(question[1:])]
    world.close(question)
    assert not world.lease(epoch).is_parked


def test_at_the_ceiling_the_lease_ends_and_the_question_stays_open(world: AskWorld) -> None:
    world.do(DeclareTask(task="T1"), "ada")
    epoch = world.take("ada", "T1")
    question = world.ask("ada", task="T1")
    world.record(decide_expiry(world.state, world.lease(epoch), "parked"), "hub")
    assert world.status("T1") == "waiting_for_input"
    mine = world.take("bob", "T1")
    assert not world.lease(mine).is_parked
    assert world.close(question).told == ("ada", "bob")
    assert world.status("T1") == "in_progress"
    other = world.ask("ada", task="T1")
    world.release("bob", "T1")
    world.close(other)
    assert world.status("T1") == "open"


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_what_nobody_needs_any_more_is_withdrawn_by_the_hub(world: AskWorld, status: str) -> None:
    world.do(DeclareTask(task="T1"), "ada")
    world.take("ada", "T1")
    question = world.ask("ada", task="T1")
    other = world.ask("bob", task="T1")
    recorded = world.do(UpdateTask(task="T1", status=status), "ada")[0]
    ends = [item for item in recorded if isinstance(item.event, QuestionWithdrawn)]
    assert [item.event.reason for item in ends if isinstance(item.event, QuestionWithdrawn)] == [f"task_{status}"] * 2
    assert {item.actor for item in ends} == {"hub"}
    assert [world.refusal(AnswerQuestion(id=q, answer="x"), "operator").facts["status"] for q in (question, other)] == [
        "withdrawn"
    ] * 2
    assert world.status("T1") == status


def test_the_questions_of_who_is_forgotten_are_withdrawn_and_the_holder_is_told(world: AskWorld) -> None:
    world.take("ada", "T1")
    question = world.ask("ada", task="T1")
    world.do(HandOffLease(task="T1", to="bob"), "ada")
    world.do(ForgetAgent(name="ada"), "operator")
    refused = world.refusal(AnswerQuestion(id=question, answer="x"), "operator")
    assert (refused.facts["status"], refused.facts["reason"]) == ("withdrawn", "forgotten")
    assert not any(lease.is_parked for lease in world.state.leases.live.values())


@pytest.mark.parametrize(("room", "there"), [("main", ""), ("side", " --room side")])
def test_the_letter_about_an_end_says_where_the_task_is_to_be_looked_at(world: AskWorld, room: str, there: str) -> None:
    world.do(CreateRoom(room="side"), "operator")
    question = world.ask("ada", room=room, task="T1")
    [recorded, *_] = world.do(AnswerQuestion(id=question, answer="yes"), world.person())[0]
    assert isinstance(recorded.event, QuestionAnswered)
    assert question_letter(recorded.event, "hal").body["next"] == f"synapse task show T1{there}"


@pytest.mark.bad_input("BI-83")
def test_a_room_with_open_questions_is_not_deleted(world: AskWorld) -> None:
    world.do(CreateRoom(room="side"), "operator")
    question = world.ask("ada", room="side")
    assert world.refusal(DeleteRoom(room="side"), "operator").code == "not_empty"
    world.close(question)
    world.do(DeleteRoom(room="side"), "operator")
    assert world.refusal(AnswerQuestion(id=question, answer="x"), "operator").code == "not_found"


# Deadlines.


def test_at_its_time_the_default_is_the_answer_or_it_expires(world: AskWorld) -> None:
    a = world.ask("ada", default="no", deadline_ms=1_000)
    b = world.ask("ada", deadline_ms=1_000)
    c = world.ask("ada", default="no", on_deadline="expire", deadline_at_ms=world.at_ms + 1_000)
    world.at_ms += 999
    assert world.tick() == []
    world.at_ms += 1
    events = [item.event for item in world.tick()]
    assert [type(event) for event in events] == [QuestionAnswered, QuestionExpired, QuestionExpired]
    first = events[0]
    assert isinstance(first, QuestionAnswered)
    assert (first.answer, first.outcome, first.via) == ("no", "default", None)
    assert world.tick() == []
    assert len(world.letters("ada")) == 3
    facts = [world.refusal(AnswerQuestion(id=q, answer="x"), "operator").facts["outcome"] for q in (a, b, c)]
    assert facts == ["default", "expired", "expired"]


def test_a_clock_that_jumps_back_makes_deadlines_later_and_none_twice(world: AskWorld) -> None:
    world.ask("ada", deadline_ms=1_000)
    world.at_ms -= 3_600_000
    assert world.tick() == []
    world.at_ms += 7_200_000
    assert len(world.tick()) == 1
    world.at_ms -= 3_600_000
    assert world.tick() == []


# All of it at once, against a model.

NAMES = ("ada", "bob", "cy")
TASKS = ("T1", "T2")
ENDED = ("cancelled", "failed")


@dataclass
class Asked:
    asker: str
    task: str | None
    deadline_ms: int | None
    default: str | None
    moved: bool
    outcome: str | None = None


@dataclass
class Held:
    owner: str
    by_hand: bool = False
    questions: set[int] = field(default_factory=set)


class Questions(RuleBasedStateMachine):
    """What a plain reading of the promises says, beside what core does."""

    def __init__(self) -> None:
        super().__init__()
        self.world = AskWorld()
        for task in TASKS:
            self.world.do(DeclareTask(task=task), "ada")
        self.asked: dict[int, Asked] = {}
        self.held: dict[str, Held] = {}
        self.status = dict.fromkeys(TASKS, "open")
        self.letters: dict[str, list[tuple[int, str]]] = {name: [] for name in NAMES}

    # the model

    def closes(self, number: int, outcome: str) -> None:
        asked = self.asked[number]
        assert asked.outcome is None, "a question closes at most once"
        asked.outcome = outcome
        holder = self.held.get(asked.task) if asked.task is not None else None
        for name in dict.fromkeys([asked.asker, *([holder.owner] if holder else [])]):
            self.letters[name].append((number, outcome))
        if holder is not None:
            holder.questions.discard(number)
        others = [q for q in self.asked.values() if q.outcome is None and q.moved and q.task == asked.task]
        if asked.task is not None and asked.moved and not others and self.status[asked.task] == "waiting_for_input":
            self.status[asked.task] = "open" if holder is None else "in_progress"

    def lapses(self, task: str) -> None:
        del self.held[task]
        if self.status[task] == "in_progress":
            self.status[task] = "open"

    def pick(self, draw: int) -> int | None:
        return sorted(self.asked)[draw % len(self.asked)] if self.asked else None

    # the rules

    @rule(
        name=st.sampled_from(NAMES),
        task=st.sampled_from((None, *TASKS)),
        deadline_ms=st.sampled_from((None, 1_000, 60_000)),
        default=st.sampled_from((None, "no")),
    )
    def ask(self, name: str, task: str | None, deadline_ms: int | None, default: str | None) -> None:
        number = int(self.world.ask(name, task=task, deadline_ms=deadline_ms, default=default)[1:])
        held = self.held.get(task) if task is not None else None
        moved = False
        if held is not None and held.owner == name and task is not None:
            held.questions.add(number)
            moved = self.status[task] == "in_progress"
            self.status[task] = "waiting_for_input" if moved else self.status[task]
        if task is not None and self.status[task] == "waiting_for_input":
            moved = moved or any(q.moved and q.outcome is None and q.task == task for q in self.asked.values())
        until = None if deadline_ms is None else self.world.at_ms + deadline_ms
        self.asked[number] = Asked(name, task, until, default, moved)

    @rule(draw=st.integers(0, 99), answer=st.sampled_from(("yes", "no")), is_human=st.booleans())
    def answer(self, draw: int, answer: str, is_human: bool) -> None:
        number = self.pick(draw)
        if number is None:
            return
        by = self.world.person() if is_human else self.world.by("operator")
        before, open_ = self.world.state.seq, self.asked[number].outcome is None
        try:
            self.world.do(AnswerQuestion(id=f"q{number}", answer=answer), by)
        except Rejected as refused:
            assert refused.code == "already_answered"
            assert not open_
        if open_:
            self.closes(number, f"answered {answer}")
        else:
            assert self.world.state.seq == before, "a second answer changes nothing"

    @rule(draw=st.integers(0, 99), is_dismissal=st.booleans())
    def end(self, draw: int, is_dismissal: bool) -> None:
        number = self.pick(draw)
        if number is None or self.asked[number].outcome is not None:
            return
        if is_dismissal:
            self.world.do(DismissQuestion(id=f"q{number}"), "operator")
        else:
            self.world.do(WithdrawQuestion(id=f"q{number}"), self.asked[number].asker)
        self.closes(number, "dismissed" if is_dismissal else "withdrawn")

    @rule(passed_ms=st.sampled_from((-90_000, -1, 0, 999, 1_000, 60_000)))
    def jump(self, passed_ms: int) -> None:
        self.world.at_ms += passed_ms
        self.world.tick()
        self.deadlines_pass()

    @rule(draw=st.integers(0, 99), how=st.sampled_from(("answer", "dismiss", "withdraw")))
    def come_too_late(self, draw: int, how: str) -> None:
        """Somebody closes a question after its deadline, before the tick."""
        number = self.pick(draw)
        if number is None or self.asked[number].outcome is not None or self.asked[number].deadline_ms is None:
            return
        self.world.at_ms = max(self.world.at_ms, self.asked[number].deadline_ms or 0)
        with pytest.raises(Rejected, match="before; that stays so"):
            if how == "withdraw":
                self.world.do(WithdrawQuestion(id=f"q{number}"), self.asked[number].asker)
            elif how == "dismiss":
                self.world.do(DismissQuestion(id=f"q{number}"), "operator")
            else:
                self.world.do(AnswerQuestion(id=f"q{number}", answer="late"), self.world.person())
        self.deadlines_pass()

    def deadlines_pass(self) -> None:
        due = [(q.deadline_ms, n) for n, q in self.asked.items() if q.outcome is None and q.deadline_ms is not None]
        for until, number in sorted(due):
            if until <= self.world.at_ms:
                default = self.asked[number].default
                self.closes(number, "expired" if default is None else f"default {default}")

    @rule(name=st.sampled_from(NAMES), task=st.sampled_from(TASKS))
    def claim(self, name: str, task: str) -> None:
        if task in self.held or self.status[task] in ENDED:
            return
        self.world.take(name, task)
        self.held[task] = Held(name)
        if self.status[task] == "open":
            self.status[task] = "in_progress"

    @rule(task=st.sampled_from(TASKS), how=st.sampled_from(("release", "ceiling")))
    def lose(self, task: str, how: str) -> None:
        held = self.held.get(task)
        if held is None:
            return
        if how == "release":
            self.world.do(ReleaseLease(task=task), held.owner)
        else:
            lease = next(lease for lease in self.world.state.leases.live.values() if lease.ask.task == task)
            self.world.record(decide_expiry(self.world.state, lease, "parked"), "hub")
        self.lapses(task)

    @rule(task=st.sampled_from(TASKS), to=st.sampled_from(NAMES))
    def hand_off(self, task: str, to: str) -> None:
        held = self.held.get(task)
        if held is None or held.owner == to:
            return
        self.world.do(HandOffLease(task=task, to=to), held.owner)
        held.owner = to
        self.letters[to].append((-1, "handed off"))

    @rule(task=st.sampled_from(TASKS), parked=st.booleans())
    def park(self, task: str, parked: bool) -> None:
        held = self.held.get(task)
        if held is None:
            return
        try:
            self.world.do(ParkLease(task=task, parked=parked), held.owner)
        except Rejected as refused:
            assert refused.code == "not_empty"
            assert held.questions
            assert not parked
        else:
            assert parked or not held.questions
            held.by_hand = parked

    @rule(task=st.sampled_from(TASKS), status=st.sampled_from(ENDED))
    def finish(self, task: str, status: str) -> None:
        held = self.held.get(task)
        if held is None:
            return
        self.world.do(UpdateTask(task=task, status=status), held.owner)
        del self.held[task]
        self.status[task] = status
        for number in [n for n, q in self.asked.items() if q.outcome is None and q.task == task]:
            self.closes(number, "withdrawn")

    @rule(name=st.sampled_from(NAMES))
    def ack(self, name: str) -> None:
        self.world.do(AckInbox(all=True), name)
        self.letters[name] = []

    @rule()
    def restart(self) -> None:
        self.world.restart()
        arm_all(self.world.state, self.world.rules.limits, 0)
        self.world.arrive("ada", "bob", "cy", "hal")

    # what must hold

    @invariant()
    def each_is_as_the_model_says(self) -> None:
        questions = self.world.state.questions
        assert set(questions.open) == {number for number, q in self.asked.items() if q.outcome is None}
        for number, asked in self.asked.items():
            found = questions.find(number)
            assert found is not None
            said = " ".join(part for part in (found.outcome, found.answer) if part is not None) or None
            assert said == asked.outcome

    @invariant()
    def every_letter_is_there_once(self) -> None:
        rows = {row.seq: row for row in self.world.rows}
        for name in NAMES:
            found: list[tuple[int, str]] = []
            for seq in self.world.letters(name):
                event = self.world.read(seq, 1)[0].event
                if isinstance(event, QuestionClosing):
                    _, outcome, answer, _, _ = ending(event)
                    found.append((event.question, f"{outcome} {answer}" if answer is not None else outcome))
                else:
                    found.append((-1, "handed off"))
                assert seq in rows
            assert sorted(found) == sorted(self.letters[name])

    @invariant()
    def a_lease_is_parked_for_a_question_or_by_hand(self) -> None:
        leases = {lease.ask.task: lease for lease in self.world.state.leases.live.values()}
        assert leases.keys() == self.held.keys()
        for task, held in self.held.items():
            assert leases[task].is_parked == (held.by_hand or bool(held.questions))
            assert (leases[task].parked, set(leases[task].questions)) == (held.by_hand, held.questions)

    @invariant()
    def tasks_wait_with_their_questions(self) -> None:
        assert {task: self.world.status(task) for task in TASKS} == self.status

    @invariant()
    def counts_are_right(self) -> None:
        questions = self.world.state.questions
        assert questions.bytes == sum(question.size for question in questions.open.values())
        assert questions.kept_bytes == sum(question.size for question in questions.closed.values())
        for table in (questions.of_room, questions.of_agent):
            assert sorted(number for there in table.values() for number in there) == sorted(questions.open)


Questions.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestQuestions = Questions.TestCase


def test_what_moves_a_task_says_which_question(world: AskWorld) -> None:
    world.do(DeclareTask(task="T1"), "ada")
    world.take("ada", "T1")
    recorded = world.do(AskQuestion(title="Which?", task="T1"), "ada")[0]
    moved = [item.event for item in recorded if isinstance(item.event, TaskMoved)]
    assert [(event.reason, event.note) for event in moved] == [("question", f"q{recorded[0].seq} asks people: Which?")]
