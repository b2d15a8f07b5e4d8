"""How long starts take: the hub on a long journal, and the command line's fast verbs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

from benchmarks.bench import Bench
from benchmarks.machine import pinned, run_s

EVENTS = 200_000
RUNS = 10


def replay(bench: Bench) -> None:
    """From process start to READY without a snapshot, less the same on an almost empty journal, by the bare loop."""
    long, empty = bench.folder / "long", bench.folder / "empty"
    if not long.exists():
        fill(bench, long, EVENTS)
        fill(bench, empty, 10)
        _ready_s(bench, long), _ready_s(bench, empty)  # the first start makes the token and compiles nothing twice

    def bare() -> float:
        found = json.loads(_module(bench, "benchmarks.replay_baseline", "loop", str(long)))
        assert found["events"] > EVENTS
        return float(found["seconds"])

    loop_s, nothing_s, ready_s = bench.both_ways([bare, lambda: _ready_s(bench, empty), lambda: _ready_s(bench, long)])
    ratio = (ready_s - nothing_s) / loop_s
    bench.figures.record(
        "replay", ratio, round=bench.round, ready_s=ready_s, ready_empty_s=nothing_s, bare_loop_s=loop_s, events=EVENTS
    )
    bench.say(
        f"replay: READY after {ready_s:.2f} s with {EVENTS:,} events, {nothing_s:.2f} s with none, "
        f"bare loop {loop_s:.2f} s"
    )


def fill(bench: Bench, home: Path, events: int) -> None:
    """A journal with about so many messages, a year old."""
    _module(bench, "benchmarks.replay_baseline", "fill", str(home), str(events))


def _ready_s(bench: Bench, home: Path) -> float:
    shutil.rmtree(home / "snapshots", ignore_errors=True)
    hub = bench.hub(home)
    hub.__enter__()
    hub.kill()
    return hub.ready_s


def _module(bench: Bench, name: str, *arguments: str) -> str:
    with pinned(bench.server_core):
        done = subprocess.run([sys.executable, "-m", name, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def cli(bench: Bench) -> None:
    """Whole processes, turn by turn: `python -c pass`, `synapse send` with its reply, `synapse --help`."""
    script = Path(sys.executable).with_name("synapse")
    if not script.exists():
        raise FileNotFoundError(
            f"{script} is missing: the fast verbs are measured on the installed script (make bench)"
        )
    with bench.home() as home, bench.hub(home):
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "SYNAPSE_HOME": str(home),
            "SYNAPSE_NAME": "bench-cli",
        }
        commands = {
            "bare": [sys.executable, "-c", "pass"],
            "send": [str(script), "send", "the tests of the scheduler pass again"],
            "help": [str(script), "--help"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        with pinned(bench.client_core):
            for name in commands:
                run_s(commands[name], env)
            for _ in range(RUNS):
                for name in commands:
                    times[name].append(run_s(commands[name], env) * 1e3)
    middle = {name: median(found) for name, found in times.items()}
    for name in ("send", "help"):
        bench.figures.record(
            name, middle[name] / middle["bare"], round=bench.round, ms=middle[name], bare_ms=middle["bare"], runs=RUNS
        )
    bench.say(
        f"command line: send {middle['send']:.1f} ms, --help {middle['help']:.1f} ms, "
        f"python -c pass {middle['bare']:.1f} ms (medians of {RUNS})"
    )
