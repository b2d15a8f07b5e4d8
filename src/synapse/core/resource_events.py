"""What happens to resources; `events` has them in its union."""

from typing import TypeAlias

import msgspec

from synapse.core.idem import Idem


class ResourceOffered(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent lends so many units under this name, which is that of a pool; or says anew what it lends."""

    name: str
    kind: str
    capacity: int
    owner: str
    owner_id: int
    description: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    expires_at_ms: int | None = None
    idem: Idem | None = None


class ResourceWithdrawn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An offer ended. reason: withdrawn, or forgotten (its owner). held: units that leases hold, for the answer."""

    name: str
    owner: str
    reason: str = "withdrawn"
    held: int = 0
    idem: Idem | None = None


class ResourceExpired(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The time of an offer passed."""

    name: str
    owner: str
    idem: Idem | None = None


ResourceEvent: TypeAlias = ResourceOffered | ResourceWithdrawn | ResourceExpired
