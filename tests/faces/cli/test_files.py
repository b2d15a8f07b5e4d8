"""`send --chunked`, `receive --save`, `file list` and `file withdraw`; with everybody killed in between."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

import pytest
from tests.faces.conftest import RealHub

MIB = 1024 * 1024


def content(size: int) -> bytes:
    """Bytes of which no two chunks are the same."""
    return b"".join(number.to_bytes(8, "big") for number in range(size // 8 + 1))[:size]


def test_a_file_of_more_chunks_than_the_hub_takes_of_one_agent_at_once_comes_there(
    hub: RealHub, tmp_path: Path
) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(content(MIB))
    hub.end()
    hub.start(SYNAPSE_LIMIT_RATE_AGENT_PER_S="150", SYNAPSE_LIMIT_RATE_AGENT_BURST="40")
    sent = hub.json("send", "--create", "--to", "bob", "--file", str(file), "--chunked", "--name", "ada")
    saved = tmp_path / "saved.bin"
    hub.json("receive", sent["id"], "--save", str(saved), "--name", "bob")
    assert saved.read_bytes() == file.read_bytes()


def test_a_file_goes_through_the_hub_and_is_one_message(hub: RealHub, tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(content(300_000))
    hub.json("who", "--name", "bob")
    sent = hub.json("send", "--to", "bob", "--file", str(file), "--chunked", "--subject", "a model", "--name", "ada")
    assert (
        hub.json("send", "--to", "bob", "--file", str(file), "--chunked", "--subject", "a model", "--name", "ada")["id"]
        == sent["id"]
    )
    shown = hub.run("file", "list", "--name", "bob").stdout
    assert "model.bin" in shown
    assert "complete" in shown
    message = hub.json("wait", "--name", "bob")
    assert (message["id"], message["subject"], message["body"]["bytes"]) == (sent["id"], "a model", 300_000)
    got = hub.json("receive", sent["id"], "--save", str(tmp_path / "copy"), "--name", "bob")
    assert (got["path"], got["verified"]) == (str(tmp_path / "copy"), True)
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()
    assert hub.run("file", "list", "--name", "ada").stdout.strip() == "no files"
    gone = hub.run("receive", sent["id"], "--save", str(tmp_path / "other"), "--name", "bob")
    assert (gone.returncode, (tmp_path / "other").exists()) == (4, False)


def test_a_file_in_a_channel_stays_until_it_is_withdrawn(hub: RealHub, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"x")
    sent = hub.json("send", "--file", str(file), "--chunked", "--name", "ada")
    other = hub.run("send", "--file", str(file), "--chunked", "--subject", "else", "--name", "ada")
    assert (other.returncode, "--idem-key KEY announces it anew" in other.stderr) == (3, True)
    anew = ("send", "--file", str(file), "--chunked", "--subject", "else", "--idem-key", "k", "--name", "ada")
    assert hub.json(*anew)["id"] != sent["id"]
    for name in ("bob", "cy"):
        hub.json("receive", sent["id"], "main:general", "--save", str(tmp_path / name), "--name", name)
    (there,) = hub.json("file", "list", "--name", "bob")["files"]
    assert hub.run("file", "withdraw", there["file"], "--name", "bob").returncode == 77
    assert hub.run("file", "withdraw", there["file"], "--operator").stdout.strip() == f"withdrew {there['file']}"
    assert hub.json("file", "list", "--operator")["files"] == []


def test_a_file_for_all_is_refused_with_the_reason_and_the_way(hub: RealHub, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    refused = hub.run("send", "--chunked", "--file", str(tmp_path / "x"), "--target", "all", "--room", "lab")
    assert refused.returncode == 2
    assert "until each agent that it was sent to has it" in refused.stderr
    assert "--channel lab:general" in refused.stderr


@pytest.mark.bad_input("BI-113")
def test_half_a_line_is_a_usage_error(hub: RealHub, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    for words in (
        ("send", "text", "--chunked"),
        ("send", "--chunked"),
        ("send", "--chunked", "--file", str(tmp_path / "x"), "--target", "all"),
    ):
        assert hub.run(*words, "--name", "ada").returncode == 2
    sent = hub.json("send", "--chunked", "--file", str(tmp_path / "x"), "--name", "ada")
    without = hub.run("receive", sent["id"], "main:general", "--name", "ada")
    assert without.returncode == 2
    assert "--save PATH" in without.stderr
    nobody = hub.run("send", "--chunked", "--file", str(tmp_path / "x"), "--to", "nobody", "--name", "ada")
    assert nobody.returncode == 4


def test_whoever_takes_what_a_role_was_sent_can_receive_it(hub: RealHub, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    for name in ("bob", "eve"):
        hub.json("role", "join", "reviewer", "--name", name)
    send = ("send", "--chunked", "--file", str(tmp_path / "x"), "--name", "ada", "--target")
    assert hub.json(*send, "role:reviewer")["to"] == ["role:reviewer"]
    for name in ("bob", "eve"):
        taken = hub.json("wait", "--no-ack", "--name", name, "--wait=5")
        assert hub.json("receive", taken["id"], "--save", str(tmp_path / name), "--name", name)["verified"] is True
    hub.json("inbox", "--ack", taken["id"], "--name", name)
    assert "before it is acked" in hub.run("receive", taken["id"], "--save", str(tmp_path / "z"), "--name", name).stderr
    assert hub.json(*send, "main:general")["n"] == 1
    hub.json("role", "leave", "reviewer", "--name", "bob")
    hub.json("role", "leave", "reviewer", "--name", "eve")
    empty = hub.run(*send, "role:reviewer")
    assert (empty.returncode, "has no members" in empty.stderr) == (1, True)


def killed_after(process: "subprocess.Popen[str]", is_time: "Callable[[], bool]") -> None:
    """Kill a process once something holds."""
    deadline_s = monotonic() + 20
    while not is_time() and process.poll() is None:
        assert monotonic() < deadline_s
        sleep(0.002)
    process.kill()
    process.communicate()


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """A process runs to its end: its exit code, and what it complained of."""
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


def test_sender_hub_and_receiver_are_killed_and_it_arrives_whole(hub: RealHub, tmp_path: Path) -> None:
    file, copy = tmp_path / "model.bin", tmp_path / "copy"
    file.write_bytes(content(8 * MIB))
    hub.json("who", "--name", "bob")
    journal = hub.home / "journal.db-wal"
    send = ("send", "--to", "bob", "--file", str(file), "--chunked", "--name", "ada")
    receive = ("receive", "--save", str(copy), "--name", "bob")

    killed_after(hub.begin(*send), lambda: journal.stat().st_size > 2 * MIB)
    (half,) = hub.json("file", "list", "--name", "ada")["files"]
    assert (half["complete"], half["stored"] > 0) == (False, True)
    assert hub.lines("inbox", "--name", "bob") == []

    sending = hub.begin(*send)
    deadline_s = monotonic() + 20
    while (
        sending.poll() is None and hub.json("file", "list", "--name", "ada")["files"][0]["stored"] < half["stored"] + 3
    ):
        assert monotonic() < deadline_s
    hub.end(signal.SIGKILL)
    hub.start()
    assert ended(sending) == (0, "")
    (whole,) = hub.json("file", "list", "--name", "ada")["files"]
    assert (whole["file"], whole["complete"], whole["stored"]) == (half["file"], True, 64)
    (message,) = hub.lines("inbox", "--name", "bob")

    def gathered() -> int:
        return max((part.stat().st_size for part in tmp_path.glob(".synapse-*.part")), default=0)

    killed_after(hub.begin(receive[0], message["id"], *receive[1:]), lambda: gathered() > MIB)
    assert (copy.exists(), gathered() > MIB) == (False, True)
    receiving = hub.begin(receive[0], message["id"], *receive[1:])
    before = gathered()
    while receiving.poll() is None and gathered() < before + 2 * 131_072:
        sleep(0.001)
    hub.end(signal.SIGKILL)
    hub.start()
    assert ended(receiving) == (0, "")
    assert copy.read_bytes() == file.read_bytes()
    assert list(tmp_path.glob(".synapse-*")) == []
    assert hub.json("file", "list", "--name", "ada")["files"] == []
