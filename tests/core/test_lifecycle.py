"""The statuses of a task and what may follow what."""

from synapse.core.lifecycle import DONE, ENDS, FREEING, LAPSES, OPEN, TASK_STATUSES, TRANSITIONS, diagram, is_legal


def test_every_status_can_be_reached_and_every_step_leads_to_one() -> None:
    reached = {OPEN}
    while True:
        more = reached | {to for status in reached for to in TRANSITIONS[status]}
        if more == reached:
            break
        reached = more
    assert reached == set(TASK_STATUSES)


def test_what_has_ended_is_only_reopened() -> None:
    assert {TRANSITIONS[status] for status in ENDS} == {(OPEN,)}


def test_no_status_follows_itself() -> None:
    assert not any(is_legal(status, status) for status in TASK_STATUSES)


def test_whatever_goes_on_can_be_given_up() -> None:
    going = [status for status in TASK_STATUSES if status not in ENDS]
    assert all(is_legal(status, "cancelled") and is_legal(status, "failed") for status in going)


def test_what_a_lapse_does_is_a_legal_step_that_frees() -> None:
    assert {status: is_legal(status, to) and to in FREEING for status, to in LAPSES.items()} == {"in_progress": True}
    assert DONE in FREEING


def test_the_diagram_shows_each_step_once() -> None:
    lines = [line.strip() for line in diagram().splitlines()[1:]]
    steps = [tuple(line.split(" --> ")) for line in lines if "[*]" not in line]
    assert sorted(steps) == sorted((status, to) for status, following in TRANSITIONS.items() for to in following)
    assert [line for line in lines if "[*]" in line] == ["[*] --> open"] + [
        f"{status} --> [*]" for status in TASK_STATUSES if status in ENDS
    ]
