"""The verbs of those who look on; `verbs` has them in its table."""

from synapse.faces.cli.options import FLAG, MANY, NUMBER, TEXT, Option, Verb

OBSERVE_VERBS = (
    Verb(
        "ingest",
        "ingest",
        "",
        (0, 0),
        "Print what happened, oldest first, as an object a line: all that I may see and that is kept.",
        Option("since", TEXT, "CURSOR", "Only what came after this cursor."),
        Option("kind", MANY, "K", "Only this kind: lease.granted, or lease for all that begin so. Again for more."),
        Option("memory", FLAG, "", "Only what is worth keeping: findings, decisions, checkpoints, hand-offs."),
        Option("follow", FLAG, "", "Then each as it happens."),
        Option("limit", NUMBER, "N", "At most so many."),
    ),
)
