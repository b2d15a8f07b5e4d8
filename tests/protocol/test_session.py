"""A client and the hub's session wired together, without sockets and without a hub."""

import json
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocol.conftest import LIMITS

from synapse.errors import Rejected
from synapse.protocol.codec import Request, encode_request
from synapse.protocol.codes import (
    CLOSE_BAD_HELLO,
    CLOSE_NAME_TAKEN,
    CLOSE_UNAUTHORIZED,
    CLOSE_VERSION,
    CLOSES,
    ERRORS,
)
from synapse.protocol.commands import Command, Hello, IdentifyHub, ListAgents, Ping
from synapse.protocol.session import IDENTIFIES_MAX, Heard, Phase, Refusal, Session

HELLO = Hello(name="alice", secret="s" * 32)


class Wired:
    """A session with the little of a hub that it needs: the hello is carried out last, everything else waits for it.

    verdict: what becomes of the hello. answers: (id, code or None), in order. closed: the close code, if any.
    """

    def __init__(self, verdict: Rejected | None = None) -> None:
        self.session = Session(LIMITS)
        self.verdict = verdict
        self.hello: Request | None = None
        self.postponed: deque[Request] = deque()
        self.answers: list[tuple[object, str | None]] = []
        self.closed: int | None = None

    def send(self, *frames: bytes) -> None:
        """What the client wrote; what it writes after the close is not heard."""
        for frame in frames:
            if self.session.phase is not Phase.CLOSED:
                self._take(self.session.hear(frame))

    def _take(self, heard: Heard) -> None:
        if isinstance(heard, Refusal):
            self.answers.append((heard.id, heard.error.code))
            if heard.close is not None:
                self.closed = heard.close
        elif isinstance(heard.command, Hello):
            self.hello = heard
        elif self.session.phase is Phase.GREETING:
            self.postponed.append(heard)
        else:
            self.answers.append((heard.id, None))

    def decide_hello(self) -> None:
        """The hub comes round to the hello, and then to what was pipelined behind it."""
        assert self.hello is not None
        if self.verdict is not None:
            self._take(self.session.refuse(self.hello.id, self.verdict))
            self.postponed.clear()
            return
        self.session.accept()
        self.answers.append((self.hello.id, None))
        while self.postponed:
            self.answers.append((self.postponed.popleft().id, None))


def hello_frame(request_id: int, **fields: object) -> bytes:
    body = {"name": "alice", "secret": "s" * 32, **fields}
    return json.dumps({"type": "hello", "id": request_id, "body": body}).encode()


def test_a_hello_opens_the_conversation() -> None:
    wired = Wired()
    phases = [wired.session.phase]
    wired.send(encode_request(1, HELLO))
    phases.append(wired.session.phase)
    wired.decide_hello()
    phases.append(wired.session.phase)
    wired.send(encode_request(2, Ping()))
    assert wired.answers == [(1, None), (2, None)]
    assert phases == [Phase.AWAITING_HELLO, Phase.GREETING, Phase.OPEN]


def test_commands_pipelined_behind_the_hello_are_carried_out_after_it_in_order() -> None:
    wired = Wired()
    wired.send(encode_request(1, HELLO), encode_request(2, Ping()), encode_request(3, ListAgents()))
    assert wired.answers == []
    wired.decide_hello()
    assert wired.answers == [(1, None), (2, None), (3, None)]


@pytest.mark.bad_input("BI-05")
@pytest.mark.parametrize(
    ("code", "close"),
    [
        ("unauthorized", CLOSE_UNAUTHORIZED),
        ("name_taken", CLOSE_NAME_TAKEN),
        ("bad_name", CLOSE_BAD_HELLO),
        ("bad_request", CLOSE_BAD_HELLO),
        ("limit", CLOSE_BAD_HELLO),
    ],
)
def test_a_refused_hello_ends_the_connection_and_nothing_behind_it_happens(code: str, close: int) -> None:
    wired = Wired(Rejected(code, "no"))
    wired.send(encode_request(1, HELLO), encode_request(2, Ping()))
    wired.decide_hello()
    wired.send(encode_request(3, Ping()))
    assert wired.answers == [(1, code)]
    assert wired.closed == close
    assert wired.session.phase is Phase.CLOSED


@pytest.mark.bad_input("BI-17")
@pytest.mark.parametrize(
    ("frame", "request_id", "code"),
    [
        (b"GET / HTTP/1.1\r\n", None, "malformed"),
        (b"\x16\x03\x01", None, "malformed"),
        (b'{"type":"hello","id":1,"body":NaN}', 1, "malformed"),
        (b'{"type":"hello","id":1,"body":{"nme":"alice"}}', 1, "bad_request"),
        (b'{"type":"hallo","id":1}', 1, "unknown_type"),
        (b'{"type":"ping","id":1}', 1, "hello_required"),
        (b'{"type":"message.send","id":1,"body":{"body":"x"}}', 1, "hello_required"),
    ],
)
def test_anything_wrong_before_the_hello_is_answered_and_ends_the_connection(
    frame: bytes, request_id: int | None, code: str
) -> None:
    wired = Wired()
    wired.send(frame, encode_request(2, HELLO))
    assert wired.answers == [(request_id, code)]
    assert wired.closed == CLOSE_BAD_HELLO


def test_after_the_welcome_a_malformed_frame_is_answered_and_the_connection_lives() -> None:
    wired = Wired()
    wired.send(encode_request(1, HELLO))
    wired.decide_hello()
    wired.send(b"{", b'{"type":"ping","id":2,"body":[', encode_request(3, Ping()))
    assert wired.answers == [(1, None), (None, "malformed"), (2, "malformed"), (3, None)]
    assert wired.closed is None


def test_a_malformed_frame_behind_a_pending_hello_does_not_end_the_connection() -> None:
    wired = Wired()
    wired.send(encode_request(1, HELLO), b"{")
    wired.decide_hello()
    assert wired.answers == [(None, "malformed"), (1, None)]


def test_a_second_hello_is_refused_and_the_first_stands() -> None:
    wired = Wired()
    wired.send(encode_request(1, HELLO), encode_request(2, HELLO))
    wired.decide_hello()
    wired.send(encode_request(3, HELLO), encode_request(4, Ping()))
    assert wired.answers == [(2, "already_greeted"), (1, None), (3, "already_greeted"), (4, None)]
    assert wired.closed is None


def test_the_hub_may_be_identified_before_the_hello_a_few_times() -> None:
    wired = Wired()
    wired.send(*(encode_request(n, IdentifyHub()) for n in range(IDENTIFIES_MAX)), encode_request(9, HELLO))
    wired.decide_hello()
    assert wired.answers == [(n, None) for n in range(IDENTIFIES_MAX)] + [(9, None)]


def test_identifying_more_often_than_that_ends_the_connection() -> None:
    wired = Wired()
    wired.send(*(encode_request(n, IdentifyHub()) for n in range(IDENTIFIES_MAX + 1)))
    assert wired.answers[-1] == (IDENTIFIES_MAX, "hello_required")
    assert wired.closed == CLOSE_BAD_HELLO


def test_identifying_after_the_welcome_is_a_command_like_others() -> None:
    wired = Wired()
    wired.send(encode_request(1, HELLO))
    wired.decide_hello()
    wired.send(*(encode_request(n, IdentifyHub()) for n in range(2, 12)))
    assert wired.answers == [(n, None) for n in range(1, 12)]


# version skew


@pytest.mark.bad_input("BI-18")
@pytest.mark.parametrize(
    ("offer", "who"),
    [([2, 3], "hub"), ([2, 2], "hub"), ([0, 0], "client"), ([-5, 0], "client")],
)
def test_without_a_common_version_the_refusal_names_the_older_side(offer: list[int], who: str) -> None:
    session = Session(LIMITS)
    heard = session.hear(hello_frame(1, protocol=offer))
    assert isinstance(heard, Refusal)
    assert (heard.id, heard.error.code, heard.close) == (1, "protocol_version", CLOSE_VERSION)
    assert heard.error.detail.endswith(f"upgrade the {who}")
    assert heard.error.facts == {"client": offer, "hub": [1, 1]}


def test_a_client_that_also_speaks_a_newer_version_is_welcome() -> None:
    wired = Wired()
    wired.send(hello_frame(1, protocol=[1, 7]))
    wired.decide_hello()
    assert wired.answers == [(1, None)]


@pytest.mark.bad_input("BI-18")
def test_a_newer_clients_hello_is_refused_for_its_version_not_for_fields_of_that_version() -> None:
    wired = Wired()
    wired.send(hello_frame(1, protocol=[2, 2], passkey={"of": "tomorrow"}))
    assert (wired.answers, wired.closed) == ([(1, "protocol_version")], CLOSE_VERSION)


def test_an_unknown_field_with_a_version_we_speak_is_still_a_bad_hello() -> None:
    wired = Wired()
    wired.send(hello_frame(1, protocol=[1, 2], passkey="x"))
    assert (wired.answers, wired.closed) == ([(1, "bad_request")], CLOSE_BAD_HELLO)


# any order of frames

FRAMES: dict[str, tuple[Command | None, bytes]] = {
    "hello": (HELLO, b""),
    "identify": (IdentifyHub(), b""),
    "ping": (Ping(), b""),
    "garbage": (None, b"}{"),
    "unknown": (None, b'{"type":"x","id":"x"}'),
}


@settings(max_examples=200)
@given(
    script=st.lists(st.sampled_from([*FRAMES, "decide"]), max_size=14),
    refused=st.booleans(),
)
def test_in_any_order_each_request_is_answered_once_and_nothing_precedes_the_hello(
    script: list[str], refused: bool
) -> None:
    wired = Wired(Rejected("name_taken", "no") if refused else None)
    heard = 0
    decided = False
    for number, step in enumerate(script):
        if wired.session.phase is Phase.CLOSED:
            break
        if step == "decide":
            if wired.session.phase is Phase.GREETING:
                wired.decide_hello()
                decided = True
            continue
        command, raw = FRAMES[step]
        wired.send(raw if command is None else encode_request(number, command))
        heard += 1
    if wired.session.phase is Phase.OPEN:
        assert len(wired.answers) == heard
        assert decided and not refused
    if wired.session.phase is Phase.CLOSED:
        assert wired.closed in CLOSES
        assert wired.answers[-1][1] in ERRORS
    said_yes = [code for _, code in wired.answers if code is None]
    assert not said_yes or decided or all(step == "identify" for step in script[: len(said_yes)] if step != "decide")
