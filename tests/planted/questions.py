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
        "state, at_ms = turns.state, turns.now_at_ms",
        "state, at_ms = turns.state, turns.clock.wall_ms()",
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
        "no tick ends a question",
        "hub/consequences.py",
        '        turns.record(asking.decide_deadline(state, question), "hub")',
        "        pass",
        ("tests/hub/test_consequences.py",),
    ),
]
