"""Role queues through the client: a pool of workers shares what is sent, and what one of them drops another does."""

import asyncio
from typing import TYPE_CHECKING

from synapse.client.client import Client, Wiring, body_of
from synapse.testing import MemoryHub

if TYPE_CHECKING:
    from tests.client.conftest import People


async def test_workers_share_the_queue_and_each_message_is_done_once(people: "type[People]") -> None:
    async with (
        MemoryHub() as hub,
        people(hub).client("boss") as boss,
        people(hub).client("ann") as ann,
        people(hub).client("bob") as bob,
    ):
        done: list[tuple[str, object]] = []

        async def work(client: Client, name: str) -> None:
            await client.join_role("build")
            async for message in client.inbox_messages():
                done.append((name, body_of(message)))

        tasks = [asyncio.create_task(work(client, name)) for client, name in ((ann, "ann"), (bob, "bob"))]
        while len(await boss.roles()) == 0 or (await boss.role_info("build")).members < 2:
            await asyncio.sleep(0)
        for number in range(40):
            await boss.send(number, target="role:build")
        while (await boss.role_info("build")).unacked:
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert sorted(body for _, body in done if isinstance(body, int)) == list(range(40))
        assert {name for name, _ in done} == {"ann", "bob"}


async def test_a_member_that_goes_leaves_its_message_to_another(people: "type[People]") -> None:
    async with MemoryHub() as hub, people(hub).client("boss") as boss, people(hub).client("bob") as bob:
        async with people(hub).client("ann") as ann:
            assert (await ann.join_role("build")).created
            assert not (await bob.join_role("build")).created
            sent = await boss.send("one", target="role:build")
            taken = await ann.take()
            assert taken is not None
            assert (taken.message.id, await bob.take()) == (sent.id, None)
            assert (await ann.leave_role("build")).changed
            again = await bob.take()
            assert again is not None
            assert (again.message.id, again.lends) == (sent.id, 2)
        await bob.ack(sent.id)
        receipt = await boss.wait_receipt(sent.id)
        assert receipt is not None
        assert receipt.acked_by == ("bob",)
        await bob.leave_role("build")
        assert (await boss.role_info("build")).participants == ()
        async with Client(operator=True, wiring=Wiring(dial=hub.dial)) as operator:
            assert (await operator.delete_role("build")).changed
        assert await boss.roles() == ()
