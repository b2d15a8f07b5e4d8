"""From system calls to steps on files: which bytes, names and syncs, by the number of the file and not by its name.

Only what lies below the root is looked at. A call that could change something there and that nobody here understands
raises `Unmodelled`: no write goes unseen.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final, TypeAlias

from tests.power.strace import Call, Data, Descriptor

ROOT: Final = 0
"""The number of the root directory, whose own name is durable."""


class Unmodelled(AssertionError):
    """The hub did something to its files that this proof does not know."""


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes at an offset of a file."""

    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Resize:
    """A file got this size: it was cut, or zeros were added."""

    file: int
    size: int


@dataclass(frozen=True, slots=True)
class Rename:
    """Names that changed in one atomic step: (directory, name) stands for a file from now on, or for none."""

    names: tuple[tuple[tuple[int, str], int | None], ...]


@dataclass(frozen=True, slots=True)
class Sync:
    """A sync of a file or directory returned. upto: it covers the steps before this one, which had ended when it
    began."""

    file: int
    upto: int


Step: TypeAlias = Write | Resize | Rename | Sync

Image: TypeAlias = dict[str, bytes | int | None]
"""Files by path below the root: the bytes, a size where nobody reads the bytes, None for a directory."""

_PLAIN_WRITES = frozenset({"write", "pwrite64"})
_SYNCS = frozenset({"fsync", "fdatasync"})
_HARMLESS = frozenset({"close", "recvfrom", "sendto", "sendmsg"})
_MEMORY_ONLY = ("-shm",)
_BYTES_NOBODY_READS = ("journal.reserve", "journal.reserve.new")


@dataclass(slots=True)
class Namespace:
    """The files below a root as the running processes see them, and the steps that led there. lines: for each step
    the line of the trace at which its call ended."""

    root: str
    steps: list[Step] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    directories: set[int] = field(default_factory=lambda: {ROOT})
    _names: dict[tuple[int, str], int] = field(default_factory=dict)
    _sizes: dict[int, int] = field(default_factory=dict)
    _offsets: dict[tuple[int, int], int | None] = field(default_factory=dict)
    """By thread and descriptor: where the next plain write goes; None: at the end."""

    def begin_with(self, image: Image) -> None:
        """Files that are there already, by path below the root: their bytes, a size, or None for a directory."""
        for name, content in image.items():
            self._make(f"{self.root}/{name}", is_directory=content is None)
            number = self._names[self._place(f"{self.root}/{name}")]
            if isinstance(content, int):
                self._resize(number, content)
            elif content:
                self.steps.append(Write(number, 0, content))
                self._sizes[number] = len(content)
        self.steps += [Sync(number, len(self.steps)) for number in (*self.directories, *self._sizes)]
        self.lines = [-1] * len(self.steps)

    def follow(self, calls: Iterable[Call], base: int = 0) -> list[Call]:
        """Take in the calls of one run; its line 0 is line `base` of the whole. Returns those that a kill cut off."""
        self._offsets.clear()
        cut_off = []
        for call in calls:
            if not self._touches(call):
                continue
            if call.result is None:
                cut_off.append(call)
            elif call.result >= 0:
                known = len(self.steps)
                self._take(call, base)
                self.lines += [base + call.ended] * (len(self.steps) - known)
        return cut_off

    def settle(self, cut_off: Iterable[Call], line: int) -> None:
        """Find out from the files themselves which writes a kill cut off after they had happened."""
        for call in cut_off:
            if call.name == "pwrite64" and not call.descriptor().is_deleted:
                data, path = call.data().value, Path(call.descriptor().path)
                with path.open("rb") as file:
                    file.seek(call.number(3))
                    has_happened = file.read(len(data)) == data
                if has_happened:
                    self._write(self._of(call.descriptor()), call.number(3), call.data(), len(data))
                    self.lines.append(line)
            elif call.name not in _SYNCS | _HARMLESS | {"openat", "mmap"}:
                raise Unmodelled(f"killed in {call}")

    def _touches(self, call: Call) -> bool:
        if call.name in ("sync", "syncfs", "sync_file_range", "io_uring_setup"):
            raise Unmodelled(str(call))
        for argument in call.arguments:
            path = ""
            if isinstance(argument, Data) and argument.value.startswith(b"/"):
                path = argument.value.decode(errors="replace")
            elif isinstance(argument, Descriptor) and argument.number >= 0:
                path = argument.path
            if path == self.root or path.startswith(self.root + "/"):
                return True
        return False

    def _take(self, call: Call, base: int) -> None:
        name = call.name
        if name in _HARMLESS:
            return
        if name in ("open", "openat", "creat"):
            self._open(call)
        elif name in _PLAIN_WRITES:
            self._plain_write(call)
        elif name in _SYNCS:
            file = self._of(call.descriptor())
            if file is not None:
                self.steps.append(Sync(file, bisect_left(self.lines, base + call.begun)))
        elif name == "ftruncate":
            self._resize(self._of(call.descriptor()), call.number(1))
        elif name == "fallocate" and call.number(1) == 0:
            file = self._of(call.descriptor())
            self._resize(file, max(call.number(2) + call.number(3), self._sizes.get(file or ROOT, 0)))
        elif name == "rename":
            old, new = self._place(call.path()), self._place(call.path(1))
            self._rename((old, None), (new, self._names[old]))
        elif name == "link":
            self._rename((self._place(call.path(1)), self._names[self._place(call.path())]))
        elif name in ("unlink", "rmdir"):
            if self._place(call.path()) in self._names:  # a socket is no file of ours
                self._rename((self._place(call.path()), None))
        elif name == "mkdir":
            self._make(call.path(), is_directory=True)
        elif name == "mmap":
            is_written = "PROT_WRITE" in call.word(2) and "MAP_SHARED" in call.word(3)
            if is_written and not call.descriptor(4).path.endswith(_MEMORY_ONLY):
                raise Unmodelled(str(call))
        else:
            raise Unmodelled(str(call))

    def _open(self, call: Call) -> None:
        at = 0 if call.name != "openat" else 1
        flags = call.word(at + 1) if call.name != "creat" else "O_WRONLY|O_CREAT|O_TRUNC"
        path = call.path(at)
        place = self._place(path) if path != self.root else None
        if place is not None and place not in self._names:
            if "O_CREAT" not in flags:  # a socket, say
                return
            self._make(path, is_directory=False)
        elif place is not None and "O_TRUNC" in flags:
            self._resize(self._names[place], 0)
        assert call.result is not None
        self._offsets[call.thread, call.result] = None if "O_APPEND" in flags else 0

    def _plain_write(self, call: Call) -> None:
        file, written = self._of(call.descriptor()), call.result or 0
        if file is None:
            return
        if call.name == "pwrite64":
            self._write(file, call.number(3), call.data(), written)
            return
        key = (call.thread, call.descriptor().number)
        if key not in self._offsets:
            raise Unmodelled(f"nobody saw this opened: {call}")
        offset = self._offsets[key]
        self._write(file, self._sizes[file] if offset is None else offset, call.data(), written)
        self._offsets[key] = None if offset is None else offset + written

    def _write(self, file: int | None, offset: int, data: Data, written: int) -> None:
        if file is None:
            return
        name = next(name for (_, name), number in self._names.items() if number == file)
        if name in _BYTES_NOBODY_READS:
            self._resize(file, offset + written)
            return
        if data.is_cut:
            raise Unmodelled(f"too long a write for the trace: {name}")
        self.steps.append(Write(file, offset, data.value[:written]))
        self._sizes[file] = max(self._sizes[file], offset + written)

    def _resize(self, file: int | None, size: int) -> None:
        if file is not None and self._sizes[file] != size:
            self.steps.append(Resize(file, size))
            self._sizes[file] = size

    def _make(self, path: str, *, is_directory: bool) -> None:
        number = len(self.directories) + len(self._sizes)
        if is_directory:
            self.directories.add(number)
        else:
            self._sizes[number] = 0
        self._rename((self._place(path), number))

    def _rename(self, *names: tuple[tuple[int, str], int | None]) -> None:
        self.steps.append(Rename(names))
        for place, number in names:
            if number is None:
                del self._names[place]
            else:
                self._names[place] = number

    def _of(self, descriptor: Descriptor) -> int | None:
        """The number of an open file; None when it has no name any more: nothing done to it can matter."""
        if descriptor.is_deleted:
            return None
        if descriptor.path == self.root:
            return ROOT
        place = self._place(descriptor.path)
        if place not in self._names:
            raise Unmodelled(f"renamed or removed in the middle of a call: {descriptor}")
        return self._names[place]

    def _place(self, path: str) -> tuple[int, str]:
        """The directory a path names and the last part of it."""
        directory = ROOT
        *parents, name = PurePosixPath(path).relative_to(self.root).parts
        for parent in parents:
            directory = self._names[directory, parent]
        return directory, name
