"""Lies about lanes, each with the rule by which it must be named; and an honest hand-over."""

from collections.abc import Callable
from typing import Any

import msgspec
from tests.simulation.paper import ROOM, Paper
from tests.simulation.question_lies import to
from tests.simulation.session_lies import kept, session

from synapse.core.events import LeaseHandedOff
from synapse.core.lane_events import LaneAccepted, LaneEnded, LaneMessaged, LaneOffered

Json = dict[str, Any]
WHERE: Json = {"room": ROOM, "room_name": "main"}
SIDES: Json = {"sender": "ada", "receiver": "bob"}
SPAN_MS = 10_000


def offered(hub: Paper, mark: str = "ada-5", who: str = "ada", *told: str, **more: Any) -> LaneOffered:
    """Ada has a session, and asked; the event that follows from it."""
    at = next((run.id for run in hub.ledger.records.open_of("ada")), None) or session(hub)
    context = {"mark": mark}
    hub.hear(who, "lane.offer", {"to": "bob", "context": context, "session": f"s{at}", "timeout_ms": SPAN_MS})
    fields: Json = {"expires_at_ms": SPAN_MS, "task": "T1"} | more
    return LaneOffered(
        **WHERE, **SIDES, session=at, sender_id=hub.ids["ada"], receiver_id=hub.ids["bob"],
        deliveries=to(hub, *(told or ("bob",))), context=msgspec.Raw(msgspec.json.encode(context)), **fields,
    )  # fmt: skip


def lane(hub: Paper) -> int:
    """Ada offers bob a lane; its number."""
    return hub.write("ada", offered(hub))


def step(hub: Paper, kind: Any, number: int, verb: str, who: str, *told: str, **more: Any) -> Any:
    """Asked; the event that follows from it."""
    if verb:
        hub.hear(who, f"lane.{verb}", {"lane": f"l{number}"})
    run = hub.ledger.records.open_of("ada")[0].id
    fields: Json = {"expires_at_ms": SPAN_MS, "task": "T1", "deliveries": to(hub, *told)} | more
    return kind(**WHERE, **SIDES, lane=number, session=run, **fields)


def accepted(hub: Paper, number: int, who: str = "bob", **more: Any) -> LaneAccepted:
    event: LaneAccepted = step(hub, LaneAccepted, number, "accept", who, "ada", **more)
    return event


def closed(hub: Paper, number: int, who: str, *told: str, **more: Any) -> LaneEnded:
    event: LaneEnded = step(hub, LaneEnded, number, "close", who, *told, state="closed", **more)
    return event


def timed_out(hub: Paper, number: int, *told: str) -> LaneEnded:
    event: LaneEnded = step(hub, LaneEnded, number, "", "hub", *told, state="timed_out")
    return event


def said(hub: Paper, number: int, n: int = 1, who: str = "ada", told: str = "bob", mark: str = "ada-6") -> LaneMessaged:
    body = {"mark": mark}
    hub.hear(who, "lane.send", {"lane": f"l{number}", "body": body})
    raw = msgspec.Raw(msgspec.json.encode(body))
    return LaneMessaged(**WHERE, lane=number, sender=who, n=n, body=raw, deliveries=to(hub, told))


def info(number: int, **more: Any) -> Json:
    """An offered lane as it is told."""
    return {
        "lane": f"l{number}", "session": f"s{number - 1}", "room": "main", **SIDES, "state": "offered", "task": "T1",
        "note": None, "offered_at_ms": 0, "expires_at_ms": SPAN_MS, "moved_at_ms": 0, "moved_by": "ada",
        "reason": None, "epoch": None, "messages": 0, "checkpoints": 0,
    } | more  # fmt: skip


def show(hub: Paper, number: int, entries: list[Json], **more: Any) -> None:
    """Bob is shown the lane; the wall shows what it will show long after everything."""
    page = {"info": info(number, **more), "context": {"mark": "ada-5"}, "entries": entries, "next": None}
    request = hub.hear("bob", "lane.show", {"lane": f"l{number}"})
    hub.reply("bob", request, page | {"cursor": f"x:{hub.ledger.head}"})


def is_late(**more: Any) -> Json:
    return {"state": "timed_out", "moved_at_ms": SPAN_MS, "moved_by": "hub"} | more


def a_lane_nobody_offered(hub: Paper) -> None:
    hub.write("bob", offered(hub))


def a_lane_twice(hub: Paper) -> None:
    lane(hub)
    lane(hub)


def a_lane_for_longer(hub: Paper) -> None:
    hub.write("ada", offered(hub, expires_at_ms=SPAN_MS + 1))


def a_lane_offered_to_another(hub: Paper) -> None:
    hub.write("ada", offered(hub, "ada-5", "ada", "eve"))


def another_accepts(hub: Paper) -> None:
    number = lane(hub)
    hub.write("eve", accepted(hub, number, "eve"))


def accepted_after_it_was_closed(hub: Paper) -> None:
    number = lane(hub)
    hub.write("ada", closed(hub, number, "ada", "bob"))
    hub.write("bob", accepted(hub, number))


def accepted_twice(hub: Paper) -> None:
    number = lane(hub)
    for _ in range(2):
        hub.write("bob", accepted(hub, number))


def accepted_too_late(hub: Paper) -> None:
    number = hub.write("ada", offered(hub))
    hub.write_at(SPAN_MS, "bob", accepted(hub, number))


def timed_out_too_soon(hub: Paper) -> None:
    number = lane(hub)
    hub.write("hub", timed_out(hub, number, "ada"))


def timed_out_after_it_was_accepted(hub: Paper) -> None:
    number = lane(hub)
    hub.write("bob", accepted(hub, number))
    hub.write_at(SPAN_MS, "hub", timed_out(hub, number, "ada"))


def offered_for_ever(hub: Paper) -> None:
    number = lane(hub)
    for working_ms in (0, 9_000):
        hub.ledger.lanes.check({number: ("offered", 0, 0)}, SPAN_MS, working_ms)


def the_sender_is_not_told(hub: Paper) -> None:
    number = lane(hub)
    hub.write_at(SPAN_MS, "hub", timed_out(hub, number))


def the_lease_stays_with_the_sender(hub: Paper) -> None:
    number = lane(hub)
    hub.grant("ada", "T1")
    hub.write("bob", accepted(hub, number))


def another_lease_comes_with_it(hub: Paper) -> None:
    number = lane(hub)
    hub.write("bob", accepted(hub, number, epoch=hub.grant("bob", "T1")))


def somebody_else_speaks(hub: Paper) -> None:
    number = lane(hub)
    hub.write("eve", said(hub, number, who="eve"))


def said_after_the_end(hub: Paper) -> None:
    number = lane(hub)
    hub.write("ada", closed(hub, number, "ada", "bob"))
    hub.write("ada", said(hub, number))


def kept_after_the_end(hub: Paper) -> None:
    number = lane(hub)
    hub.write("ada", closed(hub, number, "ada", "bob"))
    hub.write("ada", kept(hub, number - 1, lane=number))


def a_word_is_missing(hub: Paper) -> None:
    hub.write("ada", said(hub, lane(hub), n=2))


def a_lane_leaves_too_soon(hub: Paper) -> None:
    number = lane(hub)
    hub.write("ada", closed(hub, number, "ada", "bob", dropped=(number,)))


def a_step_is_acknowledged_and_not_there(hub: Paper) -> None:
    number = lane(hub)
    request = hub.hear("bob", "lane.accept", {"lane": f"l{number}"})
    hub.reply("bob", request, {"lane": f"l{number}", "state": "accepted", "epoch": None, "task": "T1"})


def a_word_is_acknowledged_and_not_there(hub: Paper) -> None:
    number = lane(hub)
    request = hub.hear("ada", "lane.send", {"lane": f"l{number}", "body": {"mark": "ada-6"}})
    hub.reply("ada", request, {"id": f"m{number + 1}", "n": 1})


def shown_in_another_state(hub: Paper) -> None:
    number = lane(hub)
    show(hub, number, [], **is_late(state="accepted"))


def shown_without_a_word(hub: Paper) -> None:
    number = lane(hub)
    hub.write("ada", said(hub, number))
    show(hub, number, [], **is_late(messages=1))


def shown_with_another_word(hub: Paper) -> None:
    number = lane(hub)
    seq = hub.write("ada", said(hub, number))
    entry = {"kind": "message", "seq": seq, "by": "ada", "at_ms": 0, "n": 1, "body": {"mark": "ada-7"}}
    show(hub, number, [entry], **is_late(messages=1))


def a_lane_is_not_listed(hub: Paper) -> None:
    lane(hub)
    hub.reply("bob", hub.hear("bob", "lane.list", {"sender": "ada"}), {"lanes": [], "next": None})


def a_step_is_called_illegal(hub: Paper) -> None:
    number = lane(hub)
    request = hub.hear("bob", "lane.close", {"lane": f"l{number}"})
    facts = {"lane": f"l{number}", "state": "timed_out"}
    hub.say("bob", {"type": "error", "id": request, "error": {"code": "illegal_transition", "facts": facts}})


def a_hub_with_a_lane_in_another_state(hub: Paper) -> None:
    hub.ledger.lanes.check({lane(hub): ("accepted", 0, 0)}, 0, 0)


LANE_LIES: dict[Callable[[Paper], None], str] = {
    a_lane_nobody_offered: "unasked",
    a_lane_twice: "applied twice",
    a_lane_for_longer: "altered",
    a_lane_offered_to_another: "told the wrong ones",
    another_accepts: "unasked",
    accepted_after_it_was_closed: "illegal step",
    accepted_twice: "illegal step",
    accepted_too_late: "stale accepted",
    timed_out_too_soon: "expired early",
    timed_out_after_it_was_accepted: "illegal step",
    offered_for_ever: "expired late",
    the_sender_is_not_told: "told the wrong ones",
    the_lease_stays_with_the_sender: "not handed over",
    another_lease_comes_with_it: "not handed over",
    somebody_else_speaks: "stale accepted",
    said_after_the_end: "stale accepted",
    kept_after_the_end: "stale accepted",
    a_word_is_missing: "numbers have a gap",
    a_lane_leaves_too_soon: "lost",
    a_step_is_acknowledged_and_not_there: "lost",
    a_word_is_acknowledged_and_not_there: "lost",
    shown_in_another_state: "wrong lane",
    shown_without_a_word: "wrong page",
    shown_with_another_word: "altered",
    a_lane_is_not_listed: "wrong page",
    a_step_is_called_illegal: "fenced wrongly",
    a_hub_with_a_lane_in_another_state: "altered",
}


def an_honest_lane(hub: Paper) -> None:
    """Ada offers bob her work on T1, with her lease; he takes it, they speak, and he closes it."""
    number = lane(hub)
    first = hub.grant("ada", "T1")
    ask = msgspec.structs.replace(hub.terms.live[first].ask, agent=hub.ids["bob"], owner="bob")
    handed, epoch = LeaseHandedOff(ask=ask, previous=first, sender="ada"), hub.ledger.head + 1
    hub.write_of(("bob", handed), ("bob", accepted(hub, number, epoch=epoch)))
    request = hub.hear("bob", "lane.accept", {"lane": f"l{number}"})
    hub.reply("bob", request, {"lane": f"l{number}", "state": "accepted", "epoch": epoch, "task": "T1"})
    seq = hub.write("bob", said(hub, number, who="bob", told="ada"))
    entry = {"kind": "message", "seq": seq, "by": "bob", "at_ms": 0, "n": 1, "body": {"mark": "ada-6"}}
    show(hub, number, [entry], state="accepted", moved_by="bob", epoch=epoch, messages=1)
    hub.write("bob", closed(hub, number, "bob", "ada", epoch=epoch))
