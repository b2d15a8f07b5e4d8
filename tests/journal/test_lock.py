"""One hub per home, said by the kernel."""

import errno
import os
from pathlib import Path

import pytest
from tests.journal.conftest import run_python

from synapse.errors import JournalLocked, JournalRefused, StoreFailed
from synapse.journal.lock import HomeLock


def test_the_second_one_is_told_the_pid_of_the_first_and_changes_no_byte(tmp_path: Path) -> None:
    with HomeLock(tmp_path):
        before = (tmp_path / "hub.lock").read_bytes()
        with pytest.raises(JournalLocked, match=f"already in use by the process with pid {os.getpid()}") as caught:
            HomeLock(tmp_path)
        assert (tmp_path / "hub.lock").read_bytes() == before == f"{os.getpid()}\n".encode()
    assert caught.value.exit_code == 75


def test_a_second_process_is_refused_too(tmp_path: Path) -> None:
    script = f"from pathlib import Path; from synapse.journal.lock import HomeLock; HomeLock(Path({str(tmp_path)!r}))"
    with HomeLock(tmp_path):
        assert f"pid {os.getpid()}" in run_python(script).stderr
    assert run_python(script).returncode == 0


def test_the_lock_of_a_killed_process_is_free_and_its_stale_pid_means_nothing(tmp_path: Path) -> None:
    script = (
        "import os; from pathlib import Path; from synapse.journal.lock import HomeLock\n"
        f"lock = HomeLock(Path({str(tmp_path)!r})); os.kill(os.getpid(), 9)"
    )
    assert run_python(script).returncode == -9
    with HomeLock(tmp_path):
        assert (tmp_path / "hub.lock").read_bytes() == f"{os.getpid()}\n".encode()


def test_a_shorter_pid_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    (tmp_path / "hub.lock").write_text("99999999999999\n")
    with HomeLock(tmp_path):
        assert (tmp_path / "hub.lock").read_text() == f"{os.getpid()}\n"


def test_a_lock_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hub.lock").mkdir()
    with pytest.raises(JournalRefused, match=r"hub\.lock: not writable"):
        HomeLock(tmp_path)


@pytest.mark.parametrize("call", ["pwrite", "ftruncate"])
def test_a_lock_file_that_cannot_be_written_is_a_store_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StoreFailed, match=r"hub\.lock: Input/output error; start again"):
        HomeLock(tmp_path)
    monkeypatch.undo()
    HomeLock(tmp_path).close()
