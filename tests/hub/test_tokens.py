"""Tokens at the door: who is let in with which role, and who is shown out when a token ends."""

from hashlib import sha256
from pathlib import Path

import pytest
from tests.hub.conftest import SECRET, Voice, doors, error_of, message, operator, reply_of, upgrade, voice

from synapse.core.state import digest
from synapse.errors import Disconnected
from synapse.protocol.codes import CLOSE_REVOKED, CLOSE_UNAUTHORIZED
from synapse.protocol.commands import (
    COMMANDS,
    AckInbox,
    ClaimLease,
    CreateRoom,
    Hello,
    JoinRoom,
    ListAgents,
    ListLeases,
    ReadHistory,
    ShowStatus,
    Subscribe,
    TakeInbox,
)
from synapse.protocol.replies import Agents, History, Lease, Leases, Status, Subscribed, Welcome
from synapse.protocol.token_commands import CreateToken, ListTokens, RevokeToken
from synapse.protocol.token_replies import TokenGone, TokenInfo, TokensPage
from synapse.testing import TOKEN, MemoryHub


async def token(hub: MemoryHub, secret: str, role: str = "agent", *rooms: str, ttl_ms: int | None = None) -> str:
    """A new token's id."""
    command = CreateToken(hash=sha256(secret.encode()).hexdigest(), role=role, rooms=rooms or None, ttl_ms=ttl_ms)
    return (await (await operator(hub)).ask(command, TokenInfo)).token


async def came(hub: MemoryHub, secret: str, name: str | None = "ada", *, owner: bool = False) -> Voice:
    """A connection that was welcomed with a token."""
    found = Voice(hub, owner=owner)
    await found.ask(Hello(token=secret, name=name, secret=None if name is None else f"{name}: {SECRET}"), Welcome)
    return found


async def test_an_observer_asks_and_follows_and_changes_nothing() -> None:
    async with MemoryHub() as hub:
        await token(hub, "eyes", "observer")
        ada = await voice(hub)
        seen = digest(hub.state)
        eyes = Voice(hub, owner=False)
        welcome = await eyes.ask(Hello(token="eyes", name="ada", secret="whatever it is, it is not looked at"), Welcome)
        assert (welcome.name, welcome.role, welcome.bound) == (None, "observer", False)
        assert [agent.name for agent in (await eyes.ask(ListAgents(), Agents)).agents] == ["ada"]
        await eyes.ask(ShowStatus(), Status)
        await eyes.ask(Subscribe(channels=("main:general",), presence=True, leases=True), Subscribed)
        for command in (
            message("hi"),
            TakeInbox(),
            AckInbox(all=True),
            JoinRoom(room="lab"),
            CreateRoom(room="lab"),
            ClaimLease(task="T"),
        ):
            refused = await eyes.refused(command)
            assert (refused.code, refused.facts) == ("not_permitted", {"role": "observer", "needed": "agent"})
        for inbox in (Subscribe(inbox=True), ReadHistory(inbox=True)):
            assert (await eyes.refused(inbox)).code == "not_permitted"
        assert digest(hub.state) == seen
        await ada.post("to be seen")
        assert [told.sender for told in await eyes.messages()] == ["ada"]
        assert (await eyes.ask(ReadHistory(), History)).messages[0].sender == "ada"


@pytest.mark.parametrize("role", ["observer", "agent", "human", "admin"])
async def test_what_the_table_says_is_what_the_hub_does(role: str) -> None:
    """Every command that the role does not allow is refused before anybody looks into it."""
    from synapse.protocol.roles import ALLOWED, ROLE_OF

    async with MemoryHub() as hub:
        await token(hub, "t", role)
        peer = await came(hub, "t", None if role == "observer" else "ada")
        assert peer.peer.connection is not None
        for kind, (least, _) in ROLE_OF.items():
            if COMMANDS[kind] in ALLOWED[role]:
                continue
            await peer.peer.send(f'{{"type":"{kind}","id":"{kind}","body":{{}}}}'.encode())
            [frame] = await peer.listen()
            peer.heard.clear()
            error = error_of(frame)
            if error.code == "bad_request":  # a field is missing: it is not even a command
                continue
            assert (error.code, error.facts) == ("not_permitted", {"role": role, "needed": least}), kind
            assert error.detail.startswith(f"{kind} needs "), "it is the hub that refuses it, and not core"


async def test_an_admin_is_an_operator_from_anywhere_and_others_are_not_anywhere() -> None:
    async with MemoryHub() as hub:
        await token(hub, "boss", "admin")
        await token(hub, "person", "human")
        for owner in (False, True):
            far = Voice(hub, owner=owner)
            assert (await far.ask(Hello(operator=True, token="boss"), Welcome)).name is None
            assert len((await far.ask(ListTokens(), TokensPage)).tokens) == 2
            near = Voice(hub, owner=owner)
            refused = await near.refused(Hello(operator=True, token="person"))
            assert (refused.code, refused.facts) == ("not_permitted", {"role": "human", "needed": "admin"})
        agent = await came(hub, "boss")
        await agent.ask(ListTokens(), TokensPage)
        assert (await Voice(hub, owner=True).ask(Hello(operator=True, token=TOKEN), Welcome)).name is None


@pytest.mark.bad_input("BI-92")
async def test_a_wrong_revoked_or_expired_token_is_told_nothing() -> None:
    async with MemoryHub() as hub:
        await voice(hub, "known")
        gone = await token(hub, "revoked")
        await token(hub, "over", ttl_ms=1_000)
        boss = await operator(hub)
        await boss.ask(RevokeToken(token=gone), TokenGone)
        await hub.advance(1_000)
        details: dict[str, set[str]] = {}
        for secret in ("never seen", "revoked", "over", "", "Ünïcode"):
            for owner in (False, True):
                for name in ("known", "unknown"):
                    peer = Voice(hub, owner=owner)
                    refused = await peer.refused(Hello(token=secret, name=name, secret=SECRET))
                    assert refused.code == "unauthorized"
                    details.setdefault(secret, set()).add(refused.detail)
                    assert "known" not in refused.detail
                    end = await peer.end()
                    assert isinstance(end, Disconnected)
                    assert end.code == CLOSE_UNAUTHORIZED
                    assert all(frame.seq == 0 for frame in peer.heard if frame.type == "closing")
        assert all(len(told) == 1 for told in details.values())
        assert details["never seen"] == details["revoked"] == details[""]
        assert "has expired" in details["over"].pop()


async def test_who_came_with_a_token_goes_with_it_and_its_leases_stay() -> None:
    async with MemoryHub() as hub:
        await token(hub, "t", ttl_ms=60_000)
        other = await token(hub, "u")
        ada, bob, cy = await came(hub, "t"), await came(hub, "u", "bob"), await voice(hub, "cy")
        await ada.ask(ClaimLease(task="T", ttl_ms=600_000), Lease)
        await hub.advance(59_000)
        assert await ada.is_open()
        await hub.advance(1_000)
        assert (end := await ada.end()) is not None
        assert end.code == CLOSE_REVOKED
        assert await bob.is_open()
        assert [lease.owner for lease in (await cy.ask(ListLeases(), Leases)).leases] == ["ada"]
        boss = await operator(hub)
        await boss.ask(RevokeToken(token=other), TokenGone)
        assert (end := await bob.end()) is not None
        assert end.code == CLOSE_REVOKED
        assert await cy.is_open()
        assert hub.replayed_digest() == digest(hub.state)


async def test_what_was_asked_behind_the_revocation_is_not_done() -> None:
    async with MemoryHub() as hub:
        gone = await token(hub, "t")
        ada, boss = await came(hub, "t"), await operator(hub)
        await boss.say(RevokeToken(token=gone))
        await ada.say(message("too late"))
        await hub.settle()
        assert hub.state.messages == 0


async def test_the_list_says_when_a_token_was_used_and_how_often_it_is_here() -> None:
    async with MemoryHub() as hub:
        await token(hub, "t")
        boss = await operator(hub)
        assert (await boss.ask(ListTokens(), TokensPage)).tokens[0].last_used_at_ms is None
        hub.clock.advance(500)
        first, second = await came(hub, "t"), await came(hub, "t", "bob")
        used = (await boss.ask(ListTokens(), TokensPage)).tokens[0]
        assert (used.last_used_at_ms, used.connections) == (hub.clock.wall_ms(), 2)
        await first.peer.aclose()
        await second.peer.aclose()
        assert (await boss.ask(ListTokens(), TokensPage)).tokens[0].connections == 0


async def test_on_a_full_disk_an_expired_token_lets_nobody_stay() -> None:
    async with MemoryHub() as hub:
        await token(hub, "t", ttl_ms=1_000)
        ada = await came(hub, "t")
        hub.turns.is_read_only = True
        hub.turns.space.try_again = lambda: None  # type: ignore[method-assign]  # the disk stays full
        await hub.advance(2_000)
        assert not await ada.is_open()
        assert (await Voice(hub, owner=False).refused(Hello(token="t", name="ada"))).code == "unauthorized"


async def test_a_handshake_may_carry_any_token_of_the_hub(tmp_path: Path) -> None:
    async with MemoryHub() as hub:
        gone = await token(hub, "t", "observer")
        async with doors(hub, tmp_path / "home") as listeners:
            assert (await upgrade(listeners, "Authorization: Bearer wrong")).head.startswith("HTTP/1.1 401")
            peer = await upgrade(listeners, "Authorization: Bearer t")
            assert reply_of(await peer.ask(Hello(name="ada")), Welcome).role == "observer"
            late = await upgrade(listeners, "Authorization: Bearer t")
            await (await operator(hub)).ask(RevokeToken(token=gone), TokenGone)
            assert error_of(await late.ask(Hello(name="ada"))).code == "unauthorized"
            assert (await upgrade(listeners, "Authorization: Bearer t")).head.startswith("HTTP/1.1 401")


async def test_a_token_that_is_given_counts_more_than_that_of_the_handshake(tmp_path: Path) -> None:
    async with MemoryHub() as hub:
        await token(hub, "t", "observer")
        async with doors(hub, tmp_path / "home") as listeners:
            peer = await upgrade(listeners, f"Authorization: Bearer {TOKEN}")
            assert reply_of(await peer.ask(Hello(name="ada", token="t")), Welcome).role == "observer"
