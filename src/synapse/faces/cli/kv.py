"""`kv …`: shared values of a room."""

import os
import sys
from time import time

from synapse.errors import EXIT_OK, EXIT_REFUSED, Rejected
from synapse.faces.cli.call import MAIN, Call, ask_one_of_many, pages
from synapse.faces.cli.given import given_file, given_text, given_version
from synapse.faces.cli.options import UsageError
from synapse.faces.cli.render import clock, field, print_json, print_text, print_words, safe, safe_lines, table
from synapse.lean import dumps, loads

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    from synapse.client.link import Link, Notice

    Json: TypeAlias = dict[str, object]

_BEGINS_JSON = frozenset("-0123456789[{")


def kv_put(call: Call) -> int:
    """Put a value: JSON where the text is JSON, else the text; --text takes it as text whatever it is."""
    key, text = call.parsed.arguments
    body: Json = {"key": key, "value": _value(call, text), **call.room}
    ttl_s = call.parsed.seconds("ttl")
    if ttl_s is not None:
        body["ttl_ms"] = int(ttl_s * 1000)
    version = given_version(call)
    if version is not None:
        body["if_version"] = version
    answer = call.open().ask("value.put", body, idem_key=call.parsed.text("idem_key"))
    call.show(answer, f"{field(answer, 'key')}  version {field(answer, 'version')}{_until(answer)}")
    return EXIT_OK


def kv_get(call: Call) -> int:
    """Print a value: a text as it is, else JSON; harmless for a terminal, since others may have put it."""
    answer = call.ask("value.get", {"key": call.parsed.arguments[0], **call.room})
    text = _shown(answer.get("value"))
    call.show(answer, safe_lines(text, "") if sys.stdout is not None and sys.stdout.isatty() else text)
    return EXIT_OK


def kv_delete(call: Call) -> int:
    """Remove a value."""
    body: Json = {"key": call.parsed.arguments[0], **call.room}
    version = given_version(call)
    if version is not None:
        body["if_version"] = version
    answer = call.open().ask("value.delete", body)
    call.show(answer, f"deleted {field(answer, 'key')}")
    return EXIT_OK


def kv_keys(call: Call) -> int:
    """Print the keys, one a line."""
    answer = _all(call, _prefix(call), values=False)
    keys = [value["key"] for value in _values(answer)]
    if call.as_json:
        print_json({"seq": answer.get("seq"), "keys": keys, "cursor": answer.get("cursor")})
    else:
        for key in keys:
            print_text(safe(str(key)))
    return EXIT_OK


def kv_all(call: Call) -> int:
    """Print all values, with who owns them."""
    answer = _all(call, _prefix(call))
    rows = [
        [field(value, "key"), safe(_shown(value.get("value"))), field(value, "owner"), _until(value).strip()]
        for value in _values(answer)
    ]
    call.show(answer, table(rows) if rows else "no values")
    return EXIT_OK


def kv_clear(call: Call) -> int:
    """Remove all values, or those whose key begins so."""
    body: Json = {"prefix": _prefix(call), **call.room}
    answer = call.open().ask("value.clear", body)
    call.show(answer, f"cleared {field(answer, 'cleared')}")
    return EXIT_OK


def kv_transfer(call: Call) -> int:
    """Give a value of mine to another agent."""
    to = call.parsed.text("to")
    if to is None:
        raise UsageError("kv transfer needs --to AGENT")
    body: Json = {"key": call.parsed.arguments[0], "to": to, **call.room}
    answer = call.open().ask("value.transfer", body)
    call.show(answer, f"{field(answer, 'key')} belongs to {field(answer, 'owner')}")
    return EXIT_OK


def kv_snapshot(call: Call) -> int:
    """Write all values of a room into a new file, one a line, with owner and what is left of their time."""
    path = call.parsed.arguments[0]
    answer = _all(call, "")
    now_ms = int(time() * 1000)
    lines = []
    for value in _values(answer):
        until = value.get("expires_at_ms")
        left_ms = max(1, until - now_ms) if isinstance(until, int) else None
        lines.append(dumps({**{key: value[key] for key in ("key", "value", "owner")}, "ttl_ms": left_ms}))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    path = os.path.abspath(path)
    call.show({"path": path, "values": len(lines), "cursor": answer.get("cursor")}, f"{path}: {len(lines)} values")
    return EXIT_OK


def kv_restore(call: Call) -> int:
    """Put the values of such a file, each for its owner; as operator, unless all are mine."""
    path = call.parsed.arguments[0]
    lines = given_file(path).removesuffix("\n").split("\n")  # a value may hold what `splitlines` takes for an end
    entries = [_entry(path, number, line) for number, line in enumerate(lines, 1) if lines != [""]]
    is_mine = all(entry["owner"] == call.me.name for entry in entries)
    link = call.open() if is_mine else call.open_as_operator()
    cursor: object = link.await_welcome().get("cursor")
    refused: Rejected | None = None
    put = 0
    for number, entry in enumerate(entries, 1):
        try:
            cursor = ask_one_of_many(link, "value.put", {**entry, **call.room}).get("cursor")
            put += 1
        except Rejected as error:
            print_words(f"{path}:{number}: {error}")
            refused = error
    call.show({"restored": put, "refused": len(entries) - put, "cursor": cursor}, f"restored {put} of {len(entries)}")
    return EXIT_OK if refused is None else EXIT_REFUSED


def kv_watch(call: Call) -> int:
    """Print each change of a room's values as it comes."""
    from synapse.faces.cli.follow import cursor_in, stay

    prefix, room = _prefix(call), call.room_name or MAIN

    def show(link: "Link", notice: "Notice") -> str | None:
        cursor = cursor_in(notice)
        key = str(notice.body.get("key"))
        is_cleared = notice.body.get("change") == "cleared"
        if notice.kind == "value.changed" and (key.startswith(prefix) or (is_cleared and prefix.startswith(key))):
            _show_change(call, notice.body)
        return cursor

    return stay(call, {"values": [room]}, f"watching values of {room}: {prefix or 'all'}", show)


def _show_change(call: Call, change: "Json") -> None:
    if call.as_json:
        print_json(change)
        return
    value = f"  {safe(_shown(change.get('value')))}" if change.get("change") == "put" else ""
    print_text(f"{field(change, 'change'):12}{field(change, 'key')}{value}  by {field(change, 'by')}")


def _value(call: Call, argument: str) -> object:
    """Raises `UsageError` for JSON with a number that is too large: kept as text it would be another value."""
    text = given_text(argument, "keep a reference to a file instead")
    if call.parsed.has("text"):
        return text
    try:
        return loads(text)
    except (ValueError, RecursionError):
        if _is_json_but_for_numbers(text):
            raise UsageError(
                f"{text[:40]!a} holds a number that is larger than any number here (about 1.8e308); with --text it is "
                "kept as text"
            ) from None
        return text


def _is_json_but_for_numbers(text: str) -> bool:
    """True for JSON of which no more is wrong than how large its numbers are."""
    if text.lstrip()[:1] not in _BEGINS_JSON:  # as nearly every text, and `json` is slow to import
        return False
    import json

    try:
        json.loads(text, parse_float=str, parse_int=str, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _prefix(call: Call) -> str:
    return call.parsed.arguments[0] if call.parsed.arguments else ""


def _all(call: Call, prefix: str, *, values: bool = True) -> "Json":
    return pages(call.open(), "value.list", {"prefix": prefix, "values": values, **call.room}, ("values",))


def _values(answer: "Json") -> "list[Json]":
    found = answer.get("values")
    return found if isinstance(found, list) else []


def _shown(value: object) -> str:
    return value if isinstance(value, str) else dumps(value)


def _until(answer: "Json") -> str:
    until = answer.get("expires_at_ms")
    return f"  until {clock(until)}" if isinstance(until, int) else ""


def _entry(path: str, number: int, line: str) -> "Json":
    try:
        entry = loads(line)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict) or not {"key", "value", "owner"} <= entry.keys():
        raise UsageError(f"{path}:{number}: not a line of `kv snapshot`; nothing was put")
    wanted = ("key", "value", "owner", "ttl_ms")
    return {key: entry[key] for key in wanted if key == "value" or entry.get(key) is not None}
