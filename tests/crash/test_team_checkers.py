"""The checkers of the team find planted lies: an honest history passes; each lie is one change to it, and is named."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import msgspec
import pytest
from tests.crash import (
    effects_checker,
    lanes_checker,
    offers_checker,
    questions_checker,
    queues_checker,
    sessions_checker,
)
from tests.crash.checker import Finding
from tests.crash.history import Frame, History
from tests.crash.killing import ROOT
from tests.crash.story import Story, honest

from synapse.core.card_events import AgentDescribed
from synapse.core.events import (
    Idem,
    LeaseReleased,
    LeaseResumed,
    MessagesAcked,
    MessageSent,
    MessagesLent,
    Recorded,
)
from synapse.core.lane_events import LaneAccepted, LaneEnded, LaneMessaged, LaneOffered
from synapse.core.question_events import QuestionAnswered, QuestionAsked, QuestionDismissed, QuestionWithdrawn
from synapse.core.resource_events import ResourceOffered, ResourceWithdrawn
from synapse.core.role_events import RoleJoined
from synapse.core.session_events import SessionCheckpointed, SessionEnded, SessionStarted, SessionUpdated

Check: TypeAlias = Callable[[History, Sequence[Recorded]], list[Finding]]
Lie: TypeAlias = Callable[[Story], None]
LIES: dict[tuple[Check, str], list[Lie]] = {}


def breaks(check: Check, rule: str) -> Callable[[Lie], Lie]:
    """The rule of a checker that must name this lie."""

    def note(lie: Lie) -> Lie:
        LIES.setdefault((check, rule), []).append(lie)
        return lie

    return note


def change(story: Story, kind: type, nth: int = 0, **fields: object) -> None:
    """The nth event of a kind has other fields."""
    place = story.at(kind, nth)
    recorded = story.journal[place]
    story.journal[place] = recorded._replace(event=msgspec.structs.replace(recorded.event, **fields))


def by(story: Story, kind: type, actor: str, nth: int = 0) -> None:
    """The nth event of a kind is of somebody else."""
    place = story.at(kind, nth)
    story.journal[place] = story.journal[place]._replace(actor=actor)


def lose(story: Story, kind: type, nth: int = 0) -> None:
    """Something that says nothing stands in place of the nth event of a kind."""
    place = story.at(kind, nth)
    nothing = LeaseReleased(room=1, room_name="main", task="none", owner="nobody", epoch=1)
    story.journal[place] = story.journal[place]._replace(event=nothing)


def again(story: Story, kind: type, nth: int = 0) -> None:
    """The nth event of a kind stands at the end once more."""
    recorded = story.journal[story.at(kind, nth)]
    event = msgspec.structs.replace(recorded.event, idem=None)
    story.journal.append(recorded._replace(seq=story.journal[-1].seq + 1, event=event))


def frame_of(story: Story, type_: str, nth: int = 0) -> Frame:
    frame = story.op(type_, nth).frame
    assert frame is not None
    return frame


# Every change.

every = effects_checker.check_effects


@breaks(every, "lost")
def an_acknowledged_answer_is_not_there(story: Story) -> None:
    lose(story, QuestionAnswered)


@breaks(every, "lost")
def an_acknowledged_checkpoint_is_not_there(story: Story) -> None:
    lose(story, SessionCheckpointed)


@breaks(every, "lost")
def an_ack_is_not_there(story: Story) -> None:
    lose(story, MessagesAcked, 8)


@breaks(every, "lost")
def an_ack_is_of_another_message(story: Story) -> None:
    change(story, MessagesAcked, 2, messages=(1,))


@breaks(every, "lost")
def what_was_acked_already_was_not(story: Story) -> None:
    story.op("inbox.ack", 9).reply["already"] = ["m1"]


@breaks(every, "altered")
def another_text_was_answered(story: Story) -> None:
    change(story, QuestionAnswered, answer="perhaps")


@breaks(every, "altered")
def a_question_is_told_under_another_id(story: Story) -> None:
    story.op("question.ask").reply["id"] = "q77"


@breaks(every, "altered")
def another_resource_is_offered(story: Story) -> None:
    change(story, ResourceOffered, capacity=3)


@breaks(every, "refused but applied")
def a_refused_offer_is_there(story: Story) -> None:
    frame = frame_of(story, "lane.offer")
    frame |= {"type": "error", "error": {"code": "limit", "facts": {}}}


@breaks(every, "answered differently")
def a_repeat_is_answered_differently(story: Story) -> None:
    op = story.op("session.start")
    assert op.frame is not None
    story.ops.append(replace(op, number=op.number + 500, frame={**op.frame, "body": {**op.reply, "version": 5}}))


@breaks(every, "unasked")
def a_step_without_a_key(story: Story) -> None:
    change(story, LaneAccepted, idem=None)


@breaks(every, "unasked")
def a_key_that_nobody_used(story: Story) -> None:
    change(story, RoleJoined, 1, idem=Idem(key="nobody's", hash="", count=1))


# Questions.

questions = questions_checker.check_questions


@breaks(questions, "two outcomes")
def a_question_is_answered_twice(story: Story) -> None:
    again(story, QuestionAnswered)


@breaks(questions, "two outcomes")
def a_question_that_nobody_asked_is_closed(story: Story) -> None:
    change(story, QuestionDismissed, question=5)


@breaks(questions, "too early")
def the_default_is_the_answer_before_the_deadline(story: Story) -> None:
    place = story.at(QuestionAnswered, 1)
    story.journal[place] = story.journal[place]._replace(at_ms=1)


@breaks(questions, "too early")
def the_hub_closes_what_has_no_deadline(story: Story) -> None:
    change(story, QuestionAsked, 1, deadline_at_ms=None)


@breaks(questions, "too late")
def a_person_answers_after_the_deadline(story: Story) -> None:
    change(story, QuestionAsked, deadline_at_ms=1)


@breaks(questions, "impostor")
def an_agent_answers(story: Story) -> None:
    by(story, QuestionAnswered, "asker-1")


@breaks(questions, "impostor")
def somebody_else_withdraws(story: Story) -> None:
    by(story, QuestionWithdrawn, "asker-2")


@breaks(questions, "no letter")
def the_asker_is_not_told(story: Story) -> None:
    change(story, QuestionAnswered, deliveries=())


@breaks(questions, "other letter")
def the_letter_says_another_answer(story: Story) -> None:
    story.op("inbox.take").reply["message"]["body"]["answer"] = "no"


@breaks(questions, "wrong question")
def an_open_question_is_shown_as_closed(story: Story) -> None:
    frame_of(story, "question.show")["seq"] = story.journal[story.at(QuestionAnswered)].seq - 1


@breaks(questions, "wrong question")
def an_open_question_is_not_listed(story: Story) -> None:
    story.op("question.list").reply["questions"].pop()


@breaks(questions, "wrong question")
def who_came_too_late_hears_of_another_answer(story: Story) -> None:
    frame_of(story, "question.answer", 1)["error"]["facts"]["answer"] = "other"


@breaks(questions, "wrong question")
def a_question_is_forgotten(story: Story) -> None:
    frame = frame_of(story, "question.show")
    frame |= {"type": "error", "error": {"code": "not_found", "facts": {}}}


@breaks(questions, "parked")
def the_lease_does_not_run_on(story: Story) -> None:
    lose(story, LeaseResumed)


@breaks(questions, "parked")
def a_lease_is_parked_for_a_closed_question(story: Story) -> None:
    place = story.at(QuestionAsked)
    story.journal[place] = story.journal[place]._replace(seq=1)


@breaks(questions, "vanished")
def an_outcome_is_never_acked(story: Story) -> None:
    lose(story, MessagesAcked, 1)


@breaks(questions, "vanished")
def an_outcome_is_acked_and_never_taken(story: Story) -> None:
    story.ops.remove(story.op("inbox.take", 1))


@breaks(questions, "vanished")
def a_question_stays_open(story: Story) -> None:
    lose(story, QuestionWithdrawn)


# Sessions.

sessions = sessions_checker.check_sessions


@breaks(sessions, "lost update")
def two_append_from_one_version(story: Story) -> None:
    change(story, SessionUpdated, 1, decisions=("1 second",))


@breaks(sessions, "wrong number")
def a_checkpoint_is_left_out(story: Story) -> None:
    change(story, SessionCheckpointed, 1, n=3)


@breaks(sessions, "after its end")
def an_ended_session_goes_on(story: Story) -> None:
    again(story, SessionCheckpointed)


@breaks(sessions, "after its end")
def a_session_that_never_began_is_ended(story: Story) -> None:
    lose(story, SessionStarted)


@breaks(sessions, "foreign")
def somebody_else_ends_it(story: Story) -> None:
    by(story, SessionEnded, "runner-2")


@breaks(sessions, "version back")
def an_old_version_is_shown(story: Story) -> None:
    reply = story.op("session.show").reply
    reply["version"] = story.op("session.start").reply["version"]


@breaks(sessions, "version back")
def a_conflict_names_an_old_version(story: Story) -> None:
    facts = frame_of(story, "session.update", 1)["error"]["facts"]
    facts["version"] = story.op("session.start").reply["version"]


@breaks(sessions, "checkpoint lost")
def the_last_checkpoint_is_not_shown(story: Story) -> None:
    story.op("session.show").reply["last"] = None


@breaks(sessions, "checkpoint lost")
def a_page_of_checkpoints_leaves_one_out(story: Story) -> None:
    story.op("session.checkpoints").reply["checkpoints"].pop()


@breaks(sessions, "checkpoint lost")
def a_list_counts_one_checkpoint_less(story: Story) -> None:
    story.op("session.list").reply["sessions"][0]["counts"]["checkpoints"] -= 1


@breaks(sessions, "wrong session")
def a_decision_is_not_shown(story: Story) -> None:
    story.op("session.show").reply["decisions"].pop()


@breaks(sessions, "wrong session")
def an_ended_session_is_shown_as_open(story: Story) -> None:
    story.op("session.show", 1).reply["ended_at_ms"] = None


@breaks(sessions, "wrong session")
def an_update_is_told_with_fewer_decisions(story: Story) -> None:
    story.op("session.update", 2).reply["decisions"] = 1


@breaks(sessions, "wrong session")
def a_session_is_forgotten(story: Story) -> None:
    frame = frame_of(story, "session.show")
    frame |= {"type": "error", "error": {"code": "not_found", "facts": {}}}


# Lanes.

lanes = lanes_checker.check_lanes


@breaks(lanes, "two states")
def a_lane_is_accepted_twice(story: Story) -> None:
    again(story, LaneAccepted)


@breaks(lanes, "two states")
def somebody_writes_in_a_closed_lane(story: Story) -> None:
    again(story, LaneMessaged)


@breaks(lanes, "two states")
def a_lane_that_nobody_offered_is_declined(story: Story) -> None:
    change(story, LaneEnded, lane=5)


@breaks(lanes, "impostor")
def its_sender_accepts_it(story: Story) -> None:
    by(story, LaneAccepted, "runner-1")


@breaks(lanes, "impostor")
def somebody_else_writes_in_it(story: Story) -> None:
    by(story, LaneMessaged, "caller-1")


@breaks(lanes, "timed out early")
def an_offer_ends_before_its_time(story: Story) -> None:
    place = story.at(LaneEnded, 2)
    story.journal[place] = story.journal[place]._replace(at_ms=1)


@breaks(lanes, "no letter")
def the_receiver_is_not_told(story: Story) -> None:
    change(story, LaneOffered, deliveries=())


@breaks(lanes, "wrong number")
def a_message_of_a_lane_has_a_later_number(story: Story) -> None:
    change(story, LaneMessaged, n=2)


@breaks(lanes, "wrong lane")
def a_closed_lane_is_shown_as_accepted(story: Story) -> None:
    frame_of(story, "lane.show")["seq"] = story.journal[-1].seq
    story.op("lane.show").reply["cursor"] = f"j:{story.journal[-1].seq}"


@breaks(lanes, "wrong lane")
def a_message_is_not_shown(story: Story) -> None:
    story.op("lane.show").reply["entries"].pop()


@breaks(lanes, "wrong lane")
def an_acceptance_is_told_that_is_not_there(story: Story) -> None:
    lose(story, LaneAccepted)


@breaks(lanes, "wrong lane")
def a_lane_is_forgotten(story: Story) -> None:
    frame = frame_of(story, "lane.show")
    frame |= {"type": "error", "error": {"code": "not_found", "facts": {}}}


@breaks(lanes, "never read")
def a_letter_of_a_lane_stays_in_the_inbox(story: Story) -> None:
    lose(story, MessagesAcked, 8)


# Role queues.

queues = queues_checker.check_queues


@breaks(queues, "no member")
def somebody_takes_who_has_not_joined(story: Story) -> None:
    lose(story, RoleJoined, 1)


@breaks(queues, "two members")
def a_message_is_lent_to_two(story: Story) -> None:
    first = story.journal[story.at(MessagesLent, 12)].event
    assert isinstance(first, MessagesLent)
    change(story, MessagesLent, 13, messages=first.messages)
    lose(story, MessagesAcked, 12)
    story.op("inbox.take", 15).reply["message"] = dict(story.op("inbox.take", 14).reply["message"])


@breaks(queues, "two members")
def a_member_acks_what_another_holds(story: Story) -> None:
    by(story, MessagesAcked, "member-2", 12)


@breaks(queues, "two ackers")
def two_members_ack_one_message(story: Story) -> None:
    again(story, MessagesAcked, 12)


@breaks(queues, "came again")
def an_acked_message_is_lent(story: Story) -> None:
    again(story, MessagesLent, 12)


@breaks(queues, "not durable")
def a_lend_is_not_in_the_journal(story: Story) -> None:
    lose(story, MessagesLent, 12)


@breaks(queues, "not durable")
def another_text_is_lent(story: Story) -> None:
    story.op("inbox.take", 14).reply["message"]["body"] = {"mark": "other"}


@breaks(queues, "never acked")
def a_message_to_the_role_is_forgotten(story: Story) -> None:
    lose(story, MessagesAcked, 13)


# Resources and cards.

offers = offers_checker.check_offers


@breaks(offers, "wrong offer")
def an_offer_is_not_listed(story: Story) -> None:
    story.op("resource.list").reply["resources"].pop()


@breaks(offers, "wrong offer")
def an_offer_is_listed_with_another_capacity(story: Story) -> None:
    story.op("resource.list").reply["resources"][0]["capacity"] = 1


@breaks(offers, "wrong offer")
def a_withdrawal_is_acknowledged_that_is_not_there(story: Story) -> None:
    lose(story, ResourceWithdrawn)


@breaks(offers, "wrong card")
def an_old_card_is_told(story: Story) -> None:
    story.op("card.get").reply["description"] = None


@breaks(offers, "wrong card")
def a_card_is_lost(story: Story) -> None:
    lose(story, AgentDescribed)


@breaks(offers, "foreign")
def somebody_else_withdraws_a_resource(story: Story) -> None:
    by(story, ResourceWithdrawn, "caller-1")


# The tests.

CHECKERS: dict[Check, dict[str, str]] = {
    every: effects_checker.RULES,
    questions: questions_checker.RULES,
    sessions: sessions_checker.RULES,
    lanes: lanes_checker.RULES,
    queues: queues_checker.RULES,
    offers: offers_checker.RULES,
}
CASES = [(check, rule, lie) for (check, rule), lies in LIES.items() for lie in lies]


@pytest.mark.parametrize("check", CHECKERS, ids=lambda check: check.__name__)
def test_an_honest_history_has_no_finding(check: Check) -> None:
    story = honest()
    assert check(story.history, story.journal) == []
    assert any(isinstance(recorded.event, MessageSent) for recorded in story.journal)


@pytest.mark.parametrize(("check", "rule", "lie"), CASES, ids=lambda it: getattr(it, "__name__", it))
def test_a_planted_lie_is_named(check: Check, rule: str, lie: Lie) -> None:
    story = honest()
    lie(story)
    findings = check(story.history, story.journal)
    assert rule in {finding.rule for finding in findings}, findings


@pytest.mark.parametrize("check", CHECKERS, ids=lambda check: check.__name__)
def test_every_rule_has_a_planted_lie_and_is_in_the_docs(check: Check) -> None:
    rules = CHECKERS[check]
    assert {rule for found, rule in LIES if found is check} == set(rules)
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert [rule for rule in rules if f"`{rule}`" not in page] == []
