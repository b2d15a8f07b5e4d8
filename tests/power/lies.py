"""Recordings that are not true, and hubs that are broken on purpose: the judge must see through each."""

import shutil
from dataclasses import replace
from pathlib import Path

from tests.faults.conftest import SRC
from tests.power.recording import Recording
from tests.power.steps import Rename, Step, Sync


def numbers_of(recording: Recording, name: str) -> set[int]:
    """The files that ever had this name."""
    return {
        number
        for step in recording.steps
        if isinstance(step, Rename)
        for (_, called), number in step.names
        if called == name and number is not None
    }


def without_syncs(recording: Recording, files: set[int] | frozenset[int]) -> Recording:
    """As if these files or directories had never been synced."""

    def step_or_none(step: Step) -> Step:
        return replace(step, upto=0) if isinstance(step, Sync) and step.file in files else step

    return replace(recording, steps=[step_or_none(step) for step in recording.steps])


def told_too_early(recording: Recording, steps: int) -> Recording:
    """As if every frame had left so many steps earlier."""
    return replace(recording, told=[replace(told, after=max(told.after - steps, 0)) for told in recording.told])


def with_another_row(recording: Recording) -> Recording:
    """As if another message had been in the middle of the journal."""
    rows = list(recording.rows)
    middle = next(number for number, row in enumerate(rows[len(rows) // 2 :], len(rows) // 2) if row.type[:3] == "mes")
    rows[middle] = rows[middle]._replace(at_ms=rows[middle].at_ms + 1)
    return replace(recording, rows=rows)


def broken_source(folder: Path, file: str, old: str, new: str) -> Path:
    """A copy of the sources with one text, which is in its file exactly once, replaced by another."""
    shutil.copytree(SRC, folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "synapse" / file
    text = path.read_text("utf-8")
    assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times: plant this fault anew"
    path.write_text(text.replace(old, new), "utf-8")
    return folder


def hasty(folder: Path) -> Path:
    """A copy of the sources of a hub that answers before its commit."""
    return broken_source(
        folder,
        "hub/turn.py",
        "        self._writer.submit(lambda: commit(log, rows), done)\n",
        "        self._writer.submit(lambda: commit(log, rows), lambda *_: None)\n        done(False, None)\n",
    )
