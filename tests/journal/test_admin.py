"""The operator's verbs."""

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.journal.conftest import (
    AT_MS,
    FOLDING,
    home_with,
    journal_bytes,
    killed_home_with,
    open_journal,
    posts,
    run_python,
)

from synapse.core.events import JournalAdopted
from synapse.errors import JournalLocked, JournalRefused, StoreFailed
from synapse.journal import admin
from synapse.journal.admin import FileUnusable, adopt, backup, restore, verify
from synapse.journal.chain import genesis
from synapse.journal.create import base_at
from synapse.journal.files import Files
from synapse.journal.mark import Mark, encode_mark
from synapse.journal.reader import JournalReader
from synapse.journal.snapshot import take_snapshot
from synapse.journal.upcast import decode

LATER_MS = AT_MS + 60_000


def change_actor(home: Path, seq: int) -> None:
    connection = sqlite3.connect(Files(home).database)
    connection.execute("UPDATE events SET actor = 'eve' WHERE seq = ?", (seq,))
    connection.commit()
    connection.close()


def test_a_whole_journal_is_said_to_be_whole(tmp_path: Path) -> None:
    base = home_with(tmp_path, 30)
    report = verify(tmp_path)
    assert report.is_whole
    assert (report.first_seq, report.head, report.events, report.mark_seq) == (base + 1, base + 30, 30, base + 30)


def test_verify_names_the_first_broken_event_and_changes_nothing(tmp_path: Path) -> None:
    base = home_with(tmp_path, 2000)
    change_actor(tmp_path, base + 1500)
    before = journal_bytes(tmp_path)
    report = verify(tmp_path)
    assert (report.broken_seq, report.head, report.events) == (base + 1500, base + 1499, 1499)
    assert report.finding is not None
    assert f"event {base + 1500} does not follow" in report.finding
    assert journal_bytes(tmp_path) == before


def test_verify_tells_a_cut_wal_and_how_much_is_whole(tmp_path: Path) -> None:
    base = killed_home_with(tmp_path, 9)
    wal = Files(tmp_path).wal
    os.truncate(wal, wal.stat().st_size - 10)
    report = verify(tmp_path)
    assert report.finding is not None
    assert "were acknowledged" in report.finding
    assert (report.head, report.mark_seq, report.broken_seq) == (base + 8, base + 9, None)


def test_verify_finds_a_broken_index(tmp_path: Path) -> None:
    home_with(tmp_path, 9)
    connection = sqlite3.connect(Files(tmp_path).database)
    connection.execute("DELETE FROM touches")
    connection.commit()
    connection.close()
    report = verify(tmp_path)
    assert report.finding is not None
    assert "the index does not fit the events" in report.finding
    adopt(tmp_path, LATER_MS)
    assert verify(tmp_path).is_whole


def test_a_backup_is_one_whole_file_taken_beside_a_running_hub(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "home")
    journal.append(posts(journal.base, 10))
    script = (
        "from pathlib import Path; from synapse.journal.admin import backup\n"
        f"print(backup(Path({str(tmp_path / 'home')!r}), Path({str(tmp_path / 'b.db')!r})).head)"
    )
    child = run_python(script)
    assert child.stdout == f"{journal.head}\n", child.stderr
    journal.append(posts(journal.head, 10))
    journal.close()
    assert (tmp_path / "b.db").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.db", "home"]
    reader = JournalReader.of_file(tmp_path / "b.db")
    assert reader.tip()[0] == journal.base + 10
    reader.close()


def test_a_backup_never_replaces_a_file(tmp_path: Path) -> None:
    home_with(tmp_path / "home", 3)
    (tmp_path / "b.db").write_text("precious")
    with pytest.raises(FileUnusable, match="exists already"):
        backup(tmp_path / "home", tmp_path / "b.db")
    assert (tmp_path / "b.db").read_text() == "precious"
    with pytest.raises(FileUnusable, match="too long; it was not written"):
        backup(tmp_path / "home", tmp_path / ("x" * 300))


def test_a_broken_journal_gives_no_backup(tmp_path: Path) -> None:
    base = home_with(tmp_path / "home", 30)
    change_actor(tmp_path / "home", base + 3)
    with pytest.raises(JournalRefused, match="journal_broken"):
        backup(tmp_path / "home", tmp_path / "b.db")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_restore_takes_a_new_id_and_a_seq_above_everything_known(tmp_path: Path) -> None:
    home = tmp_path / "home"
    base = home_with(home, 10)
    old = verify(home)
    backup(home, tmp_path / "b.db")
    journal = open_journal(home)
    journal.append(posts(journal.head, 10))
    journal.close()
    take_snapshot(home, FOLDING)
    before = journal_bytes(home)
    report = restore(home, tmp_path / "b.db", LATER_MS)
    assert report.head == base_at(LATER_MS) + 1 > base + 20
    assert (report.events, report.dropped) == (11, 10)
    assert report.journal_id != old.journal_id == report.previous_id
    assert report.aside is not None
    assert journal_bytes(report.aside)["journal.db"] == before["journal.db"]
    assert (report.aside / "journal.mark").read_bytes() == before["journal.mark"]
    assert len(list((report.aside / "snapshots").iterdir())) == 1
    again = open_journal(home)
    assert (again.hub_id, again.journal_id, again.head) == (old.hub_id, report.journal_id, report.head)
    reader = JournalReader(home)
    row = reader.row(report.head)
    assert row is not None
    assert decode(row) == JournalAdopted(
        hub_id=old.hub_id,
        journal_id=report.journal_id,
        previous_id=old.journal_id,
        previous_seq=base + 10,
        reason="restore",
        dropped=10,
    )
    assert len(reader.page(["ch/7"], base, report.head, 100)) == 10
    reader.close()
    again.append(posts(again.head, 3))
    again.close()
    assert verify(home).is_whole


def test_a_restore_says_how_many_events_of_before_are_not_in_it(tmp_path: Path) -> None:
    """It said 0 for whatever came after the backup."""
    home, saved = tmp_path / "home", tmp_path / "b.db"
    home_with(home, 10)
    backup(home, saved)

    def grown(count: int) -> None:
        journal = open_journal(home)
        journal.append(posts(journal.head, count))
        journal.close()

    assert restore(home, saved, LATER_MS).dropped == 0
    grown(4)
    assert restore(home, saved, LATER_MS).dropped == 5, "the four, and that the restore of before was done"
    grown(2)
    Files(home).database.unlink()
    assert restore(home, saved, LATER_MS).dropped == 0, "a mark of another journal counts nothing"
    backup(home, tmp_path / "later.db")
    grown(3)
    for path in (Files(home).database, Files(home).wal):
        path.unlink(missing_ok=True)
    assert restore(home, tmp_path / "later.db", LATER_MS).dropped == 3, "as its mark says"
    home_with(tmp_path / "other", 6)
    assert restore(tmp_path / "other", saved, LATER_MS).dropped == 0, "another journal is whole in what was put aside"


def test_a_restore_at_an_earlier_clock_still_goes_above_the_old_head(tmp_path: Path) -> None:
    base = home_with(tmp_path / "home", 10)
    backup(tmp_path / "home", tmp_path / "b.db")
    report = restore(tmp_path / "home", tmp_path / "b.db", 0)
    assert report.head == base + 11


def test_a_restore_into_an_empty_home_and_over_a_damaged_one(tmp_path: Path) -> None:
    home_with(tmp_path / "home", 10)
    backup(tmp_path / "home", tmp_path / "b.db")
    assert restore(tmp_path / "new", tmp_path / "b.db", LATER_MS).aside is None
    assert verify(tmp_path / "new").is_whole
    Files(tmp_path / "home").database.write_bytes(b"garbage" * 1000)
    report = restore(tmp_path / "home", tmp_path / "b.db", LATER_MS)
    assert report.aside is not None
    assert (report.aside / "journal.db").read_bytes() == b"garbage" * 1000
    open_journal(tmp_path / "home").close()


def test_what_a_restore_replaces_goes_where_the_names_are_durable_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen by cutting the power: else the old journal could be gone together with the directory it was moved into."""
    home = tmp_path / "home"
    home_with(home, 3)
    backup(home, tmp_path / "b.db")
    synced: list[tuple[Path, bool]] = []

    def note(path: Path) -> None:
        synced.append((path, (home / "journal.db").exists()))

    monkeypatch.setattr(admin, "sync_directory", note)
    aside = restore(home, tmp_path / "b.db", LATER_MS).aside
    assert aside is not None
    assert {(aside, True), (aside.parent, True), (home, True)} <= set(synced)
    after = [path for path, is_in_place in synced if not is_in_place]
    assert after[:2] == [aside, home]


def test_a_broken_backup_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    base = home_with(tmp_path / "home", 10)
    home_with(tmp_path / "other", 20)
    change_actor(tmp_path / "other", verify(tmp_path / "other").first_seq + 4)
    before = journal_bytes(tmp_path / "home")
    with pytest.raises(JournalRefused, match="journal_broken"):
        restore(tmp_path / "home", Files(tmp_path / "other").database, LATER_MS)
    assert journal_bytes(tmp_path / "home") == before
    assert verify(tmp_path / "home").head == base + 10


def test_a_broken_backup_is_not_cured_by_a_verb_on_the_directory_it_lies_in(tmp_path: Path) -> None:
    home_with(tmp_path / "home", 10)
    kept = tmp_path / "kept"
    kept.mkdir()
    bad = kept / "journal.db"  # the name that the journal of a home has
    backup(tmp_path / "home", bad)
    connection = sqlite3.connect(bad)
    connection.execute("UPDATE events SET actor = 'eve'")
    connection.commit()
    connection.close()
    (kept / "empty.db").touch()
    (kept / "text.db").write_text("no database at all")
    for name in ("journal.db", "empty.db", "text.db"):
        with pytest.raises(JournalRefused, match="take another backup") as caught:
            restore(tmp_path / "home", kept / name, LATER_MS)
        assert "--home" not in str(caught.value)


def test_a_backup_of_a_broken_home_names_the_home_and_its_cure(tmp_path: Path) -> None:
    base = home_with(tmp_path / "home", 10)
    change_actor(tmp_path / "home", base + 5)
    with pytest.raises(JournalRefused) as caught:
        backup(tmp_path / "home", tmp_path / "backup.db")
    assert caught.value.seq == base + 5
    assert str(caught.value).startswith(f"{tmp_path / 'home' / 'journal.db'}: journal_broken:")
    assert f"`synapse journal adopt --home {tmp_path / 'home'} --drop`" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_copy_that_broke_on_its_way_is_not_called_the_homes_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = home_with(tmp_path / "home", 10)
    copy = admin._copy_with_base

    def copy_badly(reader: JournalReader, partial: Path) -> None:
        copy(reader, partial)
        connection = sqlite3.connect(partial)
        connection.execute("UPDATE events SET actor = 'eve' WHERE seq = ?", (base + 5,))
        connection.commit()
        connection.close()

    monkeypatch.setattr(admin, "_copy_with_base", copy_badly)
    with pytest.raises(JournalRefused, match="take another backup") as caught:
        backup(tmp_path / "home", tmp_path / "backup.db")
    assert str(caught.value).startswith(f"{tmp_path / 'backup.db.new'}: ")


def test_a_directory_without_a_journal_is_not_sent_to_adopt_and_stays_as_it_is(tmp_path: Path) -> None:
    for verb in (verify, lambda home: adopt(home, LATER_MS, drop=True)):
        with pytest.raises(JournalRefused, match="there is no such file; name the home of a journal") as caught:
            verb(tmp_path)
        assert "adopt" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    home_with(tmp_path / "home", 3)
    Files(tmp_path / "home").database.unlink()
    with pytest.raises(JournalRefused, match="shows that a journal lived here; `synapse journal restore"):
        verify(tmp_path / "home")


def test_restore_and_adopt_need_a_home_without_a_hub(tmp_path: Path) -> None:
    home_with(tmp_path / "home", 3)
    backup(tmp_path / "home", tmp_path / "b.db")
    journal = open_journal(tmp_path / "home")
    with pytest.raises(JournalLocked):
        restore(tmp_path / "home", tmp_path / "b.db", LATER_MS)
    with pytest.raises(JournalLocked):
        adopt(tmp_path / "home", LATER_MS)
    journal.close()


def test_adopt_accepts_a_copied_back_file(tmp_path: Path) -> None:
    base = home_with(tmp_path, 10)
    older = Files(tmp_path).database.read_bytes()
    journal = open_journal(tmp_path)
    journal.append(posts(journal.head, 10))
    journal.close()
    Files(tmp_path).database.write_bytes(older)
    report = adopt(tmp_path, LATER_MS)
    assert (report.events, report.dropped) == (11, 10)
    assert report.head > base + 20
    again = open_journal(tmp_path)
    assert again.journal_id == report.journal_id
    again.close()


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_adopt_accepts_a_journal_without_its_mark(tmp_path: Path, damage: str) -> None:
    home_with(tmp_path, 10)
    if damage == "missing":
        Files(tmp_path).mark.unlink()
    else:
        Files(tmp_path).mark.write_bytes(b"")
    assert adopt(tmp_path, LATER_MS).events == 11
    assert verify(tmp_path).is_whole


def test_adopt_takes_a_broken_chain_only_when_told_to_drop(tmp_path: Path) -> None:
    base = home_with(tmp_path, 40)
    change_actor(tmp_path, base + 30)
    before = journal_bytes(tmp_path)
    with pytest.raises(JournalRefused, match=f"event {base + 30} does not follow"):
        adopt(tmp_path, LATER_MS)
    assert journal_bytes(tmp_path) == before
    report = adopt(tmp_path, LATER_MS, drop=True)
    assert (report.events, report.dropped) == (30, 11)
    assert report.aside is not None
    assert journal_bytes(report.aside)["journal.db"] == before["journal.db"]
    assert verify(tmp_path).is_whole


def test_there_is_nothing_to_adopt_in_a_whole_journal(tmp_path: Path) -> None:
    home_with(tmp_path, 3)
    with pytest.raises(JournalRefused, match="there is nothing to adopt"):
        adopt(tmp_path, LATER_MS)


def test_a_death_in_the_middle_of_a_restore_is_refused_or_finished_and_never_believed(tmp_path: Path) -> None:
    base = killed_home_with(tmp_path / "home", 10)
    # The mark of a power loss is older, so the mark alone would not notice a WAL that was moved away first.
    identity = verify(tmp_path / "home")
    older = Mark(identity.hub_id, identity.journal_id, base, genesis(identity.hub_id, base))
    Files(tmp_path / "home").mark.write_bytes(encode_mark(older))
    backup(tmp_path / "home", tmp_path / "b.db")
    outcomes = set()
    for step in range(1, 9):
        home = tmp_path / f"home{step}"
        shutil.copytree(tmp_path / "home", home)
        script = f"""
import os
from pathlib import Path
from synapse.journal import admin
left = {step}
rename = Path.rename
def dying(path, target):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), 9)
    return rename(path, target)
Path.rename = dying
admin.restore(Path({str(home)!r}), Path({str(tmp_path / "b.db")!r}), {LATER_MS})
"""
        died = run_python(script).returncode == -9
        try:
            journal = open_journal(home)
        except JournalRefused as refused:
            assert "is missing, but" in str(refused)
            restore(home, tmp_path / "b.db", LATER_MS)
            outcomes.add("refused")
        else:
            assert journal.head in {base + 10, base_at(LATER_MS) + 1}
            outcomes.add("untouched" if journal.head == base + 10 else "finished")
            journal.close()
        assert verify(home).is_whole
        if not died:
            break
    assert outcomes == {"untouched", "refused", "finished"}


class Failing:
    """A call that fails from its n-th time on, once or for ever."""

    def __init__(self, call: Callable[..., object], first: int, last: int) -> None:
        self.call, self.first, self.last, self.calls = call, first, last, 0

    def __call__(self, *arguments: object) -> object:
        """The call, or OSError."""
        self.calls += 1
        if self.first <= self.calls <= self.last:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self.call(*arguments)


@pytest.mark.parametrize("name", ["fsync", "rename"])
def test_an_adoption_that_fails_anywhere_leaves_the_old_journal_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It used to leave neither in place: the database was aside, and could not be adopted any more."""
    ends = set()
    for first in range(1, 30):
        home = tmp_path / str(first)
        base = home_with(home, 8)
        Files(home).mark.unlink()
        with monkeypatch.context() as patch:
            failing = Failing(getattr(os, name), first, first)
            patch.setattr(os, name, failing)
            try:
                adopt(home, AT_MS)
                ends.add("done")
            except StoreFailed as error:
                ends.add("in place" if "the new one is in place" in str(error) else "as it was")
        try:
            adopt(home, AT_MS)
        except JournalRefused as refused:
            assert "nothing to adopt" in str(refused)
        assert verify(home).is_whole
        assert verify(home).events == 9
        assert verify(home).first_seq == base + 1
        assert not Files(home).new_database.exists()
        if failing.calls < first:
            break
    assert ends >= {"done", "in place"}


def test_a_backup_whose_name_cannot_be_synced_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home_with(tmp_path, 8)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", Failing(os.fsync, 2, 2))
        with pytest.raises(StoreFailed, match="it was not written"):
            backup(tmp_path, tmp_path / "copy.db")
    assert not list(tmp_path.glob("copy.db*"))
    assert backup(tmp_path, tmp_path / "copy.db").events == 8


def test_a_mark_that_cannot_be_read_is_a_store_that_failed(tmp_path: Path) -> None:
    home_with(tmp_path, 3)
    Files(tmp_path).mark.unlink()
    Files(tmp_path).mark.mkdir()
    with pytest.raises(StoreFailed, match=r"journal\.mark: Is a directory; start again"):
        verify(tmp_path)
