"""The loop guard: circles over any number of agents are held, trees never; budgets; what a person decides; a model."""

import dataclasses
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.conftest import World, text

from synapse.core.answers import look
from synapse.core.by import By
from synapse.core.events import MessageHeld, MessagePosted, MessageSent
from synapse.core.held_events import HeldDropped, HeldReleased
from synapse.core.held_questions import decide_answered, needless
from synapse.core.inboxes import Lend
from synapse.core.loops import TRACES_MAX
from synapse.core.question_events import QuestionAnswered
from synapse.core.state import decode_state, digest, encode_state
from synapse.core.telling import shown_to
from synapse.errors import Rejected
from synapse.protocol.commands import (
    AckInbox,
    CreateChannel,
    CreateRoom,
    DeleteChannel,
    ForgetAgent,
    Hello,
    JoinChannel,
    JoinRoom,
    LeaveChannel,
    SendMessage,
)
from synapse.protocol.cursor import message_id
from synapse.protocol.held_commands import DropHeld, ListHeld, ReleaseHeld
from synapse.protocol.held_replies import HeldEnded, HeldPage
from synapse.protocol.limits import Limits
from synapse.protocol.member_commands import InviteMember, KickMember
from synapse.protocol.notices import Message
from synapse.protocol.question_commands import AnswerQuestion
from synapse.protocol.replies import Sent

HOPS, REPEATS = 6, 2
LIMITS = Limits(hops_max=HOPS, loop_repeats_max=REPEATS, sends_per_chain_max=100, cause_ms=1_000)


def a_world(names: int = 3, limits: Limits = LIMITS) -> World:
    world = World(limits)
    world.join(*(f"a{n}" for n in range(names)))
    return world


def send(world: World, by: str, to: str | tuple[str, ...], **more: Any) -> Sent:
    sent = world.do(text("x", to=(to,) if isinstance(to, str) else to, **more), by)[1]
    assert isinstance(sent, Sent)
    return sent


def is_held(sent: Sent) -> bool:
    return sent.held is not msgspec.UNSET


def take(world: World, name: str) -> str:
    """The oldest message of an inbox, acked; its id."""
    seq = next(iter(world.state.agents.inboxes[world.agent(name)].entries))
    world.do(AckInbox(ids=(message_id(seq),)), name)
    return message_id(seq)


def shown(world: World, sent_id: str, to: str) -> Message:
    (recorded,) = world.read(int(sent_id[1:]), 1)
    message = shown_to(world.state.journal_id, recorded, world.agent(to))
    assert message is not None
    return message


def go_round(world: World, count: int, most: int = 200) -> tuple[int, Sent]:
    """A message goes from agent to agent in a circle until it is held: how many were delivered, and the held one."""
    sent = send(world, "a0", f"a{1 % count}")
    for hop in range(1, most):
        at = hop % count
        take(world, f"a{at}")
        sent = send(world, f"a{at}", f"a{(at + 1) % count}")
        if is_held(sent):
            return hop, sent
    raise AssertionError("a circle without end")


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_a_circle_over_any_number_of_agents_is_held_after_so_many_rounds(count: int) -> None:
    world = a_world(count)
    hops, sent = go_round(world, count)
    assert HOPS <= hops <= max(HOPS + 1, (REPEATS + 1) * count)
    assert sent.held.why == "loop"  # type: ignore[union-attr]  # it is held
    assert digest(world.replayed()) == digest(decode_state(encode_state(world.state))) == digest(world.state)


def test_cause_and_hops_are_the_hubs_and_a_message_without_cause_has_none() -> None:
    world = a_world()
    first = send(world, "a0", "a1")
    plain = shown(world, first.id, "a1")
    assert b"causation" not in msgspec.json.encode(plain)
    take(world, "a1")
    second = send(world, "a1", "a2")
    message = shown(world, second.id, "a2")
    assert (message.causation, message.hops) == (first.id, 1)
    take(world, "a2")
    third = shown(world, send(world, "a2", "a0", reply_to=second.id).id, "a0")
    assert (third.causation, third.hops) == (second.id, 2)
    world.at_ms += 1_001
    assert shown(world, send(world, "a1", "a0").id, "a0").hops is not third.hops, "what was acked long ago is no cause"


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_circle_of_replies_in_a_channel_is_held_and_replies_of_one_agent_alone_are_none(count: int) -> None:
    world = a_world(count)
    last: str | None = None
    for hop in range(200):
        sent = world.do(text("x", channel="main:general", reply_to=last), f"a{hop % count}")[1]
        assert isinstance(sent, Sent)
        if is_held(sent):
            break
        last = sent.id
    assert HOPS < hop <= (REPEATS + 1) * max(count, HOPS), "held, and not before a chain is long"
    assert sent.held.why == "loop"  # type: ignore[union-attr]  # it is held
    alone = a_world(1)
    last = None
    for _ in range(40):
        one = alone.do(text("x", channel="main:general", reply_to=last), "a0")[1]
        assert isinstance(one, Sent)
        assert not is_held(one), "an agent that goes on with its own thread answers nobody"
        last = one.id


def test_answering_an_old_message_of_a_channel_does_not_hide_what_the_sender_has_in_hand() -> None:
    world = a_world(2)
    root = world.do(text("x", channel="main:general"), "a0")[1]
    assert isinstance(root, Sent)
    hops = 0
    for hop in range(60):
        by, to = f"a{hop % 2}", f"a{1 - hop % 2}"
        sent = send(world, by, to, reply_to=root.id if hop else None)
        if is_held(sent):
            break
        hops = hop
        take(world, to)
    assert hops <= (REPEATS + 1) * HOPS, "a circle, whatever it says that it answers"
    assert is_held(sent)


def test_a_message_that_is_not_there_yet_is_nothing_to_reply_to() -> None:
    world = a_world(2)
    for never in (message_id(world.state.seq + 1), message_id(2**53), "m0"):
        refused = world.refusal(text("x", to=("a1",), reply_to=never), "a0")
        assert (refused.code, refused.facts["path"]) == ("not_found", "$.body.reply_to")
    assert world.refusal(text("x", to=("a1",), reply_to="m007"), "a0").code == "bad_request"


@pytest.mark.bad_input("BI-115")
def test_a_client_cannot_say_what_caused_its_message() -> None:
    for field in (b'"causation":"m1"', b'"hops":0'):
        with pytest.raises(msgspec.ValidationError, match="unknown field"):
            msgspec.json.decode(b'{"body":1,' + field + b"}", type=SendMessage)


def test_a_person_begins_a_new_chain() -> None:
    world = a_world(2)
    world.do(text("hi", to=("a1",)), "a0")
    for _ in range(40):
        take(world, "a1")
        send(world, "a1", "a0")
        take(world, "a0")
        by = world.by("a0")
        by.role = "human"
        sent = world.do(text("again", to=("a1",)), by)[1]
        assert isinstance(sent, Sent)
        assert not is_held(sent)


def test_a_card_of_kind_human_is_no_person_and_the_hubs_own_user_is_one() -> None:
    for name, is_one in (("ann", False), ("eve@afar", False), ("me@here", True)):
        world = World(LIMITS)
        world.rules = dataclasses.replace(world.rules, person="me@here")
        world.join("a0", name)
        agent = world.state.agents.by_id[world.agent(name)]
        agent.card = msgspec.structs.replace(agent.card, kind="human")
        hops = 0
        send(world, "a0", name)
        for hop in range(60):
            by, to = (name, "a0") if hop % 2 == 0 else ("a0", name)
            take(world, by)
            if is_held(send(world, by, to)):
                break
            hops = hop
        assert (hops == 59) == is_one, name


def test_others_of_a_held_chain_are_held_too_and_a_release_delivers_them_in_order_from_their_senders() -> None:
    world = a_world(2)
    hops, held = go_round(world, 2)
    at = hops % 2
    later = send(world, f"a{at}", f"a{1 - at}")
    assert later.held.why == "chain_held"  # type: ignore[union-attr]  # it is held
    page = look(world.state, world.rules, ListHeld(), world.by(f"a{at}"))
    assert isinstance(page, HeldPage)
    assert [one.id for one in page.held] == [held.id, later.id]
    other = look(world.state, world.rules, ListHeld(), world.by(f"a{1 - at}"))
    assert isinstance(other, HeldPage)
    assert other.held == (), "not mine"
    with pytest.raises(Rejected) as caught:
        world.do(ReleaseHeld(id=held.id), f"a{at}")
    assert caught.value.code == "not_permitted"
    released = world.do(ReleaseHeld(id=held.id, chain=True), "operator")[1]
    assert isinstance(released, HeldEnded)
    assert (len(released.ids), released.left) == (2, 0)
    assert [shown(world, one, f"a{1 - at}").sender for one in released.ids] == [f"a{at}"] * 2
    assert len(world.state.agents.inboxes[world.agent(f"a{1 - at}")].entries) == 2
    take(world, f"a{1 - at}")
    assert is_held(send(world, f"a{1 - at}", f"a{at}")), "a release is for these, not for what comes of them"
    with pytest.raises(Rejected) as caught:
        world.do(ReleaseHeld(id=held.id), "operator")
    assert caught.value.code == "not_found"
    assert digest(world.replayed()) == digest(decode_state(encode_state(world.state))) == digest(world.state)


def test_released_and_reset_it_is_the_first_of_a_new_chain() -> None:
    world = a_world(2)
    hops, held = go_round(world, 2)
    (released,) = world.do(ReleaseHeld(id=held.id, reset=True), "operator")[1].ids  # type: ignore[union-attr]  # it was
    at = hops % 2
    assert shown(world, released, f"a{1 - at}").hops == 0
    take(world, f"a{1 - at}")
    assert not is_held(send(world, f"a{1 - at}", f"a{at}"))


def test_a_dropped_message_leaves_a_letter_with_its_sender() -> None:
    world = a_world(2)
    hops, held = go_round(world, 2)
    sender = f"a{hops % 2}"
    dropped, answer = world.do(DropHeld(id=held.id), "operator")
    assert isinstance(answer, HeldEnded)
    assert (answer.ids, answer.left) == ((held.id,), 0)
    letter = shown(world, message_id(dropped[0].seq), sender)
    assert (letter.sender, letter.kind) == ("hub", "system")
    assert b'"type":"message.dropped"' in bytes(letter.body)
    assert held.id.encode() in bytes(letter.body)


def test_a_tree_is_never_held_however_deep_and_wide() -> None:
    world = a_world(40)
    send(world, "a0", ("a1", "a2"))
    for parent in range(1, 19):
        take(world, f"a{parent}")
        for _ in range(REPEATS + 3):
            assert not is_held(send(world, f"a{parent}", (f"a{2 * parent + 1}", f"a{2 * parent + 2}")))
    line = a_world(40)  # many hops long, with many messages on each
    send(line, "a0", "a1")
    for at in range(1, 39):
        take(line, f"a{at}")
        for _ in range(REPEATS + 3):
            assert not is_held(sent := send(line, f"a{at}", f"a{at + 1}"))
    assert shown(line, sent.id, "a39").hops == 38


def test_budgets_hold_what_is_too_much_and_end_with_the_hour() -> None:
    world = a_world(3, Limits(sends_per_chain_max=3, agent_budget_per_hour=5, cause_ms=10**9))
    send(world, "a0", "a1")
    take(world, "a1")
    sent = [send(world, "a1", "a2") for _ in range(4)]
    assert [is_held(one) for one in sent] == [False, False, False, True]
    assert sent[-1].held.why == "chain_budget"  # type: ignore[union-attr]  # it is held
    send(world, "a0", "a1")
    take(world, "a1")
    again = [send(world, "a1", "a2") for _ in range(3)]
    assert [is_held(one) for one in again] == [False, False, True]
    assert again[-1].held.why == "agent_budget"  # type: ignore[union-attr]  # it is held
    world.do(DropHeld(id=again[-1].id), "operator")
    world.at_ms += 3_600_000
    assert not is_held(send(world, "a1", "a2"))


def test_when_no_more_can_be_held_the_sender_is_refused_and_told() -> None:
    world = a_world(2, Limits(hops_max=1, loop_repeats_max=1, held_max=1, cause_ms=10**9))
    hops, held = go_round(world, 2)
    with pytest.raises(Rejected, match="held_max") as caught:
        send(world, f"a{hops % 2}", f"a{1 - hops % 2}")
    assert caught.value.code == "limit"
    assert held.id in [message_id(seq) for seq in world.state.loops.held]


def test_what_the_guard_remembers_is_bounded() -> None:
    world = a_world(1)
    loops = world.state.loops
    trace = type("T", (), {"cause": 1, "origin": 1, "hops": 1, "agent": 1})
    for seq in range(TRACES_MAX + 10):
        loops.add(seq, trace)  # type: ignore[arg-type]  # as good as one
    assert (len(loops.traces), loops.sends) == (TRACES_MAX, {1: {1: TRACES_MAX}})
    loops.forget_chain(1)
    assert (loops.traces, loops.sends) == ({}, {})


@settings(max_examples=60, deadline=None)
@given(data=st.data(), count=st.integers(1, 5))
def test_no_message_vanishes_and_every_circle_ends(data: st.DataObject, count: int) -> None:
    """Random talk: every send is delivered or held; what is held is released or dropped, both with a letter."""
    world = a_world(count)
    names = [f"a{n}" for n in range(count)]
    delivered, held, letters = 0, set[str](), 0
    send(world, names[0], names[-1])
    delivered += 1
    for _ in range(60):
        name = data.draw(st.sampled_from(names))
        has_mail = bool(world.state.agents.inboxes[world.agent(name)].entries)
        if has_mail and data.draw(st.booleans()):
            take(world, name)
        sent = send(world, name, data.draw(st.sampled_from(names)))
        if is_held(sent):
            held.add(sent.id)
        else:
            delivered += 1
        if held and data.draw(st.integers(0, 3)) == 0:
            one = data.draw(st.sampled_from(sorted(held)))
            held.discard(one)
            if data.draw(st.booleans()):
                world.do(ReleaseHeld(id=one, reset=data.draw(st.booleans())), "operator")
                delivered += 1
            else:
                world.do(DropHeld(id=one), "operator")
            letters += 1
    arrived = sum(inbox.last_n for inbox in world.state.agents.inboxes.values())
    assert arrived == delivered + letters
    assert {message_id(seq) for seq in world.state.loops.held} == held
    assert sum(isinstance(item.event, MessageHeld) for item in world.read(0, 1 << 60)) >= len(held)
    assert sum(isinstance(item.event, MessageSent) for item in world.read(0, 1 << 60)) == delivered
    assert digest(world.replayed()) == digest(decode_state(encode_state(world.state))) == digest(world.state)


def test_a_forgotten_agent_leaves_no_trace_that_counts_against_its_name() -> None:
    world = a_world(2)
    hops, held = go_round(world, 2)
    world.do(ForgetAgent(name=f"a{hops % 2}"), "operator")
    world.do(DropHeld(id=held.id), "operator")
    assert (world.state.loops.held, world.state.loops.chains) == ({}, {})


def test_what_an_agent_has_in_hand_on_any_connection_causes_what_it_sends() -> None:
    world = a_world()
    asked = send(world, "a0", "a1")
    lending, agent, seq = world.state.soft.lending, world.agent("a1"), int(asked.id[1:])
    for number in range(300):  # however much others have in hand
        other = int(send(world, "a0", "a2").id[1:])
        lending.lend(Lend(world.agent("a2"), other, 100 + number, 1))
    lending.lend(Lend(agent, seq, 77, 1))
    assert shown(world, send(world, "a1", "a0").id, "a0").causation == asked.id
    lending.end(agent, seq)
    assert shown(world, send(world, "a1", "a0").id, "a0").causation is msgspec.UNSET
    assert agent not in lending.of_inbox


# Held messages of private places.


def a_den() -> World:
    """Ada, bob and a person pat in the private room den, ada and pat in the private channel main:closed; eve and a
    person hal are outside. What has a cause is held."""
    world = a_world(0, msgspec.structs.replace(LIMITS, sends_per_chain_max=0))
    for name in ("ada", "bob", "pat", "eve", "hal"):
        kind = "human" if name in ("pat", "hal") else "agent"
        hello = Hello(name=name, secret="s" * 32, kind=kind)
        world.do(hello, By("", None, 1, "main:general", world.at_ms, world.lease_ms))
    world.do(CreateRoom(room="den", private=True), "ada")
    world.do(CreateChannel(channel="main:closed", private=True), "ada")
    for place, name in (("den", "bob"), ("den", "pat"), ("main:closed", "pat")):
        world.do(InviteMember(place=place, agent=name), "ada")
        world.do(JoinChannel(channel=place) if ":" in place else JoinRoom(room=place), name)
    return world


def hold(world: World, by: str, root: str | None = None, words: str = "hidden", **where: Any) -> str:
    """A message that is held, because it answers another; its id."""
    if root is None:
        first = world.do(text("x", channel="main:general"), "hal")[1]
        assert isinstance(first, Sent)
        root = first.id
    sent = world.do(text(words, reply_to=root, **where), by)[1]
    assert isinstance(sent, Sent)
    assert is_held(sent)
    return sent.id


def person(world: World, name: str, *rooms: str, role: str = "human") -> By:
    by = world.by(name)
    by.role, by.rooms = role, frozenset(rooms) or None
    return by


def listed(world: World, by: By | str) -> dict[str, bool]:
    """What is held as this one sees it: with its body or without."""
    page = world.look(HeldPage, ListHeld(), by)
    return {one.id: one.body is not msgspec.UNSET for one in page.held}


def told_of(world: World, held: str) -> list[str]:
    (recorded,) = world.read(int(held[1:]), 1)
    assert isinstance(recorded.event, MessageHeld)
    return [delivery.name for delivery in recorded.event.deliveries]


def test_people_are_asked_about_a_held_message_of_a_private_room_in_the_room_itself() -> None:
    world = a_den()
    held = hold(world, "bob", channel="den:general")
    (question,) = world.state.questions.open.values()
    assert (question.room_name, world.state.loops.held[int(held[1:])].question) == ("den", question.id)
    assert told_of(world, held) == ["pat"], "hal is a person, and no member"
    public = hold(world, "bob", channel="main:general")
    assert [one.room_name for one in world.state.questions.open.values()] == ["den", "main"]
    assert told_of(world, public) == ["pat", "hal"]


def test_of_a_private_channel_its_people_are_told_and_nobody_else_is_asked() -> None:
    world = a_den()
    held = hold(world, "ada", channel="main:closed")
    assert world.state.questions.open == {}, "a question would be there for the whole room"
    assert told_of(world, held) == ["pat"]
    assert world.do(DropHeld(id=held), person(world, "pat"))[0]


def test_what_is_held_of_a_private_place_is_there_for_its_members_and_without_its_body_for_operators() -> None:
    world = a_den()
    den, closed = hold(world, "bob", channel="den:general"), hold(world, "ada", channel="main:closed")
    group = hold(world, "bob", target="all", room="den")
    public, direct = hold(world, "bob", channel="main:general"), hold(world, "bob", to=("ada",))
    everything = dict.fromkeys((den, closed, group, public, direct), True)
    assert listed(world, person(world, "pat")) == everything
    assert listed(world, person(world, "hal")) == {public: True, direct: True}
    assert listed(world, "operator") == {**everything, den: False, closed: False, group: False}
    assert listed(world, person(world, "pat", "den")) == {den: True, group: True}
    assert listed(world, person(world, "pat", "main")) == {closed: True, public: True}
    assert listed(world, person(world, "hal", "den", role="admin")) == {den: False, group: False}
    assert listed(world, "bob") == {den: True, group: True, public: True, direct: True}, "its own"
    assert listed(world, person(world, "bob", "main", role="agent")) == {public: True, direct: True}
    assert listed(world, "eve") == {}
    shown_to_operator = world.look(HeldPage, ListHeld(), "operator").held[0]
    assert (shown_to_operator.sender, shown_to_operator.channel) == ("bob", "den:general")
    assert shown_to_operator.subject is None


@pytest.mark.parametrize("command", [ReleaseHeld, DropHeld])
def test_who_does_not_see_a_held_message_does_not_decide_about_it(command: type[ReleaseHeld | DropHeld]) -> None:
    world = a_den()
    den, direct = hold(world, "bob", channel="den:general"), hold(world, "bob", to=("ada",))
    nobody = world.refusal(command(id="m999"), person(world, "hal"))
    for by, held in (
        (person(world, "hal"), den),
        (person(world, "hal", "main", role="admin"), den),
        (person(world, "pat", "main"), den),
        (person(world, "pat", "main"), direct),
    ):
        for chain in (False, True):
            refused = world.refusal(command(id=held, chain=chain), by)
            assert (refused.code, refused.detail) == ("not_found", nobody.detail.replace("m999", held))
    assert world.do(command(id=den), person(world, "pat"))[0]
    assert world.do(command(id=direct), person(world, "hal"))[0]
    assert world.do(command(id=hold(world, "bob", channel="den:general")), "operator")[0]


def test_of_a_chain_over_several_places_everybody_decides_about_what_it_sees() -> None:
    world = a_den()
    root = world.do(text("x", channel="main:general"), "hal")[1]
    assert isinstance(root, Sent)
    public = hold(world, "bob", root.id, channel="main:general")
    den, more = (hold(world, "bob", root.id, channel="den:general") for _ in range(2))
    assert [one.room_name for one in world.state.questions.open.values()] == ["main", "den"]
    questions = [world.state.loops.held[int(held[1:])].question for held in (public, den, more)]
    assert questions == [*world.state.questions.open, questions[1]]
    assert told_of(world, den) == ["pat"]
    assert told_of(world, more) == []
    ended = world.do(DropHeld(id=public, chain=True), person(world, "hal"))[1]
    assert isinstance(ended, HeldEnded)
    assert (ended.ids, ended.left) == ((public,), 0), "what it does not see is not counted either"
    assert listed(world, person(world, "pat")) == {den: True, more: True}


def test_an_answer_decides_about_what_its_question_is_about() -> None:
    world = a_den()
    root = world.do(text("x", channel="main:general"), "hal")[1]
    assert isinstance(root, Sent)
    public, den = (hold(world, "bob", root.id, channel=place) for place in ("main:general", "den:general"))
    in_main, in_den = (f"q{question}" for question in world.state.questions.open)
    refused = world.refusal(AnswerQuestion(id=in_main, answer="drop"), person(world, "hal", "den"))
    assert refused.code == "not_found"
    [answered] = world.events(AnswerQuestion(id=in_main, answer="drop"), person(world, "hal"))
    assert isinstance(answered, QuestionAnswered)
    world.record(decide_answered(world.state, answered, "hal"), "hal")
    assert list(world.state.loops.held) == [int(den[1:])]
    recorded = [row for row in world.read(int(public[1:]), 20) if isinstance(row.event, HeldDropped)]
    assert needless(world.state, recorded[0]) is None, "it is answered; the other one stays open"
    [answered] = world.events(AnswerQuestion(id=in_den, answer="release"), person(world, "pat"))
    assert isinstance(answered, QuestionAnswered)
    released, told = decide_answered(world.state, answered, "pat")
    assert isinstance(released, MessagePosted)
    assert isinstance(told, HeldReleased)
    assert [to.name for to in told.deliveries] == ["bob"]


def test_a_token_for_some_rooms_answers_no_question_about_what_is_outside_of_them() -> None:
    world = a_den()
    hold(world, "bob", to=("ada",))
    (question,) = world.state.questions.open
    refused = world.refusal(AnswerQuestion(id=f"q{question}", answer="release"), person(world, "hal", "main"))
    assert refused.code == "not_permitted"
    assert world.events(AnswerQuestion(id=f"q{question}", answer="release"), person(world, "hal"))


def test_who_was_put_out_gets_nothing_of_what_is_released_or_dropped_in_a_private_room() -> None:
    world = a_den()
    posted = hold(world, "ada", channel="den:general", words="hidden @bob @pat")
    group, own = hold(world, "ada", target="all", room="den"), hold(world, "bob", channel="den:general")
    another = hold(world, "bob", channel="den:general")
    world.do(KickMember(place="den", agent="bob"), "ada")
    assert listed(world, "bob") == {}
    event, _ = world.events(ReleaseHeld(id=posted), "operator")
    assert isinstance(event, MessagePosted)
    assert [to.name for to in event.mentions] == ["pat"]
    _, told = world.events(ReleaseHeld(id=another), "operator")
    assert isinstance(told, HeldReleased)
    assert told.deliveries == ()
    event, _ = world.events(ReleaseHeld(id=group), "operator")
    assert isinstance(event, MessageSent)
    assert [to.name for to in event.to] == ["pat"]
    [event] = world.events(DropHeld(id=own), "operator")
    assert isinstance(event, HeldDropped)
    assert event.deliveries == ()


def test_of_a_private_place_that_is_no_more_an_operator_alone_knows_and_of_a_public_one_people_do() -> None:
    world = a_den()
    world.do(CreateChannel(channel="main:open"), "ada")
    closed, public = hold(world, "ada", channel="main:closed"), hold(world, "eve", channel="main:open")
    for name in ("ada", "pat"):
        world.do(LeaveChannel(channel="main:closed"), name)
    for channel in ("main:closed", "main:open"):
        world.do(DeleteChannel(channel=channel), "operator")
    assert listed(world, person(world, "pat")) == {public: True}
    assert listed(world, "operator") == {closed: False, public: True}
    assert world.refusal(ReleaseHeld(id=closed), person(world, "pat")).detail.startswith(f"{closed} is not held")
    [event] = world.events(DropHeld(id=closed), "operator")
    assert isinstance(event, HeldDropped)
    assert event.deliveries == ()
    assert digest(world.replayed()) == digest(decode_state(encode_state(world.state))) == digest(world.state)
