"""What may be asked about resources; `commands` has them in its union."""

from typing import Final, TypeAlias

import msgspec

from synapse.protocol.terms import Int


def _null() -> msgspec.Raw:
    return msgspec.Raw(b"null")


class OfferResource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Offer something of mine to others: a pool of `capacity` units under the name `resource`, of which claims take
    some. kind: a word, such as compute, model or tool. ttl_ms: the offer ends then; null, it has no end. Offered again
    by its owner, it is as this says from now on. data: any JSON for who takes it."""

    resource: str
    kind: str
    capacity: Int = 1
    ttl_ms: Int | None = None
    description: str | None = None
    data: msgspec.Raw = msgspec.field(default_factory=_null)


class WithdrawResource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """End an offer of mine; an operator ends any. Leases that hold units of it go on to their end."""

    resource: str


class ListResources(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page of resources by name. kind, owner: only these."""

    kind: str | None = None
    owner: str | None = None
    limit: Int = 200
    after: str | None = None


ResourceCommand: TypeAlias = OfferResource | WithdrawResource | ListResources

RESOURCE_COMMANDS: Final[dict[str, type[ResourceCommand]]] = {
    "resource.offer": OfferResource,
    "resource.withdraw": WithdrawResource,
    "resource.list": ListResources,
}
"""Command class by wire type."""
