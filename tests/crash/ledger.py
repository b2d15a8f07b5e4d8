"""The journal that is left at the end, with what the rules of the checker look up in it."""

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tests.crash.history import Frame, brief

from synapse.core.events import (
    AgentCreated,
    Delivery,
    HubStarted,
    Idem,
    MessageDied,
    MessagePosted,
    MessagesAcked,
    MessageSent,
    MessagesLent,
    Recorded,
)
from synapse.core.mail import Mail
from synapse.core.role_events import RoleCreated


class Effect(NamedTuple):
    """The events of one request: `events` of them from `first` on."""

    first: int
    events: int

    @property
    def last(self) -> int:
        return self.first + self.events - 1


class Ledger:
    """The journal at the end, with what the rules look up in it."""

    def __init__(self, journal: Sequence[Recorded]) -> None:
        self.journal = journal
        self.events = {recorded.seq: recorded for recorded in journal}
        self.head = journal[-1].seq
        self.starts: list[int] = []
        self.names: dict[int, str] = {}
        self.posted: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.arrived: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.effects: dict[tuple[str, str], list[Effect]] = defaultdict(list)
        self.marks: dict[str, list[int]] = defaultdict(list)
        self.lent: dict[tuple[str, int], list[int]] = defaultdict(list)
        self.acked: dict[tuple[str, int], list[int]] = defaultdict(list)
        self.died: dict[tuple[str, int], int] = {}
        for recorded in journal:
            self._enter(recorded)

    def _enter(self, recorded: Recorded) -> None:
        seq, _, actor, event = recorded
        if isinstance(event.idem, Idem):
            self.effects[actor, event.idem.key].append(Effect(seq, event.idem.count))
        match event:
            case HubStarted():
                self.starts.append(seq)
            case AgentCreated():
                self.names[seq] = event.name
            case MessagePosted():
                self.posted[event.address].append((seq, event.n))
                self._arrive(seq, event.mentions)
                self.marks[mark_of(body_of(event))].append(seq)
            case MessageSent():
                self._arrive(seq, event.to)
                self.marks[mark_of(body_of(event))].append(seq)
            case MessagesLent():
                for message in event.messages:
                    self.lent[self.names[event.agent], message].append(seq)
            case MessagesAcked():
                for message in event.messages:
                    self.acked[self.names[event.agent], message].append(seq)
            case MessageDied():
                self.died[self.names[event.agent], event.message] = seq
            case RoleCreated():
                self.names[seq] = f"role:{event.name}"
            case Mail():
                self._arrive(seq, event.deliveries)
            case _:
                pass

    def _arrive(self, seq: int, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            self.arrived[delivery.name].append((seq, delivery.n))

    def acked_upto(self, seq: int, agent: str, count: int) -> list[int]:
        """The last `count` messages that events up to `seq`, one behind the other, say this agent acked, in its own
        inbox or in the queues of its roles; all of each event. An ack of very many is more than one event."""
        found: list[int] = []
        while (recorded := self.events.get(seq)) is not None and len(found) < count:
            event = recorded.event
            if not isinstance(event, MessagesAcked) or recorded.actor != agent:
                break
            if not event.by_member and self.names[event.agent] != agent:
                break
            found = [*event.messages, *found]
            seq -= 1
        return found

    def run_of(self, seq: int) -> int:
        """Which process of the hub wrote or reflected this position."""
        return bisect_right(self.starts, seq)

    def shown(self, seq: int, agent: str) -> Frame | None:
        """What this agent must be told of the message at `seq`; None when there is none that it may see."""
        recorded = self.events.get(seq)
        if recorded is None:
            return None
        event = recorded.event
        match event:
            case MessagePosted():
                room, _, channel = event.address.partition(":")
                place: Frame = {"room": room, "channel": channel, "n": event.n, "to": None, "kind": event.kind}
            case MessageSent():
                numbers = [delivery.n for delivery in event.to if delivery.name == agent]
                if not numbers:
                    return None
                names = ["all"] if event.room is not None else [delivery.name for delivery in event.to]
                place = {"room": None, "channel": f"@{agent}", "n": numbers[0], "to": names, "kind": "direct"}
            case _:
                return None
        return {
            **place,
            "id": f"m{seq}",
            "from": recorded.actor,
            "body": body_of(event),
            "subject": event.subject,
            "sent_at_ms": recorded.at_ms,
        }

    def feed(self, channels: Iterable[str], inbox_of: str | None) -> list[int]:
        """The seqs of all messages in these channels and topics and this inbox, in order."""
        seqs = {
            seq
            for channel in channels
            for address, found in self.posted.items()
            if address == channel or (channel.endswith("*") and address.startswith(channel[:-1]))
            for seq, _ in found
        }
        if inbox_of is not None:
            seqs.update(seq for seq, _ in self.arrived.get(inbox_of, ()))
        return sorted(seqs)


def mark_of(body: object) -> str:
    """What names a message of the load: its body's `mark`, or the first word of a text."""
    return str(body["mark"]) if isinstance(body, dict) else str(body).partition(" ")[0]


def body_of(event: MessagePosted | MessageSent) -> object:
    """A journalled body as the history records it."""
    body: object = brief(json.loads(bytes(event.body)))
    return body


def seq_of(cursor: str) -> int:
    return int(cursor.partition(":")[2])
