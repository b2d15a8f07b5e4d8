"""What is answered about messages that the loop guard holds; `replies` has them in its union."""

from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from synapse.protocol import held_commands


class HeldNote(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The message is durable, and waits for a person. why: loop, chain_budget, agent_budget, chain_held; detail: in
    words. chain: the message that it all began with. next: what a person types. decided: in a repeated answer, when a
    person has released or dropped it since; then `next` is how to see which."""

    why: str
    detail: str
    chain: str
    hops: int
    next: str
    decided: bool = False


class HeldInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message that is held. why: loop, chain_budget, agent_budget, chain_held. chain: the message it all began with.
    causation: the message that caused it. hops: how many causes lie before it. subject, body: not for an operator that
    is no member of its private place. sender is `from` on the wire."""

    id: str
    sender: str = msgspec.field(name="from")
    to: tuple[str, ...] | UnsetType = UNSET
    channel: str | UnsetType = UNSET
    subject: str | None = None
    body: msgspec.Raw | UnsetType = UNSET
    why: str
    chain: str
    causation: str
    hops: int
    held_at_ms: int


class HeldPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of held messages, oldest first."""

    held: tuple[HeldInfo, ...]
    next: str | None
    cursor: str


class HeldEnded(msgspec.Struct, frozen=True, kw_only=True):
    """ids: the messages that were released, under their new ids, or dropped, under those they were held by. left: how
    many of the chain are still held, as far as who asks may see them."""

    ids: tuple[str, ...]
    left: int
    cursor: str


HeldReply: TypeAlias = HeldPage | HeldEnded

HELD_REPLY_TO: Final[dict[type[msgspec.Struct], type[HeldReply]]] = {
    held_commands.ListHeld: HeldPage,
    held_commands.ReleaseHeld: HeldEnded,
    held_commands.DropHeld: HeldEnded,
}
