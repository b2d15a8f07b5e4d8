"""`schema`: the JSON Schema of the protocol, generated from its types."""

import json

from synapse.errors import EXIT_OK
from synapse.faces.cli.call import Call
from synapse.faces.cli.render import print_json, print_text
from synapse.protocol.schema import schema_text


def schema(call: Call) -> int:
    """Print it: on one line with --json, else indented. No hub is asked."""
    if call.as_json:
        print_json({**json.loads(schema_text()), "cursor": None})
    else:
        print_text(schema_text().rstrip("\n"))
    return EXIT_OK
