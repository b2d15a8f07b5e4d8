"""What is answered about files that go through the hub in chunks."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, assert_never

from msgspec import UNSET

from synapse.core.by import By, Rules
from synapse.core.events import Recorded
from synapse.core.file_events import FileBegun, FileChunked, FileEnded
from synapse.core.file_events import FileCompleted as FileCompletedEvent
from synapse.core.files import (
    File,
    FileMutation,
    Place,
    file_id,
    find_file,
    may_read_file,
    may_see_file,
    require_index,
)
from synapse.core.refusals import require_limit
from synapse.core.rooms import require_channel
from synapse.errors import Rejected, bad_request
from synapse.protocol.file_commands import (
    BeginFile,
    CompleteFile,
    ListFiles,
    PutChunk,
    ReadChunk,
    ReceiveFile,
    ShowFile,
    WithdrawFile,
)
from synapse.protocol.file_replies import (
    ChunkInfo,
    ChunkStored,
    FileBegan,
    FileCompleted,
    FileInfo,
    FileLetGo,
    FileReply,
    FilesPage,
)

if TYPE_CHECKING:
    from synapse.core.state import State


def answer_file(state: "State", command: FileMutation, by: By, events: Sequence[Recorded], cursor: str) -> FileReply:
    """The files' part of `answers.answer`."""
    last = events[-1].event if events else None
    match command:
        case BeginFile():
            return _began(state, command, by, events, cursor)
        case PutChunk():
            already = not isinstance(last, FileChunked)
            return ChunkStored(file=command.file, index=command.index, already=already, cursor=cursor)
        case CompleteFile():
            if isinstance(last, FileCompletedEvent):
                return FileCompleted(file=command.file, expires_at_ms=last.expires_at_ms, cursor=cursor)
            file = find_file(state, command.file, by)
            return FileCompleted(file=command.file, expires_at_ms=file.expires_at_ms, cursor=cursor)
        case ReceiveFile() | WithdrawFile():
            return FileLetGo(file=command.file, ended=isinstance(last, FileEnded), cursor=cursor)
        case _:
            assert_never(command)


def _began(state: "State", command: BeginFile, by: By, events: Sequence[Recorded], cursor: str) -> FileBegan:
    if events:
        event, number = events[-1].event, events[-1].seq
        assert isinstance(event, FileBegun)
        count = -(-event.bytes // event.chunk_bytes)
        expires_at_ms, chunk_bytes = event.expires_at_ms, event.chunk_bytes
    else:
        known = state.files.by_place[_place_of(state, command, by)]
        number, count, expires_at_ms, chunk_bytes = known.id, known.count, known.expires_at_ms, known.chunk_bytes
    return FileBegan(
        file=file_id(number), chunk_bytes=chunk_bytes, chunks=count, expires_at_ms=expires_at_ms, cursor=cursor
    )


def _place_of(state: "State", command: BeginFile, by: By) -> Place:
    """Where a file that is there already was announced."""
    to = tuple(sorted({state.agents.by_name[name].id for name in command.to}))
    channel = None if to else require_channel(state, command.channel or by.home, by).id
    return by.require_agent(), to, channel, command.name, command.sha256, command.bytes


def look_file(state: "State", rules: Rules, query: ShowFile, by: By, cursor: str) -> FileInfo:
    """One file with a page of its chunks. Raises `Rejected`: `bad_request`, `not_found`."""
    require_limit(query.limit, rules.limits.page_items_max)
    file = find_file(state, query.file, by)
    there = sorted(file.chunks) if may_read_file(state, file, by) else []
    start = 0 if query.after is None else bisect_right(there, query.after)
    page = there[start : start + query.limit]
    return file_info(
        state,
        file,
        by,
        digests=tuple(ChunkInfo(index=index, sha256=file.chunks[index].sha256) for index in page),
        following=page[-1] if page and start + len(page) < len(there) else None,
        cursor=cursor,
    )


def look_files(state: "State", rules: Rules, query: ListFiles, by: By, cursor: str) -> FilesPage:
    """A page of the files that who asks may see. Raises `Rejected(bad_request)`."""
    require_limit(query.limit, rules.limits.page_items_max)
    after = 0 if query.after is None else _number(query.after)
    page: list[FileInfo] = []
    following: str | None = None
    for number, file in state.files.by_id.items():  # in order of their ids
        if number <= after or file.is_gone(by.at_ms) or not may_see_file(state, file, by):
            continue
        if len(page) == query.limit:
            following = page[-1].file
            break
        page.append(file_info(state, file, by))
    size = state.files.bytes if by.operator else state.files.by_agent.get(by.agent or 0, (0, 0))[1]
    return FilesPage(files=tuple(page), bytes=size, next=following, cursor=cursor)


def _number(text: str) -> int:
    if text[:1] != "f" or not text[1:].isdecimal() or len(text) > 17:
        raise bad_request(f"{text!a} is no file id: f and a number", "$.body.after")
    return int(text[1:])


def file_info(
    state: "State",
    file: File,
    by: By,
    *,
    digests: tuple[ChunkInfo, ...] | None = None,
    following: int | None = None,
    cursor: str | None = None,
) -> FileInfo:
    """A file as it is told: in a list, or with `digests` as an answer of its own."""
    agents, is_read = state.agents.by_id, may_read_file(state, file, by)
    channel = None if file.channel is None else state.rooms.channels.get(file.channel)
    return FileInfo(
        file=file_id(file.id),
        name=file.name if is_read else None,
        sender=file.sender,
        to=tuple(agents[agent].name for agent in file.to if agent in agents) if file.channel is None else UNSET,
        channel=UNSET if channel is None else state.rooms.address(channel),
        bytes=file.bytes,
        sha256=file.sha256 if is_read else None,
        chunk_bytes=file.chunk_bytes,
        chunks=file.count,
        stored=len(file.chunks),
        complete=file.is_complete,
        received=tuple(agents[agent].name for agent in file.received if agent in agents),
        begun_at_ms=file.begun_at_ms,
        expires_at_ms=file.expires_at_ms,
        digests=UNSET if digests is None else digests,
        next=UNSET if digests is None else following,
        cursor=UNSET if cursor is None else cursor,
    )


def chunk_to_read(state: "State", query: ReadChunk, by: By) -> int:
    """The seq at which a chunk lies. Raises `Rejected`: `bad_request`, `not_found`, `not_permitted`."""
    file = find_file(state, query.file, by)
    if not may_read_file(state, file, by):
        raise Rejected(
            "not_permitted",
            f"{query.file} is there for {file.sender}, and once it is complete for who it is for; an operator may "
            "withdraw it",
            {"file": query.file, "from": file.sender},
        )
    require_index(file, query.index)
    chunk = file.chunks.get(query.index)
    if chunk is None:
        raise Rejected(
            "not_found",
            f"chunk {query.index} of {query.file} is not there",
            {"file": query.file, "index": query.index},
        )
    return chunk.seq
