"""The plan through the client: two agents on one plan, and a feed that goes on over restarts."""

from typing import TYPE_CHECKING

import pytest

import synapse
from synapse.errors import Rejected
from synapse.testing import MemoryHub

if TYPE_CHECKING:
    from tests.client.conftest import People


async def test_a_plan_is_worked_off_in_the_order_of_its_dependencies(people: "type[People]") -> None:
    async with MemoryHub() as hub, people(hub).client("ada") as ada, people(hub).client("bob") as bob:
        await ada.declare_tasks(
            [synapse.TaskSpec(task=f"T{n}", depends_on=(f"T{n - 1}",) if n else ()) for n in range(6)]
        )
        done: list[str] = []
        while ready := await bob.tasks(ready=True):
            [task] = ready
            async with (ada if len(done) % 2 else bob).lease(task.task) as lease:
                client = ada if len(done) % 2 else bob
                assert (await client.task(task.task)).status == "in_progress"
                await client.note_progress(task.task, "at it", epoch=lease.epoch)
                await client.update_task(task.task, "review", epoch=lease.epoch)
            await ada.update_task(task.task, "done")
            done.append(task.task)
        assert done == [f"T{n}" for n in range(6)]
        assert {task.status for task in await ada.tasks()} == {"done"}
        assert [line.by for line in (await ada.progress()).lines] == ["bob", "ada"] * 3


async def test_a_feed_tells_each_change_once_also_over_a_restart(people: "type[People]") -> None:
    async with MemoryHub() as hub, people(hub).client("ada") as ada:
        async with ada.plan_changes() as feed:
            await ada.declare_task("A")
            await ada.declare_task("B", "the second", depends_on=["A"], labels=["ui"], priority="high")
            told = [await anext(feed) for _ in range(3)]
            assert [(change.change, change.tasks) for change in told] == [
                ("declared", ("A",)),
                ("ready", ("A",)),
                ("declared", ("B",)),
            ]
            await hub.restart()
            await ada.update_task("A", "done", note="that was easy")
            moved, ready = await anext(feed), await anext(feed)
            assert (moved.status, moved.previous, moved.text, moved.by) == ("done", "open", "that was easy", "ada")
            assert (ready.change, ready.tasks, ready.by) == ("ready", ("B",), "hub")
            with pytest.raises(Rejected) as again:
                async with ada.plan_changes():
                    pass
            assert again.value.code == "already_subscribed"
        cursor = told[0].cursor
        async with ada.plan_changes(since=cursor) as late:
            assert [(await anext(late)).change for _ in range(4)] == ["ready", "declared", "moved", "ready"]


async def test_what_is_refused_says_what_to_do(people: "type[People]") -> None:
    async with MemoryHub() as hub, people(hub).client("ada") as ada, people(hub).client("bob") as bob:
        await ada.declare_task("A", depends_on=["B"])
        with pytest.raises(Rejected, match="B -> A -> B"):
            await bob.declare_task("B", depends_on=["A"])
        with pytest.raises(Rejected, match="--if-version"):
            await bob.declare_task("A", "mine")
        await bob.update_task("A", "cancelled")
        with pytest.raises(Rejected, match="can become open"):
            await bob.update_task("A", "review")
        assert (await ada.remove_task("A")).removed
        with pytest.raises(Rejected, match="synapse task declare A"):
            await ada.task("A")
