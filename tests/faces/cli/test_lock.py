"""`lock`: exclusion, the command's own exit code, and that it is ended when the lease is lost."""

import json
import os
import pty
import select
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from tests.faces.conftest import Frame, PaperHub, RealHub, Script, environment, refusal, reply, welcome

from synapse.faces.cli import lock as lock_module
from synapse.faces.cli.main import main

Start = Callable[[Script], PaperHub]
WAIT = "read line"
"""A command that goes on until its stdin is closed."""


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[RealHub]:
    """A running hub that allows leases of one second."""
    real = RealHub(tmp_path / "home")
    real.start(SYNAPSE_LIMIT_TTL_MS_MIN="1000")
    yield real
    real.end_all()


def begin(hub: RealHub, *words: str, name: str = "ada", **env: str) -> "subprocess.Popen[str]":
    """A lock whose command runs until it is told otherwise. stdin stays open: it is a pipe to the command."""
    process = subprocess.Popen(
        [sys.executable, "-m", "synapse", "--name", name, "lock", *words],
        env=environment(hub.home, **env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    hub._begun.append(process)
    return process


def line_of(process: "subprocess.Popen[str]") -> str:
    """The next line of the command."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return not Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].startswith(b" Z")
    except OSError:
        return True


def await_end(pid: int) -> None:
    deadline_s = monotonic() + 10
    while is_alive(pid):
        assert monotonic() < deadline_s, f"{pid} lives"


def tasks(state: Any) -> list[str]:
    return [lease["task"] for lease in state["leases"]]


def test_two_locks_of_a_name_exclude_each_other(hub: RealHub) -> None:
    first = begin(hub, "build", "--", "sh", "-c", f"echo on; {WAIT}")
    assert line_of(first) == "on"
    (lease,) = hub.json("state")["leases"]
    assert (lease["task"], lease["owner"], lease["tied"], lease["ttl_ms"]) == ("lock/build", "ada", True, 30_000)
    for name in ("ada", "bob"):
        done = hub.run("--name", name, "lock", "build", "--", "echo", "never")
        assert (done.returncode, done.stdout) == (3, "")
        assert f"with epoch {lease['epoch']} for another" in done.stderr
    done = hub.run("--json", "--name", "bob", "lock", "build", "--conflict-exit-code", "0", "--", "true")
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (0, "lease_held")
    assert hub.run("--name", "bob", "lock", "build", "--conflict-exit-code=9", "--", "true").returncode == 9
    late = hub.run("--name", "bob", "lock", "build", "--conflict-exit-code=9", "--wait=0.2", "--", "true")
    assert late.returncode == 9
    assert hub.run("--name", "bob", "lock", "build", "--wait=0.2", "--", "true").returncode == 5
    hub.json("--name", "bob", "room", "create", "lab")
    for name in ("ada", "bob"):
        done = hub.run("--name", name, "lock", "build", "--", "echo", "never", SYNAPSE_ROOM="lab")
        assert (done.returncode, done.stdout) == (3, ""), "of whatever room"
        assert f"holds lock/build (the whole worktree) with epoch {lease['epoch']} for another" in done.stderr
    for other in ("building", "build --task T1", "build --paths src/**"):
        assert hub.run("--name", "bob", "lock", *other.split(), "--", "true", SYNAPSE_ROOM="lab").returncode == 0
    for words in (("",), ("x", "--task", "")):
        empty = hub.run("--name", "bob", "lock", *words, "--", "echo", "never")
        assert (empty.returncode, empty.stdout, "is empty" in empty.stderr) == (2, "", True)
    assert hub.run("--name", "bob", "lock", "other", "--", "true").returncode == 0
    waiting = begin(hub, "build", "--wait", "--", "sh", "-c", "echo mine", name="ada")
    hub.until(lambda state: any(lease["waiters"] for lease in state["leases"]))
    code, _, _ = ended(first)  # its stdin is closed
    assert code == 1
    assert ended(waiting)[:2] == (0, "mine\n")
    assert tasks(hub.json("state")) == []


def synapse(*words: str) -> str:
    """A command line that a shell may run within a lock."""
    return " ".join(f"'{word}'" for word in (sys.executable, "-m", "synapse", *words))


@pytest.mark.parametrize(
    ("words", "reason"), [(("release", "lock/R"), "released"), (("handoff", "lock/R", "--to", "bob"), "handed_off")]
)
def test_what_another_process_gives_up_ends_the_command_at_once(
    hub: RealHub, words: tuple[str, ...], reason: str
) -> None:
    hub.json("--name", "bob", "claim", "other")
    running = begin(hub, "R", "--", "sh", "-c", f"echo on; {WAIT}")
    assert line_of(running) == "on"
    began_s = monotonic()
    hub.json("--name", "ada", *words)
    assert running.wait(20) == 75
    assert monotonic() - began_s < 4, "it did not wait for the next renewal"
    assert f"was lost while the command ran: {reason}" in ended(running)[2]


def test_locks_within_locks_in_a_circle(hub: RealHub) -> None:
    within = synapse("lock", "LB", "--wait", "--", "echo", "got")
    first = begin(hub, "LA", "--", "sh", "-c", f"echo on; {WAIT}; {within}")
    assert line_of(first) == "on"
    second = begin(
        hub, "LB", "--", "sh", "-c", f"echo on; {WAIT}; {synapse('lock', 'LA', '--wait', '--', 'true')}", name="bob"
    )
    assert line_of(second) == "on"
    assert first.stdin is not None
    first.stdin.write("go\n")
    first.stdin.flush()
    hub.until(lambda state: any(lease["waiters"] for lease in state["leases"]))
    code, _, err = ended(second)
    assert (code, "deadlock: lock/LA: this wait would close a circle: bob waits for ada waits for bob" in err) == (
        3,
        True,
    )
    assert ended(first)[1] == "got\n"


def test_a_lock_within_itself(hub: RealHub) -> None:
    within = synapse("lock", "LA", "--wait", "--", "echo", "never")
    done = hub.run("--name", "ada", "lock", "LA", "--", "sh", "-c", within)
    assert (done.returncode, done.stdout) == (3, "")
    assert "would close a circle: ada waits for ada" in done.stderr


def test_a_claim_within_a_lock_closes_a_circle_too(hub: RealHub) -> None:
    hub.json("--name", "bob", "claim", "M2")
    running = begin(hub, "LD", "--", "sh", "-c", synapse("claim", "M2", "--wait=20"))
    hub.until(lambda state: any(lease["waiters"] for lease in state["leases"]))
    refused = hub.json("--name", "bob", "claim", "lock/LD", "--wait=10", code=3)["error"]
    assert (refused["code"], refused["facts"]["cycle"]) == ("deadlock", ["bob", "ada", "bob"])
    hub.json("--name", "bob", "release", "M2")
    assert ended(running)[0] == 0


def test_scope_task_and_pools_as_a_claim_has_them(hub: RealHub) -> None:
    hub.json("pool", "set", "gpu", "2")
    words = ("x", "--task", "T1", "--paths", "a/**", "--worktree", "W", "--pool", "gpu", "--ttl", "60", "--note", "n")
    running = begin(hub, *words, "--", "sh", "-c", f"echo on; {WAIT}")
    assert line_of(running) == "on"
    (lease,) = hub.json("state")["leases"]
    assert (lease["task"], lease["paths"], lease["pools"]) == ("T1", ["a/**"], {"gpu": 1})
    assert (lease["ttl_ms"], lease["note"]) == (60_000, "n")
    assert hub.json("--name", "bob", "claim", "T2", "--paths", "a/b", "--worktree", "W", code=3)["error"]


def test_the_command_knows_task_and_epoch_and_who_it_is(hub: RealHub) -> None:
    hub.json("--name", "ada", "room", "create", "lab")
    told = "$SYNAPSE_TASK $SYNAPSE_EPOCH $SYNAPSE_NAME $SYNAPSE_ROOM"
    done = hub.run("--name", "ada", "--room", "lab", "lock", "x", "--", "sh", "-c", f'echo "{told}"; cat', text="in")
    task, epoch, name, rest = done.stdout.split(" ", 3)
    assert (task, int(epoch) > 0, name, rest) == ("lock/x", True, "ada", "lab\nin")
    guard = [sys.executable, "-m", "synapse", "lease", "check", "--json"]
    done = hub.run("--name", "ada", "--room", "lab", "lock", "x", "--", *guard)
    assert json.loads(done.stdout)["room"] == "lab"
    keep = [sys.executable, "-m", "synapse", "checkpoint", "lock/x", "7"]
    assert hub.run("--name", "ada", "lock", "x", "--", *keep).returncode == 0
    assert hub.json("--name", "bob", "claim", "lock/x")["checkpoint"]["data"] == 7


def test_what_the_last_holder_left_is_said_before_the_command_runs(quick: RealHub) -> None:
    hub = quick
    session = hub.json("--name", "ada", "session", "start", "--task", "T1")["session"]
    hub.json("--name", "ada", "claim", "T1", "--ttl", "2")
    hub.json("--name", "ada", "checkpoint", "T1", '{"page": 3}')
    hub.json("--name", "ada", "session", "checkpoint", '{"step": 4}')
    hub.until(lambda state: not state["leases"])
    told = hub.run("--name", "bob", "lock", "x", "--task", "T1", "--", "sh", "-c", "echo runs >&2").stderr.splitlines()
    assert told[-1] == "runs"
    assert [line for line in told if line.startswith("synapse: checkpoint of ada") and '{"page":3}' in line]
    assert [line for line in told if line.startswith(f"synapse: resumes {session} of ada") and '{"step":4}' in line]
    assert f"synapse: synapse session show {session}" in told
    again = hub.run("--name", "cy", "lock", "x", "--task", "T1", "--", "true").stderr
    assert ("checkpoint of ada" in again, "resumes" in again) == (True, False)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -9 $$"], 137),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["no-such-command-here"], 127),
        (["./no-such-file"], 127),
        (["/"], 126),
        (["./plain"], 126),
        (["./garbled"], 126),
        (["./fine", "--json", "--help"], 0),
    ],
    ids=str,
)
def test_the_exit_code_is_the_commands(hub: RealHub, tmp_path: Path, command: list[str], code: int) -> None:
    for name, text, mode in (("plain", "", 0o600), ("garbled", "\0", 0o700), ("fine", "#!/bin/sh\necho $*\n", 0o700)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    hub.cwd = tmp_path
    done = hub.run("--name", "ada", "lock", "x", "--", *command)
    assert done.returncode == code
    assert tasks(hub.json("state")) == []
    if code == 0:
        assert done.stdout == "--json --help\n"


@pytest.mark.parametrize(("command", "code"), [("no-such-command-here", 127), ("/", 126), ("./garbled", 126)])
def test_a_command_that_does_not_run_is_said_as_an_object(
    hub: RealHub, tmp_path: Path, command: str, code: int
) -> None:
    (tmp_path / "garbled").write_text("\0")
    (tmp_path / "garbled").chmod(0o700)
    hub.cwd = tmp_path
    done = hub.run("--name", "ada", "lock", "x", "--json", "--", command)
    assert done.returncode == code
    (line,) = done.stdout.splitlines()
    error = json.loads(line)["error"]
    assert error["code"] == {126: "not_executable", 127: "no_command"}[code]
    assert command.removeprefix("./") in error["detail"]
    assert done.stderr == f"synapse: {error['detail']}\n"


def test_bytes_that_are_no_text_reach_the_command(hub: RealHub) -> None:
    done = hub.run("--name", "ada", "lock", "x", "--", "sh", "-c", 'printf %s "$1" | od -An -tx1', "sh", "\udcff")
    assert done.stdout.strip() == "ff"


def test_sigpipe_is_as_a_shell_leaves_it(hub: RealHub) -> None:
    done = hub.run("--name", "ada", "lock", "x", "--", "sh", "-c", "kill -PIPE $$; exit 3")
    assert done.returncode == 128 + signal.SIGPIPE


def test_without_a_hub_nothing_runs(hub: RealHub, tmp_path: Path) -> None:
    hub.end()
    assert hub.run("--name", "ada", "lock", "x", "--", "touch", str(tmp_path / "ran")).returncode == 69
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_go_to_the_command_and_its_code_comes_back(hub: RealHub, how: signal.Signals) -> None:
    name = how.name.removeprefix("SIG")
    script = f"trap 'echo caught; exit 42' {name}; echo on; while :; do sleep 0.05; done"
    running = begin(hub, "x", "--", "sh", "-c", script)
    assert line_of(running) == "on"
    running.send_signal(how)
    assert ended(running)[:2] == (42, "caught\n")
    assert tasks(hub.json("state")) == []


def test_who_waits_for_a_lock_leaves_the_line_when_ended(hub: RealHub) -> None:
    hub.json("--name", "ada", "claim", "lock/x")
    waiting = begin(hub, "x", "--wait", "--", "echo", "never")
    hub.until(lambda state: any(lease["waiters"] for lease in state["leases"]))
    waiting.send_signal(signal.SIGTERM)
    code, out, _ = ended(waiting)
    assert (code, out) == (143, "")
    assert not any(lease["waiters"] for lease in hub.json("state")["leases"])


def test_a_lease_taken_away_ends_the_whole_group(hub: RealHub) -> None:
    script = "sleep 600 & echo $!; trap 'echo told; exit 0' TERM; wait; wait"
    running = begin(hub, "x", "--json", "--", "sh", "-c", script)
    grandchild = int(line_of(running))
    hub.json("--name", "bob", "claim", "lock/x", "--preempt")
    code, out, err = ended(running)
    assert code == 75
    told, refused = out.splitlines()
    error = json.loads(refused)["error"]
    assert (told, error["code"], error["facts"]["reason"]) == ("told", "lease_lost", "preempted")
    assert "was lost while the command ran: preempted" in err
    await_end(grandchild)
    assert [lease["owner"] for lease in hub.json("state")["leases"]] == ["bob"]


def test_a_lock_that_was_stopped_ends_the_command_when_it_wakes(quick: RealHub) -> None:
    stopped = begin(quick, "x", "--ttl", "1", "--", "sh", "-c", "echo $$; sleep 600")
    command = int(line_of(stopped))
    stopped.send_signal(signal.SIGSTOP)
    epoch = quick.json("state")["leases"][0]["epoch"]
    lease = quick.json("--name", "bob", "claim", "lock/x", "--wait=20")
    assert lease["epoch"] > epoch
    assert is_alive(command)
    stopped.send_signal(signal.SIGCONT)
    assert ended(stopped)[0] == 75
    assert not is_alive(command)
    assert quick.json("lease", "check", "lock/x", "--epoch", str(lease["epoch"]))["owner"] == "bob"


def test_a_lock_that_is_killed_is_free_after_the_grace_at_most(quick: RealHub) -> None:
    killed = begin(quick, "x", "--ttl", "1", "--", "sh", "-c", f"echo on; {WAIT}")
    assert line_of(killed) == "on"
    killed.kill()
    assert quick.json("--name", "bob", "claim", "lock/x", "--wait=20")["owner"] == "bob"
    ended(killed)


def test_it_is_renewed_and_survives_a_killed_hub(quick: RealHub) -> None:
    running = begin(quick, "x", "--ttl", "6", "--", "sh", "-c", f"echo on; {WAIT}; echo $line")
    assert line_of(running) == "on"
    (lease,) = quick.json("state")["leases"]
    quick.until(lambda state: state["leases"][0]["expires_at_ms"] > lease["expires_at_ms"] + 1000)
    quick.end(signal.SIGKILL)
    quick.start(SYNAPSE_LIMIT_TTL_MS_MIN="1000")
    renewed = quick.until(
        lambda state: state["leases"] and state["leases"][0]["expires_at_ms"] > lease["expires_at_ms"]
    )
    assert renewed["leases"][0]["epoch"] == lease["epoch"]
    assert running.poll() is None
    out, err = running.communicate("done\n", timeout=20)
    assert (running.returncode, out) == (0, "done\n")
    assert err == "synapse: the connection is lost; coming back\n"
    assert tasks(quick.json("state")) == []


def test_a_hub_that_is_gone_ends_the_command_before_the_lease_could_pass_on(quick: RealHub) -> None:
    running = begin(quick, "x", "--ttl", "1", "--", "sh", "-c", "echo $$; sleep 600")
    command = int(line_of(running))
    quick.end(signal.SIGKILL)
    code, _, err = ended(running)
    assert code == 75
    assert "was lost while the command ran: unconfirmed" in err
    assert not is_alive(command)


def test_with_a_terminal_on_stdin_the_command_reads_it_and_gets_ctrl_c(hub: RealHub) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(environment(hub.home))
        script = "trap 'echo caught; exit 9' INT; echo on; read x; echo got $x; while :; do sleep 0.05; done"
        os.execv(
            sys.executable, [sys.executable, "-m", "synapse", "--name", "ada", "lock", "x", "--", "sh", "-c", script]
        )
    seen = b""

    def read_until(text: bytes) -> None:
        nonlocal seen
        while text not in seen:
            assert select.select([terminal], [], [], 15)[0], seen
            seen += os.read(terminal, 1024)

    try:
        read_until(b"on\r\n")
        os.write(terminal, b"hello\n")
        read_until(b"got hello")
        os.write(terminal, b"\x03")
        read_until(b"caught")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    finally:
        os.close(terminal)
    assert tasks(hub.json("state")) == []


# Against a hub of paper: what a real one does seldom.


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SYNAPSE_ROOM", "SYNAPSE_URI", "SYNAPSE_TOKEN_FILE", "SYNAPSE_TIMEOUT", "SYN_IDENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SYNAPSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SYNAPSE_NAME", "ada")


def lease(request: Frame, ttl_ms: int = 30_000, **more: object) -> Frame:
    body = {"task": "lock/x", "room": "main", "owner": "ada", "epoch": 7, "outcome": "granted", "ttl_ms": ttl_ms}
    return reply(request, **{**body, "live": True, "status": "held", **more})


def asked(hub: PaperHub, kind: str) -> list[Frame]:
    return [request for request in hub.requests if request["type"] == kind]


def holding(ttl_ms: int = 30_000, **answers: Callable[[PaperHub, Frame], list[Frame] | None]) -> Script:
    """A hub that grants and renews. answers: by the last word of a request's type."""

    def script(hub: PaperHub, request: Frame) -> list[Frame] | None:
        found = answers.get(request["type"].rpartition(".")[2])
        if found is not None:
            return found(hub, request)
        return [welcome(request)] if request["type"] == "hello" else [lease(request, ttl_ms)]

    return script


def test_what_the_claim_says(paper: Start) -> None:
    hub = paper(holding())
    assert main(["lock", "x", "--wait", "--", "true"]) == 0
    (claim,) = asked(hub, "lease.claim")
    own = {"worktree": "lock:x", "whole_worktree": True}
    assert claim["body"] == {
        "ttl_ms": 30_000,
        "task": "lock/x",
        "wait_ms": None,
        **own,
        "reentrant": False,
        "tied": True,
    }
    assert claim["idem_key"]
    assert [hello["body"].get("lasting") for hello in asked(hub, "hello")] == [True, None]
    (release,) = asked(hub, "lease.release")
    assert release["body"] == {"task": "lock/x", "room": "main", "epoch": 7}


def lost(epoch: int) -> Frame:
    body = {"task": "lock/x", "room": "main", "epoch": epoch, "reason": "ttl", "by": "hub"}
    return {"type": "lease.lost", "seq": 8, "body": body}


def test_the_loss_of_another_grant_is_not_this_ones(paper: Start) -> None:
    def renewed(hub: PaperHub, request: Frame) -> list[Frame]:
        (hub.home / "go").touch()
        return [lease(request, 300)]

    hub = paper(holding(claim=lambda hub, request: [lease(request, 300), lost(6)], renew=renewed))
    assert main(["lock", "x", "--", "sh", "-c", f"until [ -e {hub.home}/go ]; do sleep 0.05; done"]) == 0


@pytest.mark.parametrize(
    ("code", "exit_code"), [("lease_held", 9), ("lease_queued", 9), ("deadlock", 3), ("deadline", 9)]
)
def test_the_conflict_code_is_for_what_others_hold_or_wait_for(paper: Start, code: str, exit_code: int) -> None:
    paper(holding(claim=lambda hub, request: [refusal(request, code)]))
    assert main(["lock", "x", "--conflict-exit-code", "9", "--", "true"]) == exit_code


def test_a_command_that_heeds_no_sigterm_is_killed(paper: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "GRACE_S", 0.2)

    hub = paper(holding(claim=lambda hub, request: [lease(request), lost(7)]))
    assert main(["lock", "x", "--", "sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"]) == 75
    assert asked(hub, "lease.release") == []


def test_what_it_started_gets_sigterm_too_and_is_killed_if_it_stays(
    paper: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lock_module, "GRACE_S", 0.3)
    child = f"trap 'touch {tmp_path}/told' TERM; touch {tmp_path}/ready; while :; do sleep 0.05; done"
    script = f'sh -c "$0" & echo $! > {tmp_path}/pid; trap "exit 0" TERM; while :; do sleep 0.05; done'

    def renewed(hub: PaperHub, request: Frame) -> list[Frame]:
        return [refusal(request, "stale_epoch") if (tmp_path / "ready").exists() else lease(request, 900)]

    paper(holding(renew=renewed, ttl_ms=900))
    assert main(["lock", "x", "--", "sh", "-c", script, child]) == 75
    assert (tmp_path / "told").exists()
    await_end(int((tmp_path / "pid").read_text()))


def test_a_stopped_command_is_ended_too(paper: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "GRACE_S", 60)
    began_s = monotonic()
    hub = paper(holding(renew=lambda hub, request: [refusal(request, "stale_epoch")], ttl_ms=300))
    assert main(["lock", "x", "--", "sh", "-c", "kill -STOP $$; sleep 600"]) == 75
    assert hub.kinds().count("lease.renew") == 1
    assert monotonic() - began_s < 30


def test_a_hub_that_does_not_answer_is_not_waited_for_longer_than_the_lease(paper: Start) -> None:
    began_s = monotonic()
    paper(holding(renew=lambda hub, request: [], ttl_ms=600))
    assert main(["lock", "x", "--", "sleep", "600"]) == 75
    assert monotonic() - began_s < 5


@pytest.mark.parametrize("code", ["rate_limited", "draining"])
def test_what_passes_by_itself_is_asked_again(paper: Start, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "RETRY_S", 0.05)

    def renewed(hub: PaperHub, request: Frame) -> list[Frame] | None:
        count = len(asked(hub, "lease.renew"))
        if count == 1:
            return [refusal(request, code)]
        if count == 3:
            (hub.home / "go").touch()
        return [lease(request, 900)]

    hub = paper(holding(renew=renewed, ttl_ms=900))
    assert main(["lock", "x", "--", "sh", "-c", f"until [ -e {hub.home}/go ]; do sleep 0.05; done"]) == 0


def test_a_new_connection_is_tied_at_once(paper: Start) -> None:
    def renewed(hub: PaperHub, request: Frame) -> list[Frame] | None:
        (hub.home / "go").touch()
        return [lease(request)]

    closing: Frame = {"type": "closing", "seq": 7, "body": {"code": 1012, "reason": "restart"}}
    hub = paper(holding(claim=lambda hub, request: [lease(request, 3_600_000), closing], renew=renewed))
    assert main(["lock", "x", "--", "sh", "-c", f"until [ -e {hub.home}/go ]; do sleep 0.05; done"]) == 0
    assert hub.kinds() == ["hello", "lease.claim", "hello", "lease.renew", "hello", "lease.release"]


def test_a_grant_that_took_long_is_confirmed_first(paper: Start, tmp_path: Path) -> None:
    gate = threading.Event()

    def claimed(hub: PaperHub, request: Frame) -> list[Frame]:
        gate.wait(0.5 if len(asked(hub, "lease.claim")) == 1 else 0)
        return [lease(request, 900)]

    def renewed(hub: PaperHub, request: Frame) -> list[Frame]:
        is_first = len(asked(hub, "lease.renew")) == 1
        return [refusal(request, "stale_epoch") if is_first else lease(request, 900)]

    hub = paper(holding(claim=claimed, renew=renewed))
    assert main(["lock", "x", "--", "touch", str(tmp_path / "ran")]) == 0
    assert hub.kinds()[:4] == ["hello", "lease.claim", "lease.renew", "hello"]
    assert hub.kinds().count("lease.claim") == 2
    assert (tmp_path / "ran").exists()


def test_a_lease_that_had_ended_before_the_command_did_is_75(paper: Start, capsys: pytest.CaptureFixture[str]) -> None:
    paper(holding(release=lambda hub, request: [refusal(request, "stale_epoch")]))
    assert main(["lock", "x", "--", "true"]) == 75
    assert "was lost while the command ran: stale_epoch" in capsys.readouterr().err


def test_a_release_is_repeated_and_its_failure_is_said(
    paper: Start, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = paper(
        holding(release=lambda hub, r: None if len(asked(hub, "lease.release")) == 1 else [reply(r, released=True)])
    )
    assert main(["lock", "x", "--", "sh", "-c", "exit 4"]) == 4
    one, two = asked(hub, "lease.release")
    assert (one["idem_key"], capsys.readouterr().err) == (two["idem_key"], "")
    monkeypatch.setattr(lock_module, "RELEASE_S", 0.1)
    hub.script = holding(release=lambda hub, request: [])
    assert main(["lock", "x", "--", "true"]) == 0
    assert "the lease is not given back, and ends by itself" in capsys.readouterr().err


def test_a_parent_that_ignored_its_children_changes_nothing(paper: Start) -> None:
    paper(holding())
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert main(["lock", "x", "--", "sh", "-c", "exit 6"]) == 6
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_files_that_flags_name_are_found_from_anywhere(
    paper: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper(holding())
    monkeypatch.chdir(tmp_path)
    assert main(["--tls-ca", "ca", "lock", "x", "--", "sh", "-c", f'[ "$SYNAPSE_TLS_CA" = {tmp_path}/ca ]']) == 0
    monkeypatch.delenv("SYNAPSE_HOME")
    assert main(["--home", "home", "lock", "x", "--", "sh", "-c", f'[ "$SYNAPSE_HOME" = {tmp_path}/home ]']) == 0


def test_what_is_ignored_stays_ignored(paper: Start) -> None:
    paper(holding())
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert main(["lock", "x", "--", "sh", "-c", "kill -HUP $$; exit 5"]) == 5
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_path_is_searched_as_a_shell_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, mode in (("a", 0o600), ("b", 0o700)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tool").touch()
        (tmp_path / folder / "tool").chmod(mode)
    assert stat.S_IMODE((tmp_path / "a" / "tool").stat().st_mode) == 0o600
    monkeypatch.setenv("PATH", f"{tmp_path}/a:{tmp_path}/b")
    if os.getuid():
        assert lock_module._program("tool") == f"{tmp_path}/b/tool"
    monkeypatch.setenv("PATH", str(tmp_path / "a"))
    assert lock_module._program("tool") == 126
    assert lock_module._program("a") == 127
    assert lock_module._program("") == 127
