"""Compaction beside a running hub: planned in a child, said in a turn, carried out between turns at a pace that nobody
notices.

One at a time, and not before the journal was proved: until then pages come from the rows, and the index is not trusted.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from synapse.core.retention import ages_of, kept_from
from synapse.core.state import State
from synapse.errors import DiskFull, JournalError, Rejected
from synapse.hub.connection import Connection
from synapse.hub.log import log
from synapse.hub.threads import Store
from synapse.journal.compaction import Plan
from synapse.journal.dropping import Dropped
from synapse.protocol.codec import RequestId
from synapse.protocol.commands import CompactJournal
from synapse.protocol.cursor import cursor_of
from synapse.protocol.journal_replies import Compaction, KeptFrom

if TYPE_CHECKING:
    from synapse.hub.turn import Turns

PAUSE_S: Final = 0.016
"""While the hub is in use, nothing is dropped for so long after a step at least: a commit seldom meets one, nor the
checkpoint of what many of them wrote."""
PACE: Final = 5.0
"""And so many times as long as the step took, on a slow disk."""
PAUSE_S_MAX: Final = 0.5
IN_USE_S: Final = 1.0
"""A hub that journalled something within this time is in use."""
STEPS_PER_MAINTENANCE: Final = 16
EVERY_MS: Final = 24 * 3600 * 1000
"""How often the hub compacts by itself, when its settings say what may go."""
FIRST_MS: Final = 10 * 60 * 1000
"""How long after a start at the earliest."""
KEPT_MAX: Final = 500
"""So many names fit into an answer."""


class Retention:
    """The compactions of one `Turns`. keep: the settings' retention. is_proved: every row was read since the start.
    is_saying: a compaction is in the state, and not durable yet.

    Everything here runs on the loop's thread.
    """

    def __init__(self, turns: "Turns", store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self.keep: Mapping[str, int] = {}
        self.is_proved = False
        self.is_running = False
        self.is_saying = False
        self._turns = turns
        self._store = store
        self._loop = loop
        self._next_ms = turns.clock.monotonic_ms() + FIRST_MS
        self._asker: tuple[Connection, RequestId] | None = None
        self._seq = 0
        self._steps = 0
        self._dropped = (0, 0)
        self._used = (0, 0.0)  # the head, and since when it is that

    def ask(self, connection: Connection, request_id: RequestId, command: CompactJournal) -> None:
        """Begin what an operator asks for; the answer comes when all is done. Raises `Rejected`."""
        connection.by.require_operator("compacting the journal")
        ages_of(self._turns.state, command.keep, must_exist=True)
        self._begin({**self.keep, **command.keep}, (connection, request_id), is_dry=command.dry_run)

    def tick(self) -> None:
        """Once a day, when the settings name a retention."""
        turns = self._turns
        if not self.keep or self.is_running or turns.clock.monotonic_ms() < self._next_ms:
            return
        since_ms = turns.clock.wall_ms() - turns.state.retention.at_ms
        if 0 <= since_ms < EVERY_MS:  # an earlier process did it
            self._next_ms = turns.clock.monotonic_ms() + EVERY_MS - since_ms
            return
        try:
            self._begin(dict(self.keep), None, is_dry=False)
        except Rejected as refusal:
            log("journal.not_compacted", refusal.detail, level=logging.WARNING)
            self._next_ms = turns.clock.monotonic_ms() + FIRST_MS
            return
        self._next_ms = turns.clock.monotonic_ms() + EVERY_MS

    def _begin(self, keep: dict[str, int], asker: tuple[Connection, RequestId] | None, *, is_dry: bool) -> None:
        turns = self._turns
        if self.is_running:
            raise Rejected("limit", "a journal compact is under way; try again when it has ended", retry_after_ms=1000)
        keeper = self._store.keeper
        if keeper is None:
            raise Rejected("unsupported", "this hub keeps its journal in memory")
        if keeper.is_verifying:
            raise Rejected("limit", "a journal verify is under way; try again when it has ended", retry_after_ms=1000)
        if not self.is_proved:
            raise Rejected(
                "limit",
                "the journal is still being proved since the start; try again when that has ended",
                {"verified_through": turns.verified_through},
                retry_after_ms=1000,
            )
        if turns.is_read_only and not is_dry:
            raise Rejected("read_only", "the disk is full: nothing is dropped, which needs some room itself")

        def planned(found: Plan | Rejected) -> None:
            if isinstance(found, Rejected) or is_dry or not found.is_due:
                self._end(found, is_dry=is_dry)
            else:
                turns.put(None, lambda: self._say(found))

        self.is_running, self._asker = True, asker
        try:
            keeper.compact(keep, turns.clock.wall_ms(), planned, dry_run=is_dry)
        except Rejected:
            self.is_running, self._asker = False, None
            raise

    def _say(self, found: Plan) -> None:
        """The event, in a turn; when it is durable, the bodies go."""
        actor = "hub" if self._asker is None else "operator"
        try:
            self._turns.record([found.compaction], actor)
        except Rejected as refusal:  # the disk is full
            self._end(refusal, is_dry=False)
            return
        self.is_saying = True
        self._seq, self._steps, self._dropped = self._turns.log.base, 0, (0, 0)
        self._turns.after_release(self._said)
        self._turns.after_release(lambda: self._drop(found))

    def _said(self) -> None:
        self.is_saying = False

    def _drop(self, found: Plan) -> None:
        """The next step, on the writer's thread."""
        turns, rule = self._turns, found.rule
        if turns.broken is not None:
            return
        if self._seq >= rule.upto:
            end = turns.log.end_drop
            self._store.writer.submit(lambda: end(found.compaction), lambda _, error: self._dropped_all(found, error))
            return
        began_s, after = self._loop.time(), self._seq
        self._steps += 1
        is_maintaining = self._steps % STEPS_PER_MAINTENANCE == 0

        def step() -> Dropped:
            done = turns.log.drop(rule, after)
            if is_maintaining:
                turns.log.maintain()
            return done

        def done(result: Dropped | None, error: JournalError | None) -> None:
            if isinstance(error, DiskFull):
                self._end(Rejected("read_only", f"{error}; the rest goes with the next compaction"), is_dry=False)
                return
            if error is not None:
                turns.on_broken(error)
                return
            assert result is not None
            self._seq = result.seq
            self._dropped = (self._dropped[0] + result.rows, self._dropped[1] + result.bytes)
            self._loop.call_later(self._pause_s(began_s) if result.rows else 0.0, self._drop, found)

        self._store.writer.submit(step, done)

    def _pause_s(self, began_s: float) -> float:
        """How long nothing is dropped after the step that began then."""
        now_s, head = self._loop.time(), self._turns.state.seq
        if head != self._used[0]:
            self._used = (head, now_s)
        if now_s - self._used[1] >= IN_USE_S:
            return 0.0
        return min(max(PAUSE_S, PACE * (now_s - began_s)), PAUSE_S_MAX)

    def _dropped_all(self, found: Plan, error: JournalError | None) -> None:
        if error is not None:
            self._turns.on_broken(error)
            return
        self._end(found, is_dry=False)

    def _end(self, found: Plan | Rejected, *, is_dry: bool) -> None:
        self.is_running = False
        asker, self._asker = self._asker, None
        if isinstance(found, Rejected):
            log("journal.not_compacted", found.detail, level=logging.WARNING)
        elif not is_dry and found.is_due:
            rows, size = self._dropped
            log("journal.compacted", "compacted", upto=found.compaction.upto, rows=rows, bytes=size)
        if asker is not None:
            answer = found if isinstance(found, Rejected) else compaction_of(self._turns.state, found, is_dry=is_dry)
            self._turns.say_later(*asker, answer)


def compaction_of(state: State, found: Plan, *, is_dry: bool) -> Compaction:
    """The answer to an operator."""
    event, journal_id = found.compaction, state.journal_id
    kept = kept_from(state, event.floors)
    return Compaction(
        journal_id=journal_id,
        upto=event.upto,
        rows=event.rows,
        bytes=event.bytes,
        kept=tuple(KeptFrom(name=name, first_kept=cursor_of(journal_id, seq)) for name, seq in kept[:KEPT_MAX]),
        more=max(len(kept) - KEPT_MAX, 0),
        dry_run=is_dry,
        cursor=cursor_of(journal_id, state.seq),
    )
