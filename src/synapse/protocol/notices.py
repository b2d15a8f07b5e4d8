"""What the hub says unasked. Unknown fields are tolerated by clients, so that a newer hub may say more."""

from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A message as every face shows it.

    n: gapless number in its channel; an inbox is the channel `@name`, in no room. to: recipients of a direct message,
    null in a channel, `["all"]` for the room's members. kind: event, direct, system. delivery: only in inbox answers
    (stored, delivered, acked, dead). sender is `from` on the wire.
    """

    id: str
    room: str | None
    channel: str
    n: int
    cursor: str
    sender: str = msgspec.field(name="from")
    to: tuple[str, ...] | None
    kind: str
    subject: str | None
    body: msgspec.Raw
    thread: str | None
    reply_to: str | None
    priority: str
    expires_at_ms: int | None
    sent_at_ms: int
    delivery: str | UnsetType = UNSET
    lends: int | UnsetType = UNSET


class PresenceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One agent's presence. presence: online, recent, offline. status: idle, busy, waiting_for_input."""

    name: str
    kind: str
    presence: str
    status: str
    connected_since_at_ms: int | None
    last_activity_at_ms: int | None


class PresenceSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everybody online or recent when the subscription began. complete: false when more pages follow."""

    agents: tuple[PresenceEntry, ...]
    complete: bool


class PresenceChanged(msgspec.Struct, frozen=True, kw_only=True):
    """Agents whose presence or status changed since the last notice."""

    agents: tuple[PresenceEntry, ...]


class CaughtUp(msgspec.Struct, frozen=True, kw_only=True):
    """The subscription has sent what was missed and is live from here."""

    subscription: int
    cursor: str


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """The subscription ended because a stored row can not be served; `code` and `detail` as in an error reply."""

    subscription: int
    code: str
    detail: str


class Closing(msgspec.Struct, frozen=True, kw_only=True):
    """The hub ends this connection; code and reason as in a WebSocket close."""

    code: int
    reason: str


Notice: TypeAlias = Message | PresenceSnapshot | PresenceChanged | CaughtUp | Broken | Closing

NOTICES: Final[dict[str, type[Notice]]] = {
    "message": Message,
    "presence.snapshot": PresenceSnapshot,
    "presence.changed": PresenceChanged,
    "feed.live": CaughtUp,
    "feed.broken": Broken,
    "closing": Closing,
}
"""Notice class by wire type."""
