"""What happens to role addresses; `events` has them in its union. What is sent to one is a `MessageSent`."""

from typing import TypeAlias

import msgspec

from synapse.core.idem import Idem


class RoleCreated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A role exists, with an empty queue."""

    name: str
    idem: Idem | None = None


class RoleJoined(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent takes what is sent to a role."""

    role: int
    name: str
    agent: int
    idem: Idem | None = None


class RoleLeft(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent takes nothing of a role any more."""

    role: int
    name: str
    agent: int
    idem: Idem | None = None


class RoleDeleted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A role without members and messages is gone."""

    role: int
    name: str
    idem: Idem | None = None


RoleEvent: TypeAlias = RoleCreated | RoleJoined | RoleLeft | RoleDeleted
