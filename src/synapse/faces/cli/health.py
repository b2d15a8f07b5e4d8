"""`status` and `health`: how the hub is, for a prompt and for whoever watches over it."""

import os

from synapse.client.home import UNIX, find_hub
from synapse.errors import EXIT_FAILED, EXIT_OK
from synapse.faces.cli.call import Call
from synapse.faces.cli.render import field

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]


def status(call: Call) -> int:
    """One line, or the hub's own object."""
    answer = ask_status(call)
    call.show(answer, _line(answer))
    return EXIT_OK


def health(call: Call) -> int:
    """Exit 0 when green, 1 when red."""
    answer = ask_status(call)
    short: Json = {key: answer.get(key) for key in ("health", "reasons", "read_only", "cursor")}
    reasons = answer.get("reasons")
    why = f": {'; '.join(map(str, reasons))}" if isinstance(reasons, list) and reasons else ""
    call.show(short, f"{field(answer, 'health')}{why}")
    return EXIT_OK if answer.get("health") == "green" else EXIT_FAILED


def ask_status(call: Call) -> "Json":
    """Asked without an agent where that is allowed, because a hub that cannot write cannot bind a name either."""
    return call.ask("hub.status", {}, operator=_is_own_socket(call))


def _is_own_socket(call: Call) -> bool:
    try:
        uri = find_hub(call.around).uri
    except ValueError:
        return False
    try:
        return uri.startswith(UNIX) and os.stat(uri.removeprefix(UNIX)).st_uid == os.getuid()
    except OSError:
        return False


def _line(answer: "Json") -> str:
    counts = answer.get("counts")
    numbers = counts if isinstance(counts, dict) else {}
    words = [
        field(answer, "health"),
        f"synapse {field(answer, 'version')}",
        f"pid {field(answer, 'pid')}",
        f"{field(numbers, 'online')} online of {field(numbers, 'agents')}",
        f"{field(numbers, 'messages')} messages",
        f"seq {field(answer, 'head')}",
    ]
    if answer.get("read_only"):
        words.append("read-only")
    return " · ".join(words)
