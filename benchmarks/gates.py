"""What is gated, and how rounds become one figure. Pure: no clock, no process."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Final

AT_LEAST: Final = "at least"
AT_MOST: Final = "at most"
SHOWN: Final = "no promise"


@dataclass(frozen=True, slots=True)
class Gate:
    """One promise: `bound` (at least, at most) `limit`, or a figure that is only shown.

    part: the benchmark that measures it. aim: what we hope for. is_search: each round looks for the highest value anew,
    so the highest of all rounds counts, not the median.
    """

    name: str
    part: str
    bound: str
    limit: float
    what: str
    unit: str = "×"
    aim: float | None = None
    is_search: bool = False

    def holds(self, value: float) -> bool:
        """True when the value keeps the promise, or nothing is promised."""
        if self.bound == SHOWN:
            return True
        return value >= self.limit if self.bound == AT_LEAST else value <= self.limit

    @property
    def promise(self) -> str:
        """The promise in words."""
        if self.bound == SHOWN:
            return f"{SHOWN}, {self.unit}"
        return f"{self.bound} {self.limit:g} {self.unit}" + (f", aim {self.aim:g}" if self.aim is not None else "")


GATES: Final = (
    Gate("messages 32x1", "messages", AT_LEAST, 0.45, "durable messages/s ÷ echo/s, one in flight each", aim=0.65),
    Gate("messages 32x16", "messages", AT_LEAST, 1.0, "durable messages/s ÷ echo/s, 16 in flight each", aim=1.4),
    Gate(
        "claims 32x1", "claims", AT_LEAST, 0.45, "durable claims and releases/s ÷ echo/s, one in flight each", aim=0.65
    ),
    Gate("claims 32x16", "claims", AT_LEAST, 0.9, "durable claims and releases/s ÷ echo/s, 16 in flight each", aim=1.3),
    Gate("live, one prefix", "live", AT_MOST, 3.0, "a claim among 10 000 live leases ÷ among none: src/mod_i/**"),
    Gate("live, no prefix", "live", AT_MOST, 3.0, "a claim among 10 000 live leases ÷ among none: **/x_i"),
    Gate(
        "overlap, typical", "overlap", AT_MOST, 30.0, "one decision about the slowest of ten typical pairs", unit="µs"
    ),
    Gate(
        "overlap, worst",
        "overlap",
        AT_MOST,
        2000.0,
        "one decision about the worst lawful pair found; the highest round counts",
        unit="µs",
        is_search=True,
    ),
    Gate("values 32x1", "values", AT_LEAST, 0.4, "durable `kv put`/s ÷ echo/s, one in flight each"),
    Gate("board", "board", AT_MOST, 3.0, "`synapse board --json` of 10 000 tasks, all pages ÷ a loop that prints them"),
    Gate("declare", "board", AT_MOST, 3.0, "declaring a task among 10 000 with 50 000 dependencies ÷ among none"),
    Gate("redis, Python", "redis", AT_LEAST, 1.2, "claims and releases/s ÷ SET NX and DEL/s, 32x1, Unix sockets"),
    Gate("redis, hiredis", "redis", SHOWN, 0.0, "the same with redis[hiredis], which parses answers in C"),
    Gate("redis, Python TCP", "redis", SHOWN, 0.0, "the same over TCP"),
    Gate("redis, C 32x1", "redis", SHOWN, 0.0, "the same from clients in C, over TCP"),
    Gate("redis, C 32x16", "redis", SHOWN, 0.0, "the same, 16 in flight each"),
    Gate(
        "announced 32", "announced", AT_LEAST, 25.0, "32 agents' claims, each told to all 32 ÷ synapse-channel", aim=50
    ),
    Gate("announced 1", "announced", AT_LEAST, 1.7, "one agent's claims, one in flight ÷ synapse-channel", aim=2.2),
    Gate("direct 32x1", "direct", AT_LEAST, 3.0, "32 pairs' messages, sent, taken and acked ÷ NATS JetStream, 1 each"),
    Gate("direct 32x8", "direct", AT_LEAST, 3.0, "the same, up to 8 on their way in each pair"),
    Gate("direct 32x16", "direct", AT_LEAST, 3.0, "the same, up to 16"),
    Gate("direct 32x32", "direct", AT_LEAST, 3.0, "the same, up to 32"),
    Gate("fan-out 4", "fanout", AT_LEAST, 1.4, "durable deliveries/s to 200 ÷ broadcast, 4 in flight", aim=2.0),
    Gate("fan-out 4 p99", "fanout", AT_MOST, 1.0, "p99 delivery ÷ that of broadcast, 4 in flight"),
    Gate("fan-out 32", "fanout", AT_LEAST, 8.0, "durable deliveries/s to 200 ÷ broadcast, 32 in flight"),
    Gate("fan-out 32 p99", "fanout", AT_MOST, 1.0, "p99 delivery ÷ that of broadcast, 32 in flight"),
    Gate("idle round trip", "idle", AT_MOST, 1.25, "(p50 of a message - p50 of echo) ÷ a FULL commit", unit="commits"),
    Gate("flushes", "flush", AT_LEAST, 1.0, "fdatasync calls seen by strace ÷ messages, one in flight"),
    Gate("replay", "replay", AT_MOST, 2.5, "start to READY without snapshot, less an empty start ÷ bare loop"),
    Gate("idle connection", "connections", AT_MOST, 20.0, "growth of the hub's RSS for each of 1000", unit="KiB"),
    Gate(
        "stuck memory", "stuck", AT_MOST, 1024.0, "growth of the hub's peak RSS for each stuck subscriber", unit="KiB"
    ),
    Gate("stuck p99", "stuck", AT_MOST, 2.0, "p99 delivery to the others ÷ that without stuck subscribers"),
    Gate("signals p99", "signals", AT_MOST, 2.0, "p99 of a message beside a flood of signals ÷ that without"),
    Gate("signals rate", "signals", AT_LEAST, 0.8, "durable messages/s beside a flood of signals ÷ those without"),
    Gate("signals fan-out", "signals", SHOWN, 0.0, "signals delivered by two senders to 20 who follow", unit="/s"),
    Gate("compaction p99", "compaction", AT_MOST, 2.0, "p99 of a message beside a compaction ÷ that without"),
    Gate("send", "cli", AT_MOST, 2.2, "`synapse send`, reply included ÷ `python -c pass`", aim=1.7),
    Gate("help", "cli", AT_MOST, 2.2, "`synapse --help` ÷ `python -c pass`", aim=1.7),
    Gate("relay", "relay", AT_LEAST, 2.0, "an hour of a fleet in full lines of JSON ÷ in the relay's form"),
)
"""What is measured, and what of it is promised."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One gate after all rounds."""

    gate: Gate
    n: int
    median: float
    least: float
    most: float

    @property
    def is_kept(self) -> bool:
        """True when the median, of a search the highest value, keeps the promise."""
        return self.gate.holds(self.most if self.gate.is_search else self.median)


@dataclass(slots=True)
class Figures:
    """Values by gate, one a round, with what they were made of."""

    values: dict[str, list[float]] = field(default_factory=dict)
    details: list[dict[str, object]] = field(default_factory=list)

    def record(self, gate: str, value: float, **detail: object) -> None:
        """Keep one round's value. The gate must exist."""
        assert any(known.name == gate for known in GATES), f"no gate {gate}"
        self.values.setdefault(gate, []).append(value)
        self.details.append({"gate": gate, "value": value, **detail})

    def summaries(self) -> list[Summary]:
        """Each measured gate, in the table's order."""
        return [summary(gate, self.values[gate.name]) for gate in GATES if gate.name in self.values]


def summary(gate: Gate, values: Iterable[float]) -> Summary:
    """Median, least and most of at least one value."""
    found = sorted(values)
    return Summary(gate, len(found), median(found), found[0], found[-1])


def table(summaries: Iterable[Summary]) -> str:
    """One line a gate, for people."""
    lines = [f"{'gate':<17} {'median':>8} {'min':>8} {'max':>8} {'n':>3}  promise"]
    for entry in summaries:
        gate = entry.gate
        verdict = "    " if gate.bound == SHOWN else "ok  " if entry.is_kept else "FAIL"
        lines.append(
            f"{gate.name:<17} {entry.median:>8.2f} {entry.least:>8.2f} {entry.most:>8.2f} {entry.n:>3}  "
            f"{verdict} {gate.promise}: {gate.what}"
        )
    return "\n".join(lines)
