"""What every part gets: the machine's cores, a place on a real disk, the generator, and where figures go."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarks.gates import Figures
from benchmarks.generator import CLIENT_CPU_MAX, Generator, Load, load_of
from benchmarks.servers import HUB_COMMAND, Hub

_Result = TypeVar("_Result")


@dataclass(slots=True)
class Bench:
    """One run of the benchmarks. seconds, warmup_s: of each single measurement. round: counts from 0.

    others: for each round, how many cores other processes used.
    """

    folder: Path
    generator: Generator
    server_core: int | None
    client_core: int | None
    seconds: float
    warmup_s: float
    hub_command: Sequence[str] = HUB_COMMAND
    round: int = 0
    figures: Figures = field(default_factory=Figures)
    others: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settings: dict[str, object] = field(default_factory=dict)

    @contextlib.contextmanager
    def home(self) -> Iterator[Path]:
        """A fresh directory on the measured disk, removed afterwards."""
        path = Path(tempfile.mkdtemp(prefix="home-", dir=self.folder))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def hub(self, home: Path) -> Hub:
        """A hub on the server's core."""
        return Hub(home, self.server_core, self.hub_command)

    def both_ways(self, sides: Sequence[Callable[[], _Result]]) -> list[_Result]:
        """Call each side, in turned order on every second round; results in the order given."""
        order = list(range(len(sides)))
        if self.round % 2:
            order.reverse()
        found = {at: sides[at]() for at in order}
        return [found[at] for at in range(len(sides))]

    def timed(self, share: float = 1.0) -> tuple[str, ...]:
        """The generator's options for how long it measures. share: less than 1 where less will do."""
        return ("--seconds", str(self.seconds * share), "--warmup", str(self.warmup_s))

    def python_client(
        self, python: str | Path, *options: str, share: float = 1.0, script: str = "python_client.py"
    ) -> Load:
        """Run a client in Python under the Python of a product's environment. script: beside this file."""
        script = str(Path(__file__).with_name(script))
        return load_of([str(python), script, *options, *self.timed(share)], self.client_core)

    def check_client(self, what: str, load: Load) -> None:
        """Say so when the client was the limit: the figure then says little about the server."""
        if load.client_cpu > CLIENT_CPU_MAX:
            self.note(f"{what}: the client used {load.client_cpu:.0%} of its core and may be the limit")

    def compare(self, name: str, ratio: float, measured: Load, other: Load) -> None:
        """Record one round's ratio of a gate with both loads it was made of."""
        self.check_client(name, measured)
        self.check_client(f"{name} (baseline)", other)
        self.figures.record(name, ratio, round=self.round, hub=measured.brief(), baseline=other.brief())

    def note(self, text: str) -> None:
        """A remark for the end of the report."""
        if text not in self.notes:
            self.notes.append(text)

    def say(self, text: str) -> None:
        """A line of progress."""
        print(f"  round {self.round + 1}: {text}", flush=True)


def clients(measured: Load, other: Load) -> str:
    """How busy the client was on either side, in words."""
    return f"client cpu {measured.client_cpu:.0%}/{other.client_cpu:.0%}"
