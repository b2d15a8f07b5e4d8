"""Mail of the hub's own: what puts a message of kind `system` into inboxes.

An event that does so derives from `Mail`: it arrives with the event itself, so neither can be there without the other.
What it says is made from the event whenever it is shown, by the area that the event is of.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from synapse.protocol.cursor import cursor_of, message_id
from synapse.protocol.notices import Message

if TYPE_CHECKING:
    from synapse.core.events import Event, Recorded
    from synapse.core.state import State

HUB: Final = "hub"
"""Who such a message is from."""
SUBJECT_MAX: Final = 256

_encode: Final = msgspec.json.Encoder().encode


class Delivery(msgspec.Struct, frozen=True, array_like=True):
    """One arrival in one inbox: agent name, agent id, gapless number in that inbox."""

    name: str
    agent: int
    n: int


class Mail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of events that are mail. deliveries: into whose inboxes, possibly none; the limit of an inbox does not hold
    for them, because nothing that somebody waits for may be lost."""

    deliveries: tuple[Delivery, ...] = ()


class Letter(NamedTuple):
    """What such a message says. body: its `type` and what belongs to it."""

    subject: str
    body: dict[str, object]
    priority: str = "high"
    thread: str | None = None


def deliveries_to(state: "State", agents: tuple[int, ...]) -> tuple[Delivery, ...]:
    """The next arrival in the inbox of each of these agents, each once, those that are forgotten left out."""
    known = state.agents.by_id
    return tuple(
        Delivery(known[agent].name, agent, state.agents.inboxes[agent].last_n + 1)
        for agent in dict.fromkeys(agents)
        if agent in known
    )


def numbered(state: "State", events: Iterable["Event"]) -> list["Event"]:
    """Events of one decision that are not folded in between, with the arrivals in each inbox counted on."""
    last: dict[int, int] = {}
    found: list[Event] = []
    for event in events:
        if isinstance(event, Mail) and event.deliveries:
            deliveries: list[Delivery] = []
            for delivery in event.deliveries:
                n = last.get(delivery.agent, state.agents.inboxes[delivery.agent].last_n) + 1
                last[delivery.agent] = n
                deliveries.append(Delivery(delivery.name, delivery.agent, n))
            event = msgspec.structs.replace(event, deliveries=tuple(deliveries))
        found.append(event)
    return found


def shown_letter(
    journal_id: str,
    recorded: "Recorded",
    delivery: Delivery,
    letter: Letter,
    traceparent: str | UnsetType = UNSET,
) -> Message:
    """A letter as the message in one inbox."""
    return Message(
        id=message_id(recorded.seq),
        room=None,
        channel=f"@{delivery.name}",
        n=delivery.n,
        cursor=cursor_of(journal_id, recorded.seq),
        sender=HUB,
        to=(delivery.name,),
        kind="system",
        subject=letter.subject[:SUBJECT_MAX],
        body=msgspec.Raw(_encode(letter.body)),
        thread=letter.thread,
        reply_to=None,
        priority=letter.priority,
        expires_at_ms=None,
        sent_at_ms=recorded.at_ms,
        traceparent=traceparent,
    )
