"""One-line faults in the loop guard."""

from tests.planted.fault import Fault

LOOPS = "core/loops.py"
_TESTS = ("tests/core/test_loops.py",)

LOOP_FAULTS = [
    Fault(
        "a circle is never found",
        LOOPS,
        "            if follower in times:\n                times[follower] += 1",
        "            if follower in times:\n                times[follower] += 0",
        _TESTS,
    ),
    Fault(
        "a deep tree is a circle",
        LOOPS,
        "    return any_time if is_open else max(times.values())",
        "    return link.hops",
        _TESTS,
    ),
    Fault(
        "hops are not counted on",
        LOOPS,
        "Link(cause, trace.origin, trace.hops + 1, agent)",
        "Link(cause, trace.origin, 1, agent)",
        _TESTS,
    ),
    Fault(
        "what comes of a held chain is delivered",
        LOOPS,
        "    if link.origin in loops.chains:\n        return CHAIN_HELD\n",
        "",
        _TESTS,
    ),
    Fault(
        "anybody releases what is held",
        LOOPS,
        '        by.require_human("releasing a held message")\n',
        "",
        _TESTS,
    ),
    Fault(
        "who drops a message tells nobody",
        LOOPS,
        "        deliveries=_back(state, held, ahead),",
        "        deliveries=(),",
        _TESTS,
    ),
    Fault(
        "what was released is held still",
        LOOPS,
        "    if link.held is not None:\n        loops.let_go(link.held)\n",
        "",
        ("tests/crash/test_held.py",),
    ),
    Fault(
        "a start forgets the chains",
        "core/state.py",
        "        state.loops.add(seq, Trace(*trace))",
        "        state.loops.add(seq, Trace(trace[0], trace[1], 0, trace[3]))",
        _TESTS,
    ),
]
