"""One chunk of a file that goes through the hub, read from the journal on the reader thread."""

from typing import TYPE_CHECKING

from synapse.core.file_answers import chunk_to_read
from synapse.core.file_events import FileChunked
from synapse.core.files import file_id
from synapse.errors import Rejected
from synapse.hub.connection import Connection
from synapse.journal.interface import Pages
from synapse.journal.upcast import decode
from synapse.protocol.codec import RequestId
from synapse.protocol.cursor import cursor_of
from synapse.protocol.file_commands import ReadChunk
from synapse.protocol.file_replies import ChunkData

if TYPE_CHECKING:
    from synapse.hub.turn import Turns


def serve_chunk(turns: "Turns", connection: Connection, request_id: RequestId, command: ReadChunk) -> None:
    """Answer with a chunk once this turn is durable. Raises `Rejected`: `bad_request`, `not_found`."""
    seq, journal_id = chunk_to_read(turns.state, command, connection.by), turns.state.journal_id
    turns.disk.defer(connection, request_id, lambda: read_chunk(turns.pages, journal_id, seq))


def read_chunk(pages: Pages, journal_id: str, seq: int) -> ChunkData:
    """The chunk that lies at `seq`. Raises `Rejected(not_found)` when its file ended, and it was dropped, meanwhile."""
    row = pages.row(seq)
    assert row is not None, "a chunk of a file is in the journal"
    if not row.body:
        raise Rejected("not_found", "the file ended while it was read; ask its sender to send it again")
    event = decode(row)
    assert isinstance(event, FileChunked), "where a chunk lies, there is one"
    return ChunkData(
        file=file_id(event.file),
        index=event.index,
        data=event.data,
        sha256=event.sha256,
        cursor=cursor_of(journal_id, seq),
    )
