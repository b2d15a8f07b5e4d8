"""`dead-letters` and `receipts`: what became of messages that nobody acked, and of those that I sent."""

from synapse.errors import EXIT_OK
from synapse.faces.cli.call import PAGE, Call, ask_one_of_many
from synapse.faces.cli.mail import print_message
from synapse.faces.cli.options import UsageError
from synapse.faces.cli.render import clock, field, print_json, print_text, print_words, safe, table

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]


def dead_letters(call: Call) -> int:
    """List dead letters, or send some again, or drop some."""
    parsed = call.parsed
    resend = [name.strip() for names in parsed.texts("resend") for name in names.split(",")]
    drop = [name.strip() for names in parsed.texts("drop") for name in names.split(",")]
    if sum((bool(resend), bool(drop), parsed.has("drop_all"))) > 1:
        raise UsageError("give one of --resend, --drop and --drop-all")
    sent: Json = {"sent": True} if parsed.has("sent") else {}
    if resend:
        link = call.open()
        for name in resend:
            answer = ask_one_of_many(link, "dead.resend", {"id": name, **sent})
            to = answer.get("to")
            names = ", ".join(safe(str(each)) for each in to) if isinstance(to, list) else ""
            call.show(answer, f"{field(answer, 'resends')} is {field(answer, 'id')}  → {names}")
    elif drop:
        answer = call.ask("dead.drop", {"ids": drop, **sent})
        call.show(answer, _dropped(answer))
    elif parsed.has("drop_all"):
        call.show(*_drop_all(call, sent))
    else:
        _list(call, sent)
    return EXIT_OK


def _list(call: Call, sent: "Json") -> None:
    link = call.open()
    body: Json = {"limit": PAGE, **sent}
    while True:
        page = link.ask("dead.list", body)
        messages = page.get("messages")
        for message in messages if isinstance(messages, list) else []:
            print_message(call, message)
            if not call.as_json:
                print_text(
                    f"  dead in {field(message, 'channel')} since {clock(message.get('died_at_ms'))}: "
                    f"{field(message, 'reason')}"
                )
        if not isinstance(page.get("next"), str):
            break
        body = {**body, "after": page["next"]}
    if not call.as_json:
        print_words(f"{field(page, 'total')} dead letters")


def _drop_all(call: Call, sent: "Json") -> "tuple[Json, str]":
    link = call.open()
    gone: list[object] = []
    while True:
        answer = link.ask("dead.drop", {"all": True, **sent})
        dropped = answer.get("dropped")
        gone += dropped if isinstance(dropped, list) else []
        if not answer.get("left"):
            answer = {**answer, "dropped": gone}
            return answer, _dropped(answer)


def _dropped(answer: "Json") -> str:
    dropped = answer.get("dropped")
    return f"dropped {len(dropped) if isinstance(dropped, list) else 0}, {field(answer, 'left')} left"


def receipts(call: Call) -> int:
    """How far a message that I sent got, with each recipient."""
    answer = call.pages("receipt.get", {"id": call.parsed.arguments[0]}, ("recipients",))
    if call.as_json:
        print_json(answer)
        return EXIT_OK
    rows = [["RECIPIENT", "STATE", "LENT", "DELIVERED", "ACKED", "DIED", "WHY"]]
    recipients = answer.get("recipients")
    for each in recipients if isinstance(recipients, list) else []:
        times = [clock(each.get(key)) for key in ("delivered_at_ms", "acked_at_ms", "died_at_ms")]
        rows.append(
            [field(each, "recipient"), field(each, "state"), field(each, "lends"), *times, field(each, "reason")]
        )
    held = answer.get("held")
    if isinstance(held, dict):
        print_text(_said_held(answer, held))
    print_text(table(rows))
    return EXIT_OK


def _said_held(answer: "Json", held: "Json") -> str:
    """What became of a message that the loop guard held."""
    name, by = field(answer, "id"), field(held, "by")
    match held.get("state"):
        case "held":
            return (
                f"{name} is held ({field(held, 'why')}) until a person decides: synapse held release {name}, or "
                f"synapse held drop {name}"
            )
        case "released":
            return f"{name} was held ({field(held, 'why')}) and released by {by} as {field(held, 'released_as')}"
        case "dropped":
            return f"{name} was held ({field(held, 'why')}) and dropped by {by}"
        case _:
            return f"{name} was held ({field(held, 'why')}); the journal does not tell what became of it"
