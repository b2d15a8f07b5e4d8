"""The command line as a black box: real processes, a real hub, the contract of CLI.md."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.conftest import where_modes_count
from tests.faces.conftest import RealHub, environment
from tests.faults.conftest import SRC

from synapse.home import segment

MESSAGE_FIELDS = {"id", "room", "channel", "n", "cursor", "from", "to", "kind", "subject", "body", "sent_at_ms"}
MESSAGE_FIELDS |= {"thread", "reply_to", "priority", "expires_at_ms"}


def read_lines(process: "subprocess.Popen[str]", count: int) -> list[dict[str, object]]:
    """That many objects of a stream, each flushed as it came."""
    assert process.stdout is not None
    return [json.loads(process.stdout.readline()) for _ in range(count)]


def end(process: "subprocess.Popen[str]", how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
    """End a command that stays: its exit code and its words."""
    process.send_signal(how)
    _, words = process.communicate(timeout=10)
    return process.returncode, words


def wait_until_listening(hub: RealHub, name: str) -> None:
    """Return when the agent is online."""
    deadline_s = time.monotonic() + 10
    while not any(a["name"] == name and a["presence"] == "online" for a in hub.json("who")["agents"]):
        assert time.monotonic() < deadline_s, f"{name} never came online"


def test_the_room_in_force_narrows_what_is_worked_on_and_only_the_flag_what_is_there(hub: RealHub) -> None:
    for room in ("lab", "shop"):
        hub.json("room", "create", room, SYNAPSE_NAME="ada")
        hub.json("claim", "T1", "--room", room, SYNAPSE_NAME=f"{room}-hand")
        hub.json("session", "start", "--room", room, SYNAPSE_NAME=f"{room}-hand")
        hub.json("ask", "why?", "--room", room, SYNAPSE_NAME=f"{room}-hand")

    def seen(key: str, of: str, *words: str, lab: bool = True) -> set[str]:
        return {one[of] for one in hub.json(*words, SYNAPSE_NAME="eve", SYNAPSE_ROOM="lab" if lab else "")[key]}

    for words, key in ((["state"], "leases"), (["session", "list"], "sessions"), (["questions"], "questions")):
        assert seen(key, "room", *words) == {"lab"}
        assert seen(key, "room", *words, "--room", "shop") == {"shop"}
        assert seen(key, "room", *words, lab=False) == {"lab", "shop"}
    for words in (["who"], ["agent", "list"]):
        assert seen("agents", "name", *words) >= {"ada", "eve", "lab-hand", "shop-hand"}
        assert "shop-hand" not in seen("agents", "name", *words, "--room", "lab")
    assert seen("channels", "room", "channel", "list") == {"main", "lab", "shop"}
    assert seen("channels", "room", "channel", "list", "--room", "shop") == {"shop"}
    granted = ("ingest", "--kind", "lease.granted")
    assert {line["room"] for line in hub.lines(*granted, SYNAPSE_NAME="eve", SYNAPSE_ROOM="lab")} == {"lab", "shop"}
    assert {line["room"] for line in hub.lines(*granted, "--room", "shop", SYNAPSE_NAME="eve")} == {"shop"}


def test_the_ready_line_and_what_lies_in_the_home(hub: RealHub) -> None:
    words = hub.ready_line.split()
    assert words[:3] == ["synapse", "hub", "ready"]
    assert words[3].startswith("ws://127.0.0.1:")
    assert words[4] == f"unix:{hub.home}/hub.sock"
    assert [word.partition("=")[0] for word in words[5:]] == ["journal", "seq"]
    assert stat.S_IMODE(hub.home.stat().st_mode) == 0o700
    found = json.loads((hub.home / "hub.json").read_text())
    assert hub.process is not None
    assert (found["pid"], found["uris"]) == (hub.process.pid, words[3:5])
    for name in ("hub.json", "token", "journal.db", "hub.lock"):
        assert stat.S_IMODE((hub.home / name).stat().st_mode) == 0o600
    assert hub.end() == 0
    assert not (hub.home / "hub.json").exists()


def test_the_ready_line_is_an_object_with_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "synapse", "hub", "--port", "0", "--json"]
    with subprocess.Popen(
        command, env=environment(tmp_path / "home"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
        assert process.stdout.read() == ""
        assert process.wait(10) == 0
    ready = json.loads(line)
    assert (ready["ready"], ready["pid"]) == (True, process.pid)
    assert ready["uris"][1] == f"unix:{tmp_path / 'home' / 'hub.sock'}"
    assert ready["cursor"] == f"{ready['journal_id']}:{ready['seq']}"
    assert ready["hub_id"]


def test_the_trace_of_the_environment_goes_with_messages_to_whoever_reads_them(hub: RealHub) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    listener = hub.begin("listen", "--name", "bob", "--json")
    wait_until_listening(hub, "bob")
    hub.json("send", "to all", TRACEPARENT=trace)
    hub.json("send", "--to", "bob", "to bob", TRACEPARENT=trace)
    hub.json("send", "--to", "bob", "of no trace", TRACEPARENT="00-words")
    shown = [line.get("traceparent") for line in read_lines(listener, 3)]
    end(listener)
    assert shown == [trace, trace, None]
    assert [line.get("traceparent") for line in hub.lines("history")] == [trace]
    assert [line.get("traceparent") for line in hub.lines("inbox", "--name", "bob")] == [trace, None]
    assert hub.json("wait", "--name", "bob")["traceparent"] == trace
    assert trace not in hub.run("history").stdout, "people are not shown it"


def test_send_history_and_the_local_user(hub: RealHub) -> None:
    first = hub.json("send", "hello")
    assert set(first) >= {"id", "room", "channel", "n", "cursor"}
    assert (first["room"], first["channel"], first["n"]) == ("main", "general", 1)
    hub.run("--name", "ada", "send", "second", "--subject", "s", "--priority", "high")
    one, two = hub.lines("history")
    assert set(one) == MESSAGE_FIELDS
    assert one["from"].endswith(f"@{segment(os.uname().nodename, 'host')}")
    assert (two["n"], two["from"], two["body"], two["subject"]) == (2, "ada", "second", "s")
    assert [line["n"] for line in hub.lines("history", "--since", first["cursor"])] == [2]
    assert [line["n"] for line in hub.lines("history", "main:general", "--limit", "1")] == [2]
    assert [line["n"] for line in hub.lines("history", "--from", "ada")] == [2]
    assert [line["n"] for line in hub.lines("history", "--grep", "HELL")] == [1]
    assert [line["n"] for line in hub.lines("history", "--newer", "1h")] == [1, 2]
    assert hub.lines("history", "--older", "1h") == []
    assert hub.run("history").stdout.splitlines()[1] == "  hello"


def test_history_goes_on_over_pages(hub: RealHub) -> None:
    start = hub.json("send", "0")["cursor"]
    script = "from synapse.faces.cli.main import main\nassert not any(main(['send', str(n)]) for n in range(1, 460))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "SYNAPSE_HOME": str(hub.home), "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [line["body"] for line in hub.lines("history", "--limit", "450")] == [str(n) for n in range(10, 460)]
    assert [line["body"] for line in hub.lines("history", "--since", start, "--limit", "450")] == [
        str(n) for n in range(1, 451)
    ]
    assert len(hub.lines("history")) == 50


def test_a_direct_message_is_stored_taken_and_acked(hub: RealHub) -> None:
    refused = hub.json("send", "--to", "bob", "hi", code=4)
    assert refused["error"]["code"] == "not_found"
    assert "--create" in refused["error"]["detail"]
    hub.json("--name", "bob", "inbox", "--ack-all")
    assert hub.json("send", "--to", "bpb", "hi", code=4)["error"]["facts"]["near"]["bpb"] == ["bob"]
    sent = hub.json("send", "--to", "bob", "hi")
    assert (set(sent) >= {"id", "to", "cursor"}, sent["to"]) == (True, ["bob"])
    (line,) = hub.lines("--name", "bob", "inbox")
    assert (line["id"], line["delivery"], line["channel"]) == (sent["id"], "stored", "@bob")
    taken = hub.json("wait", SYNAPSE_NAME="bob")
    assert (taken["id"], taken["body"], set(taken) >= MESSAGE_FIELDS) == (sent["id"], "hi", True)
    assert hub.lines("--name", "bob", "inbox") == []
    assert hub.json("--name", "bob", "wait", "--wait=0", code=5)["error"]["code"] == "deadline"


def test_wait_no_ack_leaves_it_and_inbox_acks_by_id(hub: RealHub) -> None:
    one = hub.json("send", "--to", "bob", "--create", "1")
    two = hub.json("send", "--target", "bob", "2")
    assert hub.json("--name", "bob", "wait", "--no-ack")["id"] == one["id"]
    assert [line["delivery"] for line in hub.lines("--name", "bob", "inbox")] == ["delivered", "stored"]
    assert hub.json("--name", "bob", "wait", "--no-ack")["id"] == one["id"]
    answer = hub.json("--name", "bob", "inbox", "--ack", one["id"])
    assert (answer["acked"], "cursor" in answer) == ([one["id"]], True)
    assert hub.json("--name", "bob", "inbox", "--ack", one["id"])["acked"] == []
    assert hub.json("--name", "bob", "inbox", "--ack-all")["acked"] == [two["id"]]
    assert hub.json("--name", "bob", "inbox", "--ack", "nonsense", code=3)["error"]["code"] == "bad_request"


def test_directed_only_leaves_all_and_mentions(hub: RealHub) -> None:
    hub.json("--name", "bob", "room", "join", "main")
    hub.json("--name", "ada", "room", "join", "main")
    hub.json("--name", "ada", "send", "--target", "all", "to all")
    hub.json("--name", "ada", "send", "see @bob")
    direct = hub.json("--name", "ada", "send", "--to", "bob", "direct")
    assert hub.json("--name", "bob", "wait", "--directed-only")["id"] == direct["id"]
    assert hub.json("--name", "bob", "wait", "--directed-only", "--wait=0", code=5)["error"]["code"] == "deadline"
    assert [hub.json("--name", "bob", "wait")["body"] for _ in range(2)] == ["to all", "see @bob"]


def test_send_wait_returns_when_the_other_acked(hub: RealHub) -> None:
    hub.json("--name", "bob", "inbox", "--ack-all")
    sending = hub.begin("send", "--to", "bob", "--wait=20", "--json", "hi")
    taken = hub.json("--name", "bob", "wait", "--wait=10")
    (answer,) = read_lines(sending, 1)
    assert sending.wait(10) == 0
    sending.communicate()
    assert (answer["id"], answer["receipt"]) == (taken["id"], {"state": "acked", "acked_by": ["bob"]})
    assert hub.json("send", "--to", "bob", "--wait=0.1", "hi", code=5)["error"]["code"] == "deadline"


def test_listen_sees_channel_and_inbox_over_a_kill(hub: RealHub) -> None:
    listening = hub.begin("--name", "bob", "listen", "--json")
    wait_until_listening(hub, "bob")
    hub.json("--name", "bob", "send", "one")
    hub.json("send", "--to", "bob", "two")
    before = read_lines(listening, 2)
    hub.end(signal.SIGKILL)
    stale = hub.run("send", "x")
    assert stale.returncode == 69
    assert "is gone" in stale.stderr
    assert f"synapse hub --home {hub.home}" in stale.stderr
    hub.start()
    hub.json("send", "three")
    lines = before + read_lines(listening, 1)
    assert [line["body"] for line in lines] == ["one", "two", "three"]
    assert lines[0]["from"] == "bob"
    code, words = end(listening)
    assert code == -signal.SIGTERM
    assert words.splitlines() == [
        "synapse: listening as bob: main:general, inbox",
        "synapse: the connection is lost; coming back",
    ]


def test_listen_since_and_presence(hub: RealHub) -> None:
    first = hub.json("send", "one")
    hub.json("send", "two")
    listening = hub.begin("listen", "--since", first["cursor"], "--presence", "--json", "--name", "eve")
    lines: list[dict[str, object]] = []
    while not {"two", "presence.snapshot"} <= {line.get("body", line.get("type")) for line in lines}:
        lines += read_lines(listening, 1)
    assert all("cursor" in line for line in lines)
    assert "one" not in {line.get("body") for line in lines}
    other = hub.begin("listen", "--name", "zed")
    changed: dict[str, object] = {}
    while not any(agent["name"] == "zed" for agent in changed.get("agents", [])):  # type: ignore[attr-defined]  # it is JSON
        (changed,) = read_lines(listening, 1)
    assert changed["type"] == "presence.changed"
    assert end(other, signal.SIGINT)[0] == 130
    assert end(listening, signal.SIGINT) == (130, "synapse: listening as eve: main:general, inbox\n")


def test_listen_ends_quietly_when_nobody_reads(hub: RealHub) -> None:
    listening = hub.begin("--name", "bob", "listen", "--json")
    wait_until_listening(hub, "bob")
    assert listening.stdout is not None
    assert listening.stderr is not None
    listening.stdout.close()
    hub.json("send", "x")
    assert listening.wait(10) == 141
    assert listening.stderr.read() == "synapse: listening as bob: main:general, inbox\n"
    listening.stderr.close()


def test_a_foreign_cursor_is_said_and_3(hub: RealHub) -> None:
    hub.json("send", "x")
    for words in (["listen", "--since", "beef:1"], ["history", "--since", "beef:1"]):
        assert hub.json(*words, code=3)["error"]["code"] == "log_diverged"


def test_rooms_and_channels(hub: RealHub) -> None:
    assert hub.json("--name", "ada", "room", "create", "lab", "--type", "science")["created"] is True
    assert hub.json("--name", "ada", "channel", "create", "lab:x")["changed"] is True
    assert hub.json("--name", "ada", "channel", "join", "x", "--room", "lab")["channel"] == "x"
    info = hub.json("channel", "info", "lab:x")
    assert (info["participants"], info["members"], info["created_by"]) == (["ada"], 1, "ada")
    info = hub.json("room", "info", "lab")
    assert (info["channels"], info["participants"], info["type"]) == (["general", "x"], ["ada"], "science")
    assert [room["room"] for room in hub.json("room", "list")["rooms"]] == ["lab", "main"]
    assert [c["channel"] for c in hub.json("channel", "list", "--room", "lab")["channels"]] == ["general", "x"]
    assert hub.json("channel", "delete", "lab:x", code=3)["error"]["code"] == "not_empty"
    assert hub.json("--name", "ada", "channel", "leave", "lab:x")["changed"] is True
    assert hub.json("channel", "delete", "lab:x")["changed"] is True
    assert hub.json("--name", "ada", "room", "leave", "lab")["changed"] is True
    assert hub.json("room", "delete", "lab")["changed"] is True
    assert hub.json("room", "delete", "main", code=3)["error"]["code"] == "protected"
    assert hub.json("room", "info", "lab", code=4)["error"]["code"] == "not_found"
    assert hub.json("send", "--channel", "Lab!:x", "hi", code=3)["error"]["code"] == "bad_name"
    assert "main" in hub.run("room", "list").stdout


def test_agents(hub: RealHub) -> None:
    name = hub.run("agent", "new", "proj/worker").stdout.strip()
    assert name.startswith("proj/worker-")
    assert hub.json("agent", "new")["name"].startswith("agent-")
    assert hub.json("--name", name, "agent", "status", "busy")["status"] == "busy"
    known = {agent["name"]: agent for agent in hub.json("agent", "list")["agents"]}
    fields = {"name", "kind", "presence", "status", "connected_since_at_ms", "last_activity_at_ms"}
    assert set(known[name]) >= fields
    assert (known[name]["presence"], known[name]["kind"]) == ("recent", "agent")
    secrets = list((hub.home / "secrets").glob("*/proj%2Fworker-*"))
    secrets[0].write_text("f" * 64)
    taken = hub.json("--name", name, "send", "x", code=3)
    assert taken["error"]["code"] == "name_taken"
    assert "synapse agent rebind" in taken["error"]["detail"]
    assert hub.json("agent", "rebind", name)["name"] == name
    assert hub.json("--name", name, "send", "x")["n"] == 1
    assert hub.json("agent", "forget", name)["name"] == name
    assert hub.json("agent", "forget", name, code=4)["error"]["code"] == "not_found"
    assert hub.json("--name", "Not A Name", "send", "x", code=3)["error"]["code"] == "bad_name"
    assert hub.json("agent", "status", "asleep", code=3)["error"]["code"] == "bad_request"


def test_two_first_calls_at_once_are_one_agent(hub: RealHub) -> None:
    running = [hub.begin("--name", "twin", "send", str(n)) for n in range(6)]
    assert [process.wait(20) for process in running] == [0] * 6
    for process in running:
        process.communicate()
    assert sorted(line["body"] for line in hub.lines("history", "--from", "twin")) == [str(n) for n in range(6)]


def test_a_sub_agent_shows_the_secret_of_the_agent_above(hub: RealHub, tmp_path: Path) -> None:
    hub.json("--name", "ada", "send", "x")
    hub.json("--name", "ada/sub", "send", "x")
    foreign = RealHub(tmp_path / "other")
    uri = f"unix:{hub.home}/hub.sock"
    assert foreign.json("--uri", uri, "--name", "ada/evil", "send", "x", code=3)["error"]["code"] == "name_taken"
    assert foreign.json("--uri", uri, "--name", "bob", "send", "x")["n"] == 3


def test_status_health_and_their_exit_codes(hub: RealHub) -> None:
    status = hub.json("status")
    assert (status["health"], status["version"], "counts" in status, "cursor" in status) == (
        "green",
        "0.1.0",
        True,
        True,
    )
    assert len(hub.run("status").stdout.splitlines()) == 1
    assert hub.json("health")["health"] == "green"
    assert hub.json("who")["agents"][0]["kind"] == "human"
    assert hub.end() == 0
    for verb in ("status", "health", "send x", "listen", "wait", "who"):
        began_s = time.monotonic()
        done = hub.run(*verb.split())
        assert done.returncode == 69
        assert f"no hub runs for {hub.home}" in done.stderr
        assert f"synapse hub --home {hub.home}" in done.stderr
        assert time.monotonic() - began_s < 5


def test_over_the_websocket_too(hub: RealHub) -> None:
    assert hub.json("--uri", hub.websocket, "send", "over ws")["n"] == 1
    assert hub.json("send", "x", SYNAPSE_URI=hub.websocket)["n"] == 2
    (hub.home / "wrong").write_text("wrong\n")
    wrong = hub.json("--uri", hub.websocket, "--token-file", str(hub.home / "wrong"), "send", "x", code=77)
    assert wrong["error"]["code"] == "unauthorized"
    assert hub.json("--uri", hub.websocket, "room", "delete", "main", code=77)["error"]["code"] == "not_permitted"
    elsewhere = hub.run("--uri", f"{hub.websocket}/ws", "--token-file", str(hub.home / "token"), "send", "x")
    assert (elsewhere.returncode, "404: nothing here" in elsewhere.stderr) == (69, True)
    listening = hub.begin("--uri", hub.websocket, "--name", "bob", "listen", "--json")
    wait_until_listening(hub, "bob")
    hub.json("send", "y")
    assert read_lines(listening, 1)[0]["body"] == "y"
    assert end(listening)[0] == -signal.SIGTERM


def test_the_journal_with_and_without_a_hub(hub: RealHub, tmp_path: Path) -> None:
    hub.json("send", "kept")
    figures = hub.json("journal", "verify")
    assert set(figures) == {"journal_id", "events", "first_seq", "head", "bytes", "cursor"}
    copy = hub.json("journal", "backup", str(tmp_path / "copy"))
    assert copy["path"] == str(tmp_path / "copy")
    assert hub.json("journal", "restore", str(tmp_path / "copy"), code=75)["error"]["code"] == "locked"
    hub.json("send", "lost")
    assert hub.end() == 0
    assert hub.json("journal", "verify")["events"] > figures["events"]
    assert hub.json("journal", "backup", str(tmp_path / "copy"), code=1)["error"]["code"] == "io"
    hub.json("journal", "backup", str(tmp_path / "second"))
    restored = hub.json("journal", "restore", str(tmp_path / "copy"))
    assert restored["journal_id"] != figures["journal_id"]
    assert hub.json("journal", "adopt", code=78)["error"]["code"] == "journal"
    assert hub.run("journal", "restore", str(tmp_path / "none")).returncode == 1
    assert hub.json("journal", "compact")["rows"] == 0, "nothing says that anything may go"
    assert "--keep messages=30d" in hub.run("journal", "compact").stdout
    hub.start()
    assert [line["body"] for line in hub.lines("history")] == ["kept"]


def test_a_broken_row_is_78_with_its_seq(hub: RealHub) -> None:
    hub.json("send", "a text to find in the file")
    hub.end()
    database = hub.home / "journal.db"
    database.write_bytes(database.read_bytes().replace(b"text to find", b"text to fold"))
    error = hub.json("journal", "verify", code=78)["error"]
    assert error["code"] == "journal_broken"
    assert isinstance(error["facts"]["seq"], int)


def test_a_second_hub_and_a_taken_port_and_a_bad_setting(hub: RealHub, tmp_path: Path) -> None:
    assert hub.process is not None
    second = hub.run("hub", "--port", "0")
    assert second.returncode == 75
    assert str(hub.process.pid) in second.stderr
    other = RealHub(tmp_path / "other")
    taken = other.run("hub", "--port", hub.websocket.rpartition(":")[2])
    assert taken.returncode == 71
    (other.home / "config.toml").write_text("prot = 1\n")
    refused = other.run("hub", "--port", "0")
    assert (refused.returncode, "did you mean port?" in refused.stderr) == (78, True)
    (other.home / "config.toml").unlink()
    assert other.run("hub", "--host", "0.0.0.0").returncode == 78
    assert other.run("hub", "--prot", "0").returncode == 2
    (other.home / "token").write_text("")
    assert other.run("hub", "--port", "0").returncode == 78


def test_a_token_or_secret_that_may_not_be_read_is_told_with_its_cure(hub: RealHub) -> None:
    hub.prefix = where_modes_count()
    assert hub.run("--uri", hub.websocket, "--name", "ada", "send", "hi").returncode == 0
    token, secret = hub.home / "token", next(hub.home.glob("secrets/*/ada"))
    token.chmod(0)
    said = f"{token}: no token can be read (Permission denied); make it readable for this user (chmod u+rw {token})"
    refused = hub.run("--uri", hub.websocket, "--name", "ada", "send", "hi")
    assert (refused.returncode, said in refused.stderr) == (78, True), refused
    assert hub.run("--name", "ada", "send", "hi").returncode == 0, "the Unix socket needs none"
    for hidden, mode in ((secret, "u+rw"), (secret.parent, "u+rwx"), (secret.parent.parent, "u+rwx")):
        before = hidden.stat().st_mode
        hidden.chmod(0)
        refused = hub.run("--name", "ada", "send", "hi")
        hidden.chmod(before)
        assert refused.returncode == 78
        assert f"{secret}: the agent's secret cannot be read (Permission denied); make it" in refused.stderr
        assert f"(chmod {mode} {hidden}), or name a file that holds it: SYNAPSE_AGENT_SECRET_FILE" in refused.stderr


def test_what_the_hub_does_not_offer_yet_is_passed_on(hub: RealHub) -> None:
    assert hub.json("send", "--target", "role:reviewer", "hi", code=4)["error"]["code"] == "not_found"


def test_usage_is_2_and_says_what_was_meant(hub: RealHub) -> None:
    done = hub.run("sned", "hi")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean send?" in done.stderr
    assert hub.run("claim", "x").returncode == 2
    assert hub.run("--uri", "http://x", "send", "hi").returncode == 2
    assert hub.json("send", code=2)["error"]["code"] == "usage"


def test_config_show_and_schema(hub: RealHub) -> None:
    (hub.home / "config.toml").write_text("stats_log_s = 5\n[client]\nroom = 'lab'\n")
    rows = {row["key"]: row for row in hub.json("config", "show", SYNAPSE_PORT="1")["settings"]}
    assert (rows["port"]["value"], rows["port"]["source"]) == (1, "SYNAPSE_PORT")
    assert rows["stats_log_s"]["source"] == str(hub.home / "config.toml")
    assert (rows["home"]["source"], rows["host"]["source"]) == ("SYNAPSE_HOME", "default")
    assert rows["client.room"]["value"] == "lab"
    assert "stats_log_s" in hub.run("config", "show").stdout
    document = hub.json("schema")
    assert {"SendMessage", "Sent", "Message"} <= set(document["$defs"])


def test_hostile_text_is_exact_for_programs_and_harmless_for_people(hub: RealHub) -> None:
    text = "a\x1b[2J\u202eb\nmain:general #9  boss"
    hub.json("send", text)
    assert hub.lines("history")[0]["body"] == text
    shown = hub.run("history").stdout
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\n  main:general #9" in shown


def test_the_working_directory_stays_clean(hub: RealHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for words in (["send", "x"], ["who"], ["status"], ["journal", "verify"]):
        assert hub.run(*words).returncode == 0
    assert os.listdir() == []


def test_a_place_without_members_says_so(hub: RealHub) -> None:
    assert hub.run("room", "members", "main").stdout == "no members\n"
    assert hub.run("channel", "members", "main:general").stdout == "no members\n"
    assert hub.json("room", "members", "main")["members"] == []


def test_a_private_room_from_the_command_line(hub: RealHub) -> None:
    assert hub.json("room", "create", "den", "--private", SYNAPSE_NAME="ada")["created"] is True
    assert hub.json("room", "info", "den", SYNAPSE_NAME="ada")["private"] is True
    refused = hub.run("send", "hi", "--channel", "den:general", "--json", SYNAPSE_NAME="eve")
    assert (refused.returncode, json.loads(refused.stdout)["error"]["code"]) == (4, "not_found")
    for name in ("bob", "cy"):
        hub.run("who", SYNAPSE_NAME=name)
    hub.json("send", "before they came", "--channel", "den:general", SYNAPSE_NAME="ada")
    assert hub.json("room", "invite", "den", "bob", "--with-history", SYNAPSE_NAME="ada")["state"] == "invited"
    assert hub.json("room", "invite", "den", "cy", SYNAPSE_NAME="ada")["state"] == "invited"
    for name, found in (("bob", ["before they came"]), ("cy", [])):
        assert hub.json("room", "join", "den", SYNAPSE_NAME=name)["changed"] is True
        assert [line["body"] for line in hub.lines("history", "den:general", SYNAPSE_NAME=name)] == found
    assert hub.json("room", "leave", "den", SYNAPSE_NAME="cy")["changed"] is True
    assert hub.json("room", "members", "den", SYNAPSE_NAME="bob")["members"] == ["ada", "bob"]
    assert hub.json("channel", "create", "den:inner", "--private", SYNAPSE_NAME="bob")["created"] is True
    assert hub.run("channel", "info", "den:inner", SYNAPSE_NAME="ada").returncode == 4
    assert hub.json("channel", "invite", "den:inner", "ada", SYNAPSE_NAME="bob")["state"] == "invited"
    assert hub.json("room", "kick", "den", "bob", SYNAPSE_NAME="ada")["state"] == "removed"
    assert hub.run("room", "info", "den", SYNAPSE_NAME="bob").returncode == 4
    assert "den" not in hub.run("room", "list", SYNAPSE_NAME="bob").stdout
