"""What a connection costs, and what a subscriber costs that does not read."""

import time

from benchmarks.bench import Bench
from benchmarks.generator import SUBSCRIBE, Load
from benchmarks.machine import memory_kib
from benchmarks.servers import require_rows
from benchmarks.traffic import PUBLISHERS, fanout_shape

IDLE = 1000
STUCK = 8
STUCK_RECEIVE_BYTES = 16 * 1024
LISTENERS = 20
FLOOD_WINDOW = 32
FLOOD_S = 3.0
SETTLE_S = 0.5


def connections(bench: Bench) -> None:
    """1000 idle connections after hello. Their agents exist before, so that only the connection is counted."""
    with bench.home() as home:
        with bench.hub(home) as hub:
            hellos = hub.hellos(IDLE)
            before = memory_kib(hub.pid)
            with bench.generator.hold(hub.port, "--connections", str(IDLE), hellos=hellos):
                first = memory_kib(hub.pid) - before
        with bench.hub(home) as hub:
            with bench.generator.hold(hub.port, "--connections", "20", hellos=hellos):
                pass
            time.sleep(SETTLE_S)
            before = memory_kib(hub.pid)
            with bench.generator.hold(hub.port, "--connections", str(IDLE), hellos=hellos):
                time.sleep(SETTLE_S)
                grown = memory_kib(hub.pid) - before
    bench.figures.record("idle connection", grown / IDLE, round=bench.round, kib_with_new_agent=first / IDLE)
    bench.say(f"idle connection: {grown / IDLE:.1f} KiB; with an agent never seen before {first / IDLE:.1f} KiB")


def stuck(bench: Bench) -> None:
    """A flood to 20 subscribers, without and with 8 more that never read."""
    (free_kib, free), (stuck_kib, held) = bench.both_ways([lambda: _flood(bench, 0), lambda: _flood(bench, STUCK)])
    each_kib = (stuck_kib - free_kib) / STUCK
    ratio = held.delivery_p99_us / free.delivery_p99_us
    detail = {"round": bench.round, "without": free.brief(), "with_stuck": held.brief()}
    bench.figures.record("stuck memory", each_kib, peaks_kib=[free_kib, stuck_kib], **detail)
    bench.figures.record("stuck p99", ratio, **detail)
    bench.say(
        f"stuck subscribers: {each_kib:.0f} KiB each (peaks {free_kib} and {stuck_kib} KiB); p99 of the others "
        f"{held.delivery_p99_us / 1e3:.1f} ms, without {free.delivery_p99_us / 1e3:.1f} ms"
    )


def _flood(bench: Bench, deaf: int) -> tuple[int, Load]:
    """Peak memory of a fresh hub in KiB and what the subscribers that read measured."""
    people = PUBLISHERS + LISTENERS
    shape = list(fanout_shape(bench, FLOOD_WINDOW, LISTENERS))
    shape[shape.index("--seconds") + 1] = str(max(FLOOD_S, bench.seconds))
    with bench.home() as home:
        with bench.hub(home) as hub:
            hellos = hub.hellos(people)
            if not deaf:
                load = bench.generator.run(hub.port, *shape, hellos=hellos)
            else:
                options = ("--connections", str(deaf), "--deaf", "--rcvbuf", str(STUCK_RECEIVE_BYTES))
                others = hub.hellos(deaf, first=people + 1)
                with bench.generator.hold(hub.port, *options, "--subscribe", SUBSCRIBE, hellos=others):
                    load = bench.generator.run(hub.port, *shape, hellos=hellos)
            peak = memory_kib(hub.pid, "VmHWM")
        require_rows(home, load.replies_total)
    return peak, load
