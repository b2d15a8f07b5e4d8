"""What may be asked about signals, which are not kept; `commands` has them in its union."""

from typing import Final, TypeAlias

import msgspec

from synapse.protocol.terms import Int


class ListRecent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last `limit` signals of an ephemeral channel, oldest first. after: the first ones with a larger `n` instead;
    0 for the oldest that are kept."""

    channel: str
    limit: Int = 100
    after: Int | None = None


class SayTyping(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell who follows a channel right now that I am writing something for it. Said again every few seconds."""

    channel: str


SignalCommand: TypeAlias = ListRecent | SayTyping

SIGNAL_COMMANDS: Final[dict[str, type[SignalCommand]]] = {
    "channel.recent": ListRecent,
    "channel.typing": SayTyping,
}
"""Command class by wire type."""
