"""Long polls: requests that are answered when something arrives in an inbox or is acked, or refused `deadline`; and
readers of events at the head, who are answered when there are more, or with none."""

from collections import deque
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

from synapse.core.bounds import require_wait
from synapse.core.events import MessagesAcked, MessagesDropped, MessagesLent
from synapse.core.inboxes import decide_take
from synapse.core.question_answers import question_info
from synapse.core.question_events import QuestionClosing
from synapse.core.questions import Question, require_question
from synapse.core.role_queues import takers
from synapse.errors import Rejected
from synapse.hub.connection import Connection
from synapse.hub.work import Waiter
from synapse.protocol.codec import RequestId
from synapse.protocol.commands import Subscribe, TakeInbox
from synapse.protocol.cursor import cursor_of, question_id
from synapse.protocol.event_commands import ReadEvents

if TYPE_CHECKING:
    from synapse.hub.turn import Turns


_ANY: Final = TakeInbox()
_DIRECTED: Final = TakeInbox(directed_only=True)
ENDLESS_MS: Final = 1 << 62
"""The deadline of who waits for as long as the connection stands."""


class Waiting:
    """Everybody who waits, by what for: inboxes by agent id, receipts by message seq, ends of questions by their id."""

    def __init__(self, turns: "Turns") -> None:
        self._turns = turns
        self._limits = turns.rules.limits
        self._presence = turns.state.soft.presence
        self._inboxes: dict[int, deque[Waiter]] = {}
        self._receipts: dict[int, list[Waiter]] = {}
        self._readers: list[tuple[frozenset[str], ReadEvents, Waiter]] = []
        self._came = 0
        self._questions: dict[int, list[Waiter]] = {}

    @property
    def count(self) -> int:
        """How many wait."""
        tables = (*self._inboxes.values(), *self._receipts.values(), *self._questions.values())
        return sum(map(len, tables)) + len(self._readers)

    @property
    def has_readers(self) -> bool:
        """True when somebody waits for events."""
        return bool(self._readers)

    def park(self, connection: Connection, request_id: RequestId, wait_ms: int) -> Waiter:
        """Make a long poll of a request: it is no longer in flight until it is answered. Raises `Rejected`."""
        limits = self._limits
        require_wait(wait_ms, limits.wait_ms_max)
        if connection.waiting >= limits.waiting_max:
            raise Rejected(
                "limit",
                f"this connection has {limits.waiting_max} long polls already (waiting_max)",
                {"limit": "waiting_max", "value": limits.waiting_max},
            )
        self.begin(connection)
        return Waiter(connection, request_id, self._turns.clock.monotonic_ms() + wait_ms)

    def begin(self, connection: Connection) -> None:
        """A request becomes a long poll; its agent is online while it is."""
        connection.waiting += 1
        connection.in_flight -= 1
        self._turns.peers.unhold(connection)
        if connection.by.agent is not None:
            self._presence.poll(connection.by.agent, connection.id, self._turns.clock.wall_ms())

    def unpark(self, connection: Connection) -> None:
        """A long poll is about to be answered."""
        connection.waiting -= 1
        connection.in_flight += 1
        if connection.by.agent is not None:
            self._presence.unpoll(connection.by.agent, connection.id)

    def for_inbox(self, agent: int, waiter: Waiter) -> None:
        """Wait for the next message of an inbox; who came first is served first."""
        self._came += 1
        waiter.order = self._came
        self._presence.wake(agent, waiter.connection.id)
        self._inboxes.setdefault(agent, deque()).append(waiter)

    def follow(self, agent: int, connection: Connection, subscription: int, command: Subscribe) -> None:
        """A subscription takes what comes into an inbox, for as long as it stands."""
        connection.waiting += 1
        self._presence.poll(agent, connection.id, self._turns.clock.wall_ms())
        waiter = Waiter(connection, None, ENDLESS_MS, command.directed_only)
        waiter.subscription, waiter.most = subscription, command.take
        self.for_inbox(agent, waiter)

    def unfollow(self, agent: int, connection: Connection) -> None:
        """Such a subscription has ended. What it was lent stays lent."""
        waiters = self._inboxes[agent]
        waiters.remove(next(waiter for waiter in waiters if waiter.subscription and waiter.connection is connection))
        if not waiters:
            del self._inboxes[agent]
        connection.waiting -= 1
        self._presence.unpoll(agent, connection.id)
        self._presence.unwake(agent, connection.id)

    def has_room(self, agent: int) -> None:
        """Lends of this agent have ended, or it reads again: subscriptions of its own go on taking."""
        state = self._turns.state
        if agent not in state.soft.lending.free and agent not in state.roles.of_agent:
            return
        for waiter in self._inboxes.get(agent, ()):
            if waiter.subscription:
                self._turns.arrived([agent])
                return

    def look_again(self) -> None:
        """Give subscriptions what is there for them, however room was made."""
        if self._turns.state.soft.lending.free:
            for agent in self._inboxes:
                self.has_room(agent)

    def for_receipt(self, seq: int, waiter: Waiter) -> None:
        """Wait until a recipient has acked the message at `seq`."""
        self._receipts.setdefault(seq, []).append(waiter)

    def for_events(self, types: frozenset[str], command: ReadEvents, waiter: Waiter) -> None:
        """Wait for the next event of one of these types."""
        self._readers.append((types, command, waiter))

    def for_question(self, question: int, waiter: Waiter) -> None:
        """Wait until a question is closed."""
        self._questions.setdefault(question, []).append(waiter)

    def on_closed(self, event: QuestionClosing) -> None:
        """A question was closed in this turn: answer who waits for that."""
        waiters = self._questions.pop(event.question, ())
        for waiter in waiters:
            self.unpark(waiter.connection)
            try:
                question = require_question(self._turns.state, question_id(event.question), waiter.connection.by)
            except Rejected as refusal:  # it has left the private room meanwhile
                self._turns.refuse(waiter.connection, waiter.request_id, refusal)
            else:
                self.answer_question(waiter.connection, waiter.request_id, question)

    def answer_question(self, connection: Connection, request_id: RequestId, question: Question) -> None:
        """Say how a question stands."""
        state = self._turns.state
        cursor = cursor_of(state.journal_id, state.seq)
        self._turns.reply(connection, request_id, question_info(state, question, cursor))

    def inboxes(self) -> list[int]:
        """Agents whose inbox somebody waits for."""
        return list(self._inboxes)

    def drop(self, connection: Connection) -> None:
        """A connection is gone."""
        if not connection.waiting:
            return
        for agent in list(self._inboxes):
            left = deque(waiter for waiter in self._inboxes[agent] if waiter.connection is not connection)
            if left:
                self._inboxes[agent] = left
            else:
                del self._inboxes[agent]
        for table in (self._receipts, self._questions):
            for seq in list(table):
                kept = [waiter for waiter in table[seq] if waiter.connection is not connection]
                if kept:
                    table[seq] = kept
                else:
                    del table[seq]
        self._readers = [reader for reader in self._readers if reader[2].connection is not connection]

    def serve_readers(self, recorded_as: Collection[str]) -> None:
        """This turn has events of these types: who waits for one of them reads it once it is durable."""
        for reader in [reader for reader in self._readers if not reader[0].isdisjoint(recorded_as)]:
            self._readers.remove(reader)
            self._read_on(reader[1], reader[2])

    def _read_on(self, command: ReadEvents, waiter: Waiter) -> None:
        """Answer who waited for events with the page that is there now."""
        self.unpark(waiter.connection)
        try:
            self._turns.requests.read_events(waiter.connection, waiter.request_id, command, is_over=True)
        except Rejected as refusal:  # its room was deleted meanwhile, for one
            self._turns.refuse(waiter.connection, waiter.request_id, refusal)

    def serve(self, arrived: set[int]) -> None:
        """Whoever waits for an inbox, or for the queue of a role, that got something takes it in this very turn."""
        for inbox in sorted(arrived) if self._inboxes else ():
            if inbox in self._turns.state.roles.by_id:
                self._serve_role(inbox)
            elif inbox in self._inboxes and inbox in self._turns.state.agents.by_id:
                self._serve_agent(inbox)

    def _serve_agent(self, agent: int) -> None:
        """Who waits for an inbox gets a message each, subscriptions again and again while they have room."""
        waiters: Sequence[Waiter] = list(self._inboxes[agent])
        while waiters:
            is_alone = len(waiters) == 1
            served = [waiter for waiter in waiters if self._serve(agent, waiter, is_alone=is_alone)]
            waiters = [waiter for waiter in served if waiter.subscription]

    def _serve_role(self, role: int) -> None:
        """The members that wait are served in the order in which they came, whoever they are; a subscription that was
        served is behind all others then."""
        found = [
            (waiter, member)
            for member in takers(self._turns.state, role)
            if member in self._inboxes
            for waiter in self._inboxes[member]
        ]
        while found:
            is_alone = len(found) == 1
            served: list[tuple[Waiter, int]] = []
            for waiter, member in sorted(found, key=lambda item: item[0].order):
                if self._serve(member, waiter, is_alone=is_alone):
                    served.append((waiter, member))
                elif not waiter.subscription:
                    return  # nothing is left for those who came later either
            found = [(waiter, member) for waiter, member in served if waiter.subscription]

    def _serve(self, agent: int, waiter: Waiter, *, is_alone: bool) -> bool:
        """Lend a waiter what is there for it; False when that is nothing, or it may have no more now. is_alone: nobody
        else is served by turns with it, so that a subscription gets at once what it has room for."""
        turns, connection = self._turns, waiter.connection
        room = turns.takes.room_of(waiter) if waiter.subscription else 1
        if not room:
            return False
        if agent not in turns.state.soft.lending.free and agent not in turns.state.roles.of_agent:
            return False
        connection.by.at_ms = turns.now_at_ms
        connection.by.lease_ms = turns.lease_clock.now_ms
        command = _ANY if not waiter.directed_only else _DIRECTED
        most = room if is_alone else 1
        events = decide_take(turns.state, turns.rules, command, connection.by, most, turns.takes.fills(connection))
        if not events or turns.is_read_only:
            return False
        recorded = turns.record(events, connection.by.actor)
        lent = [item.event for item in recorded if isinstance(item.event, MessagesLent)]
        if not lent:
            return False
        waiters = self._inboxes[agent]
        waiters.remove(waiter)
        if waiter.subscription:
            self._came += 1
            waiter.order = self._came
            waiters.append(waiter)
            for event in lent:
                turns.takes.hand_on(waiter, event)
            return True
        if not waiters:
            del self._inboxes[agent]
        self._presence.unwake(agent, connection.id)
        self.unpark(connection)
        turns.takes.take(connection, waiter.request_id, command, recorded)
        return True

    def end_late(self, now_ms: int) -> None:
        """Refuse who waited long enough. now_ms: monotonic clock."""
        for agent, waiters in list(self._inboxes.items()):
            for waiter in [waiter for waiter in waiters if waiter.deadline_ms <= now_ms]:
                waiters.remove(waiter)
                self._presence.unwake(agent, waiter.connection.id)
                self._late(waiter, "nothing unacked came into the inbox in that time")
            if not waiters:
                del self._inboxes[agent]
        self._end_late_of(self._receipts, "no recipient acked in that time; the message stays in the inboxes", now_ms)
        self._end_late_of(self._questions, "nobody closed the question in that time; it is open still", now_ms)
        for reader in [reader for reader in self._readers if reader[2].deadline_ms <= now_ms]:
            self._readers.remove(reader)
            self._read_on(reader[1], reader[2])

    def _end_late_of(self, table: dict[int, list[Waiter]], why: str, now_ms: int) -> None:
        for seq, waiters in list(table.items()):
            for waiter in [waiter for waiter in waiters if waiter.deadline_ms <= now_ms]:
                waiters.remove(waiter)
                self._late(waiter, why)
            if not waiters:
                del table[seq]

    def _late(self, waiter: Waiter, why: str) -> None:
        self.unpark(waiter.connection)
        self._turns.refuse(waiter.connection, waiter.request_id, Rejected("deadline", why))

    def on_dropped(self, event: MessagesDropped) -> None:
        """Who drops a dead letter will never ack it."""
        for seq in event.messages if self._receipts else ():
            for waiter in self._receipts.get(seq, ()):
                waiter.recipients.pop(event.agent, None)
            self._answer_receipts(seq)

    def on_forgotten(self) -> None:
        """An agent or a role is no more: it acks nothing."""
        for seq in list(self._receipts):
            self._answer_receipts(seq)

    def on_decided(self, held: int) -> None:
        """A person released or dropped a held message: who waits for its receipt waits for another id, or no more."""
        for waiter in self._receipts.pop(held, ()):
            self._turns.requests.watch_receipt(held, waiter)

    def on_acked(self, event: MessagesAcked) -> None:
        """Some messages were acked in this turn: their senders may be waiting."""
        for seq in event.messages if self._receipts else ():
            self._answer_receipts(seq)

    def _answer_receipts(self, seq: int) -> None:
        waiters = self._receipts.pop(seq, None)
        if waiters is None:
            return
        left = [waiter for waiter in waiters if not self._turns.requests.answer_receipt(seq, waiter)]
        if left:
            self._receipts[seq] = left
