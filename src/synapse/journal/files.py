"""Where the journal's files lie in a home, and the few file operations the room shares.

Rule: `journal.db` is never opened here, nor anywhere in the hub's process, but by SQLite: POSIX drops all locks of a
process on a file when the process closes any descriptor of it. Size and presence are asked by `stat`, the rest of
SQLite itself.
"""

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from shutil import rmtree

from synapse.errors import DiskFull, JournalRefused

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the system answers when there is no room: the disk is full, or the user's share of it."""

EXPORT_PREFIX = "journal.export-"
"""How the directory in a home begins in which a running hub puts the copy that an export is made from."""

ROOM_BYTES_MIN = 1 << 20
"""The room a start needs: the WAL index (32 KiB), the first frames of the WAL, the lock file."""


@dataclass(frozen=True, slots=True)
class Files:
    """The names of the journal's files in one home. name: that of the database; another one only for a backup.

    is_backup: the database stands alone, and `home` is only the directory it lies in.
    """

    home: Path
    name: str = "journal.db"
    is_backup: bool = False

    @property
    def database(self) -> Path:
        """The journal: an SQLite database in WAL mode."""
        return self.home / self.name

    @property
    def wal(self) -> Path:
        """The newest transactions, until a checkpoint moves them into the database."""
        return self.home / f"{self.name}-wal"

    @property
    def shm(self) -> Path:
        """SQLite's index of the WAL. It holds nothing that cannot be rebuilt."""
        return self.home / f"{self.name}-shm"

    @property
    def mark(self) -> Path:
        """The last acknowledged position (mark.py)."""
        return self.home / "journal.mark"

    @property
    def reserve(self) -> Path:
        """The space kept for the last turn before a full disk (reserve.py)."""
        return self.home / "journal.reserve"

    @property
    def lock(self) -> Path:
        """The lock of the home (lock.py)."""
        return self.home / "hub.lock"

    @property
    def snapshots(self) -> Path:
        """The directory of snapshots (snapshot.py)."""
        return self.home / "snapshots"

    @property
    def bases(self) -> Path:
        """The directory of the base that a compacted journal begins from (base.py)."""
        return self.home / "bases"

    @property
    def aside(self) -> Path:
        """The directory that keeps what restore and adopt replaced."""
        return self.home / "aside"

    @property
    def new_database(self) -> Path:
        """A database that is being made and not yet in place."""
        return self.home / "journal.db.new"

    @property
    def new_mark(self) -> Path:
        """The mark that belongs to `new_database`."""
        return self.home / "journal.mark.new"

    @property
    def quoted_home(self) -> str:
        """The home as a word of a command that is shown."""
        return quote(str(self.home))


def way_back(files: Files) -> str:
    """The end of a refusal that only a whole backup cures."""
    if files.is_backup:
        return "this file brings nothing back: take another backup"
    return f"`synapse journal restore --home {files.quoted_home} BACKUP` brings a backup back"


def sync_file(path: Path) -> None:
    """Make the content of `path` durable. Raises OSError. Never for a database that SQLite has open here."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in the directory `path` durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_names_above(path: Path) -> None:
    """Make the names durable that lead to `path` on its file system; it may have been made a moment ago.

    A directory that this user may not read is passed over: the name in it is an older one. Raises OSError.
    """
    device = path.stat().st_dev
    for directory in path.parents:
        if directory.stat().st_dev != device:
            return
        with suppress(PermissionError):
            sync_directory(directory)


def write_durably(path: Path, data: bytes) -> None:
    """Create `path` with mode 0600, or empty it first; write `data` and sync it. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard_exports(home: Path) -> None:
    """Remove the copies of exports that were killed: none is under way in a home whose lock was just taken. One that
    cannot be removed stays."""
    with suppress(OSError):
        for folder in home.glob(f"{EXPORT_PREFIX}*"):
            rmtree(folder, ignore_errors=True)


def free_bytes(home: Path) -> int:
    """How many bytes this user may still write where `home` lies, by the file system's own account."""
    info = os.statvfs(home)
    return info.f_bavail * info.f_frsize


def has_room(home: Path, bytes_needed: int) -> bool:
    """True when `bytes_needed` can be written in `home` now. Asked by writing, because of quotas."""
    probe = home / "journal.probe"
    try:
        descriptor = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in NO_SPACE:
            return False
        raise
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, bytes_needed)
        else:  # macOS has no posix_fallocate
            os.write(descriptor, bytes(bytes_needed))
    except OSError as error:
        if error.errno in NO_SPACE:
            return False
        raise
    finally:
        os.close(descriptor)
        probe.unlink()
    return True


def require_room(home: Path, bytes_needed: int) -> None:
    """Raises `DiskFull`, which says how many bytes are missing, when `bytes_needed` cannot be written in `home`."""
    if not has_room(home, bytes_needed):
        missing = max(bytes_needed - free_bytes(home), 1)
        raise DiskFull(f"{home}: the disk is full; {missing} more bytes are needed to start")


def require_writable(files: Files) -> None:
    """Raises `JournalRefused` when the home or a file of the journal in it cannot be written.

    Asked by access(2), which also knows file systems mounted read-only and files made immutable, where even root
    cannot write.
    """
    for path in (files.home, files.lock, files.database, files.wal, files.shm, files.mark):
        if path.exists() and not os.access(path, os.W_OK):
            raise JournalRefused(f"{path}: not writable; make it writable for this user, or choose another --home")


def make_home(home: Path) -> None:
    """Create the home with mode 0700 when it does not exist.

    Raises `JournalRefused` when that is not possible, `DiskFull` when there is no room for a directory.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFull(f"{home}: the disk is full; not even a directory can be made") from error
        raise JournalRefused(f"{home}: cannot be made a directory ({error.strerror}); choose another --home") from error
