"""The end of the index: the lines of the last events are written late, many at once.

A turn's lines lie all over the index: written with each turn, each would be one more page of its commit. So they wait
in memory until they are some thousand, and go with the commit of the turn that fills the measure. Up to where they are
written stands in the database, with them; what waited when a process ended follows from the events behind it. Lines of
leases have rules of their own (tasks.py).

In a journal of an earlier release each event has its lines, and nothing says up to where.
"""

import sqlite3
from collections.abc import Iterable
from typing import Final, NamedTuple

from synapse.core.events import LEASES, Row
from synapse.core.retention_events import COMPACTIONS
from synapse.journal.tasks import IS_OF_A_TASK, IS_OF_AN_AGENT, is_task_key, seq_in_meta

LINES_PER_WRITING: Final = 2_048
EVENTS_PER_WRITING: Final = 8_192
"""Or so many events, when few of them have lines."""

_LINES_PER_STATEMENT: Final = 256
_OF_A_TASK: Final = (LEASES,)
_INDEXED: Final = "indexed"  # name in the meta table
_INSERT = "INSERT OR IGNORE INTO touches (key, seq) VALUES (?, ?)"
_INSERT_SOME = _INSERT + ", (?, ?)" * (_LINES_PER_STATEMENT - 1)
_INSERT_FIRST = (
    "INSERT OR IGNORE INTO touches (key, seq) SELECT key, seq FROM events "  # noqa: S608 - our own text
    f"WHERE seq > ? AND seq <= ? AND body IS NOT NULL AND NOT ({IS_OF_A_TASK}) AND NOT ({IS_OF_AN_AGENT})"
)


class Lines(NamedTuple):
    """Those of some events, in their order. first: of the events' own aggregates. others: of what else they touch."""

    first: list[tuple[str, int]]
    others: list[tuple[str, int]]


class Tail:
    """Lines that wait. Every event up to `indexed` has its lines in the index; those behind it are here.

    One thread adds to it while another reads: lines come in the order of their events, and when they are written a new
    tail takes the place of this one, which stays as it is.
    """

    __slots__ = ("_by_key", "_others", "_sorted", "_waiting", "indexed")

    def __init__(self, indexed: int) -> None:
        self.indexed = indexed
        self._waiting: list[tuple[str, int]] = []
        self._others: list[tuple[str, int]] = []
        self._by_key: dict[str, list[int]] = {}  # of the first `_sorted` that wait; the reader's
        self._sorted = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, lines: Lines) -> None:
        """Lines of durable events."""
        self._others += lines.others
        self._waiting += lines.first
        self._waiting += lines.others

    def of(self, key: str, after: int, before: int) -> list[int]:
        """The waiting lines of `key` with after < seq < before, ascending. For one thread."""
        new = self._waiting[self._sorted :]
        self._sorted += len(new)
        for one, seq in new:
            self._by_key.setdefault(one, []).append(seq)
        return sorted([seq for seq in self._by_key.get(key, ()) if after < seq < before])

    def is_full(self, head: int, more: Lines) -> bool:
        """True when the lines go with the commit that adds `more` and makes `head` the last event. That of a compaction
        does not wait: a start looks for it before there is a tail."""
        return (
            len(self) + len(more.first) + len(more.others) >= LINES_PER_WRITING
            or head - self.indexed >= EVENTS_PER_WRITING
            or any(key == COMPACTIONS for key, _ in more.others)
        )

    def write(self, connection: sqlite3.Connection, head: int, more: Lines) -> int:
        """Write all lines, and `more`, inside a transaction of the caller's that has the events; how many keys they
        have. Raises sqlite3.Error."""
        connection.execute(_INSERT_FIRST, (self.indexed, head))
        write_lines(connection, sorted(self._others + more.others))
        say_indexed(connection, head)
        return len({key for lines in (self._waiting, *more) for key, _ in lines})


def has_line(key: str) -> bool:
    """True for an index key of which each event has a line of its own."""
    return not (is_task_key(key) or key.startswith("ag/"))


def lines_of(rows: Iterable[Row]) -> Lines:
    """The lines of rows that have their bodies. Costs next to nothing for an event with one key."""
    first: list[tuple[str, int]] = []
    others: list[tuple[str, int]] = []
    for row in rows:
        if has_line(row.key):
            first.append((row.key, row.seq))
        if row.also and row.also != _OF_A_TASK:
            others += [(key, row.seq) for key in row.also if has_line(key)]
    return Lines(first, others)


def indexed(connection: sqlite3.Connection) -> int | None:
    """Up to which seq every event has its lines; None where all have. Raises sqlite3.Error."""
    return seq_in_meta(connection, _INDEXED)


def say_indexed(connection: sqlite3.Connection, seq: int) -> None:
    """Every event up to `seq` has its lines. Raises sqlite3.Error."""
    connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (_INDEXED, str(seq)))


def write_lines(connection: sqlite3.Connection, lines: list[tuple[str, int]]) -> None:
    """Many in one statement: each statement lets go of the interpreter's lock. Raises sqlite3.Error."""
    whole = len(lines) - len(lines) % _LINES_PER_STATEMENT
    for start in range(0, whole, _LINES_PER_STATEMENT):
        connection.execute(_INSERT_SOME, [of for line in lines[start : start + _LINES_PER_STATEMENT] for of in line])
    connection.executemany(_INSERT, lines[whole:])
