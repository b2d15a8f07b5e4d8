"""What happens to messages in inboxes. `events` has them in its union.

sender: the agent id of who sent the message, where a receipt is due to it: its index key `re/ID` is how receipts are
found again, and followed. agent: whose inbox it is, or the id of a role. recipient: its name, or the role's address;
where it is left out, it is the agent that did it.
"""

from typing import Final, TypeAlias, final, get_args

import msgspec

from synapse.core.idem import Idem


@final
class MessagesLent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Messages of one inbox were handed to one connection, in this order. senders: of each in its place, 0 where it was
    lent before or its sender gets no receipt; empty when that is so of all."""

    agent: int
    messages: tuple[int, ...]
    senders: tuple[int, ...] = ()
    recipient: str | None = None
    idem: Idem | None = None


@final
class MessagesAcked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent is done with these messages; they leave the inbox, its own or a role's. left: how many unacked ones stay
    in its own, for the answer. by_member: of a role's queue, and who acked is asked for by the key of each message.
    senders, lends: of each message in its place, 0 for who gets no receipt; empty when nobody does."""

    agent: int
    messages: tuple[int, ...]
    left: int = 0
    by_member: bool = False
    recipient: str | None = None
    senders: tuple[int, ...] = ()
    lends: tuple[int, ...] = ()
    idem: Idem | None = None


class MessageDied(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message was lent too often without an ack, or its date passed, and it is not offered any more."""

    agent: int
    message: int
    reason: str
    recipient: str | None = None
    sender: int | None = None
    lends: int = 0
    idem: Idem | None = None


class MessageRevived(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A dead letter is unacked again, as if it had never been lent, and without its date."""

    agent: int
    message: int
    recipient: str
    sender: int | None = None
    idem: Idem | None = None


@final
class MessagesDropped(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Dead letters left an inbox. reason: asked, limit (there were too many), resent (by who sent it, anew). left: how
    many dead ones stay. senders: as of `MessagesAcked`."""

    agent: int
    messages: tuple[int, ...]
    reason: str
    recipient: str
    left: int = 0
    senders: tuple[int, ...] = ()
    idem: Idem | None = None


class MessagesDisowned(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who sent them does not want to see these dead letters any more: pairs of message and the agent in whose inbox it
    is. left: how many others are in the sender's list."""

    sender: int
    letters: tuple[tuple[int, int], ...]
    left: int = 0
    idem: Idem | None = None


DeliveryEvent: TypeAlias = (
    MessagesLent | MessagesAcked | MessageDied | MessageRevived | MessagesDropped | MessagesDisowned
)

RECEIPTS: Final = frozenset(get_args(DeliveryEvent)) - {MessagesDisowned}
"""Events that a receipt may follow from."""


def receipt_keys(event: DeliveryEvent) -> tuple[str, ...]:
    """The index keys of the senders that a receipt is due to."""
    if type(event) is MessagesLent or type(event) is MessagesAcked or type(event) is MessagesDropped:
        return tuple([f"re/{sender}" for sender in dict.fromkeys(event.senders) if sender])
    if isinstance(event, MessagesDisowned) or event.sender is None:
        return ()
    return (f"re/{event.sender}",)
