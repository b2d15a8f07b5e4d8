"""The turn: requests that gathered are decided and applied, their events committed at once, their answers released.

    inbox -> decide, apply -> one transaction -> release: replies and notices in seq order, one write per connection

Nothing leaves before what it reflects is durable, reads included: while a commit is in flight no command is decided,
the inbox fills, and the next turn takes what has gathered, and what can be read by then. There is no timed commit
window.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from synapse.core import kernel
from synapse.core.answers import QUERIES, answer, look
from synapse.core.by import Rules
from synapse.core.delivery_events import RECEIPTS
from synapse.core.events import (
    ChannelCreated,
    Event,
    LeaseQueued,
    MessageHeld,
    MessagePosted,
    MessageSent,
    MessagesLent,
    Recorded,
    to_row,
)
from synapse.core.held_events import HeldDropped, HeldReleased
from synapse.core.idempotency import find
from synapse.core.kernel import MUTATIONS, REPEATABLE, payload_hash, record, stamp
from synapse.core.lane_events import LANE_EVENTS
from synapse.core.lease_events import LEASE_EVENTS
from synapse.core.plan_events import PLAN_EVENTS
from synapse.core.question_events import QUESTION_EVENTS
from synapse.core.room_events import MEMBER_EVENTS
from synapse.core.session_events import SESSION_MAIL
from synapse.core.state import State
from synapse.core.value_events import VALUE_EVENTS
from synapse.errors import JournalError, Rejected
from synapse.hub.activity import spot_of
from synapse.hub.clock import Clock, LeaseClock, WallWatch
from synapse.hub.connection import Connection
from synapse.hub.consequences import end_questions, follow_up
from synapse.hub.disk import Disk
from synapse.hub.effects import pass_time, take_effect
from synapse.hub.feeds import Feeds, event_at
from synapse.hub.greeting import greet
from synapse.hub.leasing import Leasing
from synapse.hub.letters import LOOKED_UP, Decide, Letters
from synapse.hub.observed import observe_commit, observe_refusal
from synapse.hub.peers import INBOX_MAX, Peers
from synapse.hub.requests import Requests
from synapse.hub.retention import Retention
from synapse.hub.signals import OK, Signals
from synapse.hub.space import SPACE_NEEDED, Space
from synapse.hub.takes import Takes
from synapse.hub.threads import Store, commit
from synapse.hub.waiting import Waiting
from synapse.hub.whereabouts import Whereabouts
from synapse.hub.work import Totals, Turn, Work
from synapse.protocol.codec import Request, RequestId, encode_error, encode_reply
from synapse.protocol.codes import CLOSE_REVOKED
from synapse.protocol.commands import ClaimLease, Hello, IdentifyHub, ReleaseLease, RenewLease, SendMessage, TakeInbox
from synapse.protocol.replies import Reply, Status
from synapse.protocol.session import Phase, Refusal

TOLD: Final = (
    frozenset({MessagePosted, MessageSent, MessageHeld, HeldDropped, HeldReleased})
    | RECEIPTS
    | LEASE_EVENTS
    | VALUE_EVENTS
    | PLAN_EVENTS
    | QUESTION_EVENTS
    | MEMBER_EVENTS
    | SESSION_MAIL
    | LANE_EVENTS
)
"""Events of which followers are told."""
TURN_REQUESTS_MAX: Final = 512
TURN_BYTES_MAX: Final = 4 * 1024 * 1024 - 512 * 1024
"""A turn stops taking requests here; with one more it stays below the 4 MiB that the reserve must hold."""
SATING_BYTES: Final = 16 * 1024
"""An answer of this size is the last one of its turn to its connection: the next one waits until this one is on its
way, so that what is held for a peer does not grow with the number of such answers it asks for at once."""
WEIGHED_BYTES: Final = 1024
"""Answers up to this size are not counted: all that one connection may have in flight are not much."""
COMMITS_PER_MAINTENANCE: Final = 16
"""How often the writer looks whether its WAL is due for a checkpoint."""
RETRY_SPACE_MS: Final = 1_000
"""How often a read-only hub tries to write its reserve again."""

_OPEN: Final = Phase.OPEN
_CLOSED: Final = Phase.CLOSED
# Looked up once: they are asked for at each request, and before Python 3.12 each look-up costs 0.1 µs.


class Turns:
    """The heart of the hub. Everything here runs on the loop's thread."""

    def __init__(
        self,
        *,
        state: State,
        rules: Rules,
        store: Store,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        token: str,
        version: str,
        fatal: Callable[[JournalError], None],
    ) -> None:
        log, pages = store.log, store.pages
        self.state = state
        self.rules = rules
        self.log = log
        self.pages = pages
        self.clock = clock
        self.lease_clock = LeaseClock(clock)
        self.wall_watch = WallWatch(clock)
        self.totals = Totals(clock.monotonic_ms())
        self.of_agent: dict[str, dict[Connection, None]] = {}
        self.is_read_only = log.is_read_only
        self.broken: JournalError | None = None
        self.version = version
        self.verified_through = log.base
        self.events_at_start = 0
        self.peers = Peers(self, rules.limits, clock, self._let_go)
        self.waiting = Waiting(self)
        self.whereabouts = Whereabouts(self, loop)
        self.disk = Disk(self, store.reader, pages, rules.limits)
        self.leasing = Leasing(self)
        self.space = Space(self, store.writer)
        self.requests = Requests(self, store.keeper)
        self.takes = Takes(self)
        self.letters = Letters(self)
        self.retention = Retention(self, store, loop)
        self.signals = Signals(self)
        self.feeds = Feeds(
            state,
            pages,
            self.disk.submit,
            head=log.head,
            outbox_bytes_max=rules.limits.outbox_bytes_max,
            broken=self.on_broken,
            soon=loop.call_soon,
            ended=self.signals.forget,
        )
        self._inbox: deque[tuple[Connection | None, Work]] = deque()
        self._loop = loop
        self._writer = store.writer
        self.token = token.encode()
        self._fatal = fatal
        self._turn = Turn()
        self._is_scheduled = False
        self.is_committing = False
        self._commit_since_ms = 0
        self._idle: asyncio.Future[None] | None = None

    def begin(self) -> None:
        """The start's own events are durable: followers begin behind them."""
        self.is_read_only = self.log.is_read_only
        self.feeds.durable = self.feeds.recent.floor = self.state.seq
        self.events_at_start = self.state.events
        self.state.soft.signals.since_at_ms = self.clock.wall_ms()
        self.leasing.begin()

    @property
    def waiting_for_turn(self) -> int:
        """How many requests wait for a turn."""
        return len(self._inbox)

    def status(self) -> Status:
        """The hub in one object."""
        return self.requests.status()

    def put(self, connection: Connection | None, work: Work) -> int:
        """Queue something for the next turn; how much is queued then."""
        self._inbox.append((connection, work))
        self._schedule()
        return len(self._inbox)

    def put_all(self, connection: Connection, works: Iterable[Work]) -> int:
        """As `put` for each."""
        self._inbox.extend([(connection, work) for work in works])
        self._schedule()
        return len(self._inbox)

    def put_first(self, connection: Connection, requests: Sequence[Request]) -> None:
        """Queue requests that were heard before everything of this connection that is queued now."""
        self._inbox.extendleft((connection, request) for request in reversed(requests))
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled and not self.is_committing:
            self._is_scheduled = True
            self._loop.call_soon(self._run)

    def _let_go(self, connection: Connection) -> None:
        self.waiting.drop(connection)
        self.leasing.drop(connection)
        if connection.agent is None:
            return
        others = self.of_agent.get(connection.agent)
        if others is not None:
            others.pop(connection, None)
            if not others:
                del self.of_agent[connection.agent]
        agent = connection.by.agent
        if agent in self.state.agents.by_id:
            assert agent is not None
            self.state.soft.presence.disconnect(agent, connection.id, self.clock.wall_ms(), self.lease_clock.now_ms)
        for lend in self.state.soft.lending.held_by(connection.id):
            self.letters.give_back(lend)

    def _run(self) -> None:
        self._is_scheduled = False
        if self.is_committing or self.broken is not None:
            return
        self._advance_lease_clock()
        turn = self._turn = Turn()
        inbox, left = self._inbox, TURN_REQUESTS_MAX
        turn.at_ms = self.clock.wall_ms()
        deadlines = self.state.questions.deadlines
        if deadlines and deadlines[0][0] <= turn.at_ms and not end_questions(self):
            left = 0  # what is asked waits for the deadlines that passed before
        while inbox and left and turn.bytes < TURN_BYTES_MAX:
            left -= 1
            connection, work = inbox.popleft()
            if connection is None:
                assert callable(work)
                work()
            elif isinstance(work, Request):
                self._carry_out(connection, work)
            else:
                assert isinstance(work, Refusal)
                observe_refusal(connection, work, work.error)
                self.refuse(connection, work.id, work.error)
                if work.close is not None:
                    turn.closings.append((connection, work.close, work.error.code))
        self.waiting.serve(self._turn.arrived)
        if turn.rows and self.waiting.has_readers:
            self.waiting.serve_readers({row.type for row in turn.rows})
        turn.head = self.state.seq
        if turn.rows:
            self._commit(turn)
        else:
            self._release(turn)

    def _advance_lease_clock(self) -> None:
        is_inbox_full = len(self._inbox) >= INBOX_MAX
        self.lease_clock.advance(is_behind=self.is_read_only, is_inbox_full=is_inbox_full)

    def _carry_out(self, connection: Connection, request: Request) -> None:
        phase = connection.session.phase
        if phase is _CLOSED:
            return
        assert phase is _OPEN or type(request.command) in (Hello, IdentifyHub), "nothing goes before the welcome"
        if connection.is_stuck or connection.postponed or connection in self._turn.sated:
            connection.postponed.append(request)
            return
        by, at_ms, lease_ms = connection.by, self._turn.at_ms, self.lease_clock.now_ms
        if by.at_ms != at_ms or by.lease_ms != lease_ms:
            by.at_ms, by.lease_ms = at_ms, lease_ms
            if by.agent is not None:
                self.state.soft.presence.touch(by.agent, at_ms, lease_ms)
        self.totals.requests += 1
        command = request.command
        kind = type(command)
        try:
            kind in connection.allowed or connection.refuse(kind)
            if kind in MUTATIONS:
                self.mutate(connection, request)
            elif request.idem_key is not None:
                self._require_no_key(request.idem_key)
            elif kind in QUERIES:
                self.reply(connection, request.id, look(self.state, self.rules, command, by))  # type: ignore[arg-type]  # QUERIES holds the union's members
            else:
                self.requests.serve(connection, request.id, command)  # type: ignore[arg-type]  # what is left is Local
        except Rejected as refusal:
            if kind is Hello and connection.session.phase is Phase.GREETING:
                refused = connection.session.refuse(request.id, refusal)
                assert refused.close is not None
                self._turn.closings.append((connection, refused.close, refusal.code))
            observe_refusal(connection, request, refusal)
            self.refuse(connection, request.id, refusal)
            if self.signals.watchers and kind in MUTATIONS:
                self.signals.observe(connection, command, refusal.code)

    def mutate(self, connection: Connection, request: Request, decide: Decide | None = None) -> None:
        """Carry out what changes something. decide: of a command for which something was looked up. Raises
        `Rejected`."""
        key, by, digest = request.idem_key, connection.by, ""
        command: kernel.Mutation = request.command  # type: ignore[assignment]  # MUTATIONS holds the union's members
        if type(command) is Hello:
            self._require_no_key(key)
            greet(self, connection, request.id, command)
            return
        if key is not None:
            if type(command) not in REPEATABLE:
                self._require_no_key(key)
            digest = payload_hash(command, request.raw, by)
            known = find(self.state.idempotency, by.actor, key, digest)
            if known is not None:
                self.requests.replay(connection, request, command, known.seq, known.count)  # type: ignore[arg-type]  # repeatable ones are answerable
                return
        if type(command) is ClaimLease and command.wait_ms != 0 and self.leasing.takes_up(connection, request, digest):
            return
        if decide is None and type(command) in LOOKED_UP and self.letters.look_up(connection, request, command):  # type: ignore[arg-type]  # LOOKED_UP holds the two
            return
        events = (decide or kernel.decide)(self.state, self.rules, command, by)
        if type(command) is SendMessage and (not events or type(events[-1]) is ChannelCreated):
            self.signals.send(connection, request, command, events)
            return
        if key is not None and events:
            events = stamp(events, key, digest)
        if request.traceparent is not None:
            events = kernel.traced(events, request.traceparent)
        watchers = self.signals.watchers
        spot = spot_of(self.state, command, by) if watchers else None  # what ends is not there afterwards
        self.leasing.asker = connection
        try:
            recorded = self.record(events, by.actor)
        finally:
            self.leasing.asker = None
        if recorded and watchers:
            self.signals.observe(connection, command, OK, spot)
        if type(command) is SendMessage or type(command) is ReleaseLease:
            pass
        elif type(command) is ClaimLease:
            if recorded and type(recorded[0].event) is LeaseQueued:
                self.leasing.wait(connection, request.id, self.state.leases.places[recorded[0].seq])
                return
            self.leasing.after_claim(connection, command, recorded)
        elif isinstance(command, RenewLease):
            self.leasing.after_renewal(connection, command)
        elif isinstance(command, TakeInbox):
            self.takes.take(connection, request.id, command, recorded)
            return
        else:
            self.requests.after(connection, command)
        self.reply(connection, request.id, answer(self.state, command, by, recorded, self.state.seq))

    @staticmethod
    def _require_no_key(key: str | None) -> None:
        if key is not None:
            raise Rejected("bad_request", "this command takes no idem_key - at `$.idem_key`", {"path": "$.idem_key"})

    def record(self, events: Sequence[Event], actor: str) -> list[Recorded]:
        """Fold events in and add them to this turn's transaction. Raises `Rejected(read_only)` on a full disk."""
        if not events:
            return []
        if self.is_read_only:
            raise Rejected(
                "read_only",
                f"the disk is full: the hub answers reads and takes writes again when space is back; {SPACE_NEEDED}",
                {"since_ms": self.space.passed_ms},
                retry_after_ms=RETRY_SPACE_MS,
            )
        recorded = self.fold(events, actor)
        if self.state.plan.count or self.state.questions.count or self.state.sessions.of_task:
            follow_up(self, recorded)
        if self.leasing.granted:
            self.leasing.say_granted()
        return recorded

    def fold(self, events: Sequence[Event], actor: str) -> list[Recorded]:
        """As `record`, without what follows; for what follows."""
        turn = self._turn
        recorded: list[Recorded] = []
        for event in events:
            entry = record(self.state, event, actor, turn.at_ms)
            recorded.append(entry)
            row = to_row(entry)
            turn.rows.append(row)
            turn.bytes += len(row.body) + 128
            if type(event) is MessagePosted and not event.mentions:  # nearly all events
                turn.told.append(entry)
                continue
            kind = type(event)
            if kind in TOLD:
                turn.told.append(entry)
            if kind in LEASE_EVENTS:
                self.leasing.on_event(entry)
                continue
            if kind is MessagesLent:
                continue
            if kind is MessageSent:
                turn.arrived.update([delivery.agent for delivery in event.to])  # type: ignore[union-attr]  # kind is its type
                continue
            take_effect(self, entry)
        return recorded

    def revoke(self, connections: Iterable[Connection]) -> None:
        """Close connections whose secret or token is void."""
        for connection in connections:
            connection.session.close()
            self._turn.closings.append((connection, CLOSE_REVOKED, "revoked"))

    # Before its hello a peer has no actor, and is told nothing of the fleet: not even the seq of the head.

    def reply(self, connection: Connection, request_id: RequestId, body: Reply, *, replayed: bool = False) -> None:
        """Queue a reply for the end of this turn."""
        seq = connection.told(self.state.seq)
        connection.in_flight -= 1
        payload = encode_reply(request_id, seq, body, replayed=replayed)
        if len(payload) > WEIGHED_BYTES:
            self._weigh(connection, payload)
        answer = (seq, payload)
        queued = self._turn.replies.get(connection)
        if queued is None:
            self._turn.replies[connection] = [answer]
        else:
            queued.append(answer)

    def refuse(self, connection: Connection, request_id: RequestId, error: Rejected) -> None:
        """Queue an error for the end of this turn."""
        seq = connection.told(self.state.seq)
        connection.in_flight -= 1
        payload = encode_error(request_id, seq, error)
        self.totals.refused[error.code] += 1
        self._turn.replies.setdefault(connection, []).append((seq, payload))
        if len(payload) > WEIGHED_BYTES:  # it names many holders
            self._weigh(connection, payload)

    def is_sated(self, connection: Connection) -> bool:
        """True for a connection that is told no more in this turn."""
        return connection in self._turn.sated

    def is_enough(self, connection: Connection, size: int, before: int = 0) -> bool:
        """True when a connection that is told `size` bytes is told no more in this turn. before: of what goes ahead of
        them, and was not weighed yet."""
        weight = self._turn.weights.get(connection, 0) + before + size
        return size > SATING_BYTES or weight > self.rules.limits.outbox_bytes_max // 8

    def arrived(self, agents: Iterable[int]) -> None:
        """Something came into the inboxes of these agents in this turn."""
        self._turn.arrived.update(agents)

    def say(self, connection: Connection, payload: bytes) -> None:
        """Queue a notice about a request in line with the answers: it goes out before the request's own."""
        self._turn.replies.setdefault(connection, []).append((self.state.seq, payload))
        if len(payload) > WEIGHED_BYTES:
            self._weigh(connection, payload)

    def _weigh(self, connection: Connection, payload: bytes) -> None:
        """Who has been told an eighth of its outbox in one turn is told no more in it: so an outbox that was not quite
        half full has room for a turn's answers and the long one that ends them."""
        turn, size = self._turn, len(payload)
        if self.is_enough(connection, size):
            turn.sated[connection] = None
        turn.weights[connection] = turn.weights.get(connection, 0) + size

    def notify(self, connection: Connection, payload: bytes) -> None:
        """Queue a notice to one connection for the end of this turn; one that does not read misses it."""
        self._turn.notices.append((connection, payload))

    @property
    def event_bytes(self) -> int:
        """How many bytes of events this turn has made so far."""
        return self._turn.bytes

    @property
    def has_room(self) -> bool:
        """False when this turn has as many bytes of events as a turn takes."""
        return self._turn.bytes < TURN_BYTES_MAX

    @property
    def now_at_ms(self) -> int:
        """The wall clock of this turn."""
        return self._turn.at_ms

    def after_release(self, act: Callable[[], None]) -> None:
        """Do something once this turn is durable and its answers are out."""
        self._turn.after.append(act)

    def recent_event(self, seq: int) -> Recorded | None:
        """A message event of this turn or of the last ones, if it is still in memory."""
        return event_at(self._turn.told, seq) or self.feeds.recent.find(seq)

    def say_later(
        self, connection: Connection, request_id: RequestId, result: Reply | Rejected, seq: int | None = None
    ) -> None:
        """Send an answer that was read from disk. Everything in it is durable, so it needs no turn. seq: what it is of,
        if that is not now."""
        seq = self.feeds.durable if seq is None else seq
        connection.in_flight -= 1
        if connection.is_closed:
            return
        payload = (
            encode_error(request_id, seq, result)
            if isinstance(result, Rejected)
            else encode_reply(request_id, seq, result)
        )
        connection.wire.write(connection.wire.frame(payload))
        self.peers.unhold(connection)

    def _commit(self, turn: Turn) -> None:
        self.is_committing = True
        self._commit_since_ms = self.clock.monotonic_ms()
        self.totals.commits += 1
        rows, log, began_s = turn.rows, self.log, self._loop.time()

        def done(was_full: bool | None, error: JournalError | None) -> None:
            self.is_committing = False
            observe_commit(self.totals, turn, self._loop.time() - began_s)
            if error is not None:
                self.on_broken(error)
                return
            if was_full:
                self.space.ran_out()
            if self.clock.monotonic_ms() - self._commit_since_ms > 1_000:
                self.lease_clock.advance(is_behind=True, is_inbox_full=False)
            self._release(turn)
            if self.totals.commits % COMMITS_PER_MAINTENANCE == 0:
                self._writer.submit(log.maintain, self._maintained)

        self._writer.submit(lambda: commit(log, rows), done)

    def _maintained(self, _: None, error: JournalError | None) -> None:
        if error is not None:
            self.on_broken(error)

    def _release(self, turn: Turn) -> None:
        """The turn is durable: let out what it said."""
        before = self.feeds.durable
        told = self.feeds.tell(turn.told, turn.bytes, turn.head)
        receivers = told.receivers
        for connection, replies in turn.replies.items():
            if connection.is_closed:
                continue
            keys = receivers.pop(connection, None) if receivers else None
            wire = connection.wire
            if keys is None:
                if len(replies) == 1:
                    wire.write(wire.frame(replies[0][1]))
                else:
                    wire.write(b"".join([wire.frame(payload) for _, payload in replies]))
            else:
                self.feeds.hand_out(connection, told, keys, replies, before)
            if connection.is_held:
                self.peers.unhold(connection)
        for connection, keys in receivers.items():
            if not connection.is_closed:
                self.feeds.hand_out(connection, told, keys, (), before)
        self.whereabouts.tell()
        for connection, payload in turn.notices:
            if not connection.is_closed and not connection.is_stuck:
                connection.wire.write(connection.wire.frame(payload))
        if self.signals.has_something:
            self.signals.tell()
        for connection, code, reason in turn.closings:
            if not connection.is_closed:
                connection.wire.close(code, reason)
        for act in turn.after:
            act()
        for connection in turn.sated:
            self.peers.go_on(connection)
        if self._inbox:
            if not self._is_scheduled:
                self._is_scheduled = True
                # Once more round: who was just answered has often asked again, and then shares the commit.
                self._loop.call_soon(self._loop.call_soon, self._run)
        elif self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def on_broken(self, error: JournalError) -> None:
        """The store failed or lies: nothing is decided or released any more, and the process ends."""
        if self.broken is None:
            self.broken = error
            self._fatal(error)
            if self._idle is not None and not self._idle.done():
                self._idle.set_result(None)

    def tick(self) -> None:
        """What time alone brings about: a few times a second, from a timer of the shell."""
        self.peers.check()
        if self.is_read_only:
            self.space.try_again()
        self.put(None, lambda: pass_time(self))
        self.put(None, self.letters.tick)

    @property
    def commit_in_flight_ms(self) -> int:
        """For how long one commit has been in flight; 0 when none is."""
        return self.clock.monotonic_ms() - self._commit_since_ms if self.is_committing else 0

    # The end.

    async def settle(self) -> None:
        """Wait until what was heard is answered: the inbox is empty and no commit is in flight."""
        while self._inbox or self.is_committing or self._is_scheduled:
            if self.broken is not None:
                return
            if self._idle is None or self._idle.done():
                self._idle = self._loop.create_future()
            await asyncio.shield(self._idle)
