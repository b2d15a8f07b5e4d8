"""The client's half of resources: what agents lend to each other."""

from synapse.client.asking import Asking
from synapse.client.bodies import milliseconds, raw_of
from synapse.protocol import resource_commands
from synapse.protocol.resource_replies import ResourceGone, ResourceInfo, ResourcesPage


class LentResources(Asking):
    """What is lent: a part of `Client`. It is taken as units of a pool: `client.lease(task, pools={"gpu": 1})`."""

    async def offer_resource(
        self,
        resource: str,
        kind: str,
        *,
        capacity: int = 1,
        ttl: float | None = None,
        description: str | None = None,
        data: object = None,
        idem_key: str | None = None,
    ) -> ResourceInfo:
        """Offer so many units of something under a name; offered again, it is as this says. ttl: seconds until the
        offer ends; None, it has no end. Raises `Rejected(already_exists)` when the name is another's."""
        command = resource_commands.OfferResource(
            resource=resource,
            kind=kind,
            capacity=capacity,
            ttl_ms=None if ttl is None else milliseconds(ttl, "a TTL"),
            description=description,
            data=raw_of(data),
        )
        return await self.request(command, ResourceInfo, idem_key=idem_key)

    async def withdraw_resource(self, resource: str) -> ResourceGone:
        """End an offer of mine; leases that hold units of it go on. Raises `Rejected`: `not_found`,
        `not_permitted`."""
        return await self.request(resource_commands.WithdrawResource(resource=resource), ResourceGone)

    async def resources(self, *, kind: str | None = None, owner: str | None = None) -> tuple[ResourceInfo, ...]:
        """All resources by name, with how many units are held. All pages."""
        pages = self._pages(
            lambda at: resource_commands.ListResources(kind=kind, owner=owner, limit=self._page, after=at),
            ResourcesPage,
        )
        return tuple([resource async for page in pages for resource in page.resources])
