"""What happened, read from the journal for one pair of eyes: pages that go forward from a cursor.

There is one way: who follows reads the page behind the last one, and waits for it at the head. So nothing can be missed
or told twice where the past ends. A request looks through a bounded number of rows; its `next` goes on from there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from msgspec import UNSET, Raw

from synapse.core.by import By
from synapse.core.events import AgentCreated, ChannelCreated, Event, RoomCreated, Row
from synapse.core.happenings import RECORDED_AS, Place, kinds_named, line_of
from synapse.core.refusals import require_limit
from synapse.core.retention import kind_of, kind_of_floor, too_old
from synapse.core.rooms import floor_of_channel, may_see, require_room
from synapse.core.state import State
from synapse.errors import Rejected
from synapse.hub.paging import REPLY_BYTES_MAX, SCAN_ROWS_MAX, recorded_of
from synapse.journal.interface import Pages
from synapse.journal.upcast import decode
from synapse.protocol.cursor import cursor_of, seq_of
from synapse.protocol.event_commands import ReadEvents
from synapse.protocol.event_replies import EventsPage

_CHUNK: Final = 500
_SENT: Final = "message.sent"


@dataclass(slots=True, frozen=True)
class EventsQuery:
    """A request with its words resolved. since: a seq, None for the beginning of what is kept. recorded_as: journal
    names of the events that are worth decoding. floor: up to where some of it is not kept any more."""

    state: State
    by: By
    since: int | None
    head: int
    journal_id: str
    limit: int
    kinds: frozenset[str]
    recorded_as: frozenset[str]
    room: int | None
    floor: Callable[[], int]


def events_query(state: State, command: ReadEvents, by: By, items_max: int) -> EventsQuery:
    """What a request for events looks for. Raises `Rejected`: `bad_request`, `not_found`, `log_diverged`,
    `cursor_too_old`."""
    require_limit(command.limit, items_max)
    kinds = kinds_named(command.kinds)
    recorded_as = frozenset(RECORDED_AS[kind] for kind in kinds)
    room = None if command.room is None else require_room(state, command.room, by).id
    since = None if command.since is None else seq_of(command.since, state.journal_id, state.seq)
    query = EventsQuery(
        state=state,
        by=by,
        since=since,
        head=state.seq,
        journal_id=state.journal_id,
        limit=command.limit,
        kinds=kinds,
        recorded_as=recorded_as,
        room=room,
        floor=lambda: _floor(state, by, recorded_as, room),
    )
    if since is not None:
        _require_kept(query, since)
    return query


def _require_kept(query: EventsQuery, since: int) -> None:
    floor = query.floor()
    if since < floor:
        raise too_old(query.journal_id, floor, "what you ask for")


def _floor(state: State, by: By, recorded_as: frozenset[str], room: int | None) -> int:
    """Up to where retention dropped something that `by` would be told."""
    dropped = {kind_of(name) for name in recorded_as}
    highest = 0
    for key, floor in state.retention.floors.items():
        if floor > highest and kind_of_floor(key) in dropped and _concerns(state, by, key, room):
            highest = floor
    return highest


def _concerns(state: State, by: By, key: str, room: int | None) -> bool:
    """True when what was dropped under an index key may have been for who asks."""
    noun, _, rest = key.partition("/")
    if noun == "re":
        return False  # lends and acks are no lines
    if noun not in ("in", "ch", "kv", "pl"):
        return True  # it stands for all of a kind
    if noun == "in":
        return room is None and int(rest) == by.agent
    place = int(rest)
    if noun == "ch":
        channel = state.rooms.channels.get(place)
        if channel is None:
            return True  # it is gone, and its room with it or not
        place = channel.room
    return (room is None or place == room) and _sees(state, by, place)


def _sees(state: State, by: By, room: int) -> bool:
    found = state.rooms.by_id.get(room)
    return by.operator if found is None else may_see(found, by)


class JournalEyes:
    """Who asks; the names of what is gone come from the events that made it, which are never dropped."""

    def __init__(self, state: State, pages: Pages, by: By) -> None:
        self.by = by
        self.journal_id = state.journal_id
        self._state = state
        self._pages = pages

    def sees(self, room: int) -> bool:
        """See `Eyes`."""
        return _sees(self._state, self.by, room)

    def reads(self, channel: int, seq: int) -> bool:
        """See `Eyes`."""
        known = self._state.rooms.channels.get(channel)
        if known is None:
            made = self._made(channel)
            return self.by.operator or (isinstance(made, ChannelCreated) and not made.private)
        agent = self.by.agent
        if known.private and agent not in known.members:
            return False
        return seq > floor_of_channel(self._state, known, agent)

    def knows(self, agent: int) -> bool:
        """See `Eyes`."""
        if self.by.rooms is None:
            return True
        rooms = [self._state.rooms.by_name.get(name) for name in self.by.rooms]
        return any(room is not None and agent in room.members for room in rooms)

    def knows_actor(self, name: str) -> bool:
        """See `Eyes`."""
        if self.by.rooms is None or name in ("hub", "operator"):
            return True
        agent = self._state.agents.by_name.get(name)
        return agent is not None and (agent.id == self.by.agent or self.knows(agent.id))

    def agent(self, agent: int) -> str:
        """See `Eyes`."""
        known = self._state.agents.by_id.get(agent)
        if known is not None:
            return known.name
        made = self._made(agent)
        assert isinstance(made, AgentCreated), "an agent's id is the seq of its creation"
        return made.name

    def room(self, room: int) -> str:
        """See `Eyes`."""
        known = self._state.rooms.by_id.get(room)
        if known is not None:
            return known.name
        made = self._made(room)
        assert isinstance(made, RoomCreated), "a room's id is the seq of its creation"
        return made.name

    def channel(self, channel: int) -> Place:
        """See `Eyes`."""
        known = self._state.rooms.channels.get(channel)
        if known is not None:
            return Place(known.room, known.name)
        made = self._made(channel)
        assert isinstance(made, ChannelCreated), "a channel's id is the seq of its creation"
        return Place(made.room, made.name)

    def _made(self, seq: int) -> Event:
        row = self._pages.row(seq)
        assert row is not None, "what made something is in the journal"
        return decode(row)


def read_events(pages: Pages, query: EventsQuery) -> EventsPage:
    """One page. Raises `Rejected(cursor_too_old)` when a compaction overtook it."""
    begin = query.floor() if query.since is None else query.since
    found, position = _read(pages, query, begin)
    _require_kept(query, begin)  # a compaction may go on while it is read
    first = cursor_of(query.journal_id, begin) if query.since is None and begin else UNSET
    return EventsPage(
        events=tuple(found),
        next=None if position >= query.head else cursor_of(query.journal_id, position),
        cursor=cursor_of(query.journal_id, query.head),
        first_kept=first,
    )


def _read(pages: Pages, query: EventsQuery, begin: int) -> tuple[list[Raw], int]:
    """Lines behind `begin`, and up to where they were looked for."""
    eyes = JournalEyes(query.state, pages, query.by)
    found: list[Raw] = []
    position, size = begin, 0
    for _ in range(SCAN_ROWS_MAX // _CHUNK):
        rows = pages.scan(position, query.head, _CHUNK)
        for row in rows:
            line = _line(query, eyes, row)
            if line is not None:
                size += len(bytes(line))
                if len(found) == query.limit or (found and size > REPLY_BYTES_MAX):
                    return found, position
                found.append(line)
            position = row.seq
        if len(rows) < _CHUNK:
            return found, query.head
    return found, position


def _line(query: EventsQuery, eyes: JournalEyes, row: Row) -> Raw | None:
    if row.type not in query.recorded_as:
        return None
    if row.body:
        return line_of(recorded_of(row), eyes, query.kinds, query.room)
    if row.type == _SENT and query.room is None and query.since is not None and row.actor == query.by.actor:
        raise _sent_dropped(query)
    return None


def _sent_dropped(query: EventsQuery) -> Rejected:
    """What I sent to others is gone with their inboxes, which may keep less than mine."""
    floors = query.state.retention.floors
    floor = max(value for key, value in floors.items() if key == "messages" or key.startswith("in/"))
    return too_old(query.journal_id, floor, "what you sent")
