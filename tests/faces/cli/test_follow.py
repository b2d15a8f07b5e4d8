"""`listen` and `wait` against a hub of paper: come back, resume, repeat nothing but what must be."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faces.conftest import JOURNAL, Frame, PaperHub, Script, message, refusal, reply, welcome

from synapse.faces.cli import board
from synapse.faces.cli.main import main

Start = Callable[[Script], PaperHub]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "SYNAPSE_NAME",
        "SYNAPSE_ROOM",
        "SYNAPSE_URI",
        "SYNAPSE_TOKEN_FILE",
        "SYNAPSE_TIMEOUT",
        "SYN_IDENTITY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SYNAPSE_HOME", str(tmp_path / "home"))


def notice(kind: str, body: Frame, seq: int = 7) -> Frame:
    return {"type": kind, "seq": seq, "body": body}


def subscribed(request: Frame) -> Frame:
    return reply(request, subscription=1, positions=[], from_cursor=f"{JOURNAL}:5")


def asked(hub: PaperHub, kind: str) -> list[Frame]:
    return [request["body"] for request in hub.requests if request["type"] == kind]


def feed(*rounds: list[Frame] | None) -> Script:
    """A hub that answers the n-th subscription with the n-th round, and then cuts; None: with a final refusal."""

    def script(hub: PaperHub, request: Frame) -> list[Frame] | None:
        if request["type"] == "hello":
            return [welcome(request)]
        if request["type"] == "inbox.list":
            return [reply(request, messages=[], unacked=0, next=None)]
        if request["type"] == "feed.subscribe":
            found = rounds[min(len(asked(hub, "feed.subscribe")), len(rounds)) - 1]
            if found is None:
                return [refusal(request, "log_diverged", "start again")]
            closing = notice("closing", {"code": 1012, "reason": "restart"})
            return [subscribed(request), *found, closing]
        return None

    return script


def test_listen_resumes_from_the_last_cursor_and_ends_when_the_log_diverged(
    paper: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = paper(
        feed([notice("message", message(8)), notice("message", message(9))], [notice("message", message(10))], None)
    )
    assert main(["listen", "--json"]) == 3
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("n") for line in lines] == [8, 9, 10, None]
    assert lines[-1]["error"]["code"] == "log_diverged"
    assert [body.get("since") for body in asked(hub, "feed.subscribe")] == [None, f"{JOURNAL}:9", f"{JOURNAL}:10"]
    assert all(body["lasting"] for body in asked(hub, "hello"))


def test_listen_resumes_from_where_it_began_when_nothing_came(paper: Start) -> None:
    hub = paper(feed([], [notice("feed.live", {"subscription": 1, "cursor": f"{JOURNAL}:6"})], None))
    assert main(["listen"]) == 3
    assert [body.get("since") for body in asked(hub, "feed.subscribe")] == [None, f"{JOURNAL}:5", f"{JOURNAL}:6"]


@pytest.mark.parametrize(
    ("words", "body"),
    [
        ([], {"channels": ["main:general"], "inbox": True, "presence": False}),
        (["--room", "lab"], {"channels": ["lab:general"], "inbox": True, "presence": False}),
        (["lab:x", "y"], {"channels": ["lab:x", "main:y"], "inbox": False, "presence": False}),
        (["lab:x", "--inbox", "--presence"], {"channels": ["lab:x"], "inbox": True, "presence": True}),
        (["--since", "j:1"], {"channels": ["main:general"], "inbox": True, "presence": False, "since": "j:1"}),
    ],
)
def test_what_listen_subscribes_to(paper: Start, words: list[str], body: Frame) -> None:
    hub = paper(feed(None))
    assert main(["listen", *words]) == 3
    assert asked(hub, "feed.subscribe") == [body]


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (["questions", "--watch", "--json"], {"questions": []}),
        (["questions", "--watch", "--room", "main"], None),
        (["board", "--watch", "--json"], {"tasks": [], "ready": [], "room": "main"}),
        (["board", "--watch"], None),
        (["state", "--watch", "--json"], {"leases": []}),
        (["state", "--watch"], None),
    ],
)
def test_a_restart_between_the_subscription_and_the_first_look_ends_no_watch(
    paper: Start,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    first: Frame | None,
) -> None:
    is_screen = words == ["board", "--watch"]
    monkeypatch.setattr(board, "_is_terminal", lambda: is_screen)

    def script(hub: PaperHub, request: Frame) -> list[Frame] | None:
        times = hub.kinds().count("feed.subscribe")
        match request["type"]:
            case "hello":
                return [welcome(request)]
            case "room.list":
                return [reply(request, rooms=[{"room": "main"}], next=None)]
            case "feed.subscribe":
                return [refusal(request, "limit", "no more")] if times == 3 else [subscribed(request)]
            case "pool.list":
                closing = notice("closing", {"code": 1012, "reason": "restart"})
                return [reply(request, pools=[], next=None), closing]
        if times == 1:
            return None
        closings = [] if words[0] == "state" else [notice("closing", {"code": 1012, "reason": "restart"})]
        lists: Frame = {"questions": [], "tasks": [], "ready": [], "leases": [], "room": "main"}
        return [reply(request, **lists, next=None), *closings]

    hub = paper(script)
    assert main(words) == 3
    lines = capsys.readouterr().out.splitlines()
    if first is not None:
        shown = json.loads(lines[0])
        assert {key: shown[key] for key in first} == first
        assert len(lines) == 2, "once, and the end"
    since = [body.get("since") for body in asked(hub, "feed.subscribe")]
    assert (since[:2], since[2] is None) == ([None, None], is_screen)


def test_presence_and_broken_feeds(paper: Start, capsys: pytest.CaptureFixture[str]) -> None:
    agent = {"name": "ada\x1b", "kind": "agent", "presence": "online", "status": "busy"}
    snapshot = notice("presence.snapshot", {"agents": [agent], "complete": True}, seq=9)
    broken = notice("feed.broken", {"subscription": 1, "code": "journal_broken", "detail": "seq 4"})
    paper(feed([snapshot, broken]))
    assert main(["listen", "--presence"]) == 78
    assert "presence  ada\\x1b  online  busy" in capsys.readouterr().out
    assert main(["listen", "--presence", "--json"]) == 78
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert first == {"type": "presence.snapshot", "agents": [agent], "cursor": f"{JOURNAL}:9"}


def test_a_first_failure_is_not_repeated(paper: Start, capsys: pytest.CaptureFixture[str]) -> None:
    hub = paper(lambda hub, request: None)
    assert main(["listen"]) == 69
    assert main(["wait"]) == 69
    assert hub.connections == 2
    assert "the hub ended the connection" in capsys.readouterr().err


def taking(*acks: str) -> Script:
    """A hub with one message; the n-th ack ends as the n-th word says: cut, draining, or fine."""

    def script(hub: PaperHub, request: Frame) -> list[Frame] | None:
        match request["type"]:
            case "hello":
                return [welcome(request)]
            case "inbox.take":
                return [reply(request, message=message(8), lends=1, lend_ms=30000)]
            case _:
                how = acks[min(len(asked(hub, "inbox.ack")), len(acks)) - 1]
                if how == "draining":
                    return [refusal(request, "draining")]
                return None if how == "cut" else [reply(request, acked=["m8"], already=[], unacked=0)]

    return script


def test_wait_prints_and_then_acks(paper: Start, capsys: pytest.CaptureFixture[str]) -> None:
    hub = paper(taking("fine"))
    assert main(["wait", "--json", "--directed-only"]) == 0
    assert json.loads(capsys.readouterr().out) == message(8)
    assert asked(hub, "inbox.take")[0]["directed_only"] is True
    assert asked(hub, "inbox.ack") == [{"ids": ["m8"]}]


def test_wait_can_leave_it_unacked(paper: Start) -> None:
    hub = paper(taking("fine"))
    assert main(["wait", "--no-ack"]) == 0
    assert asked(hub, "inbox.ack") == []


def test_an_ack_that_is_cut_off_is_repeated_and_the_message_is_not(
    paper: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = paper(taking("cut", "draining", "fine"))
    assert main(["wait", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert len(asked(hub, "inbox.ack")) == 3
    assert len(asked(hub, "inbox.take")) == 1


def test_an_ack_that_never_gets_through_is_said(paper: Start, capsys: pytest.CaptureFixture[str]) -> None:
    paper(taking("cut"))
    assert main(["wait", "--timeout", "0.3"]) == 69
    out, err = capsys.readouterr()
    assert "text 8" in out
    assert "m8 was printed and not acked" in err


def test_wait_comes_back_until_its_deadline(paper: Start) -> None:
    def script(hub: PaperHub, request: Frame) -> list[Frame] | None:
        return [welcome(request)] if request["type"] == "hello" else None

    hub = paper(script)
    assert main(["wait", "--wait=0.4"]) == 5
    assert hub.connections > 2


def test_wait_asks_again_until_its_own_deadline_and_never_longer_than_the_hub_allows(paper: Start) -> None:
    def script(hub: PaperHub, request: Frame) -> list[Frame] | None:
        return [welcome(request)] if request["type"] == "hello" else [refusal(request, "deadline")]

    hub = paper(script)
    assert main(["wait", "--wait=0"]) == 5
    assert asked(hub, "inbox.take") == [{"wait_ms": 0, "directed_only": False}]
    assert main(["wait", "--wait=0.05"]) == 5
    assert len(asked(hub, "inbox.take")) > 2

    def once(hub: PaperHub, request: Frame) -> list[Frame] | None:
        return taking("fine")(hub, request)

    hub.script = once
    assert main(["wait"]) == 0
    assert asked(hub, "inbox.take")[-1]["wait_ms"] == 5000
