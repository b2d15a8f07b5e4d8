"""Files on their way through the hub, as the journal tells them: chunk by chunk, for whom, and how each ended.

Nobody but those it is for is told of a file, and they only once all of it is there. What is read is what was put. What
agents have on their way stays within the limits, and whatever ended gave its place back: when all had it, when it was
withdrawn, or at its date.
"""

from base64 import b64decode
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Final, TypeAlias, assert_never

from tests.simulation.agenda import Past
from tests.simulation.limits import LIMITS
from tests.simulation.privacy import Privacy
from tests.simulation.terms import Violation

from synapse.core.events import Recorded
from synapse.core.file_events import FileBegun, FileChunked, FileCompleted, FileEnded, FileEvent, FileReceived

Json: TypeAlias = dict[str, Any]
LATE_MS_MAX: Final = 3_000
OPERATOR: Final = "operator"


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a file was from one event on. chunks: the SHA-256 of those that are there, by index. completed: at which
    seq, or 0."""

    id: int
    sender: str
    to: tuple[str, ...]
    channel: str | None
    name: str
    bytes: int
    sha256: str
    begun_at_ms: int
    expires_at_ms: int
    chunks: Mapping[int, str] = field(default_factory=dict)
    completed: int = 0
    received: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Into how many chunks it is cut."""
        return -(-self.bytes // LIMITS.chunk_bytes_max)

    @property
    def place(self) -> tuple[object, ...]:
        """The same content of the same agent under the same name, for the same ones, is one file."""
        return self.sender, frozenset(self.to), self.channel, self.name, self.sha256, self.bytes


class Parcels:
    """All files there ever were. names, channels: by id."""

    def __init__(
        self, privacy: Privacy, names: Mapping[int, str], channels: Mapping[int, str], sometimes: Callable[[str], None]
    ) -> None:
        self.now: dict[int, Parcel] = {}
        self._pasts: dict[int, Past] = defaultdict(Past)
        self._last: dict[int, Parcel] = {}
        self._rows: dict[int, dict[int, int]] = defaultdict(dict)
        self._data: dict[tuple[int, int, str], bytes] = {}
        self._asked: set[tuple[object, ...]] = set()
        self._over: set[int] = set()
        self._late_since_ms: dict[int, int] = {}
        self._privacy = privacy
        self._names = names
        self._channels = channels
        self._sometimes = sometimes

    # What was asked for.

    def ask(self, kind: str, agent: str, body: Json) -> None:
        """The hub is about to hear this."""
        match kind:
            case "file.begin":
                to = frozenset(body.get("to") or ())
                self._asked.add((agent, body["name"], to, body.get("channel"), body["sha256"], body["bytes"]))
            case "file.put":
                self._asked.add((kind, agent, body["file"], body["index"], body["sha256"]))
            case "file.complete" | "file.receive" | "file.withdraw":
                self._asked.add((kind, agent, body["file"]))
            case _:
                pass

    def _require_asked(self, entry: Recorded, *what: object) -> None:
        if what not in self._asked:
            raise Violation("unasked", f"{entry.actor} never asked for what {entry.seq} is: {what}", entry.actor)

    # The fold.

    def enter(self, entry: Recorded, event: FileEvent) -> None:
        """Fold an event in. Raises `Violation`."""
        if isinstance(event, FileBegun):
            self._begin(entry, event)
            return
        parcel = self.now.get(event.file)
        if parcel is None:
            raise Violation("not live", f"{entry.seq} is {event}; there is no f{event.file} any more", entry.actor)
        match event:
            case FileChunked():
                self._put(entry, event, parcel)
            case FileCompleted():
                self._complete(entry, event, parcel)
            case FileReceived():
                self._receive(entry, event, parcel)
            case FileEnded():
                self._end(entry, event, parcel)
            case _:
                assert_never(event)

    def _become(self, seq: int, parcel: Parcel) -> None:
        self.now[parcel.id] = self._last[parcel.id] = parcel
        self._pasts[parcel.id].become(seq, parcel)

    def _let_go(self, seq: int, parcel: Parcel) -> None:
        del self.now[parcel.id]
        self._rows.pop(parcel.id, None)
        self._pasts[parcel.id].become(seq, None)

    def _begin(self, entry: Recorded, event: FileBegun) -> None:
        seq, at_ms, actor, _ = entry
        to = tuple(self._names[agent] for agent in event.to)
        channel = None if event.channel is None else self._channels[event.channel]
        self._require_asked(entry, actor, event.name, frozenset(to), channel, event.sha256, event.bytes)
        parcel = Parcel(seq, actor, to, channel, event.name, event.bytes, event.sha256, at_ms, event.expires_at_ms)
        same = next((it for it in self.now.values() if it.place == parcel.place), None)
        if same is not None and at_ms < same.expires_at_ms:
            raise Violation("applied twice", f"{actor} begins {same} anew at {seq}", actor)
        if same is not None:
            self._let_go(seq, same)
        told = self._names.get(event.agent), event.chunk_bytes, event.expires_at_ms
        if told != (actor, LIMITS.chunk_bytes_max, at_ms + LIMITS.file_ttl_ms):
            raise Violation("altered", f"{seq} begins {event} at {at_ms}", actor)
        self._become(seq, parcel)
        used = self._used(self.now.values(), actor)
        if any(used[name] > getattr(LIMITS, name) for name in used) or parcel.bytes > LIMITS.file_bytes_max:
            raise Violation("too much", f"{actor} begins {parcel} at {seq}: {used}", actor)

    def _used(self, parcels: Iterable[Parcel], agent: str) -> dict[str, int]:
        """What is on its way, by the limit that it counts for."""
        there = list(parcels)
        mine = [parcel for parcel in there if parcel.sender == agent]
        return {
            "files_per_agent_max": len(mine), "files_bytes_per_agent_max": sum(parcel.bytes for parcel in mine),
            "files_max": len(there), "files_bytes_max": sum(parcel.bytes for parcel in there),
        }  # fmt: skip

    def _put(self, entry: Recorded, event: FileChunked, parcel: Parcel) -> None:
        seq, _, actor, _ = entry
        index, size = event.index, LIMITS.chunk_bytes_max
        self._require_asked(entry, "file.put", actor, f"f{parcel.id}", index, event.sha256)
        due = min(size, parcel.bytes - index * size)
        if len(event.data) != due or sha256(event.data).hexdigest() != event.sha256 or not 0 <= index < parcel.count:
            raise Violation("altered", f"{seq} is chunk {index} of {parcel}, {len(event.data)} bytes", actor)
        if actor != parcel.sender or parcel.completed or parcel.chunks.get(index) == event.sha256:
            raise Violation("stale accepted", f"{seq} is chunk {index} of {parcel} by {actor}", actor)
        self._data[parcel.id, index, event.sha256] = event.data
        self._rows[parcel.id][index] = seq
        self._become(seq, replace(parcel, chunks={**parcel.chunks, index: event.sha256}))

    def _complete(self, entry: Recorded, event: FileCompleted, parcel: Parcel) -> None:
        seq, at_ms, actor, _ = entry
        self._require_asked(entry, "file.complete", actor, f"f{parcel.id}")
        if parcel.completed or len(parcel.chunks) != parcel.count or actor != parcel.sender:
            raise Violation("not whole", f"{seq} completes {parcel}", actor)
        if event.expires_at_ms != at_ms + LIMITS.file_ttl_ms:
            raise Violation("altered", f"{seq} is {event} at {at_ms}", actor)
        self._become(seq, replace(parcel, completed=seq, expires_at_ms=event.expires_at_ms))
        self._sometimes("a file was complete")

    def _receive(self, entry: Recorded, event: FileReceived, parcel: Parcel) -> None:
        seq, _, actor, _ = entry
        self._require_asked(entry, "file.receive", actor, f"f{parcel.id}")
        is_meant = self._names.get(event.agent) == actor and actor in parcel.to and actor not in parcel.received
        if not is_meant or not parcel.completed:
            raise Violation("foreign", f"{seq} is {event} of {actor}; there is {parcel}", actor)
        parcel = replace(parcel, received=(*parcel.received, actor))
        self._become(seq, parcel)
        if len(parcel.received) == len(parcel.to):
            self._over.add(parcel.id)

    def _end(self, entry: Recorded, event: FileEnded, parcel: Parcel) -> None:
        seq, at_ms, actor, _ = entry
        match event.reason:
            case "received":
                is_so = parcel.id in self._over
            case "withdrawn":
                self._require_asked(entry, "file.withdraw", actor, f"f{parcel.id}")
                is_so = actor in (parcel.sender, OPERATOR)
            case _:
                is_so = event.reason == "expired" and actor == "hub" and at_ms >= parcel.expires_at_ms
        if not is_so:
            raise Violation("ended early", f"{seq} at {at_ms} is {event} by {actor}; there is {parcel}", actor)
        self._over.discard(parcel.id)
        self._let_go(seq, parcel)
        self._sometimes(f"a file ended: {event.reason}")

    def end_transaction(self, seq: int) -> None:
        """What all have is let go. Raises `Violation`."""
        if self._over:
            raise Violation("not released", f"all have {[f'f{file}' for file in self._over]} at {seq}")

    def rows(self) -> set[int]:
        """In which rows the chunks lie that somebody may still read."""
        return {seq for rows in self._rows.values() for seq in rows.values()}

    # What is told.

    def at(self, text: str, seq: int) -> Parcel | None:
        """A file as the journal up to `seq` has it."""
        past = self._pasts.get(int(text[1:]))
        found: Parcel | None = None if past is None else past.upto(seq)
        return found

    def _is_for(self, parcel: Parcel, agent: str, seq: int) -> bool:
        """Whether it is there for an agent, as of this position."""
        if agent in (parcel.sender, OPERATOR):
            return True
        if parcel.channel is None or not parcel.completed:
            return bool(parcel.completed) and agent in parcel.to
        return self._privacy.floor(agent, parcel.channel, seq) < parcel.completed

    def told(self, parcel: Parcel) -> Json:
        """A file as a list tells it."""
        where: Json = {"to": list(parcel.to)} if parcel.channel is None else {"channel": parcel.channel}
        return where | {
            "file": f"f{parcel.id}", "name": parcel.name, "from": parcel.sender, "bytes": parcel.bytes,
            "sha256": parcel.sha256, "chunk_bytes": LIMITS.chunk_bytes_max, "chunks": parcel.count,
            "stored": len(parcel.chunks), "complete": bool(parcel.completed), "received": list(parcel.received),
            "begun_at_ms": parcel.begun_at_ms, "expires_at_ms": parcel.expires_at_ms,
        }  # fmt: skip

    def require_true(self, agent: str, kind: str, body: Json, seq: int, reply: Json, wall_ms: tuple[int, int]) -> None:
        """A reply about files says what is so. Raises `Violation`."""
        match kind:
            case "file.list":
                self._require_list(agent, seq, reply, wall_ms)
            case "file.read":
                self._require_read(agent, body, reply)
            case "file.begin":
                self._require_begun(agent, body, seq, reply)
            case "file.put":
                if (int(body["file"][1:]), body["index"], body["sha256"]) not in self._data:
                    raise Violation("lost", f"{agent} put chunk {body['index']} of {body['file']}: {reply}", agent)
            case "file.complete":
                parcel = self._last[int(body["file"][1:])]
                if not 0 < parcel.completed <= seq or reply["expires_at_ms"] != parcel.expires_at_ms:
                    raise Violation("lost", f"{agent} completed {reply}; there is {parcel}", agent)
            case "file.show":
                self._require_shown(agent, body, seq, reply)
            case "file.receive":
                parcel = self._last[int(body["file"][1:])]
                if agent in parcel.to and agent not in parcel.received:
                    raise Violation("lost", f"{agent} received {reply}; there is {parcel}", agent)
            case "file.withdraw":
                if not reply["ended"] or int(body["file"][1:]) in self.now:
                    raise Violation("lost", f"{agent} withdrew {body}, and is told {reply}", agent)
            case _:
                pass

    def _require_begun(self, agent: str, body: Json, seq: int, reply: Json) -> None:
        parcel = self.at(reply["file"], seq)
        due = agent, frozenset(body.get("to") or ()), body.get("channel"), body["name"], body["sha256"], body["bytes"]
        if parcel is None or parcel.place != due:
            raise Violation("lost", f"{agent} began {body}, is told {reply}; there is {parcel}", agent)
        told = reply["chunk_bytes"], reply["chunks"], reply["expires_at_ms"]
        if told != (LIMITS.chunk_bytes_max, parcel.count, parcel.expires_at_ms):
            raise Violation("altered", f"{agent} is told {reply}; there is {parcel}", agent)
        if parcel.chunks and not parcel.completed:
            self._sometimes("a transfer went on where it was cut off")

    def _require_shown(self, agent: str, body: Json, seq: int, reply: Json) -> None:
        parcel = self.at(body["file"], seq)
        if parcel is None or not self._is_for(parcel, agent, seq):
            raise Violation("foreign", f"{agent} is shown {reply} at {seq}; there is {parcel}", agent)
        due = self.told(parcel)
        after = -1 if body.get("after") is None else body["after"]
        left = [index for index in sorted(parcel.chunks) if index > after]
        page = left[: body["limit"]]
        due["digests"] = [{"index": index, "sha256": parcel.chunks[index]} for index in page]
        due["next"] = page[-1] if len(left) > len(page) else None
        if {name: reply.get(name, []) for name in due} != due:
            raise Violation("wrong file", f"{agent} is shown {reply} at {seq}; {due} is due", agent)
        if due["next"] is not None:
            self._sometimes("the digests of a file took several pages")

    def _require_read(self, agent: str, body: Json, reply: Json) -> None:
        parcel = self._last.get(int(body["file"][1:]))
        if parcel is None or not self._was_for(parcel, agent):
            raise Violation("foreign", f"{agent} reads a chunk of {body}; there is {parcel}", agent)
        data = self._data.get((parcel.id, body["index"], reply["sha256"]))
        if b64decode(reply["data"]) != data or (reply["file"], reply["index"]) != (body["file"], body["index"]):
            raise Violation("altered", f"{agent} reads {reply}; {data!r} was put", agent)

    def _was_for(self, parcel: Parcel, agent: str) -> bool:
        """As `_is_for`, now or a moment ago."""
        if parcel.channel is None or agent == parcel.sender:
            return self._is_for(parcel, agent, 0)
        return bool(parcel.completed) and self._privacy.read_lately(agent, parcel.channel, parcel.completed)

    def _require_list(self, agent: str, seq: int, reply: Json, wall_ms: tuple[int, int]) -> None:
        there = [parcel for past in self._pasts.values() if (parcel := past.upto(seq)) is not None]
        mine = [parcel for parcel in there if self._is_for(parcel, agent, seq)]
        may = {parcel.id: self.told(parcel) for parcel in mine if parcel.expires_at_ms > wall_ms[0]}
        must = [parcel.id for parcel in mine if parcel.expires_at_ms > wall_ms[1]]
        told = {int(it["file"][1:]): {"received": [], **it} for it in reply["files"]}
        size = sum(parcel.bytes for parcel in there if agent in (OPERATOR, parcel.sender))
        is_so = all(may.get(file) == it for file, it in told.items()) and all(file in told for file in must)
        if not is_so or reply["bytes"] != size or list(told) != sorted(told):
            raise Violation("wrong page", f"{agent} lists {reply} at {seq}; {may} are there, {size} bytes", agent)

    def require_refused_rightly(
        self, agent: str, kind: str, body: Json, seq: int, error: Json, wall_ms: tuple[int, int]
    ) -> None:
        """What a request about files was refused for is so. Raises `Violation`."""
        facts, code = error.get("facts") or {}, error["code"]
        parcel = None if "file" not in body else self.at(body["file"], seq)
        match code:
            case "limit":
                used = self._used((it for past in self._pasts.values() if (it := past.upto(seq))), agent)
                more = 1 if "bytes" not in facts["limit"] else body["bytes"]
                is_so = used[facts["limit"]] == facts["used"] and facts["used"] + more > facts["value"]
            case "too_large":
                is_so = body["bytes"] > LIMITS.file_bytes_max
            case "not_found" if "file" in body and "missing" not in facts:
                is_gone = parcel is None or parcel.expires_at_ms <= wall_ms[1] or not self._is_for(parcel, agent, seq)
                is_so = is_gone or int(body["file"][1:]) not in self.now
            case "not_found" if "file" in body:
                is_so = parcel is not None and facts["missing"] == parcel.count - len(parcel.chunks) > 0
            case "not_permitted":
                is_so = parcel is not None and agent != parcel.sender and self._is_for(parcel, agent, seq)
            case "already_exists":
                is_so = parcel is not None and parcel.completed > 0
            case _:
                is_so = code != "bad_request"
        if not is_so:
            raise Violation("fenced wrongly", f"{kind} {body} of {agent} at {seq}: {error}; there is {parcel}", agent)
        self._sometimes(f"refused of files: {code}")

    # What is checked from time to time.

    def check(self, files: dict[int, tuple[bool, int, int]], size: int, wall_ms: int, working_ms: int) -> None:
        """The hub keeps these files: whether complete, how many chunks are there, how many have it; and no more bytes
        than that; and none is past its date. Raises `Violation`."""
        due = {it.id: (bool(it.completed), len(it.chunks), len(it.received)) for it in self.now.values()}
        if files != due or size != sum(parcel.bytes for parcel in self.now.values()):
            raise Violation("altered", f"the hub's files are {files}, {size} bytes; {due} are the journal's")
        late = {it.id for it in self.now.values() if it.expires_at_ms <= wall_ms}
        self._late_since_ms = {at: self._late_since_ms.get(at, working_ms) for at in late}
        for at, since_ms in self._late_since_ms.items():
            if working_ms - since_ms > LATE_MS_MAX:
                raise Violation("expired late", f"{self.now[at]} is there at {wall_ms}", self.now[at].sender)
