"""A recorded history: what each process asked and what it heard, with the machine's one monotonic clock.

One JSON object a line, one file a process. Standard library only, and nothing of synapse: the load is independent of
what it tests.

    open     a connection was made                         conn, agent, way
    invoke   a request is about to be written              conn, op, type, key, body
    ok, fail its reply or error was read                   op, frame
    unknown  the connection ended before an answer came    op
    notice   something the hub said unasked                conn, frame
    close    the process itself is about to close          conn
    end      a reader is done: it was told all up to seq   upto
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

Frame: TypeAlias = dict[str, Any]  # JSON as the hub sent it: the checker looks at every field it names


PAD_CHARS_MAX = 64
UNASKED = ("claim.queued", "lease.lost")
"""Notices that also a connection hears that follows nothing."""


def brief(value: Any) -> Any:
    """The same JSON with each long `pad` as its hash, so that a long run fits into memory and stays comparable."""
    if isinstance(value, list):
        return [brief(item) for item in value]
    if not isinstance(value, dict):
        return value
    pad = value.get("pad")
    if isinstance(pad, str) and len(pad) > PAD_CHARS_MAX:
        value = {**value, "pad": hashlib.sha256(pad.encode()).hexdigest()}
    return {name: brief(item) for name, item in value.items()}


@dataclass(frozen=True, slots=True)
class Op:
    """One request. frame: the reply or error; None when the outcome is unknown. returned_ns: when that was read."""

    client: str
    agent: str
    connection: int
    number: int
    type: str
    key: str | None
    body: Frame
    invoked_ns: int
    returned_ns: int | None = None
    frame: Frame | None = None

    @property
    def is_ok(self) -> bool:
        return self.frame is not None and self.frame["type"] == "reply"

    @property
    def is_refused(self) -> bool:
        return self.frame is not None and self.frame["type"] == "error"

    @property
    def reply(self) -> Frame:
        assert self.frame is not None
        body: Frame = self.frame["body"]
        return body

    @property
    def name(self) -> str:
        return f"{self.client}#{self.number} {self.type}"


@dataclass(frozen=True, slots=True)
class Heard:
    """One notice, and when it was read."""

    at_ns: int
    frame: Frame


@dataclass(slots=True)
class Segment:
    """One subscription, for as long as its connection lived. op: the request that opened it."""

    op: Op
    heard: list[Heard] = field(default_factory=list)


@dataclass(slots=True)
class History:
    """Everything that was recorded. closed: when a process itself closed a connection. ends: by process, the seq up
    to which its feed was complete when it left. proxied: the processes whose connections may end on one side and
    live on on the other, so that what they sent arrives later than what they sent over the next one."""

    ops: list[Op] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    closed: dict[tuple[str, int], int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    proxied: set[str] = field(default_factory=set)


class Recorder:
    """Writes the history of one process."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", buffering=1 << 16)
        self._ops = 0

    def note(self, what: str, **facts: object) -> None:
        line = {"ns": time.monotonic_ns(), "what": what, **brief(facts)}
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")

    def invoke(self, conn: int, type_: str, key: str | None, body: Frame) -> int:
        """Call it before the first byte is written; the number is the request's."""
        self._ops += 1
        self.note("invoke", conn=conn, op=self._ops, type=type_, key=key, body=body)
        return self._ops

    def close(self) -> None:
        self._file.close()


def lines_of(path: Path) -> Iterator[Frame]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def load(paths: Iterable[Path]) -> History:
    """Put the files together; the name of a process is that of its file."""
    history = History()
    for path in sorted(paths):
        add(history, path.stem, lines_of(path))
    return history


def add(history: History, client: str, lines: Iterable[Frame]) -> None:
    """Add the records of one process."""
    agents: dict[int, str] = {}
    open_ops: dict[int, Op] = {}
    feeds: dict[int, Segment] = {}
    for line in lines:
        match line["what"]:
            case "open":
                agents[line["conn"]] = line["agent"]
                if line.get("way", "direct") != "direct":
                    history.proxied.add(client)
            case "invoke":
                conn, number = line["conn"], line["op"]
                open_ops[number] = Op(
                    client, agents[conn], conn, number, line["type"], line["key"], line["body"], line["ns"]
                )
            case "ok" | "fail":
                op = replace(open_ops.pop(line["op"]), returned_ns=line["ns"], frame=line["frame"])
                history.ops.append(op)
                if op.is_ok and op.type == "feed.subscribe":
                    feeds[op.connection] = Segment(op)
                    history.segments.append(feeds[op.connection])
            case "unknown":
                history.ops.append(open_ops.pop(line["op"]))
            case "notice" if line["conn"] not in feeds and line["frame"]["type"] in UNASKED:
                pass
            case "notice":
                feeds[line["conn"]].heard.append(Heard(line["ns"], line["frame"]))
            case "close":
                history.closed[client, line["conn"]] = line["ns"]
            case "end":
                history.ends[client] = line["upto"]
            case what:
                raise AssertionError(f"{client}: no record is called {what}")
    history.ops.extend(open_ops.values())
