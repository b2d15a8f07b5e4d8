"""The client's half of tokens: a secret is made here, and the hub hears only its hash."""

import os
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

from synapse.client.asking import Asking
from synapse.client.bodies import milliseconds
from synapse.protocol import token_commands
from synapse.protocol.token_replies import TokenGone, TokenInfo, TokensPage


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was just made. secret: what its holder shows; nobody else knows it, and it is not told again."""

    info: TokenInfo
    secret: str = field(repr=False)


class Tokens(Asking):
    """Who else may talk to the hub: a part of `Client`, for an operator or a token of the role admin."""

    async def create_token(
        self,
        role: Literal["observer", "agent", "human", "admin"] = "agent",
        *,
        rooms: Iterable[str] | None = None,
        ttl: float | None = None,
        label: str | None = None,
    ) -> NewToken:
        """Admin: make a token. rooms: the only ones that it sees. ttl: seconds until it ends. The secret is made here,
        and only its hash is sent: keep it, nobody can show it again. Raises `Rejected`: `not_permitted`, `limit`."""
        secret = urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")
        command = token_commands.CreateToken(
            hash=sha256(secret.encode()).hexdigest(),
            role=role,
            rooms=None if rooms is None else tuple(rooms),
            ttl_ms=None if ttl is None else milliseconds(ttl, "a TTL"),
            label=label,
        )
        return NewToken(await self.request(command, TokenInfo), secret)

    async def tokens(self) -> tuple[TokenInfo, ...]:
        """Admin: all tokens by id, without their secrets. All pages. Raises `Rejected(not_permitted)`."""
        pages = self._pages(lambda at: token_commands.ListTokens(limit=self._page, after=at), TokensPage)
        return tuple([token async for page in pages for token in page.tokens])

    async def revoke_token(self, token: str) -> TokenGone:
        """Admin: let nobody in with this token any more, and close what came with it. Raises `Rejected`:
        `not_permitted`, `not_found`."""
        return await self.request(token_commands.RevokeToken(token=token), TokenGone)
