"""The start of a hub: what is opened, what is refused with which line, and that a refusal changes no byte."""

import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest
from tests.journal.conftest import (
    AT_MS,
    FOLDING,
    RESERVE_BYTES,
    Seen,
    flip,
    home_with,
    journal_bytes,
    killed_home_with,
    open_journal,
    posts,
    run_python,
    small_disk,
)

from synapse.core.events import Event, HubStarted, JournalStarted, Recorded, to_row
from synapse.errors import JournalError, JournalLocked, JournalRefused
from synapse.journal.chain import link
from synapse.journal.files import Files
from synapse.journal.reader import JournalReader
from synapse.journal.recovery import Recovered, recover, recover_with, verify_older
from synapse.journal.snapshot import take_snapshot


def start(home: Path) -> Recovered[Seen]:
    return recover_with(home, AT_MS, FOLDING, reserve_bytes=RESERVE_BYTES)


def refusal(home: Path) -> str:
    """The line with which a start on `home` is refused with 78, after checking that no byte was changed."""
    before = journal_bytes(home)
    with pytest.raises(JournalRefused) as caught:
        start(home)
    assert journal_bytes(home) == before
    assert caught.value.exit_code == 78
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(str(home))
    with pytest.raises(JournalRefused):
        start(home)
    return line


def edit(home: Path, statement: str, *values: object) -> None:
    """Change the database behind the journal's back."""
    connection = sqlite3.connect(Files(home).database)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


def test_an_empty_home_gets_a_new_journal(tmp_path: Path) -> None:
    found = start(tmp_path / "home")
    assert found.journal.is_new
    assert (found.state.seqs, found.replayed_events, found.snapshot_seq, found.notes) == ([], 0, None, [])
    found.journal.close()


def test_a_home_with_other_files_in_it_gets_a_new_journal_too(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    found = start(tmp_path)
    assert found.journal.is_new
    found.journal.close()


def test_after_kill_9_the_state_is_that_of_all_events(tmp_path: Path) -> None:
    base = killed_home_with(tmp_path, 30)
    found = start(tmp_path)
    assert found.state.seqs == list(range(base + 1, base + 31))
    found.journal.close()


def test_the_hubs_own_state_is_recovered(tmp_path: Path) -> None:
    found = recover(tmp_path, AT_MS, reserve_bytes=RESERVE_BYTES)
    journal = found.journal
    events: list[Event] = [
        JournalStarted(hub_id=journal.hub_id, journal_id=journal.journal_id),
        HubStarted(version="1"),
    ]
    journal.append([to_row(Recorded(journal.head + n, AT_MS, "hub", event)) for n, event in enumerate(events, 1)])
    journal.close()
    again = recover(tmp_path, AT_MS, reserve_bytes=RESERVE_BYTES)
    assert (again.state.seq, again.state.journal_id, again.replayed_events) == (journal.head, journal.journal_id, 2)
    again.journal.close()


def test_a_deleted_database_is_refused(tmp_path: Path) -> None:
    killed_home_with(tmp_path, 5)
    Files(tmp_path).database.unlink()
    assert "journal.db: is missing, but journal.mark, journal.db-wal, journal.reserve shows" in refusal(tmp_path)


@pytest.mark.parametrize("trace", ["journal.mark", "journal.db-wal", "journal.reserve", "snapshots/7.snapshot"])
def test_any_single_trace_of_a_journal_keeps_a_new_one_from_being_made(tmp_path: Path, trace: str) -> None:
    (tmp_path / trace).parent.mkdir(exist_ok=True)
    (tmp_path / trace).write_bytes(b"x")
    assert f"is missing, but {Path(trace).name} shows that a journal lived here" in refusal(tmp_path)
    assert not Files(tmp_path).database.exists()


def test_a_database_of_0_bytes_is_refused(tmp_path: Path) -> None:
    home_with(tmp_path, 5)
    Files(tmp_path).database.write_bytes(b"")
    assert "journal.db: has 0 bytes" in refusal(tmp_path)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    home_with(tmp_path, 5)
    Files(tmp_path).database.write_bytes(b"not a database at all" * 400)
    assert "journal_broken: file is not a database" in refusal(tmp_path)


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    edit(tmp_path, "CREATE TABLE theirs (x)")
    assert "is a database but not a Synapse journal" in refusal(tmp_path)


def test_a_deleted_wal_is_refused(tmp_path: Path) -> None:
    base = killed_home_with(tmp_path, 30)
    Files(tmp_path).wal.unlink()
    Files(tmp_path).shm.unlink()
    assert f"ends at {base}, but events up to {base + 30} were acknowledged" in refusal(tmp_path)


def test_a_cut_wal_is_refused(tmp_path: Path) -> None:
    base = killed_home_with(tmp_path, 30)
    wal = Files(tmp_path).wal
    os.truncate(wal, wal.stat().st_size * 2 // 3)
    assert f"but events up to {base + 30} were acknowledged" in refusal(tmp_path)


def test_a_flipped_bit_anywhere_in_the_wal_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    base = killed_home_with(tmp_path / "whole", 12)
    size = Files(tmp_path / "whole").wal.stat().st_size
    refused = 0
    for offset in range(0, size, size // 60):
        home = tmp_path / "broken"
        shutil.copytree(tmp_path / "whole", home)
        flip(Files(home).wal, offset, 1 << offset % 8)
        refused += end_of_start(home, base, 12)
        shutil.rmtree(home)
    assert refused > 40


def test_a_flipped_bit_anywhere_in_the_database_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    base = home_with(tmp_path / "whole", 120)
    size = Files(tmp_path / "whole").database.stat().st_size
    refused = 0
    for offset in [*range(0, 100, 3), *range(100, size, size // 120)]:
        home = tmp_path / "broken"
        shutil.copytree(tmp_path / "whole", home)
        flip(Files(home).database, offset, 1 << offset % 8)
        refused += end_of_start(home, base, 120)
        shutil.rmtree(home)
    assert refused > 60


def end_of_start(home: Path, base: int, count: int) -> bool:
    """True when a start, or the check in the background behind it, is refused; else everything must be there."""
    try:
        found = start(home)
    except JournalRefused as refused:
        assert "\n" not in str(refused)
        return True
    found.journal.close()
    assert found.state.seqs == list(range(base + 1, base + 1 + count))
    reader = JournalReader(home)
    try:
        verify_older(reader, found.journal.head, lambda: False)
        assert len(reader.page(["ch/7"], base, base + count, 1000)) == count
    except JournalRefused:
        return True
    finally:
        reader.close()
    return False


def test_a_changed_row_is_refused_with_its_seq(tmp_path: Path) -> None:
    base = home_with(tmp_path, 40)
    edit(tmp_path, "UPDATE events SET actor = 'eve' WHERE seq = ?", base + 20)
    with pytest.raises(JournalRefused) as caught:
        start(tmp_path)
    assert caught.value.seq == base + 20
    assert f"journal_broken: the hash of event {base + 20} does not follow" in refusal(tmp_path)


def test_a_missing_row_is_refused(tmp_path: Path) -> None:
    base = home_with(tmp_path, 40)
    edit(tmp_path, "DELETE FROM events WHERE seq = ?", base + 20)
    assert f"event {base + 21} does not follow" in refusal(tmp_path)


def test_rows_missing_at_the_start_are_refused(tmp_path: Path) -> None:
    base = home_with(tmp_path, 40)
    edit(tmp_path, "DELETE FROM events WHERE seq <= ?", base + 20)
    assert f"event {base + 21} does not follow" in refusal(tmp_path)


@pytest.mark.parametrize(("name", "value"), [("hub_id", "0" * 16), ("base", "7"), ("hub_id", "?"), ("base", "x")])
def test_a_changed_meta_table_is_refused(tmp_path: Path, name: str, value: str) -> None:
    home_with(tmp_path, 5)
    edit(tmp_path, "UPDATE meta SET value = ? WHERE name = ?", value, name)
    assert "journal_broken" in refusal(tmp_path)


def test_a_copied_back_older_file_is_refused(tmp_path: Path) -> None:
    base = home_with(tmp_path, 10)
    older = Files(tmp_path).database.read_bytes()
    journal = open_journal(tmp_path)
    journal.append(posts(journal.head, 10))
    journal.close()
    Files(tmp_path).database.write_bytes(older)
    line = refusal(tmp_path)
    assert f"ends at {base + 10}, but events up to {base + 20} were acknowledged" in line
    assert f"`synapse journal adopt --home {tmp_path}`" in line


def test_another_history_of_the_same_journal_is_refused(tmp_path: Path) -> None:
    home_with(tmp_path / "a", 10)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for home, actor in ((tmp_path / "a", "ada"), (tmp_path / "b", "bob")):
        journal = open_journal(home)
        journal.append([row._replace(actor=actor) for row in posts(journal.head, 5)])
        journal.close()
    shutil.copy(tmp_path / "b" / "journal.db", tmp_path / "a" / "journal.db")
    assert "is not the one that was acknowledged" in refusal(tmp_path / "a")


def test_a_foreign_journal_is_refused(tmp_path: Path) -> None:
    home_with(tmp_path / "a", 5)
    home_with(tmp_path / "b", 50)
    shutil.copy(tmp_path / "b" / "journal.db", tmp_path / "a" / "journal.db")
    assert "but journal.mark belongs to" in refusal(tmp_path / "a")


def test_a_missing_mark_is_refused(tmp_path: Path) -> None:
    home_with(tmp_path, 5)
    Files(tmp_path).mark.unlink()
    assert "journal.mark: is missing" in refusal(tmp_path)


@pytest.mark.parametrize("damage", [b"", bytes(64), b"SYM1"])
def test_a_damaged_mark_is_refused(tmp_path: Path, damage: bytes) -> None:
    home_with(tmp_path, 5)
    Files(tmp_path).mark.write_bytes(damage)
    assert "journal.mark: is damaged" in refusal(tmp_path)


def test_a_flipped_bit_in_the_mark_is_refused(tmp_path: Path) -> None:
    home_with(tmp_path, 5)
    flip(Files(tmp_path).mark, 27)
    assert "journal.mark: is damaged" in refusal(tmp_path)


def test_an_older_mark_is_only_a_lower_bound(tmp_path: Path) -> None:
    base = home_with(tmp_path, 5)
    older = Files(tmp_path).mark.read_bytes()
    journal = open_journal(tmp_path)
    journal.append(posts(journal.head, 5))
    journal.close()
    Files(tmp_path).mark.write_bytes(older)
    found = start(tmp_path)
    assert found.journal.head == base + 10
    found.journal.close()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    home_with(tmp_path, 5)
    edit(tmp_path, "UPDATE meta SET value = '2' WHERE name = 'schema_version'")
    assert "has schema version 2, newer than 1" in refusal(tmp_path)


def test_an_event_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    home_with(tmp_path, 5)
    journal = open_journal(tmp_path)
    journal.append([posts(journal.head, 1)[0]._replace(version=2)])
    journal.close()
    with pytest.raises(JournalRefused, match="newer release that wrote it"):
        start(tmp_path)


def test_a_file_system_that_is_read_only_is_refused(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 16 << 20) as disk:
        killed_home_with(disk / "home", 5)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert "not writable; make it writable for this user, or choose another --home" in refusal(disk / "home")


def test_a_directory_that_is_read_only_is_refused(tmp_path: Path) -> None:
    home_with(tmp_path, 5)
    before = journal_bytes(tmp_path)
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
    elif subprocess.run(["chattr", "+i", tmp_path], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("root writes everywhere, and this file system has no immutable directories")
    try:
        with pytest.raises(JournalRefused, match="not writable"):
            start(tmp_path)
        assert journal_bytes(tmp_path) == before
    finally:
        if os.geteuid() != 0:
            tmp_path.chmod(0o700)
        else:
            subprocess.run(["chattr", "-i", tmp_path], check=True)


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(JournalRefused, match="cannot be made a directory"):
        start(tmp_path / "home")


def test_a_database_locked_by_another_process_is_75(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synapse.journal.connection._BUSY_WAIT_S", 0.05)
    home_with(tmp_path, 5)
    before = journal_bytes(tmp_path)
    holder = sqlite3.connect(Files(tmp_path).database, isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(JournalLocked, match=r"journal\.db: locked by another process") as caught:
        start(tmp_path)
    holder.close()
    assert caught.value.exit_code == 75
    assert journal_bytes(tmp_path) == before


@pytest.mark.parametrize("old_mark", [True, False])
def test_a_restore_that_died_before_its_mark_is_finished(tmp_path: Path, old_mark: bool) -> None:
    base = home_with(tmp_path / "a", 5)
    files = Files(tmp_path / "a")
    files.mark.rename(files.new_mark)
    if old_mark:
        home_with(tmp_path / "b", 5)
        shutil.copy(Files(tmp_path / "b").mark, files.mark)
    found = start(tmp_path / "a")
    assert found.journal.head == base + 5
    found.journal.close()
    assert not files.new_mark.exists()
    start(tmp_path / "a").journal.close()


def test_a_waiting_mark_of_another_position_finishes_nothing(tmp_path: Path) -> None:
    home_with(tmp_path, 5)
    files = Files(tmp_path)
    older = files.mark.read_bytes()
    journal = open_journal(tmp_path)
    journal.append(posts(journal.head, 1))
    journal.close()
    files.mark.unlink()
    files.new_mark.write_bytes(older)
    assert "journal.mark: is missing" in refusal(tmp_path)


def test_a_creation_that_died_early_starts_over(tmp_path: Path) -> None:
    script = f"""
import os
from pathlib import Path
from synapse.journal import create
from tests.journal.conftest import open_journal
create.put_in_place = lambda *_: os.kill(os.getpid(), 9)
open_journal(Path({str(tmp_path)!r}))
"""
    assert run_python(script).returncode == -9
    assert Files(tmp_path).new_database.exists()
    found = start(tmp_path)
    assert found.journal.is_new
    found.journal.close()
    assert not Files(tmp_path).new_database.exists()


def test_the_older_part_is_verified_behind_a_snapshot(tmp_path: Path) -> None:
    base = home_with(tmp_path, 40)
    assert take_snapshot(tmp_path, FOLDING) is not None
    edit(tmp_path, "UPDATE events SET actor = 'eve' WHERE seq = ?", base + 20)
    found = start(tmp_path)
    reader = JournalReader(tmp_path)
    with pytest.raises(JournalRefused) as caught:
        verify_older(reader, found.journal.head, lambda: False)
    assert caught.value.seq == base + 20
    reader.close()
    found.journal.close()


def test_the_check_in_the_background_stops_when_told(tmp_path: Path) -> None:
    base = home_with(tmp_path, 40)
    reader = JournalReader(tmp_path)
    assert verify_older(reader, base + 40, lambda: True) is None
    assert verify_older(reader, base + 40, lambda: False) == 40
    reader.close()


@pytest.mark.parametrize("statement", ["DELETE FROM touches WHERE seq = ?", "UPDATE touches SET seq=1 WHERE seq = ?"])
def test_an_index_that_does_not_fit_the_events_is_found(tmp_path: Path, statement: str) -> None:
    base = home_with(tmp_path, 40)
    edit(tmp_path, statement, base + 20)
    reader = JournalReader(tmp_path)
    with pytest.raises(JournalError, match="the index does not fit the events"):
        verify_older(reader, base + 40, lambda: False)
    reader.close()


def test_a_forged_tail_with_a_right_chain_cannot_replace_an_acknowledged_event(tmp_path: Path) -> None:
    base = home_with(tmp_path, 3)
    reader = JournalReader(tmp_path)
    prev, row = reader.hash_at(base + 2), reader.row(base + 3)
    reader.close()
    assert prev is not None
    assert row is not None
    forged = row._replace(actor="eve")
    edit(tmp_path, "UPDATE events SET actor = 'eve', hash = ? WHERE seq = ?", link(prev, forged), base + 3)
    assert "is not the one that was acknowledged" in refusal(tmp_path)
