"""The fault table of docs/reference/faults.md, read: which line and which exit code are documented."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from tests.faults.conftest import Outcome

DOCS: Final = Path(__file__).resolve().parents[2] / "docs" / "reference" / "faults.md"
ROW: Final = re.compile(r"^\| ([a-z-]+) \| .+ \| (\d+) \| `(.+)` \|$", re.MULTILINE)

Drive = Callable[[Path], tuple[Path, Outcome]]
FAULTS: Final[dict[str, Drive]] = {}
"""What does a fault to a hub below a directory, by the name of its row; answers the home and the outcome."""


class Promise(NamedTuple):
    """One row of the table."""

    fault: str
    code: int
    words: str


@cache
def promises() -> list[Promise]:
    """The table."""
    return [Promise(fault, int(code), words) for fault, code, words in ROW.findall(DOCS.read_text("utf-8"))]


def fault(name: str) -> Callable[[Drive], Drive]:
    """Ties a function to the row it drives."""

    def keep(drive: Drive) -> Drive:
        assert name not in FAULTS
        FAULTS[name] = drive
        return drive

    return keep


def fits(words: str, line: str, home: Path) -> bool:
    """True when a line begins with the words of a row."""
    stands = {"N": r"\d+", "ID": "[0-9a-f]{16}", "HOME": re.escape(str(home)), "FILE": r"[\w./-]+", "ERROR": r"[\w /]+"}
    pattern = re.sub(r"\b[A-Z]+\b", lambda found: stands.get(found[0], found[0]), re.escape(words))
    return re.match(pattern, line) is not None


def rows_that_fit(outcome: Outcome, home: Path) -> list[str]:
    """The rows of the table whose exit code and words are those of an outcome; none: it is not documented."""
    return [
        promise.fault
        for promise in promises()
        if promise.code == outcome.code and fits(promise.words, outcome.line, home)
    ]
