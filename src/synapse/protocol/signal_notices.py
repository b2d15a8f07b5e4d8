"""What is told and not kept: it has no position in the journal, and whoever cannot take it at once misses it."""

from typing import TypeAlias

import msgspec


class Signal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A message of an ephemeral channel. Fields that say nothing are left out.

    n: counted since the hub's process began, from 1. dropped: how many signals this subscription missed since the last
    one that it got. sender is `from` on the wire.
    """

    room: str
    channel: str
    n: int
    sender: str = msgspec.field(name="from")
    sent_at_ms: int
    subject: str | None = None
    body: msgspec.Raw
    dropped: int = 0


class Typing(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An agent is writing something for a channel. It counts for `for_ms`, unless it is said again or a message of the
    agent comes. sender is `from` on the wire."""

    room: str
    channel: str
    sender: str = msgspec.field(name="from")
    at_ms: int
    for_ms: int


class Activity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An agent did something, or was refused it. Fields that say nothing are left out.

    command: its wire type. outcome: `ok`, or the code of the refusal. about, name: what it was about, such as `task`
    and its id. room: where. dropped: how many of these notices the subscription missed since the last one that it got.
    """

    by: str
    command: str
    outcome: str
    room: str | None = None
    about: str | None = None
    name: str | None = None
    at_ms: int
    dropped: int = 0


SoftNotice: TypeAlias = Signal | Typing | Activity
