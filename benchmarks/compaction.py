"""What a client notices of a compaction that goes on beside it: p99 while it is planned and while bodies go."""

import json
import shutil
import socket
import time
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.generator import Load
from benchmarks.servers import Hub
from benchmarks.starting import fill

EVENTS = 100_000
CONNECTIONS = 8
WAIT_S = 120.0


def compaction(bench: Bench) -> None:
    """Agents that send one message after another, on a hub with an old journal: undisturbed, while a compaction is
    planned, and while it drops."""
    old = bench.folder / "old"
    if not old.exists():
        fill(bench, old, EVENTS)
    with bench.home() as home:
        shutil.copytree(old, home, dirs_exist_ok=True)
        with bench.hub(home) as hub:
            _until("the journal is proved", partial(_is_proved, hub))
            hellos = hub.hellos(CONNECTIONS)
            shape = ("--connections", str(CONNECTIONS), "--window", "1", *bench.timed())
            run = partial(bench.generator.run, hub.port, *shape, hellos=hellos)
            free: Load = run()
            with _operator(hub) as link:
                link.sendall(_line("journal.compact", {"keep": {"messages": 30 * 24 * 3600 * 1000}}))
                planned = run()
                _until("bodies go", partial(_has_base, home))
                dropping = run()
                link.setblocking(False)
                is_done = _has_answer(link)
    worst = max(planned.p99_us, dropping.p99_us)
    if is_done:
        bench.note("compaction: it ended before the measurement did; a longer journal is needed")
    detail = {"without": free.brief(), "planned": planned.brief(), "dropping": dropping.brief()}
    bench.figures.record("compaction p99", worst / free.p99_us, round=bench.round, **detail)
    bench.say(
        f"compaction: p99 {free.p99_us / 1e3:.1f} ms without, {planned.p99_us / 1e3:.1f} ms while it is planned, "
        f"{dropping.p99_us / 1e3:.1f} ms while bodies go"
    )


def _is_proved(hub: Hub) -> bool:
    with _operator(hub) as link, link.makefile("rb") as lines:
        link.sendall(_line("hub.status", {}))
        found = json.loads(lines.readline())["body"]
    return int(found["verified_through"]) > int(found["base"])


def _has_base(home: Path) -> bool:
    return any((home / "bases").glob("*.base"))


def _has_answer(link: socket.socket) -> bool:
    try:
        return bool(link.recv(1))
    except BlockingIOError:
        return False


def _operator(hub: Hub) -> socket.socket:
    """An operator's connection, greeted."""
    link = socket.socket(socket.AF_UNIX)
    link.connect(hub.unix_path)
    link.sendall(_line("hello", {"operator": True}))
    while not link.recv(65_536).endswith(b"\n"):
        pass
    return link


def _line(kind: str, body: dict[str, object]) -> bytes:
    return json.dumps({"type": kind, "id": 1, "body": body}).encode() + b"\n"


def _until(what: str, holds: "partial[bool]") -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not holds():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{what}: not within {WAIT_S} s")
        time.sleep(0.05)
