"""`session …` against a real hub."""

import signal
from pathlib import Path

from tests.faces.conftest import RealHub

ADA, BOB = {"SYNAPSE_NAME": "ada"}, {"SYNAPSE_NAME": "bob"}


def test_a_run_is_recorded_and_read_by_others_also_after_a_kill_of_the_hub(hub: RealHub, tmp_path: Path) -> None:
    began = hub.run("session", "start", "--task", "T1", "--summary", "fix it", "--metadata", '{"b": "main"}', **ADA)
    session = began.stdout.strip()
    assert session.startswith("s")
    updated = hub.json("session", "update", "--decision", "use X", "--file", "a.py", "--todo", "t1", SYNAPSE_NAME="ada")
    assert (updated["session"], updated["decisions"], updated["changed"]) == (session, 1, True)
    (tmp_path / "out.txt").write_text("result")
    hub.run("session", "checkpoint", '{"step": 1}', **ADA)
    kept = hub.json("session", "checkpoint", '{"step": 2}', "--artefact", str(tmp_path / "out.txt"), SYNAPSE_NAME="ada")
    assert (kept["n"], kept["session"]) == (2, session)
    hub.end(signal.SIGKILL)
    hub.start()
    found = hub.json("session", "show", "--agent", "ada", SYNAPSE_NAME="bob")
    assert (found["decisions"], found["last"]["data"]) == (["use X"], {"step": 2})
    lines = hub.lines("session", "checkpoints", session, SYNAPSE_NAME="bob")
    assert [line["data"] for line in lines] == [{"step": 2}, {"step": 1}]
    assert lines[0]["artefacts"][0]["bytes"] == 6
    words = hub.run("session", "show", session, **BOB).stdout
    assert "use X" in words
    assert "checkpoint 2 of ada" in words


def test_lists_are_replaced_where_that_is_asked_for_and_versions_are_compared(hub: RealHub) -> None:
    first = hub.json("session", "start", SYNAPSE_NAME="ada")
    hub.json("session", "update", "--todo", "a", "--todo", "b", SYNAPSE_NAME="ada")
    stale = hub.json(
        "session", "update", "--replace", "todos", "--if-version", str(first["version"]), code=3, SYNAPSE_NAME="ada"
    )["error"]
    assert stale["code"] == "version_conflict"
    version = str(stale["facts"]["version"])
    left = hub.json(
        "session", "update", "--replace", "todos", "--todo", "c", "--if-version", version, SYNAPSE_NAME="ada"
    )
    assert left["todos"] == 1
    assert hub.run("session", "update", "--replace", "nothing", **ADA).returncode == 2
    assert hub.json("session", "end", "--state", "error", "--reason", "lost", SYNAPSE_NAME="ada")["state"] == "error"
    assert (
        hub.json("session", "update", "--todo", "d", code=4, SYNAPSE_NAME="ada")["error"]["facts"]["next"]
        == "synapse session start"
    )
    assert hub.json("session", "list", "--state", "error", SYNAPSE_NAME="bob")["sessions"][0]["reason"] == "lost"


def test_who_waits_in_a_long_poll_is_online_and_a_beat_keeps_a_run_online(hub: RealHub) -> None:
    session = hub.json("session", "start", SYNAPSE_NAME="ada")["session"]
    hub.end(signal.SIGKILL)
    hub.start()
    assert hub.json("session", "show", session, SYNAPSE_NAME="bob")["presence"] == "offline"
    waiter = hub.begin("wait", "--json", **ADA)
    hub.until(lambda shown: shown["presence"] == "online", "session", "show", session)
    waiter.terminate()
    waiter.communicate()
    hub.until(lambda shown: shown["presence"] == "offline", "session", "show", session)
    assert hub.json("session", "beat", SYNAPSE_SESSION=session, SYNAPSE_NAME="ada")["session"] == session
    assert hub.json("session", "show", session, SYNAPSE_NAME="bob")["presence"] == "online"


def test_an_operator_says_which_session_it_means(hub: RealHub) -> None:
    session = hub.json("session", "start", SYNAPSE_NAME="ada")["session"]
    for verb in ("update", "end"):
        refused = hub.run("session", verb, "--operator", SYNAPSE_NAME="ada")
        assert (refused.returncode, "--operator needs --session" in refused.stderr) == (2, True)
    assert hub.run("session", "end", "--operator", "--session", session).returncode == 0
