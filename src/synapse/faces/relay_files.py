"""The relay's files: one that grows, and those before it, which were full.

    relay.ndjson     the one that grows        relay.ndjson.1, .2 …   before it, the newest first
    relay.ndjson.lock                          held by the one writer

Rule 1: a file says in its header which number it has and where it begins, so a reader goes by that and never by a name,
which changes while it looks. Rule 2: a file comes into place whole, with its header; lines are appended; the last words
of a full one are `end`. So a kill leaves whole lines and at most one torn one, which the next writer cuts. Rule 3: a
reader that finds a part gone says so with a `lost`. On the fast path: standard library only.
"""

import fcntl
import os
from time import sleep

from synapse.errors import Rejected, SynapseError
from synapse.faces.relay_form import Decoder, Encoder, Header, Line, Reading, RelayBroken, header_of, split
from synapse.lean import dumps, loads

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeAlias

    from synapse.faces.relay_form import Flags

    Json: TypeAlias = dict[str, object]
    Position: TypeAlias = tuple[str, int]

BYTES_MAX = 8 * 1024 * 1024
BYTES_LEAST = 4 * 1024
KEEP = 4
KEEP_MOST = 1_000
EXIT_LOCKED = 75
_END = '["end"]\n'
_PASSED_BY = 4_096
"""So many events without a happening are told to the file, so that the next start need not look through them again."""
_CHUNK = 256 * 1024
_HEADER_BYTES = 2_048
_LINE_BYTES_MAX = 4 * 1024 * 1024
"""Many times what a hub sends in one frame."""
_POLL_S = 0.05
_POLLS_A_LOOK = 20
_LOOKS = 5
"""How often a file that should be there is looked for, while its name may just be changing."""


class RelayLocked(SynapseError):
    """Another process writes this relay file; it says which. Exit 75."""

    exit_code = EXIT_LOCKED


class RelayAbsent(Rejected):
    """There is no relay file here; its writer, if there is one, makes it with the next happening. Exit 4."""

    def __init__(self, path: str) -> None:
        writer = _writer_of(path)
        cure = "synapse relay write makes it" if writer is None else f"{writer} makes it with what happens next"
        super().__init__("not_found", f"no relay file at {path}: {cure}", {"file": path})


class Opened:
    """A relay file that is open for reading. is_ended: it is complete, and was read to its end."""

    __slots__ = ("_line", "_where", "decoder", "descriptor", "header", "is_ended", "path")

    def __init__(self, path: str, flags: int = os.O_RDONLY) -> None:
        """Raises OSError, `RelayBroken` for a file that is none of a relay."""
        self.path = path
        self.descriptor = os.open(path, flags | os.O_CLOEXEC)
        self._where = 0
        self._line = 1
        self.is_ended = False
        is_relay = False
        try:
            first = self._whole_lines(_HEADER_BYTES)[:1]
            if not first:
                raise RelayBroken("it has no header")
            self.header = header_of(_text(first[0]))
            is_relay = True
        except RelayBroken as error:
            raise RelayBroken(f"{path} is no relay file: {error}") from error
        except OSError as error:  # it can be opened and not read: a directory, for one
            error.filename = path
            raise
        finally:
            if not is_relay:
                os.close(self.descriptor)
        self._where = len(first[0]) + 1
        self.decoder = Decoder(self.header)

    def close(self) -> None:
        """Let it go."""
        os.close(self.descriptor)

    @property
    def position(self) -> str:
        """The cursor up to which everything was read."""
        return self.decoder.position

    @property
    def where(self) -> int:
        """The offset behind the last line that was read."""
        return self._where

    def _whole_lines(self, size: int = _CHUNK) -> list[bytes]:
        """Lines from `where` on; one that is torn, or still being written, is left for later."""
        while True:
            data = os.pread(self.descriptor, size, self._where)
            end = data.rfind(b"\n")
            if end >= 0 or len(data) < size:
                return data[:end].split(b"\n") if end >= 0 else []
            if size > _LINE_BYTES_MAX:
                raise RelayBroken(f"it has a line longer than {_LINE_BYTES_MAX} bytes")
            size *= 2

    def lines(self) -> "Iterator[Line]":
        """Whole lines from here on, up to `end` or to what is there now. Raises `RelayBroken`."""
        while not self.is_ended and (found := self._whole_lines()):
            for data in found:
                try:
                    line = self.decoder.read(_text(data))
                except RelayBroken as error:
                    raise RelayBroken(f"{self.path}, line {self._line + 1}: {error}") from error
                self._line += 1
                self._where += len(data) + 1
                self.is_ended = line.kind == "end"
                yield line
                if self.is_ended:
                    return


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RelayBroken("it is not UTF-8") from error


def _paths(path: str) -> list[str]:
    """The files of a relay that are there: the one that grows, then from the newest to the oldest."""
    folder, name = os.path.split(path)
    try:
        there = os.listdir(folder or ".")
    except FileNotFoundError:
        return []
    numbers = [int(entry[len(name) + 1 :]) for entry in there if _is_older(entry, name)]
    return [*([path] if name in there else []), *(f"{path}.{number}" for number in sorted(numbers))]


def _is_older(entry: str, name: str) -> bool:
    digits = entry[len(name) + 1 :]
    return entry.startswith(f"{name}.") and digits.isascii() and digits.isdecimal()


def _open_all(path: str) -> list[Opened]:
    """All files, by their numbers. Raises `RelayBroken`."""
    found: dict[int, Opened] = {}
    try:
        for name in _paths(path):
            try:
                opened = Opened(name)
            except FileNotFoundError:
                continue  # it has another name by now
            if opened.header.number in found:
                opened.close()
            else:
                found[opened.header.number] = opened
    except RelayBroken:
        _close(found.values())
        raise
    return [found[number] for number in sorted(found)]


def _close(files: "Iterable[Opened]", but: Opened | None = None) -> None:
    for opened in files:
        if opened is not but:
            opened.close()


# Reading.


def read(path: str, since: str | None = None, *, is_following: bool = False) -> "Iterator[Json]":
    """Happenings after a cursor, or all that are there, as `ingest` prints them; and `{"lost": {"from", "to"}}` for
    what is not there any more. is_following: then what is written, for ever; before there is a file, wait for it.

    Raises `RelayAbsent`, `RelayBroken`, `Rejected`: `bad_request`, and `log_diverged` for a cursor of a journal of
    which the files have nothing.
    """
    begin = None if since is None else given_position(since)
    while is_following and not is_there(path):
        sleep(_POLL_S)
    at = _first(path, begin)
    position = split(at.header.began) if begin is None else begin
    idle = 0
    try:
        while True:
            if _is_behind(position, split(at.header.begins)):
                yield _lost(position, split(at.header.begins))
            while True:
                for line in at.lines():
                    idle = 0
                    told = _told(line, begin)
                    if told is not None:
                        yield told
                following = _following(path, at.header.number) if _is_due(at, idle, is_following=is_following) else None
                if following is not None:
                    break
                if not is_following:
                    return
                idle += 1
                sleep(_POLL_S)
            position = _later(position, split(at.position))
            at.close()
            at = following
    finally:
        at.close()


def is_there(path: str) -> bool:
    """True when there is a file of this relay."""
    return bool(_paths(path))


def _is_due(at: Opened, idle: int, *, is_following: bool) -> bool:
    """True when the next file is to be looked for: at the end, and now and then where no end comes."""
    return at.is_ended or not is_following or idle % _POLLS_A_LOOK == _POLLS_A_LOOK - 1


def given_position(since: str) -> "Position":
    """The journal and the seq of a cursor that somebody gave. Raises `Rejected(bad_request)`."""
    try:
        return split(since)
    except RelayBroken as error:
        raise Rejected("bad_request", str(error), {"cursor": since}) from error


def _first(path: str, begin: "Position | None") -> Opened:
    """The file to begin with."""
    files = _open_all(path)
    if not files:
        raise RelayAbsent(path)
    fitting = files if begin is None else [opened for opened in files if opened.header.journal == begin[0]]
    if not fitting:
        _close(files)
        raise Rejected(
            "log_diverged",
            f"the relay at {path} has nothing of journal {begin[0] if begin else ''}: begin without a cursor",
            {"journal_id": files[-1].header.journal},
        )
    found = fitting[0]
    for opened in fitting:
        if begin is not None and not _is_behind(begin, split(opened.header.begins)):
            found = opened
    _close(files, found)
    return found


def _following(path: str, number: int) -> Opened | None:
    """The next file, else the first one that is left behind it; None when there is none yet."""
    for look in range(_LOOKS):
        files = _open_all(path)
        found = next((opened for opened in files if opened.header.number > number), None)
        _close(files, found)
        if found is None or found.header.number == number + 1 or look == _LOOKS - 1:
            return found
        found.close()
        sleep(0.002 * (look + 1))
    return None


def _is_behind(position: "Position", begins: "Position") -> bool:
    """True when something may have happened between the two."""
    return position[0] != begins[0] or position[1] < begins[1]


def _later(one: "Position", other: "Position") -> "Position":
    return one if one[0] == other[0] and one[1] > other[1] else other


def _lost(begin: "Position", end: "Position") -> "Json":
    return {"lost": {"from": f"{begin[0]}:{begin[1]}", "to": f"{end[0]}:{end[1]}"}}


def _told(line: Line, begin: "Position | None") -> "Json | None":
    """What a line says to who begins behind that position."""
    if line.value is None or begin is None:
        return line.value
    lost = line.value.get("lost") if line.kind == "lost" else None
    if isinstance(lost, dict):
        came, went = split(lost["from"]), split(lost["to"])
        if went[0] != begin[0]:
            return line.value
        return _lost(_later(came, begin), went) if went[1] > begin[1] else None
    cursor = line.value.get("cursor")
    journal, _, seq = cursor.partition(":") if isinstance(cursor, str) else ("", "", "")
    return None if journal == begin[0] and seq.isdecimal() and int(seq) <= begin[1] else line.value


# Writing.


class Relay:
    """The one writer of a relay."""

    def __init__(
        self, path: str, who: str, *, bytes_max: int = BYTES_MAX, keep: int = KEEP, of: "Flags | None" = None
    ) -> None:
        """who: named to a second writer. of: what is mirrored, which must be what the files are of. Cuts a torn line,
        and goes on behind the last whole one.

        Raises `RelayLocked`, `RelayBroken` for files that are none of a relay, `Rejected` for those of something else,
        OSError.
        """
        self.path = path
        self._of = of
        self._bytes_max = bytes_max
        self._keep = keep
        self._lock = _locked(path, who)
        self._descriptor = -1
        self._size = 0
        self._encoder: Encoder | None = None
        self._header: Header | None = None
        self.position: str | None = None
        """The cursor up to which the relay tells everything; None as long as it has no file."""
        is_ready = False
        try:
            self._recover()
            is_ready = True
        finally:
            if not is_ready:
                self.close()

    def close(self) -> None:
        """Let the files go; another may write them then. Of a relay that never began nothing is left."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self.position is None and os.path.exists(f"{self.path}.lock"):
            os.unlink(f"{self.path}.lock")
        os.close(self._lock)

    def begin(self, cursor: str, at_ms: int) -> None:
        """Begin a new relay at a cursor; or, with one of another journal, a file that says that it is one."""
        self._new_file(cursor, at_ms)

    def write(self, happenings: "list[Json]", position: str) -> None:
        """Append happenings, up to which everything is told then. All of them are with the system when it returns.

        Where somebody moved the file away, or removed it, a new one begins. Raises `RelayBroken` when another has its
        name.
        """
        assert self.position is not None, "a relay has begun"
        if (happenings or position != self.position) and not self._has_name():
            self._new_file(self.position, self._writer.at_ms)
        text, size = "", self._size + len(_END)
        for happening in happenings:
            lines = self._writer.lines(happening)
            if size + len(lines.encode()) > self._bytes_max and (text or self._has_lines):
                self._append(text)
                self._new_file(self.position, self._writer.at_ms)
                text, size = "", self._size + len(_END)
                lines = self._writer.lines(happening)
            text += lines
            size += len(lines.encode())
            self.position = str(happening["cursor"])
        if split(position)[1] - split(self.position)[1] > _PASSED_BY:
            text += self._writer.at(split(position)[1])
            self.position = position
        self._append(text)

    def lose(self, cursor: str) -> None:
        """What happened up to a cursor is not to be had any more: say so, and go on from there."""
        assert self.position is not None, "a relay has begun"
        self._append(self._writer.lost(self.position, cursor))
        self.position = cursor

    def _has_name(self) -> bool:
        """True when the file that grows has its name still, False when nothing has. Raises `RelayBroken`."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return False
        if not os.path.samestat(found, os.fstat(self._descriptor)):
            raise RelayBroken(
                f"{self.path} is another file by now: move it away, or give another --file, and start again"
            )
        return True

    @property
    def _writer(self) -> Encoder:
        assert self._encoder is not None, "a relay has begun"
        return self._encoder

    @property
    def _has_lines(self) -> bool:
        """True when the file holds more than its header."""
        assert self._header is not None, "a relay has begun"
        return self._size > len(self._header.text().encode()) + 1

    def _append(self, text: str) -> None:
        data = memoryview(text.encode())
        self._size += len(data)
        while data:
            data = data[os.write(self._descriptor, data) :]

    def _recover(self) -> None:
        files = _open_all(self.path)
        try:
            if not files:
                return
            newest = files[-1]
            self._require_same(newest.header.of)
            _in_order(self.path, files)
            try:
                for _ in newest.lines():
                    pass
            except RelayBroken:
                pass  # what was torn by a crash of the machine goes with all behind it
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            os.ftruncate(self._descriptor, newest.where)
            self._size, self._header, self.position = newest.where, newest.header, newest.position
            self._encoder = Encoder(newest.decoder.at)
            if newest.is_ended:
                self._new_file(newest.position, newest.decoder.at.at_ms)
        finally:
            _close(files)

    def _require_same(self, of: "Flags | None") -> None:
        """A reader could not tell what is missing where a file goes on with something else. Raises `Rejected`."""
        if None not in (of, self._of) and of != self._of:
            raise Rejected(
                "bad_request",
                f"{self.path} is written with {_in_words(of)}, and this is {_in_words(self._of)}: give another --file",
                {"file": self.path, "of": of},
            )

    def _new_file(self, begins: str, at_ms: int) -> None:
        """The next file, in the place of the one that grew; that one is complete."""
        before = self._header
        number, began = (1, begins) if before is None else (before.number + 1, before.began)
        header = Header(number, began, begins, at_ms, self.position, self._of)
        fresh = f"{self.path}.new"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        data = f"{header.text()}\n".encode()
        is_in_place = False
        try:
            os.write(descriptor, data)
            os.fsync(descriptor)
            if before is not None:
                self._append(_END)
                os.fsync(self._descriptor)
                self._shift()
            os.rename(fresh, self.path)
            _sync_folder(self.path)
            is_in_place = True
        finally:
            if not is_in_place:
                os.close(descriptor)
        if before is not None:
            os.close(self._descriptor)
        self._descriptor, self._size, self._header, self.position = descriptor, len(data), header, begins
        self._encoder = Encoder(Reading(header))

    def _shift(self) -> None:
        """Every file is one older, and the oldest is gone."""
        for name in _paths(self.path)[self._keep - 1 :]:
            os.unlink(name)
        for name in reversed(_paths(self.path)):
            number = 0 if name == self.path else int(name.rpartition(".")[2])
            os.rename(name, f"{self.path}.{number + 1}")


def _in_words(of: "Flags | None") -> str:
    return " ".join(f"--{flag} {value}" for flag, given in (of or {}).items() for value in given)


def _in_order(path: str, files: "list[Opened]") -> None:
    """Give files the names that they should have, where a kill came between two renames."""
    for number, opened in enumerate(reversed(files)):
        wanted = path if number == 0 else f"{path}.{number}"
        if opened.path != wanted:
            os.rename(opened.path, wanted)
            opened.path = wanted


def _sync_folder(path: str) -> None:
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _writer_of(path: str) -> str | None:
    """Who writes this relay now; None for nobody."""
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _named(os.pread(descriptor, 1024, 0).decode("utf-8", "replace").strip())
    else:
        return None
    finally:
        os.close(descriptor)


def _locked(path: str, who: str) -> int:
    """The lock's descriptor. Raises `RelayLocked`."""
    while True:
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 1024, 0).decode("utf-8", "replace").strip()
            os.close(descriptor)
            raise RelayLocked(f"{path} is written by {_named(holder)}; a relay has one writer") from error
        if os.fstat(descriptor).st_nlink:
            break
        os.close(descriptor)  # a writer that never began took its lock away with it
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{dumps({'name': who, 'pid': os.getpid()})}\n".encode(), 0)
    return descriptor


def _named(holder: str) -> str:
    try:
        said = loads(holder)
    except (ValueError, RecursionError):
        said = None
    return f"{said.get('name')} (pid {said.get('pid')})" if isinstance(said, dict) else "another process"
