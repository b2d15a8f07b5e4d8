"""The export of a journal as plain rows, for checkers that know the events' names and nothing of the hub's code."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.crash.history import Frame


class Row(NamedTuple):
    """One event."""

    seq: int
    at_ms: int
    actor: str
    type: str
    body: Frame


def rows_in(lines: Iterable[str | bytes]) -> list[Row]:
    """The events among the lines of an export."""
    found = [json.loads(line) for line in lines]
    return [Row(it["seq"], it["at_ms"], it["actor"], it["type"], it["body"]) for it in found if "seq" in it]


def exported(home: Path) -> list[Row]:
    """What `synapse journal export` writes, also while the hub runs."""
    command = [sys.executable, "-m", "synapse", "journal", "export", "-", "--home", str(home)]
    return rows_in(subprocess.run(command, capture_output=True, check=True).stdout.splitlines())
