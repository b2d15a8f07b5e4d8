"""What is answered about work sessions; `replies` has them in its union."""

from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from synapse.protocol import session_commands
from synapse.protocol.terms import Artefact


class SessionPoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A checkpoint of a session. checkpoint: its seq. n: the first of the session is 1. data, artefacts: not in the
    answer to who saved it."""

    checkpoint: int
    session: str
    n: int
    agent: str
    task: str | None
    lane: str | None
    epoch: int | None
    bytes: int
    at_ms: int
    data: msgspec.Raw | UnsetType = UNSET
    artefacts: tuple[Artefact, ...] | UnsetType = UNSET
    cursor: str | UnsetType = UNSET


class SessionKept(msgspec.Struct, frozen=True, kw_only=True):
    """The session as a change left it. version: seq of its last change. decisions, files, todos: how many."""

    session: str
    room: str
    agent: str
    version: int
    state: str
    task: str | None
    decisions: int
    files: int
    todos: int
    changed: bool
    cursor: str


class SessionAlive(msgspec.Struct, frozen=True, kw_only=True):
    """The beat was heard. alive_ms: for so long the session counts as online without another."""

    session: str
    alive_ms: int
    cursor: str


class SessionInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A session. declared: the state that it was given; state is that, or waiting_for_input while a question of it is
    open. counts: of its lists, its checkpoints and its open lanes. resumable: its last checkpoint waits for whoever
    claims its task. The texts and the last checkpoint are not in lists."""

    session: str
    room: str
    agent: str
    display_name: str
    version: int
    state: str
    declared: str
    presence: str
    repo: str | None
    task: str | None
    summary: str
    counts: dict[str, int]
    started_at_ms: int
    updated_at_ms: int
    ended_at_ms: int | None
    reason: str | None
    resumable_at_ms: int | None
    resumable: bool
    resumed_by: str | None
    resumed_at_ms: int | None
    decisions: tuple[str, ...] | UnsetType = UNSET
    files: tuple[str, ...] | UnsetType = UNSET
    todos: tuple[str, ...] | UnsetType = UNSET
    metadata: msgspec.Raw | UnsetType = UNSET
    last: SessionPoint | UnsetType | None = UNSET
    cursor: str | UnsetType = UNSET


class SessionPoints(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One page of checkpoints, newest first. first_kept: what came before was dropped by retention."""

    session: str
    checkpoints: tuple[SessionPoint, ...]
    next: str | None
    first_kept: str | UnsetType = UNSET
    cursor: str


class SessionsPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of sessions, the latest first."""

    seq: int
    sessions: tuple[SessionInfo, ...]
    next: str | None
    cursor: str


class Resume(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a claim goes on from: the last checkpoint of the session that broke off, and its newest lines. ready: false
    when it may only be resumed from `resumable_at_ms` on; then nothing more is told. omitted: lines left out."""

    session: str
    agent: str
    ready: bool
    resumable_at_ms: int | None = None
    at_ms: int | UnsetType = UNSET
    data: msgspec.Raw | UnsetType = UNSET
    artefacts: tuple[Artefact, ...] | UnsetType = UNSET
    summary: str | UnsetType = UNSET
    decisions: tuple[str, ...] | UnsetType = UNSET
    files: tuple[str, ...] | UnsetType = UNSET
    todos: tuple[str, ...] | UnsetType = UNSET
    omitted: int | UnsetType = UNSET


SessionReply: TypeAlias = SessionKept | SessionAlive | SessionPoint | SessionPoints | SessionInfo | SessionsPage

SESSION_REPLY_TO: Final[dict[type[msgspec.Struct], type[SessionReply]]] = {
    session_commands.StartSession: SessionKept,
    session_commands.UpdateSession: SessionKept,
    session_commands.BeatSession: SessionAlive,
    session_commands.SaveSessionPoint: SessionPoint,
    session_commands.ReadSessionPoints: SessionPoints,
    session_commands.ShowSession: SessionInfo,
    session_commands.ListSessions: SessionsPage,
    session_commands.EndSession: SessionKept,
}
