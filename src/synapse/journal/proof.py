"""Proving a whole journal: every row against the chain, and the index against the rows.

The index is not hashed. What it should hold follows from the rows, so both sides are summed up over (key, seq), in any
order and in constant memory: 64-bit hashes modulo 2^64. A missing, added or changed line shows with a chance of
1 − 2^-64. The last events have none yet; lines of events about leases stand for the events of a block. Both are looked
at as far as they are there.
"""

from collections.abc import Callable
from dataclasses import dataclass

from synapse.core.events import Row, keys_of
from synapse.journal.connection import damaged
from synapse.journal.reader import JournalReader
from synapse.journal.tail import has_line
from synapse.journal.tasks import first_of_block, is_task_key
from synapse.journal.upcast import decode

_ROWS_PER_STEP = 1024
_SUM_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Checked:
    """All rows were proved. last_seq: the last of them, the base when there was none."""

    events: int
    last_seq: int
    index_is_whole: bool


def check_index(reader: JournalReader, upto: int, stop: Callable[[], bool] = lambda: False) -> Checked | None:
    """Prove the rows up to `upto` and their index; None when `stop` said so.

    Raises `JournalRefused` at the first broken row, with its seq; `StoreFailed`.
    """
    events, seq, wanted = 0, reader.identity.base, 0
    indexed, of_tasks = reader.indexed(), reader.tasks_indexed()
    block, in_block = -1, set[str]()
    while rows := reader.scan(seq, upto, _ROWS_PER_STEP):
        for row in rows:
            if first_of_block(row.seq) != block:
                block, in_block = first_of_block(row.seq), set()
            for key in touched_by(row):
                if has_line(key):
                    wanted += hash((key, row.seq)) if row.seq <= indexed else 0
                elif is_task_key(key) and row.seq <= of_tasks and key not in in_block:
                    in_block.add(key)
                    wanted += hash((key, row.seq))
        events += len(rows)
        seq = rows[-1].seq
        if stop():
            return None
    if seq < upto:
        raise damaged(reader.files, f"the events end with {seq}, and {upto} was there", seq=seq + 1)
    there, at, last = 0, ("", 0), ("", 0)
    while lines := reader.touches(at, upto, _ROWS_PER_STEP):
        for line in lines:
            key, line_seq = line
            # In a damaged page a text may have become bytes.
            if not (isinstance(key, str) and isinstance(line_seq, int)):
                return Checked(events, seq, False)
            if has_line(key):
                there += hash(line) if line_seq <= indexed else 0
            elif is_task_key(key) and line_seq <= of_tasks and (key, first_of_block(line_seq)) != last:
                last = (key, first_of_block(line_seq))
                there += hash(line)
        at = lines[-1]
        if stop():
            return None
    return Checked(events, seq, (wanted - there) & _SUM_MASK == 0)


def touched_by(row: Row) -> set[str]:
    """All index keys of a row; one whose body was dropped has none any more."""
    return {row.key, *keys_of(row.seq, decode(row))} if row.body else set()
