"""What a refused claim is told: who or what stands in the way, until when, and what to do next."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from synapse.core.by import By
from synapse.core.events import Ask
from synapse.core.leases import Lease, Place
from synapse.core.rooms import Room, may_see
from synapse.errors import Rejected
from synapse.protocol.names import MAIN_ROOM

if TYPE_CHECKING:
    from synapse.core.state import State

HOLDERS_MAX: Final = 8
"""How many holders a refusal names; it says how many there are."""
PATHS_MAX: Final = 16
"""How many paths of a holder a refusal names."""
HOLDERS_BYTES_MAX: Final = 96 * 1024
"""Bytes of JSON that the holders of one frame may take. Their paths are left out first, then the last holders."""
CYCLE_MAX: Final = 32
"""How many names of a circle a refusal names; it says how many there are."""

_encode: Final = msgspec.json.Encoder().encode

PRIVATE: Final = "private"
"""Stands for what belongs to a room that who asks may not see."""


def masked(state: "State", ask: Ask, by: By) -> Ask:
    """What somebody holds or waits for, as far as who asks may know: of another's private room only that it is so."""
    room = state.rooms.by_id.get(ask.room)
    if room is None or ask.agent == by.agent or may_see(room, by):
        return ask
    return msgspec.structs.replace(
        ask, room=0, room_name=PRIVATE, task=PRIVATE, agent=0, owner=PRIVATE, paths=(), whole=False, pools=()
    )


def holder_facts(state: "State", leases: Sequence[Lease], by: By) -> list[dict[str, object]]:
    """The first holders as data, in the order of their grants, as far as they fit."""
    return all_holder_facts(state, [leases], by)[0]


def all_holder_facts(state: "State", groups: Sequence[Sequence[Lease]], by: By) -> list[list[dict[str, object]]]:
    """`holder_facts` of several groups in one frame."""
    every = [_holder_facts(state, leases, by) for leases in groups]
    if len(_encode(every)) <= HOLDERS_BYTES_MAX:
        return every
    size = 0
    for found in every:
        for at, facts in enumerate(found):
            paths = facts["paths"]
            assert isinstance(paths, list)
            if paths:
                facts["paths_count"] = facts.get("paths_count", len(paths))
                facts["paths"] = []
            size += len(_encode(facts))
            if size > HOLDERS_BYTES_MAX:
                del found[at:]
                break
    return every


def _holder_facts(state: "State", leases: Sequence[Lease], by: By) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for lease in sorted(leases, key=lambda lease: lease.epoch)[:HOLDERS_MAX]:
        ask = masked(state, lease.ask, by)
        facts: dict[str, object] = {
            "task": ask.task,
            "room": ask.room_name,
            "owner": ask.owner,
            "epoch": lease.epoch,
            "mode": ask.mode,
            "worktree": ask.worktree,
            "paths": list(ask.paths[:PATHS_MAX]),
            "whole_worktree": ask.whole,
            "pools": dict(ask.pools),
            "expires_in_ms": state.soft.leasing.remaining_ms(lease, by.lease_ms),
        }
        if len(ask.paths) > PATHS_MAX:
            facts["paths_count"] = len(ask.paths)
        found.append(facts)
    return found


def in_room(room: str) -> str:
    """What a command line needs to name the room: nothing for the one that is meant anyway."""
    return "" if room == MAIN_ROOM else f" --room {room}"


def waiter_facts(state: "State", places: Sequence[Place], by: By) -> list[dict[str, object]]:
    """The first places as data."""
    found = [(place.seq, masked(state, place.ask, by)) for place in places[:HOLDERS_MAX]]
    return [{"task": ask.task, "room": ask.room_name, "owner": ask.owner, "place": seq} for seq, ask in found]


def require_limit(limit: int, most: int) -> None:
    """Raises `Rejected(bad_request)` outside 1 to `most`."""
    if not 1 <= limit <= most:
        raise Rejected(
            "bad_request",
            f"limit {limit} must be 1 to {most} - at `$.body.limit`",
            {"path": "$.body.limit", "max": most},
        )


def held(state: "State", ask: Ask, leases: Sequence[Lease], by: By, cure: str = "wait in line with --wait") -> Rejected:
    """Live leases stand in the way."""
    leases = sorted(leases, key=lambda lease: lease.epoch)
    first = leases[0]
    more = f", and {len(leases) - 1} more" if len(leases) > 1 else ""
    left_ms = state.soft.leasing.remaining_ms(first, by.lease_ms)
    facts: dict[str, object] = {"holders": holder_facts(state, leases, by), "holders_count": len(leases)}
    other = masked(state, first.ask, by)
    asking = "" if other.owner == PRIVATE else f", or ask {other.owner} to release or hand it off"
    return Rejected(
        "lease_held",
        f"{ask.task} cannot be leased: {_holding(ask, other, first.epoch)} {until(left_ms)}{more}; {cure}{asking}",
        facts,
        retry_after_ms=left_ms,
    )


def _holding(ask: Ask, other: Ask, epoch: int) -> str:
    if other.owner == PRIVATE:
        return f"a member of a private room holds a part of it with epoch {epoch}"
    owner = f"another process of {other.owner}" if other.agent == ask.agent else other.owner
    what = "it" if (other.room, other.task) == (ask.room, ask.task) else f"{other.task} ({_scope_in_words(other)})"
    return f"{owner} holds {what} with epoch {epoch}{', shared,' if other.mode == 'shared' else ''}"


def _scope_in_words(ask: Ask) -> str:
    if ask.whole:
        return "the whole worktree"
    if ask.paths:
        more = f" and {len(ask.paths) - 3} more" if len(ask.paths) > 3 else ""
        return ", ".join(ask.paths[:3]) + more
    if ask.pools:
        return ", ".join(f"{units} of pool {name}" for name, units in ask.pools)
    return "no paths"


def until(left_ms: int | None) -> str:
    """How long a holder goes on, for people; None while its lease is parked."""
    if left_ms is None:
        return "and it is parked, waiting for a person"
    return f"for another {in_words(left_ms)} unless it is renewed"


def in_words(ms: int) -> str:
    """A span of time for people: `42 s`, `14 min 5 s`, `3 h 20 min`."""
    seconds = -(-ms // 1000)
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def queued(state: "State", ask: Ask, places: Sequence[Place], by: By) -> Rejected:
    """Nobody holds it, but others wait for it before this claim."""
    assert places, "something stands in the way"
    first = [masked(state, place.ask, by) for place in places[:3]]
    names = ", ".join(dict.fromkeys(ask.owner for ask in first))
    return Rejected(
        "lease_queued",
        f"{ask.task} cannot be leased: {len(places)} earlier claims wait for it or for a part of it, first "
        f"{first[0].owner} for {first[0].task} ({names}); wait in line with --wait",
        {"waiters": waiter_facts(state, places, by), "waiters_count": len(places)},
    )


def deadlocked(state: "State", ask: Ask, cycle: Sequence[str], what: str, leases: Sequence[Lease], by: By) -> Rejected:
    """Waiting would never end. cycle: agent names, as they may be told, the first one again at the end. what: wait,
    grant, hand-off, preemption, upgrade. leases: those that it is about, or that stand in its way."""
    leases = sorted(leases, key=lambda lease: lease.epoch)
    held_by = ""
    if leases:
        left_ms = state.soft.leasing.remaining_ms(leases[0], by.lease_ms)
        held_by = f" ({_holding(ask, masked(state, leases[0].ask, by), leases[0].epoch)} {until(left_ms)})"
    facts: dict[str, object] = {"cycle": cycle, "task": ask.task, "holders": [at.epoch for at in leases[:HOLDERS_MAX]]}
    if len(cycle) > CYCLE_MAX:
        facts |= {"cycle": cycle[:CYCLE_MAX], "cycle_count": len(cycle)}
        cycle = [*cycle[:CYCLE_MAX], f"{len(cycle) - CYCLE_MAX - 1} more", cycle[-1]]
    steps = " waits for ".join(cycle)
    cure = {
        "upgrade": "release the shared lease and claim exclusively",
        "hand-off": "let one of them withdraw its wait first",
        "grant": "release what the others wait for first, or wait in line with a lower priority",
    }.get(what, "release what you hold first, or claim both at once")
    why = f"{ask.task}: this {what} would close a circle: {steps}{held_by}; {cure}"
    return Rejected("deadlock", why, facts)


def stale(state: "State", room: Room, task: str, epoch: int, leases: Sequence[Lease], by: By) -> Rejected:
    """`epoch` is not a live grant of the asking agent on the task."""
    holders = holder_facts(state, leases, by)
    other = next((lease.ask.owner for lease in leases if lease.epoch == epoch), None)
    if other is not None:
        return Rejected(
            "stale_epoch",
            f"epoch {epoch} of {task} in room {room.name} is {other}'s, not {by.actor}'s: only {other} may act so; "
            f"wait in line with synapse claim {task} --wait{in_room(room.name)}, or ask {other} to hand it off",
            {"task": task, "room": room.name, "epoch": epoch, "holders": holders},
        )
    if leases:
        last = leases[-1]
        now = f"{last.ask.owner} holds it now with epoch {last.epoch}"
    else:
        now = "nobody holds it now"
    return Rejected(
        "stale_epoch",
        f"epoch {epoch} of {task} in room {room.name} is not live: {now}; what was done under it must not be written, "
        "claim the task again",
        {"task": task, "room": room.name, "epoch": epoch, "holders": holders},
    )


def not_holder(state: "State", room: Room, lease: Lease, by: By) -> Rejected:
    """The task is leased to another agent."""
    task, owner = lease.ask.task, lease.ask.owner
    left_ms = state.soft.leasing.remaining_ms(lease, by.lease_ms)
    return Rejected(
        "not_holder",
        f"{task} in room {room.name} is leased to {owner} (epoch {lease.epoch}) {until(left_ms)}, not to {by.actor}; "
        f"wait in line with synapse claim {task} --wait{in_room(room.name)}, or ask {owner} to release or hand it off",
        {"task": task, "room": room.name, "owner": owner, "epoch": lease.epoch, "expires_in_ms": left_ms},
    )
