"""Who goes on where a run broke off: the last checkpoint waits for the next claim of the task, once."""

from typing import Any

import msgspec
import pytest
from tests.core.test_sessions import World, raw, refused

from synapse.core.resuming import LINES_BYTES_MAX, due_resumptions, offer_letter
from synapse.core.session_events import SessionOffered
from synapse.core.state import decode_state, digest, encode_state
from synapse.protocol.commands import ClaimLease, ForgetAgent, HandOffLease, Hello, ReleaseLease
from synapse.protocol.plan_commands import DeclareTask, RemoveTask, UpdateTask
from synapse.protocol.session_commands import EndSession, Lines, SaveSessionPoint, StartSession, UpdateSession


@pytest.fixture
def world() -> World:
    """ada works on T1, under a lease, and has kept a checkpoint; cy is there too."""
    world = World()
    world.do("cy", Hello(name="cy", secret="cy" * 32))
    world.do("ada", StartSession(task="T1", summary="half done"))
    world.do("ada", UpdateSession(append=Lines(decisions=("use X",), todos=("tests",))))
    world.do("ada", ClaimLease(task="T1"))
    world.do("ada", SaveSessionPoint(data=raw({"step": 1})))
    return world


def offers(world: World) -> list[str]:
    return world.listed(resumable=True)


def resume_of(lease: Any) -> Any:
    return None if lease.resume is msgspec.UNSET else lease.resume


def test_the_next_claim_after_an_expiry_goes_on_from_the_last_checkpoint_and_the_one_after_it_does_not(
    world: World,
) -> None:
    session = world.show().session
    world.do("ada", SaveSessionPoint(data=raw({"step": 2})))
    assert offers(world) == []
    world.expire("T1")
    assert offers(world) == [session]
    resume = resume_of(world.do("bob", ClaimLease(task="T1")))
    assert (resume.session, resume.agent, resume.ready, resume.summary) == (session, "ada", True, "half done")
    assert (msgspec.json.decode(resume.data), resume.decisions, resume.todos) == ({"step": 2}, ("use X",), ("tests",))
    assert offers(world) == []
    assert (world.show(session=session).resumed_by, world.show(session=session).resumed_at_ms) == ("bob", 1_000)
    world.do("bob", ReleaseLease(task="T1"))
    assert resume_of(world.do("cy", ClaimLease(task="T1"))) is None
    assert digest(world.replayed()) == digest(world.state) == digest(decode_state(encode_state(world.state)))


def test_a_release_a_hand_off_and_a_run_that_is_done_offer_nothing(world: World) -> None:
    world.do("ada", ReleaseLease(task="T1"))
    assert offers(world) == []
    world.do("ada", ClaimLease(task="T1"))
    world.state.soft.presence.touch(world.state.agents.by_name["bob"].id, 0, world.lease_ms)
    world.do("ada", HandOffLease(task="T1", to="bob"))
    assert offers(world) == []
    world.do("ada", EndSession())
    world.expire("T1")
    assert offers(world) == []


def test_a_run_that_ended_in_an_error_is_offered_and_one_that_says_done_withdraws_it(world: World) -> None:
    session = world.do("ada", EndSession(state="error", reason="crash")).session
    world.expire("T1")
    assert offers(world) == [session]
    assert resume_of(world.do("bob", ClaimLease(task="T1"))).session == session
    world.do("ada", StartSession(task="T2"))
    world.do("ada", ClaimLease(task="T2"))
    world.do("ada", SaveSessionPoint(data=raw(1)))
    world.expire("T2")
    assert len(offers(world)) == 1
    world.do("ada", EndSession())
    assert offers(world) == []
    assert resume_of(world.do("bob", ClaimLease(task="T2"))) is None


def test_who_resumed_it_and_breaks_off_too_leaves_its_own_checkpoint_or_else_the_same(world: World) -> None:
    world.expire("T1")
    first = resume_of(world.do("bob", ClaimLease(task="T1")))
    world.expire("T1")
    assert resume_of(world.do("cy", ClaimLease(task="T1"))).session == first.session, "bob added nothing"
    mine = world.do("cy", StartSession(task="T1")).session
    world.do("cy", SaveSessionPoint(data=raw({"step": 5})))
    world.expire("T1")
    again = resume_of(world.do("bob", ClaimLease(task="T1")))
    assert (again.session, again.agent) == (mine, "cy")


def test_the_agent_itself_may_come_back_to_it_and_later_checkpoints_are_offered_anew(world: World) -> None:
    world.expire("T1")
    assert resume_of(world.do("ada", ClaimLease(task="T1"))).agent == "ada"
    world.expire("T1")
    assert resume_of(world.do("ada", ClaimLease(task="T1"))) is not None, "it broke off again"
    world.do("ada", ReleaseLease(task="T1"))
    assert resume_of(world.do("bob", ClaimLease(task="T1"))) is None


def test_what_was_resumed_is_not_left_again_without_a_newer_checkpoint(world: World) -> None:
    world.expire("T1")
    world.do("bob", ClaimLease(task="T1"))
    world.do("bob", ReleaseLease(task="T1"))
    world.do("ada", ClaimLease(task="T1"))
    world.expire("T1")
    assert offers(world) == [], "bob has gone on from it, and gave the task back"
    world.do("ada", ClaimLease(task="T1"))
    world.do("ada", SaveSessionPoint(data=raw({"step": 9})))
    world.expire("T1")
    assert msgspec.json.decode(resume_of(world.do("bob", ClaimLease(task="T1"))).data) == {"step": 9}


def test_preemption_and_a_forgotten_agent_are_ends_without_the_holders_doing(world: World) -> None:
    taken = world.do("operator", ClaimLease(task="T1", preempt=True, claimant="bob"))
    assert resume_of(taken).agent == "ada", "offered and taken up in one decision"
    assert world.mail_of("bob") == [], "who gets it with the lease needs no letter"
    other = World()
    other.do("ada", StartSession(task="T1"))
    other.do("ada", ClaimLease(task="T1"))
    other.do("ada", SaveSessionPoint(data=raw(1)))
    other.do("operator", ForgetAgent(name="ada"))
    assert resume_of(other.do("bob", ClaimLease(task="T1"))).agent == "ada"
    assert digest(other.replayed()) == digest(other.state)


def test_before_its_date_a_claimer_is_told_when_and_from_then_on_it_is_offered(world: World) -> None:
    world.do("ada", UpdateSession(resumable_at_ms=5_000))
    world.expire("T1")
    assert offers(world) == [], "it asked to be waited for"
    early = resume_of(world.do("bob", ClaimLease(task="T1")))
    assert (early.ready, early.resumable_at_ms, early.data) == (False, 5_000, msgspec.UNSET)
    assert due_resumptions(world.state, 4_999) == []
    world.at_ms = 5_000
    for event in due_resumptions(world.state, 5_000):
        world.record(event, "hub")
        assert isinstance(event, SessionOffered)
        elsewhere = offer_letter(msgspec.structs.replace(event, room_name="lab")).body
        assert elsewhere["next"] == "synapse claim T1 --room lab"
    assert len(offers(world)) == 1
    (letter,) = world.mail_of("bob")
    assert (letter["type"], letter["reason"], letter["next"]) == ("session.offered", "resumable_at", "synapse claim T1")
    again = world.do("bob", ClaimLease(task="T1"))
    assert (again.outcome, msgspec.json.decode(resume_of(again).data)) == ("renewed", {"step": 1})
    assert resume_of(world.do("bob", ClaimLease(task="T1"))) is None, "a renewal does not bring it again"
    assert due_resumptions(world.state, 9_000) == []
    assert digest(world.replayed()) == digest(world.state)


def test_of_who_still_holds_the_task_or_whose_date_has_passed_nothing_is_said_to_have_broken_off() -> None:
    world = World()
    world.do("ada", StartSession(task="T1"))
    world.do("ada", ClaimLease(task="T1", mode="shared"))
    world.do("ada", SaveSessionPoint(data=raw(1)))
    world.do("ada", UpdateSession(resumable_at_ms=5_000))
    bob = ClaimLease(task="T1", mode="shared")
    assert resume_of(world.do("bob", bob)) is None, "she works on, until that date"
    world.do("bob", ReleaseLease(task="T1"))
    world.at_ms = 5_000
    assert resume_of(world.do("bob", bob)) is None, "and after it"
    world.do("bob", ReleaseLease(task="T1"))
    world.do("ada", ReleaseLease(task="T1"))
    assert resume_of(world.do("bob", bob)).ready


def test_a_date_of_a_task_that_had_ended_is_not_told_once_it_has_passed(world: World) -> None:
    world.do("ada", UpdateSession(resumable_at_ms=5_000))
    world.do("ada", ReleaseLease(task="T1"))
    world.do("ada", DeclareTask(task="T1"))
    world.do("operator", UpdateTask(task="T1", status="cancelled"))
    assert resume_of(world.do("bob", ClaimLease(task="T1"))).resumable_at_ms == 5_000
    world.do("bob", ReleaseLease(task="T1"))
    world.at_ms = 5_000
    assert resume_of(world.do("bob", ClaimLease(task="T1"))) is None


def test_a_claim_after_the_date_does_not_wait_for_the_tick_and_a_snapshot_knows_dates(world: World) -> None:
    world.do("ada", UpdateSession(resumable_at_ms=5_000))
    world.do("ada", ReleaseLease(task="T1"))
    started = decode_state(encode_state(world.state))
    assert len(due_resumptions(started, 5_000)) == 1
    world.at_ms = 5_000
    assert resume_of(world.do("bob", ClaimLease(task="T1"))).ready


def test_whose_agent_holds_the_task_at_the_date_is_offered_once_it_is_released(world: World) -> None:
    world.do("ada", UpdateSession(resumable_at_ms=5_000))
    world.at_ms = 6_000
    assert due_resumptions(world.state, 6_000) == []
    world.do("ada", ReleaseLease(task="T1"))
    assert len(offers(world)) == 1
    world.do("ada", UpdateSession(resumable_at_ms=0))
    assert world.show(agent="ada").resumable_at_ms is None


def test_whose_date_came_while_the_task_had_ended_is_offered_when_it_is_reopened(world: World) -> None:
    world.do("ada", DeclareTask(task="T1", suggested_owner="cy"))
    world.do("ada", UpdateSession(resumable_at_ms=5_000))
    world.do("ada", ReleaseLease(task="T1"))
    world.do("operator", UpdateTask(task="T1", status="cancelled"))
    world.at_ms = 6_000
    assert due_resumptions(world.state, 6_000) == []
    world.do("operator", UpdateTask(task="T1", status="open"))
    assert offers(world) == [world.show(agent="ada").session]
    assert [letter["reason"] for letter in world.mail_of("cy")] == ["resumable_at"]


def test_whose_date_came_while_the_task_had_ended_is_offered_when_the_task_is_taken_out(world: World) -> None:
    world.do("ada", DeclareTask(task="T1"))
    world.do("ada", UpdateSession(resumable_at_ms=5_000))
    world.do("ada", ReleaseLease(task="T1"))
    world.do("operator", UpdateTask(task="T1", status="cancelled"))
    world.at_ms = 6_000
    assert due_resumptions(world.state, 6_000) == []
    world.do("ada", RemoveTask(task="T1"))
    assert offers(world) == [world.show(agent="ada").session]


def test_who_hands_the_task_on_after_the_date_leaves_its_checkpoint_to_the_receiver(world: World) -> None:
    session = world.show().session
    world.do("ada", UpdateSession(resumable_at_ms=5_000))
    world.at_ms = 6_000
    assert due_resumptions(world.state, 6_000) == []
    world.state.soft.presence.touch(world.state.agents.by_name["bob"].id, 0, world.lease_ms)
    world.do("ada", HandOffLease(task="T1", to="bob"))
    assert offers(world) == [session]
    assert resume_of(world.do("bob", ClaimLease(task="T1"))).session == session
    assert offers(world) == []


def test_the_suggested_owner_is_told_once_and_nothing_is_offered_of_a_task_that_has_ended(world: World) -> None:
    world.do("ada", DeclareTask(task="T1", suggested_owner="cy"))
    world.expire("T1")
    (letter,) = world.mail_of("cy")
    assert (letter["type"], letter["task"], letter["agent"]) == ("session.offered", "T1", "ada")
    world.do("operator", UpdateTask(task="T1", status="cancelled"))
    assert offers(world) == []
    assert resume_of(world.do("bob", ClaimLease(task="T1"))) is None


def test_another_task_or_a_later_offer_takes_the_place_of_one(world: World) -> None:
    world.expire("T1")
    world.do("bob", StartSession(task="T1"))
    session = world.show("bob").session
    world.state.soft.presence.touch(world.state.agents.by_name["bob"].id, 0, world.lease_ms)
    world.do("bob", SaveSessionPoint(data=raw({"by": "bob"})))
    world.do("bob", UpdateSession(resumable_at_ms=500))
    assert offers(world) == [session], "one offer a task, the latest"
    world.do("bob", UpdateSession(task="T2"))
    assert offers(world) == []
    assert refused(world, "cy", UpdateSession(session=session, task="T1")).code == "not_permitted"


def test_what_an_answer_brings_is_bounded_newest_first(world: World) -> None:
    limits = msgspec.structs.replace(
        world.rules.limits, session_items_max=200, session_item_chars_max=1_024, session_bytes_max=64 * 1024
    )
    world.rules = type(world.rules)(msgspec.structs.replace(limits, sessions_bytes_max=1 << 20))
    lines = tuple(f"{n}" + "x" * 1_000 for n in range(20))
    world.do("ada", UpdateSession(append=Lines(todos=lines)))
    world.expire("T1")
    resume = resume_of(world.do("bob", ClaimLease(task="T1")))
    assert resume.todos == lines[-4:]
    assert (resume.omitted, len(msgspec.json.encode(resume.todos)) < LINES_BYTES_MAX + 64) == (17, True)
