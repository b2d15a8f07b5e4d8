"""Compaction: what may go is found, the state is kept as the base, an event says so, and only then do bodies go.

    plan      fold up to the head, look at all old rows, write the base. Nothing of the journal changes
    event     `journal.compacted`, with the base's hash and what may go. From here on a start needs the base
    drop      some rows in each of many small transactions (dropping.py)
    the end   the base and the snapshots of before go

A death in between leaves a base that no event names, or rows that were not dropped yet: the next compaction sees to
both. Beside a hub the plan is made in a process of its own, and the hub does the rest between turns.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from synapse.core import kernel
from synapse.core.events import keys_of, to_row
from synapse.core.retention import Planning, ages_of, kept_from, kind_of, may_be_dropped
from synapse.core.retention_events import JournalCompacted
from synapse.core.state import State
from synapse.errors import DiskFull, JournalRefused
from synapse.journal.base import write_base
from synapse.journal.dropping import Rule
from synapse.journal.evidence import Identity
from synapse.journal.files import Files
from synapse.journal.interface import Log, Pages
from synapse.journal.reader import JournalReader
from synapse.journal.recovery import recover
from synapse.journal.snapshot import core_folding, fold_up, parse_snapshot, snapshot_bytes
from synapse.journal.upcast import decode

_ROWS_PER_STEP = 1024
_STEPS_PER_MAINTENANCE = 16
_OPERATOR = "operator"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a compaction would do. is_due: False when there is nothing to drop, and the base is as it should be.

    pins: the rows that stay although their kind goes; those behind the highest cut are left out.
    """

    compaction: JournalCompacted
    is_due: bool
    pins: tuple[int, ...] = ()

    @property
    def rule(self) -> Rule:
        """Which rows it drops."""
        return Rule.of(self.compaction, frozenset(self.pins))


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What was dropped, or would be: rows, and bytes of bodies. kept: where what is left begins, by channel and so on.

    upto: the head when it was planned.
    """

    journal_id: str
    upto: int
    rows: int
    bytes: int
    kept: list[tuple[str, int]]
    head: int


def survey(pages: Pages, state: State, keep: Mapping[str, int], at_ms: int, *, base: int) -> Planning:
    """Look at all rows up to the seq of `state`. keep: how long, in ms, by kind and channel; 0: for ever. base: the seq
    before the first row. Raises `Rejected` for a retention that cannot be, `JournalRefused`."""
    planning = Planning(state, ages_of(state, keep, must_exist=False), at_ms)
    seq = base
    while rows := pages.scan(seq, state.seq, _ROWS_PER_STEP):
        for row in rows:
            if not planning.pass_over(row.seq, row.at_ms):
                return planning
            if not row.body or row.seq in planning.pins or not kind_of(row.type):
                continue
            if may_be_dropped(planning.cuts, row.seq, row.type, (row.key,)):
                planning.look(row.seq, row.type, keys_of(row.seq, decode(row)), len(row.body))
        seq = rows[-1].seq
    return planning


def plan(home: Path, keep: Mapping[str, int], at_ms: int, *, dry_run: bool) -> Plan:
    """Plan a compaction up to the head of the journal, and write its base unless that is not needed. Runs beside a hub.

    Raises `JournalRefused`, `StoreFailed`, `DiskFull`, `Rejected` for a retention that cannot be.
    """
    with closing(JournalReader(home)) as reader:
        seq, chain_hash = reader.tip()
        loaded, _ = fold_up(home, reader, core_folding(), identity=reader.identity, head=seq)
        return _plan(Files(home), reader, loaded.state, keep, at_ms, chain_hash=chain_hash, dry_run=dry_run)


def _plan(
    files: Files,
    reader: JournalReader,
    state: State,
    keep: Mapping[str, int],
    at_ms: int,
    *,
    chain_hash: bytes,
    dry_run: bool,
) -> Plan:
    planning = survey(reader, state, keep, at_ms, base=reader.identity.base)
    is_due = bool(planning.rows) or not _has_base(reader)
    base_hash = ""
    if is_due and not dry_run:
        base_hash = write_base(files, state.seq, base_of(state, reader.identity, chain_hash))
    compaction = planning.event(state.seq, base_hash)
    last = max(compaction.cuts.values(), default=0)
    pins = tuple(sorted(seq for seq in planning.pins if seq <= last))
    return Plan(compaction=compaction, is_due=is_due, pins=pins)


def base_of(state: State, identity: Identity, chain_hash: bytes) -> bytes:
    """The base for `state`, which is the state at its seq. AssertionError when it does not survive its own encoding."""
    folding = core_folding()
    header, data = snapshot_bytes(state, folding, identity=identity, seq=state.seq, chain_hash=chain_hash)
    assert folding.digest(folding.lift(parse_snapshot(data)[1])) == header.state_digest, "a state changed by being kept"
    return data


def _has_base(reader: JournalReader) -> bool:
    """False when the base of the last compaction is missing or damaged, so that another one is needed."""
    compaction = reader.compaction()
    try:
        if compaction is not None:
            reader.base(compaction)
    except JournalRefused:
        return False
    return True


def drop_all(log: Log, plan: Plan) -> None:
    """Drop everything at once, with nobody waiting. Raises as `Log.drop`."""
    rule, seq, steps = plan.rule, log.base, 0
    while seq < rule.upto:
        seq = log.drop(rule, seq).seq
        steps += 1
        if steps % _STEPS_PER_MAINTENANCE == 0:
            log.maintain()
    log.end_drop(plan.compaction)


def compact(
    home: Path, named: Mapping[str, int], at_ms: int, *, settings: Mapping[str, int] | None = None, dry_run: bool
) -> CompactReport:
    """Compact the journal of a home that no hub has. named: how long is kept, in ms, by kind and channel, each of which
    must exist; settings: what holds for the others.

    Raises `JournalLocked` while a hub runs, `JournalRefused`, `StoreFailed`, `DiskFull`, `Rejected` for a retention
    that cannot be.
    """
    files = Files(home.absolute())
    with closing(JournalReader(files.home)) as reader:
        recovered = recover(files.home, at_ms)
        with closing(recovered.journal) as journal:
            state = recovered.state
            if journal.is_read_only:
                raise DiskFull(f"{files.home}: the disk is full; nothing was dropped, which needs some room itself")
            ages_of(state, named, must_exist=True)
            keep = {**(settings or {}), **named}
            found = _plan(files, reader, state, keep, at_ms, chain_hash=journal.head_hash, dry_run=dry_run)
            if found.is_due and not dry_run:
                row = to_row(kernel.record(state, found.compaction, _OPERATOR, at_ms))
                journal.append([row])
                drop_all(journal, found)
            return report_of(state, found, journal.head)


def report_of(state: State, found: Plan, head: int) -> CompactReport:
    """What a plan comes to."""
    event = found.compaction
    kept = kept_from(state, event.floors)
    return CompactReport(state.journal_id, event.upto, event.rows, event.bytes, kept, head)
