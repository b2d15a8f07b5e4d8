"""A journal that was just made outlives a power cut, with the directories that lead to it."""

from pathlib import Path

import pytest

from synapse.journal import create, files
from synapse.journal.store import Journal


def test_the_names_above_a_home_are_durable_before_its_journal_is_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[Path, bool]] = []
    home = tmp_path / "new" / "home"

    def note(path: Path) -> None:
        synced.append((path, (home / "journal.db").exists()))

    monkeypatch.setattr(files, "sync_directory", note)
    monkeypatch.setattr(create, "sync_directory", note)
    Journal.open(home, at_ms=0, reserve_bytes=4096).close()
    assert {(tmp_path / "new", False), (tmp_path, False)} <= set(synced)
    assert (home, True) in synced


def test_a_directory_above_that_cannot_be_read_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []

    def note(path: Path) -> None:
        if path == tmp_path:
            raise PermissionError
        synced.append(path)

    monkeypatch.setattr(files, "sync_directory", note)
    (tmp_path / "home").mkdir()
    files.sync_names_above(tmp_path / "home")
    assert tmp_path not in synced
    assert tmp_path.parent in synced
