"""What every decision is given beside the state and the command: who asks, when, and by which rules."""

from dataclasses import dataclass

from synapse.errors import Rejected
from synapse.protocol.limits import Limits


@dataclass(slots=True, frozen=True)
class Rules:
    """The hub's settings that decide what is lawful."""

    limits: Limits
    auto_create: bool = True
    create_needs_operator: bool = False


@dataclass(slots=True)
class By:
    """Who asks, over which connection, and when: stamped by the hub, never taken from the client.

    actor: agent name, `operator` or `hub`. agent: its id. home: address used when a message names none.
    at_ms: wall clock, recorded. lease_ms: lease clock, never recorded.
    """

    actor: str
    agent: int | None
    connection: int
    home: str
    at_ms: int
    lease_ms: int
    operator: bool = False

    def require_agent(self) -> int:
        """The agent's id. Raises `Rejected(anonymous)` on an operator connection."""
        if self.agent is None:
            raise Rejected("anonymous", "this needs an agent: connect with a name (--name, or SYNAPSE_NAME)")
        return self.agent

    def require_operator(self, what: str) -> None:
        """Raises `Rejected(not_permitted)` unless this is an operator connection."""
        if not self.operator:
            raise Rejected(
                "not_permitted",
                f"{what} needs an operator connection: the hub's own user on its Unix socket, naming no agent",
            )
