"""What an error of SQLite means: one line that a terminal can show, whatever the damaged file holds."""

import sqlite3
from pathlib import Path

import pytest
from tests.journal.conftest import home_with

from synapse.errors import DiskFull, JournalRefused, StoreFailed
from synapse.journal.connection import READ_ERRORS, damaged, failure, is_full, lacks_room
from synapse.journal.files import Files
from synapse.journal.store import Journal


def test_what_was_found_is_one_printable_line_of_bounded_length() -> None:
    line = str(damaged(Files(Path("/h")), 'unrecognized token: "a\nb\x1b[2J\x00' + "x" * 500))
    assert line.isprintable()
    assert 'unrecognized token: "a b?[2J?xxx' in line
    assert len(line) < 500


def test_a_schema_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """The sqlite3 module itself fails on SQLite's message, which quotes the bytes."""
    home_with(tmp_path, 3)
    path = Files(tmp_path).database
    data = path.read_bytes().replace(b"CREATE TABLE meta (", b"CREATE TABLE m\xcc\xcca (")
    path.write_bytes(data)
    with pytest.raises(JournalRefused, match="journal_broken"):
        Journal.open(tmp_path, at_ms=0)


def test_bytes_that_are_no_text_in_a_message_of_sqlite_are_damage() -> None:
    error = UnicodeDecodeError("utf-8", b"\xcc\xcc", 0, 1, "invalid continuation byte")
    assert isinstance(error, READ_ERRORS)
    found = failure(error, Files(Path("/h")))
    assert isinstance(found, JournalRefused)
    assert "journal_broken: malformed database schema" in str(found)


def error_of(code: int) -> sqlite3.OperationalError:
    """An error of SQLite with this code."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_CANTOPEN])
def test_what_sqlite_gives_no_cause_for_is_a_full_disk_only_where_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    files = Files(tmp_path)
    assert isinstance(failure(error_of(code), files), StoreFailed)
    assert not is_full(error_of(code), tmp_path)
    monkeypatch.setattr("synapse.journal.connection.has_room", lambda home, size: False)
    assert isinstance(failure(error_of(code), files), DiskFull)
    assert is_full(error_of(code), tmp_path) == (code == sqlite3.SQLITE_IOERR_WRITE), "only this one is known not to be"
    assert not is_full(error_of(sqlite3.SQLITE_IOERR_FSYNC), tmp_path)


def test_where_the_room_cannot_be_asked_for_the_disk_is_not_called_full(tmp_path: Path) -> None:
    assert not lacks_room(tmp_path / "gone")


def test_a_file_that_could_be_written_is_not_called_read_only(tmp_path: Path) -> None:
    files = Files(tmp_path)
    assert isinstance(failure(error_of(sqlite3.SQLITE_READONLY), files), JournalRefused)
    files.database.touch()
    assert isinstance(failure(error_of(sqlite3.SQLITE_READONLY), files), StoreFailed)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY])
def test_a_home_that_cannot_be_written_is_refused_as_a_start_on_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """It was called a store that failed, and to start again."""
    files = Files(tmp_path)
    files.database.touch()
    assert isinstance(failure(error_of(code), files), StoreFailed)
    monkeypatch.setattr("os.access", lambda path, how: path != tmp_path)
    found = failure(error_of(code), files)
    assert isinstance(found, JournalRefused)
    assert str(found).startswith(f"{tmp_path}: not writable (")
    alone = Files(tmp_path, "b.db", is_backup=True)
    assert isinstance(failure(error_of(code), alone), StoreFailed), "a backup is only read"


def test_a_schema_whose_columns_have_other_names_is_damage(tmp_path: Path) -> None:
    """Found by a flipped bit: it was called a store that failed, and a supervisor would have tried for ever."""
    home_with(tmp_path, 3)
    path = Files(tmp_path).database
    path.write_bytes(path.read_bytes().replace(b"    at_ms ", b"    at_ns "))
    with pytest.raises(JournalRefused, match="journal_broken: no such column: at_ms"):
        Journal.open(tmp_path, at_ms=0)
