"""What may be asked about role addresses, whose queues are shared by their members; `commands` has them in its union.

To send to one is `message.send` with the target `role:NAME`; to take from one is `inbox.take`.
"""

from typing import Final, TypeAlias

import msgspec

from synapse.protocol.terms import Int


class JoinRole(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Become one of those who take what is sent to `role:NAME`; the first to join makes the role."""

    role: str


class LeaveRole(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take no more of what is sent to a role. What was lent to this agent goes back into the queue."""

    role: str


class DeleteRole(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Operator: a role that has no members and no messages is no more."""

    role: str


class ListRoles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page of roles by name."""

    limit: Int = 200
    after: str | None = None


class ShowRole(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One role with its queue, and one page of its members."""

    role: str
    limit: Int = 200
    after: str | None = None


RoleCommand: TypeAlias = JoinRole | LeaveRole | DeleteRole | ListRoles | ShowRole

ROLE_COMMANDS: Final[dict[str, type[RoleCommand]]] = {
    "role.join": JoinRole,
    "role.leave": LeaveRole,
    "role.delete": DeleteRole,
    "role.list": ListRoles,
    "role.info": ShowRole,
}
"""Command class by wire type."""
