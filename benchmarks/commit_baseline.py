"""A FULL commit measured through the hop the hub takes: event loop → writer thread → event loop, with idle gaps.

One message's row is committed at a time: the same table, the same size. Prints the median and p99 in microseconds.
"""

import argparse
import asyncio
import json
import sqlite3
import time
from importlib.resources import files
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Final

BODY: Final = b'{"channel":3661427671040003,"address":"main:general","n":1234567,"body":"%s"}' % (b"x" * 120)
INSERT_EVENT: Final = "INSERT INTO events (seq, type, version, at_ms, actor, key, body, hash) VALUES (?,?,?,?,?,?,?,?)"
FIRST_SEQ: Final = 3661427671041234


def open_database(path: Path) -> sqlite3.Connection:
    """A fresh database with the journal's tables, WAL and FULL."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.executescript(files("synapse.journal").joinpath("schema.sql").read_text("utf-8"))
    return connection


def write(connection: sqlite3.Connection, jobs: "SimpleQueue[tuple[int, asyncio.Future[None]] | None]") -> None:
    """The writer thread: one transaction a job."""
    while (job := jobs.get()) is not None:
        seq, done = job
        row = (seq, "message.posted", 1, 1760000000000, "bench-0001", "ch/3661427671040003", BODY, b"h" * 32)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(INSERT_EVENT, row)
        connection.execute("COMMIT")
        done.get_loop().call_soon_threadsafe(done.set_result, None)


async def run(path: Path, times: int, gap_s: float) -> list[float]:
    """Seconds from handing a row over to being told that it is durable."""
    loop = asyncio.get_running_loop()
    jobs: SimpleQueue[tuple[int, asyncio.Future[None]] | None] = SimpleQueue()
    connection = open_database(path)
    thread = Thread(target=write, args=(connection, jobs))
    thread.start()
    found = []
    try:
        for turn in range(times):
            await asyncio.sleep(gap_s)
            done = loop.create_future()
            started = time.perf_counter()
            jobs.put((FIRST_SEQ + turn, done))
            await done
            found.append(time.perf_counter() - started)
    finally:
        jobs.put(None)
        thread.join()
        connection.close()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--gap-ms", type=float, default=5.0)
    options = parser.parse_args()
    times = sorted(asyncio.run(run(options.path, options.times, options.gap_ms / 1e3))[options.times // 5 :])
    print(json.dumps({"p50_us": times[len(times) // 2] * 1e6, "p99_us": times[int(len(times) * 0.99)] * 1e6}))
