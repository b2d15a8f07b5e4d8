"""What happened, read from the journal: whole, in order, once each; for the right eyes; honest about what is gone."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from tests.hub.conftest import Voice, direct, error_of, message, operator, quiet, reply_of, slow_writer, steps, voice
from tests.hub.test_retention import DAY_MS, compacting, no_pauses  # noqa: F401  # pytest finds the fixture here

from synapse.core.by import By
from synapse.errors import Rejected
from synapse.hub import happenings
from synapse.protocol.commands import (
    AckInbox,
    CompactJournal,
    CreateRoom,
    DeleteRoom,
    ForgetAgent,
    JoinRoom,
    LeaveRoom,
)
from synapse.protocol.event_commands import ReadEvents
from synapse.protocol.event_replies import EventsPage
from synapse.protocol.journal_replies import Compaction
from synapse.protocol.replies import Acked, AgentRemoved, Place, Sent
from synapse.protocol.value_commands import PutValue
from synapse.protocol.value_replies import ValueInfo
from synapse.testing import MemoryHub

Line = dict[str, object]


def lines_of(page: EventsPage) -> list[Line]:
    return [msgspec.json.decode(line, type=Line) for line in page.events]


async def all_of(
    asker: Voice, since: str | None = None, limit: int = 200, kinds: tuple[str, ...] = (), room: str | None = None
) -> list[Line]:
    """All pages up to the head."""
    found: list[Line] = []
    while True:
        page = await asker.ask(ReadEvents(since=since, limit=limit, kinds=kinds, room=room), EventsPage)
        found += lines_of(page)
        assert page.first_kept is UNSET
        if page.next is None:
            return found
        since = page.next


async def test_pages_of_any_size_are_the_journal_in_its_order_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        for n in range(20):
            await ada.post(f"post {n}")
            await bob.ask(PutValue(key=f"k{n % 3}", value=msgspec.Raw(b"%d" % n)), ValueInfo)
            await bob.ask(direct(f"to ada {n}", "ada"), Sent)
        whole = await all_of(ada)
        seqs = [int(str(line["cursor"]).partition(":")[2]) for line in whole]
        assert seqs == sorted(set(seqs))
        assert [line["body"] for line in whole if line["kind"] == "message.posted"] == [f"post {n}" for n in range(20)]
        assert [line["body"] for line in whole if line["kind"] == "message.sent"] == [f"to ada {n}" for n in range(20)]
        monkeypatch.setattr(happenings, "_CHUNK", 7)
        for scanned in (7, 5_000):
            monkeypatch.setattr(happenings, "SCAN_ROWS_MAX", scanned)
            assert [await all_of(ada, limit=limit) for limit in (1, 3, 500)] == [whole] * 3
            middle = str(whole[30]["cursor"])
            assert await all_of(ada, since=middle, limit=4) == whole[31:]
            values = [line for line in whole if str(line["kind"]).startswith("value.")]
            assert await all_of(ada, limit=2, kinds=("value",)) == values
        monkeypatch.setattr(happenings, "REPLY_BYTES_MAX", 300)
        assert await all_of(ada) == whole


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["post", "put", "direct", "read", "idle"]), max_size=40), st.integers(1, 5))
async def test_a_follower_is_told_the_same_as_one_that_comes_later(acts: list[str], limit: int) -> None:
    async with MemoryHub() as hub:
        ada, bob, eve = await voice(hub), await voice(hub, "bob"), await voice(hub, "eve")
        begin = f"{hub.state.journal_id}:{hub.state.seq}"
        told: list[Line] = []
        since, asked = begin, await eve.say(ReadEvents(since=begin, limit=limit, wait_ms=60_000))
        for n, act in enumerate(acts):
            if act == "post":
                await ada.say(message(f"{n}"))
            elif act == "put":
                await bob.say(PutValue(key="k", value=msgspec.Raw(b"%d" % n)))
            elif act == "direct":
                await bob.say(direct(f"canary {n}", "ada"))
            elif act == "idle":
                await quiet(hub)
            for frame in await eve.listen():
                if frame.id != asked:
                    continue
                eve.heard.remove(frame)
                page = reply_of(frame, EventsPage)
                told += lines_of(page)
                since = page.cursor if page.next is None else page.next
                asked = await eve.say(ReadEvents(since=since, limit=limit, wait_ms=60_000))
        await quiet(hub)
        later = await all_of(await voice(hub, "late"), since=begin)
        later = [line for line in later if line["kind"] != "agent.created"]
        rest = [line for line in await all_of(eve, since=since) if line["kind"] != "agent.created"]
        assert told + rest == later
        assert "canary" not in str(later)


async def test_a_wait_at_the_head_ends_with_what_is_asked_for_and_only_that() -> None:
    async with MemoryHub() as hub:
        ada, eve = await voice(hub), await voice(hub, "eve")
        since = f"{hub.state.journal_id}:{hub.state.seq}"
        asked = await eve.say(ReadEvents(since=since, kinds=("value",), wait_ms=60_000))
        await quiet(hub)
        assert hub.turns.waiting.count == 1
        await ada.post("not a value")
        await quiet(hub)
        assert [frame.id for frame in await eve.listen()] == [], "it was not woken for something else"
        await ada.ask(PutValue(key="k", value=msgspec.Raw(b"1")), ValueInfo)
        page = reply_of(await eve.answer(asked), EventsPage)
        assert [line["kind"] for line in lines_of(page)] == ["value.put"]
        assert (page.next, hub.turns.waiting.count) == (None, 0)


async def test_a_wait_that_ends_is_an_empty_page_to_go_on_from() -> None:
    async with MemoryHub() as hub:
        ada, eve = await voice(hub), await voice(hub, "eve")
        since = f"{hub.state.journal_id}:{hub.state.seq}"
        asked = await eve.say(ReadEvents(since=since, kinds=("value",), wait_ms=5_000))
        await ada.post("moves the head")
        await hub.advance(6_000)
        page = reply_of(await eve.answer(asked), EventsPage)
        assert (page.events, page.next, page.cursor) == ((), None, f"{hub.state.journal_id}:{hub.state.seq}")


async def test_nothing_is_told_before_it_is_durable() -> None:
    async with MemoryHub() as hub:
        ada, eve = await voice(hub), await voice(hub, "eve")
        since = f"{hub.state.journal_id}:{hub.state.seq}"
        asked = await eve.say(ReadEvents(since=since, wait_ms=60_000))
        await quiet(hub)
        writer = slow_writer(hub)
        await ada.peer.send(b'{"type":"message.send","id":99,"body":{"body":"soon"}}')
        await steps()
        assert len(writer.jobs) == 1
        assert eve.peer.received_now() == []
        writer.finish()
        page = reply_of(await eve.answer(asked), EventsPage)
        assert [line["body"] for line in lines_of(page)] == ["soon"]


async def test_a_connection_that_goes_waits_no_more_and_a_room_that_goes_refuses() -> None:
    async with MemoryHub() as hub:
        boss, eve, gone = await operator(hub), await voice(hub, "eve"), await voice(hub, "gone")
        await eve.ask(CreateRoom(room="lab"), Place)
        since = f"{hub.state.journal_id}:{hub.state.seq}"
        await gone.say(ReadEvents(since=since, wait_ms=60_000))
        asked = await eve.say(ReadEvents(since=since, room="lab", wait_ms=60_000))
        await quiet(hub)
        assert hub.turns.waiting.count == 2
        await gone.peer.aclose()
        await quiet(hub)
        assert hub.turns.waiting.count == 1
        await boss.ask(DeleteRoom(room="lab"), Place)
        assert error_of(await eve.answer(asked)).code == "not_found"


async def test_what_is_gone_still_has_its_name() -> None:
    async with MemoryHub() as hub:
        boss, ada = await operator(hub), await voice(hub)
        bob = await voice(hub, "bob")
        await bob.ask(JoinRoom(room="lab"), Place)
        await bob.ask(LeaveRoom(room="lab"), Place)
        await boss.ask(DeleteRoom(room="lab"), Place)
        await boss.ask(ForgetAgent(name="bob"), AgentRemoved)
        told = await all_of(boss, kinds=("room", "agent"))
        assert [(line["kind"], line.get("agent")) for line in told if line.get("room") == "lab"] == [
            ("room.created", None),
            ("room.joined", "bob"),
            ("room.left", "bob"),
            ("room.deleted", None),
        ]
        assert ("agent.forgotten", "bob") in [(line["kind"], line.get("agent")) for line in told]
        assert "lab" not in str(await all_of(ada)), "a room that is gone is nobody's but the operator's"


async def test_who_is_kept_to_a_room_is_told_nothing_of_another() -> None:
    async with MemoryHub() as hub:
        ada, bob, eve = await voice(hub), await voice(hub, "bob"), await voice(hub, "eve")
        await ada.ask(JoinRoom(room="lab"), Place)
        await bob.ask(JoinRoom(room="vault"), Place)
        await bob.ask(message("CANARY", "vault:general"), Sent)
        await bob.ask(PutValue(key="k", value=msgspec.Raw(b'"CANARY"'), room="vault"), ValueInfo)
        await eve.ask(JoinRoom(room="lab"), Place)
        by_of(hub, "eve").rooms = frozenset({"lab"})
        told = str(await all_of(eve))
        assert "lab" in told
        assert "CANARY" not in told
        assert "vault" not in told
        assert "'bob'" not in told
        assert (await eve.refused(ReadEvents(room="vault"))).code == "not_found"


@pytest.mark.bad_input("BI-105")
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"since": "x"}, "bad_request"),
        ({"since": "0" * 16 + ":1"}, "log_diverged"),
        ({"since": "1" * 16 + ":9007199254740991"}, "log_diverged"),
        ({"kinds": ("gossip",)}, "bad_request"),
        ({"room": "nowhere"}, "not_found"),
        ({"room": "No Room"}, "bad_name"),
        ({"limit": 0}, "bad_request"),
        ({"limit": 501}, "bad_request"),
        ({"since": "HEAD", "wait_ms": -1}, "bad_request"),
        ({"since": "HEAD", "wait_ms": 1 << 50}, "bad_request"),
    ],
)
async def test_what_cannot_be_read_so_is_refused(fields: dict[str, object], code: str) -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        if fields.get("since") == "HEAD":
            fields = {**fields, "since": f"{hub.state.journal_id}:{hub.state.seq}"}
        refused = await ada.refused(ReadEvents(**fields))  # type: ignore[arg-type]  # wrong on purpose
        assert refused.code == code


async def test_a_cursor_before_what_is_kept_is_refused_for_what_was_dropped_and_for_nothing_else() -> None:
    async with compacting() as (hub, _):
        ada, bob, boss = await voice(hub), await voice(hub, "bob"), await operator(hub)
        old = await ada.post("old")
        await ada.ask(PutValue(key="k", value=msgspec.Raw(b"1")), ValueInfo)
        last = await ada.post("old too")
        hub.clock.advance(3 * DAY_MS)
        new = await ada.post("new")
        await boss.ask(CompactJournal(keep={"messages": DAY_MS}), Compaction)
        refused = await bob.refused(ReadEvents(since=old.cursor))
        assert (refused.code, msgspec.to_builtins(refused.facts)["first_kept"]) == ("cursor_too_old", last.cursor)
        assert [line["body"] for line in await all_of(bob, last.cursor, kinds=("message",))] == ["new"]
        page = await bob.ask(ReadEvents(kinds=("message",)), EventsPage)
        assert ([line["cursor"] for line in lines_of(page)], page.first_kept) == ([new.cursor], last.cursor)
        assert [line["kind"] for line in await all_of(bob, old.cursor, kinds=("value",))] == ["value.put"]
        assert [line["kind"] for line in await all_of(bob, old.cursor, room="lab")] == []


async def test_what_i_sent_and_another_inbox_let_go_is_said_to_be_gone() -> None:
    async with compacting() as (hub, _):
        ada, bob, boss = await voice(hub), await voice(hub, "bob"), await operator(hub)
        before = f"{hub.state.journal_id}:{hub.state.seq}"
        sent = await ada.ask(direct("done", "bob"), Sent)
        await bob.ask(AckInbox(ids=(sent.id,)), Acked)
        hub.clock.advance(3 * DAY_MS)
        await boss.ask(CompactJournal(keep={"messages": DAY_MS}), Compaction)
        for asker in (ada, bob):
            assert (await asker.refused(ReadEvents(since=before))).code == "cursor_too_old"
            assert [line["kind"] for line in await all_of(asker, sent.cursor)] == ["journal.compacted"]
        eve = await voice(hub, "eve")
        assert "message.sent" not in str(await all_of(eve, before)), "it was none of hers, and is not missing to her"


async def test_a_compaction_that_overtakes_a_page_is_said() -> None:
    async with compacting() as (hub, _):
        ada, boss = await voice(hub), await operator(hub)
        old = await ada.post("old")
        await ada.post("old too")
        hub.clock.advance(3 * DAY_MS)
        query = happenings.events_query(hub.state, ReadEvents(since=old.cursor), by_of(hub, "ada"), 500)
        await boss.ask(CompactJournal(keep={"messages": DAY_MS}), Compaction)
        with pytest.raises(Rejected) as refused:
            happenings.read_events(hub.turns.pages, query)
        assert refused.value.code == "cursor_too_old"


def by_of(hub: MemoryHub, name: str) -> By:
    """Who the hub takes an agent's connection for."""
    return next(iter(hub.turns.of_agent[name])).by
