"""A digest as text under a budget of tokens: plain lines for a language model, the most important first.

    frame      a head, the name and number of each section that has something, the cursor to go on from: always there
    sections   asked of you, blocks you, yours, the rest: in this order, and lines are left out from the bottom

Tokens are estimated as characters divided by four, rounded up; the text says so. What others wrote is cut, put on one
line and made harmless. On the fast path: standard library only, and a digest is the plain JSON of the reply.
"""

from synapse.client.plain import safe, span

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

CHARS_PER_TOKEN = 4
LINE_CHARS = 280
MAX_TOKENS = 2000
"""The budget where none is given."""
SECTIONS = ("asked", "blocked", "mine", "rest")
_HEADS = {"asked": "Asked of you", "blocked": "Blocks you", "mine": "Yours", "rest": "The rest, in counts"}
_MORE = {"asked": "synapse inbox", "blocked": "synapse state, synapse board", "mine": "synapse board", "rest": ""}
_GROUPS = {
    "questions": "questions to people",
    "roles": "wait in queues of your roles",
    "inbox": "to you",
    "messages": "messages",
    "plan": "plan",
    "leases": "leases",
    "values": "values",
    "came": "came",
    "tasks": "tasks",
    "held": "leases held by",
    "agents": "agents",
    "unacked": "also in your inbox",
}


class BudgetTooSmall(ValueError):
    """Not even the frame of a digest fits. least: the smallest budget that it fits into."""

    def __init__(self, max_tokens: int, least: int) -> None:
        super().__init__(f"{max_tokens} tokens are too few for even the frame of this digest: it takes {least}")
        self.least = least


class DigestText:
    """A digest that was laid out. shown, totals: lines of each section that are there, and that there are."""

    __slots__ = ("max_tokens", "shown", "text", "tokens", "totals")

    def __init__(self, text: str, max_tokens: int, shown: dict[str, int], totals: dict[str, int]) -> None:
        self.text = text
        self.tokens = tokens_in(text)
        self.max_tokens = max_tokens
        self.shown = shown
        self.totals = totals


def tokens_in(text: str) -> int:
    """The estimate."""
    return -(-len(text) // CHARS_PER_TOKEN)


def lay_out(digest: "Json", max_tokens: int = MAX_TOKENS) -> DigestText:
    """As much of a digest as fits into the budget. digest: the reply to `digest.read`, as plain JSON.

    Raises `BudgetTooSmall`.
    """
    lines = [(name, line) for name in SECTIONS for line in _lines(digest, name)] if digest["new"] else []
    most, chars = 0, 0
    for _, line in lines:
        chars += len(line) + 1
        if chars > CHARS_PER_TOKEN * max_tokens:
            break
        most += 1
    for count in range(most, -1, -1):
        found = _laid(digest, lines[:count], max_tokens)
        if found.tokens <= max_tokens:
            return found
    raise BudgetTooSmall(max_tokens, _least(digest, lines))


def _least(digest: "Json", lines: list[tuple[str, str]]) -> int:
    """The smallest budget for which `lay_out` finds something. The text says its budget, and grows with its digits."""
    least = 1
    while True:
        need = min(_laid(digest, lines[:count], least).tokens for count in range(len(lines) + 1))
        if need <= least:
            return least
        least = need


def _laid(digest: "Json", lines: list[tuple[str, str]], max_tokens: int) -> DigestText:
    """The text with exactly these lines."""
    shown = {name: [line for section, line in lines if section == name] for name in SECTIONS}
    totals = {name: _total(digest, name) for name in SECTIONS}
    out = [_head(digest)]
    if not digest["new"]:
        standing = [f"{totals[name]} {_HEADS[name].lower()}" for name in SECTIONS[:3] if totals[name]]
        out += [f"As before: {', '.join(standing)}."] if standing else []
    else:
        if not any(totals[name] for name in SECTIONS[:3]):
            out.append("Nothing is asked of you, nothing blocks you, and nothing is yours.")
        for name in SECTIONS:
            out += _section(name, shown[name], totals[name])
    before, after = "\n".join([*out, "About "]), f" of {max_tokens} tokens (characters / 4).\n{_next(digest)}"
    digits = 1
    while len(str(tokens_in(before + "0" * digits + after))) > digits:
        digits += 1
    tokens = tokens_in(before + "0" * digits + after)
    counts = {name: len(found) for name, found in shown.items()}
    return DigestText(f"{before}{tokens}{after}", max_tokens, counts, totals)


def _section(name: str, lines: list[str], total: int) -> list[str]:
    if not total:
        return []
    left = total - len(lines)
    more = f": {_MORE[name]}" if _MORE[name] else ""
    return [f"{_HEADS[name]}: {total}", *lines, *([f"- and {left} more{more}"] if left else [])]


def _head(digest: "Json") -> str:
    who, since = f"{digest['agent']} in room {digest['room']}", digest.get("since")
    if not digest["new"]:
        return f"Nothing new for {who} since {since}."
    return f"Digest for {who}{f' since {since}' if since else ''}."


def _next(digest: "Json") -> str:
    return f"Next: synapse digest --since {digest['cursor']}"


def _total(digest: "Json", name: str) -> int:
    if name == "rest":
        return len(_items(digest, name))
    found = digest[f"{name}_total"]
    assert isinstance(found, int), "a total is a number"
    return found


def _items(digest: "Json", name: str) -> "list[Json]":
    found = digest.get(name)
    return list(found) if isinstance(found, list | tuple) else []


# Lines.


def _lines(digest: "Json", name: str) -> list[str]:
    make = {"asked": _asked, "blocked": _blocked, "mine": _own, "rest": _counted}[name]
    return [_cut("- " + make(item, digest)) for item in _items(digest, name)]


def _cut(line: str) -> str:
    return line if len(line) <= LINE_CHARS else line[: LINE_CHARS - 1] + "…"


def _quoted(text: object) -> str:
    """Words of somebody else: on one line, and harmless."""
    return safe(" ".join(str(text).split()))


def _asked(item: "Json", digest: "Json") -> str:
    marks = [str(item["priority"])] if item["priority"] != "normal" else []
    marks += ["new"] if item.get("new") else []
    mark = f"[{', '.join(marks)}] " if marks else ""
    age = f"{span(max(0, _number(digest, 'at_ms') - _number(item, 'at_ms')))} ago"
    by = _quoted(item["by"])
    words = " ".join(_quoted(item[key]) + end for key, end in (("subject", ":"), ("text", "")) if item.get(key))
    words += "…" if item.get("cut") else ""
    if item["kind"] == "offer":
        task = f"{item['task']}{_elsewhere(item, digest)}"
        claim = f"synapse claim {item['task']}{_in_room(item)}"
        return f"{mark}{by} offers you the lease of {task}, {age}: {claim}{_noted(words)}"
    place = f" in {item['room']}:{item['channel']}" if item["kind"] == "mention" else ""
    return f"{mark}{by}{place}, {age}, {item['id']}: {words}"


def _noted(words: str) -> str:
    return f" ({words})" if words else ""


def _blocked(item: "Json", digest: "Json") -> str:
    needs = "; ".join(_need(need, digest) for need in _items(item, "needs"))
    needs += "; and more" if item.get("more") else ""
    task = f"{item['task']}{_elsewhere(item, digest)}"
    since = span(max(0, _number(digest, "at_ms") - _number(item, "since_at_ms")))
    if item["kind"] == "claim":
        return f"your claim of {task} has waited {since}: {needs or 'its turn is next'}"
    title = f", {_quoted(item['title'])}" if item.get("title") != item["task"] else ""
    why = f"waits for {needs}" if needs else f"synapse why {item['task']}"
    return f"{task}, {item['status']} for {since}{title}: {why}"


def _need(need: "Json", digest: "Json") -> str:
    status = need["status"]
    if status == "ahead":
        return f"{need['owner']} is ahead of you, for {need['task']}{_elsewhere(need, digest)}"
    owner = need.get("owner")
    if not owner:
        return f"{need['task']} ({status})"
    left = need.get("remaining_ms")
    until = "parked" if left is None else f"{span(left)} left" if isinstance(left, int) else ""
    held = f"held by {owner}, epoch {need['epoch']}, {until}"
    return f"{need['task']}{_elsewhere(need, digest)} ({held if status == 'held' else f'{status}, {held}'})"


def _own(item: "Json", digest: "Json") -> str:
    title = f": {_quoted(item['title'])}" if item.get("title") and item["title"] != item["task"] else ""
    task = f"{item['task']}{_elsewhere(item, digest)}"
    priority = f", {item['priority']}" if item.get("priority", "normal") != "normal" else ""
    if item["kind"] == "task":
        return f"{'ready' if item.get('ready') else item['status']}: {task}{priority}{title}"
    left = item.get("remaining_ms")
    until = "parked" if item.get("parked") else f"{span(left)} left" if isinstance(left, int) else "no end"
    status = f", {item['status']}" if item.get("status") else ""
    stalled = f", no progress for {span(_number(item, 'idle_ms'))}" if item.get("stalled") else ""
    return f"lease of {task}, epoch {item['epoch']}, {until}{status}{priority}{stalled}{title}"


def _counted(item: "Json", digest: "Json") -> str:
    found = item.get("counts")
    counts = found if isinstance(found, dict) else {}
    of, since = str(item["of"]), item.get("since")
    named = ", ".join(_quoted(name) if of == "came" else f"{n} {_quoted(name)}".strip() for name, n in counts.items())
    left = _number(item, "total") - sum(counts.values())
    others = f", and {left} others" if left else ""
    bound = "at least " if item.get("at_least") else ""
    return f"{'since then' if since else 'now'}, {_GROUPS[of]}: {bound}{named or '0'}{others}"


def _in_room(item: "Json") -> str:
    return "" if item.get("room") in (None, "main") else f" --room {item['room']}"


def _elsewhere(item: "Json", digest: "Json") -> str:
    return "" if item.get("room") in (None, digest["room"]) else f" (room {item['room']})"


def _number(item: "Json", key: str) -> int:
    found = item.get(key)
    return found if isinstance(found, int) else 0
