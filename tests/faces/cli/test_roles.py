"""`role …`, and what is sent to `role:NAME`, against a real hub."""

import json
import signal
from time import monotonic

from tests.faces.conftest import RealHub

ANN = ("--name", "ann")
BOB = ("--name", "bob")
CLEO = ("--name", "cleo")


def test_a_role_is_joined_listed_left_and_deleted(hub: RealHub) -> None:
    assert hub.json("role", "join", "review", *ANN)["created"] is True
    assert "bob" not in hub.run("role", "info", "review", *BOB).stdout
    assert hub.run("role", "join", "review", *BOB).stdout == "role:review: joined\n"
    assert hub.run("role", "join", "review", *BOB).stdout == "role:review: joined before\n"
    [listed] = hub.json("role", "list")["roles"]
    assert (listed["role"], listed["members"], listed["unacked"]) == ("review", 2, 0)
    assert hub.json("role", "info", "review")["participants"] == ["ann", "bob"]
    assert hub.json("role", "delete", "review", code=3)["error"]["code"] == "not_empty"
    for who in (ANN, BOB):
        hub.json("role", "leave", "review", *who)
    assert hub.json("role", "delete", "review")["changed"] is True
    assert hub.json("role", "info", "review", code=4)["error"]["code"] == "not_found"


def test_who_listens_and_who_reads_a_digest_is_told_what_waits_in_queues(hub: RealHub) -> None:
    hub.json("role", "join", "review", *ANN)
    for text in ("one", "two"):
        hub.json("send", "--target", "role:review", text, *CLEO)
    assert "wait in queues of your roles: 2 review" in hub.run("digest", *ANN).stdout
    for who, said in ((ANN, "synapse: 2 in the queues of your roles: synapse wait takes one"), (CLEO, "")):
        listening = hub.begin("listen", "--json", *who)
        hub.until(lambda status: status["counts"]["subscriptions"] == 1, "status")
        hub.json("send", "here")
        assert listening.stdout is not None
        assert json.loads(listening.stdout.readline())["body"] == "here"
        listening.send_signal(signal.SIGINT)
        _, words = listening.communicate(timeout=10)
        assert words.startswith(said or "synapse: listening")
        assert words.count("\n") == (2 if said else 1)


def test_a_message_to_a_role_is_taken_by_one_of_two_and_by_the_other_when_the_first_is_killed(hub: RealHub) -> None:
    hub.json("role", "join", "review", *ANN)
    hub.json("role", "join", "review", *BOB)
    first = hub.begin("wait", "--json", *ANN)
    hub.until(lambda status: status["counts"]["waiting"] == 1, "status")
    second = hub.begin("wait", "--json", *BOB)
    hub.until(lambda status: status["counts"]["waiting"] == 2, "status")
    first.send_signal(signal.SIGSTOP)  # it gets the message, and never says that it is done
    sent = hub.json("send", "--target", "role:review", "look at this", *CLEO)
    assert sent["to"] == ["role:review"]
    lent = hub.until(lambda role: role["lent"] == 1, "role", "info", "review")
    assert (lent["waiting"], second.poll()) == (0, None)
    refused = hub.json("inbox", "--ack", sent["id"], *BOB, code=3)["error"]
    assert (refused["code"], refused["facts"]["holder"]) == ("not_holder", "ann")
    killed_s = monotonic()
    first.kill()
    first.communicate()
    got = json.loads(second.communicate(timeout=15)[0])
    assert monotonic() - killed_s < 30, "at once, and not when the time of the lend is over"
    assert (got["id"], got["channel"], got["n"], got["to"]) == (sent["id"], "@role:review", 1, ["role:review"])
    assert hub.json("role", "info", "review")["unacked"] == 0


def test_the_inbox_shows_what_waits_for_my_roles_and_a_receipt_names_the_member(hub: RealHub) -> None:
    hub.json("role", "join", "review", *BOB)
    sent = hub.json("send", "--target", "role:review", "--subject", "PR 1", "please", *CLEO)
    assert [(line["id"], line["channel"]) for line in hub.lines("inbox", *BOB)] == [(sent["id"], "@role:review")]
    told = hub.run("inbox", *BOB)
    assert "→ role:review" in told.stdout
    assert "0 unacked, 1 in the queues of my roles" in told.stderr
    assert hub.lines("inbox", *CLEO) == []
    assert hub.json("wait", *BOB)["id"] == sent["id"]
    waiting = hub.begin("send", "--target", "role:review", "--wait=20", "--json", "and this", *CLEO)
    hub.json("wait", "--wait=20", *BOB)
    receipt = json.loads(waiting.communicate(timeout=20)[0])["receipt"]
    assert receipt == {"state": "acked", "acked_by": ["bob"]}


def test_a_role_nobody_joined_is_refused_with_near_names_and_made_on_demand(hub: RealHub) -> None:
    hub.json("role", "join", "review", *ANN)
    near = hub.json("send", "--target", "role:reviev", "hi", *CLEO, code=4)["error"]
    assert (near["code"], near["facts"]["near"]) == ("not_found", ["review"])
    made = hub.json("send", "--target", "role:ops", "--create", "hi", *CLEO)
    assert (made["to"], made["created"]) == (["role:ops"], ["role:ops"])
    hub.json("role", "join", "ops", *BOB)
    hub.end()
    hub.start()
    assert hub.json("wait", *BOB)["id"] == made["id"]
