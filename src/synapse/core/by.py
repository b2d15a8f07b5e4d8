"""What every decision is given beside the state and the command: who asks, when, and by which rules."""

from dataclasses import dataclass
from typing import Final

from synapse.errors import Rejected
from synapse.protocol.limits import Limits
from synapse.protocol.terms import ADMIN, AGENT, HUMAN, ROLES

_WAYS: Final = {
    AGENT: "an agent: a token of the role agent (synapse token create --role agent)",
    HUMAN: "a person: a token of the role human (synapse token create --role human), or an operator connection",
    ADMIN: "an operator connection: the hub's own user on its Unix socket, naming no agent; or a token of the role "
    "admin (synapse token create --role admin)",
}
"""What gives a role to who asks."""


@dataclass(slots=True, frozen=True)
class Rules:
    """The hub's settings that decide what is lawful. person: the agent's name under which the hub's own user acts on
    this machine where none is given."""

    limits: Limits
    auto_create: bool = True
    create_needs_operator: bool = False
    person: str | None = None


@dataclass(slots=True)
class By:
    """Who asks, over which connection, and when: stamped by the hub, never taken from the client.

    actor: agent name, `operator` or `hub`. agent: its id. home: address used when a message names none.
    at_ms: wall clock, recorded. lease_ms: lease clock, never recorded. role: what its token allows. rooms: the only
    ones that its token grants, None for all. token: its id, None for the hub's own and where none is needed.
    """

    actor: str
    agent: int | None
    connection: int
    home: str
    at_ms: int
    lease_ms: int
    operator: bool = False
    role: str = AGENT
    rooms: frozenset[str] | None = None
    token: int | None = None

    def require_agent(self) -> int:
        """The agent's id. Raises `Rejected`: `not_permitted` for an observer, `anonymous` for an operator."""
        if self.agent is None:
            self.require_role(AGENT, "this")
            raise Rejected("anonymous", "this needs an agent: connect with a name (--name, or SYNAPSE_NAME)")
        return self.agent

    def has_role(self, role: str) -> bool:
        """True when what this one may do includes what that role may do."""
        return self.operator or ROLES.index(self.role) >= ROLES.index(role)

    def require_role(self, needed: str, what: str) -> None:
        """Raises `Rejected(not_permitted)`, with both roles in its facts, unless this one's includes what is needed."""
        if not self.has_role(needed):
            raise Rejected(
                "not_permitted",
                f"{what} needs {_WAYS[needed]}; this one has the role {self.role}",
                {"role": self.role, "needed": needed},
            )

    def require_all_rooms(self, what: str) -> None:
        """Raises `Rejected(not_permitted)` for a token that is for some rooms only."""
        if self.rooms is not None:
            rooms = sorted(self.rooms)
            raise Rejected(
                "not_permitted",
                f"{what} is of the whole hub, and this token is for {', '.join(rooms)} only",
                {"rooms": rooms},
            )

    def require_room(self, room: str, what: str) -> None:
        """Raises `Rejected(not_permitted)` for a token that is for some rooms only, and not for this one."""
        if self.rooms is not None and room not in self.rooms:
            rooms = sorted(self.rooms)
            why = f"{what}, and this token is for {', '.join(rooms)} only: an operator can do it"
            raise Rejected("not_permitted", why, {"rooms": rooms})

    def require_human(self, what: str) -> None:
        """Raises `Rejected(not_permitted)` unless this is a person: a token of role human or admin, or an operator."""
        self.require_role(HUMAN, what)

    def require_operator(self, what: str) -> None:
        """Raises `Rejected(not_permitted)` unless this is an operator connection, or has a token of role admin."""
        self.require_role(ADMIN, what)
