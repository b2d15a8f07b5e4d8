"""What happens to files that go through the hub in chunks; `events` has them in its union."""

from typing import TypeAlias

import msgspec

from synapse.core.idem import Idem


class FileBegun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent announced a file; its id is the seq of this event. agent: the sender's id. to: ids of agents; or
    channel, its id. chunk_bytes: how it is cut."""

    agent: int
    name: str
    bytes: int
    sha256: str
    chunk_bytes: int
    expires_at_ms: int
    to: tuple[int, ...] = ()
    channel: int | None = None
    idem: Idem | None = None


class FileChunked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One chunk of a file. Its data stay on disk: nobody but a reader of this chunk needs them."""

    file: int
    index: int
    data: bytes
    sha256: str
    idem: Idem | None = None


class FileCompleted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All chunks of a file are there."""

    file: int
    expires_at_ms: int
    idem: Idem | None = None


class FileReceived(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent to whom a file was sent has the whole of it."""

    file: int
    agent: int
    idem: Idem | None = None


class FileEnded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The hub let a file go. reason: received (by all), withdrawn, expired."""

    file: int
    reason: str
    idem: Idem | None = None


FileEvent: TypeAlias = FileBegun | FileChunked | FileCompleted | FileReceived | FileEnded
