"""What a supervisor finds in a room and what it does about it: a pure function of what it was told.

    stalled     a lease whose holder has shown no progress for long. The room is told; when it goes on for `tries` times
                as long, people are
    orphaned    a task in progress that nobody has a lease on. It is put back to open, which says that it is ready, and
                the room is told; when that has been done `tries` times, people are told instead
    unblocked   a task that is blocked though all it depends on is done. The room is told, and who can move it on

Each cause is told once. What was told is kept in the room's shared values, one for each cause, because it must outlive
this process, every hub and the 24 h of an idempotency key, and because compare-and-set lets one of several supervisors
speak. A value is written before something is said (`done` is false) and after it. Who finds its own unfinished one says
the same again, under the same idempotency keys, so a crash in between neither loses nor repeats anything.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import msgspec
from msgspec import UNSET

from synapse.client.plain import span
from synapse.protocol import names
from synapse.protocol.plan_replies import TaskInfo
from synapse.protocol.replies import Lease

STALLED: Final = "stalled"
ORPHANED: Final = "orphaned"
UNBLOCKED: Final = "unblocked"
TOLD: Final = "told"
ESCALATED: Final = "escalated"

PREFIX: Final = "supervisor/"
"""Of the keys under which is kept what was told."""
STEPS_MAX: Final = 20
"""What is done in one round of a room; the rest waits for the next one."""
TAKEN_OVER_MS: Final = 5 * 60_000
"""What another supervisor began to say and did not end in this time is said by whoever finds it."""
SUBJECT_CHARS: Final = 240


@dataclass(slots=True, frozen=True)
class Terms:
    """stalled_ms: without progress. orphaned_ms: without a lease. tries: before people are told."""

    stalled_ms: int
    orphaned_ms: int = 60_000
    tries: int = 3


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What was told of a cause, as it is kept. mark: the epoch, or when the task moved. since_at_ms: of the cause.
    done: all of it was said. by, at_ms: who began to say it, when. tries: how often the task was put back. who: holds
    the lease, or can move the task on. signs, line: of life of the lease, as of then; the seq of the last line that its
    holder wrote."""

    cause: str
    task: str
    mark: int
    since_at_ms: int
    stage: str
    done: bool
    by: str
    at_ms: int
    tries: int = 1
    who: str | None = None
    signs: str | None = None
    line: int = 0


@dataclass(slots=True, frozen=True)
class Kept:
    """A record with the version of its value."""

    record: Record
    version: int


@dataclass(slots=True, frozen=True)
class Board:
    """A room as it was told. seq, now_ms: before leases and tasks were read. tasks: those in progress or blocked, and
    those of stalled leases. lines: of these by epoch, the seq of the last line that the holder wrote. kept: by key;
    read before the rest, so that what was told meanwhile is not told again."""

    me: str
    seq: int
    now_ms: int
    tasks: Mapping[str, TaskInfo]
    leases: Sequence[Lease]
    lines: Mapping[int, int]
    kept: Mapping[str, Kept]


@dataclass(slots=True, frozen=True)
class Step:
    """Say something, or forget it (record None). version: of the value that is replaced; 0 when there is none."""

    key: str
    version: int
    record: Record | None


def key_of(cause: str, of: str) -> str:
    """Where is kept what was told of a task, or of one lease on it."""
    return f"{PREFIX}{cause}/{sha256(of.encode()).hexdigest()[:24]}"


def decide(board: Board, terms: Terms) -> list[Step]:
    """What is to be done now."""
    steps = [step for step in _steps(board, terms) if step is not None]
    return steps[:STEPS_MAX]


def _steps(board: Board, terms: Terms) -> Iterator[Step | None]:
    for lease in sorted(board.leases, key=lambda lease: lease.epoch):
        yield _stalled(board, terms, lease)
    for name in sorted(board.tasks):
        task = board.tasks[name]
        if task.status == "in_progress" and not task.holders and _age_ms(board, task.moved_at_ms) >= terms.orphaned_ms:
            yield _orphaned(board, terms, task)
        if task.status == "blocked" and task.depends_on and not task.unmet:
            yield _unblocked(board, task)
    live = {lease.epoch: lease for lease in board.leases}
    for key, kept in sorted(board.kept.items()):
        record = kept.record
        if record.cause == ORPHANED and not record.done:  # wherever the task is by now: who began knows
            yield _again(board, key, kept)
        if record.cause == STALLED and record.mark not in live:
            yield Step(key, kept.version, None)
        if record.cause == UNBLOCKED:
            found = board.tasks.get(record.task)
            if found is None or found.status != "blocked" or found.moved_at_ms != record.mark:
                yield Step(key, kept.version, None)


def _age_ms(board: Board, at_ms: int) -> int:
    """How old something is, by a wall clock that may have been set back since: then it counts as old, too."""
    return abs(board.now_ms - at_ms)


def may_stall(lease: Lease, task: TaskInfo | None) -> bool:
    """False for what waits for somebody else, and for what is in no plan and no work with progress: what lives and ends
    with a process, locks, units that were taken."""
    is_work = not lease.tied and names.is_work(lease.task) if task is None else task.status == "in_progress"
    return lease.status == "held" and is_work


def _stalled(board: Board, terms: Terms, lease: Lease) -> Step | None:
    task = board.tasks.get(lease.task)
    idle_ms = 0 if lease.idle_ms is UNSET else lease.idle_ms
    if idle_ms < terms.stalled_ms or not may_stall(lease, task) or board.lines.get(lease.epoch, 0) > board.seq:
        return None
    since_at_ms = board.now_ms - idle_ms
    key = key_of(STALLED, f"{lease.task}#{lease.epoch}")
    kept = board.kept.get(key)
    new = Record(
        cause=STALLED,
        task=lease.task,
        mark=lease.epoch,
        since_at_ms=since_at_ms,
        stage=TOLD,
        done=False,
        by=board.me,
        at_ms=board.now_ms,
        who=lease.owner,
        signs=_signs_of(lease, task),
        line=board.lines.get(lease.epoch, 0),
    )
    if kept is None:
        return Step(key, 0, new)
    if kept.record.signs != new.signs or kept.record.line < new.line:  # a line may be dropped, and then is no news
        return Step(key, kept.version, new)
    if not kept.record.done:
        return _again(board, key, kept)
    if kept.record.stage == TOLD and _age_ms(board, kept.record.since_at_ms) >= terms.stalled_ms * terms.tries:
        return Step(key, kept.version, _next_stage(board, kept.record))
    return None


def _signs_of(lease: Lease, task: TaskInfo | None) -> str:
    """What a holder has shown, besides lines; as long as it is the same, it is the same stall. A time would not do:
    each start of the hub counts anew, a wall clock may be set, and others write about the task too."""
    kept_at_ms = lease.checkpoint.at_ms if lease.checkpoint else None
    moved_at_ms = None if task is None else task.moved_at_ms
    return sha256(repr((lease.note, kept_at_ms, moved_at_ms)).encode()).hexdigest()[:24]


def _orphaned(board: Board, terms: Terms, task: TaskInfo) -> Step | None:
    key = key_of(ORPHANED, task.task)
    kept = board.kept.get(key)
    if kept is not None and kept.record.mark == task.moved_at_ms:
        return None
    tries = 1 if kept is None else min(kept.record.tries + 1, terms.tries + 1)
    record = Record(
        cause=ORPHANED,
        task=task.task,
        mark=task.moved_at_ms,
        since_at_ms=task.moved_at_ms,
        stage=TOLD if tries <= terms.tries else ESCALATED,
        done=False,
        by=board.me,
        at_ms=board.now_ms,
        tries=tries,
    )
    return Step(key, 0 if kept is None else kept.version, record)


def _unblocked(board: Board, task: TaskInfo) -> Step | None:
    key = key_of(UNBLOCKED, task.task)
    kept = board.kept.get(key)
    if kept is not None and kept.record.mark == task.moved_at_ms:
        return None if kept.record.done else _again(board, key, kept)
    who = task.holders[0].owner if task.holders else task.suggested_owner or task.declared_by
    record = Record(
        cause=UNBLOCKED,
        task=task.task,
        mark=task.moved_at_ms,
        since_at_ms=task.moved_at_ms,
        stage=TOLD,
        done=False,
        by=board.me,
        at_ms=board.now_ms,
        who=who,
    )
    return Step(key, 0 if kept is None else kept.version, record)


def _next_stage(board: Board, record: Record) -> Record:
    return msgspec.structs.replace(record, stage=ESCALATED, done=False, by=board.me, at_ms=board.now_ms)


def _again(board: Board, key: str, kept: Kept) -> Step | None:
    """What I began, or another did long ago. It keeps its time, and so all its words."""
    if kept.record.by == board.me or _age_ms(board, kept.record.at_ms) >= TAKEN_OVER_MS:
        return Step(key, kept.version, kept.record)
    return None


# What is said.


def idem_of(record: Record, to: str) -> str:
    """The idempotency key of one message about a cause."""
    words = (record.cause, record.task, record.mark, record.since_at_ms, record.stage, record.tries, to)
    return f"{PREFIX}{sha256(repr(words).encode()).hexdigest()[:40]}"


def note_of(record: Record) -> str:
    """What the ledger of a task says when it is put back to open."""
    return f"put back to open: in progress without a lease (cause {record.mark}, time {record.tries})"


def sentence(record: Record) -> str:
    """What happened, for people."""
    task, lasting = record.task, span(max(0, record.at_ms - record.since_at_ms))
    if record.cause == STALLED:
        text = f"{task}: {record.who} holds it (epoch {record.mark}) and has shown no progress for {lasting}"
    elif record.cause == UNBLOCKED:
        text = f"{task} is blocked, and all it depends on is done: {record.who} can move it on"
    elif record.stage == TOLD:
        text = f"{task} was in progress for {lasting} and nobody has a lease on it: it is open again"
    else:
        text = f"{task} is in progress and nobody has a lease on it, after it was put back {record.tries - 1} times"
    return text if len(text) <= SUBJECT_CHARS else text[: SUBJECT_CHARS - 1] + "…"


def body_of(record: Record, room: str) -> dict[str, object]:
    """The same for programs."""
    place = "" if room == names.MAIN_ROOM else f" --room {room}"
    body: dict[str, object] = {
        "type": f"task.{record.cause}",
        "task": record.task,
        "room": room,
        "cause": f"{record.cause}:{record.mark}",
        "since": record.since_at_ms,
        "stage": record.stage,
    }
    if record.cause == STALLED:
        body |= {"owner": record.who, "epoch": record.mark, "next": f"synapse why {record.task}{place}"}
    elif record.cause == ORPHANED:
        body |= {"tries": record.tries, "next": f"synapse claim {record.task}{place}"}
    else:
        body |= {"owner": record.who, "next": f"synapse task update {record.task} --status open{place}"}
    return body
