"""`digest`: what matters to me first, in few words."""

from synapse.client.digest_text import CHARS_PER_TOKEN, MAX_TOKENS, SECTIONS, BudgetTooSmall, lay_out
from synapse.errors import EXIT_OK
from synapse.faces.cli.call import Call
from synapse.faces.cli.options import UsageError

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

ITEMS = 100


def digest(call: Call) -> int:
    """One digest under its budget. With --json also what the lines were made of, as far as they are shown."""
    parsed = call.parsed
    since = parsed.text("since")
    body: Json = {"limit": ITEMS, **call.room, **({} if since is None else {"since": since})}
    answer = call.open_as(call.worker).ask("digest.read", body)
    try:
        laid = lay_out(answer, parsed.number("max_tokens", MAX_TOKENS))
    except BudgetTooSmall as error:
        raise UsageError(f"--max-tokens: {error}") from error
    shown: Json = {key: answer[key] for key in ("seq", "at_ms", "agent", "room", "since", "new")}
    for name in SECTIONS:
        found = answer.get(name)
        items = found[: laid.shown[name]] if isinstance(found, list) else []
        shown[name] = {
            "items": items,
            "total": laid.totals[name],
            "left_out": laid.totals[name] - laid.shown[name],
        }
    shown |= {"text": laid.text, "tokens": laid.tokens, "max_tokens": laid.max_tokens}
    shown |= {"chars_per_token": CHARS_PER_TOKEN, "cursor": answer.get("cursor")}
    call.show(shown, laid.text)
    return EXIT_OK
