"""`relay` and `relay write`: a mirror of what happens in a few bounded files, for who tails a file."""

import os

from synapse.errors import EXIT_OK, Rejected
from synapse.faces.cli.call import Call
from synapse.faces.cli.ingest import MEMORY, lines_of, pages, position_of, what
from synapse.faces.cli.options import UsageError
from synapse.faces.cli.render import print_json, print_words
from synapse.faces.relay_files import BYTES_LEAST, BYTES_MAX, KEEP, KEEP_MOST, Relay, given_position, is_there, read
from synapse.faces.relay_form import split

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    from synapse.faces.relay_form import Flags

    Json: TypeAlias = dict[str, object]

FILE = "relay.ndjson"
POSTED = "message.posted"


def relay(call: Call) -> int:
    """Print what a relay has, as `ingest` would."""
    since, path, is_following = call.parsed.text("since"), _path(call), call.parsed.has("follow")
    if is_following and not is_there(path):
        print_words(f"waiting for {path}, which synapse relay write makes")
    for told in read(path, since, is_following=is_following):
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
    path, journal_id = _path(call), str(call.open().await_welcome().get("journal_id"))
    if call.parsed.text("file") is None:
        os.makedirs(call.around.home, 0o700, exist_ok=True)
    files = Relay(path, call.me.name, bytes_max=bytes_max, keep=keep, of=_flags(call, channels))
    try:
        since = _begin(call, files, journal_id, body)
        print_words(f"relaying to {path} as {call.me.name}, from {since}")
        while True:
            try:
                for page in pages(call, body, since, is_following=True):
                    lines = lines_of(page)
                    files.write([line for line in lines if _is_of(line, channels)], position_of(page))
            except Rejected as error:
                if error.code == "log_diverged":
                    raise _of_another_journal(path, journal_id, error.facts.get("journal_id")) from error
                since = _kept(error)
                print_words(f"what happened up to {since} was dropped by retention, and is said to be lost")
                files.lose(since)
    finally:
        files.close()


def _flags(call: Call, channels: list[str]) -> "Flags":
    """What is mirrored, and for whom: the flags that give the same again."""
    parsed, room = call.parsed, call.parsed.text("room")
    kinds = {*parsed.texts("kind"), *([MEMORY] if parsed.has("memory") else [])}
    flags = {"name": [call.me.name], "room": [] if room is None else [room]}
    flags |= {"kind": sorted(kinds), "channel": sorted({*channels})}
    return {flag: given for flag, given in flags.items() if given}


def _is_of(line: "Json", channels: list[str]) -> bool:
    return not channels or f"{line.get('room')}:{line.get('channel')}" in channels


def _begin(call: Call, files: Relay, journal_id: str, body: "Json") -> str:
    """Where to go on, or to begin: behind the last line, else at the cursor that is given, else where what is kept
    begins. Nothing is written before the hub has said that it will tell this. Raises `Rejected`: what the hub refuses,
    and `log_diverged` for files of another journal, unless a cursor of this one is given."""
    given, position = call.parsed.text("since"), files.position
    if given is not None and given_position(given)[0] != journal_id:
        raise Rejected("log_diverged", f"the cursor {given} is of another journal than this hub's, {journal_id}")
    is_of_this = position is not None and split(position)[0] == journal_id
    if position is not None and not is_of_this and given is None:
        raise _of_another_journal(files.path, split(position)[0], journal_id)
    since = f"{journal_id}:0" if given is None else given
    if position is not None and is_of_this and split(position)[1] >= split(since)[1]:
        since = position
    _require_told(call, body, since)
    if not is_of_this:
        files.begin(since, 0)
    elif since != position:
        files.lose(since)
    return since


def _of_another_journal(path: str, journal_id: str, hubs: object) -> Rejected:
    """A relay does not go from one journal to another by itself."""
    return Rejected(
        "log_diverged",
        f"{path} is of journal {journal_id}, and this hub's is {hubs}: begin another --file, or give the cursor from "
        "which to go on here (--since)",
        {"journal_id": hubs},
    )


def _require_told(call: Call, body: "Json", since: str) -> None:
    """Raises what the hub refuses to tell, but for a cursor that is too old: that is said in the file."""
    try:
        next(pages(call, body, since, is_following=False, most=1), None)
    except Rejected as error:
        _kept(error)


def _kept(error: Rejected) -> str:
    """Where what is kept begins, of a cursor that was too old. Raises any other refusal again."""
    first = error.facts.get("first_kept")
    if error.code != "cursor_too_old" or not isinstance(first, str):
        raise error
    return first
