"""What may be asked about what happened; `commands` has it in its union."""

from typing import Final, TypeAlias

import msgspec

from synapse.protocol.terms import Int


class ReadEvents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happened after a cursor, oldest first, as far as I may see it. Without `since`: from where what is kept
    begins. kinds: only these; a word such as `lease` stands for all that begin with it, `memory` for what is worth
    keeping; none, everything. room: only what happened in it. wait_ms: at the head, wait so long for more."""

    since: str | None = None
    kinds: tuple[str, ...] = ()
    room: str | None = None
    limit: Int = 200
    wait_ms: Int = 0


EventCommand: TypeAlias = ReadEvents

EVENT_COMMANDS: Final[dict[str, type[EventCommand]]] = {
    "events.read": ReadEvents,
}
"""Command class by wire type."""
