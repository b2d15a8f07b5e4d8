"""A long journal to replay, and the bare loop that the hub's start is compared with.

The loop does what no replay can leave out: read the rows in order, compute both hashes of each, compare, decode the
body into its type. `fill HOME EVENTS` makes the journal, `loop HOME` prints seconds and events.
"""

import argparse
import json
import sqlite3
import time
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from synapse.core.events import (
    AgentCreated,
    Card,
    ChannelCreated,
    Event,
    HubStarted,
    JournalStarted,
    MessagePosted,
    Recorded,
    RoomCreated,
    to_row,
)
from synapse.journal.chain import genesis
from synapse.journal.store import Journal

AT_MS: Final = 1760000000000
AGENTS: Final = 8
ROWS_PER_COMMIT: Final = 2000
BODY: Final = msgspec.json.encode("the tests of the scheduler pass again; I take the parser next. ".ljust(120, "."))


def fill(home: Path, events: int) -> None:
    """A new journal with about `events` messages of a few agents in one channel."""
    journal = Journal.open(home, at_ms=AT_MS)
    seq = journal.head
    room, channel = seq + 3, seq + 4
    first: list[tuple[str, Event]] = [
        ("hub", JournalStarted(hub_id=journal.hub_id, journal_id=journal.journal_id)),
        ("hub", HubStarted(version="benchmark")),
        ("hub", RoomCreated(name="main", bootstrap=True)),
        ("hub", ChannelCreated(room=room, name="general", bootstrap=True)),
    ]
    first += [(f"bench-{n}", AgentCreated(name=f"bench-{n}", card=Card(), secret_hash="0" * 64)) for n in range(AGENTS)]
    rows = [to_row(Recorded(seq + n, AT_MS, actor, event)) for n, (actor, event) in enumerate(first, 1)]
    seq += len(rows)
    for n in range(1, events + 1):
        seq += 1
        event = MessagePosted(channel=channel, address="main:general", n=n, body=msgspec.Raw(BODY))
        rows.append(to_row(Recorded(seq, AT_MS + n, f"bench-{n % AGENTS}", event)))
        if len(rows) >= ROWS_PER_COMMIT or n == events:
            journal.append(rows)
            journal.maintain()
            rows = []
    journal.close()


def loop(home: Path) -> tuple[float, int]:
    """Seconds and events of the bare loop."""
    connection = sqlite3.connect(f"file:{home / 'journal.db'}?mode=ro", uri=True)
    meta = dict(connection.execute("SELECT name, value FROM meta"))
    decoder = msgspec.json.Decoder(MessagePosted).decode
    others = msgspec.json.Decoder().decode
    prev = genesis(meta["hub_id"], int(meta["base"]))
    events = 0
    started = time.perf_counter()
    cursor = connection.execute("SELECT seq, type, version, at_ms, actor, key, body, hash FROM events ORDER BY seq")
    while rows := cursor.fetchmany(1024):
        for seq, kind, version, at_ms, actor, key, body, stored in rows:
            header = f"{seq}:{version}:{at_ms}:{len(kind)}:{kind}{len(actor)}:{actor}{len(key)}:{key}"
            prev = sha256(b"%b%b%b" % (prev, header.encode(), sha256(body).digest())).digest()
            assert prev == stored, f"the chain breaks at {seq}"
            if kind == "message.posted":
                decoder(body)
            else:
                others(body)
        events += len(rows)
    took = time.perf_counter() - started
    connection.close()
    return took, events


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("fill", "loop"))
    parser.add_argument("home", type=Path)
    parser.add_argument("events", type=int, nargs="?", default=200_000)
    options = parser.parse_args()
    if options.action == "fill":
        fill(options.home, options.events)
    else:
        seconds, count = loop(options.home)
        print(json.dumps({"seconds": seconds, "events": count}))
