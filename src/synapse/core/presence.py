"""Who is here: soft state, computed from open connections and the last activity.

online: at least one lasting connection, or a long poll on any. recent: active within 5 minutes. offline: neither.
One-shot connections only touch the last activity and make no diff. wakeable: something waits for the agent's inbox,
in a long poll or a feed; what dies takes its connection with it, and is not counted any more.
"""

from dataclasses import dataclass, field
from typing import Final

RECENT_MS: Final = 5 * 60 * 1000

ONLINE = "online"
RECENT = "recent"
OFFLINE = "offline"


@dataclass(slots=True)
class Here:
    """One agent's soft record. active_ms is on the lease clock, the `…_at_ms` are for people.

    polls: long polls by connection. wakes: what waits for the inbox, by connection. said: what followers know.
    """

    lasting: set[int] = field(default_factory=set)
    polls: dict[int, int] = field(default_factory=dict)
    wakes: dict[int, int] = field(default_factory=dict)
    open: int = 0
    status: str = "idle"
    connected_since_at_ms: int | None = None
    last_activity_at_ms: int | None = None
    active_ms: int | None = None
    said: str = OFFLINE
    said_wakeable: bool = False

    @property
    def is_online(self) -> bool:
        """True while a connection stays, or waits."""
        return bool(self.lasting or self.polls)

    @property
    def is_wakeable(self) -> bool:
        """True while something waits for the inbox."""
        return bool(self.wakes)


def _count(counts: dict[int, int], connection: int, step: int) -> None:
    number = counts.get(connection, 0) + step
    if number > 0:
        counts[connection] = number
    else:
        counts.pop(connection, None)


@dataclass(slots=True)
class Presence:
    """Records by agent id, and the agents whose presence or status changed since the last diff."""

    here: dict[int, Here] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)

    def touch(self, agent: int, at_ms: int, lease_ms: int) -> Here:
        """Note that an agent did something just now."""
        record = self.here.get(agent)
        if record is None:
            record = self.here[agent] = Here()
        record.last_activity_at_ms = at_ms
        record.active_ms = lease_ms
        return record

    def connect(self, agent: int, connection: int, at_ms: int, lease_ms: int, *, lasting: bool) -> None:
        """A connection of this agent was welcomed."""
        record = self.touch(agent, at_ms, lease_ms)
        record.open += 1
        if not lasting:
            return
        if not record.is_online:
            record.connected_since_at_ms = at_ms
            self.changed.add(agent)
        record.lasting.add(connection)

    def disconnect(self, agent: int, connection: int, at_ms: int, lease_ms: int) -> None:
        """A connection of this agent is gone."""
        record = self.here.get(agent)
        if record is None:
            return
        record.open -= 1
        if record.wakes.pop(connection, 0) and not record.is_wakeable:
            self.changed.add(agent)
        if record.polls.pop(connection, 0) or connection in record.lasting:
            record.lasting.discard(connection)
            record.last_activity_at_ms = at_ms
            record.active_ms = lease_ms
            if not record.is_online:
                record.connected_since_at_ms = None
                self.changed.add(agent)

    def poll(self, agent: int, connection: int, at_ms: int) -> None:
        """A long poll of this agent begins."""
        record = self.here.setdefault(agent, Here())
        if not record.is_online:
            record.connected_since_at_ms = at_ms
            self.changed.add(agent)
        _count(record.polls, connection, 1)

    def wake(self, agent: int, connection: int) -> None:
        """Something of this agent begins to wait for its inbox."""
        record = self.here.setdefault(agent, Here())
        if not record.is_wakeable:
            self.changed.add(agent)
        _count(record.wakes, connection, 1)

    # A poll that ends is mostly followed by the next one at once: that is told by `fade`, if it still is so then.

    def unpoll(self, agent: int, connection: int) -> None:
        """A long poll is answered."""
        record = self.here.get(agent)
        if record is not None:
            _count(record.polls, connection, -1)
            if not record.is_online:
                record.connected_since_at_ms = None

    def unwake(self, agent: int, connection: int) -> None:
        """Something waits for the inbox no more."""
        record = self.here.get(agent)
        if record is not None:
            _count(record.wakes, connection, -1)

    def declare(self, agent: int, status: str) -> None:
        """An agent said what it is doing."""
        record = self.here.setdefault(agent, Here())
        if record.status != status:
            record.status = status
            self.changed.add(agent)

    def forget(self, agent: int) -> None:
        """An agent does not exist any more."""
        self.here.pop(agent, None)
        self.changed.discard(agent)

    def note_said(self, agent: int, lease_ms: int) -> None:
        """Subscribers are told now what this agent's presence is."""
        record = self.here.get(agent)
        if record is not None:
            record.said = self.of(agent, lease_ms)
            record.said_wakeable = record.is_wakeable

    def fade(self, lease_ms: int) -> None:
        """Agents that are less present by now than was last said, or not wakeable any more, become a diff."""
        for agent, record in self.here.items():
            if record.said == RECENT:
                if self.of(agent, lease_ms) == OFFLINE:
                    self.changed.add(agent)
            elif (record.said == ONLINE and not record.is_online) or (record.said_wakeable and not record.is_wakeable):
                self.changed.add(agent)

    def of(self, agent: int, lease_ms: int) -> str:
        """online, recent or offline."""
        record = self.here.get(agent)
        if record is None:
            return OFFLINE
        if record.is_online:
            return ONLINE
        if record.active_ms is not None and lease_ms - record.active_ms < RECENT_MS:
            return RECENT
        return OFFLINE

    def is_online(self, agent: int) -> bool:
        """Whether an agent is online."""
        record = self.here.get(agent)
        return record is not None and record.is_online

    def online(self) -> int:
        """How many agents are online."""
        return sum(1 for record in self.here.values() if record.is_online)
