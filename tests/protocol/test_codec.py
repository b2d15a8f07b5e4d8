"""Every type survives the wire, and every frame that is not the protocol is answered, never raised."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocol.conftest import LIMITS, free_json, plain, structs_of, text

from synapse.errors import PeerError, Rejected
from synapse.protocol import codec
from synapse.protocol.codec import BadFrame, decode_request, encode_request
from synapse.protocol.codes import ERRORS
from synapse.protocol.commands import COMMANDS, Command, Ping, SendMessage
from synapse.protocol.notices import NOTICES
from synapse.protocol.plan_commands import TaskSpec
from synapse.protocol.replies import REPLY_TO, Reply
from synapse.protocol.terms import Int

REPLIES = sorted(set(REPLY_TO.values()), key=lambda kind: kind.__name__)
ids = st.integers(-(10**15) + 1, 10**15 - 1) | st.text(st.characters(codec="ascii"), max_size=64).filter(
    lambda value: "\0" not in value
)


def sent(body: bytes, rest: bytes = b"") -> bytes:
    """A message.send frame with this JSON as its body."""
    return b'{"type":"message.send","id":7,"body":{"body":' + body + rest + b"}}"


def refusal_of(frame: bytes) -> BadFrame:
    with pytest.raises(BadFrame) as caught:
        decode_request(frame, LIMITS)
    return caught.value


def stored_body(frame: bytes) -> bytes:
    command = decode_request(frame, LIMITS).command
    assert isinstance(command, SendMessage)
    return bytes(command.body)


# round trips


@pytest.mark.parametrize("name", COMMANDS)
@settings(max_examples=30)
@given(data=st.data())
def test_every_command_survives_the_wire(name: str, data: st.DataObject) -> None:
    command: Command = data.draw(structs_of(COMMANDS[name]))
    request_id = data.draw(ids)
    key = data.draw(st.none() | text.filter(bool))
    request = decode_request(encode_request(request_id, command, key), LIMITS)
    assert type(request.command) is COMMANDS[name]
    assert plain(request.command) == plain(command)
    assert (request.id, request.idem_key) == (request_id, key)


@pytest.mark.parametrize("kind", REPLIES, ids=lambda kind: kind.__name__)
@settings(max_examples=30)
@given(data=st.data(), request_id=ids | st.none(), seq=st.integers(0, LIMITS.int_max), replayed=st.booleans())
def test_every_reply_survives_the_wire(
    kind: type[Reply], data: st.DataObject, request_id: str | int | None, seq: int, replayed: bool
) -> None:
    reply = data.draw(structs_of(kind))
    frame = codec.decode_hub_frame(codec.encode_reply(request_id, seq, reply, replayed=replayed))
    assert (frame.type, frame.id, frame.seq, frame.replayed) == ("reply", request_id, seq, replayed)
    assert plain(msgspec.json.decode(frame.body, type=kind)) == plain(reply)


@pytest.mark.parametrize("name", NOTICES)
@settings(max_examples=30)
@given(data=st.data(), seq=st.integers(0, LIMITS.int_max))
def test_every_notice_survives_the_wire(name: str, data: st.DataObject, seq: int) -> None:
    notice = data.draw(structs_of(NOTICES[name]))
    frame = codec.decode_hub_frame(codec.encode_notice(seq, notice))
    assert (frame.type, frame.id, frame.seq) == (name, None, seq)
    assert plain(codec.decode_notice(frame)) == plain(notice)


@given(
    code=st.sampled_from(sorted(ERRORS)),
    detail=text,
    facts=st.dictionaries(text, free_json, max_size=3),
    wait=st.none() | st.integers(0, 10**6),
)
def test_every_refusal_survives_the_wire(code: str, detail: str, facts: dict[str, object], wait: int | None) -> None:
    frame = codec.decode_hub_frame(codec.encode_error(7, 9, Rejected(code, detail, facts, retry_after_ms=wait)))
    assert isinstance(frame.error, codec.ErrorBody)
    assert (frame.type, frame.id, frame.seq) == ("error", 7, 9)
    assert (frame.error.code, frame.error.detail, frame.error.retry_after_ms) == (code, detail, wait)
    assert frame.error.facts == facts


@pytest.mark.parametrize("name", NOTICES)
@settings(max_examples=10)
@given(data=st.data())
def test_a_notice_of_a_newer_hub_may_say_more(name: str, data: st.DataObject) -> None:
    notice = data.draw(structs_of(NOTICES[name]))
    told = json.loads(codec.encode_notice(1, notice))
    told["body"]["a_field_of_tomorrow"] = told["another"] = {"x": [1]}
    frame = codec.decode_hub_frame(json.dumps(told))
    assert plain(codec.decode_notice(frame)) == plain(notice)


def test_a_notice_type_of_a_newer_hub_is_passed_over() -> None:
    assert codec.decode_notice(codec.decode_hub_frame(b'{"type":"comet.seen","seq":3,"body":{}}')) is None


@pytest.mark.parametrize("frame", [b"", b"[]", b'{"seq":1}', b'{"type":1}', b"\xff", b'{"type":"message"'])
def test_a_client_calls_a_broken_hub_frame_a_peer_error(frame: bytes) -> None:
    with pytest.raises(PeerError, match="not the protocol"):
        codec.decode_hub_frame(frame)


def test_a_client_calls_a_notice_that_does_not_fit_a_peer_error() -> None:
    with pytest.raises(PeerError, match=r"feed\.live"):
        codec.decode_notice(codec.decode_hub_frame(b'{"type":"feed.live","seq":1,"body":{"subscription":"x"}}'))


@pytest.mark.bad_input("BI-14")
@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_field_of_any_command_is_refused_with_its_path(name: str) -> None:
    required = {
        field.encode_name: msgspec.to_builtins(_filler(field.type))
        for field in msgspec.structs.fields(COMMANDS[name])
        if field.required
    }
    frame = json.dumps({"type": name, "id": 7, "body": {**required, "a_typo": 1}}).encode()
    refused = refusal_of(frame)
    assert (refused.id, refused.rejected.code, refused.rejected.facts) == (7, "bad_request", {"path": "$.body"})
    assert "a_typo" in refused.rejected.detail


def _filler(kind: Any) -> object:
    if kind is bool:
        return True
    if kind == tuple[str, ...]:
        return ["x"]
    if kind == tuple[TaskSpec, ...]:
        return []
    if kind is bytes:
        return b"x"
    return 1 if kind is Int else "x"


# hostile leaves: each is refused `malformed` under the id of its frame

HOSTILE: dict[str, bytes] = {
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "minus Infinity": b"-Infinity",
    "1e999": b"1e999",
    "1E400 in a list": b"[1,1E400]",
    "2^53": b"9007199254740992",
    "minus 2^53": b"-9007199254740992",
    "2^64": b"18446744073709551616",
    "2^70 as a value of a key": b'{"a":1180591620717411303424}',
    "400 digits": b"1" * 400,
    "5000 digits": b"1" * 5000,
    "5000 digits and a point": b"1" * 5000 + b".0",
    "a high surrogate alone": b'"\\ud800"',
    "a low surrogate alone": b'"\\udc00"',
    "two high surrogates": b'"\\ud800\\ud800"',
    "a surrogate in a key": b'{"\\ud800":1}',
    "a raw NUL": b'"\x00"',
    "an escaped NUL": b'"\\u0000"',
    "an escaped NUL behind a backslash": b'"\\\\\\u0000"',
    "an escaped NUL in a key": b'{"\\u0000":1}',
    "a byte that starts nothing": b'"\xff"',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
    "an overlong NUL": b'"\xc0\x80"',
    "a code point beyond Unicode": b'"\xf4\x90\x80\x80"',
    "a raw newline in a string": b'"\n"',
    "a raw tab in a string": b'"\t"',
    "hexadecimal": b"0x10",
    "a leading zero": b"01",
    "a leading point": b".5",
    "a trailing point": b"5.",
    "a plus": b"+1",
    "a literal cut short": b"nul",
    "single quotes": b"'a'",
    "a trailing comma": b"[1,]",
    "a comment": b"/**/1",
    "a byte order mark": b"\xef\xbb\xbf1",
    "no such escape": b'"\\x41"',
    "31 brackets inside the frame's two": b"[" * 31 + b"]" * 31,
    "100 000 brackets": b"[" * 100_000,
    "objects 40 deep": b'{"a":' * 40 + b"1" + b"}" * 40,
}


@pytest.mark.bad_input("BI-09", "BI-10", "BI-11", "BI-12")
@pytest.mark.parametrize("leaf", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("place", ["alone", "in a list", "under a key"])
def test_a_hostile_leaf_is_malformed_and_the_answer_has_the_id(leaf: bytes, place: str) -> None:
    wrapped = {"alone": leaf, "in a list": b"[" + leaf + b"]", "under a key": b'{"k":' + leaf + b"}"}[place]
    refused = refusal_of(sent(wrapped))
    assert (refused.id, refused.rejected.code) == (7, "malformed")
    assert len(refused.rejected.detail) < 300


@pytest.mark.bad_input("BI-12")
@pytest.mark.parametrize("leaf", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_leaf_is_malformed_also_in_the_shape_that_is_sent_all_day(leaf: bytes) -> None:
    frame = b'{"type":"message.send","id":"a","body":{"channel":"main:general","body":'
    refused = refusal_of(frame + leaf + b"}}")
    assert (refused.id, refused.rejected.code) == ("a", "malformed")
    beside = refusal_of(frame + b'"x","subject":' + leaf + b"}}")
    assert beside.id == "a"
    assert beside.rejected.code in {"malformed", "bad_request"}
    escaped = b'{"type":"message.send","id":"a\\u0000","body":{"body":"x"}}'
    assert refusal_of(escaped).rejected.code == "malformed"


FREE_JSON = {
    name: (
        field.encode_name,
        ", ".join(f'"{other.encode_name}": "k"' for other in fields if other.required and other is not field),
    )
    for name, kind in COMMANDS.items()
    for fields in [msgspec.structs.fields(kind)]
    for field in fields
    if field.type is msgspec.Raw
}
"""By type: the field with free JSON, and the other required ones, which are texts."""


def test_free_json_is_known_where_it_is() -> None:
    assert FREE_JSON.keys() == {
        "message.send",
        "lease.checkpoint",
        "value.put",
        "resource.offer",
        "session.start",
        "session.update",
        "session.checkpoint",
        "lane.offer",
        "lane.send",
        "question.ask",
    }


@pytest.mark.bad_input("BI-12")
@pytest.mark.parametrize("envelope", ["", ',"idem_key":"k"'])
@pytest.mark.parametrize("leaf", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("name", FREE_JSON)
def test_hostile_free_json_is_malformed_in_any_command(name: str, leaf: bytes, envelope: str) -> None:
    field, others = FREE_JSON[name]
    body = f'{{{others}{"," if others else ""}"{field}":'.encode() + leaf + b"}"
    refused = refusal_of(f'{{"type":"{name}","id":7{envelope},"body":'.encode() + body + b"}")
    assert (refused.id, refused.rejected.code) == (7, "malformed")


@pytest.mark.parametrize("envelope", ["", ',"idem_key":"k"'])
@pytest.mark.parametrize("name", FREE_JSON)
def test_free_json_is_stored_in_our_own_bytes_in_any_command(name: str, envelope: str) -> None:
    field, others = FREE_JSON[name]
    body = f'{{{others}{"," if others else ""}"{field}": {{ "a" : 1, "a" : "\\u00e9\\n" }} }}'
    command = decode_request(f'{{"type":"{name}","id":7{envelope},"body":{body}}}'.encode(), LIMITS).command
    assert bytes(getattr(command, field)) == '{"a":"é\\n"}'.encode()


INTEGERS = [
    (name, field.encode_name)
    for name, kind in COMMANDS.items()
    for field in msgspec.structs.fields(kind)
    if field.type in (Int, Int | None)
]


@pytest.mark.bad_input("BI-11")
@pytest.mark.parametrize(("name", "field"), INTEGERS)
def test_a_bool_is_no_integer_in_any_command(name: str, field: str) -> None:
    refused = refusal_of(f'{{"type":"{name}","id":7,"body":{{"{field}":true}}}}'.encode())
    assert (refused.id, refused.rejected.code) == (7, "malformed")
    assert refused.rejected.facts == {"path": f"$.body.{field}"}


@pytest.mark.bad_input("BI-10")
@pytest.mark.parametrize("value", [2**53, -(2**53), 2**63, 2**64, 10**40])
@pytest.mark.parametrize(("name", "field"), INTEGERS)
def test_an_integer_beyond_a_double_is_malformed_in_any_command(name: str, field: str, value: int) -> None:
    refused = refusal_of(f'{{"type":"{name}","id":7,"body":{{"{field}":{value}}}}}'.encode())
    assert (refused.id, refused.rejected.code) == (7, "malformed")


@pytest.mark.bad_input("BI-12")
@pytest.mark.parametrize("leaf", ['"a\\u0000b"', '["\\u0000"]', '{"\\u0000":1}'])
def test_a_nul_is_malformed_in_any_text_of_a_command(leaf: str) -> None:
    field = {'"': "note", "[": "paths", "{": "pools"}[leaf[0]]
    refused = refusal_of(f'{{"type":"lease.claim","id":7,"body":{{"task":"t","{field}":{leaf}}}}}'.encode())
    assert (refused.id, refused.rejected.code) == (7, "malformed")


def test_every_integer_of_a_command_is_bounded() -> None:
    found: list[dict[str, Any]] = []
    stack: list[Any] = [msgspec.json.schema_components(COMMANDS.values())]
    while stack:
        item = stack.pop()
        if isinstance(item, dict) and item.get("type") == "integer":
            found.append(item)
        stack += item.values() if isinstance(item, dict) else item if isinstance(item, list | tuple) else []
    assert len(found) >= len(INTEGERS) > 20
    assert all(item.get("maximum") == 2**53 - 1 for item in found), "write Int: nothing else looks at how large it is"


WRONG_ENVELOPES: dict[str, tuple[bytes, str | int | None]] = {
    "nothing": (b"", None),
    "blanks": (b"  \r\n", None),
    "no JSON": (b"GET / HTTP/1.1", None),
    "an array": (b'["id",7]', None),
    "a string": (b'"id"', None),
    "two objects": (b'{"type":"ping","id":7}{"type":"ping","id":8}', 7),
    "cut short": (b'{"type":"ping","id":7,"body":{', 7),
    "no type": (b'{"id":7}', 7),
    "no id": (b'{"type":"ping"}', None),
    "an id of null": (b'{"type":"ping","id":null}', None),
    "an id of true": (b'{"type":"ping","id":true}', None),
    "an id with a point": (b'{"type":"ping","id":1.5}', None),
    "an id that is an object": (b'{"type":"ping","id":{"id":7}}', None),
    "an id beyond 2^53": (b'{"type":"ping","id":9007199254740992}', None),
    "an id of 65 characters": (b'{"type":"ping","id":"' + b"x" * 65 + b'"}', None),
    "a type that is a number": (b'{"type":1,"id":"a"}', "a"),
    "an unknown field": (b'{"type":"ping","id":"a","seq":1}', "a"),
    "a key in a number": (b'{"type":"ping","id":7,"idem_key":1}', 7),
    "the type called id": (b'{"type":"id","id":7,"body":NaN}', 7),
    "an id inside the body first": (b'{"body":{"id":1},"id":7,"type":NaN}', 7),
    "two ids": (b'{"id":1,"id":7,"type":NaN}', 7),
    "UTF-16": ('{"type":"ping","id":7}'.encode("utf-16"), None),
    "a byte order mark": (b'\xef\xbb\xbf{"type":"ping","id":7}', 7),
    "a type that is not UTF-8": (b'{"type":"\xff","id":7}', 7),
}


@pytest.mark.bad_input("BI-09")
@pytest.mark.parametrize(("frame", "expected"), WRONG_ENVELOPES.values(), ids=WRONG_ENVELOPES.keys())
def test_a_wrong_envelope_is_malformed_with_the_id_if_it_can_be_read(frame: bytes, expected: str | int | None) -> None:
    refused = refusal_of(frame)
    assert (refused.id, refused.rejected.code) == (expected, "malformed")


@pytest.mark.bad_input("BI-14")
@pytest.mark.parametrize(
    ("frame", "code", "path"),
    [
        (b'{"type":"no.such","id":7}', "unknown_type", None),
        (b'{"type":"","id":7}', "unknown_type", None),
        (b'{"type":"ping","id":7,"body":null}', "bad_request", "$.body"),
        (b'{"type":"ping","id":7,"body":[]}', "bad_request", "$.body"),
        (b'{"type":"message.send","id":7,"body":{}}', "bad_request", "$.body"),
        (b'{"type":"message.send","id":7}', "bad_request", "$.body"),
        (b'{"type":"message.send","id":7,"body":{"body":1,"to":"bob"}}', "bad_request", "$.body.to"),
        (b'{"type":"message.send","id":7,"body":{"body":1,"to":[1]}}', "bad_request", "$.body.to[0]"),
        (b'{"type":"feed.unsubscribe","id":7,"body":{"subscription":"1"}}', "bad_request", "$.body.subscription"),
        (b'{"type":"feed.unsubscribe","id":7,"body":{"subscription":1.0}}', "bad_request", "$.body.subscription"),
        (b'{"type":"hello","id":7,"body":{"protocol":[1]}}', "bad_request", "$.body.protocol"),
        (b'{"type":"ping","id":7,"body":{"got `bool`":1}}', "bad_request", "$.body"),
        (b'{"type":"ping","id":7,"body":{"Number out of range":1}}', "bad_request", "$.body"),
        (b'{"type":"ping","id":7,"idem_key":""}', "bad_request", "$.idem_key"),
        (b'{"type":"ping","id":7,"idem_key":"' + b"k" * 129 + b'"}', "bad_request", "$.idem_key"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_with_its_path(frame: bytes, code: str, path: str | None) -> None:
    refused = refusal_of(frame)
    assert (refused.id, refused.rejected.code) == (7, code)
    assert refused.rejected.facts.get("path") == path


def test_a_refusal_never_repeats_a_long_text_of_the_peer() -> None:
    for frame in (
        b'{"type":"' + b"x" * 200_000 + b'","id":7}',
        b'{"type":"ping","id":7,"body":{"' + b"x" * 200_000 + b'":1}}',
        b'{"type":"ping","id":7,"' + b"x" * 200_000 + b'":1}',
    ):
        refused = refusal_of(frame)
        assert len(codec.encode_error(refused.id, 0, refused.rejected)) < 1000


@pytest.mark.bad_input("BI-12")
def test_two_faults_in_one_frame_are_answered_too() -> None:
    for leaf in (b'["\x80",' + b"1" * 17 + b"]", b'["\x80","\\u0000"]', b'["\x80",' + b"[" * 40 + b"]" * 40 + b"]"):
        refused = refusal_of(sent(leaf))
        assert (refused.id, refused.rejected.code) == (7, "malformed")
    refused = refusal_of(b'{"type":"\x80","id":7,"body":' + b"1" * 17 + b"}")
    assert (refused.id, refused.rejected.code) == (7, "malformed")


@pytest.mark.bad_input("BI-09")
def test_the_id_of_garbage_is_looked_for_in_its_first_bytes_only() -> None:
    padding = b" " * codec.LABEL_BYTES
    assert refusal_of(b'{"id":7,"type":NaN}' + padding).id == 7
    assert refusal_of(b'{"type":NaN,' + padding + b'"id":7}').id is None


@pytest.mark.bad_input("BI-10")
def test_brackets_inside_strings_are_no_depth_and_32_levels_are_the_most() -> None:
    most = b"[" * 30 + b"]" * 30
    assert stored_body(sent(b"[" * 29 + b'"\\"[[[[{{{{",' + b'"' + b"[" * 99 + b'"' + b"]" * 29))
    assert stored_body(sent(b"[" + b",".join([b"[]"] * 100) + b"]"))
    assert stored_body(sent(most)) == most
    assert refusal_of(sent(b"[" + most + b"]")).rejected.facts == {"depth_max": 32}


@pytest.mark.bad_input("BI-12")
@pytest.mark.parametrize("text", [b'"\\ud800"', b'"\\ud83dabcdefghijk"', b'"\\uD83D\\ud83d"'])
def test_a_lone_surrogate_is_named_and_a_frame_that_was_cut_is_not_taken_for_one(text: bytes) -> None:
    assert "lone surrogate" in refusal_of(sent(text)).rejected.detail
    assert "truncated" in refusal_of(sent(b'"\\ud83d\\ude00"')[:-2]).rejected.detail


def test_a_near_type_is_named() -> None:
    assert "room.join" in refusal_of(b'{"type":"join","id":7}').rejected.detail


# what is let through is stored as our own bytes


@pytest.mark.bad_input("BI-15")
def test_of_duplicate_keys_the_last_wins_and_is_the_only_one_stored() -> None:
    assert stored_body(sent(b'{"a":1,"b":{"c":1,"c":2},"a":3}')) == b'{"a":3,"b":{"c":2}}'
    assert stored_body(sent(b'"first"', b',"body":"last"')) == b'"last"'
    envelope = b'{"type":"ping","type":"agent.list","id":1,"id":2,"body":{"limit":0},"body":{"limit":5,"limit":6}}'
    request = decode_request(envelope, LIMITS)
    assert (request.id, plain(request.command)) == (2, {"room": None, "limit": 6, "after": None})
    hidden = b'{"type":"agent.list","id":1,"body":{"limit":"x","limit":5}}'
    assert refusal_of(hidden).rejected.code == "bad_request", "what is hidden in a field is of its type too"


@pytest.mark.bad_input("BI-16")
@pytest.mark.parametrize(
    ("body", "stored"),
    [
        (b'{\n  "a" : [ 1 ,\r\n 2 ]\n}', b'{"a":[1,2]}'),
        (b'"\\n{\\"type\\":\\"reply\\",\\"id\\":1}\\n"', b'"\\n{\\"type\\":\\"reply\\",\\"id\\":1}\\n"'),
        (b'"\\u000a\\u000d"', b'"\\n\\r"'),
        (b'"\\u2028\\u2029\\u0085"', '"\u2028\u2029\u0085"'.encode()),
        (b'"\xe2\x80\xa8"', '"\u2028"'.encode()),
        (b'"\\\\u0000"', b'"\\\\u0000"'),
        (b'"\\\\\\\\u0000"', b'"\\\\\\\\u0000"'),
        (b'"\\/\\u0041\\u001b[31m"', b'"/A\\u001b[31m"'),
        (b'"\\ud83d\\ude00"', '"😀"'.encode()),
        (b"9007199254740991", b"9007199254740991"),
        (b"-9007199254740991", b"-9007199254740991"),
        (b"9007199254740993.0", b"9007199254740992.0"),
        (b"1.50", b"1.5"),
        (b"null", b"null"),
        (b"[" * 30 + b"]" * 30, b"[" * 30 + b"]" * 30),
        (b'"' + b"[{" * 100 + b'"', b'"' + b"[{" * 100 + b'"'),
    ],
)
def test_a_body_is_stored_compact_and_on_one_line(body: bytes, stored: bytes) -> None:
    assert stored_body(sent(body)) == stored


@settings(max_examples=300)
@given(value=free_json, indent=st.none() | st.integers(0, 3), ascii_only=st.booleans())
def test_encoding_again_is_a_fixed_point_on_one_line_in_utf8(
    value: object, indent: int | None, ascii_only: bool
) -> None:
    written = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    once = stored_body(sent(written))
    assert stored_body(sent(once)) == once
    assert b"\n" not in once and b"\r" not in once
    assert json.loads(once.decode("utf-8")) == value


@pytest.mark.parametrize("number", [b"1e15", b"1e16", b"1e17", b"1e22", b"1e308", b"5e-324", b"-0.0", b"-0", b"1E+2"])
def test_a_float_that_is_written_otherwise_stays_the_same_number(number: bytes) -> None:
    once = stored_body(sent(number))
    assert float(once) == float(number)
    assert stored_body(sent(once)) == once


@pytest.mark.bad_input("BI-13")
def test_a_body_that_grows_over_the_bound_when_encoded_again_is_too_large() -> None:
    short = b"[" + b",".join([b"1e15"] * 40_000) + b"]"
    assert len(short) > LIMITS.message_bytes_max
    growing = b"[" + b",".join([b"1e15"] * 20_000) + b"]"
    assert len(growing) < LIMITS.message_bytes_max
    refused = refusal_of(sent(growing))
    assert (refused.id, refused.rejected.code) == (7, "too_large")
    assert refused.rejected.facts["message_bytes_max"] == LIMITS.message_bytes_max


@pytest.mark.bad_input("BI-13")
def test_a_body_of_exactly_the_bound_fits_and_one_byte_more_does_not() -> None:
    fits = b'"' + b"x" * (LIMITS.message_bytes_max - 2) + b'"'
    assert stored_body(sent(fits)) == fits
    assert refusal_of(sent(fits[:-1] + b'x"')).rejected.code == "too_large"


def test_the_hash_of_a_payload_does_not_depend_on_how_it_was_written() -> None:
    one = b'{"type":"message.send","id":1,"idem_key":"k","body":{"body":{"a":1},"priority":"normal"}}'
    other = b'{ "idem_key":"k", "id":"x", "body":{"body": {"a" : 1}}, "type":"message.send"}'
    assert decode_request(one, LIMITS).raw == decode_request(other, LIMITS).raw != b""


# mutations

SEEDS = [
    encode_request(7, Ping()),
    encode_request("a", SendMessage(body=msgspec.Raw(b'{"a":[1,2.5,"\\u00e9",null,true]}'), to=("bob",)), "key"),
    b'{"type":"hello","id":1,"body":{"protocol":[1,1],"name":"a/b","ancestors":{"a":"s"},"capabilities":["x"]}}',
    b'{"type":"history.read","id":-1,"body":{"limit":5,"since":"abc:12","text":"\xc3\xa9"}}',
]


@settings(max_examples=1500)
@given(data=st.data())
def test_a_mutated_frame_raises_nothing_but_bad_frame(data: st.DataObject) -> None:
    frame = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame) - 1))
        piece = data.draw(
            st.binary(max_size=2)
            | st.sampled_from([b'"', b"\\", b"{", b"]", b"\\u0000", b"\\ud800", b"1e999", b"1" * 17, b"NaN", b"\xff"])
        )
        frame[at : at + data.draw(st.integers(0, 2))] = piece
    try:
        request = decode_request(bytes(frame), LIMITS)
    except BadFrame as refused:
        assert refused.rejected.code in {"malformed", "unknown_type", "bad_request"}
        assert codec.decode_hub_frame(codec.encode_error(refused.id, 0, refused.rejected)).type == "error"
    else:
        assert plain(request.command) == plain(decode_request(encode_request(1, request.command), LIMITS).command)


@settings(max_examples=200)
@given(frame=st.binary(max_size=64))
def test_noise_raises_nothing_but_bad_frame(frame: bytes) -> None:
    with pytest.raises(BadFrame):
        decode_request(frame, LIMITS)


@given(
    digits=st.integers(0, 20), before=st.integers(0, 9_000), text=st.sampled_from([b"x", b"7x", b"12345 ", b"1234567x"])
)
def test_sixteen_digits_in_a_row_are_found_wherever_they_lie(digits: int, before: int, text: bytes) -> None:
    padding = text * 3_000
    data = b"-" + padding[:before] + b"x" + b"5" * digits + b"x" + padding
    assert codec._has_long_number(data) is (digits >= 16)


@given(st.integers(0, 40), st.integers(0, 40))
def test_opening_brackets_are_counted_together(braces: int, brackets: int) -> None:
    data = b"x{" * braces + b"}y[" * brackets
    assert codec._has_brackets(data, 33) is (braces + brackets >= 33)


@pytest.mark.parametrize("field", ["idem_key", "traceparent", "type"])
def test_a_field_of_the_envelope_that_does_not_fit_is_named_by_its_path(field: str) -> None:
    frame = msgspec.json.encode({"type": "ping", "id": 1, "body": {}, field: 1})
    with pytest.raises(BadFrame) as caught:
        decode_request(frame, LIMITS)
    assert caught.value.rejected.detail.endswith(f" - at `$.{field}`")
