"""What is given as an argument or on stdin."""

import io
import sys

import pytest

from synapse.faces.cli.given import STDIN_BYTES_MAX, given_json, given_text
from synapse.faces.cli.options import UsageError


def standard_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_a_text_is_itself_and_a_dash_is_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    standard_input(monkeypatch, "é\n\n".encode())
    assert given_text("x", "") == "x"
    assert given_text("-", "") == "é\n"


@pytest.mark.parametrize(
    ("data", "complaint"), [(b"x" * (STDIN_BYTES_MAX + 1), "more than .*: use a file"), (b"\xff", "not UTF-8")]
)
def test_stdin_that_is_too_long_or_no_text(monkeypatch: pytest.MonkeyPatch, data: bytes, complaint: str) -> None:
    standard_input(monkeypatch, data)
    with pytest.raises(UsageError, match=complaint):
        given_text("-", "use a file")


def test_json_is_read() -> None:
    assert given_json(' {"a": [1, null]} ', "it") == {"a": [1, None]}
    assert given_json("null", "it") is None


@pytest.mark.parametrize("text", ["", "{a", '{"a":', "NaN", "[1,]", "1 2", "{'a': 1}", "[Infinity]", '"\n"'])
def test_what_is_no_json_is_refused_with_words(text: str) -> None:
    with pytest.raises(UsageError, match="a checkpoint is not JSON: "):
        given_json(text, "a checkpoint")


def test_json_that_is_nested_too_deep() -> None:
    with pytest.raises(UsageError, match="nested too deep"):
        given_json("[" * 100_000, "it")
