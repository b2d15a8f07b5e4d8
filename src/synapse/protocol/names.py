"""The grammar of names: what is outside it is refused, never repaired.

name    = seg ('/' seg){0,3}, at most 128 characters     seg = [a-z0-9][a-z0-9._-]{0,63}
person  = seg '@' seg                                    the local user where no name was given
room, channel = seg                                      address = room ':' channel
topic   = room ':' [channel] '*'                         all channels of the room whose names begin so
"""

import re
from typing import Final

from synapse.errors import Rejected

SEGMENT: Final = r"[a-z0-9][a-z0-9._-]{0,63}"
NAME_MAX: Final = 128
RESERVED: Final = frozenset({"all", "hub", "system", "operator"})
"""Names no agent may have. Prefixes `role:` and `pool:` are outside the grammar anyway."""

MAIN_ROOM: Final = "main"
GENERAL: Final = "general"

TASK: Final = r"[A-Za-z0-9][A-Za-z0-9._/#-]{0,127}"

NO_WORK: Final = ("lock/", "take/")
"""How the ids begin that `synapse lock` and `synapse resource take` give to what they hold."""

KEY: Final = r"[A-Za-z0-9][A-Za-z0-9._/:#@-]{0,255}"

WORD: Final = r"[A-Za-z0-9][A-Za-z0-9._/:+-]{0,63}"

_word = re.compile(rf"{WORD}\Z").match
_key = re.compile(rf"{KEY}\Z").match
_task = re.compile(rf"{TASK}\Z").match
_segment = re.compile(rf"{SEGMENT}\Z").match
_name = re.compile(rf"{SEGMENT}(?:/{SEGMENT}){{0,3}}\Z").match
_person = re.compile(rf"{SEGMENT}@{SEGMENT}\Z").match
_mention = re.compile(rf"(?<![\w@/.-])@({SEGMENT}@{SEGMENT}|{SEGMENT}(?:/{SEGMENT}){{0,3}})").findall


def is_work(task: str) -> bool:
    """False for the id of a lock or of units that were taken: they are held, and nobody shows progress with them."""
    return not task.startswith(NO_WORK)


def is_agent_name(name: str) -> bool:
    """True for `seg/seg/…` with at most four segments, or `user@host`, that is not reserved."""
    if len(name) > NAME_MAX or name in RESERVED:
        return False
    return _name(name) is not None or _person(name) is not None


def require_agent_name(name: str) -> str:
    """The name itself. Raises `Rejected(bad_name)` when it is outside the grammar or reserved."""
    if not is_agent_name(name):
        why = "is reserved" if name in RESERVED else "is not an agent name"
        raise Rejected(
            "bad_name",
            f"{shown(name)} {why}: up to 4 segments joined by '/', each {SEGMENT}, at most {NAME_MAX} characters",
            {"name": clipped(name), "pattern": SEGMENT},
        )
    return name


def require_segment(name: str, what: str) -> str:
    """The name itself. `what` is `room` or `channel`. Raises `Rejected(bad_name)` when it is outside the grammar."""
    if _segment(name) is None:
        raise Rejected(
            "bad_name", f"{shown(name)} is not a {what} name: {SEGMENT}", {"name": clipped(name), "pattern": SEGMENT}
        )
    return name


def require_task(task: str) -> str:
    """The task id itself. Raises `Rejected(bad_name)` when it is outside the grammar."""
    if _task(task) is None:
        raise Rejected(
            "bad_name",
            f"{shown(task)} ({len(task)} characters) is not a task id: {TASK}",
            {"name": clipped(task), "pattern": TASK},
        )
    return task


def require_key(key: str) -> str:
    """The key of a value itself. Raises `Rejected(bad_name)` when it is outside the grammar."""
    if _key(key) is None:
        raise Rejected(
            "bad_name",
            f"{shown(key)} ({len(key)} characters) is not a key: {KEY}",
            {"name": clipped(key), "pattern": KEY},
        )
    return key


def require_word(text: str, what: str, path: str) -> str:
    """A word of a card itself: a tag, a model, a class of tasks, the id of a skill. Raises `Rejected(bad_request)`."""
    if _word(text) is None:
        why = f"{shown(text)} ({len(text)} characters) is no word of {what}: {WORD} - at `{path}`"
        raise Rejected("bad_request", why, {"path": path, "pattern": WORD})
    return text


def split_address(address: str) -> tuple[str, str]:
    """`room:channel` in two. Raises `Rejected(bad_name)` for anything else."""
    room, colon, channel = address.partition(":")
    if not colon:
        raise Rejected(
            "bad_name", f"{shown(address)} is not an address: write room:channel", {"name": clipped(address)}
        )
    return require_segment(room, "room"), require_segment(channel, "channel")


def split_topic(address: str) -> tuple[str, str]:
    """Room and prefix of `room:PREFIX*`, which is all channels whose names begin so. Raises `Rejected(bad_name)`."""
    room, colon, channel = address.partition(":")
    prefix = channel.removesuffix("*")
    if not colon or "*" in room or channel == prefix or "*" in prefix:
        why = f"{shown(address)} is no topic: one * stands at the end of the channel, as in room:deploy-* or room:*"
        raise Rejected("bad_name", why, {"name": clipped(address)})
    require_segment(room, "room")
    return room, require_segment(prefix, "channel") if prefix else ""


def ancestors(name: str) -> list[str]:
    """The agents a sub-agent's name hangs under, nearest first: `a/b/c` has `a/b` and `a`."""
    parts = name.split("/")
    return ["/".join(parts[:i]) for i in range(len(parts) - 1, 0, -1)]


def mentioned(text: str) -> list[str]:
    """Names written as `@name` in a text, in order, without repeats; a trailing `.` or `-` belongs to the sentence."""
    if "@" not in text:
        return []
    return list(dict.fromkeys(found.rstrip(".-") for found in _mention(text)))


def shown(text: str) -> str:
    """A peer's text for the words of an error: quoted, escaped, at most 80 characters."""
    return ascii(clipped(text))


def clipped(text: str) -> str:
    """A peer's text for the facts of an error: as it is, at most 80 characters."""
    return text if len(text) <= 80 else text[:77] + "..."
