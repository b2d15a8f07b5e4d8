"""Ephemeral channels, telemetry and activity against a real hub."""

import json
import subprocess

import pytest
from tests.faces.conftest import RealHub

from synapse.faces.cli.telemetry import activity_line, said_signal, signal_block

ADA, BOB = {"SYNAPSE_NAME": "ada"}, {"SYNAPSE_NAME": "bob"}


def cursor_seq(line: dict[str, object]) -> int:
    """The seq of a line's cursor."""
    return int(str(line["cursor"]).partition(":")[2])


def line_of(follower: "subprocess.Popen[str]") -> dict[str, object]:
    """The next line of a follower."""
    assert follower.stdout is not None
    found = json.loads(follower.stdout.readline())
    assert isinstance(found, dict)
    return found


def following(hub: RealHub, *words: str) -> "subprocess.Popen[str]":
    """A follower whose subscription stands."""
    follower = hub.begin("listen", *words, "--json", **BOB)
    assert follower.stderr is not None
    assert "listening as bob" in follower.stderr.readline()
    return follower


def test_telemetry_reaches_who_listens_and_nobody_later(hub: RealHub) -> None:
    follower = following(hub, "--telemetry")
    before = hub.json("health", SYNAPSE_NAME="ada")
    hub.json("send", "kept", SYNAPSE_NAME="ada")
    sent = hub.json("telemetry", "build.finished", '{"ok": true}', "--severity", "info", SYNAPSE_NAME="ada")
    assert (sent["ephemeral"], sent["n"], sent["receivers"], "id" in sent) == (True, 1, 1, False)
    told = line_of(follower)
    assert (told["kind"], told["n"], told["from"]) == ("signal", 1, "ada")
    (kept,) = hub.lines("history", "--limit", "1", SYNAPSE_NAME="ada")
    assert cursor_seq(told) < cursor_seq(kept), "the cursor of the feed: who resumes from it skips nothing"
    assert told["body"] == {"eventType": "build.finished", "payload": {"ok": True}, "severity": "info"}
    hub.run("telemetry", "build.finished", "-", text='{"from": "stdin"}', **ADA)
    assert line_of(follower)["body"] == {"eventType": "build.finished", "payload": {"from": "stdin"}}
    assert hub.json("channel", "recent", "telemetry:events", SYNAPSE_NAME="ada")["signals"][0]["n"] == 1
    last = hub.json("channel", "recent", "telemetry:events", "--limit", "1", SYNAPSE_NAME="ada")["signals"]
    assert [signal["n"] for signal in last] == [2]
    assert (
        "kept: main:general is not ephemeral" in hub.run("telemetry", "a.b", "--channel", "main:general", **ADA).stdout
    )
    assert before["health"] == "green"
    wrong = hub.json("telemetry", "build..finished", code=3, SYNAPSE_NAME="ada")["error"]
    assert (wrong["code"], wrong["facts"]["path"]) == ("bad_request", "$.body.body.eventType")
    assert hub.run("telemetry", "build", "[1]", **ADA).returncode == 2
    assert hub.run("telemetry", "build", "{", **ADA).returncode == 2


@pytest.mark.parametrize("channel", ["main:general", "main:live"])
@pytest.mark.parametrize(
    ("words", "path"),
    [(("not an event type",), "eventType"), (("a.b", "{}", "--severity", "loud"), "severity")],
)
def test_what_is_no_telemetry_is_refused_whatever_the_channel_takes(
    hub: RealHub, words: tuple[str, ...], path: str, channel: str
) -> None:
    hub.json("channel", "create", "main:live", "--ephemeral", SYNAPSE_NAME="ada")
    refused = hub.json("telemetry", *words, "--channel", channel, code=3, SYNAPSE_NAME="ada")["error"]
    assert (refused["code"], refused["facts"]["path"]) == ("bad_request", f"$.body.body.{path}")
    assert hub.lines("history", "main:general", SYNAPSE_NAME="ada") == []
    assert hub.json("channel", "recent", "main:live", SYNAPSE_NAME="ada")["signals"] == []


def test_an_ephemeral_channel_keeps_nothing_over_a_restart(hub: RealHub) -> None:
    hub.json("channel", "create", "main:live", "--ephemeral", SYNAPSE_NAME="ada")
    head = hub.json("channel", "info", "main:live", SYNAPSE_NAME="ada")["cursor"]
    follower = following(hub, "main:live", "--since", head)
    assert follower.stderr is not None
    assert "main:live is ephemeral" in follower.stderr.readline()
    head = hub.json("channel", "info", "main:live", SYNAPSE_NAME="ada")["cursor"]
    sent = hub.json("send", "50%", "--channel", "main:live", SYNAPSE_NAME="ada")
    assert (sent["n"], sent["ephemeral"]) == (1, True)
    assert line_of(follower)["body"] == "50%"
    info = hub.json("channel", "info", "main:live", SYNAPSE_NAME="ada")
    assert (info["ephemeral"], info["messages"], info["cursor"]) == (True, 1, head)
    assert {**info["signals"], "since_at_ms": 0} == {"sent": 1, "delivered": 1, "dropped": 0, "since_at_ms": 0}
    refused = hub.json("send", "x", "--channel", "main:live", "--idem-key", "k", code=3, SYNAPSE_NAME="ada")["error"]
    assert refused["facts"]["path"] == "$.idem_key"
    assert hub.json("history", "main:live", code=3, SYNAPSE_NAME="ada")["error"]["code"] == "unsupported"
    hub.end()
    hub.start()
    info = hub.json("channel", "info", "main:live", SYNAPSE_NAME="ada")
    assert (info["ephemeral"], info["messages"], info["signals"]["sent"]) == (True, 0, 0)
    assert hub.json("channel", "recent", "main:live", SYNAPSE_NAME="ada")["signals"] == []
    listed = hub.run("channel", "list", **ADA).stdout
    assert "channel (ephemeral)" in listed


def test_a_channel_for_telemetry_of_ones_own(hub: RealHub) -> None:
    hub.json("channel", "create", "main:gpu", "--telemetry", SYNAPSE_NAME="ada")
    assert hub.json("channel", "info", "main:gpu", SYNAPSE_NAME="ada")["schema"] == "telemetry"
    assert (
        hub.json("send", "hot", "--channel", "main:gpu", code=3, SYNAPSE_NAME="ada")["error"]["code"] == "bad_request"
    )
    assert hub.json("telemetry", "gpu.hot", "--channel", "main:gpu", SYNAPSE_NAME="ada")["channel"] == "gpu"
    assert "main:gpu ~1  " in hub.run("channel", "recent", "main:gpu", **ADA).stdout


def test_what_agents_do_is_shown_without_what_they_say(hub: RealHub) -> None:
    follower = following(hub, "--activity")
    hub.json("send", "canary-in-a-body", SYNAPSE_NAME="ada")
    hub.json("claim", "build", SYNAPSE_NAME="ada")
    first, second = line_of(follower), line_of(follower)
    assert (first["kind"], first["by"], first["command"], first["outcome"]) == ("activity", "ada", "message.send", "ok")
    assert (second["command"], second["about"], second["name"]) == ("lease.claim", "task", "build")
    assert cursor_seq(first) <= cursor_seq(second)
    assert "canary" not in json.dumps([first, second])


def test_the_configuration_makes_ephemeral_channels_and_never_changes_one(hub: RealHub) -> None:
    hub.json("channel", "join", "main:old", SYNAPSE_NAME="ada")
    hub.end()
    config = hub.home / "config.toml"
    config.write_text('[ephemeral]\n"build:progress" = "plain"\n', encoding="utf-8")
    hub.start()
    info = hub.json("channel", "info", "build:progress", SYNAPSE_NAME="ada")
    assert (info["ephemeral"], info["bootstrap"]) == (True, True)
    hub.end()
    config.write_text('[ephemeral]\n"main:old" = "plain"\n', encoding="utf-8")
    done = hub.run("hub", "--port", "0")
    assert done.returncode == 78
    assert "ephemeral.main:old" in done.stderr
    config.unlink()
    hub.start()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"main:old" = 7', "7 is none of plain, telemetry, typing"),
        ('"main:old" = "xml"', "'xml' is none of plain, telemetry, typing"),
        ('"old" = "plain"', "not an address"),
    ],
)
def test_what_the_configuration_cannot_mean_is_refused(hub: RealHub, text: str, words: str) -> None:
    (hub.home / "config.toml").write_text(f"[ephemeral]\n{text}\n", encoding="utf-8")
    done = hub.run("config", "show")
    assert done.returncode == 78
    assert words in done.stderr


def test_signals_and_activity_in_words() -> None:
    signal = {"room": "main", "channel": "live", "n": 7, "from": "ada", "sent_at_ms": 0, "body": {"a": "\x1b[2J"}}
    block = signal_block({**signal, "dropped": 3, "subject": "s"})
    assert block.startswith("main:live ~7  ")
    assert "dropped=3" in block
    assert "\x1b" not in block
    assert said_signal({"room": "main", "channel": "live", "dropped": True}) == "main:live: dropped, too many at once"
    what = {"about": "task", "name": "t", "room": "main"}
    line = activity_line({"by": "ada", "command": "lease.claim", "outcome": "ok", **what, "at_ms": 0})
    assert line.endswith("ada  lease.claim  task t  in main  ok")
