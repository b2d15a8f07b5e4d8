"""What the hub answers about role addresses; `replies` has them in its union."""

from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from synapse.protocol import role_commands


class RoleChanged(msgspec.Struct, frozen=True, kw_only=True):
    """A role, and whether the request changed anything. created: by this very join."""

    role: str
    changed: bool
    created: bool
    cursor: str


class RoleInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A role and its queue. messages: how many were ever sent to it. unacked: how many of them are in the queue, dead
    ones too. In an answer of its own also: waiting (free to be taken), lent, dead, and a page of members."""

    role: str
    members: int
    messages: int
    unacked: int
    created_at_ms: int
    created_by: str
    waiting: int | UnsetType = UNSET
    lent: int | UnsetType = UNSET
    dead: int | UnsetType = UNSET
    participants: tuple[str, ...] | UnsetType = UNSET
    next: str | UnsetType | None = UNSET
    cursor: str | UnsetType = UNSET


class RolesPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of roles by name."""

    roles: tuple[RoleInfo, ...]
    next: str | None
    cursor: str


RoleReply: TypeAlias = RoleChanged | RoleInfo | RolesPage

ROLE_REPLY_TO: Final[dict[type[msgspec.Struct], type[RoleReply]]] = {
    role_commands.JoinRole: RoleChanged,
    role_commands.LeaveRole: RoleChanged,
    role_commands.DeleteRole: RoleChanged,
    role_commands.ListRoles: RolesPage,
    role_commands.ShowRole: RoleInfo,
}
