"""`send --file` and `receive`."""

import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.faces.conftest import RealHub, environment


def test_a_file_goes_by_reference_and_is_checked_on_receipt(hub: RealHub, tmp_path: Path) -> None:
    file = tmp_path / "report.txt"
    file.write_text("all of it")
    hub.json("who", "--name", "bob")
    sent = hub.json("send", "--to", "bob", "--file", str(file), "--name", "ada")
    got = hub.json("receive", sent["id"], "--name", "bob")
    assert (got["path"], got["bytes"], got["verified"]) == (str(file), 9, True)
    saved = hub.run("receive", sent["id"], "--save", str(tmp_path / "copy"), "--name", "bob")
    assert saved.stdout.strip() == str(tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "all of it"
    file.write_text("all of IT")
    changed = hub.run("receive", sent["id"], "--name", "bob")
    assert (changed.returncode, changed.stdout) == (1, "")
    assert "SHA-256 differs" in changed.stderr


def test_a_file_in_a_channel_is_received_by_naming_the_channel(hub: RealHub, tmp_path: Path) -> None:
    file = tmp_path / "report.txt"
    file.write_text("x")
    hub.json("send", "before", "--name", "ada")
    sent = hub.json("send", "--file", str(file), "--name", "ada")
    assert hub.json("receive", sent["id"], "main:general", "--name", "bob")["path"] == str(file)
    assert hub.run("receive", sent["id"], "--name", "bob").returncode == 4, "it is not in the inbox"


def test_what_is_no_file_no_id_or_no_reference_is_said(hub: RealHub, tmp_path: Path) -> None:
    plain = hub.json("send", "text", "--name", "ada")
    assert "refers to no file" in hub.run("receive", plain["id"], "main:general", "--name", "ada").stderr
    assert hub.run("receive", "m1", "--name", "ada").returncode in (3, 4)
    assert hub.run("receive", "x", "--name", "ada").returncode == 2
    assert hub.run("send", "--file", str(tmp_path / "nothing"), "--name", "ada").returncode == 1
    assert hub.run("send", "text", "--file", str(tmp_path), "--name", "ada").returncode == 2
    assert hub.run("send", "--name", "ada").returncode == 2


def test_a_place_that_is_taken_is_named_with_what_is_there_and_the_way_out(hub: RealHub, tmp_path: Path) -> None:
    file, taken = tmp_path / "report.txt", tmp_path / "taken"
    file.write_text("all of it")
    taken.write_text("mine")
    hub.json("who", "--name", "bob")
    sent = [
        hub.json("send", "--to", "bob", "--file", str(file), *more, "--name", "ada")["id"]
        for more in ((), ("--chunked",))
    ]
    for message in sent:
        refused = hub.run("receive", message, "--save", str(taken), "--name", "bob")
        assert (refused.returncode, taken.read_text()) == (1, "mine")
        assert f"{taken}: another file, of 4 bytes, is there" in refused.stderr
        assert "move it away or name another path" in refused.stderr
        into = hub.run("receive", message, "--save", str(tmp_path), "--name", "bob")
        assert f"name the file that is to be made in it, such as {file}" in into.stderr


def test_the_name_of_a_file_is_harmless_on_a_terminal_and_whole_for_a_script(hub: RealHub, tmp_path: Path) -> None:
    file = tmp_path / "a\nb\x1b[31m"
    file.write_text("x")
    hub.json("who", "--name", "bob")
    sent = hub.json("send", "--to", "bob", "--file", str(file), "--name", "ada")
    assert hub.run("receive", sent["id"], "--name", "bob").stdout == f"{file}\n"
    ours, terminal = pty.openpty()
    command = [sys.executable, "-m", "synapse", "receive", sent["id"], "--name", "bob"]
    subprocess.run(command, env=environment(hub.home), stdout=terminal, check=True, timeout=30)
    os.close(terminal)
    shown = os.read(ours, 4096)
    os.close(ours)
    assert shown.count(b"\n") == 1
    assert b"\x1b" not in shown
