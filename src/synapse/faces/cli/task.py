"""`task …`: the plan of a room by one-shot calls. `declare` has a module of its own.

Rule: the epoch is sent where one is known, as `release` does it. Words for people name what stands in the way.
"""

from time import time

from synapse.client.link import Link
from synapse.errors import EXIT_OK
from synapse.faces.cli.call import Call
from synapse.faces.cli.given import given_task, given_text, given_version
from synapse.faces.cli.options import UsageError
from synapse.faces.cli.render import clock, field, print_dropped, print_json, print_text, safe, safe_lines, span

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

LIMIT = 50
PAGE = 200
_ABRIDGED = 3
"""How many tasks that one waits for are named in a line."""


def task_update(call: Call) -> int:
    """Move a task to another status."""
    status = call.parsed.text("status")
    if status is None:
        raise UsageError("to which status? synapse task update TASK --status S: in_progress, review, done, …")
    return _move(call, status)


def task_reopen(call: Call) -> int:
    """Make it open again."""
    return _move(call, "open")


def _move(call: Call, status: str) -> int:
    body = {**given_task(call), "status": status}
    note = call.parsed.text("note")
    if note is not None:
        body["note"] = given_text(note, "keep a reference to a file instead")
    link = call.open_as_operator() if call.parsed.has("operator") else call.open_as(call.worker)
    answer = link.ask("task.update", body, idem_key=call.parsed.text("idem_key"))
    call.show(answer, task_line(answer))
    return EXIT_OK


def task_progress(call: Call) -> int:
    """Write a line into the ledger of a task."""
    text = given_text(call.parsed.arguments[1], "keep a reference to a file instead")
    body = {**given_task(call), "text": text}
    if call.parsed.text("kind") is not None:
        body["kind"] = call.parsed.text("kind")
    answer = call.open().ask("task.note", body, idem_key=call.parsed.text("idem_key"))
    call.show(answer, f"{field(answer, 'task')}: {field(answer, 'kind')} kept")
    return EXIT_OK


def task_show(call: Call) -> int:
    """Everything about one task."""
    answer = call.ask("task.show", {"task": given_task(call)["task"], **call.room})
    call.show(answer, "\n".join(_block(answer)))
    return EXIT_OK


def task_list(call: Call) -> int:
    """The plan, or what of it fits."""
    parsed = call.parsed
    body: Json = {key: text for key in ("status", "label", "owner") if (text := parsed.text(key)) is not None}
    if parsed.has("ready"):
        body["ready"] = True
    answer = call.pages("task.list", {**body, **call.room}, ("tasks", "ready"))
    tasks = items(answer, "tasks")
    call.show(answer, "\n".join(map(task_line, tasks)) if tasks else _none(answer))
    return EXIT_OK


def _none(answer: "Json") -> str:
    """That nothing was found, and whether there is more that did not fit."""
    total = answer.get("total")
    return f"none of the {total} tasks" if total else f"room {field(answer, 'room')} has no tasks"


def task_remove(call: Call) -> int:
    """Take a task that has ended out of the plan."""
    body: Json = {"task": call.parsed.arguments[0], **call.room}
    version = given_version(call)
    if version is not None:
        body["if_version"] = version
    link = call.open_as_operator() if call.parsed.has("operator") else call.open()
    answer = link.ask("task.remove", body)
    call.show(answer, f"{field(answer, 'task')} is out of the plan")
    return EXIT_OK


# The ledger.


def task_log(call: Call) -> int:
    """Lines of the ledger, oldest first: the newest, or from a cursor on."""
    parsed = call.parsed
    query: Json = {"task": parsed.arguments[0]} if parsed.arguments else {}
    query |= {key: text for key in ("agent", "kind") if (text := parsed.text(key)) is not None}
    query |= call.room
    link, limit, since = call.open(), parsed.number("limit", LIMIT), parsed.text("since")
    journal_id = field(link.await_welcome(), "journal_id")
    for line in _newest(link, query, limit) if since is None else _following(link, query, since, limit):
        if call.as_json:
            print_json({**line, "cursor": f"{journal_id}:{line.get('seq')}"})
        else:
            print_text(_ledger_line(line))
    return EXIT_OK


def _following(link: Link, query: "Json", since: str, left: int) -> "Iterator[Json]":
    """The first `left` lines after a cursor, page by page."""
    following: object = since
    while left > 0 and isinstance(following, str):
        page = link.ask("progress.read", {**query, "since": following, "limit": min(left, PAGE)})
        print_dropped(page)
        lines, following = items(page, "lines"), page.get("next")
        left -= len(lines)
        yield from lines


def _newest(link: Link, query: "Json", left: int) -> "Iterator[Json]":
    """The last `left` lines, oldest first; the pages come from the newest back."""
    pages: list[list[Json]] = []
    before: Json = {}
    while left > 0:
        page = link.ask("progress.read", {**query, **before, "limit": min(left, PAGE)})
        print_dropped(page)
        pages.append(items(page, "lines"))
        left -= len(pages[-1])
        if not isinstance(page.get("previous"), str):
            break
        before = {"before": page["previous"]}
    for lines in reversed(pages):
        yield from lines


def _ledger_line(line: "Json") -> str:
    words = [clock(line.get("at_ms")), field(line, "task"), field(line, "kind"), field(line, "by")]
    if line.get("epoch") is not None:
        words.append(f"epoch {field(line, 'epoch')}")
    lines = ["  ".join(words), safe_lines(str(line.get("text")), "  ")]
    lines += [f"  {field(file, 'path')}  {field(file, 'bytes')} bytes" for file in items(line, "artefacts")]
    return "\n".join(lines)


# A task in words.


def task_line(task: "Json") -> str:
    """One task on one line: what it is, how it stands, who has it, and what stands in its way."""
    words = [field(task, "task"), "ready" if task.get("ready") else field(task, "status")]
    if task.get("priority") != "normal":
        words.append(field(task, "priority"))
    if task.get("title") != task.get("task"):
        words.append(field(task, "title"))
    words += [f"by {holder_words(holder)}" for holder in items(task, "holders")]
    words += asked_words(task)
    if not task.get("holders") and task.get("suggested_owner") is not None:
        words.append(f"for {field(task, 'suggested_owner')}")
    waits = waits_words(task)
    return "  ".join([*words, waits] if waits else words)


def holder_words(holder: "Json", now_ms: "int | None" = None) -> str:
    """Who holds a task, and how long still; since when it is idle, if that is long."""
    until, idle_ms = holder.get("expires_at_ms"), holder.get("idle_ms")
    now_ms = int(time() * 1000) if now_ms is None else now_ms
    left = f"{span(max(0, until - now_ms))} left" if isinstance(until, int) else "parked"
    words = f"{field(holder, 'owner')} (epoch {field(holder, 'epoch')}, {left})"
    return f"{words} stalled, idle {span(idle_ms)}" if holder.get("stalled") and isinstance(idle_ms, int) else words


def asked_words(task: "Json") -> "list[str]":
    """The questions of a task that wait for a person."""
    found = task.get("questions")
    return [f"asks people: {', '.join(safe(str(question)) for question in found)}"] if isinstance(found, list) else []


def waits_words(task: "Json", most: int = _ABRIDGED) -> str:
    """What a task waits for, each with its status; '' when for nothing."""
    unmet, waits = task.get("unmet"), task.get("waits_for")
    if not isinstance(unmet, int) or not unmet:
        return ""
    named = list(waits.items())[:most] if isinstance(waits, dict) else []
    told = ", ".join(f"{safe(other)} ({safe(str(status))})" for other, status in named)
    return f"waits for {told}{f' and {unmet - len(named)} more' if unmet > len(named) else ''}"


def _block(task: "Json") -> "Iterator[str]":
    status = "open, ready" if task.get("ready") else field(task, "status")
    yield f"{field(task, 'task')}  {field(task, 'title')}"
    yield f"  {status}, since {clock(task.get('moved_at_ms'))}"
    yield f"  priority {field(task, 'priority')}"
    for holder in items(task, "holders"):
        yield f"  held by {holder_words(holder)}"
    for key, words in (("suggested_owner", "suggested owner {}"), ("declared_by", "declared by {}")):
        if task.get(key) is not None:
            yield f"  {words.format(field(task, key))}" + (
                f", {clock(task.get('declared_at_ms'))}, version {field(task, 'version')}"
                if key == "declared_by"
                else ""
            )
    labels, wanted = task.get("labels"), task.get("depends_on")
    if isinstance(labels, list) and labels:
        yield f"  labels {', '.join(safe(str(label)) for label in labels)}"
    if isinstance(wanted, list) and wanted:
        yield f"  depends on {', '.join(safe(str(other)) for other in wanted)}"
    if task.get("unmet"):
        yield f"  {waits_words(task, 32)}"
    if task.get("dependents"):
        yield f"  needed by {field(task, 'dependents')}"
    if task.get("progress"):
        yield f"  {field(task, 'progress')} lines of progress, the last one {clock(task.get('progress_at_ms'))}"
    if task.get("description"):
        yield safe_lines(str(task["description"]), "    ")


def items(answer: "Json", key: str) -> "list[Json]":
    """A list of objects in an answer; empty where there is none."""
    found = answer.get(key)
    return found if isinstance(found, list) else []
