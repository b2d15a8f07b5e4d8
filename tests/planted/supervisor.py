"""One-line faults in the supervisor."""

from tests.planted.fault import Fault

DECIDES, ACTS = "faces/supervisor.py", "faces/supervisor_rounds.py"
_TESTS = ("tests/faces/test_supervisor.py",)

SUPERVISOR_FAULTS = [
    Fault(
        "a stall is told in every round",
        DECIDES,
        "    if not kept.record.done:\n        return _again(board, key, kept)\n    if kept.record.stage == TOLD and",
        "    if kept.record.done:\n        return Step(key, kept.version, new)\n    if kept.record.stage == TOLD and",
        _TESTS,
    ),
    Fault(
        "people are never called about a stall",
        DECIDES,
        "    if kept.record.stage == TOLD and _age_ms",
        "    if kept.record.stage == ESCALATED and _age_ms",
        _TESTS,
    ),
    Fault(
        "people are called about a stall one time too late",
        DECIDES,
        ">= terms.stalled_ms * terms.tries:",
        ">= terms.stalled_ms * (terms.tries + 1):",
        _TESTS,
    ),
    Fault(
        "a stall is told a moment late",
        DECIDES,
        "    if idle_ms < terms.stalled_ms or",
        "    if idle_ms <= terms.stalled_ms or",
        _TESTS,
    ),
    Fault(
        "an orphan is put back once too often",
        DECIDES,
        "        stage=TOLD if tries <= terms.tries else ESCALATED,",
        "        stage=TOLD if tries <= terms.tries + 1 else ESCALATED,",
        _TESTS,
    ),
    Fault(
        "a task that somebody holds is an orphan",
        DECIDES,
        'task.status == "in_progress" and not task.holders and _age_ms',
        'task.status == "in_progress" and _age_ms',
        _TESTS,
    ),
    Fault(
        "what waits in review counts as stalled",
        DECIDES,
        '(not lease.tied if task is None else task.status == "in_progress")',
        "(task is not None or not lease.tied)",
        _TESTS,
    ),
    Fault(
        "a blocked task is told while it waits for others",
        DECIDES,
        'task.status == "blocked" and task.depends_on and not task.unmet',
        'task.status == "blocked" and task.depends_on',
        _TESTS,
    ),
    Fault(
        "who was told is forgotten over a restart of the hub",
        DECIDES,
        "    if kept.record.signs != new.signs:",
        "    if since_at_ms > kept.record.since_at_ms + 5_000:",
        _TESTS,
    ),
    Fault(
        "what somebody else writes about a task is a sign of life of its holder",
        ACTS,
        "            page = await client.progress(lease.task, agent=lease.owner, limit=1, room=room)",
        "            page = await client.progress(lease.task, limit=1, room=room)",
        _TESTS,
    ),
    Fault(
        "a line that came while it looked belongs to the stall before it",
        DECIDES,
        " or board.lines.get(lease.epoch, 0) > board.seq:",
        ":",
        _TESTS,
    ),
    Fault(
        "an orphan is not looked for while the clock is behind",
        DECIDES,
        "kept.record.mark == task.moved_at_ms:\n        return None\n    tries",
        "kept.record.mark >= task.moved_at_ms:\n        return None\n    tries",
        _TESTS,
    ),
    Fault(
        "a clock that is set back makes everything young",
        DECIDES,
        "    return abs(board.now_ms - at_ms)",
        "    return board.now_ms - at_ms",
        _TESTS,
    ),
    Fault(
        "what was begun is not said again",
        DECIDES,
        "    if kept.record.by == board.me or _age_ms(board, kept.record.at_ms) >= TAKEN_OVER_MS:",
        "    if _age_ms(board, kept.record.at_ms) >= 2 * TAKEN_OVER_MS:",
        _TESTS,
    ),
    Fault(
        "what is said again has another key",
        DECIDES,
        '    return f"{PREFIX}{sha256(repr(words).encode()).hexdigest()[:40]}"',
        '    return f"{PREFIX}{sha256(repr((words, object())).encode()).hexdigest()[:40]}"',
        _TESTS,
    ),
    Fault(
        "what people are told has the key of what the room was told",
        DECIDES,
        "record.since_at_ms, record.stage, record.tries, to)",
        "record.since_at_ms, record.tries, to)",
        _TESTS,
    ),
    Fault(
        "what was told of a lease is kept for ever",
        DECIDES,
        "        if record.cause == STALLED and record.mark not in live:",
        "        if record.cause == STALLED and record.mark in live and not record.done:",
        _TESTS,
    ),
    Fault(
        "one supervisor does not look at what another wrote",
        ACTS,
        "ttl=kept_s, if_version=step.version, room=room)",
        "ttl=kept_s, room=room)",
        _TESTS,
    ),
    Fault(
        "a task is put back from who took it meanwhile",
        ACTS,
        '    if now is None or now.status != "in_progress" or others or now.moved_at_ms != record.mark:',
        '    if now is None or now.status != "in_progress":',
        _TESTS,
    ),
    Fault(
        "agents are called in place of people",
        ACTS,
        'if agent.kind == "human"]',
        'if agent.kind != "human"]',
        _TESTS,
    ),
]
