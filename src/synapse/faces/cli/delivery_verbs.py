"""The verbs about delivery; `verbs` has them in its table."""

from synapse.faces.cli.options import FLAG, MANY, Option, Verb

DELIVERY_VERBS = (
    Verb(
        "dead-letters",
        "dead",
        "",
        (0, 0),
        "List the messages of my inbox that nobody acked in time; send them again, or drop them.",
        Option("sent", FLAG, "", "Those that I sent, instead of those in my inbox."),
        Option("resend", MANY, "ID", "Put it into the inbox again; with --sent, send it anew under a new id."),
        Option("drop", MANY, "ID", "Be done with it; with --sent, only in my list."),
        Option("drop-all", FLAG, "", "Be done with all of them."),
    ),
    Verb("receipts", "dead", "ID", (1, 1), "Show how far a direct message that I sent got, with each recipient."),
)
