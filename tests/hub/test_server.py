"""The hub as a process: READY after replay, drain in under 5 s whoever is stuck, one line and one exit code."""

import os
import signal
import socket
import time
from pathlib import Path

import msgspec
import pytest
from tests.faults.conftest import HubProcess, Line, killed_home, line_to, message, operator_at, start_fails, wait_until
from tests.hub.conftest import SmallDisk

from synapse.core.by import Rules
from synapse.core.state import new_state
from synapse.home import read_hub_file
from synapse.hub.server import begin
from synapse.protocol.codec import encode_request
from synapse.protocol.commands import ReadHistory, ShowStatus, Subscribe, VerifyJournal
from synapse.protocol.limits import Limits
from synapse.protocol.replies import History, JournalVerified, Sent, Status, Subscribed


class ReadyLine(msgspec.Struct, frozen=True, kw_only=True):
    """What the log says when the hub is ready. replayed: events folded after the snapshot."""

    replayed: int


GENTLY_S = 40.0
"""A snapshot is made by a process that stands back: on a busy machine it takes its time."""


def _has_snapshot(home: Path) -> bool:
    return bool(list(home.glob("snapshots/*.snapshot")))


def test_ready_is_said_after_replay_and_the_home_says_where(tmp_path: Path) -> None:
    home = killed_home(tmp_path / "home")
    with HubProcess(home).until_ready() as hub, line_to(home) as ada:
        status = ada.ask(ShowStatus(), Status)
        assert hub.ready.rstrip().endswith(f"journal={status.journal_id} seq={status.head}")
        assert status.counts.messages == 8
        found = read_hub_file(home)
        assert found is not None
        assert (found.pid, found.journal_id, found.hub_id) == (hub.process.pid, status.journal_id, status.hub_id)
        assert f"ws://127.0.0.1:{hub.port}" in found.uris
        modes = {name: os.stat(home / name).st_mode & 0o777 for name in ("hub.json", "token", "journal.db", "hub.sock")}
        assert set(modes.values()) == {0o600}
        assert home.stat().st_mode & 0o777 == 0o700
        token = (home / "token").read_text().strip()
        assert hub.stop().code == 0
        assert not (home / "hub.json").exists()
        assert not (home / "hub.sock").exists()
        assert token.encode() not in hub.said
        assert b"a secret of" not in hub.said
        assert b"message 3" not in hub.said


def test_what_was_acknowledged_is_there_after_kill_9(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with HubProcess(home).until_ready() as hub, line_to(home) as ada:
        sent = [ada.post(f"{number}", f"key-{number}") for number in range(20)]
        hub.kill()
    with HubProcess(home).until_ready(), line_to(home) as ada:
        page = ada.ask(ReadHistory(channel="main:general"), History)
        assert [told.id for told in page.messages] == [reply.id for reply in sent]
        assert [ada.post(f"{number}", f"key-{number}") for number in range(20)] == sent


def test_sigterm_ends_in_under_5_s_with_a_stuck_peer_and_acks_are_flushed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with HubProcess(home).until_ready() as hub, line_to(home) as ada, line_to(home, "stuck") as stuck:
        stuck.ask(Subscribe(channels=("main:general",)), Subscribed)
        with socket.create_connection(("127.0.0.1", hub.port)) as half_open:
            half_open.sendall(b"GET / HTTP/1.1\r\n")
            for number in range(60):
                ada.post(f"{number}" + "x" * 100_000)  # far over what the stuck peer's socket and outbox hold
            ada.send(encode_request("last", message("last")) + b"\n")
            begun = time.monotonic()
            hub.process.send_signal(signal.SIGTERM)
            frame = ada.receive()
            assert (frame.id, frame.type) in (("last", "reply"), (None, "closing"))
            outcome = hub.outcome()
        assert outcome.code == 0
        assert time.monotonic() - begun < 5
    with HubProcess(home).until_ready(), line_to(home) as ada:
        wanted = 61 if frame.id == "last" else ada.ask(ShowStatus(), Status).counts.messages
        assert ada.ask(message("on"), Sent).n == wanted + 1


def test_a_suspended_hub_goes_on_and_a_second_signal_changes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with HubProcess(home).until_ready() as hub, line_to(home) as ada:
        hub.process.send_signal(signal.SIGSTOP)
        ada.send(encode_request("late", message("late")) + b"\n")
        hub.process.send_signal(signal.SIGCONT)
        assert ada.receive().id == "late"
        hub.process.send_signal(signal.SIGINT)
        hub.process.send_signal(signal.SIGTERM)
        assert hub.outcome().code == 0


def test_snapshots_are_written_beside_the_running_hub_and_bound_the_replay(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with HubProcess(home, "--snapshot-events", "100").until_ready() as hub, line_to(home) as ada:
        for number in range(120):
            ada.post(f"{number}")
        wait_until("there is a snapshot", lambda: _has_snapshot(home), patience_s=GENTLY_S)
        hub.kill()
    with HubProcess(home).until_ready() as hub, operator_at(home) as boss:
        assert boss.ask(VerifyJournal(), JournalVerified).events > 120
        assert boss.ask(ShowStatus(), Status).counts.messages == 120
        hub.stop()
        ready = next(line for line in hub.said.splitlines() if b'"hub.ready"' in line)
        assert msgspec.json.decode(ready, type=ReadyLine).replayed < 120


def test_lives_that_are_each_too_short_for_a_snapshot_take_one_together(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for life in range(3):
        with HubProcess(home, "--snapshot-events", "100").until_ready() as hub, line_to(home) as ada:
            for number in range(40):
                ada.post(f"{life} {number}")
            assert life == 2 or not _has_snapshot(home)
            if life == 2:
                wait_until("there is a snapshot", lambda: _has_snapshot(home), patience_s=GENTLY_S)
            hub.kill()


def test_a_stale_socket_and_rendezvous_file_are_replaced(tmp_path: Path) -> None:
    home = killed_home(tmp_path / "home")
    assert (home / "hub.json").exists()
    assert (home / "hub.sock").exists()
    with HubProcess(home).until_ready(), Line(home).hello() as ada:
        assert ada.post("here").n == 9


def test_a_home_that_is_a_file_and_a_setting_that_is_unknown_are_refused_with_78(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused = start_fails(tmp_path / "file")
    assert refused.code == 78
    assert str(tmp_path / "file") in refused.line
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text("prot = 1\n")
    refused = start_fails(home)
    assert refused.code == 78
    assert "prot" in refused.line


def test_a_shared_directory_is_refused_as_a_home_and_nothing_is_put_into_it(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    (shared / "thesis.tex").write_text("mine")
    for flags in ((), ("--log-file", str(shared / "hub.log"))):
        refused = start_fails(shared, *flags)
        assert refused.code == 78
        assert "chmod 700" in refused.line
        assert [path.name for path in shared.iterdir()] == ["thesis.tex"]
        assert shared.stat().st_mode & 0o777 == 0o755


def closed(*descriptors: int) -> tuple[str, ...]:
    """The start of a command line: what follows runs with these descriptors closed."""
    return ("sh", "-c", f'exec "$@" {" ".join(f"{descriptor}>&-" for descriptor in descriptors)}', "sh")


def test_a_hub_with_closed_standard_streams_serves_and_no_file_has_their_numbers(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with HubProcess(home, prefix=closed(0, 1, 2)) as hub:
        wait_until("the hub is ready", lambda: read_hub_file(home) is not None)
        with line_to(home) as ada:
            assert ada.post("here").n == 1
        numbers = Path(f"/proc/{hub.process.pid}/fd")
        if numbers.is_dir():
            assert {os.readlink(numbers / number) for number in "012"} == {os.devnull}
        assert hub.stop().code == 0


def test_a_refusal_that_nobody_can_read_has_its_exit_code(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with HubProcess(home).until_ready():
        for streams in ((2,), (1, 2)):
            with HubProcess(home, prefix=closed(*streams)) as second:
                assert second.outcome().code == 75


def test_a_refusal_is_an_object_too_where_one_is_asked_for(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with HubProcess(home).until_ready() as hub:
        for other, flags, code, kind in (
            (home, (), 75, "locked"),
            (tmp_path / "other", ("--port", str(hub.port)), 71, "local"),
        ):
            with HubProcess(other, *flags, "--json") as second:
                said, _ = second.process.communicate(timeout=15)
                found = second.outcome()
            error = msgspec.json.decode(said)["error"]
            assert found.code == code
            assert (error["code"], error["facts"]) == (kind, {})
            assert found.line == f"synapse hub: {error['detail']}"


def test_with_too_few_descriptors_a_start_says_so_in_one_line(tmp_path: Path) -> None:
    ends: list[tuple[int, str, int]] = []
    for most in range(10, 64):
        limited = ("sh", "-c", f'ulimit -n {most}; exec "$@"', "sh")
        with HubProcess(tmp_path / f"home{most}", prefix=limited) as hub:
            assert hub.process.stdout is not None
            if hub.process.stdout.readline():
                break  # that many are enough
            code, line = hub.outcome()
            ends.append((code, line[:13], hub.said.count(b"\n")))
    assert len(ends) > 3
    assert set(ends) == {(74, "synapse hub: ", 1)}, ends


def test_an_empty_token_file_is_refused_after_the_journal_and_lets_it_go(tmp_path: Path) -> None:
    home = killed_home(tmp_path / "home")
    (home / "token").write_text("")
    refused = start_fails(home)
    assert refused.code == 78
    assert "token" in refused.line
    (home / "token").unlink()
    with HubProcess(home).until_ready() as hub:
        assert hub.stop().code == 0


def test_a_disk_that_fills_up_between_the_look_at_it_and_the_first_events_makes_a_hub_that_is_read_only() -> None:
    disk = SmallDisk()
    disk.is_full = True
    begin(new_state(), disk, Rules(Limits()), {}, 0)
    assert disk.head > disk.base
    assert disk.is_read_only
    assert not disk.has_reserve
    head = disk.head
    begin(new_state(), disk, Rules(Limits()), {}, 0)
    assert disk.head == head, "nothing is written to a journal that is read-only"


@pytest.mark.parametrize("table", ["[rooms]\nrole = []\n", '[ephemeral]\n"pool:x" = "plain"\n'])
def test_a_new_room_of_a_reserved_name_in_the_configuration_is_one_that_no_restart_helps(
    tmp_path: Path, table: str
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text(table)
    refused = start_fails(home)
    assert refused.code == 78
    assert "is an address of another kind" in refused.line
