"""The turn: what is decided together is committed together, and nothing leaves before it is durable."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hub.conftest import (
    SECRET,
    Voice,
    bugs_on_loop,
    direct,
    doors,
    error_of,
    hub_on_small_disk,
    message,
    operator,
    quiet,
    reply_of,
    slow_writer,
    steps,
    text_of,
    voice,
    web,
)
from websockets.frames import Opcode

from synapse.core.state import digest
from synapse.errors import JournalError, StoreFailed
from synapse.protocol.codec import encode_request
from synapse.protocol.codes import CLOSE_BAD_HELLO, CLOSE_FLOOD, CLOSE_NAME_TAKEN, CLOSE_REVOKED
from synapse.protocol.commands import (
    Command,
    ForgetAgent,
    Hello,
    IdentifyHub,
    JoinRoom,
    ListAgents,
    Ping,
    ReadHistory,
    RebindAgent,
    SendMessage,
    ShowStatus,
    Subscribe,
    TakeInbox,
)
from synapse.protocol.limits import Limits
from synapse.protocol.notices import CaughtUp, ValueChanged
from synapse.protocol.replies import (
    AgentRebound,
    AgentRemoved,
    Agents,
    History,
    HubIdentity,
    Place,
    Pong,
    Sent,
    Status,
    Subscribed,
    Taken,
    Welcome,
)
from synapse.protocol.value_commands import GetValue, PutValue
from synapse.protocol.value_replies import ValueInfo
from synapse.testing import MemoryHub

# output commit


async def test_nothing_leaves_while_a_commit_is_in_flight_not_even_what_others_read() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await bob.follow()
        bob.heard.clear()
        writer = slow_writer(hub)
        await ada.say(message("one"))
        await steps()
        await ada.say(message("two"))
        read = await bob.say(ReadHistory(channel="main:general"))
        listed = await bob.say(ListAgents())
        await steps()
        assert len(writer.jobs) == 1
        assert ada.peer.received_now() == bob.peer.received_now() == []
        assert hub.journal.head == hub.turns.feeds.durable
        writer.finish()
        assert [len(found) for found in (ada.peer.received_now(), bob.peer.received_now())] == [1, 1]
        await steps()
        assert len(writer.jobs) == 1, "the next turn took everything that had gathered"
        assert ada.peer.received_now() == bob.peer.received_now() == []
        writer.finish()
        frames = await bob.listen()
        assert [frame.type for frame in frames if frame.id is None] == ["message"]
        assert len(reply_of(await bob.answer(listed), Agents).agents) == 2
        assert [text_of(told) for told in reply_of(await bob.answer(read), History).messages] == ["one", "two"]


async def test_a_request_that_is_there_when_a_commit_ends_shares_the_next_one_with_those_that_waited(
    tmp_path: Path,
) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path / "home") as listeners:
        ada, bob = await web(listeners), await voice(hub, "bob")
        writer = slow_writer(hub)
        await bob.say(message("first"))
        await steps()
        await bob.say(message("came meanwhile"))
        await steps()
        ada.send(Opcode.TEXT, encode_request(1, message("in the socket, and not read yet")))
        writer.finish()
        head = hub.journal.head
        await steps()
        writer.finish()
        assert hub.journal.head == head + 2
        assert not writer.jobs


async def test_a_turn_of_many_commands_is_one_commit_and_one_write_for_each_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await ada.follow()
        await bob.follow()
        ada.heard.clear()
        bob.heard.clear()
        writes: list[str] = []
        for who in (ada, bob):
            write, name = who.peer.write, str(who.peer.connection and who.peer.connection.agent)

            def counted(data: bytes, write: Callable[[bytes], None] = write, name: str = name) -> None:
                writes.append(name)
                write(data)

            monkeypatch.setattr(who.peer, "write", counted)
        commits = hub.turns.totals.commits
        for number in range(5):
            await ada.say(message(f"a{number}"))
            await bob.say(message(f"b{number}"))
        await quiet(hub)
        assert hub.turns.totals.commits == commits + 1
        assert sorted(writes) == ["ada", "bob"]
        for who in (ada, bob):
            frames = await who.listen()
            assert [frame.seq for frame in frames] == sorted(frame.seq for frame in frames)
            notices = [frame.seq for frame in frames if frame.type == "message"]
            assert len(notices) == len(set(notices)) == 10
            for frame in frames:
                if frame.type == "reply":
                    told = [other.seq for other in frames[: frames.index(frame)] if other.type == "message"]
                    assert set(range(min(notices), frame.seq)) <= set(told), "an event is seen before later answers"


async def test_a_message_that_reaches_a_connection_by_two_ways_is_told_once() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        for who in (ada, bob):
            await who.ask(JoinRoom(room="main"), Place)
        await bob.follow()
        await bob.ask(Subscribe(inbox=True), Subscribed)
        await ada.follow()
        sent = await ada.post("hello @bob")
        assert sent.mentions == ("bob",)
        assert [told.id for told in await bob.messages()] == [sent.id]
        assert [told.id for told in await ada.messages()] == [sent.id]


# who is let in


async def test_what_is_pipelined_behind_a_refused_hello_is_not_carried_out() -> None:
    async with MemoryHub() as hub:
        await voice(hub)
        thief = Voice(hub)
        await thief.say(Hello(name="ada", secret="x" * 40))
        await thief.say(message("I am ada"))
        frames = await thief.listen()
        assert [error_of(frame).code for frame in frames if frame.type == "error"] == ["name_taken"]
        assert (end := await thief.end()) is not None
        assert end.code == CLOSE_NAME_TAKEN
        assert hub.state.messages == 0


async def test_what_is_pipelined_behind_an_accepted_hello_is_carried_out_in_the_same_turn() -> None:
    async with MemoryHub() as hub:
        ada = Voice(hub)
        await ada.say(IdentifyHub())
        await ada.say(Hello(name="ada", secret=SECRET))
        await ada.say(message("at once"))
        frames = await ada.listen()
        assert reply_of(frames[0], HubIdentity).hub_id == hub.state.hub_id
        assert reply_of(frames[1], Welcome).bound
        assert reply_of(frames[2], Sent).n == 1


async def test_a_hello_that_comes_too_fast_ends_the_connection_and_lets_nobody_in() -> None:
    limits = Limits(rate_host_per_s=1, rate_host_burst=1)
    async with MemoryHub(limits=limits) as hub:
        stranger = Voice(hub, owner=False)
        await stranger.ask(IdentifyHub(), HubIdentity)
        await stranger.say(Hello(name="eve", secret=SECRET))
        hub.clock.advance(1_000)
        await stranger.say(ListAgents())
        frames = await stranger.listen()
        assert [error_of(frame).code for frame in frames if frame.type == "error"] == ["rate_limited"]
        assert not [frame for frame in frames if frame.type == "reply"], "a command was carried out without a welcome"
        assert (end := await stranger.end()) is not None
        assert end.code == CLOSE_FLOOD
        assert end.may_come_back


async def test_a_rebind_closes_every_connection_and_lets_a_new_secret_in() -> None:
    async with MemoryHub() as hub:
        first, second, boss = await voice(hub), await voice(hub), await operator(hub)
        await second.say(Ping())
        await boss.ask(RebindAgent(name="ada"), AgentRebound)
        for who in (first, second):
            assert (end := await who.end()) is not None
            assert (end.code, end.may_come_back) == (CLOSE_REVOKED, True)
        assert (await Voice(hub).hello("ada", secret="brand new " + SECRET)).bound
        assert (await Voice(hub).refused(Hello(name="ada", secret=f"ada: {SECRET}"))).code == "name_taken"


async def test_a_command_in_the_turn_of_the_rebind_is_not_carried_out_any_more() -> None:
    async with MemoryHub() as hub:
        ada, boss = await voice(hub), await operator(hub)
        await boss.say(RebindAgent(name="ada"))
        await ada.say(message("too late"))
        await ada.listen()
        assert hub.state.messages == 0


async def test_who_is_forgotten_is_disconnected_and_its_name_is_somebody_else_afterwards() -> None:
    async with MemoryHub() as hub:
        ada, bob, boss = await voice(hub), await voice(hub, "bob"), await operator(hub)
        await bob.ask(direct("to the old ada", "ada"), Sent)
        await ada.ask(TakeInbox(), Taken)
        await boss.ask(ForgetAgent(name="ada"), AgentRemoved)
        assert not await ada.is_open()
        new = Voice(hub)
        assert (await new.hello("ada", secret="another " + SECRET)).bound
        assert (await new.refused(TakeInbox())).code == "deadline"
        await hub.advance(60_000)
        assert hub.replayed_digest() == digest(hub.state)
        assert hub.turns.of_agent.keys() == {"bob", "ada"}


async def test_only_the_operator_rebinds_and_forgets() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        assert (await ada.refused(RebindAgent(name="ada"))).code == "not_permitted"
        assert (await ada.refused(ForgetAgent(name="ada"))).code == "not_permitted"
        assert (await (await operator(hub)).refused(message("by nobody"))).code == "anonymous"


async def test_a_hello_with_a_key_is_refused_and_closes() -> None:
    async with MemoryHub() as hub:
        ada = Voice(hub)
        assert (await ada.refused(Hello(name="ada", secret=SECRET), "key")).code == "bad_request"
        assert (end := await ada.end()) is not None
        assert end.code == CLOSE_BAD_HELLO


@pytest.mark.parametrize(
    ("command", "path"),
    [
        (Subscribe(inbox=True, since="x"), "$.body.since"),
        (Subscribe(take=-1), "$.body.take"),
        (Subscribe(inbox=True, directed_only=True), "$.body.directed_only"),
        (Subscribe(), "$.body"),
        (ReadHistory(channel="general", before="x"), "$.body.before"),
    ],
)
async def test_what_the_hub_looks_at_itself_is_named_by_its_path_too(command: Command, path: str) -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        refused = await ada.refused(command)
        assert (refused.code, refused.facts["path"]) == ("bad_request", path)
        assert refused.detail.endswith(f" - at `{path}`")


# idempotency


@pytest.mark.parametrize("command", [Ping(), ListAgents(), Subscribe(inbox=True), ShowStatus(), TakeInbox()])
async def test_what_keeps_nothing_takes_no_key(command: Command) -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        refused = await ada.refused(command, "key")
        assert (refused.code, refused.facts) == ("bad_request", {"path": "$.idem_key"})


async def test_a_repeat_in_the_same_turn_gets_the_first_answer_and_does_nothing() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        first = await ada.say(message("once"), "key")
        second = await ada.say(message("once"), "key")
        one, two = await ada.answer(first), await ada.answer(second)
        assert (one.replayed, two.replayed) == (False, True)
        assert reply_of(one, Sent) == reply_of(two, Sent)
        assert hub.state.messages == 1


async def test_a_repeat_after_a_restart_gets_the_first_answer_and_another_payload_is_refused() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        sent = await ada.post("once", "key")
        placed = await ada.ask(JoinRoom(room="lab"), Place, "room-key")
        await hub.restart()
        ada = await voice(hub)
        again = await ada.exchange(message("once"), "key")
        assert again.replayed
        assert reply_of(again, Sent) == sent
        assert await ada.ask(JoinRoom(room="lab"), Place, "room-key") == placed
        assert (await ada.refused(message("twice"), "key")).code == "idem_conflict"
        assert (await ada.refused(JoinRoom(room="main"), "key")).code == "idem_conflict"
        bob = await voice(hub, "bob")
        assert (await bob.post("mine", "key")).n == 2
        assert hub.state.messages == 2


async def test_refusals_are_not_remembered() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        assert (await ada.refused(direct("hi", "bob"), "key")).code == "not_found"
        await voice(hub, "bob")
        assert (await ada.ask(direct("hi", "bob"), Sent, "key")).to == ("bob",)


# a full disk


async def test_the_turn_that_meets_a_full_disk_is_committed_and_then_the_hub_only_reads() -> None:
    hub, disk = hub_on_small_disk()
    async with hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await bob.follow()
        disk.is_full = True
        assert (await ada.post("the last one")).n == 1
        assert [text_of(told) for told in await bob.messages()] == ["the last one"]
        hub.clock.advance(500)
        refused = await ada.refused(message("no"), "key")
        assert (refused.code, refused.retry_after_ms) == ("read_only", 1_000)
        assert refused.facts == {"since_ms": 500}
        assert len((await ada.ask(ReadHistory(channel="main:general"), History)).messages) == 1
        status = await ada.ask(ShowStatus(), Status)
        assert (status.health, status.read_only, status.reasons) == (
            "red",
            True,
            ("read_only: the disk is full; 24 MiB must be free",),
        )
        lease_ms = hub.turns.lease_clock.now_ms
        await hub.advance(5_000)
        assert hub.turns.lease_clock.now_ms == lease_ms, "the lease clock stands still"
        disk.is_full = False
        await hub.advance(1_000)
        assert (await ada.post("and on", "key")).n == 2
        assert (await ada.ask(ShowStatus(), Status)).health == "green"
        assert [row.type for row in hub.journal.rows(0, 2**53)][-2:] == ["journal.writable", "message.posted"]
        assert hub.replayed_digest() == digest(hub.state)
        assert disk.has_reserve


async def test_a_second_full_disk_in_one_turn_is_fatal_and_nothing_is_answered() -> None:
    hub, disk = hub_on_small_disk()
    async with hub:
        ada = await voice(hub)
        disk.is_full, disk.has_reserve = True, False
        await ada.say(message("of unknown outcome"))
        await hub.settle()
        assert isinstance(hub.failure, StoreFailed)
        assert hub.failure.exit_code == 74
        assert ada.peer.received_now() == []
        assert not await ada.is_open()


async def test_a_failed_commit_is_not_answered_while_the_connections_are_still_there() -> None:
    hub, disk = hub_on_small_disk()
    async with hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await bob.follow()
        bob.heard.clear()
        failures: list[JournalError] = []
        hub.turns._fatal = failures.append  # as in the process, which only then begins to stop
        disk.is_full, disk.has_reserve = True, False
        await ada.say(message("of unknown outcome"))
        await hub.settle()
        assert [failure.exit_code for failure in failures] == [74]
        assert ada.peer.received_now() == bob.peer.received_now() == []
        disk.is_full = False
        await ada.say(Ping())
        await steps()
        assert ada.peer.received_now() == []


async def test_who_waits_when_the_disk_fills_up_is_served_when_it_is_writable_again() -> None:
    hub, disk = hub_on_small_disk()
    async with hub:
        ada, first, second = await voice(hub), await voice(hub, "bob"), await voice(hub, "bob")
        await ada.ask(direct("one", "bob"), Sent)
        await first.ask(TakeInbox(), Taken)
        waiting = await second.say(TakeInbox(wait_ms=60_000))
        late = await second.say(TakeInbox(wait_ms=2_000))
        disk.is_full = True
        await ada.post("fills the disk")
        await first.peer.aclose()  # the lend returns, and cannot be given out now
        await hub.advance(3_000)
        assert [frame.id for frame in await second.listen() if frame.type == "error"] == [late]
        disk.is_full = False
        await hub.advance(1_000)
        assert text_of(reply_of(await second.answer(waiting), Taken).message) == "one"


# bounds


async def test_long_lists_asked_for_at_once_come_one_a_turn_and_in_order() -> None:
    limits = Limits(outbox_bytes_max=256 * 1024, in_flight_max=64, card_text_chars_max=2_000)
    async with MemoryHub(limits=limits) as hub:
        for number in range(60):
            said = Hello(name=f"agent-{number}", secret=SECRET, personality="x" * 2_000)
            await Voice(hub).ask(said, Welcome)
        ada = await voice(hub)
        asked = [await ada.say(ListAgents()) for _ in range(40)]
        asked.append(await ada.say(message("behind them")))
        most, answered = 0, []
        for _ in range(5_000):
            await asyncio.sleep(0)
            most = max(most, ada.peer.buffered())
            if ada.peer.buffered():
                frame = await ada.peer.receive()
                answered.append(msgspec.json.decode(frame, type=dict[str, msgspec.Raw])["id"])
        assert [int(bytes(label)) for label in answered] == asked
        assert most <= limits.outbox_bytes_max // 2 + limits.frame_bytes_max


@pytest.mark.parametrize("what", ["read", "put", "repeat"])
async def test_answers_of_some_length_to_a_peer_that_does_not_read_stay_within_its_outbox(what: str) -> None:
    limits = Limits()
    async with MemoryHub(limits=limits) as hub:
        ada = await voice(hub)
        put, get = PutValue(key="k", value=msgspec.Raw(b'"%b"' % (b"x" * 15_000))), GetValue(key="k")
        await ada.ask(put, ValueInfo, "a key")
        asked, most = 0, 0
        while asked < 300:
            burst = 30 if asked == 0 else 64  # the first thirty stay a little below the mark at which it is stuck
            for _ in range(burst):
                await ada.say(get if what == "read" else put, "a key" if what == "repeat" else None)
            asked += burst
            await steps(200)
            most = max(most, ada.peer.buffered())
        assert limits.outbox_bytes_max // 2 <= most <= limits.outbox_bytes_max
        answered = [await ada.peer.receive() for _ in range(asked)]
        labels = [msgspec.json.decode(frame, type=dict[str, msgspec.Raw])["id"] for frame in answered]
        assert sorted(labels, key=lambda label: int(bytes(label))) == labels


async def test_a_commit_in_flight_for_long_turns_health_red_and_stops_the_lease_clock() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        writer = slow_writer(hub)
        await ada.say(message("slow"))
        await steps()
        hub.clock.advance(6_000)
        assert hub.turns.requests.complaints() == ["a commit has been in flight for 6000 ms"]
        lease_ms = hub.turns.lease_clock.now_ms
        writer.finish()
        await steps()
        assert hub.turns.requests.complaints() == []
        assert hub.turns.lease_clock.now_ms == lease_ms
        assert hub.turns.lease_clock.lag_ms == 6_000


async def test_a_store_error_answers_nothing_and_ends_whoever_waits_for_the_end_of_the_turn() -> None:
    hub, disk = hub_on_small_disk()
    async with hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        writer = slow_writer(hub)
        await ada.say(message("one"))
        await steps()
        waiting = [asyncio.ensure_future(hub.settle()) for _ in range(2)]
        await bob.say(Ping())
        await steps()
        disk.is_full, disk.has_reserve = True, False
        writer.finish()
        await asyncio.wait_for(asyncio.gather(*waiting), 5)
        assert ada.peer.received_now() == bob.peer.received_now() == []


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["post", "post twice", "ping", "restart", "follow", "take", "send", "drop"])))
def test_whatever_happens_replay_gives_the_live_state(doings: list[str]) -> None:
    async def run() -> None:
        async with MemoryHub() as hub:
            bugs = bugs_on_loop()
            ada = await voice(hub)
            for number, doing in enumerate(doings):
                match doing:
                    case "post":
                        await ada.say(message(f"m{number}"))
                    case "post twice":
                        await ada.say(message(f"m{number}"), f"k{number}")
                        await ada.say(message(f"m{number}"), f"k{number}")
                    case "ping":
                        await ada.ask(Ping(), Pong)
                    case "restart":
                        await hub.restart()
                        ada = await voice(hub)
                    case "follow":
                        await ada.exchange(Subscribe(channels=("main:general",)))
                    case "take":
                        await ada.exchange(TakeInbox())
                    case "send":
                        await ada.say(direct("to me", "ada"))
                    case _:
                        await ada.peer.aclose()
                        ada = await voice(hub)
            await quiet(hub)
            assert hub.replayed_digest() == digest(hub.state)
            told = [row for row in hub.journal.rows(0, 2**53) if row.type == "message.posted"]
            assert hub.state.rooms.by_address["main:general"].last_n == len(told)
            assert bugs == []

    asyncio.run(run())


async def test_values_end_by_the_wall_clock_for_readers_at_once_and_for_followers_with_the_next_tick() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await ada.ask(Subscribe(values=("main",)), Subscribed)
        for key, ttl_ms in (("short", 5_000), ("long", 7_200_000)):
            put = PutValue(key=key, value=msgspec.Raw(b"1"), ttl_ms=ttl_ms)
            await ada.ask(put, ValueInfo)
        await hub.advance(4_999)
        assert (await ada.ask(GetValue(key="short"), ValueInfo)).version > 0
        await hub.restart()
        bob = await voice(hub, "bob")
        await bob.ask(Subscribe(values=("main",)), Subscribed)
        hub.clock.advance(1)
        assert (await bob.refused(GetValue(key="short"))).code == "not_found"
        assert [told.key for told in await bob.notices() if isinstance(told, ValueChanged)] == []
        hub.turns.tick()
        await quiet(hub)
        hub.clock.jump(7_200_000)
        hub.turns.tick()
        await quiet(hub)
        told = [(told.change, told.key, told.by) for told in await bob.notices() if isinstance(told, ValueChanged)]
        assert told == [("expired", "short", "hub"), ("expired", "long", "hub")]


async def test_a_frame_that_is_no_json_is_answered_and_the_connection_lives() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await ada.peer.send(b'{"type":"ping","id":"x"')
        await ada.peer.send(encode_request("y", SendMessage(body=msgspec.Raw(b"1e999"), target="main:general")))
        codes = [error_of(frame).code for frame in await ada.listen() if frame.type == "error"]
        assert codes == ["malformed", "malformed"]
        assert (await ada.ask(Ping(), Pong)).cursor.startswith(hub.state.journal_id)
        assert not [notice for notice in await ada.notices() if isinstance(notice, CaughtUp)]
