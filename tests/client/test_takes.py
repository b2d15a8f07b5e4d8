"""Taking from the inbox and waiting for receipts, over the real hub in memory."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, TypeVar

import msgspec
import pytest

from synapse.client.calls import RequestTimeout
from synapse.client.client import body_of
from synapse.errors import Rejected
from synapse.protocol.replies import Taken
from synapse.testing import MemoryHub

if TYPE_CHECKING:
    from tests.client.conftest import Net, People

    from synapse.client.client import Client
    from synapse.protocol.codec import HubFrame

HAS_VIRTUAL_TIME = True

_Result = TypeVar("_Result")


def begun(work: Coroutine[object, object, _Result]) -> "asyncio.Task[_Result]":
    return asyncio.get_running_loop().create_task(work)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def body(taken: Taken | None) -> object:
    assert taken is not None
    return body_of(taken.message)


async def test_the_oldest_message_is_taken_and_acked_or_there_is_none(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            assert await bob.take() is None
            for number in (1, 2):
                await ada.send(number, to="bob")
            first, second = await bob.take(), await bob.take()
            assert (body(first), body(second)) == (1, 2)
            assert await bob.take() is None
            assert first is not None
            acked = await bob.ack(first.message.id)
            assert (acked.acked, acked.unacked) == ((first.message.id,), 1)
            assert (await bob.ack(first.message.id)).already == (first.message.id,)


async def test_a_take_waits_as_long_as_it_is_told(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            waiting = begun(bob.take(wait=5))
            await settled()
            assert not waiting.done()
            await hub.advance(6_000)
            assert await waiting is None
            waiting = begun(bob.take(wait=None))
            await settled()
            await hub.advance(25_000)  # one piece of the wait is over; the next one is asked for
            await settled()
            assert not waiting.done()
            await ada.send("at last", to="bob")
            assert body(await waiting) == "at last"


async def test_what_a_cancelled_take_was_given_goes_to_the_next_take(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            for _ in range(50):  # more than a connection may have long polls: each one takes up the one before
                waiting = begun(bob.take(wait=None))
                await settled()
                waiting.cancel()
                await asyncio.wait({waiting})
            assert (await bob.status()).counts.waiting == 1
            await ada.send("one", to="bob")
            await settled()
            taken = await bob.take()
            assert body(taken) == "one"
            assert taken is not None
            assert taken.lends == 1
            assert len(bob._lifeline._calls) == 0


@pytest.mark.parametrize("takes_up", [False, True], ids=["first", "taken up"])
async def test_what_comes_in_the_very_step_of_a_cancellation_goes_to_the_next_take(
    people: "type[People]", monkeypatch: pytest.MonkeyPatch, *, takes_up: bool
) -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            if takes_up:
                left = begun(bob.take(wait=None))
                await settled()
                left.cancel()
                await asyncio.wait({left})
            waiting = begun(bob.take(wait=None))
            await settled()
            calls = bob._lifeline._calls
            settle = calls.settle

            def settle_and_cancel(frame: "HubFrame") -> None:
                settle(frame)
                waiting.cancel()

            monkeypatch.setattr(calls, "settle", settle_and_cancel)
            await ada.send("one", to="bob")
            await asyncio.wait({waiting})
            monkeypatch.undo()
            assert waiting.cancelled()
            taken = await bob.take()
            assert body(taken) == "one"
            assert taken is not None
            assert taken.lends == 1


async def test_a_take_up_ends_at_its_own_time(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            waiting = begun(bob.take(wait=None))
            await settled()
            waiting.cancel()
            await asyncio.wait({waiting})
            began_s = asyncio.get_running_loop().time()
            assert await bob.take(wait=2) is None
            assert asyncio.get_running_loop().time() - began_s == pytest.approx(2.0, abs=0.1)
            waiting = begun(bob.take(wait=9))
            await settled()
            await ada.send("one", to="bob")
            assert body(await waiting) == "one"


async def test_a_take_of_direct_messages_leaves_what_another_kind_was_given(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            await ada.join("main")
            await bob.join("main")
            waiting = begun(bob.take(wait=None))
            await settled()
            waiting.cancel()
            await asyncio.wait({waiting})
            await ada.send("to all", target="all")
            await settled()
            assert await bob.take(directed_only=True) is None
            assert body(await bob.take()) == "to all"


async def test_a_leftover_of_a_lost_connection_comes_again_from_the_hub(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            waiting = begun(bob.take(wait=None))
            await settled()
            waiting.cancel()
            await asyncio.wait({waiting})
            await ada.send("one", to="bob")
            await settled()
            await hub.restart()
            await settled()
            taken = await bob.take(wait=5)
            assert body(taken) == "one"
            assert taken is not None
            assert taken.lends == 2


async def test_a_take_goes_on_waiting_over_a_restart(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            waiting = begun(bob.take(wait=None))
            await settled()
            await hub.restart()
            await ada.send("one", to="bob")
            assert body(await waiting) == "one"


async def test_a_hub_that_does_not_answer_a_take_is_not_an_empty_inbox(net: "Net") -> None:
    client, _ = await net.connected(timeout=3.0)
    with pytest.raises(RequestTimeout):
        await client.take(wait=1)
    await client.close()


async def test_an_inbox_loop_acks_what_it_is_done_with_and_only_that(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada:
            await ada.send(1, to="bob", create=True)
            for number in (2, 3):
                await ada.send(number, to="bob")
            async with everybody.client("bob") as bob:
                seen = []
                async for message in bob.inbox_messages():
                    seen.append(body_of(message))
                    if len(seen) == 2:
                        break  # in the middle of number 2
            assert seen == [1, 2]
            async with everybody.client("bob") as bob:
                messages = bob.inbox_messages()
                again = await anext(messages)
                assert (body_of(again), again.lends) == (2, 2)
                assert body_of(await anext(messages)) == 3
                assert (await bob.inbox()).unacked == 1


async def test_an_inbox_loop_over_restarts_repeats_only_what_was_not_acked(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            seen: list[object] = []
            ids: set[str] = set()

            async def answer() -> None:
                async for message in bob.inbox_messages():
                    if message.id not in ids:
                        ids.add(message.id)
                        seen.append(body_of(message))

            answering = begun(answer())
            for number in range(60):
                if number % 7 == 3:
                    await hub.restart()
                await ada.send(number, to="bob")
            for _ in range(100):
                if (await bob.inbox()).unacked == 0:
                    break
                await asyncio.sleep(0.1)
            assert seen == list(range(60))
            answering.cancel()
            await asyncio.wait({answering})


async def test_a_sender_waits_for_the_receipt(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            sent = await ada.send("hello", to="bob")
            waiting = begun(ada.wait_receipt(sent.id))
            await settled()
            taken = await bob.take()
            assert taken is not None
            await bob.ack(taken.message.id)
            receipt = await waiting
            assert receipt is not None
            assert receipt.acked_by == ("bob",)
            with pytest.raises(Rejected, match="not_found"):
                await bob.wait_receipt(sent.id)


async def test_a_receipt_that_does_not_come_is_none_at_the_deadline(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob"):
            sent = await ada.send("hello", to="bob")
            waiting = begun(ada.wait_receipt(sent.id, wait=5))
            await settled()
            await hub.advance(6_000)
            assert await waiting is None


@pytest.mark.parametrize(("seconds", "why"), [("nan", "give a number of seconds"), ("-inf", "already")])
async def test_an_expiry_that_cannot_be_is_refused_in_words(people: "type[People]", seconds: str, why: str) -> None:
    async with MemoryHub() as hub, people(hub).client("ada") as ada:
        with pytest.raises(Rejected, match=why):
            await ada.send("x", to="ada", expires=float(seconds))


async def test_a_wait_that_is_no_number_is_refused_and_a_huge_expiry_is_a_date(people: "type[People]") -> None:
    nan = float("nan")
    async with MemoryHub() as hub, people(hub).client("ada") as ada:
        sent = await ada.send("x", to="ada", expires=1e300)
        await ada.send("x", to="ada", expires=float("inf"))
        for wrong in (
            lambda: ada.take(wait=nan),
            lambda: ada.wait_receipt(sent.id, wait=nan),
            lambda: ada.await_answer("q1", wait=nan),
            lambda: ada.verify_journal(timeout=nan),
        ):
            with pytest.raises(Rejected, match="give a number of seconds"):
                await wrong()


def _waits(client: "Client", wait: float | None) -> "dict[str, Callable[[], Coroutine[object, object, object]]]":
    return {
        "inbox.take": lambda: client.take(wait=wait),
        "receipt.wait": lambda: client.wait_receipt("m5", wait=wait),
        "question.wait": lambda: client.await_answer("q5", wait=wait),
    }


@pytest.mark.parametrize("kind", ["inbox.take", "receipt.wait", "question.wait"])
async def test_a_wait_goes_on_after_a_restart_that_began_it_anew(net: "Net", kind: str) -> None:
    client, peer = await net.connected(timeout=5)
    waiting = begun(_waits(client, 400.0)[kind]())
    first = await peer.asked()
    assert first.type == kind
    piece_s = float(str(first.body["wait_ms"])) / 1000
    await asyncio.sleep(piece_s - 1)
    peer.cut()
    peer = await net.welcome()
    asked = await peer.asked()
    assert asked.type == kind
    await asyncio.sleep(7)  # past the bound of the first piece, which the hub on the new connection begins anew
    assert not waiting.done()
    later = peer.asked_now()  # a take is waited for under its first request, so that nothing is lent to nobody
    assert [request.type for request in later] == ([] if kind == "inbox.take" else [kind])
    peer.refuse(later[-1] if later else asked, "not_found")
    with pytest.raises(Rejected, match="not_found"):
        await waiting
    await client.close()


@pytest.mark.parametrize("kind", ["inbox.take", "receipt.wait", "question.wait"])
async def test_a_wait_with_an_end_ends_when_no_hub_comes(net: "Net", kind: str) -> None:
    client, peer = await net.connected(timeout=5)
    begun_s = asyncio.get_running_loop().time()
    waiting = begun(_waits(client, 3.0)[kind]())
    assert (await peer.asked()).type == kind
    net.is_down = True
    peer.cut()
    with pytest.raises(RequestTimeout, match="there was no connection"):
        await waiting
    assert asyncio.get_running_loop().time() - begun_s == pytest.approx(8.0, abs=0.5)
    await client.close()


@pytest.mark.parametrize("kind", ["inbox.take", "receipt.wait", "question.wait"])
async def test_a_wait_without_end_outlasts_a_hub_that_is_away_for_long(net: "Net", kind: str) -> None:
    client, peer = await net.connected(timeout=5)
    waiting = begun(_waits(client, None)[kind]())
    assert (await peer.asked()).type == kind
    net.is_down = True
    peer.cut()
    await asyncio.sleep(600)
    assert not waiting.done()
    net.is_down = False
    peer = await net.welcome()
    peer.refuse(await peer.asked(), "not_found")
    with pytest.raises(Rejected, match="not_found"):
        await waiting
    await client.close()


@pytest.mark.parametrize("kind", ["inbox.take", "receipt.wait", "question.wait"])
async def test_no_piece_of_a_wait_is_longer_than_the_hub_allows(net: "Net", kind: str) -> None:
    net.limits = msgspec.structs.replace(net.limits, wait_ms_max=1_500)
    client, peer = await net.connected(timeout=5)
    waiting = begun(_waits(client, 2.0)[kind]())
    pieces: list[float] = []
    for _ in range(2):
        asked = await peer.asked()
        pieces.append(float(str(asked.body["wait_ms"])))
        await asyncio.sleep(pieces[-1] / 1000)
        peer.refuse(asked, "deadline")
    assert pieces == pytest.approx([1_500, 500], abs=2)
    if kind == "question.wait":
        with pytest.raises(Rejected, match="deadline"):
            await waiting
    else:
        assert await waiting is None
    await client.close()


async def test_what_is_no_number_of_seconds_or_no_text_is_refused_here_by_its_name(people: "type[People]") -> None:
    async with MemoryHub() as hub, people(hub).client("ada") as ada:
        for wrong in (True, "5", [1]):
            with pytest.raises(TypeError, match="give a number of seconds"):
                await ada.take(wait=wrong)  # type: ignore[arg-type]  # that is the point
            with pytest.raises(TypeError, match="give a number of seconds"):
                await ada.put("k", 1, ttl=wrong)  # type: ignore[arg-type]  # that is the point
        for call in (lambda: ada.claim("\ud800"), lambda: ada.get("\ud800")):
            with pytest.raises(TypeError, match="lone surrogate"):
                await call()
