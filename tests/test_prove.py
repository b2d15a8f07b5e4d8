"""`make prove` says what was skipped and why, sums up, and is not content with a broken bound or a missing figure."""

import os
from pathlib import Path

import pytest
from tests import prove
from tests.figures import Figure, tell
from tests.prove import Outcome, command_of, run_part, table, together, verdict

KILLS = Figure("p", "kills of the hub", 120)
LOST = Figure("p", "acknowledged and lost", 0, bound="= 0")


def outcome(*figures: Figure, code: int = 0, skipped: tuple[str, ...] = ()) -> Outcome:
    return Outcome("p", code, 1.0, "3 passed in 1.00s", list(figures), skipped)


def test_a_part_is_good_when_it_passed_and_told_figures_that_keep_their_bounds() -> None:
    assert verdict(outcome(KILLS, LOST)) == ""
    assert verdict(outcome(KILLS, code=1)) == "failed (1)"
    assert verdict(outcome()) == "told no figure"
    assert verdict(outcome(Figure("p", "lost", 1, bound="= 0", is_kept=False))) == "lost broke its bound"


def test_what_was_skipped_is_in_the_table_and_is_a_failure_under_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    part = outcome(KILLS, skipped=("SKIPPED [1] a.py:1: strace is missing",))
    monkeypatch.delenv("CI", raising=False)
    assert verdict(part) == ""
    assert "skipped something" in table([part], [])
    assert "skipped something" not in table([outcome(KILLS)], [])
    monkeypatch.setenv("CI", "1")
    assert "skipped something" in verdict(part)


def test_a_missing_tool_is_said_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    monkeypatch.setitem(prove.PARTS, "p", ("tests/power",))
    ended = run_part("p", tmp_path, "thousands_of_power_cuts")
    assert ended.code == 0
    assert len(ended.skipped) == 1
    assert "strace is missing: install strace" in capsys.readouterr().out


def test_kills_of_all_parts_are_summed_and_must_be_two_hundred_in_a_whole_run() -> None:
    [kills, lost] = together([outcome(KILLS, LOST), outcome(KILLS)], is_whole=True)
    assert (kills.what, kills.value, kills.bound, kills.is_kept) == ("kills of the hub", 240, ">= 200", True)
    assert (lost.value, lost.bound, lost.is_kept) == (0, "= 0", True)
    [few, _] = together([outcome(KILLS, LOST)], is_whole=True)
    assert not few.is_kept
    [asked] = together([outcome(KILLS)], is_whole=False)
    assert (asked.bound, asked.is_kept) == ("", True)


def test_the_command_is_told_as_it_is_typed() -> None:
    assert command_of([]) == "make prove"
    assert command_of(["power cuts", "-k", "torn"]) == "make prove ARGS='\"power cuts\" -k torn'"


def test_one_lost_operation_breaks_the_sum() -> None:
    broken = Figure("p", "acknowledged and lost", 1, bound="= 0", is_kept=False)
    [lost] = together([outcome(LOST, broken)], is_whole=False)
    assert (lost.value, lost.is_kept) == (1, False)
    assert "BROKEN" in table([], [lost])


def test_figures_go_to_the_file_that_gathers_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVE_FIGURES", os.fspath(tmp_path / "told"))
    tell("p", "cuts", 3, seed=7)
    tell("p", "lost", 1, bound="= 0", is_kept=False)
    lines = (tmp_path / "told").read_text("utf-8").splitlines()
    assert lines == [
        '{"part":"p","what":"cuts","value":3,"seed":7}',
        '{"part":"p","what":"lost","value":1,"bound":"= 0","is_kept":false}',
    ]
