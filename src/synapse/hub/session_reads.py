"""What is read of work sessions from the journal: their checkpoints, newest first."""

import msgspec
from msgspec import UNSET

from synapse.core.by import By
from synapse.core.events import Recorded
from synapse.core.refusals import require_limit
from synapse.core.retention import floor_of
from synapse.core.session_answers import point_of
from synapse.core.session_events import SessionCheckpointed
from synapse.core.sessions import find_session, own_session, session_id
from synapse.core.state import State
from synapse.hub.paging import Scan, cursors, read_page
from synapse.journal.interface import Pages
from synapse.protocol.cursor import cursor_of, seq_of
from synapse.protocol.session_commands import ReadSessionPoints
from synapse.protocol.session_replies import SessionPoint, SessionPoints


def points_scan(state: State, command: ReadSessionPoints, by: By, items_max: int) -> Scan[SessionPoint]:
    """What a request for checkpoints looks for. Raises `Rejected`: `not_found`, `bad_request`, `log_diverged`."""
    require_limit(command.limit, items_max)
    named = command.session
    session = own_session(state, None, by) if named is None else find_session(state, named, by)
    key, head, journal_id = f"se/{session.id}", state.seq, state.journal_id

    def show(recorded: Recorded) -> SessionPoint | None:
        event = recorded.event
        return point_of(recorded, event, is_whole=True) if isinstance(event, SessionCheckpointed) else None

    return Scan(
        keys=(key,),
        called=f"session {session_id(session.id)}",
        since=None,
        before=None if command.after is None else seq_of(command.after, journal_id, head),
        head=head,
        journal_id=journal_id,
        limit=command.limit,
        floor=lambda: floor_of(state.retention.floors, key),
        show=show,
        size=_size,
    )


def _size(point: SessionPoint) -> int:
    return len(msgspec.json.encode(point))


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
