"""What happens to tokens; `events` has them in its union. They hold the hash of a secret, and never the secret."""

from typing import TypeAlias

import msgspec

from synapse.core.idem import Idem


class TokenCreated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who shows the secret of this hash is let in; the token's id is the seq of this event. rooms: None for all."""

    hash: str
    role: str
    rooms: tuple[str, ...] | None = None
    label: str | None = None
    expires_at_ms: int | None = None
    idem: Idem | None = None


class TokenExpired(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The time of a token passed. It stays on the list until it is revoked, so that its holder can be told."""

    token: int
    idem: Idem | None = None


class TokenRevoked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A token is no more."""

    token: int
    idem: Idem | None = None


TokenEvent: TypeAlias = TokenCreated | TokenExpired | TokenRevoked
