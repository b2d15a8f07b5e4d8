"""`relay write` and `relay` against a real hub, also when either is killed."""

import json
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.faces.conftest import RealHub
from tests.figures import tell

import synapse
from synapse.errors import SynapseError

ADA, EVE = {"SYNAPSE_NAME": "ada"}, {"SYNAPSE_NAME": "eve"}


def wait_until(hub: RealHub, count: int, *words: str) -> list[str]:
    """What `relay` prints, once it is so many lines."""
    deadline_s = time.monotonic() + 15
    while len(lines := hub.run("relay", *words, **EVE).stdout.splitlines()) < count:
        assert time.monotonic() < deadline_s, lines
    return lines


def test_what_is_relayed_is_what_ingest_prints_to_the_letter(hub: RealHub, tmp_path: Path) -> None:
    assert hub.json("relay", code=4)["error"]["code"] == "not_found"
    writer = hub.begin("relay", "write", **EVE)
    for n in range(5):
        hub.json("send", f"line {n} é \u2028", SYNAPSE_NAME="ada")
    hub.json("send", "--create", "--to", "bob", "CANARY", SYNAPSE_NAME="ada")
    hub.json("task", "declare", "T1", "--label", "x", SYNAPSE_NAME="ada")
    hub.json("claim", "T1", "--paths", "src/**", SYNAPSE_NAME="ada")
    hub.json("checkpoint", "T1", '{"step":[3,1.5,null]}', SYNAPSE_NAME="ada")
    whole = hub.run("ingest", **EVE).stdout.splitlines()
    assert wait_until(hub, len(whole)) == whole
    middle = json.loads(whole[4])["cursor"]
    assert wait_until(hub, len(whole) - 5, "--since", middle) == whole[5:]
    path = hub.home / "relay.ndjson"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "CANARY" not in path.read_text()
    assert json.loads(path.read_text().splitlines()[0])["file"] == 1
    tail = hub.begin("relay", "--follow", "--since", middle, **EVE)
    hub.json("kv", "put", "k", "1", SYNAPSE_NAME="ada")
    assert tail.stdout is not None
    followed = [tail.stdout.readline().rstrip("\n") for _ in range(len(whole) - 4)]
    assert followed[:-1] == whole[5:]
    assert json.loads(followed[-1])["kind"] == "value.put"
    for process in (writer, tail):
        process.terminate()
        process.communicate(timeout=10)


@pytest.mark.bad_input("BI-107")
def test_a_second_writer_is_refused_and_so_is_what_is_no_relay(hub: RealHub, tmp_path: Path) -> None:
    writer = hub.begin("relay", "write", **EVE)
    hub.json("send", "x", SYNAPSE_NAME="ada")
    wait_until(hub, 1)
    second = hub.run("relay", "write", **ADA)
    assert (second.returncode, "is written by eve" in second.stderr) == (75, True)
    (hub.home / "relay.ndjson.lock").write_text("[" * 1024)  # who it was is not to be had from this
    third = hub.run("relay", "write", **ADA)
    assert (third.returncode, "is written by another process" in third.stderr) == (75, True)
    writer.terminate()
    writer.communicate(timeout=10)
    notes = tmp_path / "notes.txt"
    notes.write_text("mine\n")
    for words in (["relay", "write", "--file", str(notes)], ["relay", "--file", str(notes)]):
        done = hub.run(*words, **ADA)
        assert (done.returncode, "is no relay file" in done.stderr) == (1, True)
    assert notes.read_text() == "mine\n"
    assert hub.run("relay", "write", "--max-bytes", "10", **ADA).returncode == 2
    assert hub.json("relay", "--since", "0" * 16 + ":1", code=3)["error"]["code"] == "log_diverged"


@pytest.mark.bad_input("BI-116")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--kind", "bogus"], 3, "bad_request"),
        (["--room", "nowhere"], 4, "not_found"),
        (["--since", "yesterday"], 3, "bad_request"),
        (["--since", "0" * 16 + ":1"], 3, "log_diverged"),
    ],
)
def test_a_relay_that_is_refused_leaves_nothing(
    hub: RealHub, tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    other = ["--file", str(tmp_path / "mirror.ndjson")]
    for where in ([], other):
        done = hub.run("relay", "write", *words, *where, "--json")
        assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (code, said)
    assert not list(hub.home.glob("relay*"))
    assert not list(tmp_path.glob("mirror*"))


@pytest.mark.bad_input("BI-116")
def test_a_relay_that_finds_no_hub_leaves_nothing(hub: RealHub, tmp_path: Path) -> None:
    nowhere, file = tmp_path / "nowhere", tmp_path / "mirror.ndjson"
    for words in ([], ["--file", str(file)]):
        done = hub.run("relay", "write", *words, "--home", str(nowhere))
        assert (done.returncode, "no hub runs" in done.stderr) == (69, True)
    assert not nowhere.exists()
    assert not list(tmp_path.glob("mirror*"))


def test_only_what_is_asked_for_is_relayed(hub: RealHub, tmp_path: Path) -> None:
    one, two = tmp_path / "one.ndjson", tmp_path / "two.ndjson"
    writers = [
        hub.begin("relay", "write", "--file", str(one), "--channel", "build", **EVE),
        hub.begin("relay", "write", "--file", str(two), "--memory", **EVE),
    ]
    hub.json("channel", "create", "main:build", SYNAPSE_NAME="ada")
    hub.json("send", "to general", SYNAPSE_NAME="ada")
    hub.json("send", "--channel", "main:build", "to build", SYNAPSE_NAME="ada")
    hub.json("task", "declare", "T1", SYNAPSE_NAME="ada")
    hub.json("task", "progress", "T1", "it leaks", "--kind", "finding", SYNAPSE_NAME="ada")
    (posted,) = wait_until(hub, 1, "--file", str(one))
    assert json.loads(posted)["body"] == "to build"
    (found,) = wait_until(hub, 1, "--file", str(two))
    assert json.loads(found)["text"] == "it leaks"
    for process in writers:
        process.terminate()
        process.communicate(timeout=10)


@pytest.mark.bad_input("BI-116")
def test_a_relay_of_something_else_is_not_gone_on_with(hub: RealHub, tmp_path: Path) -> None:
    file = ["--file", str(tmp_path / "mirror.ndjson")]
    hub.json("channel", "create", "main:build", SYNAPSE_NAME="ada")
    hub.json("send", "--channel", "main:build", "first", SYNAPSE_NAME="ada")

    def mirrored(count: int, *words: str, **env: str) -> None:
        writer = hub.begin("relay", "write", *file, *words, **env)
        wait_until(hub, count, *file)
        writer.terminate()
        writer.communicate(timeout=10)

    mirrored(1, "--channel", "build", **EVE)
    before = (tmp_path / "mirror.ndjson").read_bytes()
    for words, env, said in (
        ((), EVE, "this is --name eve"),
        (("--memory",), EVE, "this is --name eve --kind memory"),
        (("--channel", "build"), ADA, "this is --name ada --channel main:build"),
    ):
        refused = hub.run("relay", "write", *file, *words, **env)
        assert refused.returncode == 3
        assert f"is written with --name eve --channel main:build, and {said}: give another --file" in refused.stderr
    assert (tmp_path / "mirror.ndjson").read_bytes() == before
    hub.json("send", "--channel", "main:build", "second", SYNAPSE_NAME="ada")
    mirrored(2, "--channel", "main:build", **EVE)


class Chatter:
    """Sends numbered messages, over kills of the hub, until it is told to stop."""

    def __init__(self, hub: RealHub) -> None:
        self.acknowledged: list[int] = []
        self._is_over = threading.Event()
        self._home = hub.home
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with synapse.connect(name="ada", home=self._home, timeout=60.0) as ada:
            n = 0
            while not self._is_over.wait(0.002):
                n += 1
                try:
                    ada.send({"n": n, "pad": "x" * (n % 97)})
                except SynapseError:
                    continue  # not acknowledged, so nothing is promised
                self.acknowledged.append(n)

    def stop(self) -> None:
        """Return when the last one is answered."""
        self._is_over.set()
        self._thread.join(90)


def over_kills(hub: RealHub, tmp_path: Path, kills: int, seed: int) -> tuple[int, int]:
    """Kill the writer and the hub at random points while messages flow; what a tailing reader, a late one and `ingest`
    print must be the same. How many lines, and in how many files."""
    file = ["--file", str(tmp_path / "relay.ndjson"), "--kind", "message.posted"]
    bounds = ["--max-bytes", "4096", "--keep", "500"]
    chance = random.Random(seed)
    writer = hub.begin("relay", "write", *file, *bounds, **EVE)
    deadline_s = time.monotonic() + 10
    while not (tmp_path / "relay.ndjson").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    with (tmp_path / "tail.txt").open("w") as out:
        tail = subprocess.Popen(
            [sys.executable, "-m", "synapse", "relay", "--follow", *file[:2]],
            stdout=out,
            env={**os.environ, "SYNAPSE_HOME": str(hub.home)},
        )
        chatter = Chatter(hub)
        try:
            for _ in range(kills):
                time.sleep(chance.uniform(0.05, 0.8))
                if chance.random() < 0.6:
                    writer.send_signal(signal.SIGKILL)
                    writer.communicate(timeout=10)
                    writer = hub.begin("relay", "write", *file, *bounds, **EVE)
                else:
                    hub.end(signal.SIGKILL)
                    hub.start()
            time.sleep(0.5)
        finally:
            chatter.stop()
        whole = hub.run("ingest", *file[2:], **EVE).stdout.splitlines()
        while len(wait_until(hub, len(whole), *file[:2])) < len(whole):
            time.sleep(0.1)
        deadline_s = time.monotonic() + 15
        while len((tmp_path / "tail.txt").read_text().splitlines()) < len(whole):
            assert time.monotonic() < deadline_s, "the reader that tails has stopped"
            time.sleep(0.05)
        tail.kill()
        tail.wait(10)
    writer.kill()
    writer.communicate(timeout=10)
    assert hub.run("relay", *file[:2], **EVE).stdout.splitlines() == whole
    assert (tmp_path / "tail.txt").read_text().splitlines() == whole
    there = {json.loads(line)["body"]["n"] for line in whole}
    assert there >= set(chatter.acknowledged), "what was acknowledged is in the mirror"
    return len(whole), len([entry for entry in os.listdir(tmp_path) if entry.startswith("relay.ndjson")]) - 1


def test_kills_of_the_writer_and_of_the_hub_leave_no_gap_and_no_repeat(hub: RealHub, tmp_path: Path) -> None:
    lines, files = over_kills(hub, tmp_path, 5, seed=5)
    assert lines > 50
    assert files > 1


@pytest.mark.prove
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(3))
def test_many_kills_of_the_writer_and_of_the_hub_leave_no_gap_and_no_repeat(
    hub: RealHub, tmp_path: Path, seed: int
) -> None:
    lines, files = over_kills(hub, tmp_path, 50, seed=seed)
    tell("relay", "kills of the writer and of the hub", 50, seed=seed)
    tell("relay", "lines told once each over them", lines, bound="> 500", is_kept=lines > 500, seed=seed)
    assert files > 5
