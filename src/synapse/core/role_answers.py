"""What is answered about roles: the reply of a mutation from its events, and questions to the state."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from synapse.core.events import Recorded
from synapse.core.role_events import RoleCreated
from synapse.core.role_queues import Role, RoleMutation
from synapse.protocol.role_replies import RoleChanged, RoleInfo

if TYPE_CHECKING:
    from synapse.core.state import State


def answer_role(command: RoleMutation, events: Sequence[Recorded], cursor: str) -> RoleChanged:
    """The roles' part of `answers.answer`."""
    created = any(isinstance(item.event, RoleCreated) for item in events)
    return RoleChanged(role=command.role, changed=bool(events), created=created, cursor=cursor)


def role_info(state: "State", role: Role) -> RoleInfo:
    """A role as a list tells it: what can be said without going through its queue."""
    queue = state.agents.inboxes[role.id]
    return RoleInfo(
        role=role.name,
        members=len(role.members),
        messages=queue.last_n,
        unacked=len(queue.entries),
        created_at_ms=role.created_at_ms,
        created_by=role.created_by,
    )


def role_shown(
    state: "State", role: Role, participants: tuple[str, ...], following: str | None, cursor: str
) -> RoleInfo:
    """A role as an answer of its own."""
    queue, lends = state.agents.inboxes[role.id], state.soft.lending.lends
    dead = len(queue.dead)
    lent = sum(1 for seq in queue.entries if (role.id, seq) in lends)
    return msgspec.structs.replace(
        role_info(state, role),
        waiting=len(queue.entries) - dead - lent,
        lent=lent,
        dead=dead,
        participants=participants,
        next=following,
        cursor=cursor,
    )
