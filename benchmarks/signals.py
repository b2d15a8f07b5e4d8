"""Signals: what a flood of them does to durable messages, and how many are delivered when nothing else goes on."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.bench import Bench
from benchmarks.generator import Load
from benchmarks.machine import pinned
from benchmarks.servers import Hub, ServerFailed, require_rows

CHANNEL = "main:live"
SUBSCRIBE = f'{{"type":"feed.subscribe","id":"subscribe","body":{{"channels":["{CHANNEL}"]}}}}'
FLOOD_PER_S = 2_000
"""What one agent may send with the rates of production."""
FOLLOWERS, SLOW, STUCK = 6, 2, 8
FANOUT_FOLLOWERS, FANOUT_SENDERS = 20, 2
STUCK_RECEIVE_BYTES = 16 * 1024
CONNECTIONS = 8
FIRST_OF_FLOOD, FIRST_STUCK = 200, 300
END_S = 30.0


def signals(bench: Bench) -> None:
    """Agents that send one durable message after another: undisturbed, and beside an agent that floods an ephemeral
    channel, which some follow, some slowly, and some without reading at all. Then signals alone, as fast as they go."""
    with bench.home() as home:
        with bench.hub(home) as hub:
            create = {"type": "channel.create", "id": 1, "body": {"channel": CHANNEL, "ephemeral": True}}
            hub.ask_as("planner", [create])
            told: dict[str, float] = {}
            free, flooded = bench.both_ways([partial(_durable, bench, hub), partial(_beside, bench, hub, told)])
            alone = _fanout(bench, hub)
        require_rows(home, free.replies_total + flooded.replies_total)
    detail = {"without": free.brief(), "with_flood": flooded.brief(), "flood": told}
    bench.figures.record("signals p99", flooded.p99_us / free.p99_us, round=bench.round, **detail)
    bench.figures.record("signals rate", flooded.replies_per_s / free.replies_per_s, **detail)
    bench.figures.record("signals fan-out", alone["deliveries_per_s"], round=bench.round, **alone)
    bench.say(
        f"signals: {_told(free)} alone; {_told(flooded)} beside {told['sent_per_s']:,.0f} signals/s, {FOLLOWERS} "
        f"reading, {SLOW} slow and {STUCK} stuck; signals alone: {alone['sent_per_s']:,.0f}/s, "
        f"{alone['deliveries_per_s']:,.0f} deliveries/s"
    )


def _told(load: Load) -> str:
    return f"messages {load.replies_per_s:,.0f}/s, p50 {load.p50_us / 1e3:.1f} and p99 {load.p99_us / 1e3:.1f} ms"


def _durable(bench: Bench, hub: Hub) -> Load:
    shape = ("--connections", str(CONNECTIONS), "--window", "1", *bench.timed())
    return bench.generator.run(hub.port, *shape, hellos=hub.hellos(CONNECTIONS))


def _beside(bench: Bench, hub: Hub, told: dict[str, float]) -> Load:
    deaf = ("--connections", str(STUCK), "--deaf", "--rcvbuf", str(STUCK_RECEIVE_BYTES), "--subscribe", SUBSCRIBE)
    flood = ("--rate", str(FLOOD_PER_S), "--followers", str(FOLLOWERS), "--slow", str(SLOW))
    hellos = hub.hellos(STUCK, first=FIRST_STUCK)
    with bench.generator.hold(hub.port, *deaf, hellos=hellos), _flood(bench, hub, told, *flood):
        return _durable(bench, hub)


def _fanout(bench: Bench, hub: Hub) -> dict[str, float]:
    told: dict[str, float] = {}
    people = ("--followers", str(FANOUT_FOLLOWERS), "--senders", str(FANOUT_SENDERS))
    with _flood(bench, hub, told, *people):
        time.sleep(bench.seconds)
    return told


@contextmanager
def _flood(bench: Bench, hub: Hub, told: dict[str, float], *options: str) -> Iterator[None]:
    """Signals on the client's core while the block runs; what came of them is in `told` then. Raises `ServerFailed`
    when it was not what it should be."""
    hellos = hub.hellos(FANOUT_FOLLOWERS + FANOUT_SENDERS, first=FIRST_OF_FLOOD)
    command = [sys.executable, "-m", "benchmarks.signal_flood", hub.unix_path, str(hellos), CHANNEL, *options]
    with pinned(bench.client_core):
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "flooding\n":
            raise ServerFailed(f"the flood did not begin: {process.communicate(timeout=END_S)[1][-500:]}")
        yield
        out, words = process.communicate(timeout=END_S)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise ServerFailed(f"the flood ended with {process.returncode}: {out[-300:]}{words[-500:]}")
    told.update(json.loads(out))
