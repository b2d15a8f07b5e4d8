"""What is read of work sessions and lanes from the journal: checkpoints and messages, newest first."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from msgspec import UNSET

from synapse.core.by import By
from synapse.core.events import Recorded
from synapse.core.lane_answers import shown_lane
from synapse.core.lane_events import LaneMessaged, LaneOffered
from synapse.core.refusals import require_limit
from synapse.core.retention import floor_of
from synapse.core.session_answers import latest_session, point_of
from synapse.core.session_events import SessionCheckpointed
from synapse.core.sessions import find_session, session_id
from synapse.core.state import State
from synapse.hub.paging import Scan, cursors, read_page, recorded_of
from synapse.journal.interface import Pages
from synapse.protocol.cursor import cursor_of, seq_of
from synapse.protocol.lane_commands import ShowLane
from synapse.protocol.lane_replies import LaneEntry, LaneInfo, LaneShown
from synapse.protocol.session_commands import ReadSessionPoints
from synapse.protocol.session_replies import SessionPoint, SessionPoints

_Item = TypeVar("_Item")


def _scan(
    state: State,
    key: str,
    called: str,
    asked: ReadSessionPoints | ShowLane,
    show: Callable[[Recorded], _Item | None],
) -> Scan[_Item]:
    """What is under one key, newest first. Raises `Rejected`: `log_diverged`, `bad_request`."""
    journal_id, head = state.journal_id, state.seq
    return Scan(
        keys=(key,),
        called=called,
        since=None,
        before=None if asked.after is None else seq_of(asked.after, journal_id, head, "$.body.after"),
        head=head,
        journal_id=journal_id,
        limit=asked.limit,
        floor=lambda: floor_of(state.retention.floors, key),
        show=show,
        size=lambda item: len(msgspec.json.encode(item)),
    )


def points_scan(state: State, command: ReadSessionPoints, by: By, items_max: int) -> Scan[SessionPoint]:
    """What a request for checkpoints looks for. Raises `Rejected`: `not_found`, `bad_request`, `log_diverged`."""
    require_limit(command.limit, items_max)
    named = command.session
    session = latest_session(state, None, by) if named is None else find_session(state, named, by)

    def show(recorded: Recorded) -> SessionPoint | None:
        event = recorded.event
        return point_of(recorded, event, is_whole=True) if isinstance(event, SessionCheckpointed) else None

    return _scan(state, f"se/{session.id}", f"session {session_id(session.id)}", command, show)


def read_points(pages: Pages, scan: Scan[SessionPoint]) -> SessionPoints:
    """One page of checkpoints, newest first. Raises `Rejected(cursor_too_old)`."""
    found = read_page(pages, scan)
    _, earlier = cursors(scan, found)
    return SessionPoints(
        session=scan.called.split()[1],
        checkpoints=tuple(point for _, point in reversed(found.items)),
        next=earlier,
        first_kept=UNSET if found.first_kept is None else cursor_of(scan.journal_id, found.first_kept),
        cursor=cursor_of(scan.journal_id, scan.head),
    )


@dataclass(slots=True, frozen=True)
class LaneQuery:
    """A request for a lane: its id, how it is now, and what to look for under its key."""

    lane: int
    info: LaneInfo
    scan: Scan[LaneEntry]


def lane_query(state: State, command: ShowLane, by: By, items_max: int) -> LaneQuery:
    """What a request for a lane looks for. Raises `Rejected`: `not_found`, `bad_request`, `log_diverged`."""
    require_limit(command.limit, items_max)
    lane, info = shown_lane(state, command.lane, by)
    return LaneQuery(lane, info, _scan(state, f"la/{lane}", f"lane {info.lane}", command, _entry))


def _entry(recorded: Recorded) -> LaneEntry | None:
    event = recorded.event
    if isinstance(event, LaneMessaged):
        return LaneEntry(
            kind="message", seq=recorded.seq, by=event.sender, at_ms=recorded.at_ms, n=event.n, body=event.body
        )
    if isinstance(event, SessionCheckpointed):
        return LaneEntry(
            kind="checkpoint",
            seq=recorded.seq,
            by=event.owner,
            at_ms=recorded.at_ms,
            n=event.n,
            session=session_id(event.session),
            data=event.data,
            artefacts=event.artefacts,
        )
    return None


def read_lane(pages: Pages, query: LaneQuery) -> LaneShown:
    """A lane with one page of what was said and kept in it, newest first. Raises `Rejected(cursor_too_old)`."""
    row = pages.row(query.lane)
    assert row is not None and row.body, "the offer of a lane that is there is pinned"
    offered = recorded_of(row).event
    assert isinstance(offered, LaneOffered)
    scan = query.scan
    found = read_page(pages, scan)
    _, earlier = cursors(scan, found)
    return LaneShown(
        info=query.info,
        context=offered.context,
        entries=tuple(entry for _, entry in reversed(found.items)),
        next=earlier,
        first_kept=UNSET if found.first_kept is None else cursor_of(scan.journal_id, found.first_kept),
        cursor=cursor_of(scan.journal_id, scan.head),
    )
