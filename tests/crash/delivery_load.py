"""A sender or a receiver of direct messages, as a process of its own: `python -m tests.crash.delivery_load ROLE …`.

send HOME RUN NAME TO       sends to TO in turn, under keys, until RUN/stop is there; notes each acknowledged id
take HOME RUN NAME          takes, and acks most of what it takes, until RUN/drain is there and nothing is left
follow HOME RUN NAME        the same by a feed of deliveries, some messages ahead, acks of several at once
"""

import asyncio
import random
import sys
import time
from contextlib import suppress
from pathlib import Path

from synapse.client.blocking import BlockingClient, connect
from synapse.client.client import Client
from synapse.client.deliveries import DeliveryFeed
from synapse.errors import HubUnreachable, Rejected
from synapse.protocol.notices import Lent
from synapse.protocol.replies import Taken


def _connected(home: Path, name: str) -> BlockingClient:
    """The first connection too comes over a hub that is just being killed."""
    for _ in range(300):
        with suppress(HubUnreachable):
            return connect(name=name, home=home, timeout=60)
        time.sleep(0.1)
    return connect(name=name, home=home, timeout=60)


def send(home: Path, run: Path, name: str, to: list[str]) -> None:
    """Send until it is enough. What is noted was acknowledged."""
    chance, number = random.Random(name), 0
    with _connected(home, name) as hub, (run / f"{name}.sent").open("a", buffering=1) as sent:
        while not (run / "stop").exists():
            number += 1
            names = (to[number % len(to)],) if number % 5 else tuple(to)
            key = f"{name}.{number}"
            if chance.random() < 0.1:
                try:
                    reply = hub.send(number, expires=chance.uniform(0.05, 1.0), to=names, create=True, idem_key=key)
                except Rejected as refusal:
                    if refusal.code == "bad_request" and "expires_at_ms" in refusal.detail:
                        continue  # its date passed while the hub was away: it was never taken
                    raise
            else:
                priority = chance.choice(("low", "normal", "high", "urgent"))
                reply = hub.send(number, to=names, create=True, priority=priority, idem_key=key)  # type: ignore[arg-type]  # one of them
            sent.write(f"{reply.id} {' '.join(reply.to or ())}\n")
            time.sleep(0.002)


def take(home: Path, run: Path, name: str) -> None:
    """Take until nothing is left. Now and then it forgets to ack what it took."""
    chance = random.Random()
    with _connected(home, name) as hub:
        while (taken := _next(hub, run)) is not None:
            with (run / f"{name}.taken").open("a") as log:
                log.write(f"{taken.message.id}\n")
            if chance.random() < 0.9 or (run / "drain").exists():
                hub.ack(taken.message.id)


def _next(hub: BlockingClient, run: Path) -> Taken | None:
    while True:
        taken = hub.take(wait=0.5)
        if taken is not None or (run / "drain").exists():
            return taken


async def follow(home: Path, run: Path, name: str) -> None:
    """Read what is lent ahead until nothing is left. Acks go out together, those of a batch now and then not at all."""
    chance = random.Random()
    client = Client(name=name, home=home, timeout=60)
    for _ in range(300):
        with suppress(HubUnreachable):
            await client.connect()
            break
        await asyncio.sleep(0.1)
    async with client, client.deliveries(4) as feed:
        while (batch := await _batch(feed, run)) is not None:
            with (run / f"{name}.taken").open("a") as log:
                log.writelines(f"{lent.message.id}\n" for lent in batch)
            if chance.random() < 0.9 or (run / "drain").exists():
                await asyncio.gather(*(client.ack(lent.message.id) for lent in batch))


async def _batch(feed: DeliveryFeed, run: Path) -> list[Lent] | None:
    """One message, and those that came with it."""
    while True:
        try:
            batch = [await asyncio.wait_for(anext(feed), 1.5)]
            with suppress(TimeoutError):
                while len(batch) < 4:
                    batch.append(await asyncio.wait_for(anext(feed), 0.01))
            return batch
        except TimeoutError:
            if (run / "drain").exists():
                return None


if __name__ == "__main__":
    _, role, home, run, name, *rest = sys.argv
    if role == "send":
        send(Path(home), Path(run), name, rest)
    elif role == "follow":
        asyncio.run(follow(Path(home), Path(run), name))
    else:
        take(Path(home), Path(run), name)
