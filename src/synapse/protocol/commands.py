"""What a client may ask. Unknown fields are refused, so that a typo fails loudly.

Each class is the `body` of one request; `COMMANDS` gives its wire type. A command that changes something may carry
`idem_key` in its envelope.
"""

from typing import Final, TypeAlias, final, get_args

import msgspec

from synapse.protocol.card_commands import CARD_COMMANDS, CardCommand
from synapse.protocol.codes import PROTOCOL_VERSION
from synapse.protocol.delivery_commands import DELIVERY_COMMANDS, DeliveryCommand
from synapse.protocol.digest_commands import DIGEST_COMMANDS, DigestCommand
from synapse.protocol.event_commands import EVENT_COMMANDS, EventCommand
from synapse.protocol.file_commands import FILE_COMMANDS, FileCommand
from synapse.protocol.held_commands import HELD_COMMANDS, HeldCommand
from synapse.protocol.lane_commands import LANE_COMMANDS, LaneCommand
from synapse.protocol.member_commands import MEMBER_COMMANDS, MemberCommand
from synapse.protocol.plan_commands import PLAN_COMMANDS, PlanCommand
from synapse.protocol.question_commands import QUESTION_COMMANDS, QuestionCommand
from synapse.protocol.resource_commands import RESOURCE_COMMANDS, ResourceCommand
from synapse.protocol.role_commands import ROLE_COMMANDS, RoleCommand
from synapse.protocol.session_commands import SESSION_COMMANDS, SessionCommand
from synapse.protocol.signal_commands import SIGNAL_COMMANDS, SignalCommand
from synapse.protocol.terms import Artefact, Int
from synapse.protocol.token_commands import TOKEN_COMMANDS, TokenCommand
from synapse.protocol.value_commands import VALUE_COMMANDS, ValueCommand


class IdentifyHub(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask which hub this is, before hello: a client keeps its secrets by hub id."""


class Ping(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for a pong through the same turn as everything else."""


@final
class Hello(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first command of a connection.

    protocol: lowest and highest version the client speaks. name and secret: the agent; the first hello of a name binds
    it to the secret (32 to 128 characters). ancestors: secrets of `a` and `a/b`, needed when `a/b/c` is bound.
    lasting: the connection stays open, so the agent counts as online; else it only touches the last activity.
    operator: no agent, but the hub's own user on the Unix socket. home: `room:channel` for messages without address.
    """

    protocol: tuple[Int, Int] = (PROTOCOL_VERSION, PROTOCOL_VERSION)
    token: str | None = None
    name: str | None = None
    secret: str | None = None
    ancestors: dict[str, str] = {}
    kind: str | None = None
    display_name: str | None = None
    personality: str | None = None
    avatar: str | None = None
    client: str | None = None
    capabilities: tuple[str, ...] | None = None
    lasting: bool = False
    operator: bool = False
    home: str | None = None


@final
class SendMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Send to a channel, or to inboxes.

    Exactly one of: `to` (agents), `target` (an agent, a comma list, `all`, `room:channel`, `role:NAME`), or
    `room`/`channel` (`channel` may be `room:channel`); none of them means the connection's home. create: a recipient
    or role never seen is created instead of refused. expires_at_ms: whoever has not acked it by then is not given it
    any more; it is a dead letter there.
    """

    body: msgspec.Raw
    to: tuple[str, ...] = ()
    target: str | None = None
    room: str | None = None
    channel: str | None = None
    create: bool = False
    subject: str | None = None
    thread: str | None = None
    reply_to: str | None = None
    priority: str = "normal"
    expires_at_ms: Int | None = None


class Subscribe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Follow channels, my inbox, presence, leases, values, plans and questions of rooms, receipts for what I sent.
    since: a cursor; what came after it is sent first, then everything live. activity: what agents do, which is told and
    not kept.

    Observes only: nothing is taken from an inbox and no membership changes. But for `take`, which stands alone with
    `directed_only`: what is free in my inbox and my roles' queues is lent to this connection as by `inbox.take` and
    sent as it comes, while fewer than `take` messages are lent to it.
    """

    channels: tuple[str, ...] = ()
    inbox: bool = False
    take: Int = 0
    directed_only: bool = False
    presence: bool = False
    leases: bool = False
    receipts: bool = False
    values: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    activity: bool = False
    since: str | None = None


class Unsubscribe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """End a subscription of this connection."""

    subscription: Int


class ReadHistory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page of a channel's (or with `inbox` my inbox's) messages, oldest first.

    Without `since` the newest `limit` messages that fit; with it the first ones after the cursor. `next` of the reply,
    given as `since`, continues forward; `previous`, given as `before`, goes back. sender, text (substring, any case),
    from_ms and until_ms (wall clock) filter.
    """

    room: str | None = None
    channel: str | None = None
    inbox: bool = False
    since: str | None = None
    before: str | None = None
    limit: Int = 50
    sender: str | None = None
    text: str | None = None
    from_ms: Int | None = None
    until_ms: Int | None = None


@final
class TakeInbox(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Borrow an unacked message of my inbox and of my roles' queues, for 30 s or until this connection closes: urgent
    before high, normal and low ones, the oldest among equals.

    wait_ms: how long to wait for one (0: not at all). directed_only: leave messages to `all` and mentions in place.
    """

    wait_ms: Int = 0
    directed_only: bool = False


@final
class AckInbox(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Be done with messages by id, or with `all` of them. Acking twice is the same as once; an id that never was in my
    inbox is refused `not_found`, and nothing is acked. Of my roles' queues: one by its id, unless another has it lent;
    by `all`, what is lent to me."""

    ids: tuple[str, ...] = ()
    all: bool = False


class ListInbox(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page of my unacked and dead messages, those in my roles' queues too, oldest first. after: the `next` of the
    page before."""

    limit: Int = 50
    after: str | None = None


class WaitReceipt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Wait until one recipient has acked a direct message that I sent."""

    id: str
    wait_ms: Int = 0


class ListAgents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page of agents by name, with presence. room: only its members."""

    room: str | None = None
    limit: Int = 200
    after: str | None = None


class DeclareStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Say what I am doing: idle, busy, waiting_for_input. Soft: not journalled, gone when the hub restarts."""

    status: str


class RebindAgent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Operator: drop an agent's secret and close its connections; its next hello binds a new one."""

    name: str


class ForgetAgent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Operator: remove an agent, its inbox and memberships. Its messages in channels stay."""

    name: str


class ListRooms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page of rooms by name, with counts."""

    limit: Int = 200
    after: str | None = None


class CreateRoom(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Create a room with its `general` channel. private: it is there for its members only, this agent the first one."""

    room: str
    type: str = "room"
    private: bool = False


class DeleteRoom(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Operator: delete a room that has no members, with its channels."""

    room: str


class ShowRoom(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A room's metadata, channels and members."""

    room: str
    limit: Int = 200
    after: str | None = None


class JoinRoom(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Become a durable member of a room; created when absent if the hub's `auto_create` is on."""

    room: str


class LeaveRoom(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Leave a room and all its channels."""

    room: str


class ListChannels(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page of channels by address, with counts. room: only this one's."""

    room: str | None = None
    limit: Int = 200
    after: str | None = None


class CreateChannel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Create a channel in a room that exists. private: for its own members only, of which who asks is the first one.
    ephemeral: what is sent to it is told and not kept; it stays so. schema: of an ephemeral one, `telemetry` or
    `typing`: other bodies are refused."""

    channel: str
    type: str = "channel"
    private: bool = False
    ephemeral: bool = False
    schema: str | None = None


class DeleteChannel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Operator: delete a channel that has no members."""

    channel: str


class ShowChannel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A channel's metadata and members."""

    channel: str
    limit: Int = 200
    after: str | None = None


class JoinChannel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Become a durable member of a channel and its room; created when absent if the hub's `auto_create` is on."""

    channel: str


class LeaveChannel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Leave a channel; the room membership stays."""

    channel: str


@final
class ClaimLease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Ask for the lease of a task of a room (null: the home's), all or nothing.

    Scope: `paths` (globs relative to the root of `worktree`) or `whole_worktree`; neither means that the claim contends
    by its task id only. folds_case: the worktree lies on a case-insensitive file system. pools: units by pool name.
    mode: exclusive or shared. wait_ms: 0 does not wait, null waits without end. Who waits gets a `claim.queued` notice
    first; its place is durable, and the same claim with that `place` (or the same idem_key) takes it up again within
    `reattach_ms` of a lost connection. priority: of the place. reentrant: a lease that this agent holds on the
    task is renewed, or granted anew when the scope differs; false excludes other processes of this agent too. tied: the
    lease lapses `tie_grace_ms` after this connection has gone. preempt: revoke what stands in the way; only for an
    operator connection, which names the `claimant`, and with a token of the role human. under: the epoch of the lease
    under which the asking process runs, so that a wait for what can only end after it is refused; ignored unless it is
    a live lease of this agent.
    """

    task: str
    room: str | None = None
    worktree: str | None = None
    paths: tuple[str, ...] = ()
    whole_worktree: bool = False
    folds_case: bool = False
    pools: dict[str, Int] = {}
    mode: str = "exclusive"
    ttl_ms: Int = 900_000
    wait_ms: Int | None = 0
    place: Int | None = None
    priority: str = "normal"
    reentrant: bool = True
    tied: bool = False
    preempt: bool = False
    claimant: str | None = None
    note: str | None = None
    branch: str | None = None
    under: Int | None = None


class RenewLease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Move the deadline of a lease I hold to its full TTL from now; also ties it to this connection if it is a tied
    one. ttl_ms, note: change them. epoch: refuse `stale_epoch` unless the lease still is this grant; without it the
    lease on the task is meant that this agent got last."""

    task: str
    room: str | None = None
    epoch: Int | None = None
    ttl_ms: Int | None = None
    note: str | None = None


@final
class ReleaseLease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Give a lease back. Its checkpoint stays with the task."""

    task: str
    room: str | None = None
    epoch: Int | None = None


class WithdrawClaim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Leave the queue: end every wait of this agent for the task, or that at one `place`. The waiting requests are
    refused `withdrawn`."""

    task: str
    room: str | None = None
    place: Int | None = None


class SaveCheckpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keep a small JSON value and references to files with a task I hold, in place of the last one. It survives
    release, expiry and restart, and the next claim of the task gets it. data null without artefacts removes it."""

    task: str
    data: msgspec.Raw
    artefacts: tuple[Artefact, ...] = ()
    room: str | None = None
    epoch: Int | None = None


class HandOffLease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pass a lease on to another agent, in one event. To an agent that is offline it is an offer: a message in its
    inbox, accepted by its `lease.claim` of the task and void when the lease ends."""

    task: str
    to: str
    room: str | None = None
    epoch: Int | None = None


class ParkLease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Freeze the TTL of a lease I hold while its task waits for a person, for at most `parked_ms_max`; `parked` false
    lets it run on."""

    task: str
    parked: bool
    room: str | None = None
    epoch: Int | None = None


class CheckLease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For guards: is `epoch` the live grant of the task, whoever holds it? Refused `stale_epoch` when not."""

    task: str
    epoch: Int
    room: str | None = None


class CheckPaths(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For guards: is each path, relative to the root of the worktree, covered by a live lease of mine? Refused
    `not_covered`, with who holds the path or that nobody does. mode `exclusive`: shared leases do not count, but mine
    are told in `mine`."""

    worktree: str
    paths: tuple[str, ...]
    mode: str = "shared"


class ListLeases(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page of live leases, by epoch, each with who waits behind it. room, owner, worktree, task: only these.
    after: the `next` of the page before."""

    room: str | None = None
    owner: str | None = None
    worktree: str | None = None
    task: str | None = None
    limit: Int = 200
    after: str | None = None


class ExplainTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happened to a task of a room, in words, oldest first. after: the `next` of the page before."""

    task: str
    room: str | None = None
    limit: Int = 100
    after: str | None = None


class SetPool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Operator: make a pool of `capacity` units, or change its capacity. What is held above it is not taken away."""

    pool: str
    capacity: Int


class DeletePool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Operator: delete a pool that nobody holds or waits for."""

    pool: str


class ListPools(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page of pools by name."""

    limit: Int = 200
    after: str | None = None


class ShowStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Counts and health of the hub."""


class VerifyJournal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Operator: check the whole hash chain while the hub runs."""


class BackUpJournal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Operator: write a consistent copy of the journal to `path` (absolute, must not exist), seen from the hub."""

    path: str


class CompactJournal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Operator: drop what is older than `keep` says, in ms by kind or `room:channel`; 0 keeps all of it. What is not
    named is kept as the hub's settings say. dry_run: only say what would go."""

    keep: dict[str, Int] = {}
    dry_run: bool = False


Command: TypeAlias = (
    IdentifyHub
    | Ping
    | Hello
    | SendMessage
    | Subscribe
    | Unsubscribe
    | ReadHistory
    | TakeInbox
    | AckInbox
    | ListInbox
    | WaitReceipt
    | ListAgents
    | DeclareStatus
    | RebindAgent
    | ForgetAgent
    | ListRooms
    | CreateRoom
    | DeleteRoom
    | ShowRoom
    | JoinRoom
    | LeaveRoom
    | ListChannels
    | CreateChannel
    | DeleteChannel
    | ShowChannel
    | JoinChannel
    | LeaveChannel
    | ClaimLease
    | RenewLease
    | ReleaseLease
    | WithdrawClaim
    | SaveCheckpoint
    | HandOffLease
    | ParkLease
    | CheckLease
    | CheckPaths
    | ListLeases
    | ExplainTask
    | SetPool
    | DeletePool
    | ListPools
    | ShowStatus
    | VerifyJournal
    | BackUpJournal
    | CompactJournal
    | CardCommand
    | MemberCommand
    | DeliveryCommand
    | DigestCommand
    | EventCommand
    | FileCommand
    | HeldCommand
    | PlanCommand
    | QuestionCommand
    | ResourceCommand
    | RoleCommand
    | SessionCommand
    | SignalCommand
    | LaneCommand
    | TokenCommand
    | ValueCommand
)

COMMANDS: Final[dict[str, type[Command]]] = {
    "hub.identify": IdentifyHub,
    "ping": Ping,
    "hello": Hello,
    "message.send": SendMessage,
    "feed.subscribe": Subscribe,
    "feed.unsubscribe": Unsubscribe,
    "history.read": ReadHistory,
    "inbox.take": TakeInbox,
    "inbox.ack": AckInbox,
    "inbox.list": ListInbox,
    "receipt.wait": WaitReceipt,
    "agent.list": ListAgents,
    "agent.declare": DeclareStatus,
    "agent.rebind": RebindAgent,
    "agent.forget": ForgetAgent,
    "room.list": ListRooms,
    "room.create": CreateRoom,
    "room.delete": DeleteRoom,
    "room.info": ShowRoom,
    "room.join": JoinRoom,
    "room.leave": LeaveRoom,
    "channel.list": ListChannels,
    "channel.create": CreateChannel,
    "channel.delete": DeleteChannel,
    "channel.info": ShowChannel,
    "channel.join": JoinChannel,
    "channel.leave": LeaveChannel,
    **MEMBER_COMMANDS,
    "lease.claim": ClaimLease,
    "lease.renew": RenewLease,
    "lease.release": ReleaseLease,
    "lease.withdraw": WithdrawClaim,
    "lease.checkpoint": SaveCheckpoint,
    "lease.hand_off": HandOffLease,
    "lease.park": ParkLease,
    "lease.check": CheckLease,
    "lease.covers": CheckPaths,
    "lease.list": ListLeases,
    "task.explain": ExplainTask,
    "pool.set": SetPool,
    "pool.delete": DeletePool,
    "pool.list": ListPools,
    **DELIVERY_COMMANDS,
    **VALUE_COMMANDS,
    **RESOURCE_COMMANDS,
    **SIGNAL_COMMANDS,
    **CARD_COMMANDS,
    **PLAN_COMMANDS,
    **QUESTION_COMMANDS,
    **DIGEST_COMMANDS,
    **EVENT_COMMANDS,
    **ROLE_COMMANDS,
    **SESSION_COMMANDS,
    **LANE_COMMANDS,
    **TOKEN_COMMANDS,
    **FILE_COMMANDS,
    **HELD_COMMANDS,
    "hub.status": ShowStatus,
    "journal.verify": VerifyJournal,
    "journal.backup": BackUpJournal,
    "journal.compact": CompactJournal,
}
"""Command class by wire type."""

assert set(COMMANDS.values()) == set(get_args(Command)), "every command has one wire type"

TYPE_OF: Final[dict[type[Command], str]] = {kind: name for name, kind in COMMANDS.items()}
