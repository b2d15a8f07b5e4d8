"""What must be true of the plan in a recorded history and the journal that is left at the end.

Builders declare chains of tasks, and claim, note, finish and reopen one after the other, each request under a key of
its own and said again until it is answered. So what was acknowledged is there once; and no step is taken that nobody
asked for but those of the hub itself, which stand beside the lease that begins or ends.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.crash.checker import Finding
from tests.crash.history import History, Op

from synapse.core.events import LeaseExpired, LeaseGranted, LeaseReleased, LeaseRevoked, Recorded
from synapse.core.plan_events import TaskDeclared, TaskMoved, TaskNoted, TasksReady

RULES = {
    "lost": "acknowledged, and not in the journal",
    "refused but applied": "an error was the answer, and the journal has the effect under its key",
    "applied twice": "one request, two effects; or done again without being reopened",
    "unasked": "in the journal, and nobody asked for it",
    "undone": "a task that was done is not, and nobody reopened it",
    "torn": "a step or a lease without what belongs to it in the same transaction",
    "wrong announcement": "told ready and not ready, told twice, or ready and never told",
    "wrong status": "told with another status or readiness than the journal has at that position",
}


@dataclass(slots=True)
class Built:
    """A task. at, statuses: what it was from which seq on."""

    needs: tuple[str, ...]
    at: list[int]
    statuses: list[str]
    is_announced: bool = False

    def upto(self, seq: int) -> str:
        """Its status after the event at `seq`; empty before its declaration."""
        index = bisect_right(self.at, seq)
        return self.statuses[index - 1] if index else ""


class Plans:
    """The fold of the journal. effects: seqs by agent and key, or the note of a step."""

    def __init__(self, journal: Sequence[Recorded]) -> None:
        self.tasks: dict[str, Built] = {}
        self.held: dict[str, set[int]] = defaultdict(set)
        self.effects: dict[tuple[str, str], list[Recorded]] = defaultdict(list)
        self.findings: list[Finding] = []
        self._events = {recorded.seq: recorded for recorded in journal}
        for recorded in journal:
            event = recorded.event
            if event.idem is not None:
                self.effects[recorded.actor, event.idem.key].append(recorded)
            match event:
                case TaskDeclared():
                    if event.task in self.tasks:
                        self._find("applied twice", f"{event.task} is declared again at {recorded.seq}")
                    self.tasks[event.task] = Built(event.depends_on, [recorded.seq], ["open"])
                case TaskMoved():
                    self._move(recorded, event)
                case TasksReady():
                    self._announce(recorded, event)
                case LeaseGranted() if event.ask.task in self.tasks:
                    self.held[event.ask.task].add(recorded.seq)
                    if self.tasks[event.ask.task].statuses[-1] == "open" and not self._comes(recorded.seq, "claimed"):
                        self._find("torn", f"{event.ask.task} is granted at {recorded.seq}, and stays open")
                case LeaseReleased() | LeaseExpired() | LeaseRevoked():
                    self.held[event.task].discard(event.epoch)
                case _:
                    pass
        for name, task in self.tasks.items():
            if self.is_ready(name, journal[-1].seq) and not task.is_announced:
                self._find("wrong announcement", f"{name} is ready at the end, and nobody was told")

    def _find(self, rule: str, text: str) -> None:
        self.findings.append(Finding(rule, text))

    def _comes(self, seq: int, reason: str) -> bool:
        following = self._events.get(seq + 1)
        event = None if following is None else following.event
        return isinstance(event, TaskMoved) and (event.reason, event.epoch) == (reason, seq)

    def is_ready(self, name: str, seq: int) -> bool:
        """Open, and all it depends on is done."""
        task = self.tasks.get(name)
        if task is None:
            return False
        needs = (self.tasks.get(other) for other in task.needs)
        return task.upto(seq) == "open" and all(it is not None and it.upto(seq) == "done" for it in needs)

    def _move(self, recorded: Recorded, event: TaskMoved) -> None:
        seq, task = recorded.seq, self.tasks.get(event.task)
        if task is None or task.statuses[-1] != event.previous:
            self._find("undone", f"{recorded}: it is {None if task is None else task.statuses[-1]}")
            return
        if event.previous == "done" and (event.status, event.reason) != ("open", "asked"):
            self._find("undone", f"{event.task} becomes {event.status} at {seq}: {event.reason}")
        if self.is_ready(event.task, seq) and not task.is_announced:
            self._find("wrong announcement", f"{event.task} was ready before {seq}, and nobody was told")
        if event.status == "done":
            following = self._events.get(seq + 1)
            freed = None if following is None else following.event
            if self.held[event.task] and not (isinstance(freed, LeaseReleased) and freed.epoch == event.epoch):
                self._find("torn", f"{event.task} is done at {seq}, and its lease goes on: {freed}")
        task.at.append(seq)
        task.statuses.append(event.status)
        task.is_announced = False

    def _announce(self, recorded: Recorded, event: TasksReady) -> None:
        for name in event.tasks:
            if not self.is_ready(name, recorded.seq) or self.tasks[name].is_announced:
                self._find("wrong announcement", f"{name} at {recorded.seq}: {self.tasks.get(name)}")
            if name in self.tasks:
                self.tasks[name].is_announced = True


def check_plan(history: History, journal: Sequence[Recorded]) -> list[Finding]:
    """Everything that is wrong with the plan; empty when the hub kept its promises."""
    plans = Plans(journal)
    asked = {(op.agent, op.key) for op in history.ops if op.key is not None}
    findings = list(plans.findings)
    for recorded in journal:
        event = recorded.event
        if not isinstance(event, TaskDeclared | TaskMoved | TaskNoted):
            continue
        key = None if event.idem is None else event.idem.key
        is_step = isinstance(event, TaskMoved) and event.reason != "asked"
        is_own = isinstance(event, TaskDeclared) or (recorded.actor, key) in asked
        if recorded.actor != "hub" if is_step else not is_own:
            findings.append(Finding("unasked", f"{recorded}"))
    for agent, key in plans.effects:
        if len(plans.effects[agent, key]) > 1:
            findings.append(Finding("applied twice", f"{key} of {agent}: {plans.effects[agent, key]}"))
    return findings + [finding for op in history.ops for finding in _told_rightly(op, plans)]


def _told_rightly(op: Op, plans: Plans) -> Iterator[Finding]:
    if op.frame is None or not op.type.startswith("task."):
        return
    seq, found = op.frame["seq"], plans.effects.get((op.agent, op.key or ""), [])
    if op.is_refused:
        if found and found[0].seq <= seq:
            yield Finding("refused but applied", f"{op.name} at {seq}: {op.frame['error']}; there is {found}")
        return
    reply = op.reply
    if op.key is not None and not found:
        yield Finding("lost", f"{op.name} was answered {reply}; the journal has nothing under {op.key}")
    if op.type not in ("task.show", "task.update"):
        return
    name = op.body["task"]
    there, status = plans.tasks.get(name), reply["status"]
    if op.type == "task.update" and status != op.body["status"]:
        yield Finding("wrong status", f"{op.name} is told {status}, and asked for {op.body['status']}")
    if there is None or (not op.frame.get("replayed") and there.upto(seq) != status):
        yield Finding("wrong status", f"{op.name} is told {status} at {seq}; there is {there}")
    elif op.type == "task.show" and reply["ready"] != plans.is_ready(name, seq):
        yield Finding("wrong status", f"{op.name} is told ready={reply['ready']} at {seq}; there is {there}")
