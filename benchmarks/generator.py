"""The C load generators, built here when a source is newer, run on the client's core: load.c and, for Redis, resp.c."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from benchmarks.machine import pinned

SOURCES = Path(__file__).parent
BUILD = SOURCES / "build"
SUBSCRIBE_LEASES = '{"type":"feed.subscribe","id":"subscribe","body":{"leases":true}}'
SUBSCRIBE = '{"type":"feed.subscribe","id":"subscribe","body":{"channels":["main:general"]}}'
CLIENT_CPU_MAX = 0.95
"""Above this share of its core the client, not the server, is what was measured."""


class LoadFailed(Exception):
    """The generator got a wrong, missing or refused answer."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run measured. totals include warm-up and drain: they are to be found in the journal."""

    replies_total: int
    replies_per_s: float
    p50_us: float
    p99_us: float
    deliveries_per_s: float
    delivery_p50_us: float
    delivery_p99_us: float
    client_cpu: float

    def brief(self) -> dict[str, float]:
        """The figures that are not zero, rounded, for bench.json."""
        names = self.__slots__
        return {name: round(getattr(self, name), 2) for name in names if getattr(self, name)}


def build(name: str = "load") -> Path:
    """Compile NAME.c. Raises FileNotFoundError without gcc, CalledProcessError with the compiler's words."""
    BUILD.mkdir(exist_ok=True)
    binary = BUILD / name
    changed = max(path.stat().st_mtime for path in (SOURCES / f"{name}.c", *SOURCES.glob("*.h")))
    if not binary.exists() or binary.stat().st_mtime < changed:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise FileNotFoundError("the load generator needs gcc (apt-get install gcc)")
        command = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(binary), str(SOURCES / f"{name}.c")]
        subprocess.run(command, check=True)
    return binary


@dataclass(frozen=True, slots=True)
class Generator:
    """A built generator and the core it runs on."""

    binary: Path
    core: int | None

    def run(self, port: int, *options: str, hellos: Path | None = None) -> Load:
        """One run to its end. Raises `LoadFailed`."""
        return load_of(self._command(port, options, hellos), self.core)

    def hold(self, port: int, *options: str, hellos: Path) -> "Held":
        """Open connections that stay until the block ends. Raises `LoadFailed`."""
        command = self._command(port, ("--mode", "hold", *options), hellos)
        with pinned(self.core):
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        assert process.stdout is not None
        assert process.stderr is not None
        if process.stdout.readline() != "holding\n":
            raise LoadFailed(process.stderr.read().strip())
        return Held(process)

    def _command(self, port: int, options: Sequence[str], hellos: Path | None) -> list[str]:
        command = [str(self.binary), "--port", str(port), *options]
        return command if hellos is None else [*command, "--hellos", str(hellos)]


def load_of(command: Sequence[str], core: int | None) -> Load:
    """Run a client to its end on `core`: what it printed. Raises `LoadFailed` with its last words."""
    with pinned(core):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoadFailed(done.stderr.strip()[-1000:] or f"{command[0]} ended with {done.returncode}")
    found = json.loads(done.stdout)
    return Load(**{name: found.get(name, 0) for name in Load.__slots__})


class Held:
    """Connections that are open; leaving the block closes them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __enter__(self) -> "Held":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.communicate()
