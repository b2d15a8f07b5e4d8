"""The long proofs, one table at the end: `python -m tests.prove [PART…]`, or `make prove`.

Each part is the tests of a room that carry the mark `prove` or `figures`. Parts run two at a time, but for those that
measure latencies or their own speed, which run alone. The figures they tell (tests/figures.py) become one table, with
the sums of `TOGETHER` at its end, and prove.json. What a part skips, as a tool is missing, is said with the reason, and
noted in the table. Exits with 1 when a part failed, told nothing, skipped something (under CI), or when a bound is
broken.
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
    "hostile peers": ("tests/hostile/test_siege.py",),
    "simulation": ("tests/simulation/test_simulation.py",),
    "processes": ("tests/crash",),
    "simulated faults": ("tests/simulation/test_controls.py",),
    "storage faults": ("tests/faults",),
    "life cycle": ("tests/lifecycle",),
    "state machine": ("tests/core",),
    "service": ("tests/faces",),
    "power cuts": ("tests/power",),
    "hostile frames": ("tests/hostile/test_fuzz.py", "tests/hostile/test_conformance.py"),
}
"""Longest first, so that two at a time end together."""
SKIPPED = "skipped something, for the reason above"
NOTHING_CHOSEN = 5
"""Exit code of pytest."""
ALONE = frozenset({"hostile peers", "simulation"})
"""Parts that measure how long something takes, or how much of it in a second."""
TOGETHER = {
    "kills of the hub": ("kills of the hub",),
    "power cuts": ("cuts", "cuts of a start after a cut", "cuts during a restore", "cuts during a compaction"),
    "answered operations that kills lost": ("acknowledged and lost",),
    "violations under kills": ("violations",),
}
"""Sums over all parts, by what they are called, of the figures of these names."""
KILLS_MIN = 200
"""Of the hub, where nobody asked for another number."""
KILLS_ASKED = ("CRASH_KILLS", "TEAM_KILLS", "WATCH_KILLS", "CLAIMS_S")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a part ended. summary: the last line of pytest. skipped: what was left out, and why, a line each."""

    part: str
    code: int
    seconds: float
    summary: str
    figures: list[Figure]
    skipped: tuple[str, ...] = ()


def run_part(part: str, folder: Path, chosen: str | None) -> Outcome:
    """Run a part's tests to their end; what they say goes to a file of their own below `folder`. chosen: as -k."""
    told, said = folder / f"{part}.figures", folder / f"{part}.txt"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "prove or figures",
        "--timeout",
        str(MINUTES_MAX * 60),
        "-s",
        *PARTS[part],
    ]
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
    skipped = tuple(line for line in lines if line.startswith("SKIPPED "))
    print("\n".join([f"{part}: {summary}", *skipped]), flush=True)
    return Outcome(part, code, time.monotonic() - started_s, summary, figures, skipped)


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


def row_of(part: str, figure: Figure) -> tuple[str, str, str, str, str]:
    """A row of the table."""
    number = f"{figure.value:,}" if isinstance(figure.value, int) else f"{figure.value:,g}"
    seed = "" if figure.seed is None else f"seed {figure.seed}"
    return (
        part,
        figure.what,
        f"{number} {figure.unit}".strip(),
        figure.bound,
        seed if figure.is_kept else f"BROKEN {seed}".strip(),
    )


def verdict(outcome: Outcome) -> str:
    """What is wrong with a part, or nothing."""
    if outcome.code:
        return f"failed ({outcome.code})"
    if not outcome.figures:
        return "told no figure"
    if os.environ.get("CI") and outcome.skipped:
        return SKIPPED
    return "; ".join(f"{figure.what} broke its bound" for figure in outcome.figures if not figure.is_kept)


def together(outcomes: list[Outcome], *, is_whole: bool) -> list[Figure]:
    """The sums of `TOGETHER`. is_whole: everything ran, as often as it does by default."""
    sums = []
    for name, parts in TOGETHER.items():
        found = [figure for outcome in outcomes for figure in outcome.figures if figure.what in parts]
        value, is_kept = sum(figure.value for figure in found), all(figure.is_kept for figure in found)
        bound = "= 0" if any(figure.bound == "= 0" for figure in found) else ""
        if is_whole and name == "kills of the hub":
            bound, is_kept = f">= {KILLS_MIN}", value >= KILLS_MIN
        if found or bound:
            sums.append(Figure("together", name, value, bound=bound, is_kept=is_kept))
    return sums


def table(outcomes: list[Outcome], sums: list[Figure]) -> str:
    """One row for each figure; the sums come last."""
    rows = [("part", "what", "figure", "promised", "")]
    for outcome in outcomes:
        rows += [row_of(outcome.part, figure) for figure in outcome.figures]
        remark = verdict(outcome) or (SKIPPED if outcome.skipped else "")
        rows.append((outcome.part, "took", f"{outcome.seconds:.0f} s", "", remark))
    rows += [row_of("together", figure) for figure in sums]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def command_of(arguments: list[str]) -> str:
    """What to type for the same run; seeds stand with the figures."""
    words = " ".join(f'"{word}"' if " " in word else word for word in arguments)
    return f"make prove ARGS='{words}'" if words else "make prove"


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
    is_whole = not asked.parts and asked.k is None and not any(name in os.environ for name in KILLS_ASKED)
    sums = together(outcomes, is_whole=is_whole)
    where = machine()
    print(table(outcomes, sums))
    on = ", ".join(f"{name} {value}" for name, value in where.items())
    print(f"{command_of(arguments)}; {on}; {time.monotonic() - started_s:.0f} s in all")
    found = [
        {**msgspec.to_builtins(figure), "part": outcome.part} for outcome in outcomes for figure in outcome.figures
    ] + [msgspec.to_builtins(figure) for figure in sums]
    told = {"command": command_of(arguments), "machine": where, "figures": found}
    asked.output.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    is_good = bool(outcomes) and not any(verdict(outcome) for outcome in outcomes)
    return 0 if is_good and all(figure.is_kept for figure in sums) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
