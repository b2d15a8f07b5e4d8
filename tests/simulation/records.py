"""Work sessions as the journal tells them: all that each ever was, its checkpoints, and who went on where it broke off.

What is offered and taken up is worked out from the ends and beginnings of leases, and looked at when a transaction is
over: what broke off was offered, what was offered went to whoever was granted the task next, and nothing was offered
twice.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import UNSET
from tests.simulation.agenda import HOME, OVER, Agenda, Past, Place
from tests.simulation.pages import Pages
from tests.simulation.terms import Violation

from synapse.core.events import LeaseExpired, LeaseGranted, LeaseRevoked, Recorded
from synapse.core.session_events import (
    SessionCheckpointed,
    SessionEnded,
    SessionOffered,
    SessionResumed,
    SessionStarted,
    SessionUpdated,
)

Json: TypeAlias = dict[str, Any]
SessionEvent: TypeAlias = (
    SessionStarted | SessionUpdated | SessionCheckpointed | SessionEnded | SessionOffered | SessionResumed
)

ALIVE_MS: Final = 90_000
ENDED_MAX: Final = 1_000
"""So many sessions that have ended are kept."""
LATE_MS_MAX: Final = 3_000
LISTS: Final = ("decisions", "files", "todos")


@dataclass(frozen=True, slots=True)
class Run:
    """What a session was from one event on. last: seq of its newest checkpoint. resumed, resumed_n: the epoch under
    which somebody went on from it, and how many checkpoints it had then."""

    id: int
    room: str
    owner: str
    version: int
    display_name: str
    repo: str | None
    task: str | None
    summary: str
    metadata: Json
    started_at_ms: int
    updated_at_ms: int
    state: str = "working"
    decisions: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    todos: tuple[str, ...] = ()
    points: int = 0
    last: int = 0
    resumable_at_ms: int | None = None
    is_served: bool = False
    resumed: int | None = None
    resumed_n: int = 0
    resumed_by: str | None = None
    resumed_at_ms: int | None = None
    ended: int = 0
    ended_at_ms: int | None = None
    reason: str | None = None

    @property
    def place(self) -> Place | None:
        """Room and task."""
        return None if self.task is None else (self.room, self.task)

    @property
    def is_fresh(self) -> bool:
        """True when there is something to go on from that nobody has gone on from."""
        return self.points > self.resumed_n and self.state != "done"


class Records:
    """All sessions there ever were. waiting: whether a question of a session is open, after an event. lanes: how many
    open lanes it has."""

    pages: Pages

    def __init__(self, agenda: Agenda, sometimes: Callable[[str], None]) -> None:
        self.waiting: Callable[[int, int], bool] = lambda _session, _seq: False
        self.lanes: Callable[[int, int], int] = lambda _session, _seq: 0
        self.points: dict[int, Recorded] = {}
        self.beats: dict[int, int] = {}
        self._agenda = agenda
        self._sometimes = sometimes
        self._runs: dict[int, Past] = defaultdict(Past)
        self._now: dict[int, Run] = {}
        self._of_owner: dict[str, list[int]] = defaultdict(list)
        self._of_place: dict[Place, dict[int, None]] = defaultdict(dict)
        self._points_of: dict[int, list[int]] = defaultdict(list)
        self._offers: dict[Place, Past] = defaultdict(Past)
        self._ended: dict[int, None] = {}
        self._asked: dict[str, tuple[str, str, Json]] = {}
        self._done: dict[str, int] = {}
        self._due_offers: dict[Place, tuple[int, str]] = {}
        self._due_resumptions: dict[Place, int] = {}
        self._granted: set[Place] = set()
        self._late_since_ms: dict[int, int] = {}
        self._offered_at_ms: dict[Place, int] = {}

    # What was asked for.

    def ask(self, kind: str, agent: str, body: Json) -> None:
        """The hub is about to hear this."""
        mark = mark_of(kind, body)
        if mark is not None:
            self._asked[mark] = agent, kind, body

    def _require_asked(self, entry: Recorded, mark: str | None, kind: str) -> Json:
        """The body of the request that an event follows from. Raises `Violation`."""
        agent, wanted, body = self._asked.get(mark or "", ("", "", {}))
        if (agent, wanted) != (entry.actor, kind):
            raise Violation("unasked", f"{entry.actor} never asked for what {entry.seq} is: {entry.event}", entry.actor)
        if self._done.setdefault(mark or "", entry.seq) != entry.seq:
            raise Violation("applied twice", f"{mark} at {self._done[mark or '']} and {entry.seq}", entry.actor)
        return body

    # What there is.

    def at(self, session: int, seq: int) -> Run | None:
        """A session as the journal up to `seq` has it."""
        past = self._runs.get(session)
        found: Run | None = None if past is None else past.upto(seq)
        return found

    def open_of(self, agent: str) -> list[Run]:
        """The open sessions of an agent, in the order of their starts."""
        return [run for at in self._of_owner[agent] if (run := self._now.get(at)) is not None and not run.ended]

    def working_on(self, agent: str, place: Place) -> str | None:
        """The latest open session of an agent that is about a task."""
        return next((f"s{run.id}" for run in reversed(self.open_of(agent)) if run.place == place), None)

    def newest(self, most: int) -> list[Run]:
        """The sessions that began last, so many at most; 0: all."""
        return list(self._now.values())[-most:]

    def offered(self, place: Place, seq: int) -> int | None:
        """The session whose last checkpoint waits for a claim of this task."""
        past = self._offers.get(place)
        found: int | None = None if past is None else past.upto(seq)
        return found

    def _has_ended(self, place: Place, seq: int) -> bool:
        item = self._agenda.at(place, seq)
        return item is not None and item.status in OVER

    def _become(self, seq: int, run: Run) -> None:
        old = self._now.get(run.id)
        if old is not None and old.place is not None and old.place != run.place:
            self._of_place[old.place].pop(run.id, None)
            self._void(seq, old)
        if run.place is not None:
            self._of_place[run.place][run.id] = None
        self._runs[run.id].become(seq, run)
        self._now[run.id] = run

    def _void(self, seq: int, run: Run) -> None:
        """It is not offered any more, if it was."""
        if run.place is not None and self.offered(run.place, seq) == run.id:
            self._offers[run.place].become(seq, None)

    # The fold.

    def enter(self, entry: Recorded, event: SessionEvent) -> None:
        """Fold an event in. Raises `Violation`."""
        if isinstance(event, SessionStarted):
            self._start(entry, event)
            return
        run = self._now.get(event.session)
        if run is None or (run.owner, run.room) != (event.owner, event.room_name):
            raise Violation("not live", f"{entry.seq} is {event}; there is {run}", entry.actor)
        match event:
            case SessionUpdated():
                self._update(entry, event, run)
            case SessionCheckpointed():
                self._keep(entry, event, run)
            case SessionEnded():
                self._end(entry, event, run)
            case SessionOffered():
                self._offer(entry, event, run)
            case SessionResumed():
                self._resume(entry, event, run)

    def _start(self, entry: Recorded, event: SessionStarted) -> None:
        seq, at_ms, actor, _ = entry
        body = self._require_asked(entry, event.summary, "session.start")
        due = Run(
            seq, body.get("room") or HOME, actor, seq, body.get("display_name") or actor, body.get("repo"),
            body.get("task"), body["summary"], body.get("metadata") or {}, at_ms, at_ms,
        )  # fmt: skip
        metadata = msgspec.json.decode(event.metadata)
        told = event.room_name, event.owner, event.display_name, event.repo, event.task, metadata
        if told != (due.room, due.owner, due.display_name, due.repo, due.task, due.metadata):
            raise Violation("altered", f"{seq} begins {event}; {due} is due", actor)
        self._of_owner[actor].append(seq)
        self._become(seq, due)

    def _update(self, entry: Recorded, event: SessionUpdated, run: Run) -> None:
        seq, at_ms, actor, _ = entry
        body = self._require_asked(entry, None if event.repo is UNSET else event.repo, "session.update")
        self._require_own(entry, run, body)
        if body.get("if_version") not in (None, run.version):
            raise Violation("lost update", f"{seq} follows {body}; there is {run}", actor)
        due = replace(_merged(run, body), version=seq, updated_at_ms=at_ms)
        if replace(_folded(run, event), version=seq, updated_at_ms=at_ms) != due:
            raise Violation("altered", f"{seq} is {event}; {due} is due of {run}", actor)
        if event.sizes != (len(due.decisions), len(due.files), len(due.todos)):
            raise Violation("altered", f"{seq} has sizes {event.sizes} of {due}", actor)
        if event.replaced:
            self._sometimes("lines of a session were replaced")
        self._become(seq, due)

    def _require_own(self, entry: Recorded, run: Run, body: Json) -> None:
        """It is an open one of who asks: the one named, else the latest. Raises `Violation`."""
        mine = self.open_of(entry.actor)
        named = body.get("session")
        is_meant = named == f"s{run.id}" if named is not None else bool(mine) and mine[-1].id == run.id
        if run.ended or run.owner != entry.actor or not is_meant:
            raise Violation("stale accepted", f"{entry.seq} changes {run}, asked was {body}", entry.actor)

    def _keep(self, entry: Recorded, event: SessionCheckpointed, run: Run) -> None:
        seq, _, actor, _ = entry
        data: Json = msgspec.json.decode(event.data)
        body = self._require_asked(entry, data.get("mark"), "session.checkpoint")
        if run.ended or run.owner != actor or body.get("session") not in (None, f"s{run.id}"):
            raise Violation("stale accepted", f"{seq} keeps {event} in {run}", actor)
        if event.n != run.points + 1:
            raise Violation("numbers have a gap", f"s{run.id} goes from {run.points} to {event.n} at {seq}", actor)
        if data != body["data"] or (event.task, event.epoch) != (run.task, body.get("epoch")):
            raise Violation("altered", f"{seq} keeps {event}; {body} was asked for, of {run}", actor)
        held = {} if run.place is None else self._agenda.holders(run.place, seq)
        if event.epoch is not None and held.get(event.epoch) != actor:
            raise Violation(
                "stale accepted", f"{seq} is kept under {event.epoch}; {run.place} is held by {held}", actor
            )
        self.points[seq] = entry
        self._points_of[run.id].append(seq)
        self._become(seq, replace(run, points=event.n, last=seq))

    def _end(self, entry: Recorded, event: SessionEnded, run: Run) -> None:
        seq, at_ms, actor, _ = entry
        body = self._require_asked(entry, event.reason, "session.end")
        self._require_own(entry, run, body)
        if event.state != (body.get("state") or "done"):
            raise Violation("altered", f"{seq} is {event}; {body} was asked for", actor)
        if event.state == "done":
            self._void(seq, run)
        ended = {"state": event.state, "version": seq, "updated_at_ms": at_ms, "reason": event.reason}
        self._become(seq, replace(run, ended=seq, ended_at_ms=at_ms, **ended))  # type: ignore[arg-type]  # by name
        self._ended[run.id] = None
        for gone in event.dropped:
            self._drop(seq, gone)
        if len(self._ended) > ENDED_MAX:
            raise Violation("altered", f"{len(self._ended)} sessions that ended are kept at {seq}", actor)

    def _drop(self, seq: int, gone: int) -> None:
        if gone != next(iter(self._ended)) or len(self._ended) <= ENDED_MAX:
            raise Violation("lost", f"s{gone} leaves at {seq}, of {len(self._ended)} that have ended")
        del self._ended[gone]
        run = self._now.pop(gone)
        self._void(seq, run)
        if run.place is not None:
            del self._of_place[run.place][gone]
        self._runs[gone].become(seq, None)
        self._of_owner[run.owner].remove(gone)

    # Who goes on.

    def lease(self, entry: Recorded) -> None:
        """A lease broke off, or began."""
        seq, at_ms, _, event = entry
        match event:
            case LeaseExpired() | LeaseRevoked():
                place = event.room_name, event.task
                left = self._left_by(place, event.owner, event.epoch)
                if left is None or self._has_ended(place, seq):
                    return
                if left.resumable_at_ms is None or left.resumable_at_ms <= at_ms:
                    reason = "expired" if isinstance(event, LeaseExpired) else "revoked"
                    self._due_offers[place] = left.id, reason
                else:
                    self._sometimes("what broke off waited for its date")
            case LeaseGranted():
                place = event.ask.room_name, event.ask.task
                self._granted.add(place)
                due = self._due_offers.get(place)
                found = self.offered(place, seq) if due is None else due[0]
                if found is not None and not self._has_ended(place, seq):
                    self._due_resumptions[place] = found
            case _:
                pass

    def _left_by(self, place: Place, owner: str, epoch: int) -> Run | None:
        """What the holder of a lease that broke off left: its own newest checkpoint, else what it had gone on from."""
        runs = [self._now[at] for at in self._of_place[place]]
        own = [run for run in runs if run.owner == owner and run.is_fresh]
        taken = [run for run in runs if run.resumed == epoch and run.state != "done"]
        return max(own, key=lambda run: run.last) if own else next(iter(taken), None)

    def _offer(self, entry: Recorded, event: SessionOffered, run: Run) -> None:
        seq, at_ms, actor, _ = entry
        place = event.room_name, event.task
        if event.reason == "resumable_at":
            held = self._agenda.holders(place, seq)
            if run.resumable_at_ms is None or at_ms < run.resumable_at_ms:
                raise Violation("offered early", f"{seq} at {at_ms} is {event}; there is {run}", run.owner)
            is_due = run.is_fresh and not run.is_served and run.owner not in held.values()
            is_due = is_due and not self._has_ended(place, seq) and self.offered(place, seq) != run.id
        else:
            is_due = self._due_offers.pop(place, None) == (run.id, event.reason)
        if actor != "hub" or run.place != place or not is_due or not run.last:
            raise Violation("offered for nothing", f"{seq} is {event}; there is {run}", run.owner)
        told = {delivery.name for delivery in event.deliveries}
        if told != self._concerned(place, run, seq) and not (place in self._granted and not told):
            raise Violation("told the wrong ones", f"{seq} tells {told} of {event}", run.owner)
        self._sometimes(f"a checkpoint was offered: {event.reason}")
        is_served = run.is_served or (run.resumable_at_ms is not None and run.resumable_at_ms <= at_ms)
        self._become(seq, replace(run, is_served=is_served))
        self._offers[place].become(seq, run.id)
        self._offered_at_ms[place] = at_ms

    def _concerned(self, place: Place, run: Run, seq: int) -> set[str]:
        item = self._agenda.at(place, seq)
        suggested = set() if item is None or item.suggested is None else {item.suggested}
        return suggested | {owner for owner in self._agenda.holders(place, seq).values() if owner != run.owner}

    def _resume(self, entry: Recorded, event: SessionResumed, run: Run) -> None:
        seq, at_ms, _, _ = entry
        place = event.room_name, event.task
        held = self._agenda.holders(place, seq)
        if self.offered(place, seq) != run.id or self._has_ended(place, seq) or held.get(event.epoch) != event.by:
            raise Violation("resumed for nothing", f"{seq} is {event}; there is {run}, held by {held}", event.by)
        due = self._due_resumptions.pop(place, run.id)
        if due != run.id and (self._now[due].last, self._now[due].is_served) > (run.last, False):
            self._sometimes("two checkpoints of a task waited")
        if event.by != run.owner:
            self._sometimes("somebody went on where another broke off")
        self._offers[place].become(seq, None)
        gone = {"resumed": event.epoch, "resumed_n": run.points, "resumed_by": event.by, "resumed_at_ms": at_ms}
        self._become(seq, replace(run, **gone))  # type: ignore[arg-type]  # by name

    def end_transaction(self, seq: int) -> None:
        """What broke off is offered, and what was offered went to who got the task. Raises `Violation`."""
        for place, (session, reason) in self._due_offers.items():
            run = self._now.get(session)
            if run is not None and run.state != "done" and run.place == place and not self._has_ended(place, seq):
                raise Violation("not offered", f"{run} is {reason} at {seq}", run.owner, place[1])
        for place, session in self._due_resumptions.items():
            run = self._now.get(session)
            if run is not None and run.state != "done" and run.place == place and not self._has_ended(place, seq):
                raise Violation("not resumed", f"{place} was granted at {seq}; {run} was offered", run.owner, place[1])
        self._due_offers.clear()
        self._due_resumptions.clear()
        self._granted.clear()

    # What is told.

    def letter(self, event: SessionOffered) -> Json:
        """What the message about an offer says."""
        return {
            "type": "session.offered", "session": f"s{event.session}", "room": event.room_name, "task": event.task,
            "agent": event.owner, "reason": event.reason,
        }  # fmt: skip

    def told(self, run: Run, seq: int) -> Json:
        """A session as a list at `seq` tells it, but for who is there."""
        waits, place = self.waiting(run.id, seq), run.place
        is_offered = place is not None and self.offered(place, seq) == run.id and not self._has_ended(place, seq)
        return {
            "session": f"s{run.id}", "room": run.room, "agent": run.owner, "display_name": run.display_name,
            "version": run.version, "state": "waiting_for_input" if waits and not run.ended else run.state,
            "declared": run.state, "repo": run.repo, "task": run.task, "summary": run.summary,
            "counts": {name: len(getattr(run, name)) for name in LISTS}
            | {"checkpoints": run.points, "lanes": self.lanes(run.id, seq)},
            "started_at_ms": run.started_at_ms, "updated_at_ms": run.updated_at_ms, "ended_at_ms": run.ended_at_ms,
            "reason": run.reason, "resumable_at_ms": run.resumable_at_ms, "resumable": is_offered,
            "resumed_by": run.resumed_by, "resumed_at_ms": run.resumed_at_ms,
        }  # fmt: skip

    def require_true(self, agent: str, kind: str, body: Json, seq: int, reply: Json, now_ms: int) -> object:
        """A reply about sessions says what is so; what a repeat under its key must say again. Raises `Violation`."""
        match kind:
            case "session.start" | "session.update" | "session.end":
                return self._require_changed(agent, kind, body, seq, reply)
            case "session.checkpoint":
                kept = self.points.get(reply["checkpoint"])
                if kept is None or self._done.get(mark_of(kind, body) or "") != kept.seq or kept.actor != agent:
                    raise Violation("lost", f"{agent} kept {reply}; there is {kept}", agent)
                self._require_point(agent, reply)
                return reply["checkpoint"]
            case "session.checkpoints":
                self._require_points(agent, body, reply)
            case "session.show":
                self._require_shown(agent, seq, reply, now_ms)
            case "session.list":
                self._require_list(agent, body, seq, reply)
            case "session.beat":
                self.beats[int(reply["session"][1:])] = now_ms
        return None

    def _require_changed(self, agent: str, kind: str, body: Json, seq: int, reply: Json) -> object:
        at = self._done.get(mark_of(kind, body) or "")
        run = None if at is None else self.at(int(reply["session"][1:]), at)
        if run is None or run.version != reply["version"] or run.owner != agent or run.version > seq:
            raise Violation("lost", f"{agent} asked for {body}, and is told {reply}; there is {run}", agent)
        due = run.state, run.task, *(len(getattr(run, name)) for name in LISTS)
        if (reply["state"], reply["task"], *(reply[name] for name in LISTS)) != due:
            raise Violation("altered", f"{agent} is told {reply}; there is {run}", agent)
        return reply["version"]

    def _require_point(self, agent: str, told: Json) -> None:
        """A checkpoint is that of the journal. Raises `Violation`."""
        entry = self.points.get(told["checkpoint"])
        if entry is None:
            raise Violation("not durable", f"{agent} reads {told}, which is not in the journal", agent)
        event: Any = entry.event
        lane = None if event.lane is None else f"l{event.lane}"
        due = {"session": f"s{event.session}", "n": event.n, "agent": event.owner, "task": event.task, "lane": lane}
        due |= {"epoch": event.epoch, "at_ms": entry.at_ms}
        due |= {"data": msgspec.json.decode(event.data)} if "data" in told else {}
        said = {name: told[name] for name in due}
        if said != due:
            raise Violation("altered", f"{agent} reads {said}; {due} was kept", agent)

    def _require_points(self, agent: str, body: Json, reply: Json) -> None:
        session, told = reply["session"], [point["checkpoint"] for point in reply["checkpoints"]]
        self.pages.require_true(agent, f"session {session}", self._points_of[int(session[1:])], told, of=(body, reply))
        for point in reply["checkpoints"]:
            self._require_point(agent, point)

    def _require_shown(self, agent: str, seq: int, reply: Json, now_ms: int) -> None:
        run = self.at(int(reply["session"][1:]), seq)
        if run is None:
            raise Violation("not durable", f"{agent} is shown {reply} at {seq}", agent)
        self._require_same(agent, run, seq, reply)
        lists = {name: list(getattr(run, name)) for name in LISTS} | {"metadata": run.metadata}
        if {name: reply[name] for name in lists} != lists:
            raise Violation("wrong session", f"{agent} is shown {reply}; there is {run}", agent)
        last = reply.get("last")
        if (0 if last is None else last["checkpoint"]) != run.last:
            raise Violation("wrong session", f"{agent} is shown {last} as the last of {run}", agent)
        if last is not None:
            self._require_point(agent, last)
        beat_ms = self.beats.get(run.id)
        if beat_ms is not None and now_ms - beat_ms < ALIVE_MS and not run.ended and reply["presence"] != "online":
            raise Violation("wrong session", f"{agent} is shown {reply}, which beat at {beat_ms} of {now_ms}", agent)

    def _require_same(self, agent: str, run: Run, seq: int, told: Json) -> None:
        due = self.told(run, seq)
        said = {name: told[name] for name in due}
        if said != due:
            raise Violation("wrong session", f"{agent} is told {said} at {seq}; there is {due}", agent)

    def _require_list(self, agent: str, body: Json, seq: int, reply: Json) -> None:
        found = [run for session in sorted(self._runs, reverse=True) if (run := self.at(session, seq)) is not None]
        for name, wanted in (("agent", "owner"), ("room", "room")):
            found = [run for run in found if body.get(name) in (None, getattr(run, wanted))]
        if body.get("resumable") is not None:
            found = [run for run in found if self.told(run, seq)["resumable"] == body["resumable"]]
        ids, told = [run.id for run in found], [int(session["session"][1:]) for session in reply["sessions"]]
        start = ids.index(told[0]) if body.get("after") is not None and told and told[0] in ids else 0
        due = ids[start : start + len(told)] if reply["next"] is not None or body.get("after") is not None else ids
        if told != due:
            raise Violation("wrong page", f"{agent} lists {told} for {body}; {due} are due", agent)
        for session in reply["sessions"]:
            run = self.at(int(session["session"][1:]), seq)
            assert run is not None
            self._require_same(agent, run, seq, session)

    def require_resume(self, agent: str, place: Place, epoch: int, seq: int, resume: Json | None) -> None:
        """What a claim is told to go on from is the last checkpoint of what broke off. Raises `Violation`."""
        runs = [run for at in self._of_place[place] if (run := self.at(at, seq)) is not None and run.resumed == epoch]
        run = next(iter(runs), None)
        if resume is None or not resume["ready"]:
            if run is not None:
                raise Violation("lost", f"{agent} goes on with {place} under {epoch} from {resume}: {run}", agent)
            return
        if run is None or (resume["session"], resume["agent"]) != (f"s{run.id}", run.owner):
            raise Violation("wrong session", f"{agent} goes on with {place} from {resume}: {run}", agent)
        event: Any = self.points[run.last].event
        if resume["data"] != msgspec.json.decode(event.data):
            raise Violation("wrong session", f"{agent} goes on from {resume}; the last one is {event}", agent)
        self._sometimes("a claim was told the last checkpoint")
        left = 0
        for name in LISTS:
            lines = list(getattr(run, name))
            left += len(lines) - len(resume[name])
            if resume[name] != lines[len(lines) - len(resume[name]) :]:
                raise Violation("wrong session", f"{agent} goes on from {resume}; there is {run}", agent)
        if left != resume["omitted"]:
            raise Violation("wrong session", f"{agent} goes on from {resume}; there is {run}", agent)

    def require_refused_rightly(self, agent: str, kind: str, body: Json, seq: int, error: Json) -> None:
        """What a request about sessions was refused for is so. Raises `Violation`."""
        named, facts, is_so = body.get("session"), error.get("facts") or {}, True
        run = None if named is None else self.at(int(named[1:]), seq)
        match error["code"]:
            case "version_conflict":
                there = self.at(int(facts["session"][1:]), seq)
                is_so = there is not None and facts["version"] == there.version != body["if_version"]
                self._sometimes("a change of an old version of a session was refused")
            case "illegal_transition" if "session" in facts:
                is_so = run is not None and bool(run.ended) and facts["state"] == run.state
            case "not_permitted" if named is not None and body.get("lane") is None:
                is_so = run is not None and run.owner != agent
                self._sometimes("nobody changed the session of another")
            case "not_found" if named is not None and body.get("epoch") is None:
                is_so = run is None
            case "stale_epoch" if run is not None and run.place is not None:
                is_so = self._agenda.holders(run.place, seq).get(body["epoch"]) != agent
            case _:
                return
        if not is_so:
            raise Violation("fenced wrongly", f"{kind} {body} of {agent} at {seq}: {error}; there is {run}", agent)

    def check(self, sessions: dict[int, tuple[int, int, bool]], seq: int, wall_ms: int, working_ms: int) -> None:
        """The hub keeps these sessions: version, how many checkpoints, whether it is offered; and what may be gone on
        with from its date on is offered. Raises `Violation`."""
        late = {run.id for run in self._now.values() if self._waits_for_date(run, seq, wall_ms)}
        self._late_since_ms = {at: self._late_since_ms.get(at, working_ms) for at in late}
        for at, since_ms in self._late_since_ms.items():
            if working_ms - since_ms > LATE_MS_MAX:
                raise Violation("not offered", f"{self._now[at]} at {wall_ms}", self._now[at].owner)
        due = {run.id: (run.version, run.points, self._is_offered(run)) for run in self._now.values()}
        if sessions != due:
            other = {at: (sessions.get(at), due.get(at)) for at in sessions.keys() | due.keys()}
            other = {at: both for at, both in other.items() if both[0] != both[1]}
            raise Violation("altered", f"the hub's sessions are not the journal's: {other}")

    def _waits_for_date(self, run: Run, seq: int, wall_ms: int) -> bool:
        """True when its date has come, it could be offered, and it is not."""
        place, date_ms = run.place, run.resumable_at_ms
        if place is None or date_ms is None or date_ms > wall_ms or run.is_served or not run.is_fresh:
            return False
        is_held = run.owner in self._agenda.holders(place, seq).values()
        is_superseded = self._offered_at_ms.get(place, 0) >= date_ms  # a task has one offer, the latest
        is_offered = self.offered(place, seq) == run.id
        return not (is_held or is_superseded or is_offered or self._has_ended(place, seq))

    def _is_offered(self, run: Run) -> bool:
        past = None if run.place is None else self._offers.get(run.place)
        return past is not None and bool(past.then) and past.then[-1] == run.id

    def restart(self) -> None:
        """A new process of the hub has heard no beat."""
        self.beats.clear()


def mark_of(kind: str, body: Json) -> str | None:
    """The word of a request that is in no other."""
    name = {"session.start": "summary", "session.update": "repo", "session.end": "reason"}.get(kind)
    if kind == "session.checkpoint":
        data: Json = body["data"]
        return str(data["mark"])
    return None if name is None else body.get(name)


def _merged(run: Run, body: Json) -> Run:
    """A session as it is after an update that was asked for."""
    append: Json = body.get("append") or {}
    lists: Json = {}
    for name in LISTS:
        there: tuple[str, ...] = getattr(run, name)
        instead = body.get(name)
        old, new = (there, append.get(name) or ()) if instead is None else ((), instead)
        if name == "files":
            new = [line for line in dict.fromkeys(new) if line not in old]
        lists[name] = (*old, *new)
    date_ms, task = body.get("resumable_at_ms"), body.get("task")
    new_ms = run.resumable_at_ms if date_ms is None else date_ms or None
    return replace(
        run,
        state=body.get("state") or run.state,
        task=run.task if task is None else task or None,
        repo=body["repo"],
        summary=run.summary if body.get("summary") is None else body["summary"],
        resumable_at_ms=new_ms,
        is_served=run.is_served and new_ms == run.resumable_at_ms,
        **lists,
    )


def _folded(run: Run, event: SessionUpdated) -> Run:
    """A session as it is after the event."""
    lists: Json = {
        name: (*(() if name in event.replaced else getattr(run, name)), *getattr(event, name)) for name in LISTS
    }
    date_ms = event.resumable_at_ms
    return replace(
        run,
        state=event.state,
        task=event.task,
        repo=run.repo if event.repo is UNSET else event.repo,
        summary=run.summary if event.summary is UNSET else event.summary,
        resumable_at_ms=run.resumable_at_ms if date_ms is UNSET else date_ms or None,
        is_served=run.is_served and date_ms is UNSET,
        **lists,
    )
