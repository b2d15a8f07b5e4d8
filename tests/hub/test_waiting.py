"""Long polls and lends: the oldest waits least, a lend comes back, and nothing is lent for ever."""

from tests.hub.conftest import direct, error_of, message, reply_of, text_of, voice

from synapse.protocol.commands import AckInbox, JoinRoom, ListInbox, Ping, ShowStatus, TakeInbox, WaitReceipt
from synapse.protocol.limits import Limits
from synapse.protocol.replies import Acked, Inbox, Place, Pong, Receipt, Sent, Status, Taken
from synapse.testing import MemoryHub

WAIT = TakeInbox(wait_ms=60_000)


async def test_who_waited_first_is_served_first_and_only_once() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        bobs = [await voice(hub, "bob") for _ in range(3)]
        waiting = [await bob.say(WAIT) for bob in bobs]
        for text in ("one", "two"):
            await ada.ask(direct(text, "bob"), Sent)
        taken = [reply_of(await bobs[at].answer(waiting[at]), Taken) for at in (0, 1)]
        assert [text_of(found.message) for found in taken] == ["one", "two"]
        assert not [frame for frame in await bobs[2].listen() if frame.type in ("reply", "error")]
        assert (await ada.ask(ShowStatus(), Status)).counts.waiting == 1


async def test_a_message_of_the_same_turn_is_handed_out_in_it() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        waiting = await bob.say(WAIT)
        await bob.listen()
        commits = hub.turns.totals.commits
        await ada.ask(direct("now", "bob"), Sent)
        assert text_of(reply_of(await bob.answer(waiting), Taken).message) == "now"
        assert hub.turns.totals.commits == commits + 1


async def test_a_wait_ends_at_its_deadline_and_frees_its_place() -> None:
    async with MemoryHub(limits=Limits(waiting_max=2)) as hub:
        bob = await voice(hub, "bob")
        waiting = [await bob.say(TakeInbox(wait_ms=wait_ms)) for wait_ms in (1_000, 5_000)]
        full = await bob.refused(TakeInbox(wait_ms=1_000))
        assert (full.code, full.facts) == ("limit", {"limit": "waiting_max", "value": 2})
        await hub.advance(1_500)
        assert error_of(await bob.answer(waiting[0])).code == "deadline"
        await bob.say(TakeInbox(wait_ms=1_000))
        assert not [frame for frame in await bob.listen() if frame.type == "error"]
        too_long = await bob.refused(TakeInbox(wait_ms=hub.rules.limits.wait_ms_max + 1))
        assert (too_long.code, too_long.facts["max"]) == ("bad_request", hub.rules.limits.wait_ms_max)
        negative = await bob.refused(TakeInbox(wait_ms=-1))
        assert (negative.code, negative.facts["path"]) == ("bad_request", "$.body.wait_ms")


async def test_directed_only_leaves_mentions_for_others() -> None:
    async with MemoryHub() as hub:
        ada, bob, bob_too = await voice(hub), await voice(hub, "bob"), await voice(hub, "bob")

        await ada.ask(JoinRoom(room="main"), Place)
        picky = await bob.say(TakeInbox(wait_ms=60_000, directed_only=True))
        anything = await bob_too.say(WAIT)
        await ada.post("hello @bob")
        assert text_of(reply_of(await bob_too.answer(anything), Taken).message) == "hello @bob"
        await ada.ask(direct("for you", "bob"), Sent)
        assert text_of(reply_of(await bob.answer(picky), Taken).message) == "for you"


async def test_a_lend_returns_when_its_connection_closes() -> None:
    async with MemoryHub() as hub:
        ada, bob, bob_too = await voice(hub), await voice(hub, "bob"), await voice(hub, "bob")
        await ada.ask(direct("one", "bob"), Sent)
        assert (await bob.ask(TakeInbox(), Taken)).lends == 1
        waiting = await bob_too.say(WAIT)
        assert not [frame for frame in await bob_too.listen() if frame.type == "reply"]
        await bob.peer.aclose()
        again = reply_of(await bob_too.answer(waiting), Taken)
        assert (text_of(again.message), again.lends) == ("one", 2)


async def test_a_lend_returns_after_30_s_of_the_lease_clock() -> None:
    async with MemoryHub() as hub:
        ada, bob, bob_too = await voice(hub), await voice(hub, "bob"), await voice(hub, "bob")
        await ada.ask(direct("one", "bob"), Sent)
        assert (await bob.ask(TakeInbox(), Taken)).lend_ms == 30_000
        waiting = await bob_too.say(TakeInbox(wait_ms=3_600_000))
        hub.clock.advance(600_000)  # a hub that stalls for ten minutes has seen one second of them
        hub.turns.tick()
        await hub.advance(28_000)
        assert not [frame for frame in await bob_too.listen() if frame.type == "reply"]
        await hub.advance(2_000)
        assert reply_of(await bob_too.answer(waiting), Taken).lends == 2


async def test_an_acked_message_does_not_come_back_when_its_lend_ends() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await ada.ask(direct("one", "bob"), Sent)
        taken = await bob.ask(TakeInbox(), Taken)
        acked = await bob.ask(AckInbox(ids=(taken.message.id,)), Acked)
        assert (acked.acked, acked.unacked) == ((taken.message.id,), 0)
        again = await bob.ask(AckInbox(ids=(taken.message.id,)), Acked)
        assert (again.acked, again.already) == ((), (taken.message.id,))
        await hub.advance(31_000)
        assert (await bob.refused(TakeInbox())).code == "deadline"


async def test_a_message_that_was_lent_16_times_is_dead_also_across_restarts() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await voice(hub, "bob")
        await ada.ask(direct("poison", "bob"), Sent)
        for lends in range(1, 17):
            bob = await voice(hub, "bob")
            assert (await bob.ask(TakeInbox(), Taken)).lends == lends
            if lends % 5 == 0:
                await hub.restart()
            else:
                await bob.peer.aclose()
        bob = await voice(hub, "bob")
        assert (await bob.refused(TakeInbox())).code == "deadline"
        [dead] = (await bob.ask(ListInbox(), Inbox)).messages
        assert (dead.delivery, dead.lends) == ("dead", 16)


async def test_an_old_message_that_is_no_longer_in_memory_is_lent_from_the_disk() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await voice(hub, "bob")
        await ada.ask(direct("old", "bob"), Sent)
        await hub.restart()
        bob = await voice(hub, "bob")
        assert text_of((await bob.ask(TakeInbox(), Taken)).message) == "old"


async def test_a_sender_waits_for_the_first_ack_and_for_nobody_elses_message() -> None:
    async with MemoryHub() as hub:
        ada, bob, eve = await voice(hub), await voice(hub, "bob"), await voice(hub, "eve")
        await voice(hub, "carol")
        sent = await ada.ask(direct("sign here", "bob", "carol"), Sent)
        waiting = await ada.say(WaitReceipt(id=sent.id, wait_ms=60_000))
        await ada.listen()
        assert (await eve.refused(WaitReceipt(id=sent.id, wait_ms=1_000))).code == "not_found"
        await ada.ask(Ping(), Pong)
        await bob.ask(AckInbox(all=True), Acked)
        receipt = reply_of(await ada.answer(waiting), Receipt)
        assert (receipt.state, receipt.acked_by) == ("acked", ("bob",))
        assert await ada.ask(WaitReceipt(id=sent.id, wait_ms=0), Receipt) is not None
        posted = await ada.post("to all")
        assert (await ada.refused(WaitReceipt(id=posted.id, wait_ms=1_000))).code == "bad_request"


async def test_a_receipt_wait_ends_at_its_deadline_and_the_message_stays() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        sent = await ada.ask(direct("sign here", "bob"), Sent)
        waiting = await ada.say(WaitReceipt(id=sent.id, wait_ms=1_000))
        await ada.listen()
        await hub.advance(2_000)
        assert error_of(await ada.answer(waiting)).code == "deadline"
        assert (await bob.ask(TakeInbox(), Taken)).message.id == sent.id


async def test_a_waiter_that_is_gone_takes_nothing() -> None:
    async with MemoryHub() as hub:
        ada, gone, bob = await voice(hub), await voice(hub, "bob"), await voice(hub, "bob")
        await gone.say(WAIT)
        sent = await ada.post("x")
        await gone.say(WaitReceipt(id=sent.id, wait_ms=1_000))
        await gone.peer.aclose()
        waiting = await bob.say(WAIT)
        await ada.ask(direct("one", "bob"), Sent)
        assert reply_of(await bob.answer(waiting), Taken).lends == 1
        assert hub.turns.waiting.count == 0


async def test_a_wait_does_not_count_as_a_request_in_flight() -> None:
    async with MemoryHub(limits=Limits(in_flight_max=2)) as hub:
        bob = await voice(hub, "bob")
        for _ in range(4):
            await bob.say(WAIT)
        await bob.listen()
        assert bob.peer.connection is not None
        assert (bob.peer.connection.in_flight, bob.peer.connection.is_held) == (0, False)
        await bob.post("still heard")
        await bob.say(message("twice"))
        await bob.listen()
        assert bob.peer.connection.in_flight == 0
