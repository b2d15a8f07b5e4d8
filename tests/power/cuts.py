"""Thousands of cuts of one recording: each rebuilds a home in memory and asks the judge.

A cut is a step before which the power went, and a draw of what the disk kept. Between two syncs the changes that wait
only grow in number, and any of them may be lost, so the last moment before a sync stands for all moments since the
sync before. A quarter of the cuts is anywhere, and a quarter each just before any sync, before a sync of a file that is
not synced often (which leaves out the WAL), and before one in the birth of the first hub.
"""

import multiprocessing
import os
import pickle
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from tests.power.disk import DRAWS, Disk
from tests.power.judge import Broken, Uncut, judge
from tests.power.recording import Recording
from tests.power.steps import Image, Rename, Step, Sync

RARE: Final = 20
"""A sync is rare when its file has fewer."""
_FIXED_DRAWS: Final = ("nothing", "everything")
_RANDOM_DRAWS: Final = tuple(name for name in DRAWS if name not in _FIXED_DRAWS)


class Cut(NamedTuple):
    """The power went before step number `step`; number: of the cut, which with the seed fixes what is drawn."""

    step: int
    draw: str
    number: int


class Finding(NamedTuple):
    """A cut that broke a promise."""

    cut: Cut
    rule: str
    text: str


@dataclass(slots=True)
class Report:
    """What came out of many cuts. checked: answered operations looked for in all of them together."""

    cuts: Counter[str] = field(default_factory=Counter)
    checked: int = 0
    findings: list[Finding] = field(default_factory=list)

    def add(self, other: "Report") -> None:
        """Count another report in."""
        self.cuts += other.cuts
        self.checked += other.checked
        self.findings += other.findings

    def words(self) -> str:
        """The first findings, one a line."""
        return "\n".join(f"{finding.cut}: {finding.text}" for finding in self.findings[:10])

    def found(self, *rules: str) -> int:
        """How many cuts broke one of these rules."""
        return sum(finding.rule in rules for finding in self.findings)


def plan(steps: Sequence[Step], cuts: int, seed: int) -> list[Cut]:
    """That many cuts, in the order of their steps."""
    chance = random.Random(f"{seed}:plan")
    everywhere = range(len(steps) + 1)
    syncs = [number for number, step in enumerate(steps) if isinstance(step, Sync)]
    often = Counter(step.file for step in steps if isinstance(step, Sync))
    rare = [number for number in syncs if often[_file(steps[number])] < RARE]
    ready = next(number for number, step in enumerate(steps) if _is_ready(step))
    birth = [number for number in syncs if number < ready]
    chosen = []
    for number in range(cuts):
        places = (everywhere, syncs, rare, birth)[number % 4] or everywhere  # a hub may sync nothing
        draw = chance.choice(_RANDOM_DRAWS if chance.random() < 0.75 else _FIXED_DRAWS)
        chosen.append(Cut(chance.choice(places), draw, number))
    return sorted(chosen)


def plan_since(steps: Sequence[Step], since: int, cuts: int, seed: int) -> list[Cut]:
    """That many cuts just before syncs from step `since` on, and at the end."""
    chance = random.Random(f"{seed}:plan")
    places = [number for number in range(since, len(steps)) if isinstance(steps[number], Sync)] + [len(steps)]
    return sorted(Cut(chance.choice(places), chance.choice(list(DRAWS)), number) for number in range(cuts))


def _file(step: Step) -> int:
    assert isinstance(step, Sync)
    return step.file


def _is_ready(step: Step) -> bool:
    return isinstance(step, Rename) and any(name == "hub.json" for (_, name), _ in step.names)


def image_at(disk: Disk, cut: Cut, seed: int) -> Image:
    """What the disk, which stands at the cut's step, has left."""
    chance = random.Random(f"{seed}:{cut.number}")
    left = disk.image(DRAWS[cut.draw](list(disk.waiting.values()), chance))
    for name in [name for name in left if name.endswith("-shm")]:  # an index in shared memory: anything, or nothing
        if chance.random() < 0.5:
            del left[name]
        else:
            left[name] = chance.randbytes(chance.choice((0, 3, 136, 32_768)))
    return left


def lay_down(image: Image, root: Path) -> None:
    """Write an image below `root`, and nothing else."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for name, content in image.items():
        path = root / name
        if content is None:
            path.mkdir(mode=0o700)
        elif isinstance(content, int):
            path.touch()
            os.truncate(path, content)
        else:
            path.write_bytes(content)


def run_cuts(recording: Recording, cuts: Iterable[Cut], seed: int, folder: Path) -> Report:
    """Make the cuts and judge what each left by what hubs told."""
    uncut = Uncut(recording)
    return run_judged(recording, cuts, seed, folder, lambda home, cut: judge(home, uncut, cut.step))


def run_judged(
    recording: Recording, cuts: Iterable[Cut], seed: int, folder: Path, judged: Callable[[Path, Cut], int]
) -> Report:
    """Make the cuts, which are in the order of their steps, one by one in `folder`. judged: says of a home that was cut
    how many operations it looked for, or raises `Broken`."""
    report, root = Report(), folder / "cut"
    disk = Disk(recording.directories)
    for cut in cuts:
        while disk.done < cut.step:
            disk.take(recording.steps[disk.done])
        lay_down(image_at(disk, cut, seed), root)
        report.cuts[cut.draw] += 1
        try:
            report.checked += judged(root / "home", cut)
        except Broken as broken:
            report.findings.append(Finding(cut, broken.rule, str(broken)))
    shutil.rmtree(root, ignore_errors=True)
    return report


_Job: TypeAlias = tuple[Path, list[Cut], int, Path]


def _run_job(job: _Job) -> Report:
    path, cuts, seed, folder = job
    folder.mkdir()
    return run_cuts(pickle.loads(path.read_bytes()), cuts, seed, folder)


def run_on_all_cores(recording: Recording, cuts: Sequence[Cut], seed: int, folder: Path) -> Report:
    """As `run_cuts`, each core with its share."""
    path, cores = folder / "recording", os.cpu_count() or 1
    path.write_bytes(pickle.dumps(recording))
    jobs: list[_Job] = [(path, list(cuts[share::cores]), seed, folder / f"core-{share}") for share in range(cores)]
    report = Report()
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        for part in pool.imap_unordered(_run_job, jobs):
            report.add(part)
    for _, _, _, place in jobs:
        shutil.rmtree(place)
    path.unlink()
    return report
