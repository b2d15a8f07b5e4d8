"""What happened to a task, read from the journal: the lines of its ledger, and its whole story in words."""

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import UNSET

from synapse.core.by import By
from synapse.core.claims import none_of
from synapse.core.events import Recorded
from synapse.core.lease_events import in_a_sentence as lease_in_a_sentence
from synapse.core.lease_events import shown_change
from synapse.core.plan import in_a_sentence, lapse_text, shown_plan_change
from synapse.core.plan_answers import progress_line
from synapse.core.plan_events import PlanEvent, TaskMoved, TaskNoted
from synapse.core.refusals import require_limit
from synapse.core.retention import floor_of
from synapse.core.rooms import room_of
from synapse.core.state import State
from synapse.errors import Rejected, bad_request
from synapse.hub.paging import REPLY_BYTES_MAX, Scan, cursors, read_page, recorded_of
from synapse.journal.interface import Pages
from synapse.protocol.commands import ExplainTask
from synapse.protocol.cursor import cursor_of, seq_of
from synapse.protocol.names import require_agent_name, require_task
from synapse.protocol.plan_commands import ReadProgress
from synapse.protocol.plan_replies import Progress, ProgressLine
from synapse.protocol.replies import Explanation, Happened
from synapse.protocol.terms import PROGRESS_KINDS

_LAPSED: Final = frozenset({"released", "expired", "revoked"})


def ledger(state: State, command: ReadProgress, by: By, items_max: int) -> Callable[[Pages], Progress]:
    """How to read a page of a ledger. Raises `Rejected`: `not_found`, `bad_name`, `bad_request`, `log_diverged`; and
    when it is read `not_found` for a task that no plan ever had and nobody ever held, `cursor_too_old`."""
    scan = _scan(state, command, by, items_max)
    room, task = room_of(state, command.room, by), command.task
    is_known = task is None or state.plan.find((room.id, task)) is not None

    def read(pages: Pages) -> Progress:
        progress = _read(pages, scan)
        anything = (*scan.keys, f"ta/{room.id}/{task}")
        if not is_known and not progress.lines and not pages.page(anything, 0, scan.head, 1):
            raise _nothing_about(task or "", room.name, scan.journal_id, scan.floor())
        return progress

    return read


def _scan(state: State, command: ReadProgress, by: By, items_max: int) -> Scan[ProgressLine]:
    room = room_of(state, command.room, by)
    require_limit(command.limit, items_max)
    if command.kind is not None and command.kind not in PROGRESS_KINDS:
        raise none_of("kind", command.kind, PROGRESS_KINDS)
    if command.agent is not None and command.agent != "hub":
        require_agent_name(command.agent)
    if command.since is not None and command.before is not None:
        raise bad_request("give since or before, not both", "$.body")
    journal_id, head = state.journal_id, state.seq
    key = f"pl/{room.id}" if command.task is None else f"pt/{room.id}/{require_task(command.task)}"

    def show(recorded: Recorded) -> ProgressLine | None:
        line = line_of(recorded)
        if line is None or (command.agent is not None and line.by != command.agent):
            return None
        return line if command.kind is None or line.kind == command.kind else None

    return Scan(
        keys=(key,),
        called=f"plan of room {room.name}",
        since=None if command.since is None else seq_of(command.since, journal_id, head),
        before=None if command.before is None else seq_of(command.before, journal_id, head, "$.body.before"),
        head=head,
        journal_id=journal_id,
        limit=command.limit,
        floor=lambda: floor_of(state.retention.floors, key),
        show=show,
        size=_size,
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


def _size(line: ProgressLine) -> int:
    return 256 + 4 * len(line.text) + 512 * len(line.artefacts)


def _read(pages: Pages, scan: Scan[ProgressLine]) -> Progress:
    found = read_page(pages, scan)
    following, previous = cursors(scan, found)
    return Progress(
        lines=tuple(line for _, line in found.items),
        next=following,
        previous=previous,
        first_kept=UNSET if found.first_kept is None else cursor_of(scan.journal_id, found.first_kept),
        cursor=cursor_of(scan.journal_id, scan.head),
    )


# The whole story.


def explanation(state: State, command: ExplainTask, by: By, items_max: int) -> Callable[[Pages], Explanation]:
    """How to read a page of all that happened to a task, in words. Raises `Rejected`."""
    room, task = room_of(state, command.room, by), require_task(command.task)
    keys, head, journal_id = (f"ta/{room.id}/{task}", f"pt/{room.id}/{task}"), state.seq, state.journal_id
    require_limit(command.limit, items_max)
    after = 0 if command.after is None else seq_of(command.after, journal_id, head, "$.body.after")
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
