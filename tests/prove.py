"""The long proofs, one table at the end: `python -m tests.prove [PART…]`, or `make prove`.

Each part is the tests of a room that carry the mark `prove`. Parts run two at a time, but for those that measure
latencies or their own speed, which run alone. The figures they tell (tests/figures.py) become one table, and
prove.json. Exits with 1 when a part failed, told nothing, was skipped (under CI), or when a bound is broken.
"""

import argparse
import json
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import msgspec
from tests.figures import Figure

ROOT = Path(__file__).resolve().parents[1]
MINUTES_MAX = 60
PARTS = {
    "hostile peers": "tests/hostile",
    "simulation": "tests/simulation/test_simulation.py",
    "processes": "tests/crash",
    "simulated faults": "tests/simulation/test_controls.py",
    "storage faults": "tests/faults",
    "life cycle": "tests/lifecycle",
    "state machine": "tests/core",
    "service": "tests/faces",
    "power cuts": "tests/power",
}
"""Longest first, so that two at a time end together."""
NOTHING_CHOSEN = 5
"""Exit code of pytest."""
ALONE = frozenset({"hostile peers", "simulation"})
"""Parts that measure how long something takes, or how much of it in a second."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a part ended. summary: the last line of pytest."""

    part: str
    code: int
    seconds: float
    summary: str
    figures: list[Figure]


def run_part(part: str, folder: Path, chosen: str | None) -> Outcome:
    """Run a part's tests to their end; what they say goes to a file of their own below `folder`. chosen: as -k."""
    told, said = folder / f"{part}.figures", folder / f"{part}.txt"
    command = [sys.executable, "-m", "pytest", "-m", "prove", "--timeout", str(MINUTES_MAX * 60), "-s", PARTS[part]]
    command += [] if chosen is None else ["-k", chosen]
    started_s = time.monotonic()
    with said.open("wb") as output:
        environment = {**os.environ, "PROVE_FIGURES": str(told)}
        code = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=output, check=False).returncode
    lines = said.read_text("utf-8", "replace").splitlines()
    figures = (
        [msgspec.json.decode(line, type=Figure) for line in told.read_bytes().splitlines()] if told.exists() else []
    )
    if code not in (0, NOTHING_CHOSEN):
        print("\n".join(lines[-60:]), flush=True)
    summary = lines[-1].strip("= ") if lines else "it said nothing"
    print(f"{part}: {summary}", flush=True)
    return Outcome(part, code, time.monotonic() - started_s, summary, figures)


def machine() -> dict[str, str | int]:
    """What it was measured on."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "synapse": version("synapse-hub"),
    }


def verdict(outcome: Outcome) -> str:
    """What is wrong with a part, or nothing."""
    if outcome.code:
        return f"failed ({outcome.code})"
    if not outcome.figures:
        return "told no figure"
    if os.environ.get("CI") and "skipped" in outcome.summary:
        return "skipped something"
    return "; ".join(f"{figure.what} broke its bound" for figure in outcome.figures if not figure.is_kept)


def table(outcomes: list[Outcome]) -> str:
    """One row for each figure."""
    rows = [("part", "what", "figure", "promised", "")]
    for outcome in outcomes:
        for figure in outcome.figures:
            value = f"{figure.value:,g} {figure.unit}".strip()
            seed = "" if figure.seed is None else f"seed {figure.seed}"
            rows.append((outcome.part, figure.what, value, figure.bound, seed if figure.is_kept else f"BROKEN {seed}"))
        rows.append((outcome.part, "took", f"{outcome.seconds:.0f} s", "", verdict(outcome)))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def main(arguments: list[str]) -> int:
    """Run the parts. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="make prove", description="Run the long proofs.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("-k", metavar="WORDS", help="only the tests whose names fit, as pytest has it")
    parser.add_argument("--output", type=Path, default=Path("prove.json"), help="default: %(default)s")
    asked = parser.parse_args(arguments)
    unknown = [part for part in asked.parts if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; there are: {', '.join(PARTS)}")
    parts = asked.parts or list(PARTS)
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="synapse-prove-") as folder:
        run = partial(run_part, folder=Path(folder), chosen=asked.k)
        outcomes = [run(part) for part in parts if part in ALONE]
        with ThreadPoolExecutor(2) as pool:
            outcomes += pool.map(run, [part for part in parts if part not in ALONE])
    if asked.k is not None:
        outcomes = [outcome for outcome in outcomes if outcome.code != NOTHING_CHOSEN]
    where = machine()
    print(table(outcomes))
    print(
        f"{', '.join(f'{name} {value}' for name, value in where.items())}; {time.monotonic() - started_s:.0f} s in all"
    )
    found = [
        {**msgspec.to_builtins(figure), "part": outcome.part} for outcome in outcomes for figure in outcome.figures
    ]
    asked.output.write_text(json.dumps({"machine": where, "figures": found}, indent=1) + "\n", encoding="utf-8")
    return 1 if not outcomes or any(verdict(outcome) for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
