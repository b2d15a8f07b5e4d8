"""`digest` against a real hub."""

from tests.faces.conftest import RealHub

ADA, BOB = {"SYNAPSE_NAME": "ada"}, {"SYNAPSE_NAME": "bob"}


def test_a_digest_says_what_matters_and_goes_on_from_its_cursor(hub: RealHub) -> None:
    first = hub.json("digest", SYNAPSE_NAME="ada")
    hub.json("claim", "T0", SYNAPSE_NAME="bob")
    hub.json("send", "--to", "ada", "--priority", "urgent", "\x1b[31mnow", SYNAPSE_NAME="bob")
    hub.json("task", "declare", "docs", "--owner", "ada", "--depends-on", "T0", SYNAPSE_NAME="bob")
    found = hub.json("digest", "--since", first["cursor"], SYNAPSE_NAME="ada")
    assert [(ask["by"], ask["text"], ask["new"]) for ask in found["asked"]["items"]] == [("bob", "\x1b[31mnow", True)]
    assert found["blocked"]["items"][0]["needs"][0]["owner"] == "bob"
    assert found["mine"] == {"items": [], "total": 0, "left_out": 0}
    assert (found["max_tokens"], found["tokens"]) == (2000, -(-len(found["text"]) // 4))
    done = hub.run("digest", "--since", found["cursor"], **ADA)
    assert done.stdout.splitlines()[:2] == [
        f"Nothing new for ada in room main since {found['cursor']}.",
        "As before: 1 asked of you, 1 blocks you.",
    ]
    assert r"\x1b[31mnow" in hub.run("digest", **ADA).stdout


def test_a_budget_is_kept_and_one_that_is_too_small_is_refused_with_the_least(hub: RealHub) -> None:
    for n in range(20):
        hub.run("claim", f"T{n}", **ADA)
    short = hub.json("digest", "--max-tokens", "150", SYNAPSE_NAME="ada")
    mine = short["mine"]
    assert 0 < len(mine["items"]) < mine["total"] == 20
    assert mine["left_out"] == 20 - len(mine["items"])
    assert short["tokens"] <= 150
    refused = hub.json("digest", "--max-tokens", "5", code=2, SYNAPSE_NAME="ada")["error"]
    least = int(refused["detail"].rsplit(" ", 1)[1])
    assert hub.json("digest", "--max-tokens", str(least), SYNAPSE_NAME="ada")["tokens"] <= least


def test_a_digest_is_for_an_agent_with_a_name(hub: RealHub) -> None:
    done = hub.run("digest")
    assert (done.returncode, "SYNAPSE_NAME" in done.stderr) == (2, True)
