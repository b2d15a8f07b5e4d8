"""What may be asked about files that go through the hub in chunks; `commands` has them in its union.

Each is the same twice as once, so that an interrupted transfer goes on by being begun again.
"""

from typing import Final, TypeAlias

import msgspec

from synapse.protocol.terms import Int


class BeginFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Announce a file for agents, or for who may read a channel; the answer says how to cut it. The same content
    under the same name, for the same place, is the same file until it has ended. sha256: of the whole, hex. create: as
    in `message.send`."""

    name: str
    bytes: Int
    sha256: str
    to: tuple[str, ...] = ()
    channel: str | None = None
    create: bool = False


class PutChunk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bring one chunk of a file of mine, in base64. index: from 0. sha256: of the chunk, hex. Until the file is
    complete, another content for the same index takes the place of the first."""

    file: str
    index: Int
    data: bytes
    sha256: str


class CompleteFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All chunks of a file of mine are there: from now on who it is for can read it."""

    file: str


class ShowFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the hub has of a file, and one page of the chunks that are there, by index. after: an index."""

    file: str
    limit: Int = 200
    after: Int | None = None


class ReadChunk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fetch one chunk of a complete file."""

    file: str
    index: Int


class ReceiveFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """I have the whole file. When all to whom it was sent have said so, the hub lets it go."""

    file: str


class WithdrawFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let go of a file of mine, complete or not; an operator does so with any."""

    file: str


class ListFiles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page of the files that are mine, or complete and for me, oldest first; for an operator of all. after: an
    id."""

    limit: Int = 200
    after: str | None = None


FileCommand: TypeAlias = (
    BeginFile | PutChunk | CompleteFile | ShowFile | ReadChunk | ReceiveFile | WithdrawFile | ListFiles
)

FILE_COMMANDS: Final[dict[str, type[FileCommand]]] = {
    "file.begin": BeginFile,
    "file.put": PutChunk,
    "file.complete": CompleteFile,
    "file.show": ShowFile,
    "file.read": ReadChunk,
    "file.receive": ReceiveFile,
    "file.withdraw": WithdrawFile,
    "file.list": ListFiles,
}
"""Command class by wire type."""
