"""Presence as its followers are told: first everybody who is there, then what changes."""

from typing import TYPE_CHECKING, Final

from synapse.core.answers import presence_entry
from synapse.hub.feeds import Subscription
from synapse.protocol.codec import encode_notice
from synapse.protocol.notices import PresenceChanged, PresenceSnapshot

if TYPE_CHECKING:
    from synapse.hub.turn import Turns

PRESENCE_ENTRIES_MAX: Final = 200
"""Agents in one presence notice: with the longest names and kinds it stays below the largest frame."""


def tell_presence(turns: "Turns") -> None:
    """What changed, to everybody who follows presence."""
    durable, changed = turns.feeds.durable, turns.state.soft.presence.changed
    payloads = [encode_notice(durable, notice) for notice in _diff(turns, changed)]
    changed.clear()
    for subscription in turns.feeds.presence:
        connection = subscription.connection
        if connection.is_stuck:
            subscription.has_stale_presence = True
        else:
            connection.wire.write(b"".join([connection.wire.frame(payload) for payload in payloads]))


def _diff(turns: "Turns", changed: set[int]) -> list[PresenceChanged]:
    """The changed agents that still exist, in notices that fit into a frame."""
    state, lease_ms = turns.state, turns.lease_clock.now_ms
    agents = [state.agents.by_id[agent] for agent in sorted(changed) if agent in state.agents.by_id]
    for agent in agents:
        state.soft.presence.note_said(agent.id, lease_ms)
    entries = [presence_entry(state, agent, lease_ms) for agent in agents]
    pages = range(0, len(entries), PRESENCE_ENTRIES_MAX)
    return [PresenceChanged(agents=tuple(entries[start : start + PRESENCE_ENTRIES_MAX])) for start in pages]


def say_presence(turns: "Turns", subscription: Subscription) -> None:
    """Everybody online or recent, in pages."""
    state, lease_ms = turns.state, turns.lease_clock.now_ms
    connection, most = subscription.connection, min(turns.rules.limits.page_items_max, PRESENCE_ENTRIES_MAX)
    present = [
        presence_entry(state, agent, lease_ms)
        for agent in sorted(state.agents.by_id.values(), key=lambda agent: agent.name)
        if state.soft.presence.of(agent.id, lease_ms) != "offline"
    ]
    pages = [present[start : start + most] for start in range(0, len(present), most)] or [[]]
    for index, page in enumerate(pages):
        notice = PresenceSnapshot(agents=tuple(page), complete=index == len(pages) - 1)
        connection.wire.write(connection.wire.frame(encode_notice(turns.feeds.durable, notice)))
    subscription.has_stale_presence = False
