"""What may be asked about the delivery of messages; `commands` has them in its union."""

from typing import Final, TypeAlias

import msgspec

from synapse.protocol.terms import Int


class GetReceipt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a direct message that I sent got, for each recipient, by name: also after it was acked. after: the
    `next` of the page before."""

    id: str
    limit: Int = 200
    after: str | None = None


class ListDead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page of the dead letters in my inbox, oldest first; with `sent` of those that I sent, a line for each inbox
    that a message died in. after: the `next` of the page before."""

    sent: bool = False
    limit: Int = 50
    after: str | None = None


class ResendDead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give a dead letter another chance. In my inbox it is unacked again, as if it had never been lent, and without its
    date. With `sent` what I sent goes out anew, under a new id, to everybody in whose inbox it is dead, and is dead
    there no more."""

    id: str
    sent: bool = False


class DropDead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Be done with dead letters by id, or with `all` of them, at most 1000 at a time. With `sent` they leave the list
    of what I sent, and stay dead letters of their recipients."""

    ids: tuple[str, ...] = ()
    all: bool = False
    sent: bool = False


DeliveryCommand: TypeAlias = GetReceipt | ListDead | ResendDead | DropDead

DELIVERY_COMMANDS: Final[dict[str, type[DeliveryCommand]]] = {
    "receipt.get": GetReceipt,
    "dead.list": ListDead,
    "dead.resend": ResendDead,
    "dead.drop": DropDead,
}
"""Command class by wire type."""
