"""A plan for people: as sections, as columns, as a tree; and one change of it on a line. Pure: texts from answers.

Rule 1: what can be begun comes first, what is over is counted. Rule 2: a line is one task, found by its id at the
beginning; where there is a width, it fits. Rule 3: the texts of others are shown, not obeyed.
"""

from unicodedata import combining, east_asian_width

from synapse.faces.cli.render import clock, field, safe, span
from synapse.faces.cli.task import asked_words, holder_words, items, waits_words

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

ROWS = 20
"""Tasks of one section, where no height says how many."""
LEAST_ROWS = 3
ID_WIDTH = 24
"""Ids are set in a column as wide as the longest, but not wider."""
TITLE_WIDTH = 60
LEVELS = 16
"""Levels of a tree that are set further in than the one above."""
WIDTH = 100
"""Of columns where no terminal says another."""
HEADS = {
    "ready": "ready",
    "in_progress": "in progress",
    "review": "in review",
    "waiting_for_input": "waiting for a person",
    "blocked": "blocked",
    "open": "waiting for other tasks",
}
"""What a task may be that has not ended, in the order of interest."""
ENDS = ("done", "failed", "cancelled")
_RANKS = {"urgent": 0, "high": 1, "normal": 2, "low": 3}
_BOLD, _RED, _GREEN, _DIM, _PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[2m", "\x1b[0m"


class View:
    """How a plan is drawn. width, height: of the terminal; None for as much as there is. has_ended: all tasks, also
    those that have ended."""

    __slots__ = ("has_ended", "height", "is_coloured", "now_ms", "width")

    def __init__(
        self,
        *,
        now_ms: int,
        width: "int | None" = None,
        height: "int | None" = None,
        is_coloured: bool = False,
        has_ended: bool = False,
    ) -> None:
        self.now_ms = now_ms
        self.width = width
        self.height = height
        self.is_coloured = is_coloured
        self.has_ended = has_ended

    def painted(self, text: str, colour: str) -> str:
        """The text in a colour, where there are any."""
        return f"{colour}{text}{_PLAIN}" if self.is_coloured and colour and text else text

    def fitted(self, text: str) -> str:
        """The text, no wider than a line."""
        return text if self.width is None else cut(text, self.width)


def kind_of(task: "Json") -> str:
    """Its status, or `ready`."""
    return "ready" if task.get("ready") else field(task, "status")


def groups_of(tasks: "Iterable[Json]") -> "dict[str, list[Json]]":
    """Tasks by kind, the most urgent and oldest first; kinds in the order in which they are shown."""
    groups: dict[str, list[Json]] = {kind: [] for kind in (*HEADS, *ENDS)}
    for task in tasks:
        groups.setdefault(kind_of(task), []).append(task)
    for group in groups.values():
        group.sort(key=lambda task: (_RANKS.get(field(task, "priority"), 2), _moved(task), field(task, "task")))
    return {kind: group for kind, group in groups.items() if group}


def heading(found: "Json", groups: "dict[str, list[Json]]") -> str:
    """The room and its figures."""
    counts = [f"{len(group)} {HEADS.get(kind, kind)}" for kind, group in groups.items()]
    total = sum(map(len, groups.values()))
    return f"{field(found, 'room')}: {total} {'task' if total == 1 else 'tasks'}: {', '.join(counts)}"


# Sections.


def sections(found: "Json", view: View) -> str:
    """The plan under headings, a line for each task."""
    tasks = items(found, "tasks")
    if not tasks:
        return _empty(found)
    groups = groups_of(tasks)
    lines = [view.painted(view.fitted(heading(found, groups)), _BOLD)]
    shown = [kind for kind in groups if view.has_ended or kind not in ENDS]
    rows = _rows(view, [len(groups[kind]) for kind in shown])
    for kind in shown:
        lines += ["", view.painted(view.fitted(HEADS.get(kind, kind)), _BOLD)]
        lines += _rows_of(groups[kind][:rows], view)
        if len(groups[kind]) > rows:
            lines.append(f"  and {len(groups[kind]) - rows} more")
    return "\n".join(lines)


def _rows(view: View, sizes: "Sequence[int]") -> int:
    """How many tasks of each section are shown: all of them, as many as the height leaves, or `ROWS`."""
    if view.height is None:
        return max(sizes, default=0) if view.has_ended else ROWS
    rows = LEAST_ROWS
    while rows < max(sizes, default=0) and 1 + sum(3 + min(size, rows + 1) for size in sizes) <= view.height:
        rows += 1
    return rows


def _rows_of(tasks: "Sequence[Json]", view: View) -> "list[str]":
    width = min(max(wide(field(task, "task")) for task in tasks), ID_WIDTH)
    lines = []
    for task in tasks:
        name = field(task, "task")
        told = f"  {name}{' ' * (width - wide(name))}  {'  '.join(_words(task, view))}".rstrip()
        lines.append(view.painted(view.fitted(told), _colour(task)))
    return lines


def _words(task: "Json", view: View) -> "list[str]":
    words = []
    title = field(task, "title")
    if task.get("priority") != "normal":
        words.append(field(task, "priority"))
    if title != field(task, "task"):
        words.append(cut(title, TITLE_WIDTH))
    words += [holder_words(holder, view.now_ms) for holder in items(task, "holders")]
    words += asked_words(task)
    if not task.get("holders") and task.get("suggested_owner") is not None:
        words.append(f"for {field(task, 'suggested_owner')}")
    if task.get("unmet"):
        words.append(waits_words(task))
    if kind_of(task) not in ("ready", "open"):
        words.append(_ago(task, view))
    if task.get("dependents"):
        words.append(f"needed by {field(task, 'dependents')}")
    labels = task.get("labels")
    if isinstance(labels, list) and labels:
        words.append(" ".join(f"#{safe(str(label))}" for label in labels))
    return words


def _ago(task: "Json", view: View) -> str:
    """How long ago something was heard of it: the last line of its ledger, or else its last step."""
    noted, moved = task.get("progress_at_ms"), task.get("moved_at_ms")
    if isinstance(noted, int) and isinstance(moved, int) and noted >= moved:
        return f"progress {span(max(0, view.now_ms - noted))} ago"
    return f"since {span(max(0, view.now_ms - moved))}" if isinstance(moved, int) else ""


def _colour(task: "Json") -> str:
    kind = kind_of(task)
    if kind in ("blocked", "failed") or any(holder.get("stalled") for holder in items(task, "holders")):
        return _RED
    return _GREEN if kind == "ready" else _DIM if kind in ("open", *ENDS) else ""


def _moved(task: "Json") -> int:
    moved = task.get("moved_at_ms")
    return moved if isinstance(moved, int) else 0


def _empty(found: "Json") -> str:
    return f"{field(found, 'room')}: no tasks; synapse task declare TASK --title '…' makes one"


# Columns.


def columns(found: "Json", view: View) -> str:
    """The plan side by side: a column for each kind, tasks by id and title."""
    tasks = items(found, "tasks")
    if not tasks:
        return _empty(found)
    groups = groups_of(tasks)
    kinds = [kind for kind in groups if view.has_ended or kind not in ENDS]
    lines = [view.painted(view.fitted(heading(found, groups)), _BOLD)]
    if not kinds:
        return lines[0]
    whole = WIDTH if view.width is None else view.width
    width = max(1, (whole + 2) // len(kinds) - 2)
    rows = max(LEAST_ROWS, view.height - 4) if view.height is not None else max(map(len, groups.values()))
    rows = rows if view.has_ended or view.height is not None else ROWS
    cells = [[_cell(task, width) for task in groups[kind][:rows]] for kind in kinds]
    for kind, column in zip(kinds, cells, strict=True):
        if len(groups[kind]) > rows:
            column.append(f"and {len(groups[kind]) - rows} more")
    heads = [_padded(f"{HEADS.get(kind, kind)} ({len(groups[kind])})", width) for kind in kinds]
    lines += ["", view.painted("  ".join(heads).rstrip(), _BOLD)]
    for row in range(max(map(len, cells))):
        line = [_padded(column[row] if row < len(column) else "", width) for column in cells]
        lines.append("  ".join(line).rstrip())
    return "\n".join(lines)


def _cell(task: "Json", width: int) -> str:
    holders = items(task, "holders")
    who = f" {field(holders[0], 'owner')}" if holders else ""
    title = "" if task.get("title") == task.get("task") else f" {field(task, 'title')}"
    return cut(f"{field(task, 'task')}{' @' + who.strip() if who else ''}{title}", width)


def _padded(text: str, width: int) -> str:
    text = cut(text, width)
    return text + " " * (width - wide(text))


# A tree.


def tree(found: "Json", view: View) -> str:
    """The plan as a tree: what nothing depends on, and under each task what it depends on. Each task stands once; who
    else depends on it names it."""
    tasks = {field(task, "task"): task for task in items(found, "tasks")}
    if not tasks:
        return _empty(found)
    groups = groups_of(tasks.values())
    lines = [view.painted(view.fitted(heading(found, groups)), _BOLD)]
    needed = {other for task in tasks.values() for other in _wanted(task)}
    parents: dict[str, str] = {}
    order: list[tuple[str, int]] = []
    stack = [(name, "", 0) for name in reversed(tasks) if name not in needed]
    while stack:
        name, parent, depth = stack.pop()
        if name not in parents:
            parents[name] = parent
            order.append((name, depth))
            wanted = _wanted(tasks[name]) if name in tasks else []
            stack += [(other, name, depth + 1) for other in reversed(wanted) if other not in parents]
    body = []
    for name, depth in order:
        task = tasks.get(name)
        elsewhere = [] if task is None else [other for other in _wanted(task) if parents[other] != name]
        body.append(_branch(name, task, elsewhere, depth, view))
    rows = len(body) if view.has_ended else ROWS * 3 if view.height is None else max(LEAST_ROWS, view.height - 3)
    lines += ["", *body[:rows]]
    if len(body) > rows:
        lines.append(f"and {len(body) - rows} more")
    return "\n".join(lines)


def _branch(name: str, task: "Json | None", elsewhere: "Sequence[str]", depth: int, view: View) -> str:
    indent = "  " * min(depth, LEVELS)
    if task is None:
        return view.painted(view.fitted(f"{indent}{safe(name)}  undeclared"), _DIM)
    words = [f"{indent}{field(task, 'task')}", kind_of(task).replace("_", " ")]
    if task.get("title") != task.get("task"):
        words.append(cut(field(task, "title"), TITLE_WIDTH))
    words += [holder_words(holder, view.now_ms) for holder in items(task, "holders")]
    words += asked_words(task)
    if elsewhere:
        more = f" and {len(elsewhere) - 3} more" if len(elsewhere) > 3 else ""
        words.append(f"also needs {', '.join(map(safe, elsewhere[:3]))}{more}")
    return view.painted(view.fitted("  ".join(words)), _colour(task))


def _wanted(task: "Json") -> "list[str]":
    wanted = task.get("depends_on")
    return wanted if isinstance(wanted, list) else []


# Changes.


def change_line(change: "Json") -> str:
    """One change of a plan on one line: when, what, the tasks, what became of them, who."""
    names = change.get("tasks")
    tasks = ",".join(safe(str(name)) for name in names) if isinstance(names, list) else ""
    words = [clock(change.get("at_ms")), field(change, "change"), tasks]
    match change.get("change"):
        case "moved":
            words.append(f"{field(change, 'previous')} -> {field(change, 'status')}")
            if change.get("owner") is not None:
                words.append(f"{field(change, 'reason')} {field(change, 'owner')} epoch {field(change, 'epoch')}")
        case "noted":
            words.append(field(change, "kind"))
        case "declared":
            wanted = _wanted(change)
            words += [field(change, "title"), f"depends on {','.join(map(safe, wanted))}" if wanted else ""]
    words.append(f"by {field(change, 'by')}")
    if change.get("text") is not None:
        words.append(field(change, "text"))
    return "  ".join(word for word in words if word)


# Widths.


def wide(text: str) -> int:
    """How many places of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(_places(char) for char in text)


def _places(char: str) -> int:
    return 0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1


def cut(text: str, width: int) -> str:
    """The text, or so much of it as fits, with an ellipsis behind it."""
    if wide(text) <= width:
        return text
    taken = 0
    for at, char in enumerate(text):
        taken += _places(char)
        if taken > width - 1:
            return text[:at].rstrip() + "…"
    return text
