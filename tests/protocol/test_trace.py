"""What of W3C trace context is taken as it is, as far as it is known, and not at all."""

import json
import re
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.conftest import LIMITS

from synapse.protocol.codec import BadFrame, decode_request, encode_request
from synapse.protocol.commands import Ping, SendMessage
from synapse.protocol.trace import traceparent_of

TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT: Final = "00f067aa0ba902b7"
LAWFUL: Final = f"00-{TRACE}-{PARENT}-01"
GRAMMAR: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
OTHERS: Final = {
    "empty": "",
    "words": "not a trace",
    "upper case": LAWFUL.upper(),
    "no trace id": f"00-{'0' * 32}-{PARENT}-01",
    "no parent id": f"00-{TRACE}-{'0' * 16}-01",
    "one too long": f"{LAWFUL}0",
    "more behind version 00": f"{LAWFUL}-extra",
    "one too short": LAWFUL[:-1],
    "no hex": f"00-{TRACE[:-1]}g-{PARENT}-01",
    "digits of another script": f"00-{TRACE[:-1]}٤-{PARENT}-01",
    "a newline": f"{LAWFUL[:-1]}\n",
    "a newline behind": f"{LAWFUL}\n",
    "other dashes": LAWFUL.replace("-", "_"),
    "version ff": f"ff{LAWFUL[2:]}",
    "version ff and more": f"ff{LAWFUL[2:]}-extra",
    "a version of one digit": LAWFUL[1:],
    "a later version, run together": f"01{LAWFUL[2:]}extra",
    "a later version without flags": f"01-{TRACE}-{PARENT}-",
}


@given(st.from_regex(GRAMMAR, fullmatch=True))
def test_version_00_is_taken_as_it_is(text: str) -> None:
    assert traceparent_of(text) == text


@given(st.text() | st.text("0af-", min_size=50, max_size=60) | st.from_regex(GRAMMAR).map(lambda text: text[:70]))
def test_what_is_taken_fits_the_grammar(text: str) -> None:
    found = traceparent_of(text)
    if found is None:
        assert not GRAMMAR.fullmatch(text)
    else:
        assert GRAMMAR.fullmatch(found)


@pytest.mark.parametrize(
    ("later", "known"),
    [
        (f"01-{TRACE}-{PARENT}-01", LAWFUL),
        (f"cc-{TRACE}-{PARENT}-01-what the future brings", LAWFUL),
        (f"fe-{TRACE}-{PARENT}-03", LAWFUL),
        (f"01-{TRACE}-{PARENT}-fe", f"00-{TRACE}-{PARENT}-00"),
    ],
)
def test_of_a_later_version_what_version_00_knows_is_kept(later: str, known: str) -> None:
    assert traceparent_of(later) == known


@pytest.mark.bad_input("BI-45")
@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
def test_a_request_with_anything_else_is_one_without(text: str) -> None:
    assert traceparent_of(text) is None
    frame = {"type": "message.send", "id": 1, "body": {"body": "hi"}, "traceparent": text}
    request = decode_request(json.dumps(frame).encode(), LIMITS)
    assert request.traceparent is None
    assert isinstance(request.command, SendMessage)


@pytest.mark.bad_input("BI-45")
@pytest.mark.parametrize("value", [b"5", b"true", b"[]", b"{}", b'"\\u0000"', b'"\\ud800"'])
def test_what_is_no_text_is_malformed(value: bytes) -> None:
    with pytest.raises(BadFrame) as refused:
        decode_request(b'{"type":"ping","id":3,"traceparent":' + value + b"}", LIMITS)
    assert (refused.value.rejected.code, refused.value.id) == ("malformed", 3)


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("traceparent", [None, LAWFUL])
def test_it_survives_the_wire_with_and_without_an_idempotency_key(key: str | None, traceparent: str | None) -> None:
    frame = encode_request(1, SendMessage(body=msgspec.Raw(b'"hi"')), key, traceparent)
    assert (b"traceparent" in frame) == (traceparent is not None)
    request = decode_request(frame, LIMITS)
    assert (request.idem_key, request.traceparent) == (key, traceparent)


def test_it_is_no_part_of_what_an_idempotency_key_stands_for() -> None:
    plain, traced = (decode_request(encode_request(1, Ping(), "k", trace), LIMITS) for trace in (None, LAWFUL))
    assert plain.raw == traced.raw


@pytest.mark.parametrize("frame", [{"type": "ping"}, {"type": "no.such"}, {"type": "message.send", "body": {"bod": 1}}])
def test_a_refusal_of_the_body_keeps_it(frame: dict[str, object]) -> None:
    text = json.dumps({**frame, "id": 1, "traceparent": LAWFUL, "idem_key": ""}).encode()
    with pytest.raises(BadFrame) as refused:
        decode_request(text, LIMITS)
    assert refused.value.traceparent == LAWFUL
