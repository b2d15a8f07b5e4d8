"""What the events about leases do to the state, and how they are told: as notices, in inboxes, in words."""

from typing import TYPE_CHECKING, Final, TypeAlias, assert_never, get_args

import msgspec

from synapse.core.events import (
    Ask,
    Event,
    LeaseCheckpointed,
    LeaseExpired,
    LeaseGranted,
    LeaseHandedOff,
    LeaseOffered,
    LeaseParked,
    LeaseQueued,
    LeaseReleased,
    LeaseRenewed,
    LeaseResumed,
    LeaseRevoked,
    LeaseUnqueued,
    PoolDeleted,
    PoolSet,
    Recorded,
)
from synapse.core.idempotency import Remembered
from synapse.core.inboxes import DIRECT, arrive, leave
from synapse.core.leases import Kept, Lease, Place, Pool
from synapse.core.mail import Letter, shown_letter
from synapse.core.refusals import in_room, in_words
from synapse.protocol.cursor import cursor_of, question_id
from synapse.protocol.notices import LeaseChanged, Message

if TYPE_CHECKING:
    from synapse.core.state import State

LeaseEvent: TypeAlias = (
    LeaseGranted
    | LeaseRenewed
    | LeaseReleased
    | LeaseExpired
    | LeaseRevoked
    | LeaseHandedOff
    | LeaseOffered
    | LeaseParked
    | LeaseResumed
    | LeaseCheckpointed
    | LeaseQueued
    | LeaseUnqueued
)

LEASE_EVENTS: Final = frozenset(get_args(LeaseEvent))

_encode: Final = msgspec.json.Encoder().encode


RareLeaseEvent: TypeAlias = (
    LeaseRenewed
    | LeaseExpired
    | LeaseRevoked
    | LeaseHandedOff
    | LeaseOffered
    | LeaseParked
    | LeaseResumed
    | LeaseCheckpointed
    | LeaseQueued
    | LeaseUnqueued
    | PoolSet
    | PoolDeleted
)


def apply_lease(state: "State", recorded: Recorded, event: RareLeaseEvent) -> None:
    """The leases' part of `kernel.apply`, but for the two usual events, which it calls by name."""
    leases = state.leases
    match event:
        case LeaseExpired() | LeaseRevoked():
            apply_end(state, event.epoch)
        case LeaseRenewed():
            lease = leases.live[event.epoch]
            lease.ttl_ms, lease.note, lease.branch = event.ttl_ms, event.note, event.branch
        case LeaseQueued():
            place = Place(
                seq=recorded.seq,
                ask=event.ask,
                ttl_ms=event.ttl_ms,
                priority=event.priority,
                wait_ms=event.wait_ms,
                queued_at_ms=recorded.at_ms,
                tied=event.tied,
                note=event.note,
                branch=event.branch,
                under=event.under,
            )
            if event.idem is not None:
                place.key, place.hash = event.idem.key, event.idem.hash
            enqueue(state, place)
        case LeaseUnqueued():
            _dequeue(state, event.place)
        case LeaseHandedOff():
            old = leases.live[event.previous]
            apply_end(state, event.previous, event.ask)
            leases.add(
                Lease(
                    epoch=recorded.seq,
                    ask=event.ask,
                    ttl_ms=old.ttl_ms if event.ttl_ms is None else event.ttl_ms,
                    granted_at_ms=recorded.at_ms,
                    tied=event.tied,
                    note=old.note if event.note is None else event.note,
                    branch=old.branch if event.branch is None else event.branch,
                    parked=old.parked,
                    questions=old.questions,
                    under=event.under,
                )
            )
            if event.delivery is not None:
                arrive(state, recorded.seq, (event.delivery,), DIRECT)
        case LeaseOffered():
            lease = leases.live[event.epoch]
            _withdraw_offer(state, lease)
            lease.offered_to, lease.offer = event.to.agent, recorded.seq
            arrive(state, recorded.seq, (event.to,), DIRECT)
        case LeaseParked():
            lease = leases.live[event.epoch]
            if event.question is None:
                lease.parked = True
            else:
                lease.questions.append(event.question)
        case LeaseResumed():
            leases.live[event.epoch].parked = False
        case LeaseCheckpointed():
            kept = Kept(event.data, event.artefacts, event.ask.owner, event.epoch, recorded.at_ms)
            is_empty = bytes(event.data) == b"null" and not event.artefacts
            leases.keep((event.ask.room, event.ask.task), None if is_empty else kept)
        case PoolSet():
            pool = leases.pools.get(event.name)
            if pool is None:
                leases.pools[event.name] = Pool(event.name, event.capacity)
            else:
                pool.capacity, pool.offer = event.capacity, None
        case PoolDeleted():
            del leases.pools[event.name]
        case _:
            assert_never(event)


def apply_grant(state: "State", seq: int, at_ms: int, event: LeaseGranted) -> None:
    """A lease begins; the wait and the earlier grant that it comes from end."""
    if event.place is not None:
        place = _dequeue(state, event.place)
        if place.key is not None and (place.ask.owner, place.key) not in state.idempotency.by_key:
            key = Remembered(place.ask.owner, place.key, place.hash, seq, 1, at_ms)
            state.idempotency.remember(key)
    questions: list[int] = []
    if event.replaces is not None:
        questions = state.leases.live[event.replaces].questions
        apply_end(state, event.replaces, event.ask)
    # By place: with names it costs twice as much.
    lease = Lease(seq, event.ask, event.ttl_ms, at_ms, event.tied, event.note, event.branch, event.place)
    lease.questions, lease.under = questions, event.under
    state.leases.add(lease)


def apply_end(state: "State", epoch: int, successor: Ask | None = None) -> None:
    """A lease ends, with what it was offered to somebody for. successor: what is granted in its place."""
    lease = state.leases.end(epoch, successor)
    if lease.offer is not None:
        _withdraw_offer(state, lease)


def enqueue(state: "State", place: Place) -> None:
    """A claim begins to wait; its key is taken until it does no more."""
    state.leases.enqueue(place)
    if place.key is not None:
        owner = place.ask.owner
        waits = Remembered(owner, place.key, place.hash, place.seq, 1, place.queued_at_ms)
        state.idempotency.waiting[owner, place.key] = waits


def _dequeue(state: "State", seq: int) -> Place:
    place = state.leases.dequeue(seq)
    if place.key is not None:
        waits = state.idempotency.waiting.get((place.ask.owner, place.key))
        if waits is not None and waits.seq == seq:
            del state.idempotency.waiting[place.ask.owner, place.key]
    return place


def _withdraw_offer(state: "State", lease: Lease) -> None:
    """An offer is void: it is no more in the inbox of the agent it was made to."""
    if lease.offer is None:
        return
    assert lease.offered_to is not None
    if lease.offered_to in state.agents.inboxes:
        leave(state, lease.offered_to, lease.offer)
    lease.offer = lease.offered_to = None


# How they are told.


def room_of_lease(event: Event) -> int | None:
    """The id of the room that an event about a lease or a place in a queue is of; None for any other event."""
    match event:
        case LeaseReleased() | LeaseExpired() | LeaseRevoked() | LeaseUnqueued():
            return event.room
        case LeaseGranted() | LeaseRenewed() | LeaseHandedOff() | LeaseOffered():
            return event.ask.room
        case LeaseParked() | LeaseResumed() | LeaseCheckpointed() | LeaseQueued():
            return event.ask.room
        case _:
            return None


def shown_change(journal_id: str, recorded: Recorded) -> LeaseChanged | None:
    """An event about a lease as followers of leases see it; None for any other event."""
    event = recorded.event
    if type(event) is LeaseGranted or type(event) is LeaseReleased:
        return shown_usual(journal_id, recorded, event)
    match event:
        case LeaseExpired() | LeaseRevoked() | LeaseUnqueued():
            return _ended(journal_id, recorded, event)
        case LeaseHandedOff() | LeaseRenewed() | LeaseOffered() | LeaseParked() | LeaseResumed():
            return _changed(journal_id, recorded, event)
        case LeaseCheckpointed() | LeaseQueued():
            return _changed(journal_id, recorded, event)
        case _:
            return None


def shown_usual(journal_id: str, recorded: Recorded, event: LeaseGranted | LeaseReleased) -> LeaseChanged:
    """As `shown_change` for the two usual events."""
    if type(event) is LeaseReleased:
        return _ended(journal_id, recorded, event)
    return _changed(journal_id, recorded, event)


def _ended(
    journal_id: str, recorded: Recorded, event: LeaseReleased | LeaseExpired | LeaseRevoked | LeaseUnqueued
) -> LeaseChanged:
    epoch: int | None = None
    place: int | None = None
    if isinstance(event, LeaseUnqueued):
        place = event.place
    else:
        epoch = event.epoch
    return LeaseChanged(
        change=_CHANGES[type(event)],
        task=event.task,
        room=event.room_name,
        owner=event.owner,
        epoch=epoch,
        place=place,
        reason=None if type(event) is LeaseReleased else event.reason,
        by=recorded.actor,
        at_ms=recorded.at_ms,
        cursor=cursor_of(journal_id, recorded.seq),
    )


_WithAsk: TypeAlias = (
    LeaseGranted
    | LeaseHandedOff
    | LeaseRenewed
    | LeaseOffered
    | LeaseParked
    | LeaseResumed
    | LeaseCheckpointed
    | LeaseQueued
)


def _changed(journal_id: str, recorded: Recorded, event: _WithAsk) -> LeaseChanged:
    ask = event.ask
    epoch: int | None = None
    place = previous = ttl_ms = to = None
    match event:
        case LeaseGranted():
            epoch, place, previous, ttl_ms = recorded.seq, event.place, event.replaces, event.ttl_ms
        case LeaseHandedOff():
            epoch, previous, to = recorded.seq, event.previous, ask.owner
        case LeaseRenewed():
            epoch, ttl_ms = event.epoch, event.ttl_ms
        case LeaseOffered():
            epoch, to = event.epoch, event.to.name
        case LeaseQueued():
            place, ttl_ms = recorded.seq, event.ttl_ms
        case LeaseParked() | LeaseResumed() | LeaseCheckpointed():
            epoch = event.epoch
        case _:
            assert_never(event)
    return LeaseChanged(
        change=_CHANGES[type(event)],
        task=ask.task,
        room=ask.room_name,
        owner=ask.owner,
        epoch=epoch,
        place=place,
        previous_epoch=previous,
        worktree=ask.worktree,
        paths=ask.paths,
        mode=ask.mode,
        ttl_ms=ttl_ms,
        to=to,
        by=recorded.actor,
        at_ms=recorded.at_ms,
        cursor=cursor_of(journal_id, recorded.seq),
    )


_CHANGES: Final[dict[type[LeaseEvent], str]] = {
    LeaseGranted: "granted",
    LeaseRenewed: "renewed",
    LeaseReleased: "released",
    LeaseExpired: "expired",
    LeaseRevoked: "revoked",
    LeaseHandedOff: "handed_off",
    LeaseOffered: "offered",
    LeaseParked: "parked",
    LeaseResumed: "resumed",
    LeaseCheckpointed: "checkpointed",
    LeaseQueued: "queued",
    LeaseUnqueued: "wait_ended",
}
assert set(_CHANGES) == LEASE_EVENTS, "every event about a lease has its word"


def shown_arrival(journal_id: str, recorded: Recorded, agent: int) -> Message | None:
    """A hand-off or an offer as the message in the receiver's inbox; None for anything that did not arrive there."""
    event = recorded.event
    if isinstance(event, LeaseHandedOff):
        delivery, kind, sender = event.delivery, "lease.handed_off", event.sender
    elif isinstance(event, LeaseOffered):
        delivery, kind, sender = event.to, "lease.offered", event.ask.owner
    else:
        return None
    if delivery is None or delivery.agent != agent:
        return None
    ask = event.ask
    verb = "renew" if isinstance(event, LeaseHandedOff) else "claim"
    body = {
        "type": kind,
        "task": ask.task,
        "room": ask.room_name,
        "by": sender,
        "epoch": recorded.seq if isinstance(event, LeaseHandedOff) else event.epoch,
        "worktree": ask.worktree,
        "paths": ask.paths,
        "next": f"synapse {verb} {ask.task}{in_room(ask.room_name)}",
    }
    subject = f"{sender} {'handed' if isinstance(event, LeaseHandedOff) else 'offers'} you {ask.task}"
    return shown_letter(journal_id, recorded, delivery, Letter(subject, body), event.traceparent)


def in_a_sentence(recorded: Recorded) -> str:
    """An event about a lease for people; `why` prints these."""
    event, seq, actor = recorded.event, recorded.seq, recorded.actor
    match event:
        case LeaseGranted():
            came = f" after waiting at place {event.place}" if event.place is not None else ""
            fenced = f"; its epoch {event.replaces} is fenced" if event.replaces is not None else ""
            ttl = in_words(event.ttl_ms)
            return f"granted to {event.ask.owner} as epoch {seq}{came}, {_scope(event.ask)}, for {ttl}{fenced}"
        case LeaseRenewed():
            note = f", note: {event.note}" if event.note is not None else ""
            return f"{event.ask.owner} changed it: {in_words(event.ttl_ms)} from each renewal{note}"
        case LeaseReleased():
            return f"released by {event.owner} (epoch {event.epoch})"
        case LeaseExpired():
            why = {
                "ttl": "it was not renewed in time",
                "connection": "its connection went away and did not come back",
                "parked": "it was parked for as long as that is allowed",
            }.get(event.reason, event.reason)
            return f"the lease of {event.owner} expired (epoch {event.epoch}): {why}"
        case LeaseRevoked():
            return f"taken from {event.owner} (epoch {event.epoch}) by {actor}: {event.reason}"
        case LeaseHandedOff():
            return f"handed by {event.sender} (epoch {event.previous}) to {event.ask.owner} as epoch {seq}"
        case LeaseOffered():
            return f"offered by {event.ask.owner} to {event.to.name}, who was offline (epoch {event.epoch})"
        case LeaseParked():
            asked = "" if event.question is None else f", who asks people {question_id(event.question)}"
            return f"parked by {event.ask.owner}{asked}: its time stands still (epoch {event.epoch})"
        case LeaseResumed():
            return f"resumed by {actor}: its time runs on (epoch {event.epoch})"
        case LeaseCheckpointed():
            files = f" and {len(event.artefacts)} files" if event.artefacts else ""
            return f"{event.ask.owner} kept a checkpoint of {len(bytes(event.data))} bytes{files} (epoch {event.epoch})"
        case LeaseQueued():
            return f"{event.ask.owner} began to wait, {event.priority} priority, place {seq}, {_scope(event.ask)}"
        case LeaseUnqueued():
            why = {
                "deadline": "its deadline passed",
                "gone": "it went away and did not come back",
                "withdrawn": "it withdrew",
                "forgotten": "the agent was forgotten",
                "removed": "it was put out of the private room",
                "handed_off": "the lease was handed to it",
                "offer_ended": "a resource that it waited for is not lent any more",
                "too_few_units": "its pool has fewer units by now than it waited for",
            }.get(event.reason, event.reason)
            return f"{event.owner} waits no more at place {event.place}: {why}"
        case _:
            raise AssertionError(f"{type(event).__name__} is not about a lease")


def _scope(ask: Ask) -> str:
    parts: list[str] = []
    if ask.whole:
        parts.append("the whole worktree")
    elif ask.paths:
        parts.append(", ".join(ask.paths[:3]) + (f" and {len(ask.paths) - 3} more" if len(ask.paths) > 3 else ""))
    parts += [f"{units} of pool {name}" for name, units in ask.pools]
    words = ", with ".join(parts) if parts else "the task alone"
    return f"{ask.mode} {words}" if ask.mode == "shared" else words
