"""What may be asked for a digest; `commands` has it in its union."""

from typing import Final, TypeAlias

import msgspec

from synapse.protocol.terms import Int


class ReadDigest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What matters to me first, and the rest as counts, all as it is at one seq. room: whose plan and channels (null:
    the home's); what I hold and wait for is told of every room. since: a cursor; what others did after it is counted.
    limit: items of each list."""

    room: str | None = None
    since: str | None = None
    limit: Int = 50


DigestCommand: TypeAlias = ReadDigest

DIGEST_COMMANDS: Final[dict[str, type[DigestCommand]]] = {
    "digest.read": ReadDigest,
}
"""Command class by wire type."""
