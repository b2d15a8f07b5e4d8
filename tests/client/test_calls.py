import msgspec

from synapse.client.calls import KEYED, Call
from synapse.core.kernel import REPEATABLE
from synapse.protocol.commands import AckInbox, Ping, SendMessage, TakeInbox


def test_keys_go_to_exactly_the_commands_for_which_the_hub_keeps_them() -> None:
    assert KEYED == REPEATABLE


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
