"""`doctor`: each thing that may stand in the way is found, named with its cure, and nothing is changed by looking."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import where_modes_count
from tests.faces.conftest import Frame, PaperHub, RealHub, Script, environment, reply, welcome

from synapse import __version__
from synapse.faces.cli.main import main
from synapse.home import HubFile, fallback_socket_path, write_hub_file

GREEN: dict[str, object] = {
    "health": "green",
    "reasons": [],
    "version": __version__,
    "pid": 1,
    "uptime_ms": 60_000,
    "base": 100,
    "head": 200,
    "verified_through": 200,
    "journal_bytes": 1 << 20,
    "lease_clock_lag_ms": 0,
    "clock_jumps": 0,
    "clock_jumped_ms": 0,
    "limited": [],
    "stuck": 0,
    "engine": "SQLite 3.51.3",
}


def says(**more: object) -> Script:
    """A hub whose status is this."""

    def script(hub: PaperHub, request: Frame) -> list[Frame]:
        return [welcome(request) if request["type"] == "hello" else reply(request, **{**GREEN, **more})]

    return script


def look(capsys: pytest.CaptureFixture[str], code: int) -> dict[str, list[tuple[str, str, str | None]]]:
    """Findings by name, of a run in this process."""
    assert main(["doctor", "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["healthy"] is (code == 0)
    named: dict[str, list[tuple[str, str, str | None]]] = {}
    for item in found["findings"]:
        named.setdefault(item["name"], []).append((item["level"], item["detail"], item["cure"]))
    return named


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of this process, and nothing of ours in its environment."""
    for name in os.environ:
        if name.startswith("SYN") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, text in environment(tmp_path / "home", HOME=str(tmp_path)).items():
        monkeypatch.setenv(name, text)
    return tmp_path / "home"


def test_with_a_hub_that_is_well_all_is_well_in_words_and_as_json(hub: RealHub) -> None:
    done = hub.run("doctor")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "all is well"
    assert not [line for line in done.stdout.splitlines() if line.startswith("problem")]
    assert {item["level"] for item in hub.json("doctor")["findings"]} <= {"ok", "note", "warning"}


def test_a_trace_that_is_none_is_told(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACEPARENT", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    assert "trace" not in look(capsys, 1)
    monkeypatch.setenv("TRACEPARENT", "00-words")
    [(level, detail, _)] = look(capsys, 1)["trace"]
    assert (level, detail[-8:]) == ("note", "00-words")


def test_without_a_hub_it_says_how_to_start_one(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    level, detail, cure = look(capsys, 1)["hub"][0]
    assert (level, "no hub runs" in detail) == ("problem", True)
    assert cure is not None
    assert cure.startswith("synapse hub")
    assert not home.exists(), "looking makes nothing"


def test_a_rendezvous_file_of_a_dead_hub_is_called_stale(hub: RealHub) -> None:
    hub.end(signal.SIGKILL)
    done = hub.run("doctor", "--json")
    assert done.returncode == 1
    (finding,) = [item for item in json.loads(done.stdout)["findings"] if item["name"] == "hub"]
    assert "is stale" in finding["detail"]
    assert "synapse hub" in finding["cure"]


def _is_kept_elsewhere(path: Path) -> None:
    path.rename(path.parent.parent / path.name)


def _is_a_directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir(mode=0o700)


def _leads_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _has_no_mode(path: Path) -> None:
    path.chmod(0)


@pytest.mark.parametrize(
    ("name", "breaks", "code"),
    [
        ("token", _has_no_mode, 78),
        ("token", lambda path: path.write_bytes(bytes(44)), 78),
        ("token", lambda path: path.write_bytes(b""), 78),
        ("token", _is_a_directory, 78),
        ("token", _leads_nowhere, 78),
        ("hub.sock", _is_a_directory, 71),
        ("hub.lock", _has_no_mode, 78),
        ("journal.mark", _has_no_mode, 78),
        ("journal.mark", _is_kept_elsewhere, 78),
        ("journal.db", _has_no_mode, 78),
        ("journal.db", _is_kept_elsewhere, 78),
        (".", lambda path: path.chmod(0o500), 78),
    ],
)
def test_what_a_start_would_refuse_about_its_home_is_said_in_its_words(
    hub: RealHub, name: str, breaks: Callable[[Path], None], code: int
) -> None:
    hub.end()
    hub.prefix = where_modes_count()
    breaks(hub.home / name)
    before = sorted((path, path.lstat().st_mtime_ns) for path in (hub.home, *hub.home.iterdir()))
    done = hub.run("doctor", "--json")
    assert sorted((path, path.lstat().st_mtime_ns) for path in (hub.home, *hub.home.iterdir())) == before
    said = [item for item in json.loads(done.stdout)["findings"] if item["name"] == "home"]
    refused = hub.run("hub", "--port", "0")
    hub.home.chmod(0o700)
    assert (done.returncode, refused.returncode) == (1, code), (done, refused)
    assert [item["level"] for item in said] == ["problem"]
    assert f"synapse hub: {said[0]['detail']}; {said[0]['cure']}\n" == refused.stderr


@pytest.mark.parametrize("place", ["link", "closed/home", "file/home"])
def test_a_home_that_cannot_be_made_is_a_problem_before_the_first_hub(hub: RealHub, tmp_path: Path, place: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "closed").mkdir(mode=0o500)
    (tmp_path / "file").touch()
    hub.prefix = where_modes_count()
    done = hub.run("doctor", "--home", str(tmp_path / place))
    assert done.returncode == 1
    assert f"problem home          {tmp_path / place}: cannot be the home (" in done.stdout
    refused = hub.run("hub", "--home", str(tmp_path / place))
    assert refused.returncode == 78


def test_what_keeps_agents_or_snapshots_out_of_the_home_of_a_hub_that_runs_is_named(hub: RealHub) -> None:
    hub.prefix = where_modes_count()
    assert hub.run("--name", "ada", "send", "hi").returncode == 0
    (hub.home / "snapshots").mkdir(mode=0o700, exist_ok=True)
    secret = next(hub.home.glob("secrets/*/ada"))
    names = ("snapshots", "secrets", "hub.json", "token")
    for hidden in (*(hub.home / name for name in names), secret.parent, secret):
        assert hub.run("--name", "ada", "doctor").returncode == 0
        mode = hidden.stat().st_mode & 0o777
        hidden.chmod(0)
        done = hub.run("--name", "ada", "doctor")
        hidden.chmod(mode)
        assert done.returncode == 1
        [(at, line)] = [found for found in enumerate(done.stdout.splitlines()) if found[1].startswith("problem")]
        assert str(hidden) in line
        assert f"chmod u+rw{'x' if hidden.is_dir() else ''} {hidden}" in done.stdout.splitlines()[at + 1]


def test_a_hub_that_runs_and_cannot_be_found_is_named_by_its_lock(hub: RealHub) -> None:
    assert hub.process is not None
    for text in ("{", None):
        path = hub.home / "hub.json"
        path.unlink() if text is None else path.write_text(text)
        [finding] = [item for item in hub.json("doctor", code=1)["findings"] if item["name"] == "hub"]
        assert f"the process {hub.process.pid} has the home" in finding["detail"]
        assert f"kill {hub.process.pid}" in finding["cure"]


def test_what_other_users_may_open_is_named_with_the_command_that_closes_it(hub: RealHub) -> None:
    (hub.home / "token").chmod(0o644)
    done = hub.run("doctor")
    assert done.returncode == 1
    assert f"chmod go= {hub.home}/token" in done.stdout
    (hub.home / "token").chmod(0o600)
    assert hub.run("doctor").returncode == 0


def test_a_certificate_in_the_home_may_be_read_by_others_and_its_key_not(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home.mkdir(mode=0o700)
    certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    (home / "hub.pem").write_text(certificate)
    (home / "hub.pem").chmod(0o644)
    assert [level for level, _, _ in look(capsys, 1)["home"]] == ["ok"]
    (home / "both.pem").write_text(f"{certificate}-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\n")
    (home / "both.pem").chmod(0o644)
    [(level, detail, cure)] = look(capsys, 1)["home"]
    assert (level, detail, cure) == (
        "problem",
        f"other users may open {home}/both.pem",
        f"chmod go= {home}/both.pem",
    )


def test_a_second_journal_where_a_home_may_be_is_named(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], paper: Callable[[Script], PaperHub]
) -> None:
    paper(says())
    other = tmp_path / ".local/state/synapse"
    other.mkdir(parents=True)
    assert "homes" not in look(capsys, 0)
    (other / "journal.db").touch()
    level, detail, cure = look(capsys, 0)["homes"][0]
    assert level == "warning"
    assert str(other) in detail
    assert "SYNAPSE_HOME" in str(cure)
    for pid, words in ((os.getpid(), "(a hub runs there)"), (2**22 + 1, "(no hub runs there)")):
        write_hub_file(other, HubFile(pid=pid, uris=(), journal_id="a", hub_id="b"))
        assert words in look(capsys, 0)["homes"][0][1]
    (other / "hub.json").write_text("{")
    assert "(no hub runs there)" in look(capsys, 0)["homes"][0][1], "what is no rendezvous stops nothing"


@pytest.mark.parametrize(
    ("more", "name", "level", "words"),
    [
        ({"version": "0.0.9"}, "version", "warning", "the hub is synapse 0.0.9"),
        ({"reasons": ["read_only: the disk is full"]}, "health", "problem", "the disk is full"),
        ({"verified_through": 100}, "journal", "note", "still proving"),
        (
            {"clock_jumps": 2, "clock_jumped_ms": -3_600_000},
            "clock",
            "note",
            "2 times since the start, last by -3600 s",
        ),
        ({"clock_jumps": 1, "clock_jumped_ms": 5_000}, "clock", "note", "once since the start, by +5 s"),
        ({"lease_clock_lag_ms": 11_000}, "lease clock", "warning", "11 s in all"),
        ({"limited": ["ada"]}, "rate", "warning", "ada was refused"),
        ({"stuck": 3}, "slow peers", "warning", "3 connections"),
        ({"engine": "SQLite 3.40.1"}, "engine", "note", "WAL-reset bug"),
        ({"engine": "SQLite 3.51.3"}, "engine", "ok", "SQLite 3.51.3"),
    ],
)
def test_what_the_hub_says_of_itself_is_explained(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    paper: Callable[[Script], PaperHub],
    more: dict[str, object],
    name: str,
    level: str,
    words: str,
) -> None:
    paper(says(**more))
    found = look(capsys, 1 if level == "problem" else 0)[name][0]
    assert found[0] == level
    assert words in found[1]
    assert (found[2] is not None) or level in ("ok", "note")


@pytest.mark.parametrize(("free_bytes", "level"), [(1 << 20, "problem"), (100 << 20, "warning"), (1 << 40, "ok")])
def test_a_disk_that_is_nearly_full_is_seen_before_the_hub_meets_its_end(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    paper: Callable[[Script], PaperHub],
    monkeypatch: pytest.MonkeyPatch,
    free_bytes: int,
    level: str,
) -> None:
    paper(says())
    blocks = os.statvfs_result((4096, 4096, 0, 0, free_bytes // 4096, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: blocks)
    assert look(capsys, 1 if level == "problem" else 0)["disk"][0][0] == level


def test_proxies_are_mentioned_unless_the_hub_is_spared(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    paper: Callable[[Script], PaperHub],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paper(says())
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    level, detail, _ = look(capsys, 0)["proxy"][0]
    assert (level, "HTTP_PROXY" in detail) == ("note", True)
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    assert "proxy" not in look(capsys, 0)


def test_a_home_with_a_long_path_says_where_its_socket_lies(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNAPSE_HOME", str(tmp_path / ("x" * 100)))
    assert fallback_socket_path(tmp_path / ("x" * 100)) in look(capsys, 1)["socket"][0][1]


def test_a_hub_of_another_protocol_is_a_problem_with_a_cure(
    home: Path, capsys: pytest.CaptureFixture[str], paper: Callable[[Script], PaperHub]
) -> None:
    def script(hub: PaperHub, request: Frame) -> list[Frame]:
        detail = "the client speaks protocol 1, this hub 2: upgrade the client"
        error: Frame = {"code": "protocol_version", "detail": detail, "facts": {}, "retry_after_ms": None}
        return [{"type": "error", "id": request["id"], "seq": 0, "error": error}]

    paper(script)
    level, detail, cure = look(capsys, 1)["hub"][0]
    assert (level, cure) == ("problem", "upgrade the client")
    assert "refuses" in detail


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1\n", "there is no setting prot; did you mean port?"),
        ("port = 'x'\n", "port: a text where a whole number belongs"),
        ("[limits]\nmesage_bytes_max = 9\n", "there is no setting limits.mesage_bytes_max"),
        ("port = \n", "not TOML"),
        ("[client\n", "not TOML"),
        ("[clinet]\nroom = 'x'\n", "there is no setting clinet; did you mean client?"),
        ("[client]\nrom = 'x'\n", "there is no setting client.rom; did you mean client.room?"),
        ("tls_cert = 'x'\n", "tls_key is missing"),
    ],
)
def test_a_configuration_that_a_hub_refuses_is_a_problem_with_the_file_to_mend(
    hub: RealHub, text: str, said: str
) -> None:
    path = hub.home / "config.toml"
    path.write_text(text)
    done = hub.run("doctor", "--json")
    assert done.returncode == 1, done.stderr
    (finding,) = [item for item in json.loads(done.stdout)["findings"] if item["name"] == "configuration"]
    assert (finding["level"], said in finding["detail"]) == ("problem", True), finding
    assert str(path) in finding["cure"]
    starting = hub.run("hub")
    assert (starting.returncode, said in starting.stderr) == (78, True), "the hub says the same"


def test_a_configuration_that_is_well_is_said_to_be(hub: RealHub) -> None:
    def configuration() -> list[tuple[str, str]]:
        found = hub.json("doctor")["findings"]
        return [(item["level"], item["detail"]) for item in found if item["name"] == "configuration"]

    assert configuration() == [("ok", f"{hub.home}/config.toml is not there: what no variable sets has its default")]
    (hub.home / "config.toml").write_text("port = 0\n[client]\nroom = 'x'\n")
    assert configuration() == [("ok", f"{hub.home}/config.toml")]


def test_a_variable_that_a_hub_refuses_is_a_problem_too(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNAPSE_PORT", "many")
    [(level, detail, cure)] = look(capsys, 1)["configuration"]
    assert (level, "SYNAPSE_PORT" in detail) == ("problem", True)
    assert cure is not None
    assert "or the SYNAPSE_ variable" in cure


def test_a_hub_that_stands_still_is_told_with_what_lets_it_go_on(hub: RealHub) -> None:
    assert hub.process is not None
    pid = hub.process.pid
    hub.process.send_signal(signal.SIGSTOP)
    try:
        done = hub.run("doctor", "--json", "--timeout", "0.5")
    finally:
        hub.process.send_signal(signal.SIGCONT)
    assert done.returncode == 1
    (finding,) = [item for item in json.loads(done.stdout)["findings"] if item["name"] == "hub"]
    assert "stopped" in finding["detail"]
    assert finding["cure"].startswith(f"kill -CONT {pid}")
    assert hub.run("doctor").returncode == 0


def test_a_hub_that_runs_and_does_not_answer_is_told_with_what_ends_it(
    paper: Callable[[Script], PaperHub], home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paper(lambda hub, request: [])
    monkeypatch.setenv("SYNAPSE_TIMEOUT", "0.3")
    [(level, _, cure)] = look(capsys, 1)["hub"]
    assert (level, str(cure).startswith("synapse hub")) == ("problem", True), "it has not the lock: it is no hub"
    with (home / "hub.lock").open("w") as lock:
        lock.write(str(os.getpid()))
        [(_, _, cure)] = look(capsys, 1)["hub"]
    assert str(cure).startswith(f"kill {os.getpid()} ends it")
