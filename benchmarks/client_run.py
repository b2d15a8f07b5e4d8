"""What the clients in Python share: their clock, their counts, and the line of figures that they print, as load.c does.

They run as scripts, each under the Python of whichever is measured, and so import this as a file beside them.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable


class Wrong(Exception):
    """An answer was not what it should be."""


def require(is_right: bool, what: str) -> None:
    """Raises `Wrong` unless the answer is right."""
    if not is_right:
        raise Wrong(what)


class Measured:
    """What is counted, and when."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.total = 0
        self.times: list[float] = []
        self.measure_from = self.measure_until = 0.0

    def count(self, started: float) -> None:
        """Something that began then is done now."""
        ended = time.perf_counter()
        self.total += 1
        if self.measure_from <= ended < self.measure_until:
            self.times.append(ended - started)

    async def during(self, *work: Awaitable[None]) -> dict[str, float]:
        """The figures of this work, which ends at `measure_until`."""
        self.measure_from = time.perf_counter() + self.options.warmup
        self.measure_until = self.measure_from + self.options.seconds
        share, *_ = await asyncio.gather(self._cpu_share(), *work)
        times = sorted(self.times)
        require(bool(times), "nothing was done in the measured time")
        return {
            "replies_total": self.total,
            "replies_per_s": len(times) / self.options.seconds,
            "p50_us": times[len(times) // 2] * 1e6,
            "p99_us": times[int(len(times) * 0.99)] * 1e6,
            "client_cpu": share,
        }

    async def _cpu_share(self) -> float:
        """How much of a core this process used in the measured time."""
        await asyncio.sleep(self.options.warmup)
        began, busy = time.perf_counter(), time.process_time()
        await asyncio.sleep(self.options.seconds)
        return (time.process_time() - busy) / (time.perf_counter() - began)


def main(
    what: str,
    about: str | None,
    products: tuple[str, ...],
    numbers: tuple[str, ...],
    run: Callable[[argparse.Namespace], Awaitable[dict[str, float]]],
) -> None:
    """The script. numbers: its options that are whole numbers, each 1 when not given."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("product", choices=products)
    parser.add_argument("target", help="HOST:PORT or the path of a Unix socket")
    parser.add_argument("--home", help="of the hub")
    for name in numbers:
        parser.add_argument(name, type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--warmup", type=float, default=0.3)
    options = parser.parse_args()

    async def figures() -> dict[str, float]:
        return await run(options)

    try:
        print(json.dumps(asyncio.run(figures())))
    except Exception as caught:  # noqa: BLE001  # whatever it was ends the run; these are its last words
        error: BaseException = caught
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        print(f"{what}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
