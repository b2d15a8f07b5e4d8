"""Topics: the channels of a room whose names begin so, those that come to exist later included.

A topic is followed by an index key that no event has: what is live is asked which topics a channel is in, and what is
read from disk is read by the keys of the channels that are in a topic now. Both look at the channels that there are, so
both tell the same; what was said in a channel that has been deleted is gone for either. A private channel is in no
topic: it is followed by its name, by its members.
"""

from collections.abc import Collection, Container, Iterable
from typing import TYPE_CHECKING, Final

from synapse.core.by import By
from synapse.core.events import LEASES
from synapse.core.rooms import Channel, floor_of_channel, may_see

if TYPE_CHECKING:
    from synapse.core.state import State

_TOPIC: Final = "to/"
LEASES_OF: Final = "leases/"
"""Begins the key that followers of the leases of one room have."""


def topic_key(room: int, prefix: str) -> str:
    """The key that followers of a topic have."""
    return f"{_TOPIC}{room}/{prefix}"


def is_topic(key: str) -> bool:
    """True for a key of `topic_key`."""
    return key.startswith(_TOPIC)


def split_key(key: str) -> tuple[int, str]:
    """Room id and prefix of a topic's key."""
    room, _, prefix = key.removeprefix(_TOPIC).partition("/")
    return int(room), prefix


def channels_in(state: "State", key: str) -> list[Channel]:
    """The channels that are in a topic now."""
    room, prefix = split_key(key)
    return [
        channel
        for name, channel in state.rooms.in_room.get(room, {}).items()
        if name.startswith(prefix) and not channel.private
    ]


def keys_on_disk(state: "State", keys: Iterable[str]) -> tuple[str, ...]:
    """The keys of these followers under which events stand: topics are taken apart into their channels."""
    found: dict[str, None] = {}
    for key in keys:
        if is_topic(key):
            found.update(dict.fromkeys(f"ch/{channel.id}" for channel in channels_in(state, key)))
        elif key.startswith(LEASES_OF):
            found[LEASES] = None
        else:
            found[key] = None
    return tuple(found)


def lease_keys(state: "State", by: By) -> list[str]:
    """The keys of the leases that who asks may see: of all rooms but private ones, and of each private one; with a
    token for some rooms, of each of them."""
    if by.rooms is not None:
        named = (state.rooms.by_name.get(name) for name in sorted(by.rooms))
        return [f"{LEASES_OF}{room.id}" for room in named if room is not None and may_see(room, by)]
    rooms = (state.rooms.by_id[room] for room in sorted(state.rooms.private))
    return [LEASES, *(f"{LEASES_OF}{room.id}" for room in rooms if may_see(room, by))]


def keys_told(state: "State", keys: Iterable[str]) -> frozenset[str]:
    """The keys of these followers under which `announce` tells them: as on disk, but for the leases of private rooms,
    which stand there under the key of all leases."""
    keys = tuple(keys)
    told = set(keys_on_disk(state, keys)) | {key for key in keys if key.startswith(LEASES_OF)}
    return frozenset(told if LEASES in keys else told - {LEASES})


def floors_of(state: "State", keys: Iterable[str], agent: int | None) -> dict[str, int]:
    """By key, the seq behind which an agent is told of what is private; without those of which it is told all."""
    floors: dict[str, int] = {}
    if agent is None:
        return floors
    for key in keys_told(state, keys):
        noun, _, number = key.partition("/")
        if noun == "ch":
            floors[key] = floor_of_channel(state, state.rooms.channels[int(number)], agent)
        elif noun in ("kv", "pl", "leases") and number:
            floors[key] = state.rooms.by_id[int(number)].after.get(str(agent), 0)
    return {key: floor for key, floor in floors.items() if floor}


def is_followed(state: "State", key: str, taken: Collection[str]) -> bool:
    """True when some channel of `key`, be it there or not yet, is also followed by one of the keys in `taken`."""
    others = [split_key(other) for other in taken if is_topic(other)]
    if is_topic(key):
        room, prefix = split_key(key)
        if any(room == at and prefix.startswith(other[: len(prefix)]) for at, other in others):
            return True
        return any(f"ch/{channel.id}" in taken for channel in channels_in(state, key))
    if key.startswith("ch/"):
        channel = state.rooms.channels[int(key[3:])]
        if not channel.private and any(channel.room == at and channel.name.startswith(other) for at, other in others):
            return True
    return key in taken


class Topics:
    """The topics that somebody follows live, so that a channel's are found without looking at each."""

    def __init__(self) -> None:
        self.lengths: dict[int, dict[int, int]] = {}
        """How many topics of a room have a prefix of that length."""

    def add(self, key: str) -> None:
        """Somebody follows this topic, the first one to do so."""
        room, prefix = split_key(key)
        lengths = self.lengths.setdefault(room, {})
        lengths[len(prefix)] = lengths.get(len(prefix), 0) + 1

    def remove(self, key: str) -> None:
        """Nobody follows this topic any more."""
        room, prefix = split_key(key)
        lengths = self.lengths[room]
        lengths[len(prefix)] -= 1
        if not lengths[len(prefix)]:
            del lengths[len(prefix)]
        if not lengths:
            del self.lengths[room]

    def of(self, channel: Channel | None, live: Container[str]) -> list[str]:
        """The keys of the topics that a channel is in, of those in `live`; none for a channel that is gone."""
        if channel is None or channel.private:
            return []
        name = channel.name
        keys = [topic_key(channel.room, name[:length]) for length in self.lengths.get(channel.room, ())]
        return [key for key in dict.fromkeys(keys) if key in live]
