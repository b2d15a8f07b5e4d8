"""A room that a supervisor watches, and agents that come back to a digest: `python -m tests.crash.watch_load`.

    holder    claims tasks, shows progress, stalls for a while, forgets a lease for good, lets a short one lapse
    starter   takes tasks into progress without a lease, and leaves them; takes what was put back once more
    blocker   blocks a task that depends on another one, does that one, and sees to the first late, or never
    lead      one of the people of the room: takes its letters and acks them, or leaves them
    caller    writes to those who come back, names them in a channel, and suggests tasks to them
    returner  asks for a digest with the cursor of the one before, which it keeps in a file over its lives: as a
              request, also while a claim of its own waits, and by `synapse digest` under a budget; takes, acks, holds

As in `team_load` every change goes under a key of its own until it is answered, and `starter-1.2` is the second life of
agent `starter-1`. `stop` ends who makes causes, and leaves what is as it is; `drain` ends the others.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.crash.claims_load import Diary
from tests.crash.history import Frame
from tests.crash.killing import ROOT
from tests.crash.team_load import Worker
from tests.crash.team_load import main as live

STALLED_MS, ORPHANED_S, EVERY_S, TRIES = 1_000, 1, 1, 2
OPTIONS = (
    *("--supervise", "--supervise-every-s", str(EVERY_S), "--supervise-orphaned-s", str(ORPHANED_S)),
    *("--supervise-tries", str(TRIES), "--snapshot-events", "700"),
)
CONFIG = f"""
[rooms]
main = ["general", "talk"]
[limits]
stalled_ms = {STALLED_MS}
ttl_ms_min = 1000
reattach_ms = 1000
lend_ms = 2000
"""
TALK = "main:talk"
LONG_MS, SHORT_MS = 600_000, 1_500
WAIT_MS = 600
BUDGETS = (30, 60, 120, 200, 300, 500, 1_000, 4_000)
LIMITS = (1, 3, 20, 60)
PRIORITIES = ("low", "normal", "normal", "high", "urgent")
OPEN_MAX = 10
"""Tasks that a caller has suggested, and messages to one agent between two pauses."""


def hold(worker: Worker) -> None:
    """Claim, work, stall, forget, until `stop`."""
    chance = worker.chance
    page = worker.look("lease.list", {"owner": worker.agent})
    mine = [] if page is None else [(lease["task"], lease["epoch"]) for lease in page["leases"]]
    held = chance.choice(mine) if mine and chance.random() < 0.6 else None
    while not worker.has("stop"):
        held = _claim(worker) if held is None else _work(worker, *held)
        worker.pause(0.3)


def _claim(worker: Worker) -> tuple[str, int] | None:
    task = f"H-{worker.mark()}"
    if worker.chance.random() < 0.8:
        worker.insist("task.declare", {"task": task})
    ttl_ms = LONG_MS if worker.chance.random() < 0.85 else SHORT_MS
    lease = worker.insist("lease.claim", {"task": task, "ttl_ms": ttl_ms})
    return (task, lease["body"]["epoch"]) if lease["type"] == "reply" else None


def _work(worker: Worker, task: str, epoch: int) -> tuple[str, int] | None:
    """Something under a lease; None when it is given back, lost or forgotten."""
    dice, named = worker.chance.random(), {"task": task, "epoch": epoch}
    if dice < 0.3:
        done = worker.insist("task.note", {**named, "text": worker.mark()})
    elif dice < 0.45:
        done = worker.insist("lease.checkpoint", {**named, "data": {"mark": worker.mark()}})
    elif dice < 0.5:
        return None if worker.look("lease.renew", named) is None and worker.line.is_up else (task, epoch)
    elif dice < 0.7:
        _sleep(worker, worker.chance.uniform(0.5, 6.0))
        return task, epoch
    elif dice < 0.75:
        worker.insist("task.update", {**named, "status": "review"})
        _sleep(worker, worker.chance.uniform(0.5, 4.0))
        done = worker.insist("task.update", {**named, "status": "in_progress"})
    elif dice < 0.92:
        worker.insist("task.update", {**named, "status": "done"})
        worker.insist("lease.release", named)  # when it is in no plan
        return None
    else:
        return None
    is_over = done["type"] == "error" and done["error"]["code"] in ("stale_epoch", "not_holder")
    return None if is_over else (task, epoch)


def _sleep(worker: Worker, seconds: float) -> None:
    """Show nothing for so long, or until `stop`."""
    upto = time.monotonic() + seconds
    while time.monotonic() < upto and not worker.has("stop"):
        time.sleep(0.05)


def start(worker: Worker) -> None:
    """Into progress without a lease, until `stop`: the same tasks in all lives, and some of this one."""
    chance = worker.chance
    tasks = [f"S-{worker.agent}-{number}" for number in range(2)] + [f"S-{worker.name}-own"]
    for task in dict.fromkeys(tasks):
        worker.insist("task.declare", {"task": task})
    while not worker.has("stop"):
        task = chance.choice(tasks)
        shown = worker.look("task.show", {"task": task})
        dice = chance.random()
        if shown is not None and shown["status"] == "open":
            worker.insist("task.update", {"task": task, "status": "in_progress"})
        elif shown is not None and shown["status"] == "done" and dice < 0.5:
            worker.insist("task.update", {"task": task, "status": "open"})
        elif shown is not None and shown["status"] == "in_progress" and dice < 0.2:
            worker.insist("task.update", {"task": task, "status": "done"})
        worker.pause(0.6)


def block(worker: Worker) -> None:
    """Pairs of tasks, until `stop`."""
    chance = worker.chance
    while not worker.has("stop"):
        first, second = f"A-{worker.mark()}", f"B-{worker.mark()}"
        who = {"suggested_owner": f"returner-{chance.randint(1, 2)}"} if chance.random() < 0.6 else {}
        worker.insist("task.declare_all", {"tasks": [{"task": first}, {"task": second, "depends_on": [first], **who}]})
        epoch = {}
        if chance.random() < 0.2:
            lease = worker.insist("lease.claim", {"task": second, "ttl_ms": LONG_MS})
            epoch = {"epoch": lease["body"]["epoch"]} if lease["type"] == "reply" else {}
        worker.insist("task.update", {"task": second, "status": "blocked", **epoch})
        if chance.random() < 0.85:
            worker.insist("task.update", {"task": first, "status": "done"})
        _sleep(worker, chance.uniform(0.0, 4.0))
        if chance.random() < 0.25:
            worker.insist("task.update", {"task": second, "status": "in_progress", **epoch})
            worker.insist("task.update", {"task": second, "status": "blocked", **epoch})
            _sleep(worker, chance.uniform(0.0, 4.0))
        if chance.random() < 0.7 and not worker.has("stop"):
            worker.insist("task.update", {"task": second, "status": "open", **epoch})
            worker.insist("task.update", {"task": second, "status": "done"})


def lead(worker: Worker) -> None:
    """Take, ack and leave letters until `drain`."""
    worker.line.hello["kind"] = "human"
    while not worker.has("drain"):
        if worker.chance.random() < 0.4:
            worker.take(200, forgets=0.2)
        worker.pause(0.4)


def call(worker: Worker) -> None:
    """Write to returners, and suggest tasks to them, until `stop`."""
    chance = worker.chance
    open_: list[str] = []
    while not worker.has("stop"):
        who, dice, mark = f"returner-{chance.randint(1, 2)}", chance.random(), worker.mark()
        if dice < 0.25:
            body: Frame = {"target": who, "body": {"mark": mark}, "subject": "look"}
            body["priority"] = chance.choice(PRIORITIES)
            worker.insist("message.send", body)
        elif dice < 0.35:
            worker.insist("message.send", {"target": f"{who},lead-1", "body": f"{mark} to both"})
        elif dice < 0.5:
            worker.insist("message.send", {"channel": TALK, "body": f"{mark} is for @{who}"})
        elif dice < 0.6:
            worker.insist("message.send", {"channel": TALK, "body": {"mark": mark}})
        elif len(open_) < OPEN_MAX and dice < 0.8:
            needs = {"depends_on": [chance.choice(open_)]} if open_ and chance.random() < 0.5 else {}
            open_.append(f"C-{mark}")
            priority = {"priority": chance.choice(PRIORITIES)}
            worker.insist("task.declare", {"task": open_[-1], "suggested_owner": who, **needs, **priority})
        elif open_:
            task = open_.pop(chance.randrange(len(open_)))
            worker.insist("task.update", {"task": task, "status": "cancelled" if dice > 0.95 else "done"})
        worker.pause(0.15)


class Returner:
    """One life of who comes back. cursor: of the last digest; it outlives this process, but for the last instant."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._file = worker.run.run / f"{worker.agent}.cursor"
        self._told = Diary(worker.run.run / f"{worker.name}.told")
        self.cursor = self._file.read_text(encoding="utf-8") if self._file.exists() else None

    def asks(self, limit: int) -> Frame:
        """The body of a request for a digest."""
        return {"limit": limit, **({} if self.cursor is None else {"since": self.cursor})}

    def keep(self, digest: Frame | None) -> bool:
        """Go on from there. False when there is no digest."""
        if digest is None:
            return False
        self.cursor = str(digest["cursor"])
        new = self._file.with_suffix(".new")
        new.write_text(self.cursor, encoding="utf-8")
        new.replace(self._file)
        return True

    def wait_in_line(self) -> None:
        """A claim that waits, and a digest meanwhile, over one connection."""
        worker = self.worker
        page = worker.look("lease.list", {})
        if page is None or not page["leases"]:
            return
        claim = {"task": worker.chance.choice(page["leases"])["task"], "ttl_ms": 5_000, "wait_ms": WAIT_MS}
        _, told = worker.line.burst([("lease.claim", claim, None), ("digest.read", self.asks(60), None)])
        self.keep(told["body"] if told is not None and told["type"] == "reply" else None)

    def by_command(self, max_tokens: int) -> bool:
        """`synapse digest`, as one process; what it printed is written down. False when it printed no digest."""
        run = self.worker.run
        words = [sys.executable, "-m", "synapse", "digest", "--json", "--home", str(run.home), "--timeout", "2"]
        words += ["--name", self.worker.agent, "--max-tokens", str(max_tokens)]
        words += [] if self.cursor is None else ["--since", self.cursor]
        secret = run.run / f"{self.worker.agent}.secret"
        environment = {**os.environ, "SYNAPSE_AGENT_SECRET_FILE": str(secret)}
        asked = {
            "agent": self.worker.agent,
            "since": self.cursor,
            "budget": max_tokens,
            "asked_ns": time.monotonic_ns(),
        }
        ran = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        printed: Frame | None = json.loads(ran.stdout) if ran.stdout.endswith("}\n") else None
        self._told.note("digest", **asked, code=ran.returncode, printed=printed)
        return self.keep(printed if ran.returncode == 0 else None)

    def see_to_mine(self) -> None:
        """Claim what is suggested to me, or end what I hold."""
        worker, chance = self.worker, self.worker.chance
        page = worker.look("lease.list", {"owner": worker.agent})
        if page is not None and page["leases"] and chance.random() < 0.6:
            named = {key: page["leases"][0][key] for key in ("task", "epoch")}
            worker.insist(*chance.choice([("lease.release", named), ("lease.checkpoint", {**named, "data": {}})]))
            return
        found = worker.look("task.list", {"owner": worker.agent, "ready": True, "limit": 5})
        if found is not None and found["tasks"]:
            ttl_ms = chance.choice((SHORT_MS, LONG_MS))
            worker.insist("lease.claim", {"task": found["tasks"][0]["task"], "ttl_ms": ttl_ms})


def come_back(worker: Worker) -> None:
    """A digest after the other, until `drain`, and then two more."""
    returner, chance = Returner(worker), worker.chance
    while not worker.has("drain"):
        dice = chance.random()
        if dice < 0.5:
            returner.keep(worker.look("digest.read", returner.asks(chance.choice(LIMITS))))
        elif dice < 0.6:
            returner.by_command(chance.choice(BUDGETS))
        elif dice < 0.77:
            worker.take(0, forgets=0.1)
        elif not worker.has("stop"):
            (returner.wait_in_line if dice < 0.85 else returner.see_to_mine)()
        worker.pause(0.12)
    while not returner.keep(worker.look("digest.read", returner.asks(200))):
        time.sleep(0.05)
    while not returner.by_command(BUDGETS[-1]):
        time.sleep(0.05)


ROLES: dict[str, Callable[[Worker], None]] = {
    "holder": hold,
    "starter": start,
    "blocker": block,
    "lead": lead,
    "caller": call,
    "returner": come_back,
}


def write_secret(run: Path, agent: str, secret: str) -> None:
    """Where `synapse digest` finds who it is."""
    (run / f"{agent}.secret").write_text(secret, encoding="utf-8")


if __name__ == "__main__":
    live(sys.argv[1:], ROLES)
