"""The index lines of leases: which events are about a task (`ta/ROOM/TASK`), and which about any lease (`leases`).

They lie all over the index. Written with each turn they would fill the WAL with pages of one line each, so they are few
and late:

    block    a line names the first event of its key in a block of `BLOCK` seqs, and stands for all of them there: who
             reads looks through the events from that one to the end of the block
    late     lines are written for some blocks at once, when these are complete; who reads looks through the events
             behind `tasks_indexed` too

A journal of an earlier release has a line for each event. It is read and proved alike: of the lines of a key in a block
the first counts.
"""

import sqlite3
from collections.abc import Iterable
from typing import Final

from synapse.core.events import LEASES

BLOCK: Final = 4_096
EVENTS_PER_INDEXING: Final = 16_384
"""So many events about leases gather before their lines are written: a page of the index takes more than one then."""

IS_OF_A_TASK: Final = "key >= 'ta/' AND key < 'ta0'"
"""SQL: an event about a lease."""

IS_OF_AN_AGENT: Final = "key >= 'ag/' AND key < 'ag0'"
"""SQL: an event about an agent, which has no line under that key: nobody reads by it. Earlier releases wrote some; they
are passed over."""

_INDEXED: Final = "tasks_indexed"  # name in the meta table
_KEPT_OF_A_TASK: Final = f"{IS_OF_A_TASK} AND body IS NOT NULL"
_FIRST_BEHIND = f"SELECT seq FROM events WHERE seq > ? AND seq <= ? AND {_KEPT_OF_A_TASK} ORDER BY seq LIMIT 1"  # noqa: S608 - our own text
_INSERT_LINE = "INSERT OR IGNORE INTO touches (key, seq) VALUES (?, ?)"
_SELECT_LINES = f"SELECT key, min(seq) FROM events WHERE seq >= ? AND seq <= ? AND {_KEPT_OF_A_TASK} GROUP BY key"  # noqa: S608 - as above
_INSERT_LINES = f"INSERT OR IGNORE INTO touches (key, seq) {_SELECT_LINES}"


def is_task_key(key: str) -> bool:
    """True for the index keys of events about leases."""
    return key == LEASES or key.startswith("ta/")


def first_of_block(seq: int) -> int:
    """Where the block of `seq` begins."""
    return seq & -BLOCK


def last_of_block(seq: int) -> int:
    """Where the block of `seq` ends."""
    return seq | (BLOCK - 1)


def tasks_indexed(connection: sqlite3.Connection, base: int) -> int:
    """Up to which seq events about leases have their lines. Raises sqlite3.Error."""
    found = seq_in_meta(connection, _INDEXED)
    return base if found is None else found


def seq_in_meta(connection: sqlite3.Connection, name: str) -> int | None:
    """A seq of the meta table, None without one. Raises sqlite3.Error, also for what is no seq."""
    found = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    if found is None:
        return None
    value = found[0]
    if not (isinstance(value, str) and value.isdecimal() and value.isascii()):  # in a damaged page it may be anything
        raise sqlite3.DatabaseError(f"`{name}` is no number")
    return int(value)


def index_tasks(connection: sqlite3.Connection, indexed: int, head: int) -> tuple[int, int]:
    """Write the lines of the complete blocks behind `indexed`, inside a transaction of the caller's. Up to which seq
    there are lines now, and how many were written. Raises sqlite3.Error."""
    upto, after, written = first_of_block(head + 1) - 1, indexed, 0
    while found := connection.execute(_FIRST_BEHIND, (after, upto)).fetchone():
        first = found[0]
        after = last_of_block(first)
        written += connection.execute(_INSERT_LINE, (LEASES, first)).rowcount
        written += connection.execute(_INSERT_LINES, (first, after)).rowcount
    connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (_INDEXED, str(upto)))
    return upto, written


def index_anew(connection: sqlite3.Connection, block: int, indexed: int, keys: Iterable[str]) -> None:
    """Events of these tasks in the block that begins at `block` lost their bodies: write the lines of those that are
    left, inside a transaction of the caller's. Raises sqlite3.Error."""
    last = min(last_of_block(block), indexed)
    if block > last:
        return  # its lines come later
    gone = [(key, block, last) for key in (*keys, LEASES)]
    connection.executemany("DELETE FROM touches WHERE key = ? AND seq >= ? AND seq <= ?", gone)
    found = connection.execute(_FIRST_BEHIND, (block - 1, last)).fetchone()
    if found is not None:
        connection.execute(_INSERT_LINE, (LEASES, found[0]))
        connection.execute(_INSERT_LINES, (block, last))
