"""Answers that need the disk: history, inbox lists, lent messages, receipts. They run on the reader thread.

Whatever they read is durable: they are started after the commit of the turn they belong to, and read up to its head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from synapse.core.events import MessagePosted, MessageSent, Recorded, Row
from synapse.core.kernel import shown_to
from synapse.core.retention import too_old
from synapse.errors import Rejected
from synapse.journal.interface import Pages
from synapse.journal.upcast import decode
from synapse.protocol.commands import ReadHistory
from synapse.protocol.cursor import cursor_of, seq_of_message
from synapse.protocol.notices import Message
from synapse.protocol.replies import History, Inbox

REPLY_BYTES_MAX: Final = 200 * 1024
"""Pages stop growing here; with one more message they stay below the largest frame."""
SCAN_ROWS_MAX: Final = 5_000
"""Rows one request looks through for its filters; the reply's cursor goes on from there."""
_CHUNK: Final = 500


@dataclass(slots=True, frozen=True)
class HistoryQuery:
    """A history request with names resolved. keys: index keys. since, before: seqs, None when not given.

    called: what is read. floor: up to where nothing is kept; asked once the rows are there, as a compaction may go on.
    """

    keys: tuple[str, ...]
    called: str
    floor: Callable[[], int]
    agent: int | None
    since: int | None
    before: int | None
    head: int
    journal_id: str
    asked: ReadHistory


def recorded_of(row: Row) -> Recorded:
    """A journal row as an event, upcast if it is an older one."""
    return Recorded(row.seq, row.at_ms, row.actor, decode(row))


def _size(message: Message) -> int:
    return len(bytes(message.body)) + 512


def _filter(asked: ReadHistory) -> Callable[[Message], bool]:
    text = None if asked.text is None else asked.text.casefold()

    def fits(message: Message) -> bool:
        if asked.sender is not None and message.sender != asked.sender:
            return False
        if asked.from_ms is not None and message.sent_at_ms < asked.from_ms:
            return False
        if asked.until_ms is not None and message.sent_at_ms > asked.until_ms:
            return False
        if text is None:
            return True
        body = msgspec.json.decode(message.body)
        plain = body if isinstance(body, str) else msgspec.json.encode(body).decode()
        return text in plain.casefold() or (message.subject is not None and text in message.subject.casefold())

    return fits


def read_history(pages: Pages, query: HistoryQuery) -> History:
    """One page of history. Raises `Rejected(cursor_too_old)` when it would begin before what is kept."""
    found = _forward(pages, query, query.since) if query.since is not None else _backward(pages, query)
    floor = query.floor()
    if not floor:
        return found
    too_early = floor - 1 if query.before is None else floor  # what comes before a cursor that was dropped is gone too
    begins = query.since if query.since is not None else query.before
    if begins is not None and begins <= too_early:
        raise too_old(query.journal_id, floor, query.called)
    if query.since is not None:
        return found
    kept = tuple(message for message in found.messages if seq_of_message(message.id) > floor)
    if found.previous is not None and len(kept) == len(found.messages):
        return found
    return msgspec.structs.replace(found, messages=kept, previous=None, first_kept=cursor_of(query.journal_id, floor))


def _forward(pages: Pages, query: HistoryQuery, since: int) -> History:
    fits = _filter(query.asked)
    found: list[Message] = []
    position, size, scanned, is_done = since, 0, 0, False
    while not is_done and scanned < SCAN_ROWS_MAX:
        rows = pages.page(query.keys, position, query.head, _CHUNK)
        is_done = len(rows) < _CHUNK
        scanned += len(rows)
        for row in rows:
            message = shown_to(query.journal_id, recorded_of(row), query.agent)
            if message is not None and fits(message):
                if len(found) == query.asked.limit or (found and size + _size(message) > REPLY_BYTES_MAX):
                    return _history(query, found, following=position, earlier=since)
                found.append(message)
                size += _size(message)
            position = row.seq
    following = None if is_done else position
    return _history(query, found, following=following, earlier=since)


def _backward(pages: Pages, query: HistoryQuery) -> History:
    fits = _filter(query.asked)
    found: list[Message] = []
    before = query.head + 1 if query.before is None else min(query.before, query.head + 1)
    position, size, scanned, is_done = before, 0, 0, False
    while not is_done and scanned < SCAN_ROWS_MAX:
        rows = pages.page_back(query.keys, position, _CHUNK)
        is_done = len(rows) < _CHUNK
        scanned += len(rows)
        for row in reversed(rows):
            message = shown_to(query.journal_id, recorded_of(row), query.agent)
            if message is not None and fits(message):
                if len(found) == query.asked.limit or (found and size + _size(message) > REPLY_BYTES_MAX):
                    return _history(query, found[::-1], following=before - 1, earlier=position)
                found.append(message)
                size += _size(message)
            position = row.seq
    earlier = None if is_done else position
    return _history(query, found[::-1], following=before - 1, earlier=earlier)


def _history(query: HistoryQuery, found: Sequence[Message], *, following: int | None, earlier: int | None) -> History:
    at_head = following is None or following >= query.head
    return History(
        messages=tuple(found),
        next=None if at_head or following is None else cursor_of(query.journal_id, following),
        previous=None if earlier is None else cursor_of(query.journal_id, earlier),
        cursor=cursor_of(query.journal_id, query.head),
    )


def read_message(pages: Pages, journal_id: str, seq: int, agent: int) -> Message | None:
    """The message at `seq` as its recipient sees it; None when it was acked and dropped since it was looked for."""
    row = pages.row(seq)
    assert row is not None, "a message in an inbox is in the journal"
    if not row.body:
        return None
    message = shown_to(journal_id, recorded_of(row), agent)
    assert message is not None, "a message in an inbox is for its agent"
    return message


def read_inbox(
    pages: Pages,
    journal_id: str,
    agent: int,
    entries: Sequence[tuple[int, str, int]],
    *,
    unacked: int,
    head: int,
    more: bool,
) -> Inbox:
    """A page of an inbox: entries (seq, delivery, lends) with their bodies. more: others follow behind the last one."""
    found: list[Message] = []
    size = 0
    for seq, delivery, lends in entries:
        message = read_message(pages, journal_id, seq, agent)
        if message is None:
            continue
        if found and size + _size(message) > REPLY_BYTES_MAX:
            more = True
            break
        found.append(msgspec.structs.replace(message, delivery=delivery, lends=lends))
        size += _size(message)
    return Inbox(
        messages=tuple(found),
        unacked=unacked,
        next=found[-1].id if more and found else None,
        cursor=cursor_of(journal_id, head),
    )


def read_recipients(pages: Pages, seq: int, sender: str, head: int) -> dict[int, str]:
    """Who a direct message of `sender` went to: agent ids and names. Raises `Rejected(not_found)`."""
    row = pages.row(seq) if seq <= head else None
    if row is not None and not row.body and row.actor == sender:
        raise Rejected(
            "not_found", f"m{seq} was dropped by retention, and who acked it is not known any more", {"id": f"m{seq}"}
        )
    if row is not None and row.type in ("message.sent", "message.posted") and row.actor == sender:
        event = decode(row)
        if isinstance(event, MessageSent):
            return {delivery.agent: delivery.name for delivery in event.to}
        if isinstance(event, MessagePosted):
            raise Rejected("bad_request", "receipts are for direct messages; this one went to a channel")
    raise Rejected("not_found", f"you sent no direct message m{seq}", {"id": f"m{seq}"})
