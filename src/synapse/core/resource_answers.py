"""What is answered about resources: the reply of a mutation from its events, and questions to the state."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, assert_never

from msgspec import UNSET

from synapse.core.by import By
from synapse.core.events import Recorded
from synapse.core.resource_events import ResourceOffered, ResourceWithdrawn
from synapse.core.resources import ResourceMutation, require_resource
from synapse.core.rooms import knows_agent
from synapse.protocol.names import require_agent_name, require_segment
from synapse.protocol.replies import Reply
from synapse.protocol.resource_commands import ListResources, OfferResource, WithdrawResource
from synapse.protocol.resource_replies import ResourceGone, ResourceInfo

if TYPE_CHECKING:
    from synapse.core.state import State


def answer_resource(state: "State", command: ResourceMutation, events: Sequence[Recorded], cursor: str) -> Reply:
    """The resources' part of `answers.answer`."""
    match command:
        case OfferResource():
            offered = events[0]
            event = offered.event
            assert isinstance(event, ResourceOffered)
            return ResourceInfo(
                resource=event.name,
                kind=event.kind,
                capacity=event.capacity,
                owner=event.owner,
                status="offered",
                description=event.description,
                data=event.data,
                offered_at_ms=offered.at_ms,
                expires_at_ms=event.expires_at_ms,
                cursor=cursor,
            )
        case WithdrawResource():
            gone = events[0].event if events else None
            if gone is None:
                held = sum(require_resource(state, command.resource)[0].held.values())
            else:
                assert isinstance(gone, ResourceWithdrawn)
                held = gone.held
            return ResourceGone(resource=command.resource, withdrawn=True, held=held, cursor=cursor)
        case _:
            assert_never(command)


def resources_to_list(state: "State", query: ListResources, by: By) -> list[str]:
    """The names that a list goes through. Raises `Rejected(bad_name)`."""
    if query.kind is not None:
        require_segment(query.kind, "kind")
    if query.owner is not None:
        require_agent_name(query.owner)
    return sorted(
        pool.name
        for pool in state.leases.pools.values()
        if pool.offer is not None
        and query.kind in (None, pool.offer.kind)
        and query.owner in (None, pool.offer.owner)
        and knows_agent(state, pool.offer.owner_id, by)
    )


def resource_info(state: "State", name: str, by: By) -> ResourceInfo:
    """A resource as lists tell it."""
    pool, offer = require_resource(state, name)
    is_known = offer.owner_id in state.agents.by_id
    return ResourceInfo(
        resource=name,
        kind=offer.kind,
        capacity=pool.capacity,
        owner=offer.owner,
        status=offer.ended or ("expired" if offer.is_over(by.at_ms) else "offered"),
        description=offer.description,
        data=offer.data,
        offered_at_ms=offer.at_ms,
        expires_at_ms=offer.expires_at_ms,
        held=sum(pool.held.values()),
        waiting=sum(pool.waiting.values()),
        presence=state.soft.presence.of(offer.owner_id, by.lease_ms) if is_known else UNSET,
    )
