"""Lies about work sessions and who goes on with them, each with the rule by which it must be named; an honest run."""

from collections.abc import Callable
from typing import Any

import msgspec
from tests.simulation.paper import ROOM, TTL_MS, Paper, expired, lease
from tests.simulation.question_lies import question, to

from synapse.core.session_events import (
    SessionCheckpointed,
    SessionEnded,
    SessionOffered,
    SessionResumed,
    SessionStarted,
    SessionUpdated,
)

Json = dict[str, Any]
WHERE: Json = {"room": ROOM, "room_name": "main"}


def started(hub: Paper, mark: str = "ada-1", who: str = "ada", task: str | None = "T1") -> SessionStarted:
    """Asked; the event that follows from it."""
    hub.hear(who, "session.start", {"summary": mark, "task": task})
    return SessionStarted(**WHERE, agent=hub.ids[who], owner=who, display_name=who, task=task, summary=mark)


def session(hub: Paper, mark: str = "ada-1", **more: Any) -> int:
    """A session of ada's on T1; its number."""
    return hub.write("ada", started(hub, mark, **more))


def changed(hub: Paper, number: int, mark: str, who: str = "ada", **more: Any) -> SessionUpdated:
    """Asked; the event that follows from it, of a session without lines. todos: appended."""
    todos = more.pop("todos", ())
    hub.hear(who, "session.update", {"session": f"s{number}", "repo": mark, "append": {"todos": list(todos)}} | more)
    date_ms = more.get("resumable_at_ms")
    dated = {} if date_ms is None else {"resumable_at_ms": date_ms}
    return SessionUpdated(
        **WHERE, session=number, owner="ada", state="working", sizes=(0, 0, len(todos)), task="T1", repo=mark,
        todos=tuple(todos), **dated,
    )  # fmt: skip


def kept(hub: Paper, number: int, n: int = 1, mark: str = "ada-9", **more: Any) -> SessionCheckpointed:
    """Asked; the event that follows from it."""
    data, epoch = {"mark": mark}, more.pop("epoch", None)
    lane = more.pop("lane", None)
    body = {"session": f"s{number}", "data": data, "epoch": epoch, "lane": None if lane is None else f"l{lane}"}
    hub.hear("ada", "session.checkpoint", body | more)
    raw = msgspec.Raw(msgspec.json.encode(data))
    return SessionCheckpointed(**WHERE, session=number, owner="ada", n=n, data=raw, task="T1", epoch=epoch, lane=lane)


def ended(hub: Paper, number: int, mark: str = "ada-8", **more: Any) -> SessionEnded:
    """Asked; the event that follows from it."""
    hub.hear("ada", "session.end", {"session": f"s{number}", "reason": mark, "state": "done"})
    return SessionEnded(**WHERE, session=number, owner="ada", state="done", sizes=(0, 0, 0), reason=mark, **more)


def offered(number: int, reason: str = "expired", **more: Any) -> SessionOffered:
    return SessionOffered(**WHERE, session=number, task="T1", owner="ada", reason=reason, **more)


def resumed(number: int, epoch: int, by: str = "bob") -> SessionResumed:
    return SessionResumed(**WHERE, session=number, task="T1", owner="ada", by=by, epoch=epoch)


def held_run(hub: Paper) -> tuple[int, int]:
    """Ada holds T1, and keeps a checkpoint; her session and the epoch."""
    number, epoch = session(hub), hub.grant("ada", "T1")
    hub.write("ada", kept(hub, number, epoch=epoch))
    return number, epoch


def broken_off(hub: Paper) -> int:
    """Ada's lease on T1 ran out, and her checkpoint waits; her session."""
    number, epoch = held_run(hub)
    hub.loop.now_s += TTL_MS / 1000
    hub.write("hub", expired(epoch), offered(number))
    return number


def gone_on(hub: Paper) -> tuple[int, int]:
    """Bob was granted T1 after that; ada's session and his epoch."""
    number = broken_off(hub)
    granted, epoch = hub.granted("bob", "T1"), hub.ledger.head + 1
    hub.write_of(("bob", granted), ("hub", resumed(number, epoch)))
    return number, epoch


def claimed(hub: Paper, epoch: int, resume: Json | None) -> None:
    """Bob is told of his claim."""
    request = hub.hear("bob", "lease.claim", {"task": "T1", "paths": [], "mode": "exclusive"})
    hub.reply("bob", request, lease(epoch, "bob") | ({"resume": resume} if resume is not None else {}))


def resume(number: int, mark: str = "ada-9", **more: Any) -> Json:
    lists = {"decisions": [], "files": [], "todos": [], "omitted": 0}
    return {"session": f"s{number}", "agent": "ada", "ready": True, "data": {"mark": mark}} | lists | more


def shown(number: int, **more: Any) -> Json:
    """A session of ada's without lines and checkpoints, as it is told."""
    counts = {"decisions": 0, "files": 0, "todos": 0, "checkpoints": 0, "lanes": 0}
    return {
        "session": f"s{number}", "room": "main", "agent": "ada", "display_name": "ada", "version": number,
        "state": "working", "declared": "working", "presence": "online", "repo": None, "task": "T1",
        "summary": "ada-1", "counts": counts, "started_at_ms": 0, "updated_at_ms": 0, "ended_at_ms": None,
        "reason": None, "resumable_at_ms": None, "resumable": False, "resumed_by": None, "resumed_at_ms": None,
        "decisions": [], "files": [], "todos": [], "metadata": {}, "last": None,
    } | more  # fmt: skip


def show(hub: Paper, number: int, **more: Any) -> None:
    hub.reply("bob", hub.hear("bob", "session.show", {"session": f"s{number}"}), shown(number, **more))


def a_session_nobody_began(hub: Paper) -> None:
    hub.write("bob", started(hub))


def a_session_twice(hub: Paper) -> None:
    session(hub)
    session(hub)


def a_session_that_never_began(hub: Paper) -> None:
    hub.write("ada", changed(hub, hub.ledger.head, "ada-2"))


def a_session_of_another_is_changed(hub: Paper) -> None:
    number = session(hub)
    hub.write("bob", changed(hub, number, "bob-2", who="bob"))


def an_old_version_is_overwritten(hub: Paper) -> None:
    number = session(hub)
    hub.write("ada", changed(hub, number, "ada-2"))
    hub.write("ada", changed(hub, number, "ada-3", if_version=number))


def lines_vanish(hub: Paper) -> None:
    event = changed(hub, session(hub), "ada-2", todos=("a", "b"))
    hub.write("ada", msgspec.structs.replace(event, todos=("a",), sizes=(0, 0, 1)))


def changed_after_its_end(hub: Paper) -> None:
    number = session(hub)
    hub.write("ada", ended(hub, number))
    hub.write("ada", changed(hub, number, "ada-2"))


def a_checkpoint_is_missing(hub: Paper) -> None:
    hub.write("ada", kept(hub, session(hub), n=2))


def a_checkpoint_twice(hub: Paper) -> None:
    number = session(hub)
    hub.write("ada", kept(hub, number))
    hub.write("ada", kept(hub, number, n=2))


def a_checkpoint_under_a_dead_epoch(hub: Paper) -> None:
    number, epoch = held_run(hub)
    hub.loop.now_s += TTL_MS / 1000
    hub.write("hub", expired(epoch), offered(number))
    hub.write("ada", kept(hub, number, n=2, mark="ada-10", epoch=epoch))


def a_session_leaves_too_soon(hub: Paper) -> None:
    first = session(hub)
    number = session(hub, "ada-2")
    hub.write("ada", ended(hub, first, "ada-7"))
    hub.write("ada", ended(hub, number, dropped=(first,)))


def what_broke_off_is_not_offered(hub: Paper) -> None:
    _, epoch = held_run(hub)
    hub.loop.now_s += TTL_MS / 1000
    hub.write("hub", expired(epoch))


def offered_without_a_checkpoint(hub: Paper) -> None:
    number, epoch = session(hub), hub.grant("ada", "T1")
    hub.loop.now_s += TTL_MS / 1000
    hub.write("hub", expired(epoch), offered(number))


def offered_while_it_is_worked_on(hub: Paper) -> None:
    number, _ = held_run(hub)
    hub.write("hub", offered(number))


def offered_before_its_date(hub: Paper) -> None:
    number = session(hub)
    hub.write("ada", kept(hub, number))
    hub.write("ada", changed(hub, number, "ada-2", resumable_at_ms=1_000))
    hub.write("hub", offered(number, "resumable_at"))


def offered_to_the_wrong_one(hub: Paper) -> None:
    number, epoch = held_run(hub)
    hub.loop.now_s += TTL_MS / 1000
    hub.write("hub", expired(epoch), offered(number, deliveries=to(hub, "eve")))


def the_next_one_begins_anew(hub: Paper) -> None:
    broken_off(hub)
    hub.grant("bob", "T1")


def taken_up_and_nobody_offered(hub: Paper) -> None:
    number = session(hub)
    hub.write("ada", kept(hub, number))
    hub.write("hub", resumed(number, hub.grant("bob", "T1")))


def taken_up_twice(hub: Paper) -> None:
    number, epoch = gone_on(hub)
    hub.write("hub", resumed(number, epoch))


def taken_up_by_another(hub: Paper) -> None:
    number = broken_off(hub)
    granted, epoch = hub.granted("bob", "T1"), hub.ledger.head + 1
    hub.write_of(("bob", granted), ("hub", resumed(number, epoch, by="eve")))


def the_next_one_is_told_nothing(hub: Paper) -> None:
    _, epoch = gone_on(hub)
    claimed(hub, epoch, None)


def the_next_one_is_told_of_another_checkpoint(hub: Paper) -> None:
    number, epoch = gone_on(hub)
    claimed(hub, epoch, resume(number, "ada-10"))


def the_next_one_is_told_of_another_session(hub: Paper) -> None:
    number, epoch = gone_on(hub)
    claimed(hub, epoch, resume(number + 1))


def a_checkpoint_is_acknowledged_and_not_there(hub: Paper) -> None:
    number = session(hub)
    request = hub.hear("ada", "session.checkpoint", {"session": f"s{number}", "data": {"mark": "ada-9"}})
    hub.reply("ada", request, {"checkpoint": number + 1, "session": f"s{number}"})


def a_change_is_acknowledged_and_not_there(hub: Paper) -> None:
    number = session(hub)
    request = hub.hear("ada", "session.update", {"session": f"s{number}", "repo": "ada-2"})
    hub.reply("ada", request, {"session": f"s{number}", "version": number})


def a_page_without_a_checkpoint(hub: Paper) -> None:
    number = session(hub)
    hub.write("ada", kept(hub, number))
    request = hub.hear("bob", "session.checkpoints", {"session": f"s{number}"})
    page: Json = {"session": f"s{number}", "checkpoints": [], "next": None, "cursor": f"x:{hub.ledger.head}"}
    hub.reply("bob", request, page)


def a_session_is_shown_that_never_was(hub: Paper) -> None:
    show(hub, hub.ledger.head)


def shown_with_an_old_version(hub: Paper) -> None:
    number = session(hub)
    hub.write("ada", changed(hub, number, "ada-2"))
    show(hub, number)


def shown_without_its_last_checkpoint(hub: Paper) -> None:
    number = session(hub)
    hub.write("ada", kept(hub, number))
    show(hub, number, counts=shown(number)["counts"] | {"checkpoints": 1})


def shown_at_work_while_it_waits(hub: Paper) -> None:
    number = session(hub)
    question(hub, session=f"s{number}")
    show(hub, number)


def shown_as_offline_after_a_beat(hub: Paper) -> None:
    number = session(hub)
    request = hub.hear("ada", "session.beat", {"session": f"s{number}"})
    hub.reply("ada", request, {"session": f"s{number}"})
    hub.loop.now_s += 80
    show(hub, number, presence="offline")


def a_session_is_not_listed(hub: Paper) -> None:
    session(hub)
    hub.reply("bob", hub.hear("bob", "session.list", {"agent": "ada"}), {"sessions": [], "next": None})


def a_conflict_with_the_right_version(hub: Paper) -> None:
    number = session(hub)
    body = {"session": f"s{number}", "repo": "ada-2", "if_version": number}
    request = hub.hear("ada", "session.update", body)
    facts = {"session": f"s{number}", "version": number}
    hub.say("ada", {"type": "error", "id": request, "error": {"code": "version_conflict", "facts": facts}})


def a_hub_that_forgot_an_offer(hub: Paper) -> None:
    number = broken_off(hub)
    hub.ledger.records.check({number: (number, 1, False)}, hub.ledger.head, 0, 0)


def its_date_came_and_nothing_happens(hub: Paper) -> None:
    number = session(hub)
    hub.write("ada", kept(hub, number))
    version = hub.write("ada", changed(hub, number, "ada-2", resumable_at_ms=1_000))
    for working_ms in (0, 9_000):
        hub.ledger.records.check({number: (version, 1, False)}, version, 1_000, working_ms)


SESSION_LIES: dict[Callable[[Paper], None], str] = {
    a_session_nobody_began: "unasked",
    a_session_twice: "applied twice",
    a_session_that_never_began: "not live",
    a_session_of_another_is_changed: "stale accepted",
    an_old_version_is_overwritten: "lost update",
    lines_vanish: "altered",
    changed_after_its_end: "stale accepted",
    a_checkpoint_is_missing: "numbers have a gap",
    a_checkpoint_twice: "applied twice",
    a_checkpoint_under_a_dead_epoch: "stale accepted",
    a_session_leaves_too_soon: "lost",
    what_broke_off_is_not_offered: "not offered",
    offered_without_a_checkpoint: "offered for nothing",
    offered_while_it_is_worked_on: "offered for nothing",
    offered_before_its_date: "offered early",
    offered_to_the_wrong_one: "told the wrong ones",
    the_next_one_begins_anew: "not resumed",
    taken_up_and_nobody_offered: "resumed for nothing",
    taken_up_twice: "resumed for nothing",
    taken_up_by_another: "resumed for nothing",
    the_next_one_is_told_nothing: "lost",
    the_next_one_is_told_of_another_checkpoint: "wrong session",
    the_next_one_is_told_of_another_session: "wrong session",
    a_checkpoint_is_acknowledged_and_not_there: "lost",
    a_change_is_acknowledged_and_not_there: "lost",
    a_page_without_a_checkpoint: "wrong page",
    a_session_is_shown_that_never_was: "not durable",
    shown_with_an_old_version: "wrong session",
    shown_without_its_last_checkpoint: "wrong session",
    shown_at_work_while_it_waits: "wrong session",
    shown_as_offline_after_a_beat: "wrong session",
    a_session_is_not_listed: "wrong page",
    a_conflict_with_the_right_version: "fenced wrongly",
    a_hub_that_forgot_an_offer: "altered",
    its_date_came_and_nothing_happens: "not offered",
}


def an_honest_run(hub: Paper) -> None:
    """Ada begins, is shown, breaks off; bob goes on from her checkpoint."""
    show(hub, session(hub, "ada-1"))
    hub.write("ada", ended(hub, hub.ledger.head, "ada-7"))
    number = session(hub, "ada-2")
    hub.write("ada", changed(hub, number, "ada-3", todos=("a", "b")))
    epoch = hub.grant("ada", "T1")
    hub.write("ada", kept(hub, number, epoch=epoch))
    hub.loop.now_s += TTL_MS / 1000
    hub.write("hub", expired(epoch), offered(number))
    granted, epoch = hub.granted("bob", "T1"), hub.ledger.head + 1
    hub.write_of(("bob", granted), ("hub", resumed(number, epoch)))
    claimed(hub, epoch, resume(number, todos=["b"], omitted=1))
