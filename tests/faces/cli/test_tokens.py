"""Tokens as a black box: made by an operator, carried to another home, and used over TLS as a remote agent does."""

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Certificates, certificates
from tests.faces.conftest import RealHub, environment


class Remote:
    """An agent elsewhere: a home of its own, a token, and the address of a hub."""

    def __init__(self, home: Path, uri: str, token: Path, ca: Path) -> None:
        self.home = home
        self.env = {"SYNAPSE_URI": uri, "SYNAPSE_TOKEN_FILE": str(token), "SYNAPSE_TLS_CA": str(ca)}

    def run(self, *words: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """One command to its end."""
        command = [sys.executable, "-m", "synapse", *words]
        given = environment(self.home, **{**self.env, **env})
        return subprocess.run(command, env=given, capture_output=True, text=True, timeout=30, cwd=self.home)

    def json(self, *words: str, code: int = 0, **env: str) -> Any:
        """One command with --json: its one object."""
        done = self.run(*words, "--json", **env)
        assert done.returncode == code, (done.stdout, done.stderr)
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def over_tls(tmp_path: Path, made: Certificates) -> Iterator[RealHub]:
    """A hub at an address that is not localhost's, under TLS."""
    hub = RealHub(tmp_path / "home")
    hub.start("--host", "127.0.0.2", "--tls-cert", str(made.cert), "--tls-key", str(made.key))
    yield hub
    hub.end()


def remote(hub: RealHub, folder: Path, made: Certificates, *create: str) -> Remote:
    """A home elsewhere with a new token."""
    folder.mkdir(0o700)
    path = folder / "its.token"
    hub.json("token", "create", *create, "--out", str(path))
    uri = next(uri for uri in hub.ready_line.split() if uri.startswith("wss://127.0.0.2:"))
    return Remote(folder, uri, path, made.ca)


def test_a_remote_agent_works_over_tls_with_a_token_of_its_own(
    over_tls: RealHub, tmp_path: Path, made: Certificates
) -> None:
    ada = remote(over_tls, tmp_path / "ada", made, "--role", "agent", "--label", "ada's laptop", "--expires", "2h")
    assert stat.S_IMODE((tmp_path / "ada" / "its.token").stat().st_mode) == 0o600
    assert ada.run("--name", "ada", "send", "from afar").returncode == 0
    assert [m["body"] for m in over_tls.lines("history")] == ["from afar"]
    over_tls.json("send", "--to", "ada", "to afar")
    assert ada.json("--name", "ada", "wait")["body"] == "to afar"
    assert ada.json("--name", "ada", "claim", "T1")["owner"] == "ada"
    locked = ada.run("--name", "ada", "lock", "T2", "--", sys.executable, "-c", "print('under the lock')")
    assert (locked.returncode, locked.stdout) == (0, "under the lock\n"), locked.stderr
    assert [lease["task"] for lease in over_tls.json("state")["leases"]] == ["T1"]
    refused = ada.json("pool", "set", "gpu", "2", code=77)
    assert refused["error"]["code"] == "not_permitted"
    [listed] = over_tls.json("token", "list")["tokens"]
    assert (listed["label"], listed["last_used_at_ms"] is None, "hash" in listed) == ("ada's laptop", False, False)
    over_tls.json("token", "revoke", listed["token"])
    assert ada.json("status", code=77)["error"]["code"] == "unauthorized"
    assert [lease["task"] for lease in over_tls.json("state")["leases"]] == ["T1"]


def test_a_supervisor_from_afar_trusts_the_ca_that_its_flag_names(
    over_tls: RealHub, tmp_path: Path, made: Certificates
) -> None:
    boss = remote(over_tls, tmp_path / "boss", made, "--role", "admin")
    done = boss.run("supervisor", "--once", SYNAPSE_TLS_CA="")
    assert (done.returncode, "its certificate is not trusted" in done.stderr) == (69, True), done.stderr
    done = boss.run("supervisor", "--once", "--tls-ca", str(made.ca), SYNAPSE_TLS_CA="")
    assert done.returncode == 0, done.stderr


def test_an_admin_is_an_operator_from_afar(over_tls: RealHub, tmp_path: Path, made: Certificates) -> None:
    boss = remote(over_tls, tmp_path / "boss", made, "--role", "admin")
    boss.json("pool", "set", "gpu", "2")
    assert boss.json("journal", "verify")["events"] > 0
    made_there = boss.json("token", "create", "--role", "observer")
    assert len(made_there["secret"]) == 43
    assert made_there["secret"].encode() not in (tmp_path / "home" / "journal.db").read_bytes()
    (tmp_path / "boss" / "eyes").write_text(made_there["secret"], encoding="utf-8")
    eyes = str(tmp_path / "boss" / "eyes")
    assert boss.json("status", SYNAPSE_TOKEN_FILE=eyes)["health"] == "green"
    assert boss.json("send", "hello", code=77, SYNAPSE_TOKEN_FILE=eyes)["error"]["facts"] == {
        "role": "observer",
        "needed": "agent",
    }
    assert boss.json("journal", "verify", code=77, SYNAPSE_TOKEN_FILE=eyes)["error"]["code"] == "not_permitted"


@pytest.mark.bad_input("BI-96")
def test_a_certificate_that_does_not_hold_is_never_accepted(
    over_tls: RealHub, tmp_path: Path, made: Certificates
) -> None:
    ada = remote(over_tls, tmp_path / "ada", made, "--role", "agent")
    stranger = certificates(tmp_path / "stranger")
    for env, words in (
        ({"SYNAPSE_TLS_CA": ""}, "its certificate is not trusted"),
        ({"SYNAPSE_TLS_CA": str(stranger.ca)}, "its certificate is not trusted"),
        ({"SYNAPSE_URI": ada.env["SYNAPSE_URI"].replace("wss:", "ws:")}, "no WebSocket"),
    ):
        done = ada.run("status", **env)
        assert (done.returncode, words in done.stderr) == (69, True), done.stderr
    done = ada.run("status", "--tls-ca", str(tmp_path / "absent.pem"))
    assert (done.returncode, "no certificates of a CA" in done.stderr) == (78, True)


@pytest.mark.bad_input("BI-96")
def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    elsewhere = certificates(tmp_path / "elsewhere", "DNS:hub.example")
    hub = RealHub(tmp_path / "home")
    hub.start("--host", "127.0.0.2", "--tls-cert", str(elsewhere.cert), "--tls-key", str(elsewhere.key))
    ada = remote(hub, tmp_path / "ada", elsewhere, "--role", "agent")
    done = ada.run("status")
    assert (done.returncode, "IP address mismatch" in done.stderr) == (69, True), done.stderr
    hub.end()


def test_create_says_the_secret_once_and_never_writes_over_a_file(hub: RealHub, tmp_path: Path) -> None:
    done = hub.run("token", "create", "--role", "agent", "--rooms", "lab, main")
    assert (done.returncode, len(done.stdout.strip())) == (0, 43)
    assert "for lab, main" in done.stderr
    assert "no room lab yet" in done.stderr
    assert "no room main" not in done.stderr
    assert done.stdout.strip() not in hub.run("token", "list").stdout
    there = tmp_path / "there"
    there.write_text("mine")
    assert hub.run("token", "create", "--role", "agent", "--out", str(there)).returncode == 1
    nowhere = tmp_path / "no" / "where"
    done = hub.run("token", "create", "--role", "agent", "--out", str(nowhere))
    assert (done.returncode, done.stderr) == (1, f"synapse: No such file or directory: {nowhere}\n")
    assert there.read_text() == "mine"
    assert len(hub.json("token", "list")["tokens"]) == 1, "one that nobody holds does not stay"
    assert hub.run("token", "create").returncode == 2


def test_a_secret_that_could_not_be_printed_is_taken_back(hub: RealHub) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    command, words = (sys.executable, "-m", "synapse", "token", "create"), ("--role", "agent")
    with Path("/dev/full").open("w") as full:
        for as_json in ((), ("--json",)):
            done = subprocess.run((*command, *words, *as_json), env=environment(hub.home), stdout=full, timeout=30)
            assert done.returncode == 1
    assert hub.json("token", "list")["tokens"] == []


def test_the_log_and_doctor_warn_of_a_port_that_others_can_read_along(tmp_path: Path) -> None:
    hub, log = RealHub(tmp_path / "home"), tmp_path / "log"
    hub.start("--host", "0.0.0.0", "--insecure-bind", "--log-file", str(log))
    found = hub.run("doctor", "--json")
    hub.end()
    assert [item["level"] for item in json.loads(found.stdout)["findings"] if item["name"] == "network"] == ["warning"]
    assert "network.open" in log.read_text()
