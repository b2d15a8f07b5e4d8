"""`held …`: messages that the loop guard holds for a person."""

from synapse.errors import EXIT_OK
from synapse.faces.cli.call import Call, pages
from synapse.faces.cli.questions import open_as_person
from synapse.faces.cli.render import clock, field, print_json, print_text, safe, table
from synapse.lean import dumps

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    from synapse.client.link import Link

    Json: TypeAlias = dict[str, object]


def _open(call: Call) -> "Link":
    return call.open_as_operator() if call.parsed.has("operator") else open_as_person(call)


def held_list(call: Call) -> int:
    """Print the messages that are held, oldest first."""
    answer = pages(_open(call), "held.list", {}, ("held",))
    held = answer.get("held")
    rows = [_row(message) for message in held] if isinstance(held, list) else []
    call.show(answer, table(rows) if rows else "nothing is held")
    return EXIT_OK


def _row(message: "Json") -> list[str]:
    to, at_ms, body = message.get("to"), message.get("held_at_ms"), message.get("body")
    place = ", ".join(map(str, to)) if isinstance(to, list) else field(message, "channel")
    said = "(of a private place)" if "body" not in message else body if isinstance(body, str) else dumps(body)
    return [
        field(message, "id"),
        f"{field(message, 'from')} → {safe(place)}",
        field(message, "why"),
        f"chain {field(message, 'chain')}, hop {field(message, 'hops')}",
        clock(at_ms) if isinstance(at_ms, int) else "",
        safe(said if len(said) <= 60 else f"{said[:59]}…"),
    ]


def held_release(call: Call) -> int:
    """Deliver held messages."""
    return _decide(call, "held.release", "released", {"reset": call.parsed.has("reset")})


def held_drop(call: Call) -> int:
    """Drop held messages."""
    return _decide(call, "held.drop", "dropped", {})


def _decide(call: Call, kind: str, done: str, more: "Json") -> int:
    link, is_chain = _open(call), call.parsed.has("chain")
    for message in call.parsed.arguments:
        answer = link.ask(kind, {"id": message, "chain": is_chain, **more})
        if call.as_json:
            print_json(answer)
        else:
            ids = answer.get("ids")
            names = ", ".join(map(str, ids)) if isinstance(ids, list) else ""
            print_text(f"{done} {safe(names)}; {field(answer, 'left')} of its chain are still held")
    return EXIT_OK
