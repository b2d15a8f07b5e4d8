"""Compaction beside a running hub: who reads is told, who waits for an answer gets it, and nobody else notices."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from tests.hub.conftest import (
    Voice,
    direct,
    message,
    operator,
    quiet,
    reply_of,
    slow_reader,
    slow_writer,
    steps,
    voice,
)

from synapse.core.state import decode_state, encode_state
from synapse.errors import Rejected
from synapse.hub import feeds, retention
from synapse.hub.retention import EVERY_MS, FIRST_MS
from synapse.hub.settings import Settings
from synapse.journal.compaction import Plan, survey
from synapse.protocol.commands import (
    AckInbox,
    ClaimLease,
    CompactJournal,
    ExplainTask,
    ListInbox,
    ReadHistory,
    ReleaseLease,
    Subscribe,
    TakeInbox,
    VerifyJournal,
    WaitReceipt,
)
from synapse.protocol.file_commands import (
    BeginFile,
    CompleteFile,
    ListFiles,
    PutChunk,
    ReadChunk,
    ReceiveFile,
    WithdrawFile,
)
from synapse.protocol.file_replies import ChunkData, ChunkStored, FileBegan, FileCompleted, FileLetGo, FilesPage
from synapse.protocol.journal_replies import Compaction
from synapse.protocol.notices import Broken
from synapse.protocol.replies import Acked, Explanation, History, Inbox, Lease, Released, Sent, Subscribed, Taken
from synapse.testing import MemoryHub

DAY_MS = 24 * 3600 * 1000
KEEP = {"messages": DAY_MS, "leases": DAY_MS}


class Planner:
    """As the hub's children, of a journal in memory: a plan comes when `go` says so."""

    def __init__(self, hub: MemoryHub) -> None:
        self.hub = hub
        self.is_verifying = False
        self.waits = False
        self.asked: list[dict[str, int]] = []
        self._left: list[Callable[[], None]] = []

    def compact(
        self, keep: Mapping[str, int], at_ms: int, done: Callable[[Plan | Rejected], None], *, dry_run: bool
    ) -> None:
        """Plan from a copy of the state, as a child does."""
        state, journal = decode_state(encode_state(self.hub.state)), self.hub.journal
        self.asked.append(dict(keep))
        planning = survey(journal, state, keep, at_ms, base=journal.base)
        event = planning.event(state.seq, "")
        found = Plan(compaction=event, is_due=planning.rows > 0, pins=tuple(planning.pins))
        self._left.append(lambda: done(found))
        if not self.waits:
            self.go()

    def go(self) -> None:
        """Let the plans out."""
        for left in self._left:
            left()
        self._left.clear()

    def verify(self, done: object) -> None:
        """Not asked for here."""

    def back_up(self, path: str, done: object) -> None:
        """Not asked for here."""


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PAUSE_S_MAX", 0.0)


@asynccontextmanager
async def compacting() -> AsyncIterator[tuple[MemoryHub, Planner]]:
    """A hub in memory that can be compacted."""
    async with MemoryHub(rooms={"lab": ["general"]}) as hub:
        planner = Planner(hub)
        ours = hub.turns.retention
        ours._store = replace(ours._store, keeper=planner)
        ours.is_proved = True
        yield hub, planner


async def old_and_new(hub: MemoryHub, speaker: Voice, count: int = 5) -> list[Sent]:
    """So many messages three days old, and as many of today."""
    sent = [await speaker.post(f"old {n}") for n in range(count)]
    hub.clock.advance(3 * DAY_MS)
    return sent + [await speaker.post(f"new {n}") for n in range(count)]


async def test_a_cursor_before_what_is_kept_is_told_where_that_begins() -> None:
    async with compacting() as (hub, _):
        ada, boss = await voice(hub), await operator(hub)
        sent = await old_and_new(hub, ada)
        done = await boss.ask(CompactJournal(keep=KEEP), Compaction)
        assert (done.rows, done.dry_run, done.more) == (5, False, 0)
        assert [(item.name, item.first_kept) for item in done.kept] == [("main:general", sent[4].cursor)]
        for asked in (
            Subscribe(channels=("main:general",), since=sent[3].cursor),
            ReadHistory(since=sent[3].cursor),
            ReadHistory(before=sent[4].cursor),
            ReadHistory(before=sent[2].cursor),
        ):
            refused = await ada.refused(asked)
            assert refused.code == "cursor_too_old"
            assert msgspec.to_builtins(refused.facts) == {"first_kept": sent[4].cursor, "channel": "main:general"}
            assert sent[4].cursor in refused.detail
        await ada.ask(Subscribe(channels=("main:general",), since=sent[4].cursor), Subscribed)
        assert [told.id for told in await ada.messages()] == [one.id for one in sent[5:]]
        await ada.ask(Subscribe(channels=("lab:general",), since=sent[0].cursor), Subscribed)


async def test_a_history_that_reaches_what_was_dropped_ends_there_and_says_so() -> None:
    async with compacting() as (hub, _):
        ada, boss = await voice(hub), await operator(hub)
        sent = await old_and_new(hub, ada)
        whole = await ada.ask(ReadHistory(), History)
        assert (len(whole.messages), whole.previous, whole.first_kept) == (10, None, msgspec.UNSET)
        await boss.ask(CompactJournal(keep=KEEP), Compaction)
        page = await ada.ask(ReadHistory(limit=3), History)
        assert ([m.id for m in page.messages], page.first_kept) == ([one.id for one in sent[7:]], msgspec.UNSET)
        rest = await ada.ask(ReadHistory(limit=3, before=page.previous), History)
        assert [m.id for m in rest.messages] == [one.id for one in sent[5:7]]
        assert (rest.previous, rest.first_kept) == (None, sent[4].cursor)
        forwards = await ada.ask(ReadHistory(since=sent[4].cursor), History)
        assert ([m.id for m in forwards.messages], forwards.first_kept) == ([one.id for one in sent[5:]], msgspec.UNSET)


async def test_what_happened_to_a_task_says_from_where_it_is_known() -> None:
    async with compacting() as (hub, _):
        ada, boss = await voice(hub), await operator(hub)
        for task in ("T1", "T2"):
            await ada.ask(ClaimLease(task=task), Lease)
            await ada.ask(ReleaseLease(task=task), Released)
        hub.clock.advance(3 * DAY_MS)
        await ada.ask(ClaimLease(task="T2"), Lease)
        await boss.ask(CompactJournal(keep=KEEP), Compaction)
        known = await ada.ask(ExplainTask(task="T2"), Explanation)
        assert ([one.change for one in known.events], known.first_kept is msgspec.UNSET) == (["granted"], False)
        gone = await ada.refused(ExplainTask(task="T1"))
        assert (gone.code, "was dropped by retention" in gone.detail) == ("not_found", True)
        never = await ada.refused(ExplainTask(task="T3", room="lab"))
        assert never.code == "not_found"


async def test_an_inbox_keeps_what_is_not_acked_and_a_receipt_of_what_went_is_told() -> None:
    async with compacting() as (hub, _):
        ada, bob, boss = await voice(hub), await voice(hub, "bob"), await operator(hub)
        first, second = [await ada.ask(direct(words, "bob"), Sent) for words in ("done", "waiting")]
        await bob.ask(AckInbox(ids=(first.id,)), Acked)
        hub.clock.advance(3 * DAY_MS)
        done = await boss.ask(CompactJournal(keep=KEEP), Compaction)
        assert done.rows == 2  # the first message and its ack
        assert [told.id for told in (await bob.ask(ListInbox(), Inbox)).messages] == [second.id]
        assert (await bob.ask(TakeInbox(), Taken)).message.id == second.id
        gone = await ada.refused(WaitReceipt(id=first.id))
        assert (gone.code, "was dropped by retention" in gone.detail) == ("not_found", True)
        history = await bob.ask(ReadHistory(inbox=True), History)
        assert [told.id for told in history.messages] == [second.id]
        assert history.first_kept == first.cursor


async def test_a_repeat_is_answered_from_rows_that_stay() -> None:
    async with compacting() as (hub, _):
        ada, boss = await voice(hub), await operator(hub)
        await ada.post("old")
        hub.clock.advance(2 * DAY_MS)
        first = await ada.post("once", "key-1")
        hub.clock.advance(DAY_MS - 1_000)
        await boss.ask(CompactJournal(keep=KEEP), Compaction)
        again = await ada.exchange(message("once"), "key-1")
        assert (again.replayed, reply_of(again, Sent).id) == (True, first.id)


async def test_a_reader_that_is_far_behind_is_told_and_does_not_miss_anything_unawares() -> None:
    async with compacting() as (hub, _):
        ada, bob, boss = await voice(hub), await voice(hub, "bob"), await operator(hub)
        sent = await old_and_new(hub, ada)
        reader = slow_reader(hub)
        hub.turns.feeds.recent.floor = hub.state.seq
        await bob.say(Subscribe(channels=("main:general",), since=sent[0].cursor))
        await quiet(hub)
        assert len(reader.jobs) == 1, "the page is asked for, and read when it is too late"
        await boss.say(CompactJournal(keep=KEEP))
        await quiet(hub)
        assert hub.journal.compaction() is not None
        while reader.jobs:
            reader.finish()
            await quiet(hub)
        told = [notice for notice in await bob.notices() if isinstance(notice, Broken)]
        assert [(one.code, one.first_kept) for one in told] == [("cursor_too_old", sent[4].cursor)]
        assert await bob.messages() == []


async def test_nobody_is_told_what_is_gone_before_that_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "PAGE_ROWS", 1)
    async with compacting() as (hub, _):
        ada, bob, cid, boss = await voice(hub), await voice(hub, "bob"), await voice(hub, "cid"), await operator(hub)
        sent = await old_and_new(hub, ada)
        reader = slow_reader(hub)
        hub.turns.feeds.recent.floor = hub.state.seq
        follow = Subscribe(channels=("main:general",), since=sent[0].cursor)
        await cid.say(follow)
        await quiet(hub)
        slow = cid.peer.connection
        assert slow is not None
        slow.is_stuck = True
        reader.finish()
        page = await ada.say(ReadHistory())
        await bob.say(follow)
        await quiet(hub)
        for told in (ada, bob, cid):
            await told.listen()
        writer = slow_writer(hub)
        await boss.say(CompactJournal(keep=KEEP))
        await steps()
        assert len(writer.jobs) == 1, "the hub knows what will be gone, the disk does not"
        slow.is_stuck = False
        hub.turns.feeds.resume(slow)
        while reader.jobs:
            reader.finish()
            await steps()
        assert [told.peer.received_now() for told in (ada, bob, cid)] == [[], [], []]
        writer.finish()
        assert reply_of(await ada.answer(page), History).first_kept == sent[4].cursor
        for told in (bob, cid):
            ends = [notice for notice in await told.notices() if isinstance(notice, Broken)]
            assert [(one.code, one.first_kept) for one in ends] == [("cursor_too_old", sent[4].cursor)]


async def test_one_at_a_time_and_not_before_the_journal_is_proved() -> None:
    async with compacting() as (hub, planner):
        ada, boss, other = await voice(hub), await operator(hub), await operator(hub)
        await old_and_new(hub, ada)
        assert (await ada.refused(CompactJournal(keep=KEEP))).code == "not_permitted"
        assert (await boss.refused(CompactJournal(keep={"messages": 1000}))).code == "bad_request"
        assert (await boss.refused(CompactJournal(keep={"main:nowhere": DAY_MS}))).code == "not_found"
        hub.turns.retention.is_proved = False
        assert (await boss.refused(CompactJournal(keep=KEEP))).code == "limit"
        hub.turns.retention.is_proved, planner.is_verifying = True, True
        assert (await boss.refused(CompactJournal(keep=KEEP))).code == "limit"
        planner.is_verifying, planner.waits = False, True
        request = await boss.say(CompactJournal(keep=KEEP))
        await quiet(hub)
        assert (await other.refused(CompactJournal(keep=KEEP))).code == "limit"
        assert (await other.refused(VerifyJournal())).code == "limit"
        planner.go()
        await quiet(hub)
        assert reply_of(await boss.answer(request), Compaction).rows == 5


async def test_a_dry_run_only_says_what_would_go() -> None:
    async with compacting() as (hub, _):
        ada, boss = await voice(hub), await operator(hub)
        await old_and_new(hub, ada)
        head = hub.journal.head
        planned = await boss.ask(CompactJournal(keep=KEEP, dry_run=True), Compaction)
        assert (planned.rows, planned.dry_run) == (5, True)
        assert (hub.journal.head, hub.journal.compaction()) == (head, None)


async def test_the_settings_are_carried_out_once_a_day() -> None:
    async with compacting() as (hub, planner):
        ada = await voice(hub)
        await old_and_new(hub, ada)
        ours = hub.turns.retention
        ours.tick()
        assert planner.asked == []
        ours.keep = {"messages": DAY_MS}
        for ms, times in ((FIRST_MS, 1), (1_000, 1), (EVERY_MS // 2, 1), (EVERY_MS // 2, 2)):
            hub.clock.advance(ms)
            ours.tick()
            await quiet(hub)
            assert len(planner.asked) == times
        assert planner.asked[0] == {"messages": DAY_MS}


async def a_file(ada: Voice, data: bytes) -> str:
    """A file of one chunk from ada to bob, complete."""
    digest = sha256(data).hexdigest()
    begun = await ada.ask(BeginFile(name="x", bytes=len(data), sha256=digest, to=("bob",)), FileBegan)
    await ada.ask(PutChunk(file=begun.file, index=0, data=data, sha256=digest), ChunkStored)
    await ada.ask(CompleteFile(file=begun.file), FileCompleted)
    return begun.file


async def test_a_hub_with_no_retention_of_its_own_lets_go_of_the_chunks_of_files_that_ended() -> None:
    async with compacting() as (hub, _):
        ada, bob, boss = await voice(hub), await voice(hub, "bob"), await operator(hub)
        posted = await ada.post("stays for ever")
        had, gone = await a_file(ada, b"had " * 1000), await a_file(ada, b"gone" * 1000)
        assert (await bob.ask(ReceiveFile(file=had), FileLetGo)).ended
        await ada.ask(WithdrawFile(file=gone), FileLetGo)
        hub.clock.advance(DAY_MS - 1000)
        live = await a_file(ada, b"live" * 1000)
        hub.clock.advance(2000)
        ours = hub.turns.retention
        ours.keep = Settings(home=Path("/nowhere")).retention
        ours.tick()
        await quiet(hub)
        chunks = [
            row for row in hub.journal.scan(hub.journal.base, hub.journal.head, 1000) if row.type == "file.chunked"
        ]
        assert [bool(row.body) for row in chunks] == [False, False, True]
        assert (await bob.ask(ReadChunk(file=live, index=0), ChunkData)).data == b"live" * 1000
        (there,) = (await boss.ask(ListFiles(), FilesPage)).files
        assert there.file == live
        assert [one.id for one in (await ada.ask(ReadHistory(since=None), History)).messages] == [posted.id]
