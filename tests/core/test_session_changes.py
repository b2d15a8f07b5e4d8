"""Bad requests about sessions and lanes: refused with their code, and nothing is changed (`World.do` looks)."""

from typing import Any

import msgspec
import pytest
from tests.core.test_sessions import World, raw, refused

from synapse.core.answers import look
from synapse.errors import Rejected
from synapse.protocol.commands import ClaimLease
from synapse.protocol.lane_commands import AcceptLane, CloseLane, ListLanes, OfferLane, SendLane
from synapse.protocol.session_commands import (
    BeatSession,
    EndSession,
    Lines,
    ListSessions,
    SaveSessionPoint,
    ShowSession,
    StartSession,
    UpdateSession,
)


@pytest.fixture
def world() -> World:
    """ada has a session; bob has none."""
    world = World()
    world.do("ada", StartSession(task="T1"))
    return world


def refused_look(world: World, name: str, query: Any) -> Rejected:
    with pytest.raises(Rejected) as caught:
        look(world.state, world.rules, query, world.by(name))
    return caught.value


@pytest.mark.bad_input("BI-69")
@pytest.mark.parametrize("text", ["", "s", "12", "l12", "s-1", "s1e3", "s٣", "s" + "9" * 17])
def test_what_is_no_id_is_no_session(world: World, text: str) -> None:
    for command in (UpdateSession(session=text), BeatSession(session=text), EndSession(session=text)):
        assert refused(world, "ada", command).code == "bad_request"
    assert refused_look(world, "bob", ShowSession(session=text)).code == "bad_request"


@pytest.mark.bad_input("BI-69")
def test_a_session_that_is_not_there_or_of_no_agent(world: World) -> None:
    assert refused(world, "ada", BeatSession(session="s1")).code == "not_found"
    assert refused(world, "bob", BeatSession()).facts["next"] == "synapse session start"
    for command in (StartSession(), BeatSession(), SaveSessionPoint(data=raw(1)), EndSession()):
        assert refused(world, "operator", command).code == "anonymous"
    assert refused_look(world, "bob", ShowSession()).code == "not_found"
    assert refused_look(world, "bob", ShowSession(agent="nobody")).code == "not_found"
    assert refused_look(world, "bob", ShowSession(agent="No Body")).code == "bad_name"
    assert refused_look(world, "bob", ShowSession(agent="ada", session="s1")).code == "bad_request"
    assert refused_look(world, "operator", ShowSession()).code == "anonymous"
    assert refused(world, "ada", StartSession(room="nowhere")).code == "not_found"


BAD_FIELDS = {
    "a display name without a character": (UpdateSession(display_name=""), "bad_request"),
    "a display name too long": (UpdateSession(display_name="x" * 257), "bad_request"),
    "a repo too long": (UpdateSession(repo="x" * 513), "bad_request"),
    "a summary too long": (UpdateSession(summary="x" * 4_097), "bad_request"),
    "a task outside its grammar": (UpdateSession(task="a b"), "bad_name"),
    "metadata that is no object": (UpdateSession(metadata=raw([1])), "bad_request"),
    "a state that ends": (UpdateSession(state="done"), "bad_request"),
    "an unknown state": (UpdateSession(state="lazy"), "bad_request"),
    "a date before all dates": (UpdateSession(resumable_at_ms=-1), "bad_request"),
    "a line without a character": (UpdateSession(append=Lines(todos=("",))), "bad_request"),
    "a line too long": (UpdateSession(append=Lines(decisions=("x" * 33,))), "bad_request"),
    "lists appended to and replaced": (UpdateSession(todos=("a",), append=Lines(todos=("b",))), "bad_request"),
    "too many lines": (UpdateSession(append=Lines(files=tuple("abcde"))), "limit"),
    "too many bytes": (UpdateSession(metadata=raw({"x": "y" * 1_000})), "too_large"),
    "an end that is none": (EndSession(state="offline"), "bad_request"),
    "a reason too long": (EndSession(reason="x" * 513), "bad_request"),
    "a reason without a character": (EndSession(reason=""), "bad_request"),
}


@pytest.mark.bad_input("BI-70")
@pytest.mark.parametrize(("command", "code"), BAD_FIELDS.values(), ids=BAD_FIELDS.keys())
def test_fields_out_of_bounds_are_refused_whole(world: World, command: Any, code: str) -> None:
    assert refused(world, "ada", command).code == code
    if isinstance(command, UpdateSession):
        command = msgspec.structs.replace(command, resumable_at_ms=command.resumable_at_ms or 5_000)
        refused(world, "ada", command)
    assert world.show().resumable_at_ms is None


@pytest.mark.bad_input("BI-71")
@pytest.mark.parametrize("off_by", [-1, 1, 2**40])
def test_another_version_than_it_has_is_refused_with_the_one_it_has(world: World, off_by: int) -> None:
    version = world.show().version
    stale = refused(world, "ada", UpdateSession(summary="s", if_version=version + off_by))
    assert (stale.code, stale.facts["version"], stale.facts["expected"]) == (
        "version_conflict",
        version,
        version + off_by,
    )


@pytest.mark.bad_input("BI-72")
def test_a_checkpoint_that_is_none(world: World) -> None:
    assert refused(world, "ada", SaveSessionPoint()).code == "bad_request"
    assert refused(world, "ada", SaveSessionPoint(data=raw("x" * 63))).facts["checkpoint_bytes_max"] == 64
    assert refused(world, "ada", SaveSessionPoint(data=raw(1), epoch=1)).code == "stale_epoch"
    epoch = world.do("bob", ClaimLease(task="T1")).epoch
    assert refused(world, "ada", SaveSessionPoint(data=raw(1), epoch=epoch)).code == "stale_epoch"
    assert refused(world, "ada", SaveSessionPoint(data=raw(1), lane="l1")).code == "not_found"
    assert refused(world, "ada", SaveSessionPoint(data=raw(1), lane="s1")).code == "bad_request"
    assert world.show().last is None


@pytest.mark.bad_input("BI-73")
def test_a_lane_that_leads_nowhere(world: World) -> None:
    limits = world.rules.limits
    for command, code in (
        (OfferLane(to="ada"), "bad_request"),
        (OfferLane(to="nobody"), "not_found"),
        (OfferLane(to="No Body"), "bad_name"),
        (OfferLane(to="bob", session="s1"), "not_found"),
        (OfferLane(to="bob", task="a b"), "bad_name"),
        (OfferLane(to="bob", timeout_ms=limits.lane_timeout_ms_min - 1), "bad_request"),
        (OfferLane(to="bob", timeout_ms=limits.lane_timeout_ms_max + 1), "bad_request"),
        (OfferLane(to="bob", note=""), "bad_request"),
        (OfferLane(to="bob", note="x" * 513), "bad_request"),
        (OfferLane(to="bob", context=raw("x" * limits.lane_bytes_max)), "too_large"),
    ):
        assert refused(world, "ada", command).code == code
    session = world.show().session
    assert refused(world, "bob", OfferLane(to="ada", session=session)).code == "not_permitted"
    world.do("ada", EndSession())
    assert refused(world, "ada", OfferLane(to="bob", session=session)).code == "illegal_transition"


@pytest.mark.bad_input("BI-74")
def test_a_step_of_a_lane_that_is_not_there_or_by_nobody(world: World) -> None:
    for text in ("", "l", "s12", "l-1"):
        assert refused(world, "bob", AcceptLane(lane=text)).code == "bad_request"
    assert refused(world, "bob", AcceptLane(lane="l1")).code == "not_found"
    lane = world.do("ada", OfferLane(to="bob")).lane
    assert refused(world, "operator", AcceptLane(lane=lane)).code == "anonymous"
    assert refused(world, "bob", CloseLane(lane=lane, reason="")).code == "bad_request"
    assert world.do("operator", CloseLane(lane=lane)).state == "closed"
    assert [letter["type"] for letter in (*world.mail_of("ada"), *world.mail_of("bob"))] == [
        "lane.closed",
        "lane.offered",
        "lane.closed",
    ]


@pytest.mark.bad_input("BI-75")
def test_a_message_into_a_lane_by_nobody_too_large_or_into_a_full_inbox(world: World) -> None:
    lane = world.do("ada", OfferLane(to="bob")).lane
    assert refused(world, "operator", SendLane(lane=lane, body=raw(1))).code == "anonymous"
    big = raw("x" * world.rules.limits.lane_bytes_max)
    assert refused(world, "ada", SendLane(lane=lane, body=big)).code == "too_large"
    world.rules = type(world.rules)(msgspec.structs.replace(world.rules.limits, inbox_unacked_max=1))
    assert refused(world, "ada", SendLane(lane=lane, body=raw(1))).code == "inbox_full"
    assert refused(world, "ada", OfferLane(to="bob")).code == "inbox_full"


@pytest.mark.bad_input("BI-76")
def test_lists_by_what_there_is_not(world: World) -> None:
    for query, code in (
        (ListSessions(state="lazy"), "bad_request"),
        (ListSessions(agent="No Body"), "bad_name"),
        (ListSessions(agent="nobody"), "not_found"),
        (ListSessions(room="nowhere"), "not_found"),
        (ListSessions(limit=0), "bad_request"),
        (ListLanes(state="lazy"), "bad_request"),
        (ListLanes(sender="No Body"), "bad_name"),
        (ListLanes(session="l1"), "bad_request"),
        (ListLanes(session="s1"), "not_found"),
        (ListLanes(sender="nobody"), "not_found"),
        (ListLanes(receiver="nobody"), "not_found"),
        (ListLanes(limit=501), "bad_request"),
    ):
        assert refused_look(world, "ada", query).code == code
