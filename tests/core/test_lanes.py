"""Lanes: work goes from one agent to another with its lease, and every step is told to the other side."""

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from tests.core.test_sessions import LIMITS, World, raw, refused

from synapse.core.answers import look
from synapse.core.by import Rules
from synapse.core.lanes import decide_timed_out
from synapse.core.mail import numbered
from synapse.core.retention import pinned
from synapse.core.state import decode_state, digest, encode_state
from synapse.errors import Rejected
from synapse.protocol.commands import (
    ClaimLease,
    CreateRoom,
    DeleteRoom,
    ForgetAgent,
    Hello,
    JoinRoom,
    LeaveRoom,
    ReleaseLease,
)
from synapse.protocol.lane_commands import AcceptLane, CloseLane, DeclineLane, ListLanes, OfferLane, SendLane
from synapse.protocol.member_commands import InviteMember, KickMember
from synapse.protocol.session_commands import EndSession, ListSessions, SaveSessionPoint, StartSession


@pytest.fixture
def world() -> World:
    """ada has a session on T1 and its lease; cy is there too."""
    world = World(msgspec.structs.replace(LIMITS, lanes_per_agent_max=2, lanes_ended_max=2, lane_bytes_max=64))
    world.do("cy", Hello(name="cy", secret="cy" * 32))
    world.do("ada", StartSession(task="T1"))
    world.do("ada", ClaimLease(task="T1"))
    return world


def lanes(world: World, name: str = "cy", **query: Any) -> list[tuple[str, str]]:
    page: Any = look(world.state, world.rules, ListLanes(**query), world.by(name))
    return [(lane.lane, lane.state) for lane in page.lanes]


def time_out(world: World) -> None:
    for event in numbered(world.state, decide_timed_out(world.state, world.rules, world.at_ms)):
        world.record(event, "hub")


def test_an_accepted_lane_brings_the_senders_lease_with_a_new_epoch_and_no_gap(world: World) -> None:
    offered = world.do("ada", OfferLane(to="bob", context=raw({"look": "here"}), note="finish it"))
    (letter,) = world.mail_of("bob")
    assert (letter["type"], letter["by"], letter["context"]) == ("lane.offered", "ada", {"look": "here"})
    assert letter["next"] == f"synapse lane accept {offered.lane}"
    before = world.state.seq
    accepted = world.do("bob", AcceptLane(lane=offered.lane))
    assert (accepted.state, accepted.task) == ("accepted", "T1")
    (lease,) = world.state.leases.live.values()
    assert (lease.epoch, lease.ask.owner) == (accepted.epoch, "bob")
    assert [type(entry.event).__name__ for entry in world.log if entry.seq > before] == [
        "LeaseHandedOff",
        "LaneAccepted",
    ]
    (told,) = world.mail_of("ada")
    assert (told["type"], told["epoch"]) == ("lane.accepted", accepted.epoch)
    assert refused(world, "ada", ReleaseLease(task="T1")).code == "not_holder"
    assert world.listed(resumable=True) == [], "a hand-over is no break"


def test_without_a_lease_of_the_sender_acceptance_says_what_to_claim(world: World) -> None:
    world.do("ada", ReleaseLease(task="T1"))
    lane = world.do("ada", OfferLane(to="bob")).lane
    accepted = world.do("bob", AcceptLane(lane=lane))
    assert (accepted.epoch, accepted.next) == (None, "synapse claim T1")


def test_what_a_hand_off_is_refused_with_leaves_the_offer_as_it_is(world: World) -> None:
    lane = world.do("ada", OfferLane(to="bob")).lane
    world.rules = Rules(msgspec.structs.replace(world.rules.limits, leases_per_agent_max=0))
    assert refused(world, "bob", AcceptLane(lane=lane)).facts["limit"] == "leases_per_agent_max"
    assert lanes(world) == [(lane, "offered")]


def test_only_the_receiver_answers_an_offer_and_both_sides_close_it(world: World) -> None:
    lane = world.do("ada", OfferLane(to="bob")).lane
    for name in ("ada", "cy"):
        assert refused(world, name, AcceptLane(lane=lane)).code == "not_permitted"
        assert refused(world, name, DeclineLane(lane=lane)).code == "not_permitted"
    assert refused(world, "cy", CloseLane(lane=lane)).code == "not_permitted"
    assert refused(world, "cy", SendLane(lane=lane, body=raw("hi"))).code == "not_permitted"
    world.do("bob", DeclineLane(lane=lane, reason="busy"))
    assert [(letter["type"], letter["reason"]) for letter in world.mail_of("ada")] == [("lane.declined", "busy")]
    again = refused(world, "bob", AcceptLane(lane=lane))
    assert (again.code, again.facts["state"], again.facts["by"]) == ("illegal_transition", "declined", "bob")
    second = world.do("ada", OfferLane(to="bob")).lane
    world.do("bob", AcceptLane(lane=second))
    assert refused(world, "bob", AcceptLane(lane=second)).facts["state"] == "accepted"
    world.do("ada", CloseLane(lane=second, reason="enough"))
    assert world.mail_of("bob")[-1]["type"] == "lane.closed"
    assert refused(world, "bob", CloseLane(lane=second)).facts["by"] == "ada"
    assert refused(world, "bob", SendLane(lane=second, body=raw(1))).code == "illegal_transition"


def test_an_offer_times_out_at_its_date_also_before_the_tick_and_the_sender_is_told_once(world: World) -> None:
    lane = world.do("ada", OfferLane(to="bob", timeout_ms=10_000)).lane
    world.at_ms += 9_999
    time_out(world)
    assert lanes(world) == [(lane, "offered")]
    world.at_ms += 1
    assert lanes(world, state="timed_out") == [(lane, "timed_out")]
    late = refused(world, "bob", AcceptLane(lane=lane))
    assert (late.code, late.facts["state"], late.facts["by"]) == ("illegal_transition", "timed_out", "hub")
    time_out(world)
    time_out(world)
    assert [letter["type"] for letter in world.mail_of("ada")] == ["lane.timed_out"]
    assert next(iter(world.state.leases.live.values())).ask.owner == "ada"


def test_many_offers_that_time_out_at_once_reach_one_inbox_without_a_gap(world: World) -> None:
    for name in ("bob", "cy"):
        world.do("ada", OfferLane(to=name, timeout_ms=10_000))
    world.at_ms += 10_000
    time_out(world)
    assert [letter["type"] for letter in world.mail_of("ada")] == ["lane.timed_out"] * 2
    assert digest(world.replayed()) == digest(world.state)


def test_messages_and_checkpoints_belong_to_the_lane(world: World) -> None:
    lane = world.do("ada", OfferLane(to="bob")).lane
    said = world.do("bob", SendLane(lane=lane, body=raw({"q": 1})))
    assert (said.n, said.to) == (1, ("ada",))
    assert [(letter["type"], letter["body"]) for letter in world.mail_of("ada")] == [("lane.message", {"q": 1})]
    first = world.show().session
    world.do("ada", StartSession())
    point = world.do("ada", SaveSessionPoint(data=raw(1), lane=lane))
    assert (point.session, point.lane) == (first, lane), "the sender's go into the session that the lane is of"
    assert refused(world, "bob", SaveSessionPoint(data=raw(1), lane=lane)).facts["next"] == "synapse session start"
    mine = world.do("bob", StartSession()).session
    assert world.do("bob", SaveSessionPoint(data=raw(2), lane=lane)).session == mine
    page: Any = look(world.state, world.rules, ListLanes(), world.by("cy"))
    assert (page.lanes[0].messages, page.lanes[0].checkpoints) == (1, 2)
    assert int(lane[1:]) in set(pinned(world.state)), "its context is in the journal"
    world.do("bob", DeclineLane(lane=lane))
    assert refused(world, "ada", SaveSessionPoint(data=raw(1), lane=lane)).code == "illegal_transition"


def test_what_makes_no_lane_is_refused(world: World) -> None:
    assert refused(world, "ada", OfferLane(to="ada")).code == "bad_request"
    assert refused(world, "ada", OfferLane(to="bop")).facts["near"] == ["bob"]
    assert refused(world, "bob", OfferLane(to="ada")).facts["next"] == "synapse session start"
    assert refused(world, "ada", OfferLane(to="bob", timeout_ms=9_999)).code == "bad_request"
    assert refused(world, "ada", OfferLane(to="bob", context=raw("x" * 64))).code == "too_large"
    for _ in range(2):
        world.do("ada", OfferLane(to="bob"))
    assert refused(world, "ada", OfferLane(to="cy")).facts == {
        "limit": "lanes_per_agent_max",
        "value": 2,
        "agent": "ada",
    }
    world.do("cy", StartSession())
    assert refused(world, "cy", OfferLane(to="bob")).facts["agent"] == "bob"


def test_a_forgotten_agents_lanes_end_and_the_others_are_told(world: World) -> None:
    world.do("cy", StartSession())
    for name in ("ada", "cy"):
        world.do(name, OfferLane(to="bob"))
    world.do("operator", ForgetAgent(name="bob"))
    assert [state for _, state in lanes(world)] == ["closed", "closed"]
    for name in ("ada", "cy"):
        assert [letter["reason"] for letter in world.mail_of(name)] == ["the agent was forgotten"]
    assert digest(world.replayed()) == digest(world.state)


def test_a_sender_that_is_forgotten_with_two_lanes_to_one_agent_leaves_two_letters(world: World) -> None:
    for _ in range(2):
        world.do("ada", OfferLane(to="bob"))
    world.do("operator", ForgetAgent(name="ada"))
    assert [letter["type"] for letter in world.mail_of("bob")] == ["lane.offered"] * 2 + ["lane.closed"] * 2
    assert digest(world.replayed()) == digest(world.state)


@pytest.mark.parametrize("key", ["sender", "receiver", "agent"])
def test_a_list_says_to_who_is_kept_to_some_rooms_nothing_of_agents_elsewhere(world: World, key: str) -> None:
    kept = world.by("bob", rooms=frozenset({"side"}))
    said: list[str] = []
    for name in ("ada", "quill"):
        query = ListSessions(agent=name) if key == "agent" else msgspec.convert({key: name}, ListLanes)
        with pytest.raises(Rejected) as caught:
            look(world.state, world.rules, query, kept)
        assert caught.value.code == "not_found"
        said.append(str(caught.value).replace(name, "NAME"))
    assert said[0] == said[1], "one that is elsewhere is told as one that never was"
    if key != "agent":
        assert lanes(world, **{key: "ada"}) == [], "who may know of her is told that there are none"


def test_a_room_that_is_not_seen_has_no_lanes_and_one_with_open_lanes_stays(world: World) -> None:
    world.do("cy", StartSession(room="side"))
    lane = world.do("cy", OfferLane(to="bob")).lane
    hidden = world.by("bob", rooms=frozenset({"main"}))
    page: Any = look(world.state, world.rules, ListLanes(), hidden)
    assert page.lanes == ()
    world.do("cy", EndSession())
    assert refused(world, "operator", DeleteRoom(room="side")).facts["lanes"] == 1
    world.do("bob", AcceptLane(lane=lane))
    world.do("cy", CloseLane(lane=lane))
    world.do("operator", DeleteRoom(room="side"))
    assert lanes(world) == []
    assert digest(world.replayed()) == digest(world.state)


def test_a_private_room_hands_nothing_to_who_is_no_member(world: World) -> None:
    world.state.rooms.by_name["main"].private = True
    ada, bob = (world.state.agents.by_name[name].id for name in ("ada", "bob"))
    world.state.rooms.by_name["main"].members.add(ada)
    assert refused(world, "ada", OfferLane(to="bob")).code == "not_permitted"
    world.state.rooms.by_name["main"].members.add(bob)
    assert world.do("ada", OfferLane(to="bob")).state == "offered"


def a_den(world: World) -> None:
    """A private room of ada, bob and cy; ada has a session there."""
    world.do("ada", CreateRoom(room="den", private=True))
    for name in ("bob", "cy"):
        world.do("ada", InviteMember(place="den", agent=name))
        world.do(name, JoinRoom(room="den"))


@pytest.mark.parametrize("how", ["kick", "leave"])
@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_lanes_of_a_private_room_end_with_who_is_not_in_it_any_more(world: World, how: str, side: str) -> None:
    a_den(world)
    world.rules = Rules(msgspec.structs.replace(world.rules.limits, lanes_per_agent_max=3))
    sender, receiver = ("bob", "cy") if side == "sender" else ("cy", "bob")
    session = world.do(sender, StartSession(room="den")).session
    accepted = world.do(sender, OfferLane(session=session, to=receiver, note="hidden")).lane
    world.do(receiver, AcceptLane(lane=accepted))
    offered = world.do(sender, OfferLane(session=session, to=receiver, note="hidden")).lane
    elsewhere = world.do("ada", OfferLane(to="bob")).lane
    before = [letter for letter in world.mail_of("bob") if "lane" in letter]
    if how == "kick":
        world.do("ada", KickMember(place="den", agent="bob"))
    else:
        world.do("bob", LeaveRoom(room="den"))
    reason = {"kick": "removed", "leave": "left"}[how]
    assert dict(lanes(world)) == {offered: "closed", accepted: "closed", elsewhere: "offered"}
    told = [(letter["type"], letter["lane"], letter["reason"]) for letter in world.mail_of("cy")[-2:]]
    assert told == [("lane.closed", accepted, reason), ("lane.closed", offered, reason)]
    assert [letter for letter in world.mail_of("bob") if "lane" in letter] == before, "nothing to who is outside"
    assert refused(world, "cy", SendLane(lane=accepted, body=raw("hidden"))).code == "illegal_transition"
    assert refused(world, "bob", SendLane(lane=accepted, body=raw("let me in"))).code == "not_found"
    assert digest(world.replayed()) == digest(world.state)


def test_who_leaves_a_public_room_keeps_its_lanes(world: World) -> None:
    world.do("bob", JoinRoom(room="main"))
    lane = world.do("ada", OfferLane(to="bob")).lane
    world.do("bob", LeaveRoom(room="main"))
    assert world.do("bob", AcceptLane(lane=lane)).state == "accepted"


def test_a_lane_of_a_journal_from_before_brings_nothing_out_of_a_private_room(world: World) -> None:
    a_den(world)
    session = world.do("ada", StartSession(room="den")).session
    open_, late = (world.do("ada", OfferLane(session=session, to="bob")).lane for _ in range(2))
    world.do("bob", DeclineLane(lane=late))
    world.state.rooms.by_name["den"].members.discard(world.state.agents.by_name["bob"].id)
    letters = len(world.mail_of("bob"))
    assert refused(world, "ada", SendLane(lane=open_, body=raw("hidden"))).code == "not_permitted"
    for lane in (open_, late):
        world.do("ada", CloseLane(lane=lane, reason="hidden"))
    assert len(world.mail_of("bob")) == letters


# Against a model that knows nothing of events.

NAMES = ("ada", "bob", "cy")
LEGAL = {
    "offered": {"accept": "accepted", "decline": "declined", "close": "closed"},
    "accepted": {"close": "closed"},
    "declined": {"close": "closed"},
    "timed_out": {"close": "closed"},
    "closed": {},
}
COMMANDS = {"accept": AcceptLane, "decline": DeclineLane, "close": CloseLane}


@dataclass
class Modelled:
    """A lane as the model has it."""

    sender: str
    receiver: str
    task: str
    until_ms: int
    state: str = "offered"
    messages: int = 0


class Lanes(RuleBasedStateMachine):
    """Offers, answers, messages, time, claims, kills and forgetting, against a table of who may do what when."""

    known = Bundle("known")

    @initialize()
    def begin(self) -> None:
        self.world = World(msgspec.structs.replace(LIMITS, lanes_per_agent_max=50, sessions_per_agent_max=99))
        self.world.do("cy", Hello(name="cy", secret="cy" * 32))
        self.model: dict[str, Modelled] = {}
        self.holder: dict[str, str] = {}
        self.letters = dict.fromkeys(NAMES, 0)
        for name in NAMES:
            self.world.do(name, StartSession())

    def now_of(self, lane: Modelled) -> str:
        is_late = lane.state == "offered" and lane.until_ms <= self.world.at_ms
        return "timed_out" if is_late else lane.state

    @rule(target=known, sender=st.sampled_from(NAMES), to=st.integers(1, 2), task=st.sampled_from(("T1", "T2")))
    def offer(self, sender: str, to: int, task: str) -> str:
        receiver = NAMES[(NAMES.index(sender) + to) % 3]
        offered = self.world.do(sender, OfferLane(to=receiver, task=task, timeout_ms=10_000))
        self.model[offered.lane] = Modelled(sender, receiver, task, self.world.at_ms + 10_000)
        self.letters[receiver] += 1
        lane: str = offered.lane
        return lane

    @rule(lane=known, who=st.sampled_from(NAMES), what=st.sampled_from(sorted(COMMANDS)))
    def step(self, lane: str, who: str, what: str) -> None:
        modelled = self.model[lane]
        command = COMMANDS[what](lane=lane)
        sides = (modelled.sender, modelled.receiver)
        if who not in (sides if what == "close" else sides[1:]):
            assert refused(self.world, who, command).code == "not_permitted"
            return
        now = self.now_of(modelled)
        if what not in LEGAL[now]:
            refusal = refused(self.world, who, command)
            assert (refusal.code, refusal.facts["state"]) == ("illegal_transition", now)
            return
        takes_over = what == "accept" and self.holder.get(modelled.task) == modelled.sender
        reply = self.world.do(who, command)
        modelled.state = LEGAL[now][what]
        assert reply.state == modelled.state
        if what == "accept":
            assert (reply.epoch is not None) == takes_over
        if takes_over:
            self.holder[modelled.task] = modelled.receiver
        self.letters[sides[0] if who == sides[1] else sides[1]] += 1

    @rule(lane=known, who=st.sampled_from(NAMES))
    def write(self, lane: str, who: str) -> None:
        modelled = self.model[lane]
        command = SendLane(lane=lane, body=raw("hi"))
        if who not in (modelled.sender, modelled.receiver):
            assert refused(self.world, who, command).code == "not_permitted"
        elif self.now_of(modelled) not in ("offered", "accepted"):
            assert refused(self.world, who, command).code == "illegal_transition"
        else:
            modelled.messages += 1
            assert self.world.do(who, command).n == modelled.messages
            self.letters[modelled.receiver if who == modelled.sender else modelled.sender] += 1

    @rule(who=st.sampled_from(NAMES), task=st.sampled_from(("T1", "T2")))
    def claim(self, who: str, task: str) -> None:
        holder = self.holder.get(task)
        if holder is None or holder == who:
            self.world.do(who, ClaimLease(task=task))
            self.holder[task] = who
        else:
            with pytest.raises(Rejected):
                self.world.do(who, ClaimLease(task=task))

    @rule(task=st.sampled_from(("T1", "T2")))
    def release(self, task: str) -> None:
        holder = self.holder.pop(task, None)
        if holder is not None:
            self.world.do(holder, ReleaseLease(task=task))

    @rule(ms=st.sampled_from((1, 4_000, 10_000)))
    def wait(self, ms: int) -> None:
        self.world.at_ms += ms

    @rule()
    def tick(self) -> None:
        for modelled in self.model.values():
            if modelled.state == "offered" and self.now_of(modelled) == "timed_out":
                modelled.state = "timed_out"
                self.letters[modelled.sender] += 1
        time_out(self.world)

    @rule()
    def restart(self) -> None:
        self.world.state = decode_state(encode_state(self.world.replayed()))

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        if not hasattr(self, "world"):
            return
        page: Any = look(self.world.state, self.world.rules, ListLanes(), self.world.by("ada"))
        told = {lane.lane: (lane.sender, lane.receiver, lane.state, lane.messages) for lane in page.lanes}
        assert told == {
            lane: (known.sender, known.receiver, self.now_of(known), known.messages)
            for lane, known in self.model.items()
        }
        held = {lease.ask.task: lease.ask.owner for lease in self.world.state.leases.live.values()}
        assert held == self.holder
        for name in NAMES:
            agent = self.world.state.agents.by_name[name].id
            assert self.world.state.agents.inboxes[agent].last_n == self.letters[name]


Lanes.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestLanesAreAsTheModelSays = Lanes.TestCase
