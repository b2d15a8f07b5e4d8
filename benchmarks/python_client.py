"""What a Python program gets: N connections in one asyncio process, each takes a lock and gives it back, one at a time.

Both sides use the product's own asynchronous library with its defaults: `redis.asyncio` with SET NX PX and DEL, or
`synapse.client` with claim and release. Runs under the Python of whichever is measured; prints figures like load.c's.
"""

import argparse
import asyncio
import hashlib
import time
from typing import Protocol

from client_run import Measured, main, require

TTL_MS = 900_000
WORKTREE = "bench:/example/repository"
TOKEN = "0123456789abcdef"


class Lock(Protocol):
    """One lock of one connection. Each answer is checked."""

    async def open(self) -> None: ...
    async def take(self) -> None: ...
    async def give_back(self) -> None: ...
    async def close(self) -> None: ...


class RedisLock:
    """`SET key token NX PX ttl` and `DEL key`."""

    def __init__(self, options: argparse.Namespace, number: int) -> None:
        from redis.asyncio import Redis  # type: ignore[import-not-found]  # only in the environment of that client

        host, _, port = options.target.rpartition(":")
        place = {"host": host, "port": int(port)} if host else {"unix_socket_path": options.target}
        self._client = Redis(single_connection_client=True, **place)
        self._key = f"lease/{number:07}"

    async def open(self) -> None:
        """Connect."""
        assert await self._client.ping()

    async def take(self) -> None:
        """Lock."""
        require(await self._client.set(self._key, TOKEN, nx=True, px=TTL_MS) is True, f"SET NX of {self._key}")

    async def give_back(self) -> None:
        """Unlock."""
        require(await self._client.delete(self._key) == 1, f"DEL of {self._key}")

    async def close(self) -> None:
        """Disconnect."""
        await self._client.aclose()


class SynapseLease:
    """A claim of a scope of one's own, and its release under the epoch of the grant."""

    def __init__(self, options: argparse.Namespace, number: int) -> None:
        from synapse.client.client import Client

        uri = f"unix:{options.target}" if options.target.startswith("/") else f"ws://{options.target}"
        name = f"bench-{number + 1:04}"
        secret = hashlib.sha256(f"benchmark {name}".encode()).hexdigest()
        self._client = Client(uri, name=name, secret=secret, home=options.home)
        self._task, self._path = f"bench-{number:07}", f"src/mod_{number:07}/**"
        self._epoch = 0

    async def open(self) -> None:
        """Connect."""
        await self._client.connect()

    async def take(self) -> None:
        """Claim."""
        lease = await self._client.claim(self._task, paths=self._path, worktree=WORKTREE, ttl=TTL_MS / 1e3)
        is_mine = lease.task == self._task and lease.outcome == "granted" and lease.epoch > self._epoch
        require(is_mine, f"the claim of {self._task} after epoch {self._epoch}: {lease}")
        self._epoch = lease.epoch

    async def give_back(self) -> None:
        """Release."""
        released = await self._client.release(self._task, epoch=self._epoch)
        is_that = released.released and released.epoch == self._epoch
        require(is_that, f"the release of {self._task} with epoch {self._epoch}: {released}")

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()


class Run(Measured):
    """All connections."""

    async def work(self, lock: Lock) -> None:
        """Take and give back until the time is over."""
        while time.perf_counter() < self.measure_until:
            for act in (lock.take, lock.give_back):
                started = time.perf_counter()
                await act()
                self.count(started)

    async def run(self) -> dict[str, float]:
        """The figures."""
        kind = RedisLock if self.options.product == "redis" else SynapseLease
        locks: list[Lock] = [kind(self.options, number) for number in range(self.options.connections)]
        await asyncio.gather(*(lock.open() for lock in locks))
        figures = await self.during(*(self.work(lock) for lock in locks))
        await asyncio.gather(*(lock.close() for lock in locks))
        return figures


if __name__ == "__main__":
    main("python client", __doc__, ("redis", "synapse"), ("--connections",), lambda options: Run(options).run())
