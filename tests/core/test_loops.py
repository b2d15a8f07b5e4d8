"""The loop guard: circles over any number of agents are held, trees never; budgets; what a person decides; a model."""

import dataclasses
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.conftest import World, text

from synapse.core.answers import look
from synapse.core.events import MessageHeld, MessageSent
from synapse.core.inboxes import Lend
from synapse.core.loops import TRACES_MAX
from synapse.core.state import decode_state, digest, encode_state
from synapse.core.telling import shown_to
from synapse.errors import Rejected
from synapse.protocol.commands import AckInbox, ForgetAgent, SendMessage
from synapse.protocol.cursor import message_id
from synapse.protocol.held_commands import DropHeld, ListHeld, ReleaseHeld
from synapse.protocol.held_replies import HeldEnded, HeldPage
from synapse.protocol.limits import Limits
from synapse.protocol.notices import Message
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


def test_a_message_that_is_not_there_yet_is_no_cause() -> None:
    world = a_world(2)
    sent = send(world, "a0", "a1", reply_to=message_id(world.state.seq + 100))
    assert shown(world, sent.id, "a1").causation is msgspec.UNSET


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
