"""What goes to stdout: JSON exactly, or blocks for people in which other people's text can do no harm."""

import sys
from errno import EBADF
from time import localtime, strftime

from synapse.client.plain import safe as safe
from synapse.client.plain import span as span
from synapse.lean import dumps

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]


def print_json(value: "Json") -> None:
    """One object on one line, flushed. What cannot be seen is escaped, which JSON reads back as the same text."""
    print_json_text(dumps(value))


def print_json_text(text: str) -> None:
    """As `print_json`, of an object that is JSON already. Raises OSError."""
    require_stdout()
    if not text.isprintable() or not (text.isascii() or "utf" in (sys.stdout.encoding or "").lower()):
        text = "".join(char if " " <= char <= "~" or _is_shown(char) else _escaped(char) for char in text)
    _put(text)


def require_stdout() -> None:
    """Raises OSError when this process was started without one."""
    if sys.stdout is None:
        raise OSError(EBADF, "stdout is closed")


def _is_shown(char: str) -> bool:
    return char.isprintable() and "utf" in (sys.stdout.encoding or "").lower()


def _escaped(char: str) -> str:
    code = ord(char)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def print_text(text: str) -> None:
    """Lines of ours for people, flushed; what the terminal's encoding lacks is escaped. Raises OSError."""
    require_stdout()
    try:
        _put(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        _put(text.encode(encoding, "backslashreplace").decode(encoding))


def _put(line: str) -> None:
    """Write a line, flushed. Raises OSError, which says that it was stdout: a full disk may also be the hub's."""
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except OSError as error:
        error.filename = "stdout"
        raise


def print_words(text: str) -> None:
    """A line on stderr. Nobody reading it is no failure."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(f"synapse: {safe(text)}\n")
        sys.stderr.flush()
    except (OSError, UnicodeEncodeError):
        return


def print_dropped(page: "Json") -> None:
    """That retention took what would stand before a page, if it did: on stderr, since lines of JSON have no place for
    it."""
    if page.get("first_kept") is not None:
        print_words(f"what happened up to {page['first_kept']} was dropped by retention")


def safe_lines(text: str, indent: str) -> str:
    """A text of somebody else's on its own lines, each indented, so that none can pass for one of ours."""
    return "\n".join(indent + safe(line.replace("\t", "    ")) for line in text.split("\n"))


def field(value: "Json", key: str) -> str:
    """A field of an answer as safe text; '' when it is not there or null."""
    found = value.get(key)
    return "" if found is None else safe(found if isinstance(found, str) else dumps(found))


def message_block(message: "Json") -> str:
    """One message for people: where, who, when; then its text, indented."""
    room = field(message, "room")
    place = f"{room}:{field(message, 'channel')}" if room else field(message, "channel")
    to = message.get("to")
    words = [f"{place} #{field(message, 'n')}", clock(message.get("sent_at_ms")), field(message, "from")]
    if isinstance(to, list):
        words.append("→ " + ", ".join(safe(str(name)) for name in to))
    words.append(field(message, "id"))
    if message.get("priority") != "normal":
        words.append(field(message, "priority"))
    for key in ("delivery", "subject", "thread", "reply_to"):
        if message.get(key) is not None:
            words.append(f"{key}={field(message, key)}" if key != "delivery" else field(message, key))
    return "  ".join(words) + "\n" + safe_lines(_body_words(message, message.get("body")), "  ")


def _body_words(message: "Json", body: object) -> str:
    """What a message says. Of one that refers to a file: which, and how one gets it; of the hub's own: the facts."""
    if isinstance(body, str):
        return body
    if isinstance(body, dict) and message.get("id") is not None:
        size, how = f"{field(body, 'bytes')} bytes", f"synapse receive {field(message, 'id')}"
        if message.get("room") is not None:
            how += f" {field(message, 'room')}:{field(message, 'channel')}"
        if body.get("type") == "file" and body.keys() >= {"path", "bytes", "sha256"}:
            return f"file {field(body, 'path')}  {size}: {how}"
        if message.get("kind") == "system":
            return _letter_words(body)
        if body.get("type") == "chunked" and body.keys() >= {"file", "name", "bytes", "sha256"}:
            return f"file {field(body, 'name')}  {size}, at the hub: {how} --save PATH"
    return dumps(body)


def _letter_words(body: "Json") -> str:
    """A letter of the hub's own: facts in a line, and the command that follows from them. Its subject says the rest."""
    facts = [f"{key} {field(body, key)}" for key in body if key not in ("type", "next") and body[key] not in (None, "")]
    lines = [", ".join(facts)] if facts else []
    if body.get("next"):
        lines.append(f"next: {body['next']}")
    return "\n".join(lines)


def clock(at_ms: object) -> str:
    """A time for people, in their zone: the hour today, the date too on other days."""
    if not isinstance(at_ms, int):
        return "–"
    then = localtime(at_ms / 1000)
    return strftime("%H:%M:%S" if then[:3] == localtime()[:3] else "%Y-%m-%d %H:%M:%S", then)


def table(rows: list[list[str]]) -> str:
    """Columns side by side, the last one ragged."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
