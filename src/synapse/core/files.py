"""Files that go through the hub in chunks, for agents that share no file system.

A file is announced, its chunks are put in any order, and when all are there it is completed: only then can those it is
for read it. The data of a chunk stay in the journal; the state knows at which seq each lies and what it hashes to. The
same content under the same name, from the same agent for the same place, is the same file, so an interrupted transfer
goes on by beginning again. A file ends when all to whom it was sent have it, when it is withdrawn, or at its date.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

from synapse.core.agents import require_room_for_agents
from synapse.core.by import By, Rules
from synapse.core.events import AgentCreated, Card, Event, Recorded
from synapse.core.file_events import FileBegun, FileChunked, FileCompleted, FileEnded, FileEvent, FileReceived
from synapse.core.messages import never_seen, too_many
from synapse.core.rooms import floor_of_channel, knows_agent, require_channel
from synapse.errors import Rejected, bad_request
from synapse.protocol.file_commands import BeginFile, CompleteFile, PutChunk, ReceiveFile, WithdrawFile
from synapse.protocol.limits import Limits
from synapse.protocol.names import require_agent_name, shown

if TYPE_CHECKING:
    from synapse.core.state import State

EXPIRED_MAX: Final = 1_000
"""Files that expire in one tick."""
NAME_CHARS_MAX: Final = 255
_ENVELOPE_BYTES: Final = 16 * 1024
"""What a frame with a chunk holds besides the chunk."""
_ID: Final = re.compile("f([0-9]{1,16})")
_SHA256: Final = re.compile("[0-9a-f]{64}")

Place: TypeAlias = tuple[int, tuple[int, ...], int | None, str, str, int]
"""What makes a file the same one: agent, recipients, channel, name, SHA-256 and size."""


@dataclass(slots=True)
class Chunk:
    """Where a chunk lies, and what it hashes to."""

    seq: int
    sha256: str


@dataclass(slots=True)
class File:
    """A file on its way. id: seq of its announcement. chunks: those that are there. received: agent ids.
    completed: at which seq it was complete."""

    id: int
    agent: int
    sender: str
    name: str
    bytes: int
    sha256: str
    chunk_bytes: int
    begun_at_ms: int
    expires_at_ms: int
    to: tuple[int, ...] = ()
    channel: int | None = None
    is_complete: bool = False
    completed: int = 0
    received: list[int] = field(default_factory=list)
    chunks: dict[int, Chunk] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Into how many chunks it is cut."""
        return -(-self.bytes // self.chunk_bytes)

    @property
    def place(self) -> Place:
        """What makes it the same file."""
        return self.agent, self.to, self.channel, self.name, self.sha256, self.bytes

    def bytes_of(self, index: int) -> int:
        """How long a chunk is."""
        return min(self.chunk_bytes, self.bytes - index * self.chunk_bytes)

    def is_gone(self, at_ms: int) -> bool:
        """True when its time has passed."""
        return self.expires_at_ms <= at_ms


@dataclass(slots=True)
class Files:
    """All files on their way. bytes: of all, as announced. by_agent: how many files and bytes are whose."""

    by_id: dict[int, File] = field(default_factory=dict)
    by_place: dict[Place, File] = field(default_factory=dict)
    by_agent: dict[int, tuple[int, int]] = field(default_factory=dict)
    bytes: int = 0
    _ends: list[tuple[int, int]] = field(default_factory=list)

    def add(self, file: File) -> None:
        """One more file."""
        self.by_id[file.id] = self.by_place[file.place] = file
        count, size = self.by_agent.get(file.agent, (0, 0))
        self.by_agent[file.agent] = (count + 1, size + file.bytes)
        self.bytes += file.bytes
        self.expect_end(file)

    def drop(self, file: File) -> None:
        """A file is let go."""
        del self.by_id[file.id], self.by_place[file.place]
        count, size = self.by_agent.pop(file.agent)
        if count > 1:
            self.by_agent[file.agent] = (count - 1, size - file.bytes)
        self.bytes -= file.bytes

    def expect_end(self, file: File) -> None:
        """Note when it ends; the note of an earlier date is void."""
        heappush(self._ends, (file.expires_at_ms, file.id))

    def due(self, at_ms: int, most: int) -> Iterator[File]:
        """Files whose time has passed, earliest first; each is told once."""
        while self._ends and self._ends[0][0] <= at_ms and most > 0:
            ends_at_ms, number = heappop(self._ends)
            file = self.by_id.get(number)
            if file is not None and file.expires_at_ms == ends_at_ms:
                most -= 1
                yield file

    def pinned(self) -> Iterator[int]:
        """The rows in which the chunks lie."""
        for file in self.by_id.values():
            for chunk in file.chunks.values():
                yield chunk.seq


FileMutation: TypeAlias = BeginFile | PutChunk | CompleteFile | ReceiveFile | WithdrawFile


def file_id(number: int) -> str:
    """A file's id as it is shown."""
    return f"f{number}"


def find_file(state: "State", text: str, by: By) -> File:
    """The file with this id, as far as who asks may know of it: its sender, an operator, and once it is complete
    those it is for. Raises `Rejected`: `bad_request`, `not_found`."""
    found = _ID.fullmatch(text)
    if found is None:
        raise bad_request(f"{shown(text)} is no file id: f and a number", "$.body.file")
    file = state.files.by_id.get(int(found[1]))
    if file is None or file.is_gone(by.at_ms) or not may_see_file(state, file, by):
        raise Rejected(
            "not_found",
            f"there is no file {text} (any more) for {by.actor}: it was received by all, withdrawn, or its time "
            "passed; ask its sender to send it again",
            {"file": text},
        )
    return file


def may_see_file(state: "State", file: File, by: By) -> bool:
    """Whether a file is there for who asks. An operator sees that it is, and may withdraw it."""
    return by.operator or may_read_file(state, file, by)


def may_read_file(state: "State", file: File, by: By) -> bool:
    """Whether who asks may know what is in a file: of a channel as its messages are, so that what was complete before a
    member came is not there for one who does not read what was said before."""
    if file.agent == by.agent:
        return True
    if not file.is_complete:
        return False
    if file.channel is None:
        return by.agent in file.to
    channel = state.rooms.channels.get(file.channel)
    if channel is None:
        return False
    try:
        require_channel(state, state.rooms.address(channel), by)
    except Rejected:
        return False
    floor = floor_of_channel(state, channel, by.agent)
    return not floor or file.completed > floor


def decide_file(state: "State", rules: Rules, command: FileMutation, by: By) -> list[Event]:
    """The files' part of `kernel.decide`."""
    match command:
        case BeginFile():
            return decide_begin(state, rules, command, by)
        case PutChunk():
            return decide_put_chunk(state, command, by)
        case CompleteFile():
            return decide_complete(state, rules, command, by)
        case ReceiveFile():
            return decide_receive(state, command, by)
        case WithdrawFile():
            file = _mine(state, command.file, by)
            return [FileEnded(file=file.id, reason="withdrawn")]
        case _:
            assert_never(command)


def decide_begin(state: "State", rules: Rules, command: BeginFile, by: By) -> list[Event]:
    """A file is announced, unless it was; `AgentCreated` first for recipients that `create` makes."""
    agent, limits = by.require_agent(), rules.limits
    _require_description(command, limits)
    created, to, channel = _destination(state, rules, command, by)
    place: Place = (agent, to, channel, command.name, command.sha256, command.bytes)
    known = state.files.by_place.get(place)
    if known is not None and not known.is_gone(by.at_ms):
        return []
    _require_space(state, limits, agent, command.bytes)
    return [
        *created,
        FileBegun(
            agent=agent,
            name=command.name,
            bytes=command.bytes,
            sha256=command.sha256,
            chunk_bytes=min(limits.chunk_bytes_max, (limits.frame_bytes_max - _ENVELOPE_BYTES) * 3 // 4),
            expires_at_ms=by.at_ms + limits.file_ttl_ms,
            to=to,
            channel=channel,
        ),
    ]


def _require_description(command: BeginFile, limits: Limits) -> None:
    if not 0 < len(command.name) <= NAME_CHARS_MAX or "/" in command.name or not command.name.isprintable():
        raise Rejected(
            "bad_request",
            f"the name of a file has 1 to {NAME_CHARS_MAX} printable characters and no / - at `$.body.name`",
            {"path": "$.body.name"},
        )
    if _SHA256.fullmatch(command.sha256) is None:
        raise bad_request("a SHA-256 has 64 digits, 0 to 9 and a to f", "$.body.sha256")
    if command.bytes < 0:
        raise Rejected("bad_request", "a file has at least 0 bytes - at `$.body.bytes`", {"path": "$.body.bytes"})
    if command.bytes > limits.file_bytes_max:
        raise Rejected(
            "too_large",
            f"the file has {command.bytes} bytes; at most {limits.file_bytes_max} go through the hub "
            "(file_bytes_max): send a reference to it instead, without --chunked",
            {"bytes": command.bytes, "file_bytes_max": limits.file_bytes_max},
        )


def _require_space(state: "State", limits: Limits, agent: int, size: int) -> None:
    files = state.files
    count, mine = files.by_agent.get(agent, (0, 0))
    for have, more, most, name, whose in (
        (count, 1, limits.files_per_agent_max, "files_per_agent_max", "your files on their way are"),
        (mine, size, limits.files_bytes_per_agent_max, "files_bytes_per_agent_max", "your files on their way have"),
        (len(files.by_id), 1, limits.files_max, "files_max", "the files of all agents are"),
        (files.bytes, size, limits.files_bytes_max, "files_bytes_max", "the files of all agents have"),
    ):
        if have + more > most:
            unit = "bytes" if "bytes" in name else "in number"
            raise Rejected(
                "limit",
                f"{whose} {have} of {most} {unit} ({name}), and this is {more} more: synapse file list says which, "
                "synapse file withdraw lets one go; those that are received or expire give their space back",
                {"limit": name, "value": most, "used": have},
            )


def _destination(
    state: "State", rules: Rules, command: BeginFile, by: By
) -> tuple[list[Event], tuple[int, ...], int | None]:
    """Agents to make, ids of recipients in order, or a channel's id."""
    if not command.to:
        address = by.home if command.channel is None else command.channel
        return [], (), require_channel(state, address, by).id
    if command.channel is not None:
        raise Rejected("bad_request", "give to or channel - at `$.body`", {"path": "$.body"})
    names = [require_agent_name(name) for name in dict.fromkeys(command.to)]
    if len(names) > rules.limits.recipients_max:
        raise too_many(names, rules)
    known = state.agents.by_name
    missing = [name for name in names if name not in known or not knows_agent(state, known[name].id, by)]
    if missing and (not command.create or by.rooms is not None):
        raise never_seen(state, missing, by)
    if missing:
        require_room_for_agents(state, rules, len(missing))
    ids = {name: state.seq + 1 + index for index, name in enumerate(missing)}
    ids |= {name: state.agents.by_name[name].id for name in names if name not in ids}
    created: list[Event] = [AgentCreated(name=name, card=Card()) for name in missing]
    return created, tuple(sorted(ids.values())), None


def _mine(state: "State", text: str, by: By) -> File:
    """A file of who asks; an operator has all. Raises `Rejected`: `not_found`, `not_permitted`."""
    if not by.operator:
        by.require_agent()
    file = find_file(state, text, by)
    if not by.operator and file.agent != by.agent:
        raise Rejected(
            "not_permitted",
            f"{text} is a file of {file.sender}; only its sender does that, and an operator withdraws it",
            {"file": text, "from": file.sender},
        )
    return file


def decide_put_chunk(state: "State", command: PutChunk, by: By) -> list[Event]:
    """One chunk, checked against what was said of it; nothing when it is there."""
    by.require_agent()
    file = _mine(state, command.file, by)
    index, facts = command.index, {"file": command.file, "index": command.index}
    require_index(file, index)
    if len(command.data) != file.bytes_of(index):
        why = f"chunk {index} of {command.file} has {file.bytes_of(index)} bytes, and {len(command.data)} came"
        raise bad_request(why, "$.body.data", {**facts, "bytes": file.bytes_of(index)})
    if sha256(command.data).hexdigest() != command.sha256:
        raise bad_request(
            f"chunk {index} of {command.file} is not what its SHA-256 says: send it again", "$.body.data", facts
        )
    there = file.chunks.get(index)
    if there is not None and there.sha256 == command.sha256:
        return []
    if file.is_complete:
        raise Rejected(
            "already_exists",
            f"{command.file} is complete, with another chunk {index}: withdraw it and begin again",
            facts,
        )
    return [FileChunked(file=file.id, index=index, data=command.data, sha256=command.sha256)]


def require_index(file: File, index: int) -> None:
    """Raises `Rejected(bad_request)` unless the file is cut into more chunks than that."""
    if not 0 <= index < file.count:
        raise bad_request(
            f"{file_id(file.id)} has {file.count} chunks, counted from 0; {index} is none",
            "$.body.index",
            {"file": file_id(file.id), "index": index, "chunks": file.count},
        )


def decide_complete(state: "State", rules: Rules, command: CompleteFile, by: By) -> list[Event]:
    """The file can be read, and has its whole time from now. Raises `Rejected(not_found)` for a missing chunk."""
    by.require_agent()
    file = _mine(state, command.file, by)
    if file.is_complete:
        return []
    left = file.count - len(file.chunks)
    if left:
        first = next(index for index in range(file.count) if index not in file.chunks)
        more = f", and {left - 1} more are" if left > 1 else " is"
        raise Rejected(
            "not_found",
            f"chunk {first} of {command.file}{more} missing: put them first",
            {"file": command.file, "index": first, "missing": left},
        )
    return [FileCompleted(file=file.id, expires_at_ms=by.at_ms + rules.limits.file_ttl_ms)]


def decide_receive(state: "State", command: ReceiveFile, by: By) -> list[Event]:
    """Somebody has the file. In a channel nobody knows who else wants it: it stays until its date."""
    agent = by.require_agent()
    file = find_file(state, command.file, by)
    if agent not in file.to or agent in file.received or not file.is_complete:
        return []
    received = FileReceived(file=file.id, agent=agent)
    have = {*file.received, agent}
    if all(other in have or other not in state.agents.by_id for other in file.to):
        return [received, FileEnded(file=file.id, reason="received")]
    return [received]


def decide_expired(state: "State", at_ms: int, most: int) -> list[Event]:
    """Files whose time has passed, at most so many. What is told here is not told again: it must be carried out."""
    return [FileEnded(file=file.id, reason="expired") for file in state.files.due(at_ms, most)]


def apply_file(state: "State", recorded: Recorded, event: FileEvent) -> None:
    """The files' part of `kernel.apply`."""
    files = state.files
    if isinstance(event, FileBegun):
        begun = File(
            id=recorded.seq,
            agent=event.agent,
            sender=recorded.actor,
            name=event.name,
            bytes=event.bytes,
            sha256=event.sha256,
            chunk_bytes=event.chunk_bytes,
            begun_at_ms=recorded.at_ms,
            expires_at_ms=event.expires_at_ms,
            to=event.to,
            channel=event.channel,
        )
        gone = files.by_place.get(begun.place)
        if gone is not None:  # its time has passed, and the tick was late
            files.drop(gone)
        files.add(begun)
        return
    file = files.by_id.get(event.file)
    if file is None:
        return
    match event:
        case FileChunked():
            file.chunks[event.index] = Chunk(recorded.seq, event.sha256)
        case FileCompleted():
            file.is_complete, file.completed = True, recorded.seq
            file.expires_at_ms = event.expires_at_ms
            files.expect_end(file)
        case FileReceived():
            file.received.append(event.agent)
        case FileEnded():
            files.drop(file)
        case _:
            assert_never(event)
