"""`ingest`: what happened since a cursor, an object a line; and, when followed, what goes on happening.

The past and the present come the same way, page behind page, so nothing is missed or told twice between the two. A
connection that is lost is made again, and the next page begins behind the last line that was read.
"""

from synapse.client.link import NoAnswer
from synapse.errors import EXIT_OK, Disconnected, Rejected
from synapse.faces.cli.call import Call, come_back, is_passing, longest_page, longest_wait_s
from synapse.faces.cli.options import NO_END
from synapse.faces.cli.render import print_dropped, print_json, print_words

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

MEMORY = "memory"
PAUSE_S = 60.0
"""How long one request waits at the head; then the hub is asked anew, which also shows that it lives."""


def ingest(call: Call) -> int:
    """Print what happened; with --follow until somebody ends it, or so many lines were printed."""
    left = call.parsed.whole("limit")
    for page in pages(call, what(call), call.parsed.text("since"), is_following=call.parsed.has("follow"), most=left):
        print_dropped(page)
        for line in lines_of(page):
            print_json(line)
            left = None if left is None else left - 1
        if left == 0:
            break
    return EXIT_OK


def what(call: Call) -> "Json":
    """What is asked for: kinds, and the room that was named by a flag."""
    kinds = [*call.parsed.texts("kind"), *([MEMORY] if call.parsed.has("memory") else [])]
    room = call.parsed.text("room")
    return {"kinds": kinds, **({} if room is None else {"room": room})}


def lines_of(page: "Json") -> "list[Json]":
    """The lines of a page."""
    lines = page.get("events")
    return lines if isinstance(lines, list) else []


def position_of(page: "Json") -> str:
    """Up to where a page tells everything."""
    following = page.get("next")
    return str(following if isinstance(following, str) else page.get("cursor"))


def pages(
    call: Call, body: "Json", since: str | None, *, is_following: bool, most: int | None = None
) -> "Iterator[Json]":
    """Page behind page from a cursor on: up to the head, or for ever. most: lines in all.

    Raises `Rejected`: `cursor_too_old`, `log_diverged`, and others; and as `come_back`.
    """
    link = call.open(lasting=is_following)
    is_first, is_at_head = True, False
    while most is None or most > 0:
        size = longest_page(link)
        asked: Json = {**body, "limit": size if most is None else min(most, size)}
        if since is not None:
            asked["since"] = since
        wait_s = min(PAUSE_S, longest_wait_s(link)) if is_at_head else 0.0
        if wait_s:
            asked["wait_ms"] = int(wait_s * 1000)
        try:
            page = link.ask("events.read", asked, wait_s=wait_s)
        except (Disconnected, NoAnswer, Rejected) as error:
            if is_first or not is_following or not is_passing(error):
                raise
            print_words("the connection is lost; coming back")
            link = come_back(call, NO_END, lasting=True)
            continue
        since, is_first = position_of(page), False
        most = None if most is None else most - len(lines_of(page))
        yield page
        is_at_head = page.get("next") is None
        if is_at_head and not is_following:
            return
