"""The client against a hub played frame by frame, on a loop whose time jumps."""

import asyncio
import random
from collections.abc import Coroutine
from typing import TYPE_CHECKING, TypeVar

import msgspec
import pytest

from synapse.client.calls import OutcomeUnknown, RequestTimeout
from synapse.client.transport import PushTransport
from synapse.errors import Disconnected, HubUnreachable, PeerError, Rejected
from synapse.protocol.codes import CLOSE_NAME_TAKEN, CLOSE_RESTART, CLOSE_REVOKED, CLOSE_UNAUTHORIZED
from synapse.protocol.commands import Ping
from synapse.protocol.limits import Limits
from synapse.protocol.notices import Closing
from synapse.protocol.replies import HubIdentity, Pong, Sent, StatusDeclared

if TYPE_CHECKING:
    from tests.client.conftest import Asked, Net

HAS_VIRTUAL_TIME = True
PONG = Pong(cursor="j1:1")
SENT = Sent(id="m1", cursor="j1:1", room="main", channel="general", n=1)

_Result = TypeVar("_Result")


def begun(work: Coroutine[object, object, _Result]) -> "asyncio.Task[_Result]":
    return asyncio.get_running_loop().create_task(work)


def now_s() -> float:
    return asyncio.get_running_loop().time()


def stand_still(seconds: float) -> None:
    """The process does not run for a while."""
    loop = asyncio.get_running_loop()
    loop._jumping.jumped_s += seconds  # type: ignore[attr-defined]  # of a `VirtualLoop`


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def sent_body(asked: "Asked") -> object:
    assert asked.type == "message.send"
    return asked.body["body"]


class Dice(random.Random):
    """Chance that always takes the most, and remembers between what it was asked to choose."""

    def __init__(self) -> None:
        super().__init__(1)
        self.ceilings: list[float] = []

    def uniform(self, a: float, b: float) -> float:
        assert a == 0.0
        self.ceilings.append(round(b, 6))
        return b


# requests and their answers


async def test_answers_find_their_requests_in_any_order(net: "Net") -> None:
    client, peer = await net.connected()
    first, second, third = begun(client.ping()), begun(client.send("x")), begun(client.ping())
    asked = [await peer.asked() for _ in range(3)]
    peer.reply(asked[2], Pong(cursor="j1:3"))
    peer.reply(asked[1], SENT)
    assert (await third).cursor == "j1:3"
    assert (await second).id == "m1"
    assert not first.done()
    peer.reply(asked[0], Pong(cursor="j1:9"))
    assert (await first).cursor == "j1:9"
    await client.close()


async def test_a_refusal_reaches_its_caller_as_data(net: "Net") -> None:
    client, peer = await net.connected()
    asking = begun(client.join("main:nowhere"))
    peer.refuse(await peer.asked(), "not_found")
    with pytest.raises(Rejected, match="not_found: no") as refused:
        await asking
    assert refused.value.code == "not_found"
    await client.close()


async def test_an_answer_of_another_type_is_the_hubs_fault(net: "Net") -> None:
    client, peer = await net.connected()
    asking = begun(client.status())
    peer.reply(await peer.asked(), PONG)
    with pytest.raises(PeerError, match="no Status"):
        await asking
    await client.close()


async def test_a_cancelled_request_leaves_nothing_behind(net: "Net") -> None:
    client, peer = await net.connected()
    asking = begun(client.send("x"))
    asked = await peer.asked()
    asking.cancel()
    await asyncio.wait({asking})
    assert len(client._lifeline._calls) == 0
    peer.reply(asked, SENT)
    peer.cut()
    peer = await net.welcome()
    pinging = begun(client.ping())
    await peer.pong()
    await pinging
    assert peer.asked_now() == []
    await client.close()


async def test_a_frame_that_no_hub_takes_is_refused_here(net: "Net") -> None:
    net.limits = Limits(frame_bytes_max=1_000)
    client, peer = await net.connected()
    with pytest.raises(Rejected) as refused:
        await client.send("x" * 1_000)
    assert refused.value.code == "too_large"
    assert peer.asked_now() == []
    await client.close()


async def test_a_pretty_printed_body_is_sent_as_one_line(net: "Net") -> None:
    client, peer = await net.connected()
    sending = begun(client.send(msgspec.Raw(b'{\n  "a": 1\n}')))
    asked = await peer.asked()
    assert sent_body(asked) == {"a": 1}
    assert b"\n" not in peer.frames[-1]
    peer.reply(asked, SENT)
    await sending
    await client.close()


# time-outs


async def test_a_mutation_without_an_answer_has_an_unknown_outcome_and_names_its_key(net: "Net") -> None:
    client, peer = await net.connected(timeout=3.0)
    began_s = now_s()
    with pytest.raises(OutcomeUnknown, match="it may have been done: repeat it with idem_key 'k1'") as late:
        await client.send("x", idem_key="k1")
    assert late.value.idem_key == "k1"
    assert isinstance(late.value, TimeoutError)
    assert now_s() - began_s == pytest.approx(3.0, abs=0.1)
    peer.reply(await peer.asked(), SENT)
    await settled()
    assert len(client._lifeline._calls) == 0
    await client.close()


async def test_an_ack_of_ids_without_an_answer_may_be_repeated_without_a_key(net: "Net") -> None:
    client, _ = await net.connected(timeout=3.0)
    with pytest.raises(OutcomeUnknown, match="it may have been done: repeat it, which is the same as once") as late:
        await client.ack("m1")
    assert late.value.idem_key is None
    await client.close()


async def test_a_question_without_an_answer_changed_nothing(net: "Net") -> None:
    client, _ = await net.connected(timeout=3.0)
    with pytest.raises(RequestTimeout) as late:
        await client.ping()
    assert not isinstance(late.value, OutcomeUnknown)
    await client.close()


async def test_a_request_that_never_left_changed_nothing_and_says_why(net: "Net") -> None:
    client, peer = await net.connected(timeout=3.0)
    net.is_down = True
    peer.cut()
    await settled()
    assert not client.is_connected
    with pytest.raises(RequestTimeout, match=r"not sent within 3 s; there was no connection \(nobody is there"):
        await client.send("x")
    await client.close()


# reconnects


async def test_a_request_that_was_cut_off_is_sent_again_under_the_same_key(net: "Net") -> None:
    client, peer = await net.connected()
    sending = begun(client.send("x"))
    first = await peer.asked()
    assert first.idem_key is not None
    assert len(first.idem_key) == 32
    peer.cut()
    peer = await net.welcome()
    again = await peer.asked()
    assert again == first
    peer.reply(again, SENT)
    assert (await sending).id == "m1"
    await client.close()


async def test_each_mutation_has_a_key_of_its_own_and_a_question_has_none(net: "Net") -> None:
    client, peer = await net.connected()
    work = [begun(client.send("x")), begun(client.send("x")), begun(client.join("a")), begun(client.ack_all())]
    keys = [(await peer.asked()).idem_key for _ in work]
    assert None not in keys
    assert len(set(keys)) == 4
    asking = [begun(client.ping()), begun(client.ack("m1")), begun(client.declare_status("busy"))]
    assert [(await peer.asked()).idem_key for _ in asking] == [None, None, None]
    await client.close()
    ended = await asyncio.gather(*work, *asking, return_exceptions=True)
    assert {type(end) for end in ended} == {Disconnected}


async def test_requests_of_a_time_without_connection_go_out_in_their_order(net: "Net") -> None:
    client, peer = await net.connected()
    sending = [begun(client.send(0))]
    await peer.asked()
    net.is_down = True
    peer.cut()
    await settled()
    for number in (1, 2, 3):
        sending.append(begun(client.send(number)))
        await settled()
    net.is_down = False
    peer = await net.welcome()
    asked = [await peer.asked() for _ in range(4)]
    assert [sent_body(each) for each in asked] == [0, 1, 2, 3]
    for each in asked:
        peer.reply(each, SENT)
    await asyncio.gather(*sending)
    await client.close()


async def test_the_pause_before_each_attempt_doubles_up_to_five_seconds(net: "Net") -> None:
    dice = Dice()
    client, peer = await net.connected(dice)
    net.is_down = True
    peer.cut()
    await asyncio.sleep(30)
    assert dice.ceilings[:9] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    net.is_down = False
    peer = await net.welcome()
    await asyncio.sleep(2)
    dice.ceilings.clear()
    peer.cut()
    peer = await net.welcome()
    assert dice.ceilings == [0.05]
    peer.cut()  # it did not hold for a second, so the pauses go on growing
    await net.welcome()
    assert dice.ceilings == [0.05, 0.1]
    await client.close()


async def test_a_connection_attempt_that_hangs_is_given_up(net: "Net") -> None:
    client, peer = await net.connected(timeout=3.0)
    peer.cut()
    silent = await net.peer()
    peer = await net.welcome()
    assert silent.is_closed
    await settled()
    assert client.is_connected
    await client.close()


async def test_the_declared_status_is_said_again(net: "Net") -> None:
    client, peer = await net.connected()
    declaring = begun(client.declare_status("busy"))
    peer.reply(await peer.asked(), StatusDeclared(name="ada", status="busy", cursor="j1:1"))
    await declaring
    refused = begun(client.declare_status("idle"))
    peer.refuse(await peer.asked(), "bad_request")
    with pytest.raises(Rejected):
        await refused
    peer.cut()
    peer = await net.welcome()
    asked = await peer.asked()
    assert (asked.type, asked.body) == ("agent.declare", {"status": "busy"})
    await client.close()


# refusals that waiting helps against


@pytest.mark.parametrize("code", ["rate_limited", "read_only", "draining"])
async def test_a_refusal_that_passes_is_waited_out(net: "Net", code: str) -> None:
    client, peer = await net.connected()
    sending = begun(client.send("x"))
    first = await peer.asked()
    began_s = now_s()
    peer.refuse(first, code, retry_after_ms=1_500)
    again = await peer.asked()
    assert again == first
    assert now_s() - began_s == pytest.approx(1.5, abs=0.1)
    peer.reply(again, SENT)
    await sending
    await client.close()


async def test_a_wait_that_does_not_fit_is_not_begun(net: "Net") -> None:
    client, peer = await net.connected(timeout=3.0)
    sending = begun(client.send("x"))
    asked = await peer.asked()
    began_s = now_s()
    peer.refuse(asked, "read_only", retry_after_ms=3_000)
    with pytest.raises(Rejected, match="read_only"):
        await sending
    assert now_s() == pytest.approx(began_s, abs=0.1)
    await client.close()


async def test_without_a_free_key_a_request_goes_out_once_and_a_break_leaves_it_unknown(net: "Net") -> None:
    client, peer = await net.connected()
    sending = begun(client.send("x"))
    peer.refuse(await peer.asked(), "idem_limit")
    assert (await peer.asked()).idem_key is None
    peer.cut()
    with pytest.raises(OutcomeUnknown, match="no idempotency key") as unknown:
        await sending
    assert unknown.value.idem_key is None
    peer = await net.welcome()
    await settled()
    assert peer.asked_now() == []
    await client.close()


# the end


async def test_a_close_code_that_forbids_coming_back_ends_every_call(net: "Net") -> None:
    client, peer = await net.connected()
    waiting = begun(client.ping())
    await peer.asked()
    peer.cut(CLOSE_NAME_TAKEN)
    with pytest.raises(Disconnected) as ended:
        await waiting
    assert ended.value.code == CLOSE_NAME_TAKEN
    with pytest.raises(Disconnected):
        await client.ping()
    await asyncio.sleep(60)
    assert len(net.dialled_at_s) == 1
    await client.close()


@pytest.mark.parametrize("code", [CLOSE_RESTART, CLOSE_REVOKED, 1006])
async def test_other_close_codes_are_come_back_from(net: "Net", code: int) -> None:
    client, peer = await net.connected()
    peer.cut(code)
    peer = await net.welcome()
    pinging = begun(client.ping())
    await peer.pong()
    assert await pinging == PONG
    await client.close()


async def test_the_goodbye_on_a_line_connection_gives_its_code_to_the_end(net: "Net") -> None:
    client, peer = await net.connected()
    peer.tell(Closing(code=CLOSE_UNAUTHORIZED, reason="the token changed"))
    peer.cut(1006)
    await settled()
    with pytest.raises(Disconnected, match="the token changed") as ended:
        await client.ping()
    assert ended.value.code == CLOSE_UNAUTHORIZED
    await client.close()


async def test_answers_before_a_goodbye_still_count(net: "Net") -> None:
    client, peer = await net.connected()
    sending = begun(client.send("x"))
    asked = await peer.asked()
    peer.tell(Closing(code=CLOSE_RESTART, reason="drain"))
    peer.reply(asked, SENT)
    peer.cut(1006)
    assert (await sending).id == "m1"
    await client.close()


async def test_a_hello_refused_for_good_ends_the_client(net: "Net") -> None:
    client, peer = await net.connected()
    peer.cut(CLOSE_REVOKED)
    peer = await net.peer()
    peer.refuse(await peer.asked(), "name_taken")
    await settled()
    with pytest.raises(Disconnected) as ended:
        await client.ping()
    assert ended.value.code == CLOSE_NAME_TAKEN
    assert isinstance(ended.value.__cause__, Rejected)
    assert peer.is_closed
    await client.close()


async def test_a_hello_refused_for_now_is_said_again(net: "Net") -> None:
    client, peer = await net.connected()
    peer.cut()
    peer = await net.peer()
    began_s = now_s()
    peer.refuse(await peer.asked(), "rate_limited", retry_after_ms=7_000)
    await net.welcome()
    assert now_s() - began_s >= 7.0
    await client.close()


async def test_another_hub_at_the_same_place_ends_the_client(net: "Net") -> None:
    client, peer = await net.connected()
    net.hub_id = "h2"
    peer.cut()
    peer = await net.peer()
    peer.reply(await peer.asked(), HubIdentity(hub_id="h2", version="0", protocol=(1, 1)))
    await settled()
    assert peer.asked_now() == [], "it hears no name, no secret and no token"
    with pytest.raises(Disconnected, match="another hub answers now: h2, not h1"):
        await client.send("x")
    assert peer.is_closed
    await client.close()


async def test_a_kept_secret_is_not_shown_to_another_hub(net: "Net", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synapse.client.secrets.Secrets.of", lambda *_: ("s" * 40, False))
    client = net.client()
    client._lifeline._identity._secret = None
    connecting = begun(client.connect())
    peer = await net.peer()
    identify = await peer.asked()
    assert identify.type == "hub.identify"
    peer.reply(identify, HubIdentity(hub_id="h1", version="0", protocol=(1, 1)))
    hello = await peer.asked()
    assert hello.body["secret"] == "s" * 40
    peer.reply(hello, net.greeting())
    await connecting
    peer.cut()
    peer = await net.peer()
    peer.reply(await peer.asked(), HubIdentity(hub_id="h2", version="0", protocol=(1, 1)))
    await settled()
    assert peer.asked_now() == []
    with pytest.raises(Disconnected, match="another hub"):
        await client.ping()
    await client.close()


async def test_a_frame_that_is_no_frame_ends_the_client(net: "Net") -> None:
    client, peer = await net.connected()
    waiting = begun(client.ping())
    await peer.asked()
    peer.say(b"HTTP/1.1 400 Bad Request")
    with pytest.raises(Disconnected, match="not the protocol"):
        await waiting
    await client.close()


async def test_a_notice_of_a_newer_hub_is_passed_over(net: "Net") -> None:
    client, peer = await net.connected()
    peer.say(b'{"type":"lease.granted","seq":4,"body":{"task":"t"}}')
    pinging = begun(client.ping())
    await peer.pong()
    assert await pinging == PONG
    await client.close()


async def test_close_ends_what_waits_and_leaves_no_task(net: "Net") -> None:
    client, peer = await net.connected()
    waiting = begun(client.ping())
    await peer.asked()
    await asyncio.gather(client.close(), client.close())
    await client.close()
    with pytest.raises(Disconnected, match="the client was closed"):
        await waiting
    with pytest.raises(Disconnected, match="the client was closed"):
        await client.ping()
    with pytest.raises(Disconnected):
        await client.connect()
    assert peer.is_closed
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_close_in_the_moment_of_a_break_is_still_a_close(net: "Net") -> None:
    client, peer = await net.connected()
    peer.cut()
    await client.close()
    await asyncio.sleep(30)
    assert len(net.dialled_at_s) == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_close_while_backing_off_ends_that_too(net: "Net") -> None:
    client, peer = await net.connected()
    net.is_down = True
    peer.cut()
    await asyncio.sleep(10)
    await client.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


# the first connection


async def test_the_first_connection_fails_at_once_when_nobody_is_there(net: "Net") -> None:
    net.is_down = True
    client = net.client()
    with pytest.raises(HubUnreachable, match="nobody is there"):
        await client.connect()
    assert now_s() == 0.0
    with pytest.raises(Disconnected, match="not connected"):
        await client.ping()
    await client.close()


async def test_the_first_hello_that_is_refused_says_so(net: "Net") -> None:
    client = net.client()
    connecting = begun(client.connect())
    peer = await net.peer()
    peer.refuse(await peer.asked(), "unauthorized")
    with pytest.raises(Rejected, match="unauthorized"):
        await connecting
    assert peer.is_closed
    await client.close()


async def test_a_hub_that_does_not_answer_the_first_hello_is_unreachable(net: "Net") -> None:
    client = net.client(timeout=3.0)
    with pytest.raises(HubUnreachable, match="within 3 s"):
        await client.connect()
    assert (await net.peer()).is_closed
    await client.close()


@pytest.mark.parametrize("code", [1001, 1006, 1012])
async def test_a_hub_that_ends_before_its_welcome_is_unreachable(net: "Net", code: int) -> None:
    client = net.client()
    connecting = begun(client.connect())
    peer = await net.peer()
    await peer.asked()
    peer.cut(code)
    with pytest.raises(HubUnreachable, match=f"before it answered the hello: {code} "):
        await connecting
    assert peer.is_closed
    await client.close()


async def test_a_first_connection_that_the_hub_closes_by_rule_is_not_one_without_a_hub(net: "Net") -> None:
    client = net.client()
    connecting = begun(client.connect())
    peer = await net.peer()
    await peer.asked()
    peer.cut(4002)
    with pytest.raises(Disconnected, match="4002"):
        await connecting
    await client.close()


async def test_a_client_that_is_closed_while_it_connects_does_not_connect(net: "Net") -> None:
    client = net.client()
    connecting = begun(client.connect())
    peer = await net.peer()
    hello = await peer.asked()
    await client.close()
    peer.reply(hello, net.greeting())
    with pytest.raises(Disconnected, match="the client was closed"):
        await connecting
    assert peer.is_closed


async def test_connecting_twice_is_connecting_once(net: "Net") -> None:
    client = net.client()
    both = asyncio.gather(client.connect(), client.connect())
    await net.welcome()
    first, second = await both
    assert first == second == client.welcome
    assert len(net.dialled_at_s) == 1
    await client.close()


async def test_a_cancelled_connect_lets_the_connection_go(net: "Net") -> None:
    client = net.client()
    connecting = begun(client.connect())
    peer = await net.peer()
    await peer.asked()
    connecting.cancel()
    await asyncio.wait({connecting})
    assert peer.is_closed
    assert asyncio.all_tasks() == {asyncio.current_task()}


# a transport that pushes, to a hub that does not read


async def test_what_a_full_hub_cannot_take_waits_here_and_goes_out_in_its_order(net: "Net") -> None:
    client, peer = await net.pushed()
    peer.room = 0
    sending = [begun(client.send(number)) for number in range(6)]
    await settled()
    assert peer.asked_now() == []
    assert client.is_connected
    sending[1].cancel()
    await settled()
    assert len(client._lifeline._calls) == 5
    peer.drain(room=2)  # and then it is full again
    sending.append(begun(client.send(6)))
    await settled()
    asked = peer.asked_now()
    assert [sent_body(each) for each in asked] == [0, 2]
    peer.drain()
    sending.append(begun(client.send(7)))
    await settled()
    asked += peer.asked_now()
    assert [sent_body(each) for each in asked] == [0, 2, 3, 4, 5, 6, 7]
    for each in asked:
        peer.reply(each, SENT)
    await asyncio.gather(sending[0], *sending[2:])
    await client.close()


async def test_what_never_went_out_to_a_full_hub_changed_nothing(net: "Net") -> None:
    client, peer = await net.pushed(timeout=3.0)
    peer.room = 0
    with pytest.raises(RequestTimeout, match="not sent within 3 s; nothing was changed") as late:
        await client.send("x")
    assert not isinstance(late.value, OutcomeUnknown)
    peer.drain()
    await settled()
    assert peer.asked_now() == []
    await client.close()


async def test_what_a_full_hub_did_not_take_goes_to_the_next_connection(net: "Net") -> None:
    client, peer = await net.pushed()
    peer.room = 1
    sending = [begun(client.send(number)) for number in range(3)]
    await settled()
    peer.cut()
    peer.drain()  # too late
    again = await net.welcome()
    asked = [await again.asked() for _ in sending]
    assert [sent_body(each) for each in asked] == [0, 1, 2]
    assert [sent_body(each) for each in peer.asked_now()] == [0]
    for each in asked:
        again.reply(each, SENT)
    await asyncio.gather(*sending)
    await client.close()


async def test_a_cancelled_claim_that_a_full_hub_never_took_leaves_nothing_behind(net: "Net") -> None:
    client, peer = await net.pushed()
    peer.room = 0
    claiming = begun(client.claim("T1", wait=None))
    await settled()
    claiming.cancel()
    await asyncio.wait({claiming})
    assert len(client._lifeline._calls) == 0
    peer.drain()
    await settled()
    assert peer.asked_now() == []
    await client.close()


# deadlines


async def test_each_deadline_comes_in_its_time_whatever_the_others_are(net: "Net") -> None:
    client, peer = await net.connected(timeout=5.0)
    ends_s: dict[float, float] = {}

    async def ping(limit: float) -> None:
        with pytest.raises(RequestTimeout):
            await client.request(Ping(), Pong, timeout=limit)
        ends_s[limit] = round(now_s() - began_s, 3)

    began_s = now_s()
    async with asyncio.TaskGroup() as group:
        for limit in (4.0, 1.0, 3.0, 2.0, 0.0):
            group.create_task(ping(limit))
        await settled()
        answered = begun(client.ping())
        await settled()
        peer.reply(peer.asked_now()[-1], PONG)
        assert await answered == PONG
    assert ends_s == {0.0: 0.0, 1.0: 1.0, 2.0: 2.0, 3.0: 3.0, 4.0: 4.0}
    assert len(client._lifeline._calls) == 0
    await client.close()


async def test_a_hub_that_takes_nothing_is_waited_for_no_longer_than_the_deadline(net: "Net") -> None:
    client, peer = await net.connected(timeout=3.0)
    await settled()
    released = asyncio.Event()

    async def send_later(_: bytes, /) -> None:
        await released.wait()

    peer.send = send_later  # type: ignore[method-assign]  # its buffers are full
    if isinstance(peer, PushTransport):
        peer.post = lambda _: False  # type: ignore[method-assign]  # the same
    began_s = now_s()
    with pytest.raises(RequestTimeout):
        await client.send("x")
    assert now_s() - began_s == pytest.approx(3.0, abs=0.001)
    await client.close()


async def test_a_process_that_stood_still_over_a_deadline_does_not_ask_again(net: "Net") -> None:
    client, peer = await net.connected(timeout=3.0)
    sending = begun(client.send("x"))
    peer.refuse(await peer.asked(), "rate_limited", retry_after_ms=1_000)
    await settled()
    stand_still(10.0)
    with pytest.raises(OutcomeUnknown):
        await sending
    assert peer.asked_now() == []
    await client.close()


async def test_a_client_that_is_closed_has_no_timer_left(net: "Net") -> None:
    client, _ = await net.connected(timeout=5.0)
    pinging = begun(client.ping())
    await settled()
    assert client._lifeline._calls._alarm is not None
    await client.close()
    with pytest.raises(Disconnected):
        await pinging
    assert client._lifeline._calls._alarm is None
