"""What is answered about what happened; `replies` has it in its union."""

from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from synapse.protocol import event_commands


class EventsPage(msgspec.Struct, frozen=True, kw_only=True):
    """What happened, oldest first: objects with `cursor`, `at_ms`, `by`, `kind`, and what belongs to that kind.

    next: go on from there; null, everything up to `cursor` was looked through. first_kept: with no `since`, when what
    came before was dropped by retention.
    """

    events: tuple[msgspec.Raw, ...]
    next: str | None
    cursor: str
    first_kept: str | UnsetType = UNSET


EventReply: TypeAlias = EventsPage

EVENT_REPLY_TO: Final[dict[type[msgspec.Struct], type[EventReply]]] = {
    event_commands.ReadEvents: EventsPage,
}
