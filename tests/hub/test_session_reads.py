"""Sessions and lanes through a whole hub: pages from the journal, time, kills, and who waits for a task."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.test_bad_input import Bench
from tests.test_transcripts import secret_of

from synapse.core.state import digest
from synapse.testing import MemoryHub


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """ada has a session on T1 and its lease, which lasts 10 s; bob is there."""
    async with MemoryHub() as hub:
        bench = Bench(hub)
        for name in ("ada", "bob"):
            await bench.greet(name, {"name": name, "secret": secret_of(name)})
        await said(bench, "ada", "session.start", task="T1")
        await bench.claim("ada", "T1", ttl_ms=10_000)
        yield bench


async def heard(bench: Bench, who: str, frame: str) -> Any:
    """The answer to a frame, also one that is read from disk after its turn."""
    await bench.peers[who].send(frame.encode())
    wanted = json.loads(frame)["id"]
    while True:
        answer = json.loads(await bench.peers[who].receive())
        if answer.get("id") == wanted:
            return answer


async def said(bench: Bench, who: str, kind: str, **body: object) -> Any:
    answer = await heard(bench, who, json.dumps({"type": kind, "id": f"{who} {kind}", "body": body}))
    assert answer["type"] == "reply", answer
    return answer["body"]


async def test_checkpoints_come_newest_first_page_by_page_and_survive_a_kill(bench: Bench) -> None:
    for n in range(5):
        await said(bench, "ada", "session.checkpoint", data={"n": n})
    session = (await said(bench, "ada", "session.show"))["session"]
    await bench.hub.restart()
    await bench.greet("bob", {"name": "bob", "secret": secret_of("bob")})
    found, after = [], None
    while True:
        page = await said(bench, "bob", "session.checkpoints", session=session, limit=2, after=after)
        found += [point["data"]["n"] for point in page["checkpoints"]]
        after = page["next"]
        if after is None:
            break
    assert found == [4, 3, 2, 1, 0]
    await bench.greet("ada", {"name": "ada", "secret": secret_of("ada")})
    await said(bench, "ada", "session.end", state="done")
    ended = await said(bench, "ada", "session.checkpoints", limit=1)
    assert (ended["session"], len(ended["checkpoints"])) == (session, 1), "without a name: the latest, open or not"


async def test_who_waits_for_the_task_is_answered_with_what_broke_off_in_the_same_turn(bench: Bench) -> None:
    await said(bench, "ada", "session.checkpoint", data={"step": 1})
    await bench.peers["bob"].send(b'{"type":"lease.claim","id":77,"body":{"task":"T1","wait_ms":null}}')
    await bench.hub.settle()
    bench.peers["bob"].received_now()
    await bench.hub.advance(11_000)
    await bench.hub.settle()
    frames = [frame.decode() for frame in bench.peers["bob"].received_now()]
    (answer,) = [frame for frame in frames if '"id":77' in frame]
    assert '"resume":{' in answer
    assert '"data":{"step":1}' in answer
    assert (await said(bench, "bob", "session.show", agent="ada"))["resumed_by"] == "bob"


async def test_time_ends_offers_and_brings_dates(bench: Bench) -> None:
    await said(bench, "ada", "session.checkpoint", data=1)
    at_ms = bench.hub.clock.wall_ms()
    await said(bench, "ada", "session.update", resumable_at_ms=at_ms + 30_000)
    lane = (await said(bench, "ada", "lane.offer", to="bob", timeout_ms=10_000))["lane"]
    await bench.hub.advance(11_000)
    assert (await said(bench, "bob", "lane.show", lane=lane))["info"]["state"] == "timed_out"
    letter = (await said(bench, "ada", "inbox.take"))["message"]["body"]
    assert (letter["type"], letter["lane"]) == ("lane.timed_out", lane)
    assert (await said(bench, "bob", "session.list", resumable=True))["sessions"] == []
    await bench.hub.advance(20_000)
    assert len((await said(bench, "bob", "session.list", resumable=True))["sessions"]) == 1
    assert bench.hub.replayed_digest() == digest(bench.hub.state)


async def test_an_agent_that_only_waits_stays_online_and_beats_are_not_journalled(bench: Bench) -> None:
    await bench.peers["ada"].send(b'{"type":"inbox.take","id":78,"body":{"wait_ms":600000}}')
    await bench.hub.settle()
    await bench.hub.advance(200_000)
    assert (await said(bench, "bob", "session.show", agent="ada"))["presence"] == "online"
    await bench.peers["ada"].aclose()
    await bench.hub.settle()
    assert (await said(bench, "bob", "session.show", agent="ada"))["presence"] == "offline"
    await bench.greet("ada", {"name": "ada", "secret": secret_of("ada")})
    before = bench.hub.journal.head
    await said(bench, "ada", "session.beat")
    assert bench.hub.journal.head == before
    assert (await said(bench, "bob", "session.show", agent="ada"))["presence"] == "online"


async def test_a_repeat_under_the_same_key_is_told_the_same_also_after_a_kill(bench: Bench) -> None:
    frame = '{"type":"session.update","id":9,"idem_key":"k","body":{"append":{"todos":["t"]}}}'
    first = await heard(bench, "ada", frame)
    await bench.hub.restart()
    await bench.greet("ada", {"name": "ada", "secret": secret_of("ada")})
    again = await heard(bench, "ada", frame)
    assert (again["body"], again["replayed"]) == (first["body"], True)
    assert (await said(bench, "ada", "session.show"))["todos"] == ["t"]


async def test_what_is_read_from_disk_says_of_which_position_it_is(bench: Bench) -> None:
    lane = (await said(bench, "ada", "lane.offer", to="bob", context={"look": "here"}))["lane"]
    await said(bench, "bob", "lane.accept", lane=lane)
    await said(bench, "ada", "lane.send", lane=lane, body="before")
    asked = {"lane.show": {"lane": lane}, "history.read": {"inbox": True}, "progress.read": {}, "inbox.list": {}}
    for kind, body in asked.items():
        await bench.peers["ada"].send(json.dumps({"type": kind, "id": kind, "body": body}).encode())
        later = {"type": "lane.send", "id": "later", "body": {"lane": lane, "body": "later"}}
        await bench.peers["bob"].send(json.dumps(later).encode())
        while (answer := json.loads(await bench.peers["ada"].receive())).get("id") != kind:
            pass
        assert f"{answer['seq']}" == answer["body"]["cursor"].partition(":")[2], kind
        assert answer["seq"] < bench.hub.state.seq, "and more has happened since"
        if kind == "lane.show":
            assert [entry["body"] for entry in answer["body"]["entries"]] == ["before"]
