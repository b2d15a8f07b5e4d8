"""Pools by the command line, against a real hub."""

from tests.faces.conftest import RealHub


def test_a_pool_is_made_counted_and_deleted(hub: RealHub) -> None:
    made = hub.json("pool", "set", "gpu", "2")
    assert (made["pool"], made["capacity"], made["held"], "cursor" in made) == ("gpu", 2, 0, True)
    assert hub.json("--name", "ada", "claim", "T1", "--pool", "gpu=2")["pools"] == {"gpu": 2}
    assert hub.json("--name", "bob", "claim", "T2", "--pool", "gpu", code=3)["error"]["code"] == "lease_held"
    listed = hub.json("pool", "list")
    assert [(p["pool"], p["capacity"], p["held"], p["waiting"]) for p in listed["pools"]] == [("gpu", 2, 2, 0)]
    assert "cursor" in listed
    assert hub.run("pool", "list").stdout.splitlines()[1].split() == ["gpu", "2", "2", "0"]
    assert hub.json("pool", "delete", "gpu", code=3)["error"]["code"] == "not_empty"
    assert hub.run("pool", "set", "gpu", "3").stdout == "gpu: 3 units, 2 held\n"
    assert hub.json("--name", "bob", "claim", "T2", "--pool", "gpu")["pools"] == {"gpu": 1}
    for name in ("ada T1", "bob T2"):
        hub.json("--name", name.split()[0], "release", name.split()[1])
    assert hub.json("pool", "delete", "gpu")["deleted"] is True
    assert hub.json("--name", "bob", "claim", "T2", "--pool", "gpu", code=4)["error"]["code"] == "not_found"


def test_pools_are_the_operators(hub: RealHub) -> None:
    assert hub.json("--uri", hub.websocket, "pool", "set", "gpu", "2", code=77)["error"]["code"] == "not_permitted"
