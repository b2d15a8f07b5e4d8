"""One-line faults in digests."""

from tests.planted.fault import Fault

CORE, HUB, TEXT = "core/digest.py", "hub/digest.py", "client/digest_text.py"
_HUB = ("tests/hub/test_digest.py",)
_TEXT = ("tests/client/test_digest_text.py",)

DIGEST_FAULTS = [
    Fault(
        "a digest is larger than its budget",
        TEXT,
        "        if found.tokens <= max_tokens:",
        "        if found.tokens <= max_tokens + 1:",
        _TEXT,
    ),
    Fault(
        "tokens are rounded down",
        TEXT,
        "    return -(-len(text) // CHARS_PER_TOKEN)",
        "    return len(text) // CHARS_PER_TOKEN",
        _TEXT,
    ),
    Fault(
        "lines are left out that would fit",
        TEXT,
        "    for count in range(most, -1, -1):",
        "    for count in range(most - 1, -1, -1):",
        _TEXT,
    ),
    Fault(
        "what blocks comes before what is asked",
        TEXT,
        'SECTIONS = ("asked", "blocked", "mine", "rest")',
        'SECTIONS = ("blocked", "asked", "mine", "rest")',
        _TEXT,
    ),
    Fault(
        "what is left out is not told",
        TEXT,
        "    left = total - len(lines)\n",
        "    left = 0\n",
        _TEXT,
    ),
    Fault(
        "words of others are told as they are",
        TEXT,
        '    return safe(" ".join(str(text).split()))',
        "    return safe(str(text))",
        _TEXT,
    ),
    Fault(
        "the cursor is one ahead",
        HUB,
        "        cursor=cursor_of(query.journal_id, query.head),",
        "        cursor=cursor_of(query.journal_id, query.head + 1),",
        _HUB,
    ),
    Fault(
        "the first event since the cursor is not counted",
        HUB,
        "pages.page(tuple(keys), after, query.head, ROWS_COUNTED_MAX, BYTES_COUNTED_MAX)",
        "pages.page(tuple(keys), after + 1, query.head, ROWS_COUNTED_MAX, BYTES_COUNTED_MAX)",
        _HUB,
    ),
    Fault(
        "what came behind the digest's moment is counted",
        HUB,
        "pages.page(tuple(keys), after, query.head, ROWS_COUNTED_MAX, BYTES_COUNTED_MAX)",
        "pages.page(tuple(keys), after, query.head + 9, ROWS_COUNTED_MAX, BYTES_COUNTED_MAX)",
        _HUB,
    ),
    Fault(
        "what I did myself is news to me",
        HUB,
        "            name = None if row.actor == query.by.actor else _name(query, of, row, keys)",
        "            name = _name(query, of, row, keys)",
        _HUB,
    ),
    Fault(
        "a count that met its bound does not say so",
        HUB,
        "is_cut = not is_whole(rows, ROWS_COUNTED_MAX, BYTES_COUNTED_MAX) or",
        "is_cut = not is_whole(rows, ROWS_COUNTED_MAX + 1, BYTES_COUNTED_MAX) or",
        _HUB,
    ),
    Fault(
        "the oldest urgent message comes last",
        HUB,
        "key=lambda ask: (-RANK[ask.priority], ask.at_ms))",
        "key=lambda ask: (-RANK[ask.priority], -ask.at_ms))",
        _HUB,
    ),
    Fault(
        "an offered lease is told twice",
        CORE,
        "and entry.reason != ALL and entry.seq not in told)",
        "and entry.reason != ALL)",
        _HUB,
    ),
    Fault(
        "a task that waits for another is told as free",
        CORE,
        "not in held and not (task.unmet or _is_blocked(task))]",
        "not in held and not _is_blocked(task)]",
        _HUB,
    ),
    Fault(
        "ready tasks are counted as open",
        CORE,
        '        name = "ready" if task.is_ready else task.status',
        "        name = task.status",
        _HUB,
    ),
    Fault(
        "leases of other rooms are counted",
        CORE,
        "        if lease.ask.room == room.id:\n",
        "        if lease.ask.room_name:\n",
        _HUB,
    ),
    Fault(
        "the lease that ends last comes first",
        CORE,
        "key=lambda lease: (_soonest(left[lease.epoch]), lease.epoch)",
        "key=lambda lease: (-_soonest(left[lease.epoch]), lease.epoch)",
        _HUB,
    ),
    Fault(
        "the names with the smallest counts are told",
        CORE,
        "key=lambda item: (-item[1], item[0]))[:NAMES_SHOWN]",
        "key=lambda item: (item[1], item[0]))[:NAMES_SHOWN]",
        _HUB,
    ),
]
