"""An agent's inbox: what arrived and is not acked. Bodies stay on disk; memory holds one small entry a message.

    stored --lent--> delivered --acked--> gone from the inbox
       \\_______________\\__its date passes, or it was lent too often--> dead --acked, dropped--> gone

A message is lent to one connection at a time. Which one and until when is soft (a restart returns every lend at once);
that it was lent, and how often, is an event, so that a message that keeps killing its reader dies even across restarts.
Dead letters stay, up to a limit of their own: they take no place from what is alive.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, merge
from itertools import repeat
from typing import TYPE_CHECKING, Final, TypeVar, assert_never

from synapse.core.by import By, Rules
from synapse.core.delivery_events import (
    DeliveryEvent,
    MessageDied,
    MessageRevived,
    MessagesAcked,
    MessagesDisowned,
    MessagesDropped,
    MessagesLent,
)
from synapse.core.mail import Delivery
from synapse.errors import Rejected, bad_request
from synapse.protocol.commands import AckInbox, TakeInbox
from synapse.protocol.cursor import message_id, seq_of_message
from synapse.protocol.terms import PRIORITIES

if TYPE_CHECKING:
    from synapse.core.events import Event
    from synapse.core.state import State

DIRECT = "direct"
ALL = "all"
MENTION = "mention"

EXPIRED: Final = "expired"
"""Why a message died whose date passed."""
EXPIRED_MAX: Final = 500
"""Messages that die of their date in one tick; nobody is given the others any more either."""
DIED_MAX: Final = 64
"""Messages that one take finds dead and says so; it passes over the others."""
MESSAGES_MAX: Final = 1_000
"""Messages in one event, and in one decision to lend; an ack of all of them may become several."""

_VOID_MIN: Final = 1_024
"""So many dates of messages that are gone may wait for their time before they are thrown out."""
_RANKS: Final = {priority: rank for rank, priority in enumerate(reversed(PRIORITIES))}
_Item = TypeVar("_Item", int, tuple[int, int])


@dataclass(slots=True)
class Entry:
    """One message that is not acked. seq: its event. n: its number in this inbox. reason: direct, all or mention.

    sender: the agent that gets receipts for it. died_at_ms, died: when and why it died.
    """

    seq: int
    n: int
    reason: str
    lends: int = 0
    dead: bool = False
    priority: str = "normal"
    sender: int | None = None
    expires_at_ms: int | None = None
    died_at_ms: int | None = None
    died: str | None = None

    @property
    def delivery(self) -> str:
        """How far it got: stored, delivered or dead; an acked message has no entry."""
        return "dead" if self.dead else "delivered" if self.lends else "stored"

    def is_late(self, at_ms: int) -> bool:
        """True when its date has passed."""
        return self.expires_at_ms is not None and self.expires_at_ms <= at_ms


@dataclass(slots=True)
class Inbox:
    """Entries by seq, oldest first, and the number of the last arrival. dead: the seqs of those that are, sorted."""

    last_n: int = 0
    entries: dict[int, Entry] = field(default_factory=dict)
    dead: list[int] = field(default_factory=list)

    @property
    def unacked(self) -> int:
        """How many may still be taken, now or later."""
        return len(self.entries) - len(self.dead)


@dataclass(slots=True)
class Dates:
    """Which messages end when: (date, seq, agent). Those that have left their inbox, or are dead, are void."""

    heap: list[tuple[int, int, int]] = field(default_factory=list)
    _most: int = _VOID_MIN

    def add(self, inboxes: dict[int, Inbox], agent: int, entry: Entry) -> None:
        """A message with a date has arrived."""
        assert entry.expires_at_ms is not None
        if len(self.heap) > self._most:
            self.heap = [item for item in self.heap if self._there(inboxes, *item) is not None]
            heapify(self.heap)
            self._most = _VOID_MIN + 2 * len(self.heap)
        heappush(self.heap, (entry.expires_at_ms, entry.seq, agent))

    def due(self, inboxes: dict[int, Inbox], at_ms: int, most: int) -> Iterator[tuple[int, Entry]]:
        """What dies now, by agent, earliest date first; each is told once."""
        while self.heap and self.heap[0][0] <= at_ms and most > 0:
            date, seq, agent = heappop(self.heap)
            entry = self._there(inboxes, date, seq, agent)
            if entry is not None:
                most -= 1
                yield agent, entry

    @staticmethod
    def _there(inboxes: dict[int, Inbox], date: int, seq: int, agent: int) -> Entry | None:
        inbox = inboxes.get(agent)
        entry = None if inbox is None else inbox.entries.get(seq)
        return entry if entry is not None and not entry.dead and entry.expires_at_ms == date else None


@dataclass(slots=True)
class Lend:
    """A message in the hands of one connection until `deadline_ms` on the lease clock. agent: whose inbox it is in, or
    the role's id; then `holder` is the agent that has it. lane: where it was free."""

    agent: int
    seq: int
    connection: int
    deadline_ms: int
    holder: int | None = None
    lane: int = 0


@dataclass(slots=True)
class Lending:
    """Soft: all lends by (agent id, message seq), in order of their deadlines because each has the same length.

    of_inbox: what is lent of an agent's own inbox. free: what nobody has, by agent and lane: seqs in order. A lane is a
    priority, of directed messages or of others. A message that is alive is free or lent, never both, so that a take
    looks at no other.
    """

    lends: dict[tuple[int, int], Lend] = field(default_factory=dict)
    of_connection: dict[int, set[tuple[int, int]]] = field(default_factory=dict)
    of_inbox: dict[int, set[int]] = field(default_factory=dict)
    free: dict[int, dict[int, list[int]]] = field(default_factory=dict)

    def offer(self, agent: int, entry: Entry) -> None:
        """A message that is alive may be handed out from now on."""
        self._put(agent, 2 * _RANKS.get(entry.priority, _RANKS["normal"]) + (entry.reason != DIRECT), entry.seq)

    def _put(self, agent: int, lane: int, seq: int) -> None:
        lanes = self.free.get(agent)
        if lanes is None:
            self.free[agent] = {lane: [seq]}
        elif lane in lanes:
            insort(lanes[lane], seq)
        else:
            lanes[lane] = [seq]

    def _pull(self, agent: int, seq: int) -> int | None:
        """Take a free message out; its lane, or None when it was not free."""
        lanes = self.free.get(agent)
        if lanes is None:
            return None
        for lane, seqs in lanes.items():
            at = bisect_left(seqs, seq)
            if at < len(seqs) and seqs[at] == seq:
                del seqs[at]
                if not seqs:
                    del lanes[lane]
                    if not lanes:
                        del self.free[agent]
                return lane
        return None

    def waiting(self, inboxes: Sequence[int], *, directed_only: bool) -> Iterator[tuple[int, int]]:
        """What is free in these inboxes, in the order in which it is handed out: pairs of seq and inbox."""
        if len(inboxes) == 1:  # nearly all
            here = self.free.get(inboxes[0])
            if here is None:
                return
            if len(here) == 1:
                [(lane, seqs)] = here.items()
                if not (directed_only and lane % 2):
                    yield from zip(seqs, repeat(inboxes[0]))
                return
        found = [(inbox, self.free[inbox]) for inbox in inboxes if inbox in self.free]
        for rank in range(len(PRIORITIES) if found else 0):
            lanes = (2 * rank,) if directed_only else (2 * rank, 2 * rank + 1)
            yield from merge(
                *(zip(free[lane], repeat(inbox)) for inbox, free in found for lane in lanes if lane in free)
            )

    def lend(self, lend: Lend) -> None:
        """Hand a message out. It must be free."""
        key = (lend.agent, lend.seq)
        lane = self._pull(*key)
        assert lane is not None and key not in self.lends, "a message is lent to one connection at a time"
        lend.lane = lane
        self.lends[key] = lend
        self.of_connection.setdefault(lend.connection, set()).add(key)
        if lend.holder is None:
            self.of_inbox.setdefault(lend.agent, set()).add(lend.seq)

    def end(self, agent: int, seq: int) -> bool:
        """End one lend: the message is free again. False when there was none."""
        lend = self._end(agent, seq)
        if lend is None:
            return False
        self._put(agent, lend.lane, seq)
        return True

    def forget(self, agent: int, seq: int) -> None:
        """A message is dead or has left the inbox: nobody has it, and nobody is given it."""
        if self._end(agent, seq) is None:
            self._pull(agent, seq)

    def _end(self, agent: int, seq: int) -> Lend | None:
        lend = self.lends.pop((agent, seq), None)
        if lend is not None:
            held = self.of_connection[lend.connection]
            held.discard((agent, seq))
            if not held:
                del self.of_connection[lend.connection]
            if lend.holder is None:
                seqs = self.of_inbox[agent]
                seqs.discard(seq)
                if not seqs:
                    del self.of_inbox[agent]
        return lend

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


# What happens to the entries: parts of `apply`.


def arrive(
    state: "State",
    seq: int,
    deliveries: Iterable[Delivery],
    reason: str,
    *,
    priority: str = "high",
    expires_at_ms: int | None = None,
    sender: int | None = None,
) -> None:
    """The message at `seq` is in these inboxes. What the hub itself says is of high priority."""
    for delivery in deliveries:
        inbox = state.agents.inboxes[delivery.agent]
        assert delivery.n == inbox.last_n + 1, "an inbox's numbers have no gap"
        inbox.last_n = delivery.n
        entry = Entry(seq, delivery.n, reason, priority=priority, sender=sender, expires_at_ms=expires_at_ms)
        inbox.entries[seq] = entry
        enlist(state, delivery.agent, entry)


def enlist(state: "State", agent: int, entry: Entry) -> None:
    """Put an entry into all that is derived from it."""
    if entry.dead:
        insort(state.agents.inboxes[agent].dead, entry.seq)
        if entry.sender is not None:
            insort(state.agents.dead_of.setdefault(entry.sender, []), (entry.seq, agent))
        return
    state.soft.lending.offer(agent, entry)
    if entry.expires_at_ms is not None:
        state.agents.dates.add(state.agents.inboxes, agent, entry)


def _unlist(state: "State", agent: int, entry: Entry) -> None:
    """Take an entry out of all that is derived from it; a date becomes void by itself."""
    state.soft.lending.forget(agent, entry.seq)
    if entry.dead:
        _remove(state.agents.inboxes[agent].dead, entry.seq)
        disown(state, agent, entry)


def disown(state: "State", agent: int, entry: Entry) -> None:
    """A dead letter leaves the list of who sent it."""
    of_sender = state.agents.dead_of.get(entry.sender or 0)
    if of_sender is not None:
        _remove(of_sender, (entry.seq, agent))
        if not of_sender:
            del state.agents.dead_of[entry.sender or 0]


def _remove(items: list[_Item], item: _Item) -> None:
    """Take an item out of a sorted list, if it is there."""
    at = bisect_left(items, item)
    if at < len(items) and items[at] == item:
        del items[at]


def leave(state: "State", agent: int, seq: int) -> bool:
    """A message is no more in an inbox; False when it was not."""
    inbox = state.agents.inboxes[agent]
    entry = inbox.entries.pop(seq, None)
    if entry is None:
        return False
    _unlist(state, agent, entry)
    return True


def leave_all(state: "State", agent: int) -> None:
    """An agent is forgotten, with its inbox."""
    for seq in list(state.agents.inboxes[agent].entries):
        leave(state, agent, seq)
    state.agents.dead_of.pop(agent, None)


def apply_delivery(state: "State", at_ms: int, event: DeliveryEvent) -> None:
    """The inboxes' part of `kernel.apply`."""
    if type(event) is MessagesLent:
        entries = state.agents.inboxes[event.agent].entries
        for message in event.messages:
            entries[message].lends += 1
        return
    match event:
        case MessagesAcked() | MessagesDropped():
            for message in event.messages:
                is_there = leave(state, event.agent, message)
                assert is_there, "only what is in an inbox leaves it"
        case MessageDied():
            entry = state.agents.inboxes[event.agent].entries[event.message]
            _unlist(state, event.agent, entry)
            entry.dead, entry.died_at_ms, entry.died = True, at_ms, event.reason
            enlist(state, event.agent, entry)
        case MessageRevived():
            entry = state.agents.inboxes[event.agent].entries[event.message]
            _unlist(state, event.agent, entry)
            entry.dead, entry.lends, entry.died_at_ms, entry.died, entry.expires_at_ms = False, 0, None, None, None
            enlist(state, event.agent, entry)
        case MessagesDisowned():
            for message, agent in event.letters:
                entry = state.agents.inboxes[agent].entries[message]
                disown(state, agent, entry)
                entry.sender = None
        case _:
            assert_never(event)


# What becomes of requests, and of time.


def decide_take(
    state: "State",
    rules: Rules,
    command: TakeInbox,
    by: By,
    most: int = 1,
    is_last: Callable[[int], bool] = lambda _: False,
) -> list["Event"]:
    """The first free messages of the agent's inbox and its roles' queues become lent; those found dead on the way are
    said to be. No event: nothing there. most: how many, and never more than `MESSAGES_MAX`. is_last: asked about each
    by its seq; behind one of which it is true nothing is lent. What follows another of the same inbox is in its event,
    so that the events are in the order of handing out."""
    dying: dict[int, list[tuple[Entry, str]]] = {}
    lent: list[tuple[int, list[Entry]]] = []
    left = min(most, MESSAGES_MAX)
    inboxes = inboxes_of(state, by.require_agent())
    for seq, inbox in state.soft.lending.waiting(inboxes, directed_only=command.directed_only):
        entry = state.agents.inboxes[inbox].entries[seq]
        if entry.is_late(by.at_ms):
            dying.setdefault(inbox, []).append((entry, EXPIRED))
        elif entry.lends >= rules.limits.lends_max:
            dying.setdefault(inbox, []).append((entry, _worn_out(entry)))
        else:
            if not lent or lent[-1][0] != inbox:
                lent.append((inbox, []))
            lent[-1][1].append(entry)
            left -= 1
            if not left or is_last(seq):
                break
    events: list[Event] = [_lent(state, inbox, entries) for inbox, entries in lent]
    for inbox, entries in dying.items():
        events = [*deaths(state, rules, inbox, entries[:DIED_MAX]), *events]
    return events


def _lent(state: "State", inbox: int, entries: Sequence[Entry]) -> MessagesLent:
    senders = tuple([0 if entry.lends else entry.sender or 0 for entry in entries])
    return MessagesLent(
        agent=inbox,
        messages=tuple([entry.seq for entry in entries]),
        senders=senders if any(senders) else (),
        recipient=_role_called(state, inbox),
    )


def inboxes_of(state: "State", agent: int) -> tuple[int, ...]:
    """The inboxes that an agent takes from: its own, and the queues of its roles."""
    roles = state.roles.of_agent.get(agent)
    return (agent,) if roles is None else (agent, *sorted(roles))


def in_order(state: "State", agent: int) -> Iterator[tuple[int, Entry]]:
    """What is in the inbox of an agent and in its roles' queues, dead and lent ones too, oldest first. With each entry
    the id under which it lies."""
    found = [_entries(state, inbox) for inbox in inboxes_of(state, agent)]
    return found[0] if len(found) == 1 else merge(*found, key=lambda item: item[1].seq)


def _entries(state: "State", inbox: int) -> Iterator[tuple[int, Entry]]:
    return ((inbox, entry) for entry in state.agents.inboxes[inbox].entries.values())


def _role_called(state: "State", inbox: int) -> str | None:
    """The address of a role, for its queue; None for an agent's inbox."""
    role = state.roles.by_id.get(inbox)
    return None if role is None else f"role:{role.name}"


def called(state: "State", inbox: int) -> str:
    """Whose inbox it is: an agent's name, or the address of a role."""
    return _role_called(state, inbox) or state.agents.by_id[inbox].name


def decide_return(state: "State", rules: Rules, lend: Lend) -> list["Event"]:
    """A lend ended without an ack: the message dies when that was its last."""
    inbox = state.agents.inboxes.get(lend.agent)
    entry = inbox.entries.get(lend.seq) if inbox is not None else None
    if entry is None or entry.dead or entry.lends < rules.limits.lends_max:
        return []
    return deaths(state, rules, lend.agent, [(entry, _worn_out(entry))])


def decide_expired(state: "State", rules: Rules, at_ms: int, most: int = EXPIRED_MAX) -> list["Event"]:
    """Messages whose date has passed die. What is told here is not told again: it must be carried out."""
    dying: dict[int, list[tuple[Entry, str]]] = {}
    for agent, entry in state.agents.dates.due(state.agents.inboxes, at_ms, most):
        dying.setdefault(agent, []).append((entry, EXPIRED))
    return [event for agent, entries in dying.items() for event in deaths(state, rules, agent, entries)]


def _worn_out(entry: Entry) -> str:
    return f"lent {entry.lends} times without an ack"


def deaths(state: "State", rules: Rules, agent: int, dying: Sequence[tuple[Entry, str]]) -> list["Event"]:
    """These messages die, with why; where that makes too many dead letters of an inbox, the oldest are dropped."""
    inbox, name = state.agents.inboxes[agent], called(state, agent)
    events: list[Event] = [
        MessageDied(agent=agent, message=entry.seq, reason=why, recipient=name, sender=entry.sender, lends=entry.lends)
        for entry, why in dying
    ]
    excess = len(inbox.dead) + len(dying) - rules.limits.dead_letters_max
    if excess > 0:
        oldest = sorted([*inbox.dead, *(entry.seq for entry, _ in dying)])[:excess]
        events += drops(state, agent, oldest, "limit")
    return events


def drops(state: "State", agent: int, seqs: Sequence[int], reason: str, *, left: int = 0) -> list["Event"]:
    """These messages leave an inbox as dead letters. left: how many more who asked has."""
    inbox, name = state.agents.inboxes[agent], called(state, agent)
    return [
        MessagesDropped(
            agent=agent,
            messages=tuple(part),
            reason=reason,
            recipient=name,
            left=left,
            senders=_senders([inbox.entries[seq] for seq in part]),
        )
        for part in _parts(seqs)
    ]


def _parts(seqs: Sequence[int]) -> Iterator[Sequence[int]]:
    return (seqs[at : at + MESSAGES_MAX] for at in range(0, len(seqs), MESSAGES_MAX))


def _senders(entries: Sequence[Entry]) -> tuple[int, ...]:
    """Who gets receipts, 0 for nobody; nothing where that is all of them."""
    senders = tuple([entry.sender or 0 for entry in entries])
    return senders if any(senders) else ()


def decide_ack(state: "State", rules: Rules, command: AckInbox, by: By) -> list["Event"]:
    """What is still there leaves the inbox; what is not there was acked before. (The shell has looked up that it was
    there.) Raises `Rejected`: `limit`, `not_found` for ids that no message of this agent can have, and `not_holder` for
    a message of a role that another member has lent."""
    agent = by.require_agent()
    inbox = state.agents.inboxes[agent]
    entries = inbox.entries
    asked = seqs_to_ack(rules, command)
    seqs = list(entries) if command.all else [seq for seq in asked if seq in entries]
    if len(seqs) < len(asked) and (never := never_possible(state, agent, asked)):
        raise never_here(never)
    shared = _of_roles(state, asked, agent, by.lease_ms, everything=command.all)
    left = inbox.unacked - (sum(not entries[seq].dead for seq in seqs) if inbox.dead else len(seqs))
    return [
        _acks(state, whose, part, left) for whose, found in ((agent, seqs), *shared.items()) for part in _parts(found)
    ]


def never_possible(state: "State", agent: int, seqs: Sequence[int]) -> list[int]:
    """Which of these no message can have that an agent may ack: of the time before its inbox and its roles' queues, or
    still to come."""
    oldest = min(inboxes_of(state, agent))
    return [seq for seq in seqs if not oldest < seq <= state.seq]


def _acks(state: "State", inbox: int, seqs: Sequence[int], left: int) -> MessagesAcked:
    acked = [state.agents.inboxes[inbox].entries[seq] for seq in seqs]
    senders = _senders(acked)
    role = _role_called(state, inbox)
    return MessagesAcked(
        agent=inbox,
        messages=tuple(seqs),
        left=left,
        by_member=role is not None,
        recipient=role,
        senders=senders,
        lends=tuple([entry.lends for entry in acked]) if senders else (),
    )


def seqs_to_ack(rules: Rules, command: AckInbox) -> list[int]:
    """The messages that an ack names, each once. Raises `Rejected`: `limit`, `bad_request`."""
    most = rules.limits.acks_max
    if command.ids and command.all:
        raise bad_request("give ids, or all", "$.body")
    if len(command.ids) > most:
        why = f"{len(command.ids)} ids in one ack; at most {most} (acks_max): ask again for the others"
        raise Rejected("limit", why, {"limit": "acks_max", "value": most})
    return list(dict.fromkeys(seq_of_message(text, "$.body.ids") for text in command.ids))


def never_here(seqs: Sequence[int]) -> Rejected:
    """The refusal of ids that never were in this inbox."""
    ids = [message_id(seq) for seq in seqs]
    named = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
    return Rejected(
        "not_found",
        f"never in this inbox: {named}; nothing was acked (synapse inbox lists what is there)",
        {"ids": ids[:100]},
    )


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
