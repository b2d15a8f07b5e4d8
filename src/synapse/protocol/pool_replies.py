"""What is answered about pools; `replies` has them in its union."""

import msgspec
from msgspec import UNSET, UnsetType


class PoolInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A pool of counted units. held, waiting: units held, and asked for by who waits. owner: who lends it, of a
    resource."""

    pool: str
    capacity: int
    held: int
    waiting: int
    owner: str | UnsetType = UNSET
    cursor: str | UnsetType = UNSET


class PoolDeleted(msgspec.Struct, frozen=True, kw_only=True):
    """The pool is gone."""

    pool: str
    deleted: bool
    cursor: str


class Pools(msgspec.Struct, frozen=True, kw_only=True):
    """One page of pools."""

    pools: tuple[PoolInfo, ...]
    next: str | None
    cursor: str
