"""The protocol as one JSON Schema (2020-12), made from the types: what `synapse schema` prints.

`$defs` holds the bodies by class name, `request:TYPE`, `reply:TYPE` (the answer to that request), `notice:TYPE`,
`error`, and the closed lists. The document itself is any frame, of a client or of a hub. Requests admit no field that
is not named here; frames of a hub may say more, because a newer hub of the same version may.
"""

from collections.abc import Iterable, Mapping
from inspect import cleandoc
from typing import Final, TypeAlias

import msgspec

from synapse.protocol.codec import REQUEST_ID_CHARS_MAX, ErrorBody
from synapse.protocol.codes import CLOSES, ERRORS, PROTOCOL_VERSION
from synapse.protocol.commands import COMMANDS
from synapse.protocol.keyed import KEYED
from synapse.protocol.limits import Limits
from synapse.protocol.notices import NOTICES
from synapse.protocol.replies import REPLY_TO
from synapse.protocol.terms import PRIORITIES, STATUSES

Json: TypeAlias = dict[str, object]

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_SEQ: Final[Json] = {"type": "integer", "minimum": 0, "description": "the journal position this frame reflects"}


def schema_text() -> str:
    """The schema as text: deterministic, indented, with a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(schema()), indent=2).decode() + "\n"


def schema() -> Json:
    """The schema as plain data."""
    defs = _bodies()
    defs |= {f"request:{name}": _request(name) for name in COMMANDS}
    defs |= {f"reply:{name}": _reply(name) for name in COMMANDS}
    defs |= {f"notice:{name}": _notice(name) for name in NOTICES}
    defs["error"] = _hub_frame("error", {"id": _ref("request-id-or-null"), "error": _ref("ErrorBody")})
    defs["request-id"] = _request_id()
    defs["request-id-or-null"] = {"oneOf": [_ref("request-id"), {"type": "null"}]}
    defs["error-code"] = _closed_list((code, meaning) for code, (_, meaning) in ERRORS.items())
    defs["close-code"] = _closed_list(CLOSES.items())
    defs["request"] = {"oneOf": [_ref(f"request:{name}") for name in COMMANDS]}
    defs["reply"] = {"anyOf": [_ref(f"reply:{name}") for name in COMMANDS]}
    defs["notice"] = {"oneOf": [_ref(f"notice:{name}") for name in NOTICES]}
    return {
        "$schema": _DIALECT,
        "$id": f"urn:synapse:protocol:{PROTOCOL_VERSION}",
        "title": f"Synapse protocol {PROTOCOL_VERSION}",
        "description": "Any one frame. PROTOCOL.md explains when which one is sent.",
        "oneOf": [_ref("request"), _ref("reply"), _ref("error"), _ref("notice")],
        "$defs": dict(sorted(defs.items())),
    }


def _ref(name: str) -> Json:
    return {"$ref": f"#/$defs/{name}"}


def _bodies() -> Json:
    """Every struct that is a body or part of one, by class name."""
    kinds = [*COMMANDS.values(), *REPLY_TO.values(), *NOTICES.values(), ErrorBody, Limits]
    _, components = msgspec.json.schema_components(kinds, schema_hook=_anything, ref_template="#/$defs/{name}")
    bodies: Json = {name: _cleaned(component) for name, component in components.items()}
    for owner, name, extra in (
        ("SendMessage", "priority", {"enum": list(PRIORITIES)}),
        ("DeclareStatus", "status", {"enum": list(STATUSES)}),
        ("ErrorBody", "code", _ref("error-code")),
        ("Closing", "code", _ref("close-code")),
    ):
        _field(bodies, owner, name).update(extra)
    return bodies


def _anything(kind: type) -> Json:
    """The schema of `object`, the type of a fact: any JSON."""
    assert kind is object, f"no schema for {kind}"
    return {"description": "any JSON"}


def _cleaned(component: Mapping[str, object]) -> Json:
    """One struct, its description without the indentation that some versions of Python leave in a docstring."""
    return {key: cleandoc(value) if isinstance(value, str) else value for key, value in component.items()}


def _field(bodies: Json, owner: str, name: str) -> Json:
    """The schema of one field, to be narrowed in place."""
    body = bodies[owner]
    assert isinstance(body, dict)
    field = body["properties"][name]
    assert isinstance(field, dict)
    return field


def _request_id() -> Json:
    limits = Limits()
    return {
        "description": "chosen by the client, echoed in the answer",
        "oneOf": [
            {"type": "string", "maxLength": REQUEST_ID_CHARS_MAX},
            {"type": "integer", "minimum": -limits.int_max, "maximum": limits.int_max},
        ],
    }


def _request(name: str) -> Json:
    kind = COMMANDS[name]
    needs_body = any(field.required for field in msgspec.structs.fields(kind))
    key: Json = {"type": "string", "minLength": 1, "maxLength": Limits().idem_key_chars_max}
    return {
        "type": "object",
        "properties": {
            "type": {"const": name},
            "id": _ref("request-id"),
            "idem_key": {"oneOf": [key, {"type": "null"}]} if kind in KEYED else {"type": "null"},
            "traceparent": {"type": ["string", "null"], "description": "W3C trace context; ignored when it is none"},
            "body": _ref(kind.__name__),
        },
        "required": ["type", "id", *(["body"] if needs_body else [])],
        "additionalProperties": False,
    }


def _reply(name: str) -> Json:
    body = _ref(REPLY_TO[COMMANDS[name]].__name__)
    frame = _hub_frame("reply", {"id": _ref("request-id"), "body": body})
    properties = frame["properties"]
    assert isinstance(properties, dict)
    properties["replayed"] = {"type": "boolean", "description": "an earlier request with this idem_key had the effect"}
    return frame


def _notice(name: str) -> Json:
    return _hub_frame(name, {"body": _ref(NOTICES[name].__name__)})


def _hub_frame(type_name: str, parts: Json) -> Json:
    """A frame of the hub: its type, the seq, and its parts."""
    return {
        "type": "object",
        "properties": {"type": {"const": type_name}, "seq": _SEQ, **parts},
        "required": ["type", "seq", *parts],
    }


def _closed_list(items: Iterable[tuple[str | int, str]]) -> Json:
    return {"oneOf": [{"const": code, "description": meaning} for code, meaning in items]}
