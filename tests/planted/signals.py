"""One-line faults in what is told and not kept."""

from tests.planted.fault import Fault

SIGNALS, HUB, ACTIVITY = "core/signals.py", "hub/signals.py", "hub/activity.py"
_CORE, _HUB = ("tests/core/test_signals.py",), ("tests/hub/test_signals.py",)
_ACTIVITY = ("tests/hub/test_activity.py", *_HUB)

SIGNAL_FAULTS = [
    Fault(
        "a signal is journalled after all",
        "core/messages.py",
        "    if channel.ephemeral:\n        require_signal(",
        "    if channel is None:\n        require_signal(",
        _CORE,
    ),
    Fault(
        "a stuck follower is told signals",
        HUB,
        "            or connection.is_stuck\n            or connection.wire.buffered() >= self._outbox_max\n",
        "",
        _HUB,
    ),
    Fault(
        "a follower that is catching up is told signals",
        HUB,
        "            not subscription.is_live\n            or not len(batch)",
        "            not len(batch)",
        _HUB,
    ),
    Fault(
        "what was missed is forgotten when again nothing is told",
        HUB,
        "                subscription.missed = lost if given else subscription.missed + lost",
        "                subscription.missed = lost",
        _HUB,
    ),
    Fault(
        "what was missed is told twice",
        HUB,
        "                subscription.missed = lost if given else subscription.missed + lost",
        "                subscription.missed += lost",
        _HUB,
    ),
    Fault(
        "one connection may send without end",
        HUB,
        "if self._of_connection[connection] > self._limits.signals_per_turn_max:",
        "if self._of_connection[connection] > 1 << 30:",
        _HUB,
    ),
    Fault(
        "signals overtake what is durable",
        HUB,
        "        self.has_something = True\n        sent = Sent(",
        "        self.has_something = True\n        self.tell()\n        sent = Sent(",
        _HUB,
    ),
    Fault(
        "activity of a hidden room is told",
        ACTIVITY,
        "return may_see(self.room, by) and (self.agent is None or knows_agent(state, self.agent, by))",
        "return True",
        _ACTIVITY,
    ),
    Fault(
        "activity of a private channel is told",
        ACTIVITY,
        "if self.channel is not None and self.channel.private and by.agent not in self.channel.members:",
        "if self.channel is None and by.agent is None:",
        _ACTIVITY,
    ),
    Fault(
        "a token for rooms is told of agents that it may not know",
        ACTIVITY,
        " and (self.agent is None or knows_agent(state, self.agent, by))",
        "",
        _ACTIVITY,
    ),
    Fault(
        "a token for rooms is told what is of no room",
        ACTIVITY,
        "            return by.rooms is None\n",
        "            return True\n",
        _ACTIVITY,
    ),
    Fault(
        "a session's room is not looked up",
        ACTIVITY,
        "    return Spot(state.rooms.by_id[session.room], None, *((",
        "    return Spot(None, None, *((",
        _ACTIVITY,
    ),
    Fault(
        "what is not there is told with nothing of its place",
        ACTIVITY,
        "    if spot is None:\n        return None\n",
        "    spot = Spot() if spot is None else spot\n",
        _ACTIVITY,
    ),
    Fault(
        "what ends is looked up only when it has ended",
        "hub/turn.py",
        "spot_of(self.state, command, by) if watchers else None",
        "None",
        _ACTIVITY,
    ),
    Fault(
        "a new member sees what was signalled before it came",
        HUB,
        "        floor = floor_of_channel(state, channel, connection.by.agent)",
        "        floor = 0",
        _HUB,
    ),
    Fault(
        "telemetry may have any field",
        SIGNALS,
        "class _Telemetry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):",
        "class _Telemetry(msgspec.Struct, frozen=True, kw_only=True):",
        _CORE,
    ),
    Fault(
        "typing is told as often as it is said",
        SIGNALS,
        "        if (agent, channel) in typed or len(typed) >= TYPISTS_MAX:",
        "        if len(typed) >= TYPISTS_MAX:",
        _CORE,
    ),
    Fault(
        "a deleted channel leaves its counts behind",
        "hub/effects.py",
        "            turns.after_release(turns.signals.forget_gone)",
        "            pass",
        _HUB,
    ),
]
