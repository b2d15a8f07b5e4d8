"""What is given as an argument or on stdin."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faces.conftest import RealHub, environment

from synapse.faces.cli.given import STDIN_BYTES_MAX, given_json, given_text
from synapse.faces.cli.main import main
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


@pytest.mark.parametrize(
    "text", ["", "{a", '{"a":', "NaN", "[1,]", "1 2", "{'a': 1}", "[Infinity]", "1e999", '{"a":[-1e400]}', '"\n"']
)
def test_what_is_no_json_is_refused_with_words(text: str) -> None:
    with pytest.raises(UsageError, match="a checkpoint is not JSON: "):
        given_json(text, "a checkpoint")


def test_json_that_is_nested_too_deep() -> None:
    with pytest.raises(UsageError, match="nested too deep"):
        given_json("[" * 100_000, "it")


@pytest.mark.parametrize(
    "words",
    [
        ["send", "--body-json", "1e999"],
        ["checkpoint", "t", "[1e999]"],
        ["telemetry", "a.b", '{"a":1e999}'],
        ["ask", "t", "--context", "1e999"],
        ["session", "start", "--metadata", '{"a":1e999}'],
        ["resource", "offer", "r", "--kind", "k", "--data", "1e999"],
        ["lane", "offer", "bob", "1e999"],
    ],
)
def test_a_number_beyond_all_numbers_is_one_clear_line(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--home", str(tmp_path), "--name", "ada"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_number_that_is_too_large_is_usage(hub: RealHub) -> None:
    done = hub.run("send", "--body-json", "1e999", SYNAPSE_NAME="ada")
    assert (done.returncode, done.stdout) == (2, "")
    assert "TEXT is not JSON: 1e999 is larger than any number here" in done.stderr


def closed(hub: RealHub, words: str, redirected: str) -> "subprocess.CompletedProcess[str]":
    """A command that was started without one of its standard streams."""
    script = f"exec {sys.executable} -m synapse {words} {redirected}"
    env = environment(hub.home, SYNAPSE_NAME="ada")
    return subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=30)


def test_a_standard_input_that_is_closed_is_said(hub: RealHub, tmp_path: Path) -> None:
    for words in (
        "send -",
        "kv put k -",
        "task progress T -",
        "task declare --file -",
        "task declare T --description -",
        "task update T --status done --note -",
        "manifest set --file -",
        "answer q1 -",
        f"journal import - --home {tmp_path / 'other'}",
        "supervisor --until-eof",
    ):
        done = closed(hub, words, "<&-")
        assert (done.returncode, done.stderr[:24]) == (2, "synapse: stdin is closed"), (words, done.stderr)


def test_a_standard_output_that_is_closed_is_said(hub: RealHub) -> None:
    for words in ("board", "board --watch", "board --json", "state", "state --watch", "journal export", "status"):
        done = closed(hub, words, ">&-")
        assert (done.returncode, done.stderr) == (1, "synapse: stdout is closed\n"), words
