"""The index lines of leases: few, late, and yet every page is whole."""

import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from tests.journal.conftest import AT_MS, open_journal, post

from synapse.core.events import (
    LEASES,
    Ask,
    JournalAdopted,
    LeaseGranted,
    LeaseReleased,
    MessagesAcked,
    Recorded,
    Row,
    keys_of,
    to_row,
)
from synapse.journal import store, tasks
from synapse.journal.files import Files
from synapse.journal.proof import Checked, check_index
from synapse.journal.reader import JournalReader
from synapse.journal.store import Journal
from synapse.journal.upcast import decode

BLOCK = 16
PER_INDEXING = 40
TASKS = ("T1", "T2", "T3", "T-1")
KEYS = (*(f"ta/7/{task}" for task in TASKS), LEASES)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "BLOCK", BLOCK)
    monkeypatch.setattr(store, "EVENTS_PER_INDEXING", PER_INDEXING)


def event_at(seq: int, dice: random.Random) -> Row:
    """A message, a grant or a release; the last task is rare."""
    task = dice.choices(TASKS, (9, 5, 2, 0.4))[0]
    if dice.random() < 0.3:
        return post(seq, channel=dice.randrange(3))
    if dice.random() < 0.5:
        ask = Ask(room=7, room_name="main", task=task, agent=5, owner="ada")
        return to_row(Recorded(seq, AT_MS, "ada", LeaseGranted(ask=ask, ttl_ms=1)))
    event = LeaseReleased(room=7, room_name="main", task=task, owner="ada", epoch=1)
    return to_row(Recorded(seq, AT_MS, "ada", event))


def grow(journal: Journal, count: int, dice: random.Random) -> list[Row]:
    """Append so many events in turns of some, with maintenance now and then."""
    added: list[Row] = []
    while len(added) < count:
        turn = [event_at(journal.head + 1 + n, dice) for n in range(min(dice.randint(1, 30), count - len(added)))]
        journal.append(turn)
        added += turn
        if dice.random() < 0.5:
            journal.maintain()
    return added


def lines_of(home: Path) -> list[tuple[str, int]]:
    """The lines of leases in the index."""
    with sqlite3.connect(Files(home).database) as connection:
        found = connection.execute("SELECT key, seq FROM touches").fetchall()
    connection.close()
    return [(key, seq) for key, seq in found if tasks.is_task_key(key)]


def change(home: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(Files(home).database) as connection:
        connection.execute(statement, values)
    connection.close()


def touching(rows: Sequence[Row], keys: Sequence[str]) -> list[int]:
    return [row.seq for row in rows if not set(keys).isdisjoint(keys_of(row.seq, decode(row)))]


def require_whole_pages(reader: JournalReader, rows: Sequence[Row], dice: random.Random) -> None:
    """Pages of the index are what a search through all rows finds."""
    first, last = rows[0].seq, rows[-1].seq
    for _ in range(150):
        keys = dice.sample((*KEYS, "ch/1"), dice.randint(1, 3))
        limit = dice.choice((1, 2, 20, 1000))
        after, upto = dice.randint(first - 3, last), dice.randint(first, last + 3)
        wanted = touching([row for row in rows if after < row.seq <= upto], keys)
        assert [row.seq for row in reader.page(keys, after, upto, limit)] == wanted[:limit]
        wanted = touching([row for row in rows if row.seq < upto], keys)
        assert [row.seq for row in reader.page_back(keys, upto, limit)] == wanted[-limit:]


@pytest.fixture
def proved(tmp_path: Path) -> Iterator[tuple[Journal, JournalReader]]:
    journal = open_journal(tmp_path)
    reader = JournalReader(tmp_path)
    yield journal, reader
    reader.close()
    journal.close()


def check(reader: JournalReader) -> Checked:
    checked = check_index(reader, reader.tip()[0])
    assert checked is not None
    return checked


@pytest.mark.parametrize("seed", range(4))
def test_pages_are_whole_whatever_has_its_lines_already(seed: int, proved: tuple[Journal, JournalReader]) -> None:
    journal, reader = proved
    dice = random.Random(seed)
    rows = grow(journal, dice.randint(100, 400), dice)
    assert reader.tasks_indexed() > journal.base, "some lines are there, and some are not yet"
    assert reader.tasks_indexed() < journal.head
    require_whole_pages(reader, rows, dice)
    assert check(reader).index_is_whole


def test_a_task_has_one_line_in_a_block(proved: tuple[Journal, JournalReader], tmp_path: Path) -> None:
    journal, reader = proved
    rows = grow(journal, 400, random.Random(1))
    first: dict[tuple[str, int], int] = {}
    for row in rows:
        for key in keys_of(row.seq, decode(row)):
            if tasks.is_task_key(key) and row.seq <= reader.tasks_indexed():
                first.setdefault((key, row.seq // BLOCK), row.seq)
    assert sorted(lines_of(tmp_path)) == sorted((key, seq) for (key, _), seq in first.items())
    assert (reader.tasks_indexed() + 1) % BLOCK == 0, "only blocks that are complete have lines"


@pytest.mark.parametrize("seed", range(3))
def test_a_journal_with_a_line_for_each_event_is_read_and_proved_alike(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "EVENTS_PER_INDEXING", 1 << 30)
        journal = open_journal(tmp_path)
        rows = grow(journal, 150, dice)
        journal.close()
    indexed = rows[dice.randrange(60, 140)].seq
    for row in rows:
        if row.seq <= indexed:
            for key in keys_of(row.seq, decode(row)):
                change(tmp_path, "INSERT OR IGNORE INTO touches VALUES (?, ?)", key, row.seq)
    change(tmp_path, "INSERT INTO meta VALUES ('tasks_indexed', ?)", str(indexed))
    journal = open_journal(tmp_path)
    reader = JournalReader(tmp_path)
    require_whole_pages(reader, rows, dice)
    assert check(reader).index_is_whole
    rows += grow(journal, 150, dice)
    assert reader.tasks_indexed() > indexed
    require_whole_pages(reader, rows, dice)
    assert check(reader).index_is_whole
    reader.close()
    journal.close()


@pytest.mark.parametrize("key", [KEYS[0], LEASES])
@pytest.mark.parametrize("what", ["missing", "later", "earlier"])
def test_a_line_that_is_not_as_the_rows_say_is_found(what: str, key: str, tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    grow(journal, 300, random.Random(2))
    journal.close()
    at = next(seq for other, seq in lines_of(tmp_path) if other == key and seq % BLOCK > 1)
    if what == "missing":
        change(tmp_path, "DELETE FROM touches WHERE key = ? AND seq = ?", key, at)
    else:
        by = 1 if what == "later" else -1
        change(tmp_path, "UPDATE touches SET seq = seq + ? WHERE key = ? AND seq = ?", by, key, at)
    reader = JournalReader(tmp_path)
    assert not check(reader).index_is_whole
    reader.close()


def test_blocks_without_leases_and_holes_between_events_cost_nothing(proved: tuple[Journal, JournalReader]) -> None:
    journal, reader = proved
    dice = random.Random(3)
    rows = grow(journal, 60, dice)
    seq = journal.head + (86_400 << 21)  # a day later
    event = JournalAdopted(hub_id="0", journal_id="1", previous_id="2", previous_seq=journal.head, reason="adopt")
    adopted = to_row(Recorded(seq, AT_MS, "hub", event))
    journal.append([adopted])
    rows += [adopted, *grow(journal, 120, dice)]
    assert reader.tasks_indexed() > seq
    require_whole_pages(reader, rows, dice)
    assert check(reader).index_is_whole


def test_there_are_no_lines_of_agents_and_those_of_earlier_releases_are_passed_over(tmp_path: Path) -> None:
    with closing(open_journal(tmp_path)) as journal:
        first = journal.head + 1
        acked = MessagesAcked(agent=5, messages=(1,), senders=(6,), lends=(1,))
        rows = [post(first), to_row(Recorded(first + 1, AT_MS, "ada", acked))]
        journal.append(rows)
    with sqlite3.connect(Files(tmp_path).database) as connection:
        found = {key for (key,) in connection.execute("SELECT key FROM touches WHERE seq >= ?", (first,))}
        assert found == {rows[0].key, "re/6"}
        reader = JournalReader(tmp_path)
        assert check_index(reader, first + 1) == Checked(reader_events(reader), first + 1, True)
        connection.execute("INSERT INTO touches (key, seq) VALUES ('ag/5', ?)", (first + 1,))
        connection.commit()
        assert check_index(reader, first + 1) == Checked(reader_events(reader), first + 1, True)
        connection.execute("DELETE FROM touches WHERE key = 're/6'")
        connection.commit()
        proof = check_index(reader, first + 1)
        assert proof is not None
        assert not proof.index_is_whole
        reader.close()
    connection.close()


def reader_events(reader: JournalReader) -> int:
    return reader.tip()[0] - reader.identity.base
