"""The lock of a home: one hub per directory, said by the kernel and let go by it when the process dies.

The lock is `flock` on `hub.lock`, a file of its own, because SQLite accepts two writers that take turns. The pid inside
is only for the message; a stale one means nothing.
"""

import errno
import fcntl
import os
from pathlib import Path

from synapse.errors import DiskFull, JournalLocked, JournalRefused, StoreFailed
from synapse.journal.files import NO_SPACE, Files

_NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ELOOP})


class HomeLock:
    """Held from construction until `close()` or the end of the process; children do not inherit it."""

    __slots__ = ("_descriptor",)

    def __init__(self, home: Path) -> None:
        """Take the lock of `home`, an existing directory, without waiting.

        Raises `JournalLocked` naming the pid of the holder, changing no byte; `JournalRefused` when the lock file
        cannot be opened for writing; `DiskFull` when it cannot be created; `StoreFailed` when the system fails.
        """
        path = Files(home).lock
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno in NO_SPACE:
                raise DiskFull(f"{path}: the disk is full; the lock file cannot be made; make room") from error
            if error.errno not in _NOT_WRITABLE:
                raise StoreFailed(f"{path}: {error.strerror}; start again") from error
            raise JournalRefused(
                f"{path}: not writable ({error.strerror}); make it writable for this user, or choose another --home"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_pid(descriptor)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise JournalLocked(
                f"{home}: already in use by the process with pid {holder}; stop it, or choose another --home"
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise StoreFailed(f"{path}: {error.strerror}; start again") from error
        self._descriptor = descriptor

    def close(self) -> None:
        """Let the home go. It may be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> "HomeLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _write_pid(descriptor: int) -> None:
    """Overwrite the pid in place: on a full disk the block that is already there can still be written."""
    line = f"{os.getpid()}\n".encode()
    try:
        os.pwrite(descriptor, line, 0)
        os.ftruncate(descriptor, len(line))
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
