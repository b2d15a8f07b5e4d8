"""`service …` against a systemctl of paper: what is written, what is asked, and what is left alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.faces.conftest import environment
from tests.faults.conftest import HubProcess

from synapse.faces.cli.main import main
from synapse.faces.cli.units import TAG, quoted

SYSTEMCTL = """#!/bin/sh
echo "systemctl $*" >> "$PAPER/calls"
shift                                     # --user
test "$1" = --no-ask-password && shift
if test -e "$PAPER/fail-$1"; then echo "$(cat "$PAPER/fail-$1")" >&2; exit 1; fi
case "$*" in *ActiveState*) cat "$PAPER/properties";; esac
"""
JOURNALCTL = """#!/bin/sh
echo "journalctl $*"
"""
ACTIVE = {"UnitFileState": "enabled", "ActiveState": "active", "SubState": "running", "MainPID": "42", "NRestarts": "1"}
FAILED = {"UnitFileState": "enabled", "ActiveState": "failed", "SubState": "failed", "MainPID": "0", "NRestarts": "0"}


class Paper:
    """An account with a systemd that only writes down what it is asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "home"
        self.unit = directory / "config" / "systemd" / "user" / "synapse.service"
        self.bin = directory / "bin"
        self.bin.mkdir()
        self.has("systemctl", SYSTEMCTL)
        self.has("journalctl", JOURNALCTL)
        self.properties(**ACTIVE)

    def has(self, name: str, text: str) -> None:
        """A command."""
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def properties(self, **more: str) -> None:
        """What systemctl show answers."""
        (self.directory / "properties").write_text("".join(f"{key}={value}\n" for key, value in more.items()))

    def fails(self, verb: str, words: str) -> None:
        """From now on systemctl fails at this."""
        (self.directory / f"fail-{verb}").write_text(words)

    @property
    def calls(self) -> list[str]:
        """The verbs that systemctl was asked, the looks left out."""
        path = self.directory / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        assert all(line.startswith("systemctl --user --no-ask-password ") for line in lines)
        said = [line.removeprefix("systemctl --user --no-ask-password ") for line in lines]
        return [line for line in said if not line.startswith("show ")]

    def run(self, *words: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """`synapse service WORDS`."""
        kept = {"XDG_CONFIG_HOME": str(self.directory / "config"), "PAPER": str(self.directory)}
        kept["PATH"] = f"{self.bin}:/usr/bin:/bin"
        return subprocess.run(
            [sys.executable, "-m", "synapse", "service", *words],
            env=environment(self.home, **{**kept, **env}),
            capture_output=True,
            text=True,
            timeout=30,
        )

    def json(self, *words: str, code: int = 0, **env: str) -> Any:
        """Its one object."""
        done = self.run(*words, "--json", **env)
        assert done.returncode == code, done
        return json.loads(done.stdout)

    def refused(self, *words: str, code: int, **env: str) -> str:
        """Its one line."""
        done = self.run(*words, **env)
        assert (done.returncode, done.stdout) == (code, ""), done
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr


@pytest.fixture
def paper(tmp_path: Path) -> Paper:
    return Paper(tmp_path)


# install and uninstall


def test_install_writes_the_unit_once_and_has_it_started_with_the_session(paper: Paper) -> None:
    answer = paper.json("install")
    assert (answer["path"], answer["home"], answer["changed"]) == (str(paper.unit), str(paper.home), True)
    text = paper.unit.read_text()
    assert text.startswith(TAG)
    assert f"\nExecStart={sys.executable} -P -m synapse hub --home {paper.home}\n" in text
    assert "\nType=notify\n" in text
    assert paper.calls == ["daemon-reload", "enable synapse.service"]
    before = paper.unit.stat().st_mtime_ns
    assert paper.json("install")["changed"] is False
    assert paper.unit.stat().st_mtime_ns == before
    assert not paper.home.exists(), "the hub makes its home itself"
    assert [path.name for path in paper.unit.parent.iterdir()] == ["synapse.service"]
    other = paper.directory / "other home"
    assert paper.json("install", "--home", str(other))["changed"] is True
    assert f'--home "{other}"' in paper.unit.read_text()


def test_a_dry_run_prints_the_unit_and_asks_nobody(paper: Paper) -> None:
    done = paper.run("install", "--dry-run", PATH="/nowhere")
    assert done.returncode == 0
    assert done.stdout.startswith(TAG)
    assert paper.json("install", "--dry-run")["text"] == done.stdout
    assert not paper.unit.exists()
    assert paper.calls == []


def test_the_machines_unit_has_a_user_and_a_home_of_its_own(paper: Paper) -> None:
    text = paper.json("install", "--system", "--dry-run", SYNAPSE_HOME="")["text"]
    assert "\nUser=synapse\n" in text
    assert "hub --home /var/lib/synapse\n" in text
    assert "\nStateDirectory=synapse\n" in text
    named = paper.json("install", "--system", "--dry-run", "--run-as", "ada", "--home", "/srv/synapse")
    assert (named["path"], named["home"]) == ("/etc/systemd/system/synapse.service", "/srv/synapse")
    assert "\nUser=ada\nReadWritePaths=/srv/synapse\n" in named["text"]


def test_a_user_unit_runs_as_nobody_else(paper: Paper) -> None:
    said = paper.refused("install", "--run-as", "ada", code=2)
    assert "--run-as goes with --system" in said
    assert not paper.unit.exists()
    assert paper.calls == []


def test_the_machines_unit_is_roots(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for verb in ("install", "uninstall"):
        assert main(["service", verb, "--system"]) == 77
        assert "sudo" in capsys.readouterr().err


def test_a_unit_of_somebody_else_is_left_alone(paper: Paper) -> None:
    paper.unit.parent.mkdir(parents=True)
    paper.unit.write_text("[Service]\nExecStart=/bin/true\n")
    for verb in ("install", "uninstall"):
        assert "is left alone" in paper.refused(verb, code=1)
    assert paper.unit.read_text() == "[Service]\nExecStart=/bin/true\n"
    assert paper.calls == []


def test_what_systemd_does_not_take_is_put_back(paper: Paper) -> None:
    paper.fails("enable", "Failed to enable unit: no room\nand more")
    assert "systemctl enable synapse.service: Failed to enable unit: no room" in paper.refused("install", code=1)
    assert not paper.unit.exists()
    (paper.directory / "fail-enable").unlink()
    paper.run("install")
    before = paper.unit.read_text()
    paper.fails("daemon-reload", "no")
    paper.refused("install", "--home", "/elsewhere", code=1)
    assert paper.unit.read_text() == before


def test_a_directory_that_cannot_be_written_is_refused_in_one_line(paper: Paper) -> None:
    (paper.directory / "config").write_text("a file")
    assert str(paper.directory / "config") in paper.refused("install", code=1)
    assert paper.calls == []


def test_uninstall_takes_the_unit_away_and_leaves_the_home(paper: Paper) -> None:
    paper.run("install")
    paper.home.mkdir()
    assert paper.json("uninstall") == {"path": str(paper.unit), "removed": True, "cursor": None}
    assert not paper.unit.exists()
    assert paper.home.exists()
    assert paper.calls[2:] == ["disable --now synapse.service", "daemon-reload"]


@pytest.mark.parametrize("verb", ["start", "stop", "status", "logs", "uninstall"])
def test_what_is_not_installed_is_not_found(paper: Paper, verb: str) -> None:
    assert "synapse service install writes it" in paper.refused(verb, code=4)
    assert paper.calls == []


@pytest.mark.parametrize("verb", ["install", "start", "stop", "status", "logs", "uninstall"])
def test_without_systemd_one_line_says_what_to_do_instead_and_nothing_is_changed(paper: Paper, verb: str) -> None:
    for env in ({"PATH": "/nowhere"}, {}):
        if not env:
            paper.fails("show", "Failed to connect to bus: No medium found")
        line = paper.refused(verb, code=1, **env)
        assert "synapse up" in line
        assert ("no systemctl" if env else "No medium found") in line
        assert paper.json(verb, code=1, **env)["error"]["detail"] in line
    assert not (paper.directory / "config").exists()
    assert paper.calls == []


# start, stop, status, logs


def test_start_waits_for_systemd_and_says_how_it_is(paper: Paper) -> None:
    paper.run("install")
    paper.properties(**ACTIVE, StatusText="ready at unix:/x")
    done = paper.run("start")
    assert (done.returncode, done.stdout) == (
        0,
        "active (running) · enabled · pid 42 · 1 restarts · ready at unix:/x\n",
    )
    assert paper.calls[-1] == "start synapse.service"
    assert paper.json("stop")["stopped"] is True
    assert paper.calls[-1] == "stop synapse.service"


@pytest.mark.parametrize(
    ("properties", "code", "words"),
    [
        ({"ExecMainStatus": "78", "StatusText": "x: not \x1b[31mTOML"}, 78, "x: not \\x1b[31mTOML"),
        ({"ExecMainStatus": "71"}, 71, "ended with 71"),
        ({"ExecMainStatus": "203"}, 1, "Job failed"),
        ({"ExecMainStatus": "0"}, 1, "Job failed"),
        ({}, 1, "Job failed"),
    ],
)
def test_a_start_that_fails_has_the_words_and_the_exit_code_of_the_hub(
    paper: Paper, properties: dict[str, str], code: int, words: str
) -> None:
    paper.run("install")
    paper.fails("start", "Job failed\nSee more")
    paper.properties(**FAILED, **properties)
    assert words in paper.refused("start", code=code)


def test_status_is_69_unless_it_runs(paper: Paper) -> None:
    paper.run("install")
    status = paper.json("status")
    assert (status["active"], status["enabled"], status["pid"], status["restarts"]) == ("active", True, 42, 1)
    paper.properties(**FAILED, Result="watchdog")
    status = paper.json("status", code=69)
    assert (status["active"], status["pid"], status["result"]) == ("failed", None, "watchdog")


def test_a_hub_in_the_background_is_told_before_systemd_meets_it(paper: Paper) -> None:
    paper.run("install")
    with HubProcess(paper.home).until_ready() as hub:
        assert f"pid {hub.process.pid}: synapse down first" in paper.refused("start", code=75)
    assert "start synapse.service" not in paper.calls


def test_logs_are_those_of_journalctl(paper: Paper, tmp_path: Path) -> None:
    paper.run("install")
    done = paper.run("logs", "--lines", "7", "--follow")
    assert done.stdout == "journalctl --user-unit=synapse.service --no-pager --lines=7 --output=cat --follow\n"
    assert "--output=json" in paper.run("logs", "--json").stdout
    done = paper.run("logs", SYNAPSE_LOG_FILE=str(tmp_path / "x.log"))
    assert f"writes its log to {tmp_path}/x.log" in done.stderr


# words in units


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("/usr/bin/synapse", "/usr/bin/synapse"),
        ("/a b", '"/a b"'),
        ("/100%", '"/100%%"'),
        ("/$HOME", '"/$$HOME"'),
        ('/a"b', '"/a\\"b"'),
        ("/a\\b", '"/a\\\\b"'),
        ("/it's", '"/it\'s"'),
        ("/é", "/é"),
    ],
)
def test_words_are_quoted_as_units_want_them(word: str, said: str) -> None:
    assert quoted(word) == said


@pytest.mark.parametrize("word", ["/a\nExecStartPre=/bin/evil", "/\x1b", "/a\u2028b"])
def test_what_no_unit_can_say_is_refused(paper: Paper, word: str) -> None:
    with pytest.raises(ValueError, match="cannot stand in a unit"):
        quoted(word)
    assert "cannot stand in a unit" in paper.refused("install", "--home", word, code=1)
    assert not paper.unit.exists()
