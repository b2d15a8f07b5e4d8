"""The load of the claims proof: one process, one agent, blocking sockets and json; `python -m tests.crash.claims_load`.

    holder   claims overlapping scopes, waits in line, renews, leaves checkpoints, hands off, gives back, lets it lapse;
             shows its epoch with everything, also long after it was stopped, killed or outwaited
    watcher  follows all leases and comes back with its last cursor

Whoever runs it kills holders, stops them and wakes them up: a name like `holder-3.2` is the second life of agent
`holder-3`, and knows nothing of the first. `stop` ends the holders, `drain` the watcher once it has it all.
"""

import random
import sys
import time
from pathlib import Path

from tests.crash.history import Frame, Recorder
from tests.crash.load import DIRECT, UNIX, WS, Line, is_draining, line_by

HOLDERS = 10
WAYS = {
    "holder-2": WS,
    "holder-4": UNIX,
    "holder-6": WS,
    "holder-8": UNIX,
    "holder-10": WS,
}
"""Who is behind the proxy."""
TASKS = tuple(f"T{number}" for number in range(16))
WORKTREE = "box:/repo"
WIDE = ("a/**", "**/x", "b", "*/y", "f/**/b", "d/?")
NARROW = (
    "a/x",
    "a/*",
    "a/d",
    "b/d/**",
    "c/**",
    "c/x/y",
    "d/x/**/y",
    "e",
    "e/x",
    "f/a",
    "f/b",
    "x/*",
    "x/a",
    "y/a/**",
    "y/b",
)
POOL = "gpu"
UNITS = 4
TTL_MS = 1_000
GRACE_MS = 600
REATTACH_MS = 1_200
BELIEF = 0.9
"""A holder believes in its lease for this part of the TTL since it asked, and may then no more."""
CONFIG = f"""
[pools]
{POOL} = {UNITS}

[limits]
ttl_ms_min = 500
tie_grace_ms = {GRACE_MS}
reattach_ms = {REATTACH_MS}
"""
ENDED = ("stale_epoch", "not_holder", "not_found")


class Diary(Recorder):
    """A history that is complete up to the instant of a SIGKILL."""

    def note(self, what: str, **facts: object) -> None:
        super().note(what, **facts)
        self._file.flush()


class Holder:
    """One agent. held: tasks by epoch, as far as it knows. dead: what it once held."""

    def __init__(self, home: Path, run: Path, name: str, seed: str) -> None:
        self.chance = random.Random(f"{seed}:{name}")
        self.record = Diary(run / f"{name}.jsonl")
        self.agent = name.partition(".")[0]
        self.line = line_by(WAYS.get(self.agent, DIRECT), home, run, self.record, self.agent)
        self.held: dict[int, str] = {}
        self.dead: list[tuple[int, str]] = []
        self.keys = 0
        self.key_prefix = name
        self.stop = run / "stop"

    def live(self) -> None:
        """Until told to stop; then give back what is held."""
        self.line.open()
        if "." in self.key_prefix and self.chance.random() < 0.6:
            self.look()
        while not self.stop.exists():
            self.step()
            time.sleep(self.chance.uniform(0.002, 0.04))
        for epoch in list(self.held):
            while epoch in self.held:
                self.change("lease.release", epoch)
        self.record.close()

    def ask(self, type_: str, body: Frame, key: str | None = None) -> Frame | None:
        """One request on a connection that is up; None when it was cut off or the hub is stopping."""
        if not self.line.is_up:
            self.line.open()
        answer = self.line.ask(type_, body, key)
        return None if answer is None or is_draining(answer) else answer

    def new_key(self) -> str:
        self.keys += 1
        return f"{self.key_prefix}.{self.keys}"

    def step(self) -> None:
        """Something that an agent may do."""
        turn = self.chance.random()
        if self.dead and turn < 0.08:
            mine = [(epoch, task) for epoch, task in self.dead if task in self.held.values()]
            epoch, task = self.chance.choice(mine or self.dead)
            self.ask(
                *self.chance.choice(
                    (
                        _renew(task, epoch),
                        _checkpoint(task, epoch, f"dead {self.chance.random()}"),
                        _release(task, epoch),
                    )
                )
            )
        elif turn < 0.11:
            self.look()
        elif not self.held or (len(self.held) < 3 and turn < 0.3):
            self.claim()
        else:
            self.work(self.chance.choice(list(self.held)))

    def look(self) -> None:
        """Take over what the hub says is mine: handed to me, or granted to an earlier life."""
        found = self.ask("lease.list", {"owner": self.agent})
        if found is not None:
            for lease in found["body"]["leases"]:
                self.held.setdefault(lease["epoch"], lease["task"])

    def claim(self) -> None:
        """Ask, and wait in line at times; what was cut off is asked again by its key or its place, or left."""
        chance = self.chance
        body, key = self.wanted(), self.new_key() if chance.random() < 0.6 else None
        answer = self.ask("lease.claim", body, key)
        while answer is None and chance.random() < 0.9:
            place = self.line.place
            if key is None and place is not None:
                body = {**body, "place": place}
            answer = self.ask("lease.claim", body, key)
        if key is not None and chance.random() < 0.06:
            answer = self.ask("lease.claim", body, key)  # as one whose answer was lost
        if answer is None or answer["type"] == "error":
            return
        lease = answer["body"]
        if lease["live"]:
            self.held[lease["epoch"]] = lease["task"]
            if answer.get("replayed") or body["wait_ms"]:
                self.change("lease.renew", lease["epoch"])  # asked too long ago to be believed

    def wanted(self) -> Frame:
        chance = self.chance
        again = [task for _, task in self.dead]  # so that an old epoch and a new one of one holder meet
        task = chance.choice(again) if again and chance.random() < 0.4 else chance.choice(TASKS)
        body: Frame = {"task": task, "ttl_ms": TTL_MS, "wait_ms": 0}
        if chance.random() < 0.35:
            body["wait_ms"] = chance.randrange(100, 1_500)
        kind = chance.random()
        if kind < 0.8:
            body["worktree"] = WORKTREE
            if chance.random() < 0.02:
                body["whole_worktree"] = True
            else:
                patterns = WIDE if chance.random() < 0.2 else NARROW
                body["paths"] = chance.sample(patterns, chance.choice((1, 1, 1, 2, 3)))
        if kind > 0.76:
            body["pools"] = {POOL: chance.choice((1, 1, 2, UNITS))}
        if chance.random() < 0.3:
            body["mode"] = "shared"
        if chance.random() < 0.15:
            body["reentrant"] = False
        if chance.random() < 0.4:
            body["tied"] = True
        return body

    def work(self, epoch: int) -> None:
        """Something under a lease."""
        turn = self.chance.random()
        if turn < 0.4:
            self.change("lease.renew", epoch)
        elif turn < 0.65:
            self.change("lease.checkpoint", epoch)
        elif turn < 0.85:
            self.change("lease.release", epoch)
        elif turn < 0.91:
            self.change("lease.hand_off", epoch)
        elif turn < 0.94:
            self.dead.append((epoch, self.held.pop(epoch)))  # forgotten: it lapses
        else:
            self.line.leave()

    def change(self, type_: str, epoch: int) -> None:
        """One mutation with its epoch; who hears that the lease is over does not hold it any more."""
        task = self.held[epoch]
        body: Frame
        match type_:
            case "lease.renew":
                _, body = _renew(task, epoch)
            case "lease.checkpoint":
                _, body = _checkpoint(task, epoch, f"{self.key_prefix}:{self.keys}:{self.chance.random()}")
            case "lease.release":
                _, body = _release(task, epoch)
            case _:
                to = f"holder-{self.chance.randrange(1, HOLDERS + 1)}"
                body = {"task": task, "epoch": epoch, "to": to}
        key = self.new_key() if type_ != "lease.renew" and self.chance.random() < 0.5 else None
        answer = self.ask(type_, body, key)
        while answer is None and key is not None:
            answer = self.ask(type_, body, key)
        if answer is None:
            return
        is_over = answer["type"] == "error" and answer["error"]["code"] in ENDED
        is_given = answer["type"] == "reply" and (
            type_ == "lease.release" or answer["body"].get("outcome") == "handed_off"
        )
        if is_over or is_given:
            self.dead = [*self.dead[-20:], (epoch, self.held.pop(epoch))]


def _renew(task: str, epoch: int) -> tuple[str, Frame]:
    return "lease.renew", {"task": task, "epoch": epoch}


def _release(task: str, epoch: int) -> tuple[str, Frame]:
    return "lease.release", {"task": task, "epoch": epoch}


def _checkpoint(task: str, epoch: int, mark: str) -> tuple[str, Frame]:
    return "lease.checkpoint", {"task": task, "epoch": epoch, "data": {"mark": mark}}


def watch(home: Path, run: Path, name: str) -> None:
    """Follow until everything is drained."""
    record = Diary(run / f"{name}.jsonl")
    line = Line(home, record, name)
    cursor: str | None = None
    drain = run / "drain"
    while True:
        line.open()
        since = {} if cursor is None else {"since": cursor}
        subscribed = line.ask("feed.subscribe", {"leases": True, **since})
        if subscribed is None or is_draining(subscribed):
            continue
        cursor = cursor or subscribed["body"]["from_cursor"]
        is_live = False
        while (said := line.notices(0.1)) is not None:
            for frame in said:
                cursor = frame["body"]["cursor"]
                is_live = is_live or frame["type"] == "feed.live"
            if is_live and drain.exists():
                pong = line.ask("ping", {})
                assert pong is not None, "nothing is killed any more"
                record.note("end", upto=pong["seq"])
                record.close()
                return


def main(home: str, run: str, name: str, seed: str) -> None:
    if name.startswith("watcher"):
        watch(Path(home), Path(run), name)
    else:
        Holder(Path(home), Path(run), name, seed).live()


if __name__ == "__main__":
    main(*sys.argv[1:])
