"""One peer as the turn sees it: its conversation, who it is, and what waits to be written to it."""

from collections import deque
from typing import TYPE_CHECKING, NoReturn, Protocol

from synapse.core.by import By
from synapse.hub.buckets import Bucket
from synapse.protocol.codec import Request
from synapse.protocol.commands import TYPE_OF, Command
from synapse.protocol.roles import ALLOWED, ROLE_OF
from synapse.protocol.session import Session
from synapse.protocol.terms import OBSERVER

if TYPE_CHECKING:
    from collections.abc import Callable

    from synapse.hub.feeds import Subscription


class Wire(Protocol):
    """What carries a connection's frames. `write` never blocks; the buffer behind it is watched by the connection."""

    def frame(self, payload: bytes) -> bytes:
        """The payload as it goes onto this wire."""
        ...

    def write(self, data: bytes) -> None:
        """Send framed bytes, now or as soon as the peer reads."""
        ...

    def buffered(self) -> int:
        """Bytes written and not yet taken by the operating system."""
        ...

    def hold_reading(self, *, hold: bool) -> None:
        """Stop or go on reading from the peer."""
        ...

    def close(self, code: int, reason: str) -> None:
        """Say goodbye and close once the buffer is written."""
        ...

    def abort(self) -> None:
        """Cut the connection now."""
        ...


class Connection:
    """A peer. is_owner: it is the hub's own user on the Unix socket. kind: which framing, for shared frames.

    pace: the bucket that it asked too much of, and slice: how many tokens it may use until its next turn.
    allowed: the commands of its role. bearer: the token of its handshake, until the hello. bulk_bytes: of its requests
    in flight, what the large ones hold.
    """

    __slots__ = (
        "agent",
        "agent_bucket",
        "allowed",
        "bearer",
        "bulk_bytes",
        "by",
        "deferred",
        "host",
        "host_bucket",
        "id",
        "in_flight",
        "is_closed",
        "is_held",
        "is_owner",
        "is_reading_disk",
        "is_stuck",
        "kind",
        "opened_ms",
        "pace",
        "postponed",
        "session",
        "slice",
        "stuck_bytes",
        "stuck_since_ms",
        "subscriptions",
        "waiting",
        "wire",
    )

    def __init__(
        self,
        connection_id: int,
        wire: Wire,
        session: Session,
        *,
        kind: str,
        host: str,
        host_bucket: Bucket,
        opened_ms: int,
        is_owner: bool,
        bearer: str | None = None,
    ) -> None:
        self.id = connection_id
        self.wire = wire
        self.session = session
        self.kind = kind
        self.host = host
        self.is_owner = is_owner
        self.bearer = bearer
        self.opened_ms = opened_ms
        self.allowed = ALLOWED[OBSERVER]  # until its hello
        self.by = By("", None, connection_id, "", 0, 0)
        self.agent: str | None = None
        self.is_closed = False
        self.is_held = False
        self.is_stuck = False
        self.stuck_since_ms = 0
        self.stuck_bytes = 0
        self.in_flight = 0
        self.waiting = 0
        self.bulk_bytes = 0
        self.pace: Bucket | None = None
        self.slice = 0
        self.agent_bucket: Bucket | None = None
        self.host_bucket = host_bucket
        self.is_reading_disk = False
        self.deferred: deque[Callable[[], None]] = deque()
        self.postponed: deque[Request] = deque()
        self.subscriptions: dict[int, Subscription] = {}

    def told(self, seq: int) -> int:
        """A position as this peer may hear of it: before its welcome it is told nothing of the fleet."""
        return seq if self.by.actor else 0

    def refuse(self, kind: type[Command]) -> NoReturn:
        """Raises `Rejected(not_permitted)` for a command that is not among those allowed."""
        name = TYPE_OF[kind]
        self.by.require_role(ROLE_OF[name][0], name)
        raise AssertionError(f"{name} is allowed to the role {self.by.role}, and not to this connection")
