"""The fault table of docs/reference/faults.md: every row is done to the real hub."""

import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from tests.conftest import require_tool
from tests.faults import base_drives, drives
from tests.faults.conftest import (
    HubProcess,
    Line,
    Outcome,
    bytes_of,
    fill,
    flip,
    flip_in,
    killed_home,
    line_to,
    message,
    operator_at,
    run_synapse,
    small_disk,
    start_fails,
    stopped_home,
    wait_until,
)
from tests.faults.table import FAULTS, Promise, fault, fits, promises

from synapse.protocol.commands import CreateRoom, ReadHistory, ShowStatus, Subscribe
from synapse.protocol.replies import History, Status, Subscribed


@pytest.mark.parametrize("promise", promises(), ids=lambda promise: promise.fault)
def test_the_fault_has_the_exit_code_and_the_line_of_the_table(promise: Promise, tmp_path: Path) -> None:
    assert promise.fault in FAULTS, "a row of the table without a test"
    home, outcome = FAULTS[promise.fault](tmp_path)
    assert outcome.code == promise.code, outcome
    assert fits(promise.words, outcome.line, home), outcome.line


def test_every_driven_fault_is_a_row_of_the_table() -> None:
    assert drives.CALLS_MAX and base_drives.DAY_MS, "imported for what they drive"
    assert sorted(FAULTS) == sorted(promise.fault for promise in promises())


def test_the_words_are_compared_and_not_only_searched_for() -> None:
    home = Path("/h")
    assert fits("synapse hub: HOME: pid N;", "synapse hub: /h: pid 12; and so on", home)
    assert not fits("synapse hub: HOME: pid N;", "synapse hub: /h: pid x; and so on", home)
    assert not fits("HOME: pid", "synapse hub: /h: pid", home)


def refused(home: Path, *flags: str) -> tuple[Path, Outcome]:
    """A start that must fail and change no byte."""
    before = bytes_of(home)
    outcome = start_fails(home, *flags)
    assert bytes_of(home) == before, "a refused start changed a byte"
    return home, outcome


# the hub does not start


@fault("second-hub")
def _second_hub(directory: Path) -> tuple[Path, Outcome]:
    home = directory / "home"
    with HubProcess(home).until_ready() as first, line_to(home) as ada:
        ada.post("here")
        before = bytes_of(home)
        outcome = start_fails(home)
        assert bytes_of(home) == before
        assert f"pid {first.process.pid};" in outcome.line
        assert ada.post("and still here").n == 2
    return home, outcome


@fault("database-locked")
def _locked(directory: Path) -> tuple[Path, Outcome]:
    home = stopped_home(directory / "home")
    with closing(sqlite3.connect(home / "journal.db", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN IMMEDIATE")
        other.execute("CREATE TABLE theirs (x)")
        outcome = start_fails(home)
        other.execute("ROLLBACK")
    return home, outcome


@fault("database-locked-for-writing")
def _locked_for_writing(directory: Path) -> tuple[Path, Outcome]:
    home = stopped_home(directory / "home")
    with closing(sqlite3.connect(home / "journal.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        outcome = start_fails(home)
        other.execute("ROLLBACK")
    return home, outcome


@fault("database-locked-while-running")
def _locked_while_running(directory: Path) -> tuple[Path, Outcome]:
    home = directory / "home"
    with (
        HubProcess(home).until_ready() as hub,
        line_to(home) as ada,
        closing(sqlite3.connect(home / "journal.db", isolation_level=None)) as other,
    ):
        ada.post("before")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises((EOFError, ConnectionError)):
            ada.post("never")
        outcome = hub.outcome()
        other.execute("ROLLBACK")
    with HubProcess(home).until_ready(), line_to(home) as ada:
        page = ada.ask(ReadHistory(channel="main:general"), History)
        assert [bytes(told.body) for told in page.messages] == [b'"before"']
    return home, outcome


@fault("wal-cut")
def _wal_cut(directory: Path) -> tuple[Path, Outcome]:
    home = killed_home(directory / "home")
    wal = home / "journal.db-wal"
    os.truncate(wal, wal.stat().st_size - 5000)
    return refused(home)


@fault("wal-deleted")
def _wal_deleted(directory: Path) -> tuple[Path, Outcome]:
    home = killed_home(directory / "home")
    (home / "journal.db-wal").unlink()
    return refused(home)


@fault("wal-bit-flipped")
def _wal_flipped(directory: Path) -> tuple[Path, Outcome]:
    home = killed_home(directory / "home")
    flip_in(home / "journal.db-wal", b"message 3")
    return refused(home)


@fault("older-copy")
def _older_copy(directory: Path) -> tuple[Path, Outcome]:
    home = stopped_home(directory / "home")
    older = directory / "older.db"
    shutil.copy(home / "journal.db", older)
    with HubProcess(home).until_ready() as hub, line_to(home) as ada:
        ada.post("newer")
        hub.stop()
    shutil.copy(older, home / "journal.db")
    return refused(home)


@fault("database-empty")
def _empty(directory: Path) -> tuple[Path, Outcome]:
    home = killed_home(directory / "home")
    os.truncate(home / "journal.db", 0)
    return refused(home)


@fault("database-deleted")
def _deleted(directory: Path) -> tuple[Path, Outcome]:
    home = killed_home(directory / "home")
    (home / "journal.db").unlink()
    return refused(home)


@fault("database-bit-flipped")
def _flipped(directory: Path) -> tuple[Path, Outcome]:
    home = stopped_home(directory / "home")
    flip_in(home / "journal.db", b"message 3")
    return refused(home)


@fault("database-header-damaged")
def _header(directory: Path) -> tuple[Path, Outcome]:
    home = stopped_home(directory / "home")
    flip(home / "journal.db", 3)
    return refused(home)


@fault("database-cut")
def _cut(directory: Path) -> tuple[Path, Outcome]:
    home = stopped_home(directory / "home", big=2000)
    database = home / "journal.db"
    os.truncate(database, database.stat().st_size // 2 // 4096 * 4096)
    return refused(home)


@fault("mark-bit-flipped")
def _mark_flipped(directory: Path) -> tuple[Path, Outcome]:
    home = killed_home(directory / "home")
    flip(home / "journal.mark", 40)
    return refused(home)


@fault("mark-deleted")
def _mark_deleted(directory: Path) -> tuple[Path, Outcome]:
    home = killed_home(directory / "home")
    (home / "journal.mark").unlink()
    return refused(home)


@fault("foreign-journal")
def _foreign(directory: Path) -> tuple[Path, Outcome]:
    home, other = stopped_home(directory / "home"), stopped_home(directory / "other")
    shutil.copy(other / "journal.db", home / "journal.db")
    return refused(home)


@fault("other-history")
def _other_history(directory: Path) -> tuple[Path, Outcome]:
    home = stopped_home(directory / "home")
    shutil.copytree(home, directory / "other")
    for place in (home, directory / "other"):
        with HubProcess(place).until_ready() as hub, line_to(place) as ada:
            ada.post(f"said at {place.name}")
            hub.stop()
    shutil.copy(directory / "other" / "journal.db", home / "journal.db")
    return refused(home)


@fault("older-copy-behind-a-snapshot")
def _older_copy_behind_a_snapshot(directory: Path) -> tuple[Path, Outcome]:
    home = stopped_home(directory / "home")
    older = {name: (home / name).read_bytes() for name in ("journal.db", "journal.mark")}
    with_snapshot(home)
    for name, data in older.items():
        (home / name).write_bytes(data)
    return refused(home)


@fault("database-unreadable")
def _unreadable(directory: Path) -> tuple[Path, Outcome]:
    home = stopped_home(directory / "home")
    flip_in(home / "journal.db", b"CREATE TABLE")
    return refused(home)


@fault("database-meta-damaged")
def _meta_damaged(directory: Path) -> tuple[Path, Outcome]:
    home = stopped_home(directory / "home")
    flip_in(home / "journal.db", b"schema_version")
    return refused(home)


@fault("foreign-database")
def _other_program(directory: Path) -> tuple[Path, Outcome]:
    home = stopped_home(directory / "home")
    (home / "journal.db").unlink()
    with closing(sqlite3.connect(home / "journal.db")) as theirs:
        theirs.execute("CREATE TABLE customers (name)")
    return refused(home)


@fault("newer-schema")
def _newer(directory: Path) -> tuple[Path, Outcome]:
    home = stopped_home(directory / "home")
    with closing(sqlite3.connect(home / "journal.db", isolation_level=None)) as newer:
        newer.execute("UPDATE meta SET value = '2' WHERE name = 'schema_version'")
    return refused(home)


@fault("read-only-directory")
def _read_only(directory: Path) -> tuple[Path, Outcome]:
    with small_disk(directory / "disk", 64 << 20) as disk:
        home = stopped_home(disk / "home")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        return refused(home)


@fault("full-new-home")
def _new_home_without_room(directory: Path) -> tuple[Path, Outcome]:
    with small_disk(directory / "disk", 8 << 20) as disk:
        outcome = start_fails(disk / "home")
        assert os.listdir(disk / "home") == ["hub.lock"], "nothing of a journal is left behind"
        return disk / "home", outcome


@fault("full-to-the-last-byte")
def _new_home_without_a_byte(directory: Path) -> tuple[Path, Outcome]:
    with small_disk(directory / "disk", 8 << 20) as disk:
        fill(disk)
        return disk / "home", start_fails(disk / "home")


@fault("full-without-reserve")
def _full_without_reserve(directory: Path) -> tuple[Path, Outcome]:
    with small_disk(directory / "disk", 64 << 20) as disk:
        home = stopped_home(disk / "home")
        (home / "journal.reserve").unlink()
        fill(disk)
        return refused(home)


@fault("sync-fails-at-start")
def _sync_fails_at_start(directory: Path) -> tuple[Path, Outcome]:
    home = killed_home(directory / "home")
    fiu_run, _ = fiu()
    rule = "enable name=posix/io/sync/fdatasync,failinfo=5"
    with HubProcess(home, prefix=(fiu_run, "-x", "-c", rule)) as hub:
        outcome = hub.outcome()
    with HubProcess(home).until_ready() as hub:
        assert hub.stop().code == 0
    return home, outcome


@fault("address-in-use")
def _address(directory: Path) -> tuple[Path, Outcome]:
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        return refused(stopped_home(directory / "home"), "--port", str(theirs.getsockname()[1]))


# the hub ends


def fiu() -> tuple[str, str]:
    """libfiu's two commands."""
    return require_tool("fiu-run", "fiu-utils"), require_tool("fiu-ctrl", "fiu-utils")


@fault("sync-fails")
def _sync_fails(directory: Path) -> tuple[Path, Outcome]:
    home = directory / "home"
    fiu_run, fiu_ctrl = fiu()
    pipe = str(directory / "fiu")
    with HubProcess(home, prefix=(fiu_run, "-x", "-f", pipe)).until_ready() as hub, line_to(home) as ada:
        acked = [ada.post(f"before {number}", f"key-{number}") for number in range(3)]
        rule = "enable name=posix/io/sync/fdatasync,failinfo=5"
        subprocess.run([fiu_ctrl, "-c", rule, "-f", pipe, str(hub.process.pid)], check=True, timeout=10)
        with pytest.raises((EOFError, ConnectionError)):
            ada.exchange(message("of unknown outcome"), "key-of-unknown-outcome")
        outcome = hub.outcome()
    with HubProcess(home).until_ready(), line_to(home) as ada:
        texts = [bytes(told.body) for told in ada.ask(ReadHistory(channel="main:general"), History).messages]
        assert texts[:3] == [b'"before 0"', b'"before 1"', b'"before 2"']
        assert [ada.post(f"before {number}", f"key-{number}") for number in range(3)] == acked
        # Whatever the journal made of it, the sender can find out and has it exactly once.
        ada.ask(message("of unknown outcome"), msgspec.Raw, "key-of-unknown-outcome")
        texts = [bytes(told.body) for told in ada.ask(ReadHistory(channel="main:general"), History).messages]
        assert texts.count(b'"of unknown outcome"') == 1
    return home, outcome


def broken_while_running(home: Path) -> HubProcess:
    """A hub that has verified all its rows, one of which is then damaged on disk."""
    stopped_home(home, 40, big=2000)
    hub = HubProcess(home).until_ready()
    with line_to(home) as ada:
        wait_until("all is verified", lambda: (status := ada.ask(ShowStatus(), Status)).verified_through > status.base)
    flip_in(home / "journal.db", b"message 7x")
    return hub


@fault("row-broken")
def _row_broken(directory: Path) -> tuple[Path, Outcome]:
    home = directory / "home"
    with broken_while_running(home) as hub, line_to(home) as ada:
        told = ada.refused(ReadHistory(channel="main:general", limit=200))
        assert (told.code, "message 7x" in told.detail) == ("journal_broken", False)
        assert isinstance(told.facts["seq"], int)
        with pytest.raises((EOFError, ConnectionError)):
            while True:
                ada.exchange(ReadHistory(channel="main:general"))
        outcome = hub.outcome()
        assert f"event {told.facts['seq']} " in outcome.line
    return refused(home)[0], outcome


@fault("row-broken-in-a-feed")
def _row_broken_in_a_feed(directory: Path) -> tuple[Path, Outcome]:
    home = directory / "home"
    with broken_while_running(home) as hub, line_to(home) as ada:
        status = ada.ask(ShowStatus(), Status)
        since = f"{status.journal_id}:{status.base}"
        ada.ask(Subscribe(channels=("main:general",), since=since), Subscribed)
        kinds, bodies = [], b""
        with pytest.raises((EOFError, ConnectionError)):
            while True:
                frame = ada.receive()
                kinds.append(frame.type)
                bodies += frame.body
        assert kinds == ["feed.broken"]
        assert b"journal_broken" in bodies
        assert b"message 7x" not in bodies
        return home, hub.outcome()


@fault("row-broken-before-a-snapshot")
def _row_broken_before_a_snapshot(directory: Path) -> tuple[Path, Outcome]:
    home = with_snapshot(directory / "home")
    flip_in(home / "journal.db", b"message 7x")
    with HubProcess(home).until_ready() as hub:
        return home, hub.outcome()


# the hub goes on


def with_snapshot(home: Path) -> Path:
    """A stopped home with a snapshot of everything but the last start."""
    stopped_home(home, 40, big=2000)
    child = [sys.executable, "-m", "synapse.journal.snapshot", str(home)]
    subprocess.run(child, check=True, capture_output=True, timeout=30)
    assert list((home / "snapshots").glob("*.snapshot"))
    return home


@fault("snapshot-bit-flipped")
def _snapshot(directory: Path) -> tuple[Path, Outcome]:
    home = with_snapshot(directory / "home")
    [snapshot] = (home / "snapshots").glob("*.snapshot")
    flip(snapshot, snapshot.stat().st_size - 10)
    with HubProcess(home).until_ready() as hub, line_to(home) as ada:
        assert ada.post("message 40").n == 41
        code = hub.stop().code
        return home, Outcome(code, hub.log_text("journal.note"))


@fault("full-while-running")
def _full_while_running(directory: Path) -> tuple[Path, Outcome]:
    with small_disk(directory / "disk", 64 << 20) as disk:
        home = disk / "home"
        with HubProcess(home).until_ready() as hub, line_to(home) as ada, line_to(home, "bob") as bob:
            assert run_synapse("room", "list", home=home).code == 0
            filler = fill(disk)
            sent = 0
            while not ada.ask(ShowStatus(), Status).read_only:  # the turn that meets the full disk is still committed
                ada.post("x" * 100_000)
                sent += 1
            no = ada.refused(message("one more"))
            assert (no.code, no.retry_after_ms) == ("read_only", 1000)
            page = ada.ask(ReadHistory(channel="main:general", limit=1), History)
            assert page.messages[-1].n == sent
            assert run_synapse("health", home=home).code == 1
            assert b"503 Service Unavailable" in get_health(hub.port)
            outcome = run_synapse("room", "join", "main", home=home)
            filler.unlink()
            wait_until("it is writable again", lambda: ada.exchange(message("after")).type == "reply")
            assert ada.ask(ReadHistory(channel="main:general", limit=1), History).messages[-1].n == sent + 1
            assert run_synapse("health", home=home).code == 0
            assert (home / "journal.reserve").stat().st_size == 16 << 20
            assert bob.post("bob too").n == sent + 2
            assert hub.stop().code == 0
        assert b"journal.writable" in types_of(home)
        assert run_synapse("journal", "verify", home=home).code == 0
        return home, outcome


def get_health(port: int) -> bytes:
    """What GET /health answers."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
        stream.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return b"".join(iter(lambda: stream.recv(4096), b""))


def types_of(home: Path) -> set[bytes]:
    """The types of all events in a journal nobody has open."""
    with closing(sqlite3.connect(home / "journal.db")) as journal:
        return {kind.encode() for (kind,) in journal.execute("SELECT DISTINCT type FROM events")}


@fault("full-at-start")
def _full_at_start(directory: Path) -> tuple[Path, Outcome]:
    with small_disk(directory / "disk", 64 << 20) as disk:
        home = stopped_home(disk / "home")
        before = bytes_of(home)["journal.db"]
        filler = fill(disk)
        with HubProcess(home).until_ready() as hub, line_to(home) as ada:
            outcome = run_synapse("health", home=home)
            assert len(ada.ask(ReadHistory(channel="main:general"), History).messages) == 8
            assert ada.refused(message("no")).code == "read_only"
            with operator_at(home) as operator:
                assert operator.refused(CreateRoom(room="lab")).code == "read_only"
            assert bytes_of(home)["journal.db"] == before, "no HubStarted on a full disk"
            filler.unlink()
            wait_until("it is writable", lambda: ada.exchange(message("yes")).type == "reply")
            assert hub.stop().code == 0
        return home, outcome


@fault("descriptors-exhausted")
def _descriptors(directory: Path) -> tuple[Path, Outcome]:
    home = directory / "home"
    with HubProcess(home).until_ready() as hub, line_to(home) as ada:
        used = len(os.listdir(f"/proc/{hub.process.pid}/fd"))
        resource.prlimit(hub.process.pid, resource.RLIMIT_NOFILE, (used + 4, used + 4))
        others = [Line(home) for _ in range(8)]
        wait_until("none is left", lambda: len(os.listdir(f"/proc/{hub.process.pid}/fd")) == used + 4)
        assert ada.post("I am served").n == 1
        for other in others:
            other.close()
        wait_until("there are some again", lambda: len(os.listdir(f"/proc/{hub.process.pid}/fd")) < used + 4)
        with line_to(home, "bob") as bob:
            assert bob.post("so am I").n == 2
        code = hub.stop().code
        return home, Outcome(code, hub.log_text("hub.socket"))


# the operator's verbs


@fault("verify-whole")
def _verify_whole(directory: Path) -> tuple[Path, Outcome]:
    home = killed_home(directory / "home")
    outcome = run_synapse("journal", "verify", home=home)
    with HubProcess(home).until_ready():
        assert run_synapse("journal", "verify", home=home).code == 0
        copy = directory / "copy.db"
        assert run_synapse("journal", "backup", str(copy), home=home).code == 0
        assert copy.stat().st_mode & 0o777 == 0o600
    return home, outcome


def broken_home(home: Path) -> Path:
    """A stopped home with a flipped bit in a message."""
    stopped_home(home)
    flip_in(home / "journal.db", b"message 3")
    return home


def unchanged(home: Path, *words: str) -> tuple[Path, Outcome]:
    """Run a verb that must not change a byte."""
    before = bytes_of(home)
    outcome = run_synapse(*words, home=home)
    assert bytes_of(home) == before
    return home, outcome


@fault("verify-broken")
def _verify_broken(directory: Path) -> tuple[Path, Outcome]:
    return unchanged(broken_home(directory / "home"), "journal", "verify")


@fault("verify-broken-beside-a-hub")
def _verify_beside(directory: Path) -> tuple[Path, Outcome]:
    home = directory / "home"
    with broken_while_running(home):
        return home, run_synapse("journal", "verify", home=home)


@fault("backup-exists")
def _backup_exists(directory: Path) -> tuple[Path, Outcome]:
    home = stopped_home(directory / "home")
    (home / "backup.db").write_text("something of mine")
    outcome = run_synapse("journal", "backup", str(home / "backup.db"), home=home)
    assert (home / "backup.db").read_text() == "something of mine"
    return home, outcome


@fault("backup-broken")
def _backup_broken(directory: Path) -> tuple[Path, Outcome]:
    home = broken_home(directory / "home")
    found = unchanged(home, "journal", "backup", str(home / "backup.db"))
    assert not list(home.glob("backup*"))
    return found


def with_backup(home: Path) -> Path:
    """A home with a backup of its first eight messages, and one message more."""
    stopped_home(home)
    assert run_synapse("journal", "backup", str(home / "backup.db"), home=home).code == 0
    with HubProcess(home).until_ready() as hub, line_to(home) as ada:
        ada.post("after the backup")
        hub.stop()
    return home


@fault("restore-beside-a-hub")
def _restore_beside(directory: Path) -> tuple[Path, Outcome]:
    home = with_backup(directory / "home")
    with HubProcess(home).until_ready(), line_to(home) as ada:
        outcome = run_synapse("journal", "restore", str(home / "backup.db"), home=home)
        assert ada.post("undisturbed").n == 10
    return home, outcome


@fault("restore-broken")
def _restore_broken(directory: Path) -> tuple[Path, Outcome]:
    home = with_backup(directory / "home")
    flip_in(home / "backup.db", b"message 3")
    return unchanged(home, "journal", "restore", str(home / "backup.db"))


def goes_on(home: Path, messages: int) -> None:
    """The hub starts on what was put in place, knows its agents, and numbers on."""
    with HubProcess(home).until_ready() as hub, line_to(home) as ada:
        assert ada.post("it goes on").n == messages + 1
        assert hub.stop().code == 0


@fault("restore-after-loss")
def _restore(directory: Path) -> tuple[Path, Outcome]:
    home = with_backup(directory / "home")
    (home / "journal.db").unlink()
    outcome = run_synapse("journal", "restore", str(home / "backup.db"), home=home)
    goes_on(home, 8)
    return home, outcome


@fault("adopt-whole")
def _adopt_whole(directory: Path) -> tuple[Path, Outcome]:
    return unchanged(stopped_home(directory / "home"), "journal", "adopt")


@fault("adopt-after-cut-wal")
def _adopt(directory: Path) -> tuple[Path, Outcome]:
    home = killed_home(directory / "home")
    flip_in(home / "journal.db-wal", b"message 3")
    with HubProcess(home) as hub:
        assert hub.outcome().code == 78
    outcome = run_synapse("journal", "adopt", home=home)
    goes_on(home, 3)
    return home, outcome


@fault("adopt-broken")
def _adopt_broken(directory: Path) -> tuple[Path, Outcome]:
    return unchanged(broken_home(directory / "home"), "journal", "adopt")


@fault("adopt-drop")
def _adopt_drop(directory: Path) -> tuple[Path, Outcome]:
    home = broken_home(directory / "home")
    outcome = run_synapse("journal", "adopt", "--drop", home=home)
    goes_on(home, 3)
    return home, outcome
