"""The client's half of role addresses: who takes what is sent to `role:NAME`."""

import msgspec

from synapse.client.asking import Asking
from synapse.protocol import role_commands
from synapse.protocol.role_replies import RoleChanged, RoleInfo, RolesPage


class RoleQueues(Asking):
    """Queues that several agents take from: a part of `Client`. `send(target="role:NAME")` puts into one, `take` and
    `inbox_messages` take from those of my roles too."""

    async def join_role(self, role: str) -> RoleChanged:
        """Take what is sent to `role:NAME` from now on, and what waits there; the first to join makes the role.

        Twice is the same as once. Raises `Rejected`: `bad_name`, `limit`.
        """
        return await self.request(role_commands.JoinRole(role=role), RoleChanged)

    async def leave_role(self, role: str) -> RoleChanged:
        """Take no more of it; what is lent to me goes back into its queue. Raises `Rejected(not_found)`."""
        return await self.request(role_commands.LeaveRole(role=role), RoleChanged)

    async def roles(self) -> tuple[RoleInfo, ...]:
        """All roles by name, with counts. All pages."""
        pages = self._pages(lambda at: role_commands.ListRoles(limit=self._page, after=at), RolesPage)
        return tuple([role async for page in pages for role in page.roles])

    async def role_info(self, role: str) -> RoleInfo:
        """A role with the counts of its queue and all its members. Raises `Rejected(not_found)`."""
        found = self._pages(lambda at: role_commands.ShowRole(role=role, limit=self._page, after=at), RoleInfo)
        pages = [page async for page in found]
        members = tuple(name for page in pages for name in page.participants or ())
        return msgspec.structs.replace(pages[0], participants=members, next=None)

    async def delete_role(self, role: str) -> RoleChanged:
        """Operator: delete a role without members and messages. Raises `Rejected`: `not_found`, `not_empty`."""
        return await self.request(role_commands.DeleteRole(role=role), RoleChanged)
