"""`lane …` and runs that break off, against a real hub that is killed in between."""

import signal

from tests.faces.conftest import RealHub

ADA, BOB = {"SYNAPSE_NAME": "ada"}, {"SYNAPSE_NAME": "bob"}


def test_work_goes_over_with_context_messages_checkpoints_and_lease_over_kills_of_the_hub(hub: RealHub) -> None:
    hub.run("agent", "status", "idle", **BOB)
    hub.json("session", "start", "--task", "T1", SYNAPSE_NAME="ada")
    first = hub.json("claim", "T1", SYNAPSE_NAME="ada")["epoch"]
    offered = hub.json("lane", "offer", "bob", '{"look": "at a.py"}', "--note", "finish it", SYNAPSE_NAME="ada")
    lane = offered["lane"]
    hub.end(signal.SIGKILL)
    hub.start()
    letter = hub.json("wait", SYNAPSE_NAME="bob")
    assert (letter["kind"], letter["body"]["type"], letter["thread"]) == ("system", "lane.offered", lane)
    assert letter["body"]["context"] == {"look": "at a.py"}
    accepted = hub.json(*letter["body"]["next"].split()[1:], SYNAPSE_NAME="bob")
    assert (accepted["state"], accepted["epoch"] > first) == ("accepted", True)
    hub.end(signal.SIGKILL)
    hub.start()
    assert hub.json("wait", SYNAPSE_NAME="ada")["body"]["epoch"] == accepted["epoch"]
    assert hub.json("state", SYNAPSE_NAME="ada")["leases"][0]["owner"] == "bob"
    assert hub.json("lane", "accept", lane, code=3, SYNAPSE_NAME="bob")["error"]["facts"]["state"] == "accepted"
    hub.json("lane", "send", lane, "which branch?", SYNAPSE_NAME="bob")
    hub.json("session", "start", "--task", "T1", SYNAPSE_NAME="bob")
    hub.json("lane", "checkpoint", lane, '{"step": 2}', SYNAPSE_NAME="bob")
    shown = hub.json("lane", "show", lane, SYNAPSE_NAME="ada")
    assert shown["context"] == {"look": "at a.py"}
    assert [entry["kind"] for entry in shown["entries"]] == ["checkpoint", "message"]
    words = hub.run("lane", "show", lane, **ADA).stdout
    assert "which branch?" in words
    assert '{"step":2}' in words
    assert hub.run("lane", "close", lane, **BOB).stdout.startswith(f"{lane}  closed")
    assert [one["lane"] for one in hub.json("lane", "list", "--state", "closed", SYNAPSE_NAME="ada")["lanes"]] == [lane]


def test_a_run_that_broke_off_is_resumed_by_the_next_claim_also_after_a_kill(hub: RealHub) -> None:
    session = hub.json("session", "start", "--task", "T1", "--summary", "half", SYNAPSE_NAME="ada")["session"]
    hub.json("claim", "T1", "--ttl", "5", SYNAPSE_NAME="ada")
    hub.json("session", "checkpoint", '{"step": 3}', SYNAPSE_NAME="ada")
    hub.until(lambda found: bool(found["sessions"]), "session", "list", "--resumable")
    hub.end(signal.SIGKILL)
    hub.start()
    lease = hub.json("claim", "T1", SYNAPSE_NAME="bob")
    assert (lease["resume"]["session"], lease["resume"]["data"]) == (session, {"step": 3})
    found = hub.json("session", "show", session, SYNAPSE_NAME="bob")
    assert (found["resumed_by"], found["resumable"]) == ("bob", False)
    hub.json("release", "T1", SYNAPSE_NAME="bob")
    assert "resume" not in hub.json("claim", "T1", SYNAPSE_NAME="cy")
    hub.json("session", "update", "--resumable-in", "2h", "--session", session, SYNAPSE_NAME="ada")
    hub.json("session", "checkpoint", "1", "--session", session, SYNAPSE_NAME="ada")
    hub.json("release", "T1", SYNAPSE_NAME="cy")
    early = hub.run("claim", "T1", **BOB).stdout
    assert "may be resumed from" in early
