"""`journal export` and `import` on the command line, beside a hub and without one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faces.conftest import PaperHub, RealHub, Script, welcome

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
    assert not list(hub.home.glob("export-*")), "the copy is gone"
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
    assert hub.run("journal", "import", str(tmp_path / "nothing")).returncode == 2


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
