"""`manifest` against a real hub."""

import json
from pathlib import Path

import pytest
from tests.client.test_a2a import assert_lawful
from tests.faces.conftest import RealHub

ADA, BOB = {"SYNAPSE_NAME": "ada"}, {"SYNAPSE_NAME": "bob"}


def test_what_is_said_is_found_kept_and_taken_away(hub: RealHub, tmp_path: Path) -> None:
    file = tmp_path / "card.json"
    skill = {"id": "review", "name": "Review", "description": "Reads diffs", "tags": ["python"]}
    file.write_text(json.dumps({"description": "Reviews", "skills": [skill]}), encoding="utf-8")
    said = hub.json("manifest", "set", "--file", str(file), "--tag", "fast", "--model", "opus-4", SYNAPSE_NAME="ada")
    assert (said["skills"], said["tags"], said["models"]) == ([skill], ["fast"], ["opus-4"])
    hub.json("manifest", "set", "--skill", "test=Runs tests", "--skill", "build", SYNAPSE_NAME="bob")
    hub.end()
    hub.start()
    cards = hub.json("manifest", SYNAPSE_NAME="bob")["cards"]
    assert [(card["name"], card["presence"]) for card in cards] == [("ada", "offline"), ("bob", "recent")]
    assert [card["name"] for card in hub.json("manifest", "--tag", "python", SYNAPSE_NAME="bob")["cards"]] == ["ada"]
    assert [card["name"] for card in hub.json("manifest", "--skill", "build", SYNAPSE_NAME="bob")["cards"]] == ["bob"]
    shown = hub.run("manifest", "ada", **BOB).stdout
    assert "Reads diffs" in shown
    assert "opus-4" in shown
    assert hub.json("manifest", "set", "--clear", "tags", SYNAPSE_NAME="ada")["tags"] == []
    assert "review" in hub.run("manifest", **ADA).stdout
    assert hub.run("manifest", "eve", **ADA).returncode == 4
    agents = hub.json("who", SYNAPSE_NAME="ada")["agents"]
    assert {agent["name"]: agent["skills"] for agent in agents} == {"ada": ["review"], "bob": ["test", "build"]}


def test_a_card_is_exported_for_a2a(hub: RealHub) -> None:
    hub.json("manifest", "set", "--description", "Runs tests", "--skill", "test=Runs tests", SYNAPSE_NAME="ada")
    own = json.loads(hub.run("manifest", "ada", "--a2a", **BOB).stdout)
    assert_lawful(own)
    [interface] = own["supportedInterfaces"]
    assert (interface["protocolBinding"], interface["tenant"]) == ("SYNAPSE", "ada")
    assert interface["url"].startswith("ws://127.0.0.1:")
    url = "https://example.org/a2a"
    bridged = json.loads(hub.run("manifest", "ada", "--a2a", "--url", url, **BOB).stdout)
    assert_lawful(bridged)
    assert (bridged["supportedInterfaces"][0]["url"], bridged["supportedInterfaces"][0]["protocolBinding"]) == (
        url,
        "JSONRPC",
    )
    assert "cursor" not in own
    told = hub.json("manifest", "ada", "--a2a", SYNAPSE_NAME="bob")
    assert told.pop("cursor") == hub.json("manifest", "ada", SYNAPSE_NAME="bob")["cursor"]
    assert told == own


@pytest.mark.parametrize(
    "words",
    [
        ("manifest", "--a2a"),
        ("manifest", "ada", "--url", "https://example.org"),
        ("manifest", "set"),
        ("manifest", "set", "--clear", "kind"),
        ("manifest", "set", "surplus"),
        ("manifest", "set", "--file", "-"),
    ],
)
def test_what_is_not_understood_is_said(hub: RealHub, words: tuple[str, ...]) -> None:
    assert hub.run(*words, text="[]", **ADA).returncode == 2
