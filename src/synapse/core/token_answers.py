"""What is answered about tokens: never a secret, and never a hash."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, assert_never

from synapse.core.by import By
from synapse.core.events import Recorded
from synapse.core.token_events import TokenCreated
from synapse.core.tokens import Token, TokenMutation, token_id
from synapse.protocol.replies import Reply
from synapse.protocol.token_commands import CreateToken, RevokeToken
from synapse.protocol.token_replies import TokenGone, TokenInfo

if TYPE_CHECKING:
    from synapse.core.state import State


def answer_token(command: TokenMutation, events: Sequence[Recorded], cursor: str) -> Reply:
    """The tokens' part of `answers.answer`."""
    match command:
        case CreateToken():
            made = events[0]
            event = made.event
            assert isinstance(event, TokenCreated)
            return TokenInfo(
                token=token_id(made.seq),
                role=event.role,
                rooms=event.rooms,
                label=event.label,
                created_at_ms=made.at_ms,
                created_by=made.actor,
                expires_at_ms=event.expires_at_ms,
                cursor=cursor,
            )
        case RevokeToken():
            return TokenGone(token=command.token, cursor=cursor)
        case _:
            assert_never(command)


def tokens_to_list(state: "State", by: By) -> list[str]:
    """The ids that a list goes through, as text that sorts like numbers. Raises `Rejected(not_permitted)`."""
    by.require_operator("listing the tokens")
    return sorted(token_id(token) for token in state.tokens.by_id)


def listed_token(state: "State", name: str, by: By) -> TokenInfo:
    """A token of the list, with its use since the start."""
    token: Token = state.tokens.by_id[int(name[1:])]
    used = state.soft.tokens.get(token.id)
    return TokenInfo(
        token=name,
        role=token.role,
        rooms=token.rooms,
        label=token.label,
        created_at_ms=token.created_at_ms,
        created_by=token.created_by,
        expires_at_ms=token.expires_at_ms,
        expired=token.is_over(by.at_ms),
        last_used_at_ms=None if used is None else used.last_at_ms,
        connections=0 if used is None else used.connections,
    )
