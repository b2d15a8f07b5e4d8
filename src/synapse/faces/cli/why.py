"""`why`: what happened to a task, in words."""

import os

from synapse.errors import EXIT_OK
from synapse.faces.cli.call import Call
from synapse.faces.cli.options import UsageError
from synapse.faces.cli.render import clock, field, print_dropped

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]


def why(call: Call) -> int:
    """All events of a task, oldest first."""
    task = call.parsed.arguments[0] if call.parsed.arguments else os.environ.get("SYNAPSE_TASK")
    if not task:
        raise UsageError("which task? synapse why TASK")
    answer = call.pages("task.explain", {"task": task, **call.room}, ("events",))
    print_dropped(answer)
    events = answer.get("events")
    lines = [_line(event) for event in events] if isinstance(events, list) else []
    call.show(answer, "\n".join(lines))
    return EXIT_OK


def _line(event: "Json") -> str:
    return f"{clock(event.get('at_ms'))}  {field(event, 'by')}  {field(event, 'text')}"
