"""Dropping bodies: a few rows in a transaction, so that no commit waits long behind one.

A row keeps its header and gets the hash of its body in the body's place; its lines of the index go with it. A process
that dies between two steps leaves some rows dropped and some not, and both are right: the next compaction goes on.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from synapse.core.events import Row, keys_of
from synapse.core.retention import may_be_dropped
from synapse.core.retention_events import JournalCompacted
from synapse.journal.tasks import first_of_block, index_anew, is_task_key
from synapse.journal.upcast import decode

ROWS_PER_STEP = 16
BYTES_PER_STEP = 32 * 1024
SEQS_PER_STEP = 4_096
"""So far one step looks: rows that stay, or went before, cost time too."""

_SELECT = (
    "SELECT seq, type, version, at_ms, actor, key FROM events "
    "WHERE seq >= ? AND seq <= ? AND body IS NOT NULL ORDER BY seq"
)
_BODY = "SELECT body FROM events WHERE seq = ?"
_NEXT = "SELECT seq FROM events WHERE seq > ? ORDER BY seq LIMIT 1"
_DROP = "UPDATE events SET body = NULL, body_hash = ? WHERE seq = ?"


@dataclass(frozen=True, slots=True)
class Rule:
    """Which rows a compaction drops. pins: those up to `upto` that stay whatever their age."""

    upto: int
    cuts: Mapping[str, int]
    pins: frozenset[int]

    @classmethod
    def of(cls, compaction: JournalCompacted, pins: frozenset[int]) -> "Rule":
        """That of a compaction. Nothing behind the highest cut is looked at."""
        return cls(min(compaction.upto, max(compaction.cuts.values(), default=0)), compaction.cuts, pins)

    def may_drop(self, seq: int, type_name: str, key: str) -> bool:
        """False for a row that stays, as far as its header says."""
        return seq <= self.upto and seq not in self.pins and may_be_dropped(self.cuts, seq, type_name, (key,))

    def drops(self, row: Row) -> bool:
        """True for a row, with its body, that goes. Ask `may_drop` first: it costs less."""
        return may_be_dropped(self.cuts, row.seq, row.type, keys_of(row.seq, decode(row)))


class Dropped(NamedTuple):
    """One step: everything up to `seq` is done, so many rows went with so many bytes, and lines of so many keys."""

    seq: int
    rows: int
    bytes: int
    keys: int = 0


def drop_some(connection: sqlite3.Connection, rule: Rule, after: int, indexed: int) -> Dropped:
    """Drop the bodies of the next rows behind `after`. indexed: up to where tasks have their lines.

    Raises sqlite3.Error, `JournalRefused` for a body that cannot be read.
    """
    following = connection.execute(_NEXT, (after,)).fetchone()
    if following is None or following[0] > rule.upto:
        return Dropped(rule.upto, 0, 0)
    first: int = following[0]  # behind an adoption the seqs jump
    upto = min(first + SEQS_PER_STEP - 1, rule.upto)
    gone: list[Row] = []
    size = 0
    lines = connection.execute(_SELECT, (first, upto))
    for seq, kind, version, at_ms, actor, key in lines:
        if not rule.may_drop(seq, kind, key):
            continue
        (body,) = connection.execute(_BODY, (seq,)).fetchone()
        row = Row(seq, kind, version, at_ms, actor, key, body)
        if not rule.drops(row):
            continue
        gone.append(row)
        size += len(row.body)
        if len(gone) == ROWS_PER_STEP or size >= BYTES_PER_STEP:
            upto = row.seq
            break
    lines.close()
    keys = _write(connection, gone, indexed) if gone else 0
    return Dropped(upto, len(gone), size, keys)


def _write(connection: sqlite3.Connection, gone: list[Row], indexed: int) -> int:
    """How many keys had lines that went."""
    tasks: dict[int, set[str]] = {}
    others: list[tuple[str, int]] = []
    for row in gone:
        for key in keys_of(row.seq, decode(row)):
            if is_task_key(key):
                tasks.setdefault(first_of_block(row.seq), set()).add(key)
            else:
                others.append((key, row.seq))
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(_DROP, [(sha256(row.body).digest(), row.seq) for row in gone])
    connection.executemany("DELETE FROM touches WHERE key = ? AND seq = ?", others)
    for block, keys in tasks.items():
        index_anew(connection, block, indexed, keys)
    connection.execute("COMMIT")
    return len({key for key, _ in others}) + sum(map(len, tasks.values()))
