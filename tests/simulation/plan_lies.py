"""Lies about a plan, each with the rule by which it must be named; and a plan without one."""

from collections.abc import Callable
from typing import Any

from tests.simulation.paper import ROOM, Paper, expired, released

from synapse.core.plan_events import TaskDeclared, TaskMoved, TaskNoted, TaskRemoved, TasksReady

Json = dict[str, Any]
WHERE: Json = {"room": ROOM, "room_name": "main"}


def declared(hub: Paper, mark: str, *needs: str, who: str = "ada", task: str = "T1", **more: Any) -> TaskDeclared:
    """Asked; the event that follows from it."""
    body = {"task": task, "description": mark, "depends_on": list(needs)}
    hub.hear(who, "task.declare", body | more.pop("asked", {}))
    fields = {"task": task, "title": task, "description": mark, "depends_on": needs} | more
    return TaskDeclared(**WHERE, **fields)


def ready(*tasks: str) -> TasksReady:
    return TasksReady(**WHERE, tasks=tasks)


def taken(hub: Paper, owner: str, epoch: int) -> TaskMoved:
    return step(hub, "", "open", "in_progress", reason="claimed", owner=owner, epoch=epoch)


def step(hub: Paper, mark: str, previous: str, status: str, who: str | None = None, **more: Any) -> TaskMoved:
    """A step of T1; asked by who, when somebody did."""
    if who is not None:
        asked = {"task": "T1", "status": status, "note": mark} | more.pop("asked", {})
        hub.hear(who, "task.update", asked)
        more["note"] = mark
    return TaskMoved(**WHERE, task="T1", title="T1", previous=previous, status=status, **more)


def open_task(hub: Paper, task: str = "T1") -> int:
    """T1 is declared by ada, ready and announced; its version."""
    return hub.write_of(("ada", declared(hub, f"ada-{task}", task=task)), ("hub", ready(task))) - 1


def held_task(hub: Paper) -> int:
    """T1 is declared, and ada holds it; the epoch."""
    open_task(hub)
    granted = hub.granted("ada", "T1")
    epoch = hub.ledger.head + 1
    hub.write_of(("ada", granted), ("hub", taken(hub, "ada", epoch)))
    return epoch


def told(version: int, **more: Any) -> Json:
    """T1 as it is told."""
    return {
        "task": "T1", "room": "main", "title": "T1", "status": "open", "ready": True, "priority": "normal",
        "depends_on": [], "suggested_owner": None, "version": version, "declared_by": "ada", "moved_at_ms": 0,
        "progress_at_ms": None, "description": "ada-T1", "declared_at_ms": 0,
    } | more  # fmt: skip


def show(hub: Paper, **more: Any) -> None:
    version = open_task(hub)
    hub.reply("bob", hub.hear("bob", "task.show", {"task": "T1"}), told(version, **more))


def a_task_nobody_declared(hub: Paper) -> None:
    hub.write_of(("bob", declared(hub, "ada-1")), ("hub", ready("T1")))


def a_declaration_twice(hub: Paper) -> None:
    version = open_task(hub)
    hub.write_of(("ada", declared(hub, "ada-T1", replaces=version)))


def a_task_of_another_is_described_unseen(hub: Paper) -> None:
    version = open_task(hub)
    hub.write_of(("bob", declared(hub, "bob-1", who="bob", replaces=version)))


def a_task_is_described_otherwise(hub: Paper) -> None:
    hub.write_of(("ada", declared(hub, "ada-1", title="another")), ("hub", ready("T1")))


def a_circle(hub: Paper) -> None:
    hub.write_of(("ada", declared(hub, "ada-1", "T2")))
    hub.write_of(("ada", declared(hub, "ada-2", "T1", task="T2")))


def a_step_that_is_none(hub: Paper) -> None:
    open_task(hub)
    hub.write_of(("ada", step(hub, "ada-1", "open", "review", "ada")))


def a_step_from_elsewhere(hub: Paper) -> None:
    open_task(hub)
    hub.write_of(("ada", step(hub, "ada-1", "blocked", "failed", "ada")))


def a_step_nobody_asked_for(hub: Paper) -> None:
    open_task(hub)
    hub.write_of(("ada", step(hub, "", "open", "done")))


def a_step_under_anothers_lease(hub: Paper) -> None:
    epoch = held_task(hub)
    hub.write_of(("bob", step(hub, "bob-1", "in_progress", "blocked", "bob", owner="ada", epoch=epoch)))


def a_step_by_an_old_epoch(hub: Paper) -> None:
    epoch = held_task(hub)
    asked = {"epoch": epoch - 1}
    hub.write_of(("ada", step(hub, "a", "in_progress", "blocked", "ada", owner="ada", epoch=epoch, asked=asked)))


def done_and_still_held(hub: Paper) -> None:
    epoch = held_task(hub)
    hub.write_of(("ada", step(hub, "ada-1", "in_progress", "done", "ada", owner="ada", epoch=epoch)))


def claimed_and_open(hub: Paper) -> None:
    open_task(hub)
    hub.grant("ada", "T1")


def ended_and_in_progress(hub: Paper) -> None:
    epoch = held_task(hub)
    hub.loop.now_s += 10
    hub.write("hub", expired(epoch))


def open_again_while_it_is_held(hub: Paper) -> None:
    epoch = held_task(hub)
    hub.write_of(("hub", step(hub, "", "in_progress", "open", reason="expired", owner="ada", epoch=epoch)))


def ready_and_nobody_is_told(hub: Paper) -> None:
    hub.write_of(("ada", declared(hub, "ada-1")))


def told_twice_that_it_is_ready(hub: Paper) -> None:
    open_task(hub)
    hub.write_of(("hub", ready("T1")))


def told_too_soon_that_it_is_ready(hub: Paper) -> None:
    hub.write_of(("ada", declared(hub, "ada-1", "T2")), ("hub", ready("T1")))


def a_line_under_anothers_epoch(hub: Paper) -> None:
    epoch = held_task(hub)
    hub.hear("bob", "task.note", {"task": "T1", "text": "bob-1", "epoch": epoch})
    hub.write_of(("bob", TaskNoted(**WHERE, task="T1", kind="note", text="bob-1", epoch=epoch)))


def a_task_is_taken_out_that_is_open(hub: Paper) -> None:
    open_task(hub)
    hub.hear("ada", "task.remove", {"task": "T1"})
    hub.write_of(("ada", TaskRemoved(**WHERE, task="T1")))


def a_task_is_taken_out_and_nobody_asked(hub: Paper) -> None:
    open_task(hub)
    hub.write_of(("ada", step(hub, "ada-1", "open", "done", "ada")))
    hub.write_of(("ada", TaskRemoved(**WHERE, task="T1")))


def shown_with_another_status(hub: Paper) -> None:
    show(hub, status="done", ready=False)


def shown_as_waiting(hub: Paper) -> None:
    show(hub, ready=False, waits_for={"T2": "open"}, unmet=1)


def a_claim_is_told_of_another_plan(hub: Paper) -> None:
    epoch = held_task(hub)
    body = {"epoch": epoch, "owner": "ada", "task": "T1", "worktree": None, "paths": [], "pools": {}}
    brief = {"title": "T1", "status": "open", "waits_for": {}}
    request = hub.hear("ada", "lease.claim", {"task": "T1", "paths": [], "mode": "exclusive"})
    hub.reply("ada", request, body | {"mode": "exclusive", "outcome": "renewed", "live": True, "plan": brief})


def a_list_without_a_task(hub: Paper) -> None:
    open_task(hub)
    page = {"tasks": [], "ready": [], "total": 1, "next": None}
    hub.reply("bob", hub.hear("bob", "task.list", {}), page)


def a_ledger_without_a_line(hub: Paper) -> None:
    open_task(hub)
    hub.write_of(("ada", step(hub, "ada-1", "open", "blocked", "ada")))
    request = hub.hear("bob", "progress.read", {"task": "T1"})
    hub.reply("bob", request, {"lines": [], "previous": None, "cursor": f"x:{hub.ledger.head}"})


def a_step_is_acknowledged_and_not_there(hub: Paper) -> None:
    version = open_task(hub)
    request = hub.hear("ada", "task.update", {"task": "T1", "status": "done", "note": "ada-1"})
    hub.reply("ada", request, told(version, status="done", ready=False, changed=True))


def a_line_is_acknowledged_and_not_there(hub: Paper) -> None:
    seq = open_task(hub)
    request = hub.hear("ada", "task.note", {"task": "T1", "text": "ada-1"})
    hub.reply("ada", request, {"seq": seq, "task": "T1", "text": "ada-1"})


def a_removal_is_acknowledged_and_not_there(hub: Paper) -> None:
    open_task(hub)
    hub.reply("ada", hub.hear("ada", "task.remove", {"task": "T1"}), {"task": "T1", "removed": True})


def a_task_is_called_missing(hub: Paper) -> None:
    open_task(hub)
    request = hub.hear("bob", "task.show", {"task": "T1"})
    hub.say("bob", {"type": "error", "id": request, "error": {"code": "not_found", "detail": ""}})


def a_circle_that_is_none(hub: Paper) -> None:
    open_task(hub)
    request = hub.hear("ada", "task.declare", {"task": "T1", "description": "ada-1", "depends_on": ["T2"]})
    error = {"code": "cycle", "detail": "", "facts": {"path": ["T1", "T3", "T1"]}}
    hub.say("ada", {"type": "error", "id": request, "error": error})


def a_holder_is_called_none(hub: Paper) -> None:
    epoch = held_task(hub)
    request = hub.hear("ada", "task.update", {"task": "T1", "status": "done", "note": "ada-1", "epoch": epoch})
    hub.say("ada", {"type": "error", "id": request, "error": {"code": "stale_epoch", "detail": ""}})


def follows(hub: Paper) -> int:
    hub.reply("bob", hub.hear("bob", "feed.subscribe", {"plans": ["main"]}), {"from_cursor": "x:1"})
    return open_task(hub)


def heard(version: int, **more: Any) -> Json:
    body = {"change": "declared", "room": "main", "tasks": ["T1"], "title": "T1", "version": version}
    body |= {"by": "ada", "at_ms": 0, "cursor": f"x:{version}"} | more
    return {"type": "plan.changed", "seq": version, "body": body}


def a_change_of_another_task(hub: Paper) -> None:
    hub.say("bob", heard(follows(hub), tasks=["T2"]))


def a_change_of_a_plan_that_never_was(hub: Paper) -> None:
    hub.say("bob", heard(follows(hub) - 1))


def a_change_of_a_plan_again(hub: Paper) -> None:
    version = follows(hub)
    for _ in range(2):
        hub.say("bob", heard(version))


def a_hub_that_forgot_who_was_told(hub: Paper) -> None:
    open_task(hub)
    hub.ledger.agenda.check({("main", "T1"): ("open", 0, False)}, hub.ledger.head)


PLAN_LIES: dict[Callable[[Paper], None], str] = {
    a_task_nobody_declared: "unasked",
    a_declaration_twice: "applied twice",
    a_task_of_another_is_described_unseen: "lost update",
    a_task_is_described_otherwise: "altered",
    a_circle: "cycle",
    a_step_that_is_none: "illegal step",
    a_step_from_elsewhere: "illegal step",
    a_step_nobody_asked_for: "unasked",
    a_step_under_anothers_lease: "stale accepted",
    a_step_by_an_old_epoch: "stale accepted",
    done_and_still_held: "leased after the end",
    claimed_and_open: "leased and open",
    ended_and_in_progress: "in progress by nobody",
    open_again_while_it_is_held: "unasked",
    ready_and_nobody_is_told: "not announced",
    told_twice_that_it_is_ready: "announced twice",
    told_too_soon_that_it_is_ready: "not ready",
    a_line_under_anothers_epoch: "stale accepted",
    a_task_is_taken_out_that_is_open: "illegal step",
    a_task_is_taken_out_and_nobody_asked: "unasked",
    shown_with_another_status: "wrong task",
    shown_as_waiting: "wrong task",
    a_claim_is_told_of_another_plan: "wrong task",
    a_list_without_a_task: "wrong page",
    a_ledger_without_a_line: "wrong page",
    a_step_is_acknowledged_and_not_there: "lost",
    a_line_is_acknowledged_and_not_there: "lost",
    a_removal_is_acknowledged_and_not_there: "lost",
    a_task_is_called_missing: "fenced wrongly",
    a_circle_that_is_none: "fenced wrongly",
    a_holder_is_called_none: "fenced wrongly",
    a_change_of_another_task: "altered",
    a_change_of_a_plan_that_never_was: "not durable",
    a_change_of_a_plan_again: "repeated",
    a_hub_that_forgot_who_was_told: "altered",
}


def an_honest_plan(hub: Paper) -> None:
    """P and Q: Q waits for P, which is claimed, noted and done; P is told, listed and followed."""
    version = follows(hub)
    hub.say("bob", heard(version))
    hub.reply("bob", hub.hear("bob", "task.show", {"task": "T1"}), told(version))
    hub.write_of(("bob", declared(hub, "bob-Q", "T1", who="bob", task="Q")))
    granted, epoch = hub.granted("ada", "T1"), hub.ledger.head + 1
    hub.write_of(("ada", granted), ("hub", taken(hub, "ada", epoch)))
    done = step(hub, "ada-8", "in_progress", "done", "ada", owner="ada", epoch=epoch)
    hub.write_of(("ada", done), ("ada", released(epoch, "ada")), ("hub", ready("Q")))
