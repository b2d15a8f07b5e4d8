"""One-line faults in tokens, roles and grants."""

from tests.planted.fault import Fault

CORE, HUB, TURN = "core/tokens.py", "hub/tokens.py", "hub/turn.py"
_CORE = ("tests/core/test_tokens.py",)
_HUB = ("tests/hub/test_tokens.py",)

TOKEN_FAULTS = [
    Fault(
        "the hub does not look at roles",
        TURN,
        "            kind in connection.allowed or connection.refuse(kind)",
        "            pass",
        _HUB,
    ),
    Fault(
        "a token that has expired opens",
        HUB,
        "    if token.is_over(at_ms):",
        "    if token.expired:",
        _HUB,
    ),
    Fault(
        "what has expired lives again when the clock is set back",
        CORE,
        "        return self.expired or (self.expires_at_ms is not None and self.expires_at_ms <= at_ms)",
        "        return self.expires_at_ms is not None and self.expires_at_ms <= at_ms",
        _CORE,
    ),
    Fault(
        "a revoked token still opens",
        CORE,
        "        del self.by_hash[self.by_id.pop(token_id).hash]",
        "        self.by_id.pop(token_id)",
        _CORE,
    ),
    Fault(
        "who came with a revoked token stays",
        HUB,
        "        turns.revoke([held for held in turns.peers.connections.values() if held.by.token in ids])",
        "        pass",
        _HUB,
    ),
    Fault(
        "no tick ends a token",
        "hub/effects.py",
        "    expire_tokens(turns)",
        "    pass",
        _HUB,
    ),
    Fault(
        "the hub's own user needs no right token",
        HUB,
        "    if secret is not None or not connection.is_owner:",
        "    if not connection.is_owner:",
        _HUB,
    ),
    Fault(
        "an observer becomes the agent that it names",
        "hub/greeting.py",
        "    if role == OBSERVER:",
        "    if False:",
        _HUB,
    ),
    Fault(
        "anybody makes tokens",
        CORE,
        '            by.require_operator("creating a token")',
        "            pass",
        _CORE,
    ),
    Fault(
        "a dump forgets the tokens",
        "core/state.py",
        "        state.tokens.add(token)",
        "        pass",
        _CORE,
    ),
    Fault(
        "who was not welcomed is told where the journal stands",
        "hub/connection.py",
        "        return seq if self.by.actor else 0",
        "        return seq",
        _HUB,
    ),
    Fault(
        "who has a token for some rooms sees all agents",
        "core/rooms.py",
        "    if by.rooms is None or agent == by.agent:",
        "    if True:",
        ("tests/hub/test_tokens_grants.py",),
    ),
    Fault(
        "a token for some rooms sees all rooms",
        "core/rooms.py",
        "    return (by.rooms is None or room.name in by.rooms) and (not room.private or by.agent in room.members)",
        "    return not room.private or by.agent in room.members",
        ("tests/hub/test_tokens_grants.py",),
    ),
]
