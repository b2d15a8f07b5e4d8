"""Claiming, renewing, handing off, giving back: what becomes of the requests about leases.

A request is granted if and only if it conflicts with no live lease and with no place ahead of it in the queue. What a
decision frees is granted to who waits in that same decision, so no moment exists in which a third could step in.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from synapse.core.agents import Agent, require_known
from synapse.core.bounds import require_chars
from synapse.core.by import By, Rules
from synapse.core.cycles import cycle_of_grant, cycle_of_wait
from synapse.core.events import (
    Ask,
    Delivery,
    Event,
    LeaseGranted,
    LeaseHandedOff,
    LeaseQueued,
    LeaseRenewed,
    LeaseRevoked,
    LeaseUnqueued,
)
from synapse.core.leases import EXCLUSIVE, NO_LEASES, NOTHING_YET, RANK, SHARED, Lease, Place, Pool, View, in_line
from synapse.core.refusals import deadlocked, held, in_words, masked, queued
from synapse.core.rooms import Room, knows_agent, room_of
from synapse.core.scopes import normal_path
from synapse.errors import Rejected, bad_request
from synapse.protocol.commands import ClaimLease
from synapse.protocol.names import clipped, require_task, shown
from synapse.protocol.terms import MODES, PRIORITIES

if TYPE_CHECKING:
    from synapse.core.state import State

GRANT_BYTES_MAX: Final = 256 * 1024
"""One decision grants places up to about this many bytes of events, and one more."""
_LAST: Final = 1 << 62
"""The seq of a place that is not taken yet: behind all others of its priority."""


# Claiming.


def decide_claim(state: "State", rules: Rules, command: ClaimLease, by: By) -> list[Event]:
    """A grant, a renewal, an accepted hand-off, or a place in the queue."""
    agent = _claimant(state, command, by)
    room = room_of(state, command.room, by)
    ask = _ask(state, rules, command, agent, room, by)
    own: Lease | None = None
    offered: Lease | None = None
    is_bare = _is_bare(ask)
    for lease in state.leases.of_task.get((room.id, ask.task), NO_LEASES).values():
        if lease.offered_to == agent.id and _is_answered_by(ask, lease.ask):
            offered = lease
        if lease.ask.agent == agent.id:
            if command.place is not None and lease.place == command.place:
                return []
            if lease.ask.reentrant and ask.reentrant:
                own = lease
    if own is None and offered is not None:
        return hand_over(state, rules, offered, agent, None, by, command)
    if own is not None:
        if is_bare:
            ask = msgspec.structs.replace(own.ask, mode=ask.mode)
        if own.ask == ask:
            return renewed(own, command.ttl_ms, command.note, command.branch)
        if is_bare:
            _require_units(state, dict(ask.pools), by)
    return _acquire(state, rules, command, by, ask, own)


def _acquire(state: "State", rules: Rules, command: ClaimLease, by: By, ask: Ask, own: Lease | None) -> list[Event]:
    """A new grant (in place of `own`), a place in the queue, or a refusal."""
    leases, rank = state.leases, RANK[command.priority]
    if ask.pools:
        _require_lent(state, ask, own, by)
    view = NOTHING_YET if own is None and not command.preempt else View(set() if own is None else {own.epoch})
    require_room_for_lease(state, rules, ask.agent, own)
    if command.preempt:
        return _preempt(state, ask, command, own, view, by)
    under = None if command.under is None else _under(state, command.under, ask)
    first = None if own is None and leases.is_clear(ask) else next(leases.leases_against(ask, view), None)
    if first is not None and own is not None and own.ask.mode == SHARED and ask.mode == EXCLUSIVE:
        readers = [item for item in leases.leases_against(ask, view) if isinstance(item, Lease)]
        readers = [lease for lease in readers if lease.ask.mode == SHARED]
        if readers:
            reader = masked(state, readers[0].ask, by).owner
            raise deadlocked(state, ask, [ask.owner, reader, ask.owner], "upgrade", readers, by)
    if first is None:
        is_narrower = own is not None and _is_within(ask, own.ask)
        ahead = None
        if leases.places and not is_narrower:
            ahead = next(leases.places_against(ask, rank, _LAST, view), None)
        if ahead is None:
            if leases.places:
                _require_no_cycle(state, ask, by, rank, view, is_wait=False)
            granted = _granted(ask, command, own, under)
            if own is None or not leases.places:
                return [granted]
            view.grant(state.seq + 1, ask)
            return [granted, *grants_after(state, view, [own.ask], 1)]
    if command.wait_ms == 0:
        holders = [item for item in leases.leases_against(ask, view) if isinstance(item, Lease)]
        if holders:
            raise held(state, ask, holders, by)
        raise queued(state, ask, list(leases.places_against(ask, rank, _LAST, view)), by)
    _require_lent(state, ask, None, by)
    _require_may_wait(state, rules, command, ask)
    _require_no_cycle(state, ask, by, rank, NOTHING_YET, under, is_wait=True)  # `own` stays while it waits
    return [
        LeaseQueued(
            ask=ask,
            ttl_ms=command.ttl_ms,
            priority=command.priority,
            wait_ms=command.wait_ms,
            tied=command.tied,
            note=command.note,
            branch=command.branch,
            under=under,
        )
    ]


def _under(state: "State", epoch: int, ask: Ask) -> int | None:
    """The lease under which a process says that it runs, when it is a live one of its agent; else what it says is of
    no use to anybody, as of a lease that was lost, or of another hub."""
    lease = state.leases.live.get(epoch)
    return epoch if lease is not None and lease.ask.agent == ask.agent else None


def _granted(ask: Ask, command: ClaimLease, own: Lease | None, under: int | None = None) -> LeaseGranted:
    return LeaseGranted(
        ask=ask,
        ttl_ms=command.ttl_ms,
        tied=command.tied,
        note=command.note,
        branch=command.branch,
        replaces=None if own is None else own.epoch,
        under=under,
    )


def _preempt(state: "State", ask: Ask, command: ClaimLease, own: Lease | None, view: View, by: By) -> list[Event]:
    """Revoke what stands in the way, and grant. Of a pool's holders the latest goes first, until there is room."""
    leases = state.leases
    revoked: list[Lease] = []
    while True:
        against = [item for item in leases.leases_against(ask, view) if isinstance(item, Lease)]
        if not against:
            break
        last = max(against, key=lambda lease: lease.epoch)
        by.require_room(last.ask.room_name, "this takes a lease of another room away")
        revoked.append(last)
        view.gone_leases.add(last.epoch)
    waits = _own_places(state, ask)
    view.gone_places.update(place.seq for place in waits)
    cycle = cycle_of_grant(state, ask, by, len(PRIORITIES), _LAST, view)
    if cycle is not None:
        raise deadlocked(state, ask, cycle, "preemption", revoked, by)
    events: list[Event] = [revocation(lease, "preempted") for lease in revoked]
    events.append(_granted(ask, command, own))
    view.grant(state.seq + len(events), ask)
    for place in waits:  # what it takes now is not given up at once for what it asked for before
        events.append(unqueued(place, "preempted" if _is_answered_by(place.ask, ask) else "replaced"))
    ended = [lease.ask for lease in revoked] + [place.ask for place in waits] + ([] if own is None else [own.ask])
    return [*events, *grants_after(state, view, ended, len(events))]


def _is_bare(ask: Ask) -> bool:
    """True when it names neither paths nor units."""
    return not (ask.worktree or ask.pools)


def _is_answered_by(ask: Ask, grant: Ask) -> bool:
    """True when a lease of `grant` on the same task is what `ask` wants: it names no scope and takes what there is, or
    scope, units and mode are the same."""
    return _is_bare(ask) or (_scope(ask) == _scope(grant) and ask.mode == grant.mode)


def _own_places(state: "State", ask: Ask) -> list[Place]:
    """The places of the same agent for the same task that are reentrant as `ask` is; none when it is not."""
    if not ask.reentrant:
        return []
    waits = state.leases.places_of_task.get((ask.room, ask.task), {})
    return [place for place in waits.values() if place.ask.agent == ask.agent and place.ask.reentrant]


def _scope(ask: Ask) -> tuple[object, ...]:
    return ask.worktree, ask.paths, ask.whole, ask.folds, ask.pools


def _is_within(ask: Ask, old: Ask) -> bool:
    """True when `ask` wants no more than `old` holds, as far as the texts tell."""
    return (
        (ask.mode == old.mode or ask.mode == SHARED)
        and ask.worktree in (None, old.worktree)
        and (old.whole or (not ask.whole and all(_is_below(path, old.paths) for path in ask.paths)))
        and (old.folds or not ask.folds)
        and all(units <= dict(old.pools).get(name, 0) for name, units in ask.pools)
    )


def _is_below(path: str, olds: Sequence[str]) -> bool:
    """True when one of the old paths is the same, or a directory above it: spelt out, or as `DIR/**`."""
    above = [old.removesuffix("/**") for old in olds]
    return (
        path in olds
        or "**" in olds
        or any(path.startswith(f"{directory}/") and not set("*?[").intersection(directory) for directory in above)
    )


def renewed(lease: Lease, ttl_ms: int | None, note: str | None, branch: str | None = None) -> list[Event]:
    """An event when TTL, note or branch change; moving the deadline alone is not journalled."""
    ttl_ms = lease.ttl_ms if ttl_ms is None else ttl_ms
    note = lease.note if note is None else note
    branch = lease.branch if branch is None else branch
    if (ttl_ms, note, branch) == (lease.ttl_ms, lease.note, lease.branch):
        return []
    return [LeaseRenewed(ask=lease.ask, epoch=lease.epoch, ttl_ms=ttl_ms, note=note, branch=branch)]


def grants_after(state: "State", view: View, ended: Iterable[Ask], said: int) -> list[Event]:
    """The grants that the end of these asks makes possible, in the order of the queue. A place to which nobody is
    attached is passed over but keeps its turn, until it is found gone. said: how many events the decision has made."""
    leases = state.leases
    if not leases.places:
        return []
    places = {place.seq: place for ask in ended for place in leases.places_after(ask)}
    return grants(state, view, in_line(places.values()), said)


def grants(state: "State", view: View, places: Sequence[Place], said: int) -> list[Event]:
    """The grants among these places, which are in the order of the queue; `view` takes them in. said: see above.

    They end at `GRANT_BYTES_MAX`, so that a turn stays within what its transaction may hold: `decide_serve` goes on.
    """
    leases, attached = state.leases, state.soft.leasing.attached
    events: list[Event] = []
    again: dict[int, Place] = {}
    size = 0
    for place in places:
        if size > GRANT_BYTES_MAX:
            break
        if place.seq in view.gone_places or place.seq not in attached:
            continue
        ask = place.ask
        epoch, own = _own_now(state, ask, view)
        if epoch is not None:
            view.gone_leases.add(epoch)
            view.take_back(epoch)
        if (
            next(leases.leases_against(ask, view), None) is not None
            or next(leases.places_against(ask, place.rank, place.seq, view), None) is not None
        ):
            if epoch is not None and own is not None:
                view.gone_leases.discard(epoch)
                if epoch not in leases.live:
                    view.grant(epoch, own)
            continue
        size += _bytes(ask)
        view.gone_places.add(place.seq)
        view.grant(state.seq + said + len(events) + 1, ask)
        if own is not None:
            again |= {waits.seq: waits for waits in leases.places_after(own)}
        # What it waits for besides is not in the way of itself.
        again |= {waits.seq: waits for waits in _own_places(state, ask)}
        events.append(
            LeaseGranted(
                ask=ask,
                ttl_ms=place.ttl_ms,
                tied=place.tied,
                note=place.note,
                branch=place.branch,
                place=place.seq,
                replaces=epoch,
                under=place.under,
            )
        )
    more = in_line([place for place in again.values() if place.seq not in view.gone_places])
    return [*events, *grants(state, view, more, said + len(events))] if more else events


def _bytes(ask: Ask) -> int:
    """At least as many as the event of its grant has, at most five times as many."""
    return 1024 + sum(len(path.encode()) for path in ask.paths)


def _own_now(state: "State", ask: Ask, view: View) -> tuple[int | None, Ask | None]:
    """Epoch and ask of what a grant of `ask` would replace, with what this decision has granted already."""
    if ask.reentrant:
        for epoch, new in view.of_task(ask):
            if new.reentrant and new.agent == ask.agent:
                return epoch, new
    own = own_reentrant(state, ask)
    return (None, None) if own is None or own.epoch in view.gone_leases else (own.epoch, own.ask)


def own_reentrant(state: "State", ask: Ask) -> Lease | None:
    """The lease of the same agent and task that a grant of `ask` would replace."""
    if not ask.reentrant:
        return None
    for lease in state.leases.of_task.get((ask.room, ask.task), NO_LEASES).values():
        if lease.ask.agent == ask.agent and lease.ask.reentrant:
            return lease
    return None


def decide_attach(state: "State", place: Place) -> list[Event]:
    """Somebody came back for a place: it may be its turn already."""
    return grants(state, View(), [place], 0)


def decide_serve(state: "State") -> list[Event]:
    """The grants that the queue waits for, where an earlier decision had to end before all were made."""
    places = [state.leases.places[seq] for seq in state.soft.leasing.attached]
    return grants(state, View(), in_line(places), 0)


# What a claim says.


def _claimant(state: "State", command: ClaimLease, by: By) -> Agent:
    """Who gets the lease: the agent that asks, or whom an operator names. Raises `Rejected`."""
    if by.operator:
        if command.claimant is None or not command.preempt:
            raise bad_request("an operator claims for somebody: name the claimant, and preempt", "$.body.claimant")
        return require_known(state, command.claimant, by)
    agent = state.agents.by_id[by.require_agent()]
    if command.claimant is not None and command.claimant != agent.name:
        why = "only an operator claims for another agent - at `$.body.claimant`"
        raise Rejected("not_permitted", why, {"path": "$.body.claimant", "owner": command.claimant})
    if command.preempt:  # the kind on a card is what an agent says of itself: it permits nothing
        by.require_human("preempting, which takes a lease away,")
    return agent


def _ask(state: "State", rules: Rules, command: ClaimLease, agent: Agent, room: Room, by: By) -> Ask:
    """The request in normal form. Raises `Rejected`: `bad_name`, `bad_scope`, `bad_request`, `not_found`."""
    limits = rules.limits
    require_task(command.task)
    require_ttl(rules, command.ttl_ms)
    if command.mode not in MODES:
        raise none_of("mode", command.mode, MODES)
    if command.priority not in PRIORITIES:
        raise none_of("priority", command.priority, PRIORITIES)
    if command.wait_ms is not None and not 0 <= command.wait_ms <= limits.wait_ms_max:
        raise Rejected(
            "bad_request",
            f"wait_ms {command.wait_ms} must be 0 to {limits.wait_ms_max} ({in_words(limits.wait_ms_max)}), or null "
            "for no end - at `$.body.wait_ms`",
            {"path": "$.body.wait_ms", "max": limits.wait_ms_max},
        )
    if command.note is not None:
        require_chars("note", command.note, limits.note_chars_max)
    if command.branch is not None:
        require_chars("branch", command.branch, limits.note_chars_max)
    worktree, paths = command.worktree, command.paths
    if paths or command.whole_worktree:
        if worktree is None:
            raise bad_request("paths are relative to a worktree: name it", "$.body.worktree")
        if paths and command.whole_worktree:
            raise bad_request("give paths or whole_worktree, not both", "$.body")
        require_chars("worktree", worktree, limits.worktree_chars_max)
        if len(paths) > limits.paths_max:
            raise Rejected(
                "too_large",
                f"{len(paths)} paths; at most {limits.paths_max}: use globs, or claim the directory above them",
                {"paths": len(paths), "paths_max": limits.paths_max},
            )
        paths = _normal(paths, limits.path_chars_max, limits.path_wildcards_max)
    elif worktree is not None:
        raise Rejected("bad_scope", "a worktree without paths: name paths, or ask for the whole of it (whole_worktree)")
    return Ask(
        room=room.id,
        room_name=room.name,
        task=command.task,
        agent=agent.id,
        owner=agent.name,
        worktree=worktree,
        paths=paths,
        whole=command.whole_worktree,
        folds=command.folds_case and worktree is not None,
        pools=_pools(state, rules, command.pools, by) if command.pools else (),
        mode=command.mode,
        reentrant=command.reentrant,
    )


@lru_cache(maxsize=16_384)
def _normal(paths: tuple[str, ...], chars_max: int, wildcards_max: int) -> tuple[str, ...]:
    """In normal form, each once. Agents claim the same paths again and again. Raises `Rejected(bad_scope)`."""
    normal = [normal_path(path, chars_max=chars_max, wildcards_max=wildcards_max) for path in paths]
    return tuple(normal) if len(normal) == 1 else tuple(dict.fromkeys(normal))


def _pools(state: "State", rules: Rules, wanted: dict[str, int], by: By) -> tuple[tuple[str, int], ...]:
    if len(wanted) > rules.limits.pools_per_claim_max:
        raise Rejected(
            "too_large",
            f"{len(wanted)} pools; at most {rules.limits.pools_per_claim_max} in one claim",
            {"pools": len(wanted), "pools_per_claim_max": rules.limits.pools_per_claim_max},
        )
    _require_units(state, wanted, by)
    return tuple(sorted(wanted.items()))


def _require_units(state: "State", wanted: dict[str, int], by: By) -> None:
    for name, units in wanted.items():
        pool = require_pool(state, name, by)
        if not 1 <= units <= pool.capacity:
            raise Rejected(
                "bad_request",
                f"{units} units of pool {name}; it has {pool.capacity} - at `$.body.pools`",
                {"path": "$.body.pools", "pool": name, "capacity": pool.capacity},
            )


def _require_lent(state: "State", ask: Ask, own: Lease | None, by: By) -> None:
    """Raises `Rejected(not_found)` when it asks for more than it holds of what is lent no more."""
    mine = {} if own is None else dict(own.ask.pools)
    for name, units in ask.pools:
        offer = state.leases.pools[name].offer
        if offer is None or not offer.is_over(by.at_ms) or units <= mine.get(name, 0):
            continue
        why = offer.ended or "expired"
        raise Rejected(
            "not_found",
            f"{offer.owner} lends {name} no more ({why}): synapse resource list shows what there is; leases that hold "
            "units of it go on",
            {"pool": name, "owner": offer.owner, "ended": why},
        )


def knows_pool(state: "State", pool: Pool, by: By) -> bool:
    """True unless another lends it whom who asks may not know of."""
    return pool.offer is None or knows_agent(state, pool.offer.owner_id, by)


def require_pool(state: "State", name: str, by: By) -> Pool:
    """The pool of that name, if who asks may know of it. Raises `Rejected(not_found)`."""
    pool = state.leases.pools.get(name)
    if pool is None or not knows_pool(state, pool, by):
        known = sorted(pool.name for pool in state.leases.pools.values() if knows_pool(state, pool, by))[:20]
        raise Rejected(
            "not_found",
            f"no pool {shown(name)}; there are: {', '.join(known) or 'none'} (an operator makes one: "
            "synapse pool set NAME CAPACITY; an agent lends one: synapse resource offer NAME)",
            {"pool": clipped(name), "pools": known},
        )
    return pool


def none_of(name: str, value: str, allowed: Sequence[str]) -> Rejected:
    """A word that is not one of the allowed ones."""
    return Rejected(
        "bad_request",
        f"{name} {shown(value)} is none of {', '.join(allowed)} - at `$.body.{name}`",
        {"path": f"$.body.{name}", "allowed": list(allowed)},
    )


def require_ttl(rules: Rules, ttl_ms: int) -> None:
    """Raises `Rejected(bad_request)` outside the floor and the ceiling."""
    least, most = rules.limits.ttl_ms_min, rules.limits.ttl_ms_max
    if not least <= ttl_ms <= most:
        raise Rejected(
            "bad_request",
            f"a TTL of {ttl_ms} ms; {least} to {most} ({in_words(least)} to {in_words(most)}), and each renewal begins "
            "it anew - at `$.body.ttl_ms`",
            {"path": "$.body.ttl_ms", "min": least, "max": most},
        )


def require_room_for_lease(
    state: "State", rules: Rules, agent: int, own: Lease | None, *, is_passed_on: bool = False
) -> None:
    """Raises `Rejected(limit)`. own: what the lease takes the place of. is_passed_on: all leases stay as many."""
    if own is not None:
        return
    limits, leases = rules.limits, state.leases
    mine = len(leases.of_agent.get(agent, NO_LEASES))
    if mine >= limits.leases_per_agent_max:
        owner = state.agents.by_id[agent].name
        raise _too_many_leases(mine, limits.leases_per_agent_max, "leases_per_agent_max", f" by {owner}", owner)
    if len(leases.live) >= limits.leases_max and not is_passed_on:
        raise _too_many_leases(len(leases.live), limits.leases_max, "leases_max")


def _too_many_leases(have: int, most: int, name: str, whose: str = "", owner: str | None = None) -> Rejected:
    facts = {"limit": name, "value": most} | ({} if owner is None else {"owner": owner})
    return Rejected("limit", f"{have} leases of {most} are held{whose} ({name}): release some", facts)


def _require_may_wait(state: "State", rules: Rules, command: ClaimLease, ask: Ask) -> None:
    limits, leases = rules.limits, state.leases
    for name, _ in ask.pools:
        if command.wait_ms is None and leases.pools[name].capacity > 1:
            raise Rejected(
                "bad_request",
                f"waiting for pool {name} of {leases.pools[name].capacity} units needs a deadline, because a deadlock "
                "over counted units is not seen - at `$.body.wait_ms`",
                {"path": "$.body.wait_ms", "pool": name},
            )
    for have, most, name in (
        (len(leases.places_of_agent.get(ask.agent, ())), limits.waits_per_agent_max, "waits_per_agent_max"),
        (len(leases.places), limits.waiters_max, "waiters_max"),
    ):
        if have >= most:
            raise Rejected(
                "limit",
                f"{have} claims of {most} wait already ({name}): let one end first (synapse withdraw TASK), or claim "
                "without --wait",
                {"limit": name, "value": most},
            )


def _require_no_cycle(
    state: "State", ask: Ask, by: By, rank: int, view: View, under: int | None = None, *, is_wait: bool
) -> None:
    """Raises `Rejected(deadlock)` when this wait, or this grant past others that wait, closes a cycle."""
    if is_wait:
        cycle = cycle_of_wait(state, ask, by, rank, _LAST, view, under)
    else:
        cycle = cycle_of_grant(state, ask, by, rank, _LAST, view)
    if cycle is not None:
        holders = [item for item in state.leases.leases_against(ask, view) if isinstance(item, Lease)]
        raise deadlocked(state, ask, cycle, "wait" if is_wait else "grant", holders, by)


# Hand-off, and the ends of leases and waits.


def hand_over(
    state: "State",
    rules: Rules,
    lease: Lease,
    to: Agent,
    delivery: Delivery | None,
    by: By,
    claim: ClaimLease | None = None,
) -> list[Event]:
    """One event: the receiver's grant ends the sender's. Checked again against everybody else's leases and waits.

    claim: what accepts an offer, whose process may have it for itself, tied and with its own TTL.
    """
    leases, old = state.leases, lease.ask
    ask = msgspec.structs.replace(old, agent=to.id, owner=to.name, reentrant=claim is None or claim.reentrant)
    view = View(gone_leases={lease.epoch})
    require_room_for_lease(state, rules, to.id, None, is_passed_on=True)
    against = [item for item in leases.leases_against(ask, view) if isinstance(item, Lease)]
    own = own_reentrant(state, ask)
    if own is not None:
        against.append(own)
    if against:
        raise held(state, ask, against, by, "hand it off when that has ended")
    is_taken = to.id == by.agent  # by its claim, or by its yes to a lane
    waits = [place for place in _own_places(state, ask) if is_taken or _is_answered_by(place.ask, ask)]
    view.gone_places.update(place.seq for place in waits)
    cycle = cycle_of_grant(state, ask, by, len(PRIORITIES), _LAST, view)
    if cycle is not None:
        raise deadlocked(state, ask, cycle, "hand-off", [lease], by)
    handed = LeaseHandedOff(ask=ask, previous=lease.epoch, sender=old.owner, delivery=delivery)
    if claim is not None:
        handed = msgspec.structs.replace(
            handed,
            ttl_ms=claim.ttl_ms,
            tied=claim.tied,
            note=claim.note,
            branch=claim.branch,
            under=None if claim.under is None else _under(state, claim.under, ask),
        )
    view.grant(state.seq + 1, ask)
    ended: list[Event] = [
        unqueued(place, "handed_off" if _is_answered_by(place.ask, ask) else "replaced") for place in waits
    ]
    freed = [old, *(place.ask for place in waits)]
    return [handed, *ended, *grants_after(state, view, freed, 1 + len(ended))]


def revocation(lease: Lease, reason: str) -> LeaseRevoked:
    """The event that takes a lease away."""
    ask = lease.ask
    return LeaseRevoked(
        room=ask.room, room_name=ask.room_name, task=ask.task, owner=ask.owner, epoch=lease.epoch, reason=reason
    )


def unqueued(place: Place, reason: str) -> LeaseUnqueued:
    """The event that ends a wait without a grant."""
    ask = place.ask
    return LeaseUnqueued(
        room=ask.room, room_name=ask.room_name, task=ask.task, owner=ask.owner, place=place.seq, reason=reason
    )
