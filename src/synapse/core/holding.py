"""What a holder does with its lease, what time does to it, and what operators do to pools."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from synapse.core.agents import require_known
from synapse.core.bounds import require_chars
from synapse.core.by import By, Rules
from synapse.core.claims import (
    grants_after,
    hand_over,
    renewed,
    require_pool,
    require_ttl,
    revocation,
    unqueued,
)
from synapse.core.events import (
    Delivery,
    Event,
    LeaseCheckpointed,
    LeaseExpired,
    LeaseOffered,
    LeaseParked,
    LeaseReleased,
    LeaseResumed,
    PoolDeleted,
    PoolSet,
)
from synapse.core.leases import NO_LEASES, Kept, Lease, Place, View
from synapse.core.presence import OFFLINE
from synapse.core.refusals import in_room, not_holder, stale
from synapse.core.resources import OFFER_ENDED, offers_of, resized, waiting_for, withdrawal
from synapse.core.rooms import require_insider, room_of
from synapse.errors import Rejected
from synapse.protocol.commands import (
    DeletePool,
    HandOffLease,
    ParkLease,
    ReleaseLease,
    RenewLease,
    SaveCheckpoint,
    SetPool,
    WithdrawClaim,
)
from synapse.protocol.cursor import question_id
from synapse.protocol.names import require_segment, require_task

if TYPE_CHECKING:
    from synapse.core.state import State


def lease_of(state: "State", task: str, room: str | None, epoch: int | None, by: By) -> Lease:
    """The live lease of the task that the asking agent holds: that of `epoch`, else the one it got last.

    Raises `Rejected`: `not_found` when nobody holds it, `not_holder`, `stale_epoch`.
    """
    agent = by.agent if by.agent is not None else by.require_agent()
    where = room_of(state, room, by)
    found = state.leases.of_task.get((where.id, task), NO_LEASES)
    if epoch is not None:
        lease = found.get(epoch)
        if lease is not None and lease.ask.agent == agent:
            return lease
        require_task(task)
        raise stale(state, where, task, epoch, list(found.values()), by)
    for lease in reversed(found.values()):
        if lease.ask.agent == agent:
            return lease
    require_task(task)
    if not found:
        raise Rejected(
            "not_found",
            f"nobody holds a lease on {task} in room {where.name}: claim it first (synapse claim {task}"
            f"{in_room(where.name)})",
            {"task": task, "room": where.name},
        )
    raise not_holder(state, where, next(iter(found.values())), by)


def decide_renew(state: "State", rules: Rules, command: RenewLease, by: By) -> list[Event]:
    """A new TTL or note; nothing to record when only the deadline moves."""
    if command.ttl_ms is not None:
        require_ttl(rules, command.ttl_ms)
    if command.note is not None:
        require_chars("note", command.note, rules.limits.note_chars_max)
    lease = lease_of(state, command.task, command.room, command.epoch, by)
    return renewed(lease, command.ttl_ms, command.note)


def decide_release(state: "State", command: ReleaseLease, by: By) -> list[Event]:
    """The lease ends; who waited for it gets it."""
    lease = lease_of(state, command.task, command.room, command.epoch, by)
    ask = lease.ask
    released = LeaseReleased(room=ask.room, room_name=ask.room_name, task=ask.task, owner=ask.owner, epoch=lease.epoch)
    return [released, *grants_after(state, View({lease.epoch}), [ask], 1)] if state.leases.places else [released]


def decide_withdraw(state: "State", command: WithdrawClaim, by: By) -> list[Event]:
    """Every place of this agent for the task ends, or the one that is named."""
    agent, room = by.require_agent(), room_of(state, command.room, by)
    found = state.leases.places_of_task.get((room.id, require_task(command.task)), {})
    mine = [
        place
        for place in found.values()
        if place.ask.agent == agent and (command.place is None or place.seq == command.place)
    ]
    if not mine:
        where = "" if command.place is None else f" at place {command.place}"
        raise Rejected(
            "not_found",
            f"{by.actor} does not wait for {command.task} in room {room.name}{where}",
            {"task": command.task, "room": room.name, "place": command.place},
        )
    return decide_unqueue(state, mine, "withdrawn")


def decide_checkpoint(state: "State", rules: Rules, command: SaveCheckpoint, by: By) -> list[Event]:
    """What the next owner of the task will get."""
    limits, leases = rules.limits, state.leases
    lease = lease_of(state, command.task, command.room, command.epoch, by)
    if len(command.artefacts) > limits.artefacts_max:
        raise Rejected(
            "too_large",
            f"{len(command.artefacts)} artefacts; at most {limits.artefacts_max}",
            {"artefacts": len(command.artefacts), "artefacts_max": limits.artefacts_max},
        )
    size = Kept(command.data, command.artefacts, by.actor, lease.epoch, by.at_ms).size
    if size > limits.checkpoint_bytes_max:
        raise Rejected(
            "too_large",
            f"the checkpoint has {size} bytes; at most {limits.checkpoint_bytes_max}: keep a reference to a file",
            {"bytes": size, "checkpoint_bytes_max": limits.checkpoint_bytes_max},
        )
    old = leases.checkpoints.get((lease.ask.room, lease.ask.task))
    total = leases.checkpoint_bytes + size - (0 if old is None else old.size)
    if total > limits.checkpoints_bytes_max:
        raise Rejected(
            "limit",
            f"all checkpoints together would have {total} bytes; at most {limits.checkpoints_bytes_max}: drop one with "
            "synapse checkpoint TASK null",
            {"limit": "checkpoints_bytes_max", "value": limits.checkpoints_bytes_max},
        )
    return [LeaseCheckpointed(ask=lease.ask, epoch=lease.epoch, data=command.data, artefacts=command.artefacts)]


def decide_park(state: "State", command: ParkLease, by: By) -> list[Event]:
    """The TTL stands still, or runs on."""
    lease = lease_of(state, command.task, command.room, command.epoch, by)
    if not command.parked and lease.questions:
        ids = [question_id(question) for question in lease.questions]
        more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
        question = state.questions.find(lease.questions[0])
        who = "" if question is None or question.agent == by.agent else f"let {question.asker} "
        raise Rejected(
            "not_empty",
            f"{lease.ask.task} stays parked while {ids[0]} is open{more}: "
            f"wait for the answer, or {who}withdraw it (synapse withdraw {ids[0]})",
            {"task": lease.ask.task, "epoch": lease.epoch, "questions": ids},
        )
    if lease.parked == command.parked:
        return []
    kind = LeaseParked if command.parked else LeaseResumed
    return [kind(ask=lease.ask, epoch=lease.epoch)]


def decide_hand_off(state: "State", rules: Rules, command: HandOffLease, by: By) -> list[Event]:
    """The lease goes to another agent in one event, or is offered to one that is offline."""
    lease = lease_of(state, command.task, command.room, command.epoch, by)
    to = require_known(state, command.to, by)
    if to.id == lease.ask.agent:
        raise Rejected("bad_request", f"{to.name} holds {command.task} already - at `$.body.to`", {"path": "$.body.to"})
    if "@" in to.name:  # see `protocol.names`
        raise Rejected(
            "bad_request",
            f"{to.name} is a local user without a name of its own, who cannot hold work: name an agent (synapse who) "
            "- at `$.body.to`",
            {"path": "$.body.to"},
        )
    require_insider(state.rooms.by_id[lease.ask.room], to)
    inbox = state.agents.inboxes[to.id]
    is_full = inbox.unacked >= rules.limits.inbox_unacked_max
    delivery = None if is_full else Delivery(to.name, to.id, inbox.last_n + 1)
    if state.soft.presence.of(to.id, by.lease_ms) == OFFLINE:
        if delivery is None:
            raise Rejected(
                "inbox_full",
                f"{to.name} is offline, and its inbox holds as many unacked messages as it may: no room for an offer",
                {"agent": to.name, "inbox_unacked_max": rules.limits.inbox_unacked_max},
            )
        if lease.offered_to == to.id:
            return []
        return [LeaseOffered(ask=lease.ask, epoch=lease.epoch, to=delivery)]
    return hand_over(state, rules, lease, to, delivery, by)


# What time and operators do.


def decide_expiry(state: "State", lease: Lease, reason: str) -> list[Event]:
    """A deadline passed; who waited gets the lease. reason: ttl, connection, parked."""
    ask = lease.ask
    expired = LeaseExpired(
        room=ask.room, room_name=ask.room_name, task=ask.task, owner=ask.owner, epoch=lease.epoch, reason=reason
    )
    return [expired, *grants_after(state, View(gone_leases={lease.epoch}), [ask], 1)]


def decide_unqueue(state: "State", places: Sequence[Place], reason: str) -> list[Event]:
    """Waits end without a grant; who stood behind them may go on. reason: deadline, gone, withdrawn, forgotten."""
    ended: list[Event] = [unqueued(place, reason) for place in places]
    view = View(gone_places={place.seq for place in places})
    return [*ended, *grants_after(state, view, [place.ask for place in places], len(ended))]


def decide_forget(state: "State", agent: int) -> list[Event]:
    """All that a forgotten agent holds, waits for and offers ends; who waited gets it."""
    leases = list(state.leases.of_agent.get(agent, NO_LEASES).values())
    places = list(state.leases.places_of_agent.get(agent, {}).values())
    ended: list[Event] = [revocation(lease, "forgotten") for lease in leases]
    ended += [unqueued(place, "forgotten") for place in places]
    offers = offers_of(state, agent)
    left = [place for place in waiting_for(state, [pool for pool, _ in offers]) if place.ask.agent != agent]
    ended += [unqueued(place, OFFER_ENDED) for place in left]
    ended += [withdrawal(pool, offer, "forgotten") for pool, offer in offers]
    places += left
    view = View({lease.epoch for lease in leases}, {place.seq for place in places})
    freed = [*(lease.ask for lease in leases), *(place.ask for place in places)]
    return [*ended, *grants_after(state, view, freed, len(ended))]


# Pools.


def decide_set_pool(state: "State", rules: Rules, command: SetPool, by: By) -> list[Event]:
    """A pool of that capacity; more of it may end some waits, and so may less. What an agent lends under the name
    becomes the hub's."""
    by.require_operator("changing a pool")
    name, limits = require_segment(command.pool, "pool"), rules.limits
    if not 1 <= command.capacity <= limits.pool_units_max:
        raise Rejected(
            "bad_request",
            f"a capacity of {command.capacity}; 1 to {limits.pool_units_max} - at `$.body.capacity`",
            {"path": "$.body.capacity", "max": limits.pool_units_max},
        )
    pool = state.leases.pools.get(name)
    if pool is None:
        if sum(pool.offer is None for pool in state.leases.pools.values()) >= limits.pools_max:
            raise Rejected(
                "limit",
                f"there are {limits.pools_max} pools already (pools_max)",
                {"limit": "pools_max", "value": limits.pools_max},
            )
        return [PoolSet(name=name, capacity=command.capacity)]
    if pool.capacity == command.capacity and pool.offer is None:
        return []
    return resized(state, pool, command.capacity, PoolSet(name=name, capacity=command.capacity))


def decide_delete_pool(state: "State", command: DeletePool, by: By) -> list[Event]:
    """A pool that nobody holds or waits for goes."""
    by.require_operator("deleting a pool")
    pool = require_pool(state, command.pool, by)
    if pool.held or pool.waiting:
        raise Rejected(
            "not_empty",
            f"pool {pool.name}: {len(pool.held)} leases hold units of it and {len(pool.waiting)} claims wait for some",
            {"name": pool.name, "held": len(pool.held), "waiting": len(pool.waiting)},
        )
    return [PoolDeleted(name=pool.name)]


def decide_pools(state: "State", rules: Rules, wanted: dict[str, int]) -> list[Event]:
    """Pools that the configuration asks for with another capacity, or that are not there yet."""
    by = By("hub", None, 0, "", 0, 0, operator=True)
    return [
        event
        for name, capacity in wanted.items()
        for event in decide_set_pool(state, rules, SetPool(pool=name, capacity=capacity), by)
    ]
