"""`task declare`: one task from options, or many from a file.

A file is a list of objects, or an object a line, with the fields of a declaration in PROTOCOL.md. All of it is looked
at before the first is sent. It goes in batches, each declared whole or not at all; the first refusal ends it and says
which batch it was and what stands. Declared again, the same file changes nothing that is so already.
"""

from synapse.client.link import Link
from synapse.errors import EXIT_OK, Rejected
from synapse.faces.cli.call import Call, longest_page
from synapse.faces.cli.given import given_json, given_text, given_version, require_stdin
from synapse.faces.cli.options import UsageError
from synapse.faces.cli.render import field
from synapse.faces.cli.task import task_line
from synapse.lean import dumps

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

FIELDS = ("task", "title", "description", "priority", "labels", "suggested_owner", "depends_on", "if_version")
FILE_BYTES_MAX = 32 << 20
FRAME_BYTES = 256 << 10
"""Bytes of one request, unless the hub says otherwise."""
AROUND_BYTES = 1024
"""What a request has around its tasks."""
_OF_ONE = ("title", "description", "depends_on", "priority", "owner", "label", "if_version")


def task_declare(call: Call) -> int:
    """Declare one task, or those of a file."""
    parsed = call.parsed
    path = parsed.text("file")
    if path is None and not parsed.arguments:
        raise UsageError("which task? synapse task declare TASK, or --file PATH with many")
    if path is not None:
        surplus = parsed.arguments or [f"--{key.replace('_', '-')}" for key in _OF_ONE if parsed.has(key)]
        if surplus:
            raise UsageError(f"give --file or {surplus[0]!a}: the file says all of its tasks")
        return _declare_file(call, path)
    body: Json = {"task": parsed.arguments[0], **call.room}
    for key in ("title", "priority"):
        if parsed.text(key) is not None:
            body[key] = parsed.text(key)
    description, owner, version = parsed.text("description"), parsed.text("owner"), given_version(call)
    if description is not None:
        body["description"] = given_text(description, "keep it in a file, and say where")
    if owner is not None:
        body["suggested_owner"] = owner
    if version is not None:
        body["if_version"] = version
    for key, wire in (("depends_on", "depends_on"), ("label", "labels")):
        if parsed.has(key):
            body[wire] = [word for text in parsed.texts(key) for name in text.split(",") if (word := name.strip())]
    link = call.open_as_operator() if parsed.has("operator") else call.open()
    answer = link.ask("task.declare", body, idem_key=parsed.text("idem_key"))
    was_so = "  (it was so already)" if answer.get("changed") is False else ""
    call.show(answer, f"{task_line(answer)}{was_so}")
    return EXIT_OK


# Many.


def _declare_file(call: Call, path: str) -> int:
    entries = read_entries(path)
    link = call.open_as_operator() if call.parsed.has("operator") else call.open()
    versions: Json = {}
    declared = unchanged = first = count = 0
    answer: Json = {}
    for batch in _batches(entries, longest_page(link), _frame_bytes(link)):
        count += 1
        try:
            answer = _declare_batch(call, link, batch)
        except Rejected as error:
            raise _in_batch(error, entries, first, len(batch), count) from error
        first += len(batch)
        found, same, tasks = answer.get("declared"), answer.get("unchanged"), answer.get("tasks")
        declared += found if isinstance(found, int) else 0
        unchanged += same if isinstance(same, int) else 0
        versions |= tasks if isinstance(tasks, dict) else {}
    told: Json = {"room": answer.get("room"), "declared": declared, "unchanged": unchanged, "batches": count}
    told |= {"tasks": versions, "cursor": answer.get("cursor")}
    so = f", {unchanged} were so already" if unchanged else ""
    call.show(told, f"{declared} tasks declared in room {field(told, 'room')}{so}")
    return EXIT_OK


def _declare_batch(call: Call, link: Link, batch: "list[Json]") -> "Json":
    return link.ask("task.declare_all", {"tasks": batch, **call.room})


def _in_batch(error: Rejected, entries: "list[Json]", first: int, size: int, number: int) -> Rejected:
    """The refusal of a batch: which tasks it was, and what stands."""
    last = first + size
    stand = f"the {first} before them stand" if first else "nothing was declared"
    facts: Json = {"batch": number, "first": entries[first]["task"], "last": entries[last - 1]["task"], "stand": first}
    detail = f"tasks {first + 1} to {last} ({facts['first']} to {facts['last']}): {error.detail}; {stand}"
    return Rejected(error.code, detail, {**error.facts, **facts}, retry_after_ms=error.retry_after_ms)


def _frame_bytes(link: Link) -> int:
    limits = link.await_welcome().get("limits")
    most = limits.get("frame_bytes_max") if isinstance(limits, dict) else None
    return most if isinstance(most, int) else FRAME_BYTES


def _batches(entries: "list[Json]", most: int, frame_bytes: int) -> "Iterator[list[Json]]":
    """As few as may be: each of at most so many tasks, and within a frame."""
    batch: list[Json] = []
    size = AROUND_BYTES
    for entry in entries:
        more = len(dumps(entry).encode()) + 1
        if batch and (len(batch) == most or size + more > frame_bytes):
            yield batch
            batch, size = [], AROUND_BYTES
        batch.append(entry)
        size += more
    if batch:
        yield batch


def read_entries(path: str) -> "list[Json]":
    """The declarations of a file, or of stdin for `-`. Raises `UsageError` that names the place, OSError."""
    name = "stdin" if path == "-" else path
    if path == "-":
        data = require_stdin().read(FILE_BYTES_MAX + 1)
    else:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise UsageError(f"{name} has more than {FILE_BYTES_MAX} bytes: give it in parts")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not UTF-8 (byte {error.start})") from error
    entries: list[Json] = []
    seen: dict[object, str] = {}
    for place, value in _values(name, text):
        entry = _entry(place, value)
        if entry["task"] in seen:
            raise UsageError(f"{place}: {entry['task']!a} stands at {seen[entry['task']]} already; nothing was sent")
        seen[entry["task"]] = place
        entries.append(entry)
    if not entries:
        raise UsageError(f"{name} has no task in it")
    return entries


def _values(name: str, text: str) -> "Iterator[tuple[str, object]]":
    """What the file lists, each with its place."""
    if text.lstrip()[:1] == "[":
        found = given_json(text, name)
        assert isinstance(found, list), "a text that begins with a bracket is a list"
        for number, value in enumerate(found, 1):
            yield f"{name}, item {number}", value
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{name}:{number}", given_json(line, f"{name}:{number}")


def _entry(place: str, value: object) -> "Json":
    """One declaration, looked at as far as the hub could not name its place. Raises `UsageError`."""
    if not isinstance(value, dict):
        raise UsageError(f"{place}: a task is an object such as {_EXAMPLE}; nothing was sent")
    if not isinstance(value.get("task"), str):
        raise UsageError(f"{place}: the task has no id: {_EXAMPLE}; nothing was sent")
    for key in value:
        if key not in FIELDS:
            raise UsageError(f"{place}: a task has no field {key!a}, but {', '.join(FIELDS)}; nothing was sent")
    return value


_EXAMPLE = '{"task":"T2","title":"…","depends_on":["T1"]}'
