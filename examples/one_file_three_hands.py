"""Three agents write one file, one at a time, each going on where the last one stopped.

    synapse hub                                              # in one terminal
    python examples/one_file_three_hands.py /tmp/book.txt    # in another, as often as you like

Kill the hub, or this script, at any moment and start it again: each line is written once, in its order. What a killed
writer had not told of (its checkpoint) is cut off by the next one.
"""

import asyncio
import sys
from pathlib import Path

from synapse import Client, LeaseLost, data_of
from synapse.errors import HubUnreachable

LAST = 12


def lines_of(book: Path) -> list[str]:
    """What is written."""
    return book.read_text().splitlines() if book.exists() else []


def add_line(book: Path, done: int, text: str) -> None:
    """Keep the first `done` lines of the book and write one more."""
    book.write_text("".join(f"{line}\n" for line in [*lines_of(book)[:done], text]))


async def write(name: str, book: Path) -> None:
    """Write a line whenever it is my turn, until the book is full."""
    task, shelf = f"book/{book.name}", str(book.parent)
    async with Client(name=name) as client:
        while True:
            try:
                async with client.lease(task, paths=book.name, worktree=shelf, wait=None) as lease:
                    done = data_of(lease.checkpoint) if lease.checkpoint is not None and lines_of(book) else 0
                    assert isinstance(done, int), "this program keeps numbers"
                    if done >= LAST:
                        return
                    add_line(book, done, f"{done + 1:>3} {name}, epoch {lease.epoch}")
                    await asyncio.sleep(0.2)
                    await lease.save(done + 1)
            except LeaseLost as lost:
                print(f"{name}: {lost}", flush=True)


async def main(book: Path) -> None:
    """Three in one process; they would not notice if they were on three machines."""
    async with asyncio.TaskGroup() as group:
        for name in ("ada", "bob", "cleo"):
            group.create_task(write(name, book))
    print("\n".join(lines_of(book)))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python examples/one_file_three_hands.py FILE")
    try:
        asyncio.run(main(Path(sys.argv[1]).resolve()))
    except* HubUnreachable as absent:
        raise SystemExit(f"{absent.exceptions[0]}") from None
    except* KeyboardInterrupt:
        pass
