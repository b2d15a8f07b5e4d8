"""What Python programs get of each other: pairs of a sender and a receiver in one asyncio process, a connection each.

A message counts when it went the whole way: its sender was told that it is durable, its receiver got it, and was told
that its ack is. In each pair as many messages are on that way as its window is wide; when one has arrived the next one
is sent.

Both sides use the product's own asynchronous library. Synapse: `send`, `deliveries` and `ack`. NATS: `publish` of
JetStream, a durable push consumer with explicit acks, and `ack_sync`, which alone says that the ack has arrived. Each
receiver has a stream of its own, which keeps what was acked, as the hub's journal does: of one stream or many, push or
pull, and of the three retentions, the fastest that was found. Nothing is repeated and NATS is not asked to look for
repeats; Synapse's library sends its idempotency keys as always. Prints figures like load.c's.
"""

import argparse
import asyncio
import hashlib
import json
import time
from itertools import count
from typing import Any, Protocol

from client_run import Measured, main, require

BYTES = 200
QUIET_S = 20.0
"""How long the last messages may take to arrive once the time is over."""


class Pair(Protocol):
    """A sender and a receiver. What is sent is a number, filled up to 200 bytes of JSON."""

    async def open(self) -> None: ...
    async def send(self, number: int) -> None: ...
    async def receive(self) -> int: ...
    async def close(self, sent: int) -> None: ...


def body_with(number: int) -> dict[str, object]:
    """What a message says."""
    return {"n": number, "text": "x" * (BYTES - 24)}


class SynapsePair:
    """The receiver is lent as many messages ahead as the window is wide; so many times `receive` may run at once."""

    def __init__(self, options: argparse.Namespace, number: int) -> None:
        from synapse.client.client import Client

        def client(role: str) -> Any:
            name = f"{role}-{number:04}"
            secret = hashlib.sha256(f"benchmark {name}".encode()).hexdigest()
            return Client(
                ("unix:" if options.target.startswith("/") else "ws://") + options.target,
                name=name,
                secret=secret,
                home=options.home,
            )

        self._to, self._window = f"receiver-{number:04}", options.window
        self._sender, self._receiver = client("sender"), client("receiver")

    async def open(self) -> None:
        """Connect both."""
        await self._receiver.connect()
        await self._sender.connect()
        self._arrived = await self._receiver.deliveries(self._window).__aenter__()

    async def send(self, number: int) -> None:
        """Send, and wait until it is durable."""
        sent = await self._sender.send(body_with(number), to=self._to)
        require(sent.to == (self._to,), f"the answer to message {number}: {sent}")

    async def receive(self) -> int:
        """The next one that is lent, acked; its number."""
        taken = await anext(self._arrived)
        require(taken.lends == 1, f"a message came again: {taken}")
        acked = await self._receiver.ack(taken.message.id)
        require(acked.acked == (taken.message.id,), f"the ack of {taken.message.id}: {acked}")
        number: int = json.loads(bytes(taken.message.body))["n"]
        return number

    async def close(self, sent: int) -> None:
        """Disconnect. The rows in the journal are counted by the benchmark."""
        await self._arrived.__aexit__(None, None, None)
        await self._sender.close()
        await self._receiver.close()


class NatsPair:
    """A stream, and a durable push consumer of it whose messages wait in a queue."""

    def __init__(self, options: argparse.Namespace, number: int) -> None:
        self._uri = f"nats://{options.target}"
        self._stream, self._subject = f"INBOX-{number}", f"inbox.{number}"
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()

    async def open(self) -> None:
        """Connect both, and make the receiver's stream and consumer."""
        import nats  # type: ignore[import-not-found]  # only in the environment of that client
        from nats.js.api import (  # type: ignore[import-not-found]  # as above
            AckPolicy,
            ConsumerConfig,
            RetentionPolicy,
            StorageType,
            StreamConfig,
        )

        self._sender, self._receiver = await nats.connect(self._uri), await nats.connect(self._uri)
        self._jetstream = self._sender.jetstream()
        stream = StreamConfig(
            name=self._stream,
            subjects=[self._subject],
            storage=StorageType.FILE,
            retention=RetentionPolicy.LIMITS,
            num_replicas=1,
        )
        await self._jetstream.add_stream(stream)
        await self._receiver.jetstream().subscribe(
            self._subject,
            durable="receiver",
            stream=self._stream,
            cb=self._arrived.put,
            manual_ack=True,
            config=ConsumerConfig(ack_policy=AckPolicy.EXPLICIT),
        )

    async def send(self, number: int) -> None:
        """Publish, and wait until it is durable."""
        told = await self._jetstream.publish(self._subject, json.dumps(body_with(number)).encode(), stream=self._stream)
        require(told.stream == self._stream and not told.duplicate, f"the answer to message {number}: {told}")

    async def receive(self) -> int:
        """The next one that arrives, acked; its number."""
        message = await self._arrived.get()
        require(message.metadata.num_delivered == 1, f"a message came again: {message}")
        await message.ack_sync()
        number: int = json.loads(message.data)["n"]
        return number

    async def close(self, sent: int) -> None:
        """Disconnect. Raises `Wrong` unless the stream has every message, and each is acked."""
        stored = (await self._jetstream.stream_info(self._stream)).state.last_seq
        told = await self._jetstream.consumer_info(self._stream, "receiver")
        is_done = stored == sent == told.ack_floor.stream_seq and told.num_ack_pending == 0
        require(is_done, f"{sent} were sent to {self._stream}, which has {stored}; {told}")
        await self._sender.close()
        await self._receiver.close()


class Run(Measured):
    """All pairs."""

    async def work(self, pair: Pair) -> None:
        """Send until the time is over, and receive until everything has arrived, each once. What goes wrong in one of
        the tasks ends the run."""
        on_the_way: dict[int, asyncio.Future[None]] = {}
        numbers = count(1)

        async def send() -> None:
            while (started := time.perf_counter()) < self.measure_until:
                number = next(numbers)
                done = on_the_way[number] = asyncio.get_running_loop().create_future()
                await pair.send(number)
                await done
                self.count(started)

        async def receive() -> None:
            while True:
                number = await pair.receive()
                on_the_way.pop(number).set_result(None)  # a KeyError: it came twice

        async with asyncio.TaskGroup() as group:
            receivers = [group.create_task(receive()) for _ in range(self.options.window)]
            senders = [group.create_task(send()) for _ in range(self.options.window)]
            async with asyncio.timeout(self.measure_until - time.perf_counter() + QUIET_S):
                await asyncio.gather(*senders)
            for task in receivers:
                task.cancel()
        require(not on_the_way, f"{len(on_the_way)} messages did not arrive")
        await pair.close(next(numbers) - 1)

    async def run(self) -> dict[str, float]:
        """The figures."""
        kind = NatsPair if self.options.product == "nats" else SynapsePair
        pairs: list[Pair] = [kind(self.options, number) for number in range(self.options.pairs)]
        for pair in pairs:
            await pair.open()
        return await self.during(*(self.work(pair) for pair in pairs))


if __name__ == "__main__":
    main("direct client", __doc__, ("nats", "synapse"), ("--pairs", "--window"), lambda options: Run(options).run())
