"""Resources: what agents lend to each other. An offer is a pool with an owner, so whoever takes units of it does so by
a claim, with all that leases give: epochs, deadlines, waiting in line.

Rule 1: while an offer stands, its name is its owner's; no other agent offers under it, nor under that of an operator's
pool. Rule 2: an offer that was withdrawn or whose time has passed gives nothing more; who waited for it waits no more,
and leases that hold units of it go on to their end, with their renewals. Rule 3: then the pool is gone.

The time of an offer is a date: nobody takes what has ended because a tick was late, and the next tick says so.
"""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

from synapse.core.bounds import require_chars
from synapse.core.by import By, Rules
from synapse.core.claims import grants, grants_after, unqueued
from synapse.core.events import Event, Recorded
from synapse.core.leases import Leases, Offer, Place, Pool, View, in_line
from synapse.core.resource_events import ResourceEvent, ResourceExpired, ResourceOffered, ResourceWithdrawn
from synapse.errors import Rejected
from synapse.protocol.names import clipped, require_segment, shown
from synapse.protocol.resource_commands import OfferResource, WithdrawResource

if TYPE_CHECKING:
    from synapse.core.state import State


OFFER_ENDED: Final = "offer_ended"
"""Why a wait ended: what it waited for is not lent any more."""
TOO_FEW_UNITS: Final = "too_few_units"
"""Why a wait ended: its pool has fewer units by now than it waits for."""
_VOID_MIN: Final = 1_024
"""The heap may hold so many void entries before it is made anew."""


def require_resource(state: "State", name: str) -> tuple[Pool, Offer]:
    """The pool that an agent offers under this name, or offered. Raises `Rejected`: `bad_name`, `not_found`."""
    pool = state.leases.pools.get(require_segment(name, "resource"))
    if pool is None or pool.offer is None:
        known = [pool.name for pool in _offered(state)][:20]
        raise Rejected(
            "not_found",
            f"no resource {shown(name)}; there are: {', '.join(known) or 'none'} (synapse resource offer NAME --kind "
            "KIND makes one)",
            {"resource": clipped(name), "resources": known},
        )
    return pool, pool.offer


def _offered(state: "State") -> list[Pool]:
    return sorted((pool for pool in state.leases.pools.values() if pool.offer is not None), key=lambda pool: pool.name)


ResourceMutation: TypeAlias = OfferResource | WithdrawResource


def decide_resource(state: "State", rules: Rules, command: ResourceMutation, by: By) -> list[Event]:
    """The resources' part of `kernel.decide`."""
    match command:
        case OfferResource():
            return decide_offer(state, rules, command, by)
        case WithdrawResource():
            return decide_withdraw(state, command, by)
        case _:
            assert_never(command)


def decide_offer(state: "State", rules: Rules, command: OfferResource, by: By) -> list[Event]:
    """A pool of an agent's, or another size, time or description of it; more units may end some waits."""
    agent = by.require_agent()
    name = require_segment(command.resource, "resource")
    require_segment(command.kind, "kind")
    _require_bounds(rules, command)
    pool = state.leases.pools.get(name)
    if pool is None:
        _require_space(state, rules, agent)
    else:
        _require_mine(pool, agent, by.at_ms)
    offered = ResourceOffered(
        name=name,
        kind=command.kind,
        capacity=command.capacity,
        owner=by.actor,
        owner_id=agent,
        description=command.description,
        data=command.data,
        expires_at_ms=None if command.ttl_ms is None else by.at_ms + command.ttl_ms,
    )
    if pool is None or not pool.waiting:
        return [offered]
    return resized(state, pool, command.capacity, offered)


def _require_bounds(rules: Rules, command: OfferResource) -> None:
    limits, ttl_ms, size = rules.limits, command.ttl_ms, len(bytes(command.data))
    if not 1 <= command.capacity <= limits.pool_units_max:
        raise Rejected(
            "bad_request",
            f"a capacity of {command.capacity}; 1 to {limits.pool_units_max} - at `$.body.capacity`",
            {"path": "$.body.capacity", "max": limits.pool_units_max},
        )
    if ttl_ms is not None and not 1 <= ttl_ms <= limits.resource_ttl_ms_max:
        raise Rejected(
            "bad_request",
            f"a TTL of {ttl_ms} ms; 1 to {limits.resource_ttl_ms_max}, or null for no end - at `$.body.ttl_ms`",
            {"path": "$.body.ttl_ms", "min": 1, "max": limits.resource_ttl_ms_max},
        )
    if command.description is not None:
        require_chars("description", command.description, limits.note_chars_max)
    if size > limits.resource_data_bytes_max:
        raise Rejected(
            "too_large",
            f"the data of a resource has {size} bytes; at most {limits.resource_data_bytes_max}: keep it elsewhere and "
            "say where",
            {"bytes": size, "resource_data_bytes_max": limits.resource_data_bytes_max},
        )


def _require_space(state: "State", rules: Rules, agent: int) -> None:
    limits, offered = rules.limits, _offered(state)
    mine = sum(pool.offer is not None and pool.offer.owner_id == agent for pool in offered)
    for have, most, name in (
        (mine, limits.resources_per_agent_max, "resources_per_agent_max"),
        (len(offered), limits.resources_max, "resources_max"),
    ):
        if have >= most:
            why = f"{have} resources of {most} are offered ({name}): withdraw some"
            raise Rejected("limit", why, {"limit": name, "value": most})


def _require_mine(pool: Pool, agent: int, at_ms: int) -> None:
    offer = pool.offer
    if offer is None:
        raise Rejected(
            "already_exists",
            f"{pool.name} is a pool of the hub's operator: offer under another name",
            {"resource": pool.name, "owner": "operator"},
        )
    if offer.owner_id == agent:
        return
    left = f"{offer.owner} offers {pool.name} already"
    if offer.is_over(at_ms):
        left = f"{pool.name} was offered by {offer.owner}, and {len(pool.held)} leases still hold units of it"
    raise Rejected(
        "already_exists",
        f"{left}: offer under another name",
        {"resource": pool.name, "owner": offer.owner, "held": len(pool.held)},
    )


def decide_withdraw(state: "State", command: WithdrawResource, by: By) -> list[Event]:
    """The offer ends; nothing when it has already. Raises `Rejected`: `not_found`, `not_permitted`."""
    pool, offer = require_resource(state, command.resource)
    if not by.operator and offer.owner_id != by.require_agent():
        raise Rejected(
            "not_permitted",
            f"{pool.name} is offered by {offer.owner}, who can withdraw it, and so can an operator",
            {"resource": pool.name, "owner": offer.owner},
        )
    return [] if offer.ended is not None else _ended(state, pool, withdrawal(pool, offer, "withdrawn"))


def withdrawal(pool: Pool, offer: Offer, reason: str) -> ResourceWithdrawn:
    """The event that ends an offer before its time."""
    return ResourceWithdrawn(name=pool.name, owner=offer.owner, reason=reason, held=sum(pool.held.values()))


def decide_expired(state: "State", name: str) -> list[Event]:
    """The time of an offer, which `due` names, has passed."""
    pool, offer = require_resource(state, name)
    return _ended(state, pool, ResourceExpired(name=name, owner=offer.owner))


def _ended(state: "State", pool: Pool, event: Event) -> list[Event]:
    waits = waiting_for(state, [pool])
    ended: list[Event] = [event, *(unqueued(place, OFFER_ENDED) for place in waits)]
    view = View(gone_places={place.seq for place in waits})
    return [*ended, *grants_after(state, view, [place.ask for place in waits], len(ended))]


def resized(state: "State", pool: Pool, capacity: int, changed: Event) -> list[Event]:
    """A pool gets another capacity by `changed`: who waits for more units than that waits for ever, and does so no
    more; others may be granted at once."""
    places = in_line(state.leases.places[seq] for seq in pool.waiting)
    left = [place for place in places if dict(place.ask.pools)[pool.name] > capacity]
    ended: list[Event] = [changed, *(unqueued(place, TOO_FEW_UNITS) for place in left)]
    view = View(gone_places={place.seq for place in left}, capacity={pool.name: capacity})
    if left:  # of these pools, and of what else they asked for
        return [*ended, *grants_after(state, view, [place.ask for place in left], len(ended))]
    return [*ended, *grants(state, view, places, len(ended))]


def waiting_for(state: "State", pools: Sequence[Pool]) -> list[Place]:
    """Who waits for units of one of these pools."""
    return [state.leases.places[seq] for seq in sorted({seq for pool in pools for seq in pool.waiting})]


def offers_of(state: "State", agent: int) -> list[tuple[Pool, Offer]]:
    """The standing offers of an agent."""
    return [
        (pool, pool.offer)
        for pool in _offered(state)
        if pool.offer is not None and pool.offer.owner_id == agent and pool.offer.ended is None
    ]


def due(leases: Leases, at_ms: int) -> str | None:
    """The resource whose offer has ended by its date, the earliest first; told again until that is carried out."""
    heap = leases.offer_ends
    while heap and heap[0][0] <= at_ms:
        _, seq, name = heap[0]
        if _stands(leases, seq, name):
            return name
        heappop(heap)
    return None


def _stands(leases: Leases, seq: int, name: str) -> bool:
    pool = leases.pools.get(name)
    return pool is not None and pool.offer is not None and pool.offer.seq == seq and pool.offer.ended is None


def expect_end(leases: Leases, name: str, offer: Offer) -> None:
    """Note when an offer ends; what is offered again and again does not pile up."""
    if offer.expires_at_ms is None or offer.ended is not None:
        return
    heap = leases.offer_ends
    if len(heap) > _VOID_MIN + 2 * len(leases.pools):
        heap[:] = [entry for entry in heap if _stands(leases, *entry[1:])]
        heapify(heap)
    heappush(heap, (offer.expires_at_ms, offer.seq, name))


def apply_resource(state: "State", recorded: Recorded, event: ResourceEvent) -> None:
    """The resources' part of `kernel.apply`."""
    leases = state.leases
    match event:
        case ResourceOffered():
            pool = leases.pools.get(event.name)
            if pool is None:
                pool = leases.pools[event.name] = Pool(event.name, event.capacity)
            pool.capacity = event.capacity
            pool.offer = Offer(
                kind=event.kind,
                owner=event.owner,
                owner_id=event.owner_id,
                description=event.description,
                data=event.data,
                seq=recorded.seq,
                at_ms=recorded.at_ms,
                expires_at_ms=event.expires_at_ms,
            )
            expect_end(leases, event.name, pool.offer)
        case ResourceWithdrawn() | ResourceExpired():
            pool = leases.pools[event.name]
            assert pool.offer is not None, "an operator's pool is not offered"
            pool.offer.ended = event.reason if isinstance(event, ResourceWithdrawn) else "expired"
            leases.drop_if_over(pool)
        case _:
            assert_never(event)
