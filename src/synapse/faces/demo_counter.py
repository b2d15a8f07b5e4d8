"""What a counter of the demo does under its lease: read a number from a file, think, write the number plus one.

Two at once would lose an addition, and nothing but the lease keeps them apart. That they are apart is looked at (a
marker file that must not be there), and the store remembers the epoch of its last write and refuses a lower one. One
line on stdout says what was done, after it was done: the number, the epoch, was it alone, was it written.
"""

import json
import os
import sys
from pathlib import Path
from time import sleep
from typing import Final

THINKING_S: Final = 0.02


class Store:
    """A number in a file of a directory, with the epoch of its last write."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "number.json"
        self._inside = directory / "inside"

    def read(self) -> tuple[int, int]:
        """The number, and the epoch under which it was written; zeros at first."""
        if not self._file.exists():
            return 0, 0
        number, epoch = json.loads(self._file.read_text())
        return int(number), int(epoch)

    def write(self, number: int, epoch: int) -> bool:
        """Write unless a later holder has written before: False then."""
        if epoch < self.read()[1]:
            return False
        fresh = self._file.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps([number, epoch]))
        fresh.replace(self._file)
        return True

    def enter(self) -> bool:
        """True when nobody else is at it."""
        try:
            os.close(os.open(self._inside, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def leave(self) -> None:
        """The opposite."""
        self._inside.unlink(missing_ok=True)


def add_one(store: Store, epoch: int) -> tuple[int, int, bool, bool]:
    """The new number, the epoch, was it alone, was it written."""
    is_alone = store.enter()
    number = store.read()[0] + 1
    sleep(THINKING_S)
    is_written = store.write(number, epoch)
    store.leave()
    return number, epoch, is_alone, is_written


if __name__ == "__main__":
    print(json.dumps(add_one(Store(Path(sys.argv[1])), int(os.environ["SYNAPSE_EPOCH"]))), flush=True)
