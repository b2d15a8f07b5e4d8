"""`session …`: the durable record of a run.

Rule: the session is `--session`, else SYNAPSE_SESSION, else my latest open one.
"""

import os
from time import time

from synapse.errors import EXIT_OK
from synapse.faces.cli.call import MAIN, Call
from synapse.faces.cli.claims import artefact_of
from synapse.faces.cli.given import given_json, given_text, given_version
from synapse.faces.cli.options import UsageError
from synapse.faces.cli.render import clock, field, print_dropped, print_json, print_text, safe, table
from synapse.faces.cli.task import items
from synapse.lean import dumps

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    from synapse.client.link import Link

    Json: TypeAlias = dict[str, object]

LIMIT = 20
PAGE = 200
_LISTS = {"decision": "decisions", "file": "files", "todo": "todos"}
_FIELDS = ("display_name", "repo", "task", "summary")


def session_start(call: Call) -> int:
    """Begin the record of a run."""
    body = {**_fields(call), **call.room}
    answer = call.open_as(call.worker).ask("session.start", body, idem_key=call.parsed.text("idem_key"))
    call.show(answer, field(answer, "session"))
    return EXIT_OK


def session_update(call: Call) -> int:
    """Append to its lists, and replace fields."""
    parsed = call.parsed
    body = {**_named(call), **_fields(call)}
    replaced = parsed.texts("replace")
    if any(name not in _LISTS.values() for name in replaced):
        raise UsageError(f"--replace takes {', '.join(_LISTS.values())}, not {', '.join(replaced)}")
    append: Json = {}
    for option, name in _LISTS.items():
        lines = parsed.texts(option)
        if name in replaced:
            body[name] = lines
        elif lines:
            append[name] = lines
    if append:
        body["append"] = append
    if parsed.text("state") is not None:
        body["state"] = parsed.text("state")
    wait_s, version = parsed.seconds("resumable_in"), given_version(call)
    if wait_s is not None:
        body["resumable_at_ms"] = int((time() + wait_s) * 1000) if wait_s else 0
    if version is not None:
        body["if_version"] = version
    answer = _open(call).ask("session.update", body, idem_key=parsed.text("idem_key"))
    call.show(answer, _line(answer))
    return EXIT_OK


def session_beat(call: Call) -> int:
    """Say that the run goes on."""
    answer = call.open_as(call.worker).ask("session.beat", _named(call))
    call.show(answer, f"{field(answer, 'session')} is online")
    return EXIT_OK


def session_checkpoint(call: Call) -> int:
    """Keep a snapshot."""
    return keep_point(call, call.parsed.arguments, call.parsed.text("lane"))


def keep_point(call: Call, given: list[str], lane: str | None) -> int:
    """Keep a snapshot of the session, which may belong to a lane. given: its data, if it has any."""
    parsed = call.parsed
    files = [artefact_of(path) for path in parsed.texts("artefact")]
    if not given and not files:
        verb = parsed.verb.name if parsed.verb is not None else ""
        raise UsageError(f"what to keep? synapse {verb} JSON, or - to read it from stdin")
    body = _named(call)
    if given:
        body["data"] = given_json(given_text(given[0], "keep a reference to a file, with --artefact"), "a checkpoint")
    if files:
        body["artefacts"] = files
    if lane is not None:
        body["lane"] = lane
    if parsed.whole("epoch") is not None:
        body["epoch"] = parsed.whole("epoch")
    answer = call.open_as(call.worker).ask("session.checkpoint", body, idem_key=parsed.text("idem_key"))
    call.show(answer, f"{field(answer, 'session')}: checkpoint {field(answer, 'n')} kept")
    return EXIT_OK


def session_checkpoints(call: Call) -> int:
    """The checkpoints, newest first."""
    body = _named(call)
    if call.parsed.arguments:
        body["session"] = call.parsed.arguments[0]
    for point in _points(call.open(), body, call.parsed.number("limit", LIMIT)):
        if call.as_json:
            print_json(point)
        else:
            print_text("\n".join(point_block(point)))
    return EXIT_OK


def _points(link: "Link", query: "Json", left: int) -> "Iterator[Json]":
    after: Json = {}
    while left > 0:
        page = link.ask("session.checkpoints", {**query, **after, "limit": min(left, PAGE)})
        found = items(page, "checkpoints")
        left -= len(found)
        for point in found:
            yield {**point, "cursor": page.get("cursor")}
        print_dropped(page)
        if not isinstance(page.get("next"), str):
            return
        after = {"after": page["next"]}


def session_show(call: Call) -> int:
    """Everything about one session."""
    body: Json = {"session": call.parsed.arguments[0]} if call.parsed.arguments else {}
    if call.parsed.text("agent") is not None:
        body["agent"] = call.parsed.text("agent")
    if not body:
        body = _named(call)
    answer = call.ask("session.show", body)
    call.show(answer, "\n".join(_block(answer)))
    return EXIT_OK


def session_list(call: Call) -> int:
    """Sessions, the latest first."""
    parsed = call.parsed
    body: Json = {key: text for key in ("agent", "state") if (text := parsed.text(key)) is not None}
    if parsed.has("resumable"):
        body["resumable"] = True
    answer = call.pages("session.list", {**body, **call.room}, ("sessions",))
    rows = [
        [
            field(one, "session"),
            field(one, "agent"),
            field(one, "state"),
            field(one, "presence"),
            clock(one.get("updated_at_ms")),
            field(one, "task"),
            f"{field(one, 'display_name')}{'  resumable' if one.get('resumable') else ''}",
        ]
        for one in items(answer, "sessions")
    ]
    call.show(answer, table(rows) if rows else "no sessions")
    return EXIT_OK


def session_end(call: Call) -> int:
    """The run is over."""
    body = _named(call)
    for key in ("state", "reason"):
        if call.parsed.text(key) is not None:
            body[key] = call.parsed.text(key)
    answer = _open(call).ask("session.end", body, idem_key=call.parsed.text("idem_key"))
    call.show(answer, _line(answer))
    return EXIT_OK


# What is asked, and what is told.


def named_session(call: Call) -> str | None:
    """The session that the call names, if it names one."""
    return call.parsed.text("session") or os.environ.get("SYNAPSE_SESSION") or None


def _named(call: Call) -> "Json":
    session = named_session(call)
    return {} if session is None else {"session": session}


def _open(call: Call) -> "Link":
    """Raises `UsageError` for an operator, who has no session of its own, and names none."""
    if not call.parsed.has("operator"):
        return call.open_as(call.worker)
    if named_session(call) is None:
        raise UsageError("--operator needs --session: synapse session list shows them")
    return call.open_as_operator()


def _fields(call: Call) -> "Json":
    body: Json = {key: text for key in _FIELDS if (text := call.parsed.text(key)) is not None}
    metadata = call.parsed.text("metadata")
    if metadata is not None:
        body["metadata"] = given_json(metadata, "metadata")
    return body


def _line(kept: "Json") -> str:
    counts = ", ".join(f"{field(kept, name)} {name}" for name in _LISTS.values() if kept.get(name))
    words = [field(kept, "session"), field(kept, "state"), f"version {field(kept, 'version')}"]
    return "  ".join([*words, counts] if counts else words)


def _block(one: "Json") -> "Iterator[str]":
    yield f"{field(one, 'session')}  {field(one, 'display_name')}"
    yield f"  {field(one, 'state')}, {field(one, 'presence')}, of {field(one, 'agent')} in room {field(one, 'room')}"
    yield f"  version {field(one, 'version')}, {clock(one.get('updated_at_ms'))}"
    for key in ("task", "repo", "reason"):
        if one.get(key) is not None:
            yield f"  {key} {field(one, key)}"
    if one.get("resumable_at_ms") is not None:
        yield f"  may be resumed from {clock(one['resumable_at_ms'])}"
    if one.get("resumable"):
        room = f" --room {field(one, 'room')}" if one.get("room") not in (None, MAIN) else ""
        yield f"  its last checkpoint waits: synapse claim {field(one, 'task')}{room}"
    if one.get("resumed_by") is not None:
        yield f"  resumed by {field(one, 'resumed_by')}, {clock(one.get('resumed_at_ms'))}"
    if one.get("summary"):
        yield f"  {field(one, 'summary')}"
    for name in _LISTS.values():
        lines = one.get(name)
        if isinstance(lines, list) and lines:
            yield f"  {name}"
            yield from (f"    - {safe(str(line))}" for line in lines)
    if one.get("metadata"):
        yield f"  {safe(dumps(one['metadata']))}"
    last = one.get("last")
    if isinstance(last, dict):
        yield from (f"  {line}" for line in point_block(last))


def point_block(point: "Json") -> "Iterator[str]":
    """A checkpoint for people."""
    lane = f"  lane {field(point, 'lane')}" if point.get("lane") is not None else ""
    yield f"checkpoint {field(point, 'n')} of {field(point, 'agent')}, {clock(point.get('at_ms'))}{lane}"
    yield f"  {safe(dumps(point.get('data')))}"
    yield from (f"  {field(file, 'path')}  {field(file, 'bytes')} bytes" for file in items(point, "artefacts"))
