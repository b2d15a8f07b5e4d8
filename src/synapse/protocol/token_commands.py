"""What may be asked about tokens; `commands` has them in its union."""

from typing import Final, TypeAlias

import msgspec

from synapse.protocol.terms import AGENT, Int


class CreateToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Admin: let in who shows the secret whose SHA-256 (hex) is `hash`; the secret itself stays with who made it: 32
    random bytes. role: what it may do. rooms: the only ones it sees and touches; null for all. ttl_ms: it ends then;
    null, it has no end. label: words to know it by."""

    hash: str
    role: str = AGENT
    rooms: tuple[str, ...] | None = None
    ttl_ms: Int | None = None
    label: str | None = None


class ListTokens(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Admin: one page of tokens by id. Neither secrets nor hashes are told. after: the `next` of the page before."""

    limit: Int = 200
    after: str | None = None


class RevokeToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Admin: let nobody in with this token any more, and close the connections that came with it."""

    token: str


TokenCommand: TypeAlias = CreateToken | ListTokens | RevokeToken

TOKEN_COMMANDS: Final[dict[str, type[TokenCommand]]] = {
    "token.create": CreateToken,
    "token.list": ListTokens,
    "token.revoke": RevokeToken,
}
"""Command class by wire type."""
