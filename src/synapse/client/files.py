"""Files by reference: a message carries where a file lies, its size and its SHA-256; who receives it checks all three.

    {"type":"file","path":"/home/ada/report.pdf","bytes":48213,"sha256":"…","host":"box"}

The content never passes through the hub, so both sides must see the same file system. On the fast path: standard
library only.
"""

import os

from synapse.errors import SynapseError

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import BinaryIO

FILE_TYPE = "file"
_CHUNK_BYTES = 1 << 20


class FileRefused(SynapseError):
    """A file is not what its reference says, or no file that can be sent. One line that names what differs."""


class FileReference:
    """A file as its sender saw it. path: absolute, without symbolic links. sha256: hex. host: the sender's machine."""

    __slots__ = ("bytes", "host", "path", "sha256")

    def __init__(self, *, path: str, bytes: int, sha256: str, host: str) -> None:
        self.path = path
        self.bytes = bytes
        self.sha256 = sha256
        self.host = host

    def body(self) -> dict[str, object]:
        """As a message carries it."""
        return {"type": FILE_TYPE, **{name: getattr(self, name) for name in ("path", "bytes", "sha256", "host")}}


def refer_to(path: "str | os.PathLike[str]") -> FileReference:
    """Read a file to its end and describe it. Raises `FileRefused` for what is no plain file, or changes meanwhile."""
    from hashlib import sha256
    from socket import gethostname

    real = os.path.realpath(path)
    digest, size = sha256(), 0
    with opened(real) as file:
        before = os.fstat(file.fileno())
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
        after = os.fstat(file.fileno())
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size) or size != after.st_size:
        raise FileRefused(f"{real}: changed while it was read; send it when it is finished")
    return FileReference(path=real, bytes=size, sha256=digest.hexdigest(), host=gethostname())


def file_in(body: object) -> FileReference | None:
    """The file that a message's body refers to; None when it refers to none."""
    if not isinstance(body, dict) or body.get("type") != FILE_TYPE:
        return None
    path, size, digest, host = (body.get(name) for name in ("path", "bytes", "sha256", "host"))
    if not (isinstance(path, str) and isinstance(size, int) and isinstance(digest, str) and isinstance(host, str)):
        return None
    return FileReference(path=path, bytes=size, sha256=digest, host=host)


def receive(reference: FileReference, copy_to: "str | os.PathLike[str] | None" = None) -> str:
    """Check the file against its reference; its path. copy_to: a file that does not exist, which gets the checked
    content, so that nothing can change between the check and the use.

    Raises `FileRefused` when it is not there, or not what it was; then no copy is left.
    """
    from contextlib import ExitStack
    from hashlib import sha256

    digest, size = sha256(), 0
    with opened(reference.path, reference) as file, ExitStack() as undo:
        copy: BinaryIO | None = None
        if copy_to is not None:
            copy = undo.enter_context(_new(os.fspath(copy_to)))
            undo.callback(os.unlink, copy_to)
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            if size > reference.bytes:
                break
            if copy is not None:
                copy.write(chunk)
        if size != reference.bytes:
            more = "more" if size > reference.bytes else "fewer"
            raise FileRefused(f"{reference.path}: has {more} than the {reference.bytes} bytes it was sent with")
        if digest.hexdigest() != reference.sha256:
            raise FileRefused(f"{reference.path}: its content is not what was sent (SHA-256 differs); ask for it again")
        if copy is None:
            return reference.path
        copy.flush()
        os.fsync(copy.fileno())
        undo.pop_all()
        copy.close()
    assert copy_to is not None
    return os.path.abspath(copy_to)


def opened(path: str, reference: FileReference | None = None) -> "BinaryIO":
    """A plain file to read. Raises `FileRefused` for anything else. reference: by which it was looked for."""
    from stat import S_ISREG

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not hold us up
    except OSError as error:
        where = f"; it was sent from {reference.host}" if reference is not None else ""
        raise FileRefused(f"{path}: {error.strerror}{where}") from error
    if not S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileRefused(f"{path}: is not a plain file")
    return os.fdopen(descriptor, "rb")


def _new(path: str) -> "BinaryIO":
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
    except OSError as error:
        raise FileRefused(f"{path}: {error.strerror}") from error
