"""The two closed lists: what the source says is in them, and what is in them is said."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from synapse.errors import Disconnected
from synapse.protocol import codes
from synapse.protocol.codes import CLOSES, ERRORS, exit_code_of

SOURCE = Path(__file__).parents[2] / "src" / "synapse"

RESERVED: frozenset[str] = frozenset()
"""Codes that no line of src says yet; docs/reference/errors.md calls them reserved."""

FRAMING = frozenset({"CLOSE_NORMAL", "CLOSE_GOING_AWAY", "CLOSE_PROTOCOL", "CLOSE_BAD_DATA", "CLOSE_TOO_BIG"})
"""Close codes of WebSocket itself, which the library or the peer may be the one to send."""


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        if path.name != "codes.py":
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def name_of(function: ast.expr) -> str:
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def codes_given(node: ast.Call) -> Iterator[str]:
    """The codes a `Rejected(…)` may get: a literal, or the literals of a conditional."""
    given = node.args[0] if node.args else None
    for value in [given.body, given.orelse] if isinstance(given, ast.IfExp) else [given]:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value


def test_every_code_of_a_refusal_is_in_the_list() -> None:
    unknown = [
        f"{path.relative_to(SOURCE)}:{node.lineno}: {code}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and name_of(node.func) == "Rejected"
        for code in codes_given(node)
        if code not in ERRORS
    ]
    assert not unknown


def test_every_code_of_the_list_is_said_somewhere_or_reserved() -> None:
    calls = [node for _, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    said = {code for call in calls if name_of(call.func) == "Rejected" for code in codes_given(call)}
    said |= {
        word.value.value
        for call in calls
        for word in call.keywords
        if word.arg == "code" and isinstance(word.value, ast.Constant) and isinstance(word.value.value, str)
    }
    assert {code for code in ERRORS if code not in said} == RESERVED


def test_every_close_code_is_in_the_list_and_is_said_somewhere() -> None:
    named = {name: value for name, value in vars(codes).items() if name.startswith("CLOSE_")}
    assert set(named.values()) == set(CLOSES)
    said = {
        name_of(node) for _, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.Name | ast.Attribute)
    }
    assert {name for name in named if name not in said} <= FRAMING


@pytest.mark.parametrize("code", CLOSES)
def test_a_close_code_tells_by_its_range_whether_to_come_back(code: int) -> None:
    says_no = "do not come back" in CLOSES[code] or code in {codes.CLOSE_VERSION, codes.CLOSE_BAD_HELLO}
    assert Disconnected(code, "").may_come_back is not says_no
    assert code in range(1000, 1016) or code in range(4000, 5000)


def test_exit_codes_follow_the_list_and_an_unknown_code_counts_as_refused() -> None:
    assert {exit_code_of(code) for code in ERRORS} <= {3, 4, 5, 77, 78}
    assert exit_code_of("not_found") == 4
    assert exit_code_of("a_code_of_tomorrow") == 3
