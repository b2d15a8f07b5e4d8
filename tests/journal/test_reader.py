"""The reader: what is broken is never served."""

import sqlite3
from pathlib import Path

import pytest
from tests.journal.conftest import home_with

from synapse.errors import JournalRefused
from synapse.journal.chain import link
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


def test_a_body_that_no_compaction_dropped_is_missed(tmp_path: Path) -> None:
    from hashlib import sha256

    base = home_with(tmp_path, 30)
    reader = JournalReader(tmp_path)
    row = reader.row(base + 15)
    assert row is not None
    body_hash = sha256(row.body).digest()
    edit(tmp_path, "UPDATE events SET body = NULL, body_hash = ? WHERE seq = ?", body_hash, base + 15)
    with pytest.raises(JournalRefused, match="has no body, and no compaction allows that") as caught:
        reader.row(base + 15)
    assert caught.value.seq == base + 15
    with pytest.raises(JournalRefused, match="no compaction allows that"):
        verify_older(reader, base + 30, lambda: False)
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


@pytest.mark.parametrize("count", [30, 3000])
def test_a_line_that_the_index_lost_is_missed_by_no_page_before_the_index_was_proved(
    tmp_path: Path, count: int
) -> None:
    base = home_with(tmp_path, count)
    lost = base + count - 20
    edit(tmp_path, "DELETE FROM touches WHERE seq = ?", lost)
    reader = JournalReader(tmp_path)
    assert len(reader.page(["ch/7"], base, base + count, count)) == count - 1, "what an index can do"
    reader.trusts_index = False
    for limit in (1, 25, count, count + 1):
        assert [row.seq for row in reader.page(["ch/7"], lost - 5, base + count, limit)] == list(
            range(lost - 4, min(lost - 4 + limit, base + count + 1))
        )
        assert [row.seq for row in reader.page_back(["ch/7"], base + count + 1, limit)] == list(
            range(max(base + count + 1 - limit, base + 1), base + count + 1)
        )
    assert reader.page(["ch/8"], base, base + count, 10) == reader.page_back(["ch/8"], base + count, 10) == []
    reader.close()


def test_pages_from_the_rows_end_at_the_first_row_and_go_on_in_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synapse.journal.reader._ROWS_PER_LOOK", 4)
    monkeypatch.setattr("synapse.journal.reader._LOOKS_MAX", 2)
    base = home_with(tmp_path, 30)
    reader = JournalReader(tmp_path)
    reader.trusts_index = False
    assert [row.seq - base for row in reader.page(["ch/7"], base + 3, base + 28, 20)] == list(range(4, 24))
    assert [row.seq - base for row in reader.page_back(["ch/7"], base + 28, 20)] == list(range(8, 28))
    assert [row.seq - base for row in reader.page_back(["ch/7"], base + 6, 20)] == list(range(1, 6))
    reader.close()


@pytest.mark.parametrize(("asked", "answered"), [("seq <= ? ORDER BY seq DESC LIMIT 1", 14), ("seq > ? AND", 3)])
def test_a_tree_that_leads_astray_lets_no_row_be_passed_over_or_come_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, answered: int
) -> None:
    """Found by a flipped bit in an inner page: the fold began at the 15th event, and the chain held."""
    base = home_with(tmp_path, 30)
    reader = JournalReader(tmp_path)
    honest = reader._all

    def astray(query: str, *values: int) -> list[object]:
        return honest(query, base + answered, *values[1:]) if asked in query else honest(query, *values)

    monkeypatch.setattr(JournalReader, "_all", lambda _, query, *values: astray(query, *values))
    with pytest.raises(JournalRefused, match="journal_broken"):
        reader.scan(base + 10, base + 30, 100)
    with pytest.raises(JournalRefused, match="journal_broken"):
        reader.scan(base, base + 30, 100)
    reader.close()


def test_a_walk_that_ends_before_the_last_row_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = home_with(tmp_path, 30)
    reader = JournalReader(tmp_path)
    reader.trusts_index = False
    honest = reader._all

    def short(_: JournalReader, query: str, *values: int) -> list[object]:
        return honest(query, *values)[: -1 if "seq > ? AND seq <= ? ORDER BY seq LIMIT" in query else None]

    monkeypatch.setattr(JournalReader, "_all", short)
    with pytest.raises(JournalRefused, match=f"the events up to {base + 30} are not where they should be"):
        reader.page(["ch/7"], base, base + 30, 100)
    with pytest.raises(JournalRefused, match=f"the events up to {base + 30} are not where they should be"):
        reader.page_back(["ch/7"], base + 31, 100)
    reader.close()


def test_a_page_bounded_by_bytes_reads_no_row_behind_its_end(tmp_path: Path) -> None:
    base = home_with(tmp_path, 30)
    edit(tmp_path, "UPDATE events SET body = X'7B7D' WHERE seq = ?", base + 15)
    reader = JournalReader(tmp_path)
    [first, *_] = reader.page(["ch/7"], base, base + 14, 100)
    size = 5 * len(first.body)
    assert 5 <= len(reader.page(["ch/7"], base, base + 30, 100, size)) < 14
    assert 5 <= len(reader.page_back(["ch/7"], base + 31, 100, size)) < 15
    with pytest.raises(JournalRefused):
        reader.page(["ch/7"], base, base + 30, 100)
    reader.close()


def varint(value: int) -> bytes:
    """A row's number as a cell of SQLite's file has it: groups of seven bits, the first bit set in all but the last."""
    groups = [value >> shift & 0x7F for shift in range(0, value.bit_length(), 7)][::-1]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


@pytest.mark.parametrize("nth", [1, 2, 17, 29, 30])
def test_a_row_whose_number_is_damaged_ends_no_proof_early(tmp_path: Path, nth: int) -> None:
    """Found by a flipped bit: the walk through all rows ended there, and nothing else said that there were more."""
    base = home_with(tmp_path, 30)
    edit(tmp_path, "DELETE FROM touches")  # as after a kill: the lines of the last events were in memory
    edit(tmp_path, "UPDATE meta SET value = ? WHERE name = 'indexed'", base)
    path = Files(tmp_path).database
    path.write_bytes(path.read_bytes().replace(varint(base + nth), varint(base + nth + (1 << 52))))
    reader = JournalReader(tmp_path)
    with pytest.raises(JournalRefused):
        verify_older(reader, base + 30, lambda: False)
    reader.close()
