"""Tokens: secrets that an admin gives away, each with a role, perhaps for some rooms only, perhaps until a date.

Rule 1: the hub knows the hash of a secret and nothing else of it. Secrets are 256 random bits, so a plain hash is
enough, and looking it up tells an attacker nothing: who could choose a hash near another's could also guess the secret.
Rule 2: what has expired stays expired, wherever the wall clock goes afterwards.
"""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

from synapse.core.agents import hash_of
from synapse.core.by import By, Rules
from synapse.core.events import Event, Recorded
from synapse.core.token_events import TokenCreated, TokenEvent, TokenExpired, TokenRevoked
from synapse.errors import Rejected, bad_request
from synapse.protocol.names import require_segment, shown
from synapse.protocol.terms import ADMIN, ROLES
from synapse.protocol.token_commands import CreateToken, RevokeToken

if TYPE_CHECKING:
    from synapse.core.state import State

EXPIRED_MAX: Final = 1_000
"""So many tokens expire in one tick at most."""
_HASH: Final = re.compile(r"[0-9a-f]{64}\Z")
_ID: Final = re.compile(r"t([1-9][0-9]{0,15})\Z")

TokenMutation: TypeAlias = CreateToken | RevokeToken


@dataclass(slots=True)
class Token:
    """What a secret opens. id: seq of its creation. hash: SHA-256 hex of the secret. rooms: None for all."""

    id: int
    hash: str
    role: str
    rooms: tuple[str, ...] | None
    label: str | None
    created_at_ms: int
    created_by: str
    expires_at_ms: int | None
    expired: bool = False

    def is_over(self, at_ms: int) -> bool:
        """True when its time has passed, told already or not."""
        return self.expired or (self.expires_at_ms is not None and self.expires_at_ms <= at_ms)


@dataclass(slots=True)
class Tokens:
    """All tokens, by id and by the hash of their secret."""

    by_id: dict[int, Token] = field(default_factory=dict)
    by_hash: dict[str, Token] = field(default_factory=dict)

    def add(self, token: Token) -> None:
        """Put a token in place."""
        assert token.hash not in self.by_hash, "a secret opens one thing"
        self.by_id[token.id] = token
        self.by_hash[token.hash] = token

    def remove(self, token_id: int) -> None:
        """Take a token away."""
        del self.by_hash[self.by_id.pop(token_id).hash]

    def of_secret(self, secret: str) -> Token | None:
        """The token that a secret opens, expired or not; None for any other text."""
        return self.by_hash.get(hash_of(secret)) if self.by_hash else None


@dataclass(slots=True)
class TokenUse:
    """What is known of a token's use since the start; soft."""

    last_at_ms: int
    connections: int = 0


def token_id(seq: int) -> str:
    """`t<seq>`."""
    return f"t{seq}"


def require_token(state: "State", text: str) -> Token:
    """The token of that id. Raises `Rejected`: `bad_request`, `not_found`."""
    found = _ID.match(text)
    if found is None:
        raise bad_request(f"{shown(text)} is no token's id: t and a number", "$.body.token")
    token = state.tokens.by_id.get(int(found[1]))
    if token is None:
        raise Rejected("not_found", f"no token {text}: synapse token list shows them", {"token": text})
    return token


def decide_token(state: "State", rules: Rules, command: TokenMutation, by: By) -> list[Event]:
    """The tokens' part of `kernel.decide`."""
    match command:
        case CreateToken():
            by.require_operator("creating a token")
            return _decide_create(state, rules, command, by)
        case RevokeToken():
            by.require_operator("revoking a token")
            return [TokenRevoked(token=require_token(state, command.token).id)]
        case _:
            assert_never(command)


def _decide_create(state: "State", rules: Rules, command: CreateToken, by: By) -> list[Event]:
    limits = rules.limits
    if _HASH.match(command.hash) is None:
        raise Rejected(
            "bad_request",
            "the hash of a token is the SHA-256 of its secret, 64 hexadecimal digits in lower case - at `$.body.hash`",
            {"path": "$.body.hash"},
        )
    if command.role not in ROLES:
        raise Rejected(
            "bad_request",
            f"{shown(command.role)} is no role: {', '.join(ROLES)} - at `$.body.role`",
            {"path": "$.body.role", "allowed": list(ROLES)},
        )
    label, ttl_ms = command.label, command.ttl_ms
    if label is not None and not (0 < len(label) <= limits.token_label_chars_max and label.isprintable()):
        raise Rejected(
            "bad_request",
            f"the label must have 1 to {limits.token_label_chars_max} printable characters - at `$.body.label`",
            {"path": "$.body.label", "token_label_chars_max": limits.token_label_chars_max},
        )
    if ttl_ms is not None and not 1 <= ttl_ms <= limits.token_ttl_ms_max:
        raise Rejected(
            "bad_request",
            f"a TTL of {ttl_ms} ms; 1 to {limits.token_ttl_ms_max}, or null for no end - at `$.body.ttl_ms`",
            {"path": "$.body.ttl_ms", "min": 1, "max": limits.token_ttl_ms_max},
        )
    rooms = _rooms(rules, command)
    if command.hash in state.tokens.by_hash:
        raise Rejected("already_exists", "there is a token of this secret already: make a new secret")
    if len(state.tokens.by_id) >= limits.tokens_max:
        raise Rejected(
            "limit",
            f"there are {len(state.tokens.by_id)} tokens, as many as allowed (tokens_max), those that have expired "
            "among them: synapse token list shows them, synapse token revoke ID removes one",
            {"limit": "tokens_max", "value": limits.tokens_max},
        )
    expires_at_ms = None if ttl_ms is None else by.at_ms + ttl_ms
    return [TokenCreated(hash=command.hash, role=command.role, rooms=rooms, label=label, expires_at_ms=expires_at_ms)]


def _rooms(rules: Rules, command: CreateToken) -> tuple[str, ...] | None:
    """The rooms of a grant, each once; they need not exist yet."""
    if command.rooms is None:
        return None
    most = rules.limits.token_rooms_max
    rooms = tuple(dict.fromkeys(require_segment(room, "room") for room in command.rooms))
    if not 1 <= len(rooms) <= most:
        raise Rejected(
            "too_large" if rooms else "bad_request",
            f"a token is for 1 to {most} rooms, or with null for all; {len(rooms)} are named - at `$.body.rooms`",
            {"path": "$.body.rooms", "token_rooms_max": most},
        )
    if command.role == ADMIN:
        raise bad_request("an admin sees all rooms: leave them out, or choose another role", "$.body.rooms")
    return rooms


def decide_expired_tokens(state: "State", at_ms: int) -> list[TokenExpired]:
    """The tokens whose time has passed since the last look."""
    due = [token.id for token in state.tokens.by_id.values() if not token.expired and token.is_over(at_ms)]
    return [TokenExpired(token=token) for token in due[:EXPIRED_MAX]]


def apply_token(state: "State", recorded: Recorded, event: TokenEvent) -> None:
    """The tokens' part of `kernel.apply`."""
    match event:
        case TokenCreated():
            state.tokens.add(
                Token(
                    id=recorded.seq,
                    hash=event.hash,
                    role=event.role,
                    rooms=event.rooms,
                    label=event.label,
                    created_at_ms=recorded.at_ms,
                    created_by=recorded.actor,
                    expires_at_ms=event.expires_at_ms,
                )
            )
        case TokenExpired():
            state.tokens.by_id[event.token].expired = True
        case TokenRevoked():
            state.tokens.remove(event.token)
            state.soft.tokens.pop(event.token, None)
        case _:
            assert_never(event)
