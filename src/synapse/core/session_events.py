"""What happens to work sessions; `events` has them in its union.

`sizes` of an event says how many decisions, files and todos the session has after it, for the answer.
"""

from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from synapse.core.idem import Idem
from synapse.core.mail import Mail
from synapse.protocol.terms import Artefact

Sizes: TypeAlias = tuple[int, int, int]


class SessionStarted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run began; the id of its session is the seq of this event. agent, owner: id and name of whose it is."""

    room: int
    room_name: str
    agent: int
    owner: str
    display_name: str
    repo: str | None = None
    task: str | None = None
    summary: str = ""
    metadata: msgspec.Raw = msgspec.Raw(b"{}")
    idem: Idem | None = None


class SessionUpdated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Fields of a session are replaced, lists appended to. state, task: as they are from now on. replaced: the lists
    whose lines come in place of those that were there. resumable_at_ms: 0 for no date."""

    session: int
    room: int
    room_name: str
    owner: str
    state: str
    sizes: Sizes
    task: str | None = None
    display_name: str | UnsetType = UNSET
    repo: str | UnsetType | None = UNSET
    summary: str | UnsetType = UNSET
    metadata: msgspec.Raw | UnsetType = UNSET
    resumable_at_ms: int | UnsetType = UNSET
    decisions: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    todos: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    idem: Idem | None = None


class SessionCheckpointed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A snapshot of a run. n: the first of the session is 1. lane: the one it belongs to."""

    session: int
    room: int
    room_name: str
    owner: str
    n: int
    data: msgspec.Raw
    artefacts: tuple[Artefact, ...] = ()
    task: str | None = None
    lane: int | None = None
    epoch: int | None = None
    idem: Idem | None = None


class SessionEnded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run is over. dropped: sessions that ended long ago and leave the state with this, because there are so many."""

    session: int
    room: int
    room_name: str
    owner: str
    state: str
    sizes: Sizes
    task: str | None = None
    reason: str | None = None
    dropped: tuple[int, ...] = ()
    idem: Idem | None = None


class SessionOffered(Mail, frozen=True, kw_only=True, omit_defaults=True):
    """The last checkpoint of a session waits for whoever claims its task. reason: expired, revoked, resumable_at."""

    session: int
    room: int
    room_name: str
    task: str
    owner: str
    reason: str
    idem: Idem | None = None


class SessionResumed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who claimed the task was given what the session left. epoch: of that lease."""

    session: int
    room: int
    room_name: str
    task: str
    owner: str
    by: str
    epoch: int
    idem: Idem | None = None


SessionEvent: TypeAlias = (
    SessionStarted | SessionUpdated | SessionCheckpointed | SessionEnded | SessionOffered | SessionResumed
)

SESSION_MAIL: Final = frozenset({SessionOffered})


def session_keys(seq: int, event: SessionEvent) -> tuple[str, ...]:
    """The index keys of an event of a session, its own first."""
    if isinstance(event, SessionStarted):
        return (f"se/{seq}",)
    own = f"se/{event.session}"
    if isinstance(event, SessionCheckpointed) and event.lane is not None:
        return own, f"la/{event.lane}"
    arrivals = event.deliveries if isinstance(event, SessionOffered) else ()
    return (own, *(f"in/{delivery.agent}" for delivery in arrivals))
