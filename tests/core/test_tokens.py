"""Tokens in core: who may make them, what is kept of them, and how they end."""

from hashlib import sha256
from itertools import pairwise

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.core.conftest import SECRET, World

from synapse.core.by import By
from synapse.core.state import decode_state, encode_state
from synapse.core.tokens import decide_expired_tokens
from synapse.errors import Rejected
from synapse.protocol.commands import ClaimLease, Hello
from synapse.protocol.limits import Limits
from synapse.protocol.replies import Lease
from synapse.protocol.terms import ROLES
from synapse.protocol.token_commands import CreateToken, ListTokens, RevokeToken
from synapse.protocol.token_replies import TokenGone, TokenInfo, TokensPage


def hash_of(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def made(world: World, secret: str, *, ttl_ms: int | None = None, role: str = "agent") -> TokenInfo:
    return world.reply(TokenInfo, CreateToken(hash=hash_of(secret), role=role, ttl_ms=ttl_ms), "operator")


def listed(world: World) -> list[TokenInfo]:
    return list(world.look(TokensPage, ListTokens()).tokens)


def tick(world: World) -> None:
    world.record(decide_expired_tokens(world.state, world.at_ms), "hub")


def test_a_token_is_kept_as_a_hash_and_listed_without_it() -> None:
    world = World()
    info = made(world, "the secret")
    assert world.state.tokens.of_secret("the secret") is world.state.tokens.by_id[int(info.token[1:])]
    assert world.state.tokens.of_secret("another") is None
    assert hash_of("the secret").encode() not in msgspec.json.encode(listed(world))
    assert b"the secret" not in b"".join(row.body for row in world.rows)


def test_only_an_admin_makes_lists_and_revokes() -> None:
    world = World()
    world.join("ada")
    info = made(world, "x")
    by = world.by("ada")
    for role in ROLES[:-1]:
        by.role = role
        assert world.refusal(CreateToken(hash=hash_of("y")), by).facts == {"role": role, "needed": "admin"}
        assert world.refusal(RevokeToken(token=info.token), by).code == "not_permitted"
        with pytest.raises(Rejected, match="not_permitted"):
            world.look(TokensPage, ListTokens(), by)
    by.role = "admin"
    assert world.look(TokensPage, ListTokens(), by).tokens[0].token == info.token
    assert world.reply(TokenGone, RevokeToken(token=info.token), by).token == info.token


def test_a_repeat_under_one_key_makes_one_token_and_says_the_same() -> None:
    world = World()
    command = CreateToken(hash=hash_of("x"), role="human", label="desk", ttl_ms=5_000)
    first = world.reply(TokenInfo, command, "operator", "k")
    assert world.reply(TokenInfo, command, "operator", "k") == first
    assert len(listed(world)) == 1
    assert world.refusal(command, "operator").code == "already_exists"
    gone = world.reply(TokenGone, RevokeToken(token=first.token), "operator", "r")
    assert world.reply(TokenGone, RevokeToken(token=first.token), "operator", "r") == gone
    assert world.refusal(RevokeToken(token=first.token), "operator").code == "not_found"


def test_pages_hold_every_token_once() -> None:
    world = World()
    ids = [made(world, str(n)).token for n in range(7)]
    found: list[str] = []
    after = None
    while True:
        page = world.look(TokensPage, ListTokens(limit=3, after=after))
        found += [token.token for token in page.tokens]
        after = page.next
        if after is None:
            break
    assert found == ids
    assert all(a < b for a, b in pairwise(found))


@pytest.mark.bad_input("BI-89")
@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"hash": "the secret itself"}, "bad_request", "64 hexadecimal digits"),
        ({"hash": "AB" * 32}, "bad_request", "lower case"),
        ({"hash": "ab" * 32 + "\n"}, "bad_request", "64 hexadecimal digits"),
        ({"role": "root"}, "bad_request", "observer, agent, human, admin"),
        ({"role": ""}, "bad_request", "is no role"),
        ({"ttl_ms": 0}, "bad_request", "1 to"),
        ({"ttl_ms": Limits().token_ttl_ms_max + 1}, "bad_request", "or null for no end"),
        ({"label": ""}, "bad_request", "printable"),
        ({"label": "a\nb"}, "bad_request", "printable"),
        ({"label": "x" * 129}, "bad_request", "1 to 128"),
        ({"rooms": ()}, "bad_request", "null for all"),
        ({"rooms": ("Lab",)}, "bad_name", "is not a room name"),
        ({"rooms": tuple(f"r{n}" for n in range(65))}, "too_large", "1 to 64 rooms"),
        ({"rooms": ("lab",), "role": "admin"}, "bad_request", "an admin sees all rooms"),
    ],
)
def test_a_token_out_of_bounds_is_refused(changes: dict[str, object], code: str, words: str) -> None:
    world = World()
    command = msgspec.structs.replace(CreateToken(hash="ab" * 32), **changes)
    refused = world.refusal(command, "operator")
    assert (refused.code, words in refused.detail) == (code, True), refused.detail


@pytest.mark.bad_input("BI-90")
@pytest.mark.parametrize(
    ("token", "code"),
    [("t1", "not_found"), ("m1", "bad_request"), ("t", "bad_request"), ("t01", "bad_request"), ("t1\n", "bad_request")],
)
def test_to_revoke_what_is_no_token_is_refused(token: str, code: str) -> None:
    assert World().refusal(RevokeToken(token=token), "operator").code == code


@pytest.mark.bad_input("BI-91")
def test_one_token_too_many_is_refused_until_one_is_revoked() -> None:
    world = World(Limits(tokens_max=1))
    first = made(world, "a", ttl_ms=10)
    world.at_ms += 10
    tick(world)
    refused = world.refusal(CreateToken(hash=hash_of("b")), "operator")
    assert (refused.code, refused.facts) == ("limit", {"limit": "tokens_max", "value": 1})
    world.do(RevokeToken(token=first.token), "operator")
    made(world, "b")


def test_what_has_expired_stays_so_wherever_the_clock_goes() -> None:
    world = World()
    made(world, "x", ttl_ms=1_000)
    token = world.state.tokens.of_secret("x")
    assert token is not None
    assert not token.is_over(world.at_ms + 999)
    assert token.is_over(world.at_ms + 1_000)
    world.at_ms += 999
    tick(world)
    assert not token.expired
    world.at_ms += 1
    tick(world)
    assert token.expired
    world.at_ms -= 10_000_000
    assert token.is_over(world.at_ms)
    assert decide_expired_tokens(world.state, world.at_ms + 1_000_000_000) == [], "told once"
    assert [item.expired for item in listed(world)] == [True]
    world.restart()
    assert [item.expired for item in listed(world)] == [True]


@pytest.mark.parametrize(
    ("kind", "token", "role", "may"),
    [
        ("human", None, "agent", False),
        ("agent", None, "agent", False),
        ("human", 1, "agent", False),
        ("agent", 1, "human", True),
        ("agent", 1, "admin", True),
    ],
)
def test_who_may_preempt_is_said_by_the_token_and_never_by_the_kind(
    kind: str, token: int | None, role: str, may: bool
) -> None:
    world = World()
    world.join("bob")
    world.do(Hello(name="ada", secret=SECRET, kind=kind), By("", None, 1, "main:general", world.at_ms, 0))
    world.do(ClaimLease(task="T"), "bob")
    by = world.by("ada")
    by.token, by.role = token, role
    command = ClaimLease(task="T", preempt=True)
    if may:
        assert world.reply(Lease, command, by).owner == "ada"
    else:
        refused = world.refusal(command, by)
        assert (refused.code, refused.facts) == ("not_permitted", {"role": "agent", "needed": "human"})


class TokenMachine(RuleBasedStateMachine):
    """Tokens against a list: what opens, and with which role, at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(Limits(tokens_max=4))
        self.model: dict[str, tuple[str, str, int | None]] = {}  # secret: id, role, end

    @rule(secret=st.sampled_from("abcdef"), role=st.sampled_from(ROLES), ttl_ms=st.none() | st.integers(1, 3_000))
    def create(self, secret: str, role: str, ttl_ms: int | None) -> None:
        command = CreateToken(hash=hash_of(secret), role=role, ttl_ms=ttl_ms)
        if secret in self.model:
            assert self.world.refusal(command, "operator").code == "already_exists"
        elif len(self.model) == 4:
            assert self.world.refusal(command, "operator").code == "limit"
        else:
            info = self.world.reply(TokenInfo, command, "operator")
            self.model[secret] = (info.token, role, None if ttl_ms is None else self.world.at_ms + ttl_ms)

    @rule(secret=st.sampled_from("abcdef"))
    def revoke(self, secret: str) -> None:
        if secret in self.model:
            self.world.do(RevokeToken(token=self.model.pop(secret)[0]), "operator")

    @rule(ms=st.integers(1, 2_000))
    def time_passes(self, ms: int) -> None:
        self.world.at_ms += ms
        tick(self.world)

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @rule()
    def snapshot(self) -> None:
        self.world.state = decode_state(encode_state(self.world.state))

    @invariant()
    def opens_what_was_made_and_neither_revoked_nor_over(self) -> None:
        for secret in "abcdef":
            token = self.world.state.tokens.of_secret(secret)
            if secret not in self.model:
                assert token is None
                continue
            name, role, end = self.model[secret]
            assert token is not None
            assert (f"t{token.id}", token.role) == (name, role)
            assert token.is_over(self.world.at_ms) == (end is not None and end <= self.world.at_ms)
        assert encode_state(self.world.state) == encode_state(self.world.replayed())


TestTokenMachine = TokenMachine.TestCase
TestTokenMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_an_operator_has_every_role_and_an_observer_is_no_agent() -> None:
    boss = By("operator", None, 1, "main:general", 0, 0, operator=True, role="observer")
    for role in ROLES:
        boss.require_role(role, "this")
    with pytest.raises(Rejected, match="anonymous"):
        boss.require_agent()
    nobody = By("observer", None, 1, "main:general", 0, 0, role="observer")
    with pytest.raises(Rejected, match="not_permitted"):
        nobody.require_agent()
