"""A listening socket: newcomers cost their host something, wait outside for it, and never hold up the others."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest

from synapse.hub import door as door_module
from synapse.hub.buckets import Buckets
from synapse.hub.door import AT_ONCE, NEWCOMER_TOKENS, Door
from synapse.testing import ManualClock

HOST = "127.0.0.1"


class Guest(asyncio.BufferedProtocol):
    """Who came in."""

    def __init__(self, inside: list[asyncio.BaseTransport]) -> None:
        self._inside = inside

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inside.append(transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        return bytearray(16)


class House(NamedTuple):
    """A door, and who is inside. outside: sockets that want in."""

    door: Door
    clock: ManualClock
    buckets: Buckets
    port: int
    inside: list[asyncio.BaseTransport]
    outside: list[socket.socket]

    async def knock(self, count: int) -> list[socket.socket]:
        """So many newcomers."""
        loop, new = asyncio.get_running_loop(), [socket.socket() for _ in range(count)]
        self.outside.extend(new)
        for raw in new:
            raw.setblocking(False)
            await loop.sock_connect(raw, (HOST, self.port))
        await self.settle()
        return new

    async def settle(self) -> None:
        """Let rounds go by."""
        await asyncio.sleep(0.05)


@asynccontextmanager
async def house(*, rate: int = 1_000, burst: int) -> AsyncIterator[House]:
    """A house whose hosts may spend so many tokens."""
    inside: list[asyncio.BaseTransport] = []
    outside: list[socket.socket] = []
    clock, buckets = ManualClock(), Buckets("host", rate, burst)
    raw = socket.socket()
    raw.bind((HOST, 0))
    door = Door(raw, lambda: Guest(inside), lambda _: HOST, buckets, clock)
    door.open()
    try:
        yield House(door, clock, buckets, raw.getsockname()[1], inside, outside)
    finally:
        door.close()
        for transport in inside:
            transport.abort()  # type: ignore[attr-defined]  # a socket's transport aborts
        for one in outside:
            one.close()
        await asyncio.sleep(0)


async def is_cut(raw: socket.socket) -> bool:
    """True when the other side has closed."""
    try:
        async with asyncio.timeout(0.2):
            return await asyncio.get_running_loop().sock_recv(raw, 1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


async def test_newcomers_enter_as_fast_as_the_bucket_of_their_host_fills() -> None:
    async with house(burst=8 * NEWCOMER_TOKENS) as here:
        await here.knock(9)
        assert len(here.inside) == 7, "an eighth is left to who is in"
        here.clock.advance(NEWCOMER_TOKENS)
        await here.settle()
        assert len(here.inside) == 8
        await here.settle()
        assert len(here.inside) == 8
        here.clock.advance(NEWCOMER_TOKENS)
        await here.settle()
        assert len(here.inside) == 9


async def test_who_hung_up_before_its_turn_costs_its_host_nothing() -> None:
    async with house(burst=2 * NEWCOMER_TOKENS) as here:
        await here.knock(2)
        waiting = await here.knock(3)
        for raw in waiting[:2]:
            raw.close()
        here.clock.advance(NEWCOMER_TOKENS)
        await here.settle()
        assert len(here.inside) == 3, "with the tokens of one"
        assert here.inside[2].get_extra_info("peername") == waiting[2].getsockname()


async def test_more_of_one_host_than_may_wait_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "PARKED_MAX", 2)
    async with house(burst=2 * NEWCOMER_TOKENS) as here:
        came = await here.knock(7)
        assert len(here.inside) == 2
        assert [await is_cut(raw) for raw in came] == [False] * 4 + [True] * 3
        here.clock.advance(2 * NEWCOMER_TOKENS)
        await here.settle()
        assert len(here.inside) == 4


async def test_few_are_accepted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(burst=100 * NEWCOMER_TOKENS) as here:
        at_once: list[int] = []
        accept = here.door._accept

        def counted() -> None:
            before = len(here.door._entering)
            accept()
            at_once.append(len(here.door._entering) - before)

        asyncio.get_running_loop().remove_reader(here.door._raw)
        await here.knock(3 * AT_ONCE)
        asyncio.get_running_loop().add_reader(here.door._raw, counted)
        await here.settle()
        assert len(here.inside) == 3 * AT_ONCE == sum(at_once)
        assert max(at_once) <= AT_ONCE


async def test_a_closed_door_cuts_off_who_waits_outside() -> None:
    async with house(burst=2 * NEWCOMER_TOKENS) as here:
        came = await here.knock(4)
        here.door.close()
        assert [await is_cut(raw) for raw in came] == [False, False, True, True]
        with pytest.raises(ConnectionRefusedError):
            await here.knock(1)


async def test_once_somebody_has_to_wait_one_is_accepted_in_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "ROUND_S", 60)
    async with house(burst=2 * NEWCOMER_TOKENS) as here:
        await here.knock(6)
        assert len(here.inside) == 2
        assert len(here.door._parked[HOST]) == 1
        here.door._accept()  # as in the next round
        assert len(here.door._parked[HOST]) == 2
