"""One page of what the journal holds under some index keys: messages of a history, lines of a ledger.

Pages go forward from a cursor, or back from the newest. Filters look through a bounded number of rows; the cursors of a
page go on from there, so nothing is skipped. What retention dropped is told, never left out without a word.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from synapse.core.events import Recorded, Row
from synapse.core.retention import too_old
from synapse.journal.interface import Pages, is_whole
from synapse.journal.upcast import decode
from synapse.protocol.cursor import cursor_of

REPLY_BYTES_MAX: Final = 200 * 1024
"""Pages stop growing here; with one more item they stay below the largest frame."""
SCAN_ROWS_MAX: Final = 5_000
SCAN_BYTES_MAX: Final = 8 * 1024 * 1024
"""What one request looks through for its filters; the reply's cursor goes on from there."""
_CHUNK: Final = 500

_Item = TypeVar("_Item")


def recorded_of(row: Row) -> Recorded:
    """A journal row as an event, upcast if it is an older one."""
    return Recorded(row.seq, row.at_ms, row.actor, decode(row))


@dataclass(slots=True, frozen=True)
class Scan(Generic[_Item]):
    """What is looked for. keys: index keys; called: what they are for people.

    since, before: seqs, None when not given. head: the last seq to read. floor: up to where nothing is kept, asked once
    the rows are there, as a compaction may go on. show: an event as an item, or None when it is none or does not fit.
    size: bytes of an item in the reply, at least.
    """

    keys: tuple[str, ...]
    called: str
    since: int | None
    before: int | None
    head: int
    journal_id: str
    limit: int
    floor: Callable[[], int]
    show: Callable[[Recorded], _Item | None]
    size: Callable[[_Item], int]


@dataclass(slots=True)
class Found(Generic[_Item]):
    """A page: items with their seqs, oldest first. following, earlier: seqs to go on from, None at an end.
    first_kept: up to where what would come before was dropped; None when nothing was."""

    items: list[tuple[int, _Item]]
    following: int | None
    earlier: int | None
    first_kept: int | None = None


def read_page(pages: Pages, scan: Scan[_Item]) -> Found[_Item]:
    """One page. Raises `Rejected(cursor_too_old)` when it would begin before what is kept."""
    found = _forward(pages, scan, scan.since) if scan.since is not None else _backward(pages, scan)
    if found.following is not None and found.following >= scan.head:
        found.following = None
    floor = scan.floor()
    if not floor:
        return found
    too_early = floor - 1 if scan.before is None else floor  # what comes before a cursor that was dropped is gone too
    begins = scan.since if scan.since is not None else scan.before
    if begins is not None and begins <= too_early:
        raise too_old(scan.journal_id, floor, scan.called)
    if scan.since is not None:
        return found
    kept = [(seq, item) for seq, item in found.items if seq > floor]
    if found.earlier is not None and len(kept) == len(found.items):
        return found
    return Found(kept, found.following, None, floor)


def cursors(scan: Scan[_Item], found: Found[_Item]) -> tuple[str | None, str | None]:
    """The cursors of the next page and of the previous one."""
    following = None if found.following is None else cursor_of(scan.journal_id, found.following)
    return following, None if found.earlier is None else cursor_of(scan.journal_id, found.earlier)


def _forward(pages: Pages, scan: Scan[_Item], since: int) -> Found[_Item]:
    taken = _Taken(scan)
    position, scanned, size, is_done = since, 0, 0, False
    while not is_done and scanned < SCAN_ROWS_MAX and size < SCAN_BYTES_MAX:
        rows = pages.page(scan.keys, position, scan.head, _CHUNK, REPLY_BYTES_MAX)
        is_done = is_whole(rows, _CHUNK, REPLY_BYTES_MAX)
        scanned += len(rows)
        size += sum(len(row.body) for row in rows)
        for row in rows:
            if not taken.take(row):
                return Found(taken.items, position, since)
            position = row.seq
    return Found(taken.items, None if is_done else position, since)


def _backward(pages: Pages, scan: Scan[_Item]) -> Found[_Item]:
    taken = _Taken(scan)
    before = scan.head + 1 if scan.before is None else min(scan.before, scan.head + 1)
    position, scanned, size, is_done = before, 0, 0, False
    while not is_done and scanned < SCAN_ROWS_MAX and size < SCAN_BYTES_MAX:
        rows = pages.page_back(scan.keys, position, _CHUNK, REPLY_BYTES_MAX)
        is_done = is_whole(rows, _CHUNK, REPLY_BYTES_MAX)
        scanned += len(rows)
        size += sum(len(row.body) for row in rows)
        for row in reversed(rows):
            if not taken.take(row):
                return Found(taken.items[::-1], before - 1, position)
            position = row.seq
    return Found(taken.items[::-1], before - 1, None if is_done else position)


class _Taken(Generic[_Item]):
    """What a page has so far, in the order in which it was found."""

    def __init__(self, scan: Scan[_Item]) -> None:
        self._scan = scan
        self._bytes = 0
        self.items: list[tuple[int, _Item]] = []

    def take(self, row: Row) -> bool:
        """Take a row in if it fits what is looked for. False when the page is full without it."""
        item = self._scan.show(recorded_of(row))
        if item is None:
            return True
        size = self._scan.size(item)
        if len(self.items) == self._scan.limit or (self.items and self._bytes + size > REPLY_BYTES_MAX):
            return False
        self.items.append((row.seq, item))
        self._bytes += size
        return True
