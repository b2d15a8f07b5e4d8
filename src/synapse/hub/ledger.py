"""What happened to a task, read from the journal: the lines of its ledger, and its whole story in words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import UNSET

from synapse.core.by import By
from synapse.core.claims import none_of, room_of
from synapse.core.events import Recorded
from synapse.core.lease_events import in_a_sentence as lease_in_a_sentence
from synapse.core.lease_events import shown_change
from synapse.core.plan import PlanEvent, in_a_sentence, lapse_text, shown_plan_change
from synapse.core.plan_answers import progress_line
from synapse.core.plan_events import TaskMoved, TaskNoted
from synapse.core.retention import floor_of
from synapse.core.state import State
from synapse.errors import Rejected
from synapse.hub.reads import REPLY_BYTES_MAX, SCAN_ROWS_MAX, recorded_of
from synapse.journal.interface import Pages
from synapse.protocol.commands import ExplainTask
from synapse.protocol.cursor import cursor_of, seq_of
from synapse.protocol.names import require_agent_name, require_task
from synapse.protocol.plan_commands import ReadProgress
from synapse.protocol.plan_replies import Progress, ProgressLine
from synapse.protocol.replies import Explanation, Happened
from synapse.protocol.terms import PROGRESS_KINDS

_CHUNK: Final = 500
_LAPSED: Final = frozenset({"released", "expired", "revoked"})


def require_limit(limit: int, most: int) -> None:
    """Raises `Rejected(bad_request)` outside 1 to `most`."""
    if not 1 <= limit <= most:
        raise Rejected(
            "bad_request",
            f"limit {limit} must be 1 to {most} - at `$.body.limit`",
            {"path": "$.body.limit", "max": most},
        )


@dataclass(slots=True, frozen=True)
class LedgerQuery:
    """A page of a ledger with names resolved. since, before: seqs, None when not given."""

    key: str
    since: int | None
    before: int | None
    head: int
    journal_id: str
    asked: ReadProgress


def ledger_query(state: State, command: ReadProgress, by: By, items_max: int) -> LedgerQuery:
    """Raises `Rejected`: `not_found`, `bad_name`, `bad_request`, `log_diverged`."""
    room = room_of(state, command.room, by)
    require_limit(command.limit, items_max)
    if command.kind is not None and command.kind not in PROGRESS_KINDS:
        raise none_of("kind", command.kind, PROGRESS_KINDS)
    if command.agent is not None and command.agent != "hub":
        require_agent_name(command.agent)
    if command.since is not None and command.before is not None:
        raise Rejected("bad_request", "give since or before, not both - at `$.body`")
    journal_id, head = state.journal_id, state.seq
    return LedgerQuery(
        key=f"pl/{room.id}" if command.task is None else f"pt/{room.id}/{require_task(command.task)}",
        since=None if command.since is None else seq_of(command.since, journal_id, head),
        before=None if command.before is None else seq_of(command.before, journal_id, head),
        head=head,
        journal_id=journal_id,
        asked=command,
    )


def line_of(recorded: Recorded) -> ProgressLine | None:
    """An event as a line of a ledger; None when it is none. A step that says why is one, and so is what the hub does
    when a lease ends."""
    event = recorded.event
    if isinstance(event, TaskNoted):
        return progress_line(recorded, event)
    if not isinstance(event, TaskMoved):
        return None
    text = lapse_text(event) if event.reason in _LAPSED else event.note
    if text is None:
        return None
    return ProgressLine(
        seq=recorded.seq,
        task=event.task,
        room=event.room_name,
        kind="blocked" if event.status == "blocked" else "note",
        text=text,
        by=recorded.actor,
        at_ms=recorded.at_ms,
        epoch=event.epoch,
    )


def read_ledger(pages: Pages, query: LedgerQuery) -> Progress:
    """One page of a ledger."""
    fits = _filter(query.asked)
    if query.since is not None:
        return _forward(pages, query, query.since, fits)
    return _backward(pages, query, fits)


def _filter(asked: ReadProgress) -> Callable[[ProgressLine], bool]:
    return lambda line: (
        (asked.agent is None or line.by == asked.agent) and (asked.kind is None or line.kind == asked.kind)
    )


def _size(line: ProgressLine) -> int:
    return 256 + 4 * len(line.text) + 512 * len(line.artefacts)


def _forward(pages: Pages, query: LedgerQuery, since: int, fits: Callable[[ProgressLine], bool]) -> Progress:
    found: list[ProgressLine] = []
    position, size, scanned, is_done = since, 0, 0, False
    while not is_done and scanned < SCAN_ROWS_MAX:
        rows = pages.page((query.key,), position, query.head, _CHUNK)
        is_done = len(rows) < _CHUNK
        scanned += len(rows)
        for row in rows:
            line = line_of(recorded_of(row))
            if line is not None and fits(line):
                if len(found) == query.asked.limit or (found and size + _size(line) > REPLY_BYTES_MAX):
                    return _page(query, found, following=position, earlier=since)
                found.append(line)
                size += _size(line)
            position = row.seq
    return _page(query, found, following=None if is_done else position, earlier=since)


def _backward(pages: Pages, query: LedgerQuery, fits: Callable[[ProgressLine], bool]) -> Progress:
    found: list[ProgressLine] = []
    before = query.head + 1 if query.before is None else min(query.before, query.head + 1)
    position, size, scanned, is_done = before, 0, 0, False
    while not is_done and scanned < SCAN_ROWS_MAX:
        rows = pages.page_back((query.key,), position, _CHUNK)
        is_done = len(rows) < _CHUNK
        scanned += len(rows)
        for row in reversed(rows):
            line = line_of(recorded_of(row))
            if line is not None and fits(line):
                if len(found) == query.asked.limit or (found and size + _size(line) > REPLY_BYTES_MAX):
                    return _page(query, found[::-1], following=before - 1, earlier=position)
                found.append(line)
                size += _size(line)
            position = row.seq
    return _page(query, found[::-1], following=before - 1, earlier=None if is_done else position)


def _page(query: LedgerQuery, found: Sequence[ProgressLine], *, following: int | None, earlier: int | None) -> Progress:
    at_head = following is None or following >= query.head
    return Progress(
        lines=tuple(found),
        next=None if at_head or following is None else cursor_of(query.journal_id, following),
        previous=None if earlier is None else cursor_of(query.journal_id, earlier),
        cursor=cursor_of(query.journal_id, query.head),
    )


# The whole story.


def explanation(state: State, command: ExplainTask, by: By, items_max: int) -> Callable[[Pages], Explanation]:
    """How to read a page of all that happened to a task, in words. Raises `Rejected`."""
    room, task = room_of(state, command.room, by), require_task(command.task)
    keys, head, journal_id = (f"ta/{room.id}/{task}", f"pt/{room.id}/{task}"), state.seq, state.journal_id
    require_limit(command.limit, items_max)
    after = 0 if command.after is None else seq_of(command.after, journal_id, head)
    name = room.name

    def floor() -> int:
        return max(floor_of(state.retention.floors, key) for key in keys)

    def read(pages: Pages) -> Explanation:
        rows = pages.page(keys, after, head, command.limit)
        found: list[Happened] = []
        size = 0
        for row in rows:
            happened = _happened(journal_id, recorded_of(row))
            size += len(msgspec.json.encode(happened))
            if found and size > REPLY_BYTES_MAX:
                break
            found.append(happened)
        is_all = len(found) == len(rows) < command.limit
        if is_all and not rows and command.after is None:
            raise _nothing_about(task, name, journal_id, floor())
        return Explanation(
            task=task,
            room=name,
            events=tuple(found),
            next=None if is_all or not found else cursor_of(journal_id, found[-1].seq),
            cursor=cursor_of(journal_id, head),
            first_kept=cursor_of(journal_id, floor()) if after < floor() else UNSET,
        )

    return read


def _nothing_about(task: str, room: str, journal_id: str, floor: int) -> Rejected:
    """Nothing is known of a task: because nothing ever happened, or because that was dropped."""
    if not floor:
        return Rejected("not_found", f"nothing ever happened to {task} in room {room}", {"task": task, "room": room})
    first = cursor_of(journal_id, floor)
    return Rejected(
        "not_found",
        f"nothing is kept about {task} in room {room}: what happened up to {first} was dropped by retention",
        {"task": task, "room": room, "first_kept": first},
    )


def _happened(journal_id: str, recorded: Recorded) -> Happened:
    event = recorded.event
    if isinstance(event, PlanEvent):
        change, text = shown_plan_change(journal_id, recorded, event).change, in_a_sentence(recorded, event)
    else:
        shown = shown_change(journal_id, recorded)
        assert shown is not None, "the index of a task names events about leases and of its plan"
        change, text = shown.change, lease_in_a_sentence(recorded)
    return Happened(seq=recorded.seq, at_ms=recorded.at_ms, by=recorded.actor, change=change, text=text)
