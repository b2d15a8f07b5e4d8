"""That the journal was compacted; `events` has it in its union."""

from typing import Final

import msgspec

from synapse.core.idem import Idem

COMPACTIONS: Final = "compactions"
"""Index key of every compaction: a start finds the last one by it."""
COMPACTED: Final = "journal.compacted"


class JournalCompacted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Bodies up to `upto` may be dropped from here on, as `cuts` say (retention.py); the state there is the base.

    base_hash: SHA-256 of the base's bytes, hex. floors: by index key, up to where its readers find nothing any more.
    rows, bytes: what is to be dropped. `cuts` and `floors` hold those of all compactions before too.
    """

    upto: int
    base_hash: str
    cuts: dict[str, int]
    floors: dict[str, int] = {}
    rows: int = 0
    bytes: int = 0
    idem: Idem | None = None
