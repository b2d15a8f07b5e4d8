"""Snapshots: used when every hash fits, passed over with a reason when not."""

from pathlib import Path

import msgspec
import pytest
from tests.journal.conftest import AT_MS, FOLDING, RESERVE_BYTES, flip, home_with, open_journal, posts, run_python

from synapse.errors import JournalRefused
from synapse.journal.files import Files
from synapse.journal.recovery import recover_with
from synapse.journal.snapshot import read_snapshot, take_snapshot


def grow(home: Path, count: int) -> int:
    journal = open_journal(home)
    journal.append(posts(journal.head, count))
    journal.close()
    return journal.head


def recovered_seqs(home: Path) -> tuple[list[int], int | None, int, list[str]]:
    found = recover_with(home, AT_MS, FOLDING, reserve_bytes=RESERVE_BYTES)
    found.journal.close()
    return found.state.seqs, found.snapshot_seq, found.replayed_events, found.notes


def test_snapshot_and_tail_give_the_same_state_as_a_full_replay(tmp_path: Path) -> None:
    base = home_with(tmp_path, 50)
    full = recovered_seqs(tmp_path)
    assert full == (list(range(base + 1, base + 51)), None, 50, [])
    written = take_snapshot(tmp_path, FOLDING)
    assert written is not None
    head = grow(tmp_path, 7)
    assert recovered_seqs(tmp_path) == (list(range(base + 1, head + 1)), base + 50, 7, [])


def test_a_snapshot_at_the_head_is_not_written_twice(tmp_path: Path) -> None:
    home_with(tmp_path, 3)
    assert take_snapshot(tmp_path, FOLDING) is not None
    assert take_snapshot(tmp_path, FOLDING) is None


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    base = home_with(tmp_path, 3)
    for _ in range(4):
        grow(tmp_path, 1)
        take_snapshot(tmp_path, FOLDING)
    names = sorted(path.name for path in Files(tmp_path).snapshots.iterdir())
    assert names == [f"{base + 6}.snapshot", f"{base + 7}.snapshot"]


def test_what_a_killed_child_left_half_written_goes_with_the_next_one(tmp_path: Path) -> None:
    base = home_with(tmp_path, 3)
    snapshots = Files(tmp_path).snapshots
    snapshots.mkdir()
    for name in (f"{base + 2}.snapshot.new", f"{base + 9}.snapshot.new", "mine.snapshot.new"):
        (snapshots / name).write_bytes(b"half")
    take_snapshot(tmp_path, FOLDING)
    names = sorted(path.name for path in snapshots.iterdir())
    assert names == [f"{base + 3}.snapshot", f"{base + 9}.snapshot.new", "mine.snapshot.new"], (
        "one may be in the making"
    )


def test_no_flipped_bit_in_a_snapshot_is_believed(tmp_path: Path) -> None:
    base = home_with(tmp_path, 5)
    written = take_snapshot(tmp_path, FOLDING)
    assert written is not None
    whole = written.path.read_bytes()
    for offset in range(0, len(whole), 3):
        flip(written.path, offset, 1 << offset % 8)
        with pytest.raises(ValueError, match=r"damaged|cannot be read|format"):
            read_snapshot(written.path)
        written.path.write_bytes(whole)
    flip(written.path, len(whole) - 2)
    seqs, snapshot_seq, replayed, notes = recovered_seqs(tmp_path)
    assert (seqs, snapshot_seq, replayed) == (list(range(base + 1, base + 6)), None, 5)
    assert notes == [f"snapshot {base + 5}.snapshot was not used: its content is damaged"]


def test_a_damaged_newest_snapshot_leaves_the_one_before(tmp_path: Path) -> None:
    base = home_with(tmp_path, 5)
    take_snapshot(tmp_path, FOLDING)
    grow(tmp_path, 5)
    newest = take_snapshot(tmp_path, FOLDING)
    assert newest is not None
    newest.path.write_bytes(newest.path.read_bytes()[:-1])
    assert recovered_seqs(tmp_path)[1:3] == (base + 5, 5)


def test_the_snapshot_of_another_journal_is_not_used(tmp_path: Path) -> None:
    home_with(tmp_path / "a", 5)
    written = take_snapshot(tmp_path / "a", FOLDING)
    assert written is not None
    home_with(tmp_path / "b", 5)
    Files(tmp_path / "b").snapshots.mkdir()
    (Files(tmp_path / "b").snapshots / written.path.name).write_bytes(written.path.read_bytes())
    _, snapshot_seq, _, notes = recovered_seqs(tmp_path / "b")
    assert snapshot_seq is None
    assert "it belongs to journal" in notes[0]


def test_a_snapshot_with_another_chain_hash_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home_with(tmp_path, 5)
    written = take_snapshot(tmp_path, FOLDING)
    assert written is not None
    header, payload = read_snapshot(written.path)
    from synapse.journal import snapshot

    forged = snapshot._sealed(msgspec.structs.replace(header, chain_hash="00" * 32))
    written.path.write_bytes(msgspec.json.encode(forged) + b"\n" + payload)
    _, snapshot_seq, _, notes = recovered_seqs(tmp_path)
    assert snapshot_seq is None
    assert "its chain hash is not the journal's" in notes[0]


def test_a_whole_snapshot_beyond_the_head_proves_that_events_are_missing(tmp_path: Path) -> None:
    home_with(tmp_path, 5)
    files = Files(tmp_path)
    old = files.database.read_bytes(), files.mark.read_bytes()
    head = grow(tmp_path, 5)
    take_snapshot(tmp_path, FOLDING)
    files.database.write_bytes(old[0])
    files.mark.write_bytes(old[1])
    with pytest.raises(JournalRefused, match=f"was made from events up to {head}"):
        recovered_seqs(tmp_path)


def test_the_child_says_what_it_wrote_in_one_line_beside_a_running_hub(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    child = run_python(f"import sys; from synapse.journal.snapshot import main; sys.exit(main([{str(tmp_path)!r}]))")
    facts = msgspec.json.decode(child.stdout)
    assert (facts["written"], facts["seq"]) == (True, journal.base)
    assert child.returncode == 0
    journal.append(posts(journal.head, 1))
    journal.close()


def test_the_child_refuses_a_home_without_a_journal_with_its_exit_code(tmp_path: Path) -> None:
    child = run_python(f"import sys; from synapse.journal.snapshot import main; sys.exit(main([{str(tmp_path)!r}]))")
    assert child.returncode == 78
    assert child.stderr.count("\n") == 1
