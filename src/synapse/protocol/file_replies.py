"""What is answered about files that go through the hub in chunks; `replies` has them in its union."""

from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from synapse.protocol import file_commands


class ChunkInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk that is there."""

    index: int
    sha256: str


class FileInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file that goes through the hub. file: its id. to: agents; or channel, `room:channel`. chunks: how many it is
    cut into, each of `chunk_bytes`, the last one of what is left. stored: how many are there. received: agents that
    have it. digests: a page of the chunks that are there, in `file.show` alone. sender is `from` on the wire. An
    operator is told neither `name` nor digests of what it may not read."""

    file: str
    name: str | None
    sender: str = msgspec.field(name="from")
    to: tuple[str, ...] | UnsetType = UNSET
    channel: str | UnsetType = UNSET
    bytes: int
    sha256: str | None
    chunk_bytes: int
    chunks: int
    stored: int
    complete: bool
    received: tuple[str, ...] = ()
    begun_at_ms: int
    expires_at_ms: int
    digests: tuple[ChunkInfo, ...] | UnsetType = UNSET
    next: int | UnsetType | None = UNSET
    cursor: str | UnsetType = UNSET


class FileBegan(msgspec.Struct, frozen=True, kw_only=True):
    """How to cut the file: into `chunks` pieces of `chunk_bytes`. It is let go at `expires_at_ms`, complete or not."""

    file: str
    chunk_bytes: int
    chunks: int
    expires_at_ms: int
    cursor: str


class ChunkStored(msgspec.Struct, frozen=True, kw_only=True):
    """The chunk is durable. already: it was there before."""

    file: str
    index: int
    already: bool
    cursor: str


class FileCompleted(msgspec.Struct, frozen=True, kw_only=True):
    """Who the file is for can read it, until `expires_at_ms`."""

    file: str
    expires_at_ms: int
    cursor: str


class ChunkData(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk, in base64. sha256: what its sender said of it."""

    file: str
    index: int
    data: bytes
    sha256: str
    cursor: str


class FileLetGo(msgspec.Struct, frozen=True, kw_only=True):
    """ended: the hub has let the file go, and its space is free again."""

    file: str
    ended: bool
    cursor: str


class FilesPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of files, oldest first. bytes: what the files of who asks take; for an operator, all files."""

    files: tuple[FileInfo, ...]
    bytes: int
    next: str | None
    cursor: str


FileReply: TypeAlias = FileInfo | FileBegan | ChunkStored | FileCompleted | ChunkData | FileLetGo | FilesPage

FILE_REPLY_TO: Final[dict[type[msgspec.Struct], type[FileReply]]] = {
    file_commands.BeginFile: FileBegan,
    file_commands.PutChunk: ChunkStored,
    file_commands.CompleteFile: FileCompleted,
    file_commands.ShowFile: FileInfo,
    file_commands.ReadChunk: ChunkData,
    file_commands.ReceiveFile: FileLetGo,
    file_commands.WithdrawFile: FileLetGo,
    file_commands.ListFiles: FilesPage,
}
