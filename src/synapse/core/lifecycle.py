"""The statuses of a task, and which may follow which. The diagram in the documents is generated from this table.

    open               nobody works on it; ready, when all it depends on is done
    in_progress        somebody does
    blocked            it cannot go on; the reason is in the ledger
    waiting_for_input  a person is asked
    review             done, as its worker sees it; somebody looks at it
    done, failed, cancelled   its ends; reopening makes it open again

A lease and a status have their own lives, and meet here only: a claim takes an open task to `in_progress`; the end of
the last lease puts one that is `in_progress` back to `open`; a step to one of `FREEING` ends the lease of who takes it.
"""

from typing import Final

OPEN: Final = "open"
IN_PROGRESS: Final = "in_progress"
WAITING: Final = "waiting_for_input"
DONE: Final = "done"

TRANSITIONS: Final[dict[str, tuple[str, ...]]] = {
    "open": ("in_progress", "blocked", "waiting_for_input", "done", "failed", "cancelled"),
    "in_progress": ("open", "blocked", "waiting_for_input", "review", "done", "failed", "cancelled"),
    "blocked": ("open", "in_progress", "waiting_for_input", "failed", "cancelled"),
    "waiting_for_input": ("open", "in_progress", "blocked", "failed", "cancelled"),
    "review": ("open", "in_progress", "done", "failed", "cancelled"),
    "done": ("open",),
    "failed": ("open",),
    "cancelled": ("open",),
}
"""What may follow each status."""

TASK_STATUSES: Final = tuple(TRANSITIONS)
ENDS: Final = frozenset({"done", "failed", "cancelled"})
"""Nothing is left to do, or nothing will be done."""
FREEING: Final = ENDS | {OPEN}
"""A step to one of these ends the lease of who takes it, and so frees its scope."""
LAPSES: Final[dict[str, str]] = {IN_PROGRESS: OPEN}
"""What a status becomes when the last lease on the task ends by itself; all others stay, `review` among them."""


def is_legal(status: str, to: str) -> bool:
    """True when `to` may follow `status`."""
    return to in TRANSITIONS[status]


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> open"]
    lines += [f"    {status} --> {to}" for status, following in TRANSITIONS.items() for to in following]
    lines += [f"    {status} --> [*]" for status in TASK_STATUSES if status in ENDS]
    return "\n".join(lines)
