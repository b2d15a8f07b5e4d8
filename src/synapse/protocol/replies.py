"""What the hub answers. Every reply has a `cursor`: the position of the commit it reflects."""

from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from synapse.protocol import (
    commands,
    terms,
)
from synapse.protocol.card_replies import CARD_REPLY_TO, CardReply
from synapse.protocol.delivery_replies import DELIVERY_REPLY_TO, DeliveryReply
from synapse.protocol.digest_replies import DIGEST_REPLY_TO, DigestReply
from synapse.protocol.event_replies import EVENT_REPLY_TO, EventReply
from synapse.protocol.file_replies import FILE_REPLY_TO, FileReply
from synapse.protocol.held_replies import HELD_REPLY_TO, HeldNote, HeldReply
from synapse.protocol.journal_replies import Compaction
from synapse.protocol.journal_replies import JournalBackedUp as JournalBackedUp
from synapse.protocol.journal_replies import JournalVerified as JournalVerified
from synapse.protocol.lane_replies import LANE_REPLY_TO, LaneReply
from synapse.protocol.limits import Limits
from synapse.protocol.member_replies import MEMBER_REPLY_TO, MemberReply
from synapse.protocol.notices import Message
from synapse.protocol.plan_replies import PLAN_REPLY_TO, PlanReply
from synapse.protocol.pool_replies import PoolDeleted as PoolDeleted
from synapse.protocol.pool_replies import PoolInfo as PoolInfo
from synapse.protocol.pool_replies import Pools as Pools
from synapse.protocol.question_replies import QUESTION_REPLY_TO, QuestionReply
from synapse.protocol.resource_replies import RESOURCE_REPLY_TO, ResourceReply
from synapse.protocol.role_replies import ROLE_REPLY_TO, RoleReply
from synapse.protocol.session_replies import SESSION_REPLY_TO, Resume, SessionReply
from synapse.protocol.signal_replies import SIGNAL_REPLY_TO, ChannelSignals, SignalCounts, SignalReply
from synapse.protocol.token_replies import TOKEN_REPLY_TO, TokenReply
from synapse.protocol.value_replies import VALUE_REPLY_TO, ValueReply


class HubIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Which hub this is and which protocol versions it speaks (lowest, highest)."""

    hub_id: str
    version: str
    protocol: tuple[int, int]


class Pong(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ping."""

    cursor: str


class Welcome(msgspec.Struct, frozen=True, kw_only=True):
    """The hello was accepted. protocol: the version in force. name: null on an operator connection.

    bound: true when this hello bound the name to its secret. role, rooms: what its token allows, where it has one of
    `token.create`; rooms null for all.
    """

    protocol: int
    version: str
    hub_id: str
    journal_id: str
    cursor: str
    connection: int
    name: str | None
    bound: bool
    home: str
    limits: Limits
    role: str | UnsetType = UNSET
    rooms: tuple[str, ...] | UnsetType | None = UNSET


class Sent(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The message is durable. Channel messages carry room, channel and n, direct ones the recipients.

    skipped: members or mentioned agents whose inbox was full. created: recipients that this message created.
    ephemeral: it went to an ephemeral channel, is not durable and has no id. receivers: the subscriptions that follow
    that one. dropped: it was not sent, because this connection sent too many at once; then it has no n either.
    skipped: members or mentioned agents whose inbox was full. created: recipients that this message created. held: why
    it is not delivered.
    """  # not kw_only: the answer to each post is made by place

    id: str = ""
    cursor: str = ""
    room: str | UnsetType = UNSET
    channel: str | UnsetType = UNSET
    n: int | UnsetType = UNSET
    to: tuple[str, ...] | UnsetType = UNSET
    mentions: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    created: tuple[str, ...] = ()
    ephemeral: bool = False
    receivers: int | UnsetType = UNSET
    dropped: bool = False
    held: HeldNote | UnsetType = UNSET


class Position(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A channel of a subscription and the number of its last message. An inbox is `@name`, in no room. ephemeral: of
    this channel only what comes from here on is told."""

    room: str | None
    channel: str
    n: int
    ephemeral: bool = False


class Subscribed(msgspec.Struct, frozen=True, kw_only=True):
    """The subscription stands; messages after `from_cursor` follow as notices."""

    subscription: int
    positions: tuple[Position, ...]
    from_cursor: str
    cursor: str


class Unsubscribed(msgspec.Struct, frozen=True, kw_only=True):
    """The subscription ended."""

    subscription: int
    cursor: str


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Messages oldest first. next: give it as `since` for what follows, null at the head. previous: give it as
    `before` for what came earlier, null at the beginning. first_kept: there only where what came before was dropped."""

    messages: tuple[Message, ...]
    next: str | None
    previous: str | None
    cursor: str
    first_kept: str | UnsetType = UNSET


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """One message, lent for `lend_ms`; ack it by id. lends: how often it was lent, this time included."""

    message: Message
    lends: int
    lend_ms: int
    cursor: str


class Acked(msgspec.Struct, frozen=True, kw_only=True):
    """acked: ids that left the inbox now. already: ids that were not in it any more. unacked: what is left."""

    acked: tuple[str, ...]
    already: tuple[str, ...]
    unacked: int
    cursor: str


class Inbox(msgspec.Struct, frozen=True, kw_only=True):
    """Messages with their `delivery`, oldest first. unacked: of my own inbox; shared: in the queues of my roles, when
    I have some. next: give it as `after`, null on the last page."""

    messages: tuple[Message, ...]
    unacked: int
    next: str | None
    cursor: str
    shared: int | UnsetType = UNSET


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The first recipient acked. acked_by: all that have, by now."""

    id: str
    state: str
    acked_by: tuple[str, ...]
    cursor: str


class AgentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An agent and its presence. presence: online, recent, offline. wakeable: something waits for its inbox now, in a
    long poll or a feed. status: as declared. bound: has a secret. skills: their ids; its card tells more."""

    name: str
    kind: str
    presence: str
    status: str
    connected_since_at_ms: int | None
    last_activity_at_ms: int | None
    connections: int
    first_seen_at_ms: int
    bound: bool
    unacked: int
    wakeable: bool
    display_name: str | None = None
    personality: str | None = None
    avatar: str | None = None
    client: str | None = None
    capabilities: tuple[str, ...] = ()
    skills: tuple[str, ...] = ()


class Agents(msgspec.Struct, frozen=True, kw_only=True):
    """Agents by name. next: give it as `after`, null on the last page."""

    agents: tuple[AgentInfo, ...]
    next: str | None
    cursor: str


class StatusDeclared(msgspec.Struct, frozen=True, kw_only=True):
    """The status others see from now on."""

    name: str
    status: str
    cursor: str


class AgentRebound(msgspec.Struct, frozen=True, kw_only=True):
    """The secret is dropped; the next hello binds."""

    name: str
    cursor: str


class AgentRemoved(msgspec.Struct, frozen=True, kw_only=True):
    """The agent is gone."""

    name: str
    cursor: str


class RoomInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A room with its counts; channels (the first 500; `channel.list` pages them all) and participants only in
    `room.info`."""

    room: str
    type: str
    bootstrap: bool
    created_at_ms: int
    created_by: str
    members: int
    channels_count: int
    private: bool = False
    channels: tuple[str, ...] | UnsetType = UNSET
    participants: tuple[str, ...] | UnsetType = UNSET
    next: str | UnsetType | None = UNSET
    cursor: str | UnsetType = UNSET


class Rooms(msgspec.Struct, frozen=True, kw_only=True):
    """Rooms by name."""

    rooms: tuple[RoomInfo, ...]
    next: str | None
    cursor: str


class ChannelInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A channel with its counts; participants only in `channel.info`. messages: the number of its last message.
    ephemeral, schema, signals: of a channel whose messages are not kept."""

    room: str
    channel: str
    type: str
    bootstrap: bool
    created_at_ms: int
    created_by: str
    members: int
    messages: int
    private: bool = False
    ephemeral: bool = False
    schema: str | None = None
    signals: ChannelSignals | UnsetType = UNSET
    participants: tuple[str, ...] | UnsetType = UNSET
    next: str | UnsetType | None = UNSET
    cursor: str | UnsetType = UNSET


class Channels(msgspec.Struct, frozen=True, kw_only=True):
    """Channels by address."""

    channels: tuple[ChannelInfo, ...]
    next: str | None
    cursor: str


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The room or channel a create, delete, join or leave was about. changed: false when it was so already."""

    room: str
    channel: str | None
    changed: bool
    created: bool
    cursor: str


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How many of everything. Connections and messages since start are of this process."""

    connections: int
    connections_total: int
    agents: int
    online: int
    rooms: int
    channels: int
    messages: int
    events: int
    subscriptions: int
    waiting: int
    leases: int
    claims_waiting: int


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What the last holder left with a task. by: its name. epoch: its lease. data: any JSON."""

    data: msgspec.Raw
    artefacts: tuple[terms.Artefact, ...]
    by: str
    epoch: int
    at_ms: int


class LeaseWaiter(msgspec.Struct, frozen=True, kw_only=True):
    """Who waits behind a lease. position: 1 is next in line for what it asks. place: its number in the journal."""

    task: str
    room: str
    owner: str
    place: int
    position: int
    priority: str
    mode: str
    queued_at_ms: int


class TaskBrief(msgspec.Struct, frozen=True, kw_only=True):
    """What the plan says of a task that is claimed. waits_for: what it depends on that is not done, and its status."""

    title: str
    status: str
    waits_for: dict[str, str]


class Lease(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A lease. epoch: the number of this grant, larger than that of any earlier one (a fencing token).

    status: held, parked, or ended (in a repeated answer, when the lease is not live any more). expires_at_ms: wall
    clock, an estimate; remaining_ms: on the hub's lease clock, which decides. Both null while parked or ended.
    outcome, only in answers: granted, renewed, handed_off, offered, checkpointed, parked, resumed. offered_to: an
    offline agent that may take it over. live: false in the answer to a repeat when the lease has ended since.
    checkpoint: null without one. plan: what the plan says of the task, in answers, when it is in the plan. idle_ms, in
    lists: since the holder last showed progress; stalled: for longer than the hub's `stalled_ms`. questions: the open
    ones for whose answers it is parked.
    """  # not kw_only: the answer to each claim is made by place

    task: str
    room: str
    owner: str
    epoch: int
    worktree: str | None
    paths: tuple[str, ...]
    whole_worktree: bool
    pools: dict[str, int]
    mode: str
    ttl_ms: int
    expires_at_ms: int | None
    remaining_ms: int | None
    status: str
    granted_at_ms: int
    note: str | None
    branch: str | None
    tied: bool
    checkpoint: Checkpoint | UnsetType | None = UNSET
    offered_to: str | UnsetType = UNSET
    outcome: str | UnsetType = UNSET
    live: bool | UnsetType = UNSET
    waiters: tuple[LeaseWaiter, ...] | UnsetType = UNSET
    waiting: int | UnsetType = UNSET
    plan: TaskBrief | UnsetType = UNSET
    resume: Resume | UnsetType = UNSET
    idle_ms: int | UnsetType = UNSET
    stalled: bool | UnsetType = UNSET
    cursor: str | UnsetType = UNSET
    questions: tuple[str, ...] | UnsetType = UNSET


class Released(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The lease ended."""

    task: str
    room: str
    epoch: int
    released: bool
    cursor: str


class Withdrawn(msgspec.Struct, frozen=True, kw_only=True):
    """How many places in the queue ended."""

    task: str
    room: str
    withdrawn: int
    cursor: str


class Covered(msgspec.Struct, frozen=True, kw_only=True):
    """One path and the lease of mine that covers it."""

    path: str
    task: str
    room: str
    epoch: int
    mode: str
    remaining_ms: int | None


class PathsCovered(msgspec.Struct, frozen=True, kw_only=True):
    """Each path is covered by a live lease of mine."""

    worktree: str
    paths: tuple[Covered, ...]
    cursor: str


class Leases(msgspec.Struct, frozen=True, kw_only=True):
    """One page of leases. seq: the position they are the state of."""

    seq: int
    leases: tuple[Lease, ...]
    next: str | None
    cursor: str


class Happened(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a task in words. change: as in a `lease.changed` notice. by: who caused it."""

    seq: int
    at_ms: int
    by: str
    change: str
    text: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """One page of what happened to a task, oldest first. first_kept: there only where what came earlier may have been
    dropped."""

    task: str
    room: str
    events: tuple[Happened, ...]
    next: str | None
    cursor: str
    first_kept: str | UnsetType = UNSET


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The hub in one object. health: `green` or `red` with reasons. head and base: seqs. verified_through: so far every
    row was proved since the start. clock_jumps: how often the wall clock was set since then, and by how much last.
    limited: agents and hosts that asked too fast within the last minute. stuck: connections that do not read. engine:
    what keeps the journal, `SQLite 3.40.1`."""

    health: str
    reasons: tuple[str, ...]
    version: str
    protocol: int
    hub_id: str
    journal_id: str
    pid: int
    uptime_ms: int
    base: int
    head: int
    journal_bytes: int
    read_only: bool
    verified_through: int
    lease_clock_lag_ms: int
    clock_jumps: int
    clock_jumped_ms: int
    limited: tuple[str, ...]
    stuck: int
    engine: str
    counts: Counts
    signals: SignalCounts
    cursor: str


Reply: TypeAlias = (
    HubIdentity
    | Pong
    | Welcome
    | Sent
    | Subscribed
    | Unsubscribed
    | History
    | Taken
    | Acked
    | Inbox
    | Receipt
    | Agents
    | StatusDeclared
    | AgentRebound
    | AgentRemoved
    | Rooms
    | RoomInfo
    | Channels
    | ChannelInfo
    | Place
    | Lease
    | Released
    | Withdrawn
    | PathsCovered
    | Leases
    | Explanation
    | PoolInfo
    | PoolDeleted
    | Pools
    | Status
    | JournalVerified
    | JournalBackedUp
    | Compaction
    | CardReply
    | MemberReply
    | DeliveryReply
    | DigestReply
    | EventReply
    | FileReply
    | HeldReply
    | PlanReply
    | QuestionReply
    | ResourceReply
    | RoleReply
    | SessionReply
    | SignalReply
    | LaneReply
    | TokenReply
    | ValueReply
)

REPLY_TO: Final[dict[type[msgspec.Struct], type[Reply]]] = {
    commands.IdentifyHub: HubIdentity,
    commands.Ping: Pong,
    commands.Hello: Welcome,
    commands.SendMessage: Sent,
    commands.Subscribe: Subscribed,
    commands.Unsubscribe: Unsubscribed,
    commands.ReadHistory: History,
    commands.TakeInbox: Taken,
    commands.AckInbox: Acked,
    commands.ListInbox: Inbox,
    commands.WaitReceipt: Receipt,
    commands.ListAgents: Agents,
    commands.DeclareStatus: StatusDeclared,
    commands.RebindAgent: AgentRebound,
    commands.ForgetAgent: AgentRemoved,
    commands.ListRooms: Rooms,
    commands.CreateRoom: Place,
    commands.DeleteRoom: Place,
    commands.ShowRoom: RoomInfo,
    commands.JoinRoom: Place,
    commands.LeaveRoom: Place,
    commands.ListChannels: Channels,
    commands.CreateChannel: Place,
    commands.DeleteChannel: Place,
    commands.ShowChannel: ChannelInfo,
    commands.JoinChannel: Place,
    commands.LeaveChannel: Place,
    commands.ClaimLease: Lease,
    commands.RenewLease: Lease,
    commands.ReleaseLease: Released,
    commands.WithdrawClaim: Withdrawn,
    commands.SaveCheckpoint: Lease,
    commands.HandOffLease: Lease,
    commands.ParkLease: Lease,
    commands.CheckLease: Lease,
    commands.CheckPaths: PathsCovered,
    commands.ListLeases: Leases,
    commands.ExplainTask: Explanation,
    commands.SetPool: PoolInfo,
    commands.DeletePool: PoolDeleted,
    commands.ListPools: Pools,
    commands.ShowStatus: Status,
    commands.VerifyJournal: JournalVerified,
    commands.BackUpJournal: JournalBackedUp,
    commands.CompactJournal: Compaction,
    **CARD_REPLY_TO,
    **MEMBER_REPLY_TO,
    **DELIVERY_REPLY_TO,
    **DIGEST_REPLY_TO,
    **EVENT_REPLY_TO,
    **FILE_REPLY_TO,
    **HELD_REPLY_TO,
    **PLAN_REPLY_TO,
    **QUESTION_REPLY_TO,
    **RESOURCE_REPLY_TO,
    **ROLE_REPLY_TO,
    **SESSION_REPLY_TO,
    **SIGNAL_REPLY_TO,
    **LANE_REPLY_TO,
    **TOKEN_REPLY_TO,
    **VALUE_REPLY_TO,
}
"""The reply each command gets when it is not refused."""

assert set(REPLY_TO) == set(commands.COMMANDS.values()), "every command has one reply"
