"""A token for some rooms: a walk over every question, feed and refusal, with canaries in the other room."""

from collections.abc import Mapping
from typing import Final

import msgspec
import pytest
from tests.hub.conftest import SECRET, Voice, operator, voice
from tests.hub.test_tokens import token

from synapse.protocol.commands import COMMANDS, Hello, JoinRoom, LeaveRoom, Subscribe
from synapse.protocol.replies import Place, Subscribed, Welcome
from synapse.protocol.roles import ALLOWED, ROLE_OF
from synapse.testing import MemoryHub

CANARIES: Final = ("aviary", "tweety", "nest-egg", "birdsong", "seedbox", "plumage")
"""In what the guest may not see: a room, an agent, a task, a text, a resource, a key."""

HIDDEN: Final[dict[str, dict[str, object]]] = {
    "room.create": {"room": "aviary2"},
    "room.list": {},
    "room.info": {"room": "aviary"},
    "room.join": {"room": "aviary"},
    "room.leave": {"room": "aviary"},
    "channel.list": {"room": "aviary"},
    "channel.create": {"channel": "aviary:x"},
    "channel.info": {"channel": "aviary:general"},
    "channel.join": {"channel": "aviary:general"},
    "channel.leave": {"channel": "aviary:general"},
    "message.send": {"channel": "aviary:general", "body": "x"},
    "history.read": {"channel": "aviary:general"},
    "feed.subscribe": {"channels": ["aviary:general"]},
    "lease.claim": {"task": "nest-egg", "room": "aviary"},
    "lease.check": {"task": "nest-egg", "room": "aviary", "epoch": 1},
    "lease.list": {"room": "aviary"},
    "task.explain": {"task": "nest-egg", "room": "aviary"},
    "task.list": {"room": "aviary"},
    "task.show": {"task": "nest-egg", "room": "aviary"},
    "progress.read": {"room": "aviary"},
    "value.get": {"key": "plumage", "room": "aviary"},
    "value.list": {"room": "aviary"},
    "digest.read": {"room": "aviary"},
    "events.read": {"room": "aviary"},
    "agent.list": {"room": "aviary"},
}
"""What the guest asks by the name of what is hidden from it."""


async def said(peer: Voice, kind: str, body: Mapping[str, object]) -> bytes:
    """Everything that comes in answer to a request, as it came."""
    assert peer.peer.connection is not None
    await peer.peer.send(msgspec.json.encode({"type": kind, "id": kind, "body": body}))
    await peer.listen()
    frames, peer.heard = peer.heard, []
    return b"\n".join(msgspec.json.encode(frame) + (bytes(frame.body) if frame.body else b"") for frame in frames)


async def aviary(hub: MemoryHub) -> Voice:
    """A room with a canary of each sort, and somebody in the guest's own room."""
    tweety = await voice(hub, "tweety")
    await tweety.ask(JoinRoom(room="aviary"), Place)
    for kind, body in (
        ("message.send", {"channel": "aviary:general", "body": "birdsong @guest"}),
        ("value.put", {"room": "aviary", "key": "plumage", "value": "birdsong"}),
        ("task.declare", {"room": "aviary", "task": "nest-egg", "title": "birdsong"}),
        (
            "lease.claim",
            {"room": "aviary", "task": "nest-egg", "worktree": "w", "paths": ["src/**"], "note": "birdsong"},
        ),
        ("resource.offer", {"resource": "seedbox", "kind": "box", "capacity": 1}),
        ("card.set", {"description": "birdsong", "tags": ["plumage"]}),
        ("task.note", {"room": "aviary", "task": "nest-egg", "text": "birdsong"}),
    ):
        assert b'"error"' not in await said(tweety, kind, body), kind
    host = await voice(hub, "host")
    await host.ask(JoinRoom(room="lab"), Place)
    return tweety


async def guest(hub: MemoryHub, role: str = "human") -> Voice:
    """An agent with a token for the room `lab`."""
    await token(hub, "t", role, "lab")
    found = Voice(hub, owner=False)
    await found.ask(Hello(token="t", name="guest", secret=f"guest: {SECRET}"), Welcome)
    if role != "observer":
        await found.ask(JoinRoom(room="lab"), Place)
    found.heard.clear()
    return found


def birds(told: bytes) -> list[str]:
    return [canary for canary in CANARIES if canary.encode() in told]


@pytest.mark.parametrize("role", ["observer", "human"])
async def test_no_question_tells_of_another_room(role: str) -> None:
    """Every command that the role may send, as it stands and by the name of what is hidden. What is asked for by name
    comes back in the refusal, and is the only thing that does."""
    async with MemoryHub() as hub:
        await aviary(hub)
        peer = await guest(hub, role)
        asked = 0
        for kind in ROLE_OF:
            if COMMANDS[kind] not in ALLOWED[role] or kind in ("hello", "feed.unsubscribe"):
                continue
            told = await said(peer, kind, {})
            assert told, kind
            assert birds(told) == [], (kind, told)
            hidden = HIDDEN.get(kind)
            if hidden is not None and hidden:
                told = await said(peer, kind, hidden)
                asked += 1
                named = msgspec.json.encode(hidden)
                assert b'"error"' in told or b'"leases":[]' in told, (kind, told)
                assert [bird for bird in birds(told) if bird.encode() not in named] == [], (kind, told)
                assert b"birdsong" not in told
        assert asked >= 10


async def test_what_is_hidden_is_refused_like_what_is_not_there() -> None:
    async with MemoryHub() as hub:
        await aviary(hub)
        peer = await guest(hub)
        for kind, body in HIDDEN.items():
            if not body:
                continue
            there = await said(peer, kind, body)
            text = msgspec.json.encode(body).replace(b"aviary", b"nowhere")
            absent = await said(peer, kind, msgspec.json.decode(text))
            assert there.replace(b"aviary", b"nowhere") == absent, kind


async def test_agents_of_other_rooms_are_not_there() -> None:
    async with MemoryHub() as hub:
        await aviary(hub)
        peer = await guest(hub)
        told = await said(peer, "agent.list", {})
        assert b"host" in told
        assert b"guest" in told
        assert birds(told) == []
        for kind, body in (
            ("message.send", {"to": ["tweety"], "body": "x"}),
            ("message.send", {"to": ["tweety"], "body": "x", "create": True}),
            ("card.get", {"name": "tweety"}),
            ("file.begin", {"to": ["tweety"], "name": "x", "bytes": 1, "sha256": "0" * 64, "create": True}),
            ("value.transfer", {"key": "k", "to": "tweety", "room": "lab"}),
        ):
            if kind == "value.transfer":
                assert b'"error"' not in await said(peer, "value.put", {"key": "k", "value": 1, "room": "lab"})
            there = await said(peer, kind, body)
            absent = await said(
                peer, kind, msgspec.json.decode(msgspec.json.encode(body).replace(b"tweety", b"nobody"))
            )
            assert b"not_found" in there, kind
            assert b"--create" not in there, "who is kept to some rooms makes no agents"
            assert there.replace(b"tweety", b"nobody") == absent, kind
        assert birds(await said(peer, "message.send", {"to": ["tweetu"], "body": "near?"})) == []
        mention = await said(peer, "message.send", {"channel": "lab:general", "body": "@tweety @host"})
        assert b'"mentions":["host"]' in mention
        assert b"not_permitted" in await said(peer, "message.send", {"to": ["role:keeper"], "body": "x"})
        assert b'"error"' not in await said(peer, "message.send", {"to": ["host"], "body": "x"})


async def test_a_digest_counts_the_agents_that_the_token_knows() -> None:
    async with MemoryHub() as hub:
        await aviary(hub)
        peer = await guest(hub)
        known = b'{"of":"agents","counts":{"not online":1,"online":1},"total":2}'
        assert known in await said(peer, "digest.read", {"room": "lab"})
        assert len(hub.state.agents.by_id) == 3, "tweety is in another room"


async def test_no_feed_tells_of_another_room() -> None:
    async with MemoryHub() as hub:
        tweety = await aviary(hub)
        peer = await guest(hub)
        follow = Subscribe(channels=("lab:general",), presence=True, leases=True, values=("lab",), plans=("lab",))
        await peer.ask(follow, Subscribed)
        first = b"".join(bytes(frame.body) for frame in await peer.listen() if frame.body)
        for kind, body in (
            ("message.send", {"channel": "aviary:general", "body": "birdsong"}),
            ("lease.claim", {"room": "aviary", "task": "nest-egg2"}),
            ("lease.release", {"room": "aviary", "task": "nest-egg2"}),
            ("value.put", {"room": "aviary", "key": "plumage", "value": "birdsong"}),
            ("task.declare", {"room": "aviary", "task": "nest-egg3"}),
            ("agent.declare", {"status": "busy"}),
        ):
            assert b'"error"' not in await said(tweety, kind, body), kind
        await tweety.peer.aclose()
        await hub.advance(60_000)
        told = first + b"".join(bytes(frame.body) for frame in await peer.listen() if frame.body)
        assert birds(told) == []
        assert b"presence" in b"".join(frame.type.encode() for frame in peer.heard)


async def test_another_rooms_holder_is_not_named_where_paths_meet() -> None:
    async with MemoryHub() as hub:
        await aviary(hub)
        peer = await guest(hub)
        claim: dict[str, object] = {"room": "lab", "task": "mine", "worktree": "w", "paths": ["src/a"]}
        told = await said(peer, "lease.claim", claim)
        assert b"lease_held" in told
        assert birds(told) == []


async def test_a_grant_is_for_the_names_of_rooms_and_makes_them() -> None:
    async with MemoryHub() as hub:
        peer = await guest(hub)
        assert b'"created":true' not in await said(peer, "room.join", {"room": "elsewhere"})
        assert "elsewhere" not in hub.state.rooms.by_name
        assert b'"created":true' in await said(peer, "channel.join", {"channel": "lab:new"})
        boss = await operator(hub)
        assert b"lab" in await said(boss, "room.list", {})


async def test_a_room_that_is_made_later_is_told_of_where_leases_are_followed() -> None:
    async with MemoryHub() as hub:
        peer = await guest(hub)
        await peer.ask(LeaveRoom(room="lab"), Place)
        assert b'"error"' not in await said(await operator(hub), "room.delete", {"room": "lab"})
        await peer.ask(Subscribe(leases=True), Subscribed)
        assert b'"created":true' in await said(peer, "room.join", {"room": "lab"})
        assert b"lease.changed" in await said(peer, "lease.claim", {"room": "lab", "task": "T1"})


async def test_a_circle_through_another_room_is_told_without_the_names_in_it() -> None:
    async with MemoryHub() as hub:
        tweety, peer = await aviary(hub), await guest(hub)
        mine = {"room": "lab", "worktree": "w"}
        assert b'"error"' not in await said(peer, "lease.claim", {**mine, "task": "t", "paths": ["docs/**"]})
        line = {"room": "aviary", "task": "wait", "worktree": "w", "paths": ["docs/x"], "wait_ms": None}
        await tweety.peer.send(msgspec.json.encode({"type": "lease.claim", "id": 1, "body": line}))
        await tweety.listen()
        told = await said(peer, "lease.claim", {**mine, "task": "u", "paths": ["src/x"], "wait_ms": None})
        assert b'"code":"deadlock"' in told
        assert birds(told) == []
        assert b'"cycle":["guest","private","guest"]' in told
