"""`supervisor` against a real hub, and the one that a hub starts itself."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.faces.conftest import RealHub, environment


def test_one_look_tells_what_it_finds_and_the_next_one_nothing(hub: RealHub) -> None:
    hub.json("claim", "T1", SYNAPSE_NAME="ada")
    hub.json("task", "declare", "A", SYNAPSE_NAME="ada")
    hub.json("task", "update", "A", "--status", "in_progress", SYNAPSE_NAME="ada")
    time.sleep(1.1)
    look = ("supervisor", "--once", "--stalled", "1", "--orphaned", "1")
    lines = hub.lines(*look)
    found = {line["cause"]: (line["task"], line["what"], line["to"]) for line in lines}
    assert found == {
        "stalled": ("T1", "told", ["main:general"]),
        "orphaned": ("A", "put_back", ["main:general"]),
    }
    assert hub.lines(*look) == []
    assert hub.json("task", "show", "A", SYNAPSE_NAME="ada")["ready"] is True
    told = hub.lines("history", SYNAPSE_NAME="ada")
    for line, message in zip(lines, told, strict=True):
        assert int(line["cursor"].rpartition(":")[2]) > int(message["cursor"].rpartition(":")[2]), "it was told by then"
    assert {(message["from"], message["body"]["type"]) for message in told} == {
        ("supervisor", "task.stalled"),
        ("supervisor", "task.orphaned"),
    }


@pytest.mark.bad_input("BI-54")
def test_what_it_cannot_work_with_is_refused(hub: RealHub) -> None:
    assert hub.json("supervisor", "--once", "--every", "0", code=2)["error"]["code"] == "usage"
    assert hub.json("supervisor", "--once", "--tries", "0", code=2)["error"]["code"] == "usage"
    assert hub.json("supervisor", "--once", "--uri", "http://x", code=2)["error"]["code"] == "usage"
    assert hub.json("supervisor", "--once", "--room", "nowhere", code=4)["error"]["code"] == "not_found"


@pytest.mark.parametrize("redirected", ["</dev/null", "<{file}", "< <(exit)"])
def test_with_an_input_that_has_ended_it_ends(hub: RealHub, tmp_path: Path, redirected: str) -> None:
    (tmp_path / "file").write_text("what is read of it is ignored\n")
    script = f"exec {sys.executable} -m synapse supervisor --until-eof {redirected.format(file=tmp_path / 'file')}"
    done = subprocess.run(["bash", "-c", script], env=environment(hub.home), capture_output=True, text=True, timeout=30)
    assert (done.returncode, "watching as supervisor" in done.stderr) == (0, True), done.stderr


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_in_order(hub: RealHub, how: signal.Signals) -> None:
    watching = hub.begin("supervisor")
    assert watching.stderr is not None
    assert "watching as supervisor" in watching.stderr.readline()
    watching.send_signal(how)
    assert (watching.communicate(timeout=20), watching.returncode) == (("", ""), 0)


def supervisor_pid(hub: RealHub, other_than: int = 0) -> int:
    """The child of the hub, once it is connected."""
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        said = [json.loads(line) for line in (hub.home / "hub.log").read_text().splitlines()]
        watching = [line["pid"] for line in said if line["action"] == "supervisor.said" and "watching" in line["text"]]
        found: list[int] = [pid for pid in watching if pid != other_than]
        if found:
            return found[-1]
        time.sleep(0.05)
    raise AssertionError("no supervisor came")


def is_gone(pid: int) -> bool:
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_hub_keeps_its_supervisor_running_and_takes_it_along(hub: RealHub) -> None:
    hub.end()
    hub.start("--supervise", "--log-file", str(hub.home / "hub.log"))
    first = supervisor_pid(hub)
    assert {agent["name"]: agent["kind"] for agent in hub.json("who", SYNAPSE_NAME="ada")["agents"]}[
        "supervisor"
    ] == "service"
    os.kill(first, signal.SIGKILL)
    second = supervisor_pid(hub, other_than=first)
    assert hub.end() == 0
    assert is_gone(second)
    (hub.home / "hub.log").unlink()
    hub.start("--supervise", "--log-file", str(hub.home / "hub.log"))
    third = supervisor_pid(hub)
    hub.end(signal.SIGKILL)
    assert is_gone(third), "also when the hub is killed"
