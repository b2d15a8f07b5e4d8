"""The end of the index is written late, and yet every page is whole, for every reader, at every moment."""

import random
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from tests.journal.conftest import AT_MS, open_journal, post, posts, send

from synapse.core.events import MessagesAcked, Recorded, Row, keys_of, to_row
from synapse.core.retention_events import COMPACTIONS, JournalCompacted
from synapse.errors import DiskFull, JournalRefused
from synapse.journal import tail
from synapse.journal.dropping import Rule
from synapse.journal.files import Files
from synapse.journal.proof import check_index
from synapse.journal.reader import JournalReader
from synapse.journal.store import Journal
from synapse.journal.upcast import decode

KEYS = ("ch/1", "ch/2", "in/8", "in/9", "re/8", "re/9", "in/7")


@pytest.fixture(autouse=True)
def small_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "LINES_PER_WRITING", 40)
    monkeypatch.setattr(tail, "EVENTS_PER_WRITING", 60)


def event_at(seq: int, dice: random.Random) -> Row:
    """A channel message with or without mentions, a direct message, or an ack, which lies under its sender only."""
    kind = dice.random()
    if kind < 0.4:
        return post(seq, channel=dice.randint(1, 2), mentions=tuple(dice.sample((8, 9), dice.choice((0, 0, 1, 2)))))
    if kind < 0.7:
        return send(seq, *dice.sample((8, 9), dice.randint(1, 2)))
    sender = dice.choice((8, 9))
    acked = MessagesAcked(agent=5, messages=(1,), senders=(sender,), lends=(1,))
    return to_row(Recorded(seq, AT_MS, "ada", acked))


def grow(journal: Journal, count: int, dice: random.Random, *, turn: int = 12) -> list[Row]:
    """Append so many events in turns of some."""
    added: list[Row] = []
    while len(added) < count:
        size = min(dice.randint(1, turn), count - len(added))
        rows = [event_at(journal.head + 1 + n, dice) for n in range(size)]
        journal.append(rows)
        added += rows
    return added


def touching(rows: Sequence[Row], key: str) -> list[int]:
    return [row.seq for row in rows if key in keys_of(row.seq, decode(row))]


def require_whole_pages(reader: JournalReader, rows: Sequence[Row]) -> None:
    """Whole pages, and pages that begin, or end, anywhere, are what a search through all rows finds."""
    for key in KEYS:
        found = touching(rows, key)
        assert [row.seq for row in reader.page([key], rows[0].seq - 1, rows[-1].seq, 1_000)] == found
        assert [row.seq for row in reader.page_back([key], rows[-1].seq + 1, 1_000)] == found
    for row in rows[:: max(len(rows) // 25, 1)]:
        wanted = sorted({*touching(rows, KEYS[0]), *touching(rows, KEYS[2])})
        up = [seq for seq in wanted if seq > row.seq]
        assert [one.seq for one in reader.page([KEYS[0], KEYS[2]], row.seq, rows[-1].seq, 7)] == up[:7]
        down = [seq for seq in wanted if seq < row.seq]
        assert [one.seq for one in reader.page_back([KEYS[0], KEYS[2]], row.seq, 7)] == down[-7:]


def require_whole_index(reader: JournalReader) -> None:
    checked = check_index(reader, reader.tip()[0])
    assert checked is not None
    assert checked.index_is_whole


def lines_of(home: Path) -> set[tuple[str, int]]:
    with closing(sqlite3.connect(Files(home).database)) as connection:
        return set(connection.execute("SELECT key, seq FROM touches"))


@pytest.mark.parametrize("seed", range(6))
def test_pages_are_whole_for_the_hub_and_for_other_processes(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    with closing(open_journal(tmp_path)) as journal:
        hubs, others = JournalReader(tmp_path), JournalReader(tmp_path)
        hubs.tail = lambda: journal.tail
        rows: list[Row] = []
        waited = 0
        for _ in range(8):
            rows += grow(journal, dice.randint(1, 40), dice)
            waited += journal.base < others.indexed() < journal.head
            for reader in (hubs, others):
                require_whole_pages(reader, rows)
                require_whole_index(reader)
        assert waited, "some lines were there, and some were not yet"
        hubs.close()
        others.close()


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_journal_has_its_tail_again(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    with closing(open_journal(tmp_path / "old")) as journal:
        rows = grow(journal, 150 + seed * 9, dice, turn=5)
        assert len(journal.tail)
        (tmp_path / "new").mkdir(mode=0o700)
        for path in (tmp_path / "old").iterdir():
            if path.is_file() and path.suffix != ".lock" and not path.name.endswith("-shm"):
                shutil.copy(path, tmp_path / "new")
        waiting = {key: journal.tail.of(key, 0, 1 << 62) for key in KEYS}
    with closing(open_journal(tmp_path / "new")) as journal:
        assert {key: journal.tail.of(key, 0, 1 << 62) for key in KEYS} == waiting
        rows += grow(journal, 50, dice)
        reader = JournalReader(tmp_path / "new")
        require_whole_pages(reader, rows)
        require_whole_index(reader)
        reader.close()


def test_a_closed_journal_has_every_line(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    rows = grow(journal, 100, random.Random(1))
    assert len(journal.tail)
    journal.close()
    wanted = {(key, row.seq) for row in rows for key in keys_of(row.seq, decode(row)) if not key.startswith("ag/")}
    assert lines_of(tmp_path) == wanted
    with closing(open_journal(tmp_path)) as journal:
        assert len(journal.tail) == 0


def test_a_reader_that_asked_before_the_lines_were_written_misses_and_repeats_none(tmp_path: Path) -> None:
    dice = random.Random(2)
    with closing(open_journal(tmp_path)) as journal, closing(JournalReader(tmp_path)) as reader:
        rows = grow(journal, 30, dice, turn=2)
        before = journal.tail
        assert len(before)
        reader.tail = lambda: before
        later = grow(journal, 60, dice)
        assert journal.tail is not before, "they were written"
        for key in KEYS:
            assert [row.seq for row in reader.page([key], journal.base, rows[-1].seq, 99)] == touching(rows, key)
            assert [row.seq for row in reader.page_back([key], later[0].seq, 99)] == touching(rows, key)


def test_a_missing_and_a_foreign_line_are_found(tmp_path: Path) -> None:
    with closing(open_journal(tmp_path)) as journal, closing(JournalReader(tmp_path)) as reader:
        grow(journal, 100, random.Random(3))
        lost = min(line for line in lines_of(tmp_path) if line[0] == "in/9")
        with sqlite3.connect(Files(tmp_path).database) as connection:
            connection.execute("DELETE FROM touches WHERE key = ? AND seq = ?", lost)
        checked = check_index(reader, journal.head)
        assert checked is not None
        assert not checked.index_is_whole
        with connection:
            connection.execute("INSERT INTO touches VALUES (?, ?)", lost)
        require_whole_index(reader)
        with connection:
            connection.execute("INSERT INTO touches VALUES ('in/9', ?)", (journal.base,))
        checked = check_index(reader, journal.head)
        assert checked is not None
        assert not checked.index_is_whole
        connection.close()


def test_a_journal_of_an_earlier_release_goes_on(tmp_path: Path) -> None:
    """Each event has its lines there, and nothing says up to where."""
    dice = random.Random(4)
    journal = open_journal(tmp_path)
    rows = grow(journal, 30, dice)
    journal.close()
    with sqlite3.connect(Files(tmp_path).database) as connection:
        connection.execute("DELETE FROM meta WHERE name = 'indexed'")
    connection.close()
    with closing(open_journal(tmp_path)) as journal, closing(JournalReader(tmp_path)) as reader:
        require_whole_pages(reader, rows)
        require_whole_index(reader)
        rows += grow(journal, 1, dice)
        assert reader.indexed() == rows[-2].seq, "said with the first commit"
        require_whole_pages(reader, rows)
        rows += grow(journal, 70, dice)
        require_whole_pages(reader, rows)
        require_whole_index(reader)


@pytest.mark.parametrize("name", ["indexed", "tasks_indexed"])
@pytest.mark.parametrize("value", ["376503052061;074", "", "-1", "9" * 17, b"1"])
def test_an_index_that_does_not_say_how_far_it_goes_is_refused(value: str | bytes, name: str, tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    grow(journal, 20, random.Random(6))
    journal.close()
    with sqlite3.connect(Files(tmp_path).database) as connection:
        connection.execute("DELETE FROM meta WHERE name = ?", (name,))
        connection.execute("CREATE TABLE damaged AS SELECT * FROM meta")  # whose columns take anything
        connection.execute("DROP TABLE meta")
        connection.execute("ALTER TABLE damaged RENAME TO meta")
        connection.execute("INSERT INTO meta VALUES (?, ?)", (name, value))
    connection.close()
    with pytest.raises(JournalRefused, match="journal_broken"):
        open_journal(tmp_path)


def test_a_full_disk_keeps_the_lines_waiting(tmp_path: Path) -> None:
    dice = random.Random(5)
    with closing(open_journal(tmp_path)) as journal, closing(JournalReader(tmp_path)) as reader:
        rows = grow(journal, 12, dice, turn=2)
        connection = journal._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        waiting = len(journal.tail)
        turn = [post(journal.head + 1 + n, channel=1, text="x" * 900) for n in range(60)]
        with pytest.raises(DiskFull):
            journal.append(turn)
        assert len(journal.tail) == waiting
        require_whole_pages(reader, rows)
        connection.execute("PRAGMA max_page_count = 1000000")
        journal.append(turn)
        assert len(journal.tail) == 0, "the turn was longer than a tail may be"
        require_whole_pages(reader, rows + turn)
        require_whole_index(reader)


def test_what_is_dropped_has_its_lines_first(tmp_path: Path) -> None:
    """Else its lines would be written behind its back, for a row that touches nothing any more."""
    with closing(open_journal(tmp_path)) as journal, closing(JournalReader(tmp_path)) as reader:
        rows = posts(journal.base, 20, channel=1)
        journal.append(rows)
        cut = rows[9].seq
        compacted = JournalCompacted(upto=cut, base_hash="0" * 64, cuts={"messages": cut})
        journal.append([to_row(Recorded(journal.head + 1, AT_MS, "operator", compacted))])
        assert {seq for key, seq in lines_of(tmp_path) if key == COMPACTIONS} == {journal.head}
        more = posts(journal.head, 20, channel=1)
        journal.append(more)
        assert len(journal.tail)
        journal.drop(Rule.of(compacted, frozenset()), journal.base)
        journal.append(posts(journal.head, 60, channel=2))
        assert [row.seq for row in reader.page(["ch/1"], journal.base, journal.head, 99)] == [
            row.seq for row in (*rows[10:], *more)
        ]
        require_whole_index(reader)
