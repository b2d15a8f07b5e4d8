"""What an event, or time alone, brings about beside the state: whom it wakes, whose feeds end, what is over.

Both run inside a turn. What usually happens (a message without mentions, leases) is looked at in the turn itself.
"""

from functools import partial
from typing import TYPE_CHECKING

from synapse.core import telling
from synapse.core.events import (
    AgentForgotten,
    ChannelDeleted,
    ChannelLeft,
    MessagePosted,
    MessageRevived,
    MessagesAcked,
    MessagesDropped,
    MessageSent,
    Recorded,
    RoomCreated,
    RoomDeleted,
    RoomJoined,
    RoomLeft,
)
from synapse.core.held_events import HeldDropped, HeldReleased
from synapse.core.mail import Mail
from synapse.core.plan_events import TaskMoved, TaskNoted
from synapse.core.role_events import RoleDeleted
from synapse.core.room_events import MemberRemoved
from synapse.hub.consequences import end_what_is_due
from synapse.hub.tokens import expire_tokens

if TYPE_CHECKING:
    from synapse.hub.turn import Turns


def take_effect(turns: "Turns", entry: Recorded) -> None:
    """An event was folded in that is not about a lease."""
    event = entry.event
    if type(event) is MessagesAcked:
        turns.waiting.on_acked(event)
        return
    if isinstance(event, (MessagePosted, MessageSent, Mail)):
        turns.arrived(telling.arrivals(event))
    match event:
        case TaskNoted() | TaskMoved():
            turns.leasing.on_progress(event)
        case MessageRevived() | MessagesDropped():
            turns.letters.on_event(event)
        case AgentForgotten() | RoleDeleted():
            turns.waiting.on_forgotten()
        case HeldDropped() | HeldReleased():
            turns.waiting.on_decided(event.held)
        case RoomLeft() | ChannelLeft() | MemberRemoved():
            _hide(turns, event)
        case RoomJoined() | RoomCreated():
            _show(turns, event)
        case ChannelDeleted() | RoomDeleted():
            turns.after_release(lambda: turns.feeds.end_gone(list(turns.peers.connections.values())))
            turns.after_release(turns.signals.forget_gone)
        case _:
            pass


def _show(turns: "Turns", event: RoomJoined | RoomCreated) -> None:
    """Leases of a room are told to who came into a private one, and to who has a token for its name when it is made."""
    if isinstance(event, RoomCreated):
        connections = [other for other in turns.peers.connections.values() if event.name in (other.by.rooms or ())]
    elif event.room in turns.state.rooms.private:
        connections = list(turns.of_agent.get(turns.state.agents.by_id[event.agent].name, ()))
    else:
        return
    for subscription in turns.feeds.widen(connections):
        turns.after_release(partial(turns.feeds.start, subscription))


def _hide(turns: "Turns", event: RoomLeft | ChannelLeft | MemberRemoved) -> None:
    """Who is no member any more is told no more of what is private, from this event on."""
    agent, rooms = turns.state.agents.by_id[event.agent], turns.state.rooms
    channel = None if isinstance(event, RoomLeft) else event.channel
    room = rooms.channels[event.channel].room if isinstance(event, ChannelLeft) else event.room
    if not rooms.by_id[room].private and (channel is None or not rooms.channels[channel].private):
        return
    ended = turns.feeds.end_hidden(turns.of_agent.get(agent.name, ()), room, channel)
    if ended:
        turns.after_release(lambda: turns.feeds.say_gone(ended))


def pass_time(turns: "Turns") -> None:
    """What time alone brings about, a few times a second."""
    now_ms = turns.clock.monotonic_ms()
    expire_tokens(turns)
    if turns.is_read_only:  # perhaps only since the commit behind which this tick waited
        turns.waiting.end_late(now_ms)
        return
    state, lease_ms = turns.state, turns.lease_clock.now_ms
    for lend in state.soft.lending.overdue(lease_ms):
        turns.letters.give_back(lend)
    state.soft.presence.fade(lease_ms)
    turns.waiting.look_again()
    turns.waiting.end_late(now_ms)
    turns.leasing.tick()
    end_what_is_due(turns)
    turns.peers.sweep(now_ms)
    turns.disk.sweep(now_ms)
