"""The plan as the journal tells it: for each task all it ever was, and who held it, so answers meet their position.

What is ready, what is unmet and whether there is a cycle is worked out from scratch each time, by looking at each task
that is depended on. The hub decides request by request; here whole transactions are looked at: when one is over, no
open task is leased, every ready task has been announced, and whoever took a last step holds the lease no more.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final, TypeAlias

from tests.simulation.pages import Pages
from tests.simulation.terms import Violation

from synapse.core.events import (
    Event,
    LeaseExpired,
    LeaseGranted,
    LeaseHandedOff,
    LeaseReleased,
    LeaseRevoked,
    Recorded,
)
from synapse.core.plan_events import TaskDeclared, TaskMoved, TaskNoted, TaskRemoved, TasksReady

Json: TypeAlias = dict[str, Any]
PlanEvent: TypeAlias = TaskDeclared | TaskMoved | TasksReady | TaskNoted | TaskRemoved
Place: TypeAlias = tuple[str, str]
"""A room and a task."""
HOME: Final = "main"
STEPS: Final = {
    "open": "in_progress blocked waiting_for_input done failed cancelled",
    "in_progress": "open blocked waiting_for_input review done failed cancelled",
    "blocked": "open in_progress waiting_for_input failed cancelled",
    "waiting_for_input": "open in_progress blocked failed cancelled",
    "review": "open in_progress done failed cancelled",
    "done": "open",
    "failed": "open",
    "cancelled": "open",
}
"""What may follow, written down a second time."""
OVER: Final = ("done", "failed", "cancelled")
ENDINGS: Final = {"released": LeaseReleased, "expired": LeaseExpired, "revoked": LeaseRevoked}
CHANGES: Final[dict[type[object], str]] = {
    TaskDeclared: "declared",
    TaskMoved: "moved",
    TasksReady: "ready",
    TaskNoted: "noted",
}
SILENT: Final[tuple[object, ...]] = (None, (), [])
"""What a notice leaves out."""


@dataclass(frozen=True, slots=True)
class Item:
    """What a task was from one event on. version: of its declaration, `by` whom first."""

    version: int
    by: str
    title: str
    description: str
    needs: tuple[str, ...]
    priority: str
    labels: tuple[str, ...]
    suggested: str | None
    declared_at_ms: int
    moved_at_ms: int
    status: str = "open"
    progress: int = 0
    progress_at_ms: int | None = None


@dataclass(slots=True)
class Past:
    """All that became of one thing: the seqs of its events, and what it was from there on."""

    at: list[int] = field(default_factory=list)
    then: list[Any] = field(default_factory=list)

    def become(self, seq: int, what: object) -> None:
        """It is something else from here on."""
        self.at.append(seq)
        self.then.append(what)

    def upto(self, seq: int) -> Any:
        """What it was after this event; None before it was anything."""
        index = bisect_right(self.at, seq)
        return self.then[index - 1] if index else None


@dataclass(frozen=True, slots=True)
class Request:
    """A request to change the plan, as the hub heard it."""

    agent: str
    room: str
    kind: str
    body: Json


class Agenda:
    """All tasks there ever were. asked: what agents had asked for, by the word that is in no other request."""

    pages: Pages

    def __init__(self, sometimes: Callable[[str], None]) -> None:
        self.events: dict[int, Recorded] = {}
        self.announced: set[Place] = set()
        self._tasks: dict[Place, Past] = defaultdict(Past)
        self._holders: dict[Place, Past] = defaultdict(Past)
        self._asked: dict[tuple[str, str], Request] = {}
        self._removals: set[tuple[str, str, str]] = set()
        self._done: dict[tuple[str, str], int] = {}
        self._lines: dict[Place, list[int]] = defaultdict(list)
        self._declaring: Request | None = None
        self._declared: list[Place] = []
        self._to_free: dict[int, Recorded] = {}
        self._ended: dict[int, Event] = {}
        self._touched: set[Place] = set()
        self.due_steps: dict[Place, tuple[str, str, str, int | None]] = {}
        self.questions_of: Callable[[Place, int], list[str]] = lambda _place, _seq: []
        self.sees: Callable[[str, str, int], bool] = lambda _agent, _room, _seq: True
        self._sometimes = sometimes

    # What was asked for.

    def ask(self, kind: str, agent: str, body: Json) -> None:
        """The hub is about to hear this."""
        request = Request(agent, body.get("room") or HOME, kind, body)
        match kind:
            case "task.declare":
                self._asked[body.get("description") or "", body["task"]] = request
            case "task.declare_all":
                self._asked.update({(spec["description"], spec["task"]): request for spec in body["tasks"]})
            case "task.update":
                self._asked[body["note"], body["task"]] = request
            case "task.note":
                self._asked[body["text"], body["task"]] = request
            case "task.remove":
                self._removals.add((agent, request.room, body["task"]))
            case _:
                pass

    def _require_asked(
        self, entry: Recorded, event: PlanEvent, task: str, mark: str, kinds: tuple[str, ...]
    ) -> Request:
        request = self._asked.get((mark, task))
        if request is None or (request.agent, request.room) != (entry.actor, event.room_name):
            raise Violation("unasked", f"{entry.actor} never asked for what {entry.seq} is: {event}", entry.actor, task)
        if request.kind not in kinds:
            raise Violation("unasked", f"{request} became {event} at {entry.seq}", entry.actor, task)
        if self._done.setdefault((mark, task), entry.seq) != entry.seq:
            first = self._done[mark, task]
            raise Violation("applied twice", f"{mark} of {entry.actor} at {first} and {entry.seq}", entry.actor, task)
        return request

    # What there is.

    def at(self, place: Place, seq: int) -> Item | None:
        """A task as the journal up to `seq` has it."""
        past = self._tasks.get(place)
        found: Item | None = None if past is None else past.upto(seq)
        return found

    def holders(self, place: Place, seq: int) -> dict[int, str]:
        """Who holds it after the event at `seq`: epochs and owners."""
        past = self._holders.get(place)
        return dict((None if past is None else past.upto(seq)) or {})

    def missing(self, room: str, item: Item, seq: int) -> dict[str, str]:
        """What a task waits for, and the status of each."""
        found = {other: self.at((room, other), seq) for other in item.needs}
        statuses = {other: "undeclared" if it is None else it.status for other, it in found.items()}
        return {other: status for other, status in statuses.items() if status != "done"}

    def is_ready(self, place: Place, seq: int) -> bool:
        """Open, and all it depends on is done."""
        item = self.at(place, seq)
        return item is not None and item.status == "open" and not self.missing(place[0], item, seq)

    def tasks_of(self, room: str, seq: int) -> dict[str, Item]:
        """The plan of a room, by id."""
        names = sorted(task for there, task in self._tasks if there == room)
        found = ((task, self.at((room, task), seq)) for task in names)
        return {task: item for task, item in found if item is not None}

    # The fold.

    def enter(self, entry: Recorded, event: PlanEvent) -> Iterator[str]:
        """Fold an event of the plan in; the streams that it is told in. Raises `Violation`."""
        self.events[entry.seq] = entry
        room = event.room_name
        if not isinstance(event, TaskDeclared):
            self._end_declaring(entry.seq)
        match event:
            case TaskDeclared():
                self._declare(entry, event)
            case TaskMoved():
                self._move(entry, event)
            case TasksReady():
                self._announce(entry, event)
            case TaskNoted():
                self._note(entry, event)
            case TaskRemoved():
                self._remove(entry, event)
        if not isinstance(event, TasksReady | TaskNoted):
            self._change(entry.seq, (room, event.task))
        yield stream_of(room)

    def _change(self, seq: int, place: Place) -> None:
        """Something about a task is other than it was: who waits for it is not ready any more, or could be."""
        room, task = place
        near = [(room, name) for name, item in self.tasks_of(room, seq).items() if task in item.needs]
        self._touched.update((place, *near))
        for other in (place, *near):
            if not self.is_ready(other, seq):
                self.announced.discard(other)

    def _declare(self, entry: Recorded, event: TaskDeclared) -> None:
        seq, at_ms, actor, _ = entry
        place = event.room_name, event.task
        old = self.at(place, seq)
        request = self._require_asked(entry, event, event.task, event.description, ("task.declare", "task.declare_all"))
        if request is not self._declaring:
            self._end_declaring(seq)
        self._declaring = request
        self._declared.append(place)
        spec = next(spec for spec in _specs(request.body) if spec["task"] == event.task)
        have, wanted = 0 if old is None else old.version, spec.get("if_version")
        is_free = old is None or wanted is not None or actor in (old.by, old.suggested, "operator")
        if (event.replaces or 0) != have or wanted not in (None, have) or not is_free:
            raise Violation("lost update", f"{seq} declares {place} anew for {spec}; there is {old}", actor, event.task)
        item = _merged(old, spec, seq, actor, at_ms)
        told = event.title, event.depends_on, event.priority, event.labels
        if (*told, event.suggested_owner) != (item.title, item.needs, item.priority, item.labels, item.suggested):
            raise Violation("altered", f"{seq} declares {event}; {item} is due", actor, event.task)
        if old is not None:
            self._sometimes("a task was described anew")
        self._tasks[place].become(seq, item)

    def _end_declaring(self, seq: int) -> None:
        """The last event of a declaration was seen: there is no cycle. Raises `Violation`."""
        rooms, self._declared, self._declaring = {room for room, _ in self._declared}, [], None
        for room in rooms:
            needs = {task: set(item.needs) for task, item in self.tasks_of(room, seq).items()}
            while free := [task for task, wanted in needs.items() if not wanted & needs.keys()]:
                for task in free:
                    del needs[task]
            if needs:
                raise Violation("cycle", f"room {room} at {seq}: {needs}", *needs)

    def _move(self, entry: Recorded, event: TaskMoved) -> None:
        seq, at_ms, actor, _ = entry
        place = event.room_name, event.task
        item, held = self.at(place, seq), self.holders(place, seq)
        if item is None or item.status != event.previous or event.status not in STEPS[event.previous].split():
            raise Violation("illegal step", f"{seq} is {event}; there is {item}", actor, event.task)
        if event.reason == "asked":
            self._step(entry, event, held)
        elif event.reason.startswith("question"):
            due = self.due_steps.pop(place, None)
            if due != (event.reason, event.previous, event.status, event.epoch):
                raise Violation("unasked", f"{seq} is {event} by {actor}; due is {due}", actor, event.task)
        else:
            ended, lease = self._ended.get(event.epoch or 0), (event.epoch, event.owner)
            if event.reason == "claimed":
                step, is_so = ("open", "in_progress"), lease in held.items()
            else:
                step, is_so = ("in_progress", "open"), not held and isinstance(ended, ENDINGS[event.reason])
                self._sometimes(f"a task was open again: {event.reason}")
            if actor != "hub" or (event.previous, event.status) != step or not is_so:
                raise Violation("unasked", f"{seq} is {event} by {actor}; held by {held}", actor, event.task)
        if event.note is not None or event.reason in ENDINGS:
            self._lines[place].append(seq)
        self._tasks[place].become(seq, replace(item, status=event.status, moved_at_ms=at_ms))

    def _step(self, entry: Recorded, event: TaskMoved, held: dict[int, str]) -> None:
        seq, _, actor, _ = entry
        request = self._require_asked(entry, event, event.task, event.note or "", ("task.update",))
        wanted = request.body.get("epoch")
        if request.body["status"] != event.status:
            raise Violation("unasked", f"{request} became {event} at {seq}", actor, event.task)
        owner = held.get(event.epoch or 0)
        is_mine = owner == event.owner if actor == "operator" else owner == (actor if held else event.owner)
        if not is_mine or wanted not in (None, event.epoch):
            raise Violation("stale accepted", f"{seq} is {event} by {actor}; held by {held}", actor, event.task)
        if event.status in (*OVER, "open"):
            freed = held if actor == "operator" else {epoch: it for epoch, it in held.items() if epoch == event.epoch}
            self._to_free.update(dict.fromkeys(freed, entry))
            if freed:
                self._sometimes("a step ended its lease")
        if event.status == "done":
            self._sometimes("a task was done")
        elif event.previous in OVER:
            self._sometimes("a task was reopened")

    def _announce(self, entry: Recorded, event: TasksReady) -> None:
        for task in event.tasks:
            place = event.room_name, task
            if entry.actor != "hub" or not self.is_ready(place, entry.seq):
                raise Violation("not ready", f"{task} is announced at {entry.seq}: {self.at(place, entry.seq)}", task)
            if place in self.announced:
                raise Violation("announced twice", f"{task} at {entry.seq}", task)
            self.announced.add(place)
            item = self.at(place, entry.seq)
            if item is not None and item.needs:
                self._sometimes("a task was freed by what it waited for")

    def _note(self, entry: Recorded, event: TaskNoted) -> None:
        seq, at_ms, actor, _ = entry
        place = event.room_name, event.task
        item, held = self.at(place, seq), self.holders(place, seq)
        request = self._require_asked(entry, event, event.task, event.text, ("task.note", "task.update"))
        if request.kind == "task.update":
            status = None if item is None else item.status
            if request.body["status"] != status or event.kind != ("blocked" if status == "blocked" else "note"):
                raise Violation("unasked", f"{request} became {event} at {seq}", actor, event.task)
            self._sometimes("a reason was given for the status that a task had")
        mine = [epoch for epoch, owner in held.items() if owner == actor]
        is_live = event.epoch in mine if mine else event.epoch is None
        if (item is None and not held) or not is_live or request.body.get("epoch") not in (None, event.epoch):
            raise Violation("stale accepted", f"{seq} is {event} by {actor}; held by {held}", actor, event.task)
        self._lines[place].append(seq)
        if item is not None:
            self._tasks[place].become(seq, replace(item, progress=item.progress + 1, progress_at_ms=at_ms))

    def _remove(self, entry: Recorded, event: TaskRemoved) -> None:
        seq, _, actor, _ = entry
        place = event.room_name, event.task
        if (actor, *place) not in self._removals:
            raise Violation("unasked", f"{actor} never removed {place}, at {seq}", actor, event.task)
        why = self._why_kept(place, seq, actor)
        if why is not None:
            raise Violation("illegal step", f"{seq} takes {place} out: {why}", actor, event.task)
        self._sometimes("a task was removed")
        self._tasks[place].become(seq, None)

    def _why_kept(self, place: Place, seq: int, actor: str) -> str | None:
        """Why a task cannot be removed by somebody; None when it can."""
        item = self.at(place, seq)
        others = self.tasks_of(place[0], seq).items()
        waiting = [name for name, it in others if place[1] in it.needs and it.status not in OVER]
        if item is None or actor not in (item.by, "operator"):
            return f"not of {actor}: {item}"
        if item.status not in OVER or self.holders(place, seq) or waiting:
            return f"it is {item.status}, held by {self.holders(place, seq)}, needed by {waiting}"
        return None

    # Leases.

    def lease(self, seq: int, event: Event) -> None:
        """A lease began or ended."""
        match event:
            case LeaseGranted() | LeaseHandedOff():
                old = event.replaces if isinstance(event, LeaseGranted) else event.previous
                self._hold(seq, (event.ask.room_name, event.ask.task), old, (seq, event.ask.owner))
            case LeaseReleased() | LeaseExpired() | LeaseRevoked():
                self._end_declaring(seq)
                self._ended[event.epoch] = event
                self._to_free.pop(event.epoch, None)
                self._hold(seq, (event.room_name, event.task), event.epoch, None)
            case _:
                pass

    def _hold(self, seq: int, place: Place, old: int | None, new: tuple[int, str] | None) -> None:
        held = self.holders(place, seq)
        held.pop(old or 0, None)
        if new is not None:
            held[new[0]] = new[1]
        self._holders[place].become(seq, held)
        self._touched.add(place)

    def is_freed_by_a_step(self, actor: str, epoch: int) -> bool:
        """True when a step that this agent took in this transaction ends the lease."""
        entry = self._to_free.get(epoch)
        return entry is not None and entry.actor == actor

    def end_transaction(self, seq: int) -> None:
        """The transaction that ends here is whole. Raises `Violation`."""
        self._end_declaring(seq)
        for place, due in self.due_steps.items():
            raise Violation("not moved", f"{place} at {seq}: {due} follows from a question", place[1])
        for entry in self._to_free.values():
            raise Violation("leased after the end", f"{entry.event} at {entry.seq} freed nothing", entry.actor)
        for place in self._touched:
            item, held = self.at(place, seq), self.holders(place, seq)
            if item is not None and item.status == "open" and held:
                raise Violation("leased and open", f"{place} at {seq} is held by {held}", place[1], *held.values())
            if item is not None and item.status == "in_progress" and not held and self._has_lapsed(place):
                raise Violation("in progress by nobody", f"{place} at {seq}", place[1])
            if self.is_ready(place, seq) and place not in self.announced:
                raise Violation("not announced", f"{place} is ready at {seq}", place[1])
        self._touched.clear()
        self._ended.clear()

    def _has_lapsed(self, place: Place) -> bool:
        """True when its last lease ended in this transaction, and nobody said afterwards that it is worked on."""
        ends = [epoch for epoch, it in self._ended.items() if (it.room_name, it.task) == place]  # type: ignore[union-attr]  # of a lease
        return bool(ends) and self._tasks[place].at[-1] < self._holders[place].at[-1]

    def check(self, tasks: dict[Place, tuple[str, int, bool]], seq: int) -> None:
        """The hub's plan is this one: status, what is unmet, and whether it was announced. Raises `Violation`."""
        due: dict[Place, tuple[str, int, bool]] = {}
        for room in sorted({room for room, _ in self._tasks}):
            for task, item in self.tasks_of(room, seq).items():
                unmet = len(self.missing(room, item, seq))
                due[room, task] = item.status, unmet, (room, task) in self.announced
        if tasks != due:
            other = {place: (tasks.get(place), due.get(place)) for place in tasks.keys() | due.keys()}
            other = {place: both for place, both in other.items() if both[0] != both[1]}
            raise Violation("altered", f"the hub's plan at {seq} is not the journal's: {other}")

    # What is told.

    def told(self, room: str, task: str, seq: int, *, is_full: bool) -> Json | None:
        """A task as an answer at `seq` tells it; None when it is not there."""
        item = self.at((room, task), seq)
        if item is None:
            return None
        missing, dependents = self.missing(room, item, seq), self._dependents(room, task, seq)
        held = [{"owner": owner, "epoch": epoch} for epoch, owner in self.holders((room, task), seq).items()]
        found: Json = {
            "task": task, "room": room, "title": item.title, "status": item.status,
            "ready": item.status == "open" and not missing, "priority": item.priority, "depends_on": list(item.needs),
            "suggested_owner": item.suggested, "version": item.version, "declared_by": item.by,
            "moved_at_ms": item.moved_at_ms, "progress_at_ms": item.progress_at_ms,
        }  # fmt: skip
        some = {"labels": list(item.labels), "waits_for": missing, "unmet": len(missing), "dependents": dependents}
        some |= {"progress": item.progress, "holders": held, "questions": self.questions_of((room, task), seq)}
        found |= {name: value for name, value in some.items() if value}
        return found | ({"description": item.description, "declared_at_ms": item.declared_at_ms} if is_full else {})

    def _dependents(self, room: str, task: str, seq: int) -> int:
        return sum(task in item.needs for item in self.tasks_of(room, seq).values())

    def require_true(self, agent: str, kind: str, body: Json, seq: int, reply: Json) -> object:
        """A reply about the plan says what is so; what a repeat under its key must say again. Raises `Violation`."""
        room, task = body.get("room") or HOME, body.get("task", "")
        match kind:
            case "task.show":
                self._require_told(agent, room, task, seq, reply, is_full=True)
            case "task.list":
                self._require_list(agent, room, body, seq, reply)
            case "task.declare" | "task.update":
                return self._require_changed(agent, kind, body, seq, reply)
            case "task.declare_all":
                tasks: dict[str, int] = reply["tasks"]
                for name, version in tasks.items():
                    spec = next(spec for spec in body["tasks"] if spec["task"] == name)
                    if self._done.get((spec["description"], name)) != version:
                        raise Violation("lost", f"{agent} declared {reply}; the journal has no such {name}", agent)
                if reply["declared"] != len(tasks) or reply["declared"] + reply["unchanged"] != len(body["tasks"]):
                    raise Violation("altered", f"{agent} declared {body}, and is told {reply}", agent)
                return sorted(tasks.items()) or None
            case "task.note":
                entry = self.events.get(reply["seq"])
                if self._done.get((body["text"], task)) != reply["seq"] or entry is None:
                    raise Violation("lost", f"{agent} wrote {reply}, which is not in the journal", agent)
                self._require_line(agent, reply)
                return reply["seq"]
            case "task.remove":
                gone = self._tasks.get((room, task))
                actors = [self.events[at].actor for at in gone.at if self.is_removal(at)] if gone is not None else []
                if agent not in actors:
                    raise Violation("lost", f"{agent} removed {task}; the journal has {actors}", agent)
            case "progress.read":
                self._require_ledger(agent, (room, task), body, reply)
        return None

    def is_removal(self, seq: int) -> bool:
        """True when a task was taken out here."""
        return isinstance(self.events[seq].event, TaskRemoved)

    def _require_told(
        self, agent: str, room: str, task: str, seq: int, reply: Json, *, is_full: bool, declared: Item | None = None
    ) -> None:
        """declared: what a repeat tells as it was then."""
        due = self.told(room, task, seq, is_full=is_full)
        if due is not None and declared is not None:
            due |= {
                "title": declared.title, "priority": declared.priority, "depends_on": list(declared.needs),
                "suggested_owner": declared.suggested, "version": declared.version,
                "description": declared.description, "labels": list(declared.labels),
            }  # fmt: skip
            due = {name: value for name, value in due.items() if name != "labels" or value}
        said = {name: value for name, value in reply.items() if name not in ("cursor", "changed")}
        if "holders" in said:
            said["holders"] = [{name: it[name] for name in ("owner", "epoch")} for it in said["holders"]]
        if said != due:
            raise Violation("wrong task", f"{agent} is told {said} at {seq}; there is {due}", agent, task)

    def _require_changed(self, agent: str, kind: str, body: Json, seq: int, reply: Json) -> object:
        room, task = body.get("room") or HOME, body["task"]
        mark = body.get("description") if kind == "task.declare" else body["note"]
        entry = self.events.get(self._done.get((mark or "", task), 0))
        is_step = entry is not None and not isinstance(entry.event, TaskNoted)
        if reply["changed"] != is_step or (kind == "task.update" and entry is None):
            raise Violation("lost", f"{agent} asked for {body}, and is told {reply}; there is {entry}", agent, task)
        item, event = self.at((room, task), seq), None if entry is None else entry.event
        status = event.status if isinstance(event, TaskMoved) else None
        if item is not None and status in (None, item.status) and self.sees(agent, room, seq):
            then = self.at((room, task), entry.seq) if entry is not None and isinstance(event, TaskDeclared) else None
            self._require_told(agent, room, task, seq, reply, is_full=True, declared=then)
        elif (reply["task"], reply["room"], reply["status"]) != (task, room, status or "open"):
            raise Violation("wrong task", f"{agent} is told {reply} at {seq}; {event} was done", agent, task)
        return None if entry is None else status or task

    def _require_list(self, agent: str, room: str, body: Json, seq: int, reply: Json) -> None:
        tasks, after, status = self.tasks_of(room, seq), body.get("after") or "", body.get("status")
        fits = [name for name, it in tasks.items() if name > after and status in (None, it.status)]
        if body.get("ready") is not None:
            fits = [name for name in fits if self.is_ready((room, name), seq) == body["ready"]]
        if body.get("owner") is not None:
            fits = [name for name in fits if body["owner"] in self._owners((room, name), seq)]
        names = [task["task"] for task in reply["tasks"]]
        ready = [name for name in names if self.is_ready((room, name), seq)]
        due = fits[: len(names)] if reply["next"] is not None else fits
        if names != due or reply["ready"] != ready or reply["total"] != len(tasks):
            raise Violation("wrong page", f"{agent} lists {names}, ready {reply['ready']}; {due} are due", agent)
        for task in reply["tasks"]:
            self._require_told(agent, room, task["task"], seq, task, is_full=False)

    def _owners(self, place: Place, seq: int) -> list[str | None]:
        item, held = self.at(place, seq), self.holders(place, seq)
        return [*held.values()] if held or item is None else [item.suggested]

    def _require_line(self, agent: str, line: Json) -> None:
        """A line of a ledger is that of the journal. Raises `Violation`."""
        entry = self.events.get(line["seq"])
        event = None if entry is None else entry.event
        if entry is None or not isinstance(event, TaskNoted | TaskMoved):
            raise Violation("not durable", f"{agent} reads {line}, which is not in the journal", agent)
        text = event.text if isinstance(event, TaskNoted) else line["text"] if event.note is None else event.note
        told = line["task"], line["room"], line["text"], line["by"], line["at_ms"], line.get("epoch")
        if told != (event.task, event.room_name, text, entry.actor, entry.at_ms, event.epoch):
            raise Violation("altered", f"{agent} reads {line}; the journal has {entry}", agent)

    def _require_ledger(self, agent: str, place: Place, body: Json, reply: Json) -> None:
        lines = [seq for seq in self._lines[place] if body.get("agent") in (None, self.events[seq].actor)]
        told = [line["seq"] for line in reversed(reply["lines"])]
        self.pages.require_true(agent, stream_of(place[0]), lines, told, of=(body, reply))
        for line in reply["lines"]:
            self._require_line(agent, line)

    def require_brief(self, agent: str, place: Place, seq: int, brief: Json | None) -> None:
        """What a fresh grant says of the task. Raises `Violation`."""
        item = self.at(place, seq)
        due = None
        if item is not None:
            due = {"title": item.title, "status": item.status, "waits_for": self.missing(place[0], item, seq)}
        if brief != due:
            raise Violation("wrong task", f"{agent} is told {brief} of {place} at {seq}; there is {due}", agent)

    def require_refused_rightly(self, agent: str, kind: str, body: Json, seq: int, error: Json) -> None:
        """What a request about the plan was refused for is so. Raises `Violation`."""
        place = body.get("room") or HOME, body.get("task", "")
        item, held, facts = self.at(place, seq), self.holders(place, seq), error.get("facts") or {}
        mine = {epoch for epoch, owner in held.items() if owner == agent}
        match error["code"]:
            case "not_found":
                is_so = item is None and (kind != "task.note" or not held)
            case "version_conflict":
                there = self.at((place[0], facts["task"]), seq)
                is_so = facts["version"] == (0 if there is None else there.version)
            case "cycle":
                is_so = self._is_cycle(place[0], body, seq, facts["path"])
            case "illegal_transition":
                legal = [] if item is None else STEPS[item.status].split()
                is_so = facts["legal"] == legal and body["status"] not in legal
            case "not_holder":
                is_so = bool(held) and not mine
            case "stale_epoch":
                is_so = body.get("epoch") is not None and body["epoch"] not in mine
            case "not_empty" | "not_permitted":
                is_so = item is not None and self._why_kept(place, seq, agent) is not None
            case _:
                return
        if not is_so:
            text = f"{kind} {body} of {agent} at {seq}: {error}; there is {item}, held by {held}"
            raise Violation("fenced wrongly", text, agent, place[1])

    def _is_cycle(self, room: str, body: Json, seq: int, path: list[str]) -> bool:
        new = {spec["task"]: spec["depends_on"] for spec in _specs(body) if spec.get("depends_on") is not None}
        needs = {task: list(item.needs) for task, item in self.tasks_of(room, seq).items()} | new
        return path[0] == path[-1] and all(other in needs[task] for task, other in pairwise(path))

    def require_told_rightly(self, agent: str, seq: int, told: Json) -> None:
        """A change as followers hear of it is the one in the journal. Raises `Violation`."""
        entry = self.events.get(seq)
        if entry is None:
            raise Violation("not durable", f"{agent} hears of {told} at {seq}, which is not in the journal", agent)
        event: Any = entry.event
        names = {"title", "depends_on", "status", "previous", "reason", "owner", "epoch", "kind", "text"}
        due = {name: getattr(event, name, None) for name in names}
        due |= {"change": CHANGES.get(type(event), "removed"), "room": event.room_name, "by": entry.actor}
        due |= {"tasks": list(event.tasks) if isinstance(event, TasksReady) else [event.task]}
        due |= {"at_ms": entry.at_ms, "cursor": told["cursor"]}
        if isinstance(event, TaskMoved):
            due["text"] = event.note
        if isinstance(event, TaskDeclared):
            due |= {"version": seq, "depends_on": list(event.depends_on)}
        due = {name: value for name, value in due.items() if value not in SILENT}
        if told != due:
            raise Violation("altered", f"{agent} hears {told}; the journal has {due}", agent)


def _specs(body: Json) -> list[Json]:
    specs: list[Json] = body.get("tasks") or [body]
    return specs


def _merged(old: Item | None, spec: Json, seq: int, actor: str, at_ms: int) -> Item:
    """A task as it is after a declaration: what is not said stays."""

    def given(name: str, before: Any) -> Any:
        value = spec.get(name)
        return before if value is None else tuple(dict.fromkeys(value)) if isinstance(value, list) else value

    if old is None:
        old = Item(seq, actor, spec["task"], "", (), "normal", (), None, at_ms, at_ms)
    return replace(
        old,
        version=seq,
        title=given("title", old.title),
        description=given("description", old.description),
        needs=given("depends_on", old.needs),
        priority=given("priority", old.priority),
        labels=given("labels", old.labels),
        suggested=given("suggested_owner", old.suggested) or None,
    )


def stream_of(room: str) -> str:
    """The name of the ledger's stream of the changes that a follower of this plan is told."""
    return f"plan {room}"
