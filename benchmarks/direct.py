"""Direct messages the whole way, sent, taken and acked, each step durable: the hub against NATS JetStream."""

import json
import sys
from functools import partial
from pathlib import Path

from benchmarks.against import tell
from benchmarks.bench import Bench, clients
from benchmarks.generator import Load
from benchmarks.peers import NATS, Missing, Nats, program
from benchmarks.servers import ServerFailed, bodies_of, rows_of

PAIRS = 32
WINDOWS = (1, 8, 16, 32)
"""So many are on their way in each pair. NATS makes no more a second from 8 on, the hub from 32 on."""


def direct(bench: Bench) -> None:
    """32 senders and 32 receivers in Python, over a Unix socket as the library takes it, NATS over TCP for want of one.

    Each measurement has a fresh server.
    """
    try:
        python = program(NATS)
    except Missing as missing:
        bench.note(f"not compared with NATS: {missing}")
        return
    for window in WINDOWS:
        shape = ("--pairs", str(PAIRS), "--window", str(window))
        durable, other = bench.both_ways([partial(_hub, bench, shape), partial(_nats, bench, python, shape)])
        name = f"direct {PAIRS}x{window}"
        bench.compare(name, durable.replies_per_s / other.replies_per_s, durable, other)
        bench.say(
            f"{name}: hub {durable.replies_per_s:,.0f}/s (p99 {durable.p99_us / 1e3:.1f} ms), "
            f"NATS {other.replies_per_s:,.0f}/s (p99 {other.p99_us / 1e3:.1f} ms), {clients(durable, other)}"
        )


def _hub(bench: Bench, shape: tuple[str, ...]) -> Load:
    """Raises `ServerFailed` unless the journal holds each message, and it in one lend and in one ack."""
    with bench.home() as home:
        with bench.hub(home) as hub:
            target = ("synapse", hub.unix_path, "--home", str(home))
            load = bench.python_client(sys.executable, *target, *shape, script="direct_client.py")
        rows = {"message.sent": rows_of(home, "message.sent")}
        for kind in ("message.lent", "messages.acked"):  # events of several messages
            rows[kind] = sum(len(json.loads(body)["messages"]) for body in bodies_of(home, kind))
        if set(rows.values()) != {load.replies_total}:
            raise ServerFailed(f"{load.replies_total} messages went the whole way; the journal has {rows}")
        return load


def _nats(bench: Bench, python: Path, shape: tuple[str, ...]) -> Load:
    with bench.home() as home, Nats(home, bench.server_core) as peer:
        tell(bench, "NATS", peer)
        return bench.python_client(python, "nats", f"127.0.0.1:{peer.port}", *shape, script="direct_client.py")
