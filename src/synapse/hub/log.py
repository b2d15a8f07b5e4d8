"""The hub's log: one JSON object a line, with a stable `action`. Never a token, a secret or a body.

It goes to stderr, or into a file of its own that is rotated by size. A file that cannot be opened is refused at the
start; one that fails later (a full disk, a directory taken away) loses lines and costs nobody else anything.
"""

import json
import logging
import os
import stat
import sys
from pathlib import Path
from typing import Final

from synapse.errors import EXIT_JOURNAL, SynapseError

LOGGER: Final = logging.getLogger("synapse.hub")
_STDERR: Final = 2


class LogRefused(SynapseError):
    """The log's file cannot be written. One line with the cure; exit 78."""

    exit_code = EXIT_JOURNAL


class JsonFormatter(logging.Formatter):
    """A record as one JSON line: time, level, action, and the facts given as `extra={"facts": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, object] = {
            "at_ms": int(record.created * 1000),
            "level": record.levelname.lower(),
            "action": getattr(record, "action", record.name),
            "text": record.getMessage(),
        }
        line.update(getattr(record, "facts", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


class LogFile(logging.Handler):
    """Appends to a file, mode 0600. What would make it longer than `bytes_max` goes into a new one: `hub.log` becomes
    `hub.log.1`, that `hub.log.2`, and so on, and `kept` old ones stay.

    Where stderr is the same file, as under `synapse up`, it moves on with the log.
    """

    def __init__(self, path: Path, *, bytes_max: int, kept: int) -> None:
        """Raises `LogRefused`."""
        super().__init__()
        self._path = path
        self._bytes_max = bytes_max
        self._kept = kept
        try:
            self._descriptor = _open(path)
        except OSError as error:
            raise LogRefused(
                f"{path}: the log cannot be written ({error.strerror}); choose another --log-file, or none"
            ) from error
        self._is_stderr = _is_same(self._descriptor, _STDERR)
        self._is_torn = False
        self.lost = 0
        """Lines that did not get into the file since the last one that did; that line says so."""

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line, or count it as lost."""
        if self.lost:
            record.facts = {**getattr(record, "facts", {}), "lost_before": self.lost}
        data = (b"\n" if self._is_torn else b"") + self.format(record).encode() + b"\n"
        try:
            if self._is_full_for(len(data)):
                self._rotate()
            written = os.write(self._descriptor, data)
        except OSError:
            self.lost += 1
            return
        self._is_torn = written < len(data)
        self.lost = self.lost + 1 if self._is_torn else 0

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        super().close()

    def _is_full_for(self, count: int) -> bool:
        size = os.fstat(self._descriptor).st_size
        return size > 0 and size + count > self._bytes_max

    def _rotate(self) -> None:
        """Begin a new file. Raises OSError where that is not possible; then nothing has moved."""
        draft = self._path.with_name(f"{self._path.name}.new")
        descriptor = _open(draft)
        try:
            for number in range(self._kept, 0, -1):
                newer = self._path if number == 1 else self._numbered(number - 1)
                if newer.exists():
                    newer.replace(self._numbered(number))
            draft.replace(self._path)
            os.dup2(descriptor, self._descriptor, inheritable=False)
            if self._is_stderr:
                os.dup2(descriptor, _STDERR)
        finally:
            os.close(descriptor)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def _open(path: Path) -> int:
    """A regular file for appending. Raises OSError. A pipe is not waited for."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "not a file")
    return descriptor


def _is_same(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:
        return False


def set_up(level: str, handler: logging.Handler | None = None) -> None:
    """Send the hub's log to a handler, by default to stderr, from `level` (debug, info, warning, error) on."""
    handler = logging.StreamHandler(sys.stderr) if handler is None else handler
    logging.raiseExceptions = False  # a line that cannot be written is lost; a traceback would not be a line of JSON
    handler.setFormatter(JsonFormatter())
    LOGGER.handlers[:] = [handler]
    LOGGER.propagate = False
    LOGGER.setLevel(level.upper())


def log(action: str, text: str, *, level: int = logging.INFO, **facts: object) -> None:
    """One line. facts: plain values only."""
    LOGGER.log(level, text, extra={"action": action, "facts": facts})
