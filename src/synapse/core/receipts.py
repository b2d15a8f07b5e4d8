"""Receipts: how far messages got, as those who sent them are told."""

from collections.abc import Container, Iterable

from synapse.core.delivery_events import (
    DeliveryEvent,
    MessageDied,
    MessageRevived,
    MessagesAcked,
    MessagesDisowned,
    MessagesDropped,
    MessagesLent,
)
from synapse.core.events import Recorded
from synapse.protocol.cursor import cursor_of, message_id
from synapse.protocol.notices import ReceiptChanged

STATES = {
    MessagesLent: "delivered",
    MessagesAcked: "acked",
    MessageDied: "dead",
    MessageRevived: "stored",
    MessagesDropped: "dropped",
}
"""What a message is after an event."""


def due(event: DeliveryEvent) -> Iterable[tuple[int, int]]:
    """The receipts that follow from an event: pairs of sender and message."""
    if isinstance(event, MessagesLent | MessagesAcked | MessagesDropped):
        return ((sender, seq) for sender, seq in zip(event.senders, event.messages, strict=False) if sender)
    if isinstance(event, MessageDied | MessageRevived) and event.sender is not None:
        return ((event.sender, event.message),)
    return ()


def shown_receipts(
    journal_id: str, recorded: Recorded, event: DeliveryEvent, keys: Container[str]
) -> list[tuple[str, ReceiptChanged]]:
    """What followers of these index keys are told of an event."""
    ids: dict[str, list[str]] = {}
    for sender, seq in due(event):
        key = f"re/{sender}"
        if key in keys:
            ids.setdefault(key, []).append(message_id(seq))
    return [
        (
            key,
            ReceiptChanged(
                ids=tuple(changed),
                recipient=_recipient(recorded, event),
                state=STATES[type(event)],
                reason=event.reason if isinstance(event, MessageDied | MessagesDropped) else None,
                at_ms=recorded.at_ms,
                cursor=cursor_of(journal_id, recorded.seq),
            ),
        )
        for key, changed in ids.items()
    ]


def _recipient(recorded: Recorded, event: DeliveryEvent) -> str:
    """Whose inbox it is: who takes and acks does so itself, what else happens may be the hub's doing."""
    return recorded.actor if isinstance(event, MessagesDisowned) else event.recipient or recorded.actor
