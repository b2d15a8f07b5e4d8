"""Messages, fan-out, one message on an idle hub, and the flushes behind them: hub and baseline turn by turn."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench, clients
from benchmarks.generator import SUBSCRIBE
from benchmarks.machine import pinned
from benchmarks.servers import Hub, baseline, require_rows

CONNECTIONS = 32
WINDOWS = (1, 16)
PUBLISHERS = 4
SUBSCRIBERS = 200
IN_FLIGHT = (4, 32)
GAP_MS = 5.0
COMMITS = 250


def messages(bench: Bench) -> None:
    """32 connections that send durable messages to one channel, against echo of frames of the same size."""
    with bench.home() as home:
        acknowledged = 0
        with baseline("echo", bench.server_core) as echo, bench.hub(home) as hub:
            bench.settings["limits of the hub"] = hub.limits()
            hellos = hub.hellos(CONNECTIONS)
            for window in WINDOWS:
                shape = ("--connections", str(CONNECTIONS), "--window", str(window), *bench.timed())
                bare, durable = bench.both_ways(
                    [
                        partial(bench.generator.run, echo.port, "--echo", *shape),
                        partial(bench.generator.run, hub.port, *shape, hellos=hellos),
                    ]
                )
                acknowledged += durable.replies_total
                name = f"messages {CONNECTIONS}x{window}"
                bench.compare(name, durable.replies_per_s / bare.replies_per_s, durable, bare)
                bench.say(
                    f"{name}: hub {durable.replies_per_s:,.0f}/s (p99 {durable.p99_us / 1e3:,.1f} ms), "
                    f"echo {bare.replies_per_s:,.0f}/s (p99 {bare.p99_us / 1e3:,.1f} ms), {clients(durable, bare)}"
                )
        require_rows(home, acknowledged)


def fanout(bench: Bench) -> None:
    """4 publishers and 200 subscribers of one channel, against `broadcast` of frames of the same size."""
    with bench.home() as home:
        acknowledged = 0
        with baseline("broadcast", bench.server_core) as bare_server, bench.hub(home) as hub:
            hellos = hub.hellos(PUBLISHERS + SUBSCRIBERS)
            for window in IN_FLIGHT:
                shape = fanout_shape(bench, window)
                bare, durable = bench.both_ways(
                    [
                        partial(bench.generator.run, bare_server.port, *shape),
                        partial(bench.generator.run, hub.port, *shape, hellos=hellos),
                    ]
                )
                acknowledged += durable.replies_total
                name = f"fan-out {window}"
                bench.compare(name, durable.deliveries_per_s / bare.deliveries_per_s, durable, bare)
                bench.compare(f"{name} p99", durable.delivery_p99_us / bare.delivery_p99_us, durable, bare)
                bench.say(
                    f"{name}: hub {durable.deliveries_per_s:,.0f}/s (p99 {durable.delivery_p99_us / 1e3:.1f} ms), "
                    f"broadcast {bare.deliveries_per_s:,.0f}/s (p99 {bare.delivery_p99_us / 1e3:.1f} ms), "
                    f"{clients(durable, bare)}"
                )
        require_rows(home, acknowledged)


def fanout_shape(bench: Bench, window: int, subscribers: int = SUBSCRIBERS) -> tuple[str, ...]:
    """The generator's options for a fan-out with `window` messages in flight."""
    people = ("--publishers", str(PUBLISHERS), "--subscribers", str(subscribers), "--subscribe", SUBSCRIBE)
    return ("--mode", "fanout", *people, "--window", str(window), *bench.timed())


def idle(bench: Bench) -> None:
    """One message at a time with a pause after each, against echo plus a commit through the same thread hop.

    Each of the three is measured twice, by turns, and its lower median counts: no disturbance is to help or to hurt.
    """
    shape = ("--gap-ms", str(GAP_MS), "--seconds", str(bench.seconds / 2), "--warmup", "0.2")
    found: list[tuple[float, float, float]] = []
    with bench.home() as home:
        with baseline("echo", bench.server_core) as echo, bench.hub(home) as hub:
            hellos, told = hub.hellos(1), 0
            for turn in range(2):
                bare = bench.generator.run(echo.port, "--echo", *shape)
                commit_us = _commit(bench, home / f"commits-{turn}.db")
                durable = bench.generator.run(hub.port, *shape, hellos=hellos)
                told += durable.replies_total
                found.append((durable.p50_us, bare.p50_us, commit_us))
        require_rows(home, told)
    hub_us, echo_us, commit_us = (min(turns) for turns in zip(*found, strict=True))
    commits = (hub_us - echo_us) / commit_us
    bench.figures.record("idle round trip", commits, round=bench.round, turns=found)
    bench.say(
        f"idle round trip: hub {hub_us:.0f} µs, echo {echo_us:.0f} µs, commit {commit_us:.0f} µs "
        f"→ echo + {commits:.2f} commits"
    )


def _commit(bench: Bench, database: Path) -> float:
    """Median in microseconds."""
    command = [sys.executable, "-m", "benchmarks.commit_baseline", str(database)]
    with pinned(bench.server_core):
        done = subprocess.run(
            [*command, "--gap-ms", str(GAP_MS), "--times", str(COMMITS)], capture_output=True, text=True, check=True
        )
    return float(json.loads(done.stdout)["p50_us"])


def flush(bench: Bench) -> None:
    """Under strace: with one message in flight, each must have a flush of its own. Once is enough."""
    strace = shutil.which("strace")
    if bench.round or strace is None:
        if strace is None:
            bench.note("flushes not counted: strace is missing (apt-get install strace)")
        return
    with bench.home() as home:
        log = home / "flushes.log"
        wrapper = (strace, "-D", "-f", "-qq", "-e", "trace=fdatasync,fsync", "-e", "signal=none", "-o", str(log))
        hub = Hub(home, None, (*wrapper, *bench.hub_command))
        with hub:
            hellos = hub.hellos(CONNECTIONS)
            found = {}
            for name, shape in (("1x1", ("1", "1")), ("32x16", (str(CONNECTIONS), "16"))):
                before = _flushes(log)
                load = bench.generator.run(
                    hub.port, "--connections", shape[0], "--window", shape[1], *bench.timed(), hellos=hellos
                )
                found[name] = (_flushes(log) - before, load.replies_total)
        require_rows(home, sum(total for _, total in found.values()))
    one, many = found["1x1"], found["32x16"]
    bench.figures.record("flushes", one[0] / one[1], round=bench.round, one_in_flight=one, full=many)
    bench.say(f"flushes: {one[0]} for {one[1]} messages one by one; {many[0]} for {many[1]} messages of 32x16")


def _flushes(log: Path) -> int:
    return sum(1 for line in log.read_text("utf-8").splitlines() if "fdatasync(" in line or "fsync(" in line)
