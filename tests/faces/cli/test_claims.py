"""The verbs of a lease against a real hub: their objects, their words, their exit codes."""

import hashlib
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from tests.faces.conftest import RealHub

from synapse.faces.cli import claims
from synapse.faces.cli.claims import described
from synapse.faces.cli.options import duration
from synapse.faces.cli.render import clock
from synapse.faces.cli.verbs import VERBS
from synapse.protocol.limits import Limits

LEASE = {
    "task",
    "room",
    "owner",
    "epoch",
    "worktree",
    "paths",
    "mode",
    "ttl_ms",
    "expires_at_ms",
    "checkpoint",
    "cursor",
}


@pytest.fixture
def root(hub: RealHub, tmp_path: Path) -> Path:
    """A worktree in which commands run."""
    root = tmp_path.resolve() / "repo"
    (root / ".git").mkdir(parents=True)
    (root / ".git" / "HEAD").write_text("ref: refs/heads/trunk\n")
    (root / "sub").mkdir()
    hub.cwd = root
    return root


def claim(hub: RealHub, name: str, *words: str, code: int = 0, **env: str) -> Any:
    return hub.json("--name", name, "claim", *words, code=code, **env)


def test_a_claim_is_granted_and_renewed(hub: RealHub, root: Path) -> None:
    lease = claim(hub, "ada", "T1", "--paths", "src/**", "--ttl", "60", "--note", "n")
    assert set(lease) >= LEASE
    assert (lease["task"], lease["room"], lease["owner"], lease["mode"]) == ("T1", "main", "ada", "exclusive")
    assert (lease["worktree"], lease["paths"]) == (f"{os.uname().nodename}:{root}", ["src/**"])
    assert (lease["ttl_ms"], lease["branch"], lease["note"], lease["checkpoint"]) == (60_000, "trunk", "n", None)
    again = claim(hub, "ada", "T1", "--paths", "src/**")
    assert (again["epoch"], again["outcome"], again["ttl_ms"]) == (lease["epoch"], "renewed", 900_000)
    other = claim(hub, "ada", "T1", "--paths", "doc/**")
    assert (other["epoch"] > lease["epoch"], other["outcome"]) == (True, "granted")
    assert claim(hub, "bob", "T2", "--paths", "src/x")["epoch"] > other["epoch"]


def test_a_claim_says_what_it_got(hub: RealHub, root: Path) -> None:
    done = hub.run("--name", "ada", "claim", "T1", "--paths", "src/**", "--paths", "x", "--mode", "shared")
    assert done.returncode == 0
    assert re.fullmatch(r"T1  epoch \d+  src/\*\*, x  shared  until [\d:-]+( [\d:]+)? \(15 min 0 s\)\n", done.stdout)
    assert done.stderr == ""


def test_what_is_left_of_a_claim_is_what_the_hubs_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "time", lambda: 1_700_000_000.0)  # a machine whose clock is an hour behind its hub's
    lease = {"task": "T1", "epoch": 7, "status": "held", "remaining_ms": 600_000, "expires_at_ms": 1_700_004_200_000}
    assert described(lease) == f"T1  epoch 7  until {clock(1_700_000_600_000)} (10 min 0 s)"


def test_a_refused_claim_names_holder_epoch_time_and_what_to_do(hub: RealHub, root: Path) -> None:
    epoch = claim(hub, "ada", "T1", "--paths", "src/**", "--ttl", "100")["epoch"]
    error = claim(hub, "bob", "T2", "--paths", "src/core/x.py", code=3)["error"]
    (holder,) = error["facts"]["holders"]
    assert (error["code"], holder["owner"], holder["task"], holder["epoch"]) == ("lease_held", "ada", "T1", epoch)
    assert (holder["paths"], 90_000 < holder["expires_in_ms"] <= 100_000) == (["src/**"], True)
    done = hub.run("--name", "bob", "claim", "T2", "--paths", "src/core/x.py")
    assert (done.returncode, done.stdout) == (3, "")
    assert re.match(
        rf"synapse: lease_held: .*ada holds T1 \(src/\*\*\) with epoch {epoch} for another \d+ s", done.stderr
    )
    assert re.search(r"--wait.*its time is over at [\d:-]+", done.stderr)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        "claim T1",
        "lock x -- true",
        "renew T1",
        "park T1",
        "release T1",
        "checkpoint T1 null",
        "handoff T1 --to b",
        "withdraw T1",
    ],
)
def test_the_local_user_holds_nothing(hub: RealHub, words: str) -> None:
    done = hub.run(*words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert "export SYNAPSE_NAME=$(synapse agent new), or give --name NAME" in done.stderr
    assert hub.run(*words.split(), SYN_IDENTITY="ada").returncode != 2


def test_what_leaves_the_worktree_is_refused_by_the_hub(hub: RealHub, root: Path) -> None:
    hub.cwd = root / "sub"
    for path in ("../../x", "/etc", "a\\b", "~/x"):
        assert claim(hub, "ada", "T1", "--paths", path, code=3)["error"]["code"] == "bad_scope"
    assert claim(hub, "ada", "T1", "--paths", ".")["paths"] == ["sub"]
    hub.cwd = root
    error = claim(hub, "ada", "T2", "--paths", ".", code=3)["error"]
    assert (error["code"], "--whole-worktree" in error["detail"]) == ("bad_scope", True)
    assert claim(hub, "bob", "T2", "--whole-worktree", code=3)["error"]["code"] == "lease_held"
    assert claim(hub, "bob", "T2", "--whole-worktree", "--worktree", "W")["whole_worktree"] is True
    assert claim(hub, "bob", "T3", "--worktree", "W", code=3)["error"]["code"] == "bad_scope"
    assert claim(hub, "bob", "T3", "--paths", "x", "y", "z", code=2)["error"]["code"] == "usage"


def test_a_key_claims_once_and_a_dead_repeat_is_3(hub: RealHub) -> None:
    lease = claim(hub, "ada", "T1", "--idem-key", "k")
    assert (claim(hub, "ada", "T1", "--idem-key", "k")["epoch"], lease["live"]) == (lease["epoch"], True)
    assert "replayed" not in lease
    assert claim(hub, "ada", "T1", "--idem-key", "k")["replayed"] is True
    assert claim(hub, "ada", "T1", "--idem-key", "k", "--note", "x", code=3)["error"]["code"] == "idem_conflict"
    hub.json("--name", "ada", "release", "T1")
    again = claim(hub, "ada", "T1", "--idem-key", "k", code=3)["error"]
    assert (again["code"], again["facts"]["epoch"], again["facts"]["status"]) == (
        "stale_epoch",
        lease["epoch"],
        "ended",
    )


@pytest.mark.parametrize(
    "words",
    [
        ["send", "hi"],
        ["task", "declare", "T1"],
        ["kv", "put", "K", "1"],
        ["session", "start"],
        ["ask", "May I?"],
    ],
)
def test_an_answer_of_a_key_that_was_used_says_so(hub: RealHub, words: list[str]) -> None:
    first, again = [hub.json("--name", "ada", *words, "--idem-key", "k") for _ in range(2)]
    assert (first.get("replayed"), again["replayed"], again["cursor"]) == (None, True, first["cursor"])


def test_an_operator_takes_it_away_for_somebody(hub: RealHub) -> None:
    epoch = claim(hub, "ada", "T1")["epoch"]
    lease = claim(hub, "bob", "T1", "--preempt", "--wait")
    assert (lease["owner"], lease["epoch"] > epoch) == ("bob", True)
    assert hub.json("--name", "ada", "renew", "T1", "--epoch", str(epoch), code=3)["error"]["code"] == "stale_epoch"
    refused = hub.json("--uri", hub.websocket, "--name", "ada", "claim", "T1", "--preempt", code=77)
    assert refused["error"]["code"] == "not_permitted"


@pytest.mark.parametrize(("role", "code"), [("agent", 77), ("human", 0), ("admin", 0)])
def test_whose_token_is_of_a_person_takes_it_away_from_anywhere(hub: RealHub, role: str, code: int) -> None:
    claim(hub, "ada", "T1")
    token = hub.home / "carried"
    hub.json("token", "create", "--role", role, "--out", str(token))
    there = ["--uri", hub.websocket, "--token-file", str(token), "--name", "bob"]
    answer = hub.json(*there, "claim", "T1", "--preempt", code=code)
    assert (answer.get("owner"), answer.get("error", {}).get("code")) == (
        ("bob", None) if code == 0 else (None, "not_permitted")
    )


def test_a_room_of_its_own(hub: RealHub) -> None:
    hub.json("--name", "ada", "room", "create", "lab")
    assert claim(hub, "ada", "T1", "--room", "lab")["room"] == "lab"
    assert claim(hub, "bob", "T1")["room"] == "main"
    assert claim(hub, "bob", "T2", SYNAPSE_ROOM="lab")["room"] == "lab"
    assert claim(hub, "bob", "T1", "--room", "lab", "--preempt")["room"] == "lab"
    assert hub.json("--name", "bob", "release", "T1", "--room", "lab")["room"] == "lab"


def test_the_end_of_a_shared_lease_does_not_say_that_the_task_is_free(hub: RealHub, root: Path) -> None:
    for name in ("ada", "bob"):
        lease = claim(hub, name, "T1", "--paths", "doc", "--mode", "shared")
    told = hub.run("--name", "bob", "release", "T1").stdout
    assert told == f"T1 is given back, epoch {lease['epoch']} is over\n"


@pytest.mark.parametrize(
    ("words", "bounds"),
    [
        ("claim T1 --ttl 0", "5000 to 86400000 (5 s to 24 h"),
        ("claim T1 --ttl 25h", "5000 to 86400000 (5 s to 24 h"),
        ("renew T1 --ttl 4.9", "5000 to 86400000 (5 s to 24 h"),
        ("claim T1 --wait=25h", "0 to 86400000 (24 h 0 min), or null for no end"),
    ],
)
def test_times_out_of_bounds_are_refused_with_the_bounds(hub: RealHub, words: str, bounds: str) -> None:
    before = claim(hub, "ada", "T1")
    error = hub.json("--name", "ada", *words.split(), code=3)["error"]
    assert (error["code"], error["facts"]["max"]) == ("bad_request", 86_400_000)
    assert bounds in error["detail"]
    assert hub.json("state")["leases"][0]["ttl_ms"] == before["ttl_ms"], "nothing changed"


def test_the_bounds_in_the_words_of_the_command_line_are_those_of_a_hub() -> None:
    limits, options = Limits(), {option.name: option for option in VERBS["claim"].options}
    least, most = re.findall(r"\d+\w", options["ttl"].bounds)
    assert (duration(least, ""), duration(most, "")) == (limits.ttl_ms_min / 1000, limits.ttl_ms_max / 1000)
    assert [duration(most, "") for most in re.findall(r"\d+\w", options["wait"].bounds)] == [limits.wait_ms_max / 1000]


def test_renew_release_and_their_epochs(hub: RealHub) -> None:
    epoch = claim(hub, "ada", "T1")["epoch"]
    renewed = hub.json("--name", "ada", "renew", "T1", "--epoch", str(epoch), "--ttl", "20m", "--note", "more")
    assert (set(renewed) >= LEASE - {"checkpoint"}, renewed["ttl_ms"], renewed["note"]) == (True, 1_200_000, "more")
    assert hub.json("--name", "bob", "renew", "T1", code=3)["error"]["code"] == "not_holder"
    assert (
        hub.json("--name", "ada", "release", "T1", "--epoch", str(epoch - 1), code=3)["error"]["code"] == "stale_epoch"
    )
    released = hub.json("--name", "ada", "release", "T1")
    assert (released["task"], released["released"], "cursor" in released) == ("T1", True, True)
    assert hub.json("--name", "ada", "release", "T1", code=4)["error"]["code"] == "not_found"


def test_a_lease_is_parked_by_hand_and_runs_on(hub: RealHub) -> None:
    epoch = claim(hub, "ada", "T1")["epoch"]
    parked = hub.json("--name", "ada", "park", "T1")
    assert (parked["status"], parked["expires_at_ms"], parked["epoch"]) == ("parked", None, epoch)
    assert "T1" in (words := hub.run("--name", "ada", "park", "T1").stdout)
    assert "parked" in words
    assert hub.json("state")["leases"][0]["status"] == "parked"
    running = hub.json("park", "--off", SYNAPSE_NAME="ada", SYNAPSE_TASK="T1", SYNAPSE_EPOCH=str(epoch))
    assert (running["status"], running["expires_at_ms"] > 0) == ("held", True)
    assert hub.json("--name", "ada", "park", "T1", "--epoch", str(epoch - 1), code=3)["error"]["code"] == "stale_epoch"
    assert hub.json("--name", "bob", "park", "T1", code=3)["error"]["code"] == "not_holder"
    hub.json("--name", "ada", "ask", "May I?", "--task", "T1")
    assert hub.json("--name", "ada", "park", "T1", "--off", code=3)["error"]["code"] == "not_empty"
    assert hub.json("--name", "ada", "park", code=2)["error"]["code"] == "usage"


def test_task_and_epoch_come_from_the_environment_of_a_lock(hub: RealHub) -> None:
    claim(hub, "bob", "T0")  # so that it is there
    epoch = claim(hub, "ada", "T1")["epoch"]

    def within(epoch: object, *words: str, code: int = 0) -> Any:
        return hub.json(*words, code=code, SYNAPSE_NAME="ada", SYNAPSE_TASK="T1", SYNAPSE_EPOCH=str(epoch))

    assert within(epoch, "renew")["epoch"] == epoch
    assert within(epoch, "lease", "check")["epoch"] == epoch
    assert within(epoch - 1, "renew", code=3)["error"]["code"] == "stale_epoch"
    assert within(1, "checkpoint", "T1", "1", code=3)["error"]["code"] == "stale_epoch"
    assert within(1, "renew", "--epoch", str(epoch))["epoch"] == epoch
    other = claim(hub, "ada", "T2")["epoch"]
    assert within(1, "renew", "T2")["epoch"] == other
    assert within(epoch, "checkpoint", '{"at": 1}')["checkpoint"]["data"] == {"at": 1}
    assert within(epoch, "checkpoint", "T2", "7")["task"] == "T2"
    assert within(epoch, "checkpoint", "null")["checkpoint"] is None
    assert within(1, "checkpoint", "2", code=3)["error"]["code"] == "stale_epoch"
    assert "what to keep?" in within(epoch, "checkpoint", code=2)["error"]["detail"]
    here = os.path.abspath(__file__)
    for words, task, data in (([], "T1", None), (['["a"]'], "T1", ["a"]), (["T2"], "T2", None)):
        kept = within(epoch, "checkpoint", *words, "--artefact", here)
        assert (kept["task"], kept["checkpoint"]["data"]) == (task, data)
        assert [file["path"] for file in kept["checkpoint"]["artefacts"]] == [here]
    assert within(epoch, "handoff", "--to", "bob")["outcome"] == "handed_off"
    claim(hub, "ada", "T1", "--preempt")
    epoch = hub.json("--name", "ada", "renew", "T1")["epoch"]
    assert within("soon", "renew", code=2)["error"]["code"] == "usage"
    assert within("", "release")["epoch"] == epoch
    for words in (["renew"], ["checkpoint", "1"], ["checkpoint", "--artefact", here], ["handoff", "--to", "bob"]):
        assert hub.json(*words, SYNAPSE_NAME="ada", code=2)["error"]["code"] == "usage"


def test_a_checkpoint_is_inherited(hub: RealHub, root: Path) -> None:
    epoch = claim(hub, "ada", "T1")["epoch"]
    (root / "sub" / "report").write_bytes(b"r" * 3_000_000)
    hub.cwd = root / "sub"
    kept = hub.json("--name", "ada", "checkpoint", "T1", '{"done": [1]}', "--artefact", "report")["checkpoint"]
    assert (kept["data"], kept["by"], kept["epoch"]) == ({"done": [1]}, "ada", epoch)
    digest = hashlib.sha256(b"r" * 3_000_000).hexdigest()
    assert kept["artefacts"] == [{"path": str(root / "sub" / "report"), "sha256": digest, "bytes": 3_000_000}]
    hub.json("--name", "ada", "release", "T1")
    assert claim(hub, "bob", "T1")["checkpoint"] == kept
    shown = hub.run("--name", "bob", "renew", "T1").stdout
    assert "checkpoint of ada" in shown
    assert f"3000000 bytes  sha256 {digest}" in shown
    assert hub.run("--name", "bob", "checkpoint", "T1", "-", text="[7]\n").returncode == 0
    assert hub.json("--name", "bob", "renew", "T1")["checkpoint"]["data"] == [7]
    assert hub.json("--name", "bob", "checkpoint", "T1", "null")["checkpoint"] is None


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("checkpoint T1", "what to keep?"),
        ("checkpoint T1 {a", "a checkpoint is not JSON"),
        ("checkpoint T1 --artefact nowhere", "there is no such file"),
        ("handoff T1", "to whom?"),
        ("renew", "which task?"),
        ("lease check T1", "which grant?"),
        ("lock x", "what is to be run?"),
        ("lock x y -- true", "'y' is one argument too many"),
        ("lock x --conflict-exit-code 256 -- true", "0 to 255"),
        ("claim T1 --wait 5", "'5' is one argument too many"),
        ("claim", "something is missing"),
        ("pool set gpu many", "CAPACITY takes a whole number from 0"),
        ("why", "which task?"),
    ],
)
def test_usage_is_2_and_says_the_way_out(hub: RealHub, words: str, complaint: str) -> None:
    done = hub.run("--name", "ada", *words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr


def test_a_hand_off_and_an_offer(hub: RealHub) -> None:
    epoch = claim(hub, "ada", "T1")["epoch"]
    assert hub.json("--name", "ada", "handoff", "T1", "--to", "bob", code=4)["error"]["code"] == "not_found"
    hub.json("--name", "bob", "inbox", "--ack-all")
    lease = hub.json("--name", "ada", "handoff", "T1", "--to", "bob", "--epoch", str(epoch))
    assert (lease["owner"], lease["epoch"] > epoch, lease["outcome"]) == ("bob", True, "handed_off")
    assert hub.json("--name", "ada", "renew", "T1", "--epoch", str(epoch), code=3)["error"]["code"] == "stale_epoch"
    (told,) = hub.lines("--name", "bob", "inbox")
    assert told["body"]["type"] == "lease.handed_off"
    done = hub.run("--name", "bob", "handoff", "T1", "--to", "ada")
    assert "is ada's now" in done.stdout


def test_guards_ask_for_an_epoch(hub: RealHub) -> None:
    epoch = claim(hub, "ada", "T1")["epoch"]
    assert hub.json("lease", "check", "T1", "--epoch", str(epoch))["owner"] == "ada"
    error = hub.json("lease", "check", "T1", "--epoch", str(epoch + 1), code=3)["error"]
    assert (error["code"], error["facts"]["holders"][0]["epoch"]) == ("stale_epoch", epoch)


def test_guards_ask_for_files(hub: RealHub, root: Path) -> None:
    epoch = claim(hub, "ada", "T1", "--paths", "sub/**", "--mode", "shared")["epoch"]
    hub.cwd = root / "sub"
    answer = hub.json("--name", "ada", "claims", "check", "a b", "c/d")
    assert [(p["path"], p["task"], p["epoch"]) for p in answer["paths"]] == [
        ("sub/a b", "T1", epoch),
        ("sub/c/d", "T1", epoch),
    ]
    assert "cursor" in answer
    assert hub.run("--name", "ada", "claims", "check", "a").stdout.startswith(f"sub/a  T1  epoch {epoch}  ")
    error = hub.json("--name", "ada", "claims", "check", "a", "../b", code=3)["error"]
    assert (error["code"], error["facts"]["paths"]) == ("not_covered", [{"path": "b", "holders": []}])
    assert "nobody holds it" in error["detail"]
    error = hub.json("--name", "bob", "claims", "check", "a", code=3)["error"]
    assert error["facts"]["paths"][0]["holders"][0]["owner"] == "ada"
    assert "ada holds it as T1" in error["detail"]
    exclusive = hub.json("--name", "ada", "claims", "check", "a", "--mode", "exclusive", code=3)["error"]
    assert exclusive["code"] == "not_covered"
    assert (
        hub.json("--name", "ada", "claims", "check", "sub/a", "--worktree", "W", code=3)["error"]["code"]
        == "not_covered"
    )
    many = hub.json("--name", "ada", "claims", "check", *(f"f{n}" for n in range(250)))
    assert [p["path"] for p in many["paths"]] == [f"sub/f{n}" for n in range(250)]
    names = ["a", "../b0", *(f"f{n}" for n in range(250)), "../b1", "../b2"]
    error = hub.json("--name", "ada", "claims", "check", *names, code=3)["error"]
    assert [p["path"] for p in error["facts"]["paths"]] == ["b0", "b1", "b2"], "asked about in three calls"
    assert error["facts"]["paths_count"] == 3
    assert error["detail"].startswith("b0 is not covered")
    assert "after those, 2 are not covered" in error["detail"]


def test_over_the_websocket_too(hub: RealHub, root: Path) -> None:
    lease = claim(hub, "ada", "T1", "--paths", "x", "--uri", hub.websocket)
    assert hub.json("--name", "ada", "release", "T1", "--uri", hub.websocket)["epoch"] == lease["epoch"]


def test_text_of_others_is_harmless_for_people(hub: RealHub) -> None:
    claim(hub, "ada", "T1", "--note", "n\x1b[2J")
    hub.json("--name", "ada", "checkpoint", "T1", '"\\u001b[2J\\u202e"')
    shown = hub.run("--name", "ada", "renew", "T1").stdout + hub.run("state").stdout
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_a_lease_in_words() -> None:
    lease: dict[str, object] = {"task": "T1", "epoch": 7, "status": "parked", "whole_worktree": True, "worktree": "W"}
    assert described(lease) == "T1  epoch 7  all of W  parked"
    offered = {**lease, "outcome": "offered", "offered_to": "bob", "paths": [], "pools": {"gpu": 2}, "mode": "shared"}
    assert described({**offered, "whole_worktree": False}) == (
        "T1  epoch 7  pool gpu=2  shared  offered to bob, yours until it is claimed there  parked"
    )


def test_the_line_to_type_for_a_file_that_nobody_holds_works_where_it_was_asked_about(hub: RealHub, root: Path) -> None:
    folder = root / "sub"
    folder.mkdir(exist_ok=True)
    hub.cwd = folder
    for name in ("plain.py", "a b.py", "it's.py", "x*.py", "[id].py", "../up.py"):
        done = hub.run("--name", "ada", "claims", "check", name)
        assert done.returncode == 3
        found = re.search(r"claim it with (synapse claim TASK --paths .*)", done.stderr)
        assert found is not None, done.stderr
        words = shlex.split(found[1])[1:]
        hub.json("--name", "ada", *words)
        assert hub.run("--name", "ada", "claims", "check", name).returncode == 0
        (lease,) = hub.json("--name", "ada", "state")["leases"]
        assert "**" not in lease["paths"][0]
        hub.json("--name", "ada", "release", "TASK")
