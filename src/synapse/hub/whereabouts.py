"""Presence as its followers are told: first everybody who is there, then what changes."""

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


def tell_presence(turns: "Turns") -> None:
    """What changed, to everybody who follows presence."""
    state, durable, changed = turns.state, turns.feeds.durable, turns.state.soft.presence.changed
    agents = [state.agents.by_id[agent] for agent in sorted(changed) if agent in state.agents.by_id]
    for agent in agents:
        state.soft.presence.note_said(agent.id, turns.lease_clock.now_ms)
    changed.clear()
    if not turns.feeds.presence:
        return
    everybody = _diff(turns, durable, agents)
    for subscription in turns.feeds.presence:
        connection = subscription.connection
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


def say_presence(turns: "Turns", subscription: Subscription) -> None:
    """Everybody online or recent, in pages."""
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
