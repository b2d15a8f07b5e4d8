"""A team at work, one process each, over blocking sockets and json: `python -m tests.crash.team_load`.

    asker    asks the people of the room, under a lease that is parked for it or without; takes every outcome
    person   answers and dismisses with a human's token; two of them, so that one comes too late at times
    runner   work sessions with checkpoints, counted decisions under `if_version`, and lanes to the other runner
    caller   sends to the role `crew`, and to channels of a topic that come to exist meanwhile
    member   joins the role, leaves it, takes and acks; leaves between the two at times
    lender   offers resources, and withdraws them; says of itself what it can do
    reader   follows the topic, and comes back with its last cursor

Every change goes under a key of its own and is said again until it is answered. A name like `asker-1.2` is the second
life of agent `asker-1`, and knows nothing of the first: it goes on from what the hub tells it; `runner-1-twin` is the
agent `runner-1` once more, at the same time. What a life has written down is complete up to the instant of a SIGKILL.
`stop` ends what is begun anew and those who begin it once nothing waits for them; `drain` who answers, takes and reads.
"""

import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.crash.claims_load import Diary
from tests.crash.history import Frame
from tests.crash.load import Run, is_draining, line_by, read

ROLE = "role:crew"
TOPIC = "main:bus-*"
RUNNERS = ("runner-1", "runner-2")
HUMAN_SECRET = "a human's token, thirty-two characters or more"
LANE_MS = 10_000
POLITE = ("draining", "rate_limited")
"""What is not about a request: it is said again later."""


def agent_of(name: str) -> str:
    """Who a process is."""
    return name.partition(".")[0].removesuffix("-twin")


class Worker:
    """One life of an agent. name: of this life."""

    def __init__(self, run: Run) -> None:
        self.run, self.chance, self.name = run, run.chance, run.name
        self.agent = agent_of(run.name)
        self.line = line_by(run.way, run.home, run.run, run.record, self.agent)
        if self.agent.startswith("person"):
            self.line.hello["token"] = HUMAN_SECRET
        self._serial = 0

    def mark(self) -> str:
        """A text that comes nowhere else."""
        self._serial += 1
        return f"{self.name}.{self._serial}"

    def insist(self, type_: str, body: Frame) -> Frame:
        """Ask under a key of its own until there is an answer: a reply, or a refusal that is about the request."""
        key = f"k.{self.mark()}"
        while True:
            answer = self._ask(type_, body, key)
            if answer is not None and (answer["type"] == "reply" or answer["error"]["code"] not in POLITE):
                return answer
            time.sleep(0.02)

    def look(self, type_: str, body: Frame) -> Frame | None:
        """Ask once; the body of the reply, or None."""
        answer = self._ask(type_, body, None)
        found: Frame | None = answer["body"] if answer is not None and answer["type"] == "reply" else None
        return found

    def _ask(self, type_: str, body: Frame, key: str | None) -> Frame | None:
        if not self.line.is_up:
            self.line.open()
        answer = self.line.ask(type_, body, key)
        if answer is not None and is_draining(answer):
            self.line.leave()
        return answer

    def take(self, wait_ms: int, *, forgets: float = 0.0) -> bool:
        """Take a message and ack it, or leave in between; False when there was none."""
        taken = self.look("inbox.take", {"wait_ms": wait_ms})
        if taken is None:
            return False
        if self.chance.random() < forgets:
            self.line.leave()
            return True
        ids = {"ids": [taken["message"]["id"]]}
        if self.chance.random() < 0.5:
            self.insist("inbox.ack", ids)
        else:
            self.look("inbox.ack", ids)  # not said again when it is cut off: the message may come again
        return True

    def has(self, flag: str) -> bool:
        return self.run.has(flag)

    def pause(self, seconds: float = 0.05) -> None:
        time.sleep(self.chance.uniform(0.0, seconds))


def ask(worker: Worker) -> None:
    """Ask until `stop`, then take until nothing is open any more."""
    chance, task = worker.chance, f"T-{worker.agent}"
    mine: list[Frame] = []
    while not worker.has("stop"):
        body: Frame = {"title": worker.mark()}
        dice = chance.random()
        if dice < 0.5:
            lease = worker.insist("lease.claim", {"task": task, "ttl_ms": 600_000})
            body["task"] = task
            if lease["type"] == "reply" and chance.random() < 0.1:
                worker.insist("lease.release", {"task": task, "epoch": lease["body"]["epoch"]})
        if dice > 0.35 and dice < 0.75:
            body["deadline_ms"] = chance.randint(50, 900)
            if chance.random() < 0.5:
                body["default"] = "whatever is usual"
        asked = worker.insist("question.ask", body)
        if asked["type"] == "reply":
            question = {"id": asked["body"]["id"]}
            mine.append(question)
            dice = chance.random()
            if dice < 0.08:
                worker.insist("question.withdraw", question)
            elif dice < 0.4:
                worker.look("question.wait", {**question, "wait_ms": 500})
            elif dice < 0.7:
                worker.look("question.show", question if dice < 0.5 else chance.choice(mine))
        while worker.take(0, forgets=0.05):
            pass
        worker.pause()
    while True:
        is_empty = not worker.take(500) and worker.line.is_up
        page = worker.look("question.list", {"asker": worker.agent, "limit": 1}) if is_empty else None
        if page is not None and not page["questions"] and not worker.take(0) and worker.line.is_up:
            return


def answer(worker: Worker) -> None:
    """Answer what is open, until `drain`; a third of what has a deadline is left to time."""
    chance = worker.chance
    mine: list[Frame] = []
    while not worker.has("drain"):
        is_last = worker.has("stop")
        page = worker.look("question.list", {"limit": 50})
        found = [] if page is None else page["questions"]
        questions = [{"id": it["id"]} for it in found if "deadline_at_ms" not in it or int(it["id"][1:]) % 3]
        for question in chance.sample(questions, min(len(questions), 3)):
            dice = chance.random()
            if dice < 0.1:
                worker.insist("question.dismiss", {**question, "reason": worker.mark()})
            elif dice < 0.8 or is_last:
                worker.insist("question.answer", {**question, "answer": worker.mark()})
                mine.append(question)
                if chance.random() < 0.2:
                    worker.insist("question.answer", {**chance.choice(mine), "answer": worker.mark()})
        worker.pause(0.1)


def carry_on(worker: Worker) -> None:
    """Sessions and lanes until `stop`; then the inbox."""
    chance = worker.chance
    session: str | None = None
    while not worker.has("stop"):
        if session is None:
            page = worker.look("session.list", {"agent": worker.agent, "state": "working"})
            session = page["sessions"][0]["session"] if page is not None and page["sessions"] else None
            if session is None and page is not None:
                started = worker.insist("session.start", {"display_name": worker.mark()})
                session = started["body"]["session"] if started["type"] == "reply" else None
        if session is not None and chance.random() < 0.7:
            session = _work(worker, session)
        else:
            _see_to_lanes(worker)
        worker.take(0, forgets=0.05)
        worker.pause(0.04)
    while worker.take(500) or not worker.line.is_up:
        pass


def _work(worker: Worker, session: str) -> str | None:
    """A step of a session; it, or None when it has ended, by the twin perhaps."""
    dice, named = worker.chance.random(), {"session": session}
    answer: Frame | None = None
    if dice < 0.35:
        shown = worker.look("session.show", named)
        if shown is not None:
            worker.pause()  # the twin may be faster
            line = f"{shown['counts']['decisions'] + 1} {worker.mark()}"
            body = {**named, "if_version": shown["version"], "append": {"decisions": [line]}}
            answer = worker.insist("session.update", body)
    elif dice < 0.75:
        answer = worker.insist("session.checkpoint", {**named, "data": {"mark": worker.mark()}})
    elif dice < 0.85:
        worker.look("session.checkpoints", {**named, "limit": 5})
    elif dice < 0.95:
        other = RUNNERS[worker.agent == RUNNERS[0]]
        offer = {**named, "to": other, "context": {"mark": worker.mark()}, "timeout_ms": LANE_MS}
        answer = worker.insist("lane.offer", offer)
    else:
        worker.insist("session.end", {**named, "reason": worker.mark()})
        return None
    is_over = answer is not None and answer["type"] == "error" and answer["error"]["code"] == "illegal_transition"
    return None if is_over else session


def _see_to_lanes(worker: Worker) -> None:
    """One step of a lane."""
    chance, mine = worker.chance, worker.chance.random() < 0.3
    side = "sender" if mine else "receiver"
    state = "accepted" if mine or chance.random() < 0.5 else "offered"
    page = worker.look("lane.list", {side: worker.agent, "state": state})
    if page is None or not page["lanes"]:
        return
    lane = {"lane": chance.choice(page["lanes"])["lane"]}
    dice = chance.random()
    if state == "offered":
        decline = ("lane.decline", {**lane, "reason": worker.mark()})
        worker.insist(*(("lane.accept", lane) if dice < 0.6 else decline))
        if chance.random() < 0.3:  # too late, after its own step
            worker.insist(*(("lane.accept", lane) if dice > 0.3 else decline))
    elif dice < 0.4:
        worker.insist("lane.send", {**lane, "body": {"mark": worker.mark()}})
    elif dice < 0.6:
        worker.look("lane.show", {**lane, "limit": 5})
    else:
        worker.insist("lane.close", {**lane, "reason": worker.mark()})


def call(worker: Worker) -> None:
    """Send to the role and to the topic until `stop`."""
    chance = worker.chance
    channels: list[str] = []
    while not worker.has("stop"):
        body: Frame = {"body": {"mark": worker.mark()}}
        if not channels or chance.random() < 0.02:
            channels.append(f"main:bus-{worker.mark()}")
            worker.insist("channel.join", {"channel": channels[-1]})
        where = {"target": ROLE, "create": True} if chance.random() < 0.6 else {"channel": chance.choice(channels)}
        worker.insist("message.send", {**body, **where})
        worker.pause(0.06)


def serve(worker: Worker) -> None:
    """Take what is sent to the role until `drain`, and then until nothing is left."""
    chance, role = worker.chance, {"role": ROLE.partition(":")[2]}
    worker.insist("role.join", role)
    while True:
        is_last = worker.has("drain")
        if not is_last and chance.random() < 0.04:
            worker.look("inbox.take", {})  # what it has in hand when it leaves goes back into the queue
            worker.insist("role.leave", role)
            worker.pause()
            worker.insist("role.join", role)
        found = worker.take(1_000 if is_last else 200, forgets=0.0 if is_last else 0.08)
        if is_last and not found and worker.line.is_up:
            return


def lend(worker: Worker) -> None:
    """Offer and withdraw until `stop`."""
    chance, count = worker.chance, 0
    while not worker.has("stop"):
        count += 1
        dice, name = chance.random(), f"{worker.agent}-r{chance.randrange(3)}"
        if dice < 0.35:
            data = {"mark": worker.mark()}
            worker.insist("resource.offer", {"resource": name, "kind": "tool", "capacity": count, "data": data})
        elif dice < 0.5:
            worker.insist("resource.withdraw", {"resource": name})
        elif dice < 0.65:
            worker.look("resource.list", {"owner": worker.agent})
        elif dice < 0.85:
            skill = {"id": f"s{count}", "name": "something", "description": "done by hand"}
            worker.insist("card.set", {"description": worker.mark(), "skills": [skill]})
        else:
            worker.look("card.get", {"name": worker.agent})
        worker.pause(0.1)


def follow(worker: Worker) -> None:
    """Read the topic until `drain`."""
    read(worker.run, [TOPIC])


ROLES: dict[str, Callable[[Worker], None]] = {
    "asker": ask,
    "person": answer,
    "runner": carry_on,
    "caller": call,
    "member": serve,
    "lender": lend,
    "reader": follow,
}


def main(arguments: Sequence[str], roles: Mapping[str, Callable[[Worker], None]]) -> None:
    """Live one life. arguments: home, run, name, seed, and the way to the hub."""
    home, run, name, seed, way = arguments
    where = Run(Path(home), Path(run), name, int(seed), way)
    where.record.close()
    where.record = Diary(Path(run) / f"{name}.jsonl")
    where.chance = random.Random(f"{seed}:{name}")
    try:
        roles[name.partition("-")[0]](Worker(where))
    finally:
        where.record.close()


if __name__ == "__main__":
    main(sys.argv[1:], ROLES)
