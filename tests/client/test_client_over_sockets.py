"""The client and a real hub in a process of its own, which is killed in the middle of things."""

import asyncio
import os
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from synapse import Client
from synapse.client.client import OutcomeUnknown, RequestTimeout, Wiring, body_of
from synapse.client.home import Surroundings
from synapse.client.transport import HubDialer, Stream
from synapse.errors import Disconnected, HubUnreachable, Rejected
from synapse.home import read_hub_file
from synapse.protocol.commands import SendMessage
from synapse.protocol.replies import Sent

if TYPE_CHECKING:
    from tests.client.conftest import HubProcess

MAIN = "main:general"


def client_of(hub: "HubProcess", name: str, kind: str = "unix") -> Client:
    uri = hub.websocket if kind == "ws" else None
    return Client(uri, name=name, home=hub.home, timeout=30.0)


@pytest.mark.parametrize("kind", ["unix", "ws"])
async def test_messages_go_through_both_kinds_of_sockets(hub: "HubProcess", kind: str) -> None:
    async with client_of(hub, "ada", kind) as ada, client_of(hub, "bob", kind) as bob, bob.subscribe() as feed:
        big = "é\n" * 40_000
        await ada.send(big, channel=MAIN)
        assert body_of(await anext(feed)) == big
        sent = await asyncio.gather(*(ada.send(number, channel=MAIN) for number in range(300)))
        assert sorted(each.n for each in sent if isinstance(each.n, int)) == list(range(2, 302))
        assert [(await anext(feed)).n for _ in range(300)] == list(range(2, 302))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unix", "ws"])
async def test_a_hub_killed_mid_stream_costs_no_message_and_repeats_none(hub: "HubProcess", kind: str) -> None:
    count, writers, kills = 300, 3, 4
    heard: list[tuple[int, object]] = []
    progress = asyncio.Event()

    async def write(client: Client, who: int) -> None:
        for number in range(count):
            await client.send([who, number], channel=MAIN)

    async def read(client: Client) -> None:
        async with client.subscribe(MAIN) as feed:
            progress.set()
            async for message in feed:
                heard.append((message.n, body_of(message)))
                progress.set()
                if len(heard) == count * writers:
                    return

    async def kill() -> None:
        for part in range(1, kills + 1):
            while len(heard) < part * count * writers // (kills + 1):
                progress.clear()
                await progress.wait()
            await hub.kill_and_restart()

    async with client_of(hub, "ada", kind) as ada, client_of(hub, "bob", kind) as bob, asyncio.timeout(90):
        async with asyncio.TaskGroup() as group:
            group.create_task(read(bob))
            await progress.wait()
            for who in range(writers):
                group.create_task(write(ada, who))
            group.create_task(kill())
        assert [n for n, _ in heard] == list(range(1, count * writers + 1))
        for who in range(writers):
            assert [body for _, body in heard if isinstance(body, list) and body[0] == who] == [
                [who, number] for number in range(count)
            ]
        kept = [body_of(message) async for message in bob.all_history(MAIN)]
        assert kept == [body for _, body in heard]


@pytest.mark.slow
async def test_an_inbox_loop_over_kills_loses_nothing(hub: "HubProcess") -> None:
    ids: dict[str, object] = {}
    changed = asyncio.Event()

    async def answer(client: Client) -> None:
        async for message in client.inbox_messages():
            ids.setdefault(message.id, body_of(message))
            changed.set()

    async with client_of(hub, "ada") as ada, client_of(hub, "bob") as bob, asyncio.timeout(90):
        answering = asyncio.ensure_future(answer(bob))
        for number in range(120):
            if number in (30, 60, 90):
                await hub.kill_and_restart()
            await ada.send(number, to="bob")
        while len(ids) < 120:
            changed.clear()
            await changed.wait()
        answering.cancel()
        await asyncio.wait({answering})
        assert list(ids.values()) == list(range(120))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unix", "ws"])
async def test_leases_go_round_over_kills_and_two_blocks_never_believe_at_once(hub: "HubProcess", kind: str) -> None:
    inside: list[str] = []
    epochs: list[int] = []
    rounds, names = 25, ("ada", "bob", "cid", "dan")

    async def work(name: str) -> None:
        async with client_of(hub, name, kind) as client:
            for _ in range(rounds):
                async with client.lease("T1", paths="src", worktree="w", wait=None) as lease:
                    inside.append(name)
                    assert inside == [name]
                    await asyncio.sleep(0.001)
                    assert inside == [name]
                    inside.clear()
                    epochs.append(lease.epoch)

    async def kill() -> None:
        for part in (1, 2, 3):
            while len(epochs) < part * rounds * len(names) // 4:
                await asyncio.sleep(0.005)
            await hub.kill_and_restart()

    async with asyncio.timeout(90), asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(work(name))
        group.create_task(kill())
    assert len(epochs) == rounds * len(names)
    assert epochs == sorted(set(epochs))


@pytest.mark.parametrize("kind", ["unix", "ws"])
async def test_a_hub_that_stands_still_costs_the_client_no_memory_and_what_it_never_took_is_not_done(
    hub: "HubProcess", kind: str
) -> None:
    dialled: list[Stream] = []
    flags = {"home": os.fspath(hub.home), **({"uri": hub.websocket} if kind == "ws" else {})}
    dial = HubDialer(Surroundings(flags, {}), None)

    async def dial_and_remember() -> Stream:
        transport = await dial()
        assert isinstance(transport, Stream)
        dialled.append(transport)
        return transport

    token = (hub.home / "token").read_text().strip()
    client = Client(name="ada", home=hub.home, token=token, timeout=30.0, wiring=Wiring(dial=dial_and_remember))
    async with client, asyncio.timeout(60):
        await client.ping()
        socket = dialled[0]._transport
        assert socket is not None
        hub.tell(signal.SIGSTOP)
        held, text, not_sent = [0], "x" * 20_000, 0
        for number in range(500):
            command = SendMessage(body=msgspec.Raw(msgspec.json.encode([number, text])), channel=MAIN)
            try:
                await client.request(command, Sent, timeout=0.001)
            except OutcomeUnknown:
                assert not not_sent, "a full hub took a request after it took none"
            except RequestTimeout:
                not_sent += 1
            held.append(socket.get_write_buffer_size())
        assert max(held) <= 64 * 1024 + 21_000
        assert not_sent > 100
        hub.tell(signal.SIGCONT)
        await client.ping()
        there = [body_of(message) async for message in client.all_history(MAIN)]
    assert [body[0] for body in there if isinstance(body, list)] == list(range(500 - not_sent))
    assert len(dialled) == 1


async def test_a_drained_hub_is_waited_for_and_a_hub_that_moved_is_found(hub: "HubProcess") -> None:
    async with client_of(hub, "ada") as ada, client_of(hub, "bob") as bob, bob.subscribe(MAIN) as feed:
        await ada.send(1, channel=MAIN)
        assert await hub.end(signal.SIGTERM) == 0
        sending = asyncio.ensure_future(ada.send(2, channel=MAIN))
        hub.port = 0
        await hub.start()
        assert (await sending).n == 2
        assert [(await anext(feed)).n for _ in range(2)] == [1, 2]


async def test_the_secret_lies_in_the_home_and_makes_two_clients_one_agent(hub: "HubProcess") -> None:
    async with client_of(hub, "ada") as one, client_of(hub, "ada", "ws") as two, client_of(hub, "ada/sub") as sub:
        known = read_hub_file(hub.home)
        assert known is not None
        secret = hub.home / "secrets" / known.hub_id / "ada"
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        assert (one.welcome.name, two.welcome.name, sub.welcome.name) == ("ada", "ada", "ada/sub")
        (ada, _) = await two.who()
        assert ada.connections == 2
    assert not (hub.home / "secrets" / known.hub_id / "bob").exists()


async def test_without_the_token_a_websocket_is_refused(hub: "HubProcess", tmp_path: Path) -> None:
    stranger = Client(hub.websocket, name="eve", home=tmp_path / "elsewhere")
    with pytest.raises(Rejected, match="unauthorized"):
        await stranger.connect()
    token = (hub.home / "token").read_text().strip()
    async with Client(hub.websocket, name="eve", home=tmp_path / "elsewhere", token=token) as known:
        await known.ping()


async def test_an_operator_comes_over_the_unix_socket(hub: "HubProcess", tmp_path: Path) -> None:
    async with client_of(hub, "ada") as ada, Client(home=hub.home, operator=True) as operator:
        await ada.send("x", channel=MAIN)
        assert (await operator.verify_journal()).events > 0
        await operator.back_up_journal(os.fspath(tmp_path / "copy.db"))
        assert (tmp_path / "copy.db").stat().st_size > 0
    with pytest.raises(Rejected, match="not_permitted"):
        await Client(hub.websocket, home=hub.home, operator=True).connect()


async def test_where_no_hub_runs_the_way_to_start_one_is_said(tmp_path: Path) -> None:
    with pytest.raises(HubUnreachable, match=r"no hub runs for .* start one: synapse hub"):
        await Client(name="ada", home=tmp_path / "none").connect()
    with pytest.raises(HubUnreachable, match=r"no hub answers at ws://127.0.0.1:1"):
        await Client("ws://127.0.0.1:1", name="ada", home=tmp_path / "none").connect()
    with pytest.raises(ValueError, match="is no address of a hub"):
        await Client("tcp://somewhere", name="ada", home=tmp_path / "none").connect()


async def test_a_closed_client_leaves_no_task_and_no_socket(hub: "HubProcess") -> None:
    for kind in ("unix", "ws"):
        client = client_of(hub, "ada", kind)
        await client.connect()
        waiting = asyncio.ensure_future(client.take(wait=None))
        await client.ping()
        await client.close()
        with pytest.raises(Disconnected, match="the client was closed"):
            await waiting
    own = {asyncio.current_task()}
    assert {task for task in asyncio.all_tasks() if "synapse" in task.get_name()} - own == set()
