"""What the hub says unasked. Unknown fields are tolerated by clients, so that a newer hub may say more."""

from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from synapse.protocol.signal_notices import Activity as Activity
from synapse.protocol.signal_notices import Signal as Signal
from synapse.protocol.signal_notices import SoftNotice
from synapse.protocol.signal_notices import Typing as Typing


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A message as every face shows it.

    n: gapless number in its channel; an inbox is the channel `@name`, in no room. to: recipients of a direct message,
    null in a channel, `["all"]` for the room's members. kind: event, direct, system. traceparent: of its sender, where
    it had one. delivery: only in inbox answers (stored, delivered, dead). died_at_ms, reason: of a dead
    letter. sender is `from` on the wire.
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
    traceparent: str | UnsetType = UNSET
    causation: str | UnsetType = UNSET
    hops: int | UnsetType = UNSET
    delivery: str | UnsetType = UNSET
    lends: int | UnsetType = UNSET
    died_at_ms: int | UnsetType = UNSET
    reason: str | UnsetType = UNSET


class PresenceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One agent's presence. presence: online, recent, offline. status: idle, busy, waiting_for_input. wakeable:
    something waits for its inbox now."""

    name: str
    kind: str
    presence: str
    status: str
    connected_since_at_ms: int | None
    last_activity_at_ms: int | None
    wakeable: bool = False


class PresenceSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everybody online or recent when the subscription began. complete: false when more pages follow."""

    agents: tuple[PresenceEntry, ...]
    complete: bool


class PresenceChanged(msgspec.Struct, frozen=True, kw_only=True):
    """Agents whose presence or status changed since the last notice."""

    agents: tuple[PresenceEntry, ...]


class LeaseChanged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A lease or a place in a queue changed. Fields that say nothing are left out.

    change: granted, renewed, released, expired, revoked, handed_off, offered, parked, resumed, checkpointed, queued,
    wait_ended. owner: whose lease or place it is, after the change. epoch: of the lease; null for a place. place: of
    the place in the queue that this is, or came from. previous_epoch: the grant this one replaced, which is fenced now.
    reason: why it ended (ttl, connection, parked, preempted, forgotten, deadline, gone, withdrawn, handed_off,
    replaced). by: who caused it.
    """

    change: str
    task: str
    room: str
    owner: str
    epoch: int | None = None
    place: int | None = None
    previous_epoch: int | None = None
    worktree: str | None = None
    paths: tuple[str, ...] = ()
    mode: str | None = None
    ttl_ms: int | None = None
    reason: str | None = None
    to: str | None = None
    by: str
    at_ms: int
    cursor: str


class LeaseLost(msgspec.Struct, frozen=True, kw_only=True):
    """To every lasting connection of an agent: a lease of it ended without its doing. reason: ttl, connection, parked,
    preempted, forgotten, or, by another connection of the agent: replaced (granted anew), released, handed_off. Who
    released it or handed it off is not told."""

    task: str
    room: str
    epoch: int
    reason: str
    by: str


class ValueChanged(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a value. change: put, deleted, expired, transferred, cleared (then `key` is the prefix).

    value: what was put; null otherwise. version, owner: after the change; null when it is gone.
    """

    change: str
    room: str
    key: str
    value: msgspec.Raw
    version: int | None
    owner: str | None
    expires_at_ms: int | None
    by: str
    at_ms: int
    cursor: str


class PlanChanged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a plan. Fields that say nothing are left out.

    change: declared, moved, ready, noted, removed. tasks: one id; with `ready` all that became so at once. reason: why
    a task moved: asked, or, when the hub did it, claimed, released, expired, revoked, question (a person is asked),
    question_closed. owner, epoch: of the lease it has to do with. kind, text: of the line in the ledger; text also: why
    it moved.
    """

    change: str
    room: str
    tasks: tuple[str, ...]
    title: str | None = None
    version: int | None = None
    depends_on: tuple[str, ...] = ()
    status: str | None = None
    previous: str | None = None
    reason: str | None = None
    owner: str | None = None
    epoch: int | None = None
    kind: str | None = None
    text: str | None = None
    by: str
    at_ms: int
    cursor: str


class ReceiptChanged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far messages that I sent got with one recipient: told once for each change, and what it changed to.

    state: delivered, acked, dead, dropped (a dead letter is in no list any more), stored (the recipient gave it another
    chance). reason: why it died, or was dropped.
    """

    ids: tuple[str, ...]
    recipient: str
    state: str
    reason: str | None = None
    at_ms: int
    cursor: str


class QuestionChanged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a question to people. Fields that say nothing are left out.

    change: asked, answered, dismissed, expired, withdrawn. outcome: of a closed one; `default` when the hub answered.
    """

    change: str
    id: str
    room: str
    title: str
    asker: str
    priority: str | None = None
    task: str | None = None
    session: str | None = None
    deadline_at_ms: int | None = None
    outcome: str | None = None
    answer: str | None = None
    reason: str | None = None
    via: str | None = None
    by: str
    at_ms: int
    cursor: str


class ClaimQueued(msgspec.Struct, frozen=True, kw_only=True):
    """To who waits in `lease.claim`: its place, and what stands in the way. request: the id of the claim.

    position: 1 is next in line. holders: as in a `lease_held` refusal. deadline_ms: what is left of the wait, null
    without end.
    """

    request: str | int
    task: str
    room: str
    place: int
    position: int
    deadline_ms: int | None
    holders: tuple[dict[str, object], ...]


class CaughtUp(msgspec.Struct, frozen=True, kw_only=True):
    """The subscription has sent what was missed and is live from here."""

    subscription: int
    cursor: str


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """The subscription ended because what follows can not be served; `code` and `detail` as in an error reply.
    first_kept: with `cursor_too_old`."""

    subscription: int
    code: str
    detail: str
    first_kept: str | UnsetType = UNSET


class Lent(msgspec.Struct, frozen=True, kw_only=True):
    """A message that a subscription with `take` was lent for `lend_ms`; ack it by id. lends: how often it was lent,
    this time included."""

    subscription: int
    message: Message
    lends: int
    lend_ms: int


class Closing(msgspec.Struct, frozen=True, kw_only=True):
    """The hub ends this connection; code and reason as in a WebSocket close."""

    code: int
    reason: str


Notice: TypeAlias = (
    Message
    | PresenceSnapshot
    | PresenceChanged
    | LeaseChanged
    | LeaseLost
    | ClaimQueued
    | ValueChanged
    | PlanChanged
    | ReceiptChanged
    | QuestionChanged
    | SoftNotice
    | Lent
    | CaughtUp
    | Broken
    | Closing
)

NOTICES: Final[dict[str, type[Notice]]] = {
    "message": Message,
    "presence.snapshot": PresenceSnapshot,
    "presence.changed": PresenceChanged,
    "lease.changed": LeaseChanged,
    "lease.lost": LeaseLost,
    "claim.queued": ClaimQueued,
    "value.changed": ValueChanged,
    "plan.changed": PlanChanged,
    "receipt.changed": ReceiptChanged,
    "question.changed": QuestionChanged,
    "signal": Signal,
    "typing": Typing,
    "activity": Activity,
    "inbox.lent": Lent,
    "feed.live": CaughtUp,
    "feed.broken": Broken,
    "closing": Closing,
}
"""Notice class by wire type."""
