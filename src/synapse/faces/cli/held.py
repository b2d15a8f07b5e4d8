"""`held …`: messages that the loop guard holds for a person."""

from synapse.errors import EXIT_OK, Rejected
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
    messages = list(dict.fromkeys(call.parsed.arguments))
    chains = {} if len(messages) == 1 else _chains(link, messages)
    if is_chain:  # one of each chain is enough
        messages = list({chains.get(message): message for message in reversed(messages)}.values())[::-1]
    every: list[object] = []
    left: dict[object, object] = {}
    answer: Json = {}
    for message in messages:
        try:
            answer = link.ask(kind, {"id": message, "chain": is_chain, **more})
        except Rejected as error:
            if not every:
                raise
            before = ", ".join(map(str, every))
            raise Rejected(
                error.code, f"{error.detail}; {done} before: {before}", {**error.facts, "ids": every}
            ) from error
        ids = answer.get("ids")
        every += ids if isinstance(ids, list) else []
        left[chains.get(message)] = answer.get("left")
        if not call.as_json:
            names = ", ".join(map(str, ids)) if isinstance(ids, list) else ""
            print_text(f"{done} {safe(names)}; {field(answer, 'left')} of its chain are still held")
    if call.as_json:
        print_json({**answer, "ids": every, "left": sum(each for each in left.values() if isinstance(each, int))})
    return EXIT_OK


def _chains(link: "Link", messages: "list[str]") -> "dict[str, object]":
    """The chain of each of several messages. Raises `Rejected` when one is not held, before anything is done."""
    from synapse.protocol.cursor import seq_of_message

    for message in messages:
        seq_of_message(message)
    held = pages(link, "held.list", {}, ("held",)).get("held")
    found: dict[str, object] = {each.get("id"): each.get("chain") for each in held} if isinstance(held, list) else {}
    for message in messages:
        if message not in found:
            raise Rejected(
                "not_found",
                f"{message} is not held (any more), so nothing was done: synapse held list shows what is",
                {"id": message},
            )
    return found
