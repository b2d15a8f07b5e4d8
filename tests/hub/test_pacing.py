"""Pacing: who is over its rate is heard as fast as its bucket fills, in turn, and at nobody else's expense."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.hub.conftest import SECRET, doors, error_of, line, message, reply_of, slow_writer, steps, voice, web
from websockets.frames import Frame, Opcode

from synapse.hub.connection import Connection
from synapse.hub.peers import BULK_BYTES_MAX, TOKEN_BYTES
from synapse.protocol.codec import HubFrame, decode_hub_frame, encode_request
from synapse.protocol.commands import Hello, Ping, SendMessage
from synapse.protocol.limits import Limits
from synapse.protocol.replies import Pong
from synapse.testing import MemoryHub


def pings(count: int) -> bytes:
    """Masked frames, one behind the other."""
    return b"".join(Frame(Opcode.TEXT, encode_request(at, Ping())).serialize(mask=True) for at in range(count))


async def answers(reader: asyncio.StreamReader, count: int) -> list[HubFrame]:
    """The next lines."""
    return [decode_hub_frame(await asyncio.wait_for(reader.readline(), 5)) for _ in range(count)]


async def until(is_true: Callable[[], bool]) -> None:
    """Wait for what the sockets bring about."""
    async with asyncio.timeout(5):
        while not is_true():
            await asyncio.sleep(0.001)


async def one_round(hub: MemoryHub, ms: int) -> None:
    """Let time pass, and who is paced be heard for it."""
    pacer, before_ms = hub.turns.peers._pacer, hub.clock.monotonic_ms()
    hub.clock.advance(ms)
    await until(lambda: pacer._round_ms > before_ms or not pacer._queues)
    await steps()


async def test_a_flood_is_refused_once_and_then_heard_in_slices_each_request_answered_in_order(tmp_path: Path) -> None:
    limits = Limits(rate_agent_per_s=100, rate_agent_burst=5, in_flight_max=8)
    async with MemoryHub(limits=limits) as hub, doors(hub, tmp_path) as listeners:
        peer = await web(listeners)
        [connection] = hub.turns.peers.connections.values()
        peer.writer.write(pings(60))
        await until(lambda: connection.pace is connection.agent_bucket)
        await steps()
        before = hub.turns.totals.requests
        await asyncio.sleep(0.02)
        assert hub.turns.totals.requests == before, "without a token nothing is carried out"
        while hub.turns.totals.requests < 60:  # the hello among them
            await one_round(hub, 10)
        found = [decode_hub_frame((await peer.frame())[1]) for _ in range(60)]
        assert [frame.id for frame in found] == list(range(60))
        assert [error_of(frame).code for frame in found if frame.type == "error"] == ["rate_limited"]
        hub.clock.advance(60_000)
        assert reply_of(await peer.ask(Ping()), Pong)
        assert reply_of(await peer.ask(Ping()), Pong)
        assert connection.pace is None, "it asked for little, and is heard as everybody is"


async def test_who_is_over_a_rate_of_a_few_a_second_is_heard_no_faster_and_refused_no_more(tmp_path: Path) -> None:
    limits = Limits(rate_agent_per_s=2, rate_agent_burst=6)
    async with MemoryHub(limits=limits) as hub, doors(hub, tmp_path) as listeners:
        peer = await web(listeners)
        [connection] = hub.turns.peers.connections.values()
        peer.writer.write(pings(30))
        await until(lambda: connection.pace is not None)
        for _ in range(500):
            await one_round(hub, 10)
        found = [
            decode_hub_frame((await peer.frame())[1]).type for _ in range(hub.turns.totals.requests)
        ]  # without the hello, with the refusal
        assert found == ["reply"] * 6 + ["error"] + ["reply"] * 9, "5 s, of which a token's time is for the refusal"


@pytest.mark.parametrize("burst", range(1, 9))
async def test_at_any_burst_who_goes_on_stays_paced_and_who_pauses_is_heard_as_everybody_is(
    tmp_path: Path, burst: int
) -> None:
    limits = Limits(rate_agent_per_s=10, rate_agent_burst=burst)
    async with MemoryHub(limits=limits) as hub, doors(hub, tmp_path) as listeners:
        peer = await web(listeners)
        [connection] = hub.turns.peers.connections.values()
        peer.writer.write(pings(30))
        while hub.turns.totals.requests < 30:
            await one_round(hub, 10)
            assert hub.turns.totals.requests <= burst or connection.pace is not None
        while connection.is_held:
            await one_round(hub, 10)
        for _ in range(30):
            await peer.frame()
        for _ in range(2):
            hub.clock.advance(60_000)
            assert reply_of(await peer.ask(Ping()), Pong)
            while connection.is_held:
                await one_round(hub, 10)
        assert connection.pace is None
        peer.writer.write(pings(burst + 20))
        await until(lambda: connection.pace is not None)
        for _ in range(100):
            await one_round(hub, 10)
            assert connection.pace is not None, "it asked too much again"


async def test_all_who_are_paced_share_a_rate_of_a_few_a_second_and_nobody_is_left_out(tmp_path: Path) -> None:
    limits = Limits(rate_agent_per_s=5, rate_agent_burst=8, rate_host_per_s=10, rate_host_burst=1_000)
    async with MemoryHub(limits=limits) as hub, doors(hub, tmp_path) as listeners:
        peers = [await web(listeners, name) for name in ("ada", "bob", "cy")]
        for at, peer in enumerate(peers):
            peer.writer.write(pings(30))
            await until(lambda at=at: sum(one.pace is not None for one in hub.turns.peers.connections.values()) > at)  # type: ignore[misc]  # mypy infers no lambda with a default
            hub.clock.advance(31)  # their tokens come at different times
        heard = hub.turns.totals.requests
        for _ in range(600):
            await one_round(hub, 10)
        assert 24 <= hub.turns.totals.requests - heard <= 31, "5 a second for all together, in 6 s"


async def test_frames_that_are_no_requests_cost_their_host_as_much(tmp_path: Path) -> None:
    limits = Limits(rate_host_per_s=100, rate_host_burst=40)
    pieces = [Frame(Opcode.TEXT, b'{"type":"ping",', fin=False), *[Frame(Opcode.CONT, b" ", fin=False)] * 30]
    async with MemoryHub(limits=limits) as hub, doors(hub, tmp_path) as listeners:
        peer = await web(listeners)
        [connection] = hub.turns.peers.connections.values()
        peer.writer.write(b"".join(piece.serialize(mask=True) for piece in pieces))
        await until(lambda: connection.pace is connection.host_bucket)
        peer.send(Opcode.CONT, b'"id":7,"body":{}}')
        hub.clock.advance(1_000)
        assert (await peer.frame())[1].startswith(b'{"type":"reply","id":7')


async def test_a_bucket_hears_its_connections_in_turn_and_no_faster_than_it_fills(tmp_path: Path) -> None:
    limits = Limits(rate_agent_per_s=1_000, rate_agent_burst=4)
    async with MemoryHub(limits=limits) as hub, doors(hub, tmp_path) as listeners:
        peers = [await web(listeners) for _ in range(3)]
        for peer in peers:
            peer.writer.write(pings(500))
        await until(lambda: all(one.pace is not None for one in hub.turns.peers.connections.values()))
        heard = hub.turns.totals.requests
        for _ in range(20):
            hub.clock.advance(1)
            await asyncio.sleep(0.003)
        assert hub.turns.totals.requests - heard <= 20
        connections = hub.turns.peers.connections
        await until(lambda: sum(connection.is_held for connection in connections.values()) >= 2)


async def test_all_who_are_paced_share_half_of_what_one_host_may_ask_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(rate_agent_per_s=1_000, rate_agent_burst=40, rate_host_per_s=2_000)
    async with MemoryHub(limits=limits) as hub, doors(hub, tmp_path) as listeners:
        peers = [await web(listeners, name) for name in ("ada", "bob", "cy", "di", "eve", "fay")]
        pacer, heard = hub.turns.peers._pacer, Counter[str | None]()
        go_on = pacer._go_on

        def noted(connection: Connection) -> None:
            heard[connection.agent] += connection.slice
            go_on(connection)

        monkeypatch.setattr(pacer, "_go_on", noted)
        for peer in peers:
            peer.writer.write(pings(500))
        connections = hub.turns.peers.connections.values()
        await until(lambda: all(one.pace is not None for one in connections))
        for _ in range(30):
            await one_round(hub, 2)
        assert 30 <= heard.total() <= 2 * 60, "each of them alone may have 60"
        assert max(heard.values()) <= 2 * min(heard.values())
        assert hub.turns.totals.requests <= 6 * 41 + 2 * 60, (
            "nobody whose bucket filled while others were heard bursts anew"
        )


async def test_between_two_slices_whatever_else_is_there_has_its_turn_of_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(rate_agent_per_s=1_000, rate_agent_burst=4)
    async with MemoryHub(limits=limits) as hub, doors(hub, tmp_path) as listeners:
        peers = [await web(listeners, name) for name in ("ada", "bob", "cy", "di")]
        pacer, loop = hub.turns.peers._pacer, asyncio.get_running_loop()
        go_on, passes, heard = pacer._go_on, [0], list[int]()

        def count() -> None:
            passes[0] += 1
            if len(heard) < 20:
                loop.call_soon(count)

        def noted(connection: Connection) -> None:
            heard.append(passes[0])
            go_on(connection)

        monkeypatch.setattr(pacer, "_go_on", noted)
        loop.call_soon(count)
        for peer in peers:
            peer.writer.write(pings(20 * limits.in_flight_max))  # 20 slices, however much is heard in each
        async with asyncio.timeout(30):
            while len(heard) < 20:
                hub.clock.advance(2)
                await asyncio.sleep(0.003)
        assert len(set(heard[:20])) == 20


async def test_what_is_refused_to_one_agent_is_not_missing_to_the_others_of_its_host() -> None:
    limits = Limits(rate_agent_per_s=1, rate_agent_burst=3, rate_host_per_s=1, rate_host_burst=8)
    async with MemoryHub(limits=limits) as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")  # two tokens of the host's eight
        for _ in range(3):
            await ada.ask(Ping(), Pong)
        for _ in range(20):
            assert (await ada.refused(Ping())).facts["who"] == "ada"
        for _ in range(3):
            await bob.ask(Ping(), Pong)


async def test_who_is_paced_leaves_tokens_of_its_host_to_who_is_not() -> None:
    limits = Limits(rate_agent_per_s=1_000, rate_agent_burst=1_000, rate_host_per_s=100, rate_host_burst=32)
    async with MemoryHub(limits=limits) as hub:
        ada = await voice(hub)
        codes = [frame.type for frame in [await ada.exchange(Ping()) for _ in range(60)]]
        assert codes == ["reply"] * 31 + ["error"] * 29
        hub.clock.advance(40)  # four tokens, which ada may not have
        assert (await ada.refused(Ping())).code == "rate_limited"
        bob = await voice(hub, "bob")
        await bob.ask(Ping(), Pong)
        hub.clock.advance(100)
        await ada.ask(Ping(), Pong)


async def test_a_long_request_costs_as_much_as_many_short_ones() -> None:
    async with MemoryHub(limits=Limits(rate_agent_per_s=10, rate_agent_burst=20)) as hub:
        ada = await voice(hub)
        await ada.post("x" * TOKEN_BYTES * 10)
        for _ in range(9):
            await ada.ask(Ping(), Pong)
        assert (await ada.refused(Ping())).code == "rate_limited"


async def test_no_more_is_heard_at_once_than_may_be_in_flight_and_the_rest_later_in_order(tmp_path: Path) -> None:
    limits = Limits(in_flight_max=8)
    async with MemoryHub(limits=limits) as hub, doors(hub, tmp_path) as listeners:
        peer, (reader, writer) = await web(listeners), await line(listeners)
        writer.write(encode_request("h", Hello(name="bob", secret=SECRET)) + b"\n")
        await answers(reader, 1)
        worker = slow_writer(hub)
        writer.write(encode_request("w", message("in the way")) + b"\n")
        while not worker.jobs:
            await asyncio.sleep(0.001)
        peer.writer.write(pings(100))
        writer.write(b"".join(encode_request(at, Ping()) + b"\n" for at in range(100)))
        await until(lambda: all(one.is_held for one in hub.turns.peers.connections.values()))
        await asyncio.sleep(0.02)
        assert [one.in_flight for one in hub.turns.peers.connections.values()] == [8, 8]
        worker.finish()
        found = [decode_hub_frame((await peer.frame())[1]).id for _ in range(100)]
        assert found == list(range(100))
        assert [frame.id for frame in await answers(reader, 101)] == ["w", *range(100)]


async def test_long_requests_in_flight_are_bounded_by_their_bytes(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        peer = await web(listeners)
        [connection] = hub.turns.peers.connections.values()
        worker = slow_writer(hub)
        body = msgspec.Raw(b'"%b"' % (b"x" * 150_000))
        for at in range(20):
            peer.send(Opcode.TEXT, encode_request(at, SendMessage(body=body, target="main:general")))
        await until(lambda: connection.is_held)
        await asyncio.sleep(0.02)
        assert BULK_BYTES_MAX < connection.bulk_bytes < BULK_BYTES_MAX + 200_000
        assert (connection.is_held, connection.in_flight) == (True, 7)

        async def finish() -> None:
            while True:
                if worker.jobs:
                    worker.finish()
                await asyncio.sleep(0)

        finishing = asyncio.ensure_future(finish())
        assert [decode_hub_frame((await peer.frame())[1]).id for _ in range(20)] == list(range(20))
        finishing.cancel()


async def test_nothing_is_written_to_a_socket_that_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """asyncio would say so on stderr, each time: no line of the hub's log, and as many as there are answers."""
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        await web(listeners)
        [peer] = listeners.peers
        peer.abort()
        for _ in range(20):
            peer.write(b"x")
        await steps()
        assert not caplog.records
