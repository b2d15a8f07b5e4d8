"""Who shows which token, and what becomes of a connection when its token ends.

The hub's own token, and the hub's own user on the Unix socket without a token, are agents that see everything. A token
of `token.create` decides role and rooms wherever it is shown. Who shows a wrong one is told that it is wrong and no
more; only who holds the secret of one that has expired is told that.
"""

from collections.abc import Collection
from hmac import compare_digest
from typing import TYPE_CHECKING

from synapse.core.tokens import Token, TokenUse, decide_expired_tokens, token_id
from synapse.errors import Rejected
from synapse.hub.connection import Connection
from synapse.protocol.commands import Hello
from synapse.protocol.terms import ADMIN, AGENT

if TYPE_CHECKING:
    from synapse.core.state import State
    from synapse.hub.turn import Turns


def opens(state: "State", own: bytes, secret: str, at_ms: int) -> Token | None:
    """The token that a secret opens; None for the hub's own. Raises `Rejected(unauthorized)`."""
    if compare_digest(secret.encode(), own):
        return None
    token = state.tokens.of_secret(secret)
    if token is None:
        raise Rejected(
            "unauthorized",
            "the token is missing, wrong or revoked: the hub's own lies in the file `token` of its home "
            "(--token-file); others come from synapse token create",
        )
    if token.is_over(at_ms):
        raise Rejected(
            "unauthorized",
            f"the token has expired: its time was over at {token.expires_at_ms} ms; the hub's operator makes a new one "
            "(synapse token create)",
            {"token": token_id(token.id), "expired_at_ms": token.expires_at_ms},
        )
    return token


def recognise(turns: "Turns", connection: Connection, command: Hello) -> Token | None:
    """The token that a connection came with; None for the hub's own, and for the hub's own user without one.

    Raises `Rejected`: `unauthorized`, and `not_permitted` for an operator connection that this token does not give.
    """
    secret = command.token if command.token is not None else connection.bearer
    connection.bearer = None
    token = None
    if secret is not None or not connection.is_owner:
        token = opens(turns.state, turns.token, secret or "", connection.by.at_ms)
    if command.operator and not (connection.is_owner if token is None else token.role == ADMIN):
        raise Rejected(
            "not_permitted",
            "an operator connection comes from the hub's own user over its Unix socket, or with a token of the role "
            "admin",
            {"role": AGENT if token is None else token.role, "needed": ADMIN},
        )
    return token


def note_use(turns: "Turns", connection: Connection, token: Token) -> None:
    """A connection was welcomed with a token."""
    used = turns.state.soft.tokens.setdefault(token.id, TokenUse(connection.by.at_ms))
    used.last_at_ms = connection.by.at_ms
    used.connections += 1


def note_end(turns: "Turns", connection: Connection) -> None:
    """A connection that was welcomed with a token is gone."""
    used = turns.state.soft.tokens.get(connection.by.token or 0)
    if used is not None:
        used.connections -= 1


def end_tokens(turns: "Turns", ids: Collection[int]) -> None:
    """Close what came with these tokens. Leases of its agents live on until their TTL."""
    if ids:
        turns.revoke([held for held in turns.peers.connections.values() if held.by.token in ids])


def expire_tokens(turns: "Turns") -> None:
    """What time does to tokens, at each tick; on a full disk it is only not written down yet."""
    due = decide_expired_tokens(turns.state, turns.now_at_ms)
    end_tokens(turns, {event.token for event in due})
    if not turns.is_read_only:
        turns.record(due, "hub")
