"""One-line faults that an hour of the simulation finds."""

from tests.planted.fault import Fault

ASKING, LANES = "core/asking.py", "core/lanes.py"
RETENTION = "core/retention.py"
INBOXES, REFUSALS = "core/inboxes.py", "core/refusals.py"
DIGEST, COUNTING = "core/digest.py", "hub/digest.py"
DECIDES, ACTS = "faces/supervisor.py", "faces/supervisor_rounds.py"
_TESTS = ("tests/simulation/test_simulation.py::test_an_hour_of_fifty_agents_breaks_no_promise",)
_STALLS = ("tests/faces/test_supervisor.py",)
_JOINED = ("tests/hub/test_effects.py",)
"""Of what that hour does not meet; other seeds do."""

SIMULATED_FAULTS = [
    Fault(
        "who asked is not told of the answer",
        ASKING,
        "    told = [question.agent]\n",
        "    told: list[int] = []\n",
        _TESTS,
    ),
    Fault(
        "a default is the answer although nobody agreed to that",
        ASKING,
        "    if question.on_deadline == DEFAULT:\n        assert question.default is not None",
        "    if question.default is not None:\n        assert question.default is not None",
        _TESTS,
    ),
    Fault(
        "a lease stands still for twice the ceiling",
        "hub/leasing.py",
        "                soft.untie(event.epoch)\n"
        "                soft.arm(event.epoch, lease_ms + self._limits.parked_ms_max, PARKED)",
        "                soft.untie(event.epoch)\n"
        "                soft.arm(event.epoch, lease_ms + 2 * self._limits.parked_ms_max, PARKED)",
        _TESTS,
    ),
    Fault(
        "a checkpoint has the number of the one before",
        "core/session_changes.py",
        "            n=session.points + 1,",
        "            n=session.points or 1,",
        _TESTS,
    ),
    Fault(
        "what an operator took away is not offered to who goes on",
        "core/resuming.py",
        "            case LeaseExpired() | LeaseRevoked():",
        "            case LeaseExpired():",
        _TESTS,
    ),
    Fault(
        "a lane is accepted after it was declined",
        LANES,
        "    DECLINED: (CLOSED,),",
        "    DECLINED: (ACCEPTED, CLOSED),",
        _TESTS,
    ),
    Fault(
        "who closes a lane is told, and the other side is not",
        LANES,
        "    others = tuple(side for side in (lane.sender, lane.receiver) if side != by.agent)",
        "    others = tuple(side for side in (lane.sender, lane.receiver) if side == by.agent)",
        _TESTS,
    ),
    Fault(
        "the least urgent message goes first",
        INBOXES,
        "for rank, priority in enumerate(reversed(PRIORITIES))}",
        "for rank, priority in enumerate(PRIORITIES)}",
        _TESTS,
    ),
    Fault(
        "a message outlives its date",
        INBOXES,
        "while self.heap and self.heap[0][0] <= at_ms and most > 0:",
        "while self.heap and self.heap[0][0] <= at_ms - 200_000 and most > 0:",
        _TESTS,
    ),
    Fault(
        "who sent a message gets no receipt of its lend",
        INBOXES,
        "0 if entry.lends else entry.sender or 0 for",
        "0 for",
        _TESTS,
    ),
    Fault(
        "who leaves a role keeps what it was lent",
        "hub/requests.py",
        "            if lend.agent == role:\n",
        "            if lend.agent != role:\n",
        _TESTS,
    ),
    Fault(
        "a subscription is lent one message more than it takes",
        "hub/takes.py",
        "        return max(0, waiter.most - len(held))\n",
        "        return max(0, waiter.most + 1 - len(held))\n",
        _TESTS,
    ),
    Fault(
        "a letter that is revived is not lent for the first time",
        INBOXES,
        "entry.expires_at_ms = False, 0, None, None, None\n",
        "entry.expires_at_ms = False, 1, None, None, None\n",
        _TESTS,
    ),
    Fault(
        "a refusal names who holds a path in secret",
        REFUSALS,
        "    if room is None or ask.agent == by.agent or may_see(room, by):\n",
        "    if room is not None:\n",
        _TESTS,
    ),
    Fault(
        "a list of leases names those of private rooms",
        "core/lease_answers.py",
        "        if may_see(state.rooms.by_id[lease.ask.room], by)\n",
        "        if lease.ask.room\n",
        _TESTS,
    ),
    Fault(
        "who follows leases hears of those in private rooms",
        "core/topics.py",
        "for room in rooms if may_see(room, by))]",
        "for room in rooms)]",
        _TESTS,
    ),
    Fault(
        "a digest counts what is said in a private channel",
        DIGEST,
        "in state.rooms.in_room[room.id].items() if may_see_channel(state, it, by)]",
        "in state.rooms.in_room[room.id].items()]",
        _TESTS,
    ),
    Fault(
        "a digest names who holds a path in secret",
        DIGEST,
        'yield _need(state, masked(state, found.ask, by), "held", found, by)',
        'yield _need(state, found.ask, "held", found, by)',
        ("tests/hub/test_digest.py", *_TESTS),
    ),
    Fault(
        "a digest does not mark what came since the last one",
        COUNTING,
        "is_new=query.after is not None and entry.seq > query.after)",
        "is_new=query.after is not None and entry.seq > query.head)",
        _TESTS,
    ),
    Fault(
        "a digest counts from one event too late",
        COUNTING,
        "pages.page(tuple(keys), after, query.head, ROWS_COUNTED_MAX, BYTES_COUNTED_MAX)",
        "pages.page(tuple(keys), after + 1, query.head, ROWS_COUNTED_MAX, BYTES_COUNTED_MAX)",
        _TESTS,
    ),
    Fault(
        "a digest is as of one event later than it says",
        COUNTING,
        "        cursor=cursor_of(query.journal_id, query.head),",
        "        cursor=cursor_of(query.journal_id, query.head + 1),",
        _TESTS,
    ),
    Fault(
        "a supervisor knows a stall by the time at which the hub began to count",
        DECIDES,
        "    if kept.record.signs != new.signs or kept.record.line < new.line:",
        "    if since_at_ms > kept.record.since_at_ms + 5_000:",
        _STALLS,
    ),
    Fault(
        "a supervisor does not find an orphan while the clock is behind",
        DECIDES,
        "kept.record.mark == task.moved_at_ms:\n        return None\n    tries",
        "kept.record.mark >= task.moved_at_ms:\n        return None\n    tries",
        _TESTS,
    ),
    Fault(
        "a supervisor remembers what it was about to say as said",
        ACTS,
        "    done = await _act(client, room, record)\n",
        "    done: list[Done] = []\n",
        _TESTS,
    ),
    Fault(
        "a supervisor forgets no lease that ended",
        DECIDES,
        "        if record.cause == STALLED and record.mark not in live:",
        "        if record.cause == STALLED and record.mark in live and not record.done:",
        _TESTS,
    ),
    Fault(
        "a compaction forgets what stands behind a key",
        "core/retention.py",
        "        yield from range(remembered.seq, remembered.seq + remembered.count)\n",
        "        yield from range(remembered.seq + 1, remembered.seq + remembered.count)\n",
        _TESTS,
    ),
    Fault(
        "questions are not compacted",
        "core/retention.py",
        '    "question": QUESTIONS,\n',
        "",
        _TESTS,
    ),
    Fault(
        "a floor is one too low",
        "core/retention.py",
        "                self.floors[name] = max(seq, self.floors.get(name, 0))",
        "                self.floors[name] = max(seq - 1, self.floors.get(name, 0))",
        _TESTS,
    ),
    Fault(
        "a feed begins in what is not kept",
        "core/retention.py",
        "    if since < floor:\n",
        "    if since < 0:\n",
        _TESTS,
    ),
    Fault(
        "who comes into a private room is not told of its leases",
        "hub/feeds.py",
        "                may_see = lease_keys(self._state, connection.by) if subscription.has_leases else []\n",
        "                may_see: list[str] = []\n",
        _JOINED,
    ),
    Fault(
        "offers of lanes that are there may be dropped",
        RETENTION,
        "    yield from state.lanes.by_id\n",
        "",
        _TESTS,
    ),
    Fault(
        "the last checkpoint of a session may be dropped",
        RETENTION,
        "            yield session.last.seq\n",
        "            yield from ()\n",
        _TESTS,
    ),
    Fault(
        "nobody is told what is gone of a lane",
        RETENTION,
        '            if not key.startswith(("ag/", "ak/", "fi/")):',
        '            if not key.startswith(("ag/", "ak/", "fi/", "la/")):',
        _TESTS,
    ),
    Fault(
        "bodies go before it is durable that they may",
        "hub/retention.py",
        "        self._turns.after_release(lambda: self._drop(found))",
        "        self._drop(found)",
        _TESTS,
    ),
    Fault(
        "a compaction forgets what went before",
        RETENTION,
        "        self.floors = dict(before.floors)\n",
        "        self.floors: dict[str, int] = {}\n",
        _TESTS,
    ),
    Fault(
        "a file that was received stays where it is",
        "core/files.py",
        '        return [received, FileEnded(file=file.id, reason="received")]\n',
        "        return [received]\n",
        _TESTS,
    ),
    Fault(
        "the digests of a file are read from the first page alone",
        "client/chunks.py",
        '        after = shown.get("next")\n',
        "        after = None\n",
        _TESTS,
    ),
]
