"""Questions to people as the journal tells them: who asked what, how each ended, who was told, and what stood still.

A question ends once, by a person, by its asker, by its date or with its task. The end is the letter: to its asker and
to whoever holds the task just before. Which leases stand still for which questions is worked out here a second time,
and whole transactions are looked at: when one is over, what was asked under a lease parks it, and nothing stands still
whose last question is closed.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import msgspec
from tests.simulation.agenda import HOME, STEPS, Agenda, Place
from tests.simulation.terms import RANKS, Terms, Violation

from synapse.core.events import Event, LeaseExpired, LeaseGranted, LeaseHandedOff, LeaseParked, LeaseResumed, Recorded
from synapse.core.question_events import (
    QuestionAnswered,
    QuestionAsked,
    QuestionDismissed,
    QuestionExpired,
    QuestionWithdrawn,
)

Json: TypeAlias = dict[str, Any]
QuestionEnd: TypeAlias = QuestionAnswered | QuestionDismissed | QuestionExpired | QuestionWithdrawn
QuestionEvent: TypeAlias = QuestionAsked | QuestionEnd

LATE_MS_MAX: Final = 3_000
KEPT_MAX: Final = 5_000
"""So many closed questions are remembered, written down a second time."""
WAITING: Final = "waiting_for_input"
ENDS: Final[dict[type[object], str]] = {
    QuestionAnswered: "answered",
    QuestionDismissed: "dismissed",
    QuestionExpired: "expired",
    QuestionWithdrawn: "withdrawn",
}
VERBS: Final = {"question.answer": "answered", "question.dismiss": "dismissed", "question.withdraw": "withdrawn"}
SILENT: Final[tuple[object, ...]] = ("", (), [])


def is_person(name: str) -> bool:
    """True for who may answer: the operator, and people with a token of their own."""
    return name == "operator" or name.startswith("person")


@dataclass(slots=True)
class Sheet:
    """One question. asked: its event; end: the one that closed it. is_moved: its task waits because of it. seen_ms:
    when it was asked, on the simulation's clock. epochs: the leases that it parked, in order. order: how many were
    closed up to its own end. late_since_ms: since when it was seen to be past its date, in the hub's working time."""

    asked: Recorded
    is_moved: bool
    seen_ms: int
    end: Recorded | None = None
    epochs: list[int] = field(default_factory=list)
    order: int = 0
    late_since_ms: int | None = None

    @property
    def event(self) -> Any:
        """What was asked."""
        return self.asked.event

    @property
    def place(self) -> Place | None:
        """Room and task that wait for the answer."""
        return None if self.event.task is None else (self.event.room_name, self.event.task)

    def is_open(self, seq: int) -> bool:
        """True when it waits for an answer after the event at `seq`."""
        return self.asked.seq <= seq and (self.end is None or seq < self.end.seq)


class Desk:
    """All questions there ever were. session_on: the latest open session of an agent that works on a task."""

    def __init__(self, terms: Terms, agenda: Agenda, sometimes: Callable[[str], None]) -> None:
        self.sheets: dict[int, Sheet] = {}
        agenda.questions_of = self._questions_of
        self.session_on: Callable[[str, Place], str | None] = lambda _agent, _place: None
        self._terms = terms
        self._agenda = agenda
        self._sometimes = sometimes
        self._asked: dict[str, tuple[str, Json]] = {}
        self._titles: dict[str, int] = {}
        self._acts: dict[tuple[str, str, str], list[Json]] = defaultdict(list)
        self._open: dict[int, Sheet] = {}
        self._of_place: dict[Place, list[Sheet]] = defaultdict(list)
        self._of_session: dict[str, list[Sheet]] = defaultdict(list)
        self._ends: list[int] = []
        self._closings: dict[int, Sheet] = {}
        self._to_park: dict[int, int] = {}
        self._to_resume: set[int] = set()

    @property
    def open(self) -> dict[int, Sheet]:
        """Those that wait for an answer."""
        return self._open

    def is_waiting(self, session: int, seq: int) -> bool:
        """True when a question of this session is open after the event at `seq`."""
        return any(sheet.is_open(seq) for sheet in self._of_session.get(f"s{session}", ()))

    def _questions_of(self, place: Place, seq: int) -> list[str]:
        """The open questions of a task after the event at `seq`."""
        return [f"q{sheet.asked.seq}" for sheet in self._of_place.get(place, ()) if sheet.is_open(seq)]

    def ask(self, kind: str, agent: str, body: Json) -> None:
        """The hub is about to hear this."""
        if kind == "question.ask":
            self._asked[body["title"]] = agent, body
        elif kind in VERBS:
            self._acts[kind, agent, body["id"]].append(body)

    # The fold.

    def enter(self, entry: Recorded, event: QuestionEvent, decided_ms: int) -> None:
        """Fold an event in that the hub decided at `decided_ms`. Raises `Violation`."""
        if isinstance(event, QuestionAsked):
            self._ask(entry, event, decided_ms)
        else:
            self._close(entry, event)

    def _ask(self, entry: Recorded, event: QuestionAsked, decided_ms: int) -> None:
        seq, at_ms, actor, _ = entry
        asker, body = self._asked.get(event.title, ("", {}))
        if not asker == actor == event.asker:
            raise Violation("unasked", f"{actor} never asked what {seq} is: {event}", actor)
        if self._titles.setdefault(event.title, seq) != seq:
            raise Violation("applied twice", f"{event.title} at {self._titles[event.title]} and {seq}", actor)
        span_ms = body.get("deadline_ms")
        due = {
            "room_name": body.get("room") or HOME, "question": body.get("question") or "",
            "options": tuple(body.get("options", ())), "free": bool(body.get("free")), "default": body.get("default"),
            "on_deadline": body.get("on_deadline") or ("expire" if body.get("default") is None else "default"),
            "deadline_at_ms": None if span_ms is None else at_ms + span_ms, "session": self._session_of(actor, body),
            "priority": body.get("priority", "normal"), "tags": tuple(body.get("tags", ())), "task": body.get("task"),
        }  # fmt: skip
        is_same = msgspec.json.decode(event.context) == body.get("context")
        if not is_same or any(getattr(event, name) != value for name, value in due.items()):
            raise Violation("altered", f"{seq} asks {event}; {due} is due", actor)
        sheet = self.sheets[seq] = self._open[seq] = Sheet(entry, is_moved=False, seen_ms=decided_ms)
        if event.session is not None:
            self._of_session[event.session].append(sheet)
        if event.deadline_at_ms is not None:
            self._sometimes("a question had a date")
        if sheet.place is not None:
            self._ask_for(sheet, sheet.place, body.get("epoch"))
        if event.moved != sheet.is_moved:
            raise Violation("altered", f"{seq} is {event}; that it moved its task is {sheet.is_moved}", actor)

    def _session_of(self, actor: str, body: Json) -> str | None:
        """The session that asks: the one that was named, else the asker's latest that works on the task."""
        if body.get("session") is not None or body.get("task") is None:
            return body.get("session")
        return self.session_on(actor, (body.get("room") or HOME, body["task"]))

    def _ask_for(self, sheet: Sheet, place: Place, epoch: int | None) -> None:
        """What a question about a task must bring with it."""
        seq, _, actor, _ = sheet.asked
        held, item = self._agenda.holders(place, seq), self._agenda.at(place, seq)
        mine = [mine for mine, owner in held.items() if owner == actor]
        if epoch is not None and epoch not in mine:
            raise Violation("stale accepted", f"{seq} is asked under {epoch}; {place} is held by {held}", actor)
        parks = epoch if epoch is not None else max(mine, default=None)
        moves = parks is not None and item is not None and WAITING in STEPS[item.status].split()
        others = [other for other in self._of_place[place] if other.is_open(seq) and other.is_moved]
        sheet.is_moved = moves or (item is not None and item.status == WAITING and bool(others))
        self._of_place[place].append(sheet)
        if parks is not None:
            self._to_park[seq] = parks
        if moves:
            assert item is not None
            self._agenda.due_steps[place] = "question", item.status, WAITING, parks

    def _close(self, entry: Recorded, event: QuestionEnd) -> None:
        seq, _, actor, _ = entry
        sheet = self.sheets.get(event.question)
        if sheet is None or sheet.end is not None:
            what = "never asked" if sheet is None else f"closed by {sheet.end}"
            raise Violation("closed twice", f"{event} at {seq}: it was {what}", actor, event.asker)
        asked = sheet.event
        names = ("room_name", "title", "asker", "task", "session")
        if any(getattr(event, name) != getattr(asked, name) for name in names):
            raise Violation("altered", f"{seq} closes {event}; asked was {asked}", actor)
        self._require_told(sheet, entry, event)
        self._require_reason(sheet, entry, event)
        sheet.end = entry
        self._ends.append(seq)
        self._closings[seq] = sheet
        sheet.order = len(self._ends)
        del self._open[event.question]
        self._sometimes(f"a question was {ENDS[type(event)]}")
        for term in self._terms.live.values():
            if event.question in term.questions:
                term.questions.remove(event.question)
                if not term.questions and not term.is_parked_by_hand:
                    self._to_resume.add(term.epoch)
        self._go_on(sheet, seq)

    def _require_told(self, sheet: Sheet, entry: Recorded, event: QuestionEnd) -> None:
        """The letter goes to the asker, and to whoever holds the task just before. Raises `Violation`."""
        holders = {} if sheet.place is None else self._agenda.holders(sheet.place, entry.seq)
        due = {event.asker, *holders.values()}
        told = [delivery.name for delivery in event.deliveries]
        if set(told) != due or len(told) != len(due):
            raise Violation("told the wrong ones", f"{entry.seq} tells {told}; {due} wait for it", *due)
        if len(due) > 1:
            self._sometimes("an end reached who held the task then")

    def _require_reason(self, sheet: Sheet, entry: Recorded, event: QuestionEnd) -> None:
        """Somebody who may wanted this end, or it follows from the time or the task. Raises `Violation`."""
        actor, asked = entry.actor, sheet.event
        is_late = asked.deadline_at_ms is not None and entry.at_ms >= asked.deadline_at_ms
        is_by_date = isinstance(event, QuestionExpired) or getattr(event, "outcome", None) == "default"
        if is_late and not is_by_date:
            raise Violation("closed late", f"{entry.seq} at {entry.at_ms} is {event}; asked was {asked}", actor)
        match event:
            case QuestionAnswered() if event.outcome == "default":
                is_due = asked.on_deadline == "default" and event.answer == asked.default
                self._require_date(sheet, entry, event, is_due=is_due)
                self._sometimes("a question got its default")
            case QuestionExpired():
                self._require_date(sheet, entry, event, is_due=asked.on_deadline == "expire")
            case QuestionWithdrawn() if event.reason != "asked":
                item = None if sheet.place is None else self._agenda.at(sheet.place, entry.seq)
                if actor != "hub" or item is None or event.reason != f"task_{item.status}":
                    raise Violation("unasked", f"{entry.seq} is {event} by {actor}; there is {item}", actor)
                self._sometimes("a question ended with its task")
            case _:
                self._require_wanted(sheet, entry, event)

    def _require_date(self, sheet: Sheet, entry: Recorded, event: QuestionEnd, *, is_due: bool) -> None:
        asked = sheet.event
        if entry.actor != "hub" or not is_due:
            raise Violation("unasked", f"{entry.seq} is {event} by {entry.actor}; asked was {asked}", asked.asker)
        if asked.deadline_at_ms is None or entry.at_ms < asked.deadline_at_ms:
            raise Violation("expired early", f"{entry.seq} at {entry.at_ms} is {event}; asked was {asked}", asked.asker)

    def _require_wanted(self, sheet: Sheet, entry: Recorded, event: QuestionEnd) -> None:
        seq, _, actor, _ = entry
        verb = next(verb for verb, status in VERBS.items() if status == ENDS[type(event)])
        may = is_person(actor) if verb != "question.withdraw" else actor in (event.asker, "operator")
        if not may:
            raise Violation("answered by an agent", f"{seq} is {event} by {actor}", actor, event.asker)
        wanted = [self._wish(sheet, verb, body) for body in self._acts.get((verb, actor, f"q{event.question}"), ())]
        end = getattr(event, "answer", None), getattr(event, "reason", None) if verb == "question.dismiss" else None
        if end not in wanted:
            raise Violation("unasked", f"{seq} is {event} by {actor}, who wanted {wanted}", actor, event.asker)
        via = "operator" if actor == "operator" else None if verb == "question.withdraw" else "token"
        if event.via != via:  # type: ignore[union-attr]  # an expired one is not wanted by anybody
            raise Violation("altered", f"{seq} is {event} by {actor}, via {via}", actor)

    def _wish(self, sheet: Sheet, verb: str, body: Json) -> tuple[str | None, str | None]:
        """The answer and the reason that a request meant."""
        if verb != "question.answer":
            return None, body.get("reason")
        option = body.get("option")
        return (body.get("answer") if option is None else sheet.event.options[option - 1]), None

    def _go_on(self, sheet: Sheet, seq: int) -> None:
        """The task goes on when it waited because of this question alone."""
        place = sheet.place
        if place is None or not sheet.is_moved:
            return
        item, held = self._agenda.at(place, seq), self._agenda.holders(place, seq)
        others = [other for other in self._of_place[place] if other.is_open(seq) and other.is_moved]
        if item is not None and item.status == WAITING and not others:
            step = "in_progress" if held else "open"
            self._agenda.due_steps[place] = "question_closed", WAITING, step, max(held, default=None)
            self._sometimes("a task went on when its question was closed")

    def lease(self, seq: int, event: Event) -> None:
        """A lease stands still or runs on, for a question or by hand. Raises `Violation`."""
        match event:
            case LeaseParked() if event.question is not None:
                if self._to_park.pop(event.question, None) != event.epoch:
                    raise Violation("unasked", f"{seq} parks {event.epoch} for {event.question}", event.ask.owner)
                self.sheets[event.question].epochs.append(event.epoch)
                self._sometimes("a lease was parked for a question")
            case LeaseExpired() if self._terms.all[event.epoch].questions:
                self._sometimes("a lease reached its ceiling while its question was open")
            case LeaseHandedOff() | LeaseGranted():
                for question in self._terms.live[seq].questions:
                    self.sheets[question].epochs.append(seq)
                    self._sometimes("a parked lease got another epoch")
            case LeaseResumed():
                if self._terms.live[event.epoch].questions:
                    raise Violation("resumed too soon", f"{seq}: questions of {event} are open", event.ask.owner)
                if event.epoch in self._to_resume:
                    self._sometimes("a parked lease went on with the answer")
                self._to_resume.discard(event.epoch)
            case _:
                pass

    def end_transaction(self, seq: int) -> None:
        """What must follow from a question has followed. Raises `Violation`."""
        for question, epoch in self._to_park.items():
            raise Violation(
                "not parked", f"q{question} does not park {epoch}, at {seq}", self.sheets[question].asked.actor
            )
        for epoch in self._to_resume:
            raise Violation("parked for nothing", f"{epoch} at {seq}", self._terms.all[epoch].ask.owner)

    # What is told.

    def letter(self, entry: Recorded, event: QuestionEnd) -> Json:
        """What the message about an end says."""
        told: Json = {
            "type": f"question.{ENDS[type(event)]}", "question": f"q{event.question}", "room": event.room_name,
            "title": event.title, "asker": event.asker, "outcome": _outcome(event), "by": entry.actor,
        }  # fmt: skip
        some = {name: getattr(event, name, None) for name in ("answer", "reason", "task", "session")}
        return told | {name: value for name, value in some.items() if value is not None}

    def told(self, sheet: Sheet, seq: int) -> Json:
        """A question as an answer at `seq` tells it, without the fields that say nothing."""
        asked, end = sheet.event, sheet.end
        names = (
            "title",
            "priority",
            "asker",
            "question",
            "options",
            "free",
            "default",
            "deadline_at_ms",
            "tags",
            "on_deadline",
        )
        found: Json = {"id": f"q{sheet.asked.seq}", "room": asked.room_name, "asked_at_ms": sheet.asked.at_ms}
        found |= {name: getattr(asked, name) for name in (*names, "session", "task")}
        found |= {"options": list(asked.options), "tags": list(asked.tags)}
        if sheet.is_open(seq):
            found |= {"status": "open", "parks": self._parks(sheet, seq)}
        else:
            assert end is not None
            found |= self.first(end) | {"letter": f"m{end.seq}"}
        return {
            name: value for name, value in found.items() if not (value is None or value is False or value in SILENT)
        }

    def _parks(self, sheet: Sheet, seq: int) -> int | None:
        """The lease that stands still for it after the event at `seq`."""
        terms = (self._terms.all[epoch] for epoch in sheet.epochs if epoch <= seq)
        return next((term.epoch for term in terms if term.is_live_at(seq)), None)

    def first(self, end: Recorded) -> Json:
        """How a question was closed first."""
        event: Any = end.event
        told = {"status": ENDS[type(event)], "outcome": _outcome(event), "by": end.actor, "closed_at_ms": end.at_ms}
        more = {name: getattr(event, name, None) for name in ("answer", "reason", "via")}
        return told | more

    def require_true(self, agent: str, kind: str, body: Json, seq: int, reply: Json) -> object:
        """A reply about questions says what is so; what a repeat under its key must say again. Raises `Violation`."""
        if kind == "question.list":
            self._require_list(agent, body, seq, reply)
            return None
        sheet = self.sheets.get(int(reply["id"][1:]))
        if sheet is None or sheet.asked.seq > seq:
            raise Violation("lost", f"{agent} is told {reply}, which is not in the journal", agent)
        if kind in VERBS:
            return self._require_closed(agent, kind, body, seq, sheet, reply)
        if kind == "question.ask":
            if (sheet.asked.actor, sheet.event.title) != (agent, body["title"]):
                raise Violation("lost", f"{agent} asked {body}, and is told {reply}", agent)
            was = sheet.epochs[0] if sheet.epochs and body.get("task") is not None else None
            self._require_same(agent, reply, self.told(sheet, sheet.asked.seq) | ({"parks": was} if was else {}))
            return reply["id"]
        self._require_same(agent, reply, self.told(sheet, seq))
        if kind == "question.wait" and reply["status"] == "open":
            raise Violation("wrong question", f"{agent} waited for {reply}, which is open", agent)
        return None

    def _require_same(self, agent: str, told: Json, due: Json) -> None:
        said = {"on_deadline": "expire"} | {name: it for name, it in told.items() if name not in ("cursor", "context")}
        if said != due:
            raise Violation("wrong question", f"{agent} is told {said}; there is {due}", agent)

    def _require_closed(self, agent: str, kind: str, body: Json, seq: int, sheet: Sheet, reply: Json) -> object:
        end = sheet.end
        if end is None or end.seq > seq:
            raise Violation("lost", f"{agent} is told {reply} at {seq}; there is {end}", agent)
        event: Any = end.event
        due = self.first(end) | {"told": [delivery.name for delivery in event.deliveries]}
        said = {name: reply.get(name) for name in due}
        if said != due:
            raise Violation("altered", f"{agent} is told {said}; {due} happened", agent)
        if not reply.get("already"):
            if end.actor != agent:
                raise Violation("lost", f"{agent} is told {reply}; it was {end.actor}", agent)
            return reply["id"], reply["status"], reply.get("answer")
        if not self._is_same_end(sheet, kind, body):
            raise Violation("second answer accepted", f"{agent} asked for {body}, and is told {reply}", agent)
        self._sometimes("a question was closed the same way again")
        return None

    def _is_same_end(self, sheet: Sheet, kind: str, body: Json) -> bool:
        """True when a request means what has happened already."""
        assert sheet.end is not None
        event: Any = sheet.end.event
        answer, reason = self._wish(sheet, kind, body)
        if kind == "question.answer":
            return bool(getattr(event, "answer", None) == answer)
        return ENDS[type(event)] == VERBS[kind] and (kind == "question.withdraw" or event.reason == reason)

    def _require_list(self, agent: str, body: Json, seq: int, reply: Json) -> None:
        status, after = body.get("status") or "open", body.get("after")
        late = [self._closings[at] for at in self._ends[self._closed_upto(seq) :]]
        opened = [sheet for sheet in (*self._open.values(), *late) if sheet.is_open(seq)]
        found = opened
        if status != "open":
            found = [sheet for sheet in self.sheets.values() if sheet.asked.seq <= seq and self._is_kept(sheet, seq)]
        fits = found
        if status not in ("open", "all"):
            fits = [
                it for it in found if it.end is not None and it.end.seq <= seq and ENDS[type(it.end.event)] == status
            ]
        for name in ("asker", "task", "session"):
            fits = [sheet for sheet in fits if body.get(name) in (None, getattr(sheet.event, name))]
        fits.sort(key=lambda sheet: (-RANKS[sheet.event.priority], sheet.asked.seq))
        ids, told = [f"q{sheet.asked.seq}" for sheet in fits], [question["id"] for question in reply["questions"]]
        start = 0 if after is None or not told else next((at for at, it in enumerate(ids) if it == told[0]), 0)
        due = ids[start : start + len(told)] if reply["next"] is not None or after is not None else ids
        if told != due or reply["open"] != len(opened):
            raise Violation("wrong page", f"{agent} lists {told} of {reply['open']} open; {due} are due", agent)
        for question in reply["questions"]:
            self._require_same(agent, question, self.told(self.sheets[int(question["id"][1:])], seq))

    def _is_kept(self, sheet: Sheet, seq: int) -> bool:
        """False for a question that was closed so long ago that it is forgotten."""
        if sheet.end is None or sheet.end.seq > seq:
            return True
        return len(self._ends) <= KEPT_MAX or self._closed_upto(seq) - sheet.order < KEPT_MAX

    def _closed_upto(self, seq: int) -> int:
        return bisect_right(self._ends, seq)

    def require_refused_rightly(self, agent: str, kind: str, body: Json, seq: int, error: Json) -> None:
        """What a request about questions was refused for is so. Raises `Violation`."""
        sheet = self.sheets.get(int(body["id"][1:])) if "id" in body else None
        is_there = sheet is not None and sheet.asked.seq <= seq
        end = None if sheet is None or sheet.end is None or sheet.end.seq > seq else sheet.end
        is_so = True
        match error["code"]:
            case "already_answered":
                facts = {name: value for name, value in error["facts"].items() if name != "id"}
                is_so = sheet is not None and end is not None and facts == self.first(end)
                is_so = is_so and sheet is not None and not self._is_same_end(sheet, kind, body)
                self._sometimes("a second answer was refused with the first")
            case "not_permitted" if kind in VERBS:
                asker = None if sheet is None else sheet.event.asker
                is_so = not is_person(agent) if kind != "question.withdraw" else agent not in (asker, "operator")
                self._sometimes("an agent was not let answer")
            case "not_found" if "id" in body:
                is_so = not is_there or (sheet is not None and not self._is_kept(sheet, seq))
            case "deadline":
                is_so = is_there and end is None
            case _:
                return
        if not is_so:
            text = f"{kind} {body} of {agent} at {seq}: {error}; there is {sheet}"
            raise Violation("fenced wrongly", text, agent)

    # What is checked from time to time.

    def check(self, open_: set[int], wall_ms: int, working_ms: int) -> None:
        """The hub has these questions open, and none of them is past its date. Raises `Violation`."""
        if open_ != self._open.keys():
            raise Violation("altered", f"the hub has open questions {open_}; there are {set(self._open)}")
        for sheet in self._open.values():
            due_ms = sheet.event.deadline_at_ms
            if due_ms is None or wall_ms < due_ms:
                sheet.late_since_ms = None
            elif sheet.late_since_ms is None:
                sheet.late_since_ms = working_ms
            elif working_ms - sheet.late_since_ms > LATE_MS_MAX:
                raise Violation("expired late", f"{sheet.asked} is open at {wall_ms}", sheet.asked.actor)


def _outcome(event: QuestionEnd) -> str:
    return event.outcome if isinstance(event, QuestionAnswered) else ENDS[type(event)]
