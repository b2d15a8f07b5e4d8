"""Who is here: soft state, computed from open connections and the last activity.

online: at least one lasting connection. recent: active within 5 minutes. offline: neither. One-shot connections only
touch the last activity and make no diff.
"""

from dataclasses import dataclass, field
from typing import Final

RECENT_MS: Final = 5 * 60 * 1000

ONLINE = "online"
RECENT = "recent"
OFFLINE = "offline"


@dataclass(slots=True)
class Here:
    """One agent's soft record. lasting: its connections that stay; polling: those with a long poll. active_ms is on the
    lease clock, the `…_at_ms` are for people."""

    lasting: set[int] = field(default_factory=set)
    polling: set[int] = field(default_factory=set)
    open: int = 0
    status: str = "idle"
    connected_since_at_ms: int | None = None
    last_activity_at_ms: int | None = None
    active_ms: int | None = None
    said: str = OFFLINE


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
        if not record.lasting:
            record.connected_since_at_ms = at_ms
            self.changed.add(agent)
        record.lasting.add(connection)

    def disconnect(self, agent: int, connection: int, at_ms: int, lease_ms: int) -> None:
        """A connection of this agent is gone."""
        record = self.here.get(agent)
        if record is None:
            return
        record.open -= 1
        record.polling.discard(connection)
        if connection in record.lasting:
            record.lasting.discard(connection)
            record.last_activity_at_ms = at_ms
            record.active_ms = lease_ms
            if not record.lasting:
                record.connected_since_at_ms = None
                self.changed.add(agent)

    def poll(self, agent: int | None, connection: int, *, waits: bool) -> None:
        """A connection of this agent has a long poll, or has none any more."""
        record = None if agent is None else self.here.get(agent)
        if record is not None and waits:
            record.polling.add(connection)
        elif record is not None:
            record.polling.discard(connection)

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

    def fade(self, lease_ms: int) -> None:
        """Agents that were last said to be recent and are offline by now become a diff."""
        for agent, record in self.here.items():
            if record.said == RECENT and self.of(agent, lease_ms) == OFFLINE:
                self.changed.add(agent)

    def of(self, agent: int, lease_ms: int) -> str:
        """online, recent or offline."""
        record = self.here.get(agent)
        if record is None:
            return OFFLINE
        if record.lasting:
            return ONLINE
        if record.active_ms is not None and lease_ms - record.active_ms < RECENT_MS:
            return RECENT
        return OFFLINE

    def online(self) -> int:
        """How many agents are online."""
        return sum(1 for record in self.here.values() if record.lasting)
