"""What is answered about the delivery of messages; `replies` has them in its union."""

from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from synapse.protocol import delivery_commands
from synapse.protocol.notices import Message


class ReceiptInfo(msgspec.Struct, frozen=True, kw_only=True):
    """How far a message got with one recipient. state: held (by the loop guard), stored, delivered, acked, dead,
    dropped (a dead letter that is in no list any more, or held and dropped by a person), gone (acked or dropped: the
    journal tells no more), forgotten (so is the agent).

    recipient: an agent, or `role:NAME`; acked_by: also of a role the agent that did. lends: how often it was lent, null
    where that is not known any more. Times are null where it did not come to that,
    or nothing is kept of it. reason: why it died, or was dropped.
    """

    recipient: str
    state: str
    lends: int | None
    delivered_at_ms: int | None
    acked_at_ms: int | None
    acked_by: str | None
    died_at_ms: int | None
    reason: str | None


class HeldFate(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a message that the loop guard held. state: held, released, dropped, gone (the journal does not
    tell which). why: as when it was sent. released_as: its new id. by, at_ms: who decided, and when."""

    state: str
    why: str
    released_as: str | None = None
    by: str | None = None
    at_ms: int | None = None


class Receipts(msgspec.Struct, frozen=True, kw_only=True):
    """How far a message got, by recipient. held: of one that was held; the recipients are those of what it was released
    as. next: give it as `after`, null on the last page."""

    id: str
    sent_at_ms: int
    expires_at_ms: int | None
    recipients: tuple[ReceiptInfo, ...]
    held: HeldFate | UnsetType = UNSET
    next: str | None
    cursor: str


class DeadPage(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters, each with `delivery`, `lends`, `died_at_ms` and `reason`; `channel` is the inbox it died in.
    total: how many there are. next: give it as `after`, null on the last page."""

    messages: tuple[Message, ...]
    total: int
    next: str | None
    cursor: str


class Resent(msgspec.Struct, frozen=True, kw_only=True):
    """The dead letter is in these inboxes again. id: the message's, a new one for what I sent. resends: the old one."""

    id: str
    resends: str
    to: tuple[str, ...]
    cursor: str


class Dropped(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters that are in my list no more. left: how many still are."""

    dropped: tuple[str, ...]
    left: int
    cursor: str


DeliveryReply: TypeAlias = Receipts | DeadPage | Resent | Dropped

DELIVERY_REPLY_TO: Final[dict[type[msgspec.Struct], type[DeliveryReply]]] = {
    delivery_commands.GetReceipt: Receipts,
    delivery_commands.ListDead: DeadPage,
    delivery_commands.ResendDead: Resent,
    delivery_commands.DropDead: Dropped,
}
