"""The asynchronous client goes on over kills of the hub: each send once, each feed without gap or repeat."""

import asyncio
import contextlib
import itertools
import json
import random
import time
from pathlib import Path

import msgspec
import pytest
from tests.crash.checker import check
from tests.crash.history import Frame, Heard, History, Op, Segment
from tests.crash.killing import Hubs, journal_of

from synapse.client.client import Client
from synapse.protocol.commands import JoinChannel
from synapse.protocol.replies import Acked, Place, Sent, Taken

KILLS = 7
CHANNEL = "load:a"


class Notes:
    """What the clients did, in the terms of the checker."""

    def __init__(self) -> None:
        self.history = History()
        self.is_over = False
        self.is_all_sent = False
        self._numbers = itertools.count(1)

    def done(
        self,
        agent: str,
        type_: str,
        body: Frame,
        begun_ns: int,
        reply: Sent | Taken | Acked | Place,
        key: str | None = None,
    ) -> None:
        said: Frame = json.loads(msgspec.json.encode(reply))
        frame: Frame = {"type": "reply", "seq": int(reply.cursor.partition(":")[2]), "body": said}
        number = next(self._numbers)
        self.history.ops.append(
            Op(agent, agent, 1, number, type_, key, body, begun_ns, time.monotonic_ns(), frame),
        )


async def say(client: Client, agent: str, notes: Notes, word: str, where: Frame) -> int:
    """Send one message under a key; its seq."""
    mark = f"{agent}.{word}"
    begun_ns = time.monotonic_ns()
    sent = await client.send({"mark": mark}, **where, idem_key=mark)
    notes.done(agent, "message.send", {**where, "body": {"mark": mark}}, begun_ns, sent, mark)
    return int(sent.id[1:])


async def write(client: Client, agent: str, notes: Notes, chance: random.Random) -> None:
    for serial in itertools.count(1):
        if notes.is_over:
            return
        await say(
            client, agent, notes, str(serial), {"to": ["worker"]} if chance.random() < 0.3 else {"channel": CHANNEL}
        )
        await asyncio.sleep(chance.uniform(0.0, 0.03))


async def follow(client: Client, agent: str, notes: Notes, upto: asyncio.Future[int]) -> None:
    async with client.subscribe(CHANNEL) as feed:
        assert feed.cursor is not None
        begun: Frame = {"from_cursor": feed.cursor, "positions": [], "cursor": feed.cursor}
        asked: Frame = {"channels": [CHANNEL], "inbox": False}
        frame: Frame = {"type": "reply", "seq": int(feed.cursor.partition(":")[2]), "body": begun}
        segment = Segment(Op(agent, agent, 1, 0, "feed.subscribe", None, asked, 0, 1, frame))
        notes.history.segments.append(segment)
        while not upto.done() or int(feed.cursor.partition(":")[2]) < upto.result():
            message = await anext(feed)
            seq = int(message.id[1:])
            heard: Frame = {"type": "message", "seq": seq, "body": json.loads(msgspec.json.encode(message))}
            segment.heard.append(Heard(time.monotonic_ns(), heard))
    notes.history.ends[agent] = upto.result()


async def work(client: Client, agent: str, notes: Notes) -> None:
    while True:
        is_last = notes.is_all_sent
        begun_ns = time.monotonic_ns()
        taken = await client.take(wait=1.0)
        if taken is None:
            if is_last:
                return
            continue
        notes.done(agent, "inbox.take", {}, begun_ns, taken)
        begun_ns = time.monotonic_ns()
        acked = await client.ack(taken.message.id)
        notes.done(agent, "inbox.ack", {"ids": [taken.message.id]}, begun_ns, acked)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.xdist_group("crash")
async def test_the_client_carries_on_over_kills_of_the_hub(tmp_path: Path) -> None:
    home, notes = tmp_path / "home", Notes()
    with Hubs(home, tmp_path / "hub.log") as hubs:
        hubs.start()
        async with contextlib.AsyncExitStack() as stack:
            names = ("writer-a", "writer-b", "worker", "reader")
            clients = {
                name: await stack.enter_async_context(Client(name=name, home=home, timeout=60.0)) for name in names
            }
            begun_ns = time.monotonic_ns()
            joined = await clients["worker"].request(JoinChannel(channel=CHANNEL), Place, idem_key="join")
            notes.done("worker", "channel.join", {"channel": CHANNEL}, begun_ns, joined, key="join")
            await live_through(hubs, clients, notes)
        assert hubs.stop() == 0
    journal = journal_of(home)
    # The client does not say which of its answers were given to a repeat, so this rule has no seqs to compare.
    findings = [finding for finding in check(notes.history, journal) if finding.rule != "time reversed"]
    assert findings == []
    read = sum(len(segment.heard) for segment in notes.history.segments)
    print(f"\n{KILLS + 1} kills, {len(notes.history.ops)} acknowledged, {read} messages read, 0 findings")
    assert read > 50


async def live_through(hubs: Hubs, clients: dict[str, Client], notes: Notes) -> None:
    """Everybody works while the hub is killed, and ends when it is killed no more and all is read."""
    upto: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def kill() -> None:
        hubs.kill()
        hubs.kill_often(KILLS, random.Random(2))

    async with asyncio.TaskGroup() as group:
        group.create_task(follow(clients["reader"], "reader", notes, upto))
        group.create_task(work(clients["worker"], "worker", notes))
        writers = [name for name in clients if name.startswith("writer")]
        writing = [group.create_task(write(clients[name], name, notes, random.Random(name))) for name in writers]
        await asyncio.to_thread(kill)
        notes.is_over = True
        await asyncio.wait(writing)
        last = await say(clients[writers[0]], writers[0], notes, "last", {"channel": CHANNEL})
        upto.set_result(last)
        notes.is_all_sent = True
