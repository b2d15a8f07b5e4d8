"""Holding: renewals, releases, checkpoints, hand-offs and offers, parking, and what operators do to pools."""

import json
from typing import Any

import msgspec
import pytest
from tests.core.lease_world import TTL_MS, LeaseWorld, claim, granted_to, named

from synapse.core.events import (
    AgentForgotten,
    LeaseCheckpointed,
    LeaseGranted,
    LeaseHandedOff,
    LeaseOffered,
    LeaseParked,
    LeaseReleased,
    LeaseRenewed,
    LeaseResumed,
    LeaseRevoked,
    LeaseUnqueued,
    PoolDeleted,
    PoolSet,
)
from synapse.core.holding import decide_expiry, decide_forget, decide_pools, decide_unqueue
from synapse.core.kernel import Mutation
from synapse.core.state import decode_state, digest, encode_state
from synapse.protocol.commands import (
    AckInbox,
    CreateRoom,
    DeletePool,
    DeleteRoom,
    ForgetAgent,
    HandOffLease,
    ParkLease,
    ReleaseLease,
    RenewLease,
    SaveCheckpoint,
    SetPool,
    TakeInbox,
    WithdrawClaim,
)
from synapse.protocol.cursor import message_id
from synapse.protocol.limits import Limits
from synapse.protocol.replies import Lease, Released, Withdrawn
from synapse.protocol.terms import Artefact

UNDER_A_LEASE: list[tuple[str, Mutation]] = [
    ("renew", RenewLease(task="T1")),
    ("release", ReleaseLease(task="T1")),
    ("checkpoint", SaveCheckpoint(task="T1", data=msgspec.Raw(b"1"))),
    ("hand off", HandOffLease(task="T1", to="cy")),
    ("park", ParkLease(task="T1", parked=True)),
]
COMMANDS = pytest.mark.parametrize("command", [c for _, c in UNDER_A_LEASE], ids=[name for name, _ in UNDER_A_LEASE])


def with_epoch(command: Mutation, epoch: int) -> Mutation:
    return msgspec.structs.replace(command, epoch=epoch)


def saved(task: str, data: object, *artefacts: Artefact) -> SaveCheckpoint:
    return SaveCheckpoint(task=task, data=msgspec.Raw(msgspec.json.encode(data)), artefacts=artefacts)


# Epoch duty.


@COMMANDS
def test_only_the_holder_acts_under_a_lease(command: Mutation) -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1", "a")
    refused = world.refusal(command, "bob")
    assert (refused.code, refused.facts["owner"], refused.facts["epoch"]) == ("not_holder", "ada", epoch)
    refused = world.refusal(with_epoch(command, epoch), "bob")
    assert (refused.code, refused.facts["epoch"]) == ("stale_epoch", epoch)
    assert [holder["owner"] for holder in named(refused)] == ["ada"]


@COMMANDS
@pytest.mark.parametrize("end", ["release", "expiry", "hand-off", "preemption", "other scope", "never was"])
def test_a_stale_epoch_is_refused_and_changes_nothing(command: Mutation, end: str) -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1", "a")
    match end:
        case "release":
            world.release("ada", "T1")
        case "expiry":
            world.record(decide_expiry(world.state, world.lease(epoch), "ttl"), "hub")
        case "hand-off":
            world.hand_off("ada", "T1", "bob")
        case "preemption":
            world.take("hal", "T9", "a", preempt=True)
        case "other scope":
            world.take("ada", "T1", "b")
        case _:
            epoch -= 1
    refused = world.refusal(with_epoch(command, epoch), "ada")
    assert (refused.code, refused.facts["task"], refused.facts["epoch"]) == ("stale_epoch", "T1", epoch)
    holders = [lease.epoch for lease in world.state.leases.live.values() if lease.ask.task == "T1"]
    assert [holder["epoch"] for holder in named(refused)] == holders


@COMMANDS
def test_what_nobody_holds_is_not_found_and_what_is_no_task_is_said(command: Mutation) -> None:
    world = LeaseWorld()
    assert world.refusal(command, "ada").code == "not_found"
    for task in ("", "x" * 129, "a b"):
        for epoch in (None, 17):
            wrong = msgspec.structs.replace(command, task=task, epoch=epoch)
            assert world.refusal(wrong, "ada").code == "bad_name"
    assert world.refusal(command, "operator").code == "anonymous"


def test_without_an_epoch_the_latest_lease_of_the_agent_is_meant() -> None:
    world = LeaseWorld()
    old = world.take("ada", "T1", mode="shared", reentrant=False)
    new = world.take("ada", "T1", mode="shared", reentrant=False)
    assert world.reply(Released, ReleaseLease(task="T1"), "ada").epoch == new
    assert list(world.state.leases.live) == [old]


# Renewal, release.


def test_a_renewal_that_moves_only_the_deadline_is_no_event() -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1", note="n")
    assert world.events(RenewLease(task="T1", epoch=epoch), "ada") == []
    assert world.events(RenewLease(task="T1", ttl_ms=TTL_MS, note="n"), "ada") == []


def test_a_renewal_with_another_ttl_or_note_is_kept_over_a_restart() -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1", note="n")
    [event] = world.events(RenewLease(task="T1", ttl_ms=90_000), "ada")
    assert isinstance(event, LeaseRenewed)
    assert (event.epoch, event.ttl_ms, event.note) == (epoch, 90_000, "n")
    world.events(RenewLease(task="T1", note="m"), "ada")
    world.restart()
    assert (world.lease(epoch).ttl_ms, world.lease(epoch).note) == (90_000, "m")


@pytest.mark.parametrize("ttl_ms", [4_999, 24 * 3600 * 1000 + 1, -1])
def test_a_renewal_is_within_the_bounds_of_a_ttl(ttl_ms: int) -> None:
    world = LeaseWorld()
    world.take("ada", "T1")
    refused = world.refusal(RenewLease(task="T1", ttl_ms=ttl_ms), "ada")
    assert (refused.code, refused.facts["min"], refused.facts["max"]) == ("bad_request", 5_000, 24 * 3600 * 1000)
    assert world.refusal(RenewLease(task="T1", note="n" * 513), "ada").code == "bad_request"


def test_a_release_repeated_under_its_key_is_answered_again() -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1")
    first = world.reply(Released, ReleaseLease(task="T1"), "ada", "k")
    world.take("bob", "T1")
    assert world.reply(Released, ReleaseLease(task="T1"), "ada", "k") == first
    assert (first.epoch, world.held) == (epoch, [("bob", "T1")])


def test_a_withdrawal_ends_every_place_of_the_agent_for_the_task() -> None:
    world = LeaseWorld()
    world.take("ada", "T1")
    world.wait("bob", "T1")
    world.wait("bob", "T1", reentrant=False)
    world.wait("cy", "T1")
    assert world.reply(Withdrawn, WithdrawClaim(task="T1"), "bob").withdrawn == 2
    assert world.waiting == [("cy", "T1")]
    assert world.refusal(WithdrawClaim(task="T1"), "bob").code == "not_found"


# Checkpoints.


@pytest.mark.parametrize("end", ["release", "expiry", "hand-off"])
def test_a_checkpoint_is_inherited_however_the_lease_ended(end: str) -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1")
    event = world.events(saved("T1", {"step": 3}, Artefact(path="a.txt", sha256="f" * 64)), "ada")[0]
    assert isinstance(event, LeaseCheckpointed)
    if end == "release":
        world.release("ada", "T1")
    elif end == "expiry":
        world.record(decide_expiry(world.state, world.lease(epoch), "ttl"), "hub")
    else:
        world.hand_off("ada", "T1", "bob")
    world.restart()
    found = world.reply(Lease, claim("T1"), "bob").checkpoint
    assert found
    assert (json.loads(bytes(found.data)), found.by, found.epoch, found.artefacts[0].path) == (
        {"step": 3},
        "ada",
        epoch,
        "a.txt",
    )


def test_null_drops_the_checkpoint_and_the_bytes_are_given_back() -> None:
    world = LeaseWorld()
    world.take("ada", "T1")
    world.do(saved("T1", "x" * 100), "ada")
    world.do(saved("T1", "y"), "ada")
    assert world.state.leases.checkpoint_bytes == 3
    world.do(saved("T1", None, Artefact(path="kept")), "ada")
    assert world.reply(Lease, claim("T1"), "ada").checkpoint
    world.do(saved("T1", None), "ada")
    assert world.reply(Lease, claim("T1"), "ada").checkpoint is None
    assert (world.state.leases.checkpoint_bytes, world.state.leases.checkpoints) == (0, {})


def test_checkpoints_have_limits_that_are_told() -> None:
    world = LeaseWorld(Limits(checkpoint_bytes_max=300, checkpoints_bytes_max=400, artefacts_max=2))
    world.take("ada", "T1")
    world.take("ada", "T2")
    refused = world.refusal(saved("T1", "x" * 299), "ada")
    assert (refused.code, refused.facts) == ("too_large", {"bytes": 301, "checkpoint_bytes_max": 300})
    refused = world.refusal(saved("T1", 1, *[Artefact(path="a")] * 3), "ada")
    assert (refused.code, refused.facts) == ("too_large", {"artefacts": 3, "artefacts_max": 2})
    world.do(saved("T1", "x" * 298), "ada")
    refused = world.refusal(saved("T2", "x" * 99), "ada")
    assert (refused.code, refused.facts) == ("limit", {"limit": "checkpoints_bytes_max", "value": 400})
    world.do(saved("T1", "x" * 298), "ada")
    world.do(saved("T2", "x" * 98), "ada")


def test_a_checkpoint_belongs_to_the_task_of_its_room_and_goes_with_the_room() -> None:
    world = LeaseWorld()
    world.do(CreateRoom(room="lab"), "operator")
    world.take("ada", "T1", room="lab")
    world.do(msgspec.structs.replace(saved("T1", 1), room="lab"), "ada")
    assert world.reply(Lease, claim("T1"), "bob").checkpoint is None
    world.do(ReleaseLease(task="T1", room="lab"), "ada")
    world.do(DeleteRoom(room="lab"), "operator")
    assert (world.state.leases.checkpoint_bytes, world.state.leases.checkpoints) == (0, {})
    assert digest(world.replayed()) == digest(world.state)


# Hand-off.


def test_a_hand_off_is_one_event_with_scope_status_and_words() -> None:
    world = LeaseWorld()
    old = world.take("ada", "T1", "src/**", note="half", branch="b", ttl_ms=90_000, tied=True)
    world.do(ParkLease(task="T1", parked=True), "ada")
    [recorded] = world.hand_off("ada", "T1", "bob")
    event = recorded.event
    assert isinstance(event, LeaseHandedOff)
    assert (event.previous, event.sender, event.ask.owner, event.ask.paths) == (old, "ada", "bob", ("src/**",))
    lease = world.lease(recorded.seq)
    assert (lease.ttl_ms, lease.note, lease.branch, lease.parked, lease.tied) == (90_000, "half", "b", True, False)
    assert world.held == [("bob", "T1")]
    assert world.refusal(ReleaseLease(task="T1", epoch=old), "ada").code == "stale_epoch"
    assert event.delivery is not None
    assert recorded.seq in world.state.agents.inboxes[world.agent("bob")].entries


def test_a_hand_off_goes_to_a_recent_agent_and_with_a_full_inbox_too() -> None:
    world = LeaseWorld(Limits(inbox_unacked_max=1))
    world.state.soft.presence.disconnect(world.agent("bob"), world.agent("bob"), world.at_ms, 0)
    world.take("ada", "T1")
    world.take("ada", "T2")
    world.hand_off("ada", "T1", "bob")
    event = world.hand_off("ada", "T2", "bob")[0].event
    assert isinstance(event, LeaseHandedOff)
    assert event.delivery is None
    assert world.held == [("bob", "T1"), ("bob", "T2")]


def test_a_hand_off_is_checked_against_all_other_leases() -> None:
    world = LeaseWorld()
    mine = world.take("ada", "T1", "a")
    world.take("ada", "T2", "a")
    refused = world.refusal(HandOffLease(task="T1", to="bob", epoch=mine), "ada")
    assert (refused.code, [holder["task"] for holder in named(refused)]) == ("lease_held", ["T2"])
    assert world.held == [("ada", "T1"), ("ada", "T2")]


def test_a_hand_off_to_who_holds_the_task_or_excludes_itself_is_refused() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", mode="shared")
    world.take("bob", "T1", mode="shared")
    assert world.refusal(HandOffLease(task="T1", to="bob"), "ada").code == "lease_held"
    world.take("ada", "T2", "x", mode="shared")
    world.take("bob", "lock/x", "x", mode="shared", reentrant=False)
    world.hand_off("ada", "T2", "bob")


def test_a_hand_off_to_oneself_or_to_nobody_is_refused() -> None:
    world = LeaseWorld()
    world.take("ada", "T1")
    refused = world.refusal(HandOffLease(task="T1", to="ada"), "ada")
    assert (refused.code, refused.facts) == ("bad_request", {"path": "$.body.to"})
    world.join("root@vm")
    refused = world.refusal(HandOffLease(task="T1", to="root@vm"), "ada")
    assert (refused.code, "cannot hold work" in refused.detail) == ("bad_request", True)
    refused = world.refusal(HandOffLease(task="T1", to="adam"), "ada")
    assert (refused.code, refused.facts["near"]) == ("not_found", ["ada", "dan"])


@pytest.mark.parametrize("scope", [(), ("a",)])
def test_a_hand_off_passes_the_queue_and_ends_the_waits_of_the_receiver(scope: tuple[str, ...]) -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a")
    world.wait("cy", "T9", "a")
    place = world.wait("bob", "T1", *scope)
    world.wait("hal", "T1", priority="low")
    recorded = world.hand_off("ada", "T1", "bob")
    assert [type(item.event) for item in recorded] == [LeaseHandedOff, LeaseUnqueued]
    ended = recorded[1].event
    assert isinstance(ended, LeaseUnqueued)
    assert (ended.place, ended.reason) == (place, "handed_off")
    assert world.held == [("bob", "T1")]
    assert world.waiting == [("cy", "T9"), ("hal", "T1")]


def test_a_wait_for_another_mode_goes_on_after_a_hand_off() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a", mode="shared")
    world.take("cy", "T2", "a", mode="shared")
    place = world.wait("bob", "T1", "a")
    [handed] = world.hand_off("ada", "T1", "bob")
    assert (world.held, world.waiting) == ([("cy", "T2"), ("bob", "T1")], [("bob", "T1")])
    granted = world.release("cy", "T2")[1]
    assert isinstance(granted, LeaseGranted)
    assert (granted.place, granted.ask.mode, granted.replaces) == (place, "exclusive", handed.seq)


@pytest.mark.parametrize(
    ("paths", "fields"), [(("b",), {}), (("a", "b"), {}), (("a",), {"pools": {"one": 1}}), ((), {"pools": {"one": 1}})]
)
def test_a_wait_for_another_scope_is_granted_in_place_of_what_was_handed_over(
    paths: tuple[str, ...], fields: dict[str, Any]
) -> None:
    world = LeaseWorld()
    world.pool("one", 1)
    world.take("ada", "T1", "a")
    place = world.wait("bob", "T1", *paths, **fields)
    recorded = world.hand_off("ada", "T1", "bob")
    assert [type(item.event) for item in recorded] == [LeaseHandedOff, LeaseGranted]
    granted = recorded[1].event
    assert isinstance(granted, LeaseGranted)
    assert (granted.place, granted.ask.paths, granted.replaces) == (place, paths, recorded[0].seq)
    assert dict(granted.ask.pools) == fields.get("pools", {})
    assert (world.held, world.waiting) == ([("bob", "T1")], [])


def test_a_wait_for_another_scope_that_is_not_free_goes_on_after_a_hand_off() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a")
    world.take("cy", "T2", "b")
    place = world.wait("bob", "T1", "a", "b")
    [handed] = world.hand_off("ada", "T1", "bob")
    assert (world.held, world.waiting) == ([("cy", "T2"), ("bob", "T1")], [("bob", "T1")])
    granted = world.release("cy", "T2")[1]
    assert isinstance(granted, LeaseGranted)
    assert (granted.place, granted.replaces) == (place, handed.seq)


def test_a_hand_off_frees_what_only_the_sender_excluded() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a")
    world.wait("bob", "T2", "a")
    recorded = world.hand_off("ada", "T1", "bob")
    assert granted_to([item.event for item in recorded]) == [("bob", "T2")], "its own lease is not in its way"


# Offers.


def offered(world: LeaseWorld, task: str = "T1") -> int:
    """Ada offers a task to dan, who is offline; the epoch that stays hers."""
    epoch = world.take("ada", task, f"src/{task}")
    [recorded] = world.hand_off("ada", task, "dan")
    assert isinstance(recorded.event, LeaseOffered)
    return epoch


def inbox(world: LeaseWorld, name: str = "dan") -> list[int]:
    return list(world.state.agents.inboxes[world.agent(name)].entries)


def test_an_offer_leaves_the_lease_where_it_is_and_a_message_in_the_inbox() -> None:
    world = LeaseWorld()
    epoch = offered(world)
    lease = world.lease(epoch)
    assert (world.held, lease.offered_to, [lease.offer]) == ([("ada", "T1")], world.agent("dan"), inbox(world))
    assert world.hand_off("ada", "T1", "dan") == [], "offered already"


@pytest.mark.parametrize("scope", [(), ("src/T1",)])
def test_the_receivers_claim_accepts_the_offer_and_keeps_the_scope(scope: tuple[str, ...]) -> None:
    world = LeaseWorld()
    epoch = offered(world)
    world.restart()
    recorded, reply = world.do(claim("T1", *scope), "dan", "k")
    [event] = [item.event for item in recorded]
    assert isinstance(event, LeaseHandedOff)
    assert isinstance(reply, Lease)
    assert (event.previous, event.ask.paths, event.delivery) == (epoch, ("src/T1",), None)
    assert (reply.owner, reply.outcome, reply.epoch) == ("dan", "handed_off", recorded[0].seq)
    assert inbox(world) == [], "the offer is taken"
    again = world.reply(Lease, claim("T1", *scope), "dan", "k")
    assert (again.epoch, again.outcome, again.live) == (reply.epoch, "handed_off", True)


def test_a_lock_accepts_for_its_own_process_with_what_it_says() -> None:
    world = LeaseWorld()
    offered(world)
    fields = {"reentrant": False, "tied": True, "ttl_ms": 7_000, "note": "n", "branch": "b"}
    recorded, reply = world.do(claim("T1", **fields), "dan")
    lease = world.lease(recorded[0].seq)
    assert isinstance(reply, Lease)
    assert (reply.outcome, reply.tied, reply.ttl_ms, reply.note, reply.branch) == ("handed_off", True, 7_000, "n", "b")
    assert (lease.ask.reentrant, lease.ask.paths) == (False, ("src/T1",))
    refused = world.refused("dan", "T1")
    assert (refused.code, "another process of dan holds it" in refused.detail) == ("lease_held", True)
    assert digest(world.replayed()) == digest(world.state)


def test_another_scope_does_not_accept_the_offer() -> None:
    world = LeaseWorld()
    offered(world)
    assert world.refused("dan", "T1", "docs").code == "lease_held"
    assert world.held == [("ada", "T1")]


def test_another_mode_and_units_do_not_accept_the_offer() -> None:
    world = LeaseWorld()
    world.pool("one", 1)
    world.take("ada", "T1", "a", mode="shared")
    world.hand_off("ada", "T1", "dan")
    assert world.refused("dan", "T1", "a").code == "lease_held"
    assert world.refused("dan", "T1", pools={"one": 1}).code == "lease_held"
    assert world.held == [("ada", "T1")]
    assert world.reply(Lease, claim("T1"), "dan").mode == "shared", "without a scope it takes what is there"


@pytest.mark.parametrize(("scope", "reason"), [((), "handed_off"), (("src/T1",), "handed_off"), (("b",), "replaced")])
def test_who_accepts_waits_no_more_and_what_it_waited_for_does_not_fence_it(
    scope: tuple[str, ...], reason: str
) -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "src/T1")
    place = world.wait("dan", "T1", *scope)
    world.hand_off("ada", "T1", "dan")
    recorded, reply = world.do(claim("T1"), "dan")
    ended = recorded[1].event
    assert isinstance(ended, LeaseUnqueued)
    assert (ended.place, ended.reason, len(recorded)) == (place, reason, 2)
    assert isinstance(reply, Lease)
    assert (reply.live, reply.outcome, world.waiting) == (True, "handed_off", [])


def test_who_holds_the_task_already_renews_its_own_lease_instead_of_accepting() -> None:
    world = LeaseWorld()
    mine = world.take("dan", "T1", "d", mode="shared")
    world.take("ada", "T1", "a", mode="shared")
    world.hand_off("ada", "T1", "dan")
    reply = world.reply(Lease, claim("T1", mode="shared"), "dan")
    assert (reply.epoch, reply.outcome) == (mine, "renewed")


@pytest.mark.parametrize(
    "end", ["release", "expiry", "hand-off", "preemption", "other offer", "other scope", "forgotten", "accepted"]
)
def test_an_offer_goes_with_the_lease(end: str) -> None:
    world = LeaseWorld()
    epoch = offered(world)
    match end:
        case "release":
            world.release("ada", "T1")
        case "expiry":
            world.record(decide_expiry(world.state, world.lease(epoch), "ttl"), "hub")
        case "hand-off":
            world.hand_off("ada", "T1", "bob")
        case "preemption":
            world.take("hal", "T1", preempt=True)
        case "other offer":
            world.join("eve")
            world.hand_off("ada", "T1", "eve")
        case "other scope":
            world.take("ada", "T1", "docs")
        case "forgotten":
            world.do(ForgetAgent(name="ada"), "operator")
        case _:
            world.do(claim("T1"), "dan")
    assert inbox(world) == []
    agents = [lease.offered_to for lease in world.state.leases.live.values()]
    assert world.agent("dan") not in agents
    assert digest(world.replayed()) == digest(world.state)


def test_an_offer_that_was_read_and_acked_still_counts_and_ends_quietly() -> None:
    world = LeaseWorld()
    epoch = offered(world)
    world.do(TakeInbox(), "dan")
    world.do(AckInbox(ids=(message_id(inbox(world)[0]),)), "dan")
    assert inbox(world) == []
    assert world.lease(epoch).offered_to == world.agent("dan")
    world.release("ada", "T1")
    assert digest(world.replayed()) == digest(world.state)


def test_a_receiver_that_is_forgotten_takes_the_offer_with_it() -> None:
    world = LeaseWorld()
    epoch = offered(world)
    world.do(ForgetAgent(name="dan"), "operator")
    assert (world.lease(epoch).offered_to, world.lease(epoch).offer) == (None, None)
    world.release("ada", "T1")
    assert digest(world.replayed()) == digest(world.state)


def test_no_offer_goes_into_a_full_inbox() -> None:
    world = LeaseWorld(Limits(inbox_unacked_max=1))
    offered(world)
    world.take("ada", "T2")
    refused = world.refusal(HandOffLease(task="T2", to="dan"), "ada")
    assert (refused.code, refused.facts) == ("inbox_full", {"agent": "dan", "inbox_unacked_max": 1})


# Parking.


def test_parking_and_resuming_are_events_once() -> None:
    world = LeaseWorld()
    epoch = world.take("ada", "T1")
    assert [type(e) for e in world.events(ParkLease(task="T1", parked=True), "ada")] == [LeaseParked]
    assert world.reply(Lease, ParkLease(task="T1", parked=True), "ada").outcome == "parked"
    assert world.events(ParkLease(task="T1", parked=True), "ada") == []
    world.restart()
    info = world.reply(Lease, RenewLease(task="T1"), "ada")
    assert (info.status, info.remaining_ms, info.expires_at_ms, info.epoch) == ("parked", None, None, epoch)
    assert [type(e) for e in world.events(ParkLease(task="T1", parked=False), "ada")] == [LeaseResumed]
    assert world.reply(Lease, ParkLease(task="T1", parked=False), "ada").outcome == "resumed"


def test_a_parked_lease_is_still_in_the_way_and_says_so() -> None:
    world = LeaseWorld()
    world.take("ada", "T1")
    world.do(ParkLease(task="T1", parked=True), "ada")
    refused = world.refused("bob", "T1")
    assert (named(refused)[0]["expires_in_ms"], refused.retry_after_ms) == (None, None)
    assert "parked" in refused.detail


# What time and operators do.


def test_a_forgotten_agent_gives_up_leases_and_places_and_others_go_on() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a")
    world.take("bob", "T2", "b")
    world.wait("ada", "T3", "b")
    world.wait("cy", "T4", "a")
    world.wait("hal", "T5", "b", priority="low")
    recorded = world.do(ForgetAgent(name="ada"), "operator")[0]
    assert [type(item.event) for item in recorded] == [LeaseRevoked, LeaseUnqueued, LeaseGranted, AgentForgotten]
    assert (world.held, world.waiting) == ([("bob", "T2"), ("cy", "T4")], [("hal", "T5")])
    assert digest(world.replayed()) == digest(world.state)
    world.join("ada")
    assert decide_forget(world.state, world.agent("ada")) == [], "the newcomer has nothing of it"


def test_a_room_with_leases_or_waits_is_not_deleted() -> None:
    world = LeaseWorld()
    world.do(CreateRoom(room="lab"), "operator")
    world.take("ada", "T1", "a", room="lab")
    world.take("bob", "T2", "b")
    world.wait("cy", "T3", "b", room="lab")
    refused = world.refusal(DeleteRoom(room="lab"), "operator")
    assert (refused.code, refused.facts) == ("not_empty", {"name": "lab", "leases": 1, "waiting": 1})


def test_places_that_end_together_serve_those_behind_once() -> None:
    world = LeaseWorld()
    world.take("ada", "T1", "a", mode="shared")
    places = [world.place(world.wait(name, f"W-{name}", "a")) for name in ("bob", "cy")]
    world.wait("hal", "T4", "a", mode="shared")
    events = decide_unqueue(world.state, places, "deadline")
    assert [type(event) for event in events] == [LeaseUnqueued, LeaseUnqueued, LeaseGranted]


def test_pools_are_for_operators_and_have_bounds() -> None:
    world = LeaseWorld(Limits(pools_max=1))
    assert world.refusal(SetPool(pool="gpu", capacity=2), "ada").code == "not_permitted"
    assert world.refusal(DeletePool(pool="gpu"), "ada").code == "not_permitted"
    assert world.pool("gpu", 2) == [PoolSet(name="gpu", capacity=2)]
    assert world.pool("gpu", 2) == []
    for capacity in (0, -1, 1_000_001):
        assert world.refusal(SetPool(pool="gpu", capacity=capacity), "operator").code == "bad_request"
    assert world.refusal(SetPool(pool="GPU", capacity=1), "operator").code == "bad_name"
    refused = world.refusal(SetPool(pool="cpu", capacity=1), "operator")
    assert (refused.code, refused.facts) == ("limit", {"limit": "pools_max", "value": 1})
    refused = world.refused("ada", "T1", pools={"tpu": 1})
    assert (refused.code, refused.facts) == ("not_found", {"pool": "tpu", "pools": ["gpu"]})


def test_a_pool_that_is_held_or_waited_for_is_not_deleted() -> None:
    world = LeaseWorld()
    world.pool("gpu", 1)
    world.take("ada", "T1", pools={"gpu": 1})
    world.wait("bob", "T2", pools={"gpu": 1})
    refused = world.refusal(DeletePool(pool="gpu"), "operator")
    assert (refused.code, refused.facts) == ("not_empty", {"name": "gpu", "held": 1, "waiting": 1})
    world.withdraw("bob", "T2")
    world.release("ada", "T1")
    assert world.events(DeletePool(pool="gpu"), "operator") == [PoolDeleted(name="gpu")]
    assert world.refusal(DeletePool(pool="gpu"), "operator").code == "not_found"


def test_the_configuration_makes_and_changes_pools_and_nothing_else() -> None:
    world = LeaseWorld()
    world.pool("gpu", 1)
    world.pool("kept", 1)
    events = decide_pools(world.state, world.rules, {"gpu": 2, "kept": 1, "new": 3})
    assert events == [PoolSet(name="gpu", capacity=2), PoolSet(name="new", capacity=3)]


def test_everything_about_leases_survives_replay_and_snapshot() -> None:
    world = LeaseWorld()
    world.pool("gpu", 2)
    world.take("ada", "T1", "src/**", pools={"gpu": 1}, note="n", branch="b", tied=True)
    world.do(saved("T1", {"a": 1}, Artefact(path="x", bytes=3)), "ada")
    offered(world, "T2")
    world.take("bob", "T3", "docs", mode="shared", folds_case=True, reentrant=False)
    world.do(ParkLease(task="T3", parked=True), "bob")
    world.wait("cy", "T4", "docs", "src/a", wait_ms=9_000, priority="urgent", tied=True)
    world.take("hal", "T5", "whole", worktree="w")
    world.take("hal", "T6", whole_worktree=True, worktree="w")
    before = encode_state(world.state)
    assert encode_state(world.replayed()) == encode_state(decode_state(before)) == before
    copy = decode_state(before)
    assert isinstance(world.release("ada", "T1")[0], LeaseReleased)
    assert encode_state(copy) == before, "the copy is its own"
