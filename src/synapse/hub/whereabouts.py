"""Presence as its followers are told: first everybody who is there, then what changes.

A thousand followers, or a thousand who are there, are not told in one go: some each time that the loop comes round, so
that nobody's request waits behind them. What changes meanwhile is told when all have heard of what changed before.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from synapse.core.agents import Agent
from synapse.core.answers import presence_entry
from synapse.core.rooms import knows_agent
from synapse.hub.feeds import Subscription
from synapse.protocol.codec import encode_notice
from synapse.protocol.notices import PresenceChanged, PresenceSnapshot

if TYPE_CHECKING:
    from synapse.hub.turn import Turns

PRESENCE_ENTRIES_MAX: Final = 200
"""Agents in one presence notice: with the longest names and kinds it stays below the largest frame."""
AT_ONCE: Final = 32
"""So many followers are told of a change before others have their turn of the loop."""
REST_S: Final = 0.02
"""When more follow than are told at once, changes are gathered for so long."""
ENTRIES_PER_FOLLOWER: Final = 8
"""So many agents that are there cost a newcomer as much as a follower a change."""


class Whereabouts:
    """What followers of presence are told. Its methods run between turns: nothing is told before it is durable."""

    def __init__(self, turns: "Turns", loop: asyncio.AbstractEventLoop) -> None:
        self._turns = turns
        self._loop = loop
        self._agents: list[int] = []
        self._left: deque[Subscription] = deque()
        self._newcomers: deque[Subscription] = deque()
        self._spent = 0
        self._rest_until_s = 0.0
        self._is_resting = False

    def tell(self) -> None:
        """Behind each turn: go on, and begin with what changed in it once all was told."""
        changed = self._turns.state.soft.presence.changed
        if changed or self._left or self._newcomers:
            self._go_on()

    def welcome(self, subscription: Subscription) -> None:
        """A new follower is owed everybody who is online or recent; from then on it hears of changes."""
        self._newcomers.append(subscription)
        self._go_on()

    def _go_on(self) -> None:
        turns, presence = self._turns, self._turns.state.soft.presence
        while self._spent < AT_ONCE:
            if self._newcomers:
                subscription = self._newcomers.popleft()
                if not subscription.is_ended:
                    turns.feeds.presence[subscription] = None
                    self._spend(1 + say_presence(turns, subscription) // ENTRIES_PER_FOLLOWER)
            elif self._left:
                self._tell_some()
            elif presence.changed:
                if self._rests():
                    return
                by_id = turns.state.agents.by_id
                self._agents = [agent for agent in sorted(presence.changed) if agent in by_id]
                presence.changed.clear()
                for agent in self._agents:
                    presence.note_said(agent, turns.lease_clock.now_ms)
                self._left.extend(turns.feeds.presence)
                self._rest_until_s = self._loop.time() + (REST_S if len(self._left) > AT_ONCE else 0.0)
                self._spend(1)
            else:
                return

    def _rests(self) -> bool:
        """True when many were told of something a moment ago, and what changes now is told together."""
        left_s = self._rest_until_s - self._loop.time()
        if left_s > 0 and not self._is_resting:
            self._is_resting = True
            self._loop.call_later(left_s, self._rested)
        return left_s > 0

    def _rested(self) -> None:
        self._is_resting = False
        self._come_round()

    def _spend(self, count: int) -> None:
        if not self._spent:
            self._loop.call_soon(self._come_round)
        self._spent += count

    def _come_round(self) -> None:
        self._spent = 0
        turns = self._turns
        if not turns.is_committing and turns.broken is None:  # else when that is durable, or never
            self._go_on()

    def _tell_some(self) -> None:
        """Those agents as they are now, to the next few followers."""
        turns = self._turns
        state, durable, by_id = turns.state, turns.feeds.durable, turns.state.agents.by_id
        agents = [by_id[agent] for agent in self._agents if agent in by_id]
        everybody = _diff(turns, durable, agents)
        for _ in range(min(len(self._left), AT_ONCE - self._spent)):
            subscription = self._left.popleft()
            self._spend(1)
            connection = subscription.connection
            if subscription.is_ended:
                continue
            if connection.is_stuck:
                subscription.has_stale_presence = True
                continue
            payloads, by = everybody, connection.by
            if by.rooms is not None:
                payloads = _diff(turns, durable, [one for one in agents if knows_agent(state, one.id, by)])
            connection.wire.write(b"".join([connection.wire.frame(payload) for payload in payloads]))


def _diff(turns: "Turns", durable: int, agents: Sequence[Agent]) -> list[bytes]:
    """How these agents are, in notices that fit into a frame."""
    state, lease_ms = turns.state, turns.lease_clock.now_ms
    entries = [presence_entry(state, agent, lease_ms) for agent in agents]
    pages = [entries[start : start + PRESENCE_ENTRIES_MAX] for start in range(0, len(entries), PRESENCE_ENTRIES_MAX)]
    return [encode_notice(durable, PresenceChanged(agents=tuple(page))) for page in pages]


def say_presence(turns: "Turns", subscription: Subscription) -> int:
    """Everybody online or recent, in pages; how many they are."""
    state, lease_ms = turns.state, turns.lease_clock.now_ms
    connection, most = subscription.connection, min(turns.rules.limits.page_items_max, PRESENCE_ENTRIES_MAX)
    present = [
        presence_entry(state, agent, lease_ms)
        for agent in sorted(state.agents.by_id.values(), key=lambda agent: agent.name)
        if state.soft.presence.of(agent.id, lease_ms) != "offline" and knows_agent(state, agent.id, connection.by)
    ]
    pages = [present[start : start + most] for start in range(0, len(present), most)] or [[]]
    for index, page in enumerate(pages):
        notice = PresenceSnapshot(agents=tuple(page), complete=index == len(pages) - 1)
        connection.wire.write(connection.wire.frame(encode_notice(turns.feeds.durable, notice)))
    subscription.has_stale_presence = False
    return len(present)
