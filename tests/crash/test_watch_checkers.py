"""The checkers of the supervisor and of digests find planted lies: an honest story passes; each lie in it is named."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import pytest
from tests.crash import digest_checker, watch_checker
from tests.crash.checker import Finding
from tests.crash.digest_checker import USAGE, Told
from tests.crash.history import Frame
from tests.crash.killing import ROOT
from tests.crash.rows import Row
from tests.crash.watch_fold import PREFIX, SUPERVISOR, Watched
from tests.crash.watch_story import Watch, honest

Check: TypeAlias = Callable[[Watch], list[Finding]]
Lie: TypeAlias = Callable[[Watch], None]
LIES: dict[tuple[Check, str], list[Lie]] = {}


def watch(story: Watch) -> list[Finding]:
    """What the checker of the supervisor finds."""
    return watch_checker.check_watch(story.rows)


def digests(story: Watch) -> list[Finding]:
    """What the checker of digests finds."""
    return digest_checker.check_digests(story.told, story.rows)


def breaks(check: Check, rule: str) -> Callable[[Lie], Lie]:
    """The rule of a checker that must name this lie."""

    def note(lie: Lie) -> Lie:
        LIES.setdefault((check, rule), []).append(lie)
        return lie

    return note


def records(story: Watch, cause: str, **value: object) -> list[int]:
    """Where what was written down of causes stands."""

    def fits(row: Row) -> bool:
        it = row.body["value"] if row.body["key"].startswith(PREFIX) else {}
        return it.get("cause") == cause and all(it[name] == wanted for name, wanted in value.items())

    return story.places("value.put", fits)


def said(story: Watch, cause: str, stage: str = "told", to: str = "") -> list[int]:
    """Where what the supervisor said of causes stands, to the room or to somebody."""

    def fits(row: Row) -> bool:
        is_to = not to or row.body["to"][0][0] == to
        body = row.body["body"]
        return row.actor == SUPERVISOR and is_to and (body["type"], body["stage"]) == (f"task.{cause}", stage)

    return story.places("message.sent" if to else "message.posted", fits)


def value(story: Watch, place: int, **fields: object) -> None:
    """Something else was written down."""
    story.change(place, value={**story.rows[place].body["value"], **fields})


def silence(story: Watch, *places: int) -> None:
    for place in places:
        story.lose(place)


def put_back(story: Watch) -> list[int]:
    return story.places("task.moved", lambda row: row.actor == SUPERVISOR)


def moves(story: Watch, task: str, status: str) -> list[int]:
    return story.places("task.moved", lambda row: (row.body["task"], row.body["status"]) == (task, status))


# The supervisor.


@breaks(watch, "told twice")
def a_post_is_there_twice(story: Watch) -> None:
    row = story.rows[said(story, "orphaned")[0]]
    story.add(row.type, row.actor, row.body)


@breaks(watch, "told twice")
def a_letter_is_there_twice(story: Watch) -> None:
    row = story.rows[said(story, "stalled", "escalated", "lead-2")[0]]
    story.add(row.type, row.actor, row.body)


@breaks(watch, "told twice")
def a_stall_without_an_end_is_told_again(story: Watch) -> None:
    story.lose(story.places("task.noted")[0])


@breaks(watch, "told twice")
def one_orphan_counts_as_two(story: Watch) -> None:
    first, *_, last = records(story, "orphaned", done=False)
    value(story, last, mark=story.rows[first].body["value"]["mark"])


@breaks(watch, "no cause")
def a_stall_of_somebody_else(story: Watch) -> None:
    place = said(story, "stalled")[0]
    story.change(place, body={**story.rows[place].body["body"], "owner": "holder-2"})


@breaks(watch, "no cause")
def a_stall_in_the_middle_of_progress(story: Watch) -> None:
    first = said(story, "stalled")[0]
    lease = story.rows[first].body["body"]["epoch"]
    talk = [
        place for place in story.places("message.posted") if place < first and story.rows[place].actor != SUPERVISOR
    ]
    story.rows[talk[-2]] = story.rows[talk[-2]]._replace(type="lease.checkpointed", body={"epoch": lease})


@breaks(watch, "no cause")
def people_are_called_about_a_stall_too_early(story: Watch) -> None:
    for place in records(story, "stalled", stage="escalated"):
        early_ms = story.rows[place].body["value"]["at_ms"] - 1_500
        value(story, place, at_ms=early_ms)


@breaks(watch, "no cause")
def a_stall_of_a_lease_that_is_over(story: Watch) -> None:
    first = said(story, "stalled")[0]
    lease = story.rows[first].body["body"]["epoch"]
    talk = [
        place for place in story.places("message.posted") if place < first and story.rows[place].actor != SUPERVISOR
    ]
    story.rows[talk[-2]] = story.rows[talk[-2]]._replace(type="lease.released", body={"epoch": lease})


@breaks(watch, "no cause")
def an_orphan_that_was_none(story: Watch) -> None:
    story.change(moves(story, "S", "in_progress")[0], status="review")


@breaks(watch, "no cause")
def an_orphan_that_somebody_held(story: Watch) -> None:
    place = moves(story, "S", "in_progress")[0] + 1
    ask = {"task": "S", "owner": "holder-1"}
    story.rows[place] = story.rows[place]._replace(type="lease.granted", body={"ask": ask})


@breaks(watch, "no cause")
def an_orphan_that_was_put_back_too_early(story: Watch) -> None:
    for place in records(story, "orphaned", tries=1):
        value(story, place, at_ms=story.rows[place].body["value"]["mark"] + 500)


@breaks(watch, "no cause")
def a_blocked_task_that_still_waits(story: Watch) -> None:
    story.change(moves(story, "A", "done")[0], status="failed")


@breaks(watch, "no cause")
def somebody_is_told_who_cannot_move_it_on(story: Watch) -> None:
    place = said(story, "unblocked", to="returner-1")[0]
    story.change(place, to=[["caller-1", 1, 1]])


@breaks(watch, "passed over")
def an_orphan_is_not_seen(story: Watch) -> None:
    silence(story, *records(story, "orphaned"), *said(story, "orphaned"), *put_back(story))
    silence(story, *(place for lead in ("lead-1", "lead-2") for place in said(story, "orphaned", "escalated", lead)))
    for place in moves(story, "S", "in_progress")[1:]:
        story.lose(place)
    for place in records(story, "stalled", done=False)[2:]:  # somebody looks twice before the task is done
        value(story, place, at_ms=story.rows[place].at_ms)
    _look_twice(story, moves(story, "S", "done")[0])


@breaks(watch, "passed over")
def a_blocked_task_is_not_seen(story: Watch) -> None:
    silence(story, *records(story, "unblocked"), *said(story, "unblocked"), *said(story, "unblocked", to="returner-1"))


@breaks(watch, "passed over")
def a_stall_is_not_seen(story: Watch) -> None:
    epoch = story.rows[story.places("lease.granted")[0]].seq
    silence(story, *records(story, "stalled", mark=epoch), *said(story, "stalled"))
    silence(story, *(place for lead in ("lead-1", "lead-2") for place in said(story, "stalled", "escalated", lead)))
    _look_twice(story, story.places("lease.released", lambda row: row.body["task"] == "H")[0])


def _look_twice(story: Watch, before: int) -> None:
    """The supervisor found something else, twice, before that place."""
    talk = [place for place in story.places("message.posted") if place < before][-8:-1:6]
    for number, place in enumerate(talk):
        row = story.rows[place]
        found = {"cause": "orphaned", "task": f"X{number}", "mark": 1, "since_at_ms": 1, "stage": "told", "done": False}
        found |= {"tries": 1, "at_ms": row.at_ms, "by": SUPERVISOR, "who": None}
        body = {"key": f"{PREFIX}{number}", "value": found}
        story.rows[place] = row._replace(actor=SUPERVISOR, type="value.put", body=body)


@breaks(watch, "passed over")
def people_are_called_too_late(story: Watch) -> None:
    epoch = story.rows[story.places("lease.granted")[0]].seq
    silence(story, *records(story, "stalled", mark=epoch, stage="escalated"))
    _look_twice(story, story.places("task.noted")[0])


@breaks(watch, "never told")
def nobody_is_told_of_what_stands_at_the_end(story: Watch) -> None:
    last = story.rows[story.places("lease.granted")[-1]].seq
    silence(story, *records(story, "stalled", mark=last))


@breaks(watch, "never told")
def people_are_not_told_of_what_stands_at_the_end(story: Watch) -> None:
    last = story.rows[story.places("lease.granted")[-1]].seq
    silence(story, *records(story, "stalled", mark=last, stage="escalated"))


@breaks(watch, "never told")
def an_orphan_is_left(story: Watch) -> None:
    story.lose(moves(story, "S", "done")[0])
    silence(story, *records(story, "orphaned", stage="escalated"))


@breaks(watch, "never told")
def a_blocked_task_is_left(story: Watch) -> None:
    silence(story, *records(story, "unblocked"))


@breaks(watch, "half said")
def a_post_is_not_there(story: Watch) -> None:
    story.lose(said(story, "stalled")[0])


@breaks(watch, "half said")
def who_can_move_it_on_is_not_told(story: Watch) -> None:
    story.lose(said(story, "unblocked", to="returner-1")[0])


@breaks(watch, "half said")
def said_and_not_written_down(story: Watch) -> None:
    silence(story, *records(story, "unblocked", done=False))


@breaks(watch, "half said")
def begun_and_never_ended(story: Watch) -> None:
    silence(story, *records(story, "unblocked", done=True))


@breaks(watch, "wrong tries")
def a_try_is_left_out(story: Watch) -> None:
    for place in records(story, "orphaned", tries=2):
        value(story, place, tries=3)


@breaks(watch, "wrong tries")
def people_are_called_one_try_too_early(story: Watch) -> None:
    for place in records(story, "orphaned", tries=2):
        value(story, place, stage="escalated")


@breaks(watch, "wrong tries")
def a_task_is_put_back_that_was_no_orphan(story: Watch) -> None:
    story.add("task.moved", SUPERVISOR, {"task": "A", "previous": "done", "status": "open"})


@breaks(watch, "wrong tries")
def a_task_is_put_back_when_people_were_called(story: Watch) -> None:
    silence(story, *moves(story, "S", "done"))
    story.add("task.moved", SUPERVISOR, {"task": "S", "previous": "in_progress", "status": "open"})


@breaks(watch, "nobody called")
def one_of_two_people_has_no_letter(story: Watch) -> None:
    story.lose(said(story, "orphaned", "escalated", "lead-2")[0])


@breaks(watch, "nobody called")
def a_letter_died(story: Watch) -> None:
    row = story.rows[said(story, "stalled", "escalated", "lead-2")[0]]
    story.add("message.died", "hub", {"agent": row.body["to"][0][1], "message": row.seq})


# Digests.


def one(story: Watch, *, budget: int | None = None, nth: int = -1) -> Told:
    """One of the digests: by a request, or by the command under a budget."""
    return [told for told in story.told if told.budget == budget and told.code == 0][nth]


def swap(story: Watch, old: Told, **fields: object) -> None:
    """A digest is another one."""
    story.told[story.told.index(old)] = replace(old, **fields)  # type: ignore[arg-type]  # fields of Told


def line(told: Told, of: str) -> Frame:
    return next(it for it in told.items("rest") if it["of"] == of)


@breaks(digests, "wrong list")
def a_message_is_left_out(story: Watch) -> None:
    del one(story).items("asked")[1]


@breaks(digests, "wrong list")
def the_urgent_one_is_not_the_first(story: Watch) -> None:
    items = one(story).items("asked")
    items[0], items[1] = items[1], items[0]


@breaks(digests, "wrong list")
def what_was_acked_is_told(story: Watch) -> None:
    story.lose(story.places("messages.acked", lambda row: row.actor == "returner-1")[0])


@breaks(digests, "wrong list")
def a_lease_is_not_told(story: Watch) -> None:
    del one(story).items("mine")[0]


@breaks(digests, "wrong list")
def what_blocks_is_not_told(story: Watch) -> None:
    del one(story).items("blocked")[0]


@breaks(digests, "wrong list")
def a_task_waits_for_something_else(story: Watch) -> None:
    next(it for it in one(story).items("blocked") if it["needs"])["needs"][0]["task"] = "Z"


@breaks(digests, "wrong list")
def a_command_leaves_something_out_of_the_middle(story: Watch) -> None:
    del one(story, budget=4_000, nth=0).items("asked")[0]


@breaks(digests, "wrong count")
def more_is_asked_than_there_is(story: Watch) -> None:
    one(story).body["asked_total"] += 1


@breaks(digests, "wrong count")
def an_arrival_is_not_counted(story: Watch) -> None:
    counts = line(one(story), "inbox")
    counts |= {"counts": {"messages": 99}, "total": 99}


@breaks(digests, "wrong count")
def a_step_in_the_plan_is_not_counted(story: Watch) -> None:
    told = next(
        it for it in story.told if it.budget is None and any(found["of"] == "plan" for found in it.items("rest"))
    )
    told.items("rest").remove(line(told, "plan"))


@breaks(digests, "wrong count")
def a_task_is_counted_twice(story: Watch) -> None:
    counts = line(one(story), "tasks")
    counts["total"] += 1


@breaks(digests, "wrong count")
def news_are_denied(story: Watch) -> None:
    one(story).body["new"] = False


@breaks(digests, "wrong count")
def what_is_new_is_called_old(story: Watch) -> None:
    next(it for it in one(story).items("asked") if it.get("new"))["new"] = False


@breaks(digests, "over budget")
def a_text_is_too_long(story: Watch) -> None:
    told = one(story, budget=300)
    told.body["text"] += "x" * 1_200
    told.body["tokens"] += 300


@breaks(digests, "over budget")
def a_text_says_that_it_is_shorter(story: Watch) -> None:
    one(story, budget=300).body["tokens"] -= 1


@breaks(digests, "over budget")
def a_budget_is_refused_that_is_enough(story: Watch) -> None:
    told = next(it for it in story.told if it.code == USAGE)
    swap(story, told, budget=200)


@breaks(digests, "wasted")
def counts_are_left_out_for_nothing(story: Watch) -> None:
    one(story, budget=4_000).items("rest").pop()


@breaks(digests, "not in the text")
def a_message_is_shown_under_another_id(story: Watch) -> None:
    told = one(story, budget=4_000)
    told.body["text"] = told.body["text"].replace(told.items("asked")[0]["id"], "m1".ljust(17, "0"))


@breaks(digests, "not in the text")
def the_cursor_is_not_there(story: Watch) -> None:
    told = one(story, budget=4_000)
    told.body["text"] = told.body["text"].replace(told.body["cursor"], "x" * len(told.body["cursor"]))


@breaks(digests, "cursor")
def it_goes_on_from_nowhere(story: Watch) -> None:
    told = one(story)
    assert told.since is not None
    swap(story, told, since=f"{told.since[:-1]}{(int(told.since[-1]) + 1) % 10}")


@breaks(digests, "cursor")
def its_cursor_goes_back(story: Watch) -> None:
    told = one(story)
    told.body["cursor"] = told.since


@breaks(digests, "cursor")
def it_is_behind_what_was_told_before(story: Watch) -> None:
    first, last = one(story, nth=0), one(story)
    swap(story, first, asked_ns=last.told_ns + 1, told_ns=last.told_ns + 2)


@breaks(digests, "not covered")
def a_digest_in_the_middle_was_never_told(story: Watch) -> None:
    story.told.remove(one(story, nth=2))


@breaks(digests, "not covered")
def the_last_digests_were_never_told(story: Watch) -> None:
    last = max(row.seq for row in story.rows if row.type == "message.sent" and row.body["to"][0][0] == "returner-1")
    story.told[:] = [told for told in story.told if told.code == 0 and told.seq < last]


# The tests.

CHECKERS: dict[Check, dict[str, str]] = {watch: watch_checker.RULES, digests: digest_checker.RULES}
CASES = [(check, rule, lie) for (check, rule), lies in LIES.items() for lie in lies]


def test_an_honest_story_has_no_finding() -> None:
    story = honest()
    assert watch(story) == []
    assert digests(story) == []
    told = {(it.cause[0], it.body["stage"]) for it in Watched(story.rows).said}
    assert told == {
        *(("stalled", stage) for stage in ("told", "escalated")),
        *(("orphaned", stage) for stage in ("told", "escalated")),
        ("unblocked", "told"),
    }
    assert watch_checker.is_told(story.rows)


@pytest.mark.parametrize(("check", "rule", "lie"), CASES, ids=lambda it: getattr(it, "__name__", it))
def test_a_planted_lie_is_named(check: Check, rule: str, lie: Lie) -> None:
    story = honest()
    lie(story)
    findings = check(story)
    assert rule in {finding.rule for finding in findings}, findings


@pytest.mark.parametrize("check", CHECKERS, ids=lambda check: check.__name__)
def test_every_rule_has_a_planted_lie_and_is_in_the_docs(check: Check) -> None:
    rules = CHECKERS[check]
    assert {rule for found, rule in LIES if found is check} == set(rules)
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert [rule for rule in rules if f"`{rule}`" not in page] == []
