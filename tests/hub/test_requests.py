"""What the shell itself answers: presence, status, history and inbox pages, what this hub does not offer."""

import msgspec
import pytest
from tests.hub.conftest import SECRET, Voice, direct, operator, text_of, voice

from synapse.hub import paging
from synapse.journal.interface import Pages
from synapse.protocol.commands import (
    AckInbox,
    BackUpJournal,
    DeclareStatus,
    Hello,
    ListAgents,
    ListInbox,
    ListLeases,
    ReadHistory,
    ShowStatus,
    Subscribe,
    VerifyJournal,
)
from synapse.protocol.event_commands import ReadEvents
from synapse.protocol.limits import Limits
from synapse.protocol.notices import Message, PresenceChanged, PresenceSnapshot
from synapse.protocol.question_commands import AnswerQuestion, AskQuestion, ListQuestions, WaitQuestion
from synapse.protocol.question_replies import QuestionClosed, QuestionInfo
from synapse.protocol.replies import Agents, History, Inbox, Sent, Status, StatusDeclared, Subscribed
from synapse.testing import MemoryHub


async def presence_of(who: Voice) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """What a voice was told about presence: kind of notice and (name, presence, status) of each agent in it."""
    return [
        (type(notice).__name__, [(entry.name, entry.presence, entry.status) for entry in notice.agents])
        for notice in await who.notices()
        if isinstance(notice, PresenceSnapshot | PresenceChanged)
    ]


async def test_presence_is_a_snapshot_and_then_diffs() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await ada.ask(Subscribe(presence=True), Subscribed)
        here = [("ada", "online", "idle"), ("bob", "online", "idle")]
        assert await presence_of(ada) == [("PresenceSnapshot", here)]
        ada.heard.clear()
        await bob.ask(DeclareStatus(status="busy"), StatusDeclared)
        await bob.peer.aclose()
        assert await presence_of(ada) == [
            ("PresenceChanged", [("bob", "online", "busy")]),
            ("PresenceChanged", [("bob", "recent", "busy")]),
        ]
        ada.heard.clear()
        await hub.advance(5 * 60_000 + 1_000)
        assert await presence_of(ada) == [("PresenceChanged", [("bob", "offline", "busy")])]


async def test_the_diff_of_its_own_turn_never_comes_before_the_snapshot() -> None:
    async with MemoryHub() as hub:
        ada = Voice(hub)
        await ada.say(Hello(name="ada", secret=SECRET, lasting=True))
        await ada.say(Subscribe(presence=True))
        assert await presence_of(ada) == [("PresenceSnapshot", [("ada", "online", "idle")])]


async def test_one_shot_connections_make_no_diff_but_are_recent() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await ada.ask(Subscribe(presence=True), Subscribed)
        await ada.listen()
        ada.heard.clear()
        for _ in range(3):
            once = await voice(hub, "bob", lasting=False)
            await once.post("hi")
            await once.peer.aclose()
        assert await presence_of(ada) == []
        agents = (await ada.ask(ListAgents(), Agents)).agents
        assert [(agent.name, agent.presence) for agent in agents] == [("ada", "online"), ("bob", "recent")]


async def test_a_second_connection_of_an_agent_makes_no_diff_and_its_end_neither() -> None:
    async with MemoryHub() as hub:
        ada, _bob = await voice(hub), await voice(hub, "bob")
        await ada.ask(Subscribe(presence=True), Subscribed)
        await ada.listen()
        ada.heard.clear()
        second = await voice(hub, "bob")
        await second.peer.aclose()
        assert await presence_of(ada) == []


async def test_presence_is_empty_after_a_restart() -> None:
    async with MemoryHub() as hub:
        await voice(hub, "bob")
        await hub.restart()
        ada = await voice(hub)
        await ada.ask(Subscribe(presence=True), Subscribed)
        assert await presence_of(ada) == [("PresenceSnapshot", [("ada", "online", "idle")])]


async def test_a_long_snapshot_comes_in_pages_that_say_so() -> None:
    async with MemoryHub(limits=Limits(page_items_max=3)) as hub:
        for name in "abcdefg":
            await voice(hub, name)
        boss = await operator(hub)
        await boss.ask(Subscribe(presence=True), Subscribed)
        pages = [notice for notice in await boss.notices() if isinstance(notice, PresenceSnapshot)]
        assert [(len(page.agents), page.complete) for page in pages] == [(3, False), (3, False), (1, True)]


async def test_status_counts_and_the_journal_grows_in_it() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await ada.follow()
        before = await ada.ask(ShowStatus(), Status)
        await ada.post("x" * 1_000)
        hub.clock.advance(1_500)
        after = await ada.ask(ShowStatus(), Status)
        assert (after.health, after.counts.messages, after.counts.online) == ("green", 1, 1)
        assert (after.counts.subscriptions, after.counts.connections) == (1, 1)
        assert after.head == before.head + 1 == hub.journal.head
        assert after.journal_bytes >= before.journal_bytes + 1_000
        assert after.uptime_ms == before.uptime_ms + 1_500


async def test_history_pages_lead_forward_and_back_without_a_gap() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        for number in range(10):
            await ada.post(f"{number}")
        newest = await ada.ask(ReadHistory(channel="main:general", limit=4), History)
        assert [text_of(told) for told in newest.messages] == ["6", "7", "8", "9"]
        older = await ada.ask(ReadHistory(channel="main:general", limit=4, before=newest.previous), History)
        assert [text_of(told) for told in older.messages] == ["2", "3", "4", "5"]
        first = await ada.ask(ReadHistory(channel="main:general", limit=4, before=older.previous), History)
        assert [text_of(told) for told in first.messages] == ["0", "1"]
        assert first.previous is None
        onward = await ada.ask(ReadHistory(channel="main:general", limit=4, since=older.next), History)
        assert [text_of(told) for told in onward.messages] == ["6", "7", "8", "9"]
        found = await ada.ask(ReadHistory(channel="main:general", text="7", sender="ada"), History)
        assert [text_of(told) for told in found.messages] == ["7"]
        for wrong in (
            ReadHistory(channel="main:general", limit=0),
            ReadHistory(channel="main:general", since=newest.next, before=newest.previous),
            ReadHistory(inbox=True, room="main"),
        ):
            if wrong.since is None and wrong.before is not None:
                continue
            assert (await ada.refused(wrong)).code == "bad_request"


async def test_history_of_big_messages_stays_below_the_largest_frame() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        for number in range(6):
            await ada.post(f"{number}" + "x" * 90_000)
        asked = ReadHistory(channel="main:general", since=f"{hub.state.journal_id}:{hub.journal.base}")
        seen: list[str] = []
        while True:
            frame = await ada.exchange(asked)
            assert len(frame.body) < hub.rules.limits.frame_bytes_max
            page = msgspec.json.decode(frame.body, type=History)
            seen += [text_of(told)[0] for told in page.messages]
            if page.next is None:
                break
            asked = msgspec.structs.replace(asked, since=page.next)
        assert seen == list("012345")


async def test_the_inbox_is_listed_in_pages_with_what_became_of_each() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        for number in range(3):
            await ada.ask(direct(f"{number}", "bob"), Sent)
        page = await bob.ask(ListInbox(limit=2), Inbox)
        assert [(text_of(told), told.delivery) for told in page.messages] == [("0", "stored"), ("1", "stored")]
        rest = await bob.ask(ListInbox(limit=2, after=page.next), Inbox)
        assert ([text_of(told) for told in rest.messages], rest.next, rest.unacked) == (["2"], None, 3)
        assert (await bob.refused(ListInbox(limit=0))).code == "bad_request"
        history = await bob.ask(ReadHistory(inbox=True), History)
        assert [text_of(told) for told in history.messages] == ["0", "1", "2"]
        assert (await ada.ask(ReadHistory(inbox=True), History)).messages == ()


async def test_a_hub_in_memory_has_no_files_to_verify_or_copy() -> None:
    async with MemoryHub() as hub:
        ada, boss = await voice(hub), await operator(hub)
        assert (await ada.refused(VerifyJournal())).code == "not_permitted"
        assert (await boss.refused(VerifyJournal())).code == "unsupported"
        assert (await boss.refused(BackUpJournal(path="relative.db"))).code == "bad_request"
        assert (await boss.refused(BackUpJournal(path="/tmp/x.db"))).code == "unsupported"
        assert (await boss.refused(ListInbox())).code == "anonymous"


async def test_a_list_of_large_cards_stays_below_the_largest_frame_and_pages_on() -> None:
    limits = Limits(card_text_chars_max=8_000)
    async with MemoryHub(limits=limits) as hub:
        for number in range(60):
            peer = hub.connect()
            card = {"name": f"big-{number:02}", "secret": "s" * 40, "personality": "x" * 7_000}
            await peer.send(msgspec.json.encode({"type": "hello", "id": 1, "body": card}))
            await peer.receive()
        names: list[str] = []
        after: str | None = None
        while True:
            await peer.send(
                msgspec.json.encode({"type": "agent.list", "id": 2, "body": {"after": after, "limit": 500}})
            )
            frame = await peer.receive()
            assert len(frame) <= limits.frame_bytes_max
            body = msgspec.json.decode(frame)["body"]
            names += [agent["name"] for agent in body["agents"]]
            after = body["next"]
            if after is None:
                break
        assert names == [f"big-{number:02}" for number in range(60)]


async def all_pages(who: Voice, way: str, **asked: object) -> list[str]:
    """The first characters of all messages, page after page. way: `since` or `before`."""
    found: list[str] = []
    position = f"{who.hub.state.journal_id}:{who.hub.journal.base}" if way == "since" else None
    while True:
        page = await who.ask(ReadHistory(limit=500, **asked, **{way: position}), History)  # type: ignore[arg-type]  # the fields of the caller
        texts = [text_of(told)[:2] for told in page.messages]
        found = found + texts if way == "since" else texts + found
        position = page.next if way == "since" else page.previous
        if position is None:
            return found


async def test_pages_of_long_messages_leave_nothing_out_in_either_direction() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        texts = [f"{number:02}" + "x" * (100_000 if number % 5 else 3) for number in range(20)]
        for text in texts:
            await ada.post(text)
        for way in ("since", "before"):
            assert await all_pages(ada, way, channel="main:general") == [text[:2] for text in texts]


@pytest.mark.parametrize("way", ["since", "before"])
async def test_a_filter_looks_through_so_many_bytes_and_its_cursor_goes_on_from_there(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synapse.hub.paging.SCAN_BYTES_MAX", 150_000)
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        for number in range(10):
            await ada.post(f"{number:02}" + "x" * 100_000)
            if number == 5:
                await bob.post("hi")
        reads, read_page = list[int](), paging.read_page

        def counted(pages: Pages, scan: paging.Scan[Message]) -> paging.Found[Message]:
            reads.append(scan.limit)
            return read_page(pages, scan)

        monkeypatch.setattr("synapse.hub.reads.read_page", counted)
        assert await all_pages(ada, way, channel="main:general", sender="bob") == ["hi"]
        assert len(reads) >= 3


async def test_what_narrows_a_list_is_refused_where_it_cannot_be_and_is_not_taken_for_something_else() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        for command, code in (
            (ReadHistory(channel=""), "bad_name"),
            (ReadHistory(room="main", channel=""), "bad_name"),
            (ReadHistory(sender="A B"), "bad_name"),
            (ListLeases(room="A B"), "bad_name"),
            (ListLeases(room="nosuch"), "not_found"),
            (ListQuestions(session="garbage"), "bad_request"),
        ):
            assert (await ada.refused(command)).code == code, command
        for sender in ("hub", "operator", "ada", "nobody-yet"):
            assert (await ada.ask(ReadHistory(sender=sender), History)).messages == ()


async def test_a_wait_out_of_bounds_is_refused_also_where_there_is_nothing_to_wait_for() -> None:
    async with MemoryHub() as hub:
        ada, person = await voice(hub), await operator(hub)
        asked = await ada.ask(AskQuestion(title="which?"), QuestionInfo)
        await person.ask(AnswerQuestion(id=asked.id, answer="this"), QuestionClosed)
        for wait_ms in (-1, hub.rules.limits.wait_ms_max + 1):
            for command in (ReadEvents(limit=1, wait_ms=wait_ms), WaitQuestion(id=asked.id, wait_ms=wait_ms)):
                refused = await ada.refused(command)
                assert (refused.code, refused.facts["path"]) == ("bad_request", "$.body.wait_ms")


async def test_an_ack_of_some_is_no_ack_of_all() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        sent = [await ada.ask(direct(words, "bob"), Sent) for words in ("one", "two")]
        refused = await bob.refused(AckInbox(ids=(sent[0].id,), all=True))
        assert (refused.code, refused.detail) == ("bad_request", "give ids, or all - at `$.body`")
        assert (await bob.ask(ListInbox(), Inbox)).unacked == 2
