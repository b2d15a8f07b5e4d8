"""What the operator hears of the journal."""

import msgspec


class KeptFrom(msgspec.Struct, frozen=True, kw_only=True):
    """Where what is kept of something begins. name: `room:channel`, `@agent` (an inbox), `leases`, `values of ROOM`."""

    name: str
    first_kept: str


class Compaction(msgspec.Struct, frozen=True, kw_only=True):
    """What was dropped, or with dry_run would be: rows, and bytes. more: how many are left out of `kept`."""

    journal_id: str
    upto: int
    rows: int
    bytes: int
    kept: tuple[KeptFrom, ...]
    more: int
    dry_run: bool
    cursor: str


class JournalVerified(msgspec.Struct, frozen=True, kw_only=True):
    """The chain holds from first_seq to head."""

    journal_id: str
    events: int
    first_seq: int
    head: int
    bytes: int
    cursor: str


class JournalBackedUp(msgspec.Struct, frozen=True, kw_only=True):
    """The copy stands at `path` and was verified up to `head`."""

    journal_id: str
    path: str
    events: int
    head: int
    bytes: int
    cursor: str
