"""The asynchronous client: every command a method, every answer a type, messages and presence as async iterators.

    async with Client(name="ada") as client:
        await client.send("hello", channel="main:general")
        async for message in client.messages():
            print(message.sender, body_of(message))

It finds the hub without configuration, reconnects for ever after its first success, repeats what a broken connection
cut off (what changes something under an idempotency key, so that it happens at most once), and goes on with every feed
where it was. See docs/reference/client.md.
"""

import os
from collections.abc import AsyncGenerator, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec

from synapse.client.acks import Acks
from synapse.client.bodies import body_as, body_of, data_of, milliseconds, raw_of, require_seconds, value_of
from synapse.client.calls import OutcomeUnknown, RequestTimeout
from synapse.client.cards import Cards
from synapse.client.deliveries import DeliveryFeed
from synapse.client.delivery import Delivery, expires_at_ms
from synapse.client.digest import Digests, digest_text
from synapse.client.events import Happening, Happenings, happening_of
from synapse.client.files import FileRefused
from synapse.client.held import HeldMessages
from synapse.client.home import Surroundings
from synapse.client.identity import Card, Identity, own_name
from synapse.client.lanes import WorkLanes
from synapse.client.leases import PLAIN, HeldLease, Mode, Terms, claim, claim_command, texts
from synapse.client.lifeline import Lifeline, Wiring
from synapse.client.places import Places
from synapse.client.plan import SharedPlan
from synapse.client.questions import QuestionDetails, Questions
from synapse.client.resources import LentResources
from synapse.client.role_queues import RoleQueues
from synapse.client.sent_files import SentFiles, recipients_of
from synapse.client.sessions import WorkSessions
from synapse.client.signals import Signalling, is_about_key
from synapse.client.soft_feeds import ActivityFeed, SignalFeed
from synapse.client.subscriptions import (
    LeaseFeed,
    MessageFeed,
    PlanFeed,
    PresenceFeed,
    PresenceUpdate,
    QuestionFeed,
    ReceiptFeed,
    ValueFeed,
)
from synapse.client.takes import Takes, wait_receipt
from synapse.client.tokens import NewToken, Tokens
from synapse.client.transport import Dial, HubDialer, Transport
from synapse.client.values import SharedValues
from synapse.client.worktree import files_of
from synapse.errors import LeaseLost, Rejected
from synapse.protocol import commands, replies, terms
from synapse.protocol.card_commands import Skill
from synapse.protocol.cursor import cursor_of
from synapse.protocol.journal_replies import Compaction
from synapse.protocol.notices import Message
from synapse.protocol.plan_commands import TaskSpec

__all__ = [
    "ActivityFeed",
    "Card",
    "Client",
    "Dial",
    "FileRefused",
    "Happening",
    "HeldLease",
    "LeaseFeed",
    "LeaseLost",
    "Message",
    "MessageFeed",
    "NewToken",
    "OutcomeUnknown",
    "PlanFeed",
    "PresenceFeed",
    "PresenceUpdate",
    "QuestionDetails",
    "QuestionFeed",
    "ReceiptFeed",
    "RequestTimeout",
    "SignalFeed",
    "Skill",
    "TaskSpec",
    "Terms",
    "Transport",
    "ValueFeed",
    "Wiring",
    "body_as",
    "body_of",
    "data_of",
    "digest_text",
    "happening_of",
    "value_of",
]


class Client(
    Delivery,
    Places,
    RoleQueues,
    SentFiles,
    HeldMessages,
    SharedValues,
    LentResources,
    Cards,
    SharedPlan,
    Questions,
    Digests,
    Happenings,
    WorkSessions,
    Signalling,
    WorkLanes,
    Tokens,
):
    """One agent's connection to a hub. Use it as `async with Client(...) as client`, in one event loop.

    Whatever asks the hub raises as `request` does; a method names only the refusals that are its own. What only an
    operator may is refused to everybody else: `Rejected(not_permitted)`.
    """

    def __init__(
        self,
        uri: str | None = None,
        *,
        name: str | None = None,
        card: Card | None = None,
        room: str | None = None,
        home: str | os.PathLike[str] | None = None,
        token: str | None = None,
        secret: str | None = None,
        operator: bool = False,
        timeout: float = 10.0,
        wiring: Wiring | None = None,
    ) -> None:
        """What is left out comes from the environment and config.toml, as for the command line.

        uri: `unix:/path`, `ws://…`, `wss://…`; else the hub of `home`. name: the agent; else SYNAPSE_NAME,
        SYN_IDENTITY, `user@host`. card: what others see of it. room: `room` or `room:channel` for messages that name
        none. secret: else the one that `home` keeps for this hub and name. operator: no agent, for the hub's own user
        on its Unix socket, or with a token of the role admin. timeout: seconds for one request, reconnects and repeats
        included.
        Raises `HomeRefused` for a broken config.toml.
        """
        flags = {"home": home, "uri": uri, "name": name, "room": room}
        around = Surroundings({key: os.fspath(text) for key, text in flags.items() if text is not None}, os.environ)
        wiring = Wiring() if wiring is None else wiring
        card = Card() if card is None else card
        agent: str | None = None
        if not operator:
            agent, is_person = own_name(around, name)
            if is_person and card.kind is None:
                card = msgspec.structs.replace(card, kind="human")
        identity = Identity(
            around, name=agent, secret=secret, card=card, home=around.get("room"), lasting=wiring.lasting
        )
        dialer = HubDialer(around, token)
        dial, ask_token = (dialer, dialer.token) if wiring.dial is None else (wiring.dial, lambda: token)
        require_seconds(timeout, "a timeout")
        self._lifeline = Lifeline(dial, identity, ask_token, wiring.chance, timeout)
        self._takes = Takes(self._lifeline)
        self._acks = Acks(self._lifeline)

    # Its life.

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> replies.Welcome:
        """Connect for the first time.

        Raises `HubUnreachable` when no hub answers or it ends before its welcome, `Rejected` when it refuses.
        """
        await self._lifeline.connect()
        return self.welcome

    async def close(self) -> None:
        """End it: calls that wait raise `Disconnected`, feeds and `messages()` end. Twice is the same as once."""
        await self._lifeline.close()

    # Messages.

    async def send(
        self,
        body: object,
        *,
        to: str | tuple[str, ...] | list[str] | None = None,
        channel: str | None = None,
        target: str | None = None,
        subject: str | None = None,
        thread: str | None = None,
        reply_to: str | None = None,
        priority: Literal["low", "normal", "high", "urgent"] = "normal",
        expires: float | None = None,
        create: bool = False,
        idem_key: str | None = None,
    ) -> replies.Sent:
        """Send anything that JSON can say: to agents, to a `room:channel`, to a target, or else to the client's room.

        to: an empty list is refused (`no_recipient`). target: an agent, a comma list, `all`, `room:channel`. expires:
        in so many seconds it is of no use, and a dead letter for whoever has not acked it. create: a recipient never
        seen is made, not refused. To an ephemeral channel it goes as `signal` does.
        Raises as `request`, TypeError for a body that is not JSON.
        """
        command = commands.SendMessage(
            body=raw_of(body),
            to=recipients_of(to),
            target=target,
            channel=channel,
            create=create,
            subject=subject,
            thread=thread,
            reply_to=reply_to,
            priority=priority,
            expires_at_ms=expires_at_ms(expires),
        )
        try:
            return await self.request(command, replies.Sent, idem_key=idem_key)
        except Rejected as refusal:
            if idem_key is not None or not is_about_key(refusal):
                raise
        return await self._lifeline.ask(command, replies.Sent)

    def subscribe(self, *channels: str, inbox: bool = False, since: str | None = None) -> MessageFeed:
        """Follow channels (`room:channel`, or `room:deploy-*` for all whose names begin so, those to come included) and
        my inbox; a feed is entered with `async with` and then iterated.

        With neither, the client's own room and my inbox. since: a cursor; what came after it comes first. A feed
        observes: it takes nothing from the inbox and joins no channel.
        """
        if not channels and not inbox:
            channels, inbox = (self.welcome.home,), self.welcome.name is not None
        return MessageFeed(self._lifeline, channels, inbox=inbox, since=since)

    async def messages(
        self, *channels: str, inbox: bool = False, since: str | None = None
    ) -> AsyncGenerator[Message, None]:
        """`subscribe` for a loop without end. One that may `break` had better use `subscribe`, which ends at once."""
        async with self.subscribe(*channels, inbox=inbox, since=since) as feed:
            async for message in feed:
                yield message

    async def history(
        self,
        channel: str | None = None,
        *,
        inbox: bool = False,
        since: str | None = None,
        before: str | None = None,
        limit: int = 50,
        sender: str | None = None,
        text: str | None = None,
        from_ms: int | None = None,
        until_ms: int | None = None,
    ) -> replies.History:
        """One page of the messages of a channel, of a topic (`room:deploy-*`) or of my inbox, oldest first: the newest,
        or those after `since`.

        since, before: cursors, one of them. limit: 1 to `welcome.limits.page_items_max`. sender, text: only messages
        from that agent, with that substring. from_ms, until_ms: Unix time, both included. The page's `next` and
        `previous` are the cursors to go on with. Raises `Rejected`: `not_found`, `log_diverged`.
        """
        command = commands.ReadHistory(
            channel=channel,
            inbox=inbox,
            since=since,
            before=before,
            limit=limit,
            sender=sender,
            text=text,
            from_ms=from_ms,
            until_ms=until_ms,
        )
        return await self.request(command, replies.History)

    async def all_history(
        self,
        channel: str | None = None,
        *,
        inbox: bool = False,
        since: str | None = None,
        sender: str | None = None,
        text: str | None = None,
    ) -> AsyncGenerator[Message, None]:
        """All pages of a history, from its beginning or from `since` to the head, oldest first. Arguments, and what it
        raises, as for `history`."""
        position: str | None = since or cursor_of(self.welcome.journal_id, 0)
        while position is not None:
            page = await self.history(channel, inbox=inbox, since=position, limit=self._page, sender=sender, text=text)
            for message in page.messages:
                yield message
            position = page.next

    # The inbox.

    async def inbox(self, *, limit: int = 50, after: str | None = None) -> replies.Inbox:
        """One page of my unacked messages, oldest first. Looks only: nothing is taken. limit: as for `history`. after:
        an id, such as the `next` of the page before."""
        return await self.request(commands.ListInbox(limit=limit, after=after), replies.Inbox)

    async def take(self, *, wait: float | None = 0.0, directed_only: bool = False) -> replies.Taken | None:
        """Borrow my most urgent unacked message, the oldest of these; None when none came within `wait` seconds (None:
        wait without end).

        It is lent for `lend_ms`, or until this connection closes, and comes back unless it is acked. Cancelling is
        safe: what the hub hands out too late goes to the next `take` of this client.
        """
        return await self._takes.take(wait, directed_only=directed_only)

    async def ack(self, *ids: str) -> replies.Acked:
        """Be done with messages, by id; again is the same as once. All or none: raises `Rejected`: `not_found` for what
        was never in my inbox, `bad_request` for what is no id."""
        return await self._acks.ack(ids)

    def deliveries(self, prefetch: int = 8, *, directed_only: bool = False) -> DeliveryFeed:
        """Borrow what comes into my inbox, ahead of its use: `async with client.deliveries() as feed: async for lent in
        feed`; ack each by `lent.message.id`.

        prefetch: so many messages are lent to me and not acked at most, 1 to 1000. Each is lent for `lend_ms` from the
        moment at which it is sent to me, so let it be no more than I get done in that time; with 1 it is as `take`.
        Acks that are asked for at the same time go to the hub as one.
        """
        if prefetch < 1:
            raise Rejected("bad_request", f"a prefetch of {prefetch}: 1 to 1000 messages", {"path": "prefetch"})
        return DeliveryFeed(self._lifeline, prefetch, directed_only=directed_only, left=self._takes.keep)

    async def ack_all(self) -> replies.Acked:
        """Be done with everything that is in my inbox now."""
        return await self.request(commands.AckInbox(all=True), replies.Acked)

    async def inbox_messages(self, *, directed_only: bool = False) -> AsyncGenerator[Message, None]:
        """Take messages one by one, for ever; each is acked when the loop comes back for the next one.

        At least once: one whose loop body raised, or whose ack was cut off for good, comes again, under the same id.
        """
        while True:
            taken = await self.take(wait=None, directed_only=directed_only)
            assert taken is not None, "a take without end ends with a message"
            yield msgspec.structs.replace(taken.message, lends=taken.lends)
            await self.ack(taken.message.id)

    async def wait_receipt(self, message_id: str, *, wait: float | None = None) -> replies.Receipt | None:
        """Wait until a recipient of my direct message acked it; None when none did within `wait` seconds.

        wait: None has no end. Raises `Rejected(not_found)` for what is no direct message of mine.
        """
        return await wait_receipt(self._lifeline, message_id, wait)

    # Agents.

    async def who(self, room: str | None = None) -> tuple[replies.AgentInfo, ...]:
        """All agents, or the members of a room, by name, with their presence. All pages.

        Raises `Rejected(not_found)`.
        """
        pages = self._pages(lambda at: commands.ListAgents(room=room, limit=self._page, after=at), replies.Agents)
        return tuple([agent async for page in pages for agent in page.agents])

    def presence(self) -> PresenceFeed:
        """Who is here: `async with client.presence() as feed: async for update in feed`, a snapshot and then diffs."""
        return PresenceFeed(self._lifeline)

    async def declare_status(self, status: Literal["idle", "busy", "waiting_for_input"]) -> replies.StatusDeclared:
        """Say what I am doing. The client says it again after a reconnect."""
        command = commands.DeclareStatus(status=status)
        before, self._lifeline.declared = self._lifeline.declared, command
        declared = False
        try:
            reply = await self.request(command, replies.StatusDeclared)
            declared = True
        finally:
            if not declared and self._lifeline.declared is command:
                self._lifeline.declared = before
        return reply

    # Leases.

    def lease(
        self,
        task: str,
        *,
        paths: str | Iterable[str] = (),
        worktree: str | None = None,
        pools: Mapping[str, int] | None = None,
        room: str | None = None,
        mode: Mode = "exclusive",
        ttl: float = 30.0,
        wait: float | None = 0.0,
        terms: Terms | None = None,
    ) -> HeldLease:
        """Hold a task's lease while a block runs: `async with client.lease("T1", paths=["src/**"], wait=30) as lease`.

        It is renewed in the background and given back at the end; another process of this agent is shut out too. When
        it is lost the block is cancelled and `LeaseLost` raised. Arguments, and refusals on entering, as for `claim`.
        """
        terms = PLAIN if terms is None else terms
        command = claim_command(task, paths, worktree, pools, room, mode, ttl, wait, terms, is_held=True)
        return HeldLease(self._lifeline, command, terms.on_queued)

    async def claim(
        self,
        task: str,
        *,
        paths: str | Iterable[str] = (),
        worktree: str | None = None,
        pools: Mapping[str, int] | None = None,
        room: str | None = None,
        mode: Mode = "exclusive",
        ttl: float = 900.0,
        wait: float | None = 0.0,
        terms: Terms | None = None,
        idem_key: str | None = None,
    ) -> replies.Lease:
        """Lease a task of a room, with a scope, all or nothing; renew it yourself. One that I hold is renewed.

        paths: globs, relative to the working directory; to the root of `worktree`, if that is named (or
        SYNAPSE_WORKTREE is set). pools: units by name. ttl, wait: seconds, a TTL from 5 s to 24 h and a wait up to 24 h
        unless the hub is set otherwise (`welcome.limits`); wait 0 does not wait, None has no end. Who waits keeps its
        place in line over reconnects and restarts of the hub. Cancelling gives back what was granted. Raises
        `Rejected`: `lease_held`, `lease_queued`, `deadline` (the wait is over), `deadlock`, `bad_scope`, …; and as
        `request`.
        """
        terms = PLAIN if terms is None else terms
        command = claim_command(task, paths, worktree, pools, room, mode, ttl, wait, terms, is_held=False)
        return await claim(self._lifeline, command, idem_key, terms.on_queued)

    async def renew(
        self,
        task: str,
        *,
        epoch: int | None = None,
        room: str | None = None,
        ttl: float | None = None,
        note: str | None = None,
    ) -> replies.Lease:
        """Give a lease of mine its full TTL again.

        epoch: refuse unless it still is that grant. ttl: seconds, a new one from now on. note: a new one.
        Raises `Rejected`: `not_found`, `not_holder`, `stale_epoch`, `bad_request` for a TTL outside the hub's bounds.
        """
        ttl_ms = None if ttl is None else milliseconds(ttl, "a TTL")
        command = commands.RenewLease(task=task, room=room, epoch=epoch, ttl_ms=ttl_ms, note=note)
        return await self.request(command, replies.Lease)

    async def release(self, task: str, *, epoch: int | None = None, room: str | None = None) -> replies.Released:
        """Give a lease back; who waits for it gets it. Its checkpoint stays with the task.

        Raises `Rejected`: `not_found`, `not_holder`, `stale_epoch`.
        """
        return await self.request(commands.ReleaseLease(task=task, room=room, epoch=epoch), replies.Released)

    async def withdraw(self, task: str, *, room: str | None = None) -> replies.Withdrawn:
        """Leave the queue of a task, with all claims of this agent that wait for it; they raise `Rejected(withdrawn)`.
        Raises `Rejected(not_found)` where none waits."""
        return await self.request(commands.WithdrawClaim(task=task, room=room), replies.Withdrawn)

    async def checkpoint(
        self,
        task: str,
        data: object = None,
        *,
        artefacts: Iterable[terms.Artefact] = (),
        epoch: int | None = None,
        room: str | None = None,
    ) -> replies.Lease:
        """Leave something for the next holder of a task that I hold, in place of what was left: JSON, and files.

        Without both, what was left is dropped.
        Raises `Rejected`: `not_found`, `not_holder`, `stale_epoch`, `too_large`; TypeError for what is not JSON.
        """
        command = commands.SaveCheckpoint(
            task=task, room=room, epoch=epoch, data=raw_of(data), artefacts=tuple(artefacts)
        )
        return await self.request(command, replies.Lease)

    async def hand_off(self, task: str, to: str, *, epoch: int | None = None, room: str | None = None) -> replies.Lease:
        """Pass a lease on, with all that belongs to it. Outcome `handed_off`, or `offered` to one that is offline.

        Raises `Rejected`: `not_found` (also for who was never seen), `not_holder`, `stale_epoch`, `inbox_full`.
        """
        command = commands.HandOffLease(task=task, to=to, room=room, epoch=epoch)
        return await self.request(command, replies.Lease)

    async def park(
        self, task: str, *, parked: bool = True, epoch: int | None = None, room: str | None = None
    ) -> replies.Lease:
        """Let the TTL of a lease stand still while its task waits for a person; `parked=False` lets it run on.

        At most `welcome.limits.parked_ms_max`. Raises `Rejected`: `not_found`, `not_holder`, `stale_epoch`.
        """
        command = commands.ParkLease(task=task, parked=parked, room=room, epoch=epoch)
        return await self.request(command, replies.Lease)

    async def check_lease(self, task: str, epoch: int, *, room: str | None = None) -> replies.Lease:
        """For guards: is this grant the live one, whoever holds it? Raises `Rejected(stale_epoch)` when not."""
        return await self.request(commands.CheckLease(task=task, epoch=epoch, room=room), replies.Lease)

    async def check_paths(
        self, paths: str | Iterable[str], *, worktree: str | None = None, mode: Mode = "shared"
    ) -> replies.PathsCovered:
        """For guards: is each file covered by a live lease of mine? Raises `Rejected(not_covered)`, with who holds it.

        paths: no globs; relative as for `claim`. mode `exclusive`: shared leases do not count.
        """
        found, files = files_of(texts(paths), worktree, str(Path.cwd()), os.environ)
        return await self.request(commands.CheckPaths(worktree=found, paths=files, mode=mode), replies.PathsCovered)

    async def leases(
        self,
        *,
        room: str | None = None,
        owner: str | None = None,
        worktree: str | None = None,
        task: str | None = None,
    ) -> tuple[replies.Lease, ...]:
        """All live leases, or only these, by epoch, each with who waits behind it. All pages."""
        pages = self._pages(
            lambda at: commands.ListLeases(
                room=room, owner=owner, worktree=worktree, task=task, limit=self._page, after=at
            ),
            replies.Leases,
        )
        return tuple([lease async for page in pages for lease in page.leases])

    async def why(self, task: str, *, room: str | None = None) -> tuple[replies.Happened, ...]:
        """What happened to a task, in words, oldest first. All pages. Raises `Rejected(not_found)` if nothing did."""
        pages = self._pages(
            lambda at: commands.ExplainTask(task=task, room=room, limit=self._page, after=at), replies.Explanation
        )
        return tuple([event async for page in pages for event in page.events])

    def lease_changes(self, since: str | None = None) -> LeaseFeed:
        """What becomes of all leases: `async with client.lease_changes() as feed: async for change in feed`.

        since: a cursor; what came after it comes first.
        """
        return LeaseFeed(self._lifeline, since=since)

    async def pools(self) -> tuple[replies.PoolInfo, ...]:
        """All pools of counted units, by name. All pages."""
        pages = self._pages(lambda at: commands.ListPools(limit=self._page, after=at), replies.Pools)
        return tuple([pool async for page in pages for pool in page.pools])

    # The hub.

    async def ping(self) -> replies.Pong:
        """There and back, through the hub's turn."""
        return await self.request(commands.Ping(), replies.Pong)

    async def status(self) -> replies.Status:
        """Counts and health of the hub."""
        return await self.request(commands.ShowStatus(), replies.Status)

    # What only an operator may: `Client(operator=True)`.

    async def set_pool(self, pool: str, capacity: int) -> replies.PoolInfo:
        """Operator: make a pool of so many units, or change how many. What is held above that stays held."""
        return await self.request(commands.SetPool(pool=pool, capacity=capacity), replies.PoolInfo)

    async def delete_pool(self, pool: str) -> replies.PoolDeleted:
        """Operator: delete a pool that nobody holds or waits for. Raises `Rejected`: `not_found`, `not_empty`."""
        return await self.request(commands.DeletePool(pool=pool), replies.PoolDeleted)

    async def rebind_agent(self, name: str) -> replies.AgentRebound:
        """Operator: drop an agent's secret; its next hello binds a new one. Raises `Rejected(not_found)`."""
        return await self.request(commands.RebindAgent(name=name), replies.AgentRebound)

    async def forget_agent(self, name: str) -> replies.AgentRemoved:
        """Operator: remove an agent, its inbox and memberships; its name is free. Raises `Rejected(not_found)`."""
        return await self.request(commands.ForgetAgent(name=name), replies.AgentRemoved)

    async def verify_journal(self, *, timeout: float = 3600.0) -> replies.JournalVerified:
        """Operator: check the whole hash chain while the hub runs. timeout: seconds. Raises `Rejected(journal_broken)`,
        with the first bad seq."""
        return await self.request(commands.VerifyJournal(), replies.JournalVerified, timeout=timeout)

    async def back_up_journal(self, path: str, *, timeout: float = 3600.0) -> replies.JournalBackedUp:
        """Operator: write a consistent copy to `path`, on the hub's side: absolute, not there yet. timeout: seconds."""
        return await self.request(commands.BackUpJournal(path=path), replies.JournalBackedUp, timeout=timeout)

    async def compact_journal(
        self, keep: Mapping[str, int] | None = None, *, dry_run: bool = False, timeout: float = 3600.0
    ) -> Compaction:
        """Operator: drop what is older than `keep` says, in ms by kind or `room:channel`, and for the rest the hub's
        settings; 0 keeps all of it. dry_run: only say what would go. timeout: seconds."""
        asked = commands.CompactJournal(keep=dict(keep or {}), dry_run=dry_run)
        return await self.request(asked, Compaction, timeout=timeout)
