"""`held …`, with a hub whose guard is quick: what goes round is held, over restarts, until somebody decides."""

import json
import signal

import pytest
from tests.faces.conftest import RealHub

QUICK = {"SYNAPSE_LIMIT_HOPS_MAX": "3", "SYNAPSE_LIMIT_LOOP_REPEATS_MAX": "1"}


@pytest.mark.bad_input("BI-114")
def test_a_ping_pong_is_held_and_a_person_releases_or_drops_it(hub: RealHub) -> None:
    hub.end()
    hub.start(**QUICK)
    for name in ("ada", "bob"):
        hub.json("who", "--name", name)
    hub.json("send", "hello", "--to", "bob", "--name", "ada")
    for hop in range(1, 20):
        me, other = ("bob", "ada") if hop % 2 else ("ada", "bob")
        taken = hub.json("wait", "--wait=5", "--name", me)
        assert taken.get("hops") == (hop - 1 or None)
        sent = hub.json("send", f"answer {hop}", "--to", other, "--name", me)
        if "held" in sent:
            break
    assert (hop, sent["held"]["why"]) == (4, "loop")
    later = hub.run("send", "once more", "--to", other, "--name", me)
    assert (later.returncode, "is held: other messages of its chain are held" in later.stdout) == (0, True)

    hub.end(signal.SIGKILL)
    hub.start(**QUICK)
    held = hub.json("held", "list", "--operator")["held"]
    (question,) = hub.json("questions")["questions"]
    assert question["options"] == ["release", "drop", "release and reset"]
    assert sent["id"] in question["title"]
    assert [(one["from"], one["body"], one["why"]) for one in held] == [
        (me, "answer 4", "loop"),
        (me, "once more", "chain_held"),
    ]
    assert hub.json("held", "list", "--name", other)["held"] == []
    assert hub.run("held", "release", sent["id"], "--name", me).returncode == 77
    assert hub.run("held", "drop", "m1", "--operator").returncode == 4
    assert hub.run("held", "drop", "x", "--operator").returncode == 3
    assert hub.run("held", "release", sent["id"], "--operator").returncode == 0
    message = hub.json("wait", "--wait=5", "--name", other)
    assert (message["body"], message["from"], message["hops"]) == ("answer 4", me, 4)
    assert hub.run("held", "drop", held[1]["id"], "--operator").returncode == 0
    letter = hub.json("wait", "--wait=5", "--name", me)
    assert (letter["body"]["type"], letter["body"]["released_as"]) == ("message.released", message["id"])
    letter = hub.json("wait", "--wait=5", "--name", me)
    assert (letter["from"], letter["body"]["type"], letter["body"]["id"]) == ("hub", "message.dropped", held[1]["id"])
    first = hub.json("receipts", sent["id"], "--name", me)
    assert (first["held"]["released_as"], first["recipients"][0]["state"]) == (message["id"], "acked")
    assert f"dropped by {letter['body']['by']}" in hub.run("receipts", held[1]["id"], "--name", me).stdout
    assert hub.run("held", "list", "--operator").stdout.strip() == "nothing is held"
    assert hub.json("questions")["questions"] == [], "nobody needs it any more"


def held_chain(hub: RealHub) -> tuple[str, str, list[str], str]:
    """Two agents play ping-pong until three messages of one of them are held: its name, the other's, their ids, and
    the question's."""
    hub.end()
    hub.start(**QUICK)
    for name in ("ada", "bob"):
        hub.json("who", "--name", name)
    hub.json("send", "hello", "--to", "bob", "--name", "ada")
    for hop in range(1, 5):
        me, other = ("bob", "ada") if hop % 2 else ("ada", "bob")
        hub.json("wait", "--wait=5", "--name", me)
        sent = hub.json("send", "answer 0", "--to", other, "--name", me)
    ids = [sent["id"], *(hub.json("send", f"answer {n}", "--to", other, "--name", me)["id"] for n in (1, 2))]
    (question,) = hub.json("questions")["questions"]
    return me, other, ids, question["id"]


def test_a_wait_for_the_ack_of_a_held_message_says_that_it_is_held_and_lasts_over_the_decision(hub: RealHub) -> None:
    me, other, ids, _ = held_chain(hub)
    late = hub.run("send", "once more", "--to", other, "--name", me, "--wait=0", "--json")
    error = json.loads(late.stdout)["error"]
    assert (late.returncode, error["code"], error["facts"]["to"]) == (5, "deadline", [other])
    assert error["facts"]["held"]["why"] == "chain_held"
    said = hub.run("send", "and again", "--to", other, "--name", me, "--wait=0")
    assert (said.returncode, "is held" in said.stdout, "do not send it again" in said.stderr) == (5, True, True)
    with hub.begin("send", "to the end", "--to", other, "--name", me, "--wait=20", "--json") as waits:
        for _ in range(100):
            held = hub.json("held", "list", "--operator")["held"]
            if len(held) == len(ids) + 3:
                break
        hub.json("held", "release", held[-1]["id"], "--operator")
        message = hub.json("wait", "--wait=5", "--name", other)
        answer = json.loads(waits.communicate(timeout=20)[0])
    assert (answer["id"], answer["to"], answer["receipt"]["acked_by"]) == (held[-1]["id"], [other], [other])
    assert answer["receipt"]["released_as"] == message["id"]


def test_several_are_released_or_dropped_together_or_not_at_all(hub: RealHub) -> None:
    _, _, ids, _ = held_chain(hub)
    for wrong, code in (("x", 3), ("m1", 4)):
        refused = hub.run("held", "release", ids[0], wrong, "--operator", "--json")
        assert (refused.returncode, list(json.loads(refused.stdout))) == (code, ["error"])
        assert len(hub.json("held", "list", "--operator")["held"]) == 3
    dropped = hub.json("held", "drop", *ids[:2], "--operator")
    assert (dropped["ids"], dropped["left"]) == (ids[:2], 1)
    assert len(hub.json("held", "release", ids[2], "--chain", "--operator")["ids"]) == 1


def test_an_answer_releases_the_whole_chain_in_order(hub: RealHub) -> None:
    _, other, _, question = held_chain(hub)
    hub.json("answer", question, "release")
    assert [hub.json("wait", "--wait=5", "--name", other)["body"] for _ in range(3)] == [
        f"answer {n}" for n in range(3)
    ]
    assert hub.json("held", "list", "--operator")["held"] == []


def test_an_answer_drops_the_whole_chain_with_a_letter_for_each(hub: RealHub) -> None:
    me, other, ids, question = held_chain(hub)
    hub.json("answer", question, "drop")
    letters = [hub.json("wait", "--wait=5", "--name", me)["body"] for _ in range(4)]
    assert [body["id"] for body in letters if body["type"] == "message.dropped"] == ids
    assert hub.lines("inbox", "--name", other) == []


def test_people_are_asked_and_talk_without_end(hub: RealHub) -> None:
    hub.end()
    hub.start(**QUICK)
    for name in ("ada", "bob"):
        hub.json("who", "--name", name)
    hub.json("who")  # the local user is a person
    hub.json("send", "hello", "--to", "bob", "--name", "ada")
    for hop in range(1, 5):
        name, other = ("bob", "ada") if hop % 2 else ("ada", "bob")
        hub.json("wait", "--wait=5", "--name", name)
        sent = hub.json("send", "x", "--to", other, "--name", name)
    letter = hub.json("wait", "--wait=5")
    assert (letter["body"]["type"], letter["body"]["id"]) == ("message.held", sent["id"])
    for _ in range(5):
        hub.json("send", "still here", "--to", "ada")
        hub.run("inbox", "--ack-all", "--name", "ada")
        sent = hub.json("send", "yes", "--to", "bob", "--name", "ada")
        hub.run("inbox", "--ack-all", "--name", "bob")
        assert "held" not in sent
