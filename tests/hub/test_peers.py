"""Peers: frames counted against rates and bounds, peers that do not read, peers that say nothing."""

import msgspec
import pytest
from tests.hub.conftest import Voice, error_of, message, slow_writer, steps, text_of, voice

from synapse.hub.peers import INBOX_MAX
from synapse.protocol.codec import ErrorBody, decode_hub_frame, encode_request
from synapse.protocol.codes import CLOSE_BAD_HELLO, CLOSE_NO_HELLO, CLOSE_SLOW
from synapse.protocol.commands import DeclareStatus, Hello, IdentifyHub, Ping, ReadHistory, Subscribe
from synapse.protocol.limits import Limits
from synapse.protocol.notices import Message, PresenceChanged, PresenceSnapshot
from synapse.protocol.replies import HubIdentity, Pong, StatusDeclared, Subscribed
from synapse.testing import MemoryHub

SMALL = Limits(outbox_bytes_max=64 * 1024)


def wedge(hub: MemoryHub, who: Voice) -> None:
    """Fill a peer's outbox, as a peer that does not read does."""
    who.peer.write(b" " * (hub.rules.limits.outbox_bytes_max // 2 + 1) + b"\n")
    assert who.peer.connection is not None
    assert who.peer.connection.is_stuck


async def next_answers(who: Voice, count: int) -> list[int]:
    """The ids of the next answers, read one by one."""
    found: list[int] = []
    while len(found) < count:
        data = await who.peer.receive()
        if data.strip():
            frame = decode_hub_frame(data)
            if isinstance(frame.id, int):
                found.append(frame.id)
    return found


# rates


async def test_an_agent_over_its_rate_is_told_how_long_to_wait_and_only_it() -> None:
    async with MemoryHub(limits=Limits(rate_agent_per_s=10, rate_agent_burst=3)) as hub:
        ada, also_ada, bob = await voice(hub), await voice(hub), await voice(hub, "bob")
        for _ in range(3):
            await ada.ask(Ping(), Pong)
        refused = await also_ada.refused(Ping())
        assert (refused.code, refused.facts["who"]) == ("rate_limited", "ada")
        assert refused.retry_after_ms is not None
        assert 0 < refused.retry_after_ms <= 101
        assert "rate_agent_per_s" in refused.detail
        await bob.ask(Ping(), Pong)
        hub.clock.advance(refused.retry_after_ms)
        await ada.ask(Ping(), Pong)


async def test_a_host_over_its_rate_is_refused_whoever_asks() -> None:
    async with MemoryHub(limits=Limits(rate_host_per_s=1, rate_host_burst=3)) as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await ada.ask(Ping(), Pong)
        refused = await bob.refused(Ping())
        assert (refused.code, refused.facts["who"], refused.facts["burst"]) == ("rate_limited", "memory", 3)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8])
@pytest.mark.parametrize("limits", [{"rate_agent_burst": 5}, {"rate_host_burst": 5}, {"in_flight_max": 4}, {}])
async def test_frames_that_come_together_are_answered_as_if_each_came_alone(limits: dict[str, int], count: int) -> None:
    frames = [b"no json", encode_request(2, Hello(name="ada")), *(encode_request(n, Ping()) for n in range(3, 9))]
    heard: list[tuple[list[tuple[object, ...]], bool]] = []
    taken = count
    for is_together in (True, False):
        async with MemoryHub(limits=Limits(rate_agent_per_s=1, rate_host_per_s=1, **limits)) as hub:
            ada = await voice(hub)
            connection, peers = ada.peer.connection, hub.turns.peers
            assert connection is not None
            if is_together:
                taken = peers.hear_all(connection, frames[:count], peers.now_ms())
            else:
                for frame in frames[:taken]:
                    peers.hear(connection, frame, peers.now_ms())
            was_held = connection.is_held
            answers = await ada.listen()
            heard.append(([(it.type, it.id, it.error) for it in answers], was_held))
            assert connection.in_flight == 0
    most = 5 if "rate_agent_burst" in limits else 4 if "rate_host_burst" in limits else count  # the hello is its host's
    codes = [error.code if isinstance(error, ErrorBody) else None for _, _, error in heard[0][0]]
    refused = [at for at, code in enumerate(codes) if code == "rate_limited"]
    assert taken == len(heard[0][0]) == (min(count, refused[0] + 1) if refused else count)
    assert bool(refused) is (count > most), "what came behind a refusal waits"
    assert heard[0] == heard[1]


async def test_commands_that_come_with_the_hello_are_counted_one_by_one() -> None:
    async with MemoryHub() as hub:
        stranger = Voice(hub)
        connection, peers = stranger.peer.connection, hub.turns.peers
        assert connection is not None
        peers.hear_all(connection, [encode_request(1, Ping()), encode_request(2, Ping())], peers.now_ms())
        answers = [it.id for it in await stranger.listen() if it.type == "error"]
        assert answers == [1], "the first one ends it"


async def test_a_bad_first_frame_closes_even_when_it_comes_too_fast() -> None:
    async with MemoryHub(limits=Limits(rate_host_per_s=1, rate_host_burst=1)) as hub:
        stranger = Voice(hub)
        await stranger.ask(IdentifyHub(), HubIdentity)
        await stranger.peer.send(b"no json")
        assert (end := await stranger.end()) is not None
        assert end.code == CLOSE_BAD_HELLO


async def test_buckets_of_the_gone_are_forgotten_when_they_are_full_again() -> None:
    async with MemoryHub(limits=Limits(rate_agent_per_s=1, rate_agent_burst=2)) as hub:
        bob = await voice(hub, "bob")
        await bob.ask(Ping(), Pong)
        await bob.peer.aclose()
        await voice(hub)
        await hub.advance(10_000)
        assert hub.turns.peers.agent_buckets._by_name.keys() == {"ada"}


# reading is held back


async def test_reading_is_held_at_the_bound_of_requests_in_flight_and_goes_on_at_half(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with MemoryHub(limits=Limits(in_flight_max=8)) as hub:
        ada = await voice(hub)
        held: list[bool] = []
        monkeypatch.setattr(ada.peer, "hold_reading", lambda *, hold: held.append(hold))
        writer = slow_writer(hub)
        await ada.say(message("in the way"))
        await steps()
        for _ in range(7):  # what is decided already waits for its commit, and no longer for its turn
            await ada.say(Ping())
        assert held == []
        await ada.say(Ping())
        assert held == [True]
        writer.finish()
        await steps()
        assert held == [True, False]


async def test_a_full_inbox_holds_who_fills_it_until_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synapse.hub.peers.INBOX_MAX", 3)
    assert INBOX_MAX > 3
    async with MemoryHub() as hub:
        ada = await voice(hub)
        held: list[bool] = []
        monkeypatch.setattr(ada.peer, "hold_reading", lambda *, hold: held.append(hold))
        for _ in range(3):
            await ada.say(Ping())
        assert held == [True]
        await ada.listen()
        assert held == [True, False]


async def test_a_held_peer_whose_requests_wait_for_the_disk_is_read_again() -> None:
    async with MemoryHub(limits=Limits(in_flight_max=4)) as hub:
        ada = await voice(hub)
        asked = [await ada.say(ReadHistory(channel="main:general")) for _ in range(4)]
        connection = ada.peer.connection
        assert connection is not None
        assert connection.is_held
        for label in asked:
            await ada.answer(label)
        assert (connection.is_held, connection.in_flight) == (False, 0)


# peers that do not read


async def test_what_a_stuck_peer_asked_is_answered_later_in_order() -> None:
    async with MemoryHub(limits=SMALL) as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        wedge(hub, ada)
        asked = [await ada.say(message(f"{number}")) for number in range(5)]
        await hub.settle()
        assert hub.state.messages == 0
        assert (await bob.post("not in the way")).n == 1
        assert await next_answers(ada, 5) == asked
        assert hub.state.messages == 6


async def test_requests_that_come_while_older_ones_are_postponed_stay_behind_them() -> None:
    async with MemoryHub(limits=SMALL) as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await bob.follow()
        writer = slow_writer(hub)
        wedge(hub, ada)
        first = [await ada.say(message(text)) for text in ("a", "b")]
        await steps()  # a turn postpones both
        await bob.say(message("of bob"))
        await steps()  # a commit is in flight, so what comes now waits in the inbox
        second = [await ada.say(message(text)) for text in ("c", "d")]
        ada.peer.received_now()  # the peer drains: everything may go on
        while writer.jobs:
            writer.finish()
            await steps()
        assert await next_answers(ada, 4) == first + second
        texts = [text_of(told) for told in await bob.messages()]
        assert texts == ["of bob", "a", "b", "c", "d"]


async def test_a_peer_that_does_not_drain_for_30_s_is_closed_and_told_to_resume() -> None:
    async with MemoryHub(limits=SMALL) as hub:
        ada = await voice(hub)
        wedge(hub, ada)
        await hub.advance(29_000)
        assert ada.peer.connection is not None
        assert not ada.peer.connection.is_closed
        await hub.advance(1_500)
        assert ada.peer.connection.is_closed
        assert (end := await ada.end()) is not None
        assert (end.code, end.may_come_back) == (CLOSE_SLOW, True)
        assert "cursor" in end.reason


async def test_a_peer_that_drains_slowly_is_not_closed_even_when_answers_were_still_coming(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with MemoryHub(limits=SMALL) as hub:
        ada = await voice(hub)
        wedge(hub, ada)
        buffered = 60_000  # more than when it got stuck
        monkeypatch.setattr(ada.peer, "buffered", lambda: buffered)
        for _ in range(12):
            await hub.advance(10_000)
            buffered -= 100
        assert ada.peer.connection is not None
        assert not ada.peer.connection.is_closed
        await hub.advance(31_000)
        assert ada.peer.connection.is_closed


async def test_the_presence_a_stuck_peer_missed_comes_as_a_fresh_snapshot() -> None:
    async with MemoryHub(limits=SMALL) as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await ada.ask(Subscribe(presence=True), Subscribed)
        ada.heard.clear()
        wedge(hub, ada)
        await bob.ask(DeclareStatus(status="busy"), StatusDeclared)
        ada.peer.received_now()
        notices = await ada.notices()
        assert [type(notice) for notice in notices] == [PresenceSnapshot]
        await bob.ask(DeclareStatus(status="idle"), StatusDeclared)
        assert isinstance((await ada.notices())[-1], PresenceChanged)


async def test_a_stuck_subscriber_holds_its_bound_and_resumes_where_it_was() -> None:
    limits = Limits(outbox_bytes_max=64 * 1024)
    async with MemoryHub(limits=limits) as hub:
        ada, slow = await voice(hub), await voice(hub, "slow")
        await slow.follow()
        slow.heard.clear()
        most = 0
        for number in range(400):
            await ada.say(message(f"{number} " + "x" * 1_000))
            if number % 20 == 0:
                await ada.listen()
            most = max(most, slow.peer.buffered())
        await ada.listen()
        assert slow.peer.connection is not None
        assert slow.peer.connection.is_stuck
        assert most <= limits.outbox_bytes_max
        told: list[int] = []
        while len(told) < 400:
            frame = decode_hub_frame(await slow.peer.receive())
            if frame.type == "message":
                told.append(msgspec.json.decode(frame.body, type=Message).n)
            await steps(3)
        assert told == list(range(1, 401))
        [subscription] = slow.peer.connection.subscriptions.values()
        assert subscription.is_live
        await ada.post("live again")
        assert text_of((await slow.messages())[-1]) == "live again"


# peers that say nothing


async def test_who_says_no_hello_in_time_is_closed() -> None:
    async with MemoryHub() as hub:
        silent, asking, ada = Voice(hub), Voice(hub), await voice(hub)
        await hub.advance(4_000)
        await asking.ask(IdentifyHub(), HubIdentity)
        assert await silent.is_open()
        await hub.advance(1_500)
        for who in (silent, asking):
            assert (end := await who.end()) is not None
            assert (end.code, end.may_come_back) == (CLOSE_NO_HELLO, True)
        assert await ada.is_open()
        assert not hub.turns.peers.unwelcomed


async def test_what_a_closed_connection_says_is_not_heard() -> None:
    async with MemoryHub() as hub:
        stranger = Voice(hub)
        await stranger.say(Ping())
        await stranger.say(message("too late"))
        frames = [frame for frame in await stranger.listen() if frame.type == "error"]
        assert [error_of(frame).code for frame in frames] == ["hello_required"]
        assert hub.state.messages == 0
