"""One-line faults in the plan and in how it goes with leases."""

from tests.planted.fault import Fault

PLAN, PLANNING, LIFECYCLE = "core/plan.py", "core/planning.py", "core/lifecycle.py"
_TESTS = ("tests/core/test_planning.py",)
_MACHINE = ("tests/core/test_plan_machine.py",)

PLAN_FAULTS = [
    Fault(
        "a task is ready whatever it waits for",
        PLAN,
        "        return self.status == OPEN and not self.unmet",
        "        return self.status == OPEN",
        _MACHINE,
    ),
    Fault(
        "a claim does not move an open task",
        PLAN,
        "        if holders and task.status == OPEN:",
        '        if holders and task.status == "blocked":',
        _MACHINE,
    ),
    Fault(
        "the end of one lease opens a task that is handed on",
        PLAN,
        "        elif not holders and key in ended and task.status in LAPSES:",
        "        elif key in ended and task.status in LAPSES:",
        _MACHINE,
    ),
    Fault(
        "one dependent is not told",
        PLAN,
        "            names += sorted(plan.dependents.get(event.task, ()))",
        "            names += sorted(plan.dependents.get(event.task, ()))[1:]",
        _MACHINE,
    ),
    Fault(
        "an opening is announced twice",
        PLAN,
        "            if task is not None and task.is_ready and not task.is_announced:",
        "            if task is not None and task.is_ready:",
        _TESTS,
    ),
    Fault(
        "an opening after a step is not announced",
        PLAN,
        "            task.moved_at_ms, task.is_announced = recorded.at_ms, False",
        "            task.moved_at_ms = recorded.at_ms",
        _MACHINE,
    ),
    Fault(
        "a dependency that is reopened holds nobody up",
        PLAN,
        "        dependent.unmet += -1 if is_done else 1",
        "        dependent.unmet += -1 if is_done else 0",
        _TESTS,
    ),
    Fault(
        "a dependency that is taken out counts as done",
        PLAN,
        "            if was_done:\n                _tell_dependents(plan, event.task, is_done=False)",
        "            if not was_done:\n                _tell_dependents(plan, event.task, is_done=False)",
        _TESTS,
    ),
    Fault(
        "what failed counts as done",
        PLAN,
        "        return found is not None and found.status == DONE",
        '        return found is not None and found.status in (DONE, "failed")',
        _MACHINE,
    ),
    Fault(
        "a cycle through what is declared anew is not looked for",
        PLAN,
        "plan.count_dependents(start) or len(new) > 1 or start in new[start]",
        "len(new) > 1 or start in new[start]",
        _TESTS,
    ),
    Fault(
        "anybody describes a task anew",
        PLANNING,
        "by.actor not in (old.declared_by, old.suggested_owner)",
        "by.actor is None",
        _TESTS,
    ),
    Fault(
        "only done frees the scope",
        PLANNING,
        "    if command.status not in FREEING or not leases:",
        '    if command.status != "done" or not leases:',
        _MACHINE,
    ),
    Fault(
        "what has ended is picked up without being reopened",
        LIFECYCLE,
        '    "done": ("open",),',
        '    "done": ("open", "in_progress"),',
        _TESTS,
    ),
    Fault(
        "another's epoch will do for a note",
        PLANNING,
        "        if lease is None or (lease.ask.agent != by.agent):",
        "        if lease is None:",
        _TESTS,
    ),
    Fault(
        "a task that is needed is taken out",
        PLANNING,
        "        if state.plan.by_room[room.id].tasks[name].status not in ENDS",
        '        if state.plan.by_room[room.id].tasks[name].status == "review"',
        _TESTS,
    ),
    Fault(
        "nothing follows for the plan",
        "hub/consequences.py",
        '        steps = turns.fold(follow(state, recorded), "hub")',
        "        steps = []",
        _MACHINE,
    ),
]
