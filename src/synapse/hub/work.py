"""What a turn works on: what waits in the inbox, what one turn has produced so far, and who waits for longer."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from synapse.core.events import Recorded, Row
from synapse.hub.connection import Connection
from synapse.hub.metrics import COMMIT_S, Histogram
from synapse.protocol.codec import Request, RequestId
from synapse.protocol.session import Refusal

Work: TypeAlias = Request | Refusal | Callable[[], None]
"""A request, the refusal of a bad frame, or something the hub itself does inside a turn."""


@dataclass(slots=True, eq=False)
class Waiter:
    """A long poll: answered when something happens, or refused `deadline`. deadline_ms: monotonic clock.

    directed_only: of `inbox.take`. order: who waits for an inbox has a lower one than who came later. recipients: agent
    ids and names, of `receipt.wait`; acked: those of them that had acked before. subscription: of one that takes, which
    stays, up to `most` messages at a time;
    is_reading: what it was lent is on its way from the disk, and comes before anything else.
    """

    connection: Connection
    request_id: RequestId
    deadline_ms: int
    directed_only: bool = False
    order: int = 0
    recipients: dict[int, str] = field(default_factory=dict)
    acked: dict[int, str] = field(default_factory=dict)
    subscription: int = 0
    most: int = 0
    is_reading: bool = False


@dataclass(slots=True)
class Turn:
    """What one turn has produced so far.

    told: events that followers hear of. notices: for single connections. after: what begins once it is released.
    arrived: inboxes that got something, by agent or role. weights: bytes of the longer answers of a connection. sated:
    connections that got as much as one gets in a turn.
    head: the last seq it makes durable.
    """

    rows: list[Row] = field(default_factory=list)
    told: list[Recorded] = field(default_factory=list)
    replies: dict[Connection, list[tuple[int, bytes]]] = field(default_factory=dict)
    notices: list[tuple[Connection, bytes]] = field(default_factory=list)
    closings: list[tuple[Connection, int, str]] = field(default_factory=list)
    after: list[Callable[[], None]] = field(default_factory=list)
    arrived: set[int] = field(default_factory=set)
    weights: dict[Connection, int] = field(default_factory=dict)
    sated: dict[Connection, None] = field(default_factory=dict)
    bytes: int = 0
    at_ms: int = 0
    head: int = 0


@dataclass(slots=True)
class Totals:
    """Counted since this process started, at `started_ms` on the monotonic clock. refused: by error code. commit_s: how
    long commits took."""

    started_ms: int
    connections: int = 0
    commits: int = 0
    requests: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    commit_s: Histogram = field(default_factory=lambda: Histogram(COMMIT_S))
