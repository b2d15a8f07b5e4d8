"""A supervisor tells each cause once, whoever is restarted, and however many watch."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synapse.client.client import Card, Client, Wiring, body_of
from synapse.client.client import Terms as ClaimTerms
from synapse.errors import Disconnected, Rejected
from synapse.faces import supervisor_rounds
from synapse.faces.supervisor import STEPS_MAX, Board, Kept, Terms, decide, idem_of
from synapse.faces.supervisor_rounds import look, supervise
from synapse.protocol.commands import SendMessage
from synapse.protocol.notices import Message
from synapse.protocol.plan_replies import TaskHolder, TaskInfo
from synapse.protocol.replies import Lease
from synapse.testing import MemoryHub

TERMS = Terms(stalled_ms=60_000, orphaned_ms=60_000, tries=2)
MINUTE = 60_000


def client(hub: MemoryHub, name: str, kind: str = "agent") -> Client:
    wiring = Wiring(dial=hub.dial)
    return Client(name=name, secret=f"{name} of more than thirty-two characters", card=Card(kind=kind), wiring=wiring)


@asynccontextmanager
async def fleet(*names: str, people: tuple[str, ...] = ()) -> AsyncIterator[tuple[MemoryHub, list[Client]]]:
    """A hub in memory with a supervisor, then agents, then people who have joined the room."""
    async with MemoryHub() as hub:
        clients = [client(hub, "supervisor", "service"), *(client(hub, name) for name in names)]
        clients += [client(hub, name, "human") for name in people]
        for each in clients:
            await each.connect()
        for person in clients[len(clients) - len(people) :]:
            await person.join("main")
        try:
            yield hub, clients
        finally:
            for each in clients:
                await each.close()


async def round_of(watcher: Client) -> list[tuple[str, str, tuple[str, ...]]]:
    complaints: list[str] = []
    done = await supervise(watcher, "main", TERMS, complaints.append)
    assert complaints == []
    return [(each.what, each.record.task, each.to) for each in done]


async def said(watcher: Client) -> list[Message]:
    return [message async for message in watcher.all_history("main:general")]


def word(message: Message, key: str) -> str:
    body = body_of(message)
    assert isinstance(body, dict)
    return str(body[key])


def mortal(watcher: Client, requests: int) -> None:
    """The supervisor is killed after so many requests."""
    left, ask = requests, watcher.request

    async def request(*words: object, **more: object) -> object:
        nonlocal left
        if left == 0:
            raise Disconnected(1006, "the supervisor was killed")
        left -= 1
        return await ask(*words, **more)  # type: ignore[arg-type]  # passed on as they are

    watcher.request = request  # type: ignore[method-assign,assignment]  # in place of the method


ROOM = ("main:general",)


async def test_a_holder_without_progress_is_told_once_and_people_are_called_when_it_goes_on() -> None:
    async with fleet("ada", people=("eva", "max")) as (hub, (watcher, ada, eva, _)):
        lease = await ada.claim("T1", ttl=3600)
        await hub.advance(MINUTE - 1_000)
        assert await round_of(watcher) == []
        await hub.advance(1_000)
        assert await round_of(watcher) == [("told", "T1", ROOM)]
        for _ in range(5):
            await hub.advance(5_000)
            assert await round_of(watcher) == []
        (message,) = await said(watcher)
        body = body_of(message)
        assert isinstance(body, dict)
        assert (body["type"], body["task"], body["cause"]) == ("task.stalled", "T1", f"stalled:{lease.epoch}")
        assert body["since"] == lease.granted_at_ms
        assert message.subject == f"T1: ada holds it (epoch {lease.epoch}) and has shown no progress for 60 s"

        await hub.advance(MINUTE)
        assert await round_of(watcher) == [("escalated", "T1", ("eva", "max"))]
        await hub.advance(10 * MINUTE)
        assert await round_of(watcher) == []
        (called,) = (await eva.inbox()).messages
        assert (called.sender, called.priority, word(called, "stage")) == ("supervisor", "high", "escalated")
        assert len(await said(watcher)) == 1


async def test_progress_ends_a_stall_and_the_next_one_is_another_cause() -> None:
    async with fleet("ada") as (hub, (watcher, ada)):
        await ada.declare_task("T1")
        lease = await ada.claim("T1", ttl=3600)
        await hub.advance(MINUTE)
        assert [what for what, *_ in await round_of(watcher)] == ["told"]
        await ada.note_progress("T1", "half of it", epoch=lease.epoch)
        assert await round_of(watcher) == []
        await hub.advance(MINUTE)
        assert [what for what, *_ in await round_of(watcher)] == ["told"]
        assert await round_of(watcher) == []


async def test_a_note_on_a_task_in_no_plan_ends_a_stall_too_and_the_next_one_is_told() -> None:
    async with fleet("ada", people=("eva",)) as (hub, (watcher, ada, eva)):
        lease = await ada.claim("unplanned", ttl=3600)
        await hub.advance(MINUTE)
        assert [what for what, *_ in await round_of(watcher)] == ["told"]
        await hub.advance(10_000)
        await ada.note_progress("unplanned", "half of it", epoch=lease.epoch)
        await hub.advance(MINUTE)
        assert await round_of(watcher) == [("told", "unplanned", ROOM)], "not escalated: it is another stall"
        await hub.advance(MINUTE)
        assert await round_of(watcher) == [("escalated", "unplanned", ("eva",))]
        assert await round_of(watcher) == []
        assert (await eva.inbox()).unacked == 1


async def test_what_others_write_is_no_progress_of_the_holder_and_a_restart_of_the_hub_repeats_nothing() -> None:
    async with fleet("ada", "bob") as (hub, (watcher, ada, bob)):
        await ada.declare_task("T1")
        await ada.claim("T1", ttl=24 * 3600)
        await hub.advance(MINUTE)
        assert [what for what, *_ in await round_of(watcher)] == ["told"]
        await hub.advance(MINUTE // 4)
        await bob.note_progress("T1", "what about it?")
        await hub.restart()
        await hub.advance(MINUTE - 1_000)
        assert await round_of(watcher) == []
        await hub.advance(1_000)
        assert [what for what, *_ in await round_of(watcher)] == ["escalated"], "it is the same stall, and it goes on"


async def test_a_line_that_comes_while_it_looks_is_of_no_stall_yet() -> None:
    async with fleet("ada") as (hub, (watcher, ada)):
        await ada.declare_task("T1")
        lease = await ada.claim("T1", ttl=3600)
        await hub.advance(MINUTE)
        ask = watcher.progress

        async def progress(*words: object, **more: object) -> object:
            await ada.note_progress("T1", "half of it", epoch=lease.epoch)
            return await ask(*words, **more)  # type: ignore[arg-type]  # passed on as they are

        watcher.progress = progress  # type: ignore[method-assign,assignment]  # in place of the method
        assert await round_of(watcher) == []
        watcher.progress = ask  # type: ignore[method-assign]  # as it was
        await hub.advance(MINUTE)
        assert [what for what, *_ in await round_of(watcher)] == ["told"]


async def test_a_stall_is_the_same_when_retention_drops_the_line_before_it() -> None:
    async with fleet("ada") as (hub, (watcher, ada)):
        await ada.declare_task("T1")
        lease = await ada.claim("T1", ttl=3600)
        await ada.note_progress("T1", "half of it", epoch=lease.epoch)
        await hub.advance(MINUTE)
        assert [what for what, *_ in await round_of(watcher)] == ["told"]
        ask = watcher.progress

        async def progress(*words: object, **more: object) -> object:
            page = await ask(*words, **more)  # type: ignore[arg-type]  # passed on as they are
            return msgspec.structs.replace(page, lines=())

        watcher.progress = progress  # type: ignore[method-assign,assignment]  # in place of the method
        assert await round_of(watcher) == []
        await hub.advance(MINUTE)
        assert [what for what, *_ in await round_of(watcher)] == ["escalated"]


async def test_a_wall_clock_that_is_set_back_hides_nothing() -> None:
    async with fleet("ada", "bob") as (hub, (watcher, ada, bob)):
        await ada.declare_task("T1")
        await ada.declare_task("T2")
        lease = await bob.claim("T2", ttl=24 * 3600)
        await ada.update_task("T1", "in_progress")
        await hub.advance(MINUTE)
        assert sorted(what for what, *_ in await round_of(watcher)) == ["put_back", "told"]
        hub.clock.jump(-5 * 3600_000)
        await bob.note_progress("T2", "half of it", epoch=lease.epoch)
        await ada.update_task("T1", "in_progress")
        await hub.advance(MINUTE)
        assert sorted(what for what, *_ in await round_of(watcher)) == ["put_back", "told"]
        assert await round_of(watcher) == []
        await ada.update_task("T1", "in_progress")
        hub.clock.jump(-5 * 3600_000)
        done = [(what, task) for what, task, _ in await round_of(watcher)]
        assert ("escalated", "T1") in done, "what has no age that can be told counts as old; it is the third time"


async def test_what_waits_for_somebody_else_is_not_stalled() -> None:
    async with fleet("ada") as (hub, (watcher, ada)):
        await ada.declare_task("review")
        for task in ("review", "parked"):
            await ada.claim(task, ttl=3600)
        await ada.claim("tied", ttl=3600, terms=ClaimTerms(tied=True))
        await ada.declare_task("take/planned")
        for task in ("lock/build", "take/gpu-1", "take/planned"):
            await ada.claim(task, ttl=3600)
        await ada.update_task("review", "review")
        await ada.park("parked")
        await hub.advance(20 * MINUTE)
        assert [(what, task) for what, task, _ in await round_of(watcher)] == [("told", "take/planned")]
        stalled = {"review", "tied", "take/planned"}
        assert {lease.task for lease in await ada.leases() if lease.stalled is True} == stalled, "renewed, no progress"
        assert {own.task for own in (await ada.digest()).mine if own.stalled is True} == stalled


async def test_an_orphan_is_put_back_and_announced_and_people_are_called_in_the_end() -> None:
    async with fleet("ada", people=("eva",)) as (hub, (watcher, ada, eva)):
        await ada.declare_task("T1")
        async with ada.plan_changes() as changes:
            for _ in range(TERMS.tries):
                await ada.update_task("T1", "in_progress")
                await hub.advance(MINUTE - 2_000)
                assert await round_of(watcher) == []
                await hub.advance(2_000)
                assert await round_of(watcher) == [("put_back", "T1", ROOM)]
                assert await round_of(watcher) == []
                assert (await ada.task("T1")).ready
            await ada.update_task("T1", "in_progress")
            await hub.advance(MINUTE)
            assert await round_of(watcher) == [("escalated", "T1", ("eva",))]
            assert (await ada.task("T1")).status == "in_progress", "it is left as it is for a person"
            await hub.advance(10 * MINUTE)
            assert await round_of(watcher) == []
            told = [(await anext(changes)).change for _ in range(4)]
        assert told == ["moved", "moved", "ready", "moved"], "in progress; put back, which says that it is ready; again"
        assert len(await said(watcher)) == TERMS.tries
        assert (await eva.inbox()).unacked == 1
        lines = (await ada.progress("T1")).lines
        assert all("put back to open: in progress without a lease" in line.text for line in lines)


async def test_an_orphan_that_somebody_takes_meanwhile_is_left_to_them() -> None:
    async with fleet("ada") as (hub, (watcher, ada)):
        for task in ("T1", "T2"):
            await ada.declare_task(task)
            await ada.update_task(task, "in_progress")
        await hub.advance(MINUTE)
        board = await look(watcher, "main", TERMS)
        assert len(decide(board, TERMS)) == 2
        held = await ada.claim("T1", ttl=3600)
        await ada.update_task("T2", "review")
        for step in decide(board, TERMS):
            assert await supervisor_rounds._carry_out(watcher, "main", step) == []
        assert ((await ada.task("T1")).holders[0].epoch, (await ada.task("T2")).status) == (held.epoch, "review")
        assert await said(watcher) == []


async def test_a_task_in_progress_that_somebody_holds_is_no_orphan() -> None:
    async with fleet("ada") as (hub, (watcher, ada)):
        await ada.declare_task("T1")
        await ada.claim("T1", ttl=3600)
        await hub.advance(10 * MINUTE)
        patient = replace(TERMS, stalled_ms=20 * MINUTE)
        assert decide(await look(watcher, "main", patient), patient) == []


async def test_an_orphan_that_is_moved_while_it_is_claimed_is_not_put_back() -> None:
    async with fleet("ada") as (hub, (watcher, ada)):
        await ada.declare_task("T1")
        await ada.update_task("T1", "in_progress")
        await hub.advance(MINUTE)
        claim = watcher.claim

        async def claim_late(task: str, **more: Any) -> Lease:
            await ada.update_task("T1", "review")
            return await claim(task, **more)

        watcher.claim = claim_late  # type: ignore[method-assign]  # in place of the method
        assert await round_of(watcher) == []
        task = await ada.task("T1")
        assert (task.status, task.holders) == ("review", ())


@pytest.mark.parametrize("taken", ["claimed", "moved"])
async def test_what_was_put_back_before_a_crash_is_told_although_somebody_took_it_since(taken: str) -> None:
    async with fleet("ada") as (hub, (watcher, ada)):
        await ada.declare_task("T1")
        await ada.update_task("T1", "in_progress")
        await hub.advance(MINUTE)
        ask = watcher.request

        async def request(command: object, *words: object, **more: object) -> object:
            if isinstance(command, SendMessage):
                raise Disconnected(1006, "the supervisor was killed")
            return await ask(command, *words, **more)  # type: ignore[arg-type]  # passed on as they are

        watcher.request = request  # type: ignore[method-assign,assignment]  # in place of the method
        with pytest.raises(Disconnected):
            await supervise(watcher, "main", TERMS, lambda _: None)
        await hub.advance(1_000)
        if taken == "claimed":
            await ada.claim("T1", ttl=3600)
        else:
            await ada.update_task("T1", "in_progress")
        async with client(hub, "supervisor", "service") as again:
            assert await round_of(again) == [("put_back", "T1", ROOM)]
        assert (await ada.task("T1")).status == "in_progress"


async def test_who_can_move_a_blocked_task_on_is_told_once_all_it_waits_for_is_done() -> None:
    async with fleet("ada", "bob") as (hub, (watcher, ada, bob)):
        await ada.declare_task("A")
        await ada.declare_task("B", depends_on=["A"], suggested_owner="bob")
        await ada.declare_task("alone")
        for task in ("B", "alone"):
            await ada.update_task(task, "blocked")
        assert await round_of(watcher) == []
        await ada.update_task("A", "done")
        assert await round_of(watcher) == [("told", "B", (*ROOM, "bob"))]
        assert await round_of(watcher) == []
        (told,) = (await bob.inbox()).messages
        assert told.subject == "B is blocked, and all it depends on is done: bob can move it on"
        await bob.update_task("B", "open")
        assert await round_of(watcher) == []
        await hub.advance(1_000)
        await bob.update_task("B", "blocked")
        assert [what for what, *_ in await round_of(watcher)] == ["told"], "another time, and so another cause"


async def test_without_people_the_room_is_told_that_nobody_can_be_called() -> None:
    async with fleet("ada") as (hub, (watcher, ada)):
        await ada.claim("T1", ttl=3600)
        await hub.advance(2 * MINUTE)
        assert [what for what, *_ in await round_of(watcher)] == ["told"]
        assert await round_of(watcher) == [("escalated", "T1", ROOM)]
        assert await round_of(watcher) == []
        assert "No person is a member" in str((await said(watcher))[-1].subject)


async def story(hub: MemoryHub, ada: Client, watcher: Callable[[], Client]) -> list[int]:
    """Causes of each kind come one after the other, with rounds in between; how much each round did."""
    counts = []
    await ada.declare_task("A")
    await ada.declare_task("B", depends_on=["A"])
    await ada.update_task("B", "blocked")
    await ada.update_task("A", "in_progress")
    await ada.claim("T1", ttl=24 * 3600)
    for _ in range(3):
        await hub.advance(MINUTE)
        counts.append(len(await round_of(watcher())))
    await ada.update_task("A", "done")
    for _ in range(3):
        await hub.advance(MINUTE)
        counts.append(len(await round_of(watcher())))
    return counts


async def subjects(watcher: Client) -> list[str | None]:
    return [message.subject for message in await said(watcher)]


async def test_neither_a_restart_of_the_supervisor_nor_of_the_hub_says_anything_again() -> None:
    async with fleet("ada", people=("eva",)) as (hub, (watcher, ada, eva)):
        await story(hub, ada, lambda: watcher)
        first, inbox = await subjects(watcher), (await eva.inbox()).unacked
        assert len(first) == 3
        assert inbox == 1
        again = client(hub, "supervisor", "service")
        async with again:
            assert await round_of(again) == []
        await hub.restart()
        for _ in range(10):
            await hub.advance(3 * 3600_000)
            assert await round_of(watcher) == [], "more than the 24 h that an idempotency key lives"
        assert (await subjects(watcher), (await eva.inbox()).unacked) == (first, inbox)


@pytest.mark.parametrize("late", [0, 45_000])
async def test_a_crash_between_the_value_and_the_message_neither_loses_nor_repeats_it(late: int) -> None:
    """The connection is cut after each request of a round in turn; the next supervisor ends what was begun."""
    for cut in range(1, 40):
        async with fleet("ada", people=("eva",)) as (hub, (watcher, ada, _)):
            await ada.declare_task("A")
            await ada.update_task("A", "in_progress")
            await ada.claim("T1", ttl=3600)
            await hub.advance(MINUTE)
            mortal(watcher, cut)
            try:
                await supervise(watcher, "main", TERMS, lambda _: None)
                is_over = True
            except Disconnected:
                is_over = False
            async with client(hub, "supervisor", "service") as again:
                for _ in range(3):
                    await hub.advance(late)
                    await supervise(again, "main", TERMS, lambda _: None)
                told = sorted(word(message, "type") for message in await said(again))
                assert told == ["task.orphaned", "task.stalled"], f"cut after {cut} requests"
                assert (await ada.task("A")).ready
        if is_over:
            assert cut > 10
            return
    raise AssertionError("a round has no end")


@pytest.mark.parametrize("names", [("supervisor", "supervisor"), ("supervisor", "other")])
async def test_two_supervisors_at_once_say_nothing_twice(names: tuple[str, str]) -> None:
    async with fleet("ada", people=("eva",)) as (hub, (_, ada, eva)):
        one, two = (client(hub, name, "service") for name in names)
        async with one, two:
            await ada.declare_task("A")
            await ada.declare_task("B", depends_on=["A"])
            await ada.update_task("B", "blocked")
            await ada.update_task("A", "in_progress")
            await ada.claim("T1", ttl=3600)
            for at in range(6):
                await hub.advance(MINUTE)
                if at == 3:
                    await ada.update_task("A", "done")
                await asyncio.gather(*(supervise(each, "main", TERMS, lambda _: None) for each in (one, two)))
            told = sorted(word(message, "cause").partition(":")[0] for message in await said(one))
            assert told == ["orphaned", "stalled", "unblocked"]
            assert (await eva.inbox()).unacked == 1


async def test_what_another_supervisor_began_and_left_is_taken_over_later() -> None:
    async with fleet("ada") as (hub, (watcher, ada)):
        await ada.claim("T1", ttl=24 * 3600)
        await hub.advance(MINUTE)
        (step,) = decide(await look(watcher, "main", TERMS), TERMS)
        assert step.record is not None
        dead = msgspec.structs.replace(step.record, by="dead")
        await watcher.put(step.key, msgspec.to_builtins(dead))
        await hub.advance(MINUTE)
        assert await round_of(watcher) == []
        await hub.advance(5 * MINUTE)
        assert [what for what, *_ in await round_of(watcher)] == ["told"]


async def test_a_flood_of_causes_is_told_over_several_rounds() -> None:
    async with fleet("ada") as (hub, (watcher, ada)):
        for n in range(25):
            await ada.claim(f"T{n}", ttl=24 * 3600)
        await hub.advance(MINUTE)
        assert [len(await round_of(watcher)) for _ in range(3)] == [20, 5, 0]


async def test_what_is_told_is_forgotten_with_the_lease() -> None:
    async with fleet("ada") as (hub, (watcher, ada)):
        await ada.claim("T1", ttl=24 * 3600)
        await hub.advance(MINUTE)
        await round_of(watcher)
        assert len(await watcher.keys("supervisor/")) == 1
        await ada.release("T1")
        await round_of(watcher)
        assert await watcher.keys("supervisor/") == ()


async def test_a_value_of_somebody_else_under_the_prefix_does_not_stop_it() -> None:
    async with fleet("ada") as (hub, (watcher, ada)):
        await ada.put("supervisor/mine", {"not": "a record"})
        await ada.claim("T1", ttl=24 * 3600)
        await hub.advance(MINUTE)
        assert [what for what, *_ in await round_of(watcher)] == ["told"]


async def test_a_room_that_is_not_there_is_refused() -> None:
    async with fleet() as (_, (watcher,)):
        with pytest.raises(Rejected, match="not_found"):
            await supervise(watcher, "nowhere", TERMS, lambda _: None)


# The pure part, for any room.

NOW = 1_800_000_000_000
ages = st.integers(0, 10 * MINUTE)


@st.composite
def boards(draw: st.DrawFn) -> Board:
    tasks: dict[str, TaskInfo] = {}
    leases: list[Lease] = []
    for at in range(draw(st.integers(0, 12))):
        name, moved_at_ms = f"T{at}", NOW - draw(ages)
        is_held = draw(st.booleans())
        if draw(st.booleans()):
            depends_on = ("x",) if draw(st.booleans()) else ()
            holders = (TaskHolder(owner="ada", epoch=at + 1, expires_at_ms=None, idle_ms=0, stalled=False),)
            tasks[name] = TaskInfo(
                name, "main", name, draw(st.sampled_from(["in_progress", "blocked", "review"])), False, "normal",
                depends_on, None, 1, "bob", moved_at_ms, None,
                unmet=draw(st.integers(0, 1)) if depends_on else 0, holders=holders if is_held else (),
            )  # fmt: skip
        if is_held:
            status = draw(st.sampled_from(["held", "parked"]))
            idle_ms = draw(ages)
            leases.append(
                Lease(
                    name,
                    "main",
                    "ada",
                    at + 1,
                    None,
                    (),
                    False,
                    {},
                    "exclusive",
                    9,
                    None,
                    None,
                    status,
                    NOW - idle_ms,
                    None,
                    None,
                    draw(st.booleans()),
                    None,
                    idle_ms=idle_ms,
                )
            )
    return Board(me="supervisor", seq=1, now_ms=NOW, tasks=tasks, leases=leases, lines={}, kept={})


def after(board: Board, version: int) -> tuple[Board, list[str]]:
    """The board once all steps are done, and the idempotency keys of what was said."""
    kept = dict(board.kept)
    said = []
    for step in decide(board, TERMS):
        assert step.version == (kept[step.key].version if step.key in kept else 0)
        if step.record is None:
            del kept[step.key]
        else:
            said.append(idem_of(step.record, ""))
            kept[step.key] = Kept(msgspec.structs.replace(step.record, done=True), version)
    return replace(board, kept=kept), said


@given(boards(), st.lists(st.integers(0, 20 * MINUTE), max_size=4))
@settings(max_examples=200)
def test_whatever_the_room_no_round_says_what_was_said_before(board: Board, pauses: list[int]) -> None:
    told: list[str] = []
    for version, pause in enumerate([0, *pauses], start=1):
        leases = [msgspec.structs.replace(lease, idle_ms=int(lease.idle_ms or 0) + pause) for lease in board.leases]
        board = replace(board, now_ms=board.now_ms + pause, leases=leases)
        for _ in range(3):
            board, said = after(board, version)
            assert len(said) <= STEPS_MAX
            told += said
        assert after(board, version)[1] == [], "at the same moment there is nothing left to say"
        assert all(kept.record.mark in {lease.epoch for lease in leases} or kept.record.cause != "stalled"
                   for kept in board.kept.values())  # fmt: skip
    assert len(told) == len(set(told)), "said twice"
    stuck = [task for task in board.tasks.values() if task.status == "blocked" and task.depends_on and not task.unmet]
    assert len([kept for kept in board.kept.values() if kept.record.cause == "unblocked"]) == len(stuck)
