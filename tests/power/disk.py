"""A disk that may lose what was not synced: which contents a power cut can leave.

The model is weaker than what ext4, XFS and btrfs do, so what passes here passes there:

- Bytes and sizes of a file are durable when a sync of that file that began after them has returned. Until then any of
  them may be there or not, independently, in pieces of 512 bytes; a size may have grown without its bytes, as zeros.
- Names are durable when a sync of their directory has returned, not when the file's has. Until then any of them may be
  there or not. One rename is atomic, also between two directories.
- What is synced stays, each sector is old or new, and nothing else changes: no bit rot, no disk that lies about a
  flush.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from tests.power.steps import ROOT, Image, Rename, Resize, Step, Sync, Write

SECTOR_BYTES: Final = 512

Change: TypeAlias = Write | Resize | Rename
Waiting: TypeAlias = dict[int, Change]
"""Changes that are not durable, by the number of their step."""


@dataclass(slots=True)
class Disk:
    """What is durable after some steps, and what waits. directories: numbers of files that are directories."""

    directories: frozenset[int]
    files: dict[int, bytearray] = field(default_factory=dict)
    names: dict[tuple[int, str], int] = field(default_factory=dict)
    waiting: Waiting = field(default_factory=dict)
    done: int = 0

    def take(self, step: Step) -> None:
        """The next step happened."""
        if isinstance(step, Sync):
            for number in self._covered(step):
                _apply(self.waiting.pop(number), self.files, self.names)
        else:
            self.waiting[self.done] = step
        self.done += 1

    def _covered(self, sync: Sync) -> list[int]:
        before = [(number, change) for number, change in self.waiting.items() if number < sync.upto]
        if sync.file not in self.directories:
            return [number for number, change in before if not isinstance(change, Rename) and change.file == sync.file]
        # A rename is atomic: it is durable with either of its directories, and so is what these names were before.
        covered, places = [], set()
        for number, change in reversed(before):
            if isinstance(change, Rename) and (
                any(place[0] == sync.file or place in places for place, _ in change.names)
            ):
                covered.append(number)
                places |= {place for place, _ in change.names}
        return covered[::-1]

    def image(self, kept: list[Change]) -> Image:
        """The disk with these of the waiting changes, in their order."""
        names = dict(self.names)
        touched = {change.file for change in kept if not isinstance(change, Rename)}
        files = {number: bytearray(self.files.get(number, b"")) for number in touched}
        for change in kept:
            _apply(change, files, names)
        return dict(self._walk(ROOT, "", names, files))

    def _walk(
        self, directory: int, prefix: str, names: dict[tuple[int, str], int], files: dict[int, bytearray]
    ) -> Iterator[tuple[str, bytes | int | None]]:
        for (parent, name), number in names.items():
            if parent != directory:
                continue
            if number in self.directories:
                yield prefix + name, None
                yield from self._walk(number, f"{prefix}{name}/", names, files)
                continue
            content = files.get(number, self.files.get(number, bytearray()))
            yield prefix + name, len(content) if name.startswith("journal.reserve") else bytes(content)


def _apply(change: Change, files: dict[int, bytearray], names: dict[tuple[int, str], int]) -> None:
    match change:
        case Rename():
            for place, number in change.names:
                if number is None:
                    names.pop(place, None)
                else:
                    names[place] = number
        case Resize(file, size):
            content = files.setdefault(file, bytearray())
            del content[size:]
            content.extend(bytes(size - len(content)))
        case Write(file, offset, data):
            content = files.setdefault(file, bytearray())
            content.extend(bytes(max(offset - len(content), 0)))
            content[offset : offset + len(data)] = data


# what a cut keeps of the waiting changes

Draw: TypeAlias = Callable[[list[Change], random.Random], list[Change]]


def nothing(waiting: list[Change], chance: random.Random) -> list[Change]:
    """Only what was synced."""
    return []


def everything(waiting: list[Change], chance: random.Random) -> list[Change]:
    """The disk happened to be done with all of it."""
    return waiting


def prefix(waiting: list[Change], chance: random.Random) -> list[Change]:
    """It was written in order, up to some change."""
    return waiting[: chance.randint(0, len(waiting))]


def subset(waiting: list[Change], chance: random.Random) -> list[Change]:
    """Whole changes, any of them."""
    share = chance.choice((0.1, 0.5, 0.9))
    return [change for change in waiting if chance.random() < share]


def one_lost(waiting: list[Change], chance: random.Random) -> list[Change]:
    """All but one."""
    lost = chance.randrange(len(waiting)) if waiting else 0
    return [*waiting[:lost], *waiting[lost + 1 :]]


def one_kept(waiting: list[Change], chance: random.Random) -> list[Change]:
    """One alone."""
    return [chance.choice(waiting)] if waiting else []


def torn(waiting: list[Change], chance: random.Random) -> list[Change]:
    """Any sectors of any writes; at times a size without the bytes."""
    share = chance.choice((0.1, 0.5, 0.9, 0.99))
    kept: list[Change] = []
    for change in waiting:
        if not isinstance(change, Write):
            kept += [change] if chance.random() < share else []
            continue
        pieces = [piece for piece in sectors(change) if chance.random() < share]
        if chance.random() < 0.25:
            kept.append(Write(change.file, change.offset + len(change.data), b""))  # only grows
        kept += pieces
    return kept


def sectors(write: Write) -> Iterator[Write]:
    """A write cut where sectors begin."""
    at, end = write.offset, write.offset + len(write.data)
    while at < end:
        upto = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        yield Write(write.file, at, write.data[at - write.offset : upto - write.offset])
        at = upto


DRAWS: Final[dict[str, Draw]] = {
    "nothing": nothing,
    "everything": everything,
    "prefix": prefix,
    "subset": subset,
    "one lost": one_lost,
    "one kept": one_kept,
    "torn": torn,
}
