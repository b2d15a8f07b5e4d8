"""An agent's inbox: what arrived and is not acked. Bodies stay on disk; memory holds one small entry a message.

A message is lent to one connection at a time. Which one and until when is soft (a restart returns every lend at once);
that it was lent, and how often, is an event, so that a message that keeps killing its reader dies even across restarts.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from typing import TYPE_CHECKING

from synapse.core.by import By, Rules
from synapse.core.events import Event, MessageDied, MessageLent, MessagesAcked
from synapse.core.mail import Delivery
from synapse.errors import Rejected
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
    """A message in the hands of one connection until `deadline_ms` on the lease clock. agent: whose inbox it is in, or
    the role's id; then `holder` is the agent that has it."""

    agent: int
    seq: int
    connection: int
    deadline_ms: int
    holder: int | None = None


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

    def shared_by(self, holder: int) -> list[Lend]:
        """What an agent has lent of the queues of roles, oldest first."""
        return sorted([lend for lend in self.lends.values() if lend.holder == holder], key=lambda lend: lend.seq)

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
    """The oldest free message of the agent's inbox and its roles' queues becomes lent; messages found lent too often
    die on the way. No event: nothing there."""
    events: list[Event] = []
    for inbox, entry in in_order(state, by.require_agent()):
        if entry.dead or (inbox, entry.seq) in state.soft.lending.lends:
            continue
        if command.directed_only and entry.reason != DIRECT:
            continue
        if entry.lends >= rules.limits.lends_max:
            events.append(_died(inbox, entry))
            continue
        events.append(MessageLent(agent=inbox, message=entry.seq))
        break
    return events


def in_order(state: "State", agent: int) -> Iterator[tuple[int, Entry]]:
    """What an agent may take, dead and lent ones too, oldest first: of its own inbox and of its roles' queues. With
    each entry the id under which it lies."""
    found = [_entries(state, inbox) for inbox in (agent, *state.roles.of_agent.get(agent, ()))]
    return found[0] if len(found) == 1 else merge(*found, key=lambda item: item[1].seq)


def _entries(state: "State", inbox: int) -> Iterator[tuple[int, Entry]]:
    return ((inbox, entry) for entry in state.agents.inboxes[inbox].entries.values())


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
    """What is still there leaves the inbox; what is not there was acked before. Raises `Rejected(not_holder)` for a
    message of a role that another member has lent."""
    agent = by.require_agent()
    entries = state.agents.inboxes[agent].entries
    asked = list(dict.fromkeys(seq_of_message(text) for text in command.ids))
    seqs = list(entries) if command.all else [seq for seq in asked if seq in entries]
    shared = _of_roles(state, asked, agent, by.lease_ms, everything=command.all)
    if not seqs and not shared:
        return []
    gone = frozenset(seqs)
    left = sum(1 for entry in entries.values() if not entry.dead and entry.seq not in gone)
    events: list[Event] = [MessagesAcked(agent=agent, messages=tuple(seqs), left=left)] if seqs else []
    for role, mine in shared.items():
        events.append(MessagesAcked(agent=role, messages=tuple(mine), left=left, by_member=True))
    return events


def _of_roles(
    state: "State", asked: Sequence[int], agent: int, lease_ms: int, *, everything: bool
) -> dict[int, list[int]]:
    """The messages that an ack is about, by role: those by id that nobody else has lent, or all that are lent to me."""
    found: dict[int, list[int]] = {}
    if agent not in state.roles.of_agent:
        return found
    lending = state.soft.lending
    if everything:
        for lend in lending.shared_by(agent):
            found.setdefault(lend.agent, []).append(lend.seq)
        return found
    for role in sorted(state.roles.of_agent[agent]):
        entries = state.agents.inboxes[role].entries
        for seq in [seq for seq in asked if seq in entries]:
            held = lending.lends.get((role, seq))
            if held is not None and held.holder != agent:
                raise _held_by_another(state, held, lease_ms)
            found.setdefault(role, []).append(seq)
    return found


def _held_by_another(state: "State", lend: Lend, lease_ms: int) -> Rejected:
    assert lend.holder is not None, "what a role's queue lends has a holder"
    left_ms = max(0, lend.deadline_ms - lease_ms)
    known = state.agents.by_id.get(lend.holder)
    holder, role = "a forgotten agent" if known is None else known.name, state.roles.by_id[lend.agent].name
    return Rejected(
        "not_holder",
        f"m{lend.seq} of role:{role} is lent to {holder} for at most another {-(-left_ms // 1000)} s, and only "
        f"{holder} may ack it; if it comes back, it is offered again (synapse wait)",
        {"id": f"m{lend.seq}", "role": role, "holder": holder, "expires_in_ms": left_ms},
        retry_after_ms=left_ms,
    )
