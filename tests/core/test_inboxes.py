"""Inboxes: taken oldest first, lent to one connection, acked once, dead after too many lends."""

import pytest
from tests.core.conftest import World, text

from synapse.core.delivery_events import receipt_keys
from synapse.core.events import MessageDied, MessagesAcked, MessagesLent
from synapse.core.inboxes import MESSAGES_MAX, Lend, decide_return, decide_take
from synapse.protocol.commands import AckInbox, JoinRoom, TakeInbox
from synapse.protocol.limits import Limits
from synapse.protocol.replies import Acked

LEND_MS = 30_000


def mailbox(*bodies: str, limits: Limits | None = None) -> tuple[World, list[int]]:
    """Ada, and the seqs of what bob sent her."""
    world = World(limits)
    world.join("ada", "bob")
    return world, [world.do(text(body, to=("ada",)), "bob")[0][-1].seq for body in bodies]


def take(world: World, *, directed_only: bool = False, connection: int = 1) -> int | None:
    """The seq of what was taken and lent, as the hub does it."""
    by = world.by("ada", connection=connection)
    for event in world.events(TakeInbox(directed_only=directed_only), by):
        if isinstance(event, MessagesLent):
            lend = Lend(event.agent, event.messages[0], connection, world.lease_ms + LEND_MS)
            world.state.soft.lending.lend(lend)
            return event.messages[0]
    return None


def give_back(world: World, connection: int = 1) -> list[object]:
    """What the end of a connection's lends becomes."""
    events: list[object] = []
    for lend in world.state.soft.lending.held_by(connection):
        world.state.soft.lending.end(lend.agent, lend.seq)
        died = decide_return(world.state, world.rules, lend)
        world.record(died, "hub")
        events += died
    return events


def deliveries(world: World) -> list[str]:
    return [entry.delivery for entry in world.state.agents.inboxes[world.agent("ada")].entries.values()]


def test_the_oldest_free_message_is_taken_and_each_is_lent_to_one_connection() -> None:
    world, (one, two) = mailbox("1", "2")
    assert [take(world, connection=1), take(world, connection=2), take(world)] == [one, two, None]
    assert deliveries(world) == ["delivered", "delivered"]


def test_who_has_room_is_lent_all_of_it_by_one_event_and_not_more_than_one_event_holds() -> None:
    world, seqs = mailbox(*["x"] * (MESSAGES_MAX + 1), limits=Limits(inbox_unacked_max=2 * MESSAGES_MAX))
    [lent] = decide_take(world.state, world.rules, TakeInbox(), world.by("ada"), 2 * MESSAGES_MAX)
    assert isinstance(lent, MessagesLent)
    assert lent.messages == tuple(seqs[:MESSAGES_MAX])
    assert set(lent.senders) == {world.agent("bob")}


def test_what_must_be_the_last_is_asked_of_each_but_the_one_that_fills_the_room() -> None:
    world, seqs = mailbox("1", "2", "3", "4")
    asked: list[int] = []

    def is_last(seq: int) -> bool:
        asked.append(seq)
        return seq == seqs[2]

    for most, got in ((1, 1), (2, 2), (4, 3)):
        asked.clear()
        [lent] = decide_take(world.state, world.rules, TakeInbox(), world.by("ada"), most, is_last)
        assert isinstance(lent, MessagesLent)
        assert lent.messages == tuple(seqs[:got])
        assert asked == seqs[: min(got, most - 1)]


def test_only_first_lends_are_for_the_eyes_of_their_senders() -> None:
    world, (one, two) = mailbox("1", "2")
    take(world)
    give_back(world)
    [lent] = decide_take(world.state, world.rules, TakeInbox(), world.by("ada"), 2)
    assert isinstance(lent, MessagesLent)
    assert (lent.messages, lent.senders) == ((one, two), (0, world.agent("bob")))
    assert receipt_keys(lent) == (f"re/{world.agent('bob')}",)
    world.record([lent], "ada")
    [again] = decide_take(world.state, world.rules, TakeInbox(), world.by("ada"), 2)
    assert isinstance(again, MessagesLent)
    assert (again.senders, receipt_keys(again)) == ((), ())


def test_what_a_closed_connection_held_is_free_again_and_oldest_first() -> None:
    world, (one, two) = mailbox("1", "2")
    take(world)
    assert take(world, connection=2) == two
    assert give_back(world) == []
    assert take(world, connection=2) == one


def test_a_lend_is_overdue_after_its_time_and_not_before() -> None:
    world, (one,) = mailbox("1")
    take(world)
    lending = world.state.soft.lending
    assert lending.overdue(LEND_MS - 1) == []
    assert [lend.seq for lend in lending.overdue(LEND_MS)] == [one]


def test_a_restart_returns_every_lend_and_keeps_the_count() -> None:
    world, (one,) = mailbox("1")
    take(world)
    world.restart()
    assert take(world) == one
    assert world.state.agents.inboxes[world.agent("ada")].entries[one].lends == 2


def test_a_message_is_dead_when_its_sixteenth_lend_ends_without_an_ack() -> None:
    world, (one,) = mailbox("1")
    for _ in range(15):
        assert take(world) == one
        assert give_back(world) == []
    assert take(world) == one
    died = MessageDied(
        agent=world.agent("ada"),
        message=one,
        reason="lent 16 times without an ack",
        recipient="ada",
        sender=world.agent("bob"),
        lends=16,
    )
    assert give_back(world) == [died]
    assert (take(world), deliveries(world)) == (None, ["dead"])


def test_a_message_that_kills_its_reader_dies_across_crashes_too_and_the_next_one_is_taken() -> None:
    world, (one, two) = mailbox("1", "2")
    for _ in range(16):
        assert take(world) == one
        world.restart()
    assert take(world) == two
    assert deliveries(world) == ["dead", "delivered"]


def test_an_ack_takes_it_out_also_while_another_connection_holds_it() -> None:
    world, (one, two) = mailbox("1", "2")
    take(world, connection=2)
    gone = f"m{world.state.seq}"  # the shell has looked up that it was there
    recorded, reply = world.do(AckInbox(ids=(f"m{one}", f"m{one}", gone)), "ada")
    bob = world.agent("bob")
    ack = MessagesAcked(agent=world.agent("ada"), messages=(one,), left=1, senders=(bob,), lends=(1,))
    assert [item.event for item in recorded] == [ack]
    assert isinstance(reply, Acked)
    assert (reply.acked, reply.already, reply.unacked) == ((f"m{one}",), (gone,), 1)
    assert world.state.soft.lending.held_by(2) == []
    assert take(world) == two


def test_acking_twice_is_the_same_as_once() -> None:
    world, (one,) = mailbox("1")
    world.do(AckInbox(ids=(f"m{one}",)), "ada")
    recorded, reply = world.do(AckInbox(ids=(f"m{one}",)), "ada")
    assert recorded == []
    assert isinstance(reply, Acked)
    assert (reply.acked, reply.already, reply.unacked) == ((), (f"m{one}",), 0)


def test_acking_all_clears_the_dead_too() -> None:
    world, (one, two) = mailbox("1", "2", limits=Limits(lends_max=1))
    take(world)
    give_back(world)
    assert deliveries(world) == ["dead", "stored"]
    assert world.reply(Acked, AckInbox(all=True), "ada").acked == (f"m{one}", f"m{two}")
    assert deliveries(world) == []


def test_a_dead_message_can_be_acked_by_its_id() -> None:
    world, (one,) = mailbox("1", limits=Limits(lends_max=1))
    take(world)
    give_back(world)
    reply = world.reply(Acked, AckInbox(ids=(f"m{one}",)), "ada")
    assert (reply.acked, reply.unacked) == ((f"m{one}",), 0)


def test_numbers_go_on_where_they_were_after_everything_is_acked() -> None:
    world, _ = mailbox("1", "2")
    world.do(AckInbox(all=True), "ada")
    (three,) = [world.do(text("3", to=("ada",)), "bob")[0][-1].seq]
    assert world.state.agents.inboxes[world.agent("ada")].entries[three].n == 3


def test_directed_only_leaves_messages_to_all_and_mentions_in_place() -> None:
    world, _ = mailbox()
    for name in ("ada", "bob"):
        world.do(JoinRoom(room="main"), name)
    everyone = world.do(text("all", target="all"), "bob")[0][-1].seq
    mention = world.do(text("@ada look", channel="main:general"), "bob")[0][-1].seq
    direct = world.do(text("you", to=("ada",)), "bob")[0][-1].seq
    assert [take(world, directed_only=True), take(world, directed_only=True)] == [direct, None]
    assert [take(world), take(world), take(world)] == [everyone, mention, None]


@pytest.mark.parametrize("command", [TakeInbox(), AckInbox(all=True)])
def test_an_operator_has_no_inbox(command: TakeInbox | AckInbox) -> None:
    assert World().refusal(command, "operator").code == "anonymous"


@pytest.mark.bad_input("BI-20")
def test_an_id_that_is_none_is_a_bad_request_and_acks_nothing() -> None:
    world, (one,) = mailbox("1")
    assert world.refusal(AckInbox(ids=(f"m{one}", "one")), "ada").code == "bad_request"
