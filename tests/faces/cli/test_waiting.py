"""Waiting in line: granted on release, over a hub that is killed, given up in time, left when ended."""

import json
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.faces.conftest import Frame, PaperHub, RealHub, Script, refusal, reply, welcome

from synapse.faces.cli import waiting as waiting_module
from synapse.faces.cli.main import main

Start = Callable[[Script], PaperHub]


def waiting(*owners: str) -> Callable[[Any], bool]:
    """True when these wait behind the only lease, in this order."""
    return lambda state: [w["owner"] for lease in state["leases"] for w in lease["waiters"]] == list(owners)


def ended(process: "subprocess.Popen[str]", timeout_s: float = 20) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err


def test_who_waits_is_granted_on_release_in_turn(hub: RealHub) -> None:
    epoch = hub.json("--name", "ada", "claim", "T1")["epoch"]
    bob = hub.begin("--name", "bob", "claim", "T1", "--wait", "--json")
    hub.until(waiting("bob"))
    cleo = hub.begin("--name", "cleo", "claim", "T1", "--wait=1h")
    hub.until(waiting("bob", "cleo"))
    hub.json("--name", "ada", "release", "T1")
    code, out, err = ended(bob)
    lease = json.loads(out)
    assert (code, lease["owner"], lease["epoch"] > epoch, lease["outcome"]) == (0, "bob", True, "granted")
    assert err.startswith(f"synapse: T1: waiting in line, position 1; ada holds T1 with epoch {epoch} for another ")
    assert err.count("\n") == 1
    hub.json("--name", "bob", "release", "T1")
    code, out, err = ended(cleo)
    assert (code, out.startswith("T1  epoch ")) == (0, True)
    assert "position 2" in err


def test_a_higher_priority_stands_before(hub: RealHub) -> None:
    hub.json("--name", "ada", "claim", "T1")
    hub.begin("--name", "bob", "claim", "T1", "--wait")
    hub.until(waiting("bob"))
    hub.begin("--name", "cleo", "claim", "T1", "--wait", "--priority", "urgent")
    hub.until(waiting("cleo", "bob"))
    assert hub.json("--name", "dora", "claim", "T1", code=3)["error"]["code"] == "lease_held"


def test_the_deadline_is_5_and_names_the_holder(hub: RealHub) -> None:
    epoch = hub.json("--name", "ada", "claim", "T1")["epoch"]
    done = hub.run("--name", "bob", "claim", "T1", "--wait=0.3")
    assert done.returncode == 5
    assert f"ada holds T1 with epoch {epoch}" in done.stderr.splitlines()[-1]
    error = hub.json("--name", "bob", "claim", "T1", "--wait=0", code=5)["error"]
    assert (error["code"], error["facts"]["holders"][0]["epoch"]) == ("deadline", epoch)
    assert waiting()(hub.json("state"))


def test_a_place_survives_a_killed_hub(hub: RealHub) -> None:
    hub.json("--name", "ada", "claim", "T1")
    bob = hub.begin("--name", "bob", "claim", "T1", "--wait=60", "--json")
    (lease,) = hub.until(waiting("bob"))["leases"]
    place = lease["waiters"][0]["place"]
    cleo = hub.begin("--name", "cleo", "claim", "T1", "--wait=60", "--json")
    hub.until(waiting("bob", "cleo"))
    for how in (signal.SIGKILL, signal.SIGTERM):
        hub.end(how)
        hub.start()
    hub.json("--name", "ada", "release", "T1")
    code, out, _ = ended(bob)
    assert (code, json.loads(out)["owner"]) == (0, "bob")
    (lease,) = hub.until(waiting("cleo"))["leases"]
    assert lease["owner"] == "bob"
    assert hub.json("why", "T1")["events"][1] == {
        **hub.json("why", "T1")["events"][1],
        "seq": place,
        "change": "queued",
        "by": "bob",
    }
    assert [e["change"] for e in hub.json("why", "T1")["events"]] == [
        "granted",
        "queued",
        "queued",
        "released",
        "granted",
    ]
    hub.json("--name", "bob", "release", "T1")
    assert ended(cleo)[0] == 0


def test_a_hub_that_does_not_come_back_leaves_the_outcome_unknown(hub: RealHub) -> None:
    hub.json("--name", "ada", "claim", "T1")
    bob = hub.begin("--name", "bob", "claim", "T1", "--wait=3", "--json")
    hub.until(waiting("bob"))
    hub.end(signal.SIGKILL)
    code, out, _ = ended(bob)
    error = json.loads(out)["error"]
    assert (code, error["code"], "did not say whether it was granted" in error["detail"]) == (69, "unreachable", True)
    assert hub.run("--name", "bob", "claim", "T1", "--wait=3").returncode == 69


def test_a_silent_hub_leaves_the_outcome_unknown(hub: RealHub) -> None:
    assert hub.process is not None
    hub.process.send_signal(signal.SIGSTOP)
    try:
        error = hub.json("--name", "bob", "--timeout", "1", "claim", "T1", "--wait=0.5", code=69)["error"]
    finally:
        hub.process.send_signal(signal.SIGCONT)
    assert "did not say whether it was granted" in error["detail"]


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_who_is_ended_leaves_the_line_at_once(hub: RealHub, how: signal.Signals, code: int) -> None:
    hub.json("--name", "ada", "claim", "T1")
    staying = hub.begin("--name", "bob", "claim", "T1", "--wait")
    hub.until(waiting("bob"))
    going = hub.begin("--name", "bob", "claim", "T1", "--wait", "--priority", "high")
    hub.until(waiting("bob", "bob"))
    going.send_signal(how)
    exit_code, out, err = ended(going)
    assert (exit_code, out, err.count("\n")) == (code, "", 1)
    assert waiting("bob")(hub.json("state"))
    assert staying.poll() is None


def test_withdraw_ends_all_my_waits(hub: RealHub) -> None:
    hub.json("--name", "ada", "claim", "T1")
    bob = hub.begin("--name", "bob", "claim", "T1", "--wait", "--json")
    hub.until(waiting("bob"))
    answer = hub.json("--name", "bob", "withdraw", "T1")
    assert (answer["task"], answer["withdrawn"], "cursor" in answer) == ("T1", 1, True)
    code, out, _ = ended(bob)
    assert (code, json.loads(out)["error"]["code"]) == (3, "withdrawn")
    assert hub.json("--name", "bob", "withdraw", "T1", code=4)["error"]["code"] == "not_found"


def test_a_circle_is_refused(hub: RealHub) -> None:
    hub.json("--name", "ada", "claim", "T1")
    hub.json("--name", "bob", "claim", "T2")
    hub.begin("--name", "ada", "claim", "T2", "--wait")
    hub.until(waiting("ada"))
    error = hub.json("--name", "bob", "claim", "T1", "--wait", code=3)["error"]
    assert (error["code"], error["facts"]["cycle"]) == ("deadlock", ["bob", "ada", "bob"])


# Against a hub of paper: what a real one does seldom.


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SYNAPSE_ROOM", "SYNAPSE_URI", "SYNAPSE_TOKEN_FILE", "SYNAPSE_TIMEOUT", "SYN_IDENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SYNAPSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SYNAPSE_NAME", "ada")


HOLDER = {"task": "T0", "owner": "bob", "epoch": 5, "paths": ["src/**"], "expires_in_ms": 90_000}


def lease(request: Frame, **more: object) -> Frame:
    body = {"task": "T1", "room": "main", "owner": "ada", "epoch": 7, "status": "held", "outcome": "granted"}
    return reply(request, **body, live=True, ttl_ms=30_000, **more)


def queued(request: Frame, place: int) -> Frame:
    body = {"request": request["id"], "task": "T1", "room": "main", "place": place, "position": 1, "holders": [HOLDER]}
    return {"type": "claim.queued", "seq": 7, "body": body}


def asked(hub: PaperHub, kind: str) -> list[Frame]:
    return [request for request in hub.requests if request["type"] == kind]


def answering(*rounds: Callable[[Frame], list[Frame] | None]) -> Script:
    """A hub that answers the n-th claim as the n-th round says, and the last one for ever."""

    def script(hub: PaperHub, request: Frame) -> list[Frame] | None:
        match request["type"]:
            case "hello":
                return [welcome(request)]
            case "lease.claim":
                return rounds[min(len(asked(hub, "lease.claim")), len(rounds)) - 1](request)
            case "lease.withdraw":
                claim = asked(hub, "lease.claim")[-1]
                return [reply(request, task="T1", withdrawn=1), refusal(claim, "withdrawn")]
            case _:
                return [reply(request)]

    return script


def test_a_claim_that_is_cut_off_comes_again_under_the_same_key(paper: Start) -> None:
    hub = paper(answering(lambda r: None, lambda r: None, lambda r: [queued(r, 9), lease(r)]))
    assert main(["claim", "T1", "--wait=20"]) == 0
    claims = asked(hub, "lease.claim")
    assert len(claims) == 3
    assert len({claim["idem_key"] for claim in claims}) == 1
    assert [claim["body"] for claim in claims] == [claims[0]["body"]] * 3
    assert all(hello["body"]["lasting"] for hello in asked(hub, "hello"))


def test_a_claim_that_does_not_wait_needs_no_key(paper: Start) -> None:
    hub = paper(answering(lambda r: None, lambda r: [lease(r)]))
    assert main(["claim", "T1"]) == 0
    assert [claim.get("idem_key") for claim in asked(hub, "lease.claim")] == [None, None]
    assert not any(hello["body"].get("lasting") for hello in asked(hub, "hello"))


def test_where_keys_have_run_out_the_place_brings_it_back(paper: Start) -> None:
    closing = {"type": "closing", "seq": 7, "body": {"code": 1012, "reason": "restart"}}

    def in_line(request: Frame) -> list[Frame]:
        return [queued(request, 9), reply({"id": str(int(request["id"]) + 1)}), closing]  # the pong, and then the end

    hub = paper(answering(lambda r: [refusal(r, "idem_limit")], in_line, lambda r: [queued(r, 9), lease(r)]))
    assert main(["claim", "T1", "--wait=20"]) == 0
    claims = asked(hub, "lease.claim")
    assert ["idem_key" in claim for claim in claims] == [True, False, False]
    assert [claim["body"].get("place") for claim in claims] == [None, None, 9]


def test_an_own_key_is_never_dropped(paper: Start) -> None:
    hub = paper(answering(lambda r: [refusal(r, "idem_limit")]))
    assert main(["claim", "T1", "--wait=20", "--idem-key", "k"]) == 3
    assert [claim["idem_key"] for claim in asked(hub, "lease.claim")] == ["k"]


def test_a_hub_that_forgets_the_deadline_is_left_in_time(paper: Start, capsys: pytest.CaptureFixture[str]) -> None:
    hub = paper(answering(lambda r: [queued(r, 9)]))
    assert main(["claim", "T1", "--wait=0.1", "--json"]) == 5
    assert [request["body"] for request in asked(hub, "lease.withdraw")] == [{"task": "T1", "place": 9}]
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["facts"]) == ("deadline", {"holders": [HOLDER]})
    assert "bob holds T0 (src/**) with epoch 5 for another 90 s" in error["detail"]


def test_a_grant_in_the_moment_of_the_deadline_counts(paper: Start) -> None:
    plain = answering(lambda r: [queued(r, 9)])

    def script(hub: PaperHub, request: Frame) -> list[Frame] | None:
        if request["type"] == "lease.withdraw":
            return [lease(asked(hub, "lease.claim")[-1]), refusal(request, "not_found")]
        return plain(hub, request)

    paper(script)
    assert main(["claim", "T1", "--wait=0.1"]) == 0


def test_a_grant_in_the_moment_of_an_end_is_given_back(paper: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = answering(lambda r: [queued(r, 9)])

    def script(hub: PaperHub, request: Frame) -> list[Frame] | None:
        if request["type"] == "lease.withdraw":
            return [lease(asked(hub, "lease.claim")[-1]), refusal(request, "not_found")]
        return plain(hub, request)

    before = signal.getsignal(signal.SIGTERM)
    hub = paper(script)
    monkeypatch.setattr(waiting_module, "print_words", lambda text: signal.raise_signal(signal.SIGTERM))
    assert main(["claim", "T1", "--wait"]) == 143
    assert [request["body"] for request in asked(hub, "lease.withdraw")] == [{"task": "T1", "place": 9}]
    assert [request["body"] for request in asked(hub, "lease.release")] == [{"task": "T1", "room": "main", "epoch": 7}]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("late", "withdrawn", "released"),
    [
        (lease, [], [{"task": "T1", "room": "main", "epoch": 7}]),
        (lambda r: reply(r, task="T1", room="main", epoch=7, outcome="renewed"), [], []),
        (lambda r: queued(r, 9), [{"task": "T1", "place": 9}], []),
        (lambda r: refusal(r, "deadlock"), [], []),
    ],
)
def test_who_is_ended_before_the_hub_spoke_gives_back_what_it_then_says(
    paper: Start, late: Callable[[Frame], Frame], withdrawn: list[Frame], released: list[Frame]
) -> None:
    """A slow hub: it takes the claim, and says nothing until who asked has been ended."""
    main_thread = threading.main_thread().ident
    assert main_thread is not None

    def script(hub: PaperHub, request: Frame) -> list[Frame] | None:
        pings = asked(hub, "ping")
        if request["type"] == "ping" and len(pings) == 1:
            signal.pthread_kill(main_thread, signal.SIGTERM)
            return []
        if request["type"] == "ping":
            return [late(asked(hub, "lease.claim")[0]), *(reply(ping) for ping in pings)]
        return answering(lambda r: [])(hub, request)

    hub = paper(script)
    assert main(["claim", "T1", "--wait"]) == 143
    assert [request["body"] for request in asked(hub, "lease.withdraw")] == withdrawn
    assert [request["body"] for request in asked(hub, "lease.release")] == released
