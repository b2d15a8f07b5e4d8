"""`dead-letters`, `receipts` and `who`, on a real hub."""

import time

import pytest
from tests.faces.conftest import RealHub


def until_dead(hub: RealHub, name: str, count: int) -> list[str]:
    """The ids of the dead letters in an inbox, once there are so many."""
    for _ in range(100):
        lines = hub.lines("dead-letters", SYNAPSE_NAME=name)
        if len(lines) >= count:
            return [line["id"] for line in lines]
        time.sleep(0.05)
    raise AssertionError(f"no {count} dead letters came")


def test_what_nobody_took_in_time_is_listed_to_both_and_sent_again_by_either(hub: RealHub) -> None:
    sent = hub.json("send", "--to", "late", "--create", "--expires", "1", "lunch?", SYNAPSE_NAME="ann")["id"]
    assert until_dead(hub, "late", 1) == [sent]
    (line,) = hub.lines("dead-letters", "--sent", SYNAPSE_NAME="ann")
    assert (line["id"], line["channel"], line["delivery"], line["reason"]) == (sent, "@late", "dead", "expired")
    (receipt,) = hub.json("receipts", sent, SYNAPSE_NAME="ann")["recipients"]
    assert (receipt["recipient"], receipt["state"], receipt["lends"]) == ("late", "dead", 0)
    again = hub.json("dead-letters", "--sent", "--resend", sent, SYNAPSE_NAME="ann")
    assert (again["resends"], again["to"]) == (sent, ["late"])
    assert hub.json("wait", SYNAPSE_NAME="late")["id"] == again["id"]
    assert hub.json("receipts", again["id"], SYNAPSE_NAME="ann")["recipients"][0]["state"] == "acked"
    assert hub.lines("dead-letters", "--sent", SYNAPSE_NAME="ann") == []


def test_dead_letters_are_dropped_by_id_or_all_of_them(hub: RealHub) -> None:
    for text in ("1", "2", "3"):
        hub.json("send", "--to", "gone", "--create", "--expires", "1", text, SYNAPSE_NAME="ann")
    one, *_ = until_dead(hub, "gone", 3)
    assert hub.json("dead-letters", "--drop", one, SYNAPSE_NAME="gone")["left"] == 2
    assert len(hub.json("dead-letters", "--drop-all", SYNAPSE_NAME="gone")["dropped"]) == 2
    assert hub.json("dead-letters", "--drop", one, code=4, SYNAPSE_NAME="gone")["error"]["code"] == "not_found"
    said = hub.run("dead-letters", SYNAPSE_NAME="gone")
    assert (said.returncode, said.stdout) == (0, "")
    assert "0 dead letters" in said.stderr


@pytest.mark.bad_input("BI-56")
def test_an_ack_of_an_id_that_was_never_in_the_inbox_is_refused(hub: RealHub) -> None:
    sent = hub.json("send", "--to", "careful", "--create", "x", SYNAPSE_NAME="ann")["id"]
    refused = hub.json("inbox", "--ack", f"{sent},m7", code=4, SYNAPSE_NAME="careful")["error"]
    assert (refused["code"], refused["facts"]) == ("not_found", {"ids": ["m7"]})
    assert hub.json("inbox", "--ack", sent, SYNAPSE_NAME="careful")["acked"] == [sent]
    assert hub.json("inbox", "--ack", sent, SYNAPSE_NAME="careful")["already"] == [sent]
