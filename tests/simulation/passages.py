"""Lanes as the journal tells them: one state at a time, legal steps only, and what was said and kept in each.

offered -> accepted | declined | timed_out | closed;  accepted, declined, timed_out -> closed
"""

from bisect import insort
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import msgspec
from tests.simulation.agenda import Agenda, Past
from tests.simulation.pages import Pages
from tests.simulation.records import Records
from tests.simulation.terms import Violation

from synapse.core.events import Event, LeaseHandedOff, Recorded
from synapse.core.lane_events import LaneAccepted, LaneEnded, LaneMessaged, LaneOffered
from synapse.core.session_events import SessionCheckpointed

Json: TypeAlias = dict[str, Any]
LaneEvent: TypeAlias = LaneOffered | LaneAccepted | LaneEnded | LaneMessaged

LATE_MS_MAX: Final = 3_000
ENDED_MAX: Final = 1_000
STEPS: Final = {
    "offered": "accepted declined timed_out closed",
    "accepted": "closed",
    "declined": "closed",
    "timed_out": "closed",
    "closed": "",
}
VERBS: Final = {"lane.accept": "accepted", "lane.decline": "declined", "lane.close": "closed"}


@dataclass(frozen=True, slots=True)
class Passage:
    """What a lane was from one event on."""

    id: int
    session: int
    room: str
    sender: str
    receiver: str
    task: str | None
    note: str | None
    context: object
    offered_at_ms: int
    expires_at_ms: int
    moved_at_ms: int
    moved_by: str
    state: str = "offered"
    reason: str | None = None
    epoch: int | None = None
    messages: int = 0
    checkpoints: int = 0

    @property
    def is_open(self) -> bool:
        """True while it is offered or accepted."""
        return self.state in ("offered", "accepted")

    def others(self, name: str) -> set[str]:
        """The sides that are not this one."""
        return {self.sender, self.receiver} - {name}


class Passages:
    """All lanes there ever were."""

    pages: Pages

    def __init__(self, agenda: Agenda, records: Records, sometimes: Callable[[str], None]) -> None:
        self.now: dict[int, Passage] = {}
        self._agenda = agenda
        self._records = records
        self._sometimes = sometimes
        self._pasts: dict[int, Past] = defaultdict(Past)
        self._entries: dict[int, list[int]] = defaultdict(list)
        self._of_session: dict[int, list[int]] = defaultdict(list)
        self._said: dict[int, Recorded] = {}
        self._asked: dict[str, tuple[str, Json]] = {}
        self._done: dict[str, int] = {}
        self._acts: dict[tuple[str, str, str], list[Json]] = defaultdict(list)
        self._steps: dict[tuple[str, int, str], Recorded] = {}
        self._handed: dict[int, str] = {}
        self._ended: dict[int, None] = {}
        self._late_since_ms: dict[int, int] = {}
        records.lanes = self._open_of_session

    def ask(self, kind: str, agent: str, body: Json) -> None:
        """The hub is about to hear this."""
        if kind == "lane.offer":
            self._asked[body["context"]["mark"]] = agent, body
        elif kind == "lane.send":
            self._asked[body["body"]["mark"]] = agent, body
        elif kind in VERBS:
            self._acts[kind, agent, body["lane"]].append(body)

    def _require_asked(self, entry: Recorded, data: Any) -> Json:
        mark = data["mark"]
        agent, body = self._asked.get(mark, ("", {}))
        if agent != entry.actor:
            raise Violation("unasked", f"{entry.actor} never asked for what {entry.seq} is: {entry.event}", entry.actor)
        if self._done.setdefault(mark, entry.seq) != entry.seq:
            raise Violation("applied twice", f"{mark} at {self._done[mark]} and {entry.seq}", entry.actor)
        return body

    def at(self, lane: int, seq: int) -> Passage | None:
        """A lane as the journal up to `seq` has it."""
        past = self._pasts.get(lane)
        found: Passage | None = None if past is None else past.upto(seq)
        return found

    def _open_of_session(self, session: int, seq: int) -> int:
        lanes = (self.at(lane, seq) for lane in self._of_session.get(session, ()))
        return sum(lane is not None and lane.is_open for lane in lanes)

    def _become(self, seq: int, lane: Passage) -> None:
        self.now[lane.id] = lane
        self._pasts[lane.id].become(seq, lane)

    # The fold.

    def enter(self, entry: Recorded, event: LaneEvent) -> None:
        """Fold an event in. Raises `Violation`."""
        if isinstance(event, LaneOffered):
            self._offer(entry, event)
            return
        lane = self.now.get(event.lane)
        if lane is None or lane.room != event.room_name:
            raise Violation("not live", f"{entry.seq} is {event}; there is {lane}", entry.actor)
        match event:
            case LaneAccepted():
                self._accept(entry, event, lane)
            case LaneEnded():
                self._end(entry, event, lane)
            case LaneMessaged():
                self._message(entry, event, lane)

    def _offer(self, entry: Recorded, event: LaneOffered) -> None:
        seq, at_ms, actor, _ = entry
        context = msgspec.json.decode(event.context)
        body = self._require_asked(entry, context)
        mine = self._records.open_of(actor)
        session = next((run for run in mine if body.get("session") in (None, f"s{run.id}")), None)
        if body.get("session") is None and mine:
            session = mine[-1]
        due = None
        if session is not None:
            task = session.task if body.get("task") is None else body["task"]
            due = session.id, session.room, actor, body["to"], task, body.get("note"), at_ms + body["timeout_ms"]
        told = event.session, event.room_name, event.sender, event.receiver, event.task, event.note, event.expires_at_ms
        if told != due or context != body["context"]:
            raise Violation("altered", f"{seq} offers {event}; {due} is due", actor)
        self._require_told(entry, event, {event.receiver})
        ends_at_ms = event.expires_at_ms
        self._of_session[event.session].append(seq)
        self._become(
            seq,
            Passage(
                seq, event.session, event.room_name, actor, event.receiver, event.task, event.note, context, at_ms,
                ends_at_ms, at_ms, actor,
            ),
        )  # fmt: skip
        self._sometimes("a lane was offered")

    def _require_told(self, entry: Recorded, event: LaneEvent, due: set[str]) -> None:
        told = [delivery.name for delivery in event.deliveries]
        if set(told) != due or len(told) != len(due):
            raise Violation("told the wrong ones", f"{entry.seq} tells {told}; {due} wait for {event}", entry.actor)

    def _require_step(self, entry: Recorded, lane: Passage, to: str) -> None:
        if to not in STEPS[lane.state].split():
            raise Violation(
                "illegal step", f"{entry.seq} is {entry.event}; there is {lane}", lane.sender, lane.receiver
            )

    def _require_wanted(self, entry: Recorded, lane: Passage, to: str, reason: str | None) -> None:
        verb = next(verb for verb, state in VERBS.items() if state == to)
        wanted = [body.get("reason") for body in self._acts.get((verb, entry.actor, f"l{lane.id}"), ())]
        may = {lane.receiver} if to != "closed" else {lane.sender, lane.receiver, "operator"}
        if reason not in wanted or entry.actor not in may:
            raise Violation("unasked", f"{entry.seq} is {entry.event} by {entry.actor}; there is {lane}", entry.actor)
        self._steps[verb, lane.id, entry.actor] = entry

    def _accept(self, entry: Recorded, event: LaneAccepted, lane: Passage) -> None:
        seq, at_ms, actor, _ = entry
        self._require_step(entry, lane, "accepted")
        self._require_wanted(entry, lane, "accepted", None)
        if at_ms >= lane.expires_at_ms:
            raise Violation("stale accepted", f"{seq} at {at_ms} is {event}; there is {lane}", actor, lane.sender)
        held = {} if lane.task is None else self._agenda.holders((lane.room, lane.task), seq)
        if event.epoch is None:
            is_so = lane.sender not in held.values()
        else:
            is_so = self._handed.get(event.epoch) == lane.sender and held.get(event.epoch) == lane.receiver
            self._sometimes("a lease came with a lane")
        if not is_so:
            raise Violation("not handed over", f"{seq} is {event}; held by {held}", lane.sender, lane.receiver)
        self._require_told(entry, event, {lane.sender})
        self._move(entry, lane, "accepted", None, event.epoch)

    def _move(self, entry: Recorded, lane: Passage, state: str, reason: str | None, epoch: int | None) -> None:
        seq, at_ms, actor, _ = entry
        moved = {"state": state, "reason": reason, "epoch": epoch, "moved_at_ms": at_ms, "moved_by": actor}
        self._become(seq, replace(lane, **moved))  # type: ignore[arg-type]  # by name
        self._sometimes(f"a lane was {state.replace('_', ' ')}")

    def _end(self, entry: Recorded, event: LaneEnded, lane: Passage) -> None:
        seq, at_ms, actor, _ = entry
        self._require_step(entry, lane, event.state)
        if event.state == "timed_out":
            if actor != "hub" or at_ms < lane.expires_at_ms:
                raise Violation("expired early", f"{seq} at {at_ms} is {event}; there is {lane}", lane.sender)
        else:
            self._require_wanted(entry, lane, event.state, event.reason)
        if event.state == "declined" and at_ms >= lane.expires_at_ms:
            raise Violation("stale accepted", f"{seq} at {at_ms} is {event}; there is {lane}", actor, lane.sender)
        self._require_told(entry, event, lane.others(actor) if event.state == "closed" else {lane.sender})
        if event.epoch != lane.epoch:
            raise Violation("altered", f"{seq} is {event}; there is {lane}", actor)
        self._move(entry, lane, event.state, event.reason, lane.epoch)
        self._ended.setdefault(lane.id)
        for gone in event.dropped:
            if gone not in self._ended or len(self._ended) <= ENDED_MAX:
                raise Violation("lost", f"l{gone} leaves at {seq}, of {len(self._ended)} that have ended")
            del self._ended[gone], self.now[gone]
            self._pasts[gone].become(seq, None)

    def _message(self, entry: Recorded, event: LaneMessaged, lane: Passage) -> None:
        seq, at_ms, actor, _ = entry
        body = self._require_asked(entry, msgspec.json.decode(event.body))
        is_late = lane.state == "offered" and at_ms >= lane.expires_at_ms
        if not lane.is_open or is_late or actor not in (lane.sender, lane.receiver) or event.sender != actor:
            raise Violation("stale accepted", f"{seq} at {at_ms} is {event} by {actor}; there is {lane}", actor)
        if event.n != lane.messages + 1:
            raise Violation("numbers have a gap", f"l{lane.id} goes from {lane.messages} to {event.n} at {seq}", actor)
        if body["lane"] != f"l{lane.id}" or msgspec.json.decode(event.body) != body["body"]:
            raise Violation("altered", f"{seq} is {event}; {body} was asked for", actor)
        self._require_told(entry, event, lane.others(actor))
        self._said[seq] = entry
        self._add(entry, lane, messages=event.n)
        self._sometimes("something was said in a lane")

    def _add(self, entry: Recorded, lane: Passage, **counts: Any) -> None:
        insort(self._entries[lane.id], entry.seq)
        self._become(entry.seq, replace(lane, **counts))

    def keep(self, entry: Recorded, event: SessionCheckpointed) -> None:
        """A checkpoint was kept; perhaps in a lane. Raises `Violation`."""
        if event.lane is None:
            return
        lane = self.now.get(event.lane)
        is_late = lane is not None and lane.state == "offered" and entry.at_ms >= lane.expires_at_ms
        if lane is None or not lane.is_open or is_late or entry.actor not in (lane.sender, lane.receiver):
            raise Violation("stale accepted", f"{entry.seq} keeps {event}; there is {lane}", entry.actor)
        self._add(entry, lane, checkpoints=lane.checkpoints + 1)
        self._sometimes("a checkpoint was kept in a lane")

    def lease(self, seq: int, event: Event) -> None:
        """A lease was handed over, perhaps with a lane."""
        if isinstance(event, LeaseHandedOff):
            self._handed[seq] = event.sender

    # What is told.

    def letter(self, entry: Recorded, event: LaneEvent) -> Json:
        """What the message about a step says."""
        lane = entry.seq if isinstance(event, LaneOffered) else event.lane
        told: Json = {"lane": f"l{lane}", "room": event.room_name, "by": entry.actor}
        if isinstance(event, LaneMessaged):
            return told | {"type": "lane.message", "n": event.n, "body": msgspec.json.decode(event.body)}
        told |= {"session": f"s{event.session}", "task": event.task}
        match event:
            case LaneOffered():
                context = msgspec.json.decode(event.context)
                more = {"note": event.note, "context": context, "expires_at_ms": event.expires_at_ms}
                return told | more | {"type": "lane.offered"}
            case LaneAccepted():
                return told | {"type": "lane.accepted", "epoch": event.epoch}
            case LaneEnded():
                return told | {"type": f"lane.{event.state}", "reason": event.reason}

    def told(self, lane: Passage, wall_ms: int) -> Json:
        """A lane as it is told when the wall shows this time."""
        is_late = lane.state == "offered" and lane.expires_at_ms <= wall_ms
        names = ("room", "sender", "receiver", "task", "note", "offered_at_ms", "expires_at_ms", "reason", "epoch")
        found = {name: getattr(lane, name) for name in (*names, "messages", "checkpoints")}
        return found | {
            "lane": f"l{lane.id}", "session": f"s{lane.session}", "state": "timed_out" if is_late else lane.state,
            "moved_at_ms": lane.expires_at_ms if is_late else lane.moved_at_ms,
            "moved_by": "hub" if is_late else lane.moved_by,
        }  # fmt: skip

    def require_true(
        self, agent: str, kind: str, body: Json, seq: int, reply: Json, wall_ms: tuple[int, int]
    ) -> object:
        """A reply about lanes says what is so; what a repeat under its key must say again. Raises `Violation`."""
        match kind:
            case "lane.offer":
                lane = self.at(self._done.get(body["context"]["mark"], 0), seq)
                if lane is None or (lane.sender, f"l{lane.id}") != (agent, reply["lane"]):
                    raise Violation("lost", f"{agent} offered {reply}; there is {lane}", agent)
                return reply["lane"]
            case "lane.accept" | "lane.decline" | "lane.close":
                step = self._steps.get((kind, int(reply["lane"][1:]), agent))
                if step is None or step.seq > seq or reply["state"] != VERBS[kind]:
                    raise Violation("lost", f"{agent} is told {reply}; there is {step}", agent)
                event: Any = step.event
                if (reply["epoch"], reply["task"]) != (event.epoch, event.task):
                    raise Violation("altered", f"{agent} is told {reply}; there is {step}", agent)
                return reply["lane"], reply["state"], reply["epoch"]
            case "lane.send":
                at = self._done.get(body["body"]["mark"])
                said: Any = None if at is None else self._said[at].event
                if said is None or (reply["id"], reply["n"]) != (f"m{at}", said.n):
                    raise Violation("lost", f"{agent} sent {body}, and is told {reply}", agent)
                return reply["id"]
            case "lane.show":
                self._require_shown(agent, body, seq, reply, wall_ms)
            case "lane.list":
                for info in reply["lanes"]:
                    self._require_same(agent, seq, info, wall_ms)
                self._require_list(agent, body, seq, reply)
        return None

    def _require_same(self, agent: str, seq: int, told: Json, wall_ms: tuple[int, int]) -> None:
        lane = self.at(int(told["lane"][1:]), seq)
        due = () if lane is None else tuple(self.told(lane, at_ms) for at_ms in wall_ms)
        if told not in due:
            raise Violation("wrong lane", f"{agent} is told {told} at {seq}; there is {due}", agent)

    def _require_shown(self, agent: str, body: Json, seq: int, reply: Json, wall_ms: tuple[int, int]) -> None:
        lane = int(reply["info"]["lane"][1:])
        self._require_same(agent, int(reply["cursor"].partition(":")[2]), reply["info"], wall_ms)
        offered: Any = self.at(lane, seq)
        if reply["context"] != offered.context:
            raise Violation("altered", f"{agent} is shown {reply}; there is {offered}", agent)
        told = [entry["seq"] for entry in reply["entries"]]
        self.pages.require_true(agent, f"lane l{lane}", self._entries[lane], told, of=(body, reply))
        for entry in reply["entries"]:
            there = self._said.get(entry["seq"]) or self._records.points[entry["seq"]]
            event: Any = there.event
            data = event.body if entry["kind"] == "message" else event.data
            said = entry["by"], entry["n"], entry.get("body", entry.get("data"))
            if said != (there.actor, event.n, msgspec.json.decode(data)):
                raise Violation("altered", f"{agent} reads {entry}; the journal has {there}", agent)

    def _require_list(self, agent: str, body: Json, seq: int, reply: Json) -> None:
        found = [lane for at in sorted(self._pasts, reverse=True) if (lane := self.at(at, seq)) is not None]
        for name in ("sender", "receiver", "room"):
            found = [lane for lane in found if body.get(name) in (None, getattr(lane, name))]
        if body.get("state") is not None or body.get("after") is not None or reply["next"] is not None:
            return
        told, due = [int(lane["lane"][1:]) for lane in reply["lanes"]], [lane.id for lane in found]
        if told != due:
            raise Violation("wrong page", f"{agent} lists {told} for {body}; {due} are due", agent)

    def require_refused_rightly(
        self, agent: str, kind: str, body: Json, seq: int, error: Json, wall_ms: tuple[int, int]
    ) -> None:
        """What a request about lanes was refused for is so. Raises `Violation`."""
        facts = error.get("facts") or {}
        lane = None if body.get("lane") is None else self.at(int(body["lane"][1:]), seq)
        sides = () if lane is None else (lane.sender, lane.receiver)
        is_so = True
        match error["code"]:
            case "illegal_transition" if "lane" in facts:
                states = [] if lane is None else [self.told(lane, at_ms)["state"] for at_ms in wall_ms]
                to = VERBS.get(kind, "accepted")
                is_so = facts["state"] in states and (to not in STEPS[facts["state"]].split() or kind not in VERBS)
                self._sometimes("a step that a lane does not have was refused")
            case "not_permitted" if kind in VERBS or kind == "lane.send":
                is_so = agent not in (sides if kind in ("lane.close", "lane.send") else sides[1:])
                self._sometimes("nobody else moved a lane")
            case "not_found" if body.get("lane") is not None:
                is_so = lane is None
            case _:
                return
        if not is_so:
            raise Violation("fenced wrongly", f"{kind} {body} of {agent} at {seq}: {error}; there is {lane}", agent)

    # What is checked from time to time.

    def check(self, lanes: dict[int, tuple[str, int, int]], wall_ms: int, working_ms: int) -> None:
        """The hub keeps these lanes: state, messages, checkpoints; and no offer is past its time."""
        due = {lane.id: (lane.state, lane.messages, lane.checkpoints) for lane in self.now.values()}
        if lanes != due:
            other = {at: (lanes.get(at), due.get(at)) for at in lanes.keys() | due.keys()}
            other = {at: both for at, both in other.items() if both[0] != both[1]}
            raise Violation("altered", f"the hub's lanes are not the journal's: {other}")
        late = {it.id for it in self.now.values() if it.state == "offered" and it.expires_at_ms <= wall_ms}
        self._late_since_ms = {at: self._late_since_ms.get(at, working_ms) for at in late}
        for at, since_ms in self._late_since_ms.items():
            if working_ms - since_ms > LATE_MS_MAX:
                raise Violation("expired late", f"{self.now[at]} is offered at {wall_ms}", self.now[at].sender)
