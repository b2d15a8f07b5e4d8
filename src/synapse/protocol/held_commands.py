"""What may be asked about messages that the loop guard holds; `commands` has them in its union."""

from typing import Final, TypeAlias

import msgspec

from synapse.protocol.terms import Int


class ListHeld(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page of the messages that are held, oldest first: mine; for a person or an operator all. after: an id."""

    limit: Int = 200
    after: str | None = None


class ReleaseHeld(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Deliver a held message as if it were sent now; with `chain` all of its chain, in order. reset: as the first of a
    new chain, with the budgets of its sender full again."""

    id: str
    chain: bool = False
    reset: bool = False


class DropHeld(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Drop a held message, with `chain` all of its chain; each sender gets a letter."""

    id: str
    chain: bool = False


HeldCommand: TypeAlias = ListHeld | ReleaseHeld | DropHeld

HELD_COMMANDS: Final[dict[str, type[HeldCommand]]] = {
    "held.list": ListHeld,
    "held.release": ReleaseHeld,
    "held.drop": DropHeld,
}
"""Command class by wire type."""
