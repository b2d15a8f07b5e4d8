"""Lies about questions to people, each with the rule by which it must be named; and an honest dialogue."""

from collections.abc import Callable
from typing import Any

import msgspec
from tests.simulation.paper import ROOM, TTL_MS, Paper, expired
from tests.simulation.plan_lies import held_task

from synapse.core.events import Delivery, Event, LeaseExpired, LeaseParked, LeaseResumed, MessagesLent
from synapse.core.plan_events import TaskMoved
from synapse.core.question_events import (
    QuestionAnswered,
    QuestionAsked,
    QuestionDismissed,
    QuestionExpired,
    QuestionWithdrawn,
)
from synapse.core.session_events import SessionStarted

Json = dict[str, Any]
WHERE: Json = {"room": ROOM, "room_name": "main"}


def asked(hub: Paper, who: str = "ada", title: str = "why", **more: Any) -> QuestionAsked:
    """Asked; the event that follows from it."""
    span_ms = more.pop("deadline_ms", None)
    body = {"title": title, "deadline_ms": span_ms, "context": None} | more
    hub.hear(who, "question.ask", {name: it for name, it in body.items() if name != "moved"})
    if more.get("default") is not None:
        more.setdefault("on_deadline", "default")
    more.pop("epoch", None)
    return QuestionAsked(**WHERE, title=title, asker=who, agent=hub.ids[who], deadline_at_ms=span_ms, **more)


def question(hub: Paper, **more: Any) -> int:
    """One of ada's; its number."""
    return hub.write("ada", asked(hub, **more))


def to(hub: Paper, *names: str) -> tuple[Delivery, ...]:
    """Arrivals in these inboxes."""
    return tuple(Delivery(name, hub.ids[name], hub.ledger.numbers[f"@{name}"] + 1) for name in names)


def end(hub: Paper, kind: Any, number: int, *told: str, **more: Any) -> Any:
    """The end of a question of ada's, told to her and to who is named."""
    names = {"title": "why", "asker": "ada"} | more
    return kind(**WHERE, question=number, deliveries=to(hub, *(told or ("ada",))), **names)


def answer(hub: Paper, number: int, text: str = "yes", *told: str, who: str = "operator", **more: Any) -> Any:
    """A person answers; the event that follows from it."""
    hub.hear(who, "question.answer", {"id": f"q{number}", "answer": text})
    via = "operator" if who == "operator" else "token"
    return end(hub, QuestionAnswered, number, *told, answer=text, via=via, **more)


def parked(hub: Paper) -> tuple[int, int]:
    """Ada holds T1, which is in no plan, and asks about it; the question and the epoch."""
    epoch = hub.grant("ada", "T1")
    event, number = asked(hub, task="T1"), hub.ledger.head + 1
    hub.write("ada", event, stands(hub, epoch, number))
    return number, epoch


def stands(hub: Paper, epoch: int, number: int | None) -> LeaseParked:
    return LeaseParked(ask=hub.terms.live[epoch].ask, epoch=epoch, question=number)


def runs_on(hub: Paper, epoch: int) -> LeaseResumed:
    return LeaseResumed(ask=hub.terms.live[epoch].ask, epoch=epoch)


def moved(epoch: int, previous: str, status: str, reason: str) -> TaskMoved:
    return TaskMoved(
        **WHERE, task="T1", title="T1", previous=previous, status=status, reason=reason, owner="ada", epoch=epoch
    )


def told(number: int, **more: Any) -> Json:
    """An open question as it is told."""
    return {"id": f"q{number}", "room": "main", "title": "why", "status": "open", "priority": "normal",
            "asker": "ada", "asked_at_ms": 0} | more  # fmt: skip


def first(hub: Paper, number: int, **more: Any) -> Json:
    """How a question was closed, as it is told."""
    return {"id": f"q{number}", "status": "answered", "outcome": "answered", "answer": "yes", "by": "operator",
            "via": "operator", "closed_at_ms": 0, "told": ["ada"]} | more  # fmt: skip


def refuse(hub: Paper, who: str, kind: str, body: Json, code: str, facts: Json) -> None:
    hub.say(who, {"type": "error", "id": hub.hear(who, kind, body), "error": {"code": code, "facts": facts}})


def a_question_nobody_asked(hub: Paper) -> None:
    hub.write("bob", asked(hub))


def a_question_twice(hub: Paper) -> None:
    question(hub)
    question(hub)


def a_question_with_another_date(hub: Paper) -> None:
    event = asked(hub, deadline_ms=1_000)
    hub.write("ada", msgspec.structs.replace(event, deadline_at_ms=1_001))


def a_question_of_no_session(hub: Paper) -> None:
    hub.hear("ada", "session.start", {"summary": "s", "task": "T1"})
    begun = SessionStarted(**WHERE, agent=hub.ids["ada"], owner="ada", display_name="ada", task="T1", summary="s")
    hub.write("ada", begun)
    hub.write("ada", asked(hub, task="T1"))


def asked_under_a_dead_epoch(hub: Paper) -> None:
    epoch = hub.grant("ada", "T1")
    hub.loop.now_s += TTL_MS / 1000
    hub.write("hub", expired(epoch))
    question(hub, task="T1", epoch=epoch)


def a_lease_runs_on_while_it_waits(hub: Paper) -> None:
    hub.grant("ada", "T1")
    question(hub, task="T1")


def a_lease_stands_still_for_nothing(hub: Paper) -> None:
    epoch = hub.grant("ada", "T1")
    hub.write("ada", stands(hub, epoch, question(hub)))


def a_task_does_not_wait(hub: Paper) -> None:
    epoch = held_task(hub)
    event, number = asked(hub, task="T1", moved=True), hub.ledger.head + 1
    hub.write("ada", event, stands(hub, epoch, number))


def waits(hub: Paper) -> tuple[int, int]:
    """T1 is in the plan, and waits for an answer."""
    epoch = held_task(hub)
    event, number = asked(hub, task="T1", moved=True), hub.ledger.head + 1
    steps = stands(hub, epoch, number), moved(epoch, "in_progress", "waiting_for_input", "question")
    hub.write("ada", event, *steps)
    return number, epoch


def a_task_waits_on(hub: Paper) -> None:
    number, epoch = waits(hub)
    hub.write("operator", answer(hub, number, task="T1"), runs_on(hub, epoch))


def a_task_goes_elsewhere(hub: Paper) -> None:
    number, epoch = waits(hub)
    step = moved(epoch, "waiting_for_input", "blocked", "question_closed")
    hub.write("operator", answer(hub, number, task="T1"), runs_on(hub, epoch), step)


def an_agent_answers(hub: Paper) -> None:
    number = question(hub)
    hub.write("bob", answer(hub, number, who="bob"))


def an_agent_dismisses(hub: Paper) -> None:
    number = question(hub)
    hub.hear("bob", "question.dismiss", {"id": f"q{number}"})
    hub.write("bob", end(hub, QuestionDismissed, number, via="token"))


def another_takes_it_back(hub: Paper) -> None:
    number = question(hub)
    hub.hear("bob", "question.withdraw", {"id": f"q{number}"})
    hub.write("bob", end(hub, QuestionWithdrawn, number))


def another_answer_than_was_given(hub: Paper) -> None:
    number = question(hub)
    hub.write("operator", msgspec.structs.replace(answer(hub, number), answer="no"))


def answered_twice(hub: Paper) -> None:
    number = question(hub)
    hub.write("operator", answer(hub, number))
    hub.write("operator", answer(hub, number, "no"))


def expired_and_answered(hub: Paper) -> None:
    number = question(hub)
    hub.write("operator", answer(hub, number))
    hub.write("hub", end(hub, QuestionExpired, number))


def answered_with_another_title(hub: Paper) -> None:
    number = question(hub)
    hub.write("operator", answer(hub, number, title="what"))


def its_date_has_not_come(hub: Paper) -> None:
    number = question(hub, deadline_ms=1_000)
    hub.write("hub", end(hub, QuestionExpired, number))


def its_default_comes_early(hub: Paper) -> None:
    number = question(hub, deadline_ms=1_000, default="yes")
    hub.write("hub", end(hub, QuestionAnswered, number, answer="yes", outcome="default"))


def another_default(hub: Paper) -> None:
    number = question(hub, deadline_ms=0, default="yes")
    hub.write("hub", end(hub, QuestionAnswered, number, answer="no", outcome="default"))


def it_expires_in_spite_of_a_default(hub: Paper) -> None:
    number = question(hub, deadline_ms=0, default="yes")
    hub.write("hub", end(hub, QuestionExpired, number))


def its_date_passed_and_nothing_happens(hub: Paper) -> None:
    number = question(hub, deadline_ms=1_000)
    for working_ms in (2_000, 9_000):
        hub.ledger.desk.check({number}, 2_000, working_ms)


def answered_after_its_date(hub: Paper) -> None:
    number = question(hub, deadline_ms=0)
    hub.write("operator", answer(hub, number))


def a_hub_that_forgot_a_question(hub: Paper) -> None:
    question(hub)
    hub.ledger.desk.check(set(), 0, 0)


def ended_with_a_task_that_goes_on(hub: Paper) -> None:
    number, _ = waits(hub)
    hub.write("hub", end(hub, QuestionWithdrawn, number, task="T1", reason="task_done"))


def the_asker_is_not_told(hub: Paper) -> None:
    number = question(hub)
    hub.write("operator", answer(hub, number, "yes", "bob"))


def who_holds_the_task_is_not_told(hub: Paper) -> None:
    number, epoch = parked(hub)
    hub.loop.now_s += 60
    ended = LeaseExpired(**WHERE, task="T1", owner="ada", epoch=epoch, reason="parked")
    hub.write("hub", ended)
    hub.grant("bob", "T1")
    hub.write("operator", answer(hub, number, task="T1"))


def parked_for_ever(hub: Paper) -> None:
    parked(hub)
    hub.loop.now_s += 60 + 4
    hub.terms.check_times()


def parked_and_over_before_the_ceiling(hub: Paper) -> None:
    _, epoch = parked(hub)
    hub.loop.now_s += 59
    hub.write("hub", LeaseExpired(**WHERE, task="T1", owner="ada", epoch=epoch, reason="parked"))


def parked_and_its_time_runs(hub: Paper) -> None:
    _, epoch = parked(hub)
    hub.loop.now_s += TTL_MS / 1000
    hub.write("hub", expired(epoch))


def the_answer_wakes_nobody(hub: Paper) -> None:
    number, _ = parked(hub)
    hub.write("operator", answer(hub, number, task="T1"))


def one_answer_of_two_wakes(hub: Paper) -> None:
    number, epoch = parked(hub)
    event, other = asked(hub, title="what", task="T1"), hub.ledger.head + 1
    hub.write("ada", event, stands(hub, epoch, other))
    hub.write("operator", answer(hub, number, task="T1"), runs_on(hub, epoch))


def asking_is_acknowledged_and_not_there(hub: Paper) -> None:
    request = hub.hear("ada", "question.ask", {"title": "why"})
    hub.reply("ada", request, told(hub.ledger.head + 9))


def an_answer_is_acknowledged_and_not_there(hub: Paper) -> None:
    number = question(hub)
    request = hub.hear("operator", "question.answer", {"id": f"q{number}", "answer": "yes"})
    hub.reply("operator", request, first(hub, number))


def an_answer_is_acknowledged_with_another(hub: Paper) -> None:
    number = question(hub)
    hub.write("operator", answer(hub, number))
    hub.reply(
        "operator", hub.hear("operator", "question.answer", {"id": f"q{number}"}), first(hub, number, answer="no")
    )


def a_second_answer_is_accepted(hub: Paper) -> None:
    number = question(hub)
    hub.write("operator", answer(hub, number))
    request = hub.hear("operator", "question.answer", {"id": f"q{number}", "answer": "no"})
    hub.reply("operator", request, first(hub, number, already=True))


def the_refusal_names_another_answer(hub: Paper) -> None:
    number = question(hub)
    hub.write("operator", answer(hub, number))
    facts = first(hub, number, answer="maybe", reason=None)
    del facts["told"]
    refuse(hub, "operator", "question.answer", {"id": f"q{number}", "answer": "no"}, "already_answered", facts)


def a_person_may_not(hub: Paper) -> None:
    number = question(hub)
    refuse(hub, "person00", "question.answer", {"id": f"q{number}", "answer": "no"}, "not_permitted", {})


def an_open_question_is_shown_as_closed(hub: Paper) -> None:
    number = question(hub)
    request = hub.hear("bob", "question.show", {"id": f"q{number}"})
    hub.reply("bob", request, told(number, status="answered", answer="yes"))


def a_wait_ends_too_soon(hub: Paper) -> None:
    number = question(hub)
    hub.reply("ada", hub.hear("ada", "question.wait", {"id": f"q{number}"}), told(number))


def a_list_out_of_order(hub: Paper) -> None:
    question(hub)
    number = question(hub, title="what", priority="urgent")
    page = [told(number - 1), told(number, title="what", priority="urgent")]
    request = hub.hear("bob", "question.list", {})
    hub.reply("bob", request, {"questions": page, "open": 2, "next": None})


def a_letter_says_otherwise(hub: Paper) -> None:
    number = question(hub)
    event = answer(hub, number)
    seq = hub.write("operator", event)
    hub.write("ada", *lend(hub, seq))
    body = hub.ledger.desk.letter(hub.ledger.messages[seq], event) | {"answer": "no"}
    hub.reply("ada", hub.hear("ada", "inbox.take", {}), {"message": letter(seq, body)})


def lend(hub: Paper, message: int) -> list[Event]:
    return [MessagesLent(agent=hub.ids["ada"], messages=(message,))]


def letter(seq: int, body: Json) -> Json:
    return {"id": f"m{seq}", "room": None, "channel": "@ada", "n": 1, "from": "hub", "body": body}


QUESTION_LIES: dict[Callable[[Paper], None], str] = {
    a_question_nobody_asked: "unasked",
    a_question_twice: "applied twice",
    a_question_with_another_date: "altered",
    a_question_of_no_session: "altered",
    asked_under_a_dead_epoch: "stale accepted",
    a_lease_runs_on_while_it_waits: "not parked",
    a_lease_stands_still_for_nothing: "unasked",
    a_task_does_not_wait: "not moved",
    a_task_waits_on: "not moved",
    a_task_goes_elsewhere: "unasked",
    an_agent_answers: "answered by an agent",
    an_agent_dismisses: "answered by an agent",
    another_takes_it_back: "answered by an agent",
    another_answer_than_was_given: "unasked",
    answered_twice: "closed twice",
    expired_and_answered: "closed twice",
    answered_with_another_title: "altered",
    its_date_has_not_come: "expired early",
    its_default_comes_early: "expired early",
    another_default: "unasked",
    it_expires_in_spite_of_a_default: "unasked",
    its_date_passed_and_nothing_happens: "expired late",
    answered_after_its_date: "closed late",
    a_hub_that_forgot_a_question: "altered",
    ended_with_a_task_that_goes_on: "unasked",
    the_asker_is_not_told: "told the wrong ones",
    who_holds_the_task_is_not_told: "told the wrong ones",
    parked_for_ever: "expired late",
    parked_and_over_before_the_ceiling: "expired early",
    parked_and_its_time_runs: "expired early",
    the_answer_wakes_nobody: "parked for nothing",
    one_answer_of_two_wakes: "resumed too soon",
    asking_is_acknowledged_and_not_there: "lost",
    an_answer_is_acknowledged_and_not_there: "lost",
    an_answer_is_acknowledged_with_another: "altered",
    a_second_answer_is_accepted: "second answer accepted",
    the_refusal_names_another_answer: "fenced wrongly",
    a_person_may_not: "fenced wrongly",
    an_open_question_is_shown_as_closed: "wrong question",
    a_wait_ends_too_soon: "wrong question",
    a_list_out_of_order: "wrong page",
    a_letter_says_otherwise: "altered",
}


def an_honest_question(hub: Paper) -> None:
    """Ada asks about what she holds; a person answers; she is told, and goes on."""
    number, epoch = waits(hub)
    about = {"task": "T1"}
    hub.reply("bob", hub.hear("bob", "question.show", {"id": f"q{number}"}), told(number, parks=epoch, **about))
    event = answer(hub, number, who="person00", **about)
    seq = hub.ledger.head + 1
    step = moved(epoch, "waiting_for_input", "in_progress", "question_closed")
    hub.write("person00", event, runs_on(hub, epoch), step)
    request = hub.hear("person00", "question.answer", {"id": f"q{number}", "answer": "yes"})
    hub.reply("person00", request, first(hub, number, by="person00", via="token"))
    refuse(hub, "bob", "question.answer", {"id": f"q{number}", "answer": "no"}, "not_permitted", {})
    hub.write("ada", *lend(hub, seq))
    body = hub.ledger.desk.letter(hub.ledger.messages[seq], event)
    hub.reply(
        "ada", hub.hear("ada", "inbox.take", {}), {"message": letter(seq, body | {"next": "synapse task show T1"})}
    )
