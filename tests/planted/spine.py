"""One-line faults in the journal, the turn, messages, the wire and the client."""

from tests.planted.fault import Fault

TURN = "hub/turn.py"
FEEDS = "hub/feeds.py"
STORE = "journal/store.py"
EVIDENCE = "journal/evidence.py"

_TURN = ("tests/hub/test_turn.py",)
_FEEDS = ("tests/hub/test_feeds.py",)
_STORE = ("tests/journal/test_store.py",)
_RECOVERY = ("tests/journal/test_recovery.py",)
_HTTP = ("tests/hub/test_http.py",)
_CODEC = "tests/protocol/test_codec.py"
_AGENTS = ("tests/core/test_agents.py",)
_INBOXES = ("tests/core/test_inboxes.py",)
_IDEMPOTENCY = ("tests/core/test_idempotency.py",)
_WIRE = ("tests/hub/test_wire.py",)

SPINE_FAULTS = [
    Fault(
        "an idempotency key is the same in every home",
        "core/kernel.py",
        "        raw += _from_home(command, by.home)",
        "        pass",
        _IDEMPOTENCY,
    ),
    Fault(
        "what is committed after bodies went is not synced",
        STORE,
        '                connection.execute("PRAGMA synchronous=FULL")\n',
        "                pass\n",
        ("tests/journal/test_compaction.py",),
    ),
    # the turn: nothing leaves before it is durable, and a failed commit answers nothing
    Fault(
        "answers are released before the commit",
        TURN,
        "        if turn.rows:\n            self._commit(turn)",
        "        if turn.rows:\n            self._release(turn)\n            turn.replies, turn.told = {}, []\n"
        "            self._commit(turn)",
        _TURN,
    ),
    Fault(
        "notices are released before the commit",
        TURN,
        "        if turn.rows:\n            self._commit(turn)",
        "        if turn.rows:\n            replies, turn.replies = turn.replies, {}\n            self._release(turn)\n"
        "            turn.replies, turn.told = replies, []\n            self._commit(turn)",
        _TURN,
    ),
    Fault(
        "a failed commit is answered",
        TURN,
        "                self.on_broken(error)\n                return\n            if was_full:",
        "                self.on_broken(error)\n            if was_full:",
        _TURN,
    ),
    Fault(
        "a full disk does not make the hub read-only",
        "hub/threads.py",
        '            raise StoreFailed(f"{error}, and the reserve is spent; make room and start again") from error\n'
        "        return True",
        '            raise StoreFailed(f"{error}, and the reserve is spent; make room and start again") from error\n'
        "        return False",
        ("tests/hub/test_threads.py", *_TURN),
    ),
    # the journal
    Fault("a commit is not synced", "journal/connection.py", "synchronous=FULL", "synchronous=NORMAL", _STORE),
    Fault(
        "the mark is not moved",
        STORE,
        "        try:\n            self._mark.write(last, prev)\n",
        "        try:\n            pass\n",
        _STORE,
    ),
    Fault("a row's hash is not looked at", EVIDENCE, "if link(prev, row) == chain_hash:", "if True:", _RECOVERY),
    Fault("a head below the mark is believed", EVIDENCE, "if mark.seq > here.seq:", "if mark.seq < 0:", _RECOVERY),
    Fault(
        "what stands at the mark is not compared",
        EVIDENCE,
        "    if hash_at_mark != mark.hash:",
        "    if hash_at_mark is None:",
        _RECOVERY,
    ),
    Fault(
        "the mark's sum is not checked",
        "journal/mark.py",
        "or zlib.crc32(data[:60]) !=",
        "or 0 >",
        ("tests/journal/test_mark.py",),
    ),
    Fault(
        "a missing database is made anew",
        EVIDENCE,
        "    if traces:\n        raise JournalRefused(",
        "    if len(traces) > 9:\n        raise JournalRefused(",
        _RECOVERY,
    ),
    Fault(
        "two hubs may have one home",
        "journal/lock.py",
        "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        ("tests/journal/test_lock.py",),
    ),
    Fault(
        "a snapshot's payload is not compared with its sum",
        "journal/snapshot.py",
        "if len(payload) != header.payload_bytes or sha256(payload).hexdigest() != header.payload_sha256:",
        "if len(payload) != header.payload_bytes:",
        ("tests/journal/test_snapshot.py", *_RECOVERY),
    ),
    Fault(
        "a start counts the events until the next snapshot from itself on",
        "hub/server.py",
        "self._snapshot_at = recovered.state.events - recovered.replayed_events",
        "self._snapshot_at = recovered.state.events",
        ("tests/hub/test_server.py",),
    ),
    Fault(
        "a page of history begins one event early",
        "journal/reader.py",
        '_TOUCHES_UP = "SELECT seq FROM touches WHERE key = ? AND seq > ?',
        '_TOUCHES_UP = "SELECT seq FROM touches WHERE key = ? AND seq >= ?',
        ("tests/journal/test_reader.py", "tests/journal/test_interface.py"),
    ),
    Fault(
        "a line of the index stands for what is behind it only where the page begins before it",
        "journal/reader.py",
        "before = first_of_block(after + 1) - 1",
        "before = after",
        ("tests/journal/test_tasks.py",),
    ),
    Fault(
        "a block that is not complete is said to be indexed",
        "journal/tasks.py",
        "first_of_block(head + 1) - 1, indexed, 0",
        "head, indexed, 0",
        ("tests/journal/test_tasks.py",),
    ),
    # feeds: no gap and no repeat at any seam
    Fault(
        "the gap to the head begins one event early", FEEDS, "if recorded.seq > seq)", "if recorded.seq >= seq)", _FEEDS
    ),
    Fault(
        "recent events are said to reach further back", FEEDS, "self.floor = dropped[-1].seq", "self.floor = 0", _FEEDS
    ),
    Fault(
        "a peer that falls behind goes on from the head",
        FEEDS,
        "                subscription.position = position\n",
        "                subscription.position = self.durable\n",
        _FEEDS,
    ),
    Fault(
        "a page that was full is taken for the last",
        FEEDS,
        "return payloads, upto if is_whole(rows, PAGE_ROWS, bytes_max) else position",
        "return payloads, upto",
        _FEEDS,
    ),
    Fault(
        "a stuck peer's outbox has no bound",
        FEEDS,
        "if connection.is_stuck or wire.buffered() + len(data) > self._outbox_bytes_max * 3 // 4:",
        "if wire.buffered() < 0:",
        ("tests/hub/test_peers.py",),
    ),
    # identity and who may see what
    Fault(
        "any secret will do for a name that is bound",
        "core/agents.py",
        "if command.secret is None or not compare_digest(agent.secret_hash, hash_of(command.secret)):",
        "if command.secret is None:",
        _AGENTS,
    ),
    Fault(
        "any secret will do for the agent above",
        "core/agents.py",
        "if shown_secret is None or not compare_digest(agent.secret_hash, hash_of(shown_secret)):",
        "if shown_secret is None:",
        _AGENTS,
    ),
    Fault(
        "the hub's token is not compared",
        "hub/tokens.py",
        "if compare_digest(secret.encode(), own):",
        "if secret:",
        ("tests/hub/test_greeting.py",),
    ),
    Fault(
        "everybody is an operator who asks for it",
        "hub/tokens.py",
        "if command.operator and not (connection.is_owner if token is None else token.role == ADMIN):",
        "if command.operator and not (token is None or token.role == ADMIN):",
        ("tests/hub/test_greeting.py",),
    ),
    Fault(
        "a direct message is shown to whoever asks",
        "core/messages.py",
        "            if delivery.agent == agent:\n                return shown_sent(",
        "            if delivery.agent:\n                return shown_sent(",
        ("tests/core/test_messages.py", "tests/hub/test_requests.py"),
    ),
    Fault(
        "a foreign page may connect",
        "hub/http.py",
        "if head.origins and not self._is_our_origin(",
        "if head.origins and not (",
        _HTTP,
    ),
    Fault(
        "any Host is ours", "hub/http.py", "if not self._is_our_host(head.hosts[0]):", "if not head.hosts[0]:", _HTTP
    ),
    # inboxes and idempotency
    Fault(
        "a lent message is lent again",
        "core/inboxes.py",
        "                del seqs[at]\n",
        "                pass\n",
        _INBOXES,
    ),
    Fault(
        "a message is lent once too often",
        "core/inboxes.py",
        "if entry is None or entry.dead or entry.lends < rules.limits.lends_max:",
        "if entry is None or entry.dead or entry.lends <= rules.limits.lends_max:",
        _INBOXES,
    ),
    Fault(
        "a lend ends before its time",
        "core/inboxes.py",
        "            if lend.deadline_ms > lease_ms:\n                break",
        "            if lend.deadline_ms - 1_000 > lease_ms:\n                break",
        (*_INBOXES, "tests/hub/test_waiting.py"),
    ),
    Fault(
        "a key with another payload gets the first answer",
        "core/idempotency.py",
        "    if known.hash != payload_hash:\n        raise conflict(known",
        "    if not known.hash:\n        raise conflict(known",
        _IDEMPOTENCY,
    ),
    Fault(
        "a key is forgotten after a day less a second",
        "core/idempotency.py",
        "KEEP_MS: Final = 24 * 3600 * 1000",
        "KEEP_MS: Final = 24 * 3600 * 1000 - 1000",
        _IDEMPOTENCY,
    ),
    # time
    Fault(
        "a stalled hub's lease clock catches up",
        "hub/clock.py",
        "min(passed_ms, STEP_MS_MAX)",
        "passed_ms",
        ("tests/hub/test_clock.py",),
    ),
    # the wire and its bounds
    Fault(
        "frames without a mask are read",
        "hub/wire.py",
        "if not is_masked or length > bound:",
        "if length > bound:",
        _WIRE,
    ),
    Fault(
        "a line may have any length",
        "hub/wire.py",
        "            elif len(line) > bound:",
        "            elif len(line) < 0:",
        _WIRE,
    ),
    Fault(
        "a peer may have any number of requests in flight",
        "hub/peers.py",
        "            connection.in_flight >= self._limits.in_flight_max\n            or waiting >= INBOX_MAX\n",
        "            waiting >= INBOX_MAX\n",
        ("tests/hub/test_peers.py",),
    ),
    Fault(
        "brackets may nest as they like",
        "protocol/codec.py",
        "            if depth > depth_max:",
        "            if depth > depth_max * 99:",
        (f"{_CODEC}::test_a_hostile_leaf_is_malformed_and_the_answer_has_the_id",),
    ),
    Fault(
        "NUL in a name is let through",
        "protocol/codec.py",
        "elif _has_nul(data):",
        "elif not data:",
        (f"{_CODEC}::test_a_nul_is_malformed_in_any_text_of_a_command",),
    ),
    Fault(
        "integers may be longer than a double",
        "protocol/terms.py",
        "Meta(ge=-INT_MAX, le=INT_MAX)",
        "Meta()",
        (f"{_CODEC}::test_an_integer_beyond_a_double_is_malformed_in_any_command",),
    ),
    # the client
    Fault(
        "a feed takes what it has had already",
        "client/subscriptions.py",
        "if not self.is_listening or seq <= self._seq:",
        "if not self.is_listening:",
        ("tests/client/test_subscriptions.py",),
    ),
    Fault(
        "a feed that is full drops what comes",
        "client/subscriptions.py",
        "            self._has_room.clear()\n            self._stirred.set()\n",
        "            self._has_room.clear()\n",
        ("tests/client/test_subscriptions.py",),
    ),
    Fault(
        "the client believes in its lease for as long as the hub",
        "client/leases.py",
        "BELIEF: Final = 0.9",
        "BELIEF: Final = 1.0",
        ("tests/client/test_leases.py",),
    ),
    Fault(
        "another hub is told this one's requests",
        "client/lifeline.py",
        "if known is not None and hub_id != known.hub_id:",
        "if known is None and hub_id == '':",
        ("tests/client/test_lifeline.py",),
    ),
    Fault(
        "requests that were cut off are not sent again",
        "client/calls.py",
        "if not call.is_out]",
        "if not call.was_sent]",
        ("tests/client/test_lifeline.py", "tests/client/test_calls.py"),
    ),
    Fault(
        "a page cut by its bytes is taken for the last one",
        "hub/paging.py",
        "scan.head, _CHUNK, REPLY_BYTES_MAX)\n        is_done = is_whole(rows, _CHUNK, REPLY_BYTES_MAX)",
        "scan.head, _CHUNK, REPLY_BYTES_MAX)\n        is_done = len(rows) < _CHUNK",
        ("tests/hub/test_requests.py",),
    ),
    Fault(
        "catching up ends with a page cut by its bytes",
        FEEDS,
        "upto if is_whole(rows, PAGE_ROWS, bytes_max) else position",
        "upto if len(rows) < PAGE_ROWS else position",
        ("tests/hub/test_feeds.py",),
    ),
    Fault(
        "a proof ends where the walk through the rows does",
        "journal/proof.py",
        "    if seq < upto:\n",
        "    if seq < 0:\n",
        ("tests/journal/test_reader.py",),
    ),
]
