"""Repeats under an idempotency key by who was put out of a private room: nothing of what came after is told."""

import hashlib
import json
from typing import Any

from tests.hub.conftest import Voice, quiet, voice

from synapse.testing import MemoryHub

CANARY = "canary"
UNKNOWN = {
    "lease": {"remaining_ms", "expires_at_ms", "status", "live", "plan", "ttl_ms", "note"},
    "task": {"ready", "version", "declared_by", "description", "declared_at_ms"},
}
"""What no event says of a lease that ended, or of a task that moved, then."""
OLD: list[tuple[str, dict[str, Any]]] = [
    ("channel.create", {"channel": "den:talk"}),
    ("channel.create", {"channel": "den:secret", "private": True}),
    ("channel.join", {"channel": "den:talk"}),
    ("member.invite", {"place": "den", "agent": "cy"}),
    ("message.send", {"channel": "den:talk", "body": "old"}),
    ("task.declare", {"room": "den", "task": "T1", "title": "old"}),
    ("task.declare_all", {"room": "den", "tasks": [{"task": "T2", "title": "old"}, {"task": "T3", "title": "old"}]}),
    ("task.update", {"room": "den", "task": "T2", "status": "in_progress"}),
    ("task.update", {"room": "den", "task": "T2", "status": "in_progress", "note": "old"}),
    ("task.note", {"room": "den", "task": "T3", "text": "old"}),
    ("lease.claim", {"room": "den", "task": "T1", "note": "old"}),
    ("lease.renew", {"room": "den", "task": "T1", "note": "older"}),
    ("lease.checkpoint", {"room": "den", "task": "T1", "data": "old"}),
    ("lease.hand_off", {"room": "den", "task": "T1", "to": "ada"}),
    ("lease.claim", {"room": "den", "task": "T4"}),
    ("lease.park", {"room": "den", "task": "T4", "parked": True}),
    ("lease.release", {"room": "den", "task": "T4"}),
    ("lease.claim", {"room": "den", "task": "T5", "note": "old"}),
    ("value.put", {"room": "den", "key": "k1", "value": "old"}),
    ("value.put", {"room": "den", "key": "k2", "value": "old"}),
    ("value.delete", {"room": "den", "key": "k2"}),
    ("value.transfer", {"room": "den", "key": "k1", "to": "ada"}),
    ("question.ask", {"room": "den", "title": "old", "task": "T3"}),
    ("session.start", {"room": "den", "task": "T6", "summary": "old"}),
    ("session.update", {"summary": "older"}),
    ("session.checkpoint", {"data": "old"}),
    ("lane.offer", {"to": "ada", "context": "old", "task": "T6"}),
    (
        "file.begin",
        {"channel": "den:talk", "name": "old.txt", "bytes": 3, "sha256": hashlib.sha256(b"old").hexdigest()},
    ),
]
"""What bob asks for in the room, each under a key."""
NEW: list[tuple[str, dict[str, Any]]] = [
    ("task.update", {"room": "den", "task": "T1", "status": "blocked", "note": CANARY}),
    ("task.declare", {"room": "den", "task": "T2", "title": CANARY, "description": CANARY, "labels": [CANARY]}),
    ("task.declare", {"room": "den", "task": "T3", "title": CANARY, "suggested_owner": "ada"}),
    ("task.note", {"room": "den", "task": "T3", "text": CANARY}),
    ("lease.renew", {"room": "den", "task": "T1", "note": CANARY}),
    ("lease.checkpoint", {"room": "den", "task": "T1", "data": CANARY}),
    ("lease.claim", {"room": "den", "task": "T4", "note": CANARY}),
    ("lease.claim", {"room": "den", "task": "T5", "note": CANARY, "branch": CANARY}),
    ("lease.checkpoint", {"room": "den", "task": "T5", "data": CANARY}),
    ("value.put", {"room": "den", "key": "k1", "value": CANARY}),
    ("value.put", {"room": "den", "key": "k2", "value": CANARY}),
    ("message.send", {"channel": "den:talk", "body": CANARY}),
    ("channel.create", {"channel": "den:canary"}),
    ("question.ask", {"room": "den", "title": CANARY, "task": "T3"}),
]
"""What ada does when bob is out."""


async def ask(line: Voice, kind: str, body: dict[str, Any], key: str | None = None) -> dict[str, Any]:
    """The answer to a request as it is on the wire."""
    line.next_id += 1
    frame = {"type": kind, "id": line.next_id, "body": body, **({} if key is None else {"idem_key": key})}
    await line.peer.send(json.dumps(frame).encode())
    await quiet(line.hub)
    for data in line.peer.received_now():
        answer: dict[str, Any] = json.loads(data)
        if answer.get("id") == line.next_id and answer["type"] in ("reply", "error"):
            return answer
    raise AssertionError(f"{kind} is not answered")


async def test_who_was_put_out_learns_nothing_new_from_repeats() -> None:
    async with MemoryHub() as hub:
        ada, bob, _ = await voice(hub), await voice(hub, "bob"), await voice(hub, "cy")
        await ask(ada, "room.create", {"room": "den", "private": True})
        await ask(ada, "member.invite", {"place": "den", "agent": "bob"})
        assert (await ask(bob, "room.join", {"room": "den"}, "j"))["type"] == "reply"
        first = {key: await ask(bob, kind, body, f"{key}") for key, (kind, body) in enumerate(OLD)}
        assert [(OLD[key], it) for key, it in first.items() if it["type"] == "error"] == []
        assert (await ask(ada, "member.kick", {"place": "den", "agent": "bob"}))["type"] == "reply"
        for kind, body in NEW:
            if kind == "task.declare":
                there = await ask(ada, "task.show", {"room": "den", "task": body["task"]})
                body = {**body, "if_version": there["body"]["version"]}
            assert (await ask(ada, kind, body))["type"] == "reply", (kind, body)
        for key, (kind, body) in enumerate(OLD):
            again = await ask(bob, kind, body, f"{key}")
            assert CANARY not in json.dumps(again)
            if kind == "lease.hand_off" or (
                "note" in body and kind == "task.update"
            ):  # told as it is now, or not at all
                assert (again["type"], again["error"]["code"]) == ("error", "not_found")
                continue
            assert (again["type"], again.get("replayed")) == ("reply", True), (kind, again)
            was, now = first[key]["body"], again["body"]
            changed = {name for name in {*was, *now} if was.get(name) != now.get(name)}
            assert changed <= UNKNOWN.get(kind.partition(".")[0], set()), (kind, body, changed)


async def test_the_repeat_of_a_declaration_tells_what_was_declared_then() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        old = {"task": "T1", "title": "old", "labels": ["a"], "priority": "high"}
        was = (await ask(ada, "task.declare", old, "k"))["body"]
        new = {
            "task": "T1",
            "title": "new",
            "description": "new",
            "if_version": was["version"],
            "suggested_owner": "ada",
        }
        assert (await ask(ada, "task.declare", new, "k2"))["type"] == "reply"
        again = await ask(ada, "task.declare", old, "k")
        assert (again["replayed"], again["body"]) == (True, was)
        await ask(ada, "task.update", {"task": "T1", "status": "in_progress"})
        again = await ask(ada, "task.declare", old, "k")
        assert (again["body"]["title"], again["body"]["status"]) == ("old", "in_progress"), "the status is of now"
