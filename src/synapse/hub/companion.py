"""The supervisor that a hub starts beside itself (`synapse hub --supervise`): a child that is a client like any other.

It speaks over the hub's own Unix socket and ends with the hub, also when that is killed: its standard input ends then.
One that dies is started again after a pause that grows, and the log says so.
"""

import asyncio
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from synapse.hub.children import end_child
from synapse.hub.log import log

if TYPE_CHECKING:
    from synapse.hub.settings import Settings

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
SOUND_S: Final = 60.0
"""Who lived so long begins with the first pause again."""


def command_of(settings: "Settings", uris: Sequence[str]) -> list[str]:
    """The child's command line."""
    uri = next((uri for uri in uris if uri.startswith("unix:")), uris[0])
    terms = {
        "--every": settings.supervise_every_s,
        "--orphaned": settings.supervise_orphaned_s,
        "--tries": settings.supervise_tries,
    }
    words = [word for flag, value in terms.items() for word in (flag, str(value))]
    if settings.token_file is not None:
        words += ["--token-file", str(settings.token_file)]
    home = str(settings.home)
    return [sys.executable, "-m", "synapse", "supervisor", "--until-eof", *words, "--home", home, "--uri", uri]


class Companion:
    """Keeps one child running. pauses are in seconds, for tests."""

    def __init__(self, command: Sequence[str], first_pause_s: float = FIRST_PAUSE_S) -> None:
        self._command = command
        self._first_pause_s = first_pause_s

    async def run(self) -> None:
        """Until it is cancelled; then the child ends first."""
        loop, pause_s = asyncio.get_running_loop(), self._first_pause_s
        while True:
            began_s = loop.time()
            how = await self._live()
            if loop.time() - began_s >= SOUND_S:
                pause_s = self._first_pause_s
            log("supervisor.died", f"{how}; it is started again", level=logging.WARNING, pause_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _live(self) -> str:
        """One life of the child; how it ended."""
        try:
            child = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            return f"the supervisor cannot be started ({error.strerror})"
        log("supervisor.started", "started", pid=child.pid)
        assert child.stderr is not None
        try:
            async for line in child.stderr:
                log("supervisor.said", line.decode(errors="replace").strip().removeprefix("synapse: "), pid=child.pid)
            return f"the supervisor ended with exit code {await child.wait()}"
        finally:
            if child.returncode is None:
                await end_child(child)
