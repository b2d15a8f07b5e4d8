"""Events about leases: how they are told to followers, in inboxes and in words."""

import json

import msgspec
import pytest
from tests.core.conftest import EveryKey
from tests.core.lease_world import TREE, LeaseWorld, claim

from synapse.core.events import LEASES, Recorded
from synapse.core.holding import decide_expiry, decide_unqueue
from synapse.core.lease_events import LEASE_EVENTS, in_a_sentence, shown_arrival, shown_change
from synapse.core.leases import Place
from synapse.core.telling import announce, arrivals, shown_to
from synapse.protocol.commands import (
    CreateRoom,
    ForgetAgent,
    HandOffLease,
    ParkLease,
    ReleaseLease,
    RenewLease,
    SaveCheckpoint,
    SetPool,
    WithdrawClaim,
)
from synapse.protocol.notices import LeaseChanged, Message
from synapse.protocol.terms import Artefact


def life_of_a_task() -> tuple[LeaseWorld, list[Recorded]]:
    """Everything that can happen to leases and places, once; the last of each kind counts."""
    world = LeaseWorld()
    world.pool("gpu", 2)
    first = world.take("ada", "T1", "a", "b", "c", "d", pools={"gpu": 1})
    world.do(RenewLease(task="T1", ttl_ms=90_000, note="going on"), "ada")
    world.do(SaveCheckpoint(task="T1", data=msgspec.Raw(b'{"step":3}'), artefacts=(Artefact(path="x"),)), "ada")
    world.do(ParkLease(task="T1", parked=True), "ada")
    world.do(ParkLease(task="T1", parked=False), "ada")
    world.hand_off("ada", "T1", "dan")
    world.wait("cy", "T1", priority="high")
    withdrawn = world.wait("bob", "T1")
    world.withdraw("bob", "T1")
    assert withdrawn not in world.state.leases.places
    world.hand_off("ada", "T1", "bob", first)
    world.do(ReleaseLease(task="T1"), "bob")
    world.take("cy", "T1", mode="shared")
    world.take("hal", "T1", preempt=True)
    epoch = next(iter(world.state.leases.live))
    world.record(decide_expiry(world.state, world.lease(epoch), "ttl"), "hub")
    return world, [item for item in world.read(0, 1 << 60) if type(item.event) in LEASE_EVENTS]


def test_every_kind_of_change_is_told_with_its_numbers() -> None:
    world, recorded = life_of_a_task()
    told = [shown_change(world.state.journal_id, item) for item in recorded]
    changes = [notice.change for notice in told if notice is not None]
    assert changes == [
        "granted",
        "renewed",
        "checkpointed",
        "parked",
        "resumed",
        "offered",
        "queued",
        "queued",
        "wait_ended",
        "handed_off",
        "released",
        "granted",
        "granted",
        "revoked",
        "granted",
        "expired",
    ]
    for item, notice in zip(recorded, told, strict=True):
        assert isinstance(notice, LeaseChanged)
        assert (notice.task, notice.room, notice.by, notice.at_ms) == ("T1", "main", item.actor, item.at_ms)
    by_change = {notice.change: (item, notice) for item, notice in zip(recorded, told, strict=True) if notice}
    handed, notice = by_change["handed_off"]
    assert (notice.epoch, notice.owner, notice.to, notice.previous_epoch) == (handed.seq, "bob", "bob", recorded[0].seq)
    assert by_change["expired"][1].reason == "ttl"
    assert by_change["revoked"][1].reason == "preempted"
    assert (by_change["wait_ended"][1].reason, by_change["wait_ended"][1].epoch) == ("withdrawn", None)
    from_the_queue = shown_change(world.state.journal_id, recorded[11])
    assert from_the_queue is not None
    assert (from_the_queue.place, from_the_queue.epoch) == (recorded[6].seq, recorded[11].seq)
    replaced = shown_change(world.state.journal_id, recorded[12])
    assert replaced is not None
    assert (replaced.previous_epoch, replaced.mode) == (recorded[11].seq, "shared")


def test_each_change_has_its_sentence() -> None:
    _, recorded = life_of_a_task()
    words = [in_a_sentence(item) for item in recorded]
    first = recorded[0].seq
    assert words[:6] == [
        f"granted to ada as epoch {first}, a, b, c and 1 more, with 1 of pool gpu, for 60 s",
        "ada changed it: 90 s from each renewal, note: going on",
        f"ada kept a checkpoint of 10 bytes and 1 files (epoch {first})",
        f"parked by ada: its time stands still (epoch {first})",
        f"resumed by ada: its time runs on (epoch {first})",
        f"offered by ada to dan, who was offline (epoch {first})",
    ]
    assert words[6] == f"cy began to wait, high priority, place {recorded[6].seq}, the task alone"
    assert words[8] == f"bob waits no more at place {recorded[7].seq}: it withdrew"
    assert words[9] == f"handed by ada (epoch {first}) to bob as epoch {recorded[9].seq}"
    assert f"after waiting at place {recorded[6].seq}" in words[11]
    assert f"; its epoch {recorded[11].seq} is fenced" in words[12]
    assert words[13] == f"taken from cy (epoch {recorded[12].seq}) by hal: preempted"
    assert words[15] == f"the lease of hal expired (epoch {recorded[14].seq}): it was not renewed in time"


@pytest.mark.parametrize(
    ("reason", "words"),
    [("connection", "its connection went away"), ("parked", "parked for as long as that is allowed")],
)
def test_an_expiry_says_why(reason: str, words: str) -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1")
    [recorded] = world.record(decide_expiry(world.state, world.lease(epoch), reason), "hub")
    assert words in in_a_sentence(recorded)


@pytest.mark.parametrize(
    ("reason", "words"), [("deadline", "its deadline passed"), ("gone", "it went away and did not come back")]
)
def test_the_end_of_a_wait_says_why(reason: str, words: str) -> None:
    world = LeaseWorld()
    world.take("ada", "T1")
    place: Place = world.place(world.wait("bob", "T1"))
    [recorded] = world.record(decide_unqueue(world.state, [place], reason), "hub")
    assert words in in_a_sentence(recorded)


def test_followers_of_leases_are_told_and_others_are_not() -> None:
    world = LeaseWorld()
    [recorded], _ = world.do(claim("T1"), "ada")
    assert announce(world.state.journal_id, recorded, (), {}) == []
    [(key, notice)] = announce(world.state.journal_id, recorded, (LEASES,), {})
    assert (key, isinstance(notice, LeaseChanged)) == (LEASES, True)
    [recorded], _ = world.do(SetPool(pool="gpu", capacity=1), "operator")
    assert announce(world.state.journal_id, recorded, EveryKey(), {}) == []


@pytest.mark.parametrize(
    ("to", "kind", "subject", "next_step"),
    [
        ("bob", "lease.handed_off", "ada handed you T1", "synapse renew T1"),
        ("dan", "lease.offered", "ada offers you T1", "synapse claim T1"),
    ],
)
def test_a_hand_off_and_an_offer_arrive_as_a_message_of_the_hub(
    to: str, kind: str, subject: str, next_step: str
) -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1", "src/**")
    [recorded] = world.hand_off("ada", "T1", to)
    assert arrivals(recorded.event) == [world.agent(to)]
    told = [notice for _, notice in announce(world.state.journal_id, recorded, EveryKey(), {})]
    [message] = [notice for notice in told if isinstance(notice, Message)]
    assert (message.sender, message.kind, message.subject, message.to, message.n) == (
        "hub",
        "system",
        subject,
        (to,),
        1,
    )
    assert json.loads(bytes(message.body)) == {
        "type": kind,
        "task": "T1",
        "room": "main",
        "by": "ada",
        "epoch": recorded.seq if kind == "lease.handed_off" else epoch,
        "worktree": TREE,
        "paths": ["src/**"],
        "next": next_step,
    }
    assert shown_to(world.state.journal_id, recorded, world.agent(to)) == message
    assert shown_to(world.state.journal_id, recorded, world.agent("cy")) is None
    assert shown_arrival(world.state.journal_id, recorded, world.agent("ada")) is None


@pytest.mark.parametrize(("to", "verb"), [("bob", "renew"), ("dan", "claim")])
def test_the_next_step_of_a_hand_off_names_its_room(to: str, verb: str) -> None:
    world = LeaseWorld()
    world.do(CreateRoom(room="lab"), "operator")
    world.take("ada", "T1", room="lab")
    [recorded] = world.do(HandOffLease(task="T1", room="lab", to=to), "ada")[0]
    message = shown_to(world.state.journal_id, recorded, world.agent(to))
    assert message is not None
    assert json.loads(bytes(message.body))["next"] == f"synapse {verb} T1 --room lab"


def test_forgetting_and_withdrawing_leave_nobody_behind() -> None:
    world = LeaseWorld()
    world.take("ada", "T1")
    world.wait("bob", "T1")
    world.do(WithdrawClaim(task="T1"), "bob")
    recorded = world.do(ForgetAgent(name="ada"), "operator")[0]
    assert "taken from ada" in in_a_sentence(recorded[0])
    with pytest.raises(AssertionError, match="not about a lease"):
        in_a_sentence(recorded[-1])
