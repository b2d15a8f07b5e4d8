"""What `GET /metrics` tells, in the text format of Prometheus (0.0.4). Names carry no agent, room or task: only what
there are few of, error codes, is a label.
"""

from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from synapse.hub.turn import Turns
    from synapse.protocol.signal_replies import SignalCounts

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
COMMIT_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Upper ends of the buckets for commits: from a fast disk's flush to the second from which leases stand still."""


class Histogram:
    """Counts by upper bound, with their sum."""

    __slots__ = ("_counts", "_ends", "sum")

    def __init__(self, ends: tuple[float, ...]) -> None:
        self._ends = ends
        self._counts = [0] * (len(ends) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._ends, value)] += 1
        self.sum += value

    def lines(self, name: str) -> Iterator[str]:
        """As Prometheus wants it: each bucket holds the ones below it too."""
        total = 0
        for end, count in zip((*map(str, self._ends), "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{end}"}} {total}'
        yield f"{name}_sum {self.sum:.6f}"
        yield f"{name}_count {total}"


def render(turns: "Turns") -> bytes:
    """The whole page."""
    return ("\n".join(_page(turns)) + "\n").encode()


def _page(turns: "Turns") -> Iterator[str]:
    status, totals = turns.status(), turns.totals
    counts = status.counts
    yield from _metric("info", "gauge", "What runs: always 1.", f'{{version="{status.version}"}} 1')
    for name, text, value in (
        ("healthy", "1 while the hub is green, as /health says.", int(status.health == "green")),
        ("read_only", "1 while the disk is full and writes are refused.", int(status.read_only)),
        ("uptime_seconds", "Since the start of the process.", status.uptime_ms / 1000),
        ("connections", "Open connections.", counts.connections),
        ("slow_connections", "Connections that do not read what the hub has for them.", status.stuck),
        ("outbox_bytes", "Bytes that wait in all outboxes together.", turns.peers.outbox_bytes),
        ("inbox_requests", "Requests that wait for a turn.", turns.waiting_for_turn),
        ("waiting_requests", "Long polls that wait for something to happen.", counts.waiting),
        ("agents", "Known agents.", counts.agents),
        ("agents_online", "Agents with a lasting connection.", counts.online),
        ("rooms", "Rooms.", counts.rooms),
        ("channels", "Channels.", counts.channels),
        ("subscriptions", "Open subscriptions.", counts.subscriptions),
        ("leases", "Live leases.", counts.leases),
        ("claims_waiting", "Claims that wait in line.", counts.claims_waiting),
        ("journal_bytes", "Size of the journal on disk.", status.journal_bytes),
        ("journal_unverified_events", "Events not proved yet since the start.", _unverified(turns)),
        (
            "lease_clock_lag_seconds",
            "How long the lease clock stood still for stalls.",
            status.lease_clock_lag_ms / 1000,
        ),
    ):
        yield from _metric(name, "gauge", text, f" {value}")
    for name, text, value in (
        ("connections_opened_total", "Connections since the start.", counts.connections_total),
        ("requests_total", "Requests carried out or refused since the start.", totals.requests),
        ("commits_total", "Commits since the start.", totals.commits),
        ("journal_events_total", "Events in the journal.", counts.events),
        ("messages_total", "Messages in the journal.", counts.messages),
        ("clock_jumps_total", "How often the wall clock was set since the start.", status.clock_jumps),
    ):
        yield from _metric(name, "counter", text, f" {value}")
    refused = [f'{{code="{code}"}} {count}' for code, count in sorted(totals.refused.items())]
    yield from _metric("refusals_total", "counter", "Refused requests since the start, by error code.", *refused)
    yield from _told_and_not_kept(status.signals)
    yield "# HELP synapse_commit_seconds From the end of a turn until it is durable."
    yield "# TYPE synapse_commit_seconds histogram"
    yield from totals.commit_s.lines("synapse_commit_seconds")


def _told_and_not_kept(counts: "SignalCounts") -> Iterator[str]:
    dropped = {"signal": counts.dropped, "typing": counts.typing_dropped, "activity": counts.activity_dropped}
    for name, text, value in (
        ("signals_total", "Signals sent since the start.", counts.sent),
        ("signal_deliveries_total", "Signals delivered since the start, to each who follows.", counts.delivered),
        ("signals_shed_total", "Signals not sent, because one connection had too many at once.", counts.shed),
        ("typing_total", "Notices of typing delivered since the start.", counts.typing),
        ("typing_swallowed_total", "Typing that was said again too soon.", counts.typing_swallowed),
        ("activity_total", "Notices of activity delivered since the start.", counts.activity),
    ):
        yield from _metric(name, "counter", text, f" {value}")
    samples = [f'{{kind="{kind}"}} {count}' for kind, count in dropped.items()]
    yield from _metric("signals_dropped_total", "counter", "What followers did not get, by kind.", *samples)


def _metric(name: str, kind: str, text: str, *samples: str) -> Iterator[str]:
    yield f"# HELP synapse_{name} {text}"
    yield f"# TYPE synapse_{name} {kind}"
    for sample in samples:
        yield f"synapse_{name}{sample}"


def _unverified(turns: "Turns") -> int:
    """Those that were there at the start; what came since was made here."""
    return 0 if turns.verified_through > turns.log.base else turns.events_at_start
