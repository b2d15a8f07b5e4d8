"""`board`: the plan of a room; once, or live.

Rule 1: what is shown was true at one moment. A plan of several pages is read again when it changed between two of them,
which a subscription tells; one that never stands still is shown with a word about it. Rule 2: `--watch` subscribes
before it looks, so nothing is missed between the two, and comes back for ever. `plan_view` has the pictures.
"""

import os
import sys
from time import monotonic, time

from synapse.client.link import Link, NoAnswer, Notice
from synapse.errors import EXIT_OK, Disconnected, Rejected
from synapse.faces.cli.call import MAIN, Call, come_back, is_passing, longest_page, run_again
from synapse.faces.cli.follow import cursor_in, stay
from synapse.faces.cli.options import NO_END, UsageError
from synapse.faces.cli.plan_view import View, change_line, columns, sections, tree
from synapse.faces.cli.render import field, print_json, print_json_text, print_text, print_words, require_stdout
from synapse.faces.cli.task import items
from synapse.lean import dumps, loads

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

READS_MAX = 5
"""How often a plan that changes while it is read is read again."""
REDRAW_S = 5.0
"""On a terminal the times are drawn anew this often."""
REST_S = 0.25
"""Between two drawings, so that a busy plan is not drawn for each of its changes."""
WIDTH, HEIGHT = 80, 24
"""Of a terminal that does not say its own."""
_TASKS, _READY = '"tasks":[', '],"ready":['
"""What stands before and behind the tasks of a page."""
_CLEAR = "\x1b[H\x1b[2J\x1b[3J"


def board(call: Call) -> int:
    """The plan, once or live."""
    if call.parsed.has("tree") and call.parsed.has("columns"):
        raise UsageError("give --tree or --columns")
    if not call.parsed.has("watch"):
        found = look(call.open(), call.room, as_text=call.as_json)
        if call.as_json:
            _print_json(found)
        else:
            print_text(_picture(call, found))
        return EXIT_OK
    return _watch_lines(call) if call.as_json or not _is_terminal() else _watch_screen(call)


# Looking.


def look(link: Link, room: "Json", *, as_text: bool = False, is_following: bool = False) -> "Json":
    """All of a room's plan: `seq`, `room`, `tasks`, `ready`, `total`, `cursor`; `torn` when it changed meanwhile.

    as_text: in `tasks` is the text of each page, to be passed on as it is. is_following: the link is told of changes.
    """
    found, is_whole = _read(link, room, as_text)
    if is_whole:
        return found
    if not is_following:
        link.ask("feed.subscribe", {"plans": [found["room"]], "leases": True})
    for _ in range(READS_MAX):
        link.notices.clear()
        found, is_whole = _read(link, room, as_text)
        if is_whole or not any(notice.kind in ("plan.changed", "lease.changed") for notice in link.notices):
            return found
    print_words("the plan changed while it was read, time and again: what is shown is not of one moment")
    return {**found, "torn": True}


def _read(link: Link, room: "Json", as_text: bool) -> "tuple[Json, bool]":
    """All pages, with seq and cursor of the last one; and whether all are of one moment."""
    body: Json = {**room, "limit": longest_page(link)}
    tasks: list[object] = []
    ready: list[Json] = []
    page = _page(link, body, as_text, tasks)
    first_seq = page.get("seq")
    ready += items(page, "ready")
    while isinstance(page.get("next"), str):
        page = _page(link, {**body, "after": page["next"]}, as_text, tasks)
        ready += items(page, "ready")
    found: Json = {"seq": page.get("seq"), "room": page.get("room"), "tasks": tasks, "ready": ready}
    found |= {"total": page.get("total"), "cursor": page.get("cursor")}
    return found, page.get("seq") == first_seq


def _page(link: Link, body: "Json", as_text: bool, tasks: "list[object]") -> "Json":
    """One page without its tasks, which are appended: each, or their text.

    Between the marks no text of others can look like one of them: a quotation mark within a text is escaped.
    """
    if not as_text:
        page = link.ask("task.list", body)
        tasks += items(page, "tasks")
        return page
    whole = link.ask_text("task.list", body)
    head, _, rest = whole.partition(_TASKS)
    text, mark, tail = rest.rpartition(_READY)
    rest_of_page = loads(f'{head}"ready":[{tail}' if mark else whole)
    assert isinstance(rest_of_page, dict), "what is left of an object is one"
    if text or not mark:
        tasks.append(text or dumps(rest_of_page["tasks"])[1:-1])
    return rest_of_page


def _print_json(found: "Json") -> None:
    """The plan whose tasks are texts of pages."""
    pages = found["tasks"]
    assert isinstance(pages, list), "the texts of pages"
    head, tail = dumps({**found, "tasks": []}).split(_TASKS, 1)
    print_json_text(f"{head}{_TASKS}{','.join(pages)}{tail}")


def _picture(call: Call, found: "Json", height: int | None = None) -> str:
    parsed, is_terminal = call.parsed, _is_terminal()
    width, rows = _size()
    view = View(
        now_ms=int(time() * 1000),
        width=width if is_terminal else None,
        height=height if height is None else rows - 1,
        is_coloured=is_terminal and not os.environ.get("NO_COLOR"),
        has_ended=parsed.has("all"),
    )
    draw = tree if parsed.has("tree") else columns if parsed.has("columns") else sections
    return draw(found, view)


# Watching.


def _watch_lines(call: Call) -> int:
    """A line for each change. With --json first the plan, then an object for each."""
    room = call.room_name or MAIN
    shown = -1

    def show(link: Link, notice: Notice) -> str | None:
        cursor = cursor_in(notice)
        if notice.kind == "plan.changed" and notice.seq > shown:
            if call.as_json:
                print_json({"type": notice.kind, **notice.body})
            else:
                print_text(change_line(notice.body))
        return cursor

    def begin(link: Link) -> None:
        nonlocal shown
        if call.as_json:
            found = look(link, call.room, as_text=True, is_following=True)
            _print_json(found)
            shown = _whole(found.get("seq"))

    try:
        return stay(call, {"plans": [room]}, f"watching the plan of {room}", show, begin)
    except Rejected as error:
        raise run_again(error) from error


def _watch_screen(call: Call) -> int:
    """The picture, drawn anew with each change and every few seconds."""
    room = call.room_name or MAIN
    link = call.open(lasting=True)
    has_stood = False
    while True:
        try:
            link.ask("feed.subscribe", {"plans": [room], "leases": True})
            has_stood = True
            while True:
                _draw(call, link)
                _await_change(link, room)
        except (Disconnected, NoAnswer, Rejected) as error:
            if not has_stood or not is_passing(error):
                raise
            print_words("the connection is lost; coming back")
        link = come_back(call, NO_END, lasting=True)


def _draw(call: Call, link: Link) -> None:
    link.notices.clear()
    found, _ = _read(link, call.room, False)  # a change between two pages is a notice, and the next drawing
    sys.stdout.write(_CLEAR)
    print_text(_picture(call, found, HEIGHT))


def _await_change(link: Link, room: str) -> None:
    """Until the plan changed, or the times are to be drawn anew. Raises `Disconnected`, `NoAnswer`, `Rejected`."""
    drawn_s = monotonic()
    has_changed = False
    while True:
        left_s = (REST_S if has_changed else REDRAW_S) - (monotonic() - drawn_s)
        if left_s <= 0:
            return
        try:
            notice = link.notice(left_s)
        except TimeoutError:
            return
        cursor_in(notice)
        is_change = notice.kind in ("plan.changed", "lease.changed") and field(notice.body, "room") == room
        has_changed = has_changed or is_change


def _is_terminal() -> bool:
    require_stdout()
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _size() -> tuple[int, int]:
    """Columns and lines of the terminal."""
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return WIDTH, HEIGHT
    return size.columns or WIDTH, size.lines or HEIGHT


def _whole(value: object) -> int:
    return value if isinstance(value, int) else -1
