"""Resources: a pool that an agent lends is taken under leases, as long as the offer stands."""

from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.core.conftest import World

from synapse.core import resources
from synapse.core.events import LeaseGranted, LeaseQueued, LeaseUnqueued, PoolSet
from synapse.core.holding import decide_expiry
from synapse.core.leases import Pool
from synapse.core.resource_events import ResourceExpired, ResourceOffered, ResourceWithdrawn
from synapse.core.state import decode_state, digest, encode_state
from synapse.errors import Rejected
from synapse.protocol import replies
from synapse.protocol.commands import (
    ClaimLease,
    DeletePool,
    ForgetAgent,
    HandOffLease,
    ListPools,
    ReleaseLease,
    SetPool,
)
from synapse.protocol.limits import Limits
from synapse.protocol.resource_commands import ListResources, OfferResource, WithdrawResource
from synapse.protocol.resource_replies import ResourceGone, ResourceInfo, ResourcesPage

LIMITS = Limits(resources_max=4, resources_per_agent_max=3, resource_data_bytes_max=32, pools_max=2)
NAMES = ("ada", "bob", "eve")


@pytest.fixture
def world() -> World:
    world = World(LIMITS)
    world.join(*NAMES)
    return world


def offer(name: str = "gpu", kind: str = "compute", **more: Any) -> OfferResource:
    if "data" in more:
        more["data"] = msgspec.Raw(msgspec.json.encode(more["data"]))
    return OfferResource(resource=name, kind=kind, **more)


def take(task: str, units: int = 1, name: str = "gpu", **more: Any) -> ClaimLease:
    return ClaimLease(task=task, pools={name: units}, **more)


def listed(world: World, **only: Any) -> list[ResourceInfo]:
    return list(world.look(ResourcesPage, ListResources(**only)).resources)


def waits(world: World, name: str, command: ClaimLease) -> int:
    """Somebody stands in line: the place."""
    recorded, _ = world.do(command, name)
    assert isinstance(recorded[0].event, LeaseQueued)
    world.state.soft.leasing.attach(recorded[0].seq, 1)
    return recorded[0].seq


def pass_time(world: World, ms: int) -> None:
    """The clock goes on, and the tick says what has ended."""
    world.at_ms += ms
    while (name := resources.due(world.state.leases, world.at_ms)) is not None:
        world.record(resources.decide_expired(world.state, name), "hub")


def test_what_is_lent_is_taken_under_a_lease_and_given_back(world: World) -> None:
    info = world.reply(ResourceInfo, offer(capacity=2, description="an A100", data={"host": "a"}), "ada")
    assert (info.owner, info.status, msgspec.json.decode(info.data)) == ("ada", "offered", {"host": "a"})
    lease = world.reply(replies.Lease, take("T1", 2), "bob")
    assert lease.pools == {"gpu": 2}
    full = world.refusal(take("T2"), "eve")
    assert (full.code, full.facts["holders_count"]) == ("lease_held", 1)
    [seen] = listed(world)
    assert (seen.held, seen.waiting, seen.presence) == (2, 0, "offline")
    world.do(ReleaseLease(task="T1"), "bob")
    assert world.reply(replies.Lease, take("T2"), "eve").epoch > lease.epoch


def test_more_units_let_those_go_on_that_wait(world: World) -> None:
    world.do(offer(), "ada")
    world.do(take("T1"), "bob")
    place = waits(world, "eve", take("T2", wait_ms=60_000))
    events = world.events(offer(capacity=2), "ada")
    assert [type(event) for event in events] == [ResourceOffered, LeaseGranted]
    assert isinstance(events[1], LeaseGranted)
    assert events[1].place == place


def test_a_withdrawn_offer_gives_nothing_more_and_leases_go_on(world: World) -> None:
    world.do(offer(capacity=3), "ada")
    world.do(take("T1", 2), "bob")
    waits(world, "eve", take("T2", 3, wait_ms=60_000))
    events = world.events(WithdrawResource(resource="gpu"), "ada")
    assert [type(event) for event in events] == [ResourceWithdrawn, LeaseUnqueued]
    assert [(item.status, item.held) for item in listed(world)] == [("withdrawn", 2)]
    refused = world.refusal(take("T3"), "eve")
    assert (refused.code, refused.facts["ended"]) == ("not_found", "withdrawn")
    assert world.reply(replies.Lease, take("T1", 2), "bob").outcome == "renewed"
    narrower = world.reply(replies.Lease, take("T1", 1), "bob")
    assert (narrower.outcome, narrower.pools) == ("granted", {"gpu": 1})
    assert world.refusal(take("T1", 2), "bob").code == "not_found", "no unit comes back"
    world.do(ReleaseLease(task="T1"), "bob")
    assert listed(world) == []
    assert "gpu" not in world.state.leases.pools, "the pool goes with its last lease"


def test_a_holder_of_what_is_lent_no_more_does_not_stand_in_line_with_it(world: World) -> None:
    world.do(offer(), "ada")
    world.do(take("T1", worktree="w", paths=("a",)), "bob")
    world.do(ClaimLease(task="T2", worktree="w", paths=("b",)), "eve")
    world.do(WithdrawResource(resource="gpu"), "ada")
    wider = take("T1", worktree="w", paths=("a", "b"), wait_ms=60_000)
    assert world.refusal(wider, "bob").code == "not_found"
    assert world.reply(replies.Lease, take("T1", worktree="w", paths=("c",)), "bob").outcome == "granted"


def test_a_lease_of_what_is_lent_no_more_is_handed_on(world: World) -> None:
    world.do(offer(), "ada")
    world.do(take("T1"), "bob")
    world.do(WithdrawResource(resource="gpu"), "ada")
    world.state.soft.presence.connect(world.agent("eve"), 7, world.at_ms, world.lease_ms, lasting=True)
    handed = world.reply(replies.Lease, HandOffLease(task="T1", to="eve"), "bob")
    assert (handed.owner, handed.pools) == ("eve", {"gpu": 1})
    world.do(ReleaseLease(task="T1"), "eve")
    assert "gpu" not in world.state.leases.pools


def test_an_offer_ends_at_its_time_also_before_the_tick(world: World) -> None:
    world.do(offer(ttl_ms=500), "ada")
    world.at_ms += 499
    world.do(take("T1"), "bob")
    world.do(ReleaseLease(task="T1"), "bob")
    world.at_ms += 1
    assert world.refusal(take("T1"), "bob").facts["ended"] == "expired"
    assert [item.status for item in listed(world)] == ["expired"]
    pass_time(world, 0)
    assert listed(world) == []


def test_who_offers_again_in_time_renews_and_the_old_end_is_void(world: World) -> None:
    world.do(offer(ttl_ms=500), "ada")
    world.do(offer(ttl_ms=5_000), "ada")
    pass_time(world, 4_999)
    assert [item.status for item in listed(world)] == ["offered"]
    world.do(offer(), "ada")
    pass_time(world, 10_000)
    assert [item.expires_at_ms for item in listed(world)] == [None]
    assert all(not isinstance(event, ResourceExpired) for event in (row.event for row in world.read(0, 1 << 60)))


def test_an_expired_offer_ends_the_waits_for_it(world: World) -> None:
    world.do(offer(ttl_ms=500), "ada")
    world.do(take("T1"), "bob")
    waits(world, "eve", take("T2", wait_ms=60_000))
    pass_time(world, 500)
    assert world.state.leases.places == {}
    assert [lease.ask.task for lease in world.state.leases.live.values()] == ["T1"]
    assert world.reply(ResourceInfo, offer(capacity=2), "ada").status == "offered"
    assert world.reply(replies.Lease, take("T2"), "eve").outcome == "granted", "one of two is still held"
    assert world.refusal(take("T3"), "eve").code == "lease_held"


def test_a_name_is_one_agents_while_anything_of_it_is_held(world: World) -> None:
    world.do(offer(), "ada")
    assert world.refusal(offer(), "bob").facts["owner"] == "ada"
    assert world.refusal(WithdrawResource(resource="gpu"), "bob").code == "not_permitted"
    world.do(take("T1"), "bob")
    world.do(WithdrawResource(resource="gpu"), "operator")
    assert world.events(WithdrawResource(resource="gpu"), "ada") == [], "it has ended already"
    assert "still hold" in world.refusal(offer(), "bob").detail
    world.do(ReleaseLease(task="T1"), "bob")
    assert world.reply(ResourceInfo, offer(), "bob").owner == "bob"


def test_an_operators_pool_is_nobodys_to_lend_and_takes_over_what_is_lent(world: World) -> None:
    world.do(SetPool(pool="db", capacity=1), "operator")
    assert world.refusal(offer("db"), "ada").code == "already_exists"
    assert world.refusal(WithdrawResource(resource="db"), "ada").code == "not_found"
    world.do(offer(), "ada")
    world.do(take("T1"), "bob")
    assert world.events(SetPool(pool="gpu", capacity=1), "operator") == [PoolSet(name="gpu", capacity=1)]
    assert listed(world) == []
    pools = world.look(replies.Pools, ListPools()).pools
    assert [(pool.pool, pool.held, pool.owner) for pool in pools] == [
        ("db", 0, msgspec.UNSET),
        ("gpu", 1, msgspec.UNSET),
    ]
    world.do(ReleaseLease(task="T1"), "bob")
    world.do(DeletePool(pool="gpu"), "operator")


def test_offers_leave_the_operators_pools_their_room(world: World) -> None:
    for name in ("a", "b", "c"):
        world.do(offer(name), "ada")
    assert world.refusal(offer("d"), "ada").facts == {"limit": "resources_per_agent_max", "value": 3}
    world.do(offer("d"), "bob")
    assert world.refusal(offer("e"), "bob").facts == {"limit": "resources_max", "value": 4}
    world.do(SetPool(pool="p", capacity=1), "operator")
    world.do(SetPool(pool="q", capacity=1), "operator")
    assert world.refusal(SetPool(pool="r", capacity=1), "operator").facts["limit"] == "pools_max"


def test_what_a_forgotten_agent_lent_is_lent_no_more(world: World) -> None:
    world.do(offer(capacity=2), "ada")
    world.do(take("T1", 2), "bob")
    waits(world, "eve", take("T2", 1, wait_ms=60_000))
    world.do(ForgetAgent(name="ada"), "operator")
    assert world.state.leases.places == {}
    assert [(item.status, item.owner, item.presence) for item in listed(world)] == [("forgotten", "ada", msgspec.UNSET)]
    world.join("ada", secret="another" * 8)
    assert "still hold" in world.refusal(offer(), "ada").detail, "a namesake is another"
    world.do(ReleaseLease(task="T1"), "bob")
    assert world.reply(ResourceInfo, offer(), "ada").status == "offered"


def test_a_repeat_gets_the_first_answer_also_when_the_offer_has_changed(world: World) -> None:
    first = world.reply(ResourceInfo, offer(capacity=2, ttl_ms=500), "ada", key="k1")
    world.do(take("T1"), "bob")
    gone = world.reply(ResourceGone, WithdrawResource(resource="gpu"), "ada", key="k2")
    world.do(ReleaseLease(task="T1"), "bob")
    again = world.do(offer(capacity=2, ttl_ms=500), "ada", key="k1")
    assert again[0] == []
    assert isinstance(again[1], ResourceInfo)
    assert msgspec.structs.replace(again[1], cursor="") == msgspec.structs.replace(first, cursor="")
    assert gone.held == 1
    assert world.reply(ResourceGone, WithdrawResource(resource="gpu"), "ada", key="k2").held == 1


def test_lists_are_of_a_kind_and_an_owner(world: World) -> None:
    world.do(offer("a"), "ada")
    world.do(offer("b", "model"), "ada")
    world.do(offer("c"), "bob")
    assert [item.resource for item in listed(world, kind="compute")] == ["a", "c"]
    assert [item.resource for item in listed(world, owner="ada", kind="model")] == ["b"]
    page = world.look(ResourcesPage, ListResources(limit=2))
    assert (page.next, [item.resource for item in page.resources]) == ("b", ["a", "b"])


def test_offers_that_are_renewed_all_day_do_not_pile_up(world: World) -> None:
    for _ in range(5_000):
        world.do(offer(ttl_ms=60_000), "ada")
    assert len(world.state.leases.offer_ends) < 1_100


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (offer("GPU"), "bad_name", "resource name"),
        (offer("a:b"), "bad_name", "resource name"),
        (offer(kind=""), "bad_name", "kind name"),
        (offer(kind="k" * 65), "bad_name", "kind name"),
        (offer(capacity=0), "bad_request", "capacity of 0"),
        (offer(capacity=1_000_001), "bad_request", "capacity"),
        (offer(ttl_ms=0), "bad_request", "TTL of 0"),
        (offer(ttl_ms=366 * 24 * 3600 * 1000), "bad_request", "TTL"),
        (offer(description=""), "bad_request", "description"),
        (offer(description="d" * 513), "bad_request", "description"),
        (offer(data="x" * 31), "too_large", "33 bytes"),
        (WithdrawResource(resource="gpu"), "not_found", "no resource"),
        (WithdrawResource(resource="a b"), "bad_name", "resource name"),
        (take("T1"), "not_found", "no pool"),
    ],
)
@pytest.mark.bad_input("BI-46")
def test_what_is_out_of_bounds_is_refused_and_changes_nothing(
    world: World, command: Any, code: str, words: str
) -> None:
    refused = world.refusal(command, "ada")
    assert refused.code == code
    assert words in refused.detail


@pytest.mark.bad_input("BI-46")
@pytest.mark.parametrize("query", [ListResources(kind="A"), ListResources(owner="A B"), ListResources(limit=0)])
def test_a_list_of_what_cannot_be_is_refused(world: World, query: ListResources) -> None:
    with pytest.raises(Rejected):
        world.look(ResourcesPage, query)


def test_an_operator_connection_lends_nothing(world: World) -> None:
    assert world.refusal(offer(), "operator").code == "anonymous"


class Machine(RuleBasedStateMachine):
    """Agents that lend and take two things, against a model that only counts."""

    RESOURCES = ("cpu", "gpu")
    TASKS = ("T1", "T2", "T3", "T4")

    @initialize()
    def begin(self) -> None:
        self.world = World(LIMITS)
        self.world.join(*NAMES)
        self.offers: dict[str, tuple[str, int, int | None]] = {}  # owner, capacity, end; standing ones
        self.old: dict[str, str] = {}  # owners of ended ones that are still held
        self.held: dict[str, tuple[str, str, int]] = {}  # by task: agent, resource, units

    def units(self, name: str) -> int:
        return sum(units for _, resource, units in self.held.values() if resource == name)

    def is_open(self, name: str) -> bool:
        return name in self.offers and (self.offers[name][2] or 1 << 62) > self.world.at_ms

    def attempt(self, name: str, command: Any, *, works: bool) -> bool:
        try:
            self.world.do(command, name)
        except Rejected as refused:
            assert not works, f"{name} {command} was refused: {refused}"
            return False
        assert works, f"{name} {command} was not refused"
        return True

    def end(self, name: str) -> None:
        owner = self.offers.pop(name)[0]
        if self.units(name):
            self.old[name] = owner

    def settle(self) -> None:
        for name in list(self.old):
            if not self.units(name):
                del self.old[name]

    @rule(
        who=st.sampled_from(NAMES),
        name=st.sampled_from(RESOURCES),
        capacity=st.integers(1, 3),
        ttl_ms=st.none() | st.integers(1, 300),
    )
    def offer(self, who: str, name: str, capacity: int, ttl_ms: int | None) -> None:
        owner = self.offers[name][0] if name in self.offers else self.old.get(name)
        if self.attempt(who, offer(name, capacity=capacity, ttl_ms=ttl_ms), works=owner in (None, who)):
            self.old.pop(name, None)
            self.offers[name] = (who, capacity, None if ttl_ms is None else self.world.at_ms + ttl_ms)

    @rule(who=st.sampled_from([*NAMES, "operator"]), name=st.sampled_from(RESOURCES))
    def withdraw(self, who: str, name: str) -> None:
        owner = self.offers[name][0] if name in self.offers else self.old.get(name)
        works = owner is not None and who in (owner, "operator")
        if self.attempt(who, WithdrawResource(resource=name), works=works) and name in self.offers:
            self.end(name)

    @rule(
        who=st.sampled_from(NAMES),
        task=st.sampled_from(TASKS),
        name=st.sampled_from(RESOURCES),
        units=st.integers(1, 3),
    )
    def take(self, who: str, task: str, name: str, units: int) -> None:
        if task in self.held:
            return
        capacity = self.offers[name][1] if name in self.offers else 0
        works = self.is_open(name) and units <= capacity and self.units(name) + units <= capacity
        if self.attempt(who, take(task, units, name), works=works):
            self.held[task] = (who, name, units)

    @rule(task=st.sampled_from(TASKS))
    def renew(self, task: str) -> None:
        if task in self.held:
            who, _, _ = self.held[task]
            self.attempt(who, ClaimLease(task=task, note="again"), works=True)

    @rule(task=st.sampled_from(TASKS), expires=st.booleans())
    def give_back(self, task: str, *, expires: bool) -> None:
        if task not in self.held:
            return
        who, _, _ = self.held.pop(task)
        if expires:
            [lease] = [lease for lease in self.world.state.leases.live.values() if lease.ask.task == task]
            self.world.record(decide_expiry(self.world.state, lease, "ttl"), "hub")
        else:
            self.attempt(who, ReleaseLease(task=task), works=True)
        self.settle()

    @rule(ms=st.integers(1, 200), ticks=st.booleans())
    def time_passes(self, ms: int, *, ticks: bool) -> None:
        if not ticks:
            self.world.at_ms += ms
            return
        pass_time(self.world, ms)
        for name in [name for name in self.offers if not self.is_open(name)]:
            self.end(name)

    @rule()
    def restart(self) -> None:
        live = digest(self.world.state)
        self.world.restart()
        assert digest(self.world.state) == live, "replay equals live"
        again = decode_state(encode_state(self.world.state))
        assert digest(again) == live, "a snapshot loses nothing"
        self.world.state = again

    @invariant()
    def lists_say_what_the_model_says(self) -> None:
        if not hasattr(self, "world"):
            return
        found = {item.resource: (item.owner, item.held, item.status) for item in listed(self.world)}
        expected: dict[str, tuple[str, int, str]] = {}
        for name, (owner, _, _) in self.offers.items():
            expected[name] = (owner, self.units(name), "offered" if self.is_open(name) else "expired")
        for name, owner in self.old.items():
            expected[name] = (owner, self.units(name), found[name][2])
            assert found[name][2] in ("withdrawn", "expired")
        assert found == expected
        pools: dict[str, Pool] = self.world.state.leases.pools
        assert pools.keys() == expected.keys(), "no pool stays without an offer or a lease"


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
