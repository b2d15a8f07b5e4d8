"""Claims and releases: against echo, among ten thousand live leases, and the cost of one decision.

Each connection claims and releases tasks of its own, whose scopes overlap nobody else's. The claim and the release are
two operations, each durable before it is answered.
"""

from functools import partial

from benchmarks import scopes
from benchmarks.bench import Bench, clients
from benchmarks.generator import Load
from benchmarks.machine import pinned
from benchmarks.servers import baseline, require_leases

CONNECTIONS = 32
WINDOWS = (1, 16)
LIVE = 10_000
WORKTREE = "bench:/example/repository"
SHARED_PREFIX = "src/mod_#/**"
FAMILIES = {"live, one prefix": SHARED_PREFIX, "live, no prefix": "**/x_#"}
"""The scope of task number #, of the live leases and of the measured claims alike."""


def shape(
    bench: Bench, connections: int, window: int, path: str = SHARED_PREFIX, share: float = 1.0
) -> tuple[str, ...]:
    """The generator's options for claims and releases in turn, `window` tasks at a time on each connection."""
    people = ("--connections", str(connections), "--window", str(window))
    return ("--kind", "claim", "--worktree", WORKTREE, "--path", path, *people, *bench.timed(share))


def claims(bench: Bench) -> None:
    """32 agents that claim and release, against echo of the same frames."""
    with bench.home() as home:
        acknowledged = 0
        with baseline("echo", bench.server_core) as echo, bench.hub(home) as hub:
            hellos = hub.hellos(CONNECTIONS)
            for window in WINDOWS:
                options = shape(bench, CONNECTIONS, window)
                bare, durable = bench.both_ways(
                    [
                        partial(bench.generator.run, echo.port, "--echo", *options),
                        partial(bench.generator.run, hub.port, *options, hellos=hellos),
                    ]
                )
                acknowledged += durable.replies_total
                name = f"claims {CONNECTIONS}x{window}"
                bench.compare(name, durable.replies_per_s / bare.replies_per_s, durable, bare)
                bench.say(
                    f"{name}: hub {durable.replies_per_s:,.0f}/s (p99 {durable.p99_us / 1e3:,.1f} ms), "
                    f"echo {bare.replies_per_s:,.0f}/s (p99 {bare.p99_us / 1e3:,.1f} ms), {clients(durable, bare)}"
                )
        require_leases(home, acknowledged)


def live(bench: Bench) -> None:
    """Claims and releases on a hub with 10 000 live leases, against a hub with none. Time for each, so hub core ÷ rate:
    with 16 in flight on each of 32 connections the processor is what limits both.
    """
    for name, path in FAMILIES.items():
        with bench.home() as home, bench.home() as full_home:
            with bench.hub(home) as hub, bench.hub(full_home) as full:
                full.fill(LIVE, WORKTREE, path)
                options = shape(bench, CONNECTIONS, WINDOWS[-1], path, share=0.5)
                loads: list[Load] = bench.both_ways(
                    [
                        partial(bench.generator.run, hub.port, *options, hellos=hub.hellos(CONNECTIONS)),
                        partial(bench.generator.run, full.port, *options, hellos=full.hellos(CONNECTIONS)),
                    ]
                )
            empty, among = loads
            require_leases(home, empty.replies_total)
            require_leases(full_home, among.replies_total, filled=LIVE)
        bench.compare(name, empty.replies_per_s / among.replies_per_s, among, empty)
        bench.say(
            f"{name}: {1e6 / among.replies_per_s:.1f} µs for a claim or release among {LIVE:,} live leases, "
            f"{1e6 / empty.replies_per_s:.1f} µs among none, {clients(among, empty)}"
        )


def overlap(bench: Bench) -> None:
    """One decision whether two patterns overlap: typical pairs, and the worst lawful pair that a search finds."""
    with pinned(bench.server_core):
        found = scopes.measure()
    bench.figures.record("overlap, typical", found.typical_us, round=bench.round)
    bench.figures.record("overlap, worst", found.worst_us, round=bench.round, pair=found.worst, folded=found.folded)
    bench.say(f"overlap: typical {found.typical_us:.1f} µs, worst found {found.worst_us:,.0f} µs")
