import asyncio

import msgspec
import pytest

from synapse.client.calls import KEYED, Call, Calls, Overdue
from synapse.core.kernel import REPEATABLE
from synapse.errors import Disconnected
from synapse.protocol.commands import AckInbox, ClaimLease, Ping, RenewLease, SendMessage, TakeInbox
from synapse.protocol.file_commands import PutChunk
from synapse.protocol.notices import ClaimQueued

HAS_VIRTUAL_TIME = True
QUEUED = ClaimQueued(request=1, task="T1", room="main", place=7, position=1, deadline_ms=None, holders=())


def test_keys_go_to_exactly_the_commands_for_which_the_hub_keeps_them() -> None:
    # renewals come too often to spend keys on, and are the same twice as once
    assert KEYED | {RenewLease, PutChunk} == REPEATABLE


def test_what_may_be_sent_twice() -> None:
    assert Call(1, Ping()).may_repeat
    assert Call(1, TakeInbox()).may_repeat
    assert Call(1, AckInbox(ids=("m1",))).may_repeat
    assert not Call(1, AckInbox(all=True)).may_repeat
    assert Call(1, AckInbox(all=True), "k").may_repeat
    send = Call(1, SendMessage(body=msgspec.Raw(b"1")), "k")
    assert send.may_repeat
    send.drop_key()
    assert not send.may_repeat
    assert b"idem_key" not in send.frame


def test_a_claim_without_a_key_is_repeated_by_its_place() -> None:
    call = Call(1, ClaimLease(task="T1", wait_ms=None))
    assert not call.may_repeat
    call.take_place(QUEUED)
    assert call.may_repeat
    assert b'"place":7' in call.frame


def test_a_claim_with_a_key_is_repeated_unchanged() -> None:
    call = Call(1, ClaimLease(task="T1", wait_ms=None), "k")
    before = call.frame
    call.take_place(QUEUED)
    assert call.frame == before


async def test_many_calls_need_one_timer_and_none_when_no_call_has_a_deadline() -> None:
    calls, loop = Calls(), asyncio.get_running_loop()
    calls.put(Call(1, Ping()))
    assert calls._alarm is None
    for number in range(2, 100):
        calls.leave(Call(number, Ping()))
        calls.put(Call(number, Ping()), loop.time() + 10)
    first = calls._alarm
    calls.put(Call(100, Ping()), loop.time() + 10)
    assert calls._alarm is first


async def test_who_waited_is_told_the_cause_of_the_end() -> None:
    calls, end, cause = Calls(), Disconnected(4999, "the client ended"), ValueError("why")
    end.__cause__ = cause
    first, second = calls.put(Call(1, Ping())), calls.put(Call(2, Ping()))
    calls.fail(end)
    for answer in (first, second):
        with pytest.raises(Disconnected, match="4999 the client ended") as ended:
            await answer
        assert ended.value.__cause__ is cause
        assert ended.value is not end, "each caller's traceback is its own"


async def test_a_call_that_was_left_behind_with_the_hub_has_no_deadline() -> None:
    calls, loop = Calls(), asyncio.get_running_loop()
    left = Call(1, TakeInbox(), leftover=lambda _: None)
    calls.put(left, loop.time() + 1)
    left.is_out = True
    calls.leave(left)
    waiting = Call(2, Ping())
    answer = calls.put(waiting, loop.time() + 2)
    with pytest.raises(Overdue):
        await answer
    calls.leave(waiting)
    assert loop.time() == pytest.approx(2.0)
    assert left in calls
    assert left.answer is not None
    assert not left.answer.done()
    await asyncio.sleep(10)
    assert calls._alarm is None
