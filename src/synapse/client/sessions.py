"""The client's half of work sessions: the durable record of a run."""

from collections.abc import Iterable, Mapping

from msgspec import Raw

from synapse.client.asking import Asking
from synapse.client.bodies import raw_of
from synapse.protocol import session_commands
from synapse.protocol.session_commands import NOTHING, Lines
from synapse.protocol.session_replies import (
    SessionAlive,
    SessionInfo,
    SessionKept,
    SessionPoint,
    SessionPoints,
    SessionsPage,
)
from synapse.protocol.terms import Artefact


class WorkSessions(Asking):
    """Records of runs, mine and those of others: a part of `Client`. Where a session may be left out, it is my latest
    open one."""

    async def start_session(
        self,
        display_name: str | None = None,
        *,
        task: str | None = None,
        repo: str | None = None,
        summary: str = "",
        metadata: Mapping[str, object] | None = None,
        room: str | None = None,
        idem_key: str | None = None,
    ) -> SessionKept:
        """Begin the record of a run; `session` of the answer is its id. task: the one of the room that it works on.

        Raises `Rejected`: `not_found`, `limit`, `too_large`, `bad_request`.
        """
        command = session_commands.StartSession(
            display_name=display_name,
            room=room,
            repo=repo,
            task=task,
            summary=summary,
            metadata=_object(metadata),
        )
        return await self.request(command, SessionKept, idem_key=idem_key)

    async def append_to_session(
        self,
        session: str | None = None,
        *,
        decisions: Iterable[str] = (),
        files: Iterable[str] = (),
        todos: Iterable[str] = (),
        if_version: int | None = None,
        idem_key: str | None = None,
    ) -> SessionKept:
        """Add lines to the lists of a session. Raises as `replace_in_session`."""
        lines = Lines(decisions=tuple(decisions), files=tuple(files), todos=tuple(todos))
        command = session_commands.UpdateSession(session=session, if_version=if_version, append=lines)
        return await self.request(command, SessionKept, idem_key=idem_key)

    async def replace_in_session(
        self,
        session: str | None = None,
        *,
        decisions: Iterable[str] | None = None,
        files: Iterable[str] | None = None,
        todos: Iterable[str] | None = None,
        if_version: int | None = None,
        idem_key: str | None = None,
    ) -> SessionKept:
        """Put other lines in place of lists; what is None stays. if_version: only when that is its version.

        Raises `Rejected`: `version_conflict`, `not_found`, `not_permitted`, `illegal_transition` when it has ended,
        `too_large`, `limit`.
        """
        command = session_commands.UpdateSession(
            session=session,
            if_version=if_version,
            decisions=None if decisions is None else tuple(decisions),
            files=None if files is None else tuple(files),
            todos=None if todos is None else tuple(todos),
        )
        return await self.request(command, SessionKept, idem_key=idem_key)

    async def update_session(
        self,
        session: str | None = None,
        *,
        state: str | None = None,
        display_name: str | None = None,
        repo: str | None = None,
        task: str | None = None,
        summary: str | None = None,
        metadata: Mapping[str, object] | None = None,
        resumable_at_ms: int | None = None,
        if_version: int | None = None,
    ) -> SessionKept:
        """Put other values in place of fields; what is None stays, and '' is none. state: working or waiting_for_input.
        resumable_at_ms: Unix time from which others may go on with its task; 0 for no date.

        Raises as `replace_in_session`.
        """
        command = session_commands.UpdateSession(
            session=session,
            if_version=if_version,
            state=state,
            display_name=display_name,
            repo=repo,
            task=task,
            summary=summary,
            metadata=_object(metadata),
            resumable_at_ms=resumable_at_ms,
        )
        return await self.request(command, SessionKept)

    async def beat_session(self, session: str | None = None) -> SessionAlive:
        """Say that the run goes on; needed only by who keeps no connection open. Nothing is journalled."""
        return await self.request(session_commands.BeatSession(session=session), SessionAlive)

    async def checkpoint_session(
        self,
        data: object = None,
        *,
        artefacts: Iterable[Artefact] = (),
        session: str | None = None,
        lane: str | None = None,
        epoch: int | None = None,
        idem_key: str | None = None,
    ) -> SessionPoint:
        """Keep a snapshot of the run. lane: the one that it belongs to. epoch: of my lease on the session's task, which
        then must live. Raises `Rejected`: `stale_epoch`, `too_large`, `limit`, `not_found`, `illegal_transition`."""
        command = session_commands.SaveSessionPoint(
            data=raw_of(data), session=session, artefacts=tuple(artefacts), lane=lane, epoch=epoch
        )
        return await self.request(command, SessionPoint, idem_key=idem_key)

    async def session_checkpoints(
        self, session: str | None = None, *, limit: int = 20, after: str | None = None
    ) -> SessionPoints:
        """One page of checkpoints, newest first: at most `limit`. session: without it my latest one, open or not.
        after: the `next` of the page before; `data_of` reads one."""
        command = session_commands.ReadSessionPoints(session=session, limit=limit, after=after)
        return await self.request(command, SessionPoints)

    async def session(self, session: str | None = None, *, agent: str | None = None) -> SessionInfo:
        """A session with everything about it: by id, or the latest one of an agent (without either: mine).

        Raises `Rejected(not_found)`.
        """
        return await self.request(session_commands.ShowSession(session=session, agent=agent), SessionInfo)

    async def sessions(
        self,
        *,
        agent: str | None = None,
        state: str | None = None,
        resumable: bool | None = None,
        room: str | None = None,
    ) -> tuple[SessionInfo, ...]:
        """Sessions of all rooms, or of one, the latest first. state: working, waiting_for_input, done, error or offline
        (open, and nobody there). All pages."""
        pages = self._pages(
            lambda at: session_commands.ListSessions(
                agent=agent, state=state, room=room, resumable=resumable, limit=self._page, after=at
            ),
            SessionsPage,
        )
        return tuple([session async for page in pages for session in page.sessions])

    async def end_session(
        self,
        session: str | None = None,
        *,
        state: str = "done",
        reason: str | None = None,
        idem_key: str | None = None,
    ) -> SessionKept:
        """The run is over. state: done or error. Raises `Rejected`: `illegal_transition`, `not_found`."""
        command = session_commands.EndSession(session=session, state=state, reason=reason)
        return await self.request(command, SessionKept, idem_key=idem_key)


def _object(metadata: Mapping[str, object] | None) -> Raw:
    return NOTHING if metadata is None else raw_of(dict(metadata))
