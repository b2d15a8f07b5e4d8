"""Every method of the client, over the real hub in memory."""

import asyncio
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from synapse import Client
from synapse.client.client import Card, Wiring, body_as, body_of, value_of
from synapse.errors import Rejected
from synapse.protocol import commands, replies
from synapse.protocol.limits import Limits
from synapse.testing import ManualClock, MemoryHub

if TYPE_CHECKING:
    from tests.client.conftest import People

HAS_VIRTUAL_TIME = True
MAIN = "main:general"
SECRET = "a secret of more than 32 characters"


@dataclass
class Move:
    x: int
    y: int


async def test_messages_go_to_agents_channels_targets_and_the_room(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            assert (await ada.send("1", to="bob")).to == ("bob",)
            assert (await ada.send("2", to=["bob", "cid"], create=True)).created == ("cid",)
            assert (await ada.send("3", channel=MAIN)).n == 1
            assert (await ada.send("4", target="bob,cid")).to == ("bob", "cid")
            sent = await ada.send("5", subject="s", thread="t", reply_to="m1", priority="urgent")
            assert (sent.room, sent.channel, sent.n) == ("main", "general", 2)
            page = await bob.history()
            assert [body_of(message) for message in page.messages] == ["3", "5"]
            last = page.messages[-1]
            assert (last.subject, last.thread, last.reply_to, last.priority) == ("s", "t", "m1", "urgent")
            assert last.sender == "ada"
            with pytest.raises(Rejected, match="not_found: never seen: bo; near bo: bob"):
                await ada.send("6", to="bo")
            listed = await bob.inbox(limit=2)
            assert [body_of(message) for message in listed.messages] == ["1", "2"]
            assert listed.next is not None
            assert len((await bob.inbox(after=listed.next)).messages) == 1
            assert len((await bob.ack_all()).acked) == 3


async def test_the_same_key_sends_once(people: "type[People]") -> None:
    async with MemoryHub() as hub, people(hub).client("ada") as ada:
        first = await ada.send("x", idem_key="k")
        assert await ada.send("x", idem_key="k") == first
        with pytest.raises(Rejected, match="idem_conflict"):
            await ada.send("y", idem_key="k")
        assert await ada.send("x") != await ada.send("x")


async def test_bodies_are_plain_data_or_a_type_of_ones_own(people: "type[People]") -> None:
    async with MemoryHub() as hub, people(hub).client("ada") as ada, ada.subscribe(MAIN) as feed:
        await ada.send(Move(1, 2))
        message = await anext(feed)
        assert body_of(message) == {"x": 1, "y": 2}
        assert body_as(message, Move) == Move(1, 2)
        with pytest.raises(msgspec.ValidationError):
            body_as(message, str)
        with pytest.raises(TypeError):
            await ada.send(object())
        for wrong in (math.nan, {"a": [1.0, math.inf]}, (-math.inf,), Move(math.nan, 1)):  # type: ignore[arg-type]  # not an int
            with pytest.raises(TypeError, match="NaN and infinity are not JSON"):
                await ada.put("k", wrong)
        endless: list[object] = []
        endless.append(endless)
        for unsaid, why in (("\ud800", "a lone surrogate"), (endless, "holds itself")):
            with pytest.raises(TypeError, match=why):
                await ada.put("k", unsaid)
        assert await ada.keys() == ()
        for right in (None, {"a": [msgspec.Raw(b"null"), 1.5]}, "null"):
            assert value_of(await ada.put("k", right)) == msgspec.json.decode(msgspec.json.encode(right))


async def test_a_feed_without_names_follows_the_room_and_the_inbox(people: "type[People]") -> None:
    async with MemoryHub(rooms={"science": ["general", "lab"]}) as hub:
        wiring = Wiring(dial=hub.dial)
        async with (
            Client(name="ada", secret=SECRET, room="science:lab", wiring=wiring) as ada,
            people(hub).client("bob") as bob,
        ):
            messages = ada.messages()
            first = asyncio.ensure_future(anext(messages))
            await asyncio.sleep(1)
            await bob.send("here", channel="science:lab")
            await bob.send("elsewhere", channel=MAIN)
            await bob.send("to you", to="ada")
            assert [body_of(await first), body_of(await anext(messages))] == ["here", "to you"]
            await messages.aclose()


async def test_history_is_paged_filtered_and_walked(people: "type[People]") -> None:
    async with MemoryHub(limits=Limits(page_items_max=7)) as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, everybody.client("bob") as bob:
            for number in range(20):
                await (ada if number % 2 else bob).send(number, channel=MAIN)
            await ada.send("to bob", to="bob")
            newest = await ada.history(MAIN, limit=5)
            assert [body_of(message) for message in newest.messages] == [15, 16, 17, 18, 19]
            earlier = await ada.history(MAIN, limit=5, before=newest.previous)
            assert [body_of(message) for message in earlier.messages] == [10, 11, 12, 13, 14]
            assert [body_of(message) async for message in ada.all_history()] == list(range(20))
            since = newest.messages[0].cursor
            walked = [body_of(message) async for message in ada.all_history(MAIN, since=since, sender="ada")]
            assert walked == [17, 19]
            assert [body_of(message) async for message in bob.all_history(inbox=True)] == ["to bob"]


async def test_lists_come_whole_whatever_the_size_of_a_page(people: "type[People]") -> None:
    async with MemoryHub(limits=Limits(page_items_max=3)) as hub:
        everybody = people(hub)
        names = [f"agent-{number}" for number in range(8)]
        for name in names:
            async with everybody.client(name) as client:
                await client.join("main:general")
                await client.create_room(f"room-{name}")
        async with everybody.client("ada") as ada:
            assert [agent.name for agent in await ada.who()] == ["ada", *names]
            assert [agent.name for agent in await ada.who("main")] == names
            assert [room.room for room in await ada.rooms()] == ["main", *(f"room-{name}" for name in names)]
            assert len(await ada.channels()) == 9
            assert [channel.channel for channel in await ada.channels("main")] == ["general"]
            room, channel = await ada.room_info("main"), await ada.channel_info(MAIN)
            assert room.participants == channel.participants == tuple(names)
            assert (room.next, channel.next) == (None, None)


async def test_rooms_and_channels_are_joined_made_left_and_deleted(people: "type[People]") -> None:
    async with (
        MemoryHub() as hub,
        people(hub).client("ada") as ada,
        Client(operator=True, wiring=Wiring(dial=hub.dial)) as operator,
    ):
        assert (await ada.create_room("lab", kind="team")).created
        assert (await ada.create_channel("lab:results")).created
        assert (await ada.join("lab:results")).changed
        assert not (await ada.join("lab:results")).changed
        assert (await ada.room_info("lab")).participants == ("ada",)
        with pytest.raises(Rejected, match="not_permitted"):
            await ada.delete_room("lab")
        with pytest.raises(Rejected, match="not_empty"):
            await operator.delete_channel("lab:results")
        assert (await ada.leave("lab:results")).changed
        assert (await ada.leave("lab")).changed
        assert (await operator.delete_channel("lab:results")).changed
        assert (await operator.delete_room("lab")).changed
        assert operator.welcome.name is None


async def test_a_rebound_agent_comes_back_and_a_forgotten_one_is_gone(people: "type[People]") -> None:
    async with (
        MemoryHub() as hub,
        people(hub).client("ada") as ada,
        Client(operator=True, wiring=Wiring(dial=hub.dial)) as operator,
    ):
        before = ada.welcome.connection
        assert (await operator.rebind_agent("ada")).name == "ada"
        await ada.ping()
        assert ada.welcome.connection != before
        assert ada.welcome.bound
        await ada.close()
        assert (await operator.forget_agent("ada")).name == "ada"
        assert await operator.who() == ()
        with pytest.raises(Rejected, match="unsupported"):
            await operator.verify_journal()
        with pytest.raises(Rejected, match="unsupported"):
            await operator.back_up_journal("/nowhere/copy.db")


async def test_others_see_the_card_the_presence_and_the_status(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        card = Card(kind="human", display_name="Ada L.", capabilities=("python",))
        async with Client(name="ada", secret=SECRET, card=card, wiring=Wiring(dial=hub.dial)) as ada:
            await ada.declare_status("busy")
            await hub.restart()
            (seen,) = await ada.who()
            assert (seen.name, seen.kind, seen.display_name, seen.capabilities) == (
                "ada",
                "human",
                "Ada L.",
                ("python",),
            )
            assert seen.presence == "online"
            await ada.ping()
            (seen,) = await ada.who()
            assert seen.status == "busy"
        async with Client(name="ada", secret=SECRET, wiring=Wiring(dial=hub.dial, lasting=False)) as ada:
            (seen,) = await ada.who()
            assert (seen.display_name, seen.presence) == ("Ada L.", "recent")


async def test_presence_is_told_as_it_changes(people: "type[People]") -> None:
    async with MemoryHub() as hub:
        everybody = people(hub)
        async with everybody.client("ada") as ada, ada.presence() as feed:
            update = await anext(feed)
            assert update.is_snapshot
            assert [entry.name for entry in update.agents] == ["ada"]
            async with everybody.client("bob"):
                update = await anext(feed)
                assert [(entry.name, entry.presence) for entry in update.agents] == [("bob", "online")]
            update = await anext(feed)
            assert [(entry.name, entry.presence) for entry in update.agents] == [("bob", "recent")]
            await hub.restart()
            assert (await anext(feed)).is_snapshot


async def test_the_hub_says_how_it_is(people: "type[People]") -> None:
    async with MemoryHub() as hub, people(hub).client("ada") as ada:
        assert (await ada.status()).health == "green"
        assert (await ada.ping()).cursor == ada.welcome.cursor
        identity = await ada.request(commands.IdentifyHub(), replies.HubIdentity)
        assert identity.hub_id == ada.welcome.hub_id


async def test_another_secret_is_refused_at_the_first_hello(people: "type[People]") -> None:
    async with MemoryHub() as hub, people(hub).client("ada"):
        with pytest.raises(Rejected, match="name_taken"):
            await Client(name="ada", secret="x" * 40, wiring=Wiring(dial=hub.dial)).connect()
        with pytest.raises(Rejected, match="bad_name"):
            await Client(name="No Name", secret="x" * 40, wiring=Wiring(dial=hub.dial)).connect()


async def test_what_is_sent_with_a_date_is_a_dead_letter_when_nobody_acked_it(people: "type[People]") -> None:
    clock = ManualClock(int(time.time() * 1000))  # the date is the client's
    async with MemoryHub(clock=clock) as hub, people(hub).client("ada") as ada:
        kept = await ada.send("for ever", to="bob", create=True, expires=None)
        gone = await ada.send("for a while", to="bob", expires=90, subject="s", priority="high")
        await hub.advance(89_000)
        assert {one.state for sent in (kept, gone) for one in (await ada.receipts(sent.id)).recipients} == {"stored"}
        await hub.advance(2_000)
        states = [[one.state for one in (await ada.receipts(sent.id)).recipients] for sent in (kept, gone)]
        assert states == [["stored"], ["dead"]]


async def test_a_home_keeps_no_secret_of_a_name_that_is_somebody_elses(people: "type[People]", tmp_path: Path) -> None:
    async with MemoryHub() as hub, people(hub).client("ada"):
        for name, kept in (("ada", []), ("ada/sub", []), ("bob", ["bob"])):
            client = Client(name=name, home=str(tmp_path), wiring=Wiring(dial=hub.dial))
            with pytest.raises(Rejected, match="name_taken") if name != "bob" else nullcontext():
                await client.connect()
            await client.close()
            assert [path.name for path in tmp_path.glob("secrets/*/*")] == kept


def test_the_reference_has_a_line_for_every_method() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "client.md").read_text()
    public = [name for name in vars(Client) if not name.startswith("_")]
    assert [name for name in public if f"\n| `{name}" not in page] == []
