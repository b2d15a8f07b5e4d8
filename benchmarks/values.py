"""Shared values: 32 agents that put them, against echo of frames of the same size."""

from functools import partial

from benchmarks.bench import Bench, clients
from benchmarks.servers import ServerFailed, baseline, rows_of

CONNECTIONS = 32


def values(bench: Bench) -> None:
    """Durable `kv put` over one connection for each agent, one in flight on each."""
    shape = ("--kind", "value", "--connections", str(CONNECTIONS), "--window", "1", *bench.timed())
    with bench.home() as home:
        with baseline("echo", bench.server_core) as echo, bench.hub(home) as hub:
            bare, durable = bench.both_ways(
                [
                    partial(bench.generator.run, echo.port, "--echo", *shape),
                    partial(bench.generator.run, hub.port, *shape, hellos=hub.hellos(CONNECTIONS)),
                ]
            )
        rows = rows_of(home, "value.put")
    if rows != durable.replies_total:
        raise ServerFailed(f"{durable.replies_total} values were acknowledged, {rows} are in the journal")
    name = f"values {CONNECTIONS}x1"
    bench.compare(name, durable.replies_per_s / bare.replies_per_s, durable, bare)
    bench.say(
        f"{name}: hub {durable.replies_per_s:,.0f}/s (p99 {durable.p99_us / 1e3:,.1f} ms), "
        f"echo {bare.replies_per_s:,.0f}/s (p99 {bare.p99_us / 1e3:,.1f} ms), {clients(durable, bare)}"
    )
