"""What is answered about tokens; `replies` has them in its union."""

from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from synapse.protocol import token_commands


class TokenInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A token, without its secret. rooms: null for all. last_used_at_ms, connections: since the hub started, and open
    now."""

    token: str
    role: str
    rooms: tuple[str, ...] | None
    label: str | None
    created_at_ms: int
    created_by: str
    expires_at_ms: int | None
    expired: bool | UnsetType = UNSET
    last_used_at_ms: int | UnsetType | None = UNSET
    connections: int | UnsetType = UNSET
    cursor: str | UnsetType = UNSET


class TokensPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of tokens by id."""

    tokens: tuple[TokenInfo, ...]
    next: str | None
    cursor: str


class TokenGone(msgspec.Struct, frozen=True, kw_only=True):
    """Nobody is let in with it any more."""

    token: str
    cursor: str


TokenReply: TypeAlias = TokenInfo | TokensPage | TokenGone

TOKEN_REPLY_TO: Final[dict[type[msgspec.Struct], type[TokenReply]]] = {
    token_commands.CreateToken: TokenInfo,
    token_commands.ListTokens: TokensPage,
    token_commands.RevokeToken: TokenGone,
}
