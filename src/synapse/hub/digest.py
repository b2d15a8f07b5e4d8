"""A digest: what the state knows of an agent in this turn, with what must be read from the journal up to its head.

The state is looked at in the turn, and the rows after it on the reader thread, none behind the seq of that turn: all of
a digest is true at one seq. What is counted is bounded; a count that met its bound says so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from synapse.core.by import By
from synapse.core.digest import Picture, came_after, channel_keys, counted, first, picture
from synapse.core.events import LEASES, Row
from synapse.core.leases import RANK
from synapse.core.plan_events import TaskMoved
from synapse.core.refusals import require_limit
from synapse.core.retention import floor_of
from synapse.core.rooms import room_of
from synapse.core.state import State
from synapse.core.telling import shown_to
from synapse.hub.paging import recorded_of
from synapse.journal.interface import Pages, is_whole
from synapse.protocol.cursor import cursor_of, seq_of
from synapse.protocol.digest_commands import ReadDigest
from synapse.protocol.digest_replies import Digest, DigestAsk, DigestCounts
from synapse.protocol.notices import Message

ASKS_READ_MAX: Final = 2_000
"""Of more unread messages the newest so many are put in order."""
ROWS_COUNTED_MAX: Final = 2_000
BYTES_COUNTED_MAX: Final = 8 * 1024 * 1024
"""Rows that one line of counts looks through, and the bytes of their bodies, with one row more."""
TEXT_CHARS: Final = 160
"""So much of a message is told."""


@dataclass(slots=True, frozen=True)
class DigestQuery:
    """A digest with names resolved, and what the state told. groups: what is counted, with the index keys it is under.
    behind: of these, behind which seq the agent reads. after: a seq, None when nothing is counted. floor: as it was."""

    asked: ReadDigest
    by: By
    agent: int
    room: str
    head: int
    journal_id: str
    after: int | None
    picture: Picture
    groups: dict[str, dict[str, str]]
    behind: dict[str, int]
    of_room: str
    came: tuple[str, ...]
    floor: Callable[[str], int]


def digest_query(state: State, command: ReadDigest, by: By, items_max: int) -> DigestQuery:
    """Raises `Rejected`: `anonymous`, `not_found`, `bad_request`, `log_diverged`."""
    agent, room = by.require_agent(), room_of(state, command.room, by)
    require_limit(command.limit, items_max)
    after = None if command.since is None else seq_of(command.since, state.journal_id, state.seq)
    channels = channel_keys(state, room, by)
    groups = {
        "inbox": {f"in/{agent}": ""},
        "messages": {key: name for key, (name, _) in channels.items()},
        "plan": {f"pl/{room.id}": ""},
        "leases": {LEASES: ""},
        "values": {f"kv/{room.id}": ""},
        "came": {f"ro/{room.id}": ""},
    }
    return DigestQuery(
        asked=command,
        by=by,
        agent=agent,
        room=room.name,
        head=state.seq,
        journal_id=state.journal_id,
        after=after,
        picture=picture(state, room, by, after),
        groups=groups,
        behind={key: seq for key, (_, seq) in channels.items()},
        of_room=f"ta/{room.id}/",
        came=() if after is None else tuple(came_after(state, after, by)),
        floor=lambda key: floor_of(state.retention.floors, key),
    )


def read_digest(pages: Pages, query: DigestQuery) -> Digest:
    """The digest."""
    found, limit = query.picture, query.asked.limit
    asks = sorted(_asks(pages, query), key=lambda ask: (-RANK[ask.priority], ask.at_ms))
    news = [] if query.after is None else _news(pages, query, query.after)
    return Digest(
        seq=query.head,
        at_ms=query.by.at_ms,
        agent=query.by.actor,
        room=query.room,
        since=query.asked.since,
        new=query.after is None or any(line.total or line.at_least for line in news),
        asked=first(asks, limit),
        asked_total=len(found.unread) + len(found.offers),
        blocked=first(found.blocked, limit),
        blocked_total=len(found.blocked),
        mine=first(found.mine, limit),
        mine_total=len(found.mine),
        rest=(*news, *found.counts),
        cursor=cursor_of(query.journal_id, query.head),
    )


# What is asked.


def _asks(pages: Pages, query: DigestQuery) -> list[DigestAsk]:
    asks: list[DigestAsk] = []
    for entry in query.picture.unread[-ASKS_READ_MAX:]:
        row = pages.row(entry.seq)
        if row is None or not row.body:  # acked meanwhile, and dropped
            continue
        message = shown_to(query.journal_id, recorded_of(row), query.agent)
        assert message is not None, "a message in an inbox is for its agent"
        asks.append(_ask(message, is_new=query.after is not None and entry.seq > query.after))
    for offer in query.picture.offers:
        assert offer.id is not None, "an offer is made with a message"
        row = pages.row(int(offer.id[1:]))
        asks.append(offer if row is None else msgspec.structs.replace(offer, at_ms=row.at_ms))
    return asks


def _in_words(letter: dict[str, object]) -> str:
    """The facts of a letter of the hub's own, and the command that follows from them; its subject says the rest."""
    facts = {key: value for key, value in letter.items() if key not in ("type", "next") and value not in (None, "")}
    words = [
        f"{key} {value if isinstance(value, str) else msgspec.json.encode(value).decode()}"
        for key, value in facts.items()
    ]
    follows = letter.get("next")
    return ", ".join(words) + (f"; next: {follows}" if follows else "")


def _ask(message: Message, *, is_new: bool) -> DigestAsk:
    body = msgspec.json.decode(message.body)
    text = body if isinstance(body, str) else bytes(message.body).decode()
    if message.kind == "system":
        text = _in_words(body)
    return DigestAsk(
        kind="message" if message.room is None else "mention",
        by=message.sender,
        at_ms=message.sent_at_ms,
        priority=message.priority,
        id=message.id,
        subject=message.subject,
        text=text[:TEXT_CHARS],
        cut=len(text) > TEXT_CHARS,
        new=is_new,
        room=message.room,
        channel=None if message.room is None else message.channel,
    )


# What is counted.


def _news(pages: Pages, query: DigestQuery, after: int) -> list[DigestCounts]:
    """What others did after a seq; a line for each group in which something happened."""
    lines: list[DigestCounts] = []
    for of, keys in query.groups.items():
        rows = pages.page(tuple(keys), after, query.head, ROWS_COUNTED_MAX, BYTES_COUNTED_MAX) if keys else []
        counts: dict[str, int] = {}
        for row in rows:
            name = None if row.actor == query.by.actor else _name(query, of, row, keys)
            if name is not None:
                counts[name] = counts.get(name, 0) + 1
        if of == "came":
            counts = dict.fromkeys([*counts, *query.came], 1)
        is_cut = not is_whole(rows, ROWS_COUNTED_MAX, BYTES_COUNTED_MAX) or any(
            query.floor(key) > after for key in keys
        )
        if counts or is_cut:
            lines.append(counted(of, counts, since=True, at_least=is_cut))
    return lines


def _name(query: DigestQuery, of: str, row: Row, keys: dict[str, str]) -> str | None:
    """Under which name a row counts; None when it does not."""
    match of:
        case "messages":
            return keys.get(row.key) if row.seq > query.behind.get(row.key, 0) else None
        case "inbox":
            return _ARRIVALS.get(row.type, "leases")
        case "leases":
            return _change(row) if row.key.startswith(query.of_room) else None
        case "came":
            return row.actor if row.type == "room.joined" else None
        case "plan" if row.type == "task.moved":
            return _moved(row, query.by.actor)
        case _:
            return _change(row)


_ARRIVALS: Final = {"message.sent": "messages", "message.posted": "mentions"}


def _change(row: Row) -> str:
    """What happened, in a word."""
    return row.type.partition(".")[2]


def _moved(row: Row, me: str) -> str | None:
    """The status that a task has now; None when the hub moved it because I claimed or released it."""
    event = recorded_of(row).event
    assert isinstance(event, TaskMoved)
    return None if event.owner == me and event.reason in ("claimed", "released") else event.status
