"""The verbs about tokens; `verbs` has them in its table."""

from synapse.faces.cli.options import SECONDS, TEXT, Option, Verb

TOKEN_VERBS = (
    Verb(
        "token create",
        "tokens",
        "",
        (0, 0),
        "Make a token for somebody else, and print it: once, because the hub keeps only its hash (operator).",
        Option("role", TEXT, "ROLE", "What it allows: observer, agent, human or admin."),
        Option("rooms", TEXT, "ROOM[,ROOM…]", "It sees and touches these rooms only; without it, all."),
        Option("expires", SECONDS, "S", "It ends after so long; without it, when it is revoked."),
        Option("label", TEXT, "WORDS", "What to know it by in the list."),
        Option("out", TEXT, "FILE", "Write it into this new file, mode 0600, and do not print it."),
    ),
    Verb("token list", "tokens", "", (0, 0), "List the tokens, without their secrets (operator)."),
    Verb(
        "token revoke",
        "tokens",
        "ID",
        (1, 1),
        "Let nobody in with this token any more, and close the connections that came with it (operator).",
    ),
)
