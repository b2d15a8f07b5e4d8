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
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Final, Literal, Self, TypeVar

import msgspec

from synapse.client.calls import KEYED, OutcomeUnknown, RequestTimeout
from synapse.client.home import Surroundings
from synapse.client.identity import Card, Identity, own_name
from synapse.client.lifeline import Lifeline, Wiring
from synapse.client.subscriptions import MessageFeed, PresenceFeed, PresenceUpdate
from synapse.client.takes import Takes, wait_receipt
from synapse.client.transport import Dial, HubDialer, Transport
from synapse.errors import Disconnected
from synapse.protocol import commands, replies
from synapse.protocol.codes import CLOSE_NORMAL
from synapse.protocol.cursor import cursor_of
from synapse.protocol.notices import Message
from synapse.protocol.replies import Reply

__all__ = [
    "Card",
    "Client",
    "Dial",
    "Message",
    "MessageFeed",
    "OutcomeUnknown",
    "PresenceFeed",
    "PresenceUpdate",
    "RequestTimeout",
    "Transport",
    "Wiring",
    "body_as",
    "body_of",
]

_Reply = TypeVar("_Reply", bound=Reply)
_Body = TypeVar("_Body")
_PAGE: Final = 200


def body_of(message: Message) -> object:
    """A message's body as plain Python data."""
    return msgspec.json.decode(message.body)


def body_as(message: Message, kind: type[_Body]) -> _Body:
    """A message's body, checked and converted to a Struct, dataclass, TypedDict, `str`…

    Raises `msgspec.ValidationError`, which is a ValueError, when the sender's body is no `kind`.
    """
    return msgspec.json.decode(message.body, type=kind)


class Client:
    """One agent's connection to a hub. Use it as `async with Client(...) as client`, in one event loop."""

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
        on its Unix socket. timeout: seconds for one request, reconnects and repeats included.
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
        self._lifeline = Lifeline(dial, identity, ask_token, wiring.chance, timeout)
        self._takes = Takes(self._lifeline)

    # Its life.

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> replies.Welcome:
        """Connect for the first time. Raises `HubUnreachable` when no hub answers, `Rejected` when it refuses."""
        await self._lifeline.connect()
        return self.welcome

    async def close(self) -> None:
        """End everything: waiting calls raise `Disconnected`, iterations end. Closing twice is the same as once."""
        await self._lifeline.close()

    @property
    def welcome(self) -> replies.Welcome:
        """What the hub told at the last hello: its ids, its limits, my name. Raises `Disconnected` before the first."""
        if self._lifeline.welcome is None:
            raise Disconnected(CLOSE_NORMAL, "the client is not connected: `async with client`, or await connect()")
        return self._lifeline.welcome

    @property
    def is_connected(self) -> bool:
        """True while a connection stands. False is no reason not to ask: requests wait for the next one."""
        return self._lifeline.is_up

    @property
    def _page(self) -> int:
        return min(_PAGE, self.welcome.limits.page_items_max)

    async def request(
        self,
        command: commands.Command,
        kind: type[_Reply],
        *,
        idem_key: str | None = None,
        timeout: float | None = None,
    ) -> _Reply:
        """Any command, with the type of its reply. Without `idem_key`, one that takes a key gets a random one.

        Raises `Rejected` as the hub refused it; `RequestTimeout` when nothing was changed, `OutcomeUnknown` when that
        is not known; `Disconnected` when the client has ended; `PeerError` for an answer that is none.
        """
        if idem_key is None and type(command) in KEYED and not _is_plain_ack(command):
            idem_key = f"{self._lifeline.chance.getrandbits(128):032x}"
        return await self._lifeline.ask(command, kind, key=idem_key, timeout=timeout)

    # Messages.

    async def send(
        self,
        body: object,
        *,
        to: str | tuple[str, ...] | list[str] = (),
        channel: str | None = None,
        target: str | None = None,
        subject: str | None = None,
        thread: str | None = None,
        reply_to: str | None = None,
        priority: Literal["low", "normal", "high", "urgent"] = "normal",
        create: bool = False,
        idem_key: str | None = None,
    ) -> replies.Sent:
        """Send anything that JSON can say: to agents, to a `room:channel`, to a target, or else to the client's room.

        target: an agent, a comma list, `all`, `room:channel`. create: a recipient never seen is made, not refused.
        Raises as `request`, TypeError for a body that is not JSON.
        """
        raw = msgspec.json.encode(body)
        if b"\n" in raw:  # a ready-made `msgspec.Raw` may be pretty-printed, and a frame is one line
            raw = msgspec.json.encode(msgspec.json.decode(raw))
        command = commands.SendMessage(
            body=msgspec.Raw(raw),
            to=(to,) if isinstance(to, str) else tuple(to),
            target=target,
            channel=channel,
            create=create,
            subject=subject,
            thread=thread,
            reply_to=reply_to,
            priority=priority,
        )
        return await self.request(command, replies.Sent, idem_key=idem_key)

    def subscribe(self, *channels: str, inbox: bool = False, since: str | None = None) -> MessageFeed:
        """Follow channels (`room:channel`) and my inbox; a feed is entered with `async with` and then iterated.

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
        """One page of a channel's messages, or of my inbox's, oldest first: the newest, or those after `since`."""
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
        """All pages of a history, from its beginning or from `since` to the head, oldest first."""
        position: str | None = since or cursor_of(self.welcome.journal_id, 0)
        while position is not None:
            page = await self.history(channel, inbox=inbox, since=position, limit=self._page, sender=sender, text=text)
            for message in page.messages:
                yield message
            position = page.next

    # The inbox.

    async def inbox(self, *, limit: int = 50, after: str | None = None) -> replies.Inbox:
        """One page of my unacked messages, oldest first. Looks only: nothing is taken."""
        return await self.request(commands.ListInbox(limit=limit, after=after), replies.Inbox)

    async def take(self, *, wait: float | None = 0.0, directed_only: bool = False) -> replies.Taken | None:
        """Borrow my oldest unacked message; None when none came within `wait` seconds (None: wait without end).

        It is lent for `lend_ms`, or until this connection closes, and comes back unless it is acked. Cancelling is
        safe: what the hub hands out too late goes to the next `take` of this client.
        """
        return await self._takes.take(wait, directed_only=directed_only)

    async def ack(self, *ids: str) -> replies.Acked:
        """Be done with messages, by id. Acking twice is the same as once."""
        return await self.request(commands.AckInbox(ids=ids), replies.Acked)

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
        """Wait until a recipient of my direct message acked it; None when none did within `wait` seconds."""
        return await wait_receipt(self._lifeline, message_id, wait)

    # Agents.

    async def who(self, room: str | None = None) -> tuple[replies.AgentInfo, ...]:
        """All agents, or the members of a room, by name, with their presence. All pages."""
        found: list[replies.AgentInfo] = []
        after: str | None = None
        while True:
            page = await self.request(commands.ListAgents(room=room, limit=self._page, after=after), replies.Agents)
            found += page.agents
            after = page.next
            if after is None:
                return tuple(found)

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

    # Rooms and channels.

    async def rooms(self) -> tuple[replies.RoomInfo, ...]:
        """All rooms by name, with counts. All pages."""
        found: list[replies.RoomInfo] = []
        after: str | None = None
        while True:
            page = await self.request(commands.ListRooms(limit=self._page, after=after), replies.Rooms)
            found += page.rooms
            after = page.next
            if after is None:
                return tuple(found)

    async def channels(self, room: str | None = None) -> tuple[replies.ChannelInfo, ...]:
        """All channels, or a room's, by address, with counts. All pages."""
        found: list[replies.ChannelInfo] = []
        after: str | None = None
        while True:
            command = commands.ListChannels(room=room, limit=self._page, after=after)
            page = await self.request(command, replies.Channels)
            found += page.channels
            after = page.next
            if after is None:
                return tuple(found)

    async def room_info(self, room: str) -> replies.RoomInfo:
        """A room with its channels and all its members."""
        info = page = await self.request(commands.ShowRoom(room=room, limit=self._page), replies.RoomInfo)
        members = list(info.participants or ())
        while page.next:
            command = commands.ShowRoom(room=room, limit=self._page, after=page.next)
            page = await self.request(command, replies.RoomInfo)
            members += page.participants or ()
        return msgspec.structs.replace(info, participants=tuple(members), next=None)

    async def channel_info(self, channel: str) -> replies.ChannelInfo:
        """A channel with all its members."""
        info = page = await self.request(commands.ShowChannel(channel=channel, limit=self._page), replies.ChannelInfo)
        members = list(info.participants or ())
        while page.next:
            command = commands.ShowChannel(channel=channel, limit=self._page, after=page.next)
            page = await self.request(command, replies.ChannelInfo)
            members += page.participants or ()
        return msgspec.structs.replace(info, participants=tuple(members), next=None)

    async def join(self, place: str) -> replies.Place:
        """Become a durable member of a `room`, or of a `room:channel`; made when absent if the hub allows it."""
        command: commands.Command = commands.JoinRoom(room=place)
        if ":" in place:
            command = commands.JoinChannel(channel=place)
        return await self.request(command, replies.Place)

    async def leave(self, place: str) -> replies.Place:
        """Leave a `room` with all its channels, or a `room:channel`."""
        command: commands.Command = commands.LeaveRoom(room=place)
        if ":" in place:
            command = commands.LeaveChannel(channel=place)
        return await self.request(command, replies.Place)

    async def create_room(self, room: str, *, kind: str = "room") -> replies.Place:
        """Create a room with its `general` channel."""
        return await self.request(commands.CreateRoom(room=room, type=kind), replies.Place)

    async def create_channel(self, channel: str, *, kind: str = "channel") -> replies.Place:
        """Create a channel (`room:channel`) in a room that exists."""
        return await self.request(commands.CreateChannel(channel=channel, type=kind), replies.Place)

    # The hub.

    async def ping(self) -> replies.Pong:
        """There and back, through the hub's turn."""
        return await self.request(commands.Ping(), replies.Pong)

    async def status(self) -> replies.Status:
        """Counts and health of the hub."""
        return await self.request(commands.ShowStatus(), replies.Status)

    # What only an operator may: `Client(operator=True)`.

    async def delete_room(self, room: str) -> replies.Place:
        """Operator: delete a room that has no members, with its channels."""
        return await self.request(commands.DeleteRoom(room=room), replies.Place)

    async def delete_channel(self, channel: str) -> replies.Place:
        """Operator: delete a channel that has no members."""
        return await self.request(commands.DeleteChannel(channel=channel), replies.Place)

    async def rebind_agent(self, name: str) -> replies.AgentRebound:
        """Operator: drop an agent's secret; its next hello binds a new one."""
        return await self.request(commands.RebindAgent(name=name), replies.AgentRebound)

    async def forget_agent(self, name: str) -> replies.AgentRemoved:
        """Operator: remove an agent, its inbox and memberships."""
        return await self.request(commands.ForgetAgent(name=name), replies.AgentRemoved)

    async def verify_journal(self, *, timeout: float = 3600.0) -> replies.JournalVerified:
        """Operator: check the whole hash chain while the hub runs. timeout: seconds."""
        return await self.request(commands.VerifyJournal(), replies.JournalVerified, timeout=timeout)

    async def back_up_journal(self, path: str, *, timeout: float = 3600.0) -> replies.JournalBackedUp:
        """Operator: write a consistent copy to `path`, seen from the hub: absolute, and not there yet."""
        return await self.request(commands.BackUpJournal(path=path), replies.JournalBackedUp, timeout=timeout)


def _is_plain_ack(command: commands.Command) -> bool:
    """An ack by ids is the same twice as once, and needs no key of the agent's store of keys."""
    return isinstance(command, commands.AckInbox) and not command.all
