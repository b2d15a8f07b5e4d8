"""One-line faults in questions to people."""

from tests.planted.fault import Fault

ASKING, QUESTIONS = "core/asking.py", "core/questions.py"
_TESTS = ("tests/core/test_asking.py",)

QUESTION_FAULTS = [
    Fault(
        "any agent answers",
        ASKING,
        '    by.require_human(f"answering {command.id}")\n',
        "",
        _TESTS,
    ),
    Fault(
        "a second answer counts as the first",
        ASKING,
        "        if question.answer == answer:\n            return []",
        "        if question.answer:\n            return []",
        _TESTS,
    ),
    Fault(
        "an answer resumes what was parked by hand",
        ASKING,
        "if lease.questions == [question.id] and not lease.parked:",
        "if lease.questions == [question.id]:",
        _TESTS,
    ),
    Fault(
        "the first answer of several resumes the lease",
        ASKING,
        "if lease.questions == [question.id] and not lease.parked:",
        "if question.id in lease.questions and not lease.parked:",
        _TESTS,
    ),
    Fault(
        "who holds the task now is not told",
        ASKING,
        "        told += [lease.ask.agent for lease in state.leases.of_task.get(question.key, NO_LEASES).values()]",
        "        pass",
        _TESTS,
    ),
    Fault(
        "a deadline is a moment late",
        ASKING,
        "        if deadline_at_ms > at_ms:\n            break",
        "        if deadline_at_ms >= at_ms:\n            break",
        _TESTS,
    ),
    Fault(
        "a slow turn ends what falls due while it runs",
        "hub/consequences.py",
        "state, at_ms = turns.state, turns.now_at_ms\n    turns.record",
        "state, at_ms = turns.state, turns.clock.wall_ms()\n    turns.record",
        ("tests/hub/test_consequences.py",),
    ),
    Fault(
        "a question outlives its task",
        ASKING,
        "if isinstance(event, TaskMoved) and event.status in ENDS:",
        "if isinstance(event, TaskMoved) and event.status == IN_PROGRESS:",
        _TESTS,
    ),
    Fault(
        "by hand a lease runs on while its question is open",
        "core/holding.py",
        "    if not command.parked and lease.questions:",
        "    if not command.parked and len(lease.questions) > 1:",
        _TESTS,
    ),
    Fault(
        "a hand-off forgets what the lease waits for",
        "core/lease_events.py",
        "                    questions=old.questions,\n",
        "",
        _TESTS,
    ),
    Fault(
        "closed questions count as open",
        QUESTIONS,
        "        _drop(self.of_agent, question.agent, question.id)\n",
        "",
        _TESTS,
    ),
    Fault(
        "an answer wins over a deadline that passed before the tick",
        "hub/turn.py",
        "if deadlines and deadlines[0][0] <= turn.at_ms and not end_questions(self):",
        "if deadlines and deadlines[0][0] <= turn.at_ms - 1_000 and not end_questions(self):",
        ("tests/hub/test_consequences.py",),
    ),
    Fault(
        "of many deadlines some lose to an answer",
        "hub/turn.py",
        "            left = 0  # what is asked waits for the deadlines that passed before",
        "            pass",
        ("tests/hub/test_consequences.py",),
    ),
    Fault(
        "no deadline ends a question",
        "hub/consequences.py",
        "    if turns.is_read_only:\n        return True\n",
        "    if turns.state:\n        return True\n",
        ("tests/hub/test_consequences.py",),
    ),
]
