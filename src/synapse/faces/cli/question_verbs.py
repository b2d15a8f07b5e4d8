"""The verbs about questions to people; `verbs` has them in its table."""

from synapse.faces.cli.options import FLAG, MANY, NUMBER, SECONDS, TEXT, WAIT, Option, Verb

_ONCE = Option("idem-key", TEXT, "K", "Do it once, however often this key is used.")

QUESTION_VERBS = (
    Verb(
        "ask",
        "questions",
        "TITLE [QUESTION | -]",
        (1, 2),
        "Ask people something; the answer comes into my inbox. Exits 3 when nobody will answer, with --wait.",
        Option("context", TEXT, "JSON | -", "What they should know."),
        Option("option", MANY, "TEXT", "An answer that may be given. Again for more."),
        Option("free", FLAG, "", "Another answer than the options may be given too."),
        Option("default", TEXT, "TEXT", "The answer, when nobody answers in time."),
        Option("on-deadline", TEXT, "WHAT", "default, or expire: without an answer; default where there is one."),
        Option("deadline", SECONDS, "S", "So long from now."),
        Option("priority", TEXT, "P", "low, normal, high or urgent, which come first."),
        Option("tag", MANY, "TAG", "A word to find it by. Again for more."),
        Option("task", TEXT, "TASK", "What waits for the answer; my lease on it stands still meanwhile."),
        Option(
            "session",
            TEXT,
            "ID",
            "The work session that asks (SYNAPSE_SESSION); without it, mine that works on --task.",
        ),
        Option("epoch", NUMBER, "N", "Only under this grant (SYNAPSE_EPOCH, for SYNAPSE_TASK); else my latest."),
        Option("wait", WAIT, "S", "Wait for the answer, print it, ack it; 5 at the deadline, its or this one."),
        _ONCE,
    ),
    Verb(
        "questions",
        "questions",
        "",
        (0, 0),
        "List the open questions, urgent ones first, then the oldest; --room: only its.",
        Option("all", FLAG, "", "Also those that are closed."),
        Option("mine", FLAG, "", "Only what I asked."),
        Option("task", TEXT, "TASK", "Only of this task."),
        Option("tag", TEXT, "TAG", "Only with this tag."),
        Option("watch", FLAG, "", "Then each change, as it comes; of all rooms, also those that come, or of --room."),
    ),
    Verb("question show", "questions", "ID", (1, 1), "Show everything about one question."),
    Verb("question withdraw", "questions", "ID", (1, 1), "Take a question of mine back; withdraw ID does it too."),
    Verb(
        "answer",
        "questions",
        "ID [TEXT | -]",
        (1, 2),
        "Answer a question, as a person: with no name set (operator), or with a token of the role human.",
        Option("option", NUMBER, "N", "Instead of TEXT, the option of this number."),
        _ONCE,
    ),
    Verb(
        "dismiss",
        "questions",
        "ID",
        (1, 1),
        "Say that a question gets no answer, as a person; see answer.",
        Option("reason", TEXT, "S", "Why."),
        _ONCE,
    ),
)
