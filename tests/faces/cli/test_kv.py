"""`kv …` against a real hub."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.faces.conftest import RealHub, environment

ADA, BOB = {"SYNAPSE_NAME": "ada"}, {"SYNAPSE_NAME": "bob"}


def test_a_value_is_put_read_and_removed(hub: RealHub) -> None:
    put = hub.json("kv", "put", "cfg", '{"a": [1, "é"]}', SYNAPSE_NAME="ada")
    assert {"key", "value", "version", "owner", "expires_at_ms", "cursor"} <= put.keys()
    assert (put["value"], put["owner"], put["expires_at_ms"]) == ({"a": [1, "é"]}, "ada", None)
    got = hub.json("kv", "get", "cfg", SYNAPSE_NAME="bob")
    assert (got["value"], got["version"]) == (put["value"], put["version"])
    assert hub.run("kv", "put", "greeting", "hello", **BOB).returncode == 0
    assert hub.run("kv", "get", "greeting", **ADA).stdout == "hello\n"
    assert hub.json("kv", "keys", SYNAPSE_NAME="ada")["keys"] == ["cfg", "greeting"]
    assert [value["key"] for value in hub.json("kv", "all", "g", SYNAPSE_NAME="ada")["values"]] == ["greeting"]
    assert hub.json("kv", "delete", "cfg", SYNAPSE_NAME="bob")["deleted"] is True
    assert hub.run("kv", "get", "cfg", **ADA).returncode == 4
    assert hub.json("kv", "clear", SYNAPSE_NAME="ada")["cleared"] == 1


def test_text_that_looks_like_json_is_kept_as_text_when_asked(hub: RealHub) -> None:
    assert hub.json("kv", "put", "n", "5", SYNAPSE_NAME="ada")["value"] == 5
    assert hub.json("kv", "put", "n", "5", "--text", SYNAPSE_NAME="ada")["value"] == "5"
    done = hub.run("kv", "put", "n", "-", "--json", text='{"from":"stdin"}', **ADA)
    assert json.loads(done.stdout)["value"] == {"from": "stdin"}


def test_compare_and_set_loses_no_update(hub: RealHub) -> None:
    first = hub.json("kv", "put", "n", "1", "--if-version", "0", SYNAPSE_NAME="ada")
    conflict = hub.json("kv", "put", "n", "2", "--if-version", "0", code=3, SYNAPSE_NAME="bob")["error"]
    assert (conflict["code"], conflict["facts"]["version"]) == ("version_conflict", first["version"])
    second = hub.json("kv", "put", "n", "2", "--if-version", str(first["version"]), SYNAPSE_NAME="bob")
    assert second["version"] > first["version"]
    assert second["owner"] == "ada"


def test_a_lifetime_ends_for_readers_and_over_a_restart(hub: RealHub) -> None:
    hub.json("kv", "put", "brief", "1", "--ttl", "1", SYNAPSE_NAME="ada")
    hub.json("kv", "put", "long", "1", "--ttl", "1h", SYNAPSE_NAME="ada")
    hub.end()
    hub.start()
    deadline_s = time.monotonic() + 10
    while hub.run("kv", "get", "brief", **ADA).returncode == 0:
        assert time.monotonic() < deadline_s
    assert hub.json("kv", "keys", SYNAPSE_NAME="ada")["keys"] == ["long"]


def test_a_watcher_hears_changes_of_its_prefix_and_goes_on_from_a_cursor(hub: RealHub) -> None:
    watcher = hub.begin("kv", "watch", "a", "--json", **ADA)
    assert watcher.stderr is not None
    assert watcher.stdout is not None
    assert "watching" in watcher.stderr.readline()
    hub.json("kv", "put", "b", "0", SYNAPSE_NAME="bob")
    hub.json("kv", "put", "a/1", "1", SYNAPSE_NAME="bob")
    heard = json.loads(watcher.stdout.readline())
    assert (heard["change"], heard["key"], heard["value"], heard["by"]) == ("put", "a/1", 1, "bob")
    watcher.kill()
    watcher.communicate()
    hub.json("kv", "delete", "a/1", SYNAPSE_NAME="bob")
    again = hub.begin("kv", "watch", "--since", heard["cursor"], "--json", **ADA)
    assert again.stdout is not None
    assert json.loads(again.stdout.readline())["change"] == "deleted"


def test_a_snapshot_comes_back_with_owners_and_the_rest_of_their_time(hub: RealHub, tmp_path: Path) -> None:
    hub.json("kv", "put", "a", '{"x":1}', "--ttl", "1h", SYNAPSE_NAME="ada")
    hub.json("kv", "put", "b", "text", SYNAPSE_NAME="bob")
    file = tmp_path / "values"
    assert hub.json("kv", "snapshot", str(file), SYNAPSE_NAME="ada")["values"] == 2
    hub.json("kv", "clear", SYNAPSE_NAME="ada")
    assert hub.json("kv", "restore", str(file), SYNAPSE_NAME="ada")["restored"] == 2
    values = {value["key"]: value for value in hub.json("kv", "all", SYNAPSE_NAME="ada")["values"]}
    assert (values["a"]["owner"], values["b"]["owner"]) == ("ada", "bob")
    assert 3_500_000 < values["a"]["expires_at_ms"] - values["a"]["updated_at_ms"] <= 3_600_000
    assert (values["a"]["value"], values["b"]["value"]) == ({"x": 1}, "text")
    file.write_text('{"key":"a"}\n')
    assert hub.run("kv", "restore", str(file), **ADA).returncode == 2
    file.write_bytes(b'{"key":"\xff"}\n')
    done = hub.run("kv", "restore", str(file), **ADA)
    assert (done.returncode, "is not UTF-8 (byte 8)" in done.stderr) == (2, True)
    file.write_bytes(b"")
    assert hub.json("kv", "restore", str(file), SYNAPSE_NAME="ada")["restored"] == 0


def test_more_values_than_the_hub_takes_of_one_agent_at_once_are_all_put(hub: RealHub, tmp_path: Path) -> None:
    file = tmp_path / "values"
    file.write_text("".join(f'{{"key":"k{n}","value":{n},"owner":"ada"}}\n' for n in range(40)))
    hub.end()
    hub.start(SYNAPSE_LIMIT_RATE_AGENT_PER_S="40", SYNAPSE_LIMIT_RATE_AGENT_BURST="10")
    assert hub.json("kv", "restore", str(file), SYNAPSE_NAME="ada")["restored"] == 40


def test_a_snapshot_keeps_values_in_which_a_line_seems_to_end(hub: RealHub, tmp_path: Path) -> None:
    text = "one\u2028two\u0085three\x0bfour\r\nfive\x1csix"
    hub.json("kv", "put", "a", "--text", text, SYNAPSE_NAME="ada")
    file = tmp_path / "values"
    hub.json("kv", "snapshot", str(file), SYNAPSE_NAME="ada")
    hub.json("kv", "delete", "a", SYNAPSE_NAME="ada")
    assert hub.json("kv", "restore", str(file), SYNAPSE_NAME="ada")["restored"] == 1
    assert hub.json("kv", "get", "a", SYNAPSE_NAME="ada")["value"] == text


def test_bad_values_are_refused_in_words_with_the_right_exit_code(hub: RealHub) -> None:
    for words, code in (
        (("put", "k", "x" * 70_000), 3),
        (("put", "k", "1", "--ttl", "0"), 3),
        (("put", "k", "1", "--ttl", "x"), 2),
        (("put", "k", "1", "--if-version", "-1"), 2),
        (("put", "bad key", "1"), 3),
        (("get", "nothing"), 4),
        (("transfer", "nothing", "--to", "bob"), 4),
        (("put", "k"), 2),
    ):
        done = hub.run("kv", *words, **ADA)
        assert done.returncode == code, (words, done.stderr)
        assert done.stderr.startswith("synapse: ")


@pytest.mark.parametrize("text", ["{oops", '"x', '["x', '{"a":"b'])
def test_a_value_that_only_begins_like_json_is_a_text(hub: RealHub, text: str) -> None:
    assert hub.json("kv", "put", "k", text, SYNAPSE_NAME="ada")["value"] == text


@pytest.mark.parametrize("line", ["[" * 5000, '{"key":"a', "[" * 200_000])
def test_a_file_that_is_no_snapshot_is_refused_with_its_line(hub: RealHub, tmp_path: Path, line: str) -> None:
    (tmp_path / "f").write_text(f"{line}\n")
    done = hub.run("kv", "restore", str(tmp_path / "f"), SYNAPSE_NAME="ada")
    assert (done.returncode, done.stdout) == (2, "")
    assert "f:1: not a line of `kv snapshot`; nothing was put" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_value_does_no_harm_to_a_terminal_and_is_exact_elsewhere(hub: RealHub) -> None:
    text = "\x1b[2J\x1b]0;mine\x07red\nsecond \u202eline"
    hub.json("kv", "put", "k", "--text", text, SYNAPSE_NAME="ada")
    hub.json("kv", "put", "list", json.dumps(["\u202e"], ensure_ascii=False), SYNAPSE_NAME="ada")
    assert hub.run("kv", "get", "k", **BOB).stdout == f"{text}\n"
    shown = on_a_terminal(hub, "kv", "get", "k")
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert shown.splitlines() == [r"\x1b[2J\x1b]0;mine\x07red", r"second \u202eline"]
    assert on_a_terminal(hub, "kv", "get", "list").splitlines() == [r'["\u202e"]']


def on_a_terminal(hub: RealHub, *words: str) -> str:
    """What a command writes to a terminal."""
    leader, follower = os.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "synapse", *words],
            env=environment(hub.home, **BOB),
            stdin=subprocess.DEVNULL,
            stdout=follower,
            stderr=subprocess.PIPE,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        return os.read(leader, 65_536).decode()
    finally:
        os.close(leader)
        os.close(follower)


@pytest.mark.parametrize("text", ["1e400", "-1e999", '{"a":[1e400]}', " 1E400 ", "9" * 5000])
def test_a_number_that_no_value_holds_is_refused_and_kept_as_text_when_asked(hub: RealHub, text: str) -> None:
    refused = hub.run("kv", "put", "k", "--", text, **ADA)
    assert refused.returncode == 2, refused.stdout
    assert "number" in refused.stderr
    assert "--text" in refused.stderr
    assert hub.run("kv", "get", "k", **ADA).returncode == 4
    assert json.loads(hub.run("kv", "put", "k", "--text", "--json", "--", text, **ADA).stdout)["value"] == text


@pytest.mark.parametrize("text", ["1e400 is much", "NaN", "[1e400", "1e5"])
def test_what_only_looks_like_such_a_number_is_what_it_is(hub: RealHub, text: str) -> None:
    hub.json("kv", "put", "k", text, SYNAPSE_NAME="ada")
    assert hub.json("kv", "get", "k", SYNAPSE_NAME="ada")["value"] == (1e5 if text == "1e5" else text)
