"""Signals: messages of ephemeral channels, which are told to who follows them now and are kept nowhere.

The channel itself is durable, and that it is ephemeral is part of its creation: it never becomes the other kind. Of its
messages there is no event; what is counted of them is soft state, and begins at nothing with each process.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from synapse.core.by import Rules
from synapse.errors import Rejected
from synapse.protocol.commands import SendMessage
from synapse.protocol.names import GENERAL, shown
from synapse.protocol.signal_replies import ChannelSignals, SignalCounts
from synapse.protocol.telemetry import outside, require_event

if TYPE_CHECKING:
    from synapse.core.rooms import Channel
    from synapse.core.state import State

PLAIN: Final = "plain"
"""What the configuration calls an ephemeral channel without a schema."""
TELEMETRY: Final = "telemetry"
TYPING: Final = "typing"
SCHEMAS: Final = (TELEMETRY, TYPING)
"""What the bodies of an ephemeral channel can be held to."""
TELEMETRY_ROOM: Final = "telemetry"
TELEMETRY_ADDRESS: Final = "telemetry:events"
"""Where telemetry goes that names no channel; made when it is first used."""
TYPING_EVERY_MS: Final = 2_000
"""An agent that says it more often is told of once."""
TYPING_FOR_MS: Final = 6_000
TYPISTS_MAX: Final = 10_000
"""Agents and channels for which it is known when typing was said last."""


@dataclass(slots=True)
class Counted:
    """Signals of one channel in this process. sent: also the number of the last one."""

    sent: int = 0
    delivered: int = 0
    dropped: int = 0


@dataclass(slots=True)
class Signalling:
    """What is counted of signals, typing and activity since this process began, at `since_at_ms`. shed: signals that
    were not sent. typed: by agent and channel, when typing was told last, on a monotonic clock, oldest first."""

    since_at_ms: int = 0
    by_channel: dict[int, Counted] = field(default_factory=dict)
    sent: int = 0
    delivered: int = 0
    dropped: int = 0
    shed: int = 0
    typing: int = 0
    typing_dropped: int = 0
    typing_swallowed: int = 0
    activity: int = 0
    activity_dropped: int = 0
    typed: dict[tuple[int, int], int] = field(default_factory=dict)

    def of(self, channel: int) -> Counted:
        """The counts of a channel."""
        found = self.by_channel.get(channel)
        if found is None:
            found = self.by_channel[channel] = Counted()
        return found

    def may_type(self, agent: int, channel: int, now_ms: int) -> bool:
        """True when it is told that the agent is typing; False when it was, less than `TYPING_EVERY_MS` ago."""
        typed = self.typed
        while typed:
            first = next(iter(typed))
            if now_ms - typed[first] < TYPING_EVERY_MS:
                break
            del typed[first]
        if (agent, channel) in typed or len(typed) >= TYPISTS_MAX:
            return False
        typed[agent, channel] = now_ms
        return True

    def forget_gone(self, state: "State") -> None:
        """Some channels were deleted."""
        channels = state.rooms.channels
        self.by_channel = {channel: counted for channel, counted in self.by_channel.items() if channel in channels}


def last_number(state: "State", channel: "Channel") -> int:
    """The number of a channel's last message, or signal."""
    if not channel.ephemeral:
        return channel.last_n
    counted = state.soft.signals.by_channel.get(channel.id)
    return 0 if counted is None else counted.sent


def channel_signals(state: "State", channel: "Channel") -> ChannelSignals:
    """What `channel.info` says of them."""
    counted, soft = state.soft.signals.by_channel.get(channel.id) or Counted(), state.soft.signals
    return ChannelSignals(
        sent=counted.sent, delivered=counted.delivered, dropped=counted.dropped, since_at_ms=soft.since_at_ms
    )


def signal_counts(state: "State") -> SignalCounts:
    """What `hub.status` says of them."""
    soft = state.soft.signals
    return SignalCounts(**{name: getattr(soft, name) for name in SignalCounts.__struct_fields__})


def require_schema(schema: str | None, *, ephemeral: bool) -> None:
    """Raises `Rejected(bad_request)` unless a channel may be made so."""
    if schema is None:
        return
    if schema not in SCHEMAS:
        why = f"schema {shown(schema)} is none of {', '.join(SCHEMAS)}"
        raise Rejected(
            "bad_request", f"{why} - at `$.body.schema`", {"path": "$.body.schema", "allowed": list(SCHEMAS)}
        )
    if not ephemeral:
        why = "only an ephemeral channel has a schema: create it with ephemeral, or without schema"
        raise Rejected("bad_request", f"{why} - at `$.body.schema`", {"path": "$.body.schema"})


def require_durable(channel: "Channel", address: str) -> None:
    """Raises `Rejected(unsupported)` for the history of a channel that has none."""
    if channel.ephemeral:
        raise Rejected(
            "unsupported",
            f"{address} is ephemeral and has no history: synapse channel recent {address} shows its last signals, "
            f"synapse listen {address} those that come",
            {"channel": address, "ephemeral": True},
        )


def require_signal(rules: Rules, address: str, schema: str | None, command: SendMessage) -> None:
    """Raises `Rejected` unless the message can be a signal: it has a subject and a body and nothing that would need it
    to be kept. Names in it are plain text."""
    for name, is_given in (
        ("reply_to", command.reply_to is not None),
        ("thread", command.thread is not None),
        ("expires_at_ms", command.expires_at_ms is not None),
        ("priority", command.priority != "normal"),
    ):
        if is_given:
            raise not_kept(address, f"a message to it has no {name} - at `$.body.{name}`", f"$.body.{name}")
    size, most = len(bytes(command.body)), rules.limits.ephemeral_bytes_max
    if size > most:
        raise Rejected(
            "too_large",
            f"the body has {size} bytes; at most {most} to an ephemeral channel: send it to another channel",
            {"bytes": size, "ephemeral_bytes_max": most},
        )
    if schema == TELEMETRY:
        require_telemetry(bytes(command.body))
    elif schema == TYPING:
        require_typing(bytes(command.body))


def not_kept(address: str, what: str, path: str) -> Rejected:
    """What is refused because nothing of the channel is kept."""
    why = f"{address} is ephemeral, so nothing sent to it is kept: {what}"
    return Rejected("bad_request", why, {"path": path, "channel": address, "ephemeral": True})


class _Telemetry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    event_type: str = msgspec.field(name="eventType")
    payload: msgspec.Raw
    at_ms: int | None = None
    severity: str | None = None


class _TypingBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    typing: bool


_decode_telemetry: Final = msgspec.json.Decoder(_Telemetry).decode
_decode_typing: Final = msgspec.json.Decoder(_TypingBody).decode


def require_telemetry(body: bytes) -> None:
    """Raises `Rejected(bad_request)` with the JSON path unless the body is `{"eventType": …, "payload": {…}}`, perhaps
    with `at_ms` and `severity`. body: JSON as the hub wrote it."""
    try:
        event = _decode_telemetry(body)
    except msgspec.ValidationError as error:
        raise _outside(error, TELEMETRY) from None
    if not bytes(event.payload).startswith(b"{"):
        raise outside("payload must be an object", "$.body.body.payload")
    require_event(event.event_type, event.at_ms, event.severity)


def require_typing(body: bytes) -> None:
    """Raises `Rejected(bad_request)` with the JSON path unless the body is `{"typing": true}` or `false`."""
    try:
        _decode_typing(body)
    except msgspec.ValidationError as error:
        raise _outside(error, TYPING) from None


def _outside(error: Exception, schema: str) -> Rejected:
    """What the decoder found, in the words of a refusal: the path is that of the message's body in the request."""
    what, _, path = str(error).partition(" - at `")
    path = (path.rstrip("`") or "$").replace("$", "$.body.body", 1)
    return outside(f"no {schema}: {what[:160]}", path)


def is_telemetry_by_name(room: str, channel: str) -> bool:
    """True for what is a telemetry channel when it is made on the side: any of that room but its general one."""
    return room == TELEMETRY_ROOM and channel != GENERAL
