"""`ingest` against a real hub."""

import json
import signal
import subprocess

import pytest
from tests.faces.conftest import RealHub

ADA, BOB, EVE = {"SYNAPSE_NAME": "ada"}, {"SYNAPSE_NAME": "bob"}, {"SYNAPSE_NAME": "eve"}


def some_work(hub: RealHub) -> None:
    """A message, a direct one, a task with its lease, a finding, a checkpoint, a value."""
    hub.json("send", "hello", SYNAPSE_NAME="ada")
    hub.json("send", "--create", "--to", "bob", "CANARY", SYNAPSE_NAME="ada")
    hub.json("task", "declare", "T1", SYNAPSE_NAME="ada")
    hub.json("claim", "T1", SYNAPSE_NAME="ada")
    hub.json("task", "progress", "T1", "the parser leaks", "--kind", "finding", SYNAPSE_NAME="ada")
    hub.json("checkpoint", "T1", '{"step":3}', SYNAPSE_NAME="ada")
    hub.json("kv", "put", "cfg", '{"a":1}', SYNAPSE_NAME="ada")


def kinds(lines: list[dict[str, object]]) -> list[object]:
    return [line["kind"] for line in lines]


def test_it_prints_what_happened_by_cursor_kind_and_memory(hub: RealHub) -> None:
    some_work(hub)
    lines = hub.lines("ingest", SYNAPSE_NAME="ada")
    assert all({"cursor", "at_ms", "by", "kind"} <= line.keys() for line in lines)
    wanted = ["message.posted", "message.sent", "task.declared", "lease.granted", "progress.finding", "value.put"]
    assert [kind for kind in kinds(lines) if kind in wanted] == wanted
    plain = hub.run("ingest", **ADA)
    assert [json.loads(line) for line in plain.stdout.splitlines()] == lines, "lines of JSON, asked for or not"
    assert hub.lines("ingest", "--since", str(lines[5]["cursor"]), SYNAPSE_NAME="ada") == lines[6:]
    assert hub.lines("ingest", "--limit", "3", SYNAPSE_NAME="ada") == lines[:3]
    found = hub.lines("ingest", "--memory", SYNAPSE_NAME="bob")
    assert [(line["kind"], line.get("text") or line.get("data")) for line in found] == [
        ("progress.finding", "the parser leaks"),
        ("lease.checkpointed", {"step": 3}),
    ]
    both = hub.lines("ingest", "--kind", "value", "--kind", "task.declared", SYNAPSE_NAME="eve")
    assert kinds(both) == ["task.declared", "value.put"]
    assert "CANARY" in hub.run("ingest", **BOB).stdout
    assert "CANARY" not in hub.run("ingest", **EVE).stdout


@pytest.mark.bad_input("BI-105")
def test_what_it_cannot_read_it_refuses(hub: RealHub) -> None:
    assert hub.json("ingest", "--since", "x", code=3)["error"]["code"] == "bad_request"
    assert hub.json("ingest", "--since", "0" * 16 + ":1", code=3)["error"]["code"] == "log_diverged"
    assert hub.json("ingest", "--kind", "gossip", code=3)["error"]["code"] == "bad_request"
    assert hub.json("ingest", "--room", "nowhere", code=4)["error"]["code"] == "not_found"


def read(process: "subprocess.Popen[str]", count: int) -> list[dict[str, object]]:
    assert process.stdout is not None
    return [json.loads(process.stdout.readline()) for _ in range(count)]


def test_a_follower_hears_all_of_it_once_over_kills_of_the_hub(hub: RealHub) -> None:
    follower = hub.begin("ingest", "--follow", "--kind", "message.posted", **EVE)
    told: list[dict[str, object]] = []
    for round_ in range(3):
        for n in range(4):
            hub.json("send", f"{round_}.{n}", SYNAPSE_NAME="ada")
        told += read(follower, 2 if round_ == 0 else 4)
        hub.end(signal.SIGKILL)
        hub.start()
    told += read(follower, 2)
    assert [line["body"] for line in told] == [f"{round_}.{n}" for round_ in range(3) for n in range(4)]
    follower.terminate()
    follower.communicate(timeout=10)
    assert hub.lines("ingest", "--kind", "message.posted", SYNAPSE_NAME="bob") == told
    limited = hub.begin("ingest", "--follow", "--limit", "13", "--kind", "message", **EVE)
    assert read(limited, 12) == told
    hub.json("send", "last", SYNAPSE_NAME="ada")
    assert limited.communicate(timeout=10)[0].count("\n") == 1
    assert limited.returncode == 0
