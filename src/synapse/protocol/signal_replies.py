"""What is answered about signals; `replies` has them in its union."""

from typing import Final, TypeAlias

import msgspec

from synapse.protocol import signal_commands
from synapse.protocol.signal_notices import Signal


class Recent(msgspec.Struct, frozen=True, kw_only=True):
    """The last signals of a channel, oldest first. since_at_ms: when `n` began at 1. next: give it as `after`, null on
    the last page."""

    room: str
    channel: str
    signals: tuple[Signal, ...]
    since_at_ms: int
    next: int | None
    cursor: str


class Typed(msgspec.Struct, frozen=True, kw_only=True):
    """receivers: how many subscriptions were told. told: false when it was said a moment ago, and is told to nobody."""

    room: str
    channel: str
    told: bool
    receivers: int
    cursor: str


class ChannelSignals(msgspec.Struct, frozen=True, kw_only=True):
    """Signals of a channel since the hub's process began: sent, and for all its followers together delivered and
    dropped."""

    sent: int
    delivered: int
    dropped: int
    since_at_ms: int


class SignalCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What was told and not kept, since the hub's process began. sent: signals. delivered, dropped: to and for all who
    follow. shed: signals that were not sent, because one connection had too many in one turn. typing, activity: notices
    delivered; _dropped: left out. typing_swallowed: said again too soon."""

    sent: int
    delivered: int
    dropped: int
    shed: int
    typing: int
    typing_dropped: int
    typing_swallowed: int
    activity: int
    activity_dropped: int


SignalReply: TypeAlias = Recent | Typed

SIGNAL_REPLY_TO: Final[dict[type[msgspec.Struct], type[SignalReply]]] = {
    signal_commands.ListRecent: Recent,
    signal_commands.SayTyping: Typed,
}
