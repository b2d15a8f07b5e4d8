"""Folding the journal: rows in order, each checked against the chain, decoded and handed to the fold.

Replay decides nothing and reads no clock; the live path and replay call the same fold.
"""

from collections.abc import Callable
from typing import NamedTuple

from synapse.core.events import Recorded
from synapse.errors import JournalRefused
from synapse.journal.interface import Pages
from synapse.journal.upcast import decode

_ROWS_PER_SCAN = 1024


class Replayed(NamedTuple):
    """Where a replay ended: the seq and chain hash of the last event, and how many were folded."""

    seq: int
    hash: bytes
    events: int


def replay(
    pages: Pages,
    fold: Callable[[Recorded], None],
    *,
    after: int,
    upto: int,
    prev_hash: bytes,
    stop: Callable[[], bool] | None = None,
    refusal: Callable[[str, int], JournalRefused] = lambda found, seq: JournalRefused(
        f"journal_broken: {found}", seq=seq
    ),
) -> Replayed:
    """Fold the events with after < seq ≤ upto, in order, verifying the chain on the way.

    prev_hash: the chain hash at `after` as the caller knows it (from a snapshot, or the genesis at the base). stop:
    asked about every thousand events; True ends the replay early. refusal: what to raise for what was found at a seq,
    from who knows the file and the cure.

    Raises `JournalRefused` with the seq where the chain breaks, where events are missing, or that cannot be decoded.
    """
    if pages.hash_at(after) != prev_hash:
        raise refusal(f"event {after} is not the one the replay starts from", after)
    seq, events = after, 0
    while seq < upto and not (stop is not None and stop()):
        rows = pages.scan(seq, upto, _ROWS_PER_SCAN)
        if not rows:
            raise refusal(f"the events from {seq + 1} to {upto} are missing", seq + 1)
        for row in rows:
            if not row.body:
                raise refusal(f"event {row.seq} has no body, and no compaction went that far", row.seq)
            fold(Recorded(row.seq, row.at_ms, row.actor, decode(row)))
        seq = rows[-1].seq
        events += len(rows)
    last_hash = pages.hash_at(seq)
    assert last_hash is not None
    return Replayed(seq, last_hash, events)
