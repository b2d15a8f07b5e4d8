import msgspec

from synapse.client.calls import KEYED, Call
from synapse.core.kernel import REPEATABLE
from synapse.protocol.commands import AckInbox, ClaimLease, Ping, RenewLease, SendMessage, TakeInbox
from synapse.protocol.notices import ClaimQueued

QUEUED = ClaimQueued(request=1, task="T1", room="main", place=7, position=1, deadline_ms=None, holders=())


def test_keys_go_to_exactly_the_commands_for_which_the_hub_keeps_them() -> None:
    # renewals come too often to spend keys on, and are the same twice as once
    assert KEYED | {RenewLease} == REPEATABLE


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
