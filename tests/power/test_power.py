"""Power cuts: nothing that was answered is lost, and the hub starts again on whatever the disk has left.

A hub is recorded call by call, and its files are built anew as they would be had the power gone at some step: with
what was synced and any part of the rest. `POWER_CUTS` (3 000) says how often in `make prove`, `POWER_SEED` (1) what
the disk keeps. Recordings differ a little from run to run, because processes share the machine.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.power.cuts import plan, run_cuts
from tests.power.load import Load
from tests.power.recording import Recorder, Recording, fast_folder

SEED: Final = int(os.environ.get("POWER_SEED", "1"))
CUTS: Final = int(os.environ.get("POWER_CUTS", "3000"))
CUTS_FAST: Final = 150
PART: Final = "power cuts"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with fast_folder() as path:
        yield path


@pytest.fixture(scope="module")
def short(folder: Path) -> Recording:
    """A hub that is killed, and one that is stopped."""
    return record(folder / "short", (Load(8), signal.SIGKILL), (Load(8), signal.SIGTERM))


def record(place: Path, *runs: tuple[Load, signal.Signals], **how: object) -> Recording:
    """One run after the other on a home that the first one makes."""
    root = place / "root"
    root.mkdir(parents=True)
    recorder = Recorder(root, **how)  # type: ignore[arg-type]  # environ or prefix, as the class has them
    for load, ends in runs:
        recorder.run(load, ends)
    recording = recorder.finish()
    shutil.rmtree(place)
    return recording


@pytest.mark.xdist_group("power")
def test_nothing_answered_is_lost_to_a_power_cut(short: Recording, folder: Path) -> None:
    report = run_cuts(short, plan(short.steps, CUTS_FAST, SEED), SEED, folder)
    assert report.checked > CUTS_FAST
    assert not report.findings, "\n".join(map(str, report.findings[:10]))
