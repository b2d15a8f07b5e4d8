"""What an agent should look at first, as far as the state knows it: what blocks it, what is its own, and counts.

Nothing of an agent's own is left out because it is in another room; the plan and the counts are of one room. A task
that is told as blocked is not told again as the agent's own; a lease always is, because it ends.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from synapse.core.by import By
from synapse.core.events import Ask
from synapse.core.inboxes import ALL, Entry
from synapse.core.lease_answers import is_stalled
from synapse.core.leases import NO_LEASES, NOTHING_YET, RANK, Lease, Place
from synapse.core.lifecycle import ENDS
from synapse.core.plan import RoomPlan, Task
from synapse.core.refusals import masked
from synapse.core.rooms import Room, acquaintances, floor_of_channel, knows_agent, may_see, may_see_channel
from synapse.protocol.digest_replies import DigestAsk, DigestBlock, DigestCounts, DigestNeed, DigestOwn
from synapse.protocol.terms import HUMAN

if TYPE_CHECKING:
    from synapse.core.state import State

NEEDS_SHOWN: Final = 8
"""How many of the things in the way of one claim or task are named."""
NAMES_SHOWN: Final = 32
"""How many names one line of counts has; the largest ones."""
LIST_BYTES_MAX: Final = 40 * 1024
"""A list of a digest stops growing here: all of them together stay below the largest frame."""
_SOON: Final = 1 << 60

_NO_PLAN: Final = RoomPlan()
_Item = TypeVar("_Item", DigestAsk, DigestBlock, DigestOwn)


@dataclass(slots=True, frozen=True)
class Picture:
    """What the state tells of one agent. unread: its unacked messages that ask something of it, oldest first."""

    unread: tuple[Entry, ...]
    offers: tuple[DigestAsk, ...]
    blocked: tuple[DigestBlock, ...]
    mine: tuple[DigestOwn, ...]
    counts: tuple[DigestCounts, ...]


def picture(state: "State", room: Room, by: By, since: int | None) -> Picture:
    """What stands about the agent that asks. since: a seq. Raises `Rejected(anonymous)`."""
    agent = by.require_agent()
    plan = state.plan.by_room.get(room.id, _NO_PLAN)
    offered = [lease for lease in state.leases.live.values() if lease.offered_to == agent]
    told = {lease.offer for lease in offered}
    entries = state.agents.inboxes[agent].entries.values()
    held = {(lease.ask.room, lease.ask.task) for lease in state.leases.of_agent.get(agent, NO_LEASES).values()}
    suggested = [task for task in plan.tasks.values() if task.suggested_owner == by.actor and task.status not in ENDS]
    stuck = [
        (room.id, task) for task in suggested if (room.id, task.id) not in held and (task.unmet or _is_blocked(task))
    ]
    stuck += [(key[0], task) for key in held if (task := state.plan.find(key)) and (task.unmet or _is_blocked(task))]
    free = [task for task in suggested if (room.id, task.id) not in held and not (task.unmet or _is_blocked(task))]
    return Picture(
        unread=tuple(entry for entry in entries if not entry.dead and entry.reason != ALL and entry.seq not in told),
        offers=tuple(_offer(lease, since) for lease in offered),
        blocked=(*_waiting(state, agent, by), *_stuck(state, stuck, by)),
        mine=(*_held(state, agent, by), *_suggested(room, free)),
        counts=_counts(state, room, plan, entries, by),
    )


def first(items: Iterable[_Item], limit: int) -> tuple[_Item, ...]:
    """The first items, at most `limit` and no more than fit."""
    found: list[_Item] = []
    size = 0
    for item in islice(items, limit):
        size += len(msgspec.json.encode(item))
        if found and size > LIST_BYTES_MAX:
            break
        found.append(item)
    return tuple(found)


def counted(of: str, counts: dict[str, int], *, since: bool = False, at_least: bool = False) -> DigestCounts:
    """One line of counts: the largest names, and the sum of all."""
    largest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:NAMES_SHOWN]
    return DigestCounts(of=of, counts=dict(largest), total=sum(counts.values()), since=since, at_least=at_least)


def _is_blocked(task: Task) -> bool:
    return task.status == "blocked"


def _offer(lease: Lease, since: int | None) -> DigestAsk:
    ask = lease.ask
    assert lease.offer is not None, "a lease is offered with a message"
    return DigestAsk(
        kind="offer",
        by=ask.owner,
        at_ms=lease.granted_at_ms,
        priority="high",
        id=f"m{lease.offer}",
        text=lease.note or "",
        new=since is not None and lease.offer > since,
        room=ask.room_name,
        task=ask.task,
        epoch=lease.epoch,
    )


# What blocks me.


def _waiting(state: "State", agent: int, by: By) -> Iterator[DigestBlock]:
    places = state.leases.places_of_agent.get(agent, {})
    for place in sorted(places.values(), key=lambda place: place.seq):
        needs = list(islice(_in_the_way(state, place, by), NEEDS_SHOWN + 1))
        yield DigestBlock(
            kind="claim",
            task=place.ask.task,
            room=place.ask.room_name,
            since_at_ms=place.queued_at_ms,
            needs=tuple(needs[:NEEDS_SHOWN]),
            more=len(needs) > NEEDS_SHOWN,
            priority=place.priority,
        )


def _in_the_way(state: "State", place: Place, by: By) -> Iterator[DigestNeed]:
    ask = place.ask
    for found in state.leases.leases_against(ask, NOTHING_YET):
        if isinstance(found, Lease):
            yield _need(state, masked(state, found.ask, by), "held", found, by)
    for other in state.leases.places_against(ask, place.rank, place.seq, NOTHING_YET):
        known = masked(state, other.ask, by)
        yield DigestNeed(task=known.task, room=known.room_name, status="ahead", owner=known.owner)


def _need(state: "State", known: Ask, status: str, lease: Lease, by: By) -> DigestNeed:
    return DigestNeed(
        task=known.task,
        room=known.room_name,
        status=status,
        owner=known.owner,
        epoch=lease.epoch,
        remaining_ms=state.soft.leasing.remaining_ms(lease, by.lease_ms),
    )


def _stuck(state: "State", tasks: Sequence[tuple[int, Task]], by: By) -> Iterator[DigestBlock]:
    for room_id, task in sorted(tasks, key=lambda item: (-RANK[item[1].priority], item[1].id, item[0])):
        room, plan = state.rooms.by_id[room_id], state.plan.by_room[room_id]
        needs: list[DigestNeed] = []
        for other, status in islice(plan.missing(task), NEEDS_SHOWN):
            leases = list(state.leases.of_task.get((room_id, other), NO_LEASES).values())
            free = DigestNeed(task=other, room=room.name, status=status)
            needs.append(_need(state, leases[0].ask, status, leases[0], by) if leases else free)
        yield DigestBlock(
            kind="task",
            task=task.id,
            room=room.name,
            since_at_ms=task.moved_at_ms,
            needs=tuple(needs),
            more=task.unmet > len(needs),
            priority=task.priority,
            title=task.title,
            status=task.status,
        )


# What is mine.


def _held(state: "State", agent: int, by: By) -> Iterator[DigestOwn]:
    soft = state.soft.leasing
    leases = state.leases.of_agent.get(agent, NO_LEASES).values()
    left = {lease.epoch: soft.remaining_ms(lease, by.lease_ms) for lease in leases}
    for lease in sorted(leases, key=lambda lease: (_soonest(left[lease.epoch]), lease.epoch)):
        task = state.plan.find((lease.ask.room, lease.ask.task))
        yield DigestOwn(
            kind="lease",
            task=lease.ask.task,
            room=lease.ask.room_name,
            priority="normal" if task is None else task.priority,
            title=None if task is None else task.title,
            status=None if task is None else task.status,
            epoch=lease.epoch,
            remaining_ms=left[lease.epoch],
            parked=lease.is_parked,
            idle_ms=soft.idle_ms(lease, by.lease_ms),
            stalled=is_stalled(state, lease, by),
        )


def _soonest(left_ms: int | None) -> int:
    return _SOON if left_ms is None else left_ms


def _suggested(room: Room, tasks: Iterable[Task]) -> Iterator[DigestOwn]:
    for task in sorted(tasks, key=lambda task: (not task.is_ready, -RANK[task.priority], task.moved_at_ms, task.id)):
        yield DigestOwn(
            kind="task",
            task=task.id,
            room=room.name,
            priority=task.priority,
            title=task.title,
            status=task.status,
            ready=task.is_ready,
        )


# The rest.


def _counts(state: "State", room: Room, plan: RoomPlan, entries: Iterable[Entry], by: By) -> tuple[DigestCounts, ...]:
    statuses: dict[str, int] = {}
    for task in plan.tasks.values():
        name = "ready" if task.is_ready else task.status
        statuses[name] = statuses.get(name, 0) + 1
    owners: dict[str, int] = {}
    for lease in state.leases.live.values():
        if lease.ask.room == room.id:
            owners[lease.ask.owner] = owners.get(lease.ask.owner, 0) + 1
    unacked: dict[str, int] = {}
    for entry in entries:
        if entry.dead or entry.reason == ALL:
            name = "dead" if entry.dead else "to all"
            unacked[name] = unacked.get(name, 0) + 1
    lent = [inbox for inbox, _ in state.soft.lending.lends]
    roles: dict[str, int] = {}
    for role in sorted(state.roles.of_agent.get(by.require_agent(), ())):
        queue = state.agents.inboxes[role]
        roles[state.roles.by_id[role].name] = len(queue.entries) - len(queue.dead) - lent.count(role)
    questions = {"mine": len(state.questions.of_agent.get(by.require_agent(), ()))}
    if by.has_role(HUMAN):
        rooms = (other for other in state.questions.of_room if may_see(state.rooms.by_id[other], by))
        questions = {"to answer": sum(len(state.questions.of_room[other]) for other in rooms), **questions}
    agents = _agents(state, by)
    groups = (
        ("questions", questions),
        ("roles", roles),
        ("unacked", unacked),
        ("tasks", statuses),
        ("held", owners),
        ("agents", agents),
    )
    return tuple(
        counted(of, {name: n for name, n in counts.items() if n}) for of, counts in groups if any(counts.values())
    )


def _agents(state: "State", by: By) -> dict[str, int]:
    """How many of the agents that who asks may know of are online, and are not."""
    presence, known = state.soft.presence, acquaintances(state, by)
    if known is None:
        online, count = presence.online(), len(state.agents.by_id)
    else:
        online, count = sum(presence.is_online(agent) for agent in known), len(known)
    return {"online": online, "not online": count - online}


def came_after(state: "State", since: int, by: By) -> list[str]:
    """The agents that are new since a seq, as far as who asks may know of them."""
    new = (agent for agent in state.agents.by_id.values() if agent.id > since and agent.id != by.agent)
    return [agent.name for agent in new if knows_agent(state, agent.id, by)]


def channel_keys(state: "State", room: Room, by: By) -> dict[str, tuple[str, int]]:
    """The index keys of a room's channels that who asks may see: their names, and behind which seq it reads there."""
    channels = [(name, it) for name, it in state.rooms.in_room[room.id].items() if may_see_channel(state, it, by)]
    return {f"ch/{it.id}": (name, floor_of_channel(state, it, by.agent)) for name, it in channels}
