"""What holds for every journal, on disk and in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.journal.conftest import AT_MS, open_journal, post, posts, send

from synapse.core.events import JournalAdopted, Recorded, Row, to_row
from synapse.journal.chain import genesis, link
from synapse.journal.interface import Log, Pages, is_whole
from synapse.journal.memory import MemoryJournal
from synapse.journal.reader import JournalReader


def bare(rows: list[Row]) -> list[Row]:
    """Rows as they are read: without the further index keys."""
    return [row._replace(also=()) for row in rows]


class Contract:
    """The contract. A subclass gives the two sides of one empty journal."""

    log: Log
    pages: Pages

    def test_a_new_journal_has_no_rows_and_a_base_from_the_clock(self) -> None:
        assert self.log.is_new
        assert not self.log.is_read_only
        assert self.log.head == self.log.base == (AT_MS // 1000) << 21
        assert self.log.head < 1 << 53
        assert self.log.head_hash == genesis(self.log.hub_id, self.log.base)
        assert self.pages.tip() == (self.log.base, self.log.head_hash)
        assert self.pages.scan(self.log.base, self.log.base + 10, 10) == []

    def test_appended_rows_are_read_back_and_chained(self) -> None:
        rows = posts(self.log.base, 5)
        self.log.append(rows[:2])
        self.log.append(rows[2:])
        prev = genesis(self.log.hub_id, self.log.base)
        for row in rows:
            prev = link(prev, row)
            assert self.pages.hash_at(row.seq) == prev
        assert (self.log.head, self.log.head_hash) == (rows[-1].seq, prev) == self.pages.tip()
        assert self.pages.scan(self.log.base, self.log.head, 100) == rows
        assert self.pages.row(rows[3].seq) == rows[3]
        assert self.pages.rows(rows[1].seq, rows[3].seq) == rows[1:4]

    def test_what_is_not_there_is_none(self) -> None:
        self.log.append(posts(self.log.base, 1))
        assert self.pages.row(self.log.base) is None
        assert self.pages.row(self.log.head + 1) is None
        assert self.pages.hash_at(self.log.head + 1) is None
        assert self.pages.rows(self.log.head + 1, self.log.head + 9) == []

    def test_nothing_to_append_changes_nothing(self) -> None:
        self.log.append([])
        assert self.log.head == self.log.base

    @pytest.mark.parametrize("gap", [-1, 0, 2])
    def test_rows_that_do_not_follow_are_our_bug_and_change_nothing(self, gap: int) -> None:
        self.log.append(posts(self.log.base, 3))
        head = self.log.head
        with pytest.raises(AssertionError):
            self.log.append([*posts(head, 2), post(head + 2 + gap)])
        assert self.log.head == head == self.pages.tip()[0]
        assert self.pages.scan(head, head + 10, 10) == []

    def test_an_adoption_may_jump_ahead_and_the_rows_go_on_behind_it(self) -> None:
        self.log.append(posts(self.log.base, 2))
        event = JournalAdopted(
            hub_id="c" * 16, journal_id="a" * 16, previous_id="b" * 16, previous_seq=self.log.head, reason="adopt"
        )
        adopted = to_row(Recorded(self.log.head + 1000, AT_MS, "operator", event))
        self.log.append([adopted])
        self.log.append(posts(adopted.seq, 2))
        assert [row.seq - self.log.base for row in self.pages.scan(self.log.base, self.log.head, 9)] == [
            *(1, 2, 1002, 1003, 1004)
        ]
        assert self.pages.scan(self.log.base + 500, self.log.head, 1) == bare([adopted])

    def test_pages_merge_keys_in_order_and_name_each_row_once(self) -> None:
        base = self.log.base
        rows = [
            post(base + 1, channel=1),
            post(base + 2, channel=2, mentions=(9,)),
            send(base + 3, 9, 8),
            post(base + 4, channel=1, mentions=(9, 8)),
            post(base + 5, channel=3),
        ]
        self.log.append(rows)
        assert self.pages.page(["ch/1"], base, base + 5, 10) == bare([rows[0], rows[3]])
        assert self.pages.page(["in/9"], base, base + 5, 10) == bare(rows[1:4])
        assert self.pages.page(["ch/1", "in/9", "in/8"], base, base + 5, 10) == bare(rows[:4])
        assert self.pages.page(["ch/1", "in/9"], base + 1, base + 3, 10) == bare(rows[1:3])
        assert self.pages.page(["ch/1", "in/9"], base, base + 5, 2) == bare(rows[:2])
        assert self.pages.page(["ch/4"], base, base + 5, 2) == []
        assert self.pages.page([], base, base + 5, 2) == []

    def test_pages_backwards_give_the_newest_in_ascending_order(self) -> None:
        base = self.log.base
        rows = [post(base + 1 + n, channel=n % 3, mentions=(9,)) for n in range(60)]
        self.log.append(rows)
        of_two = [row for row in rows if row.key in {"ch/0", "ch/2"}]
        assert self.pages.page_back(["ch/0", "ch/2"], base + 61, 7) == bare(of_two[-7:])
        assert self.pages.page_back(["ch/0", "ch/2", "in/9"], base + 41, 50) == bare(rows[:40])[-50:]
        assert self.pages.page_back(["ch/0"], base + 1, 5) == []

    def test_a_page_longer_than_one_step_of_the_index_is_whole(self) -> None:
        base = self.log.base
        rows = [post(base + 1 + n, channel=n % 2) for n in range(700)]
        self.log.append(rows)
        assert self.pages.page(["ch/0", "ch/1"], base, base + 700, 1000) == bare(rows)
        assert self.pages.page_back(["ch/0", "ch/1"], base + 701, 1000) == bare(rows)

    def test_a_page_ends_with_the_row_that_goes_beyond_its_bytes_and_tells_so(self) -> None:
        base = self.log.base
        rows = bare([post(base + 1 + n, channel=n % 2, text="x" * (10, 2_000, 30)[n % 3]) for n in range(40)])
        self.log.append(rows)
        head, keys = base + 40, ["ch/0", "ch/1"]
        for bytes_max in (0, 2_500, 9_000, 1 << 20):
            found: list[Row] = []
            page = self.pages.page(keys, base, head, 7, bytes_max)
            while not is_whole(page, 7, bytes_max):
                assert len(page) == 7 or sum(len(row.body) for row in page[:-1]) <= bytes_max
                found += page
                page = self.pages.page(keys, page[-1].seq, head, 7, bytes_max)
            assert found + page == rows
            found, page = [], self.pages.page_back(keys, head + 1, 7, bytes_max)
            while not is_whole(page, 7, bytes_max):
                assert len(page) == 7 or sum(len(row.body) for row in page[1:]) <= bytes_max
                found = page + found
                page = self.pages.page_back(keys, page[0].seq, 7, bytes_max)
            assert page + found == rows

    def test_the_reserve_can_be_asked_for_and_the_size_is_told(self) -> None:
        self.log.append(posts(self.log.base, 1))
        self.log.maintain()
        assert self.log.size_bytes() > 0
        assert self.log.try_restore_reserve()


class TestOnDisk(Contract):
    """The journal and its reader."""

    @pytest.fixture(autouse=True)
    def both_sides(self, tmp_path: Path) -> Iterator[None]:
        self.log = open_journal(tmp_path)
        self.pages = JournalReader(tmp_path)
        yield
        self.pages.close()
        self.log.close()


class TestInMemory(Contract):
    """The twin."""

    @pytest.fixture(autouse=True)
    def both_sides(self) -> Iterator[None]:
        self.log = self.pages = MemoryJournal(at_ms=AT_MS)
        yield
        self.log.close()
