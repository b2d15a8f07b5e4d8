"""`journal export` and `import` on the command line, beside a hub and without one."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faces.conftest import PaperHub, RealHub, Script, environment, welcome
from tests.faults.conftest import wait_until

from synapse.faces.cli import journal
from synapse.faces.cli.main import main


def test_an_export_of_a_running_hub_is_imported_elsewhere_and_has_everything(hub: RealHub, tmp_path: Path) -> None:
    hub.json("send", "kept", "--name", "ada")
    lease = hub.json("claim", "T1", "--name", "ada")
    file = tmp_path / "export.ndjson"
    report = hub.json("journal", "export", str(file))
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert report["events"] == len(lines) - 2
    assert file.stat().st_mode & 0o777 == 0o600
    assert not list(hub.home.glob("*export-*")), "the copy is gone"
    elsewhere = {"SYNAPSE_HOME": str(tmp_path / "elsewhere")}
    brought = hub.json("journal", "import", str(file), SYNAPSE_HOME=elsewhere["SYNAPSE_HOME"])
    assert brought["events"] == report["events"] + 1
    assert hub.json("journal", "verify", SYNAPSE_HOME=elsewhere["SYNAPSE_HOME"])["events"] == brought["events"]
    other = RealHub(tmp_path / "elsewhere")
    other.start()
    try:
        assert [line["body"] for line in other.lines("history")] == ["kept"]
        (held,) = other.json("state")["leases"]
        assert (held["owner"], held["epoch"]) == ("ada", lease["epoch"])
        assert other.json("claim", "T2", "--name", "bob")["epoch"] > lease["epoch"]
    finally:
        other.end_all()


def copies(hub: RealHub) -> list[str]:
    """What lies in the home of the copies that exports are made from."""
    return sorted(path.name for path in hub.home.glob("*export*"))


def ended(command: "subprocess.Popen[str]", how: signal.Signals) -> int:
    """The exit code of a command that a signal ends."""
    command.send_signal(how)
    command.communicate(timeout=10)
    return command.returncode


def test_an_export_that_is_ended_leaves_no_copy(hub: RealHub) -> None:
    for number in range(4):
        hub.json("send", f"{number}" + "x" * 60_000, "--name", "ada")  # more than a pipe holds
    for how in (signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
        export = hub.begin("journal", "export")
        assert export.stdout is not None
        assert "synapse_journal" in export.stdout.readline()
        assert ended(export, how) == (-how if how == signal.SIGKILL else 128 + how)
        assert copies(hub) == []


def test_an_export_that_is_ended_before_its_copy_is_made_gets_none(hub: RealHub) -> None:
    assert hub.process is not None
    hub.json("send", "kept", "--name", "ada")
    hub.process.send_signal(signal.SIGSTOP)
    export = hub.begin("journal", "export")
    wait_until("there is a place for the copy", lambda: copies(hub) != [])
    assert ended(export, signal.SIGTERM) == 128 + signal.SIGTERM
    assert copies(hub) == []
    hub.process.send_signal(signal.SIGCONT)
    after = str(hub.home / "after.db")  # one at a time: that the next is made says that this one has ended
    wait_until("another backup is made", lambda: hub.run("journal", "backup", after).returncode == 0)
    assert copies(hub) == []


def test_the_next_start_removes_the_copy_of_an_export_that_was_killed(hub: RealHub) -> None:
    hub.end()
    (hub.home / "journal.export-12345678").mkdir()
    (hub.home / "journal.export-12345678" / "journal.db.new").write_text("a copy, half made")
    hub.start()
    assert copies(hub) == []


def test_an_export_without_the_home_of_the_hub_is_refused_with_what_to_name(hub: RealHub, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    refused = hub.run("journal", "export", "--home", str(nowhere), "--uri", f"unix:{hub.home / 'hub.sock'}")
    assert refused.returncode == 2
    assert f"{nowhere}: no copy of the journal can lie there" in refused.stderr
    assert "--home" in refused.stderr


def test_a_journal_is_not_put_into_a_shared_directory(hub: RealHub, tmp_path: Path) -> None:
    hub.json("journal", "backup", str(tmp_path / "backup.db"))
    hub.json("journal", "export", str(tmp_path / "export.ndjson"))
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    (shared / "thesis.tex").touch()
    for verb, file in (("restore", "backup.db"), ("import", "export.ndjson")):
        refused = hub.run("journal", verb, str(tmp_path / file), "--home", str(shared))
        assert refused.returncode == 78
        assert "chmod 700" in refused.stderr
        assert [path.name for path in shared.iterdir()] == ["thesis.tex"]


def test_an_import_that_is_ended_leaves_nothing_of_what_it_was_given(tmp_path: Path) -> None:
    spools = tmp_path / "spools"
    spools.mkdir()
    command = [sys.executable, "-m", "synapse", "journal", "import", "-"]
    environ = environment(tmp_path / "home", TMPDIR=str(spools))
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE) as process:
        wait_until("what comes is kept", lambda: any(spools.iterdir()))
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGTERM
    assert list(spools.iterdir()) == []


def test_an_export_goes_through_a_pipe(hub: RealHub, tmp_path: Path) -> None:
    hub.json("send", "kept", "--name", "ada")
    done = hub.run("journal", "export")
    assert done.returncode == 0
    assert json.loads(done.stdout.splitlines()[0])["synapse_journal"] == 1
    elsewhere = {"SYNAPSE_HOME": str(tmp_path / "elsewhere")}
    taken = hub.run("journal", "import", "-", "--json", text=done.stdout, **elsewhere)
    assert taken.returncode == 0, taken.stderr
    assert json.loads(taken.stdout)["events"] == len(done.stdout.splitlines()) - 1
    broken = hub.run("journal", "import", "-", text=done.stdout.replace("kept", "lost"), **elsewhere)
    assert broken.returncode == 78
    assert "nothing was imported" in broken.stderr


def test_without_a_hub_the_files_are_read_and_nothing_is_overwritten(hub: RealHub, tmp_path: Path) -> None:
    hub.json("send", "secret words", "--name", "ada")
    hub.end()
    file = tmp_path / "export.ndjson"
    hub.json("journal", "export", str(file), "--no-bodies")
    assert "secret words" not in file.read_text("utf-8")
    again = hub.run("journal", "export", str(file))
    assert again.returncode == 1
    assert "exists" in again.stderr
    refused = hub.run("journal", "import", str(file))
    assert refused.returncode == 78
    assert "export with bodies" in refused.stderr
    assert hub.json("journal", "verify")["events"] > 0


def test_an_import_needs_a_home_without_a_hub_and_a_file_that_is_there(hub: RealHub, tmp_path: Path) -> None:
    file = tmp_path / "export.ndjson"
    hub.json("journal", "export", str(file))
    assert hub.run("journal", "import", str(file)).returncode == 75
    assert hub.run("journal", "import", str(tmp_path / "nothing")).returncode == 1


@pytest.mark.parametrize(
    ("set_to", "words", "waited_s"),
    [("0.3", [], "0.3"), (None, [], "0.2"), ("9", ["--timeout", "0.4"], "0.4"), ("", [], "0.1")],
)
def test_a_time_out_that_is_set_bounds_it_and_else_it_waits_long(
    paper: Callable[[Script], PaperHub],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    set_to: str | None,
    words: list[str],
    waited_s: str,
) -> None:
    monkeypatch.setattr(journal, "LONG_TIMEOUT_S", 0.1)
    hub = paper(lambda _, request: [welcome(request)] if request["type"] == "hello" else [])
    monkeypatch.setenv("SYNAPSE_HOME", str(hub.home))
    if set_to is None:
        (hub.home / "config.toml").write_text('[client]\ntimeout = "200ms"\n')
    else:
        monkeypatch.setenv("SYNAPSE_TIMEOUT", set_to)
    assert main(["journal", "verify", "--uri", f"unix:{hub.path}", *words]) == 69
    assert f" {waited_s} s" in capsys.readouterr().err


@pytest.mark.parametrize("is_running", [True, False])
def test_a_backup_that_cannot_be_written_is_1_with_the_reason_and_the_path(
    hub: RealHub, tmp_path: Path, *, is_running: bool
) -> None:
    if not is_running:
        hub.end()
    (tmp_path / "there").write_text("mine")
    for path, why in (("there", "exists already"), ("no/where", "No such file or directory"), ("there/x", "Not a dir")):
        refused = hub.run("journal", "backup", str(tmp_path / path), "--json")
        assert refused.returncode == 1, (path, refused.stderr)
        error = json.loads(refused.stdout)["error"]
        assert error["code"] == "io", error
        assert (str(tmp_path / path) in error["detail"], why in error["detail"]) == (True, True), error
        assert "$.body" not in error["detail"]
    assert (tmp_path / "there").read_text() == "mine"


@pytest.mark.parametrize("verb", ["restore", "import"])
def test_a_file_that_cannot_be_read_is_1_with_the_reason_and_the_path(tmp_path: Path, verb: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, why in (("nothing", "No such file"), (".", "Is a directory"), ("pipe", "not a plain file")):
        done = subprocess.run(
            [sys.executable, "-m", "synapse", "journal", verb, str(tmp_path / path), "--json"],
            env=environment(tmp_path / "home"),
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 1, (path, done.stderr)
        error = json.loads(done.stdout)["error"]
        assert (error["code"], why in error["detail"], str(tmp_path / path) in error["detail"]) == ("io", True, True), (
            error
        )
    assert not (tmp_path / "home").exists(), "nothing was made"
