"""Files that go through the hub in chunks: what is asked, step by step, and what is done with the answers.

    {"type":"chunked","file":"f812","name":"model.bin","bytes":5242880,"sha256":"…","chunks":40}

is the body of the message that makes such a file known. `sent` and `received` are generators: they yield requests (wire
type and body) and are sent the answers, over whatever connection; each request is the same twice as once. So both go on
where they were interrupted: the sender asks which chunks the hub has, the receiver compares what is on its disk with
the digests that the hub tells. On the fast path: standard library only.
"""

import os

from synapse.client.files import (
    FileReference,
    FileRefused,
    digest_of,
    gathered,
    is_same,
    opened,
    partial_of,
    put_in_place,
    refer_to,
    there_already,
)
from synapse.errors import Rejected

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import BinaryIO, TypeAlias, TypeVar

    Json: TypeAlias = dict[str, object]
    Step: TypeAlias = tuple[str, Json]
    Result = TypeVar("Result")
    Steps: TypeAlias = Generator[Step, Json, Result]

CHUNKED_TYPE = "chunked"
PAGE = 200


class Manifest:
    """A file that lies at the hub. file: its id there. sha256: of the whole, hex."""

    __slots__ = ("bytes", "chunks", "file", "name", "sha256")

    def __init__(self, *, file: str, name: str, bytes: int, sha256: str, chunks: int) -> None:
        self.file = file
        self.name = name
        self.bytes = bytes
        self.sha256 = sha256
        self.chunks = chunks

    def body(self) -> "Json":
        """As a message carries it."""
        return {
            "type": CHUNKED_TYPE,
            **{name: getattr(self, name) for name in ("file", "name", "bytes", "sha256", "chunks")},
        }

    @property
    def idem_key(self) -> str:
        """Under which the message that makes it known is sent, so that it is there once."""
        return f"file-{self.file}"


def manifest_in(body: object) -> Manifest | None:
    """The file at the hub that a message's body speaks of; None when it speaks of none."""
    if not isinstance(body, dict) or body.get("type") != CHUNKED_TYPE:
        return None
    file, name, size, digest, chunks = (body.get(key) for key in ("file", "name", "bytes", "sha256", "chunks"))
    if not (isinstance(file, str) and isinstance(name, str) and isinstance(digest, str)):
        return None
    if not (isinstance(size, int) and isinstance(chunks, int)):
        return None
    return Manifest(file=file, name=name, bytes=size, sha256=digest, chunks=chunks)


def split_target(target: str) -> "tuple[tuple[str, ...], str | None, str | None]":
    """Whom a target means: names, or a channel, or a role, whose members are to be asked for. Raises ValueError for
    `all`: a file is for those who are named, or for who reads a channel."""
    if target == "all":
        raise ValueError(
            "a file goes to names, to a role or to a channel, not to all, which may be others until they have it: all "
            "members of a room read its channels"
        )
    kind, colon, name = target.partition(":")
    if kind == "role" and colon:
        return (), None, name
    return ((), target, None) if colon else (tuple(one.strip() for one in target.split(",")), None, None)


def members_of(role: str, participants: object) -> tuple[str, ...]:
    """Who may read a file that is sent to a role. Raises `FileRefused` when that is nobody."""
    names = tuple(map(str, participants)) if isinstance(participants, list | tuple) else ()
    if not names:
        raise FileRefused(f"role:{role} has no members, and who joins later could not read the file")
    return names


def carry_out(steps: "Steps[Result]", ask: "Callable[[str, Json], Json]") -> "Result":
    """Do all steps over a connection that blocks. ask: one request and its answer."""
    answer: Json | None = None
    try:
        while True:
            kind, body = steps.send(answer) if answer is not None else next(steps)
            try:
                answer = ask(kind, body)
            except Rejected as error:
                kind, body = steps.throw(error)
                answer = ask(kind, body)
    except StopIteration as end:
        result: Result = end.value
        return result
    finally:
        steps.close()


def sent(
    path: "str | os.PathLike[str]", *, to: tuple[str, ...] = (), channel: str | None = None, create: bool = False
) -> "Steps[Manifest]":
    """Bring a file to the hub, for agents or for a channel; what is there already is not sent again.

    Raises `FileRefused` for what is no plain file, or changes meanwhile.
    """
    reference = refer_to(path)
    about: Json = {"name": _name_of(reference.path), "bytes": reference.bytes, "sha256": reference.sha256}
    place: Json = {"to": list(to), "create": create} if to else {"channel": channel}
    began = yield "file.begin", {**about, **place}
    file, size, count = _text(began, "file"), _number(began, "chunk_bytes"), _number(began, "chunks")
    shown, digests = yield from _digests(file)
    if not shown.get("complete"):
        with opened(reference.path) as content:
            yield from _put_all(content, reference, file, size, digests)
        yield "file.complete", {"file": file}
    name = _text(shown, "name")
    return Manifest(file=file, name=name, bytes=reference.bytes, sha256=reference.sha256, chunks=count)


def _put_all(
    content: "BinaryIO", reference: FileReference, file: str, size: int, digests: dict[int, str]
) -> "Generator[Step, Json, None]":
    """The chunks that the hub does not have, read once; and the whole is still what was announced, or it is withdrawn.

    size: of a chunk.
    """
    from base64 import b64encode
    from hashlib import sha256

    digest, index, left = sha256(), 0, reference.bytes
    while left:
        data = content.read(min(size, left))
        if not data:
            break
        digest.update(data)
        its = sha256(data).hexdigest()
        left -= len(data)
        if digests.get(index) != its and (len(data) == size or not left):
            yield "file.put", {"file": file, "index": index, "data": b64encode(data).decode(), "sha256": its}
        index += 1
    if left or content.read(1) or digest.hexdigest() != reference.sha256:
        yield "file.withdraw", {"file": file}
        raise FileRefused(f"{reference.path}: changed while it was sent; send it again when it is finished")


def _digests(file: str) -> "Generator[Step, Json, tuple[Json, dict[int, str]]]":
    """What the hub tells of a file, and the SHA-256 of each chunk that is there, by index."""
    digests: dict[int, str] = {}
    after: object = None
    while True:
        shown = yield "file.show", {"file": file, "limit": PAGE, "after": after}
        page = shown.get("digests")
        for chunk in page if isinstance(page, list) else ():
            digests[chunk["index"]] = chunk["sha256"]
        after = shown.get("next")
        if after is None:
            return shown, digests


def received(manifest: Manifest, save: "str | os.PathLike[str]") -> "Steps[str]":
    """Fetch a file into a new one, whose path is given back. What is fetched gathers beside it, in a file of its own
    that is linked into place when all of it is verified; run again, it goes on with the chunks that are right there.

    Raises `FileRefused` when something is already there, or the content is not what was sent.
    """
    target = os.path.abspath(os.fspath(save))
    if os.path.lexists(target):
        if not is_same(target, manifest.bytes, manifest.sha256):
            raise there_already(target, os.path.basename(manifest.name))
        yield from _received(manifest.file)  # an earlier run put it there, and died before it could say so
        return target
    partial = partial_of(target, manifest.file, manifest.sha256)
    with gathered(partial) as content:
        try:
            shown, digests = yield from _digests(manifest.file)
            _require_same(manifest, shown, digests)
            size = _number(shown, "chunk_bytes")
            for index in range(manifest.chunks):
                yield from _fetch(content, manifest, index, size, digests[index])
        except Rejected as error:
            if error.code == "not_found":  # it will never be fetched
                os.unlink(partial)
            raise
        _require_whole(content, manifest, partial)
        put_in_place(content, partial, target)
    yield from _received(manifest.file)
    return target


def _received(file: str) -> "Generator[Step, Json, None]":
    """Tell the hub that it is here; who cannot tell, because it has ended, has it all the same."""
    try:
        yield "file.receive", {"file": file}
    except Rejected:
        return


def _fetch(
    content: "BinaryIO", manifest: Manifest, index: int, size: int, digest: str
) -> "Generator[Step, Json, None]":
    """One chunk, unless the right one is on disk."""
    from base64 import b64decode
    from hashlib import sha256

    length = min(size, manifest.bytes - index * size)
    content.seek(index * size)
    if sha256(content.read(length)).hexdigest() == digest:
        return
    answer = yield "file.read", {"file": manifest.file, "index": index}
    try:
        data = b64decode(_text(answer, "data"), validate=True)
    except ValueError:
        data = b""
    if len(data) != length or sha256(data).hexdigest() != digest:
        raise FileRefused(
            f"chunk {index} of {manifest.file} ({manifest.name}) is not what its sender sent (SHA-256 differs); "
            "receive it again, or ask for it again"
        )
    content.seek(index * size)
    content.write(data)
    content.flush()


def _require_same(manifest: Manifest, shown: "Json", digests: dict[int, str]) -> None:
    """The message and the hub speak of the same file, and all of it is there. Raises `FileRefused`."""
    told = tuple(shown.get(name) for name in ("bytes", "sha256", "chunks"))
    if told != (manifest.bytes, manifest.sha256, manifest.chunks):
        raise FileRefused(f"{manifest.file}: the message and the hub say different things of it; ask for it again")
    missing = next((index for index in range(manifest.chunks) if index not in digests), None)
    if missing is not None:
        raise FileRefused(f"chunk {missing} of {manifest.file} ({manifest.name}) is missing at the hub")


def _require_whole(content: "BinaryIO", manifest: Manifest, partial: str) -> None:
    """All chunks together are what was announced; if not, nothing is left. Raises `FileRefused`."""
    content.truncate(manifest.bytes)
    if digest_of(content) != manifest.sha256:
        os.unlink(partial)
        raise FileRefused(
            f"{manifest.file} ({manifest.name}): each chunk is what was sent, and the whole is not what was announced "
            "(SHA-256 differs); ask for it again"
        )


def _name_of(path: str) -> str:
    """The name of a file as others are told it."""
    name = "".join(letter if letter.isprintable() else "_" for letter in os.path.basename(path))
    return name[:255] or "_"


def _text(answer: "Json", name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str):
        raise FileRefused(f"the hub did not say `{name}`; it speaks another protocol")
    return value


def _number(answer: "Json", name: str) -> int:
    value = answer.get(name)
    if not isinstance(value, int):
        raise FileRefused(f"the hub did not say `{name}`; it speaks another protocol")
    return value
