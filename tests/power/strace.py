"""What strace saw, as a list of steps in the order in which they happened.

strace handles one stop of one thread after the other, and lets a thread go on only after that. So its lines are in an
order in which each effect comes after its cause: a reply that leaves because a sync has returned stands behind it.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

TRACED = (
    "open,openat,creat,close,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,fsync,fdatasync,sync,"
    "syncfs,sync_file_range,rename,renameat,renameat2,unlink,unlinkat,link,linkat,symlink,symlinkat,mkdir,mkdirat,rmdir,"
    "mmap,msync,sendto,sendmsg,recvfrom,copy_file_range,sendfile,splice,io_uring_setup"
)
"""Every call that changes a file, makes one durable, or talks to a socket."""
DATA_BYTES_MAX = 300_000
"""Longer data is cut in the trace; only the reserve's is longer, and nobody asks what is in it."""


class Descriptor(NamedTuple):
    """A descriptor and what it stands for; is_deleted: the file has no name any more."""

    number: int
    path: str
    is_deleted: bool


class Data(NamedTuple):
    """A text of the call. is_cut: there was more."""

    value: bytes
    is_cut: bool


Argument = int | str | Descriptor | Data


@dataclass(frozen=True, slots=True)
class Call:
    """One system call. begun and ended: lines of the trace; the same when nothing came in between. result: negative
    for an error; None when the process was killed in it."""

    thread: int
    name: str
    arguments: tuple[Argument, ...]
    result: int | None
    begun: int
    ended: int

    def descriptor(self, at: int = 0) -> Descriptor:
        """An argument that is a descriptor."""
        found = self.arguments[at]
        assert isinstance(found, Descriptor), self
        return found

    def data(self, at: int = 1) -> Data:
        """An argument that is a text."""
        found = self.arguments[at]
        assert isinstance(found, Data), self
        return found

    def path(self, at: int = 0) -> str:
        """An argument that is an absolute path. Relative ones are not understood: the hub uses none below its home."""
        return self.data(at).value.decode()

    def number(self, at: int) -> int:
        """An argument that is a number."""
        found = self.arguments[at]
        assert isinstance(found, int), self
        return found

    def word(self, at: int) -> str:
        """An argument that is a name or several, such as flags."""
        found = self.arguments[at]
        return found if isinstance(found, str) else str(found)


_LINE = re.compile(rb"(\d+) +(.*)", re.DOTALL)
_WHOLE = re.compile(rb"(\w+)\((.*)\) += (-?\d+|0x[0-9a-f]+|\?)(?: .*|<.*)?", re.DOTALL)
_BEGUN = re.compile(rb"(\w+)\((.*?),? *<unfinished \.\.\.>", re.DOTALL)
_RESUMED = re.compile(rb"<\.\.\. (\w+) resumed>(.*)", re.DOTALL)
_DESCRIPTOR = re.compile(rb"(-?\d+|AT_FDCWD)<([^>]*)>(\(deleted\))?")
_PIECE = re.compile(rb'iov_base=("[^"]*"(?:\.\.\.)?)')
_NUMBER = re.compile(rb"-?\d+|0x[0-9a-f]+")


def read_calls(lines: Iterable[bytes]) -> Iterator[Call]:
    """The calls of a trace (`-f -y -xx`), in the order of their ends; those a process was killed in come last."""
    open_calls: dict[int, tuple[int, bytes]] = {}
    for at, line in enumerate(lines):
        split = _LINE.fullmatch(line.rstrip(b"\n"))
        assert split is not None, line[:200]
        thread, text = int(split[1]), split[2]
        # Ends, signals, and calls that nobody knows, or whose end nobody saw, as their process died.
        if text.startswith((b"+++", b"---", b"???", b"<... ??? resumed>")):
            continue
        begun = _BEGUN.fullmatch(text)
        if begun is not None:
            open_calls[thread] = (at, begun[1] + b"(" + begun[2])
            continue
        since, resumed = at, _RESUMED.fullmatch(text)
        if resumed is not None:
            since, head = open_calls.pop(thread)
            tail = resumed[2].lstrip(b", ")
            text = head + (b"" if tail.startswith(b")") or head.endswith(b"(") else b", ") + tail
        yield _call(thread, text, since, at)
    for thread, (since, head) in sorted(open_calls.items(), key=lambda item: item[1][0]):
        yield _call(thread, head + b") = ?", since, since)


def _call(thread: int, text: bytes, begun: int, ended: int) -> Call:
    whole = _WHOLE.fullmatch(text)
    assert whole is not None, text[:300]
    result = None if whole[3] == b"?" else int(whole[3], 0)
    arguments = tuple(_argument(part) for part in whole[2].split(b", ")) if whole[2] else ()
    if whole[1] == b"sendmsg":
        pieces = [_argument(piece) for piece in _PIECE.findall(whole[2])]
        assert all(isinstance(piece, Data) and not piece.is_cut for piece in pieces), text[:300]
        arguments = (arguments[0], Data(b"".join(piece.value for piece in pieces if isinstance(piece, Data)), False))
    return Call(thread, whole[1].decode(), arguments, result, begun, ended)


def _argument(text: bytes) -> Argument:
    if text.startswith(b'"'):
        is_cut = text.endswith(b"...")
        return Data(_unescaped(text.rstrip(b".")[1:-1]), is_cut)
    descriptor = _DESCRIPTOR.fullmatch(text)
    if descriptor is not None:
        number = -100 if descriptor[1] == b"AT_FDCWD" else int(descriptor[1])
        return Descriptor(number, _unescaped(descriptor[2]).decode(errors="replace"), descriptor[3] is not None)
    if _NUMBER.fullmatch(text):
        return int(text, 8 if text.startswith(b"0") and text.isdigit() else 0)
    return text.decode("ascii", "replace")


def _unescaped(text: bytes) -> bytes:
    r"""The bytes of `\x61\x62`."""
    return bytes.fromhex(text.replace(b"\\x", b"").decode("ascii"))
