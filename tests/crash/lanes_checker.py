"""What must be true of lanes in a recorded history and the journal that is left at the end: each has one state at a
time, moved on by who may, and each step is a letter to the other side, once."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
from tests.crash.checker import Finding, reflects
from tests.crash.effects_checker import number_of
from tests.crash.history import Frame, History, Op

from synapse.core.events import MessagesAcked, Recorded
from synapse.core.lane_events import LaneAccepted, LaneEnded, LaneMessaged, LaneOffered

RULES = {
    "two states": "a lane took a step that cannot follow the state it had",
    "impostor": "a step was taken by somebody who may not take it",
    "timed out early": "the hub ended an offer before its time",
    "no letter": "a step did not go to the other side, once",
    "wrong number": "the messages of a lane are not numbered 1 to N",
    "wrong lane": "told with another state, or with other messages, than the journal has by the position of the answer",
    "never read": "a letter of a lane was never acked, though the inbox was found empty after it",
}
FOLLOWING = {
    "offered": ("accepted", "declined", "timed_out", "closed"),
    "accepted": ("closed",),
    "declined": ("closed",),
    "timed_out": ("closed",),
    "closed": (),
}


@dataclass(slots=True)
class Kept:
    """A lane. states: what it was from which seq on. said: the bodies of its messages, with their seqs."""

    event: LaneOffered
    states: list[tuple[int, str]]
    said: list[tuple[int, object]] = field(default_factory=list)

    def state(self, seq: int) -> str:
        index = bisect_right(self.states, (seq, "~"))
        return self.states[index - 1][1] if index else ""

    def other(self, side: str) -> str:
        return self.event.receiver if side == self.event.sender else self.event.sender


@dataclass(slots=True)
class Lanes:
    """The fold of the journal. letters: by seq of a step, who was told. dropped: those that left the hub's state
    because there were so many."""

    by_id: dict[int, Kept] = field(default_factory=dict)
    letters: dict[int, tuple[str, ...]] = field(default_factory=dict)
    acked: set[tuple[str, int]] = field(default_factory=set)
    dropped: set[int] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)

    def find(self, rule: str, text: str) -> None:
        self.findings.append(Finding(rule, text))


def folded(journal: Sequence[Recorded]) -> Lanes:
    """What the journal says of lanes, event by event."""
    lanes = Lanes()
    for recorded in journal:
        event, seq = recorded.event, recorded.seq
        if isinstance(event, MessagesAcked):
            lanes.acked.update((recorded.actor, message) for message in event.messages)
        elif isinstance(event, LaneOffered):
            lanes.by_id[seq] = Kept(event, [(seq, "offered")])
            _tell(lanes, recorded, event, event.receiver)
        elif isinstance(event, LaneAccepted | LaneEnded | LaneMessaged):
            kept = lanes.by_id.get(event.lane)
            if kept is None:
                lanes.find("two states", f"nobody offered the lane of {recorded}")
            elif isinstance(event, LaneMessaged):
                _say(lanes, kept, recorded, event)
            else:
                _move(lanes, kept, recorded, event)
    return lanes


def _say(lanes: Lanes, kept: Kept, recorded: Recorded, event: LaneMessaged) -> None:
    state = kept.states[-1][1]
    if state not in ("offered", "accepted"):
        lanes.find("two states", f"l{event.lane} is {state}; {recorded.actor} writes in it at {recorded.seq}")
    if recorded.actor not in (kept.event.sender, kept.event.receiver):
        lanes.find("impostor", f"{recorded.actor} writes in l{event.lane} at {recorded.seq}")
    kept.said.append((recorded.seq, msgspec.json.decode(event.body)))
    if event.n != len(kept.said):
        lanes.find("wrong number", f"message {event.n} of l{event.lane} at {recorded.seq}; {len(kept.said)} is due")
    _tell(lanes, recorded, event, kept.other(recorded.actor))


def _move(lanes: Lanes, kept: Kept, recorded: Recorded, event: LaneAccepted | LaneEnded) -> None:
    before, after = kept.states[-1][1], "accepted" if isinstance(event, LaneAccepted) else event.state
    if after not in FOLLOWING[before]:
        lanes.find("two states", f"l{event.lane} is {before}, and becomes {after} at {recorded.seq}")
    kept.states.append((recorded.seq, after))
    lanes.dropped.update(getattr(event, "dropped", ()))
    offer = kept.event
    may = {"accepted": (offer.receiver,), "declined": (offer.receiver,), "timed_out": ("hub",)}
    if recorded.actor not in may.get(after, (offer.sender, offer.receiver)):
        lanes.find("impostor", f"{recorded.actor} makes l{event.lane} {after} at {recorded.seq}")
    if after == "timed_out" and recorded.at_ms < offer.expires_at_ms:
        lanes.find("timed out early", f"l{event.lane} at {recorded.at_ms} ms; it may last to {offer.expires_at_ms}")
    _tell(lanes, recorded, event, offer.sender if recorded.actor == "hub" else kept.other(recorded.actor))


def _tell(
    lanes: Lanes, recorded: Recorded, event: LaneOffered | LaneAccepted | LaneEnded | LaneMessaged, to: str
) -> None:
    told = tuple(delivery.name for delivery in event.deliveries)
    lanes.letters[recorded.seq] = told
    if told != (to,):
        lanes.find("no letter", f"the step at {recorded.seq} went to {told}, and not to {to}")


def check_lanes(history: History, journal: Sequence[Recorded]) -> list[Finding]:
    """Everything that is wrong with lanes; empty when the hub kept its promises."""
    lanes = folded(journal)
    findings = list(lanes.findings)
    findings += [finding for op in history.ops for finding in _told_rightly(op, lanes)]
    left_at: dict[str, int] = {}
    for op in history.ops:
        if op.type == "inbox.take" and op.is_refused and op.frame is not None:
            left_at[op.agent] = max(left_at.get(op.agent, 0), op.frame["seq"])
    for seq, told in lanes.letters.items():
        findings += [
            Finding("never read", f"m{seq} is still in the inbox of {name}, which was empty at {left_at[name]}")
            for name in told
            if seq <= left_at.get(name, 0) and (name, seq) not in lanes.acked
        ]
    return findings


def _told_rightly(op: Op, lanes: Lanes) -> Iterator[Finding]:
    if op.frame is None or not op.type.startswith("lane."):
        return
    if op.is_refused:
        error, named = op.frame["error"], number_of(op.body.get("lane", 0))
        if error["code"] == "not_found" and named <= op.frame["seq"] and named in lanes.by_id.keys() - lanes.dropped:
            yield Finding("wrong lane", f"{op.name} is told that there is none: {error}")
        return
    seq, reply = reflects(op), op.reply
    match op.type:
        case "lane.list":
            for told in reply["lanes"]:
                yield from _is_as_told(op, told, lanes, seq)
        case "lane.show":
            yield from _is_as_told(op, reply["info"], lanes, seq)
            kept = lanes.by_id.get(number_of(op.body["lane"]))
            said = [] if kept is None else [body for at, body in reversed(kept.said) if at <= seq]
            shown = [entry["body"] for entry in reply["entries"] if entry["kind"] == "message"]
            if shown != said[: op.body["limit"]]:
                yield Finding("wrong lane", f"{op.name} at {seq} is told {shown}; there is {said}")
        case "lane.offer" | "lane.accept" | "lane.decline" | "lane.close":
            kept = lanes.by_id.get(number_of(reply["lane"]))
            if kept is None or reply["state"] not in [state for at, state in kept.states if at <= seq]:
                yield Finding("wrong lane", f"{op.name} at {seq} is told {reply}; there is {kept}")
        case _:
            pass


def _is_as_told(op: Op, told: Frame, lanes: Lanes, seq: int) -> Iterator[Finding]:
    """Its state; an offer whose time has passed may be told as such before the event."""
    kept = lanes.by_id.get(number_of(told["lane"]))
    state = "" if kept is None else kept.state(seq)
    said = [] if kept is None else [at for at, _ in kept.said if at <= seq]
    is_late = (state, told["state"]) == ("offered", "timed_out")
    if (told["state"] != state and not is_late) or told["messages"] != len(said):
        yield Finding("wrong lane", f"{op.name} at {seq} is told {told}; there is {kept}")
