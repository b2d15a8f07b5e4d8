"""The generated schema: no drift, and it says yes and no where the codec does."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # the package ships no types
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocol.conftest import LIMITS, structs_of

from synapse.errors import Rejected
from synapse.protocol import codec
from synapse.protocol.codes import CLOSES, ERRORS
from synapse.protocol.commands import COMMANDS, Ping
from synapse.protocol.limits import Limits
from synapse.protocol.notices import NOTICES, Closing
from synapse.protocol.replies import REPLY_TO, Pong
from synapse.protocol.schema import schema_text

COPY = Path(__file__).parents[2] / "docs" / "reference" / "protocol.schema.json"


@cache
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(schema_text())
    return found


@cache
def validator(name: str = "") -> jsonschema.Draft202012Validator:
    """For the whole document, or for one of its definitions."""
    wanted = document() if not name else {**document(), "oneOf": [{"$ref": f"#/$defs/{name}"}]}
    return jsonschema.Draft202012Validator(wanted)


def fits(frame: bytes, name: str = "") -> bool:
    return bool(validator(name).is_valid(json.loads(frame)))


def test_the_copy_in_the_docs_is_what_the_types_say() -> None:
    cure = "run: python -c 'from synapse.protocol.schema import schema_text; print(schema_text(), end=\"\")'"
    assert COPY.read_text(encoding="utf-8") == schema_text(), f"{cure} > {COPY.name}"


def test_the_schema_is_a_schema_and_is_written_the_same_way_twice() -> None:
    jsonschema.Draft202012Validator.check_schema(document())
    assert schema_text() == schema_text()
    assert schema_text().endswith("}\n")


def test_every_reference_has_its_definition() -> None:
    def references(value: object) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if "$ref" in value else set()
            return own.union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    assert references(document()) <= {f"#/$defs/{name}" for name in document()["$defs"]}


def test_every_type_code_and_limit_is_in_the_schema() -> None:
    definitions = document()["$defs"]
    assert {f"request:{name}" for name in COMMANDS} | {f"reply:{name}" for name in COMMANDS} <= definitions.keys()
    assert {f"notice:{name}" for name in NOTICES} <= definitions.keys()
    assert [item["const"] for item in definitions["error-code"]["oneOf"]] == list(ERRORS)
    assert [item["const"] for item in definitions["close-code"]["oneOf"]] == list(CLOSES)
    defaults = {name: field["default"] for name, field in definitions["Limits"]["properties"].items()}
    assert defaults == msgspec.to_builtins(Limits())


@pytest.mark.parametrize("name", COMMANDS)
@settings(max_examples=15)
@given(data=st.data())
def test_the_schema_admits_every_request_that_the_codec_writes(name: str, data: st.DataObject) -> None:
    command = data.draw(structs_of(COMMANDS[name]))
    fields = {"priority": "high"} if name == "message.send" else {"status": "busy"} if name == "agent.declare" else {}
    frame = codec.encode_request(
        data.draw(st.integers(0, 9) | st.just("a")), msgspec.structs.replace(command, **fields)
    )
    assert fits(frame, f"request:{name}")
    assert fits(frame)


@pytest.mark.parametrize("name", COMMANDS)
@settings(max_examples=15)
@given(data=st.data())
def test_the_schema_admits_every_reply(name: str, data: st.DataObject) -> None:
    frame = codec.encode_reply(1, 2, data.draw(structs_of(REPLY_TO[COMMANDS[name]])), replayed=data.draw(st.booleans()))
    assert fits(frame, f"reply:{name}")
    assert fits(frame)


@pytest.mark.parametrize("name", [name for name in NOTICES if name != "closing"])
@settings(max_examples=15)
@given(data=st.data())
def test_the_schema_admits_every_notice(name: str, data: st.DataObject) -> None:
    frame = codec.encode_notice(3, data.draw(structs_of(NOTICES[name])))
    assert fits(frame, f"notice:{name}")
    assert fits(frame)


@pytest.mark.parametrize("code", ERRORS)
def test_the_schema_admits_every_refusal(code: str) -> None:
    assert fits(codec.encode_error(None, 3, Rejected(code, "no", {"a": [1]}, retry_after_ms=5)), "error")


@pytest.mark.parametrize("code", CLOSES)
def test_the_schema_admits_every_goodbye(code: int) -> None:
    assert fits(codec.encode_notice(3, Closing(code=code, reason="")))


BAD = [
    b"[]",
    b"{}",
    b'{"type":"ping"}',
    b'{"type":"ping","id":null}',
    b'{"type":"ping","id":true}',
    b'{"type":"ping","id":1.5}',
    b'{"type":"ping","id":9007199254740992}',
    b'{"type":"ping","id":"' + b"x" * 65 + b'"}',
    b'{"type":"ping","id":1,"seq":1}',
    b'{"type":"ping","id":1,"idem_key":""}',
    b'{"type":"ping","id":1,"idem_key":"' + b"k" * 129 + b'"}',
    b'{"type":"ping","id":1,"body":[]}',
    b'{"type":"ping","id":1,"body":{"x":1}}',
    b'{"type":"pong","id":1}',
    b'{"type":"message.send","id":1}',
    b'{"type":"message.send","id":1,"body":{}}',
    b'{"type":"message.send","id":1,"body":{"body":1,"to":"bob"}}',
    b'{"type":"feed.unsubscribe","id":1,"body":{"subscription":true}}',
    b'{"type":"hello","id":1,"body":{"protocol":[1]}}',
]


@pytest.mark.parametrize("frame", BAD)
def test_schema_and_codec_refuse_the_same_requests(frame: bytes) -> None:
    assert not fits(frame)
    with pytest.raises(codec.BadFrame):
        codec.decode_request(frame, LIMITS)


@pytest.mark.parametrize(
    "frame",
    [
        b'{"type":"error","id":1,"seq":1,"error":{"code":"no_such_code","detail":"","facts":{},"retry_after_ms":null}}',
        b'{"type":"error","id":1,"seq":1,"error":{"code":"limit","detail":""}}',
        b'{"type":"reply","id":1,"body":{"cursor":"a:1"}}',
        b'{"type":"reply","id":1,"seq":-1,"body":{"cursor":"a:1"}}',
        b'{"type":"closing","seq":1,"body":{"code":4999,"reason":""}}',
        b'{"type":"message","seq":1,"body":{"id":"m1"}}',
        b'{"type":"agent.declare","id":1,"body":{"status":"asleep"}}',
        b'{"type":"message.send","id":1,"body":{"body":1,"priority":"asap"}}',
    ],
)
def test_the_schema_refuses_frames_that_no_hub_sends_and_values_that_no_hub_takes(frame: bytes) -> None:
    assert not fits(frame)


def test_a_field_of_tomorrow_is_refused_in_a_request_and_admitted_in_a_frame_of_the_hub() -> None:
    request = json.loads(codec.encode_request(1, Ping()))
    told = json.loads(codec.encode_reply(1, 2, Pong(cursor="a:1")))
    for frame in (request, told):
        frame["body"]["tomorrow"] = frame["tomorrow"] = 1
    assert not fits(json.dumps(request).encode())
    assert fits(json.dumps(told).encode())
