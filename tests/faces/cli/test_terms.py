"""What becomes of a claim's options: the body of the request, where its paths lie, and what the shell must not do."""

import os
from pathlib import Path
from typing import Any

import pytest

from synapse.errors import Rejected
from synapse.faces.cli.call import Call
from synapse.faces.cli.options import NO_END, Parsed, UsageError, parse
from synapse.faces.cli.terms import claim_body, milliseconds, require_quoted
from synapse.faces.cli.verbs import COMMON, VERBS

HOST = os.uname().nodename


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SYNAPSE_WORKTREE", "SYNAPSE_ROOM", "SYNAPSE_NAME", "SYN_IDENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SYNAPSE_HOME", str(tmp_path / "home"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A worktree with a branch and a directory below it, in which the test stands."""
    root = tmp_path.resolve() / "repo"
    (root / ".git").mkdir(parents=True)
    (root / ".git" / "HEAD").write_text("ref: refs/heads/trunk\n")
    (root / "docs").mkdir()
    monkeypatch.chdir(root / "docs")
    return root


def body_of(*words: str) -> dict[str, Any]:
    parsed = parse(["--name", "ada", "claim", "T1", *words], VERBS, COMMON)
    return claim_body(Call(parsed), "T1")


def test_without_paths_a_claim_is_about_its_task_alone(root: Path) -> None:
    assert body_of() == {"task": "T1"}


def test_paths_are_relative_to_here_and_sent_from_the_root(root: Path) -> None:
    assert body_of("--paths", "*.md", "--paths", "../src/**", "--paths", ".") == {
        "task": "T1",
        "worktree": f"{HOST}:{root}",
        "paths": ["docs/*.md", "src/**", "docs"],
        "whole_worktree": False,
        "folds_case": False,
        "branch": "trunk",
    }


def test_a_linked_worktree_is_one_of_its_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linked, kept = root / "linked", root / ".git" / "worktrees" / "linked"
    (linked / "src").mkdir(parents=True)
    kept.mkdir(parents=True)
    (kept / "HEAD").write_text("ref: refs/heads/topic\n")
    (linked / ".git").write_text(f"gitdir: {kept}\n")
    monkeypatch.chdir(linked / "src")
    body = body_of("--paths", "x")
    assert (body["worktree"], body["paths"], body["branch"]) == (f"{HOST}:{linked}", ["src/x"], "topic")


def test_outside_of_a_worktree_the_directory_itself_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    body = body_of("--paths", "x")
    assert (body["worktree"], body["paths"]) == (f"{HOST}:{tmp_path.resolve()}", ["x"])
    assert "branch" not in body


def test_with_a_named_worktree_paths_are_taken_as_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (body_of("--paths", "x", "--worktree", "W")["worktree"], body_of("--paths", "x")["paths"]) == (
        "W",
        ["docs/x"],
    )
    assert body_of("--paths", "x", "--worktree", "W")["paths"] == ["x"]
    assert "branch" not in body_of("--paths", "x", "--worktree", "W")
    monkeypatch.setenv("SYNAPSE_WORKTREE", "E")
    assert (body_of("--paths", "x")["worktree"], body_of("--paths", "x")["paths"]) == ("E", ["x"])
    assert body_of("--paths", "x", "--worktree", "W")["worktree"] == "W"
    assert body_of("--whole-worktree")["worktree"] == "E"
    assert "worktree" not in body_of()


def test_paths_from_a_directory_that_was_removed_are_refused_in_words(root: Path) -> None:
    (root / "docs").rmdir()
    with pytest.raises(UsageError, match="the working directory is gone"):
        body_of("--paths", "x")
    assert body_of() == {"task": "T1"}


def test_the_whole_worktree_is_asked_for_in_so_many_words(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = body_of("--whole-worktree")
    assert (body["worktree"], body["paths"], body["whole_worktree"]) == (f"{HOST}:{root}", [], True)
    monkeypatch.chdir(root)
    for path in (".", "./", "docs/.."):
        with pytest.raises(Rejected, match="--whole-worktree"):
            body_of("--paths", path)


@pytest.mark.parametrize("path", ["../../x", "/etc/passwd"])
def test_what_leaves_the_worktree_is_refused_with_its_root(root: Path, path: str) -> None:
    with pytest.raises(Rejected, match=f"'{path}' lies outside of the worktree {root}"):
        body_of("--paths", path)


def test_what_is_no_path_is_sent_as_written(root: Path) -> None:
    assert body_of("--paths", "~/x")["paths"] == ["~/x"]


def test_a_worktree_alone_is_left_to_the_hub(root: Path) -> None:
    assert body_of("--worktree", "W") == {"task": "T1", "worktree": "W"}


def test_the_other_terms(root: Path) -> None:
    words = "--mode shared --ttl 90 --priority high --note n --branch b --pool gpu --pool cpu=3 --room lab --wait=1.5"
    assert body_of(*words.split()) == {
        "task": "T1",
        "room": "lab",
        "pools": {"gpu": 1, "cpu": 3},
        "mode": "shared",
        "priority": "high",
        "note": "n",
        "branch": "b",
        "ttl_ms": 90_000,
        "wait_ms": 1500,
    }
    assert body_of("--wait")["wait_ms"] is None
    assert body_of("--wait=0")["wait_ms"] == 1  # it was asked to wait: the answer is a deadline
    assert body_of("--paths", "x", "--branch", "b")["branch"] == "b"


def test_milliseconds_are_rounded_up() -> None:
    assert [milliseconds(s) for s in (0.0, 0.0001, 1.0, 1.0005)] == [0, 1, 1000, 1001]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--paths", "x", "--whole-worktree"], "--paths or --whole-worktree"),
        (["--paths", "x", "--worktree="], "--worktree needs a value"),
        (["--pool", "=3"], "--pool takes NAME"),
        (["--pool", "a", "--pool", "a=2"], "each name once"),
        (["--pool", "a=0"], "--pool a= takes a whole number from 1"),
        (["--pool", "a=x"], "whole number"),
        ([word for n in range(65) for word in ("--paths", f"f{n}")], "65 --paths.*did the shell expand.*quote it"),
    ],
)
def test_terms_that_are_none_say_the_way_out(root: Path, words: list[str], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        body_of(*words)


def test_globs_are_not_counted_as_what_a_shell_made(root: Path) -> None:
    words = [word for n in range(65) for word in ("--paths", f"f{n}/*")]
    assert len(body_of(*words)["paths"]) == 65  # too many for the hub, which says so


def test_words_behind_the_task_are_an_unquoted_glob() -> None:
    with pytest.raises(UsageError, match=r"'b\.py' is one argument too many.*quote it.*--paths 'src/\*\*'"):
        require_quoted(Parsed(None, {}, ["T1", "b.py", "c.py"]), "synapse claim TASK")


def test_a_word_behind_wait_is_its_value_without_the_sign() -> None:
    with pytest.raises(UsageError, match=r"'5' is one argument too many.*--wait takes its value as --wait=S"):
        require_quoted(Parsed(None, {"wait": NO_END}, ["T1", "5"]), "synapse claim TASK")
