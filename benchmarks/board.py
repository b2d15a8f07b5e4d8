"""A plan of 10 000 tasks with 50 000 dependencies: what it costs to print it, and to declare one task more into it."""

import json
import os
import random
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.bench import Bench, clients
from benchmarks.generator import Load
from benchmarks.machine import pinned
from benchmarks.servers import Hub, ServerFailed, rows_of

TASKS = 10_000
EACH = 5
"""Dependencies of each task, on some of those shortly before it."""
SPAN = 400
BATCH = 200
RUNS = 5
CONNECTIONS = 32
WINDOW = 16
WORDS = ("parse", "review", "the", "scheduler", "tests", "of", "journal", "write", "release", "notes")
BARE_LOOP = (
    "import json, sys, time\n"
    "tasks = json.load(open(sys.argv[1]))['tasks']\n"
    "begun = time.perf_counter()\n"
    "for task in tasks:\n"
    "    print(json.dumps(task))\n"
    "sys.stdout.flush()\n"
    "print(len(tasks), time.perf_counter() - begun, file=sys.stderr)\n"
)


def plan() -> list[dict[str, object]]:
    """The same tasks on every run."""
    chance = random.Random(1)
    tasks: list[dict[str, object]] = []
    for n in range(TASKS + EACH):
        needs = sorted(chance.sample(range(max(0, n - SPAN), n), EACH)) if n >= EACH else []
        title = " ".join(chance.choices(WORDS, k=6))
        depends_on = [f"plan-{other:05}" for other in needs]
        tasks.append({"task": f"plan-{n:05}", "title": title, "labels": [f"area-{n % 7}"], "depends_on": depends_on})
    return tasks


def fill(hub: Hub) -> None:
    """Declare the plan. Raises `ServerFailed` for a refusal."""
    tasks = plan()
    requests: list[dict[str, object]] = [
        {"type": "task.declare_all", "id": at, "body": {"tasks": tasks[at : at + BATCH]}}
        for at in range(0, len(tasks), BATCH)
    ]
    hub.ask_as("planner", requests)


def board(bench: Bench) -> None:
    """`synapse board --json` as a whole process with all pages, against a bare loop that prints the same objects; then
    declarations on a hub with the plan, against those on a hub with none."""
    with bench.home() as home, bench.home() as full_home:
        with bench.hub(home) as hub, bench.hub(full_home) as full:
            fill(full)
            _print(bench, full_home)
            empty, among = _declare(bench, hub, full)
        _require_tasks(home, empty.replies_total)
        _require_tasks(full_home, among.replies_total + TASKS + EACH)


def _print(bench: Bench, home: Path) -> None:
    script = Path(sys.executable).with_name("synapse")
    if not script.exists():
        raise FileNotFoundError(f"{script} is missing: `synapse board` is measured on the installed script")
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "SYNAPSE_HOME": str(home), "SYNAPSE_NAME": "bench-cli"}
    printed = home / "board.json"
    with pinned(bench.client_core):
        boards, loops = [], []
        for _ in range(RUNS):
            with printed.open("wb") as out:
                begun = time.perf_counter()
                subprocess.run([str(script), "board", "--json"], stdout=out, env=env, check=True)
                boards.append((time.perf_counter() - begun) * 1e3)
            loops.append(_loop_ms(printed))
    found = json.loads(printed.read_text("utf-8"))
    if len(found["tasks"]) != TASKS + EACH or sum(len(task["depends_on"]) for task in found["tasks"]) != TASKS * EACH:
        raise ServerFailed(f"board printed {len(found['tasks'])} tasks of {TASKS + EACH}")
    board_ms, loop_ms = median(boards), median(loops)
    bench.figures.record("board", board_ms / loop_ms, round=bench.round, ms=board_ms, bare_loop_ms=loop_ms, runs=RUNS)
    bench.say(
        f"board --json of {TASKS:,} tasks and {TASKS * EACH:,} dependencies: {board_ms:.0f} ms from start to exit, "
        f"bare loop {loop_ms:.0f} ms"
    )


def _loop_ms(printed: Path) -> float:
    with (printed.parent / "loop.json").open("wb") as out:
        command = [sys.executable, "-c", BARE_LOOP, str(printed)]
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=True)
    return float(done.stderr.split()[1]) * 1e3


def _declare(bench: Bench, hub: Hub, full: Hub) -> tuple[Load, Load]:
    people = ("--kind", "task", "--connections", str(CONNECTIONS), "--window", str(WINDOW))
    options = (*people, *bench.timed(0.5))
    empty, among = bench.both_ways(
        [
            partial(bench.generator.run, hub.port, *options, hellos=hub.hellos(CONNECTIONS)),
            partial(bench.generator.run, full.port, *options, hellos=full.hellos(CONNECTIONS)),
        ]
    )
    bench.compare("declare", empty.replies_per_s / among.replies_per_s, among, empty)
    bench.say(
        f"declare: {1e6 / among.replies_per_s:.1f} µs for a task with {EACH} dependencies among {TASKS:,}, "
        f"{1e6 / empty.replies_per_s:.1f} µs among none, {clients(among, empty)}"
    )
    return empty, among


def _require_tasks(home: Path, declared: int) -> None:
    rows = rows_of(home, "task.declared")
    if rows != declared:
        raise ServerFailed(f"{declared} declarations were acknowledged, {rows} are in the journal")
