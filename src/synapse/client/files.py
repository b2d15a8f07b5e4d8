"""Files by reference: a message carries where a file lies, its size and its SHA-256; who receives it checks all three.

    {"type":"file","path":"/home/ada/report.pdf","bytes":48213,"sha256":"…","host":"box"}

The content never passes through the hub, so both sides must see the same file system. On the fast path: standard
library only.
"""

import os
from errno import ENOSYS, ENOTSUP, EPERM

from synapse.errors import SynapseError

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import BinaryIO

FILE_TYPE = "file"
_CHUNK_BYTES = 1 << 20
_NO_LINKS = (EPERM, ENOTSUP, ENOSYS)
"""What file systems say that have no second names, such as those of USB sticks."""


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
    content, so that nothing can change between the check and the use. It gathers beside it, and is there whole or not;
    a file of just that content is the copy, made by an earlier run.

    Raises `FileRefused` when it is not there, or not what it was; then no copy is left.
    """
    from contextlib import ExitStack
    from hashlib import sha256

    digest, size = sha256(), 0
    target = None if copy_to is None else os.path.abspath(os.fspath(copy_to))
    if target is not None and os.path.lexists(target):
        if not is_same(target, reference.bytes, reference.sha256):
            raise there_already(target, os.path.basename(reference.path))
        return target
    with opened(reference.path, reference) as file, ExitStack() as undo:
        copy: BinaryIO | None = None
        if target is not None:
            partial = partial_of(target, "copy", reference.sha256)
            copy = undo.enter_context(gathered(partial))
            undo.callback(_remove, partial)
            copy.truncate(0)  # of a run that died
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
        if copy is None or target is None:
            return reference.path
        put_in_place(copy, partial, target)
        undo.pop_all()
        copy.close()
    return target


def is_same(target: str, size: int, digest: str) -> bool:
    """True when a plain file of exactly this content is there. digest: its SHA-256. Raises `FileRefused`."""
    from stat import S_ISREG

    status = os.lstat(target)
    if not S_ISREG(status.st_mode) or status.st_size != size:
        return False
    with opened(target) as content:
        return digest_of(content) == digest


def digest_of(content: "BinaryIO") -> str:
    """The SHA-256 of all of a file, hex."""
    from hashlib import sha256

    digest = sha256()
    content.seek(0)
    while data := content.read(_CHUNK_BYTES):
        digest.update(data)
    return digest.hexdigest()


def there_already(target: str, name: str) -> FileRefused:
    """Why nothing is saved at `target`: what is there, and the way out. name: of the file, '' where nobody knows it."""
    from stat import S_ISDIR, S_ISLNK, S_ISREG

    try:
        status = os.lstat(target)
    except OSError:
        return FileRefused(f"{target}: something else was there a moment ago; receive it again")
    if S_ISDIR(status.st_mode):
        inside = f", such as {os.path.join(target, name)}" if name else ""
        return FileRefused(f"{target}: is a directory; name the file that is to be made in it{inside}")
    kind = "a symbolic link" if S_ISLNK(status.st_mode) else "something that is no plain file"
    if S_ISREG(status.st_mode):
        kind = f"another file, of {status.st_size} bytes"
    return FileRefused(
        f"{target}: {kind}, is there, and nothing is overwritten; move it away or name another path, and receive again"
    )


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


def partial_of(target: str, called: str, digest: str) -> str:
    """Beside the target, where content of that SHA-256 gathers for it."""
    from hashlib import sha256

    name = sha256(f"{os.path.basename(target)}\0{digest}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return os.path.join(os.path.dirname(target), f".synapse-{called}-{name}.part")


def gathered(partial: str) -> "BinaryIO":
    """The partial file, ours alone. Raises `FileRefused` while another process fills it."""
    import fcntl

    while True:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            file = os.fdopen(os.open(partial, flags, 0o600), "r+b")
        except OSError as error:
            raise FileRefused(f"{partial}: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(partial)):
                return file
        except FileNotFoundError:
            pass
        except OSError as error:
            file.close()
            raise FileRefused(f"{partial}: another process receives this file here; let it end") from error
        file.close()  # another process has just put it in place


def put_in_place(content: "BinaryIO", partial: str, target: str) -> None:
    """Durable, then under its name, which nothing may have. Raises `FileRefused`."""
    content.flush()
    os.fsync(content.fileno())
    try:
        _name_once(partial, target)
    except FileExistsError as error:
        raise there_already(target, "") from error
    except OSError as error:
        raise FileRefused(f"{target}: {error.strerror}") from error
    _remove(partial)
    directory = os.open(os.path.dirname(target), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _name_once(path: str, target: str) -> None:
    """Give a file the name `target` too, which nothing may have. Raises OSError."""
    try:
        os.link(path, target)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Then its name is taken by an empty file, over which the whole one is moved.
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        os.replace(path, target)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
