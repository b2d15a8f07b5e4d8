"""The reader: what is broken is never served."""

import sqlite3
from pathlib import Path

import pytest
from tests.journal.conftest import home_with

from synapse.errors import JournalRefused
from synapse.journal.chain import link, link_over_hole
from synapse.journal.files import Files
from synapse.journal.reader import JournalReader
from synapse.journal.recovery import verify_older


def edit(home: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(Files(home).database)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE events SET body = X'7B7D' WHERE seq = ?",
        "UPDATE events SET at_ms = at_ms + 1 WHERE seq = ?",
        "UPDATE events SET hash = zeroblob(32) WHERE seq = ?",
        "UPDATE events SET body = NULL WHERE seq = ?",
    ],
)
def test_a_broken_row_is_served_by_no_way_of_reading(tmp_path: Path, change: str) -> None:
    base = home_with(tmp_path, 30)
    bad = base + 15
    edit(tmp_path, change, bad)
    reader = JournalReader(tmp_path)
    for read in (
        lambda: reader.row(bad),
        lambda: reader.rows(bad - 2, bad + 2),
        lambda: reader.scan(base, base + 30, 100),
        lambda: reader.page(["ch/7"], base, base + 30, 100),
        lambda: reader.page_back(["ch/7"], bad + 1, 3),
    ):
        with pytest.raises(JournalRefused, match="journal_broken") as caught:
            read()
        assert caught.value.seq == bad
    assert len(reader.scan(base, bad - 1, 100)) == 14
    reader.close()


def test_a_hole_is_not_read_over(tmp_path: Path) -> None:
    base = home_with(tmp_path, 30)
    edit(tmp_path, "DELETE FROM events WHERE seq = ?", base + 15)
    reader = JournalReader(tmp_path)
    with pytest.raises(JournalRefused, match="journal_broken"):
        reader.scan(base, base + 30, 100)
    with pytest.raises(JournalRefused, match="journal_broken"):
        reader.page(["ch/7"], base, base + 30, 100)
    reader.close()


def test_a_hole_with_a_right_chain_is_not_read_over_either(tmp_path: Path) -> None:
    base = home_with(tmp_path, 30)
    reader = JournalReader(tmp_path)
    row, prev = reader.row(base + 30), reader.hash_at(base + 28)
    assert row is not None
    assert prev is not None
    edit(tmp_path, "DELETE FROM events WHERE seq = ?", base + 29)
    edit(tmp_path, "UPDATE events SET hash = ? WHERE seq = ?", link(prev, row), base + 30)
    with pytest.raises(JournalRefused, match=f"after event {base + 28} comes {base + 30}"):
        reader.scan(base, base + 30, 100)
    reader.close()


def test_an_index_line_under_a_wrong_key_is_refused(tmp_path: Path) -> None:
    base = home_with(tmp_path, 30)
    edit(tmp_path, "UPDATE touches SET key = 'in/4' WHERE seq = ?", base + 15)
    reader = JournalReader(tmp_path)
    with pytest.raises(JournalRefused, match="under a wrong key"):
        reader.page(["in/4"], base, base + 30, 100)
    reader.close()


def test_a_row_whose_body_was_dropped_still_proves_itself(tmp_path: Path) -> None:
    from hashlib import sha256

    base = home_with(tmp_path, 30)
    reader = JournalReader(tmp_path)
    row, prev = reader.row(base + 15), reader.hash_at(base + 14)
    assert row is not None
    assert prev is not None
    body_hash = sha256(row.body).digest()
    edit(tmp_path, "UPDATE events SET body = NULL, body_hash = ? WHERE seq = ?", body_hash, base + 15)
    hole = reader.row(base + 15)
    assert hole == row._replace(body=b"")
    assert link_over_hole(prev, hole, body_hash) == reader.hash_at(base + 15)
    assert verify_older(reader, base + 30, lambda: False) == 30
    reader.close()


def test_a_page_of_a_long_journal_takes_index_steps_not_a_scan(tmp_path: Path) -> None:
    base = home_with(tmp_path, 10)
    connection = sqlite3.connect(Files(tmp_path).database)
    for query in (
        "SELECT seq FROM touches WHERE key = 'a' AND seq > 1 AND seq <= 2 ORDER BY seq LIMIT 3",
        "SELECT seq FROM touches WHERE key = 'a' AND seq < 1 ORDER BY seq DESC LIMIT 3",
    ):
        plan = [line[3] for line in connection.execute(f"EXPLAIN QUERY PLAN {query}")]
        assert len(plan) == 1
        assert "SEARCH touches USING PRIMARY KEY" in plan[0]
    connection.close()
    assert base > 0


def test_a_home_without_a_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JournalRefused, match="there is no such file"):
        JournalReader(tmp_path)
    assert list(tmp_path.iterdir()) == []
