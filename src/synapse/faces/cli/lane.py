"""`lane …`: work that one agent hands to another, with its context, messages and checkpoints."""

from synapse.errors import EXIT_OK
from synapse.faces.cli.call import Call
from synapse.faces.cli.given import given_json, given_text
from synapse.faces.cli.options import UsageError
from synapse.faces.cli.render import clock, field, print_dropped, safe, safe_lines, table
from synapse.faces.cli.session import keep_point, named_session, point_block
from synapse.faces.cli.task import items
from synapse.faces.cli.terms import milliseconds
from synapse.lean import dumps, loads

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

LIMIT = 20
_BIG = "keep a reference to a file instead"


def lane_offer(call: Call) -> int:
    """Offer work to an agent."""
    parsed = call.parsed
    named, given = parsed.text("to"), list(parsed.arguments)
    if named is None and not given:
        raise UsageError("to whom? synapse lane offer AGENT, or --to AGENT")
    body: Json = {"to": given.pop(0) if named is None else named}
    if len(given) > 1:
        raise UsageError("with --to there is one argument at most: the context, as JSON")
    if given:
        body["context"] = given_json(given_text(given[0], _BIG), "the context")
    for key in ("note", "task"):
        if parsed.text(key) is not None:
            body[key] = parsed.text(key)
    session, within_s = named_session(call), parsed.seconds("within")
    if session is not None:
        body["session"] = session
    if within_s is not None:
        body["timeout_ms"] = milliseconds(within_s)
    answer = call.open_as(call.worker).ask("lane.offer", body, idem_key=parsed.text("idem_key"))
    call.show(answer, f"{_line(answer)}, until {clock(answer.get('expires_at_ms'))}")
    return EXIT_OK


def lane_accept(call: Call) -> int:
    """Take the work over."""
    return _move(call, "lane.accept", {})


def lane_decline(call: Call) -> int:
    """Leave it with the sender."""
    return _move(call, "lane.decline", _reason(call))


def lane_close(call: Call) -> int:
    """It is over."""
    return _move(call, "lane.close", _reason(call))


def lane_send(call: Call) -> int:
    """Write to the other side: JSON where the text is JSON, else the text."""
    lane, text = call.parsed.arguments
    text = given_text(text, _BIG)
    try:
        said: object = loads(text)
    except (ValueError, RecursionError):
        said = text
    link = call.open_as(call.worker)
    answer = link.ask("lane.send", {"lane": lane, "body": said}, idem_key=call.parsed.text("idem_key"))
    call.show(answer, f"{field(answer, 'lane')}: message {field(answer, 'n')} sent")
    return EXIT_OK


def lane_checkpoint(call: Call) -> int:
    """Keep a snapshot in a lane."""
    return keep_point(call, call.parsed.arguments[1:], call.parsed.arguments[0])


def lane_show(call: Call) -> int:
    """A lane with its context, and what was said and kept in it, newest first."""
    body: Json = {"lane": call.parsed.arguments[0], "limit": call.parsed.number("limit", LIMIT)}
    answer = call.ask("lane.show", body)
    print_dropped(answer)
    call.show(answer, "\n".join(_block(answer)))
    return EXIT_OK


def lane_list(call: Call) -> int:
    """Lanes, the latest first."""
    parsed = call.parsed
    keys = ("sender", "receiver", "state", "session")
    body: Json = {key: text for key in keys if (text := parsed.text(key)) is not None}
    answer = call.pages("lane.list", {**body, **call.room}, ("lanes",))
    rows = [
        [
            field(lane, "lane"),
            field(lane, "state"),
            f"{field(lane, 'sender')} → {field(lane, 'receiver')}",
            clock(lane.get("moved_at_ms")),
            field(lane, "task"),
            field(lane, "note"),
        ]
        for lane in items(answer, "lanes")
    ]
    call.show(answer, table(rows) if rows else "no lanes")
    return EXIT_OK


def _reason(call: Call) -> "Json":
    reason = call.parsed.text("reason")
    return {} if reason is None else {"reason": reason}


def _move(call: Call, kind: str, more: "Json") -> int:
    link = call.open_as_operator() if call.parsed.has("operator") else call.open_as(call.worker)
    answer = link.ask(kind, {"lane": call.parsed.arguments[0], **more}, idem_key=call.parsed.text("idem_key"))
    call.show(answer, _line(answer))
    return EXIT_OK


def _line(lane: "Json") -> str:
    words = f"{field(lane, 'lane')}  {field(lane, 'state')}  {field(lane, 'sender')} → {field(lane, 'receiver')}"
    if lane.get("task") is not None:
        words += f"  {field(lane, 'task')}"
    return f"{words}, with its lease (epoch {field(lane, 'epoch')})" if lane.get("epoch") is not None else words


def _block(shown: "Json") -> "Iterator[str]":
    lane = shown.get("info")
    if not isinstance(lane, dict):
        return
    yield _line(lane)
    yield f"  since {clock(lane.get('moved_at_ms'))}, by {field(lane, 'moved_by')}"
    if lane.get("state") == "offered":
        yield f"  to be accepted until {clock(lane.get('expires_at_ms'))}: synapse lane accept {field(lane, 'lane')}"
    yield f"  out of {field(lane, 'session')} in room {field(lane, 'room')}"
    for key in ("note", "reason"):
        if lane.get(key) is not None:
            yield f"  {key} {field(lane, key)}"
    if shown.get("context") is not None:
        yield f"  {safe(dumps(shown['context']))}"
    for entry in items(shown, "entries"):
        if entry.get("kind") == "message":
            body = entry.get("body")
            yield f"{field(entry, 'by')}, {clock(entry.get('at_ms'))}"
            yield safe_lines(body if isinstance(body, str) else dumps(body), "  ")
        else:
            yield from point_block({**entry, "agent": entry.get("by")})
