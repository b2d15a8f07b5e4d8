"""Runs one seed and says what came of it.

`python -m tests.simulation [--seed N] [--hours H] [--agents N] [--think SECONDS] [--shrink]`

Exits with 1 when a promise broke, with the story of it. `--shrink`: by the fewest agents that still break one.
"""

import argparse
import sys
import time

from tests.simulation.world import Outcome, run


def main(arguments: list[str]) -> int:
    """Run it. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--agents", type=int, default=50)
    parser.add_argument("--think", type=float, default=6.0)
    parser.add_argument("--shrink", action="store_true")
    given = parser.parse_args(arguments)
    began_s = time.process_time()
    outcome = run(given.seed, given.hours, given.agents, think_s=given.think)
    took_s = time.process_time() - began_s
    if outcome.violation is not None and given.shrink:
        outcome = shrunk(outcome, given.think)
    for what, count in sorted(outcome.counts.items()):
        print(f"{count:8}  {what}")
    for what, value in outcome.figures.items():
        print(f"{value:8}  {what}")
    print(
        f"seed {outcome.seed}: {outcome.simulated_s:.0f} s of {outcome.agents} agents in {took_s:.1f} s of one core, "
        f"{outcome.simulated_s / took_s:.0f} times real time, {outcome.steps} steps, trace {outcome.trace}"
    )
    if outcome.violation is not None:
        print(outcome.story)
        return 1
    return 0


def shrunk(outcome: Outcome, think_s: float) -> Outcome:
    """The same seed with the fewest agents of a few numbers that still break something."""
    for agents in (2, 3, 5, 8, 13, 21, 34):
        if agents < outcome.agents:
            fewer = run(outcome.seed, outcome.hours, agents, think_s=think_s)
            if fewer.violation is not None:
                return fewer
    return outcome


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
