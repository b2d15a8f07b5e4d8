"""`ask`, `questions`, `answer`, `dismiss` against a real hub: over its death, by who may, with the exit codes."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
from tests.faces.conftest import RealHub

ADA, BOB = {"SYNAPSE_NAME": "ada"}, {"SYNAPSE_NAME": "bob"}


def asked(hub: RealHub, *words: str) -> tuple["subprocess.Popen[str]", str]:
    """An agent that asks and waits, and its question."""
    waiter = hub.begin("ask", *words, **ADA)
    assert waiter.stderr is not None
    told = waiter.stderr.readline()
    assert "waits for a person" in told
    return waiter, told.split()[1]


def ended(waiter: "subprocess.Popen[str]") -> tuple[int | None, str]:
    out, _ = waiter.communicate(timeout=30)
    return waiter.returncode, out


def test_the_answer_comes_once_over_a_killed_hub_and_the_lease_stands_still(hub: RealHub) -> None:
    held = hub.json("claim", "T1", "--ttl", "6", SYNAPSE_NAME="ada")
    waiter, question = asked(
        hub, "Ship it?", "--option", "yes", "--option", "no", "--task", "T1", "--wait=60", "--json"
    )
    state = hub.json("state", SYNAPSE_NAME="ada")["leases"][0]
    assert (state["status"], state["questions"]) == ("parked", [question])
    assert question in hub.run("state", **ADA).stdout
    hub.end(signal.SIGKILL)
    hub.start()
    refused = hub.run("answer", question, "yes", **BOB)
    assert refused.returncode == 77
    assert f"a person types: env -u SYNAPSE_NAME synapse answer {question}" in refused.stderr
    closed = hub.json("answer", question, "--option", "1")
    assert (closed["by"], closed["via"], closed["answer"], closed["told"]) == ("operator", "operator", "yes", ["ada"])
    code, out = ended(waiter)
    assert code == 0
    assert json.loads(out)["answer"] == "yes"
    assert hub.run("inbox", "--json", **ADA).stdout == "", "what was printed is acked"
    after = hub.json("state", SYNAPSE_NAME="ada")["leases"][0]
    assert (after["epoch"], after["status"]) == (held["epoch"], "held")
    assert hub.json("answer", question, "yes")["already"] is True
    assert hub.json("answer", question, "no", code=3)["error"]["facts"]["answer"] == "yes"


@pytest.mark.parametrize(
    ("words", "close", "code"),
    [
        ((), ("dismiss", "--reason", "no time"), 3),
        ((), ("withdraw",), 3),
        (("--deadline", "1"), (), 5),
        (("--deadline", "1", "--default", "no"), (), 0),
    ],
)
def test_who_waits_exits_by_the_outcome(
    hub: RealHub, words: tuple[str, ...], close: tuple[str, ...], code: int
) -> None:
    waiter, question = asked(hub, "Which?", *words, "--wait=60")
    if close:
        hub.json(close[0], question, *close[1:])
    assert ended(waiter) == (code, "no\n" if code == 0 else "")


def test_who_waits_long_enough_is_told_that_it_is_open_still(hub: RealHub) -> None:
    refused = hub.json("ask", "Which?", "--wait=0.2", code=5, SYNAPSE_NAME="ada")["error"]
    question = refused["facts"]["id"]
    assert "comes into the inbox" in refused["detail"]
    hub.json("answer", question, "blue")
    letter = hub.json("wait", "--wait=5", SYNAPSE_NAME="ada")
    assert (letter["kind"], letter["body"]["answer"]) == ("system", "blue")


def test_who_never_heard_whether_it_was_asked_is_told_the_key(hub: RealHub) -> None:
    assert hub.process is not None
    hub.process.send_signal(signal.SIGSTOP)
    try:
        error = hub.json("--timeout", "1", "ask", "Which?", "--wait=0.5", code=69, **ADA)["error"]
    finally:
        hub.process.send_signal(signal.SIGCONT)
    assert error["code"] == "unreachable"
    assert "did not say whether it was asked" in error["detail"]
    key = error["detail"].rpartition("--idem-key ")[2]
    (question,) = hub.until(lambda listed: len(listed["questions"]) == 1, "questions")["questions"]
    again = hub.json("ask", "Which?", "--wait=0.2", "--idem-key", key, code=5, **ADA)["error"]
    assert again["facts"] == {"id": question["id"]}


def test_who_waits_again_under_a_key_is_told_that_it_is_no_new_question(hub: RealHub) -> None:
    question = hub.json("ask", "Which?", "--idem-key", "k", SYNAPSE_NAME="ada")["id"]
    waiter, again = asked(hub, "Which?", "--idem-key", "k", "--wait=60", "--json")
    other, new = asked(hub, "And this?", "--idem-key", "another", "--wait=60", "--json")
    hub.json("answer", question, "blue")
    hub.json("answer", new, "green")
    assert again == question
    assert json.loads(ended(waiter)[1])["replayed"] is True
    assert "replayed" not in json.loads(ended(other)[1])


def test_a_repeat_under_a_key_asks_once_and_lists_filter(hub: RealHub) -> None:
    first = hub.json("ask", "Which?", "-", "--idem-key", "k", "--tag", "ui", text="more words", SYNAPSE_NAME="ada")
    again = hub.json("ask", "Which?", "-", "--idem-key", "k", "--tag", "ui", text="more words", SYNAPSE_NAME="ada")
    assert first["id"] == again["id"]
    urgent = hub.json(
        "ask", "Now?", "--priority", "urgent", "--task", "T9", "--context", '{"a": 1}', SYNAPSE_NAME="bob"
    )
    listed = [question["id"] for question in hub.json("questions", SYNAPSE_NAME="ada")["questions"]]
    assert listed == [urgent["id"], first["id"]]
    assert [q["id"] for q in hub.json("questions", "--mine", SYNAPSE_NAME="ada")["questions"]] == [first["id"]]
    assert [q["id"] for q in hub.json("questions", "--task", "T9", SYNAPSE_NAME="ada")["questions"]] == [urgent["id"]]
    assert [q["id"] for q in hub.json("questions", "--tag", "ui", SYNAPSE_NAME="ada")["questions"]] == [first["id"]]
    shown = hub.json("question", "show", urgent["id"], SYNAPSE_NAME="ada")
    assert (shown["context"], shown["asker"]) == ({"a": 1}, "bob")
    assert "more words" in hub.run("question", "show", first["id"], **ADA).stdout
    assert hub.run("question", "withdraw", first["id"], **BOB).returncode == 77
    assert hub.run("withdraw", first["id"], **ADA).returncode == 0
    assert "  withdrawn by ada\n" in hub.run("question", "show", first["id"], **ADA).stdout
    assert len(hub.json("questions", "--all", SYNAPSE_NAME="ada")["questions"]) == 2
    assert hub.run("answer", urgent["id"]).returncode == 2
    assert hub.run("ask", "Which?").returncode == 2, "it needs a name of its own"
    session = hub.json("session", "start", SYNAPSE_NAME="ada")["session"]
    assert hub.json("ask", "Whose?", SYNAPSE_NAME="ada", SYNAPSE_SESSION=session)["session"] == session
    assert hub.json("session", "show", SYNAPSE_NAME="ada")["state"] == "waiting_for_input"


def test_an_epoch_without_its_task_is_refused(hub: RealHub) -> None:
    refused = hub.run("ask", "Which?", "--epoch", "7", **ADA)
    assert (refused.returncode, "--epoch" in refused.stderr, "--task" in refused.stderr) == (2, True, True)
    assert hub.json("questions", SYNAPSE_NAME="ada")["questions"] == []


def test_in_a_private_room_the_next_step_is_one_for_its_members(hub: RealHub, tmp_path: Path) -> None:
    hub.json("room", "create", "den", "--private", SYNAPSE_NAME="ada")
    question = hub.json("ask", "Which?", SYNAPSE_ROOM="den", SYNAPSE_NAME="ada")["id"]
    waiter = hub.begin("ask", "Now?", "--wait=60", SYNAPSE_ROOM="den", **ADA)
    assert waiter.stderr is not None
    said = [waiter.stderr.readline(), hub.run("question", "show", question, **ADA).stdout]
    said += [hub.run(verb, question, *more, **ADA).stderr for verb, *more in (("answer", "x"), ("dismiss",))]
    for told in said:
        assert "a member of den with a token of the role human" in told
        assert "synapse --name NAME --token-file FILE " in told
        assert "env -u" not in told
    token = tmp_path / "token"
    hub.json("token", "create", "--role", "human", "--out", str(token))
    hal = ("--name", "hal", "--token-file", str(token))
    hub.json(*hal, "digest")
    hub.json("room", "invite", "den", "hal", SYNAPSE_NAME="ada")
    hub.json(*hal, "room", "join", "den")
    assert hub.json(*hal, "answer", question, "x")["by"] == "hal"


def test_the_board_and_the_digest_say_what_waits_for_a_person(hub: RealHub) -> None:
    hub.json("task", "declare", "T1", SYNAPSE_NAME="ada")
    hub.json("claim", "T1", SYNAPSE_NAME="ada")
    question = hub.json("ask", "Which?", "--task", "T1", SYNAPSE_NAME="ada")["id"]
    assert f"asks people: {question}" in hub.run("board", **ADA).stdout
    assert "questions to people: 1 mine" in hub.run("digest", **ADA).stdout


@pytest.mark.parametrize("which", ["all", "main", "all, with a token for everything"])
def test_a_watcher_hears_of_questions_as_they_come(hub: RealHub, which: str) -> None:
    named = which == "main"
    flags = ["--room", "main"] if named else []
    if "token" in which:  # it sees that the private room is there, and does not read it
        (hub.home / "admin").write_text(hub.run("token", "create", "--role", "admin").stdout)
        flags = ["--uri", hub.websocket, "--token-file", str(hub.home / "admin")]
    hub.json("room", "join", "lab", SYNAPSE_NAME="ada")
    hub.json("room", "create", "den", "--private", SYNAPSE_NAME="ada")
    watcher = hub.begin("questions", "--watch", "--json", *flags, **BOB)
    assert watcher.stderr is not None
    assert watcher.stdout is not None
    assert "watching" in watcher.stderr.readline()
    assert json.loads(watcher.stdout.readline())["questions"] == []
    elsewhere = hub.json("ask", "And here?", "--room", "lab", SYNAPSE_NAME="ada")["id"]
    hub.json("ask", "Not for you", "--room", "den", SYNAPSE_NAME="ada")
    question = hub.json("ask", "Which?", SYNAPSE_NAME="ada")["id"]
    hub.json("dismiss", question)
    expected = [*([] if named else [("asked", elsewhere)]), ("asked", question), ("dismissed", question)]
    told = [json.loads(watcher.stdout.readline()) for _ in expected]
    assert [(one["change"], one["id"]) for one in told] == expected


def test_a_watcher_hears_of_rooms_that_come_and_is_not_ended_by_one_that_goes(hub: RealHub) -> None:
    hub.json("room", "create", "brief", SYNAPSE_NAME="ada")
    hub.json("room", "create", "den", "--private", SYNAPSE_NAME="ada")
    watcher = hub.begin("questions", "--watch", "--json", **BOB)
    assert watcher.stdout is not None
    assert json.loads(watcher.stdout.readline())["questions"] == []
    hub.json("room", "join", "late", SYNAPSE_NAME="ada")
    late = hub.json("ask", "In a new room?", "--room", "late", SYNAPSE_NAME="ada")["id"]
    hub.json("room", "leave", "brief", SYNAPSE_NAME="ada")
    deleted = hub.run("room", "delete", "brief")
    assert deleted.returncode == 0, deleted.stderr
    hub.json("room", "invite", "den", "bob", SYNAPSE_NAME="ada")
    hub.json("room", "join", "den", SYNAPSE_NAME="bob")
    assert json.loads(watcher.stdout.readline())["id"] == late
    private = hub.json("ask", "In a private one?", "--room", "den", SYNAPSE_NAME="ada")["id"]
    assert json.loads(watcher.stdout.readline())["id"] == private
    after = hub.json("ask", "And here?", SYNAPSE_NAME="ada")["id"]
    assert json.loads(watcher.stdout.readline())["id"] == after
    assert "brief" not in [room["room"] for room in hub.json("room", "list")["rooms"]]
