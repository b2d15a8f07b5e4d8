"""docs/reliability.md: each of its commands runs a test that there is, and what it counts in the source is so many."""

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from tests.faults.table import promises
from tests.hostile.attackers import ATTACKS
from tests.planted import FAULTS
from tests.prove import PARTS
from tests.simulation.controls import CONTROLS
from tests.simulation.test_simulation import SOMETIMES

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "reliability.md").read_text("utf-8")
COMMAND = re.compile(
    r"(?:`|^    )((?:[A-Z_]+=\S+ )*(?:pytest|make test ARGS|make prove ARGS).*?)(?:`| {2,}#| {8}|$)", re.M
)
STANDS_FOR_ANY = "-k WORDS"
OF_PROVE = {"prove", "figures"}


@cache
def names_in(path: Path) -> tuple[tuple[str, frozenset[str]], ...]:
    """The names of a file's tests, each with its marks; and those of the rows of the fault table that it drives."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = " ".join(map(ast.unparse, node.decorator_list))
            marks = re.findall(r"pytest\.mark\.(\w+)", decorators)
            rows = re.findall(r"\bfault\('([\w-]+)'\)", decorators)
            tests = [node.name] if node.name.startswith("test_") else []
            found += [(name, frozenset(marks)) for name in (*tests, *rows)]
    return tuple(found)


def files_below(place: str) -> list[Path]:
    """The test files that a path stands for. Raises `AssertionError` when there is no such path."""
    path = ROOT / place
    assert path.exists(), f"there is no {place}"
    return [path] if path.is_file() else sorted(path.rglob("test_*.py"))


def commands() -> list[str]:
    """Each command of the page, once."""
    return [found for found in dict.fromkeys(COMMAND.findall(PAGE)) if STANDS_FOR_ANY not in found]


def what_selects_nothing(command: str) -> list[str]:
    """The files, parts and words of a command that stand for no test."""
    words = shlex.split(command)
    while re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    is_prove = words[:2] == ["make", "prove"]
    given = shlex.split(words[2].removeprefix("ARGS=")) if words[0] == "make" else words[1:]
    places = [word for word in given if word.startswith("tests/")]
    parts = [word for word in given if word in PARTS]
    chosen = given[given.index("-k") + 1] if "-k" in given else ""
    known = {*places, *parts, "-k", chosen, *(("-n", "0", "-s") if not is_prove else ())}
    names = {
        place: [
            name for path in files_below(place) for name, marks in names_in(path) if not is_prove or marks & OF_PROVE
        ]
        for place in places or [place for part in parts or PARTS for place in PARTS[part]]
    }
    asked = re.findall(r"(?!(?:or|and)\b)\w+", chosen)
    every = [name for found in names.values() for name in found]
    empty = [word for word in asked if not any(word in name for name in every)]
    if places or parts:
        empty += [place for place, found in names.items() if not any(w in n for n in found for w in asked or [""])]
    return [word for word in given if word not in known] + empty


@pytest.mark.parametrize("command", commands())
def test_each_command_runs_a_test_that_there_is(command: str) -> None:
    assert what_selects_nothing(command) == []


def test_commands_that_run_nothing_are_named() -> None:
    assert len(commands()) > 60
    assert what_selects_nothing("pytest tests/test_prove.py -k summed") == []
    assert what_selects_nothing('pytest tests/test_prove.py -k "summed or of_no_test"') == ["of_no_test"]
    assert what_selects_nothing("make prove ARGS='-k kills_under_load -s'") == ["-s", "kills_under_load"]
    assert what_selects_nothing("make prove ARGS='-k at_its_last_whole_commit'") == ["at_its_last_whole_commit"]
    assert what_selects_nothing("CRASH_KILLS=2 make prove ARGS=processes") == []
    with pytest.raises(AssertionError, match="there is no tests/none"):
        what_selects_nothing("pytest tests/none.py")


def test_what_is_set_before_a_command_is_read_by_a_test() -> None:
    named = {name for command in commands() for name in re.findall(r"\b([A-Z]+_[A-Z]+)=", command)}
    assert named
    read = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py"))
    assert {name for name in named if f'environ.get("{name}"' not in read} == set()


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("{} of them, is done to the real process", len(promises())),
        ("{} one-line faults are planted in a copy", len(CONTROLS)),
        ("{} faults", len(FAULTS)),
        ("{} situations", len(SOMETIMES)),
        ("and {} attacks by", len(ATTACKS)),
    ],
)
def test_what_the_page_counts_is_so_many(words: str, count: int) -> None:
    assert words.format(count) in " ".join(PAGE.split())
