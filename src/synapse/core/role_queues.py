"""Role addresses: `role:NAME` is a queue that several agents take from. What is sent to it is stored once, and lent to
one connection of one member at a time.

A role's queue is an inbox under the role's id, so that lending, returning and dying are those of `inboxes`. A member
takes from its own inbox and from the queues of its roles in one order. What is lent may be acked by the agent that has
it, what is not lent by any member.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

from synapse.core.agents import near
from synapse.core.by import By, Rules
from synapse.core.events import Delivery, Event, Recorded
from synapse.core.inboxes import Inbox
from synapse.core.role_events import RoleCreated, RoleDeleted, RoleEvent, RoleJoined, RoleLeft
from synapse.errors import Rejected
from synapse.protocol.names import require_segment
from synapse.protocol.role_commands import DeleteRole, JoinRole, LeaveRole

if TYPE_CHECKING:
    from synapse.core.state import State

PREFIX: Final = "role:"
"""What an address of a role begins with."""


@dataclass(slots=True)
class Role:
    """One role. id: seq of its creation, under which its queue lies among the inboxes. members: agent ids."""

    id: int
    name: str
    created_at_ms: int
    created_by: str
    members: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Roles:
    """All roles, and which ones an agent is a member of."""

    by_id: dict[int, Role] = field(default_factory=dict)
    by_name: dict[str, Role] = field(default_factory=dict)
    of_agent: dict[int, set[int]] = field(default_factory=dict)

    def add(self, role: Role) -> None:
        """Put a role in place, with its members."""
        assert role.name not in self.by_name, "a name is taken once"
        self.by_id[role.id] = role
        self.by_name[role.name] = role
        for agent in role.members:
            self.of_agent.setdefault(agent, set()).add(role.id)

    def remove(self, role_id: int) -> None:
        """A role is no more."""
        role = self.by_id.pop(role_id)
        assert not role.members, "who is a member leaves first"
        del self.by_name[role.name]

    def join(self, role_id: int, agent: int) -> None:
        """An agent becomes a member."""
        self.by_id[role_id].members.add(agent)
        self.of_agent.setdefault(agent, set()).add(role_id)

    def leave(self, role_id: int, agent: int) -> None:
        """An agent is no member any more."""
        self.by_id[role_id].members.discard(agent)
        left = self.of_agent[agent]
        left.discard(role_id)
        if not left:
            del self.of_agent[agent]

    def forget(self, agent: int) -> None:
        """An agent is no more."""
        for role_id in self.of_agent.pop(agent, ()):
            self.by_id[role_id].members.discard(agent)


def is_role(address: str) -> bool:
    """True for `role:…`, whatever follows."""
    return address.startswith(PREFIX)


def role_name_in(address: str) -> str:
    """The name in `role:NAME`. Raises `Rejected(bad_name)`."""
    return require_segment(address.removeprefix(PREFIX), "role")


def require_role(state: "State", name: str, cure: str = "synapse role join {} makes it") -> Role:
    """The role of that name. cure: what to do where there is none. Raises `Rejected`: `bad_name`, `not_found`."""
    role = state.roles.by_name.get(require_segment(name, "role"))
    if role is None:
        close = near(name, state.roles.by_name)
        hint = f" (near: {', '.join(close)})" if close else ""
        raise Rejected(
            "not_found",
            f"there is no role {name}{hint}: synapse role list shows them, {cure.format(name)}",
            {"role": name, "near": close},
        )
    return role


def require_room_for_role(state: "State", rules: Rules) -> None:
    """Raises `Rejected(limit)` when one more role is too many."""
    have, most = len(state.roles.by_id), rules.limits.roles_max
    if have >= most:
        raise Rejected(
            "limit",
            f"there are {have} roles of {most} (roles_max): an operator can delete empty ones (synapse role delete "
            "NAME)",
            {"limit": "roles_max", "value": most},
        )


def arrival_for(state: "State", rules: Rules, address: str, *, create: bool) -> tuple[list[Event], Delivery]:
    """What one message to `role:NAME` becomes: the role itself where `create` makes it, and the arrival in its queue.
    Raises `Rejected`: `bad_name`, `not_found`, `inbox_full`, `limit`."""
    name = role_name_in(address)
    if create and name not in state.roles.by_name:
        require_room_for_role(state, rules)
        return [RoleCreated(name=name)], Delivery(address, state.seq + 1, 1)
    cure = "synapse role join {0} makes it, and --create sends to a role that nobody has joined yet"
    role = require_role(state, name, cure)
    queue, most = state.agents.inboxes[role.id], rules.limits.inbox_unacked_max
    if queue.unacked >= most:
        raise Rejected(
            "inbox_full",
            f"{address} has {most} unacked messages: its {len(role.members)} members must take and ack some first "
            "(synapse wait, synapse inbox)",
            {"role": name, "members": len(role.members), "inbox_unacked_max": most},
        )
    return [], Delivery(address, role.id, queue.last_n + 1)


RoleMutation: TypeAlias = JoinRole | LeaveRole | DeleteRole


def decide_role(state: "State", rules: Rules, command: RoleMutation, by: By) -> list[Event]:
    """The roles' part of `kernel.decide`."""
    by.require_all_rooms("a role")
    match command:
        case JoinRole():
            return decide_join(state, rules, command, by)
        case LeaveRole():
            return decide_leave(state, command, by)
        case DeleteRole():
            return decide_delete(state, command, by)
        case _:
            assert_never(command)


def decide_join(state: "State", rules: Rules, command: JoinRole, by: By) -> list[Event]:
    """Membership of a role, made with the first member."""
    agent, limits = by.require_agent(), rules.limits
    name = require_segment(command.role, "role")
    role = state.roles.by_name.get(name)
    if role is not None and agent in role.members:
        return []
    mine = state.roles.of_agent.get(agent, ())
    if len(mine) >= limits.roles_per_agent_max:
        raise Rejected(
            "limit",
            f"{by.actor} is in {len(mine)} roles, as many as allowed (roles_per_agent_max): leave one first",
            {"limit": "roles_per_agent_max", "value": limits.roles_per_agent_max},
        )
    if role is None:
        require_room_for_role(state, rules)
        return [RoleCreated(name=name), RoleJoined(role=state.seq + 1, name=name, agent=agent)]
    if len(role.members) >= limits.members_max:
        raise Rejected(
            "limit",
            f"role {name} has {limits.members_max} members, as many as allowed (members_max)",
            {"limit": "members_max", "value": limits.members_max},
        )
    return [RoleJoined(role=role.id, name=name, agent=agent)]


def decide_leave(state: "State", command: LeaveRole, by: By) -> list[Event]:
    """Out of a role; what waits in its queue stays there."""
    agent = by.require_agent()
    role = require_role(state, command.role)
    return [RoleLeft(role=role.id, name=role.name, agent=agent)] if agent in role.members else []


def decide_delete(state: "State", command: DeleteRole, by: By) -> list[Event]:
    """An empty role goes. Raises `Rejected`: `not_found`, `not_empty`."""
    by.require_operator("deleting a role")
    role = require_role(state, command.role)
    entries = state.agents.inboxes[role.id].entries
    if role.members or entries:
        names = sorted(state.agents.by_id[member].name for member in role.members)
        who = f" ({', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''})" if names else ""
        raise Rejected(
            "not_empty",
            f"role {role.name} has {len(names)} members{who} and {len(entries)} unacked messages: members ack the "
            f"messages, dead ones too (synapse inbox --ack ID), then leave (synapse role leave {role.name})",
            {"role": role.name, "members": names[:50], "count": len(names), "unacked": len(entries)},
        )
    return [RoleDeleted(role=role.id, name=role.name)]


def apply_role(state: "State", recorded: Recorded, event: RoleEvent) -> None:
    """The roles' part of `kernel.apply`."""
    match event:
        case RoleCreated():
            state.roles.add(Role(recorded.seq, event.name, recorded.at_ms, recorded.actor))
            state.agents.inboxes[recorded.seq] = Inbox()
        case RoleJoined():
            state.roles.join(event.role, event.agent)
        case RoleLeft():
            state.roles.leave(event.role, event.agent)
        case RoleDeleted():
            state.roles.remove(event.role)
            del state.agents.inboxes[event.role]
        case _:
            assert_never(event)


def takers(state: "State", inbox: int) -> Iterable[int]:
    """The agents that take from an inbox: whose it is, or the members of the role."""
    role = state.roles.by_id.get(inbox)
    return (inbox,) if role is None else role.members
