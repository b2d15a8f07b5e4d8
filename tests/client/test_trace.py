"""Trace contexts: what is sent inside of `traced` carries one, over both doors and a kill of the hub, to who reads."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from msgspec import UNSET
from tests.client.test_blocking import ScriptHub

from synapse import Client, traced
from synapse.client.trace import current
from synapse.protocol.notices import Message
from synapse.testing import MemoryHub

if TYPE_CHECKING:
    from tests.client.conftest import HubProcess, People

ONE: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TWO: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
MAIN: Final = "main:general"


def test_a_trace_holds_inside_of_its_block_and_ends_with_it() -> None:
    assert current() is None
    with traced(ONE):
        assert current() == ONE
        with traced(TWO):
            assert current() == TWO
        with traced(UNSET):
            assert current() is None
        with pytest.raises(KeyError), traced(None):
            raise KeyError
        assert current() == ONE
    assert current() is None
    with traced(f"01{ONE[2:]}-more"):
        assert current() == ONE


@pytest.mark.parametrize("text", ["words", ONE.upper(), f"{ONE}\n", "00-" + "0" * 32 + ONE[35:]])
def test_what_is_no_trace_context_is_refused_where_it_is_given(text: str) -> None:
    with pytest.raises(ValueError, match="no traceparent"), traced(text):
        pytest.fail("the block ran")
    assert current() is None


async def test_tasks_have_the_trace_in_which_they_began() -> None:
    found: list[str | None] = []

    async def look() -> None:
        await asyncio.sleep(0)
        found.append(current())

    with traced(ONE):
        task = asyncio.create_task(look())
    await asyncio.gather(task, look())
    assert found == [ONE, None]


@pytest.mark.parametrize("kind", ["unix", "ws"])
async def test_a_message_keeps_the_trace_of_its_sender_for_everybody_who_reads_it(hub: "HubProcess", kind: str) -> None:
    uri = hub.websocket if kind == "ws" else None
    async with Client(uri, name="ada", home=hub.home) as ada, Client(uri, name="bob", home=hub.home) as bob:
        await ada.join("main")
        async with bob.subscribe(MAIN, inbox=True) as feed:
            with traced(ONE):
                await ada.send("@bob in public", channel=MAIN, idem_key="k")
            await ada.send("without", channel=MAIN)
            with traced(TWO):
                await ada.send("to bob", to="bob")
                await ada.send("@bob in public", channel=MAIN, idem_key="k")  # the same request again: as it was first
                await ada.claim("T1", ttl=60.0)
                await ada.hand_off("T1", to="bob")
            live = [await anext(feed) for _ in range(4)]
        await hub.kill_and_restart()
        history = [message async for message in bob.all_history(MAIN)]
        inbox = (await bob.inbox()).messages
        taken = await bob.take()
        async with bob.subscribe(MAIN, inbox=True, since=bob.welcome.journal_id + ":1") as feed:
            late = [await anext(feed) for _ in range(4)]
    assert traces_of(live) == traces_of(late) == [ONE, UNSET, TWO, TWO]
    assert [message.kind for message in live] == ["event", "event", "direct", "system"]
    assert traces_of(history) == [ONE, UNSET]
    assert traces_of(inbox) == [ONE, TWO, TWO]
    assert taken is not None
    assert (taken.message.kind, taken.message.traceparent) == ("system", TWO), "a hand-off is of high priority"


def traces_of(messages: "list[Message] | tuple[Message, ...]") -> list[object]:
    return [message.traceparent for message in messages]


async def test_an_offer_of_a_lease_keeps_the_trace_of_who_offers(people: "type[People]") -> None:
    async with MemoryHub() as hub, people(hub).client("ada") as ada:
        async with people(hub).client("bob"):
            pass
        await ada.claim("T1", ttl=60.0)
        with traced(ONE):
            await ada.hand_off("T1", to="bob")
        async with people(hub).client("bob") as bob:
            taken = await bob.take()
    assert taken is not None
    assert (taken.message.kind, taken.message.traceparent) == ("system", ONE)


def test_scripts_have_it_too(tmp_path: Path) -> None:
    hub = ScriptHub(tmp_path / "home")
    hub.start()
    try:
        with hub.connect("ada") as ada:
            with traced(ONE):
                ada.send("one", channel=MAIN)
            ada.send("two", channel=MAIN)
            assert traces_of(ada.history(MAIN).messages) == [ONE, UNSET]
    finally:
        hub.end()
