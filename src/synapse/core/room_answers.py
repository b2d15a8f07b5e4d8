"""Rooms and channels as answers show them."""

from typing import TYPE_CHECKING

from msgspec import UNSET

from synapse.core.by import By
from synapse.core.rooms import Channel, Room, knows
from synapse.core.signals import channel_signals, last_number
from synapse.protocol.replies import (
    ChannelInfo,
    RoomInfo,
)

if TYPE_CHECKING:
    from synapse.core.state import State


def room_info(
    state: "State",
    room: Room,
    by: By,
    *,
    channels: tuple[str, ...] | None = None,
    participants: tuple[str, ...] | None = None,
    following: str | None = None,
    cursor: str | None = None,
) -> RoomInfo:
    """A room; without channels and participants in lists."""
    return RoomInfo(
        room=room.name,
        type=room.type,
        bootstrap=room.bootstrap,
        created_at_ms=room.created_at_ms,
        created_by=room.created_by,
        members=len(room.members),
        private=room.private,
        channels_count=sum(
            not there.private or knows(state, there, by) for there in state.rooms.in_room[room.id].values()
        ),
        channels=UNSET if channels is None else channels,
        participants=UNSET if participants is None else participants,
        next=UNSET if participants is None else following,
        cursor=UNSET if cursor is None else cursor,
    )


def channel_info(
    state: "State",
    channel: Channel,
    *,
    participants: tuple[str, ...] | None = None,
    following: str | None = None,
    cursor: str | None = None,
) -> ChannelInfo:
    """A channel; without participants in lists."""
    return ChannelInfo(
        room=state.rooms.by_id[channel.room].name,
        channel=channel.name,
        type=channel.type,
        bootstrap=channel.bootstrap,
        created_at_ms=channel.created_at_ms,
        created_by=channel.created_by,
        members=len(channel.members),
        private=channel.private,
        messages=last_number(state, channel),
        ephemeral=channel.ephemeral,
        schema=channel.schema,
        signals=channel_signals(state, channel) if channel.ephemeral else UNSET,
        participants=UNSET if participants is None else participants,
        next=UNSET if participants is None else following,
        cursor=UNSET if cursor is None else cursor,
    )
