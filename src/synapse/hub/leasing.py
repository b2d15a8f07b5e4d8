"""Leases as the turn sees them: deadlines armed, claims that wait, holders told that a lease is lost."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from synapse.core.claims import GRANT_BYTES_MAX, decide_attach, decide_serve
from synapse.core.events import (
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
    Recorded,
)
from synapse.core.holding import decide_expiry, decide_unqueue, lease_of
from synapse.core.idempotency import conflict
from synapse.core.lease_answers import claimed_lease, lease_info, position_of
from synapse.core.leases import Lease, Place, View, in_line
from synapse.core.leasing import HANDED_OFF, PARKED, PREEMPTED, REPLACED, TTL, arm_all
from synapse.core.plan_events import TaskMoved, TaskNoted
from synapse.core.refusals import holder_facts, in_words, masked
from synapse.core.resources import OFFER_ENDED, TOO_FEW_UNITS, decide_expired, due
from synapse.core.resuming import with_resume
from synapse.errors import Rejected
from synapse.hub.connection import Connection
from synapse.protocol.codec import Request, RequestId, encode_notice
from synapse.protocol.commands import ClaimLease, RenewLease
from synapse.protocol.cursor import cursor_of
from synapse.protocol.notices import ClaimQueued, LeaseLost
from synapse.protocol.replies import Lease as LeaseReply

if TYPE_CHECKING:
    from synapse.hub.turn import Turns

EXPIRIES_MAX: Final = 1_000
"""Leases and places that end in one tick; the others follow in the next."""
_WHY: Final = {
    OFFER_ENDED: "what it waited for is not lent any more",
    TOO_FEW_UNITS: "its pool has fewer units by now than it waits for (synapse pool list)",
    REPLACED: "another request of this agent took the task with another scope, units or mode; claim it again for these",
}
"""Why a wait ended, for people, where the reason does not say it."""


@dataclass(slots=True)
class Claimer:
    """Who waits for a place, on which connection, with which request."""

    connection: Connection
    request_id: RequestId


class Leasing:
    """The leases of one `Turns`."""

    def __init__(self, turns: "Turns") -> None:
        self._turns = turns
        self._state = turns.state
        self._limits = turns.rules.limits
        self._soft = turns.state.soft.leasing
        self._soft.stalled_ms = self._limits.stalled_ms
        self._claimers: dict[int, Claimer] = {}
        self.granted: list[tuple[Connection, RequestId, LeaseReply]] = []
        """Answers to those who waited, until what follows from their grants is folded in."""
        self._has_more = False
        """A decision that granted places may have had to end early."""
        self.asker: Connection | None = None
        """Who asked for what is being recorded: it knows."""

    @property
    def count(self) -> int:
        """How many requests wait for a lease."""
        return len(self._claimers)

    def begin(self) -> None:
        """The hub started: every deadline is armed in full."""
        arm_all(self._state, self._limits, self._turns.lease_clock.now_ms)

    # Waiting.

    def takes_up(self, connection: Connection, request: Request, digest: str) -> bool:
        """True for a claim that takes up the place it had in the queue. Raises `Rejected`."""
        command = request.command
        assert isinstance(command, ClaimLease)
        self._require_may_wait(connection, command)
        place = self._place_of(connection, command, request.idem_key, digest)
        if place is None:
            return False
        self.wait(connection, request.id, place)
        return True

    def _require_may_wait(self, connection: Connection, command: ClaimLease) -> None:
        """Raises `Rejected(limit)` when the connection waits as often as it may."""
        if command.wait_ms != 0 and connection.waiting >= self._limits.waiting_max:
            raise Rejected(
                "limit",
                f"this connection has {self._limits.waiting_max} requests that wait already (waiting_max)",
                {"limit": "waiting_max", "value": self._limits.waiting_max},
            )

    def _place_of(self, connection: Connection, command: ClaimLease, key: str | None, digest: str) -> Place | None:
        """The place that this claim takes up again, if it is still in the queue. digest: of the payload under `key`.

        Raises `Rejected(idem_conflict)` when the key waits there with another payload.
        """
        agent = connection.by.agent
        if agent is None or (command.place is None and key is None):
            return None
        for place in self._state.leases.places_of_agent.get(agent, {}).values():
            if key is not None and place.key == key:
                if place.hash != digest and place.seq != command.place:
                    raise conflict(place.queued_at_ms, place.seq)
                return place
            if place.seq == command.place and place.ask.task == command.task:
                return place
        return None

    def wait(self, connection: Connection, request_id: RequestId, place: Place) -> None:
        """The claim waits at `place`. Who waited there before is told that somebody else does now."""
        before = self._claimers.pop(place.seq, None)
        if before is not None:
            self._unpark(before)
            refusal = Rejected("withdrawn", f"place {place.seq} was taken up by another request")
            self._turns.refuse(before.connection, before.request_id, refusal)
        self._turns.waiting.begin(connection)
        self._claimers[place.seq] = Claimer(connection, request_id)
        lease_ms = self._turns.lease_clock.now_ms
        self._soft.await_turn(place.seq, connection.id)
        granted = decide_attach(self._state, place)
        if granted and not self._turns.is_read_only:
            self._turns.record(granted, "hub")
            return
        self._say_queued(connection, request_id, place, lease_ms)

    def _say_queued(self, connection: Connection, request_id: RequestId, place: Place, lease_ms: int) -> None:
        if request_id is None:
            return
        against = [item for item in self._state.leases.leases_against(place.ask, View()) if isinstance(item, Lease)]
        by = connection.by
        by.lease_ms = lease_ms
        until_ms = self._soft.until.get(place.seq)
        notice = ClaimQueued(
            request=request_id,
            task=place.ask.task,
            room=place.ask.room_name,
            place=place.seq,
            position=position_of(self._state, place),
            deadline_ms=None if until_ms is None else max(0, until_ms - lease_ms),
            holders=tuple(holder_facts(self._state, against, by)),
        )
        self._turns.say(connection, encode_notice(self._state.seq, notice))

    def _unpark(self, claimer: Claimer) -> None:
        self._turns.waiting.unpark(claimer.connection)

    def drop(self, connection: Connection) -> None:
        """A connection has gone: what is tied to it has a grace, its places the time to be taken up again."""
        for seq in [seq for seq, claimer in self._claimers.items() if claimer.connection is connection]:
            del self._claimers[seq]
        self._soft.disconnect(connection.id, self._limits, self._turns.lease_clock.now_ms)

    # What follows from events, and what does without them.

    def after_claim(self, connection: Connection, command: ClaimLease, recorded: list[Recorded]) -> None:
        """A claim was carried out: the deadline moves, and a tied lease belongs to this connection."""
        if len(recorded) == 1 and type(recorded[0].event) is LeaseGranted:  # the usual grant: its deadline is armed
            if command.tied:
                self._soft.tie(recorded[0].seq, connection.id)
            return
        epoch = claimed_lease(self._state, command, connection.by, recorded)[0]
        self._renew(self._state.leases.live[epoch], connection)

    def after_renewal(self, connection: Connection, command: RenewLease) -> None:
        """As `after_claim`."""
        self._renew(lease_of(self._state, command.task, command.room, command.epoch, connection.by), connection)

    def _renew(self, lease: Lease, connection: Connection) -> None:
        owner = connection if lease.ask.agent == connection.by.agent else None
        self._soft.renew(lease, connection.id if owner is not None else 0, self._turns.lease_clock.now_ms)

    def on_event(self, entry: Recorded) -> None:
        """An event about a lease was folded in."""
        soft, event = self._soft, entry.event
        if type(event) is LeaseReleased:
            soft.forget(event.epoch)
            if len(self._turns.of_agent.get(event.owner, ())) > 1 or event.owner != entry.actor:
                self._say_ended(event.owner, entry, event.task, event.room_name, event.epoch, "released")
            return
        lease_ms = self._turns.lease_clock.now_ms
        if type(event) is LeaseGranted:
            soft.arm(entry.seq, lease_ms + event.ttl_ms)
            soft.moved[entry.seq] = lease_ms
            if event.replaces is not None or event.place is not None:
                self._follows(entry, event, lease_ms)
            return
        match event:
            case LeaseExpired() | LeaseRevoked():
                soft.forget(event.epoch)
                lost = LeaseLost(
                    task=event.task, room=event.room_name, epoch=event.epoch, reason=event.reason, by=entry.actor
                )
                self._say_lost(event.owner, lost)
            case LeaseOffered():
                self._turns.arrived([event.to.agent])
            case LeaseHandedOff():
                if event.delivery is not None:
                    self._turns.arrived([event.delivery.agent])
                soft.forget(event.previous)
                soft.moved[entry.seq] = lease_ms
                lease = self._state.leases.live[entry.seq]
                if lease.is_parked:  # the receiver has not begun yet
                    soft.left[entry.seq] = lease.ttl_ms
                    soft.arm(entry.seq, lease_ms + self._limits.parked_ms_max, PARKED)
                else:
                    soft.arm(entry.seq, lease_ms + lease.ttl_ms)
                ask = event.ask
                self._say_ended(event.sender, entry, ask.task, ask.room_name, event.previous, HANDED_OFF)
            case LeaseCheckpointed() | LeaseRenewed():
                soft.moved[event.epoch] = lease_ms
            case LeaseParked() if soft.reasons.get(event.epoch) == PARKED:
                pass  # it stands still already
            case LeaseParked():
                soft.left[event.epoch] = max(0, soft.deadlines[event.epoch] - lease_ms)
                soft.untie(event.epoch)
                soft.arm(event.epoch, lease_ms + self._limits.parked_ms_max, PARKED)
            case LeaseResumed():
                left = soft.left.pop(event.epoch, self._state.leases.live[event.epoch].ttl_ms)
                soft.arm(event.epoch, lease_ms + left)
            case LeaseQueued():
                if event.wait_ms is not None:
                    soft.until[entry.seq] = lease_ms + event.wait_ms
            case LeaseUnqueued():
                soft.forget(event.place)
                self._refuse_claimer(event)
            case _:
                pass

    def on_progress(self, event: TaskNoted | TaskMoved) -> None:
        """Somebody wrote into the ledger of a task, or moved it: a holder who did has shown progress."""
        if event.epoch in self._state.leases.live:
            assert event.epoch is not None
            self._soft.moved[event.epoch] = self._turns.lease_clock.now_ms

    def _follows(self, entry: Recorded, event: LeaseGranted, lease_ms: int) -> None:
        """A grant in place of an earlier one, or of somebody who waited."""
        soft, turns = self._soft, self._turns
        if event.replaces is not None:
            soft.forget(event.replaces)
            lease = self._state.leases.live[entry.seq]
            if lease.is_parked:  # questions that it asked under the grant before are open
                soft.left[entry.seq] = lease.ttl_ms
                soft.arm(entry.seq, lease_ms + self._limits.parked_ms_max, PARKED)
            ask = event.ask
            lost = LeaseLost(task=ask.task, room=ask.room_name, epoch=event.replaces, reason="replaced", by=entry.actor)
            self._say_lost(ask.owner, lost)
        if event.place is None:
            return
        self._has_more = self._has_more or turns.event_bytes > GRANT_BYTES_MAX // 5  # what it estimates, at least
        soft.forget(event.place)
        claimer = self._claimers.pop(event.place, None)
        if claimer is None:
            return
        self._unpark(claimer)
        connection = claimer.connection
        if event.tied:
            soft.tie(entry.seq, connection.id)
        by = connection.by
        by.at_ms, by.lease_ms = turns.now_at_ms, lease_ms
        cursor = cursor_of(self._state.journal_id, entry.seq)
        info = lease_info(self._state, self._state.leases.live[entry.seq], by, outcome="granted", cursor=cursor)
        self.granted.append((connection, claimer.request_id, info))

    def say_granted(self) -> None:
        """Answer who waited, with what was taken up by the grant."""
        granted, self.granted = self.granted, []
        for connection, request_id, info in granted:
            live = self._state.leases.live.get(info.epoch)
            if live is not None:  # what follows from the grant is folded in by now, as a new status of the task
                cursor = cursor_of(self._state.journal_id, self._state.seq)
                info = lease_info(self._state, live, connection.by, outcome="granted", cursor=cursor)
            self._turns.reply(connection, request_id, with_resume(self._state, info, self._turns.now_at_ms))

    def _refuse_claimer(self, event: LeaseUnqueued) -> None:
        claimer = self._claimers.pop(event.place, None)
        if claimer is None:
            return
        self._unpark(claimer)
        if event.reason in (HANDED_OFF, PREEMPTED):  # the lease came to it by another way
            for lease in self._state.leases.of_task[event.room, event.task].values():
                if lease.ask.owner == event.owner and lease.ask.reentrant:
                    by = claimer.connection.by
                    by.at_ms, by.lease_ms = self._turns.now_at_ms, self._turns.lease_clock.now_ms
                    cursor = cursor_of(self._state.journal_id, self._state.seq)
                    info = lease_info(self._state, lease, by, outcome="granted", cursor=cursor)
                    self.granted.append((claimer.connection, claimer.request_id, info))
                    return
        if event.reason == "deadline":
            refusal = Rejected(
                "deadline", f"{event.task} was not free in the time given for waiting; the place in line is given up"
            )
        else:
            why = _WHY.get(event.reason, event.reason)
            refusal = Rejected("withdrawn", f"the wait for {event.task} at place {event.place} ended: {why}")
        self._turns.refuse(claimer.connection, claimer.request_id, refusal)

    def _say_ended(self, owner: str, entry: Recorded, task: str, room: str, epoch: int, reason: str) -> None:
        """One connection of the agent gave it up: the others, one of which may work under it, are told."""
        lost = LeaseLost(task=task, room=room, epoch=epoch, reason=reason, by=entry.actor)
        self._say_lost(owner, lost, self.asker)

    def _say_lost(self, owner: str, lost: LeaseLost, but: Connection | None = None) -> None:
        """To every lasting connection of the agent, but that one."""
        connections = self._turns.of_agent.get(owner)
        if not connections:
            return
        agent = self._state.agents.by_name.get(owner)
        here = None if agent is None else self._state.soft.presence.here.get(agent.id)
        if here is None:
            return
        payload = encode_notice(self._state.seq, lost)
        for connection in connections:
            if connection.id in here.lasting and connection is not but:
                self._turns.notify(connection, payload)

    def on_writable(self) -> None:
        """There is space again: who came back for its turn while there was none gets it."""
        places = self._state.leases.places
        for place in in_line([places[seq] for seq in self._claimers]):
            if place.seq in self._claimers:
                self._turns.record(decide_attach(self._state, place), "hub")

    def tick(self) -> None:
        """Whose deadline has passed is expired; who waited long enough, or did not come back, waits no more."""
        turns, soft, leases = self._turns, self._soft, self._state.leases
        if self._has_more:
            self._has_more = False
            turns.record(decide_serve(self._state), "hub")
        for key in soft.due(turns.lease_clock.now_ms, EXPIRIES_MAX):
            if not turns.has_room:
                break
            lease, place = leases.live.get(key), leases.places.get(key)
            reason = soft.reasons.get(key, TTL)
            events: list[Event]
            if lease is not None:
                events = decide_expiry(self._state, lease, reason)
            elif place is not None:
                if key in self._claimers:
                    self._late(place)
                    continue
                events = decide_unqueue(self._state, [place], reason)
            else:
                continue
            turns.record(events, "hub")
        self._end_offers()

    def _end_offers(self) -> None:
        """The time of what agents lend has passed."""
        turns, leases = self._turns, self._state.leases
        while leases.offer_ends and turns.has_room:
            name = due(leases, turns.now_at_ms)
            if name is None:
                return
            turns.record(decide_expired(self._state, name), "hub")

    def _late(self, place: Place) -> None:
        """The deadline of a wait passed. What it waited for is named once more."""
        state, lease_ms = self._state, self._turns.lease_clock.now_ms
        claimer = self._claimers.pop(place.seq)
        against = [item for item in state.leases.leases_against(place.ask, View()) if isinstance(item, Lease)]
        by = claimer.connection.by
        by.lease_ms = lease_ms
        facts: dict[str, object] = {"holders": holder_facts(state, against, by), "place": place.seq}
        self._turns.record(decide_unqueue(state, [place], "deadline"), "hub")
        why = "others ahead in line"
        if against:
            left_ms = self._soft.remaining_ms(against[0], lease_ms)
            rest = "parked" if left_ms is None else f"for another {in_words(left_ms)}"
            first = masked(state, against[0].ask, by)
            why = f"{first.owner} holds {first.task} with epoch {against[0].epoch}, {rest}"
        self._unpark(claimer)
        refusal = Rejected("deadline", f"{place.ask.task} was not free in the time given for waiting: {why}", facts)
        self._turns.refuse(claimer.connection, claimer.request_id, refusal)
