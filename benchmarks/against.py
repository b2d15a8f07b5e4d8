"""Claims and releases against other products, client against client of the same language, in the same round."""

import sys
from functools import partial

from benchmarks.bench import Bench, clients
from benchmarks.claims import CONNECTIONS, WINDOWS, shape
from benchmarks.generator import SUBSCRIBE_LEASES, Generator, build
from benchmarks.peers import (
    REDIS_CLIENT,
    REDIS_CLIENT_IN_C,
    SYNAPSE_CHANNEL,
    Missing,
    Peer,
    Redis,
    SynapseChannel,
    program,
)
from benchmarks.servers import require_leases


def redis(bench: Bench) -> None:
    """Durable locks of Redis. Promised is what a Python program gets from either product's asynchronous library, over
    Unix sockets on both sides; beside it the same over TCP, and what clients in C get.
    """
    try:
        program("redis-server")
        python, with_hiredis = program(REDIS_CLIENT), program(REDIS_CLIENT_IN_C)
    except Missing as missing:
        bench.note(f"not compared with Redis: {missing}")
        return
    rival = Generator(build("resp"), bench.client_core)
    with bench.home() as home, bench.home() as redis_home:
        acknowledged = appended = 0
        with bench.hub(home) as hub, Redis(redis_home, bench.server_core) as peer:
            tell(bench, "Redis", peer)
            hellos = hub.hellos(CONNECTIONS)
            people = ("--connections", str(CONNECTIONS))
            ours = partial(bench.python_client, sys.executable, "synapse")
            theirs = partial(bench.python_client, python, "redis")
            sides = {
                "redis, Python": (
                    partial(ours, hub.unix_path, "--home", str(home), *people),
                    partial(theirs, str(peer.socket), *people),
                ),
                "redis, hiredis": (
                    partial(ours, hub.unix_path, "--home", str(home), *people, share=0.5),
                    partial(bench.python_client, with_hiredis, "redis", str(peer.socket), *people, share=0.5),
                ),
                "redis, Python TCP": (
                    partial(ours, f"127.0.0.1:{hub.port}", "--home", str(home), *people, share=0.5),
                    partial(theirs, f"127.0.0.1:{peer.port}", *people, share=0.5),
                ),
            }
            for window in WINDOWS:
                plain = (*people, "--window", str(window), *bench.timed(0.5))
                sides[f"redis, C {CONNECTIONS}x{window}"] = (
                    partial(
                        bench.generator.run, hub.port, *shape(bench, CONNECTIONS, window, share=0.5), hellos=hellos
                    ),
                    partial(rival.run, peer.port, *plain),
                )
            for name, both in sides.items():
                durable, other = bench.both_ways(both)
                acknowledged += durable.replies_total
                appended += other.replies_total
                ratio = durable.replies_per_s / other.replies_per_s
                bench.figures.record(name, ratio, round=bench.round, hub=durable.brief(), redis=other.brief())
                bench.say(
                    f"{name}: hub {durable.replies_per_s:,.0f}/s (p99 {durable.p99_us / 1e3:.1f} ms), "
                    f"Redis {other.replies_per_s:,.0f}/s (p99 {other.p99_us / 1e3:.1f} ms), {clients(durable, other)}"
                )
        peer.require_appended(appended)
        require_leases(home, acknowledged)


def announced(bench: Bench) -> None:
    """Every grant and release told to every agent: by synapse-channel unasked, by the hub to those who subscribe."""
    try:
        program(SYNAPSE_CHANNEL)
    except Missing as missing:
        bench.note(f"not compared with synapse-channel: {missing}")
        return
    with bench.home() as home, bench.home() as peer_home:
        acknowledged = kept = 0
        with bench.hub(home) as hub, SynapseChannel(peer_home, bench.server_core) as peer:
            tell(bench, "synapse-channel", peer)
            for agents in (CONNECTIONS, 1):
                options = ("--announced", *shape(bench, agents, 1))
                rival = ("--announced", "--kind", "channel", "--path", "src/mod_#", "--connections", str(agents))
                subscribe = ("--subscribe", SUBSCRIBE_LEASES)
                durable, other = bench.both_ways(
                    [
                        partial(bench.generator.run, hub.port, *options, *subscribe, hellos=hub.hellos(agents)),
                        partial(bench.generator.run, peer.port, *rival, *bench.timed(), hellos=peer.hellos(agents)),
                    ]
                )
                acknowledged += durable.replies_total
                kept += other.replies_total
                name = f"announced {agents}"
                bench.compare(name, durable.replies_per_s / other.replies_per_s, durable, other)
                bench.say(
                    f"{name}: hub {durable.replies_per_s:,.0f}/s and {durable.deliveries_per_s:,.0f} announcements/s "
                    f"(p99 {durable.p99_us / 1e3:.1f} ms), synapse-channel {other.replies_per_s:,.0f}/s and "
                    f"{other.deliveries_per_s:,.0f} (p99 {other.p99_us / 1e3:.1f} ms), {clients(durable, other)}"
                )
        peer.require_events(kept)
        require_leases(home, acknowledged)


def tell(bench: Bench, name: str, peer: Peer) -> None:
    """Say once how the other product was started, and keep it with the settings."""
    if name not in bench.settings:
        bench.settings[name] = peer.told()
        bench.say(f"{name} is {peer.told()}")
