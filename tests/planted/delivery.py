"""One-line faults in delivery: dates, priorities, receipts, dead letters."""

from tests.planted.fault import Fault

INBOXES, DEAD, LETTERS = "core/inboxes.py", "core/dead_letters.py", "hub/letters.py"
_DEAD = ("tests/core/test_dead_letters.py",)
_MACHINE = ("tests/core/test_inboxes_machine.py",)
_HUB = ("tests/hub/test_letters.py",)

DELIVERY_FAULTS = [
    Fault(
        "the receipts of an old message end after one look",
        LETTERS,
        "            if found.is_open:\n",
        "            if found.is_open and found.position == seq:\n",
        _HUB,
    ),
    Fault(
        "an answer that is read from disk is of when it is said",
        "hub/disk.py",
        "None if isinstance(result, Rejected) else seq)",
        "None)",
        ("tests/hub/test_session_reads.py",),
    ),
    Fault(
        "a message is handed out at its date",
        INBOXES,
        "return self.expires_at_ms is not None and self.expires_at_ms <= at_ms",
        "return self.expires_at_ms is not None and self.expires_at_ms < at_ms",
        _DEAD,
    ),
    Fault(
        "urgent messages wait behind low ones",
        INBOXES,
        "enumerate(reversed(PRIORITIES))",
        "enumerate(PRIORITIES)",
        _DEAD,
    ),
    Fault(
        "a lend that ends is not offered again",
        INBOXES,
        "        self._put(agent, lend.lane, seq)\n        return True\n",
        "        return True\n",
        ("tests/core/test_inboxes.py", *_MACHINE),
    ),
    Fault(
        "what is dead is offered again when its lend ends",
        INBOXES,
        "        if self._end(agent, seq) is None:\n            self._pull(agent, seq)\n",
        "        if not self.end(agent, seq):\n            self._pull(agent, seq)\n",
        _MACHINE,
    ),
    Fault(
        "dead letters fill an inbox",
        INBOXES,
        "        return len(self.entries) - len(self.dead)\n",
        "        return len(self.entries)\n",
        _DEAD,
    ),
    Fault(
        "the newest of too many dead letters are dropped",
        INBOXES,
        "*(entry.seq for entry, _ in dying)])[:excess]",
        "*(entry.seq for entry, _ in dying)])[-excess:]",
        _DEAD,
    ),
    Fault(
        "what is revived keeps its date",
        INBOXES,
        "False, 0, None, None, None\n",
        "False, 0, None, None, entry.expires_at_ms\n",
        _DEAD,
    ),
    Fault(
        "each lend is told to the sender",
        INBOXES,
        "0 if entry.lends else entry.sender or 0 for",
        "entry.sender or 0 for",
        (*_DEAD, *_HUB),
    ),
    Fault(
        "a start forgets the dates of messages",
        INBOXES,
        "    if entry.expires_at_ms is not None:\n        state.agents.dates.add",
        "    if entry.expires_at_ms is not None and entry.lends < 0:\n        state.agents.dates.add",
        _DEAD,
    ),
    Fault(
        "what the sender takes off its list leaves the inbox of others",
        INBOXES,
        "                disown(state, agent, entry)\n                entry.sender = None\n",
        "                leave(state, agent, message)\n",
        _DEAD,
    ),
    Fault(
        "what is sent anew stays dead where it was",
        DEAD,
        'for event in drops(state, inbox, [seq], "resent")',
        'for event in drops(state, inbox, [], "resent")',
        (*_DEAD, *_HUB),
    ),
    Fault(
        "an unknown id is acked",
        LETTERS,
        "    return never_here(unknown) if unknown else kernel.decide",
        "    return kernel.decide",
        _HUB,
    ),
    Fault(
        "a dropped letter counts as acked",
        LETTERS,
        "            trace.is_dropped, trace.reason = True, event.reason\n",
        "            trace.acked_at_ms = at_ms\n",
        _HUB,
    ),
    Fault(
        "no tick ends a message",
        LETTERS,
        'turns.record(decide_expired(self._state, turns.rules, turns.now_at_ms), "hub")',
        "pass",
        _HUB,
    ),
    Fault(
        "a waiter that is gone can still be woken",
        "core/presence.py",
        "        if record.wakes.pop(connection, 0) and not record.is_wakeable:",
        "        if record.wakes.get(connection, 0) and not record.is_wakeable:",
        _HUB,
    ),
]
