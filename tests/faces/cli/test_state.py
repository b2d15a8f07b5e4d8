"""`state` and `state --watch`: the tree for people, the objects for programs, and nothing missed between."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.faces.conftest import JOURNAL, Frame, PaperHub, RealHub, Script, environment, refusal, reply, welcome

from synapse.faces.cli.main import main
from synapse.faces.cli.state import tree

Start = Callable[[Script], PaperHub]


def lines_of(process: "subprocess.Popen[str]", count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(count)]


def objects_of(process: "subprocess.Popen[str]", count: int) -> list[Any]:
    return [json.loads(line) for line in lines_of(process, count)]


def test_the_state_for_programs(hub: RealHub) -> None:
    empty = hub.json("state")
    assert (empty["leases"], empty["pools"], empty["cursor"].endswith(str(empty["seq"]))) == ([], [], True)
    hub.json("pool", "set", "gpu", "2")
    mine = hub.json("--name", "ada", "claim", "T1", "--paths", "src/**", "--worktree", "W", "--branch", "b")
    hub.json("--name", "cleo", "claim", "T3", "--pool", "gpu")
    waiting = hub.begin("--name", "bob", "claim", "T2", "--paths", "src/x", "--worktree", "W", "--wait")
    found = hub.until(lambda state: state["leases"][0]["waiters"])
    assert set(found) == {"seq", "leases", "pools", "cursor"}
    lease = found["leases"][0]
    same = ("task", "room", "owner", "epoch", "worktree", "paths", "mode", "ttl_ms", "branch", "status")
    assert {key: lease[key] for key in same} == {key: mine[key] for key in same}
    assert 0 < lease["remaining_ms"] <= lease["ttl_ms"]
    (waiter,) = lease["waiters"]
    assert (waiter["owner"], waiter["task"], waiter["position"], lease["waiting"]) == ("bob", "T2", 1, 1)
    assert [(pool["pool"], pool["held"]) for pool in found["pools"]] == [("gpu", 1)]
    for words, tasks in (
        (["--owner", "cleo"], ["T3"]),
        (["--task", "T1"], ["T1"]),
        (["--worktree", "W"], ["T1"]),
        (["--room", "main"], ["T1", "T3"]),
    ):
        assert [lease["task"] for lease in hub.json("state", *words)["leases"]] == tasks
    hub.json("room", "create", "lab", SYNAPSE_NAME="ada")
    for room, tasks in (("lab", []), ("main", ["T1", "T3"])):
        found = hub.json("state", SYNAPSE_ROOM=room)
        assert [lease["task"] for lease in found["leases"]] == tasks, "the room in force, as of --room"
    assert len(hub.json("state", "--room", "main", SYNAPSE_ROOM="lab")["leases"]) == 2, "the flag comes first"
    assert hub.json("state", "--room", "lob", code=4)["error"]["code"] == "not_found", "it is not said to be free"
    assert waiting.poll() is None


def test_watching_in_a_room_in_force_leaves_the_others_out(hub: RealHub) -> None:
    hub.json("room", "create", "lab", SYNAPSE_NAME="ada")
    watching = hub.begin("--name", "eve", "state", "--watch", "--json", SYNAPSE_ROOM="lab")
    objects_of(watching, 1)
    hub.json("--name", "ada", "claim", "T1", "--room", "main")
    hub.json("--name", "ada", "claim", "T2", "--room", "lab")
    (change,) = objects_of(watching, 1)
    assert (change["room"], change["task"]) == ("lab", "T2")


def test_the_state_for_people(hub: RealHub) -> None:
    assert hub.run("state").stdout == "nothing is held\n"
    epoch = hub.json("--name", "ada", "claim", "T1", "--paths", "src/**", "--worktree", "W", "--note", "n")["epoch"]
    assert re.fullmatch(
        rf"W\n  src/\*\*\n    ada  T1  epoch {epoch}  (15 min 0|14 min 5\d) s left  “n”\n", hub.run("state").stdout
    )


def test_more_leases_than_a_page(hub: RealHub) -> None:
    script = (
        "from synapse.faces.cli.main import main\n"
        "for n in range(230): assert not main(['--name', 'ada', 'claim', f'T{n}'])"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment(hub.home), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [lease["task"] for lease in hub.json("state")["leases"]] == [f"T{n}" for n in range(230)]


def lease(**more: object) -> dict[str, object]:
    body: dict[str, object] = {"task": "T", "room": "main", "owner": "ada", "epoch": 5, "worktree": None, "paths": []}
    return {**body, "mode": "exclusive", "remaining_ms": 61_000, "status": "held", "waiters": [], "waiting": 0, **more}


def waiter(position: int, **more: object) -> dict[str, object]:
    body = {"task": "U", "room": "main", "owner": "bob", "position": position, "priority": "normal"}
    return {**body, "mode": "exclusive", "queued_at_ms": None, **more}


def test_the_tree() -> None:
    leases = [
        lease(task="T3", worktree="W", paths=["z"], mode="shared", branch="trunk", note="half\x1b done"),
        lease(task="T1", worktree="W", whole_worktree=True, room="lab", remaining_ms=None, status="parked"),
        lease(task="T4", pools={"gpu": 2}, offered_to="cleo"),
        lease(
            task="T2",
            worktree="V",
            paths=["a", "b/**"],
            waiters=[waiter(1, priority="high", mode="shared"), waiter(2, owner="eve", room="lab")],
            waiting=4,
        ),
    ]
    pools = [{"pool": "gpu", "capacity": 4, "held": 2, "waiting": 3}, {"pool": "x", "capacity": 1, "held": 0}]
    assert tree({"leases": leases, "pools": pools}).splitlines() == [
        "V",
        "  a",
        "  b/**",
        "    ada  T2  epoch 5  61 s left",
        "      1. bob waits for U  since –  high  shared",
        "      2. eve waits for lab:U  since –",
        "      and 2 more",
        "W",
        "  (all of it)",
        "    ada  lab:T1  epoch 5  parked",
        "  z",
        "    ada  T3  epoch 5  shared  61 s left  on trunk  “half\\x1b done”",
        "without paths",
        "  ada  T4  epoch 5  61 s left  pool gpu=2  offered to cleo",
        "pool gpu  2 of 4 units held, 3 waited for",
        "pool x  0 of 1 units held",
    ]


def test_watching_as_a_program_sees_each_change_also_over_a_kill(hub: RealHub) -> None:
    epoch = hub.json("--name", "ada", "claim", "T1")["epoch"]
    watching = hub.begin("--name", "eve", "state", "--watch", "--json")
    (first,) = objects_of(watching, 1)
    assert [lease["epoch"] for lease in first["leases"]] == [epoch]
    released = hub.json("--name", "ada", "release", "T1")
    (change,) = objects_of(watching, 1)
    assert (change["type"], change["change"], change["task"], change["epoch"]) == (
        "lease.changed",
        "released",
        "T1",
        epoch,
    )
    assert change["cursor"] == released["cursor"]
    hub.end(signal.SIGKILL)
    hub.start()
    hub.json("--name", "bob", "claim", "T2")
    (change,) = objects_of(watching, 1)
    assert (change["change"], change["owner"], change["task"]) == ("granted", "bob", "T2")
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=10)
    assert (watching.returncode, out, err) == (130, "", "synapse: the connection is lost; coming back\n")


def test_watching_only_some(hub: RealHub) -> None:
    watching = hub.begin("--name", "eve", "state", "--watch", "--json", "--owner", "ada", "--task", "T2")
    objects_of(watching, 1)
    hub.json("--name", "ada", "claim", "T1")
    hub.json("--name", "bob", "claim", "T2")
    hub.json("--name", "bob", "handoff", "T2", "--to", "ada")
    (change,) = objects_of(watching, 1)
    assert (change["change"], change["task"], change["owner"]) == ("handed_off", "T2", "ada")


def test_watching_as_a_person_off_a_terminal_prints_a_block_for_each_change(hub: RealHub) -> None:
    watching = hub.begin("--name", "eve", "state", "--watch")
    assert lines_of(watching, 1) == ["nothing is held"]
    hub.json("--name", "ada", "claim", "T1", "--paths", "a", "--worktree", "W")
    blank, worktree, path, who = lines_of(watching, 4)
    assert (blank, worktree, path, who.split("  ")[:4]) == ("", "W", "  a", ["", "", "ada", "T1"])
    hub.json("--name", "ada", "release", "T1")
    assert lines_of(watching, 2) == ["", "nothing is held"]


def test_watching_goes_on_anew_in_a_journal_that_was_restored_and_a_program_is_told_to_begin_again(
    hub: RealHub, tmp_path: Path
) -> None:
    hub.json("--name", "ada", "claim", "T1")
    hub.json("journal", "backup", str(tmp_path / "copy"))
    hub.json("--name", "ada", "claim", "T2")
    person = hub.begin("--name", "eve", "state", "--watch")
    assert len(lines_of(person, 3)) == 3
    programs = [hub.begin("--name", "eve", verb, "--watch", "--json") for verb in ("state", "board")]
    for program in programs:
        objects_of(program, 1)
    board = hub.begin("--name", "eve", "board", "--watch")
    assert board.stderr is not None
    assert "watching the plan" in board.stderr.readline()
    hub.end()
    hub.json("journal", "restore", str(tmp_path / "copy"))
    hub.start()
    blank, where, who = lines_of(person, 3)
    assert (blank, where, who.split("  ")[1:3]) == ("", "without paths", ["ada", "T1"])
    hub.json("--name", "bob", "claim", "T3")
    assert "bob  T3" in "\n".join(lines_of(person, 4))
    person.terminate()
    assert "drawn anew" in person.communicate(timeout=10)[1]
    for program in programs:
        out, _ = program.communicate(timeout=30)
        error = json.loads(out.splitlines()[-1])["error"]
        assert (program.returncode, error["code"], "run it again" in error["detail"]) == (3, "log_diverged", True)
    said = board.communicate(timeout=30)[1]
    assert (board.returncode, "run it again" in said) == (3, True)


def test_watching_on_a_terminal_draws_anew(hub: RealHub) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(environment(hub.home, TERM="xterm"))
        os.execv(sys.executable, [sys.executable, "-m", "synapse", "--name", "eve", "state", "--watch"])
    seen = b""

    def read_until(text: bytes) -> None:
        nonlocal seen
        while text not in seen:
            assert select.select([terminal], [], [], 15)[0], seen
            seen += os.read(terminal, 1024)

    try:
        read_until(b"\x1b[H\x1b[2Jnothing is held")
        hub.json("--name", "ada", "claim", "T1")
        read_until(b"\x1b[H\x1b[2Jwithout paths\r\n  ada  T1")
        os.write(terminal, b"\x03")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    finally:
        os.close(terminal)


# Against a hub of paper: what a real one does seldom.


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SYNAPSE_NAME", "SYNAPSE_ROOM", "SYNAPSE_URI", "SYNAPSE_TOKEN_FILE", "SYNAPSE_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SYNAPSE_HOME", str(tmp_path / "home"))


def changed(seq: int) -> Frame:
    body = {"change": "granted", "task": f"T{seq}", "room": "main", "owner": "ada", "by": "ada"}
    return {"type": "lease.changed", "seq": seq, "body": {**body, "cursor": f"{JOURNAL}:{seq}"}}


def test_what_the_look_has_shown_is_not_shown_again(paper: Start, capsys: pytest.CaptureFixture[str]) -> None:
    broken: Frame = {"type": "feed.broken", "seq": 9, "body": {"code": "journal_broken", "detail": "seq 4"}}

    def script(hub: PaperHub, request: Frame) -> list[Frame] | None:
        match request["type"]:
            case "hello":
                return [welcome(request)]
            case "feed.subscribe":
                return [reply(request, subscription=1, from_cursor=f"{JOURNAL}:5")]
            case "lease.list":
                return [changed(6), changed(8), {**reply(request, leases=[], seq=7, next=None)}]
            case _:
                return [reply(request, pools=[], next=None), changed(9), broken]

    paper(script)
    assert main(["state", "--watch", "--json"]) == 78
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("task") for line in lines] == [None, "T8", "T9", None]
    assert lines[-1]["error"]["code"] == "journal_broken"


def test_a_diverged_log_ends_the_watch_and_a_cut_one_goes_on(paper: Start) -> None:
    def script(hub: PaperHub, request: Frame) -> list[Frame] | None:
        match request["type"]:
            case "hello":
                return [welcome(request)]
            case "feed.subscribe":
                subscribed = hub.kinds().count("feed.subscribe")
                return (
                    [reply(request, from_cursor=f"{JOURNAL}:5")]
                    if subscribed == 1
                    else [refusal(request, "log_diverged")]
                )
            case "lease.list":
                return [reply(request, leases=[], seq=7, next=None)]
            case _:
                closing: Frame = {"type": "closing", "seq": 7, "body": {"code": 1012, "reason": "restart"}}
                return [reply(request, pools=[], next=None), changed(11), closing]

    hub = paper(script)
    assert main(["state", "--watch", "--json"]) == 3
    assert [r["body"].get("since") for r in hub.requests if r["type"] == "feed.subscribe"] == [None, f"{JOURNAL}:11"]


def test_a_first_failure_is_not_repeated(paper: Start) -> None:
    hub = paper(lambda hub, request: None)
    assert main(["state", "--watch"]) == 69
    assert hub.connections == 1
