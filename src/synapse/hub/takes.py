"""Handing messages out: to who takes one, and to subscriptions that take what comes.

A message goes to one connection at a time, and only when the event of its lend is on its way to disk: what is said here
leaves with the turn.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from synapse.core.events import MessageSent, MessagesLent, Recorded
from synapse.core.inboxes import Lend
from synapse.core.telling import shown_to
from synapse.errors import Rejected, bad_request
from synapse.hub.connection import Connection
from synapse.hub.reads import read_message
from synapse.hub.work import Waiter
from synapse.protocol.codec import RequestId, encode_notice
from synapse.protocol.commands import Subscribe, TakeInbox
from synapse.protocol.cursor import cursor_of
from synapse.protocol.notices import Lent, Message
from synapse.protocol.replies import Position, Reply, Subscribed, Taken

if TYPE_CHECKING:
    from synapse.hub.turn import Turns

_BESIDE_BYTES: Final = 1024
"""More than the notice of a lend holds beside the body, the subject and the thread of a message to one recipient."""
_ESCAPED_BYTES: Final = 6
"""The longest that one character is in JSON."""


class Takes:
    """The lends of one `Turns`, as their takers see them."""

    def __init__(self, turns: "Turns") -> None:
        self._turns = turns
        self._state = turns.state
        self._limits = turns.rules.limits

    def take(
        self, connection: Connection, request_id: RequestId, command: TakeInbox, recorded: Sequence[Recorded]
    ) -> None:
        """Hand out what `decide_take` lent, or wait for it."""
        agent = connection.by.require_agent()
        lent = recorded[-1].event if recorded else None
        if isinstance(lent, MessagesLent):
            self._hand_out(connection, request_id, lent)
            return
        if command.wait_ms == 0:
            raise Rejected("deadline", "nothing unacked is free in the inbox")
        waiter = self._turns.waiting.park(connection, request_id, command.wait_ms)
        waiter.directed_only = command.directed_only
        self._turns.waiting.for_inbox(agent, waiter)

    def _hand_out(self, connection: Connection, request_id: RequestId, lent: MessagesLent) -> None:
        """Lend what is in an inbox, or in the queue of a role."""
        turns, limits = self._turns, self._limits
        [(lend, lends, message)] = self._lend(connection, lent)
        inbox, seq = lend.agent, lend.seq
        cursor, journal_id = cursor_of(self._state.journal_id, self._state.seq), self._state.journal_id
        text = f"m{seq}, which was lent for this, was acked or went elsewhere before it was read: take again"
        gone = Rejected("deadline", text, {"id": f"m{seq}"})

        def read() -> Reply:
            message = read_message(turns.pages, journal_id, seq, inbox)
            if message is None:
                raise gone
            return Taken(message=message, lends=lends, lend_ms=limits.lend_ms, cursor=cursor)

        def require_lent() -> None:
            if not self._is_lent(lend):
                raise gone

        if message is None:
            turns.disk.defer(connection, request_id, read, require_lent)
        else:
            taken = Taken(message=message, lends=lends, lend_ms=limits.lend_ms, cursor=cursor)
            turns.reply(connection, request_id, taken)

    def _lend(self, connection: Connection, lent: MessagesLent) -> list[tuple[Lend, int, Message | None]]:
        """Lend messages; of each, how often that was done, and what it says, unless it must be read from disk."""
        turns, state, inbox = self._turns, self._state, lent.agent
        deadline_ms = turns.lease_clock.now_ms + self._limits.lend_ms
        holder = connection.by.agent if inbox in state.roles.by_id else None
        entries = state.agents.inboxes[inbox].entries
        found: list[tuple[Lend, int, Message | None]] = []
        for seq in lent.messages:
            lend = Lend(inbox, seq, connection.id, deadline_ms, holder)
            state.soft.lending.lend(lend)
            recent = turns.recent_event(seq)
            message = None if recent is None else shown_to(state.journal_id, recent, inbox)
            found.append((lend, entries[seq].lends, message))
        return found

    def _is_lent(self, lend: Lend) -> bool:
        """True until it is acked, goes elsewhere or its time is over: what was read since may be handed out."""
        return self._state.soft.lending.lends.get((lend.agent, lend.seq)) is lend

    def hand_on(self, waiter: Waiter, lent: MessagesLent) -> None:
        """Lend messages to a subscription that takes. What must be read from disk comes before what is lent later."""
        for lend, lends, message in self._lend(waiter.connection, lent):
            assert not waiter.is_reading, "nothing is lent behind what must be read from disk"
            if message is None:
                self._read(waiter, lend, lends)
            else:
                self._say_lent(waiter, message, lends)

    def _read(self, waiter: Waiter, lend: Lend, lends: int) -> None:
        """Say from disk what is lent to a subscription; then it goes on taking."""
        turns, connection, journal_id = self._turns, waiter.connection, self._state.journal_id

        def said(found: Message | None) -> None:
            waiter.is_reading = False
            if connection.is_closed:
                return
            if found is not None and self._is_lent(lend):  # else it was acked or went elsewhere meanwhile
                self._say_lent(waiter, found, lends)
            turns.arrived([connection.by.require_agent()])

        waiter.is_reading = True
        turns.disk.read(connection, lambda: read_message(turns.pages, journal_id, lend.seq, lend.agent), said)

    def _say_lent(self, waiter: Waiter, message: Message, lends: int) -> None:
        notice = Lent(subscription=waiter.subscription, message=message, lends=lends, lend_ms=self._limits.lend_ms)
        self._turns.say(waiter.connection, encode_notice(self._state.seq, notice))

    def subscribe(self, connection: Connection, request_id: RequestId, command: Subscribe) -> None:
        """A subscription that borrows what comes into my inbox. Raises `Rejected`."""
        agent, limits, state = connection.by.require_agent(), self._limits, self._state
        if command != Subscribe(take=command.take, directed_only=command.directed_only):
            raise bad_request("a subscription with take names nothing else but directed_only", "$.body")
        if not 0 < command.take <= limits.acks_max:
            raise bad_request(f"take {command.take} must be 1 to {limits.acks_max}", "$.body.take")
        if any(subscription.takes for subscription in connection.subscriptions.values()):
            raise Rejected(
                "already_subscribed",
                "another subscription of this connection takes from the inbox: end that one first",
                {"channel": f"@{connection.by.actor}", "room": None},
            )
        subscription = self._turns.feeds.open(connection, (), agent, state.seq, has_presence=False)
        subscription.takes = True
        position = Position(room=None, channel=f"@{connection.by.actor}", n=state.agents.inboxes[agent].last_n)
        cursor = cursor_of(state.journal_id, state.seq)
        self._turns.reply(
            connection,
            request_id,
            Subscribed(subscription=subscription.id, positions=(position,), from_cursor=cursor, cursor=cursor),
        )
        self._turns.waiting.follow(agent, connection, subscription.id, command)
        self._turns.arrived([agent])

    def room_of(self, waiter: Waiter) -> int:
        """How many messages a subscription may be lent now: 0 while it waits for one from the disk, while its peer does
        not read, or when that was told enough in this turn."""
        connection = waiter.connection
        if waiter.is_reading or connection.is_stuck or self._turns.is_sated(connection):
            return 0
        held = self._state.soft.lending.of_connection.get(connection.id, ())
        return max(0, waiter.most - len(held))

    def fills(self, connection: Connection) -> Callable[[int], bool]:
        """Says of one message after the other, by its seq, whether it is the last that a connection may be lent in one
        decision: when it must be read from disk, or with it the connection has been told enough. A message that went to
        one recipient is taken for as long as it may be; any other is the last, and the next decision goes on."""
        turns, before = self._turns, 0

        def is_last(seq: int) -> bool:
            nonlocal before
            recent = turns.recent_event(seq)
            event = None if recent is None else recent.event
            if type(event) is not MessageSent or len(event.to) > 1:
                return True
            size = len(bytes(event.body)) + _BESIDE_BYTES
            for words in (event.subject, event.thread):
                size += 0 if words is None else _ESCAPED_BYTES * len(words)
            is_enough = turns.is_enough(connection, size, before)
            before += size
            return is_enough

        return is_last
