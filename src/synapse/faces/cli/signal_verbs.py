"""The verbs of what is told and not kept; `verbs` has them in its table."""

from synapse.faces.cli.options import FLAG, NUMBER, TEXT, Option, Verb

EPHEMERAL_OPTIONS = (
    Option("ephemeral", FLAG, "", "What is sent to it is told to who follows it, and not kept."),
    Option("telemetry", FLAG, "", "As --ephemeral, for telemetry events alone."),
)
LISTEN_OPTIONS = (
    Option("telemetry", FLAG, "", "Also telemetry:events; alone, only that."),
    Option("activity", FLAG, "", "Also what agents do; alone, only that."),
)
SIGNAL_VERBS = (
    Verb(
        "telemetry",
        "telemetry",
        "EVENT_TYPE [JSON | -]",
        (1, 2),
        "Send a telemetry event, such as build.finished, to who follows right now; it is not kept.",
        Option(
            "channel",
            TEXT,
            "ROOM:CHANNEL",
            "To this channel; telemetry:events without it. One that is not ephemeral keeps it.",
        ),
        Option("severity", TEXT, "S", "debug, info, warning, error or critical."),
    ),
    Verb(
        "channel recent",
        "telemetry",
        "ROOM:CHANNEL",
        (1, 1),
        "Print the last signals of an ephemeral channel.",
        Option("limit", NUMBER, "N", "At most so many, the oldest first; 100 without it."),
    ),
)
