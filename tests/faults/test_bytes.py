"""Sweeps over the bytes of a home: flipped bits, blank sectors, every length of the WAL, older files put back.

Each case is one start in this process on a home with a known past (world.py), and must end as the rules say: started
with exactly what was acknowledged, or refused with a documented line and no byte changed. `make test` takes samples
with a fixed seed, `make prove` many more, and `FAULTS_FULL=1 make prove ARGS='"storage faults"'` every bit and every
length (about an hour). `FAULTS_SEED` picks another sample.
"""

import os
import random
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Final

import pytest
from tests.faults.lives import IS_FULL, RESERVE_BYTES, SEED
from tests.faults.world import (
    AT_MS,
    CLEAN,
    LATER,
    OLDER,
    REFUSED,
    WRONG,
    Copy,
    Past,
    Tally,
    Verdict,
    judge,
    lay_out,
)
from tests.figures import tell

from synapse.core.state import encode_state
from synapse.errors import JournalError
from synapse.journal.recovery import recover

pytestmark = pytest.mark.xdist_group("faults-bytes")  # one worker makes the past

DATABASE, WAL, SHM, MARK = "journal.db", "journal.db-wal", "journal.db-shm", "journal.mark"
SECTOR: Final = 512
PAGE: Final = 4096
WAL_HEADER: Final = 32
FRAME: Final = 24 + PAGE
FLIPS_MIN: Final = 200
"""Of each kind of file, in `make prove`."""


@pytest.fixture
def home(directory: Path) -> Path:
    return directory / "home"


def sample(cases: Iterable[int], count: int, seed: int = SEED) -> list[int]:
    """`count` of the cases, or all of them."""
    every = list(cases)
    return every if IS_FULL or count >= len(every) else sorted(random.Random(seed).sample(every, count))


def without_snapshots(copy: Copy) -> dict[str, bytes]:
    """The files of a home that never took a snapshot: a start folds every event."""
    return {name: data for name, data in copy.items() if not name.startswith("snapshots/")}


def flipped(data: bytes, bit: int) -> bytes:
    """The bytes with one bit changed."""
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def is_whole(verdict: Verdict, head: int) -> bool:
    """True when exactly the log up to `head` came back."""
    return verdict.kind in (CLEAN, OLDER) and verdict.head == head


# flipped bits, blank sectors


ALLOWED: Final[Mapping[str, frozenset[str]]] = {
    DATABASE: frozenset({CLEAN, REFUSED, LATER}),
    WAL: frozenset({CLEAN, REFUSED}),
    SHM: frozenset({CLEAN}),
    MARK: frozenset({REFUSED}),
    "snapshots": frozenset({CLEAN}),
}
"""What a damaged file may lead to. CLEAN here: the whole log of that copy. LATER: the start reads neither what a
snapshot covers nor the index; the check in the background ends the hub, and no page was wrong before."""


def damage(
    past: Past, home: Path, counts: Mapping[str, int], break_it: Callable[[bytes, int], bytes], unit: int
) -> Tally:
    """Break each file of each copy, with its snapshots and without, at `counts` places of `unit` bits."""
    tally = Tally()
    for (head, whole), has_snapshots in product(past.copies.items(), (True, False)):
        copy = whole if has_snapshots else without_snapshots(whole)
        for name, data in copy.items():
            kind = name.split("/")[0]
            for place in sample(range(0, len(data) * 8, unit), counts[kind], SEED + head % 1000):
                lay_out(home, {**copy, name: break_it(data, place)})
                verdict = judge(home, past)
                if is_whole(verdict, head):
                    verdict.kind = CLEAN
                tally.files[kind] += 1
                tally.add(f"{name}+{place} of the home at {head}", verdict, ALLOWED[kind])
    return tally


def damage_heads_of_pages(past: Past, home: Path, count: int) -> Tally:
    """Flip bits in the heads of the database's pages with the lists of their cells, and in the cells of inner pages:
    what leads SQLite astray, so that rows or lines of the index are passed over without a word."""
    tally = Tally()
    for head, whole in past.copies.items():
        copy = without_snapshots(whole)
        data = copy[DATABASE]
        pages = range(PAGE, len(data), PAGE)
        heads = [bit for at in pages for bit in range(at * 8, (at + 64) * 8)]
        inner = [bit for at in pages if data[at] in (2, 5) for bit in range((at + PAGE - 64) * 8, (at + PAGE) * 8)]
        seed = SEED + head % 1000
        for bit in (*sample(heads, count, seed), *sample(inner, count, seed)):
            lay_out(home, {**copy, DATABASE: flipped(data, bit)})
            verdict = judge(home, past)
            if is_whole(verdict, head):
                verdict.kind = CLEAN
            tally.add(f"bit {bit} of the database of the home at {head}", verdict, ALLOWED[DATABASE])
    return tally


def blank(data: bytes, bit: int) -> bytes:
    """The bytes with one sector of zeros, as a disk answers that lost it."""
    at = bit // 8
    return data[:at] + bytes(min(SECTOR, len(data) - at)) + data[at + SECTOR :]


def test_a_flipped_bit_is_refused_or_changes_nothing(past: Past, home: Path) -> None:
    counts = {DATABASE: 25, WAL: 15, SHM: 2, MARK: 10, "snapshots": 8}
    check("bits flipped", damage(past, home, counts, flipped, 1), least=200)


def test_a_flipped_bit_in_the_head_of_a_page_lets_nothing_be_passed_over(past: Past, home: Path) -> None:
    check("bits flipped in heads of pages", damage_heads_of_pages(past, home, 25), least=150)


def test_a_blank_sector_is_refused_or_changes_nothing(past: Past, home: Path) -> None:
    counts = {DATABASE: 8, WAL: 4, SHM: 1, MARK: 0, "snapshots": 2}
    check("sectors blanked", damage(past, home, counts, blank, SECTOR * 8), least=50)


def check(what: str, tally: Tally, *, least: int) -> None:
    """Tell a sweep's figures, and require that no case ended in any other way than the rules allow."""
    print(f"{what}: {tally}")
    tell("storage faults", f"{what}: cases", tally.cases, bound=f">= {least}", is_kept=tally.cases >= least, seed=SEED)
    wrong = len(tally.wrong)
    tell("storage faults", f"{what}: wrong answers or silent losses", wrong, bound="= 0", is_kept=not wrong, seed=SEED)
    assert tally.wrong == []
    assert tally.cases >= least
    assert tally.kinds[REFUSED], "nothing was refused: nothing was broken"


# every length of the WAL


def commits_in(wal: bytes) -> list[int]:
    """The lengths of a WAL at which each of its transactions is whole, read from the format itself."""
    salt, ends = wal[16:24], []
    for at in range(WAL_HEADER, len(wal) - FRAME + 1, FRAME):
        _, pages = struct.unpack(">II", wal[at : at + 8])
        if wal[at + 8 : at + 16] != salt:
            break  # what an earlier, longer WAL left behind
        if pages:
            ends.append(at + FRAME)
    return ends


def heads_after_cuts(past: Past, copy: Copy) -> dict[int, int]:
    """By the length at which each transaction is whole: the head then. The load's commits have one event each."""
    ends = commits_in(copy[WAL])
    return {end: past.head - behind for behind, end in enumerate(reversed(ends))}


def cut_everywhere(past: Past, home: Path, lengths: Iterable[int]) -> Tally:
    """Cut the WAL of the last killed hub at each length, under the newest mark and under older ones."""
    copy = without_snapshots(past.copies[past.head])
    heads = heads_after_cuts(past, copy)
    one_by_one = min(list(heads)[-18:])  # from here on each commit is one event
    tally = Tally()
    for number, length in enumerate(lengths):
        there = max((head for end, head in heads.items() if end <= length), default=0)
        for mark in {past.head, max(there, past.head - 17), max(past.head - number % 18, past.base)}:
            lay_out(home, {**copy, WAL: copy[WAL][:length], MARK: past.mark(mark)})
            verdict = judge(home, past)
            case = f"WAL of {length} bytes under a mark at {mark}"
            if there < mark or length < one_by_one:
                tally.add(case, verdict, {REFUSED})
            else:
                right = is_whole(verdict, there)
                tally.add(case, verdict if right else Verdict(WRONG, f"not {there}: {verdict}"), {CLEAN, OLDER})
    return tally


def cut_shorter_and_shorter(past: Past, home: Path, lengths: Iterable[int]) -> Tally:
    """Cut the WAL of the last killed hub at each length, the longest first, under the newest mark.

    A refused start changes no byte, so one home is cut again and again. Each line of a refusal is judged when it comes
    first; what the files hold is compared at each boundary of a commit, and in the end.
    """
    copy = without_snapshots(past.copies[past.head])
    ends = set(commits_in(copy[WAL]))
    by_size = sorted(lengths, reverse=True)
    tally = Tally()
    for length in (length for length in by_size if length >= max(ends)):
        lay_out(home, {**copy, WAL: copy[WAL][:length]})
        line = start_of(home, past)
        tally.add(f"WAL of {length} bytes", Verdict(WRONG if line else CLEAN, line, past.head), {CLEAN})
    lay_out(home, copy)
    known: dict[str, Verdict] = {}
    for length in (length for length in by_size if length < max(ends)):
        os.truncate(home / WAL, length)
        line = start_of(home, past)
        if line not in known or length in ends:
            known[line] = judge(home, past)
            files = {name: (home / name).read_bytes() for name in (DATABASE, WAL, MARK)}
            if files != {DATABASE: copy[DATABASE], WAL: copy[WAL][:length], MARK: copy[MARK]}:
                known[line] = Verdict(WRONG, "a refused start changed a file")
        tally.add(f"WAL of {length} bytes", known[line], {REFUSED})
    return tally


def start_of(home: Path, past: Past) -> str:
    """The line of a refused start; nothing when it started, with the state after the head of that past."""
    try:
        found = recover(home, AT_MS, reserve_bytes=RESERVE_BYTES)
    except JournalError as error:
        return str(error)
    with closing(found.journal):
        assert found.journal.head == past.head
        assert encode_state(found.state) == past.states[past.head]
    return ""


def interesting_lengths(past: Past) -> list[int]:
    """Each boundary of a frame, of its header and of its first sector, with a byte less and more; and one window."""
    size = len(past.copies[past.head][WAL])
    near = (-1, 0, 1, 8, 23, 24, 25, SECTOR)
    found = {frame + step for frame in range(WAL_HEADER, size + 1, FRAME) for step in near}
    found |= set(range(WAL_HEADER + 1)) | set(range(size - 2 * FRAME, size + 1))
    return sorted(length for length in found if 0 <= length <= size)


def test_each_length_of_the_wal_is_refused_or_a_start_at_its_last_whole_commit(past: Past, home: Path) -> None:
    check("WAL cut", cut_everywhere(past, home, sample(interesting_lengths(past), 80)), least=150)


def test_a_wal_that_is_cut_shorter_and_shorter_is_refused_from_its_last_commit_on(past: Past, home: Path) -> None:
    size = len(past.copies[past.head][WAL])
    lengths = {
        *range(0, size + 1, 900),
        *(end + step for end in commits_in(past.copies[past.head][WAL]) for step in (-1, 0)),
    }
    check("WAL cut shorter", cut_shorter_and_shorter(past, home, lengths), least=100)


# older files put back


def older_files(past: Past) -> Iterator[tuple[int, int | None, int | None, int, dict[str, bytes]]]:
    """Every mixture of the database, WAL, mark and snapshots of the home's five lives. Heads, then the files."""
    heads = sorted(past.copies)
    for database, wal, mark, snapshots in product(heads, [*heads, None], [*heads, None], heads):
        files = {DATABASE: past.copies[database][DATABASE]}
        files |= {} if wal is None else {WAL: past.copies[wal][WAL]}
        files |= {} if mark is None else {MARK: past.copies[mark][MARK]}
        taken = past.copies[snapshots]
        yield database, wal, mark, snapshots, files | {name: taken[name] for name in taken if name.startswith("snap")}


def put_back(past: Past, home: Path, count: int) -> Tally:
    """Start on mixtures. A head below the mark or a snapshot must be refused; only a mark that is older itself admits
    an older log, and then it is whole up to its end."""
    cases = list(older_files(past))
    tally = Tally()
    for number in sample(range(len(cases)), count):
        database, wal, mark, snapshots, files = cases[number]
        lay_out(home, files)
        verdict = judge(home, past)
        newest = max(int(name.split("/")[1].split(".")[0]) for name in files if name.startswith("snap"))
        known = max(mark or 0, newest)
        case = f"database of {database}, WAL of {wal}, mark of {mark}, snapshots of {snapshots}"
        expected = {REFUSED, LATER}
        if mark is not None:
            expected |= {CLEAN} if known == past.head else {CLEAN, OLDER} if verdict.head >= known else set()
        if database == wal == mark == snapshots:
            expected = {CLEAN, OLDER}
        tally.add(case, verdict, expected)
    return tally


def test_older_files_put_back_are_refused_unless_the_mark_is_older_too(past: Past, home: Path) -> None:
    check("older files put back", put_back(past, home, 200), least=200)


# the long versions


@pytest.mark.prove
def test_many_flipped_bits(past: Past, home: Path) -> None:
    counts = {DATABASE: 100, WAL: 60, SHM: 4, MARK: 64, "snapshots": 30}
    tally = damage(past, home, counts, flipped, 1)
    for file in (DATABASE, WAL, MARK, "snapshots"):
        places, is_enough = tally.files[file], tally.files[file] >= FLIPS_MIN
        row = f"bits flipped: of these in {file}"
        tell("storage faults", row, places, bound=f">= {FLIPS_MIN}", is_kept=is_enough, seed=SEED)
        assert is_enough
    check("bits flipped", tally, least=2000)


@pytest.mark.prove
def test_many_flipped_bits_in_heads_of_pages(past: Past, home: Path) -> None:
    check("bits flipped in heads of pages", damage_heads_of_pages(past, home, 200), least=1000)


@pytest.mark.prove
def test_every_sector_blank(past: Past, home: Path) -> None:
    counts = {DATABASE: PAGE, WAL: 60, SHM: 4, MARK: 1, "snapshots": 20}
    check("sectors blanked", damage(past, home, counts, blank, SECTOR * 8), least=1000)


@pytest.mark.prove
def test_every_length_of_the_wal_under_the_newest_mark(past: Past, home: Path) -> None:
    size = len(past.copies[past.head][WAL])
    check("WAL cut at every length", cut_shorter_and_shorter(past, home, range(size + 1)), least=size)


@pytest.mark.prove
def test_many_lengths_of_the_wal_under_older_marks(past: Past, home: Path) -> None:
    size = len(past.copies[past.head][WAL])
    lengths = range(size + 1) if IS_FULL else sample(interesting_lengths(past), 400)
    check("WAL cut", cut_everywhere(past, home, lengths), least=800)


@pytest.mark.prove
def test_every_mixture_of_older_files(past: Past, home: Path) -> None:
    check("older files put back", put_back(past, home, 10_000), least=800)


# is the judge any good?


def test_the_judge_tells_a_lost_event_a_changed_state_and_an_unknown_line(
    past: Past, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(home, past.copies[past.head])
    assert judge(home, past).kind == CLEAN
    lay_out(home, past.copies[past.head])
    longer = Past(
        past.hub_id, past.journal_id, past.base, [*past.rows[:-1], past.rows[0]], past.hashes, past.states, {}
    )
    assert judge(home, longer).kind == WRONG
    lay_out(home, past.copies[past.head])
    states = {**past.states, past.head: b"{}"}
    assert judge(home, Past(past.hub_id, past.journal_id, past.base, past.rows, past.hashes, states, {})).kind == WRONG
    lay_out(home, past.copies[past.head])
    (home / MARK).unlink()
    assert judge(home, past).kind == REFUSED
    monkeypatch.setattr("tests.faults.table.promises", list)
    assert judge(home, past).kind == WRONG


def test_commits_are_found_in_the_wal_without_sqlite(past: Past) -> None:
    heads = heads_after_cuts(past, past.copies[past.head])
    assert heads[max(heads)] == past.head
    assert len(heads) >= 19
