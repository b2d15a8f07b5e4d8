"""`resource …` against a real hub."""

import time

import pytest
from tests.faces.conftest import RealHub

ADA, BOB = {"SYNAPSE_NAME": "ada"}, {"SYNAPSE_NAME": "bob"}


def test_what_is_lent_is_taken_waited_for_and_lent_no_more(hub: RealHub) -> None:
    offer = ("resource", "offer", "gpu", "--kind", "compute", "--capacity", "2", "--description", "an A100")
    offered = hub.json(*offer, "--data", '{"host": "box"}', SYNAPSE_NAME="ada")
    assert (offered["owner"], offered["capacity"], offered["data"]) == ("ada", 2, {"host": "box"})
    lease = hub.json("resource", "take", "gpu=2", "--ttl", "60", SYNAPSE_NAME="bob")
    assert (lease["pools"], lease["task"].partition("-")[0]) == ({"gpu": 2}, "take/gpu")
    assert hub.run("resource", "take", "gpu", **ADA).returncode == 3
    assert hub.run("resource", "take", "gpu", "--wait=1", **ADA).returncode == 5
    assert hub.json("renew", lease["task"], SYNAPSE_NAME="bob")["epoch"] == lease["epoch"]
    listed = hub.run("resource", "list", **BOB)
    assert "an A100" in listed.stdout
    assert hub.run("resource", "withdraw", "gpu", **BOB).returncode == 77
    assert hub.json("resource", "withdraw", "gpu", SYNAPSE_NAME="ada")["held"] == 2
    assert hub.run("resource", "take", "gpu", **ADA).returncode == 4
    hub.json("release", lease["task"], SYNAPSE_NAME="bob")
    assert hub.run("resource", "list", **BOB).stdout == "nothing is lent\n"


def test_an_offer_ends_at_its_time_and_a_lock_holds_units_of_it(hub: RealHub) -> None:
    hub.json("resource", "offer", "brief", "--kind", "tool", "--ttl", "1", SYNAPSE_NAME="ada")
    hub.json("resource", "offer", "long", "--kind", "tool", SYNAPSE_NAME="ada")
    assert hub.run("lock", "build", "--pool", "long", "--", "true", **BOB).returncode == 0
    assert hub.json("claim", "T1", "--pool", "long", SYNAPSE_NAME="bob")["pools"] == {"long": 1}
    hub.end()
    hub.start()
    deadline_s = time.monotonic() + 10
    while [item["resource"] for item in hub.json("resource", "list", SYNAPSE_NAME="ada")["resources"]] != ["long"]:
        assert time.monotonic() < deadline_s
    assert hub.run("resource", "withdraw", "long", "--operator").returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        ("resource", "offer", "gpu"),
        ("resource", "offer", "gpu", "--kind", "tool", "--data", "{"),
        ("resource", "take", "gpu", "gpu=2"),
        ("resource", "take", "gpu=x"),
        ("resource", "take", "gpu", "--idem-key", "k"),
    ],
)
def test_what_is_not_understood_is_said_without_asking_the_hub(hub: RealHub, words: tuple[str, ...]) -> None:
    assert hub.run(*words, **ADA).returncode == 2
