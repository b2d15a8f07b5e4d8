"""What must be true of role queues in a recorded history and the journal that is left at the end: each message to a
role is taken by its members only, by one of them at a time, and acked by exactly one, or dead."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.crash.checker import LEND_NS, Finding
from tests.crash.effects_checker import number_of
from tests.crash.history import History, Op
from tests.crash.ledger import body_of

from synapse.core.events import (
    AgentCreated,
    HubStarted,
    MessageDied,
    MessagesAcked,
    MessageSent,
    MessagesLent,
    Recorded,
)
from synapse.core.role_events import RoleCreated, RoleJoined, RoleLeft

RULES = {
    "no member": "taken or acked by somebody who was no member then",
    "two members": "two members held one message at once, or one acked what another held",
    "two ackers": "a message of a role was acked twice",
    "came again": "a message was lent after its ack",
    "not durable": "a lend that was told is not in the journal, or of another message",
    "never acked": "a message to a role is neither acked nor dead at the end",
}


@dataclass(slots=True)
class Queues:
    """The fold of the journal. sent: the messages to roles, with the role's id. lends: by position, who took what.
    acks: by message, where and by whom. members: by role and agent, from where to where."""

    roles: set[int] = field(default_factory=set)
    names: dict[int, str] = field(default_factory=dict)
    sent: dict[int, tuple[int, object]] = field(default_factory=dict)
    lends: dict[int, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    acks: dict[int, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    dead: set[int] = field(default_factory=set)
    members: dict[tuple[int, str], list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    starts: list[int] = field(default_factory=list)

    def is_member(self, role: int, agent: str, seq: int) -> bool:
        """True when the agent was one at that position."""
        return any(begun < seq < left for begun, left in self.members[role, agent])

    def run_of(self, seq: int) -> int:
        """Which process of the hub wrote this position."""
        return sum(1 for start in self.starts if start <= seq)


def folded(journal: Sequence[Recorded]) -> Queues:
    """What the journal says of roles, event by event."""
    found = Queues()
    for recorded in journal:
        event, seq = recorded.event, recorded.seq
        match event:
            case HubStarted():
                found.starts.append(seq)
            case AgentCreated():
                found.names[seq] = event.name
            case RoleCreated():
                found.roles.add(seq)
            case RoleJoined():
                found.members[event.role, found.names[event.agent]].append((seq, 1 << 62))
            case RoleLeft():
                spans = found.members[event.role, found.names[event.agent]]
                spans[-1:] = [(begun, seq) for begun, _ in spans[-1:]]
            case MessageSent() if event.to[0].agent in found.roles:
                found.sent[seq] = (event.to[0].agent, body_of(event))
            case MessagesLent() if event.agent in found.roles:
                found.lends[seq] = (recorded.actor, event.messages)
            case MessagesAcked() if event.agent in found.roles:
                for message in event.messages:
                    found.acks[message].append((seq, recorded.actor))
            case MessageDied() if event.agent in found.roles:
                found.dead.add(event.message)
            case _:
                pass
    return found


def check_queues(history: History, journal: Sequence[Recorded]) -> list[Finding]:
    """Everything that is wrong with role queues; empty when the hub kept its promises."""
    queues = folded(journal)
    return [
        *_journal_is_sound(queues),
        *_takes_are_lawful(history, queues),
        *_nothing_is_left(queues),
    ]


def _journal_is_sound(queues: Queues) -> Iterator[Finding]:
    lends = [(seq, agent, message) for seq, (agent, lent) in queues.lends.items() for message in lent]
    for seq, agent, message in lends:
        role, _ = queues.sent.get(message, (0, None))
        if not queues.is_member(role, agent, seq):
            yield Finding("no member", f"m{message} is lent to {agent} at {seq}")
        if any(acked < seq for acked, _ in queues.acks.get(message, ())):
            yield Finding("came again", f"m{message} is lent to {agent} at {seq}; acked at {queues.acks[message]}")
    for message, acks in queues.acks.items():
        if len(acks) > 1:
            yield Finding("two ackers", f"m{message} is acked at {acks}")
        role, _ = queues.sent.get(message, (0, None))
        for seq, agent in acks:
            if not queues.is_member(role, agent, seq):
                yield Finding("no member", f"m{message} is acked by {agent} at {seq}")


def _takes_are_lawful(history: History, queues: Queues) -> Iterator[Finding]:
    """Each lend is in the journal, and held by one connection at a time.

    Nobody knows when a process that was killed, or the proxy, closed a connection to the hub; but an answer over it
    shows that it was still open, and then what was lent over it was still held.
    """
    alive_at: dict[tuple[str, int], int] = defaultdict(int)
    takes: list[Op] = []
    for op in history.ops:
        if op.frame is not None:
            line = (op.client, op.connection)
            alive_at[line] = max(alive_at[line], op.frame["seq"])
        if op.type == "inbox.take" and op.is_ok and number_of(op.reply["message"]["id"]) in queues.sent:
            takes.append(op)
    last: dict[int, Op] = {}
    for op in sorted(takes, key=_at):
        message = number_of(op.reply["message"]["id"])
        is_same = op.reply["message"]["body"] == queues.sent[message][1]
        if queues.lends.get(_at(op)) != (op.agent, (message,)) or not is_same:
            yield Finding("not durable", f"{op.name} took {op.reply}; the journal has {queues.lends.get(_at(op))}")
        before = last.get(message)
        if before is not None and _is_held(before, _at(op), op, queues, alive_at):
            yield Finding("two members", f"{before.name} and {op.name} of {op.client} both hold m{message}")
        last[message] = op
        for seq, agent in queues.acks.get(message, ()):
            if agent != op.agent and seq > _at(op) and _is_held(op, seq, None, queues, alive_at):
                later = [at for at, (_, lent) in queues.lends.items() if message in lent and _at(op) < at < seq]
                if not later:
                    yield Finding("two members", f"{op.name} holds m{message}, which {agent} acks at {seq}")


def _at(take: Op) -> int:
    return int(take.reply["cursor"].partition(":")[2])


def _is_held(first: Op, seq: int, second: Op | None, queues: Queues, alive_at: dict[tuple[str, int], int]) -> bool:
    """True when the first lend had not ended by that position for certain."""
    if queues.run_of(_at(first)) != queues.run_of(seq) or alive_at[first.client, first.connection] <= seq:
        return False
    if any(
        left < seq
        for begun, left in queues.members[queues.sent[_lent(first)][0], first.agent]
        if begun < _at(first) < left
    ):
        return False
    if second is None:
        return True
    assert second.returned_ns is not None
    return second.returned_ns - first.invoked_ns < LEND_NS


def _lent(take: Op) -> int:
    return number_of(take.reply["message"]["id"])


def _nothing_is_left(queues: Queues) -> Iterator[Finding]:
    for message, (_, body) in queues.sent.items():
        if message not in queues.acks and message not in queues.dead:
            yield Finding("never acked", f"m{message}, {body}, is neither acked nor dead")
