"""The verbs of work sessions and lanes; `verbs` has them in its table."""

from synapse.faces.cli.options import FLAG, MANY, NUMBER, SECONDS, TEXT, Option, Verb

_SESSION = Option("session", TEXT, "ID", "This session (SYNAPSE_SESSION); without it, my latest open one.")
_DISPLAY_NAME = Option("display-name", TEXT, "S", "What people call it.")
_REPO = Option("repo", TEXT, "S", "Where the work is; '' for none.")
_TASK = Option("task", TEXT, "TASK", "The task of the room that it works on; '' for none.")
_SUMMARY = Option("summary", TEXT, "S", "What it is about.")
_METADATA = Option("metadata", TEXT, "JSON", "Anything else, as an object.")
_OPERATOR = Option("operator", FLAG, "", "As operator, whosever it is.")
_OPERATOR_OF = Option("operator", FLAG, "", "As operator, whosever it is; needs --session.")
_IDEM_KEY = Option("idem-key", TEXT, "K", "Do it once, however often this key is used.")
_ARTEFACT = Option("artefact", MANY, "PATH", "A file, kept by its path, size and SHA-256. Again for more.")
_REASON = Option("reason", TEXT, "S", "Why.")
_EPOCH = Option("epoch", NUMBER, "N", "Only under this grant of the session's task.")

SESSION_VERBS = (
    Verb(
        "session start",
        "session",
        "",
        (0, 0),
        "Begin the record of a run, and print its id.",
        _DISPLAY_NAME,
        _REPO,
        _TASK,
        _SUMMARY,
        _METADATA,
        _IDEM_KEY,
    ),
    Verb(
        "session update",
        "session",
        "",
        (0, 0),
        "Append decisions, files and todos to a session, and put other values in place of its fields.",
        _SESSION,
        Option("decision", MANY, "S", "Append a decision. Again for more."),
        Option("file", MANY, "PATH", "Append a file that was touched. Again for more."),
        Option("todo", MANY, "S", "Append what is to be done. Again for more."),
        Option("replace", MANY, "LIST", "Of decisions, files or todos: what is given comes instead of what is there."),
        Option("state", TEXT, "S", "working or waiting_for_input."),
        _DISPLAY_NAME,
        _REPO,
        _TASK,
        _SUMMARY,
        _METADATA,
        Option("resumable-in", SECONDS, "S", "After this time others may go on with its task; 0 for no such date."),
        Option("if-version", TEXT, "N", "Only when that is its version."),
        _OPERATOR_OF,
        _IDEM_KEY,
    ),
    Verb("session beat", "session", "", (0, 0), "Say that the run goes on.", _SESSION),
    Verb(
        "session checkpoint",
        "session",
        "[JSON | -]",
        (0, 1),
        "Keep a snapshot of the run, for me after a crash or for whoever goes on with its task.",
        _SESSION,
        _ARTEFACT,
        Option("lane", TEXT, "ID", "It belongs to this lane."),
        _EPOCH,
        _IDEM_KEY,
    ),
    Verb(
        "session checkpoints",
        "session",
        "[SESSION]",
        (0, 1),
        "Print the checkpoints of a session, newest first; without one, of my latest one.",
        Option("limit", NUMBER, "N", "At most so many; 20 without it."),
    ),
    Verb(
        "session show",
        "session",
        "[SESSION]",
        (0, 1),
        "Show everything about a session; without one, about my latest.",
        Option("agent", TEXT, "NAME", "The latest one of this agent."),
    ),
    Verb(
        "session list",
        "session",
        "",
        (0, 0),
        "List the sessions, the latest first; --room: only its.",
        Option("agent", TEXT, "NAME", "Only those of this agent."),
        Option("state", TEXT, "S", "Only those that are working, waiting_for_input, done, error or offline."),
        Option("resumable", FLAG, "", "Only those whose last checkpoint waits for whoever claims the task."),
    ),
    Verb(
        "session end",
        "session",
        "",
        (0, 0),
        "Say that the run is over.",
        _SESSION,
        Option("state", TEXT, "S", "done, or error; done without it."),
        _REASON,
        _OPERATOR_OF,
        _IDEM_KEY,
    ),
    Verb(
        "lane offer",
        "lane",
        "[AGENT] [CONTEXT | -]",
        (0, 2),
        "Offer work to an agent, out of a session of mine; CONTEXT is JSON that it needs.",
        Option("to", TEXT, "AGENT", "To this agent; then the argument is the context."),
        _SESSION,
        Option("note", TEXT, "S", "What it is, in a few words."),
        Option("task", TEXT, "TASK", "The task; without it, that of the session. My lease on it goes with acceptance."),
        Option("within", SECONDS, "S", "So long it may be accepted; 15m without it."),
        _IDEM_KEY,
    ),
    Verb("lane accept", "lane", "LANE", (1, 1), "Take the work over, with the sender's lease on the task.", _IDEM_KEY),
    Verb("lane decline", "lane", "LANE", (1, 1), "Leave the work with the sender.", _REASON, _IDEM_KEY),
    Verb("lane close", "lane", "LANE", (1, 1), "End a lane, or withdraw its offer.", _REASON, _OPERATOR, _IDEM_KEY),
    Verb(
        "lane send",
        "lane",
        "LANE TEXT | -",
        (2, 2),
        "Write to the other side, JSON as that.",
        _IDEM_KEY,
    ),
    Verb(
        "lane checkpoint",
        "lane",
        "LANE [JSON | -]",
        (1, 2),
        "Keep a snapshot of my session in a lane.",
        _SESSION,
        _ARTEFACT,
        _EPOCH,
        _IDEM_KEY,
    ),
    Verb(
        "lane show",
        "lane",
        "LANE",
        (1, 1),
        "Show a lane with its context, and its messages and checkpoints, newest first.",
        Option("limit", NUMBER, "N", "At most so many of them; 20 without it."),
    ),
    Verb(
        "lane list",
        "lane",
        "",
        (0, 0),
        "List the lanes, the latest first; --room: only its.",
        Option("sender", TEXT, "NAME", "Only those from this agent."),
        Option("receiver", TEXT, "NAME", "Only those to this agent."),
        Option("state", TEXT, "S", "Only those that are offered, accepted, declined, timed_out or closed."),
        Option("session", TEXT, "ID", "Only those out of this session."),
    ),
)
