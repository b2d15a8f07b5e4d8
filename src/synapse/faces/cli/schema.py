"""`schema`: the JSON Schema of the protocol, generated from its types."""

import msgspec

from synapse.errors import EXIT_OK
from synapse.faces.cli.call import Call
from synapse.faces.cli.render import print_json, print_text
from synapse.protocol.codec import REQUEST_ID_CHARS_MAX, ErrorFrame
from synapse.protocol.codes import CLOSES, ERRORS, PROTOCOL_VERSION
from synapse.protocol.commands import COMMANDS
from synapse.protocol.notices import NOTICES
from synapse.protocol.replies import REPLY_TO

TYPE_CHECKING = False  # as everywhere in this room
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]


_REQUEST: "Json" = {
    # by hand, because msgspec gives no schema for the raw default of Envelope.body; a test compares the fields
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "id": {"anyOf": [{"type": "string", "maxLength": REQUEST_ID_CHARS_MAX}, {"type": "integer"}]},
        "body": {"type": "object", "default": {}},
        "idem_key": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
    },
    "required": ["type", "id"],
    "additionalProperties": False,
}


def schema(call: Call) -> int:
    """Print it: on one line with --json, else indented. No hub is asked."""
    document = protocol_schema()
    if call.as_json:
        print_json(document)
    else:
        print_text(msgspec.json.format(msgspec.json.encode(document)).decode())
    return EXIT_OK


def protocol_schema() -> "Json":
    """Schemas of every command, reply and notice by wire type, of both frames, and the closed lists of codes."""
    replies = {kind: REPLY_TO[command] for kind, command in COMMANDS.items()}
    types = [*COMMANDS.values(), *replies.values(), *NOTICES.values(), ErrorFrame]
    references, definitions = msgspec.json.schema_components(types, schema_hook=_schema_of)
    found = iter(references)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Synapse protocol",
        "version": PROTOCOL_VERSION,
        "commands": {kind: next(found) for kind in COMMANDS},
        "replies": {kind: next(found) for kind in replies},
        "notices": {kind: next(found) for kind in NOTICES},
        "frames": {"request": _REQUEST, "error": next(found)},
        "errors": {code: {"exit_code": exit_code, "meaning": meaning} for code, (exit_code, meaning) in ERRORS.items()},
        "closes": {str(code): meaning for code, meaning in CLOSES.items()},
        "cursor": None,
        "$defs": definitions,
    }


def _schema_of(kind: type) -> "Json":
    """The schema of what msgspec has none for: free JSON."""
    assert kind is object, f"{kind} has no schema"
    return {"description": "any JSON"}
