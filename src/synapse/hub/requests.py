"""What the shell itself answers: subscriptions, the disk, long polls, status; and what follows from some mutations."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

from msgspec import UNSET

from synapse.core.answers import Answerable, answer
from synapse.core.bounds import require_wait
from synapse.core.by import By
from synapse.core.events import LEASES, MessageSent, Recorded
from synapse.core.inboxes import in_order
from synapse.core.lease_answers import epochs_told, with_grant
from synapse.core.questions import STILL_OPEN, require_question
from synapse.core.refusals import require_limit
from synapse.core.retention import floor_of, require_kept
from synapse.core.rooms import require_channel, require_room
from synapse.core.session_changes import SessionMutation, hear_of
from synapse.core.signals import last_number, require_durable, signal_counts
from synapse.core.state import State
from synapse.core.topics import (
    LEASES_OF,
    channels_in,
    floors_of,
    is_followed,
    is_topic,
    keys_on_disk,
    lease_keys,
    topic_key,
)
from synapse.errors import Rejected, bad_request
from synapse.hub.chunks import serve_chunk
from synapse.hub.connection import Connection
from synapse.hub.digest import digest_query, read_digest
from synapse.hub.happenings import events_query, read_events
from synapse.hub.ledger import explanation, ledger
from synapse.hub.letters import HeldTrace, Traces, no_receipt
from synapse.hub.paging import recorded_of
from synapse.hub.reads import HistoryQuery, listed, read_ackers, read_history, read_inbox
from synapse.hub.session_reads import lane_query, points_scan, read_lane, read_points
from synapse.hub.space import SPACE_NEEDED
from synapse.hub.threads import Keeper
from synapse.hub.tokens import end_tokens
from synapse.hub.work import Waiter
from synapse.protocol.codec import Request, RequestId
from synapse.protocol.codes import PROTOCOL_VERSION
from synapse.protocol.commands import (
    AckInbox,
    BackUpJournal,
    CompactJournal,
    DeclareStatus,
    ExplainTask,
    ForgetAgent,
    IdentifyHub,
    ListInbox,
    Ping,
    ReadHistory,
    RebindAgent,
    ShowStatus,
    Subscribe,
    Unsubscribe,
    VerifyJournal,
    WaitReceipt,
)
from synapse.protocol.cursor import cursor_of, message_id, seq_of, seq_of_message
from synapse.protocol.delivery_commands import GetReceipt, ListDead
from synapse.protocol.digest_commands import ReadDigest
from synapse.protocol.event_commands import ReadEvents
from synapse.protocol.file_commands import ReadChunk
from synapse.protocol.lane_commands import ShowLane
from synapse.protocol.names import GENERAL, RESERVED, require_agent_name, split_address, split_topic
from synapse.protocol.plan_commands import ReadProgress
from synapse.protocol.question_commands import WaitQuestion
from synapse.protocol.replies import (
    Counts,
    HubIdentity,
    Lease,
    Pong,
    Position,
    Receipt,
    Status,
    Subscribed,
    Unsubscribed,
)
from synapse.protocol.role_commands import JoinRole, LeaveRole
from synapse.protocol.session_commands import ReadSessionPoints
from synapse.protocol.signal_commands import ListRecent, SayTyping, SignalCommand
from synapse.protocol.token_commands import RevokeToken

if TYPE_CHECKING:
    from synapse.hub.turn import Turns

Local: TypeAlias = (
    IdentifyHub
    | Ping
    | Subscribe
    | Unsubscribe
    | ReadHistory
    | ListInbox
    | WaitReceipt
    | GetReceipt
    | ListDead
    | WaitQuestion
    | ExplainTask
    | ReadProgress
    | ReadDigest
    | ReadEvents
    | ReadSessionPoints
    | ShowLane
    | ReadChunk
    | ShowStatus
    | VerifyJournal
    | BackUpJournal
    | CompactJournal
    | SignalCommand
)
"""Commands that core has no part in."""

COMMIT_STALL_MS: Final = 5_000
"""Health is red while one commit takes longer than this."""


class Requests:
    """Serves the commands of `Local` for one `Turns`."""

    def __init__(self, turns: "Turns", keeper: Keeper | None) -> None:
        self._turns = turns
        self._state = turns.state
        self._limits = turns.rules.limits
        self._keeper = keeper

    def serve(self, connection: Connection, request_id: RequestId, command: Local) -> None:
        """Answer now, or see to it that an answer comes. Raises `Rejected`."""
        turns, state = self._turns, self._state
        match command:
            case Ping():
                turns.reply(connection, request_id, Pong(cursor=self._cursor()))
            case Subscribe():
                self._subscribe(connection, request_id, command)
            case Unsubscribe():
                subscription = connection.subscriptions.get(command.subscription)
                if subscription is None:
                    raise Rejected("not_found", f"this connection has no subscription {command.subscription}")
                turns.feeds.end(subscription)
                if subscription.takes:
                    turns.waiting.unfollow(connection.by.require_agent(), connection)
                turns.reply(connection, request_id, Unsubscribed(subscription=subscription.id, cursor=self._cursor()))
            case ReadHistory():
                query = self._history_query(connection, command)
                turns.disk.defer(connection, request_id, lambda: read_history(turns.pages, query))
            case ListInbox():
                self._list_inbox(connection, request_id, command)
            case WaitReceipt():
                self._wait_receipt(connection, request_id, command)
            case GetReceipt():
                turns.letters.receipt(connection, request_id, command)
            case ListDead():
                turns.letters.list_dead(connection, request_id, command)
            case WaitQuestion():
                self._wait_question(connection, request_id, command)
            case ExplainTask():
                explain = explanation(state, command, connection.by, self._limits.page_items_max)
                turns.disk.defer(connection, request_id, lambda: explain(turns.pages))
            case ReadProgress():
                progress = ledger(state, command, connection.by, self._limits.page_items_max)
                turns.disk.defer(connection, request_id, lambda: progress(turns.pages))
            case ReadDigest():
                digest = digest_query(state, command, connection.by, self._limits.page_items_max)
                turns.disk.defer(connection, request_id, lambda: read_digest(turns.pages, digest))
            case ReadEvents():
                self.read_events(connection, request_id, command)
            case ReadSessionPoints():
                points = points_scan(state, command, connection.by, self._limits.page_items_max)
                turns.disk.defer(connection, request_id, lambda: read_points(turns.pages, points))
            case ShowLane():
                lane = lane_query(state, command, connection.by, self._limits.page_items_max)
                turns.disk.defer(connection, request_id, lambda: read_lane(turns.pages, lane))
            case ReadChunk():
                serve_chunk(turns, connection, request_id, command)
            case ShowStatus():
                turns.reply(connection, request_id, self.status(connection.by))
            case IdentifyHub():
                identity = HubIdentity(
                    hub_id=state.hub_id, version=turns.version, protocol=(PROTOCOL_VERSION, PROTOCOL_VERSION)
                )
                turns.reply(connection, request_id, identity)
            case ListRecent() | SayTyping():
                turns.signals.serve(connection, request_id, command)
            case VerifyJournal():
                connection.by.require_operator("verifying the journal")
                if turns.retention.is_running:  # it would look at what is just being dropped
                    raise Rejected("limit", "a journal compact is under way; try again later", retry_after_ms=1000)
                self._require_keeper().verify(lambda result: turns.say_later(connection, request_id, result))
            case CompactJournal():
                turns.retention.ask(connection, request_id, command)
            case BackUpJournal():
                connection.by.require_operator("backing the journal up")
                if not command.path.startswith("/"):
                    raise bad_request("the path of a backup must be absolute", "$.body.path")
                keeper = self._require_keeper()
                keeper.back_up(command.path, lambda result: turns.say_later(connection, request_id, result))
            case _:
                assert_never(command)

    def _cursor(self) -> str:
        return cursor_of(self._state.journal_id, self._state.seq)

    def _require_keeper(self) -> Keeper:
        if self._keeper is None:
            raise Rejected("unsupported", "this hub keeps its journal in memory")
        return self._keeper

    # Subscriptions and history.

    def _channel_keys(self, addresses: Sequence[str], by: By) -> list[tuple[str, Position]]:
        found: list[tuple[str, Position]] = []
        for address in dict.fromkeys(addresses):
            if "*" in address:
                found.append(self._topic(address, by))
                continue
            room, name = split_address(address)
            channel = require_channel(self._state, address, by)
            number = last_number(self._state, channel)
            found.append((f"ch/{channel.id}", Position(room=room, channel=name, n=number, ephemeral=channel.ephemeral)))
        return found

    def _topic(self, address: str, by: By) -> tuple[str, Position]:
        """The key of `room:PREFIX*`, and how many channels are in it."""
        room, prefix = split_topic(address)
        key = topic_key(require_room(self._state, room, by).id, prefix)
        return key, Position(room=room, channel=f"{prefix}*", n=len(channels_in(self._state, key)))

    def _require_free(self, found: Sequence[tuple[str, Position]], taken: set[str]) -> None:
        """Raises `Rejected`: `already_subscribed` when a channel would be followed by two subscriptions, `limit`."""
        for key, position in found:
            if is_followed(self._state, key, taken):
                raise Rejected(
                    "already_subscribed",
                    f"{position.channel} is in another subscription of this connection: end that one first",
                    {"channel": position.channel, "room": position.room},
                )
        topics = sum(map(is_topic, taken)) + sum(is_topic(key) for key, _ in found)
        if topics > self._limits.subscribed_topics_max:
            raise _limit("subscribed_topics_max", self._limits.subscribed_topics_max)

    def _subscribe(self, connection: Connection, request_id: RequestId, command: Subscribe) -> None:
        limits, state, feeds = self._limits, self._state, self._turns.feeds
        if len(connection.subscriptions) >= limits.subscriptions_max:
            raise _limit("subscriptions_max", limits.subscriptions_max)
        if command.take:
            self._turns.takes.subscribe(connection, request_id, command)
            return
        if command.directed_only:
            raise bad_request("directed_only goes with take", "$.body.directed_only")
        single = command.inbox or command.presence or command.leases or command.receipts or command.activity
        of_rooms = (*command.values, *command.plans, *command.questions)
        if not (single or command.channels or of_rooms):
            what = "channels, inbox, presence, leases, receipts, values, plans, questions or activity"
            raise bad_request(f"a subscription names {what}", "$.body")
        taken = {key for other in connection.subscriptions.values() for key in other.keys}
        if len(taken) + len(command.channels) + len(of_rooms) > limits.subscribed_channels_max:
            raise _limit("subscribed_channels_max", limits.subscribed_channels_max)
        self._turns.signals.begin(command.channels, connection.by)
        found = self._channel_keys(command.channels, connection.by)
        if command.inbox:
            agent = connection.by.require_agent()
            inbox = state.agents.inboxes[agent]
            found.append((f"in/{agent}", Position(room=None, channel=f"@{connection.by.actor}", n=inbox.last_n)))
        self._require_free(found, taken)
        apart: list[str] = []
        if command.leases:
            apart = lease_keys(state, connection.by)
            if any(key == LEASES or key.startswith(LEASES_OF) for key in taken):
                raise Rejected(
                    "already_subscribed",
                    "leases are in another subscription of this connection: end that one first",
                    {"channel": LEASES, "room": None},
                )
        followed = [f"re/{connection.by.require_agent()}"] if command.receipts else []
        followed += [
            f"{prefix}/{require_room(state, name, connection.by).id}"
            for prefix, names in (("kv", command.values), ("pl", command.plans), ("qu", command.questions))
            for name in dict.fromkeys(names)
        ]
        for key in followed:
            if key in taken:
                called = _called_room(state, key)
                raise Rejected(
                    "already_subscribed",
                    f"the {called} is followed by another subscription of this connection: end that one first",
                    {"channel": called.split()[0], "room": None if key.startswith("re/") else called.split()[-1]},
                )
        since = state.seq if command.since is None else seq_of(command.since, state.journal_id, state.seq)
        named = {key: _called(position) for whole, position in found for key in keys_on_disk(state, [whole])}
        if apart:
            named[LEASES] = LEASES
        require_kept(state, {**named, **{key: _called_room(state, key) for key in followed}}, since)
        keys = (*(key for key, _ in found), *followed, *apart)
        subscription = feeds.open(connection, keys, connection.by.agent, since, has_presence=command.presence)
        subscription.has_leases = command.leases
        self._turns.signals.follow(subscription, activity=command.activity)
        self._turns.reply(
            connection,
            request_id,
            Subscribed(
                subscription=subscription.id,
                positions=tuple(position for _, position in found),
                from_cursor=cursor_of(state.journal_id, since),
                cursor=self._cursor(),
            ),
        )

        def begin() -> None:
            if subscription.has_presence and not subscription.is_ended:
                self._turns.whereabouts.welcome(subscription)
            feeds.start(subscription)

        self._turns.after_release(begin)

    def _history_query(self, connection: Connection, command: ReadHistory) -> HistoryQuery:
        state = self._state
        if command.inbox:
            if command.room is not None or command.channel is not None:
                raise bad_request("give inbox, or room and channel", "$.body")
            keys, called = (f"in/{connection.by.require_agent()}",), f"@{connection.by.actor}"
        else:
            address = connection.by.home
            if command.channel is not None and ":" in command.channel:
                address = command.channel
            elif command.channel is not None or command.room is not None:
                room = command.room if command.room is not None else connection.by.home.partition(":")[0]
                address = f"{room}:{GENERAL if command.channel is None else command.channel}"
            keys, called = (self._channel_keys([address], connection.by)[0][0],), address
            if "*" not in address:
                require_durable(state.rooms.by_address[address], address)
        if command.since is not None and command.before is not None:
            raise bad_request("give since or before, not both", "$.body")
        if command.sender is not None and command.sender not in RESERVED:
            require_agent_name(command.sender)
        require_limit(command.limit, self._limits.page_items_max)
        journal_id, head, on_disk = state.journal_id, state.seq, keys_on_disk(state, keys)
        return HistoryQuery(
            keys=on_disk,
            floors=floors_of(state, keys, connection.by.agent),
            called=called,
            floor=lambda: max((floor_of(state.retention.floors, key) for key in on_disk), default=0),
            agent=connection.by.agent,
            since=None if command.since is None else seq_of(command.since, journal_id, head),
            before=None if command.before is None else seq_of(command.before, journal_id, head, "$.body.before"),
            head=head,
            journal_id=journal_id,
            asked=command,
        )

    def read_events(
        self, connection: Connection, request_id: RequestId, command: ReadEvents, *, is_over: bool = False
    ) -> None:
        """A page of what happened; at the head, wait for more unless the wait is over. Raises `Rejected`."""
        require_wait(command.wait_ms, self._limits.wait_ms_max)
        query = events_query(self._state, command, connection.by, self._limits.page_items_max)
        if command.wait_ms and not is_over and query.since == self._state.seq:
            waiter = self._turns.waiting.park(connection, request_id, command.wait_ms)
            self._turns.waiting.for_events(query.recorded_as, command, waiter)
            return
        self._turns.disk.defer(connection, request_id, lambda: read_events(self._turns.pages, query))

    # The inbox.

    def _list_inbox(self, connection: Connection, request_id: RequestId, command: ListInbox) -> None:
        agent, turns, state = connection.by.require_agent(), self._turns, self._state
        require_limit(command.limit, self._limits.page_items_max)
        after = -1 if command.after is None else seq_of_message(command.after, "$.body.after")
        every = list(in_order(state, agent))
        rest = [(inbox, entry) for inbox, entry in every if entry.seq > after]
        page = [listed(inbox, entry) for inbox, entry in rest[: command.limit]]
        head, journal_id, own = state.seq, state.journal_id, state.agents.inboxes[agent].unacked
        shared = sum(1 for _, entry in every if not entry.dead) - own if agent in state.roles.of_agent else UNSET
        more = len(rest) > len(page)
        turns.disk.defer(
            connection,
            request_id,
            lambda: read_inbox(turns.pages, journal_id, page, unacked=(own, shared), head=head, more=more),
        )

    # Receipts.

    def _wait_receipt(self, connection: Connection, request_id: RequestId, command: WaitReceipt) -> None:
        seq = seq_of_message(command.id)
        connection.by.require_agent()
        self.watch_receipt(seq, self._turns.waiting.park(connection, request_id, command.wait_ms))

    def watch_receipt(self, seq: int, waiter: Waiter) -> None:
        """Answer a long poll for the receipt of a message that this agent sent, now or later: of one that is held once
        it is released and acked. One that was dropped is refused."""
        turns, connection = self._turns, waiter.connection

        def check(found: Traces | HeldTrace | Rejected) -> None:
            if isinstance(found, HeldTrace):
                if found.fate.state == "held" and isinstance(found.message, MessageSent):
                    turns.waiting.for_receipt(seq, waiter)
                    return
                found = no_receipt(seq, found)
            if isinstance(found, Rejected):
                turns.waiting.unpark(connection)
                turns.refuse(connection, waiter.request_id, found)
                return
            dropped = {agent for agent, trace in found.by_agent.items() if trace.is_dropped}
            waiter.recipients = {to.agent: to.name for to in found.event.to if to.agent not in dropped}
            for to in found.event.to:  # who has acked may be forgotten since
                trace = found.by_agent[to.agent]
                if trace.acked_at_ms is not None:
                    waiter.acked[to.agent] = trace.acked_by or to.name
            if not self.answer_receipt(found.seq, waiter):
                turns.waiting.for_receipt(found.seq, waiter)

        turns.letters.trace(connection, seq, check)

    def _wait_question(self, connection: Connection, request_id: RequestId, command: WaitQuestion) -> None:
        require_wait(command.wait_ms, self._limits.wait_ms_max)
        question, waiting = require_question(self._state, command.id, connection.by), self._turns.waiting
        if question.status != STILL_OPEN:
            waiting.answer_question(connection, request_id, question)
            return
        waiting.for_question(question.id, waiting.park(connection, request_id, command.wait_ms))

    def answer_receipt(self, seq: int, waiter: Waiter) -> bool:
        """Answer when at least one recipient has acked, or nobody is left who could."""
        inboxes = self._state.agents.inboxes
        there = {agent: name for agent, name in waiter.recipients.items() if agent in inboxes}
        now = {agent: name for agent, name in there.items() if seq not in inboxes[agent].entries}
        acked = {**waiter.acked, **now}
        if there and not acked:
            return False
        turns, connection = self._turns, waiter.connection
        turns.waiting.unpark(connection)
        if not acked:
            name = message_id(seq)
            why = f"nobody can ack {name} any more: it was dropped or sent anew, or its recipient is forgotten"
            refusal = Rejected("not_found", f"{why} (synapse receipts {name} tells)", {"id": name})
            turns.refuse(connection, waiter.request_id, refusal)
            return True

        def say(names: tuple[str, ...]) -> None:
            if not connection.is_closed:
                receipt = Receipt(id=message_id(seq), state="acked", acked_by=names, cursor=self._cursor())
                turns.reply(connection, waiter.request_id, receipt)

        if any(agent in self._state.roles.by_id for agent in acked):  # which member it was is in the journal
            head = self._state.seq
            turns.disk.read(connection, lambda: read_ackers(turns.pages, seq, acked, head), say)
        else:
            say(tuple(acked.values()))
        return True

    # Mutations with a soft side, and their repeats.

    def after(self, connection: Connection, command: Answerable) -> None:
        """What a mutation does beside its events."""
        if isinstance(command, AckInbox):
            self._turns.waiting.has_room(connection.by.require_agent())
        elif isinstance(command, DeclareStatus):
            self._state.soft.presence.declare(connection.by.require_agent(), command.status)
        elif isinstance(command, RebindAgent | ForgetAgent):
            self._turns.revoke(self._turns.of_agent.get(command.name, ()))
        elif isinstance(command, RevokeToken):
            end_tokens(self._turns, {int(command.token[1:])})
        elif isinstance(command, JoinRole):
            self._turns.arrived([connection.by.require_agent()])  # what waits in the queue is there for it
        elif isinstance(command, LeaveRole):
            self._give_back(self._state.roles.by_name[command.role].id, connection.by.require_agent())
        elif isinstance(command, SessionMutation):
            hear_of(self._state, command, connection.by)

    def _give_back(self, role: int, agent: int) -> None:
        """An agent has left a role: what it has lent of the queue is there for the others."""
        for lend in self._state.soft.lending.shared_by(agent):
            if lend.agent == role:
                self._turns.letters.give_back(lend)

    def replay(self, connection: Connection, request: Request, command: Answerable, seq: int, count: int) -> None:
        """The answer of an earlier request with this key, rebuilt from its events."""
        turns, state = self._turns, self._state

        def rows(first: int, last: int) -> list[Recorded]:
            return [recorded_of(row) for row in turns.pages.rows(first, last)]

        def read() -> tuple[list[Recorded], list[Recorded]]:
            found = rows(seq, seq + count - 1)
            return found, [grant for epoch in epochs_told(found) for grant in rows(epoch, epoch)]

        def again(read: tuple[list[Recorded], list[Recorded]]) -> None:
            found, grants = read
            if not connection.is_closed:
                try:
                    body = answer(state, command, connection.by, found, found[-1].seq)
                    if isinstance(body, Lease) and body.live:  # told as it is now
                        require_room(state, body.room, connection.by)
                except Rejected as refusal:  # what it was about is gone, or out of sight
                    turns.refuse(connection, request.id, refusal)
                    return
                turns.reply(connection, request.id, with_grant(body, grants), replayed=True)

        turns.disk.read(connection, read, again)

    # Status.

    def complaints(self) -> list[str]:
        """Why the hub is not well; empty when it is."""
        turns, reasons = self._turns, []
        if turns.broken is not None:
            reasons.append(str(turns.broken))
        if turns.is_read_only:
            reasons.append(f"read_only: the disk is full; {SPACE_NEEDED}")
        if turns.commit_in_flight_ms > COMMIT_STALL_MS:
            reasons.append(f"a commit has been in flight for {turns.commit_in_flight_ms} ms")
        return reasons

    def status(self, by: By | None = None) -> Status:
        """The hub in one object. by: who asks; one that is kept to some rooms is told of nobody by name."""
        turns, state = self._turns, self._state
        reasons = self.complaints()
        return Status(
            health="red" if reasons else "green",
            reasons=tuple(reasons),
            version=turns.version,
            protocol=PROTOCOL_VERSION,
            hub_id=state.hub_id,
            journal_id=state.journal_id,
            pid=os.getpid(),
            uptime_ms=turns.clock.monotonic_ms() - turns.totals.started_ms,
            base=turns.log.base,
            head=turns.feeds.durable,
            journal_bytes=turns.log.size_bytes(),
            read_only=turns.is_read_only,
            verified_through=turns.verified_through,
            lease_clock_lag_ms=turns.lease_clock.lag_ms,
            clock_jumps=turns.wall_watch.jumps,
            clock_jumped_ms=turns.wall_watch.last_ms,
            limited=turns.peers.limited()[:100] if by is None or by.rooms is None else (),
            stuck=turns.peers.stuck,
            engine=turns.log.engine,
            counts=Counts(
                connections=len(turns.peers.connections),
                connections_total=turns.peers.total,
                agents=len(state.agents.by_id),
                online=state.soft.presence.online(),
                rooms=len(state.rooms.by_id),
                channels=len(state.rooms.channels),
                messages=state.messages,
                events=state.events,
                subscriptions=turns.feeds.count,
                waiting=turns.waiting.count,
                leases=len(state.leases.live),
                claims_waiting=len(state.leases.places),
            ),
            signals=signal_counts(state),
            cursor=self._cursor(),
        )


_OF_ROOMS: Final = {"kv": "values", "pl": "plan", "qu": "questions"}


def _called_room(state: State, key: str) -> str:
    """What is followed of a room, by its index key."""
    if key.startswith("re/"):
        return f"receipts of {state.agents.by_id[int(key[3:])].name}"
    name = state.rooms.by_id[int(key[3:])].name
    return f"{_OF_ROOMS[key[:2]]} of {name}"


def _called(position: Position) -> str:
    return position.channel if position.room is None else f"{position.room}:{position.channel}"


def _limit(name: str, value: int) -> Rejected:
    return Rejected("limit", f"this connection has {value} already ({name})", {"limit": name, "value": value})
