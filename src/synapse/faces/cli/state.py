"""`state`: who holds what, until when, and who waits; once, or again with each change.

For people a tree: worktree, its paths, who waits behind them; then what is held without paths; then the pools.
Rule of `--watch`: it subscribes before it looks, so nothing is missed between the two, and leaves out what the look has
shown already; after a lost connection it goes on from the last cursor.
"""

import os
import sys
from time import monotonic

from synapse.client.link import Link, NoAnswer, Notice
from synapse.errors import EXIT_OK, Disconnected, Rejected
from synapse.faces.cli.call import Call, come_back, is_cut_off, is_passing, pages, run_again
from synapse.faces.cli.claims import scope_words
from synapse.faces.cli.options import NO_END
from synapse.faces.cli.render import clock, field, print_json, print_text, print_words, require_stdout, safe, span

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

SILENCE_S = 60.0
"""How long the subscription may be silent before the hub is asked whether it still lives."""
REDRAW_S = 5.0
"""On a terminal the time left is drawn anew this often."""
_CLEAR = "\x1b[H\x1b[2J"


def state(call: Call) -> int:
    """All live leases with who waits, and the pools."""
    if call.parsed.has("watch"):
        return _watch(call)
    found = _look(call, call.open())
    call.show(found, tree(found))
    return EXIT_OK


def _look(call: Call, link: Link) -> "Json":
    parsed = call.parsed
    body: Json = {key: text for key in ("owner", "task") if (text := parsed.text(key)) is not None} | call.room
    if parsed.text("worktree") is not None:
        body["worktree"] = parsed.text("worktree")
    found = pages(link, "lease.list", body, ("leases",))
    pools = pages(link, "pool.list", {}, ("pools",))
    return {
        "seq": found.get("seq"),
        "leases": found.get("leases"),
        "pools": pools.get("pools"),
        "cursor": found["cursor"],
    }


# The tree.


def tree(found: "Json") -> str:
    """The state for people."""
    leases = _items(found.get("leases"))
    by_place: dict[str, list[Json]] = {}
    for lease in leases:
        by_place.setdefault(field(lease, "worktree"), []).append(lease)
    lines: list[str] = []
    for place in sorted(by_place, key=lambda place: (not place, place)):
        lines.append(place or "without paths")
        for lease in sorted(by_place[place], key=scope_words):
            lines += _branch(lease)
    for pool in _items(found.get("pools")):
        units = f"{field(pool, 'held')} of {field(pool, 'capacity')} units held"
        waiting = f", {field(pool, 'waiting')} waited for" if pool.get("waiting") else ""
        lines.append(f"pool {field(pool, 'pool')}  {units}{waiting}")
    return "\n".join(lines) or "nothing is held"


def _branch(lease: "Json") -> list[str]:
    """One lease: its paths, then whose it is, then who waits behind it."""
    paths = [safe(str(path)) for path in _items(lease.get("paths"))]
    if lease.get("whole_worktree"):
        paths = ["(all of it)"]
    words = [field(lease, "owner"), task_words(lease), f"epoch {field(lease, 'epoch')}"]
    if lease.get("mode") == "shared":
        words.append("shared")
    left_ms = lease.get("remaining_ms")
    words.append(f"{span(left_ms)} left" if isinstance(left_ms, int) else field(lease, "status"))
    asked = lease.get("questions")
    words += [f"for the answer to {safe(str(question))}" for question in asked] if isinstance(asked, list) else []
    pools = lease.get("pools")
    words += [f"pool {safe(name)}={units}" for name, units in pools.items()] if isinstance(pools, dict) else []
    for key, text in (("branch", "on {}"), ("offered_to", "offered to {}"), ("note", "“{}”")):
        if lease.get(key) is not None:
            words.append(text.format(field(lease, key)))
    lines = [f"  {path}" for path in paths]
    lines.append(f"  {'  ' if paths else ''}{'  '.join(words)}")
    lines += [_waiter(waiter) for waiter in _items(lease.get("waiters"))]
    waiting, shown = lease.get("waiting"), len(_items(lease.get("waiters")))
    if isinstance(waiting, int) and waiting > shown:
        lines.append(f"      and {waiting - shown} more")
    return lines


def _waiter(waiter: "Json") -> str:
    words = [f"{field(waiter, 'position')}. {field(waiter, 'owner')} waits for {task_words(waiter)}"]
    words.append(f"since {clock(waiter.get('queued_at_ms'))}")
    if waiter.get("priority") != "normal":
        words.append(field(waiter, "priority"))
    if waiter.get("mode") == "shared":
        words.append("shared")
    return f"      {'  '.join(words)}"


def task_words(lease: "Json") -> str:
    """A task, with its room where that is not main."""
    room = field(lease, "room")
    return field(lease, "task") if room in ("", "main") else f"{room}:{field(lease, 'task')}"


def _items(value: object) -> "list[Json]":
    return value if isinstance(value, list) else []


# Watching.


def _watch(call: Call) -> int:
    link = call.open(lasting=True)
    since: str | None = None
    has_stood = False
    is_first = True
    while True:
        try:
            link.ask("feed.subscribe", {"leases": True} if since is None else {"leases": True, "since": since})
            has_stood = True
            if is_first or not call.as_json:
                since = _draw(call, link, is_first=is_first)
            is_first = False
            assert since is not None, "a state was drawn"
            while True:
                since = _follow(call, link, since)
        except (Disconnected, NoAnswer, Rejected) as error:
            if not has_stood:
                raise
            if is_cut_off(error) and not call.as_json:
                since = None  # a picture that is drawn anew misses nothing
                print_words("the hub's journal does not go on where this watch was; the state is drawn anew")
            elif not is_passing(error):
                raise run_again(error) from error
            else:
                print_words("the connection is lost; coming back")
        link = come_back(call, NO_END, lasting=True)


def _follow(call: Call, link: Link, since: str) -> str:
    """Wait for changes, and show them; the cursor to go on from. Raises `Rejected` for a feed that ended."""
    notice = _next(link, is_ticking=_is_terminal(call))
    if notice is None:
        _draw(call, link, is_first=False)
        return since
    notices = [notice, *link.notices]
    link.notices.clear()
    has_change = False
    for notice in notices:
        cursor = notice.body.get("cursor")
        if notice.kind == "feed.broken":
            raise Rejected(str(notice.body.get("code")), str(notice.body.get("detail")))
        if notice.kind not in ("lease.changed", "feed.live") or not isinstance(cursor, str):
            continue
        is_new = _seq(cursor) > _seq(since)
        since = cursor if is_new else since
        if notice.kind == "lease.changed" and is_new and _is_wanted(call, notice.body):
            has_change = True
            if call.as_json:
                print_json({"type": notice.kind, **notice.body})
    if has_change and not call.as_json:
        shown = _draw(call, link, is_first=False)
        since = shown if _seq(shown) > _seq(since) else since
    return since


def _next(link: Link, *, is_ticking: bool) -> Notice | None:
    """The next notice; None when a terminal is to be drawn anew. Raises `Disconnected`, `NoAnswer`."""
    asked_s = monotonic()
    while True:
        try:
            return link.notice(REDRAW_S if is_ticking else SILENCE_S)
        except TimeoutError:
            if is_ticking:
                return None
            if monotonic() - asked_s >= SILENCE_S:
                link.ask("ping", {})


def _draw(call: Call, link: Link, *, is_first: bool) -> str:
    """Show the state as it is now; its cursor."""
    found = _look(call, link)
    if call.as_json:
        print_json(found)
    elif _is_terminal(call):
        sys.stdout.write(_CLEAR)
        print_text(tree(found))
    else:
        print_text(("" if is_first else "\n") + tree(found))
    return str(found["cursor"])


def _is_terminal(call: Call) -> bool:
    require_stdout()
    return not call.as_json and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _is_wanted(call: Call, change: "Json") -> bool:
    """True for what --owner, --room, --task and --worktree leave."""
    owner = call.parsed.text("owner")
    if owner is not None and owner not in (change.get("owner"), change.get("by"), change.get("to")):
        return False
    room = call.room_name
    if room is not None and change.get("room") != room:
        return False
    return all((text := call.parsed.text(key)) is None or change.get(key) == text for key in ("task", "worktree"))


def _seq(cursor: str) -> int:
    """The position of a cursor."""
    text = cursor.rpartition(":")[2]
    return int(text) if text.isascii() and text.isdecimal() else -1
