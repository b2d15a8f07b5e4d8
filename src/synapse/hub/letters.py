"""What the shell does for the delivery of messages: what a decision must look up on disk, receipts, dead letters, and
the ticks that end messages at their date.

    request --needs the journal--> reader thread --> a later turn: decided as if it came just then
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, assert_never

from msgspec import UNSET

from synapse.core import kernel
from synapse.core.by import By, Rules
from synapse.core.dead_letters import after_of, decide_resend_sent, letters_to_list, sent_letters
from synapse.core.delivery_events import MessageDied, MessageRevived, MessagesAcked, MessagesDropped, MessagesLent
from synapse.core.events import Event, MessageHeld, MessagePosted, MessageSent, Recorded
from synapse.core.held_events import HeldDropped, HeldReleased
from synapse.core.inboxes import (
    Lend,
    decide_expired,
    decide_return,
    inboxes_of,
    never_here,
    never_possible,
    seqs_to_ack,
)
from synapse.core.receipts import due
from synapse.core.refusals import require_limit
from synapse.core.retention import floor_of
from synapse.core.state import State
from synapse.errors import Rejected, bad_request
from synapse.hub.connection import Connection
from synapse.hub.observed import observe_refusal
from synapse.hub.paging import REPLY_BYTES_MAX, SCAN_ROWS_MAX, recorded_of
from synapse.hub.reads import listed, read_message
from synapse.journal.interface import Pages
from synapse.protocol.codec import Request, RequestId
from synapse.protocol.commands import AckInbox
from synapse.protocol.cursor import cursor_of, message_id, seq_of_message
from synapse.protocol.delivery_commands import GetReceipt, ListDead, ResendDead
from synapse.protocol.delivery_replies import DeadPage, HeldFate, ReceiptInfo, Receipts
from synapse.protocol.notices import Message

if TYPE_CHECKING:
    from synapse.hub.turn import Turns

Stand: TypeAlias = Literal["stored", "held", "gone"]
"""What an inbox has of a message: it was lent to nobody, it was lent or is dead, it is not there."""
Decide: TypeAlias = Callable[[State, Rules, kernel.Mutation, By], list[Event]]

LOOKED_UP: Final = frozenset({AckInbox, ResendDead})
"""Mutations that may need the journal before they are decided."""
_ROWS: Final = 500
_SENDS: Final = ("message.sent", "message.posted")


@dataclass(slots=True)
class Trace:
    """What the journal tells of a message in one inbox. is_over: it has left it."""

    delivered_at_ms: int | None = None
    acked_at_ms: int | None = None
    died_at_ms: int | None = None
    acked_by: str | None = None
    lends: int | None = None
    reason: str | None = None
    is_dropped: bool = False

    @property
    def is_over(self) -> bool:
        """True when nothing more can happen to it."""
        return self.is_dropped or self.acked_at_ms is not None


@dataclass(slots=True)
class Traces:
    """What the journal tells of a direct message: its event, and by agent what became of it up to `position`, of what
    is to be looked at, up to `upto`. stands: what each inbox had of it at `upto`. fate: of one that was held."""

    event: MessageSent
    sender: int
    seq: int
    sent_at_ms: int
    upto: int
    position: int
    by_agent: dict[int, Trace]
    stands: dict[int, Stand] = field(default_factory=dict)
    fate: HeldFate | None = None

    @property
    def is_open(self) -> bool:
        """True while the journal may tell more. Of what nobody was lent it tells nothing."""
        return self.position < self.upto and any(
            not trace.is_over and self.stands.get(agent) != "stored" for agent, trace in self.by_agent.items()
        )


@dataclass(slots=True)
class HeldTrace:
    """A message that the loop guard held, and that did not get into an inbox, or only into a channel."""

    message: MessageSent | MessagePosted
    at_ms: int
    fate: HeldFate


def find_mine(
    pages: Pages, seq: int, sender: str, sender_id: int, upto: int, *, is_held: bool
) -> Traces | HeldTrace | Rejected:
    """Look a message of mine up, also under the id by which it was held. is_held: it still is, at `upto`."""
    row = pages.row(seq) if sender_id < seq <= upto else None
    if row is None or row.type != "message.held" or row.actor != sender:
        return find_sent(pages, seq, sender, sender_id, upto)
    event = recorded_of(row).event
    assert isinstance(event, MessageHeld)
    message = event.posted if event.sent is None else event.sent
    assert message is not None, "a message is held"
    ends = [] if is_held else pages.page((f"he/{seq}",), seq, upto, 1)
    if not ends:
        return HeldTrace(message, row.at_ms, HeldFate(state="held" if is_held else "gone", why=event.why))
    end = recorded_of(ends[0])
    assert isinstance(end.event, HeldDropped | HeldReleased), "nothing else has the key of a held message"
    if isinstance(end.event, HeldDropped):
        fate = HeldFate(state="dropped", why=event.why, by=end.event.by, at_ms=end.at_ms)
        return HeldTrace(message, row.at_ms, fate)
    new = message_id(end.event.message)
    fate = HeldFate(state="released", why=event.why, released_as=new, by=end.event.by, at_ms=end.at_ms)
    found = find_sent(pages, end.event.message, sender, sender_id, upto)
    if isinstance(found, Rejected):  # it went to a channel, or retention has dropped it
        return HeldTrace(message, row.at_ms, fate)
    found.sent_at_ms, found.fate = row.at_ms, fate
    return found


def find_sent(pages: Pages, seq: int, sender: str, sender_id: int, upto: int) -> Traces | Rejected:
    """Look a message of mine up. Refused `not_found`, and `bad_request` for one that went to a channel."""
    row = pages.row(seq) if sender_id < seq <= upto else None
    event = recorded_of(row).event if row is not None and row.body and row.type in _SENDS else None
    link = event.link if isinstance(event, MessageSent | MessagePosted) else None
    is_released = link is not None and link.held is not None
    is_mine = link.agent == sender_id if link is not None and is_released else row is not None and row.actor == sender
    if row is None or event is None or not is_mine:
        if row is not None and row.actor == sender and not row.body:
            return Rejected(
                "not_found",
                f"m{seq} was dropped by retention, and who acked it is not known any more",
                {"id": f"m{seq}"},
            )
        return Rejected("not_found", f"you sent no direct message m{seq}", {"id": f"m{seq}"})
    if isinstance(event, MessagePosted):
        return bad_request("receipts are for direct messages; this one went to a channel", "$.body.id")
    assert isinstance(event, MessageSent)
    by_agent = {delivery.agent: Trace() for delivery in event.to}
    return Traces(event, sender_id, seq, row.at_ms, upto, seq, by_agent)


def follow_traces(pages: Pages, found: Traces) -> Traces:
    """Look through the next receipts of the sender, not so many that other readers wait long."""
    scanned = 0
    while found.is_open and scanned < SCAN_ROWS_MAX:
        rows = pages.page((f"re/{found.sender}",), found.position, found.upto, _ROWS)
        for row in rows:
            _follow(found, recorded_of(row))
        scanned += len(rows)
        found.position = rows[-1].seq if len(rows) == _ROWS else found.upto
    return found


def _follow(traces: Traces, recorded: Recorded) -> None:
    """Note what an event says of the message."""
    event, at_ms, seq = recorded.event, recorded.at_ms, traces.seq
    if not isinstance(event, MessagesLent | MessagesAcked | MessageDied | MessageRevived | MessagesDropped):
        return
    if all(message != seq for _, message in due(event)):
        return
    trace = traces.by_agent.get(event.agent)
    if trace is None:
        return
    match event:
        case MessagesLent():
            trace.delivered_at_ms = at_ms
        case MessagesAcked():
            trace.acked_at_ms, trace.acked_by = at_ms, recorded.actor
            trace.lends = event.lends[event.messages.index(seq)] if event.lends else None
        case MessageDied():
            trace.died_at_ms, trace.reason, trace.lends = at_ms, event.reason, event.lends
        case MessageRevived():
            trace.delivered_at_ms = trace.died_at_ms = trace.reason = None
        case MessagesDropped():
            trace.is_dropped, trace.reason = True, event.reason
        case _:
            assert_never(event)


class Letters:
    """The delivery of messages, for one `Turns`."""

    def __init__(self, turns: "Turns") -> None:
        self._turns = turns
        self._state = turns.state
        self._limits = turns.rules.limits

    def tick(self) -> None:
        """Messages whose date has passed die."""
        turns = self._turns
        if not turns.is_read_only and self._state.agents.dates.heap:
            turns.record(decide_expired(self._state, turns.rules, turns.now_at_ms), "hub")

    def on_event(self, event: MessageRevived | MessagesDropped) -> None:
        """A message has left an inbox, or is back in it: somebody may wait for that."""
        match event:
            case MessageRevived():
                self._turns.arrived([event.agent])
            case MessagesDropped():
                self._turns.waiting.on_dropped(event)
            case _:
                assert_never(event)

    def give_back(self, lend: Lend) -> None:
        """A lend is over: the message is dead, or free for the next reader."""
        turns = self._turns
        self._state.soft.lending.end(lend.agent, lend.seq)
        if not turns.is_read_only:
            turns.record(decide_return(self._state, turns.rules, lend), "hub")
        turns.arrived([lend.agent])
        if lend.holder is not None:
            turns.waiting.has_room(lend.holder)

    # What must be looked up first.

    def look_up(self, connection: Connection, request: Request, command: AckInbox | ResendDead) -> bool:
        """True when the command waits for the disk; it is decided in a later turn then. Raises `Rejected`."""
        state, by = self._state, connection.by
        agent = by.require_agent()
        if isinstance(command, ResendDead):
            if not command.sent:
                return False
            sent_letters(state, command, by)
            seq, actor, head = seq_of_message(command.id), by.actor, state.seq
            self._read(connection, request, lambda: self._original(command, seq, actor, agent, head))
            return True
        own, seqs = state.agents.inboxes[agent].entries, seqs_to_ack(self._turns.rules, command)
        if own.keys() >= set(seqs):
            return False
        inboxes = inboxes_of(state, agent)
        there = [state.agents.inboxes[inbox].entries for inbox in inboxes]
        gone = [seq for seq in seqs if all(seq not in entries for entries in there)]
        if not gone or never_possible(state, agent, gone):
            return False
        keys = tuple(f"in/{inbox}" for inbox in inboxes)
        self._read(connection, request, lambda: self._were_here(keys, gone))
        return True

    def _read(self, connection: Connection, request: Request, job: Callable[[], Decide | Rejected]) -> None:
        turns = self._turns

        def done(decide: Decide | Rejected) -> None:
            if connection.is_closed:
                return
            connection.by.at_ms, connection.by.lease_ms = turns.now_at_ms, turns.lease_clock.now_ms
            try:
                if isinstance(decide, Rejected):
                    raise decide
                turns.mutate(connection, request, decide)
            except Rejected as refusal:
                observe_refusal(connection, request, refusal)
                turns.refuse(connection, request.id, refusal)

        turns.disk.read(connection, job, done)

    def _were_here(self, keys: Sequence[str], seqs: Sequence[int]) -> Decide | Rejected:
        """As the reader thread finds it: did each of these messages ever come into one of those inboxes?"""
        pages = self._turns.pages
        never = [seq for seq in seqs if not pages.page(keys, seq - 1, seq, 1)]
        floor = max(floor_of(self._state.retention.floors, key) for key in keys)
        unknown = [seq for seq in never if seq > floor]  # of what was dropped nobody knows: it may have been here
        return never_here(unknown) if unknown else kernel.decide

    def _original(self, command: ResendDead, seq: int, actor: str, agent: int, head: int) -> Decide | Rejected:
        found = find_sent(self._turns.pages, seq, actor, agent, head)
        if isinstance(found, Rejected):
            return found
        return partial(_resend, command, found.event)

    # Receipts.

    def trace(self, connection: Connection, seq: int, then: Callable[[Traces | HeldTrace | Rejected], None]) -> None:
        """What became of a message that this agent sent, handed to `then` in a later turn, in which it is true."""
        turns, by, head = self._turns, connection.by, self._state.seq
        sender, is_held = by.require_agent(), seq in self._state.loops.held

        def go_on(found: Traces | HeldTrace | Rejected) -> None:
            if connection.is_closed:
                return
            if is_held and seq not in self._state.loops.held:  # somebody has decided while the journal was read
                self.trace(connection, seq, then)
                return
            if not isinstance(found, Traces):
                then(found)
                return
            stands = {agent: self._stand(agent, found.seq) for agent in found.by_agent}
            if stands != found.stands:  # it got further while the journal was read
                found.stands, found.upto = stands, self._state.seq
            if found.is_open:
                turns.disk.read(connection, lambda: follow_traces(turns.pages, found), go_on)
            else:
                then(found)

        def find() -> Traces | HeldTrace | Rejected:
            return find_mine(turns.pages, seq, by.actor, sender, head, is_held=is_held)

        turns.disk.read(connection, find, go_on)

    def _stand(self, agent: int, seq: int) -> Stand:
        inbox = self._state.agents.inboxes.get(agent)
        entry = None if inbox is None else inbox.entries.get(seq)
        return "gone" if entry is None else "stored" if entry.delivery == "stored" else "held"

    def receipt(self, connection: Connection, request_id: RequestId, command: GetReceipt) -> None:
        """Answer `receipt.get`. Raises `Rejected`."""
        require_limit(command.limit, self._limits.page_items_max)
        seq = seq_of_message(command.id)
        connection.by.require_agent()

        def answer(found: Traces | HeldTrace | Rejected) -> None:
            if isinstance(found, Rejected):
                self._turns.refuse(connection, request_id, found)
            else:
                self._turns.reply(connection, request_id, self._receipts(found, command))

        self.trace(connection, seq, answer)

    def _receipts(self, found: Traces | HeldTrace, command: GetReceipt) -> Receipts:
        message = found.message if isinstance(found, HeldTrace) else found.event
        to = message.to if isinstance(message, MessageSent) else ()
        every = sorted((delivery.name, delivery.agent) for delivery in to)
        rest = [item for item in every if command.after is None or item[0] > command.after]
        page = rest[: command.limit]
        if isinstance(found, HeldTrace):
            infos = tuple(_never_there(name, found.fate) for name, _ in page)
        else:
            infos = tuple(self._info(name, agent, found.seq, found) for name, agent in page)
        return Receipts(
            id=command.id,
            sent_at_ms=found.at_ms if isinstance(found, HeldTrace) else found.sent_at_ms,
            expires_at_ms=message.expires_at_ms,
            recipients=infos,
            held=UNSET if found.fate is None else found.fate,
            next=page[-1][0] if len(rest) > len(page) else None,
            cursor=cursor_of(self._state.journal_id, self._state.seq),
        )

    def _info(self, name: str, agent: int, seq: int, found: Traces) -> ReceiptInfo:
        """What is told of one recipient: memory knows what is in its inbox, the journal what was."""
        trace, inbox = found.by_agent[agent], self._state.agents.inboxes.get(agent)
        entry = None if inbox is None else inbox.entries.get(seq)
        lends, died_at_ms, reason = trace.lends, trace.died_at_ms, trace.reason
        if entry is not None:
            state, lends, died_at_ms, reason = entry.delivery, entry.lends, entry.died_at_ms, entry.died
        elif trace.acked_at_ms is not None:
            state = "acked"
        elif trace.is_dropped:
            state = "dropped"
        elif inbox is not None:
            state, lends = "gone", None  # what is known of lends is of before the sender gave it up
        else:
            state = "forgotten"
        return ReceiptInfo(
            recipient=name,
            state=state,
            lends=lends,
            delivered_at_ms=trace.delivered_at_ms,
            acked_at_ms=trace.acked_at_ms,
            acked_by=trace.acked_by,
            died_at_ms=died_at_ms,
            reason=reason,
        )

    # Dead letters.

    def list_dead(self, connection: Connection, request_id: RequestId, command: ListDead) -> None:
        """Answer `dead.list`. Raises `Rejected`."""
        turns, state = self._turns, self._state
        page, total, following = letters_to_list(state, turns.rules, command, connection.by)
        letters = [listed(inbox, entry) for inbox, entry in page]
        head, journal_id, pages = state.seq, state.journal_id, turns.pages

        def read() -> DeadPage:
            found: list[Message] = []
            after, size = following, 0
            for at, letter in enumerate(letters):
                message = read_message(pages, journal_id, letter.seq, letter.inbox)
                if message is None:
                    continue
                size += len(bytes(message.body)) + 512
                if found and size > REPLY_BYTES_MAX:
                    after = after_of(letters[at - 1].seq, letters[at - 1].inbox, sent=command.sent)
                    break
                found.append(letter.on(message))
            return DeadPage(messages=tuple(found), total=total, next=after, cursor=cursor_of(journal_id, head))

        turns.disk.defer(connection, request_id, read)


def no_receipt(seq: int, found: HeldTrace) -> Rejected:
    """Why nobody will ever ack a message that was held."""
    name, fate = message_id(seq), found.fate
    if isinstance(found.message, MessagePosted):
        return bad_request(f"receipts are for direct messages; {name} goes to a channel", "$.body.id")
    if fate.state == "dropped":
        return Rejected(
            "not_found",
            f"{name} was held, and {fate.by} dropped it: ask a person before you send it again",
            {"id": name, "held": "dropped", "by": fate.by},
        )
    new = "" if fate.released_as is None else f" as {fate.released_as}"
    return Rejected(
        "not_found",
        f"{name} was held, and a person decided{new}: who acked it is not known any more",
        {"id": name, "held": fate.state},
    )


def _never_there(name: str, fate: HeldFate) -> ReceiptInfo:
    """What is told of a recipient of a message that the guard held; of one that was released the journal tells no
    more."""
    is_over = fate.state == "dropped"
    return ReceiptInfo(
        recipient=name,
        state="gone" if fate.state == "released" else fate.state,
        lends=None,
        delivered_at_ms=None,
        acked_at_ms=None,
        acked_by=None,
        died_at_ms=None,
        reason=f"held, and dropped by {fate.by}" if is_over else None,
    )


def _resend(
    command: ResendDead, original: MessageSent, state: State, rules: Rules, _: kernel.Mutation, by: By
) -> list[Event]:
    return decide_resend_sent(state, rules, command, by, original)
