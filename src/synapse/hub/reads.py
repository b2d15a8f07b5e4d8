"""Answers that need the disk: history, inbox lists, lent messages, receipts. They run on the reader thread.

Whatever they read is durable: they are started after the commit of the turn they belong to, and read up to its head.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from msgspec import UNSET, UnsetType

from synapse.core.events import MessagePosted, Recorded
from synapse.core.inboxes import Entry
from synapse.core.telling import shown_to
from synapse.hub.paging import REPLY_BYTES_MAX, Scan, cursors, read_page, recorded_of
from synapse.journal.interface import Pages
from synapse.protocol.commands import ReadHistory
from synapse.protocol.cursor import cursor_of
from synapse.protocol.notices import Message
from synapse.protocol.replies import History, Inbox


@dataclass(slots=True, frozen=True)
class HistoryQuery:
    """A history request with names resolved. keys: index keys. since, before: seqs, None when
    not given. floors: by key, behind which seq its agent reads.

    called: what is read. floor: up to where nothing is kept; asked once the rows are there, as a compaction may go on.
    """

    keys: tuple[str, ...]
    floors: Mapping[str, int]
    called: str
    floor: Callable[[], int]
    agent: int | None
    since: int | None
    before: int | None
    head: int
    journal_id: str
    asked: ReadHistory


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
    fits = _filter(query.asked)

    def show(recorded: Recorded) -> Message | None:
        event = recorded.event
        if isinstance(event, MessagePosted) and recorded.seq <= query.floors.get(f"ch/{event.channel}", 0):
            return None
        message = shown_to(query.journal_id, recorded, query.agent)
        return message if message is not None and fits(message) else None

    scan = Scan(
        keys=query.keys,
        called=query.called,
        since=query.since,
        before=query.before,
        head=query.head,
        journal_id=query.journal_id,
        limit=query.asked.limit,
        floor=query.floor,
        show=show,
        size=_size,
    )
    found = read_page(pages, scan)
    following, previous = cursors(scan, found)
    return History(
        messages=tuple(message for _, message in found.items),
        next=following,
        previous=previous,
        first_kept=UNSET if found.first_kept is None else cursor_of(query.journal_id, found.first_kept),
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


@dataclass(slots=True, frozen=True)
class Listed:
    """What is listed of a message beside itself: how far it got, and of a dead letter when and why it died."""

    inbox: int
    seq: int
    delivery: str
    lends: int
    died_at_ms: int | None = None
    reason: str | None = None

    def on(self, message: Message) -> Message:
        """The message with what is listed of it."""
        told: dict[str, object] = {"delivery": self.delivery, "lends": self.lends}
        if self.died_at_ms is not None:
            told["died_at_ms"] = self.died_at_ms
        if self.reason is not None:
            told["reason"] = self.reason
        return msgspec.structs.replace(message, **told)


def listed(inbox: int, entry: Entry) -> Listed:
    """An entry of an inbox, or of a role's queue, as it is listed."""
    return Listed(inbox, entry.seq, entry.delivery, entry.lends, entry.died_at_ms, entry.died)


def read_inbox(
    pages: Pages,
    journal_id: str,
    entries: Sequence[Listed],
    *,
    unacked: tuple[int, int | UnsetType],
    head: int,
    more: bool,
) -> Inbox:
    """A page of what an agent may take: entries with their bodies. unacked: how many live ones are its own, and its
    roles'. more: others follow behind the last one."""
    found: list[Message] = []
    size = 0
    for entry in entries:
        message = read_message(pages, journal_id, entry.seq, entry.inbox)
        if message is None:
            continue
        if found and size + _size(message) > REPLY_BYTES_MAX:
            more = True
            break
        found.append(entry.on(message))
        size += _size(message)
    return Inbox(
        messages=tuple(found),
        unacked=unacked[0],
        shared=unacked[1],
        next=found[-1].id if more and found else None,
        cursor=cursor_of(journal_id, head),
    )


def read_ackers(pages: Pages, seq: int, acked: Mapping[int, str], head: int) -> tuple[str, ...]:
    """Who acked a message. acked: agents, and the role that it was sent to, by id with their names; the role itself is
    named only when retention has dropped which member it was."""
    rows = pages.page((f"ak/{seq}",), seq, head, 1)
    member = {int(row.key[3:]): row.actor for row in rows}
    return tuple(member.get(inbox, name) for inbox, name in acked.items())
