"""An agent's inbox: what arrived and is not acked. Bodies stay on disk; memory holds one small entry a message.

A message is lent to one connection at a time. Which one and until when is soft (a restart returns every lend at once);
that it was lent, and how often, is an event, so that a message that keeps killing its reader dies even across restarts.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from synapse.core.by import By, Rules
from synapse.core.events import Event, MessageDied, MessageLent, MessagesAcked
from synapse.core.mail import Delivery
from synapse.protocol.commands import AckInbox, TakeInbox
from synapse.protocol.cursor import seq_of_message

if TYPE_CHECKING:
    from synapse.core.state import State

DIRECT = "direct"
ALL = "all"
MENTION = "mention"


@dataclass(slots=True)
class Entry:
    """One unacked message. seq: its event. n: its number in this inbox. reason: direct, all or mention."""

    seq: int
    n: int
    reason: str
    lends: int = 0
    dead: bool = False

    @property
    def delivery(self) -> str:
        """How far it got: stored, delivered or dead; an acked message has no entry."""
        return "dead" if self.dead else "delivered" if self.lends else "stored"


@dataclass(slots=True)
class Inbox:
    """Unacked entries by seq, oldest first, and the number of the last arrival."""

    last_n: int = 0
    entries: dict[int, Entry] = field(default_factory=dict)


@dataclass(slots=True)
class Lend:
    """A message in the hands of one connection until `deadline_ms` on the lease clock."""

    agent: int
    seq: int
    connection: int
    deadline_ms: int


@dataclass(slots=True)
class Lending:
    """Soft: all lends by (agent id, message seq), in order of their deadlines because each has the same length."""

    lends: dict[tuple[int, int], Lend] = field(default_factory=dict)
    of_connection: dict[int, set[tuple[int, int]]] = field(default_factory=dict)

    def lend(self, lend: Lend) -> None:
        """Hand a message out. It must be free."""
        key = (lend.agent, lend.seq)
        assert key not in self.lends, "a message is lent to one connection at a time"
        self.lends[key] = lend
        self.of_connection.setdefault(lend.connection, set()).add(key)

    def end(self, agent: int, seq: int) -> bool:
        """End one lend; False when there was none."""
        lend = self.lends.pop((agent, seq), None)
        if lend is None:
            return False
        held = self.of_connection[lend.connection]
        held.discard((agent, seq))
        if not held:
            del self.of_connection[lend.connection]
        return True

    def overdue(self, lease_ms: int) -> list[Lend]:
        """Lends whose time is up, oldest first."""
        late: list[Lend] = []
        for lend in self.lends.values():
            if lend.deadline_ms > lease_ms:
                break
            late.append(lend)
        return late

    def held_by(self, connection: int) -> list[Lend]:
        """The lends of one connection."""
        return [self.lends[key] for key in sorted(self.of_connection.get(connection, ()))]


def arrive(state: "State", seq: int, deliveries: Iterable[Delivery], reason: str) -> None:
    """The message at `seq` is in these inboxes; a part of `apply`."""
    for delivery in deliveries:
        inbox = state.agents.inboxes[delivery.agent]
        assert delivery.n == inbox.last_n + 1, "an inbox's numbers have no gap"
        inbox.last_n = delivery.n
        inbox.entries[seq] = Entry(seq, delivery.n, reason)


def decide_take(state: "State", rules: Rules, command: TakeInbox, by: By) -> list[Event]:
    """The oldest free message becomes lent; messages found lent too often die on the way. No event: nothing there."""
    agent = by.require_agent()
    events: list[Event] = []
    for entry in state.agents.inboxes[agent].entries.values():
        if entry.dead or (agent, entry.seq) in state.soft.lending.lends:
            continue
        if command.directed_only and entry.reason != DIRECT:
            continue
        if entry.lends >= rules.limits.lends_max:
            events.append(_died(agent, entry))
            continue
        events.append(MessageLent(agent=agent, message=entry.seq))
        break
    return events


def decide_return(state: "State", rules: Rules, lend: Lend) -> list[Event]:
    """A lend ended without an ack: the message dies when that was its last."""
    inbox = state.agents.inboxes.get(lend.agent)
    entry = inbox.entries.get(lend.seq) if inbox is not None else None
    if entry is None or entry.dead or entry.lends < rules.limits.lends_max:
        return []
    return [_died(lend.agent, entry)]


def _died(agent: int, entry: Entry) -> MessageDied:
    return MessageDied(agent=agent, message=entry.seq, reason=f"lent {entry.lends} times without an ack")


def decide_ack(state: "State", command: AckInbox, by: By) -> list[Event]:
    """What is still there leaves the inbox; what is not there was acked before."""
    agent = by.require_agent()
    entries = state.agents.inboxes[agent].entries
    if command.all:
        seqs = list(entries)
    else:
        seqs = [seq for seq in dict.fromkeys(seq_of_message(text) for text in command.ids) if seq in entries]
    if not seqs:
        return []
    gone = frozenset(seqs)
    left = sum(1 for entry in entries.values() if not entry.dead and entry.seq not in gone)
    return [MessagesAcked(agent=agent, messages=tuple(seqs), left=left)]
