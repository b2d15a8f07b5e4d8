"""What is answered about leases: the reply of a mutation, rebuilt from its events, and questions to the state."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

import msgspec
from msgspec import UNSET, UnsetType

from synapse.core.bounds import require_chars
from synapse.core.by import By, Rules
from synapse.core.claims import none_of
from synapse.core.events import (
    Ask,
    LeaseCheckpointed,
    LeaseGranted,
    LeaseHandedOff,
    LeaseOffered,
    LeaseParked,
    LeaseReleased,
    LeaseRenewed,
    LeaseResumed,
    LeaseUnqueued,
    Recorded,
)
from synapse.core.holding import lease_of
from synapse.core.leases import SHARED, Lease, Place, TaskKey, View, conflicts, in_line, patterns_of
from synapse.core.refusals import HOLDERS_MAX, PRIVATE, all_holder_facts, in_room, masked, stale, until
from synapse.core.resuming import with_resume
from synapse.core.rooms import may_see, require_room, room_of
from synapse.core.scopes import covers, normal_file
from synapse.core.session_events import SessionResumed
from synapse.errors import Rejected
from synapse.protocol import replies
from synapse.protocol.commands import (
    CheckLease,
    CheckPaths,
    ClaimLease,
    DeletePool,
    HandOffLease,
    ListLeases,
    ParkLease,
    ReleaseLease,
    RenewLease,
    SaveCheckpoint,
    SetPool,
    WithdrawClaim,
)
from synapse.protocol.cursor import question_id
from synapse.protocol.names import is_work, require_agent_name, require_task
from synapse.protocol.terms import MODES

if TYPE_CHECKING:
    from synapse.core.state import State

RareLeaseMutation: TypeAlias = (
    RenewLease | WithdrawClaim | SaveCheckpoint | HandOffLease | ParkLease | SetPool | DeletePool
)
LeaseMutation: TypeAlias = ClaimLease | ReleaseLease | RareLeaseMutation
LeaseQuery: TypeAlias = CheckLease | CheckPaths

_OF_A_GRANT: Final = (LeaseRenewed, LeaseCheckpointed, LeaseParked, LeaseResumed, LeaseOffered, SessionResumed)
_LISTED: Final = frozenset({"waiters", "waiting", "idle_ms", "stalled"})
WAITERS_MAX = 32
"""How many waiters a listed lease names; `waiting` counts all."""
BARE_MAX: Final = 64
"""How many paths that are not covered a refusal names, if their holders fit; it says how many there are."""


def answer_release(events: Sequence[Recorded], cursor: str) -> replies.Released:
    """The reply of a release that became `events`."""
    event = events[0].event
    assert type(event) is LeaseReleased
    return replies.Released(task=event.task, room=event.room_name, epoch=event.epoch, released=True, cursor=cursor)


def answer_lease(
    state: "State", command: RareLeaseMutation, by: By, events: Sequence[Recorded], cursor: str
) -> replies.Reply:
    """The leases' part of `answers.answer`, but for claims and releases."""
    match command:
        case WithdrawClaim():
            ended = [item.event for item in events if isinstance(item.event, LeaseUnqueued)]
            return replies.Withdrawn(task=command.task, room=ended[0].room_name, withdrawn=len(ended), cursor=cursor)
        case RenewLease() | SaveCheckpoint() | ParkLease() | HandOffLease():
            return _held(state, command, by, events, cursor)
        case SetPool():
            return _pool_set(state, command, events, cursor)
        case DeletePool():
            return replies.PoolDeleted(pool=command.pool, deleted=True, cursor=cursor)
        case _:
            assert_never(command)


def claimed_lease(
    state: "State", command: ClaimLease, by: By, events: Sequence[Recorded]
) -> tuple[int, Ask, str, Recorded | None]:
    """Epoch, ask and outcome of the claim that became `events`, and the event it was granted by."""
    owner = command.claimant if command.claimant is not None else by.actor
    for item in events:
        event = item.event
        if isinstance(event, LeaseGranted) and event.ask.owner == owner and event.ask.task == command.task:
            return item.seq, event.ask, "granted", item
        if isinstance(event, LeaseHandedOff) and event.ask.owner == owner:
            return item.seq, event.ask, "handed_off", item
        if isinstance(event, LeaseRenewed):
            return event.epoch, event.ask, "renewed", item
    for item in events:
        if isinstance(item.event, SessionResumed):
            return _renewed_by(state, owner, item, item.event)
    room = room_of(state, command.room, by)
    found = state.leases.of_task.get((room.id, command.task), {}).values()
    mine = [lease for lease in found if lease.ask.owner == owner]
    if command.place is not None:
        for lease in mine:
            if lease.place == command.place:
                return lease.epoch, lease.ask, "granted", None
    last = [lease for lease in mine if lease.ask.reentrant][-1]
    return last.epoch, last.ask, "renewed", None


def _renewed_by(
    state: "State", owner: str, item: Recorded, event: SessionResumed
) -> tuple[int, Ask, str, Recorded | None]:
    """As `claimed_lease`, of a claim that moved a deadline, and took up what a session had left: of its scope nothing
    is known once that lease has ended."""
    live = state.leases.live.get(event.epoch)
    if live is not None:
        return event.epoch, live.ask, "renewed", item
    ask = Ask(room=event.room, room_name=event.room_name, task=event.task, agent=0, owner=owner)
    return event.epoch, ask, "renewed", item


def answer_claim(state: "State", command: ClaimLease, by: By, events: Sequence[Recorded], cursor: str) -> replies.Lease:
    """The reply of a claim that became `events`."""
    if len(events) == 1 and type(events[0].event) is LeaseGranted:
        live = state.leases.live.get(events[0].seq)
        if live is not None:
            info = lease_info(state, live, by, outcome="granted", cursor=cursor)
            return with_resume(state, info, by.at_ms) if state.sessions.of_task else info
    epoch, ask, outcome, recorded = claimed_lease(state, command, by, events)
    live = state.leases.live.get(epoch)
    if live is not None:
        info = lease_info(state, live, by, outcome=outcome, cursor=cursor)
        is_new = outcome != "renewed" or any(isinstance(item.event, SessionResumed) for item in events)
        return with_resume(state, info, by.at_ms) if is_new and state.sessions.of_task else info
    assert recorded is not None, "a lease that is not live any more is answered from its event"
    return _ended(ask, epoch, recorded, outcome, cursor)


_SAME: Final[dict[type[RenewLease | SaveCheckpoint | ParkLease | HandOffLease], str]] = {
    RenewLease: "renewed",
    SaveCheckpoint: "checkpointed",
    ParkLease: "parked",
    HandOffLease: "offered",
}
"""The outcome of what was so already."""


def _held(
    state: "State",
    command: RenewLease | SaveCheckpoint | ParkLease | HandOffLease,
    by: By,
    events: Sequence[Recorded],
    cursor: str,
) -> replies.Lease:
    if not events:
        lease = lease_of(state, command.task, command.room, command.epoch, by)
        outcome = _SAME[type(command)]
        if isinstance(command, ParkLease) and not command.parked:
            outcome = "resumed"
        return lease_info(state, lease, by, outcome=outcome, cursor=cursor)
    first = events[0]
    event = first.event
    assert isinstance(
        event, LeaseRenewed | LeaseCheckpointed | LeaseParked | LeaseResumed | LeaseHandedOff | LeaseOffered
    )
    epoch = first.seq if isinstance(event, LeaseHandedOff) else event.epoch
    outcome = {
        LeaseRenewed: "renewed",
        LeaseCheckpointed: "checkpointed",
        LeaseParked: "parked",
        LeaseResumed: "resumed",
        LeaseHandedOff: "handed_off",
        LeaseOffered: "offered",
    }[type(event)]
    live = state.leases.live.get(epoch)
    if live is not None:
        return lease_info(state, live, by, outcome=outcome, cursor=cursor)
    return _ended(event.ask, epoch, first, outcome, cursor)


def lease_info(
    state: "State", lease: Lease, by: By, *, outcome: str | None = None, cursor: str | None = None
) -> replies.Lease:
    """A live lease. With `cursor` it is an answer of its own."""
    ask = lease.ask
    left_ms = state.soft.leasing.remaining_ms(lease, by.lease_ms)
    offered = state.agents.by_id.get(lease.offered_to) if lease.offered_to is not None else None
    return replies.Lease(  # by place, as far as they are required: more than 15 names cost a dictionary, and 1.5 µs
        ask.task,
        ask.room_name,
        ask.owner,
        lease.epoch,
        ask.worktree,
        ask.paths,
        ask.whole,
        dict(ask.pools) if ask.pools else {},
        ask.mode,
        lease.ttl_ms,
        None if left_ms is None else by.at_ms + left_ms,
        left_ms,
        "parked" if lease.is_parked else "held",
        lease.granted_at_ms,
        lease.note,
        lease.branch,
        lease.tied,
        checkpoint=_checkpoint(state, (ask.room, ask.task)) if state.leases.checkpoints else None,
        offered_to=UNSET if offered is None else offered.name,
        outcome=UNSET if outcome is None else outcome,
        live=UNSET if cursor is None else True,
        plan=_brief(state, ask) if cursor is not None and state.plan.count else UNSET,
        cursor=UNSET if cursor is None else cursor,
        questions=tuple(map(question_id, lease.questions)) if lease.questions else UNSET,
    )


def _ended(ask: Ask, epoch: int, recorded: Recorded, outcome: str, cursor: str) -> replies.Lease:
    """A repeat's answer about a lease that is not live any more: what the event says that the key answers for. Without
    a word of it, TTL and date of the grant are 0; `with_grant` has the latter."""
    event = recorded.event
    terms = event if isinstance(event, LeaseGranted | LeaseHandedOff | LeaseRenewed) else None
    kept: replies.Checkpoint | None = None
    if isinstance(event, LeaseCheckpointed):
        kept = replies.Checkpoint(
            data=event.data, artefacts=event.artefacts, by=ask.owner, epoch=epoch, at_ms=recorded.at_ms
        )
    return replies.Lease(
        task=ask.task,
        room=ask.room_name,
        owner=ask.owner,
        epoch=epoch,
        worktree=ask.worktree,
        paths=ask.paths,
        whole_worktree=ask.whole,
        pools=dict(ask.pools),
        mode=ask.mode,
        ttl_ms=0 if terms is None else terms.ttl_ms or 0,
        expires_at_ms=None,
        remaining_ms=None,
        status="ended",
        granted_at_ms=recorded.at_ms if recorded.seq == epoch else 0,
        note=None if terms is None else terms.note,
        branch=None if terms is None else terms.branch,
        tied=isinstance(event, LeaseGranted | LeaseHandedOff) and event.tied,
        checkpoint=kept,
        offered_to=event.to.name if isinstance(event, LeaseOffered) else UNSET,
        outcome=outcome,
        live=False,
        cursor=cursor,
    )


def epochs_told(events: Sequence[Recorded]) -> list[int]:
    """The earlier grants that events are about, by their seqs: what a repeat needs of the journal beside them."""
    return [item.event.epoch for item in events if isinstance(item.event, _OF_A_GRANT)]


def with_grant(body: replies.Reply, grants: Sequence[Recorded]) -> replies.Reply:
    """The answer to a repeat about a lease that ended, with what never changes of its grant."""
    if isinstance(body, replies.Lease) and not body.granted_at_ms:
        for grant in grants:
            event = grant.event
            if grant.seq == body.epoch and isinstance(event, LeaseGranted | LeaseHandedOff):
                return msgspec.structs.replace(body, granted_at_ms=grant.at_ms, tied=event.tied)
    return body


def _brief(state: "State", ask: Ask) -> replies.TaskBrief | UnsetType:
    """What the plan says of the task of an ask."""
    task = state.plan.find((ask.room, ask.task))
    if task is None:
        return UNSET
    waits_for = islice(state.plan.by_room[ask.room].missing(task), WAITERS_MAX)
    return replies.TaskBrief(title=task.title, status=task.status, waits_for=dict(waits_for))


def _checkpoint(state: "State", key: TaskKey) -> replies.Checkpoint | None:
    kept = state.leases.checkpoints.get(key)
    if kept is None:
        return None
    return replies.Checkpoint(data=kept.data, artefacts=kept.artefacts, by=kept.by, epoch=kept.epoch, at_ms=kept.at_ms)


# Questions.


def look_lease(state: "State", rules: Rules, query: LeaseQuery, by: By, cursor: str) -> replies.Reply:
    """The leases' part of `answers.look`."""
    match query:
        case CheckLease():
            room = room_of(state, query.room, by)
            found = state.leases.of_task.get((room.id, require_task(query.task)), {})
            lease = found.get(query.epoch)
            if lease is None:
                raise stale(state, room, query.task, query.epoch, list(found.values()), by)
            return lease_info(state, lease, by, cursor=cursor)
        case CheckPaths():
            return _covered(state, rules, query, by, cursor)
        case _:
            assert_never(query)


def _covered(state: "State", rules: Rules, query: CheckPaths, by: By, cursor: str) -> replies.PathsCovered:
    agent, limits = by.require_agent(), rules.limits
    if query.mode not in MODES:
        raise none_of("mode", query.mode, MODES)
    require_chars("worktree", query.worktree, limits.worktree_chars_max)
    if not 1 <= len(query.paths) <= limits.page_items_max:
        raise Rejected(
            "bad_request",
            f"{len(query.paths)} paths; 1 to {limits.page_items_max} - at `$.body.paths`",
            {"path": "$.body.paths", "max": limits.page_items_max},
        )
    here = [lease for lease in state.leases.of_agent.get(agent, {}).values() if lease.ask.worktree == query.worktree]
    mine = [lease for lease in here if query.mode == SHARED or lease.ask.mode != SHARED]
    found: list[replies.Covered] = []
    bare: list[_Bare] = []
    for text in query.paths:
        path = normal_file(text, chars_max=limits.path_chars_max)
        lease = next((lease for lease in mine if _covers(lease.ask, path)), None)
        if lease is None:
            mine_shared = [lease for lease in here if _covers(lease.ask, path)][:1]
            bare.append(_Bare(path, _holders(state, query.worktree, path, agent), mine_shared))
            continue
        ask = lease.ask
        left_ms = state.soft.leasing.remaining_ms(lease, by.lease_ms)
        found.append(
            replies.Covered(
                path=path, task=ask.task, room=ask.room_name, epoch=lease.epoch, mode=ask.mode, remaining_ms=left_ms
            )
        )
    if bare:
        raise _not_covered(state, bare, query.mode, by)
    return replies.PathsCovered(worktree=query.worktree, paths=tuple(found), cursor=cursor)


@dataclass(slots=True, frozen=True)
class _Bare:
    """A path that no lease of mine covers as was asked. holders: others', the first few. mine: the first of my leases
    that cover it shared, where an exclusive one was asked for."""

    path: str
    holders: list[Lease]
    mine: list[Lease]


def _not_covered(state: "State", bare: Sequence[_Bare], mode: str, by: By) -> Rejected:
    first, told = bare[0], bare[:BARE_MAX]
    facts = all_holder_facts(state, [leases for path in told for leases in (path.holders, path.mine)], by)
    named: list[dict[str, object]] = []
    for path, holders, mine in zip(told, facts[::2], facts[1::2], strict=True):
        if named and (len(holders), len(mine)) != (len(path.holders), len(path.mine)):
            break  # those who hold it do not fit any more
        entry: dict[str, object] = {"path": path.path, "holders": holders}
        named.append({**entry, "mine": mine} if path.mine else entry)
    why = _only_shared(state, first, by) if first.mine else _nobodys(state, first, by)
    more = f", and {len(bare) - 1} more paths are not covered" if len(bare) > 1 else ""
    return Rejected(
        "not_covered",
        f"{first.path} is not covered by a live {'lease' if mode == SHARED else 'exclusive lease'} of {by.actor}: "
        f"{why}{more}",
        {"paths": named, "paths_count": len(bare)},
    )


def _nobodys(state: "State", bare: _Bare, by: By) -> str:
    """No lease of who asks covers it at all."""
    if not bare.holders:
        return f"nobody holds it: claim it with synapse claim TASK --paths {bare.path}"
    return f"{_first(state, bare.holders, by)}; wait in line with synapse claim TASK --paths {bare.path} --wait"


def _only_shared(state: "State", bare: _Bare, by: By) -> str:
    """It may be read, and is to be written. Beside other readers a shared lease has to go first: two that wait to
    become writers would wait for each other."""
    [mine] = bare.mine
    ask, room, left_ms = mine.ask, in_room(mine.ask.room_name), state.soft.leasing.remaining_ms(mine, by.lease_ms)
    own = f"its lease {ask.task} with epoch {mine.epoch} covers it, shared, {until(left_ms)}"
    if not bare.holders and ask.reentrant:
        return f"{own}; synapse claim {ask.task}{room} makes that exclusive"
    others = f", and {_first(state, bare.holders, by)}" if bare.holders else ""
    return (
        f"{own}{others}; release it (synapse release {ask.task}{room}), then wait in line with "
        f"synapse claim TASK --paths {bare.path} --wait"
    )


def _first(state: "State", holders: Sequence[Lease], by: By) -> str:
    """The first of who holds a path, for people."""
    lease = min(holders, key=lambda lease: lease.epoch)
    ask, left_ms = masked(state, lease.ask, by), state.soft.leasing.remaining_ms(lease, by.lease_ms)
    who = f"{ask.owner} holds it as {ask.task}" if ask.owner != PRIVATE else "a member of a private room holds it"
    return f"{who} with epoch {lease.epoch}{', shared,' if ask.mode == SHARED else ''} {until(left_ms)}"


def _covers(ask: Ask, path: str) -> bool:
    return ask.whole or any(covers(pattern, path) for pattern in patterns_of(ask))


def _holders(state: "State", worktree: str, path: str, agent: int) -> list[Lease]:
    """Other agents' leases on a path, the first few."""
    literal = "".join(f"[{char}]" if char in "*?[" else char for char in path)
    probe = Ask(room=0, room_name="", task="", agent=0, owner="", worktree=worktree, paths=(literal,), folds=True)
    found: list[Lease] = []
    for item in state.leases.leases_against(probe, View()):
        if isinstance(item, Lease) and item.ask.agent != agent and _covers(item.ask, path):
            found.append(item)
            if len(found) == HOLDERS_MAX:
                break
    return found


def leases_to_list(state: "State", rules: Rules, query: ListLeases, by: By) -> list[str]:
    """The epochs that a listing shows, as text that sorts like the numbers; none of rooms that who asks may not see.
    Raises `Rejected`: `bad_name`, `bad_request`, `not_found`."""
    leases = state.leases
    room = None if query.room is None else require_room(state, query.room, by)
    found = list(leases.live.values())
    if query.owner is not None:
        agent = state.agents.by_name.get(require_agent_name(query.owner))
        found = list(leases.of_agent.get(agent.id, {}).values()) if agent is not None else []
    if query.task is not None:
        require_task(query.task)
    if query.worktree is not None:
        require_chars("worktree", query.worktree, rules.limits.worktree_chars_max)
    return sorted(
        f"{lease.epoch:016d}"
        for lease in found
        if may_see(state.rooms.by_id[lease.ask.room], by)
        and (room is None or lease.ask.room == room.id)
        and (query.worktree is None or lease.ask.worktree == query.worktree)
        and (query.task is None or lease.ask.task == query.task)
    )


def listed_lease(state: "State", epoch: str, by: By) -> replies.Lease:
    """A lease with who waits behind it."""
    lease = state.leases.live[int(epoch)]
    waiting = in_line(place for place in state.leases.places_after(lease.ask) if _waits_for(place, lease))
    info, soft = lease_info(state, lease, by), state.soft.leasing
    return replies.Lease(
        **{name: getattr(info, name) for name in info.__struct_fields__ if name not in _LISTED},
        waiters=tuple(waiter_info(state, place, at, by) for at, place in enumerate(waiting[:WAITERS_MAX], 1)),
        waiting=len(waiting),
        idle_ms=soft.idle_ms(lease, by.lease_ms),
        stalled=is_stalled(state, lease, by),
    )


def is_stalled(state: "State", lease: Lease, by: By) -> bool:
    """True when it is renewed without progress. Locks and units that were taken are no work, but where the plan has
    them."""
    is_expected = is_work(lease.ask.task) or state.plan.find((lease.ask.room, lease.ask.task)) is not None
    return is_expected and state.soft.leasing.is_stalled(lease, by.lease_ms)


def _waits_for(place: Place, lease: Lease) -> bool:
    names = {name for name, _ in lease.ask.pools}
    return any(name in names for name, _ in place.ask.pools) or conflicts(place.ask, lease.ask)


def waiter_info(state: "State", place: Place, position: int, by: By) -> replies.LeaseWaiter:
    """One who waits."""
    ask = masked(state, place.ask, by)
    return replies.LeaseWaiter(
        task=ask.task,
        room=ask.room_name,
        owner=ask.owner,
        place=place.seq,
        position=position,
        priority=place.priority,
        mode=ask.mode,
        queued_at_ms=place.queued_at_ms,
    )


def position_of(state: "State", place: Place) -> int:
    """1 when nobody that it conflicts with is ahead of it."""
    return 1 + len({other.seq for other in state.leases.places_against(place.ask, place.rank, place.seq, View())})


def _pool_set(state: "State", command: SetPool, events: Sequence[Recorded], cursor: str) -> replies.PoolInfo:
    """The pool as it was set, which may be another by now, or be gone."""
    if command.pool in state.leases.pools:
        info = pool_info(state, command.pool, cursor)
        return msgspec.structs.replace(info, capacity=command.capacity) if events else info
    return replies.PoolInfo(pool=command.pool, capacity=command.capacity, held=0, waiting=0, cursor=cursor)


def pool_info(state: "State", name: str, cursor: str | None = None) -> replies.PoolInfo:
    """A pool."""
    pool = state.leases.pools[name]
    return replies.PoolInfo(
        pool=name,
        capacity=pool.capacity,
        held=sum(pool.held.values()),
        waiting=sum(pool.waiting.values()),
        owner=UNSET if pool.offer is None else pool.offer.owner,
        cursor=UNSET if cursor is None else cursor,
    )
