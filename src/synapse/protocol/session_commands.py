"""What may be asked about work sessions; `commands` has them in its union.

A work session is the record of one agent's run. (`session` has the states of a connection, which is something else.)
"""

from typing import Final, TypeAlias

import msgspec

from synapse.protocol.terms import Artefact, Int

NOTHING: Final = msgspec.Raw(b"null")


def _nothing() -> msgspec.Raw:
    return NOTHING


class Lines(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is appended to the lists of a session; a file that is there already stays once."""

    decisions: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    todos: tuple[str, ...] = ()


class StartSession(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Begin the record of a run. task: of the room, declared or not. metadata: a JSON object."""

    display_name: str | None = None
    room: str | None = None
    repo: str | None = None
    task: str | None = None
    summary: str = ""
    metadata: msgspec.Raw = msgspec.field(default_factory=_nothing)


class UpdateSession(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Append to the lists of a session, and replace fields of it; what is null stays.

    session: an id; null: my latest open one. if_version: only when that is its version. state: working or
    waiting_for_input. repo, task: empty for none. resumable_at_ms: when others may go on with its task; 0 for no date.
    """

    session: str | None = None
    if_version: Int | None = None
    append: Lines = Lines()
    state: str | None = None
    display_name: str | None = None
    repo: str | None = None
    task: str | None = None
    summary: str | None = None
    decisions: tuple[str, ...] | None = None
    files: tuple[str, ...] | None = None
    todos: tuple[str, ...] | None = None
    metadata: msgspec.Raw = msgspec.field(default_factory=_nothing)
    resumable_at_ms: Int | None = None


class BeatSession(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Say that the run goes on. Nothing of it is kept."""

    session: str | None = None


class SaveSessionPoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keep a snapshot of the run: any JSON, and files. lane: the one it belongs to. epoch: of my lease on the session's
    task, which then must live."""

    data: msgspec.Raw = msgspec.field(default_factory=_nothing)
    session: str | None = None
    artefacts: tuple[Artefact, ...] = ()
    lane: str | None = None
    epoch: Int | None = None


class ReadSessionPoints(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page of the checkpoints of a session, newest first. after: the `next` of the page before."""

    session: str | None = None
    limit: Int = 20
    after: str | None = None


class ShowSession(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A session with everything about it: by id, or the latest one of an agent (null: mine)."""

    session: str | None = None
    agent: str | None = None


class ListSessions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page of sessions, the latest first. agent, state, room, resumable: only those."""

    agent: str | None = None
    state: str | None = None
    room: str | None = None
    resumable: bool | None = None
    limit: Int = 200
    after: str | None = None


class EndSession(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The run is over. state: done or error."""

    session: str | None = None
    state: str = "done"
    reason: str | None = None


SessionCommand: TypeAlias = (
    StartSession
    | UpdateSession
    | BeatSession
    | SaveSessionPoint
    | ReadSessionPoints
    | ShowSession
    | ListSessions
    | EndSession
)

SESSION_COMMANDS: Final[dict[str, type[SessionCommand]]] = {
    "session.start": StartSession,
    "session.update": UpdateSession,
    "session.beat": BeatSession,
    "session.checkpoint": SaveSessionPoint,
    "session.checkpoints": ReadSessionPoints,
    "session.show": ShowSession,
    "session.list": ListSessions,
    "session.end": EndSession,
}
"""Command class by wire type."""
