"""What is answered about resources; `replies` has them in its union."""

from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from synapse.protocol import resource_commands


class ResourceInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A resource. status: offered; or withdrawn, expired or forgotten (its owner), while leases still hold units.
    held, waiting, presence (of the owner): in lists."""

    resource: str
    kind: str
    capacity: int
    owner: str
    status: str
    description: str | None
    data: msgspec.Raw
    offered_at_ms: int
    expires_at_ms: int | None
    held: int | UnsetType = UNSET
    waiting: int | UnsetType = UNSET
    presence: str | UnsetType = UNSET
    cursor: str | UnsetType = UNSET


class ResourceGone(msgspec.Struct, frozen=True, kw_only=True):
    """The offer ended. held: units that leases still held then; these go on to their end."""

    resource: str
    withdrawn: bool
    held: int
    cursor: str


class ResourcesPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of resources by name."""

    resources: tuple[ResourceInfo, ...]
    next: str | None
    cursor: str


ResourceReply: TypeAlias = ResourceInfo | ResourceGone | ResourcesPage

RESOURCE_REPLY_TO: Final[dict[type[msgspec.Struct], type[ResourceReply]]] = {
    resource_commands.OfferResource: ResourceInfo,
    resource_commands.WithdrawResource: ResourceGone,
    resource_commands.ListResources: ResourcesPage,
}
