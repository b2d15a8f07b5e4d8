"""The client's half of rooms and channels."""

import msgspec

from synapse.client.asking import Asking
from synapse.protocol import commands, replies
from synapse.protocol.member_commands import InviteMember, KickMember
from synapse.protocol.member_replies import Membership


class Places(Asking):
    """Rooms, their channels, and who is in them: a part of `Client`."""

    async def rooms(self) -> tuple[replies.RoomInfo, ...]:
        """All rooms by name, with counts. All pages."""
        pages = self._pages(lambda at: commands.ListRooms(limit=self._page, after=at), replies.Rooms)
        return tuple([room async for page in pages for room in page.rooms])

    async def channels(self, room: str | None = None) -> tuple[replies.ChannelInfo, ...]:
        """All channels, or a room's, by address, with counts. All pages."""
        pages = self._pages(lambda at: commands.ListChannels(room=room, limit=self._page, after=at), replies.Channels)
        return tuple([channel async for page in pages for channel in page.channels])

    async def room_info(self, room: str) -> replies.RoomInfo:
        """A room with its channels and all its members."""
        found = self._pages(lambda at: commands.ShowRoom(room=room, limit=self._page, after=at), replies.RoomInfo)
        pages = [page async for page in found]
        members = tuple(name for page in pages for name in page.participants or ())
        return msgspec.structs.replace(pages[0], participants=members, next=None)

    async def channel_info(self, channel: str) -> replies.ChannelInfo:
        """A channel with all its members."""
        found = self._pages(
            lambda at: commands.ShowChannel(channel=channel, limit=self._page, after=at), replies.ChannelInfo
        )
        pages = [page async for page in found]
        members = tuple(name for page in pages for name in page.participants or ())
        return msgspec.structs.replace(pages[0], participants=members, next=None)

    async def join(self, place: str) -> replies.Place:
        """Become a durable member of a `room`, or of a `room:channel`; made when absent if the hub allows it.

        Twice is the same as once. Raises `Rejected`: `bad_name`, `not_found` where nothing is made, `limit`.
        """
        command: commands.Command = commands.JoinRoom(room=place)
        if ":" in place:
            command = commands.JoinChannel(channel=place)
        return await self.request(command, replies.Place)

    async def leave(self, place: str) -> replies.Place:
        """Leave a `room` with all its channels, or a `room:channel`. Raises `Rejected(not_found)`."""
        command: commands.Command = commands.LeaveRoom(room=place)
        if ":" in place:
            command = commands.LeaveChannel(channel=place)
        return await self.request(command, replies.Place)

    async def invite(self, place: str, agent: str, *, history: bool = False) -> Membership:
        """Ask an agent into a private `room` or `room:channel` of mine; it joins by itself. history: it will read what
        was said before. Raises `Rejected`: `not_found`, `not_permitted`."""
        return await self.request(InviteMember(place=place, agent=agent, history=history), Membership)

    async def kick(self, place: str, agent: str) -> Membership:
        """Put an agent out of a private `room` or `room:channel`; its leases and lanes of the room end. Raises
        `Rejected`: `not_found`, `not_permitted`."""
        return await self.request(KickMember(place=place, agent=agent), Membership)

    async def create_room(self, room: str, *, kind: str = "room", private: bool = False) -> replies.Place:
        """Create a room with its `general` channel. private: for its members
        only, of which I am the first. Raises `Rejected`: `bad_name`, `already_exists`, `limit`."""
        return await self.request(commands.CreateRoom(room=room, type=kind, private=private), replies.Place)

    async def create_channel(
        self,
        channel: str,
        *,
        kind: str = "channel",
        private: bool = False,
        ephemeral: bool = False,
        schema: str | None = None,
    ) -> replies.Place:
        """Create a channel (`room:channel`) in a room that exists. private: for its own members only.

        ephemeral: what is sent to it is told to who follows it, and not kept; `signal` and `signals`. schema: of an
        ephemeral one, `telemetry` or `typing`; other bodies are refused. Raises `Rejected` as `create_room`,
        `not_found`.
        """
        command = commands.CreateChannel(
            channel=channel, type=kind, private=private, ephemeral=ephemeral, schema=schema
        )
        return await self.request(command, replies.Place)

    async def delete_room(self, room: str) -> replies.Place:
        """Operator: delete a room without members, and its channels. Raises `Rejected`: `not_empty`, `protected`."""
        return await self.request(commands.DeleteRoom(room=room), replies.Place)

    async def delete_channel(self, channel: str) -> replies.Place:
        """Operator: delete a channel that has no members. Raises `Rejected`: `not_empty`, `protected`."""
        return await self.request(commands.DeleteChannel(channel=channel), replies.Place)
