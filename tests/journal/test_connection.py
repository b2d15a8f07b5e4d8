"""What an error of SQLite means: one line that a terminal can show, whatever the damaged file holds."""

from pathlib import Path

import pytest
from tests.journal.conftest import home_with

from synapse.errors import JournalRefused
from synapse.journal.connection import READ_ERRORS, damaged, failure
from synapse.journal.files import Files
from synapse.journal.store import Journal


def test_what_was_found_is_one_printable_line_of_bounded_length() -> None:
    line = str(damaged(Path("/h/journal.db"), 'unrecognized token: "a\nb\x1b[2J\x00' + "x" * 500))
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
    found = failure(error, Path("/h/journal.db"))
    assert isinstance(found, JournalRefused)
    assert "journal_broken: malformed database schema" in str(found)
