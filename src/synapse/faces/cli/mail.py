"""`inbox` and `history`: messages that are already there."""

from time import time

from synapse.errors import EXIT_OK
from synapse.faces.cli.call import Call
from synapse.faces.cli.options import UsageError
from synapse.faces.cli.render import field, message_block, print_dropped, print_json, print_text, print_words

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

LIMIT = 50
PAGE = 200


def inbox(call: Call) -> int:
    """My unacked messages; with --ack or --ack-all, be done with some."""
    ids = [name.strip() for names in call.parsed.texts("ack") for name in names.split(",")]
    if ids and call.parsed.has("ack_all"):
        raise UsageError("give --ack or --ack-all")
    if ids or call.parsed.has("ack_all"):
        answer = call.ask("inbox.ack", {"ids": ids} if ids else {"all": True})
        acked = answer.get("acked")
        call.show(answer, f"acked {len(acked) if isinstance(acked, list) else 0}, {field(answer, 'unacked')} unacked")
        return EXIT_OK
    link = call.open()
    body: Json = {"limit": PAGE}
    while True:
        page = link.ask("inbox.list", body)
        for message in _messages(page):
            print_message(call, message)
        if not isinstance(page.get("next"), str):
            break
        body = {"limit": PAGE, "after": page["next"]}
    if not call.as_json:
        shared = f", {field(page, 'shared')} in the queues of my roles" if page.get("shared") else ""
        print_words(f"{field(page, 'unacked')} unacked{shared}")
    return EXIT_OK


def history(call: Call) -> int:
    """A channel's messages, oldest first: from a cursor on, else the newest."""
    parsed = call.parsed
    if parsed.has("inbox") and parsed.arguments:
        raise UsageError("give --inbox or a channel")
    query: Json = {"inbox": True} if parsed.has("inbox") else {"channel": _channel(call)}
    for key, wire in (("from", "sender"), ("grep", "text")):
        if parsed.text(key) is not None:
            query[wire] = parsed.text(key)
    for key, wire in (("newer", "from_ms"), ("older", "until_ms")):
        ago_s = parsed.seconds(key)
        if ago_s is not None:
            query[wire] = int((time() - ago_s) * 1000)
    limit, since = parsed.number("limit", LIMIT), parsed.text("since")
    for message in _newest(call, query, limit) if since is None else _following(call, query, since, limit):
        print_message(call, message)
    return EXIT_OK


def _following(call: Call, query: "Json", since: str, left: int) -> "Iterator[Json]":
    """The first `left` messages after a cursor, page by page."""
    link = call.open()
    following: object = since
    while left > 0 and isinstance(following, str):
        page = link.ask("history.read", {**query, "since": following, "limit": min(left, PAGE)})
        print_dropped(page)
        messages, following = _messages(page), page.get("next")
        left -= len(messages)
        yield from messages


def _newest(call: Call, query: "Json", left: int) -> "Iterator[Json]":
    """The last `left` messages, oldest first; the pages come from the newest back."""
    link = call.open()
    pages: list[list[Json]] = []
    before: Json = {}
    while left > 0:
        page = link.ask("history.read", {**query, **before, "limit": min(left, PAGE)})
        print_dropped(page)
        pages.append(_messages(page))
        left -= len(pages[-1])
        if not isinstance(page.get("previous"), str):
            break
        before = {"before": page["previous"]}
    for messages in reversed(pages):
        yield from messages


def _channel(call: Call) -> str:
    return call.address(call.parsed.arguments[0]) if call.parsed.arguments else call.home_channel


def _messages(page: "Json") -> "list[Json]":
    messages = page.get("messages")
    return messages if isinstance(messages, list) else []


def print_message(call: Call, message: "Json") -> None:
    """One message: an object on a line, or a block; flushed."""
    if call.as_json:
        print_json(message)
    else:
        print_text(message_block(message))
