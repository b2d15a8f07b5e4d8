"""The verbs of rooms and channels; `verbs` has them in its table."""

from synapse.faces.cli.options import FLAG, TEXT, Option, Verb
from synapse.faces.cli.signal_verbs import EPHEMERAL_OPTIONS

_PRIVATE = Option("private", FLAG, "", "For its members only: nothing of it is there for others.")
_HISTORY = Option("with-history", FLAG, "", "It will also read what was said before it came.")
_TYPE = Option("type", TEXT, "T", "A word that says what it is for.")
_OPERATOR = Option("operator", FLAG, "", "Create as operator, where the hub wants one.")
_AS_OPERATOR = Option("operator", FLAG, "", "As operator, a member or not.")

PLACE_VERBS = (
    Verb("room list", "places", "", (0, 0), "List the rooms."),
    Verb(
        "room create",
        "places",
        "ROOM",
        (1, 1),
        "Create a room with its general channel.",
        _TYPE,
        _PRIVATE,
        _OPERATOR,
    ),
    Verb("room delete", "places", "ROOM", (1, 1), "Delete a room that has no members (operator)."),
    Verb("room info", "places", "ROOM", (1, 1), "Show a room, its channels and members."),
    Verb("room join", "places", "ROOM", (1, 1), "Become a member of a room."),
    Verb("room leave", "places", "ROOM", (1, 1), "Leave a room and its channels."),
    Verb("room members", "places", "ROOM", (1, 1), "List the members of a room."),
    Verb("room invite", "places", "ROOM AGENT", (2, 2), "Ask an agent into a private one.", _HISTORY, _AS_OPERATOR),
    Verb("room kick", "places", "ROOM AGENT", (2, 2), "Put an agent out of a private room.", _AS_OPERATOR),
    Verb("channel list", "places", "", (0, 0), "List the channels; with the flag --room, only its."),
    Verb(
        "channel create",
        "places",
        "ROOM:CHANNEL",
        (1, 1),
        "Create a channel.",
        _TYPE,
        _PRIVATE,
        *EPHEMERAL_OPTIONS,
        _OPERATOR,
    ),
    Verb("channel delete", "places", "ROOM:CHANNEL", (1, 1), "Delete a channel that has no members (operator)."),
    Verb("channel info", "places", "ROOM:CHANNEL", (1, 1), "Show a channel and its members."),
    Verb("channel join", "places", "ROOM:CHANNEL", (1, 1), "Become a member of a channel and its room."),
    Verb("channel leave", "places", "ROOM:CHANNEL", (1, 1), "Leave a channel."),
    Verb("channel members", "places", "ROOM:CHANNEL", (1, 1), "List the members of a channel."),
    Verb(
        "channel invite",
        "places",
        "ROOM:CHANNEL AGENT",
        (2, 2),
        "Ask an agent into a private channel.",
        _HISTORY,
        _AS_OPERATOR,
    ),
    Verb("channel kick", "places", "ROOM:CHANNEL AGENT", (2, 2), "Put an agent out of it.", _AS_OPERATOR),
)
