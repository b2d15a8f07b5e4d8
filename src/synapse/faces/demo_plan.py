"""The part of the demo about a plan: tasks that wait for each other, and a board that tells how one frees the next."""

import json
import subprocess
import threading
from collections.abc import Callable
from time import monotonic
from typing import Final

from synapse.faces.demo_cast import PATIENCE_S, Cast, Json, StoryBroken, output, say, shown

PLAN: Final = (
    {"task": "build", "title": "Build it"},
    {"task": "docs", "depends_on": ["build"]},
    {"task": "test", "depends_on": ["build"]},
    {"task": "release", "title": "Release it", "depends_on": ["docs", "test"]},
)
WORKERS: Final = (("bob", "build"), ("cleo", "test"), ("dora", "docs"), ("bob", "release"))
"""Who does what, in this order."""
FREES: Final = {"build": "docs,test", "docs": "release"}
"""What becomes ready when one of them is done."""
OPENED: Final = [
    "ready build",
    "done build",
    "ready docs,test",
    "done test",
    "done docs",
    "ready release",
    "done release",
]
"""What the board has to tell of it."""


def follow_a_plan(cast: Cast, claim: Callable[..., Json]) -> tuple[list[str], int]:
    """Declare a plan and work it off beside a board. What the board told, as in `OPENED`, and how many milliseconds it
    took from the first command that ended a task to the board's word. Raises `StoryBroken`."""
    say("5  A plan, in which each task frees the next")
    shown("", "board --watch &")
    watcher = cast.start("board", "--watch", "--json", name="ear", stderr=subprocess.PIPE)
    patience = threading.Timer(PATIENCE_S, watcher.kill)
    patience.daemon = True  # who interrupts the story here does not wait for it
    patience.start()
    try:
        _next(watcher)  # the plan as it was, without a task
        shown("ada", "task declare --file plan.json")
        cast.must("task", "declare", "--file", "-", name="ada", stdin=json.dumps(PLAN))
        shown("", "board --tree")
        output(cast.must("board", "--tree").rstrip())
        steps: list[str] = []
        unblocked_ms = -1
        _hear(watcher, steps, "ready build")
        for name, task in WORKERS:
            claim(name, task, "--ttl", "60")
            if task == "test":
                shown("", "board")
                output(cast.must("board").rstrip())
            shown(name, f"task update {task} --status done")
            typed_s = monotonic()
            cast.must("task", "update", task, "--status", "done", name=name)
            _hear(watcher, steps, f"ready {FREES[task]}" if task in FREES else f"done {task}")
            if unblocked_ms < 0:
                unblocked_ms = round((monotonic() - typed_s) * 1000)
    finally:
        patience.cancel()
    watcher.terminate()
    watcher.wait()
    cast.forget(watcher)
    return steps, unblocked_ms


def _hear(watcher: "subprocess.Popen[str]", steps: list[str], last: str) -> None:
    """Take what the board tells until it has told this."""
    while last not in steps:
        change = _next(watcher)
        names = ",".join(str(name) for name in list(change["tasks"]))  # type: ignore[call-overload]  # a list, as documented
        if change["change"] == "ready":
            steps.append(f"ready {names}")
            output(f"the board: {names} can be begun")
        elif change["change"] == "moved" and change["status"] == "done":
            steps.append(f"done {names}")


def _next(watcher: "subprocess.Popen[str]") -> Json:
    assert watcher.stdout is not None
    line = watcher.stdout.readline()
    if not line:
        raise StoryBroken("the board ended")
    found: Json = json.loads(line)
    return found
