"""Dates, priorities and dead letters, seen by those who get messages and by those who sent them."""

import pytest
from tests.core.conftest import World, text
from tests.core.test_inboxes import give_back, mailbox, take

from synapse.core.dead_letters import decide_resend_sent, letters_to_list
from synapse.core.events import MessageDied, MessagesDropped, MessageSent
from synapse.core.inboxes import EXPIRED_MAX, decide_expired
from synapse.core.receipts import shown_receipts
from synapse.core.state import decode_state, encode_state
from synapse.errors import Rejected
from synapse.protocol.commands import AckInbox, ForgetAgent, JoinRoom
from synapse.protocol.delivery_commands import DropDead, ListDead, ResendDead
from synapse.protocol.delivery_replies import Dropped, Resent
from synapse.protocol.limits import Limits
from synapse.protocol.role_commands import JoinRole


def dated(world: World, *bodies: str, to: str = "ada", in_ms: int = 1_000) -> list[int]:
    """The seqs of what bob sent with a date."""
    return [world.do(text(body, to=(to,), expires_at_ms=world.at_ms + in_ms), "bob")[0][-1].seq for body in bodies]


def pass_time(world: World, ms: int) -> None:
    """The wall clock goes on, and ticks until nothing is due."""
    world.at_ms += ms
    while events := decide_expired(world.state, world.rules, world.at_ms):
        world.record(events, "hub")


def listed(world: World, name: str, *, sent: bool = False, limit: int = 50, after: str | None = None) -> list[int]:
    page, _, _ = letters_to_list(
        world.state, world.rules, ListDead(sent=sent, limit=limit, after=after), world.by(name)
    )
    return [entry.seq for _, entry in page]


def resend_sent(world: World, seq: int) -> int:
    """What bob sent goes out again, as the hub does it; the new seq."""
    original = next(item.event for item in world.read(seq, 1))
    assert isinstance(original, MessageSent)
    command = ResendDead(id=f"m{seq}", sent=True)
    recorded = world.record(decide_resend_sent(world.state, world.rules, command, world.by("bob"), original), "bob")
    return recorded[0].seq


def test_urgent_goes_before_high_normal_and_low_and_the_oldest_first_among_equals() -> None:
    world, _ = mailbox()
    wanted = {}
    for number, priority in enumerate(["low", "normal", "urgent", "high", "urgent", "normal"]):
        wanted[number] = world.do(text("x", to=("ada",), priority=priority), "bob")[0][-1].seq
    order = [wanted[number] for number in (2, 4, 3, 1, 5, 0)]
    assert [take(world) for _ in order] == order
    give_back(world)
    assert [take(world) for _ in order] == order, "also after they came back"


def test_priority_holds_among_what_is_directed_too_and_for_mentions() -> None:
    world, _ = mailbox()
    for name in ("ada", "bob"):
        world.do(JoinRoom(room="main"), name)
    direct = world.do(text("you", to=("ada",)), "bob")[0][-1].seq
    mention = world.do(text("@ada now", channel="main:general", priority="urgent"), "bob")[0][-1].seq
    assert take(world, directed_only=True) == direct
    give_back(world)
    assert [take(world), take(world)] == [mention, direct]


def test_a_message_dies_at_its_date_and_not_before_and_is_never_handed_out_after_it() -> None:
    world, (one,) = mailbox("no date")
    (two,) = dated(world, "dated")
    pass_time(world, 999)
    assert listed(world, "ada") == []
    world.at_ms += 1
    assert [take(world), take(world)] == [one, None], "a take looks at the date without waiting for a tick"
    assert listed(world, "ada") == [two]
    assert decide_expired(world.state, world.rules, world.at_ms) == [], "it is dead once"


def test_a_date_ends_a_message_in_somebodys_hands_and_the_ack_still_counts() -> None:
    world, _ = mailbox()
    (one,) = dated(world, "dated")
    take(world)
    pass_time(world, 1_000)
    assert listed(world, "ada") == [one]
    assert world.state.soft.lending.lends == {}
    world.do(AckInbox(ids=(f"m{one}",)), "ada")
    assert (listed(world, "ada"), listed(world, "bob", sent=True)) == ([], [])


def test_what_was_acked_before_its_date_does_not_die_and_a_channel_keeps_what_it_has() -> None:
    world, _ = mailbox()
    for name in ("ada", "bob"):
        world.do(JoinRoom(room="main"), name)
    (one,) = dated(world, "dated")
    posted = world.do(text("@ada soon", channel="main:general", expires_at_ms=world.at_ms + 1_000), "bob")[0][-1].seq
    world.do(AckInbox(ids=(f"m{one}",)), "ada")
    pass_time(world, 1_000)
    assert (listed(world, "ada"), take(world)) == ([posted], None), "the mention is not given out any more"
    assert listed(world, "bob", sent=True) == [], "a mention has no receipts"


@pytest.mark.parametrize("way", ["replayed", "loaded"])
def test_dates_priorities_and_dead_letters_are_as_they_were_after_a_restart(way: str) -> None:
    world, (one,) = mailbox("plain")
    urgent = world.do(text("x", to=("ada",), priority="urgent"), "bob")[0][-1].seq
    soon, late = dated(world, "soon")[0], dated(world, "late", in_ms=5_000)[0]
    pass_time(world, 1_000)
    world.state = world.replayed() if way == "replayed" else decode_state(encode_state(world.state))
    assert (listed(world, "ada"), listed(world, "bob", sent=True)) == ([soon], [soon])
    pass_time(world, 4_000)
    assert listed(world, "ada") == [soon, late]
    assert [take(world), take(world), take(world)] == [urgent, one, None]


def test_a_tick_ends_a_bounded_number() -> None:
    world, _ = mailbox(limits=Limits(dead_letters_max=10_000))
    dated(world, *["x"] * (EXPIRED_MAX + 3))
    world.at_ms += 1_000
    first = decide_expired(world.state, world.rules, world.at_ms)
    world.record(first, "hub")
    assert [len(first), len(decide_expired(world.state, world.rules, world.at_ms))] == [EXPIRED_MAX, 3]


def test_dead_letters_do_not_fill_an_inbox_and_the_oldest_of_too_many_are_dropped() -> None:
    world, _ = mailbox(limits=Limits(dead_letters_max=2, inbox_unacked_max=3))
    one, two, three = dated(world, "1", "2", "3")
    assert world.refusal(text("4", to=("ada",)), "bob").code == "inbox_full"
    pass_time(world, 1_000)
    assert listed(world, "ada") == [two, three]
    dropped = [item.event for item in world.read(0, 1 << 60) if isinstance(item.event, MessagesDropped)]
    assert [(event.messages, event.reason, event.recipient) for event in dropped] == [((one,), "limit", "ada")]
    for body in "456":
        world.do(text(body, to=("ada",)), "bob")
    assert world.refusal(text("7", to=("ada",)), "bob").code == "inbox_full"


def test_the_recipient_gives_a_dead_letter_another_chance_without_its_date_and_lends() -> None:
    world, _ = mailbox(limits=Limits(lends_max=1))
    (one,) = dated(world, "dated")
    assert take(world) == one
    give_back(world)
    recorded, reply = world.do(ResendDead(id=f"m{one}"), "ada", key="k1")
    assert reply == Resent(
        id=f"m{one}", resends=f"m{one}", to=("ada",), cursor=f"{world.state.journal_id}:{recorded[-1].seq}"
    )
    entry = world.state.agents.inboxes[world.agent("ada")].entries[one]
    assert (entry.dead, entry.lends, entry.expires_at_ms, entry.died) == (False, 0, None, None)
    assert world.do(ResendDead(id=f"m{one}"), "ada", key="k1") == ([], reply), "a repeat is answered alike"
    pass_time(world, 10_000)
    assert take(world) == one
    assert world.refusal(ResendDead(id=f"m{one}"), "ada").code == "not_found", "it is dead no more"


def test_the_sender_sends_a_dead_letter_anew_to_everybody_who_has_it_dead() -> None:
    world, _ = mailbox()
    world.join("cy")
    one = world.do(text("x", to=("ada", "cy"), subject="s", priority="high", expires_at_ms=world.at_ms + 5), "bob")[0][
        -1
    ].seq
    world.do(AckInbox(ids=(f"m{one}",)), "cy")
    pass_time(world, 5)
    assert listed(world, "bob", sent=True) == [one]
    again = resend_sent(world, one)
    sent = next(item.event for item in world.read(again, 1))
    assert isinstance(sent, MessageSent)
    assert ([to.name for to in sent.to], sent.subject, sent.priority, sent.expires_at_ms) == (
        ["ada"],
        "s",
        "high",
        None,
    )
    assert (listed(world, "bob", sent=True), listed(world, "ada"), take(world)) == ([], [], again)


def test_who_drops_is_done_with_it_for_itself() -> None:
    world, _ = mailbox()
    one, two, three = dated(world, "1", "2", "3")
    pass_time(world, 1_000)
    gone = world.reply(Dropped, DropDead(ids=(f"m{one}",), sent=True), "bob")
    assert (gone.dropped, gone.left) == ((f"m{one}",), 2)
    assert (listed(world, "bob", sent=True), listed(world, "ada")) == ([two, three], [one, two, three])
    gone = world.reply(Dropped, DropDead(ids=(f"m{two}",)), "ada")
    assert (gone.dropped, gone.left) == ((f"m{two}",), 2)
    assert (listed(world, "bob", sent=True), listed(world, "ada")) == ([three], [one, three])
    assert world.reply(Dropped, DropDead(all=True), "ada").dropped == (f"m{one}", f"m{three}")
    assert world.reply(Dropped, DropDead(all=True), "ada").dropped == ()
    assert (listed(world, "bob", sent=True), listed(world, "ada")) == ([], [])


def test_lists_are_paged_also_for_the_sender_of_one_message_that_died_twice() -> None:
    world, _ = mailbox()
    world.join("cy")
    one = world.do(text("x", to=("ada", "cy"), expires_at_ms=world.at_ms + 5), "bob")[0][-1].seq
    (two,) = dated(world, "y", in_ms=5)
    pass_time(world, 5)
    found, after = [], None
    while True:
        query = ListDead(sent=True, limit=1, after=after)
        page, total, after = letters_to_list(world.state, world.rules, query, world.by("bob"))
        found += [(entry.seq, inbox) for inbox, entry in page]
        assert total == 3
        if after is None:
            break
    assert found == [(one, world.agent("ada")), (one, world.agent("cy")), (two, world.agent("ada"))]
    assert listed(world, "ada", limit=1, after=f"m{one}") == [two]


def test_members_of_a_role_have_the_dead_letters_of_its_queue() -> None:
    world, _ = mailbox()
    world.do(JoinRole(role="review"), "ada")
    one = world.do(text("x", target="role:review", expires_at_ms=world.at_ms + 5), "bob")[0][-1].seq
    pass_time(world, 5)
    assert (listed(world, "ada"), listed(world, "bob", sent=True)) == ([one], [one])
    assert world.reply(Resent, ResendDead(id=f"m{one}"), "ada").to == ("role:review",)
    assert take(world) == one


def test_an_agent_that_is_forgotten_leaves_nothing_in_the_lists_of_others() -> None:
    world, _ = mailbox()
    dated(world, "1")
    dated(world, "2", to="bob")
    pass_time(world, 1_000)
    world.do(ForgetAgent(name="ada"), "operator")
    assert len(listed(world, "bob", sent=True)) == 1
    assert world.state.agents.inboxes.keys() == {world.agent("bob")}
    world.do(ForgetAgent(name="bob"), "operator")
    assert world.state.agents.dead_of == {}
    assert world.state.soft.lending.free == {}


class _All:
    def __contains__(self, key: object) -> bool:
        return True


def test_each_change_is_told_to_the_sender_once_and_to_nobody_else() -> None:
    world, _ = mailbox()
    begin = world.state.seq
    (one,) = dated(world, "x")
    take(world)
    give_back(world)
    take(world)
    pass_time(world, 1_000)
    world.do(AckInbox(ids=(f"m{one}",)), "ada")
    told = [
        (key, notice.state, notice.ids, notice.recipient)
        for item in world.read(begin + 2, 1 << 60)
        for key, notice in shown_receipts(world.state.journal_id, item, item.event, _All())  # type: ignore[arg-type]  # what is none of them gives none
    ]
    mine = f"re/{world.agent('bob')}"
    assert told == [(mine, state, (f"m{one}",), "ada") for state in ("delivered", "dead", "acked")]


@pytest.mark.bad_input("BI-55")
@pytest.mark.parametrize("in_ms", [0, -1])
def test_a_date_that_is_not_ahead_is_refused_and_nothing_is_sent(in_ms: int) -> None:
    world, _ = mailbox()
    refused = world.refusal(text("x", to=("ada",), expires_at_ms=world.at_ms + in_ms), "bob")
    assert (refused.code, refused.facts["path"]) == ("bad_request", "$.body.expires_at_ms")


@pytest.mark.bad_input("BI-57")
@pytest.mark.parametrize(
    ("command", "code"),
    [
        (ResendDead(id="m7"), "not_found"),
        (ResendDead(id="7"), "bad_request"),
        (DropDead(), "bad_request"),
        (DropDead(ids=("m7",), all=True), "bad_request"),
        (DropDead(ids=("m7",)), "not_found"),
        (DropDead(ids=("m7",), sent=True), "not_found"),
        (DropDead(ids=("m7",) * 1_001), "limit"),
    ],
)
def test_what_is_no_dead_letter_is_neither_sent_again_nor_dropped(command: ResendDead | DropDead, code: str) -> None:
    world, _ = mailbox("alive")
    assert world.refusal(command, "ada").code == code


@pytest.mark.bad_input("BI-57")
def test_what_lives_is_no_dead_letter_and_a_full_inbox_takes_none_back() -> None:
    world, (one,) = mailbox("alive", limits=Limits(inbox_unacked_max=2))
    (two,) = dated(world, "dated")
    pass_time(world, 1_000)
    assert world.refusal(DropDead(ids=(f"m{two}", f"m{one}")), "ada").code == "not_found"
    assert listed(world, "ada") == [two], "nothing was dropped"
    world.do(text("another", to=("ada",)), "bob")
    assert world.refusal(ResendDead(id=f"m{two}"), "ada").code == "inbox_full"


@pytest.mark.bad_input("BI-57")
@pytest.mark.parametrize("after", ["m5", "m5.x", "m5.-1", "5.5", "m5." + "9" * 30])
def test_a_place_in_the_list_that_is_none_is_refused(after: str) -> None:
    world, _ = mailbox()
    with pytest.raises(Rejected) as refused:
        listed(world, "bob", sent=True, after=after)
    assert refused.value.code == "bad_request"


@pytest.mark.bad_input("BI-56")
def test_an_ack_of_what_can_not_be_here_is_refused_and_acks_nothing() -> None:
    world, (one,) = mailbox("1")
    for never in ("m1", f"m{world.agent('ada')}", f"m{world.state.seq + 1}"):
        refused = world.refusal(AckInbox(ids=(f"m{one}", never)), "ada")
        assert (refused.code, refused.facts) == ("not_found", {"ids": [never]})
    assert world.refusal(AckInbox(ids=("m1",) * 1_001), "ada").facts["limit"] == "acks_max"


def test_a_death_says_why_and_how_often_it_was_lent() -> None:
    world, _ = mailbox()
    (one,) = dated(world, "x")
    take(world)
    world.at_ms += 1_000
    (died,) = decide_expired(world.state, world.rules, world.at_ms)
    assert died == MessageDied(
        agent=world.agent("ada"),
        message=one,
        reason="expired",
        recipient="ada",
        sender=world.agent("bob"),
        lends=1,
    )
