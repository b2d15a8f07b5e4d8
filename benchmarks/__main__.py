"""`python -m benchmarks`, or `make bench`: measure the hub against its baselines and hold it to the gates.

Interleaved rounds; the figure of a gate is the median of its rounds' values, of a search the highest. Writes a JSON
file with everything that was measured and exits 1 when a gate fails, or when an answer, a delivery or a row is missing;
2 when it cannot measure. What is compared with a product that cannot be had here is left out, with a remark.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import (
    against,
    board,
    claims,
    compaction,
    direct,
    machine,
    memory,
    relay,
    servers,
    signals,
    starting,
    traffic,
    values,
)
from benchmarks.bench import Bench
from benchmarks.gates import table
from benchmarks.generator import BUILD, Generator, LoadFailed, build

PARTS: dict[str, Callable[[Bench], None]] = {
    "messages": traffic.messages,
    "claims": claims.claims,
    "live": claims.live,
    "overlap": claims.overlap,
    "values": values.values,
    "board": board.board,
    "redis": against.redis,
    "announced": against.announced,
    "direct": direct.direct,
    "fanout": traffic.fanout,
    "idle": traffic.idle,
    "flush": traffic.flush,
    "replay": starting.replay,
    "connections": memory.connections,
    "stuck": memory.stuck,
    "signals": signals.signals,
    "compaction": compaction.compaction,
    "cli": starting.cli,
    "relay": relay.relay,
}
ROUNDS = 5
ROUNDS_QUICK = 2
OTHERS_MAX = 0.15
"""Cores that other processes, the kernel's own included, may use during a round before it is worth a remark."""


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, help=f"interleaved rounds (default {ROUNDS}, with --quick {ROUNDS_QUICK})"
    )
    parser.add_argument("--quick", action="store_true", help="short measurements, few rounds: a look, not a figure")
    parser.add_argument(
        "--only", action="append", choices=PARTS, metavar="NAME", help=f"one part, may be repeated: {', '.join(PARTS)}"
    )
    parser.add_argument("--seconds", type=float, help="length of one measurement (default 2, with --quick 0.5)")
    parser.add_argument(
        "--dir", type=Path, default=BUILD, help="where homes are made; must lie on a real disk (default: %(default)s)"
    )
    parser.add_argument(
        "--hub",
        default=shlex.join(servers.HUB_COMMAND),
        metavar="COMMAND",
        help="what starts a hub, to compare another one; gets --port and --home (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, default=Path("bench.json"), help="default: %(default)s")
    return parser.parse_args(arguments)


def main() -> int:
    """Run what was asked for; the exit code."""
    options = options_of()
    rounds = options.rounds or (ROUNDS_QUICK if options.quick else ROUNDS)
    server_core, client_core = machine.cores()
    try:
        binary = build()
        options.dir.mkdir(parents=True, exist_ok=True)
        kind = machine.file_system_of(options.dir)
        if kind in machine.IN_MEMORY:
            raise OSError(f"{options.dir} lies on {kind}, where a flush costs nothing: choose another --dir")
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=options.dir))
    bench = Bench(
        folder=folder,
        generator=Generator(binary, client_core),
        server_core=server_core,
        client_core=client_core,
        seconds=options.seconds or (0.5 if options.quick else 2.0),
        warmup_s=0.2 if options.quick else 0.5,
        hub_command=shlex.split(options.hub),
    )
    bench.settings.update(servers.SETTINGS)
    facts = machine.facts(folder)
    pins = "not pinned" if server_core is None else f"server on core {server_core}, client on core {client_core}"
    print(
        f"{', '.join(f'{name} {value}' for name, value in facts.items())}\n{pins}; hub at production defaults but for:"
    )
    print("\n".join(f"  {name}={value}" for name, value in servers.SETTINGS.items()), flush=True)
    failures = run_rounds(bench, options.only or list(PARTS), rounds)
    shutil.rmtree(folder, ignore_errors=True)
    summaries = bench.figures.summaries()
    print(table(summaries))
    for note in bench.notes:
        print(f"note: {note}")
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    report = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv[1:],
        "hub": options.hub,
        "quick": options.quick,
        "rounds": rounds,
        "seconds": bench.seconds,
        "machine": facts,
        "pinned": pins,
        "settings": bench.settings,
        "gates": [
            {
                "name": found.gate.name,
                "what": found.gate.what,
                "unit": found.gate.unit,
                "promise": found.gate.promise,
                "kept": found.is_kept,
                "n": found.n,
                "median": round(found.median, 3),
                "min": round(found.least, 3),
                "max": round(found.most, 3),
            }
            for found in summaries
        ],
        "rounds_in_full": bench.figures.details,
        "cores_used_by_others": bench.others,
        "notes": bench.notes,
        "failures": failures,
    }
    options.output.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(f"written to {options.output}")
    return 0 if summaries and not failures and all(found.is_kept for found in summaries) else 1


def run_rounds(bench: Bench, parts: list[str], rounds: int) -> list[str]:
    """Every part once a round; what went wrong, in words. A part that failed is not run again."""
    failures: list[str] = []
    left = list(dict.fromkeys(parts))
    for turn in range(rounds):
        bench.round = turn
        began, busy, own = time.monotonic(), machine.busy_s(), machine.own_s()
        for name in list(left):
            started = time.monotonic()
            try:
                PARTS[name](bench)
            except (LoadFailed, servers.ServerFailed, OSError, RuntimeError, subprocess.SubprocessError) as error:
                failures.append(f"{name}, round {turn + 1}: {error}")
                bench.say(f"{name} failed after {time.monotonic() - started:.1f} s: {error}")
                left.remove(name)
        others = (machine.busy_s() - busy - (machine.own_s() - own)) / (time.monotonic() - began)
        bench.others.append(round(max(others, 0.0), 2))
        if others > OTHERS_MAX:
            bench.note(f"round {turn + 1} was disturbed: other processes used {others:.2f} cores")
    return failures


if __name__ == "__main__":
    sys.exit(main())
