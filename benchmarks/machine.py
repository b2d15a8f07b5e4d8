"""The machine under the figures: its cores, disks and versions, and the memory and time of other processes."""

import contextlib
import os
import platform
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})
"""File systems on which a flush costs nothing, so that no figure would mean anything."""


def cores() -> tuple[int | None, int | None]:
    """A core for the server and one for the client; None where the system cannot pin or has only one."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    free = sorted(os.sched_getaffinity(0))
    return (free[0], free[1]) if len(free) > 1 else (None, None)


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Processes started inside run on `core` only."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def file_system_of(path: Path) -> str:
    """The type of the file system `path` lies on, or `unknown`."""
    best, kind = "", "unknown"
    try:
        mounts = Path("/proc/mounts").read_text("utf-8").splitlines()
    except OSError:
        return kind
    for line in mounts:
        _, point, found, *_ = line.split()
        is_above = str(path.resolve()).startswith(point.rstrip("/") + "/")
        if is_above and len(point) >= len(best):
            best, kind = point, found
    return kind


def memory_kib(pid: int, field: str = "VmRSS") -> int:
    """A line of /proc/PID/status: `VmRSS` now, `VmHWM` at its peak."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"no {field} of process {pid}")


def busy_s() -> float:
    """Seconds that all cores together were not idle since boot; 0 where the system does not say."""
    try:
        fields = Path("/proc/stat").read_text("ascii").splitlines()[0].split()[1:]
    except OSError:
        return 0.0
    idle_and_waiting = int(fields[3]) + int(fields[4])
    return (sum(map(int, fields[:8])) - idle_and_waiting) / os.sysconf("SC_CLK_TCK")


def own_s() -> float:
    """Seconds of processor used by this process and by its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def run_s(command: Sequence[str], env: dict[str, str]) -> float:
    """Seconds from spawn to exit of a whole process, its output thrown away. Raises RuntimeError unless it exits 0."""
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    started = time.perf_counter()
    pid = os.posix_spawn(command[0], list(command), env, file_actions=quiet)
    _, status, _ = os.wait4(pid, 0)
    took = time.perf_counter() - started
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return took


def flush_us(folder: Path, times: int = 200) -> float:
    """Median of one 4 KiB write and fdatasync in `folder`."""
    path = folder / "flush.probe"
    found = []
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        flush = getattr(os, "fdatasync", os.fsync)
        for turn in range(times):
            started = time.perf_counter()
            os.pwrite(descriptor, b"x" * 4096, turn % 64 * 4096)
            flush(descriptor)
            found.append(time.perf_counter() - started)
    finally:
        os.close(descriptor)
        path.unlink()
    return median(found) * 1e6


def facts(folder: Path) -> dict[str, object]:
    """What a reader needs to compare figures: processor, system, versions, disk."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": sys.version.split()[0],
        "sqlite": sqlite3.sqlite_version,
        **{name: _version(name) for name in ("synapse-hub", "websockets", "msgspec", "h11")},
        "file_system": file_system_of(folder),
        "flush_p50_us": round(flush_us(folder)),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
