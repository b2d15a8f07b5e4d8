"""`relay` and `relay write`: a mirror of what happens in a few bounded files, for who tails a file."""

import os

from synapse.errors import EXIT_OK, Rejected
from synapse.faces.cli.call import Call
from synapse.faces.cli.ingest import lines_of, pages, position_of, what
from synapse.faces.cli.options import UsageError
from synapse.faces.cli.render import print_json, print_words
from synapse.faces.relay_files import BYTES_LEAST, BYTES_MAX, KEEP, KEEP_MOST, Relay, read
from synapse.faces.relay_form import split

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

FILE = "relay.ndjson"
POSTED = "message.posted"


def relay(call: Call) -> int:
    """Print what a relay has, as `ingest` would."""
    since = call.parsed.text("since")
    for told in read(_path(call), since, is_following=call.parsed.has("follow")):
        print_json(told)
    return EXIT_OK


def _path(call: Call) -> str:
    given = call.parsed.text("file")
    return os.path.join(call.around.home, FILE) if given is None else os.path.abspath(given)


def relay_write(call: Call) -> int:
    """Mirror what happens, until somebody ends it. Comes back only by an error or a signal."""
    bytes_max, keep = call.parsed.number("max_bytes", BYTES_MAX), call.parsed.number("keep", KEEP)
    if bytes_max < BYTES_LEAST:
        raise UsageError(f"--max-bytes must be {BYTES_LEAST} or more")
    if keep > KEEP_MOST:
        raise UsageError(f"--keep must be {KEEP_MOST} or less")
    channels = [call.address(text) for text in call.parsed.texts("channel")]
    body = what(call)
    if channels and body["kinds"]:
        raise UsageError("give --channel, or --kind and --memory")
    if channels:
        body["kinds"] = [POSTED]
    path = _path(call)
    if call.parsed.text("file") is None:
        os.makedirs(call.around.home, 0o700, exist_ok=True)
    files = Relay(path, call.me.name, bytes_max=bytes_max, keep=keep)
    try:
        since = _begin(call, files)
        print_words(f"relaying to {path} as {call.me.name}, from {since}")
        while True:
            try:
                for page in pages(call, body, since, is_following=True):
                    lines = lines_of(page)
                    files.write([line for line in lines if _is_of(line, channels)], position_of(page))
            except Rejected as error:
                since = _kept(error)
                print_words(f"what happened up to {since} was dropped by retention, and is said to be lost")
                files.lose(since)
    finally:
        files.close()


def _is_of(line: "Json", channels: list[str]) -> bool:
    return not channels or f"{line.get('room')}:{line.get('channel')}" in channels


def _begin(call: Call, files: Relay) -> str:
    """Where to go on, or to begin: behind the last line, else at the cursor that is given, else where what is kept
    begins. Raises `Rejected(log_diverged)` for files of another journal, unless a cursor of this one is given."""
    journal_id = str(call.open().await_welcome().get("journal_id"))
    given, position = call.parsed.text("since"), files.position
    if given is not None and split(given)[0] != journal_id:
        raise Rejected("log_diverged", f"the cursor {given} is of another journal than this hub's, {journal_id}")
    if position is None:
        begin = f"{journal_id}:0" if given is None else given
        files.begin(begin, 0)
        return begin
    if split(position)[0] == journal_id:
        if given is not None and split(given)[1] > split(position)[1]:
            files.lose(given)
            return given
        return position
    if given is None:
        raise Rejected(
            "log_diverged",
            f"{files.path} is of journal {split(position)[0]}, and this hub's is {journal_id}: begin another --file, "
            "or give the cursor from which to go on here (--since)",
            {"journal_id": journal_id},
        )
    files.begin(given, 0)
    return given


def _kept(error: Rejected) -> str:
    """Where what is kept begins, of a cursor that was too old. Raises any other refusal again."""
    first = error.facts.get("first_kept")
    if error.code != "cursor_too_old" or not isinstance(first, str):
        raise error
    return first
