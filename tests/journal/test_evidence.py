"""What a damaged row or meta table looks like: whatever SQLite hands out, it is refused and never trips the reader."""

import sqlite3
from pathlib import Path

import pytest
from tests.journal.conftest import home_with

from synapse.errors import JournalRefused
from synapse.journal.evidence import Line, check_line, examine
from synapse.journal.files import Files

LINE: Line = (7, "message.posted", 1, 3, "ada", "ch/1", b"{}", None, bytes(32))


@pytest.mark.parametrize("column", [1, 4, 5, 6, 8])
@pytest.mark.parametrize("value", [None, 5, 1.5, b"\xff", ""])
def test_a_column_of_another_kind_is_a_broken_row(column: int, value: object) -> None:
    line = (*LINE[:column], value, *LINE[column + 1 :])
    with pytest.raises(JournalRefused, match="journal_broken: the hash of event 7"):
        check_line(Files(Path("/h")), line, bytes(32))  # type: ignore[arg-type]  # as a damaged page gives it


def test_a_meta_table_with_bytes_for_texts_is_not_whole(tmp_path: Path) -> None:
    home_with(tmp_path, 3)
    connection = sqlite3.connect(Files(tmp_path).database)
    connection.execute("DROP TABLE meta")
    connection.execute("CREATE TABLE meta (name, value)")
    connection.execute("INSERT INTO meta VALUES ('schema_version', X'31')")
    connection.commit()
    connection.close()
    with pytest.raises(JournalRefused, match="journal_broken: its meta table is not whole"):
        examine(Files(tmp_path))
