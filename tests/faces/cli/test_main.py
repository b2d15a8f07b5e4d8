"""The entry: help, version, the ways a call can end, and what a one-shot call costs in modules."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faces.conftest import Frame, PaperHub, Script, environment, message, refusal, reply, welcome

import synapse
from synapse.faces.cli.main import main
from synapse.faces.cli.render import clock

HEAVY = {"typing", "re", "json", "socket", "selectors", "enum", "collections", "dataclasses", "pathlib", "tempfile"}
HEAVY |= {"argparse", "asyncio", "msgspec", "websockets", "h11", "hashlib", "random", "signal", "subprocess"}
"""Modules that a one-shot call has no use for; each costs between 1 and 180 ms."""


def run(home: Path, *words: str, **how: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "synapse", *words]
    return subprocess.run(command, env=environment(home), capture_output=True, text=True, timeout=30)


def answering(hub: PaperHub, request: Frame) -> list[Frame]:
    match request["type"]:
        case "hello":
            return [welcome(request)]
        case "message.send":
            return [reply(request, id="m7", room="main", channel="general", n=1)]
        case "history.read" | "inbox.list":
            return [reply(request, messages=[message(1)], next=None, previous=None, unacked=1)]
        case "agent.list":
            return [reply(request, agents=[], next=None)]
        case "lease.list" | "pool.list" | "task.explain":
            return [reply(request, leases=[], pools=[], events=[], next=None)]
        case _:
            return [reply(request, health="green", reasons=[], name="x", task="T1", paths=[])]


@pytest.mark.parametrize(
    "words",
    [
        ["send", "hi"],
        ["send", "--json", "hi"],
        ["--name", "ada", "send", "--to", "bob", "hi"],
        ["history", "--json"],
        ["inbox"],
        ["who"],
        ["status"],
        ["health", "--json"],
        ["agent", "status", "busy"],
        ["--name", "ada", "claim", "T1", "--paths", "src/**", "--pool", "gpu=2"],
        ["--name", "ada", "renew", "T1", "--json"],
        ["--name", "ada", "release", "T1"],
        ["--name", "ada", "checkpoint", "T1", "[1]"],
        ["--name", "ada", "handoff", "T1", "--to", "bob"],
        ["lease", "check", "T1", "--epoch", "7"],
        ["claims", "check", "a"],
        ["state"],
        ["why", "T1"],
        ["pool", "list"],
        ["--help"],
        ["send", "--help"],
        ["--version"],
    ],
    ids=" ".join,
)
def test_a_one_shot_call_imports_nothing_heavy(
    tmp_path: Path, paper: Callable[[Script], PaperHub], words: list[str]
) -> None:
    paper(answering)
    script = (
        "import sys; before = set(sys.modules); from synapse.faces.cli.main import main; code = main(sys.argv[1:]); "
        "sys.stderr.write(repr((code, sorted(set(sys.modules) - before))))"
    )
    command = [sys.executable, "-c", script, *words]
    done = subprocess.run(command, env=environment(tmp_path / "home"), capture_output=True, text=True, timeout=30)
    code, loaded = eval(done.stderr.splitlines()[-1])
    assert code == 0
    assert not HEAVY & set(loaded)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"synapse {synapse.__version__}\n"
    assert main(["hub", "--version"]) == 0


@pytest.mark.parametrize(
    "words", [["--help"], ["send", "--help"], ["--help", "send"], ["room", "-h"], ["hub", "--help"]]
)
def test_help_goes_to_stdout(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out.startswith("usage: synapse")
    assert err == ""


def test_hub_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    from synapse.hub.settings import SETTINGS

    main(["hub", "--help"])
    out = capsys.readouterr().out
    assert all(setting.flag in out for setting in SETTINGS)


def test_native_windows_is_refused_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert main(["send", "x"]) == 1
    assert capsys.readouterr() == ("", "synapse: native Windows is not supported; use it in WSL2\n")


def test_json_after_two_dashes_is_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sned", "--", "--json"]) == 2
    assert capsys.readouterr().out == ""
    assert main(["sned", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"


def test_a_config_that_is_none_is_78(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[client]\nnmae = 'x'\n")
    done = run(tmp_path, "send", "x")
    assert done.returncode == 78
    assert "client.nmae" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_refusal_tells_moments_as_times_and_exactly_with_json(
    tmp_path: Path, paper: Callable[[Script], PaperHub], capsys: pytest.CaptureFixture[str]
) -> None:
    def script(hub: PaperHub, request: Frame) -> list[Frame]:
        if request["type"] == "hello":
            return [welcome(request)]
        return [refusal(request, "idem_conflict", "used at 1700000000123 ms with another (2 ms)")]

    words = ["send", "x", "--home", str(paper(script).home), "--name", "ada"]
    assert main(words) == 3
    assert f"used at {clock(1_700_000_000_123)} with another (2 ms)" in capsys.readouterr().err
    assert main([*words, "--json"]) == 3
    assert "used at 1700000000123 ms with" in capsys.readouterr().out


def test_a_full_disk_below_stdout_is_1_and_one_line(tmp_path: Path, paper: Callable[[Script], PaperHub]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    paper(answering)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "synapse", "send", "x"],
            env=environment(tmp_path / "home"),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr) == (1, "synapse: No space left on device: stdout\n")


def test_a_reader_that_left_is_141_and_silent(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "synapse", "--help"],
            env=environment(tmp_path),
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr) == (141, "")


def test_a_terminal_that_is_not_utf8_still_gets_json(tmp_path: Path, paper: Callable[[Script], PaperHub]) -> None:
    def script(hub: PaperHub, request: Frame) -> list[Frame]:
        if request["type"] == "history.read":
            return [reply(request, messages=[message(1, body="é 🙂")], next=None, previous=None)]
        return answering(hub, request)

    paper(script)
    latin = {**environment(tmp_path / "home"), "PYTHONIOENCODING": "ascii"}
    for flag, wanted in (("--json", '"body":"\\u00e9 \\ud83d\\ude42"'), ("--limit=1", "  \\xe9 \\U0001f642")):
        command = [sys.executable, "-m", "synapse", "history", flag]
        done = subprocess.run(command, env=latin, capture_output=True, text=True)
        assert done.returncode == 0
        assert wanted in done.stdout


@pytest.mark.parametrize("how", [">&-", ">/dev/full", "| true"])
@pytest.mark.parametrize(
    "words", ["--version", "--help", "who", "who --json", "release T1", "release T1 --json", "nonsense --json"]
)
def test_a_stdout_that_takes_nothing_is_said_in_one_line(how: str, words: str, tmp_path: Path) -> None:
    script = f"set -o pipefail; '{sys.executable}' -m synapse --home '{tmp_path}' {words} {how}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30)
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") <= 1
    assert done.returncode in (1, 2, 69, 141) or words.startswith("--")


@pytest.mark.parametrize(
    ("text", "words", "complaint"),
    [
        ("x", [], "the timeout of SYNAPSE_TIMEOUT takes a duration"),
        ("0", [], "the timeout of SYNAPSE_TIMEOUT must be longer than nothing"),
        ("9", ["--timeout", "0"], "--timeout must be longer than nothing"),
        ("", [], "config.toml must be longer than nothing"),
    ],
)
def test_a_time_out_that_is_none_is_usage_and_says_where_it_stands(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    words: list[str],
    complaint: str,
) -> None:
    (tmp_path / "config.toml").write_text('[client]\ntimeout = "0"\n')
    monkeypatch.setenv("SYNAPSE_TIMEOUT", text)
    assert main(["status", "--home", str(tmp_path), *words]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["down", "hub"])
@pytest.mark.parametrize("words", [["--home", ""], ["--home="]])
def test_an_empty_home_is_usage_and_never_the_environments(
    paper: Callable[[Script], PaperHub], tmp_path: Path, verb: str, words: list[str]
) -> None:
    paper(answering)
    done = run(tmp_path / "home", verb, *words, "--json")
    assert (done.returncode, "--home" in done.stderr, "needs a value" in done.stderr) == (2, True, True), done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "usage"


@pytest.mark.parametrize("flag", ["--home", "--uri", "--room", "--name", "--token-file", "--tls-ca"])
def test_an_empty_flag_of_every_verb_is_usage(paper: Callable[[Script], PaperHub], tmp_path: Path, flag: str) -> None:
    hub = paper(answering)
    done = run(tmp_path / "home", "status", flag, "")
    assert (done.returncode, done.stderr) == (2, f"synapse: {flag} needs a value: is a variable not set?\n")
    assert hub.requests == []


def test_an_empty_variable_counts_as_none(paper: Callable[[Script], PaperHub], tmp_path: Path) -> None:
    paper(answering)
    empty = dict.fromkeys(("SYNAPSE_URI", "SYNAPSE_NAME", "SYNAPSE_ROOM", "SYNAPSE_TOKEN_FILE"), "")
    done = subprocess.run(
        [sys.executable, "-m", "synapse", "status"],
        env=environment(tmp_path / "home", **empty),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["kv", "snapshot"], ["token", "create", "--role", "agent", "--out"]])
def test_a_file_that_is_there_already_is_1_with_the_way_out(
    paper: Callable[[Script], PaperHub], tmp_path: Path, words: list[str]
) -> None:
    paper(
        lambda hub, request: [welcome(request) if request["type"] == "hello" else reply(request, values=[], token="t")]
    )
    (tmp_path / "there").write_text("mine")
    done = run(tmp_path / "home", *words, str(tmp_path / "there"))
    said = f"synapse: File exists: {tmp_path}/there; nothing is overwritten: name a file that is not there yet\n"
    assert (done.returncode, done.stderr) == (1, said)
    assert (tmp_path / "there").read_text() == "mine"


@pytest.mark.parametrize(
    "words", [["kv", "restore"], ["manifest", "set", "--file"], ["task", "declare", "--file"], ["send", "--file"]]
)
def test_a_file_that_is_not_there_is_1_in_every_verb(
    paper: Callable[[Script], PaperHub], tmp_path: Path, words: list[str]
) -> None:
    paper(answering)
    done = run(tmp_path / "home", *words, str(tmp_path / "nothing"))
    assert done.returncode == 1, done.stderr
    assert ("No such file or directory" in done.stderr, f"{tmp_path}/nothing" in done.stderr) == (True, True)
