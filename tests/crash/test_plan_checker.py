"""The checker of the plan finds planted lies: an honest history passes; each lie is one change to it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import msgspec
import pytest
from tests.crash.history import Frame, History, Op
from tests.crash.killing import ROOT
from tests.crash.plan_checker import RULES, check_plan

from synapse.core.events import Ask, Event, Idem, LeaseGranted, LeaseReleased, Recorded
from synapse.core.plan_events import TaskDeclared, TaskMoved, TasksReady

ROOM: dict[str, Any] = {"room": 1, "room_name": "main"}
Journal: TypeAlias = list[Recorded]
Lie: TypeAlias = Callable[[list[Op], Journal], None]


def idem(key: str) -> Idem:
    return Idem(key=key, hash="", count=1)


def moved(task: str, previous: str, status: str, **more: Any) -> TaskMoved:
    return TaskMoved(**ROOM, task=task, title=task, previous=previous, status=status, **more)


def op(number: int, kind: str, body: Frame, seq: int, reply: Frame, key: str | None = None) -> Op:
    frame = {"type": "reply", "seq": seq, "body": reply}
    return Op("ada", "ada", 1, number, kind, key, body, number * 10, number * 10 + 5, frame)


def honest() -> tuple[list[Op], Journal]:
    """A, and B that waits for it; ada declares both, claims A, does it, looks at B, and reopens A."""
    ask = Ask(room=1, room_name="main", task="A", agent=1, owner="ada")
    events: list[tuple[str, Event]] = [
        ("ada", TaskDeclared(**ROOM, task="A", title="A", idem=idem("k1"))),
        ("ada", TaskDeclared(**ROOM, task="B", title="B", depends_on=("A",))),
        ("hub", TasksReady(**ROOM, tasks=("A",))),
        ("ada", LeaseGranted(ask=ask, ttl_ms=60_000, idem=idem("k2"))),
        ("hub", moved("A", "open", "in_progress", reason="claimed", owner="ada", epoch=4)),
        ("ada", moved("A", "in_progress", "done", owner="ada", epoch=4, idem=idem("k3"))),
        ("ada", LeaseReleased(**ROOM, task="A", owner="ada", epoch=4)),
        ("hub", TasksReady(**ROOM, tasks=("B",))),
        ("ada", moved("A", "done", "open", idem=idem("k4"))),
        ("hub", TasksReady(**ROOM, tasks=("A",))),
    ]
    ops = [
        op(1, "task.declare_all", {"tasks": []}, 3, {"declared": 2}, "k1"),
        op(2, "lease.claim", {"task": "A"}, 5, {"epoch": 4}, "k2"),
        op(3, "task.update", {"task": "A", "status": "done"}, 8, {"status": "done"}, "k3"),
        op(4, "task.show", {"task": "B"}, 8, {"status": "open", "ready": True}),
        op(5, "task.update", {"task": "A", "status": "open"}, 10, {"status": "open"}, "k4"),
    ]
    return ops, [Recorded(seq, 5, actor, event) for seq, (actor, event) in enumerate(events, 1)]


def change(journal: Journal, seq: int, **fields: object) -> None:
    """Change an event."""
    recorded = journal[seq - 1]
    journal[seq - 1] = recorded._replace(event=msgspec.structs.replace(recorded.event, **fields))


def something_else(journal: Journal, seq: int) -> None:
    """Another event in place of one."""
    journal[seq - 1] = journal[seq - 1]._replace(event=LeaseReleased(**ROOM, task="C", owner="ada", epoch=1))


def an_acknowledged_step_is_not_there(ops: list[Op], journal: Journal) -> None:
    something_else(journal, 9)


def a_refused_step_is_there(ops: list[Op], journal: Journal) -> None:
    ops[2] = replace(ops[2], frame={"type": "error", "seq": 8, "error": {"code": "stale_epoch"}})


def a_step_is_there_twice(ops: list[Op], journal: Journal) -> None:
    change(journal, 9, idem=idem("k3"))


def a_task_is_declared_twice(ops: list[Op], journal: Journal) -> None:
    change(journal, 2, task="A", depends_on=())


def a_step_nobody_asked_for(ops: list[Op], journal: Journal) -> None:
    change(journal, 9, idem=None)


def a_step_of_the_hub_by_somebody(ops: list[Op], journal: Journal) -> None:
    journal[4] = journal[4]._replace(actor="ada")


def what_is_done_is_open_again(ops: list[Op], journal: Journal) -> None:
    change(journal, 9, reason="expired")


def what_is_done_is_done_again(ops: list[Op], journal: Journal) -> None:
    change(journal, 9, previous="in_progress", status="done")


def a_lease_outlives_its_task(ops: list[Op], journal: Journal) -> None:
    something_else(journal, 7)


def a_claim_moves_nothing(ops: list[Op], journal: Journal) -> None:
    something_else(journal, 5)


def nobody_is_told(ops: list[Op], journal: Journal) -> None:
    something_else(journal, 3)


def nobody_is_told_at_the_end(ops: list[Op], journal: Journal) -> None:
    something_else(journal, 10)


def told_twice(ops: list[Op], journal: Journal) -> None:
    journal.append(journal[-1]._replace(seq=11))


def told_before_it_is_ready(ops: list[Op], journal: Journal) -> None:
    change(journal, 3, tasks=("A", "B"))


def another_status_is_told(ops: list[Op], journal: Journal) -> None:
    ops[4].reply["status"] = "done"


def another_readiness_is_told(ops: list[Op], journal: Journal) -> None:
    ops[3].reply["ready"] = False


LIES: dict[Lie, str] = {
    an_acknowledged_step_is_not_there: "lost",
    a_refused_step_is_there: "refused but applied",
    a_step_is_there_twice: "applied twice",
    a_task_is_declared_twice: "applied twice",
    a_step_nobody_asked_for: "unasked",
    a_step_of_the_hub_by_somebody: "unasked",
    what_is_done_is_open_again: "undone",
    what_is_done_is_done_again: "undone",
    a_lease_outlives_its_task: "torn",
    a_claim_moves_nothing: "torn",
    nobody_is_told: "wrong announcement",
    nobody_is_told_at_the_end: "wrong announcement",
    told_twice: "wrong announcement",
    told_before_it_is_ready: "wrong announcement",
    another_status_is_told: "wrong status",
    another_readiness_is_told: "wrong status",
}


def test_an_honest_history_has_no_finding() -> None:
    ops, journal = honest()
    assert check_plan(History(ops=ops), journal) == []


@pytest.mark.parametrize(("lie", "rule"), LIES.items(), ids=lambda it: getattr(it, "__name__", it))
def test_a_planted_lie_is_named(lie: Lie, rule: str) -> None:
    ops, journal = honest()
    lie(ops, journal)
    findings = check_plan(History(ops=ops), journal)
    assert rule in {finding.rule for finding in findings}, findings


def test_every_rule_has_a_planted_lie_and_is_in_the_docs() -> None:
    assert set(LIES.values()) == set(RULES)
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert [rule for rule in RULES if f"`{rule}`" not in page] == []
