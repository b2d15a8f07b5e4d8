"""The verbs of those who look on; `verbs` has them in its table."""

from synapse.faces.cli.options import FLAG, MANY, NUMBER, TEXT, Option, Verb

OBSERVE_VERBS = (
    Verb(
        "ingest",
        "ingest",
        "",
        (0, 0),
        "Print what happened, oldest first, as an object a line: all that I may see and that is kept; with the flag "
        "--room, only there.",
        Option("since", TEXT, "CURSOR", "Only what came after this cursor."),
        Option("kind", MANY, "K", "Only this kind: lease.granted, or lease for all that begin so. Again for more."),
        Option("memory", FLAG, "", "Only what is worth keeping: findings, decisions, answers, checkpoints, hand-offs."),
        Option("follow", FLAG, "", "Then each as it happens."),
        Option("limit", NUMBER, "N", "At most so many."),
    ),
    Verb(
        "relay",
        "relay",
        "",
        (0, 0),
        "Print what a relay file holds, as ingest would, and what is lost of it.",
        Option("file", TEXT, "FILE", "The file; without it, relay.ndjson in the home."),
        Option("since", TEXT, "CURSOR", "Only what came after this cursor."),
        Option("follow", FLAG, "", "Then each as it is written."),
    ),
    Verb(
        "relay write",
        "relay",
        "",
        (0, 0),
        "Mirror what happens, as I may see it, in a compact bounded file for those who tail files.",
        Option("file", TEXT, "FILE", "The file; without it, relay.ndjson in the home."),
        Option("max-bytes", NUMBER, "N", "Begin the next file when one is so long; 8 MiB without it."),
        Option("keep", NUMBER, "N", "Keep so many files; 4 without it."),
        Option("since", TEXT, "CURSOR", "Begin, or go on, at this cursor."),
        Option("channel", MANY, "ROOM:CHANNEL", "Only messages of this channel. Again for more."),
        Option("kind", MANY, "K", "Only this kind, as for ingest. Again for more."),
        Option("memory", FLAG, "", "Only what is worth keeping, as for ingest."),
    ),
)
