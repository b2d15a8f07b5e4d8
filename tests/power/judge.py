"""The judge of a cut: opens what the disk has left, as the next start would, and compares it with what was told.

What it calls broken, each by a rule:

    refused     the start said no, or failed
    lost        something that was told is gone: an answered operation, a seq that anybody heard of, the hub's token
    not ours    a journal of another id, or a row that the uncut journal does not have there
    broken      the chain or the index does not prove itself, or the state is not the fold of the rows
    unusable    the hub cannot append, or not start again after that
"""

import sqlite3
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import msgspec
from tests.power.load import Frame
from tests.power.recording import Recording, Told

from synapse.core import kernel
from synapse.core.by import Rules
from synapse.core.events import Recorded, Row
from synapse.core.state import State, digest, new_state
from synapse.errors import JournalError
from synapse.hub.server import begin
from synapse.journal.evidence import Identity
from synapse.journal.reader import JournalReader
from synapse.journal.recovery import Recovered, recover, verify_older
from synapse.journal.upcast import decode
from synapse.protocol.limits import Limits
from synapse.protocol.names import GENERAL, MAIN_ROOM

RESERVE_BYTES: Final = 1 << 16
"""Small, because a start that finds none writes one. A recorded reserve is larger, so it counts as whole."""
LATER_MS: Final = 60_000
MARKS_OF_EVENTS: Final = {
    "message.posted": "body.mark",
    "message.sent": "body.mark",
    "lease.checkpointed": "data.mark",
    "lease.granted": "ask.task",
    "value.put": "value.mark",
    "task.declared": "task",
    "question.asked": "title",
    "question.answered": "answer",
    "room.created": "name",
    "resource.offered": "name",
    "session.started": "display_name",
    "session.checkpointed": "data.mark",
    "lane.offered": "context.mark",
    "token.created": "hash",
}
"""Where the text stands by which an event is told from all others."""
MARKS_OF_REQUESTS: Final = {
    "message.send": "body.mark",
    "lease.claim": "task",
    "lease.checkpoint": "data.mark",
    "value.put": "value.mark",
    "task.declare": "task",
    "question.ask": "title",
    "question.answer": "answer",
    "room.create": "room",
    "resource.offer": "resource",
    "session.start": "display_name",
    "session.checkpoint": "data.mark",
    "lane.offer": "context.mark",
    "token.create": "hash",
}
"""The same of a request."""
_SELECT: Final = "SELECT seq, type, version, at_ms, actor, key, body FROM events ORDER BY seq"


class Broken(Exception):
    """A promise that a cut broke. rule: as in the table above; seqs: what was lost."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Operation:
    """A request that changed something: answered after so many steps, by the event at `seq`."""

    after: int
    seq: int
    name: str


class Uncut:
    """What a recording promises at each step."""

    def __init__(self, recording: Recording) -> None:
        self.identity: Identity = recording.identity
        self.rows = [row._replace(also=()) for row in recording.rows]
        self.operations = sorted(operations_of(recording), key=lambda operation: operation.after)
        told = sorted(recording.told, key=lambda frame: frame.after)
        self._told_at = [frame.after for frame in told]
        self._highest = list(accumulate((seq_told(frame) for frame in told), max))
        self.token = recording.image_of_all().get("home/token")
        self._digests: dict[int, str] = {}
        self._state, self._folded = new_state(), 0

    @property
    def told_at_end(self) -> int:
        """The highest seq that anybody ever heard of."""
        return self._highest[-1]

    def told_by(self, step: int) -> int | None:
        """The highest seq, or epoch, that anybody had heard of before that step; None: nobody had heard anything."""
        count = bisect_right(self._told_at, step)
        return self._highest[count - 1] if count else None

    def answered_by(self, step: int) -> list[Operation]:
        """The operations that were answered before that step."""
        return self.operations[: bisect_right([operation.after for operation in self.operations], step)]

    def digest_at(self, count: int) -> str:
        """Of the state after the first rows, folded one by one."""
        if count not in self._digests:
            if count < self._folded:
                self._state, self._folded = new_state(), 0
            for row in self.rows[self._folded : count]:
                kernel.apply(self._state, Recorded(row.seq, row.at_ms, row.actor, decode(row)))
            self._folded = count
            self._digests[count] = digest(self._state)
        return self._digests[count]


def seq_told(told: Told) -> int:
    """The highest position a frame speaks of."""
    body = told.frame.get("body") or {}
    seq: int = told.frame["seq"]
    epoch: int | None = body.get("epoch") if isinstance(body, dict) else None
    return max(seq, epoch or 0)


def operations_of(recording: Recording) -> Iterator[Operation]:
    """Every answered request with the event that carries it, found by its content and not by what the hub says.

    Raises `Broken` when one has none: then it was lost without any cut, or changed.
    """
    by_mark: dict[str, Row] = {}
    released: dict[int, Row] = {}
    acked: dict[str, Row] = {}
    for row in recording.rows:
        body = msgspec.json.decode(row.body)
        if row.type in MARKS_OF_EVENTS:
            by_mark[_at(body, MARKS_OF_EVENTS[row.type])] = row
        elif row.type == "lease.released":
            released[body["epoch"]] = row
        elif row.type == "messages.acked":
            acked.update((f"m{seq}", row) for seq in body["messages"])
    for told in recording.told:
        if told.request is None or told.frame["type"] != "reply":
            continue
        asked, said = told.request["body"], told.frame["body"]
        found: list[Row | None] = []
        match told.request["type"]:
            case "lease.release":
                found = [released.get(asked["epoch"])]
            case "inbox.ack":
                found = [acked.get(message) for message in said["acked"]]
            case kind if kind in MARKS_OF_REQUESTS:
                found = [by_mark.get(_at(asked, MARKS_OF_REQUESTS[kind]))]
                if found[0] is not None:
                    _require_same(told.request, said, found[0])
        for event in found:
            if event is None:
                raise Broken("lost", f"without a cut: {told.request}")
            yield Operation(told.after, event.seq, f"{told.request['type']} {event.seq}")


def _at(body: Any, path: str) -> str:
    """What stands in a body at a path of names."""
    for name in path.split("."):
        body = body[name]
    return str(body)


def _require_same(request: Frame, said: Frame, row: Row) -> None:
    """Raises `Broken` when the event is not what was asked for, or not the one that was told."""
    asked, body = request["body"], msgspec.json.decode(row.body)
    if any(body[name] != asked[name] for name in ("body", "data", "value", "context", "private") if name in asked):
        raise Broken("lost", f"another content: {request}")
    told = {
        "lease.claim": said.get("epoch"),
        "value.put": said.get("version"),
        "session.checkpoint": said.get("checkpoint"),
        "question.ask": said.get("id"),
        "session.start": said.get("session"),
        "lane.offer": said.get("lane"),
    }.get(request["type"])
    if told is not None and int(str(told).lstrip("qsl")) != row.seq:
        raise Broken("lost", f"told as {told}: {request}, at {row.seq}")


def judge(home: Path, uncut: Uncut, step: int) -> int:
    """Start on what a cut before that step has left in `home`, twice. Answers how many answered operations were
    looked for. Raises `Broken`."""
    answered, told = uncut.answered_by(step), uncut.told_by(step)
    at_ms = (uncut.rows[-1].at_ms if uncut.rows else 0) + LATER_MS
    with started(home, at_ms) as first:
        journal = first.journal
        rows = rows_of(home)
        lost = [operation for operation in answered if operation.seq > journal.head]
        if journal.journal_id != uncut.identity.journal_id:
            if told is not None:
                raise Broken("not ours", f"a new journal, but {told} was told, and {len(answered)} answered")
        else:
            if lost:
                raise Broken("lost", f"{len(lost)} answered operations, such as {lost[-1].name}; head {journal.head}")
            if told is not None and told > journal.head:
                raise Broken("lost", f"{told} was told, head {journal.head}")
            if rows != uncut.rows[: len(rows)]:
                raise Broken("not ours", "the rows are not those of the uncut journal")
        prove(home, first, len(rows), uncut)
        begin(first.state, journal, Rules(Limits(), True, False), {MAIN_ROOM: [GENERAL]}, at_ms)
        expected, head = digest(first.state), journal.head
    token = home / "token"
    if told is not None and (not token.exists() or token.read_bytes() != uncut.token):
        raise Broken("lost", "the hub's token")
    if head <= (told or 0):
        raise Broken("unusable", f"{head} was given out before")
    with started(home, at_ms + LATER_MS) as second:
        if second.journal.head != head or digest(second.state) != expected:
            raise Broken("unusable", "the second start is not where the first one was")
        if rows_of(home)[: len(rows)] != rows:
            raise Broken("unusable", "the second start sees other rows")
    return len(answered)


@dataclass(slots=True)
class started:  # noqa: N801  # a context manager
    """A start of the hub's own recovery for the block. Raises `Broken` for any refusal."""

    home: Path
    at_ms: int
    recovered: Recovered[State] | None = None

    def __enter__(self) -> Recovered[State]:
        try:
            self.recovered = recover(self.home, self.at_ms, reserve_bytes=RESERVE_BYTES)
        except JournalError as error:
            raise Broken("refused", f"{error.exit_code}: {error}") from error
        return self.recovered

    def __exit__(self, *_: object) -> None:
        if self.recovered is not None:
            self.recovered.journal.close()


def rows_of(home: Path) -> list[Row]:
    """The rows, read with nothing of the hub."""
    with closing(sqlite3.connect(home / "journal.db")) as connection:
        return [Row(*line) for line in connection.execute(_SELECT)]


def prove(home: Path, found: Recovered[State], count: int, uncut: Uncut) -> None:
    """Raises `Broken` when chain and index do not prove themselves, or the state is not that of so many rows."""
    journal = found.journal
    reader = JournalReader(home)
    try:
        if verify_older(reader, journal.head, lambda: False) is None:
            raise Broken("broken", "nothing was verified")
    except JournalError as error:
        raise Broken("broken", str(error)) from error
    finally:
        reader.close()
    if journal.journal_id == uncut.identity.journal_id and digest(found.state) != uncut.digest_at(count):
        raise Broken("broken", "the state is not the fold of the rows")
