"""A hub without a shell that knows leases: who waits is attached, deadlines are armed, nothing expires by itself."""

from collections.abc import Sequence

from tests.core.conftest import SECRET, World

from synapse.core.by import By
from synapse.core.events import (
    Event,
    LeaseExpired,
    LeaseGranted,
    LeaseHandedOff,
    LeaseQueued,
    LeaseReleased,
    LeaseRevoked,
    LeaseUnqueued,
    Recorded,
)
from synapse.core.leases import Lease, Place
from synapse.errors import Rejected
from synapse.protocol.commands import ClaimLease, HandOffLease, Hello, ReleaseLease, SetPool, WithdrawClaim
from synapse.protocol.limits import Limits
from synapse.protocol.terms import HUMAN

TREE = "box:/repo"
TTL_MS = 60_000


class LeaseWorld(World):
    """Agents ada, bob and cy, who are online; dan, who is offline; and hal, a person with a token, who is online."""

    def __init__(self, limits: Limits | None = None) -> None:
        super().__init__(limits)
        self.join("ada", "bob", "cy", "dan")
        self.do(Hello(name="hal", secret=SECRET, kind="human"), By("", None, 1, "main:general", 0, 0))
        self.arrive("ada", "bob", "cy", "hal")

    def by(self, name: str, *, connection: int = 1, home: str = "main:general") -> By:
        """As the world's; hal came with a token of the role human."""
        by = super().by(name, connection=connection, home=home)
        by.role = HUMAN if name == "hal" else by.role
        return by

    def arrive(self, *names: str) -> None:
        """Lasting connections, one for each agent."""
        for name in names:
            agent = self.agent(name)
            self.state.soft.presence.connect(agent, agent, self.at_ms, self.lease_ms, lasting=True)

    def record(self, events: Sequence[Event], actor: str) -> list[Recorded]:
        """As the turn does: events are folded in, deadlines follow."""
        recorded = super().record(events, actor)
        soft = self.state.soft.leasing
        for item in recorded:
            match item.event:
                case LeaseGranted() as event:
                    soft.arm(item.seq, self.lease_ms + event.ttl_ms)
                    for ended in (event.place, event.replaces):
                        if ended is not None:
                            soft.forget(ended)
                case LeaseHandedOff() as handed:
                    soft.forget(handed.previous)
                    if item.seq in self.state.leases.live:  # nothing was granted in place of it at once
                        soft.arm(item.seq, self.lease_ms + self.lease(item.seq).ttl_ms)
                case LeaseReleased() | LeaseExpired() | LeaseRevoked() as ended_lease:
                    soft.forget(ended_lease.epoch)
                case LeaseQueued():
                    soft.attach(item.seq, 1)
                case LeaseUnqueued() as ended_place:
                    soft.forget(ended_place.place)
                case _:
                    pass
        return recorded

    def lease(self, epoch: int) -> Lease:
        """A live lease."""
        return self.state.leases.live[epoch]

    def place(self, seq: int) -> Place:
        """A place in the queue."""
        return self.state.leases.places[seq]

    @property
    def held(self) -> list[tuple[str, str]]:
        """Who holds what, oldest first: agent and task."""
        return [(lease.ask.owner, lease.ask.task) for lease in self.state.leases.live.values()]

    @property
    def waiting(self) -> list[tuple[str, str]]:
        """Who waits for what, in the order in which they began."""
        return [(place.ask.owner, place.ask.task) for place in self.state.leases.places.values()]

    def take(self, name: str, task: str, *paths: str, **fields: object) -> int:
        """A claim that is granted; its epoch."""
        recorded, _ = self.do(claim(task, *paths, **fields), name)
        granted = [item for item in recorded if isinstance(item.event, LeaseGranted)]
        assert granted, f"{name} was not granted {task}: {recorded}"
        event = granted[0].event
        assert isinstance(event, LeaseGranted)
        assert (event.ask.owner, event.ask.task) == (name, task)
        return granted[0].seq

    def wait(self, name: str, task: str, *paths: str, connection: int = 1, **fields: object) -> int:
        """A claim that takes a place in the queue; the place."""
        fields.setdefault("wait_ms", None)
        events = self.decide(claim(task, *paths, **fields), self.by(name, connection=connection))
        assert [type(event) for event in events] == [LeaseQueued], events
        return self.record(events, name)[0].seq

    def refused(self, name: str, task: str, *paths: str, **fields: object) -> Rejected:
        """A claim that is refused, and that it changed nothing."""
        return self.refusal(claim(task, *paths, **fields), name)

    def release(self, name: str, task: str, epoch: int | None = None) -> list[Event]:
        """What a release becomes."""
        return self.events(ReleaseLease(task=task, epoch=epoch), name)

    def withdraw(self, name: str, task: str) -> list[Event]:
        """What a withdrawal becomes."""
        return self.events(WithdrawClaim(task=task), name)

    def hand_off(self, name: str, task: str, to: str, epoch: int | None = None) -> list[Recorded]:
        """What a hand-off becomes."""
        return self.do(HandOffLease(task=task, to=to, epoch=epoch), name)[0]

    def pool(self, name: str, capacity: int) -> list[Event]:
        """An operator makes or changes a pool."""
        return self.events(SetPool(pool=name, capacity=capacity), "operator")

    def leave(self, place: int) -> None:
        """Nobody is attached to the place any more."""
        self.state.soft.leasing.detach(place)


def claim(task: str, *paths: str, **fields: object) -> ClaimLease:
    """A claim in one worktree."""
    if paths or fields.get("whole_worktree"):
        fields.setdefault("worktree", TREE)
    fields.setdefault("ttl_ms", TTL_MS)
    return ClaimLease(task=task, paths=paths, **fields)  # type: ignore[arg-type]  # the fields of the caller


def named(refused: Rejected, what: str = "holders") -> list[dict[str, object]]:
    """The holders or waiters that a refusal names."""
    found = refused.facts[what]
    assert isinstance(found, list)
    return found


def granted_to(events: Sequence[Event]) -> list[tuple[str, str]]:
    """Whom these events granted what."""
    return [(event.ask.owner, event.ask.task) for event in events if isinstance(event, LeaseGranted)]
