"""What is answered with a digest; `replies` has it in its union."""

from typing import Final, TypeAlias

import msgspec

from synapse.protocol import digest_commands


class DigestAsk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that is asked of me. kind: message, mention, or offer, of a lease. id: of the message. text: its
    beginning. cut: there is more of it. new: it came after `since`. room, channel: where I was mentioned."""

    kind: str
    by: str
    at_ms: int
    priority: str
    id: str | None = None
    subject: str | None = None
    text: str = ""
    cut: bool = False
    new: bool = False
    room: str | None = None
    channel: str | None = None
    task: str | None = None
    epoch: int | None = None


class DigestNeed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What stands in my way. status: of the task that mine depends on, or `undeclared`; `held` by the lease of another,
    `ahead` of me in line. remaining_ms: of the lease of `owner`; null while it is parked, and where nobody has one."""

    task: str
    room: str
    status: str
    owner: str | None = None
    epoch: int | None = None
    remaining_ms: int | None = None


class DigestBlock(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something of mine that cannot go on. kind: claim, one that waits in line, or task. since_at_ms: since when it
    waits, or has its status. needs: the first of what it waits for. more: there are others."""

    kind: str
    task: str
    room: str
    since_at_ms: int
    needs: tuple[DigestNeed, ...]
    more: bool = False
    priority: str = "normal"
    title: str | None = None
    status: str | None = None


class DigestOwn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something of mine. kind: lease, or task, that is suggested to me and that I do not hold. title, status, ready:
    where the task is in the plan. remaining_ms: of the lease, null while it is parked."""

    kind: str
    task: str
    room: str
    priority: str = "normal"
    title: str | None = None
    status: str | None = None
    ready: bool = False
    epoch: int | None = None
    remaining_ms: int | None = None
    parked: bool = False
    idle_ms: int | None = None
    stalled: bool = False


class DigestCounts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many of something, by name. of: `questions` to people (mine, and those that are for me to answer), what
    waits in the queues of my `roles`, `tasks` by status, `held` leases by owner, `agents` by presence, `unacked`
    messages to all, and `dead` ones; these are as of now. After `since`, what others did: `messages` by channel,
    `plan`, `leases` and `values` by change, `inbox` by kind, and who `came`. counts: the largest. total: with those not
    named. at_least: more than is looked through, or some of it is not kept."""

    of: str
    counts: dict[str, int]
    total: int
    since: bool = False
    at_least: bool = False


class Digest(msgspec.Struct, frozen=True, kw_only=True):
    """What matters to an agent. asked, blocked, mine: the first items, and how many there are. new: others did
    something after `since`; true without one. at_ms: the hub's clock."""

    seq: int
    at_ms: int
    agent: str
    room: str
    since: str | None
    new: bool
    asked: tuple[DigestAsk, ...]
    asked_total: int
    blocked: tuple[DigestBlock, ...]
    blocked_total: int
    mine: tuple[DigestOwn, ...]
    mine_total: int
    rest: tuple[DigestCounts, ...]
    cursor: str


DigestReply: TypeAlias = Digest

DIGEST_REPLY_TO: Final[dict[type[msgspec.Struct], type[DigestReply]]] = {
    digest_commands.ReadDigest: Digest,
}
