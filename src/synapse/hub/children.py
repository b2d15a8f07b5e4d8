"""Short-lived child processes that read the journal beside the hub: snapshots, the operator's verify and backup,
and the plan of a compaction.

In a process of their own, because folding or copying a long journal must not stall the loop, and because closing any
file handle on the database in the hub's process would drop SQLite's locks.
"""

import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypedDict

import msgspec

from synapse.errors import EXIT_FAILED, EXIT_JOURNAL, EXIT_OK, Rejected, bad_request
from synapse.hub.log import log
from synapse.journal.compaction import Plan
from synapse.journal.files import Files
from synapse.protocol.cursor import cursor_of
from synapse.protocol.replies import JournalBackedUp, JournalVerified

_END_S: Final = 1.0
"""How long a child may take to clear away what it has half written, when it is asked to end."""
_AGAIN_MS: Final = 1000
"""After which to try again what could not be done now."""


class _Report(TypedDict, total=False):
    """What a child prints: the fields of `admin`'s reports that are passed on, or an error."""

    error: str
    seq: int | None
    journal_id: str
    events: int
    first_seq: int
    head: int
    size_bytes: int
    path: str
    broken_seq: int | None
    finding: str | None
    plan: object


class Children:
    """Starts children and owns them until they end. At most one of each kind at a time."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def snapshot(self) -> None:
        """Fold the journal into a snapshot, unless that is under way."""
        if "snapshot" in self._tasks:
            return

        def done(code: int, report: _Report, text: str) -> None:
            if code == 0:
                log("snapshot.written", "snapshot written", **report)
            else:
                log("snapshot.failed", text or "the snapshot child failed", level=logging.WARNING, exit_code=code)

        self._start("snapshot", self._gently("synapse.journal.snapshot", str(self._home)), done)

    def verify(self, done: Callable[[JournalVerified | Rejected], None]) -> None:
        """Prove the whole journal (`requests.Keeper`)."""

        def finish(code: int, report: _Report, text: str) -> None:
            if code or report.get("finding"):
                done(_refusal("verify", code, report, text))
                return
            done(
                JournalVerified(
                    journal_id=report["journal_id"],
                    events=report["events"],
                    first_seq=report["first_seq"],
                    head=report["head"],
                    bytes=report["size_bytes"],
                    cursor=cursor_of(report["journal_id"], report["head"]),
                )
            )

        self._exclusive("verify", ["synapse.journal", "verify", str(self._home)], finish)

    @property
    def is_verifying(self) -> bool:
        """True while a verify is under way (`requests.Keeper`)."""
        return "verify" in self._tasks

    def compact(
        self, keep: Mapping[str, int], at_ms: int, done: Callable[[Plan | Rejected], None], *, dry_run: bool
    ) -> None:
        """Plan a compaction (`requests.Keeper`), behind a snapshot that is under way: it may read what would go."""

        def finish(code: int, report: _Report, text: str) -> None:
            if code:
                done(_refusal("compact", code, report, text, "$.body"))
                return
            done(msgspec.convert(report["plan"], Plan))

        asked = json.dumps({"keep": dict(keep), "at_ms": at_ms, "dry_run": dry_run})
        arguments = self._gently("synapse.journal", "compact", str(self._home), asked)
        self._exclusive("compact", arguments, finish, behind=self._tasks.get("snapshot"))

    def back_up(self, path: str, done: Callable[[JournalBackedUp | Rejected], None]) -> None:
        """Copy the journal (`requests.Keeper`)."""

        def finish(code: int, report: _Report, text: str) -> None:
            if code:
                done(_refusal("backup", code, report, text, "$.body.path"))
                return
            done(
                JournalBackedUp(
                    journal_id=report["journal_id"],
                    path=report["path"],
                    events=report["events"],
                    head=report["head"],
                    bytes=report["size_bytes"],
                    cursor=cursor_of(report["journal_id"], report["head"]),
                )
            )

        self._exclusive("backup", ["synapse.journal", "backup", str(self._home), path], finish)

    def _gently(self, *arguments: str) -> list[str]:
        """For what nobody waits for."""
        return ["synapse.hub.gentle", str(Files(self._home).wal), *arguments]

    def _exclusive(
        self,
        kind: str,
        arguments: list[str],
        done: Callable[[int, _Report, str], None],
        *,
        behind: asyncio.Task[None] | None = None,
    ) -> None:
        if kind in self._tasks:
            raise Rejected(
                "limit", f"a journal {kind} is under way; try again when it has ended", retry_after_ms=_AGAIN_MS
            )
        self._start(kind, arguments, done, behind=behind)

    def _start(
        self,
        kind: str,
        arguments: list[str],
        done: Callable[[int, _Report, str], None],
        *,
        behind: asyncio.Task[None] | None = None,
    ) -> None:
        async def run() -> None:
            if behind is not None:
                await asyncio.wait([behind])
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    *arguments,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                )
            except OSError as error:  # no descriptor or no memory for it
                done(EXIT_FAILED, {}, f"no process can be started ({error.strerror})")
                return
            try:
                out, err = await process.communicate()
            except asyncio.CancelledError:
                await end_child(process)
                raise
            code = process.returncode or 0
            lines = out.decode(errors="replace").strip().splitlines()
            is_report = code >= 0 and lines and lines[-1].startswith("{")  # who was killed may have printed half of it
            report: _Report = json.loads(lines[-1]) if is_report else {}
            words = err.decode(errors="replace").strip().splitlines()
            done(code, report, _end_of(code, words[-1] if words else ""))

        task = asyncio.create_task(run(), name=f"child-{kind}")
        self._tasks[kind] = task
        task.add_done_callback(lambda _: self._tasks.pop(kind, None))

    async def stop(self) -> None:
        """End all children."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def end_child(child: asyncio.subprocess.Process) -> None:
    """Ask a process to end; one that has not within a second is killed."""
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
    try:
        await asyncio.wait_for(child.wait(), _END_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


def _end_of(code: int, words: str) -> str:
    """How a child ended that reports nothing. words: its last."""
    try:
        name = signal.Signals(-code if code < 0 else code - 128).name
    except ValueError:
        return words or f"its process ended with {code}"
    return f"its process was ended by {name}"


def _refusal(kind: str, code: int, report: _Report, text: str, path: str | None = None) -> Rejected:
    """Why there is no answer. Only what a child has found speaks against the journal; that it cannot be done as it was
    asked is of the field at `path`; a child that failed passes."""
    found = report.get("finding") or report.get("error")
    if found and code in (EXIT_OK, EXIT_JOURNAL):
        return Rejected("journal_broken", found, {"seq": report.get("broken_seq") or report.get("seq")})
    if found and path is not None:
        return bad_request(found, path)
    detail = f"the journal {kind} could not be done: {found or text}"
    return Rejected("limit", detail, retry_after_ms=_AGAIN_MS)
