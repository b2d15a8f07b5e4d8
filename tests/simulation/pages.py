"""Pages of what the journal holds under a name, newest first: all of it down to the floor, and where that is."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from tests.simulation.terms import Violation

Json: TypeAlias = dict[str, Any]
GONE: Final = "a page ended where retention had dropped the rest, and said so"


class Pages:
    """Judges pages. floor: up to where nothing of a stream can be read, after the event at a seq or now."""

    def __init__(self, floor: Callable[[str, int | None], int], sometimes: Callable[[str], None]) -> None:
        self._floor = floor
        self._sometimes = sometimes

    def require_true(
        self, agent: str, stream: str, seqs: Sequence[int], told: list[int], *, of: tuple[Json, Json]
    ) -> None:
        """A page is a part of `seqs` without a hole. told: its seqs, newest first. of: the request's body and the
        reply. Raises `Violation`."""
        body, reply = of
        begins, position = body.get("after") or body.get("before"), _seq(reply["cursor"])
        upto = position if begins is None else _seq(begins) - 1
        more, kept = reply["next"] if "previous" not in reply else reply["previous"], reply.get("first_kept")
        for floor in (self._floor(stream, position), self._floor(stream, None)):
            due = [*seqs[bisect_right(seqs, floor) : bisect_right(seqs, upto)]][::-1]
            is_whole = more is not None or len(told) == len(due)
            is_said = kept is None if more is not None or not floor else kept is not None and _seq(kept) == floor
            if told == due[: len(told)] and is_whole and is_said:
                if kept is not None:
                    self._sometimes(GONE)
                return
        text = f"{agent} reads {told} of {stream}, going on {more}, kept {kept}; there is {seqs} up to {upto}"
        raise Violation("wrong page", f"{text}, floor {self._floor(stream, None)}", agent)


def _seq(cursor: str) -> int:
    return int(cursor.partition(":")[2])
