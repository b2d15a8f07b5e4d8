"""How a plan looks to people: sections, columns, tree, and one line for each change."""

from typing import Any

import pytest

from synapse.faces.cli.plan_view import ROWS, View, change_line, columns, cut, groups_of, sections, tree, wide

NOW_MS = 1_700_000_000_000


def task(name: str, status: str = "open", **more: Any) -> dict[str, Any]:
    """A task as `task.list` tells it."""
    unmet = len(more.get("waits_for", ()))
    return {
        "task": name,
        "title": name,
        "status": status,
        "ready": status == "open" and not unmet,
        "priority": "normal",
        "depends_on": list(more.get("waits_for", ())),
        "suggested_owner": None,
        "moved_at_ms": NOW_MS - 60_000,
        "progress_at_ms": None,
        "unmet": unmet,
        **more,
    }


def held(owner: str, **more: Any) -> list[dict[str, Any]]:
    holder = {"owner": owner, "epoch": 5, "expires_at_ms": NOW_MS + 90_000, "idle_ms": 1000, "stalled": False}
    return [{**holder, **more}]


def plan(*tasks: dict[str, Any]) -> dict[str, Any]:
    return {"seq": 9, "room": "main", "tasks": list(tasks)}


def view(**more: Any) -> View:
    return View(now_ms=NOW_MS, **more)


EVERYTHING = plan(
    task("T1", "in_progress", title="Parse", holders=held("ada"), progress_at_ms=NOW_MS - 30_000, dependents=2),
    task("T2", waits_for={"T1": "in_progress", "T9": "undeclared"}),
    task("T3", "blocked", waits_for={"T6": "failed"}),
    task("T4", suggested_owner="bob", labels=["docs"]),
    task("T5", "done"),
    task("T6", "failed"),
    task("T7", "waiting_for_input", holders=held("cleo", expires_at_ms=None, stalled=True, idle_ms=3_600_000)),
    task("T8", "review"),
)


def test_sections_come_in_the_order_of_interest_and_ends_are_counted() -> None:
    assert sections(EVERYTHING, view()).splitlines() == [
        "main: 8 tasks: 1 ready, 1 in progress, 1 in review, 1 waiting for a person, 1 blocked, "
        "1 waiting for other tasks, 1 done, 1 failed",
        "",
        "ready",
        "  T4  for bob  #docs",
        "",
        "in progress",
        "  T1  Parse  ada (epoch 5, 90 s left)  progress 30 s ago  needed by 2",
        "",
        "in review",
        "  T8  since 60 s",
        "",
        "waiting for a person",
        "  T7  cleo (epoch 5, parked) stalled, idle 60 min 0 s  since 60 s",
        "",
        "blocked",
        "  T3  waits for T6 (failed)  since 60 s",
        "",
        "waiting for other tasks",
        "  T2  waits for T1 (in_progress), T9 (undeclared)",
    ]
    assert sections(EVERYTHING, view(has_ended=True)).splitlines()[-5:] == [
        "done",
        "  T5  since 60 s",
        "",
        "failed",
        "  T6  since 60 s",
    ]


def test_the_most_urgent_and_then_the_oldest_comes_first() -> None:
    tasks = [
        task("a", priority="low"),
        task("b", moved_at_ms=NOW_MS),
        task("c", moved_at_ms=NOW_MS - 9),
        task("d", priority="urgent"),
    ]
    assert [found["task"] for found in groups_of(tasks)["ready"]] == ["d", "c", "b", "a"]


def test_a_long_plan_is_cut_and_says_how_much_is_left() -> None:
    long = plan(*(task(f"t{n:03}") for n in range(100)), task("w", "review"))
    assert f"  and {100 - ROWS} more" in sections(long, view()).splitlines()
    assert "more" not in sections(long, view(has_ended=True))
    for height in (10, 24, 50):
        lines = sections(long, view(height=height)).splitlines()
        assert len(lines) <= max(height, 11)
        assert "  w  since 60 s" in lines
    assert len(sections(long, view(height=50)).splitlines()) >= 48, "the height is used"
    for draw in (columns, tree):
        assert len(draw(long, view(height=24)).splitlines()) <= 24
        assert " more" in draw(long, view())
        assert " more" not in draw(long, view(has_ended=True))


@pytest.mark.parametrize("draw", [sections, columns, tree])
@pytest.mark.parametrize("width", [20, 40, 80])
def test_no_line_is_wider_than_the_terminal(draw: Any, width: int) -> None:
    wordy = plan(*EVERYTHING["tasks"], task("X" * 128, title="漢字" * 100), task("y", title="é" * 200))
    for line in draw(wordy, view(width=width)).splitlines():
        assert wide(line) <= width, line


@pytest.mark.parametrize("draw", [sections, columns, tree])
def test_there_is_colour_only_where_it_is_wanted_and_others_make_none(draw: Any) -> None:
    evil = plan(task("t", title="\x1b[31mred\nsynapse: forged\u202e"), task("u", "blocked"))
    assert "\x1b" not in draw(evil, view())
    assert "\u202e" not in draw(evil, view())
    assert "\nsynapse" not in draw(evil, view())
    painted = draw(evil, view(is_coloured=True))
    assert "\x1b[1m" in painted
    assert "\x1b[31mred" not in painted


@pytest.mark.parametrize("draw", [sections, columns, tree])
def test_an_empty_plan_says_how_to_begin(draw: Any) -> None:
    assert draw(plan(), view()) == "main: no tasks; synapse task declare TASK --title '…' makes one"


def test_a_tree_has_each_task_once_under_what_needs_it() -> None:
    found = plan(
        task("all", waits_for={"web": "open", "api": "open"}),
        task("api", waits_for={"db": "in_progress"}),
        task("db", "in_progress", holders=held("ada")),
        task("web", waits_for={"api": "open", "gone": "undeclared"}),
        task("alone", title="By itself"),
    )
    assert tree(found, view()).splitlines()[2:] == [
        "all  open  also needs api",
        "  web  open",
        "    api  open",
        "      db  in progress  ada (epoch 5, 90 s left)",
        "    gone  undeclared",
        "alone  ready  By itself",
    ]


def test_a_tree_of_a_long_chain_is_drawn() -> None:
    chain = [task(f"t{n:05}", waits_for={f"t{n + 1:05}": "open"}) for n in range(5000)]
    lines = tree(plan(*chain), view(has_ended=True)).splitlines()
    assert len(lines) == 5003
    assert max(map(len, lines)) < 80


def test_columns_stand_side_by_side() -> None:
    lines = columns(EVERYTHING, view(width=120)).splitlines()
    assert lines[2].split("  ")[0] == "ready (1)"
    assert lines[3].startswith("T4 ")
    assert "T1 @ada Parse" in lines[3]
    assert "done" not in lines[2]
    assert "done (1)" in columns(EVERYTHING, view(width=200, has_ended=True))
    assert columns(plan(task("t", "done")), view()) == "main: 1 task: 1 done"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"change": "moved", "tasks": ["t"], "previous": "open", "status": "in_progress", "reason": "claimed"}
            | {"owner": "ada", "epoch": 7, "by": "hub"},
            "moved  t  open -> in_progress  claimed ada epoch 7  by hub",
        ),
        (
            {"change": "moved", "tasks": ["t"], "previous": "review", "status": "done", "reason": "asked", "by": "bob"}
            | {"text": "all\ngreen\x1b"},
            "moved  t  review -> done  by bob  all\\ngreen\\x1b",
        ),
        ({"change": "ready", "tasks": ["a", "b"], "by": "hub"}, "ready  a,b  by hub"),
        (
            {"change": "noted", "tasks": ["t"], "kind": "finding", "text": "x", "by": "ada"},
            "noted  t  finding  by ada  x",
        ),
        (
            {"change": "declared", "tasks": ["t"], "title": "T", "depends_on": ["a", "b"], "by": "ada"},
            "declared  t  T  depends on a,b  by ada",
        ),
        ({"change": "declared", "tasks": ["t"], "title": "T", "by": "ada"}, "declared  t  T  by ada"),
        ({"change": "removed", "tasks": ["t"], "by": "ada"}, "removed  t  by ada"),
    ],
)
def test_a_change_is_one_line(change: dict[str, Any], line: str) -> None:
    assert change_line({**change, "at_ms": None}) == f"–  {line}"


def test_texts_are_cut_by_the_places_they_take() -> None:
    assert [wide(text) for text in ("abc", "漢字", "é")] == [3, 4, 1]
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "ab…"
    assert cut("漢字漢", 4) == "漢…"
    assert cut("", 0) == ""
