"""A digest tells what is asked of an agent, what blocks it and what is its own, at one seq, and counts the rest."""

from collections.abc import Iterator

import msgspec
import pytest
from tests.hub.conftest import Voice, voice

from synapse.client.digest_text import lay_out
from synapse.core.digest import counted
from synapse.hub import digest as counting
from synapse.protocol import commands, plan_commands, replies
from synapse.protocol.digest_commands import ReadDigest
from synapse.protocol.digest_replies import Digest
from synapse.protocol.member_commands import InviteMember
from synapse.protocol.member_replies import Membership
from synapse.protocol.plan_replies import TaskInfo
from synapse.protocol.role_commands import JoinRole
from synapse.protocol.role_replies import RoleChanged
from synapse.protocol.value_commands import PutValue
from synapse.protocol.value_replies import ValueInfo
from synapse.testing import MemoryHub


async def digest(voice: Voice, **fields: object) -> Digest:
    return await voice.ask(msgspec.convert(fields, ReadDigest), Digest)


async def tell(voice: Voice, to: str, text: object, priority: str = "normal") -> replies.Sent:
    body = msgspec.Raw(msgspec.json.encode(text))
    return await voice.ask(commands.SendMessage(to=(to,), body=body, priority=priority), replies.Sent)


async def claim(voice: Voice, task: str, *paths: str) -> replies.Lease:
    worktree = "w" if paths else None
    return await voice.ask(commands.ClaimLease(task=task, paths=paths, worktree=worktree), replies.Lease)


async def declare(voice: Voice, task: str, *after: str, owner: str | None = None, priority: str = "normal") -> TaskInfo:
    asked = plan_commands.DeclareTask(task=task, depends_on=after, suggested_owner=owner, priority=priority)
    return await voice.ask(asked, TaskInfo)


async def move(voice: Voice, task: str, status: str) -> TaskInfo:
    return await voice.ask(plan_commands.UpdateTask(task=task, status=status), TaskInfo)


def counts(found: Digest, *, since: bool) -> dict[str, dict[str, int]]:
    return {line.of: line.counts for line in found.rest if line.since == since}


async def test_a_letter_of_the_hub_is_told_in_words_with_what_follows_from_it() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await ada.ask(commands.CreateRoom(room="den", private=True), replies.Place)
        bob = await voice(hub, "bob")
        await ada.ask(InviteMember(agent="bob", place="den"), Membership)
        [ask] = (await digest(bob)).asked
        assert (ask.by, ask.subject) == ("hub", "you are asked into the private room den")
        assert ask.text == "place den; next: synapse room join den"


async def test_what_is_asked_is_told_by_priority_and_then_by_age() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        for voice_of in (ada, bob):
            await voice_of.ask(commands.JoinRoom(room="main"), replies.Place)
        first = await tell(bob, "ada", "first")
        await hub.advance(1_000)
        mentioned = await bob.post("@ada look")
        urgent = await tell(bob, "ada", {"type": "x", "n": 1}, "urgent")
        await bob.ask(commands.SendMessage(to=("all",), body=msgspec.Raw(b'"all"')), replies.Sent)
        held = await claim(bob, "T1", "src/**")
        carol = await voice(hub, "carol", lasting=False)
        await carol.peer.aclose()
        await hub.advance(6 * 60_000)
        found = await digest(ada)
        assert [(ask.kind, ask.id) for ask in found.asked] == [
            ("message", urgent.id),
            ("message", first.id),
            ("mention", mentioned.id),
        ]
        assert (found.asked[0].text, found.asked[2].room, found.asked[2].channel) == (
            '{"type":"x","n":1}',
            "main",
            "general",
        )
        assert counts(found, since=False)["unacked"] == {"to all": 1}
        await bob.ask(commands.HandOffLease(task="T1", to="carol", epoch=held.epoch), replies.Lease)
        away = Voice(hub)
        await away.hello("carol", lasting=False)
        offered = await digest(away)
        assert [(ask.kind, ask.task, ask.epoch, ask.by) for ask in offered.asked] == [
            ("offer", "T1", held.epoch, "bob")
        ]
        assert offered.asked_total == 1, "the offer's own message is not told again"


async def test_what_blocks_me_names_holders_and_the_time_they_have_left() -> None:
    async with MemoryHub() as hub:
        ada, bob, carol = await voice(hub), await voice(hub, "bob"), await voice(hub, "carol")
        held = await claim(bob, "T1", "src/**")
        for waiter, task in ((carol, "T2"), (ada, "T3")):
            await waiter.say(commands.ClaimLease(task=task, paths=("src/a",), worktree="w", wait_ms=None))
        await declare(bob, "A")
        work = await claim(bob, "A")
        await declare(bob, "B", "A", "nowhere", owner="ada")
        await declare(bob, "C", owner="ada")
        await move(ada, "C", "blocked")
        await hub.advance(5_000)
        found = await digest(await voice(hub))
        assert [(block.kind, block.task) for block in found.blocked] == [("claim", "T3"), ("task", "B"), ("task", "C")]
        wait, stuck, blocked = found.blocked
        assert [(need.status, need.owner, need.epoch) for need in wait.needs] == [
            ("held", "bob", held.epoch),
            ("ahead", "carol", None),
        ]
        assert held.remaining_ms is not None
        assert wait.needs[0].remaining_ms == held.remaining_ms - 5_000
        assert [(need.task, need.status, need.epoch) for need in stuck.needs] == [
            ("A", "in_progress", work.epoch),
            ("nowhere", "undeclared", None),
        ]
        assert (blocked.needs, blocked.status) == ((), "blocked")
        assert found.mine_total == 0, "what is blocked is not told twice"


async def test_what_is_mine_comes_by_the_end_of_its_lease_then_ready_first() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await declare(bob, "later", owner="ada", priority="high")
        await move(bob, "later", "waiting_for_input")
        for name, priority in (("low", "low"), ("high", "high")):
            await declare(bob, name, owner="ada", priority=priority)
        await declare(bob, "over", owner="ada")
        await move(bob, "over", "done")
        await declare(bob, "held", owner="ada")
        await claim(ada, "free")
        await hub.advance(60_000)
        await claim(ada, "held")
        await bob.ask(commands.CreateRoom(room="elsewhere"), replies.Place)
        await bob.ask(commands.ClaimLease(task="far", room="elsewhere"), replies.Lease)
        found = await digest(ada)
        assert [(own.kind, own.task, own.status, own.ready) for own in found.mine] == [
            ("lease", "free", None, False),
            ("lease", "held", "in_progress", False),
            ("task", "high", "open", True),
            ("task", "low", "open", True),
            ("task", "later", "waiting_for_input", False),
        ]
        assert counts(found, since=False) == {
            "tasks": {"ready": 2, "in_progress": 1, "waiting_for_input": 1, "done": 1},
            "held": {"ada": 2},
            "agents": {"online": 2},
        }


async def test_what_waits_in_the_queues_of_my_roles_is_counted_until_somebody_has_it() -> None:
    async with MemoryHub() as hub:
        ada, bob, eve = await voice(hub), await voice(hub, "bob"), await voice(hub, "eve")
        for who in (ada, bob):
            await who.ask(JoinRole(role="reviewer"), RoleChanged)
        await ada.ask(JoinRole(role="idle"), RoleChanged)
        for text in ("one", "two"):
            await tell(eve, "role:reviewer", text)
        assert counts(await digest(ada), since=False)["roles"] == {"reviewer": 2}
        taken = await bob.ask(commands.TakeInbox(), replies.Taken)
        assert counts(await digest(ada), since=False)["roles"] == {"reviewer": 1}
        assert "1 reviewer" in lay_out(msgspec.to_builtins(await digest(ada))).text
        await bob.ask(commands.AckInbox(ids=(taken.message.id,)), replies.Acked)
        await ada.ask(commands.TakeInbox(), replies.Taken)
        assert "roles" not in counts(await digest(ada), since=False)
        assert "roles" not in counts(await digest(eve), since=False)


async def test_what_others_did_since_is_counted_and_what_i_did_is_not() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await declare(ada, "mine")
        start = (await digest(ada)).cursor
        assert (await digest(ada, since=start)).new is False
        await ada.post("mine")
        await claim(ada, "mine")
        await ada.ask(PutValue(key="k", value=msgspec.Raw(b"1")), ValueInfo)
        quiet = await digest(ada, since=start)
        assert quiet.new is False
        assert counts(quiet, since=True) == {}

        for text in ("a", "b", "@ada c"):
            await bob.post(text)
        await bob.ask(commands.CreateChannel(channel="main:build"), replies.Place)
        await bob.ask(commands.SendMessage(channel="main:build", body=msgspec.Raw(b'"x"')), replies.Sent)
        await tell(bob, "ada", "x")
        await declare(bob, "A")
        await declare(bob, "B", "A")
        await move(bob, "A", "done")
        await claim(bob, "B")
        await bob.ask(commands.CreateRoom(room="other"), replies.Place)
        await bob.ask(commands.ClaimLease(task="elsewhere", room="other"), replies.Lease)
        await bob.ask(PutValue(key="k", value=msgspec.Raw(b"2")), ValueInfo)
        await bob.ask(commands.JoinRoom(room="main"), replies.Place)
        await voice(hub, "carol")
        found = await digest(ada, since=start)
        assert found.new is True
        assert counts(found, since=True) == {
            "inbox": {"messages": 1},
            "messages": {"general": 3, "build": 1},
            "plan": {"declared": 2, "ready": 2, "done": 1, "in_progress": 1},
            "leases": {"granted": 1},
            "values": {"put": 1},
            "came": {"bob": 1, "carol": 1},
        }
        assert not any(line.at_least for line in found.rest)
        assert [ask.new for ask in found.asked] == [True]
        assert (await digest(ada, since=found.cursor)).new is False


@pytest.fixture
def small_scans(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(counting, "ROWS_COUNTED_MAX", 3)
    yield 3


async def test_a_count_that_met_its_bound_says_so(small_scans: int) -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        start = (await digest(ada)).cursor
        for _ in range(small_scans - 1):
            await bob.post("x")
        (exact,) = (line for line in (await digest(ada, since=start)).rest if line.of == "messages")
        assert (exact.total, exact.at_least) == (2, False)
        for _ in range(small_scans):
            await ada.post("mine")
            await bob.post("x")
        (bounded,) = (line for line in (await digest(ada, since=start)).rest if line.of == "messages")
        assert (bounded.total, bounded.at_least) == (2, True), "mine are not counted, but looked through"


async def test_a_count_looks_through_a_bounded_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        start = (await digest(ada)).cursor
        for _ in range(3):
            await bob.post("x" * 500)
        monkeypatch.setattr(counting, "BYTES_COUNTED_MAX", 2_500)
        (exact,) = (line for line in (await digest(ada, since=start)).rest if line.of == "messages")
        assert (exact.total, exact.at_least) == (3, False)
        monkeypatch.setattr(counting, "BYTES_COUNTED_MAX", 1_000)
        (bounded,) = (line for line in (await digest(ada, since=start)).rest if line.of == "messages")
        assert (bounded.total, bounded.at_least) == (2, True), "the row that passes the bound is the last one"


async def test_totals_count_what_the_lists_have_no_room_for() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        for n in range(5):
            await tell(bob, "ada", "x" * 400)
            await claim(ada, f"T{n}")
            await declare(bob, f"B{n}", "nowhere", owner="ada")
        found = await digest(ada, limit=2)
        assert [len(found.asked), len(found.blocked), len(found.mine)] == [2, 2, 2]
        assert (found.asked_total, found.blocked_total, found.mine_total) == (5, 5, 5)
        assert (len(found.asked[0].text), found.asked[0].cut) == (counting.TEXT_CHARS, True)


async def test_all_of_a_digest_is_of_one_seq() -> None:
    """What is committed between the turn and the reading from disk is not in it."""
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        start = (await digest(ada)).cursor
        await bob.post("before")
        asked = await ada.say(ReadDigest(since=start))
        await bob.say(commands.SendMessage(channel="main:general", body=msgspec.Raw(b'"after"')))
        await bob.say(commands.SendMessage(to=("ada",), body=msgspec.Raw(b'"after"')))
        body = (await ada.answer(asked)).body
        assert body is not None
        found = msgspec.json.decode(body, type=Digest)
        assert found.cursor.endswith(f":{found.seq}")
        assert found.asked_total == 0, "the question came first, and both were carried out in one turn"
        assert counts(found, since=True) == {"messages": {"general": 1}}


@pytest.mark.bad_input("BI-52")
async def test_what_is_said_in_a_private_channel_is_counted_for_who_reads_it_alone() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        began = (await digest(bob)).cursor
        await ada.ask(commands.CreateChannel(channel="main:den", private=True), replies.Place)
        await ada.ask(commands.SendMessage(body=msgspec.Raw(b'"x"'), channel="main:den"), replies.Sent)
        assert "messages" not in counts(await digest(bob, since=began), since=True)
        await ada.ask(InviteMember(agent="bob", place="main:den"), Membership)
        await bob.ask(commands.JoinChannel(channel="main:den"), replies.Place)
        assert "messages" not in counts(await digest(bob, since=began), since=True)
        await ada.ask(commands.SendMessage(body=msgspec.Raw(b'"y"'), channel="main:den"), replies.Sent)
        assert counts(await digest(bob, since=began), since=True)["messages"] == {"den": 1}


async def test_who_holds_or_waits_in_a_private_room_is_not_named_to_others() -> None:
    async with MemoryHub() as hub:
        ada, bob, carol = await voice(hub), await voice(hub, "bob"), await voice(hub, "carol")
        await ada.ask(commands.CreateRoom(room="den", private=True), replies.Place)
        await ada.ask(InviteMember(agent="carol", place="den"), Membership)
        await carol.ask(commands.JoinRoom(room="den"), replies.Place)
        asked = commands.ClaimLease(task="plot", room="den", paths=("a",), worktree="w")
        await ada.ask(asked, replies.Lease)
        await carol.say(msgspec.structs.replace(asked, task="scheme", wait_ms=60_000))
        await bob.say(commands.ClaimLease(task="T1", paths=("a",), worktree="w", wait_ms=60_000))
        await hub.advance(1_000)
        [block] = (await digest(bob)).blocked
        private = ("private", "private", "private")
        assert [(need.task, need.room, need.owner) for need in block.needs] == [private, private]
        [block] = (await digest(carol)).blocked
        assert [(need.task, need.room, need.owner) for need in block.needs] == [("plot", "den", "ada")]


async def test_a_stranger_to_the_room_and_an_operator_are_refused() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        assert (await ada.refused(ReadDigest(room="nowhere"))).code == "not_found"
        assert (await ada.refused(ReadDigest(limit=0))).code == "bad_request"
        assert (await ada.refused(ReadDigest(since="0" * 16 + ":5"))).code == "log_diverged"
        operator = Voice(hub)
        await operator.ask(commands.Hello(operator=True), replies.Welcome)
        assert (await operator.refused(ReadDigest())).code == "anonymous"


def test_the_names_with_the_largest_counts_are_told_and_all_are_in_the_sum() -> None:
    line = counted("leases", {f"a{number}": number for number in range(1, 41)})
    assert list(line.counts.values()) == list(range(40, 8, -1))
    assert line.total == sum(range(1, 41))
