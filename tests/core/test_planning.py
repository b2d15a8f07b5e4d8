"""Declaring, moving, noting, removing: what is refused, with whose words, and what a step does beside its event."""

import random
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from tests.core.lease_world import LeaseWorld

from synapse.core.events import Event, LeaseGranted, LeaseReleased, LeaseRevoked, Recorded
from synapse.core.plan import RoomPlan, follow, openings, walk
from synapse.core.plan_answers import HOLDERS_SHOWN
from synapse.core.plan_events import TaskDeclared, TaskMoved, TasksReady
from synapse.protocol.codec import encode_reply
from synapse.protocol.limits import Limits
from synapse.protocol.plan_commands import (
    DeclareTask,
    DeclareTasks,
    ListTasks,
    NoteProgress,
    RemoveTask,
    ShowTask,
    TaskSpec,
    UpdateTask,
)
from synapse.protocol.plan_replies import PlanPage, ProgressLine, TaskInfo, TasksDeclared
from synapse.protocol.terms import Artefact


class PlanWorld(LeaseWorld):
    """A world whose events have their consequences, as in a turn."""

    def declare(self, task: str, *needs: str, name: str = "ada", **fields: object) -> TaskInfo:
        return self.reply(TaskInfo, DeclareTask(task=task, depends_on=needs, **fields), name)  # type: ignore[arg-type]  # the fields of the caller

    def move(self, task: str, status: str, name: str = "ada", epoch: int | None = None) -> list[Event]:
        return [item.event for item in self.settle(self.do(UpdateTask(task=task, status=status, epoch=epoch), name)[0])]

    def settle(self, recorded: list[Recorded]) -> list[Recorded]:
        steps = self.record(follow(self.state, recorded), "hub")
        said = self.record(openings(self.state, [*recorded, *steps]), "hub")
        return [*recorded, *steps, *said]

    def show(self, task: str) -> TaskInfo:
        return self.look(TaskInfo, ShowTask(task=task), "ada")


@pytest.fixture
def world() -> PlanWorld:
    return PlanWorld()


def test_what_is_not_said_has_its_default_and_then_stays(world: PlanWorld) -> None:
    first = world.declare("T")
    assert (first.title, first.priority, first.labels, first.description, first.status) == (
        "T",
        "normal",
        (),
        "",
        "open",
    )
    assert (first.ready, first.changed, first.declared_by) == (True, True, "ada")
    world.reply(TaskInfo, DeclareTask(task="T", title="a title", labels=("ui", "ui", "api"), priority="high"), "ada")
    again = world.reply(TaskInfo, DeclareTask(task="T", description="all of it"), "ada")
    assert (again.title, again.labels, again.priority, again.description) == (
        "a title",
        ("ui", "api"),
        "high",
        "all of it",
    )
    assert again.version > first.version


def test_declaring_what_is_so_changes_nothing_whoever_asks(world: PlanWorld) -> None:
    world.declare("T", "D", title="x")
    assert world.events(DeclareTask(task="T", title="x", depends_on=("D", "D")), "bob") == []


def test_an_owner_is_taken_away_by_an_empty_name(world: PlanWorld) -> None:
    world.declare("T", suggested_owner="bob")
    assert world.reply(TaskInfo, DeclareTask(task="T", title="mine"), "bob").suggested_owner == "bob", "the owner may"
    assert world.reply(TaskInfo, DeclareTask(task="T", suggested_owner=""), "ada").suggested_owner is None
    assert world.declare("U", suggested_owner="").suggested_owner is None


def test_another_agent_changes_a_declaration_only_when_it_knows_its_version(world: PlanWorld) -> None:
    version = world.declare("T").version
    refused = world.refusal(DeclareTask(task="T", title="mine now"), "bob")
    assert (refused.code, refused.facts["version"], refused.facts["declared_by"]) == (
        "version_conflict",
        version,
        "ada",
    )
    assert f"--if-version {version}" in refused.detail
    assert world.reply(TaskInfo, DeclareTask(task="T", title="ours", if_version=version), "bob").declared_by == "ada"
    assert world.refusal(DeclareTask(task="T", title="late", if_version=version), "bob").code == "version_conflict"
    assert world.refusal(DeclareTask(task="T", if_version=0), "ada").code == "version_conflict"
    assert world.refusal(DeclareTask(task="new", if_version=7), "ada").facts["version"] == 0
    assert world.reply(TaskInfo, DeclareTask(task="T", title="theirs"), "operator").title == "theirs"


def test_a_cycle_is_refused_with_its_path(world: PlanWorld) -> None:
    world.declare("B", "A")
    world.declare("C", "B")
    refused = world.refusal(DeclareTask(task="A", depends_on=("X", "C")), "ada")
    assert (refused.code, refused.facts) == ("cycle", {"path": ["A", "C", "B", "A"], "length": 3})
    assert "A -> C -> B -> A" in refused.detail
    assert world.refusal(DeclareTask(task="S", depends_on=("S",)), "ada").facts["path"] == ["S", "S"]


def test_a_list_is_declared_as_a_whole_or_not_at_all(world: PlanWorld) -> None:
    world.declare("old")
    chain = tuple(TaskSpec(task=f"T{n}", depends_on=(f"T{(n + 1) % 5}",)) for n in range(5))
    assert world.refusal(DeclareTasks(tasks=chain), "ada").code == "cycle"
    told = world.reply(TasksDeclared, DeclareTasks(tasks=(*chain[:4], TaskSpec(task="old"))), "ada")
    assert (told.declared, told.unchanged, sorted(told.tasks)) == (4, 1, ["T0", "T1", "T2", "T3"])
    twice = world.refusal(DeclareTasks(tasks=(TaskSpec(task="a"), TaskSpec(task="a"))), "ada")
    assert (twice.code, twice.facts) == ("bad_request", {"path": "$.body.tasks", "task": "a"})


@pytest.mark.parametrize("seed", range(40))
def test_a_cycle_is_found_if_and_only_if_there_is_one(seed: int) -> None:
    """Against taking away, again and again, whatever needs nothing that is left."""
    chance = random.Random(seed)
    world = PlanWorld()
    needs: dict[str, set[str]] = {}
    for _ in range(60):
        size = chance.choice((1, 1, 1, 4))
        new = {
            f"T{chance.randrange(12)}": {f"T{chance.randrange(12)}" for _ in range(chance.randrange(3))}
            for _ in range(size)
        }
        graph = {**needs, **new}
        while free := [name for name, wanted in graph.items() if not wanted & graph.keys()]:
            for name in free:
                del graph[name]
        specs = tuple(TaskSpec(task=task, depends_on=tuple(sorted(wanted))) for task, wanted in new.items())
        if graph:
            refused = world.refusal(DeclareTasks(tasks=specs), "operator")
            path = refused.facts["path"]
            assert refused.code == "cycle"
            assert isinstance(path, list)
            assert path[0] == path[-1]
            both = {**needs, **new}
            assert all(to in both[task] for task, to in pairwise(path)), "each step is a dependency"
        else:
            world.do(DeclareTasks(tasks=specs), "operator")
            needs.update(new)


def test_a_deep_chain_is_no_recursion(world: PlanWorld) -> None:
    plan = RoomPlan()
    new = {f"T{n}": (f"T{n + 1}",) for n in range(50_000)}
    assert walk(plan, new) == (None, [f"T{n}" for n in reversed(range(50_000))])
    assert walk(plan, {**new, "T50000": ("T0",)}).cycle is not None


@pytest.mark.parametrize("seed", range(20))
def test_no_position_within_a_list_has_a_cycle_either(seed: int) -> None:
    """Lists that turn the edges of a plan round: each event is folded in alone, and the plan looked at."""
    chance = random.Random(seed)
    world = PlanWorld()
    tasks = [f"T{n}" for n in range(7)]
    for _ in range(12):
        chance.shuffle(tasks)
        specs = [
            TaskSpec(task=task, depends_on=tuple(chance.sample(tasks[:at], min(at, chance.randrange(4)))))
            for at, task in enumerate(tasks)
        ]
        chance.shuffle(specs)
        for event in world.decide(DeclareTasks(tasks=tuple(specs)), world.by("operator")):
            world.record([event], "operator")
            there = world.state.plan.by_room[world.state.rooms.by_name["main"].id].tasks
            graph = {name: set(task.depends_on) for name, task in there.items()}
            while free := [name for name, wanted in graph.items() if not wanted & graph.keys()]:
                for name in free:
                    del graph[name]
            assert not graph, "a cycle between the rows of one request"


@pytest.mark.bad_input("BI-49")
@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"task": ""}, "bad_name", "task id"),
        ({"task": "-x"}, "bad_name", "task id"),
        ({"task": "T", "title": " "}, "bad_request", "title"),
        ({"task": "T", "title": "x" * 257}, "bad_request", "256"),
        ({"task": "T", "description": "x" * 8193}, "bad_request", "8192"),
        ({"task": "T", "priority": "asap"}, "bad_request", "low, normal, high, urgent"),
        ({"task": "T", "labels": ("No!",)}, "bad_name", "label"),
        ({"task": "T", "labels": tuple(f"l{n}" for n in range(17))}, "too_large", "16"),
        ({"task": "T", "suggested_owner": "no one"}, "bad_name", "agent name"),
        ({"task": "T", "depends_on": ("a b",)}, "bad_name", "task id"),
        ({"task": "T", "depends_on": ("T",)}, "cycle", "itself"),
        ({"task": "T", "depends_on": tuple(f"D{n}" for n in range(100_000))}, "too_large", "1000"),
        ({"task": "T", "room": "nowhere"}, "not_found", "nowhere"),
    ],
)
def test_a_declaration_out_of_bounds_is_refused(
    world: PlanWorld, fields: dict[str, object], code: str, words: str
) -> None:
    refused = world.refusal(DeclareTask(**fields), "ada")  # type: ignore[arg-type]  # wrong on purpose
    assert refused.code == code
    assert words in refused.detail


@pytest.mark.bad_input("BI-49")
def test_a_plan_that_is_full_says_so() -> None:
    world = PlanWorld(Limits(tasks_per_room_max=3, dependents_max=2, plans_bytes_max=64 * 1024))
    world.declare("A", "X")
    world.declare("B", "X")
    refused = world.refusal(DeclareTask(task="C", depends_on=("X",)), "ada")
    assert (refused.code, refused.facts["limit"], refused.facts["task"]) == ("limit", "dependents_max", "X")
    world.declare("C")
    assert world.refusal(DeclareTask(task="D"), "ada").facts["limit"] == "tasks_per_room_max"
    long = tuple(TaskSpec(task=task, description="x" * 8_000, depends_on=("Y" * 128,)) for task in "ABC")
    assert [event for event in world.events(DeclareTasks(tasks=long[:2]), "ada") if isinstance(event, TaskDeclared)]
    tight = PlanWorld(Limits(plans_bytes_max=16_000))
    assert tight.refusal(DeclareTasks(tasks=long), "ada").facts["limit"] == "plans_bytes_max"
    nothing = tight.refusal(DeclareTasks(tasks=()), "ada")
    assert (nothing.code, nothing.facts["path"]) == ("bad_request", "$.body.tasks")


WAYS = {"open": (), "review": ("in_progress", "review")}
"""The steps to a status; to all others it is one."""
LEGAL = """
    open: in_progress blocked waiting_for_input done failed cancelled
    in_progress: open blocked waiting_for_input review done failed cancelled
    blocked: open in_progress waiting_for_input failed cancelled
    waiting_for_input: open in_progress blocked failed cancelled
    review: open in_progress done failed cancelled
    done: open
    failed: open
    cancelled: open
"""
STEPS = {status: to.split() for status, to in (line.strip().split(":") for line in LEGAL.strip().splitlines())}


@pytest.mark.parametrize("to", STEPS)
@pytest.mark.parametrize("status", STEPS)
def test_each_step_is_taken_or_refused_as_the_table_says(world: PlanWorld, status: str, to: str) -> None:
    world.declare("T")
    for step in WAYS.get(status, (status,)):
        world.move("T", step)
    if to in STEPS[status] or to == status:
        world.move("T", to)
        assert world.show("T").status == to
    else:
        refused = world.refusal(UpdateTask(task="T", status=to), "ada")
        assert (refused.code, refused.facts["legal"]) == ("illegal_transition", STEPS[status])


@pytest.mark.bad_input("BI-50")
def test_an_unknown_status_and_a_step_that_is_not_legal_name_what_is(world: PlanWorld) -> None:
    world.declare("T")
    unknown = world.refusal(UpdateTask(task="T", status="finished"), "ada")
    assert unknown.code == "bad_request"
    assert "waiting_for_input" in str(unknown.facts["allowed"])
    world.move("T", "done")
    refused = world.refusal(UpdateTask(task="T", status="review"), "ada")
    assert (refused.code, refused.facts["status"], refused.facts["legal"]) == ("illegal_transition", "done", ["open"])
    assert world.refusal(UpdateTask(task="none", status="done"), "ada").code == "not_found"
    assert world.events(UpdateTask(task="T", status="done"), "bob") == [], "it is so already"


def test_finishing_frees_the_scope_for_who_waits(world: PlanWorld) -> None:
    world.declare("T")
    epoch = world.take("ada", "T", "src/**")
    world.wait("bob", "U", "src/x.py")
    kinds = [type(event) for event in world.move("T", "done", epoch=epoch)]
    assert kinds == [TaskMoved, LeaseReleased, LeaseGranted]
    assert world.held == [("bob", "U")]


@pytest.mark.bad_input("BI-50")
def test_under_a_lease_only_its_holder_moves_a_task(world: PlanWorld) -> None:
    world.declare("T")
    epoch = world.take("ada", "T")
    refused = world.refusal(UpdateTask(task="T", status="done"), "bob")
    assert (refused.code, refused.facts["owner"], refused.facts["epoch"]) == ("not_holder", "ada", epoch)
    assert world.refusal(UpdateTask(task="T", status="done", epoch=epoch), "bob").code == "stale_epoch"
    assert world.refusal(UpdateTask(task="T", status="done", epoch=epoch - 1), "ada").code == "stale_epoch"
    world.release("ada", "T")
    assert world.refusal(UpdateTask(task="T", status="done", epoch=epoch), "ada").code == "stale_epoch"


def test_an_operator_takes_the_leases_of_what_it_ends(world: PlanWorld) -> None:
    world.declare("T")
    world.take("ada", "T", "a", mode="shared")
    world.take("bob", "T", "a", mode="shared")
    ended = [event for event in world.move("T", "cancelled", "operator") if isinstance(event, LeaseRevoked)]
    assert [(event.owner, event.reason) for event in ended] == [("ada", "task_cancelled"), ("bob", "task_cancelled")]


def test_what_waits_is_named_with_its_status(world: PlanWorld) -> None:
    world.declare("T", "D", "E", "F", "G")
    for task in "EFG":
        world.declare(task)
    world.move("E", "failed")
    world.move("F", "done")
    shown = world.show("T")
    assert (shown.ready, shown.unmet, shown.waits_for) == (False, 3, {"D": "undeclared", "E": "failed", "G": "open"})


def test_the_largest_task_fits_into_a_frame(world: PlanWorld) -> None:
    most, name = Limits(), "a" * 64 + "/" + "a" * 63
    world.join(name[:64], name)
    needs = [f"{number:04}{'D' * 124}" for number in range(most.dependencies_max)]
    labels = tuple(f"{number:02}{'l' * 62}" for number in range(most.labels_max))
    texts = {"title": "t" + "\x01" * (most.title_chars_max - 1), "description": "\x01" * most.description_chars_max}
    task = "T" * 128
    world.declare(task, *needs, **texts, labels=labels, suggested_owner=name)
    for _ in range(HOLDERS_SHOWN + 1):
        world.take(name, task, mode="shared", reentrant=False)
    world.do(NoteProgress(task=task, text="p" + "\x01" * (most.progress_chars_max - 1)), name)
    shown = world.show(task)
    assert (len(shown.depends_on), len(shown.holders)) == (most.dependencies_max, HOLDERS_SHOWN)
    assert 0.75 < len(encode_reply(1, 1, shown)) / (256 * 1024) <= 1


def test_many_dependents_become_ready_at_once_in_events_that_fit_a_frame(world: PlanWorld) -> None:
    world.declare("root")
    for start in (0, 500, 1_000):
        specs = tuple(TaskSpec(task=f"T{n:04}", depends_on=("root",)) for n in range(start, min(start + 500, 1_200)))
        world.settle(world.do(DeclareTasks(tasks=specs), "ada")[0])
    said = [event for event in world.move("root", "done") if isinstance(event, TasksReady)]
    assert [len(event.tasks) for event in said] == [500, 500, 200]
    assert {name for event in said for name in event.tasks} == {f"T{n:04}" for n in range(1_200)}


def test_an_opening_is_announced_once_and_again_when_it_had_closed(world: PlanWorld) -> None:
    def said(recorded: list[Recorded]) -> list[str]:
        return [name for item in recorded if isinstance(item.event, TasksReady) for name in item.event.tasks]

    def moved(status: str) -> list[str]:
        return said(world.settle(world.do(UpdateTask(task="D", status=status), "ada")[0]))

    assert said(world.settle(world.do(DeclareTask(task="D"), "ada")[0])) == ["D"]
    assert said(world.settle(world.do(DeclareTask(task="T", depends_on=("D",)), "ada")[0])) == []
    assert moved("done") == ["T"]
    assert said(world.settle(world.do(DeclareTask(task="T", title="the same opening"), "ada")[0])) == []
    assert moved("open") == ["D"]
    assert not world.show("T").ready
    assert moved("done") == ["T"], "it had closed in between"


@pytest.mark.bad_input("BI-51")
def test_progress_that_says_nothing_too_much_or_of_nothing_is_refused(world: PlanWorld) -> None:
    world.declare("T")
    epoch = world.take("ada", "T")
    for fields, code in (
        ({"task": "T", "text": " \n"}, "bad_request"),
        ({"task": "T", "text": "x" * 4_097}, "bad_request"),
        ({"task": "T", "text": "x", "kind": "gossip"}, "bad_request"),
        ({"task": "T", "text": "x", "artefacts": (Artefact(path="p"),) * 33}, "too_large"),
        ({"task": "never", "text": "x"}, "not_found"),
        ({"task": "T", "text": "x", "epoch": epoch - 1}, "stale_epoch"),
        ({"task": "never", "text": "x", "epoch": 7}, "stale_epoch"),
    ):
        assert world.refusal(NoteProgress(**fields), "ada").code == code, fields
    assert world.refusal(NoteProgress(task="T", text="x", epoch=epoch), "bob").code == "stale_epoch"


def test_a_leased_task_has_a_ledger_also_outside_the_plan(world: PlanWorld) -> None:
    epoch = world.take("ada", "loose")
    line = world.reply(ProgressLine, NoteProgress(task="loose", text="on it", kind="finding"), "ada")
    assert (line.epoch, line.by, line.kind) == (epoch, "ada", "finding")
    assert world.reply(ProgressLine, NoteProgress(task="loose", text="I saw"), "bob").epoch is None


@pytest.mark.bad_input("BI-51")
def test_a_task_that_is_needed_or_goes_on_stays_in_the_plan(world: PlanWorld) -> None:
    world.declare("T")
    world.declare("U", "T")
    assert "it is open" in world.refusal(RemoveTask(task="T"), "ada").detail
    world.move("T", "done")
    needed = world.refusal(RemoveTask(task="T"), "ada")
    assert (needed.code, needed.facts["dependents"]) == ("not_empty", ["U"])
    assert world.refusal(RemoveTask(task="T"), "bob").code == "not_permitted"
    world.move("U", "cancelled")
    world.take("bob", "T")
    assert "bob holds it" in world.refusal(RemoveTask(task="T"), "ada").detail
    world.release("bob", "T")
    assert world.refusal(RemoveTask(task="T", if_version=1), "ada").code == "version_conflict"
    world.do(RemoveTask(task="T"), "ada")
    shown = world.show("U")
    assert (shown.waits_for, shown.unmet) == ({"T": "undeclared"}, 1)


def test_a_list_is_narrowed_by_status_label_owner_and_readiness(world: PlanWorld) -> None:
    world.declare("A", labels=("ui",), suggested_owner="bob")
    world.declare("B", "A", labels=("ui", "api"))
    world.declare("C", suggested_owner="bob")
    world.settle(world.do(UpdateTask(task="C", status="in_progress"), "ada")[0])
    world.take("ada", "C")

    def ids(**fields: object) -> list[str]:
        page = world.look(PlanPage, ListTasks(**fields), "ada")  # type: ignore[arg-type]  # the fields of the caller
        return [task.task for task in page.tasks]

    assert ids() == ["A", "B", "C"]
    assert ids(status="in_progress") == ["C"]
    assert (ids(label="ui"), ids(label="api")) == (["A", "B"], ["B"])
    assert (ids(owner="bob"), ids(owner="ada")) == (["A"], ["C"]), "who holds it, else who is suggested"
    assert (ids(ready=True), ids(ready=False)) == (["A"], ["B", "C"])
    assert ids(limit=2) == ["A", "B"]
    assert ids(after="B") == ["C"]


def test_a_repeat_is_answered_as_the_first_time(world: PlanWorld) -> None:
    first = world.reply(TaskInfo, DeclareTask(task="T", title="x"), "ada", key="k1")
    moved = world.reply(TaskInfo, UpdateTask(task="T", status="done"), "ada", key="k2")
    world.reply(TaskInfo, UpdateTask(task="T", status="open"), "ada", key="k3")
    again = world.reply(TaskInfo, UpdateTask(task="T", status="done"), "ada", key="k2")
    assert (again.status, again.cursor, again.title) == (moved.status, moved.cursor, "x")
    assert world.reply(TaskInfo, DeclareTask(task="T", title="x"), "ada", key="k1").cursor == first.cursor


def test_a_repeat_about_what_moved_on_or_is_gone_tells_what_its_event_says(world: PlanWorld) -> None:
    fields: dict[str, Any] = {"title": "x", "priority": "high", "labels": ("ui",), "description": "all of it"}
    said = DeclareTask(task="T", suggested_owner="bob", depends_on=("D",), **fields)
    first = world.reply(TaskInfo, said, "ada", key="k1")
    world.at_ms += 1_000
    moved = world.reply(TaskInfo, UpdateTask(task="T", status="cancelled"), "bob", key="k2")
    world.at_ms += 1_000
    world.reply(TaskInfo, UpdateTask(task="T", status="open"), "ada")
    again = world.reply(TaskInfo, UpdateTask(task="T", status="cancelled"), "bob", key="k2")
    left_out = {"cursor": None, "progress": 0, "progress_at_ms": None}
    assert msgspec.structs.replace(again, **left_out) == msgspec.structs.replace(moved, **left_out)
    world.reply(TaskInfo, UpdateTask(task="T", status="cancelled"), "ada")
    world.do(RemoveTask(task="T"), "ada")
    again = world.reply(TaskInfo, said, "ada", key="k1")
    assert {name: getattr(again, name) for name in fields} == fields
    assert (again.suggested_owner, again.depends_on, again.declared_by) == ("bob", ("D",), "ada")
    assert (again.status, again.version, again.declared_at_ms) == ("open", first.version, first.declared_at_ms)
    again = world.reply(TaskInfo, UpdateTask(task="T", status="cancelled"), "bob", key="k2")
    assert (again.title, again.status, again.moved_at_ms) == ("x", "cancelled", moved.moved_at_ms)
    assert (again.declared_by, again.version) == ("", 0), "who moved it is not who declared it"
