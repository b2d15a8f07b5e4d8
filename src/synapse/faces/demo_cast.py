"""What the parts of the demo share: the processes they start, and how they tell what happens."""

import os
import select
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import IO, Final, TypeAlias

from synapse.errors import SynapseError

Json: TypeAlias = dict[str, object]

SHORT: Final = {"SYNAPSE_LIMIT_TTL_MS_MIN": "1000"}
"""The hub of the demo allows leases of one second, so that nobody has to wait for a real one to end."""
PATIENCE_S: Final = 60.0
"""How long one step may take on a busy machine before the demo gives up."""


class StoryBroken(SynapseError):
    """The demo could not go on: a process ended as it should not, or something took too long."""


class Cast:
    """The processes of the demo: started, heard and ended here, so that none outlives it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.log = root / "hub.log"
        self.hub: subprocess.Popen[str] | None = None
        self.is_over = threading.Event()
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        mine = ("SYNAPSE_", "SYN_IDENTITY")
        self._environ = {key: text for key, text in os.environ.items() if not key.startswith(mine)}
        self._environ |= {"SYNAPSE_HOME": str(self.home), "PYTHONUNBUFFERED": "1", "SYNAPSE_WORKTREE": "demo", **SHORT}

    def start(self, *words: str, name: str = "", stderr: "IO[str] | int | None" = None) -> "subprocess.Popen[str]":
        """`synapse WORDS` as `name`, in a session of its own: Ctrl-C ends the demo, and the demo ends the rest."""
        with self._lock:
            if self.is_over.is_set():
                raise StoryBroken("the demo is over")
            process = subprocess.Popen(
                [sys.executable, "-m", "synapse", *words],
                env=self._environ | ({"SYNAPSE_NAME": name} if name else {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if stderr is None else stderr,
                text=True,
                start_new_session=True,
            )
            self._running.add(process)
            return process

    def run(self, *words: str, name: str = "", stdin: str = "") -> tuple[int, str, str]:
        """`synapse WORDS` to its end: exit code, stdout, stderr."""
        process = self.start(*words, name=name)
        try:
            out, err = process.communicate(stdin, timeout=PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise StoryBroken(f"synapse {' '.join(words)} took longer than {PATIENCE_S:g} s") from error
        self.forget(process)
        return process.returncode, out, err

    def must(self, *words: str, name: str = "", stdin: str = "") -> str:
        """As `run`; what it printed. Raises `StoryBroken` unless it exits 0."""
        code, out, err = self.run(*words, name=name, stdin=stdin)
        if code:
            raise StoryBroken(f"synapse {' '.join(words)} exited {code}: {err.strip() or out.strip()}")
        return out

    def start_hub(self) -> tuple[str, int]:
        """Start the hub on a free port; its ready line, and the milliseconds from start to that line."""
        begun_s = monotonic()
        with self.log.open("a") as log:
            self.hub = hub = self.start("hub", "--port", "0", stderr=log)
        assert hub.stdout is not None
        if not select.select([hub.stdout], [], [], PATIENCE_S)[0]:
            raise StoryBroken(f"the hub was not ready within {PATIENCE_S:g} s")
        line = hub.stdout.readline().strip()
        if not line.startswith("synapse hub ready "):
            raise StoryBroken(f"the hub did not start: {self.log.read_text()[-500:].strip()}")
        return line, round((monotonic() - begun_s) * 1000)

    def kill(self, process: "subprocess.Popen[str]") -> None:
        """SIGKILL: no warning, no last words."""
        process.kill()
        process.wait()
        self.forget(process)

    def forget(self, process: "subprocess.Popen[str]") -> None:
        """A process has ended: let its pipes go."""
        with self._lock:
            self._running.discard(process)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def end(self, *, but_hub: bool) -> None:
        """End all processes; `but_hub` spares the hub."""
        with self._lock:
            self.is_over.set()
            left = {process for process in self._running if not (but_hub and process is self.hub)}
        for process in left:
            process.terminate()
        for process in left:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def close(self) -> None:
        """Let all pipes go."""
        for process in list(self._running):
            self.forget(process)


def say(text: str) -> None:
    """A line of the story, shown at once."""
    print(f"\n{text}" if text[:1].isdigit() else text, flush=True)


def shown(name: str, command: str, *, is_synapse: bool = True) -> None:
    """A command, as it would be typed."""
    print(f"   {name + ' ' if name else ''}$ {'synapse ' if is_synapse else ''}{command}", flush=True)


def output(text: str) -> None:
    """What a command printed, or what was seen of it."""
    for line in text.splitlines():
        print(f"     {line}", flush=True)
