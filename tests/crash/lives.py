"""Processes of a load that are killed and begin anew: `asker-1`, then `asker-1.2`, the second life of that agent."""

import random
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.crash.killing import beside, end, join, spawn

IMMORTAL = ("reader",)
"""Its history goes over all its connections in one life."""


class Lives:
    """The processes, each with its lives. module: of the load, run as HOME RUN NAME SEED WAY. deaths: how many of them
    were killed."""

    def __init__(self, home: Path, run: Path, ways: Mapping[str, str], module: str, seed: int) -> None:
        self.deaths = 0
        self._home, self._run, self._ways = home, run, ways
        self._module, self._seed = module, seed
        self._chance = random.Random(f"{seed}:deaths")
        self._lives: Counter[str] = Counter()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for agent in ways:
            self._begin(agent)

    def _begin(self, agent: str) -> None:
        self._lives[agent] += 1
        life = self._lives[agent]
        name = agent if life == 1 else f"{agent}.{life}"
        words = (str(self._home), str(self._run), name, str(self._seed), self._ways[agent])
        self._processes[agent] = spawn(self._run, name, self._module, *words)

    @contextmanager
    def dying(self) -> Iterator[None]:
        """Meanwhile one after the other is killed, and begins anew."""
        is_over = threading.Event()
        mortal = sorted(agent for agent in self._ways if not agent.startswith(IMMORTAL))

        def kill() -> None:
            while not is_over.wait(self._chance.uniform(0.3, 1.2)):
                agent = self._chance.choice(mortal)
                process = self._processes[agent]
                if process.poll() is not None:
                    return  # `raise_flag` says with which words
                process.kill()
                process.wait()
                self.deaths += 1
                self._begin(agent)

        with beside(kill, is_over):
            yield

    def raise_flag(self, flag: str, *roles: str) -> None:
        """Tell everybody, and wait for those of these roles to end. Raises `Failed` when one does not end well."""
        (self._run / flag).touch()
        for agent, process in self._processes.items():
            if agent.startswith(roles):
                life = self._lives[agent]
                join(self._run, agent if life == 1 else f"{agent}.{life}", process, why=flag)

    def kill(self) -> None:
        end(self._processes.values())


@contextmanager
def lives_of(home: Path, run: Path, ways: Mapping[str, str], module: str, seed: int) -> Iterator[Lives]:
    """The load at work; whoever is left of it at the end is killed."""
    lives = Lives(home, run, ways, module, seed)
    try:
        yield lives
    finally:
        lives.kill()
