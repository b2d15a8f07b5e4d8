"""Receipts, dead letters and dates on a hub: what is looked up on disk, what is told, and who is wakeable."""

from collections.abc import Sequence

import msgspec
import pytest
from tests.hub.conftest import Voice, direct, error_of, operator, reply_of, slow_reader, steps, text_of, voice

from synapse.core import loops
from synapse.core.events import Row
from synapse.core.state import digest
from synapse.hub import letters
from synapse.journal.interface import Pages
from synapse.protocol.commands import (
    AckInbox,
    ForgetAgent,
    ListAgents,
    ListInbox,
    SendMessage,
    Subscribe,
    TakeInbox,
    Unsubscribe,
    WaitReceipt,
)
from synapse.protocol.delivery_commands import DropDead, GetReceipt, ListDead, ResendDead
from synapse.protocol.delivery_replies import DeadPage, Dropped, HeldFate, Receipts, Resent
from synapse.protocol.held_commands import DropHeld, ReleaseHeld
from synapse.protocol.held_replies import HeldEnded
from synapse.protocol.limits import Limits
from synapse.protocol.notices import PresenceChanged, ReceiptChanged
from synapse.protocol.replies import (
    Acked,
    AgentInfo,
    AgentRemoved,
    Agents,
    Inbox,
    Receipt,
    Sent,
    Subscribed,
    Taken,
    Unsubscribed,
)
from synapse.protocol.role_commands import JoinRole, LeaveRole
from synapse.protocol.role_replies import RoleChanged
from synapse.testing import MemoryHub


def dated(hub: MemoryHub, text: str, *to: str, in_ms: int = 1_000) -> SendMessage:
    """A text for inboxes, with a date."""
    return msgspec.structs.replace(direct(text, *to), expires_at_ms=hub.clock.wall_ms() + in_ms)


async def states(asker: Voice, sent: Sent) -> dict[str, str]:
    """How far a message got, by recipient."""
    found = await asker.ask(GetReceipt(id=sent.id), Receipts)
    return {each.recipient: each.state for each in found.recipients}


async def told(listener: Voice) -> list[tuple[str, tuple[str, ...], str]]:
    """The receipts so far."""
    notices = [notice for notice in await listener.notices() if isinstance(notice, ReceiptChanged)]
    return [(notice.state, notice.ids, notice.recipient) for notice in notices]


async def info(asker: Voice, name: str) -> AgentInfo:
    agents = (await asker.ask(ListAgents(), Agents)).agents
    return next(agent for agent in agents if agent.name == name)


@pytest.mark.bad_input("BI-56")
async def test_an_ack_of_what_was_never_here_is_refused_and_one_of_what_was_acked_is_not() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        mine, theirs = await ada.ask(direct("1", "bob"), Sent), await ada.ask(direct("2", "ada"), Sent)
        await bob.ask(AckInbox(ids=(mine.id,)), Acked)
        again = await bob.ask(AckInbox(ids=(mine.id,)), Acked, idem_key="k")
        assert (again.acked, again.already) == ((), (mine.id,))
        other = await ada.ask(direct("3", "bob"), Sent)
        refused = await bob.refused(AckInbox(ids=(mine.id, theirs.id, other.id)))
        assert (refused.code, refused.facts) == ("not_found", {"ids": [theirs.id]})
        assert (await bob.ask(TakeInbox(), Taken)).message.id == other.id, "nothing was acked"
        assert (await bob.ask(AckInbox(ids=(other.id, mine.id)), Acked)).acked == (other.id,)


async def test_a_receipt_tells_how_far_each_recipient_is_also_after_the_ack() -> None:
    async with MemoryHub() as hub:
        ada, bob, cy = await voice(hub), await voice(hub, "bob"), await voice(hub, "cy")
        await voice(hub, "di")
        sent = await ada.ask(direct("x", "bob", "cy", "di"), Sent)
        await bob.ask(TakeInbox(), Taken)
        await cy.ask(TakeInbox(), Taken)
        await cy.ask(AckInbox(all=True), Acked)
        assert await states(ada, sent) == {"bob": "delivered", "cy": "acked", "di": "stored"}
        found = await ada.ask(GetReceipt(id=sent.id), Receipts)
        by_name = {each.recipient: each for each in found.recipients}
        assert (by_name["cy"].acked_by, by_name["cy"].lends) == ("cy", 1)
        assert by_name["cy"].acked_at_ms == by_name["bob"].delivered_at_ms == hub.clock.wall_ms()
        assert (by_name["di"].delivered_at_ms, by_name["di"].lends) == (None, 0)
        page = await ada.ask(GetReceipt(id=sent.id, limit=2), Receipts)
        assert ([each.recipient for each in page.recipients], page.next) == (["bob", "cy"], "cy")
        rest = await ada.ask(GetReceipt(id=sent.id, limit=2, after="cy"), Receipts)
        assert ([each.recipient for each in rest.recipients], rest.next) == (["di"], None)


class Shelf:
    """The pages of a journal, counted."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self.reads = 0

    def row(self, seq: int) -> Row | None:
        """As it is."""
        return self._pages.row(seq)

    def page(self, keys: Sequence[str], after: int, upto: int, limit: int) -> list[Row]:
        """Counted."""
        self.reads += 1
        return self._pages.page(keys, after, upto, limit)


async def test_the_receipts_of_an_old_message_are_whole_however_much_was_sent_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(letters, "SCAN_ROWS_MAX", 4)
    monkeypatch.setattr(letters, "_ROWS", 2)
    async with MemoryHub() as hub:
        ada, bob, cy = await voice(hub), await voice(hub, "bob"), await voice(hub, "cy")
        await voice(hub, "di")
        old = await ada.ask(dated(hub, "old", "bob", "cy", "di", in_ms=1_000), Sent)
        await cy.ask(TakeInbox(), Taken)
        for _ in range(40):
            new = await ada.ask(direct("new", "bob"), Sent)
            await bob.ask(AckInbox(ids=(new.id,)), Acked)
        await cy.ask(AckInbox(ids=(old.id,)), Acked)
        assert await states(ada, old) == {"bob": "stored", "cy": "acked", "di": "stored"}
        waited = await ada.ask(WaitReceipt(id=old.id, wait_ms=1), Receipt)
        assert waited.acked_by == ("cy",)
        await hub.advance(2_000)
        await bob.ask(DropDead(all=True), Dropped)
        found = {each.recipient: each for each in (await ada.ask(GetReceipt(id=old.id), Receipts)).recipients}
        assert {name: each.state for name, each in found.items()} == {"bob": "dropped", "cy": "acked", "di": "dead"}
        assert all(found[name].died_at_ms for name in ("bob", "di"))
        assert (found["bob"].reason, found["cy"].delivered_at_ms is None) == ("asked", False)


async def test_what_nobody_was_lent_is_told_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        sent = await ada.ask(direct("x", "bob"), Sent)
        await ada.post("later")
        shelf = Shelf(hub.turns.pages)
        monkeypatch.setattr(hub.turns, "pages", shelf)
        assert (await states(ada, sent), shelf.reads) == ({"bob": "stored"}, 0)
        await bob.ask(TakeInbox(), Taken)
        assert (await states(ada, sent), shelf.reads) == ({"bob": "delivered"}, 1)


@pytest.mark.bad_input("BI-58")
async def test_receipts_are_for_who_sent_it() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        sent, posted = await ada.ask(direct("x", "bob"), Sent), await ada.post("to all")
        assert (await bob.refused(GetReceipt(id=sent.id))).code == "not_found"
        assert (await ada.refused(GetReceipt(id=posted.id))).code == "bad_request"
        assert (await ada.refused(GetReceipt(id="m1"))).code == "not_found"
        assert (await ada.refused(GetReceipt(id="one"))).code == "bad_request"
        assert (await ada.refused(GetReceipt(id=sent.id, limit=0))).code == "bad_request"


async def test_each_change_is_told_once_to_the_sender_and_again_to_who_missed_it() -> None:
    async with MemoryHub() as hub:
        ada, bob, eve = await voice(hub), await voice(hub, "bob"), await voice(hub, "eve")
        begin = (await ada.ask(Subscribe(receipts=True), Subscribed)).cursor
        await eve.ask(Subscribe(receipts=True), Subscribed)
        sent = await ada.ask(dated(hub, "x", "bob", in_ms=40_000), Sent)
        await bob.ask(TakeInbox(), Taken)
        await hub.advance(31_000)
        await bob.ask(TakeInbox(), Taken)
        await hub.advance(10_000)
        await bob.ask(AckInbox(ids=(sent.id,)), Acked)
        wanted = [(state, (sent.id,), "bob") for state in ("delivered", "dead", "acked")]
        assert (await told(ada), await told(eve)) == (wanted, [])
        late = await voice(hub)
        await late.ask(Subscribe(receipts=True, since=begin), Subscribed)
        assert await told(late) == wanted
        assert (await late.refused(Subscribe(receipts=True))).code == "already_subscribed"
        assert hub.replayed_digest() == digest(hub.state)


async def test_who_waits_for_an_ack_is_not_told_that_a_dropped_letter_was_acked() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        sent = await ada.ask(dated(hub, "x", "bob"), Sent)
        waiting = await ada.say(WaitReceipt(id=sent.id, wait_ms=60_000))
        await hub.advance(2_000)
        assert (await bob.ask(DropDead(all=True), Dropped)).dropped == (sent.id,)
        assert (await states(ada, sent))["bob"] == "dropped"
        assert error_of(await ada.answer(waiting)).code == "not_found"


async def test_a_dead_letter_that_is_sent_anew_is_the_same_message_under_a_new_id_once_per_key() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        sent = await ada.ask(dated(hub, "x", "bob"), Sent)
        await hub.advance(2_000)
        page = await ada.ask(ListDead(sent=True), DeadPage)
        assert [(letter.id, letter.channel, letter.reason) for letter in page.messages] == [
            (sent.id, "@bob", "expired")
        ]
        waiting = await bob.say(TakeInbox(wait_ms=60_000))
        await bob.listen()
        command = ResendDead(id=sent.id, sent=True)
        first = await ada.ask(command, Resent, idem_key="k")
        again = await ada.ask(command, Resent, idem_key="k")
        assert first == again
        assert (first.resends, first.to) == (sent.id, ("bob",))
        taken = reply_of(await bob.answer(waiting), Taken)
        assert (taken.message.id, text_of(taken.message)) == (first.id, "x")
        assert (await ada.refused(command)).code == "not_found", "it is dead no more"
        assert (await bob.ask(ListDead(), DeadPage)).total == 0
        assert hub.replayed_digest() == digest(hub.state)


async def test_a_letter_that_its_reader_revives_is_handed_to_who_waits() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        sent = await ada.ask(dated(hub, "x", "bob"), Sent)
        await hub.advance(2_000)
        waiting = await bob.say(TakeInbox(wait_ms=60_000))
        await bob.listen()
        other = await voice(hub, "bob")
        assert (await other.ask(ResendDead(id=sent.id), Resent)).to == ("bob",)
        assert reply_of(await bob.answer(waiting), Taken).message.id == sent.id


async def test_a_sender_that_gave_a_letter_up_is_not_told_of_lends_of_before() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        sent = await ada.ask(dated(hub, "x", "bob"), Sent)
        await bob.ask(TakeInbox(), Taken)
        await hub.advance(2_000)
        assert (await ada.ask(GetReceipt(id=sent.id), Receipts)).recipients[0].lends == 1
        await ada.ask(DropDead(ids=(sent.id,), sent=True), Dropped)
        await bob.ask(ResendDead(id=sent.id), Resent)
        await bob.ask(TakeInbox(), Taken)
        await bob.ask(AckInbox(ids=(sent.id,)), Acked)
        (found,) = (await ada.ask(GetReceipt(id=sent.id), Receipts)).recipients
        assert (found.state, found.lends) == ("gone", None), "how often it was lent is not known any more"


@pytest.mark.parametrize("how", ["left", "acked"])
async def test_what_went_elsewhere_while_it_was_read_is_not_handed_out(how: str) -> None:
    async with MemoryHub() as hub:
        ada, bob, eve = await voice(hub), await voice(hub, "bob"), await voice(hub, "eve")
        for member in (bob, eve):
            await member.ask(JoinRole(role="reviewer"), RoleChanged)
        sent = await ada.ask(SendMessage(body=direct("x").body, target="role:reviewer"), Sent)
        await hub.restart()
        bob, eve, again = await voice(hub, "bob"), await voice(hub, "eve"), await voice(hub, "bob")
        reader = slow_reader(hub)
        asked = await bob.say(TakeInbox())
        await steps()
        if how == "left":
            await again.ask(LeaveRole(role="reviewer"), RoleChanged)
        else:
            await again.ask(AckInbox(ids=(sent.id,)), Acked)
        reader.finish()
        refused = error_of(await bob.answer(asked))
        assert (refused.code, refused.facts) == ("deadline", {"id": sent.id})
        waiting = await eve.say(TakeInbox())
        await steps()
        if reader.jobs:
            reader.finish()
        answer = await eve.answer(waiting)
        if how == "left":
            assert reply_of(answer, Taken).message.id == sent.id
        else:
            assert error_of(answer).code == "deadline"


async def test_dead_letters_survive_a_restart_of_the_hub_and_its_dates_hold() -> None:
    async with MemoryHub(limits=Limits(lends_max=1)) as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        worn = await ada.ask(direct("worn", "bob"), Sent)
        late = await ada.ask(dated(hub, "late", "bob", in_ms=50_000), Sent)
        await bob.ask(TakeInbox(), Taken)
        await hub.advance(31_000)
        await hub.restart()
        ada, bob = await voice(hub), await voice(hub, "bob")
        await hub.advance(20_000)
        found = (await bob.ask(ListDead(), DeadPage)).messages
        assert [(letter.id, letter.reason) for letter in found] == [
            (worn.id, "lent 1 times without an ack"),
            (late.id, "expired"),
        ]


async def test_an_agent_is_wakeable_while_something_waits_for_its_inbox() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob", lasting=False)
        assert ((await info(ada, "bob")).presence, (await info(ada, "bob")).wakeable) == ("recent", False)
        await bob.say(TakeInbox(wait_ms=60_000))
        assert ((await info(ada, "bob")).presence, (await info(ada, "bob")).wakeable) == ("online", True)
        await bob.peer.aclose()
        await hub.advance(300)
        assert ((await info(ada, "bob")).presence, (await info(ada, "bob")).wakeable) == ("recent", False)
        back = await voice(hub, "bob")
        feed = await back.ask(Subscribe(inbox=True), Subscribed)
        assert (await info(ada, "bob")).wakeable
        await back.ask(Unsubscribe(subscription=feed.subscription), Unsubscribed)
        assert not (await info(ada, "bob")).wakeable


async def test_followers_of_presence_hear_who_can_be_woken_but_not_of_each_poll() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await ada.ask(Subscribe(presence=True), Subscribed)
        await ada.listen()
        for _ in range(3):
            waiting = await bob.say(TakeInbox(wait_ms=60_000))
            await bob.listen()
            await ada.ask(direct("x", "bob"), Sent)
            await bob.answer(waiting)
        changes = [
            agent.wakeable
            for notice in await ada.notices()
            if isinstance(notice, PresenceChanged)
            for agent in notice.agents
            if agent.name == "bob"
        ]
        assert changes[0] is True
        await hub.advance(1_000)
        last = [notice for notice in await ada.notices() if isinstance(notice, PresenceChanged)][-1]
        assert [(agent.name, agent.wakeable) for agent in last.agents] == [("bob", False)]
        assert False not in changes


async def test_who_forgets_a_recipient_is_told_so() -> None:
    async with MemoryHub() as hub:
        ada, boss = await voice(hub), await operator(hub)
        await voice(hub, "bob")
        sent = await ada.ask(direct("x", "bob"), Sent)
        await boss.exchange(ForgetAgent(name="bob"))
        assert await states(ada, sent) == {"bob": "forgotten"}


LOOPY = Limits(hops_max=1, loop_repeats_max=1)


async def held_messages(hub: MemoryHub, *more: str) -> tuple[Voice, list[Sent]]:
    """ada and bob play ping-pong until a message of bob is held, and then the others: bob, and what it was told."""
    ada, bob = await voice(hub), await voice(hub, "bob")
    for one, other in ((ada, "bob"), (bob, "ada"), (ada, "bob")):
        await one.ask(direct("x", other), Sent)
        await (bob if other == "bob" else ada).ask(AckInbox(all=True), Acked)
    return bob, [await bob.ask(direct(text, "ada"), Sent, idem_key=text) for text in ("held", *more)]


async def test_the_receipts_of_a_held_message_tell_what_became_of_it_over_restarts() -> None:
    async with MemoryHub(limits=LOOPY) as hub:
        bob, (one, two) = await held_messages(hub, "later")
        assert (one.to, two.to) == (("ada",), ("ada",))
        found = await bob.ask(GetReceipt(id=one.id), Receipts)
        assert (found.held.state, found.held.why) == ("held", "loop")  # type: ignore[union-attr]  # it was held
        assert await states(bob, one) == {"ada": "held"}
        eve = await operator(hub)
        (new,) = (await eve.ask(ReleaseHeld(id=one.id), HeldEnded)).ids
        await eve.ask(DropHeld(id=two.id), HeldEnded)
        told = [message.body for message in (await bob.ask(ListInbox(), Inbox)).messages]
        letters = {body["id"]: body for body in map(msgspec.json.decode, told) if body["type"].startswith("message.")}
        assert letters[one.id] | {"next": ""} == {
            "type": "message.released",
            "id": one.id,
            "released_as": new,
            "to": ["ada"],
            "by": "operator",
            "next": "",
        }
        assert (letters[two.id]["type"], letters[two.id]["by"]) == ("message.dropped", "operator")
        await hub.restart()
        bob, ada = await voice(hub, "bob"), await voice(hub)
        released = await bob.ask(GetReceipt(id=one.id), Receipts)
        fate = released.held
        assert (released.id, fate.state, fate.released_as, fate.by) == (one.id, "released", new, "operator")  # type: ignore[union-attr]  # it was held
        assert released.recipients == (await bob.ask(GetReceipt(id=new), Receipts)).recipients
        assert await states(bob, one) == {"ada": "stored"}
        await ada.ask(AckInbox(ids=(new,)), Acked)
        assert await states(bob, one) == {"ada": "acked"}
        dropped = await bob.ask(GetReceipt(id=two.id), Receipts)
        assert (dropped.held.state, dropped.held.by) == ("dropped", "operator")  # type: ignore[union-attr]  # it was held
        assert await states(bob, two) == {"ada": "dropped"}
        for name in (one.id, two.id, new):
            assert (await ada.refused(GetReceipt(id=name))).code == "not_found", "it is not hers"
        again = await bob.ask(direct("held", "ada"), Sent, idem_key="held")
        assert (again.id, again.to, again.held.decided) == (one.id, ("ada",), True)  # type: ignore[union-attr]  # it was held


async def test_what_an_older_journal_decided_about_held_messages_is_shown_as_not_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Releases had no event of their own, and drops neither a sender nor an index key."""
    released, dropped = loops._released, loops._dropped
    async with MemoryHub(limits=LOOPY) as hub:
        with monkeypatch.context() as older:
            older.setattr(loops, "_released", lambda *given, **more: released(*given, **more)[:1])
            older.setattr(loops, "_dropped", lambda *given: msgspec.structs.replace(dropped(*given), sender=None))
            bob, (one, two, three) = await held_messages(hub, "later", "last")
            eve = await operator(hub)
            (new,) = (await eve.ask(ReleaseHeld(id=one.id), HeldEnded)).ids
            await eve.ask(DropHeld(id=two.id), HeldEnded)
        rows = [row for row in hub.journal.rows(0, 2**53) if row.type.startswith("held.")]
        assert [(row.type, b"sender" in row.body) for row in rows] == [("held.dropped", False)]
        await hub.restart()
        bob = await voice(hub, "bob")
        for sent, why in ((one, "loop"), (two, "chain_held")):
            found = await bob.ask(GetReceipt(id=sent.id), Receipts)
            assert (found.held, found.id) == (HeldFate(state="gone", why=why), sent.id)
            [ada] = found.recipients
            assert (ada.recipient, ada.state, ada.lends, ada.reason) == ("ada", "gone", None, None)
            refused = await bob.refused(WaitReceipt(id=sent.id))
            assert (refused.code, refused.facts["held"]) == ("not_found", "gone")
            assert "a person decided: who acked it is not known any more" in refused.detail
        assert await states(bob, Sent(id=new, cursor=one.cursor)) == {"ada": "stored"}, "by its new id it is told"
        assert await states(bob, three) == {"ada": "held"}, "what nobody has decided is held"


async def test_who_waits_for_the_receipt_of_a_held_message_waits_for_the_decision_and_then_for_the_ack() -> None:
    async with MemoryHub(limits=LOOPY) as hub:
        bob, (one, two) = await held_messages(hub, "later")
        first = await bob.say(WaitReceipt(id=one.id, wait_ms=60_000))
        second = await bob.say(WaitReceipt(id=two.id, wait_ms=60_000))
        late = await bob.say(WaitReceipt(id=one.id, wait_ms=0))
        await steps()
        await hub.advance(100)
        assert error_of(await bob.answer(late)).code == "deadline"
        eve, ada = await operator(hub), await voice(hub)
        (new,) = (await eve.ask(ReleaseHeld(id=one.id), HeldEnded)).ids
        await eve.ask(DropHeld(id=two.id), HeldEnded)
        refused = error_of(await bob.answer(second))
        assert (refused.code, refused.facts["held"], "operator dropped it" in refused.detail) == (
            "not_found",
            "dropped",
            True,
        )
        await ada.ask(AckInbox(ids=(new,)), Acked)
        receipt = reply_of(await bob.answer(first), Receipt)
        assert (receipt.id, receipt.acked_by) == (new, ("ada",))
        assert (await bob.ask(WaitReceipt(id=one.id), Receipt)).id == new, "and later at once"


async def test_who_acked_and_was_forgotten_then_has_acked() -> None:
    async with MemoryHub() as hub:
        ada, bob, boss = await voice(hub), await voice(hub, "bob"), await operator(hub)
        await voice(hub, "cy")
        for to in (("bob",), ("bob", "cy")):
            sent = await ada.ask(dated(hub, "hello", *to, in_ms=60_000), Sent)
            await bob.ask(AckInbox(ids=(sent.id,)), Acked)
            await boss.ask(ForgetAgent(name="bob"), AgentRemoved)
            receipt = await ada.ask(WaitReceipt(id=sent.id, wait_ms=1_000), Receipt)
            assert (receipt.state, receipt.acked_by) == ("acked", ("bob",))
            bob = await voice(hub, "bob")


async def test_a_receipt_wait_ends_once_nobody_can_ack_any_more() -> None:
    async with MemoryHub() as hub:
        ada, bob, boss = await voice(hub), await voice(hub, "bob"), await operator(hub)
        await voice(hub, "cy")
        dropped = await ada.ask(dated(hub, "for a second", "bob"), Sent)
        both = await ada.ask(dated(hub, "for two", "bob", "cy", in_ms=60_000), Sent)
        waits = [await ada.say(WaitReceipt(id=sent.id, wait_ms=600_000)) for sent in (dropped, both)]
        await ada.listen()
        await hub.advance(2_000)
        await bob.ask(DropDead(all=True), Dropped)
        ended = error_of(await ada.answer(waits[0]))
        assert (ended.code, ended.facts) == ("not_found", {"id": dropped.id})
        assert f"synapse receipts {dropped.id}" in ended.detail
        await boss.ask(ForgetAgent(name="bob"), AgentRemoved)
        assert not [frame for frame in await ada.listen() if frame.type in ("reply", "error")], "cy is there still"
        await boss.ask(ForgetAgent(name="cy"), AgentRemoved)
        assert error_of(await ada.answer(waits[1])).code == "not_found"
        assert hub.turns.waiting.count == 0
