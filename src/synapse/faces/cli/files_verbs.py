"""The verbs of files at the hub, and of held messages."""

from synapse.faces.cli.options import FLAG, Option, Verb

_ALL = Option("operator", FLAG, "", "As operator, all of them.")
_ANY = Option("operator", FLAG, "", "As operator, whoever sent it.")
_CHAIN = Option("chain", FLAG, "", "And all of its chain that are held.")
_AS_OPERATOR = Option("operator", FLAG, "", "As operator.")

FILE_VERBS = (
    Verb("file list", "files", "", (0, 0), "List the files at the hub that are mine, or for me.", _ALL),
    Verb("file withdraw", "files", "FILE", (1, 1), "Let the hub forget a file of mine.", _ANY),
)
HELD_VERBS = (
    Verb("held list", "held", "", (0, 0), "List the messages that the loop guard holds: mine; for people all.", _ALL),
    Verb(
        "held release",
        "held",
        "ID…",
        (1, 64),
        "Deliver held messages as if they were sent now (people).",
        _CHAIN,
        Option("reset", FLAG, "", "As the first of a new chain, with full budgets."),
        _AS_OPERATOR,
    ),
    Verb(
        "held drop",
        "held",
        "ID…",
        (1, 64),
        "Drop held messages; their senders are told (people).",
        _CHAIN,
        _AS_OPERATOR,
    ),
)
