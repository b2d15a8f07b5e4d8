"""The store: durable appends, kill -9, a full disk, and home-keeping."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tests.journal.conftest import (
    AT_MS,
    RESERVE_BYTES,
    ROOT,
    fill_disk,
    home_with,
    journal_bytes,
    killed_home_with,
    open_journal,
    post,
    posts,
    run_python,
    small_disk,
)

from synapse.core.events import Row
from synapse.errors import DiskFull, JournalLocked, StoreFailed
from synapse.journal.files import Files
from synapse.journal.mark import read_mark
from synapse.journal.reader import JournalReader
from synapse.journal.recovery import verify_older
from synapse.journal.store import Journal

DISK_BYTES = 8 << 20


def big_rows(after: int, count: int) -> list[Row]:
    return [post(after + 1 + n, text="x" * 4000) for n in range(count)]


def fill_until_refused(journal: Journal) -> list[Row]:
    """Append until the disk is full; answer the rows that were refused."""
    while True:
        rows = big_rows(journal.head, 16)
        try:
            journal.append(rows)
        except DiskFull:
            return rows


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "a" / "home")
    journal.append(posts(journal.base, 1))
    files = Files(tmp_path / "a" / "home")
    assert files.home.stat().st_mode & 0o777 == 0o700
    for path in files.home.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path
    journal.close()


def test_a_journal_continues_where_it_was_closed(tmp_path: Path) -> None:
    base = home_with(tmp_path, 20)
    journal = open_journal(tmp_path, AT_MS + 10_000_000)
    assert (journal.base, journal.head, journal.is_new) == (base, base + 20, False)
    journal.append(posts(journal.head, 1))
    journal.close()
    assert not Files(tmp_path).wal.exists()
    reader = JournalReader(tmp_path)
    assert verify_older(reader, base + 21, lambda: False) == 21
    reader.close()


def test_a_journal_without_events_is_still_new_and_keeps_its_ids(tmp_path: Path) -> None:
    first = open_journal(tmp_path)
    first.close()
    second = open_journal(tmp_path, AT_MS + 5000)
    assert second.is_new
    assert (second.hub_id, second.journal_id, second.base) == (first.hub_id, first.journal_id, first.base)
    second.close()


def test_a_second_hub_is_refused_and_changes_no_byte(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.append(posts(journal.base, 3))
    before = journal_bytes(tmp_path)
    with pytest.raises(JournalLocked, match=str(os.getpid())):
        open_journal(tmp_path)
    assert journal_bytes(tmp_path) == before
    journal.append(posts(journal.head, 1))
    journal.close()


def test_the_mark_follows_each_append(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    for _ in range(3):
        journal.append(posts(journal.head, 2))
        mark = read_mark(Files(tmp_path).mark)
        assert mark is not None
        assert mark == (journal.hub_id, journal.journal_id, journal.head, journal.head_hash)
    journal.close()


def test_nothing_acknowledged_is_lost_to_kill_9_in_the_middle_of_appending(tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from tests.journal.conftest import open_journal, posts
journal = open_journal(Path({str(tmp_path)!r}))
while True:
    journal.append(posts(journal.head, 3))
    journal.maintain()
    sys.stdout.write(f"{{journal.head}}\\n")
    sys.stdout.flush()
"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    for kills in range(1, 5):
        with subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            acknowledged = [int(child.stdout.readline()) for _ in range(40 * kills)]
            child.kill()
            rest = child.stdout.read().splitlines(keepends=True)
            acknowledged += [int(line) for line in rest if line.endswith(b"\n")]
        journal = open_journal(tmp_path)
        assert journal.head >= acknowledged[-1]
        assert (journal.head - journal.base) % 3 == 0
        reader = JournalReader(tmp_path)
        assert verify_older(reader, journal.head, lambda: False) == journal.head - journal.base
        reader.close()
        journal.close()


def test_a_full_disk_changes_nothing_and_the_same_rows_go_through_on_the_reserve(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", DISK_BYTES) as disk:
        journal = open_journal(disk / "home")
        filler = fill_disk(disk, leave_bytes=512 << 10)
        rows = fill_until_refused(journal)
        head, before = journal.head, journal_bytes(disk / "home")["journal.mark"]
        reader = JournalReader(disk / "home")
        assert reader.tip()[0] == head
        assert journal_bytes(disk / "home")["journal.mark"] == before
        assert journal.give_up_reserve()
        journal.append(rows)
        assert journal.head == head + 16 == reader.tip()[0]
        assert not journal.give_up_reserve()
        assert not journal.try_restore_reserve()
        filler.unlink()
        assert journal.try_restore_reserve()
        journal.append(posts(journal.head, 1))
        assert verify_older(reader, journal.head, lambda: False) == journal.head - journal.base
        reader.close()
        journal.close()


def test_a_start_on_a_full_disk_gives_up_the_reserve_and_is_read_only(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", DISK_BYTES) as disk:
        base = killed_home_with(disk / "home", 20)
        Files(disk / "home").shm.unlink()
        filler = fill_disk(disk)
        journal = open_journal(disk / "home")
        assert journal.is_read_only
        assert journal.head == base + 20
        assert not Files(disk / "home").reserve.exists()
        reader = JournalReader(disk / "home")
        assert len(reader.scan(base, journal.head, 100)) == 20
        reader.close()
        assert not journal.try_restore_reserve()
        assert journal.is_read_only
        filler.unlink()
        assert journal.try_restore_reserve()
        assert not journal.is_read_only
        journal.append(posts(journal.head, 1))
        journal.close()


def test_a_start_on_a_full_disk_without_a_reserve_says_how_many_bytes_are_missing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", DISK_BYTES) as disk:
        base = killed_home_with(disk / "home", 20)
        Files(disk / "home").reserve.unlink()
        filler = fill_disk(disk)
        before = journal_bytes(disk / "home")
        with pytest.raises(DiskFull, match=r"the disk is full; \d+ more bytes are needed to start") as caught:
            open_journal(disk / "home")
        assert caught.value.exit_code == 74
        assert journal_bytes(disk / "home") == before
        filler.unlink()
        journal = open_journal(disk / "home")
        assert (journal.head, journal.is_read_only) == (base + 20, False)
        journal.close()


def test_a_new_home_without_room_for_the_reserve_is_refused_and_left_empty(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        with pytest.raises(DiskFull, match=r"\d+ more bytes are needed for a new journal"):
            Journal.open(disk / "home", at_ms=AT_MS, reserve_bytes=RESERVE_BYTES)
        assert [path.name for path in (disk / "home").iterdir()] == ["hub.lock"]


def test_any_other_store_error_is_final(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.append(posts(journal.base, 2))
    outsider = f"""
import sqlite3
with sqlite3.connect({str(tmp_path / "journal.db")!r}) as connection:
    connection.execute("INSERT INTO events SELECT seq + 1, type, version, at_ms, actor, key, body, NULL, hash "
                       "FROM events ORDER BY seq DESC LIMIT 1")
"""
    assert run_python(outsider).returncode == 0
    with pytest.raises(StoreFailed, match="the next start replays the truth") as caught:
        journal.append(posts(journal.head, 1))
    assert caught.value.exit_code == 74
    with pytest.raises(StoreFailed, match="it failed before"):
        journal.append(posts(journal.head, 1))
    journal.close()


def test_a_mark_that_cannot_be_written_is_a_store_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(tmp_path)

    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(StoreFailed, match="Input/output error"):
        patch.setattr(os, "pwrite", broken)
        journal.append(posts(journal.base, 1))
    journal.close()
    again = open_journal(tmp_path)
    assert again.head == again.base + 1
    again.close()


def test_the_wal_is_checkpointed_before_it_grows_without_bound(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    for _ in range(300):
        journal.append(big_rows(journal.head, 16))
        journal.maintain()
    assert Files(tmp_path).wal.stat().st_size < 17 << 20
    journal.close()


def test_synchronous_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def remember(*arguments: object, **options: object) -> sqlite3.Connection:
        opened.append(connect(*arguments, **options))  # type: ignore[call-overload]  # passed on as it came
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", remember)
    journal = open_journal(tmp_path)
    assert opened[-1].execute("PRAGMA synchronous").fetchone() == (2,)
    assert opened[-1].execute("PRAGMA journal_mode").fetchone() == ("wal",)
    journal.close()
